package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
	"unsafe"

	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/state"
	"metrics-server-prom/internal/usage"
)

// family is a metric family of a page: its samples stand together, below one HELP and one TYPE. Its samples are those
// of usage, one for each of a batch that has a value, or those of the state of objects.
type family struct {
	page             string // below the telemetry path; "" for the page of that path itself
	name, kind, help string
	source           string                                        // nodes, pods or, of objects, another resource
	labels           func(u *label.Usage, to []byte, i int) []byte // of the batch's i-th sample; nil for none
	value            func(u *label.Usage, i int) float64           // NaN for none
	state            func(*state.Samples, *state.Object)
	header           *page.Part
}

// The pages below the telemetry path.
const cadvisor, kubeState = "cadvisor", "kube-state-metrics"

// The resources.
const nodes, pods, namespaces, quotas = "nodes", "pods", "namespaces", "resourcequotas"
const replicaSets, jobs = "replicasets", "jobs"

// families is every family, in the order of the pages. Two rows with one name are one family of two sources.
var families = [...]*family{
	{name: "kube_metrics_server_node_cpu", kind: "gauge", source: nodes, labels: (*label.Usage).Node, value: cpu,
		help: "CPU usage of the node in cores (CPU seconds per second), averaged over metrics-server's last window."},
	{name: "kube_metrics_server_node_mem", kind: "gauge", source: nodes, labels: (*label.Usage).Node, value: memory,
		help: "Memory working set of the node in bytes."},
	{name: "kube_metrics_server_pod_cpu", kind: "gauge", source: pods, labels: (*label.Usage).Pod, value: cpu,
		help: "CPU usage of the container in cores (CPU seconds per second), averaged over metrics-server's last window."},
	{name: "kube_metrics_server_pod_mem", kind: "gauge", source: pods, labels: (*label.Usage).Pod, value: memory,
		help: "Memory working set of the container in bytes."},

	{page: cadvisor, name: "container_cpu_usage_seconds_total", kind: "counter", source: nodes,
		labels: (*label.Usage).Root, value: seconds,
		help: "CPU time consumed in seconds, rebuilt from metrics-server's rates; id=\"/\" is a node."},
	{page: cadvisor, name: "container_cpu_usage_seconds_total", source: pods, labels: (*label.Usage).ContainerCPU, value: seconds},
	{page: cadvisor, name: "container_memory_working_set_bytes", kind: "gauge", source: nodes, labels: (*label.Usage).Root,
		value: memory, help: "Memory working set in bytes; id=\"/\" is a node."},
	{page: cadvisor, name: "container_memory_working_set_bytes", source: pods, labels: (*label.Usage).Container, value: memory},
	{page: cadvisor, name: "container_start_time_seconds", kind: "gauge", source: pods, labels: (*label.Usage).Container,
		value: (*label.Usage).Started, help: "When the container was started, in Unix seconds."},
	{page: cadvisor, name: "machine_cpu_cores", kind: "gauge", source: nodes, state: state.MachineCores,
		help: "Number of logical CPU cores of the node."},
	{page: cadvisor, name: "machine_memory_bytes", kind: "gauge", source: nodes, state: state.MachineMemory,
		help: "Memory of the node in bytes."},

	{page: kubeState, name: "kube_namespace_status_phase", kind: "gauge", source: namespaces,
		state: state.NamespacePhase, help: "Phase of the namespace."},
	{page: kubeState, name: "kube_node_info", kind: "gauge", source: nodes, state: state.NodeInfo,
		help: "What the node is; always 1."},
	{page: kubeState, name: "kube_node_role", kind: "gauge", source: nodes, state: state.NodeRole,
		help: "Roles of the node, by its labels; always 1."},
	{page: kubeState, name: "kube_node_status_allocatable", kind: "gauge", source: nodes, state: state.NodeAllocatable,
		help: "What pods may use of the node's resources."},
	{page: kubeState, name: "kube_node_status_capacity", kind: "gauge", source: nodes, state: state.NodeCapacity,
		help: "The node's resources."},
	{page: kubeState, name: "kube_resourcequota", kind: "gauge", source: quotas, state: state.ResourceQuota,
		help: "What the resource quota allows (hard), and what of it is used."},
	{page: kubeState, name: "kube_replicaset_owner", kind: "gauge", source: replicaSets, state: state.MetadataOwner,
		help: "Owners of the ReplicaSet; always 1."},
	{page: kubeState, name: "kube_job_owner", kind: "gauge", source: jobs, state: state.MetadataOwner,
		help: "Owners of the Job; always 1."},
	{page: kubeState, name: "kube_pod_info", kind: "gauge", source: pods, state: state.PodInfo,
		help: "What the pod is; always 1."},
	{page: kubeState, name: "kube_pod_owner", kind: "gauge", source: pods, state: state.PodOwner,
		help: "Owners of the pod; always 1."},
	{page: kubeState, name: "kube_pod_labels", kind: "gauge", source: pods, state: state.PodLabels,
		help: "Labels of the pod, those of --pod-labels; always 1."},
	{page: kubeState, name: "kube_pod_status_phase", kind: "gauge", source: pods, state: state.PodPhase,
		help: "Phase of the pod."},
	{page: kubeState, name: "kube_pod_status_qos_class", kind: "gauge", source: pods, state: state.PodQOSClass,
		help: "Quality of service class of the pod."},
	{page: kubeState, name: "kube_pod_status_ready", kind: "gauge", source: pods, state: state.PodReady,
		help: "Whether the pod is ready to serve requests."},
	{page: kubeState, name: "kube_pod_container_info", kind: "gauge", source: pods, state: state.ContainerInfo,
		help: "What the container is; always 1."},
	{page: kubeState, name: "kube_pod_container_resource_requests", kind: "gauge", source: pods,
		state: state.ContainerRequests, help: "Resources that the container requests."},
	{page: kubeState, name: "kube_pod_container_resource_limits", kind: "gauge", source: pods,
		state: state.ContainerLimits, help: "Resources that the container is limited to."},
	{page: kubeState, name: "kube_pod_container_status_restarts_total", kind: "counter", source: pods,
		state: state.ContainerRestarts, help: "Restarts of the container."},
	{page: kubeState, name: "kube_pod_container_status_running", kind: "gauge", source: pods,
		state: state.ContainerRunning, help: "Whether the container is running."},
	{page: kubeState, name: "kube_pod_container_status_ready", kind: "gauge", source: pods, state: state.ContainerReady,
		help: "Whether the container's readiness check succeeds."},
	{page: kubeState, name: "kube_pod_container_status_waiting_reason", kind: "gauge", source: pods,
		state: state.ContainerWaiting, help: "Why the container is waiting; always 1."},
	{page: kubeState, name: "kube_pod_container_status_last_terminated_reason", kind: "gauge", source: pods,
		state: state.ContainerLastTerminated, help: "Why the container was terminated the last time; always 1."},
}

