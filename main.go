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
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"metrics-server-prom/internal/credentials"
	"metrics-server-prom/internal/heap"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/scope"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/series"
	"metrics-server-prom/internal/serve"
	"metrics-server-prom/internal/setting"
	"metrics-server-prom/internal/top"
)

var version, revision = "dev", "unknown" // set by the linker, see Dockerfile

// settings is everything that can be set, except how to log.
type settings struct {
	scope.Settings
	listenAddress, telemetryPath string
	webConfig                    string
	push                         push.Pusher
	logLevel                     slog.Level
	logFormat                    string
}

func (s *settings) table() []setting.Row {
	return slices.Concat(s.Settings.Rows(cadvisor, kubeState), []setting.Row{
		{Flag: "web.listen-address", Env: "PORT", Default: ":9100",
			Set: setting.ListenAddress(&s.listenAddress), FromEnv: func(port string) string { return ":" + port },
			Help: "address to listen on; PORT is a port only"},
		{Flag: "web.telemetry-path", Env: "WEB_TELEMETRY_PATH", Default: "/metrics", Set: setting.Path(&s.telemetryPath),
			Help: "path of the metrics"},
		{Flag: "web.page", Env: "WEB_PAGE", Default: "true", Set: setting.Bool(&s.Top),
			Help: "whether to serve the page for people at /, and /top.json"},
		{Flag: "web.config.file", Env: "WEB_CONFIG_FILE", Set: setting.WebConfig(&s.webConfig),
			Help: "file that turns on TLS and authentication, in the format of the Prometheus exporter-toolkit"},
	}, s.push.Rows(), []setting.Row{
		{Flag: "log.level", Env: "LOG_LEVEL", Default: "info", Set: setting.LogLevel(&s.logLevel),
			Help: "debug, info, warn or error"},
		{Flag: "log.format", Env: "LOG_FORMAT", Default: "text", Set: setting.OneOf(&s.logFormat, "text", "json"),
			Help: "text or json"},
	})
}

// check returns what contradicts what among settings that are valid each by itself.
func (s *settings) check() error {
	return cmp.Or(s.Settings.Check(), s.push.Check(labelsOf(s.Pages, s.PodLabels, s.push.Format)))
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
	kube.SetLog(os.Stderr, set.logLevel, set.logFormat == "json")
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

	listener, err := net.Listen("tcp", set.listenAddress)
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
	pulse    *refresh.Pulse
	clusters []*cluster
	stopping context.Context // done once no scrape is to wait any more
	stop     context.CancelFunc
	pages    map[string]*cached
	top      top.Page
}

func newServer(set *settings) *server {
	s := &server{set: set, pulse: refresh.NewPulse(), pages: map[string]*cached{}}
	for _, name := range append([]string{""}, set.Pages...) {
		s.pages[name] = &cached{name: name, idle: time.AfterFunc(maxIdle, func() { s.release(name) })}
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.self = s.registry.Scope("")
	build := string(label.Append(nil, "version", version, "revision", revision, "goversion", runtime.Version()))
	s.self.Gauge("build_info", "The version of this program; the value is always 1.", build, func() float64 { return 1 })
	s.clusters = []*cluster{{set: &set.Settings, userAgent: "metrics-server-prom/" + version,
		once: set.push.JustOnce, self: s.self, pulse: s.pulse, replace: s.replaced}}
	s.top = top.Page{Version: version, Revision: revision, Source: s.clusters[0].topSource, State: s.state,
		Interval: set.RefreshInterval, Wait: func(ctx context.Context) { s.clusters[0].current(ctx, "") }}
	s.clusters[0].observe = s.top.Observe
	return s
}

// replaced drops the pages of a snapshot that is replaced, or all of a connection that ended: nothing is kept of it.
func (s *server) replaced(ended bool) {
	for name, p := range s.pages {
		if ended || name != kubeState {
			p.forget()
		}
	}
}

// release gives back what a page has in memory until it is asked for again.
func (s *server) release(name string) {
	s.pages[name].forget()
	for _, c := range s.clusters {
		if n := c.present.Load(); n != nil {
			n.Release(name == kubeState, families.WantedBy(name))
		}
	}
}

// start keeps up to date what is known of the clusters, until ctx ends.
func (s *server) start(ctx context.Context) {
	go s.pulse.Run(ctx)
	for _, c := range s.clusters {
		go c.follow(ctx)
	}
	p := &s.set.push
	feed := &series.Feed{Families: families, Scope: &s.set.Settings, Target: p.Target, Known: s.clusters[0].known,
		Failed: s.failed, Pulse: s.pulse, Self: &s.registry}
	feed.Begin()
	p.Page, p.Series, p.Ended, p.UserAgent = s.writePages, feed.Push, feed.End, s.clusters[0].userAgent
	p.Register(s.self)
}

// once reads everything once, and pushes it or, where nowhere is set to push to, writes the pages. It fails with what
// could not be read, too.
func (s *server) once(ctx context.Context, w io.Writer) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.start(ctx)
	for len(s.clusters[0].known(ctx).Lists) == 0 {
		if err := s.failed(ctx); err != nil {
			return err
		}
	}
	if s.set.push.URL == "" {
		err = s.writePages(ctx, w, true)
	} else {
		_, err = s.set.push.Once(ctx)
	}
	return cmp.Or(err, s.failed(ctx)) // what could be read is pushed or written all the same
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
	return serve.Run(ctx, listener, s.handler(), s.set.webConfig, s.stop)
}

