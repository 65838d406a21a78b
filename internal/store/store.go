// Package store holds what is kept of the objects of a cluster, by namespace and name, and does not let what comes late
// undo what came before: an event out of order, or the usage of a pod that is gone.
package store

import (
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"metrics-server-prom/internal/counter"
)

// Key names an object. Namespace is empty for an object that belongs to none.
type Key struct{ Namespace, Name string }

// Object is what is kept of an object. Value, Counters and Created never change, so that samples can point to it
// without a lock: a change of Value or Created brings a new Object.
type Object[V comparable] struct {
	Value    V
	Counters *counter.Set // of a pod's containers; nil where nothing needs them. What replaces the Object takes them over
	state
}

// same tells whether b says of the same object the same.
func (o *Object[V]) same(b *Object[V]) bool { return o.Value == b.Value && o.Created == b.Created }

// succeed has o, which is not in the store yet, take over from the Object that it replaces what belongs to the object.
// One that was created at another time is another object.
func (o *Object[V]) succeed(held *Object[V]) {
	if held != nil && held.Created == o.Created {
		o.Counters = held.Counters
	}
}

// state orders the reports about objects of one name.
type state struct {
	Created int64  // metadata.creationTimestamp, Unix seconds
	version uint64 // metadata.resourceVersion; 0 where it is not a number
}

// before tells whether s is older than t. resourceVersions of one resource can be compared as numbers (Kubernetes API
// concepts, "Resource versions"), but those of an etcd that was restored from a backup begin again lower. An object
// that was created later is then known for a successor by that. Of one that was not, and so of the same object, the
// version decides. A version that is not known is never before another.
func (s state) before(t state) bool {
	return s.version != 0 && s.version < t.version && s.Created <= t.Created
}

// Entry is an object on its way into the store.
type Entry[V comparable] struct {
	Key
	*Object[V]
}

// NewEntry returns an object with its value. name is the object's name as it is kept: where it is a substring of
// a text that the value holds, it takes no memory of its own.
func NewEntry[V comparable](object metav1.Object, name string, value V) Entry[V] {
	version, _ := strconv.ParseUint(object.GetResourceVersion(), 10, 64)
	created := object.GetCreationTimestamp().Unix()
	return Entry[V]{Key{object.GetNamespace(), name}, &Object[V]{Value: value, state: state{created, version}}}
}

// Store holds objects. Its lock is held for a few map operations at a time, and for a list. Use New or NewSorted.
type Store[V comparable] struct {
	mu      sync.RWMutex
	objects map[string]map[string]*Object[V] // by namespace and name
	deleted map[Key]tombstone
	sorted  leaves[V] // the same objects
}

// tombstone is kept of an object that was deleted.
type tombstone struct {
	state
	buried time.Time
}

// New returns an empty store.
func New[V comparable]() *Store[V] {
	return &Store[V]{objects: map[string]map[string]*Object[V]{}, deleted: map[Key]tombstone{}}
}

// NewSorted returns an empty store that also keeps its objects as Leaves, of about leafLen objects each.
func NewSorted[V comparable](leafLen int) *Store[V] {
	s := New[V]()
	s.sorted.length = leafLen
	return s
}

// Put takes in an object's state, unless a later one was seen already.
func (s *Store[V]) Put(e Entry[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch held := s.objects[e.Namespace][e.Name]; {
	case held == nil && e.before(s.deleted[e.Key].state), held != nil && e.before(held.state):
	case held != nil && held.same(e.Object):
		// Most changes are none to the value. Writing to the map would write its key too, which may be part of a text as
		// large as the value's.
		held.version = e.version
	default:
		e.succeed(held)
		delete(s.deleted, e.Key)
		put(s.objects, e)
		e.Namespace = strings.Clone(e.Namespace) // for the same reason as put's
		s.sorted.set(e.Key, e.Key.is, []Entry[V]{e})
	}
}

func put[V comparable](objects map[string]map[string]*Object[V], e Entry[V]) {
	if objects[e.Namespace] == nil {
		// The namespace came with this one object and keeps the object's other strings alive.
		objects[strings.Clone(e.Namespace)] = map[string]*Object[V]{}
	}
	objects[e.Namespace][e.Name] = e.Object
}

// Delete takes out an object, unless a later one of that name was seen already.
func (s *Store[V]) Delete(e Entry[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held := s.objects[e.Namespace][e.Name]; held != nil && e.before(held.state) {
		return
	}
	if delete(s.objects[e.Namespace], e.Name); len(s.objects[e.Namespace]) == 0 {
		delete(s.objects, e.Namespace)
	}
	s.sorted.set(e.Key, e.Key.is, nil)
	last := e.state
	if earlier := s.deleted[e.Key].state; last.before(earlier) {
		last = earlier
	}
	s.bury(e.Key, last)
}

// maxTombstones bounds what is kept of deleted objects, far above what any cluster deletes until it is forgotten.
const maxTombstones = 250_000

// bury keeps of an object that it was deleted. The key gets a copy of the name, which may be part of the value's text.
func (s *Store[V]) bury(key Key, last state) {
	if len(s.deleted) < maxTombstones {
		key.Name = strings.Clone(key.Name)
		s.deleted[key] = tombstone{last, time.Now()}
	}
}

// Replace takes a list as the whole state of a namespace, or of the cluster for "". Whatever it says is right: where
// etcd was restored, an object that was deleted is there again with an earlier version. What it says of other
// namespaces is ignored. Objects of which it says nothing new stay the same ones. The list is given up.
func (s *Store[V]) Replace(scope string, list []Entry[V]) {
	objects := map[string]map[string]*Object[V]{}
	for _, e := range list {
		if scope == "" || scope == e.Namespace {
			put(objects, e)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for namespace, held := range s.objects {
		if scope != "" && scope != namespace {
			objects[namespace] = held
			continue
		}
		for name, o := range held {
			switch listed := objects[namespace][name]; {
			case listed == nil:
				s.bury(Key{namespace, name}, o.state)
			case o.same(listed):
				o.version = listed.version
				objects[namespace][name] = o // with the held name, which is part of the held value's text
			default:
				listed.succeed(o)
			}
		}
	}
	for key := range s.deleted {
		if objects[key.Namespace][key.Name] != nil {
			delete(s.deleted, key)
		}
	}
	s.objects = objects
	s.sorted.replace(scope, objects, list)
}

// Find returns the object of that name or nil, and whether one of that name was deleted lately. It does not allocate.
func (s *Store[V]) Find(namespace, name []byte) (o *Object[V], deleted bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if o = s.objects[string(namespace)][string(name)]; o == nil && len(s.deleted) > 0 {
		_, deleted = s.deleted[Key{string(namespace), string(name)}]
	}
	return o, deleted
}

// Len is the number of objects.
func (s *Store[V]) Len() (n int) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, objects := range s.objects {
		n += len(objects)
	}
	return n
}

// Forget drops what is kept of objects that were deleted before the given moment.
func (s *Store[V]) Forget(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, t := range s.deleted {
		if t.buried.Before(before) {
			delete(s.deleted, key)
		}
	}
}
