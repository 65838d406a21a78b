package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/exporter"
)

// Simulatable are the faults of a simulated cluster.
var Simulatable = []Fault{
	{Name: "API server killed and gone for a while", Cause: killed,
		Short: 15 * time.Second, Long: 3 * time.Minute,
		While: Expect{Says: "connection refused", Down: "pods nodes", Page: keeps}},
	{Name: "API server answers 500", Cause: answers(internalError),
		Short: 10 * time.Second, Long: time.Minute, While: Expect{Says: "500 ", Down: "pods nodes", Page: keeps}},
	{Name: "API server answers 503", Cause: answers(unavailable),
		Short: 10 * time.Second, Long: time.Minute, While: Expect{Says: "503 ", Down: "pods nodes", Page: keeps}},
	{Name: "API server is overloaded: 429, asking for 4 s of rest", Cause: overloaded,
		Short: 12 * time.Second, Long: time.Minute, While: Expect{Says: "429 ", Down: "pods nodes", Page: keeps}},
	{Name: "no rights to watch pods", Cause: watchForbidden,
		Short: 10 * time.Second, Long: time.Minute,
		While: Expect{Within: notice + 5*time.Second, Says: "403 ", Page: watchIs(0)}},
	{Name: "no rights to list the nodes' usage", Cause: forbids("list", "/apis/metrics.k8s.io/v1beta1/nodes"),
		Short: 15 * time.Second, Long: time.Minute,
		While: Expect{Down: "nodes", Page: keeps, Begins: "no metrics of nodes are served",
			Ends: "nodes works again"}},
	{Name: "no rights to list the pods' usage", Cause: forbids("list", "/apis/metrics.k8s.io/v1beta1/pods"),
		Short: 10 * time.Second, Long: time.Minute, While: Expect{Says: "403 ", Down: "pods", Page: keeps}},
	{Name: "token expired and given back", Cause: unknownToken,
		Short: 10 * time.Second, Long: time.Minute, While: Expect{Says: "401 ", Down: "pods nodes", Page: keeps}},
	{Name: "history compacted while the watch is down: 410 Gone", Cause: compacted,
		Short: 10 * time.Second, While: Expect{Fresh: true}},
	{Name: "watch closed every second", Cause: every(time.Second, func(h *Harness) { h.API.CloseWatches() }),
		Short: 15 * time.Second, Long: 2 * time.Minute, While: Expect{Fresh: true}},
	{Name: "watch events that are out of order, or of what is over", Cause: every(300*time.Millisecond, outdatedEvents),
		Short: 15 * time.Second, Long: 2 * time.Minute, While: Expect{Fresh: true}},
	{Name: "watch that hangs silently on a connection that lives", Cause: hungWatch, Alone: true,
		Short: 0, While: Expect{Within: watchBound, Labels: watchBound + behind, Page: watchedAnew}},
	{Name: "watch-list that never sends its closing bookmark", Cause: endlessWatchList, Alone: true, Still: true,
		Short: 45 * time.Second, While: Expect{Labels: 45 * time.Second}, After: listedInstead},
	{Name: "bookmarks missing", Cause: lies(func(l *standin.Behavior) { l.NoBookmarks = true }),
		Short: 10 * time.Second, Long: 10 * time.Minute, While: Expect{Fresh: true}},
	{Name: "connections that lose every packet", Cause: lies(func(l *standin.Behavior) { l.HangConnections = true }),
		Short: 10 * time.Second, Long: 2 * time.Minute,
		While: Expect{Within: hangs, Says: "cannot list pods.metrics.k8s.io", Down: "pods nodes", Page: keeps}},
	{Name: "metrics-server gone", Cause: metricsAPI(unavailable),
		Short: 10 * time.Second, Long: 2 * time.Minute,
		While: Expect{Says: "metrics-server is not running", Down: "pods nodes", Page: keeps}},
	{Name: "metrics-server gone for longer than max-age", Cause: metricsAPI(unavailable), MaxAge: 20 * time.Second,
		Short: 10 * time.Second, Long: time.Minute,
		While: Expect{Within: 30 * time.Second, Says: "metrics-server is not running", Down: "pods nodes",
			Expires: true, Page: has(0, 0)}},
	{Name: "metrics-server returns an empty list", Cause: lies(func(l *standin.Behavior) {
		l.OmitUsage = func(string, string) bool { return true }
	}),
		Short: 10 * time.Second, Long: 2 * time.Minute, While: Expect{Within: behind, Fresh: true, Page: has(0, 0)}},
	{Name: "metrics-server returns half of the pods", Cause: lies(func(l *standin.Behavior) {
		l.OmitUsage = func(_, name string) bool { return len(name) > 0 && name[len(name)-1]%2 == 0 }
	}),
		Short: 10 * time.Second, Long: 2 * time.Minute, While: Expect{Fresh: true}},
	{Name: "metrics-server returns the same timestamps", Alone: true, MaxAge: 20 * time.Second,
		Cause: lies(func(l *standin.Behavior) { l.FreezeMetrics = true }),
		Short: 15 * time.Second, Long: 10 * time.Minute,
		While: Expect{Within: 30 * time.Second, Page: has(0, 0), Notice: staleNotice}},
	{Name: "clock of the source an hour behind", Cause: lies(func(l *standin.Behavior) { l.ClockSkew = -time.Hour }),
		Short: 10 * time.Second, While: Expect{Within: behind, Page: has(0, 0), Notice: staleNotice}},
	{Name: "clock of the source an hour ahead", Cause: lies(func(l *standin.Behavior) { l.ClockSkew = time.Hour }),
		Short: 10 * time.Second, While: Expect{Fresh: true, Page: notAhead}},
	{Name: "clock of one pod's node an hour ahead", Cause: oneAhead,
		Short: 15 * time.Second, While: Expect{Fresh: true, Page: notAhead}},
	{Name: "windows of 0", Cause: lies(func(l *standin.Behavior) { l.Window = new(time.Duration) }),
		Short: 10 * time.Second, While: Expect{Within: behind, Fresh: true, Page: has(0, 1), Notice: windowNotice}},
	{Name: "windows of negative length", Cause: lies(func(l *standin.Behavior) { l.Window = new(-15 * time.Second) }),
		Short: 10 * time.Second, While: Expect{Within: behind, Fresh: true, Page: has(0, 1), Notice: windowNotice}},
	{Name: "the same pod twice in a list", Cause: twice,
		Short: 10 * time.Second, While: Expect{Within: behind, Fresh: true, Page: keeps,
			Notice: regexp.MustCompile(`twice|more than once`)}},
	{Name: "etcd restored from a backup", Cause: restored, Alone: true, Still: true,
		Short: 30 * time.Second, While: Expect{Fresh: true}},
}

