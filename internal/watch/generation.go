package watch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
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
	// minWatch is how long a watch lasts at least, for the reflector opens the next one without a pause. It would list
	// anew after a watch that brings nothing and ends within a second.
	minWatch = 2 * time.Second
	// headerSilence is how long an answer may take to begin.
	headerSilence = 30 * time.Second
	// initialSilence is how long a list, of pages or of a watch's initial events, may pause between two objects.
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
	// maxEmptyPages bounds how many pages of a list may be empty.
	maxEmptyPages = 100
)

// generation lists and watches a scope until the next Resync: it is what a reflector reads from and what it writes to.
// It changes the store and the scope by its method change only.
type generation[V comparable] struct {
	*Watch[V]
	*scope[V]
	namespace string

	// These belong to the request in progress; there is one at a time.
	heard          time.Time // when there last was a list or a message of a watch
	listOnly       bool      // a watch-list got stuck; pages are listed instead
	objects, empty int       // of the list's pages so far: their objects, and how many had none
	pagesEnd       time.Time // when pagesTime is over
}

// run keeps the store in step until ctx ends.
func (g *generation[V]) run(ctx context.Context) {
	source := &cache.ListWatch{ListWithContextFunc: g.list, WatchFuncWithContext: g.watch}
	r := cache.NewReflectorWithOptions(source, nil, g, cache.ReflectorOptions{Name: g.name, TypeDescription: g.name,
		Backoff: &wait.Backoff{Duration: minPause, Factor: 2, Jitter: 0.3, Steps: math.MaxInt32, Cap: maxPause}})
	r.WatchListPageSize = pageSize
	r.RunWithContext(ctx)
}

// change calls f unless a later generation has begun.
func (g *generation[V]) change(f func()) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current == g {
		f()
	}
	return nil
}

// observe records how a list, the opening of a watch, or the reading of what one brings (an event) has ended. It returns
// the error in the operator's words, which the reflector can only answer by another attempt after a pause.
func (g *generation[V]) observe(verb string, err error) error {
	if errors.Is(err, context.Canceled) {
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
	return func(object any) (any, error) { return kept[V]{g.Keep(object.(slim.Object))}, nil }
}

// Replace takes a list as all there is.
func (g *generation[V]) Replace(list []any, _ string) error {
	entries := make([]store.Entry[V], len(list))
	for i, object := range list {
		entries[i] = object.(kept[V]).Entry
	}
	g.change(func() {
		g.Store.Replace(g.namespace, entries)
		g.Synced = true
	})
	g.report(g.namespace)
	return nil
}

// Add, Update and Delete take in an event of a watch.
func (g *generation[V]) Add(object any) error { return g.Update(object) }

func (g *generation[V]) Update(object any) error {
	e := g.Keep(object.(slim.Object))
	return g.change(func() { g.Store.Put(e) })
}

func (g *generation[V]) Delete(object any) error {
	e := g.Keep(object.(slim.Object))
	return g.change(func() { g.Store.Delete(e) })
}

// Resync has nothing to do: no work is derived from the store that could have been lost.
func (g *generation[V]) Resync() error { return nil }

// list reads a page of a list and returns what is to be kept of its objects. The reflector asks for one page after the
// other. They are of this moment: no version of before is asked for.
func (g *generation[V]) list(ctx context.Context, o metav1.ListOptions) (_ runtime.Object, err error) {
	if o.Continue == "" {
		g.objects, g.empty, g.pagesEnd = 0, 0, time.Now().Add(pagesTime)
	}
	ctx, cancel := context.WithDeadlineCause(ctx, g.pagesEnd, g.timeout("list", "its pages do not end"))
	defer cancel()
	page := &internalversion.List{}
	defer func() {
		if g.heard = time.Now(); err != nil || page.Continue == "" {
			err = g.observe("list", err)
		}
	}()
	o.ResourceVersion = ""
	r, err := g.open(ctx, "list", o)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	page.ListMeta, err = slim.ReadList(r.body, g.Kind+"List", g.New, func(object slim.Object) error {
		r.silence.Reset(initialSilence)
		if g.objects++; g.objects > g.maxObjects {
			return g.endless("list", fmt.Sprintf("it has more than %d objects", g.maxObjects))
		}
		page.Items = append(page.Items, kept[V]{g.Keep(object)})
		return nil
	})
	if len(page.Items) == 0 {
		g.empty++
	}
	switch {
	case err != nil:
		return nil, r.explain(err)
	case page.Continue != "" && page.Continue == o.Continue:
		return nil, g.endless("list", "a page is continued by itself")
	case page.Continue != "" && g.empty > maxEmptyPages:
		return nil, g.endless("list", "its pages are empty")
	}
	return page, nil
}

// watch opens a watch, from a version or with initial events of this moment. Where the latter fails for whatever reason,
// the reflector lists pages: the server may be one that only lists, or that refuses only watches.
func (g *generation[V]) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	initial := o.SendInitialEvents != nil && *o.SendInitialEvents
	if initial {
		if o.ResourceVersion = ""; g.listOnly {
			return nil, errors.New("a watch-list got stuck")
		}
	}
	o.Watch = true
	r, err := g.open(ctx, "watch", o)
	if initial && apierrors.IsInvalid(err) { // which is what a server without watch-lists says
		return nil, err
	}
	if failure := g.observe("watch", err); initial {
		err = failure // the reflector repeats at once what it is told has expired
	}
	if err != nil {
		return nil, err
	}
	e := &events[V]{response: r, generation: g, initial: initial, began: o.ResourceVersion, opened: time.Now()}
	return watch.NewStreamWatcher(e, apierrors.NewClientErrorReporter(http.StatusInternalServerError, "GET", "")), nil
}

