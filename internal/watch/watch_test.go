package watch

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/store"
)

// stream is the body of a watch that the test writes. The reader sees it end when its request is over.
type stream struct {
	*io.PipeWriter
	t *testing.T
}

// send sends events: "ADDED a/p@1", "BOOKMARK 5", "COMPLETE 5" for the bookmark that ends a list.
func (s *stream) send(events ...string) {
	for _, e := range events {
		if err := s.try(e); err != nil {
			s.t.Errorf("nobody reads %s: %v", e, err)
		}
	}
	synctest.Wait()
}

// try sends one event, or tells that nobody reads any more.
func (s *stream) try(event string) error {
	kind, of, _ := strings.Cut(event, " ")
	var object any
	switch kind {
	case "BOOKMARK", "COMPLETE":
		p := apiPod("/@" + of)
		if kind == "COMPLETE" {
			kind, p.Annotations = "BOOKMARK", map[string]string{metav1.InitialEventsAnnotationKey: "true"}
		}
		object = p
	case "GONE":
		kind, object = "ERROR", statusOf(apierrors.NewResourceExpired("too old resource version"))
	default:
		object = apiPod(of)
	}
	return json.NewEncoder(s).Encode(map[string]any{"type": kind, "object": object})
}

// pod is a pod as the API has it.
type pod struct {
	metav1.TypeMeta `json:",inline"`
	slim.Pod
}

// apiPod makes a pod of "namespace/name@version", or of "namespace/name@version since DATE" with a moment of creation.
func apiPod(text string) *pod {
	text, date, _ := strings.Cut(text, " since ")
	key, version, _ := strings.Cut(text, "@")
	namespace, name, _ := strings.Cut(key, "/")
	created, _ := time.Parse(time.DateOnly, date)
	return &pod{metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, slim.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, ResourceVersion: version, CreationTimestamp: metav1.NewTime(created)}}}
}

func statusOf(e *apierrors.StatusError) metav1.Status {
	status := e.Status()
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	return status
}

// api is an API server inside a synctest bubble. Each request waits until the test takes it.
type api struct {
	t        *testing.T
	requests chan *request
	down     chan struct{} // closed at the end
}

type request struct {
	*http.Request
	answered chan *http.Response
	refused  chan error
}

func newAPI(t *testing.T) *api {
	return &api{t, make(chan *request), make(chan struct{})}
}

func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	q := &request{r, make(chan *http.Response), make(chan error)}
	select {
	case a.requests <- q:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	select {
	case resp := <-q.answered:
		return resp, nil
	case err := <-q.refused:
		return nil, err
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// next is the next request, described as "watch-list", "watch from VERSION", "list", "list on TOKEN", with the
// namespace in front where there is one.
func (a *api) next() (q *request, what string) {
	a.t.Helper()
	select {
	case q = <-a.requests:
	case <-time.After(10 * time.Minute):
		a.t.Fatal("no request in 10 minutes")
	}
	params := q.URL.Query()
	switch {
	case params.Get("watch") == "" && params.Get("continue") == "":
		what = "list"
	case params.Get("watch") == "":
		what = "list on " + params.Get("continue")
	case params.Get("sendInitialEvents") == "true":
		what = "watch-list"
	default:
		what = "watch from " + params.Get("resourceVersion")
	}
	switch path := strings.Split(strings.TrimPrefix(q.URL.Path, "/api/v1/"), "/"); {
	case len(path) == 3 && path[0] == "namespaces" && path[2] == "pods":
		what = path[1] + ": " + what
	case len(path) != 1 || path[0] != "pods":
		what = q.URL.Path
	}
	return q, what
}

// expect takes the next request, which must be the given one.
func (a *api) expect(want string) *request {
	a.t.Helper()
	q, got := a.next()
	if got != want {
		a.t.Fatalf("request %q (%s), want %q", got, q.URL, want)
	}
	return q
}

// answer sends a response of JSON, unless the request was given up.
func (q *request) answer(status int, body io.ReadCloser) {
	header := http.Header{"Content-Type": {"application/json"}}
	select {
	case q.answered <- &http.Response{StatusCode: status, Header: header, Body: body, Request: q.Request}:
	case <-q.Context().Done():
	}
}

func (q *request) fail(e *apierrors.StatusError) {
	body, _ := json.Marshal(statusOf(e))
	q.answer(int(e.Status().Code), io.NopCloser(bytes.NewReader(body)))
	synctest.Wait()
}

func (q *request) stream(t *testing.T) *stream {
	r, w := io.Pipe()
	context.AfterFunc(q.Context(), func() { w.CloseWithError(q.Context().Err()) })
	q.answer(200, r)
	synctest.Wait()
	return &stream{w, t}
}

// page sends a page of a list; next is the token of the one that follows.
func (q *request) page(version, next string, pods ...string) {
	items := []any{}
	for _, p := range pods {
		items = append(items, apiPod(p))
	}
	body, _ := json.Marshal(map[string]any{"kind": "PodList", "apiVersion": "v1", "items": items,
		"metadata": metav1.ListMeta{ResourceVersion: version, Continue: next}})
	q.answer(200, io.NopCloser(bytes.NewReader(body)))
	synctest.Wait()
}

// client is a client of the core API, as package kube makes it.
func client(t *testing.T, server http.RoundTripper) rest.Interface {
	return clientOf(t, kube.Core, &rest.Config{Host: "http://cluster", APIPath: "/api", QPS: -1}, server)
}

func clientOf(t *testing.T, group schema.GroupVersion, config *rest.Config, server http.RoundTripper) rest.Interface {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, kube.Core)
	config.GroupVersion, config.NegotiatedSerializer = &group, serializer.NewCodecFactory(scheme).WithoutConversion()
	c, err := rest.RESTClientForConfigAndClient(config, &http.Client{Transport: server})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// watching runs a watch of pods against an api, inside a synctest bubble. It keeps of a pod "namespace/name@version".
type watching struct {
	*Watch[string]
	*api
	changes *int // calls of changed
}

func newPods(t *testing.T, client rest.Interface, changed func(), namespaces ...string) *Watch[string] {
	return New(podOptions(client, changed, namespaces))
}

func podOptions(client rest.Interface, changed func(), namespaces []string) Options[string] {
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	return Options[string]{
		Client: client, Resource: "pods", Namespaces: namespaces,
		LabelSelector: "app=shop", Excluded: []string{"x"},
		New: func() slim.Object { return &slim.Pod{} },
		Keep: func(o slim.Object) store.Entry[string] {
			return store.NewEntry(o, o.GetName(), o.GetNamespace()+"/"+o.GetName()+"@"+o.GetResourceVersion())
		},
		Store: store.New[string](), Changed: func(string) { changed() },
		Pulse: refresh.NewPulse(), Health: &health.Tracker{}, Self: new(selfmetrics.Registry).Scope(""),
	}
}

func watchPods(t *testing.T, do func(t *testing.T, w watching), namespaces ...string) {
	t.Helper()
	watchOther(t, func(*Options[string]) {}, do, namespaces...)
}

// watchOther is watchPods with other options.
func watchOther(t *testing.T, set func(*Options[string]), do func(t *testing.T, w watching), namespaces ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server, changes := newAPI(t), 0
		var mu sync.Mutex
		o := podOptions(client(t, server), func() {
			mu.Lock()
			defer mu.Unlock()
			changes++
		}, namespaces)
		set(&o)
		w := New(o)
		w.maxObjects = 10_000
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { w.Run(ctx); close(ended) }()
		do(t, watching{w, server, &changes})
		stop()
		<-ended
		synctest.Wait()
	})
}

