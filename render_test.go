package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"metrics-server-prom/internal/counter"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/metricsapi"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/pages"
	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/push/standin"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/scope"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/serve"
	"metrics-server-prom/internal/setting"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/usage"
)

// TestMain keeps client-go quiet, as the program does.
func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	// They keep the moment of the last error of the whole process, which in a synctest bubble is of another clock.
	utilruntime.ErrorHandlers = nil
	os.Exit(m.Run())
}

// input is what goes in: pods by way of the watch, usage as the metrics API writes it.
type input struct {
	pods  []slim.Pod
	usage metricsv1beta1.PodMetricsList
	nodes metricsv1beta1.NodeMetricsList
}

// run feeds the input to a connection: the pods' events, then one refresh of each resource from JSON bodies.
func run(t testing.TB, n *connection, in input) {
	t.Helper()
	for i := range in.pods {
		n.Pods.Store.Put(n.Pods.Watch.Keep(&in.pods[i]))
	}
	refreshFrom(t, n.lists[0], &in.nodes, "NodeMetricsList")
	refreshFrom(t, n.lists[1], &in.usage, "PodMetricsList")
}

func refreshFrom(t testing.TB, l *list, usage kruntime.Object, kind string) {
	t.Helper()
	usage.GetObjectKind().SetGroupVersionKind(kube.Metrics.WithKind(kind))
	body, err := json.Marshal(usage)
	if err != nil {
		t.Fatal(err)
	}
	refreshWith(l, func() error {
		l.Joiner.Begin()
		return new(metricsapi.Decoder).Read(bytes.NewReader(body), l.Kind, l.Joiner.Join)
	})
}

// refreshWith has the loop make one attempt, which reads with read, and end.
func refreshWith(l *list, read func() error) {
	ctx, stop := context.WithCancel(context.Background())
	l.Loop.Read = func(context.Context, refresh.Attempt) error { return read() }
	ended, stopped := l.Loop.Ended(), make(chan struct{})
	go func() { defer close(stopped); l.Loop.Run(ctx) }()
	<-ended
	stop()
	<-stopped
}

// newTestServer is a server with a connection whose loops do not run.
func newTestServer(t testing.TB, set scope.Settings) (*server, *connection) {
	t.Helper()
	if set.MaxAge == 0 {
		set.MaxAge = 5 * time.Minute
	}
	set.RefreshInterval = 15 * time.Second
	s := newServer(&settings{Settings: set, web: serve.Settings{TelemetryPath: "/metrics"}})
	return s, s.one().connect(func(schema.GroupVersion) rest.Interface { return nil })
}

// get is a scrape.
func get(t testing.TB, s *server, path string, header ...string) *http.Response {
	t.Helper()
	return getFrom(s.handler(), path, header...)
}

// getFrom is a scrape of a server by its handler.
func getFrom(handler http.Handler, path string, header ...string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w.Result()
}

// pageText is the text of a scrape, without the self metrics.
func pageText(t testing.TB, s *server) string {
	t.Helper()
	body, err := io.ReadAll(get(t, s, "/metrics").Body)
	if err != nil {
		t.Fatal(err)
	}
	text, _, found := strings.Cut(string(body), "# HELP metrics_server_prom_")
	if !found {
		t.Fatalf("no self metrics on the page:\n%s", body)
	}
	return text
}

// samples is the lines of a page's text that are no comments.
func samples(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// testPod is a pod as the watch brings it.
func testPod(namespace, name, node, ip string, created time.Time, labels map[string]string) (p slim.Pod) {
	full := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels,
			CreationTimestamp: metav1.NewTime(created), ResourceVersion: "7"},
		Spec:   corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{PodIP: ip},
	}
	return slimPod(full, false)
}

// slimPod is what is read of a pod, or all of that.
func slimPod(full corev1.Pod, whole bool) (p slim.Pod) {
	p.Whole = whole
	b, err := full.Marshal()
	if err == nil {
		err = p.Unmarshal(b)
	}
	if err != nil {
		panic(err)
	}
	return p
}

// containers are pairs of a name and a usage "cpu memory", either of them "-" for none.
func podUsage(namespace, name string, at time.Time, containers ...string) metricsv1beta1.PodMetrics {
	m := metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Timestamp: metav1.NewTime(at), Window: metav1.Duration{Duration: 15 * time.Second}}
	for i := 0; i < len(containers); i += 2 {
		c := metricsv1beta1.ContainerMetrics{Name: containers[i], Usage: corev1.ResourceList{}}
		cpu, memory, _ := strings.Cut(containers[i+1], " ")
		for name, amount := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
			if amount != "-" {
				c.Usage[name] = quantity.MustParse(amount)
			}
		}
		m.Containers = append(m.Containers, c)
	}
	return m
}

func TestPage(t *testing.T) {
	now := time.Now()
	long := now.Add(-time.Hour)
	for name, c := range map[string]struct {
		set   scope.Settings
		pods  []slim.Pod
		usage []metricsv1beta1.PodMetrics
		want  string
	}{
		"labels in the original's order, cores and bytes": {
			pods:  []slim.Pod{testPod("kube-system", "etcd-0", "ip-10-30-78-99", "10.30.62.138", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("kube-system", "etcd-0", now, "etcd", "7m 125448Ki")},
			want: `kube_metrics_server_pod_cpu{node="ip-10-30-78-99",pod="etcd-0",ip="10.30.62.138",container="etcd",namespace="kube-system"} 0.007
kube_metrics_server_pod_mem{node="ip-10-30-78-99",pod="etcd-0",ip="10.30.62.138",container="etcd",namespace="kube-system"} 128458752
`},
		"all containers of a family stand together": {
			pods: []slim.Pod{testPod("a", "p", "n", "10.0.0.1", long, nil), testPod("b", "p", "n", "10.0.0.2", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "378089386n 1", "y", "2 2Ki"),
				podUsage("b", "p", now, "x", "500u 1M")},
			want: `kube_metrics_server_pod_cpu{node="n",pod="p",ip="10.0.0.1",container="x",namespace="a"} 0.378089386
kube_metrics_server_pod_cpu{node="n",pod="p",ip="10.0.0.1",container="y",namespace="a"} 2
kube_metrics_server_pod_cpu{node="n",pod="p",ip="10.0.0.2",container="x",namespace="b"} 0.0005
kube_metrics_server_pod_mem{node="n",pod="p",ip="10.0.0.1",container="x",namespace="a"} 1
kube_metrics_server_pod_mem{node="n",pod="p",ip="10.0.0.1",container="y",namespace="a"} 2048
kube_metrics_server_pod_mem{node="n",pod="p",ip="10.0.0.2",container="x",namespace="b"} 1000000
`},
		"usage of a pod that is not known yet has empty node and ip": {
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "1 1")},
			want: `kube_metrics_server_pod_cpu{node="",pod="p",ip="",container="x",namespace="a"} 1
kube_metrics_server_pod_mem{node="",pod="p",ip="",container="x",namespace="a"} 1
`},
		"a container with only cpu or only memory gives that": {
			pods:  []slim.Pod{testPod("a", "p", "n", "i", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "1 -", "y", "- 1", "z", "- -")},
			want: `kube_metrics_server_pod_cpu{node="n",pod="p",ip="i",container="x",namespace="a"} 1
kube_metrics_server_pod_mem{node="n",pod="p",ip="i",container="y",namespace="a"} 1
`},
		"a negative quantity is dropped, the container's other stays": {
			pods:  []slim.Pod{testPod("a", "p", "n", "i", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "-1 1")},
			want: `kube_metrics_server_pod_mem{node="n",pod="p",ip="i",container="x",namespace="a"} 1
`},
		"a sample that has reached max-age is not served, a younger one is": {
			pods: []slim.Pod{testPod("a", "old", "n", "i", long, nil), testPod("a", "young", "n", "i", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "old", now.Add(-5*time.Minute), "x", "1 -"),
				podUsage("a", "young", now.Add(-4*time.Minute-50*time.Second), "x", "1 -")},
			want: `kube_metrics_server_pod_cpu{node="n",pod="young",ip="i",container="x",namespace="a"} 1
`},
		"usage from before the pod was created is that of its predecessor": {
			pods:  []slim.Pod{testPod("a", "db-0", "n", "i", now.Add(-30*time.Second), nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "db-0", now.Add(-40*time.Second), "x", "1 1")},
		},
		"no series twice: pods, and containers of a pod": {
			pods: []slim.Pod{testPod("a", "p", "n", "i", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "1 -", "x", "2 -"),
				podUsage("a", "p", now, "x", "3 -")},
			want: `kube_metrics_server_pod_cpu{node="n",pod="p",ip="i",container="x",namespace="a"} 1
`},
		"label values are escaped": {
			set: scope.Settings{PodLabels: []string{"app"}},
			pods: []slim.Pod{testPod("a", "p", `back\slash`, "quo\"te", long,
				map[string]string{"app": "new\nline \x00 \xff ü"})},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "1 -")},
			want: `kube_metrics_server_pod_cpu{node="back\\slash",pod="p",ip="quo\"te",container="x",namespace="a",label_app="new\nline ` + "\uFFFD \uFFFD" + ` ü"} 1
`},
		"pod labels come last, as kube-state-metrics names them": {
			set: scope.Settings{PodLabels: []string{"team", "app.kubernetes.io/name", "helmRelease", "a.b", "a-b"}},
			pods: []slim.Pod{testPod("a", "p", "n", "i", long, map[string]string{
				"app.kubernetes.io/name": "shop", "helmRelease": "r", "a.b": "1", "a-b": "2", "other": "no"})},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "1 -")},
			want: `kube_metrics_server_pod_cpu{node="n",pod="p",ip="i",container="x",namespace="a",label_app_kubernetes_io_name="shop",label_helm_release="r",label_a_b_conflict1="1",label_a_b_conflict2="2"} 1
`},
		"excluded namespaces are left out": {
			set:   scope.Settings{ExcludeNamespaces: []string{"b", "c"}},
			pods:  []slim.Pod{testPod("a", "p", "n", "i", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "1 -"), podUsage("b", "p", now, "x", "1 -")},
			want: `kube_metrics_server_pod_cpu{node="n",pod="p",ip="i",container="x",namespace="a"} 1
`},
		"a number that no float64 has is the nearest that there is": {
			pods:  []slim.Pod{testPod("a", "p", "n", "i", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "- 9007199254740993")},
			want: `kube_metrics_server_pod_mem{node="n",pod="p",ip="i",container="x",namespace="a"} 9.007199254740992e+15
`},
	} {
		t.Run(name, func(t *testing.T) {
			s, n := newTestServer(t, c.set)
			run(t, n, input{pods: c.pods, usage: metricsv1beta1.PodMetricsList{Items: c.usage}})
			if got := samples(pageText(t, s)); got != c.want {
				t.Errorf("page:\n%swant:\n%s", got, c.want)
			}
		})
	}
}

func TestNodes(t *testing.T) {
	s, n := newTestServer(t, scope.Settings{})
	node := metricsv1beta1.NodeMetrics{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Timestamp: metav1.Now(),
		Window: metav1.Duration{Duration: time.Second}, Usage: corev1.ResourceList{
			corev1.ResourceCPU: quantity.MustParse("61488047183n"), corev1.ResourceMemory: quantity.MustParse("3Gi")}}
	run(t, n, input{nodes: metricsv1beta1.NodeMetricsList{Items: []metricsv1beta1.NodeMetrics{node, node}}})
	want := "# HELP kube_metrics_server_node_cpu " + families[0].Help + `
# TYPE kube_metrics_server_node_cpu gauge
kube_metrics_server_node_cpu{node="n1"} 61.488047183
# HELP kube_metrics_server_node_mem Memory working set of the node in bytes.
# TYPE kube_metrics_server_node_mem gauge
kube_metrics_server_node_mem{node="n1"} 3221225472
`
	if got := pageText(t, s); got != want {
		t.Errorf("page:\n%swant:\n%s", got, want)
	}
}

func TestDroppedSamplesAreCounted(t *testing.T) {
	now := time.Now()
	s, n := newTestServer(t, scope.Settings{})
	run(t, n, input{
		pods: []slim.Pod{testPod("a", "p", "n", "i", now.Add(-time.Hour), nil)},
		usage: metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{
			podUsage("a", "p", now, "x", "-1 1"), podUsage("a", "p", now, "x", "1 1"),
			podUsage("a", "old", now.Add(-time.Hour), "x", "1 1", "y", "1 -"), podUsage("a", "new", now, "x", "1 1")}}})
	body, _ := io.ReadAll(get(t, s, "/metrics").Body)
	for line, why := range map[string]string{
		`samples_dropped_total{reason="invalid"} 1`:                                             "the negative cpu",
		`samples_dropped_total{reason="duplicate"} 2`:                                           "the pod's second entry",
		`samples_dropped_total{reason="stale"} 3`:                                               "the old pod's two containers",
		`pods_without_metadata 1`:                                                               "the pod that is not watched yet",
		`watched_pods 1`:                                                                        "the one that is",
		`samples_served{family="kube_metrics_server_pod_cpu"} 1`:                                "new",
		`samples_served{family="kube_metrics_server_pod_mem"} 2`:                                "p and new",
		`samples_served{family="kube_metrics_server_node_cpu"} 0`:                               "no nodes",
		`up{resource="pods"} 1`:                                                                 "the last refresh worked",
		`newest_sample_timestamp_seconds{resource="pods"} ` + strconv.FormatInt(now.Unix(), 10): "its timestamp",
	} {
		if !strings.Contains(string(body), "metrics_server_prom_"+line+"\n") {
			t.Errorf("no %s (%s) on the page:\n%s", line, why, body)
		}
	}
}

func TestPodThatGoesAndComesBack(t *testing.T) {
	now := time.Now()
	s, n := newTestServer(t, scope.Settings{})
	old := testPod("a", "db-0", "n1", "i1", now.Add(-time.Hour), nil)
	moved := testPod("a", "db-0", "n2", "i2", now.Add(-10*time.Second), nil)
	old.ResourceVersion, moved.ResourceVersion = "10", "20"
	late := metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{
		podUsage("a", "db-0", now.Add(-20*time.Second), "x", "1 -")}}
	fresh := metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{podUsage("a", "db-0", now, "x", "2 -")}}
	put := func(p slim.Pod) { n.Pods.Store.Put(n.Pods.Watch.Keep(&p)) }
	del := func(p slim.Pod) { n.Pods.Store.Delete(n.Pods.Watch.Keep(&p)) }
	for _, step := range []struct {
		what  string
		event func()
		usage metricsv1beta1.PodMetricsList
		want  string
	}{
		{"it runs", func() { put(old) }, late, `node="n1",pod="db-0",ip="i1",container="x",namespace="a"} 1`},
		{"it is deleted, its usage is still there", func() { gone := old; gone.ResourceVersion = "15"; del(gone) }, late, ""},
		{"an event from before its deletion comes late", func() { stale := old; stale.ResourceVersion = "12"; put(stale) }, late, ""},
		{"it is created again, the usage is still the old one's", func() { put(moved) }, late, ""},
		{"it has usage of its own", func() {}, fresh, `node="n2",pod="db-0",ip="i2",container="x",namespace="a"} 2`},
		{"an event of its predecessor comes late", func() { put(old); del(old) }, fresh, `node="n2",pod="db-0",ip="i2",container="x",namespace="a"} 2`},
	} {
		step.event()
		refreshFrom(t, n.lists[0], &metricsv1beta1.NodeMetricsList{}, "NodeMetricsList")
		refreshFrom(t, n.lists[1], &step.usage, "PodMetricsList")
		want := step.want
		if want != "" {
			want = "kube_metrics_server_pod_cpu{" + want + "\n"
		}
		if got := samples(pageText(t, s)); got != want {
			t.Errorf("%s: page:\n%swant:\n%s", step.what, got, want)
		}
	}
}

func TestNothingOldIsServedAsNew(t *testing.T) {
	now := time.Now()
	c := input{pods: []slim.Pod{testPod("a", "p", "n", "i", now.Add(-time.Hour), nil)},
		usage: metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{
			podUsage("a", "p", now.Add(-60*time.Second), "x", "1 -"), podUsage("a", "q", now.Add(-10*time.Second), "x", "1 -")}}}
	failure := &kube.Failure{Reason: kube.Network, Text: "cannot list pods.metrics.k8s.io: refused"}
	for name, step := range map[string]struct {
		do      func(*list)
		samples int
	}{
		"after a failure the last snapshot stays": {func(l *list) { l.Loop.Publish(refresh.Attempt{}, failure) }, 2},
		"after a failure that came late it goes":  {func(l *list) { l.Loop.Publish(refresh.Attempt{Late: time.Minute}, failure) }, 0},
		"what has expired goes, the rest stays":   {func(l *list) { l.Joiner.MaxAge = 30 * time.Second; l.Loop.Expire() }, 1},
		"when all has expired nothing stays":      {func(l *list) { l.Joiner.MaxAge = 5 * time.Second; l.Loop.Expire() }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, n := newTestServer(t, scope.Settings{})
			run(t, n, c)
			if want := now.Add(-60 * time.Second).Add(5 * time.Minute).Unix(); n.lists[1].Loop.Expires().Unix() != want {
				t.Errorf("expires %s, want the first sample's timestamp and max-age", n.lists[1].Loop.Expires())
			}
			step.do(n.lists[1])
			text := pageText(t, s)
			if got := strings.Count(samples(text), "\n"); got != step.samples {
				t.Errorf("%d samples, want %d:\n%s", got, step.samples, text)
			}
			if step.samples == 0 && text != "" {
				t.Errorf("families without samples on the page:\n%s", text)
			}
		})
	}
}

func TestScrapeEncodings(t *testing.T) {
	s, n := newTestServer(t, scope.Settings{})
	run(t, n, bigCluster(50, 2))
	unzip := func(b []byte) []byte {
		r, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	pods := pageText(t, s)
	for accept, want := range map[string]string{"": "", "gzip": "gzip", "gzip;q=0": "", "br": "", "*": "gzip",
		"identity;q=0, gzip": "gzip"} {
		resp := get(t, s, "/metrics", "Accept-Encoding", accept)
		body, _ := io.ReadAll(resp.Body)
		if got := resp.Header.Get("Content-Encoding"); got != want {
			t.Errorf("Accept-Encoding %q: Content-Encoding %q, want %q", accept, got, want)
		}
		if length := resp.Header.Get("Content-Length"); length != strconv.Itoa(len(body)) {
			t.Errorf("Accept-Encoding %q: Content-Length %s of a body of %d", accept, length, len(body))
		}
		if want == "gzip" {
			body = unzip(body)
		}
		contentType := resp.Header.Get("Content-Type")
		if !strings.HasPrefix(string(body), pods) || contentType != "text/plain; version=0.0.4; charset=utf-8" {
			t.Errorf("Accept-Encoding %q: not the same text", accept)
		}
	}
	if resp := get(t, s, "/metrics", "Accept-Encoding", "identity;q=0"); resp.StatusCode != http.StatusNotAcceptable {
		t.Errorf("no encoding that is accepted: status %d", resp.StatusCode)
	}
}

func TestBeforeTheFirstDataAScrapeWaitsAndThenIsToldToComeAgain(t *testing.T) {
	s, _ := newTestServer(t, scope.Settings{})
	began := time.Now()
	resp := get(t, s, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", "0.4")
	if waited := time.Since(began); waited < 200*time.Millisecond ||
		resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("after %s status %d, Retry-After %q; want a wait and 503", waited, resp.StatusCode,
			resp.Header.Get("Retry-After"))
	}
	for header, want := range map[string]time.Duration{"": 10 * time.Second, "15": 14500 * time.Millisecond,
		"0.5":  250 * time.Millisecond,
		"soon": 10 * time.Second, "-1": 10 * time.Second, "NaN": 10 * time.Second, "1e9": 2*time.Minute - 500*time.Millisecond} {
		if got := serve.Patience(http.Header{"X-Prometheus-Scrape-Timeout-Seconds": {header}}); got != want {
			t.Errorf("scrape timeout %q: waits %s, want %s", header, got, want)
		}
	}
}

func TestMetricsAPIGoneForLongerThanMaxAge(t *testing.T) {
	s, n := newTestServer(t, scope.Settings{MaxAge: time.Minute})
	now := time.Now()
	old := podUsage("a", "p", now.Add(-58*time.Second), "x", "1 1")
	run(t, n, input{usage: metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{old}}})
	n.lists[1].Joiner.MaxAge = 10 * time.Second // as if the time had passed
	n.lists[1].Loop.Expire()
	n.lists[1].Loop.Publish(refresh.Attempt{}, &kube.Failure{Reason: kube.Unavailable, Text: "gone"})
	resp := get(t, s, "/metrics")
	body, _ := io.ReadAll(resp.Body)
	if text := string(body); resp.StatusCode != http.StatusOK || strings.Contains(text, "kube_metrics_server_pod_cpu{") ||
		!strings.Contains(text, selfmetrics.Prefix+`up{resource="pods"} 0`) ||
		!strings.Contains(text, selfmetrics.Prefix+`refresh_errors_total{resource="pods",reason="unavailable"} 1`) {
		t.Errorf("status %d, want 200 and a page without samples that says so:\n%s", resp.StatusCode, text)
	}
	if health := get(t, s, "/healthz"); health.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/healthz answers %d", health.StatusCode)
	}
}

// TestPageIsMadeAnewWhereItIsNotCurrent is each thing that it depends on. The metrics of the exporter itself may be a
// second old.
func TestPageIsMadeAnewWhereItIsNotCurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := newTestServer(t, scope.Settings{})
		run(t, n, input{})
		now := func() *page.Page {
			return s.fleet.Pages[""].Page([]pages.Shown{{Snapshots: s.one().present.Load().snapshots()}}, "")
		}
		first := now()
		if time.Sleep(pages.SelfAge - 1); now() != first {
			t.Error("two scrapes of one second are rendered twice")
		}
		self := s.self
		for _, change := range []struct {
			what, line string
			do         func()
		}{
			{"a request", `api_requests_total{code="200"} 1`, func() {
				self.Counter("api_requests_total", "Requests.", `code="200"`).Inc()
				time.Sleep(pages.SelfAge)
			}},
			{"a failure", `up{resource="pods"} 0`, func() {
				n.lists[1].Loop.Publish(refresh.Attempt{}, &kube.Failure{Reason: kube.Network, Text: "gone"})
			}},
			{"new data", `samples_served{family="kube_metrics_server_pod_cpu"} 1`, func() {
				one := podUsage("a", "p", time.Now(), "x", "1 1")
				run(t, n, input{usage: metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{one}}})
			}},
			{"a new pod", `watched_objects{resource="pods"} 1`, func() {
				p := testPod("a", "p", "n", "1.2.3.4", time.Now(), nil)
				n.Pods.Store.Put(n.Pods.Watch.Keep(&p))
				time.Sleep(pages.SelfAge)
			}},
			{"a tick", `source_period_seconds 15`, func() {
				n.ticks.Fresh.Tick(time.Time{}, 15*time.Second)
				time.Sleep(pages.SelfAge)
			}},
		} {
			before := now()
			change.do()
			if now() == before {
				t.Errorf("%s: the page is that of before", change.what)
			}
			var text strings.Builder
			if err := now().WriteText(&text); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text.String(), "\n"+selfmetrics.Prefix+change.line+"\n") {
				t.Errorf("%s: no line %s%s on the page:\n%s", change.what, selfmetrics.Prefix, change.line, text.String())
			}
		}
	})
}

