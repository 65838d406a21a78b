package watch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/store"
)

const missing = "pods are not served by the page p"

func optional(o *Options[string]) { o.Optional = missing }

func forbidden(verb string) *apierrors.StatusError {
	return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("may not "+verb))
}

// logged has what is logged go to a buffer, which the returned function empties.
func logged(t *testing.T) func() string {
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
	var log bytes.Buffer
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})))
	return func() string { defer log.Reset(); return log.String() }
}

// refused takes the two requests of an attempt, refuses both, and returns how long the first let itself be waited for.
func (w watching) refused(e func(verb string) *apierrors.StatusError) time.Duration {
	w.t.Helper()
	start := time.Now()
	q := w.expect("watch-list")
	waited := time.Since(start)
	q.fail(e("watch"))
	w.expect("list").fail(e("list"))
	return waited
}

func TestOptionalResourceThatIsRefusedIsANotice(t *testing.T) {
	for name, c := range map[string]struct {
		refuse func(verb string) *apierrors.StatusError
		reason string
		says   string
	}{
		"the rights are missing": {forbidden, kube.Forbidden,
			`cannot list pods: 403 Forbidden: pods is forbidden: may not list; grant {apiGroups: [""], `},
		"the server has no such resource": {func(string) *apierrors.StatusError {
			return apierrors.NewNotFound(schema.GroupResource{}, "")
		}, kube.NotFound, "cannot list pods: 404 Not Found: "},
	} {
		t.Run(name, func(t *testing.T) {
			log := logged(t)
			watchOther(t, optional, func(t *testing.T, w watching) {
				w.refused(c.refuse)
				for range 5 {
					w.wantState(false, c.reason)
					if !w.State("").Refused() {
						t.Error("it is not refused")
					}
					if f := w.Health.Failures(); len(f) > 0 {
						t.Errorf("failures %q", f)
					}
					n := w.Health.Notices()
					if len(n) != 1 || !strings.HasPrefix(n[0], "watch of pods: since ") ||
						!strings.Contains(n[0], "): "+missing+": "+c.says) {
						t.Errorf("notices %q", n)
					}
					if waited := w.refused(c.refuse); waited < time.Minute || waited > time.Minute+10*time.Second {
						t.Errorf("asked again after %s, want once a minute", waited)
					}
				}
				if got := log(); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, `level=INFO msg="`+missing+`" reason="`) {
					t.Errorf("logged:\n%s", got)
				}
				w.expect("watch-list").stream(t).send("ADDED a/p@1", "COMPLETE 5")
				w.wantPods("a/p@1")
				w.wantState(true, "")
				if n := w.Health.Notices(); len(n) > 0 {
					t.Errorf("notices %q", n)
				}
				if got, want := log(), "level=INFO msg=\"watch of pods works again\"\n"; got != want {
					t.Errorf("logged %q, want %q", got, want)
				}
			})
		})
	}
}

func TestNeededResourceThatIsRefusedIsAFailure(t *testing.T) {
	logged(t)
	watchPods(t, func(t *testing.T, w watching) {
		w.refused(forbidden)
		if f, n := w.Health.Failures(), w.Health.Notices(); len(f) != 1 || len(n) > 0 {
			t.Errorf("failures %q, notices %q", f, n)
		}
	})
}

func TestOptionalResourceThatFailsOtherwiseIsAFailure(t *testing.T) {
	log := logged(t)
	watchOther(t, optional, func(t *testing.T, w watching) {
		unavailable := func(string) *apierrors.StatusError { return apierrors.NewServiceUnavailable("starting") }
		w.refused(unavailable)
		for start := time.Now(); time.Since(start) < 2*patience; {
			if waited := w.refused(unavailable); waited > 7*time.Second {
				t.Fatalf("asked again after %s", waited)
			}
		}
		if f := w.Health.Failures(); len(f) != 1 || len(w.Health.Notices()) > 0 {
			t.Errorf("failures %q, notices %q", f, w.Health.Notices())
		}
		if got := log(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") {
			t.Errorf("logged:\n%s", got)
		}
		// Once it is refused, the outage has ended for it.
		w.refused(forbidden)
		if f := w.Health.Failures(); len(f) > 0 || len(w.Health.Notices()) != 1 {
			t.Errorf("failures %q, notices %q", f, w.Health.Notices())
		}
	})
}

