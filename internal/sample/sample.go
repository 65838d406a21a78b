// Package sample joins usage with the pods that it belongs to, and lets nothing through that is stale, invalid or there
// already: what comes out of it can be served as it is.
package sample

import (
	"errors"
	"hash/maphash"
	"math"
	"time"
	"unicode/utf8"

	"metrics-server-prom/internal/metricsapi"
	"metrics-server-prom/internal/podcache"
)

// The reasons for which samples are dropped.
const (
	Stale     = "stale"     // older than max-age, or of a pod that is gone
	Invalid   = "invalid"   // no number, no rate, no name
	Duplicate = "duplicate" // its series is there already
)

// Reasons are all reasons, so that each counter exists from the start.
var Reasons = []string{Stale, Invalid, Duplicate}

// Sample is the usage of one container or node. A usage that is missing is NaN.
type Sample[T comparable] struct {
	Pod    *podcache.Pod[T]
	CPU    float64 // cores
	Memory float64 // bytes
	Name   uint32  // of the container or node, in Batch.Names
	at     uint32  // Unix seconds from which its age counts
}

// Batch is the samples of one refresh. Its memory is used again by the refresh after the next.
type Batch[T comparable] struct {
	Samples []Sample[T]
	Names   []string // names of containers or nodes, made label values; shared by all samples that have them
	Unknown int      // pods without metadata
	// Oldest and Newest are the samples' own timestamps in Unix seconds, 0 where there are none.
	Oldest, Newest int64
	NewestOf       podcache.Key // the pod, or the node without a namespace, that has the newest

	index  map[string]uint32  // of Names, by raw name
	lastOf []*podcache.Pod[T] // by name: the pod that had it last, to see a name that comes twice in a pod
}

func (b *Batch[T]) reset() {
	if len(b.Names) > 1000 && len(b.Names) > 2*len(b.Samples) {
		b.index, b.Names, b.lastOf = nil, nil, nil // names come and go; those that are gone are not kept for ever
	}
	if b.index == nil {
		b.index = map[string]uint32{}
	}
	clear(b.lastOf)
	clear(b.Samples) // so that pods which are gone are not kept by what is behind the new length
	b.Samples, b.Unknown, b.Oldest, b.Newest, b.NewestOf = b.Samples[:0], 0, 0, 0, podcache.Key{}
}

// name returns the index of a name.
func (b *Batch[T]) name(raw []byte, escape func(string) string) uint32 {
	i, known := b.index[string(raw)]
	if !known {
		i = uint32(len(b.Names))
		name := string(raw)
		b.Names, b.lastOf = append(b.Names, escape(name)), append(b.lastOf, nil)
		b.index[name] = i
	}
	return i
}

// Expires is when the first of the samples reaches maxAge; the zero time where there are none.
func (b *Batch[T]) Expires(maxAge time.Duration) time.Time {
	if len(b.Samples) == 0 {
		return time.Time{}
	}
	first := b.Samples[0].at
	for i := range b.Samples {
		first = min(first, b.Samples[i].at)
	}
	return time.Unix(int64(first), 0).Add(maxAge)
}

// Bounds on what an answer may make this process hold: far above any cluster, far below what would hurt.
const (
	maxSamples = 2_000_000
	maxUnknown = 20_000
)

var (
	errTooMany   = errors.New("the list has more containers than any cluster")
	errOtherPods = errors.New("the list has more pods that do not exist in this cluster than pods that do")
)

// maxAhead is by how many seconds the clocks of nodes may be ahead of this one's without consequence.
const maxAhead = 60

// ahead is when a timestamp from the future was first seen.
type ahead struct{ stamp, seen int64 }

// Joiner makes batches of one resource, one refresh after the other.
type Joiner[T comparable] struct {
	MaxAge time.Duration
	// Cache has the pods' metadata; nil for nodes, of which all samples have the pod NodePod.
	Cache   *podcache.Cache[T]
	NodePod *podcache.Pod[T]
	// Unknown makes the value of a pod of which nothing but the name is known.
	Unknown func(namespace, name string) T
	// Escape makes a label value of a name.
	Escape func(string) string
	// Excluded tells which namespaces to leave out; nil for none.
	Excluded func(namespace []byte) bool
	// Drop counts samples that are left out.
	Drop func(reason string, samples int)

	batch, served *Batch[T]
	now           int64               // Unix seconds, when the batch was begun
	seen          map[uint64]struct{} // pods of this batch, by hash of namespace and name
	hash          maphash.Hash
	ahead         map[uint64]ahead // of the batch being served, by the same hash
	nextAhead     map[uint64]ahead
}

// Begin begins a batch; what was joined since the last Done is void.
func (j *Joiner[T]) Begin() {
	if j.batch == nil {
		j.batch, j.served = &Batch[T]{}, &Batch[T]{}
		j.seen, j.ahead, j.nextAhead = map[uint64]struct{}{}, map[uint64]ahead{}, map[uint64]ahead{}
	}
	j.now = time.Now().Unix()
	j.batch.reset()
	clear(j.seen)
	clear(j.nextAhead)
}

// Done ends the batch. It is valid until Done is called the next time but one.
func (j *Joiner[T]) Done() *Batch[T] {
	j.batch, j.served = j.served, j.batch
	j.ahead, j.nextAhead = j.nextAhead, j.ahead
	return j.served
}

