package series

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"weak"

	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/store"
)

// TestUsage has lists pushed one after the other, the first of them 1000 s after what is Since, and then each a second
// later.
func TestUsage(t *testing.T) {
	a, b, moved := pod("s", "a", "1"), pod("s", "b", "2"), pod("s", "a", "9")
	same := pod("s", "a", "1") // the same text in another object
	const since, first = 1000, 2000
	for name, test := range map[string]struct {
		lists []usage
		want  map[string]string // what the receiver has
	}{
		"a reading is sent once, with its own timestamp": {
			[]usage{{{a, "c", 1001, 1, 10}}, {{a, "c", 1001, 1, 10}}, {{same, "c", 1016, 2, 20}}},
			map[string]string{of("cpu", "a", "1"): "[1001000:1 1016000:2]",
				of("mem", "a", "1"): "[1001000:10 1016000:20]"}},
		"an older reading, of another replica, is not sent": {
			[]usage{{{a, "c", 1010, 1, none}}, {{a, "c", 1008, 2, none}}, {{a, "c", 1025, 3, none}}},
			map[string]string{of("cpu", "a", "1"): "[1010000:1 1025000:3]"}},
		"a reading from before the start is not sent": {
			[]usage{{{a, "c", 1000, 1, none}}, {{a, "c", 1015, 2, none}}},
			map[string]string{of("cpu", "a", "1"): "[1015000:2]"}},
		"but ends what it is of, as a process before this one may have begun that": {
			[]usage{{{a, "c", 1000, 1, none}}, {{a, "c", 1000, 1, none}}, {}},
			map[string]string{of("cpu", "a", "1"): "[2002000:stale]"}},
		"and with other labels": {
			[]usage{{{a, "c", 1000, 1, none}}, {{moved, "c", 1000, 1, none}}, {{moved, "c", 1015, 3, none}}},
			map[string]string{of("cpu", "a", "1"): "[1015000:stale]", of("cpu", "a", "9"): "[1015000:3]"}},
		"a pod that is gone has ended": {
			[]usage{{{a, "c", 1001, 1, 10}, {b, "c", 1002, 2, none}}, {{b, "c", 1003, 3, none}}},
			map[string]string{of("cpu", "a", "1"): "[1001000:1 2001000:stale]",
				of("mem", "a", "1"): "[1001000:10 2001000:stale]", of("cpu", "b", "2"): "[1002000:2 1003000:3]"}},
		"and the last of them": {
			[]usage{{{a, "c", 1001, 1, none}}, {}, {}},
			map[string]string{of("cpu", "a", "1"): "[1001000:1 2001000:stale]"}},
		"and a container of a pod": {
			[]usage{{{a, "c", 1001, 1, none}, {a, "d", 1001, 2, none}}, {{a, "d", 1016, 3, none}}},
			map[string]string{of("cpu", "a", "1"): "[1001000:1 2001000:stale]",
				strings.Replace(of("cpu", "a", "1"), `"c"`, `"d"`, 1): "[1001000:2 1016000:3]"}},
		"one that comes back goes on with readings of after its end": {
			[]usage{{{a, "c", 1001, 1, none}}, {}, {{a, "c", 2000, 2, none}}, {{a, "c", 2001, 3, none}},
				{{a, "c", 2015, 4, none}}},
			map[string]string{of("cpu", "a", "1"): "[1001000:1 2001000:stale 2015000:4]"}},
		"one whose reading is ahead of the clock ends behind that": {
			[]usage{{{a, "c", 2050, 1, none}}, {}, {{a, "c", 2051, 2, none}}, {{a, "c", 2052, 3, none}}},
			map[string]string{of("cpu", "a", "1"): "[2050000:1 2050001:stale 2052000:3]"}},
		"a usage that a reading does not have any more ends with that reading": {
			[]usage{{{a, "c", 1001, 1, 10}}, {{a, "c", 1016, none, 11}}, {{a, "c", 1031, 3, 12}}},
			map[string]string{of("cpu", "a", "1"): "[1001000:1 1016000:stale 1031000:3]",
				of("mem", "a", "1"): "[1001000:10 1016000:11 1031000:12]"}},
		"and all of them": {
			[]usage{{{a, "c", 1001, 1, 10}}, {{a, "c", 1016, none, none}}, {}, {{a, "c", 1016, 3, 12}}},
			map[string]string{of("cpu", "a", "1"): "[1001000:1 1016000:stale]",
				of("mem", "a", "1"): "[1001000:10 1016000:stale]"}},
		"with other labels another series begins with the reading that the former ends with": {
			[]usage{{{a, "c", 1001, 1, none}}, {{moved, "c", 1016, 2, none}}, {{moved, "c", 1031, 3, none}}},
			map[string]string{of("cpu", "a", "1"): "[1001000:1 1016000:stale]", of("cpu", "a", "9"): "[1016000:2 1031000:3]"}},
		"but not before there is one": {
			[]usage{{{a, "c", 1001, 1, none}}, {{moved, "c", 1001, 1, none}}, {{a, "c", 1001, 1, none}}, {}},
			map[string]string{of("cpu", "a", "1"): "[1001000:1 2003000:stale]"}},
		"and the first again with its labels": {
			[]usage{{{a, "c", 1001, 1, none}}, {{moved, "c", 1016, 2, none}}, {{a, "c", 1031, 3, none}}},
			map[string]string{of("cpu", "a", "1"): "[1001000:1 1016000:stale 1031000:3]",
				of("cpu", "a", "9"): "[1016000:2 1031000:stale]"}},
		"other labels without a usage": {
			[]usage{{{a, "c", 1001, 1, 10}}, {{moved, "c", 1016, 2, none}}, {{moved, "c", 1031, 3, 30}}},
			map[string]string{of("cpu", "a", "1"): "[1001000:1 1016000:stale]",
				of("mem", "a", "1"): "[1001000:10 1016000:stale]",
				of("cpu", "a", "9"): "[1016000:2 1031000:3]", of("mem", "a", "9"): "[1031000:30]"}},
		"a pod of that name in another namespace is another one": {
			[]usage{{{pod("r", "a", "1"), "c", 1001, 1, none}, {a, "c", 1001, 2, none}}, {{a, "c", 1016, 3, none}}},
			map[string]string{strings.Replace(of("cpu", "a", "1"), `"s"`, `"r"`, 1): "[1001000:1 2001000:stale]",
				of("cpu", "a", "1"): "[1001000:2 1016000:3]"}},
		"a name that others begin with": {
			[]usage{{{a, "c", 1001, 1, none}, {pod("s", "a-1", "1"), "c", 1001, 2, none},
				{pod("s", "a.b", "1"), "c", 1001, 3, none},
				{pod("s", "a1", "1"), "c", 1001, 4, none}}, {{a, "c", 1016, 5, none}, {pod("s", "a1", "1"), "c", 1016, 6, none}}},
			map[string]string{of("cpu", "a", "1"): "[1001000:1 1016000:5]", of("cpu", "a-1", "1"): "[1001000:2 2001000:stale]",
				of("cpu", "a.b", "1"): "[1001000:3 2001000:stale]", of("cpu", "a1", "1"): "[1001000:4 1016000:6]"}},
		"containers that were last seen with several objects of their pod": {
			[]usage{{{a, "c", 1001, 1, none}}, {{same, "c", 1001, 1, none}, {same, "d", 1001, 2, none}},
				{{same, "c", 1016, 3, none}, {same, "d", 1016, 4, none}}, {}},
			map[string]string{of("cpu", "a", "1"): "[1001000:1 1016000:3 2003000:stale]",
				strings.Replace(of("cpu", "a", "1"), `"c"`, `"d"`, 1): "[1001000:2 1016000:4 2003000:stale]"}},
		"a list may be in any order": {
			[]usage{{{b, "c", 1001, 2, none}, {a, "c", 1001, 1, none}}, {{a, "c", 1016, 3, none}, {b, "c", 1016, 4, none}},
				{{b, "c", 1031, 6, none}, {a, "c", 1031, 5, none}}},
			map[string]string{of("cpu", "a", "1"): "[1001000:1 1016000:3 1031000:5]",
				of("cpu", "b", "2"): "[1001000:2 1016000:4 1031000:6]"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTaker(t, 0)
			u := r.usageOf(cpu, memory)
			u.Since = since
			for i, list := range test.lists {
				if err := r.push(func(ctx context.Context, o *push.Out) error {
					return u.Push(ctx, o, list.read, first*1000+int64(i)*1000)
				}); err != nil {
					t.Fatal(err)
				}
			}
			r.want(test.want)
		})
	}
}

