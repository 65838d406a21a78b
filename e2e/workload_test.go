package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/kubelet"
)

// The namespaces of the workload that dashboards are to show. ending is being deleted.
const (
	shop   = "dash-shop"
	batch  = "dash-batch"
	ending = "dash-ending"
)

// workload is what controllers would make of a Deployment, a StatefulSet and so on; there are none here. Each container
// has another usage and another request.
type workload struct {
	sets []*appsv1.ReplicaSet
	jobs []*batchv1.Job
	pods []*corev1.Pod

	containers int
}

// dashboardWorkload creates the workload once for all tests that show it.
var dashboardWorkload = sync.OnceValue(func() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return newWorkload().create(ctx)
})

// startWorkload returns when the metrics API has usage of the workload.
func startWorkload(t *testing.T) {
	t.Helper()
	if err := dashboardWorkload(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func(ctx context.Context) error {
		reading, err := check.Read(ctx, plane)
		if err != nil {
			return err
		}
		running, shown := 0, 0
		for _, pod := range reading.Metadata {
			if isDashboards(pod.Namespace) && kubelet.Running(pod) > 0 {
				running++
			}
		}
		for _, pod := range reading.Pods {
			if isDashboards(pod.Namespace) {
				shown++
			}
		}
		if running == 0 || shown != running {
			return fmt.Errorf("the metrics API has usage of %d of the workload's %d pods that run", shown, running)
		}
		return nil
	})
}

func isDashboards(namespace string) bool {
	return namespace == shop || namespace == batch || namespace == ending
}

func newWorkload() *workload {
	w := &workload{}

	// A Deployment in the middle of a rollout, and a ReplicaSet that somebody made by hand.
	w.set("web-7d9c8b6f5", owner("Deployment", "web"))
	w.set("web-5f6b7c8d9", owner("Deployment", "web"))
	w.set("by-hand-abc")
	for i, node := range []string{"node-0", "node-1", "node-2"} {
		pod := w.pod(shop, fmt.Sprint("web-7d9c8b6f5-", i), node, owner("ReplicaSet", "web-7d9c8b6f5"))
		pod.Labels = map[string]string{"app": "web", "pod-template-hash": "7d9c8b6f5"}
		pod.Spec.PriorityClassName = "high"
		w.container(pod, "app")
		sidecar := w.container(pod, "proxy")
		sidecar.Resources.Limits = corev1.ResourceList{"example.test/gpu": resource.MustParse("1"),
			"hugepages-2Mi": resource.MustParse("8Mi"), corev1.ResourceCPU: resource.MustParse("1500m")}
		sidecar.Resources.Requests = corev1.ResourceList{"example.test/gpu": resource.MustParse("1"),
			"hugepages-2Mi": resource.MustParse("8Mi"), corev1.ResourceCPU: resource.MustParse("250m"),
			corev1.ResourceEphemeralStorage: resource.MustParse("1Gi")}
	}
	old := w.pod(shop, "web-5f6b7c8d9-0", "node-0", owner("ReplicaSet", "web-5f6b7c8d9"))
	old.Labels = map[string]string{"app": "web", "pod-template-hash": "5f6b7c8d9"}
	w.container(old, "app")
	w.container(w.pod(shop, "by-hand-abc-0", "node-1", owner("ReplicaSet", "by-hand-abc")), "app")

	// One of two owners controls it.
	second := owner("Backup", "nightly")
	second.Controller = nil
	database := w.pod(shop, "db-0", "node-2", owner("StatefulSet", "db"), second)
	database.Labels = map[string]string{"app": "db"}
	same := w.container(database, "postgres") // guaranteed quality of service
	same.Resources.Limits = same.Resources.Requests
	for i := range nodes {
		agent := w.pod(shop, fmt.Sprint("agent-", i), fmt.Sprint("node-", i), owner("DaemonSet", "agent"))
		agent.Spec.HostNetwork = true
		w.container(agent, "agent")
	}
	w.container(w.pod(shop, "bare", "node-0"), "shell").Resources = corev1.ResourceRequirements{}
	w.container(w.pod(shop, "static-node-1", "node-1", owner("Node", "node-1")), "static")
	always := corev1.ContainerRestartPolicyAlways
	prepared := w.pod(shop, "prepared", "node-2")
	w.container(prepared, "app")
	prepared.Spec.InitContainers = []corev1.Container{
		{Name: "prepare", Image: "example.test/prepare"},
		{Name: "mesh", Image: "example.test/mesh", RestartPolicy: &always},
	}
	prepared.Annotations[kubelet.CPUAnnotation+"mesh"] = "44m"
	w.container(w.pod(shop, "crashing", "node-0"), "app")
	w.container(w.pod(shop, "evicted", "node-0"), "app")
	w.container(w.pod(shop, "waiting", ""), "app")

	w.job("nightly-29012345", owner("CronJob", "nightly"))
	w.job("import")
	w.container(w.pod(batch, "nightly-29012345-x", "node-1", owner("Job", "nightly-29012345")), "dump")
	w.container(w.pod(batch, "import-x", "node-2", owner("Job", "import")), "import")
	w.container(w.pod(batch, "finished", "node-2", owner("Job", "import")), "import")
	w.container(w.pod(ending, "last", "node-0"), "app")
	return w
}

func owner(kind, name string) metav1.OwnerReference {
	is := true
	return metav1.OwnerReference{APIVersion: "e2e.test/v1", Kind: kind, Name: name, Controller: &is,
		UID: types.UID("uid-of-" + name)}
}

