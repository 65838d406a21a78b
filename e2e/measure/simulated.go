package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// What is done on a simulated cluster.
const (
	refreshes    = 5                      // refreshes measured, one scrape after each
	repeats      = 100                    // scrapes of one unchanged snapshot, gzip
	plainRepeats = 10                     // the same, identity
	rounds       = 5                      // rounds of the comparison with a static server
	chunkTime    = time.Second            // for one server and one number of scrapers, per round
	idleTime     = 300 * time.Millisecond // without CPU use for so long, the exporter has finished its work
)

// concurrencies are the numbers of scrapers of the comparison.
var concurrencies = []int{1, 64}

// simulated is a simulated cluster and the exporter that is measured.
type simulated struct {
	cluster
	api        *standin.Server
	resolution time.Duration
	exporter   *exporter.Exporter
	dir        string
	client     *http.Client
	page       []byte // the last one scraped, compressed

	mu     sync.Mutex
	warmed time.Time     // the tick whose list is made
	lists  chan struct{} // gets a value when the exporter has read a list of the pods' usage
	listed atomic.Int64  // how often it has
}

func measureSimulated(ctx context.Context, nodes, pods int) (title string, results []result, err error) {
	s := &simulated{resolution: *resolutionFlag, lists: make(chan struct{}, 1), client: &http.Client{
		Timeout: 2 * time.Minute, Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}}}
	if s.dir, err = os.MkdirTemp("", "metrics-server-prom-measure-"); err != nil {
		return "", nil, err
	}
	defer os.RemoveAll(s.dir)
	// Uncompressed, as an exporter in a cluster asks for it: so that the bytes read bare are those that it decodes.
	s.api, err = standin.New(standin.Options{Nodes: nodes, Pods: pods, Containers: *containers,
		Resolution: s.resolution,
		Seed:       1, Behavior: standin.Behavior{NoGzip: true}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return "", nil, err
	}
	defer s.api.Close()
	s.api.Intercept(s.serve)
	text, err := s.api.Kubeconfig()
	if err != nil {
		return "", nil, err
	}
	s.cluster = cluster{s.api.RESTConfig(), filepath.Join(s.dir, "kubeconfig"), 2 * (nodes + pods**containers)}
	if err := os.WriteFile(s.kubeconfig, text, 0o600); err != nil {
		return "", nil, err
	}
	parts := []func(context.Context, int) ([]result, error){
		func(ctx context.Context, _ int) ([]result, error) { return s.start(ctx) }, s.measure}
	if *baselineFlag != "" || *pagesFlag || *pushFlag {
		parts = nil
	}
	if *baselineFlag != "" {
		parts = append(parts, s.baseline)
	}
	switch {
	case *pushFlag:
		parts = append(parts, s.push)
	case *pagesFlag:
		parts = append(parts, s.pages)
	}
	for _, part := range parts {
		rows, err := part(ctx, pods)
		if err != nil {
			return "", nil, err
		}
		results = append(results, rows...)
	}
	return fmt.Sprintf("SIMULATED cluster: %d nodes, %d pods, %d containers each, new values every %s",
		nodes, pods, *containers, s.resolution), results, nil
}

// serve has the list of a tick made before anybody waits for it, so that what a read costs is the reading, and counts
// the lists that the exporter reads.
func (s *simulated) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	s.mu.Lock()
	if tick := s.api.NextTick(); tick != s.warmed {
		s.warmed = tick
		next.ServeHTTP(nowhere{}, (&http.Request{Method: http.MethodGet, URL: &url.URL{Path: podUsage},
			Header: http.Header{
				"Accept": {protobufType}, "Authorization": {"Bearer " +
					s.config.BearerToken}}}).WithContext(r.Context()))
	}
	s.mu.Unlock()
	next.ServeHTTP(w, r)
	if r.URL.Path == podUsage && r.Header.Get(bare) == "" {
		s.listed.Add(1)
		select {
		case s.lists <- struct{}{}:
		default:
		}
	}
}

// nowhere throws an answer away.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (nowhere) WriteHeader(int)             {}