// names are those of the families.
var names []string

func init() {
	var c page.Compressor
	for i, f := range families {
		names = append(names, f.name)
		if i > 0 && f.name == families[i-1].name {
			f.header = families[i-1].header
			continue
		}
		c.Write([]byte(selfmetrics.Header(f.name, f.kind, f.help)))
		f.header = c.Part()
	}
}

func cpu(u *label.Usage, i int) float64     { return u.Samples[i].CPU }
func memory(u *label.Usage, i int) float64  { return u.Samples[i].Memory }
func seconds(u *label.Usage, i int) float64 { return u.Seconds[i] }

// partLen is how many samples of a batch a part has at most, of which each family has one. A list is read as a whole
// and changes as a whole, so that larger parts gain nothing but some compression (BenchmarkSplit).
const partLen = 16 << 10

// render renders the family's samples of a batch, and compresses them on the way. n is their number.
func (f *family) render(c *page.Compressor, u *label.Usage, partLen int) (parts []*page.Part, n int) {
	name := append([]byte(f.name), '{')
	for i := range u.Samples {
		if i > 0 && i%partLen == 0 {
			parts = append(parts, c.Part())
		}
		value := f.value(u, i)
		if math.IsNaN(value) {
			continue
		}
		text := f.labels(u, name[:len(f.name)+1], i)
		if text == nil {
			continue
		}
		name, n = text, n+1
		// The writer wants a string and does not keep it: one buffer serves for all.
		selfmetrics.WriteSample(c, unsafe.String(unsafe.SliceData(name), len(name)), value)
	}
	return append(parts, c.Part()), n
}