// TestReplacedSnapshotIsReleased has a page made and its snapshot replaced: nobody may keep the memory of either.
func TestReplacedSnapshotIsReleased(t *testing.T) {
	for name, replace := range map[string]func(*server, *connection){
		"by the next": func(_ *server, n *connection) { run(t, n, bigCluster(60, 2)) },
		"by nothing, at a failure": func(_ *server, n *connection) {
			n.lists[1].Loop.Publish(refresh.Attempt{Late: time.Minute}, &kube.Failure{Reason: kube.Network, Text: "gone"})
		},
		"by another cluster": func(s *server, n *connection) { s.one().leave(n) },
	} {
		t.Run(name, func(t *testing.T) {
			s, n := newTestServer(t, scope.Settings{})
			run(t, n, bigCluster(50, 2))
			page := weak.Make(s.fleet.Pages[""].Page([]pages.Shown{{Snapshots: s.one().present.Load().snapshots()}}, ""))
			part := weak.Make(n.lists[1].present.Load().Rendered.Parts[2][0])
			former := weak.Make(n.Pods.Store)
			replace(s, n)
			if runtime.GC(); page.Value() != nil || part.Value() != nil {
				t.Error("the page of the former snapshot, or what it is made of, is kept until the next scrape")
			}
			if name == "by another cluster" && former.Value() != nil {
				t.Error("the pods of the former cluster are kept")
			}
			runtime.KeepAlive(s)
		})
	}
}

// TestFormerConnectionTakesNothingFromItsSuccessor hands over in either order: the former's end may come late.
func TestFormerConnectionTakesNothingFromItsSuccessor(t *testing.T) {
	s, former := newTestServer(t, scope.Settings{})
	run(t, former, bigCluster(50, 2))
	c := s.one()
	successor := c.connect(func(schema.GroupVersion) rest.Interface { return nil })
	c.leave(former)
	if c.present.Load() != successor {
		t.Fatal("the former connection's end has taken its successor away")
	}
	run(t, successor, bigCluster(10, 1))
	if got := strings.Count(samples(pageText(t, s)), "\n"); got != 20 {
		t.Errorf("%d samples, want those of the successor", got)
	}
	body, _ := io.ReadAll(get(t, s, "/metrics").Body)
	if !strings.Contains(string(body), selfmetrics.Prefix+`up{resource="pods"} 1`) {
		t.Errorf("the successor's metrics went with the former:\n%s", body)
	}
}

// TestScrapeOfAClusterThatIsGoneIsLetGo waits for first data that never come, as the kubeconfig changes.
func TestScrapeOfAClusterThatIsGoneIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, former := newTestServer(t, scope.Settings{})
		answered := make(chan *http.Response)
		go func() { answered <- get(t, s, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", "30") }()
		synctest.Wait()
		s.one().leave(former)
		synctest.Wait()
		run(t, s.one().connect(func(schema.GroupVersion) rest.Interface { return nil }), bigCluster(1, 1))
		synctest.Wait()
		select {
		case r := <-answered:
			if r.StatusCode != http.StatusOK {
				t.Errorf("status %d", r.StatusCode)
			}
		default:
			t.Error("the scrape still waits for the cluster that is gone")
			<-answered
		}
	})
}

func TestPages(t *testing.T) {
	s, n := newTestServer(t, scope.Settings{})
	run(t, n, input{})
	for request, want := range map[string]int{"GET /metrics": 200, "HEAD /metrics": 200, "GET /healthz": 200,
		"GET /-/healthy": 200, "GET /-/ready": 200, "GET /": 200, "HEAD /": 200,
		"POST /metrics": 405, "DELETE /": 405, "OPTIONS /healthz": 405, "GET /metrics/": 404,
		"GET /debug/pprof/": 404, "POST /nothing": 404} {
		method, path, _ := strings.Cut(request, " ")
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
		h := w.Result().Header
		if w.Code != want || want == 405 && h.Get("Allow") != "GET, HEAD" || h.Get("X-Content-Type-Options") != "nosniff" ||
			h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: status %d, want %d; headers %v", request, w.Code, want, h)
		}
	}
	s.stop()
	if resp := get(t, s, "/-/ready"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("ready while stopping: %d", resp.StatusCode)
	}
}

func TestEverySettingByFlagAndByEnvironment(t *testing.T) {
	got := func(f func(*settings) any) func(*settings) string {
		return func(s *settings) string { return fmt.Sprint(f(s)) }
	}
	for _, c := range []struct {
		flag, env, unset, value, want, wrong string // wrong is a value that is refused
		get                                  func(*settings) string
	}{
		{"kubeconfig", "KUBECONFIG", "", "/k", "/k", "", got(func(s *settings) any { return s.Kubeconfig })},
		{"context", "KUBE_CONTEXT", "", "dev", "dev", "", got(func(s *settings) any { return s.Context })},
		{"namespaces", "NAMESPACES", "[]", "a, b", "[a b]", "a b", got(func(s *settings) any { return s.Namespaces })},
		{"namespaces", "NAMESPACES", "", "a,b", "[a b]", "A", got(func(s *settings) any { return s.Each() })},
		{"exclude-namespaces", "EXCLUDE_NAMESPACES", "[]", "a", "[a]", "-", got(func(s *settings) any { return s.ExcludeNamespaces })},
		{"selector", "LABEL_SELECTOR", "", "app=shop,tier!=test", "app=shop,tier!=test", "app in", got(func(s *settings) any { return s.Selector })},
		{"pod-labels", "POD_LABELS", "[]", "app,a.b/c", "[app a.b/c]", "a b", got(func(s *settings) any { return s.PodLabels })},
		{"pages", "PAGES", "[]", "cadvisor, kube-state-metrics", "[cadvisor kube-state-metrics]", "cadvisor,node", got(func(s *settings) any { return s.Pages })},
		{"refresh-interval", "REFRESH_INTERVAL", "15s", "1s", "1s", "999ms", got(func(s *settings) any { return s.RefreshInterval })},
		{"refresh-interval", "REFRESH_INTERVAL", "15s", "10m", "10m0s", "10m1s", got(func(s *settings) any { return s.RefreshInterval })},
		{"max-age", "MAX_AGE", "5m0s", "1m", "1m0s", "5", got(func(s *settings) any { return s.MaxAge })},
		{"web.listen-address", "PORT", ":9100", "8080", ":8080", "70000", got(func(s *settings) any { return s.web.Address })},
		{"web.telemetry-path", "WEB_TELEMETRY_PATH", "/metrics", "/usage", "/usage", "/-/ready", got(func(s *settings) any { return s.web.TelemetryPath })},
		{"web.config.file", "WEB_CONFIG_FILE", "", "", "", "/does/not/exist", got(func(s *settings) any { return s.web.Config })},
		{"push.url", "PUSH_URL", "", "http://h/p", "http://h/p", "h:1", got(func(s *settings) any { return s.push.URL })},
		{"push.interval", "PUSH_INTERVAL", "30s", "5s", "5s", "999ms", got(func(s *settings) any { return s.push.Interval })},
		{"push.interval", "PUSH_INTERVAL", "30s", "0", "0s", "-1s", got(func(s *settings) any { return s.push.Interval })},
		{"push.format", "PUSH_FORMAT", "text", "remote-write", "remote-write", "json", got(func(s *settings) any { return s.push.Format })},
		{"push.instance", "PUSH_INSTANCE", "", "h", "h", "a\tb", got(func(s *settings) any { return s.push.Instance })},
		{"push.extra-labels", "PUSH_EXTRA_LABELS", "", `a="b"`, `a="b"`, "", got(func(s *settings) any { return s.push.ExtraLabels })},
		{"push.header", "PUSH_HEADER", "map[]", "A: b\nC: d", "map[A:[b] C:[d]]", "MARKED-SECRET", got(func(s *settings) any { return s.push.Headers })},
		{"log.level", "LOG_LEVEL", "INFO", "debug", "DEBUG", "loud", got(func(s *settings) any { return s.log.Level })},
		{"log.format", "LOG_FORMAT", "text", "json", "json", "xml", got(func(s *settings) any { return s.log.Format })},
	} {
		t.Run(c.flag+" "+c.value, func(t *testing.T) {
			parse := func(args []string, env string) (*settings, error) {
				s := &settings{}
				return s, setting.Parse("p", "v", s.table(), args, func(name string) string {
					switch {
					case name == c.env:
						return env
					case name == "PUSH_URL" && strings.HasPrefix(c.flag, "push."): // the others need it
						return "http://h"
					}
					return ""
				})
			}
			byFlag := c.value
			if c.env == "PORT" {
				byFlag = ":" + c.value
			}
			for what, try := range map[string]struct {
				args      []string
				env, want string
			}{
				"by flag":        {[]string{"--" + c.flag + "=" + byFlag}, "", c.want},
				"by environment": {nil, c.value, c.want},
				"the flag wins":  {[]string{"--" + c.flag, byFlag}, c.wrong, c.want},
			} {
				s, err := parse(try.args, try.env)
				if err != nil {
					t.Errorf("%s: %v", what, err)
				} else if got := c.get(s); got != try.want {
					t.Errorf("%s: %s, want %s", what, got, try.want)
				}
			}
			if s, err := parse(nil, ""); err != nil || c.get(s) != c.unset && c.get(s) != "["+c.unset+"]" {
				t.Errorf("unset: %s, %v, want %s", c.get(s), err, c.unset)
			}
			if c.wrong == "" {
				return
			}
			_, err := parse(nil, c.wrong)
			if err == nil || !strings.Contains(err.Error(), c.env) || strings.Contains(err.Error(), "MARKED") ||
				strings.Contains(err.Error(), "\n") {
				t.Errorf("a wrong value: %v, want one line that names %s", err, c.env)
			}
		})
	}
}

// parseSettings does what main does with a command line and an environment of "NAME=value".
func parseSettings(args, environ []string) error {
	s := &settings{}
	err := setting.Parse("p", "v", s.table(), args, func(name string) string {
		for _, variable := range environ {
			if value, ok := strings.CutPrefix(variable, name+"="); ok {
				return value
			}
		}
		return ""
	})
	if err == nil {
		err = s.check()
	}
	return err
}

func TestSettingsThatContradictEachOther(t *testing.T) {
	const url = "--push.url=http://receiver"
	for name, c := range map[string]struct {
		args []string
		says []string // nothing where they go together
	}{
		"nothing set": {nil, nil},
		"samples too old before the next are read (fault 9)": {
			[]string{"--refresh-interval=5m"}, []string{"--refresh-interval", "--max-age", "is 5m0s and"}},
		"much too old": {
			[]string{"--refresh-interval=1m", "--max-age=20s"}, []string{"1m0s", "20s"}},
		"just young enough": {
			[]string{"--refresh-interval=19s", "--max-age=20s"}, nil},
		"all namespaces excluded": {
			[]string{"--namespaces=a,b", "--exclude-namespaces=b,c,a"}, []string{"--exclude-namespaces", "--namespaces"}},
		"some namespaces excluded": {
			[]string{"--namespaces=a,b", "--exclude-namespaces=b,c"}, nil},
		"namespaces excluded from all": {
			[]string{"--exclude-namespaces=a"}, nil},
		"an interval of no pushes":  {[]string{"--push.interval=1m"}, []string{"--push.interval", "--push.url"}},
		"extra labels of no pushes": {[]string{`--push.extra-labels=a="b"`}, []string{"--push.extra-labels", "--push.url"}},
		"a header of no pushes":     {[]string{"--push.header=A: b"}, []string{"--push.header", "--push.url"}},
		"all of pushing":            {[]string{url, "--push.interval=1m", `--push.extra-labels=a="b"`, "--push.header=A: b"}, nil},
		"an extra label that samples have (fault 14)": {
			[]string{url, `--push.extra-labels=cluster="x",pod="y"`}, []string{"--push.extra-labels", "label pod,"}},
		"an extra label that is one of the pods' (fault 14)": {
			[]string{url, "--pod-labels=app.kubernetes.io/name", `--push.extra-labels=label_app_kubernetes_io_name="y"`},
			[]string{"--push.extra-labels", "label_app_kubernetes_io_name"}},
		"an extra label that could be one of the pods'": {
			[]string{url, "--pod-labels=app", `--push.extra-labels=label_team="y"`}, nil},
		"an extra label that a page has": {
			[]string{url, "--push.format=remote-write", "--pages=kube-state-metrics", `--push.extra-labels=uid="y"`},
			[]string{"--push.extra-labels", "label uid,"}},
		"an extra label of a page that is not pushed": {
			[]string{url, "--pages=kube-state-metrics", `--push.extra-labels=uid="y"`}, nil},
		"an extra label that several clusters have": {
			[]string{url, "--context=eu,us", `--push.extra-labels=cluster="x"`},
			[]string{"--push.extra-labels", "label cluster,"}},
		"an extra label where one cluster has a name": {
			[]string{url, "--context=eu=a", `--push.extra-labels=cluster="x"`},
			[]string{"--push.extra-labels", "label cluster,"}},
		"an extra label of a page that is off": {
			[]string{url, "--push.format=remote-write", "--pages=cadvisor", `--push.extra-labels=uid="y"`}, nil},
		"two ways to authenticate": {
			[]string{"--push.url=http://me:secret@receiver", "--push.header=Authorization: Bearer secret"},
			[]string{"--push.url", "--push.header"}},
		"two ways, of which one is not this program's": {
			[]string{"--push.url=http://me:secret@receiver", "--push.header=X-Scope-OrgID: 1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			err := parseSettings(c.args, nil)
			if (err == nil) != (c.says == nil) {
				t.Fatalf("error %v", err)
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "secret") {
					t.Errorf("%v, want %s", err, part)
				}
			}
		})
	}
}

// TestSampleLabelsAreThoseOfThePages keeps the lists of them complete.
func TestSampleLabelsAreThoseOfThePages(t *testing.T) {
	s, n := newTestServer(t, scope.Settings{})
	run(t, n, bigCluster(1, 1))
	var page strings.Builder
	s.one().requested("pods", "list", "200")
	s.set.push.Format = push.RemoteWrite
	s.set.push.Register(s.self)
	if err := s.writePages(t.Context(), &page, false); err != nil {
		t.Fatal(err)
	}
	byText, further := map[string]bool{}, map[string]bool{} // which are pushed as text, and only by remote write
	for line := range strings.Lines(samples(page.String())) {
		to := byText
		if strings.HasPrefix(line, "go_") || strings.HasPrefix(line, "process_") {
			to = further
		}
		for _, m := range labelName.FindAllStringSubmatch(line, -1) {
			to[m[1]] = true
		}
	}
	for _, lists := range labelsOfFurtherPages(t) {
		for _, name := range strings.Split(strings.Join(lists, ", "), ", ") {
			further[name] = true
		}
	}
	text := labelsOf(furtherPages, []string{"app"}, push.Text, false)
	remote := labelsOf(furtherPages, []string{"app"}, push.RemoteWrite, false)
	for name := range byText {
		if !slices.Contains(text, name) {
			t.Errorf("the label %s of the page is not in the list", name)
		}
	}
	for name := range further {
		if !slices.Contains(remote, name) {
			t.Errorf("the label %s of a further page or of the process is not in the list", name)
		}
	}
	if len(byText) < 10 || len(further) < 40 {
		t.Errorf("only %v and %v", byText, further)
	}
}

// TestNoSettingShowsContent is fault 10: what is in a kubeconfig, in place of its name or in any other wrong place,
// must not get into the error, with which it would get into logs.
func TestNoSettingShowsContent(t *testing.T) {
	const token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtYXJrZWQifQ.bWFya2VkLXNpZ25hdHVyZQ"
	yaml := "users:\n- name: u\n  user:\n    token: " + token + "\napiVersion: v1\nkind: Config\nclusters:\n- name: c\n" +
		"  cluster:\n    server: https://k:6443\ncontexts:\n- name: c\n  context:\n    cluster: c\n    user: u\n"
	encoded := base64.StdEncoding.EncodeToString([]byte(yaml))
	wrapped := encoded[:76] + "\n" + encoded[76:152] + "\n" + encoded[152:] + "\n"
	for what, content := range map[string]string{
		"YAML": yaml, "base64 -w0": encoded, "base64 in lines": wrapped, "a token": token} {
		for _, row := range new(settings).table() {
			for how, err := range map[string]error{
				"by flag":        parseSettings([]string{"--" + row.Flag, content}, nil),
				"by environment": parseSettings(nil, []string{row.Env + "=" + content}),
			} {
				if err == nil && row.Env == "KUBECONFIG_DATA" && what != "a token" {
					continue // which is the place for it
				}
				if err == nil {
					t.Errorf("%s as %s %s is taken", what, row.Env, how)
				} else if text := err.Error(); strings.Contains(text, token[:20]) || strings.Contains(text, encoded[:20]) ||
					strings.Contains(text, "apiVersion") || strings.Contains(text, "\n") {
					t.Errorf("%s as %s %s is shown: %s", what, row.Env, how, text)
				}
			}
		}
	}
}

// TestReadmeTellsEverySettingAndEveryMetric holds its tables against the program.
func TestReadmeTellsEverySettingAndEveryMetric(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var told, tableRows []string // first cells that hold code
	for line := range strings.Lines(string(readme)) {
		if cells := strings.Split(line, "|"); len(cells) > 3 && strings.Contains(cells[1], "`") {
			told = append(told, cells[1])
			tableRows = append(tableRows, line)
		}
	}
	find := func(name string) string {
		for i, cell := range told {
			if strings.Contains(cell, "`"+name+"`") || strings.Contains(cell, "`"+name+"{") {
				return tableRows[i]
			}
		}
		return ""
	}
	known := map[string]bool{}
	for _, row := range new(settings).table() {
		known["--"+row.Flag] = true
		line := find("--" + row.Flag)
		if !strings.Contains(line, "`"+row.Env+"`") || row.Default != "" && !strings.Contains(line, "`"+row.Default+"`") {
			t.Errorf("--%s, %s, default %q is told as: %s", row.Flag, row.Env, row.Default, line)
		}
	}
	s, n := newTestServer(t, scope.Settings{Pages: furtherPages})
	refreshes := n.source.Self.Histogram("refresh_duration_seconds", "Read by a loop, of which there is none.", "",
		[]float64{1})
	refreshes.Update(1)
	run(t, n, bigCluster(1, 1))
	s.set.push.Format = push.RemoteWrite
	s.set.push.Register(s.self)
	s.one().requested("pods", "list", "200")
	n.ticks.Fresh.Tick(time.Now(), time.Second)
	n.ticks.Fresh.Shown(time.Now())
	body, _ := io.ReadAll(get(t, s, "/metrics").Body)
	for _, name := range regexp.MustCompile(`(?m)^# TYPE (\S+)`).FindAllStringSubmatch(string(body), -1) {
		name := strings.TrimPrefix(name[1], selfmetrics.Prefix)
		if known[name] = true; find(name) == "" && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			t.Errorf("%s is not told", name)
		}
	}
	labels := labelsOfFurtherPages(t)
	for _, f := range families {
		if f.Page == "" {
			continue
		}
		known[f.Name] = true
		row := strings.Split(find(f.Name)+"||||", "|")
		of := strings.TrimSpace(row[4])
		if f.Labels != nil && f.Source == nodes { // the line below that of containers
			row, of = []string{"", "", "id, node", row[3]}, nodes
			if !strings.Contains(string(readme), "| the same two | id, node |") {
				t.Error("the root of nodes is not told")
			}
		}
		told := strings.Replace(strings.TrimSpace(row[2]), "and those of `--pod-labels`", "label_app", 1)
		if of != f.Source || !slices.Contains(labels[f.Name], told) ||
			f.Kind == "counter" != strings.Contains(row[3], "a counter") && f.Kind != "" {
			t.Errorf("%s, a %s of %s with the labels %q, is told as: %s", f.Name, f.Kind, f.Source, labels[f.Name], row)
		}
	}
	for _, cell := range told {
		for _, name := range regexp.MustCompile("`(--[a-z.-]+|[a-z]+_[a-z_]+)[`{]").FindAllStringSubmatch(cell, -1) {
			if !known[name[1]] && !strings.HasPrefix(name[1], "kube_metrics_server_node_") &&
				!strings.HasPrefix(name[1], "exported_") {
				t.Errorf("%s is told, and does not exist", name[1])
			}
		}
	}
}

// FuzzLabelValue gives a pod any text in all places that become label values. What comes out must be one line that
// gives the same text again when it is read as the exposition format says.
func FuzzLabelValue(f *testing.F) {
	for _, s := range []string{"", "app", `C:\new`, "two\nlines", `say "hi"`, `\`, `\"`,
		"a\x00b", "\xff\xfe", "é\u2028\U0001F600", `\n`, "\r\n\t", `",pod="`, "}\n# HELP x"} {
		f.Add(s, "web-0")
		f.Add("web-0", s)
	}
	l := label.Pods{Keys: []string{"app"}, Names: []string{"label_app"}}
	f.Fuzz(func(t *testing.T, value, name string) {
		p := testPod(value, name, value, value, time.Now(), map[string]string{"app": value})
		text, kept := l.Text(&p)
		if kept != name {
			t.Errorf("the pod %q is kept as %q", name, kept)
		}
		rest := text.Node.Value() + text.Head + text.Tail.Value()
		for _, label := range [][2]string{{"node", value}, {"pod", name}, {"ip", value}, {"container", ""},
			{"namespace", value}, {"label_app", value}} {
			want := strings.ReplaceAll(strings.ToValidUTF8(label[1], "\uFFFD"), "\x00", "\uFFFD")
			var got string
			if got, rest = unquoteLabel(t, strings.TrimPrefix(rest, ","), label[0]); got != want {
				t.Errorf("%s is %q, want %q", label[0], got, want)
			}
		}
		if rest != "}" {
			t.Errorf("behind the labels: %q", rest)
		}
	})
}

// unquoteLabel reads NAME="VALUE" off the beginning of a label text.
func unquoteLabel(t *testing.T, text, name string) (value, rest string) {
	t.Helper()
	text, ok := strings.CutPrefix(text, name+`="`)
	if !ok {
		t.Fatalf("no %s in front of %q", name, text)
	}
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			return value, text[i+1:]
		case '\n':
			t.Fatalf("a line ends in the value of %s: %q", name, text)
		case '\\':
			i++
			unescaped, ok := map[byte]string{'\\': `\`, 'n': "\n", '"': `"`}[text[min(i, len(text)-1)]]
			if !ok {
				t.Fatalf("an unknown escape in the value of %s: %q", name, text)
			}
			value += unescaped
		default:
			value += text[i : i+1]
		}
	}
	t.Fatalf("the value of %s does not end: %q", name, text)
	return "", ""
}

// FuzzLabelNames gives --pod-labels any list. What is let through must become label names that Prometheus takes, each
// one once.
func FuzzLabelNames(f *testing.F) {
	for _, s := range []string{"", "app,team", "app.kubernetes.io/name", "a-b,a_b,a.b", "camelCase,camel_case,camel-case",
		"ABC,aBc", "app,app", "0,9a", " a , ,b,", "é", "a b", "x/y/z", "a,b!", "a-b,a_b,a_b_conflict1,a_b_conflict2"} {
		f.Add(s)
	}
	valid := regexp.MustCompile(`^label_[a-z0-9_]+$`)
	f.Fuzz(func(t *testing.T, list string) {
		var set settings
		for _, row := range set.table() {
			if row.Flag == "pod-labels" && row.Set(list) != "" {
				return
			}
		}
		seen := map[string]bool{}
		for i, name := range label.Names(set.PodLabels) {
			if !valid.MatchString(name) {
				t.Errorf("%q becomes %q", set.PodLabels[i], name)
			}
			if seen[name] {
				t.Errorf("%q: %s twice", list, name)
			}
			seen[name] = true
		}
	})
}