// handler routes the program's pages.
func (s *server) handler() http.Handler {
	pages := map[string]http.HandlerFunc{
		s.set.telemetryPath: s.metrics(""),
		"/healthz":          func(w http.ResponseWriter, _ *http.Request) { serve.Health(w, s.state) },
		"/-/healthy":        func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") },
		"/-/ready":          s.ready,
		"/":                 s.top.Landing,
	}
	links := []string{s.set.telemetryPath}
	for _, name := range []string{cadvisor, kubeState} {
		at := path.Join(s.set.telemetryPath, name)
		if pages[at] = s.metrics(name); s.pages[name] != nil {
			links = append(links, at)
		}
	}
	s.top.Links = append(links, "/healthz", "/-/healthy", "/-/ready")
	if s.set.Top {
		maps.Copy(pages, s.top.Handlers())
	}
	return serve.Pages(pages, map[string]http.HandlerFunc{"/-/push": s.set.push.ServeHTTP})
}

// currentPage waits until what there is to serve on the page of that name is current.
func (s *server) currentPage(ctx context.Context, name string) (*page.Page, error) {
	for {
		thaws := s.pulse.Thaws()
		var all []*snapshot
		var objects [][][]*page.Part
		for _, c := range s.clusters {
			snapshots, parts, err := c.current(ctx, name)
			if err != nil {
				return nil, err
			}
			all, objects = append(all, snapshots...), append(objects, parts...)
		}
		if page := s.pages[name].page(all, objects, &s.registry); s.pulse.Thaws() == thaws {
			return page, nil
		} // else what the first cluster had may be old again
	}
}

// metrics answers with the page of that name.
func (s *server) metrics(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.pages[name] == nil {
			http.Error(w, "this page is off; --pages "+name+" (PAGES) turns it on", http.StatusNotFound)
			return
		}
		s.pages[name].idle.Reset(maxIdle)
		current := func(ctx context.Context) (*page.Page, error) { return s.currentPage(ctx, name) }
		serve.Scrape(w, r, s.stopping, current, s.missing)
	}
}

// writePages writes the text of the telemetry path's page, where nowhere is set to push to of all pages. once: they are
// without what this program counts itself.
func (s *server) writePages(ctx context.Context, w io.Writer, once bool) error {
	names := []string{""}
	if s.set.push.URL == "" {
		names = append(names, s.set.Pages...)
	}
	for _, name := range names {
		current, err := s.currentPage(ctx, name)
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

// failed is what has failed, or that ctx has ended.
func (s *server) failed(ctx context.Context) error {
	var all []string
	for _, c := range s.clusters {
		all = append(all, c.health.Failures()...)
	}
	if len(all) == 0 {
		return ctx.Err()
	}
	return errors.New("no data: " + strings.Join(all, "; "))
}

// missing says why there is nothing to serve.
func (s *server) missing() string {
	failures, _ := s.state()
	return "no data yet\n" + strings.Join(failures, "\n")
}

// state is a line for each thing that does not work, and one for each that is not as it should be but does no harm.
func (s *server) state() (failures, notices []string) {
	for _, c := range s.clusters {
		failures, notices = append(failures, c.health.Failures()...), append(notices, c.health.Notices()...)
	}
	if len(failures) == 0 && !s.hasData() {
		failures = []string{"pods, nodes: not read yet"}
	}
	return failures, notices
}

func (s *server) hasData() bool {
	return !slices.ContainsFunc(s.clusters, func(c *cluster) bool { return !c.hasData() })
}

func (s *server) ready(w http.ResponseWriter, _ *http.Request) {
	switch {
	case s.stopping.Err() != nil:
		http.Error(w, "stopping", http.StatusServiceUnavailable)
	case !s.hasData():
		http.Error(w, "no data yet", http.StatusServiceUnavailable)
	default:
		io.WriteString(w, "ready\n")
	}
}