// wantPods checks that the store holds these pods and no other.
func (w watching) wantPods(want ...string) {
	w.t.Helper()
	synctest.Wait()
	if n := w.Store.Len(); n != len(want) {
		w.t.Errorf("%d pods, want %v", n, want)
	}
	for _, pod := range want {
		key, _, _ := strings.Cut(pod, "@")
		namespace, name, _ := strings.Cut(key, "/")
		if held, _ := w.Store.Find([]byte(namespace), []byte(name)); held == nil || held.Value != pod {
			w.t.Errorf("%s is %+v, want %s", key, held, pod)
		}
	}
}

// wantState checks the state of the only namespace, or of the given one.
func (w watching) wantState(synced bool, failure string, namespace ...string) {
	w.t.Helper()
	synctest.Wait()
	s := w.State(strings.Join(namespace, ""))
	got := ""
	if s.Failure != nil {
		got = s.Failure.Reason
	}
	if s.Synced != synced || got != failure || s.Since.IsZero() != (s.Failure == nil) {
		w.t.Errorf("synced %t, failure %q since %s, want %t and %q", s.Synced, got, s.Since, synced, failure)
	}
	if up := synced && failure == ""; len(namespace) == 0 && w.Up() != up {
		w.t.Errorf("up is %t, want %t", !up, up)
	}
}

func TestWatchList(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		w.wantState(false, "")
		q := w.expect("watch-list")
		params := q.URL.Query()
		for name, want := range map[string]string{
			"allowWatchBookmarks": "true", "resourceVersionMatch": "NotOlderThan", "resourceVersion": "",
			"labelSelector": "app=shop", "fieldSelector": "metadata.namespace!=x"} {
			if got := params.Get(name); got != want {
				t.Errorf("%s=%s, want %s", name, got, want)
			}
		}
		if seconds, _ := strconv.Atoi(params.Get("timeoutSeconds")); seconds < 300 || seconds > 600 {
			t.Errorf("timeoutSeconds=%d, want 5 to 10 minutes", seconds)
		}
		events := q.stream(t)
		events.send("ADDED a/p@1", "ADDED b/q@2", "ADDED c/gone@2", "BOOKMARK 3", "MODIFIED b/q@4", "DELETED c/gone@5")
		w.wantPods() // nothing is shown of a list that is not complete
		w.wantState(false, "")
		events.send("COMPLETE 5")
		w.wantPods("a/p@1", "b/q@4")
		w.wantState(true, "")
		events.send("ADDED a/r@6", "MODIFIED a/p@7", "DELETED b/q@8", "BOOKMARK 9")
		w.wantPods("a/r@6", "a/p@7")
		if _, deleted := w.Store.Find([]byte("b"), []byte("q")); !deleted {
			t.Error("it is not known that b/q was deleted")
		}

		events.Close() // as an API server does every few minutes
		events = w.expect("watch from 9").stream(t)
		events.send("ADDED a/s@10")
		w.wantPods("a/r@6", "a/p@7", "a/s@10")
		w.wantState(true, "")
	})
}

// marshaler is a type of the API.
type marshaler interface{ Marshal() ([]byte, error) }

// enveloped is an object in protobuf as the API server sends it, and event an event of a watch.
func enveloped(kind string, object marshaler) []byte {
	raw, _ := object.Marshal()
	b, _ := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: kind}, Raw: raw}).Marshal()
	return append([]byte("k8s\x00"), b...)
}