// TestACountersValueGoesWithItsMoment has lists pushed as in TestUsage, in which the value of a counter may be as of
// another moment than the reading: that of a gauge goes, and the counter's series neither goes back in time nor ends.
func TestACountersValueGoesWithItsMoment(t *testing.T) {
	a, moved := pod("s", "a", "1"), pod("s", "a", "9")
	seconds := *memory
	seconds.Name, seconds.Kind = "seconds_total", "counter"
	counter := func(ip string) string { return of("seconds_total", "a", ip) }
	type list struct {
		usage
		untimely []bool
	}
	then := []bool{true}
	for name, test := range map[string]struct {
		lists []list
		want  map[string]string // what the receiver has
	}{
		"the reading of another replica": {
			[]list{{usage{{a, "c", 1000, 1, 100}}, nil}, {usage{{a, "c", 1010, 2, 130}}, then},
				{usage{{a, "c", 1030, 3, 160}}, nil}},
			map[string]string{of("cpu", "a", "1"): "[1000000:1 1010000:2 1030000:3]",
				counter("1"): "[1000000:100 1030000:160]"}},
		"of one container of two": {
			[]list{{usage{{a, "b", 1000, 1, 50}, {a, "c", 1000, 1, 100}}, nil},
				{usage{{a, "b", 1010, none, 60}, {a, "c", 1010, none, 130}}, []bool{false, true}}},
			map[string]string{strings.Replace(of("cpu", "a", "1"), `"c"`, `"b"`, 1): "[1000000:1 1010000:stale]",
				strings.Replace(counter("1"), `"c"`, `"b"`, 1): "[1000000:50 1010000:60]",
				of("cpu", "a", "1"):                            "[1000000:1 1010000:stale]", counter("1"): "[1000000:100]"}},
		"the first that is pushed": {
			[]list{{usage{{a, "c", 1010, 2, 130}}, then}, {usage{{a, "c", 1030, 3, 160}}, nil}},
			map[string]string{of("cpu", "a", "1"): "[1010000:2 1030000:3]", counter("1"): "[1030000:160]"}},
		"after it the pod is gone": {
			[]list{{usage{{a, "c", 1000, 1, 100}}, nil}, {usage{{a, "c", 1010, 2, 130}}, then}, {}},
			map[string]string{of("cpu", "a", "1"): "[1000000:1 1010000:2 2002000:stale]",
				counter("1"): "[1000000:100 2002000:stale]"}},
		"with other labels the former series ends all the same": {
			[]list{{usage{{a, "c", 1000, 1, 100}}, nil}, {usage{{moved, "c", 1010, 2, 130}}, then},
				{usage{{moved, "c", 1030, 3, 160}}, nil}},
			map[string]string{of("cpu", "a", "1"): "[1000000:1 1010000:stale]", of("cpu", "a", "9"): "[1010000:2 1030000:3]",
				counter("1"): "[1000000:100 1010000:stale]", counter("9"): "[1030000:160]"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTaker(t, 0)
			u := r.usageOf(cpu, &seconds)
			for i, list := range test.lists {
				if err := r.push(func(ctx context.Context, o *push.Out) error {
					return u.Push(ctx, o, func(f func(*sample.Batch)) {
						list.read(func(b *sample.Batch) { b.Untimely = list.untimely; f(b) })
					}, 2_000_000+int64(i)*1000)
				}); err != nil {
					t.Fatal(err)
				}
			}
			r.want(test.want)
		})
	}
}

