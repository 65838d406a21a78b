package usage

import (
	"context"
	"sync/atomic"
	"time"

	"metrics-server-prom/internal/phase"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/store"
)

// Ticks has lists read right after their source has new data, which metrics-server has once in a while.
type Ticks struct {
	Lists   []*List
	Probed  string             // the resource of which one object is read to see it
	Most    time.Duration      // between two reads of a list while nothing is known of the source
	Changed *refresh.Broadcast // after each change of what a list shows
	Pulse   *refresh.Pulse
	Fresh   phase.Freshness // how new the data are

	shown atomic.Pointer[tick] // the last
	list  *List                // of which the probes read an object; nil to choose one
	key   store.Key
}

// tick is two moments between which the source has ticked.
type tick struct{ after, before time.Time }

// Interval is the most time between two reads of a list.
func (t *Ticks) Interval() time.Duration { return t.Fresh.Interval(t.Most) }

// Follow follows the source until ctx ends.
func (t *Ticks) Follow(ctx context.Context) {
	phase.Follow(ctx, phase.Source{Probe: t.probe, Tick: t.Tick, Due: t.wake,
		Lost: func() { t.list = nil; t.Fresh.Lost() },
		Shown: func() (after, before time.Time) {
			if seen := t.shown.Load(); seen != nil {
				return seen.after, seen.before
			}
			return time.Time{}, time.Time{}
		},
		Thaws: t.Pulse.Thaws, Thawed: t.Pulse.Thawed})
}

// Shown is told of what a list shows after an attempt, and before it.
func (t *Ticks) Shown(l *List, before, after Status) {
	if after.Newest <= before.Newest {
		return
	}
	if l.Resource == "pods" {
		t.Fresh.Shown(after.Refreshed)
	}
	if !before.began.IsZero() {
		t.shown.Store(&tick{before.began, after.Refreshed})
	}
}

// probe reads one small object, the one whose sample is the newest.
func (t *Ticks) probe(ctx context.Context) (object string, stamp int64, err error) {
	for t.list == nil {
		changed, newest := t.Changed.Wait(), int64(0)
		for _, l := range t.Lists {
			if s := l.status.Load(); l.Resource == t.Probed && s.Failure == nil && s.Newest > newest {
				newest, t.list, t.key = s.Newest, l, s.NewestOf
			}
		}
		if t.list == nil {
			select {
			case <-changed:
			case <-ctx.Done():
				return "", 0, ctx.Err()
			}
		}
	}
	stamp, err = t.list.Stamp(ctx, t.key)
	return t.key.Namespace + "/" + t.key.Name, stamp, err
}

// Tick is called when the source has new data.
func (t *Ticks) Tick(since time.Time, period time.Duration) {
	t.Fresh.Tick(since, period)
	t.wake(period)
}

// wake has the lists read. Where the source has new data more often than Most asks for, only the last tick within that
// time counts; one that comes right after a read is put off.
func (t *Ticks) wake(period time.Duration) {
	for _, l := range t.Lists {
		began := l.Loop.Began()
		elapsed := max(time.Since(began), phase.MinPeriod)
		if period == 0 || elapsed+period >= t.Most+time.Second {
			l.Loop.WakeAt(began.Add(elapsed))
		}
	}
}
