package series

import (
	"context"
	"slices"

	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/remotewrite"
	"metrics-server-prom/internal/store"
)

// Objects is the series that a page has of the state of a resource's objects. All of them are sent with each push, as
// of its moment.
type Objects[V comparable] struct {
	// Each calls f for each sample that the page has of an object; family is its number.
	Each   func(e store.Entry[V], f func(family uint8, labels []byte, value float64))
	Names  []string // of the families
	Target *remotewrite.Target

	sent []*store.Leaf[V]
	gone map[string]struct{} // scratch
	text []byte
}

// Push adds what is known of the objects, given in order of namespace and name, at a moment in Unix milliseconds, and
// ends the series that were sent before and have no sample any more. It fails as the push does.
func (o *Objects[V]) Push(ctx context.Context, out *push.Out, leaves []*store.Leaf[V], at int64) (failed error) {
	old, is := cursor[V]{leaves: o.sent}, cursor[V]{leaves: leaves}
	oldTaken, taken := old, is // as of the last batch that was taken
	flush := func() {
		if failed = out.Flush(ctx); failed == nil {
			oldTaken, taken = old, is
		}
	}
	for {
		if out.Full() {
			flush()
		}
		before, had := old.entry()
		entry, has := is.entry()
		if !had && !has {
			break
		}
		order := 0
		switch {
		case !had:
			order = -1
		case !has:
			order = 1
		case entry.Object != before.Object:
			order = entry.Key.Compare(before.Key)
		}
		if order > 0 || order == 0 && entry.Value != before.Value {
			o.remember(before)
		}
		if order <= 0 {
			o.Each(entry, func(family uint8, labels []byte, value float64) {
				out.Add(o.Target, o.Names[family], labels, value, at)
				if len(o.gone) > 0 {
					delete(o.gone, string(o.series(family, labels)))
				}
			})
			is.next()
		}
		if order >= 0 {
			old.next()
		}
		for series := range o.gone {
			out.Add(o.Target, o.Names[series[0]], []byte(series[1:]), remotewrite.Stale, at)
		}
		clear(o.gone)
	}
	flush()
	o.sent = append(taken.until(), oldTaken.from()...)
	return failed
}

// remember puts the series of an object down as gone.
func (o *Objects[V]) remember(e store.Entry[V]) {
	if o.gone == nil {
		o.gone = map[string]struct{}{}
	}
	o.Each(e, func(family uint8, labels []byte, _ float64) { o.gone[string(o.series(family, labels))] = struct{}{} })
}

// series is a family's number and a label text.
func (o *Objects[V]) series(family uint8, labels []byte) []byte {
	o.text = append(append(o.text[:0], family), labels...)
	return o.text
}

// cursor goes through the entries of leaves.
type cursor[V comparable] struct {
	leaves      []*store.Leaf[V]
	leaf, index int
}

func (c *cursor[V]) entry() (store.Entry[V], bool) {
	for ; c.leaf < len(c.leaves); c.leaf, c.index = c.leaf+1, 0 {
		if entries := c.leaves[c.leaf].Entries; c.index < len(entries) {
			return entries[c.index], true
		}
	}
	return store.Entry[V]{}, false
}

func (c *cursor[V]) next() { c.index++ }

// until returns the leaves as far as the cursor.
func (c *cursor[V]) until() []*store.Leaf[V] {
	leaves := slices.Clone(c.leaves[:c.leaf])
	if c.index > 0 {
		leaves = append(leaves, &store.Leaf[V]{Entries: c.leaves[c.leaf].Entries[:c.index]})
	}
	return leaves
}

// from returns the leaves from the cursor on.
func (c *cursor[V]) from() []*store.Leaf[V] {
	if c.index == 0 {
		return c.leaves[c.leaf:]
	}
	return append([]*store.Leaf[V]{{Entries: c.leaves[c.leaf].Entries[c.index:]}}, c.leaves[c.leaf+1:]...)
}