// bigCluster has n pods with the given number of containers, and labels as long as people's are.
func bigCluster(n, containers int) (c input) {
	r, now := rand.New(rand.NewPCG(1, 2)), time.Now()
	for i := range n {
		namespace, name := fmt.Sprintf("team-%d", i/200), fmt.Sprintf("service-%d-%x-%05x", i/20, r.Uint32(), i)
		labels := map[string]string{"app.kubernetes.io/name": fmt.Sprintf("service-%d", i/20),
			"app.kubernetes.io/instance":   fmt.Sprintf("service-%d", i/20),
			"app.kubernetes.io/managed-by": "Helm", "pod-template-hash": fmt.Sprintf("%08x", r.Uint32()),
			"topology.kubernetes.io/region": "eu-central-1"}
		node := fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", i/30/250, i/30%250)
		ip := fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)
		c.pods = append(c.pods, testPod(namespace, name, node, ip, now.Add(-time.Hour), labels))
		var of []string
		for j := range containers {
			of = append(of, []string{"app", "istio-proxy", "sidecar"}[j], fmt.Sprintf("%dn %dKi", r.IntN(2e9), r.IntN(1e6)))
		}
		u := podUsage(namespace, name, now, of...)
		u.Labels = labels
		c.usage.Items = append(c.usage.Items, u)
	}
	return c
}

// apiServer is the API server of a cluster inside a synctest bubble. Each namespace has a pod p with one container, of
// ReplicaSet web-5d, and one object of each other resource; where all are asked for there is one namespace, a. The
// cluster has nodes n1 and n2, of which n2's usage is the newer. What anything uses is as many bytes as seconds have
// passed since the beginning, and a core.
type apiServer struct {
	began time.Time
	stamp func(time.Time) time.Time // of the newest usage that there is at a moment

	mu sync.Mutex
	// "watch a/pods", "page a/pods" and "get namespaces/a" are requests for objects, "list nodes" and "get a/pods/p" for
	// usage.
	requests []string
	answers  map[string]answerer // what to do in place of the regular answer, by request
	have     map[string][]any    // objects of a resource in place of the regular ones, in whatever namespace
}

type answerer func(*http.Request) (*http.Response, error)

func (a *apiServer) RoundTrip(r *http.Request) (*http.Response, error) {
	_, path, usage := strings.Cut(r.URL.Path, "/v1beta1/")
	if !usage {
		_, path, _ = strings.Cut(r.URL.Path, "/v1/")
	}
	if of, found := strings.CutPrefix(path, "namespaces/"); found && strings.Contains(of, "/") {
		path = of
	}
	var namespace, resource, object string
	switch names := strings.Split(path, "/"); {
	case names[0] == nodes || names[0] == namespaces || len(names) == 1:
		resource, object = names[0], strings.Join(names[1:], "")
	default:
		namespace, resource, object = names[0], names[1], strings.Join(names[2:], "")
	}
	verb := "list"
	switch {
	case r.URL.Query().Get("watch") != "":
		verb = "watch"
	case object != "":
		verb = "get"
	case !usage:
		verb = "page"
	}
	a.mu.Lock()
	a.requests = append(a.requests, verb+" "+path)
	answer := a.answers[verb+" "+path]
	a.mu.Unlock()
	switch {
	case answer != nil:
		return answer(r)
	case verb == "watch":
		return a.watch(r, resource, namespace)
	case !usage && verb == "get":
		return answerJSON(r, http.StatusOK, a.objects(resource, object)[0])
	case !usage:
		list := itemList{typeOf(resource), metav1.ListMeta{ResourceVersion: "1"}, a.objects(resource, namespace)}
		list.Kind += "List"
		return answerJSON(r, http.StatusOK, list)
	}
	kind, of := "PodMetrics", []any{a.usage(cmp.Or(namespace, "a"), "p", 0)}
	if resource == nodes {
		kind, of = "NodeMetrics", []any{a.usage("", "n2", 0), a.usage("", "n1", 5*time.Second)}
	}
	one := of[0].(map[string]any)
	if verb == "list" {
		kind, one = kind+"List", map[string]any{"items": of}
	}
	one["kind"], one["apiVersion"] = kind, kube.Metrics.String()
	return answerJSON(r, http.StatusOK, one)
}

type itemList struct {
	metav1.TypeMeta
	metav1.ListMeta `json:"metadata"`
	Items           []any `json:"items"`
}

// usage is that of a node or pod, so much older than the newest.
func (a *apiServer) usage(namespace, name string, older time.Duration) map[string]any {
	used := corev1.ResourceList{corev1.ResourceCPU: quantity.MustParse("1"),
		corev1.ResourceMemory: *quantity.NewQuantity(int64(time.Since(a.began).Seconds()), "")}
	return map[string]any{"metadata": metav1.ObjectMeta{Namespace: namespace, Name: name},
		"timestamp": metav1.NewTime(a.stamp(time.Now()).Add(-older)), "window": "15s", "usage": used,
		"containers": []any{map[string]any{"name": "c", "usage": used}}}
}

func answerJSON(r *http.Request, status int, object any) (*http.Response, error) {
	body, err := json.Marshal(object)
	header := http.Header{"Content-Type": {"application/json"}}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, err
}

// typeOf is what the objects of a resource are read as.
func typeOf(resource string) metav1.TypeMeta {
	kinds := map[string]string{pods: "Pod", nodes: "Node", quotas: "ResourceQuota"}
	if kinds[resource] == "" {
		return metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: "meta.k8s.io/v1"}
	}
	return metav1.TypeMeta{Kind: kinds[resource], APIVersion: "v1"}
}

// objects are what the cluster has of a resource in a namespace, or in all. Where it is a namespace itself that is
// asked for, that is it.
func (a *apiServer) objects(resource, namespace string) []any {
	a.mu.Lock()
	have, set := a.have[resource]
	a.mu.Unlock()
	if set {
		return have
	}
	is, namespace := typeOf(resource), cmp.Or(namespace, "a")
	meta := metav1.ObjectMeta{Namespace: namespace, ResourceVersion: "1",
		CreationTimestamp: metav1.NewTime(a.began.Add(-time.Hour))}
	named := func(name string, owners ...metav1.OwnerReference) metav1.ObjectMeta {
		meta.Name, meta.OwnerReferences = name, owners
		return meta
	}
	controller := func(kind, name string) metav1.OwnerReference {
		return metav1.OwnerReference{Kind: kind, Name: name, Controller: new(true)}
	}
	switch resource {
	case pods:
		running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: meta.CreationTimestamp}}
		pod := corev1.Pod{TypeMeta: is,
			Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "c:1"}}},
			ObjectMeta: named("p", controller("ReplicaSet", "web-5d"), controller("Job", "backup-29000000")),
			Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
				{Name: "c", Image: "c:1", ContainerID: "containerd://c1", State: running}}}}
		pod.Labels = map[string]string{"pod-template-hash": "5d"}
		return []any{pod}
	case nodes:
		meta.Namespace = ""
		capacity := corev1.ResourceList{corev1.ResourceCPU: quantity.MustParse("4"),
			corev1.ResourceMemory: quantity.MustParse("8Gi")}
		status := corev1.NodeStatus{Capacity: capacity, Allocatable: capacity}
		meta.Labels = map[string]string{"node-role.kubernetes.io/worker": ""}
		return []any{corev1.Node{TypeMeta: is, ObjectMeta: named("n1"), Status: status},
			corev1.Node{TypeMeta: is, ObjectMeta: named("n2"), Status: status}}
	case quotas:
		hard := corev1.ResourceList{corev1.ResourcePods: quantity.MustParse("10")}
		return []any{corev1.ResourceQuota{TypeMeta: is, ObjectMeta: named("q"),
			Status: corev1.ResourceQuotaStatus{Hard: hard}}}
	case namespaces:
		meta.Namespace = ""
		return []any{metav1.PartialObjectMetadata{TypeMeta: is, ObjectMeta: named(namespace)}}
	case replicaSets:
		return []any{metav1.PartialObjectMetadata{TypeMeta: is,
			ObjectMeta: named("web-5d", controller("Rollout", "web"))}}
	}
	return []any{metav1.PartialObjectMetadata{TypeMeta: is,
		ObjectMeta: named("backup-29000000", controller("CronJob", "nightly"))}}
}

// watch answers with the objects of a namespace, and nothing more until the request ends.
func (a *apiServer) watch(r *http.Request, resource, namespace string) (*http.Response, error) {
	answer, err := hangsLater(r)
	answer.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(a.initialEvents(r, resource, namespace), answer.Body), answer.Body}
	return answer, err
}

// initialEvents are those that a watch begins with, where it is asked for them.
func (a *apiServer) initialEvents(r *http.Request, resource, namespace string) io.Reader {
	var events bytes.Buffer
	if r.URL.Query().Get("sendInitialEvents") == "" {
		return &events
	}
	for _, object := range a.objects(resource, namespace) {
		json.NewEncoder(&events).Encode(map[string]any{"type": "ADDED", "object": object})
	}
	listed := metav1.PartialObjectMetadata{TypeMeta: typeOf(resource), ObjectMeta: metav1.ObjectMeta{ResourceVersion: "1",
		Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}
	json.NewEncoder(&events).Encode(map[string]any{"type": "BOOKMARK", "object": listed})
	return &events
}

// answer has a request answered so from now on; nil for as ever.
func (a *apiServer) answer(request string, as answerer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[request] = as
}

// asked is the requests since the last call that begin with this.
func (a *apiServer) asked(prefix string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := slices.DeleteFunc(a.requests, func(r string) bool { return !strings.HasPrefix(r, prefix) })
	a.requests = nil
	return asked
}

var statusType = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}

// lacks is the answer of a server that has no such resource.
func lacks(r *http.Request) (*http.Response, error) {
	return answerJSON(r, http.StatusNotFound, metav1.Status{TypeMeta: statusType, Status: "Failure", Code: 404,
		Reason: metav1.StatusReasonNotFound})
}

// forbids refuses a request for lack of rights.
func forbids(r *http.Request) (*http.Response, error) {
	return answerJSON(r, http.StatusForbidden, metav1.Status{TypeMeta: statusType, Status: "Failure", Code: 403})
}

// breaks is a connection that is refused.
func breaks(*http.Request) (*http.Response, error) { return nil, syscall.ECONNREFUSED }

// hangs never answers.
func hangs(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// hangsLater begins an answer that does not go on.
func hangsLater(r *http.Request) (*http.Response, error) {
	out, in := io.Pipe()
	context.AfterFunc(r.Context(), func() { in.CloseWithError(r.Context().Err()) })
	header := http.Header{"Content-Type": {"application/json"}}
	return &http.Response{StatusCode: http.StatusOK, Header: header, Body: out, Request: r}, nil
}

// epoch is when the time in every bubble begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// bubble is a server and its connection to an apiServer, inside a synctest bubble. Of it, only the pulse runs.
type bubble struct {
	*server
	*connection
	t     *testing.T
	api   *apiServer
	begin func(func(context.Context)) // begins what goes on until the end of the test
	pulse context.CancelFunc          // ends the pulse
}

func inBubble(t *testing.T, set scope.Settings, do func(t *testing.T, b *bubble)) {
	t.Helper()
	// The race detector crashes now and then where two threads run timers of a bubble: https://go.dev/issue/78156
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, api: &apiServer{began: time.Now(), answers: map[string]answerer{}, have: map[string][]any{},
			stamp: func(now time.Time) time.Time { return now }}}
		var running sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		b.begin = func(do func(context.Context)) { running.Go(func() { do(ctx) }) }
		var none *connection
		if b.server, none = newTestServer(t, set); set.RefreshInterval != 0 {
			b.server.set.RefreshInterval = set.RefreshInterval
		}
		b.one().leave(none)
		b.connection = b.one().connect(b.api.client)
		b.unfreeze()
		do(t, b)
		stop()
		running.Wait()
	})
}

// client is a client of the API, as package kube makes it.
func (a *apiServer) client(group schema.GroupVersion) rest.Interface {
	scheme := kruntime.NewScheme()
	metav1.AddToGroupVersion(scheme, kube.Core)
	config := &rest.Config{Host: "http://cluster", APIPath: "/apis", QPS: -1}
	if group == kube.Core {
		config.APIPath = "/api"
	}
	config.GroupVersion, config.NegotiatedSerializer = &group, serializer.NewCodecFactory(scheme).WithoutConversion()
	c, err := rest.RESTClientForConfigAndClient(config, &http.Client{Transport: a})
	if err != nil {
		panic(err)
	}
	return c
}

// freeze has the process stand still for so long: nobody looks at its clocks. Nothing that does may go on meanwhile,
// which are probes, and attempts to refresh that begin or end then.
func (b *bubble) freeze(length time.Duration) {
	b.pulse()
	time.Sleep(length)
	b.unfreeze()
}

func (b *bubble) unfreeze() {
	running, stop := context.WithCancel(b.t.Context())
	b.pulse = stop
	b.begin(func(ctx context.Context) { defer context.AfterFunc(ctx, stop)(); b.fleet.Pulse.Run(running) })
}

// scrape is one by a scraper whose timeout is 10 s: what is answered, and after how long.
func (b *bubble) scrape() (status int, body string, took time.Duration) {
	b.t.Helper()
	return b.scrapePage("")
}

// scrapePage is a scrape of the page of that name.
func (b *bubble) scrapePage(name string) (status int, body string, took time.Duration) {
	b.t.Helper()
	began := time.Now()
	resp := get(b.t, b.server, path.Join("/metrics", name), "X-Prometheus-Scrape-Timeout-Seconds", "10")
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(text), time.Since(began)
}

// age is how long ago the usage of a namespace's pod was read that is on the page; false where there is none.
func (b *bubble) age(page, namespace string) (time.Duration, bool) {
	b.t.Helper()
	name := fmt.Sprintf(`pod_mem{node="n",pod="p",ip="",container="c",namespace=%q} `, namespace)
	_, line, found := strings.Cut(page, name)
	line, _, _ = strings.Cut(line, "\n")
	at, err := strconv.Atoi(line)
	if found && err != nil {
		b.t.Error(err)
	}
	return time.Since(b.api.began) - time.Duration(at)*time.Second, found
}

// TestNamespacesFailOneByOne is fault 3: of two namespaces one does not work, in each way that there is.
func TestNamespacesFailOneByOne(t *testing.T) {
	const scrapeTimeout, regular = 10 * time.Second, 17 * time.Second
	for name, broken := range map[string]map[string]answerer{
		"its usage is refused": {"list b/pods": forbids},
		"its usage is slow":    {"list b/pods": hangs},
		"its usage gets stuck": {"list b/pods": hangsLater},
		"its pods are refused": {"watch b/pods": forbids, "page b/pods": forbids},
		"its pods are slow":    {"watch b/pods": hangs, "page b/pods": hangs},
		"its pods get stuck":   {"watch b/pods": hangsLater, "page b/pods": hangsLater},
		"all of it is refused": {"watch b/pods": forbids, "page b/pods": forbids, "list b/pods": forbids},
	} {
		// serves checks that a page comes in time, has what namespace a has, and tells whether it has something of b.
		serves := func(b *bubble, within time.Duration) bool {
			b.t.Helper()
			status, page, took := b.scrape()
			age, found := b.age(page, "a")
			if status != http.StatusOK || took > within || !found || age > regular {
				b.t.Errorf("%s after the start: status %d after %s, a is there (%t) and %s old, want it within %s:\n%s",
					time.Since(b.api.began), status, took, found, age, within, page)
			}
			age, found = b.age(page, "b")
			if found && age >= b.server.set.MaxAge {
				b.t.Errorf("what is served of b is %s old", age)
			}
			return found
		}
		breakB := func(b *bubble) {
			for request, as := range broken {
				b.api.answer(request, as)
			}
		}
		set := scope.Settings{Namespaces: []string{"a", "b"}}
		t.Run(name+" at a start", func(t *testing.T) {
			inBubble(t, set, func(t *testing.T, b *bubble) {
				breakB(b)
				b.begin(b.run)
				has := serves(b, scrapeTimeout-time.Second/2)
				time.Sleep(time.Minute)
				for range 30 {
					has = serves(b, 0) || has
					time.Sleep(7 * time.Second)
				}
				if has {
					t.Error("there was something of b")
				}
				_, page, _ := b.scrape()
				for _, up := range []string{`up{resource="pods",namespace="a"} 1`, `up{resource="pods",namespace="b"} 0`} {
					if !strings.Contains(page, selfmetrics.Prefix+up+"\n") {
						t.Errorf("no %s on the page:\n%s", up, page)
					}
				}
				health, _ := io.ReadAll(get(t, b.server, "/healthz").Body)
				if !strings.Contains(string(health), " of namespace b: failing") ||
					strings.Contains(string(health), "namespace a:") {
					t.Errorf("the health page does not tell what fails: %s", health)
				}
			})
		})
		t.Run(name+" later", func(t *testing.T) {
			inBubble(t, set, func(t *testing.T, b *bubble) {
				b.begin(b.run)
				has := serves(b, 0)
				time.Sleep(time.Minute)
				breakB(b)
				for range 60 {
					if !has {
						t.Fatal("what was read of b is gone before it is old")
					}
					time.Sleep(4 * time.Second)
					has = serves(b, 0)
				}
				time.Sleep(2 * time.Minute)
				_, refused := broken["list b/pods"]
				if has = serves(b, 0); has == refused {
					t.Errorf("after max-age something of b is served: %t", has)
				}
			})
		})
	}
}

// TestPodsAreListedAnewAfterAFreeze has each list of usage ask, some time after a freeze, whether the pods are watched.
// Their watch may be dead without having been told.
func TestPodsAreListedAnewAfterAFreeze(t *testing.T) {
	anew := []string{"watch a/pods", "watch b/pods"}
	for name, c := range map[string]struct {
		freezes []time.Duration
		want    []string
	}{
		"a process that runs": {nil, nil},
		"a short one":         {[]time.Duration{4 * time.Second}, nil},
		"a long one":          {[]time.Duration{5500 * time.Millisecond}, anew},
		"several short ones":  {[]time.Duration{4 * time.Second, 4 * time.Second}, anew},
		"two minutes":         {[]time.Duration{2 * time.Minute}, anew},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scope.Settings{Namespaces: []string{"a", "b"}}, func(t *testing.T, b *bubble) {
				b.begin(b.Pods.Watch.Run)
				ready := func() {
					t.Helper()
					for _, l := range b.lists[1:] {
						if err := l.Ready(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
				}
				ready()
				time.Sleep(10 * time.Second)
				ready()
				if asked := b.api.asked("watch"); !slices.Equal(slices.Sorted(slices.Values(asked)), anew) {
					t.Fatalf("the watch begins with %q", asked)
				}
				for _, length := range c.freezes {
					b.freeze(length)
					time.Sleep(time.Second)
				}
				for range 3 {
					ready() // once for all lists
					time.Sleep(10 * time.Second)
				}
				if asked := b.api.asked("watch"); !slices.Equal(slices.Sorted(slices.Values(asked)), c.want) {
					t.Errorf("asks for %q, want %q", asked, c.want)
				}
			})
		})
	}
}

// TestShortFreezesBetweenAttemptsDoNotAddUp has each of them followed by an attempt.
func TestShortFreezesBetweenAttemptsDoNotAddUp(t *testing.T) {
	inBubble(t, scope.Settings{}, func(t *testing.T, b *bubble) {
		b.begin(b.Pods.Watch.Run)
		for range 5 {
			if err := b.lists[1].Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.freeze(4 * time.Second)
		}
		if asked := b.api.asked("watch"); len(asked) != 1 {
			t.Errorf("asks for %q", asked)
		}
	})
}

// TestUsageIsNotJoinedWithPodsOfLongAgo has a watch that breaks once it has its list, and cannot be opened again.
func TestUsageIsNotJoinedWithPodsOfLongAgo(t *testing.T) {
	inBubble(t, scope.Settings{MaxAge: time.Minute}, func(t *testing.T, b *bubble) {
		b.api.answer("page pods", breaks)
		b.api.answer("watch pods", func(r *http.Request) (*http.Response, error) {
			b.api.answer("watch pods", breaks)
			answer, err := hangsLater(r)
			answer.Body = io.NopCloser(b.api.initialEvents(r, pods, ""))
			return answer, err
		})
		b.begin(b.Pods.Watch.Run)
		ready := func() error { return b.lists[1].Ready(t.Context()) }
		if err := ready(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := ready(); err != nil {
			t.Errorf("broken for less than max-age: %v", err)
		}
		time.Sleep(5 * time.Second) // a watch that ends at once is opened again after 2 s
		if f, _ := ready().(*kube.Failure); f == nil || f.Reason != kube.Network {
			t.Errorf("broken for longer than max-age: %v", f)
		}
		b.api.answer("watch pods", nil)
		b.api.answer("page pods", nil)
		time.Sleep(7 * time.Second)
		if err := ready(); err != nil {
			t.Errorf("mended: %v", err)
		}
	})
}

// TestUsageIsReadAsSoonAsThePodsAreThere has pods that are refused at first.
func TestUsageIsReadAsSoonAsThePodsAreThere(t *testing.T) {
	inBubble(t, scope.Settings{}, func(t *testing.T, b *bubble) {
		b.api.answer("watch pods", forbids)
		b.api.answer("page pods", forbids)
		b.begin(b.run)
		time.Sleep(time.Minute)
		var allowed, read time.Time
		b.api.answer("watch pods", func(r *http.Request) (*http.Response, error) {
			allowed = time.Now()
			return b.api.watch(r, pods, "")
		})
		b.api.answer("list pods", func(r *http.Request) (*http.Response, error) {
			read = time.Now()
			return hangs(r)
		})
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if allowed.IsZero() || !read.Equal(allowed) {
			t.Errorf("pods at %s, their usage at %s", allowed, read)
		}
	})
}

// TestDeletedPodsAreForgottenInTime deletes a pod of which there may be usage as long as that is served.
func TestDeletedPodsAreForgottenInTime(t *testing.T) {
	inBubble(t, scope.Settings{MaxAge: time.Minute}, func(t *testing.T, b *bubble) {
		gone := testPod("a", "gone", "n", "i", time.Now(), nil)
		b.Pods.Store.Put(b.Pods.Watch.Keep(&gone))
		b.Pods.Store.Delete(b.Pods.Watch.Keep(&gone))
		b.begin(b.Pods.Watch.Run)
		for _, step := range []struct {
			after time.Duration
			known bool
		}{{0, true}, {time.Minute, true}, {1, false}} {
			time.Sleep(step.after)
			if err := b.lists[1].Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, known := b.Pods.Store.Find([]byte("a"), []byte("gone")); known != step.known {
				t.Errorf("%s later it is known that the pod was deleted: %t", step.after, known)
			}
		}
	})
}

// TestProbesAreOfWhatTheShippedRolesAllow is of fault 1. The ClusterRole has get of nodes, the Roles that of pods.
func TestProbesAreOfWhatTheShippedRolesAllow(t *testing.T) {
	for name, c := range map[string]struct {
		namespaces []string
		answers    map[string]answerer
		want       []string
	}{
		"the cluster: the node whose usage is the newest": {nil, nil, []string{"get nodes/n2"}},
		"the cluster, and no right to nodes: nothing":     {nil, map[string]answerer{"list nodes": forbids}, nil},
		"namespaces: a pod":                               {[]string{"a"}, nil, []string{"get a/pods/p"}},
		"namespaces, of which one has no usage: another's pod": {[]string{"a", "b"},
			map[string]answerer{"list a/pods": forbids}, []string{"get b/pods/p"}},
		"namespaces without usage: nothing": {[]string{"a"}, map[string]answerer{"list a/pods": forbids}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scope.Settings{Namespaces: c.namespaces}, func(t *testing.T, b *bubble) {
				b.api.stamp = func(now time.Time) time.Time { return now.Truncate(15 * time.Second) }
				for request, as := range c.answers {
					b.api.answer(request, as)
				}
				b.begin(b.run)
				time.Sleep(5 * time.Minute)
				asked := b.api.asked("get")
				if got := slices.Compact(slices.Sorted(slices.Values(asked))); !slices.Equal(got, c.want) {
					t.Errorf("probes of %q, want %q", got, c.want)
				}
				if period := b.ticks.Fresh.Period().Round(time.Second); (period == 15*time.Second) != (c.want != nil) {
					t.Errorf("the period is %s", period)
				}
			})
		})
	}
}

