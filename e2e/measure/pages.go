package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// The extra pages, and how they are measured.
const (
	usagePage = "/metrics/cadvisor"
	statePage = "/metrics/kube-state-metrics"
	withPages = "--pages=cadvisor,kube-state-metrics"

	scrapeInterval = 15 * time.Second
	// aMinute is the share of the pods that change in a minute.
	aMinute        = 0.01
	renderings     = 5  // renderings of each kind whose CPU is measured, of which the medians count
	baselineRounds = 3  // starts of each of two exporters
	settling       = 3  // refreshes, each with a scrape, after which their memory is compared
	touched        = 16 // one of so many pods changes where all parts of the page shall: some are of 32 pods
)

var extraPages = []string{usagePage, statePage}

// pages measures the extra pages: memory and CPU while they are scraped and pods change, the CPU of a rendering after
// different changes, and scrapes of what has not changed. A part of the values is compared with the API on the way.
func (s *simulated) pages(ctx context.Context, pods int) ([]result, error) {
	original, err := exporterPath()
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(original)
	if err != nil {
		return nil, err
	}
	path, err := s.freshBinary(original)
	if err != nil {
		return nil, err
	}
	cgroup, without := process.NewCgroup()
	if cgroup != nil {
		defer cgroup.Remove()
	}
	e, page, _, err := s.launch(ctx, exporter.Options{Path: path, Cgroup: cgroup, Args: []string{withPages}})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	s.exporter, s.page = e, page.Wire

	peakBy := func(when string) func() ([]result, error) {
		return func() ([]result, error) {
			peak, err := cgroupPeak(cgroup, without, when, 0)
			return []result{peak}, err
		}
	}
	results := []result{{"binary", "≤ 18 MB", fmt.Sprintf("%.1f MB", float64(info.Size())/1e6), info.Size() <= 18e6}}
	for _, part := range []func() ([]result, error){
		peakBy("before anybody asks for the extra pages"),
		func() ([]result, error) { return s.sizes(ctx) },
		peakBy("with the first scrapes of them"),
		func() ([]result, error) { return s.scraped(ctx, pods, cgroup, without) },
		func() ([]result, error) { return s.renderings(ctx, pods) },
		func() ([]result, error) { return s.values(ctx) },
		func() ([]result, error) { return s.scrapes(ctx, pods) },
		peakBy("over the whole run, 64 scrapers at once among it"),
	} {
		rows, err := part()
		if err != nil {
			return nil, fmt.Errorf("%w\nend of the exporter's log:\n%s", err, process.Tail(e.Log(), 10))
		}
		for _, row := range rows { // at 150,000 pods a later part can take or miss half an hour
			fmt.Fprintf(os.Stderr, "measure: %s: %s (%s)\n", row.what, row.measured, cmp.Or(row.goal, "no goal"))
		}
		results = append(results, rows...)
	}
	return results, nil
}

// fetch reads one of the exporter's pages, compressed.
func (s *simulated) fetch(ctx context.Context, path string) (*exporter.Page, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.exporter.URL+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept-Encoding", "gzip")
	began := time.Now()
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	if _, err := io.Copy(&body, response.Body); err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s: %.300s", path, response.Status, body.Bytes())
	}
	return &exporter.Page{Status: response.StatusCode, Header: response.Header, Wire: body.Bytes(),
		Took: time.Since(began)}, nil
}

// sizes waits for complete pages and says how large they are.
func (s *simulated) sizes(ctx context.Context) (rows []result, err error) {
	usage, nodes := s.api.PodUsage(), len(s.api.Nodes())
	running := 0
	for _, pod := range usage {
		running += len(pod.Containers)
	}
	for _, page := range []struct {
		path, sample string
		want         int // samples that begin like this
	}{
		{usagePage, "container_memory_working_set_bytes{", running + nodes},
		{usagePage, "machine_cpu_cores{", nodes},
		{statePage, "kube_pod_info{", len(s.api.Pods())},
		{statePage, "kube_node_info{", nodes},
	} {
		var wire *exporter.Page
		var text string
		began := time.Now()
		limited, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("not complete within two minutes"))
		err := process.Await(limited, 100*time.Millisecond, func(ctx context.Context) (err error) {
			if wire, err = s.fetch(ctx, page.path); err != nil {
				return err
			}
			if text, err = wire.Decompress(); err != nil {
				return err
			}
			if n := strings.Count(text, "\n"+page.sample); n != page.want {
				return fmt.Errorf("%s has %d samples that begin with %s, not %d", page.path, n, page.sample, page.want)
			}
			return nil
		})
		cancel()
		if err != nil {
			return nil, err
		}
		progress("%s is complete by %s after %s", page.path, page.sample, since(began))
		if strings.Contains(page.sample, "pod_info") || strings.Contains(page.sample, "working_set") {
			rows = append(rows, fact(page.path, "%d samples, %s, gzip %s", strings.Count(text, "\n")-
				strings.Count(text, "\n#"), size(int64(len(text))), size(int64(len(wire.Wire)))))
		}
	}
	return rows, nil
}

