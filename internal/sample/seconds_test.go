package sample

import (
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"metrics-server-prom/internal/counter"
	"metrics-server-prom/internal/metricsapi"
	"metrics-server-prom/internal/store"
)

// run is one run of a container.
type run struct {
	id      uint64
	started time.Time
}

// counting is a join that counts CPU time of the containers that run, by pod and container. The pods a/p and a/q have
// counters, b/p has none.
type counting struct {
	*join
	runs map[string]run
	read map[string]int // readings by result, but for those that are added
}

func newCounting(t testing.TB, runs map[string]run) *counting {
	j := &counting{newJoin(t), runs, map[string]int{}}
	j.cache = store.New[Text]()
	for _, key := range []store.Key{{Namespace: "a", Name: "p"}, {Namespace: "a", Name: "q"},
		{Namespace: "b", Name: "p"}} {
		e := known(key.Namespace, key.Name, time.Now().Add(-time.Hour))
		if key.Namespace == "a" {
			e.Counters = &counter.Set{}
		}
		j.cache.Put(e)
	}
	j.Store = j.cache
	j.Running = func(p *store.Object[Text], container string) (uint64, int64, bool) {
		r, ok := j.runs[p.Value.Head+"/"+container]
		return r.id, r.started.Unix(), ok
	}
	return j
}

// seconds makes a batch of the items and returns it in words.
func (j *counting) seconds(items ...metricsapi.Item) string {
	j.t.Helper()
	b := j.refresh(items...)
	for result, n := range b.Readings {
		if n > 0 && counter.Result(result) != counter.Added {
			j.read[counter.Result(result).String()] += n
		}
	}
	return words(j.t, b)
}

