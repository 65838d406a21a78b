package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/phase"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/store"
	"metrics-server-prom/internal/usage"
	"metrics-server-prom/internal/watch"
)

// source is what is read, from where and how often, as it is set.
type source struct {
	kubeconfig, context           string
	kubeconfigData, native        string
	namespaces, excludeNamespaces []string
	selector                      string
	podLabels                     []string
	refreshInterval, maxAge       time.Duration
}

// scopes is the namespaces to read one by one; "" is all of them.
func (s *source) scopes() []string {
	if len(s.namespaces) == 0 {
		return []string{""}
	}
	return s.namespaces
}

// cluster is one cluster, as long as the process lives. Its connection changes with its kubeconfig.
type cluster struct {
	set       *source
	userAgent string // of its requests
	self      *selfmetrics.Scope
	health    health.Tracker
	pulse     *refresh.Pulse
	replace   func()                     // called when a snapshot is replaced, so that nobody keeps its memory
	present   atomic.Pointer[connection] // nil while no cluster is configured
	changed   refresh.Broadcast          // after each connect
}

// follow keeps a connection to the cluster that is configured. Nothing of one is served after another.
func (c *cluster) follow(ctx context.Context) {
	from := kube.Cluster{
		Kubeconfig: c.set.kubeconfig, KubeconfigData: c.set.kubeconfigData, Context: c.set.context, Native: c.set.native,
		UserAgent: c.userAgent,
		Report:    c.requested,
		Failed:    func(f *kube.Failure) { c.health.SetUnhealthy("cluster", f, false) },
		Run: func(ctx context.Context, core, metrics rest.Interface) {
			n := c.connect(core, metrics)
			c.health.SetUnknown(n.things...) // before the cluster is healthy, which may be the end of an outage
			c.health.SetHealthy("cluster")
			defer context.AfterFunc(ctx, func() { c.leave(n) })()
			n.run(ctx)
			c.leave(n)
			c.health.SetUnknown(n.things...)
		},
	}
	from.Follow(ctx)
}

func (c *cluster) requested(resource, verb, code string) {
	c.self.Counter("api_requests_total", "Requests made to the API server.",
		fmt.Sprintf("resource=%q,verb=%q,code=%q", resource, verb, code)).Inc()
}

// connect makes a connection the present one.
func (c *cluster) connect(core, metrics rest.Interface) *connection {
	n := newConnection(c, core, metrics)
	c.present.Store(n)
	c.changed.Send()
	return n
}

// leave ends a connection. Where its successor is there already, that stays.
func (c *cluster) leave(n *connection) {
	n.end()
	c.present.CompareAndSwap(n, nil)
	n.self.Close()
	c.replace()
}

// snapshots is what there is to serve at this moment; nothing while no cluster is configured.
func (c *cluster) snapshots() (all []*snapshot) {
	if n := c.present.Load(); n != nil {
		return n.snapshots()
	}
	return nil
}

// hasData tells whether there are first snapshots.
func (c *cluster) hasData() bool {
	tried, data := true, false
	for _, s := range c.snapshots() {
		tried, data = tried && s.Tried(), data || !s.Refreshed.IsZero()
	}
	return tried && data
}

