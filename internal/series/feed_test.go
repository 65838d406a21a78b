package series

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"metrics-server-prom/internal/family"
	"metrics-server-prom/internal/kept"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/objects"
	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/scope"
	"metrics-server-prom/internal/state"
	"metrics-server-prom/internal/store"
)

// table has a family of each kind on each page.
var table = family.Table{
	{Name: "node_cpu", Kind: "gauge", Source: "nodes", Labels: (*label.Usage).Node, Value: cpu.Value},
	{Name: "pod_cpu", Kind: "gauge", Source: "pods", Labels: (*label.Usage).Pod, Value: cpu.Value},
	{Page: "cadvisor", Name: "seconds_total", Kind: "counter", Source: "pods", Labels: (*label.Usage).Pod, Value: memory.Value},
	{Page: "cadvisor", Name: "machine", Kind: "gauge", Source: "nodes", State: state.MachineCores},
	{Page: "kube-state-metrics", Name: "node_info", Kind: "gauge", Source: "nodes", State: state.NodeInfo},
	{Page: "kube-state-metrics", Name: "replicaset_owner", Kind: "gauge", Source: "replicasets", State: state.MetadataOwner},
	{Page: "kube-state-metrics", Name: "pod_phase", Kind: "gauge", Source: "pods", State: state.PodPhase},
	{Page: "kube-state-metrics", Name: "restarts_total", Kind: "counter", Source: "pods", State: state.ContainerRestarts},
}

const machine, nodeInfo, replicaSetOwner = 3, 4, 5

// feeder is a feed to a taker, inside a synctest bubble; the taker is outside.
type feeder struct {
	*taker
	Feed
	is Known // what the feed finds
}

// feeding has a process begin with the bubble's time. Its pages are all that there are.
func feeding(t *testing.T, set scope.Settings, do func(t *testing.T, f *feeder)) {
	t.Helper()
	r := newTaker(t, 3)
	synctest.Test(t, func(t *testing.T) {
		set.MaxAge = 5 * time.Minute
		f := &feeder{taker: r}
		r.t, r.epoch = t, time.Now().UnixMilli()
		f.Feed = Feed{Families: table, Scope: &set, Target: r.pusher.Target, Pulse: refresh.NewPulse(), Self: &r.self,
			Known:  func(context.Context) Known { return f.is },
			Failed: func(context.Context) error { return errors.New("no data") }}
		r.pusher.Ended = f.End
		f.Begin()
		do(t, f)
	})
}

var furtherPages = []string{"cadvisor", "kube-state-metrics"}

// after pushes at a moment, in seconds after the beginning.
func (f *feeder) after(second int64, once bool) error {
	time.Sleep(time.Until(time.UnixMilli(f.epoch).Add(time.Duration(second) * time.Second)))
	f.pusher.Series = func(ctx context.Context, o *push.Out, _ bool) error { return f.Push(ctx, o, once) }
	_, err := f.pusher.Once(f.t.Context())
	return err
}

// sees has the feed find readings of nodes and of the pods of each namespace, which are of so many seconds after the
// beginning, and objects.
func (f *feeder) sees(known objects.Known, lists ...usage) {
	f.is = Known{Known: known}
	for _, list := range lists {
		list = slices.Clone(list)
		for i := range list {
			list[i].at += f.epoch / 1000
		}
		f.is.Lists = append(f.is.Lists, list.read)
	}
}

