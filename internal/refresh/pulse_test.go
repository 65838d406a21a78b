package refresh

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// process is one that can be stopped, inside a synctest bubble: whoever looks at the clocks then, or asks runs, goes on
// when it runs again. Its timers go on meanwhile, as the kernel's do.
type process struct {
	mu     sync.Mutex
	resume chan struct{} // nil while it runs
	shift  time.Duration // of the wall clock, which was set or has gone on while the monotonic one stood still
}

// runs returns when the process runs.
func (p *process) runs() {
	for {
		p.mu.Lock()
		resume := p.resume
		p.mu.Unlock()
		if resume == nil {
			return
		}
		<-resume
	}
}

func (p *process) clock() (wall, monotonic time.Duration) {
	p.runs()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Duration(time.Now().UnixNano())
	return now + p.shift, now
}

// stop stops the process for that long, and returns when it runs again.
func (p *process) stop(length time.Duration) {
	resume := make(chan struct{})
	p.mu.Lock()
	p.resume = resume
	p.mu.Unlock()
	time.Sleep(length)
	p.mu.Lock()
	p.resume = nil
	p.mu.Unlock()
	close(resume)
}

// setClock moves the wall clock. To the process that is what a suspension of the machine looks like: no timer and no
// monotonic clock has gone on meanwhile.
func (p *process) setClock(by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shift += by
}

func TestPulse(t *testing.T) {
	const s, h = time.Second, time.Hour
	for name, c := range map[string]struct {
		happens     func(*process)
		thaws       uint64
		least, most time.Duration // stood still
	}{
		"a process that runs":               {func(p *process) { time.Sleep(24 * h) }, 0, 0, 0},
		"one that was stopped for a moment": {func(p *process) { p.stop(1400 * time.Millisecond) }, 0, 0, 0},
		"one that was stopped for moments in a row": {func(p *process) {
			for range 100 {
				p.stop(1400 * time.Millisecond)
				time.Sleep(beat)
			}
		}, 0, 0, 0},
		"one that was stopped for just too long": {func(p *process) { p.stop(2001 * time.Millisecond) }, 1, 2 * s, 3 * s},
		"one that was stopped for 25 minutes":    {func(p *process) { p.stop(25 * 60 * s) }, 1, 1500 * s, 1501 * s},
		"twice stopped": {func(p *process) { p.stop(60 * s); time.Sleep(s); p.stop(10 * s) },
			2, 70 * s, 72 * s},
		"stopped while the clock was set back": {func(p *process) { p.setClock(-h); p.stop(600 * s) },
			1, 600 * s, h + 600*s},
		"stopped while the clock was set back by as long": {func(p *process) { p.setClock(-600 * s); p.stop(600 * s) },
			1, 600 * s, 601 * s},
		"stopped while the clock was set forward": {func(p *process) { p.setClock(h); p.stop(600 * s) },
			1, 600 * s, h + 600*s},
		"a machine that was suspended for an hour": {func(p *process) { p.setClock(h) }, 1, h, h},
		"one suspended for moments, altogether for longer than one": {func(p *process) {
			for range 5 {
				p.setClock(900 * time.Millisecond)
				time.Sleep(10 * s)
			}
		}, 1, 2 * s, 3 * s},
		"one suspended and stopped": {func(p *process) { p.setClock(h); time.Sleep(s); p.stop(60 * s) },
			2, h + 60*s, h + 61*s},
		"a clock that was set back":  {func(p *process) { p.setClock(-h) }, 1, h, h},
		"a clock that was corrected": {func(p *process) { p.setClock(-s); time.Sleep(s); p.setClock(s) }, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var process process
				p := newPulse(process.clock)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go p.Run(ctx)
				time.Sleep(10*s + beat/2)
				thawed := p.Thawed()
				c.happens(&process)
				if thaws, frozen := p.Thaws(), p.Frozen(); thaws != c.thaws || frozen < c.least || frozen > c.most {
					t.Errorf("%d thaws after %s, want %d after %s to %s", thaws, frozen, c.thaws, c.least, c.most)
				}
				select {
				case <-thawed:
					if c.thaws == 0 {
						t.Error("a thaw was told")
					}
				default:
					if c.thaws > 0 {
						t.Error("no thaw was told")
					}
				}
				time.Sleep(10 * s)
				if p.Thaws() != c.thaws {
					t.Errorf("%d thaws later, want %d as before", p.Thaws(), c.thaws)
				}
			})
		})
	}
}

func TestPulseNoticesWithoutBeingAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var process process
		p := newPulse(process.clock)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go p.Run(ctx)
		start := time.Now()
		time.AfterFunc(3*time.Second+beat/2, func() { process.setClock(time.Minute) })
		<-p.Thawed()
		if took := time.Since(start) - 3*time.Second - beat/2; took > beat {
			t.Errorf("noticed after %s, want within %s", took, beat)
		}
	})
}

func TestPulseCountsFromItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var process process
		p := newPulse(process.clock)
		process.stop(time.Minute) // before Run gets to its first look
		if p.Thaws() != 1 {
			t.Error("the freeze before the first beat was not noticed")
		}
	})
}

func TestPulseIgnoresWhoHasReadTheClocksBeforeOthers(t *testing.T) {
	readings := [][2]time.Duration{{100, 100}, {4e9 + 100, 100 + 2}, {100, 100 + 1}, {4e9 + 100, 100 + 3}}
	p := newPulse(func() (wall, monotonic time.Duration) {
		wall, monotonic = readings[0][0], readings[0][1]
		readings = readings[1:]
		return wall, monotonic
	})
	for range 3 {
		if thaws := p.Thaws(); thaws != 1 {
			t.Fatalf("%d thaws, want 1", thaws)
		}
	}
}
