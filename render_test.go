package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/metricsapi"
	"metrics-server-prom/internal/podwire"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/setting"
)

// cluster is what goes in: pods by way of the watch, usage as the metrics API writes it.
type cluster struct {
	pods  []podwire.Pod
	usage metricsv1beta1.PodMetricsList
	nodes metricsv1beta1.NodeMetricsList
}

// run feeds the cluster to an exporter: the pods' events, then one refresh of each resource from JSON bodies.
func run(t testing.TB, x *exporter, c cluster) {
	t.Helper()
	for i := range c.pods {
		x.cache.Put(x.cache.Transform(&c.pods[i]))
	}
	refreshFrom(t, x.nodes, &c.nodes, "NodeMetricsList")
	refreshFrom(t, x.pods, &c.usage, "PodMetricsList")
}

func refreshFrom(t testing.TB, r *resource, list runtime.Object, kind string) {
	t.Helper()
	list.GetObjectKind().SetGroupVersionKind(kube.Metrics.WithKind(kind))
	body, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	refreshFromBody(t, r, body)
}

func refreshFromBody(t testing.TB, r *resource, body []byte) {
	t.Helper()
	r.joiner.Begin()
	err := r.decoder.Read(bytes.NewReader(body), r.kind, r.joiner.Join)
	r.publish(refresh.Attempt{Began: time.Now()}, err)
	if err != nil {
		t.Fatal(err)
	}
}