// current waits until what there is to serve is current: for the first snapshots, and after a time in which the process
// did not run for the next ones. Regularly it does not wait at all.
func (c *cluster) current(ctx context.Context) ([]*snapshot, error) {
	for {
		changed := c.changed.Wait()
		if n := c.present.Load(); n != nil {
			if snapshots, err := n.current(ctx); err == nil {
				return snapshots, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// connection is what is known of a cluster by one configuration of it: the sources, each feeding what the next one
// needs.
type connection struct {
	cluster   *cluster
	self      *selfmetrics.Scope
	metrics   rest.Interface
	labeler   labeler
	store     *store.Store[sample.Text]
	watch     *watch.Watch[sample.Text]
	lists     []*list         // nodes, then the pods of each namespace
	things    []string        // the keys of its health
	life      context.Context // done when the connection has ended
	end       context.CancelFunc
	published refresh.Broadcast // after each change of a snapshot

	mu         sync.Mutex
	compressor page.Compressor // of all lists

	fresh     phase.Freshness
	probed    *list // of which the probes look at one object; nil to choose one
	probedKey store.Key
}

func newConnection(c *cluster, core, metrics rest.Interface) *connection {
	n := &connection{cluster: c, self: c.self.Scope(), metrics: metrics, labeler: newLabeler(c.set.podLabels),
		store: store.New[sample.Text]()}
	n.life, n.end = context.WithCancel(context.Background())
	n.watch = watch.New(watch.Options[sample.Text]{
		Client: core, Resource: pods, Kind: "Pod", New: func() slim.Object { return &slim.Pod{} },
		Namespaces: c.set.scopes(), Excluded: c.set.excludeNamespaces, LabelSelector: c.set.selector,
		Keep: n.keep, Store: n.store, Self: n.self, Health: &c.health, Pulse: c.pulse,
		Changed: func(namespace string) { // what could not be read without the watch is read now
			for _, l := range n.lists[1:] {
				if l.Namespace == namespace && !l.Working() && n.watch.State(namespace).Working() {
					l.Loop.Wake()
				}
			}
		},
	})
	n.newList(nodes, "", sample.Joiner{MaxAge: c.set.maxAge, Escape: escape})
	for _, namespace := range c.set.scopes() {
		n.newList(pods, namespace, sample.Joiner{MaxAge: c.set.maxAge, Escape: escape,
			Store: n.store, Unknown: n.labeler.unknown, Excluded: c.set.excludeNamespaces})
	}
	n.self.Gauge("watched_pods", "Replaced by "+selfmetrics.Prefix+"watched_objects; gone in the next version.", "",
		func() float64 { return float64(n.store.Len()) })
	registerServed(n.self, n.snapshots)
	n.fresh.Register(n.self)
	return n
}

// keep is what is kept of a pod. Label text is built here, when a pod's metadata change, not when it is refreshed or
// scraped.
func (n *connection) keep(o slim.Object) store.Entry[sample.Text] {
	text, name := n.labeler.pod(o.(*slim.Pod))
	return store.NewEntry(o, name, text)
}

func (n *connection) snapshots() (all []*snapshot) {
	for _, l := range n.lists {
		all = append(all, l.present.Load())
	}
	return all
}

// run keeps the snapshots up to date until ctx ends.
func (n *connection) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { n.watch.Run(ctx) })
	wg.Go(func() {
		phase.Follow(ctx, phase.Source{Probe: n.probe, Tick: n.ticked, Lost: func() { n.probed = nil; n.fresh.Lost() },
			Thaws: n.cluster.pulse.Thaws, Thawed: n.cluster.pulse.Thawed})
	})
	for _, l := range n.lists {
		wg.Go(func() { l.Loop.Run(ctx) })
	}
	wg.Wait()
}

// current is cluster.current for this connection. It fails when ctx ends, or when the connection does. Where ctx ends
// by its deadline and something of each resource is current, that is what there is to serve: a namespace whose lists
// hang takes nothing away from the others.
func (n *connection) current(ctx context.Context) ([]*snapshot, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.life, cancel)()
	for {
		snapshots, missing, changed := n.look()
		if missing == 0 {
			return snapshots, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			snapshots, missing, _ = n.look()
			if errors.Is(ctx.Err(), context.DeadlineExceeded) && missing < len(n.lists) {
				return snapshots, nil
			}
			return nil, ctx.Err()
		}
	}
}

// look returns the snapshots that are current, empty ones for those that are missing, and their number: all where
// nothing of a resource is current, or where there are no data at all. changed is closed when it is worth looking
// again.
func (n *connection) look() (snapshots []*snapshot, missing int, changed <-chan struct{}) {
	changed = n.published.Wait()
	has, data := map[string]bool{}, false
	for _, l := range n.lists {
		ended := l.Loop.Ended()
		if l.Loop.IsCurrent() && l.present.Load().Tried() {
			s := l.present.Load()
			snapshots, has[l.Resource], data = append(snapshots, s), true, data || !s.Refreshed.IsZero()
			continue
		}
		if snapshots = append(snapshots, &snapshot{}); missing == 0 {
			changed = ended // of the others the last look is enough
		}
		missing++
	}
	if !has[nodes] || !has[pods] || !data {
		missing = len(n.lists)
	}
	return snapshots, missing, changed
}

// probe reads one small object: the node whose sample is the newest or, where there are only Roles in namespaces, the
// pod. These are what the shipped roles let it get.
func (n *connection) probe(ctx context.Context) (object string, stamp int64, err error) {
	resource := nodes
	if len(n.cluster.set.namespaces) > 0 {
		resource = pods
	}
	for n.probed == nil {
		published := n.published.Wait()
		newest := int64(0)
		for _, l := range n.lists {
			if s := l.present.Load(); l.Resource == resource && s.Failure == nil && s.newest > newest {
				newest, n.probed, n.probedKey = s.newest, l, s.newestOf
			}
		}
		if n.probed == nil {
			select {
			case <-published:
			case <-ctx.Done():
				return "", 0, ctx.Err()
			}
		}
	}
	stamp, err = n.probed.Stamp(ctx, n.probedKey)
	return n.probedKey.Namespace + "/" + n.probedKey.Name, stamp, err
}

// ticked is called when the source has new data. Where it has them more often than the refresh interval asks for, only
// the last tick within the interval counts; one that comes right after a read is put off.
func (n *connection) ticked(since time.Time, period time.Duration) {
	n.fresh.Tick(since, period)
	for _, l := range n.lists {
		began := l.Loop.Began()
		elapsed := max(time.Since(began), phase.MinPeriod)
		if period == 0 || elapsed+period >= n.cluster.set.refreshInterval+time.Second {
			l.Loop.WakeAt(began.Add(elapsed))
		}
	}
}

// list is a list of metrics.k8s.io and what scrapes see of it.
type list struct {
	*usage.List
	present atomic.Pointer[snapshot]
}

// newList adds a list to the connection.
func (n *connection) newList(resource, namespace string, joiner sample.Joiner) {
	l := &list{}
	l.present.Store(&snapshot{})
	o := usage.Options{Client: n.metrics, Resource: resource, Namespace: namespace, Joiner: joiner,
		Optional: resource == nodes, Absent: resource == nodes && len(n.cluster.set.namespaces) > 0,
		Self: n.cluster.self, Health: &n.cluster.health,
		Show: func(b *sample.Batch, s usage.Status) { n.show(l, b, s) }}
	if resource == pods {
		n.things = append(n.things, n.watch.What(namespace))
		o.Selector = n.cluster.set.selector
		o.Ready = func(ctx context.Context) error {
			n.watch.Distrust()
			n.store.Forget(time.Now().Add(-n.cluster.set.maxAge))
			return n.watch.Ready(ctx, namespace, n.cluster.set.maxAge)
		}
	}
	l.List = usage.New(o, n.self)
	l.Loop.Interval = func() time.Duration { return n.fresh.Interval(n.cluster.set.refreshInterval) }
	l.Loop.Pulse = n.cluster.pulse
	l.Loop.Cutoff = min(max(n.cluster.set.refreshInterval, 10*time.Second), time.Minute)
	n.lists, n.things = append(n.lists, l), append(n.things, l.What)
}

// show makes what has become of a list what scrapes see.
func (n *connection) show(l *list, b *sample.Batch, status usage.Status) {
	old := l.present.Load()
	next := *old
	if b != nil {
		n.mu.Lock()
		next = *newSnapshot(&n.compressor, l.Resource, b)
		n.mu.Unlock()
	}
	next.Status = status
	l.present.Store(&next)
	n.cluster.replace()
	n.published.Send()
	if l.Resource == pods && next.newest > old.newest {
		n.fresh.Shown(status.Refreshed)
	}
}
