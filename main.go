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
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"k8s.io/apimachinery/pkg/util/validation"

	"metrics-server-prom/internal/credentials"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/serve"
	"metrics-server-prom/internal/setting"
	"metrics-server-prom/internal/top"
)

var (
	version, revision = "dev", "unknown" // set by the linker, see Dockerfile
	userAgent         = "metrics-server-prom/" + version
)

// settings is everything that can be set, except how to log.
type settings struct {
	source
	listenAddress, telemetryPath string
	webConfig                    string
	push                         push.Pusher
	logLevel                     slog.Level
	logFormat                    string
}

func (s *settings) table() []setting.Row {
	return []setting.Row{
		{Flag: "kubeconfig", Env: "KUBECONFIG", Set: setting.FileName(&s.kubeconfig),
			Help: "kubeconfig; if not set " + kube.MountedKubeconfig +
				" if it exists, else in-cluster if in a cluster, else ~/.kube/config"},
		{Flag: "kubeconfig-data", Env: "KUBECONFIG_DATA", Excludes: "kubeconfig", Set: kube.SetData(&s.kubeconfigData),
			Secret: true, Help: "kubeconfig itself, as YAML or base64 of it, where secrets are handed out as variables"},
		{Flag: "native-credentials", Env: "NATIVE_CREDENTIALS", Default: kube.NativeMissing, Set: kube.SetNative(&s.native),
			Help: "when to answer in place of an exec plugin of EKS, GKE or AKS: where it is missing, always or never"},
		{Flag: "context", Env: "KUBE_CONTEXT", Set: setting.Name(&s.context),
			Help: "context of the kubeconfig; if not set its current one"},
		{Flag: "namespaces", Env: "NAMESPACES", Set: setting.List(&s.namespaces, "namespaces", validation.IsDNS1123Label),
			Help: "namespaces to serve, separated by commas; if not set all. A list needs only Roles in these namespaces"},
		{Flag: "exclude-namespaces", Env: "EXCLUDE_NAMESPACES",
			Set:  setting.List(&s.excludeNamespaces, "namespaces", validation.IsDNS1123Label),
			Help: "namespaces not to serve, separated by commas"},
		{Flag: "selector", Env: "LABEL_SELECTOR", Set: setting.LabelSelector(&s.selector),
			Help: "label selector of the pods to serve, applied by the server"},
		{Flag: "pod-labels", Env: "POD_LABELS", Set: setting.List(&s.podLabels, "label names", validation.IsQualifiedName),
			Help: "labels of pods to add to their samples, separated by commas: app,team adds label_app and label_team"},
		{Flag: "pages", Env: "PAGES", Set: setting.ListOf(&s.pages, "pages", cadvisor, kubeState),
			Help: "pages to serve as well, separated by commas, with the names that dashboards know: cadvisor, " +
				"kube-state-metrics. They need further rights, see README"},
		{Flag: "refresh-interval", Env: "REFRESH_INTERVAL", Default: "15s",
			Set: setting.Duration(&s.refreshInterval, time.Second, 10*time.Minute),
			Help: "how often to read the usage, at least: 1s to 10m. Where metrics-server has new data less often, " +
				"right after it has"},
		{Flag: "max-age", Env: "MAX_AGE", Default: "5m", Set: setting.Duration(&s.maxAge, 10*time.Second, 24*time.Hour),
			Help: "a sample older than this is not served: 10s to 24h"},
		{Flag: "web.listen-address", Env: "PORT", Default: ":9100",
			Set: setting.ListenAddress(&s.listenAddress), FromEnv: func(port string) string { return ":" + port },
			Help: "address to listen on; PORT is a port only"},
		{Flag: "web.telemetry-path", Env: "WEB_TELEMETRY_PATH", Default: "/metrics", Set: setting.Path(&s.telemetryPath),
			Help: "path of the metrics"},
		{Flag: "web.page", Env: "WEB_PAGE", Default: "true", Set: setting.Bool(&s.source.top),
			Help: "whether to serve the page for people at /, and /top.json"},
		{Flag: "web.config.file", Env: "WEB_CONFIG_FILE", Set: setting.WebConfig(&s.webConfig),
			Help: "file that turns on TLS and authentication, in the format of the Prometheus exporter-toolkit"},
		{Flag: "push.url", Env: "PUSH_URL", Set: s.push.SetURL, Secret: true,
			Help: "where to push the page to as well: VictoriaMetrics' /api/v1/import/prometheus, " +
				"a Pushgateway's /metrics/job/JOB"},
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

// check returns what contradicts what among settings that are valid each by itself.
func (s *settings) check() error {
	if s.refreshInterval >= s.maxAge {
		return fmt.Errorf("--refresh-interval (REFRESH_INTERVAL) is %s and --max-age (MAX_AGE) is %s: samples would be too "+
			"old before the next are read; set --max-age to several times --refresh-interval", s.refreshInterval, s.maxAge)
	}
	served := func(namespace string) bool { return !slices.Contains(s.excludeNamespaces, namespace) }
	if len(s.namespaces) > 0 && !slices.ContainsFunc(s.namespaces, served) {
		return errors.New("--exclude-namespaces (EXCLUDE_NAMESPACES) has all of --namespaces (NAMESPACES): " +
			"nothing is left to serve; take one out of it")
	}
	return s.push.Check(append(label.Names(s.podLabels), sampleLabels...))
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
	limitMemory(len(set.pages) > 0)

	listener, err := net.Listen("tcp", set.listenAddress)
	if err != nil {
		fmt.Fprintf(os.Stderr, "metrics-server-prom: cannot listen: %v; "+
			"set --web.listen-address (PORT) to a free address\n", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := newServer(set).serve(ctx, listener); err != nil {
		slog.Error("cannot serve", "err", err)
		os.Exit(1)
	}
}

// limitMemory has the garbage collector stay below the container's limit, of which the kernel takes a part, and collect
// sooner than by default: the heap is small, and mostly long-lived, the more so with further pages. GOMEMLIMIT and
// GOGC win.
func limitMemory(furtherPages bool) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(map[bool]int{false: 50, true: 30}[furtherPages])
	}
	memlimit.Set(memlimit.WithRatio(0.8), memlimit.WithProvider(memlimit.FromCgroup))
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
	for _, name := range append([]string{""}, set.pages...) {
		s.pages[name] = &cached{name: name, idle: time.AfterFunc(maxIdle, func() { s.release(name) })}
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.self = s.registry.Scope("")
	build := string(label.Append(nil, "version", version, "revision", revision, "goversion", runtime.Version()))
	s.self.Gauge("build_info", "The version of this program; the value is always 1.", build, func() float64 { return 1 })
	s.clusters = []*cluster{{set: &set.source, userAgent: userAgent, self: s.self, pulse: s.pulse,
		replace: s.replaced}}
	if set.source.top {
		s.top = top.Page{Version: version, Links: s.links(), Source: s.clusters[0].topSource, State: s.state,
			Interval: set.refreshInterval, Wait: func(ctx context.Context) { s.clusters[0].current(ctx, "") }}
		s.clusters[0].observe = s.top.Observe
	}
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
			if name == kubeState {
				n.pods.Release()
			}
			n.others.Release(wantedBy(name))
		}
	}
}

// serve answers until ctx ends, and then until the running requests are answered.
func (s *server) serve(ctx context.Context, listener net.Listener) error {
	background, cancel := context.WithCancel(context.Background())
	defer cancel()
	go s.pulse.Run(background)
	for _, c := range s.clusters {
		go c.follow(background)
	}
	if s.set.push.URL != "" {
		p := &s.set.push
		p.Page, p.Done, p.UserAgent = s.writePage, s.pushed, userAgent
		go p.Run(background)
	}
	return serve.Run(ctx, listener, s.handler(), s.set.webConfig, s.stop)
}

// handler routes the program's pages.
func (s *server) handler() http.Handler {
	pages := map[string]http.HandlerFunc{
		s.set.telemetryPath: s.metrics(""),
		"/healthz":          s.healthz,
		"/-/healthy":        func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") },
		"/-/ready":          s.ready,
		"/":                 s.index,
	}
	for _, name := range []string{cadvisor, kubeState} {
		pages[path.Join(s.set.telemetryPath, name)] = s.metrics(name)
	}
	if s.set.source.top {
		maps.Copy(pages, s.top.Handlers())
	}
	return serve.Pages(pages)
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
		serve.Scrape(w, r, s.stopping, func(ctx context.Context) (*page.Page, error) { return s.currentPage(ctx, name) },
			func() string {
				failures, _ := s.state()
				return "no data yet\n" + strings.Join(failures, "\n")
			})
	}
}

