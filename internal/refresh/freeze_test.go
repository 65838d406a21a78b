package refresh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// exporter is a process that serves what a Loop reads from a source whose value is the time, so that an answer shows of
// when it is. Its publishing keeps to what Attempt says.
type exporter struct {
	*trial
	latency time.Duration // of a read; half of it before the source looks at its clock
	down    bool
	skipped time.Duration // of the real time, in a suspension
	value   time.Duration // published; -1 for nothing
	thawed  time.Duration // when the process last began to run, in real time
	answers []answer
	scrapes sync.WaitGroup
}

// answer is of a scrape, in real time since the start.
type answer struct {
	asked, thawed, answered time.Duration // thawed is the last thaw, or that of the freeze that begins; 0 for none
	ok                      bool          // else a 503
	value                   time.Duration // -1 for nothing on the page
}

func newExporter(t *testing.T, interval, latency time.Duration) *exporter {
	e := &exporter{latency: latency, value: -1}
	read := time.Duration(0)
	e.trial = newTrial(t, func(ctx context.Context, _ int) error {
		if !wait(ctx, latency/2) {
			return ctx.Err()
		}
		if e.down {
			return errRefused
		}
		value := e.real()
		if !wait(ctx, latency-latency/2) {
			return ctx.Err()
		}
		read = value
		return nil
	}, nil)
	e.Interval = func() time.Duration { return interval }
	publish := e.Publish
	e.Publish = func(a Attempt, err error) time.Duration {
		e.mu.Lock()
		if err == nil {
			e.value = read
		} else if a.Late > 0 {
			e.value = -1
		}
		e.mu.Unlock()
		return publish(a, err)
	}
	return e
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (e *exporter) real() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.elapsed() + e.skipped
}

// freeze stops the process.
func (e *exporter) freeze(length time.Duration) {
	e.mu.Lock()
	e.thawed = e.elapsed() + e.skipped + length // what is answered meanwhile is what goes on then
	e.mu.Unlock()
	e.process.stop(length)
}

// suspend stops the machine, whose wall clock goes on.
func (e *exporter) suspend(length time.Duration) {
	e.mu.Lock()
	e.skipped += length
	e.thawed = e.elapsed() + e.skipped
	e.mu.Unlock()
	e.process.setClock(length)
}

// scrape asks as a scraper with a timeout of 10 s does. A process that is stopped begins with it when it runs again.
// One that was stopped between looking and answering looks again.
func (e *exporter) scrape() {
	asked := e.real()
	e.scrapes.Go(func() {
		e.process.runs()
		ctx, cancel := context.WithTimeout(e.t.Context(), 9500*time.Millisecond)
		defer cancel()
		for {
			thaws := e.Pulse.Thaws()
			err := e.Current(ctx)
			e.mu.Lock()
			value := e.value
			e.mu.Unlock()
			if err != nil || e.Pulse.Thaws() == thaws {
				now := e.real()
				e.mu.Lock()
				defer e.mu.Unlock()
				e.answers = append(e.answers, answer{asked, e.thawed, now, err == nil, value})
				return
			}
		}
	})
}

// serve runs the loop while happens does, scraped every two seconds and at once when that is over, and returns the
// answers.
func (e *exporter) serve(happens func(e *exporter)) []answer {
	ctx, cancel := context.WithCancel(e.t.Context())
	var running sync.WaitGroup
	running.Go(func() { e.Pulse.Run(ctx) })
	running.Go(func() { e.Run(ctx) })
	running.Go(func() {
		for wait(ctx, 2*time.Second) {
			e.scrape()
		}
	})
	happens(e)
	for range 10 {
		e.scrape()
	}
	time.Sleep(30 * time.Second)
	cancel()
	running.Wait()
	e.scrapes.Wait()
	return e.answers
}

// check reports answers with what was read before the last freeze or is older than regular. It counts pages, and the
// 503 to those who asked when the process ran and went on running.
func check(t *testing.T, answers []answer, regular time.Duration) (pages, refused int) {
	t.Helper()
	for _, a := range answers {
		switch {
		case !a.ok:
			if a.asked > a.thawed {
				refused++
			}
			continue
		case a.value >= 0:
			pages++
		}
		if a.value >= 0 && a.value < a.thawed && a.thawed <= a.answered {
			t.Errorf("asked at %s, a thaw at %s, answered at %s what was read at %s", a.asked, a.thawed, a.answered, a.value)
		}
		if age := a.answered - a.value; a.value >= 0 && age > regular {
			t.Errorf("asked at %s, answered at %s what is %s old", a.asked, a.answered, age)
		}
	}
	return pages, refused
}

