package sample

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"metrics-server-prom/internal/counter"
	"metrics-server-prom/internal/metricsapi"
	"metrics-server-prom/internal/store"
)

// join is a Joiner with what it has dropped. A pod's value is "namespace/name", with "?" behind it where only its name
// is known.
type join struct {
	Joiner
	t       testing.TB
	dropped map[string]int
	cache   *store.Store[Text]
}

const maxAge = 5 * time.Minute

// newJoin joins pods, of which a/p, a/q and b/p are known.
func newJoin(t testing.TB) *join {
	j := newNodeJoin(t)
	j.cache = store.New[Text]()
	for _, key := range []store.Key{{Namespace: "a", Name: "p"}, {Namespace: "a", Name: "q"},
		{Namespace: "b", Name: "p"}} {
		j.cache.Put(known(key.Namespace, key.Name, time.Now().Add(-time.Hour)))
	}
	j.Store = j.cache
	j.Unknown = func(namespace, name string) Text { return Text{Head: namespace + "/" + name + "?"} }
	return j
}

func newNodeJoin(t testing.TB) *join {
	j := &join{t: t, dropped: map[string]int{}}
	j.Joiner = Joiner{
		MaxAge: maxAge,
		Escape: func(s string) string { return s },
	}
	return j
}

func known(namespace, name string, created time.Time) store.Entry[Text] {
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "1", ResourceVersion: "1",
		CreationTimestamp: metav1.NewTime(created)}
	return store.NewEntry(&meta, name, Text{Head: namespace + "/" + name})
}

// refresh makes a batch of the items.
func (j *join) refresh(items ...metricsapi.Item) *Batch {
	j.t.Helper()
	j.Begin()
	for i := range items {
		if err := j.Join(&items[i]); err != nil {
			j.t.Fatal(err)
		}
	}
	return j.count(j.Done())
}

// count adds what a batch has dropped to what was dropped before.
func (j *join) count(b *Batch) *Batch {
	for cause := range Cause(Causes) {
		if n := b.Dropped[cause].Samples; n > 0 {
			j.dropped[cause.Reason()] += n
		}
	}
	return b
}

// lines is a batch in words: pod, container, cpu, memory.
func lines(b *Batch) string {
	number := func(v float64) string {
		if math.IsNaN(v) {
			return "-"
		}
		return fmt.Sprint(v)
	}
	var lines []string
	for _, s := range b.Samples {
		lines = append(lines, fmt.Sprintf("%s %s %s %s", s.Pod.Value.Head, b.Names[s.Name], number(s.CPU), number(s.Memory)))
	}
	return strings.Join(lines, "\n")
}

var (
	none    = metricsapi.Value{}
	invalid = metricsapi.Value{State: metricsapi.Invalid}
)

func v(f float64) metricsapi.Value { return metricsapi.Value{V: f, State: metricsapi.Valid} }

func container(name string, cpu, memory metricsapi.Value) metricsapi.Container {
	return metricsapi.Container{Name: []byte(name), CPU: cpu, Memory: memory}
}

func item(namespace, name string, at time.Time, containers ...metricsapi.Container) metricsapi.Item {
	return metricsapi.Item{Namespace: []byte(namespace), Name: []byte(name), Timestamp: at, Window: 15 * time.Second,
		HasWindow: true, Containers: containers}
}

// check compares a batch and what was dropped with what is wanted.
func (j *join) check(b *Batch, want string, dropped map[string]int) {
	j.t.Helper()
	if got := lines(b); got != want {
		j.t.Errorf("samples:\n%s\nwant:\n%s", got, want)
	}
	if !maps.Equal(j.dropped, dropped) {
		j.t.Errorf("dropped %v, want %v", j.dropped, dropped)
	}
}

