package refresh

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// beat is the time between two looks at the clocks.
const beat = 500 * time.Millisecond

// Pulse notices that the process stood still: stopped by a signal, in a cgroup that was frozen, without CPU between two
// requests, on a machine that was suspended. What was read before may be as old as that lasted, without a failure that
// would say so. A process needs one Pulse, whose Run has to go on for as long as its answers count.
//
// It stood still where nobody has looked at the monotonic clock for longer than Grace, or where the wall clock has
// moved against the monotonic one by more than that since the last thaw: a suspended machine stops the monotonic clock.
// A wall clock that is set counts too, as nothing tells the two apart. What no clock of the machine shows, a suspension
// after which the wall clock goes on where it stopped, is noticed when the wall clock is corrected.
type Pulse struct {
	clock  func() (wall, monotonic time.Duration) // each since a fixed moment of its own
	thawed Broadcast

	mu     sync.Mutex
	looked time.Duration // the latest reading of the monotonic clock
	offset time.Duration // of the wall clock from the monotonic one, at the last thaw or at the start
	still  still
}

// still is how often and how long altogether the process has stood still.
type still struct {
	thaws  uint64
	frozen time.Duration
}

// NewPulse returns a Pulse that knows when the process stands still from now on.
func NewPulse() *Pulse {
	start := time.Now()
	return newPulse(func() (wall, monotonic time.Duration) {
		now := time.Now()
		return time.Duration(now.UnixNano()), now.Sub(start)
	})
}

func newPulse(clock func() (wall, monotonic time.Duration)) *Pulse {
	wall, monotonic := clock()
	return &Pulse{clock: clock, looked: monotonic, offset: wall - monotonic}
}

// Run looks at the clocks until ctx ends.
func (p *Pulse) Run(ctx context.Context) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			p.look()
		}
	}
}

// Thaws is how often the process went on after it had stood still. What was read while it was another number is old. It
// looks at the clocks itself, as a request can be answered before Run gets to it.
func (p *Pulse) Thaws() uint64 { return p.look().thaws }

// Frozen is how long the process has stood still altogether, or a little more: where the wall clock was set meanwhile,
// by how much counts if that is more.
func (p *Pulse) Frozen() time.Duration { return p.look().frozen }

// Thawed returns a channel that is closed when the next thaw is noticed. Take it before asking for Thaws.
func (p *Pulse) Thawed() <-chan struct{} { return p.thawed.Wait() }

func (p *Pulse) look() still {
	wall, monotonic := p.clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if monotonic < p.looked {
		return p.still // somebody has looked since
	}
	offset := wall - monotonic
	if length := max(monotonic-p.looked, (offset - p.offset).Abs()); length > Grace {
		p.still.thaws++
		p.still.frozen += length
		p.offset = offset
		p.thawed.Send()
		slog.Debug("the process stood still", "for", length.Round(time.Millisecond).String())
	}
	p.looked = monotonic
	return p.still
}
