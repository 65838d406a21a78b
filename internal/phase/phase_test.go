package phase

import (
	"context"
	"errors"
	"math/rand"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const s, h = time.Second, time.Hour

// ticks are the moments at which a simulated source has new data, since its start, the first of them 0.
type ticks []time.Duration

// every adds ticks once per period, each late by up to jitter, until the given moment.
func (t ticks) every(period, jitter, until time.Duration) ticks {
	r := rand.New(rand.NewSource(1))
	last := time.Duration(0)
	if len(t) > 0 {
		last = t[len(t)-1]
	}
	for at := last + period; at < until; at += period {
		t = append(t, at+time.Duration(r.Int63n(int64(jitter)+1)))
	}
	return t
}

// without leaves out some ticks, by their numbers.
func (t ticks) without(n ...int) (left ticks) {
	for i, at := range t {
		if !slices.Contains(n, i) {
			left = append(left, at)
		}
	}
	return left
}

// stamp is the number of ticks until a moment, that one included.
func (t ticks) stamp(at time.Duration) int64 {
	n, found := slices.BinarySearch(t, at)
	if found {
		n++
	}
	return int64(n)
}

// process follows a simulated source inside a synctest bubble. Times are since its start.
type process struct {
	t      *testing.T
	start  time.Time
	source func(at time.Duration) (object string, stamp int64, err error)
	takes  time.Duration               // a probe, half of it until the source answers
	slow   func(at time.Duration) bool // probes that take 3 s

	mu      sync.Mutex
	resume  chan struct{} // nil while it runs
	thaws   uint64
	thawed  chan struct{}
	probes  []time.Duration
	ticks   []tick
	lost    []time.Duration
	due     []time.Duration
	shown   func(at time.Duration) (after, before time.Duration) // nil for nothing
	longest time.Duration                                        // of the periods that Tick was told
}

// tick is a call of Tick.
type tick struct{ at, since, period time.Duration } // since is -1 for not known

func newProcess(t *testing.T, source func(at time.Duration) (string, int64, error)) *process {
	return &process{t: t, source: source, start: time.Now(), takes: 20 * time.Millisecond, thawed: make(chan struct{})}
}

// of is a source with one object, which never fails.
func of(t ticks) func(at time.Duration) (string, int64, error) {
	return func(at time.Duration) (string, int64, error) { return "node", t.stamp(at), nil }
}

func (p *process) elapsed() time.Duration { return time.Since(p.start) }

// runs returns when the process runs.
func (p *process) runs() {
	for {
		p.mu.Lock()
		resume := p.resume
		p.mu.Unlock()
		if resume == nil {
			return
		}
		<-resume
	}
}

// stop stops the process for that long, as its Pulse notices.
func (p *process) stop(length time.Duration) {
	resume := make(chan struct{})
	p.mu.Lock()
	p.resume = resume
	p.mu.Unlock()
	began := p.elapsed()
	time.Sleep(length)
	p.suspended()
	over := p.elapsed()
	p.mu.Lock()
	p.resume = nil
	p.shown = func(time.Duration) (after, before time.Duration) { return began, over } // a list that was read meanwhile
	p.mu.Unlock()
	close(resume)
}

// suspended is what a suspension of the machine looks like: no timer has gone on.
func (p *process) suspended() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.thaws++
	close(p.thawed)
	p.thawed = make(chan struct{})
}

func (p *process) probe(context.Context) (object string, stamp int64, err error) {
	at := p.elapsed()
	p.mu.Lock()
	if n := len(p.probes); n > 0 && at-p.probes[n-1] < MinGap && len(p.lost) == 0 {
		p.t.Errorf("probes at %s and %s", p.probes[n-1], at)
	}
	p.probes = append(p.probes, at)
	p.mu.Unlock()
	takes := p.takes
	if p.slow != nil && p.slow(at) {
		takes = 3 * s
	}
	time.Sleep(takes / 2)
	object, stamp, err = p.source(p.elapsed())
	time.Sleep(takes - takes/2)
	p.runs()
	return object, stamp, err
}

