package top

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"metrics-server-prom/internal/usage"
)

const (
	span     = 15 * time.Minute // how far history goes back
	minStep  = 10 * time.Second // between two of its values
	coarsest = time.Minute      // between them, where there are too many workloads
	manyPods = 10_000           // of so many there is history
	mostRoom = 7 << 20          // bytes of all history; what else is kept with it takes less than another 1 MiB
	idle     = time.Hour        // after which nothing is kept that nobody has asked for
)

// history keeps CPU and memory of each row of most levels, as each reading of the lists in the last 15 minutes had
// them. A column is the values of one moment: of lists that are read one after the other, it has one value each.
type history struct {
	share  atomic.Int64 // of how many clusters there is history, in one's share of maxBytes each; 0 is 1
	mu     sync.Mutex
	timer  *time.Timer             // runs out when nobody has asked for long
	of     *usage.List             // the first list of the connection; nil while nothing is kept
	every  time.Duration           // between two readings of the lists
	step   time.Duration           // between two columns, at least as long
	width  uint32                  // how many columns are kept
	column uint32                  // the number of the newest, from 1; 0 for none
	opened time.Time               // when that was read first
	since  time.Time               // when the first was
	lists  map[*usage.List]*listed // all of the connection
	small  uint32                  // in which column rows were given up early, to make room

	maxPods, maxBytes int // manyPods and mostRoom, or less in tests

	rows   [containers]map[uint64]uint32 // slots by a hash of the row's names; nil for a level that is too large
	chunks [][]code                      // of slots
	last   []uint32                      // by slot: the column of its last value
	free   []uint32                      // slots
}

// listed is what is kept of a list.
type listed struct {
	refreshed time.Time // when that was read whose values were recorded last
	summary
}

// chunkLen is how many slots are allocated together.
const chunkLen = 128

// capacity is how many rows there may be. One takes its codes, its last, its place among the free, and that in a map,
// each in something that has just grown.
func (h *history) capacity() int {
	return h.maxBytes / max(1, int(h.share.Load())) / (int(h.width)*4 + 56)
}

// seed is that of the hashes of names. Two of some ten thousand rows do not have the same one by chance.
var seed = maphash.MakeSeed()

// hash is that of the names of a row; kind is that of a workload, whose name is without it.
func hash(namespace, kind, name string) uint64 {
	return maphash.Comparable(seed, [3]string{namespace, kind, name})
}

// code is a value in 16 bits: 0 for none, 1 for zero, else six bits of exponent and ten of mantissa. It is off by at
// most one part in 2,000, and codes are in the order of their values.
type code uint16

// least is the exponent of the least value that can be told: half a billionth of a core, and half a byte.
var least = [2]int64{cpu: -31, memory: -1}

func encode(figure int, value float64) code {
	switch {
	case math.IsNaN(value):
		return 0
	case value <= 0:
		return 1
	}
	c := int64((math.Float64bits(value)+1<<41)>>42) - (1023+least[figure])<<10
	return code(min(max(c, 2), math.MaxUint16))
}

func (c code) value(figure int) float64 {
	switch c {
	case 0:
		return math.NaN()
	case 1:
		return 0
	}
	return math.Float64frombits(uint64(int64(c)+(1023+least[figure])<<10) << 42)
}

// distance is the time between two readings of the lists: that many periods of the source as come next to the interval,
// as usage.Ticks has it, or the interval where the period is not known.
func distance(period, interval time.Duration) time.Duration {
	if period > 0 {
		interval = max((interval+time.Second-1)/period, 1) * period
	}
	return interval.Round(time.Second / 10)
}

// begin begins history where there is none, with what the lists have now, and keeps it for the next hour. The mutex is
// held, as for all that follows but observe and forget.
func (h *history) begin(source *Source, interval time.Duration) {
	if h.timer == nil {
		h.timer = time.AfterFunc(idle, h.forget)
		h.maxPods, h.maxBytes = cmp.Or(h.maxPods, manyPods), cmp.Or(h.maxBytes, mostRoom)
	}
	h.timer.Reset(idle)
	if len(source.Lists) == 0 {
		return
	}
	if h.fit(source, interval); h.column == 0 {
		for _, l := range source.Lists {
			h.record(source, l)
		}
	}
}

