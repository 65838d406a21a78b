package main

import (
	"io"
	"math"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unique"
	"unsafe"

	"github.com/VictoriaMetrics/metrics"

	"metrics-server-prom/internal/gzpage"
	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/slim"
)

// contentType is the text exposition format, version 0.0.4:
// https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// family is a metric family: its samples stand together, below one HELP and one TYPE.
type family struct{ name, kind, help string }

func (f family) header() string {
	return "# HELP " + f.name + " " + f.help + "\n# TYPE " + f.name + " " + f.kind + "\n"
}

var (
	nodeFamilies = [2]family{
		{"kube_metrics_server_node_cpu", "gauge", "CPU usage of the node in cores (CPU seconds per second), averaged over metrics-server's last window."},
		{"kube_metrics_server_node_mem", "gauge", "Memory working set of the node in bytes."},
	}
	podFamilies = [2]family{
		{"kube_metrics_server_pod_cpu", "gauge", "CPU usage of the container in cores (CPU seconds per second), averaged over metrics-server's last window."},
		{"kube_metrics_server_pod_mem", "gauge", "Memory working set of the container in bytes."},
	}
)

// podText is the label text of a pod's samples, the container's name left out:
//
//	node="N",pod="   P",ip="I",container="   …   ",namespace="NS",label_L="V"}
//
// The first and the last part are the same for many pods and held once. What is compared with == is all of it.
type podText struct {
	node unique.Handle[string]
	head string
	tail unique.Handle[string]
}

// nodePod stands for the pod in the samples of nodes, whose label text is the node's name in place of the container's.
var nodePod = pod{Value: podText{node: unique.Make(`node="`), tail: unique.Make(`"}`)}}

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
		l.names[i] = "label_" + strings.ToLower(camelCase.ReplaceAllString(notInName.ReplaceAllString(key, "_"), "${1}_${2}"))
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
func (l labeler) pod(p *slim.Pod) (text podText, name string) {
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
	return podText{unique.Make(`node="` + escape(p.Spec.NodeName) + `",pod="`), head, unique.Make(tail.String())}, name
}

// unknown builds the label text of a pod of which there is only usage.
func (l labeler) unknown(namespace, name string) podText {
	p := &slim.Pod{}
	p.Namespace, p.Name = namespace, name
	text, _ := l.pod(p)
	return text
}

var escapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`, "\x00", "\uFFFD")

// escape makes a label value of any string. What is no text (invalid UTF-8, NUL) becomes U+FFFD, because Prometheus would
// refuse the whole page for it.
func escape(s string) string { return escapes.Replace(strings.ToValidUTF8(s, "\uFFFD")) }

// renderPart renders the samples of a batch, family by family, and compresses them on the way. served is their number in
// each family; a family without samples is not there at all.
func renderPart(zip *gzpage.Compressor, families [2]family, b *sample.Batch[podText]) (part *gzpage.Part, served [2]int) {
	var name []byte
	for i, f := range families {
		for j := range b.Samples {
			s := &b.Samples[j]
			value := s.CPU
			if i == 1 {
				value = s.Memory
			}
			if math.IsNaN(value) {
				continue
			}
			if served[i]++; served[i] == 1 {
				io.WriteString(zip, f.header())
				name = append(append(name[:0], f.name...), '{')
			}
			text := &s.Pod.Value
			name = append(append(append(append(name[:len(f.name)+1], text.node.Value()...), text.head...), b.Names[s.Name]...), text.tail.Value()...)
			// The writer wants a string and does not keep it: one buffer serves for all.
			writeSample(zip, unsafe.String(unsafe.SliceData(name), len(name)), value)
		}
	}
	return zip.Part(), served
}

// writeSample writes a whole number as one, as people expect of bytes; others in the fewest digits that give the same
// float64.
func writeSample(w io.Writer, name string, value float64) {
	if whole := uint64(value); value >= 0 && value < 1<<53 && float64(whole) == value {
		metrics.WriteGaugeUint64(w, name, whole)
		return
	}
	metrics.WriteGaugeFloat64(w, name, value)
}

// view is what one scrape sees.
type view struct {
	x           *exporter // nil while no cluster is configured
	nodes, pods *snapshot
}

// telemetry is the exporter's own metrics.
type telemetry struct {
	health          health.Board
	dropped         map[string]*metrics.Counter             // by reason
	refreshDuration map[string]*metrics.PrometheusHistogram // by resource
	errors          *metrics.Set
	requests        *metrics.Set
	pushes          *metrics.Set
	families        []ownFamily

	changes atomic.Uint64 // of the counters and histograms so far
	mu      sync.Mutex    // held while the own metrics are rendered
	zip     gzpage.Compressor
	process []byte       // the Go runtime's and the process's metrics
	readAt  time.Time    // when these were read
	last    *gzpage.Page // what the scrape before was answered
	lastOf  moment       // when that was true
}

// moment is all that a page depends on: two scrapes of one moment get the same bytes.
type moment struct {
	view
	changes                 uint64
	readAt                  time.Time
	watched                 int
	watchUp                 bool
	tick, lastNew, addedAge int64
}

// ownFamily is a family with its samples: those of a set, or gauges of the moment.
type ownFamily struct {
	family
	set    *metrics.Set
	gauges func(moment, func(labels string, value float64))
}

func newTelemetry() *telemetry {
	t := &telemetry{dropped: map[string]*metrics.Counter{}, refreshDuration: map[string]*metrics.PrometheusHistogram{}, errors: metrics.NewSet(), requests: metrics.NewSet(), pushes: metrics.NewSet()}
	dropped, durations := metrics.NewSet(), metrics.NewSet()
	for _, reason := range sample.Reasons {
		t.dropped[reason] = dropped.NewCounter(own + `samples_dropped_total{reason="` + reason + `"}`)
	}
	for _, resource := range []string{"nodes", "pods"} {
		t.refreshDuration[resource] = durations.NewPrometheusHistogramExt(own+`refresh_duration_seconds{resource="`+resource+`"}`,
			[]float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30})
		for _, reason := range kube.Reasons {
			t.refreshErrors(resource, reason)
		}
	}
	t.families = []ownFamily{
		gauges("build_info", "The version of this program; the value is always 1.", func(_ moment, emit func(string, float64)) {
			emit(`{version="`+escape(version)+`",revision="`+escape(revision)+`",goversion="`+runtime.Version()+`"}`, 1)
		}),
		gauges("up", "Whether the last refresh of the resource worked.", perResource(func(s *snapshot) float64 { return truth(s.failure == nil && !s.refreshed.IsZero()) })),
		{family{own + "refresh_errors_total", "counter", "Refreshes that failed."}, t.errors, nil},
		{family{own + "refresh_duration_seconds", "histogram", "Time to read a resource and join it with its labels."}, durations, nil},
		gauges("last_refresh_timestamp_seconds", "When the resource was last refreshed.", perResource(func(s *snapshot) float64 { return unixSeconds(s.refreshed) })),
		gauges("newest_sample_timestamp_seconds", "The newest of the timestamps that the metrics API gave for the samples being served.", perResource(func(s *snapshot) float64 { return timestamp(s.newest) })),
		gauges("oldest_sample_timestamp_seconds", "The oldest of the timestamps that the metrics API gave for the samples being served.", perResource(func(s *snapshot) float64 { return timestamp(s.oldest) })),
		gauges("watched_pods", "Pods whose labels are known.", func(m moment, emit func(string, float64)) {
			emit("", float64(m.watched))
		}),
		gauges("watch_up", "Whether the watch of the pods has had its first list and its last request worked.", func(m moment, emit func(string, float64)) {
			emit("", truth(m.watchUp))
		}),
		gauges("samples_served", "Samples on this page.", func(m moment, emit func(string, float64)) {
			for i := range 2 {
				emit(`{family="`+nodeFamilies[i].name+`"}`, float64(m.nodes.served[i]))
				emit(`{family="`+podFamilies[i].name+`"}`, float64(m.pods.served[i]))
			}
		}),
		{family{own + "samples_dropped_total", "counter", "Samples of the metrics API that were not served."}, dropped, nil},
		gauges("pods_without_metadata", "Pods on this page with usage whose node and ip are not known yet.", func(m moment, emit func(string, float64)) { emit("", float64(m.pods.unknown)) }),
		{family{own + "api_requests_total", "counter", "Requests made to the API server."}, t.requests, nil},
		{family{own + "pushes_total", "counter", "Pushes of this page, by how they ended."}, t.pushes, nil},
		gauges("data_last_new_timestamp_seconds", "When a page first had newer pod samples than the page before.", func(m moment, emit func(string, float64)) {
			if m.x != nil {
				emit("", float64(m.lastNew)/1e9)
			}
		}),
		gauges("data_added_age_seconds", "How much later than the metrics API had them the present pod samples were first served, at most; absent where that is not known.", func(m moment, emit func(string, float64)) {
			if m.x != nil && m.addedAge >= 0 {
				emit("", float64(m.addedAge)/1e9)
			}
		}),
		gauges("source_period_seconds", "Time between two ticks of the metrics API at which it has new data; 0 while none is known.", func(m moment, emit func(string, float64)) {
			if m.x != nil {
				emit("", time.Duration(m.tick).Seconds())
			}
		}),
	}
	return t
}

// own is the prefix of the names of the exporter's own metrics.
const own = "metrics_server_prom_"

func gauges(name, help string, f func(moment, func(string, float64))) ownFamily {
	return ownFamily{family{own + name, "gauge", help}, nil, f}
}

// perResource emits one gauge for each resource, but for those that are NaN.
func perResource(value func(*snapshot) float64) func(moment, func(string, float64)) {
	return func(m moment, emit func(string, float64)) {
		if x := value(m.nodes); !math.IsNaN(x) {
			emit(`{resource="nodes"}`, x)
		}
		if x := value(m.pods); !math.IsNaN(x) {
			emit(`{resource="pods"}`, x)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// unixSeconds is NaN for the zero time.
func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return math.NaN()
	}
	return float64(t.UnixMilli()) / 1e3
}

// timestamp is NaN for the 0 of no samples.
func timestamp(unix int64) float64 {
	if unix == 0 {
		return math.NaN()
	}
	return float64(unix)
}

func (t *telemetry) refreshErrors(resource, reason string) *metrics.Counter {
	return t.errors.GetOrCreateCounter(own + `refresh_errors_total{resource="` + resource + `",reason="` + reason + `"}`)
}

// Each of the following counts something and says that a page rendered before is not of this moment any more.

func (t *telemetry) drop(reason string, samples int) {
	defer t.changes.Add(1)
	t.dropped[reason].Add(samples)
}

func (t *telemetry) refreshFailed(resource, reason string) {
	defer t.changes.Add(1)
	t.refreshErrors(resource, reason).Inc()
}

func (t *telemetry) refreshTook(resource string, since time.Time) {
	defer t.changes.Add(1)
	t.refreshDuration[resource].UpdateDuration(since)
}

// request counts a request to the API server.
func (t *telemetry) request(resource, verb, code string) {
	defer t.changes.Add(1)
	t.requests.GetOrCreateCounter(own + `api_requests_total{resource="` + resource + `",verb="` + verb + `",code="` + code + `"}`).Inc()
}

// pushed counts a push.
func (t *telemetry) pushed(worked bool) {
	defer t.changes.Add(1)
	result := "error"
	if worked {
		result = "ok"
	}
	t.pushes.GetOrCreateCounter(own + `pushes_total{result="` + result + `"}`).Inc()
}

// write writes the own metrics of a moment.
func (t *telemetry) write(w io.Writer, m moment) {
	for _, f := range t.families {
		first := true
		header := func() {
			if first {
				io.WriteString(w, f.header())
				first = false
			}
		}
		if f.set != nil {
			if len(f.set.ListMetricNames()) > 0 {
				header()
				f.set.WritePrometheus(w)
			}
			continue
		}
		f.gauges(m, func(labels string, value float64) {
			header()
			writeSample(w, f.name+labels, value)
		})
	}
}

// processEvery is how long the metrics of the process may be shared between scrapes. Reading them means some files below
// /proc and a stop of the world.
const processEvery = time.Second

// processMetrics are those of the Go runtime and the process. The library adds its own of pushes, with the receiver's URL as
// a label: that may hold a key, and pushes_total tells the rest.
func processMetrics() (kept []byte) {
	var all strings.Builder
	metrics.WriteProcessMetrics(&all)
	for line := range strings.Lines(all.String()) {
		if !strings.HasPrefix(line, "metrics_push_") {
			kept = append(kept, line...)
		}
	}
	return kept
}

// page is what a scrape of the view is answered: the snapshots' bytes as they are, and the own metrics of this moment,
// which are rendered only where they have changed since the last scrape.
func (t *telemetry) page(v view) *gzpage.Page {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.readAt) >= processEvery {
		t.process, t.readAt = processMetrics(), now
	}
	m := moment{view: v, changes: t.changes.Load(), readAt: t.readAt}
	if x := v.x; x != nil {
		m.watched, m.watchUp = x.cache.Len(), x.watch.Up()
		m.tick, m.lastNew, m.addedAge = x.tick.Load(), x.lastNew.Load(), x.addedAge.Load()
	}
	if t.last == nil || m != t.lastOf {
		t.write(&t.zip, m)
		t.zip.Write(t.process)
		t.last, t.lastOf = gzpage.New(v.nodes.part, v.pods.part, t.zip.Part()), m
	}
	return t.last
}

// forget drops the page of a snapshot that is replaced, so that nobody keeps its memory.
func (t *telemetry) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last, t.lastOf = nil, moment{}
}