// TestTick is when the lists are read after a tick, counted from the read before.
func TestTick(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		refresh, period time.Duration   // 0 for a period that is not known
		ticks           []time.Duration // after the first read
		want            time.Duration   // the second
	}{
		"no tick":                                      {15 * s, 0, nil, 15 * s},
		"one in time":                                  {15 * s, 15 * s, []time.Duration{10 * s}, 10 * s},
		"one right after a read is put off":            {15 * s, 15 * s, []time.Duration{s}, 3 * s},
		"one at once":                                  {15 * s, 15 * s, []time.Duration{0}, 3 * s},
		"one after three seconds is not":               {15 * s, 15 * s, []time.Duration{3 * s}, 3 * s},
		"of a source that nobody knows":                {15 * s, 0, []time.Duration{2 * s}, 3 * s},
		"of several within the interval, the last":     {15 * s, 5 * s, []time.Duration{4 * s, 9 * s, 14 * s}, 14 * s},
		"the last may be as late as the next interval": {15 * s, 5 * s, []time.Duration{5 * s, 10 * s, 15 * s}, 15 * s},
		"of a slow scope.Settings, each":               {15 * s, 60 * s, []time.Duration{5 * s}, 5 * s},
		"where the last does not come":                 {15 * s, 5 * s, []time.Duration{4 * s, 9 * s}, 17 * s},
		"of a fast source and a long interval":         {60 * s, 15 * s, []time.Duration{29 * s, 44 * s, 59 * s}, 59 * s},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scope.Settings{RefreshInterval: c.refresh}, func(t *testing.T, b *bubble) {
				began := time.Now()
				if b.ticks.Fresh.Tick(began, c.period); c.period == 0 {
					b.ticks.Fresh.Lost()
				}
				reads := make([][]time.Duration, len(b.lists))
				for i, l := range b.lists {
					l.Loop.Read = func(context.Context, refresh.Attempt) error {
						l.Joiner.Begin()
						reads[i] = append(reads[i], time.Since(began))
						return nil
					}
					b.begin(l.Loop.Run)
				}
				synctest.Wait()
				for _, tick := range c.ticks {
					time.Sleep(time.Until(began.Add(tick)))
					b.ticks.Tick(began, c.period)
				}
				time.Sleep(time.Until(began.Add(c.want)))
				synctest.Wait()
				for i, l := range b.lists {
					if want := []time.Duration{0, c.want}; !slices.Equal(reads[i], want) {
						t.Errorf("%s are read after %s, want %s", l.What, reads[i], want)
					}
				}
			})
		})
	}
}

// TestInterval is the most time between two reads, for sources of each period.
func TestInterval(t *testing.T) {
	const s = time.Second
	for _, c := range []struct{ refresh, period, want time.Duration }{
		{15 * s, s, 15 * s}, // no period is worth following
		{15 * s, 15 * s, 17 * s},
		{15 * s, 60 * s, 62 * s},
		{60 * s, 15 * s, 62 * s},
		{15 * s, 130 * s, 122 * s},
		{15 * s, 600 * s, 15 * s},
		{600 * s, 60 * s, 602 * s},
	} {
		t.Run(fmt.Sprintf("%s of a source of %s", c.refresh, c.period), func(t *testing.T) {
			inBubble(t, scope.Settings{RefreshInterval: c.refresh, MaxAge: time.Hour}, func(t *testing.T, b *bubble) {
				b.api.stamp = func(now time.Time) time.Time { return now.Truncate(c.period) }
				b.begin(b.run)
				longest := time.Duration(0)
				for range 1800 {
					time.Sleep(time.Second)
					longest = max(longest, b.ticks.Fresh.Interval(c.refresh))
				}
				most := max(c.refresh, 2*time.Minute) + 2*s
				if longest > most || (longest-c.want).Abs() > 2*s || longest < c.want-s {
					t.Errorf("%s, want %s and never more than %s", longest, c.want, most)
				}
			})
		})
	}
}

// TestNewestSampleOfAClockThatIsAhead is fault 9: what alerts on the age of the newest sample must be able to. One of
// two pods is on a node whose clock is ahead. The list is read every 15 seconds, for two minutes.
func TestNewestSampleOfAClockThatIsAhead(t *testing.T) {
	const half, end = 30 * time.Second, 2 * time.Minute
	until := func(stop time.Duration) func(time.Duration) time.Duration {
		return func(now time.Duration) time.Duration { return min(now, stop) }
	}
	for name, c := range map[string]struct {
		pod, other  func(time.Duration) time.Duration // when they were measured, since the start; nil for no such pod
		ahead       time.Duration                     // of the other's clock
		newest, new time.Duration                     // what the page says at the end, since the start
	}{
		"both are measured":                {until(end), until(end), time.Hour, end, end},
		"the one that is ahead stops":      {until(end), until(half), time.Hour, end, end},
		"the other stops":                  {until(half), until(end), time.Hour, end, end},
		"both stop":                        {until(half), until(half), time.Hour, half, half},
		"there is only that one":           {nil, until(end), time.Hour, end, end},
		"there is only that one, it stops": {nil, until(half), time.Hour, half, half},
		"a clock that is a little ahead":   {nil, until(half), half, half + half, half},
		"no clock is ahead, both stop":     {until(half), until(half), 0, half, half},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scope.Settings{}, func(t *testing.T, b *bubble) {
				began := time.Now()
				told := func(name string) time.Duration {
					_, page, _ := b.scrape()
					_, value, _ := strings.Cut(page, "\n"+selfmetrics.Prefix+name+" ")
					value, _, _ = strings.Cut(value, "\n")
					stamp, err := strconv.ParseFloat(value, 64)
					if err != nil {
						t.Fatalf("no %s on the page:\n%s", name, page)
					}
					return time.Unix(int64(stamp), 0).Sub(began)
				}
				newest := func() time.Duration { return told(`newest_sample_timestamp_seconds{resource="pods"}`) }
				for now := time.Since(began); now <= end; now = time.Since(began) {
					var items []metricsv1beta1.PodMetrics
					if c.pod != nil {
						items = append(items, podUsage("a", "p", began.Add(c.pod(now)), "x", "1 1"))
					}
					items = append(items, podUsage("a", "other", began.Add(c.other(now)+c.ahead), "x", "1 1"))
					run(t, b.connection, input{usage: metricsv1beta1.PodMetricsList{Items: items}})
					if got := newest(); got > now {
						t.Errorf("after %s the newest sample is of the future: %s", now, got)
					}
					time.Sleep(15 * time.Second)
				}
				if got := newest(); got != c.newest {
					t.Errorf("the newest sample is of %s after the start, want %s", got, c.newest)
				}
				if got := told("data_last_new_timestamp_seconds"); got != c.new {
					t.Errorf("there were new data %s after the start, want %s", got, c.new)
				}
			})
		})
	}
}

// TestPageMadeAcrossAThawIsNotServed has the process stand still while a page is made of what was current.
func TestPageMadeAcrossAThawIsNotServed(t *testing.T) {
	inBubble(t, scope.Settings{}, func(t *testing.T, b *bubble) {
		b.begin(b.Pods.Watch.Run)
		for _, l := range b.lists {
			b.begin(l.Loop.Run)
		}
		b.scrape()
		time.Sleep(2 * time.Second)
		made := 0
		b.server.self.Gauge("asked_for_whenever_a_page_is_made", "", "", func() float64 {
			if made++; made == 1 {
				b.freeze(5 * time.Second)
			}
			return 0
		})
		status, page, took := b.scrape()
		age, found := b.age(page, "a")
		if status != http.StatusOK || !found || age != 0 || took != 5*time.Second || made != 2 {
			t.Errorf("status %d after %s with a sample (%t) %s old, of page %d; want what was read after the thaw:\n%s",
				status, took, found, age, made, page)
		}
	})
}

// TestHealthPage is the original tool's page, with lines below it.
func TestHealthPage(t *testing.T) {
	failure := &kube.Failure{Reason: kube.Network, Text: "cannot list nodes.metrics.k8s.io: refused; mend it"}
	for name, c := range map[string]struct {
		tell   func(*cluster)
		status int
		want   string // a regular expression
	}{
		"nothing to tell": {func(*cluster) {}, 200, `ok`},
		"a notice does no harm": {func(c *cluster) { c.health.SetNotice("pods (3)", "7 samples") }, 200,
			"ok\npods \\(3\\): since .*: 7 samples\n"},
		"a failure": {func(c *cluster) { c.health.SetUnhealthy(nodes, failure, "") }, 503,
			"failed\nnodes: failing since .*: cannot list .*; mend it\n"},
		"both": {func(c *cluster) {
			c.health.SetNotice("a notice", "7 samples")
			c.health.SetUnhealthy(nodes, failure, "")
		}, 503, "failed\nnodes: .*\na notice: .*\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s, n := newTestServer(t, scope.Settings{})
			before, _ := io.ReadAll(get(t, s, "/healthz").Body)
			if want := "failed\npods, nodes: not read yet\n"; string(before) != want {
				t.Errorf("before the first data: %q, want %q", before, want)
			}
			run(t, n, input{})
			c.tell(s.one())
			resp := get(t, s, "/healthz")
			body, _ := io.ReadAll(resp.Body)
			if !regexp.MustCompile(`^`+c.want+`$`).Match(body) || resp.StatusCode != c.status {
				t.Errorf("status %d, want %d:\n%q, want %q", resp.StatusCode, c.status, body, c.want)
			}
		})
	}
}

func TestEncodingThatThereIsNotIsAnsweredWithThoseThatThereAre(t *testing.T) {
	s, n := newTestServer(t, scope.Settings{})
	run(t, n, input{})
	resp := get(t, s, "/metrics", "Accept-Encoding", "br, identity;q=0")
	body, _ := io.ReadAll(resp.Body)
	if string(body) != "available encodings: gzip, identity\n" || resp.StatusCode != http.StatusNotAcceptable ||
		resp.Header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("status %d, Vary %q: %q", resp.StatusCode, resp.Header.Get("Vary"), body)
	}
}

// TestStopLetsGoOfScrapesThatWait has each page wait for first data that do not come.
func TestStopLetsGoOfScrapesThatWait(t *testing.T) {
	for _, name := range append([]string{""}, furtherPages...) {
		inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
			time.AfterFunc(time.Second, b.stop)
			if status, body, took := b.scrapePage(name); status != http.StatusServiceUnavailable || took != time.Second {
				t.Errorf("%s: status %d after %s: %s", name, status, took, body)
			}
		})
	}
}

// TestFirstPage is what is answered 20 s after a start, after which time what hangs has been cut off once.
func TestFirstPage(t *testing.T) {
	all := func(as answerer, requests ...string) map[string]answerer {
		answers := map[string]answerer{}
		for _, request := range requests {
			answers[request] = as
		}
		return answers
	}
	for name, c := range map[string]struct {
		answers      map[string]answerer
		early, later bool // whether there is a page
	}{
		"all works":                 {nil, true, true},
		"nodes are refused":         {all(forbids, "list nodes"), true, true},
		"nodes hang":                {all(hangs, "list nodes"), false, true},
		"one namespace's pods hang": {all(hangs, "list b/pods"), true, true},
		"all pods hang":             {all(hangs, "list a/pods", "list b/pods"), false, true},
		"all pods are refused":      {all(forbids, "list a/pods", "list b/pods"), true, true},
		"everything is refused":     {all(forbids, "list nodes", "list a/pods", "list b/pods"), false, false},
		"the pods' watches hang":    {all(hangs, "watch a/pods", "watch b/pods"), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scope.Settings{Namespaces: []string{"a", "b"}}, func(t *testing.T, b *bubble) {
				for request, as := range c.answers {
					b.api.answer(request, as)
				}
				b.begin(b.run)
				synctest.Wait()
				check := func(page bool) {
					t.Helper()
					if status, body, _ := b.scrape(); (status == http.StatusOK) != page {
						t.Errorf("%s after the start: status %d: %s", time.Since(b.api.began), status, body)
					}
				}
				check(c.early)
				time.Sleep(time.Until(b.api.began.Add(20 * time.Second)))
				check(c.later)
				ready := get(t, b.server, "/-/ready").StatusCode == http.StatusOK
				if ready != c.later {
					t.Errorf("ready is %t", ready)
				}
			})
		})
	}
}

// TestWhatIsAskedFor is what the server is told to leave out.
func TestWhatIsAskedFor(t *testing.T) {
	const inNamespaces = "metadata.namespace!=x,metadata.namespace!=y"
	set := scope.Settings{Selector: "app=shop", ExcludeNamespaces: []string{"x", "y"}, Pages: furtherPages}
	inBubble(t, set, func(t *testing.T, b *bubble) {
		asked := make(chan url.Values, 10)
		record := func(request string) {
			b.api.answer(request, func(r *http.Request) (*http.Response, error) {
				asked <- r.URL.Query()
				return hangs(r)
			})
		}
		for request, want := range map[string]struct{ labels, fields string }{
			"watch pods": {"app=shop", inNamespaces}, "list pods": {"app=shop", ""}, "list nodes": {}, "watch nodes": {},
			"watch namespaces": {"", "metadata.name!=x,metadata.name!=y"}, "watch resourcequotas": {"", inNamespaces},
			"watch replicasets": {"", inNamespaces}, "watch jobs": {"", inNamespaces},
		} {
			b.api.answers = map[string]answerer{}
			record(request)
			n := b.one().connect(b.api.client)
			ctx, stop := context.WithCancel(t.Context())
			go n.run(ctx)
			q := <-asked
			if q.Get("labelSelector") != want.labels || q.Get("fieldSelector") != want.fields {
				t.Errorf("%s: asks for %s, want %s", request, q, want)
			}
			stop()
			b.one().leave(n)
			synctest.Wait()
		}
	})
}

// TestNodesThatAreForbidden do no harm. Where there are only Roles in namespaces nobody is meant to have them, and an
// alert on up is not to fire for ever (fault 18).
func TestNodesThatAreForbidden(t *testing.T) {
	for name, c := range map[string]struct {
		namespaces []string
		up         bool // whether there is a sample of it
	}{"in the cluster": {nil, true}, "with namespaces": {[]string{"a"}, false}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scope.Settings{Namespaces: c.namespaces}, func(t *testing.T, b *bubble) {
				b.api.answer("list nodes", forbids)
				b.begin(b.run)
				_, page, _ := b.scrape()
				if up := strings.Contains(page, selfmetrics.Prefix+`up{resource="nodes"} 0`); up != c.up {
					t.Errorf("up is there: %t, want %t:\n%s", up, c.up, page)
				}
				if health := get(t, b.server, "/healthz"); health.StatusCode != http.StatusOK {
					t.Errorf("/healthz answers %d", health.StatusCode)
				}
			})
		})
	}
}

// TestAFailedProbeLosesThePhase has the object that is looked at fail. Its period is nothing to rely on any more, and
// another object is looked at after a pause.
func TestAFailedProbeLosesThePhase(t *testing.T) {
	for name, fails := range map[string]answerer{"refused": forbids, "no answer": hangs, "half an answer": hangsLater} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scope.Settings{Namespaces: []string{"a", "b"}}, func(t *testing.T, b *bubble) {
				b.api.stamp = func(now time.Time) time.Time { return now.Truncate(15 * time.Second) }
				b.begin(b.run)
				time.Sleep(2 * time.Minute)
				probed := slices.Compact(b.api.asked("get"))
				if len(probed) != 1 || b.ticks.Fresh.Period() == 0 {
					t.Fatalf("probes of %q, a period of %s", probed, b.ticks.Fresh.Period())
				}
				b.api.answer(probed[0], fails)
				b.api.answer(strings.Replace(probed[0], "get", "list", 1)[:len("list a/pods")], forbids)
				time.Sleep(22 * time.Second) // the next tick, and the most that a probe may take
				if period := b.ticks.Fresh.Period(); period != 0 {
					t.Errorf("the period is still %s", period)
				}
				time.Sleep(30 * time.Second)
				if asked := b.api.asked("get"); len(asked) > 3 {
					t.Errorf("no pause after a failure: %q", asked)
				}
				time.Sleep(2 * time.Minute)
				asked, period := b.api.asked("get"), b.ticks.Fresh.Period()
				if len(asked) == 0 || slices.Contains(asked, probed[0]) || period == 0 {
					t.Errorf("later probes are of %q, the period is %s; want that of another", asked, period)
				}
			})
		})
	}
}

// TestNoProbesWhileListsFail has nothing to be looked at any more.
func TestNoProbesWhileListsFail(t *testing.T) {
	inBubble(t, scope.Settings{}, func(t *testing.T, b *bubble) {
		b.api.stamp = func(now time.Time) time.Time { return now.Truncate(15 * time.Second) }
		b.begin(b.run)
		time.Sleep(time.Minute)
		for _, request := range []string{"list nodes", "get nodes/n2"} {
			b.api.answer(request, breaks)
		}
		time.Sleep(time.Minute)
		b.api.asked("get")
		time.Sleep(20 * time.Minute)
		if asked := b.api.asked("get"); len(asked) > 0 {
			t.Errorf("%d probes", len(asked))
		}
		b.api.answer("list nodes", nil)
		time.Sleep(20 * time.Second)
		if asked := b.api.asked("get"); len(asked) == 0 {
			t.Error("no probe once there are data again")
		}
	})
}

// TestNothingOfAClusterThatIsGone has a scrape wait for one namespace, as the kubeconfig is taken away: what there is
// of the other is not the answer.
func TestNothingOfAClusterThatIsGone(t *testing.T) {
	inBubble(t, scope.Settings{Namespaces: []string{"a", "b"}}, func(t *testing.T, b *bubble) {
		b.api.answer("list b/pods", hangs)
		b.begin(b.run)
		time.AfterFunc(time.Second, func() { b.one().leave(b.connection) })
		if status, page, _ := b.scrape(); status != http.StatusServiceUnavailable {
			t.Errorf("status %d:\n%s", status, page)
		}
	})
}

// TestHealthKeysAreKnown has everything fail: what is not known would stay on the health page of another cluster.
func TestHealthKeysAreKnown(t *testing.T) {
	inBubble(t, scope.Settings{Namespaces: []string{"a", "b"}, Pages: furtherPages}, func(t *testing.T, b *bubble) {
		broken := []string{"list nodes", "list a/pods", "list b/pods", "get namespaces/a", "get namespaces/b"}
		for _, resource := range []string{quotas, replicaSets, jobs} {
			for _, verb := range []string{"watch ", "page "} {
				broken = append(broken, verb+"a/"+resource, verb+"b/"+resource)
			}
		}
		for _, request := range broken {
			b.api.answer(request, breaks)
		}
		for _, request := range []string{"watch a/pods", "page a/pods", "watch b/pods", "page b/pods"} {
			b.api.answer(request, forbids)
		}
		b.begin(b.run)
		time.Sleep(time.Minute)
		var failing []string
		for _, line := range b.one().health.Failures() {
			what, _, _ := strings.Cut(line, ": failing")
			failing = append(failing, what)
		}
		if known := slices.Sorted(slices.Values(b.things)); !slices.Equal(failing, known) {
			t.Errorf("%q fail, of which %q are known", failing, known)
		}
	})
}

// furtherPages are all that can be turned on.
var furtherPages = []string{cadvisor, kubeState}

// watched has the watches run and waits until each has its first list, as far as it gets one.
func (b *bubble) watched() {
	b.begin(b.connection.Pods.Watch.Run)
	for _, o := range b.Others {
		b.begin(o.Watch.Run)
	}
	synctest.Wait()
}

// put is an event of the watch of pods.
func (b *bubble) put(p corev1.Pod) {
	whole := slimPod(p, len(b.set.Pages) > 0)
	b.connection.Pods.Store.Put(b.connection.Pods.Watch.Keep(&whole))
}

// familiesOf are the families of a page's text, in their order.
func familiesOf(text string) (all []string) {
	for line := range strings.Lines(text) {
		if kind, found := strings.CutPrefix(line, "# TYPE "); found {
			name, _, _ := strings.Cut(kind, " ")
			all = append(all, name)
		}
	}
	return all
}

// TestOnlyWhatPagesNeedIsWatched: what is off costs no watch, no request, no right and no memory.
func TestOnlyWhatPagesNeedIsWatched(t *testing.T) {
	usage := []string{"get nodes/n2", "list nodes", "list pods"}
	objects := []string{"watch jobs", "watch namespaces", "watch nodes", "watch pods", "watch replicasets",
		"watch resourcequotas"}
	off := func(page string) string { return "this page is off; --pages " + page + " (PAGES) turns it on\n" }
	for name, c := range map[string]struct{ pages, watches []string }{
		"none":               {nil, []string{"watch pods"}},
		"cadvisor":           {[]string{cadvisor}, []string{"watch nodes", "watch pods"}},
		"kube-state-metrics": {[]string{kubeState}, objects},
		"both":               {furtherPages, objects},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scope.Settings{Pages: c.pages}, func(t *testing.T, b *bubble) {
				b.begin(b.run)
				time.Sleep(time.Minute)
				for _, page := range furtherPages {
					status, body, took := b.scrapePage(page)
					if on := slices.Contains(c.pages, page); on && status != http.StatusOK ||
						!on && (status != http.StatusNotFound || body != off(page)) || took > 0 {
						t.Errorf("%s: status %d after %s: %s", page, status, took, body)
					}
				}
				asked := slices.Compact(slices.Sorted(slices.Values(b.api.asked(""))))
				if want := slices.Concat(usage, c.watches); !slices.Equal(asked, want) {
					t.Errorf("asks for %q, want %q", asked, want)
				}
				store := b.connection.Pods.Store
				p, _ := store.Find([]byte("a"), []byte("p"))
				if p == nil || (p.Value.Own != "") != (c.pages != nil) ||
					(p.Counters != nil) != slices.Contains(c.pages, cadvisor) ||
					(len(store.Leaves()) > 0) != slices.Contains(c.pages, kubeState) {
					t.Errorf("kept of a pod is %+v, of all %d leaves", p, len(store.Leaves()))
				}
			})
		})
	}
}

