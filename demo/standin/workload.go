package standin

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// workload is what the pods of one owner have in common.
type workload struct {
	namespace string
	app       string // the Deployment, StatefulSet, DaemonSet or CronJob
	owner     string // what owns the pods: the app itself, or its ReplicaSet or Job; empty for a pod by itself
	kind      string // of the owner
	appKind   string // of the app, where that owns the owner
	serial    uint64 // of the owner
	hash      uint64 // all that is invented of it follows from this
	image     string // of the first container; the other containers have the same in all workloads
	labels    labelSet
	resources *profile // nil without any
	shape     *shape
}

// Kinds of owners.
const (
	replicaSetOwner  = "ReplicaSet"
	statefulSetOwner = "StatefulSet"
	daemonSetOwner   = "DaemonSet"
	jobOwner         = "Job"
)

// apiVersions are those of the kinds of owners, and of what these belong to.
var apiVersions = map[string]string{
	replicaSetOwner: "apps/v1", statefulSetOwner: "apps/v1", daemonSetOwner: "apps/v1", jobOwner: "batch/v1",
	"Deployment": "apps/v1", "CronJob": "batch/v1", "Rollout": "argoproj.io/v1alpha1",
}

var (
	teams = []string{"checkout", "search", "catalog", "identity", "billing", "shipping", "media", "platform"}
	// services are those of a team: stores and caches are StatefulSets, reports CronJobs, all others Deployments.
	services = []string{"api", "worker", "gateway", "store", "scheduler", "frontend", "report", "consumer", "cache",
		"indexer"}
	// sidecars name the containers after the first, which has the name of its service.
	sidecars = []string{"istio-proxy", "log-shipper", "metrics-agent", "vault-agent"}
	// agents are DaemonSets.
	agents = []struct{ namespace, app string }{{"kube-system", "network-agent"}, {"monitoring", "node-exporter"},
		{"logging", "log-collector"}}
)

// newWorkload invents a Deployment (with its ReplicaSet), StatefulSet or CronJob (with its Job).
func (c *Cluster) newWorkload(number, containers int) *workload {
	at, row := number%len(teams), number/len(teams)
	team, service, group := teams[at], services[(3*at+row)%len(services)], row/len(services)
	w := &workload{namespace: numbered(team, group/4), app: numbered(team+"-"+service, group),
		hash: mix(c.seed ^ uint64(number))}
	switch service {
	case "store", "cache":
		w.kind = statefulSetOwner
	case "report":
		w.kind, w.appKind = jobOwner, "CronJob"
	default:
		w.kind, w.appKind = replicaSetOwner, "Deployment"
		if number%97 == 96 { // whose ReplicaSets look as those of a Deployment do
			w.appKind = "Rollout"
		}
	}
	// Some sidecars are init containers that go on running.
	w.shape = c.shapeOf(containerNames(service, containers), w.hash>>16%8 == 0, false)
	w.resources = profiles[w.hash>>24%uint64(len(profiles)-1)]
	if number%101 == 100 {
		w.resources = profiles[len(profiles)-1]
	}
	c.release(w, map[string]string{
		"app.kubernetes.io/name": service, "app.kubernetes.io/instance": w.app, "app.kubernetes.io/component": "server",
		"app.kubernetes.io/part-of": team, "app.kubernetes.io/managed-by": "Helm", "team": team,
	})
	return w
}

// newAgent invents a DaemonSet.
func (c *Cluster) newAgent(number, containers int) *workload {
	agent := agents[number]
	w := &workload{namespace: agent.namespace, app: agent.app, kind: daemonSetOwner,
		hash: mix(c.seed - uint64(number) - 1), resources: profiles[0],
		shape: c.shapeOf(containerNames(agent.app, containers), false, true)}
	c.release(w, map[string]string{"app.kubernetes.io/name": agent.app, "team": "platform"})
	return w
}

// release gives a workload a new owner of its pods: another ReplicaSet or Job, or another revision.
func (c *Cluster) release(w *workload, labels map[string]string) {
	c.serial++
	w.serial = c.serial
	w.hash = mix(w.hash)
	template := suffix(w.hash, 10)
	version := fmt.Sprintf("v2.%d.%d", w.hash%40, w.hash>>8%20)
	w.image = "registry.example.com/" + w.namespace + "/" + w.app + ":" + version
	labels = maps.Clone(labels)
	labels["app.kubernetes.io/version"] = version
	switch w.kind {
	case replicaSetOwner:
		w.owner = w.app + "-" + template
		labels["pod-template-hash"] = template
	case jobOwner: // named for the minute for which it was scheduled, about
		w.owner = w.app + "-" + strconv.FormatInt(c.now().Unix()/60+int64(w.serial), 10)
		labels["batch.kubernetes.io/job-name"], labels["job-name"] = w.owner, w.owner
		labels["batch.kubernetes.io/controller-uid"] = uidOf(c.seed, w.serial)
	default:
		w.owner = w.app
		labels["controller-revision-hash"] = template
	}
	w.labels = newLabelSet(labels)
}

// successor is a workload of the same app, with a new owner of its pods.
func (c *Cluster) successor(w *workload) *workload {
	next := *w
	c.release(&next, w.labels.set())
	return &next
}

// podName names a pod: by its ordinal, or by what makes its random suffix.
func (w *workload) podName(number int, random uint64) string {
	if w.kind == statefulSetOwner {
		return w.app + "-" + strconv.Itoa(number)
	}
	return w.owner + "-" + suffix(random, 5)
}