// words is a batch's containers with their CPU time, "-" for none and "then" behind one of another moment, of pods
// other than a/p after the pod's name.
func words(t testing.TB, b *Batch) string {
	t.Helper()
	if len(b.Seconds) != len(b.Samples) {
		t.Fatalf("%d seconds of %d samples", len(b.Seconds), len(b.Samples))
	}
	var words []string
	for i, s := range b.Samples {
		word := strings.TrimPrefix(s.Pod.Value.Head+"/"+b.Names[s.Name], "a/p/")
		word = strings.Replace(fmt.Sprintf("%s %.6g", word, b.Seconds[i]), "NaN", "-", 1)
		if b.Untimely != nil && b.Untimely[i] {
			word += " then"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// over has the window of an item.
func over(window time.Duration, i metricsapi.Item) metricsapi.Item {
	i.Window, i.HasWindow = window, window != 0
	return i
}

func TestSeconds(t *testing.T) {
	type items = []metricsapi.Item
	type lists = []func(now time.Time) items // each 15 s after the one before
	x := func(cores float64) metricsapi.Container { return container("x", v(cores), v(1)) }
	y := func(cores float64) metricsapi.Container { return container("y", v(cores), v(1)) }
	list := func(containers ...metricsapi.Container) func(time.Time) items {
		return func(now time.Time) items { return items{item("a", "p", now, containers...)} }
	}
	of := func(age time.Duration, i func(time.Time) items) func(time.Time) items {
		return func(now time.Time) items { return i(now.Add(-age)) }
	}
	nothing := func(time.Time) items { return nil }
	for name, c := range map[string]struct {
		started time.Duration // of x, from the first list; 0 is an hour before
		lists   lists
		want    string
		read    map[string]int
	}{
		"each reading adds to the one before": {lists: lists{list(x(1)), list(x(2)), list(x(3))}, want: "x 90"},
		"the same reading again": {lists: lists{list(x(1)), of(15*time.Second, list(x(1)))}, want: "x 15",
			read: map[string]int{"repeated": 1}},
		"an older one": {lists: lists{list(x(1)), of(20*time.Second, list(x(1)))}, want: "x 15 then",
			read: map[string]int{"older": 1}},
		"a pod that is away for two ticks": {lists: lists{list(x(1)), nothing, nothing, list(x(1))}, want: "x 60",
			read: map[string]int{"filled": 1}},
		"a pod that is away for more than max-age": {lists: append(append(lists{list(x(1))},
			slices.Repeat(lists{nothing}, 21)...), list(x(1))), want: "x 30", read: map[string]int{"hole": 1}},
		"containers by themselves, in any order": {lists: lists{list(x(1), y(2)), list(y(2), x(1))}, want: "y 60, x 30"},
		"of several the moments count": {lists: lists{list(x(1), y(2)),
			func(now time.Time) items { return items{over(9*time.Second, item("a", "p", now, x(1), y(2)))} }},
			want: "x 30, y 60"},
		"without a window too": {lists: lists{
			func(now time.Time) items { return items{over(0, item("a", "p", now, x(1)))} },
			func(now time.Time) items { return items{over(0, item("a", "p", now, x(1)))} }}, want: "x 15"},
		"a reading without CPU, the counter stays": {lists: lists{list(x(1)), list(container("x", none, v(1)))},
			want: "x 15 then"},
		"one that is no number too": {lists: lists{list(x(1)), list(container("x", invalid, v(1)))}, want: "x 15 then"},
		"after it the gap is filled": {lists: lists{list(x(1)), list(container("x", none, v(1))), list(x(1))}, want: "x 45",
			read: map[string]int{"filled": 1}},
		"before the first reading there is none": {lists: lists{list(container("x", none, v(1)))}, want: "x -"},
		"more cores than a machine has": {lists: lists{list(x(1)), list(x(1e9))}, want: "x 15 then",
			read: map[string]int{"invalid": 1}},
		"and no counter that begins with them": {lists: lists{list(x(1e9))}, want: "x -", read: map[string]int{"invalid": 1}},
		"a container that comes twice": {lists: lists{
			func(now time.Time) items { return items{over(9*time.Second, item("a", "p", now, x(1), x(5)))} }}, want: "x 9"},
		"a container that is not running by the metadata": {lists: lists{list(container("z", v(1), v(1)))}, want: "z -"},
		"a pod without metadata": {lists: lists{func(now time.Time) items { return items{item("a", "new", now, x(1))} }},
			want: "a/new?/x -"},
		"a pod whose object has no counters": {lists: lists{
			func(now time.Time) items { return items{item("b", "p", now, x(1))} }}, want: "b/p/x -"},
		"a reading from before the container was started": {started: 5 * time.Second, lists: lists{list(x(1))}, want: "x -",
			read: map[string]int{"predecessor": 1}},
		"one of the second in which it was": {started: 15 * time.Second, lists: lists{nothing, list(x(1))}, want: "x -",
			read: map[string]int{"predecessor": 1}},
		"and without CPU none at all": {started: 15 * time.Second, lists: lists{nothing, list(container("x", none, v(1)))},
			want: "x -"},
		"a second later it has one, of no longer than it runs": {started: 14 * time.Second, lists: lists{nothing, list(x(1))},
			want: "x 3"},
		"which then goes on as ever": {started: 14 * time.Second, lists: lists{nothing, list(x(1)), list(x(1))},
			want: "x 18"},
		"nor is it taken back by an older reading": {started: 14 * time.Second,
			lists: lists{nothing, list(x(1)), of(20*time.Second, list(x(1)))}, want: "x 3 then",
			read: map[string]int{"older": 1}},
		"the clock of a node that is a minute ahead": {lists: lists{of(-time.Minute, list(x(1))),
			of(-time.Minute, list(x(1)))}, want: "x 30"},
		"or an hour": {lists: lists{of(-time.Hour, list(x(1))), of(-time.Hour, list(x(1))), of(-time.Hour, list(x(1)))},
			want: "x 45"},
		"and stands still": {lists: lists{of(-time.Hour, list(x(1))), of(-time.Hour+15*time.Second, list(x(1)))},
			want: "x 15", read: map[string]int{"repeated": 1}},
		"of a container that was started by that clock": {started: time.Hour - 10*time.Second,
			lists: lists{of(-time.Hour, list(x(1)))}, want: "x 12"},
		"a moment far in the future, once": {lists: lists{list(x(1)), of(-1e9*time.Second, list(x(1))), list(x(1))},
			want: "x 45"},
		"a list that is older than max-age": {lists: lists{list(x(1)), of(maxAge, list(x(1))), list(x(1))}, want: "x 45",
			read: map[string]int{"filled": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				started := time.Now().Add(-time.Hour)
				j := newCounting(t, map[string]run{"a/p/y": {2, started}})
				if c.started != 0 {
					started = time.Now().Add(c.started)
				}
				for _, pod := range []string{"a/p", "b/p", "a/new?"} {
					j.runs[pod+"/x"] = run{1, started}
				}
				got := ""
				for i, list := range c.lists {
					if i > 0 {
						time.Sleep(15 * time.Second)
					}
					got = j.seconds(list(time.Now())...)
				}
				if got != c.want {
					t.Errorf("seconds: %s; want %s", got, c.want)
				}
				if !maps.Equal(j.read, c.read) {
					t.Errorf("readings: %v, want %v", j.read, c.read)
				}
			})
		})
	}
}

// TestRestartedContainerCountsFromItsStart has what metrics-server serves of a pod of which one container is restarted:
// nothing for two ticks.
func TestRestartedContainerCountsFromItsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().Add(-time.Hour)
		j := newCounting(t, map[string]run{"a/p/x": {1, start}, "a/p/y": {2, start}})
		step := func(in time.Duration, want string) {
			t.Helper()
			time.Sleep(in)
			pod := item("a", "p", time.Now(), container("x", v(1), v(1)), container("y", v(2), v(1)))
			if got := j.seconds(over(12*time.Second, pod)); got != want {
				t.Errorf("seconds: %s; want %s", got, want)
			}
		}
		step(0, "x 12, y 24")
		j.runs["a/p/x"] = run{3, time.Now().Add(15 * time.Second)}
		step(45*time.Second, "x 12, y 114")
		delete(j.runs, "a/p/x") // it has crashed
		step(15*time.Second, "x -, y 144")
		j.runs["a/p/x"] = run{4, time.Now().Add(time.Second)}
		step(15*time.Second, "x 12, y 174")
		j.runs["a/p/x"] = run{1, start} // what the metadata say is old: an event that came late
		step(15*time.Second, "x 102, y 204")
	})
}

