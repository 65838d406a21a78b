package main

import (
	"fmt"

	"metrics-server-prom/internal/family"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/pages"
	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/state"
	"metrics-server-prom/internal/usage"
)

// The pages below the telemetry path.
const cadvisor, kubeState = family.Cadvisor, family.KubeState

// The resources.
const nodes, pods, namespaces, quotas = "nodes", "pods", "namespaces", "resourcequotas"
const replicaSets, jobs = "replicasets", "jobs"

// families is every family, in the order of the pages. Two rows with one name are one family of two sources.
var families = family.Table{
	{Name: "kube_metrics_server_node_cpu", Kind: "gauge", Source: nodes, Labels: (*label.Usage).Node, Value: cpu,
		Help: "CPU usage of the node in cores (CPU seconds per second), averaged over metrics-server's last window."},
	{Name: "kube_metrics_server_node_mem", Kind: "gauge", Source: nodes, Labels: (*label.Usage).Node, Value: memory,
		Help: "Memory working set of the node in bytes."},
	{Name: "kube_metrics_server_pod_cpu", Kind: "gauge", Source: pods, Labels: (*label.Usage).Pod, Value: cpu,
		Help: "CPU usage of the container in cores (CPU seconds per second), averaged over metrics-server's last window."},
	{Name: "kube_metrics_server_pod_mem", Kind: "gauge", Source: pods, Labels: (*label.Usage).Pod, Value: memory,
		Help: "Memory working set of the container in bytes."},

	{Page: cadvisor, Name: "container_cpu_usage_seconds_total", Kind: "counter", Source: nodes,
		Labels: (*label.Usage).Root, Value: seconds,
		Help: "CPU time consumed in seconds, rebuilt from metrics-server's rates; id=\"/\" is a node."},
	{Page: cadvisor, Name: "container_cpu_usage_seconds_total", Source: pods, Labels: (*label.Usage).ContainerCPU, Value: seconds},
	{Page: cadvisor, Name: "container_memory_working_set_bytes", Kind: "gauge", Source: nodes, Labels: (*label.Usage).Root,
		Value: memory, Help: "Memory working set in bytes; id=\"/\" is a node."},
	{Page: cadvisor, Name: "container_memory_working_set_bytes", Source: pods, Labels: (*label.Usage).Container, Value: memory},
	{Page: cadvisor, Name: "container_start_time_seconds", Kind: "gauge", Source: pods, Labels: (*label.Usage).Container,
		Value: (*label.Usage).Started, Help: "When the container was started, in Unix seconds."},
	{Page: cadvisor, Name: "machine_cpu_cores", Kind: "gauge", Source: nodes, State: state.MachineCores,
		Help: "Number of logical CPU cores of the node."},
	{Page: cadvisor, Name: "machine_memory_bytes", Kind: "gauge", Source: nodes, State: state.MachineMemory,
		Help: "Memory of the node in bytes."},

	{Page: kubeState, Name: "kube_namespace_status_phase", Kind: "gauge", Source: namespaces,
		State: state.NamespacePhase, Help: "Phase of the namespace."},
	{Page: kubeState, Name: "kube_node_info", Kind: "gauge", Source: nodes, State: state.NodeInfo,
		Help: "What the node is; always 1."},
	{Page: kubeState, Name: "kube_node_role", Kind: "gauge", Source: nodes, State: state.NodeRole,
		Help: "Roles of the node, by its labels; always 1."},
	{Page: kubeState, Name: "kube_node_status_allocatable", Kind: "gauge", Source: nodes, State: state.NodeAllocatable,
		Help: "What pods may use of the node's resources."},
	{Page: kubeState, Name: "kube_node_status_capacity", Kind: "gauge", Source: nodes, State: state.NodeCapacity,
		Help: "The node's resources."},
	{Page: kubeState, Name: "kube_resourcequota", Kind: "gauge", Source: quotas, State: state.ResourceQuota,
		Help: "What the resource quota allows (hard), and what of it is used."},
	{Page: kubeState, Name: "kube_replicaset_owner", Kind: "gauge", Source: replicaSets, State: state.MetadataOwner,
		Help: "Owners of the ReplicaSet; always 1."},
	{Page: kubeState, Name: "kube_job_owner", Kind: "gauge", Source: jobs, State: state.MetadataOwner,
		Help: "Owners of the Job; always 1."},
	{Page: kubeState, Name: "kube_pod_info", Kind: "gauge", Source: pods, State: state.PodInfo,
		Help: "What the pod is; always 1."},
	{Page: kubeState, Name: "kube_pod_owner", Kind: "gauge", Source: pods, State: state.PodOwner,
		Help: "Owners of the pod; always 1."},
	{Page: kubeState, Name: "kube_pod_labels", Kind: "gauge", Source: pods, State: state.PodLabels,
		Help: "Labels of the pod, those of --pod-labels; always 1."},
	{Page: kubeState, Name: "kube_pod_status_phase", Kind: "gauge", Source: pods, State: state.PodPhase,
		Help: "Phase of the pod."},
	{Page: kubeState, Name: "kube_pod_status_qos_class", Kind: "gauge", Source: pods, State: state.PodQOSClass,
		Help: "Quality of service class of the pod."},
	{Page: kubeState, Name: "kube_pod_status_ready", Kind: "gauge", Source: pods, State: state.PodReady,
		Help: "Whether the pod is ready to serve requests."},
	{Page: kubeState, Name: "kube_pod_container_info", Kind: "gauge", Source: pods, State: state.ContainerInfo,
		Help: "What the container is; always 1."},
	{Page: kubeState, Name: "kube_pod_container_resource_requests", Kind: "gauge", Source: pods,
		State: state.ContainerRequests, Help: "Resources that the container requests."},
	{Page: kubeState, Name: "kube_pod_container_resource_limits", Kind: "gauge", Source: pods,
		State: state.ContainerLimits, Help: "Resources that the container is limited to."},
	{Page: kubeState, Name: "kube_pod_container_status_restarts_total", Kind: "counter", Source: pods,
		State: state.ContainerRestarts, Help: "Restarts of the container."},
	{Page: kubeState, Name: "kube_pod_container_status_running", Kind: "gauge", Source: pods,
		State: state.ContainerRunning, Help: "Whether the container is running."},
	{Page: kubeState, Name: "kube_pod_container_status_ready", Kind: "gauge", Source: pods, State: state.ContainerReady,
		Help: "Whether the container's readiness check succeeds."},
	{Page: kubeState, Name: "kube_pod_container_status_waiting_reason", Kind: "gauge", Source: pods,
		State: state.ContainerWaiting, Help: "Why the container is waiting; always 1."},
	{Page: kubeState, Name: "kube_pod_container_status_last_terminated_reason", Kind: "gauge", Source: pods,
		State: state.ContainerLastTerminated, Help: "Why the container was terminated the last time; always 1."},
}.WithHeaders()