// newTestServer is a server with an exporter whose loops do not run.
func newTestServer(t testing.TB, set settings) (*server, *exporter) {
	t.Helper()
	if set.maxAge == 0 {
		set.maxAge = 5 * time.Minute
	}
	set.refreshInterval, set.telemetryPath = 15*time.Second, "/metrics"
	s := newServer(&set)
	x := newExporter(&set, s.own, nil, nil)
	s.x.Store(x)
	return s, x
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

// page is the text of a scrape, without the own metrics.
func page(t testing.TB, s *server) string {
	t.Helper()
	body, err := io.ReadAll(get(t, s, "/metrics").Body)
	if err != nil {
		t.Fatal(err)
	}
	text, _, found := strings.Cut(string(body), "# HELP metrics_server_prom_")
	if !found {
		t.Fatalf("no own metrics on the page:\n%s", body)
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
func testPod(namespace, name, node, ip string, created time.Time, labels map[string]string) (p podwire.Pod) {
	full := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels, CreationTimestamp: metav1.NewTime(created), ResourceVersion: "7"},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{PodIP: ip},
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
	m := metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Timestamp: metav1.NewTime(at), Window: metav1.Duration{Duration: 15 * time.Second}}
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
		pods  []podwire.Pod
		usage []metricsv1beta1.PodMetrics
		want  string
	}{
		"labels in the original's order, cores and bytes": {
			pods:  []podwire.Pod{testPod("kube-system", "etcd-0", "ip-10-30-78-99", "10.30.62.138", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("kube-system", "etcd-0", now, "etcd", "7m 125448Ki")},
			want: `kube_metrics_server_pod_cpu{node="ip-10-30-78-99",pod="etcd-0",ip="10.30.62.138",container="etcd",namespace="kube-system"} 0.007
kube_metrics_server_pod_mem{node="ip-10-30-78-99",pod="etcd-0",ip="10.30.62.138",container="etcd",namespace="kube-system"} 128458752
`},
		"all containers of a family stand together": {
			pods:  []podwire.Pod{testPod("a", "p", "n", "10.0.0.1", long, nil), testPod("b", "p", "n", "10.0.0.2", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "378089386n 1", "y", "2 2Ki"), podUsage("b", "p", now, "x", "500u 1M")},
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
			pods:  []podwire.Pod{testPod("a", "p", "n", "i", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "1 -", "y", "- 1", "z", "- -")},
			want: `kube_metrics_server_pod_cpu{node="n",pod="p",ip="i",container="x",namespace="a"} 1
kube_metrics_server_pod_mem{node="n",pod="p",ip="i",container="y",namespace="a"} 1
`},
		"a negative quantity is dropped, the container's other stays": {
			pods:  []podwire.Pod{testPod("a", "p", "n", "i", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "-1 1")},
			want: `kube_metrics_server_pod_mem{node="n",pod="p",ip="i",container="x",namespace="a"} 1
`},
		"a sample that has reached max-age is not served, a younger one is": {
			pods:  []podwire.Pod{testPod("a", "old", "n", "i", long, nil), testPod("a", "young", "n", "i", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "old", now.Add(-5*time.Minute), "x", "1 -"), podUsage("a", "young", now.Add(-4*time.Minute-50*time.Second), "x", "1 -")},
			want: `kube_metrics_server_pod_cpu{node="n",pod="young",ip="i",container="x",namespace="a"} 1
`},
		"usage from before the pod was created is that of its predecessor": {
			pods:  []podwire.Pod{testPod("a", "db-0", "n", "i", now.Add(-30*time.Second), nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "db-0", now.Add(-40*time.Second), "x", "1 1")},
		},
		"no series twice: pods, and containers of a pod": {
			pods:  []podwire.Pod{testPod("a", "p", "n", "i", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "1 -", "x", "2 -"), podUsage("a", "p", now, "x", "3 -")},
			want: `kube_metrics_server_pod_cpu{node="n",pod="p",ip="i",container="x",namespace="a"} 1
`},
		"label values are escaped": {
			set:   settings{podLabels: []string{"app"}},
			pods:  []podwire.Pod{testPod("a", "p", `back\slash`, "quo\"te", long, map[string]string{"app": "new\nline \x00 \xff ü"})},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "1 -")},
			want: `kube_metrics_server_pod_cpu{node="back\\slash",pod="p",ip="quo\"te",container="x",namespace="a",label_app="new\nline ` + "\uFFFD \uFFFD" + ` ü"} 1
`},
		"pod labels come last, as kube-state-metrics names them": {
			set:   settings{podLabels: []string{"team", "app.kubernetes.io/name", "helmRelease", "a.b", "a-b"}},
			pods:  []podwire.Pod{testPod("a", "p", "n", "i", long, map[string]string{"app.kubernetes.io/name": "shop", "helmRelease": "r", "a.b": "1", "a-b": "2", "other": "no"})},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "1 -")},
			want: `kube_metrics_server_pod_cpu{node="n",pod="p",ip="i",container="x",namespace="a",label_app_kubernetes_io_name="shop",label_helm_release="r",label_a_b_conflict1="1",label_a_b_conflict2="2"} 1
`},
		"excluded namespaces are left out": {
			set:   settings{excludeNamespaces: []string{"b", "c"}},
			pods:  []podwire.Pod{testPod("a", "p", "n", "i", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "1 -"), podUsage("b", "p", now, "x", "1 -")},
			want: `kube_metrics_server_pod_cpu{node="n",pod="p",ip="i",container="x",namespace="a"} 1
`},
		"a number that no float64 has is the nearest that there is": {
			pods:  []podwire.Pod{testPod("a", "p", "n", "i", long, nil)},
			usage: []metricsv1beta1.PodMetrics{podUsage("a", "p", now, "x", "- 9007199254740993")},
			want: `kube_metrics_server_pod_mem{node="n",pod="p",ip="i",container="x",namespace="a"} 9.007199254740992e+15
`},
	} {
		t.Run(name, func(t *testing.T) {
			s, x := newTestServer(t, c.set)
			run(t, x, cluster{pods: c.pods, usage: metricsv1beta1.PodMetricsList{Items: c.usage}})
			if got := samples(page(t, s)); got != c.want {
				t.Errorf("page:\n%swant:\n%s", got, c.want)
			}
		})
	}
}

