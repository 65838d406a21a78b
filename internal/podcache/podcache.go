// Package podcache holds what is known of the pods of a cluster, by namespace and name, and does not let what comes late
// undo what came before: an event out of order, or the usage of a pod that is gone.
package podcache

import (
	"strings"
	"sync"
	"time"
)

// Key names a pod.
type Key struct{ Namespace, Name string }

// Pod is what is kept of a pod. It never changes, so that samples can point to it without a lock; a change of the pod
// brings a new one.
type Pod[T comparable] struct {
	Value   T
	Created int64  // metadata.creationTimestamp, Unix seconds
	Version uint64 // metadata.resourceVersion; 0 where it is no number
}

// Keyed is a pod on its way into the cache.
type Keyed[T comparable] struct {
	Key
	*Pod[T]
}

// Cache holds pods. Its lock is held for a few map operations at a time. Use New.
type Cache[T comparable] struct {
	mu   sync.RWMutex
	pods map[string]map[string]*Pod[T] // by namespace and name
	gone map[Key]tombstone
}

// tombstone is kept of a pod that was deleted.
type tombstone struct {
	version uint64
	buried  time.Time
}

// New returns an empty cache.
func New[T comparable]() *Cache[T] {
	return &Cache[T]{pods: map[string]map[string]*Pod[T]{}, gone: map[Key]tombstone{}}
}

// Put takes in a pod's state, unless a later one was seen already.
func (c *Cache[T]) Put(p Keyed[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.pods[p.Namespace][p.Name]
	if held != nil && older(p.Version, held.Version) || held == nil && older(p.Version, c.gone[p.Key].version) {
		return
	}
	if held != nil {
		if held.Value == p.Value {
			p.Value = held.Value // most changes are none to the value: what it points to goes on being shared
		} else {
			delete(c.pods[p.Namespace], p.Name) // the key may be part of the old value, which it would keep alive
		}
	}
	delete(c.gone, p.Key)
	put(c.pods, p)
}

// older compares resourceVersions: within one resource they can be compared as numbers (Kubernetes API concepts,
// "Resource versions"). 0 is not known and never older.
func older(a, b uint64) bool { return a != 0 && a < b }

func put[T comparable](pods map[string]map[string]*Pod[T], p Keyed[T]) {
	if pods[p.Namespace] == nil {
		// The namespace came with this one pod and keeps the pod's other strings alive.
		pods[strings.Clone(p.Namespace)] = map[string]*Pod[T]{}
	}
	pods[p.Namespace][p.Name] = p.Pod
}

// Delete takes out a pod, unless a later one of that name was seen already.
func (c *Cache[T]) Delete(p Keyed[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if held := c.pods[p.Namespace][p.Name]; held != nil && older(p.Version, held.Version) {
		return
	}
	if delete(c.pods[p.Namespace], p.Name); len(c.pods[p.Namespace]) == 0 {
		delete(c.pods, p.Namespace)
	}
	c.gone[p.Key] = tombstone{max(p.Version, c.gone[p.Key].version), time.Now()}
}

// Replace takes a list as the whole state of a namespace, or of the cluster for "".
func (c *Cache[T]) Replace(scope string, list []Keyed[T]) {
	pods := map[string]map[string]*Pod[T]{}
	for _, p := range list {
		put(pods, p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for namespace, held := range c.pods {
		if scope != "" && scope != namespace {
			pods[namespace] = held
			continue
		}
		for name, p := range held {
			if pods[namespace][name] == nil {
				c.gone[Key{namespace, name}] = tombstone{p.Version, now}
			}
		}
	}
	for key := range c.gone {
		if pods[key.Namespace][key.Name] != nil {
			delete(c.gone, key)
		}
	}
	c.pods = pods
}

// Find returns the pod of that name or nil, and whether one of that name was deleted lately. It does not allocate.
func (c *Cache[T]) Find(namespace, name []byte) (p *Pod[T], deleted bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if p = c.pods[string(namespace)][string(name)]; p == nil && len(c.gone) > 0 {
		_, deleted = c.gone[Key{string(namespace), string(name)}]
	}
	return p, deleted
}

// Len is the number of pods.
func (c *Cache[T]) Len() (n int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, pods := range c.pods {
		n += len(pods)
	}
	return n
}

// Forget drops what is kept of pods that were deleted before the given moment.
func (c *Cache[T]) Forget(before time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, t := range c.gone {
		if t.buried.Before(before) {
			delete(c.gone, key)
		}
	}
}
