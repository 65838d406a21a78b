package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/store"
)

const (
	// Pauses between two attempts. A cluster that is back is to be seen within a refresh interval.
	minPause, maxPause = 500 * time.Millisecond, 5 * time.Second
	// refusedPause is how long nobody asks again for what is optional and was refused: rights are given by people.
	refusedPause = time.Minute
	// getEvery is how often what cannot be watched is read.
	getEvery = 30 * time.Second
	// minWatch is how long a watch lasts at least, for the reflector opens the next one without a pause. It would list
	// anew after a watch that brings nothing and ends within a second.
	minWatch = 2 * time.Second
	// initialSilence is how long an answer may take to begin, and how long a list, of pages or of a watch's initial
	// events, may pause between two objects.
	initialSilence = 30 * time.Second
	// initialTime is how long the initial events of a watch-list may take in all: where they never end, the changes that
	// go on meanwhile are no silence.
	initialTime = 5 * time.Minute
	// pagesTime is how long all pages of a list may take. An API server forgets what a list is continued from within 5 to
	// 10 minutes, with the next compaction of etcd.
	pagesTime = 10 * time.Minute
	// watchSilence is how long a watch may say nothing. An API server sends a bookmark about once a minute. A watch that
	// falls silent is opened again where it stopped: its connection may be dead without having been closed. (HTTP/2 pings,
	// on by default in client-go, find dead connections; not a proxy that answers them with nothing behind it.)
	watchSilence = 150 * time.Second
	// restoredSilence is after how long without a message, of one watch or several, the objects are listed anew. Where
	// etcd was restored from a backup, a watch says nothing until etcd has reached the version that was asked for.
	restoredSilence = watchSilence + 10*time.Second

	// pageSize is how many objects are asked for in one page of a list.
	pageSize = 250
	// manyObjects bounds a list, far above any cluster, and the messages of one watch.
	manyObjects = 1_000_000
)

// generation lists and watches a namespace until the next Resync: it is what a reflector reads from and writes to. It
// changes the store and its State by its method change only.
type generation[V comparable] struct {
	*Watch[V]
	namespace string
	life      context.Context
	end       context.CancelFunc

	State
	failing string // the verb that failed: a list that works does not mend a watch that is refused

	// These belong to the request in progress; there is one at a time.
	heard    time.Time // when there last was a list or a message of a watch
	verb     string    // as observe has it, by which a complete list has come
	stuck    bool      // a watch-list was; pages are listed instead
	objects  int       // of the list's pages so far; each page counts as pageSize more, so that empty ones end as well
	pagesEnd time.Time // when pagesTime is over
}

// run keeps the store in step until the generation or ctx ends.
func (g *generation[V]) run(ctx context.Context) {
	defer context.AfterFunc(ctx, g.end)()
	if g.ofNamespaces() && g.namespace != "" {
		g.poll()
		return
	}
	source := &cache.ListWatch{ListWithContextFunc: g.list, WatchFuncWithContext: g.watch}
	r := cache.NewReflectorWithOptions(source, nil, g, cache.ReflectorOptions{Name: g.name, TypeDescription: g.name,
		Backoff: &wait.Backoff{Duration: minPause, Factor: 2, Jitter: 0.3, Steps: math.MaxInt32, Cap: maxPause}})
	r.WatchListPageSize = pageSize
	r.RunWithContext(g.life)
}

// change calls f unless a later generation has begun.
func (g *generation[V]) change(f func()) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.generations[g.namespace] == g {
		f()
	}
	return nil
}

// observe records how a list, the opening of a watch, or the reading of what one brings (an event) has ended. It
// returns the error in the operator's words, to which the reflector's only answer is another attempt after a pause.
func (g *generation[V]) observe(verb string, err error) error {
	if g.life.Err() != nil {
		return err
	}
	var failure *kube.Failure
	if err != nil {
		failure = kube.Explain(verb+" "+g.name, err)
		err = failure
	}
	g.change(func() {
		switch {
		case failure != nil:
			if g.Failure == nil {
				g.Since = time.Now()
			}
			g.Failure, g.failing = failure, verb
		case g.Failure == nil,
			verb == "list" && g.failing != "list",
			verb == "watch" && g.Failure.Reason == kube.Content: // an answer that begins well may still not be legible
		default:
			g.Failure, g.Since = nil, time.Time{}
		}
	})
	g.report(g.namespace)
	return err
}

// kept is what is kept of an object, as an object that can pass through the reflector.
type kept[V comparable] struct{ store.Entry[V] }

func (kept[V]) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }
func (k kept[V]) DeepCopyObject() runtime.Object { return k }

// Transformer has the reflector keep of each of a watch's initial events what is to be kept, while it collects them.
func (g *generation[V]) Transformer() cache.TransformFunc {
	return func(object any) (any, error) { return g.keep(object.(slim.Object)), nil }
}

