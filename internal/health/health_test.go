package health

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"metrics-server-prom/internal/kube"
)

// logged has slog write to memory; the function returns the lines since its last call, as "LEVEL text".
func logged(t *testing.T) func() string {
	var mu sync.Mutex
	var b bytes.Buffer
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
	slog.SetDefault(slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return b.Write(p)
	}), &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})))
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		defer b.Reset()
		return strings.NewReplacer("level=", "", "msg=", "", `"`, "").Replace(b.String())
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

var failures = map[string]*kube.Failure{
	"refused":      {Reason: kube.Network, Text: "refused"},
	"silent":       {Reason: kube.Timeout, Text: "silent"},
	"starting":     {Reason: kube.Unavailable, Text: "starting"},
	"forbidden":    {Reason: kube.Forbidden, Text: "forbidden"},
	"unauthorized": {Reason: kube.Unauthorized, Text: "unauthorized"},
}

func TestLogHasOneLinePerChangeOfState(t *testing.T) {
	// A step is "what works", "what fails: why", "what is unknown" or "time passes"; nodes are optional.
	type step struct{ event, log string }
	for name, steps := range map[string][]step{
		"nothing is logged of what works": {
			{"pods work", ""}, {"nodes work", ""}, {"pods work", ""}},
		"an outage has a line when it begins and one when it ends": {
			{"pods fail: refused", "WARN refused\n"}, {"pods fail: refused", ""}, {"pods fail: refused", ""},
			{"pods work", "INFO everything works again after=3s\n"}, {"pods work", ""}},
		"the next outage has its own": {
			{"pods fail: refused", "WARN refused\n"}, {"pods work", "INFO everything works again after=1s\n"},
			{"pods fail: refused", "WARN refused\n"}, {"pods work", "INFO everything works again after=1s\n"}},
		"an outage of all for one cause is one, and ends with the last": {
			{"pods fail: refused", "WARN refused\n"}, {"nodes fail: refused", ""}, {"watch fails: refused", ""},
			{"nodes work", ""}, {"pods work", ""}, {"watch works", "INFO everything works again after=5s\n"}},
		"another cause on the way up is not logged": {
			{"pods fail: refused", "WARN refused\n"}, {"pods fail: starting", ""}, {"pods fail: refused", ""},
			{"pods fail: starting", ""},
			{"pods work", "INFO everything works again after=4s\n"}},
		"another cause that stays is, once": {
			{"pods fail: refused", "WARN refused\n"}, {"pods fail: starting", ""}, {"time passes", ""},
			{"pods fail: starting", "WARN starting\n"},
			{"pods fail: starting", ""}, {"pods fail: refused", ""}, {"time passes", ""}, {"pods fail: refused", ""},
			{"pods work", "INFO everything works again after=18s\n"}},
		"no answer and no connection are one cause": {
			{"pods fail: silent", "WARN silent\n"}, {"pods fail: refused", ""}, {"time passes", ""},
			{"pods fail: refused", ""},
			{"pods work", "INFO everything works again after=9s\n"}},
		"another cause of something else is, once it has stayed": {
			{"pods fail: refused", "WARN refused\n"}, {"watch fails: forbidden", ""}, {"watch fails: forbidden", ""},
			{"time passes", ""}, {"watch fails: forbidden", "WARN forbidden\n"},
			{"pods work", "INFO pods works again still failing=watch\n"},
			{"watch works", "INFO everything works again after=11s\n"}},
		"a cause that another thing had before has not stayed for that": {
			{"pods fail: refused", "WARN refused\n"}, {"pods fail: starting", ""}, {"time passes", ""},
			{"watch fails: starting", ""}},
		"a success between takes the time back": {
			{"watch fails: refused", "WARN refused\n"}, {"pods fail: starting", ""}, {"pods work", ""},
			{"time passes", ""}, {"pods fail: starting", ""}},
		"something optional that is forbidden is logged once, as no outage": {
			{"nodes fail: forbidden", "INFO no metrics of nodes are served, the rest is reason=forbidden\n"},
			{"nodes fail: forbidden", ""},
			{"pods work", ""}, {"nodes fail: forbidden", ""}},
		"that it is allowed is logged as well, and that it is forbidden once more and stays so": {
			{"nodes fail: forbidden", "INFO no metrics of nodes are served, the rest is reason=forbidden\n"},
			{"nodes work", "INFO nodes works again\n"}, {"nodes work", ""},
			{"nodes fail: forbidden", ""}, {"time passes", ""},
			{"nodes fail: forbidden", "INFO no metrics of nodes are served, the rest is reason=forbidden\n"}},
		"something optional that fails otherwise is an outage": {
			{"nodes fail: refused", "WARN refused\n"}, {"nodes work", "INFO everything works again after=1s\n"}},
		"what is needed and forbidden is an outage": {
			{"pods fail: forbidden", "WARN forbidden\n"}, {"pods work", "INFO everything works again after=1s\n"}},
		"something optional that is forbidden does not keep an outage from ending": {
			{"pods fail: refused", "WARN refused\n"}, {"nodes fail: forbidden", ""}, {"time passes", ""},
			{"nodes fail: forbidden", "INFO no metrics of nodes are served, the rest is reason=forbidden\n"},
			{"pods work", "INFO everything works again after=9s\n"}},
		"something optional that is forbidden on the way up is not logged": {
			{"pods fail: refused", "WARN refused\n"}, {"nodes fail: refused", ""}, {"nodes fail: forbidden", ""},
			{"nodes fail: forbidden", ""},
			{"pods work", "INFO everything works again after=4s\n"}, {"nodes work", ""}},
		"a namespace that goes on failing leaves the outages of the rest their lines": {
			{"b fails: forbidden", "WARN forbidden\n"}, {"a works", ""}, {"a fails: refused", ""}, {"time passes", ""},
			{"a fails: refused", "WARN refused\n"},
			{"a works", "INFO a works again still failing=b\n"}, {"a works", ""}, {"a fails: refused", ""},
			{"time passes", ""}, {"a fails: refused", "WARN refused\n"},
			{"a works", "INFO a works again still failing=b\n"},
			{"b works", "INFO everything works again after=21s\n"}},
		"what fails for the same cause as the rest works again without a line": {
			{"a fails: refused", "WARN refused\n"}, {"b fails: refused", ""}, {"a works", ""},
			{"b works", "INFO everything works again after=3s\n"}},
		"a new kubeconfig is no end of an outage until all was tried with it": {
			{"pods fail: unauthorized", "WARN unauthorized\n"}, {"pods are unknown", ""}, {"watch is unknown", ""},
			{"cluster works", ""},
			{"pods fail: unauthorized", ""}, {"watch fails: unauthorized", ""}, {"pods work", ""},
			{"watch works", "INFO everything works again after=7s\n"}},
		"nor is a first kubeconfig": {
			{"cluster fails: refused", "WARN refused\n"}, {"pods are unknown", ""}, {"nodes are unknown", ""},
			{"cluster works", ""},
			{"pods work", ""}, {"nodes fail: forbidden", ""}, {"pods work", "INFO everything works again after=6s\n"}},
		"what is unknown is no failure": {
			{"pods are unknown", ""}, {"cluster works", ""}, {"pods work", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, b := logged(t), &Tracker{}
				for i, s := range steps {
					do(t, b, s.event)
					if got := log(); got != s.log {
						t.Errorf("step %d, %s: logged %q, want %q", i, s.event, got, s.log)
					}
					time.Sleep(time.Second)
				}
			})
		})
	}
}

