// Command measure compares the exporter with its goals, prints what it measured, and ends with exit code 1 if a goal
// was missed. All load goes to this machine's loopback.
//
//	go -C e2e run ./measure                          # on a real control plane with 10,000 pods
//	go -C e2e run ./measure -simulated               # on simulated clusters of 100, 10,000 and 150,000 pods
//	go -C e2e run ./measure -simulated -pods 10000
//	go -C e2e run ./measure -simulated -pods 10000 -pages             # /metrics/cadvisor and /metrics/kube-state-metrics
//	go -C e2e run ./measure -simulated -pods 10000 -push              # pushing, against not; with -pages: all pages
//	go -C e2e run ./measure -simulated -pods 100000 -clusters 20      # memory against that with a single cluster
//	go -C e2e run ./measure -simulated -pods 10000 -baseline BINARY   # memory against that of another exporter
//
// The real one shows what is served and how soon, the simulated ones what that costs at sizes that this machine could
// not run otherwise. Ratios are taken in one run, in turns, so that whatever else the machine does hits both sides.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"k8s.io/client-go/rest"

	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

var (
	simulatedFlag = flag.Bool("simulated", false, "simulated clusters in place of a real control plane")
	podsFlag      = flag.Int("pods", 0, "pods of the cluster; by default 10000 or, simulated, 100, 10000 and 150000 "+
		"one after the other. KWOK and metrics-server manage up to about 20,000 on two cores")
	nodesFlag  = flag.Int("nodes", 0, "nodes of the cluster; by default 100 or, simulated, one for 30 pods")
	containers = flag.Int("containers", 2, "containers of each pod")
	starts     = flag.Int("starts", 5, "starts of the exporter, of whose times the medians count")
	scrapes    = flag.Int("scrapes", 1000, "scrapes of an unchanged page of a real cluster")
	ticks      = flag.Int("ticks", 12, "readings of a real metrics-server over which the age added is measured")
	pagesFlag  = flag.Bool("pages", false, "measure the extra pages of a simulated cluster, and not the first one")
	pushFlag   = flag.Bool("push", false, "measure what pushing costs an exporter of a simulated cluster, and nothing "+
		"else")
	clustersFlag = flag.Int("clusters", 0, "measure only an exporter of so many simulated clusters, which have the "+
		"pods in all, against one of a single cluster with as many")
	onceFlag     = flag.Bool("once", false, "measure only --once on a real control plane")
	baselineFlag = flag.String("baseline", "", "exporter built from another commit: its memory, without the extra pages, "+
		"is compared with this one's on a simulated cluster")
	exporterFlag = flag.String("exporter", "", "exporter to measure; it is built from this checkout if not given")
	scrapedFlag  = flag.Duration("scraped", 3*time.Minute, "how long the extra pages are scraped, every 15s, for their "+
		"memory")
	resolutionFlag = flag.Duration("resolution", 15*time.Second, "how often a simulated cluster has new values")
)

// result is one row of the table that is printed at the end. One without a goal is reached.
type result struct {
	what, goal, measured string
	reached              bool
}

