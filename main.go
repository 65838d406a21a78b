// Command metrics-server-prom serves what Kubernetes' resource metrics API (metrics.k8s.io, usually metrics-server)
// knows of nodes and containers in Prometheus' text format.
//
// The data path: a watch keeps the pods' label text (cache.go); a background refresh reads the usage and joins it with
// that text into samples (cache.go), these become compressed bytes once (render.go); a scrape is answered with these
// bytes (below). A scrape never asks the API server for anything.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"metrics-server-prom/internal/credentials"
	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/heap"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/pages"
	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/scope"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/series"
	"metrics-server-prom/internal/serve"
	"metrics-server-prom/internal/setting"
	"metrics-server-prom/internal/top"
	"metrics-server-prom/internal/usage"
)

var version, revision = "dev", "unknown" // set by the linker, see Dockerfile

// settings is everything that can be set.
type settings struct {
	scope.Settings
	web  serve.Settings
	push push.Pusher
	log  kube.Log
}

func (s *settings) table() []setting.Row {
	return slices.Concat(s.Settings.Rows(cadvisor, kubeState), s.web.Rows(&s.Top), s.push.Rows(), s.log.Rows())
}

// check returns what contradicts what among settings that are valid each by itself.
func (s *settings) check() error {
	return cmp.Or(s.Settings.Check(), s.push.Check(labelsOf(s.Pages, s.PodLabels, s.push.Format, s.Several())))
}

func main() {
	credentials.Serve()
	set := &settings{}
	build := fmt.Sprintf("%s (revision %s, %s)", version, revision, runtime.Version())
	err := setting.Parse("metrics-server-prom", build, set.table(), os.Args[1:], os.Getenv)
	if err == nil {
		err = set.check()
	}
	if help := setting.Help(""); errors.As(err, &help) {
		fmt.Print(help)
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "metrics-server-prom:", err)
		os.Exit(2)
	}
	kube.SetLog(os.Stderr, set.log.Level, set.log.Format == "json")
	heap.Limit(len(set.Pages) > 0)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if set.push.JustOnce {
		set.Top = false
		if err := newServer(set).once(ctx, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "metrics-server-prom:", err)
			os.Exit(1)
		}
		return
	}

	listener, err := net.Listen("tcp", set.web.Address)
	if err != nil {
		fmt.Fprintf(os.Stderr, "metrics-server-prom: cannot listen: %v; "+
			"set --web.listen-address (PORT) to a free address\n", err)
		os.Exit(1)
	}
	if err := newServer(set).serve(ctx, listener); err != nil {
		slog.Error("cannot serve", "err", err)
		os.Exit(1)
	}
}

// server is the program: its clusters, and the pages that show them.
type server struct {
	set      *settings
	several  bool // there may be several clusters, which have names
	registry selfmetrics.Registry
	self     *selfmetrics.Scope
	health   health.Tracker // of what is no cluster's
	pulse    *refresh.Pulse
	stopping context.Context // done once no scrape is to wait any more
	stop     context.CancelFunc
	pages    pages.Set
	top      top.Page
	looked   chan struct{} // closed when the clusters that are configured were looked for first

	mu       sync.Mutex
	clusters []*cluster        // in order of their names; a slice that was made never changes
	changed  refresh.Broadcast // after each change of clusters
}

func newServer(set *settings) *server {
	s := &server{set: set, several: set.Several(), pulse: refresh.NewPulse(), looked: make(chan struct{})}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.self = s.registry.Scope("")
	build := string(label.Append(nil, "version", version, "revision", revision, "goversion", runtime.Version()))
	s.self.Gauge("build_info", "The version of this program; the value is always 1.", build, func() float64 { return 1 })
	s.pages = s.newPages(s.all, func(w io.Writer) { s.registry.Write(w); selfmetrics.WriteProcess(w) })
	s.top = top.Page{Version: version, Revision: revision, Sources: s.sources, State: s.stateOf,
		Links: s.links(), Interval: set.RefreshInterval,
		Wait: func(ctx context.Context) { gather(ctx, "", s.all(), !s.several, nil) }}
	if !s.several {
		s.open("")
	}
	return s
}

// all is the clusters that are configured now, in order of their names.
func (s *server) all() []*cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clusters
}

// open makes a cluster one of those that are served.
func (s *server) open(name string) *cluster {
	c := &cluster{name: name, set: &s.set.Settings, userAgent: "metrics-server-prom/" + version, once: s.set.push.JustOnce,
		self: s.self, health: health.Tracker{Cluster: label.Escape(name)}, pulse: s.pulse,
		gone: make(chan struct{})}
	c.observe = func(l *usage.List) { s.top.Observe(c.topSource(), l) }
	c.replace = func(ended bool) { s.pages.Replaced(ended); c.pages.Replaced(ended) }
	if s.several {
		c.self = s.registry.Scope(label.Cluster(name)[1:])
		c.pages = s.newPages(func() []*cluster { return []*cluster{c} }, c.self.Write)
	}
	s.change(c, nil)
	return c
}

// drop takes a cluster out of those that are served.
func (s *server) drop(c *cluster) {
	s.change(nil, c)
	close(c.gone)
	c.pages.Close()
	s.pages.Replaced(true)
	s.top.Gone(c.name)
}

// change adds a cluster to those that are served, or takes one out; nil is none.
func (s *server) change(add, drop *cluster) {
	s.mu.Lock()
	var all []*cluster
	for _, c := range append(slices.Clip(s.clusters), nil) { // which is their end
		if add != nil && (c == nil || add.name < c.name) {
			all, add = append(all, add), nil
		}
		if c != nil && c != drop {
			all = append(all, c)
		}
	}
	s.clusters = all
	s.mu.Unlock()
	s.changed.Send()
}

