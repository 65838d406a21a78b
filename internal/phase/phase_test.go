package rhythm

import (
	"math/rand"
	"slices"
	"testing"
	"time"
)

var start = time.Unix(1_700_000_000, 0)

// source is a simulated source of data.
type source func(at time.Duration) (stamp int64)

// every ticks once per period, late by up to jitter.
func every(period, jitter time.Duration) source {
	r := rand.New(rand.NewSource(1))
	late := map[int64]time.Duration{}
	return func(at time.Duration) int64 {
		n := int64(at / period)
		if _, ok := late[n]; !ok {
			late[n] = time.Duration(r.Int63n(int64(jitter) + 1))
		}
		if at%period < late[n] {
			n--
		}
		return n
	}
}

// run probes as the Rhythm wishes and returns when probes were made and when ticks were seen.
func run(s source, length time.Duration) (r Rhythm, probes, ticks []time.Duration) {
	now := start
	for now.Before(start.Add(length)) {
		at := now.Sub(start)
		probes = append(probes, at)
		if ticked, since := r.Observe(now, s(at)); ticked {
			ticks = append(ticks, at)
			if !since.IsZero() && s(since.Sub(start)) == s(at) {
				panic("since is a moment at which the new data were there already")
			}
		}
		next := r.Next()
		if next.Before(now.Add(MinGap)) {
			panic("two probes in less than MinGap")
		}
		now = next
	}
	return r, probes, ticks
}

func TestLockedToASourceThatTicks(t *testing.T) {
	for name, c := range map[string]struct{ period, jitter time.Duration }{
		"every 15 s on the dot":            {15 * time.Second, 0},
		"every 15 s, up to 0.5 s late":     {15 * time.Second, 500 * time.Millisecond},
		"every 60 s, up to 1 s late":       {60 * time.Second, time.Second},
		"every 10 s, not in whole seconds": {10*time.Second + 137*time.Millisecond, 100 * time.Millisecond},
		"every 5 s":                        {5 * time.Second, 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			length := 100 * c.period
			r, probes, ticks := run(every(c.period, c.jitter), length)
			if d := (r.Period() - c.period).Abs(); d > time.Second {
				t.Errorf("period %s, want %s", r.Period(), c.period)
			}
			// From the third tick on it is locked.
			locked := ticks[3:]
			if missed := int(length/c.period) - 1 - len(ticks); missed > 1 {
				t.Errorf("%d ticks of the source not seen", missed)
			}
			var late []time.Duration
			for _, at := range locked {
				late = append(late, at%c.period)
			}
			slices.Sort(late)
			if p95 := late[len(late)*95/100]; p95 > MinGap+c.jitter+500*time.Millisecond {
				t.Errorf("ticks seen %s late (95th percentile)", p95)
			}
			perTick := float64(len(probes)-int(3*c.period/MinGap)) / float64(len(locked))
			if perTick > 3.5 {
				t.Errorf("%.1f probes a tick, want few", perTick)
			}
		})
	}
}

func TestNoRhythmMeansNoProbes(t *testing.T) {
	for name, s := range map[string]source{
		"every answer is new":    func(at time.Duration) int64 { return int64(at) },
		"no answer is ever new":  func(time.Duration) int64 { return 7 },
		"one tick and then none": func(at time.Duration) int64 { return min(int64(at/(20*time.Second)), 1) },
	} {
		t.Run(name, func(t *testing.T) {
			r, probes, _ := run(s, time.Hour)
			if r.Period() != 0 {
				t.Errorf("period %s, want none", r.Period())
			}
			if most := int(6*2*maxPeriod/MinGap) + 10; len(probes) > most {
				t.Errorf("%d probes in an hour, want at most %d", len(probes), most)
			}
		})
	}
}

func TestFindsTheRhythmAgain(t *testing.T) {
	for name, c := range map[string]struct {
		s    source
		want time.Duration
	}{
		"after the source stood still for 5 minutes": {func(at time.Duration) int64 {
			if at > 10*time.Minute && at < 15*time.Minute {
				at = 10 * time.Minute
			}
			return int64(at / (15 * time.Second))
		}, 15 * time.Second},
		"after the source restarted with another phase": {func(at time.Duration) int64 {
			if at > 10*time.Minute {
				at += 7 * time.Second
			}
			return int64(at / (15 * time.Second))
		}, 15 * time.Second},
		"after the source was set to another period": {func(at time.Duration) int64 {
			if at > 10*time.Minute {
				return 40 + int64((at-10*time.Minute)/time.Minute)
			}
			return int64(at / (15 * time.Second))
		}, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			r, _, ticks := run(c.s, time.Hour)
			if d := (r.Period() - c.want).Abs(); d > time.Second {
				t.Errorf("period %s, want %s", r.Period(), c.want)
			}
			if last := ticks[len(ticks)-1]; time.Hour-last > c.want+2*MinGap {
				t.Errorf("last tick seen at %s of an hour", last)
			}
		})
	}
}
