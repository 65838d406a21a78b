package fleet

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"metrics-server-prom/internal/family"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/pages"
	"metrics-server-prom/internal/refresh"
)

// cluster is one that works unless it has a failure.
type cluster struct {
	failure  string
	asked    atomic.Bool
	released []string
}

func (c *cluster) Current(context.Context, string) (s pages.Shown) {
	c.asked.Store(true)
	if c.failure != "" {
		s.Failed = errors.New(c.failure)
	}
	return s
}
func (c *cluster) Release(page string) { c.released = append(c.released, page) }
func (c *cluster) Why() string         { return c.failure }
func (c *cluster) HasData() bool       { return c.failure == "" }
func (c *cluster) State() (failures, notices []string) {
	if c.failure != "" {
		failures = []string{c.failure}
	}
	return failures, nil
}

func write(text string) func(io.Writer) { return func(w io.Writer) { io.WriteString(w, text) } }

// newFleet returns a fleet of clusters with these failures by name.
func newFleet(t *testing.T, several bool, failures map[string]string) *Fleet {
	f := &Fleet{Several: several, Families: family.Table{}, Names: []string{"", family.Cadvisor},
		Pulse: refresh.NewPulse(), Stopping: t.Context()}
	f.Begin(write("of_all 1\n"))
	for name, failure := range failures {
		f.Add(name, &cluster{failure: failure}, write("of_one 1\n"))
	}
	return f
}

// ask returns the status and the text of a page.
func ask(f *Fleet, path string, header ...string) (int, string) {
	answer := map[string]func(*View, http.ResponseWriter, *http.Request){
		"/metrics": func(v *View, w http.ResponseWriter, r *http.Request) { v.Metrics("", w, r) },
		"/off":     func(v *View, w http.ResponseWriter, r *http.Request) { v.Metrics(family.KubeState, w, r) },
		"/healthz": (*View).Healthz,
		"/ready":   (*View).Ready,
	}
	r, w := httptest.NewRequest("GET", path, nil), httptest.NewRecorder()
	r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "0.1")
	f.Asked(answer[r.URL.Path])(w, r)
	return w.Code, w.Body.String()
}

func TestAnswers(t *testing.T) {
	type answers map[string]struct {
		status int
		text   string
	}
	for name, c := range map[string]struct {
		several  bool
		failures map[string]string
		answers  answers
	}{
		"the only one works": {false, map[string]string{"": ""}, answers{
			"/metrics": {200, "of_all 1\n"}, "/metrics?cluster=eu": {200, "of_all 1\n"}, "/healthz": {200, "ok"},
			"/ready": {200, "ready\n"}, "/off": {404, "this page is off; --pages kube-state-metrics (PAGES) turns it on\n"}}},
		"the only one fails": {false, map[string]string{"": "is gone"}, answers{
			"/metrics": {503, "no data yet\nis gone\n"}, "/healthz": {503, "failed\nis gone\n"},
			"/ready": {503, "no data yet\n"}}},
		"one of several fails": {true, map[string]string{"us": "", "eu": "", "asia": "is gone"}, answers{
			"/metrics":              {200, "of_all 1\n# cluster asia is missing: is gone\n"},
			"/metrics?cluster=eu":   {200, "of_one 1\n"},
			"/metrics?cluster=asia": {503, "no data yet\nis gone\n"},
			"/metrics?cluster=x":    {404, "there is no cluster \"x\"; there are: asia, eu, us\n"},
			"/healthz":              {503, "failed\nis gone\n"}, "/healthz?cluster=us": {200, "ok"},
			"/ready": {200, "ready\n"}, "/ready?cluster=asia": {503, "no data yet\n"}}},
		"all of several fail": {true, map[string]string{"us": "is gone", "eu": "refuses"}, answers{
			"/metrics": {503, "no data yet\nrefuses\nis gone\n"}, "/ready": {503, "no data yet\n"}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, c.several, c.failures)
			for path, want := range c.answers {
				if status, text := ask(f, path); status != want.status || text != want.text {
					t.Errorf("%s: %d %q, want %d %q", path, status, text, want.status, want.text)
				}
			}
		})
	}
}

