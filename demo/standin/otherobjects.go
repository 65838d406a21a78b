package standin

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nodeType is what a node is: how much of it there is to give to pods.
type nodeType struct {
	instance    string
	cores, gibs int64
}

// nodeTypes are those of a series, ordered by size.
var nodeTypes = []nodeType{{"m7i.xlarge", 4, 16}, {"m7i.2xlarge", 8, 32}, {"m7i.4xlarge", 16, 64},
	{"m7i.8xlarge", 32, 128}, {"m7i.16xlarge", 64, 256}}

// nodeObject is one version of a node.
type nodeObject struct {
	objectMeta
	nodeType
	heartbeat int64 // when its kubelet last reported, in Unix seconds
}

func (n *nodeObject) kind() kind { return nodeKind }

func (n *nodeObject) at(rv uint64) object {
	other := *n
	other.rv = rv
	return &other
}

// nodeLabels are the labels of a node. The first is one of the control plane.
func (c *Cluster) nodeLabels(name string) labelSet {
	role := "node-role.kubernetes.io/worker"
	if name == nodeName(0) {
		role = "node-role.kubernetes.io/control-plane"
	}
	return newLabelSet(map[string]string{
		"beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux",
		"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "kubernetes.io/hostname": name, role: "",
		"node.kubernetes.io/instance-type": c.nodeType.instance,
		"topology.kubernetes.io/region":    "eu-central-1",
		"topology.kubernetes.io/zone":      "eu-central-1" + string('a'+rune(hashString(name)%3)),
	})
}

func nodeName(i int) string { return fmt.Sprintf("node-%04d", i) }

func (n *nodeObject) appendMeta(_ *Cluster, b []byte) []byte {
	b = appendMapEntry(b, metaAnnotations, "node.alpha.kubernetes.io/ttl", "0")
	b = appendMapEntry(b, metaAnnotations, "volumes.kubernetes.io/controller-managed-attach-detach", "true")
	return append(b, nodeManagedFields()...)
}

func (n *nodeObject) appendBody(c *Cluster, b []byte) []byte {
	ip := string(appendHostIP(nil, n.name))
	quantities := func(cores, gibs, mebibytes int64) corev1.ResourceList {
		return corev1.ResourceList{
			"cpu":               *resource.NewMilliQuantity(cores*1000-(gibs*1024-mebibytes)/20, resource.DecimalSI),
			"memory":            *resource.NewQuantity(mebibytes<<20, resource.BinarySI),
			"ephemeral-storage": *resource.NewQuantity(100<<30-(gibs*1024-mebibytes)<<22, resource.BinarySI),
			"pods":              *resource.NewQuantity(110, resource.DecimalSI),
			"hugepages-2Mi":     resource.MustParse("0"),
		}
	}
	spec := corev1.NodeSpec{
		PodCIDR: "10.0.0.0/24", PodCIDRs: []string{"10.0.0.0/24"},
		ProviderID: "aws:///eu-central-1a/i-" + fmt.Sprintf("%017x", mix(n.serial)),
	}
	status := corev1.NodeStatus{
		Capacity:    quantities(n.cores, n.gibs, n.gibs*1024),
		Allocatable: quantities(n.cores, n.gibs, n.gibs*1024-2048),
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip},
			{Type: corev1.NodeHostName, Address: n.name}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: 10250}},
		NodeInfo: corev1.NodeSystemInfo{
			MachineID:  strings.ReplaceAll(uidOf(c.seed, n.serial+1<<40), "-", ""),
			SystemUUID: uidOf(c.seed, n.serial+2<<40), BootID: uidOf(c.seed, n.serial+3<<40),
			KernelVersion: "6.12.48-simulated", OSImage: "Simulated Linux 12", ContainerRuntimeVersion: "containerd://2.2.1",
			KubeletVersion: gitVersion, OperatingSystem: "linux", Architecture: "amd64",
		},
	}
	for _, t := range []corev1.NodeConditionType{"MemoryPressure", "DiskPressure", "PIDPressure", "Ready"} {
		value, reason := corev1.ConditionFalse, "KubeletHasNo"+string(t)
		if t == corev1.NodeReady {
			value, reason = corev1.ConditionTrue, "KubeletReady"
		}
		status.Conditions = append(status.Conditions, corev1.NodeCondition{Type: t, Status: value, Reason: reason,
			Message: "simulated", LastHeartbeatTime: metav1.Unix(n.heartbeat, 0),
			LastTransitionTime: metav1.Unix(n.created, 0)})
	}
	b = appendBytes(b, objectSpec, mustMarshal(&spec))
	b, start := open(b, objectStatus)
	b = append(b, mustMarshal(&status)...)
	return seal(append(b, nodeImages()...), start)
}

// nodeImages are the images of a node's status: as many as a kubelet reports, which are most of a Node's bytes.
var nodeImages = sync.OnceValue(func() []byte {
	var status corev1.NodeStatus
	for i := range 50 {
		name := fmt.Sprintf("registry.example.com/platform/image-%d", i)
		status.Images = append(status.Images, corev1.ContainerImage{SizeBytes: int64(i+1) << 22, Names: []string{
			name + "@sha256:" + string(appendHex(nil, hashString(name))), name + ":v1.0." + strconv.Itoa(i)}})
	}
	return without(mustMarshal(&status), 5, 6, 7, 3) // addresses, endpoints and all else that each node has of its own
})

