package phase

import (
	"math"
	"slices"
	"sync/atomic"
	"time"

	"metrics-server-prom/internal/selfmetrics"
)

// Freshness is the source's period, and how soon what it has becomes visible. It is for any number of goroutines.
type Freshness struct {
	period atomic.Int64 // ns, 0 while none is known
	before atomic.Int64 // Unix ns at which the data that a tick has brought were not there yet; 0 where not known
	shown  atomic.Int64 // Unix ns at which newer data were first shown
	added  atomic.Int64 // ns that these were older than they had to be; 0 where not known
	// least is the shortest period of the last ticks, which are told; 0 where one of these had none.
	least atomic.Int64
	told  [3]int64
}

// Register registers the metrics that show it.
func (f *Freshness) Register(self *selfmetrics.Scope) {
	seconds := func(of *atomic.Int64) float64 { return float64(of.Load()) / 1e9 }
	self.Gauge("source_period_seconds", "Time between two ticks of the metrics API at which it has new data; 0 while "+
		"none is known.", "", func() float64 { return seconds(&f.period) })
	self.Gauge("data_last_new_timestamp_seconds", "When a page first had newer pod samples than the page before.", "",
		func() float64 { return seconds(&f.shown) })
	self.Gauge("data_added_age_seconds", "How much later than the metrics API had them the present pod samples were "+
		"first served, at most; absent where that is not known.", "", func() float64 {
		if f.added.Load() == 0 {
			return math.NaN()
		}
		return seconds(&f.added)
	})
}

// Period is the time between two ticks of the source, 0 while none is known.
func (f *Freshness) Period() time.Duration { return time.Duration(f.period.Load()) }

// Interval is the most time between two full lists: what is configured or, where the source has new data less often
// by several ticks, its period. A list is read right after a tick; the slack keeps it from being read just before.
func (f *Freshness) Interval(configured time.Duration) time.Duration {
	if f.Period() == 0 {
		return configured
	}
	return max(configured, time.Duration(f.least.Load())) + 2*time.Second
}

// Lost forgets the period. It and Tick are called by one goroutine.
func (f *Freshness) Lost() {
	clear(f.told[:])
	f.least.Store(0)
	f.period.Store(0)
}

// Tick notes a tick as Follow reports it.
func (f *Freshness) Tick(since time.Time, period time.Duration) {
	copy(f.told[:], f.told[1:])
	f.told[len(f.told)-1] = int64(period)
	f.least.Store(slices.Min(f.told[:]))
	f.period.Store(int64(period))
	f.before.Store(0)
	if !since.IsZero() {
		f.before.Store(since.UnixNano())
	}
}

// Shown notes that newer data than before became visible at a moment.
func (f *Freshness) Shown(at time.Time) {
	f.shown.Store(at.UnixNano())
	f.added.Store(0)
	if before := f.before.Swap(0); before != 0 {
		f.added.Store(max(at.UnixNano()-before, 1))
	}
}
