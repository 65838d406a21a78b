package top

import (
	"fmt"
	"math"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// moment is what a pod a/p of a Deployment on a node has, and how long after the step before; "" for a failure.
type moment struct {
	after time.Duration
	cpu   string
}

// past is a row's history of CPU as text.
func past(r map[string]any) string {
	all, _ := r["cpuHistory"].([]any)
	return strings.Trim(fmt.Sprint(all), "[]")
}

// reads has the lists read with this usage of the pod and its node.
func (c *cluster) reads(cpu string) {
	c.lists[podUsage], c.lists[nodeUsage] = nil, nil
	if cpu == "" {
		c.forbidden[podUsage], c.forbidden[nodeUsage] = true, true
	} else {
		clear(c.forbidden)
		c.node("n", cpu+" 1Gi", "")
		c.pod("a/web-1-x", "n", "ReplicaSet/web-1", "app "+cpu+" 1Mi")
	}
	c.refresh()
}

// TestHistoryIsOfEachReading of the lists, a value for each step, with gaps where readings failed.
func TestHistoryIsOfEachReading(t *testing.T) {
	const s = time.Second
	for name, test := range map[string]struct {
		moments []moment
		want    string
		peak    float64
	}{
		"the first is there at once": {[]moment{{0, "100m"}}, "0.1", .1},
		"one a reading":              {[]moment{{0, "100m"}, {15 * s, "300m"}, {15 * s, "200m"}}, "0.1 0.3 0.2", .3},
		"a little late, a little early": {
			[]moment{{0, "1"}, {17 * s, "2"}, {13 * s, "3"}, {16 * s, "4"}, {12 * s, "5"}}, "1 2 3 4 5", 5},
		"of two within a step the last": {[]moment{{0, "1"}, {15 * s, "2"}, {3 * s, "3"}, {12 * s, "4"}}, "1 3 4", 4},
		"a reading that fails is a gap": {[]moment{{0, "1"}, {15 * s, ""}, {15 * s, "2"}}, "1 <nil> 2", 2},
		"several that fail": {
			[]moment{{0, "4"}, {15 * s, ""}, {61 * s, "2"}}, "4 <nil> <nil> <nil> <nil> 2", 4},
		"the last one fails": {[]moment{{0, "1"}, {15 * s, "2"}, {15 * s, ""}}, "1 2", 2},
		"none works for longer than history goes back": {
			[]moment{{0, "5"}, {15 * s, ""}, {40 * time.Minute, "1"}}, strings.Repeat("<nil> ", 59) + "1", 1},
		"a container without usage": {[]moment{{0, "1"}, {15 * s, "-"}, {15 * s, "2"}}, "1 <nil> 2", 2},
		"nothing is no gap":         {[]moment{{0, "1"}, {15 * s, "0"}}, "1 0", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				for i, m := range test.moments {
					time.Sleep(m.after)
					c.reads(m.cpu)
					if i == 0 {
						c.ask("")
					}
				}
				for _, level := range []string{"nodes", "namespaces", "workloads", "pods"} {
					a := c.ask("level=" + level)
					if a.Found != 1 || past(a.Rows[0]) != test.want || a.Rows[0]["cpuPeak"] != test.peak {
						t.Errorf("%s: %v (peak %v), want %s (%v)", level, a.Rows, a.Rows[0]["cpuPeak"], test.want, test.peak)
					}
					if len(a.Rows[0]["memoryHistory"].([]any)) != len(a.Rows[0]["cpuHistory"].([]any)) {
						t.Errorf("%s: of memory %v", level, a.Rows[0]["memoryHistory"])
					}
				}
				if a := c.ask("level=containers"); past(a.Rows[0]) != "" || a.Rows[0]["cpuPeak"] != nil {
					t.Errorf("of containers none is kept: %v", a.Rows)
				}
			})
		})
	}
}