func TestUsageOfNodes(t *testing.T) {
	for name, lists := range map[string][]usage{
		"in order": {
			{{node, "n1", 1001, 1, none}, {node, "n2", 1002, 2, none}}, {{node, "n2", 1017, 3, none}, {node, "n3", 1018, 4, none}},
			{{node, "n1", 2016, 5, none}, {node, "n2", 1032, 6, none}, {node, "n3", 1018, 4, none}}},
		"in another order": {
			{{node, "n2", 1002, 2, none}, {node, "n1", 1001, 1, none}}, {{node, "n3", 1018, 4, none}, {node, "n2", 1017, 3, none}},
			{{node, "n3", 1018, 4, none}, {node, "n1", 2016, 5, none}, {node, "n2", 1032, 6, none}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTaker(t, 1)
			u := r.usageOf(nodeCPU)
			for i, list := range lists {
				if err := r.push(func(ctx context.Context, o *push.Out) error {
					return u.Push(ctx, o, list.read, 2_000_000+int64(i)*1000)
				}); err != nil {
					t.Fatal(err)
				}
			}
			r.want(map[string]string{ofNode("n1"): "[1001000:1 2001000:stale 2016000:5]",
				ofNode("n2"): "[1002000:2 1017000:3 1032000:6]", ofNode("n3"): "[1018000:4]"})
		})
	}
}

