package usage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/store"
)

const maxAge = time.Minute

// trial is a list inside a synctest bubble. Its loop does not run: the test makes the attempts.
type trial struct {
	*List
	t        *testing.T
	registry selfmetrics.Registry
	health   health.Tracker
	logged   bytes.Buffer

	answer   func(*http.Request) (*http.Response, error)
	requests []string // paths with parameters
	visible  []string // samples as "pod container cpu"
	status   Status   // as it was shown last
	shown    int      // calls of Show
}

// try does something with a list of pods, or of what change makes of it, in a synctest bubble.
func try(t *testing.T, change func(*Options), do func(t *testing.T, l *trial)) {
	t.Helper()
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
	synctest.Test(t, func(t *testing.T) {
		l := &trial{t: t}
		slog.SetDefault(slog.New(slog.NewTextHandler(&l.logged, nil)))
		o := Options{Client: client(t, l), Resource: "pods",
			Self: l.registry.Scope(""), Health: &l.health,
			Joiner: sample.Joiner{MaxAge: maxAge, Escape: func(s string) string { return s }, Store: store.New[sample.Text](),
				Unknown: func(namespace, name string) sample.Text { return sample.Text{Head: namespace + "/" + name} }},
			Show: func(b *sample.Batch, s Status) {
				if l.shown, l.status = l.shown+1, s; b == nil {
					return
				}
				l.visible = nil
				for _, s := range b.Samples {
					l.visible = append(l.visible, fmt.Sprint(s.Pod.Value.Head, " ", b.Names[s.Name], " ", s.CPU))
				}
			}}
		if change != nil {
			change(&o)
		}
		l.List = New(o, l.registry.Scope(""))
		do(t, l)
	})
}

func nodes(o *Options) {
	o.Resource, o.Optional = "nodes", true
	o.Joiner = sample.Joiner{MaxAge: maxAge, Escape: func(s string) string { return s }}
}