func (w *workload) set(name string, owners ...metav1.OwnerReference) {
	labels := map[string]string{"of": name}
	w.sets = append(w.sets, &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: name, OwnerReferences: owners},
		Spec:       appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels)},
	})
}

func (w *workload) job(name string, owners ...metav1.OwnerReference) {
	pod := template(nil)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	w.jobs = append(w.jobs, &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: batch, Name: name, OwnerReferences: owners},
		Spec:       batchv1.JobSpec{Template: pod},
	})
}

func template(labels map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "example.test/app"}}}}
}

func (w *workload) pod(namespace, name, node string, owners ...metav1.OwnerReference) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, OwnerReferences: owners,
			Annotations: map[string]string{}},
		Spec: corev1.PodSpec{NodeName: node},
	}
	w.pods = append(w.pods, pod)
	return pod
}

func (w *workload) container(pod *corev1.Pod, name string) *corev1.Container {
	w.containers++
	n := int64(w.containers)
	pod.Annotations[kubelet.CPUAnnotation+name] = fmt.Sprintf("%dm", 20+13*n)
	pod.Annotations[kubelet.MemoryAnnotation+name] = fmt.Sprintf("%dKi", 51200+4321*n)
	pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{
		Name: name, Image: "registry.example.test/" + name + ":1.2",
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(10+11*n, resource.DecimalSI),
				corev1.ResourceMemory: *resource.NewQuantity((40+3*n)<<20, resource.BinarySI)},
			Limits: corev1.ResourceList{corev1.ResourceMemory: *resource.NewQuantity((160+5*n)<<20, resource.BinarySI)},
		},
	})
	return &pod.Spec.Containers[len(pod.Spec.Containers)-1]
}

func (w *workload) create(ctx context.Context) error {
	client := plane.Admin
	if err := plane.CreateNamespaces(ctx, "", shop, batch, ending); err != nil {
		return err
	}
	for _, set := range w.sets {
		if _, err := client.AppsV1().ReplicaSets(set.Namespace).Create(ctx, set, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	for _, job := range w.jobs {
		if _, err := client.BatchV1().Jobs(job.Namespace).Create(ctx, job, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	for _, pod := range w.pods {
		if _, err := client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return finish(ctx)
}

// finish brings the pods to the states that they are to be shown in, once KWOK has made them run.
func finish(ctx context.Context) error {
	for _, namespace := range []string{shop, batch, ending} {
		if err := plane.AwaitRunning(ctx, namespace); err != nil {
			return err
		}
	}
	for _, change := range []struct {
		namespace, pod string
		status         func(*corev1.PodStatus)
	}{
		{shop, "crashing", func(s *corev1.PodStatus) {
			container := &s.ContainerStatuses[0]
			container.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137}
			container.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
			container.RestartCount, container.Ready = 7, false
			for i := range s.Conditions {
				s.Conditions[i].Status = corev1.ConditionFalse
			}
		}},
		{shop, "evicted", func(s *corev1.PodStatus) {
			s.Phase, s.ContainerStatuses[0] = corev1.PodFailed, terminated(s.ContainerStatuses[0], "Error", 1)
		}},
		{batch, "finished", func(s *corev1.PodStatus) {
			s.Phase, s.ContainerStatuses[0] = corev1.PodSucceeded, terminated(s.ContainerStatuses[0], "Completed", 0)
		}},
		{shop, "static-node-1", func(s *corev1.PodStatus) { s.ContainerStatuses[0].Image = "mirror.example.test/static:1" }},
		{shop, "db-0", func(s *corev1.PodStatus) { s.ContainerStatuses[0].Image = "" }},
		{shop, "bare", func(s *corev1.PodStatus) {
			s.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "debugger", Image: "example.test/debugger",
				ContainerID: "containerd://debugger-1",
				State:       corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}}
		}},
	} {
		pods := plane.Admin.CoreV1().Pods(change.namespace)
		pod, err := pods.Get(ctx, change.pod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if change.pod == "bare" {
			debugger := corev1.EphemeralContainerCommon{Name: "debugger", Image: "example.test/debugger"}
			pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: debugger}}
			if pod, err = pods.UpdateEphemeralContainers(ctx, pod.Name, pod, metav1.UpdateOptions{}); err != nil {
				return err
			}
		}
		change.status(&pod.Status)
		if _, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}

	// What the quota's controller would write.
	quotas := plane.Admin.CoreV1().ResourceQuotas(batch)
	hard := corev1.ResourceList{"requests.cpu": resource.MustParse("2500m"), corev1.ResourcePods: resource.MustParse("20"),
		"limits.memory": resource.MustParse("4Gi")}
	quota, err := quotas.Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "batch"},
		Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	quota.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: corev1.ResourceList{
		"requests.cpu": resource.MustParse("750m"), corev1.ResourcePods: resource.MustParse("3"),
		"limits.memory": resource.MustParse("1Gi")}}
	if _, err := quotas.UpdateStatus(ctx, quota, metav1.UpdateOptions{}); err != nil {
		return err
	}
	// Nobody ends the deletion: that would be the namespace controller.
	return plane.Admin.CoreV1().Namespaces().Delete(ctx, ending, metav1.DeleteOptions{})
}

func terminated(status corev1.ContainerStatus, reason string, code int32) corev1.ContainerStatus {
	status.Ready = false
	status.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code}}
	return status
}
