// Package faults breaks the cluster that an exporter reads in each way of one table, and compares what the exporter
// says meanwhile and afterwards with what an independent checker has seen of the API. A fault is a row of the table.
package faults

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
	"metrics-server-prom/e2e/receiver"
)

const (
	// interval is the exporter's --refresh-interval, and the resolution of the metrics source: short, so that faults
	// need not last long, and the same, as by default.
	interval = 5 * time.Second
	// behind is how old the values of a page may be while all works: the interval, the slack of a known period, the time
	// from a probe to the page, and what a busy machine takes.
	behind = interval + 6*time.Second
	// recovery is how long after its cause is gone a fault may be felt: two intervals, and what a busy machine takes.
	recovery = 2*interval + 2*time.Second
	// notice is how soon the self metrics and /healthz have to report a fault.
	notice = interval + 2*time.Second
	// hangs is the same where there is no answer: the next attempt is 2 s later where a period is known, and is cut off
	// after 10 s.
	hangs = interval + 2*time.Second + 10*time.Second + 3*time.Second
)

// Harness is an exporter in front of a cluster that can be broken, and the checker of its pages.
type Harness struct {
	API      *standin.Server            // the cluster, where it is simulated
	Plane    *controlplane.ControlPlane // the cluster, where it is real
	Exporter *exporter.Exporter
	Receiver *receiver.Faulty // what the exporter pushes to; nil where it does not

	look     func(context.Context) (*check.Reading, error) // the API's state, past the fault
	history  *history
	checker  *checker
	cancel   context.CancelFunc
	running  sync.WaitGroup
	looking  sync.Mutex
	changing sync.Mutex
	clock    clock
	closers  []func()
	dir      string
	config   string // the exporter's kubeconfig
	plain    []byte // its content where the exporter has a token, in a simulated cluster

	cluster    string     // its name where there are others beside it
	neighbours []*checker // of these

	namespaces []string                    // that the exporter serves; none: all
	mend       func(context.Context) error // of a fault that existed before the exporter

	other  *standin.Server // a second cluster, as long as the exporter is told to read that
	token  string          // file with the exporter's token, in a real cluster
	pair   string          // or folder with its certificate and key
	ends   time.Time       // when that certificate does
	slow   time.Duration   // resolution of a source that is slower than the refresh interval
	before uint64          // a count of requests before the fault

	pushToken      string    // file with the token that the exporter pushes with
	caused, mended time.Time // when a fault of the receiver began, and when its cause was taken away
	refused        bool      // the receiver has refused samples for good
}

// Options of a harness.
type Options struct {
	Pods       int           // default 40
	MaxAge     time.Duration // default 5 minutes, as the exporter's
	Resolution time.Duration // of a simulated source, and the exporter's --refresh-interval; default 5 s
	Namespaces []string      // the exporter's --namespaces
	Env        []string
	Args       []string
	// Plugin gives the exporter its token by an exec plugin.
	Plugin bool
	// Before, if not nil, is caused before the exporter is started, which must then not be healthy.
	Before *Fault
	// Push makes the exporter push to a receiver, every 5 s.
	Push bool
	// Unchecked leaves the checking of pages to the caller.
	Unchecked bool
	// Neighbours are other clusters that the exporter reads, to which nothing is done.
	Neighbours []*Neighbour
}

// For is the options of a harness for a fault.
func For(f Fault) Options {
	o := Options{MaxAge: f.MaxAge, Namespaces: f.Namespaces, Plugin: f.Plugin, Push: f.Push}
	if f.FromStart {
		o.Before = &f
	}
	return o
}

func (o *Options) setDefaults() {
	if o.Pods == 0 {
		o.Pods = 40
	}
	if o.MaxAge == 0 {
		o.MaxAge = 5 * time.Minute
	}
	if o.Resolution == 0 {
		o.Resolution = interval
	}
}

