package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/metricsapi"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/serve"
	"metrics-server-prom/internal/setting"
	"metrics-server-prom/internal/slim"
)

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
		n.store.Put(n.keep(&in.pods[i]))
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
func newTestServer(t testing.TB, set settings) (*server, *connection) {
	t.Helper()
	if set.maxAge == 0 {
		set.maxAge = 5 * time.Minute
	}
	set.refreshInterval, set.telemetryPath = 15*time.Second, "/metrics"
	s := newServer(&set)
	return s, s.clusters[0].connect(nil, nil)
}

// get is a scrape.
func get(t testing.TB, s *server, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, r)
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
		set   settings
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
			set: settings{podLabels: []string{"app"}},
			pods: []slim.Pod{testPod("a", "p", `back\slash`, "quo\"te", long,
				map[string]string{"app": "new\nline \x00 \xff ü"})},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "1 -")},
			want: `kube_metrics_server_pod_cpu{node="back\\slash",pod="p",ip="quo\"te",container="x",namespace="a",label_app="new\nline ` + "\uFFFD \uFFFD" + ` ü"} 1
`},
		"pod labels come last, as kube-state-metrics names them": {
			set: settings{podLabels: []string{"team", "app.kubernetes.io/name", "helmRelease", "a.b", "a-b"}},
			pods: []slim.Pod{testPod("a", "p", "n", "i", long, map[string]string{
				"app.kubernetes.io/name": "shop", "helmRelease": "r", "a.b": "1", "a-b": "2", "other": "no"})},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "1 -")},
			want: `kube_metrics_server_pod_cpu{node="n",pod="p",ip="i",container="x",namespace="a",label_app_kubernetes_io_name="shop",label_helm_release="r",label_a_b_conflict1="1",label_a_b_conflict2="2"} 1
`},
		"excluded namespaces are left out": {
			set:   settings{excludeNamespaces: []string{"b", "c"}},
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
	s, n := newTestServer(t, settings{})
	node := metricsv1beta1.NodeMetrics{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Timestamp: metav1.Now(),
		Window: metav1.Duration{Duration: time.Second}, Usage: corev1.ResourceList{
			corev1.ResourceCPU: quantity.MustParse("61488047183n"), corev1.ResourceMemory: quantity.MustParse("3Gi")}}
	run(t, n, input{nodes: metricsv1beta1.NodeMetricsList{Items: []metricsv1beta1.NodeMetrics{node, node}}})
	want := "# HELP kube_metrics_server_node_cpu " + families[0].help + `
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
	s, n := newTestServer(t, settings{})
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
	s, n := newTestServer(t, settings{})
	old := testPod("a", "db-0", "n1", "i1", now.Add(-time.Hour), nil)
	moved := testPod("a", "db-0", "n2", "i2", now.Add(-10*time.Second), nil)
	old.ResourceVersion, moved.ResourceVersion = "10", "20"
	late := metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{
		podUsage("a", "db-0", now.Add(-20*time.Second), "x", "1 -")}}
	fresh := metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{podUsage("a", "db-0", now, "x", "2 -")}}
	put, del := func(p slim.Pod) { n.store.Put(n.keep(&p)) }, func(p slim.Pod) { n.store.Delete(n.keep(&p)) }
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
			s, n := newTestServer(t, settings{})
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
	s, n := newTestServer(t, settings{})
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
		if !strings.HasPrefix(string(body), pods) || resp.Header.Get("Content-Type") != contentType {
			t.Errorf("Accept-Encoding %q: not the same text", accept)
		}
	}
	if resp := get(t, s, "/metrics", "Accept-Encoding", "identity;q=0"); resp.StatusCode != http.StatusNotAcceptable {
		t.Errorf("no encoding that is accepted: status %d", resp.StatusCode)
	}
}

func TestBeforeTheFirstDataAScrapeWaitsAndThenIsToldToComeAgain(t *testing.T) {
	s, _ := newTestServer(t, settings{})
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
	s, n := newTestServer(t, settings{maxAge: time.Minute})
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
		s, n := newTestServer(t, settings{})
		run(t, n, input{})
		now := func() *page.Page { return s.pages.page(s.clusters[0].snapshots(), &s.registry) }
		first := now()
		if time.Sleep(selfAge - 1); now() != first {
			t.Error("two scrapes of one second are rendered twice")
		}
		self := s.self
		for _, change := range []struct {
			what, line string
			do         func()
		}{
			{"a request", `api_requests_total{code="200"} 1`, func() {
				self.Counter("api_requests_total", "Requests.", `code="200"`).Inc()
				time.Sleep(selfAge)
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
				n.store.Put(n.keep(&p))
				time.Sleep(selfAge)
			}},
			{"a tick", `source_period_seconds 15`, func() {
				n.fresh.Tick(time.Time{}, 15*time.Second)
				time.Sleep(selfAge)
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

// TestReplacedSnapshotIsReleased has a page made and its snapshot replaced: nobody may keep the page's memory.
func TestReplacedSnapshotIsReleased(t *testing.T) {
	s, n := newTestServer(t, settings{})
	run(t, n, bigCluster(50, 2))
	former := weak.Make(s.pages.page(s.clusters[0].snapshots(), &s.registry))
	run(t, n, bigCluster(60, 2))
	if runtime.GC(); former.Value() != nil {
		t.Error("the page of the former snapshot is kept until the next scrape")
	}
}

// TestFormerConnectionTakesNothingFromItsSuccessor hands over in either order: the former's end may come late.
func TestFormerConnectionTakesNothingFromItsSuccessor(t *testing.T) {
	s, former := newTestServer(t, settings{})
	run(t, former, bigCluster(50, 2))
	c := s.clusters[0]
	successor := c.connect(nil, nil)
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
		s, former := newTestServer(t, settings{})
		answered := make(chan *http.Response)
		go func() { answered <- get(t, s, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", "30") }()
		synctest.Wait()
		s.clusters[0].leave(former)
		run(t, s.clusters[0].connect(nil, nil), bigCluster(1, 1))
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
	s, n := newTestServer(t, settings{})
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
		{"kubeconfig", "KUBECONFIG", "", "/k", "/k", "", got(func(s *settings) any { return s.kubeconfig })},
		{"context", "KUBE_CONTEXT", "", "dev", "dev", "", got(func(s *settings) any { return s.context })},
		{"namespaces", "NAMESPACES", "[]", "a, b", "[a b]", "a b", got(func(s *settings) any { return s.namespaces })},
		{"namespaces", "NAMESPACES", "", "a,b", "[a b]", "A", got(func(s *settings) any { return s.scopes() })},
		{"exclude-namespaces", "EXCLUDE_NAMESPACES", "[]", "a", "[a]", "-", got(func(s *settings) any { return s.excludeNamespaces })},
		{"selector", "LABEL_SELECTOR", "", "app=shop,tier!=test", "app=shop,tier!=test", "app in", got(func(s *settings) any { return s.selector })},
		{"pod-labels", "POD_LABELS", "[]", "app,a.b/c", "[app a.b/c]", "a b", got(func(s *settings) any { return s.podLabels })},
		{"refresh-interval", "REFRESH_INTERVAL", "15s", "1s", "1s", "999ms", got(func(s *settings) any { return s.refreshInterval })},
		{"refresh-interval", "REFRESH_INTERVAL", "15s", "10m", "10m0s", "10m1s", got(func(s *settings) any { return s.refreshInterval })},
		{"max-age", "MAX_AGE", "5m0s", "1m", "1m0s", "5", got(func(s *settings) any { return s.maxAge })},
		{"web.listen-address", "PORT", ":9100", "8080", ":8080", "70000", got(func(s *settings) any { return s.listenAddress })},
		{"web.telemetry-path", "WEB_TELEMETRY_PATH", "/metrics", "/usage", "/usage", "/-/ready", got(func(s *settings) any { return s.telemetryPath })},
		{"web.config.file", "WEB_CONFIG_FILE", "", "", "", "/does/not/exist", got(func(s *settings) any { return s.webConfig })},
		{"push.url", "PUSH_URL", "", "http://h/p", "http://h/p", "h:1", got(func(s *settings) any { return s.push.URL })},
		{"push.interval", "PUSH_INTERVAL", "30s", "5s", "5s", "0s", got(func(s *settings) any { return s.push.Interval })},
		{"push.extra-labels", "PUSH_EXTRA_LABELS", "", `a="b"`, `a="b"`, "", got(func(s *settings) any { return s.push.ExtraLabels })},
		{"push.header", "PUSH_HEADER", "map[]", "A: b\nC: d", "map[A:[b] C:[d]]", "MARKED-SECRET", got(func(s *settings) any { return s.push.Headers })},
		{"log.level", "LOG_LEVEL", "INFO", "debug", "DEBUG", "loud", got(func(s *settings) any { return s.logLevel })},
		{"log.format", "LOG_FORMAT", "text", "json", "json", "xml", got(func(s *settings) any { return s.logFormat })},
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

// TestSampleLabelsAreThoseOfThePage keeps the list of them complete.
func TestSampleLabelsAreThoseOfThePage(t *testing.T) {
	s, n := newTestServer(t, settings{})
	run(t, n, bigCluster(1, 1))
	var page strings.Builder
	s.clusters[0].requested("pods", "list", "200")
	s.pushed(true)
	if err := s.writePage(t.Context(), &page); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for line := range strings.Lines(page.String()) {
		if strings.HasPrefix(line, "go_") || strings.HasPrefix(line, "process_") {
			continue // not pushed
		}
		_, labels, _ := strings.Cut(line, "{")
		for pair := range strings.SplitSeq(labels, `",`) {
			if name, _, ok := strings.Cut(pair, `="`); ok && line[0] != '#' {
				names[name] = true
			}
		}
	}
	for name := range names {
		if !slices.Contains(sampleLabels, name) {
			t.Errorf("the label %s of the page is not in the list", name)
		}
	}
	if len(names) < 10 {
		t.Errorf("only %v", names)
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
	var told, settingRows []string // first cells that hold code
	for line := range strings.Lines(string(readme)) {
		if cells := strings.Split(line, "|"); len(cells) > 3 && strings.Contains(cells[1], "`") {
			told = append(told, cells[1])
			settingRows = append(settingRows, line)
		}
	}
	find := func(name string) string {
		for i, cell := range told {
			if strings.Contains(cell, "`"+name+"`") || strings.Contains(cell, "`"+name+"{") {
				return settingRows[i]
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
	s, n := newTestServer(t, settings{})
	n.self.Histogram("refresh_duration_seconds", "Read by a loop, of which there is none.", "", []float64{1}).Update(1)
	run(t, n, bigCluster(1, 1))
	s.pushed(true)
	s.clusters[0].requested("pods", "list", "200")
	n.fresh.Tick(time.Now(), time.Second)
	n.fresh.Shown(time.Now())
	body, _ := io.ReadAll(get(t, s, "/metrics").Body)
	for _, name := range regexp.MustCompile(`(?m)^# TYPE (\S+)`).FindAllStringSubmatch(string(body), -1) {
		name := strings.TrimPrefix(name[1], selfmetrics.Prefix)
		if known[name] = true; find(name) == "" && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			t.Errorf("%s is not told", name)
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
	l := newLabeler([]string{"app"})
	f.Fuzz(func(t *testing.T, value, name string) {
		p := testPod(value, name, value, value, time.Now(), map[string]string{"app": value})
		text, kept := l.pod(&p)
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
		for i, name := range newLabeler(set.podLabels).names {
			if !valid.MatchString(name) {
				t.Errorf("%q becomes %q", set.podLabels[i], name)
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
			s, n := newTestServer(b, settings{})
			in := bigCluster(size, 2)
			for i := range in.pods {
				n.store.Put(n.keep(&in.pods[i]))
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
				n.keep(&in.pods[i])
			}
		}
	})
}

func BenchmarkDecodeAndJoin(b *testing.B) {
	eachSize(b, func(b *testing.B, _ *server, n *connection, in input) func() {
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
		return func() { newSnapshot(&n.compressor, pods, batch) }
	})
}

// BenchmarkSplit measures what it costs to split a family into parts of so many samples: bytes of the page, and the
// time to assemble it, which is paid once for each change.
func BenchmarkSplit(b *testing.B) {
	const size = 150_000
	_, n := newTestServer(b, settings{})
	in := bigCluster(size, 2)
	for i := range in.pods {
		n.store.Put(n.keep(&in.pods[i]))
	}
	refreshFrom(b, n.lists[1], &in.usage, "PodMetricsList")
	batch := n.lists[1].Joiner.Expire(time.Time{})
	for _, partLen := range []int{32, 128, 512, 2 << 10, 16 << 10, size * 2} {
		b.Run(fmt.Sprintf("samples=%d", partLen), func(b *testing.B) {
			s := &snapshot{source: pods}
			for i, f := range families {
				if f.source == pods {
					s.parts[i], s.served[i] = f.render(&n.compressor, batch, partLen)
				}
			}
			var whole *page.Page
			for b.Loop() {
				whole = assemble([]*snapshot{s}, nil)
			}
			b.ReportMetric(float64(whole.GzipLen())/size, "bytes/pod")
		})
	}
}

// BenchmarkScrape is whole scrapes of an unchanged snapshot over a connection; its CPU is that of both ends.
func BenchmarkScrape(b *testing.B) {
	for _, encoding := range []string{"gzip", "identity"} {
		b.Run(encoding, func(b *testing.B) {
			eachSize(b, func(b *testing.B, s *server, n *connection, in input) func() {
				refreshFrom(b, n.lists[1], &in.usage, "PodMetricsList")
				refreshFrom(b, n.lists[0], &in.nodes, "NodeMetricsList")
				scraped := httptest.NewServer(s.handler())
				b.Cleanup(scraped.Close)
				request, err := http.NewRequest(http.MethodGet, scraped.URL+"/metrics", nil)
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
			})
		})
	}
}
