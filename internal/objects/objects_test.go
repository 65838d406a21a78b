package objects

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/state"
	"metrics-server-prom/internal/store"
)

// TestMain keeps client-go quiet, as the program does.
func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	// They keep the moment of the last error of the whole process, which in a synctest bubble is of another clock.
	utilruntime.ErrorHandlers = nil
	os.Exit(m.Run())
}

// api is an API server of pods inside a synctest bubble. It lists, and its watches say nothing.
type api struct {
	mu      sync.Mutex
	pods    map[string][]string       // names by namespace
	answers map[string]int            // the status by namespace: below 400 all works, below 0 nothing is answered
	watches map[string]*io.PipeWriter // by namespace
}

func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	namespace := ""
	if path := strings.Split(r.URL.Path, "/"); path[3] == "namespaces" { // /api/v1/namespaces/NAMESPACE/pods
		namespace = path[4]
	}
	a.mu.Lock()
	code := a.answers[namespace]
	a.mu.Unlock()
	if code < 0 {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case code >= 400:
		return answer(code, metav1.Status{Status: metav1.StatusFailure, Code: int32(code)}), nil
	case r.URL.Query().Get("sendInitialEvents") != "": // as a server that does not know it
		return answer(422, metav1.Status{Status: metav1.StatusFailure, Code: 422, Reason: metav1.StatusReasonInvalid}), nil
	case r.URL.Query().Get("watch") != "":
		body, w := io.Pipe()
		a.watches[namespace] = w
		context.AfterFunc(r.Context(), func() { w.CloseWithError(r.Context().Err()) })
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: body}, nil
	}
	var items []metav1.PartialObjectMetadata
	for in, names := range a.pods {
		for _, name := range names {
			if namespace == "" || namespace == in {
				items = append(items, metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
					Namespace: in, Name: name, ResourceVersion: "1"}})
			}
		}
	}
	return answer(200, metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"},
		ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: items}), nil
}

func answer(code int, object any) *http.Response {
	body, _ := json.Marshal(object)
	return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(bytes.NewReader(body))}
}

// become has the server answer so from now on to what is asked of a namespace, and ends its watch.
func (a *api) become(namespace string, code int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[namespace] = code
	if w := a.watches[namespace]; w != nil {
		w.Close()
	}
}

const maxAge = 5 * time.Minute

// newSource returns a source of the server's pods. What is kept of a pod is its name.
func newSource(tb testing.TB, server *api, o Options[string], namespaces ...string) *Source[string] {
	if server.answers == nil {
		server.answers = map[string]int{}
	}
	server.watches = map[string]*io.PipeWriter{}
	scheme, v1 := runtime.NewScheme(), schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(scheme, v1)
	config := &rest.Config{Host: "http://cluster", APIPath: "/api", QPS: -1}
	config.GroupVersion, config.NegotiatedSerializer = &v1, serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientForConfigAndClient(config, &http.Client{Transport: server})
	if err != nil {
		tb.Fatal(err)
	}
	o.Client, o.Resource, o.Namespaces, o.MaxAge = client, "pods", namespaces, maxAge
	o.New, o.Changed = func() slim.Object { return &slim.Pod{} }, func(string) {}
	o.Keep = func(o slim.Object) store.Entry[string] { return store.NewEntry(o, o.GetName(), o.GetName()) }
	o.Pulse, o.Health, o.Self = refresh.NewPulse(), &health.Tracker{}, new(selfmetrics.Registry).Scope("")
	return New(o)
}

// running is a source of pods, and what it is of.
type running struct {
	*Source[string]
	*api
	freeze func() // from then on the process stands still wherever time passes
}

// run has do use a source of pods inside a synctest bubble.
func run(t *testing.T, optional string, namespaces []string, server *api, do func(t *testing.T, r running)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := Options[string]{LeafLen: 4, Render: render}
		o.Optional = optional
		s := newSource(t, server, o, namespaces...)
		ctx, stop := context.WithCancel(t.Context())
		beating, freeze := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { s.Watch.Pulse.Run(beating) })
		wg.Go(func() { s.Watch.Run(ctx) })
		synctest.Wait()
		do(t, running{s, server, freeze})
		stop()
		wg.Wait()
	})
}