// stateOf is objects: pods by their phase, nodes, and ReplicaSets by the name of their owner.
func stateOf(phases map[string]string, nodes []string, owners map[string]string) (k objects.Known) {
	var leaf store.Leaf[sample.Text]
	for _, name := range slices.Sorted(maps.Keys(phases)) {
		o := pod("s", name, "1")
		o.Value.Shared, o.Value.Own = (&kept.Pod{Phase: phases[name], Containers: []kept.Container{
			{Name: "c", Status: kept.Status{Known: true, Restarts: 2}}}}).Pack()
		leaf.Entries = append(leaf.Entries, store.Entry[sample.Text]{Key: store.Key{Namespace: "s", Name: name}, Object: o})
	}
	var nodeLeaf, setLeaf store.Leaf[string]
	add := func(to *store.Leaf[string], name string, s *state.Samples) {
		to.Entries = append(to.Entries, store.Entry[string]{Key: store.Key{Name: name},
			Object: &store.Object[string]{Value: s.Pack()}})
	}
	for _, name := range nodes {
		var s state.Samples
		s.Object("node", name)
		s.Family = machine
		s.Add(4)
		s.Family = nodeInfo
		s.Add(1)
		add(&nodeLeaf, name, &s)
	}
	for _, name := range slices.Sorted(maps.Keys(owners)) {
		var s state.Samples
		s.Object("replicaset", name)
		s.Family = replicaSetOwner
		s.Add(1, "owner_name", owners[name])
		add(&setLeaf, name, &s)
	}
	return objects.Known{Pods: []*store.Leaf[sample.Text]{&leaf}, Others: map[string][]*store.Leaf[string]{
		"nodes": {&nodeLeaf}, "replicasets": {&setLeaf}}}
}

// common are labels that do not tell series apart.
var common = []string{`instance="i"`, `node="n"`, `namespace="s"`, `container="c"`, `ip="1"`, `uid=""`}

// has compares what the receiver has of all pages, but for the program's metrics of itself, with lines of a series and
// its samples, as seconds after the beginning, without the labels that are common.
func (f *feeder) has(want ...string) {
	f.t.Helper()
	var got []string
	for series, samples := range f.Samples() {
		name, labels, _ := strings.Cut(series, "{")
		if strings.HasPrefix(name, "metrics_server_prom_") {
			continue
		}
		var texts []string
		for _, s := range samples {
			s.At -= f.epoch
			texts = append(texts, regexp.MustCompile(`^(-?\d+)000:`).ReplaceAllString(s.String(), "$1:"))
		}
		pairs := slices.DeleteFunc(strings.Split(strings.TrimSuffix(labels, "}"), ","), func(pair string) bool {
			return slices.Contains(common, pair)
		})
		got = append(got, name+"{"+strings.Join(pairs, ",")+"} "+strings.Join(texts, " "))
	}
	slices.Sort(got)
	if slices.Sort(want); slices.Equal(got, want) {
		return
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			f.t.Errorf("the receiver has %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			f.t.Errorf("wanted         %s", line)
		}
	}
}

var podA, podB = pod("s", "a", "1"), pod("s", "b", "1")

// phases are what pod_phase has of a pod that is Running, then of one that is Pending.
func phases(pod string, running, pending string) (lines []string) {
	for _, phase := range []string{"Pending", "Succeeded", "Failed", "Unknown", "Running"} {
		values := map[string]string{"Running": running, "Pending": pending}[phase]
		if values == "" {
			values = strings.NewReplacer(":1", ":0").Replace(running)
		}
		lines = append(lines, fmt.Sprintf(`pod_phase{job="kube-state-metrics",phase=%q,pod=%q} %s`, phase, pod, values))
	}
	return lines
}

