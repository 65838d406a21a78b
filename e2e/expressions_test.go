package e2e

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/kubelet"
)

// expression is one of our own that asks for what a reader of the pages asks for: the same metrics, selectors, join
// keys and labels. $cadvisor and $state stand for the selectors of the two pages' jobs.
type expression struct {
	reader, query string
	want          func(*world, answer)
	within        float64 // share by which values may differ; rates of counters that change every 15 s are no better
}

// answer is what an expression is to give, by exporter.Series' text.
type answer map[string]float64

// add adds to the value of a series, whose labels are names and values in turn. An empty label is none.
func (a answer) add(value float64, labels ...string) {
	set := map[string]string{}
	for i := 0; i < len(labels); i += 2 {
		if labels[i+1] != "" {
			set[labels[i]] = labels[i+1]
		}
	}
	a[exporter.Series("", set)] += value
}

// world is what the API server says about the workload, and what its containers use.
type world struct {
	*check.Objects
	usage []metricsv1beta1.PodMetrics
}

// each calls f for each container of the workload that has usage.
func (w *world) each(f func(pod *corev1.Pod, container string, cpu, memory float64)) {
	for _, metrics := range w.usage {
		pod := w.pod(metrics.Namespace, metrics.Name)
		if pod == nil {
			continue
		}
		for _, container := range metrics.Containers {
			f(pod, container.Name, w.rate(pod, container.Name), check.Number(container.Usage[corev1.ResourceMemory]))
		}
	}
}

func (w *world) pod(namespace, name string) *corev1.Pod {
	for i := range w.Pods {
		if w.Pods[i].Namespace == namespace && w.Pods[i].Name == name {
			return &w.Pods[i]
		}
	}
	return nil
}

// rateOver is the range of the rates below.
const rateOver = time.Minute

// rate is how many cores a container has really used in the minute before metrics-server's last reading, or about that.
func (w *world) rate(pod *corev1.Pod, container string) float64 {
	for _, status := range kubelet.Statuses(pod) {
		if status.Name == container {
			until := time.Now().Add(-8 * time.Second)
			from, _ := plane.Kubelet.CPU(kubelet.ID(status), until.Add(-rateOver))
			to, _ := plane.Kubelet.CPU(kubelet.ID(status), until)
			return (to - from) / rateOver.Seconds()
		}
	}
	return 0
}

// resources calls f for each request (or limit) of the workload's containers.
func (w *world) resources(limits bool, f func(pod *corev1.Pod, container string, name corev1.ResourceName,
	value float64)) {
	for i := range w.Pods {
		for _, container := range w.Pods[i].Spec.Containers {
			list := container.Resources.Requests
			if limits {
				list = container.Resources.Limits
			}
			for name, quantity := range list {
				f(&w.Pods[i], container.Name, name, check.Number(quantity))
			}
		}
	}
}

// active says whether a pod holds what it requests.
func active(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodPending || pod.Status.Phase == corev1.PodRunning
}

// controller is the kind and name of what controls an object, which may be nothing.
func controller(object metav1.Object) (kind, name string) {
	if owner := metav1.GetControllerOf(object); owner != nil {
		return owner.Kind, owner.Name
	}
	return "", ""
}

// setOwner is the controller of a ReplicaSet.
func (w *world) setOwner(namespace, name string) (kind, owner string) {
	for i := range w.ReplicaSets {
		if w.ReplicaSets[i].Namespace == namespace && w.ReplicaSets[i].Name == name {
			return controller(&w.ReplicaSets[i])
		}
	}
	return "", ""
}

// ours selects the workload; the other tests' pods come and go.
const ours = `namespace=~"dash-.*"`

// podNode is what usage is joined with to get the node of a pod, as rules do.
const podNode = `on (namespace, pod) group_left (node) topk by (namespace, pod) (1, ` +
	`max by (namespace, pod, node) (kube_pod_info{node!="",$state}))`