// TestHistoryGoesBackAQuarterOfAnHour and is of the source's resolution.
func TestHistoryGoesBackAQuarterOfAnHour(t *testing.T) {
	for _, test := range []struct {
		period, interval time.Duration
		step             float64
		values           int
	}{
		{0, 15 * time.Second, 15, 60},
		{15 * time.Second, 15 * time.Second, 15, 60},
		{14970 * time.Millisecond, 15 * time.Second, 15, 60},
		{10 * time.Second, 10 * time.Second, 10, 90},
		{time.Second, time.Second, 10, 90},
		{time.Minute, 15 * time.Second, 60, 15},
		{15 * time.Second, time.Minute, 60, 15},
		{0, 10 * time.Minute, 600, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t)
			c.page.Interval, c.source.Period = test.interval, test.period
			c.reads("1000m")
			began := c.ask("").History["since"]
			for i := range 100 {
				time.Sleep(time.Duration(test.step * float64(time.Second)))
				c.reads(fmt.Sprintf("%dm", 1001+i))
				c.ask("")
			}
			a := c.ask("level=pods")
			values := a.Rows[0]["cpuHistory"].([]any)
			if len(values) != test.values || a.History["step"] != test.step || a.History["since"] != began ||
				a.History["newest"] != float64(time.Now().Unix()) || values[len(values)-1] != 1.1 {
				t.Errorf("period %s, interval %s: %d values %v, history %v, want %d with a step of %v s", test.period,
					test.interval, len(values), values, a.History, test.values, test.step)
			}
			first := float64(1100-test.values+1) / 1000
			if got := values[0].(float64); math.Abs(got-first) > .005 {
				t.Errorf("the oldest is %v, want %v", got, first)
			}
		})
	}
}

// TestSeveralReadingsInAStep: the value of a step is that of its last reading, and steps are as long as it is said.
func TestSeveralReadingsInAStep(t *testing.T) {
	for _, test := range []struct {
		every time.Duration
		step  float64
		rows  int // that there is room for at a step of 15 s; 0 for enough
		want  string
	}{{time.Second, 10, 0, "10 20 30 40 50 60 70 80 90"}, {15 * time.Second, 30, 5, "2 4 6 8 10 12 14 16 18"},
		{15 * time.Second, 60, 3, "4 8 12 16 20 24 28 32 36"}} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t)
			c.page.Interval, c.page.history.maxBytes = test.every, test.rows*(4*60+56)
			values := len(strings.Fields(test.want))
			for i := range values * int(test.step*float64(time.Second)/float64(test.every)) {
				if i > 0 {
					time.Sleep(test.every)
				}
				if c.reads(fmt.Sprint(i + 1)); i == 0 {
					c.ask("")
				}
			}
			if a := c.ask(""); past(a.Rows[0]) != test.want || a.History["step"] != test.step {
				t.Errorf("every %s: %s, history %v, want %s, step %v", test.every, past(a.Rows[0]), a.History, test.want, test.step)
			}
		})
	}
}

// TestAnotherPeriodOfTheSource begins history anew, but not that it is not known for a while.
func TestAnotherPeriodOfTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		next := func(period time.Duration, cpu, want string) {
			t.Helper()
			time.Sleep(15 * time.Second)
			c.source.Period = period
			c.reads(cpu)
			if a := c.ask("level=pods"); past(a.Rows[0]) != want {
				t.Errorf("%s, want %s", past(a.Rows[0]), want)
			}
		}
		next(0, "1", "1")
		next(15*time.Second, "2", "1 2")
		next(0, "3", "1 2 3")
		next(15200*time.Millisecond, "4", "1 2 3 4")
		next(time.Minute, "5", "5")
	})
}

// TestNothingIsKeptForNobody: within an hour after the last question, and from the next one on.
func TestNothingIsKeptForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.reads("1")
		if c.page.history.timer != nil {
			t.Error("history begins before anybody asks")
		}
		begin := c.ask("").History["since"]
		for range 4 * 59 {
			time.Sleep(15 * time.Second)
			c.reads("2")
		}
		c.get("/") // the page counts as well
		for range 4 * 59 {
			time.Sleep(15 * time.Second)
			c.reads("3")
		}
		c.page.history.mu.Lock()
		if h := &c.page.history; h.column != 8*59+1 || float64(h.since.Unix()) != begin {
			t.Errorf("%d columns", h.column)
		}
		c.page.history.mu.Unlock()
		time.Sleep(time.Minute + time.Second)
		c.reads("4")
		c.page.history.mu.Lock()
		if h := &c.page.history; h.of != nil || h.chunks != nil || len(h.lists) > 0 || h.last != nil {
			t.Errorf("an hour after the last question there is %+v", h)
		}
		c.page.history.mu.Unlock()
		a := c.ask("level=pods")
		if past(a.Rows[0]) != "4" || a.History["since"] != float64(time.Now().Unix()) {
			t.Errorf("it begins again with %v, %v", past(a.Rows[0]), a.History)
		}
	})
}