func TestWhatIsServedAfterAFreezeWasReadAfterIt(t *testing.T) {
	const s, h = time.Second, time.Hour
	cases := map[string]func(e *exporter){
		"before the first attempt has ended": func(e *exporter) { time.Sleep(s / 10); e.freeze(600 * s) },
		"4 s after the start for 600 s":      func(e *exporter) { time.Sleep(4 * s); e.freeze(600 * s) },
		"1 s alive and 60 s frozen, 20 rounds": func(e *exporter) {
			for range 20 {
				time.Sleep(s)
				e.scrape()
				e.freeze(60 * s)
			}
		},
		"3 s alive and 3 s frozen, 20 rounds": func(e *exporter) {
			for range 20 {
				time.Sleep(3 * s)
				e.scrape()
				e.freeze(3 * s)
			}
		},
		"25 minutes": func(e *exporter) { time.Sleep(100*s + s/20); e.freeze(25 * 60 * s) },
		"600 s, the clock set back an hour meanwhile": func(e *exporter) {
			time.Sleep(40*s + s/20)
			e.process.setClock(-h)
			e.freeze(600 * s)
		},
		"600 s, the clock set back by as long": func(e *exporter) {
			time.Sleep(40*s + s/20)
			e.process.setClock(-600 * s)
			e.freeze(600 * s)
		},
		"600 s, the clock set forward an hour meanwhile": func(e *exporter) {
			time.Sleep(40*s + s/20)
			e.process.setClock(h)
			e.freeze(600 * s)
		},
		"a machine that is suspended for 10 minutes": func(e *exporter) { time.Sleep(40*s + s/20); e.suspend(600 * s) },
		"a machine that is suspended for 3 s":        func(e *exporter) { time.Sleep(40*s + s/20); e.suspend(3 * s) },
		"two freezes before anybody asks": func(e *exporter) {
			time.Sleep(40*s + s/20)
			e.freeze(600 * s)
			time.Sleep(s / 20)
			e.freeze(3 * s)
		},
	}
	for second := range 32 {
		cases[fmt.Sprintf("%d s after the start for 20 s", second)] = func(e *exporter) {
			time.Sleep(time.Duration(second)*s + s/10)
			e.freeze(20 * s)
		}
	}
	// In the middle of an attempt, which begins at 15 s: in its first and its second half, for less and for more than the
	// cut-off.
	for at := range 4 {
		for _, length := range []time.Duration{3 * s, 9 * s, 11 * s, 60 * s} {
			cases[fmt.Sprintf("in an attempt, after %d s of 4, for %s", at, length)] = func(e *exporter) {
				time.Sleep(15*s + time.Duration(at)*s + s/2)
				e.freeze(length)
			}
		}
	}
	for name, happens := range cases {
		// The second interval is what the old search for a period made of a freeze: too long for a due time to tell.
		for _, interval := range []time.Duration{15 * s, 603 * s} {
			for _, latency := range []time.Duration{s / 5, 4 * s} {
				t.Run(fmt.Sprintf("%s, read each %s in %s", name, interval, latency), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						e := newExporter(t, interval, latency)
						pages, refused := check(t, e.serve(happens), interval+2*latency+Grace)
						if pages < 10 || latency < s && refused > 0 {
							t.Errorf("%d pages, %d times refused", pages, refused)
						}
					})
				})
			}
		}
	}
}

func TestFailuresAfterAFreezeLeaveNothingOldVisible(t *testing.T) {
	const ms = time.Millisecond
	for name, freeze := range map[string]func(*exporter){
		"between attempts":         func(e *exporter) { time.Sleep(20300 * ms); e.freeze(5 * time.Second) },
		"in an attempt":            func(e *exporter) { time.Sleep(15100 * time.Millisecond); e.freeze(5 * time.Second) },
		"of the machine":           func(e *exporter) { time.Sleep(20300 * ms); e.suspend(time.Minute) },
		"with the clock set back":  func(e *exporter) { time.Sleep(20300 * ms); e.process.setClock(-time.Hour) },
		"until an attempt was due": func(e *exporter) { time.Sleep(20300 * ms); e.freeze(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newExporter(t, 15*time.Second, 200*time.Millisecond)
				var thaw time.Duration
				answers := e.serve(func(e *exporter) {
					time.AfterFunc(14*time.Second, func() { e.mu.Lock(); e.down = true; e.mu.Unlock() })
					freeze(e)
					thaw = e.real()
				})
				before, after := 0, 0
				for _, a := range answers {
					switch {
					case a.answered >= thaw && a.ok:
						if after++; a.value != -1 {
							t.Errorf("answered at %s what was read at %s", a.answered, a.value)
						}
					case a.value >= 0:
						before++
					}
				}
				if before == 0 || after < 10 {
					t.Errorf("%d pages before the freeze and %d answers after it", before, after)
				}
			})
		})
	}
}

func TestFailureWithoutAFreezeIsNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExporter(t, 15*time.Second, 200*time.Millisecond)
		for _, a := range e.serve(func(e *exporter) {
			time.Sleep(10 * time.Second)
			e.mu.Lock()
			e.down = true
			e.mu.Unlock()
			time.Sleep(time.Minute)
		}) {
			if !a.ok || a.value != 100*time.Millisecond {
				t.Fatalf("answer %+v, want what was read first", a)
			}
		}
	})
}

func TestAttemptsAroundAFreeze(t *testing.T) {
	const s, h = time.Second, time.Hour
	slow, first := after(4*s), made{0, 4 * s, 0, nil}
	for name, c := range map[string]struct {
		read   func(context.Context, int) error
		freeze func(r *trial)
		calls  []time.Duration // of 100 scrapes each
		want   []made
	}{
		"shorter than the cut-off, in an attempt: it is made again at once": {
			slow, func(r *trial) { time.Sleep(16 * s); r.process.stop(5 * s) }, []time.Duration{22 * s},
			[]made{first, {15 * s, 21 * s, 5 * s, ErrMissed}, {21 * s, 25 * s, 5 * s, nil}, {36 * s, 40 * s, 0, nil}}},
		"longer than the cut-off, in an attempt: it is made again at once": {
			slow, func(r *trial) { time.Sleep(16 * s); r.process.stop(30 * s) }, []time.Duration{46 * s},
			[]made{first, {15 * s, 46 * s, 30 * s, ErrMissed}, {46 * s, 50 * s, 30 * s, nil}}},
		"in the first attempt": {
			slow, func(r *trial) { time.Sleep(2 * s); r.process.stop(30 * s) }, []time.Duration{32 * s},
			[]made{{0, 32 * s, 30 * s, ErrMissed}, {32 * s, 36 * s, 30 * s, nil}, {47 * s, 51 * s, 0, nil}}},
		"in an attempt that fails: it is made again at once": {
			func(_ context.Context, n int) error {
				time.Sleep(4 * s)
				if n == 1 {
					return errRefused
				}
				return nil
			}, func(r *trial) { time.Sleep(16 * s); r.process.stop(5 * s) }, []time.Duration{22 * s},
			[]made{first, {15 * s, 21 * s, 5 * s, ErrMissed}, {21 * s, 25 * s, 5 * s, nil}, {36 * s, 40 * s, 0, nil}}},
		"between attempts: scrapes after it cause one, before it is due": {
			slow, func(r *trial) { time.Sleep(6 * s); r.process.stop(5 * s) }, []time.Duration{8 * s, 11 * s, 12 * s, 14 * s},
			[]made{first, {11 * s, 15 * s, 5 * s, nil}, {26 * s, 30 * s, 0, nil}, {41 * s, 45 * s, 0, nil}}},
		"between attempts, nobody asks: the next knows": {
			slow, func(r *trial) { time.Sleep(6 * s); r.process.stop(5 * s) }, nil,
			[]made{first, {15 * s, 19 * s, 5 * s, nil}, {30 * s, 34 * s, 0, nil}, {45 * s, 49 * s, 0, nil}}},
		"until after the next was due": {
			slow, func(r *trial) { time.Sleep(6 * s); r.process.stop(30 * s) }, []time.Duration{10 * s, 20 * s, 36 * s, 38 * s},
			[]made{first, {36 * s, 40 * s, 30 * s, nil}}},
		"two freezes count together": {
			slow, func(r *trial) { time.Sleep(6 * s); r.process.stop(20 * s); time.Sleep(s); r.process.stop(5 * s) }, nil,
			[]made{first, {26 * s, 32 * s, 25 * s, ErrMissed}, {32 * s, 36 * s, 25 * s, nil}, {47 * s, 51 * s, 0, nil}}},
		"a machine suspended between attempts": {
			slow, func(r *trial) { time.Sleep(6 * s); r.process.setClock(time.Hour) }, []time.Duration{6 * s, 9 * s},
			[]made{first, {6 * s, 10 * s, time.Hour, nil}, {21 * s, 25 * s, 0, nil}, {36 * s, 40 * s, 0, nil}}},
		"the clock set back in an attempt": {
			slow, func(r *trial) { time.Sleep(16 * s); r.process.setClock(-time.Hour) }, []time.Duration{17 * s},
			[]made{first, {15 * s, 19 * s, h, ErrMissed}, {19 * s, 23 * s, h, nil}, {34 * s, 38 * s, 0, nil}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTrial(t, c.read, nil)
				const each = 100
				returned := r.callers(each, c.calls...)
				go c.freeze(r)
				got := r.runFor(52 * s)
				if len(*returned) != each*len(c.calls) {
					t.Errorf("%d callers returned, want %d", len(*returned), each*len(c.calls))
				}
				for i, want := range c.want {
					if i >= len(got) {
						t.Fatalf("attempts %v, want %v", got, c.want)
					}
					g := got[i]
					// The Pulse counts from the last beat before the freeze.
					if g.began != want.began || g.published != want.published || !errors.Is(g.err, want.err) ||
						g.late < want.late || g.late > want.late+2*beat || want.late == 0 && g.late != 0 {
						t.Errorf("attempt %d: %+v, want %+v", i, g, want)
					}
				}
				if len(got) != len(c.want) {
					t.Errorf("attempts %v, want %v", got, c.want)
				}
			})
		})
	}
}