// windowNotice matches the notice about usage whose CPU has no rate, staleNotice that about usage that is too old.
var windowNotice, staleNotice = regexp.MustCompile(`window`), regexp.MustCompile(`max-age`)

// killed ends the simulated API server as kill -9 does.
func killed(_ context.Context, h *Harness) (func(context.Context) error, error) {
	h.API.Kill()
	return func(context.Context) error { return h.API.Restart() }, nil
}

// intercepts answers the requests that f answers.
func intercepts(h *Harness,
	f func(w http.ResponseWriter, r *http.Request) (answered bool)) (func(context.Context) error, error) {
	h.API.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !f(w, r) {
			next.ServeHTTP(w, r)
		}
	})
	return func(context.Context) error { h.API.Intercept(nil); return nil }, nil
}

type cause = func(context.Context, *Harness) (func(context.Context) error, error)

func answers(err func() error) cause {
	return func(_ context.Context, h *Harness) (func(context.Context) error, error) {
		return intercepts(h, func(w http.ResponseWriter, r *http.Request) bool {
			standin.WriteError(w, r, err())
			return true
		})
	}
}

// metricsAPI fails the requests that metrics-server would answer.
func metricsAPI(err func() error) cause {
	return func(_ context.Context, h *Harness) (func(context.Context) error, error) {
		return intercepts(h, func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, "/apis/metrics.k8s.io/") {
				return false
			}
			standin.WriteError(w, r, err())
			return true
		})
	}
}

func internalError() error { return apierrors.NewInternalError(errors.New("etcdserver: no leader")) }
func unavailable() error {
	return apierrors.NewServiceUnavailable("the server is currently unable to handle the request")
}

func forbids(verb, path string) cause {
	return func(_ context.Context, h *Harness) (func(context.Context) error, error) {
		return intercepts(h, func(w http.ResponseWriter, r *http.Request) bool {
			asked := "list"
			if r.URL.Query().Get("watch") != "" {
				asked = "watch"
			}
			if r.URL.Path != path || asked != verb {
				return false
			}
			standin.WriteError(w, r, standin.Forbidden(r))
			return true
		})
	}
}

// unknownToken lets the server know another token only.
func unknownToken(_ context.Context, h *Harness) (func(context.Context) error, error) {
	token := h.API.RESTConfig().BearerToken
	h.API.SetTokens("another")
	return func(context.Context) error { h.API.SetTokens(token); return nil }, nil
}

// compacted ends the watches, changes pods while there are none, and forgets how.
func compacted(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	mend, err := intercepts(h, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/api/v1/pods" {
			return false
		}
		standin.WriteError(w, r, unavailable())
		return true
	})
	if err != nil {
		return nil, err
	}
	h.API.CloseWatches()
	h.change(ctx, 30)
	h.API.Compact()
	return func(context.Context) error { return nil }, mend(ctx)
}

// change changes this many pods.
func (h *Harness) change(ctx context.Context, pods int) {
	for range pods {
		_ = h.Change(ctx, func() error { h.API.ChurnOnce(); return nil }) // a simulated cluster can always be looked at
	}
}

// every does something again and again.
func every(pause time.Duration, f func(*Harness)) cause {
	return func(_ context.Context, h *Harness) (func(context.Context) error, error) {
		end, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for tick := time.NewTicker(pause); ; {
				select {
				case <-tick.C:
					f(h)
				case <-end:
					tick.Stop()
					return
				}
			}
		}()
		return func(context.Context) error { close(end); <-ended; return nil }, nil
	}
}

