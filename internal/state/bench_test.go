package state

import (
	"fmt"
	"testing"
	"unique"

	"metrics-server-prom/internal/kept"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/store"
)

// manyPods are as a store has them: of two containers each, three of a ReplicaSet.
func manyPods(n int) (entries []store.Entry[sample.Text]) {
	for i := range n {
		name := fmt.Sprintf("service-%d-5d4f8c9b7-%05x", i/3, i)
		id := func(j int) string { return fmt.Sprintf("containerd://%064x", i*7919+j) }
		k := kept.Pod{UID: fmt.Sprintf("6e5e1d0a-3a3f-4f0e-9d7b-%012x", i), Phase: "Running", Ready: "True",
			HostIP: fmt.Sprintf("10.0.%d.%d", i>>8&255, i&255), PodIP: fmt.Sprintf("10.1.%d.%d", i>>8&255, i&255),
			Workload: kept.Workload{QOSClass: "Burstable", HasTemplateHash: true,
				Owners: []kept.Owner{{Kind: "ReplicaSet", Name: fmt.Sprintf("service-%d-5d4f8c9b7", i/3), Controller: true}}}}
		for j, container := range []string{"app", "istio-proxy"} {
			image := fmt.Sprintf("registry.example.com/team/%s:v1.2.3", container)
			k.Containers = append(k.Containers, kept.Container{Name: container, Image: image,
				Requests: []kept.Quantity{{Name: "cpu", Value: 0.1}, {Name: "memory", Value: 128 << 20}},
				Limits:   []kept.Quantity{{Name: "cpu", Value: 1}, {Name: "memory", Value: 256 << 20}},
				Status: kept.Status{Known: true, Image: image, ID: id(j), Ready: true, State: kept.Running, Started: 1_700_000_000,
					ImageID: fmt.Sprintf("registry.example.com/team/%s@sha256:%064x", container, j)}})
		}
		shared, own := k.Pack()
		text := sample.Text{Node: unique.Make(fmt.Sprintf(`node="ip-10-0-0-%d.internal",pod="`, i/30)),
			Head: name + `",ip="10.1.0.1",container="`, Tail: unique.Make(`",namespace="team-1"}`), Shared: shared, Own: own}
		entries = append(entries, store.Entry[sample.Text]{Key: store.Key{Namespace: "team-1", Name: name},
			Object: &store.Object[sample.Text]{Value: text}})
	}
	return entries
}

// BenchmarkPods renders the families of pods in runs of so many: time and compressed bytes a pod.
func BenchmarkPods(b *testing.B) {
	pods := manyPods(1024)
	rows := rowsOf("info owner phase qos ready labels requests limits container restarts running container_ready " +
		"waiting last")
	for _, n := range []int{16, 32, 64, 128, 256, 1024} {
		b.Run(fmt.Sprintf("leaf=%d", n), func(b *testing.B) {
			r := newRenderer()
			var c page.Compressor
			bytes := 0
			for b.Loop() {
				bytes = 0
				for i := 0; i < len(pods); i += n {
					for _, part := range r.Pods(&c, rows, pods[i:i+n]) {
						if part != nil {
							bytes += part.Len()
						}
					}
				}
			}
			b.ReportMetric(float64(bytes)/float64(len(pods)), "bytes/pod")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(pods)), "ns/pod")
		})
	}
}