// TestPagesChangeNothingElse compares the page of the telemetry path with what it is without others.
func TestPagesChangeNothingElse(t *testing.T) {
	var samples, self [2][]string
	for i, pages := range [][]string{nil, furtherPages} {
		inBubble(t, scope.Settings{Pages: pages, PodLabels: []string{"pod-template-hash"}}, func(t *testing.T, b *bubble) {
			b.begin(b.run)
			time.Sleep(time.Minute)
			for _, page := range pages {
				b.scrapePage(page)
			}
			_, text, _ := b.scrape()
			for line := range strings.Lines(text) {
				switch name, _, _ := strings.Cut(line, " "); {
				case strings.HasPrefix(line, selfmetrics.Prefix):
					self[i] = append(self[i], strings.TrimPrefix(name, selfmetrics.Prefix))
				case strings.Contains(line, "kube_metrics_server_") && !strings.Contains(line, selfmetrics.Prefix):
					samples[i] = append(samples[i], line)
				}
			}
		})
	}
	without, with := strings.Join(samples[0], ""), strings.Join(samples[1], "")
	if without != with || len(samples[0]) < 8 {
		t.Errorf("without pages:\n%swith them:\n%s", without, with)
	}
	var more []string
	for _, name := range self[1] {
		if !slices.Contains(self[0], name) {
			more = append(more, name)
		}
	}
	var want []string
	for result := range counter.Result(counter.Results) {
		want = append(want, fmt.Sprintf("cpu_readings_total{result=%q}", result))
	}
	want = append(want, "cpu_seconds_filled_total")
	for _, resource := range []string{replicaSets, jobs} {
		want = append(want, fmt.Sprintf("owners_guessed{resource=%q}", resource))
	}
	for _, resource := range []string{nodes, namespaces, quotas, replicaSets, jobs} {
		want = append(want, fmt.Sprintf("watch_up{resource=%q}", resource),
			fmt.Sprintf("watched_objects{resource=%q}", resource))
	}
	slices.Sort(more)
	if slices.Sort(want); !slices.Equal(more, want) || len(self[1]) != len(self[0])+len(more) {
		t.Errorf("further metrics of the exporter itself: %q, want %q", more, want)
	}
}

func TestPagesThatThereAreNot(t *testing.T) {
	for _, value := range []string{"metrics", "cadvisor,", "Cadvisor", "/metrics/cadvisor",
		"cadvisor kube-state-metrics"} {
		err := parseSettings([]string{"--pages", value}, nil)
		if valid := value == "cadvisor,"; (err == nil) != valid {
			t.Errorf("%s: %v", value, err)
		} else if err != nil && !strings.Contains(err.Error(), "a list of pages (cadvisor, kube-state-metrics)") {
			t.Errorf("%s is refused without naming what there is: %v", value, err)
		}
	}
}

// TestPathsOfPages has the further pages below the telemetry path, which stays as it was set.
func TestPathsOfPages(t *testing.T) {
	for path, below := range map[string]string{"/metrics": "/metrics/cadvisor", "/a/b/": "/a/b/cadvisor"} {
		s := newServer(&settings{web: serve.Settings{TelemetryPath: path}, Settings: scope.Settings{MaxAge: time.Minute}})
		s.stop() // or there would be waited for data
		for of, want := range map[string]int{path: http.StatusServiceUnavailable, below: http.StatusNotFound} {
			resp := get(t, s, of)
			if body, _ := io.ReadAll(resp.Body); resp.StatusCode != want || strings.Contains(string(body), "page not found") {
				t.Errorf("%s is answered with %s", of, resp.Status)
			}
		}
	}
}

// smallCluster is objects of each kind, of which the further pages are written out in TestFurtherPages.
func smallCluster(began time.Time) map[string][]any {
	at := func(ago time.Duration) metav1.Time { return metav1.NewTime(began.Add(-ago)) }
	meta := func(namespace, name string, owners ...metav1.OwnerReference) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + name), ResourceVersion: "1",
			CreationTimestamp: at(2 * time.Hour), OwnerReferences: owners}
	}
	controller := func(kind, name string) metav1.OwnerReference {
		return metav1.OwnerReference{Kind: kind, Name: name, Controller: new(true)}
	}
	amounts := func(pairs ...string) corev1.ResourceList {
		list := corev1.ResourceList{}
		for i := 0; i < len(pairs); i += 2 {
			list[corev1.ResourceName(pairs[i])] = quantity.MustParse(pairs[i+1])
		}
		return list
	}
	status := func(name string, ready bool, restarts int32, state corev1.ContainerState) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, Image: "docker.io/" + name + ":1", ImageID: "sha256:" + name,
			ContainerID: "containerd://id-" + name, Ready: ready, RestartCount: restarts, State: state}
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(time.Hour)}}
	ended := corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: at(time.Hour)}}
	crashing := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	ready := func(status corev1.ConditionStatus) []corev1.PodCondition {
		return []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	}

	web := corev1.Pod{TypeMeta: typeOf(pods), ObjectMeta: meta("shop", "web-5d-1", controller("ReplicaSet", "web-5d")),
		Spec: corev1.PodSpec{NodeName: "n1", HostNetwork: true, PriorityClassName: "high", Containers: []corev1.Container{
			{Name: "app", Image: "app:1", Resources: corev1.ResourceRequirements{
				Requests: amounts("cpu", "250m", "memory", "1Gi"), Limits: amounts("memory", "2Gi")}},
			{Name: "proxy", Image: "proxy:1"}},
			InitContainers: []corev1.Container{{Name: "log", Image: "log:1", Resources: corev1.ResourceRequirements{
				Requests: amounts("cpu", "1")}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.1.0.1", HostIP: "10.0.0.1",
			QOSClass: corev1.PodQOSBurstable, Conditions: ready(corev1.ConditionTrue),
			ContainerStatuses:     []corev1.ContainerStatus{status("app", true, 0, running), status("proxy", true, 1, running)},
			InitContainerStatuses: []corev1.ContainerStatus{status("log", true, 0, running)}}}
	web.Labels = map[string]string{"app": "web", "pod-template-hash": "5d"}
	web.Status.ContainerStatuses[1].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "OOMKilled"}

	lone := corev1.Pod{TypeMeta: typeOf(pods), ObjectMeta: meta("shop", "lone"),
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "main", Image: "main:1"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.1.0.2", HostIP: "10.0.0.1",
			QOSClass: corev1.PodQOSBestEffort, Conditions: ready(corev1.ConditionFalse),
			ContainerStatuses: []corev1.ContainerStatus{status("main", false, 3, crashing)}}}

	done := corev1.Pod{TypeMeta: typeOf(pods), ObjectMeta: meta("shop", "backup-x", controller("Job", "backup")),
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "tar", Image: "tar:1",
			Resources: corev1.ResourceRequirements{Requests: amounts("example.com/disk", "1")}}}},
		Status: corev1.PodStatus{Phase: corev1.PodSucceeded, HostIP: "10.0.0.1",
			ContainerStatuses: []corev1.ContainerStatus{status("tar", false, 0, ended)}}}

	waiting := corev1.Pod{TypeMeta: typeOf(pods), ObjectMeta: meta("shop", "waiting"),
		Status: corev1.PodStatus{Phase: corev1.PodPending},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "big", Image: "big:1",
			Resources: corev1.ResourceRequirements{Requests: amounts("cpu", "64")}}}}}

	node := corev1.Node{TypeMeta: typeOf(nodes), ObjectMeta: meta("", "n1"),
		Spec: corev1.NodeSpec{PodCIDR: "10.1.0.0/24", ProviderID: "x://n1"},
		Status: corev1.NodeStatus{Capacity: amounts("cpu", "4", "memory", "8Gi", "pods", "110"),
			Allocatable: amounts("cpu", "3500m"),
			Addresses:   []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}},
			NodeInfo: corev1.NodeSystemInfo{MachineID: "m", SystemUUID: "s", BootID: "b", KernelVersion: "6.1",
				OSImage:                 "Debian 13",
				ContainerRuntimeVersion: "containerd://2.0", KubeletVersion: "v1.37.2"}}}
	node.Labels = map[string]string{"node-role.kubernetes.io/worker": ""}

	leaving := metav1.PartialObjectMetadata{TypeMeta: typeOf(namespaces), ObjectMeta: meta("", "old")}
	leaving.DeletionTimestamp = new(at(time.Minute))
	return map[string][]any{
		pods: {web, lone, done, waiting}, nodes: {node},
		namespaces: {metav1.PartialObjectMetadata{TypeMeta: typeOf(namespaces), ObjectMeta: meta("", "shop")}, leaving},
		quotas: {corev1.ResourceQuota{TypeMeta: typeOf(quotas), ObjectMeta: meta("shop", "most"),
			Status: corev1.ResourceQuotaStatus{Hard: amounts("requests.cpu", "8"), Used: amounts("requests.cpu", "64250m")}}},
		replicaSets: {metav1.PartialObjectMetadata{TypeMeta: typeOf(replicaSets),
			ObjectMeta: meta("shop", "web-5d", controller("Deployment", "web"))}},
		jobs: {metav1.PartialObjectMetadata{TypeMeta: typeOf(jobs), ObjectMeta: meta("shop", "backup")}},
	}
}

// inSmallCluster is inBubble with that cluster, in which usage was read a minute after the beginning.
func inSmallCluster(t *testing.T, do func(t *testing.T, b *bubble)) {
	t.Helper()
	inBubble(t, scope.Settings{Pages: furtherPages, PodLabels: []string{"app"}}, func(t *testing.T, b *bubble) {
		b.api.have = smallCluster(b.api.began)
		b.watched()
		time.Sleep(time.Minute)
		now := time.Now()
		run(t, b.connection, input{
			usage: metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{
				podUsage("shop", "web-5d-1", now, "app", "500m 100Mi", "proxy", "10m 20Mi", "log", "1m 1Mi"),
				podUsage("shop", "lone", now, "main", "1 1Mi"), podUsage("shop", "unknown", now, "x", "1 1Mi")}},
			nodes: metricsv1beta1.NodeMetricsList{Items: []metricsv1beta1.NodeMetrics{{ObjectMeta: metav1.ObjectMeta{Name: "n1"},
				Timestamp: metav1.NewTime(now), Window: metav1.Duration{Duration: 15 * time.Second}, Usage: corev1.ResourceList{
					corev1.ResourceCPU: quantity.MustParse("2"), corev1.ResourceMemory: quantity.MustParse("3Gi")}}}}})
		do(t, b)
	})
}

// labelName finds the names of labels in a sample whose values have no quotes.
var labelName = regexp.MustCompile(`[{,]([a-zA-Z_]+)="`)

// labelsOfFurtherPages are the lists of labels that samples of a family have, by its name.
func labelsOfFurtherPages(t *testing.T) (labels map[string][]string) {
	labels = map[string][]string{}
	inSmallCluster(t, func(t *testing.T, b *bubble) {
		for line := range strings.Lines(samples(b.pageOf(cadvisor, 0) + b.pageOf(kubeState, 0))) {
			family, _, _ := strings.Cut(line, "{")
			var all []string
			for _, m := range labelName.FindAllStringSubmatch(line, -1) {
				all = append(all, m[1])
			}
			if list := strings.Join(all, ", "); !slices.Contains(labels[family], list) {
				labels[family] = append(labels[family], list)
			}
		}
	})
	return labels
}

// TestFurtherPages is the whole text of both pages for the small cluster, without the lines of HELP.
func TestFurtherPages(t *testing.T) {
	inSmallCluster(t, func(t *testing.T, b *bubble) {
		for page, want := range map[string]string{cadvisor: `# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{id="/",node="n1"} 30
container_cpu_usage_seconds_total{container="app",cpu="total",image="docker.io/app:1",name="id-app",namespace="shop",node="n1",pod="web-5d-1"} 7.5
container_cpu_usage_seconds_total{container="proxy",cpu="total",image="docker.io/proxy:1",name="id-proxy",namespace="shop",node="n1",pod="web-5d-1"} 0.15
container_cpu_usage_seconds_total{container="log",cpu="total",image="docker.io/log:1",name="id-log",namespace="shop",node="n1",pod="web-5d-1"} 0.015
# TYPE container_memory_working_set_bytes gauge
container_memory_working_set_bytes{id="/",node="n1"} 3221225472
container_memory_working_set_bytes{container="app",image="docker.io/app:1",name="id-app",namespace="shop",node="n1",pod="web-5d-1"} 104857600
container_memory_working_set_bytes{container="proxy",image="docker.io/proxy:1",name="id-proxy",namespace="shop",node="n1",pod="web-5d-1"} 20971520
container_memory_working_set_bytes{container="log",image="docker.io/log:1",name="id-log",namespace="shop",node="n1",pod="web-5d-1"} 1048576
container_memory_working_set_bytes{container="main",image="docker.io/main:1",name="id-main",namespace="shop",node="n1",pod="lone"} 1048576
# TYPE container_start_time_seconds gauge
container_start_time_seconds{container="app",image="docker.io/app:1",name="id-app",namespace="shop",node="n1",pod="web-5d-1"} 946681200
container_start_time_seconds{container="proxy",image="docker.io/proxy:1",name="id-proxy",namespace="shop",node="n1",pod="web-5d-1"} 946681200
container_start_time_seconds{container="log",image="docker.io/log:1",name="id-log",namespace="shop",node="n1",pod="web-5d-1"} 946681200
# TYPE machine_cpu_cores gauge
machine_cpu_cores{node="n1",machine_id="m",system_uuid="s",boot_id="b"} 4
# TYPE machine_memory_bytes gauge
machine_memory_bytes{node="n1",machine_id="m",system_uuid="s",boot_id="b"} 8589934592
`, kubeState: `# TYPE kube_namespace_status_phase gauge
kube_namespace_status_phase{namespace="old",phase="Active"} 0
kube_namespace_status_phase{namespace="old",phase="Terminating"} 1
kube_namespace_status_phase{namespace="shop",phase="Active"} 1
kube_namespace_status_phase{namespace="shop",phase="Terminating"} 0
# TYPE kube_node_info gauge
kube_node_info{node="n1",kernel_version="6.1",os_image="Debian 13",container_runtime_version="containerd://2.0",kubelet_version="v1.37.2",kubeproxy_version="deprecated",provider_id="x://n1",pod_cidr="10.1.0.0/24",system_uuid="s",internal_ip="10.0.0.1"} 1
# TYPE kube_node_role gauge
kube_node_role{node="n1",role="worker"} 1
# TYPE kube_node_status_allocatable gauge
kube_node_status_allocatable{node="n1",resource="cpu",unit="core"} 3.5
# TYPE kube_node_status_capacity gauge
kube_node_status_capacity{node="n1",resource="cpu",unit="core"} 4
kube_node_status_capacity{node="n1",resource="memory",unit="byte"} 8589934592
kube_node_status_capacity{node="n1",resource="pods",unit="integer"} 110
# TYPE kube_resourcequota gauge
kube_resourcequota{namespace="shop",resourcequota="most",resource="requests.cpu",type="hard"} 8
kube_resourcequota{namespace="shop",resourcequota="most",resource="requests.cpu",type="used"} 64.25
# TYPE kube_replicaset_owner gauge
kube_replicaset_owner{namespace="shop",replicaset="web-5d",owner_kind="Deployment",owner_name="web",owner_is_controller="true"} 1
# TYPE kube_job_owner gauge
kube_job_owner{namespace="shop",job_name="backup",owner_kind="",owner_name="",owner_is_controller=""} 1
# TYPE kube_pod_info gauge
kube_pod_info{namespace="shop",pod="backup-x",uid="uid-backup-x",host_ip="10.0.0.1",pod_ip="",node="n1",created_by_kind="Job",created_by_name="backup",priority_class="",host_network="false"} 1
kube_pod_info{namespace="shop",pod="lone",uid="uid-lone",host_ip="10.0.0.1",pod_ip="10.1.0.2",node="n1",created_by_kind="",created_by_name="",priority_class="",host_network="false"} 1
kube_pod_info{namespace="shop",pod="waiting",uid="uid-waiting",host_ip="",pod_ip="",node="",created_by_kind="",created_by_name="",priority_class="",host_network="false"} 1
kube_pod_info{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",host_ip="10.0.0.1",pod_ip="10.1.0.1",node="n1",created_by_kind="ReplicaSet",created_by_name="web-5d",priority_class="high",host_network="true"} 1
# TYPE kube_pod_owner gauge
kube_pod_owner{namespace="shop",pod="backup-x",uid="uid-backup-x",owner_kind="Job",owner_name="backup",owner_is_controller="true"} 1
kube_pod_owner{namespace="shop",pod="lone",uid="uid-lone",owner_kind="",owner_name="",owner_is_controller=""} 1
kube_pod_owner{namespace="shop",pod="waiting",uid="uid-waiting",owner_kind="",owner_name="",owner_is_controller=""} 1
kube_pod_owner{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",owner_kind="ReplicaSet",owner_name="web-5d",owner_is_controller="true"} 1
# TYPE kube_pod_labels gauge
kube_pod_labels{namespace="shop",pod="backup-x",uid="uid-backup-x"} 1
kube_pod_labels{namespace="shop",pod="lone",uid="uid-lone"} 1
kube_pod_labels{namespace="shop",pod="waiting",uid="uid-waiting"} 1
kube_pod_labels{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",label_app="web"} 1
# TYPE kube_pod_status_phase gauge
kube_pod_status_phase{namespace="shop",pod="backup-x",uid="uid-backup-x",phase="Pending"} 0
kube_pod_status_phase{namespace="shop",pod="backup-x",uid="uid-backup-x",phase="Succeeded"} 1
kube_pod_status_phase{namespace="shop",pod="backup-x",uid="uid-backup-x",phase="Failed"} 0
kube_pod_status_phase{namespace="shop",pod="backup-x",uid="uid-backup-x",phase="Unknown"} 0
kube_pod_status_phase{namespace="shop",pod="backup-x",uid="uid-backup-x",phase="Running"} 0
kube_pod_status_phase{namespace="shop",pod="lone",uid="uid-lone",phase="Pending"} 0
kube_pod_status_phase{namespace="shop",pod="lone",uid="uid-lone",phase="Succeeded"} 0
kube_pod_status_phase{namespace="shop",pod="lone",uid="uid-lone",phase="Failed"} 0
kube_pod_status_phase{namespace="shop",pod="lone",uid="uid-lone",phase="Unknown"} 0
kube_pod_status_phase{namespace="shop",pod="lone",uid="uid-lone",phase="Running"} 1
kube_pod_status_phase{namespace="shop",pod="waiting",uid="uid-waiting",phase="Pending"} 1
kube_pod_status_phase{namespace="shop",pod="waiting",uid="uid-waiting",phase="Succeeded"} 0
kube_pod_status_phase{namespace="shop",pod="waiting",uid="uid-waiting",phase="Failed"} 0
kube_pod_status_phase{namespace="shop",pod="waiting",uid="uid-waiting",phase="Unknown"} 0
kube_pod_status_phase{namespace="shop",pod="waiting",uid="uid-waiting",phase="Running"} 0
kube_pod_status_phase{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",phase="Pending"} 0
kube_pod_status_phase{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",phase="Succeeded"} 0
kube_pod_status_phase{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",phase="Failed"} 0
kube_pod_status_phase{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",phase="Unknown"} 0
kube_pod_status_phase{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",phase="Running"} 1
# TYPE kube_pod_status_qos_class gauge
kube_pod_status_qos_class{namespace="shop",pod="lone",uid="uid-lone",qos_class="BestEffort"} 1
kube_pod_status_qos_class{namespace="shop",pod="lone",uid="uid-lone",qos_class="Burstable"} 0
kube_pod_status_qos_class{namespace="shop",pod="lone",uid="uid-lone",qos_class="Guaranteed"} 0
kube_pod_status_qos_class{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",qos_class="BestEffort"} 0
kube_pod_status_qos_class{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",qos_class="Burstable"} 1
kube_pod_status_qos_class{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",qos_class="Guaranteed"} 0
# TYPE kube_pod_status_ready gauge
kube_pod_status_ready{namespace="shop",pod="lone",uid="uid-lone",condition="true"} 0
kube_pod_status_ready{namespace="shop",pod="lone",uid="uid-lone",condition="false"} 1
kube_pod_status_ready{namespace="shop",pod="lone",uid="uid-lone",condition="unknown"} 0
kube_pod_status_ready{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",condition="true"} 1
kube_pod_status_ready{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",condition="false"} 0
kube_pod_status_ready{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",condition="unknown"} 0
# TYPE kube_pod_container_info gauge
kube_pod_container_info{namespace="shop",pod="backup-x",uid="uid-backup-x",container="tar",image_spec="tar:1",image="docker.io/tar:1",image_id="sha256:tar",container_id="containerd://id-tar"} 1
kube_pod_container_info{namespace="shop",pod="lone",uid="uid-lone",container="main",image_spec="main:1",image="docker.io/main:1",image_id="sha256:main",container_id="containerd://id-main"} 1
kube_pod_container_info{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",container="app",image_spec="app:1",image="docker.io/app:1",image_id="sha256:app",container_id="containerd://id-app"} 1
kube_pod_container_info{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",container="proxy",image_spec="proxy:1",image="docker.io/proxy:1",image_id="sha256:proxy",container_id="containerd://id-proxy"} 1
# TYPE kube_pod_container_resource_requests gauge
kube_pod_container_resource_requests{namespace="shop",pod="backup-x",uid="uid-backup-x",container="tar",node="n1",resource="example_com_disk",unit="integer"} 1
kube_pod_container_resource_requests{namespace="shop",pod="waiting",uid="uid-waiting",container="big",node="",resource="cpu",unit="core"} 64
kube_pod_container_resource_requests{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",container="app",node="n1",resource="cpu",unit="core"} 0.25
kube_pod_container_resource_requests{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",container="app",node="n1",resource="memory",unit="byte"} 1073741824
# TYPE kube_pod_container_resource_limits gauge
kube_pod_container_resource_limits{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",container="app",node="n1",resource="memory",unit="byte"} 2147483648
# TYPE kube_pod_container_status_restarts_total counter
kube_pod_container_status_restarts_total{namespace="shop",pod="backup-x",uid="uid-backup-x",container="tar"} 0
kube_pod_container_status_restarts_total{namespace="shop",pod="lone",uid="uid-lone",container="main"} 3
kube_pod_container_status_restarts_total{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",container="app"} 0
kube_pod_container_status_restarts_total{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",container="proxy"} 1
# TYPE kube_pod_container_status_running gauge
kube_pod_container_status_running{namespace="shop",pod="backup-x",uid="uid-backup-x",container="tar"} 0
kube_pod_container_status_running{namespace="shop",pod="lone",uid="uid-lone",container="main"} 0
kube_pod_container_status_running{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",container="app"} 1
kube_pod_container_status_running{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",container="proxy"} 1
# TYPE kube_pod_container_status_ready gauge
kube_pod_container_status_ready{namespace="shop",pod="backup-x",uid="uid-backup-x",container="tar"} 0
kube_pod_container_status_ready{namespace="shop",pod="lone",uid="uid-lone",container="main"} 0
kube_pod_container_status_ready{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",container="app"} 1
kube_pod_container_status_ready{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",container="proxy"} 1
# TYPE kube_pod_container_status_waiting_reason gauge
kube_pod_container_status_waiting_reason{namespace="shop",pod="lone",uid="uid-lone",container="main",reason="CrashLoopBackOff"} 1
# TYPE kube_pod_container_status_last_terminated_reason gauge
kube_pod_container_status_last_terminated_reason{namespace="shop",pod="web-5d-1",uid="uid-web-5d-1",container="proxy",reason="OOMKilled"} 1
`} {
			status, text, _ := b.scrapePage(page)
			helped := regexp.MustCompile(`(?m)^# HELP \S+ \S.*\n`)
			if n := len(helped.FindAllString(text, -1)); status != http.StatusOK || n != len(familiesOf(text)) {
				t.Errorf("%s: status %d, %d families with a HELP of %d", page, status, n, len(familiesOf(text)))
			}
			got, wanted := helped.ReplaceAllString(text, ""), want
			for got != "" || wanted != "" {
				var is, want string
				is, got, _ = strings.Cut(got, "\n")
				if want, wanted, _ = strings.Cut(wanted, "\n"); is != want {
					t.Fatalf("%s:\n%s\nwant:\n%s\nthen:\n%s", page, is, want, got)
				}
			}
		}
	})
}

