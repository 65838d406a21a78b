package refresh

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errRefused = errors.New("refused")

// made is an attempt as a test sees it; times count from the start of the loop.
type made struct {
	began, published, late time.Duration
	err                    error
}

// trial runs a Loop inside a synctest bubble and records its attempts.
type trial struct {
	Loop
	process  process
	t        *testing.T
	start    time.Time
	mu       sync.Mutex
	attempts []made
	running  int
}

// Current waits until what is published is current, as whoever serves it does.
func (l *Loop) Current(ctx context.Context) error {
	for {
		ended := l.Ended()
		if l.IsCurrent() {
			return nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// newTrial makes a loop with an interval of 15 s and a cut-off of 10 s. read makes the nth attempt, from 0; pause is
// what the server asks for after it.
func newTrial(t *testing.T, read func(ctx context.Context, n int) error, pause func(n int) time.Duration) *trial {
	r := &trial{t: t, start: time.Now()}
	r.Pulse = newPulse(r.process.clock)
	r.Interval = func() time.Duration { return 15 * time.Second }
	r.Cutoff = 10 * time.Second
	n := -1
	r.Read = func(ctx context.Context, a Attempt) error {
		r.mu.Lock()
		r.running++
		if r.running > 1 {
			t.Error("two attempts at once")
		}
		n++
		r.mu.Unlock()
		defer func() { r.mu.Lock(); r.running--; r.mu.Unlock() }()
		if now := time.Now(); !a.Began.Equal(now) {
			t.Errorf("attempt began %s, told %s", now, a.Began)
		}
		defer r.process.runs()
		return read(ctx, n)
	}
	r.Publish = func(a Attempt, err error) time.Duration {
		r.mu.Lock()
		r.attempts = append(r.attempts, made{a.Began.Sub(r.start), r.elapsed(), a.Late, err})
		r.mu.Unlock()
		if pause == nil {
			return 0
		}
		return pause(n)
	}
	return r
}

func (r *trial) elapsed() time.Duration { return time.Since(r.start) }

// runFor runs the loop for that long, and until the attempt has ended that runs then.
func (r *trial) runFor(length time.Duration) []made {
	ctx, cancel := context.WithTimeout(r.t.Context(), length)
	defer cancel()
	go r.Pulse.Run(ctx)
	r.Run(ctx)
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.attempts
}

// hangs waits for the attempt to be cut off.
func hangs(ctx context.Context, _ int) error {
	<-ctx.Done()
	return ctx.Err()
}

// after works, that long after its beginning.
func after(d time.Duration) func(context.Context, int) error {
	return func(context.Context, int) error { time.Sleep(d); return nil }
}

func fails(context.Context, int) error { return errRefused }

func TestWhenAttemptsBegin(t *testing.T) {
	// gap is the time from one beginning to the next. Pauses after failures are up to a quarter longer than they have
	// to be, so that many exporters do not ask at the same moment.
	type gap struct{ least, most time.Duration }
	exactly := func(seconds ...int) (gaps []gap) {
		for _, s := range seconds {
			d := time.Duration(s) * time.Second
			gaps = append(gaps, gap{d, d})
		}
		return gaps
	}
	backoff := func(begin int, seconds ...int) (gaps []gap) {
		for _, s := range seconds {
			least := time.Duration(begin+s) * time.Second
			gaps = append(gaps, gap{least, least + time.Duration(s)*time.Second/4})
		}
		return gaps
	}
	for name, c := range map[string]struct {
		interval time.Duration
		cutoff   time.Duration
		read     func(context.Context, int) error
		pause    func(n int) time.Duration
		want     []gap
	}{
		"those that work at once begin once per interval": {
			read: after(0), want: exactly(15, 15, 15)},
		"the interval counts from beginning to beginning": {
			read: after(6 * time.Second), want: exactly(15, 15, 15)},
		"one that takes longer than the interval is followed at once": {
			cutoff: 30 * time.Second, read: after(20 * time.Second), want: exactly(20, 20)},
		"one that hangs is cut off": {
			read: hangs, want: backoff(10, 1, 2)},
		"pauses grow with each failure, up to the interval": {
			read: fails, want: backoff(0, 1, 2, 4, 8, 15, 15, 15)},
		"pauses are never longer than a short interval": {
			interval: 3 * time.Second, read: fails, want: backoff(0, 1, 2, 3, 3, 3)},
		"one success ends the backing off": {
			read: func(_ context.Context, n int) error {
				if n == 3 {
					return nil
				}
				return errRefused
			}, want: append(append(backoff(0, 1, 2, 4), exactly(15)...), backoff(0, 1, 2, 4)...)},
		"a pause that the server asks for is kept": {
			read: fails, pause: func(int) time.Duration { return 40 * time.Second }, want: exactly(40, 40)},
		"one shorter than the backoff does not shorten it": {
			read: fails, pause: func(int) time.Duration { return time.Second / 2 }, want: backoff(0, 1, 2, 4, 8)},
		"nobody can ask for more than 5 minutes": {
			read: fails, pause: func(int) time.Duration { return 24 * time.Hour }, want: exactly(300, 300)},
		"a negative pause is none": {
			read: fails, pause: func(int) time.Duration { return -time.Hour }, want: backoff(0, 1, 2, 4)},
		"a pause after an attempt that worked means nothing": {
			read: after(0), pause: func(int) time.Duration { return time.Minute }, want: exactly(15, 15)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTrial(t, c.read, c.pause)
				if c.interval != 0 {
					r.Interval = func() time.Duration { return c.interval }
				}
				if c.cutoff != 0 {
					r.Cutoff = c.cutoff
				}
				length := 11 * time.Second // what the last attempt of all may take
				for _, g := range c.want {
					length += g.most
				}
				attempts := r.runFor(max(length, c.cutoff+length))
				if len(attempts) <= len(c.want) {
					t.Fatalf("%d attempts, want at least %d", len(attempts), len(c.want)+1)
				}
				for i, want := range c.want {
					got := attempts[i+1].began - attempts[i].began
					if got < want.least || got > want.most {
						t.Errorf("attempt %d began %s after the one before, want %s to %s", i+1, got, want.least, want.most)
					}
				}
			})
		})
	}
}

func TestIntervalIsAskedAfterEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, after(0), nil)
		next := time.Duration(0)
		r.Interval = func() time.Duration { next += 10 * time.Second; return next }
		attempts := r.runFor(65 * time.Second)
		for i, want := range []time.Duration{0, 10 * time.Second, 30 * time.Second, 60 * time.Second} {
			if i >= len(attempts) || attempts[i].began != want {
				t.Fatalf("attempts %v: number %d did not begin at %s", attempts, i, want)
			}
		}
	})
}

func TestWhatIsPublished(t *testing.T) {
	for name, c := range map[string]struct {
		read func(context.Context, int) error
		err  error
		late bool
		at   time.Duration
	}{
		"one that worked":                     {after(3 * time.Second), nil, false, 3 * time.Second},
		"one that failed":                     {fails, errRefused, false, 0},
		"one that was cut off":                {hangs, context.DeadlineExceeded, false, 10 * time.Second},
		"one that worked just after its time": {after(11 * time.Second), nil, false, 11 * time.Second},
		"one that worked long after its time": {after(time.Minute), ErrMissed, true, time.Minute},
		"one that failed long after its time": {
			func(context.Context, int) error { time.Sleep(time.Minute); return errRefused }, ErrMissed, true, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTrial(t, func(ctx context.Context, n int) error {
					if n > 0 {
						return nil
					}
					return c.read(ctx, n)
				}, nil)
				got := r.runFor(2 * time.Minute)[0]
				if !errors.Is(got.err, c.err) || got.published != c.at || (got.late > 0) != c.late {
					t.Errorf("published %v, late %s, at %s; want %v, late %t, at %s",
						got.err, got.late, got.published, c.err, c.late, c.at)
				}
			})
		})
	}
}

func TestStop(t *testing.T) {
	for name, c := range map[string]struct {
		read      func(context.Context, int) error
		at        time.Duration
		published int
	}{
		"between attempts": {after(0), 20 * time.Second, 2},
		"in an attempt, whose result nobody sees any more": {hangs, 5 * time.Second, 0},
		"while backing off": {fails, 5 * time.Second, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTrial(t, c.read, nil)
				if got := r.runFor(c.at); len(got) != c.published {
					t.Errorf("%d attempts published, want %d", len(got), c.published)
				}
				if r.elapsed() != c.at {
					t.Errorf("the loop ended %s after its start, want with its context after %s", r.elapsed(), c.at)
				}
			})
		})
	}
}