// What a server that restarts refuses for a moment is no change of rights.
func TestOptionalResourceThatIsRefusedForAMomentIsNotLogged(t *testing.T) {
	log := logged(t)
	watchOther(t, optional, func(t *testing.T, w watching) {
		events := w.expect("watch-list").stream(t)
		events.send("ADDED a/p@1", "COMPLETE 5")
		events.Close()
		w.expect("watch from 5").fail(forbidden("watch"))
		w.wantState(true, kube.Forbidden)
		w.wantPods("a/p@1")
		start := time.Now()
		w.expect("watch-list").stream(t).send("ADDED a/p@1", "COMPLETE 6")
		if waited := time.Since(start); waited < time.Minute || waited > time.Minute+10*time.Second {
			t.Errorf("asked again after %s", waited)
		}
		w.wantState(true, "")
		if got := log(); got != "" {
			t.Errorf("logged %s", got)
		}
	})
}

func TestOptionalResourceThatMayOnlyBeListed(t *testing.T) {
	watchOther(t, optional, func(t *testing.T, w watching) {
		var last time.Time
		for i := range 3 {
			q := w.expect("watch-list")
			if waited := time.Since(last); i > 0 && waited < time.Minute {
				t.Errorf("asked again after %s", waited)
			}
			q.fail(forbidden("watch"))
			w.expect("list").page("5", "", fmt.Sprint("a/p@", i+1))
			w.wantPods(fmt.Sprint("a/p@", i+1))
			w.expect("watch from 5").fail(forbidden("watch"))
			w.wantState(true, kube.Forbidden)
			last = time.Now()
		}
	})
}

func TestWaitForRightsEndsWithTheGeneration(t *testing.T) {
	watchOther(t, optional, func(t *testing.T, w watching) {
		w.refused(forbidden)
		w.Resync()
		if !w.State("").Refused() {
			t.Error("it is forgotten that it was refused")
		}
		if waited := w.refused(forbidden); waited > time.Second {
			t.Errorf("asked again after %s", waited)
		}
	})
}

// ofNamespaces has Namespaces watched, of which this keeps "namespace/name@version".
func ofNamespaces(o *Options[string]) {
	o.Resource, o.LabelSelector, o.New = "namespaces", "", func() slim.Object { return &slim.Metadata{} }
}

const metadataKind = `"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1"`

func namespace(name, version string) string {
	return fmt.Sprintf(`{%s,"metadata":{"name":%q,"resourceVersion":%q}}`, metadataKind, name, version)
}

func (q *request) object(text string) {
	q.answer(200, io.NopCloser(strings.NewReader(text)))
	synctest.Wait()
}

func TestNamespacesOfTheClusterAreWatched(t *testing.T) {
	watchOther(t, ofNamespaces, func(t *testing.T, w watching) {
		q := w.expect("/api/v1/namespaces")
		params := q.URL.Query()
		if params.Get("fieldSelector") != "metadata.name!=x" || params.Get("sendInitialEvents") != "true" {
			t.Errorf("asked for %s", q.URL)
		}
		events := q.stream(t)
		fmt.Fprintf(events, `{"type":"ADDED","object":%s}`, namespace("a", "1"))
		fmt.Fprintf(events, `{"type":"BOOKMARK","object":{%s,"metadata":{"resourceVersion":"5",`+
			`"annotations":{"k8s.io/initial-events-end":"true"}}}}`, metadataKind)
		w.wantPods("a/a@1")
		fmt.Fprintf(events, `{"type":"ADDED","object":%s}`, namespace("b", "6"))
		fmt.Fprintf(events, `{"type":"DELETED","object":%s}`, namespace("a", "7"))
		w.wantPods("b/b@6")
		if what := w.What(""); what != "watch of namespaces" {
			t.Errorf("health of %q", what)
		}
	})
}