// follow runs Follow for that long.
func (p *process) follow(length time.Duration) {
	ctx, cancel := context.WithTimeout(p.t.Context(), length)
	defer cancel()
	Follow(ctx, Source{
		Probe: p.probe,
		Lost: func() {
			p.lost = append(p.lost, p.elapsed())
		},
		Tick: func(since time.Time, period time.Duration) {
			told := tick{p.elapsed(), -1, period}
			if !since.IsZero() {
				told.since = since.Sub(p.start)
			}
			p.ticks = append(p.ticks, told)
			p.longest = max(p.longest, period)
		},
		Due: func(time.Duration) { p.due = append(p.due, p.elapsed()) },
		Shown: func() (after, before time.Time) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.shown == nil {
				return time.Time{}, time.Time{}
			}
			from, to := p.shown(p.elapsed())
			return p.start.Add(from), p.start.Add(to)
		},
		Thaws: func() uint64 {
			p.runs()
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.thaws
		},
		Thawed: func() <-chan struct{} {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.thawed
		},
	})
	if p.longest > MaxPeriod {
		p.t.Errorf("a period of %s", p.longest)
	}
}

// between is how many probes were made from one moment until before another.
func (p *process) between(from, to time.Duration) (n int) {
	for _, at := range p.probes {
		if at >= from && at < to {
			n++
		}
	}
	return n
}

func close1s(a, b time.Duration) bool { return (a - b).Abs() <= s }

func TestSourceThatTicks(t *testing.T) {
	for name, c := range map[string]struct {
		period, jitter time.Duration
		takes          time.Duration // a probe
		perTick        float64       // probes, at most
	}{
		"every 15 s on the dot":                    {15 * s, 0, 0, 3},
		"every 15 s, up to 0.5 s late":             {15 * s, s / 2, 0, 3},
		"every 15 s, up to 1.5 s late":             {15 * s, 3 * s / 2, 0, 4},
		"every 10 s, not in whole seconds":         {10*s + 137*time.Millisecond, s / 10, 0, 3},
		"every 4 s":                                {4 * s, s / 10, 0, 3},
		"every 30 s, up to 1 s late":               {30 * s, s, 0, 4},
		"every 60 s, up to 1 s late":               {60 * s, s, 0, 4.5},
		"every 60 s, up to 3 s late":               {60 * s, 3 * s, 0, 7},
		"every 120 s, up to 1 s late":              {120 * s, s, 0, 5},
		"every 120 s, not in whole seconds":        {120*s - 700*time.Millisecond, s / 10, 0, 3},
		"every 60 s, while probes take 0.7 s each": {60 * s, 0, 700 * time.Millisecond, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := ticks{0}.every(c.period, c.jitter, 200*c.period)
				p := newProcess(t, of(source))
				p.takes = max(p.takes, c.takes)
				p.follow(200 * c.period)
				if second := source[2] + 2*MinGap; p.ticks[1].at > second || !close1s(p.ticks[1].period, source[2]-source[1]) {
					t.Errorf("the second tick seen at %s gives the period %s", p.ticks[1].at, p.ticks[1].period)
				}
				if missed := len(source) - 1 - len(p.ticks); missed > 2 {
					t.Errorf("%d ticks not seen", missed)
				}
				var late []time.Duration
				for i, told := range p.ticks[2:] {
					if told.period == 0 || (told.period-c.period).Abs() > s+c.jitter/2 {
						t.Errorf("tick %d: period %s", i+2, told.period)
					}
					seen := source[source.stamp(told.at)-1]
					late = append(late, told.at-seen)
					if told.since >= seen {
						t.Errorf("tick at %s: told that its data were not there at %s", seen, told.since)
					}
				}
				slices.Sort(late)
				if p95 := late[len(late)*95/100]; p95 > MinGap+c.jitter+s/2 {
					t.Errorf("ticks seen %s late (95th percentile)", p95)
				}
				perTick := float64(p.between(source[3], 200*c.period)) / float64(len(source)-4)
				t.Logf("%.1f probes a tick", perTick)
				if perTick > c.perTick {
					t.Errorf("%.1f probes a tick, want at most %.1f", perTick, c.perTick)
				}
			})
		})
	}
}