// render has two families: one of all pods, and one of those of which something but the name is kept.
func render(c *page.Compressor, entries []store.Entry[string]) []*page.Part {
	for _, e := range entries {
		fmt.Fprintf(c, " %s/%s", e.Namespace, e.Name)
	}
	parts := []*page.Part{c.Part()}
	for _, e := range entries {
		if e.Value != e.Name {
			fmt.Fprintf(c, " %s", e.Value)
		}
	}
	return append(parts, c.Part())
}

// show is the text of parts: "| a/p b/q | changed".
func show(parts [][]*page.Part) string {
	var text strings.Builder
	for _, family := range parts {
		text.WriteString(" |")
		page.New(family...).WriteText(&text)
	}
	return text.String()[1:]
}

// names are n names in their order.
func names(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("p%02d", i))
	}
	return names
}

// change is what a watch brings.
func change(name, value string) store.Entry[string] {
	return store.NewEntry(&metav1.ObjectMeta{Namespace: "a", Name: name, ResourceVersion: "2"}, name, value)
}

// TestOnlyWhatHasChangedIsRendered is of 40 pods in 10 leaves.
func TestOnlyWhatHasChangedIsRendered(t *testing.T) {
	all := names(40)
	server := &api{pods: map[string][]string{"a": all}}
	run(t, "", []string{""}, server, func(t *testing.T, r running) {
		want := all
		for _, step := range []struct {
			what    string
			do      func()
			leaves  int64 // to be rendered
			second  string
			without string // the name that is gone
		}{
			{"the first time", func() {}, 10, "", ""},
			{"nothing has changed", func() {}, 0, "", ""},
			{"the value of one", func() { r.Store.Put(change("p10", "ten")) }, 1, " ten", ""},
			{"two of one leaf", func() {
				r.Store.Put(change("p20", "twenty"))
				r.Store.Put(change("p21", "and one"))
			}, 1, " ten twenty and one", ""},
			{"a version alone", func() { r.Store.Put(change("p20", "twenty")) }, 0, " ten twenty and one", ""},
			{"one is gone", func() { r.Store.Delete(change("p05", "")) }, 1, " ten twenty and one", "p05"},
			{"the memory was given back", r.Release, 10, " ten twenty and one", ""},
			{"all as at first, by a list", func() {
				r.Watch.Resync()
				r.Ready(t.Context())
			}, 3, "", ""}, // of p05, p10 and p20
			{"the same list", func() {
				r.Watch.Resync()
				r.Ready(t.Context())
			}, 0, "", ""},
		} {
			before, last := r.Rendered(), r.parts
			step.do()
			parts := r.Parts()
			if n := r.Rendered() - before; n != step.leaves {
				t.Errorf("%s: %d leaves rendered, want %d", step.what, n, step.leaves)
			}
			if same := last != nil && &parts[0] == &last[0]; same != (step.leaves == 0) {
				t.Errorf("%s: the slice is the same: %t", step.what, same)
			}
			if step.without != "" {
				want = slices.DeleteFunc(slices.Clone(all), func(name string) bool { return name == step.without })
			} else if step.what == "all as at first, by a list" {
				want = all
			}
			if got, want := show(parts), "| a/"+strings.Join(want, " a/")+" |"+step.second; got != want {
				t.Errorf("%s: %s, want %s", step.what, got, want)
			}
		}
	})
}

func reason(err error) string {
	var failure *kube.Failure
	if errors.As(err, &failure) {
		return failure.Reason
	}
	return ""
}

func TestAnEmptyResourceHasNoPartOfAnyFamily(t *testing.T) {
	run(t, "", []string{""}, &api{}, func(t *testing.T, r running) {
		if parts := r.Parts(); show(parts) != "| |" || len(parts[0])+len(parts[1]) != 0 {
			t.Errorf("parts %v", parts)
		}
	})
}