func event(kind string, version string, annotations map[string]string) []byte {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "a", Name: "p", ResourceVersion: version, Annotations: annotations}}
	b, _ := (&metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: enveloped("Pod", p)}}).Marshal()
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func TestProtobuf(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		events := w.expect("watch-list").stream(t)
		events.Write(event("ADDED", "1", nil))
		events.Write(event("BOOKMARK", "5", map[string]string{metav1.InitialEventsAnnotationKey: "true"}))
		w.wantPods("a/p@1")
		events.Write(event("MODIFIED", "6", nil))
		w.wantPods("a/p@6")
		w.Resync()
		w.expect("watch-list").fail(apierrors.NewInvalid(schema.GroupKind{}, "", nil))
		list := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "9"}, Items: []corev1.Pod{
			{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "q", ResourceVersion: "8"}}}}
		w.expect("list").answer(200, io.NopCloser(bytes.NewReader(enveloped("PodList", list))))
		w.expect("watch from 9")
		w.wantPods("a/q@8")
	})
}

func TestServerWithoutWatchLists(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		w.expect("watch-list").fail(apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"}, "", nil))
		w.wantState(false, "")
		q := w.expect("list")
		params := q.URL.Query()
		for name, want := range map[string]string{"limit": "250", "resourceVersion": "", "resourceVersionMatch": "",
			"labelSelector": "app=shop", "fieldSelector": "metadata.namespace!=x"} {
			if got := params.Get(name); got != want {
				t.Errorf("%s=%s, want %s", name, got, want)
			}
		}
		q.page("5", "two", "a/p@1", "b/q@2")
		w.wantPods()
		w.expect("list on two").page("5", "three", "c/r@3")
		w.expect("list on three").page("5", "")
		w.wantPods("a/p@1", "b/q@2", "c/r@3")
		w.wantState(true, "")
		w.expect("watch from 5").stream(t).send("ADDED a/s@6")
		w.wantPods("a/p@1", "b/q@2", "c/r@3", "a/s@6")
	})
}

func TestWatchListThatNeverCompletes(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		start := time.Now()
		w.expect("watch-list").stream(t).send("ADDED a/p@1", "BOOKMARK 2")
		q, what := w.next()
		if waited := time.Since(start); what != "list" || waited > initialSilence+10*time.Second {
			t.Fatalf("request %q after %s, want a list soon after %s", what, waited, initialSilence)
		}
		q.page("5", "", "a/p@1", "a/q@3")
		w.wantPods("a/p@1", "a/q@3")
		events := w.expect("watch from 5").stream(t)
		events.send("GONE")
		w.expect("list").page("9", "", "a/q@3") // and never a watch-list again
		w.wantPods("a/q@3")
		w.expect("watch from 9").stream(t)
		w.Resync() // but after a freeze, in which it may have got stuck
		w.expect("watch-list")
	})
}

func TestWatchListThatNeverCompletesWhileTheClusterIsBusy(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		events := w.expect("watch-list").stream(t)
		for i := range 60 { // ten minutes
			events.try(fmt.Sprint("MODIFIED a/p@", i)) // it is to be given up at some point
			select {
			case q := <-w.requests:
				q.page("99", "", "a/p@98")
				w.expect("watch from 99").stream(t)
				w.wantState(true, "")
				return
			case <-time.After(10 * time.Second):
			}
		}
		t.Error("no list in 10 minutes of a watch-list whose list does not end")
	})
}

func TestWatchListThatIsCutOffIsBegunAnew(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		events := w.expect("watch-list").stream(t)
		events.send("ADDED a/gone@1")
		events.Close()
		w.expect("list").fail(apierrors.NewServiceUnavailable("restarting"))
		events = w.expect("watch-list").stream(t)
		events.send("ADDED a/p@2", "COMPLETE 3")
		w.wantPods("a/p@2")
		w.wantState(true, "")
	})
}

func TestSilentWatchIsOpenedAnewWhereItStopped(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		w.expect("watch-list").stream(t).send("ADDED a/p@1", "COMPLETE 5", "ADDED a/q@7")
		start := time.Now()
		events := w.expect("watch from 7").stream(t)
		if waited := time.Since(start); waited < watchSilence || waited > watchSilence+10*time.Second {
			t.Errorf("opened anew after %s, want soon after %s", waited, watchSilence)
		}
		events.send("DELETED a/p@8")
		w.wantPods("a/q@7")
		w.wantState(true, "")
	})
}

func TestWatchThatSaysSomethingGoesOn(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		q := w.expect("watch-list")
		events := q.stream(t)
		events.send("COMPLETE 5")
		for i, event := range []string{"ADDED a/p@6", "BOOKMARK 7", "DELETED a/p@8", "BOOKMARK 8"} {
			time.Sleep(watchSilence - time.Second)
			if q.Context().Err() != nil {
				t.Fatalf("it was ended before message %d", i)
			}
			events.send(event)
		}
		w.wantState(true, "")
	})
}

// A proxy may cut off each watch at once: that is no reason to list, nor to ask without a pause.
func TestWatchThatEndsAtOnceIsOpenedAgainWhereItStoppedAfterAPause(t *testing.T) {
	for name, event := range map[string]string{"without an event": "", "after an event": "BOOKMARK 5"} {
		t.Run(name, func(t *testing.T) {
			watchPods(t, func(t *testing.T, w watching) {
				events := w.expect("watch-list").stream(t)
				events.send("ADDED a/p@1")
				time.Sleep(minWatch)
				events.send("COMPLETE 5")
				start, n := time.Now(), 0
				for ; time.Since(start) < time.Minute; n++ {
					events.Close()
					if events = w.expect("watch from 5").stream(t); event != "" {
						events.send(event)
					}
				}
				if n > 31 {
					t.Errorf("opened %d times in a minute", n)
				}
				w.wantPods("a/p@1")
				w.wantState(true, "")
			})
		})
	}
}

