package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"

	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/scope"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/serve"
)

// member is one of several clusters.
type member struct {
	*cluster
	api  *apiServer
	stop func() // ends its connection, and returns when that has ended
}

// team is a server of several clusters inside a synctest bubble. Of it, the pulse runs.
type team struct {
	*server
	t       *testing.T
	members map[string]*member
	ctx     context.Context
	pulse   context.CancelFunc
	running sync.WaitGroup
}

func inTeam(t *testing.T, set scope.Settings, names []string, do func(t *testing.T, b *team)) {
	t.Helper()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // see inBubble
	synctest.Test(t, func(t *testing.T) {
		set.AllContexts, set.RefreshInterval, set.MaxAge = true, 15*time.Second, 5*time.Minute
		b := &team{t: t, members: map[string]*member{},
			server: newServer(&settings{Settings: set, web: serve.Settings{TelemetryPath: "/metrics"}})}
		var stop context.CancelFunc
		b.ctx, stop = context.WithCancel(t.Context())
		b.unfreeze()
		for _, name := range names {
			b.come(name)
		}
		do(t, b)
		stop()
		b.running.Wait()
		for _, c := range b.all() {
			b.drop(c)
		}
		b.server.pages.Close()
	})
}

func (b *team) unfreeze() {
	var pulse context.Context
	pulse, b.pulse = context.WithCancel(b.ctx)
	b.running.Go(func() { b.server.pulse.Run(pulse) })
}

// come adds a cluster, which nothing is read of yet.
func (b *team) come(name string) *member {
	m := &member{b.open(name), &apiServer{began: time.Now(), answers: map[string]answerer{}, have: map[string][]any{},
		stamp: func(now time.Time) time.Time { return now }}, func() {}}
	b.members[name] = m
	return m
}

// begin connects to the clusters.
func (b *team) begin(names ...string) {
	for _, name := range names {
		m, ended := b.members[name], make(chan struct{})
		ctx, stop := context.WithCancel(b.ctx)
		m.stop = func() { stop(); <-ended }
		b.running.Go(func() { m.source().Run(ctx, m.api.client); close(ended) })
	}
}

// has gives a cluster pods with these names.
func (m *member) has(names ...string) {
	m.api.mu.Lock()
	defer m.api.mu.Unlock()
	m.api.have[pods] = nil
	for _, name := range names {
		p := corev1.Pod{TypeMeta: typeOf(pods), Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		p.Namespace, p.Name, p.ResourceVersion, p.UID = "a", name, "1", "u"
		p.Spec.NodeName = "n"
		p.Spec.Containers = []corev1.Container{{Name: "c", Image: "c:1"}}
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: quantity.MustParse("1")}
		m.api.have[pods] = append(m.api.have[pods], p)
	}
}

// ask gets a page: its status and text, and how long that took.
func (b *team) ask(path string) (status int, text string, took time.Duration) {
	b.t.Helper()
	began := time.Now()
	resp := get(b.t, b.server, path, "X-Prometheus-Scrape-Timeout-Seconds", "10")
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(body), time.Since(began)
}

var labelOfCluster = regexp.MustCompile(`cluster="((?:[^"\\]|\\.)*)"} `)

// short is a page without the exporter's metrics of itself.
func short(text string) string {
	var lines strings.Builder
	for line := range strings.Lines(text) {
		if name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "); !strings.HasPrefix(name, "go_") &&
			!strings.HasPrefix(name, "process_") && !strings.HasPrefix(name, selfmetrics.Prefix) {
			lines.WriteString(line)
		}
	}
	return lines.String()
}

// byCluster counts a page's samples by their last label, "" for none, and checks that no family comes twice.
func (b *team) byCluster(text string) map[string]int {
	b.t.Helper()
	all, seen := map[string]int{}, map[string]bool{}
	for line := range strings.Lines(text) {
		if kind, found := strings.CutPrefix(line, "# TYPE "); found {
			if seen[kind] {
				b.t.Errorf("a second time: %s", line)
			}
			seen[kind] = true
		}
		if line[0] == '#' {
			continue
		}
		label := labelOfCluster.FindStringSubmatch(line)
		if label == nil {
			label = []string{"", ""}
		}
		if seen[line] {
			b.t.Errorf("a second time: %s", line)
		}
		seen[line] = true
		all[label[1]]++
	}
	return all
}