// fact is a result without a goal.
func fact(what, format string, args ...any) result {
	return result{what, "", fmt.Sprintf(format, args...), true}
}

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	reached, err := run(ctx, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
	}
	if err != nil || !reached {
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (reached bool, err error) {
	if len(args) > 0 {
		return true, serveChild(args)
	}
	if (*pagesFlag || *pushFlag || *baselineFlag != "" || *clustersFlag > 0) && !*simulatedFlag {
		return false, errors.New("-pages, -push, -clusters and -baseline measure on simulated clusters: give -simulated too")
	}
	if _, err := exporterPath(); err != nil {
		return false, err
	}
	sizes := []int{10_000}
	if *simulatedFlag {
		sizes = []int{100, 10_000, 150_000}
	}
	if *podsFlag != 0 {
		sizes = []int{*podsFlag}
	}
	reached = true
	for _, pods := range sizes {
		measure, nodes := measureReal, 100
		if *simulatedFlag {
			measure, nodes = measureSimulated, max(3, pods/30)
		}
		nodes = cmp.Or(*nodesFlag, nodes)
		if *clustersFlag > 0 {
			measure, nodes = measureClusters, *clustersFlag
		}
		title, results, err := measure(ctx, nodes, pods)
		if err != nil {
			return false, err
		}
		ok, err := printTable(os.Stdout, title, results)
		if err != nil {
			return false, err
		}
		reached = reached && ok
	}
	return reached, nil
}

// exporterPath is the path of the exporter that is measured.
func exporterPath() (string, error) {
	if *exporterFlag != "" {
		return filepath.Abs(*exporterFlag)
	}
	return exporter.Binary()
}

func printTable(to io.Writer, title string, results []result) (reached bool, err error) {
	reached = true
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\n%s\n%s\n\nwhat\tgoal\tmeasured\t\n", title, machine())
	for _, row := range results {
		verdict := "reached"
		switch {
		case row.goal == "":
			verdict = ""
		case !row.reached:
			verdict, reached = "MISSED", false
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", row.what, row.goal, row.measured, verdict)
	}
	return reached, table.Flush()
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
	return fmt.Sprintf("%d cores, %s, %s/%s, %s", runtime.NumCPU(), model, runtime.GOOS, runtime.GOARCH,
		runtime.Version())
}

// cluster is what exporters are started for.
type cluster struct {
	config     *rest.Config // of somebody who may read all
	kubeconfig string       // the exporter's
	samples    int          // of a complete page
}

// launch starts an exporter and returns its first page, which must be complete, and how long that took from exec to the
// page's last byte.
func (c *cluster) launch(ctx context.Context, o exporter.Options) (*exporter.Exporter, *exporter.Page, time.Duration,
	error) {
	o.Args = append([]string{"--kubeconfig=" + c.kubeconfig}, o.Args...)
	if o.Path == "" {
		var err error
		if o.Path, err = exporterPath(); err != nil {
			return nil, nil, 0, err
		}
	}
	e, err := exporter.Launch(o)
	if err != nil {
		return nil, nil, 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("no page within 5 minutes"))
	defer cancel()
	var page *exporter.Page
	err = process.Await(ctx, 2*time.Millisecond, func(ctx context.Context) (err error) {
		page, err = e.Fetch(ctx)
		return err
	})
	took := time.Since(e.Started)
	if err == nil {
		err = c.complete(page)
	}
	if err != nil {
		err = fmt.Errorf("first page: %w\nend of the exporter's log:\n%s", err, process.Tail(e.Log(), 10))
		e.Close()
		return nil, nil, 0, err
	}
	return e, page, took, nil
}

// complete is an error for a page without a sample for each node and container, with its node.
func (c *cluster) complete(page *exporter.Page) error {
	text, err := page.Decompress()
	if err != nil {
		return err
	}
	if n := countSamples(text); n != c.samples {
		return fmt.Errorf("the page has %d complete samples, the cluster has %d", n, c.samples)
	}
	return nil
}

// countSamples counts the samples of a page whose node is known.
func countSamples(text string) (n int) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "kube_metrics_server_") && !strings.Contains(line, `{node=""`) {
			n++
		}
	}
	return n
}

// cgroupPeak is the row of the most memory that a cgroup has had; c is nil where there is none, for the reason why.
func cgroupPeak(c *process.Cgroup, why error, when string, goal int64) (result, error) {
	if c == nil {
		return fact("peak of the exporter's cgroup", "not available: %s", strings.ReplaceAll(why.Error(), "\n", "; ")),
			nil
	}
	peak, err := c.Peak()
	r := fact(fmt.Sprintf("peak of the exporter's cgroup (%s) %s", c.Kind, when), "%s", size(peak))
	if goal > 0 {
		r.goal, r.reached = fmt.Sprintf("≤ %d MiB", goal), peak <= goal<<20
	}
	return r, err
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, "measure: "+format+"\n", args...) }

func since(begin time.Time) time.Duration { return time.Since(begin).Round(10 * time.Millisecond) }

func median[T cmp.Ordered](values []T) T { return quantile(values, 0.5) }

// quantile is the smallest of the values that this share of them does not exceed; zero for none.
func quantile[T cmp.Ordered](values []T, share float64) (zero T) {
	if len(values) == 0 {
		return zero
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))]
}

// size writes bytes in MiB, or KiB below one.
func size(bytes int64) string {
	if bytes < 1<<20 {
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}

// short rounds a duration to the digits that mean something.
func short(d time.Duration) time.Duration {
	for unit := time.Second; unit > time.Microsecond; unit /= 10 {
		if d >= unit {
			return d.Round(unit / 100)
		}
	}
	return d
}