// errDistrust ends a watch whose changes can no longer be added to what is known: the reflector lists anew, after a
// watch-list by pages.
var errDistrust = errors.New("the objects are listed anew")

// events decodes the events of a watch.
type events[V comparable] struct {
	*response
	*generation[V]
	decoder *slim.Events // nil before the first event
	initial bool         // whether what it brings are the initial events
	began   string       // the version from which it brings changes
	opened  time.Time    // when it was opened, or its initial events were complete
	count   int          // of the messages since then
}

// Decode returns the next event, or errDistrust, or io.EOF for a watch that the reflector opens again where it stopped.
func (e *events[V]) Decode() (watch.EventType, runtime.Object, error) {
	event, err := e.next()
	object, ok := event.Object.(slim.Object)
	if e.count++; ok && e.count <= e.maxObjects && !before(object.GetResourceVersion(), e.began) {
		if event.Type == watch.Bookmark && object.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
			e.initial, e.began, e.opened, e.count = false, object.GetResourceVersion(), time.Now(), 0
		}
		if e.heard = time.Now(); !e.initial && e.count <= 1 {
			e.observe("event", nil)
		}
		return event.Type, object, nil
	}
	if ok && e.initial {
		err = e.endless("watch", fmt.Sprintf("it has more than %d objects", e.maxObjects))
	}
	illegible := err != nil && kube.Explain("watch "+e.name, err).Reason == kube.Content
	if illegible {
		e.observe("watch", err) // the next list may not have it
	}
	if e.initial {
		_, e.listOnly = context.Cause(e.ctx).(*kube.Failure) // it got stuck
	}
	// Without err it is an error such as a version that is gone, or etcd was restored from a backup.
	if err == nil || illegible || e.initial || time.Since(e.heard) > restoredSilence {
		return "", nil, errDistrust
	}
	select {
	case <-time.After(time.Until(e.opened.Add(minWatch))):
	case <-e.ctx.Done():
	}
	return "", nil, io.EOF
}

// next reads the next event.
func (e *events[V]) next() (watch.Event, error) {
	silence := watchSilence
	if e.initial {
		silence = min(initialSilence, time.Until(e.opened.Add(initialTime)))
	}
	e.silence.Reset(silence)
	defer e.silence.Stop() // a reader that is slow is no silence of the server
	if e.decoder == nil {
		// client-go does not tell the Content-Type. Protobuf begins with the highest byte of the first event's length.
		body, contentType := bufio.NewReader(e.body), "application/json"
		if first, _ := body.Peek(1); string(first) == "\x00" {
			contentType = kube.Protobuf
		}
		e.decoder = slim.NewEvents(body, contentType, e.New)
	}
	event, err := e.decoder.Next()
	return event, e.explain(err)
}

// before compares resourceVersions. One that is not a number is before none, and none is before it.
func before(version, other string) bool {
	v, err := strconv.ParseUint(version, 10, 64)
	o, _ := strconv.ParseUint(other, 10, 64)
	return err == nil && v < o
}

// response is an answer that is cut off once nothing has come for the time that its silence was last reset to.
type response struct {
	body    io.ReadCloser
	ctx     context.Context
	cancel  context.CancelCauseFunc
	silence *time.Timer
}

// open sends a request. Its errors are those of client-go, or a Failure where no answer has begun in time.
func (g *generation[V]) open(ctx context.Context, verb string, o metav1.ListOptions) (*response, error) {
	o.LabelSelector, o.FieldSelector = g.LabelSelector, g.FieldSelector
	r := &response{}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	r.silence = time.AfterFunc(headerSilence, func() { r.cancel(g.timeout(verb, "the server says nothing")) })
	var err error
	r.body, err = g.Client.Get().NamespaceIfScoped(g.namespace, g.namespace != "").Resource(g.Resource).
		VersionedParams(&o, metav1.ParameterCodec).MaxRetries(0).Stream(r.ctx)
	if err == nil {
		r.silence.Reset(initialSilence)
		return r, nil
	}
	if cause := context.Cause(r.ctx); cause != nil {
		err = cause
	}
	r.silence.Stop()
	r.cancel(nil)
	return nil, err
}

// explain tells what has ended the reading of the answer: a limit on its time, the connection, or its content. The
// regular end of a watch is io.EOF.
func (r *response) explain(err error) error {
	if cause := context.Cause(r.ctx); err != nil && cause != nil {
		return cause
	} else if err != nil && err != io.EOF {
		return kube.BodyError(r.ctx, err)
	}
	return err
}

// Close ends the request.
func (r *response) Close() {
	r.silence.Stop()
	r.cancel(nil)
	r.body.Close()
}

func (g *generation[V]) timeout(verb, why string) *kube.Failure {
	return &kube.Failure{Reason: kube.Timeout, Text: fmt.Sprintf(
		"cannot %s %s: no complete answer in time: %s; check the network and the API server's load", verb, g.name, why)}
}

// endless is the failure of a list that does not end.
func (g *generation[V]) endless(verb, why string) *kube.Failure {
	return &kube.Failure{Reason: kube.Content, Text: fmt.Sprintf("cannot %s %s: the list does not end: %s; "+
		"check that the configured server is a Kubernetes API server", verb, g.name, why)}
}