// measure starts an exporter in a cgroup of its own and measures that.
func (s *simulated) measure(ctx context.Context, pods int) ([]result, error) {
	original, err := exporterPath()
	if err != nil {
		return nil, err
	}
	binary, err := s.freshBinary(original)
	if err != nil {
		return nil, err
	}
	cgroup, without := process.NewCgroup()
	if cgroup != nil {
		defer cgroup.Remove()
	}
	tick, listed := s.api.NextTick(), s.listed.Load()
	e, page, _, err := s.launch(ctx, exporter.Options{Path: binary, Cgroup: cgroup})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	s.exporter, s.page = e, page.Wire

	results, err := s.refreshes(ctx)
	if err != nil {
		return nil, err
	}
	memory, err := e.Memory()
	if err != nil {
		return nil, err
	}
	when := fmt.Sprintf("over %d refreshes with a scrape each", refreshes)
	most := int64(0)
	switch {
	case pods <= 100:
		most = 25
	case pods <= 10_000:
		most = 40
	case pods <= 150_000:
		most = 170
	}
	peak, err := cgroupPeak(cgroup, without, when, most)
	if err != nil {
		return nil, err
	}
	results = append(results, fact("peak resident memory "+when, "%s", size(memory.Peak)), peak)
	goal := 2.0
	if pods <= 10_000 {
		goal = 1.2
	}
	for _, part := range []func() ([]result, error){
		func() ([]result, error) { return s.unchanged(ctx, "/metrics") },
		func() ([]result, error) { return s.compare(ctx, "/metrics", s.page, goal) },
	} {
		rows, err := part()
		if err != nil {
			return nil, fmt.Errorf("%w\nend of the exporter's log:\n%s", err, process.Tail(e.Log(), 10))
		}
		results = append(results, rows...)
	}
	if memory, err = e.Memory(); err != nil {
		return nil, err
	}
	if peak, err = cgroupPeak(cgroup, without, "over the whole run, 64 scrapers at once among it", 0); err != nil {
		return nil, err
	}
	ticks := s.api.NextTick().Sub(tick)/s.resolution + 1 // that of which it found the values at its start among them
	perTick := float64(s.listed.Load()-listed) / float64(ticks)
	results = append(results, result{fmt.Sprintf("full lists of the pods' usage per tick of the source, of %d", ticks),
		"≤ 1.1",
		fmt.Sprintf("%.2f", perTick), perTick < 1.15})
	return append(results, fact("peak resident memory over the whole run", "%s", size(memory.Peak)), peak), nil
}

// freshBinary is a copy of an exporter that the kernel has nothing of in memory, so that its pages count as the
// exporter's, as in a container on a node that has just pulled the image. It is there until the next one is made.
func (s *simulated) freshBinary(original string) (path string, err error) {
	return s.freshCopy(original, "metrics-server-prom")
}

// freshCopy is one of that name.
func (s *simulated) freshCopy(original, name string) (path string, err error) {
	program, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	path = filepath.Join(s.dir, name)
	if err := os.WriteFile(path, program, 0o700); err != nil {
		return "", err
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	return path, errors.Join(file.Sync(), unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED))
}

// refreshes measures some refreshes, each with a scrape, and the same list read bare after it.
func (s *simulated) refreshes(ctx context.Context) ([]result, error) {
	reader, err := startChild(bareReader, s.kubeconfig)
	if err != nil {
		return nil, err
	}
	defer reader.close()
	if _, err := reader.read(); err != nil { // for its connection
		return nil, err
	}
	var cpu, fresh, reads, bares []time.Duration
	for i := range refreshes {
		progress("refresh %d of %d", i+1, refreshes)
		if err := s.idle(ctx); err != nil {
			return nil, err
		}
		sum, count, err := s.refreshTime(ctx, 0)
		if err != nil {
			return nil, err
		}
		before, err := process.CPUOf(s.exporter.PID())
		if err != nil {
			return nil, err
		}
		if err := s.refresh(ctx); err != nil {
			return nil, err
		}
		after, err := process.CPUOf(s.exporter.PID())
		if err != nil {
			return nil, err
		}
		page, err := s.exporter.Fetch(ctx)
		if err == nil {
			err = s.complete(page)
		}
		if err != nil {
			return nil, fmt.Errorf("refresh %d: %w", i+1, err)
		}
		s.page = page.Wire
		sumAfter, countAfter, err := s.refreshTime(ctx, count+1)
		if err != nil {
			return nil, err
		}
		bare, err := reader.read()
		if err != nil {
			return nil, err
		}
		cpu, fresh, bares = append(cpu, after-before), append(fresh, page.Took), append(bares, bare)
		reads = append(reads, time.Duration((sumAfter-sum)/(countAfter-count)*float64(time.Second)))
	}
	all, err := process.CPUOf(s.exporter.PID())
	if err != nil {
		return nil, err
	}
	ratio := median(reads).Seconds() / median(bares).Seconds()
	read := fact("refresh of the pods over HTTP, against reading and discarding the same bytes", "%.2fx of %s", ratio,
		short(median(bares)))
	if s.samples > 10_000 { // less is read faster than this can tell
		read.goal, read.reached = "≤ 1.2x", ratio <= 1.2
	}
	return []result{
		fact("samples on a page", "%d", s.samples),
		read,
		fact("CPU of the exporter per refresh, probes and rendering included, median", "%s", short(median(cpu))),
		fact(fmt.Sprintf("CPU of the exporter from its start over %d refreshes", refreshes), "%.2f s in %s",
			all.Seconds(), since(s.exporter.Started)),
		fact("first scrape of a snapshot, gzip, median", "%s", short(median(fresh))),
	}, nil
}

