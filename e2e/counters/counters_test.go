// Package counters compares the CPU counters that the exporter rebuilds with the true ones, which the kubelets of the
// control plane know. In ten minutes, as the README's figures are:
//
//	go -C e2e test -timeout 30m ./counters -v -for 10m
package counters

import (
	"context"
	"flag"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/kubelet"
	"metrics-server-prom/e2e/process"
)

var duration = flag.Duration("for", 150*time.Second, "how long counters are compared")

const (
	namespace = "counters"
	nodes     = 20  // of each group
	pods      = 300 // of each group; half of them have one container, half of them three
	few       = 20  // pods that are restarted, and pods that are new
)

// The groups of pods; a pod's name begins with its group's, and so does the list of its nodes.
const (
	steady = "steady" // nothing happens to them
	missed = "missed" // metrics-server misses 2 % of its readings of their nodes
	events = "events" // their containers are restarted, or they are new
)

// firstNode is the number of a group's first node.
var firstNode = map[string]int{steady: 0, missed: nodes, events: 2 * nodes}

func TestCountersAreTheTrueOnes(t *testing.T) {
	plane := start(t)
	watchers := map[string]*watcher{
		"one":       watch(t, plane, "one", 0),
		"two":       watch(t, plane, "two", 0, 1),
		"restarted": watch(t, plane, "restarted", 2),
	}
	ctx, cancel := context.WithTimeout(t.Context(), *duration)
	defer cancel()
	ends := make(chan error)
	for _, w := range watchers {
		go func() { ends <- w.run(ctx) }()
	}
	go func() { ends <- missTicks(ctx, plane) }()
	go func() { ends <- disturb(ctx, plane) }()
	for range len(watchers) + 2 {
		if err := <-ends; err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		return
	}

	for _, test := range []struct {
		name, exporter, group string
		// The most that the increase may be off, of all containers, of 95 % of them, and of all nodes, which are few.
		total, p95, nodes float64
	}{
		// A container's errors are steps of a random walk, each of some seconds' use: they weigh more in a shorter time.
		{"undisturbed", "one", steady, 0.005, 0.05 * math.Sqrt(max(1, 10/duration.Minutes())), 0.001},
		{"2 % of the ticks missed", "one", missed, 0.01, math.Inf(1), 0.05},
		{"two metrics-servers at random", "two", steady, 0.01, math.Inf(1), 0.02},
		{"metrics-server restarted", "restarted", steady, 0.01, math.Inf(1), 0.02},
	} {
		t.Run(test.name, func(t *testing.T) {
			watchers[test.exporter].compare(t, test.group, test.total, test.p95, test.nodes)
		})
	}
	t.Run("windows that abut", func(t *testing.T) { watchers["one"].exact(t) })
	t.Run("restarted and fresh containers", func(t *testing.T) { watchers["one"].compareNew(t) })
	if asked := plane.Routed(namespace, "two"); asked[0] < 5 || asked[1] < 5 {
		t.Errorf("requests that each of the two metrics-servers has had: %v", asked)
	}
	t.Run("what became of the readings", func(t *testing.T) {
		watchers["one"].hasCounted(t, map[string]bool{"added": true, "filled": true, "hole": false, "older": false})
		watchers["restarted"].hasCounted(t, map[string]bool{"added": true, "filled": true, "older": false})
	})
}