func TestSourceThatChanges(t *testing.T) {
	const change = 30 * 60 * s // all periods' multiple
	regular := ticks{}.every(15*s, 0, h)
	for name, c := range map[string]struct {
		before, jitter time.Duration
		after          ticks         // since the change
		want           time.Duration // period
		seen           int           // with that many ticks seen after the change
		within         time.Duration // of it
		probes         int           // until then, at most
	}{
		"60 to 15 s":                           {60 * s, 0, ticks{}.every(15*s, 0, h), 15 * s, 3, 77 * s, 25},
		"60 to 15 s, jitter":                   {60 * s, s / 2, ticks{}.every(15*s, s/2, h), 15 * s, 3, 80 * s, 35},
		"120 to 15 s":                          {120 * s, 0, ticks{}.every(15*s, 0, h), 15 * s, 3, 137 * s, 25},
		"120 to 60 s":                          {120 * s, 0, ticks{}.every(60*s, 0, h), 60 * s, 3, 182 * s, 70},
		"60 to 30 s":                           {60 * s, 0, ticks{}.every(30*s, 0, h), 30 * s, 3, 92 * s, 40},
		"15 to 10 s":                           {15 * s, 0, ticks{}.every(10*s, 0, h), 10 * s, 3, 32 * s, 25},
		"60 to 15 s, in another phase":         {60 * s, 0, ticks{7 * s}.every(15*s, 0, h), 15 * s, 3, 90 * s, 40},
		"60 to 10 s, in another phase":         {60 * s, 0, ticks{3 * s}.every(10*s, 0, h), 10 * s, 3, 80 * s, 30},
		"15 to 60 s":                           {15 * s, 0, ticks{}.every(60*s, 0, h), 60 * s, 2, 122 * s, 115},
		"15 to 30 s":                           {15 * s, 0, ticks{}.every(30*s, 0, h), 30 * s, 2, 62 * s, 55},
		"15 to 20 s":                           {15 * s, 0, ticks{}.every(20*s, 0, h), 20 * s, 2, 42 * s, 35},
		"60 to 120 s":                          {60 * s, 0, ticks{}.every(120*s, 0, h), 120 * s, 2, 242 * s, 190},
		"15 to 120 s, jitter":                  {15 * s, s / 2, ticks{}.every(120*s, s, h), 120 * s, 2, 243 * s, 240},
		"15 s, one tick left out":              {15 * s, 0, regular.without(0), 15 * s, 2, 47 * s, 40},
		"15 s, one left out, and one at once":  {15 * s, 0, regular.without(0, 2), 15 * s, 5, 107 * s, 75},
		"15 s, every second left out at first": {15 * s, 0, regular.without(0, 2, 4, 6, 8), 15 * s, 9, 197 * s, 120},
		"60 s, one tick left out":              {60 * s, 0, ticks{}.every(60*s, 0, h).without(0), 60 * s, 2, 182 * s, 160},
		"15 s, silent for 5 minutes":           {15 * s, 0, ticks{300 * s}.every(15*s, 0, h), 15 * s, 2, 782 * s, 200},
		"15 s, restarted in another phase":     {15 * s, 0, ticks{7 * s}.every(15*s, 0, h), 15 * s, 3, 54 * s, 45},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := append(ticks{0}.every(c.before, c.jitter, change), change)
				for _, at := range c.after {
					source = append(source, change+at)
				}
				p := newProcess(t, of(source))
				p.follow(change + 3500*s)
				seen, right := 0, time.Duration(0)
				for _, told := range p.ticks {
					if told.at < change+2*MinGap {
						continue
					}
					seen++
					if told.period != 0 && (told.period-c.want).Abs() <= 3*s/2+c.jitter {
						right = told.at - change
						break
					}
				}
				t.Logf("right with the tick %d seen, after %s and %d probes", seen, right, p.between(change, change+right))
				if right == 0 || seen > c.seen || right > c.within {
					t.Errorf("the period was right with the tick %d seen, after %s; want %d, %s", seen, right, c.seen, c.within)
				}
				if n := p.between(change, change+right); n > c.probes {
					t.Errorf("%d probes until then, want at most %d", n, c.probes)
				}
				// It stays so: for the last half hour each tick has found the right period.
				for _, told := range p.ticks {
					if told.at > change+1800*s && (told.period-c.want).Abs() > s+c.jitter/2 {
						t.Fatalf("period %s at %s", told.period, told.at)
					}
				}
			})
		})
	}
}

