// Command metrics-server-prom serves what Kubernetes' resource metrics API (metrics.k8s.io, usually metrics-server) knows
// of nodes and containers in Prometheus' text format.
//
// The data path: a watch keeps the pods' label text (cache.go); a background refresh reads the usage and joins it with that
// text into samples (cache.go), these become compressed bytes once (render.go); a scrape is answered with these bytes
// (below). A scrape never asks the API server for anything.
package main

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/prometheus/exporter-toolkit/web"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"

	"metrics-server-prom/internal/gzpage"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/setting"
)

// Set by the linker, see Dockerfile.
var version, revision = "dev", "unknown"

// settings is everything that can be set, except how to log.
type settings struct {
	kubeconfig, context           string
	namespaces, excludeNamespaces []string
	selector                      string
	podLabels                     []string
	refreshInterval, maxAge       time.Duration
	listenAddress, telemetryPath  string
	webConfig                     string
	push                          push.Pusher
	logLevel                      slog.Level
	logFormat                     string
}

func (s *settings) table() []setting.Row {
	namespaces := func(p *[]string) func(string) string {
		return setting.List(p, "namespaces", validation.IsDNS1123Label)
	}
	return []setting.Row{
		{Flag: "kubeconfig", Env: "KUBECONFIG", Set: setting.FileName(&s.kubeconfig),
			Help: "kubeconfig; if not set " + kube.MountedKubeconfig + " if it exists, else in-cluster if in a cluster, else ~/.kube/config"},
		{Flag: "context", Env: "KUBE_CONTEXT", Set: setting.Name(&s.context),
			Help: "context of the kubeconfig; if not set its current one"},
		{Flag: "namespaces", Env: "NAMESPACES", Set: namespaces(&s.namespaces),
			Help: "namespaces to serve, separated by commas; if not set all. A list needs only Roles in these namespaces"},
		{Flag: "exclude-namespaces", Env: "EXCLUDE_NAMESPACES", Set: namespaces(&s.excludeNamespaces),
			Help: "namespaces not to serve, separated by commas"},
		{Flag: "selector", Env: "LABEL_SELECTOR", Set: s.setSelector,
			Help: "label selector of the pods to serve, applied by the server"},
		{Flag: "pod-labels", Env: "POD_LABELS", Set: setting.List(&s.podLabels, "label names", validation.IsQualifiedName),
			Help: "labels of pods to add to their samples, separated by commas: app,team adds label_app and label_team"},
		{Flag: "refresh-interval", Env: "REFRESH_INTERVAL", Default: "15s", Set: setting.Duration(&s.refreshInterval, time.Second, 10*time.Minute),
			Help: "how often to read the usage, at least: 1s to 10m. Where metrics-server has new data less often, right after it has"},
		{Flag: "max-age", Env: "MAX_AGE", Default: "5m", Set: setting.Duration(&s.maxAge, 10*time.Second, 24*time.Hour),
			Help: "a sample older than this is not served: 10s to 24h"},
		{Flag: "web.listen-address", Env: "PORT", Default: ":9100", Set: setting.ListenAddress(&s.listenAddress), FromEnv: func(port string) string { return ":" + port },
			Help: "address to listen on; PORT is a port only"},
		{Flag: "web.telemetry-path", Env: "WEB_TELEMETRY_PATH", Default: "/metrics", Set: s.setTelemetryPath,
			Help: "path of the metrics"},
		{Flag: "web.config.file", Env: "WEB_CONFIG_FILE", Set: setting.WebConfig(&s.webConfig),
			Help: "file that turns on TLS and authentication, in the format of the Prometheus exporter-toolkit"},
		{Flag: "push.url", Env: "PUSH_URL", Set: s.push.SetURL, Secret: true,
			Help: "where to push the page to as well: VictoriaMetrics' /api/v1/import/prometheus, a Pushgateway's /metrics/job/JOB"},
		{Flag: "push.interval", Env: "PUSH_INTERVAL", Needs: "push.url", Default: "30s",
			Set:  setting.Duration(&s.push.Interval, time.Second, time.Hour),
			Help: "how often to push: 1s to 1h"},
		{Flag: "push.extra-labels", Env: "PUSH_EXTRA_LABELS", Needs: "push.url", Set: s.push.SetExtraLabels,
			Help: "labels to add to every sample that is pushed, such as cluster=\"eu\",team=\"shop\""},
		{Flag: "push.header", Env: "PUSH_HEADER", Needs: "push.url", Set: s.push.SetHeaders, Secret: true,
			Help: "header to push with, such as Authorization: Bearer TOKEN; several are separated by newlines"},
		{Flag: "log.level", Env: "LOG_LEVEL", Default: "info", Set: setting.LogLevel(&s.logLevel),
			Help: "debug, info, warn or error"},
		{Flag: "log.format", Env: "LOG_FORMAT", Default: "text", Set: setting.OneOf(&s.logFormat, "text", "json"),
			Help: "text or json"},
	}
}