// observe records a list that was read, where anybody has asked within the hour.
func (h *history) observe(source *Source, interval time.Duration, l *usage.List) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of != nil && slices.Contains(source.Lists, l) { // not of a connection that has ended
		h.fit(source, interval)
		h.record(source, l)
	}
}

// forget gives all memory back.
func (h *history) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reset(nil, 0)
}

// fit begins anew where the connection is another one, where the time between two readings is known to be another, or
// where there is more than there is room for now, as when clusters have come.
func (h *history) fit(source *Source, interval time.Duration) {
	every := distance(source.Period, interval)
	if h.of != source.Lists[0] || source.Period > 0 && (every-h.every).Abs() > h.every/5 || len(h.last) > h.capacity() {
		h.reset(source.Lists, max(every, minStep))
		h.every = every
	}
}

// reset begins anew, or, without lists, ends.
func (h *history) reset(lists []*usage.List, step time.Duration) {
	h.of, h.step, h.width, h.column, h.small = nil, step, 0, 0, 0
	h.opened, h.since = time.Time{}, time.Time{}
	h.rows, h.chunks, h.last, h.free = [containers]map[uint64]uint32{}, nil, nil, nil
	h.lists = map[*usage.List]*listed{}
	for _, l := range lists {
		h.of, h.width = lists[0], uint32((span+step-1)/step)
		h.lists[l] = &listed{summary: summary{all: noSum()}}
	}
}

// summary returns the summary of what a list has now.
func (h *history) summary(source *Source, l *usage.List) *summary {
	m := &h.lists[l].summary
	if m.generation != l.Generation() {
		m.summarize(source, l, h, false)
	}
	return m
}

// record records what a list has, if that is newer than what was recorded of it.
func (h *history) record(source *Source, l *usage.List) {
	of, refreshed := h.lists[l], l.Status().Refreshed
	if refreshed.Equal(of.refreshed) || !h.open(refreshed) {
		return
	}
	of.refreshed = refreshed
	if of.summarize(source, l, h, true); h.tooMany(workloads) && h.step < coarsest {
		h.reset(source.Lists, h.step*2)
		for _, l := range source.Lists {
			h.record(source, l)
		}
	}
}

// open makes the newest column that of what was read at a moment. Where readings have failed, it leaves out as many as
// there would have been. It returns false for what is older than that column.
func (h *history) open(at time.Time) bool {
	switch {
	case h.column == 0:
		h.column, h.since = 1, at
	case h.belongs(at):
		return at.After(h.opened.Add(-h.step))
	default:
		for n := max(1, min(at.Sub(h.opened).Round(h.step)/h.step, time.Duration(h.width))); n > 0; n-- {
			h.column++
			for slot := range h.last {
				codes, at := h.codes(uint32(slot)), h.column%h.width
				codes[at], codes[h.width+at] = 0, 0
			}
		}
	}
	h.opened = at
	h.sweep(h.width)
	return true
}

// belongs tells whether what is read at a moment has no later column than the newest. Readings may be somewhat early.
func (h *history) belongs(at time.Time) bool { return at.Sub(h.opened) < h.step-h.every*4/10 }

// count is how many rows a level has in all lists.
func (h *history) count(l level) (n int) {
	for _, of := range h.lists {
		n += of.counts[l]
	}
	return n
}

// refuse gives up the rows of levels that are too large. A level has to leave room for those before it.
func (h *history) refuse() {
	for l := range h.rows {
		switch many := h.tooMany(level(l)); {
		case many:
			for _, slot := range h.rows[l] {
				h.free = append(h.free, slot)
			}
			h.rows[l] = nil
		case h.rows[l] == nil:
			h.rows[l] = map[uint64]uint32{}
		}
	}
}

// tooMany tells whether a level is too large. Where there are many workloads there are more pods, which the process has
// to hold anyway: half of the room is enough then.
func (h *history) tooMany(l level) bool {
	all, most := 0, h.capacity()
	for below := range l + 1 {
		all += h.count(below)
	}
	if l < pods {
		most /= 2
	}
	return all > most || l == pods && h.count(pods) > h.maxPods
}

