package main

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"metrics-server-prom/demo/standin"
)

// What a measured run consists of. All load goes to this machine's loopback.
const (
	refreshes     = 5                      // refreshes measured, one scrape after each
	repeats       = 100                    // scrapes of one unchanged snapshot, gzip
	plainRepeats  = 10                     // the same, identity
	rounds        = 5                      // rounds of the comparison
	chunkTime     = time.Second            // for one server and one number of scrapers, per round
	idleTime      = 300 * time.Millisecond // without CPU use for so long, the exporter has finished its work
	tickPerSecond = 100                    // USER_HZ of /proc/PID/stat, 100 on all Linux platforms of Go
	scrapeTimeout = 2 * time.Minute
	startTimeout  = 10 * time.Minute // for the first complete page
)

// staticCommand is the hidden first argument that makes this program the static server of the comparison.
const staticCommand = "internal-serve-static"

// The ways in which the static server has its bytes.
const (
	staticFile   = "file"   // http.ServeFile, which lets the kernel send the file (sendfile): no copy in user space
	staticMemory = "memory" // http.ServeContent of bytes in memory
)

// concurrencies are the numbers of scrapers of the comparison.
var concurrencies = []int{1, 64}

// report is what a measured run found.
type report struct {
	samples       int
	firstPage     time.Duration // from the start of the process to the end of the first complete page
	refreshCPU    []time.Duration
	freshScrapes  []time.Duration
	peakRSS       int64
	finalRSS      int64
	gzipBytes     int64
	plainBytes    int64
	gzipScrapes   []time.Duration
	plainScrapes  []time.Duration
	comparison    map[int]map[string]*ratios // by concurrency and static server
	discarded     int
	listsPerTick  float64
	exporterBytes int64
}

// ratios of the exporter to a static server, one of each per round.
type ratios struct{ wall, cpu []float64 }

// measure runs the exporter and measures it; args are its arguments.
func measure(ctx context.Context, o options, server *standin.Server, dir string, args []string) error {
	if runtime.GOOS != "linux" {
		return errors.New("--measure reads /proc and works on Linux only")
	}
	m := &measurement{
		options: o, server: server, url: "http://" + browsable(o.listen) + "/metrics",
		client: &http.Client{
			Timeout:   scrapeTimeout,
			Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: slices.Max(concurrencies)},
		},
		lists: make(chan struct{}, 1),
	}
	server.Intercept(m.watchLists)
	var err error
	if m.exporter, err = startExporter(o.exporter, args); err != nil {
		return err
	}
	// A signal, or the end of the exporter, ends all that is measured.
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		<-m.exporter.done
		cancel(fmt.Errorf("the exporter ended: %w", m.exporter.err))
	}()
	r, err := m.run(ctx, dir)
	if err == nil {
		r.print(os.Stdout, o)
	} else if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return errors.Join(err, m.exporter.stop())
}

type measurement struct {
	options
	server   *standin.Server
	exporter *exporter
	url      string
	client   *http.Client
	lists    chan struct{} // gets a value when the exporter has read a list of pods' usage
	listed   atomic.Int64  // how often it has
}

// watchLists tells m.lists when a list of pods' usage has been answered.
func (m *measurement) watchLists(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(w, r)
	if strings.HasPrefix(r.URL.Path, "/apis/metrics.k8s.io/") && strings.HasSuffix(r.URL.Path, "/pods") {
		m.listed.Add(1)
		select {
		case m.lists <- struct{}{}:
		default:
		}
	}
}

