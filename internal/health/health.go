// Package health keeps what works and what does not, and logs it once per change of state instead of once per attempt.
package health

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"metrics-server-prom/internal/kube"
)

// Board is the state of everything that can fail: the "cluster" (its configuration), "pods", "nodes", "watch". The zero
// value has nothing on it.
type Board struct {
	mu       sync.Mutex
	states   map[string]*state
	began    time.Time       // of the present outage, which lasts until nothing fails
	logged   map[string]bool // reasons logged in this outage
	optional map[string]bool // what was logged as forbidden, but is not needed
}

type state struct {
	failure *kube.Failure // nil where it works
	since   time.Time     // when it began to fail or to work
	reason  string        // of the last failure; "" where the last attempt worked
	cause   time.Time     // when it began to fail with this reason
	worked  bool          // at any time
}

// settle is how long another cause has to stay within an outage to be told of. A restarting API server refuses connections,
// then credentials, then rights, each for a moment.
const settle = 5 * time.Second

// Failed takes down that an attempt failed. A failure for the same cause as another that is already logged is the same
// outage and not logged again; one for a new cause is, once that has stayed, so that what a restarting server answers on its
// way up is not. Where the whole of a resource is optional and merely forbidden, that does no harm to the health; it is logged
// once, if the resource was to be had before not until it has stayed.
func (b *Board) Failed(what string, f *kube.Failure, optional bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	s := b.state(what, now)
	if s.failure == nil {
		s.since = now
	}
	reason := f.Reason
	if reason == kube.Timeout {
		reason = kube.Network // no answer is first a timeout, and then a connection that is found to be dead
	}
	if s.reason != reason {
		s.reason, s.cause = reason, now
	}
	s.failure = f
	first := len(b.logged) == 0
	stayed := now.Sub(s.cause) >= settle
	if optional && f.Reason == kube.Forbidden {
		if !b.optional[what] && (stayed || first && !s.worked) {
			b.optional[what] = true
			slog.Info("no metrics of "+what+" are served, the rest is", "reason", f.Text)
		}
		s.failure = nil
		return
	}
	if first {
		b.began = now
	}
	if !b.logged[reason] && (first || stayed) {
		b.logged[reason] = true
		slog.Warn(f.Text)
	}
}

// Worked takes down that an attempt worked.
func (b *Board) Worked(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	s := b.state(what, now)
	if b.optional[what] {
		delete(b.optional, what)
		slog.Info("the metrics of " + what + " are served again")
	}
	if s.reason, s.worked = "", true; s.failure != nil {
		s.failure, s.since = nil, now
	}
	for _, s := range b.states {
		if s.failure != nil {
			return
		}
	}
	if len(b.logged) > 0 {
		slog.Info("everything works again", "after", now.Sub(b.began).Round(time.Second).String())
		clear(b.logged)
	}
}

// Forget drops the state of what no longer exists.
func (b *Board) Forget(what ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, what := range what {
		delete(b.states, what)
	}
}

func (b *Board) state(what string, now time.Time) *state {
	if b.states == nil {
		b.states, b.logged, b.optional = map[string]*state{}, map[string]bool{}, map[string]bool{}
	}
	if b.states[what] == nil {
		b.states[what] = &state{since: now}
	}
	return b.states[what]
}

// Failures is one line for each thing that does not work: what, since when, and why. None means health.
func (b *Board) Failures() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var lines []string
	for what, s := range b.states {
		if s.failure != nil {
			lines = append(lines, fmt.Sprintf("%s: failing since %s (for %s): %s", what,
				s.since.UTC().Format(time.RFC3339), time.Since(s.since).Round(time.Second), s.failure.Text))
		}
	}
	slices.SortFunc(lines, strings.Compare)
	return lines
}