// client is a client of metrics.k8s.io, as package kube makes it.
func client(t *testing.T, transport http.RoundTripper) rest.Interface {
	scheme, group := kruntime.NewScheme(), kube.Metrics
	metav1.AddToGroupVersion(scheme, kube.Core)
	config := &rest.Config{Host: "http://cluster", APIPath: "/apis", QPS: -1}
	config.GroupVersion, config.NegotiatedSerializer = &group, serializer.NewCodecFactory(scheme).WithoutConversion()
	c, err := rest.RESTClientForConfigAndClient(config, &http.Client{Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (l *trial) RoundTrip(r *http.Request) (*http.Response, error) {
	l.requests = append(l.requests, r.URL.RequestURI())
	return l.answer(r)
}

// attempt does what the loop does.
func (l *trial) attempt(late time.Duration) (pause time.Duration) {
	ctx, cancel := context.WithTimeout(l.t.Context(), 15*time.Second)
	defer cancel()
	a := refresh.Attempt{Began: time.Now(), Late: late}
	err := l.Loop.Read(ctx, a)
	return l.Loop.Publish(a, err)
}

// reads makes an attempt that is answered with these items.
func (l *trial) reads(items ...string) {
	l.t.Helper()
	l.answer = answers(200, fmt.Sprintf(`{"kind":%q,"apiVersion":"metrics.k8s.io/v1beta1","items":[%s]}`, l.Kind,
		strings.Join(items, ",")))
	l.attempt(0)
	if l.status.Failure != nil {
		l.t.Fatal(l.status.Failure)
	}
}

// fails makes an attempt that fails.
func (l *trial) fails(late time.Duration) {
	l.answer = breaks(syscall.ECONNREFUSED)
	l.attempt(late)
}

func answers(code int, body string, header ...string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		h := http.Header{"Content-Type": {"application/json"}}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	}
}

func breaks(err error) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

func hangs(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// pod is a PodMetrics of that age with a container c of one core.
func pod(name string, age time.Duration) string { return podOver(name, age, "15s") }

// podOver is one with the window that it was measured over.
func podOver(name string, age time.Duration, window string) string {
	return fmt.Sprintf(`{"metadata":{"namespace":"a","name":%q},"timestamp":%q,"window":%q,`+
		`"containers":[{"name":"c","usage":{"cpu":"1"}}]}`, name, time.Now().Add(-age).UTC().Format(time.RFC3339), window)
}

// page is the self metrics that begin with this.
func (l *trial) page(prefix string) (lines []string) {
	var text strings.Builder
	l.registry.Write(&text)
	for line := range strings.Lines(text.String()) {
		if line = strings.TrimPrefix(line, selfmetrics.Prefix); strings.HasPrefix(line, prefix) {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

// TestWhatExpiresIsNotCurrent has somebody ask between the moment when samples are too old and when those that are left
// are shown, which takes a while where there are many.
func TestWhatExpiresIsNotCurrent(t *testing.T) {
	try(t, nil, func(t *testing.T, l *trial) {
		o := l.Options
		o.Resource = "nodes"
		lists := []*List{l.List, New(o, new(selfmetrics.Registry).Scope(""))}
		for _, l := range lists {
			l.Loop.Pulse = refresh.NewPulse()
		}
		l.reads(pod("old", maxAge/2), pod("new", 0))
		before := l.status
		time.Sleep(maxAge/2 + time.Second)
		l.expire()
		var shown atomic.Pointer[Status]
		shown.Store(&before)
		var changed refresh.Broadcast
		time.AfterFunc(time.Second, func() {
			shown.Store(&l.status)
			changed.Send()
		})
		asked := time.Now()
		_, err := Current(t.Context(), lists, func(i int) Status {
			return []Status{*shown.Load(), {Refreshed: asked}}[i]
		}, &changed)
		if took := time.Since(asked); err != nil || took != time.Second {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

// TestWhatIsShown is what scrapes see after attempts of all kinds.
func TestWhatIsShown(t *testing.T) {
	young, old := 10*time.Second, 50*time.Second
	both := []string{"a/p c 1", "a/q c 1"}
	for name, c := range map[string]struct {
		then    func(l *trial) // after a list with the young a/p and the old a/q
		visible []string
		expires time.Duration // since that list; 0 for never
	}{
		"after a list, that": {func(*trial) {}, both, 10 * time.Second},
		"after the next, only that": {func(l *trial) { l.reads(pod("r", 0)) },
			[]string{"a/r c 1"}, maxAge},
		"after a failure, what was shown before": {func(l *trial) { l.fails(0) }, both, 10 * time.Second},
		"after a list that breaks off, the same": {func(l *trial) {
			l.answer = answers(200, `{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","items":[`+pod("s", 0)+`,`)
			l.attempt(0)
		}, both, 10 * time.Second},
		"after a failure that came late, nothing": {func(l *trial) { l.fails(time.Minute) }, nil, 0},
		"after that and one in time, still nothing": {func(l *trial) { l.fails(time.Minute); time.Sleep(old); l.fails(0) },
			nil, 0},
		"after that and a list, the list": {func(l *trial) { l.fails(time.Minute); l.reads(pod("r", 0)) },
			[]string{"a/r c 1"}, maxAge},
		"after a list that came late, that": {func(l *trial) { l.attempt(time.Minute) }, both, 10 * time.Second},
		"what has expired goes, the rest stays": {func(l *trial) { time.Sleep(10 * time.Second); l.Loop.Expire() },
			[]string{"a/p c 1"}, 50 * time.Second},
		"in time only": {func(l *trial) { time.Sleep(10*time.Second - 1); l.Loop.Expire() }, both, 10 * time.Second},
		"it does so while attempts fail": {func(l *trial) {
			l.fails(0)
			time.Sleep(10 * time.Second)
			l.Loop.Expire()
			if l.status.Failure == nil {
				l.t.Error("what has expired took the failure with it")
			}
		}, []string{"a/p c 1"}, 50 * time.Second},
		"when all has expired, nothing": {func(l *trial) { time.Sleep(50 * time.Second); l.Loop.Expire() }, nil, 0},
		"what has expired is never shown with a failure": {func(l *trial) { time.Sleep(10 * time.Second); l.fails(0) },
			[]string{"a/p c 1"}, 50 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			try(t, nil, func(t *testing.T, l *trial) {
				first := time.Now()
				show := l.Show
				l.Show = func(b *sample.Batch, s Status) {
					if show(b, s); s.Failure != nil && time.Since(first) >= 10*time.Second && slices.Contains(l.visible, both[1]) {
						t.Error("the failure is shown beside a sample that has expired")
					}
				}
				l.reads(pod("p", young), pod("q", old))
				c.then(l)
				if !slices.Equal(l.visible, c.visible) {
					t.Errorf("shown: %q, want %q", l.visible, c.visible)
				}
				expires := l.Loop.Expires()
				if c.expires == 0 && !expires.IsZero() || c.expires != 0 && expires.Sub(first) != c.expires {
					t.Errorf("expires %s after the list, want %s", expires.Sub(first), c.expires)
				}
			})
		})
	}
}

// TestStatus is what is known of a list after attempts of all kinds.
func TestStatus(t *testing.T) {
	forbidden := answers(403, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`)
	absent := func(o *Options) { nodes(o); o.Absent = true }
	waits := func(context.Context) error { return &kube.Failure{Reason: kube.Watch, Text: "not complete yet"} }
	unwatched := func(o *Options) { o.Ready = waits }
	works := func(l *trial) { l.reads() }
	fails := func(l *trial) { l.fails(0) }
	refused := func(l *trial) { l.answer = forbidden; l.attempt(0) }
	for name, c := range map[string]struct {
		of                        func(*Options)
		happens                   func(*trial)
		up                        string // "" for no sample
		tried, working, refreshed bool
		harms                     bool // the health
	}{
		"before the first attempt":          {nil, func(*trial) {}, "0", false, true, false, false},
		"a list":                            {nil, works, "1", true, true, true, false},
		"a failure":                         {nil, fails, "0", true, false, false, true},
		"a list, then a failure":            {nil, func(l *trial) { works(l); fails(l) }, "0", true, false, true, true},
		"a failure, then a list":            {nil, func(l *trial) { fails(l); works(l) }, "1", true, true, true, false},
		"pods that are forbidden":           {nil, refused, "0", true, false, false, true},
		"nodes that are forbidden":          {nodes, refused, "0", true, false, false, false},
		"nodes that fail":                   {nodes, fails, "0", true, false, false, true},
		"nodes that nobody may have":        {absent, refused, "", true, false, false, false},
		"nodes that nobody had to have":     {absent, works, "1", true, true, true, false},
		"nodes that fail where nobody must": {absent, fails, "0", true, false, false, true},
		"pods whose watch has just begun":   {unwatched, fails, "0", false, false, false, true},
		"pods whose watch begins anew": {nil, func(l *trial) { works(l); l.Ready = waits; fails(l) },
			"0", true, false, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			try(t, c.of, func(t *testing.T, l *trial) {
				c.happens(l)
				up := fmt.Sprintf("up{resource=%q} %s", l.Resource, c.up)
				if got := strings.Join(l.page("up{"), "\n"); got != up && (c.up != "" || got != "") {
					t.Errorf("%q, want %q", got, up)
				}
				if l.status.Tried() != c.tried || l.Working() != c.working {
					t.Errorf("tried is %t and working %t, want %t and %t", l.status.Tried(), l.Working(), c.tried, c.working)
				}
				if failures := l.health.Failures(); (len(failures) > 0) != c.harms {
					t.Errorf("health: %q, want failures: %t", failures, c.harms)
				}
				var refreshed []string
				if c.refreshed {
					refreshed = []string{fmt.Sprintf("last_refresh_timestamp_seconds{resource=%q} %d", l.Resource, time.Now().Unix())}
				}
				if got := l.page("last_refresh_"); !slices.Equal(got, refreshed) || l.status.Refreshed.IsZero() == c.refreshed {
					t.Errorf("%q, want %q", got, refreshed)
				}
			})
		})
	}
}

// TestGeneration tells what is shown from what was shown before, and nothing else.
func TestGeneration(t *testing.T) {
	try(t, nodes, func(t *testing.T, l *trial) {
		last := l.Generation()
		changes := func(what string, want bool) {
			t.Helper()
			l.Read(func(*sample.Batch) {
				if now := l.Generation(); (now != last) != want {
					t.Errorf("%s: from %d to %d, want another: %t", what, last, now, want)
				}
			})
			last = l.Generation()
		}
		l.reads()
		changes("a list", true)
		l.fails(0)
		changes("a failure", false)
		l.fails(time.Minute)
		changes("a failure that comes late", true)
		l.Loop.Expire()
		changes("what expires", true)
	})
}

func TestFailuresAreCountedByReason(t *testing.T) {
	for reason, c := range map[string]struct {
		ready  error
		answer func(*http.Request) (*http.Response, error)
		pause  time.Duration
	}{
		kube.Unauthorized: {nil, answers(401, ""), 0},
		kube.Forbidden:    {nil, answers(403, ""), 0},
		kube.NotFound:     {nil, answers(404, ""), 0},
		kube.Throttled:    {nil, answers(429, "", "Retry-After", "7"), 7 * time.Second},
		kube.Unavailable:  {nil, answers(503, ""), 0},
		kube.Network:      {nil, breaks(syscall.ECONNREFUSED), 0},
		kube.Timeout:      {nil, hangs, 0},
		kube.Content:      {nil, answers(200, "<html>"), 0},
		kube.Watch:        {&kube.Failure{Reason: kube.Watch, Text: "not complete yet"}, nil, 0},
	} {
		t.Run(reason, func(t *testing.T) {
			try(t, nil, func(t *testing.T, l *trial) {
				want := func(n int) (lines []string) {
					for _, r := range slices.Sorted(slices.Values(kube.Reasons)) {
						count := 0
						if r == reason {
							count = n
						}
						lines = append(lines, fmt.Sprintf("refresh_errors_total{resource=%q,reason=%q} %d", "pods", r, count))
					}
					return lines
				}
				if got := l.page("refresh_errors_total"); !slices.Equal(got, want(0)) {
					t.Errorf("before the first attempt: %q, want all, and 0", got)
				}
				if l.answer = c.answer; c.ready != nil {
					l.Ready = func(context.Context) error { return c.ready }
				}
				pauses := []time.Duration{l.attempt(0), l.attempt(0)}
				if got := l.page("refresh_errors_total"); !slices.Equal(got, want(2)) {
					t.Errorf("%q, want %q", got, want(2))
				}
				if pauses[0] != c.pause || pauses[1] != c.pause {
					t.Errorf("asks for pauses of %s, want %s", pauses, c.pause)
				}
				if failures := l.health.Failures(); len(failures) != 1 || !strings.HasPrefix(failures[0], "pods: failing") {
					t.Errorf("health: %q", failures)
				}
			})
		})
	}
}

func TestDroppedSamplesAreCountedByReason(t *testing.T) {
	try(t, nil, func(t *testing.T, l *trial) {
		counted := func(stale, invalid, duplicate int) {
			t.Helper()
			want := []string{fmt.Sprintf("samples_dropped_total{reason=%q} %d", sample.Duplicate, duplicate),
				fmt.Sprintf("samples_dropped_total{reason=%q} %d", sample.Invalid, invalid),
				fmt.Sprintf("samples_dropped_total{reason=%q} %d", sample.Stale, stale)}
			if got := l.page("samples_dropped_total"); !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		}
		counted(0, 0, 0) // each is there from the start
		list := []string{pod("old", maxAge), pod("older", time.Hour), podOver("p", 0, "0s"),
			pod("young", maxAge-time.Second), pod("q", 0), pod("q", 0)}
		l.reads(list...)
		counted(2, 1, 1)
		time.Sleep(time.Second)
		l.Loop.Expire() // the young one
		counted(3, 1, 1)
		l.fails(0)
		counted(3, 1, 1)
	})
}

// TestCPUReadingsAreCounted has a node away for a while, and longer than max-age.
func TestCPUReadingsAreCounted(t *testing.T) {
	counting := func(o *Options) {
		nodes(o)
		o.Joiner.Running = func(*store.Object[sample.Text], string) (uint64, int64, bool) { return 0, 0, true }
	}
	node := func(age time.Duration) string {
		return fmt.Sprintf(`{"metadata":{"name":"n"},"timestamp":%q,"window":"15s","usage":{"cpu":"1"}}`,
			time.Now().Add(-age).UTC().Format(time.RFC3339))
	}
	try(t, counting, func(t *testing.T, l *trial) {
		want := map[string]int{"added": 0, "filled": 0, "hole": 0, "invalid": 0, "older": 0, "predecessor": 0, "repeated": 0}
		counted := func(result, seconds string) {
			t.Helper()
			if result != "" {
				want[result]++
			}
			var lines []string
			for _, result := range slices.Sorted(maps.Keys(want)) {
				lines = append(lines, fmt.Sprintf("cpu_readings_total{result=%q} %d", result, want[result]))
			}
			lines = append(lines, "cpu_seconds_filled_total "+seconds)
			if got := l.page("cpu_"); !slices.Equal(got, lines) {
				t.Errorf("%q, want %q", got, lines)
			}
		}
		counted("", "0") // each is there from the start
		l.reads(node(0))
		counted("added", "0")
		l.reads(node(0))
		counted("repeated", "0")
		l.reads(node(time.Second))
		counted("older", "0")
		time.Sleep(40 * time.Second)
		l.fails(0)
		counted("", "0")
		l.reads(node(0))
		counted("filled", "25")
		time.Sleep(2 * maxAge)
		l.Loop.Expire()
		l.reads(node(0))
		counted("hole", "25")
		time.Sleep(15 * time.Second)
		l.reads(node(0))
		counted("added", "25")
	})
	try(t, nodes, func(t *testing.T, l *trial) {
		l.reads(node(0))
		if got := l.page("cpu_"); len(got) > 0 {
			t.Errorf("where nothing is counted there is %q", got)
		}
	})
}

// TestReadSeesWhatIsShown is Read after attempts of all kinds.
func TestReadSeesWhatIsShown(t *testing.T) {
	try(t, nil, func(t *testing.T, l *trial) {
		check := func(when string, want int) {
			t.Helper()
			l.Read(func(b *sample.Batch) {
				if len(b.Samples) != want || len(l.visible) != want {
					t.Errorf("%s: %d samples are read and %d shown, want %d", when, len(b.Samples), len(l.visible), want)
				}
			})
		}
		check("before the first list", 0)
		l.reads(pod("p", 0), pod("q", 50*time.Second))
		check("after a list", 2)
		l.fails(0)
		check("after a failure", 2)
		time.Sleep(10 * time.Second)
		l.Loop.Expire()
		check("when one has expired", 1)
		l.fails(time.Minute)
		check("after a failure that came late", 0)
		l.reads(pod("p", 0))
		check("after the next list", 1)
	})
}

// TestReadersSeeWholeBatches has slow readers while lists come and expire. Each list has samples of one value.
func TestReadersSeeWholeBatches(t *testing.T) {
	const pods, rounds = 50, 100
	counting := func(o *Options) {
		o.Joiner.Running = func(*store.Object[sample.Text], string) (uint64, int64, bool) { return 0, 0, true }
	}
	try(t, counting, func(t *testing.T, l *trial) {
		done := make(chan struct{})
		var readers sync.WaitGroup
		check := func(b *sample.Batch) {
			if n := len(b.Samples); n != 0 && n != pods && n != 2*pods || len(b.Seconds) != n {
				t.Errorf("%d samples, %d seconds", n, len(b.Seconds))
			}
			for _, s := range b.Samples {
				if runtime.Gosched(); s.CPU != b.Samples[0].CPU || b.Names[s.Name] != "c" {
					t.Errorf("%v cores of %s beside %v", s.CPU, b.Names[s.Name], b.Samples[0].CPU)
				}
			}
		}
		for range 2 {
			readers.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
						l.Read(check)
					}
				}
			})
		}
		for round := range rounds {
			var list []string
			for i := range pods {
				for age, name := range []string{"old", "young"} {
					list = append(list, strings.Replace(pod(fmt.Sprint(name, i), 50*time.Second-time.Duration(age)*30*time.Second),
						`"cpu":"1"`, fmt.Sprintf(`"cpu":"%d"`, round+1), 1))
				}
			}
			l.reads(list...)
			for _, age := range []time.Duration{30 * time.Second, 10 * time.Second} {
				runtime.Gosched()
				l.Joiner.MaxAge = age
				l.Loop.Expire()
			}
			l.Joiner.MaxAge = maxAge
		}
		close(done)
		readers.Wait()
	})
}

func TestRequest(t *testing.T) {
	unready := func(context.Context) error { return errors.New("not yet") }
	for name, c := range map[string]struct {
		of   func(*Options)
		want string // below the API; "" for no request
	}{
		"pods":                       {nil, "/pods"},
		"nodes":                      {nodes, "/nodes"},
		"pods of a namespace":        {func(o *Options) { o.Namespace = "a" }, "/namespaces/a/pods"},
		"pods that are selected":     {func(o *Options) { o.Selector = "a=b" }, "/pods?labelSelector=a%3Db"},
		"nothing before it is ready": {func(o *Options) { o.Ready = unready }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			try(t, c.of, func(t *testing.T, l *trial) {
				l.fails(0)
				got := strings.Join(l.requests, " ")
				if strings.TrimPrefix(got, "/apis/metrics.k8s.io/v1beta1") != c.want {
					t.Errorf("asks for %q, want %q", got, c.want)
				}
				took := l.page(fmt.Sprintf("refresh_duration_seconds_count{resource=%q} 1", l.Resource))
				if len(took) != 1 {
					t.Errorf("how long it took is not told: %q", l.page("refresh_duration_seconds"))
				}
			})
		})
	}
}

// TestWhatIsDroppedForAReasonThatLastsIsTold is faults 7 and 17: an adapter without a window, or one that joins several
// clusters, was seen by a counter alone. One list may have such samples by chance: two have not.
func TestWhatIsDroppedForAReasonThatLastsIsTold(t *testing.T) {
	created := metav1.ObjectMeta{Namespace: "a", Name: "p", ResourceVersion: "1", CreationTimestamp: metav1.Now()}
	for name, c := range map[string]struct {
		dropped func() []string
		tells   string // "" for nothing
	}{
		"CPU over no time (fault 7)": {func() []string { return []string{podOver("w", 0, "0s"), podOver("x", 0, "0s")} },
			`2 samples of pods are not served, such as of "a"/"w": they of CPU have no window`},
		"a pod that comes twice (fault 17)": {func() []string { return []string{pod("t", 0), pod("t", 0)} },
			`1 samples of pods are not served, such as of "a"/"t": they come twice in one list`},
		"old samples": {func() []string { return []string{pod("o", time.Hour)} },
			`1 samples of pods are not served, such as of "a"/"o": they have reached --max-age`},
		"pods that are gone": {func() []string { return []string{pod("gone", 0)} }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			try(t, nil, func(t *testing.T, l *trial) {
				gone := created
				gone.Name = "gone"
				l.Joiner.Store.Delete(store.NewEntry(&gone, gone.Name, sample.Text{}))
				step := func(what string, told bool, log int) {
					t.Helper()
					notices := l.health.Notices()
					if told = told && c.tells != ""; told != (len(notices) == 1) || told && !strings.Contains(notices[0], c.tells) {
						t.Errorf("%s: health has %q, want %t: %q", what, notices, told, c.tells)
					}
					if c.tells == "" {
						log = 0
					}
					if got := strings.Count(l.logged.String(), "samples of pods are not served"); got != log {
						t.Errorf("%s: logged %d times, want %d:\n%s", what, got, log, &l.logged)
					}
					if len(l.health.Failures()) > 0 && what != "a failure" {
						t.Errorf("%s: it harms the health: %q", what, l.health.Failures())
					}
				}
				l.reads(c.dropped()...)
				step("the first list", false, 0)
				l.reads(c.dropped()...)
				step("the second", true, 1)
				l.reads(append(c.dropped(), pod("another", 0))...)
				step("the third", true, 1)
				l.fails(0)
				step("a failure", true, 1)
				l.reads(pod("p", 0))
				step("a list without such samples", false, 1)
				l.reads(c.dropped()...)
				step("one with them", false, 1)
				l.reads(pod("p", 0))
				l.reads(c.dropped()...)
				step("every other one with them", false, 1)
				l.reads(c.dropped()...)
				step("two with them again", true, 2)
			})
		})
	}
}

// TestCausesAreToldEachByItself has two at a time.
func TestCausesAreToldEachByItself(t *testing.T) {
	try(t, nil, func(t *testing.T, l *trial) {
		for range 2 {
			l.reads(podOver("w", 0, "0s"), pod("o", time.Hour))
		}
		if notices := l.health.Notices(); len(notices) != 2 {
			t.Errorf("health has %q, want both", notices)
		}
		l.reads(pod("o", time.Hour))
		if notices := l.health.Notices(); len(notices) != 1 || !strings.Contains(notices[0], sample.TooOld.String()) {
			t.Errorf("health has %q, want the one that is left", notices)
		}
	})
}

// TestEachNamespaceByItself has two lists with one health and one registry.
func TestEachNamespaceByItself(t *testing.T) {
	try(t, func(o *Options) { o.Namespace = "a" }, func(t *testing.T, a *trial) {
		o := a.Options
		o.Namespace = "b"
		b := New(o, a.registry.Scope(""))
		for range 2 {
			a.reads(podOver("w", 0, "0s"))
		}
		a.answer = breaks(syscall.ECONNREFUSED) // of the client that both have
		b.Loop.Publish(refresh.Attempt{}, b.Loop.Read(t.Context(), refresh.Attempt{}))
		if got := a.health.Failures(); len(got) != 1 || !strings.HasPrefix(got[0], "pods of namespace b: failing since ") {
			t.Errorf("failures %q, want that of b", got)
		}
		if got := a.health.Notices(); len(got) != 1 || !strings.HasPrefix(got[0], "pods of namespace a (") {
			t.Errorf("notices %q, want that of a", got)
		}
		want := []string{`up{resource="pods",namespace="a"} 1`, `up{resource="pods",namespace="b"} 0`}
		if got := a.page("up{"); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		a.reads(pod("p", 0))
		if got := a.health.Failures(); len(got) != 1 {
			t.Errorf("failures %q after a list of a, want that of b", got)
		}
	})
}