func TestJoinPods(t *testing.T) {
	one := container("x", v(1), v(2))
	window := func(i metricsapi.Item, window time.Duration, has bool) metricsapi.Item {
		i.Window, i.HasWindow = window, has
		return i
	}
	type drops = map[string]int
	for name, c := range map[string]struct {
		items   func(now time.Time) []metricsapi.Item
		want    string
		dropped drops
		unknown int
	}{
		"nothing": {items: func(time.Time) []metricsapi.Item { return nil }},
		"pods and their containers, in the order of the list": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("b", "p", now, one), item("a", "p", now, container("y", v(3), v(4)), one)}
			}, want: "b/p x 1 2\na/p y 3 4\na/p x 1 2"},
		"zero is a value": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "p", now, container("x", v(0), v(0)))}
			}, want: "a/p x 0 0"},
		"only cpu, only memory, neither": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "p", now, container("x", v(1), none), container("y", none, v(2)),
					container("z", none, none))}
			}, want: "a/p x 1 -\na/p y - 2"},
		"a value that is none is dropped, the other is served": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "p", now, container("x", invalid, v(2)), container("y", v(1), invalid),
					container("z", invalid, invalid))}
			}, want: "a/p x - 2\na/p y 1 -", dropped: drops{Invalid: 4}},
		"a rate over no time is none; memory needs no time": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{window(item("a", "p", now, one), 0, true),
					window(item("a", "q", now, one), -time.Second, true)}
			}, want: "a/p x - 2\na/q x - 2", dropped: drops{Invalid: 2}},
		"no window says nothing against a rate": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{window(item("a", "p", now, one), 0, false)}
			}, want: "a/p x 1 2"},
		"as old as max-age is stale, a second less is not": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "p", now.Add(-maxAge), one), item("a", "q", now.Add(time.Second-maxAge), one)}
			}, want: "a/q x 1 2", dropped: drops{Stale: 2}},
		"each value of a stale pod counts, what is absent does not": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "p", now.Add(-time.Hour), one, container("y", v(1), none),
					container("z", none, none), container("w", invalid, v(1)))}
			}, dropped: drops{Stale: 5}},
		"without a timestamp it is stale": {
			items: func(time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "p", time.Time{}, one), item("a", "new", time.Time{}, one)}
			}, dropped: drops{Stale: 4}},
		"timestamps at the ends of what a server can send are not fresh": {
			items: func(time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "p", time.Unix(math.MinInt64, 0), one),
					item("a", "new", time.Unix(math.MinInt64, 0), one), item("a", "newer", time.Unix(math.MinInt64+1e9, 0), one)}
			}, dropped: drops{Stale: 6}},
		"a clock that is ahead does no harm": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "p", now.Add(time.Minute), one), item("a", "q", now.Add(100*time.Hour), one),
					item("a", "new", time.Unix(math.MaxInt64, 0), one)}
			}, want: "a/p x 1 2\na/q x 1 2\na/new? x 1 2", unknown: 1},
		"usage from before the pod was created is its predecessor's": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "young", now.Add(-11*time.Second), one),
					item("a", "young2", now.Add(-10*time.Second), one)}
			}, want: "a/young2 x 1 2", dropped: drops{Stale: 2}},
		"usage of a pod that was deleted is stale": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "deleted", now, one)}
			}, dropped: drops{Stale: 2}},
		"a pod that is not known yet is served with its name": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "new", now, one, container("y", v(3), none)), item("new", "p", now, one)}
			}, want: "a/new? x 1 2\na/new? y 3 -\nnew/p? x 1 2", unknown: 2},
		"a pod that comes twice": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "p", now, one), item("b", "p", now, one),
					item("a", "p", now, container("y", v(3), v(4)))}
			}, want: "a/p x 1 2\nb/p x 1 2", dropped: drops{Duplicate: 2}},
		"pods that come twice in a list without order": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("b", "p", now, one), item("a", "p", now, one), item("a", "p", now, one),
					item("b", "p", now, one), item("b", "q", now, one)}
			}, want: "b/p x 1 2\na/p x 1 2\nb/q? x 1 2", dropped: drops{Duplicate: 4}, unknown: 1},
		"an unknown pod that comes twice": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "new", now, one), item("a", "new", now, one)}
			}, want: "a/new? x 1 2", dropped: drops{Duplicate: 2}, unknown: 1},
		"a container that comes twice in a pod, with another between": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "p", now, one, container("y", v(3), none), container("x", v(5), v(6)),
					container("y", none, v(7)))}
			}, want: "a/p x 1 2\na/p y 3 -", dropped: drops{Duplicate: 3}},
		"a container of the same name in another pod is another": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "p", now, one), item("a", "q", now, one), item("b", "p", now, one)}
			}, want: "a/p x 1 2\na/q x 1 2\nb/p x 1 2"},
		"names that run together are still two pods": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("ab", "c", now, one), item("a", "bc", now, one)}
			}, want: "ab/c? x 1 2\na/bc? x 1 2", unknown: 2},
		"no name": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "", now, one), item("", "p", now, one),
					item("a", "p", now, container("", v(1), none), one)}
			}, want: "a/p x 1 2", dropped: drops{Invalid: 5}},
		"a name that is no text": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "p\xff", now, one), item("a\xff", "p", now, one),
					item("a", "p", now, container("x\xff", v(1), v(1)))}
			}, dropped: drops{Invalid: 6}},
		"a name of 253 bytes, and one of more": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("a", "p", now, container(strings.Repeat("x", 253), v(1), none),
					container(strings.Repeat("x", 254), v(1), none)),
					item("a", strings.Repeat("p", 254), now, one), item(strings.Repeat("n", 254), "p", now, one)}
			}, want: "a/p " + strings.Repeat("x", 253) + " 1 -", dropped: drops{Invalid: 5}},
		"an excluded namespace is no drop": {
			items: func(now time.Time) []metricsapi.Item {
				return []metricsapi.Item{item("excluded", "p", now, one), item("excluded", "p", now, one), item("a", "p", now, one)}
			}, want: "a/p x 1 2"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newJoin(t)
				now := time.Now()
				j.cache.Put(known("a", "young", now.Add(-10*time.Second)))
				j.cache.Put(known("a", "young2", now.Add(-10*time.Second)))
				j.cache.Put(known("a", "deleted", now.Add(-time.Hour)))
				j.cache.Delete(known("a", "deleted", now.Add(-time.Hour)))
				j.Excluded = []string{"excluded"}
				b := j.refresh(c.items(now)...)
				j.check(b, c.want, c.dropped)
				if b.Unknown != c.unknown {
					t.Errorf("%d pods without metadata, want %d", b.Unknown, c.unknown)
				}
			})
		})
	}
}

func TestJoinNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, now := newNodeJoin(t), time.Now()
		one := container("", v(1), v(2))
		b := j.refresh(item("", "n1", now, one), item("", "n2", now, one), item("", "n1", now, one), item("", "", now, one),
			item("", "n3", now.Add(-maxAge), one), item("", "n4", now, container("", invalid, v(3))))
		j.check(b, " n1 1 2\n n2 1 2\n n4 - 3", map[string]int{Duplicate: 2, Invalid: 3, Stale: 2})
		if b.Unknown != 0 || b.NewestOf != (store.Key{Name: "n1"}) {
			t.Errorf("%d unknown, newest of %v", b.Unknown, b.NewestOf)
		}
	})
}

func TestNamesAreEscapedOnceEach(t *testing.T) {
	j, now, escaped := newJoin(t), time.Now(), 0
	j.Escape = func(s string) string { escaped++; return strings.ReplaceAll(s, `"`, `\"`) }
	x := container(`"x"`, v(1), none)
	for range 3 {
		got := lines(j.refresh(item("a", "p", now, x), item("a", "q", now, x)))
		if got != "a/p \\\"x\\\" 1 -\na/q \\\"x\\\" 1 -" {
			t.Errorf("samples:\n%s", got)
		}
	}
	if escaped != 2 { // once for each of the two batches
		t.Errorf("the name was escaped %d times", escaped)
	}
}