// TestUsageThatChangesWithinAPush has the list change as the receiver has got its first pod, a, of a, c and e. What is
// behind that is pushed as it is then; what was before it, with the next push.
func TestUsageThatChangesWithinAPush(t *testing.T) {
	all := func(at int64, names string) (list usage) {
		for _, name := range strings.Split(names, "") {
			list = append(list, reading{pod("s", name, "1"), "c", at, float64(at), none})
		}
		return list
	}
	moved := all(1016, "ace")
	moved[1].pod, moved[0].pod = pod("s", "c", "9"), pod("s", "a", "9")
	for name, test := range map[string]struct {
		then usage
		want map[string]string // in place of what c and e have where nothing happens; "" for nothing
	}{
		"nothing":                     {all(1016, "ace"), nil},
		"a pod comes behind it":       {all(1016, "acde"), map[string]string{of("cpu", "d", "1"): "[1016000:1016]"}},
		"a pod comes before it":       {all(1016, "Aace"), map[string]string{of("cpu", "A", "1"): "[1016000:1016]"}},
		"a pod goes behind it":        {all(1016, "ae"), map[string]string{of("cpu", "c", "1"): "[1001000:1001 2001000:stale]"}},
		"that was compared":           {all(1016, "ce"), map[string]string{of("cpu", "a", "1"): "[1001000:1001 1016000:1016 2002000:stale]"}},
		"the last goes":               {all(1016, "ac"), map[string]string{of("cpu", "e", "1"): "[1001000:1001 2001000:stale]"}},
		"the order is lost":           {all(1016, "eca"), nil},
		"the order is lost, one goes": {all(1016, "ea"), map[string]string{of("cpu", "c", "1"): "[1001000:1001 2001000:stale]"}},
		"pods get other labels": {moved, map[string]string{of("cpu", "c", "1"): "[1001000:1001 1016000:stale]",
			of("cpu", "c", "9"): "[1016000:1016]"}},
		"there are newer readings": {all(1031, "ace"), map[string]string{
			of("cpu", "a", "1"): "[1001000:1001 1016000:1016 1031000:1031]", of("cpu", "c", "1"): "[1001000:1001 1031000:1031]",
			of("cpu", "e", "1"): "[1001000:1001 1031000:1031]"}},
		"all go": {usage{}, map[string]string{of("cpu", "a", "1"): "[1001000:1001 1016000:1016 2002000:stale]",
			of("cpu", "c", "1"): "[1001000:1001 2001000:stale]", of("cpu", "e", "1"): "[1001000:1001 2001000:stale]"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTaker(t, 1)
			u := r.usageOf(cpu)
			for i, batches := range [][]usage{{all(1001, "ace")}, {all(1016, "ace"), test.then}, {test.then}} {
				next := 0
				if err := r.push(func(ctx context.Context, o *push.Out) error {
					return u.Push(ctx, o, func(f func(*sample.Batch)) {
						batches[min(next, len(batches)-1)].read(f)
						next++
					}, 2_000_000+int64(i)*1000)
				}); err != nil {
					t.Fatal(err)
				}
			}
			want := map[string]string{of("cpu", "a", "1"): "[1001000:1001 1016000:1016]",
				of("cpu", "c", "1"): "[1001000:1001 1016000:1016]", of("cpu", "e", "1"): "[1001000:1001 1016000:1016]"}
			maps.Copy(want, test.want)
			r.want(want)
		})
	}
}

