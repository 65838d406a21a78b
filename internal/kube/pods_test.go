package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"metrics-server-prom/internal/podwire"
)

// store keeps pods as "namespace/name@version" and takes down each change. Its own lock is for the test only: that changes
// come one at a time it checks itself.
type store struct {
	t       *testing.T
	mu      sync.Mutex
	busy    bool
	pods    map[string]string // by "namespace/name"
	changes []string
}

func (s *store) Transform(p *podwire.Pod) string {
	return p.Namespace + "/" + p.Name + "@" + p.ResourceVersion
}

func (s *store) change(what string, f func()) {
	s.mu.Lock()
	if s.busy {
		s.t.Error("two changes at once")
	}
	s.busy = true
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.busy = false; s.mu.Unlock() }()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes = append(s.changes, what)
	f()
}

func keyOf(pod string) string { key, _, _ := strings.Cut(pod, "@"); return key }

func (s *store) Put(pod string) { s.change("put "+pod, func() { s.pods[keyOf(pod)] = pod }) }

func (s *store) Delete(pod string) { s.change("delete "+pod, func() { delete(s.pods, keyOf(pod)) }) }

func (s *store) Replace(namespace string, list []string) {
	slices.Sort(list)
	s.change(fmt.Sprintf("replace %q: %s", namespace, strings.Join(list, " ")), func() {
		maps.DeleteFunc(s.pods, func(key, _ string) bool { return namespace == "" || strings.HasPrefix(key, namespace+"/") })
		for _, pod := range list {
			s.pods[keyOf(pod)] = pod
		}
	})
}

// log returns the changes since its last call, one a line.
func (s *store) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.changes = nil }()
	return strings.Join(s.changes, "\n")
}

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
		kind = "ERROR"
		status := apierrors.NewResourceExpired("too old resource version").Status()
		status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
		object = status
	default:
		object = apiPod(of)
	}
	return json.NewEncoder(s).Encode(map[string]any{"type": kind, "object": object})
}

// apiPod makes a pod of "namespace/name@version".
func apiPod(pod string) *podwire.Pod {
	key, version, _ := strings.Cut(pod, "@")
	namespace, name, _ := strings.Cut(key, "/")
	return &podwire.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, ResourceVersion: version}}
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
}

func newAPI(t *testing.T) *api {
	return &api{t, make(chan *request), make(chan struct{})}
}

