package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
	"metrics-server-prom/e2e/receiver"
)

const (
	pushRounds   = 3 // starts of each exporter, of which the medians count
	pushedBefore = 2 // ticks before the CPU is measured: the first push has all series, and the first refreshes all pods
	// pushedFor is the ticks over which it is, and within which the peaks come near the worst: how much there is at a
	// moment depends on whether the garbage collector happens to run while a refresh has the old and the new usage.
	pushedFor = 12
)

// pushing is one of the exporters that are compared: they run at the same time, on the same cluster.
type pushing struct {
	name, format string // format is empty for the one that does not push
	to           *sink
	exporter     *exporter.Exporter
	cgroup       *process.Cgroup

	peaks []int64
	kind  string          // of the peaks
	cpu   []time.Duration // over pushedFor ticks

	samples, bytes []int64 // that arrived meanwhile
}

// push compares exporters that push with one that does not: their memory, and their CPU over the same ticks.
func (s *simulated) push(ctx context.Context, pods int) ([]result, error) {
	all := []*pushing{{name: "not pushing"}, {name: "remote write", format: "remote-write"},
		{name: "text", format: "text"}}
	for round := range pushRounds {
		if err := s.pushRound(ctx, round, all); err != nil {
			return nil, err
		}
	}
	prometheus, err := s.prometheusBytes(ctx)
	if err != nil {
		return nil, err
	}
	none, rows := all[0], []result(nil)
	for _, p := range all {
		rows = append(rows, fact(fmt.Sprintf("peak of memory, %s (%s)", p.name, p.kind), "%s", size(median(p.peaks))))
	}
	for _, p := range all[1:] {
		above := median(p.peaks) - median(none.peaks)
		row := fact("memory above not pushing, "+p.name, "%s", size(above))
		row.goal, row.reached = "≤ 8 MiB", above <= 8<<20
		var cpu []time.Duration
		samples, bytes := int64(0), int64(0)
		for i := range p.cpu {
			const goal = 600_000
			cpu = append(cpu, time.Duration(float64(p.cpu[i]-none.cpu[i])/float64(max(1, p.samples[i]))*goal))
			samples, bytes = samples+p.samples[i], bytes+p.bytes[i]
		}
		of := fact("CPU above not pushing for 600,000 samples, "+p.name, "%s", short(median(cpu)))
		if pods >= 100_000 { // else the noise of everything else is multiplied
			of.goal, of.reached = "≤ 1 s", median(cpu) <= time.Second
		}
		each := float64(bytes) / float64(max(1, samples))
		wire := fact("bytes on the wire for a sample, "+p.name, "%.2f, of %d samples a tick", each,
			samples/int64(len(p.cpu)*pushedFor))
		if p.format == "remote-write" {
			wire.goal, wire.reached = fmt.Sprintf("≤ Prometheus' %.2f", prometheus), each <= prometheus
		}
		rows = append(rows, row, of, wire)
	}
	return rows, nil
}

// pushRound starts all exporters, and measures them.
func (s *simulated) pushRound(ctx context.Context, round int, all []*pushing) error {
	original, err := exporterPath()
	if err != nil {
		return err
	}
	for i, p := range all {
		progress("round %d of %d: %s", round+1, pushRounds, p.name)
		path, err := s.freshCopy(original, fmt.Sprint("metrics-server-prom-", i))
		if err != nil {
			return err
		}
		o := exporter.Options{Path: path}
		if *pagesFlag {
			o.Args = append(o.Args, withPages)
		}
		if p.format != "" {
			if p.to, err = newSink(); err != nil {
				return err
			}
			defer p.to.Close()
			o.Args = append(o.Args, "--push.url="+p.to.url, "--push.format="+p.format,
				"--push.interval="+s.resolution.String())
		}
		var without error
		if p.cgroup, without = process.NewCgroup(); p.cgroup == nil {
			p.kind = "resident memory, as no cgroup can be made: " + strings.ReplaceAll(without.Error(), "\n", "; ")
		} else {
			p.kind = p.cgroup.Kind
			defer p.cgroup.Remove()
		}
		o.Cgroup = p.cgroup
		o.Args = append(o.Args, "--kubeconfig="+s.kubeconfig)
		if p.exporter, err = exporter.Launch(o); err != nil {
			return err
		}
		defer p.exporter.Close()
		if err := s.awaitAll(ctx, p.exporter); err != nil {
			return err
		}
	}
	if err := s.ticks(ctx, pushedBefore, all); err != nil {
		return err
	}
	type reading struct {
		cpu            time.Duration
		samples, bytes int64
	}
	read := func() (readings []reading, err error) {
		if err := atRest(ctx, s.resolution, all); err != nil {
			return nil, err
		}
		for _, p := range all {
			r := reading{}
			if r.cpu, err = process.ExactCPUOf(p.exporter.PID()); err != nil {
				return nil, err
			}
			if p.to != nil {
				r.samples, r.bytes = p.to.samples.Load(), p.to.bytes.Load()
			}
			readings = append(readings, r)
		}
		return readings, nil
	}
	before, err := read()
	if err != nil {
		return err
	}
	if err := s.ticks(ctx, pushedFor, all); err != nil {
		return err
	}
	now, err := read()
	if err != nil {
		return err
	}
	for i, p := range all {
		p.cpu = append(p.cpu, now[i].cpu-before[i].cpu)
		p.samples = append(p.samples, now[i].samples-before[i].samples)
		p.bytes = append(p.bytes, now[i].bytes-before[i].bytes)
		if p.to != nil {
			if err := p.to.failed.Load(); err != nil {
				return *err
			}
			if least := int64(s.samples * pushedFor * 3 / 4); p.samples[round] < least {
				return fmt.Errorf("%s: %d samples arrived in %d ticks, not %d\n%s", p.name, p.samples[round], pushedFor, least,
					process.Tail(p.exporter.Log(), 10))
			}
		}
		peak, err := p.peak()
		if err != nil {
			return err
		}
		p.peaks = append(p.peaks, peak)
		progress("%s: peak %s, CPU %s, %d samples", p.name, size(peak), short(p.cpu[round]), p.samples[round])
	}
	return nil
}

