package top

import (
	"cmp"
	"math"
	"strings"

	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/store"
)

// The figures of a row, in cores and bytes.
const (
	cpu = iota
	memory
	cpuRequest
	memoryRequest
	cpuLimit
	memoryLimit
	cpuAllocatable
	memoryAllocatable
	cpuPeak
	memoryPeak
	figures = iota
	summed  = cpuAllocatable // how many of them are sums of those of containers
)

var figureNames = [figures]string{"cpu", "memory", "cpuRequest", "memoryRequest", "cpuLimit", "memoryLimit",
	"cpuAllocatable", "memoryAllocatable", "cpuPeak", "memoryPeak"}

// sum is the figures of some containers, NaN for what is not known of any.
type sum struct {
	of               [summed]float64
	pods, containers int
}

func noSum() (s sum) {
	for i := range s.of {
		s.of[i] = math.NaN()
	}
	return s
}

func (s *sum) add(other *sum) {
	for i, value := range other.of {
		s.of[i] = plus(s.of[i], value)
	}
	s.pods += other.pods
	s.containers += other.containers
}

// plus is the sum of what is known of both.
func plus(a, b float64) float64 {
	switch {
	case math.IsNaN(b):
		return a
	case math.IsNaN(a):
		return b
	}
	return a + b
}

// row is one of an answer's rows. Its names are as the cluster has them, and may be anything.
type row struct {
	name, namespace string
	workload        string                     // Kind/NAME, of pods and containers; "" where it is not known
	object          *store.Object[sample.Text] // the pod, of pods and containers
	sum
	more   [figures - summed]float64 // the figures that are no sums, NaN for what is not known
	key    float64                   // by which it is sorted; NaN for none
	chosen bool                      // whether it has a pod that is asked for
	past   [2][]float64              // of CPU and memory, NaN for what is missing; see history
}

func newRow(namespace, name string, s *sum) *row {
	r := &row{name: name, namespace: namespace, sum: *s}
	for i := range r.more {
		r.more[i] = math.NaN()
	}
	return r
}

func (r *row) figure(i int) float64 {
	if i < summed {
		return r.of[i]
	}
	return r.more[i-summed]
}

// order is what rows are sorted by.
type order int

const (
	byCPU order = iota
	byMemory
	byCPURequest
	byMemoryRequest
	byCPULimit
	byMemoryLimit
	byCPUPeak
	byMemoryPeak
	byName
	byNamespace
)

var orderNames = []string{"cpu", "memory", "cpuRequestShare", "memoryRequestShare", "cpuLimitShare", "memoryLimitShare",
	"cpuPeak", "memoryPeak", "name", "namespace"}

// keyOf is the number that a row of these figures is sorted by, NaN for none, and for a peak, which is none of them.
func (o order) keyOf(s *sum) float64 {
	switch o {
	case byCPU, byMemory:
		return s.of[o]
	case byCPURequest, byMemoryRequest, byCPULimit, byMemoryLimit: // numbered as the figures are
		if whole := s.of[o]; whole > 0 {
			return s.of[o&1] / whole
		}
	}
	return math.NaN()
}

// ofPeak tells whether it is a peak that rows are sorted by.
func (o order) ofPeak() bool { return o == byCPUPeak || o == byMemoryPeak }

// best keeps the first rows in the order of a query, as a heap with the last of them at its top.
type best struct {
	query *query
	rows  []*row
	found int // rows that were offered
}

// offer takes in a row if it is among the first so far.
func (b *best) offer(r *row) {
	b.found++
	if len(b.rows) < b.query.limit {
		b.rows = append(b.rows, r)
		for i := len(b.rows) - 1; i > 0; {
			parent := (i - 1) / 2
			if b.compare(b.rows[parent], b.rows[i]) >= 0 {
				break
			}
			b.rows[parent], b.rows[i] = b.rows[i], b.rows[parent]
			i = parent
		}
		return
	}
	if b.compare(r, b.rows[0]) >= 0 {
		return
	}
	b.rows[0] = r
	for i := 0; ; {
		last := i
		for _, child := range []int{2*i + 1, 2*i + 2} {
			if child < len(b.rows) && b.compare(b.rows[child], b.rows[last]) > 0 {
				last = child
			}
		}
		if last == i {
			return
		}
		b.rows[last], b.rows[i] = b.rows[i], b.rows[last]
		i = last
	}
}

// rejects tells whether a row of that key need not be offered, as there are enough before it.
func (b *best) rejects(key float64) bool {
	return len(b.rows) == b.query.limit && b.compareKeys(key, b.rows[0].key) > 0
}

// compareKeys is negative where a row with the key x comes before one with y. Rows without a key come last.
func (b *best) compareKeys(x, y float64) int {
	switch {
	case math.IsNaN(x) || math.IsNaN(y):
		return -cmp.Compare(x, y) // NaN is below all others
	case b.query.desc:
		return cmp.Compare(y, x)
	}
	return cmp.Compare(x, y)
}

func (b *best) compare(x, y *row) int {
	names := cmp.Or(strings.Compare(x.namespace, y.namespace), strings.Compare(x.name, y.name))
	switch c := 0; b.query.sort {
	case byName, byNamespace:
		if c = strings.Compare(x.name, y.name); b.query.sort == byNamespace {
			c = strings.Compare(x.namespace, y.namespace)
		}
		if b.query.desc {
			c = -c
		}
		names = cmp.Or(c, names)
	default:
		if c = b.compareKeys(x.key, y.key); c != 0 {
			return c
		}
	}
	if names == 0 && x.object != nil && y.object != nil {
		names = strings.Compare(x.object.Value.Head, y.object.Value.Head)
	}
	return names
}