// TestSeveralClustersOnOnePage has each page with and without a cluster that is asked for.
func TestSeveralClustersOnOnePage(t *testing.T) {
	set := scope.Settings{Pages: furtherPages}
	inTeam(t, set, []string{"us", "eu", `q"\`}, func(t *testing.T, b *team) {
		for _, m := range b.members {
			m.has("p")
		}
		b.members["eu"].has("p", "p2", "p3")
		b.begin("us", "eu", `q"\`)
		synctest.Wait()
		time.Sleep(time.Second)
		for _, page := range append([]string{""}, furtherPages...) {
			at := path.Join("/metrics", page)
			_, whole, took := b.ask(at)
			if all := b.byCluster(whole); took > 0 || strings.Contains(whole, "missing") ||
				(all[""] > 0) != (page == "") || len(all) != map[bool]int{true: 4, false: 3}[page == ""] {
				t.Errorf("%s after %s: %v\n%s", at, took, all, short(whole))
			}
			var parts []string
			for query, name := range map[string]string{"us": "us", "eu": "eu", "q%22%5C": `q\"\\`} {
				status, own, _ := b.ask(at + "?cluster=" + query)
				if all := b.byCluster(own); status != http.StatusOK || len(all) != 1 || all[name] < 5 {
					t.Errorf("%s of %s: %d %v\n%s", at, name, status, all, short(own))
				}
				if n := strings.Count(own, "pod_info{"); page == kubeState && n != map[bool]int{true: 3, false: 1}[name == "eu"] {
					t.Errorf("%d pods of %s:\n%s", n, name, short(own))
				}
				parts = append(parts, samples(own))
			}
			lines := func(s string) []string { return slices.Sorted(strings.Lines(s)) }
			ofClusters := slices.DeleteFunc(lines(samples(whole)), func(line string) bool {
				return !strings.Contains(line, "cluster=")
			})
			if got := lines(strings.Join(parts, "")); !slices.Equal(got, ofClusters) {
				t.Errorf("%s is not the sum of its clusters:\n%s", at, diff(got, ofClusters))
			}
		}
		// With one cluster all is as if there were no others, but for the label.
		inCluster := labelOfCluster.ReplaceAllString(samples(b.text("/metrics?cluster=us")), "} ")
		if got := strings.Count(inCluster, "{} "); got == 0 || strings.Contains(inCluster, "cluster") {
			t.Errorf("the label is not the last one:\n%s", short(inCluster))
		}
	})
}

func (b *team) text(at string) string {
	b.t.Helper()
	status, text, _ := b.ask(at)
	if status != http.StatusOK {
		b.t.Errorf("%s: status %d: %s", at, status, text)
	}
	return text
}

func diff(a, b []string) string {
	var text strings.Builder
	for _, line := range a {
		if !slices.Contains(b, line) {
			text.WriteString("- " + line)
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			text.WriteString("+ " + line)
		}
	}
	return text.String()
}

func TestClustersThatAreAskedFor(t *testing.T) {
	inTeam(t, scope.Settings{Pages: furtherPages, Top: true}, []string{"us", "eu"}, func(t *testing.T, b *team) {
		b.begin("us", "eu")
		synctest.Wait()
		for _, page := range []string{"/metrics", "/metrics/cadvisor", "/metrics/kube-state-metrics", "/healthz", "/-/ready",
			"/", "/top.json"} {
			for query, want := range map[string]int{"": 200, "?cluster=eu": 200, "?cluster=": 200, "?cluster=asia": 404,
				"?cluster=EU": 404} {
				status, text, _ := b.ask(page + query)
				if status != want || want == 404 && !strings.Contains(text, "there are: eu, us") {
					t.Errorf("%s%s: %d %s", page, query, status, text)
				}
			}
		}
		r := get(t, b.server, "http://exporter:9100/sd")
		var got []struct {
			Targets []string
			Labels  map[string]string
		}
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &got); err != nil || r.Header.Get("Content-Type") != "application/json" ||
			fmt.Sprint(got) != "[{[exporter:9100] map[__param_cluster:eu cluster:eu]} "+
				"{[exporter:9100] map[__param_cluster:us cluster:us]}]" {
			t.Errorf("%v %v: %s", err, r.Header, body)
		}
	})
	inBubble(t, scope.Settings{}, func(t *testing.T, b *bubble) {
		b.begin(b.run)
		synctest.Wait()
		if status := get(t, b.server, "/sd").StatusCode; status != http.StatusNotFound {
			t.Errorf("/sd of one cluster: status %d", status)
		}
		if status := get(t, b.server, "/metrics?cluster=x").StatusCode; status != http.StatusOK {
			t.Errorf("one cluster has no names, and yet status %d", status)
		}
		if _, page, _ := b.scrape(); strings.Contains(page, "cluster=") {
			t.Errorf("one cluster has a label:\n%s", page)
		}
	})
}