func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	q := &request{r, make(chan *http.Response)}
	select {
	case a.requests <- q:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	select {
	case resp := <-q.answered:
		return resp, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// next is the next request, described as "watch-list", "watch from VERSION", "list", "list on TOKEN", with the namespace
// in front where there is one.
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

// answer sends a response of JSON.
func (q *request) answer(status int, body io.ReadCloser) {
	q.answered <- &http.Response{StatusCode: status, Status: http.StatusText(status), Header: http.Header{"Content-Type": {"application/json"}}, Body: body, Request: q.Request}
}

func (q *request) fail(e *apierrors.StatusError) {
	status := e.Status()
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	body, _ := json.Marshal(status)
	q.answer(int(status.Code), io.NopCloser(bytes.NewReader(body)))
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
	list := podwire.List{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: version, Continue: next}}
	for _, pod := range pods {
		list.Items = append(list.Items, *apiPod(pod))
	}
	body, _ := json.Marshal(list)
	q.answer(200, io.NopCloser(bytes.NewReader(body)))
	synctest.Wait()
}

// watching runs a PodWatch against an api, inside a synctest bubble.
type watching struct {
	*PodWatch[string]
	*api
	store   *store
	changes *int // calls of changed
}

func watchPods(t *testing.T, do func(t *testing.T, w watching), namespaces ...string) {
	t.Helper()
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	synctest.Test(t, func(t *testing.T) {
		server, s, changes := newAPI(t), &store{t: t, pods: map[string]string{}}, 0
		config := configOf("http://cluster")
		c, err := client(config, Core, &transport{client: &http.Client{Transport: server}})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		w := NewPodWatch(c, namespaces, "app=shop", "metadata.namespace!=x", s, func() {
			mu.Lock()
			defer mu.Unlock()
			changes++
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { w.Run(ctx); close(ended) }()
		do(t, watching{w, server, s, &changes})
		stop()
		<-ended
		synctest.Wait()
	})
}

func (w watching) wantLog(want ...string) {
	w.t.Helper()
	if got := w.store.log(); got != strings.Join(want, "\n") {
		w.t.Errorf("changes:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}

func (w watching) wantState(synced bool, failure string) {
	w.t.Helper()
	gotSynced, f, since := w.State()
	got := ""
	if f != nil {
		got = f.Reason
	}
	if gotSynced != synced || got != failure || since.IsZero() != (f == nil) {
		w.t.Errorf("synced %t, failure %q since %s, want %t and %q", gotSynced, got, since, synced, failure)
	}
}

func TestWatchList(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		w.wantState(false, "")
		q := w.expect("watch-list")
		params := q.URL.Query()
		for name, want := range map[string]string{"allowWatchBookmarks": "true", "resourceVersionMatch": "NotOlderThan", "resourceVersion": "",
			"labelSelector": "app=shop", "fieldSelector": "metadata.namespace!=x"} {
			if got := params.Get(name); got != want {
				t.Errorf("%s=%s, want %s", name, got, want)
			}
		}
		if accept := q.Header.Get("Accept"); !strings.HasPrefix(accept, Protobuf) || !strings.Contains(accept, "application/json") {
			t.Errorf("Accept: %s, want protobuf before JSON", accept)
		}
		events := q.stream(t)
		events.send("ADDED a/p@1", "ADDED b/q@2")
		w.wantLog() // nothing is shown of a list that is not complete
		w.wantState(false, "")
		events.send("COMPLETE 5")
		w.wantLog(`replace "": a/p@1 b/q@2`)
		w.wantState(true, "")
		events.send("ADDED a/r@6", "MODIFIED a/p@7", "DELETED b/q@8", "BOOKMARK 9")
		w.wantLog("put a/r@6", "put a/p@7", "delete b/q@8")

		events.Close() // as an API server does every few minutes
		events = w.expect("watch from 9").stream(t)
		events.send("ADDED a/s@10")
		w.wantLog("put a/s@10")
		w.wantState(true, "")
	})
}

func TestServerWithoutWatchLists(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		w.expect("watch-list").fail(apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"}, "", nil))
		w.wantState(false, "")
		q := w.expect("list")
		params := q.URL.Query()
		for name, want := range map[string]string{"limit": "250", "resourceVersion": "", "resourceVersionMatch": "", "labelSelector": "app=shop", "fieldSelector": "metadata.namespace!=x"} {
			if got := params.Get(name); got != want {
				t.Errorf("%s=%s, want %s", name, got, want)
			}
		}
		q.page("5", "two", "a/p@1", "b/q@2")
		w.wantLog()
		w.expect("list on two").page("5", "three", "c/r@3")
		w.expect("list on three").page("5", "")
		w.wantLog(`replace "": a/p@1 b/q@2 c/r@3`)
		w.wantState(true, "")
		w.expect("watch from 5").stream(t).send("ADDED a/s@6")
		w.wantLog("put a/s@6")
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
		w.wantLog(`replace "": a/p@1 a/q@3`)
		events := w.expect("watch from 5").stream(t)
		events.send("GONE")
		w.expect("list").page("9", "", "a/q@3") // and never a watch-list again
		w.wantLog(`replace "": a/q@3`)
		w.expect("watch from 9").stream(t)
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
		events = w.expect("watch-list").stream(t)
		events.send("ADDED a/p@2", "COMPLETE 3")
		w.wantLog(`replace "": a/p@2`)
	})
}

func TestSilentWatchIsOpenedAnewWhereItStopped(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		w.expect("watch-list").stream(t).send("ADDED a/p@1", "COMPLETE 5", "ADDED a/q@7")
		w.store.log()
		start := time.Now()
		events := w.expect("watch from 7").stream(t)
		if waited := time.Since(start); waited < watchSilence || waited > watchSilence+10*time.Second {
			t.Errorf("opened anew after %s, want soon after %s", waited, watchSilence)
		}
		events.send("DELETED a/p@8")
		w.wantLog("delete a/p@8")
		w.wantState(true, "")
	})
}

func TestHistoryThatIsGoneIsListedAnew(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		events := w.expect("watch-list").stream(t)
		events.send("ADDED a/p@1", "COMPLETE 5")
		events.send("GONE")
		w.wantState(true, "") // what is there is still the best there is
		w.expect("watch-list").stream(t).send("ADDED a/q@8", "COMPLETE 9")
		w.wantLog(`replace "": a/p@1`, `replace "": a/q@8`)
	})
}

func TestRequestsThatFailAreRepeatedAndExplained(t *testing.T) {
	for name, c := range map[string]struct {
		fail   func(q *request)
		reason string
		text   string
	}{
		"the server is starting": {func(q *request) { q.fail(apierrors.NewServiceUnavailable("starting")) }, Unavailable, "503"},
		"the rights are missing": {func(q *request) {
			q.fail(apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no")))
		}, Forbidden, `grant {apiGroups: [""], resources: ["pods"], verbs: ["`},
		"the token has expired": {func(q *request) { q.fail(apierrors.NewUnauthorized("expired")) }, Unauthorized, "renew it"},
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
					c.fail(q)
					if w.wantState(false, c.reason); n > 100 {
						t.Fatal("more than 100 requests in two minutes")
					}
				}
				_, f, since := w.State()
				if !since.Equal(start) || !strings.Contains(f.Text, c.text) {
					t.Errorf("failing since %s, want %s: %s", since, start, f.Text)
				}
				for synced := false; !synced; synced, _, _ = w.State() {
					q, what := w.next()
					switch what {
					case "watch-list":
						q.stream(t).send("ADDED a/p@1", "COMPLETE 5")
					case "list":
						q.page("5", "", "a/p@1")
					}
				}
				if what := w.store.log(); what != `replace "": a/p@1` {
					t.Errorf("changes:\n%s", what)
				}
				if q, f := (*request)(nil), (*Failure)(nil); true {
					select { // after a list the watch is still to be opened
					case q = <-w.requests:
						q.stream(t)
					case <-time.After(10 * time.Second):
					}
					if _, f, _ = w.State(); f != nil {
						t.Errorf("still failing: %s", f.Text)
					}
				}
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
		w.wantState(true, Forbidden)
		w.expect("watch from 5").fail(forbidden)
		_, f, since := w.State()
		if !since.Equal(failing) || !strings.Contains(f.Text, `verbs: ["watch"]`) {
			t.Errorf("failing since %s, want %s: %s", since, failing, f.Text)
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
		w.wantState(false, Unavailable)
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
		told("the watch works")
		events.send("COMPLETE 5")
		told("the list is complete")
	})
}

