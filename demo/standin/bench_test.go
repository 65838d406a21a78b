package standin

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// sizes are the clusters of the benchmarks; the last is Kubernetes' own scalability limit.
var sizes = []struct{ nodes, pods int }{{10, 1000}, {300, 10_000}, {5000, 150_000}}

func forSizes(b *testing.B, run func(b *testing.B, o Options)) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("pods=%d", size.pods), func(b *testing.B) {
			b.ReportAllocs()
			before := cpuTime(b)
			defer func() { b.ReportMetric(float64((cpuTime(b)-before).Milliseconds())/float64(b.N), "cpu-ms/op") }()
			run(b, Options{Nodes: size.nodes, Pods: size.pods, Containers: 2})
		})
	}
}

// cpuTime is the CPU time of this process, client and server together. Unlike the wall time it says something on a
// machine that does other work too. It includes the making of the cluster.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkStart(b *testing.B) {
	forSizes(b, func(b *testing.B, o Options) {
		for b.Loop() {
			s := start(b, o)
			s.Close()
		}
	})
}

// BenchmarkEncodePodMetrics is the work of the first list after a tick.
func BenchmarkEncodePodMetrics(b *testing.B) {
	forSizes(b, func(b *testing.B, o Options) {
		s := start(b, o)
		for b.Loop() {
			v := s.metricsView()
			body := s.encodeMetricsList("PodMetricsList", func(each func(func([]byte) []byte)) {
				forEachUsage(v.batch, v.live, func(stored, current *pod) {
					each(func(b []byte) []byte { return s.appendPodMetrics(b, v.batch, stored, current, v) })
				})
			})
			b.SetBytes(int64(len(body)))
		}
	})
}

// BenchmarkListPodMetrics is every further list, over TLS.
func BenchmarkListPodMetrics(b *testing.B) {
	forSizes(b, func(b *testing.B, o Options) {
		o.Behavior.NoGzip = true
		benchmarkGet(b, o, "/apis/metrics.k8s.io/v1beta1/pods")
	})
}

// BenchmarkListPods is a list of all pods, over TLS and thrown away.
func BenchmarkListPods(b *testing.B) {
	forSizes(b, func(b *testing.B, o Options) {
		o.Behavior.NoGzip = true
		benchmarkGet(b, o, "/api/v1/pods")
	})
}

func benchmarkGet(b *testing.B, o Options, path string) {
	s := start(b, o)
	client, err := rest.HTTPClientFor(s.RESTConfig())
	if err != nil {
		b.Fatal(err)
	}
	req, err := http.NewRequest("GET", s.URL()+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Accept", protobufAccept)
	for b.Loop() {
		resp, err := client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
	}
}

// small is a store that keeps only names: what is measured is the way to it.
type small struct{ *store }

func (s small) Transformer() cache.TransformFunc {
	return func(o any) (any, error) {
		p := o.(*corev1.Pod)
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: strings.Clone(p.Namespace),
			Name: strings.Clone(p.Name)}}, nil
	}
}

// BenchmarkWatchList is a bare client-go reflector from its start to its first complete store.
func BenchmarkWatchList(b *testing.B) {
	for _, noGzip := range []bool{false, true} {
		b.Run(fmt.Sprintf("gzip=%t", !noGzip), func(b *testing.B) {
			forSizes(b, func(b *testing.B, o Options) {
				o.Behavior.NoGzip = noGzip
				s := start(b, o)
				for b.Loop() {
					st := newStore()
					reflect(b, s, small{st}, protobufAccept, "", true)
					st.await(b, func() string {
						if n := len(st.ListKeys()); n != o.Pods {
							return fmt.Sprintf("%d pods of %d", n, o.Pods)
						}
						return ""
					})
				}
			})
		})
	}
}
