package e2e

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
)

// frozenFor is longer than the exporter takes the silence of metrics-server for regular: its period and some seconds.
var frozenFor = flag.Duration("frozen", 30*time.Second,
	"how long the frozen exporter of the tests stays frozen, at least")

// TestFrozenExporterNeverShowsThePast stops the process in the middle of watching, lets pods come, go, move and change,
// and has a scrape arrive while it is still stopped, as where a request is what gives a serverless instance its CPU
// back.
func TestFrozenExporterNeverShowsThePast(t *testing.T) {
	t.Parallel()
	const namespace = "frozen"
	createPods(t, onePod(namespace, "stays", "node-0"), onePod(namespace, "goes", "node-0"),
		onePod(namespace, "moves", "node-0"))
	e := startReady(t, deployed(t))
	read := undisturbed(namespace)
	must(check.Equal(within(t, aTick), plane, e, check.Scope{}))(t)
	awaitTick(t, e) // so that the freeze does not come in the first seconds of a watch

	freeze(t, e)
	began := time.Now()
	ctx := within(t, 3*time.Minute)
	if err := plane.SetMemory(ctx, namespace, "stays", "app", "99Mi"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"goes", "moves"} {
		if err := plane.DeletePod(ctx, namespace, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := plane.CreatePods(ctx, onePod(namespace, "moves", "node-2"),
		onePod(namespace, "comes", "node-1")); err != nil {
		t.Fatal(err)
	}
	awaitReading(t, 90*time.Second, func(samples map[string]float64) error {
		for pod, memory := range map[string]float64{
			`{node="node-0",pod="stays",`: 99 << 20, `{node="node-2",pod="moves",`: 44 << 20,
			`{node="node-1",pod="comes",`: 44 << 20,
		} {
			if value, ok := find(samples, check.PodMemory+pod); !ok || value != memory {
				return fmt.Errorf("the API has not %s with %v", pod, memory)
			}
		}
		return nil
	})
	select {
	case <-time.After(time.Until(began.Add(*frozenFor))):
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
	}

	before := must(read(within(t, 10*time.Second)))(t)
	first := scrapeFrozen(t, e)
	after := must(read(within(t, 10*time.Second)))(t)
	t.Logf("thawed after %s: status %d after %s", time.Since(began).Round(time.Second), first.Status,
		first.Took.Round(time.Millisecond))
	switch first.Status {
	case 200:
		for _, difference := range between(before, after, served(t, first, before, after)) {
			t.Error("the scrape that thawed it: " + difference)
		}
	case 503:
	default:
		t.Errorf("the scrape that thawed it gets status %d: %.300s", first.Status, first.Wire)
	}

	before = must(read(within(t, 10*time.Second)))(t)
	next := must(e.Scrape(within(t, 15*time.Second)))(t)
	after = must(read(within(t, 10*time.Second)))(t)
	for _, difference := range between(before, after, served(t, next, before, after)) {
		t.Error("the scrape after it: " + difference)
	}
	equal(t, e, check.Scope{})
	awaitHealthy(t, e, aTick)
}

// TestExporterWithLittleCPUBetweenScrapesNeverShowsThePast gives the process 5 % of the time between scrapes, and all
// of it while a scrape lasts, as where CPU is billed by request.
func TestExporterWithLittleCPUBetweenScrapesNeverShowsThePast(t *testing.T) {
	t.Parallel()
	const namespace = "starved"
	createPod(t, onePod(namespace, "app-0", "node-0"))
	e := startReady(t, deployed(t))
	must(check.Equal(within(t, aTick), plane, e, check.Scope{}))(t)

	// What is served may be older than what the API has by at most the sum of these: how long the exporter takes
	// metrics-server's silence for regular (one period and two seconds), how late it may be without counting as late,
	// and how long it takes for a list that it began in time.
	const behind = 17*time.Second + 2*time.Second + 12*time.Second
	history := record(t, undisturbed(namespace))
	pages, seen := 0, map[float64]bool{}
	for change := range 6 {
		memory := 100 + change
		if err := plane.SetMemory(within(t, 10*time.Second), namespace, "app-0", "app",
			fmt.Sprintf("%dMi", memory)); err != nil {
			t.Fatal(err)
		}
		throttle(t, e, 12*time.Second)
		from := time.Now().Add(-behind)
		freeze(t, e)
		page := scrapeFrozen(t, e)
		if page.Status == 503 {
			t.Logf("scrape %d: 503", change)
			continue
		}
		pages++
		readings := history(from)
		got := served(t, page, readings...)
		for _, difference := range between(readings[0], readings[len(readings)-1], got, readings...) {
			t.Errorf("scrape %d: %s", change, difference)
		}
		value, _ := find(got, check.PodMemory+`{node="node-0",pod="app-0",`)
		seen[value] = true
	}
	if pages < 4 || len(seen) < 3 {
		t.Errorf("%d of 6 scrapes got a page, with %d different values of a container that changed all the time", pages,
			len(seen))
	}
	equal(t, e, check.Scope{})
}

// createPods creates pods in a namespace of their own test and returns when the metrics API has their usage.
func createPods(t *testing.T, pods ...controlplane.Pod) {
	t.Helper()
	ctx := within(t, 90*time.Second)
	if err := plane.CreateNamespaces(ctx, "", pods[0].Namespace); err != nil {
		t.Fatal(err)
	}
	if err := plane.CreatePods(ctx, pods...); err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods {
		if err := plane.AwaitPodUsage(ctx, pod.Namespace, pod.Name); err != nil {
			t.Fatal(err)
		}
	}
}

// freeze stops the process and returns when the kernel has stopped it.
func freeze(t *testing.T, e *exporter.Exporter) {
	t.Helper()
	if err := e.Freeze(); err != nil {
		t.Fatal(err)
	}
}

// throttle lets the process run for 5 % of the time.
func throttle(t *testing.T, e *exporter.Exporter, duration time.Duration) {
	t.Helper()
	const slice = 20 * time.Millisecond
	signals := []struct {
		signal syscall.Signal
		lasts  time.Duration
	}{{syscall.SIGSTOP, 19 * slice}, {syscall.SIGCONT, slice}}
	for end := time.Now().Add(duration); time.Now().Before(end); {
		for _, s := range signals {
			if err := e.Signal(s.signal); err != nil {
				t.Fatal(err)
			}
			<-time.After(s.lasts)
		}
	}
}

// scrapeFrozen sends a scrape to a stopped exporter and lets it run when the scrape is on its way.
func scrapeFrozen(t *testing.T, e *exporter.Exporter) *exporter.Page {
	t.Helper()
	var once sync.Once
	thaw := func() {
		if err := e.Thaw(); err != nil {
			t.Error(err)
		}
	}
	ctx := httptrace.WithClientTrace(within(t, 20*time.Second), &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { once.Do(thaw) },
	})
	page, err := e.Fetch(ctx)
	if page == nil {
		t.Fatal(err)
	}
	if page.Status == 200 {
		if err := page.Parse(); err != nil {
			t.Fatal(err)
		}
	}
	return page
}

// undisturbed reads what pages are compared with: the samples of the nodes, of the residents and of one namespace more.
// Other tests' pods come and go at any moment.
func undisturbed(namespace string) func(context.Context) (map[string]float64, error) {
	scope := check.Scope{Namespaces: []string{namespace}}
	for _, pod := range residents {
		scope.Namespaces = append(scope.Namespaces, pod.Namespace)
	}
	return func(ctx context.Context) (map[string]float64, error) {
		reading, err := check.Read(ctx, plane)
		if err != nil {
			return nil, err
		}
		return reading.Samples(scope), nil
	}
}

// served is the page's samples of the nodes and of the namespaces that the readings are of.
func served(t *testing.T, page *exporter.Page, readings ...map[string]float64) map[string]float64 {
	t.Helper()
	namespaces := map[string]bool{"": true}
	for _, reading := range readings {
		for series := range reading {
			namespaces[namespaceOf(series)] = true
		}
	}
	samples := check.Served(page)
	maps.DeleteFunc(samples, func(series string, _ float64) bool { return !namespaces[namespaceOf(series)] })
	return samples
}

// namespaceOf is the namespace in a series' text, "" for a node's.
func namespaceOf(series string) string {
	_, rest, _ := strings.Cut(series, `,namespace="`)
	namespace, _, _ := strings.Cut(rest, `"`)
	return namespace
}

// between is how a page differs from all that it may be between two readings: a sample is one of a reading (these two
// or others from that time), and one that is in all of them is there.
func between(before, after, page map[string]float64, others ...map[string]float64) (differences []string) {
	readings := append([]map[string]float64{before, after}, others...)
	for series, value := range page {
		var said []float64
		for _, reading := range readings {
			if v, ok := reading[series]; ok {
				said = append(said, v)
			}
		}
		if !slices.Contains(said, value) {
			differences = append(differences,
				fmt.Sprintf("%s is %v, the API says %v", series, value, slices.Compact(said)))
		}
	}
	for series := range before {
		_, there := page[series]
		if !there && !slices.ContainsFunc(readings,
			func(reading map[string]float64) bool { _, ok := reading[series]; return !ok }) {
			differences = append(differences, "missing: "+series)
		}
	}
	slices.Sort(differences)
	return differences
}

// awaitReading returns when ready accepts the API's samples.
func awaitReading(t *testing.T, limit time.Duration, ready func(map[string]float64) error) {
	t.Helper()
	eventually(t, limit, func(ctx context.Context) error {
		reading, err := check.Read(ctx, plane)
		if err != nil {
			return err
		}
		return ready(reading.Samples(check.Scope{}))
	})
}

// find is the value of the series whose text begins with this.
func find(samples map[string]float64, beginning string) (float64, bool) {
	for series, value := range samples {
		if strings.HasPrefix(series, beginning) {
			return value, true
		}
	}
	return 0, false
}

// record reads until the test ends. history gives the readings since a moment, among them the last one before it and
// one read now.
func record(t *testing.T, read func(context.Context) (map[string]float64,
	error)) (history func(from time.Time) []map[string]float64) {
	t.Helper()
	type reading struct {
		at      time.Time
		samples map[string]float64
	}
	var mutex sync.Mutex
	readings := []reading{{time.Now(), must(read(t.Context()))(t)}}
	var reader sync.WaitGroup
	reader.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-t.Context().Done():
				return
			case <-tick.C:
			}
			samples, err := read(t.Context())
			if err != nil {
				if t.Context().Err() == nil {
					t.Error(err)
				}
				return
			}
			mutex.Lock()
			readings = append(readings, reading{time.Now(), samples})
			mutex.Unlock()
		}
	})
	t.Cleanup(reader.Wait)
	return func(from time.Time) (found []map[string]float64) {
		now := reading{time.Now(), must(read(t.Context()))(t)}
		mutex.Lock()
		defer mutex.Unlock()
		readings = append(readings, now)
		first := slices.IndexFunc(readings, func(r reading) bool { return r.at.After(from) })
		for _, r := range readings[max(first-1, 0):] {
			found = append(found, r.samples)
		}
		return found
	}
}
