// Package rhythm finds out when a source that has new data once per tick, and says so only when asked, will have them
// next. metrics-server is such a source: it reads all kubelets once per --metric-resolution and then shows the new
// values at once. A Rhythm is told what cheap probes saw and tells when to probe next, so that the expensive read can
// follow right behind the tick.
package rhythm

import (
	"context"
	"time"
)

const (
	// MinGap is the least time between two probes.
	MinGap = time.Second
	// MinPeriod is the shortest period worth locking to. A source whose every answer is new (one that computes its
	// values when asked) has no rhythm.
	MinPeriod = 3 * time.Second
	// maxPeriod is the longest period that is looked for, metrics-server's own default being 60 s.
	maxPeriod = 2 * time.Minute
	// rest is how long no probe is made after no rhythm was found, before it is looked for again.
	rest = 10 * time.Minute
	// How long before the expected tick the first probe is made, so that the tick is seen between two probes MinGap apart:
	// generously at first, when the period is known from one interval, then as much as the source's jitter asks for.
	firstLead = 2 * time.Second
	minLead   = 800 * time.Millisecond
	maxLead   = 4 * time.Second
)

// Rhythm is what is known of one source. The zero value knows nothing and wants to probe at once. It is not for
// concurrent use. All times are of one clock, the caller's.
type Rhythm struct {
	stamp  int64     // what the last probe saw; changes with each tick of the source
	probed time.Time // the last probe
	seen   int       // ticks seen since the rhythm was last lost, the first of unknown age
	tick   time.Time // estimated moment of the last tick
	period time.Duration
	lead   time.Duration
	quiet  time.Time // no rhythm was found; no probe before this
	began  time.Time // when the search began
	short  int       // successive ticks less than MinPeriod apart
}

// Period is the time between two ticks, 0 where no rhythm is known.
func (r *Rhythm) Period() time.Duration {
	if r.seen < 2 {
		return 0
	}
	return r.period
}

// Next is the moment of the next probe.
func (r *Rhythm) Next() time.Time {
	next := r.probed.Add(MinGap)
	if r.probed.IsZero() {
		next = time.Time{}
	}
	if r.quiet.After(next) {
		next = r.quiet
	}
	if expected := r.tick.Add(r.period - r.lead); r.seen >= 2 && expected.After(next) {
		next = expected
	}
	return next
}

// Observe is told the stamp that a probe sent at the moment now has seen, for example the sample's timestamp. It
// returns whether the source has ticked since the last probe and, if so, a moment before which the new data were not
// yet there: the last probe that still saw the old ones. Where that is long ago nothing is known and the zero time is
// returned.
func (r *Rhythm) Observe(now time.Time, stamp int64) (ticked bool, since time.Time) {
	last := r.probed
	r.probed = now
	if last.IsZero() || r.began.IsZero() {
		r.stamp, r.began = stamp, now
		return false, time.Time{}
	}
	if stamp == r.stamp {
		waited := now.Sub(r.tick)
		switch {
		case r.seen == 0 && now.Sub(r.began) > maxPeriod, r.seen == 1 && waited > maxPeriod:
			r.lose(now, now.Add(rest))
		case r.seen >= 2 && waited > r.period+r.period/2+2*MinGap:
			r.lose(now, time.Time{})
		}
		return false, time.Time{}
	}
	r.stamp = stamp
	bracketed := now.Sub(last) <= 2*MinGap // else probes were not close enough to know when it was
	tick := now.Add(-MinGap)               // the tick came before the first probe: look earlier next time
	if bracketed {
		tick, since = last.Add(now.Sub(last)/2), last
		r.lead = max(r.lead-minLead/4, minLead)
	} else {
		r.lead = min(r.lead+MinGap, maxLead)
	}
	r.learn(now, tick)
	return true, since
}

// rebase goes on with another object of the same source, whose stamps say nothing about those of the former.
func (r *Rhythm) rebase(now time.Time, stamp int64) { r.stamp, r.probed = stamp, now }

// errorPause is the pause after a probe that failed.
const errorPause = time.Minute

// Follow probes a source until ctx ends. probe returns the object that it has looked at and the stamp that it saw; it may
// choose another object when it was told that the rhythm is lost. tick is called with each tick that was seen: the
// last moment at which its data were not yet there (zero if not known) and the period (0 if not known).
func Follow(ctx context.Context, probe func(context.Context) (object string, stamp int64, err error), lost func(), tick func(since time.Time, period time.Duration)) {
	var r Rhythm
	object := ""
	for wait := time.Duration(0); ; wait = max(time.Until(r.Next()), MinGap-time.Since(r.probed)) {
		if !sleep(ctx, wait) {
			return
		}
		now := time.Now()
		was := r.Period()
		seen, stamp, err := probe(ctx)
		for err != nil {
			r = Rhythm{}
			if lost(); !sleep(ctx, errorPause) {
				return
			}
			now = time.Now()
			seen, stamp, err = probe(ctx)
		}
		if seen != object && object != "" {
			object = seen
			r.rebase(now, stamp)
			continue
		}
		object = seen
		if ticked, since := r.Observe(now, stamp); ticked {
			tick(since, r.Period())
		}
		if was != 0 && r.Period() == 0 {
			lost()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// learn takes in a tick at about the given moment.
func (r *Rhythm) learn(now, tick time.Time) {
	between := tick.Sub(r.tick)
	r.tick = tick
	switch {
	case r.seen == 0:
		r.seen = 1
	case between < MinPeriod:
		if r.short++; r.short >= 3 {
			r.lose(now, now.Add(rest))
		}
	case r.seen == 1:
		r.seen, r.period, r.short, r.lead = 2, between, 0, firstLead
	default:
		// The bracket around each tick is MinGap wide, so that one interval says little: a moving average. A tick that
		// was missed altogether shows as a multiple of the period.
		r.short = 0
		if ticks := (between + r.period/2) / r.period; ticks > 1 {
			between /= ticks
		}
		r.period += (between - r.period) / 4
	}
}

// lose forgets the rhythm; it is looked for again after quiet.
func (r *Rhythm) lose(now, quiet time.Time) {
	*r = Rhythm{stamp: r.stamp, probed: now, quiet: quiet}
	if quiet.IsZero() {
		r.began = now
	}
}
