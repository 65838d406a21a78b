package faults

import (
	"maps"
	"math"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"metrics-server-prom/e2e/check"
)

// owner is what has usage: a pod, or a node without a namespace.
type owner struct{ namespace, name string }

// identity is what a sample's labels say of a pod, beside its names.
type identity struct {
	node, ip string
	created  int64 // Unix seconds
}

// usage is one reading of an owner's containers; that of a node has one without a name. A usage that must not be served
// is NaN.
type usage struct {
	stamp      int64 // Unix seconds
	containers map[string][2]float64
}

func (u usage) equal(other usage) bool {
	return u.stamp == other.stamp && sameValues(u.containers, other.containers)
}

func sameValues(a, b map[string][2]float64) bool {
	return maps.EqualFunc(a, b, func(a, b [2]float64) bool {
		same := func(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }
		return same(a[0], b[0]) && same(a[1], b[1])
	})
}

// version is a value and when the API had it: perhaps from the beginning of the last look that did not see it to the
// end of the first that did not see it any more, surely from the end of the first look that saw it to the last's
// beginning.
type version[T any] struct {
	value       T
	from, seen  time.Time
	last, until time.Time // until is zero while it is there
}

// perhaps tells whether it may have been there at a moment between the two.
func (v *version[T]) perhaps(after, before time.Time) bool {
	return !v.from.After(before) && (v.until.IsZero() || !v.until.Before(after))
}

// surely tells whether it was there all the time between the two.
func (v *version[T]) surely(after, before time.Time) bool {
	return !v.seen.After(after) && !v.last.Before(before)
}

// state is what the API says at a moment.
type state struct {
	identities map[owner]identity
	usages     map[owner]usage
}

// stateOf is the state that a reading of the API shows.
func stateOf(r *check.Reading) state {
	s := state{map[owner]identity{}, map[owner]usage{}}
	for _, pod := range r.Metadata {
		s.identities[owner{pod.Namespace, text(pod.Name)}] = identity{pod.Spec.NodeName, pod.Status.PodIP,
			pod.CreationTimestamp.Unix()}
	}
	for _, m := range r.Pods {
		u := usage{m.Timestamp.Unix(), map[string][2]float64{}}
		for _, c := range m.Containers {
			u.containers[text(c.Name)] = values(c.Usage, m.Window)
		}
		s.usages[owner{m.Namespace, text(m.Name)}] = u
	}
	for _, m := range r.Nodes {
		s.identities[owner{"", m.Name}] = identity{}
		s.usages[owner{"", m.Name}] = usage{m.Timestamp.Unix(), map[string][2]float64{"": values(m.Usage, m.Window)}}
	}
	return s
}

// text is a name as a page may have it: without NUL, for which Prometheus would refuse the page.
func text(name string) string { return strings.ReplaceAll(name, "\x00", "\uFFFD") }

// values are cores and bytes. CPU over an empty window has no rate.
func values(list corev1.ResourceList, window metav1.Duration) [2]float64 {
	v := [2]float64{math.NaN(), math.NaN()}
	if q, ok := list[corev1.ResourceCPU]; ok && window.Duration > 0 {
		v[0] = check.Number(q)
	}
	if q, ok := list[corev1.ResourceMemory]; ok {
		v[1] = check.Number(q)
	}
	return v
}

// history is what the API has said, and when.
type history struct {
	keep time.Duration // what ended longer ago is forgotten

	mu         sync.Mutex
	identities map[owner][]*version[identity]
	usages     map[owner][]*version[usage]
	looked     time.Time // beginning of the last look
	next       chan struct{}
}

func newHistory(keep time.Duration) *history {
	return &history{keep: keep, identities: map[owner][]*version[identity]{}, usages: map[owner][]*version[usage]{},
		next: make(chan struct{})}
}

// record keeps what a look at the API has found that began and ended at these moments.
func (h *history) record(s state, began, ended time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	follow(h.identities, s.identities, func(a, b identity) bool { return a == b }, h.looked, began, ended, h.keep)
	follow(h.usages, s.usages, usage.equal, h.looked, began, ended, h.keep)
	h.looked = began
	close(h.next)
	h.next = make(chan struct{})
}

func follow[T any](all map[owner][]*version[T], now map[owner]T, equal func(a, b T) bool, before, began,
	ended time.Time, keep time.Duration) {
	for who, versions := range all {
		current := versions[len(versions)-1]
		if value, ok := now[who]; current.until.IsZero() && !(ok && equal(current.value, value)) {
			current.until = ended
		}
		for len(versions) > 0 && !versions[0].until.IsZero() && ended.Sub(versions[0].until) > keep {
			versions = versions[1:]
		}
		if all[who] = versions; len(versions) == 0 {
			delete(all, who)
		}
	}
	for who, value := range now {
		versions := all[who]
		if len(versions) > 0 && versions[len(versions)-1].until.IsZero() {
			versions[len(versions)-1].last = began
			continue
		}
		all[who] = append(versions, &version[T]{value: value, from: before, seen: ended, last: began})
	}
}

// after returns when a look has been recorded that was begun after the moment, or when done is closed.
func (h *history) after(moment time.Time, done <-chan struct{}) {
	for {
		h.mu.Lock()
		looked, next := h.looked, h.next
		h.mu.Unlock()
		if looked.After(moment) {
			return
		}
		select {
		case <-next:
		case <-done:
			return
		}
	}
}