// Simulated starts a harness with a simulated cluster and returns when the exporter's pages are complete and right.
func Simulated(ctx context.Context, o Options) (*Harness, error) {
	o.setDefaults()
	h := &Harness{namespaces: o.Namespaces}
	server, err := standin.New(standin.Options{Pods: o.Pods, Resolution: o.Resolution, Seed: 7, Now: h.clock.now,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	h.API, h.closers = server, []func(){server.Close}
	h.look = func(context.Context) (*check.Reading, error) { return h.simulated(), nil }
	text, err := server.Kubeconfig()
	if err != nil {
		return nil, err
	}
	return h, h.start(ctx, o, text)
}

// start starts the exporter and the checker.
func (h *Harness) start(ctx context.Context, o Options, kubeconfig []byte) (err error) {
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	if h.dir == "" {
		if h.dir, err = os.MkdirTemp("", "metrics-server-prom-e2e-faults-"); err != nil {
			return err
		}
	}
	h.closers = append(h.closers, func() { os.RemoveAll(h.dir) })
	h.config = filepath.Join(h.dir, "kubeconfig")
	if h.plain = kubeconfig; o.Plugin {
		if kubeconfig, err = h.withPlugin(kubeconfig); err != nil {
			return err
		}
	}
	if len(o.Neighbours) > 0 {
		h.cluster = "broken"
		if kubeconfig, err = withNeighbours(kubeconfig, h.cluster, o.Neighbours); err != nil {
			return err
		}
		o.Args = append(o.Args, "--context=*")
	}
	if err := os.WriteFile(h.config, kubeconfig, 0o600); err != nil {
		return err
	}
	h.history = newHistory(o.MaxAge + time.Minute)
	running, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	if err := h.Look(ctx); err != nil {
		return err
	}
	h.running.Go(func() {
		pause := 50 * time.Millisecond
		if h.Plane != nil {
			pause = 300 * time.Millisecond
		}
		for tick := time.NewTicker(pause); ; {
			select {
			case <-tick.C:
				_ = h.Look(running) // while a part of a real cluster is down, nothing in it changes
			case <-running.Done():
				tick.Stop()
				return
			}
		}
	})
	if o.Before != nil {
		if h.mend, err = o.Before.Cause(ctx, h); err != nil {
			return err
		}
	}
	args := []string{"--kubeconfig=" + h.config, "--refresh-interval=" + o.Resolution.String(),
		"--max-age=" + o.MaxAge.String(),
		"--pod-labels=team", "--namespaces=" + strings.Join(o.Namespaces, ",")}
	if o.Push {
		push, err := h.startReceiver()
		if err != nil {
			return err
		}
		args = append(args, push...)
	}
	if h.Exporter, err = exporter.Start(ctx, exporter.Options{Args: append(args, o.Args...), Env: o.Env}); err != nil {
		return err
	}
	h.closers = append(h.closers, h.Exporter.Close)
	h.checker = &checker{exporter: h.Exporter, history: h.history, maxAge: o.MaxAge, cluster: h.cluster,
		served:  map[owner]time.Time{},
		allowed: leniency{values: behind + h.slow, labels: behind + h.slow}}
	h.running.Go(func() { h.guardMachine(running) })
	if o.Before != nil {
		h.checker.allow(leniency{refuse: true, lose: true, values: behind, labels: behind})
	} else if err := h.awaitStart(ctx); err != nil {
		return err
	}
	for _, n := range o.Neighbours {
		c, err := h.checkNeighbour(ctx, n, o.MaxAge)
		if err != nil {
			return err
		}
		h.neighbours = append(h.neighbours, c)
		h.running.Go(func() { c.run(running) })
	}
	if !o.Unchecked {
		h.running.Go(func() { h.checker.run(running) })
	}
	return nil
}

// guardMachine ends an exporter that uses far more memory than any fault allows, before it uses all of the machine's.
func (h *Harness) guardMachine(ctx context.Context) {
	const most = 1 << 30
	_ = process.Await(ctx, 100*time.Millisecond, func(context.Context) error {
		memory, err := h.Exporter.Memory()
		if err != nil || memory.Now < most {
			return errors.New("it has less")
		}
		h.checker.mu.Lock()
		defer h.checker.mu.Unlock()
		h.checker.blame(time.Now(), fmt.Sprintf("the exporter has %d MiB of memory and is killed", memory.Now>>20))
		h.Exporter.Kill()
		return nil
	})
}

// awaitStart returns when all is right for the first time.
func (h *Harness) awaitStart(ctx context.Context) error {
	if err := h.Exporter.AwaitReady(ctx); err != nil {
		return err
	}
	if err := h.awaitHealth(ctx, Expect{}); err != nil || h.Receiver == nil {
		return err
	}
	return await(ctx, h.delivered)
}

// Close ends everything.
func (h *Harness) Close() {
	if h.cancel != nil {
		h.cancel()
	}
	h.running.Wait()
	for i := len(h.closers) - 1; i >= 0; i-- {
		h.closers[i]()
	}
}

// clock is the simulated cluster's, which can be stopped.
type clock struct {
	mu      sync.Mutex
	stopped time.Time // zero where it runs
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped.IsZero() {
		return c.stopped
	}
	return time.Now()
}

func (c *clock) set(stopped time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = stopped
}

// Change changes the simulated cluster, looks at it before and after, and lets no new usage come between, which the
// exporter might see and the checker not.
func (h *Harness) Change(ctx context.Context, f func() error) error {
	h.changing.Lock()
	defer h.changing.Unlock()
	h.clock.set(time.Now())
	defer h.clock.set(time.Time{})
	return errors.Join(h.Look(ctx), f(), h.Look(ctx))
}

// Look records what the API says now.
func (h *Harness) Look(ctx context.Context) error {
	h.looking.Lock()
	defer h.looking.Unlock()
	began := time.Now()
	reading, err := h.look(ctx)
	if err != nil {
		return err
	}
	h.history.record(stateOf(reading), began, time.Now())
	return nil
}

// simulated reads the simulated cluster itself, not its API, which may lie, and adds those lies that are true for a
// client.
func (h *Harness) simulated() *check.Reading {
	if h.other != nil {
		return simulated(h.other)
	}
	r := simulated(h.API)
	if len(h.namespaces) > 0 {
		unserved := func(namespace string) bool { return !slices.Contains(h.namespaces, namespace) }
		r.Pods = slices.DeleteFunc(r.Pods, func(m metricsv1beta1.PodMetrics) bool { return unserved(m.Namespace) })
		maps.DeleteFunc(r.Metadata, func(_ string, p *corev1.Pod) bool { return unserved(p.Namespace) })
	}
	return r
}

// simulated is that of one cluster.
func simulated(api *standin.Server) *check.Reading {
	// The usage first: a pod that has come in between has none yet, as with the real one.
	podUsage, nodeUsage, pods, lies := api.PodUsage(), api.NodeUsage(), api.Pods(), api.Behavior()
	r := &check.Reading{Metadata: make(map[string]*corev1.Pod, len(pods))}
	for _, p := range pods {
		r.Metadata[p.Namespace+"/"+p.Name] = &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name,
				CreationTimestamp: metav1.NewTime(p.Created)},
			Spec: corev1.PodSpec{NodeName: p.Node}, Status: corev1.PodStatus{PodIP: p.IP},
		}
	}
	omitted := func(namespace, name string) bool { return lies.OmitUsage != nil && lies.OmitUsage(namespace, name) }
	window := func(d time.Duration) metav1.Duration {
		if lies.Window != nil {
			d = *lies.Window
		}
		return metav1.Duration{Duration: d}
	}
	for _, u := range podUsage {
		if omitted(u.Namespace, u.Name) {
			continue
		}
		m := metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Namespace: u.Namespace, Name: u.Name},
			Timestamp: metav1.NewTime(u.Timestamp.Add(lies.Skew(u.Namespace, u.Name))), Window: window(u.Window)}
		for _, c := range u.Containers {
			m.Containers = append(m.Containers,
				metricsv1beta1.ContainerMetrics{Name: c.Name, Usage: quantities(c.CPU, c.Memory)})
		}
		r.Pods = append(r.Pods, m)
	}
	for _, u := range nodeUsage {
		if !omitted("", u.Name) {
			r.Nodes = append(r.Nodes, metricsv1beta1.NodeMetrics{ObjectMeta: metav1.ObjectMeta{Name: u.Name},
				Timestamp: metav1.NewTime(u.Timestamp.Add(lies.Skew("", u.Name))), Window: window(u.Window),
				Usage: quantities(u.CPU, u.Memory)})
		}
	}
	return r
}

