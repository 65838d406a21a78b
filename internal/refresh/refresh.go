// Package refresh runs the attempts that keep something up to date: one at a time, in the background, each cut off when
// it hangs, at a steady interval while they work and with growing pauses while they fail.
//
// It also knows when it has not run: a process that is stopped, frozen between two requests, or starved of CPU misses its
// attempts, and what it last read gets old without a failure that would say so. All moments are wall time, because the
// monotonic clock stands still on a suspended machine.
package refresh

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// Grace is how late an attempt may begin or end before it counts as missed.
	Grace = 2 * time.Second
	// firstPause is the pause after a first failure. It doubles with each further one up to the interval.
	firstPause = time.Second
	// maxPause bounds what a server may ask for (Retry-After).
	maxPause = 5 * time.Minute
)

// ErrMissed is what an attempt fails with that worked but took longer than its cut-off: the process was frozen in the
// middle of it, and what it read may be as old as the freeze was long.
var ErrMissed = errors.New("the process was not running while the answer arrived")

// Attempt is one attempt, as told to Read and Publish.
type Attempt struct {
	Began time.Time
	// Late is how long after its time it began, or, for one that fails with ErrMissed, ended. 0 in regular operation.
	Late time.Duration
}

// Loop describes what to run; all fields but Expires and Expire have to be set.
type Loop struct {
	// Interval is the most time between the beginnings of two attempts. It is asked after each attempt that worked.
	Interval func() time.Duration
	// Cutoff ends an attempt that hangs.
	Cutoff time.Duration
	// Read makes an attempt; nobody sees its result yet.
	Read func(ctx context.Context, a Attempt) error
	// Publish makes the attempt's result visible. err is what Read returned, or ErrMissed. It returns the pause that the
	// server asked for after a failure, 0 for none.
	Publish func(a Attempt, err error) (pause time.Duration)
	// Expires is the moment at which Expire has to be called, between two attempts; the zero time for never.
	Expires func() time.Time
	Expire  func()

	once  sync.Once
	wake  chan struct{}
	ended Broadcast // after each Publish
	mu    sync.Mutex
	due   time.Time // when the next attempt begins, at the latest; zero before the first
	began time.Time // of the running attempt; zero between attempts
	late  bool      // the running attempt began late
	again bool      // the last attempt was missed; the next begins at once
	last  time.Time // beginning of the last attempt that was published
}

func (l *Loop) init() { l.once.Do(func() { l.wake = make(chan struct{}, 1) }) }

// now is the wall time, without the monotonic reading.
func now() time.Time { return time.Now().Round(0) }

// Run makes attempts until ctx ends.
func (l *Loop) Run(ctx context.Context) {
	l.init()
	for failures := 0; ctx.Err() == nil; {
		a := l.begin()
		attempt, cancel := context.WithTimeout(ctx, l.Cutoff)
		err := l.Read(attempt, a)
		cancel()
		if ctx.Err() != nil {
			return
		}
		missed := false
		if took := now().Sub(a.Began); took > l.Cutoff+Grace {
			a.Late = max(a.Late, took-l.Cutoff)
			err, missed = ErrMissed, true
		}
		pause := l.Publish(a, err)
		var due, notBefore time.Time
		switch {
		case missed:
			due = a.Began.Add(l.Cutoff) // at once, and known to be late
		case err == nil:
			failures = 0
			due = a.Began.Add(l.Interval())
		default:
			backoff := min(firstPause<<min(failures, 16), l.Interval())
			failures++
			notBefore = now().Add(min(pause, maxPause))
			due = now().Add(max(min(pause, maxPause), backoff+rand.N(backoff/4)))
		}
		l.end(a, due, missed)
		if !missed {
			l.sleep(ctx, due, notBefore)
		}
	}
}

// begin marks an attempt as running.
func (l *Loop) begin() Attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.wake: // this attempt is what it asks for
	default:
	}
	l.began = now()
	a := Attempt{Began: l.began}
	if late := l.began.Sub(l.due); !l.due.IsZero() && late > Grace {
		a.Late = late
	}
	l.late, l.again = a.Late > 0, false
	return a
}

func (l *Loop) end(a Attempt, due time.Time, again bool) {
	l.mu.Lock()
	l.began, l.late, l.again, l.last, l.due = time.Time{}, false, again, a.Began, due
	l.mu.Unlock()
	l.ended.Send()
}

// sleep waits until due, or until woken but not before the given moment, and lets expire meanwhile what expires.
func (l *Loop) sleep(ctx context.Context, due, notBefore time.Time) {
	for {
		until, expire := due, false
		if l.Expires != nil {
			if at := l.Expires(); !at.IsZero() && at.Before(until) {
				until, expire = at, true
			}
		}
		timer := time.NewTimer(until.Sub(now()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-l.wake:
			timer.Stop()
			if !now().Before(notBefore) {
				return
			}
		case <-timer.C:
			if !expire {
				return
			}
			l.Expire()
		}
	}
}

// Wake begins an attempt now, unless one is running or the server asked for a pause.
func (l *Loop) Wake() {
	l.init()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Began is when the attempt began that is running or, where none is, the last one.
func (l *Loop) Began() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.began.IsZero() {
		return l.began
	}
	return l.last
}

// Current waits until what is published is of now: not at all in regular operation, where the attempts are made as
// planned. Where they were missed it begins one, for however many callers, and waits for one that began after the call, or
// for the one that is making up for it already.
func (l *Loop) Current(ctx context.Context) error {
	l.init()
	called := now()
	l.mu.Lock()
	var want time.Time // beginning of the attempt to wait for
	switch {
	case l.missed(called):
		want = called
	case l.late, !l.began.IsZero() && l.expired(called):
		want = l.began
	default:
		l.mu.Unlock()
		return nil
	}
	l.mu.Unlock()
	for {
		ended := l.ended.Wait()
		l.mu.Lock()
		current, running := !l.last.Before(want), l.again || !l.began.IsZero() && !l.began.Before(want)
		l.mu.Unlock()
		if current {
			return nil
		}
		if !running {
			l.Wake()
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// missed tells whether at the given moment an attempt, or an expiry, should have been made and was not.
func (l *Loop) missed(at time.Time) bool {
	switch {
	case !l.began.IsZero():
		return at.Sub(l.began) > l.Cutoff+Grace
	case l.due.IsZero():
		return false // not running yet
	}
	return l.expired(at) || at.Sub(l.due) > Grace
}

// expired tells whether something published has expired by the given moment.
func (l *Loop) expired(at time.Time) bool {
	if l.Expires == nil {
		return false
	}
	expires := l.Expires()
	return !expires.IsZero() && at.After(expires)
}

// Ended returns a channel that is closed when the next attempt has been published.
func (l *Loop) Ended() <-chan struct{} { return l.ended.Wait() }
