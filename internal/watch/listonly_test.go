package watch

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"metrics-server-prom/internal/kube"
)

func listOnly(o *Options[string]) { o.ListOnly = true }

// silent checks that there is no request for an hour.
func (w watching) silent() {
	w.t.Helper()
	synctest.Wait()
	select {
	case q := <-w.requests:
		w.t.Errorf("asks for %s", q.URL)
	case <-time.After(time.Hour):
	}
}

func TestListOnlyListsPagesOnceAndNeverWatches(t *testing.T) {
	watchOther(t, listOnly, func(t *testing.T, w watching) {
		w.wantState(false, "")
		q := w.expect("list")
		for name, want := range map[string]string{"limit": "250", "resourceVersion": "", "labelSelector": "app=shop",
			"fieldSelector": "metadata.namespace!=x"} {
			if got := q.URL.Query().Get(name); got != want {
				t.Errorf("%s=%s, want %s", name, got, want)
			}
		}
		q.page("5", "rest", "a/p@1")
		w.wantState(false, "")
		w.expect("list on rest").page("5", "", "b/q@2")
		for range 2 {
			w.wantPods("a/p@1", "b/q@2")
			w.wantState(true, "")
			w.silent()
		}
		w.Resync()
		w.wantState(false, "")
		w.expect("list").page("6", "", "a/p@6")
		w.wantPods("a/p@6")
		w.wantState(true, "")
		w.silent()
	})
}

func TestListOnlyTriesAgain(t *testing.T) {
	watchOther(t, listOnly, func(t *testing.T, w watching) {
		start := time.Now()
		w.expect("list").fail(apierrors.NewInternalError(errors.New("no")))
		w.wantState(false, kube.Unavailable)
		w.expect("list").fail(forbidden("list"))
		w.wantState(false, kube.Forbidden)
		w.expect("list").page("5", "", "a/p@1")
		w.wantState(true, "")
		if took := time.Since(start); took > 2*maxPause {
			t.Errorf("after %s", took)
		}
		w.silent()
		w.wantState(true, "")
	})
}

func TestListOnlyOfEachNamespace(t *testing.T) {
	watchOther(t, listOnly, func(t *testing.T, w watching) {
		for namespace, q := range w.takeAll("a: list", "b: list") {
			if namespace == "a: list" {
				q.page("5", "", "a/p@1")
			} else {
				q.fail(forbidden("list"))
			}
		}
		w.wantState(true, "", "a")
		w.wantState(false, kube.Forbidden, "b")
		w.expect("b: list").page("6", "", "b/q@1")
		w.wantState(true, "", "b")
		w.wantPods("a/p@1", "b/q@1")
		w.silent()
	}, "a", "b")
}

func TestListOnlyOfWhatIsOptional(t *testing.T) {
	both := func(o *Options[string]) { optional(o); listOnly(o) }
	watchOther(t, both, func(t *testing.T, w watching) {
		start := time.Now()
		w.expect("list").fail(forbidden("list"))
		w.wantState(false, kube.Forbidden)
		if f := w.Health.Failures(); !w.State("").Refused() || len(f) > 0 {
			t.Errorf("refused: %t, failures %q", w.State("").Refused(), f)
		}
		w.expect("list").page("5", "", "a/p@1")
		if waited := time.Since(start); waited < refusedPause {
			t.Errorf("asked again after %s", waited)
		}
		w.wantState(true, "")
		w.silent()
	})
}

func TestListOnlyOfANamespaceReadsItOnce(t *testing.T) {
	both := func(o *Options[string]) { ofNamespaces(o); listOnly(o) }
	watchOther(t, both, func(t *testing.T, w watching) {
		w.expect("/api/v1/namespaces/a").fail(apierrors.NewInternalError(errors.New("no")))
		w.wantState(false, kube.Unavailable, "a")
		w.expect("/api/v1/namespaces/a").object(namespace("a", "7"))
		w.wantState(true, "", "a")
		w.silent()
		w.wantState(true, "", "a")
		if n := w.Store.Len(); n != 1 {
			t.Errorf("%d Namespaces", n)
		}
	}, "a")
}