func TestNodes(t *testing.T) {
	s, x := newTestServer(t, settings{})
	node := metricsv1beta1.NodeMetrics{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Timestamp: metav1.Now(), Window: metav1.Duration{Duration: time.Second}, Usage: corev1.ResourceList{
		corev1.ResourceCPU: quantity.MustParse("61488047183n"), corev1.ResourceMemory: quantity.MustParse("3Gi")}}
	run(t, x, cluster{nodes: metricsv1beta1.NodeMetricsList{Items: []metricsv1beta1.NodeMetrics{node, node}}})
	want := `# HELP kube_metrics_server_node_cpu CPU usage of the node in cores (CPU seconds per second), averaged over metrics-server's last window.
# TYPE kube_metrics_server_node_cpu gauge
kube_metrics_server_node_cpu{node="n1"} 61.488047183
# HELP kube_metrics_server_node_mem Memory working set of the node in bytes.
# TYPE kube_metrics_server_node_mem gauge
kube_metrics_server_node_mem{node="n1"} 3221225472
`
	if got := page(t, s); got != want {
		t.Errorf("page:\n%swant:\n%s", got, want)
	}
}

func TestDroppedSamplesAreCounted(t *testing.T) {
	now := time.Now()
	s, x := newTestServer(t, settings{})
	run(t, x, cluster{
		pods: []podwire.Pod{testPod("a", "p", "n", "i", now.Add(-time.Hour), nil)},
		usage: metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{
			podUsage("a", "p", now, "x", "-1 1"), podUsage("a", "p", now, "x", "1 1"), podUsage("a", "old", now.Add(-time.Hour), "x", "1 1", "y", "1 -"), podUsage("a", "new", now, "x", "1 1")}}})
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
	s, x := newTestServer(t, settings{})
	old, moved := testPod("a", "db-0", "n1", "i1", now.Add(-time.Hour), nil), testPod("a", "db-0", "n2", "i2", now.Add(-10*time.Second), nil)
	old.ResourceVersion, moved.ResourceVersion = "10", "20"
	late := metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{podUsage("a", "db-0", now.Add(-20*time.Second), "x", "1 -")}}
	fresh := metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{podUsage("a", "db-0", now, "x", "2 -")}}
	put, del := func(p podwire.Pod) { x.cache.Put(x.cache.Transform(&p)) }, func(p podwire.Pod) { x.cache.Delete(x.cache.Transform(&p)) }
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
		refreshFrom(t, x.nodes, &metricsv1beta1.NodeMetricsList{}, "NodeMetricsList")
		refreshFrom(t, x.pods, &step.usage, "PodMetricsList")
		want := step.want
		if want != "" {
			want = "kube_metrics_server_pod_cpu{" + want + "\n"
		}
		if got := samples(page(t, s)); got != want {
			t.Errorf("%s: page:\n%swant:\n%s", step.what, got, want)
		}
	}
}

