// Package objects holds what is known of the objects of one resource of a cluster: watched, kept in order, and rendered
// when somebody asks for it, but only what has changed since.
package objects

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/store"
	"metrics-server-prom/internal/watch"
)

// Options say what to watch, what to keep of it and how it becomes parts of pages.
type Options[V comparable] struct {
	watch.Options[V]     // but for the Store, which is made by New
	LeafLen          int // of the Store's leaves; 0 where nothing is rendered
	// Render makes parts of entries, one for each family, in the same order each time; nil for a family that has no
	// sample. It is called by one goroutine at a time.
	Render func(c *page.Compressor, entries []store.Entry[V]) []*page.Part
	MaxAge time.Duration // how long what is known is served after the watch has broken
}

// Source is the objects of a resource. Use New.
type Source[V comparable] struct {
	Watch *watch.Watch[V]
	Store *store.Store[V]

	options Options[V]
	count   atomic.Int64 // of leaves rendered

	mu       sync.Mutex
	missing  []string         // namespaces of which nothing is served
	leaves   []*store.Leaf[V] // that are shown
	rendered [][]*page.Part   // by leaf, then by family
	parts    [][]*page.Part   // the same by family, then by leaf; nil before the first call of Parts
}

// New returns a source that begins as soon as its Watch is Run.
func New[V comparable](o Options[V]) *Source[V] {
	o.Store = store.NewSorted[V](o.LeafLen)
	return &Source[V]{Watch: watch.New(o.Options), Store: o.Store, options: o}
}

// Ready waits until what is known is current, or known to be missing: for the first list of each namespace, and after
// the process has stood still for the next one. It fails where nothing is known of any namespace: because ctx ends
// before or, unless the resource is optional, because the watches cannot begin or have been broken for longer than
// MaxAge.
func (s *Source[V]) Ready(ctx context.Context) (err error) {
	s.Watch.Distrust()
	known := false
	for _, namespace := range s.Watch.Namespaces {
		failed := s.Watch.Ready(ctx, namespace, s.options.MaxAge)
		if failed == nil || s.options.Optional != "" && s.Watch.State(namespace).Failure != nil {
			known = true
		} else {
			err = failed
		}
	}
	if known {
		return nil
	}
	return err
}

// isPending tells whether something is not known yet, and has not failed either.
func (s *Source[V]) isPending() bool {
	return slices.ContainsFunc(s.Watch.Namespaces, func(namespace string) bool {
		state := s.Watch.State(namespace)
		return !state.Synced && state.Failure == nil
	})
}

// isMissing tells whether nothing of a namespace is served: there is no list that counts, what is known is too old, or
// the right to what is optional was taken away.
func (s *Source[V]) isMissing(namespace string) bool {
	state := s.Watch.State(namespace)
	return !state.Synced || state.Failure != nil &&
		(time.Since(state.Since) > s.options.MaxAge || s.options.Optional != "" && state.Refused())
}

// Parts returns what is known as parts, by family and in the order of the objects. Of leaves that were there at the
// last call nothing is rendered anew. Where nothing at all has changed it returns the same slice. Call Ready before.
func (s *Source[V]) Parts() [][]*page.Part {
	parts, _ := s.show()
	return parts
}

// show is Parts and the namespaces of which there is nothing in them.
func (s *Source[V]) show() ([][]*page.Part, []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	leaves, missing := s.Store.Leaves(), s.missingNow()
	if !slices.Equal(missing, s.missing) {
		s.leaves, s.rendered, s.parts = nil, nil, nil // it does not happen often
	}
	if s.parts != nil && slices.Equal(leaves, s.leaves) {
		return s.parts, missing
	}
	known := make(map[*store.Leaf[V]][]*page.Part, len(s.leaves))
	for i, leaf := range s.leaves {
		known[leaf] = s.rendered[i]
	}
	c := page.Borrow()
	defer c.Return()
	s.missing, s.leaves, s.rendered = missing, leaves, make([][]*page.Part, len(leaves))
	s.parts = make([][]*page.Part, len(s.options.Render(c, nil)))
	for i, leaf := range leaves {
		parts := known[leaf]
		if parts == nil {
			parts = s.options.Render(c, without(missing, leaf.Entries))
			s.count.Add(1)
		}
		s.rendered[i] = parts
		for family, part := range parts {
			if part != nil {
				s.parts[family] = append(s.parts[family], part)
			}
		}
	}
	return s.parts, missing
}

// Leaves returns what Parts renders, in order of namespace and name. A leaf is the same as at an earlier call where
// nothing of it has changed and no namespace is missing.
func (s *Source[V]) Leaves() []*store.Leaf[V] {
	leaves, missing := s.Store.Leaves(), s.missingNow()
	if len(missing) > 0 {
		for i, leaf := range leaves {
			leaves[i] = &store.Leaf[V]{Entries: without(missing, leaf.Entries)}
		}
	}
	return leaves
}

// missingNow is the namespaces of which nothing is served.
func (s *Source[V]) missingNow() (missing []string) {
	for _, namespace := range s.Watch.Namespaces {
		if s.isMissing(namespace) {
			missing = append(missing, namespace)
		}
	}
	return missing
}

// without returns the entries without those of namespaces that are missing.
func without[V comparable](missing []string, entries []store.Entry[V]) []store.Entry[V] {
	switch {
	case len(missing) == 0:
		return entries
	case missing[0] == "":
		return nil
	}
	return slices.DeleteFunc(slices.Clone(entries), func(e store.Entry[V]) bool {
		return slices.Contains(missing, e.Namespace)
	})
}

// Rendered is how many leaves were rendered, in all.
func (s *Source[V]) Rendered() int64 { return s.count.Load() }

// Release gives the memory of the parts back, until Parts is called again.
func (s *Source[V]) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaves, s.rendered, s.parts = nil, nil, nil
}