// writePage writes the page's text once it is current.
func (s *server) writePage(ctx context.Context, w io.Writer) error {
	page, err := s.currentPage(ctx, "")
	if err != nil {
		return err
	}
	return page.WriteText(w)
}

// pushed counts a push.
func (s *server) pushed(worked bool) {
	result := map[bool]string{true: "ok", false: "error"}[worked]
	s.self.Counter("pushes_total", "Pushes of this page, by how they ended.", fmt.Sprintf("result=%q", result)).Inc()
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

func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	failures, notices := s.state()
	serve.Health(w, failures, notices)
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

// links are the paths of the pages.
func (s *server) links() []string {
	links := []string{s.set.telemetryPath}
	for _, name := range s.set.pages {
		links = append(links, path.Join(s.set.telemetryPath, name))
	}
	return append(links, "/healthz", "/-/healthy", "/-/ready")
}

func (s *server) index(w http.ResponseWriter, _ *http.Request) {
	pods, newest := 0, int64(0)
	for _, c := range s.clusters {
		if n := c.present.Load(); n != nil {
			pods += n.pods.Store.Len()
		}
		for _, snapshot := range c.snapshots() {
			newest = max(newest, snapshot.Newest)
		}
	}
	age := "no data yet"
	if newest != 0 {
		age = max(0, time.Since(time.Unix(newest, 0))).Round(time.Second).String()
	}
	failures, notices := s.state()
	serve.Landing(w, "metrics-server-prom", fmt.Sprintf("Version %s (revision %s)", version, revision),
		s.links(),
		fmt.Sprintf("Watched pods: %d\nAge of the newest sample: %s\nFailures:\n%s", pods, age,
			cmp.Or(strings.Join(append(failures, notices...), "\n"), "none")))
}