// refreshTime returns the exporter's own figures of its refreshes of the pods, once it has counted this many.
func (s *simulated) refreshTime(ctx context.Context, atLeast float64) (sum, count float64, err error) {
	err = process.Await(ctx, 100*time.Millisecond, func(ctx context.Context) error {
		page, err := s.exporter.Fetch(ctx)
		if err != nil {
			return err
		}
		text, err := page.Decompress()
		if err != nil {
			return err
		}
		const name = "metrics_server_prom_refresh_duration_seconds_"
		var sumOK, countOK bool
		sum, sumOK = valueOf(text, name+`sum{resource="pods"} `)
		count, countOK = valueOf(text, name+`count{resource="pods"} `)
		if !sumOK || !countOK || count < atLeast {
			return fmt.Errorf("the page has %v refreshes of the pods, not %v", count, atLeast)
		}
		return nil
	})
	return sum, count, err
}

// refresh waits for the exporter's next refresh and its end.
func (s *simulated) refresh(ctx context.Context) error {
	select { // forget the past
	case <-s.lists:
	default:
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*s.resolution+time.Minute,
		errors.New("the exporter does not refresh"))
	defer cancel()
	select {
	case <-s.lists:
	case <-s.exporter.Done():
		return errors.New("the exporter has ended")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return s.idle(ctx)
}

// idle waits until the exporter uses no CPU.
func (s *simulated) idle(ctx context.Context) error {
	last, since := time.Duration(-1), time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, max(s.resolution, 30*time.Second),
		errors.New("the exporter does not come to rest: its refreshes take longer than the resolution"))
	defer cancel()
	return process.Await(ctx, idleTime/10, func(context.Context) error {
		now, err := process.CPUOf(s.exporter.PID())
		if err != nil {
			return err
		}
		if now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) < idleTime {
			return errors.New("it is busy")
		}
		return nil
	})
}

// unchanged scrapes a page again and again, between two refreshes.
func (s *simulated) unchanged(ctx context.Context, path string) (rows []result, err error) {
	progress("scrapes of %s, unchanged", path)
	for _, encoding := range []string{"gzip", "identity"} {
		if err := s.refresh(ctx); err != nil {
			return nil, err
		}
		times := map[string]int{"gzip": repeats, "identity": plainRepeats}[encoding]
		if _, err := s.get(ctx, s.exporter.URL+path, encoding); err != nil { // what is rendered when it is asked for
			return nil, err
		}
		until := time.Now().Add(s.resolution / 2)
		var took []time.Duration
		var length int64
		for i := 0; i < times && (i < 3 || time.Now().Before(until)); i++ {
			began := time.Now()
			if length, err = s.get(ctx, s.exporter.URL+path, encoding); err != nil {
				return nil, err
			}
			took = append(took, time.Since(began))
		}
		rows = append(rows, fact(path+", "+encoding, "%s", size(length)),
			fact("scrape of "+path+", unchanged, "+encoding+", median / p95", "%s / %s", short(median(took)),
				short(quantile(took, 0.95))))
	}
	return rows, nil
}