// TestGoneContainersAreDropped has a pod whose containers come and go, and an outage of hours.
func TestGoneContainersAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newCounting(t, map[string]run{"a/p/y": {1, time.Now().Add(-time.Hour)}})
		p, _ := j.cache.Find([]byte("a"), []byte("p"))
		for id := range uint64(100) {
			time.Sleep(5 * time.Minute)
			j.runs["a/p/x"] = run{100 + id, time.Now().Add(-time.Minute)}
			j.seconds(item("a", "p", time.Now(), container("x", v(1), v(1)), container("y", v(1), v(1))))
		}
		kept := 0
		for id := range uint64(100) {
			if !math.IsNaN(p.Counters.Get(100 + id).Seconds()) {
				kept++
			}
		}
		if kept != 13 {
			t.Errorf("%d of the containers are kept, want those of an hour: 13", kept)
		}
		time.Sleep(5 * time.Hour)
		before := p.Counters.Get(1).Seconds()
		j.runs["a/p/x"] = run{300, time.Now().Add(-time.Minute)}
		j.seconds(item("a", "p", time.Now(), container("x", v(1), v(1)), container("y", v(1), v(1))))
		if got := p.Counters.Get(1).Seconds(); got != before+15 {
			t.Errorf("what has run all the time has %v s after %v", got, before)
		}
		if got := p.Counters.Get(199).Seconds(); !math.IsNaN(got) {
			t.Errorf("what is gone for hours has %v s", got)
		}
	})
}

// TestListThatFailsLeavesNoTrace counts what comes after attempts that were not done as if they had not been.
func TestListThatFailsLeavesNoTrace(t *testing.T) {
	for _, nodes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			j := newCounting(t, map[string]run{"a/p/x": {1, time.Now().Add(-time.Hour)}})
			want := []string{"x 15", "x 30"}
			if nodes {
				j.Store, want = nil, []string{"/p 15", "/p 30"}
			}
			list := func() metricsapi.Item { return item("a", "p", time.Now(), container("x", v(1), v(1))) }
			for _, want := range want {
				failing := list()
				failing.Containers[0].CPU = v(7)
				j.Begin()
				j.Join(&failing)
				if got := j.seconds(list()); got != want {
					t.Errorf("nodes %t: seconds: %s; want %s", nodes, got, want)
				}
				time.Sleep(15 * time.Second)
				j.Begin()
				j.Join(&failing)
				if got := words(t, j.served); got != want {
					t.Errorf("nodes %t: while a list is read, what is shown becomes %s, want %s", nodes, got, want)
				}
			}
		})
	}
}

func TestExpireKeepsSecondsInStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		j := newCounting(t, map[string]run{"a/p/x": {1, now.Add(-time.Hour)}, "a/q/x": {1, now.Add(-time.Hour)}})
		for _, older := range []time.Duration{0, time.Second} {
			j.refresh(item("a", "new", now.Add(-3*time.Minute), container("x", v(9), v(1))),
				item("a", "q", now.Add(-2*time.Minute-older), container("x", v(2), v(1))),
				item("b", "p", now.Add(-3*time.Minute), container("x", v(9), v(1))),
				item("a", "p", now, container("x", v(1), v(1))))
		}
		for _, step := range []struct {
			in   time.Duration
			want string
		}{
			{0, "a/new?/x -, a/q/x 30 then, b/p/x -, x 15"}, {2 * time.Minute, "a/q/x 30 then, x 15"},
			{3 * time.Minute, "x 15"}, {5 * time.Minute, ""},
		} {
			if got := words(t, j.Expire(now.Add(step.in))); got != step.want {
				t.Errorf("in %s: %s; want %s", step.in, got, step.want)
			}
		}
	})
}

func TestSecondsOfNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &counting{newNodeJoin(t), nil, map[string]int{}}
		j.Running = func(*store.Object[Text], string) (uint64, int64, bool) { panic("nodes have no containers") }
		at := func(name string, age time.Duration) metricsapi.Item {
			return item("", name, time.Now().Add(-age), container("", v(1), v(1)))
		}
		step := func(in time.Duration, want string, items ...metricsapi.Item) {
			t.Helper()
			for i := range items {
				items[i].Timestamp = items[i].Timestamp.Add(in)
			}
			time.Sleep(in)
			if got := j.seconds(items...); got != want {
				t.Errorf("seconds: %s; want %s", got, want)
			}
		}
		step(0, "/n1 15, /n2 15", at("n1", 0), at("n2", 0))
		step(15*time.Second, "/n1 30, /n2 30", at("n1", 0), at("n2", 0))
		step(0, "/n1 30 then, /n2 30", at("n1", time.Second), at("n2", 0))
		step(15*time.Second, "/n2 45", at("n2", 0))
		step(15*time.Second, "/n1 60, /n2 60", at("n1", 0), at("n2", 0)) // filled
		step(time.Hour, "/n1 75", at("n1", 0))                           // a hole
		step(maxAge, "/n1 375, /n2 75", at("n1", 0), at("n2", 0))
		step(time.Hour, "/n1 390", at("n1", 0))
		step(maxAge+time.Second, "/n1 691", at("n1", 0))
		step(15*time.Second, "/n1 706, /n2 15", at("n1", 0), at("n2", 0)) // n2 was forgotten
		if len(j.nodes) != 2 {
			t.Errorf("%d nodes are kept", len(j.nodes))
		}
	})
}

// TestNodeThatIsServedIsKept has a metrics-server that serves the same reading for hours, as --max-age allows it to.
func TestNodeThatIsServedIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &counting{newNodeJoin(t), nil, map[string]int{}}
		j.MaxAge = 3 * time.Hour
		j.Running = func(*store.Object[Text], string) (uint64, int64, bool) { return 0, 0, true }
		stuck := item("", "n", time.Now(), container("", v(1), v(1)))
		for range 11 {
			if got := j.seconds(stuck); got != "/n 15" {
				t.Errorf("seconds: %s", got)
			}
			time.Sleep(15 * time.Minute)
		}
		if got := j.seconds(item("", "n", time.Now(), container("", v(1), v(1)))); got != "/n 9915" {
			t.Errorf("when it goes on: %s; want 2h45m more", got)
		}
	})
}

func TestNothingIsCountedUnlessAsked(t *testing.T) {
	j := newCounting(t, map[string]run{"a/p/x": {1, time.Now().Add(-time.Hour)}})
	j.Running = nil
	b := j.refresh(item("a", "p", time.Now(), container("x", v(1), v(1))))
	p, _ := j.cache.Find([]byte("a"), []byte("p"))
	if cap(b.Seconds) > 0 || cap(j.readings) > 0 || b.Readings != [counter.Results]int{} ||
		!math.IsNaN(p.Counters.Get(1).Seconds()) {
		t.Errorf("%v seconds, readings %v", b.Seconds, b.Readings)
	}
}

// BenchmarkJoin joins 10,000 pods of two containers, and measures what is held for each container besides the pods.
func BenchmarkJoin(b *testing.B) {
	const pods, containers = 10_000, 2
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for _, counting := range []bool{false, true} {
		b.Run(fmt.Sprintf("counting=%t", counting), func(b *testing.B) {
			j, now := newJoin(b), time.Now().Add(-4*time.Minute)
			items := make([]metricsapi.Item, pods)
			for i := range items {
				name := fmt.Sprint("pod-", i)
				items[i] = item("a", name, now, container("x", v(1), v(2)), container("y", v(3), v(4)))
				j.cache.Put(known("a", name, now.Add(-time.Hour)))
			}
			before := heap()
			if counting {
				for i := range items {
					p, _ := j.cache.Find(items[i].Namespace, items[i].Name)
					p.Counters = &counter.Set{}
				}
				j.Running = func(_ *store.Object[Text], container string) (uint64, int64, bool) {
					return uint64(container[0]), 0, true
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(time.Second)
				for i := range items {
					items[i].Timestamp = time.Unix(min(now.Unix(), time.Now().Unix()), 0)
				}
				j.refresh(items...)
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N*pods*containers), "ns/container")
			b.ReportMetric(float64(heap()-before)/pods/containers, "heap-B/container")
			runtime.KeepAlive(j)
			runtime.KeepAlive(items)
		})
	}
}
