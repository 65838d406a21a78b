// Package phase finds out when a source that has new data once per tick, and says so only when asked, will have them
// next. metrics-server is such a source: it reads all kubelets once per --metric-resolution and then shows the new
// values at once. Follow makes cheap probes of it, ever fewer as it gets to know the source, so that the expensive read
// can follow right behind the tick.
//
// A probe is of one object, which does not show each tick: a kubelet reads a container or node every 10 to 20 s, at
// moments of its own, and an idle container every 15 to 30 s, so that of the ticks of a metrics-server (15 s) one in
// twelve, or in three, finds no reading that it did not have. What the expensive reads show, of all objects, fills in
// these ticks.
package phase

import (
	"context"
	"time"
)

const (
	// MinGap is the least time between two probes.
	MinGap = time.Second
	// MinPeriod is the shortest period worth following. A source whose every answer is new (one that computes its values
	// when asked) has none.
	MinPeriod = 3 * time.Second
	// MaxPeriod is the longest period that is looked for, metrics-server's own default being 60 s.
	MaxPeriod = 2 * time.Minute
	// rest is how long no probe is made after no period was found, before it is looked for again.
	rest = 10 * time.Minute
	// errorPause is the pause after a probe that failed.
	errorPause = time.Minute
	// How long before the expected tick the first probe is made, so that the tick is seen between two probes MinGap apart:
	// generously at first, when the period is known from one interval, then as much as the source's jitter asks for. One
	// tick in MinGap/leadStep may come too early: it costs a search for the next.
	firstLead = 2 * time.Second
	minLead   = 800 * time.Millisecond
	maxLead   = 4 * time.Second
	leadStep  = MinGap / 40
	// maxUnseen is how many ticks after one another the object may not show before another one is looked at: a kubelet
	// lets 30 s pass at most, and metrics-server ticks no more often than every 10 s.
	maxUnseen = 2
)

// Source is what Follow probes, and whom it tells. Follow calls everything from its own goroutine.
type Source struct {
	// Probe looks at one object and returns its name and a stamp that changes with each tick, for example the timestamp of
	// its sample. It may choose another object after Lost.
	Probe func(ctx context.Context) (object string, stamp int64, err error)
	// Lost is called when nothing is known of the source any more, the period included.
	Lost func()
	// Tick is called with each tick that was seen: the last moment at which its data were not yet there (zero where nobody
	// knows) and the period (0 where it is not known).
	Tick func(since time.Time, period time.Duration)
	// Due is called once when a tick should have come that was not seen, which may be the object's fault.
	Due func(period time.Duration)
	// Shown are the last two moments between which the source has ticked by what it showed of all objects; zero for none.
	Shown func() (after, before time.Time)
	// Thaws and Thawed are those of the process's refresh.Pulse.
	Thaws  func() uint64
	Thawed func() <-chan struct{}
}

// Follow probes a source until ctx ends.
func Follow(ctx context.Context, s Source) {
	var p phase
	object, thaws := "", s.Thaws()
	for {
		thawed := s.Thawed()
		if now := s.Thaws(); now != thaws {
			thaws, p = now, phase{}
			s.Lost()
		}
		if wait := time.Until(p.next()); wait > 0 {
			if !sleep(ctx, wait, thawed) {
				return
			}
			continue
		}
		sent, followed := time.Now(), p.period > 0
		seen, stamp, err := s.Probe(ctx)
		if ctx.Err() != nil {
			return
		}
		switch answered := time.Now(); {
		case err != nil:
			p = phase{quiet: answered.Add(errorPause)}
			s.Lost()
		case seen != object:
			object = seen
			p.rebase(sent, answered, stamp)
		default:
			p.shown(s.Shown())
			if ticked, since := p.observe(sent, answered, stamp); ticked {
				s.Tick(since, p.period)
			} else if p.overdue(answered) {
				s.Due(p.period)
			}
			if followed && p.period == 0 {
				s.Lost()
			}
		}
	}
}

