package objects

import (
	"context"
	"errors"
	"sync"
	"time"

	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/store"
)

// All is all objects of a cluster that are watched.
type All struct {
	Pods   *Source[sample.Text]
	Others Others // what further pages need beside pods
}

// Known is objects in order of namespace and name, as far as they are known.
type Known struct {
	Pods    []*store.Leaf[sample.Text]
	Failed  error // why nothing is known of pods
	Others  map[string][]*store.Leaf[string]
	Pending bool // whether something is missing that is not known yet, and has not failed either
}

// Run watches until ctx ends.
func (a *All) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { a.Pods.Watch.Run(ctx) })
	for _, o := range a.Others {
		wg.Go(func() { o.Watch.Run(ctx) })
	}
	wg.Wait()
}

// Parts waits until the objects are current, pods only where their state is asked for, and returns the parts of pods
// and of the resources that are wanted, each by family. It fails where nothing is known of the pods, and where ctx is
// canceled before all is current; a deadline only ends the waiting.
func (a *All) Parts(ctx context.Context, pods bool, wanted func(resource string) bool) (all [][][]*page.Part,
	err error) {
	if pods {
		if err := a.Pods.Ready(ctx); err != nil {
			return nil, err
		}
		all = append(all, a.Pods.Parts())
	}
	for _, o := range a.Others {
		if wanted(o.Watch.Resource) {
			parts := o.Parts(ctx, a.Pods)
			if parts == nil && errors.Is(ctx.Err(), context.Canceled) {
				return nil, ctx.Err()
			}
			all = append(all, parts...)
		}
	}
	return all, nil
}

// Known waits as Parts does and returns what that renders, of all resources.
func (a *All) Known(ctx context.Context, pods bool) Known {
	k := Known{Others: map[string][]*store.Leaf[string]{}}
	if pods {
		if k.Failed = a.Pods.Ready(ctx); k.Failed == nil {
			k.Pods = a.Pods.Leaves()
		}
		k.Pending = a.Pods.isPending()
	}
	for _, o := range a.Others {
		k.Others[o.Watch.Resource] = o.Known(ctx, a.Pods)
		k.Pending = k.Pending || o.isPending()
	}
	return k
}

// Release gives back what is rendered, of pods and the resources that are wanted, until it is asked for again.
func (a *All) Release(pods bool, wanted func(resource string) bool) {
	if pods {
		a.Pods.Release()
	}
	for _, o := range a.Others {
		if wanted(o.Watch.Resource) {
			o.Release()
		}
	}
}

// Forget drops what is kept of objects that were deleted before the given moment.
func (a *All) Forget(before time.Time) {
	a.Pods.Store.Forget(before)
	for _, o := range a.Others {
		o.Store.Forget(before)
	}
}
