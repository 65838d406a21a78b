// Package selfmetrics holds the exporter's metrics about itself: whoever owns a fact registers it here, and the page
// is written without asking the owners which metrics there are. Every family has a HELP and a TYPE, as collectors of
// other vendors skip what has none.
package selfmetrics

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"strconv"
	"strings"
	"sync"

	"github.com/VictoriaMetrics/metrics"
)

// Prefix is that of all names that are registered.
const Prefix = "metrics_server_prom_"

// Registry holds metrics. The zero value is empty and ready to use, by any number of goroutines.
type Registry struct {
	mu      sync.Mutex
	set     *metrics.Set      // nil before the first scope
	headers map[string]string // by family
	scopes  map[string]*Scope // which has registered a sample last, by its name with labels
}

// Scope registers samples that have labels in common and end together, such as those of a cluster.
type Scope struct {
	*Registry
	labels string
	gauges map[string]func() float64 // by name with labels; not left to the set, which keeps what it has unregistered
}

// Scope returns a new scope. Its labels, such as cluster="eu", come last in each of its samples; "" is none.
func (r *Registry) Scope(labels string) *Scope {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.set == nil {
		r.set, r.headers, r.scopes = metrics.NewSet(), map[string]string{}, map[string]*Scope{}
	}
	return &Scope{r, labels, map[string]func() float64{}}
}

// Scope returns a scope with the same labels that ends by itself.
func (s *Scope) Scope() *Scope { return s.Registry.Scope(s.labels) }

// Close takes the samples out that the scope has registered, but for those that another scope has registered anew.
func (s *Scope) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.scopes, func(sample string, of *Scope) bool { return of == s && s.set.UnregisterMetric(sample) })
	clear(s.gauges)
}

// Counter returns the counter of that name (without Prefix) and those labels, such as result="ok"; a new one at the
// first call.
func (s *Scope) Counter(name, help, labels string) *metrics.Counter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set.GetOrCreateCounter(s.sample(name, "counter", help, labels))
}

// FloatCounter is Counter for what is not counted in whole numbers.
func (s *Scope) FloatCounter(name, help, labels string) *metrics.FloatCounter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set.GetOrCreateFloatCounter(s.sample(name, "counter", help, labels))
}

// Histogram returns the histogram of that name and those labels, of values in seconds; a new one at the first call.
func (s *Scope) Histogram(name, help, labels string, bounds []float64) *metrics.PrometheusHistogram {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set.GetOrCreatePrometheusHistogramExt(s.sample(name, "histogram", help, labels), bounds)
}

// Gauge registers a gauge, whose value is asked for whenever the page is written; NaN leaves the sample out. A gauge
// of the same name and labels is replaced.
func (s *Scope) Gauge(name, help, labels string, value func() float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sample := s.sample(name, "gauge", help, labels)
	s.gauges[sample] = value
	s.set.UnregisterMetric(sample)
	s.set.NewGauge(sample, func() float64 { return s.value(sample) })
}

// value is that of a gauge; NaN once the scope is closed.
func (s *Scope) value(sample string) float64 {
	s.mu.Lock()
	value := s.gauges[sample]
	s.mu.Unlock()
	if value == nil {
		return math.NaN()
	}
	return value()
}

// sample returns the name with labels of a sample that becomes this scope's.
func (s *Scope) sample(name, kind, help, labels string) string {
	name = Prefix + name
	s.headers[name] = Header(name, kind, help)
	if labels != "" && s.labels != "" {
		labels += ","
	}
	if labels += s.labels; labels != "" {
		name += "{" + labels + "}"
	}
	s.scopes[name] = s
	return name
}

// Write writes all families in the text exposition format, in the order of their names.
func (r *Registry) Write(w io.Writer) { r.write(w, "") }

// Write writes the families that have samples with the scope's labels, and of these such samples only.
func (s *Scope) Write(w io.Writer) { s.write(w, s.labels) }

// write writes the samples that have the labels; "" for all.
func (r *Registry) write(w io.Writer, labels string) {
	r.mu.Lock()
	set := r.set
	r.mu.Unlock()
	if set == nil {
		return
	}
	var samples bytes.Buffer
	set.WritePrometheus(&samples) // without the lock: who is asked for a gauge's value may register something
	r.mu.Lock()
	defer r.mu.Unlock()
	writeFamilies(w, &samples, r.headers, labels, r.scopes)
}

