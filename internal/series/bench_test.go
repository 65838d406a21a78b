package series

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"syscall"
	"testing"
	"time"

	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/sample"
)

// BenchmarkUsage is a push of the usage of 150,000 pods with two containers each, two series for each container. What
// stays is the memory of what the receiver has; it and the allocations are of one push.
func BenchmarkUsage(b *testing.B) {
	const pods, containers = 150_000, 2
	now := time.Now().Unix()
	batch := &sample.Batch{Ordered: true, Version: 1, Names: []string{"app", "proxy"}}
	for i := range pods {
		p := pod(fmt.Sprintf("team-%03d", i/200), fmt.Sprintf("service-%06d-5d4f8c7b9-x2x4z", i), "10.1.2.3")
		for name := range uint32(containers) {
			s := sample.New(p, name, now)
			s.CPU, s.Memory = float64(i)/1e6, float64(i)*4096
			batch.Samples = append(batch.Samples, s)
		}
	}
	for name, isNew := range map[string]bool{"nothing new": false, "all new": true} {
		b.Run(name, func(b *testing.B) {
			r := newTaker(b, 0)
			bytes, requests := int64(0), 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
				n, _ := io.Copy(io.Discard, request.Body)
				bytes, requests = bytes+n, requests+1
			}))
			defer server.Close()
			r.pusher.URL = server.URL
			heap := func() uint64 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				return m.HeapAlloc
			}
			u := r.usageOf(cpu, memory)
			pushNow := func(at int64) {
				for i := range batch.Samples {
					s := &batch.Samples[i]
					cpu, memory := s.CPU, s.Memory
					*s = sample.New(s.Pod, s.Name, at)
					s.CPU, s.Memory = cpu, memory
				}
				if err := r.push(func(ctx context.Context, o *push.Out) error {
					return u.Push(ctx, o, func(f func(*sample.Batch)) { f(batch) }, at*1000)
				}); err != nil {
					b.Fatal(err)
				}
			}
			before := heap()
			pushNow(now)
			stays := heap() - before
			bytes, requests = 0, 0
			began, n := cpuTime(b), int64(0)
			b.ReportAllocs()
			for b.Loop() {
				if n++; isNew {
					pushNow(now + n)
				} else {
					pushNow(now)
				}
			}
			b.ReportMetric(float64((cpuTime(b)-began).Milliseconds())/float64(n), "cpu-ms/op")
			b.ReportMetric(float64(stays)/(1<<20), "MiB-stay")
			b.ReportMetric(float64(bytes)/float64(n*pods*containers*2), "bytes/sample")
			b.ReportMetric(float64(requests)/float64(n), "requests/op")
			runtime.KeepAlive(u)
		})
	}
}

// cpuTime is what the process has used so far, the receiver's part of it included.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