func TestNothingOldIsServedAsNew(t *testing.T) {
	now := time.Now()
	c := cluster{pods: []podwire.Pod{testPod("a", "p", "n", "i", now.Add(-time.Hour), nil)},
		usage: metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{podUsage("a", "p", now.Add(-60*time.Second), "x", "1 -"), podUsage("a", "q", now.Add(-10*time.Second), "x", "1 -")}}}
	failure := &kube.Failure{Reason: kube.Network, Text: "cannot list pods.metrics.k8s.io: refused"}
	for name, step := range map[string]struct {
		do      func(*exporter)
		samples int
	}{
		"after a failure the last snapshot stays": {func(x *exporter) { x.pods.publish(refresh.Attempt{}, failure) }, 2},
		"after a failure that came late it goes":  {func(x *exporter) { x.pods.publish(refresh.Attempt{Late: time.Minute}, failure) }, 0},
		"what has expired goes, the rest stays": {func(x *exporter) {
			x.set.maxAge, x.pods.joiner.MaxAge = 30*time.Second, 30*time.Second
			x.pods.expire()
		}, 1},
		"when all has expired nothing stays": {func(x *exporter) { x.pods.joiner.MaxAge = 5 * time.Second; x.pods.expire() }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, x := newTestServer(t, settings{})
			run(t, x, c)
			if want := now.Add(-60 * time.Second).Add(5 * time.Minute).Unix(); x.pods.view.Load().expires.Unix() != want {
				t.Errorf("expires %s, want the first sample's timestamp and max-age", x.pods.view.Load().expires)
			}
			step.do(x)
			text := page(t, s)
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
	s, x := newTestServer(t, settings{})
	run(t, x, bigCluster(50, 2))
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
	pods := page(t, s)
	for accept, want := range map[string]string{"": "", "gzip": "gzip", "gzip;q=0": "", "br": "", "*": "gzip", "identity;q=0, gzip": "gzip"} {
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
	if waited := time.Since(began); waited < 200*time.Millisecond || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("after %s status %d, Retry-After %q; want a wait and 503", waited, resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	for header, want := range map[string]time.Duration{"": 10 * time.Second, "15": 14500 * time.Millisecond, "0.5": 250 * time.Millisecond,
		"soon": 10 * time.Second, "-1": 10 * time.Second, "NaN": 10 * time.Second, "1e9": 2*time.Minute - 500*time.Millisecond} {
		if got := patience(http.Header{"X-Prometheus-Scrape-Timeout-Seconds": {header}}); got != want {
			t.Errorf("scrape timeout %q: waits %s, want %s", header, got, want)
		}
	}
}

func TestMetricsAPIGoneForLongerThanMaxAge(t *testing.T) {
	s, x := newTestServer(t, settings{maxAge: time.Minute})
	now := time.Now()
	run(t, x, cluster{usage: metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{podUsage("a", "p", now.Add(-58*time.Second), "x", "1 1")}}})
	x.pods.joiner.MaxAge = 10 * time.Second // as if the time had passed
	x.pods.expire()
	x.pods.publish(refresh.Attempt{}, &kube.Failure{Reason: kube.Unavailable, Text: "gone"})
	resp := get(t, s, "/metrics")
	body, _ := io.ReadAll(resp.Body)
	if text := string(body); resp.StatusCode != http.StatusOK || strings.Contains(text, "kube_metrics_server_pod_cpu{") || !strings.Contains(text, own+`up{resource="pods"} 0`) || !strings.Contains(text, own+`refresh_errors_total{resource="pods",reason="unavailable"} 1`) {
		t.Errorf("status %d, want 200 and a page without samples that says so:\n%s", resp.StatusCode, text)
	}
	if health := get(t, s, "/healthz"); health.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/healthz answers %d", health.StatusCode)
	}
}

// TestOwnMetricsAreOfTheMomentOfTheScrape is each thing that they depend on: a page rendered before must give way.
func TestOwnMetricsAreOfTheMomentOfTheScrape(t *testing.T) {
	s, x := newTestServer(t, settings{})
	run(t, x, cluster{})
	s.own.readAt = time.Now().Add(time.Hour) // the process' metrics do not change in this test
	if first := s.own.page(s.view()); s.own.page(s.view()) != first {
		t.Error("two scrapes of one moment are rendered twice")
	}
	for _, change := range []struct {
		what, line string
		do         func()
	}{
		{"a request", `api_requests_total{resource="pods",verb="list",code="200"} 1`, func() { s.own.request("pods", "list", "200") }},
		{"a failed refresh", `refresh_errors_total{resource="nodes",reason="timeout"} 1`, func() { s.own.refreshFailed("nodes", kube.Timeout) }},
		{"a refresh", `refresh_duration_seconds_count{resource="pods"} 1`, func() { s.own.refreshTook("pods", time.Now()) }},
		{"a dropped sample", `samples_dropped_total{reason="duplicate"} 3`, func() { s.own.drop(sample.Duplicate, 3) }},
		{"a push", `pushes_total{result="ok"} 1`, func() { s.own.pushed(true) }},
		{"a failure", `up{resource="pods"} 0`, func() { x.pods.publish(refresh.Attempt{}, &kube.Failure{Reason: kube.Network, Text: "gone"}) }},
		{"a new pod", `watched_pods 1`, func() {
			p := testPod("a", "p", "n", "1.2.3.4", time.Now(), nil)
			x.cache.Put(x.cache.Transform(&p))
		}},
		{"a tick", `source_period_seconds 15`, func() { x.tick.Store(int64(15 * time.Second)) }},
		{"new data", `data_last_new_timestamp_seconds 1.5`, func() { x.lastNew.Store(1.5e9) }},
		{"the age added", `data_added_age_seconds 0.25`, func() { x.addedAge.Store(0.25e9) }},
		{"another cluster", `watched_pods 0`, func() { s.x.Store(nil) }},
	} {
		t.Run(change.what, func(t *testing.T) {
			before := s.own.page(s.view())
			change.do()
			if s.own.page(s.view()) == before {
				t.Fatal("the page is that of before")
			}
			var text strings.Builder
			if err := s.own.page(s.view()).WriteText(&text); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text.String(), "\n"+own+change.line+"\n") {
				t.Errorf("no line %s%s on the page:\n%s", own, change.line, text.String())
			}
		})
	}
}

