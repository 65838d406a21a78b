// Package top is the page for people: how much nodes, namespaces, workloads, pods and containers use, and of what. It
// is made of what the process has anyway when somebody asks for it, and keeps nothing of a pod but the history of the
// last minutes, while somebody looks at it.
package top

import (
	"context"
	"net/http"
	"sync"
	"time"

	"metrics-server-prom/internal/objects"
	"metrics-server-prom/internal/serve"
	"metrics-server-prom/internal/usage"
)

// Source is what is known of a cluster at a moment; the zero value while there is none.
type Source struct {
	Name    string         // "" where there is only one cluster
	Lists   []*usage.List  // of nodes and of pods
	Others  objects.Others // what is watched of nodes, ReplicaSets and Jobs
	Watched int            // pods
	Period  time.Duration  // of the source of the usage, 0 while it is not known
}

// Page is the page and what it reads. Its fields are set before it is used.
type Page struct {
	Version  string
	Revision string          // of the program's source
	Links    []string        // paths of the other pages
	Sources  func() []Source // of each cluster, in order of their names
	// State is a line for each thing that does not work, and for each that should be known, of a cluster or, for "", all.
	State    func(cluster string) (failures, notices []string)
	Interval time.Duration // between two readings of usage while Period is not known
	// Wait waits for the first data of a cluster or, for "", of any. It gives up when the context ends.
	Wait func(ctx context.Context, cluster string)

	history history // of the only cluster

	mu      sync.Mutex
	several map[string]*history // of several clusters, by their names
}

// historyOf returns the history of one of n clusters.
func (p *Page) historyOf(name string, n int) *history {
	h := &p.history
	if name != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		if h = p.several[name]; h == nil {
			if p.several == nil {
				p.several = map[string]*history{}
			}
			h = &history{}
			p.several[name] = h
		}
	}
	h.share.Store(int64(n))
	return h
}

// Gone is to be called when there is a cluster no more: its history is given up.
func (p *Page) Gone(name string) {
	p.mu.Lock()
	h := p.several[name]
	delete(p.several, name)
	p.mu.Unlock()
	if h != nil {
		h.forget()
	}
}

// Handlers returns what answers at which path.
func (p *Page) Handlers() map[string]http.HandlerFunc {
	handlers, frame := files()
	handlers["/top.json"] = p.json
	handlers["/"] = func(w http.ResponseWriter, r *http.Request) { p.html(w, r, frame) }
	return handlers
}

func (p *Page) json(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a, err := p.answer(r.Context(), q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	serve.Text(w, r, "application/json", a.appendJSON(nil))
}

// Observe is to be called when a list of a cluster was read, for the history.
func (p *Page) Observe(source Source, l *usage.List) {
	h := &p.history
	if source.Name != "" {
		p.mu.Lock()
		h = p.several[source.Name]
		p.mu.Unlock()
	}
	if h != nil {
		h.observe(&source, p.Interval, l)
	}
}
