package controlplane

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"metrics-server-prom/e2e/kubelet"
	"metrics-server-prom/e2e/process"
)

var apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}

const metricsAPIService = "v1beta1.metrics.k8s.io"

// InstallMetricsAPI registers metrics.k8s.io with the aggregator, as metrics-server's manifests do; whether
// metrics-server runs is another matter. The Service is an ExternalName for localhost, since there is no cluster
// network.
func (c *ControlPlane) InstallMetricsAPI(ctx context.Context) error {
	_, err := c.ApplyYAML(ctx, []byte(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: metrics-server, namespace: kube-system}
spec:
  type: ExternalName
  externalName: localhost
  ports: [{port: %[1]d}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: %[2]s}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  service: {name: metrics-server, namespace: kube-system, port: %[1]d}
  caBundle: %[3]s
`, c.ports.metricsAPI, metricsAPIService, base64.StdEncoding.EncodeToString(c.ca.pem))))
	return err
}

// UninstallMetricsAPI takes the registration away, as in a cluster that never had a metrics-server, and returns when
// the API server has noticed: metrics.k8s.io is answered with 404.
func (c *ControlPlane) UninstallMetricsAPI(ctx context.Context) error {
	client, err := dynamic.NewForConfig(c.config)
	if err != nil {
		return err
	}
	if err := client.Resource(apiServices).Delete(ctx, metricsAPIService, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return process.Await(ctx, 50*time.Millisecond, func(ctx context.Context) error {
		status := 0
		c.Admin.Discovery().RESTClient().Get().AbsPath("/apis/metrics.k8s.io/v1beta1/nodes").Do(ctx).StatusCode(&status)
		if status != 404 {
			return fmt.Errorf("metrics.k8s.io still answers, with %d", status)
		}
		return nil
	})
}

// metricsAPIAvailable succeeds when the aggregator has found metrics-server and passes requests on to it.
func (c *ControlPlane) metricsAPIAvailable(ctx context.Context) error {
	client, err := dynamic.NewForConfig(c.config)
	if err != nil {
		return err
	}
	service, err := client.Resource(apiServices).Get(ctx, metricsAPIService, metav1.GetOptions{})
	if err != nil {
		return err
	}
	conditions, _, err := unstructured.NestedSlice(service.Object, "status", "conditions")
	if err != nil {
		return err
	}
	for _, condition := range conditions {
		if fields, ok := condition.(map[string]any); ok && fields["type"] == "Available" && fields["status"] == "True" {
			_, err := c.NodeMetrics(ctx)
			return err
		}
	}
	return fmt.Errorf("APIService %s is not available: %v", metricsAPIService, conditions)
}

// Pods is one list of all pods.
func (c *ControlPlane) Pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := c.Admin.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// PodMetrics is one list of the metrics API, of all namespaces, decoded by Kubernetes' own types.
func (c *ControlPlane) PodMetrics(ctx context.Context) ([]metricsv1beta1.PodMetrics, error) {
	list, err := c.Metrics.MetricsV1beta1().PodMetricses("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// NodeMetrics is one list of the metrics API.
func (c *ControlPlane) NodeMetrics(ctx context.Context) ([]metricsv1beta1.NodeMetrics, error) {
	list, err := c.Metrics.MetricsV1beta1().NodeMetricses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// AwaitUsage returns when the metrics API has usage for every node and every pod of the cluster that runs: two to three
// metric resolutions after the last was created.
func (c *ControlPlane) AwaitUsage(ctx context.Context) error {
	nodes, err := c.Admin.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	pods, err := c.Admin.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	containers, running := 0, 0
	for i := range pods.Items {
		if n := kubelet.Running(&pods.Items[i]); n > 0 {
			running++
			containers += n
		}
	}
	// metrics-server's own count first: lists of a large cluster would keep the API server from its work.
	err = process.Await(ctx, 250*time.Millisecond, func(ctx context.Context) error {
		storedNodes, storedContainers, err := c.storedUsage(ctx)
		if err != nil {
			return err
		}
		if storedNodes != len(nodes.Items) || storedContainers != containers {
			return fmt.Errorf("metrics-server has usage of %d of %d nodes and %d of %d containers", storedNodes,
				len(nodes.Items), storedContainers, containers)
		}
		return nil
	})
	if err != nil {
		return err
	}
	nodeMetrics, err := c.NodeMetrics(ctx)
	if err != nil {
		return err
	}
	podMetrics, err := c.PodMetrics(ctx)
	if err != nil {
		return err
	}
	if len(nodeMetrics) != len(nodes.Items) || len(podMetrics) != running {
		return fmt.Errorf("the metrics API lists %d of %d nodes and %d of %d pods", len(nodeMetrics), len(nodes.Items),
			len(podMetrics), running)
	}
	return nil
}

// AwaitPodUsage returns when the metrics API has usage for this pod.
func (c *ControlPlane) AwaitPodUsage(ctx context.Context, namespace, name string) error {
	return process.Await(ctx, 500*time.Millisecond, func(ctx context.Context) error {
		_, err := c.Metrics.MetricsV1beta1().PodMetricses(namespace).Get(ctx, name, metav1.GetOptions{})
		return err
	})
}
