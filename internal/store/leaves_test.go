package store

import (
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"strings"
	"sync"
	"testing"
)

// layout is the objects' names, those of a leaf together: "a/p a/q | b/r". What is of another leaf than in before is in
// brackets.
func layout(before []*Leaf[string], s *Store[string]) string {
	var leaves []string
	for _, leaf := range s.Leaves() {
		var names []string
		for _, e := range leaf.Entries {
			names = append(names, e.Namespace+"/"+e.Name)
		}
		text := strings.Join(names, " ")
		if !slices.Contains(before, leaf) {
			text = "[" + text + "]"
		}
		leaves = append(leaves, text)
	}
	return strings.Join(leaves, " | ")
}

// pods are pods of one version and value.
func pods(version uint64, value string, names ...string) (list []Entry[string]) {
	for _, name := range names {
		namespace, name, _ := strings.Cut(name, "/")
		list = append(list, pod(namespace, name, version, value))
	}
	return list
}

func TestLeaves(t *testing.T) {
	names := strings.Fields
	put := func(value, of string) event {
		return func(s *Store[string]) {
			for _, e := range pods(2, value, names(of)...) {
				s.Put(e)
			}
		}
	}
	remove := func(of string) event {
		return func(s *Store[string]) {
			for _, e := range pods(2, "", names(of)...) {
				s.Delete(e)
			}
		}
	}
	list := func(scope, value, of string) event { return replace(scope, pods(2, value, names(of)...)...) }
	const nine, twelve = "a/a a/b a/c a/d b/a b/b b/c b/d b/e", "a/a a/b a/c a/d b/a b/b b/c b/d c/a c/b c/c c/d"
	for name, c := range map[string]struct {
		first string
		then  event
		want  string
	}{
		"an empty list": {"", list("", "1", ""), ""},
		"up to half as many again is one leaf": {
			"a/a a/b a/c a/d", put("1", "b/a"), "[a/a a/b a/c a/d b/a]"},
		"one more is two": {"a/a a/b a/c a/d b/a", put("1", "b/b"), "[a/a a/b a/c] | [a/d b/a b/b]"},
		"a list is cut evenly": {
			"", list("", "1", twelve), "[a/a a/b a/c a/d] | [b/a b/b b/c b/d] | [c/a c/b c/c c/d]"},
		"a value changes": {
			twelve, put("2", "b/c"), "a/a a/b a/c a/d | [b/a b/b b/c b/d] | c/a c/b c/c c/d"},
		"a value stays": {
			twelve, put("1", "b/c"), "a/a a/b a/c a/d | b/a b/b b/c b/d | c/a c/b c/c c/d"},
		"an object comes before all": {nine, put("1", "_/a"), "[_/a a/a a/b a/c a/d] | b/a b/b b/c b/d b/e"},
		"an object comes behind all": {
			twelve, put("1", "d/a"), "a/a a/b a/c a/d | b/a b/b b/c b/d | [c/a c/b c/c c/d d/a]"},
		"an object goes": {nine, remove("a/c"), "[a/a a/b a/d] | b/a b/b b/c b/d b/e"},
		"an object goes that never was": {
			nine, remove("a/x"), "a/a a/b a/c a/d | b/a b/b b/c b/d b/e"},
		"a leaf becomes too short for itself": {
			"a/a a/b a/c a/d b/a b/b b/c b/d", remove("a/a a/c a/d"), "[a/b b/a b/b b/c b/d]"},
		"the last leaf does": {
			twelve, remove("c/a c/c c/d"), "a/a a/b a/c a/d | [b/a b/b b/c b/d c/b]"},
		"a leaf goes as a whole": {
			twelve, remove("b/a b/b b/c b/d"), "[a/a a/b a/c a/d] | c/a c/b c/c c/d"},
		"a short leaf joins a long one": {nine, remove("a/a a/b a/c"), "[a/d b/a b/b] | [b/c b/d b/e]"},
		"all objects go":                {nine, remove(nine), ""},
		"a list of what is there": {
			twelve, list("", "1", twelve), "a/a a/b a/c a/d | b/a b/b b/c b/d | c/a c/b c/c c/d"},
		"a list that is not in order": {
			nine, list("", "1", "b/e b/d b/c b/b b/a a/d a/c a/b a/a"), "a/a a/b a/c a/d | b/a b/b b/c b/d b/e"},
		"a list that has one twice": {
			nine, list("a", "1", "a/a a/b a/a a/c a/d"), "a/a a/b a/c a/d | b/a b/b b/c b/d b/e"},
		"a list with a change": {
			nine, list("", "1", nine+" b/f"), "a/a a/b a/c a/d | [b/a b/b b/c] | [b/d b/e b/f]"},
		"a list of other values": {nine, list("", "2", nine), "[a/a a/b a/c a/d] | [b/a b/b b/c b/d b/e]"},
		"a list of a namespace": {
			twelve, list("b", "2", "b/a b/b b/c b/d"), "a/a a/b a/c a/d | [b/a b/b b/c b/d] | c/a c/b c/c c/d"},
		"a list of an empty namespace": {twelve, list("b", "2", ""), "a/a a/b a/c a/d | c/a c/b c/c c/d"},
		"a list of a new namespace": {
			nine, list("aa", "1", "aa/a aa/b"), "a/a a/b a/c a/d | [aa/a aa/b] | b/a b/b b/c b/d b/e"},
		"a list of a namespace that shares a leaf": {
			nine, list("a", "1", "a/a a/d"), "[a/a a/d] | b/a b/b b/c b/d b/e"},
		"a list behind a leaf that is too short beside others": {
			"a/a", list("b", "1", "b/a b/b b/c b/d b/e b/f"), "[a/a b/a b/b] | [b/c b/d b/e b/f]"},
		"a list of other namespaces is ignored": {
			nine, list("a", "1", "a/a a/b a/c a/d b/x"), "a/a a/b a/c a/d | b/a b/b b/c b/d b/e"},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewSorted[string](4)
			s.Replace("", pods(1, "1", names(c.first)...))
			before := s.Leaves()
			c.then(s)
			if got := layout(before, s); got != c.want {
				t.Errorf("leaves %s, want %s", got, c.want)
			}
		})
	}
}

