package remotewrite

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/receiver"
)

// The families of usage on the page of cAdvisor's names.
const (
	counters = "container_cpu_usage_seconds_total"
	memory   = "container_memory_working_set_bytes"
)

// history is all that metrics-server has said of usage, by series and timestamp.
type history struct {
	mutex  sync.Mutex
	series map[string]map[int64]*reading // by the text of text, and Unix ms
	pods   map[string]*corev1.Pod        // by namespace/name, as last seen, also those that are gone
	before map[string]replaced           // by the same, what they were before that
	away   map[string]time.Time          // when a pod, namespace/name, that has had usage was last seen without it
}

func newHistory() *history {
	return &history{series: map[string]map[int64]*reading{}, pods: map[string]*corev1.Pod{}, before: map[string]replaced{},
		away: map[string]time.Time{}}
}

// replaced is a pod as it was until another state of it was seen.
type replaced struct {
	pod   *corev1.Pod
	until time.Time
}

// overlap is how long after a pod has changed a reading may be of what it was before: an exporter may have read both
// just before the change, and this history, which asks for one after the other, the reading just before and the pod
// after it.
const overlap = 2 * time.Second

// reading is a sample that metrics-server has given, and when.
type reading struct {
	// values has more than one where one rate of a pod of several containers has changed and its timestamp has not. Of
	// the CPU counters it has none: metrics-server does not know them.
	values      []float64
	first, last time.Time // when it was seen
	// resumed says that there was no usage of the pod some time after this reading and before it was seen, or that one of
	// its containers was restarted later than this: series of the pod were ended then, and go on with later readings.
	resumed bool
}

// record asks metrics-server again and again until ctx ends.
func (h *history) record(ctx context.Context, plane *controlplane.ControlPlane) error {
	direct, err := plane.MetricsServerClient()
	if err != nil {
		return err
	}
	for tick := time.NewTicker(300 * time.Millisecond); ; {
		// Not asking is harmless while metrics-server is down, as nobody else gets an answer then.
		pods, podsErr := direct.MetricsV1beta1().PodMetricses("").List(ctx, metav1.ListOptions{})
		nodes, nodesErr := direct.MetricsV1beta1().NodeMetricses().List(ctx, metav1.ListOptions{})
		objects, err := plane.Pods(ctx)
		if podsErr == nil && nodesErr == nil && err == nil {
			h.add(pods.Items, nodes.Items, objects)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return nil
		}
	}
}

func (h *history) add(pods []metricsv1beta1.PodMetrics, nodes []metricsv1beta1.NodeMetrics, objects []corev1.Pod) {
	now := time.Now()
	h.mutex.Lock()
	defer h.mutex.Unlock()
	for i := range objects {
		key := objects[i].Namespace + "/" + objects[i].Name
		if was := h.pods[key]; was != nil && was.ResourceVersion != objects[i].ResourceVersion {
			h.before[key] = replaced{was, now}
		}
		h.pods[key] = &objects[i]
	}
	add := func(at metav1.Time, pod string, one *check.Reading) {
		resumed := h.away[pod].After(at.Time)
		all := one.Samples(check.Scope{})
		var is check.Objects
		if object := h.pods[pod]; object != nil {
			is.Pods = []corev1.Pod{*object}
			for _, status := range object.Status.ContainerStatuses {
				running := status.State.Running
				// The push after the start ends series, with its own moment.
				resumed = resumed || running != nil && status.RestartCount > 0 &&
					at.Time.Before(running.StartedAt.Add(interval+2*time.Second))
			}
		}
		maps.Copy(all, is.CAdvisor(one))
		if before := h.before[pod]; now.Sub(before.until) < overlap {
			was := check.Objects{Pods: []corev1.Pod{*before.pod}}
			maps.Copy(all, was.CAdvisor(one))
		}
		for series, value := range all {
			if strings.HasPrefix(series, "container_start_time_seconds") {
				continue // which is no usage
			}
			h.see(canonical(series), at.UnixMilli(), value, now, resumed)
		}
	}
	has := map[string]bool{}
	for _, pod := range pods {
		has[pod.Namespace+"/"+pod.Name] = true
	}
	for pod := range h.away {
		if !has[pod] {
			h.away[pod] = now
		}
	}
	for _, node := range nodes {
		add(node.Timestamp, "", &check.Reading{Nodes: []metricsv1beta1.NodeMetrics{node}})
	}
	for _, pod := range pods {
		key := pod.Namespace + "/" + pod.Name
		add(pod.Timestamp, key, &check.Reading{Pods: []metricsv1beta1.PodMetrics{pod}, Metadata: h.pods})
		if _, known := h.away[key]; !known {
			h.away[key] = time.Time{}
		}
	}
}