// isActive keeps the pods that hold what they request.
const isActive = `on (namespace, pod) group_left () max by (namespace, pod) (` +
	`kube_pod_status_phase{phase=~"Pending|Running",$state} == 1)`

var expressions = []expression{
	// kubernetes-mixin: rules.
	{
		reader: "mixin, CPU of each container with its node",
		query: `sum by (namespace, pod, container) (rate(container_cpu_usage_seconds_total{$cadvisor,image!="",` + ours +
			`}[1m])) * ` + podNode,
		want: func(w *world, a answer) {
			w.each(func(pod *corev1.Pod, container string, cpu, _ float64) {
				a.add(cpu, "namespace", pod.Namespace, "pod", pod.Name, "container", container, "node", pod.Spec.NodeName)
			})
		},
		within: 0.4,
	},
	{
		reader: "mixin, memory of each container with its node",
		query: `max by (namespace, pod, container) (container_memory_working_set_bytes{$cadvisor,image!="",` + ours +
			`}) * ` + podNode,
		want: func(w *world, a answer) {
			w.each(func(pod *corev1.Pod, container string, _, memory float64) {
				a.add(memory, "namespace", pod.Namespace, "pod", pod.Name, "container", container, "node", pod.Spec.NodeName)
			})
		},
	},
	{
		reader: "mixin, memory requests of the pods that hold them, by namespace",
		query: `sum by (namespace) (sum by (namespace, pod) (max by (namespace, pod, container) (` +
			`kube_pod_container_resource_requests{resource="memory",$state,` + ours + `}) * ` + isActive + `))`,
		want: func(w *world, a answer) {
			w.resources(false, func(pod *corev1.Pod, _ string, name corev1.ResourceName, value float64) {
				if name == corev1.ResourceMemory && active(pod) {
					a.add(value, "namespace", pod.Namespace)
				}
			})
		},
	},
	{
		reader: "mixin, CPU limits of the pods that hold them",
		query:  `kube_pod_container_resource_limits{resource="cpu",$state,` + ours + `} * ` + isActive,
		want: func(w *world, a answer) {
			w.resources(true, func(pod *corev1.Pod, container string, name corev1.ResourceName, value float64) {
				if name == corev1.ResourceCPU && active(pod) {
					a.add(value, "namespace", pod.Namespace, "pod", pod.Name, "uid", string(pod.UID), "container", container,
						"node", pod.Spec.NodeName, "resource", "cpu", "unit", "core")
				}
			})
		},
	},
	{
		reader: "mixin, Deployments of pods by their ReplicaSets",
		query: `max by (namespace, workload, pod) (label_replace(label_replace(` +
			`kube_pod_owner{$state,owner_kind="ReplicaSet",` + ours + `}, "replicaset", "$1", "owner_name", "(.*)") ` +
			`* on (replicaset, namespace) group_left (owner_name) topk by (replicaset, namespace) (1, ` +
			`max by (replicaset, namespace, owner_name) (kube_replicaset_owner{$state,owner_kind="Deployment"})), ` +
			`"workload", "$1", "owner_name", "(.*)"))`,
		want: func(w *world, a answer) {
			for i := range w.Pods {
				if kind, set := controller(&w.Pods[i]); kind == "ReplicaSet" {
					if kind, workload := w.setOwner(w.Pods[i].Namespace, set); kind == "Deployment" {
						a.add(1, "namespace", w.Pods[i].Namespace, "pod", w.Pods[i].Name, "workload", workload)
					}
				}
			}
		},
	},
	{
		reader: "mixin, ReplicaSets that nothing controls",
		query: `max by (namespace, workload, pod) (label_replace(label_replace(` +
			`kube_pod_owner{$state,owner_kind="ReplicaSet",` + ours + `}, "replicaset", "$1", "owner_name", "(.*)") ` +
			`* on (replicaset, namespace) group_left (owner_kind) topk by (replicaset, namespace) (1, ` +
			`max by (replicaset, namespace, owner_kind) (kube_replicaset_owner{$state,owner_kind=""})), ` +
			`"workload", "$1", "replicaset", "(.*)"))`,
		want: func(w *world, a answer) {
			for i := range w.Pods {
				if kind, set := controller(&w.Pods[i]); kind == "ReplicaSet" {
					if kind, _ := w.setOwner(w.Pods[i].Namespace, set); kind == "" {
						a.add(1, "namespace", w.Pods[i].Namespace, "pod", w.Pods[i].Name, "workload", set)
					}
				}
			}
		},
	},
	{
		reader: "mixin, the other controllers, static pods and bare pods",
		query: `count by (namespace, pod, owner_kind, owner_name) (kube_pod_owner{$state,` +
			`owner_kind=~"DaemonSet|StatefulSet|Job|Node|",` + ours + `})`,
		want: func(w *world, a answer) {
			for i := range w.Pods {
				kind, name := controller(&w.Pods[i])
				if strings.Contains("DaemonSet StatefulSet Job Node", kind) {
					a.add(1, "namespace", w.Pods[i].Namespace, "pod", w.Pods[i].Name, "owner_kind", kind, "owner_name", name)
				}
			}
		},
	},
	{
		reader: "mixin and KRR, CronJobs of pods by their Jobs",
		query: `max by (namespace, pod, cronjob) (label_replace(label_replace(` +
			`kube_pod_owner{$state,owner_kind="Job",` + ours + `}, "job_name", "$1", "owner_name", "(.*)") ` +
			`* on (job_name, namespace) group_left (owner_name) kube_job_owner{$state,owner_kind="CronJob"}, ` +
			`"cronjob", "$1", "owner_name", "(.*)"))`,
		want: func(_ *world, a answer) {
			a.add(1, "namespace", batch, "pod", "nightly-29012345-x", "cronjob", "nightly")
		},
	},
	{
		reader: "mixin, memory of a workload's pods by an owner's name",
		query: `sum by (owner_name) (container_memory_working_set_bytes{$cadvisor,container!="",image!="",` + ours +
			`} * on (namespace, pod) group_left (owner_name) kube_pod_owner{$state,owner_kind="DaemonSet"})`,
		want: func(w *world, a answer) {
			w.each(func(pod *corev1.Pod, _ string, _, memory float64) {
				if kind, name := controller(pod); kind == "DaemonSet" {
					a.add(memory, "owner_name", name)
				}
			})
		},
	},

	// kubernetes-mixin: dashboards and alerts.
	{
		reader: "mixin, drop-down of namespaces",
		query:  `count by (namespace) (kube_namespace_status_phase{$state,` + ours + `})`,
		want: func(w *world, a answer) {
			for _, namespace := range w.Namespaces {
				if isDashboards(namespace.Name) {
					a.add(2, "namespace", namespace.Name)
				}
			}
		},
	},
	{
		reader: "mixin, namespaces by phase",
		query:  `max by (namespace, phase) (kube_namespace_status_phase{$state,` + ours + `}) == 1`,
		want: func(_ *world, a answer) {
			for namespace, phase := range map[string]string{shop: "Active", batch: "Active", ending: "Terminating"} {
				a.add(1, "namespace", namespace, "phase", phase)
			}
		},
	},
	{
		reader: "mixin, share of a node's memory that is requested",
		query: `sum by (node) (kube_pod_container_resource_requests{$state,resource="memory",node!="",` + ours +
			`}) / on (node) kube_node_status_allocatable{$state,resource="memory"}`,
		want: func(w *world, a answer) {
			w.resources(false, func(pod *corev1.Pod, _ string, name corev1.ResourceName, value float64) {
				if name == corev1.ResourceMemory && pod.Spec.NodeName != "" {
					a.add(value/w.allocatable(pod.Spec.NodeName, name), "node", pod.Spec.NodeName)
				}
			})
		},
		within: 1e-9, // the division of the sum, and the sum of divisions
	},
	{
		reader: "mixin, CPU that is left when the largest node fails",
		query: `sum(kube_node_status_allocatable{$state,resource="cpu"}) - ` +
			`max(kube_node_status_allocatable{$state,resource="cpu"})`,
		want: func(w *world, a answer) {
			largest := 0.0
			for _, node := range w.Nodes {
				value := w.allocatable(node.Name, corev1.ResourceCPU)
				largest = max(largest, value)
				a.add(value)
			}
			a.add(-largest)
		},
		within: 1e-9,
	},
	{
		reader: "mixin, capacity by role",
		query: `sum by (role) (kube_node_status_capacity{$state,resource="cpu"} * on (node) group_left (role) ` +
			`kube_node_role{$state})`,
		want: func(w *world, a answer) {
			for _, node := range w.Nodes {
				role := "worker"
				if node.Name == "node-0" {
					role = "control-plane"
				}
				a.add(check.Number(node.Status.Capacity[corev1.ResourceCPU]), "role", role)
			}
		},
	},
	{
		reader: "mixin, use of a quota",
		query: `kube_resourcequota{$state,type="used"} / ignoring (instance, job, type) ` +
			`(kube_resourcequota{$state,type="hard"} > 0)`,
		want: func(w *world, a answer) {
			for _, quota := range w.Quotas {
				for name, used := range quota.Status.Used {
					a.add(check.Number(used)/check.Number(quota.Status.Hard[name]), "namespace", quota.Namespace,
						"resourcequota", quota.Name, "resource", string(name))
				}
			}
		},
		within: 1e-9,
	},
	{
		reader: "mixin, whether the pages are scraped",
		query:  `count(up{$state} == 1) + count(up{$cadvisor} == 1)`,
		want:   func(_ *world, a answer) { a.add(2) },
	},
	{
		reader: "mixin, nodes and their versions",
		query:  `count by (kubelet_version, kubeproxy_version, internal_ip) (kube_node_info{$state})`,
		want: func(w *world, a answer) {
			for _, node := range w.Nodes {
				a.add(1, "kubelet_version", node.Status.NodeInfo.KubeletVersion, "kubeproxy_version", "deprecated",
					"internal_ip", "127.0.0.1")
			}
		},
	},

	// Robusta KRR.
	{
		reader: "KRR, CPU of one container",
		query: `label_replace(max by (container, pod, job) (rate(container_cpu_usage_seconds_total{$cadvisor,` +
			`namespace="dash-shop",pod=~"web-7d9c8b6f5-0|web-7d9c8b6f5-1",container="app"}[1m])), ` +
			`"has_job", "true", "job", ".+")`,
		want: func(w *world, a answer) {
			w.each(func(pod *corev1.Pod, container string, cpu, _ float64) {
				if (pod.Name == "web-7d9c8b6f5-0" || pod.Name == "web-7d9c8b6f5-1") && container == "app" {
					a.add(cpu, "pod", pod.Name, "container", container, "has_job", "true")
				}
			})
		},
		within: 0.4,
	},
	{
		reader: "KRR, most memory of one container",
		query: `max by (container, pod, job) (max_over_time(container_memory_working_set_bytes{$cadvisor,` +
			`namespace="dash-batch",pod=~".*",container="dump"}[10m:1m]))`,
		want: func(w *world, a answer) {
			w.each(func(pod *corev1.Pod, container string, _, memory float64) {
				if container == "dump" {
					a.add(memory, "pod", pod.Name, "container", container)
				}
			})
		},
	},
	{
		reader: "KRR, ReplicaSets of a Deployment",
		query: `kube_replicaset_owner{$state,owner_name="web",owner_kind="Deployment",namespace="dash-shop",` +
			`owner_is_controller="true"}`,
		want: func(_ *world, a answer) {
			for _, set := range []string{"web-7d9c8b6f5", "web-5f6b7c8d9"} {
				a[exporter.Series("kube_replicaset_owner", map[string]string{"namespace": shop, "replicaset": set,
					"owner_kind": "Deployment", "owner_name": "web", "owner_is_controller": "true"})] = 1
			}
		},
	},
	{
		reader: "KRR, pods of a ReplicaSet that run",
		query: `count by (pod) ((kube_pod_status_phase{$state,phase="Running",namespace="dash-shop"} == 1) ` +
			`and on (namespace, pod) kube_pod_owner{$state,owner_name=~"web-7d9c8b6f5",owner_kind="ReplicaSet"})`,
		want: func(_ *world, a answer) {
			for i := range 3 {
				a.add(1, "pod", fmt.Sprint("web-7d9c8b6f5-", i))
			}
		},
	},
	{
		reader: "KRR, the cluster's size",
		query:  `sum(machine_cpu_cores{$cadvisor}) + sum(max by (node) (machine_memory_bytes{$cadvisor}))`,
		want: func(w *world, a answer) {
			for _, node := range w.Nodes {
				a.add(check.Number(node.Status.Capacity[corev1.ResourceCPU]) +
					check.Number(node.Status.Capacity[corev1.ResourceMemory]))
			}
		},
	},

	// Headlamp, Freelens, Lens: they select no job.
	{
		reader: "Headlamp, CPU of a pod",
		query: `sum by (pod) (rate(container_cpu_usage_seconds_total{container!="",namespace="dash-shop",` +
			`pod="web-7d9c8b6f5-2"}[1m]))`,
		want: func(w *world, a answer) {
			w.each(func(pod *corev1.Pod, _ string, cpu, _ float64) {
				if pod.Name == "web-7d9c8b6f5-2" {
					a.add(cpu, "pod", pod.Name)
				}
			})
		},
		within: 0.4,
	},
	{
		reader: "Freelens, memory of a namespace",
		query:  `sum by (namespace) (container_memory_working_set_bytes{container!="",image!="",namespace="dash-shop"})`,
		want: func(w *world, a answer) {
			w.each(func(pod *corev1.Pod, _ string, _, memory float64) {
				if pod.Namespace == shop {
					a.add(memory, "namespace", shop)
				}
			})
		},
	},
	{
		reader: "Freelens, pods and their extended resources",
		query: `sum by (resource, unit) (kube_pod_container_resource_limits{resource=~"example_test_gpu|hugepages_2Mi",` +
			ours + `})`,
		want: func(w *world, a answer) {
			w.resources(true, func(_ *corev1.Pod, _ string, name corev1.ResourceName, value float64) {
				switch name {
				case "example.test/gpu":
					a.add(value, "resource", "example_test_gpu", "unit", "integer")
				case "hugepages-2Mi":
					a.add(value, "resource", "hugepages_2Mi", "unit", "byte")
				}
			})
		},
	},

	// dotdc's dashboards.
	{
		reader: "dotdc, memory of a node by the label of its containers",
		query:  `sum by (node) (container_memory_working_set_bytes{node=~"node-.*",image!="",` + ours + `})`,
		want: func(w *world, a answer) {
			w.each(func(pod *corev1.Pod, _ string, _, memory float64) { a.add(memory, "node", pod.Spec.NodeName) })
		},
	},
	{
		reader: "dotdc, share of a machine that is used",
		query:  `container_memory_working_set_bytes{id="/"} / on (node) machine_memory_bytes`,
		want: func(w *world, a answer) {
			for _, node := range w.Nodes {
				a.add(float64(2<<30)/check.Number(node.Status.Capacity[corev1.ResourceMemory]), "node", node.Name)
			}
		},
	},
	{
		reader: "dotdc, pods that something created",
		query:  `count by (created_by_kind, created_by_name) (kube_pod_info{created_by_name!="",` + ours + `})`,
		want: func(w *world, a answer) {
			for i := range w.Pods {
				if kind, name := controller(&w.Pods[i]); name != "" {
					a.add(1, "created_by_kind", kind, "created_by_name", name)
				}
			}
		},
	},
	{
		reader: "dotdc, pods by quality of service",
		query:  `sum by (qos_class) (kube_pod_status_qos_class{` + ours + `})`,
		want: func(w *world, a answer) {
			for i := range w.Pods {
				a.add(1, "qos_class", string(w.Pods[i].Status.QOSClass))
			}
		},
	},
	{
		reader: "dotdc, pods that are not ready",
		query:  `sum by (pod) (kube_pod_status_ready{condition="false",` + ours + `}) > 0`,
		want:   func(_ *world, a answer) { a.add(1, "pod", "crashing") },
	},
	{
		reader: "dotdc, containers that run and are ready",
		query: `sum by (namespace) (kube_pod_container_status_running{` + ours + `} * on (namespace, pod, container, uid) ` +
			`kube_pod_container_status_ready)`,
		want: func(w *world, a answer) {
			for i := range w.Pods {
				for _, status := range w.Pods[i].Status.ContainerStatuses {
					if status.State.Running != nil && status.Ready {
						a.add(1, "namespace", w.Pods[i].Namespace)
					}
				}
			}
		},
	},
	{
		reader: "dotdc, what is wrong with a container",
		query: `kube_pod_container_status_restarts_total{` + ours + `} > 0 and on (namespace, pod, container) ` +
			`kube_pod_container_status_waiting_reason{reason="CrashLoopBackOff"} and on (namespace, pod, container) ` +
			`kube_pod_container_status_last_terminated_reason{reason="OOMKilled"}`,
		want: func(w *world, a answer) {
			a[exporter.Series("kube_pod_container_status_restarts_total", map[string]string{"namespace": shop,
				"pod": "crashing", "uid": string(w.pod(shop, "crashing").UID), "container": "app"})] = 7
		},
	},
	{
		reader: "dotdc, images that run",
		query:  `count by (image_spec) (kube_pod_container_info{` + ours + `})`,
		want: func(w *world, a answer) {
			for i := range w.Pods {
				for _, container := range w.Pods[i].Spec.Containers {
					if w.Pods[i].Spec.NodeName != "" {
						a.add(1, "image_spec", container.Image)
					}
				}
			}
		},
	},
	{
		reader: "pods by a label",
		query:  `count by (label_app) (kube_pod_labels{label_app!="",` + ours + `})`,
		want: func(_ *world, a answer) {
			a.add(4, "label_app", "web")
			a.add(1, "label_app", "db")
		},
	},

	// OpenCost.
	{
		reader: "OpenCost, memory by what it bills by",
		query: `avg by (container, pod, namespace, node, instance) (` +
			`container_memory_working_set_bytes{container!="",container!="POD",node!="",` + ours + `})`,
		want: func(w *world, a answer) {
			w.each(func(pod *corev1.Pod, container string, _, memory float64) {
				a.add(memory, "namespace", pod.Namespace, "pod", pod.Name, "container", container, "node", pod.Spec.NodeName)
			})
		},
	},
	{
		reader: "OpenCost, requested cores of containers that have a node",
		query: `avg by (container, pod, namespace, node, uid) (kube_pod_container_resource_requests{resource="cpu",` +
			`unit="core",container!="",node!="",` + ours + `})`,
		want: func(w *world, a answer) {
			w.resources(false, func(pod *corev1.Pod, container string, name corev1.ResourceName, value float64) {
				if name == corev1.ResourceCPU && pod.Spec.NodeName != "" {
					a.add(value, "namespace", pod.Namespace, "pod", pod.Name, "container", container, "node",
						pod.Spec.NodeName, "uid", string(pod.UID))
				}
			})
		},
	},
}

// allocatable is how much of a resource a node has for pods.
func (w *world) allocatable(node string, name corev1.ResourceName) float64 {
	for _, n := range w.Nodes {
		if n.Name == node {
			return check.Number(n.Status.Allocatable[name])
		}
	}
	return 0
}