// sources are what the page for people is made of.
func (s *server) sources() (all []top.Source) {
	for _, c := range s.all() {
		all = append(all, c.topSource())
	}
	return all
}

// start keeps up to date what is known of the clusters, until ctx ends.
func (s *server) start(ctx context.Context) {
	go s.pulse.Run(ctx)
	clusters := &kube.Clusters{Settings: s.set.Settings.Settings, Several: s.several, Open: s.source, Looked: s.look}
	go clusters.Follow(ctx)
	p := &s.set.push
	feed := series.Feed{Families: families, Scope: &s.set.Settings, Target: p.Target, Pulse: s.pulse, Self: &s.registry}
	if s.several {
		feeds := &series.Several{Feed: feed, TargetOf: p.TargetOf, Clusters: s.fed}
		feeds.Begin()
		p.Series, p.Ended = feeds.Push, feeds.End
	} else {
		feed.Known, feed.Failed = s.clusters[0].known, s.clusters[0].failed
		feed.Begin()
		p.Series, p.Ended = feed.Push, feed.End
	}
	p.Page, p.UserAgent = s.writePages, "metrics-server-prom/"+version
	p.Register(s.self)
}

// source is how a cluster is connected to that has come.
func (s *server) source(name string) *kube.Cluster {
	if !s.several {
		return s.clusters[0].source()
	}
	c := s.open(name)
	from := c.source()
	from.Gone, from.Ended = func() { s.drop(c) }, c.self.Close
	return from
}

// look is called after each look for the clusters that are configured.
func (s *server) look(failure *kube.Failure) {
	if failure != nil {
		s.health.SetUnhealthy("clusters", failure, "")
	} else {
		s.health.SetHealthy("clusters")
	}
	select {
	case <-s.looked:
	default:
		close(s.looked)
	}
}

// once reads everything once, and pushes it or, where nowhere is set to push to, writes the pages. It fails with what
// could not be read, too.
func (s *server) once(ctx context.Context, w io.Writer) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.start(ctx)
	select {
	case <-s.looked:
	case <-ctx.Done():
	}
	clusters := s.all()
	failed := make([]error, len(clusters))
	var reading sync.WaitGroup
	for i, c := range clusters {
		reading.Go(func() { failed[i] = c.read(ctx) })
	}
	reading.Wait()
	switch {
	case len(clusters) == 0:
		return cmp.Or(ctx.Err(), s.health.Err())
	case !slices.Contains(failed, nil):
		return errors.Join(failed...)
	case s.set.push.URL == "":
		err = s.writePages(ctx, w, true)
	default:
		_, err = s.set.push.Once(ctx)
	}
	for i, c := range clusters {
		failed[i] = c.failed(ctx)
	}
	return cmp.Or(err, errors.Join(failed...)) // what could be read is pushed or written all the same
}

// serve answers until ctx ends, and then until the running requests are answered.
func (s *server) serve(ctx context.Context, listener net.Listener) error {
	background, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.start(background)
	var pushing sync.WaitGroup
	defer pushing.Wait() // until the receiver has been told the end
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if s.set.push.URL != "" {
		pushing.Go(func() { s.set.push.Run(ctx) })
	}
	return serve.Run(ctx, listener, s.handler(), s.set.web.Config, s.stop)
}

// handler routes the program's pages.
func (s *server) handler() http.Handler {
	at := map[string]http.HandlerFunc{
		"/healthz": s.about(func(w http.ResponseWriter, _ *http.Request, of *cluster) {
			serve.Health(w, func() (failures, notices []string) { return s.state(of) })
		}),
		"/-/healthy": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") },
		"/-/ready":   s.about(s.ready),
		"/":          s.top.Landing,
	}
	if s.several {
		at["/sd"] = func(w http.ResponseWriter, r *http.Request) { serve.Discovery(w, r, namesOf(s.all())) }
	}
	for _, name := range []string{"", cadvisor, kubeState} {
		at[s.set.web.Path(name)] = s.about(s.metrics(name))
	}
	for path, page := range s.top.Handlers() {
		if s.set.Top {
			at[path] = s.about(func(w http.ResponseWriter, r *http.Request, _ *cluster) { page(w, r) })
		}
	}
	return serve.Pages(at, map[string]http.HandlerFunc{"/-/push": s.set.push.ServeHTTP})
}

// state is a line for each thing that does not work, and one for each that is not as it should be but does no harm, of
// a cluster or, for nil, of all.
func (s *server) state(of *cluster) (failures, notices []string) {
	if of != nil {
		return of.state()
	}
	failures = s.health.Failures()
	for _, c := range s.all() {
		f, n := c.state()
		failures, notices = append(failures, f...), append(notices, n...)
	}
	return failures, notices
}

// stateOf is state of the cluster of that name, "" for all.
func (s *server) stateOf(name string) (failures, notices []string) {
	clusters := s.all()
	if i := slices.Index(namesOf(clusters), name); i >= 0 {
		return clusters[i].state()
	}
	return s.state(nil)
}

// ready answers whether there is anything to serve.
func (s *server) ready(w http.ResponseWriter, _ *http.Request, of *cluster) {
	clusters := s.all()
	if of != nil {
		clusters = []*cluster{of}
	}
	switch {
	case s.stopping.Err() != nil:
		http.Error(w, "stopping", http.StatusServiceUnavailable)
	case !slices.ContainsFunc(clusters, (*cluster).hasData):
		http.Error(w, "no data yet", http.StatusServiceUnavailable)
	default:
		io.WriteString(w, "ready\n")
	}
}