func TestTimestamps(t *testing.T) {
	one := container("x", v(1), none)
	type stamps struct {
		oldest, newest time.Duration // from now
		newestOf       string
		expires        time.Duration
	}
	for name, c := range map[string]struct {
		items func(now time.Time) []metricsapi.Item
		none  bool
		want  stamps
	}{
		"of an empty list": {func(time.Time) []metricsapi.Item { return nil }, true, stamps{}},
		"of a list of what is stale": {func(now time.Time) []metricsapi.Item {
			return []metricsapi.Item{item("a", "p", now.Add(-time.Hour), one)}
		}, true, stamps{}},
		"of a list without any value": {func(now time.Time) []metricsapi.Item {
			return []metricsapi.Item{item("a", "p", now, container("x", none, none))}
		}, true, stamps{}},
		"are the samples' own": {func(now time.Time) []metricsapi.Item {
			return []metricsapi.Item{item("a", "p", now.Add(-20*time.Second), one),
				item("a", "q", now.Add(-10*time.Second), one), item("b", "p", now.Add(-30*time.Second), one),
				item("b", "old", now.Add(-time.Hour), one)}
		}, false, stamps{-30 * time.Second, -10 * time.Second, "a/q", maxAge - 30*time.Second}},
		"from the future are of when they were seen": {func(now time.Time) []metricsapi.Item {
			return []metricsapi.Item{item("a", "p", now.Add(time.Hour), one)}
		}, false, stamps{0, 0, "a/p", maxAge}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				b := newJoin(t).refresh(c.items(now)...)
				if c.none {
					if b.Oldest != 0 || b.Newest != 0 || b.NewestOf != (store.Key{}) || !b.Expires(maxAge).IsZero() {
						t.Errorf("oldest %d, newest %d, of %v, expires %s; want nothing", b.Oldest, b.Newest, b.NewestOf,
							b.Expires(maxAge))
					}
					return
				}
				got := stamps{time.Unix(b.Oldest, 0).Sub(now), time.Unix(b.Newest, 0).Sub(now), b.NewestOf.Namespace + "/" +
					b.NewestOf.Name, b.Expires(maxAge).Sub(now)}
				if got != c.want {
					t.Errorf("%+v, want %+v", got, c.want)
				}
			})
		})
	}
}

// TestClockOfTheSourceIsAhead has a source whose clock is an hour ahead and which then stops measuring: what it says
// must not stay for an hour and max-age.
func TestClockOfTheSourceIsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, one := newJoin(t), container("x", v(1), none)
		stuck := item("a", "p", time.Now().Add(time.Hour), one)
		began := time.Now()
		for age := time.Duration(0); age < maxAge; age += 15 * time.Second {
			b := j.refresh(stuck)
			if len(b.Samples) != 1 {
				t.Fatalf("not served at the age of %s", age)
			}
			if b.Newest != began.Unix() || b.Oldest != began.Unix() {
				t.Errorf("at the age of %s it is of %s and %s", age, time.Unix(b.Oldest, 0), time.Unix(b.Newest, 0))
			}
			if b := j.refresh(stuck, item("a", "q", time.Now(), one)); age > 0 && b.NewestOf.Name != "q" {
				t.Errorf("at the age of %s it is newer than what is measured now", age)
			}
			if age == time.Minute { // a refresh that fails in the middle changes nothing
				j.Begin()
				j.Join(&stuck)
				j.Begin()
			}
			time.Sleep(15 * time.Second)
		}
		if b := j.refresh(stuck); len(b.Samples) != 0 || j.dropped[Stale] != 1 {
			t.Errorf("%d samples at max-age, dropped %v", len(b.Samples), j.dropped)
		}
		if b := j.refresh(stuck); len(b.Samples) != 0 {
			t.Errorf("%d samples after max-age", len(b.Samples))
		}
		if b := j.refresh(item("a", "p", time.Now().Add(time.Hour), one)); len(b.Samples) != 1 {
			t.Error("what was measured anew is not served")
		}
	})
}

func TestExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, now, one := newJoin(t), time.Now(), container("x", v(1), v(2))
		j.refresh(item("a", "p", now.Add(-3*time.Minute), one), item("a", "q", now.Add(-time.Minute),
			container("x", v(1), none)),
			item("a", "new", now.Add(-2*time.Minute), one), item("b", "p", now.Add(time.Hour), one))
		for _, step := range []struct {
			in             time.Duration
			want           string
			dropped        int
			oldest, newest time.Duration
		}{
			{0, "a/p x 1 2\na/q x 1 -\na/new? x 1 2\nb/p x 1 2", 0, -3 * time.Minute, 0},
			{2*time.Minute - 1, "a/p x 1 2\na/q x 1 -\na/new? x 1 2\nb/p x 1 2", 0, -3 * time.Minute, 0},
			{2 * time.Minute, "a/q x 1 -\na/new? x 1 2\nb/p x 1 2", 2, -2 * time.Minute, 0},
			{3 * time.Minute, "a/q x 1 -\nb/p x 1 2", 4, -time.Minute, 0},
		} {
			b := j.count(j.Expire(now.Add(step.in)))
			j.check(b, step.want, func() map[string]int {
				if step.dropped == 0 {
					return nil
				}
				return map[string]int{Stale: step.dropped}
			}())
			if oldest, newest := time.Unix(b.Oldest, 0).Sub(now), time.Unix(b.Newest, 0).Sub(now); oldest != step.oldest ||
				newest != step.newest {
				t.Errorf("in %s: oldest %s, newest %s, want %s and %s", step.in, oldest, newest, step.oldest, step.newest)
			}
		}
		b := j.count(j.Expire(now.Add(5 * time.Minute)))
		if len(b.Samples) != 0 || b.Unknown != 0 || b.Oldest != 0 || b.Newest != 0 || b.NewestOf != (store.Key{}) {
			t.Errorf("when all has expired: %+v", b)
		}
	})
}

