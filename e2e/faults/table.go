package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/exporter"
)

// Simulatable are the faults of a simulated cluster.
var Simulatable = []Fault{
	{Name: "API server killed and gone for a while", Cause: killed,
		Short: 15 * time.Second, Long: 3 * time.Minute, While: Seen{Says: "connection refused", Down: "pods nodes", Page: keeps}},
	{Name: "API server answers 500", Cause: answers(internalError),
		Short: 10 * time.Second, Long: time.Minute, While: Seen{Says: "500 ", Down: "pods nodes", Page: keeps}},
	{Name: "API server answers 503", Cause: answers(unavailable),
		Short: 10 * time.Second, Long: time.Minute, While: Seen{Says: "503 ", Down: "pods nodes", Page: keeps}},
	{Name: "no rights to list the pods' usage", Cause: forbids("list", "/apis/metrics.k8s.io/v1beta1/pods"),
		Short: 10 * time.Second, Long: time.Minute, While: Seen{Says: "403 ", Down: "pods", Page: keeps}},
	{Name: "token expired and given back", Cause: unknownToken,
		Short: 10 * time.Second, Long: time.Minute, While: Seen{Says: "401 ", Down: "pods nodes", Page: keeps}},
	{Name: "history compacted while the watch is down: 410 Gone", Cause: compacted,
		Short: 10 * time.Second, While: Seen{Fresh: true}},
	{Name: "watch closed every second", Cause: every(time.Second, func(b *Bench) { b.API.CloseWatches() }),
		Short: 15 * time.Second, Long: 2 * time.Minute, While: Seen{Fresh: true}},
	{Name: "bookmarks missing", Cause: lies(func(l *standin.Behavior) { l.NoBookmarks = true }),
		Short: 10 * time.Second, Long: 10 * time.Minute, While: Seen{Fresh: true}},
	{Name: "connections that lose every packet", Cause: lies(func(l *standin.Behavior) { l.HangConnections = true }),
		Short: 10 * time.Second, Long: 2 * time.Minute, While: Seen{Within: 15 * time.Second, Says: "no complete answer in time", Down: "pods nodes", Page: keeps}},
	{Name: "metrics-server gone", Cause: metricsAPI(unavailable),
		Short: 10 * time.Second, Long: 2 * time.Minute, While: Seen{Says: "metrics-server is not running", Down: "pods nodes", Page: keeps}},
	{Name: "metrics-server returns an empty list", Cause: lies(func(l *standin.Behavior) { l.OmitUsage = func(string, string) bool { return true } }),
		Short: 10 * time.Second, Long: 2 * time.Minute, While: Seen{Within: behind, Fresh: true, Page: has(0, 0)}},
	{Name: "metrics-server returns half of the pods", Cause: lies(func(l *standin.Behavior) {
		l.OmitUsage = func(_, name string) bool { return len(name) > 0 && name[len(name)-1]%2 == 0 }
	}),
		Short: 10 * time.Second, Long: 2 * time.Minute, While: Seen{Fresh: true}},
	{Name: "windows of 0", Cause: lies(func(l *standin.Behavior) { l.Window = new(time.Duration) }),
		Short: 10 * time.Second, While: Seen{Within: behind, Fresh: true, Page: has(0, 1)}},
	{Name: "windows of negative length", Cause: lies(func(l *standin.Behavior) { l.Window = new(-15 * time.Second) }),
		Short: 10 * time.Second, While: Seen{Within: behind, Fresh: true, Page: has(0, 1)}},
}

// killed ends the simulated API server as kill -9 does.
func killed(_ context.Context, b *Bench) (func(context.Context) error, error) {
	b.API.Kill()
	return func(context.Context) error { return b.API.Restart() }, nil
}

// intercepts answers the requests that f answers.
func intercepts(b *Bench, f func(w http.ResponseWriter, r *http.Request) (answered bool)) (func(context.Context) error, error) {
	b.API.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !f(w, r) {
			next.ServeHTTP(w, r)
		}
	})
	return func(context.Context) error { b.API.Intercept(nil); return nil }, nil
}

type cause = func(context.Context, *Bench) (func(context.Context) error, error)

func answers(err func() error) cause {
	return func(_ context.Context, b *Bench) (func(context.Context) error, error) {
		return intercepts(b, func(w http.ResponseWriter, r *http.Request) bool {
			standin.WriteError(w, r, err())
			return true
		})
	}
}

// metricsAPI fails what metrics-server would answer.
func metricsAPI(err func() error) cause {
	return func(_ context.Context, b *Bench) (func(context.Context) error, error) {
		return intercepts(b, func(w http.ResponseWriter, r *http.Request) bool {
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
	return func(_ context.Context, b *Bench) (func(context.Context) error, error) {
		return intercepts(b, func(w http.ResponseWriter, r *http.Request) bool {
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
func unknownToken(_ context.Context, b *Bench) (func(context.Context) error, error) {
	token := b.API.RESTConfig().BearerToken
	b.API.SetTokens("another")
	return func(context.Context) error { b.API.SetTokens(token); return nil }, nil
}

// compacted ends the watches, changes pods while there are none, and forgets how.
func compacted(ctx context.Context, b *Bench) (func(context.Context) error, error) {
	mend, err := forbids("watch", "/api/v1/pods")(ctx, b)
	if err != nil {
		return nil, err
	}
	b.API.CloseWatches()
	b.change(ctx, 30)
	b.API.Compact()
	return func(context.Context) error { return nil }, mend(ctx)
}

// change changes this many pods.
func (b *Bench) change(ctx context.Context, pods int) {
	for range pods {
		b.API.ChurnOnce()
		_ = b.Look(ctx) // a simulated cluster can always be looked at
	}
}

// every does something again and again.
func every(pause time.Duration, f func(*Bench)) cause {
	return func(_ context.Context, b *Bench) (func(context.Context) error, error) {
		end, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for tick := time.NewTicker(pause); ; {
				select {
				case <-tick.C:
					f(b)
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
	return func(_ context.Context, b *Bench) (func(context.Context) error, error) {
		lie := b.API.Behavior()
		change(&lie)
		b.API.SetBehavior(lie)
		return func(context.Context) error { b.API.SetBehavior(standin.Behavior{}); return nil }, nil
	}
}

// keeps looks that nothing is lost: the last values stay until they reach max-age.
func keeps(b *Bench, page *exporter.Page) error {
	if n := len(check.Served(page)); n < len(b.API.Pods()) {
		return fmt.Errorf("the page has %d samples of %d pods", n, len(b.API.Pods()))
	}
	return nil
}

// has looks for samples of CPU and memory: none (0) or some (1).
func has(cpu, memory int) func(*Bench, *exporter.Page) error {
	return func(_ *Bench, page *exporter.Page) error {
		for family, want := range map[string]int{check.PodCPU: cpu, check.NodeCPU: cpu, check.PodMemory: memory, check.NodeMemory: memory} {
			if n := len(page.Family(family)); min(n, 1) != want {
				return fmt.Errorf("the page has %d samples of %s", n, family)
			}
		}
		return nil
	}
}

func tooMany() error { return apierrors.NewTooManyRequests("slow down", 3) }