func (m *measurement) run(ctx context.Context, dir string) (*report, error) {
	r := &report{comparison: map[int]map[string]*ratios{}}
	note := func(format string, args ...any) { fmt.Fprintf(os.Stderr, "demo: "+format+"\n", args...) }

	note("waiting for the first complete page")
	page, err := m.firstPage(ctx, r)
	if err != nil {
		return nil, err
	}
	started, listedBefore := time.Now(), m.listed.Load()
	for i := range refreshes {
		note("refresh %d of %d", i+1, refreshes)
		if err := m.idle(ctx); err != nil {
			return nil, err
		}
		before, err := cpuTime(m.exporter.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		if err := m.refresh(ctx); err != nil {
			return nil, err
		}
		after, err := cpuTime(m.exporter.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		r.refreshCPU = append(r.refreshCPU, after-before)
		took, body, err := m.scrape(ctx, true, true)
		if err != nil {
			return nil, err
		}
		if n, err := samples(body); err != nil || m.churn == 0 && n != r.samples {
			return nil, errors.Join(err, fmt.Errorf("the page of refresh %d has %d samples, the cluster %d", i+1, n, r.samples))
		}
		r.freshScrapes = append(r.freshScrapes, took)
		page = body
	}
	r.listsPerTick = float64(m.listed.Load()-listedBefore) / (time.Since(started).Seconds() / m.resolution.Seconds())
	if r.peakRSS, err = peakRSS(m.exporter.cmd.Process.Pid); err != nil {
		return nil, err
	}

	note("scrapes of an unchanged snapshot")
	if err := m.unchanged(ctx, r); err != nil {
		return nil, err
	}
	note("comparison with static servers sending the same bytes")
	if err := m.compare(ctx, r, dir, page); err != nil {
		return nil, err
	}
	if r.finalRSS, err = peakRSS(m.exporter.cmd.Process.Pid); err != nil {
		return nil, err
	}
	info, err := os.Stat(m.options.exporter)
	if err != nil {
		return nil, err
	}
	r.exporterBytes = info.Size()
	return r, nil
}

// firstPage scrapes until the exporter, just started, gives a page with all samples of the cluster.
func (m *measurement) firstPage(ctx context.Context, r *report) ([]byte, error) {
	want := 2 * (m.nodes + m.pods*m.containers)
	for {
		_, body, err := m.scrape(ctx, true, true)
		at := time.Now()
		if err == nil {
			n, err := samples(body)
			if err != nil {
				return nil, err
			}
			if n == want || m.churn > 0 && n > 0 {
				r.samples, r.firstPage = n, at.Sub(m.exporter.started)
				return body, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(2 * time.Millisecond): // the port opens without an event that could be awaited
		}
		if at.Sub(m.exporter.started) > startTimeout {
			return nil, errors.Join(err, fmt.Errorf("no page with all %d samples within %s", want, startTimeout))
		}
	}
}

// refresh waits for the next refresh of the exporter and its end.
func (m *measurement) refresh(ctx context.Context) error {
	select { // forget the past
	case <-m.lists:
	default:
	}
	select {
	case <-m.lists:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(2*m.resolution + scrapeTimeout):
		return fmt.Errorf("the exporter read no usage of pods within %s", 2*m.resolution+scrapeTimeout)
	}
	return m.idle(ctx)
}

// idle waits until the exporter uses no CPU.
func (m *measurement) idle(ctx context.Context) error {
	last, since := time.Duration(-1), time.Now()
	for began := since; time.Since(since) < idleTime; {
		now, err := cpuTime(m.exporter.cmd.Process.Pid)
		if err != nil {
			return err
		}
		if now != last {
			last, since = now, time.Now()
		}
		if time.Since(began) > m.resolution && time.Since(began) > 30*time.Second {
			return errors.New("the exporter does not come to rest: its refreshes take longer than the resolution")
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(idleTime / 10):
		}
	}
	return nil
}

// unchanged scrapes one snapshot again and again, between two refreshes.
func (m *measurement) unchanged(ctx context.Context, r *report) error {
	for _, kind := range []struct {
		gzip  bool
		times int
		into  *[]time.Duration
		bytes *int64
	}{{true, repeats, &r.gzipScrapes, &r.gzipBytes}, {false, plainRepeats, &r.plainScrapes, &r.plainBytes}} {
		if err := m.refresh(ctx); err != nil {
			return err
		}
		until := time.Now().Add(m.resolution / 2)
		for i := 0; i < kind.times && (i < 3 || time.Now().Before(until)); i++ {
			began := time.Now()
			n, err := m.get(ctx, m.url, kind.gzip, io.Discard)
			took := time.Since(began)
			if err != nil {
				return err
			}
			*kind.bytes = n
			*kind.into = append(*kind.into, took)
		}
	}
	return nil
}

// target is a server of the comparison.
type target struct {
	name, url string
	pid       int
}

// cost is what one request costs.
type cost struct{ wall, cpu time.Duration }

// compare lets the exporter and static servers send the same bytes in turns. Every round takes place between two
// refreshes of the exporter; one into which a refresh falls after all does not count.
func (m *measurement) compare(ctx context.Context, r *report, dir string, page []byte) error {
	path := filepath.Join(dir, "page.gz")
	if err := os.WriteFile(path, page, 0o600); err != nil {
		return err
	}
	targets := []target{{"exporter", m.url, m.exporter.cmd.Process.Pid}}
	for _, mode := range []string{staticFile, staticMemory} {
		t, stop, err := startStatic(mode, path)
		if err != nil {
			return err
		}
		defer stop()
		targets = append(targets, t)
	}
	for _, c := range concurrencies {
		r.comparison[c] = map[string]*ratios{staticFile: {}, staticMemory: {}}
	}
	// All chunks of a round must fit between two refreshes, with as much time to spare.
	chunk := min(chunkTime, m.resolution/time.Duration(2*len(concurrencies)*len(targets)))
	for round := 0; round < rounds+r.discarded; round++ {
		if err := m.refresh(ctx); err != nil {
			return err
		}
		// The first answer after a refresh may cost more: that is not what is compared.
		if _, _, err := m.scrape(ctx, true, false); err != nil {
			return err
		}
		listed := m.listed.Load()
		found := map[int]map[string]cost{}
		for _, c := range concurrencies {
			found[c] = map[string]cost{}
			for i := range targets {
				t := targets[(i+round)%len(targets)] // each is first in its turn
				cost, err := m.load(ctx, t, c, chunk)
				if err != nil {
					return err
				}
				found[c][t.name] = cost
			}
		}
		if m.listed.Load() != listed {
			if r.discarded++; r.discarded > rounds {
				return fmt.Errorf("a resolution of %s leaves no time to compare between two refreshes: give a longer --resolution", m.resolution)
			}
			continue
		}
		for c, costs := range found {
			for static, into := range r.comparison[c] {
				into.wall = append(into.wall, float64(costs["exporter"].wall)/float64(costs[static].wall))
				into.cpu = append(into.cpu, float64(costs["exporter"].cpu)/float64(max(costs[static].cpu, 1)))
			}
		}
	}
	return nil
}

// load asks a server from c connections as long as is said and returns what one request cost.
func (m *measurement) load(ctx context.Context, t target, c int, long time.Duration) (cost, error) {
	before, err := cpuTime(t.pid)
	if err != nil {
		return cost{}, err
	}
	began := time.Now()
	var n atomic.Int64
	failures := make(chan error, c)
	var wg sync.WaitGroup
	for range c {
		wg.Go(func() {
			for time.Since(began) < long {
				if _, err := m.get(ctx, t.url, true, io.Discard); err != nil {
					failures <- err
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	wall := time.Since(began)
	select {
	case err := <-failures:
		return cost{}, fmt.Errorf("%s with %d scrapers: %w", t.name, c, err)
	default:
	}
	after, err := cpuTime(t.pid)
	return cost{wall / time.Duration(n.Load()), (after - before) / time.Duration(n.Load())}, err
}

// scrape gets a page and returns how long that took, and the page if it is to be kept.
func (m *measurement) scrape(ctx context.Context, gzip, keep bool) (time.Duration, []byte, error) {
	var body bytes.Buffer
	var to io.Writer = io.Discard
	if keep {
		to = &body
	}
	began := time.Now()
	_, err := m.get(ctx, m.url, gzip, to)
	return time.Since(began), body.Bytes(), err
}

func (m *measurement) get(ctx context.Context, url string, gzip bool, to io.Writer) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return 0, err
	}
	if gzip {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", strconv.Itoa(int(scrapeTimeout.Seconds())))
	resp, err := m.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(to, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	if got := resp.Header.Get("Content-Encoding"); err == nil && gzip != (got == "gzip") {
		err = fmt.Errorf("%s: Content-Encoding %q", url, got)
	}
	return n, err
}

// samples counts the samples of a gzip-compressed page whose pods have a node: those of a complete page.
func samples(page []byte) (n int, _ error) {
	z, err := gzip.NewReader(bytes.NewReader(page))
	if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if bytes.HasPrefix(lines.Bytes(), []byte("kube_metrics_server_")) && !bytes.Contains(lines.Bytes(), []byte(`{node=""`)) {
			n++
		}
	}
	return n, lines.Err()
}

// cpuTime returns the CPU time of a process so far, in steps of 10 ms: fields 14 and 15 of /proc/PID/stat, see
// proc_pid_stat(5).
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in parentheses and may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat cannot be read: %q", pid, stat)
	}
	user, err1 := strconv.ParseInt(string(fields[11]), 10, 64)
	system, err2 := strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+system) * time.Second / tickPerSecond, errors.Join(err1, err2)
}

// peakRSS returns the largest resident memory that a process has had, in bytes: VmHWM of /proc/PID/status.
func peakRSS(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no VmHWM", pid)
}

// startStatic runs this program as a static server of a gzip-compressed page.
func startStatic(mode, path string) (t target, stop func(), _ error) {
	self, err := os.Executable()
	if err != nil {
		return t, nil, err
	}
	cmd := exec.Command(self, staticCommand, mode, path)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		return t, nil, fmt.Errorf("static server: %w", err)
	}
	stop = func() {
		in.Close()     // its end of the pipe ends the server
		_ = cmd.Wait() // there is nothing to learn from how
	}
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return t, nil, fmt.Errorf("static server: %w", err)
	}
	return target{mode, strings.TrimSpace(url), cmd.Process.Pid}, stop, nil
}

// serveStatic is the static server: it prints its URL and serves until its standard input ends, which it does at
// the latest with the process that started it.
func serveStatic(mode, path string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s/metrics\n", l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		w.Header().Set("Content-Encoding", "gzip")
		// net/http leaves the length of encoded content away; without it the kernel could not send the file.
		w.Header().Set("Content-Length", strconv.Itoa(len(page)))
		if mode == staticFile {
			http.ServeFile(w, r, path)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(page))
	}))
}

