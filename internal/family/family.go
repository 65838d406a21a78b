// Package family has what a metric family is, as a row of a table, and makes its samples' text.
package family

import (
	"math"
	"slices"
	"unsafe"

	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/state"
)

// Family is a metric family of a page: its samples stand together, below one HELP and one TYPE. Its samples are those
// of usage, one for each of a batch that has a value, or those of the state of objects.
type Family struct {
	Page             string // below the telemetry path; "" for the page of that path itself
	Name, Kind, Help string
	Source           string                                        // nodes, pods or, of objects, another resource
	Labels           func(u *label.Usage, to []byte, i int) []byte // of the batch's i-th sample; nil for none
	Value            func(u *label.Usage, i int) float64           // NaN for none
	State            func(*state.Samples, *state.Object)
	Header           *page.Part // its HELP and TYPE
}

// The pages below the telemetry path.
const (
	Cadvisor  = "cadvisor"
	KubeState = "kube-state-metrics"
)

// Table is every family, in the order of the pages. Two rows with one name are one family of two sources; the first of
// them has its Kind and Help.
type Table []*Family

// WithHeaders returns the table with the Header of each family.
func (t Table) WithHeaders() Table {
	var c page.Compressor
	for i, f := range t {
		if i > 0 && f.Name == t[i-1].Name {
			f.Kind, f.Header = t[i-1].Kind, t[i-1].Header
			continue
		}
		c.Write([]byte(selfmetrics.Header(f.Name, f.Kind, f.Help)))
		f.Header = c.Part()
	}
	return t
}

// Names are the families' names, in their order.
func (t Table) Names() (names []string) {
	for _, f := range t {
		names = append(names, f.Name)
	}
	return names
}

// Rows are the families of the state of a resource's objects on these pages, kube_pod_labels only where there are
// labels to show.
func (t Table) Rows(source string, pages, podLabels []string) (rows []state.Row) {
	for i, f := range t {
		ofLabels := f.Name == "kube_pod_labels"
		if f.Source == source && f.State != nil && slices.Contains(pages, f.Page) && !(ofLabels && len(podLabels) == 0) {
			rows = append(rows, state.Row{Family: uint8(i), Add: f.State})
		}
	}
	return rows
}

// Needed is Rows and, where the page for people is on, what that is made of beside.
func (t Table) Needed(source string, pages []string, top bool) []state.Row {
	rows := t.Rows(source, pages, nil)
	for i, f := range t {
		if top && f.Source == source && f.Name == "kube_node_status_allocatable" && !slices.Contains(pages, f.Page) {
			rows = append(rows, state.Row{Family: uint8(i), Add: f.State})
		}
	}
	return rows
}

// WantedBy tells whether a page has families of the state of a resource's objects.
func (t Table) WantedBy(page string) func(resource string) bool {
	return func(resource string) bool { return len(t.Rows(resource, []string{page}, nil)) > 0 }
}

// PartLen is how many samples of a batch a part has at most, of which each family has one. A list is read as a whole
// and changes as a whole, so that larger parts gain nothing but some compression (BenchmarkSplit).
const PartLen = 16 << 10

// Render renders the family's samples of a batch, and compresses them on the way. n is their number.
func (f *Family) Render(c *page.Compressor, u *label.Usage, partLen int) (parts []*page.Part, n int) {
	name := append([]byte(f.Name), '{')
	for i := range u.Samples {
		if i > 0 && i%partLen == 0 {
			parts = append(parts, c.Part())
		}
		value := f.Value(u, i)
		if math.IsNaN(value) {
			continue
		}
		text := f.Labels(u, name[:len(f.Name)+1], i)
		if text == nil {
			continue
		}
		name, n = text, n+1
		// The writer wants a string and does not keep it: one buffer serves for all.
		selfmetrics.WriteSample(c, unsafe.String(unsafe.SliceData(name), len(name)), value)
	}
	return append(parts, c.Part()), n
}