func TestWatchOfVeryManyMessagesIsBegunAnew(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		w.maxObjects = 5
		events := w.expect("watch-list").stream(t)
		events.send("COMPLETE 5", "ADDED a/p@6", "ADDED a/q@7", "ADDED a/r@8", "ADDED a/s@9", "ADDED a/t@10")
		w.wantState(true, "")
		w.expect("watch-list").stream(t).send("ADDED a/t@10", "COMPLETE 10")
		w.wantPods("a/t@10")
	})
}

func TestServerWithoutRoomForAWatchIsNotAskedForAList(t *testing.T) {
	for name, refuse := range map[string]func(q *request){
		"429":                func(q *request) { q.fail(apierrors.NewTooManyRequestsError("")) },
		"connection refused": func(q *request) { q.refused <- syscall.ECONNREFUSED; synctest.Wait() },
	} {
		t.Run(name, func(t *testing.T) {
			watchPods(t, func(t *testing.T, w watching) {
				events := w.expect("watch-list").stream(t)
				events.send("COMPLETE 5", "ADDED a/p@6")
				events.Close()
				for range 3 {
					refuse(w.expect("watch from 6"))
					if s := w.State(""); s.Failure == nil {
						t.Error("it is not seen as a failure")
					}
				}
				w.expect("watch from 6").stream(t)
				w.wantState(true, "")
			})
		})
	}
}

// A reader may be slow, such as one that waits for the processor: that is no silence of the server.
func TestSlowReaderIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newAPI(t)
		w := newPods(t, client(t, server), func() {})
		keep := w.Keep
		w.Keep = func(o slim.Object) store.Entry[string] { time.Sleep(2 * initialSilence); return keep(o) }
		ctx, stop := context.WithTimeout(t.Context(), initialTime)
		go w.Run(ctx)
		server.expect("watch-list").stream(t).send("ADDED a/p@1", "ADDED a/q@2", "ADDED a/r@3", "COMPLETE 4")
		if err := w.Ready(ctx, "", 0); err != nil {
			t.Error(err)
		}
		watching{w, server, nil}.wantPods("a/p@1", "a/q@2", "a/r@3")
		stop()
		synctest.Wait()
	})
}

func TestHistoryThatIsGoneIsListedAnew(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		events := w.expect("watch-list").stream(t)
		events.send("ADDED a/p@1", "COMPLETE 5")
		events.send("GONE")
		w.wantState(true, "") // what is there is still the best there is
		w.wantPods("a/p@1")
		w.expect("watch-list").stream(t).send("ADDED a/q@8", "COMPLETE 9")
		w.wantPods("a/q@8")
	})
}

// A version that the server has not reached yet is one of before etcd was restored from a backup.
func TestRestoredEtcdIsListedAnew(t *testing.T) {
	tooLarge := apierrors.NewTimeoutError("Too large resource version: 5000, current: 70", 1)
	tooLarge.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge}}
	for name, restored := range map[string]func(t *testing.T, w watching, events *stream){
		"the server says that the version is too large": func(t *testing.T, w watching, events *stream) {
			events.Close()
			w.expect("watch from 5000").fail(tooLarge)
		},
		"a bookmark of a lower version": func(t *testing.T, w watching, events *stream) { events.send("BOOKMARK 70") },
		"an event of a lower version":   func(t *testing.T, w watching, events *stream) { events.send("ADDED a/new@70") },
		"a watch that says nothing until that version is reached": func(t *testing.T, w watching, events *stream) {
			time.Sleep(time.Minute)
			events.Close()
			w.expect("watch from 5000").stream(t)
			time.Sleep(watchSilence)
		},
		"watches that say nothing and are closed by a proxy": func(t *testing.T, w watching, events *stream) {
			for range 3 {
				time.Sleep(time.Minute)
				events.Close()
				if q, what := w.next(); what == "watch from 5000" {
					events = q.stream(t)
				} else {
					go func() { w.requests <- q }() // which is looked at below
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			watchPods(t, func(t *testing.T, w watching) {
				events := w.expect("watch-list").stream(t)
				events.send("ADDED a/p@4000", "ADDED a/q@4001 since 2025-01-01", "COMPLETE 5000")
				start := time.Now()
				restored(t, w, events)
				q := w.expect("watch-list")
				if version := q.URL.Query().Get("resourceVersion"); version != "" {
					t.Errorf("list of a version that is not older than %s", version)
				}
				if waited := time.Since(start); waited > 5*time.Minute {
					t.Errorf("listed anew after %s", waited)
				}
				events = q.stream(t)
				events.send("ADDED a/p@60", "COMPLETE 70", "MODIFIED a/p@71", "ADDED a/q@72 since 2025-01-02")
				w.wantPods("a/p@71", "a/q@72")
				w.wantState(true, "")
			})
		})
	}
}

