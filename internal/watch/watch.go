// Package watch keeps a store in step with the objects of one resource of a cluster: pods, nodes, or any other type of
// package slim.
package watch

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/store"
)

// Options say what to watch, and what to keep of it.
type Options[V comparable] struct {
	Client   rest.Interface // of the resource's group and version
	Resource string         // such as pods
	// Optional is what is missing without the resource, in words for the operator: "nodes are not served by the page
	// kube-state-metrics". That the account has no right to it, or the server no such resource, is then a notice and no
	// failure of health. "" for a resource that is needed.
	Optional string
	// Namespaces are watched each by itself, "" for the whole cluster. Of the resource namespaces, each but "" is an
	// object, which is read by its name every half a minute: to a Namespace itself a Role can give the right to get it,
	// but not to list or watch it. So a Namespace belongs to itself here, in the store as well.
	Namespaces    []string
	Excluded      []string // namespaces, left out by the server
	LabelSelector string   // applied by the server; empty for all objects
	// ListOnly says that the objects are listed once, by pages, and then left alone: no watch is ever asked for, so that
	// the right to one is not needed. What has come by the list stays Synced.
	ListOnly bool
	New      func() slim.Object // of the resource's type, or slim.Metadata for no more than its metadata
	// Keep returns what is to be kept of an object, which is all that is held of it from then on.
	Keep  func(slim.Object) store.Entry[V]
	Store *store.Store[V]
	// Changed is called after each change of a namespace's State, by several goroutines.
	Changed func(namespace string)
	Pulse   *refresh.Pulse     // of the process, for Distrust
	Health  *health.Tracker    // told of each namespace
	Self    *selfmetrics.Scope // watch_up and watched_objects are registered with it
}

// Watch keeps a store in step with a cluster, by one of client-go's reflectors for each namespace. They feed the store
// directly: a shared informer's queue and index would hold every object twice more. A first list is streamed (a
// watch-list); where the server cannot do that it is read page by page. Whole objects are never held longer than it
// takes to Keep them, and all that is read has a limit in time and number.
type Watch[V comparable] struct {
	Options[V]
	name       string // of the resource as kubectl has it: with its group, but for the core one
	maxObjects int    // manyObjects, or fewer in tests

	changed refresh.Broadcast // after each change of a State

	mu          sync.Mutex
	frozen      time.Duration             // how long the process had stood still when Distrust was last called
	generations map[string]*generation[V] // the present one by namespace; their State and failing are guarded by mu
}

// State is how the watch of one namespace, or of the whole cluster, is doing.
type State struct {
	Synced  bool          // whether the first list is complete
	Failure *kube.Failure // of the last request; nil where that worked
	Since   time.Time     // since when no request has worked; zero where Failure is nil
}

// New returns a watch that begins as soon as it is Run.
func New[V comparable](o Options[V]) *Watch[V] {
	o.Namespaces = slices.Compact(slices.Sorted(slices.Values(o.Namespaces)))
	w := &Watch[V]{Options: o, maxObjects: manyObjects, generations: map[string]*generation[V]{}}
	w.frozen = o.Pulse.Frozen()
	w.Resync()
	label := fmt.Sprintf("resource=%q", o.Resource)
	o.Self.Gauge("watch_up", "Whether the watch of the resource has had its first list and its last request worked.",
		label, func() float64 {
			if w.Up() {
				return 1
			}
			return 0
		})
	o.Self.Gauge("watched_objects", "Objects that are watched.", label, func() float64 { return float64(o.Store.Len()) })
	return w
}

// What is the key of a namespace's health.
func (w *Watch[V]) What(namespace string) string {
	switch {
	case namespace == "":
		return "watch of " + w.Resource
	case w.ofNamespaces():
		return "watch of namespace " + namespace
	}
	return "watch of " + w.Resource + " of namespace " + namespace
}

// ofNamespaces tells whether it is Namespaces that are watched, see Options.Namespaces.
func (w *Watch[V]) ofNamespaces() bool { return w.Resource == "namespaces" }

