package objects

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/store"
)

// TestAWorkloadTakesAtMost48BytesAPod: what is kept for the page for people, beside label text. Most of it is shared by
// workloads that differ in their names alone.
func TestAWorkloadTakesAtMost48BytesAPod(t *testing.T) {
	const size = 30_000
	took := func(workload bool, pods int, sidecar string) (bytes uint64) {
		source := NewPods(&Cluster{Client: func(schema.GroupVersion) rest.Interface { return nil }, Namespaces: []string{""},
			Pulse: refresh.NewPulse(), Self: new(selfmetrics.Registry).Scope("")}, Pods{Workload: workload})
		heap := func() uint64 {
			for range 3 {
				runtime.GC()
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		entries := make([]store.Entry[sample.Text], 0, size)
		for i := range size {
			app := fmt.Sprintf("checkout-service-%d-5d4f8c9b7", i/pods)
			p := &slim.Pod{}
			p.Namespace, p.Name, p.Spec.NodeName = fmt.Sprint("team-", i/1000), fmt.Sprintf("%s-%05x", app, i), "node-1"
			p.Labels = map[string]string{"pod-template-hash": "5d4f8c9b7"}
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: app, Controller: new(true)}}
			for _, name := range []string{app, strings.ReplaceAll(sidecar, "#", app)} {
				p.Spec.Containers = append(p.Spec.Containers, slim.Container{Name: name, Image: "registry.example.com/team/app:v1",
					Resources: slim.Resources{
						Requests: slim.Quantities{{Name: "cpu", Value: fmt.Sprint(i/pods%50, "0m")}, {Name: "memory", Value: "64Mi"}},
						Limits:   slim.Quantities{{Name: "cpu", Value: "1"}, {Name: "memory", Value: "128Mi"}}}})
			}
			entries = append(entries, source.Watch.Keep(p))
		}
		bytes = heap() - before
		runtime.KeepAlive(entries)
		return bytes
	}
	for _, test := range []struct {
		pods    int // of a workload
		sidecar string
	}{{1, "istio-proxy"}, {10, "proxy-of-#"}} {
		without, with := took(false, test.pods, test.sidecar), took(true, test.pods, test.sidecar)
		if each := float64(with-without) / size; !(each > 0 && each <= 48) {
			t.Errorf("%d pods a workload, sidecar %s: %.1f bytes a pod", test.pods, test.sidecar, each)
		}
	}
}