func TestRequestsThatFailAreRepeatedAndExplained(t *testing.T) {
	for name, c := range map[string]struct {
		fail   func(q *request)
		reason string
		text   string
	}{
		"the server is starting": {func(q *request) {
			q.fail(apierrors.NewServiceUnavailable("starting"))
		}, kube.Unavailable, "503"},
		"the rights are missing": {func(q *request) {
			q.fail(apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no")))
		}, kube.Forbidden, `grant {apiGroups: [""], resources: ["pods"], verbs: ["`},
		"the token has expired": {func(q *request) {
			q.fail(apierrors.NewUnauthorized("expired"))
		}, kube.Unauthorized, "renew it"},
		"every version is gone": {func(q *request) {
			q.fail(apierrors.NewResourceExpired(""))
		}, kube.Unavailable, "410"},
		"the server is overloaded": {func(q *request) {
			q.fail(apierrors.NewTooManyRequestsError(""))
		}, kube.Throttled, "429"},
		"the answers are illegible": {func(q *request) {
			q.answer(200, io.NopCloser(strings.NewReader("<html>")))
			synctest.Wait()
		}, kube.Content, "cannot"},
		"the first events fail": {func(q *request) {
			if q.URL.Query().Get("watch") == "" {
				q.fail(apierrors.NewServiceUnavailable("starting"))
				return
			}
			body, _ := json.Marshal(map[string]any{"type": "ERROR", "object": statusOf(apierrors.NewResourceExpired(""))})
			q.answer(200, io.NopCloser(bytes.NewReader(body)))
			synctest.Wait()
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			watchPods(t, func(t *testing.T, w watching) {
				start, before := time.Now(), time.Now()
				for n := 0; time.Since(start) < 2*time.Minute; n++ {
					q, _ := w.next()
					if waited := time.Since(before); waited > 7*time.Second {
						t.Fatalf("%s until request %d: what is back must be seen within a refresh interval", waited, n)
					}
					before = time.Now()
					if c.fail(q); c.reason != "" {
						w.wantState(false, c.reason)
					}
					if n > 100 {
						t.Fatal("more than 100 requests in two minutes")
					}
				}
				s := w.State("")
				if c.reason != "" && (!s.Since.Equal(start) || !strings.Contains(s.Failure.Text, c.text)) {
					t.Errorf("failing since %s, want %s: %s", s.Since, start, s.Failure.Text)
				}
				for w.State("").Synced == false {
					q, what := w.next()
					switch what {
					case "watch-list":
						q.stream(t).send("ADDED a/p@1", "COMPLETE 5")
					case "list":
						q.page("5", "", "a/p@1")
					}
				}
				w.wantPods("a/p@1")
				select { // after a list the watch is still to be opened
				case q := <-w.requests:
					q.stream(t).send("BOOKMARK 6")
				case <-time.After(10 * time.Second):
				}
				w.wantState(true, "")
			})
		})
	}
}

// A server that takes a request and never answers, or that stops in the middle, is left after a while, whatever was
// asked.
func TestServerThatFallsSilent(t *testing.T) {
	invalid := apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"}, "", nil)
	for name, c := range map[string]struct {
		begin  func(t *testing.T, w watching) // ends with the request that has no whole answer
		synced bool
		next   string
		within time.Duration
	}{
		"before the header of a watch-list": {func(t *testing.T, w watching) {
			w.expect("watch-list")
		}, false, "list", initialSilence},
		"before the header of a list": {func(t *testing.T, w watching) {
			w.expect("watch-list").fail(invalid)
			w.expect("list")
		}, false, "watch-list", initialSilence},
		"before the header of a list's second page": {func(t *testing.T, w watching) {
			w.expect("watch-list").fail(invalid)
			w.expect("list").page("5", "two", "a/p@1")
			w.expect("list on two")
		}, false, "watch-list", initialSilence},
		"within a page": {func(t *testing.T, w watching) {
			w.expect("watch-list").fail(invalid)
			page := w.expect("list").stream(t)
			io.WriteString(page, `{"kind":"PodList","apiVersion":"v1","items":[{}`)
			for range 5 {
				time.Sleep(initialSilence * 9 / 10)
				if _, err := io.WriteString(page, ",{}"); err != nil {
					t.Errorf("a page that comes slowly was ended: %v", err)
				}
			}
		}, false, "watch-list", initialSilence},
		"before the header of a watch": {func(t *testing.T, w watching) {
			w.expect("watch-list").fail(invalid)
			w.expect("list").page("5", "", "a/p@1")
			w.expect("watch from 5")
		}, true, "watch-list", initialSilence},
		"before the header of a watch that goes on": {func(t *testing.T, w watching) {
			events := w.expect("watch-list").stream(t)
			events.send("COMPLETE 5")
			events.Close()
			w.expect("watch from 5")
		}, true, "watch-list", initialSilence},
		"within the header's time again and again, in a list of many pages": {func(t *testing.T, w watching) {
			w.expect("watch-list").fail(invalid)
			for i := range 100 {
				q, _ := w.next()
				time.Sleep(initialSilence * 9 / 10)
				if q.Context().Err() != nil {
					return
				}
				q.page("5", fmt.Sprint(i), fmt.Sprintf("a/p%d@1", i))
			}
			t.Error("a list may take for ever")
		}, false, "watch-list", time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			watchPods(t, func(t *testing.T, w watching) {
				c.begin(t, w)
				start := time.Now()
				q, what := w.next()
				if waited := time.Since(start); what != c.next || waited > c.within+time.Minute/4 {
					t.Errorf("request %q after %s, want %q soon after %s", what, waited, c.next, c.within)
				}
				w.wantState(c.synced, kube.Timeout)
				if text := w.State("").Failure.Text; !strings.Contains(text, "no complete answer in time") {
					t.Error(text)
				}
				if what == "watch-list" {
					q.fail(invalid)
					q = w.expect("list")
				}
				q.page("9", "", "a/p@8")
				w.expect("watch from 9").stream(t).send("BOOKMARK 10")
				w.wantPods("a/p@8")
				w.wantState(true, "")
			})
		})
	}
}