func TestPages(t *testing.T) {
	for name, test := range map[string]struct {
		pages []string
		want  []string
	}{
		"none": {nil, []string{`up{job="metrics-server-prom"} 10:1`, `node_cpu{job="metrics-server-prom",node="n1"} 5:2`,
			`pod_cpu{job="metrics-server-prom",pod="a"} 6:1`}},
		"cadvisor": {[]string{"cadvisor"}, []string{`up{job="metrics-server-prom"} 10:1`, `up{job="cadvisor"} 10:1`,
			`node_cpu{job="metrics-server-prom",node="n1"} 5:2`, `pod_cpu{job="metrics-server-prom",pod="a"} 6:1`,
			`seconds_total{job="cadvisor",pod="a"} 6:100`, `machine{job="cadvisor",node="n1"} 10:4`}},
		"all": {furtherPages, append(phases("a", "10:1", "10:0"), `up{job="metrics-server-prom"} 10:1`,
			`up{job="cadvisor"} 10:1`, `up{job="kube-state-metrics"} 10:1`,
			`node_cpu{job="metrics-server-prom",node="n1"} 5:2`, `pod_cpu{job="metrics-server-prom",pod="a"} 6:1`,
			`seconds_total{job="cadvisor",pod="a"} 6:100`, `machine{job="cadvisor",node="n1"} 10:4`,
			`node_info{job="kube-state-metrics",node="n1"} 10:1`, `restarts_total{job="kube-state-metrics",pod="a"} 10:2`,
			`replicaset_owner{job="kube-state-metrics",owner_name="web",replicaset="web-5d"} 10:1`)},
	} {
		t.Run(name, func(t *testing.T) {
			feeding(t, scope.Settings{Pages: test.pages}, func(t *testing.T, f *feeder) {
				// More is kept of objects than the pages show, where the page for people is on.
				f.sees(stateOf(map[string]string{"a": "Running"}, []string{"n1"}, map[string]string{"web-5d": "web"}),
					usage{{node, "n1", 5, 2, none}}, usage{{podA, "c", 6, 1, 100}})
				if err := f.after(10, false); err != nil {
					t.Fatal(err)
				}
				f.has(test.want...)
			})
		})
	}
}

// TestPagesThatAreNotServed has pushes at 10, 20 and 30 s, of which the second finds less, and a page cannot be served.
func TestPagesThatAreNotServed(t *testing.T) {
	all := func(at int64) (objects.Known, usage, usage) {
		return stateOf(map[string]string{"a": "Running"}, []string{"n1"}, map[string]string{"web-5d": "web"}),
			usage{{node, "n1", at, 2, none}}, usage{{podA, "c", at, 1, 100}}
	}
	replacer := func(values string) []string {
		return append(phases("a", values, strings.ReplaceAll(values, ":1", ":0")),
			`node_info{job="kube-state-metrics",node="n1"} `+values,
			`replicaset_owner{job="kube-state-metrics",owner_name="web",replicaset="web-5d"} `+values,
			`restarts_total{job="kube-state-metrics",pod="a"} `+strings.ReplaceAll(values, ":1", ":2"))
	}
	for name, test := range map[string]struct {
		less         func(f *feeder)
		usage, state string // what these pages have got; of usage the values
		up, ofState  string
	}{
		"all are": {func(*feeder) {}, "6:V 16:V 26:V", "10:1 20:1 30:1", "10:1 20:1 30:1", "10:1 20:1 30:1"},
		"nothing is known": {func(f *feeder) { f.is = Known{} }, "6:V 20:stale 26:V", "10:1 20:stale 30:1",
			"10:1 20:0 30:1", "10:1 20:0 30:1"},
		"no usage": {func(f *feeder) { f.is.Lists = nil }, "6:V 20:stale 26:V", "10:1 20:1 30:1",
			"10:1 20:0 30:1", "10:1 20:1 30:1"},
		"nothing of pods' state": {func(f *feeder) { f.is.Failed = errors.New("pods hang") }, "6:V 16:V 26:V",
			"10:1 20:stale 30:1", "10:1 20:1 30:1", "10:1 20:0 30:1"},
	} {
		t.Run(name, func(t *testing.T) {
			feeding(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, f *feeder) {
				for _, at := range []int64{10, 20, 30} {
					known, nodes, pods := all(at - 4)
					if f.sees(known, nodes, pods); at == 20 {
						test.less(f)
					}
					if err := f.after(at, false); err != nil {
						t.Fatal(err)
					}
				}
				of := func(value string) string { return strings.ReplaceAll(test.usage, "V", value) }
				machine := regexp.MustCompile(`\d\d:1`).ReplaceAllStringFunc(test.up, func(s string) string { return s[:3] + "4" })
				f.has(append(replacer(test.state),
					`up{job="metrics-server-prom"} `+test.up, `up{job="cadvisor"} `+test.up,
					`up{job="kube-state-metrics"} `+test.ofState,
					`node_cpu{job="metrics-server-prom",node="n1"} `+of("2"), `pod_cpu{job="metrics-server-prom",pod="a"} `+of("1"),
					`seconds_total{job="cadvisor",pod="a"} `+of("100"),
					`machine{job="cadvisor",node="n1"} `+strings.ReplaceAll(machine, ":0", ":stale"))...)
			})
		})
	}
}

