// Package controlplane runs a real Kubernetes control plane on loopback, without containers: etcd, kube-apiserver
// (RBAC, aggregation, Pod Security) and metrics-server. In place of kubelets KWOK makes nodes ready and pods run, which
// are entries in the API and nothing else, and the package kubelet reports the usage that a test gave them. Everything
// lives in a temporary folder and is gone at the end.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"

	"metrics-server-prom/e2e/kubelet"
	"metrics-server-prom/e2e/process"
)

// Options of a control plane; the zero value is the usual one.
type Options struct {
	// MetricResolution is metrics-server's interval between its readings; 0: the 15 s of its shipped manifests. At
	// least 10 s.
	MetricResolution time.Duration
	// Replicas is how many metrics-servers there are beside the usual one, see Route. Each reads a third of a resolution
	// after the one before.
	Replicas int
	// Housekeeping makes the kubelets read each container at moments of its own, see kubelet.New.
	Housekeeping bool
}

// ControlPlane is a running control plane.
type ControlPlane struct {
	Admin   *kubernetes.Clientset    // as system:masters, without client-side rate limit
	Metrics *metricsclient.Clientset // the same for metrics.k8s.io

	Etcd, APIServer, KWOK, MetricsServer *Component
	Replicas                             []*Component // of MetricsServer

	Kubelet *kubelet.Kubelet // of all nodes

	options Options
	dir     string
	ca      *authority
	config  *rest.Config // of Admin
	ports   struct {
		etcd, etcdPeer, apiServer, kwok, kubelet, metricsServer int

		metricsAPI int // what the APIService names
		replicas   []int
	}
	replicas *replicas // nil without Replicas
	onStop   []func()

	filesMutex sync.Mutex
	files      int // kubeconfigs written
}

// Component is one of the programs. It keeps its port and its data over Kill and Start.
type Component struct {
	Name string

	program string // a name in tools
	plane   *ControlPlane
	args    []string
	ready   func(context.Context) error
	process *process.Process // nil before the first start
}

// readyWithin bounds the wait for any one component; it takes seconds on an idle machine.
const readyWithin = 2 * time.Minute

// Start starts a control plane, building what is missing first (20 minutes on a new machine, then seconds), and returns
// when every component is ready and the aggregator has found metrics-server. It has no nodes and no pods.
func Start(ctx context.Context, options Options) (*ControlPlane, error) {
	if options.MetricResolution == 0 {
		options.MetricResolution = 15 * time.Second
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kwok", "metrics-server"} {
		if _, err := Tool(name); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "metrics-server-prom-e2e-")
	if err != nil {
		return nil, err
	}
	c := &ControlPlane{dir: dir, options: options}
	if err := c.start(ctx); err != nil {
		err = fmt.Errorf("control plane: %w\n%s", err, c.Logs(20))
		c.Stop()
		return nil, err
	}
	return c, nil
}

func (c *ControlPlane) start(ctx context.Context) error {
	ports := []*int{&c.ports.etcd, &c.ports.etcdPeer, &c.ports.apiServer, &c.ports.kwok, &c.ports.kubelet,
		&c.ports.metricsServer, &c.ports.metricsAPI}
	c.ports.replicas = make([]int, c.options.Replicas)
	for i := range c.ports.replicas {
		ports = append(ports, &c.ports.replicas[i])
	}
	for _, port := range ports {
		var err error
		if *port, err = process.FreePort(); err != nil {
			return err
		}
	}
	if c.options.Replicas == 0 {
		c.ports.metricsAPI = c.ports.metricsServer
	}
	if err := c.writeCertificates(); err != nil {
		return err
	}
	if err := c.writeConfiguration(); err != nil {
		return err
	}
	if err := c.connect(); err != nil {
		return err
	}
	c.defineComponents()
	if err := c.Etcd.Start(ctx); err != nil {
		return err
	}
	if err := c.APIServer.Start(ctx); err != nil {
		return err
	}
	if err := c.InstallMetricsAPI(ctx); err != nil {
		return err
	}
	if err := c.startKubelet(); err != nil {
		return err
	}
	if c.options.Replicas > 0 {
		if err := c.serveReplicas(); err != nil {
			return err
		}
	}
	errs := make(chan error)
	go func() { errs <- c.KWOK.Start(ctx) }()
	go func() { errs <- c.MetricsServer.Start(ctx) }()
	if err := errors.Join(<-errs, <-errs); err != nil {
		return err
	}
	for _, replica := range c.Replicas {
		select {
		case <-time.After(c.options.MetricResolution / 3):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := replica.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// startKubelet lets the kubelets watch the pods and answer metrics-server, until the control plane stops.
func (c *ControlPlane) startKubelet() error {
	c.Kubelet = kubelet.New(c.options.Housekeeping)
	ctx, cancel := context.WithCancel(context.Background())
	c.onStop = append(c.onStop, cancel)
	go c.Kubelet.Run(ctx, c.Admin)
	return c.serveTLS(c.ports.kubelet, "kubelet", &http.Server{Handler: c.Kubelet,
		ErrorLog: log.New(io.Discard, "", 0)}) // a metrics-server that is killed is no news
}

// Stop kills everything and removes the folder. (A graceful stop would wait for the watches for a minute.)
func (c *ControlPlane) Stop() {
	for _, stop := range c.onStop {
		stop()
	}
	for _, component := range c.components() {
		component.Kill()
	}
	os.RemoveAll(c.dir)
}

// Logs is the end of every component's log.
func (c *ControlPlane) Logs(lines int) string {
	var text strings.Builder
	for _, component := range c.components() {
		if component.process != nil {
			fmt.Fprintf(&text, "--- %s\n%s\n", component.Name, process.Tail(component.process.Log(), lines))
		}
	}
	return text.String()
}

// URL is the API server's address.
func (c *ControlPlane) URL() string { return fmt.Sprintf("https://127.0.0.1:%d", c.ports.apiServer) }

// Config is a copy of the admin's client configuration.
func (c *ControlPlane) Config() *rest.Config { return rest.CopyConfig(c.config) }

// MetricResolution is the interval at which metrics-server has new values.
func (c *ControlPlane) MetricResolution() time.Duration { return c.options.MetricResolution }

func (c *ControlPlane) path(name string) string { return filepath.Join(c.dir, name) }

func (c *ControlPlane) components() []*Component {
	var all []*Component
	for _, component := range append(slices.Clone(c.Replicas), c.MetricsServer, c.KWOK, c.APIServer, c.Etcd) {
		if component != nil {
			all = append(all, component)
		}
	}
	return all
}

// Start starts the component, again after a Kill, and returns when it is ready.
func (c *Component) Start(ctx context.Context) error {
	path, err := Tool(c.program)
	if err != nil {
		return err
	}
	c.process, err = process.Start(process.Command{
		Name: c.Name,
		Path: path,
		Args: c.args,
		// No proxy settings, no HOME: nothing of the machine's gets in.
		// GOGC: thousands of pods are created; the memory is there, the CPU is wanted elsewhere.
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.plane.dir, "GOGC=400"},
		Log: c.plane.path(c.Name + ".log"),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("not ready within %s", readyWithin))
	defer cancel()
	return c.process.Await(ctx, c.ready)
}

// Kill ends the component at once, as kill -9 does, and returns when it is gone.
func (c *Component) Kill() {
	if c.process != nil {
		c.process.Kill()
	}
}

// Process is the running program, for signals and its log.
func (c *Component) Process() *process.Process { return c.process }