// endless is an answer that begins in one way and then repeats another.
type endless struct{ begin, repeat []byte }

func (e *endless) Read(p []byte) (n int, err error) {
	if len(e.begin) == 0 {
		e.begin = bytes.Repeat(e.repeat, 1000)
	}
	n = copy(p, e.begin)
	e.begin = e.begin[n:]
	return n, nil
}

func (e *endless) Close() error { return nil }

// endlessList is a list in protobuf whose envelope and items are those of a list of half a gigabyte.
func endlessList() *endless {
	whole := enveloped("PodList", &corev1.PodList{})
	begin, _, _ := bytes.Cut(whole, []byte("\x12\x08\n\x06")) // the list's length
	begin = binary.AppendUvarint(append(begin, 2<<3|2), 1<<29)
	item, _ := (&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p", ResourceVersion: "1"}}).Marshal()
	return &endless{begin, append(binary.AppendUvarint([]byte{2<<3 | 2}, uint64(len(item))), item...)}
}

func TestListWithoutEnd(t *testing.T) {
	invalid := apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"}, "", nil)
	for name, serve := range map[string]func(t *testing.T, w watching){
		"a page that goes on for ever": func(t *testing.T, w watching) {
			w.expect("watch-list").fail(invalid)
			w.expect("list").answer(200, endlessList())
		},
		"initial events that go on for ever": func(t *testing.T, w watching) {
			w.expect("watch-list").answer(200, &endless{repeat: event("ADDED", "1", nil)})
			q := w.expect("list")
			w.wantState(false, kube.Content)
			q.answer(200, endlessList())
		},
		"a page that is continued by itself": func(t *testing.T, w watching) {
			w.expect("watch-list").fail(invalid)
			w.expect("list").page("5", "two", "a/p@1")
			w.expect("list on two").page("5", "two", "a/p@1")
		},
		"empty pages without end": func(t *testing.T, w watching) {
			w.expect("watch-list").fail(invalid)
			for i := range 1000 {
				q, what := w.next()
				if what == "watch-list" {
					go func() { w.requests <- q }()
					return
				}
				q.page("5", fmt.Sprint(i))
			}
		},
		"pages with few objects that lead in a circle": func(t *testing.T, w watching) {
			w.expect("watch-list").fail(invalid)
			for i := 0; ; i++ {
				q, what := w.next()
				if what == "watch-list" {
					go func() { w.requests <- q }()
					return
				}
				time.Sleep(3 * time.Second)
				q.page("5", fmt.Sprint(i%3), "a/p@1")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			watchPods(t, func(t *testing.T, w watching) {
				serve(t, w)
				q := w.expect("watch-list")
				s := w.State("")
				if s.Synced || w.Store.Len() != 0 {
					t.Errorf("synced %t with %d pods", s.Synced, w.Store.Len())
				}
				if s.Failure == nil || !strings.HasPrefix(s.Failure.Text, "cannot list pods: ") ||
					!strings.Contains(s.Failure.Text, "not end") {
					t.Fatalf("failure %v", s.Failure)
				}
				q.stream(t).send("ADDED a/p@1")
				if now := w.State(""); s.Failure.Reason == kube.Content && now != s {
					t.Errorf("the state has become %+v by a watch of which nothing is known yet", now)
				}
				w.Resync()
				w.expect("watch-list").stream(t).send("ADDED a/p@1", "COMPLETE 5")
				w.wantPods("a/p@1")
				w.wantState(true, "")
			})
		})
	}
}

func TestListThatWorksDoesNotMendAWatchThatIsRefused(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		failing := time.Now()
		forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no"))
		w.expect("watch-list").fail(forbidden)
		w.expect("list").page("5", "", "a/p@1")
		w.wantState(true, kube.Forbidden)
		w.expect("watch from 5").fail(forbidden)
		if s := w.State(""); !s.Since.Equal(failing) || !strings.Contains(s.Failure.Text, `verbs: ["watch"]`) {
			t.Errorf("failing since %s, want %s: %s", s.Since, failing, s.Failure.Text)
		}
		w.expect("watch-list").stream(t).send("ADDED a/q@8", "COMPLETE 9")
		w.wantState(true, "")
	})
}

func TestListThatWorksMendsAListThatFailed(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		invalid := apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"}, "", nil)
		w.expect("watch-list").fail(invalid)
		w.expect("list").fail(apierrors.NewServiceUnavailable("starting"))
		w.wantState(false, kube.Unavailable)
		w.expect("watch-list").fail(invalid)
		w.expect("list").page("5", "")
		w.wantState(true, "")
		w.expect("watch from 5").stream(t)
	})
}

func TestEachChangeOfStateIsTold(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		told := func(what string) {
			t.Helper()
			if *w.changes == 0 {
				t.Errorf("not told that %s", what)
			}
			*w.changes = 0
		}
		w.expect("watch-list").fail(apierrors.NewServiceUnavailable("starting"))
		told("the watch failed")
		w.expect("list").fail(apierrors.NewServiceUnavailable("starting"))
		told("the list failed")
		q := w.expect("watch-list")
		*w.changes = 0
		events := q.stream(t)
		if w.wantState(false, kube.Unavailable); *w.changes > 0 {
			t.Error("told of a list of which nothing is known yet")
		}
		events.send("COMPLETE 5")
		told("the list is complete")
		w.wantState(true, "")
		events.Close()
		w.expect("watch from 5").fail(apierrors.NewTooManyRequestsError(""))
		told("the watch failed")
		w.expect("watch from 5").stream(t)
		told("the watch works")
		w.wantState(true, "")
	})
}

