package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/objects"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/pages"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/scope"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/series"
	"metrics-server-prom/internal/serve"
	"metrics-server-prom/internal/state"
	"metrics-server-prom/internal/top"
	"metrics-server-prom/internal/usage"
)

// cluster is one cluster, as long as it is configured. Its connection changes with what its kubeconfig says of it.
type cluster struct {
	name      string // "" where there is only one
	set       *scope.Settings
	userAgent string // of its requests
	once      bool   // everything is read once, and nothing is watched
	self      *selfmetrics.Scope
	health    health.Tracker
	pulse     *refresh.Pulse
	observe   func(*usage.List)          // called when a list was read
	replace   func(ended bool)           // called when a snapshot is replaced, or with the connection all of them
	present   atomic.Pointer[connection] // nil while no cluster is configured
	changed   refresh.Broadcast          // after each connect
	gone      context.Context            // done when it is not configured any more
	remove    context.CancelCauseFunc    // ends gone, with what says so
}

// source is how the cluster is connected to. Nothing of one connection is served after another.
func (c *cluster) source() *kube.Cluster {
	return &kube.Cluster{
		Name:      c.name,
		UserAgent: c.userAgent,
		Report:    c.requested,
		Failed:    func(f *kube.Failure) { c.health.SetUnhealthy("cluster", f, "") },
		Run: func(ctx context.Context, client func(schema.GroupVersion) rest.Interface) {
			n := c.connect(client)
			c.health.SetUnknown(n.things...) // before the cluster is healthy, which may be the end of an outage
			c.health.SetHealthy("cluster")
			defer context.AfterFunc(ctx, func() { c.leave(n) })()
			n.run(ctx)
			c.leave(n)
			c.health.SetUnknown(n.things...)
		},
	}
}

func (c *cluster) requested(resource, verb, code string) {
	c.self.Counter("api_requests_total", "Requests made to the API server.",
		fmt.Sprintf("resource=%q,verb=%q,code=%q", resource, verb, code)).Inc()
}

// connect makes a connection the present one.
func (c *cluster) connect(client func(schema.GroupVersion) rest.Interface) *connection {
	n := newConnection(c, client)
	c.present.Store(n)
	c.changed.Send()
	return n
}

// leave ends a connection. Where its successor is there already, that stays.
func (c *cluster) leave(n *connection) {
	n.end()
	c.present.CompareAndSwap(n, nil)
	n.source.Self.Close()
	c.replace(true)
}

// topSource is what the page for people is made of.
func (c *cluster) topSource() top.Source {
	s := top.Source{Name: c.name}
	if n := c.present.Load(); n != nil {
		for _, l := range n.lists {
			s.Lists = append(s.Lists, l.List)
		}
		s.Others, s.Watched, s.Period = n.Others, n.Pods.Store.Len(), n.ticks.Fresh.Period()
	}
	return s
}

// State is a line for each thing that does not work, and one for each that is not as it should be but does no harm.
func (c *cluster) State() (failures, notices []string) {
	if failures = c.health.Failures(); len(failures) == 0 && !c.HasData() {
		failures = []string{c.health.Line("pods, nodes: not read yet")}
	}
	return failures, c.health.Notices()
}

// Why is the text of one thing that does not work, "" where none is known.
func (c *cluster) Why() string { return c.health.Why() }

// Release gives back what the page of that name is made of, until it is asked for again.
func (c *cluster) Release(page string) {
	if n := c.present.Load(); n != nil {
		n.All.Release(page == kubeState, families.WantedBy(page))
	}
}

// HasData tells whether there are first snapshots.
func (c *cluster) HasData() bool {
	tried, data := true, false
	if n := c.present.Load(); n != nil {
		for _, s := range n.snapshots() {
			tried, data = tried && s.Tried(), data || !s.Refreshed.IsZero()
		}
	}
	return tried && data
}

