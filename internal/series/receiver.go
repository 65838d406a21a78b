package series

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"metrics-server-prom/internal/family"
	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/remotewrite"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/state"
	"metrics-server-prom/internal/store"
)

// receiver is what a receiver of remote write has of this process. It is for one push at a time.
type receiver struct {
	families family.Table
	targets  map[string]*remotewrite.Target // by page
	since    int64                          // see Usage
	maxAge   time.Duration
	once     bool

	usage map[string]*Usage
	state []func(*pushed, *Known) error // push the state of a resource's objects that a page has
	self  map[string]struct{}           // series, NAME{LABELS
	up    bool                          // was sent
	last  int64                         // the moment of the last push, Unix ms
}

// newReceiver returns one that has nothing yet. The job of a page has its name, that of the page "" is the program's.
// once: the receiver is for one push, which has all readings but nothing that this program counts itself, as that would
// begin again with each process.
func newReceiver(f *Feed, once bool) *receiver {
	r := &receiver{families: f.Families, targets: map[string]*remotewrite.Target{}, maxAge: f.Scope.MaxAge, once: once,
		usage: map[string]*Usage{}, self: map[string]struct{}{}}
	if !once {
		r.since = time.Now().Unix()
	}
	r.targets[""] = f.Target("metrics-server-prom")
	for _, page := range f.Scope.Pages {
		r.targets[page] = f.Target(page)
		r.addState(page, f.Families.Rows("pods", []string{page}, f.Scope.PodLabels))
	}
	return r
}

// addState adds what a page has of the state of objects; of pods these are the rows.
func (r *receiver) addState(page string, rows []state.Row) {
	renderer := &state.Renderer{}
	if len(rows) > 0 {
		o := objectsOf(r, page, func(e store.Entry[sample.Text], f func(uint8, []byte, float64)) {
			renderer.EachPod(rows, e, f)
		})
		r.state = append(r.state, func(p *pushed, k *Known) error {
			return o.Push(p.ctx, p.out, k.of(page).Pods, p.at)
		})
	}
	for i := range state.Resources {
		resource := state.Resources[i].Name
		if !r.families.WantedBy(page)(resource) {
			continue
		}
		o := objectsOf(r, page, func(e store.Entry[string], f func(uint8, []byte, float64)) {
			renderer.EachKept(e, func(family uint8, labels []byte, value float64) {
				if r.families[family].Page == page {
					f(family, labels, value)
				}
			})
		})
		r.state = append(r.state, func(p *pushed, k *Known) error {
			return o.Push(p.ctx, p.out, k.of(page).Others[resource], p.at)
		})
	}
}

func objectsOf[V comparable](r *receiver, page string,
	each func(store.Entry[V], func(uint8, []byte, float64))) *Objects[V] {
	return &Objects[V]{Each: each, Names: r.families.Names(), Target: r.targets[page]}
}

// pushed is one push to a receiver.
type pushed struct {
	*receiver
	ctx context.Context
	out *push.Out
	at  int64 // its moment, Unix ms
}

// maxAhead is how far ahead of its own clock a receiver takes samples, in milliseconds: 10 minutes, as Prometheus does.
const maxAhead = 600_000

// begin begins a push of what is known now. A clock that was set back does not take series back in time, unless it was
// so far ahead that no receiver has taken anything since. A start that was in the future then is now.
func (r *receiver) begin(ctx context.Context, out *push.Out) *pushed {
	at := time.Now().UnixMilli()
	ahead := r.last - at
	r.since = min(r.since, at/1000)
	for _, u := range r.usage {
		if u.Since = min(u.Since, r.since); ahead > maxAhead {
			u.setBack(at)
		}
	}
	if ahead >= 0 && ahead <= maxAhead {
		at = r.last + 1
	}
	return &pushed{r, ctx, out, at}
}

// nothing is a batch of which nothing is left.
func nothing(f func(*sample.Batch)) { f(&sample.Batch{Ordered: true}) }

// addUsage adds what a list of the resource has, which read gives. key tells the lists apart.
func (p *pushed) addUsage(key, resource string, read func(func(*sample.Batch))) error {
	u := p.usage[key]
	if u == nil {
		u = &Usage{Since: p.since, MaxAge: p.maxAge}
		for _, f := range p.families {
			target := p.targets[f.Page]
			if f.Source == resource && f.Labels != nil && target != nil && !(p.once && f.Kind == "counter") {
				u.Rows = append(u.Rows, Row{f, target})
			}
		}
		p.usage[key] = u
	}
	return u.Push(p.ctx, p.out, read, p.at)
}

// addState adds what the pages have of the state of objects. That of a page which is not served has ended.
func (p *pushed) addState(k *Known) error {
	var failed []error
	for _, push := range p.state {
		failed = append(failed, push(p, k))
	}
	return errors.Join(failed...)
}

// addSelf adds the exporter's metrics of itself, a text of the exposition format, and ends those that are not in it.
func (p *pushed) addSelf(text []byte) error {
	target, at := p.targets[""], p.at
	gone := p.self
	p.self = map[string]struct{}{}
	selfmetrics.Each(text, func(kind string, name, labels []byte, value float64) {
		if p.once && kind != "gauge" {
			return
		}
		series := string(name) + "{" + string(labels)
		delete(gone, series)
		p.self[series] = struct{}{}
		p.out.Add(target, string(name), labels, value, at)
	})
	for series := range gone {
		name, labels, _ := strings.Cut(series, "{")
		p.out.Add(target, name, []byte(labels), remotewrite.Stale, at)
	}
	err := p.out.Flush(p.ctx)
	if err != nil {
		maps.Copy(p.self, gone) // it may not know yet that they have ended
	}
	return err
}

// addUp adds whether there is what each page shows, as a scrape of it would have found.
func (p *pushed) addUp(serves func(page string) bool) error {
	for page, target := range p.targets {
		p.out.Add(target, "up", nil, map[bool]float64{true: 1}[serves(page)], p.at)
	}
	p.up, p.last = true, p.at
	return p.out.Flush(p.ctx)
}

// end ends all series that the receiver has.
func (p *pushed) end() error {
	var all []error
	for _, u := range p.usage {
		all = append(all, u.Push(p.ctx, p.out, nothing, p.at))
	}
	all = append(all, p.addState(&Known{}), p.addSelf(nil))
	for _, target := range p.targets {
		if p.up {
			p.out.Add(target, "up", nil, remotewrite.Stale, p.at)
		}
	}
	failed := errors.Join(append(all, p.out.Flush(p.ctx))...)
	p.up = p.up && failed != nil
	return failed
}
