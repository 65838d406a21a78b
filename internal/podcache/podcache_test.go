package podcache

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// pod is a pod whose value tells what it is.
func pod(namespace, name string, version uint64, value string) Keyed[string] {
	return Keyed[string]{Key: Key{namespace, name}, Pod: &Pod[string]{Value: value, Version: version}}
}

// find is the pod's value, "deleted" or "".
func find(c *Cache[string], namespace, name string) string {
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

type event func(c *Cache[string])

func state(version uint64, value string) event {
	return func(c *Cache[string]) { c.Put(pod("a", "p", version, value)) }
}

func del(version uint64) event {
	return func(c *Cache[string]) { c.Delete(pod("a", "p", version, "x")) }
}

func replace(scope string, list ...Keyed[string]) event {
	return func(c *Cache[string]) { c.Replace(scope, list) }
}

func TestWhatComesLateUndoesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		events []event
		want   string
	}{
		"a pod that was never seen":                              {nil, ""},
		"a new pod":                                              {[]event{state(1, "n1")}, "n1"},
		"a later state":                                          {[]event{state(1, "n1"), state(2, "n2")}, "n2"},
		"an earlier state that comes late":                       {[]event{state(2, "n2"), state(1, "n1")}, "n2"},
		"the same version again":                                 {[]event{state(2, "n2"), state(2, "n2 again")}, "n2 again"},
		"versions are numbers, not text":                         {[]event{state(9, "n9"), state(10, "n10")}, "n10"},
		"a deletion":                                             {[]event{state(1, "n1"), del(2)}, "deleted"},
		"a deletion of a pod that was never seen":                {[]event{del(2)}, "deleted"},
		"a deletion of its predecessor that comes late":          {[]event{state(5, "new"), del(4)}, "new"},
		"a state from before its deletion that comes late":       {[]event{state(1, "n1"), del(3), state(2, "n2")}, "deleted"},
		"a state from before the deletion of one never seen":     {[]event{del(3), state(2, "n2")}, "deleted"},
		"a pod of the same name created after the deletion":      {[]event{state(1, "n1"), del(2), state(3, "new")}, "new"},
		"its predecessor's whole life after that":                {[]event{del(3), state(4, "new"), state(1, "old"), del(2)}, "new"},
		"two deletions in the wrong order and then an old state": {[]event{del(9), del(3), state(5, "old")}, "deleted"},
		"a version that is no number is taken as the latest":     {[]event{state(7, "n7"), state(0, "unversioned")}, "unversioned"},
		"anything after a version that is no number is later":    {[]event{state(0, "unversioned"), state(1, "n1")}, "n1"},
		"a deletion without a version":                           {[]event{state(7, "n7"), del(0)}, "deleted"},
		"a list that has it":                                     {[]event{replace("", pod("a", "p", 3, "listed"))}, "listed"},
		"a list that does not have it":                           {[]event{state(1, "n1"), replace("")}, "deleted"},
		"a list that has it again":                               {[]event{state(1, "n1"), del(2), replace("", pod("a", "p", 3, "listed"))}, "listed"},
		"a state from before the list that does not have it":     {[]event{state(5, "n5"), replace(""), state(4, "n4")}, "deleted"},
		"a pod of the same name after that list":                 {[]event{state(5, "n5"), replace(""), state(6, "n6")}, "n6"},
		"a state from before the list that has it":               {[]event{replace("", pod("a", "p", 3, "listed")), state(2, "n2")}, "listed"},
		"a list that does not have what was deleted before it":   {[]event{state(1, "n1"), del(5), replace(""), state(4, "n4")}, "deleted"},
		"a list of its namespace that does not have it":          {[]event{state(1, "n1"), replace("a")}, "deleted"},
		"a list of another namespace":                            {[]event{state(1, "n1"), replace("b", pod("b", "p", 9, "other"))}, "n1"},
		"a list of another namespace after its deletion":         {[]event{del(2), replace("b", pod("b", "p", 9, "other"))}, "deleted"},
		"a list of a namespace whose name begins like its own":   {[]event{state(1, "n1"), replace("aa")}, "n1"},
		"events of other pods":                                   {[]event{state(1, "n1"), func(c *Cache[string]) { c.Delete(pod("a", "q", 2, "")); c.Delete(pod("b", "p", 2, "")) }}, "n1"},
	} {
		t.Run(name, func(t *testing.T) {
			cache := New[string]()
			for _, e := range c.events {
				e(cache)
			}
			if got := find(cache, "a", "p"); got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
			if _, buried := cache.gone[Key{"a", "p"}]; buried != (c.want == "deleted") {
				t.Errorf("found %q, kept as deleted: %t", c.want, buried)
			}
		})
	}
}

