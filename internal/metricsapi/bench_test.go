package metricsapi

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	kruntime "k8s.io/apimachinery/pkg/runtime"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// manyPods is a list of pods of two containers each, with 300 bytes of labels, and values of metrics-server's
// precision.
func manyPods(n int) *v1beta1.PodMetricsList {
	list := &v1beta1.PodMetricsList{Items: make([]v1beta1.PodMetrics, n)}
	for i := range list.Items {
		hash := fmt.Sprintf("%010x", uint32(i)*2654435761)
		p := pod(fmt.Sprintf("team-%03d", i/500), fmt.Sprintf("checkout-service-%s-%05x", hash, i),
			container("checkout-service",
				fmt.Sprintf("%dn", 1_000_000+i*7919%900_000_000), fmt.Sprintf("%dKi", 20_000+i*31%2_000_000)),
			container("istio-proxy",
				fmt.Sprintf("%dn", 100_000+i*104729%50_000_000), fmt.Sprintf("%dKi", 40_000+i*17%90_000)))
		p.Annotations = nil
		p.Labels = map[string]string{
			"app.kubernetes.io/name":                       "checkout-service",
			"app.kubernetes.io/instance":                   "checkout-service-production",
			"app.kubernetes.io/version":                    "2.14.3",
			"app.kubernetes.io/managed-by":                 "Helm",
			"pod-template-hash":                            hash,
			"security.istio.io/tlsMode":                    "istio",
			"service.istio.io/canonical-name":              "checkout-service",
			"topology.kubernetes.io/zone":                  "eu-central-1a",
			"platform.example.com/observability-collector": "enabled",
		}
		list.Items[i] = p
	}
	return list
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

// BenchmarkRead compares reading a list with what else can be done with its bytes: nothing, or the decoding that
// client-go does. The last of these holds the whole body and all items; its reading is not even counted.
func BenchmarkRead(b *testing.B) {
	formats := []struct {
		name  string
		s     kruntime.Encoder
		typed func([]byte, *v1beta1.PodMetricsList) error
	}{
		{"protobuf", protobuf.NewSerializer(nil, nil), func(body []byte, list *v1beta1.PodMetricsList) error {
			var unknown kruntime.Unknown
			if err := unknown.Unmarshal(body[len(magic):]); err != nil {
				return err
			}
			return list.Unmarshal(unknown.Raw)
		}},
		{"json", kjson.NewSerializerWithOptions(nil, nil, nil, kjson.SerializerOptions{}),
			func(body []byte, list *v1beta1.PodMetricsList) error { return json.Unmarshal(body, list) }},
	}
	for _, format := range formats {
		for _, pods := range []int{1_000, 10_000, 100_000} {
			body := encode(b, PodMetricsList, manyPods(pods), format.s)
			measure := func(step string, run func() error) {
				b.Run(fmt.Sprintf("%s/pods=%d/%s", format.name, pods, step), func(b *testing.B) {
					b.ReportAllocs()
					b.SetBytes(int64(len(body)))
					before := cpuTime(b)
					for b.Loop() {
						if err := run(); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N*pods), "cpu-ns/pod")
				})
			}
			r := bytes.NewReader(body)
			piece := make([]byte, 64<<10)
			measure("discard", func() error {
				r.Reset(body)
				// Without WriteTo, which would not even look at the bytes.
				_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, piece)
				return err
			})
			var d Decoder
			containers := 0
			measure("read", func() error {
				r.Reset(body)
				return d.Read(r, PodMetricsList, func(i *Item) error {
					containers += len(i.Containers)
					return nil
				})
			})
			measure("typed", func() error {
				var list v1beta1.PodMetricsList
				return format.typed(body, &list)
			})
		}
	}
}

// BenchmarkReadHTTP is the same over TLS and HTTP/2 on loopback, as an API server answers; the server's share is in all
// of them.
func BenchmarkReadHTTP(b *testing.B) {
	const pods = 20_000
	body := encode(b, PodMetricsList, manyPods(pods), protobuf.NewSerializer(nil, nil))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(body)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	var d Decoder
	for _, step := range []struct {
		name string
		read func(io.Reader) error
	}{
		{"discard", func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }},
		{"read", func(r io.Reader) error { return d.Read(r, PodMetricsList, func(*Item) error { return nil }) }},
		{"typed", func(r io.Reader) error {
			body, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			object, err := referenceProtobuf(body, PodMetricsList)
			if err == nil && object == nil {
				err = errReference
			}
			return err
		}},
	} {
		b.Run(step.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			before := cpuTime(b)
			for b.Loop() {
				response, err := server.Client().Get(server.URL)
				if err != nil {
					b.Fatal(err)
				}
				if err := step.read(response.Body); err != nil {
					b.Fatal(err)
				}
				response.Body.Close()
			}
			b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N*pods), "cpu-ns/pod")
		})
	}
}

func BenchmarkParseQuantity(b *testing.B) {
	for _, q := range []string{"378089386n", "125448Ki", "1.5Gi", "1e3"} {
		b.Run(q, func(b *testing.B) {
			b.ReportAllocs()
			in := []byte(q)
			for b.Loop() {
				ParseQuantity(in)
			}
		})
	}
}
