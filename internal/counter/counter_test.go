package counter

import (
	"encoding/binary"
	"math"
	"testing"
	"time"
	"unsafe"
)

const (
	began  = 1_700_000_000 // Unix seconds
	maxAge = 5 * time.Minute
)

// read is a reading of a pod's only container that ends so many seconds after began.
func read(end int64, window, rate float64) Reading {
	return Reading{Rate: rate, Window: time.Duration(window * float64(time.Second)), End: began + end}
}

// among is one of a pod with more containers.
func among(end int64, window, rate float64) Reading {
	r := read(end, window, rate)
	r.Several = true
	return r
}

// TestRules has what becomes of a reading that comes after others, at the borders of each rule.
func TestRules(t *testing.T) {
	type readings []Reading
	// Before them there were 15 s of one core.
	single, several := readings{read(0, 15, 1)}, readings{among(0, 15, 1)}
	replicas := readings{read(0, 15, 1), read(14, 14, 1)}
	for name, c := range map[string]struct {
		before          readings
		reading         Reading
		seconds, filled float64
		result          Result
	}{
		"the first value is rate times window": {nil, read(0, 12.5, 2), 25, 0, Added},
		"of one of several containers too":     {nil, among(0, 12.5, 2), 25, 0, Added},
		"without a window it is 0":             {nil, read(0, 0, 2), 0, 0, Added},

		"the same reading again":            {single, read(0, 15, 1), 15, 0, Repeated},
		"the same moment with another rate": {several, among(0, 9, 3), 15, 0, Repeated},
		"an older reading":                  {single, read(-1, 15, 9), 15, 0, Older},

		"a window that abuts": {single, read(15, 15, 2), 15 + 30, 0, Added},
		"it does where cutting the moments makes it overlap": {single, read(15, 15.999, 2),
			15 + 31.998, 0, Added},
		"and where it makes a gap":       {single, read(15, 14.001, 2), 15 + 28.002, 0, Added},
		"a gap of a second":              {single, read(16, 15, 3), 15 + 45 + 2, 2, Filled},
		"an overlap of a second":         {single, read(14, 15, 3), 15 + 42, 0, Added},
		"a window within the one before": {single, read(1, 15, 3), 15 + 3, 0, Added},

		"a gap is filled with the mean of both rates": {single, read(45, 15, 3), 15 + 45 + 60, 60, Filled},
		"a pod that was away for two ticks":           {single, read(45, 15, 1), 15 + 15 + 30, 30, Filled},
		"a gap of max-age":                            {single, read(315, 15, 3), 15 + 45 + 600, 600, Filled},
		"a longer one is left out":                    {single, read(316, 15, 3), 15 + 45, 0, Hole},
		"after that it goes on": {append(single, read(9000, 15, 3)), read(9015, 15, 1),
			15 + 45 + 15, 0, Added},
		"after a rate of 0 too": {append(single, read(15, 15, 0)), read(30, 15, 1), 15 + 15, 0, Added},

		"of several containers only the moments count":       {several, among(10, 19, 2), 15 + 20, 0, Added},
		"whether they are nearer or farther than the window": {several, among(19, 10, 2), 15 + 38, 0, Added},
		"as far as readings of a kubelet are apart":          {several, among(44, 15, 2), 15 + 88, 0, Added},
		"more is a gap":                        {several, among(45, 15, 2), 15 + 30 + 45, 45, Filled},
		"one of max-age":                       {several, among(315, 15, 3), 15 + 45 + 600, 600, Filled},
		"or a hole":                            {several, among(316, 15, 3), 15 + 45, 0, Hole},
		"a pod that loses its other container": {several, read(25, 15, 3), 15 + 45 + 20, 20, Filled},
		"a pod that gets another container":    {single, among(25, 15, 3), 15 + 75, 0, Added},

		"without a window only the moments count": {single, read(60, 0, 2), 15 + 120, 0, Added},
		"up to max-age":                         {single, read(300, 0, 2), 15 + 600, 0, Added},
		"beyond it nothing is known":            {single, read(301, 0, 2), 15, 0, Hole},
		"a window of less than nothing is none": {single, read(60, -5, 2), 15 + 120, 0, Added},

		"a replica that has the same reading": {replicas, read(14, 29, 1), 29, 0, Repeated},
		"a replica that is behind":            {replicas, read(0, 14, 1), 29, 0, Older},
		"then ahead, by a window that holds what was had": {append(replicas, read(0, 14, 1)), read(29, 29, 2),
			29 + 30, 0, Added},

		"no number":                             {single, read(15, 15, math.NaN()), 15, 0, Invalid},
		"less than nothing":                     {single, read(15, 15, -1), 15, 0, Invalid},
		"more cores than a machine has":         {single, read(15, 15, 1e7), 15, 0, Invalid},
		"infinitely many":                       {single, read(15, 15, math.Inf(1)), 15, 0, Invalid},
		"a first one that is invalid":           {nil, read(15, 15, -1), math.NaN(), 0, Invalid},
		"no moment":                             {single, read(-began, 15, 1), 15, 0, Invalid},
		"a moment that is too large to be kept": {single, read(1<<32, 15, 1), 15, 0, Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			var before Counter
			for _, r := range c.before {
				before, _, _ = before.Next(r, maxAge)
			}
			next, filled, result := before.Next(c.reading, maxAge)
			if got := next.Seconds(); !(math.Abs(got-c.seconds) < 1e-9 || math.IsNaN(got) && math.IsNaN(c.seconds)) {
				t.Errorf("%v seconds, want %v", got, c.seconds)
			}
			if filled != c.filled || result != c.result {
				t.Errorf("%v seconds filled, %s; want %v, %s", filled, result, c.filled, c.result)
			}
			if changed := next != before; changed != (result <= Hole) {
				t.Errorf("%s: it changes the counter: %t", result, changed)
			}
		})
	}
}