func TestNamespaceIsReadByItsName(t *testing.T) {
	const path = "/api/v1/namespaces/a"
	watchOther(t, ofNamespaces, func(t *testing.T, w watching) {
		var last time.Time
		next := func() *request {
			q := w.expect(path)
			if since := time.Since(last); !last.IsZero() && since != getEvery {
				t.Errorf("read again after %s", since)
			}
			last = time.Now()
			return q
		}
		q := next()
		if q.URL.RawQuery != "" || !strings.Contains(q.Header.Get("Accept"), ";as=PartialObjectMetadata;") {
			t.Errorf("asked for %s as %s", q.URL, q.Header)
		}
		w.wantState(false, "", "a")
		q.object(namespace("a", "5"))
		w.wantPods("a/a@5")
		w.wantState(true, "", "a")
		if !w.Up() {
			t.Error("not up")
		}
		next().object(namespace("a", "4")) // as where etcd was restored
		w.wantPods("a/a@4")
		next().fail(apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "a"))
		w.wantPods()
		w.wantState(true, "", "a")
		next().object(namespace("a", "9"))
		w.wantPods("a/a@9")
		next().object(namespace("b", "9")) // which nobody asked for
		w.wantPods()
		w.Resync()
		w.wantState(false, "", "a")
		w.expect(path).object(namespace("a", "10"))
		w.wantPods("a/a@10")
	}, "a")
}

func TestNamespaceThatCannotBeRead(t *testing.T) {
	for name, c := range map[string]struct {
		fail   func(q *request)
		reason string
		says   string
		pause  time.Duration // until the next attempt, at least
	}{
		"the right is missing": {func(q *request) { q.fail(forbidden("get")) }, kube.Forbidden,
			`cannot get namespaces: 403 Forbidden: pods is forbidden: may not get; grant {apiGroups: [""], resources: ` +
				`["namespaces"], verbs: ["get"]}`, refusedPause},
		"another server says that it is gone": {func(q *request) {
			q.answer(404, io.NopCloser(strings.NewReader("<html>")))
			synctest.Wait()
		}, kube.NotFound, "not a Kubernetes API server", refusedPause},
		"the server is starting": {func(q *request) { q.fail(apierrors.NewServiceUnavailable("starting")) },
			kube.Unavailable, "503", maxPause},
		"the server says nothing": {func(*request) { time.Sleep(initialSilence + time.Second) }, kube.Timeout,
			"cannot get namespaces: no complete answer in time", maxPause - time.Second},
		"the server stops within the object": {func(q *request) {
			body, w := io.Pipe()
			context.AfterFunc(q.Context(), func() { w.CloseWithError(q.Context().Err()) })
			q.answer(200, body)
			time.Sleep(initialSilence + time.Second)
		}, kube.Timeout, "cannot get namespaces: no complete answer in time", maxPause - time.Second},
		"the answer is illegible": {func(q *request) { q.object("<html>") }, kube.Content,
			"neither Kubernetes protobuf", maxPause},
		"the answer is another object": {func(q *request) { q.object(`{"kind":"Namespace","apiVersion":"v1"}`) },
			kube.Content, `its kind is "Namespace"`, maxPause},
	} {
		t.Run(name, func(t *testing.T) {
			logged(t)
			watchOther(t, func(o *Options[string]) { optional(o); ofNamespaces(o) }, func(t *testing.T, w watching) {
				w.expect("/api/v1/namespaces/a").object(namespace("a", "5"))
				c.fail(w.expect("/api/v1/namespaces/a"))
				w.wantState(true, c.reason, "a")
				if s := w.State("a"); s.Failure == nil || !strings.Contains(s.Failure.Text, c.says) {
					t.Fatalf("failure %v, want %s", s.Failure, c.says)
				}
				w.wantPods("a/a@5") // it is for others to say for how long
				start := time.Now()
				q := w.expect("/api/v1/namespaces/a")
				if waited := time.Since(start); waited < c.pause || waited > c.pause+maxPause+time.Second {
					t.Errorf("asked again after %s, want %s", waited, c.pause)
				}
				if n := w.Health.Notices(); c.pause == refusedPause != (len(n) == 1) ||
					len(n) == 1 && !strings.HasPrefix(n[0], "watch of namespace a: ") {
					t.Errorf("notices %q", n)
				}
				q.object(namespace("a", "6"))
				w.wantPods("a/a@6")
				w.wantState(true, "", "a")
				if n := w.Health.Notices(); len(n) > 0 {
					t.Errorf("notices %q", n)
				}
			}, "a")
		})
	}
}

