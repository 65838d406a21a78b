package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"metrics-server-prom/internal/family"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/pages"
	"metrics-server-prom/internal/serve"
)

// View is all clusters, or one of several, as requests see them.
type View struct {
	Pages    pages.Set
	fleet    *Fleet
	clusters func() []*member
	one      bool // it is of one of several
}

func (f *Fleet) newView(self func(io.Writer), clusters func() []*member) View {
	release := func(page string) {
		for _, c := range clusters() {
			c.Release(page)
		}
	}
	return View{Pages: pages.NewSet(f.Families, f.Names, self, release), fleet: f, clusters: clusters}
}

// Metrics answers with the page of that name.
func (v *View) Metrics(name string, w http.ResponseWriter, r *http.Request) {
	if v.Pages[name] == nil {
		http.Error(w, "this page is off; --pages "+name+" (PAGES) turns it on", http.StatusNotFound)
		return
	}
	v.Pages[name].Unused.Reset(pages.MaxUnused)
	current := func(ctx context.Context) (*page.Page, error) { return v.Page(ctx, name) }
	serve.Scrape(w, r, v.fleet.Stopping, current, func() string {
		failures, _ := v.State()
		return "no data yet\n" + strings.Join(failures, "\n")
	})
}

// Page waits until what there is to serve on the page of that name is current, of one cluster or of any of several.
func (v *View) Page(ctx context.Context, name string) (*page.Page, error) {
	pulse := v.fleet.Pulse
	for {
		thaws, changed, clusters := pulse.Thaws(), v.fleet.changed.Wait(), v.clusters()
		all := v.gather(ctx, name, clusters, changed)
		missing, ready, failed := "", false, ctx.Err()
		for i, c := range clusters {
			if all[i].Failed == nil {
				ready = true
				continue
			}
			failed = all[i].Failed
			missing += fmt.Sprintf("# cluster %s is missing: %s\n", label.Escape(c.name), cmp.Or(c.Why(), "no data yet"))
		}
		switch {
		case !ready && isClosed(changed): // other clusters have come
			continue
		case !ready:
			return nil, failed
		case v.one && name != family.KubeState && pages.AreLost(all[0].Snapshots):
			return nil, errors.New("nothing is left of what was read")
		}
		if page := v.Pages[name].Page(all, missing); pulse.Thaws() == thaws {
			return page, nil
		} // else what the first cluster had may be old again
	}
}

// gather returns what there is to serve of clusters on the page of that name: of the only one, or of several as
// pages.Gather does.
func (v *View) gather(ctx context.Context, name string, clusters []*member, changed <-chan struct{}) []pages.Shown {
	current := func(ctx context.Context, i int) pages.Shown { return clusters[i].Current(ctx, name) }
	if v.one || !v.fleet.Several {
		return []pages.Shown{current(ctx, 0)}
	}
	return pages.Gather(ctx, len(clusters), current, changed)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// State is a line for each thing that does not work, and one for each that is not as it should be but does no harm.
func (v *View) State() (failures, notices []string) {
	if !v.one {
		failures = v.fleet.Health.Failures()
	}
	for _, c := range v.clusters() {
		f, n := c.State()
		failures, notices = append(failures, f...), append(notices, n...)
	}
	return failures, notices
}

// Healthz answers with the state.
func (v *View) Healthz(w http.ResponseWriter, _ *http.Request) { serve.Health(w, v.State) }

// Ready answers whether there is anything to serve.
func (v *View) Ready(w http.ResponseWriter, _ *http.Request) {
	if v.fleet.Stopping.Err() != nil {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	}
	for _, c := range v.clusters() {
		if c.HasData() {
			io.WriteString(w, "ready\n")
			return
		}
	}
	http.Error(w, "no data yet", http.StatusServiceUnavailable)
}
