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
	old        []record    // of one pod or node
	pending    []record    // what the receiver has once it has taken what was added to the push
	text, last []byte
}

// Row is a family, and the target that its samples go to.
type Row struct {
	*family.Family
	Target *remotewrite.Target
}

// Push adds what the receiver does not have of the batch that read gives, and ends the series of what is not in it.
// now is the moment of the push. It fails as the push does.
func (u *Usage) Push(ctx context.Context, out *push.Out, read func(func(*sample.Batch)), now time.Time) (failed error) {
	w := walk{Usage: u, out: out, at: now.UnixMilli(), rest: u.sent.begin()}
	left, taken := w.rest, records{} // as of the last batch that was taken
	for done := false; !done; {
		read(func(b *sample.Batch) { done = w.fill(b) })
		if failed = out.Flush(ctx); failed == nil {
			taken.append(u.pending)
			left = w.rest
			u.sent.drop(left)
		}
		u.pending = u.pending[:0]
	}
	u.now.Batch = nil
	u.sent = append(taken, u.sent.from(left)...)
	u.names.forget(u.sent)
	return failed
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
}

// fill adds to the push until that is full, and tells whether all was compared.
func (w *walk) fill(b *sample.Batch) (done bool) {
	w.now.Batch = b
	if !w.begun || w.version != b.Version {
		w.find()
	}
	for !w.out.Full() {
		old, behind := w.oldGroup()
		begin, end := w.group()
		if begin == end && len(old) == 0 {
			return true
		}
		order := 1 // of the sample's pod against that of the records
		var key store.Key
		if begin < end {
			if key, order = w.key(begin), -1; len(old) > 0 {
				order = key.Compare(w.keyOf(old[0]))
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
		if order > 0 {
			key = w.keyOf(old[0])
		} else if w.next++; w.order == nil {
			w.next = end
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

// oldGroup returns the next records that are of one pod or node, and the position behind them.
func (w *walk) oldGroup() (group []record, behind position) {
	w.old = w.old[:0]
	var key store.Key
	for at := w.rest; ; at = behind {
		r, next, ok := w.sent.at(at)
		if !ok || len(w.old) > 0 && (r.pod != w.old[0].pod || isNode(r.pod)) && w.keyOf(r) != key {
			return w.old, at
		}
		if len(w.old) == 0 {
			key = w.keyOf(r)
		}
		w.old, behind = append(w.old, r), next
	}
}

// compare adds what is new of a pod's or node's samples, compared with its records.
func (w *walk) compare(begin, end int, old []record) {
	for i := begin; i < end; i++ {
		name := w.names.find(w.now.Names[w.now.Samples[i].Name])
		r, known := record{name: name}, false
		for j := range old {
			if old[j].pod != nil && old[j].index() == name {
				r, known = old[j], true
				old[j].pod = nil // has a successor
				break
			}
		}
		w.add(i, r, known)
	}
	for _, r := range old {
		if r.pod != nil {
			w.end(r)
		}
	}
}

// inherit takes a reading from before the start for one that was sent: a process before this one may have done so, and
// cannot end its series any more.
func (w *walk) inherit(i int, r record) {
	s := &w.now.Samples[i]
	for row, f := range w.Rows {
		r.set(row, w.labels(f, &w.now, i) != nil && !math.IsNaN(f.Value(&w.now, i)))
	}
	if r.pod, r.at = s.Pod, uint32(s.At()); !r.ended() {
		w.keep(r)
	}
}

// add adds what is new of a sample. r is what the receiver has of it, if that is known.
func (w *walk) add(i int, r record, known bool) {
	s := &w.now.Samples[i]
	at, moved := s.At(), known && s.Pod != r.pod
	if !known && at <= w.Since {
		w.inherit(i, r)
		return
	}
	isNew := at > w.Since && (!known || at > int64(r.at))
	if !isNew && !moved {
		if known {
			w.keep(r)
		}
		return
	}
	is := r
	changed := false
	for row, f := range w.Rows {
		text, had := w.labels(f, &w.now, i), r.has(row)
		if had && moved && !bytes.Equal(text, w.oldLabels(f, r)) {
			w.mark(f, r, w.moment(r))
			is.set(row, false)
			changed = true
			continue
		}
		if !isNew {
			continue
		}
		if value := f.Value(&w.now, i); text != nil && !math.IsNaN(value) {
			w.out.Add(f.Target, f.Name, text, value, at*1000)
			is.set(row, true)
		} else if had {
			w.mark(f, r, at*1000) // the reading says that there is no value
			is.set(row, false)
		}
	}
	if is.pod = s.Pod; isNew {
		is.at = uint32(at)
	}
	if changed { // the labels may have been these before: what has them now goes on behind that
		is.at = seconds(w.moment(r))
	}
	if known || !is.ended() {
		w.keep(is)
	}
}

// end ends the series of a record.
func (w *walk) end(r record) {
	moment := w.moment(r)
	if r.ended() {
		if w.at < int64(r.at)*1000+w.MaxAge.Milliseconds() {
			w.keep(r)
		}
		return
	}
	for row, f := range w.Rows {
		if r.has(row) {
			w.mark(f, r, moment)
			r.set(row, false)
		}
	}
	r.at = seconds(moment)
	w.keep(r)
}

// seconds is the second in which a moment in Unix milliseconds is over.
func seconds(moment int64) uint32 { return uint32((moment + 999) / 1000) }

func (w *walk) keep(r record) { w.pending = append(w.pending, r) }

// moment is when a series ends of which the push finds that it has: now, but behind its last sample.
func (w *walk) moment(r record) int64 { return max(w.at, int64(r.at)*1000+1) }

// mark adds a stale marker.
func (w *walk) mark(f Row, r record, at int64) {
	w.out.Add(f.Target, f.Name, w.oldLabels(f, r), remotewrite.Stale, at)
}

// labels is the label text of a sample; nil where the family has none of it.
func (u *Usage) labels(f Row, of *label.Usage, i int) []byte {
	text := f.Labels(of, u.text[:0], i)
	if text == nil {
		return nil
	}
	u.text = text
	return text[:len(text)-1] // without the brace
}

// oldLabels is the label text of a series that the receiver has.
func (u *Usage) oldLabels(f Row, r record) []byte {
	if u.then.Batch == nil {
		u.then.Batch = &sample.Batch{Samples: make([]sample.Sample, 1), Names: make([]string, 1)}
	}
	u.then.Samples[0], u.then.Names[0] = sample.New(r.pod, 0, int64(r.at)), u.names.all[r.index()]
	text := f.Labels(&u.then, u.last[:0], 0)
	if text == nil {
		return nil
	}
	u.last = text
	return text[:len(text)-1]
}
