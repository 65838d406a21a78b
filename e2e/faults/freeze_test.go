package faults

import (
	"errors"
	"os"
	"testing"
	"time"

	"metrics-server-prom/e2e/process"
)

// pick is the short form's value, or the long form's.
func pick[T any](short, length T) T {
	if *long {
		return length
	}
	return short
}

// TestFreezeBeforeTheSecondTick freezes the exporter while it has seen one tick of the source, so that the freeze looks
// like the time between two ticks.
func TestFreezeBeforeTheSecondTick(t *testing.T) {
	t.Parallel()
	frozen(t, 1, Freeze{Resolution: 15 * time.Second, When: afterTheFirstTick, Rounds: 1,
		Frozen: pick(70*time.Second, 600*time.Second), Watched: pick(60*time.Second, 6*time.Minute)})
}

// TestAliveForASecondBetweenFreezes gives the exporter a second of life for each scrape, as where CPU is given to
// requests only, which looks like a source that ticks that rarely.
func TestAliveForASecondBetweenFreezes(t *testing.T) {
	t.Parallel()
	rounds := pick(6, 20)
	frozen(t, rounds/2, Freeze{Resolution: 15 * time.Second, When: afterTheFirstTick, Rounds: rounds,
		Alive:  time.Second,
		Frozen: pick(25*time.Second, 60*time.Second), Watched: 40 * time.Second})
}

// TestLongFreeze freezes an exporter that knows the source's period: for longer than it keeps data, and than
// connections and watches live.
func TestLongFreeze(t *testing.T) {
	t.Parallel()
	frozen(t, 1, Freeze{Resolution: interval, When: knowsThePeriod, Rounds: 1,
		Frozen: pick(time.Minute, 25*time.Minute), Watched: pick(30*time.Second, 6*time.Minute)})
}

// TestClockSetBackWhileFrozen sets the exporter's own wall clock back by an hour meanwhile, so that nothing looks late.
func TestClockSetBackWhileFrozen(t *testing.T) {
	t.Parallel()
	frozen(t, 1, Freeze{Resolution: interval, When: knowsThePeriod, Rounds: 1, Back: time.Hour,
		Frozen: pick(time.Minute, 600*time.Second), Watched: pick(time.Minute, 6*time.Minute)})
}

// frozen runs a freeze, after which at least so many of the scrapes that thawed the exporter must have got a page.
func frozen(t *testing.T, atLeast int, f Freeze) {
	t.Helper()
	h, err := Simulated(t.Context(), Options{Resolution: f.Resolution, Unchecked: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	pages, err := f.Run(t.Context(), h)
	if errors.Is(err, process.ErrClock) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Errorf("%v\nend of the exporter's log:\n%s", err, process.Tail(h.Exporter.Log(), 15))
	}
	if pages < atLeast {
		t.Errorf("%d of %d scrapes that thawed the exporter got a page", pages, f.Rounds)
	}
	_, samples, wrong, _ := h.checker.verdict()
	t.Logf("%d of %d scrapes that thawed the exporter got a page; %d samples checked, %d wrong", pages, f.Rounds,
		samples, wrong)
}
