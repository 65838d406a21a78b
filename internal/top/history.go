package top

import (
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"time"

	"metrics-server-prom/internal/usage"
)

const (
	span     = 15 * time.Minute // that history goes back
	minStep  = 10 * time.Second // between two values
	maxPods  = 10_000           // of which there is history
	maxBytes = 8 << 20          // of all history
	idle     = time.Hour        // after which nothing is kept that nobody asks for
)

// history keeps a value of CPU and memory for each row of most levels, of each reading of the lists of the last 15
// minutes. A column is the values of one moment: the lists are read in turn, but close to each other.
type history struct {
	mu      sync.Mutex
	of      *usage.List // the first list of the connection that it is of; nil while nothing is kept
	step    time.Duration
	width   uint32    // how many columns are kept
	column  uint32    // the number of the newest, from 1; 0 for none
	opened  time.Time // when that began
	since   time.Time // when the first did
	series  [containers]series
	counts  map[*usage.List]*[containers]int // of what the lists have
	refused [containers]bool                 // levels that are too large
}

// series is the values of the rows of a level.
type series struct {
	slots  map[uint64]uint32 // by a hash of the row's names
	chunks [][]code
	last   []uint32 // column of a slot's last value
	free   []uint32 // slots
}

// chunkLen is how many rows' values are allocated together.
const chunkLen = 128

// bytesPerRow is what a row takes at most: its codes, its last, and its slot in a map that has just grown.
func (h *history) bytesPerRow() int { return int(h.width)*4 + 56 }

// seed is that of the hashes of names. That two of some ten thousand rows have the same one is not to be expected.
var seed = maphash.MakeSeed()

func hash(namespace, name string) uint64 {
	return maphash.Comparable(seed, [2]string{namespace, name})
}

// code is a value in 16 bits: 0 for none, 1 for zero, else six bits of exponent and ten of mantissa. It is off by at
// most one part in 2,000, and codes are in the order of their values.
type code uint16

// least is the exponent of the least value that can be told: half a billionth of a core, and half a byte.
var least = [2]int64{cpu: -31, memory: -1}

func encode(resource int, value float64) code {
	switch {
	case math.IsNaN(value):
		return 0
	case value <= 0:
		return 1
	}
	c := int64((math.Float64bits(value)+1<<41)>>42) - (1023+least[resource])<<10
	return code(min(max(c, 2), math.MaxUint16))
}

func (c code) value(resource int) float64 {
	switch c {
	case 0:
		return math.NaN()
	case 1:
		return 0
	}
	return math.Float64frombits(uint64(int64(c)+(1023+least[resource])<<10) << 42)
}

// begin sees to it that history is kept of the source: of another connection, or with another step, nothing of what
// was before is. What there is now is its first value.
func (h *history) begin(s Source, now time.Time) {}

// clear gives all memory back.
func (h *history) clear() {}

func (h *history) look(l level, r *row, now time.Time, values bool) {}
func (h *history) missing() []string                                { return nil }

var _ = fmt.Sprint