func do(t *testing.T, b *Tracker, event string) {
	t.Helper()
	what, then, _ := strings.Cut(event, " ")
	verb, why, _ := strings.Cut(then, ": ")
	switch verb {
	case "work", "works":
		b.SetHealthy(what)
	case "passes":
		time.Sleep(settle)
	case "are unknown", "is unknown":
		b.SetUnknown(what)
	case "fail", "fails":
		missing := ""
		if what == "nodes" && why == "forbidden" {
			missing = "no metrics of nodes are served, the rest is"
		}
		b.SetUnhealthy(what, failures[why], missing)
	default:
		t.Fatalf("no such event: %s", event)
	}
}

func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at 2000-01-01T00:00:00Z
		logged(t)
		b := &Tracker{}
		for _, step := range []struct {
			event string
			want  []string
		}{
			{"cluster works", nil},
			{"pods work", nil},
			{"pods fail: refused", []string{"pods: failing since 2000-01-01T00:00:02Z (for 0s): refused"}},
			{"nodes fail: refused", []string{"nodes: failing since 2000-01-01T00:00:03Z (for 0s): refused",
				"pods: failing since 2000-01-01T00:00:02Z (for 1s): refused"}},
			{"pods fail: starting", []string{"nodes: failing since 2000-01-01T00:00:03Z (for 1s): refused",
				"pods: failing since 2000-01-01T00:00:02Z (for 2s): starting"}},
			{"nodes fail: forbidden", []string{"pods: failing since 2000-01-01T00:00:02Z (for 3s): starting"}},
			{"pods work", nil},
			{"pods fail: refused", []string{"pods: failing since 2000-01-01T00:00:07Z (for 0s): refused"}},
			{"pods are unknown", nil},
		} {
			do(t, b, step.event)
			if got := b.Failures(); strings.Join(got, "\n") != strings.Join(step.want, "\n") {
				t.Errorf("after %s: %q, want %q", step.event, got, step.want)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestEmptyTrackerIsHealthy(t *testing.T) {
	var b Tracker
	b.SetUnknown("pods")
	if f := append(b.Failures(), b.Notices()...); len(f) != 0 {
		t.Error(f)
	}
}

func TestNoticeIsLoggedOnceWhileItLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at 2000-01-01T00:00:00Z
		log, b := logged(t), &Tracker{}
		for i, step := range []struct{ text, log, line string }{
			{"", "", ""},
			{"no window in 3 of 3", "WARN pods: no window in 3 of 3\n",
				"pods: since 2000-01-01T00:00:01Z (for 0s): no window in 3 of 3"},
			{"no window in 4 of 4", "", "pods: since 2000-01-01T00:00:01Z (for 1s): no window in 4 of 4"},
			{"", "", ""},
			{"no window in 4 of 4", "WARN pods: no window in 4 of 4\n",
				"pods: since 2000-01-01T00:00:04Z (for 0s): no window in 4 of 4"},
		} {
			b.SetNotice("pods", step.text)
			if got := log(); got != step.log {
				t.Errorf("step %d: logged %q, want %q", i, got, step.log)
			}
			if got := strings.Join(b.Notices(), "\n"); got != step.line {
				t.Errorf("step %d: %q, want %q", i, got, step.line)
			}
			if f := b.Failures(); len(f) > 0 {
				t.Errorf("step %d: a notice is a failure: %q", i, f)
			}
			time.Sleep(time.Second)
		}
		b.SetNotice("nodes", "one is twice in the list")
		log()
		if got := b.Notices(); len(got) != 2 || !strings.HasPrefix(got[0], "nodes: ") || !strings.HasPrefix(got[1],
			"pods: ") {
			t.Errorf("two notices: %q", got)
		}
		b.SetUnknown("pods", "nodes")
		if got := b.Notices(); len(got) > 0 {
			t.Errorf("notices about another cluster: %q", got)
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	logged(t)
	var b Tracker
	var wg sync.WaitGroup
	for _, what := range []string{"pods", "nodes", "watch"} {
		wg.Go(func() {
			for range 200 {
				b.SetUnhealthy(what, failures["refused"], "")
				b.Failures()
				b.SetNotice(what, "text")
				b.Notices()
				b.SetHealthy(what)
				b.SetUnknown(what)
			}
		})
	}
	wg.Wait()
	if f := b.Failures(); len(f) != 0 {
		t.Error(f)
	}
}

// TestOutageWhoseReasonChangesEndsWithALine has nodes recover while pods go on failing, for a reason that is too young
// to be logged.
func TestOutageWhoseReasonChangesEndsWithALine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		defer slog.SetDefault(slog.Default())
		slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
		var tracker Tracker
		timeout := &kube.Failure{Reason: kube.Timeout, Text: "no answer"}
		tracker.SetUnhealthy("pods", timeout, "")
		tracker.SetUnhealthy("nodes", timeout, "")
		time.Sleep(settle)
		tracker.SetUnhealthy("pods", &kube.Failure{Reason: kube.Content, Text: "cut off"}, "")
		tracker.SetHealthy("nodes")
		tracker.SetHealthy("pods")
		if !strings.Contains(log.String(), "everything works again") {
			t.Errorf("log:\n%s", log.String())
		}
	})
}