// Ready waits for the first list of a namespace's objects. It fails where the watch cannot begin, or has been broken
// for longer than maxAge: what is known of an object that old may be of its predecessor.
func (w *Watch[V]) Ready(ctx context.Context, namespace string, maxAge time.Duration) error {
	for {
		changed := w.changed.Wait()
		switch s := w.State(namespace); {
		case s.Failure != nil && (!s.Synced || time.Since(s.Since) > maxAge):
			return s.Failure
		case s.Synced:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return &kube.Failure{Reason: kube.Watch, Text: fmt.Sprintf("cannot watch %s: the first list of all %[1]s is not "+
				"complete yet; if it never is, check the network and the API server's load", w.Resource)}
		}
	}
}

// patience is how long a watch may be interrupted without being reported: it is opened anew every few minutes.
const patience = 5 * time.Second

// report tells of a namespace's state, after each change of it.
func (w *Watch[V]) report(namespace string) {
	w.changed.Send()
	what, notice := w.What(namespace), ""
	switch s := w.State(namespace); {
	case s.Refused() && w.Optional != "":
		w.Health.SetUnhealthy(what, s.Failure, w.Optional)
		notice = w.Optional + ": " + s.Failure.Text
	case s.Failure != nil && (time.Since(s.Since) > patience || s.Failure.Reason == kube.Forbidden ||
		s.Failure.Reason == kube.Unauthorized):
		w.Health.SetUnhealthy(what, s.Failure, "")
	case s.Working():
		w.Health.SetHealthy(what)
	}
	w.Health.SetNotice(what, notice)
	w.Changed(namespace)
}

// Run watches until ctx ends.
func (w *Watch[V]) Run(ctx context.Context) {
	w.name = schema.GroupResource{Group: w.Client.APIVersion().Group, Resource: w.Resource}.String()
	var running sync.WaitGroup
	for _, namespace := range w.Namespaces {
		running.Go(func() {
			for ctx.Err() == nil {
				w.mu.Lock()
				g := w.generations[namespace]
				w.mu.Unlock()
				g.run(ctx)
			}
		})
	}
	running.Wait()
}

// frozen is how long the process has to have stood still for a watch to be distrusted: it may be dead and not know.
const frozen = 5 * time.Second

// Distrust lists everything anew if the process has stood still for long since the last call.
func (w *Watch[V]) Distrust() {
	w.mu.Lock()
	defer w.mu.Unlock() // only now, so that who calls next finds what is distrusted gone
	was := w.frozen
	if w.frozen = w.Pulse.Frozen(); w.frozen-was > frozen {
		w.resync()
	}
}

// Resync distrusts what the watches have brought and begins a new generation of them, each with a list. What an earlier
// generation still brings changes nothing.
func (w *Watch[V]) Resync() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resync()
}

func (w *Watch[V]) resync() {
	for _, namespace := range w.Namespaces {
		g := &generation[V]{Watch: w, namespace: namespace}
		g.life, g.end = context.WithCancel(context.Background())
		if old := w.generations[namespace]; old != nil {
			g.Failure, g.Since, g.failing = old.Failure, old.Since, old.failing
			old.end()
		}
		w.generations[namespace] = g
	}
}

// State tells how the watch of one of the Scopes is doing.
func (w *Watch[V]) State(namespace string) (s State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if g := w.generations[namespace]; g != nil {
		s = g.State
	}
	return s
}

// Working tells whether there was a first list, and the last request worked.
func (s State) Working() bool { return s.Synced && s.Failure == nil }

// Refused tells whether the last request failed because the account has no right to the resource, or the server no such
// resource. Who waits for what is optional waits until it is Synced or Refused.
func (s State) Refused() bool {
	return s.Failure != nil && (s.Failure.Reason == kube.Forbidden || s.Failure.Reason == kube.NotFound)
}

// Up tells whether all scopes have their first list and work.
func (w *Watch[V]) Up() bool {
	return !slices.ContainsFunc(w.Namespaces, func(namespace string) bool { return !w.State(namespace).Working() })
}

// Scopes are the namespaces that are watched, each once and in order.
func (w *Watch[V]) Scopes() []string { return w.Namespaces }
