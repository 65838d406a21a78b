// Package fleet is the clusters that are served, as scrapes see them: all together, or one of several.
package fleet

import (
	"context"
	"io"
	"net/http"
	"sync"

	"metrics-server-prom/internal/family"
	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/pages"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/serve"
)

// Cluster is what a page is made of.
type Cluster interface {
	// Current waits until what there is to serve on the page of that name is current, or ctx ends.
	Current(ctx context.Context, page string) pages.Shown
	// Release gives back what the page of that name is made of, until it is asked for again.
	Release(page string)
	// State is a line for each thing that does not work, and one for each that is not as it should be but does no harm.
	State() (failures, notices []string)
	// Why is the text of one thing that does not work, "" where nothing is known of such a thing.
	Why() string
	// HasData tells whether everything was tried to be read, and something was.
	HasData() bool
}

// Fleet is the clusters that are configured, which may come and go where there are Several. The methods of View that it
// has are those of all.
type Fleet struct {
	View
	Several  bool // there may be several clusters, which have names
	Families family.Table
	Names    []string // of the pages
	Pulse    *refresh.Pulse
	Stopping context.Context // done once no scrape is to wait any more
	Health   health.Tracker  // of what is no cluster's

	mu      sync.Mutex
	members []*member         // in order of their names; a slice that was made never changes
	changed refresh.Broadcast // after each change of members
}

type member struct {
	Cluster
	name string // "" where there is only one
	view View   // of this one alone, where there are several
}

// Begin has the pages answered from now on. self writes the exporter's metrics of itself.
func (f *Fleet) Begin(self func(io.Writer)) {
	f.View = f.newView(self, f.present)
}

// All is the clusters that are configured now, in order of their names.
func (f *Fleet) All() (all []Cluster) {
	for _, m := range f.present() {
		all = append(all, m.Cluster)
	}
	return all
}

// present are the members now.
func (f *Fleet) present() []*member {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.members
}

// Add makes a cluster one of those that are served, whose name is "" where there is only one. self writes the
// exporter's metrics of itself that are of it.
func (f *Fleet) Add(name string, c Cluster, self func(io.Writer)) {
	m := &member{Cluster: c, name: name}
	if f.Several {
		m.view = f.newView(self, func() []*member { return []*member{m} })
		m.view.one = true
	}
	f.change(name, m)
}

// Remove takes the cluster of that name out of those that are served.
func (f *Fleet) Remove(name string) {
	m := f.member(name)
	f.change(name, nil)
	m.view.Pages.Close()
	f.Pages.Replaced(true)
}

// change has m be the member of that name, nil for none.
func (f *Fleet) change(name string, m *member) {
	f.mu.Lock()
	var all []*member
	for _, other := range f.members {
		if m != nil && name < other.name {
			all, m = append(all, m), nil
		}
		if other.name != name {
			all = append(all, other)
		}
	}
	if m != nil {
		all = append(all, m)
	}
	f.members = all
	f.mu.Unlock()
	f.changed.Send()
}

// member is that of a name; nil for none.
func (f *Fleet) member(name string) *member {
	for _, m := range f.present() {
		if m.name == name {
			return m
		}
	}
	return nil
}

// Replaced is to be called when a snapshot of the cluster of that name is replaced, or with its connection all of them.
func (f *Fleet) Replaced(name string, ended bool) {
	f.Pages.Replaced(ended)
	if m := f.member(name); m != nil {
		m.view.Pages.Replaced(ended)
	}
}

// StateOf is State of the cluster of that name, which may be gone, or of all for "".
func (f *Fleet) StateOf(name string) (failures, notices []string) {
	if name == "" {
		return f.State()
	}
	if m := f.member(name); m != nil {
		return m.State()
	}
	return nil, nil
}

// Wait waits as Page does for that of the telemetry path: of the cluster of that name, or of all for "".
func (f *Fleet) Wait(ctx context.Context, name string) {
	if m := f.member(name); m != nil {
		m.Current(ctx, "")
	} else if name == "" {
		f.gather(ctx, "", f.present(), nil)
	}
}

// Asked answers a request about the cluster that it asks for by its parameter cluster, or about all. Who is there is
// looked at once: one that goes meanwhile is not answered with all.
func (f *Fleet) Asked(answer func(*View, http.ResponseWriter, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !f.Several {
			answer(&f.View, w, r)
			return
		}
		all := f.present()
		switch i, ok := serve.Asked(w, r, names(all)); {
		case !ok:
		case i < 0:
			answer(&f.View, w, r)
		default:
			answer(&all[i].view, w, r)
		}
	}
}

// Discovery answers with a target for each cluster.
func (f *Fleet) Discovery(w http.ResponseWriter, r *http.Request) {
	serve.Discovery(w, r, names(f.present()))
}

func names(of []*member) (all []string) {
	for _, m := range of {
		all = append(all, m.name)
	}
	return all
}