// TestShortMaxAge has gaps that are holes, and moments of several containers that are apart no more than usual.
func TestShortMaxAge(t *testing.T) {
	for name, c := range map[string]struct {
		first, next Reading
		seconds     float64
		result      Result
	}{
		"a gap":                      {read(0, 15, 1), read(25, 15, 3), 15 + 45 + 20, Filled},
		"a hole":                     {read(0, 15, 1), read(26, 15, 3), 15 + 45, Hole},
		"moments as usual":           {among(0, 15, 1), among(44, 15, 3), 15 + 3*44, Added},
		"a hole among several":       {among(0, 15, 1), among(46, 15, 3), 15 + 45, Hole},
		"a hole without any windows": {read(0, 15, 1), read(11, 0, 3), 15, Hole},
	} {
		t.Run(name, func(t *testing.T) {
			before, _, _ := Counter{}.Next(c.first, 10*time.Second)
			next, _, result := before.Next(c.next, 10*time.Second)
			if got := next.Seconds(); got != c.seconds || result != c.result {
				t.Errorf("%v seconds, %s; want %v, %s", got, result, c.seconds, c.result)
			}
		})
	}
}

// TestFirstValueOfAFreshContainerIsItsWholeCounter is what metrics-server makes of a container of 10 s to its
// resolution: the reading before is the container's creation.
func TestFirstValueOfAFreshContainerIsItsWholeCounter(t *testing.T) {
	const truth = 7.345678901
	window := 13.579
	c, _, _ := Counter{}.Next(read(0, window, math.Floor(truth/window*1e9)/1e9), maxAge)
	if got := c.Seconds(); math.Abs(got-truth) > window*1e-9 {
		t.Errorf("%v seconds, want %v", got, truth)
	}
}

// TestWindowsThatAbutAreExact is weeks of readings of which every moment and rate is cut: what is lost is at most what
// metrics-server cuts off the rates.
func TestWindowsThatAbutAreExact(t *testing.T) {
	var c Counter
	truth, at, total := 0.0, 0.0, 0.0 // the counter in nanoseconds, moment in milliseconds
	for i := range 12 * 7 * 24 * 240 {
		window := float64(15_000 + i*7919%1000 - 500)
		used := math.Floor(window * 1e6 * (0.5 + float64(i*104729%1000)/1000))
		truth, at = truth+used, at+window
		rate := math.Floor(used/(window/1e3)) / 1e9
		var result Result
		if c, _, result = c.Next(read(int64(at/1e3), window/1e3, rate), maxAge); result != Added {
			t.Fatalf("reading %d is %s", i, result)
		}
		total += window / 1e3
	}
	if lost := truth/1e9 - c.Seconds(); lost < -1e-3 || lost > total*1e-9+1e-3 {
		t.Errorf("%v of %v seconds are lost", lost, truth/1e9)
	}
}