// Replace takes a list as all there is. Not before is it told that the list has worked: what is known then is current.
func (g *generation[V]) Replace(list []any, _ string) error {
	entries := make([]store.Entry[V], len(list))
	for i, object := range list {
		entries[i] = object.(kept[V]).Entry
	}
	g.change(func() { g.Store.Replace(g.namespace, entries); g.Synced = true })
	return g.observe(g.verb, nil)
}

// Add, Update and Delete take in an event of a watch. Resync has nothing to do: no work is derived from the store that
// could have been lost.
func (g *generation[V]) Add(object any) error    { return g.take(object, g.Store.Put) }
func (g *generation[V]) Update(object any) error { return g.take(object, g.Store.Put) }
func (g *generation[V]) Delete(object any) error { return g.take(object, g.Store.Delete) }
func (g *generation[V]) Resync() error           { return nil }

func (g *generation[V]) take(object any, do func(store.Entry[V])) error {
	e := g.keep(object.(slim.Object)).Entry
	return g.change(func() { do(e) })
}

func (g *generation[V]) keep(o slim.Object) kept[V] {
	if g.ofNamespaces() {
		o.SetNamespace(o.GetName())
	}
	return kept[V]{g.Keep(o)}
}

// rest waits before the next attempt where what is optional was refused.
func (g *generation[V]) rest() {
	if g.Optional != "" && g.Watch.State(g.namespace).Refused() {
		g.sleep(refusedPause)
	}
}

// sleep waits unless the generation ends.
func (g *generation[V]) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-g.life.Done():
	}
}

// poll reads a Namespace again and again, until the generation ends.
func (g *generation[V]) poll() {
	for g.life.Err() == nil {
		if g.get() == nil {
			if g.ListOnly {
				<-g.life.Done()
			}
			g.sleep(getEvery)
			continue
		}
		g.rest()
		g.sleep(maxPause)
	}
}

// get reads a Namespace, and takes it as a list of all there are in itself.
func (g *generation[V]) get() error {
	g.verb = "get"
	if slices.Contains(g.Excluded, g.namespace) {
		return g.Replace(nil, "")
	}
	var found []any
	r, err := g.open(g.life, "get", metav1.ListOptions{})
	switch {
	case err == nil:
		var object slim.Object
		if object, err = slim.ReadObject(r.body, g.New); err == nil {
			found = []any{g.keep(object)}
		}
		err = r.explain(err)
		r.Close()
	case apierrors.IsNotFound(err) && !apierrors.IsUnexpectedServerError(err): // an API server says that it is gone
		err = nil
	}
	if err != nil {
		return g.observe(g.verb, err)
	}
	return g.Replace(found, "")
}

// list reads a page of a list and returns what is to be kept of its objects. The reflector asks for one page after the
// other. They are of this moment: no version of before is asked for.
func (g *generation[V]) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if o.ResourceVersion = ""; o.Continue == "" {
		g.objects, g.pagesEnd = 0, time.Now().Add(pagesTime)
	}
	ctx, cancel := context.WithDeadlineCause(ctx, g.pagesEnd, g.timeout("list", "its pages do not end"))
	defer cancel()
	page := &internalversion.List{}
	r, err := g.open(ctx, "list", o)
	if err == nil {
		g.objects += pageSize
		page.ListMeta, err = slim.ReadList(r.body, g.New, func(object slim.Object) error {
			r.silence.Reset(initialSilence)
			if g.objects++; g.objects > g.maxObjects {
				return g.endless("list")
			}
			page.Items = append(page.Items, g.keep(object))
			return nil
		})
		err = r.explain(err)
		r.Close()
	}
	if err == nil && page.Continue != "" {
		if page.Continue != o.Continue && g.objects <= g.maxObjects {
			return page, nil
		}
		err = g.endless("list")
	}
	if g.heard, g.verb = time.Now(), "list"; err != nil {
		err = g.observe("list", err)
		g.rest()
	}
	return page, err
}

// errDistrust has the reflector list anew, after a watch-list by pages: what is known is incomplete or doubtful.
var errDistrust = errors.New("the objects are listed anew")

// watch opens a watch, from a version or with initial events of this moment. Where the latter fails for whatever
// reason, the reflector lists pages: the server may be one that only lists, or that refuses only watches.
func (g *generation[V]) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	initial := o.SendInitialEvents != nil
	switch {
	case initial && (g.stuck || g.ListOnly):
		return nil, errDistrust
	case initial:
		o.ResourceVersion = ""
	case g.ListOnly: // there has been the list
		<-ctx.Done()
		return nil, ctx.Err()
	}
	o.Watch = true
	r, err := g.open(ctx, "watch", o)
	switch {
	case initial && apierrors.IsInvalid(err): // which is what a server without watch-lists says
		return nil, err
	case initial && err != nil:
		return nil, g.observe("watch", err) // what it is told to be expired, the reflector repeats at once
	case initial:
		g.verb = "event"
	default:
		if g.observe("watch", err); err != nil {
			g.rest()
			return nil, err
		}
	}
	r.events = slim.NewEvents(r.body, g.New)
	return watch.NewStreamWatcher(r, apierrors.NewClientErrorReporter(http.StatusInternalServerError, "GET", "")), nil
}

