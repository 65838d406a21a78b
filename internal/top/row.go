package top

import (
	"cmp"
	"math"
	"strings"
	"time"

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

// sum is the figures of some containers, NaN for what is not known of any; its numbers are -1 where nothing is known of
// pods.
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

// total adds another row to one of totals.
func (r *row) total(other *row) {
	r.add(&other.sum)
	for i, value := range other.more {
		r.more[i] = plus(r.more[i], value)
	}
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

// place is what decides where a row comes in the order.
type place struct {
	key             float64 // NaN for none
	namespace, name string
	object          *store.Object[sample.Text] // the pod, of pods and containers
	cluster         string                     // "" where there is only one
}

// row is one of an answer's rows. Its names are as the cluster has them, and may be anything.
type row struct {
	place
	workload string // Kind/NAME, of pods and containers; "" where it is not known
	sum
	more [figures - summed]float64 // the figures that are no sums, NaN for what is not known
	past [2][]float64              // of CPU and memory, NaN for what is missing; see history
	step time.Duration             // between two of these
	hash uint64                    // by which its history is found
}

func newRow(at place, s *sum, hash uint64) *row {
	r := &row{place: at, sum: *s, hash: hash}
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

// key is the number that a row of these figures is sorted by; NaN for none, and for a peak, which is none of them.
func (o order) key(s *sum) float64 {
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

// ofShare tells whether it is what pods ask for that counts.
func (o order) ofShare() bool { return byCPURequest <= o && o <= byMemoryLimit }

// best keeps the first rows in the order of a query, as a heap with the last of them at its top.
type best struct {
	query *query
	rows  []*row
}

// takes tells whether a row of that place is among the first so far.
func (b *best) takes(at *place) bool {
	return len(b.rows) < b.query.limit || b.compare(at, &b.rows[0].place) < 0
}

// rejects tells whether no row of that key is.
func (b *best) rejects(key float64) bool {
	return len(b.rows) == b.query.limit && b.compareKeys(key, b.rows[0].key) > 0
}

// add adds a row that it takes.
func (b *best) add(r *row) {
	if len(b.rows) < b.query.limit {
		b.rows = append(b.rows, r)
		for i := len(b.rows) - 1; i > 0; {
			parent := (i - 1) / 2
			if b.compare(&b.rows[parent].place, &b.rows[i].place) >= 0 {
				return
			}
			b.rows[parent], b.rows[i] = b.rows[i], b.rows[parent]
			i = parent
		}
		return
	}
	b.rows[0] = r
	for i := 0; ; {
		last := i
		for _, child := range [...]int{2*i + 1, 2*i + 2} {
			if child < len(b.rows) && b.compare(&b.rows[child].place, &b.rows[last].place) > 0 {
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

// compareKeys is negative where a row with the key x comes before one with y. Rows without a key come last.
func (b *best) compareKeys(x, y float64) int {
	if b.query.desc || math.IsNaN(x) || math.IsNaN(y) { // NaN is below all others
		return cmp.Compare(y, x)
	}
	return cmp.Compare(x, y)
}

// compare is negative where x comes before y. What is equal otherwise is in the order of its names.
func (b *best) compare(x, y *place) int {
	c := 0
	switch b.query.sort {
	case byName:
		c = strings.Compare(x.name, y.name)
	case byNamespace:
		c = strings.Compare(x.namespace, y.namespace)
	default:
		if c = b.compareKeys(x.key, y.key); c != 0 {
			return c
		}
	}
	if b.query.desc {
		c = -c
	}
	if c == 0 {
		c = cmp.Or(strings.Compare(x.namespace, y.namespace), strings.Compare(x.name, y.name))
	}
	if c == 0 && x.object != nil && y.object != nil {
		c = strings.Compare(x.object.Value.Head, y.object.Value.Head)
	}
	return cmp.Or(c, strings.Compare(x.cluster, y.cluster))
}