func (r *report) print(to io.Writer, o options) {
	fmt.Fprintf(to, "\nSIMULATED cluster: %d nodes, %d pods, %d containers each, new values every %s; seed %d, churn %g/s\n",
		o.nodes, o.pods, o.containers, o.resolution, o.seed, o.churn)
	fmt.Fprintf(to, "Machine: %s\n\n", machine())
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	row("samples on a page", "%d", r.samples)
	row("page, gzip / identity", "%s / %s", size(r.gzipBytes), size(r.plainBytes))
	row("start of the process to the first complete page", "%s", short(r.firstPage))
	row(fmt.Sprintf("peak RSS over %d refreshes with a scrape each", refreshes), "%s", size(r.peakRSS))
	row("peak RSS over the whole run", "%s", size(r.finalRSS))
	row("CPU per refresh, probes included, median", "%s", short(median(r.refreshCPU)))
	row("full lists of pods' usage per tick of the source", "%.2f", r.listsPerTick)
	row("first scrape of a snapshot, gzip, median / max", "%s / %s", short(median(r.freshScrapes)), short(slices.Max(r.freshScrapes)))
	row("scrape of an unchanged snapshot, gzip, median / p95", "%s / %s", short(median(r.gzipScrapes)), short(quantile(r.gzipScrapes, 0.95)))
	row("scrape of an unchanged snapshot, identity, median / p95", "%s / %s", short(median(r.plainScrapes)), short(quantile(r.plainScrapes, 0.95)))
	names := map[string]string{staticFile: "static file (sendfile)", staticMemory: "static bytes in memory"}
	for _, c := range concurrencies {
		for _, static := range []string{staticFile, staticMemory} {
			x := r.comparison[c][static]
			row(fmt.Sprintf("exporter / %s, %d scrapers, wall, CPU", names[static], c), "%.2fx, %.2fx", median(x.wall), median(x.cpu))
		}
	}
	row("size of the exporter's binary", "%s", size(r.exporterBytes))
	w.Flush() // what it writes to is the terminal
	if r.discarded > 0 {
		fmt.Fprintf(to, "(%d rounds of the comparison were repeated: a refresh fell into them)\n", r.discarded)
	}
}

// machine describes what this runs on.
func machine() string {
	model := "unknown CPU"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d cores, %s, %s/%s, %s", runtime.NumCPU(), model, runtime.GOOS, runtime.GOARCH, runtime.Version())
}

func median[T cmp.Ordered](values []T) T { return quantile(values, 0.5) }

// quantile returns the smallest of the values that the fraction q of all does not exceed; zero for none.
func quantile[T cmp.Ordered](values []T, q float64) (zero T) {
	if len(values) == 0 {
		return zero
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// size writes bytes in MiB, or KiB below one.
func size(bytes int64) string {
	if bytes < 1<<20 {
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}

// short rounds a duration to what it is worth.
func short(d time.Duration) time.Duration {
	for unit := time.Second; unit > time.Microsecond; unit /= 10 {
		if d >= unit {
			return d.Round(unit / 100)
		}
	}
	return d
}