func (h *history) see(series string, at int64, value float64, now time.Time, resumed bool) {
	of := h.series[series]
	if of == nil {
		of = map[int64]*reading{}
		h.series[series] = of
	}
	r := of[at]
	if r == nil {
		r = &reading{first: now, resumed: resumed}
		of[at] = r
	}
	if r.last = now; !strings.HasPrefix(series, counters+"{") && !slices.Contains(r.values, value) {
		r.values = append(r.values, value)
	}
}

// labelPair matches a label of a series' text.
var labelPair = regexp.MustCompile(`([a-zA-Z0-9_]+)=("(?:[^"\\]|\\.)*")`)

// canonical is the series' text with the labels in the order of their names, and without those that are empty.
func canonical(series string) string {
	name, labels, _ := strings.Cut(series, "{")
	pairs := map[string]string{}
	for _, pair := range labelPair.FindAllStringSubmatch(labels, -1) {
		value, err := strconv.Unquote(pair[2])
		if err != nil {
			panic(err) // the text format has none of Go's escapes but three
		}
		if value != "" {
			pairs[pair[1]] = value
		}
	}
	return exporter.Series(name, pairs)
}

// own is the labels that a push or the receiver adds to all series.
var own = []string{"job", "instance", "cluster", receiver.ThanosLabel, receiver.ThanosTenant}

// text is what canonical makes of a series, without the labels that a push or the receiver adds.
func text(s receiver.Series) string {
	labels := maps.Clone(s.Labels)
	name := labels["__name__"]
	for _, label := range append(own, "__name__") {
		delete(labels, label)
	}
	return exporter.Series(name, labels)
}

// span is a time in which something did not work.
type span struct{ from, to time.Time }

// compare tells what is wrong with what a receiver has stored, given by text: samples that metrics-server has not given
// with that timestamp and value, those that are there twice, and, where nothing was disturbed meanwhile, those that are
// not there. A reading counts as missing that metrics-server had for longer than needed and that is not from before one
// of the starts. off is how far a receiver's precision lets values be off, relatively.
func (h *history) compare(stored map[string][]receiver.Sample, disturbed []span, starts []time.Time, end time.Time,
	needed time.Duration, off float64) (samples, expected int, wrong []string) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	for series, all := range stored {
		var before int64
		for _, sample := range all {
			if sample.Value != sample.Value { // a stale marker
				continue
			}
			samples++
			r := h.series[series][sample.At]
			switch {
			case r == nil:
				wrong = append(wrong, fmt.Sprintf("%s at %d: metrics-server has no such reading", series, sample.At))
			case r.values != nil && !slices.ContainsFunc(r.values, func(v float64) bool { return near(v, sample.Value, off) }):
				wrong = append(wrong, fmt.Sprintf("%s at %d is %v: metrics-server says %v", series, sample.At, sample.Value,
					r.values))
			case sample.At <= before:
				wrong = append(wrong, fmt.Sprintf("%s at %d is there twice", series, sample.At))
			}
			before = sample.At
		}
	}
	undisturbed := func(r *reading, at int64) bool {
		var start time.Time // of the process that would have to send it
		for _, one := range starts {
			if one.Before(r.last) {
				start = one
			}
		}
		return !start.IsZero() && at > start.UnixMilli()+1000 && r.last.Before(end) &&
			!slices.ContainsFunc(disturbed, func(s span) bool {
				return r.first.Before(s.to) && (s.to.IsZero() || r.last.After(s.from))
			})
	}
	for series, all := range h.series {
		for at, r := range all {
			if r.last.Sub(r.first) < needed || r.resumed || strings.Contains(series, "pod=") &&
				!strings.Contains(series, "node=") ||
				!undisturbed(r, at) {
				continue
			}
			expected++
			if !slices.ContainsFunc(stored[series], func(s receiver.Sample) bool { return s.At == at }) {
				wrong = append(wrong, fmt.Sprintf("%s at %d is missing: metrics-server had it from %s to %s", series, at,
					r.first.UTC().Format("15:04:05"), r.last.UTC().Format("15:04:05")))
			}
		}
	}
	return samples, expected, wrong
}

func near(a, b, off float64) bool { return a == b || (a-b)*(a-b) <= off*off*a*a }