// TestNamespaces has one of two fail and come back, as their lists are read one by one.
func TestNamespaces(t *testing.T) {
	feeding(t, scope.Settings{Namespaces: []string{"s", "r"}}, func(t *testing.T, f *feeder) {
		other := pod("r", "b", "1")
		for at := int64(10); at <= 40; at += 10 {
			f.sees(objects.Known{}, usage{{node, "n1", at - 4, 2, none}}, usage{{podA, "c", at - 3, 1, none}},
				usage{{other, "c", at - 2, 3, none}})
			switch at {
			case 20:
				f.is.Lists[2] = nil
			case 30:
				f.is.Lists[0] = nil
			}
			if err := f.after(at, false); err != nil {
				t.Fatal(err)
			}
		}
		f.has(`up{job="metrics-server-prom"} 10:1 20:1 30:1 40:1`,
			`node_cpu{job="metrics-server-prom",node="n1"} 6:2 16:2 30:stale 36:2`,
			`pod_cpu{job="metrics-server-prom",pod="a"} 7:1 17:1 27:1 37:1`,
			`pod_cpu{job="metrics-server-prom",namespace="r",pod="b"} 8:3 20:stale 28:3 38:3`)
	})
}

// TestAnotherCluster has the connection replaced. What both clusters have goes on, with other objects.
func TestAnotherCluster(t *testing.T) {
	feeding(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, f *feeder) {
		f.sees(stateOf(map[string]string{"a": "Running", "b": "Running"}, []string{"n1", "n2"}, nil),
			usage{{node, "n1", 5, 2, none}, {node, "n2", 5, 3, none}}, usage{{podA, "c", 6, 1, none}, {podB, "c", 6, 1, none}})
		if err := f.after(10, false); err != nil {
			t.Fatal(err)
		}
		f.sees(stateOf(map[string]string{"b": "Pending"}, []string{"n2", "n3"}, nil),
			usage{{node, "n2", 15, 4, none}, {node, "n3", 15, 5, none}}, usage{{pod("s", "b", "1"), "c", 16, 2, none}})
		if err := f.after(20, false); err != nil {
			t.Fatal(err)
		}
		f.has(slices.Concat([]string{`up{job="metrics-server-prom"} 10:1 20:1`, `up{job="cadvisor"} 10:1 20:1`,
			`up{job="kube-state-metrics"} 10:1 20:1`, `node_cpu{job="metrics-server-prom",node="n1"} 5:2 20:stale`,
			`node_cpu{job="metrics-server-prom",node="n2"} 5:3 15:4`, `node_cpu{job="metrics-server-prom",node="n3"} 15:5`,
			`pod_cpu{job="metrics-server-prom",pod="a"} 6:1 20:stale`, `pod_cpu{job="metrics-server-prom",pod="b"} 6:1 16:2`,
			`machine{job="cadvisor",node="n1"} 10:4 20:stale`, `machine{job="cadvisor",node="n2"} 10:4 20:4`,
			`machine{job="cadvisor",node="n3"} 20:4`, `node_info{job="kube-state-metrics",node="n1"} 10:1 20:stale`,
			`node_info{job="kube-state-metrics",node="n2"} 10:1 20:1`, `node_info{job="kube-state-metrics",node="n3"} 20:1`,
			`restarts_total{job="kube-state-metrics",pod="a"} 10:2 20:stale`,
			`restarts_total{job="kube-state-metrics",pod="b"} 10:2 20:2`,
			`pod_phase{job="kube-state-metrics",phase="Pending",pod="b"} 10:0 20:1`,
			`pod_phase{job="kube-state-metrics",phase="Running",pod="b"} 10:1 20:0`},
			phases("a", "10:1 20:stale", "10:0 20:stale"),
			slices.DeleteFunc(phases("b", "10:1 20:1", "-"), func(line string) bool {
				return strings.Contains(line, "Running") || strings.Contains(line, "Pending")
			}))...)
	})
}

