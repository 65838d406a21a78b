package kube

import (
	"context"
	"errors"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"metrics-server-prom/internal/podwire"
)

// PodStore is what a PodWatch feeds. Its methods are called one at a time.
type PodStore[T any] interface {
	// Transform returns what is to be kept of a pod, which is all that is held of it from then on.
	Transform(*podwire.Pod) T
	// Put takes in a pod that is new or has changed.
	Put(T)
	// Delete takes out a pod; it gets the pod's last state.
	Delete(T)
	// Replace takes the list as all the pods of the namespace, or of the cluster for "".
	Replace(namespace string, list []T)
}

// PodWatch keeps a store in step with the pods of a cluster, by one reflector per namespace. The reflectors feed the store
// themselves: a shared informer's queue and index would hold every pod twice more. A first list is streamed (watch-list);
// where the server cannot do that it is read page by page. Full pods are never held longer than it takes to transform them.
type PodWatch[T any] struct {
	client   rest.Interface
	selector metav1.ListOptions // label and field selector only
	store    PodStore[T]

	changed func() // called after each change of state
	mu      sync.Mutex
	scopes  []*podScope
	round   int                // of reflectors; those of an earlier one change nothing any more
	stop    context.CancelFunc // ends the current round
}

// podScope is what one reflector watches. Its fields are guarded by the watch's mu.
type podScope struct {
	namespace string // "" for all
	synced    bool
	listOnly  bool     // a watch-list got stuck; pages are listed instead
	failure   *Failure // of the last request; nil where that worked
	failing   string   // what failed: a list that works does not mend a watch that is refused
	since     time.Time
}

// NewPodWatch watches the pods of the namespaces ("" for all) that match the selectors, as soon as it is Run. changed is
// called after each change of State.
func NewPodWatch[T any](client rest.Interface, namespaces []string, labelSelector, fieldSelector string, store PodStore[T], changed func()) *PodWatch[T] {
	w := &PodWatch[T]{client: client, store: store, changed: changed,
		selector: metav1.ListOptions{LabelSelector: labelSelector, FieldSelector: fieldSelector}}
	for _, namespace := range namespaces {
		w.scopes = append(w.scopes, &podScope{namespace: namespace})
	}
	return w
}

// Run watches until ctx ends.
func (w *PodWatch[T]) Run(ctx context.Context) {
	for ctx.Err() == nil {
		round, stop := context.WithCancel(ctx)
		w.mu.Lock()
		w.stop = stop
		number := w.round
		w.mu.Unlock()
		var reflectors sync.WaitGroup
		for _, s := range w.scopes {
			reflectors.Go(func() { w.reflect(round, number, s) })
		}
		reflectors.Wait()
		stop()
	}
}

// Resync distrusts what the watches have brought and begins them anew, each with a list.
func (w *PodWatch[T]) Resync() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.scopes {
		s.synced = false
	}
	w.round++
	if w.stop != nil {
		w.stop()
	}
}

// State tells whether all scopes have their first list, and of the scopes whose requests fail, the one that has failed
// for longest: why and since when.
func (w *PodWatch[T]) State() (synced bool, failure *Failure, since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	synced = true
	for _, s := range w.scopes {
		synced = synced && s.synced
		if s.failure != nil && (failure == nil || s.since.Before(since)) {
			failure, since = s.failure, s.since
		}
	}
	return synced, failure, since
}

func (w *PodWatch[T]) reflect(ctx context.Context, round int, s *podScope) {
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := w.listPages(ctx, s, o)
			w.observe(s, "list pods", err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			events, err := w.watch(ctx, s, o)
			if !apierrors.IsInvalid(err) { // a server without watch-lists; the reflector goes on to list
				w.observe(s, "watch pods", err)
			}
			return events, err
		},
	}
	cache.NewReflectorWithOptions(source, &podwire.Pod{}, &roundStore[T]{w, round, s}, cache.ReflectorOptions{
		Name: "pods",
		// client-go's own backoff goes up to a minute; a cluster that is back is to be seen within a refresh interval.
		Backoff: &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.3, Steps: 1 << 30, Cap: 5 * time.Second},
	}).RunWithContext(ctx)
}

// pageSize is how many full pods of a paged list are in memory at once.
const pageSize = 250

