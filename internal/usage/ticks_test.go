package usage

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/store"
)

const s = time.Second

// meter is a container, or a node as a whole, as its kubelet reads it: at moments of its own, as far apart as
// cAdvisor's housekeeping interval and up to as much again (10 s; 15 s where nothing happens).
type meter struct {
	interval    time.Duration
	next        time.Time // reading
	read        time.Time // the last reading
	before, now time.Time // the two readings that the metrics-server keeps; zero where there is none
}

// scrape is what the metrics-server does with a meter at a tick.
func (m *meter) scrape(at time.Time, random *rand.Rand) {
	for ; !m.next.After(at); m.next = m.next.Add(m.interval + time.Duration(random.Int64N(int64(m.interval)))) {
		m.read = m.next.Truncate(time.Millisecond)
	}
	if m.read.After(m.now) {
		m.before, m.now = m.now, m.read
	}
}

// metricsServer is a metrics-server and the kubelets that it reads, for a synctest bubble.
type metricsServer struct {
	period, jitter time.Duration // between its ticks, and how late each is, at most
	nodes          []*meter
	pods           [][]*meter // containers

	mu     sync.Mutex
	random *rand.Rand
	start  time.Time
	due    time.Time // the next tick, without its jitter
	tick   time.Time // the next one
	ticks  []time.Time
	lists  map[string][]time.Time // when they were asked for, by path
	probes []time.Time
}

// cluster is how many of what there are.
type cluster struct{ nodes, pods, containers int }

func newMetricsServer(seed uint64, period, jitter, interval time.Duration, c cluster) *metricsServer {
	m := &metricsServer{period: period, jitter: jitter, random: rand.New(rand.NewPCG(seed, 0)), start: time.Now(),
		lists: map[string][]time.Time{}}
	meter := func() *meter {
		return &meter{interval: interval, next: m.start.Add(time.Duration(m.random.Int64N(int64(interval))))}
	}
	for range c.nodes {
		m.nodes = append(m.nodes, meter())
	}
	for i := range c.pods {
		m.pods = append(m.pods, nil)
		for range 1 + i%c.containers {
			m.pods[i] = append(m.pods[i], meter())
		}
	}
	m.due = m.start.Add(time.Duration(m.random.Int64N(int64(period))))
	m.tick = m.due
	return m
}

// advance makes all ticks until now. The mutex is held.
func (m *metricsServer) advance() {
	for now := time.Now(); !m.tick.After(now); {
		for _, n := range m.nodes {
			n.scrape(m.tick, m.random)
		}
		for _, containers := range m.pods {
			for _, c := range containers {
				c.scrape(m.tick, m.random)
			}
		}
		m.ticks = append(m.ticks, m.tick)
		m.due = m.due.Add(m.period)
		m.tick = m.due.Add(time.Duration(m.random.Int64N(int64(m.jitter) + 1)))
	}
}

// stamp is the timestamp of the meters' usage: that of the one read earliest, zero where one has no two readings.
func stamp(meters ...*meter) (at, before time.Time) {
	for _, m := range meters {
		if m.before.IsZero() {
			return time.Time{}, time.Time{}
		}
		if at.IsZero() || m.now.Before(at) {
			at, before = m.now, m.before
		}
	}
	return at, before
}

// podStamps are the timestamps of all pods at this moment, Unix seconds.
func (m *metricsServer) podStamps() (all []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advance()
	for _, containers := range m.pods {
		if at, _ := stamp(containers...); !at.IsZero() {
			all = append(all, at.Unix())
		}
	}
	return all
}

