package kube

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// initialSilence is how long a watch-list may pause within the initial events.
	initialSilence = 30 * time.Second
	// initialTime is how long the initial events of a watch-list may take in all: where they never end, the changes that
	// go on meanwhile are no silence.
	initialTime = 5 * time.Minute
	// watchSilence is how long a watch may say nothing. An API server sends a bookmark about once a minute.
	watchSilence = 150 * time.Second
)

// Guard ends a watch that says nothing any more: a connection that is dead without having been closed, or a server that
// never ends the initial events of a watch-list. The reflector then opens a new one where this one stopped. (HTTP/2 pings,
// on by default in client-go, find dead connections; not a proxy that answers them with nothing behind it.)
//
// initial says that the watch begins with a list. stuck is called once if it was ended before that list was complete.
func Guard(ctx context.Context, w watch.Interface, initial bool, stuck func()) watch.Interface {
	return guard(ctx, w, initial, stuck, initialSilence, watchSilence)
}

func guard(ctx context.Context, w watch.Interface, initial bool, stuck func(), initialSilence, watchSilence time.Duration) watch.Interface {
	g := &guarded{Interface: w, events: make(chan watch.Event), stopped: make(chan struct{})}
	go g.run(ctx, initial, stuck, initialSilence, watchSilence)
	return g
}

type guarded struct {
	watch.Interface
	events  chan watch.Event
	stopped chan struct{}
	once    sync.Once
}

func (g *guarded) ResultChan() <-chan watch.Event { return g.events }

func (g *guarded) Stop() {
	g.once.Do(func() {
		close(g.stopped)
		g.Interface.Stop()
	})
}

func (g *guarded) run(ctx context.Context, initial bool, stuck func(), initialSilence, watchSilence time.Duration) {
	defer close(g.events)
	defer g.Stop()
	silence := watchSilence
	if initial {
		silence = initialSilence
	}
	timer := time.NewTimer(silence)
	defer timer.Stop()
	limit := time.NewTimer(initialTime)
	defer limit.Stop()
	for {
		timer.Reset(silence)
		select {
		case event, ok := <-g.Interface.ResultChan():
			if !ok {
				return
			}
			if initial && event.Type == watch.Bookmark && endsInitialEvents(event) {
				initial, silence = false, watchSilence
			}
			select {
			case g.events <- event:
			case <-g.stopped:
				return
			}
		case <-timer.C:
			if initial {
				stuck()
			}
			return
		case <-limit.C:
			if initial {
				stuck()
				return
			}
		case <-g.stopped:
			return
		case <-ctx.Done():
			return
		}
	}
}

// endsInitialEvents tells the bookmark that completes the list of a watch-list.
func endsInitialEvents(event watch.Event) bool {
	object, err := meta.Accessor(event.Object)
	return err == nil && object.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
}