// TestUsageWhileTheReceiverTakesNothing has three pods a, b and c in a list, and batches of one series.
func TestUsageWhileTheReceiverTakesNothing(t *testing.T) {
	list := func(at int64, names string) (list usage) {
		for _, name := range strings.Split(names, "") {
			list = append(list, reading{pod("s", name, "1"), "c", at, float64(at), none})
		}
		return list
	}
	const all = 1 << 10
	for name, test := range map[string]struct {
		lists  []usage
		taken  []int              // batches of each push
		answer func() (int, bool) // to the others
		fails  []bool             // the pushes
		want   map[string]string  // what it has
	}{
		"what was missed comes with the next push": {
			[]usage{list(1001, "abc"), list(1016, "abc"), list(1031, "abc")}, []int{all, 0, all}, refusesAll,
			[]bool{false, true, false},
			map[string]string{of("cpu", "a", "1"): "[1001000:1001 1031000:1031]",
				of("cpu", "b", "1"): "[1001000:1001 1031000:1031]",
				of("cpu", "c", "1"): "[1001000:1001 1031000:1031]"}},
		"the same reading too, where there is none newer": {
			[]usage{list(1001, "abc"), list(1016, "abc"), list(1016, "abc")}, []int{all, 1, all}, refusesAll,
			[]bool{false, true, false},
			map[string]string{of("cpu", "a", "1"): "[1001000:1001 1016000:1016]",
				of("cpu", "b", "1"): "[1001000:1001 1016000:1016]",
				of("cpu", "c", "1"): "[1001000:1001 1016000:1016]"}},
		"an end comes with the next push": {
			[]usage{list(1001, "abc"), list(1016, "ac"), list(1031, "ac")}, []int{all, 0, all}, refusesAll,
			[]bool{false, true, false},
			map[string]string{of("cpu", "a", "1"): "[1001000:1001 1031000:1031]",
				of("cpu", "b", "1"): "[1001000:1001 2002000:stale]",
				of("cpu", "c", "1"): "[1001000:1001 1031000:1031]"}},
		"also the first that is taken": {
			[]usage{list(1001, "abc"), {}, {}, {}}, []int{all, 0, 2, all}, refusesAll, []bool{false, true, true, false},
			map[string]string{of("cpu", "a", "1"): "[1001000:1001 2002000:stale]",
				of("cpu", "b", "1"): "[1001000:1001 2002000:stale]", of("cpu", "c", "1"): "[1001000:1001 2003000:stale]"}},
		"what has come and gone meanwhile was never there": {
			[]usage{list(1001, "ac"), list(1016, "abc"), list(1031, "ac")}, []int{all, 1, all}, refusesAll,
			[]bool{false, true, false},
			map[string]string{of("cpu", "a", "1"): "[1001000:1001 1016000:1016 1031000:1031]",
				of("cpu", "c", "1"): "[1001000:1001 1031000:1031]"}},
		"what it refuses for good is not sent again": {
			[]usage{list(1001, "abc"), list(1016, "abc"), list(1016, "ab")}, []int{all, 1, all}, refuses,
			[]bool{false, true, false},
			map[string]string{of("cpu", "a", "1"): "[1001000:1001 1016000:1016]", of("cpu", "b", "1"): "[1001000:1001]",
				of("cpu", "c", "1"): "[1001000:1001 2002000:stale]"}},
		"what it takes without saying so goes on behind that": {
			[]usage{list(1001, "abc"), list(1016, "bc"), list(2000, "abc"), list(2002, "abc")}, []int{all, 0, all, all},
			func() (int, bool) { return http.StatusForbidden, true }, []bool{false, true, false, false},
			map[string]string{of("cpu", "a", "1"): "[1001000:1001 2001000:stale 2002000:2002]",
				of("cpu", "b", "1"): "[1001000:1001 2000000:2000 2002000:2002]",
				of("cpu", "c", "1"): "[1001000:1001 2000000:2000 2002000:2002]"}},
		"nor is a reading sent that is older than what it may have": {
			[]usage{list(1001, "ab"), list(1016, "ab"), list(1010, "ab"), list(1016, "ab"), list(1017, "ab")},
			[]int{all, 0, all, all, all}, func() (int, bool) { return http.StatusForbidden, true },
			[]bool{false, true, false, false, false},
			map[string]string{of("cpu", "a", "1"): "[1001000:1001 1016000:1016 1016000:1016 1017000:1017]",
				of("cpu", "b", "1"): "[1001000:1001 1010000:1010 1016000:1016 1017000:1017]"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTaker(t, 1)
			u := r.usageOf(cpu)
			for i, list := range test.lists {
				left := test.taken[i]
				r.Answer = func() (int, bool) {
					if left--; left >= 0 {
						return http.StatusOK, true
					}
					return test.answer()
				}
				if err := r.push(func(ctx context.Context, o *push.Out) error {
					return u.Push(ctx, o, list.read, 2_000_000+int64(i)*1000)
				}); (err != nil) != test.fails[i] {
					t.Fatalf("push %d: %v", i, err)
				}
			}
			r.want(test.want)
		})
	}
}