func (s *settings) setSelector(v string) string {
	if s.selector = v; v == "" {
		return ""
	}
	if _, err := labels.Parse(v); err != nil {
		return "a label selector, such as app=shop,tier!=test"
	}
	return ""
}

func (s *settings) setTelemetryPath(v string) string {
	s.telemetryPath = v
	if !strings.HasPrefix(v, "/") || strings.ContainsAny(v, " ?#%{}") || v == "/" || v == "/healthz" || strings.HasPrefix(v, "/-/") {
		return "a path that begins with / and is none of /, /healthz, /-/…"
	}
	return ""
}

// sampleLabels are the names of the labels that samples have, those of --pod-labels aside.
var sampleLabels = []string{"node", "pod", "ip", "container", "namespace", "resource", "reason", "family", "verb", "code",
	"result", "version", "revision", "goversion", "le", "quantile"}

// check returns what contradicts what among settings that are valid each by itself.
func (s *settings) check() error {
	if s.refreshInterval >= s.maxAge {
		return fmt.Errorf("--refresh-interval (REFRESH_INTERVAL) is %s and --max-age (MAX_AGE) is %s: samples would be too old "+
			"before the next are read; set --max-age to several times --refresh-interval", s.refreshInterval, s.maxAge)
	}
	left := func(namespace string) bool { return !s.excluded([]byte(namespace)) }
	if len(s.namespaces) > 0 && !slices.ContainsFunc(s.namespaces, left) {
		return errors.New("--exclude-namespaces (EXCLUDE_NAMESPACES) has all of --namespaces (NAMESPACES): " +
			"nothing is left to serve; take one out of it")
	}
	return s.push.Check(append(newLabeler(s.podLabels).names, sampleLabels...))
}

// scopes is the namespaces to watch; "" is all of them.
func (s *settings) scopes() []string {
	if len(s.namespaces) == 0 {
		return []string{""}
	}
	return s.namespaces
}

func (s *settings) excluded(namespace []byte) bool {
	for _, not := range s.excludeNamespaces {
		if string(namespace) == not {
			return true
		}
	}
	return false
}