// names are those of the families.
var names = families.Names()

func cpu(u *label.Usage, i int) float64     { return u.Samples[i].CPU }
func memory(u *label.Usage, i int) float64  { return u.Samples[i].Memory }
func seconds(u *label.Usage, i int) float64 { return u.Seconds[i] }

// none is the snapshot of a list that is not shown.
var none = &pages.Snapshot{Rendered: families.Rendered()}

// registerServed registers the metrics of what is served, which is asked for whenever they are written.
func registerServed(self *selfmetrics.Scope, present func() []*pages.Snapshot) {
	for i, f := range families {
		if f.Page != "" {
			continue
		}
		self.Gauge("samples_served", "Samples on this page.", fmt.Sprintf("family=%q", f.Name), func() (sum float64) {
			for _, s := range present() {
				sum += float64(s.Rendered.Served[i])
			}
			return sum
		})
	}
	usage.RegisterShown(self, func() (all []usage.Shown) {
		for _, s := range present() {
			all = append(all, s.Shown)
		}
		return all
	})
}

// sampleLabels are the names of the labels that samples of the telemetry path's page have, those of --pod-labels aside.
var sampleLabels = []string{"node", "pod", "ip", "container", "namespace", "resource", "reason", "family", "verb",
	"code", "result", "version", "revision", "goversion", "le", "quantile"}

// remoteLabels are those that samples which are pushed by remote write have beside, by page: on the telemetry path's
// the ones of the Go runtime.
var remoteLabels = map[string][]string{
	"":       {"compiler", "GOARCH", "GOOS", "GOROOT"},
	cadvisor: {"boot_id", "cpu", "id", "image", "machine_id", "name", "system_uuid"},
	kubeState: {"condition", "container_id", "container_runtime_version", "created_by_kind", "created_by_name", "host_ip",
		"host_network", "image", "image_id", "image_spec", "internal_ip", "job_name", "kernel_version", "kubelet_version",
		"kubeproxy_version", "os_image", "owner_is_controller", "owner_kind", "owner_name", "phase", "pod_cidr", "pod_ip",
		"priority_class", "provider_id", "qos_class", "replicaset", "resourcequota", "role", "system_uuid", "type", "uid",
		"unit"},
}

// labelsOf are the names of the labels that samples have which are pushed in the format, of one or several clusters.
func labelsOf(pages, podLabels []string, format string, several bool) []string {
	all := append(label.Names(podLabels), sampleLabels...)
	if several {
		all = append(all, "cluster")
	}
	if format == push.RemoteWrite {
		for _, page := range append([]string{""}, pages...) {
			all = append(all, remoteLabels[page]...)
		}
	}
	return all
}