func TestNamespacesAreWatchedEachForItself(t *testing.T) {
	for _, namespaces := range [][]string{{"a", "b"}, {"b", "a"}} {
		watchPods(t, func(t *testing.T, w watching) {
			byScope := map[string]*request{}
			take := func() {
				q, what := w.next()
				byScope[what] = q
			}
			take()
			take()
			if got := slices.Sorted(maps.Keys(byScope)); !slices.Equal(got, []string{"a: watch-list", "b: watch-list"}) {
				t.Fatalf("requests %v", got)
			}
			a := byScope["a: watch-list"].stream(t)
			a.send("ADDED a/p@1", "COMPLETE 5")
			w.wantLog(`replace "a": a/p@1`)
			w.wantState(false, "")

			time.Sleep(time.Second)
			failing := time.Now()
			byScope["b: watch-list"].fail(apierrors.NewUnauthorized(""))
			w.wantState(false, Unauthorized)
			w.expect("b: list").fail(apierrors.NewUnauthorized(""))
			time.Sleep(time.Millisecond)
			a.Close()
			for failed := false; !failed || byScope["b"] == nil; { // a's watch, perhaps twice, and b's next attempt, in any order
				q, what := w.next()
				switch {
				case strings.HasPrefix(what, "a: watch"):
					q.fail(apierrors.NewServiceUnavailable(""))
					failed = true
				case what == "a: list":
					q.fail(apierrors.NewServiceUnavailable(""))
				case what == "b: watch-list" && byScope["b"] == nil:
					byScope["b"] = q
				default:
					t.Fatalf("request %q", what)
				}
			}
			if _, f, since := w.State(); f == nil || f.Reason != Unauthorized || !since.Equal(failing) {
				t.Errorf("failure %v since %s, want b's, which is the oldest", f, since)
			}
			byScope["b"].stream(t).send("ADDED b/q@2", "COMPLETE 6")
			w.wantLog(`replace "b": b/q@2`)
			w.wantState(true, Unavailable) // a's
			if len(w.store.pods) != 2 {
				t.Errorf("pods %v: one namespace's list has undone the other's", w.store.pods)
			}
		}, namespaces...)
	}
}

func TestResync(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		first := w.expect("watch-list")
		first.stream(t).send("ADDED a/p@1", "COMPLETE 5")
		w.store.log()
		old := &roundStore[string]{w.PodWatch, w.round, w.scopes[0]}
		w.Resync()
		w.wantState(false, "")
		synctest.Wait()
		if first.Context().Err() == nil {
			t.Error("the old watch goes on")
		}
		second := w.expect("watch-list")
		old.Add(apiPod("a/late@6"))
		old.Update(apiPod("a/late@7"))
		old.Delete(apiPod("a/p@8"))
		old.Replace([]any{"a/late@9"}, "9")
		w.wantLog()
		w.wantState(false, "")
		second.stream(t).send("ADDED a/q@8", "COMPLETE 9")
		w.wantLog(`replace "": a/q@8`)
		w.wantState(true, "")
		w.Resync()
		w.Resync()
		w.expect("watch-list").stream(t).send("COMPLETE 12")
		w.wantLog(`replace "": `)
	})
}

func TestResyncBeforeRun(t *testing.T) {
	s := &store{t: t, pods: map[string]string{}}
	w := NewPodWatch(nil, []string{""}, "", "", s, func() {})
	w.Resync()
	if synced, f, _ := w.State(); synced || f != nil {
		t.Errorf("synced %t, failure %v", synced, f)
	}
}

// The reflector is given what it takes a watch's objects to be; anything else would be a panic in a goroutine of its own.
func TestWatchOfForeignObjectsDoesNoHarm(t *testing.T) {
	watchPods(t, func(t *testing.T, w watching) {
		events := w.expect("watch-list").stream(t)
		events.send("ADDED a/p@1", "COMPLETE 5")
		w.store.log()
		io.WriteString(events, `{"type":"ADDED","object":{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"6"}}}`+"\n")
		io.WriteString(events, `{"type":"`+string(watch.Added)+`","object":{"kind":"Status","apiVersion":"v1"}}`+"\n")
		synctest.Wait()
		w.wantLog()
	})
}
