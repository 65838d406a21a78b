package main

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"

	"metrics-server-prom/internal/gzpage"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/metricsapi"
	"metrics-server-prom/internal/podcache"
	"metrics-server-prom/internal/podwire"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/rhythm"
	"metrics-server-prom/internal/sample"
)

// pod is what is kept of a Pod, up to 100 KB of it turned into some 200 bytes.
type pod = podcache.Pod[podText]

// podStore is the cache as the watch feeds it.
type podStore struct {
	*podcache.Cache[podText]
	labels labeler
}

// Transform is where label text is built: when a pod's metadata change, not when it is refreshed or scraped.
func (s podStore) Transform(p *podwire.Pod) podcache.Keyed[podText] {
	version, _ := strconv.ParseUint(p.ResourceVersion, 10, 64)
	text, name := s.labels.pod(p)
	key := podcache.Key{Namespace: p.Namespace, Name: name}
	return podcache.Keyed[podText]{Key: key, Pod: &pod{Value: text, Created: p.CreationTimestamp.Unix(), Version: version}}
}

// snapshot is what a scrape sees of a resource. It never changes; each attempt to refresh publishes a new one.
type snapshot struct {
	part      *gzpage.Part // the two families as compressed text; nil where there is no sample
	served    [2]int       // samples of cpu and memory in it
	unknown   int          // pods in it without metadata
	oldest    int64        // own timestamps of the samples in it, Unix seconds
	newest    int64
	newestOf  podcache.Key
	expires   time.Time     // when the first sample in it reaches max-age; zero where there is none
	refreshed time.Time     // when it was last refreshed; zero for never
	failure   *kube.Failure // of the last attempt; nil where it worked
}

// resource is pods or nodes: what is read, and the loop that reads it. Its loop's goroutine owns all but view.
type resource struct {
	name     string // as in up{resource}
	families [2]family
	scopes   []string // namespaces to list, "" for all; a resource without namespaces has ""
	selector string
	kind     metricsapi.Kind
	x        *exporter
	loop     refresh.Loop
	view     atomic.Pointer[snapshot]

	decoder metricsapi.Decoder
	joiner  sample.Joiner[podText]
	zip     gzpage.Compressor
}

// exporter keeps the snapshots of one cluster.
type exporter struct {
	set         *settings
	own         *telemetry
	metrics     rest.Interface
	cache       podStore
	watch       *kube.PodWatch[podcache.Keyed[podText]]
	watchChange refresh.Broadcast
	pods, nodes *resource
	tick        atomic.Int64    // the source's period in ns, 0 for none known
	tickBefore  atomic.Int64    // Unix ns at which the data that a tick has brought were not there yet; 0 for not known
	lastNew     atomic.Int64    // Unix ns at which a page first had newer samples than the page before
	addedAge    atomic.Int64    // ns that these were older than they had to be; -1 for not known
	life        context.Context // done when run has ended
	end         context.CancelFunc
	probed      podcache.Key // what the probes look at: a pod, or a node without a namespace; zero to choose one
}

func newExporter(set *settings, own *telemetry, core, metrics rest.Interface) *exporter {
	x := &exporter{set: set, own: own, metrics: metrics, cache: podStore{podcache.New[podText](), newLabeler(set.podLabels)}}
	x.addedAge.Store(-1)
	x.life, x.end = context.WithCancel(context.Background())
	var not []fields.Selector
	for _, namespace := range set.excludeNamespaces {
		not = append(not, fields.OneTermNotEqualSelector("metadata.namespace", namespace))
	}
	x.watch = kube.NewPodWatch(core, set.scopes(), set.selector, fields.AndSelectors(not...).String(), x.cache, x.watchChanged)
	x.nodes = &resource{name: "nodes", families: nodeFamilies, scopes: []string{""}, kind: metricsapi.NodeMetricsList}
	x.pods = &resource{name: "pods", families: podFamilies, scopes: set.scopes(), selector: set.selector, kind: metricsapi.PodMetricsList}
	for _, r := range x.resources() {
		r.x = x
		r.joiner = sample.Joiner[podText]{MaxAge: set.maxAge, Escape: escape, Drop: own.drop, NodePod: &nodePod}
		r.view.Store(&snapshot{})
		r.loop = refresh.Loop{
			Interval: x.interval, Cutoff: min(max(set.refreshInterval, 10*time.Second), time.Minute),
			Read: r.read, Publish: r.publish,
			Expires: func() time.Time { return r.view.Load().expires }, Expire: r.expire,
		}
	}
	j := &x.pods.joiner
	j.Cache, j.NodePod, j.Unknown, j.Excluded = x.cache.Cache, nil, x.cache.labels.unknown, set.excluded
	return x
}

func (x *exporter) resources() []*resource { return []*resource{x.nodes, x.pods} }