func (m *metricsServer) RoundTrip(r *http.Request) (*http.Response, error) {
	path := strings.TrimPrefix(r.URL.Path, "/apis/metrics.k8s.io/v1beta1/")
	object := path[strings.LastIndex(path, "/")+1:]
	asked := time.Now()
	if object == "nodes" || object == "pods" {
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(5 * time.Millisecond)
	m.mu.Lock()
	m.advance()
	var items []any
	add := func(name string, meters ...*meter) {
		at, before := stamp(meters...)
		if at.IsZero() || object != "nodes" && object != "pods" && object != name {
			return
		}
		usage := map[string]string{"cpu": "1", "memory": "1Mi"}
		item := map[string]any{"metadata": map[string]string{"namespace": "a", "name": name},
			"timestamp": at.UTC().Format(time.RFC3339), "window": at.Sub(before).String()}
		if strings.HasPrefix(name, "node") {
			item["metadata"], item["usage"] = map[string]string{"name": name}, usage
		} else {
			item["containers"] = []any{map[string]any{"name": "c", "usage": usage}}
		}
		items = append(items, item)
	}
	kind := "NodeMetrics"
	if strings.HasPrefix(path, "nodes") {
		for i, n := range m.nodes {
			add(fmt.Sprintf("node%02d", i), n)
		}
	} else {
		kind = "PodMetrics"
		for i, containers := range m.pods {
			add(fmt.Sprintf("pod%03d", i), containers...)
		}
	}
	var answer any = map[string]any{"kind": kind + "List", "apiVersion": "metrics.k8s.io/v1beta1", "items": items}
	if object == "nodes" || object == "pods" {
		m.lists[path] = append(m.lists[path], asked)
	} else {
		m.probes = append(m.probes, asked)
		if len(items) == 1 {
			answer = items[0]
			answer.(map[string]any)["kind"], answer.(map[string]any)["apiVersion"] = kind, "metrics.k8s.io/v1beta1"
		}
	}
	m.mu.Unlock()
	body, err := json.Marshal(answer)
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(bytes.NewReader(body)), Request: r}, err
}

// follower is a Ticks with its lists, in a synctest bubble.
type follower struct {
	Ticks
	*metricsServer
	shown map[string][]int64 // timestamps of what is shown, in the order of the list, by resource
}

// follow follows a metrics-server until the function that it returns is called.
func follow(t *testing.T, m *metricsServer, probed string) (f *follower, stop func()) {
	var registry selfmetrics.Registry
	var tracker health.Tracker
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	f = &follower{metricsServer: m, shown: map[string][]int64{}}
	f.Probed, f.Most, f.Changed, f.Pulse = probed, 15*s, &refresh.Broadcast{}, refresh.NewPulse()
	running.Go(func() { f.Pulse.Run(ctx) })
	for _, resource := range []string{"nodes", "pods"} {
		o := Options{Client: client(t, m), Resource: resource, Self: registry.Scope(""), Health: &tracker,
			Joiner: sample.Joiner{MaxAge: 5 * time.Minute, Escape: func(s string) string { return s }}}
		if resource == "pods" {
			o.Joiner.Store = store.New[sample.Text]()
			o.Joiner.Unknown = func(_, name string) sample.Text { return sample.Text{Head: name} }
		}
		var l *List
		var before Status
		o.Show = func(b *sample.Batch, s Status) {
			var stamps []int64
			for i := range b.Samples {
				stamps = append(stamps, b.Samples[i].At())
			}
			m.mu.Lock()
			f.shown[resource] = stamps
			m.mu.Unlock()
			f.Changed.Send()
			f.Shown(l, before, s)
			before = s
		}
		l = New(o, registry.Scope(""))
		l.Loop.Interval, l.Loop.Cutoff, l.Loop.Pulse = f.Interval, 15*s, f.Pulse
		f.Lists = append(f.Lists, l)
		running.Go(func() { l.Loop.Run(ctx) })
	}
	running.Go(func() { f.Follow(ctx) })
	return f, func() { cancel(); running.Wait() }
}

// result is what became of a stretch of time.
type result struct {
	ticks, reads, probes int
	least, most          time.Duration // between two reads of the pods
	off                  int           // reads more than a second from one period after the one before
	age, added           time.Duration // of the pods that are shown: the mean, and what the source had younger
}

func (r result) String() string {
	return fmt.Sprintf("%d ticks, %d reads %.1f to %.1f s apart, %.1f %% of them off by more than 1 s; mean age %.2f s, "+
		"added %.2f s; %.1f probes a tick", r.ticks, r.reads, r.least.Seconds(), r.most.Seconds(),
		100*float64(r.off)/float64(r.reads), r.age.Seconds(), r.added.Seconds(), float64(r.probes)/float64(r.ticks))
}