func TestCurrentAfterAFreezeKeepsThePauseThatTheServerAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, fails, func(int) time.Duration { return time.Minute })
		go func() { time.Sleep(10 * time.Second); r.process.stop(10 * time.Second) }()
		returned := r.callers(3, 21*time.Second, 40*time.Second)
		if got := r.runFor(70 * time.Second); len(got) != 2 || got[1].began != time.Minute {
			t.Errorf("attempts %v, want the second after a minute", got)
		}
		for _, at := range *returned {
			if at != time.Minute {
				t.Errorf("a caller returned at %s, want with the attempt at 1m", at)
			}
		}
	})
}

func TestFirstAttemptOfALoopThatIsYoungerThanAFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, after(0), nil)
		r.process.stop(time.Minute)
		if got := r.runFor(time.Second); len(got) != 1 || got[0].late != 0 || r.Pulse.Thaws() != 1 {
			t.Errorf("attempts %v, want one that is not late", got)
		}
	})
}

func TestWakeAt(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		read  func(context.Context, int) error
		pause time.Duration
		wake  func(r *trial)
		want  []time.Duration // beginnings within the first 39 s
	}{
		"a moment to come: the attempt begins then": {
			after(0), 0, func(r *trial) { r.wakeIn(3*s, 2*s) }, []time.Duration{0, 5 * s, 20 * s, 35 * s}},
		"a moment that has passed: at once": {
			after(0), 0, func(r *trial) { r.wakeIn(3*s, -s) }, []time.Duration{0, 3 * s, 18 * s, 33 * s}},
		"in an attempt, a moment in it: after it": {
			after(4 * s), 0, func(r *trial) { r.wakeIn(16*s, 2*s) }, []time.Duration{0, 15 * s, 19 * s, 34 * s}},
		"in an attempt, a moment after it: then": {
			after(4 * s), 0, func(r *trial) { r.wakeIn(16*s, 5*s) }, []time.Duration{0, 15 * s, 21 * s}},
		"the earlier of two counts": {
			after(0), 0, func(r *trial) { r.wakeIn(3*s, 4*s); r.wakeIn(4*s, s); r.wakeIn(4*s, 8*s) },
			[]time.Duration{0, 5 * s, 20 * s, 35 * s}},
		"an attempt before it is as good": {
			after(0), 0, func(r *trial) { r.wakeIn(14*s, 3*s) }, []time.Duration{0, 15 * s, 30 * s}},
		"after the next is due: nothing changes": {
			after(0), 0, func(r *trial) { r.wakeIn(3*s, time.Hour) }, []time.Duration{0, 15 * s, 30 * s}},
		"in a pause that the server asked for: after it": {
			fails, 30 * s, func(r *trial) { r.wakeIn(3*s, 2*s) }, []time.Duration{0, 30 * s}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTrial(t, c.read, func(int) time.Duration { return c.pause })
				c.wake(r)
				got := r.runFor(39 * s)
				if len(got) != len(c.want) {
					t.Fatalf("attempts %v, want beginnings %v", got, c.want)
				}
				for i, want := range c.want {
					if got[i].began != want {
						t.Errorf("attempts %v, want beginnings %v", got, c.want)
					}
				}
			})
		})
	}
}

// wakeIn calls WakeAt at a moment, for some time after it.
func (r *trial) wakeIn(at, later time.Duration) {
	time.AfterFunc(at, func() { r.WakeAt(time.Now().Add(later)) })
}