// A thing of which it was logged what is missing without it may say the same as a notice.
func TestNoticeAboutAThingThatDoesNotWorkIsNotLogged(t *testing.T) {
	log, b := logged(t), &Tracker{}
	b.SetUnhealthy("watch", failures["forbidden"], "owners are missing")
	b.SetNotice("watch", "owners are missing: forbidden")
	if got, want := log(), "INFO owners are missing reason=forbidden\n"; got != want {
		t.Errorf("logged %q, want %q", got, want)
	}
	if got := b.Notices(); len(got) != 1 || !strings.HasSuffix(got[0], ": owners are missing: forbidden") {
		t.Errorf("notices %q", got)
	}
	if got := b.Failures(); len(got) != 0 {
		t.Errorf("failures %q", got)
	}
	b.SetHealthy("watch")
	b.SetNotice("watch", "")
	if got, want := log(), "INFO watch works again\n"; got != want || len(b.Notices()) != 0 {
		t.Errorf("logged %q, want %q; notices %q", got, want, b.Notices())
	}
	b.SetNotice("watch", "a list is long")
	if got, want := log(), "WARN watch: a list is long\n"; got != want {
		t.Errorf("logged %q, want %q", got, want)
	}
}

func TestNoticesGoWithTheThingTheyAreAbout(t *testing.T) {
	var tracker Tracker
	for _, key := range []string{"pods (3)", "pods of namespace b (3)", "nodes (1)"} {
		tracker.SetNotice(key, "not served")
	}
	tracker.SetUnknown("pods", "nodes")
	if got := tracker.Notices(); len(got) != 1 || !strings.HasPrefix(got[0], "pods of namespace b (3): ") {
		t.Errorf("%q", got)
	}
}

func TestEachLineNamesItsCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, b := logged(t), &Tracker{Cluster: "eu"}
		b.SetUnhealthy("nodes", failures["forbidden"], "there are no nodes")
		b.SetUnhealthy("pods", failures["refused"], "")
		b.SetNotice("watch", "a list is long")
		time.Sleep(settle)
		b.SetUnhealthy("watch", failures["silent"], "")
		for _, line := range append(b.Failures(), b.Notices()...) {
			if !strings.HasSuffix(line, " (cluster eu)") {
				t.Error(line)
			}
		}
		b.SetHealthy("nodes")
		b.SetHealthy("pods")
		b.SetHealthy("watch")
		lines := log()
		for _, line := range strings.Split(strings.TrimSpace(lines), "\n") {
			if !strings.Contains(line, " (cluster eu)") {
				t.Error(line)
			}
		}
		if strings.Count(lines, "\n") != 5 {
			t.Error(lines)
		}
	})
}
