package check

import (
	"context"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"metrics-server-prom/e2e/exporter"
)

// Objects is what the API server says about everything that the pages with cAdvisor's and kube-state-metrics' names are
// made of, but for usage.
type Objects struct {
	Pods        []corev1.Pod
	Nodes       []corev1.Node
	Namespaces  []corev1.Namespace
	ReplicaSets []appsv1.ReplicaSet
	Jobs        []batchv1.Job
	Quotas      []corev1.ResourceQuota
}

// ReadObjects reads them.
func ReadObjects(ctx context.Context, client kubernetes.Interface) (*Objects, error) {
	all := metav1.ListOptions{}
	pods, err := client.CoreV1().Pods("").List(ctx, all)
	if err != nil {
		return nil, err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, all)
	if err != nil {
		return nil, err
	}
	namespaces, err := client.CoreV1().Namespaces().List(ctx, all)
	if err != nil {
		return nil, err
	}
	sets, err := client.AppsV1().ReplicaSets("").List(ctx, all)
	if err != nil {
		return nil, err
	}
	jobs, err := client.BatchV1().Jobs("").List(ctx, all)
	if err != nil {
		return nil, err
	}
	quotas, err := client.CoreV1().ResourceQuotas("").List(ctx, all)
	if err != nil {
		return nil, err
	}
	return &Objects{pods.Items, nodes.Items, namespaces.Items, sets.Items, jobs.Items, quotas.Items}, nil
}

// Keep leaves out the objects of namespaces that are not wanted, and these.
func (o *Objects) Keep(wanted func(namespace string) bool) {
	o.Pods = slices.DeleteFunc(o.Pods, func(p corev1.Pod) bool { return !wanted(p.Namespace) })
	o.Namespaces = slices.DeleteFunc(o.Namespaces, func(n corev1.Namespace) bool { return !wanted(n.Name) })
	o.ReplicaSets = slices.DeleteFunc(o.ReplicaSets, func(s appsv1.ReplicaSet) bool { return !wanted(s.Namespace) })
	o.Jobs = slices.DeleteFunc(o.Jobs, func(j batchv1.Job) bool { return !wanted(j.Namespace) })
	o.Quotas = slices.DeleteFunc(o.Quotas, func(q corev1.ResourceQuota) bool { return !wanted(q.Namespace) })
}

// Samples are values of series, by exporter.Series' text.
type Samples map[string]float64

// Add adds a sample; labels are names and values in turn.
func (s Samples) Add(value float64, family string, labels ...string) {
	pairs := make(map[string]string, len(labels)/2)
	for i := 0; i < len(labels); i += 2 {
		pairs[labels[i]] = labels[i+1]
	}
	s[exporter.Series(family, pairs)] = value
}