func TestSet(t *testing.T) {
	var s Set
	next := func(id uint64, r Reading) float64 {
		c, _, _ := s.Get(id).Next(r, maxAge)
		s.Put(id, c)
		return c.Seconds()
	}
	if !math.IsNaN(s.Get(1).Seconds()) {
		t.Error("an empty set has a counter")
	}
	next(1, read(0, 10, 1))
	next(2, read(0, 10, 2))
	if a, b := next(1, read(10, 10, 1)), next(2, read(10, 10, 2)); a != 20 || b != 40 {
		t.Errorf("two containers have %v and %v seconds, want 20 and 40", a, b)
	}
	// A restart, 3 s later: nothing is filled across it.
	if got := next(3, read(25, 12, 1)); got != 12 {
		t.Errorf("a restarted container begins with %v seconds, want 12", got)
	}
	if got := s.Get(1).Seconds(); got != 20 {
		t.Errorf("the one before has %v, want 20", got)
	}
	const hour = int64(Keep / time.Second)
	next(4, read(10+hour, 15, 1))
	if s.Drop(began + 10 + hour); len(s.runs) != 4 {
		t.Errorf("%d counters, want those of an hour ago still: 4", len(s.runs))
	}
	next(5, read(11+hour, 15, 1))
	s.Drop(began + 11 + hour)
	if got := s.Get(2); len(s.runs) != 3 || !math.IsNaN(got.Seconds()) {
		t.Errorf("%d counters, want those of the last hour: 3", len(s.runs))
	}
	if a, b := s.Get(3).Seconds(), s.Get(5).Seconds(); a != 12 || b != 15 {
		t.Errorf("those that stay have %v and %v seconds, want 12 and 15", a, b)
	}
}

// TestSize is what the memory of a cluster is counted by.
func TestSize(t *testing.T) {
	if size := unsafe.Sizeof(run{}); size != 24 {
		t.Errorf("a container takes %d bytes, want 24", size)
	}
}

// FuzzNext has any readings in any order. A counter never goes back, is always finite, and gets no more than the
// larger of two rates gives in the time that has passed, or in a window that the cut moments make a second longer.
func FuzzNext(f *testing.F) {
	f.Add([]byte("\x00\x00\x0f\x0f\x10\x01\x0f\x0f\x10\x02\x3f\x0f\x20\x03\xf1\x0f\x30\x04"))
	f.Add([]byte("\x80\x05\xff\x00\xff\x06\x7f\x7f\x7f\x07\x10\x20\x30\x40\x50\x60\x70\x80\x90\xa0\xb0\xc0\xd0\xe0"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var c Counter
		end, rate := int64(began), 0.0
		for ; len(data) >= 6; data = data[6:] {
			r := Reading{Rate: float64(data[0]) / 16, Window: time.Duration(data[1]) * 250 * time.Millisecond,
				Several: data[2]&1 > 0}
			switch data[2] >> 4 {
			case 1:
				r.Rate = math.Float64frombits(uint64(binary.LittleEndian.Uint16(data)) << 48)
			case 2:
				r.Window = time.Duration(binary.LittleEndian.Uint16(data)) << 48
			}
			end += int64(int8(data[3]))
			if r.End = end; data[2]>>4 == 3 {
				r.End <<= data[4] & 31
			}
			next, filled, result := c.Next(r, time.Duration(data[5])*time.Second)
			was, is := c.seconds, next.seconds
			elapsed := float64(r.End - int64(c.end))
			most := max(rate, r.Rate) * (elapsed + 1)
			if c.end == 0 {
				most = r.Rate * max(0, r.Window.Seconds())
			}
			switch {
			case math.IsNaN(is) || math.IsInf(is, 0) || is < was:
				t.Fatalf("%+v makes %v seconds of %v", r, is, was)
			case result > Hole && next != c:
				t.Fatalf("%+v is %s and changes %+v to %+v", r, result, c, next)
			case result > Hole:
				if filled != 0 {
					t.Fatalf("%+v is %s and fills %v", r, result, filled)
				}
				continue
			case int64(next.end) != r.End || c.end != 0 && elapsed <= 0:
				t.Fatalf("%+v takes the counter from %d to %d", r, c.end, next.end)
			case is-was > most*(1+1e-6)+1e-9*is:
				t.Fatalf("%+v %s: adds %v in %v s", r, result, is-was, elapsed)
			case filled < 0 || filled > is-was+1e-9*is || (result == Filled) != (filled > 0) && rate+r.Rate > 1e-6:
				t.Fatalf("%+v %s: fills %v of %v", r, result, filled, is-was)
			}
			c, rate = next, r.Rate
		}
	})
}
