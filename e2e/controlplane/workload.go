package controlplane

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"metrics-server-prom/e2e/process"
)

// Pod is a pod to create. There is no scheduler: it names its node.
type Pod struct {
	Namespace, Name, Node string
	Labels                map[string]string
	Containers            []Container
}

// Container is a container and what it uses, for as long as it runs.
type Container struct {
	Name        string
	CPU, Memory string // quantities: cores and bytes
}

// creators is how many pods or nodes are created at once.
const creators = 64

// CreateNamespaces creates namespaces; those that exist are left alone. The label enforces a Pod Security level
// ("restricted"), "" none.
func (c *ControlPlane) CreateNamespaces(ctx context.Context, podSecurity string, names ...string) error {
	for _, name := range names {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if podSecurity != "" {
			namespace.Labels = map[string]string{"pod-security.kubernetes.io/enforce": podSecurity}
		}
		if _, err := c.Admin.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil &&
			!apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

// CreateNodes creates the nodes node-0 to node-(n-1) and returns when KWOK has made all of them ready.
func (c *ControlPlane) CreateNodes(ctx context.Context, n int) error {
	err := each(n, func(i int) error {
		name := fmt.Sprintf("node-%d", i)
		_, err := c.Admin.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name: name,
			// Where KWOK's one server has this node's kubelet metrics.
			Annotations: map[string]string{"metrics.k8s.io/resource-metrics-path": "/metrics/nodes/" + name +
				"/metrics/resource"},
			Labels: map[string]string{"kubernetes.io/hostname": name},
		}}, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	return process.Await(ctx, 200*time.Millisecond, func(ctx context.Context) error {
		nodes, err := c.Admin.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return err
		}
		ready := 0
		for _, node := range nodes.Items {
			for _, condition := range node.Status.Conditions {
				if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		if ready < n {
			return fmt.Errorf("%d of %d nodes are ready", ready, n)
		}
		return nil
	})
}

// CreatePods creates the pods, 64 at a time, and returns when all of them run and have an address. Their namespaces
// must exist.
func (c *ControlPlane) CreatePods(ctx context.Context, pods ...Pod) error {
	namespaces, byNode := map[string]bool{}, map[string][]Pod{}
	for _, pod := range pods {
		namespaces[pod.Namespace] = true
		byNode[pod.Node] = append(byNode[pod.Node], pod)
	}
	err := each(len(pods), func(i int) error {
		_, err := c.Admin.CoreV1().Pods(pods[i].Namespace).Create(ctx, pods[i].object(), metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	for namespace := range namespaces {
		if err := c.awaitRunning(ctx, namespace); err != nil {
			return err
		}
	}
	for node, pods := range byNode {
		if err := c.startUsage(ctx, node, pods); err != nil {
			return err
		}
	}
	return nil
}

// startUsage makes KWOK count the CPU seconds of new containers. It counts from the first time that it is asked, and
// metrics-server takes no notice of a container at 0; to be asked now saves the wait for metrics-server's next reading.
func (c *ControlPlane) startUsage(ctx context.Context, node string, pods []Pod) error {
	return process.Await(ctx, 50*time.Millisecond, func(ctx context.Context) error {
		text, err := get(ctx, c.loopbackClient(), c.kubeletURL("/metrics/nodes/"+node+"/metrics/resource"))
		if err != nil {
			return err
		}
		for _, pod := range pods {
			if !strings.Contains(text, `namespace="`+pod.Namespace+`",pod="`+pod.Name+`"`) {
				return fmt.Errorf("the kubelet of %s has no usage of pod %s/%s", node, pod.Namespace, pod.Name)
			}
		}
		return nil
	})
}

func (c *ControlPlane) awaitRunning(ctx context.Context, namespace string) error {
	return process.Await(ctx, 100*time.Millisecond, func(ctx context.Context) error {
		waiting, err := c.Admin.CoreV1().Pods(namespace).List(ctx,
			metav1.ListOptions{FieldSelector: "status.phase!=Running", Limit: 1})
		if err != nil {
			return err
		}
		if len(waiting.Items) > 0 {
			pod := waiting.Items[0]
			return fmt.Errorf("pod %s/%s is %s", namespace, pod.Name, pod.Status.Phase)
		}
		return nil
	})
}

// SetMemory changes what a pod's container uses, from the next reading of its kubelet on.
func (c *ControlPlane) SetMemory(ctx context.Context, namespace, pod, container, memory string) error {
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, memoryAnnotation+container, memory)
	_, err := c.Admin.CoreV1().Pods(namespace).Patch(ctx, pod, types.MergePatchType, []byte(patch),
		metav1.PatchOptions{})
	return err
}

// DeletePod deletes a pod at once and returns when it is gone from the API.
func (c *ControlPlane) DeletePod(ctx context.Context, namespace, name string) error {
	now := int64(0)
	if err := c.Admin.CoreV1().Pods(namespace).Delete(ctx, name,
		metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		return err
	}
	return process.Await(ctx, 50*time.Millisecond, func(ctx context.Context) error {
		_, err := c.Admin.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("pod %s/%s is still there", namespace, name))
	})
}

func (p Pod) object() *corev1.Pod {
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels,
			Annotations: map[string]string{}},
		Spec: corev1.PodSpec{NodeName: p.Node},
	}
	for _, container := range p.Containers {
		object.Spec.Containers = append(object.Spec.Containers,
			corev1.Container{Name: container.Name, Image: "example.test/" + container.Name})
		object.Annotations[cpuAnnotation+container.Name] = container.CPU
		object.Annotations[memoryAnnotation+container.Name] = container.Memory
	}
	return object
}

// each calls f with 0 to n-1, a number of them at once, and returns the errors.
func each(n int, f func(int) error) error {
	var (
		group sync.WaitGroup
		mutex sync.Mutex
		errs  []error
		next  = make(chan int)
	)
	for range min(n, creators) {
		group.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					mutex.Lock()
					errs = append(errs, err)
					mutex.Unlock()
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
	return errors.Join(errs...)
}
