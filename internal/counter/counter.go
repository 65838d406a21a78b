// Package counter rebuilds counters of CPU seconds from the rates that metrics-server makes of such counters.
//
// Of each container metrics-server (0.9, pkg/storage) keeps two readings that a kubelet took. It serves their
// difference divided by the time between them, in cores, cut down to a billionth; with it the time between them, the
// window, and the moment of the later one, cut down to a whole second. Of a pod it serves one window and one moment for
// all containers: those of the container that was read earliest. As the kubelet reads each container at moments of its
// own, the other rates belong to windows that nobody is told.
package counter

import (
	"math"
	"slices"
	"time"
)

// Reading is one rate as it was served.
type Reading struct {
	Rate   float64       // cores
	Window time.Duration // that the rate was measured over; 0 where it is not known
	End    int64         // of the window, Unix seconds
	// Several says that the pod has more containers, so that End and Window may be those of another one.
	Several bool
}

// Result is what became of a reading.
type Result uint8

// The results.
const (
	Added       Result = iota
	Filled             // and the gap before its window, of which there is no reading, with the mean of both rates
	Hole               // and the gap before its window, too long to be filled, was left out
	Repeated           // ignored: it is the reading before
	Older              // ignored: a later one was seen, of another replica of metrics-server
	Predecessor        // ignored: it is from before the container was started
	Invalid            // ignored: no rate that a machine can have, or no moment
	Results     = iota // how many there are
)

var results = [Results]string{"added", "filled", "hole", "repeated", "older", "predecessor", "invalid"}

// String is the result's name, as it is counted.
func (r Result) String() string { return results[r] }

const (
	// cut is what a moment that is cut down to a whole second can make of the time between two of them.
	cut = 1
	// spread is the most seconds that lie between a kubelet's readings of two containers of a pod, as they are served
	// together: it reads a container every 10 to 20 s, an idle one every 15 to 30 s.
	spread = 30
	// maxRate is a rate that no machine has, in cores.
	maxRate = 1e6
)

// Counter is a counter of CPU seconds. The zero value has no reading yet.
//
// A float64 is exact enough: an addition rounds by at most 2^-53 of the sum, which comes to less than a millionth of a
// percent of it after ten years with a reading every 15 s.
type Counter struct {
	seconds float64
	rate    float32 // of the last reading; only gaps are filled with it
	end     uint32  // of the last reading, Unix seconds; 0 for none
}

// Seconds is the counter's value: finite, never less than before. NaN before the first reading.
func (c Counter) Seconds() float64 {
	if c.end == 0 {
		return math.NaN()
	}
	return c.seconds
}

// IsOf tells whether the value is as of a moment in Unix seconds: whether the last reading that counts was of then.
func (c Counter) IsOf(at int64) bool { return int64(c.end) == at }

// Next returns the counter after a reading, the seconds of it that were filled in, and what became of the reading. Gaps
// longer than maxAge are not filled.
func (c Counter) Next(r Reading, maxAge time.Duration) (next Counter, filled float64, result Result) {
	if !(r.Rate >= 0 && r.Rate <= maxRate) || r.End <= 0 || r.End > math.MaxUint32 {
		return c, 0, Invalid
	}
	window, added := max(0, r.Window.Seconds()), 0.0
	elapsed := float64(r.End - int64(c.end))
	gap, slack := elapsed-window, float64(cut)
	if r.Several {
		slack = spread
	}
	switch {
	case c.end == 0:
		// The absolute value where the window begins with the container, as that of a fresh one does.
		added = r.Rate * window
	case elapsed == 0:
		return c, 0, Repeated
	case elapsed < 0:
		return c, 0, Older
	case gap > max(maxAge.Seconds(), slack):
		added, result = r.Rate*window, Hole
	case window == 0:
		added = r.Rate * elapsed
	case gap >= slack:
		filled, result = gap*(float64(c.rate)+r.Rate)/2, Filled
		added = r.Rate*window + filled
	case !r.Several && gap > -cut: // the window begins where the last one ended
		added = r.Rate * window
	default: // windows overlap, or they are another container's and only the moments add up
		added = r.Rate * elapsed
	}
	return Counter{c.seconds + added, float32(r.Rate), uint32(r.End)}, filled, result
}

// Keep is for how long a counter is kept that is not read any more: longer than a container that still runs is away.
const Keep = time.Hour

// Gone tells whether the last reading was more than Keep before a moment in Unix seconds.
func (c Counter) Gone(now int64) bool { return now-int64(c.end) > int64(Keep/time.Second) }

// Set is the counters of a pod's containers. The zero value is empty. It is for one goroutine at a time.
type Set struct{ runs []run }

// run is a container from its start to its end: one that is restarted counts from zero.
type run struct {
	id uint64
	Counter
}

// Get returns the counter of a run by its ID, such as a hash of the containerID; the zero value where there is none.
func (s *Set) Get(id uint64) Counter {
	for i := range s.runs {
		if s.runs[i].id == id {
			return s.runs[i].Counter
		}
	}
	return Counter{}
}

// Put takes in the counter of a run.
func (s *Set) Put(id uint64, c Counter) {
	for i := range s.runs {
		if s.runs[i].id == id {
			s.runs[i].Counter = c
			return
		}
	}
	// Not append, which would take room for more: most sets never grow again.
	runs := make([]run, len(s.runs)+1)
	runs[copy(runs, s.runs)] = run{id, c}
	s.runs = runs
}

// Drop takes out the counters that are gone at a moment in Unix seconds.
func (s *Set) Drop(now int64) {
	s.runs = slices.DeleteFunc(s.runs, func(r run) bool { return r.Gone(now) })
}
