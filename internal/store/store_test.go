package store

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"metrics-server-prom/internal/counter"
)

// pod is a pod whose value tells what it is.
func pod(namespace, name string, version uint64, value string) Entry[string] {
	return Entry[string]{Key{namespace, name}, &Object[string]{Value: value, state: state{0, version}}}
}

// born is the same pod, created at that second.
func born(created int64, e Entry[string]) Entry[string] {
	e.Created = created
	return e
}

// find is the pod's value, "deleted" or "".
func find(c *Store[string], namespace, name string) string {
	switch p, deleted := c.Find([]byte(namespace), []byte(name)); {
	case p != nil && deleted:
		return "both there and deleted"
	case p != nil:
		return p.Value
	case deleted:
		return "deleted"
	}
	return ""
}

type event func(c *Store[string])

func told(version uint64, value string) event {
	return func(c *Store[string]) { c.Put(pod("a", "p", version, value)) }
}

func del(version uint64) event {
	return func(c *Store[string]) { c.Delete(pod("a", "p", version, "x")) }
}

func replace(scope string, list ...Entry[string]) event {
	return func(c *Store[string]) { c.Replace(scope, list) }
}

func TestWhatComesLateUndoesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		events []event
		want   string
	}{
		"a pod that was never seen":        {nil, ""},
		"a new pod":                        {[]event{told(1, "n1")}, "n1"},
		"a later state":                    {[]event{told(1, "n1"), told(2, "n2")}, "n2"},
		"an earlier state that comes late": {[]event{told(2, "n2"), told(1, "n1")}, "n2"},
		"the same version again": {
			[]event{told(2, "n2"), told(2, "n2 again")}, "n2 again"},
		"versions are numbers, not text":                {[]event{told(9, "n9"), told(10, "n10")}, "n10"},
		"a deletion":                                    {[]event{told(1, "n1"), del(2)}, "deleted"},
		"a deletion of a pod that was never seen":       {[]event{del(2)}, "deleted"},
		"a deletion of its predecessor that comes late": {[]event{told(5, "new"), del(4)}, "new"},
		"a state from before its deletion that comes late": {
			[]event{told(1, "n1"), del(3), told(2, "n2")}, "deleted"},
		"a state from before the deletion of one never seen": {[]event{del(3), told(2, "n2")}, "deleted"},
		"a pod of the same name created after the deletion": {
			[]event{told(1, "n1"), del(2), told(3, "new")}, "new"},
		"its predecessor's whole life after that": {
			[]event{del(3), told(4, "new"), told(1, "old"), del(2)}, "new"},
		"two deletions in the wrong order and then an old state": {
			[]event{del(9), del(3), told(5, "old")}, "deleted"},
		"a version that is no number is taken as the latest": {
			[]event{told(7, "n7"), told(0, "unversioned")}, "unversioned"},
		"anything after a version that is no number is later": {
			[]event{told(0, "unversioned"), told(1, "n1")}, "n1"},
		"a deletion without a version": {[]event{told(7, "n7"), del(0)}, "deleted"},
		"a list that has it": {
			[]event{replace("", pod("a", "p", 3, "listed"))}, "listed"},
		"a list that does not have it": {[]event{told(1, "n1"), replace("")}, "deleted"},
		"a list that has it again": {
			[]event{told(1, "n1"), del(2), replace("", pod("a", "p", 3, "listed"))}, "listed"},
		"a state from before the list that does not have it": {
			[]event{told(5, "n5"), replace(""), told(4, "n4")}, "deleted"},
		"a pod of the same name after that list": {
			[]event{told(5, "n5"), replace(""), told(6, "n6")}, "n6"},
		"a state from before the list that has it": {
			[]event{replace("", pod("a", "p", 3, "listed")), told(2, "n2")}, "listed"},
		"a list that does not have what was deleted before it": {
			[]event{told(1, "n1"), del(5), replace(""), told(4, "n4")}, "deleted"},
		"a list of its namespace that does not have it": {[]event{told(1, "n1"), replace("a")}, "deleted"},
		"a list of another namespace": {
			[]event{told(1, "n1"), replace("b", pod("b", "p", 9, "other"))}, "n1"},
		"a list of another namespace after its deletion": {
			[]event{del(2), replace("b", pod("b", "p", 9, "other"))}, "deleted"},
		"a list of a namespace whose name begins like its own": {[]event{told(1, "n1"), replace("aa")}, "n1"},
		"a list of another namespace that has it": {
			[]event{told(1, "n1"), replace("b", pod("a", "p", 9, "other"))}, "n1"},
		"a list of another namespace that has it alone": {[]event{replace("b", pod("a", "p", 9, "x"))}, ""},
		"a state from before a change that was none":    {[]event{told(1, "n1"), told(5, "n1"), told(3, "n3")}, "n1"},
		"events of other pods": {
			[]event{told(1, "n1"), func(c *Store[string]) {
				c.Delete(pod("a", "q", 2, ""))
				c.Delete(pod("b", "p", 2, ""))
			}}, "n1"},
	} {
		t.Run(name, func(t *testing.T) {
			store := New[string]()
			for _, e := range c.events {
				e(store)
			}
			if got := find(store, "a", "p"); got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
			if _, buried := store.deleted[Key{"a", "p"}]; buried != (c.want == "deleted") {
				t.Errorf("found %q, kept as deleted: %t", c.want, buried)
			}
		})
	}
}