func main() {
	set := &settings{}
	err := setting.Parse("metrics-server-prom", fmt.Sprintf("%s (revision %s, %s)", version, revision, runtime.Version()), set.table(), os.Args[1:], os.Getenv)
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
	stderr := kube.WithoutCredentials(os.Stderr)
	options := &slog.HandlerOptions{Level: set.logLevel}
	var handler slog.Handler = slog.NewTextHandler(stderr, options)
	if set.logFormat == "json" {
		handler = slog.NewJSONHandler(stderr, options)
	}
	slog.SetDefault(slog.New(handler))
	kube.QuietClientLog(handler)
	limitMemory()

	listener, err := net.Listen("tcp", set.listenAddress)
	if err != nil {
		fmt.Fprintf(os.Stderr, "metrics-server-prom: cannot listen: %v; set --web.listen-address (PORT) to a free address\n", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := newServer(set).serve(ctx, listener); err != nil {
		slog.Error("cannot serve", "err", err)
		os.Exit(1)
	}
}

// limitMemory has the garbage collector stay below the container's limit, of which the pages that the kernel sends take a
// part too, and use less of what is free than Go does by default: the heap is small, and mostly long-lived. GOMEMLIMIT and
// GOGC win.
func limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	memlimit.Set(memlimit.WithRatio(0.8), memlimit.WithProvider(memlimit.FromCgroup))
}

// server answers scrapes.
type server struct {
	set      *settings
	own      *telemetry
	x        atomic.Pointer[exporter] // of the present cluster; nil while none is configured
	changed  refresh.Broadcast        // after each change of x
	stopping context.Context          // done once no scrape is to wait any more
	stop     context.CancelFunc
}

func newServer(set *settings) *server {
	s := &server{set: set, own: newTelemetry()}
	s.stopping, s.stop = context.WithCancel(context.Background())
	return s
}

const (
	// drain is how long connections are still taken after a signal, so that those who watch readiness see it go.
	drain = time.Second
	// finish is how long running scrapes have after that.
	finish = 3 * time.Second
)

// serve answers until ctx ends, and then until the running requests are answered.
func (s *server) serve(ctx context.Context, listener net.Listener) error {
	background, cancel := context.WithCancel(context.Background())
	defer cancel()
	go s.follow(background)
	if s.set.push.URL != "" {
		s.set.push.Page, s.set.push.Done = s.writePage, s.own.pushed
		s.set.push.UserAgent = "metrics-server-prom/" + version
		go s.set.push.Run(background)
	}
	http := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       15 * time.Second,
		IdleTimeout:       5 * time.Minute, // longer than any usual scrape interval
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug), // what clients do wrong

		// OPTIONS * is a request like any other, and answered with the header that all answers have.
		DisableGeneralOptionsHandler: true,
	}
	failed := make(chan error, 1)
	go func() {
		failed <- web.Serve(listener, http, &web.FlagConfig{WebConfigFile: &s.set.webConfig}, slog.Default())
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	slog.Info("stopping")
	s.stop()
	time.Sleep(drain)
	end, cancelEnd := context.WithTimeout(context.Background(), finish)
	defer cancelEnd()
	if http.Shutdown(end) != nil {
		http.Close()
	}
	return nil
}

// follow keeps an exporter running for the cluster that is configured. Nothing of a cluster is served after another.
func (s *server) follow(ctx context.Context) {
	cluster := kube.Cluster{
		Kubeconfig: s.set.kubeconfig, Context: s.set.context, Report: s.own.request,
		Failed: func(f *kube.Failure) { s.own.health.Failed("cluster", f, false) },
		Found:  func() { s.own.health.Worked("cluster") },
		Run: func(ctx context.Context, core, metrics rest.Interface) {
			x := newExporter(s.set, s.own, core, metrics)
			s.x.Store(x)
			s.changed.Send()
			stop := context.AfterFunc(ctx, func() { s.x.Store(nil); x.end(); s.changed.Send() })
			defer stop()
			x.run(ctx)
			s.own.health.Forget("nodes", "pods", "watch")
		},
	}
	cluster.Follow(ctx)
}

// handler routes the program's pages.
func (s *server) handler() http.Handler {
	pages := map[string]http.HandlerFunc{
		s.set.telemetryPath: s.metrics,
		"/healthz":          s.healthz,
		"/-/healthy":        func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") },
		"/-/ready":          s.ready,
		"/":                 s.index,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Type", "text/plain; charset=utf-8")
		page := pages[r.URL.Path]
		switch {
		case page == nil:
			http.NotFound(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		default:
			page(w, r)
		}
	})
}

