package watch

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"

	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/store"
)

const (
	// Pauses between two attempts. A cluster that is back is to be seen within a refresh interval.
	minPause, maxPause = 500 * time.Millisecond, 5 * time.Second
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

// run keeps the store in step until ctx ends.
func (g *generation[V]) run(ctx context.Context) {
	version := ""
	for pause := minPause; ctx.Err() == nil; pause = min(2*pause, maxPause) {
		began := time.Now()
		if version = g.follow(ctx, version); time.Since(began) > time.Minute {
			pause = minPause
		}
		select {
		case <-time.After(wait.Jitter(pause, 0.3)):
		case <-ctx.Done():
		}
	}
}

// follow watches from a resourceVersion or, where that is "", from a list that it makes first. It returns the version
// from which to go on, "" for a list.
func (g *generation[V]) follow(ctx context.Context, version string) string {
	var r *response
	if version == "" {
		if r, version = g.watchList(ctx); r == nil {
			version = g.list(ctx)
		}
		if version == "" {
			return ""
		}
	}
	if r == nil {
		var err error
		r, err = g.open(ctx, "watch", metav1.ListOptions{ResourceVersion: version})
		switch g.observe("watch", err); {
		case utilnet.IsConnectionRefused(err), apierrors.IsTooManyRequests(err):
			return version // a server that has no room for a watch has none for a list
		case err != nil:
			return ""
		}
	}
	defer r.Close()
	began := version
	for n := range g.maxObjects {
		event, err := r.next(watchSilence)
		if err != nil && (g.illegible(err) || time.Since(g.heard) > restoredSilence) {
			return ""
		} else if err != nil {
			return version
		}
		object, ok := event.Object.(slim.Object)
		if !ok || before(object.GetResourceVersion(), began) {
			return "" // an error such as a version that is gone, or etcd was restored from a backup
		}
		if n == 0 {
			g.observe("event", nil)
		}
		g.heard, version = time.Now(), object.GetResourceVersion()
		switch event.Type {
		case watch.Added, watch.Modified:
			e := g.Keep(object)
			g.change(func() { g.Store.Put(e) })
		case watch.Deleted:
			e := g.Keep(object)
			g.change(func() { g.Store.Delete(e) })
		}
	}
	return ""
}

// before compares resourceVersions. One that is not a number is before none, and none is before it.
func before(version, other string) bool {
	v, err := strconv.ParseUint(version, 10, 64)
	o, _ := strconv.ParseUint(other, 10, 64)
	return err == nil && v < o
}

// illegible records where err says that what a watch has brought cannot be read. The next list may not have it.
func (g *generation[V]) illegible(err error) bool {
	f := kube.Explain("watch "+g.name, err)
	if f.Reason == kube.Content {
		g.observe("watch", f)
	}
	return f.Reason == kube.Content
}

// watchList opens a watch and takes in its initial events; it returns the watch and the version that it has come to. r
// is nil where that did not work: the server may be one that only lists, or that refuses only watches.
func (g *generation[V]) watchList(ctx context.Context) (r *response, version string) {
	if g.listOnly {
		return nil, ""
	}
	initial := true
	r, err := g.open(ctx, "watch", metav1.ListOptions{
		SendInitialEvents: &initial, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	if !apierrors.IsInvalid(err) { // which is what a server without watch-lists says
		g.observe("watch", err)
	}
	if err != nil {
		return nil, ""
	}
	if version, err = g.initialEvents(r); err == nil {
		g.observe("event", nil)
		return r, version
	}
	_, g.listOnly = context.Cause(r.ctx).(*kube.Failure) // it got stuck
	g.illegible(err)
	r.Close()
	return nil, ""
}

// initialEvents replaces what the store holds by the events up to the bookmark that completes them.
func (g *generation[V]) initialEvents(r *response) (version string, err error) {
	defer time.AfterFunc(initialTime, func() { r.cancel(g.timeout("watch", "its initial events do not end")) }).Stop()
	listed := map[store.Key]store.Entry[V]{}
	for range g.maxObjects {
		event, err := r.next(initialSilence)
		if err != nil {
			return "", err
		}
		switch object, ok := event.Object.(slim.Object); {
		case !ok:
			return "", apierrors.FromObject(event.Object)
		case event.Type == watch.Deleted:
			delete(listed, g.Keep(object).Key)
		case event.Type != watch.Bookmark:
			e := g.Keep(object)
			listed[e.Key] = e
		case object.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true":
			g.replace(listed)
			return object.GetResourceVersion(), nil
		}
	}
	return "", g.endless("watch", fmt.Sprintf("it has more than %d objects", g.maxObjects))
}

// list replaces what the store holds by a list that it reads page by page. It returns the list's version, or "" where
// it failed. pages does the reading.
func (g *generation[V]) list(ctx context.Context) (version string) {
	ctx, cancel := context.WithTimeoutCause(ctx, pagesTime, g.timeout("list", "its pages do not end"))
	defer cancel()
	listed := map[store.Key]store.Entry[V]{}
	version, err := g.pages(ctx, listed)
	if err == nil {
		g.replace(listed)
	}
	g.observe("list", err)
	return version
}

func (g *generation[V]) pages(ctx context.Context, listed map[store.Key]store.Entry[V]) (version string, err error) {
	o := metav1.ListOptions{Limit: pageSize}
	for objects, empty := 0, 0; ; {
		r, err := g.open(ctx, "list", o)
		if err != nil {
			return "", err
		}
		before := objects
		page, err := slim.ReadList(r, g.Kind+"List", g.New, func(object slim.Object) error {
			r.silence.Reset(initialSilence)
			if objects++; objects > g.maxObjects {
				return g.endless("list", fmt.Sprintf("it has more than %d objects", g.maxObjects))
			}
			e := g.Keep(object)
			listed[e.Key] = e
			return nil
		})
		err = r.explain(err)
		r.Close()
		if objects == before {
			empty++
		}
		switch {
		case err != nil:
			return "", err
		case page.Continue == "":
			return page.ResourceVersion, nil
		case page.Continue == o.Continue:
			return "", g.endless("list", "a page is continued by itself")
		case empty > maxEmptyPages:
			return "", g.endless("list", "its pages are empty")
		}
		o.Continue = page.Continue
	}
}

// response is an answer that is cut off once nothing has come for the time that its silence was last reset to.
type response struct {
	io.ReadCloser
	ctx     context.Context
	cancel  context.CancelCauseFunc
	silence *time.Timer
	new     func() slim.Object
	events  *slim.Events // nil before the first
}

// open sends a request. Its errors are those of client-go, or a Failure where no answer has begun in time.
func (g *generation[V]) open(ctx context.Context, verb string, o metav1.ListOptions) (*response, error) {
	if o.LabelSelector, o.FieldSelector = g.LabelSelector, g.FieldSelector; verb == "watch" {
		seconds := 300 + rand.Int64N(300) // so that the watches of many clients do not end at once
		o.Watch, o.AllowWatchBookmarks, o.TimeoutSeconds = true, true, &seconds
	}
	r := &response{new: g.New}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	r.silence = time.AfterFunc(headerSilence, func() { r.cancel(g.timeout(verb, "the server says nothing")) })
	var err error
	r.ReadCloser, err = g.Client.Get().NamespaceIfScoped(g.namespace, g.namespace != "").Resource(g.Resource).
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

// next returns the next event of a watch, which may take as long as silence.
func (r *response) next(silence time.Duration) (watch.Event, error) {
	r.silence.Reset(silence)
	defer r.silence.Stop() // a reader that is slow is no silence of the server
	if r.events == nil {
		// client-go does not tell the Content-Type. Protobuf begins with the highest byte of the first event's length.
		body, contentType := bufio.NewReader(r), "application/json"
		if first, _ := body.Peek(1); string(first) == "\x00" {
			contentType = kube.Protobuf
		}
		r.events = slim.NewEvents(body, contentType, r.new)
	}
	event, err := r.events.Next()
	return event, r.explain(err)
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
func (r *response) Close() error {
	r.silence.Stop()
	r.cancel(nil)
	return r.ReadCloser.Close()
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
