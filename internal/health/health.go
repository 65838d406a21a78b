// Package health keeps what works and what does not, and logs it once per change of state instead of once per attempt.
package health

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"metrics-server-prom/internal/kube"
)

// Tracker is the state of everything that can fail. Each thing has a key, which is shown: "cluster" (the
// configuration), "pods", "watch of pods of namespace b". The zero value knows of nothing.
type Tracker struct {
	Cluster string // which all lines end in, also those of the log; "" where there is only one

	mu     sync.Mutex
	states map[string]*state
	began  time.Time       // of the present outage, which lasts until everything is known to work; zero for none
	logged map[string]bool // reasons logged in this outage
}

type state struct {
	failure *kube.Failure // nil where it works, or where nothing is known
	since   time.Time     // when it began to fail
	reason  string        // of the last failure; "" where the last attempt worked
	cause   time.Time     // when it began to fail with this reason
	worked  bool          // at any time
	unknown bool          // nothing is known yet
	missed  bool          // it was logged what is missing without it, which is all that its failure does
	notice  string        // "" for none
	noticed time.Time     // when the notice began
}

// settle is how long another cause has to stay within an outage to be logged. A restarting API server refuses
// connections, then credentials, then rights, each for a moment.
const settle = 5 * time.Second

// SetUnhealthy says that an attempt failed. A failure for the same cause as another that is already logged is the same
// outage and not logged again; one for a new cause is, once that has stayed, so that what a restarting server answers
// on its way up is not.
//
// A failure that is known to leave the rest as it is, such as of a right that not everybody gives, does not affect
// health: missing is then what is missing because of it, in words for the operator, else "". That is logged once and,
// if the thing worked before, only after it has stayed.
func (t *Tracker) SetUnhealthy(what string, f *kube.Failure, missing string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	s := t.state(what)
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
	s.failure, s.unknown = f, false
	first := t.began.IsZero()
	stayed := now.Sub(s.cause) >= settle
	if missing != "" {
		if !s.missed && (stayed || first && !s.worked) {
			s.missed = true
			slog.Info(t.Line(missing), "reason", f.Text)
		}
		s.failure = nil
		return
	}
	if first {
		t.began = now
	}
	if !t.logged[reason] && (first || stayed) {
		t.logged[reason] = true
		slog.Warn(t.Line(f.Text))
	}
}

// SetHealthy says that an attempt worked. An outage ends when all works; where something else goes on failing for
// another reason, it is logged that this works, so that its next failure is logged as well.
func (t *Tracker) SetHealthy(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state(what)
	if s.missed {
		slog.Info(t.Line(what + " works again"))
	}
	failed := s.failure != nil
	s.failure, s.reason, s.worked, s.unknown, s.missed = nil, "", true, false, false
	var failing []string
	reasons := map[string]bool{}
	for what, s := range t.states {
		if s.failure != nil {
			failing, reasons[s.reason] = append(failing, what), true
		} else if s.unknown {
			return
		}
	}
	if t.began.IsZero() {
		return
	}
	if len(failing) == 0 {
		slog.Info(t.Line("everything works again"), "after", time.Since(t.began).Round(time.Second).String())
		clear(t.logged)
		t.began = time.Time{}
		return
	}
	before := len(t.logged)
	maps.DeleteFunc(t.logged, func(reason string, _ bool) bool { return !reasons[reason] })
	if failed && len(t.logged) < before {
		slices.Sort(failing)
		slog.Info(t.Line(what+" works again"), "still failing", strings.Join(failing, ", "))
	}
}

// SetUnknown drops the state of things of which nothing is known any more, or nothing yet, as when another cluster is
// configured, and their notices, whose keys are "THING (…)". An outage does not end before each thing has been
// reported again.
func (t *Tracker) SetUnknown(what ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, what := range what {
		maps.DeleteFunc(t.states, func(key string, _ *state) bool { return strings.HasPrefix(key, what+" (") })
		*t.state(what) = state{unknown: true, missed: t.state(what).missed}
	}
}

// SetNotice says something that the operator should know and that does not affect health, such as what is left out of
// the page for a reason that lasts. It is logged once while it lasts, whatever becomes of its text, but not where it
// is about a thing that does not work: that was logged. "" ends it.
func (t *Tracker) SetNotice(what, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state(what)
	if s.notice == "" && text != "" {
		if s.noticed = time.Now(); s.reason == "" {
			slog.Warn(t.Line(what + ": " + text))
		}
	}
	s.notice = text
}

// Line is a line about the cluster, which it ends in.
func (t *Tracker) Line(line string) string { return kube.OfCluster(t.Cluster, line) }

func (t *Tracker) state(what string) *state {
	if t.states == nil {
		t.states, t.logged = map[string]*state{}, map[string]bool{}
	}
	if t.states[what] == nil {
		t.states[what] = &state{}
	}
	return t.states[what]
}

// Why is the text of one thing that does not work, without a time; "" where none is known.
func (t *Tracker) Why() (text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := ""
	for what, s := range t.states {
		if s.failure != nil && (text == "" || what < first) {
			first, text = what, s.failure.Text
		}
	}
	return text
}

// Failures is one line for each thing that does not work: what, since when, and why. None means health.
func (t *Tracker) Failures() []string {
	return t.lines("failing since", func(s *state) (string, time.Time) {
		if s.failure == nil {
			return "", s.since
		}
		return s.failure.Text, s.since
	})
}

// Err is the failures as the reason why there are no data; nil where there are none.
func (t *Tracker) Err() error {
	if all := t.Failures(); len(all) > 0 {
		return errors.New("no data: " + strings.Join(all, "; "))
	}
	return nil
}

// Notices is one line for each notice: what it is about, since when, and the text.
func (t *Tracker) Notices() []string {
	return t.lines("since", func(s *state) (string, time.Time) { return s.notice, s.noticed })
}

// lines is one line for each thing that has a text.
func (t *Tracker) lines(since string, text func(*state) (string, time.Time)) (lines []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for what, s := range t.states {
		if text, at := text(s); text != "" {
			age := time.Since(at).Round(time.Second)
			lines = append(lines,
				t.Line(fmt.Sprintf("%s: %s %s (for %s): %s", what, since, at.UTC().Format(time.RFC3339), age, text)))
		}
	}
	slices.Sort(lines)
	return lines
}
