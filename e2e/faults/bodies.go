package faults

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/exporter"
)

const podList, nodeList = "/apis/metrics.k8s.io/v1beta1/pods", "/apis/metrics.k8s.io/v1beta1/nodes"

// refused is what is expected where the list of the pods' usage cannot be used.
var refused = Expect{Says: "cannot list pods.metrics.k8s.io", Down: "pods", Page: keeps}

// invalidNotice matches the notice about usage that is dropped because it is invalid.
var invalidNotice = regexp.MustCompile(`are not served`)

// refusedLate is the same where it may take until the exporter cuts the answer off.
var refusedLate = Expect{Within: hangs, Says: "cannot list pods.metrics.k8s.io", Down: "pods", Page: keeps}

// Bodies are the faults of an answer's body. None lasts as long as max-age, when the page would have nothing left.
var Bodies = []Fault{
	{Name: "body truncated at one byte after the other", Short: 10 * time.Second, Long: 4 * time.Minute, While: refused,
		Cause: body(truncated())},
	{Name: "body of random garbage", Short: 10 * time.Second, Long: 4 * time.Minute, While: refused,
		Cause: body(func(w http.ResponseWriter, _ []byte) {
			for range 1024 {
				var b [8]byte
				for i := range b {
					b[i] = byte(rand.Uint32())
				}
				write(w, b[:])
			}
		})},
	{Name: "body shorter than its length", Short: 10 * time.Second, While: refused,
		Cause: body(func(w http.ResponseWriter, good []byte) {
			w.Header().Set("Content-Length", strconv.Itoa(len(good)+1000))
			write(w, good)
		})},
	{Name: "length of an item beyond the end of the list", Short: 10 * time.Second, While: refused,
		Cause: body(func(w http.ResponseWriter, _ []byte) {
			write(w, envelope([]byte("\x12\xff\xff\xff\xff\x7fabc")))
		})},
	{Name: "web page in place of a list", Short: 10 * time.Second, While: refused,
		Cause: body(func(w http.ResponseWriter, _ []byte) {
			w.Header().Set("Content-Type", "text/html")
			write(w, []byte("<!DOCTYPE html><title>Sign in</title>"))
		})},
	{Name: "list with a wrong content type", Short: 10 * time.Second, While: Expect{Fresh: true},
		Cause: body(func(w http.ResponseWriter, good []byte) {
			w.Header().Set("Content-Type", "image/png")
			write(w, good)
		})},
	{Name: "metrics API that speaks only JSON", Short: 10 * time.Second, While: Expect{Fresh: true},
		Cause: lies(func(l *standin.Behavior) { l.MetricsJSONOnly = true })},
	{Name: "gzip bomb", Short: 5 * time.Second, Long: 4 * time.Minute, While: refusedLate, Alone: true, Hangs: true,
		Cause: body(func(w http.ResponseWriter, _ []byte) {
			w.Header().Set("Content-Encoding", "gzip")
			z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is one
			huge(z, nobody, 2<<30)
		})},
	{Name: "body of 2 GB", Short: 5 * time.Second, Long: 4 * time.Minute, While: refusedLate, Alone: true, Hangs: true,
		Cause: body(func(w http.ResponseWriter, _ []byte) { huge(w, nobody, 2<<30) })},
	{Name: "item of 500 MB", Short: 10 * time.Second, While: refused,
		Cause: body(func(w http.ResponseWriter, _ []byte) { huge(w, items, 500<<20) })},
	{Name: "refusal with a body of 2 GB", Short: 10 * time.Second, While: Expect{Says: "500 ", Down: "pods", Page: keeps},
		Cause: body(func(w http.ResponseWriter, _ []byte) {
			w.WriteHeader(http.StatusInternalServerError)
			huge(w, nobody, 2<<30)
		})},
	{Name: "body that trickles one byte a second", Short: 10 * time.Second, Long: 4 * time.Minute,
		While: Expect{Within: hangs, Says: "no complete answer in time", Down: "pods", Page: keeps}, Cause: trickling},
	{Name: "protobuf nested a million times", Short: 10 * time.Second, While: refused,
		Cause: body(func(w http.ResponseWriter, _ []byte) { write(w, envelope(bytes.Repeat([]byte{0x3b}, 1<<20))) })},
	{Name: "names of a megabyte", Short: 10 * time.Second,
		While: Expect{Within: behind, Fresh: true, Page: drops, Notice: invalidNotice},
		Alone: true, Cause: more(strings.Repeat("n", 1<<20), 3)},
	{Name: "names that are not UTF-8", Short: 10 * time.Second,
		While: Expect{Within: behind, Fresh: true, Page: drops, Notice: invalidNotice},
		Cause: more("a\xffb", 1)},
	{Name: "NUL, quotes, backslashes and newlines in names and labels", Short: 10 * time.Second,
		While: Expect{Within: 2 * behind, Fresh: true, Page: hasOdd},
		Cause: oddPods},
	{Name: "quantities that are no usage", Short: 10 * time.Second,
		While: Expect{Within: 2 * behind, Fresh: true, Page: drops, Notice: invalidNotice},
		Cause: oddQuantities},
}

// body answers the list of the pods' usage by f, which gets what would be right.
func body(f func(w http.ResponseWriter, good []byte)) cause {
	return func(_ context.Context, h *Harness) (func(context.Context) error, error) {
		return intercepts(h, func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != podList {
				return false
			}
			w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
			f(w, h.list())
			return true
		})
	}
}

