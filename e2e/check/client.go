package check

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metrics "k8s.io/metrics/pkg/client/clientset/versioned"
)

// client is an API behind an API server.
type client struct {
	core  *kubernetes.Clientset
	usage *metrics.Clientset
}

// Client is the API of a server.
func Client(config *rest.Config) (API, error) {
	core, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	usage, err := metrics.NewForConfig(config)
	return client{core, usage}, err
}

func (c client) Pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := c.core.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func (c client) NodeMetrics(ctx context.Context) ([]metricsv1beta1.NodeMetrics, error) {
	list, err := c.usage.MetricsV1beta1().NodeMetricses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func (c client) PodMetrics(ctx context.Context) ([]metricsv1beta1.PodMetrics, error) {
	list, err := c.usage.MetricsV1beta1().PodMetricses("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}
