package top

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// many adds so many pods of two containers, three of a workload, on nodes of thirty.
func (c *cluster) many(n int) {
	node := func(i int) string { return fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", i/256, i%256) }
	nodes := max(n/30, 1)
	for i := range nodes {
		c.node(node(i), fmt.Sprintf("%dm 20Gi", 1000+i), "16 64Gi")
	}
	// Usage in any order, as by a hash.
	mixed := func(i int, by uint32, bits int) int { return int(uint32(i) * by >> (32 - bits)) }
	for i := range n {
		app := fmt.Sprintf("checkout-service-%d", i/3)
		c.pod(fmt.Sprintf("team-%d/%s-5d4f8c9b7-%05x", i/1000, app, i), node(i%nodes), "ReplicaSet/"+app+"-5d4f8c9b7",
			fmt.Sprintf("app %dn %dKi 100m 128Mi 1 256Mi", mixed(i, 2654435761, 29), mixed(i, 2246822519, 20)),
			fmt.Sprintf("istio-proxy %dn %dKi 10m 64Mi 200m 128Mi", mixed(i, 3266489917, 26), mixed(i, 668265263, 16)))
	}
}

func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func heap() uint64 {
	for range 3 { // pools are emptied in two cycles
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkAnswer measures the CPU time of an answer with full history, and what is allocated for it.
func BenchmarkAnswer(b *testing.B) {
	for _, n := range []int{10_000, 150_000} {
		c := newCluster(b, nodeObjects)
		c.many(n)
		c.watch()
		c.refresh()
		c.lists = nil // its garbage collection is not the page's
		before := heap()
		c.ask("")
		c.fill(b)
		kept := heap() - before
		for _, query := range []string{"level=nodes", "level=namespaces", "level=workloads", "level=workloads&sort=cpuPeak",
			"level=pods", "level=pods&sort=memoryPeak", "level=pods&sort=name", "level=pods&q=service-77", "level=containers",
			"level=pods&limit=500"} {
			b.Run(fmt.Sprintf("pods=%d/%s", n, query), func(b *testing.B) {
				began, length := cpuTime(b), 0
				for b.Loop() {
					length = c.get("/top.json?"+query, "Accept-Encoding", "gzip").Body.Len()
				}
				b.ReportMetric((cpuTime(b)-began).Seconds()*1e3/float64(b.N), "cpu-ms/op")
				b.ReportMetric(float64(length), "bytes")
				b.ReportAllocs()
			})
		}
		b.Run(fmt.Sprintf("pods=%d/record", n), func(b *testing.B) {
			source := c.source
			began := cpuTime(b)
			for b.Loop() {
				for _, l := range source.Lists {
					c.page.history.lists[l].refreshed = time.Time{}
					c.page.history.record(&source, l)
				}
			}
			b.ReportMetric((cpuTime(b)-began).Seconds()*1e3/float64(b.N), "cpu-ms/op")
			b.ReportMetric(float64(kept)/(1<<20), "MiB-history")
		})
	}
}

// fill fills the history with columns.
func (c *cluster) fill(b *testing.B) {
	source, h := c.source, &c.page.history
	for range 2 * h.width {
		for _, l := range source.Lists {
			h.lists[l].refreshed = time.Time{}
		}
		h.opened = h.opened.Add(-h.step)
		for _, l := range source.Lists {
			h.record(&source, l)
		}
	}
}