// Whoever is told that a watch works again may read what it has brought.
func TestWatchWorksAgainOnceItsListIsInTheStore(t *testing.T) {
	for name, list := range map[string]func(w watching){
		"a watch-list": func(w watching) {
			events := w.expect("watch-list").stream(w.t)
			events.send("ADDED a/q@8")
			w.wantState(true, kube.Unavailable)
			events.send("COMPLETE 9")
		},
		"pages": func(w watching) {
			w.expect("watch-list").fail(apierrors.NewInvalid(schema.GroupKind{}, "", nil))
			w.expect("list").page("9", "", "a/q@8")
		},
	} {
		t.Run(name, func(t *testing.T) {
			watchPods(t, func(t *testing.T, w watching) {
				events := w.expect("watch-list").stream(t)
				events.send("ADDED a/p@1", "COMPLETE 5", "GONE")
				w.expect("watch-list").fail(apierrors.NewInvalid(schema.GroupKind{}, "", nil))
				w.expect("list").fail(apierrors.NewServiceUnavailable("starting"))
				w.wantState(true, kube.Unavailable)
				early := false
				w.Changed = func(string) {
					q, _ := w.Store.Find([]byte("a"), []byte("q"))
					early = early || w.Up() && q == nil
				}
				if list(w); early {
					t.Error("told while the store had what was before")
				}
				w.wantPods("a/q@8")
				w.wantState(true, "")
			})
		})
	}
}

// takeAll takes the next n requests, which may come in any order.
func (a *api) takeAll(want ...string) map[string]*request {
	a.t.Helper()
	taken := map[string]*request{}
	for range want {
		q, what := a.next()
		taken[what] = q
	}
	if got := slices.Sorted(maps.Keys(taken)); !slices.Equal(got, want) {
		a.t.Fatalf("requests %q, want %q", got, want)
	}
	return taken
}

// Fault 3: what a namespace refuses, or is slow with, is of no consequence for the others.
func TestNamespacesFailOneByOne(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no"))
	for _, namespaces := range [][]string{{"a", "b"}, {"b", "a", "b"}} {
		watchPods(t, func(t *testing.T, w watching) {
			if got := w.Scopes(); !slices.Equal(got, []string{"a", "b"}) {
				t.Errorf("scopes %q, want each once", got)
			}
			requests := w.takeAll("a: watch-list", "b: watch-list")
			a := requests["a: watch-list"].stream(t)
			a.send("ADDED a/p@1", "COMPLETE 5")
			w.wantPods("a/p@1") // while b says nothing
			w.wantState(true, "", "a")
			w.wantState(false, "", "b")

			time.Sleep(time.Second)
			failing := time.Now()
			requests["b: watch-list"].fail(forbidden)
			w.expect("b: list").fail(forbidden)
			w.wantState(true, "", "a")
			w.wantState(false, kube.Forbidden, "b")
			if s := w.State("b"); !s.Since.Equal(failing) {
				t.Errorf("failing since %s, want %s", s.Since, failing)
			}
			if w.Up() {
				t.Error("up without b")
			}
			a.send("ADDED a/q@6")
			w.wantPods("a/p@1", "a/q@6")

			w.expect("b: watch-list").stream(t).send("ADDED b/q@2", "COMPLETE 6")
			w.wantPods("a/p@1", "a/q@6", "b/q@2")
			w.wantState(true, "", "b")
			if !w.Up() {
				t.Error("not up")
			}

			a.Close()
			w.expect("a: watch from 6").fail(forbidden)
			w.wantState(true, kube.Forbidden, "a")
			w.wantState(true, "", "b")
			w.expect("a: watch-list").stream(t).send("COMPLETE 9")
			w.wantPods("b/q@2") // a's list is one of a only
			w.wantState(true, "", "a")
		}, namespaces...)
	}
	if s := newPods(t, nil, func() {}).State("of another"); s != (State{}) {
		t.Errorf("state %+v of what is not watched", s)
	}
}

func TestResyncListsAnew(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		first := w.expect("watch-list")
		first.stream(t).send("ADDED a/p@1", "COMPLETE 5")
		w.Resync()
		w.wantState(false, "")
		if first.Context().Err() == nil {
			t.Error("the old watch goes on")
		}
		second := w.expect("watch-list")
		w.wantPods("a/p@1") // until there is a list
		second.stream(t).send("ADDED a/q@8", "COMPLETE 9")
		w.wantPods("a/q@8")
		w.wantState(true, "")
		w.Resync()
		w.Resync()
		w.expect("watch-list").stream(t).send("COMPLETE 12")
		w.wantPods()
	})
}

func TestEarlierGenerationChangesNothing(t *testing.T) {
	for name, next := range map[string]func(w watching){
		"before the next has begun": func(w watching) {},
		"once the next has begun":   func(w watching) { w.expect("watch-list") },
	} {
		t.Run(name, func(t *testing.T) {
			watchPods(t, func(t *testing.T, w watching) {
				w.expect("watch-list").stream(t).send("ADDED a/p@1", "COMPLETE 5")
				old := w.generations[""]
				entry := func(text string) store.Entry[string] { return w.Keep(&apiPod(text).Pod) }
				w.Resync()
				next(w)
				old.change(func() { t.Error("it may change the store") })
				old.Replace([]any{kept[string]{entry("a/late@9")}}, "9")
				old.Update(&apiPod("a/late@9").Pod)
				old.Delete(&apiPod("a/p@9").Pod)
				*w.changes = 0
				old.observe("watch", kube.Explain("watch pods", apierrors.NewUnauthorized("")))
				if *w.changes != 0 {
					t.Error("it reports, be it of a cluster that is no longer there")
				}
				w.wantPods("a/p@1")
				w.wantState(false, "")
			})
		})
	}
}

