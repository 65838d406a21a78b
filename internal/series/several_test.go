package series

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/scope"
)

// team is a Several in place of a feeder's Feed.
type team struct {
	*feeder
	Several
	mu         sync.Mutex
	configured []string
	known      map[string]Known
	waits      map[string]bool // for what is current, in vain but where it is false
	slow       map[string]int  // for how many looks there is not all of a cluster
	asked      []string        // what was asked for, those that were waited for with a ~
}

func teaming(t *testing.T, do func(t *testing.T, f *team)) {
	t.Helper()
	feeding(t, scope.Settings{Pages: furtherPages}, func(t *testing.T, one *feeder) {
		f := &team{feeder: one, known: map[string]Known{}, waits: map[string]bool{}, slow: map[string]int{}}
		f.Several = Several{Feed: one.Feed, TargetOf: one.pusher.TargetOf, Clusters: f.clusters}
		f.pusher.Ended = f.Several.End
		f.Several.Begin()
		do(t, f)
	})
}

func (f *team) clusters() (all []Cluster) {
	for _, name := range f.configured {
		known := func(ctx context.Context) Known {
			f.mu.Lock()
			defer f.mu.Unlock()
			vain, waits := f.waits[name]
			if waits && ctx.Err() != nil {
				return Known{}
			}
			if f.asked = append(f.asked, map[bool]string{true: "~"}[waits]+name); vain {
				return Known{}
			}
			k := f.known[name]
			if f.slow[name]--; f.slow[name] >= 0 {
				k.Pending, k.Lists = true, k.Lists[:1]
			}
			return k
		}
		all = append(all, Cluster{name, known, func(context.Context) error { return errors.New("no data of " + name) }})
	}
	return all
}

// sees has a cluster's usage found, which is of so many seconds after the beginning.
func (f *team) sees(cluster string, at int64, value float64) {
	f.feeder.sees(stateOf(nil, []string{"n1"}, nil), usage{{node, "n1", at, value, none}},
		usage{{pod("s", "p", "1"), "c", at, value, none}})
	f.known[cluster] = f.feeder.is
}

// after pushes at a moment.
func (f *team) after(second int64, once bool) error {
	time.Sleep(time.Until(time.UnixMilli(f.epoch).Add(time.Duration(second) * time.Second)))
	f.pusher.Series = func(ctx context.Context, o *push.Out, _ bool) error { return f.Several.Push(ctx, o, once) }
	f.asked = nil
	_, err := f.pusher.Once(f.t.Context())
	return err
}

// of is what the receiver has of a cluster, by values of up, of what is sent with each push and of usage.
func ofCluster(name, up, state, usage string) []string {
	label := `cluster="` + name + `",`
	return []string{`up{` + label + `job="metrics-server-prom"} ` + up, `up{` + label + `job="cadvisor"} ` + up,
		`up{` + label + `job="kube-state-metrics"} ` + up,
		`node_cpu{` + label + `job="metrics-server-prom",node="n1"} ` + usage,
		`pod_cpu{` + label + `job="metrics-server-prom",pod="p"} ` + usage,
		`machine{` + label + `job="cadvisor",node="n1"} ` + strings.ReplaceAll(state, ":1", ":4"),
		`node_info{` + label + `job="kube-state-metrics",node="n1"} ` + state}
}

// TestOneThatIsNotCompleteKeepsNothingFromOthers has one of which something is still being read.
func TestOneThatIsNotCompleteKeepsNothingFromOthers(t *testing.T) {
	teaming(t, func(t *testing.T, f *team) {
		f.configured, f.slow = []string{"eu", "us"}, map[string]int{"eu": 3}
		f.sees("eu", 5, 1)
		f.sees("us", 5, 2)
		if err := f.after(10, true); err != nil {
			t.Fatal(err)
		}
		// Each is looked at, and us pushed, before eu is waited for, looked at again, and pushed.
		if want := "eu us us eu eu eu eu eu"; strings.Join(f.asked, " ") != want {
			t.Errorf("asked %q, want %q", f.asked, want)
		}
		f.has(append(ofCluster("eu", "10:1", "10:1", "5:1"), ofCluster("us", "10:1", "10:1", "5:2")...)...)
	})
}