// put records what a row uses, unless there is no room for that.
func (h *history) put(l level, key uint64, cpus, bytes float64) {
	rows := h.rows[l]
	slot, known := rows[key]
	if !known {
		if rows == nil {
			return
		}
		var ok bool
		if slot, ok = h.slot(); !ok {
			return
		}
		rows[key] = slot
		clear(h.codes(slot))
	}
	codes, at := h.codes(slot), h.column%h.width
	codes[at], codes[h.width+at] = encode(cpu, cpus), encode(memory, bytes)
	h.last[slot] = h.column
}

// codes are the CPU and then the memory of a slot, by the number of the column modulo the width.
func (h *history) codes(slot uint32) []code {
	n := 2 * h.width
	return h.chunks[slot/chunkLen][slot%chunkLen*n:][:n]
}

// slot returns a slot for a new row, if there is one: of what is gone, it keeps no more than it has room for.
func (h *history) slot() (slot uint32, ok bool) {
	if len(h.free) == 0 && len(h.last) >= h.capacity() && h.small != h.column {
		h.small = h.column
		h.sweep(2)
	}
	switch n := len(h.free); {
	case n > 0:
		slot, h.free = h.free[n-1], h.free[:n-1]
	case len(h.last) >= h.capacity():
		return 0, false
	default:
		if slot = uint32(len(h.last)); slot%chunkLen == 0 {
			h.chunks = append(h.chunks, make([]code, chunkLen*2*h.width))
		}
		h.last = append(h.last, 0)
	}
	return slot, true
}

// sweep gives up the rows that have had no value for so many columns.
func (h *history) sweep(columns uint32) {
	for _, rows := range h.rows {
		for key, slot := range rows {
			if h.column-h.last[slot] >= columns {
				delete(rows, key)
				h.free = append(h.free, slot)
			}
		}
	}
}

// past is the codes of a figure of a row, from the oldest column on: a run and, behind it, another one.
func (h *history) past(slot uint32, figure int) (first, second []code) {
	codes := h.codes(slot)[uint32(figure)*h.width:][:h.width]
	if h.column < h.width {
		return codes[1 : h.column+1], nil
	}
	oldest := (h.column + 1) % h.width
	return codes[oldest:], codes[:oldest]
}

// peak is the most that a figure of a row has been: what it is now or, to four digits, what it was before. It is NaN
// where there is no history of the row.
func (h *history) peak(l level, figure int, current float64, key func() uint64) float64 {
	if l == containers || h.rows[l] == nil {
		return math.NaN()
	}
	slot, known := h.rows[l][key()]
	if !known {
		return math.NaN()
	}
	first, second := h.past(slot, figure)
	most := encode(figure, current)
	peak := most
	for _, c := range first {
		peak = max(peak, c)
	}
	for _, c := range second {
		peak = max(peak, c)
	}
	if peak == most {
		return current
	}
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(peak.value(figure), 'g', 4, 64), 64)
	return rounded
}

// show adds to a row its peaks and its past. What is not recorded yet, of a list that is read after others, is as it
// is now.
func (h *history) show(l level, r *row, now time.Time) {
	if l == containers {
		return
	}
	slot, known := h.rows[l][r.hash]
	if !known {
		return
	}
	for figure := range r.past {
		r.more[cpuPeak-summed+figure] = h.peak(l, figure, r.of[figure], func() uint64 { return r.hash })
		first, second := h.past(slot, figure)
		past := make([]float64, 0, len(first)+len(second))
		for _, codes := range [][]code{first, second} {
			for _, c := range codes {
				past = append(past, c.value(figure))
			}
		}
		if n := len(past); math.IsNaN(past[n-1]) && h.belongs(now) {
			past[n-1] = r.of[figure]
		}
		r.past[figure], r.step = past, h.step
	}
}

// missing says why a level has no history.
func (h *history) missing(l level) (missing []string) {
	switch {
	case h.of == nil || l == containers || !h.tooMany(l):
	case l == pods && h.count(pods) > h.maxPods:
		missing = append(missing, fmt.Sprintf("pods: history is kept of up to %d of them, there are %d", h.maxPods,
			h.count(l)))
	default:
		missing = append(missing, fmt.Sprintf("%s: there are more (%d) than history is kept of", l, h.count(l)))
	}
	return missing
}
