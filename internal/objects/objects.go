package objects

// temporary, until the helper's version is merged

import (
	"context"
	"sync"
	"time"

	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/store"
	"metrics-server-prom/internal/watch"
)

type Options[V comparable] struct {
	watch.Options[V]
	LeafLen int
	Render  func(c *page.Compressor, entries []store.Entry[V]) []*page.Part
	MaxAge  time.Duration
}

type Source[V comparable] struct {
	Watch *watch.Watch[V]
	Store *store.Store[V]
	o     Options[V]

	mu         sync.Mutex
	compressor page.Compressor
	rendered   map[*store.Leaf[V]][]*page.Part
	leaves     []*store.Leaf[V]
	parts      [][]*page.Part
}

func New[V comparable](o Options[V]) *Source[V] {
	s := &Source[V]{o: o, Store: store.NewSorted[V](o.LeafLen)}
	if o.LeafLen == 0 {
		s.Store = store.New[V]()
	}
	s.o.Options.Store = s.Store
	s.Watch = watch.New(s.o.Options)
	return s
}

func (s *Source[V]) Ready(ctx context.Context) error {
	s.Watch.Distrust()
	for _, ns := range s.Watch.Namespaces {
		if err := s.Watch.Ready(ctx, ns, s.o.MaxAge); err != nil {
			return err
		}
	}
	return nil
}

func (s *Source[V]) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rendered, s.leaves, s.parts = nil, nil, nil
}

func (s *Source[V]) Parts() [][]*page.Part {
	s.mu.Lock()
	defer s.mu.Unlock()
	leaves := s.Store.Leaves()
	same := s.parts != nil && len(leaves) == len(s.leaves)
	rendered := make(map[*store.Leaf[V]][]*page.Part, len(leaves))
	for i, l := range leaves {
		same = same && s.leaves[i] == l
		if rendered[l] = s.rendered[l]; rendered[l] == nil {
			rendered[l] = s.o.Render(&s.compressor, l.Entries)
		}
	}
	if same {
		return s.parts
	}
	s.leaves, s.rendered = leaves, rendered
	s.parts = make([][]*page.Part, 64)
	for _, l := range leaves {
		for f, p := range rendered[l] {
			if p != nil {
				s.parts[f] = append(s.parts[f], p)
			}
		}
	}
	return s.parts
}