// TestGuessedOwners has the right to ReplicaSets taken and given: what was guessed has ended, and what was read.
func TestGuessedOwners(t *testing.T) {
	feeding(t, scope.Settings{Pages: furtherPages[1:]}, func(t *testing.T, f *feeder) {
		for i, owner := range []string{"Rollout", "guess", "Rollout"} {
			at := int64(i)*10 + 10
			f.sees(stateOf(nil, nil, map[string]string{"web-5d": owner}))
			f.is.Lists = append(f.is.Lists, nothing)
			if err := f.after(at, false); err != nil {
				t.Fatal(err)
			}
		}
		f.has(`up{job="metrics-server-prom"} 10:1 20:1 30:1`, `up{job="kube-state-metrics"} 10:1 20:1 30:1`,
			`replicaset_owner{job="kube-state-metrics",owner_name="Rollout",replicaset="web-5d"} 10:1 20:stale 30:1`,
			`replicaset_owner{job="kube-state-metrics",owner_name="guess",replicaset="web-5d"} 20:1 30:stale`)
	})
}

// TestOnce has two pushes of all that there is, of before the start too, without what is counted; what the pushes at
// the interval know is left alone.
func TestOnce(t *testing.T) {
	feeding(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, f *feeder) {
		scope := f.self.Scope("")
		scope.Counter("counted_total", "A counter.", "").Inc()
		scope.Gauge("gauge", "A gauge.", "", func() float64 { return 1 })
		for _, at := range []int64{10, 20} {
			f.sees(stateOf(map[string]string{"a": "Running"}, nil, nil),
				usage{{node, "n1", -5, 2, none}}, usage{{podA, "c", -4, 1, 100}})
			if err := f.after(at, true); err != nil {
				t.Fatal(err)
			}
		}
		f.has(append(phases("a", "10:1 20:1", "10:0 20:0"), `up{job="metrics-server-prom"} 10:1 20:1`,
			`up{job="cadvisor"} 10:1 20:1`, `up{job="kube-state-metrics"} 10:1 20:1`,
			`node_cpu{job="metrics-server-prom",node="n1"} -5:2 -5:2`, `pod_cpu{job="metrics-server-prom",pod="a"} -4:1 -4:1`,
			`restarts_total{job="kube-state-metrics",pod="a"} 10:2 20:2`)...) // which the API has counted
		var own []string
		for series := range f.Samples() {
			if strings.HasPrefix(series, "metrics_server_prom_") {
				own = append(own, series)
			}
		}
		if !slices.Equal(own, []string{`metrics_server_prom_gauge{instance="i",job="metrics-server-prom"}`}) {
			t.Errorf("of itself the program pushes %v", own)
		}
		if f.receiver.up || len(f.receiver.usage) > 0 || len(f.receiver.self) > 0 {
			t.Errorf("the pushes at the interval take over %+v", f.receiver)
		}
		if err := f.after(30, false); err != nil { // by which no reading goes that was there before the process
			t.Fatal(err)
		}
		for series, samples := range f.Samples() {
			if strings.HasPrefix(series, "pod_cpu{") && len(samples) != 2 {
				t.Errorf("%s has %v", series, samples)
			}
		}
	})
}

// TestOnceWithoutData fails with what has failed, and waits for that.
func TestOnceWithoutData(t *testing.T) {
	feeding(t, scope.Settings{}, func(t *testing.T, f *feeder) {
		tries := 0
		f.Failed = func(context.Context) error {
			if tries++; tries < 3 {
				return nil
			}
			return errors.New("no data: pods")
		}
		if err := f.after(10, true); err == nil || !strings.Contains(err.Error(), "no data: pods") || tries != 3 {
			t.Errorf("after %d tries: %v", tries, err)
		}
		f.has()
	})
}

