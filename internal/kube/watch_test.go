package kube

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

var (
	added    = watch.Event{Type: watch.Added, Object: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}}
	bookmark = watch.Event{Type: watch.Bookmark, Object: &corev1.Pod{}}
	complete = watch.Event{Type: watch.Bookmark, Object: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}}
	failed = watch.Event{Type: watch.Error, Object: &metav1.Status{}}
)

func TestGuard(t *testing.T) {
	type event struct {
		after time.Duration // the event before
		watch.Event
	}
	for name, c := range map[string]struct {
		initial bool
		events  []event
		ended   time.Duration
		stuck   int
	}{
		"a watch that says nothing is ended": {false, nil, watchSilence, 0},
		"a watch that says something goes on": {false, []event{
			{watchSilence - 1, added}, {watchSilence - 1, bookmark}, {watchSilence - 1, failed}}, 4*watchSilence - 3, 0},
		"a watch-list that says nothing is stuck": {true, nil, initialSilence, 1},
		"a watch-list that stops in the middle of the list is stuck": {true, []event{
			{initialSilence - 1, added}, {initialSilence - 1, added}}, 3*initialSilence - 2, 1},
		"a bookmark that does not end the list changes nothing": {true, []event{
			{time.Second, bookmark}}, time.Second + initialSilence, 1},
		"a watch-list whose list is complete may be silent for as long as any watch": {true, []event{
			{time.Second, added}, {time.Second, complete}}, 2*time.Second + watchSilence, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, stuck := time.Now(), 0
				server := watch.NewFake()
				g := Guard(t.Context(), server, c.initial, func() { stuck++ })
				go func() {
					for _, e := range c.events {
						time.Sleep(e.after)
						server.Action(e.Type, e.Object)
					}
				}()
				var got []watch.EventType
				for event := range g.ResultChan() {
					got = append(got, event.Type)
				}
				if ended := time.Since(start); ended != c.ended || stuck != c.stuck {
					t.Errorf("ended after %s, stuck %d times; want %s and %d", ended, stuck, c.ended, c.stuck)
				}
				if !slices.EqualFunc(got, c.events, func(t watch.EventType, e event) bool { return t == e.Type }) {
					t.Errorf("%v passed, want all of %v", got, c.events)
				}
				synctest.Wait()
				if !server.IsStopped() {
					t.Error("the watch below goes on")
				}
			})
		})
	}
}

func TestGuardEndsWith(t *testing.T) {
	for name, end := range map[string]func(g watch.Interface, server *watch.FakeWatcher, cancel func()){
		"its Stop, however often": func(g watch.Interface, _ *watch.FakeWatcher, _ func()) { g.Stop(); g.Stop() },
		"its context":             func(_ watch.Interface, _ *watch.FakeWatcher, cancel func()) { cancel() },
		"the watch below":         func(_ watch.Interface, server *watch.FakeWatcher, _ func()) { server.Stop() },
		"its Stop, while nobody reads": func(g watch.Interface, server *watch.FakeWatcher, _ func()) {
			server.Add(added.Object)
			synctest.Wait()
			g.Stop()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // which fails where a goroutine is left
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				server := watch.NewFake()
				g := Guard(ctx, server, true, func() { t.Error("taken for stuck") })
				end(g, server, cancel)
				synctest.Wait()
				if _, open := <-g.ResultChan(); open {
					t.Error("there are more events")
				}
				if !server.IsStopped() {
					t.Error("the watch below goes on")
				}
			})
		})
	}
}

// A list may be long and its reader slow: that is no silence of the server.
func TestGuardDoesNotBlameTheServerForASlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := watch.NewFake()
		g := Guard(t.Context(), server, true, func() { t.Error("taken for stuck") })
		go func() {
			for range 3 {
				server.Add(added.Object)
			}
			server.Stop()
		}()
		n := 0
		for range g.ResultChan() {
			time.Sleep(2 * initialSilence)
			n++
		}
		if n != 3 {
			t.Errorf("%d events, want 3", n)
		}
	})
}