// run keeps the snapshots up to date until ctx ends.
func (x *exporter) run(ctx context.Context) {
	defer x.end()
	var wg sync.WaitGroup
	wg.Go(func() { x.watch.Run(ctx) })
	wg.Go(func() { x.follow(ctx) })
	for _, r := range x.resources() {
		wg.Go(func() { r.loop.Run(ctx) })
	}
	wg.Wait()
}

func (x *exporter) view() view {
	return view{x: x, nodes: x.nodes.view.Load(), pods: x.pods.view.Load()}
}

// ready tells whether there is a first snapshot: both resources were tried, and one of them was to be had.
func (v view) ready() bool {
	tried := func(s *snapshot) bool {
		return !s.refreshed.IsZero() || s.failure != nil && s.failure.Reason != kube.Watch // which is still going on
	}
	return tried(v.nodes) && tried(v.pods) && !(v.nodes.refreshed.IsZero() && v.pods.refreshed.IsZero())
}

// current waits for a first snapshot and, where refreshes were missed, for one that was begun after the call. It fails when
// ctx ends, or when this cluster is configured no more.
func (x *exporter) current(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(x.life, cancel)()
	for !x.view().ready() {
		nodes, pods := x.nodes.loop.Ended(), x.pods.loop.Ended()
		if x.view().ready() {
			break
		}
		select {
		case <-nodes:
		case <-pods:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, r := range x.resources() {
		if err := r.loop.Current(ctx); err != nil {
			return err
		}
	}
	return nil
}

// watchPatience is how long a watch may be interrupted without being reported: it is opened anew every few minutes.
const watchPatience = 5 * time.Second

// watchChanged is called when the watch is in sync, and when one of its requests has failed or worked.
func (x *exporter) watchChanged() {
	x.watchChange.Send()
	switch synced, failure, since := x.watch.State(); {
	case failure != nil && (time.Since(since) > watchPatience || failure.Reason == kube.Forbidden || failure.Reason == kube.Unauthorized):
		x.own.health.Failed("watch", failure, false)
	case failure == nil && synced:
		x.own.health.Worked("watch")
		if x.pods.view.Load().failure != nil {
			x.pods.loop.Wake()
		}
	}
}

// watchUp tells whether the watch has had its first list and works.
func (x *exporter) watchUp() bool {
	synced, failure, _ := x.watch.State()
	return synced && failure == nil
}

// watchReady waits for the pods' metadata. It fails where the watch cannot begin, or has been broken for longer than
// max-age: labels that old may be those of a pod's predecessor.
func (x *exporter) watchReady(ctx context.Context) error {
	for {
		changed := x.watchChange.Wait()
		synced, failure, since := x.watch.State()
		switch {
		case failure != nil && (!synced || time.Since(since) > x.set.maxAge):
			return failure
		case synced:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return &kube.Failure{Reason: kube.Watch, Text: "cannot watch pods: the first list of all pods is not complete yet; if it never is, check the network and the API server's load"}
		}
	}
}

// interval is the most time between two full lists: the refresh interval or, where the source has new data less often, the
// time between two of its ticks. The loop is woken by the tick; the slack keeps it from running just before.
func (x *exporter) interval() time.Duration {
	if tick := time.Duration(x.tick.Load()); tick > 0 {
		return max(x.set.refreshInterval, tick) + 2*time.Second
	}
	return x.set.refreshInterval
}

// frozen is how late an attempt has to be for the process to count as one that stood still: its watch may be dead without
// knowing it, so the pods are listed anew.
const frozen = 5 * time.Second

// read reads the lists of a resource and joins them; publish makes them visible.
func (r *resource) read(ctx context.Context, a refresh.Attempt) error {
	defer r.x.own.refreshTook(r.name, time.Now())
	if r == r.x.pods {
		if a.Late > frozen {
			r.x.watch.Resync()
		}
		if err := r.x.watchReady(ctx); err != nil {
			return err
		}
		r.x.cache.Forget(time.Now().Add(-r.x.set.maxAge))
	}
	r.joiner.Begin()
	for _, namespace := range r.scopes {
		if err := r.list(ctx, namespace); err != nil {
			return err
		}
	}
	return nil
}

// list streams one list into the joiner.
func (r *resource) list(ctx context.Context, namespace string) error {
	request := r.x.metrics.Get().NamespaceIfScoped(namespace, namespace != "").Resource(r.name).MaxRetries(0)
	if r.selector != "" {
		request.Param("labelSelector", r.selector)
	}
	body, err := request.Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := r.decoder.Read(body, r.kind, r.joiner.Join); err != nil {
		return kube.BodyError(ctx, err)
	}
	return nil
}

// follow finds the source's rhythm by looking at one object, and has both lists read right after each of its ticks.
func (x *exporter) follow(ctx context.Context) {
	var decoder metricsapi.Decoder
	lost := func() { x.probed = podcache.Key{}; x.tick.Store(0) }
	rhythm.Follow(ctx, func(ctx context.Context) (string, int64, error) { return x.probe(ctx, &decoder) }, lost, x.ticked)
}

// probe reads one small object: the node whose sample is the newest or, where nodes are not to be had, the pod.
func (x *exporter) probe(ctx context.Context, decoder *metricsapi.Decoder) (object string, stamp int64, err error) {
	for x.probed == (podcache.Key{}) {
		nodesEnded, podsEnded := x.nodes.loop.Ended(), x.pods.loop.Ended()
		if nodes := x.nodes.view.Load(); nodes.failure == nil && nodes.newest != 0 {
			x.probed = nodes.newestOf
		} else if pods := x.pods.view.Load(); pods.failure == nil && pods.newest != 0 {
			x.probed = pods.newestOf
		} else {
			select {
			case <-nodesEnded:
			case <-podsEnded:
			case <-ctx.Done():
				return "", 0, ctx.Err()
			}
		}
	}
	key, kind, r := x.probed, metricsapi.PodMetrics, x.pods
	if key.Namespace == "" {
		kind, r = metricsapi.NodeMetrics, x.nodes
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	body, err := x.metrics.Get().NamespaceIfScoped(key.Namespace, key.Namespace != "").Resource(r.name).Name(key.Name).MaxRetries(0).Stream(ctx)
	if err != nil {
		return "", 0, err
	}
	defer body.Close()
	err = decoder.Read(body, kind, func(item *metricsapi.Item) error { stamp = item.Timestamp.UnixNano(); return nil })
	return key.Namespace + "/" + key.Name, stamp, err
}

// ticked is called when the source has new data. Where it has them more often than the refresh interval asks for, only the
// last tick within the interval counts.
func (x *exporter) ticked(since time.Time, period time.Duration) {
	x.tick.Store(int64(period))
	elapsed := time.Since(x.pods.loop.Began())
	if period > 0 && elapsed+period < x.set.refreshInterval+time.Second || elapsed < rhythm.MinPeriod {
		return
	}
	if x.tickBefore.Store(0); !since.IsZero() {
		x.tickBefore.Store(since.UnixNano())
	}
	for _, r := range x.resources() {
		r.loop.Wake()
	}
}

// dataNew takes down that a page has newer samples than the one before, and by how much later than possible.
func (x *exporter) dataNew(at time.Time) {
	x.lastNew.Store(at.UnixNano())
	if since := x.tickBefore.Swap(0); since != 0 {
		x.addedAge.Store(at.UnixNano() - since)
	} else {
		x.addedAge.Store(-1)
	}
}

// publish makes the attempt's result what scrapes see. After a failure that is what they saw before, until it expires; not
// where the attempt came late: then nobody knows how old it is.
func (r *resource) publish(a refresh.Attempt, err error) (pause time.Duration) {
	x, old := r.x, r.view.Load()
	if err != nil {
		f := kube.Explain("list "+r.name+".metrics.k8s.io", err)
		if !old.expires.IsZero() && !old.expires.After(time.Now()) {
			r.expire()
			old = r.view.Load()
		}
		view := *old
		if view.failure = f; a.Late > 0 {
			view = snapshot{refreshed: old.refreshed, failure: f}
		}
		r.show(&view)
		x.own.refreshFailed(r.name, f.Reason)
		x.own.health.Failed(r.name, f, r == x.nodes)
		return f.Retry
	}
	view := r.render(r.joiner.Done())
	view.refreshed = time.Now()
	r.show(view)
	x.own.health.Worked(r.name)
	if r == x.pods && view.newest > old.newest {
		x.dataNew(view.refreshed)
	}
	return 0
}

// render makes a snapshot of what is to be served.
func (r *resource) render(b *sample.Batch[podText]) *snapshot {
	s := &snapshot{unknown: b.Unknown, oldest: b.Oldest, newest: b.Newest, newestOf: b.NewestOf, expires: b.Expires(r.x.set.maxAge)}
	s.part, s.served = renderPart(&r.zip, r.families, b)
	return s
}

// expire takes the samples that have reached max-age out of what is served.
func (r *resource) expire() {
	old, view := r.view.Load(), r.render(r.joiner.Expire(time.Now()))
	view.refreshed, view.failure = old.refreshed, old.failure
	r.show(view)
}

// show makes a snapshot the one that scrapes see, and lets the memory of the one before go.
func (r *resource) show(s *snapshot) {
	if old := r.view.Swap(s); old.part != s.part {
		r.x.own.forget()
		old.part.Close()
	}
}