// oneOf adds a sample for each possible value of a label, of which the actual one is 1 and the others are 0.
func (s Samples) oneOf(actual string, possible []string, family, label string, labels ...string) {
	for _, value := range possible {
		s.Add(number(value == actual), family, append([]string{label, value}, labels...)...)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Families of an object that is not watched are missing; the names say of which.
const (
	OfNodes       = "nodes"
	OfNodeUsage   = "nodes.metrics.k8s.io"
	OfReplicaSets = "replicasets"
	OfJobs        = "jobs"
	OfNamespaces  = "namespaces"
	OfQuotas      = "resourcequotas"
)

// KubeStateMetrics is what the page of kube-state-metrics' names must have for these objects, without those that may
// not be read, by the rules of kube-state-metrics 2.20. The keys are those of --pod-labels.
func (o *Objects) KubeStateMetrics(podLabels []string, without ...string) Samples {
	s := Samples{}
	for i := range o.Pods {
		s.addPod(&o.Pods[i], podLabels)
	}
	if !slices.Contains(without, OfNodes) {
		for i := range o.Nodes {
			s.addNode(&o.Nodes[i])
		}
	}
	if !slices.Contains(without, OfNamespaces) {
		for _, namespace := range o.Namespaces {
			s.oneOf(string(namespace.Status.Phase), []string{"Active", "Terminating"}, "kube_namespace_status_phase",
				"phase", "namespace", namespace.Name)
		}
	}
	if !slices.Contains(without, OfReplicaSets) {
		for _, set := range o.ReplicaSets {
			s.addOwners(set.OwnerReferences, "kube_replicaset_owner", "namespace", set.Namespace, "replicaset", set.Name)
		}
	}
	if !slices.Contains(without, OfJobs) {
		for _, job := range o.Jobs {
			s.addOwners(job.OwnerReferences, "kube_job_owner", "namespace", job.Namespace, "job_name", job.Name)
		}
	}
	if !slices.Contains(without, OfQuotas) {
		for _, quota := range o.Quotas {
			for kind, list := range map[string]corev1.ResourceList{"hard": quota.Status.Hard, "used": quota.Status.Used} {
				for name, value := range list {
					s.Add(Number(value), "kube_resourcequota", "namespace", quota.Namespace, "resourcequota", quota.Name,
						"resource", string(name), "type", kind)
				}
			}
		}
	}
	return s
}

func (s Samples) addPod(pod *corev1.Pod, podLabels []string) {
	id := []string{"namespace", pod.Namespace, "pod", pod.Name, "uid", string(pod.UID)}
	add := func(value float64, family string, labels ...string) {
		s.Add(value, family, append(slices.Clone(id), labels...)...)
	}
	kind, name := "", ""
	if controller := metav1.GetControllerOf(pod); controller != nil {
		kind, name = controller.Kind, controller.Name
	}
	add(1, "kube_pod_info", "host_ip", pod.Status.HostIP, "pod_ip", pod.Status.PodIP, "node", pod.Spec.NodeName,
		"created_by_kind", kind, "created_by_name", name, "priority_class", pod.Spec.PriorityClassName,
		"host_network", strconv.FormatBool(pod.Spec.HostNetwork))
	s.addOwners(pod.OwnerReferences, "kube_pod_owner", id...)
	if pod.Status.Phase != "" {
		s.oneOf(string(pod.Status.Phase), []string{"Pending", "Succeeded", "Failed", "Unknown", "Running"},
			"kube_pod_status_phase", "phase", id...)
	}
	s.oneOf(string(pod.Status.QOSClass), []string{"BestEffort", "Burstable", "Guaranteed"},
		"kube_pod_status_qos_class", "qos_class", id...)
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			s.oneOf(strings.ToLower(string(condition.Status)), []string{"true", "false", "unknown"},
				"kube_pod_status_ready", "condition", id...)
		}
	}
	if len(podLabels) > 0 {
		var labels []string
		for _, key := range podLabels {
			if value, ok := pod.Labels[key]; ok {
				labels = append(labels, "label_"+notInLabelName.ReplaceAllString(key, "_"), value)
			}
		}
		add(1, "kube_pod_labels", labels...)
	}
	for _, container := range pod.Spec.Containers {
		for family, list := range map[string]corev1.ResourceList{
			"kube_pod_container_resource_requests": container.Resources.Requests,
			"kube_pod_container_resource_limits":   container.Resources.Limits,
		} {
			s.addResources(list, family,
				append(slices.Clone(id), "container", container.Name, "node", pod.Spec.NodeName)...)
		}
	}
	for _, status := range pod.Status.ContainerStatuses {
		container := []string{"container", status.Name}
		add(1, "kube_pod_container_info", append(container, "image_spec", specImage(pod, status.Name),
			"image", status.Image, "image_id", status.ImageID, "container_id", status.ContainerID)...)
		add(float64(status.RestartCount), "kube_pod_container_status_restarts_total", container...)
		add(number(status.State.Running != nil), "kube_pod_container_status_running", container...)
		add(number(status.Ready), "kube_pod_container_status_ready", container...)
		if waiting := status.State.Waiting; waiting != nil {
			add(1, "kube_pod_container_status_waiting_reason", append(container, "reason", waiting.Reason)...)
		}
		if terminated := status.LastTerminationState.Terminated; terminated != nil {
			add(1, "kube_pod_container_status_last_terminated_reason",
				append(container, "reason", terminated.Reason)...)
		}
	}
}

func (s Samples) addNode(node *corev1.Node) {
	info, internal := node.Status.NodeInfo, ""
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			internal = address.Address
			break
		}
	}
	s.Add(1, "kube_node_info", "node", node.Name, "kernel_version", info.KernelVersion, "os_image", info.OSImage,
		"container_runtime_version", info.ContainerRuntimeVersion, "kubelet_version", info.KubeletVersion,
		"kubeproxy_version", "deprecated", "provider_id", node.Spec.ProviderID, "pod_cidr", node.Spec.PodCIDR,
		"system_uuid", info.SystemUUID, "internal_ip", internal)
	s.addResources(node.Status.Allocatable, "kube_node_status_allocatable", "node", node.Name)
	s.addResources(node.Status.Capacity, "kube_node_status_capacity", "node", node.Name)
	for label := range node.Labels {
		if role, ok := strings.CutPrefix(label, "node-role.kubernetes.io/"); ok {
			s.Add(1, "kube_node_role", "node", node.Name, "role", role)
		}
	}
}

