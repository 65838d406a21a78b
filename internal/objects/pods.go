package objects

import (
	"metrics-server-prom/internal/counter"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/state"
	"metrics-server-prom/internal/store"
)

// Pods is what is kept of pods.
type Pods struct {
	Labels   label.Pods
	Selector string // of labels
	Whole    bool   // whether more than label text is kept:
	Workload bool   // or else of that no more than state.KeepWorkload
	Counted  bool   // whether their containers' CPU time is counted
	// Rows are the families of their state, none for no parts of that; Names are those of all families.
	Rows    []state.Row
	Names   []string
	Changed func(namespace string) // as of watch.Options
}

// podLeafLen is how many pods' samples of a family are rendered together: where one of the pods changes, all of these
// are rendered anew. Fewer of them are compressed less (BenchmarkParts).
const podLeafLen = 64

// NewPods returns a source of pods. Label text and state are made here, when a pod changes, not when its usage is read
// or a page is scraped.
func NewPods(c *Cluster, pods Pods) *Source[sample.Text] {
	o := For[sample.Text](c, kube.Core, "pods")
	o.LabelSelector, o.Changed = pods.Selector, pods.Changed
	o.New = func() slim.Object { return &slim.Pod{Whole: pods.Whole, Workload: pods.Workload} }
	o.Keep = func(object slim.Object) store.Entry[sample.Text] {
		p := object.(*slim.Pod)
		text, name := pods.Labels.Text(p)
		switch {
		case pods.Whole:
			text.Shared, text.Own = state.Keep(p).Pack()
		case pods.Workload:
			text.Shared, _ = state.KeepWorkload(p).Pack()
		}
		e := store.NewEntry(object, name, text)
		if pods.Counted {
			e.Counters = &counter.Set{}
		}
		return e
	}
	if len(pods.Rows) > 0 {
		renderer := state.Renderer{Names: pods.Names, Cluster: c.Label}
		o.LeafLen = podLeafLen
		o.Render = func(c *page.Compressor, entries []store.Entry[sample.Text]) []*page.Part {
			return renderer.Pods(c, pods.Rows, entries)
		}
	}
	source := New(o)
	c.Self.Gauge("watched_pods", "Replaced by "+selfmetrics.Prefix+"watched_objects; gone in the next version.", "",
		func() float64 { return float64(source.Store.Len()) })
	return source
}

// Keys are those of the source's health.
func (s *Source[V]) Keys() (keys []string) {
	for _, namespace := range s.Watch.Namespaces {
		keys = append(keys, s.Watch.What(namespace))
	}
	return keys
}