// writeFamilies writes samples with the header of each family before the first of it. labels are those that a sample
// has to have, "" for none; scopes may be nil.
func writeFamilies(w io.Writer, samples *bytes.Buffer, headers map[string]string, labels string,
	scopes map[string]*Scope) {
	last := ""
	for line := range strings.Lines(samples.String()) {
		if strings.HasSuffix(line, " NaN\n") || !strings.Contains(line, labels) {
			continue
		}
		family := line[:strings.IndexAny(line, "{ ")]
		for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
			if base, found := strings.CutSuffix(family, suffix); found && headers[base] != "" {
				if suffix == "_bucket" {
					line = leBefore(line, base, scopes)
				}
				family = base
				break
			}
		}
		if family != last {
			io.WriteString(w, cmp.Or(headers[family], Header(family, "untyped", "Of the Go runtime or the process.")))
			last = family
		}
		io.WriteString(w, line)
	}
}

// leBefore is the line of a bucket with the label le, which the library puts last, before those of its scope.
func leBefore(line, family string, scopes map[string]*Scope) string {
	at := strings.LastIndex(line, `,le="`)
	if at < 0 {
		return line
	}
	labels := line[len(family+"_bucket"):at]
	s := scopes[family+labels+"}"]
	if s == nil || s.labels == "" {
		return line
	}
	le, value, _ := strings.Cut(line[at+1:], "} ")
	return family + "_bucket" + strings.TrimSuffix(labels, s.labels) + le + "," + s.labels + "} " + value
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

// processHelp says where families are explained, by the beginnings of their names.
var processHelp = []struct{ prefix, help string }{
	{"go_memstats_", "See https://pkg.go.dev/runtime#MemStats."},
	{"go_", "See https://pkg.go.dev/runtime and https://pkg.go.dev/runtime/metrics."},
	{"process_io_", "See proc_pid_io(5)."},
	{"process_pressure_", "See https://docs.kernel.org/accounting/psi.html."},
	{"process_", "See proc_pid_stat(5) and proc_pid_status(5)."},
}

// processHeaders are those of the families that the library writes of the Go runtime and the process. It tells their
// types only by a switch that would put a header before every sample of this program's pages, so that they are asked
// for once, before there are any.
var processHeaders = func() map[string]string {
	metrics.ExposeMetadata(true)
	defer metrics.ExposeMetadata(false)
	headers := map[string]string{}
	for line := range strings.Lines(processSamples().String()) {
		var name, kind string
		fmt.Sscanf(line, "# TYPE %s %s", &name, &kind)
		if strings.HasSuffix(name, "_total") { // some are called gauges
			kind = "counter"
		}
		for _, h := range processHelp {
			if headers[name] == "" && strings.HasPrefix(name, h.prefix) {
				headers[name] = Header(name, kind, h.help)
			}
		}
	}
	return headers
}()

func processSamples() *bytes.Buffer {
	var samples bytes.Buffer
	metrics.WriteGoMetrics(&samples)
	metrics.WriteProcMetrics(&samples)
	return &samples
}

// WriteProcess writes the metrics of the Go runtime and of the process. That means some files below /proc and a stop
// of the world.
func WriteProcess(w io.Writer) { writeFamilies(w, processSamples(), processHeaders, "", nil) }

// Each calls f for each sample of a text that Registry.Write or WriteProcess has written. kind is the TYPE of its
// family; labels are without braces, "" for none. They and the name are parts of the text.
func Each(text []byte, f func(kind string, name, labels []byte, value float64)) {
	kind := ""
	for line := range bytes.Lines(text) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		end := bytes.LastIndexByte(line, ' ')
		if end < 0 {
			continue
		}
		sample, last := line[:end], string(line[end+1:])
		if line[0] == '#' {
			if bytes.HasPrefix(line, []byte("# TYPE ")) {
				kind = last
			}
			continue
		}
		name, labels, _ := bytes.Cut(sample, []byte("{"))
		if value, err := strconv.ParseFloat(last, 64); err == nil {
			f(kind, name, bytes.TrimSuffix(labels, []byte("}")), value)
		}
	}
}