func TestNamespaceAndNameAreNotRunTogether(t *testing.T) {
	c := New[string]()
	c.Put(pod("a", "b-c", 1, "one"))
	c.Put(pod("a-b", "c", 1, "two"))
	for key, want := range map[Key]string{{"a", "b-c"}: "one", {"a-b", "c"}: "two", {"a-b-c", ""}: "", {"", "a"}: "", {"a", ""}: ""} {
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
		{func(*Cache[string]) {}, 0},
		{state(1, "x"), 1},
		{state(2, "y"), 1},
		{func(c *Cache[string]) { c.Put(pod("b", "p", 1, "x")) }, 2},
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
		if c.Forget(time.Now().Add(1)); len(c.gone) != 0 || find(c, "a", "alive") != "alive" {
			t.Errorf("%d deleted pods are kept for ever", len(c.gone))
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
	if len(c.pods) != 0 || len(c.gone) != 0 {
		t.Errorf("%d namespaces and %d deleted pods are kept", len(c.pods), len(c.gone))
	}
}

// TestMemoryOfValues shows which strings a pod keeps alive: what the value points to is all that a pod costs, so a change
// that is none must not bring a second copy, and one that is must not keep the first.
func TestMemoryOfValues(t *testing.T) {
	at := func(s string) *byte { return unsafe.StringData(s) }
	first := pod("a", "p", 1, strings.Clone("label text"))
	c := New[string]()
	c.Put(first)

	same := pod("a", "p", 2, strings.Clone("label text"))
	c.Put(same)
	p, _ := c.Find([]byte("a"), []byte("p"))
	if at(p.Value) != at(first.Value) {
		t.Error("a change of the pod that is none of the value has brought a second copy of the value")
	}
	if p.Version != 2 {
		t.Errorf("version %d, want that of the change", p.Version)
	}

	// The name may be cut out of the value's text, as a key it would keep the old text alive.
	text := strings.Clone("p and another text")
	other := pod("a", text[:1], 3, text)
	c.Put(other)
	for name := range c.pods["a"] {
		if at(name) != at(text) {
			t.Error("the key is part of the value before")
		}
	}
	for namespace := range c.pods {
		if at(namespace) == at(first.Namespace) {
			t.Error("the namespace of the first pod keeps that pod's text alive")
		}
	}
}

func TestPodsNeverChange(t *testing.T) {
	c := New[string]()
	c.Put(pod("a", "p", 1, "n1"))
	held, _ := c.Find([]byte("a"), []byte("p"))
	c.Put(pod("a", "p", 2, "n2"))
	c.Delete(pod("a", "p", 3, "n2"))
	if held.Value != "n1" || held.Version != 1 {
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

// FuzzOrder has events arrive in any order. Whatever it is, the cache must end with what the last of them says.
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
				c.Find([]byte("a"), []byte(name))
				c.Len()
				c.Delete(pod("a", name, uint64(g*500+i), "v"))
				if i%100 == 0 {
					c.Replace("a", []Keyed[string]{pod("a", name, uint64(i), "v")})
					c.Forget(time.Now())
				}
			}
		})
	}
	wg.Wait()
}
