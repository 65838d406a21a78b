// Command measure holds the exporter against its goals on a real control plane with a large cluster, prints what it
// measured, and ends with exit code 1 if a goal was missed:
//
//	go -C e2e run ./measure
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

var (
	nodes      = flag.Int("nodes", 100, "nodes of the cluster")
	pods       = flag.Int("pods", 10_000, "pods of the cluster; KWOK and metrics-server manage up to about 20,000 on two cores")
	containers = flag.Int("containers", 2, "containers of each pod")
	starts     = flag.Int("starts", 5, "starts of the exporter, of whose times the medians count")
	scrapes    = flag.Int("scrapes", 1000, "scrapes of an unchanged page")
	ticks      = flag.Int("ticks", 12, "readings of metrics-server over which the age added is measured")
)

// The account that deploy/kubernetes makes for the exporter.
const namespace, account = "metrics-server-prom", "metrics-server-prom"

// result is one row of the table that is printed at the end.
type result struct {
	what, goal, measured string
	reached              bool
}

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	reached, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil || !reached {
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) (reached bool, err error) {
	m, err := newMeasurement(ctx)
	if err != nil {
		return false, err
	}
	defer m.plane.Stop()

	var results []result
	for _, part := range []func(context.Context) ([]result, error){m.start, m.scrape, m.age} {
		rows, err := part(ctx)
		if err != nil {
			return false, fmt.Errorf("%w\n%s", err, m.plane.Logs(10))
		}
		results = append(results, rows...)
	}

	reached = true
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\n%d nodes, %d pods, %d containers, metrics-server every %s\n\nwhat\tgoal\tmeasured\t\n", *nodes, *pods, *pods**containers, m.plane.MetricResolution())
	for _, row := range results {
		verdict := "reached"
		if !row.reached {
			verdict, reached = "MISSED", false
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", row.what, row.goal, row.measured, verdict)
	}
	return reached, table.Flush()
}

// measurement is a control plane with the cluster that is measured on.
type measurement struct {
	plane      *controlplane.ControlPlane
	kubeconfig string
	samples    int // of a complete page
}

// newMeasurement starts the control plane and creates the cluster.
func newMeasurement(ctx context.Context) (*measurement, error) {
	if _, err := exporter.Binary(); err != nil {
		return nil, err
	}
	plane, err := controlplane.Start(ctx, controlplane.Options{})
	if err != nil {
		return nil, err
	}
	m := &measurement{plane: plane, samples: 2**nodes + 2**pods**containers}
	if err := m.populate(ctx); err != nil {
		err = fmt.Errorf("%w\n%s", err, plane.Logs(10))
		plane.Stop()
		return nil, err
	}
	return m, nil
}

func (m *measurement) populate(ctx context.Context) error {
	root, err := controlplane.ModuleDir()
	if err != nil {
		return err
	}
	kubernetes := filepath.Join(root, "..", "deploy", "kubernetes")
	component := filepath.Join(kubernetes, "components", "namespace")
	if _, err := m.plane.ApplyManifests(ctx, component, kubernetes); err != nil {
		return err
	}
	token, err := m.plane.Token(ctx, namespace, account)
	if err != nil {
		return err
	}
	if m.kubeconfig, err = m.plane.Kubeconfig(controlplane.Credentials{Token: token}); err != nil {
		return err
	}

	begin := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, errors.New("the cluster was not there within 10 minutes; is the machine busy with other things?"))
	defer cancel()
	if err := m.plane.CreateNodes(ctx, *nodes); err != nil {
		return err
	}
	cluster := make([]controlplane.Pod, *pods)
	for i := range cluster {
		cluster[i] = pod(i)
	}
	for i := range min(*pods, namespaces) {
		if err := m.plane.CreateNamespaces(ctx, "", cluster[i].Namespace); err != nil {
			return err
		}
	}
	if err := m.plane.CreatePods(ctx, cluster...); err != nil {
		return err
	}
	progress("created %d nodes and %d pods in %s", *nodes, *pods, since(begin))
	begin = time.Now()
	if err := m.plane.AwaitUsage(ctx); err != nil {
		return err
	}
	progress("the metrics API has all usage after %s more", since(begin))
	return nil
}

// namespaces is how many the pods are spread over.
const namespaces = 20

// pod is the cluster's pod number i: names, labels and usage as a Deployment's pods have them, each container's usage
// unlike the others'.
func pod(i int) controlplane.Pod {
	app := fmt.Sprintf("service-%d", i%100)
	pod := controlplane.Pod{
		Namespace: fmt.Sprintf("team-%d", i%namespaces), Name: fmt.Sprintf("%s-5d8f7c9b6d-%05d", app, i), Node: fmt.Sprintf("node-%d", i%*nodes),
		Labels: map[string]string{"app.kubernetes.io/name": app, "app.kubernetes.io/part-of": "shop", "pod-template-hash": "5d8f7c9b6d"},
	}
	for c := range *containers {
		pod.Containers = append(pod.Containers, controlplane.Container{
			Name: fmt.Sprintf("container-%d", c), CPU: fmt.Sprintf("%dm", 1+(i*7+c*13)%900), Memory: fmt.Sprintf("%dKi", 10_000+i*5+c),
		})
	}
	return pod
}

// launch starts the exporter with the deployed account's rights and returns its first complete page.
func (m *measurement) launch(ctx context.Context, args ...string) (*exporter.Exporter, *exporter.Page, error) {
	e, err := exporter.Launch(exporter.Options{Args: append([]string{"--kubeconfig=" + m.kubeconfig}, args...)})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("no complete page within a minute"))
	defer cancel()
	var page *exporter.Page
	err = process.Await(ctx, 2*time.Millisecond, func(ctx context.Context) (err error) {
		page, err = e.Fetch(ctx)
		return err
	})
	if err != nil {
		err = fmt.Errorf("%w\nend of the exporter's log:\n%s", err, process.Tail(e.Log(), 10))
		e.Close()
		return nil, nil, err
	}
	return e, page, nil
}

// complete is an error for a page that has not a sample of each container and node.
func (m *measurement) complete(page *exporter.Page) error {
	if err := page.Parse(); err != nil {
		return err
	}
	if got := len(check.Served(page)); got != m.samples {
		return fmt.Errorf("the page has %d samples, the cluster has %d", got, m.samples)
	}
	return nil
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, "measure: "+format+"\n", args...) }

func since(begin time.Time) time.Duration { return time.Since(begin).Round(10 * time.Millisecond) }
