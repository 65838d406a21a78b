// Package state has the samples of families that tell the state of objects, with the names, labels and values of
// kube-state-metrics 2.20 (https://github.com/kubernetes/kube-state-metrics/tree/main/docs/metrics), for dashboards and
// tools that read them.
package state

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"metrics-server-prom/internal/kept"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/metricsapi"
	"metrics-server-prom/internal/slim"
)

// Object is an object to make samples of; one of its fields is set. Each function of this package that has one adds the
// samples of a family to what is collected.
type Object struct {
	Pod      *Pod
	Node     *slim.Node
	Metadata *slim.Metadata // of a ReplicaSet, a Job or a Namespace
	Quota    *slim.ResourceQuota
}

// Pod is a pod with what was kept of it.
type Pod struct {
	kept.Pod
	Node   string // label text: node="NAME"
	Labels string // label text of the labels that are served, "" for none
}

// PodInfo is kube_pod_info.
func PodInfo(s *Samples, o *Object) {
	p, creator := o.Pod, kept.Owner{}
	for _, owner := range p.Owners {
		if owner.Controller {
			creator = owner
			break
		}
	}
	s.Add(1, "host_ip", p.HostIP, "pod_ip", p.PodIP, "", p.Node, "created_by_kind", creator.Kind,
		"created_by_name", creator.Name, "priority_class", p.PriorityClass, "host_network", fmt.Sprint(p.HostNetwork))
}

// PodOwner is kube_pod_owner.
func PodOwner(s *Samples, o *Object) { addOwners(s, o.Pod.Owners) }

func addOwners(s *Samples, all []kept.Owner) {
	if len(all) == 0 {
		s.Add(1, "owner_kind", "", "owner_name", "", "owner_is_controller", "")
	}
	for _, owner := range all {
		s.Add(1, "owner_kind", owner.Kind, "owner_name", owner.Name, "owner_is_controller", fmt.Sprint(owner.Controller))
	}
}

// MetadataOwner is kube_replicaset_owner or kube_job_owner.
func MetadataOwner(s *Samples, o *Object) { addOwners(s, ownersOf(o.Metadata.OwnerReferences)) }

func ownersOf(references []metav1.OwnerReference) (all []kept.Owner) {
	for _, r := range references {
		all = append(all, kept.Owner{Kind: r.Kind, Name: r.Name, Controller: r.Controller != nil && *r.Controller})
	}
	return all
}

// PodPhase is kube_pod_status_phase.
func PodPhase(s *Samples, o *Object) {
	one(s, "phase", o.Pod.Phase, "Pending", "Succeeded", "Failed", "Unknown", "Running")
}

// PodQOSClass is kube_pod_status_qos_class.
func PodQOSClass(s *Samples, o *Object) {
	one(s, "qos_class", o.Pod.QOSClass, "BestEffort", "Burstable", "Guaranteed")
}

// PodReady is kube_pod_status_ready.
func PodReady(s *Samples, o *Object) {
	one(s, "condition", strings.ToLower(o.Pod.Ready), "true", "false", "unknown")
}

// one adds a sample for each of the values that a label may have, 1 for the one that holds; none where none is known.
func one(s *Samples, name, holds string, values ...string) {
	if holds == "" {
		return
	}
	for _, value := range values {
		s.Bool(value == holds, name, value)
	}
}

// PodLabels is kube_pod_labels. A pod without any of the labels has it too: what is joined with it must not lose pods.
func PodLabels(s *Samples, o *Object) { s.Add(1, "", o.Pod.Labels) }

// ContainerRequests is kube_pod_container_resource_requests.
func ContainerRequests(s *Samples, o *Object) {
	resources(s, o.Pod, func(c *kept.Container) []kept.Quantity { return c.Requests })
}

// ContainerLimits is kube_pod_container_resource_limits.
func ContainerLimits(s *Samples, o *Object) {
	resources(s, o.Pod, func(c *kept.Container) []kept.Quantity { return c.Limits })
}

func resources(s *Samples, p *Pod, of func(*kept.Container) []kept.Quantity) {
	for i := range p.Containers {
		c := &p.Containers[i]
		if c.Kind != kept.Regular {
			continue
		}
		for _, q := range of(c) {
			if unit := unitOf(q.Name); unit != "" {
				s.Add(q.Value, "container", c.Name, "", p.Node, "resource", label.Sanitize(q.Name), "unit", unit)
			}
		}
	}
}

// unitOf is the unit in which a resource is told, "" for one that is not.
func unitOf(resource string) string {
	switch {
	case resource == "cpu":
		return "core"
	case resource == "memory", resource == "storage", resource == "ephemeral-storage",
		strings.HasPrefix(resource, "hugepages-"), strings.HasPrefix(resource, "attachable-volumes-"):
		return "byte"
	case resource == "pods", // of nodes; and extended resources
		strings.Contains(resource, "/") && !strings.Contains(resource, "kubernetes.io/") &&
			!strings.HasPrefix(resource, "requests."):
		return "integer"
	}
	return ""
}

// containers calls f for each container of the spec that has a status.
func containers(o *Object, f func(*kept.Container)) {
	for i := range o.Pod.Containers {
		if c := &o.Pod.Containers[i]; c.Kind == kept.Regular && c.Known {
			f(c)
		}
	}
}

// ContainerInfo is kube_pod_container_info.
func ContainerInfo(s *Samples, o *Object) {
	containers(o, func(c *kept.Container) {
		s.Add(1, "container", c.Name, "image_spec", c.Image, "image", c.Status.Image, "image_id", c.ImageID,
			"container_id", c.ID)
	})
}