// Current waits until what there is to serve on the page of that name is current: for the first snapshots and lists of
// objects, and after a time in which the process did not run for the next ones. Regularly it does not wait at all. All
// is of one connection.
func (c *cluster) Current(ctx context.Context, name string) (s pages.Shown) {
	s.Failed = c.try(ctx, func(n *connection) (err error) {
		if name != kubeState {
			if s.Snapshots, err = n.current(ctx); err != nil {
				return err
			}
		}
		if name != "" {
			s.Objects, err = n.objects(ctx, name)
		}
		return err
	})
	if s.Failed != nil {
		return pages.Shown{Failed: s.Failed}
	}
	return s
}

// try calls f with the present connection and, where that ends, with its successors until ctx ends.
func (c *cluster) try(ctx context.Context, f func(*connection) error) error {
	for {
		changed := c.changed.Wait()
		if n := c.present.Load(); n != nil {
			var failure *kube.Failure
			if err := f(n); err == nil || errors.As(err, &failure) {
				return err
			}
		}
		select {
		case <-changed:
		case <-c.gone.Done():
			return context.Cause(c.gone)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// known waits as long as a scrape does until what there is to push is current. What is not is missing from it.
func (c *cluster) known(ctx context.Context) (k series.Known) {
	ctx, cancel := context.WithTimeout(ctx, serve.Patience(nil))
	defer cancel()
	if c.try(ctx, func(n *connection) error {
		k = series.Known{Known: n.Known(ctx, c.set.Serves(kubeState))}
		snapshots, _ := n.current(ctx)
		for _, s := range snapshots {
			k.Lists, k.Pending = append(k.Lists, s.Read), k.Pending || !s.Tried()
		}
		return n.life.Err()
	}) != nil {
		return series.Known{} // of a connection that has ended
	}
	return k
}

// read waits until something is known, or has failed.
func (c *cluster) read(ctx context.Context) error {
	for len(c.known(ctx).Lists) == 0 {
		if err := c.failed(ctx); err != nil {
			return err
		}
	}
	return nil
}

// failed is what has failed, or that the cluster or ctx has ended.
func (c *cluster) failed(ctx context.Context) error {
	return cmp.Or(context.Cause(c.gone), c.health.Err(), ctx.Err())
}

// connection is what is known of a cluster by one configuration of it: the sources, each feeding what the next one
// needs.
type connection struct {
	cluster *cluster
	source  objects.Cluster
	objects.All
	lists     []*list // nodes, then the pods of each namespace
	ticks     usage.Ticks
	things    []string        // the keys of its health
	life      context.Context // done when the connection has ended
	end       context.CancelFunc
	published refresh.Broadcast // after each change of a snapshot
}

func newConnection(c *cluster, client func(schema.GroupVersion) rest.Interface) *connection {
	set, labels := c.set, label.Pods{Keys: c.set.PodLabels, Names: label.Names(c.set.PodLabels)}
	n := &connection{cluster: c, source: objects.Cluster{Client: client, Namespaces: set.Each(),
		Excluded: set.ExcludeNamespaces, MaxAge: set.MaxAge, ListOnly: c.once, Pulse: c.pulse, Health: &c.health,
		Self: c.self.Scope(), Label: label.Cluster(c.name)}}
	n.life, n.end = context.WithCancel(context.Background())
	n.ticks = usage.Ticks{Probed: nodes, Most: set.RefreshInterval, Pulse: c.pulse, Changed: &n.published}
	if len(set.Namespaces) > 0 { // what the shipped roles let it get
		n.ticks.Probed = pods
	}
	n.Pods = objects.NewPods(&n.source, objects.Pods{Labels: labels, Selector: set.Selector, Whole: len(set.Pages) > 0,
		Workload: set.Top, Counted: set.Serves(cadvisor), Rows: families.Rows(pods, set.Pages, set.PodLabels),
		Names: names, Changed: n.watched})
	n.Others, n.things = objects.NewOthers(&n.source, func(resource string) []state.Row {
		return families.Needed(resource, set.Pages, set.Top)
	}, names)
	n.things = append(n.things, n.Pods.Keys()...)
	n.newList(nodes, "", sample.Joiner{})
	for _, namespace := range set.Each() {
		n.newList(pods, namespace, sample.Joiner{Store: n.Pods.Store, Unknown: labels.Unknown,
			Excluded: set.ExcludeNamespaces})
	}
	registerServed(n.source.Self, n.snapshots)
	n.ticks.Fresh.Register(n.source.Self)
	return n
}

// watched is called after a change of how a watch of pods is doing: what could not be read without it is read now.
func (n *connection) watched(namespace string) {
	for _, l := range n.lists[1:] {
		if l.Namespace == namespace && !l.Working() && n.Pods.Watch.State(namespace).Working() {
			l.Loop.Wake()
		}
	}
}

// objects returns the parts of a page that come of objects, by source and family. It waits as cluster.Current does, and
// fails where there is nothing to serve of pods, for the page that has these, or when the connection ends.
func (n *connection) objects(ctx context.Context, name string) (all [][][]*page.Part, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.life, cancel)()
	all, err = n.Parts(ctx, name == kubeState, families.WantedBy(name))
	return all, cmp.Or(n.life.Err(), err) // what has ended the waiting
}

func (n *connection) snapshots() (all []*pages.Snapshot) {
	for _, l := range n.lists {
		all = append(all, l.present.Load())
	}
	return all
}

// run keeps the snapshots up to date until ctx ends.
func (n *connection) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { n.All.Run(ctx) })
	if !n.cluster.once {
		wg.Go(func() { n.ticks.Follow(ctx) })
	}
	for _, l := range n.lists {
		wg.Go(func() { l.Loop.Run(ctx) })
	}
	wg.Wait()
}