// sleep returns after d, or when the channel is closed. It tells whether ctx goes on.
func sleep(ctx context.Context, d time.Duration, closed <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-closed:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// phase is what is known of one source. The zero value knows nothing and wants to probe at once.
type phase struct {
	stamp   int64         // what the last probe saw
	sent    time.Time     // when that was sent
	began   time.Time     // when the search for a period began; zero where it begins with the next probe
	tick    time.Time     // estimated moment of the last tick that was seen between two close probes; zero for none
	skipped bool          // one tick after that was not, and came before it was due
	unseen  int           // how many came after that, when they were due, which the object did not show
	counted time.Time     // of a tick from before this nothing new is to be learnt
	told    time.Duration // of how many ticks since tick it was told that they are due
	period  time.Duration // 0 for not known
	lead    time.Duration
	short   int       // successive ticks less than MinPeriod apart
	quiet   time.Time // no probe before this
}

// next is the moment of the next probe.
func (p *phase) next() time.Time {
	switch {
	case p.sent.IsZero():
		return p.quiet
	case p.period > 0:
		return later(p.sent.Add(MinGap), p.tick.Add(time.Duration(1+p.unseen)*p.period-p.lead))
	}
	return p.sent.Add(MinGap)
}

// ticks is how many ticks the next one is behind tick, as far as they are known.
func (p *phase) ticks() time.Duration {
	if p.skipped {
		return time.Duration(2 + p.unseen)
	}
	return time.Duration(1 + p.unseen)
}

// due is when the next tick has to come if the period is right.
func (p *phase) due() time.Time { return p.tick.Add(p.ticks() * p.period) }

// overdue tells, once, that a tick that was due has not been seen.
func (p *phase) overdue(now time.Time) bool {
	if p.period == 0 || p.told >= p.ticks() || now.Before(p.due().Add(min(p.lead, MinGap))) {
		return false
	}
	p.told = p.ticks()
	return true
}

// shown takes in that there was a tick between two moments. It counts once it is sure that the last probe would have
// seen it if the object had shown it.
func (p *phase) shown(after, before time.Time) {
	if p.tick.IsZero() || after.Before(p.counted) || before.After(p.sent) {
		return
	}
	if p.counted = before; p.period > 0 && before.Before(p.due().Add(-tolerance(p.period))) {
		p.skipped = true // the source is faster
	} else {
		p.unseen++
	}
}

// rebase goes on with an object whose stamp was not known before. It may have taken long to find one.
func (p *phase) rebase(sent, answered time.Time, stamp int64) {
	if p.stamp, p.sent = stamp, sent; p.began.IsZero() {
		p.began = answered
	}
}

// observe is told what stamp a probe saw. It returns whether the source has ticked since the last probe and, if so, a
// moment before which the new data were not yet there: when the probe was sent that still saw the old ones. Where that
// is too long ago to tell when the tick was, it returns the zero time and learns nothing from the tick.
func (p *phase) observe(sent, answered time.Time, stamp int64) (ticked bool, since time.Time) {
	if p.began.IsZero() {
		p.rebase(sent, answered, stamp)
		return false, time.Time{}
	}
	last := p.sent
	ticked = stamp != p.stamp
	p.stamp, p.sent = stamp, sent
	switch {
	case ticked && apart(last, answered) <= 2*MinGap:
		p.learn(answered, last.Add(answered.Sub(last)/2))
		return true, last
	case ticked && p.period > 0: // early, or the source has got faster: the next tick tells
		p.skipped, p.lead, p.counted = true, min(p.lead+MinGap, maxLead), answered
	case ticked:
		p.tick = time.Time{}
	}
	p.giveUp(answered)
	return ticked, time.Time{}
}

// learn takes in a tick at about the given moment.
func (p *phase) learn(now, tick time.Time) {
	between, ticks := tick.Sub(p.tick), p.ticks()
	switch {
	case p.tick.IsZero():
	case between < MinPeriod:
		if p.short++; p.short >= 3 {
			*p = phase{quiet: now.Add(rest)}
			return
		}
	case p.period == 0:
		p.period, p.lead, p.short = min(between/ticks, MaxPeriod), firstLead, 0
	case (between - ticks*p.period).Abs() <= tolerance(p.period):
		// A tick is known to within the gap of two probes, so that one interval says little: a moving average.
		p.period, p.short = min(p.period+(between/ticks-p.period)/4, MaxPeriod), 0
		p.lead = max(p.lead-leadStep, minLead)
	default: // another period, or a tick that the source has left out: the next tick tells
		p.period = 0
	}
	p.tick, p.skipped, p.unseen, p.told, p.counted = tick, false, 0, 0, now
}

// giveUp ends waiting for a tick that should have come.
func (p *phase) giveUp(now time.Time) {
	waited, most := now.Sub(later(p.began, p.tick)), p.period+p.period/2+2*MinGap
	most += time.Duration(min(p.unseen, maxUnseen)) * p.period
	if p.skipped {
		most += p.period
	}
	switch {
	case p.period > 0 && waited > most:
		p.search(now)
	case p.period == 0 && waited > MaxPeriod+tolerance(MaxPeriod):
		*p = phase{quiet: now.Add(rest)}
	}
}

// search forgets the period and looks for it again.
func (p *phase) search(now time.Time) { *p = phase{stamp: p.stamp, sent: p.sent, began: now} }

// tolerance is how much the time between two ticks may differ from the period.
func tolerance(period time.Duration) time.Duration { return MinGap + period/8 }

// apart is the time between two moments, by the clock that says more: the monotonic one may have stood still.
func apart(a, b time.Time) time.Duration { return max(b.Sub(a), b.Round(0).Sub(a.Round(0)).Abs()) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
