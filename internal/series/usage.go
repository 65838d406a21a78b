// Package series knows which series a receiver has, and adds to a push what it does not have yet: new samples, and
// stale markers of series that have ended. What it knows changes only as far as the receiver has taken a batch, so that
// after an outage everything is told that happened meanwhile.
//
// It goes through what is served batch by batch and looks at the newest there is at each step, so that memory does not
// depend on how long a receiver takes, and no lock is held while it does.
package series

import (
	"bytes"
	"context"
	"math"
	"slices"
	"sort"
	"time"

	"metrics-server-prom/internal/family"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/remotewrite"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/store"
)

// Usage is the series of one list of usage. Each reading is sent once, with its own timestamp.
type Usage struct {
	Rows []Row // at most maxRows
	// Since is a moment in Unix seconds up to which no reading is sent: what a process before this one has sent is known
	// to nobody, and a series must not go back in time.
	Since int64
	// MaxAge is the age from which on no reading is served. A series that has ended is remembered for as long, so that it
	// does not begin again before its end.
	MaxAge time.Duration

	sent  records
	names names
	// Scratch of a push.
	now, then  label.Usage // the batch being read, and a record as a batch
	old        []*record   // of one pod or node
	pending    []record    // what the receiver has once it has taken what was added to the push
	text, last []byte
}

// Row is a family, and the target that its samples go to.
type Row struct {
	*family.Family
	Target *remotewrite.Target
}

// maxPending bounds the memory of what is pending. A batch that is not full goes where so much was compared.
const maxPending = 2 * blockLen

// Push adds what the receiver does not have of the batch that read gives, and ends the series of what is not in it. at
// is the moment of the push in Unix milliseconds. It fails as the push does.
func (u *Usage) Push(ctx context.Context, out *push.Out, read func(func(*sample.Batch)), at int64) (failed error) {
	w := walk{Usage: u, out: out, at: at, rest: u.sent.begin()}
	left, taken := w.rest, records{} // as of the last batch that was taken
	for done := false; !done; {
		read(func(b *sample.Batch) { done = w.fill(b) })
		if failed = out.Flush(ctx); failed == nil {
			left = w.rest
			u.sent.drop(left)
			taken.append(u.pending)
		} else {
			w.failed = true
		}
		u.pending = u.pending[:0]
	}
	// Nobody may keep pods that are gone.
	clear(u.pending[:cap(u.pending)])
	clear(u.old[:cap(u.old)])
	u.now, u.then = label.Usage{}, label.Usage{}
	u.sent = append(taken, u.sent.from(left)...)
	u.names.forget(u.sent)
	return failed
}

// setBack has series of which something was sent that no receiver takes, so far is it ahead of a moment in Unix
// milliseconds, go on from then.
func (u *Usage) setBack(at int64) {
	for _, block := range u.sent {
		for i := range block {
			if r := &block[i]; int64(r.at)*1000 > at+maxAhead {
				r.at = uint32(at / 1000)
			}
		}
	}
}

// walk is one way through a list, in order of namespace and name.
type walk struct {
	*Usage
	out     *push.Out
	at      int64     // the moment of the push, Unix ms
	rest    position  // of the first record that was not compared yet
	from    store.Key // up to which all was compared, once it has begun
	begun   bool
	version uint64   // of the batch at the last look
	order   []uint32 // the first sample of each pod in order, where the batch is not in order
	next    int      // index of the next sample or, where there is an order, in that
	failed  bool     // nothing is sent any more
}

// fill adds to the push until that is full, and tells whether all was compared.
func (w *walk) fill(b *sample.Batch) (done bool) {
	w.now.Batch = b
	if !w.begun || w.version != b.Version {
		w.find()
	}
	for !w.out.Full() && len(w.pending) < maxPending {
		old, key, behind := w.oldGroup()
		begin, end := w.group()
		if begin == end && len(old) == 0 {
			return true
		}
		order := 1 // of the sample's pod against that of the records
		if begin < end && len(old) > 0 && old[0].pod == w.now.Samples[begin].Pod && !isNode(old[0].pod) {
			order = 0 // the usual case, in which no second key is needed
		} else if begin < end {
			of := w.key(begin)
			if order = of.Compare(key); len(old) == 0 {
				order = -1
			}
			if order < 0 {
				key = of
			}
		}
		switch {
		case order < 0:
			w.compare(begin, end, nil)
		case order == 0:
			w.compare(begin, end, old)
		default:
			for _, r := range old {
				w.end(r)
			}
		}
		if order >= 0 {
			w.rest = behind
		}
		if order <= 0 {
			if w.next++; w.order == nil {
				w.next = end
			}
		}
		w.from, w.begun = key, true
	}
	return false
}

// find finds the first sample behind what was compared.
func (w *walk) find() {
	b := w.now.Batch
	w.version, w.order = b.Version, nil
	behind := func(i int) bool { return !w.begun || w.key(i).Compare(w.from) > 0 }
	if b.Ordered {
		w.next = sort.Search(len(b.Samples), behind)
		return
	}
	w.order = make([]uint32, 0, len(b.Samples))
	for begin := 0; begin < len(b.Samples); begin = w.groupEnd(begin) {
		w.order = append(w.order, uint32(begin))
	}
	slices.SortFunc(w.order, func(a, b uint32) int { return w.key(int(a)).Compare(w.key(int(b))) })
	w.next = sort.Search(len(w.order), func(i int) bool { return behind(int(w.order[i])) })
}

// group returns the samples of the next pod or node; none where there is no further one.
func (w *walk) group() (begin, end int) {
	begin = w.next
	if w.order != nil && begin < len(w.order) {
		begin = int(w.order[begin])
	} else if w.order != nil || begin == len(w.now.Samples) {
		return 0, 0
	}
	return begin, w.groupEnd(begin)
}