// scraped has all pages scraped as Prometheus does while pods change, and then all watches end, so that everything is
// listed anew.
func (s *simulated) scraped(ctx context.Context, pods int, cgroup *process.Cgroup, without error) ([]result, error) {
	progress("scraping all pages every %s for %s, with %.0f %% of the pods changing a minute", scrapeInterval,
		*scrapedFlag, 100*aMinute)
	changing, stop := context.WithCancel(ctx)
	defer stop()
	go s.api.Churn(changing, float64(pods)*aMinute/60)
	before, err := process.ExactCPUOf(s.exporter.PID())
	if err != nil {
		return nil, err
	}
	began, took, count := time.Now(), map[string][]time.Duration{}, 0
	scrape := func() error {
		for _, path := range append([]string{"/metrics"}, extraPages...) {
			page, err := s.fetch(ctx, path)
			if err != nil {
				return err
			}
			took[path] = append(took[path], page.Took)
		}
		count++
		return nil
	}
	tick := time.NewTicker(scrapeInterval)
	defer tick.Stop()
	for time.Since(began) < *scrapedFlag {
		if err := scrape(); err != nil {
			return nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	after, err := process.ExactCPUOf(s.exporter.PID())
	if err != nil {
		return nil, err
	}
	share := float64(after-before) / float64(time.Since(began))
	goal := int64(0)
	switch {
	case pods <= 10_000:
		goal = 72
	case pods <= 150_000:
		goal = 400
	}
	when := fmt.Sprintf("with all pages scraped every %s for %s and %.0f %% of the pods changing a minute", scrapeInterval,
		*scrapedFlag, 100*aMinute)
	peak, err := cgroupPeak(cgroup, without, when, goal)
	if err != nil {
		return nil, err
	}
	rows := []result{peak, fact("CPU of the exporter meanwhile", "%.1f %% of a core", 100*share)}
	for _, path := range extraPages {
		rows = append(rows, fact("scrape of "+path+" meanwhile, median / p95", "%s / %s", short(median(took[path])),
			short(quantile(took[path], 0.95))))
	}
	stop()

	progress("all watches end, and everything is listed anew")
	s.api.CloseWatches()
	s.api.Compact()
	for range 2 {
		if err := s.refresh(ctx); err != nil {
			return nil, err
		}
		if err := scrape(); err != nil {
			return nil, err
		}
	}
	peak, err = cgroupPeak(cgroup, without, "with everything listed anew after that", 0)
	return append(rows, peak), err
}

// renderings measures the CPU of the second page's scrape after different changes, each while the exporter has nothing
// else to do: events are dealt with, and the next refresh is some time away. They take turns.
func (s *simulated) renderings(ctx context.Context, pods int) ([]result, error) {
	share := max(1, int(float64(pods)*aMinute*scrapeInterval.Minutes()))
	kinds := []struct {
		name   string
		change func() error
	}{
		{"nothing", func() error { return nil }},
		{fmt.Sprintf("%d pods, which is %.0f %% a minute", share, 100*aMinute), func() error {
			for range share {
				s.api.ChurnOnce()
			}
			return nil
		}},
		{"something in all parts of it with pods", s.touch},
	}
	cpu, wall := make([][]time.Duration, len(kinds)), make([][]time.Duration, len(kinds))
	for round := range renderings {
		for i, kind := range kinds {
			progress("rendering %d of %d after a change of %s", round+1, renderings, kind.name)
			if err := s.refresh(ctx); err != nil {
				return nil, err
			}
			if _, err := s.fetch(ctx, statePage); err != nil {
				return nil, err
			}
			if err := kind.change(); err != nil {
				return nil, err
			}
			if err := s.idle(ctx); err != nil {
				return nil, err
			}
			before, err := process.ExactCPUOf(s.exporter.PID())
			if err != nil {
				return nil, err
			}
			page, err := s.fetch(ctx, statePage)
			if err != nil {
				return nil, err
			}
			if err := s.idle(ctx); err != nil {
				return nil, err
			}
			after, err := process.ExactCPUOf(s.exporter.PID())
			if err != nil {
				return nil, err
			}
			cpu[i], wall[i] = append(cpu[i], after-before), append(wall[i], page.Took)
		}
	}
	var rows []result
	for i, kind := range kinds {
		rows = append(rows, fact("CPU and time of a scrape of "+statePage+" after a change of "+kind.name, "%s, %s",
			short(median(cpu[i])), short(median(wall[i]))))
	}
	ratio := median(cpu[1]).Seconds() / median(cpu[2]).Seconds()
	what := fmt.Sprintf("CPU of it with %.0f %% of the pods changing a minute, against all of it", 100*aMinute)
	row := fact(what, "%.2fx", ratio)
	if pods >= 10_000 { // fewer pods are in so few parts that one changed pod is a large share
		row.goal, row.reached = "≤ 0.33x", ratio <= 1.0/3
	}
	return append(rows, row), nil
}

// touch changes something in all parts of the second page that pods are in, which are nearly all of it.
func (s *simulated) touch() error {
	for i, pod := range s.api.Pods() {
		if i%touched > 0 {
			continue
		}
		err := s.api.UpdatePod(pod.Namespace, pod.Name, func(p *standin.Pod) {
			if p.States == nil {
				p.States = make([]standin.ContainerState, len(p.Containers))
			}
			p.States[0].NotReady = !p.States[0].NotReady
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// scrapes measures scrapes of the pages while nothing changes.
func (s *simulated) scrapes(ctx context.Context, pods int) (rows []result, err error) {
	goal := 0.0
	if pods <= 10_000 {
		goal = 1.2
	}
	for _, path := range extraPages {
		page, err := s.fetch(ctx, path)
		if err != nil {
			return nil, err
		}
		unchanged, err := s.unchanged(ctx, path)
		if err != nil {
			return nil, err
		}
		compared, err := s.compare(ctx, path, page.Wire, goal)
		if err != nil {
			return nil, err
		}
		rows = append(append(rows, unchanged...), compared...)
	}
	return rows, nil
}

// baseline compares the memory of two exporters without the extra pages. They take turns, and each is started anew.
func (s *simulated) baseline(ctx context.Context, _ int) ([]result, error) {
	this, err := exporterPath()
	if err != nil {
		return nil, err
	}
	var peaks [2][]int64
	var kind string
	for round := range baselineRounds {
		for i, path := range []string{*baselineFlag, this} {
			progress("memory of %s, %d of %d", path, round+1, baselineRounds)
			peak, of, err := s.peakOf(ctx, path)
			if err != nil {
				return nil, err
			}
			peaks[i], kind = append(peaks[i], peak), of
		}
	}
	before, now := median(peaks[0]), median(peaks[1])
	ratio := float64(now) / float64(before)
	return []result{{fmt.Sprintf("peak of the cgroup (%s) over %d refreshes without the extra pages, against %s", kind,
		settling, *baselineFlag), "≤ 1.05x", fmt.Sprintf("%.2fx: %s of %s", ratio, size(now), size(before)), ratio <= 1.05},
	}, nil
}

// inCgroup has run use a fresh copy of a binary in a cgroup of its own, and say when its peak of memory counts: that of
// the cgroup or, where none can be made, what the exporter has resident.
func (s *simulated) inCgroup(original string,
	run func(o exporter.Options, counts func(*exporter.Exporter) error) error) (peak int64, kind string, err error) {
	path, err := s.freshBinary(original)
	if err != nil {
		return 0, "", err
	}
	cgroup, without := process.NewCgroup()
	if cgroup != nil {
		defer func() { err = cmp.Or(err, cgroup.Remove()) }()
	}
	err = run(exporter.Options{Path: path, Cgroup: cgroup}, func(e *exporter.Exporter) (err error) {
		if cgroup == nil {
			memory, err := e.Memory()
			peak, kind = memory.Peak, "resident memory, as no cgroup can be made: "+without.Error()
			return err
		}
		kind = cgroup.Kind
		peak, err = cgroup.Peak()
		return err
	})
	return peak, kind, err
}

// peakOf is the memory of an exporter over some refreshes, each with a scrape; see inCgroup.
func (s *simulated) peakOf(ctx context.Context, original string) (peak int64, kind string, err error) {
	return s.inCgroup(original, func(o exporter.Options, counts func(*exporter.Exporter) error) error {
		e, _, _, err := s.launch(ctx, o)
		if err != nil {
			return err
		}
		defer e.Close()
		s.exporter = e
		for range settling {
			if err := s.refresh(ctx); err != nil {
				return err
			}
			if _, err := s.fetch(ctx, "/metrics"); err != nil {
				return err
			}
		}
		return counts(e)
	})
}