// TestUsageIsRememberedForMaxAge has a pod that is gone: once no reading of before its end can be served any more,
// nothing is kept of it.
func TestUsageIsRememberedForMaxAge(t *testing.T) {
	r := newTaker(t, 0)
	u := r.usageOf(cpu)
	u.MaxAge = 5 * time.Minute
	for _, test := range []struct {
		list usage
		at   int64
		kept int
	}{
		{usage{{pod("s", "a", "1"), "c", 1001, 1, none}}, 1002, 1}, {nil, 1003, 1}, {nil, 1302, 1}, {nil, 1303, 0},
	} {
		if err := r.push(func(ctx context.Context, o *push.Out) error {
			return u.Push(ctx, o, test.list.read, test.at*1000)
		}); err != nil {
			t.Fatal(err)
		}
		kept := 0
		for _, block := range u.sent {
			kept += len(block)
		}
		if kept != test.kept {
			t.Errorf("at %d there are %d records, want %d", test.at, kept, test.kept)
		}
	}
	r.want(map[string]string{of("cpu", "a", "1"): "[1001000:1 1003000:stale]"})
}

// TestNamesAreForgotten has nodes come and go, of which none comes back.
func TestNamesAreForgotten(t *testing.T) {
	r := newTaker(t, 0)
	u := r.usageOf(nodeCPU)
	u.MaxAge = 1
	const many = 1500
	want := map[string]string{}
	const pushes = 6
	for i := range int64(pushes) {
		var list usage
		for j := range many {
			name := fmt.Sprintf("n%d-%04d", i, j)
			list = append(list, reading{node, name, 1001 + i, float64(j), none})
			if want[ofNode(name)] = fmt.Sprintf("[%d:%d %d:stale]", 1001000+i*1000, j, 2001000+i*1000); i == pushes-1 {
				want[ofNode(name)] = fmt.Sprintf("[%d:%d]", 1001000+i*1000, j)
			}
		}
		if err := r.push(func(ctx context.Context, o *push.Out) error {
			return u.Push(ctx, o, list.read, 2_000_000+i*1000)
		}); err != nil {
			t.Fatal(err)
		}
		if len(u.names.all) > 4*many || len(u.names.index) != len(u.names.all) {
			t.Errorf("%d names, by %d numbers", len(u.names.index), len(u.names.all))
		}
	}
	r.want(want)
}