// podOf is pod a/p with containers, each "NAME ID", that were started at a moment.
func podOf(created, started time.Time, containers ...string) corev1.Pod {
	p := corev1.Pod{TypeMeta: typeOf(pods), Spec: corev1.PodSpec{NodeName: "n"}, ObjectMeta: metav1.ObjectMeta{
		Namespace: "a", Name: "p", ResourceVersion: "2", CreationTimestamp: metav1.NewTime(created)}}
	for _, c := range containers {
		name, id, _ := strings.Cut(c, " ")
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name, Image: "i"})
		running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(started)}}
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: name, ContainerID: "x://" + id, State: running})
	}
	return p
}

// counted is the CPU seconds of each container on a page, as "CONTAINER ID SECONDS", and then what the exporter itself
// counts of readings.
func (b *bubble) counted() (counters, told string) {
	b.t.Helper()
	_, text, _ := b.scrapePage(cadvisor)
	lines := func(family, text string) (all []string) {
		series := regexp.MustCompile(family +
			`{container="([^"]*)".*,image="i",name="([^"]*)",namespace="a",node="n",pod="p"} (.*)`)
		for _, m := range series.FindAllStringSubmatch(text, -1) {
			all = append(all, strings.Join(m[1:], " "))
		}
		return all
	}
	cpu, memory := lines("container_cpu_usage_seconds_total", text), lines("container_memory_working_set_bytes", text)
	if len(memory) != len(cpu) {
		b.t.Errorf("containers with memory: %q, with CPU: %q", memory, cpu)
	}
	counters = strings.Join(cpu, ", ")
	_, text, _ = b.scrape()
	counts := regexp.MustCompile(`(?m)^\w+_cpu_(?:readings_total{result="(.*)"}|seconds_(filled)_total) (\S+)$`)
	for _, m := range counts.FindAllStringSubmatch(text, -1) {
		if m[3] != "0" {
			told += cmp.Or(m[1], m[2]+" seconds") + " " + m[3] + ", "
		}
	}
	return counters, strings.TrimSuffix(told, ", ")
}

// TestCPUCounters goes through some lists of usage, and looks at the counters after each.
func TestCPUCounters(t *testing.T) {
	at := func(second int) time.Time { return epoch.Add(time.Duration(second) * time.Second) }
	type list = []metricsv1beta1.PodMetrics
	reading := func(end, window int, containers ...string) list {
		u := podUsage("a", "p", at(end), containers...)
		u.Window.Duration = time.Duration(window) * time.Second
		return list{u}
	}
	one := func(end int, cpu string) list { return reading(end, 15, "c", cpu+" 1") }
	created := at(-3600)
	restarted := func(second int) func(*bubble) {
		return func(b *bubble) { b.put(podOf(created, at(second), "c c2")) }
	}
	type step struct {
		at    int           // seconds since the beginning
		event func(*bubble) // before the list; nil for none
		usage list          // what the list has
		fails bool          // after that was read
		want  string
	}
	for name, c := range map[string]struct {
		containers []string // "c c1" where it is nil
		steps      []step
		told       string
	}{
		"each window adds its CPU time": {nil, []step{
			{15, nil, one(15, "1"), false, "c c1 15"},
			{30, nil, one(30, "500m"), false, "c c1 22.5"},
			{45, nil, one(45, "100n"), false, "c c1 22.5000015"},
		}, "added 3"},
		"a reading that is served again adds nothing": {nil, []step{
			{15, nil, one(15, "1"), false, "c c1 15"},
			{20, nil, one(15, "1"), false, "c c1 15"},
			{30, nil, one(30, "1"), false, "c c1 30"},
		}, "added 2, repeated 1"},
		"nor does one of another replica that is behind": {nil, []step{
			{30, nil, one(30, "1"), false, "c c1 15"},
			{40, nil, one(25, "9"), false, "c c1 15"},
			{45, nil, one(45, "1"), false, "c c1 30"},
		}, "added 2, older 1"},
		"a gap is filled with the mean of what is around it": {nil, []step{
			{15, nil, one(15, "1"), false, "c c1 15"},
			{60, nil, one(60, "2"), false, "c c1 90"}, // 30 s of 1.5 and 15 s of 2
		}, "added 1, filled 1, filled seconds 45"},
		"a gap longer than max-age is a hole": {nil, []step{
			{15, nil, one(15, "1"), false, "c c1 15"},
			{345, nil, one(345, "1"), false, "c c1 30"},
		}, "added 1, hole 1"},
		"a pod that is away for two lists goes on": {nil, []step{
			{15, nil, one(15, "1"), false, "c c1 15"},
			{30, nil, list{}, false, ""},
			{45, nil, list{}, false, ""},
			{60, nil, one(60, "1"), false, "c c1 60"},
		}, "added 1, filled 1, filled seconds 30"},
		"a list that fails leaves no trace": {nil, []step{
			{15, nil, one(15, "1"), false, "c c1 15"},
			{30, nil, one(30, "100"), true, "c c1 15"},
			{45, nil, one(45, "1"), false, "c c1 45"},
		}, "added 1, filled 1, filled seconds 15"},
		"of several containers only the moments add up": {[]string{"c c1", "d d1"}, []step{
			{15, nil, reading(15, 15, "c", "1 1", "d", "2 1"), false, "c c1 15, d d1 30"},
			{35, nil, reading(35, 10, "d", "2 1", "c", "1 1"), false, "d d1 70, c c1 35"},
		}, "added 4"},
		"a container that is restarted begins a new series": {nil, []step{
			{15, nil, one(15, "1"), false, "c c1 15"},
			{60, restarted(40), one(60, "2"), false, "c c2 30"},
			{75, nil, one(75, "2"), false, "c c2 60"},
		}, "added 3"},
		"nothing is told of a container by a reading from before its start": {nil, []step{
			{15, nil, one(15, "1"), false, "c c1 15"},
			{45, restarted(40), one(39, "1"), false, ""},
			{46, nil, one(40, "1"), false, ""},
			{60, nil, one(55, "1"), false, "c c2 15"},
		}, "added 2, predecessor 2"},
		"a container has not run for longer than since its start": {nil, []step{
			{50, restarted(40), reading(50, 60, "c", "1 1"), false, "c c2 12"}, // and 2 s, as moments are cut down
		}, "added 1"},
		"the container's state, the pod's address or labels change": {nil, []step{
			{15, nil, one(15, "1"), false, "c c1 15"},
			{30, func(b *bubble) {
				p := podOf(created, created, "c c1")
				p.Status.ContainerStatuses[0].Ready, p.Status.PodIP, p.Labels = true, "10.0.0.1", map[string]string{"l": "v"}
				b.put(p)
			}, one(30, "1"), false, "c c1 30"},
		}, "added 2"},
		"pods are listed anew, with another label": {nil, []step{
			{15, nil, one(15, "1"), false, "c c1 15"},
			{30, func(b *bubble) {
				p := podOf(created, created, "c c1")
				p.Labels = map[string]string{"l": "v"}
				b.api.have[pods] = []any{p}
				b.connection.Pods.Watch.Resync()
				synctest.Wait()
			}, one(30, "1"), false, "c c1 30"},
		}, "added 2"},
		"a pod that is created again counts anew": {nil, []step{
			{15, nil, one(15, "1"), false, "c c1 15"},
			{60, func(b *bubble) { b.put(podOf(at(40), at(40), "c c1")) }, one(60, "1"), false, "c c1 15"},
		}, "added 2"},
		"a pod that is deleted and comes back counts anew": {nil, []step{
			{15, nil, one(15, "1"), false, "c c1 15"},
			{30, func(b *bubble) {
				gone := slimPod(podOf(created, created, "c c1"), true)
				b.connection.Pods.Store.Delete(b.connection.Pods.Watch.Keep(&gone))
			}, one(30, "1"), false, ""},
			{60, func(b *bubble) { b.put(podOf(at(40), at(40), "c c2")) }, one(60, "1"), false, "c c2 15"},
		}, "added 2"},
		"a rate that no machine has is no reading": {nil, []step{
			{15, nil, one(15, "1"), false, "c c1 15"},
			{30, nil, one(30, "2M"), false, "c c1 15"},
			{45, nil, one(45, "1"), false, "c c1 45"},
		}, "added 1, filled 1, invalid 1, filled seconds 15"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scope.Settings{Pages: []string{cadvisor}, PodLabels: []string{"l"}}, func(t *testing.T, b *bubble) {
				if c.containers == nil {
					c.containers = []string{"c c1"}
				}
				b.api.have[pods] = []any{podOf(created, created, c.containers...)}
				b.watched()
				for _, step := range c.steps {
					time.Sleep(time.Until(at(step.at)))
					refreshFrom(t, b.lists[0], &metricsv1beta1.NodeMetricsList{}, "NodeMetricsList")
					if step.event != nil {
						step.event(b)
					}
					if l := b.lists[1]; !step.fails {
						refreshFrom(t, l, &metricsv1beta1.PodMetricsList{Items: step.usage}, "PodMetricsList")
					} else {
						body := protobufOf(t, &metricsv1beta1.PodMetricsList{Items: step.usage}, "PodMetricsList")
						refreshWith(l, func() error {
							l.Joiner.Begin()
							if err := new(metricsapi.Decoder).Read(bytes.NewReader(body), l.Kind, l.Joiner.Join); err != nil {
								t.Error(err)
							}
							return io.ErrUnexpectedEOF
						})
					}
					if got, _ := b.counted(); got != step.want {
						t.Errorf("after %d s: %q, want %q", step.at, got, step.want)
					}
				}
				if _, told := b.counted(); told != c.told {
					t.Errorf("readings: %q, want %q", told, c.told)
				}
			})
		})
	}
}

// TestCountersOfWhatIsLeft has of two pods one expire: the other keeps its own counter.
func TestCountersOfWhatIsLeft(t *testing.T) {
	inBubble(t, scope.Settings{Pages: []string{cadvisor}}, func(t *testing.T, b *bubble) {
		p, old := podOf(b.api.began, b.api.began, "c c1"), podOf(b.api.began, b.api.began, "c old")
		old.Name = "old"
		b.api.have[pods] = []any{p, old}
		b.watched()
		now := b.api.began.Add(time.Minute)
		time.Sleep(time.Until(now))
		run(t, b.connection, input{usage: metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{
			podUsage("a", "old", now.Add(-30*time.Second), "c", "7 1"), podUsage("a", "p", now, "c", "1 1")}}})
		b.lists[1].Joiner.MaxAge = 20 * time.Second // as if the time had passed
		b.lists[1].Loop.Expire()
		if got, _ := b.counted(); got != "c c1 15" {
			t.Errorf("%q", got)
		}
		if _, text, _ := b.scrapePage(cadvisor); strings.Contains(text, `"old"`) {
			t.Errorf("the other is still there:\n%s", text)
		}
	})
}

// TestNodeCounters has a node that is away for two lists.
func TestNodeCounters(t *testing.T) {
	inBubble(t, scope.Settings{Pages: []string{cadvisor}}, func(t *testing.T, b *bubble) {
		b.watched()
		for i, want := range []string{"15", "", "", "60"} {
			time.Sleep(15 * time.Second)
			node := metricsv1beta1.NodeMetrics{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Timestamp: metav1.Now(),
				Window: metav1.Duration{Duration: 15 * time.Second},
				Usage:  corev1.ResourceList{corev1.ResourceCPU: quantity.MustParse("1")}}
			in := input{}
			if want != "" {
				in.nodes.Items = append(in.nodes.Items, node)
				want = `container_cpu_usage_seconds_total{id="/",node="n1"} ` + want + "\n"
			}
			run(t, b.connection, in)
			_, text, _ := b.scrapePage(cadvisor)
			if text, _, _ = strings.Cut(samples(text), "machine_"); text != want {
				t.Errorf("list %d: %s, want %s", i, text, want)
			}
		}
	})
}

// logged is what is logged from now on to the end of the test.
func logged(t *testing.T) *bytes.Buffer {
	var log bytes.Buffer
	t.Cleanup(func() { slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil))) })
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	return &log
}

// pageOf scrapes the page of that name, which has to be there within a time.
func (b *bubble) pageOf(name string, within time.Duration) string {
	b.t.Helper()
	status, text, took := b.scrapePage(name)
	if status != http.StatusOK || took > within {
		b.t.Errorf("%s after the start: %s: status %d after %s, want it within %s:\n%s",
			time.Since(b.api.began), name, status, took, within, text)
	}
	return text
}

// tells is an error where the page of the telemetry path does not have these lines of metrics of the exporter itself.
func (b *bubble) tells(lines ...string) {
	b.t.Helper()
	time.Sleep(pages.SelfAge)
	text := b.pageOf("", 0)
	for _, line := range lines {
		if !strings.Contains(text, "\n"+selfmetrics.Prefix+line+"\n") {
			b.t.Errorf("%s after the start: no %s on the page:\n%s", time.Since(b.api.began), line, text)
		}
	}
}

// stateOf are the families of the state of a resource's objects on the pages that are on.
func stateOf(resource string) (all []string) {
	for _, row := range families.Rows(resource, furtherPages, nil) {
		all = append(all, names[row.Family])
	}
	return all
}

// optional are the resources that no account has to have the right to.
var optional = []string{nodes, namespaces, quotas, replicaSets, jobs}

// TestResourcesThatMayNotBeRead has each of them refused for a quarter of an hour, and then allowed.
func TestResourcesThatMayNotBeRead(t *testing.T) {
	var all []string // families where nothing is refused
	inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
		b.begin(b.run)
		all = familiesOf(b.pageOf(cadvisor, 0) + b.pageOf(kubeState, 0))
	})
	for how, answer := range map[string]answerer{"forbidden": forbids, "not there": lacks} {
		for _, resource := range optional {
			t.Run(resource+" "+how, func(t *testing.T) {
				log := logged(t)
				inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
					guessed := resource == replicaSets || resource == jobs
					what := map[bool]string{true: " is guessed from the pods", false: " not served"}[guessed]
					check := func(refused bool) {
						t.Helper()
						text := b.pageOf(cadvisor, 0) + b.pageOf(kubeState, 0)
						want := slices.DeleteFunc(slices.Clone(all), func(family string) bool {
							return refused && !guessed && slices.Contains(stateOf(resource), family)
						})
						if got := familiesOf(text); !slices.Equal(got, want) {
							t.Errorf("refused %t: families %q, want %q", refused, got, want)
						}
						owner := map[string]string{
							replicaSets: `kube_replicaset_owner{namespace="a",replicaset="web-5d",owner_kind="Rollout",owner_name="web"`,
							jobs:        `kube_job_owner{namespace="a",job_name="backup-29000000",owner_kind="CronJob",owner_name="nightly"`,
						}[resource]
						if guess := map[string]string{"Rollout": "Deployment", "nightly": "backup"}; refused {
							owner = strings.NewReplacer("Rollout", guess["Rollout"], "nightly", guess["nightly"]).Replace(owner)
						}
						if strings.Count(text, owner) == 0 {
							t.Errorf("refused %t: no %s on the page:\n%s", refused, owner, text)
						}
						for _, r := range optional {
							up := btoi(r != resource || !refused)
							b.tells(fmt.Sprintf("watch_up{resource=%q} %d", r, up))
							if r == replicaSets || r == jobs {
								b.tells(fmt.Sprintf("owners_guessed{resource=%q} %d", r, 1-up))
							}
						}
						health := get(t, b.server, "/healthz")
						body, _ := io.ReadAll(health.Body)
						notices := strings.Count(string(body), what)
						if lines := strings.Count(string(body), "\n"); health.StatusCode != http.StatusOK ||
							lines != 2*btoi(refused) || notices != btoi(refused) {
							t.Errorf("refused %t: /healthz answers %d: %s", refused, health.StatusCode, body)
						}
					}
					for _, verb := range []string{"watch ", "page "} {
						b.api.answer(verb+resource, answer)
					}
					b.begin(b.run)
					synctest.Wait()
					for range 3 {
						check(true)
						time.Sleep(5 * time.Minute)
					}
					asked := len(b.api.asked("watch " + resource))
					if asked > 20 || strings.Count(log.String(), what) != 1 {
						t.Errorf("asked for %d times in a quarter of an hour; log:\n%s", asked, log)
					}
					for _, verb := range []string{"watch ", "page "} {
						b.api.answer(verb+resource, nil)
					}
					time.Sleep(70 * time.Second)
					check(false)
					if !strings.Contains(log.String(), "watch of "+resource+" works again") {
						t.Errorf("it is not logged that it works again:\n%s", log)
					}
				})
			})
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestPagesByRolesInNamespaces asks for nothing that a Role cannot give the right to, but for the list of nodes' usage.
func TestPagesByRolesInNamespaces(t *testing.T) {
	log := logged(t)
	inBubble(t, scope.Settings{Namespaces: []string{"a", "b"}, Pages: furtherPages}, func(t *testing.T, b *bubble) {
		b.api.answer("list nodes", forbids)
		b.begin(b.run)
		time.Sleep(5 * time.Minute)
		text := b.pageOf(cadvisor, 0) + b.pageOf(kubeState, 0)
		for _, family := range familiesOf(text) {
			if slices.Contains(stateOf(nodes), family) {
				t.Errorf("%s is served", family)
			}
		}
		for _, namespace := range []string{"a", "b"} {
			for _, sample := range []string{
				`container_cpu_usage_seconds_total{container="c",cpu="total",image="c:1",name="c1",namespace=%q`,
				`kube_namespace_status_phase{namespace=%q,phase="Active"} 1`, `kube_resourcequota{namespace=%q`,
				`kube_replicaset_owner{namespace=%q,replicaset="web-5d",owner_kind="Rollout"`,
				`kube_job_owner{namespace=%q,job_name="backup-29000000",owner_kind="CronJob",owner_name="nightly"`,
				`kube_pod_info{namespace=%q`, `kube_pod_container_status_running{namespace=%q`,
			} {
				if sample = "\n" + fmt.Sprintf(sample, namespace); strings.Count(text, sample) != 1 {
					t.Errorf("%d of %s on the pages:\n%s", strings.Count(text, sample), sample, text)
				}
			}
		}
		asked := b.api.asked("")
		for i, request := range asked {
			asked[i] = strings.Replace(request, "get b/pods", "get a/pods", 1) // either is probed
		}
		slices.Sort(asked)
		asked = slices.Compact(asked)
		want := []string{"get a/pods/p", "get namespaces/a", "get namespaces/b", "list a/pods", "list b/pods", "list nodes",
			"watch a/jobs", "watch a/pods", "watch a/replicasets", "watch a/resourcequotas",
			"watch b/jobs", "watch b/pods", "watch b/replicasets", "watch b/resourcequotas"}
		if !slices.Equal(asked, want) {
			t.Errorf("asks for %q, want %q", asked, want)
		}
		b.tells(`watch_up{resource="namespaces"} 1`, `owners_guessed{resource="jobs"} 0`)
		if strings.Contains(b.pageOf("", 0), `watch_up{resource="nodes"}`) {
			t.Error("the watch of nodes, which nobody is meant to have, is told to fail")
		}
		health, _ := io.ReadAll(get(t, b.server, "/healthz").Body)
		if string(health) != "ok" || strings.Contains(log.String(), "machine_") {
			t.Errorf("/healthz answers %s; log:\n%s", health, log)
		}
	})
}

// TestNamespacesFailOneByOneOnTheStatePage has something of one of two namespaces fail, in each way that there is.
func TestNamespacesFailOneByOneOnTheStatePage(t *testing.T) {
	const scrapeTimeout = 9500 * time.Millisecond
	of := map[string]string{ // a family of each resource
		pods: "kube_pod_info", quotas: "kube_resourcequota", namespaces: "kube_namespace_status_phase",
		replicaSets: "kube_replicaset_owner", jobs: "kube_job_owner"}
	for how, answer := range map[string]answerer{
		"are refused": forbids, "are slow": hangs, "get stuck": hangsLater, "break": breaks} {
		for broken, family := range of {
			t.Run("its "+broken+" "+how, func(t *testing.T) {
				inBubble(t, scope.Settings{Namespaces: []string{"a", "b"}, Pages: furtherPages}, func(t *testing.T, b *bubble) {
					requests := []string{"watch b/" + broken, "page b/" + broken}
					if broken == namespaces {
						requests = []string{"get namespaces/b"}
					}
					for _, request := range requests {
						b.api.answer(request, answer)
					}
					b.begin(b.run)
					check := func(within time.Duration) {
						t.Helper()
						text := b.pageOf(kubeState, within)
						for r, of := range of {
							guessed := how == "are refused" && (r == replicaSets || r == jobs)
							for namespace, want := range map[string]bool{"a": true, "b": r != broken || guessed} {
								got := strings.Contains(text, fmt.Sprintf("\n%s{namespace=%q", of, namespace))
								if got != want {
									t.Errorf("%s after the start: %s of namespace %s: %t, want %t:\n%s",
										time.Since(b.api.began), of, namespace, got, want, text)
								}
							}
						}
						real := `{namespace="a",replicaset="web-5d",owner_kind="Rollout"`
						if !strings.Contains(text, real) || strings.Count(text, `{namespace="a",replicaset="web-5d"`) != 1 {
							t.Errorf("the owners of namespace a are guessed:\n%s", text)
						}
					}
					check(scrapeTimeout)
					time.Sleep(time.Minute)
					for range 10 {
						check(0)
						time.Sleep(7 * time.Second)
					}
					if last := b.statePage(); b.statePage() != last {
						t.Error("the page is made anew, though nothing has changed")
					}
					for _, request := range requests {
						b.api.answer(request, nil)
					}
					time.Sleep(70 * time.Second)
					if text := b.pageOf(kubeState, 0); !strings.Contains(text, family+`{namespace="b"`) {
						t.Errorf("it works again, and is not on the page:\n%s", text)
					}
				})
			})
		}
	}
}

// endsOnce has the watch of a resource end after its first list, and be answered so from then on.
func (b *bubble) endsOnce(resource string, as answerer) {
	b.api.answer("page "+resource, as)
	b.api.answer("watch "+resource, func(r *http.Request) (*http.Response, error) {
		b.api.answer("watch "+resource, as)
		answer, err := hangsLater(r)
		answer.Body = io.NopCloser(b.api.initialEvents(r, resource, ""))
		return answer, err
	})
}

// slows has the watches of a resource begin only after a time.
func (b *bubble) slows(resource string, by time.Duration) {
	b.api.answer("watch "+resource, func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(by):
			return b.api.watch(r, resource, "")
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	})
}