// quantities are those of the two quantities that are a valid usage.
func quantities(cpu, memory string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for name, text := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
		if slices.Contains(notUsage, text) {
			continue
		}
		list[name] = resource.MustParse(text)
	}
	return list
}

// awaitHealth returns when the self metrics and /healthz say what is expected.
func (h *Harness) awaitHealth(ctx context.Context, want Expect) error {
	return await(ctx, func(ctx context.Context) error { return h.health(ctx, want) })
}

// source is what is refreshed by itself: a resource or, with --namespaces, that of one namespace.
type source struct{ resource, namespace string }

func (s source) String() string { return strings.TrimSuffix(s.resource+"/"+s.namespace, "/") }

func (h *Harness) sources() []source {
	all := []source{{"nodes", ""}}
	for _, namespace := range h.namespaces {
		all = append(all, source{"pods", namespace})
	}
	if len(h.namespaces) == 0 {
		all = append(all, source{"pods", ""})
	}
	return all
}

// health compares the self metrics and /healthz with what is expected.
func (h *Harness) health(ctx context.Context, want Expect) error {
	status, body, err := h.Exporter.Get(ctx, "/healthz")
	if err != nil {
		return err
	}
	if want.Says == "" && status != 200 || want.Says != "" && (status != 503 || !strings.Contains(body, want.Says)) {
		return fmt.Errorf("/healthz answers %d %q, to be seen is %q", status, body, want.Says)
	}
	if want.Notice != nil && !want.Notice.MatchString(body) {
		return fmt.Errorf("/healthz answers %d %q, which does not say %q", status, body, want.Notice)
	}
	page, err := h.Exporter.Fetch(ctx)
	if want.Refused {
		if page == nil || page.Status != 503 {
			return fmt.Errorf("a page where there must be none: %w", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if err := page.Parse(); err != nil {
		return err
	}
	if h.cluster != "" {
		page = page.Of(h.cluster)
	}
	for _, s := range h.sources() {
		labels := map[string]string{"resource": s.resource}
		if s.namespace != "" {
			labels["namespace"] = s.namespace
		}
		up, series := page.Sum("metrics_server_prom_up", labels)
		down := slices.ContainsFunc(strings.Fields(want.Down),
			func(d string) bool { return d == s.resource || d == s.String() })
		if series != 1 || (up == 1) == down {
			return fmt.Errorf("metrics_server_prom_up of %s is %v in %d series, down must be %q", s, up, series,
				want.Down)
		}
	}
	if want.Page != nil {
		return want.Page(h, page)
	}
	return nil
}

// await asks every 50 ms.
func await(ctx context.Context, ready func(context.Context) error) error {
	return process.Await(ctx, 50*time.Millisecond, ready)
}

// within bounds a wait.
func within(ctx context.Context, limit time.Duration, what string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s: %s", limit, what))
	defer cancel()
	return ready(ctx)
}

// alive fails when the exporter has ended; nothing restarts it.
func (h *Harness) alive() error {
	select {
	case <-h.Exporter.Done():
		return fmt.Errorf("the exporter has ended with code %d:\n%s", h.Exporter.ExitCode(),
			process.Tail(h.Exporter.Log(), 30))
	default:
	}
	if strings.Contains(h.Exporter.Log(), "panic") {
		return errors.New("the log reports a panic")
	}
	return nil
}

// Churn changes a simulated cluster this many times a second until ctx ends.
func (h *Harness) Churn(ctx context.Context, perSecond int) {
	for tick := time.NewTicker(time.Second / time.Duration(perSecond)); ; {
		select {
		case <-tick.C:
			h.change(ctx, 1)
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}