func (w *walk) groupEnd(begin int) (end int) {
	samples := w.now.Samples
	for end = begin + 1; end < len(samples) && samples[end].Pod == samples[begin].Pod && !isNode(samples[end].Pod); end++ {
	}
	return end
}

func isNode(p *store.Object[sample.Text]) bool { return p.Value.Head == "" }

// key is that of a sample's pod or node.
func (w *walk) key(i int) store.Key {
	s := &w.now.Samples[i]
	return keyOf(s.Pod, w.now.Names[s.Name])
}

func (u *Usage) keyOf(r record) store.Key { return keyOf(r.pod, u.names.all[r.index()]) }

func keyOf(pod *store.Object[sample.Text], name string) store.Key {
	if isNode(pod) {
		return store.Key{Name: name}
	}
	return label.KeyOf(pod.Value)
}

// oldGroup returns the next records that are of one pod or node, its key, and the position behind them.
func (w *walk) oldGroup() (group []*record, key store.Key, behind position) {
	w.old = w.old[:0]
	for at := w.rest; ; at = behind {
		r, next := w.sent.at(at)
		if r == nil || len(w.old) > 0 && (r.pod != w.old[0].pod || isNode(r.pod)) && w.keyOf(*r) != key {
			return w.old, key, at
		}
		if len(w.old) == 0 {
			key = w.keyOf(*r)
		}
		w.old, behind = append(w.old, r), next
	}
}

// compare adds what is new of a pod's or node's samples, compared with its records.
func (w *walk) compare(begin, end int, old []*record) {
	for i := begin; i < end; i++ {
		name := w.names.find(w.now.Names[w.now.Samples[i].Name])
		var known *record
		for j, r := range old {
			if r != nil && r.index() == name {
				known, old[j] = r, nil
				break
			}
		}
		w.add(i, name, known)
	}
	for _, r := range old {
		if r != nil {
			w.end(r)
		}
	}
}

// inherit takes a reading from before the start for one that was sent: a process before this one may have done so, and
// cannot end its series any more.
func (w *walk) inherit(i int, r record) {
	s := &w.now.Samples[i]
	for row, f := range w.Rows {
		r.set(row, w.labels(f, &w.now, i, &w.text) != nil && !math.IsNaN(f.Value(&w.now, i)))
	}
	if r.pod, r.at = s.Pod, uint32(s.At()); !r.ended() {
		w.keep(r)
	}
}

// add adds a sample where it is new. r is what the receiver has of its container or node, nil for nothing. A series
// that the reading does not have any more ends with it: there is no value, or there are other labels. A counter's value
// of another moment is not sent, and ends nothing.
func (w *walk) add(i int, name uint32, r *record) {
	s, is := &w.now.Samples[i], record{name: name}
	if r != nil {
		is = *r
	}
	if r == nil && s.At() <= w.Since {
		w.inherit(i, is)
		return
	}
	if s.At() <= max(w.Since, int64(is.at)) {
		if r != nil {
			w.keep(is)
		}
		return
	}
	for row, f := range w.Rows {
		text, value := w.labels(f, &w.now, i, &w.text), f.Value(&w.now, i)
		has := text != nil && !math.IsNaN(value)
		goesOn := has && is.has(row) && (s.Pod == r.pod || bytes.Equal(text, w.oldLabels(f, *r)))
		if is.has(row) && !goesOn {
			w.mark(f, *r, s.At()*1000)
		}
		if has = has && !(f.Kind == "counter" && w.now.Untimely != nil && w.now.Untimely[i]); has {
			w.out.Add(f.Target, f.Name, text, value, s.At()*1000)
		}
		is.set(row, has || goesOn)
	}
	is.pod, is.at = s.Pod, uint32(s.At())
	w.keep(is)
	if r != nil {
		w.doubt(r, is.at-1)
	}
}

// end ends the series of a record: now, but behind the last sample.
func (w *walk) end(r *record) {
	if r.ended() {
		if w.at < int64(r.at)*1000+w.MaxAge.Milliseconds() {
			w.keep(*r)
		}
		return
	}
	moment := max(w.at, int64(r.at)*1000+1)
	is := *r
	for row, f := range w.Rows {
		if r.has(row) {
			w.mark(f, *r, moment)
			is.set(row, false)
		}
	}
	is.at = uint32((moment + 999) / 1000) // the second in which it is over
	w.keep(is)
	w.doubt(r, is.at)
}

// doubt has a series go on only with readings of after a second, should the receiver not say whether it has taken what
// is sent of it now: it may have.
func (w *walk) doubt(r *record, at uint32) {
	if !w.failed {
		r.at = at
	}
}

func (w *walk) keep(r record) { w.pending = append(w.pending, r) }

// mark adds a stale marker.
func (w *walk) mark(f Row, r record, at int64) {
	w.out.Add(f.Target, f.Name, w.oldLabels(f, r), remotewrite.Stale, at)
}

// labels is the label text of a sample, in a buffer; nil where the family has none of it.
func (u *Usage) labels(f Row, of *label.Usage, i int, buffer *[]byte) []byte {
	text := f.Labels(of, (*buffer)[:0], i)
	if text == nil {
		return nil
	}
	*buffer = text
	return text[:len(text)-1] // without the brace
}

// oldLabels is the label text of a series that the receiver has.
func (u *Usage) oldLabels(f Row, r record) []byte {
	if u.then.Batch == nil {
		u.then.Batch = &sample.Batch{Samples: make([]sample.Sample, 1), Names: make([]string, 1)}
	}
	u.then.Samples[0], u.then.Names[0] = sample.New(r.pod, 0, int64(r.at)), u.names.all[r.index()]
	return u.labels(f, &u.then, 0, &u.last)
}