var nodeManagedFields = sync.OnceValue(func() []byte {
	var b []byte
	for _, m := range managedFields(nil) {
		b = appendBytes(b, metaManagedFields, mustMarshal(&m))
	}
	return b
})

// namespaceObject is a namespace.
type namespaceObject struct{ objectMeta }

func newNamespace(name string) *namespaceObject {
	return &namespaceObject{objectMeta{name: name, labels: newLabelSet(map[string]string{
		"kubernetes.io/metadata.name": name, "pod-security.kubernetes.io/enforce": "baseline"})}}
}

func (n *namespaceObject) kind() kind { return namespaceKind }

func (n *namespaceObject) at(rv uint64) object {
	other := *n
	other.rv = rv
	return &other
}

func (n *namespaceObject) appendMeta(_ *Cluster, b []byte) []byte { return b }

func (n *namespaceObject) appendBody(_ *Cluster, b []byte) []byte {
	b = appendBytes(b, objectSpec, mustMarshal(&corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"kubernetes"}}))
	return appendBytes(b, objectStatus, mustMarshal(&corev1.NamespaceStatus{Phase: corev1.NamespaceActive}))
}

// quotaName is that of the ResourceQuota of each of the namespaces at the start.
const quotaName = "compute"

// quota is one version of a ResourceQuota.
type quota struct {
	objectMeta
	hard, used amount
}

func (q *quota) kind() kind { return quotaKind }

func (q *quota) at(rv uint64) object {
	other := *q
	other.rv = rv
	return &other
}

func (q *quota) appendMeta(_ *Cluster, b []byte) []byte { return b }

func (q *quota) appendBody(_ *Cluster, b []byte) []byte {
	list := func(a amount) corev1.ResourceList {
		return corev1.ResourceList{
			"pods":            *resource.NewQuantity(a.pods, resource.DecimalSI),
			"requests.cpu":    *resource.NewMilliQuantity(a.cpu, resource.DecimalSI),
			"requests.memory": *resource.NewQuantity(a.memory, resource.BinarySI),
			"limits.cpu":      *resource.NewMilliQuantity(a.cpuLimit, resource.DecimalSI),
			"limits.memory":   *resource.NewQuantity(a.memoryLimit, resource.BinarySI),
		}
	}
	b = appendBytes(b, objectSpec, mustMarshal(&corev1.ResourceQuotaSpec{Hard: list(q.hard)}))
	return appendBytes(b, objectStatus, mustMarshal(&corev1.ResourceQuotaStatus{Hard: list(q.hard), Used: list(q.used)}))
}

// replicaSet is one version of a ReplicaSet, of which only the metadata is known.
type replicaSet struct {
	objectMeta
	workload *workload
	replicas int // 0 for one of an earlier revision
}

func (r *replicaSet) kind() kind { return replicaSetKind }

func (r *replicaSet) at(rv uint64) object {
	other := *r
	other.rv = rv
	return &other
}

func (r *replicaSet) appendMeta(c *Cluster, b []byte) []byte {
	w := r.workload
	b = c.appendOwner(b, w.appKind, w.app, hashString(w.namespace+"/"+w.app))
	b = appendMapEntry(b, metaAnnotations, "deployment.kubernetes.io/desired-replicas", strconv.Itoa(r.replicas))
	b = appendMapEntry(b, metaAnnotations, "deployment.kubernetes.io/max-replicas", strconv.Itoa(r.replicas+1))
	b = appendMapEntry(b, metaAnnotations, "deployment.kubernetes.io/revision", strconv.FormatUint(w.serial%20+1, 10))
	b = appendMapEntry(b, metaAnnotations, "meta.helm.sh/release-name", w.app)
	return append(b, w.shape.managed...)
}

func (r *replicaSet) appendBody(*Cluster, []byte) []byte { panic("standin: a ReplicaSet has no body") }

// job is a Job, of which only the metadata is known.
type job struct {
	objectMeta
	workload *workload
}

func (j *job) kind() kind { return jobKind }

func (j *job) at(rv uint64) object {
	other := *j
	other.rv = rv
	return &other
}

func (j *job) appendMeta(c *Cluster, b []byte) []byte {
	w := j.workload
	b = c.appendOwner(b, w.appKind, w.app, hashString(w.namespace+"/"+w.app))
	b = appendMapEntry(b, metaAnnotations, "batch.kubernetes.io/cronjob-scheduled-timestamp", "2026-01-01T00:00:00Z")
	return append(b, w.shape.managed...)
}

func (j *job) appendBody(*Cluster, []byte) []byte { panic("standin: a Job has no body") }

// newOwner is the ReplicaSet or Job that owns a workload's pods; nil where that is of another kind.
func newOwner(w *workload, replicas int, created int64) object {
	m := objectMeta{namespace: w.namespace, name: w.owner, labels: w.labels, serial: w.serial, created: created}
	switch w.kind {
	case replicaSetOwner:
		return &replicaSet{m, w, replicas}
	case jobOwner:
		return &job{m, w}
	}
	return nil
}