func TestPages(t *testing.T) {
	s, x := newTestServer(t, settings{})
	run(t, x, cluster{})
	for request, want := range map[string]int{"GET /metrics": 200, "HEAD /metrics": 200, "GET /healthz": 200, "GET /-/healthy": 200, "GET /-/ready": 200, "GET /": 200, "HEAD /": 200,
		"POST /metrics": 405, "DELETE /": 405, "OPTIONS /healthz": 405, "GET /metrics/": 404, "GET /debug/pprof/": 404, "POST /nothing": 404} {
		method, path, _ := strings.Cut(request, " ")
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
		h := w.Result().Header
		if w.Code != want || want == 405 && h.Get("Allow") != "GET, HEAD" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-store" {
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
		{"push.header", "PUSH_HEADER", "[]", "A: b\nC: d", "[A: b C: d]", "MARKED-SECRET", got(func(s *settings) any { return s.push.Headers })},
		{"log.level", "LOG_LEVEL", "INFO", "debug", "DEBUG", "loud", got(func(s *settings) any { return s.logLevel })},
		{"log.format", "LOG_FORMAT", "text", "json", "json", "xml", got(func(s *settings) any { return s.logFormat })},
	} {
		t.Run(c.flag+" "+c.value, func(t *testing.T) {
			parse := func(args []string, env string) (*settings, error) {
				s := &settings{}
				return s, setting.Parse("p", "v", s.table(), args, func(name string) string {
					if name == c.env {
						return env
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
			if err == nil || !strings.Contains(err.Error(), c.env) || strings.Contains(err.Error(), "MARKED") || strings.Contains(err.Error(), "\n") {
				t.Errorf("a wrong value: %v, want one line that names %s", err, c.env)
			}
		})
	}
}

// FuzzLabelValue gives a pod any text in all places that become label values. What comes out must be one line that gives
// the same text again when it is read as the exposition format says.
func FuzzLabelValue(f *testing.F) {
	for _, s := range []string{"", "app", `C:\new`, "two\nlines", `say "hi"`, `\`, `\"`, "a\x00b", "\xff\xfe", "é\u2028\U0001F600", `\n`, "\r\n\t", `",pod="`, "}\n# HELP x"} {
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
		rest := text.node.Value() + text.head + text.tail.Value()
		for _, label := range [][2]string{{"node", value}, {"pod", name}, {"ip", value}, {"container", ""}, {"namespace", value}, {"label_app", value}} {
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

// FuzzLabelNames gives --pod-labels any list. What is let through must become label names that Prometheus takes, each one
// once.
func FuzzLabelNames(f *testing.F) {
	for _, s := range []string{"", "app,team", "app.kubernetes.io/name", "a-b,a_b,a.b", "camelCase,camel_case,camel-case", "ABC,aBc", "app,app", "0,9a", " a , ,b,", "é", "a b", "x/y/z", "a,b!", "a-b,a_b,a_b_conflict1,a_b_conflict2"} {
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
func bigCluster(n, containers int) (c cluster) {
	r, now := rand.New(rand.NewPCG(1, 2)), time.Now()
	for i := range n {
		namespace, name := fmt.Sprintf("team-%d", i/200), fmt.Sprintf("service-%d-%x-%05x", i/20, r.Uint32(), i)
		labels := map[string]string{"app.kubernetes.io/name": fmt.Sprintf("service-%d", i/20), "app.kubernetes.io/instance": fmt.Sprintf("service-%d", i/20),
			"app.kubernetes.io/managed-by": "Helm", "pod-template-hash": fmt.Sprintf("%08x", r.Uint32()), "topology.kubernetes.io/region": "eu-central-1"}
		c.pods = append(c.pods, testPod(namespace, name, fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", i/30/250, i/30%250), fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), now.Add(-time.Hour), labels))
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

func protobufOf(b testing.TB, list runtime.Object, kind string) []byte {
	list.GetObjectKind().SetGroupVersionKind(kube.Metrics.WithKind(kind))
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(kube.Metrics, &metricsv1beta1.PodMetricsList{}, &metricsv1beta1.NodeMetricsList{})
	var body bytes.Buffer
	if err := protobuf.NewSerializer(scheme, scheme).Encode(list, &body); err != nil {
		b.Fatal(err)
	}
	return body.Bytes()
}

// cpuTime is what this process has used. Unlike the time that has passed, it means something on a machine that does other
// work.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// eachSize measures what f returns, in a cluster of each size.
func eachSize(b *testing.B, f func(b *testing.B, s *server, x *exporter, c cluster) func()) {
	for _, n := range benchmarked {
		b.Run(fmt.Sprintf("pods=%d", n), func(b *testing.B) {
			s, x := newTestServer(b, settings{})
			c := bigCluster(n, 2)
			for i := range c.pods {
				x.cache.Put(x.cache.Transform(&c.pods[i]))
			}
			measured := f(b, s, x, c)
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				measured()
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N*n), "cpu-ns/pod")
		})
	}
}

func BenchmarkLabels(b *testing.B) {
	eachSize(b, func(_ *testing.B, _ *server, x *exporter, c cluster) func() {
		return func() {
			for i := range c.pods {
				x.cache.Transform(&c.pods[i])
			}
		}
	})
}

func BenchmarkDecodeAndJoin(b *testing.B) {
	eachSize(b, func(b *testing.B, _ *server, x *exporter, c cluster) func() {
		body := protobufOf(b, &c.usage, "PodMetricsList")
		b.SetBytes(int64(len(body)))
		return func() {
			x.pods.joiner.Begin()
			if err := x.pods.decoder.Read(bytes.NewReader(body), metricsapi.PodMetricsList, x.pods.joiner.Join); err != nil {
				b.Fatal(err)
			}
			x.pods.joiner.Done()
		}
	})
}

func BenchmarkRenderAndGzip(b *testing.B) {
	eachSize(b, func(b *testing.B, _ *server, x *exporter, c cluster) func() {
		refreshFrom(b, x.pods, &c.usage, "PodMetricsList")
		return x.pods.publishedAgain
	})
}

// BenchmarkScrape is whole scrapes of an unchanged snapshot over a connection; its CPU is that of both ends.
func BenchmarkScrape(b *testing.B) {
	for _, encoding := range []string{"gzip", "identity"} {
		b.Run(encoding, func(b *testing.B) {
			eachSize(b, func(b *testing.B, s *server, x *exporter, c cluster) func() {
				refreshFrom(b, x.pods, &c.usage, "PodMetricsList")
				refreshFrom(b, x.nodes, &c.nodes, "NodeMetricsList")
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

// publishedAgain renders what is being served once more.
func (r *resource) publishedAgain() { r.render(r.joiner.Expire(time.Time{})).part.Close() }
