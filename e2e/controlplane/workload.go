package controlplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"metrics-server-prom/e2e/kubelet"
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
		_, err := c.Admin.CoreV1().Nodes().Create(ctx, node(i), metav1.CreateOptions{})
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
	namespaces := map[string]bool{}
	for _, pod := range pods {
		namespaces[pod.Namespace] = true
	}
	err := each(len(pods), func(i int) error {
		_, err := c.Admin.CoreV1().Pods(pods[i].Namespace).Create(ctx, pods[i].object(), metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	for namespace := range namespaces {
		if err := c.AwaitRunning(ctx, namespace); err != nil {
			return err
		}
	}
	return nil
}

// node is the node as its kubelet registers it. KWOK adds its address and its conditions.
func node(i int) *corev1.Node {
	name, role := fmt.Sprintf("node-%d", i), "worker"
	if i == 0 {
		role = "control-plane"
	}
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("16"), corev1.ResourceMemory: resource.MustParse("64Gi"),
		corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceEphemeralStorage: resource.MustParse("200Gi"),
		"hugepages-2Mi": resource.MustParse("1Gi"), "example.test/gpu": resource.MustParse("4"),
	}
	allocatable := maps.Clone(capacity)
	allocatable[corev1.ResourceCPU] = *resource.NewMilliQuantity(15_890-int64(i), resource.DecimalSI)
	allocatable[corev1.ResourceMemory] = resource.MustParse("62Gi")
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: name,
			// Where the one server of all kubelets has this node's metrics.
			Annotations: map[string]string{"metrics.k8s.io/resource-metrics-path": "/metrics/nodes/" + name +
				"/metrics/resource"},
			Labels: map[string]string{"kubernetes.io/hostname": name, "node-role.kubernetes.io/" + role: ""},
		},
		Spec: corev1.NodeSpec{ProviderID: "e2e:///zone/" + name, PodCIDR: fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)},
		Status: corev1.NodeStatus{
			Capacity: capacity, Allocatable: allocatable,
			NodeInfo: corev1.NodeSystemInfo{
				MachineID: "machine-" + name, SystemUUID: "system-" + name, BootID: "boot-" + name,
				KernelVersion: "6.1.0", OSImage: "Distribution 12 (\"e2e\")", ContainerRuntimeVersion: "containerd://2.1.0",
				KubeletVersion: "v1.37.2", OperatingSystem: "linux", Architecture: "amd64",
			},
		},
	}
}

// AwaitRunning returns when all pods of a namespace run, but for those that have no node.
func (c *ControlPlane) AwaitRunning(ctx context.Context, namespace string) error {
	return process.Await(ctx, 100*time.Millisecond, func(ctx context.Context) error {
		waiting, err := c.Admin.CoreV1().Pods(namespace).List(ctx,
			metav1.ListOptions{FieldSelector: "status.phase!=Running,spec.nodeName!=", Limit: 1})
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
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, kubelet.MemoryAnnotation+container, memory)
	_, err := c.Admin.CoreV1().Pods(namespace).Patch(ctx, pod, types.MergePatchType, []byte(patch),
		metav1.PatchOptions{})
	return err
}

// RestartContainer gives a pod's container, by its place among them, the status that a kubelet gives one that was
// killed for its memory and started anew; its usage begins at 0 again.
func (c *ControlPlane) RestartContainer(ctx context.Context, namespace, pod string, container int) error {
	object, err := c.Admin.CoreV1().Pods(namespace).Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		return err
	}
	status, now := &object.Status.ContainerStatuses[container], metav1.Now()
	status.LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: 137, Reason: "OOMKilled", StartedAt: status.State.Running.StartedAt, FinishedAt: now,
		ContainerID: status.ContainerID,
	}}
	status.RestartCount++
	status.ContainerID = fmt.Sprintf("containerd://%s-%s-%d", object.UID, status.Name, status.RestartCount)
	status.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}
	_, err = c.Admin.CoreV1().Pods(namespace).UpdateStatus(ctx, object, metav1.UpdateOptions{})
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
		object.Annotations[kubelet.CPUAnnotation+container.Name] = container.CPU
		object.Annotations[kubelet.MemoryAnnotation+container.Name] = container.Memory
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