func TestClustersComeAndGo(t *testing.T) {
	f := newFleet(t, true, map[string]string{"eu": "", "us": "is gone"})
	before := names(f.present())
	asia := &cluster{}
	f.Add("asia", asia, write(""))
	if want := []string{"asia", "eu", "us"}; !reflect.DeepEqual(names(f.present()), want) || len(before) != 2 ||
		f.All()[0] != Cluster(asia) {
		t.Errorf("%q, want %q", names(f.present()), want)
	}
	view := f.member("asia").view
	for name, want := range map[string]int{"": 1, "us": 1, "asia": 0, "x": 0} {
		if failures, _ := f.StateOf(name); len(failures) != want {
			t.Errorf("%q: %q", name, failures)
		}
	}
	f.Pages[""].Release()
	view.Pages[family.Cadvisor].Release()
	if want := []string{"", family.Cadvisor}; !reflect.DeepEqual(asia.released, want) {
		t.Errorf("%q was released, want %q", asia.released, want)
	}
	f.Remove("us")
	f.Replaced("us", true) // of which something was under way
	if _, text := ask(f, "/metrics"); text != "of_all 1\n" {
		t.Errorf("%q", text)
	}
	f.Health.SetUnhealthy("clusters", &kube.Failure{Text: "cannot read"}, "")
	if status, _ := ask(f, "/healthz"); status != http.StatusServiceUnavailable {
		t.Errorf("status %d", status)
	}
	if status, text := ask(f, "/healthz?cluster=eu"); status != http.StatusOK {
		t.Errorf("status %d of a cluster: %s", status, text)
	}
}

// TestWaitsForWhatIsAskedFor: for the cluster, for all, and for nothing where there is no such cluster.
func TestWaitsForWhatIsAskedFor(t *testing.T) {
	for name, c := range map[string]struct {
		several  bool
		failures map[string]string
		cluster  string
		want     []bool // whether that is asked which the i-th has
	}{
		"one of several":  {true, map[string]string{"eu": "", "us": ""}, "us", []bool{false, true}},
		"all of several":  {true, map[string]string{"eu": "", "us": ""}, "", []bool{true, true}},
		"none of several": {true, map[string]string{"eu": "", "us": ""}, "x", []bool{false, false}},
		"the only one":    {false, map[string]string{"": ""}, "", []bool{true}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, c.several, c.failures)
			f.Wait(t.Context(), c.cluster)
			var asked []bool
			for _, c := range f.All() {
				asked = append(asked, c.(*cluster).asked.Load())
			}
			if !reflect.DeepEqual(asked, c.want) {
				t.Errorf("%v, want %v", asked, c.want)
			}
		})
	}
}

// TestAScrapeMeetsAClusterThatComes waits for any cluster when the first one comes.
func TestAScrapeMeetsAClusterThatComes(t *testing.T) {
	f := newFleet(t, true, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go f.Add("eu", &cluster{}, write(""))
	page, err := f.Page(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if page.WriteText(&text); text.String() != "of_all 1\n" {
		t.Error(text.String())
	}
}

// TestOneThatGoesIsNotAnsweredWithAll has a cluster come and go while it is asked for.
func TestOneThatGoesIsNotAnsweredWithAll(t *testing.T) {
	f := newFleet(t, true, map[string]string{"us": ""})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2000 {
			f.Add("eu", &cluster{}, write("of_one 1\n"))
			f.Remove("eu")
		}
	}()
	for {
		select {
		case <-done:
			return
		default:
			if _, text := ask(f, "/metrics?cluster=eu"); strings.Contains(text, "of_all") {
				t.Fatalf("it is answered with all: %q", text)
			}
		}
	}
}
