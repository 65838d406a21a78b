package store

import (
	"maps"
	"slices"
	"strings"
)

// Leaf is a run of a store's objects in the order of namespace and name. It never changes: where something of it does,
// other leaves take its place. As long as a store has the same leaf, all is as it was between its first object and its
// last one, but for the resourceVersions.
type Leaf[V comparable] struct{ Entries []Entry[V] }

// Leaves returns all objects in order; nothing where the store is not a sorted one.
func (s *Store[V]) Leaves() []*Leaf[V] {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.sorted.all)
}

// leaves are objects in order: the leaves of a B+ tree, in one slice in place of the tree above them, as 150,000
// objects have but some thousand leaves. The zero value keeps nothing.
type leaves[V comparable] struct {
	length int        // of a leaf: half as many objects to half as many again, or fewer in an only leaf; 0 is no leaves
	all    []*Leaf[V] // none is empty
}

// is tells whether k is that key, for set.
func (k Key) is(other Key) bool { return k == other }

// Compare orders keys by namespace and name.
func (k Key) Compare(other Key) int {
	if c := strings.Compare(k.Namespace, other.Namespace); c != 0 {
		return c
	}
	return strings.Compare(k.Name, other.Name)
}

// Sort brings entries in the order of their keys.
func Sort[V comparable](all []Entry[V]) {
	slices.SortFunc(all, func(a, b Entry[V]) int { return a.Compare(b.Key) })
}

// replace takes over what there is of a namespace, or of the cluster for "". It uses the memory of the list, which has
// at least as many entries.
func (l *leaves[V]) replace(scope string, objects map[string]map[string]*Object[V], list []Entry[V]) {
	if l.length == 0 {
		return
	}
	list = list[:0]
	for _, namespace := range slices.Sorted(maps.Keys(objects)) {
		if begin := len(list); scope == "" || scope == namespace {
			for name, o := range objects[namespace] {
				list = append(list, Entry[V]{Key{namespace, name}, o})
			}
			Sort(list[begin:])
		}
	}
	if scope == "" {
		l.all = l.split(list, l.all)
		return
	}
	l.set(Key{scope, ""}, func(k Key) bool { return scope == k.Namespace }, list)
}

// set makes the list, which is sorted, all there is of the keys that are in a range, which begins with first. Leaves in
// which nothing changes by that stay.
func (l *leaves[V]) set(first Key, in func(Key) bool, list []Entry[V]) {
	if l.length == 0 {
		return
	}
	// The range is in the leaves from..to, or would be.
	to, _ := slices.BinarySearchFunc(l.all, first, func(leaf *Leaf[V], first Key) int {
		return leaf.Entries[0].Compare(first)
	})
	from := max(to-1, 0)
	for to < len(l.all) && in(l.all[to].Entries[0].Key) {
		to++
	}
	n := len(list)
	for _, leaf := range l.all[from:to] {
		n += len(leaf.Entries)
	}
	entries := make([]Entry[V], 0, n)
	for _, leaf := range l.all[from:to] {
		entries = append(entries, leaf.Entries...)
	}
	begin := search(entries, first)
	end := begin
	for end < len(entries) && in(entries[end].Key) {
		end++
	}
	entries = slices.Replace(entries, begin, end, list...)
	switch short := l.short(len(entries)); { // then a neighbour has to take them in
	case short && from > 0:
		from--
		entries = slices.Concat(l.all[from].Entries, entries)
	case short && to < len(l.all):
		entries = append(entries, l.all[to].Entries...)
		to++
	}
	l.all = slices.Replace(l.all, from, to, l.split(entries, l.all[from:to])...)
}

// short tells whether so many objects are too few for a leaf.
func (l *leaves[V]) short(n int) bool { return n > 0 && n < l.length/2 }

// split makes leaves of a list. It takes those of the old ones that are a part of it, but for those which have to make
// up for others that would be too short.
func (l *leaves[V]) split(list []Entry[V], old []*Leaf[V]) (leaves []*Leaf[V]) {
	for _, leaf := range old {
		begin, n := search(list, leaf.Entries[0].Key), len(leaf.Entries)
		if !l.short(begin) && leaf.begins(list[begin:]) && (!l.short(n) || n == len(list)) {
			leaves = append(l.cut(leaves, list[:begin]), leaf)
			list = list[begin+n:]
		}
	}
	if last := len(leaves) - 1; last >= 0 && l.short(len(list)) {
		list = slices.Concat(leaves[last].Entries, list)
		leaves = leaves[:last]
	}
	return l.cut(leaves, list)
}

// search returns where in a sorted list a key is, or would be.
func search[V comparable](list []Entry[V], key Key) int {
	i, _ := slices.BinarySearchFunc(list, key, func(e Entry[V], key Key) int { return e.Compare(key) })
	return i
}

// begins tells whether the list begins with just what the leaf has.
func (l *Leaf[V]) begins(list []Entry[V]) bool {
	same := func(a, b Entry[V]) bool { return a.Object == b.Object }
	return len(l.Entries) <= len(list) && slices.EqualFunc(l.Entries, list[:len(l.Entries)], same)
}

// cut appends new leaves with copies of the entries, as evenly as possible.
func (l *leaves[V]) cut(leaves []*Leaf[V], entries []Entry[V]) []*Leaf[V] {
	for n := max(1, (len(entries)+l.length/2)/l.length); len(entries) > 0; n-- {
		leaf := &Leaf[V]{slices.Clone(entries[:len(entries)/n])}
		for i := 1; i < len(leaf.Entries); i++ { // what was put may have a copy of its own
			if last := leaf.Entries[i-1].Namespace; leaf.Entries[i].Namespace == last {
				leaf.Entries[i].Namespace = last
			}
		}
		leaves, entries = append(leaves, leaf), entries[len(leaf.Entries):]
	}
	return leaves
}