func TestAStoreThatIsNotSortedHasNoLeaves(t *testing.T) {
	s := New[string]()
	s.Put(pod("a", "p", 1, "x"))
	s.Replace("b", pods(1, "x", "b/p"))
	if leaves := s.Leaves(); leaves != nil {
		t.Errorf("%d leaves", len(leaves))
	}
}

// model is a store and what it has to have.
type model struct {
	*Store[string]
	objects map[Key]string
	leafLen int
	before  []*Leaf[string]
}

// flat is the entries of leaves.
func flat(leaves []*Leaf[string]) (all []Entry[string]) {
	for _, leaf := range leaves {
		all = append(all, leaf.Entries...)
	}
	return all
}

// check compares the leaves with the model, and with those of before the last step.
func (m *model) check() error {
	leaves := m.Leaves()
	all := flat(leaves)
	for i, e := range all {
		if i > 0 && all[i-1].Compare(e.Key) >= 0 {
			return fmt.Errorf("%v before %v", all[i-1].Key, e.Key)
		}
		if held, _ := m.Find([]byte(e.Namespace), []byte(e.Name)); held != e.Object {
			return fmt.Errorf("%v is not the object that is found", e.Key)
		}
		if value, there := m.objects[e.Key]; !there || e.Value != value {
			return fmt.Errorf("%v is %q, want %q (%t)", e.Key, e.Value, value, there)
		}
	}
	if len(all) != len(m.objects) {
		return fmt.Errorf("%d objects, want %d", len(all), len(m.objects))
	}
	has := map[*Leaf[string]]bool{}
	for _, leaf := range leaves {
		n := len(leaf.Entries)
		if n == 0 || 2*n > 3*m.leafLen || len(leaves) > 1 && n < m.leafLen/2 {
			return fmt.Errorf("a leaf of %d in %d leaves", n, len(leaves))
		}
		has[leaf] = true
	}
	// Where a leaf and its neighbours are as they were, it is the same one.
	at := map[*Object[string]]int{}
	for i, e := range all {
		at[e.Object] = i
	}
	for i, leaf := range m.before {
		around := flat(m.before[max(i-1, 0):min(i+2, len(m.before))])
		begin, there := at[around[0].Object]
		end := begin + len(around)
		if there && !has[leaf] && end <= len(all) && slices.Equal(around, all[begin:end]) &&
			(i > 0 || begin == 0) && (i+1 < len(m.before) || end == len(all)) {
			return fmt.Errorf("leaf %d of %v is another one, and nothing around it has changed", i, leaf.Entries[0].Key)
		}
	}
	m.before = leaves
	return nil
}