func TestWake(t *testing.T) {
	const ms = time.Millisecond
	seconds := func(s ...int) (ds []time.Duration) {
		for _, s := range s {
			ds = append(ds, time.Duration(s)*time.Second)
		}
		return ds
	}
	for name, c := range map[string]struct {
		read  func(context.Context, int) error
		pause time.Duration
		wakes []time.Duration
		want  []time.Duration // beginnings within the first 39 s
	}{
		"between attempts one begins at once, and the interval counts from it": {
			after(0), 0, seconds(5), seconds(0, 5, 20, 35)},
		"those that come while an attempt runs begin none beside it, and one after it": {
			after(4 * time.Second), 0, seconds(16, 17, 18), seconds(0, 15, 19, 34)},
		"while backing off one begins at once": {
			func(_ context.Context, n int) error {
				if n < 4 {
					return errRefused
				}
				return nil
			}, 0, []time.Duration{100 * ms, 200 * ms, 300 * ms, 400 * ms},
			[]time.Duration{0, 100 * ms, 200 * ms, 300 * ms, 400 * ms, 15400 * ms, 30400 * ms}},
		"in a pause that the server asked for none begins": {
			fails, 30 * time.Second, seconds(1, 2, 3, 10, 29, 29), seconds(0, 30)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTrial(t, c.read, func(int) time.Duration { return c.pause })
				for _, at := range c.wakes {
					time.AfterFunc(at, r.Wake)
				}
				got := r.runFor(39 * time.Second)
				for i, want := range c.want {
					if i >= len(got) || got[i].began != want {
						t.Fatalf("attempts %v, want beginnings %v", got, c.want)
					}
				}
				if len(got) != len(c.want) {
					t.Errorf("attempts %v, want beginnings %v", got, c.want)
				}
			})
		})
	}
}

func TestWakeBeforeTheFirstAttemptIsThatAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, after(0), nil)
		r.Wake()
		if got := r.runFor(14 * time.Second); len(got) != 1 {
			t.Errorf("attempts %v, want one", got)
		}
	})
}

func TestExpire(t *testing.T) {
	for name, c := range map[string]struct {
		read    func(context.Context, int) error
		expires []time.Duration // each until it was expired; then never
		want    []time.Duration
	}{
		"is called between attempts, at its moment": {
			after(0), []time.Duration{5 * time.Second}, []time.Duration{5 * time.Second}},
		"is called for one moment after the other": {
			after(0), []time.Duration{5 * time.Second, 6 * time.Second, 17 * time.Second},
			[]time.Duration{5 * time.Second, 6 * time.Second, 17 * time.Second}},
		"is called after the attempt that its moment falls into": {
			after(4 * time.Second), []time.Duration{17 * time.Second}, []time.Duration{19 * time.Second}},
		"is not called where nothing expires": {
			after(0), nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTrial(t, c.read, nil)
				var expired []time.Duration
				r.Expires = func() time.Time {
					if len(expired) < len(c.expires) {
						return r.start.Add(c.expires[len(expired)])
					}
					return time.Time{}
				}
				r.Expire = func() { expired = append(expired, r.elapsed()) }
				attempts := r.runFor(35 * time.Second)
				if len(expired) != len(c.want) {
					t.Fatalf("expired at %v, want %v", expired, c.want)
				}
				for i := range expired {
					if expired[i] != c.want[i] {
						t.Errorf("expired at %v, want %v", expired, c.want)
					}
				}
				if len(attempts) != 3 || attempts[1].began != 15*time.Second {
					t.Errorf("attempts %v: expiring has moved them", attempts)
				}
			})
		})
	}
}

func TestCurrentReturnsAtOnceInRegularOperation(t *testing.T) {
	for name, c := range map[string]struct {
		read  func(context.Context, int) error
		pause time.Duration
		call  time.Duration
	}{
		"between attempts":                               {after(0), 0, 7 * time.Second},
		"at the very moment of the next":                 {after(0), 0, 15 * time.Second},
		"while one runs":                                 {after(4 * time.Second), 0, 17 * time.Second},
		"while one hangs that will be cut off":           {hangs, 0, 9 * time.Second},
		"while it backs off":                             {fails, 0, 5 * time.Second},
		"while the server asked for a pause":             {fails, 4 * time.Minute, 2 * time.Minute},
		"after an attempt that took all the time it has": {after(11 * time.Second), 0, 13 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTrial(t, c.read, func(int) time.Duration { return c.pause })
				var called atomic.Bool
				time.AfterFunc(c.call, func() {
					called.Store(true)
					for range 100 {
						if err := r.Current(t.Context()); err != nil || r.elapsed() != c.call {
							t.Errorf("returned %v at %s, want at once, at %s", err, r.elapsed(), c.call)
							return
						}
					}
				})
				with := r.runFor(c.call + time.Second)
				if !called.Load() {
					t.Fatal("not called")
				}
				for i := 1; i < len(with); i++ {
					if with[i].began == c.call && c.call%(15*time.Second) != 0 {
						t.Error("the call began an attempt")
					}
				}
			})
		})
	}
}