// late is the body of a watch whose last events come after its request has ended.
type late struct {
	events chan string
	rest   string
}

func (l *late) Read(p []byte) (n int, err error) {
	for l.rest == "" {
		more, ok := <-l.events
		if !ok {
			return 0, io.EOF
		}
		l.rest = more
	}
	n = copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

func (l *late) Close() error { return nil }

func TestEventsThatComeAfterResyncChangeNothing(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		body := &late{events: make(chan string)}
		w.expect("watch-list").answer(200, body)
		send := func(event string) {
			r, pipe := io.Pipe()
			go func() { (&stream{pipe, t}).try(event); pipe.Close() }()
			text, _ := io.ReadAll(r)
			body.events <- string(text)
			synctest.Wait()
		}
		send("ADDED a/p@1")
		send("COMPLETE 5")
		w.wantPods("a/p@1")
		w.Resync()
		send("ADDED a/late@6")
		w.wantPods("a/p@1")
		w.wantState(false, "")
		close(body.events)
		w.expect("watch-list").stream(t).send("ADDED a/q@8", "COMPLETE 9")
		w.wantPods("a/q@8")
	})
}

func TestResyncBeforeRun(t *testing.T) {
	w := newPods(t, client(t, nil), func() {})
	w.Resync()
	if s := w.State(""); s != (State{}) {
		t.Errorf("state %+v", s)
	}
}

func TestForeignObjectsDoNoHarm(t *testing.T) {
	for name, foreign := range map[string]string{
		"a list":               `{"type":"ADDED","object":{"kind":"PodList","apiVersion":"v1","metadata":{}}}`,
		"a status":             `{"type":"ADDED","object":{"kind":"Status","apiVersion":"v1"}}`,
		"a pod that is cut":    `{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1","metadata":"a"}}`,
		"an unknown event":     `{"type":"OTHER","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"}}}`,
		"what is not an event": `<html>`,
	} {
		t.Run(name, func(t *testing.T) {
			watchPods(t, func(t *testing.T, w watching) {
				events := w.expect("watch-list").stream(t)
				events.send("ADDED a/p@1", "COMPLETE 5")
				io.WriteString(events, foreign+"\n")
				w.wantPods("a/p@1")
				w.wantState(true, kube.Content)
				failing := w.State("")
				events = w.expect("watch-list").stream(t)
				if s := w.State(""); s != failing {
					t.Errorf("the state has become %+v before anything was read", s)
				}
				events.send("ADDED a/q@8", "COMPLETE 9")
				w.wantPods("a/q@8")
				w.wantState(true, "")
			})
		})
	}
}

// A row is enough for another resource. Of a node, which has no namespace, this keeps how many labels it has.
func TestOtherResource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newAPI(t)
		w := New(Options[int]{
			Client: client(t, server), Resource: "nodes", Namespaces: []string{""},
			New:   func() slim.Object { return &node{} },
			Keep:  func(o slim.Object) store.Entry[int] { return store.NewEntry(o, o.GetName(), len(o.GetLabels())) },
			Store: store.New[int](), Changed: func(string) {},
			Pulse: refresh.NewPulse(), Health: &health.Tracker{}, Self: new(selfmetrics.Registry).Scope(""),
		})
		ctx, stop := context.WithCancel(t.Context())
		go w.Run(ctx)
		q, what := server.next()
		if what != "/api/v1/nodes" {
			t.Fatalf("request of %s", what)
		}
		events := q.stream(t)
		for _, e := range [][2]string{
			{"ADDED", `"name":"n1","resourceVersion":"1","labels":{"a":"b"}`},
			{"BOOKMARK", `"resourceVersion":"5","annotations":{"k8s.io/initial-events-end":"true"}`},
			{"MODIFIED", `"name":"n1","resourceVersion":"6","labels":{"a":"b","c":"d"}`},
		} {
			fmt.Fprintf(events, `{"type":%q,"object":{"kind":"Node","apiVersion":"v1","metadata":{%s}}}`, e[0], e[1])
		}
		synctest.Wait()
		if n, _ := w.Store.Find(nil, []byte("n1")); n == nil || n.Value != 2 || w.Store.Len() != 1 || !w.Up() {
			t.Errorf("node %+v of %d, up %t", n, w.Store.Len(), w.Up())
		}
		events.Close()
		q, _ = server.next()
		q.fail(apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "", errors.New("no")))
		if s := w.State(""); s.Failure == nil || !strings.Contains(s.Failure.Text, `resources: ["nodes"]`) {
			t.Errorf("failure %v", s.Failure)
		}
		stop()
		synctest.Wait()
	})
}

// node is a Node with nothing but its metadata.
type node struct {
	metav1.ObjectMeta `json:"metadata"`
}

func (n *node) GetObjectKind() schema.ObjectKind {
	return &metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}
}
func (n *node) DeepCopyObject() runtime.Object { return n }
func (n *node) Unmarshal([]byte) error         { return errors.New("not from protobuf") }