// snapshot is what a scrape sees of a list. It never changes; each attempt to refresh publishes a new one.
type snapshot struct {
	usage.Status
	source   string // nodes or pods
	rendered *rendered
	read     func(func(*sample.Batch)) // gives the batch, for pages that are rendered when they are asked for
	unknown  int                       // pods without metadata
	oldest   int64                     // the oldest timestamp of the samples, as Newest
}

// rendered is a batch's samples by family: those of the telemetry path's page, and of another once it was asked for.
type rendered struct {
	parts  [len(families)][]*page.Part
	served [len(families)]int // samples
	page   string             // that was asked for
}

// nothing is rendered of a list that is not shown.
var nothing = &rendered{}

// newSnapshot renders a batch of the source.
func newSnapshot(c *page.Compressor, source string, b *sample.Batch) *snapshot {
	s := &snapshot{source: source, rendered: &rendered{}, unknown: b.Unknown, oldest: b.Oldest}
	s.rendered.add(c, source, "", b)
	return s
}

func (r *rendered) add(c *page.Compressor, source, page string, b *sample.Batch) {
	text := &label.Usage{Batch: b}
	for i, f := range families {
		if f.page == page && f.source == source && f.labels != nil {
			r.parts[i], r.served[i] = f.render(c, text, partLen)
		}
	}
}

// render renders what the page cadvisor has of the batch, if that was not done yet. It is for one goroutine at a time.
func (s *snapshot) render(c *page.Compressor) {
	r := s.rendered
	if s.read != nil && r.page != cadvisor {
		s.read(func(b *sample.Batch) { r.add(c, s.source, cadvisor, b) })
		r.page = cadvisor
	}
}

// registerServed registers the metrics of what is served, which is asked for whenever they are written.
func registerServed(self *selfmetrics.Scope, present func() []*snapshot) {
	for i, f := range families {
		if f.page != "" {
			continue
		}
		self.Gauge("samples_served", "Samples on this page.", fmt.Sprintf("family=%q", f.name), func() (sum float64) {
			for _, s := range present() {
				sum += float64(s.rendered.served[i])
			}
			return sum
		})
	}
	self.Gauge("pods_without_metadata", "Pods on this page with usage whose node and ip are not known yet.", "",
		func() (sum float64) {
			for _, s := range present() {
				sum += float64(s.unknown)
			}
			return sum
		})
	for _, source := range []string{nodes, pods} {
		stamp := func(name, which string, of func(*snapshot) int64, better func(a, b int64) int64) {
			self.Gauge(name, "The "+which+" of the timestamps that the metrics API gave for the samples being served.",
				fmt.Sprintf("resource=%q", source), func() float64 {
					best := int64(0)
					for _, s := range present() {
						if s.source != source || of(s) == 0 {
							continue
						}
						// The clock of a node that is ahead makes nothing newer than the list it is in.
						stamp := min(of(s), s.Refreshed.Unix())
						best = better(cmp.Or(best, stamp), stamp)
					}
					if best == 0 {
						return math.NaN()
					}
					return float64(best)
				})
		}
		stamp("newest_sample_timestamp_seconds", "newest", func(s *snapshot) int64 { return s.Newest },
			func(a, b int64) int64 { return max(a, b) })
		stamp("oldest_sample_timestamp_seconds", "oldest", func(s *snapshot) int64 { return s.oldest },
			func(a, b int64) int64 { return min(a, b) })
	}
}