func TestSourceWithoutAPeriodIsLeftAlone(t *testing.T) {
	for name, c := range map[string]struct {
		source func(at time.Duration) (string, int64, error)
		takes  time.Duration
		probes int // in an hour, at most
	}{
		"every answer is new, as where it is computed on demand": {
			func(at time.Duration) (string, int64, error) { return "node", int64(at), nil }, 0, 36},
		"every answer is new and slow": {
			func(at time.Duration) (string, int64, error) { return "node", int64(at), nil }, 3 * s, 6 * 50},
		"no answer is ever new": {
			func(time.Duration) (string, int64, error) { return "node", 7, nil }, 0, 5 * 140},
		"one tick and then none": {of(ticks{0, 20 * s}), 0, 5*140 + 25},
		"every 2 s":              {of(ticks{0}.every(2*s, 0, h)), 0, 60},
		"every 5 minutes":        {of(ticks{0}.every(300*s, 0, h)), 0, 6 * 280},
		"two sources behind one address, in turn": {func(at time.Duration) (string, int64, error) {
			return "node", int64(at/s) % 2, nil
		}, 0, 60},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProcess(t, c.source)
				p.takes = c.takes
				p.follow(h)
				for _, told := range p.ticks {
					if told.period != 0 {
						t.Fatalf("period %s at %s, want none", told.period, told.at)
					}
				}
				if n := len(p.probes); n < 20 || n > c.probes {
					t.Errorf("%d probes in an hour, want at most %d", n, c.probes)
				}
			})
		})
	}
}

func TestPeriodIsNeverLearntFromAFreeze(t *testing.T) {
	source := ticks{0}.every(15*s, 0, 7200*s)
	freezes := map[string]func(p *process){
		"before the first tick":              func(p *process) { time.Sleep(5 * s); p.stop(600 * s) },
		"4 s after the first tick for 600 s": func(p *process) { time.Sleep(19 * s); p.stop(600 * s) },
		"1 s alive and 60 s frozen, 20 rounds": func(p *process) {
			for range 20 {
				time.Sleep(s)
				p.stop(60 * s)
			}
		},
		"25 minutes":                       func(p *process) { time.Sleep(200 * s); p.stop(1500 * s) },
		"for a moment right at a tick":     func(p *process) { time.Sleep(89*s + s/2); p.stop(3 * s) },
		"in a probe":                       func(p *process) { time.Sleep(5*s + 10*time.Millisecond); p.stop(44 * s) },
		"in the probe that sees the tick":  func(p *process) { time.Sleep(15*s + 5*time.Millisecond); p.stop(13 * s) },
		"in each of the first five probes": nil,
	}
	for second := range 20 {
		name := "for 64 s, " + (time.Duration(second) * s).String() + " after the first tick"
		freezes[name] = func(p *process) { time.Sleep(15*s + s/10 + time.Duration(second)*s); p.stop(64 * s) }
	}
	freezes["in each of the first five probes"] = func(p *process) {
		for range 5 {
			time.Sleep(s + 5*time.Millisecond)
			p.stop(30 * s)
		}
	}
	for name, freeze := range freezes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProcess(t, of(source))
				var over time.Duration
				var froze sync.WaitGroup
				froze.Go(func() { freeze(p); over = p.elapsed() })
				p.follow(h)
				froze.Wait()
				for _, told := range p.ticks {
					if told.period != 0 && !close1s(told.period, 15*s) {
						t.Fatalf("period %s at %s, want 15s or none", told.period, told.at)
					}
				}
				if i := slices.IndexFunc(p.lost, func(at time.Duration) bool { return at >= over && at < over+s }); i < 0 {
					t.Errorf("lost at %v, want when it goes on at %s", p.lost, over)
				}
				if !slices.ContainsFunc(p.ticks, func(told tick) bool {
					return told.period != 0 && told.at > over && told.at < over+32*s
				}) {
					t.Errorf("no period within two ticks after %s: %v", over, p.ticks)
				}
			})
		})
	}
}

func TestTickIsNotKnownWhereAClockSaysThatProbesWereFarApart(t *testing.T) {
	// The moments have no monotonic reading, as if that clock had stood still.
	for _, between := range []time.Duration{-time.Hour, 3 * s, time.Hour} {
		var p phase
		start := time.Now().Round(0)
		p.observe(start, start, 1)
		at := start.Add(between)
		if ticked, since := p.observe(at, at, 2); !ticked || !since.IsZero() {
			t.Errorf("%s apart: ticked %t, since %s; want a tick of which nobody knows when it was", between, ticked, since)
		}
	}
}