func TestExpiredPodsAreNotKeptAlive(t *testing.T) {
	j, now, one := newJoin(t), time.Now(), container("x", v(1), none)
	b := j.refresh(item("a", "p", now, one), item("a", "q", now.Add(-time.Minute), one),
		item("b", "p", now.Add(-time.Minute), one))
	j.Expire(now.Add(maxAge - time.Second))
	j.refresh()
	j.refresh() // uses the memory of the first again
	for _, s := range b.Samples[:cap(b.Samples)] {
		if s.Pod != nil {
			t.Errorf("the pod %s is kept behind the end of the samples", s.Pod.Value.Head)
		}
	}
}

func TestTheBatchBeforeIsStillWhole(t *testing.T) {
	j, now, one := newJoin(t), time.Now(), container("x", v(1), v(2))
	first := j.refresh(item("a", "p", now, one))
	j.Begin()
	next := item("a", "q", now, container("y", v(3), v(4)))
	j.Join(&next)
	if got := lines(first); got != "a/p x 1 2" {
		t.Errorf("what is served has become %q while the next is read", got)
	}
	j.Begin() // the attempt has failed
	if got := lines(first); got != "a/p x 1 2" {
		t.Errorf("what is served has become %q by an attempt that failed", got)
	}
	if got := lines(j.refresh()); got != "" {
		t.Errorf("of the attempt that failed there is %q", got)
	}
}

func TestNamesThatAreGoneAreNotKeptForEver(t *testing.T) {
	j, now := newJoin(t), time.Now()
	for i := range 5_000 {
		b := j.refresh(item("a", "p", now, container(fmt.Sprint("job-", i), v(1), none)),
			item("a", "q", now, container("stays", v(1), none)))
		if want := fmt.Sprintf("a/p job-%d 1 -\na/q stays 1 -", i); lines(b) != want {
			t.Fatalf("samples:\n%s\nwant:\n%s", lines(b), want)
		}
		if len(b.Names) > 1100 || len(b.index) != len(b.Names) || len(b.lastOf) != len(b.Names) {
			t.Fatalf("%d names (%d, %d) are kept after %d refreshes", len(b.Names), len(b.index), len(b.lastOf), i)
		}
	}
}