// Join adds the samples of one item. An error says that the list as a whole cannot be true.
func (j *Joiner[T]) Join(item *metricsapi.Item) error {
	p := j.NodePod
	if j.Cache != nil {
		if j.Excluded != nil && j.Excluded(item.Namespace) {
			return nil
		}
		var deleted bool
		if p, deleted = j.Cache.Find(item.Namespace, item.Name); deleted {
			j.drop(Stale, item)
			return nil
		}
	}
	if !legible(item.Name) || j.Cache != nil && !legible(item.Namespace) {
		j.drop(Invalid, item)
		return nil
	}
	id := j.id(item)
	if _, twice := j.seen[id]; twice {
		j.drop(Duplicate, item)
		return nil
	}
	at, stamp := j.moment(id, item)
	if p != nil && stamp < p.Created || at <= j.now-int64(j.MaxAge/time.Second) {
		j.drop(Stale, item)
		return nil
	}
	j.seen[id] = struct{}{}
	if p == nil {
		p = &podcache.Pod[T]{Value: j.Unknown(string(item.Namespace), string(item.Name))}
		if j.batch.Unknown++; j.batch.Unknown > maxUnknown && j.batch.Unknown > j.Cache.Len() {
			return errOtherPods
		}
	}
	if len(j.batch.Samples)+len(item.Containers) > maxSamples {
		return errTooMany
	}
	before := len(j.batch.Samples)
	for i := range item.Containers {
		j.container(item, &item.Containers[i], p, at)
	}
	if b := j.batch; len(b.Samples) > before {
		if b.Oldest == 0 || stamp < b.Oldest {
			b.Oldest = stamp
		}
		if stamp > b.Newest {
			b.Newest, b.NewestOf = stamp, podcache.Key{Namespace: string(item.Namespace), Name: string(item.Name)}
		}
	}
	return nil
}

// container adds one sample.
func (j *Joiner[T]) container(item *metricsapi.Item, c *metricsapi.Container, p *podcache.Pod[T], at int64) {
	if item.HasWindow && item.Window <= 0 && c.CPU.State == metricsapi.Valid {
		c.CPU.State = metricsapi.Invalid // a rate over no time is no number
	}
	s := Sample[T]{Pod: p, CPU: j.value(c.CPU), Memory: j.value(c.Memory), at: uint32(at)}
	name := c.Name
	if j.Cache == nil {
		name = item.Name
	}
	n := values(s)
	switch {
	case n == 0:
		return
	case !legible(name):
		j.Drop(Invalid, n)
		return
	}
	if s.Name = j.batch.name(name, j.Escape); j.batch.lastOf[s.Name] == p {
		j.Drop(Duplicate, n)
		return
	}
	j.batch.lastOf[s.Name] = p
	j.batch.Samples = append(j.batch.Samples, s)
}

// moment returns the item's timestamp and the moment from which its age counts: the same, but for a timestamp from the
// future, which may stay in the future for hours however old the value gets. Its age counts from when it was first seen.
func (j *Joiner[T]) moment(id uint64, item *metricsapi.Item) (at, stamp int64) {
	stamp = item.Timestamp.Unix()
	if stamp <= j.now+maxAhead {
		return stamp, stamp
	}
	first, known := j.ahead[id]
	if !known || first.stamp != stamp {
		first = ahead{stamp, j.now}
	}
	j.nextAhead[id] = first
	return first.seen, stamp
}

func (j *Joiner[T]) id(item *metricsapi.Item) uint64 {
	j.hash.Reset()
	j.hash.Write(item.Namespace)
	j.hash.WriteByte('/')
	j.hash.Write(item.Name)
	return j.hash.Sum64()
}

// value is a usage, or NaN where there is none or none that means anything.
func (j *Joiner[T]) value(v metricsapi.Value) float64 {
	switch v.State {
	case metricsapi.Valid:
		return v.V
	case metricsapi.Invalid:
		j.Drop(Invalid, 1)
	}
	return math.NaN()
}

// values is how many series a sample has.
func values[T comparable](s Sample[T]) (n int) {
	for _, v := range [...]float64{s.CPU, s.Memory} {
		if !math.IsNaN(v) {
			n++
		}
	}
	return n
}

// drop counts the samples that an item would have given.
func (j *Joiner[T]) drop(reason string, item *metricsapi.Item) {
	n := 0
	for i := range item.Containers {
		for _, v := range [...]metricsapi.Value{item.Containers[i].CPU, item.Containers[i].Memory} {
			if v.State != metricsapi.Absent {
				n++
			}
		}
	}
	j.Drop(reason, n)
}

// Expire takes the samples that have reached MaxAge out of the batch that Done returned last.
func (j *Joiner[T]) Expire(now time.Time) *Batch[T] {
	b, fresh := j.served, j.served.Samples[:0]
	for _, s := range b.Samples {
		if now.Before(time.Unix(int64(s.at), 0).Add(j.MaxAge)) {
			fresh = append(fresh, s)
		} else {
			j.Drop(Stale, values(s))
		}
	}
	clear(b.Samples[len(fresh):])
	b.Samples, b.Oldest = fresh, 0
	for _, s := range fresh {
		if b.Oldest == 0 || int64(s.at) < b.Oldest {
			b.Oldest = int64(s.at)
		}
	}
	if len(fresh) == 0 {
		b.Newest, b.Unknown, b.NewestOf = 0, 0, podcache.Key{}
	}
	return b
}

// legible tells whether a name can be one: names in Kubernetes have 1 to 253 characters of ASCII.
func legible(name []byte) bool { return len(name) > 0 && len(name) <= 253 && utf8.Valid(name) }