// podLabels are those of one pod.
func (w *workload) podLabels(number int) labelSet {
	if w.kind != statefulSetOwner {
		return w.labels
	}
	labels := w.labels.set() // its pods carry their own names
	labels["apps.kubernetes.io/pod-index"] = strconv.Itoa(number)
	labels["statefulset.kubernetes.io/pod-name"] = w.podName(number, 0)
	return newLabelSet(labels)
}

// imageOf is the image of container i.
func (w *workload) imageOf(i int) string {
	if i == 0 && w.image != "" {
		return w.image
	}
	return w.shape.images[i]
}

// numbered tells names apart from the second on.
func numbered(name string, n int) string {
	if n == 0 {
		return name
	}
	return name + "-" + strconv.Itoa(n)
}

func containerNames(service string, n int) []string {
	names := make([]string, n)
	for i := range names {
		switch {
		case i == 0:
			names[i] = service
		case i <= len(sidecars):
			names[i] = sidecars[i-1]
		default:
			names[i] = fmt.Sprintf("%s-%d", sidecars[(i-1)%len(sidecars)], (i-1)/len(sidecars))
		}
	}
	return names
}

// suffix makes n characters of the alphabet that Kubernetes uses for generated names
// (k8s.io/apimachinery/pkg/util/rand).
func suffix(hash uint64, n int) string {
	const alphabet = "bcdfghjklmnpqrstvwxz2456789"
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[hash%uint64(len(alphabet))]
		hash = mix(hash)
	}
	return string(b)
}

// amount is what pods ask for: their number, millicores and bytes.
type amount struct{ pods, cpu, memory, cpuLimit, memoryLimit int64 }

func (a amount) plus(b amount, times int64) amount {
	return amount{a.pods + times*b.pods, a.cpu + times*b.cpu, a.memory + times*b.memory,
		a.cpuLimit + times*b.cpuLimit, a.memoryLimit + times*b.memoryLimit}
}

// amount is that of one pod.
func (w *workload) amount() amount {
	a := amount{pods: 1}
	for i := range w.shape.containers {
		if r := w.resourcesOf(i); r != nil {
			a = a.plus(r.amount, 1)
		}
	}
	return a
}

// resourcesOf are the requests and limits of container i; nil for none.
func (w *workload) resourcesOf(i int) *containerResources {
	switch {
	case w.resources == nil:
		return nil
	case i == 0:
		return &w.resources.main
	}
	return &w.resources.side
}

// profile is what the containers of a pod ask for: the first one, and each other one.
type profile struct {
	qos        corev1.PodQOSClass
	main, side containerResources
}

// containerResources are the requests and limits of one container, with their protobuf form.
type containerResources struct {
	amount
	spec   []byte // a ResourceRequirements
	status []byte // the fields of a ContainerStatus that repeat them
}

// profiles are those of the workloads, all but the last equally often.
var profiles = func() (all []*profile) {
	const (
		none  = ""
		small = "cpu=50m memory=64Mi / cpu=200m memory=128Mi"
		same  = "cpu=50m memory=64Mi / cpu=50m memory=64Mi"
	)
	for _, p := range []struct {
		qos        corev1.PodQOSClass
		main, side string
	}{
		{corev1.PodQOSBurstable, "cpu=250m memory=256Mi / memory=512Mi", small},
		{corev1.PodQOSBurstable, "cpu=100m memory=128Mi / cpu=500m memory=256Mi", small},
		{corev1.PodQOSBurstable, "cpu=500m memory=512Mi / cpu=1 memory=1Gi", small},
		{corev1.PodQOSGuaranteed, "cpu=500m memory=1Gi / cpu=500m memory=1Gi", same},
		{corev1.PodQOSBurstable, "cpu=50m memory=64Mi / memory=128Mi", none},
		{corev1.PodQOSBurstable, "cpu=1 memory=2Gi / cpu=2 memory=4Gi", small},
		{corev1.PodQOSBurstable, "cpu=200m memory=384Mi / cpu=1500m memory=768Mi", small},
		{corev1.PodQOSBestEffort, none, none},
		{corev1.PodQOSBurstable, "cpu=100m memory=256Mi ephemeral-storage=1Gi / memory=512Mi ephemeral-storage=2Gi", small},
		{corev1.PodQOSGuaranteed, "cpu=250m memory=512Mi / cpu=250m memory=512Mi", same},
		{corev1.PodQOSBurstable, "memory=192Mi / memory=384Mi", small},
		{corev1.PodQOSBurstable, "cpu=2 memory=8Gi nvidia.com/gpu=1 / memory=12Gi nvidia.com/gpu=1", small},
	} {
		all = append(all, &profile{p.qos, newContainerResources(p.main), newContainerResources(p.side)})
	}
	return all
}()

// newContainerResources reads "requests / limits".
func newContainerResources(text string) containerResources {
	requests, limits, _ := strings.Cut(text, " / ")
	r := corev1.ResourceRequirements{Requests: resourceList(requests), Limits: resourceList(limits)}
	s := corev1.ContainerStatus{AllocatedResources: r.Requests, Resources: &r}
	return containerResources{
		amount: amount{cpu: r.Requests.Cpu().MilliValue(), memory: r.Requests.Memory().Value(),
			cpuLimit: r.Limits.Cpu().MilliValue(), memoryLimit: r.Limits.Memory().Value()},
		spec:   mustMarshal(&r),
		status: without(mustMarshal(&s), statusWritten...),
	}
}

func resourceList(text string) corev1.ResourceList {
	var list corev1.ResourceList
	for _, field := range strings.Fields(text) {
		if list == nil {
			list = corev1.ResourceList{}
		}
		name, quantity, _ := strings.Cut(field, "=")
		list[corev1.ResourceName(name)] = resource.MustParse(quantity)
	}
	return list
}
