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
	"metrics-server-prom/internal/fleet"
	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/heap"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/label"
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
	registry selfmetrics.Registry
	self     *selfmetrics.Scope
	fleet    fleet.Fleet
	top      top.Page
	stop     context.CancelFunc // no scrape is to wait any more
	looked   chan struct{}      // closed when the clusters that are configured were looked for first
}

func newServer(set *settings) *server {
	s := &server{set: set, looked: make(chan struct{}), fleet: fleet.Fleet{Several: set.Several(), Families: families,
		Names: append([]string{""}, set.Pages...), Pulse: refresh.NewPulse()}}
	s.fleet.Stopping, s.stop = context.WithCancel(context.Background())
	s.self = s.registry.Scope("")
	registerBuild(s.self)
	s.fleet.Begin(func(w io.Writer) { s.registry.Write(w); selfmetrics.WriteProcess(w) })
	s.top = top.Page{Version: version, Revision: revision, Interval: set.RefreshInterval, Wait: s.fleet.Wait,
		State: s.fleet.StateOf,
		Sources: func() (all []top.Source) {
			for _, c := range s.clusters() {
				all = append(all, c.topSource())
			}
			return all
		}}
	if !s.fleet.Several {
		s.open("")
	}
	return s
}

func registerBuild(self *selfmetrics.Scope) {
	build := string(label.Append(nil, "version", version, "revision", revision, "goversion", runtime.Version()))
	self.Gauge("build_info", "The version of this program; the value is always 1.", build, func() float64 { return 1 })
}

// clusters are those that are configured now, in order of their names.
func (s *server) clusters() (all []*cluster) {
	for _, c := range s.fleet.All() {
		all = append(all, c.(*cluster))
	}
	return all
}

// open makes a cluster one of those that are served.
func (s *server) open(name string) *cluster {
	c := &cluster{name: name, set: &s.set.Settings, userAgent: "metrics-server-prom/" + version, once: s.set.push.JustOnce,
		self: s.self, health: health.Tracker{Cluster: label.Escape(name)}, pulse: s.fleet.Pulse}
	c.gone, c.remove = context.WithCancelCause(context.Background())
	c.observe = func(l *usage.List) { s.top.Observe(c.topSource(), l) }
	c.replace = func(ended bool) { s.fleet.Replaced(name, ended) }
	if s.fleet.Several {
		c.self = s.registry.Scope(label.Cluster(name)[1:])
		registerBuild(c.self) // whoever scrapes this cluster alone has no other one
	}
	s.fleet.Add(name, c, c.self.Write)
	return c
}

// drop takes a cluster out of those that are served.
func (s *server) drop(c *cluster) {
	s.fleet.Remove(c.name)
	c.remove(errors.New("the cluster is not configured any more"))
	s.top.Gone(c.name)
}

// start keeps up to date what is known of the clusters, until ctx ends.
func (s *server) start(ctx context.Context) {
	go s.fleet.Pulse.Run(ctx)
	clusters := &kube.Clusters{Settings: s.set.Settings.Settings, Several: s.fleet.Several, Open: s.source, Looked: s.look}
	go clusters.Follow(ctx)
	p := &s.set.push
	feed := series.Feed{Families: families, Scope: &s.set.Settings, Target: p.Target, Pulse: s.fleet.Pulse,
		Self: &s.registry}
	if s.fleet.Several {
		feeds := &series.Several{Feed: feed, TargetOf: p.TargetOf, Clusters: func() (all []series.Cluster) {
			for _, c := range s.clusters() {
				all = append(all, series.Cluster{Name: c.name, Known: c.known, Failed: c.failed})
			}
			return all
		}}
		feeds.Begin()
		p.Series, p.Ended = feeds.Push, feeds.End
	} else {
		c := s.clusters()[0]
		feed.Known, feed.Failed = c.known, c.failed
		feed.Begin()
		p.Series, p.Ended = feed.Push, feed.End
	}
	p.Page, p.UserAgent = s.writePages, "metrics-server-prom/"+version
	p.Register(s.self)
}

// source is how a cluster is connected to that has come.
func (s *server) source(name string) *kube.Cluster {
	if !s.fleet.Several {
		return s.clusters()[0].source()
	}
	c := s.open(name)
	from := c.source()
	from.Gone, from.Ended = func() { s.drop(c) }, c.self.Close
	return from
}

// look is called after each look for the clusters that are configured.
func (s *server) look(failure *kube.Failure) {
	if failure != nil {
		s.fleet.Health.SetUnhealthy("clusters", failure, "")
	} else {
		s.fleet.Health.SetHealthy("clusters")
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
	clusters := s.clusters()
	failed := make([]error, len(clusters))
	var reading sync.WaitGroup
	for i, c := range clusters {
		reading.Go(func() { failed[i] = c.read(ctx) })
	}
	reading.Wait()
	switch {
	case len(clusters) == 0:
		return cmp.Or(ctx.Err(), s.fleet.Health.Err())
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
		"/healthz":   s.fleet.Asked((*fleet.View).Healthz),
		"/-/healthy": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") },
		"/-/ready":   s.fleet.Asked((*fleet.View).Ready),
		"/":          s.top.Landing,
	}
	s.top.Links = nil
	for _, name := range []string{"", cadvisor, kubeState} {
		path := s.set.web.Path(name)
		at[path] = s.fleet.Asked(func(v *fleet.View, w http.ResponseWriter, r *http.Request) { v.Metrics(name, w, r) })
		if s.fleet.Pages[name] != nil {
			s.top.Links = append(s.top.Links, path)
		}
	}
	if s.fleet.Several {
		at["/sd"] = s.fleet.Discovery
		s.top.Links = append(s.top.Links, "/sd")
	}
	s.top.Links = append(s.top.Links, "/healthz", "/-/healthy", "/-/ready")
	for path, page := range s.top.Handlers() {
		if s.set.Top {
			at[path] = s.fleet.Asked(func(_ *fleet.View, w http.ResponseWriter, r *http.Request) { page(w, r) })
		}
	}
	return serve.Pages(at, map[string]http.HandlerFunc{"/-/push": s.set.push.ServeHTTP})
}

// writePages writes the text of the telemetry path's page, where nowhere is set to push to of all pages. once: they are
// without what this program counts itself.
func (s *server) writePages(ctx context.Context, w io.Writer, once bool) error {
	names := []string{""}
	if s.set.push.URL == "" {
		names = append(names, s.set.Pages...)
	}
	for _, name := range names {
		current, err := s.fleet.Page(ctx, name)
		if err != nil {
			return err
		}
		to := w
		if once && name != kubeState { // whose counters are the API's
			to = &selfmetrics.Gauges{To: w}
		}
		if err := current.WriteText(to); err != nil {
			return err
		}
	}
	return nil
}
