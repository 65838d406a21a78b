// Package sample joins usage with the pods that it belongs to, and lets nothing through that is stale, invalid or there
// already: what comes out of it can be served as it is.
package sample

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
	"unique"

	"metrics-server-prom/internal/counter"
	"metrics-server-prom/internal/metricsapi"
	"metrics-server-prom/internal/store"
)

// The reasons for which samples are dropped, as they are counted.
const (
	Stale     = "stale"     // older than max-age, or of a pod that is gone
	Invalid   = "invalid"   // no number, no rate, no name
	Duplicate = "duplicate" // its series is there already
)

// Cause is why samples are dropped. It tells more than the reason, for those who have to mend it.
type Cause uint8

// The causes.
const (
	Gone       Cause  = iota // of a deleted pod, or of a predecessor of the same name: passes by itself
	TooOld                   // the timestamp has reached max-age
	NoWindow                 // CPU over no time, or less
	NotANumber               // a quantity that is negative, too large or none
	NotAName                 // of a node, namespace, pod or container
	Twice                    // in one list
	Causes     = iota        // how many there are
)

var causes = [Causes]struct{ reason, text string }{
	Gone: {Stale, "belong to pods that are gone"},
	TooOld: {Stale, "have reached --max-age by their own timestamps: check that metrics-server reaches the kubelets, " +
		"and the clocks"},
	NoWindow:   {Invalid, "of CPU have no window to be a rate over: check what serves metrics.k8s.io"},
	NotANumber: {Invalid, "are not numbers, or negative: check what serves metrics.k8s.io"},
	NotAName:   {Invalid, "have no valid name: check what serves metrics.k8s.io"},
	Twice:      {Duplicate, "come twice in one list: check whether what serves metrics.k8s.io joins several clusters"},
}

// Reason is under which reason the cause is counted.
func (c Cause) Reason() string { return causes[c].reason }

// String says what is wrong with samples, and what to do.
func (c Cause) String() string { return causes[c].text }

// Dropped is what was dropped of one list for one cause.
type Dropped struct {
	Samples int
	Example string // NAMESPACE/NAME of the first, or the node's name
}

// Text is the label text of a pod's samples, the container's name left out:
//
//	node="N",pod="   P",ip="I",container="   …   ",namespace="NS",label_L="V"}
//
// The first and the last part are the same for many pods and held once. What is compared with == is all of it.
type Text struct {
	Node unique.Handle[string]
	Head string
	Tail unique.Handle[string]
	// Shared and Own are what package kept has packed of the pod. Own is empty where no more is kept than what the
	// pods of a workload share, and Shared is zero where nothing is.
	Shared unique.Handle[string]
	Own    string
}

// Sample is the usage of one container or node. A usage that is missing is NaN.
type Sample struct {
	Pod    *store.Object[Text]
	CPU    float64 // cores
	Memory float64 // bytes
	Name   uint32  // of the container or node, in Batch.Names
	at     uint32  // Unix seconds from which its age counts
}

// New returns a sample without a usage.
func New(pod *store.Object[Text], name uint32, at int64) Sample {
	return Sample{Pod: pod, CPU: math.NaN(), Memory: math.NaN(), Name: name, at: uint32(at)}
}

// At is the moment from which the sample's age counts, in Unix seconds.
func (s *Sample) At() int64 { return int64(s.at) }

// Batch is the samples of one refresh. It is valid until the next refresh is done.
type Batch struct {
	Samples []Sample
	Names   []string // names of containers or nodes, made label values; shared by all samples that have them
	Unknown int      // pods without metadata
	// Oldest and Newest are the samples' own timestamps in Unix seconds, 0 where there are none. One that is from the
	// future counts as of when it was first seen.
	Oldest, Newest int64
	NewestOf       store.Key // the pod, or the node without a namespace, that has the newest
	// Ordered tells whether the items came in the order of namespace and name, as metrics-server sends them.
	Ordered bool
	// Version is another one after each change of a batch.
	Version uint64
	// Dropped is what the list had that is not in Samples, by Cause.
	Dropped [Causes]Dropped
	// Seconds is the CPU time of each of Samples, as far as its readings tell; NaN where none does. It is empty where
	// the Joiner does not count, and once the next batch is done.
	Seconds []float64
	// Untimely tells of which of Samples the Seconds are as of another moment than the sample: where its reading is older
	// than that of another replica of metrics-server, or none. It is nil for none.
	Untimely []bool
	// Readings is what became of the CPU readings, by result, and Filled the seconds that were filled in.
	Readings [counter.Results]int
	Filled   float64

	index  map[string]uint32     // of Names, by raw name
	lastOf []*store.Object[Text] // by name: the pod that had it last, to see a name that comes twice in a pod
}

