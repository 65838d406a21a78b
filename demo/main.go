// Command demo shows the exporter at work without a cluster: it starts a stand-in Kubernetes API server with a
// SIMULATED cluster (package standin), builds the exporter, unchanged, and runs it against that.
//
//	go run ./demo                                   # 30 pods that come and go, http://localhost:9100/metrics
//	go run ./demo --nodes 300 --pods 10000          # a larger cluster
//	go run ./demo --clusters 3                      # several of them, see README
//	go run ./demo -- --pod-labels team              # what follows -- goes to the exporter
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"metrics-server-prom/demo/standin"
)

// module is the package of the exporter.
const module = "metrics-server-prom"

// stopTimeout is how long the exporter may take to end; it promises 5 seconds.
const stopTimeout = 10 * time.Second

type options struct {
	clusters                int
	nodes, pods, containers int
	resolution              time.Duration
	seed                    uint64
	churn                   float64
	listen                  string
	exporter                string
	exporterArgs            []string
}

func main() {
	o, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("demo", flag.ContinueOnError)
	f.IntVar(&o.clusters, "clusters", 1, "simulated clusters, each with these nodes and pods")
	f.IntVar(&o.nodes, "nodes", 3, "nodes of the simulated cluster")
	f.IntVar(&o.pods, "pods", 30, "pods of the simulated cluster")
	f.IntVar(&o.containers, "containers", 2, "containers per pod")
	f.DurationVar(&o.resolution, "resolution", 15*time.Second, "how often the simulated metrics-server has new values")
	f.Uint64Var(&o.seed, "seed", 1, "what is simulated: the same seed gives the same cluster")
	f.Float64Var(&o.churn, "churn", 0.2, "changes of pods per second")
	f.StringVar(&o.listen, "listen", ":9100", "address of the exporter")
	f.StringVar(&o.exporter, "exporter", "", "exporter to run; it is built from this module if not given")
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "usage: go run ./demo [flags] [-- flags of the exporter]\n\n"+
			"Runs the exporter against a SIMULATED cluster.")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.exporterArgs = f.Args()
	if o.clusters < 1 || o.nodes < 1 || o.pods < 0 || o.containers < 1 || o.resolution < time.Millisecond || o.churn < 0 {
		return o, fmt.Errorf("--clusters %d --nodes %d --pods %d --containers %d --resolution %s --churn %g: at least one "+
			"cluster, node and container, no negative number, a resolution of 1ms or more", o.clusters, o.nodes, o.pods,
			o.containers, o.resolution, o.churn)
	}
	return o, nil
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "metrics-server-prom-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	kubeconfigs := filepath.Join(dir, "kubeconfigs")
	if err := os.Mkdir(kubeconfigs, 0o700); err != nil {
		return err
	}
	var one string // the kubeconfig of the first cluster
	for i := range o.clusters {
		server, err := standin.New(standin.Options{Nodes: o.nodes, Pods: o.pods, Containers: o.containers,
			Resolution: o.resolution, Seed: o.seed + uint64(i)})
		if err != nil {
			return err
		}
		defer server.Close()
		kubeconfig, err := server.Kubeconfig()
		if err != nil {
			return err
		}
		path := filepath.Join(kubeconfigs, fmt.Sprint("simulated-", i+1))
		if err := os.WriteFile(path, kubeconfig, 0o600); err != nil {
			return err
		}
		one = cmp.Or(one, path)
		go server.Churn(ctx, o.churn)
	}
	if o.exporter == "" {
		o.exporter = filepath.Join(dir, module)
		if err := build(ctx, o.exporter); err != nil {
			return err
		}
	}
	args := []string{"--kubeconfig", one, "--context", "simulated"}
	what := "a SIMULATED cluster"
	if o.clusters > 1 {
		args = []string{"--kubeconfig", kubeconfigs}
		what = fmt.Sprintf("%d SIMULATED clusters, each", o.clusters)
	}
	args = append(args, "--web.listen-address", o.listen, "--pages", "cadvisor,kube-state-metrics")
	e, err := startExporter(o.exporter, append(args, o.exporterArgs...))
	if err != nil {
		return err
	}
	defer e.stop()
	url := "http://" + browsable(o.listen)
	if err := e.awaitReady(ctx, url); err != nil {
		return err
	}
	fmt.Printf(`
The exporter is running against %s of %d nodes and %d pods: nothing it shows was ever measured.

  %s/                              its state
  %s/metrics                       what Prometheus scrapes
  %s/metrics/cadvisor              the names that dashboards know: usage,
  %s/metrics/kube-state-metrics    and what it belongs to

  curl -s %s/metrics | grep '^kube_metrics_server_pod_cpu' | head

  KUBECONFIG=%s    reaches the simulated API server while this runs

Ctrl-C ends it.
`, what, o.nodes, o.pods, url, url, url, url, url, one)
	select {
	case <-ctx.Done():
		return e.stop()
	case <-e.done:
		return fmt.Errorf("the exporter ended by itself: %w", e.err)
	}
}

// build builds the exporter as the Dockerfile does, less the stamp of its version.
func build(ctx context.Context, path string) error {
	fmt.Fprintln(os.Stderr, "demo: building the exporter")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building the exporter: %w (run this in the module's directory, or give --exporter)", err)
	}
	return nil
}

// exporter is the exporter's process.
type exporter struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended, once done is closed
}

func startExporter(path string, args []string) (*exporter, error) {
	e := &exporter{cmd: exec.Command(path, args...), done: make(chan struct{})}
	e.cmd.Stdout, e.cmd.Stderr = os.Stderr, os.Stderr
	if err := e.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the exporter: %w", err)
	}
	go func() {
		e.err = e.cmd.Wait()
		if e.err == nil {
			e.err = errors.New("exit status 0")
		}
		close(e.done)
	}()
	return e, nil
}

// stop ends the exporter by SIGTERM, or by SIGKILL if it does not obey. It may be called again.
func (e *exporter) stop() error {
	select {
	case <-e.done:
		return nil
	default:
	}
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping the exporter: %w", err)
	}
	select {
	case <-e.done:
	case <-time.After(stopTimeout):
		_ = e.cmd.Process.Kill() // it may have ended just now
		<-e.done
		return fmt.Errorf("the exporter did not end within %s of SIGTERM and was killed", stopTimeout)
	}
	if code := e.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("the exporter ended with code %d", code)
	}
	return nil
}

// awaitReady waits until the exporter has its first snapshot.
func (e *exporter) awaitReady(ctx context.Context, url string) error {
	for {
		if resp, err := http.Get(url + "/-/ready"); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body) // only the status counts
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.done:
			return fmt.Errorf("the exporter ended before it was ready: %w", e.err)
		case <-time.After(50 * time.Millisecond): // its port opens without an event that could be awaited
		}
	}
}

// browsable turns an address to listen on into one to connect to.
func browsable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}
