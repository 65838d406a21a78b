package series

import (
	"cmp"
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

	usage  map[string]*Usage
	pods   *Objects[sample.Text]
	others map[string]*Objects[string]
	self   map[string]struct{} // series, NAME{LABELS
	up     bool                // was sent
}

// newReceiver returns one that has nothing yet. The job of a page has its name, that of the page "" is the program's.
// once: the receiver is for one push, which has all readings but nothing that this program counts itself, as that would
// begin again with each process.
func newReceiver(f *Feed, once bool) *receiver {
	r := &receiver{families: f.Families, targets: map[string]*remotewrite.Target{}, maxAge: f.Scope.MaxAge, once: once,
		usage: map[string]*Usage{}, others: map[string]*Objects[string]{}, self: map[string]struct{}{}}
	if !once {
		r.since = time.Now().Unix()
	}
	for _, page := range append([]string{""}, f.Scope.Pages...) {
		r.targets[page] = f.Target(cmp.Or(page, "metrics-server-prom"))
	}
	return r
}

// pushed is one push to a receiver.
type pushed struct {
	*receiver
	ctx context.Context
	out *push.Out
	now time.Time
}

// begin begins a push of what is known now.
func (r *receiver) begin(ctx context.Context, out *push.Out) *pushed {
	return &pushed{r, ctx, out, time.Now()}
}

// nothing is a batch of which nothing is left.
func nothing(f func(*sample.Batch)) { f(&sample.Batch{Ordered: true}) }

// addUsage addes what a list of the resource has, which read gives. key tells the lists apart.
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
	return u.Push(p.ctx, p.out, read, p.now)
}

// addPods addes the state of pods, the families of rows.
func (p *pushed) addPods(rows []state.Row, leaves []*store.Leaf[sample.Text]) error {
	if p.pods == nil {
		renderer := &state.Renderer{}
		p.pods = objectsOf(p, func(e store.Entry[sample.Text], f func(uint8, []byte, float64)) {
			renderer.EachPod(rows, e, f)
		})
	}
	return p.pods.Push(p.ctx, p.out, leaves, p.now)
}

// addOthers addes the state of objects, by resource. One that was there before and is missing now has ended.
func (p *pushed) addOthers(all map[string][]*store.Leaf[string]) error {
	for resource := range all {
		if p.others[resource] == nil {
			p.others[resource] = objectsOf(p, (&state.Renderer{}).EachKept)
		}
	}
	var failed []error
	for resource, o := range p.others {
		failed = append(failed, o.Push(p.ctx, p.out, all[resource], p.now))
	}
	return errors.Join(failed...)
}

func objectsOf[V comparable](p *pushed, each func(store.Entry[V], func(uint8, []byte, float64))) *Objects[V] {
	o := &Objects[V]{Each: each, Names: p.families.Names()}
	for _, f := range p.families {
		o.Targets = append(o.Targets, p.targets[f.Page])
	}
	return o
}

// addSelf addes the exporter's metrics of itself, a text of the exposition format, and ends those that are not in it.
func (p *pushed) addSelf(text []byte) error {
	target, at := p.targets[""], p.now.UnixMilli()
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

// addUp addes whether there is what each page shows, as a scrape of it would have found.
func (p *pushed) addUp(serves func(page string) bool) error {
	for page, target := range p.targets {
		p.out.Add(target, "up", nil, map[bool]float64{true: 1}[serves(page)], p.now.UnixMilli())
	}
	p.up = true
	return p.out.Flush(p.ctx)
}

// end ends all series that the receiver has.
func (p *pushed) end() error {
	var all []error
	for _, u := range p.usage {
		all = append(all, u.Push(p.ctx, p.out, nothing, p.now))
	}
	if p.pods != nil {
		all = append(all, p.pods.Push(p.ctx, p.out, nil, p.now))
	}
	for _, o := range p.others {
		all = append(all, o.Push(p.ctx, p.out, nil, p.now))
	}
	all = append(all, p.addSelf(nil))
	for _, target := range p.targets {
		if p.up {
			p.out.Add(target, "up", nil, remotewrite.Stale, p.now.UnixMilli())
		}
	}
	return errors.Join(append(all, p.out.Flush(p.ctx))...)
}