// TestAnotherConnection may be one to another cluster: nothing of the one before is shown.
func TestAnotherConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, other := newCluster(t), newCluster(t)
		c.reads("1")
		c.ask("")
		before := c.source
		c.source = Source{}
		if a := c.ask("level=pods"); len(a.Rows) > 0 || a.Totals["pods"] != 0 {
			t.Errorf("without a connection: %+v", a)
		}
		other.reads("2")
		c.source = other.source
		c.page.Observe(c.source, before.Lists[1]) // still on its way
		if a := c.ask("level=pods"); past(a.Rows[0]) != "2" {
			t.Errorf("%v", a.Rows)
		}
	})
}

// TestWhatExpiresIsNoReading: what is left of old readings is not recorded again.
func TestWhatExpiresIsNoReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.reads("1")
		c.ask("")
		time.Sleep(time.Minute)
		for _, l := range c.source.Lists {
			l.Loop.Expire()
			c.page.Observe(c.source, l)
		}
		if a := c.ask("level=pods"); past(a.Rows[0]) != "1" {
			t.Errorf("%v", a.Rows)
		}
		time.Sleep(5 * time.Minute)
		for _, l := range c.source.Lists {
			l.Loop.Expire()
			c.page.Observe(c.source, l)
		}
		if a := c.ask("level=pods"); len(a.Rows) > 0 || a.Totals["pods"] != 0 {
			t.Errorf("after they have expired: %+v", a)
		}
	})
}

// TestRowsComeAndGo: a new one has no past, one that is away for a while still has it, and that of one which is gone
// for a quarter of an hour is no one's.
func TestRowsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		read := func(pods ...string) {
			time.Sleep(15 * time.Second)
			c.lists[podUsage] = nil
			for _, p := range pods {
				c.pod("a/"+p, "n", "StatefulSet/"+p, "app 1 1Mi")
			}
			c.refresh()
		}
		shows := func(want ...string) {
			t.Helper()
			var got []string
			for _, r := range c.ask("level=pods").Rows {
				got = append(got, fmt.Sprint(r["name"], ": ", past(r)))
			}
			if !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		}
		read("p")
		shows("p: 1")
		read("p", "q")
		shows("p: 1 1", "q: <nil> 1")
		read("q")
		shows("q: <nil> 1 1")
		read("p", "q")
		shows("p: 1 1 <nil> 1", "q: <nil> 1 1 1")
		for range 61 {
			read("p")
		}
		if n := len(c.page.history.free); n != 2 { // as a pod, and as a workload
			t.Errorf("%d slots are free", n)
		}
		read("p", "r")
		shows("p:"+strings.Repeat(" 1", 60), "r:"+strings.Repeat(" <nil>", 59)+" 1")
		if h := &c.page.history; len(h.free) != 0 || len(h.last) != 5 { // two pods and workloads, a namespace
			t.Errorf("%d of %d slots are free", len(h.free), len(h.last))
		}
	})
}

// TestAListThatIsReadLater has its value of now for the column that others have begun.
func TestAListThatIsReadLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.reads("1")
		c.ask("")
		time.Sleep(15 * time.Second)
		c.lists[podUsage], c.lists[nodeUsage] = nil, nil
		c.uses("a/web-1-x", "app 2 1Mi")
		c.refreshOnly(c.source.Lists[1])
		if a := c.ask("level=nodes"); past(a.Rows[0]) != "1 1" {
			t.Errorf("nodes %v", a.Rows)
		}
		if a := c.ask("level=pods"); past(a.Rows[0]) != "1 2" {
			t.Errorf("pods %v", a.Rows)
		}
		time.Sleep(14 * time.Second) // and it should have been
		if a := c.ask("level=nodes"); past(a.Rows[0]) != "1 <nil>" {
			t.Errorf("nodes %v", a.Rows)
		}
	})
}