// lies changes the behaviour of the server.
func lies(change func(*standin.Behavior)) cause {
	return func(_ context.Context, h *Harness) (func(context.Context) error, error) {
		lie := h.API.Behavior()
		change(&lie)
		h.API.SetBehavior(lie)
		return func(context.Context) error { h.API.SetBehavior(standin.Behavior{}); return nil }, nil
	}
}

// keeps checks that nothing is lost: the last values stay until they reach max-age.
func keeps(h *Harness, page *exporter.Page) error {
	if n := len(check.Served(page)); n < len(h.API.Pods()) {
		return fmt.Errorf("the page has %d samples of %d pods", n, len(h.API.Pods()))
	}
	return nil
}

// has looks for samples of CPU and memory: none (0) or some (1).
func has(cpu, memory int) func(*Harness, *exporter.Page) error {
	return func(_ *Harness, page *exporter.Page) error {
		for family, want := range map[string]int{check.PodCPU: cpu, check.NodeCPU: cpu, check.PodMemory: memory,
			check.NodeMemory: memory} {
			if n := len(page.Family(family)); min(n, 1) != want {
				return fmt.Errorf("the page has %d samples of %s", n, family)
			}
		}
		return nil
	}
}

// overloaded answers with Retry-After; mending it fails if the exporter has asked sooner.
func overloaded(_ context.Context, h *Harness) (func(context.Context) error, error) {
	const rest = 4 * time.Second
	var (
		mu    sync.Mutex
		last  = map[string]time.Time{}
		early error
	)
	mend, err := intercepts(h, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if at := last[r.URL.Path]; strings.HasPrefix(r.URL.Path, "/apis/") && time.Since(at) < rest && early == nil {
			early = fmt.Errorf("%s was asked for %s after the answer Retry-After: %s", r.URL.Path, time.Since(at), rest)
		}
		standin.WriteError(w, r, apierrors.NewTooManyRequests("too many requests", int(rest.Seconds())))
		last[r.URL.Path] = time.Now()
		return true
	})
	return func(ctx context.Context) error { return errors.Join(mend(ctx), early) }, err
}

// watchForbidden takes the right away that the running watch was begun with, and ends it.
func watchForbidden(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	mend, err := forbids("watch", "/api/v1/pods")(ctx, h)
	h.API.CloseWatches()
	return mend, err
}

// podsLabel is the label of the figures that are about pods.
var podsLabel = map[string]string{"resource": "pods"}

// watchIs checks what the exporter says of its watch.
func watchIs(up float64) func(*Harness, *exporter.Page) error {
	return func(_ *Harness, page *exporter.Page) error {
		if got, series := page.Sum("metrics_server_prom_watch_up", podsLabel); series != 1 || got != up {
			return fmt.Errorf("metrics_server_prom_watch_up of pods is %v in %d series", got, series)
		}
		return nil
	}
}

// outdatedEvents sends states of pods that had ended before the watch's last: with other labels, and deleted. Then the
// watch ends, so that the next begins where such an event says that it has been.
func outdatedEvents(h *Harness) {
	pods := h.API.Pods()
	for i, kind := range []watch.EventType{watch.Modified, watch.Added, watch.Deleted} {
		p := pods[rand.IntN(len(pods))]
		if i < 2 {
			p.Node, p.IP = "node-of-the-past", "192.0.2.1"
		}
		h.API.SendEvent(kind, p, p.ResourceVersion-1)
	}
	if rand.IntN(10) == 0 {
		h.API.CloseWatches()
	}
}

// watchBound is how long a watch may be silent, 150 s, and what it takes to begin another.
const watchBound = 165 * time.Second

// hungWatch stops all watches without ending them.
func hungWatch(_ context.Context, h *Harness) (func(context.Context) error, error) {
	h.before = h.watches()
	h.API.SetBehavior(standin.Behavior{HangWatches: true})
	return func(context.Context) error { h.API.SetBehavior(standin.Behavior{}); return nil }, nil
}

// watches is how many watches were begun so far.
func (h *Harness) watches() uint64 {
	return h.API.Requests()[standin.Request{Verb: "watch", Path: "/api/v1/pods", Code: http.StatusOK}]
}

func watchedAnew(h *Harness, _ *exporter.Page) error {
	if h.watches() == h.before {
		return errors.New("no other watch was begun")
	}
	return nil
}

// endlessWatchList makes the exporter list the pods anew, which then does not come to an end.
func endlessWatchList(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	h.before = h.lists()
	h.API.SetBehavior(standin.Behavior{NoInitialEventsEnd: true})
	if _, err := compacted(ctx, h); err != nil {
		return nil, err
	}
	return func(context.Context) error { h.API.SetBehavior(standin.Behavior{}); return nil }, nil
}

func (h *Harness) lists() uint64 {
	return h.API.Requests()[standin.Request{Verb: "list", Path: "/api/v1/pods", Code: http.StatusOK}]
}

func listedInstead(_ context.Context, h *Harness) error {
	if h.lists() == h.before {
		return errors.New("the pods were not listed in place of the watch-list")
	}
	return nil
}