// awaitAll returns once an exporter has all usage, and has rendered it as for one scrape.
func (s *simulated) awaitAll(ctx context.Context, e *exporter.Exporter) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("no complete page within five minutes"))
	defer cancel()
	err := process.Await(ctx, time.Second, func(ctx context.Context) error {
		page, err := e.Fetch(ctx)
		if err == nil {
			err = s.complete(page)
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("%w\nend of the exporter's log:\n%s", err, process.Tail(e.Log(), 10))
	}
	return err
}

func (p *pushing) peak() (int64, error) {
	if p.cgroup != nil {
		return p.cgroup.Peak()
	}
	memory, err := p.exporter.Memory()
	return memory.Peak, err
}

// ticks waits for so many ticks of the cluster.
func (s *simulated) ticks(ctx context.Context, n int, all []*pushing) error {
	select {
	case <-time.After(time.Until(s.api.NextTick()) + time.Duration(n-1)*s.resolution + time.Second):
		for _, p := range all {
			select {
			case <-p.exporter.Done():
				return fmt.Errorf("%s: the exporter has ended:\n%s", p.name, process.Tail(p.exporter.Log(), 10))
			default:
			}
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// atRest waits until none of the exporters uses CPU.
func atRest(ctx context.Context, limit time.Duration, all []*pushing) error {
	ctx, cancel := context.WithTimeoutCause(ctx, max(limit, 30*time.Second),
		errors.New("the exporters do not come to rest"))
	defer cancel()
	last, since := make([]time.Duration, len(all)), time.Now()
	return process.Await(ctx, idleTime/10, func(context.Context) error {
		for i, p := range all {
			now, err := process.CPUOf(p.exporter.PID())
			if err != nil {
				return err
			}
			if now != last[i] {
				last[i], since = now, time.Now()
			}
		}
		if time.Since(since) < idleTime {
			return errors.New("one is busy")
		}
		return nil
	})
}

// sink takes pushes in both formats and counts what arrives.
type sink struct {
	url            string
	server         *http.Server
	samples, bytes atomic.Int64
	failed         atomic.Pointer[error]
}

func newSink() (*sink, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	k := &sink{url: fmt.Sprintf("http://%s/push", listener.Addr())}
	k.server = &http.Server{Handler: k}
	go func() { _ = k.server.Serve(listener) }() // ends with Close
	return k, nil
}

// Close ends it.
func (k *sink) Close() { k.server.Close() }

// ServeHTTP takes a push.
func (k *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wire := &countingReader{from: r.Body}
	samples, err := countPushed(r.Header, wire)
	k.bytes.Add(wire.n)
	k.samples.Add(samples)
	if err != nil && r.Context().Err() == nil {
		k.failed.Store(&err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// countPushed counts the samples of a push.
func countPushed(header http.Header, body io.Reader) (n int64, err error) {
	if header.Get("Content-Encoding") == "snappy" {
		message, err := io.ReadAll(body)
		if err != nil {
			return 0, err
		}
		series, err := receiver.Decode(header, message)
		for _, s := range series {
			n += int64(len(s.Samples))
		}
		return n, err
	}
	text, err := gzip.NewReader(body)
	if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		if line := lines.Bytes(); len(line) > 0 && line[0] != '#' {
			n++
		}
	}
	return n, lines.Err()
}

// countingReader counts what is read.
type countingReader struct {
	from io.Reader
	n    int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.n += int64(n)
	return n, err
}