// current is cluster.Current for this connection's snapshots, see usage.Current. It fails when ctx ends, or when the
// connection does.
func (n *connection) current(ctx context.Context) (all []*pages.Snapshot, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.life, cancel)()
	current, err := usage.Current(ctx, n.ticks.Lists, func(i int) usage.Status { return n.lists[i].present.Load().Status },
		&n.published)
	for i, is := range current {
		if is {
			all = append(all, n.lists[i].present.Load())
		} else {
			all = append(all, none)
		}
	}
	return all, err
}

// list is a list of metrics.k8s.io and what scrapes see of it.
type list struct {
	*usage.List
	present atomic.Pointer[pages.Snapshot]
}

// newList adds a list to the connection.
func (n *connection) newList(resource, namespace string, joiner sample.Joiner) {
	l, set := &list{}, n.cluster.set
	l.present.Store(none)
	joiner.MaxAge, joiner.Escape = set.MaxAge, label.Escape
	if set.Serves(cadvisor) {
		joiner.Running = new(label.Containers).Running
	}
	o := usage.Options{Client: n.source.Client(kube.Metrics), Resource: resource, Namespace: namespace, Joiner: joiner,
		Self: n.cluster.self, Health: &n.cluster.health,
		Show: func(b *sample.Batch, s usage.Status) { n.show(l, b, s) }}
	if resource == nodes {
		o.Optional, o.Absent = true, len(set.Namespaces) > 0
	} else {
		o.Selector = set.Selector
		o.Ready = func(ctx context.Context) error {
			n.Pods.Watch.Distrust()
			n.Forget(time.Now().Add(-set.MaxAge))
			return n.Pods.Watch.Ready(ctx, namespace, set.MaxAge)
		}
	}
	l.List = usage.New(o, n.source.Self)
	l.Loop.Interval = n.ticks.Interval
	l.Loop.Pulse, l.Loop.Spread = n.cluster.pulse, n.cluster.name != ""
	l.Loop.Cutoff = min(max(set.RefreshInterval, 10*time.Second), time.Minute)
	n.lists, n.things = append(n.lists, l), append(n.things, l.What)
	n.ticks.Lists = append(n.ticks.Lists, l.List)
}

// show makes what has become of a list what scrapes see.
func (n *connection) show(l *list, b *sample.Batch, status usage.Status) {
	old := l.present.Load()
	next := *old
	if b != nil {
		next = *pages.NewSnapshot(families, n.source.Label, l.Resource, b)
		next.Read = l.Read
	}
	next.Status = status
	l.present.Store(&next)
	n.cluster.replace(false)
	n.published.Send()
	n.cluster.observe(l.List)
	n.ticks.Shown(l.List, old.Status, status)
}
