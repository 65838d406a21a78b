// Package refresh runs the attempts that keep something up to date: one at a time, in the background, each cut off when
// it hangs, at a steady interval while they work and with growing pauses while they fail.
//
// It also knows when it has not run: a process that is stopped, frozen between two requests, or starved of CPU misses
// its attempts, and what it last read gets old without a failure that would say so.
package refresh

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// Grace is how late an attempt may begin or end before it counts as missed, and how long the process may stand still
	// before that counts.
	Grace = 2 * time.Second
	// firstPause is the pause after a first failure. It doubles with each further one up to the interval.
	firstPause = time.Second
	// maxPause bounds what a server may ask for (Retry-After).
	maxPause = 5 * time.Minute
)

// ErrMissed is what an attempt fails with, whatever Read returned, if the process stood still meanwhile or the attempt
// took longer than its cut-off: what it read may be as old as that lasted. The attempt is made again at once.
var ErrMissed = errors.New("the process was not running while the answer arrived")

// Attempt is one attempt, as told to Read and Publish.
type Attempt struct {
	Began time.Time
	// Late is 0 in regular operation. Else the attempt makes up for time in which the process stood still or the loop did
	// not get to run, and is how long that was: a failure must not leave visible what was read before.
	Late time.Duration
}

// Loop describes what to run; all fields but Expires and Expire have to be set.
type Loop struct {
	Pulse *Pulse
	// Interval is the most time between the beginnings of two attempts. It is asked after each attempt that worked.
	Interval func() time.Duration
	// Cutoff ends an attempt that hangs.
	Cutoff time.Duration
	// Spread has the first interval after an attempt that worked be a random part of it, so that loops which have begun
	// together do not go on together.
	Spread bool
	// Read makes an attempt; nobody sees its result yet.
	Read func(ctx context.Context, a Attempt) error
	// Publish makes the attempt's result visible. err is what Read returned, or ErrMissed. It returns the pause that the
	// server asked for after a failure, 0 for none.
	Publish func(a Attempt, err error) (pause time.Duration)
	// Expires is the moment at which Expire has to be called, between two attempts; the zero time for never.
	Expires func() time.Time
	Expire  func()

	woken Broadcast // after each change of wake
	ended Broadcast // after each Publish

	mu      sync.Mutex
	wake    time.Time // when an attempt was asked for; zero where none was since the last began
	due     time.Time // when the next attempt has to have begun or, while one runs, when that has to have ended
	began   time.Time // beginning of the last attempt; zero before the first
	running bool
	still   still // the Pulse's at the beginning of the last attempt that was not missed or, before that, of the first
}

// Run makes attempts until ctx ends.
func (l *Loop) Run(ctx context.Context) {
	spread := l.Spread
	for failures := 0; ctx.Err() == nil; {
		a, before := l.begin()
		attempt, cancel := context.WithTimeout(ctx, l.Cutoff)
		err := l.Read(attempt, a)
		cancel()
		if ctx.Err() != nil {
			return
		}
		after, took := l.Pulse.look(), time.Since(a.Began)
		if after.thaws != before.thaws || took > l.Cutoff+Grace {
			a.Late = max(a.Late+after.frozen-before.frozen, took-l.Cutoff)
			l.Publish(a, ErrMissed)
			l.end(before, time.Time{})
			continue
		}
		pause := min(l.Publish(a, err), maxPause)
		var due, notBefore time.Time
		if err == nil {
			failures = 0
			interval := l.Interval()
			if spread {
				spread, interval = false, rand.N(interval)
			}
			// One that took longer than the interval was not late: it is the source that is slow.
			if due = a.Began.Add(interval); due.Before(time.Now()) {
				due = time.Now()
			}
		} else {
			backoff := min(firstPause<<min(failures, 16), l.Interval())
			failures++
			notBefore = time.Now().Add(pause)
			due = time.Now().Add(max(pause, backoff+rand.N(backoff/4)))
		}
		l.end(before, due)
		l.sleep(ctx, due, notBefore)
	}
}

// begin marks an attempt as running, which is what Wake asks for.
func (l *Loop) begin() (Attempt, still) {
	now := l.Pulse.look()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.began.IsZero() {
		l.still = now
	}
	a := Attempt{Began: time.Now(), Late: now.frozen - l.still.frozen}
	if late := a.Began.Sub(l.due); !l.due.IsZero() && late > Grace {
		a.Late = max(a.Late, late)
	} else {
		l.due = a.Began.Add(l.Cutoff)
	}
	l.began, l.running, l.wake = a.Began, true, time.Time{}
	return a, now
}

// end marks the attempt as ended. still is the Pulse's at its beginning. due, for the next attempt, is zero where this
// one was missed.
func (l *Loop) end(still still, due time.Time) {
	l.mu.Lock()
	if l.running = false; !due.IsZero() {
		l.still, l.due = still, due
	}
	l.mu.Unlock()
	l.ended.Send()
}

// sleep waits until due, or until woken but not before the given moment, and calls Expire meanwhile when that is due.
func (l *Loop) sleep(ctx context.Context, due, notBefore time.Time) {
	for {
		woken := l.woken.Wait()
		until, expire := due, false
		if wake := l.wakes(); !wake.IsZero() && wake.Before(until) {
			if until = wake; until.Before(notBefore) {
				until = notBefore
			}
		}
		if l.Expires != nil {
			if at := l.Expires(); !at.IsZero() && at.Before(until) {
				until, expire = at, true
			}
		}
		timer := time.NewTimer(time.Until(until))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-woken:
			timer.Stop()
		case <-timer.C:
			if !expire {
				return
			}
			l.Expire()
		}
	}
}

func (l *Loop) wakes() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wake
}

// Wake begins an attempt now or, where one is running or the server asked for a pause, after that.
func (l *Loop) Wake() { l.WakeAt(time.Now()) }

// WakeAt is a Wake at a moment to come. An attempt that begins before that, but after this call, is as good.
func (l *Loop) WakeAt(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wakeAt(at)
}

func (l *Loop) wakeAt(at time.Time) {
	if l.wake.IsZero() || at.Before(l.wake) {
		l.wake = at
		l.woken.Send()
	}
}

// Began is when the attempt began that is running or, where none is, the last one.
func (l *Loop) Began() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.began
}

// IsCurrent tells whether nothing that is published is old: since the process last stood still an attempt was made, and
// none is overdue. In regular operation that is so, and before the first attempt nothing is published. Else it begins
// one, for however many callers, unless one is running; Ended tells when to ask again.
func (l *Loop) IsCurrent() bool {
	still, now := l.Pulse.look(), time.Now()
	expires := time.Time{}
	if l.Expires != nil {
		expires = l.Expires()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	overdue := now.Sub(l.due) > Grace || !expires.IsZero() && now.After(expires)
	if l.began.IsZero() || l.still.thaws == still.thaws && !overdue {
		return true
	}
	if !l.running {
		l.wakeAt(now)
	}
	return false
}

// Ended returns a channel that is closed when the next attempt has been published.
func (l *Loop) Ended() <-chan struct{} { return l.ended.Wait() }