func (b *Batch) reset() {
	if len(b.Names) > 1000 && len(b.Names) > 2*cap(b.Samples) {
		b.index, b.Names, b.lastOf = nil, nil, nil // names come and go; those that are gone are not kept for ever
	}
	if b.index == nil {
		b.index = map[string]uint32{}
	}
	clear(b.lastOf)
	clear(b.Samples) // so that pods which are gone are not kept by what is behind the new length
	b.Samples, b.Unknown, b.Oldest, b.Newest, b.NewestOf = b.Samples[:0], 0, 0, 0, store.Key{}
	clear(b.Dropped[:])
	clear(b.Readings[:])
	b.Filled, b.Untimely = 0, nil
}

// drop counts samples of an item that are left out.
func (b *Batch) drop(cause Cause, samples int, item *metricsapi.Item) {
	d := &b.Dropped[cause]
	if d.Samples == 0 && samples > 0 {
		d.Example = strings.TrimPrefix(fmt.Sprintf("%.253q/%.253q", item.Namespace, item.Name), `""/`)
	}
	d.Samples += samples
}

// name returns the index of a name.
func (b *Batch) name(raw []byte, escape func(string) string) uint32 {
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
func (b *Batch) Expires(maxAge time.Duration) time.Time {
	if len(b.Samples) == 0 {
		return time.Time{}
	}
	return time.Unix(b.first(), 0).Add(maxAge)
}

// first is the moment from which the age of the oldest sample counts, in Unix seconds; 0 where there are none.
func (b *Batch) first() (first int64) {
	for i := range b.Samples {
		if at := int64(b.Samples[i].at); first == 0 || at < first {
			first = at
		}
	}
	return first
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
type Joiner struct {
	MaxAge   time.Duration
	Store    *store.Store[Text]                // the pods' metadata; nil for nodes, whose samples have an empty Text
	Unknown  func(namespace, name string) Text // the text of a pod of which nothing but the name is known
	Escape   func(string) string               // makes a label value of a name
	Excluded []string                          // namespaces to leave out
	// Running tells which run of a container is going on by the metadata of its pod: an ID, such as a hash of the
	// containerID, and since when, in Unix seconds; ok is false for none. It is not called for nodes. nil means that
	// CPU time is not counted, which then costs nothing.
	Running       func(p *store.Object[Text], container string) (id uint64, started int64, ok bool)
	batch, served *Batch
	now           int64 // Unix seconds, when the batch was begun
	seed          maphash.Seed
	key, last     []byte              // namespace and name of the present item and of the one before
	ordered       bool                // each item of this batch had a key above that of the one before
	ids           []uint64            // of this batch's pods, as far as it was ordered
	seen          map[uint64]struct{} // of this batch's pods, once it is not
	ahead         map[uint64]ahead    // of the batch being served, by ID
	nextAhead     map[uint64]ahead
	readings      []reading                  // of this batch; none where Running is nil
	read          int                        // their number in the last one
	nodes         map[string]counter.Counter // by name; nil but for nodes
	version       uint64                     // of the last batch
}

// reading is what is kept of an item until its list is complete.
type reading struct {
	window  time.Duration // 0 for none
	stamp   uint32        // Unix seconds; those that are larger are MaxUint32
	until   uint32        // index behind its samples
	several bool          // there are more containers
}

// node stands for the pod in the samples of nodes.
var node store.Object[Text]

// Begin begins a batch; what was joined since the last Done is void.
func (j *Joiner) Begin() {
	if j.batch == nil {
		j.batch, j.served = &Batch{}, &Batch{}
		j.seen, j.ahead, j.nextAhead = map[uint64]struct{}{}, map[uint64]ahead{}, map[uint64]ahead{}
		j.nodes = map[string]counter.Counter{}
		j.seed = maphash.MakeSeed()
	}
	if n := len(j.served.Samples); j.batch.Samples == nil {
		j.batch.Samples, j.readings = make([]Sample, 0, n+n/64), make([]reading, 0, j.read)
	}
	j.now = time.Now().Unix()
	j.batch.reset()
	j.readings = j.readings[:0]
	j.key, j.ordered, j.ids = j.key[:0], true, j.ids[:0]
	clear(j.seen)
	clear(j.nextAhead)
}

// Done ends the batch, and only now its readings count: of a list that fails nothing is left. The batch is valid until
// Done is called again. What only the next batch needs is given back until then.
func (j *Joiner) Done() *Batch {
	j.batch, j.served = j.served, j.batch
	j.batch.Samples = nil
	j.version++
	j.served.Version, j.served.Ordered = j.version, j.ordered
	j.ahead, j.nextAhead = j.nextAhead, j.ahead
	if j.Running != nil {
		j.served.Seconds, j.batch.Seconds = j.batch.Seconds, nil
		j.count(j.served)
	}
	j.readings, j.read = nil, len(j.readings)
	return j.served
}

// count adds the readings of a batch to the counters and makes its Seconds.
func (j *Joiner) count(b *Batch) {
	b.Seconds = slices.Grow(b.Seconds[:0], len(b.Samples))
	for _, r := range j.readings {
		var s *Sample
		for len(b.Seconds) < int(r.until) {
			i := len(b.Seconds)
			s = &b.Samples[i]
			c := j.counter(b, s, &r)
			if b.Seconds = append(b.Seconds, c.Seconds()); !math.IsNaN(c.Seconds()) && !c.IsOf(s.At()) {
				if b.Untimely == nil {
					b.Untimely = make([]bool, len(b.Samples))
				}
				b.Untimely[i] = true
			}
		}
		if s.Pod.Counters != nil { // not before all of them have the reading by whose moment they are dropped
			s.Pod.Counters.Drop(int64(s.at))
		}
	}
	// A node that was in a list of the last hour had a sample younger than MaxAge then.
	maps.DeleteFunc(j.nodes, func(_ string, c counter.Counter) bool { return c.Gone(j.now - int64(j.MaxAge/time.Second)) })
}

// counter adds the reading of a sample to the counter of its container or node, and returns that.
func (j *Joiner) counter(b *Batch, s *Sample, r *reading) counter.Counter {
	name := b.Names[s.Name]
	if j.Store == nil {
		c := j.advance(b, j.nodes[name], s, r, 0)
		j.nodes[name] = c
		return c
	}
	if s.Pod.Counters == nil {
		return counter.Counter{}
	}
	id, started, ok := j.Running(s.Pod, name)
	if !ok {
		return counter.Counter{}
	}
	was := s.Pod.Counters.Get(id)
	is := j.advance(b, was, s, r, started)
	if is != was {
		s.Pod.Counters.Put(id, is)
	}
	return is
}

// early is by how many seconds a container may begin before the moment at which it counts as started, as that is cut
// down to a second and so is the end of a window.
const early = 2

// advance returns the counter after the reading of a sample. Where that is its first, the container's run has to have
// been started before.
func (j *Joiner) advance(b *Batch, c counter.Counter, s *Sample, r *reading, started int64) counter.Counter {
	if math.IsNaN(s.CPU) {
		return c
	}
	window := r.window
	if math.IsNaN(c.Seconds()) {
		age := int64(r.stamp) - max(0, started)
		if age <= 0 {
			b.Readings[counter.Predecessor]++
			return c
		}
		// It may be the window of another container, which has run for longer.
		window = min(window, time.Duration(age+early)*time.Second)
	}
	next, filled, result := c.Next(counter.Reading{Rate: s.CPU, Window: window, End: int64(s.at), Several: r.several},
		j.MaxAge)
	b.Readings[result]++
	b.Filled += filled
	return next
}

// Join adds the samples of one item. An error says that the list as a whole cannot be true.
func (j *Joiner) Join(item *metricsapi.Item) error {
	p, deleted := &node, false
	if j.Store != nil {
		for _, namespace := range j.Excluded {
			if string(item.Namespace) == namespace {
				return nil
			}
		}
		p, deleted = j.Store.Find(item.Namespace, item.Name)
	}
	id, twice := j.identify(item)
	switch {
	case deleted:
		return j.drop(Gone, item)
	case !legible(item.Name) || j.Store != nil && !legible(item.Namespace):
		return j.drop(NotAName, item)
	case twice:
		return j.drop(Twice, item)
	}
	at, stamp := j.moment(id, item)
	switch {
	case at <= j.now-int64(j.MaxAge/time.Second):
		return j.drop(TooOld, item)
	case p != nil && stamp < p.Created:
		return j.drop(Gone, item)
	}
	if j.ordered {
		j.ids = append(j.ids, id)
	} else {
		j.seen[id] = struct{}{}
	}
	if p == nil {
		p = &store.Object[Text]{Value: j.Unknown(string(item.Namespace), string(item.Name))}
		if j.batch.Unknown++; j.batch.Unknown > maxUnknown && j.batch.Unknown > j.Store.Len() {
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
		b.Oldest = min(cmp.Or(b.Oldest, at), at)
		if at > b.Newest {
			b.Newest, b.NewestOf = at, store.Key{Namespace: string(item.Namespace), Name: string(item.Name)}
		}
		if j.Running != nil {
			j.readings = append(j.readings, reading{window: item.Window, stamp: uint32(min(stamp, math.MaxUint32)),
				until: uint32(len(b.Samples)), several: len(item.Containers) > 1})
		}
	}
	return nil
}

// container adds one sample.
func (j *Joiner) container(item *metricsapi.Item, c *metricsapi.Container, p *store.Object[Text], at int64) {
	s := Sample{Pod: p, CPU: j.value(c.CPU, item), Memory: j.value(c.Memory, item), at: uint32(at)}
	if item.HasWindow && item.Window <= 0 && !math.IsNaN(s.CPU) {
		j.batch.drop(NoWindow, 1, item) // a rate over no time is no number
		s.CPU = math.NaN()
	}
	name := c.Name
	if j.Store == nil {
		name = item.Name
	}
	n := values(&s)
	switch {
	case n == 0:
		return
	case !legible(name):
		j.batch.drop(NotAName, n, item)
		return
	}
	if s.Name = j.batch.name(name, j.Escape); j.batch.lastOf[s.Name] == p {
		j.batch.drop(Twice, n, item)
		return
	}
	j.batch.lastOf[s.Name] = p
	j.batch.Samples = append(j.batch.Samples, s)
}

// moment returns the item's timestamp and the moment from which its age counts: the same, but for a timestamp from the
// future, which may stay in the future for hours however old the value gets. Its age counts from when it was first
// seen.
func (j *Joiner) moment(id uint64, item *metricsapi.Item) (at, stamp int64) {
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

// identify returns an item's ID, a hash of its namespace and name, and whether this batch has a pod or node of that ID.
// metrics-server sends its lists in order of namespace and name, in which none comes twice.
func (j *Joiner) identify(item *metricsapi.Item) (id uint64, twice bool) {
	j.key, j.last = append(append(append(j.last[:0], item.Namespace...), 0), item.Name...), j.key
	id = maphash.Bytes(j.seed, j.key)
	if j.ordered && bytes.Compare(j.key, j.last) > 0 {
		return id, false
	}
	if j.ordered {
		j.ordered = false
		for _, id := range j.ids {
			j.seen[id] = struct{}{}
		}
	}
	_, twice = j.seen[id]
	return id, twice
}

// value is a usage, or NaN where there is none or none that means anything.
func (j *Joiner) value(v metricsapi.Value, item *metricsapi.Item) float64 {
	switch v.State {
	case metricsapi.Valid:
		return v.V
	case metricsapi.Invalid:
		j.batch.drop(NotANumber, 1, item)
	}
	return math.NaN()
}

// values is how many series a sample has.
func values(s *Sample) (n int) {
	if !math.IsNaN(s.CPU) {
		n++
	}
	if !math.IsNaN(s.Memory) {
		n++
	}
	return n
}

// drop counts the samples that an item would have given. It returns nil: the list as a whole may be true.
func (j *Joiner) drop(cause Cause, item *metricsapi.Item) error {
	n := 0
	for i := range item.Containers {
		for _, v := range [...]metricsapi.Value{item.Containers[i].CPU, item.Containers[i].Memory} {
			if v.State != metricsapi.Absent {
				n++
			}
		}
	}
	j.batch.drop(cause, n, item)
	return nil
}

// Expire takes the samples that have reached MaxAge out of the batch that Done returned last, whose Dropped is then
// that of this call only.
func (j *Joiner) Expire(now time.Time) *Batch {
	b, fresh := j.served, j.served.Samples[:0]
	j.version++
	b.Version = j.version
	clear(b.Dropped[:])
	for i, s := range b.Samples {
		if now.Before(time.Unix(int64(s.at), 0).Add(j.MaxAge)) {
			if len(b.Seconds) > 0 {
				b.Seconds[len(fresh)] = b.Seconds[i]
			}
			if b.Untimely != nil {
				b.Untimely[len(fresh)] = b.Untimely[i]
			}
			fresh = append(fresh, s)
		} else {
			b.Dropped[TooOld].Samples += values(&s)
		}
	}
	clear(b.Samples[len(fresh):])
	b.Samples, b.Seconds = fresh, b.Seconds[:min(len(b.Seconds), len(fresh))]
	b.Oldest = b.first()
	if len(fresh) == 0 {
		b.Newest, b.Unknown, b.NewestOf = 0, 0, store.Key{}
	}
	return b
}

// legible tells whether a name can be one: names in Kubernetes have 1 to 253 characters of ASCII.
func legible(name []byte) bool { return len(name) > 0 && len(name) <= 253 && utf8.Valid(name) }