// TestOnceWaitsForWhatTakesItsTime has something come with the third look. A push at the interval has it the next time.
func TestOnceWaitsForWhatTakesItsTime(t *testing.T) {
	for name, test := range map[string]struct {
		once, ends bool // whether nobody waits any more
		looks      int  // the last of which finds all
		want       []string
	}{
		"once": {true, false, 3, []string{`up{job="metrics-server-prom"} 12:1`,
			`node_cpu{job="metrics-server-prom",node="n1"} 5:2`, `pod_cpu{job="metrics-server-prom",pod="a"} 6:1`}},
		"once, as long as somebody waits for the answer": {true, true, 2, nil},
		"once, until its patience ends, and then all else": {true, false, 25, []string{
			`up{job="metrics-server-prom"} 35:1`, `node_cpu{job="metrics-server-prom",node="n1"} 5:2`}},
		"at the interval": {false, false, 1, []string{`up{job="metrics-server-prom"} 11:1`,
			`node_cpu{job="metrics-server-prom",node="n1"} 5:2`}},
	} {
		t.Run(name, func(t *testing.T) {
			feeding(t, scope.Settings{}, func(t *testing.T, f *feeder) {
				f.sees(objects.Known{}, usage{{node, "n1", 5, 2, none}}, usage{{podA, "c", 6, 1, none}})
				looks, all := 0, f.is
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				f.Known = func(context.Context) Known {
					if looks++; looks == 3 && test.looks == 3 {
						return all
					}
					if looks == 2 && test.ends {
						stop()
					}
					time.Sleep(time.Second)
					return Known{Lists: []func(func(*sample.Batch)){all.Lists[0], nil}, Known: objects.Known{Pending: true}}
				}
				time.Sleep(10 * time.Second)
				f.pusher.Series = func(ctx context.Context, o *push.Out, _ bool) error { return f.Push(ctx, o, test.once) }
				if _, err := f.pusher.Once(ctx); (err != nil) != (test.ends || looks > 3) || looks != test.looks {
					t.Errorf("after %d looks: %v", looks, err)
				}
				f.has(test.want...)
			})
		})
	}
}

// TestEnd has all series end, once.
func TestEnd(t *testing.T) {
	feeding(t, scope.Settings{Pages: furtherPages, Namespaces: []string{"s"}}, func(t *testing.T, f *feeder) {
		f.sees(stateOf(map[string]string{"a": "Running"}, []string{"n1"}, map[string]string{"web-5d": "web"}),
			usage{{node, "n1", 5, 2, none}}, usage{{podA, "c", 6, 1, 100}})
		if err := f.after(10, false); err != nil {
			t.Fatal(err)
		}
		before := len(f.Samples())
		for _, want := range []int{before, 0} {
			had := 0
			for _, samples := range f.Samples() {
				had += len(samples)
			}
			time.Sleep(time.Second)
			if err := f.push(f.End); err != nil {
				t.Fatal(err)
			}
			has := 0
			for _, samples := range f.Samples() {
				has += len(samples)
			}
			if live := f.Live(); len(live) > 0 || has-had != want || before < 20 {
				t.Errorf("%d markers for %d series, of which there are left %v", has-had, before, live)
			}
		}
	})
}

// TestSelfMetricsThatVanish has one end, while the receiver takes nothing, and come back.
func TestSelfMetricsThatVanish(t *testing.T) {
	feeding(t, scope.Settings{}, func(t *testing.T, f *feeder) {
		value := 1.0
		f.self.Scope("").Gauge("gauge", "A gauge.", `of="{x}"`, func() float64 { return value })
		f.sees(objects.Known{}, usage{}, usage{})
		for i, now := range []float64{1, none, none, none, 2} {
			if value, f.Answer = now, nil; i == 1 {
				f.Answer = refusesAll
			}
			if err := f.after(int64(i)*10+10, false); (err != nil) != (i == 1) {
				t.Fatal(err)
			}
		}
		samples := f.Samples()[`metrics_server_prom_gauge{instance="i",job="metrics-server-prom",of="{x}"}`]
		if got := fmt.Sprint(samples); got != fmt.Sprintf("[%d:1 %d:stale %d:2]", f.epoch+10_000, f.epoch+30_000,
			f.epoch+50_000) {
			t.Errorf("got %s", got)
		}
	})
}

