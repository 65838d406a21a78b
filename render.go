package main

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unique"
	"unsafe"

	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/store"
	"metrics-server-prom/internal/usage"
)

// contentType is the text exposition format, version 0.0.4:
// https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// family is a metric family: its samples stand together, below one HELP and one TYPE.
type family struct {
	name, kind, help string
	source           string // the resource of metrics.k8s.io whose lists have its samples
	labels           func(to []byte, b *sample.Batch, s *sample.Sample) []byte
	value            func(*sample.Sample) float64 // NaN where the sample has none
	header           *page.Part
}

// families is every family, in the order of the page.
var families = [...]*family{
	{name: "kube_metrics_server_node_cpu", kind: "gauge", source: nodes, labels: nodeLabels, value: cpu,
		help: "CPU usage of the node in cores (CPU seconds per second), averaged over metrics-server's last window."},
	{name: "kube_metrics_server_node_mem", kind: "gauge", source: nodes, labels: nodeLabels, value: memory,
		help: "Memory working set of the node in bytes."},
	{name: "kube_metrics_server_pod_cpu", kind: "gauge", source: pods, labels: podLabels, value: cpu,
		help: "CPU usage of the container in cores (CPU seconds per second), averaged over metrics-server's last window."},
	{name: "kube_metrics_server_pod_mem", kind: "gauge", source: pods, labels: podLabels, value: memory,
		help: "Memory working set of the container in bytes."},
}

// The sources: resources of metrics.k8s.io.
const nodes, pods = "nodes", "pods"

func init() {
	var c page.Compressor
	for _, f := range families {
		c.Write([]byte(selfmetrics.Header(f.name, f.kind, f.help)))
		f.header = c.Part()
	}
}

func cpu(s *sample.Sample) float64    { return s.CPU }
func memory(s *sample.Sample) float64 { return s.Memory }

func nodeLabels(to []byte, b *sample.Batch, s *sample.Sample) []byte {
	return append(append(append(to, `node="`...), b.Names[s.Name]...), `"}`...)
}

func podLabels(to []byte, b *sample.Batch, s *sample.Sample) []byte {
	text := &s.Pod.Value
	return append(append(append(append(to, text.Node.Value()...), text.Head...), b.Names[s.Name]...), text.Tail.Value()...)
}

// partLen is how many samples of a batch a part has at most, of which each family has one. A list is read as a whole
// and changes as a whole, so that larger parts gain nothing but some compression (BenchmarkSplit).
const partLen = 16 << 10

// render renders the family's samples of a batch, and compresses them on the way. n is their number.
func (f *family) render(c *page.Compressor, b *sample.Batch, partLen int) (parts []*page.Part, n int) {
	name := append([]byte(f.name), '{')
	for i := range b.Samples {
		if i > 0 && i%partLen == 0 {
			parts = append(parts, c.Part())
		}
		s := &b.Samples[i]
		value := f.value(s)
		if math.IsNaN(value) {
			continue
		}
		n++
		name = f.labels(name[:len(f.name)+1], b, s)
		// The writer wants a string and does not keep it: one buffer serves for all.
		selfmetrics.WriteSample(c, unsafe.String(unsafe.SliceData(name), len(name)), value)
	}
	return append(parts, c.Part()), n
}

// snapshot is what a scrape sees of a list. It never changes; each attempt to refresh publishes a new one.
type snapshot struct {
	usage.Status
	source         string                      // nodes or pods
	parts          [len(families)][]*page.Part // by family
	served         [len(families)]int          // samples, by family
	unknown        int                         // pods without metadata
	oldest, newest int64                       // own timestamps of the samples, Unix seconds; 0 where there are none
	newestOf       store.Key                   // the pod, or the node without a namespace, that has the newest
}