// TestNothingIsKeptOfPodsThatAreGone, in a push that fails or not.
func TestNothingIsKeptOfPodsThatAreGone(t *testing.T) {
	r := newTaker(t, 1)
	u := r.usageOf(cpu)
	u.MaxAge = 1
	pushed := func(list usage, at int64) {
		if err := r.push(func(ctx context.Context, o *push.Out) error {
			return u.Push(ctx, o, list.read, at)
		}); err != nil {
			t.Fatal(err)
		}
	}
	gone := func() (gone []weak.Pointer[store.Object[sample.Text]]) {
		var list usage
		for _, name := range []string{"a", "b", "c"} {
			list = append(list, reading{pod("s", name, "1"), "c", 1001, 1, none})
			gone = append(gone, weak.Make(list[len(list)-1].pod))
		}
		pushed(list, 2_000_000)
		return gone
	}()
	pushed(nil, 2_001_000)
	pushed(nil, 2_003_000)
	runtime.GC()
	for i, p := range gone {
		if p.Value() != nil {
			t.Errorf("pod %d is kept", i)
		}
	}
	runtime.KeepAlive(u)
}

// TestMemoryOfAPushWithoutNews has many containers of which the receiver has all: they are compared in pieces, and the
// records of what was compared are given back.
func TestMemoryOfAPushWithoutNews(t *testing.T) {
	r := newTaker(t, 0)
	u := r.usageOf(nodeCPU)
	const many = 3*maxPending + 100
	var list usage
	for i := range many {
		name := fmt.Sprintf("n%06d", i)
		list = append(list, reading{node, name, 1001, 1, none})
		u.sent.append([]record{{pod: node, name: u.names.find(name), at: 1001}})
	}
	var b *sample.Batch
	list.read(func(read *sample.Batch) { b = read })
	pieces, given := 0, 0
	if err := r.push(func(ctx context.Context, o *push.Out) error {
		return u.Push(ctx, o, func(f func(*sample.Batch)) {
			pieces++
			given = 0
			for _, block := range u.sent {
				if block == nil {
					given++
				}
			}
			f(b)
		}, 2_000_000)
	}); err != nil {
		t.Fatal(err)
	}
	if pieces != 4 || given != 3*maxPending/blockLen || cap(u.pending) > 2*maxPending {
		t.Errorf("%d pieces, of %d blocks %d are given back before the last, %d may be pending", pieces, many/blockLen, given,
			cap(u.pending))
	}
	r.want(map[string]string{})
}

func TestRecords(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	var all records
	var want []record
	more := func(n int) (more []record) {
		for range n {
			more = append(more, record{at: random.Uint32()})
		}
		return more
	}
	same := func(r records, want []record) {
		t.Helper()
		p := r.begin()
		for i := range want {
			found, next := r.at(p)
			if found == nil || *found != want[i] {
				t.Fatalf("the record %d is %v, want %v", i, found, want[i])
			}
			p = next
		}
		if found, next := r.at(p); found != nil || next != p {
			t.Fatalf("there is %v behind the last record", found)
		}
	}
	for _, n := range []int{0, 1, blockLen - 2, 1, 1, 2*blockLen + 5, 3} {
		of := more(n)
		all.append(of)
		want = append(want, of...)
		same(all, want)
	}
	// One after the other is taken out, and a part of it put into others.
	var taken records
	var wantTaken []record
	for p := all.begin(); ; {
		left := p
		n := random.IntN(blockLen)
		for range n {
			if _, next := all.at(p); next != p {
				p = next
			}
		}
		if p == left && n > 0 {
			break
		}
		of := more(n / 2)
		all.drop(p)
		taken.append(of)
		wantTaken = append(wantTaken, of...)
		for i := range p.block {
			if all[i] != nil {
				t.Fatalf("block %d is kept, of which nothing is left before %v", i, p)
			}
		}
		begin := p.index
		for i := range p.block {
			begin += min(blockLen, len(want)-i*blockLen)
		}
		rest := records{}
		rest = append(append(rest, taken...), slices.Clone(all).from(p)...)
		same(rest, append(slices.Clone(wantTaken), want[begin:]...))
	}
}