// current waits until there is something of now to serve: for the first snapshot, and after a time in which the process
// did not run for the next one. Regularly it does not wait at all.
func (s *server) current(ctx context.Context) (view, error) {
	for {
		changed := s.changed.Wait()
		if x := s.x.Load(); x != nil {
			if x.current(ctx) == nil {
				return x.view(), nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return view{}, ctx.Err()
		}
	}
}

// view is what there is to serve at this moment.
func (s *server) view() view {
	if x := s.x.Load(); x != nil {
		return x.view()
	}
	return view{nodes: &snapshot{}, pods: &snapshot{}}
}

// patience is how long a scrape may wait for data: the scraper's own timeout, as Prometheus sends it, less a margin for
// the answer.
func patience(h http.Header) time.Duration {
	const most, margin = 2 * time.Minute, 500 * time.Millisecond
	seconds, err := strconv.ParseFloat(h.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64)
	if err != nil || !(seconds > 0) {
		return 10 * time.Second
	}
	timeout := time.Duration(min(seconds, most.Seconds()) * float64(time.Second))
	return max(timeout-margin, timeout/2)
}

// answerTime is how long a client may take to read an answer.
const answerTime = 30 * time.Second

func (s *server) metrics(w http.ResponseWriter, r *http.Request) {
	wait := patience(r.Header)
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + answerTime))
	h := w.Header()
	h.Set("Vary", "Accept-Encoding")
	gzip, identity := gzpage.Accepts(strings.Join(r.Header.Values("Accept-Encoding"), ","))
	if !gzip && !identity {
		http.Error(w, "this page is to be had as gzip and as identity", http.StatusNotAcceptable)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	for {
		v, err := s.current(ctx)
		if err != nil {
			h.Set("Retry-After", "5")
			h.Del("Content-Encoding")
			http.Error(w, "no data yet\n"+strings.Join(s.own.health.Failures(), "\n"), http.StatusServiceUnavailable)
			return
		}
		page := s.own.page(v)
		write, length := page.WriteText, page.TextLen()
		if gzip {
			write, length = page.WriteGzip, page.GzipLen()
			h.Set("Content-Encoding", "gzip")
		}
		h.Set("Content-Type", contentType)
		h.Set("Content-Length", strconv.FormatInt(length, 10))
		// A scraper that has left is no error of ours. A snapshot that has been replaced just now gives way to the new one.
		if r.Method == http.MethodHead || !errors.Is(write(w), gzpage.ErrClosed) {
			return
		}
	}
}

// writePage writes the page's text once there is something of now to be had.
func (s *server) writePage(ctx context.Context, w io.Writer) error {
	for {
		v, err := s.current(ctx)
		if err != nil {
			return err
		}
		if err := s.own.page(v).WriteText(w); !errors.Is(err, gzpage.ErrClosed) {
			return err
		}
	}
}

// healthz is the original tool's page: ok, or failed and below it what, since when and why.
func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	failures := s.own.health.Failures()
	if len(failures) == 0 && !s.view().ready() {
		failures = []string{"pods, nodes: not read yet"}
	}
	if len(failures) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, "failed\n%s\n", strings.Join(failures, "\n"))
		return
	}
	io.WriteString(w, "ok")
}

func (s *server) ready(w http.ResponseWriter, _ *http.Request) {
	switch {
	case s.stopping.Err() != nil:
		http.Error(w, "stopping", http.StatusServiceUnavailable)
	case !s.view().ready():
		http.Error(w, "no data yet", http.StatusServiceUnavailable)
	default:
		io.WriteString(w, "ready\n")
	}
}

func (s *server) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v, pods, age := s.view(), 0, "no data yet"
	if v.x != nil {
		pods = v.x.cache.Len()
	}
	if v.pods.newest != 0 {
		age = time.Since(time.Unix(v.pods.newest, 0)).Round(time.Second).String()
	}
	state := strings.Join(s.own.health.Failures(), "\n")
	if state == "" {
		state = "none"
	}
	fmt.Fprintf(w, `<!DOCTYPE html>
<html lang="en">
<head><title>metrics-server-prom</title></head>
<body>
<h1>metrics-server-prom</h1>
<p>Version %s (revision %s)</p>
<p><a href="%s">metrics</a> <a href="/healthz">healthz</a> <a href="/-/healthy">healthy</a> <a href="/-/ready">ready</a></p>
<p>Watched pods: %d<br>Age of the newest sample: %s<br>Failures:</p>
<pre>%s</pre>
</body>
</html>
`, html.EscapeString(version), html.EscapeString(revision), s.set.telemetryPath, pods, age, html.EscapeString(state))
}