// addOwners adds a sample for each owner, and for an object without one a sample that says so.
func (s Samples) addOwners(owners []metav1.OwnerReference, family string, labels ...string) {
	add := func(kind, name, isController string) {
		s.Add(1, family, append(slices.Clone(labels), "owner_kind", kind, "owner_name", name,
			"owner_is_controller", isController)...)
	}
	for _, owner := range owners {
		add(owner.Kind, owner.Name, strconv.FormatBool(owner.Controller != nil && *owner.Controller))
	}
	if len(owners) == 0 {
		add("", "", "")
	}
}

// addResources adds those that kube-state-metrics knows a unit of.
func (s Samples) addResources(list corev1.ResourceList, family string, labels ...string) {
	for name, quantity := range list {
		unit := ""
		switch {
		case name == corev1.ResourceCPU:
			unit = "core"
		case name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage, name == corev1.ResourceStorage,
			strings.HasPrefix(string(name), "hugepages-"), strings.HasPrefix(string(name), "attachable-volumes-"):
			unit = "byte"
		case name == corev1.ResourcePods, strings.Contains(string(name), "/"):
			unit = "integer"
		default:
			continue
		}
		s.Add(Number(quantity), family, append(slices.Clone(labels),
			"resource", notInLabelName.ReplaceAllString(string(name), "_"), "unit", unit)...)
	}
}

// CAdvisor is what the page of cAdvisor's names must have for these objects and the usage of their pods, without what
// is made of nodes where these may not be read. The CPU counters' values are not in it: they are 0.
func (o *Objects) CAdvisor(usage *Reading, without ...string) Samples {
	s := Samples{}
	metadata := map[string]*corev1.Pod{}
	for i := range o.Pods {
		metadata[o.Pods[i].Namespace+"/"+o.Pods[i].Name] = &o.Pods[i]
	}
	if !slices.Contains(without, OfNodeUsage) {
		for _, node := range usage.Nodes {
			root := []string{"node", node.Name, "id", "/"}
			s.Add(0, cpuCounter, root...)
			s.Add(Number(node.Usage[corev1.ResourceMemory]), memoryGauge, root...)
		}
	}
	for _, pod := range usage.Pods {
		meta := metadata[pod.Namespace+"/"+pod.Name]
		if meta == nil {
			continue
		}
		statuses := slices.Concat(meta.Status.ContainerStatuses, meta.Status.InitContainerStatuses,
			meta.Status.EphemeralContainerStatuses)
		for _, container := range pod.Containers {
			i := slices.IndexFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Name == container.Name })
			if i < 0 {
				continue
			}
			_, id, _ := strings.Cut(statuses[i].ContainerID, "://")
			image := statuses[i].Image
			if image == "" {
				image = specImage(meta, container.Name)
			}
			labels := []string{"container", container.Name, "image", image, "name", id,
				"namespace", pod.Namespace, "node", meta.Spec.NodeName, "pod", pod.Name}
			s.Add(0, cpuCounter, append(slices.Clone(labels), "cpu", "total")...)
			s.Add(Number(container.Usage[corev1.ResourceMemory]), memoryGauge, labels...)
			if running := statuses[i].State.Running; running != nil {
				s.Add(float64(running.StartedAt.Unix()), "container_start_time_seconds", labels...)
			}
		}
	}
	if !slices.Contains(without, OfNodes) {
		for _, node := range o.Nodes {
			info := node.Status.NodeInfo
			labels := []string{"node", node.Name, "machine_id", info.MachineID, "system_uuid", info.SystemUUID,
				"boot_id", info.BootID}
			s.Add(Number(node.Status.Capacity[corev1.ResourceCPU]), "machine_cpu_cores", labels...)
			s.Add(Number(node.Status.Capacity[corev1.ResourceMemory]), "machine_memory_bytes", labels...)
		}
	}
	return s
}

// specImage is the image that a container was to run.
func specImage(pod *corev1.Pod, container string) string {
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		if c.Name == container {
			return c.Image
		}
	}
	return ""
}

const (
	cpuCounter  = "container_cpu_usage_seconds_total"
	memoryGauge = "container_memory_working_set_bytes"
)

// DiffPage is how a page differs from what it must have, see Diff, but for the families that the exporter tells of
// itself and for the values of the CPU counters, which must be more than 0.
func DiffPage(want Samples, page *exporter.Page) []string {
	got := map[string]float64{}
	for series, value := range page.Series() {
		if strings.HasPrefix(series, "metrics_server_prom_") || strings.HasPrefix(series, "go_") ||
			strings.HasPrefix(series, "process_") {
			continue
		}
		if strings.HasPrefix(series, cpuCounter+"{") && value > 0 {
			value = 0
		}
		got[series] = value
	}
	return Diff(want, got)
}