// TestAClusterThatDoesNotWorkTakesNothingFromTheOthers has it fail in each way that there is.
func TestAClusterThatDoesNotWorkTakesNothingFromTheOthers(t *testing.T) {
	requests := func(as answerer, all ...string) map[string]answerer {
		answers := map[string]answerer{}
		for _, request := range all {
			answers[request] = as
		}
		return answers
	}
	for name, answers := range map[string]map[string]answerer{
		"it is not connected to": nil,
		"all is refused":         requests(forbids, "list nodes", "list pods", "watch pods", "page pods"),
		"usage hangs":            requests(hangs, "list nodes", "list pods"),
		"usage gets stuck":       requests(hangsLater, "list nodes", "list pods"),
		"its pods hang":          requests(hangs, "watch pods", "page pods"),
		"its pods are refused":   requests(forbids, "watch pods", "page pods"),
		"it is gone":             requests(breaks, "list nodes", "list pods", "watch pods", "page pods"),
	} {
		t.Run(name+" at a start", func(t *testing.T) {
			inTeam(t, scope.Settings{Pages: furtherPages}, []string{"eu", "us", "bad"}, func(t *testing.T, b *team) {
				for request, as := range answers {
					b.members["bad"].api.answer(request, as)
				}
				if b.begin("eu", "us"); answers != nil {
					b.begin("bad")
				}
				synctest.Wait()
				for range 20 {
					for _, page := range append([]string{""}, furtherPages...) {
						status, text, took := b.ask(path.Join("/metrics", page))
						all := b.byCluster(short(text))
						if status != http.StatusOK || took > 0 || all["eu"] != all["us"] || all["eu"] == 0 {
							t.Errorf("%q after %s: %d %v\n%s", page, took, status, all, short(text))
						}
						// Where its pods cannot be watched, its nodes are there.
						missing := strings.Contains(text, "\n# cluster bad is missing: ")
						if missing != (all["bad"] == 0) || page == "" && !missing && all["bad"] != 4 {
							t.Errorf("%q says that a cluster is missing: %t\n%s", page, missing, short(text))
						}
						if status, text, _ := b.ask(path.Join("/metrics", page) + "?cluster=bad"); page == "" &&
							(status == http.StatusServiceUnavailable) != missing || missing && !strings.Contains(text, " (cluster bad)\n") {
							t.Errorf("its own page: %d %s", status, short(text))
						}
						if _, _, took := b.ask(path.Join("/metrics", page) + "?cluster=eu"); took > 0 {
							t.Errorf("%q of another cluster took %s", page, took)
						}
					}
					time.Sleep(7 * time.Second)
				}
				status, text, _ := b.ask("/healthz")
				for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
					if i > 0 && !strings.HasSuffix(line, " (cluster bad)") {
						t.Errorf("health of another: %s", line)
					}
				}
				if status != http.StatusServiceUnavailable || b.text("/healthz?cluster=eu") != "ok" ||
					b.text("/-/ready") != "ready\n" || b.text("/-/ready?cluster=us") != "ready\n" {
					t.Errorf("health: %d %s", status, text)
				}
				status, _, _ = b.ask("/-/ready?cluster=bad")
				if status != http.StatusServiceUnavailable && !strings.HasPrefix(name, "its pods") {
					t.Errorf("it is ready: %d", status)
				}
			})
		})
		if answers == nil {
			continue
		}
		t.Run(name+" later", func(t *testing.T) {
			inTeam(t, scope.Settings{}, []string{"eu", "bad"}, func(t *testing.T, b *team) {
				b.begin("eu", "bad")
				time.Sleep(time.Minute)
				for request, as := range answers {
					b.members["bad"].api.answer(request, as)
				}
				usage := answers["list pods"] != nil
				for range 60 {
					if text := b.text("/metrics"); strings.Count(text, `pod_mem{node="n",pod="p"`) != 2 {
						t.Fatalf("%s after its start one is missing:\n%s", time.Since(b.members["bad"].api.began), short(text))
					}
					time.Sleep(4 * time.Second)
				}
				time.Sleep(2 * time.Minute)
				_, text, took := b.ask("/metrics")
				left := strings.Count(text, `pod_mem{node="n",pod="p"`)
				if took > 0 || left != map[bool]int{true: 1, false: 2}[usage] || !strings.Contains(text, `cluster="eu"} `) {
					t.Errorf("after max-age, %s: %d are left\n%s", took, left, short(text))
				}
				status, own, _ := b.ask("/metrics?cluster=bad")
				if (status == http.StatusServiceUnavailable) != usage || usage && !strings.Contains(own, "(cluster bad)") {
					t.Errorf("its own page after max-age: %d %s", status, own)
				}
				if up := b.members["bad"]; !strings.Contains(text, selfmetrics.Prefix+`up{resource="pods",cluster="bad"} `) {
					t.Errorf("no up of it: %s\n%v", text, up.snapshots())
				}
			})
		})
	}
}

