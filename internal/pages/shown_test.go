package pages

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/usage"
)

// source is a cluster that something is current of after a time, all of it or, once time is over, a part.
type source struct {
	after   time.Duration // negative for never
	partial bool
	fails   time.Duration // when it fails, if that is not 0
}

func TestGather(t *testing.T) {
	const never, s = -1, time.Second
	for name, c := range map[string]struct {
		sources []source
		changed time.Duration // 0 for never
		took    time.Duration
		shown   string // by source: whole, part or -
	}{
		"all are current":                    {[]source{{}, {}}, 0, 0, "whole whole"},
		"one is current":                     {[]source{{after: never}, {}, {after: s}}, 0, 0, "- whole -"},
		"of one there is a part":             {[]source{{after: never, partial: true}, {}}, 0, 0, "part whole"},
		"one comes":                          {[]source{{after: never}, {after: 3 * s}}, 0, 3 * s, "- whole"},
		"two come one after the other":       {[]source{{after: 4 * s}, {after: 3 * s}}, 0, 3 * s, "- whole"},
		"one comes, of another is a part":    {[]source{{after: never, partial: true}, {after: 3 * s}}, 0, 3 * s, "part whole"},
		"none comes":                         {[]source{{after: never}, {after: never}}, 0, 10 * s, "- -"},
		"none comes, of one there is a part": {[]source{{after: never}, {after: never, partial: true}}, 0, 10 * s, "- part"},
		"all fail":                           {[]source{{after: never, fails: 1}, {after: never, fails: 2 * s}}, 0, 2 * s, "- -"},
		"one fails, the other comes":         {[]source{{after: never, fails: 1}, {after: 3 * s}}, 0, 3 * s, "- whole"},
		"others have come":                   {[]source{{after: never}, {after: never}}, 2 * s, 2 * s, "- -"},
		"there are none":                     {nil, 0, 10 * s, ""},
		"there are none until others come":   {nil, 2 * s, 2 * s, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				current := func(ctx context.Context, i int) Shown {
					s := c.sources[i]
					until := time.Hour
					if s.after >= 0 {
						until = s.after
					}
					var fails <-chan time.Time
					if s.fails > 0 {
						fails = time.After(time.Until(began.Add(s.fails)))
					}
					if time.Since(began) >= until {
						return Shown{Snapshots: []*Snapshot{{}, {}}}
					}
					select {
					case <-time.After(time.Until(began.Add(until))):
						return Shown{Snapshots: []*Snapshot{{}, {}}}
					case <-fails:
						return Shown{Failed: errors.New("failed")}
					case <-ctx.Done():
					}
					if s.partial && ctx.Err() == context.DeadlineExceeded {
						return Shown{Snapshots: []*Snapshot{{}}}
					}
					return Shown{Failed: ctx.Err()}
				}
				changed := make(chan struct{})
				if c.changed > 0 {
					time.AfterFunc(c.changed, func() { close(changed) })
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*s)
				defer cancel()
				all := Gather(ctx, len(c.sources), current, changed)
				got := ""
				for i, s := range all {
					if i > 0 {
						got += " "
					}
					got += map[int]string{0: "-", 1: "part", 2: "whole"}[len(s.Snapshots)]
					if (s.Failed == nil) != (len(s.Snapshots) > 0) {
						t.Errorf("%d: %d snapshots, and %v", i, len(s.Snapshots), s.Failed)
					}
				}
				if took := time.Since(began); got != c.shown || took != c.took {
					t.Errorf("%s after %s, want %s after %s", got, took, c.shown, c.took)
				}
				cancel()
				synctest.Wait() // nobody is left that waits, or the bubble fails
			})
		})
	}
}

func TestAreLost(t *testing.T) {
	failed, worked := &kube.Failure{Reason: kube.Network}, (*kube.Failure)(nil)
	list := func(f *kube.Failure, oldest int64) *Snapshot {
		return &Snapshot{Shown: usage.Shown{Status: usage.Status{Failure: f}, Oldest: oldest}}
	}
	for want, all := range map[string][]*Snapshot{
		"false, nothing is known yet":            nil,
		"false, there is something":              {list(failed, 0), list(failed, 1)},
		"false, one list works":                  {list(failed, 0), list(worked, 0)},
		"false, all is well":                     {list(worked, 1), list(worked, 1)},
		"true, all lists fail and nothing stays": {list(failed, 0), list(failed, 0)},
	} {
		if got := fmt.Sprint(AreLost(all)); got != want[:len(got)] {
			t.Errorf("%s: %s", want, got)
		}
	}
}