// TestReady is of two namespaces, of which a always works, and of b alone: only of that can it fail.
func TestReady(t *testing.T) {
	const both, one = "| a/p b/q |", "| a/p |"
	become := func(code int, then time.Duration) func(r running) {
		return func(r running) {
			r.become("b", code)
			time.Sleep(then)
		}
	}
	for name, c := range map[string]struct {
		first int // answers for b from the start
		then  func(r running)
		fails string // where the resource is needed and there is b alone; "" for not
		needs string // what is shown where it is needed and does not fail
		shown string // where it is optional
	}{
		"listed":                            {200, func(running) {}, "", both, both},
		"forbidden":                         {403, func(running) {}, "forbidden", "", one},
		"a resource that the server lacks":  {404, func(running) {}, "not_found", "", one},
		"a server that fails":               {500, func(running) {}, "unavailable", "", one},
		"fails since a minute":              {200, become(500, time.Minute), "", both, both},
		"fails for longer than max-age":     {200, become(500, maxAge+time.Minute), "unavailable", "", one},
		"forbidden since a minute":          {200, become(403, time.Minute), "", both, one},
		"forbidden for longer than max-age": {200, become(403, maxAge+time.Minute), "forbidden", "", one},
		"forbidden and allowed again": {200, func(r running) {
			become(403, time.Minute)(r)
			r.Parts()
			become(200, 2*time.Minute)(r)
		}, "", both, both},
	} {
		for _, of := range []struct {
			optional   string
			namespaces []string
		}{{"", []string{"a", "b"}}, {"nothing is missing", []string{"a", "b"}}, {"", []string{"b"}},
			{"nothing is missing", []string{"b"}}} {
			t.Run(fmt.Sprintf("%s, %s, optional %t", name, of.namespaces, of.optional != ""), func(t *testing.T) {
				server := &api{pods: map[string][]string{"a": {"p"}, "b": {"q"}}, answers: map[string]int{"b": c.first}}
				run(t, of.optional, of.namespaces, server, func(t *testing.T, r running) {
					if c.first == 200 {
						r.Ready(t.Context())
						r.Parts()
					}
					c.then(r)
					began := time.Now()
					err := r.Ready(t.Context())
					if waited := time.Since(began); waited != 0 {
						t.Errorf("waited for %s", waited)
					}
					want, fails := c.shown, ""
					if of.optional == "" {
						want, fails = c.needs, c.fails
					}
					if len(of.namespaces) == 2 {
						want, fails = cmp.Or(want, one), ""
					} else {
						want = strings.Replace(want, " a/p", "", 1)
					}
					if got := reason(err); got != fails {
						t.Errorf("it fails for %q, want %q: %v", got, fails, err)
					}
					got := show(r.Parts())
					if fails == "" && got != want {
						t.Errorf("shown %s, want %s", got, want)
					}
					r.checkFound(t, got)
				})
			})
		}
	}
}

// checkFound asks for the objects one by one: those that are shown are found, and no others.
func (r running) checkFound(t *testing.T, shown string) {
	t.Helper()
	all := Others{{Source: r.Source}}
	for namespace, names := range r.pods {
		for _, name := range names {
			_, _, known := all.get(func(*state.Resource) bool { return true }, namespace, name)
			if is := strings.Contains(shown, " "+namespace+"/"+name+" "); known != is {
				t.Errorf("%s/%s is found: %t, shown: %t", namespace, name, known, is)
			}
		}
	}
}

func TestWhatIsMissingOfTheWholeClusterIsNotFound(t *testing.T) {
	server := &api{pods: map[string][]string{"": {"n"}}}
	run(t, "nothing is missing", []string{""}, server, func(t *testing.T, r running) {
		r.checkFound(t, "| /n |")
		r.become("", 403)
		time.Sleep(time.Minute)
		r.checkFound(t, "| |")
		r.become("", 200)
		time.Sleep(2 * time.Minute)
		r.checkFound(t, "| /n |")
	})
}