// registerServed registers the metrics of what is served, which is asked for whenever they are written.
func registerServed(self *selfmetrics.Scope, present func() []*snapshot) {
	for i, f := range families {
		self.Gauge("samples_served", "Samples on this page.", fmt.Sprintf("family=%q", f.name), func() (sum float64) {
			for _, s := range present() {
				sum += float64(s.served[i])
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
		stamp("newest_sample_timestamp_seconds", "newest", func(s *snapshot) int64 { return s.newest },
			func(a, b int64) int64 { return max(a, b) })
		stamp("oldest_sample_timestamp_seconds", "oldest", func(s *snapshot) int64 { return s.oldest },
			func(a, b int64) int64 { return min(a, b) })
	}
}

// newSnapshot renders a batch of the source.
func newSnapshot(c *page.Compressor, source string, b *sample.Batch) *snapshot {
	s := &snapshot{source: source, unknown: b.Unknown, oldest: b.Oldest, newest: b.Newest, newestOf: b.NewestOf}
	for i, f := range families {
		if f.source == source {
			s.parts[i], s.served[i] = f.render(c, b, partLen)
		}
	}
	return s
}

// sampleLabels are the names of the labels that samples have, those of --pod-labels aside.
var sampleLabels = []string{"node", "pod", "ip", "container", "namespace", "resource", "reason", "family", "verb",
	"code", "result", "version", "revision", "goversion", "le", "quantile"}

// assemble makes a page of the snapshots: of each family that has samples the header and its parts, and then self, the
// exporter's metrics of itself.
func assemble(snapshots []*snapshot, self *page.Part) *page.Page {
	var parts []*page.Part
	for i, f := range families {
		begin := len(parts)
		for _, s := range snapshots {
			if s.served[i] == 0 {
				continue
			}
			if len(parts) == begin {
				parts = append(parts, f.header)
			}
			parts = append(parts, s.parts[i]...)
		}
	}
	return page.New(append(parts, self)...)
}

// pages is the page that scrapes are answered, made anew where it is not current.
type pages struct {
	mu         sync.Mutex // held while a page is made
	compressor page.Compressor
	last       *page.Page  // nil once a snapshot was replaced
	of         []*snapshot // what it shows
	at         time.Time
}

// selfAge is how old the exporter's metrics of itself may be. Reading those of the process means some files below /proc
// and a stop of the world.
const selfAge = time.Second

// page returns the page of these snapshots. It is made anew where they have changed or a second has passed.
func (p *pages) page(snapshots []*snapshot, self *selfmetrics.Registry) *page.Page {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil || time.Since(p.at) >= selfAge || !slices.Equal(p.of, snapshots) {
		self.Write(&p.compressor)
		selfmetrics.WriteProcess(&p.compressor)
		p.last, p.of, p.at = assemble(snapshots, p.compressor.Part()), snapshots, time.Now()
	}
	return p.last
}

// forget drops the page of a snapshot that is replaced, so that nobody keeps its memory.
func (p *pages) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.of = nil, nil
}

// labeler builds label text.
type labeler struct {
	keys  []string // labels of pods that are served
	names []string // their names on the page
}

var (
	notInName = regexp.MustCompile(`[^a-zA-Z0-9_]`)
	camelCase = regexp.MustCompile(`([a-z0-9])([A-Z])`)
)

// newLabeler names the labels as kube-state-metrics does (internal/store/utils.go there): what cannot stand in a name
// becomes _, camelCase becomes snake_case, and labels that would get the same name are told apart by _conflictN.
func newLabeler(keys []string) labeler {
	l := labeler{keys: keys, names: make([]string, len(keys))}
	uses := map[string]int{}
	for i, key := range keys {
		snake := camelCase.ReplaceAllString(notInName.ReplaceAllString(key, "_"), "${1}_${2}")
		l.names[i] = "label_" + strings.ToLower(snake)
		uses[l.names[i]]++
	}
	seen := map[string]int{}
	for i, name := range l.names {
		if uses[name] < 2 {
			continue
		}
		for uses[l.names[i]] > 0 { // a label that is called so by itself stays
			seen[name]++
			l.names[i] = name + "_conflict" + strconv.Itoa(seen[name])
		}
	}
	return l
}

// pod builds the label text of a pod. The name that it returns is part of it where possible, so as not to take memory
// of its own.
func (l labeler) pod(p *slim.Pod) (text sample.Text, name string) {
	podName := escape(p.Name)
	head := podName + `",ip="` + escape(p.Status.PodIP) + `",container="`
	name = head[:len(podName)]
	if podName != p.Name {
		name = strings.Clone(p.Name)
	}
	var tail strings.Builder
	tail.WriteString(`",namespace="` + escape(p.Namespace) + `"`)
	for i, key := range l.keys {
		if value, ok := p.Labels[key]; ok {
			tail.WriteString("," + l.names[i] + `="` + escape(value) + `"`)
		}
	}
	tail.WriteString("}")
	node := unique.Make(`node="` + escape(p.Spec.NodeName) + `",pod="`)
	return sample.Text{Node: node, Head: head, Tail: unique.Make(tail.String())}, name
}

// unknown builds the label text of a pod of which there is only usage.
func (l labeler) unknown(namespace, name string) sample.Text {
	p := &slim.Pod{}
	p.Namespace, p.Name = namespace, name
	text, _ := l.pod(p)
	return text
}

var escapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`, "\x00", "\uFFFD")

// escape makes a label value of any string. What is no text (invalid UTF-8, NUL) becomes U+FFFD, because Prometheus
// would refuse the whole page for it.
func escape(s string) string { return escapes.Replace(strings.ToValidUTF8(s, "\uFFFD")) }