// stall keeps the loop from running between two attempts, in a process that runs: from the given moment, which must be
// before an attempt is due, for that long.
func (r *trial) stall(from, length time.Duration) {
	var done atomic.Bool
	r.Expires = func() time.Time {
		if done.Load() {
			return time.Time{}
		}
		return r.start.Add(from)
	}
	r.Expire = func() { done.Store(true); time.Sleep(length) }
}

// callers calls Current so often at the given moments, and records when each call has returned.
func (r *trial) callers(n int, at ...time.Duration) (returned *[]time.Duration) {
	returned = new([]time.Duration)
	for _, at := range at {
		for range n {
			time.AfterFunc(at, func() {
				if err := r.Current(r.t.Context()); err != nil {
					r.t.Error(err)
				}
				r.mu.Lock()
				defer r.mu.Unlock()
				*returned = append(*returned, r.elapsed())
			})
		}
	}
	return returned
}

func TestCurrentAfterAStall(t *testing.T) {
	const s = time.Second
	slow := func(_ context.Context, n int) error {
		if n > 0 {
			time.Sleep(3 * s)
		}
		return nil
	}
	for name, c := range map[string]struct {
		stall    func(r *trial)
		read     func(context.Context, int) error
		calls    []time.Duration
		returned time.Duration
		began    []time.Duration // of all attempts until 70 s
		late     []time.Duration
	}{
		"many callers in the stall wait for one attempt": {
			func(r *trial) { r.stall(5*s, 55*s) }, slow,
			[]time.Duration{40 * s, 50 * s, 59 * s}, 63 * s, []time.Duration{0, 60 * s}, []time.Duration{0, 45 * s}},
		"so do those that come at the moment it ends": {
			func(r *trial) { r.stall(5*s, 55*s) }, slow,
			[]time.Duration{60 * s}, 63 * s, []time.Duration{0, 60 * s}, []time.Duration{0, 45 * s}},
		"so do those that come when the attempt after it runs already": {
			func(r *trial) { r.stall(5*s, 55*s) }, slow,
			[]time.Duration{61 * s, 62 * s}, 63 * s, []time.Duration{0, 60 * s}, []time.Duration{0, 45 * s}},
		"those that come after that attempt do not wait": {
			func(r *trial) { r.stall(5*s, 55*s) }, slow,
			[]time.Duration{64 * s}, 64 * s, []time.Duration{0, 60 * s}, []time.Duration{0, 45 * s}},
		"a delay of less than Grace is none": {
			func(r *trial) { r.stall(14*s, 2*s) }, slow,
			[]time.Duration{17 * s}, 17 * s, []time.Duration{0, 16 * s, 31 * s, 46 * s, 61 * s}, make([]time.Duration, 5)},
		"an attempt that returned long after its cut-off is made again at once, and waited for": {
			func(*trial) {}, func(_ context.Context, n int) error {
				if n == 0 {
					time.Sleep(60 * s)
					return nil
				}
				time.Sleep(3 * s)
				return nil
			},
			[]time.Duration{30 * s, 59 * s}, 63 * s, []time.Duration{0, 60 * s}, []time.Duration{50 * s, 50 * s}},
		"an expiry that was missed is waited for": {
			func(r *trial) {
				var expired atomic.Bool
				r.Interval = func() time.Duration { return 50 * s }
				r.Expires = func() time.Time {
					if expired.Load() {
						return time.Time{}
					}
					return r.start.Add(20 * s)
				}
				r.Expire = func() { time.Sleep(10 * s); expired.Store(true) }
			}, slow,
			[]time.Duration{25 * s}, 33 * s, []time.Duration{0, 30 * s}, []time.Duration{0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTrial(t, c.read, nil)
				c.stall(r)
				const each = 100
				returned := r.callers(each, c.calls...)
				got := r.runFor(70 * s)
				if len(*returned) != each*len(c.calls) {
					t.Fatalf("%d callers returned, want %d", len(*returned), each*len(c.calls))
				}
				for _, at := range *returned {
					if at != c.returned {
						t.Errorf("a caller returned at %s, want at %s", at, c.returned)
						break
					}
				}
				if len(got) != len(c.began) {
					t.Fatalf("attempts %v, want beginnings %v", got, c.began)
				}
				for i := range got {
					if got[i].began != c.began[i] || got[i].late != c.late[i] {
						t.Errorf("attempt %d: began %s, late %s, want %s and %s", i, got[i].began, got[i].late, c.began[i], c.late[i])
					}
				}
			})
		})
	}
}

func TestCurrentGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, after(0), nil)
		r.stall(5*time.Second, 55*time.Second)
		time.AfterFunc(40*time.Second, func() {
			ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second)
			defer cancel()
			if err := r.Current(ctx); !errors.Is(err, context.DeadlineExceeded) || r.elapsed() != 49*time.Second {
				t.Errorf("returned %v at %s, want with its context at 49s", err, r.elapsed())
			}
		})
		r.runFor(70 * time.Second)
	})
}

func TestCurrentBeforeTheFirstAttemptReturnsAtOnce(t *testing.T) {
	l := Loop{Pulse: NewPulse()}
	if err := l.Current(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCurrentWaitsWhereTheFirstAttemptWasMissed(t *testing.T) {
	const s = time.Second
	for name, freeze := range map[string]time.Duration{"in a freeze": 30 * s, "in a process that runs": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTrial(t, func(_ context.Context, n int) error {
					return after([]time.Duration{31 * s, 2 * s}[n])(nil, n)
				}, nil)
				if freeze > 0 {
					time.AfterFunc(s, func() { r.process.stop(freeze) })
				}
				returned := r.callers(1, 20*s, 32*s)
				if got := r.runFor(34 * s); len(got) != 2 || len(*returned) != 2 {
					t.Fatalf("attempts %v, callers returned at %v, want two of each", got, *returned)
				}
				for _, at := range *returned {
					if at != 33*s {
						t.Errorf("a caller returned at %s, want with the second attempt at 33s", at)
					}
				}
			})
		})
	}
}

func TestBeganAndEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, after(4*time.Second), nil)
		if !r.Began().IsZero() {
			t.Errorf("began %s before it ran", r.Began())
		}
		began := func() time.Duration { return r.Began().Sub(r.start) }
		const s = time.Second
		for at, want := range map[time.Duration]time.Duration{2 * s: 0, 6 * s: 0, 17 * s: 15 * s, 20 * s: 15 * s} {
			time.AfterFunc(at, func() {
				if got := began(); got != want {
					t.Errorf("at %s the last attempt began at %s, want %s", at, got, want)
				}
			})
		}
		time.AfterFunc(6*time.Second, func() {
			<-r.Ended()
			if r.elapsed() != 19*time.Second {
				t.Errorf("Ended at %s, want when the next attempt is published, at 19s", r.elapsed())
			}
		})
		r.runFor(25 * time.Second)
	})
}

func TestBroadcastWakesAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Broadcast
		b.Send() // nobody waits
		before := b.Wait()
		select {
		case <-before:
			t.Fatal("woken by what was sent before waiting")
		default:
		}
		var woken sync.WaitGroup
		for range 10 {
			c := b.Wait()
			woken.Go(func() { <-c })
		}
		b.Send()
		woken.Wait()
		<-before
		select {
		case <-b.Wait():
			t.Error("one Send wakes twice")
		default:
		}
	})
}

// TestASlowSourceIsCurrent has attempts take longer than the interval, or than the random part of it that is the first.
func TestASlowSourceIsCurrent(t *testing.T) {
	for name, change := range map[string]func(*trial){
		"each attempt": func(r *trial) { r.Interval = func() time.Duration { return 5 * time.Second } },
		"the first":    func(r *trial) { r.Spread = true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTrial(t, after(8*time.Second), nil)
				change(r)
				var looked sync.WaitGroup
				looked.Go(func() {
					for time.Sleep(9 * time.Second); r.elapsed() < time.Minute; time.Sleep(time.Second) {
						r.process.runs()
						if !r.IsCurrent() {
							t.Errorf("after %s what is published is not current", r.elapsed())
						}
					}
				})
				for _, a := range r.runFor(time.Minute) {
					if a.late > 0 || a.err != nil {
						t.Errorf("the attempt of %s is late by %s: %v", a.began, a.late, a.err)
					}
				}
				looked.Wait()
			})
		})
	}
}

// TestSpread has only the first interval be a random part of it, of loops that begin together.
func TestSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := map[time.Duration]bool{}
		for range 20 {
			r := newTrial(t, after(0), nil)
			r.Spread = true
			got := r.runFor(50 * time.Second)
			first := got[1].began
			if seen[first] = true; first >= 15*time.Second {
				t.Errorf("the second attempt is made after %s", first)
			}
			for i := 2; i < len(got); i++ {
				if gap := got[i].began - got[i-1].began; gap != 15*time.Second {
					t.Errorf("attempt %d is made after %s", i, gap)
				}
			}
		}
		if len(seen) < 15 {
			t.Errorf("only %d of 20 loops are apart", len(seen))
		}
	})
}