// The pod "restored" was created after the backup, and so at a lower version than its predecessor had.
func TestRestoredEtcd(t *testing.T) {
	old, restored := born(100, pod("a", "p", 5000, "old")), born(200, pod("a", "p", 70, "restored"))
	sibling := born(100, pod("a", "p", 5001, "sibling"))
	puts := func(e Entry[string]) event { return func(s *Store[string]) { s.Put(e) } }
	deletes := func(e Entry[string]) event { return func(s *Store[string]) { s.Delete(e) } }
	for name, c := range map[string]struct {
		events []event
		want   string
	}{
		"after its predecessor": {[]event{puts(old), puts(restored)}, "restored"},
		"after the deletion of its predecessor": {
			[]event{puts(old), deletes(old), puts(restored)}, "restored"},
		"after a list without its predecessor": {
			[]event{puts(old), replace(""), puts(restored)}, "restored"},
		"deleted itself": {
			[]event{puts(old), puts(restored), deletes(restored)}, "deleted"},
		"changed and changed back late": {
			[]event{puts(restored), puts(born(200, pod("a", "p", 71, "later"))), puts(restored)}, "later"},
		"deleted and then a late state": {
			[]event{puts(restored), deletes(born(200, pod("a", "p", 71, ""))), puts(restored)}, "deleted"},
		"a deleted pod that the backup had": {
			[]event{puts(old), deletes(old), replace("", born(100, pod("a", "p", 60, "again")))}, "again"},
		"a pod recreated within a second": {
			[]event{puts(old), deletes(old), puts(sibling)}, "sibling"},
		"its predecessor, of a clock that was ahead": {[]event{puts(restored), puts(old)}, "old"},
		"a predecessor of lower version and earlier": {
			[]event{puts(restored), puts(born(100, pod("a", "p", 60, "late")))}, "restored"},
		"the deletion of such a predecessor that comes late": {
			[]event{puts(restored), deletes(born(100, pod("a", "p", 60, "")))}, "restored"},
	} {
		t.Run(name, func(t *testing.T) {
			s := New[string]()
			for _, e := range c.events {
				e(s)
			}
			if got := find(s, "a", "p"); got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

func TestNewEntry(t *testing.T) {
	object := &metav1.ObjectMeta{Namespace: "a", Name: "p", ResourceVersion: "12", CreationTimestamp: metav1.Unix(34, 0)}
	got, want := NewEntry(object, "p", "v"), born(34, pod("a", "p", 12, "v"))
	if got.Key != want.Key || *got.Object != *want.Object {
		t.Errorf("%+v %+v, want %+v %+v", got.Key, *got.Object, want.Key, *want.Object)
	}
	object.ResourceVersion = "not a number"
	if got := NewEntry(object, "p", "v"); got.version != 0 {
		t.Errorf("version %d of what is not a number, want 0", got.version)
	}
}

// The allocator's sizes are 48, 64, 80.
func TestSizeOfAnObject(t *testing.T) {
	if size := unsafe.Sizeof(Object[[32]byte]{}); size > 64 { // a pod's label text: two handles and a string
		t.Errorf("an object of a label text takes %d bytes", size)
	}
	if size := unsafe.Sizeof(Object[[24]byte]{}); size > 48 { // a handle and a string
		t.Errorf("an object of what is shared and a string takes %d bytes", size)
	}
}

func TestNamespaceAndNameAreNotRunTogether(t *testing.T) {
	c := New[string]()
	c.Put(pod("a", "b-c", 1, "one"))
	c.Put(pod("a-b", "c", 1, "two"))
	for key, want := range map[Key]string{
		{"a", "b-c"}: "one", {"a-b", "c"}: "two", {"a-b-c", ""}: "", {"", "a"}: "", {"a", ""}: ""} {
		if got := find(c, key.Namespace, key.Name); got != want {
			t.Errorf("%v: found %q, want %q", key, got, want)
		}
	}
}

func TestLenCountsThePodsThatAreThere(t *testing.T) {
	c := New[string]()
	for i, step := range []struct {
		event event
		want  int
	}{
		{func(*Store[string]) {}, 0},
		{told(1, "x"), 1},
		{told(2, "y"), 1},
		{func(c *Store[string]) { c.Put(pod("b", "p", 1, "x")) }, 2},
		{del(3), 1},
		{replace("b", pod("b", "q", 4, ""), pod("b", "r", 4, "")), 2},
		{replace(""), 0},
	} {
		if step.event(c); c.Len() != step.want {
			t.Errorf("after step %d: %d pods, want %d", i, c.Len(), step.want)
		}
	}
}

func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New[string]()
		c.Delete(pod("a", "first", 1, ""))
		time.Sleep(time.Minute)
		between := time.Now()
		time.Sleep(time.Minute)
		c.Put(pod("a", "second", 1, ""))
		c.Replace("", nil)
		c.Put(pod("a", "alive", 1, "alive"))
		c.Forget(between)
		for name, want := range map[string]string{"first": "", "second": "deleted", "alive": "alive"} {
			if got := find(c, "a", name); got != want {
				t.Errorf("%s: found %q, want %q", name, got, want)
			}
		}
		if c.Forget(time.Now().Add(1)); len(c.deleted) != 0 || find(c, "a", "alive") != "alive" {
			t.Errorf("%d deleted pods are kept for ever", len(c.deleted))
		}
	})
}

func TestNothingIsKeptOfChurn(t *testing.T) {
	c := New[string]()
	for i := range uint64(10_000) {
		namespace, name := fmt.Sprint("n", i%100), fmt.Sprint("p", i)
		c.Put(pod(namespace, name, 2*i, "v"))
		c.Delete(pod(namespace, name, 2*i+1, "v"))
	}
	c.Forget(time.Now().Add(time.Second))
	if len(c.objects) != 0 || len(c.deleted) != 0 {
		t.Errorf("%d namespaces and %d deleted pods are kept", len(c.objects), len(c.deleted))
	}
}

func TestDeletionsWithoutEnd(t *testing.T) {
	s := New[string]()
	for i := range maxTombstones + 10 {
		s.Delete(pod("a", strconv.Itoa(i), 1, ""))
	}
	if len(s.deleted) != maxTombstones {
		t.Errorf("%d deleted pods are kept, want %d", len(s.deleted), maxTombstones)
	}
}

// retained is by how many bytes for each of n objects the heap has grown while f ran.
func retained(n int, f func()) int {
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what the first has made reachable to finalizers
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	f()
	return (heap() - before) / n
}

// The names are cut out of the values' texts, as those of pods are.
func TestMemoryOfChanges(t *testing.T) {
	const n, size = 20_000, 100
	text := func(i, version int) Entry[string] {
		value := fmt.Sprintf("p%05d,%0*d", i, size, version)
		name, _, _ := strings.Cut(value, ",")
		return pod(strings.Clone("a namespace"), name, uint64(version), value)
	}
	list := func(version int) (list []Entry[string]) {
		for i := range n {
			list = append(list, text(i, version))
		}
		return list
	}
	each := func(change func(s *Store[string], i int)) func(s *Store[string]) {
		return func(s *Store[string]) {
			for i := range n {
				change(s, i)
			}
		}
	}
	for name, c := range map[string]struct {
		change func(s *Store[string])
		most   int
	}{
		"a change that is none to the value": {each(func(s *Store[string], i int) {
			for version := range uint64(3) {
				e := text(i, 1)
				e.version = 2 + version
				s.Put(e)
			}
		}), 2},
		"a change of the value": {each(func(s *Store[string], i int) {
			for version := range 3 {
				s.Put(text(i, 2+version))
			}
		}), 2},
		"a pod that is created anew with the same value": {
			each(func(s *Store[string], i int) { s.Put(born(9, text(i, 1))) }), 2},
		"a pod that is deleted": {each(func(s *Store[string], i int) {
			s.Delete(text(i, 2))
			s.Forget(time.Now().Add(time.Hour))
		}), -size},
		"a pod whose deletion is kept":      {each(func(s *Store[string], i int) { s.Delete(text(i, 2)) }), 0},
		"a list that says nothing new":      {func(s *Store[string]) { s.Replace("", list(1)) }, 2},
		"a list in which every pod changed": {func(s *Store[string]) { s.Replace("", list(2)) }, 2},
	} {
		for _, leafLen := range []int{0, 64} {
			t.Run(fmt.Sprintf("%s, leaves of %d", name, leafLen), func(t *testing.T) {
				s := NewSorted[string](leafLen)
				s.Replace("", list(1))
				if got := retained(n, func() { c.change(s) }); got > c.most {
					t.Errorf("it costs %d bytes a pod for good, want at most %d", got, c.most)
				}
				runtime.KeepAlive(s)
			})
		}
	}
}

func TestNamespaceKeepsNoObjectsTextAlive(t *testing.T) {
	for how, take := range map[string]func(*Store[string], Entry[string]){
		"put":    (*Store[string]).Put,
		"listed": func(s *Store[string], e Entry[string]) { s.Replace("", []Entry[string]{e}) },
	} {
		s, e := NewSorted[string](4), pod(strings.Clone("a"), "p", 1, "v")
		take(s, e)
		for namespace := range s.objects {
			if unsafe.StringData(namespace) == unsafe.StringData(e.Namespace) {
				t.Errorf("the namespace of the first pod %s keeps that pod's text alive", how)
			}
		}
		if unsafe.StringData(s.Leaves()[0].Entries[0].Namespace) == unsafe.StringData(e.Namespace) {
			t.Errorf("the leaf of the first pod %s keeps that pod's text alive", how)
		}
	}
}

func TestCounters(t *testing.T) {
	first, own := new(counter.Set), new(counter.Set)
	p := func(created int64, version uint64, value string, counters *counter.Set) Entry[string] {
		e := born(created, pod("a", "p", version, value))
		e.Counters = counters
		return e
	}
	puts := func(e Entry[string]) event { return func(s *Store[string]) { s.Put(e) } }
	for name, c := range map[string]struct {
		then event
		want *counter.Set
	}{
		"stay where nothing changes":                {puts(p(5, 2, "n1", own)), first},
		"go over to a new value":                    {puts(p(5, 2, "n2", own)), first},
		"stay where a list says the same":           {replace("", p(5, 2, "n1", own)), first},
		"go over to a new value in a list":          {replace("", p(5, 2, "n2", own)), first},
		"stay where another namespace is listed":    {replace("b", pod("b", "p", 2, "x")), first},
		"of a pod created anew are its own":         {puts(p(6, 2, "n1", own)), own},
		"of a pod listed as created anew too":       {replace("a", p(6, 2, "n1", own)), own},
		"of a pod that was deleted between are too": {func(s *Store[string]) { del(2)(s); s.Put(p(6, 3, "n1", own)) }, own},
	} {
		t.Run(name, func(t *testing.T) {
			s := New[string]()
			s.Put(p(5, 1, "n1", first))
			c.then(s)
			if held, _ := s.Find([]byte("a"), []byte("p")); held.Counters != c.want {
				t.Errorf("counters of the pod: the first's %t, its own %t", held.Counters == first, held.Counters == own)
			}
		})
	}
}

func TestObjectsNeverChange(t *testing.T) {
	s := New[string]()
	s.Put(born(10, pod("a", "p", 1, "n1")))
	held, _ := s.Find([]byte("a"), []byte("p"))
	s.Put(born(10, pod("a", "p", 2, "n1")))
	s.Put(born(10, pod("a", "p", 3, "n2")))
	s.Put(born(20, pod("a", "p", 4, "n2")))
	if now, _ := s.Find([]byte("a"), []byte("p")); now.Value != "n2" || now.Created != 20 {
		t.Errorf("a pod that was created anew is %+v", *now)
	}
	s.Delete(born(20, pod("a", "p", 5, "n1")))
	if held.Value != "n1" || held.Created != 10 {
		t.Errorf("a pod that a sample points to has become %+v", *held)
	}
}

func TestFindDoesNotAllocate(t *testing.T) {
	c := New[string]()
	c.Put(pod("namespace", "a-pod-with-a-name-of-more-than-32-bytes", 1, "v"))
	c.Delete(pod("namespace", "another-pod-with-a-name-of-more-than-32-bytes", 1, "v"))
	namespace := []byte("namespace")
	for what, name := range map[string][]byte{
		"one that is there":  []byte("a-pod-with-a-name-of-more-than-32-bytes"),
		"one that is gone":   []byte("another-pod-with-a-name-of-more-than-32-bytes"),
		"one that never was": []byte("yet-another-pod-with-a-name-of-more-than-32-bytes"),
	} {
		if n := testing.AllocsPerRun(100, func() { c.Find(namespace, name) }); n != 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
}

// FuzzOrder has events arrive in any order. Whatever the order, the store must end with what the last of them says.
func FuzzOrder(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3})
	f.Add([]byte{3, 2, 1, 0, 7, 7, 7})
	f.Add([]byte("a deletion comes before what it deletes"))
	f.Fuzz(func(t *testing.T, order []byte) {
		c := New[string]()
		last, gone := uint64(0), false
		for _, b := range order {
			version := uint64(b>>1) + 1 // each version is one event, so what it does follows from it
			deletes := version%3 == 0
			if p := pod("a", "p", version, fmt.Sprint(version)); deletes {
				c.Delete(p)
			} else {
				c.Put(p)
			}
			if version >= last {
				last, gone = version, deletes
			}
		}
		want := ""
		switch {
		case gone:
			want = "deleted"
		case last > 0:
			want = fmt.Sprint(last)
		}
		if got := find(c, "a", "p"); got != want {
			t.Errorf("found %q, want %q", got, want)
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	c := New[string]()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 500 {
				name := fmt.Sprint("p", i%7)
				c.Put(pod("a", name, uint64(g*500+i), "v"))
				if p, _ := c.Find([]byte("a"), []byte(name)); p != nil && (p.Value != "v" || p.Created != 0) {
					t.Error("found", *p)
				}
				c.Len()
				c.Delete(pod("a", name, uint64(g*500+i), "v"))
				if i%100 == 0 {
					c.Replace("a", []Entry[string]{pod("a", name, uint64(i), "v")})
					c.Forget(time.Now())
				}
			}
		})
	}
	wg.Wait()
}