// ContainerRestarts is kube_pod_container_status_restarts_total.
func ContainerRestarts(s *Samples, o *Object) {
	containers(o, func(c *kept.Container) { s.Add(float64(c.Restarts), "container", c.Name) })
}

// ContainerRunning is kube_pod_container_status_running.
func ContainerRunning(s *Samples, o *Object) {
	containers(o, func(c *kept.Container) { s.Bool(c.State == kept.Running, "container", c.Name) })
}

// ContainerReady is kube_pod_container_status_ready.
func ContainerReady(s *Samples, o *Object) {
	containers(o, func(c *kept.Container) { s.Bool(c.Ready, "container", c.Name) })
}

// ContainerWaiting is kube_pod_container_status_waiting_reason.
func ContainerWaiting(s *Samples, o *Object) {
	containers(o, func(c *kept.Container) {
		if c.State == kept.Waiting && c.Reason != "" {
			s.Add(1, "container", c.Name, "reason", c.Reason)
		}
	})
}

// ContainerLastTerminated is kube_pod_container_status_last_terminated_reason.
func ContainerLastTerminated(s *Samples, o *Object) {
	containers(o, func(c *kept.Container) {
		if c.LastTerminated {
			s.Add(1, "container", c.Name, "reason", c.LastReason)
		}
	})
}

// NodeInfo is kube_node_info.
func NodeInfo(s *Samples, o *Object) {
	n := o.Node
	internal := ""
	for _, a := range n.Status.Addresses {
		if a.Type == "InternalIP" {
			internal = cmp.Or(internal, a.Address)
		}
	}
	i := &n.Status.NodeInfo
	s.Add(1, "kernel_version", i.KernelVersion, "os_image", i.OSImage, "container_runtime_version",
		i.ContainerRuntimeVersion, "kubelet_version", i.KubeletVersion, "kubeproxy_version", "deprecated",
		"provider_id", n.Spec.ProviderID, "pod_cidr", n.Spec.PodCIDR, "system_uuid", i.SystemUUID, "internal_ip", internal)
}

// NodeAllocatable is kube_node_status_allocatable.
func NodeAllocatable(s *Samples, o *Object) { nodeResources(s, o.Node.Status.Allocatable) }

// NodeCapacity is kube_node_status_capacity.
func NodeCapacity(s *Samples, o *Object) { nodeResources(s, o.Node.Status.Capacity) }

func nodeResources(s *Samples, all slim.Quantities) {
	for _, q := range all {
		if unit := unitOf(q.Name); unit != "" {
			if value, ok := amount(q); ok {
				s.Add(value, "resource", label.Sanitize(q.Name), "unit", unit)
			}
		}
	}
}

// NodeRole is kube_node_role.
func NodeRole(s *Samples, o *Object) {
	var roles []string
	for key := range o.Node.Labels {
		if role, found := strings.CutPrefix(key, "node-role.kubernetes.io/"); found {
			roles = append(roles, role)
		}
	}
	slices.Sort(roles)
	for _, role := range roles {
		s.Add(1, "role", role)
	}
}

// MachineCores is machine_cpu_cores, and MachineMemory machine_memory_bytes, of cAdvisor's names.
func MachineCores(s *Samples, o *Object)  { machine(s, o.Node, "cpu") }
func MachineMemory(s *Samples, o *Object) { machine(s, o.Node, "memory") }

func machine(s *Samples, n *slim.Node, resource string) {
	for _, q := range n.Status.Capacity {
		if value, ok := amount(q); ok && q.Name == resource {
			i := &n.Status.NodeInfo
			s.Add(value, "machine_id", i.MachineID, "system_uuid", i.SystemUUID, "boot_id", i.BootID)
		}
	}
}

// NamespacePhase is kube_namespace_status_phase. The API server sets deletionTimestamp and the phase Terminating in the
// same request.
func NamespacePhase(s *Samples, o *Object) {
	phase := "Active"
	if o.Metadata.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	one(s, "phase", phase, "Active", "Terminating")
}

// ResourceQuota is kube_resourcequota.
func ResourceQuota(s *Samples, o *Object) {
	for _, of := range []struct {
		kind string
		all  slim.Quantities
	}{{"hard", o.Quota.Status.Hard}, {"used", o.Quota.Status.Used}} {
		for _, q := range of.all {
			if value, ok := milli(q); ok {
				s.Add(value, "resource", q.Name, "type", of.kind)
			}
		}
	}
}

// amount is a quantity in cores, rounded up to thousandths, or in whole bytes or pieces, rounded up; false for what is
// no quantity.
func amount(q slim.Quantity) (float64, bool) {
	if q.Name == "cpu" {
		return milli(q)
	}
	return roundedUp(q, 0)
}

// milli is a quantity rounded up to thousandths.
func milli(q slim.Quantity) (float64, bool) { return roundedUp(q, resource.Milli) }

// exactMilli is above that of which not every thousandth is exact in a float64.
const exactMilli = 1 << 53 / 1000

// roundedUp does without resource.Quantity's Value and MilliValue for what they return 0: thousandths beyond an int64.
func roundedUp(q slim.Quantity, scale resource.Scale) (float64, bool) {
	parsed, ok := metricsapi.Parse(q.Value)
	if !ok {
		return 0, false
	}
	parsed.RoundUp(scale)
	if parsed.CmpInt64(-exactMilli) > 0 && parsed.CmpInt64(exactMilli) < 0 {
		return float64(parsed.MilliValue()) / 1000, true
	}
	return metricsapi.Float(parsed)
}