// sampleLabels are the names of the labels that samples have, those of --pod-labels aside.
var sampleLabels = []string{"node", "pod", "ip", "container", "namespace", "resource", "reason", "family", "verb",
	"code", "result", "version", "revision", "goversion", "le", "quantile"}

// assemble makes the page of that name: of each family that has samples the header and its parts, those of snapshots
// and of objects, which are by family, and then self, the exporter's metrics of itself.
func assemble(name string, snapshots []*snapshot, objects [][][]*page.Part, self *page.Part) *page.Page {
	var parts []*page.Part
	var header *page.Part // the last
	add := func(f *family, more []*page.Part) {
		if len(more) > 0 && header != f.header {
			header = f.header
			parts = append(parts, header)
		}
		parts = append(parts, more...)
	}
	for i, f := range families {
		if f.page != name {
			continue
		}
		for _, s := range snapshots {
			if s.rendered.served[i] > 0 {
				add(f, s.rendered.parts[i])
			}
		}
		for _, of := range objects {
			add(f, of[i])
		}
	}
	return page.New(append(parts, self)...)
}

// cached is a page as scrapes are answered with it, made anew where it is not current.
type cached struct {
	name string      // "" for the page of the telemetry path
	idle *time.Timer // runs out when nobody has asked for the page for long

	mu         sync.Mutex // held while the page is made
	compressor page.Compressor
	last       *page.Page       // nil once a snapshot was replaced
	snapshots  []*snapshot      // what it shows
	objects    [][][]*page.Part // what it shows, by source and family
	at         time.Time
}

// selfAge is how old the exporter's metrics of itself may be. Reading those of the process means some files below /proc
// and a stop of the world.
const selfAge = time.Second

// maxIdle is after how long a page is given up that nobody asks for.
const maxIdle = 10 * time.Minute

// page returns the page of these snapshots and objects. It is made anew where they have changed or, with metrics of the
// exporter itself, a second has passed.
func (p *cached) page(snapshots []*snapshot, objects [][][]*page.Part, self *selfmetrics.Registry) *page.Page {
	p.mu.Lock()
	defer p.mu.Unlock()
	same := func(a, b [][]*page.Part) bool { return &a[0] == &b[0] }
	if p.last != nil && (p.name != "" || time.Since(p.at) < selfAge) && slices.Equal(p.snapshots, snapshots) &&
		slices.EqualFunc(p.objects, objects, same) {
		return p.last
	}
	p.last = nil // so that it is not kept while its successor is made
	if p.name == "" {
		self.Write(&p.compressor)
		selfmetrics.WriteProcess(&p.compressor)
	} else {
		for _, s := range snapshots {
			s.render(&p.compressor)
		}
	}
	p.last = assemble(p.name, snapshots, objects, p.compressor.Part())
	p.snapshots, p.objects, p.at = snapshots, objects, time.Now()
	return p.last
}

// forget drops the page of something that is replaced, so that nobody keeps its memory.
func (p *cached) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.snapshots, p.objects = nil, nil, nil
}

// rows are the families of the state of a resource's objects on these pages, kube_pod_labels only where there are
// labels to show.
func rows(source string, pages, podLabels []string) (rows []state.Row) {
	for i, f := range families {
		ofLabels := f.name == "kube_pod_labels"
		if f.source == source && f.state != nil && slices.Contains(pages, f.page) && !(ofLabels && len(podLabels) == 0) {
			rows = append(rows, state.Row{Family: uint8(i), Add: f.state})
		}
	}
	return rows
}

// wantedBy tells whether a page has families of the state of a resource's objects.
func wantedBy(name string) func(resource string) bool {
	return func(resource string) bool { return len(rows(resource, []string{name}, nil)) > 0 }
}