// TestReadyWaitsForTheList of a namespace at the first time, and again after the process has stood still.
func TestReadyWaitsForTheList(t *testing.T) {
	for _, optional := range []string{"", "nothing is missing"} {
		server := &api{pods: map[string][]string{"a": {"p"}, "b": {"q"}}, answers: map[string]int{"b": -1}}
		run(t, optional, []string{"a", "b"}, server, func(t *testing.T, r running) {
			wait := func(waits time.Duration, want, shown string) {
				t.Helper()
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if err := r.Ready(ctx); reason(err) != want || time.Since(began) != waits {
					t.Errorf("ready after %s: %v, want %q after %s", time.Since(began), err, want, waits)
				}
				if got := show(r.Parts()); got != shown {
					t.Errorf("shown %s, want %s", got, shown)
				}
			}
			wait(10*time.Second, "", "| a/p |")
			r.become("b", 200)
			time.Sleep(time.Minute) // the request that got no answer is cut off, and another one follows
			wait(0, "", "| a/p b/q |")

			r.freeze()
			time.Sleep(10 * time.Second)
			r.become("a", -1)
			r.become("b", -1)
			r.api.mu.Lock()
			r.api.pods["a"] = []string{"new"}
			r.api.mu.Unlock()
			wait(10*time.Second, kube.Watch, "| |")
			r.become("a", 200)
			r.become("b", 200)
			time.Sleep(time.Minute)
			wait(0, "", "| a/new b/q |")
		})
	}
}

// renderMany has 15 families of samples as long as those of pods, whose values change with what is kept of a pod.
func renderMany(c *page.Compressor, entries []store.Entry[string]) (parts []*page.Part) {
	var name []byte
	for family := range 15 {
		for _, e := range entries {
			name = fmt.Appendf(name[:0], "kube_pod_container_family_%d{namespace=%q,pod=%q,uid=%q,container=\"app\","+
				"reason=%q}", family, e.Namespace, e.Name, e.Value, e.Value[family:family+2])
			selfmetrics.WriteSample(c, string(name), float64(e.Value[family]))
		}
		parts = append(parts, c.Part())
	}
	return parts
}

// BenchmarkParts measures what a scrape of 150,000 pods costs if 1 % of them change in a minute, anywhere, and there
// are four scrapes in it: in CPU time and in leaves, as a share of what rendering all of them takes.
func BenchmarkParts(b *testing.B) {
	const size = 150_000
	pod := func(i, version int) store.Entry[string] {
		r := rand.New(rand.NewSource(int64(i + version)))
		name := fmt.Sprintf("checkout-%x-%05x", i/50*7919, i)
		uid := fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", r.Uint32(), r.Intn(1<<16), r.Intn(1<<12), r.Intn(1<<16),
			r.Int63n(1<<48))
		return store.NewEntry(&metav1.ObjectMeta{Namespace: fmt.Sprint("team-", i%100), Name: name,
			ResourceVersion: fmt.Sprint(version)}, name, uid)
	}
	cpu := func() time.Duration {
		var u syscall.Rusage
		syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	for _, leafLen := range []int{32, 64, 128, 16 << 10} {
		b.Run(fmt.Sprint("leaf=", leafLen), func(b *testing.B) {
			s := newSource(b, &api{}, Options[string]{LeafLen: leafLen, Render: renderMany}, "")
			go s.Watch.Run(b.Context())
			if err := s.Ready(b.Context()); err != nil {
				b.Fatal(err)
			}
			list := make([]store.Entry[string], size)
			for i := range list {
				list[i] = pod(i, 1)
			}
			s.Store.Replace("", list)
			began := cpu()
			s.Parts()
			whole, leaves := cpu()-began, s.Rendered()
			length := page.New(slices.Concat(s.Parts()...)...).GzipLen()
			r, spent := rand.New(rand.NewSource(1)), time.Duration(0)
			for version := 2; b.Loop(); version++ {
				for range size / 100 / 4 {
					s.Store.Put(pod(r.Intn(size), version))
				}
				began := cpu()
				s.Parts()
				spent += cpu() - began
			}
			b.ReportMetric(whole.Seconds(), "s-whole")
			b.ReportMetric(float64(length)/size/15, "bytes/sample")
			b.ReportMetric(spent.Seconds()/float64(b.N)/whole.Seconds(), "cpu-share")
			b.ReportMetric(float64(s.Rendered()-leaves)/float64(b.N)/float64(leaves), "leaf-share")
		})
	}
}