// get reads a page and throws it away.
func (s *simulated) get(ctx context.Context, url, encoding string) (length int64, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Accept-Encoding", encoding)
	request.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", strconv.Itoa(int(s.client.Timeout.Seconds())))
	response, err := s.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	length, err = io.Copy(io.Discard, response.Body)
	if got := response.Header.Get("Content-Encoding"); err == nil &&
		(response.StatusCode != 200 || (encoding == "gzip") != (got == "gzip")) {
		err = fmt.Errorf("%s: %s, Content-Encoding %q", url, response.Status, got)
	}
	return length, err
}

// cost is what one request costs the one who asks, in time, and the server, in CPU.
type cost struct{ wall, cpu time.Duration }

// compare lets the exporter and a static file server send the same page in turns; the goal is 0 for none. Every round
// takes place between two refreshes of the exporter; one into which a refresh falls after all does not count.
func (s *simulated) compare(ctx context.Context, path string, page []byte, goal float64) (rows []result, err error) {
	progress("comparison of %s with a static file server sending the same bytes", path)
	file := filepath.Join(s.dir, "page.gz")
	if err := os.WriteFile(file, page, 0o600); err != nil {
		return nil, err
	}
	static, err := startChild(staticServer, file)
	if err != nil {
		return nil, err
	}
	defer static.close()
	staticURL, err := static.line()
	if err != nil {
		return nil, fmt.Errorf("static server: %w", err)
	}
	type target struct {
		url string
		pid int
	}
	targets := [2]target{{s.exporter.URL + path, s.exporter.PID()}, {staticURL, static.pid}}
	wall, cpu := map[int][]float64{}, map[int][]float64{}
	// All chunks of a round must fit between two refreshes, with as much time to spare.
	chunk := min(chunkTime, s.resolution/time.Duration(2*len(concurrencies)*len(targets)))
	for round, discarded := 0, 0; round < rounds+discarded; round++ {
		if err := s.refresh(ctx); err != nil {
			return nil, err
		}
		// The first answer after a refresh may cost more: that is not what is compared.
		if _, err := s.get(ctx, targets[0].url, "gzip"); err != nil {
			return nil, err
		}
		listed := s.listed.Load()
		found := map[int][2]cost{}
		for _, scrapers := range concurrencies {
			var costs [2]cost
			for i := range targets {
				i = (i + round) % 2 // each is first in its turn
				if costs[i], err = s.load(ctx, targets[i].url, targets[i].pid, scrapers, chunk); err != nil {
					return nil, err
				}
			}
			found[scrapers] = costs
		}
		if s.listed.Load() != listed {
			if discarded++; discarded > rounds {
				return nil, fmt.Errorf("a resolution of %s leaves no time to compare between two refreshes",
					s.resolution)
			}
			continue
		}
		for scrapers, costs := range found {
			wall[scrapers] = append(wall[scrapers], float64(costs[0].wall)/float64(costs[1].wall))
			cpu[scrapers] = append(cpu[scrapers], float64(costs[0].cpu)/float64(max(costs[1].cpu, 1)))
		}
	}
	for _, scrapers := range concurrencies {
		w, c := median(wall[scrapers]), median(cpu[scrapers])
		row := fact(fmt.Sprintf("scrape of %s against a static file server, %d scrapers: wall, CPU", path, scrapers),
			"%.2fx, %.2fx", w, c)
		if goal > 0 {
			row.goal, row.reached = fmt.Sprintf("≤ %.1fx", goal), max(w, c) <= goal
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// load has this many scrapers ask a server for so long and returns what one request cost.
func (s *simulated) load(ctx context.Context, url string, pid, scrapers int, long time.Duration) (cost, error) {
	before, err := process.CPUOf(pid)
	if err != nil {
		return cost{}, err
	}
	began := time.Now()
	var n atomic.Int64
	failures := make(chan error, scrapers)
	var all sync.WaitGroup
	for range scrapers {
		all.Go(func() {
			for time.Since(began) < long {
				if _, err := s.get(ctx, url, "gzip"); err != nil {
					failures <- err
					return
				}
				n.Add(1)
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	select {
	case err := <-failures:
		return cost{}, fmt.Errorf("%s with %d scrapers: %w", url, scrapers, err)
	default:
	}
	after, err := process.CPUOf(pid)
	return cost{took / time.Duration(n.Load()), (after - before) / time.Duration(n.Load())}, err
}