// watch lets that much time pass.
func (f *follower) watch(length time.Duration) (r result) {
	began, n := time.Now(), time.Duration(0)
	for time.Since(began) < length {
		time.Sleep(s)
		synctest.Wait()
		best := f.podStamps()
		f.mu.Lock()
		if shown := f.shown["pods"]; len(shown) == len(best) {
			for i, at := range shown {
				r.age += time.Since(time.Unix(at, 0))
				r.added += time.Duration(best[i]-at) * s
				n++
			}
		}
		f.mu.Unlock()
	}
	r.age, r.added, r.least = r.age/max(n, 1), r.added/max(n, 1), length
	count := func(moments []time.Time) (n int) {
		for _, at := range moments {
			if !at.Before(began) {
				n++
			}
		}
		return n
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	reads := f.lists["pods"]
	r.ticks, r.reads, r.probes = count(f.ticks), count(reads), count(f.probes)
	for i := max(len(reads)-r.reads, 1); i < len(reads); i++ {
		between := reads[i].Sub(reads[i-1])
		r.least, r.most = min(r.least, between), max(r.most, between)
		if (between - f.period).Abs() > s {
			r.off++
		}
	}
	return r
}

// TestListsAreReadOncePerTick has kubelets read at moments of their own, so that no node or pod shows each tick.
func TestListsAreReadOncePerTick(t *testing.T) {
	const busy, idle = 10 * s, 15 * s
	for name, c := range map[string]struct {
		period, jitter, interval time.Duration
		cluster
		probed string
		off    float64 // share, at most
		probes float64 // a tick, at most
	}{
		"5 nodes":                   {15 * s, s / 5, busy, cluster{5, 40, 3}, "nodes", 0.12, 3.5},
		"one node":                  {15 * s, s / 5, busy, cluster{1, 8, 2}, "nodes", 0.12, 3.5},
		"one node and one pod":      {15 * s, s / 5, busy, cluster{1, 1, 1}, "nodes", 0.12, 3.5},
		"namespaces: a pod":         {15 * s, s / 5, busy, cluster{1, 8, 2}, "pods", 0.12, 3.5},
		"ticks up to a second late": {15 * s, s, busy, cluster{5, 40, 3}, "nodes", 0.3, 4},
		"idle nodes":                {15 * s, s / 5, idle, cluster{3, 30, 2}, "nodes", 0.3, 4},
		"every 10 s":                {10 * s, s / 5, busy, cluster{5, 40, 3}, "nodes", 0.35, 4},
		"every 30 s":                {30 * s, s / 5, idle, cluster{2, 40, 3}, "nodes", 0.02, 3},
		"every 60 s":                {60 * s, s / 5, busy, cluster{5, 40, 3}, "nodes", 0.02, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, stop := follow(t, newMetricsServer(1, c.period, c.jitter, c.interval, c.cluster), c.probed)
				defer stop()
				f.watch(10 * c.period)
				r := f.watch(120 * c.period)
				t.Log(r)
				if n := r.reads - r.ticks; n < -1 || n > r.ticks/50 || r.most > c.period+9*s/2 {
					t.Error("want one read per tick")
				}
				if off := float64(r.off) / float64(r.reads); off > c.off {
					t.Errorf("want at most %.1f %% of the reads off", 100*c.off)
				}
				if r.added > 3*s/2 {
					t.Error("want no sample to be 1.5 s older than it has to be, on average")
				}
				if perTick := float64(r.probes) / float64(r.ticks); perTick > c.probes {
					t.Errorf("want at most %.1f probes a tick", c.probes)
				}
			})
		})
	}
}

// TestListsFollowASourceThatChangesItsPeriod from 15 s to 60 s and back.
func TestListsFollowASourceThatChangesItsPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, stop := follow(t, newMetricsServer(2, 15*s, s/5, 10*s, cluster{3, 20, 2}), "nodes")
		defer stop()
		for _, period := range []time.Duration{15 * s, 60 * s, 15 * s, 30 * s, 10 * s, 15 * s} {
			f.mu.Lock()
			f.period = period
			f.mu.Unlock()
			change := f.watch(6 * time.Minute)
			if change.most > max(period, 62*s)+5*s/2 {
				t.Errorf("%s: lists are read %s apart after the change", period, change.most)
			}
			r := f.watch(30 * time.Minute)
			t.Logf("%s: at the change %s; then %s", period, change, r)
			if n := r.reads - r.ticks; n < -2 || n > r.ticks/50 || r.most > period+9*s/2 {
				t.Errorf("%s: want one read per tick", period)
			}
		}
	})
}