func TestTickBehindASlowProbeTeachesNothing(t *testing.T) {
	for name, from := range map[string]time.Duration{
		"the first": 14 * s, "the second": 29 * s, "the third": 42 * s, "one of many": 600*s - 3*s,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProcess(t, of(ticks{0}.every(15*s, 0, h)))
				p.slow = func(at time.Duration) bool { return at >= from && at < from+3*s }
				p.follow(1200 * s)
				unknown := 0
				for _, told := range p.ticks {
					if told.since < 0 {
						unknown++
					}
					if told.period != 0 && !close1s(told.period, 15*s) {
						t.Errorf("period %s at %s", told.period, told.at)
					}
				}
				if unknown != 1 {
					t.Errorf("%d ticks of which nobody knows when they were, want the one", unknown)
				}
			})
		})
	}
}

func TestPeriodIsNeverLongerThanTheLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProcess(t, of(ticks{0}.every(125*s, 0, h)))
		p.follow(h)
		if p.longest != MaxPeriod {
			t.Errorf("a source of 125 s has a period of %s, want %s", p.longest, MaxPeriod)
		}
	})
}

func TestSourceThatFallsSilentIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProcess(t, of(ticks{0}.every(15*s, 0, 100*s)))
		p.follow(600 * s)
		if len(p.lost) != 1 || p.lost[0] < 90*s+22*s || p.lost[0] > 90*s+27*s {
			t.Errorf("lost at %v, want one and a half periods after the last tick at 1m30s", p.lost)
		}
	})
}

func TestThawIsNotWaitedFor(t *testing.T) {
	for name, at := range map[string]time.Duration{
		"between two ticks": 200 * s, "while no period is looked for": 20 * 60 * s,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProcess(t, of(ticks{0}.every(60*s, 0, 600*s)))
				time.AfterFunc(at, p.suspended)
				p.follow(at + 2*s)
				if n := len(p.lost); n == 0 || p.lost[n-1] != at || p.between(at, at+s/2) != 1 {
					t.Errorf("lost at %v, the last probe at %s; want both at %s", p.lost, p.probes[len(p.probes)-1], at)
				}
			})
		})
	}
}

// TestTicksThatTheObjectDoesNotShow has lists of all objects read with each tick that is seen or due, and at last 17 s
// after one another.
func TestTicksThatTheObjectDoesNotShow(t *testing.T) {
	every := func(n, from int) (left []int) {
		for i := from; i < 200; i += n {
			left = append(left, i)
		}
		return left
	}
	for name, c := range map[string]struct {
		period time.Duration
		hidden []int // ticks
		lost   bool
	}{
		"none":                            {15 * s, nil, false},
		"one in ten":                      {15 * s, every(10, 10), false},
		"one in three":                    {15 * s, every(3, 3), false},
		"each second":                     {15 * s, every(2, 2), false},
		"each but the third":              {15 * s, append(every(3, 1), every(3, 2)...), false},
		"one in three, and every 10 s":    {10 * s, every(3, 3), false},
		"one in three, and every 60 s":    {60 * s, every(3, 3), false},
		"the second":                      {15 * s, []int{2}, false},
		"the second and third":            {15 * s, []int{2, 3}, false},
		"three after one another at once": {15 * s, []int{100, 101, 102}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := ticks{0}.every(c.period, s/5, 200*c.period)
				p := newProcess(t, of(all.without(c.hidden...)))
				var read, after, before time.Duration
				look := func(at time.Duration) {
					if all.stamp(at) > all.stamp(read) {
						after, before = read, at
					}
					read = at
				}
				p.shown = func(at time.Duration) (time.Duration, time.Duration) {
					if n := len(p.ticks); n > 0 && p.ticks[n-1].at > read {
						look(p.ticks[n-1].at)
					}
					if n := len(p.due); n > 0 && p.due[n-1] > read {
						look(p.due[n-1])
					}
					for at-read > 17*s {
						look(read + 17*s)
					}
					return after, before
				}
				p.follow(200 * c.period)
				for _, told := range p.ticks {
					if told.period != 0 && (told.period-c.period).Abs() > s+s/2 {
						t.Errorf("period %s at %s", told.period, told.at)
					}
				}
				if (len(p.lost) > 0) != c.lost {
					t.Errorf("lost at %v", p.lost)
				}
				if c.lost {
					return
				}
				known := p.ticks[slices.IndexFunc(p.ticks, func(told tick) bool { return told.period > 0 })].at
				late := 0
				for i, at := range all[:len(all)-1] {
					told := func(moment time.Duration) bool { return moment >= at && moment < at+5*s/2 }
					if at > known && !slices.ContainsFunc(p.due, told) &&
						!slices.ContainsFunc(p.ticks, func(seen tick) bool { return told(seen.at) }) {
						late++
						t.Logf("nobody was told of the tick %d at %s", i, at)
					}
				}
				if late > 2 {
					t.Errorf("nobody was told of %d ticks", late)
				}
				if n := len(p.ticks) + len(p.due) - len(all); n > 4 {
					t.Errorf("%d calls too many", n)
				}
				perTick := float64(p.between(known, all[len(all)-1])) / float64(len(all))
				t.Logf("%.1f probes a tick", perTick)
				if perTick > 5 {
					t.Errorf("%.1f probes a tick", perTick)
				}
			})
		})
	}
}

func TestATickThatDoesNotComeIsDueOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProcess(t, of(ticks{0}.every(15*s, 0, 100*s)))
		p.follow(600 * s)
		if len(p.due) != 1 || p.due[0] < 105*s || p.due[0] > 107*s {
			t.Errorf("due at %v, want once right after 1m45s", p.due)
		}
	})
}

func TestSearchBeginsWithTheFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := of(ticks{0}.every(60*s, 0, h))
		p := newProcess(t, func(at time.Duration) (string, int64, error) {
			if at < 100*s {
				time.Sleep(100*s - at) // there is no object yet
			}
			return source(max(at, 100*s))
		})
		p.follow(200 * s)
		if n := len(p.ticks); n < 2 || !close1s(p.ticks[1].period, 60*s) {
			t.Errorf("ticks %v, want a period with the second", p.ticks)
		}
	})
}

func TestIntervalGrowsWithThreeTicks(t *testing.T) {
	var f Freshness
	step := func(what string, want time.Duration) {
		t.Helper()
		if got := f.Interval(15 * s); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	tick := func(period time.Duration) { f.Tick(time.Time{}, period) }
	step("nothing is known", 15*s)
	tick(0)
	step("one tick", 15*s)
	tick(60 * s)
	step("the first period", 17*s)
	tick(60 * s)
	step("the second", 17*s)
	tick(61 * s)
	step("the third", 62*s)
	tick(15 * s)
	step("a shorter one", 17*s)
	tick(60 * s)
	tick(60 * s)
	step("two longer ones after it", 17*s)
	tick(60 * s)
	step("the third of them", 62*s)
	f.Lost()
	step("lost", 15*s)
	tick(60 * s)
	step("the first after that", 17*s)
}

func TestFailedProbe(t *testing.T) {
	source := ticks{0}.every(15*s, 0, h)
	synctest.Test(t, func(t *testing.T) {
		const from, until = 100 * s, 400 * s
		p := newProcess(t, func(at time.Duration) (string, int64, error) {
			if at >= from && at < until {
				return "", 0, errors.New("refused")
			}
			return "node", source.stamp(at), nil
		})
		p.follow(600 * s)
		if len(p.lost) == 0 || p.lost[0] < from || p.lost[0] > from+15*s {
			t.Fatalf("lost at %v, want with the first failure after %s", p.lost, from)
		}
		if n := p.between(from, until); n != len(p.lost) || n > 6 {
			t.Errorf("%d probes and %d times lost in 5 minutes of failures, want each, and a minute's pause", n, len(p.lost))
		}
		again := slices.IndexFunc(p.ticks, func(told tick) bool { return told.at > until })
		if again < 0 || p.ticks[again].period != 0 || !close1s(p.ticks[again+1].period, 15*s) {
			t.Errorf("ticks %v: want no period with the first after %s, and one with the second", p.ticks, until)
		}
	})
}

func TestAnotherObjectOfTheSource(t *testing.T) {
	source := ticks{0}.every(15*s, 0, h)
	synctest.Test(t, func(t *testing.T) {
		p := newProcess(t, func(at time.Duration) (string, int64, error) {
			if at >= 100*s {
				return "other", 1000 + source.stamp(at), nil
			}
			return "node", source.stamp(at), nil
		})
		p.follow(600 * s)
		for _, told := range p.ticks[1:] {
			if !close1s(told.period, 15*s) || told.at%(15*s) > 2*s {
				t.Errorf("tick %v: the change to another object counts as one", told)
			}
		}
	})
}

func TestFollowEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProcess(t, of(ticks{0}.every(15*s, 0, h)))
		p.follow(20 * s)
		if at := p.elapsed(); at < 20*s || at > 20*s+p.takes {
			t.Errorf("ended at %s", at)
		}
	})
}