func TestListsThatCannotBeTrue(t *testing.T) {
	now := time.Now()
	many := func(n int, next func(i int) metricsapi.Item) func(*join) error {
		return func(j *join) error {
			j.Begin()
			for i := range n {
				item := next(i)
				if err := j.Join(&item); err != nil {
					return err
				}
			}
			return nil
		}
	}
	unknown := func(age time.Duration) func(i int) metricsapi.Item {
		return func(i int) metricsapi.Item {
			return item("a", fmt.Sprint("unknown-", i), now.Add(-age), container("x", v(1), none))
		}
	}
	full := func(more int) func(*join) error { // all but one
		return func(j *join) error {
			j.Begin()
			j.batch.Samples = make([]Sample, maxSamples-1)
			next := item("a", "p", now, make([]metricsapi.Container, more)...)
			return j.Join(&next)
		}
	}
	for name, c := range map[string]struct {
		read func(*join) error
		want error
	}{
		"as many unknown pods as a cluster may have that has just started": {many(maxUnknown, unknown(0)), nil},
		"more unknown pods than that, and than known ones":                 {many(maxUnknown+1, unknown(0)), errOtherPods},
		"as many containers as there may be":                               {full(1), nil},
		"more containers than any cluster has":                             {full(2), errTooMany},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.read(newJoin(t)); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
	t.Run("fewer unknown pods than known ones are no error", func(t *testing.T) {
		j := newJoin(t)
		for i := range maxUnknown + 10 {
			j.cache.Put(known("b", fmt.Sprint(i), now))
		}
		if err := many(maxUnknown+1, unknown(0))(j); err != nil {
			t.Error(err)
		}
	})
	t.Run("what is dropped takes no memory either", func(t *testing.T) {
		j := newJoin(t)
		if err := many(5*maxUnknown, unknown(time.Hour))(j); err != nil {
			return
		}
		if len(j.seen) > 2*maxUnknown {
			t.Errorf("%d pods that are unknown and stale are kept", len(j.seen))
		}
	})
}

// TestNothingIsAllocatedPerItem allows what one refresh of any size may take, whether CPU time is counted or not.
func TestNothingIsAllocatedPerItem(t *testing.T) {
	for name, c := range map[string]struct{ nodes, counting bool }{
		"pods": {}, "nodes": {nodes: true}, "pods, counting": {counting: true}, "nodes, counting": {true, true},
	} {
		j, now := newJoin(t), time.Now()
		if c.nodes {
			j = newNodeJoin(t)
		}
		if c.counting {
			j.Running = func(_ *store.Object[Text], container string) (uint64, int64, bool) {
				return uint64(container[0]), 0, true
			}
		}
		items := make([]metricsapi.Item, 5_000)
		for i := range items {
			name := fmt.Sprint("pod-", i)
			items[i] = item("a", name, now.Add(-time.Duration(i%60)*time.Second), container("x", v(1), v(2)),
				container("y", v(3), invalid))
			if c.nodes {
				items[i].Namespace, items[i].Containers = nil, items[i].Containers[:1]
			} else {
				e := known("a", name, now.Add(-time.Hour))
				e.Counters = &counter.Set{}
				j.cache.Put(e)
			}
		}
		refresh := func() {
			for i := range items {
				items[i].Timestamp = items[i].Timestamp.Add(time.Second)
			}
			j.refresh(items...)
		}
		for range 4 {
			refresh()
		}
		if n := testing.AllocsPerRun(5, refresh); n > 20 {
			t.Errorf("%s: %v allocations per refresh of %d items", name, n, len(items))
		}
	}
}

// FuzzJoin has a server send anything that can be decoded. Whatever it is: no series comes twice, each value is a
// number that is not negative, nothing is older than max-age, each value that was sent is served or counted, and no
// counter goes back.
func FuzzJoin(f *testing.F) {
	f.Add([]byte("two refreshes of a few pods, with names that come twice, and times from all ages"), false)
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\xff\xfe\xfd\xfc"), false)
	f.Add([]byte("the same of nodes, which have neither a namespace nor containers of their own"), true)
	f.Fuzz(func(t *testing.T, data []byte, nodes bool) {
		synctest.Test(t, func(t *testing.T) {
			next := func() (b byte) {
				if len(data) > 0 {
					b, data = data[0], data[1:]
				}
				return b
			}
			pick := func(from ...string) []byte { return []byte(from[int(next())%len(from)]) }
			value := func() metricsapi.Value {
				return []metricsapi.Value{none, invalid, v(0), v(0.5), v(float64(next())), v(math.MaxFloat64),
					v(math.SmallestNonzeroFloat64)}[int(next())%7]
			}
			hour := time.Now().Add(-time.Hour)
			counting := newCounting(t, map[string]run{"a/p/x": {1, hour}, "a/p/y": {2, time.Now()}, "a/q/x": {1, hour},
				"b/p/x": {1, hour}})
			j := counting.join
			if nodes {
				running := j.Running
				j = newNodeJoin(t)
				j.Running = running
			} else {
				// Of "b" and "p/q" another text than of "b/p" and "q".
				j.Unknown = func(namespace, name string) Text { return Text{Head: fmt.Sprintf("%q/%q", namespace, name)} }
				j.cache.Put(known("a", "gone", time.Now()))
				j.cache.Delete(known("a", "gone", time.Now()))
				j.cache.Put(known("a", "young", time.Now().Add(-20*time.Second)))
			}
			highest, changed := map[string]float64{}, map[string]time.Time{}
			for refresh := 0; refresh < 3 || len(data) > 0; refresh++ {
				j.Begin()
				sent := 0
				clear(j.dropped)
				for range next() % 16 {
					stamp := time.Now().Add(time.Duration(int8(next())) * 5 * time.Second)
					switch next() % 16 {
					case 0:
						stamp = time.Time{}
					case 1:
						stamp = time.Unix(math.MaxInt64-int64(next()), 0)
					case 2:
						stamp = time.Unix(math.MinInt64+int64(next()), 0)
					case 3:
						stamp = time.Unix(1<<32+int64(next()), 0)
					}
					i := item("", string(pick("p", "q", "gone", "young", "new", "", "p\xff", "p/q", strings.Repeat("p", 300))), stamp)
					i.Window, i.HasWindow = time.Duration(int8(next()))*time.Second, next()%4 > 0
					n := int(next() % 5)
					if nodes {
						n = 1
					} else {
						i.Namespace = pick("a", "b", "c", "", "b/p", "a\xff")
					}
					for range n {
						c := container("", value(), value())
						if !nodes {
							c.Name = pick("x", "y", "z", "", "\xff", "a\"\n\\")
						}
						for _, v := range []metricsapi.Value{c.CPU, c.Memory} {
							if v.State != metricsapi.Absent {
								sent++
							}
						}
						i.Containers = append(i.Containers, c)
					}
					if err := j.Join(&i); err != nil {
						t.Fatal(err)
					}
				}
				b := j.count(j.Done())
				checkBatch(t, j, b, sent)
				for i, s := range b.Samples {
					name, is := s.Pod.Value.Head+"/"+b.Names[s.Name], b.Seconds[i]
					was, counted := highest[name]
					switch since := time.Since(changed[name]); {
					case math.IsInf(is, 0) || is < 0:
						t.Errorf("%s has %v s", name, is)
					case counted && is != was && !(is > was) && since < counter.Keep:
						t.Errorf("%s has %v s after %v", name, is, was)
					case is != was:
						highest[name], changed[name] = is, time.Now()
					}
					if math.IsNaN(is) {
						delete(highest, name)
					}
				}
				time.Sleep(time.Duration(next()) * time.Second)
				expired := j.count(j.Expire(time.Now()))
				checkBatch(t, j, expired, sent)
			}
		})
	})
}

func checkBatch(t *testing.T, j *join, b *Batch, sent int) {
	t.Helper()
	if len(b.Seconds) != len(b.Samples) {
		t.Errorf("%d seconds of %d samples", len(b.Seconds), len(b.Samples))
	}
	type key struct {
		text string
		name string
	}
	series, served := map[key]bool{}, 0
	for _, s := range b.Samples {
		k := key{text: s.Pod.Value.Head, name: b.Names[s.Name]}
		if series[k] {
			t.Errorf("%v comes twice", k)
		}
		series[k] = true
		for _, v := range []float64{s.CPU, s.Memory} {
			switch {
			case math.IsNaN(v):
				continue
			case math.IsInf(v, 0) || v < 0:
				t.Errorf("%v has the value %v", k, v)
			}
			served++
		}
		if math.IsNaN(s.CPU) && math.IsNaN(s.Memory) {
			t.Errorf("%v has no value", k)
		}
		if age := time.Since(time.Unix(int64(s.at), 0)); age >= j.MaxAge {
			t.Errorf("%v is %s old", k, age)
		}
	}
	dropped := 0
	for _, n := range j.dropped {
		dropped += n
	}
	if served+dropped != sent {
		t.Errorf("%d values sent, %d served and %v dropped", sent, served, j.dropped)
	}
	if expires := b.Expires(j.MaxAge); expires.IsZero() != (len(b.Samples) == 0) || !expires.IsZero() &&
		!expires.After(time.Now()) {
		t.Errorf("%d samples expire %s", len(b.Samples), expires)
	}
	if (b.Newest == 0) != (len(b.Samples) == 0) || b.Oldest > b.Newest {
		t.Errorf("%d samples, oldest %d, newest %d", len(b.Samples), b.Oldest, b.Newest)
	}
}