// TestUsageOfManyPods is about what holds whatever happens: no series goes back in time (the receiver sees to that),
// what was pushed without an error is what was there, and what is not there has ended. In every other seed the receiver
// takes what it says to refuse, so that nobody knows whether it has a series that has ended since; there labels do not
// change, and no reading is older than the one before.
func TestUsageOfManyPods(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			r := newTaker(t, 20)
			u := r.usageOf(cpu, memory)
			u.MaxAge = 5 * time.Minute
			gone := map[string]int64{} // when a pod was missing in a push that failed
			pods, ages := map[string]*store.Object[sample.Text]{}, map[string]int64{}
			var list usage
			now := int64(10_000)
			change := func(n int) {
				for range n {
					name := fmt.Sprintf("p%d", random.IntN(60))
					switch random.IntN(3) {
					case 0:
						delete(pods, name)
					case 1:
						pods[name] = pod("s", name, fmt.Sprint(random.Uint64N(2)|seed&1))
					default:
						pods[name] = pod("s", name, "1")
					}
				}
				list = nil
				for _, name := range slices.Sorted(maps.Keys(pods)) {
					if random.IntN(4) > 0 || ages[name] < now-290 {
						ages[name] = now - random.Int64N(20)*int64(1-seed%2)
					}
					for c := range 1 + len(name)%3 {
						list = append(list, reading{pods[name], fmt.Sprint("c", c), ages[name], float64(ages[name]), 1})
					}
				}
				if random.IntN(4) == 0 {
					slices.SortStableFunc(list, func(a, b reading) int { return strings.Compare(b.pod.Value.Head, a.pod.Value.Head) })
				}
			}
			failed, within := 0, 0
			for ; now < 10_000+15*60; now += 15 {
				change(30)
				left := 1 << 20 // batches that are taken
				if random.IntN(3) == 0 {
					left = random.IntN(8)
				}
				r.Answer = func() (int, bool) {
					if left--; left < 0 {
						return http.StatusForbidden, seed%2 == 1
					}
					return http.StatusOK, true
				}
				pushNow := func(at int64, read func(func(*sample.Batch))) bool {
					return r.push(func(ctx context.Context, o *push.Out) error { return u.Push(ctx, o, read, at) }) == nil
				}
				missing := map[string]bool{}
				if within++; !pushNow(now*1000, func(f func(*sample.Batch)) {
					if random.IntN(4) == 0 {
						change(3)
					}
					for i := range 60 {
						if name := fmt.Sprintf("p%d", i); pods[name] == nil {
							missing[name] = true
						}
					}
					list.read(f)
				}) {
					for name := range missing {
						gone[name] = now
					}
					failed++
					continue
				}
				if left < 100 || !pushNow(now*1000+1, list.read) {
					continue
				}
				live, has := r.Live(), r.Samples()
				for _, l := range list {
					for _, family := range []string{"cpu", "mem"} {
						name, rest, _ := strings.Cut(l.pod.Value.Head, `",ip="`)
						series := func(ip string) string {
							return strings.Replace(of(family, name, ip), `"c"`, `"`+l.name+`"`, 1)
						}
						ip := rest[:1]
						last, is := live[series(ip)]
						if is && (last.At < l.at*1000 && l.at > gone[name] || family == "cpu" && last.Value*1000 != float64(last.At)) {
							t.Fatalf("%s: %v, want a reading of %d or later", series(ip), last, l.at)
						}
						// Its labels, or it, may be missing only where the container has something from after that reading.
						later := func(ip string) bool {
							samples := has[series(ip)]
							return len(samples) > 0 && samples[len(samples)-1].At >= l.at*1000
						}
						if !is && l.at > gone[name] && !later("0") && !later("1") {
							t.Fatalf("at %d: %s of %d is missing", now, series(ip), l.at)
						}
						delete(live, series("0"))
						delete(live, series("1"))
					}
				}
				if len(live) > 0 && seed%2 == 0 {
					t.Fatalf("at %d: %d series go on without a pod, such as %v", now, len(live), slices.Sorted(maps.Keys(live))[0])
				}
			}
			if failed == 0 || failed == within || len(u.names.all) != 3 {
				t.Errorf("%d of %d pushes failed, %d names", failed, within, len(u.names.all))
			}
		})
	}
}