// TestStatePageAfterAFreeze has the objects change while the process stands still, and their watches die unnoticed.
func TestStatePageAfterAFreeze(t *testing.T) {
	for name, c := range map[string]struct {
		length time.Duration
		slow   string // the resource whose first list comes only after two seconds
		anew   bool   // whether there are new lists
	}{
		"a short one":          {4 * time.Second, "", false}, // which no watch takes amiss
		"a long one":           {time.Minute, "", true},
		"pods are slow":        {time.Minute, pods, true},
		"nodes are slow":       {time.Minute, nodes, true},
		"namespaces are slow":  {time.Minute, namespaces, true},
		"quotas are slow":      {time.Minute, quotas, true},
		"ReplicaSets are slow": {time.Minute, replicaSets, true},
		"Jobs are slow":        {time.Minute, jobs, true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
				b.watched()
				of := regexp.MustCompile(`namespace="(a|shop)"|node="(n1|n2|)"|uid="(.*?)"`)
				before := b.pageOf(kubeState, 0)
				time.Sleep(10 * time.Second)
				asked := len(b.api.asked("watch"))
				b.api.mu.Lock()
				b.api.have = smallCluster(b.api.began)
				b.api.mu.Unlock()
				want := time.Duration(0)
				if c.slow != "" {
					want = 2 * time.Second
					b.slows(c.slow, want)
				}
				b.freeze(c.length)
				status, after, took := b.scrapePage(kubeState)
				if status != http.StatusOK || took != want {
					t.Fatalf("status %d after %s, want it after %s:\n%s", status, took, want, after)
				}
				lists := len(b.api.asked("watch"))
				old := strings.Contains(after, `"a"`) || strings.Contains(after, `node="n2"`)
				if !c.anew && (after != before || lists > 0) ||
					c.anew && (old || !strings.Contains(after, `kube_pod_info{namespace="shop"`) || lists != asked) {
					t.Errorf("%d lists anew, want %t with %d; the page is of %q:\n%s", lists, c.anew, asked,
						slices.Compact(of.FindAllString(after, -1)), after)
				}
			})
		})
	}
}

// TestStateOfBrokenWatchesIsServedForMaxAge has the watch of a resource break, and not come back.
func TestStateOfBrokenWatchesIsServedForMaxAge(t *testing.T) {
	for _, resource := range append([]string{pods}, optional...) {
		t.Run(resource, func(t *testing.T) {
			inBubble(t, scope.Settings{Pages: furtherPages, MaxAge: time.Minute}, func(t *testing.T, b *bubble) {
				b.endsOnce(resource, breaks)
				b.begin(b.run)
				before := familiesOf(b.pageOf(kubeState, 0))
				time.Sleep(50 * time.Second)
				if now := familiesOf(b.pageOf(kubeState, 0)); !slices.Equal(now, before) {
					t.Errorf("broken for less than max-age: %q, want %q", now, before)
				}
				time.Sleep(20 * time.Second)
				for range 10 {
					time.Sleep(7 * time.Second)
					status, text, took := b.scrapePage(kubeState)
					if resource == pods {
						const why = "watch of pods: failing since"
						if status != http.StatusServiceUnavailable || took > 0 || !strings.Contains(text, why) {
							t.Fatalf("status %d after %s: %s", status, took, text)
						}
						continue
					}
					want := slices.DeleteFunc(slices.Clone(before), func(family string) bool {
						return slices.Contains(stateOf(resource), family)
					})
					if now := familiesOf(text); status != http.StatusOK || took > 0 || !slices.Equal(now, want) ||
						len(want) == len(before) {
						t.Fatalf("status %d after %s: %q, want %q", status, took, now, want)
					}
				}
				machine := strings.Contains(b.pageOf(cadvisor, 0), "machine_cpu_cores{")
				if machine != (resource != nodes) {
					t.Errorf("machine_cpu_cores is there: %t", machine)
				}
				if health := get(t, b.server, "/healthz"); health.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("/healthz answers %d", health.StatusCode)
				}
				for _, verb := range []string{"watch ", "page "} {
					b.api.answer(verb+resource, nil)
				}
				time.Sleep(10 * time.Second)
				if now := familiesOf(b.pageOf(kubeState, 0)); !slices.Equal(now, before) {
					t.Errorf("mended: %q, want %q", now, before)
				}
			})
		})
	}
}

// TestRightsThatAreTakenAway has the watch of a resource end, and not be allowed any more: nothing of it is served from
// then on, and nothing is reported to fail.
func TestRightsThatAreTakenAway(t *testing.T) {
	for _, resource := range optional {
		t.Run(resource, func(t *testing.T) {
			inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
				b.endsOnce(resource, forbids)
				b.begin(b.run)
				text, family := b.pageOf(kubeState, 0), stateOf(resource)[len(stateOf(resource))-1]
				time.Sleep(10 * time.Second)
				want := map[string]string{replicaSets: `owner_kind="Deployment"`, jobs: `owner_name="backup"`}[resource]
				now := b.pageOf(kubeState, 0)
				_, before, _ := strings.Cut(text, "\n"+family+"{")
				_, after, _ := strings.Cut(now, "\n"+family+"{")
				before, _, _ = strings.Cut(before, "\n")
				after, _, _ = strings.Cut(after, "\n")
				if before == "" || after == before || (after == "") != (want == "") || !strings.Contains(after, want) {
					t.Errorf("%s is %s, and was %s:\n%s", family, after, before, now)
				}
				if health := get(t, b.server, "/healthz"); health.StatusCode != http.StatusOK {
					t.Errorf("/healthz answers %d", health.StatusCode)
				}
			})
		})
	}
}

// TestGuessesAreGivenUp has the right to ReplicaSets given: nothing of what was guessed is kept.
func TestGuessesAreGivenUp(t *testing.T) {
	inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
		for _, request := range []string{"watch replicasets", "page replicasets"} {
			b.api.answer(request, forbids)
			time.AfterFunc(time.Second, func() { b.api.answer(request, nil) })
		}
		b.watched()
		b.statePage()
		leaf := weak.Make(b.connection.Pods.Store.Leaves()[0])
		time.Sleep(2 * time.Minute)
		b.put(numbered(1, ""))
		b.statePage()
		if runtime.GC(); leaf.Value() != nil {
			t.Error("the pods that owners were guessed from are kept")
		}
		runtime.KeepAlive(b)
	})
}

// TestFirstStatePage is what is answered at once after a start, and a minute later.
func TestFirstStatePage(t *testing.T) {
	const most, incomplete = 9500 * time.Millisecond, "pods, nodes: not read yet"
	for name, c := range map[string]struct {
		resource    string
		answer      answerer
		status      int
		early, late time.Duration
		first, says string // at once, and a minute later
	}{
		"all works":         {pods, nil, 200, 0, 0, "", ""},
		"pods come late":    {pods, nil, 200, 3 * time.Second, 0, "", ""},
		"pods hang":         {pods, hangs, 503, most, 0, incomplete, "no complete answer in time"},
		"pods get stuck":    {pods, hangsLater, 503, most, 0, incomplete, "no complete answer in time"},
		"pods are refused":  {pods, forbids, 503, 0, 0, "", `grant {apiGroups: [""], resources: ["pods"]`},
		"nodes hang":        {nodes, hangs, 200, most, 0, "", ""},
		"nodes get stuck":   {nodes, hangsLater, 200, most, 0, "", ""},
		"nodes are refused": {nodes, forbids, 200, 0, 0, "", ""},
		"quotas break":      {quotas, breaks, 200, 0, 0, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
				for _, verb := range []string{"watch ", "page "} {
					b.api.answer(verb+c.resource, c.answer)
				}
				if c.answer == nil {
					b.slows(c.resource, c.early)
				}
				b.begin(b.run)
				for _, scrape := range []struct {
					waits time.Duration
					says  string
				}{{c.early, cmp.Or(c.first, c.says)}, {c.late, c.says}} {
					status, text, took := b.scrapePage(kubeState)
					says := status == 200 || strings.HasPrefix(text, "no data yet\n") && strings.Contains(text, scrape.says)
					if status != c.status || took != scrape.waits || !says {
						t.Errorf("%s after the start: status %d after %s, want %d after %s: %s", time.Since(b.api.began), status,
							took, c.status, scrape.waits, text)
					}
					time.Sleep(time.Minute)
				}
			})
		})
	}
}

// TestNothingOfAClusterThatIsGoneOnTheStatePage has a scrape wait for a list, as the kubeconfig is taken away, and
// another one comes or none.
func TestNothingOfAClusterThatIsGoneOnTheStatePage(t *testing.T) {
	for _, waitsFor := range []string{pods, nodes} {
		for name, status := range map[string]int{"another comes": 200, "none comes": 503} {
			t.Run(waitsFor+", "+name, func(t *testing.T) {
				inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
					b.api.answer("watch "+waitsFor, hangs)
					b.begin(b.run)
					c, took := b.one(), 9500*time.Millisecond
					time.AfterFunc(time.Second, func() { c.leave(b.connection) })
					if status == http.StatusOK {
						took = 2 * time.Second
						time.AfterFunc(took, func() {
							b.api.answer("watch "+waitsFor, nil)
							b.api.mu.Lock()
							b.api.have = smallCluster(b.api.began)
							b.api.mu.Unlock()
							b.begin(c.connect(b.api.client).run)
						})
					}
					is, text, after := b.scrapePage(kubeState)
					if is != status || after != took || strings.Contains(text, `namespace="a"`) {
						t.Errorf("status %d after %s, want %d after %s:\n%s", is, after, status, took, text)
					}
				})
			})
		}
	}
}

// rendered is how many leaves of pods were rendered, and of other resources.
func (b *bubble) rendered() (pods, others int64) {
	for _, o := range b.Others {
		others += o.Rendered()
	}
	return b.connection.Pods.Rendered(), others
}

// statePage is the page, which is ready at once.
func (b *bubble) statePage() *page.Page {
	b.t.Helper()
	p, err := b.fleet.Page(b.t.Context(), kubeState)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func textOf(t *testing.T, p *page.Page) string {
	t.Helper()
	var text strings.Builder
	if err := p.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// numbered is pod a/pod-NUMBER.
func numbered(i int, ip string) corev1.Pod {
	p := podOf(epoch, epoch, fmt.Sprintf("c id-%d", i))
	p.Name, p.Status.PodIP, p.Status.Phase = fmt.Sprintf("pod-%04d", i), ip, corev1.PodRunning
	return p
}

// TestOnlyWhatHasChangedIsRendered counts the leaves of the state page that are rendered for each change.
func TestOnlyWhatHasChangedIsRendered(t *testing.T) {
	const many = 3000
	inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
		b.watched()
		for i := range many {
			b.put(numbered(i, "10.0.0.1"))
		}
		run(t, b.connection, input{})
		b.statePage()
		all, _ := b.rendered()
		if all < many/128 || all > many/32 {
			t.Errorf("%d pods are %d leaves", many, all)
		}
		usage := func() {
			in := input{}
			for i := range many {
				in.usage.Items = append(in.usage.Items, podUsage("a", fmt.Sprintf("pod-%04d", i), time.Now(), "c", "1 1"))
			}
			run(t, b.connection, in)
		}
		for _, change := range []struct {
			what         string
			do           func()
			pods, others int64 // leaves rendered
			line         string
		}{
			{"nothing", func() {}, 0, 0, ""},
			{"a minute passes", func() { time.Sleep(time.Minute) }, 0, 0, ""},
			{"usage", usage, 0, 0, ""},
			{"the page of usage was scraped", func() { b.scrapePage(cadvisor) }, 0, 0, ""},
			{"a pod says the same again", func() { b.put(numbered(7, "10.0.0.1")) }, 0, 0, ""},
			{"a pod", func() { b.put(numbered(1234, "10.9.9.9")) }, 1, 0, `pod="pod-1234",uid="",host_ip="",pod_ip="10.9.9.9"`},
			{"two pods beside each other", func() {
				b.put(numbered(0, "10.9.9.8"))
				b.put(numbered(1, "10.9.9.8"))
			}, 1, 0, `pod="pod-0001",uid="",host_ip="",pod_ip="10.9.9.8"`},
			{"a pod is gone", func() {
				gone := slimPod(numbered(2999, ""), true)
				b.connection.Pods.Store.Delete(b.connection.Pods.Watch.Keep(&gone))
			}, 1, 0, ""},
			{"a node", func() {
				for _, o := range b.Others {
					if o.Watch.Resource == nodes {
						n := &slim.Node{}
						n.Name = "new"
						o.Store.Put(o.Watch.Keep(n))
					}
				}
			}, 0, 1, `kube_node_info{node="new"`},
		} {
			before := b.statePage()
			pods, others := b.rendered()
			change.do()
			after := b.statePage()
			nowPods, nowOthers := b.rendered()
			if nowPods-pods != change.pods || nowOthers-others != change.others {
				t.Errorf("%s: %d leaves of pods and %d of others are rendered, want %d and %d", change.what, nowPods-pods,
					nowOthers-others, change.pods, change.others)
			}
			if same := change.pods+change.others == 0; (after == before) != same {
				t.Errorf("%s: the page is the same one: %t", change.what, after == before)
			}
			text := textOf(t, after)
			if !strings.Contains(text, change.line) || strings.Count(text, "\nkube_pod_info{") < many-1 {
				t.Errorf("%s: no %s on the page, or not all pods", change.what, change.line)
			}
		}
	})
}

// TestPagesThatNobodyAsksForAreGivenUp holds on to nothing of a page ten minutes after the last scrape.
func TestPagesThatNobodyAsksForAreGivenUp(t *testing.T) {
	for name, answer := range map[string]answerer{"all is read": nil, "owners are guessed": forbids} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
				for _, request := range []string{"watch replicasets", "page replicasets", "watch jobs", "page jobs"} {
					b.api.answer(request, answer)
				}
				b.api.have[pods] = nil
				for i := range 500 {
					b.api.have[pods] = append(b.api.have[pods], numbered(i, "10.0.0.1"))
				}
				b.begin(b.run)
				synctest.Wait()
				texts := map[string]string{}
				type kept struct {
					what string
					gone func() bool
				}
				var all []kept
				keep := func(what string, p *page.Page, parts [][][]*page.Part) {
					was := weak.Make(p)
					all = append(all, kept{what, func() bool { return was.Value() == nil }})
					for _, of := range parts {
						for family, parts := range of {
							for _, part := range parts {
								was := weak.Make(part)
								all = append(all, kept{what + "'s part of " + names[family], func() bool { return was.Value() == nil }})
							}
						}
					}
				}
				scrape := func() {
					for _, name := range furtherPages {
						texts[name] = b.pageOf(name, 0)
						shown := b.one().Current(t.Context(), name)
						if shown.Failed != nil {
							t.Fatal(shown.Failed)
						}
						p, err := b.fleet.Page(t.Context(), name)
						if err != nil {
							t.Fatal(err)
						}
						keep(name, p, shown.Objects)
					}
				}
				scrape()
				leaf := weak.Make(b.connection.Pods.Store.Leaves()[0])
				time.Sleep(pages.MaxUnused - time.Second)
				if runtime.GC(); leaf.Value() == nil || len(all) < 20 || all[len(all)-1].gone() {
					t.Error("given up before ten minutes have passed")
				}
				b.api.have[pods][0] = numbered(0, "10.0.0.2") // which replaces a leaf
				b.put(numbered(0, "10.0.0.2"))
				time.Sleep(2 * time.Second)
				synctest.Wait()
				runtime.GC()
				for _, k := range all {
					if !k.gone() {
						t.Errorf("%s is kept", k.what)
					}
				}
				if leaf.Value() != nil {
					t.Error("what a pod was is kept")
				}
				before := texts[kubeState]
				if scrape(); texts[kubeState] != strings.Replace(before, `pod_ip="10.0.0.1"`, `pod_ip="10.0.0.2"`, 1) {
					t.Errorf("the next page is another one:\n%s\nbefore:\n%s", texts[kubeState], before)
				}
				runtime.KeepAlive(b)
			})
		})
	}
}

// TestPagesThatAreAskedForAreKept has one page scraped for half an hour, and the other never.
func TestPagesThatAreAskedForAreKept(t *testing.T) {
	for _, name := range furtherPages {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
				b.begin(b.run)
				before := familiesOf(b.pageOf(name, 0))
				pods, others := b.rendered()
				for range 30 {
					time.Sleep(time.Minute)
					if now := familiesOf(b.pageOf(name, 0)); !slices.Equal(now, before) {
						t.Fatalf("families %q, want %q", now, before)
					}
				}
				// Nodes are of both pages, and given up with either.
				if nowPods, nowOthers := b.rendered(); nowPods != pods || nowOthers > others+1 {
					t.Errorf("%d and %d leaves are rendered, want %d and %d", nowPods, nowOthers, pods, others)
				}
			})
		})
	}
}

// TestNothingIsKeptOfAFormerCluster ends a connection of which both pages were scraped.
func TestNothingIsKeptOfAFormerCluster(t *testing.T) {
	inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
		b.one().leave(b.connection)
		for _, request := range []string{"watch jobs", "page jobs"} {
			b.api.answer(request, forbids)
		}
		kept := func() map[string]func() bool {
			n := b.one().connect(b.api.client)
			ctx, stop := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { n.run(ctx) })
			synctest.Wait()
			b.pageOf(cadvisor, 0)
			page, leaf := weak.Make(b.statePage()), weak.Make(n.Pods.Store.Leaves()[0])
			snapshot, former := weak.Make(n.lists[1].present.Load()), weak.Make(n.Pods.Store)
			b.one().leave(n)
			stop()
			running.Wait()
			return map[string]func() bool{"the page": func() bool { return page.Value() != nil },
				"a leaf":     func() bool { return leaf.Value() != nil },
				"a snapshot": func() bool { return snapshot.Value() != nil },
				"the pods":   func() bool { return former.Value() != nil }}
		}()
		time.Sleep(time.Minute) // a timer that was stopped may be kept until it would have run out
		runtime.GC()
		for what, is := range kept {
			if is() {
				t.Errorf("%s of the former cluster: kept", what)
			}
		}
		for _, name := range furtherPages {
			if status, text, _ := b.scrapePage(name); status != http.StatusServiceUnavailable {
				t.Errorf("%s: status %d:\n%s", name, status, text)
			}
		}
		b.one().connect(b.api.client) // nothing of it is read yet
		if status, text, _ := b.scrapePage(kubeState); status != http.StatusServiceUnavailable {
			t.Errorf("status %d:\n%s", status, text)
		}
		runtime.KeepAlive(b)
	})
}

// TestScrapesOfAllPagesAtOnce has many of them, while pods come, change and go, usage is read, objects are listed anew
// and pages are given up. It is worth what the race detector makes of it, so that its time is the real one: those that
// wait in a bubble run one after the other.
func TestScrapesOfAllPagesAtOnce(t *testing.T) {
	s, n, in := bigServer(t, 60, map[string]answerer{"watch jobs": forbids, "page jobs": forbids})
	var scraping sync.WaitGroup
	handler := s.handler()
	for i := range 6 {
		name := append([]string{""}, furtherPages...)[i%3]
		scraping.Go(func() {
			for range 12 {
				r := getFrom(handler, path.Join("/metrics", name))
				body, _ := io.ReadAll(r.Body)
				families := familiesOf(string(body))
				if unique := slices.Compact(slices.Sorted(slices.Values(families))); r.StatusCode != http.StatusOK ||
					len(families) < 5 || len(unique) != len(families) {
					t.Errorf("%s: status %d, families %q", name, r.StatusCode, families)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { defer close(done); scraping.Wait() }()
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		default:
		}
		p := slimPod(numbered(i%60, fmt.Sprintf("10.0.0.%d", i%256)), true)
		n.Pods.Store.Put(n.Pods.Watch.Keep(&p))
		if i%7 == 0 {
			n.Pods.Store.Delete(n.Pods.Watch.Keep(&p))
		}
		refreshFrom(t, n.lists[0], &in.nodes, "NodeMetricsList")
		refreshFrom(t, n.lists[1], &in.usage, "PodMetricsList")
		switch i % 20 {
		case 5:
			s.fleet.Pages[cadvisor].Release()
		case 10:
			s.fleet.Pages[kubeState].Release()
		case 15:
			for _, o := range n.Others {
				o.Watch.Resync()
			}
		}
	}
}

// receiver is one of remote write, outside of a bubble.
func receiver(t *testing.T) (r *standin.Receiver, url string) {
	r = &standin.Receiver{}
	web := httptest.NewServer(r)
	t.Cleanup(web.Close)
	t.Cleanup(func() {
		for _, fault := range r.Faults() {
			t.Error(fault)
		}
	})
	return r, web.URL
}

// pushes has the server push to a receiver at an interval from now on, as instance i.
func (b *bubble) pushes(url string, interval time.Duration) {
	p := &b.server.set.push
	p.URL, p.Format, p.Instance, p.Interval = url, push.RemoteWrite, "i", interval
	following, stop := context.WithCancel(b.t.Context())
	stop() // the bubble has its own connection
	b.server.start(following)
	b.begin(p.Run)
}

// seriesOf is the series that a sample of a page is pushed as, and its value.
func seriesOf(line, page string) (series string, value float64) {
	sample, last, _ := strings.Cut(strings.TrimSpace(line), "} ")
	name, text, found := strings.Cut(sample, "{")
	if !found {
		name, last, _ = strings.Cut(sample, " ")
	}
	labels := []string{`instance="i"`, fmt.Sprintf("job=%q", cmp.Or(page, "metrics-server-prom"))}
	labels = append(labels, regexp.MustCompile(`[a-zA-Z_]+="[^"]+"`).FindAllString(text, -1)...)
	slices.Sort(labels)
	value, _ = strconv.ParseFloat(last, 64)
	return name + "{" + strings.Join(labels, ",") + "}", value
}

// TestPushesAreWhatThePagesShow compares what is pushed by remote write with what is scraped at that moment: series,
// values, and of usage the timestamps.
func TestPushesAreWhatThePagesShow(t *testing.T) {
	has, url := receiver(t)
	set := scope.Settings{Pages: furtherPages, PodLabels: []string{"pod-template-hash"}, Top: true}
	inBubble(t, set, func(t *testing.T, b *bubble) {
		b.pushes(url, time.Minute)
		b.begin(b.run)
		time.Sleep(5*time.Minute + time.Second)
		live, seen := has.Live(), map[string]bool{}
		all := len(live)
		age, _ := b.age(strings.ReplaceAll(b.pageOf("", 0), `,label_pod_template_hash="5d"`, ""), "a")
		read := time.Since(epoch) - age
		for _, page := range append([]string{""}, furtherPages...) {
			for line := range strings.Lines(samples(b.pageOf(page, 0))) {
				series, value := seriesOf(line, page)
				pushed, found := live[series]
				delete(live, series)
				family, _, _ := strings.Cut(series, "{")
				seen[family] = true
				own := strings.HasPrefix(family, selfmetrics.Prefix) || strings.HasPrefix(family, "go_") ||
					strings.HasPrefix(family, "process_")
				at := 5 * time.Minute // of the push
				if i := slices.Index(names, family); i >= 0 && families[i].Labels != nil {
					at = read
					if strings.Contains(series, `node="n1"`) {
						at -= 5 * time.Second
					}
				}
				if !found || !own && pushed.Value != value || pushed.At != epoch.Add(at).UnixMilli() {
					t.Errorf("%s is pushed as %v (%t), want %v at %s", series, pushed, found, value, at)
				}
			}
			up, _ := seriesOf("up 1", page)
			if live[up].Value != 1 {
				t.Errorf("%s is %v", up, live[up])
			}
			delete(live, up)
		}
		for series := range live {
			t.Errorf("%s is pushed, and on no page", series)
		}
		for _, name := range names {
			if page := strings.HasPrefix(name, "kube_pod_"); !page && !seen[name] {
				t.Errorf("nothing of %s is on a page", name)
			}
		}
		if all < 150 {
			t.Errorf("only %d series", all)
		}
	})
	if live := has.Live(); len(live) > 0 { // after the end
		t.Errorf("%d series go on, such as %v", len(live), slices.Sorted(maps.Keys(live))[0])
	}
}

// TestWhatIsToPush waits for it as a scrape does, and goes without what is missing.
func TestWhatIsToPush(t *testing.T) {
	const patience = 10 * time.Second
	for name, c := range map[string]struct {
		answers map[string]answerer
		took    time.Duration
		missing []string // of nodes, a and b (usage), pods, replicasets, resourcequotas (state)
	}{
		"all is there":             {nil, 0, nil},
		"usage of a namespace":     {map[string]answerer{"list b/pods": hangs}, patience, []string{"b"}},
		"usage that is refused":    {map[string]answerer{"list b/pods": forbids}, 0, []string{"b"}},
		"usage of nodes":           {map[string]answerer{"list nodes": forbids}, 0, []string{nodes}},
		"usage of nodes that hang": {map[string]answerer{"list nodes": hangs}, patience, []string{nodes, "a", "b"}},
		"quotas": {map[string]answerer{"watch a/resourcequotas": hangs, "page a/resourcequotas": hangs,
			"watch b/resourcequotas": hangs, "page b/resourcequotas": hangs}, patience, []string{quotas}},
		"pods of a namespace": {map[string]answerer{"watch b/pods": hangs, "page b/pods": hangs}, patience, []string{"b"}},
		"pods": {map[string]answerer{"watch a/pods": hangs, "page a/pods": hangs, "watch b/pods": hangs,
			"page b/pods": hangs}, patience, []string{nodes, "a", "b", pods}},
		"pods are refused": {map[string]answerer{"watch a/pods": forbids, "page a/pods": forbids, "watch b/pods": forbids,
			"page b/pods": forbids}, 0, []string{"a", "b", pods}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scope.Settings{Namespaces: []string{"a", "b"}, Pages: furtherPages}, func(t *testing.T, b *bubble) {
				maps.Copy(b.api.answers, c.answers)
				b.begin(b.run)
				began := time.Now()
				k := b.one().known(t.Context())
				if took := time.Since(began); took != c.took {
					t.Errorf("it takes %s, want %s", took, c.took)
				}
				var missing []string
				for i, what := range []string{nodes, "a", "b"} {
					n := 0
					if i < len(k.Lists) && k.Lists[i] != nil {
						k.Lists[i](func(b *sample.Batch) { n = len(b.Samples) })
					}
					if n == 0 {
						missing = append(missing, what)
					}
				}
				if pods := k.Pods; (k.Failed == nil) != (len(pods) > 0) {
					t.Errorf("%d leaves of pods, but %v", len(pods), k.Failed)
				}
				if k.Failed != nil {
					missing = append(missing, pods)
				}
				for _, resource := range []string{replicaSets, quotas} {
					if len(k.Others[resource]) == 0 {
						missing = append(missing, resource)
					}
				}
				if !slices.Equal(missing, c.missing) {
					t.Errorf("%q are missing, want %q", missing, c.missing)
				}
			})
		})
	}
}

// TestWhatIsToPushOfACluster that is there a second later than the end of the one that was waited for.
func TestWhatIsToPushOfACluster(t *testing.T) {
	inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
		b.api.answer("list pods", hangs)
		b.begin(b.run)
		c, began := b.one(), time.Now()
		time.AfterFunc(time.Second, func() { c.leave(b.connection) })
		time.AfterFunc(2*time.Second, func() {
			b.api.answer("list pods", nil)
			b.begin(c.connect(b.api.client).run)
		})
		k := c.known(t.Context())
		if took := time.Since(began); took != 2*time.Second || len(k.Lists) != 2 || k.Lists[1] == nil || k.Failed != nil {
			t.Errorf("after %s: %+v", took, k)
		}
	})
}