// TestMoreThanHistoryIsKeptOf, of pods and of workloads: the answer says so.
func TestMoreThanHistoryIsKeptOf(t *testing.T) {
	c := newCluster(t)
	c.node("n", "1 1Gi", "")
	c.page.history.maxPods, c.page.history.maxBytes = 1000, 200*(4*60+56)
	add := func(n int, owner string) {
		c.few(n, owner)
		c.refresh()
	}
	first := func(level string) (row map[string]any, a answered) {
		a = c.ask("limit=1&level=" + level)
		return a.Rows[0], a
	}
	add(197, "StatefulSet/db") // and a workload, a namespace and a node
	if r, a := first("pods"); past(r) != "0.001" || len(a.Missing) != 1 {
		t.Errorf("of as many as there is room for: %v, missing %q", r, a.Missing)
	}
	for most, want := range map[int]string{1000: "pods: there are more (198) than history is kept of",
		100: "pods: history is kept of up to 100 of them, there are 198"} {
		c.page.history.maxPods = most
		add(198, "StatefulSet/db")
		if r, a := first("pods"); past(r) != "" || r["cpuPeak"] != nil || !slices.Contains(a.Missing, want) {
			t.Errorf("of one more: %v, missing %q, want %q", r, a.Missing, want)
		}
		if r, a := first("workloads"); past(r) == "" || len(a.Missing) != 1 {
			t.Errorf("of their workload: %v, missing %q", r, a.Missing)
		}
	}

	// Of more workloads it is coarser, and then none.
	for _, test := range []struct {
		n    int
		past string
		step float64
	}{{98, "0.001", 15}, {160, "0.001", 30}, {250, "0.001", 60}, {270, "", 60}} {
		for _, owner := range []string{"StatefulSet/db-#", ""} {
			c.page.history.forget()
			add(test.n, owner)
			r, a := first("workloads")
			said := fmt.Sprintf("workloads: there are more (%d) than history is kept of", test.n)
			if past(r) != test.past || a.History["step"] != test.step ||
				slices.Contains(a.Missing, said) != (test.past == "") {
				t.Errorf("of %d workloads: %v, history %v, missing %q", test.n, r, a.History, a.Missing)
			}
			for _, level := range []string{"nodes", "namespaces"} {
				if r := c.ask("level=" + level).Rows; len(r) != 1 || past(r[0]) == "" {
					t.Errorf("beside %d workloads, of the %s: %v", test.n, level, r)
				}
			}
		}
	}
	add(10, "StatefulSet/db-#")
	c.refresh() // that there is room now is known after the first reading
	if r, a := first("pods"); past(r) == "" || len(a.Missing) != 1 {
		t.Errorf("of few again: %v, missing %q", r, a.Missing)
	}
}

// TestHistoryTakesAtMost8MiB, with what is kept beside it, of as many rows as it takes in.
func TestHistoryTakesAtMost8MiB(t *testing.T) {
	for _, step := range []time.Duration{10 * time.Second, 15 * time.Second, time.Minute} {
		c := newCluster(t)
		c.page.Interval = step
		c.reads("1")
		before := heap()
		c.ask("")
		h := &c.page.history
		for column := range uint32(3) {
			for i := range uint64(2 * h.capacity()) { // other ones each time
				h.put(workloads, i+uint64(column)<<32, 1, 1)
			}
			h.column += 2
			h.sweep(2)
		}
		took := heap() - before
		if took > 8<<20 || len(h.last) != h.capacity() {
			t.Errorf("%s: %d rows of %d take %d bytes", step, len(h.last), h.capacity(), took)
		}
		c.ask("") // so that it is there until here
	}
}

// TestRoomIsMadeForNewRows, where it is full: of those that are gone.
func TestRoomIsMadeForNewRows(t *testing.T) {
	c := newCluster(t)
	c.reads("1")
	c.ask("")
	h := &c.page.history
	for i := range uint64(h.capacity()) {
		h.put(workloads, i, 1, 1)
	}
	const one = 1 << 40
	if h.put(workloads, one, 1, 1); h.rows[workloads][one] != 0 {
		t.Error("there is room for one more")
	}
	h.column += 2
	if h.put(workloads, one, 1, 1); h.rows[workloads][one] == 0 {
		t.Error("there is no room for a new row in place of those that are gone")
	}
}

// TestCodes: they are in the order of their values, and off by at most one part in 2,000.
func TestCodes(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for figure, bounds := range [][2]float64{cpu: {1e-9, 1e9}, memory: {1, 1e18}} {
		for range 100_000 {
			value := bounds[0] * math.Exp(r.Float64()*math.Log(bounds[1]/bounds[0]))
			c := encode(figure, value)
			if got := c.value(figure); math.Abs(got-value) > value/2000 {
				t.Fatalf("%g becomes %g", value, got)
			}
			if more := encode(figure, value*1.0011); more <= c {
				t.Fatalf("%g is %d, %g is %d", value, c, value*1.0011, more)
			}
		}
		for value, want := range map[float64]float64{0: 0, -1: 0, math.Inf(1): code(math.MaxUint16).value(figure),
			bounds[0] / 1e6: code(2).value(figure)} {
			if got := encode(figure, value).value(figure); got != want {
				t.Errorf("%g becomes %g, want %g", value, got, want)
			}
		}
		if got := encode(figure, math.NaN()).value(figure); !math.IsNaN(got) {
			t.Errorf("nothing becomes %g", got)
		}
	}
}