func TestNamespacesAreReadOneByOne(t *testing.T) {
	watchOther(t, ofNamespaces, func(t *testing.T, w watching) {
		for path, q := range w.takeAll("/api/v1/namespaces/a", "/api/v1/namespaces/b") { // x is excluded
			q.object(namespace(path[len("/api/v1/namespaces/"):], "5"))
		}
		w.wantPods("a/a@5", "b/b@5")
		for _, name := range []string{"a", "b", "x"} {
			w.wantState(true, "", name)
		}
	}, "a", "b", "x")
}

// A server that sends metadata only to who asks for them in the right form serves ReplicaSets of apps/v1.
func TestMetadataAreAskedForOfAServer(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		query, form := r.URL.Query(), "PartialObjectMetadataList"
		watch := query.Get("watch") == "true"
		if watch {
			form = "PartialObjectMetadata"
		}
		as := ";as=" + form + ";g=meta.k8s.io;v=v1"
		if got, want := r.Header.Values("Accept"), []string{"application/vnd.kubernetes.protobuf" + as +
			",application/json" + as}; !slices.Equal(got, want) {
			t.Errorf("%s: Accept %q, want %q", r.URL, got, want)
		}
		mu.Lock()
		asked = append(asked, fmt.Sprintf("%s %t", r.URL.Path, watch))
		mu.Unlock()
		rw.Header().Set("Content-Type", "application/json")
		switch {
		case query.Get("sendInitialEvents") != "":
			rw.WriteHeader(http.StatusUnprocessableEntity)
			json.NewEncoder(rw).Encode(statusOf(apierrors.NewInvalid(schema.GroupKind{}, "", nil)))
		case watch:
			fmt.Fprintf(rw, `{"type":"ADDED","object":{%s,"metadata":{"namespace":"a","name":"new","resourceVersion":"6"}}}`,
				metadataKind)
			rw.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			fmt.Fprintf(rw, `{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":`+
				`{"resourceVersion":"5"},"items":[{"metadata":{"namespace":"a","name":"old","resourceVersion":"1"}}]}`)
		}
	}))
	defer server.Close()
	config := &rest.Config{Host: server.URL, APIPath: "/apis"}
	o := podOptions(clientOf(t, kube.Apps, config, server.Client().Transport), func() {}, nil)
	o.Resource, o.New = "replicasets", func() slim.Object { return &slim.Metadata{} }
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	keep := o.Keep
	o.Keep = func(object slim.Object) store.Entry[string] {
		if object.GetName() == "new" {
			stop()
		}
		return keep(object)
	}
	w := New(o)
	w.Run(ctx)
	if want := []string{"/apis/apps/v1/replicasets true", "/apis/apps/v1/replicasets false",
		"/apis/apps/v1/replicasets true"}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}
	for _, name := range []string{"old", "new"} {
		if o, _ := w.Store.Find([]byte("a"), []byte(name)); o == nil {
			t.Errorf("%s is not there", name)
		}
	}
}