// TestClustersComeAndGo has one come, go, and come again.
func TestClustersComeAndGo(t *testing.T) {
	teaming(t, func(t *testing.T, f *team) {
		for at := int64(10); at <= 60; at += 10 {
			f.sees("eu", at-4, 1)
			f.sees("us", at-3, 2)
			f.configured = map[int64][]string{10: {"eu"}, 40: {"us"}, 50: {"us"}}[at]
			if f.configured == nil {
				f.configured = []string{"eu", "us"}
			}
			if err := f.after(at, false); err != nil {
				t.Fatal(err)
			}
		}
		// Of a cluster that comes back nothing is sent that is older than its end.
		f.has(append(ofCluster("eu", "10:1 20:1 30:1 40:stale 60:1", "10:1 20:1 30:1 40:stale 60:1",
			"6:1 16:1 26:1 40:stale 56:1"),
			ofCluster("us", "20:1 30:1 40:1 50:1 60:1", "20:1 30:1 40:1 50:1 60:1", "17:2 27:2 37:2 47:2 57:2")...)...)
		self := 0
		for series := range f.Samples() {
			if strings.HasPrefix(series, "metrics_server_prom_") {
				if self++; strings.Contains(series, "cluster=") {
					t.Errorf("%s is the program's", series)
				}
			}
		}
		if self == 0 {
			t.Error("nothing of the program itself")
		}
	})
}

// TestAClusterThatHangsIsWaitedForOnce has one that others do not wait for.
func TestAClusterThatHangsIsWaitedForOnce(t *testing.T) {
	teaming(t, func(t *testing.T, f *team) {
		f.configured = []string{"bad", "eu"}
		var waits []int // in which push
		for at := int64(20); at <= 100; at += 20 {
			f.sees("eu", at-4, 1)
			f.sees("bad", at-4, 1)
			if delete(f.waits, "bad"); at > 20 && at < 100 {
				f.waits["bad"] = true
			}
			if err := f.after(at, false); err != nil {
				t.Fatal(err)
			}
			if i := slices.Index(f.asked, "~bad"); i >= 0 {
				if waits = append(waits, int(at)); slices.Index(f.asked, "eu") > i {
					t.Errorf("the others wait: %q", f.asked)
				}
			}
		}
		if !slices.Equal(waits, []int{40}) {
			t.Errorf("pushes wait at %v s", waits)
		}
		f.has(append(ofCluster("eu", "20:1 40:1 60:1 80:1 100:1", "20:1 40:1 60:1 80:1 100:1",
			"16:1 36:1 56:1 76:1 96:1"),
			ofCluster("bad", "20:1 40:0 60:0 80:0 100:1", "20:1 40:stale 100:1", "16:1 40:stale 96:1")...)...)
	})
}

// TestOnceOfSeveralClusters has one of which there is nothing: the others are pushed, and the push has failed.
func TestOnceOfSeveralClusters(t *testing.T) {
	teaming(t, func(t *testing.T, f *team) {
		f.configured = []string{"bad", "eu", "slow"}
		f.sees("eu", -100, 1)
		f.sees("slow", -100, 1)
		f.waits["slow"] = false
		if err := f.after(10, true); err == nil || !strings.Contains(err.Error(), "no data of bad") {
			t.Error(err)
		}
		all := append(ofCluster("eu", "10:1", "10:1", "-100:1"), ofCluster("slow", "10:1", "10:1", "-100:1")...)
		f.has(all...)
		if f.configured = nil; len(f.feeds) > 0 {
			t.Error("the pushes at the interval take over what was asked for")
		}
	})
}

func TestTheEndOfSeveralClusters(t *testing.T) {
	teaming(t, func(t *testing.T, f *team) {
		f.configured = []string{"eu", "us"}
		f.sees("eu", 6, 1)
		f.sees("us", 6, 1)
		if err := f.after(10, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := f.push(f.Several.End); err != nil {
			t.Fatal(err)
		}
		f.has(append(ofCluster("eu", "10:1 11:stale", "10:1 11:stale", "6:1 11:stale"),
			ofCluster("us", "10:1 11:stale", "10:1 11:stale", "6:1 11:stale")...)...)
		for series, samples := range f.Samples() {
			if last := samples[len(samples)-1].String(); !strings.HasSuffix(last, "stale") {
				t.Errorf("%s goes on: %s", series, last)
			}
		}
	})
}