// TestLeavesAgainstAModel does at random what a watch does.
func TestLeavesAgainstAModel(t *testing.T) {
	for _, leafLen := range []int{1, 2, 3, 4, 7, 16} {
		t.Run(fmt.Sprint(leafLen), func(t *testing.T) {
			r := rand.New(rand.NewSource(int64(leafLen)))
			m := &model{Store: NewSorted[string](leafLen), objects: map[Key]string{}, leafLen: leafLen}
			namespaces := strings.Split(",a,a-b,aa,b", ",")
			entry := func(namespace string, version int) Entry[string] {
				return pod(namespace, fmt.Sprint("p", r.Intn(50)), uint64(version), fmt.Sprint("v", r.Intn(3)))
			}
			for version := 1; version <= 3000; version++ {
				namespace, what := namespaces[r.Intn(len(namespaces))], ""
				e := entry(namespace, version)
				// More comes than goes for a while, then more goes.
				switch chance := r.Intn(100); {
				case chance < 45+20*(version>>8&1):
					m.Put(e)
					m.objects[e.Key] = e.Value
					what = "put"
				case chance < 95:
					m.Delete(e)
					delete(m.objects, e.Key)
					what = "delete"
				default:
					if r.Intn(2) == 0 {
						namespace = ""
					}
					what = "list of " + namespace
					goes := r.Intn(20) // of 20
					var list []Entry[string]
					for key, value := range m.objects {
						if r.Intn(20) >= goes {
							list = append(list, pod(key.Namespace, key.Name, uint64(version), value))
						}
					}
					for range r.Intn(20) {
						list = append(list, entry(namespaces[r.Intn(len(namespaces))], version))
					}
					m.Replace(namespace, list)
					in := func(key Key) bool { return namespace == "" || key.Namespace == namespace }
					maps.DeleteFunc(m.objects, func(key Key, _ string) bool { return in(key) })
					for _, e := range list {
						if in(e.Key) {
							m.objects[e.Key] = e.Value
						}
					}
				}
				if err := m.check(); err != nil {
					t.Fatalf("step %d, %s %v: %v", version, what, e.Key, err)
				}
			}
		})
	}
}

// TestLeavesAreReadWhileTheStoreChanges is for the race detector, and for what readers see meanwhile.
func TestLeavesAreReadWhileTheStoreChanges(t *testing.T) {
	s := NewSorted[string](4)
	var writers, readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				last := Key{}
				for _, leaf := range s.Leaves() {
					for _, e := range leaf.Entries {
						if e.Compare(last) <= 0 || e.Value != e.Name || e.Created != 1 || e.Counters != nil {
							t.Errorf("%v %+v after %v", e.Key, e.Object.Value, last)
						}
						last = e.Key
					}
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for g := range 2 {
		writers.Go(func() {
			for i := range 2000 {
				namespace, name := fmt.Sprint("n", g), fmt.Sprint("p", i%97)
				s.Put(born(1, pod(namespace, name, uint64(i), name)))
				if i%3 == 0 {
					s.Delete(born(1, pod(namespace, fmt.Sprint("p", i%31), uint64(i), "")))
				}
				if i%500 == 0 {
					s.Replace(namespace, []Entry[string]{born(1, pod(namespace, name, uint64(i), name))})
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
}

// BenchmarkLeaves measures what keeping 150,000 pods in order costs: bytes of an object in all, and the time of a
// change, of a first list and of a list in which nothing is new.
func BenchmarkLeaves(b *testing.B) {
	const n = 150_000
	namespaces := strings.Split(strings.Repeat("team,", 100), ",")
	for i := range namespaces {
		namespaces[i] += fmt.Sprint("-", i)
	}
	list := func(version int) (list []Entry[string]) {
		for i := range n {
			name := fmt.Sprintf("checkout-%x-%05x", i/50%1000, i)
			list = append(list, pod(namespaces[i%100], name, uint64(version), name))
		}
		return list
	}
	for _, leafLen := range []int{0, 32, 64, 128} {
		s := NewSorted[string](leafLen)
		first := list(1)
		bytes := retained(n, func() { s.Replace("", first) })
		b.Run(fmt.Sprintf("leaf=%d/put", leafLen), func(b *testing.B) {
			r := rand.New(rand.NewSource(1))
			for i := 0; b.Loop(); i++ {
				e := first[r.Intn(n)]
				s.Put(pod(e.Namespace, e.Name, uint64(i+2), fmt.Sprint(i)))
			}
			b.ReportMetric(float64(bytes), "bytes/object")
		})
		b.Run(fmt.Sprintf("leaf=%d/first", leafLen), func(b *testing.B) {
			for b.Loop() {
				NewSorted[string](leafLen).Replace("", first)
			}
		})
		b.Run(fmt.Sprintf("leaf=%d/again", leafLen), func(b *testing.B) {
			s.Replace("", first)
			for b.Loop() {
				b.StopTimer()
				again := list(1)
				b.StartTimer()
				s.Replace("", again)
			}
		})
	}
}