// TestPushesAfterAFreeze has the objects change while the process stands still: before a push, and in it. What was
// known before is nowhere as of after that. Pushes begin every three minutes and wait ten seconds for usage, which
// nobody reads.
func TestPushesAfterAFreeze(t *testing.T) {
	for name, within := range map[string]bool{"before a push": false, "within a push": true} {
		t.Run(name, func(t *testing.T) {
			has, url := receiver(t)
			inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
				b.pushes(url, 3*time.Minute)
				b.watched()
				var thaw int64
				freeze := func(length time.Duration) {
					b.api.mu.Lock()
					b.api.have = smallCluster(b.api.began)
					b.api.mu.Unlock()
					b.freeze(length)
					thaw = time.Now().UnixMilli()
				}
				asked := 0
				b.server.self.Gauge("asked_for_in_a_push", "", "", func() float64 {
					if asked++; asked == 2 && within {
						freeze(time.Minute)
					}
					return 0
				})
				time.Sleep(200 * time.Second)
				if !within {
					freeze(2 * time.Minute)
				}
				time.Sleep(400 * time.Second)
				for series, samples := range has.Samples() {
					last := samples[len(samples)-1]
					if old := strings.Contains(series, `namespace="a"`); old && (!last.IsStale() || last.At < thaw) {
						t.Errorf("%s ends with %v, the thaw was at %d", series, last, thaw)
					}
				}
				phase, _ := seriesOf(`kube_namespace_status_phase{namespace="shop",phase="Active"} 1`, kubeState)
				if is := has.Samples()[phase]; len(is) == 0 || is[0].At < thaw {
					t.Errorf("%s is %v, the thaw was at %d", phase, is, thaw)
				}
				former, _ := seriesOf(`kube_namespace_status_phase{namespace="a",phase="Active"} 1`, kubeState)
				is := has.Samples()[former]
				if want := map[bool]int{false: 2, true: 3}[within]; len(is) != want || is[len(is)-2].At > thaw {
					t.Errorf("%s is %v, want %d samples, all but the last from before the thaw at %d", former, is, want, thaw)
				}
			})
		})
	}
}

// TestPushesOfAnotherCluster has the kubeconfig change: at first there is none, then another one.
func TestPushesOfAnotherCluster(t *testing.T) {
	has, url := receiver(t)
	inBubble(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, b *bubble) {
		b.pushes(url, time.Minute)
		b.begin(b.run)
		time.Sleep(90 * time.Second)
		b.one().leave(b.connection)
		time.Sleep(time.Minute)
		b.api.mu.Lock()
		b.api.have = smallCluster(b.api.began)
		b.api.mu.Unlock()
		b.begin(b.one().connect(b.api.client).run)
		time.Sleep(time.Minute)
		for line, want := range map[string]string{
			"up 1": "[60000:1 130000:0 180000:1]",
			`kube_namespace_status_phase{namespace="a",phase="Active"} 1`:    "[60000:1 130000:stale]",
			`kube_namespace_status_phase{namespace="shop",phase="Active"} 1`: "[180000:1]",
			`kube_node_role{node="n1",role="worker"} 1`:                      "[60000:1 130000:stale 180000:1]",
		} {
			series, _ := seriesOf(line, kubeState)
			var got []standin.Sample
			for _, s := range has.Samples()[series] {
				s.At -= epoch.UnixMilli()
				got = append(got, s)
			}
			if fmt.Sprint(got) != want {
				t.Errorf("%s is %v, want %s", series, got, want)
			}
		}
		usage, _ := seriesOf(`kube_metrics_server_node_cpu{node="n1"} 1`, "")
		if got := fmt.Sprint(has.Samples()[usage]); !strings.Contains(got, "stale") || strings.HasSuffix(got, "stale]") {
			t.Errorf("%s is %s", usage, got)
		}
	})
}

// TestAPushThatIsAskedForHasWhatTakesItsTime, though a scrape would be answered without it.
func TestAPushThatIsAskedForHasWhatTakesItsTime(t *testing.T) {
	for name, c := range map[string]struct {
		request, pushed string
		as              answerer // once the request has taken its time; nil for as ever
		want            bool
	}{
		"a list of objects": {"watch b/replicasets", `kube_replicaset_owner{`, nil, true},
		"a list of usage":   {"list b/pods", `kube_metrics_server_pod_cpu{`, nil, true},
		"one that fails":    {"list b/pods", `kube_metrics_server_pod_cpu{`, breaks, false},
	} {
		t.Run(name, func(t *testing.T) {
			has, url := receiver(t)
			inBubble(t, scope.Settings{Pages: furtherPages, Namespaces: []string{"a", "b"}}, func(t *testing.T, b *bubble) {
				b.api.answer(c.request, func(r *http.Request) (*http.Response, error) {
					select {
					case <-time.After(12 * time.Second):
					case <-r.Context().Done():
						return nil, r.Context().Err()
					}
					b.api.answer(c.request, c.as)
					return b.api.RoundTrip(r)
				})
				b.pushes(url, time.Hour)
				b.begin(b.run)
				if _, err := b.server.set.push.Once(t.Context()); err != nil {
					t.Fatal(err)
				}
				of := map[string]bool{}
				for series := range has.Live() {
					for _, namespace := range b.set.Namespaces {
						if strings.HasPrefix(series, c.pushed) && strings.Contains(series, fmt.Sprintf("namespace=%q", namespace)) {
							of[namespace] = true
						}
					}
				}
				if !of["a"] || of["b"] != c.want {
					t.Errorf("after %s, %s is pushed of %v", time.Since(epoch), c.pushed, of)
				}
			})
		})
	}
}

// TestOnce has a process that reads once, of a server on the network.
func TestOnce(t *testing.T) {
	api := &apiServer{began: time.Now(), answers: map[string]answerer{}, have: map[string][]any{},
		stamp: func(now time.Time) time.Time { return now }}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := api.RoundTrip(r)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer answer.Body.Close()
		maps.Copy(w.Header(), answer.Header)
		w.WriteHeader(answer.StatusCode)
		io.Copy(w, answer.Body)
	}))
	defer web.Close()
	once := func(url string) (text string, err error) {
		set := &settings{Settings: scope.Settings{RefreshInterval: 15 * time.Second, MaxAge: 5 * time.Minute,
			Pages: furtherPages},
			push: push.Pusher{URL: url, Format: push.RemoteWrite, Instance: "i", JustOnce: true}}
		set.KubeconfigData = "clusters: [{name: c, cluster: {server: " + web.URL + "}}]\n" +
			"contexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n"
		var out strings.Builder
		err = newServer(set).once(t.Context(), &out)
		return out.String(), err
	}

	text, err := once("")
	if err != nil {
		t.Fatal(err)
	}
	if first, _, _ := strings.Cut(text, "\n"); !strings.HasPrefix(first, "# What this program counts itself, such as "+
		"container_cpu_usage_seconds_total, is not here") {
		t.Errorf("it begins with %s", first)
	}
	for _, counted := range regexp.MustCompile(`(?m)^# TYPE (\S+) (counter|histogram)`).FindAllStringSubmatch(text, -1) {
		if counted[1] != "kube_pod_container_status_restarts_total" {
			t.Errorf("%s is a %s", counted[1], counted[2])
		}
	}
	for _, sample := range []string{`kube_metrics_server_pod_mem{node="n",pod="p",`, `container_memory_working_set_bytes{`,
		`kube_pod_container_status_restarts_total{`, `kube_replicaset_owner{`, selfmetrics.Prefix + `up{resource="pods"} 1`} {
		if !strings.Contains(text, "\n"+sample) {
			t.Errorf("there is no %s in\n%s", sample, text)
		}
	}
	if watches := api.asked("watch"); len(watches) > 0 {
		t.Errorf("it asks for %q", watches)
	}

	has, url := receiver(t)
	if text, err := once(url); text != "" || err != nil {
		t.Errorf("it prints %s, error %v", text, err)
	}
	for line := range strings.Lines(samples(text)) {
		for page, prefix := range map[string]string{"": "kube_metrics_server_", cadvisor: "container_",
			kubeState: "kube_pod_"} {
			series, _ := seriesOf(line, page)
			if _, found := has.Live()[series]; strings.HasPrefix(line, prefix) && !found {
				t.Errorf("%s is not pushed", series)
			}
		}
	}

	api.answer("list pods", forbids) // of nodes there is something
	for _, url := range []string{"", url} {
		text, err := once(url)
		if (text == "") != (url != "") || err == nil || !strings.Contains(err.Error(), "list pods.metrics.k8s.io: 403") {
			t.Errorf("pods are refused: it prints %s, error %v", text, err)
		}
	}
	api.answer("list pods", nil)
	has.Answer = func() (int, bool) { return http.StatusForbidden, false }
	if text, err := once(url); text != "" || err == nil || !strings.Contains(err.Error(), "cannot push to") {
		t.Errorf("the receiver refuses: it prints %s, error %v", text, err)
	}
}

// TestPageForPeople is at /, and what takes its place where it is off.
func TestPageForPeople(t *testing.T) {
	for name, c := range map[string]struct {
		on, json int
		says     string
	}{"on": {1, http.StatusOK, "top.json"}, "off": {0, http.StatusNotFound, "Age of the newest sample"}} {
		t.Run(name, func(t *testing.T) {
			s, n := newTestServer(t, scope.Settings{Top: c.on == 1})
			run(t, n, bigCluster(1, 1))
			landing := get(t, s, "/")
			body, _ := io.ReadAll(landing.Body)
			if landing.StatusCode != http.StatusOK || !strings.Contains(string(body), c.says) ||
				!strings.Contains(string(body), `href="/metrics"`) {
				t.Errorf("status %d:\n%s", landing.StatusCode, body)
			}
			if json := get(t, s, "/top.json"); json.StatusCode != c.json {
				t.Errorf("/top.json: status %d", json.StatusCode)
			}
		})
	}
}

// benchmarked are the numbers of pods that every stage is measured at, each pod having two containers.
var benchmarked = []int{1_000, 10_000, 100_000, 150_000}

func protobufOf(b testing.TB, list kruntime.Object, kind string) []byte {
	list.GetObjectKind().SetGroupVersionKind(kube.Metrics.WithKind(kind))
	scheme := kruntime.NewScheme()
	scheme.AddKnownTypes(kube.Metrics, &metricsv1beta1.PodMetricsList{}, &metricsv1beta1.NodeMetricsList{})
	var body bytes.Buffer
	if err := protobuf.NewSerializer(scheme, scheme).Encode(list, &body); err != nil {
		b.Fatal(err)
	}
	return body.Bytes()
}

// cpuTime is what this process has used. Unlike the time that has passed, it means something on a machine that does
// other work.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// eachSize measures what f returns, in a cluster of each size.
func eachSize(b *testing.B, f func(b *testing.B, s *server, n *connection, in input) func()) {
	for _, size := range benchmarked {
		b.Run(fmt.Sprintf("pods=%d", size), func(b *testing.B) {
			s, n := newTestServer(b, scope.Settings{})
			in := bigCluster(size, 2)
			for i := range in.pods {
				n.Pods.Store.Put(n.Pods.Watch.Keep(&in.pods[i]))
			}
			measured := f(b, s, n, in)
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				measured()
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N*size), "cpu-ns/pod")
		})
	}
}

func BenchmarkLabels(b *testing.B) {
	eachSize(b, func(_ *testing.B, _ *server, n *connection, in input) func() {
		return func() {
			for i := range in.pods {
				n.Pods.Watch.Keep(&in.pods[i])
			}
		}
	})
}

func BenchmarkDecodeAndJoin(b *testing.B) {
	eachSize(b, func(b *testing.B, _ *server, n *connection, in input) func() {
		slices.SortFunc(in.usage.Items, func(x, y metricsv1beta1.PodMetrics) int { // as metrics-server does
			return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
		})
		body := protobufOf(b, &in.usage, "PodMetricsList")
		b.SetBytes(int64(len(body)))
		joiner, decoder := &n.lists[1].Joiner, new(metricsapi.Decoder)
		return func() {
			joiner.Begin()
			if err := decoder.Read(bytes.NewReader(body), metricsapi.PodMetricsList, joiner.Join); err != nil {
				b.Fatal(err)
			}
			joiner.Done()
		}
	})
}

func BenchmarkRenderAndGzip(b *testing.B) {
	eachSize(b, func(b *testing.B, _ *server, n *connection, in input) func() {
		refreshFrom(b, n.lists[1], &in.usage, "PodMetricsList")
		batch := n.lists[1].Joiner.Expire(time.Time{})
		return func() { pages.NewSnapshot(families, "", pods, batch) }
	})
}

// BenchmarkSplit measures what it costs to split a family into parts of so many samples: bytes of the page, and the
// time to assemble it, which is paid once for each change.
func BenchmarkSplit(b *testing.B) {
	const size = 150_000
	_, n := newTestServer(b, scope.Settings{})
	in := bigCluster(size, 2)
	for i := range in.pods {
		n.Pods.Store.Put(n.Pods.Watch.Keep(&in.pods[i]))
	}
	refreshFrom(b, n.lists[1], &in.usage, "PodMetricsList")
	batch := n.lists[1].Joiner.Expire(time.Time{})
	for _, partLen := range []int{32, 128, 512, 2 << 10, 16 << 10, size * 2} {
		b.Run(fmt.Sprintf("samples=%d", partLen), func(b *testing.B) {
			s := &pages.Snapshot{Shown: usage.Shown{Resource: pods}, Rendered: families.Rendered()}
			for i, f := range families {
				if f.Source == pods && f.Page == "" {
					s.Rendered.Parts[i], s.Rendered.Served[i] = f.Render(new(page.Compressor), &label.Usage{Batch: batch}, partLen)
				}
			}
			var whole *page.Page
			for b.Loop() {
				whole = pages.Assemble(families, "", []pages.Shown{{Snapshots: []*pages.Snapshot{s}}}, nil)
			}
			b.ReportMetric(float64(whole.GzipLen())/size, "bytes/pod")
		})
	}
}

// bigServer is a server of all pages, with a cluster of so many whole pods of two containers each. Its watches run, and
// usage was read once.
func bigServer(b testing.TB, size int, answers map[string]answerer) (*server, *connection, input) {
	in, api := bigCluster(size, 2), &apiServer{began: time.Now(), have: map[string][]any{}, answers: answers}
	for i, p := range in.pods {
		whole := smallCluster(api.began)[pods][0].(corev1.Pod)
		whole.ObjectMeta, whole.Spec.NodeName, whole.Status.PodIP = p.ObjectMeta, p.Spec.NodeName, p.Status.PodIP
		whole.UID, whole.Spec.InitContainers, whole.Status.InitContainerStatuses = types.UID(uuid(i)), nil, nil
		whole.OwnerReferences = []metav1.OwnerReference{
			{Kind: "ReplicaSet", Controller: new(true), Name: fmt.Sprintf("service-%d-5d", i/20)}}
		for j, name := range []string{"app", "istio-proxy"} {
			status := &whole.Status.ContainerStatuses[j]
			whole.Spec.Containers[j].Name, status.Name = name, name
			status.ContainerID = fmt.Sprintf("containerd://%064x", 2*i+j)
			status.ImageID = fmt.Sprintf("registry.example.com/team/%s@sha256:%064x", name, j)
		}
		api.have[pods] = append(api.have[pods], whole)
	}
	s := newServer(&settings{web: serve.Settings{TelemetryPath: "/metrics"},
		Settings: scope.Settings{Pages: furtherPages, MaxAge: 5 * time.Minute, RefreshInterval: 15 * time.Second}})
	n := s.one().connect(api.client)
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	b.Cleanup(func() { stop(); running.Wait() })
	running.Go(func() { s.fleet.Pulse.Run(ctx) })
	running.Go(func() { n.Pods.Watch.Run(ctx) })
	for _, o := range n.Others {
		running.Go(func() { o.Watch.Run(ctx) })
	}
	if err := n.Pods.Ready(b.Context()); err != nil || n.Pods.Store.Len() != size {
		b.Fatal(n.Pods.Store.Len(), err)
	}
	refreshFrom(b, n.lists[0], &in.nodes, "NodeMetricsList")
	refreshFrom(b, n.lists[1], &in.usage, "PodMetricsList")
	return s, n, in
}

func uuid(i int) string { return fmt.Sprintf("%08x-0000-4000-8000-%012x", i, i) }

// BenchmarkFurtherPages makes each of them as a whole.
func BenchmarkFurtherPages(b *testing.B) {
	const size = 10_000
	for _, name := range furtherPages {
		b.Run(name, func(b *testing.B) {
			s, n, _ := bigServer(b, size, nil)
			b.ReportAllocs()
			before := cpuTime(b)
			var whole *page.Page
			for b.Loop() {
				s.fleet.Pages[name].Release()
				again := *n.lists[1].present.Load()
				again.Rendered = families.Rendered()
				n.lists[1].present.Store(&again)
				var err error
				if whole, err = s.fleet.Page(b.Context(), name); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N*size), "cpu-ns/pod")
			b.ReportMetric(float64(whole.GzipLen())/size, "bytes/pod")
			b.ReportMetric(float64(whole.TextLen())/size, "text-bytes/pod")
		})
	}
}

// scrapes returns a scrape of a page over a connection.
func scrapes(b *testing.B, s *server, path, encoding string) func() {
	scraped := httptest.NewServer(s.handler())
	b.Cleanup(scraped.Close)
	request, err := http.NewRequest(http.MethodGet, scraped.URL+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	request.Header.Set("Accept-Encoding", encoding)
	return func() {
		response, err := http.DefaultClient.Do(request)
		if err != nil || response.StatusCode != http.StatusOK {
			b.Fatal(response, err)
		}
		defer response.Body.Close()
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScrapeOfFurtherPages is BenchmarkScrape of each of them, unchanged.
func BenchmarkScrapeOfFurtherPages(b *testing.B) {
	const size = 10_000
	s, _, _ := bigServer(b, size, nil)
	for _, name := range furtherPages {
		for _, encoding := range []string{"gzip", "identity"} {
			b.Run(name+"/"+encoding, func(b *testing.B) {
				scrape := scrapes(b, s, path.Join("/metrics", name), encoding)
				scrape()
				b.ReportAllocs()
				before := cpuTime(b)
				for b.Loop() {
					scrape()
				}
				b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N*size), "cpu-ns/pod")
			})
		}
	}
}

// BenchmarkScrape is whole scrapes of an unchanged snapshot over a connection; its CPU is that of both ends.
func BenchmarkScrape(b *testing.B) {
	for _, encoding := range []string{"gzip", "identity"} {
		b.Run(encoding, func(b *testing.B) {
			eachSize(b, func(b *testing.B, s *server, n *connection, in input) func() {
				refreshFrom(b, n.lists[1], &in.usage, "PodMetricsList")
				refreshFrom(b, n.lists[0], &in.nodes, "NodeMetricsList")
				return scrapes(b, s, "/metrics", encoding)
			})
		})
	}
}

// one is the only cluster.
func (s *server) one() *cluster { return s.clusters()[0] }

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
		for _, c := range b.clusters() {
			b.drop(c)
		}
		b.fleet.Pages.Close()
	})
}

// TestWhoReadsOnceOfAClusterThatGoesEnds, whether it goes before it is read or meanwhile.
func TestWhoReadsOnceOfAClusterThatGoesEnds(t *testing.T) {
	for name, after := range map[string]time.Duration{"before": 0, "meanwhile": time.Second} {
		t.Run(name, func(t *testing.T) {
			inTeam(t, scope.Settings{}, []string{"eu"}, func(t *testing.T, b *team) {
				c, began := b.members["eu"].cluster, time.Now()
				time.AfterFunc(after, func() { b.drop(c) })
				synctest.Wait()
				err := c.read(t.Context())
				if err == nil || !strings.Contains(err.Error(), "not configured any more") || time.Since(began) != after {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
			})
		})
	}
}

func (b *team) unfreeze() {
	var pulse context.Context
	pulse, b.pulse = context.WithCancel(b.ctx)
	b.running.Go(func() { b.fleet.Pulse.Run(pulse) })
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
				if page == "" && !strings.Contains(own, "build_info{") {
					t.Errorf("%s does not say what it is of:\n%s", name, own)
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
					t.Errorf("no up of it: %s\n%v", text, up.present.Load().snapshots())
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