// Decode returns the next event, or errDistrust, or io.EOF for a watch that the reflector opens again where it stopped.
func (r *response[V]) Decode() (watch.EventType, runtime.Object, error) {
	event, err := r.next()
	object, ok := event.Object.(slim.Object)
	if ok && !before(object.GetResourceVersion(), r.began) {
		if event.Type == watch.Bookmark && object.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
			r.began, r.opened, r.count = object.GetResourceVersion(), time.Now(), 0
		}
		if r.heard = time.Now(); r.began != "" && r.count == 1 {
			r.observe("event", nil)
		}
		return event.Type, object, nil
	}
	if err = r.explain(err); r.began == "" {
		if _, r.stuck = context.Cause(r.ctx).(*kube.Failure); r.count > r.maxObjects { // it got stuck or goes on
			err = r.endless("watch")
		}
	}
	illegible := err != nil && kube.Explain("watch "+r.name, err).Reason == kube.Content
	if illegible {
		r.observe("watch", err) // the next list may not have it
	}
	// Without err it is an error such as a version that is gone, or etcd was restored from a backup.
	if err == nil || illegible || r.began == "" || time.Since(r.heard) > restoredSilence {
		return "", nil, errDistrust
	}
	select {
	case <-time.After(time.Until(r.opened.Add(minWatch))):
	case <-r.ctx.Done():
	}
	return "", nil, io.EOF
}

// next reads the next event; it returns none where there were too many.
func (r *response[V]) next() (event watch.Event, err error) {
	silence := watchSilence
	if r.began == "" {
		silence = min(initialSilence, time.Until(r.opened.Add(initialTime)))
	}
	r.silence.Reset(silence)
	defer r.silence.Stop() // a reader that is slow is no silence of the server
	if r.count++; r.count > r.maxObjects {
		return event, nil
	}
	return r.events.Next()
}

// before compares resourceVersions. One that is not a number is before none, and none is before it.
func before(version, other string) bool {
	v, err := strconv.ParseUint(version, 10, 64)
	o, _ := strconv.ParseUint(other, 10, 64)
	return err == nil && v < o
}

// response is an answer that is cut off once nothing has come for the time that its silence was last reset to.
type response[V comparable] struct {
	*generation[V]
	body    io.ReadCloser
	ctx     context.Context
	cancel  context.CancelCauseFunc
	silence *time.Timer

	// These are a watch's.
	events *slim.Events
	began  string    // the version from which it brings changes; "" while it brings initial events
	opened time.Time // when it was opened, or its initial events were complete
	count  int       // of the events since then
}

// open sends a request. Its errors are those of client-go, or a Failure where no answer has begun in time.
func (g *generation[V]) open(ctx context.Context, verb string, o metav1.ListOptions) (r *response[V], err error) {
	o.LabelSelector = g.LabelSelector
	field := "metadata.namespace!="
	if g.ofNamespaces() {
		field = "metadata.name!="
	}
	if not := strings.Join(g.Excluded, ","+field); not != "" {
		o.FieldSelector = field + not
	}
	r = &response[V]{generation: g, began: o.ResourceVersion}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	r.silence = time.AfterFunc(initialSilence, func() { r.cancel(g.timeout(verb, "the server says nothing")) })
	request := g.Client.Get().Resource(g.Resource).MaxRetries(0)
	if verb == "get" {
		request.Name(g.namespace)
	} else {
		request.NamespaceIfScoped(g.namespace, g.namespace != "").VersionedParams(&o, metav1.ParameterCodec)
	}
	if accept := slim.Accept(g.New, verb == "list"); accept != "" {
		request.SetHeader("Accept", accept)
	}
	if r.body, err = request.Stream(r.ctx); err != nil {
		r.silence.Stop()
		err = cmp.Or(context.Cause(r.ctx), err)
		r.cancel(nil)
	}
	r.opened = time.Now()
	return r, err
}

// Close ends the request.
func (r *response[V]) Close() {
	r.silence.Stop()
	r.cancel(nil)
	r.body.Close()
}

// explain tells what has ended the reading of the answer: a limit on its time, the connection, or its content. The
// regular end of a watch is io.EOF.
func (r *response[V]) explain(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return cmp.Or(context.Cause(r.ctx), kube.BodyError(r.ctx, err))
}

func (g *generation[V]) timeout(verb, why string) *kube.Failure {
	return &kube.Failure{Reason: kube.Timeout, Text: fmt.Sprintf(
		"cannot %s %s: no complete answer in time: %s; check the network and the API server's load", verb, g.name, why)}
}

// endless is the failure of a list that does not end.
func (g *generation[V]) endless(verb string) *kube.Failure {
	return &kube.Failure{Reason: kube.Content, Text: fmt.Sprintf("cannot %s %s: the list does not end: it has more than "+
		"%d objects, or pages that are empty or continued by themselves; check that the configured server is a Kubernetes "+
		"API server", verb, g.name, g.maxObjects)}
}