// write writes to a client that may be gone.
func write(w io.Writer, b []byte) { _, _ = w.Write(b) }

// envelope is a list of usage as Kubernetes sends it in protobuf.
func envelope(list []byte) []byte {
	return envelopeOf("metrics.k8s.io/v1beta1", "PodMetricsList", list)
}

// list is the list of the pods' present usage, with more items appended.
func (h *Harness) list(more ...metricsv1beta1.PodMetrics) []byte {
	h.looking.Lock()
	defer h.looking.Unlock()
	list := metricsv1beta1.PodMetricsList{Items: append(more, h.simulated().Pods...)}
	text, err := list.Marshal()
	if err != nil {
		panic(err) // these objects can always be encoded
	}
	return envelope(text)
}

// truncated cuts the list one byte later each time, beginning anywhere. The list's last bytes are an empty end.
func truncated() func(http.ResponseWriter, []byte) {
	var at atomic.Int64
	at.Store(rand.Int64N(1 << 20))
	return func(w http.ResponseWriter, good []byte) { write(w, good[:at.Add(1)%int64(len(good)-10)]) }
}

// Fields of a list: its items, and one that does not exist, so that nobody reads it.
const items, nobody = "\x12", "\x3a"

// huge writes a list of usage with one field of this many bytes.
func huge(w io.Writer, field string, size int) { hugeIn(w, envelope(nil), field, size) }

// hugeIn does so in the envelope of an object.
func hugeIn(w io.Writer, whole []byte, field string, size int) {
	head := appendLength([]byte(field), size)
	whole = bytes.TrimSuffix(whole, []byte("\x1a\x00\x22\x00"))
	whole = bytes.TrimSuffix(whole, []byte("\x12\x00"))
	write(w, append(appendLength(append(whole, 0x12), len(head)+size), head...))
	zeros := make([]byte, 1<<20)
	for range size >> 20 {
		if _, err := w.Write(zeros); err != nil {
			return
		}
	}
}

// appendLength appends a length as protobuf does.
func appendLength(b []byte, n int) []byte {
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// trickling sends one byte a second until the fault is over.
func trickling(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	over := make(chan struct{})
	mend, err := body(func(w http.ResponseWriter, good []byte) {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := range good {
			write(w, good[i:i+1])
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-tick.C:
			case <-over:
				return
			}
		}
	})(ctx, h)
	return func(ctx context.Context) error { close(over); return mend(ctx) }, err
}

// more adds items with this name, and one whose container has it, to the list.
func more(name string, count int) cause {
	usage := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"),
		corev1.ResourceMemory: resource.MustParse("1Mi")}
	item := func(namespace, pod, container string) metricsv1beta1.PodMetrics {
		return metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pod},
			Timestamp: metav1.Now(), Window: metav1.Duration{Duration: interval},
			Containers: []metricsv1beta1.ContainerMetrics{{Name: container, Usage: usage}}}
	}
	return func(_ context.Context, h *Harness) (func(context.Context) error, error) {
		return intercepts(h, func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != podList {
				return false
			}
			items := []metricsv1beta1.PodMetrics{item("default", "odd", name), item(name, "odd", "app")}
			for i := range count {
				items = append(items, item("default", name+strconv.Itoa(i), "app"))
			}
			w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
			write(w, h.list(items...))
			return true
		})
	}
}

// drops checks that entries are dropped and counted.
func drops(_ *Harness, page *exporter.Page) error {
	dropped, _ := page.Sum("metrics_server_prom_samples_dropped_total", map[string]string{"reason": "invalid"})
	if dropped == 0 {
		return errors.New("nothing was dropped as invalid")
	}
	return nil
}

// odd is what no name should ever contain, and what must not break a page.
const odd = "quote\" backslash\\ newline\n nul\x00 brace} {a=\"b\"} 1\n# TYPE x gauge\nx 1"

func oddPods(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	err := h.API.AddPod(standin.Pod{Namespace: "odd", Name: odd, Containers: []string{odd, "plain"},
		Labels: map[string]string{"team": odd + "\xff"}})
	return func(ctx context.Context) error {
		return errors.Join(h.API.DeletePod("odd", odd), h.Look(ctx))
	}, errors.Join(err, h.Look(ctx))
}

func hasOdd(_ *Harness, page *exporter.Page) error {
	found := 0
	for _, metric := range page.Families[check.PodCPU].GetMetric() {
		for _, label := range metric.GetLabel() {
			if label.GetName() == "pod" && label.GetValue() == text(odd) {
				found++
			}
		}
	}
	if found != 2 {
		return fmt.Errorf("the page has %d samples of the pod, not 2", found)
	}
	return nil
}

// notUsage are quantities that cannot be a usage.
var notUsage = []string{"-5m", "", "1e400", "-1e400", strings.Repeat("9", 400), "abc", "1.2.3", "NaN", "Inf", "0x10",
	"1Ki1", "1 ", "\"", "\n"}

func oddQuantities(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	const namespace, name = "odd", "usage"
	p := standin.Pod{Namespace: namespace, Name: name, Containers: []string{"sound"}}
	for i := range notUsage {
		p.Containers = append(p.Containers, fmt.Sprint("c", i))
	}
	err := h.API.AddPod(p)
	for i, q := range notUsage {
		h.API.SetUsage(namespace, name, fmt.Sprint("c", i), q, notUsage[len(notUsage)-1-i])
	}
	return func(ctx context.Context) error {
		return errors.Join(h.API.DeletePod(namespace, name), h.Look(ctx))
	}, errors.Join(err, h.Look(ctx))
}