// listPages lists page by page, keeping only what the transform leaves. The reflector's own paging would collect the full
// pods, and asks for a list from the API server's cache, which is not paged.
func (w *PodWatch[T]) listPages(ctx context.Context, s *podScope, o metav1.ListOptions) (runtime.Object, error) {
	all := &transformedList{}
	o.Limit, o.ResourceVersion, o.ResourceVersionMatch = pageSize, "", ""
	for {
		var page podwire.List
		if err := w.request(s, &o).Do(ctx).Into(&page); err != nil {
			return nil, err
		}
		for i := range page.Items {
			all.Items = append(all.Items, &transformed[T]{T: w.store.Transform(&page.Items[i])})
		}
		all.ResourceVersion = page.ResourceVersion
		if o.Continue = page.Continue; o.Continue == "" {
			return all, nil
		}
	}
}

func (w *PodWatch[T]) watch(ctx context.Context, s *podScope, o metav1.ListOptions) (watch.Interface, error) {
	initial := o.SendInitialEvents != nil && *o.SendInitialEvents
	if initial && w.isListOnly(s) {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"}, "sendInitialEvents", nil)
	}
	o.Watch = true
	events, err := w.request(s, &o).Watch(ctx)
	if err != nil {
		return nil, err
	}
	return Guard(ctx, events, initial, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		s.listOnly = true
	}), nil
}

func (w *PodWatch[T]) isListOnly(s *podScope) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return s.listOnly
}

func (w *PodWatch[T]) request(s *podScope, o *metav1.ListOptions) *rest.Request {
	o.LabelSelector, o.FieldSelector = w.selector.LabelSelector, w.selector.FieldSelector
	return w.client.Get().NamespaceIfScoped(s.namespace, s.namespace != "").Resource("pods").
		VersionedParams(o, metav1.ParameterCodec).MaxRetries(0)
}

// observe takes down how a request of a scope ended.
func (w *PodWatch[T]) observe(s *podScope, attempt string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	w.mu.Lock()
	switch {
	case err != nil:
		if s.failure == nil {
			s.since = time.Now()
		}
		s.failure, s.failing = Explain(attempt, err), attempt
	case attempt == s.failing || attempt == "watch pods":
		s.failure = nil
	}
	w.mu.Unlock()
	w.changed()
}

// transformed is what the transform left of a pod, as an object that can pass through the reflector.
type transformed[T any] struct {
	metav1.TypeMeta
	T T
}

type transformedList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []runtime.Object
}

// DeepCopyObject returns the object itself: nobody but the reflector and the store see it.
func (t *transformed[T]) DeepCopyObject() runtime.Object { return t }

// DeepCopyObject returns the list itself, for the same reason.
func (l *transformedList) DeepCopyObject() runtime.Object { return l }

// roundStore is the store as one reflector of one round may change it.
type roundStore[T any] struct {
	*PodWatch[T]
	round int
	scope *podScope
}

// Transformer has the reflector keep the pods of a watch-list transformed while it collects them.
func (s *roundStore[T]) Transformer() cache.TransformFunc {
	return func(object any) (any, error) {
		if p, ok := object.(*podwire.Pod); ok {
			return s.store.Transform(p), nil
		}
		return object, nil
	}
}

// change calls f unless a later round has begun.
func (s *roundStore[T]) change(f func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.round == s.PodWatch.round {
		f()
	}
	return nil
}

func (s *roundStore[T]) Add(object any) error { return s.Update(object) }

func (s *roundStore[T]) Update(object any) error {
	t := s.store.Transform(object.(*podwire.Pod))
	return s.change(func() { s.store.Put(t) })
}

func (s *roundStore[T]) Delete(object any) error {
	t := s.store.Transform(object.(*podwire.Pod))
	return s.change(func() { s.store.Delete(t) })
}

func (s *roundStore[T]) Replace(objects []any, _ string) error {
	list := make([]T, len(objects))
	for i, object := range objects {
		switch o := object.(type) {
		case *transformed[T]:
			list[i] = o.T
		case T:
			list[i] = o
		}
	}
	s.change(func() {
		s.store.Replace(s.scope.namespace, list)
		s.scope.synced = true
	})
	s.changed()
	return nil
}

// Resync has nothing to do: no work is derived from the store that could have been lost.
func (s *roundStore[T]) Resync() error { return nil }