// TestAScrapeWaitsForTheFirstCluster begins before there is any, or any that works.
func TestAScrapeWaitsForTheFirstCluster(t *testing.T) {
	for name, c := range map[string]struct {
		names  []string
		then   func(b *team) // after 3 s
		status int
		took   time.Duration
		has    []string
	}{
		"none comes": {nil, func(*team) {}, 503, 9500 * time.Millisecond, nil},
		"none works": {[]string{"eu", "us"}, func(*team) {}, 503, 9500 * time.Millisecond, nil},
		"one comes":  {nil, func(b *team) { b.come("eu"); b.begin("eu") }, 200, 3 * time.Second, []string{"eu"}},
		"one works":  {[]string{"eu", "us"}, func(b *team) { b.begin("us") }, 200, 3 * time.Second, []string{"us"}},
		"all work":   {[]string{"eu", "us"}, func(b *team) { b.begin("us", "eu") }, 200, 3 * time.Second, nil},
		"one comes beside another": {[]string{"eu"}, func(b *team) { b.come("us"); b.begin("us") }, 200, 3 * time.Second,
			[]string{"us"}},
	} {
		t.Run(name, func(t *testing.T) {
			inTeam(t, scope.Settings{}, c.names, func(t *testing.T, b *team) {
				time.AfterFunc(3*time.Second, func() { c.then(b) })
				status, text, took := b.ask("/metrics")
				all := b.byCluster(text)
				if status != c.status || took != c.took {
					t.Errorf("status %d after %s, want %d after %s:\n%s", status, took, c.status, c.took, short(text))
				}
				for _, name := range c.has {
					if all[name] == 0 || strings.Contains(text, "cluster "+name+" is missing") {
						t.Errorf("%s is not there: %v\n%s", name, all, short(text))
					}
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if status, _, _ := b.ask("/-/ready"); status != c.status {
					t.Errorf("ready: %d", status)
				}
			})
		})
	}
}

// TestClustersComeAndGo while all is scraped every second.
func TestClustersComeAndGo(t *testing.T) {
	inTeam(t, scope.Settings{Pages: furtherPages}, []string{"eu", "us"}, func(t *testing.T, b *team) {
		b.members["us"].has("p")
		b.members["eu"].has("p")
		b.begin("eu", "us")
		synctest.Wait()
		settled := time.Now()
		second := func(has ...string) {
			t.Helper()
			time.Sleep(time.Second)
			for _, page := range append([]string{""}, furtherPages...) {
				status, text, took := b.ask(path.Join("/metrics", page))
				all := b.byCluster(text)
				delete(all, "")
				if got := slices.Sorted(maps.Keys(all)); status != http.StatusOK || took > 0 || !slices.Equal(got, has) {
					t.Errorf("%s: %q has %q after %s, want %q\n%s", time.Since(settled), page, got, took, has, short(text))
				}
				for _, name := range has {
					if n := strings.Count(text, "pod_mem{") + strings.Count(text, "pod_info{"); page != cadvisor && n != len(has) {
						t.Errorf("%d pods on %q:\n%s", n, page, short(text))
					}
					if strings.Contains(text, "missing") {
						t.Errorf("%s is missing:\n%s", name, short(text))
					}
				}
			}
		}
		second("eu", "us")
		asia := b.come("asia")
		asia.has("p")
		b.begin("asia")
		synctest.Wait()
		for range 20 {
			second("asia", "eu", "us")
		}
		eu := b.members["eu"]
		b.drop(eu.cluster)
		eu.stop()
		eu.self.Close()
		for range 20 {
			second("asia", "us")
		}
		if status, text, _ := b.ask("/metrics?cluster=eu"); status != http.StatusNotFound ||
			!strings.Contains(text, "there are: asia, us") {
			t.Errorf("what is gone is answered with %d %s", status, text)
		}
		b.come("eu").has("p")
		b.begin("eu")
		synctest.Wait()
		second("asia", "eu", "us")
		us := b.members["us"] // its server changes
		us.stop()
		us.has("q")
		us.api.began = time.Now()
		if text := b.text("/metrics"); strings.Contains(text, `namespace="a",cluster="us"}`) || b.byCluster(text)["eu"] == 0 {
			t.Errorf("between two connections of a cluster:\n%s", short(text))
		}
		b.begin("us")
		synctest.Wait()
		second("asia", "eu", "us")
		text := b.text("/metrics/kube-state-metrics?cluster=us")
		if !strings.Contains(text, `pod="q"`) || strings.Contains(text, `pod="p"`) {
			t.Errorf("after a change of its server:\n%s", short(text))
		}
	})
}

// TestAScrapeOfAClusterThatGoesIsLetGo waits for first data that never come.
func TestAScrapeOfAClusterThatGoesIsLetGo(t *testing.T) {
	inTeam(t, scope.Settings{}, []string{"eu", "us"}, func(t *testing.T, b *team) {
		time.AfterFunc(2*time.Second, func() { b.drop(b.members["eu"].cluster) })
		if status, text, took := b.ask("/metrics?cluster=eu"); status != http.StatusServiceUnavailable ||
			took != 2*time.Second {
			t.Errorf("status %d after %s: %s", status, took, text)
		}
	})
}

// TestClustersAfterAFreeze has one of them hang when the process goes on.
func TestClustersAfterAFreeze(t *testing.T) {
	inTeam(t, scope.Settings{}, []string{"bad", "eu"}, func(t *testing.T, b *team) {
		b.begin("bad", "eu")
		time.Sleep(20 * time.Second)
		b.pulse()
		b.members["bad"].api.answer("list pods", hangs)
		b.members["bad"].api.answer("list nodes", hangs)
		time.Sleep(6 * time.Second) // no attempt is running
		b.unfreeze()
		status, text, took := b.ask("/metrics")
		if all := b.byCluster(text); status != http.StatusOK || took > 0 || all["eu"] == 0 ||
			strings.Contains(text, `namespace="a",cluster="bad"} `) ||
			!strings.Contains(text, "\n# cluster bad is missing: ") {
			t.Errorf("status %d after %s:\n%s", status, took, short(text))
		}
	})
}

// TestRefreshesOfClustersAreSpread has clusters begin together and then go on without a period that is known.
func TestRefreshesOfClustersAreSpread(t *testing.T) {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprint("c", i))
	}
	inTeam(t, scope.Settings{}, names, func(t *testing.T, b *team) {
		for _, name := range names { // whose source has no period
			b.members[name].api.answer("get nodes/n2", breaks)
		}
		b.begin(names...)
		time.Sleep(40 * time.Second)
		at := map[time.Duration]int{}
		for _, name := range names {
			began := b.members[name].present.Load().lists[1].Loop.Began()
			at[began.Sub(epoch).Round(time.Second/2)]++
		}
		most := slices.Max(slices.Collect(maps.Values(at)))
		if most > 6 || len(at) < 8 {
			t.Errorf("in one half second %d of 20 are read: %v", most, at)
		}
	})
}

// TestWhyClustersAreMissing is what is told where the clusters themselves cannot be found.
func TestWhyClustersAreMissing(t *testing.T) {
	inTeam(t, scope.Settings{}, nil, func(t *testing.T, b *team) {
		b.look(&kube.Failure{Reason: kube.Configuration, Text: "no cluster configured"})
		for _, page := range []string{"/metrics", "/healthz"} {
			if status, text, _ := b.ask(page); status != http.StatusServiceUnavailable ||
				!strings.Contains(text, "no cluster configured") {
				t.Errorf("%s: %d %s", page, status, text)
			}
		}
		b.look(nil)
		b.come("eu")
		b.begin("eu")
		synctest.Wait()
		if text := b.text("/healthz"); text != "ok" {
			t.Error(text)
		}
	})
}