// TestFreezeBeforeAPush has the process stand still as what is known was found: that may be old, and is found anew.
func TestFreezeBeforeAPush(t *testing.T) {
	feeding(t, scope.Settings{Pages: furtherPages[1:]}, func(t *testing.T, f *feeder) {
		looks := 0
		f.Known = func(context.Context) Known {
			phase := map[string]string{"a": "Running"}
			if looks++; looks == 1 {
				defer time.Sleep(5 * time.Second)
			} else {
				phase["a"] = "Pending"
			}
			f.sees(stateOf(phase, nil, nil), usage{}, usage{})
			return f.is
		}
		if err := f.after(1, false); err != nil {
			t.Fatal(err)
		}
		f.has(append(phases("a", "6:0", "6:1"), `up{job="metrics-server-prom"} 6:1`, `up{job="kube-state-metrics"} 6:1`,
			`restarts_total{job="kube-state-metrics",pod="a"} 6:2`)...)
	})
}

// TestClockThatIsSetBack takes no series back in time, unless it was further ahead than receivers take.
func TestClockThatIsSetBack(t *testing.T) {
	feeding(t, scope.Settings{}, func(t *testing.T, f *feeder) {
		f.sees(objects.Known{}, usage{}, usage{})
		if err := f.after(1, false); err != nil || f.receiver.last != f.epoch+1000 {
			t.Errorf("%v; the last push was at %d", err, f.receiver.last)
		}
		for i, back := range []time.Duration{0, time.Minute, 10 * time.Minute, 10*time.Minute + time.Second} {
			f.receiver.last = time.Now().Add(back).UnixMilli()
			is := f.receiver.begin(t.Context(), nil).at - time.Now().UnixMilli()
			if is != []int64{1, 60_001, 600_001, 0}[i] {
				t.Errorf("set back by %s: a push is %d ms ahead", back, is)
			}
		}
	})
}

// TestUsageAfterAClockThatWasAheadWasSetBack goes on with the first reading of after that, where no receiver can have
// taken what was sent before.
func TestUsageAfterAClockThatWasAheadWasSetBack(t *testing.T) {
	for name, test := range map[string]struct {
		started, pushed int64 // by how many seconds the clock was ahead at the start, and at the pushes before the last two
		up, usage       string
	}{
		"it was not":                           {0, 0, "10:1 40:1 60:1", "5:1 35:2 55:3"},
		"it was at the start":                  {3600, 0, "40:1 60:1", "55:3"},
		"a little":                             {20, 0, "40:1 60:1", "35:2 55:3"},
		"it was later":                         {0, 3600, "10:1 40:1 60:1", "5:1 55:3"},
		"but a receiver may have taken it all": {0, 600, "10:1 620001:1 620002:1", "5:1"},
	} {
		t.Run(name, func(t *testing.T) {
			feeding(t, scope.Settings{}, func(t *testing.T, f *feeder) {
				f.receiver.since += test.started
				pushed := func(at int64, list usage) {
					f.sees(objects.Known{}, usage{}, list)
					if err := f.after(at, false); err != nil && f.Answer == nil {
						t.Fatal(err)
					}
				}
				if test.started == 0 {
					pushed(10, usage{{podA, "c", 5, 1, none}, {podB, "c", 5, 1, none}})
					f.Answer = refuses // the end of a
					pushed(20, usage{{podB, "c", 5, 1, none}})
					f.Answer = nil
					for _, block := range f.receiver.usage["pods/"].sent {
						for i := range block {
							block[i].at += uint32(test.pushed)
						}
					}
					f.receiver.last += test.pushed * 1000
				}
				pushed(40, usage{{podA, "c", 35, 2, none}, {podB, "c", 35, 2, none}})
				pushed(60, usage{{podA, "c", 55, 3, none}, {podB, "c", 55, 3, none}})
				f.has(`up{job="metrics-server-prom"} `+test.up, `pod_cpu{job="metrics-server-prom",pod="a"} `+test.usage,
					`pod_cpu{job="metrics-server-prom",pod="b"} `+test.usage)
			})
		})
	}
}
