// Package selfmetrics holds the exporter's metrics about itself: whoever owns a fact registers it here, and the page
// is written without asking the owners which metrics there are. Every family has a HELP and a TYPE, as collectors of
// other vendors skip what has none.
package selfmetrics

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/VictoriaMetrics/metrics"
)

// Prefix is that of all names that are registered.
const Prefix = "metrics_server_prom_"

// Registry holds families. The zero value is empty and ready to use, by any number of goroutines.
type Registry struct {
	mu       sync.Mutex
	families map[string]*family
}

// family is the samples of one name, by their labels.
type family struct {
	kind, help string
	samples    map[string]*sample // by label text, without braces
}

type sample struct {
	scope     *Scope
	write     func(w io.Writer, name string)
	counter   *metrics.Counter
	histogram *metrics.PrometheusHistogram
}

// Scope registers samples that have labels in common and end together, such as those of a cluster.
type Scope struct {
	registry *Registry
	labels   string
}

// Scope returns a new scope. Its labels, such as cluster="eu", come last in each of its samples; "" is none.
func (r *Registry) Scope(labels string) *Scope { return &Scope{r, labels} }

// Scope returns a scope with the same labels that ends by itself.
func (s *Scope) Scope() *Scope { return &Scope{s.registry, s.labels} }

// Close takes the samples out that the scope has registered, but for those that another scope has registered anew.
func (s *Scope) Close() {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	for name, f := range s.registry.families {
		maps.DeleteFunc(f.samples, func(_ string, of *sample) bool { return of.scope == s })
		if len(f.samples) == 0 {
			delete(s.registry.families, name)
		}
	}
}

// Counter returns the counter of that name (without Prefix) and those labels, such as result="ok"; a new one at the
// first call.
func (s *Scope) Counter(name, help, labels string) *metrics.Counter {
	return s.register(name, "counter", help, labels, func(of *sample, _ string) {
		if of.counter == nil {
			counter := &metrics.Counter{}
			of.counter = counter
			of.write = func(w io.Writer, name string) { metrics.WriteCounterUint64(w, name, counter.Get()) }
		}
	}).counter
}

// Histogram returns the histogram of that name and those labels, of values in seconds; a new one at the first call.
func (s *Scope) Histogram(name, help, labels string, bounds []float64) *metrics.PrometheusHistogram {
	return s.register(name, "histogram", help, labels, func(of *sample, full string) {
		if of.histogram == nil {
			set := metrics.NewSet()
			of.histogram = set.NewPrometheusHistogramExt(full, bounds)
			of.write = func(w io.Writer, _ string) { set.WritePrometheus(w) }
		}
	}).histogram
}

// Gauge registers a gauge, whose value is asked for whenever the page is written; NaN leaves the sample out. A gauge
// of the same name and labels is replaced.
func (s *Scope) Gauge(name, help, labels string, value func() float64) {
	s.register(name, "gauge", help, labels, func(of *sample, _ string) {
		of.scope = s
		of.write = func(w io.Writer, name string) {
			if v := value(); !math.IsNaN(v) {
				WriteSample(w, name, v)
			}
		}
	})
}

// register returns the sample of that name and those labels, after init.
func (s *Scope) register(name, kind, help, labels string, init func(of *sample, full string)) *sample {
	if labels != "" && s.labels != "" {
		labels += ","
	}
	labels += s.labels
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.families == nil {
		r.families = map[string]*family{}
	}
	f := r.families[name]
	if f == nil {
		f = &family{kind, help, map[string]*sample{}}
		r.families[name] = f
	}
	of := f.samples[labels]
	if of == nil {
		of = &sample{scope: s}
		f.samples[labels] = of
	}
	init(of, full(name, labels))
	return of
}

func full(name, labels string) string {
	if labels == "" {
		return Prefix + name
	}
	return Prefix + name + "{" + labels + "}"
}

// Write writes all families in the text exposition format, in the order of their names.
func (r *Registry) Write(w io.Writer) {
	type line struct {
		header, name string
		write        func(w io.Writer, name string)
	}
	var lines []line
	r.mu.Lock()
	for _, name := range slices.Sorted(maps.Keys(r.families)) {
		f := r.families[name]
		for _, labels := range slices.Sorted(maps.Keys(f.samples)) {
			lines = append(lines, line{Header(Prefix+name, f.kind, f.help), full(name, labels), f.samples[labels].write})
		}
	}
	r.mu.Unlock() // a gauge may take the locks of its owner, who may register something under them

	last := ""
	for _, l := range lines {
		var text strings.Builder
		if l.write(&text, l.name); text.Len() == 0 {
			continue
		}
		if l.header != last {
			io.WriteString(w, l.header)
			last = l.header
		}
		io.WriteString(w, text.String())
	}
}

// Header is the HELP and the TYPE of a family.
func Header(name, kind, help string) string {
	return "# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n"
}

// WriteSample writes a whole number as one, as people expect of bytes; others in the fewest digits that give the same
// float64. name is that of the family with its labels.
func WriteSample(w io.Writer, name string, value float64) {
	if whole := uint64(value); value >= 0 && value < 1<<53 && float64(whole) == value {
		metrics.WriteGaugeUint64(w, name, whole)
		return
	}
	metrics.WriteGaugeFloat64(w, name, value)
}

// processKinds are the types of the families that the library writes of the Go runtime and the process. It tells them
// only by a switch that would put a header before every sample of this program's pages, so that they are asked for
// once, before there are any.
var processKinds = func() map[string]string {
	metrics.ExposeMetadata(true)
	defer metrics.ExposeMetadata(false)
	var all strings.Builder
	metrics.WriteGoMetrics(&all)
	metrics.WriteProcMetrics(&all)
	kinds := map[string]string{}
	for line := range strings.Lines(all.String()) {
		var name, kind string
		if n, _ := fmt.Sscanf(line, "# TYPE %s %s", &name, &kind); n == 2 {
			if kinds[name] = kind; strings.HasSuffix(name, "_total") { // some are called gauges
				kinds[name] = "counter"
			}
		}
	}
	return kinds
}()

// processHelp says where families are explained, by the beginnings of their names.
var processHelp = []struct{ prefix, help string }{
	{"go_memstats_", "See https://pkg.go.dev/runtime#MemStats."},
	{"go_", "See https://pkg.go.dev/runtime and https://pkg.go.dev/runtime/metrics."},
	{"process_io_", "See proc_pid_io(5)."},
	{"process_pressure_", "See https://docs.kernel.org/accounting/psi.html."},
	{"process_", "See proc_pid_stat(5) and proc_pid_status(5)."},
}

// WriteProcess writes the metrics of the Go runtime and of the process. That means some files below /proc and a stop
// of the world.
func WriteProcess(w io.Writer) {
	var all strings.Builder
	metrics.WriteGoMetrics(&all)
	metrics.WriteProcMetrics(&all)
	last := ""
	for line := range strings.Lines(all.String()) {
		name := line[:strings.IndexAny(line, "{ ")]
		for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
			if base, found := strings.CutSuffix(name, suffix); found && processKinds[base] != "" {
				name = base
				break
			}
		}
		if name != last {
			last = name
			help := ""
			for _, h := range processHelp {
				if help == "" && strings.HasPrefix(name, h.prefix) {
					help = h.help
				}
			}
			io.WriteString(w, Header(name, cmp.Or(processKinds[name], "untyped"), help))
		}
		io.WriteString(w, line)
	}
}