// start starts a control plane with three metrics-servers and the pods.
func start(t *testing.T) *controlplane.ControlPlane {
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute) // the first run on a machine builds it
	defer cancel()
	plane, err := controlplane.Start(ctx, controlplane.Options{Housekeeping: true, Replicas: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(plane.Logs(20))
		}
		plane.Stop()
	})
	kubernetes := filepath.Join("..", "..", "deploy", "kubernetes")
	for _, step := range []func() error{
		func() error {
			_, err := plane.ApplyManifests(ctx, filepath.Join(kubernetes, "components", "namespace"), kubernetes)
			return err
		},
		func() error { return plane.CreateNodes(ctx, 2*nodes+1) },
		func() error { return plane.CreateNamespaces(ctx, "", namespace) },
		func() error {
			return plane.CreatePods(ctx, slices.Concat(group(steady, pods), group(missed, pods), group(events, few))...)
		},
		func() error { return plane.AwaitUsage(ctx) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return plane
}

// group makes the pods of a group, the first half of them with one container.
func group(name string, n int) []controlplane.Pod {
	var made []controlplane.Pod
	for i := range n {
		pod := controlplane.Pod{Namespace: namespace, Name: fmt.Sprintf("%s-%d", name, i),
			Node: fmt.Sprintf("node-%d", firstNode[name]+i%nodes)}
		if name == events {
			pod.Node = fmt.Sprintf("node-%d", firstNode[name])
		}
		containers := []string{"app"}
		if i >= n/2 {
			containers = []string{"app", "proxy", "log"}
		}
		for j, container := range containers {
			cpu := fmt.Sprintf("%dm", 20+(37*i+101*j)%400)
			if i%10 == 9 {
				cpu = "0.8m" // idle: read less often
			}
			pod.Containers = append(pod.Containers, controlplane.Container{Name: container, CPU: cpu, Memory: "64Mi"})
		}
		made = append(made, pod)
	}
	return made
}

// missTicks makes each node of its group miss one reading of 50, at a time of its own.
func missTicks(ctx context.Context, plane *controlplane.ControlPlane) error {
	tick := time.NewTicker(plane.MetricResolution())
	defer tick.Stop()
	for n := 0; ; n++ {
		for i := range nodes {
			if n%50 == i*50/nodes {
				plane.Kubelet.Miss(fmt.Sprintf("node-%d", firstNode[missed]+i), plane.MetricResolution())
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// disturb restarts containers and a metrics-server, and creates pods, after a third of the time.
func disturb(ctx context.Context, plane *controlplane.ControlPlane) error {
	select {
	case <-time.After(*duration / 3):
	case <-ctx.Done():
		return nil
	}
	for i := range few {
		if err := plane.RestartContainer(ctx, namespace, fmt.Sprintf("%s-%d", events, i), 0); err != nil {
			return err
		}
	}
	fresh := group(events, 2*few)[few:]
	for i := range fresh {
		fresh[i].Name = "fresh-" + fresh[i].Name
		fresh[i].Containers = fresh[i].Containers[:1+2*(i%2)]
	}
	if err := plane.CreatePods(ctx, fresh...); err != nil {
		return err
	}
	plane.Replicas[1].Kill()
	return plane.Replicas[1].Start(ctx)
}

// watcher reads an exporter's page again and again.
type watcher struct {
	plane    *controlplane.ControlPlane
	exporter *exporter.Exporter
	counters map[key]*counter
	complete bool // it has had the counters of all containers that there were at its start
}

// key is a container in one of its lives; a node has only the ID.
type key struct{ pod, container, id string }

// counter is what a page has shown of one CPU counter.
type counter struct {
	value       float64
	first, last shown // at the first and the last change that was seen
	steps       int   // from change to change
	exact       int   // those of them that were true to a millionth
}

// shown is a counter's value, and the moment up to which it counts: that of the earliest among the readings of the
// pod's containers that metrics-server had, as it gives one moment for all of them.
type shown struct {
	value float64
	at    time.Time
}

// watch starts an exporter as a service account whose requests these metrics-servers answer, and returns when it has
// all containers.
func watch(t *testing.T, plane *controlplane.ControlPlane, account string, metricsServers ...int) *watcher {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	token, err := plane.Token(ctx, namespace, account)
	if err != nil {
		t.Fatal(err)
	}
	if err := plane.BindClusterRole(ctx, "metrics-server-prom", namespace, account, ""); err != nil {
		t.Fatal(err)
	}
	plane.Route(namespace, account, metricsServers...)
	kubeconfig, err := plane.Kubeconfig(controlplane.Credentials{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	e, err := exporter.Start(ctx, exporter.Options{Args: []string{"--kubeconfig=" + kubeconfig, "--pages=cadvisor"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", account, process.Tail(e.Log(), 15))
		}
		e.Close()
	})
	w := &watcher{plane: plane, exporter: e, counters: map[key]*counter{}}
	err = e.Await(ctx, func(ctx context.Context) error {
		if err := w.read(ctx); err != nil {
			return err
		}
		if want := 2*nodes + 1 + 2*2*pods + 2*few; len(w.counters) < want {
			return fmt.Errorf("the page has %d of %d counters", len(w.counters), want)
		}
		w.complete = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *watcher) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := w.read(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// read reads the page once. A counter that goes back, and a container that is there twice, is an error.
func (w *watcher) read(ctx context.Context) error {
	page, err := w.exporter.ScrapePage(ctx, "/metrics/cadvisor")
	if err != nil {
		return err
	}
	// Each reading of a container has another memory, by which it is found.
	read, moments, ids := map[key]time.Time{}, map[string]time.Time{}, map[key]bool{}
	for _, metric := range page.Families["container_memory_working_set_bytes"].GetMetric() {
		k := keyOf(exporter.Labels(metric))
		at, err := w.readingOf(k, int64(metric.GetGauge().GetValue()))
		if err != nil {
			return err
		}
		read[k] = at
		if moment, ok := moments[k.pod]; !ok || at.Before(moment) {
			moments[k.pod] = at
		}
		alone := key{pod: k.pod, container: k.container}
		if k.pod != "" && ids[alone] {
			return fmt.Errorf("container %s of pod %s is on the page twice", k.container, k.pod)
		}
		ids[alone] = true
	}
	for _, metric := range page.Families["container_cpu_usage_seconds_total"].GetMetric() {
		k := keyOf(exporter.Labels(metric))
		now := shown{metric.GetCounter().GetValue(), moments[k.pod]}
		if k.pod == "" {
			now.at = read[k]
		}
		if now.at.IsZero() {
			return fmt.Errorf("the page has a CPU counter of %v, but not its memory", k)
		}
		c := w.counters[k]
		if c == nil {
			if c = (&counter{value: now.value}); w.complete { // it is new
				c.first, c.last = now, now
			}
			w.counters[k] = c
			continue
		}
		if now.value < c.value {
			return fmt.Errorf("the counter of %v went back from %v to %v", k, c.value, now.value)
		}
		// Only when it changes it is sure to be that of the readings that the page shows: those of another
		// metrics-server may be older, and be ignored.
		if now.value > c.value {
			w.step(k, c, now)
		}
	}
	return nil
}

// step takes in a change of a counter.
func (w *watcher) step(k key, c *counter, now shown) {
	c.value = now.value
	if c.first.at.IsZero() {
		c.first, c.last = now, now
		return
	}
	from, _ := w.plane.Kubelet.CPU(k.id, c.last.at)
	to, _ := w.plane.Kubelet.CPU(k.id, now.at)
	if c.steps++; math.Abs(now.value-c.last.value-(to-from)) <= 1e-6*(to-from) {
		c.exact++
	}
	c.last = now
}

func keyOf(labels map[string]string) key {
	if labels["id"] == "/" {
		return key{id: labels["node"]}
	}
	return key{labels["pod"], labels["container"], labels["name"]}
}

func (w *watcher) readingOf(k key, memory int64) (time.Time, error) {
	readings := w.plane.Kubelet.Readings(k.id)
	for _, reading := range slices.Backward(readings) {
		if reading.Memory == memory {
			return reading.Time, nil
		}
	}
	return time.Time{}, fmt.Errorf("none of the %d readings of %v has the memory %d", len(readings), k, memory)
}

// compare compares the increase of the group's counters with the truth.
func (w *watcher) compare(t *testing.T, group string, total, p95, totalOfNodes float64) {
	counters := map[key]*counter{}
	for k, c := range w.counters {
		if strings.HasPrefix(k.pod, group+"-") {
			counters[k] = c
		}
	}
	if len(counters) != 2*pods {
		t.Errorf("%d counters of %d containers", len(counters), 2*pods)
	}
	w.report(t, "containers", counters, total, p95)

	clear(counters)
	for i := range nodes {
		k := key{id: fmt.Sprintf("node-%d", firstNode[group]+i)}
		if counters[k] = w.counters[k]; counters[k] == nil {
			t.Fatalf("no counter of %v", k)
		}
	}
	w.report(t, "nodes", counters, totalOfNodes, math.Inf(1))
}

func (w *watcher) report(t *testing.T, what string, counters map[key]*counter, total, p95 float64) {
	var sum, truth float64
	var off []float64
	for k, c := range counters {
		from, _ := w.plane.Kubelet.CPU(k.id, c.first.at)
		to, ok := w.plane.Kubelet.CPU(k.id, c.last.at)
		if !ok || c.last.at.Sub(c.first.at) < *duration/2 {
			t.Errorf("%v was compared from %s to %s", k, c.first.at, c.last.at)
			continue
		}
		sum, truth = sum+c.last.value-c.first.value, truth+to-from
		off = append(off, math.Abs((c.last.value-c.first.value)/(to-from)-1))
	}
	slices.Sort(off)
	at95 := off[len(off)*95/100]
	t.Logf("%d %s: total %+.3f %%, p95 %.2f %%, worst %.2f %%", len(off), what, 100*(sum/truth-1), 100*at95,
		100*off[len(off)-1])
	if math.Abs(sum/truth-1) > total || at95 > p95 {
		t.Errorf("allowed are %.3g %% for the total and %.3g %% for p95", 100*total, 100*p95)
	}
}

// exact looks at the steps of undisturbed containers that are alone in their pod: the windows of two readings in turn
// abut, so that nothing is lost. Only where the exporter has not seen a reading of metrics-server it has to guess.
func (w *watcher) exact(t *testing.T) {
	steps, exact := 0, 0
	for i := range pods / 2 {
		for k, c := range w.counters {
			if k.pod == fmt.Sprintf("%s-%d", steady, i) {
				steps, exact = steps+c.steps, exact+c.exact
			}
		}
	}
	t.Logf("%d of %d steps are exact", exact, steps)
	if steps == 0 || float64(exact) < 0.8*float64(steps) {
		t.Error("too few")
	}
}

// compareNew compares the counters that began while they were watched, after a restart or in a new pod. Where
// metrics-server took the container's start for its previous reading, because it found the container 10 to 15 seconds
// old, the counter is the whole truth from its first moment on; otherwise it lacks what was before.
func (w *watcher) compareNew(t *testing.T) {
	list, err := w.plane.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	restarted, fresh, whole := 0, 0, 0
	for _, pod := range list {
		for _, status := range pod.Status.ContainerStatuses {
			switch {
			case status.RestartCount > 0:
				restarted++
			case strings.HasPrefix(pod.Name, "fresh-"):
				fresh++
			default:
				continue
			}
			k := key{pod.Name, status.Name, kubelet.ID(status)}
			c, started := w.counters[k], status.State.Running.StartedAt.Time
			if c == nil {
				t.Errorf("no counter of %v", k)
				continue
			}
			truth, _ := w.plane.Kubelet.CPU(k.id, c.last.at)
			off := c.last.value/truth - 1
			alone := len(pod.Spec.Containers) == 1
			switch {
			case c.first.at.Sub(started) < w.plane.MetricResolution() && alone:
				whole++
				if math.Abs(off) > 0.001 {
					t.Errorf("%v, seen from its start on, is %v, the truth %v", k, c.last.value, truth)
				}
			case alone && off > 0.001, off > 0.25:
				t.Errorf("%v is %v, the truth %v", k, c.last.value, truth)
			}
		}
	}
	t.Logf("%d restarted and %d fresh containers, %d of them alone in their pod and seen from their start on", restarted,
		fresh, whole)
	if restarted != few || fresh != 2*few || whole == 0 {
		t.Errorf("%d restarted and %d fresh containers, %d of them seen from their start on", restarted, fresh, whole)
	}
}

// hasCounted compares what the exporter says of the readings that it was given: whether there were any of a kind.
func (w *watcher) hasCounted(t *testing.T, results map[string]bool) {
	page, err := w.exporter.Scrape(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for result, want := range results {
		labels := map[string]string{"result": result}
		if n, series := page.Sum("metrics_server_prom_cpu_readings_total", labels); n > 0 != want || series != 1 {
			t.Errorf("%v readings were %s, of %d series", n, result, series)
		}
	}
	filled, series := page.Sum("metrics_server_prom_cpu_seconds_filled_total", nil)
	if want, told := results["filled"]; told && filled > 0 != want || series != 1 {
		t.Errorf("%v s were filled, of %d series", filled, series)
	}
}
