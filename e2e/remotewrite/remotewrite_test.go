// Package remotewrite lets the exporter push to real receivers on a real control plane, where pods come, go and
// restart, the receivers are restarted and the exporter is killed, and compares what they have with what the API has
// said. As long as the README says:
//
//	go -C e2e test -timeout 60m ./remotewrite -v -args -for 30m
//	go -C e2e test -timeout 60m ./remotewrite -v -args -for 10m -thanos
package remotewrite

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
	"metrics-server-prom/e2e/receiver"
)

var (
	duration = flag.Duration("for", 150*time.Second, "how long the exporter pushes; from 10m on receivers are "+
		"restarted three times, not once")
	thanos = flag.Bool("thanos", false, "push to Thanos Receive too, which is built first, in a quarter of an hour")
)

const (
	namespace = "shop" // of the pods that stay
	churned   = "churn"
	nodes     = 4
	stay      = 40 // pods
	come      = 12 // pods of churned that there are at a time; one goes and one comes every pace
	pace      = 8 * time.Second

	interval = 5 * time.Second // of pushes
	// limit is how long a deleted pod's series may be in an instant query: two intervals, of which the longer one, that of
	// refreshes, counts; and what it takes to ask.
	limit = 2*15*time.Second + time.Second
	// after is how long a disturbance is felt.
	after = 2*interval + 2*time.Second
	// lag is how long after some moment a reading from before it may be pushed at last: an idle container is read every
	// 30 s at the latest, a pod has the time of its oldest reading, and metrics-server reads every 15 s.
	lag = 30*time.Second + 15*time.Second + interval + 2*time.Second
	// down is how long a receiver is down: longer than a push is tried again.
	down = 2*interval + 2*time.Second
)

// jobs are those of the three pages.
var jobs = []string{"cadvisor", "kube-state-metrics", "metrics-server-prom"}

func TestReceiversHaveWhatTheAPIHasSaid(t *testing.T) {
	plane, kubeconfig := start(t)
	h := newHistory()
	var recorder sync.WaitGroup
	defer recorder.Wait()
	recording, stop := context.WithCancel(t.Context())
	defer stop()
	recorder.Go(func() {
		if err := h.record(recording, plane); err != nil {
			t.Error(err)
		}
	})
	var rigs []*rig
	kinds := []receiver.Kind{receiver.Prometheus, receiver.VictoriaMetrics}
	if *thanos {
		kinds = append(kinds, receiver.Thanos)
	}
	for _, kind := range kinds {
		if r := newRig(t, kind, kubeconfig); r != nil {
			rigs = append(rigs, r)
		}
	}
	for _, r := range rigs {
		r.awaitAll(t)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), *duration)
	defer cancel()
	if err := (&events{test: t.Context(), plane: plane, rigs: rigs}).run(ctx); err != nil {
		t.Fatal(err)
	}
	for _, r := range rigs {
		r.watching.Wait()
	}
	// Nothing changes any more, so that what a receiver has is what the API says.
	for _, r := range rigs {
		t.Run(r.receiver.Name, func(t *testing.T) { r.judge(t, plane, h, began) })
	}
}

// start starts a control plane with the pods, and returns the kubeconfig of an account with the rights of all pages.
func start(t *testing.T) (plane *controlplane.ControlPlane, kubeconfig string) {
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute) // the first run on a machine builds it
	defer cancel()
	plane, err := controlplane.Start(ctx, controlplane.Options{Housekeeping: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(plane.Logs(20))
		}
		plane.Stop()
	})
	const account = "metrics-server-prom"
	deploy := filepath.Join("..", "..", "deploy", "kubernetes")
	for _, step := range []func() error{
		func() error {
			_, err := plane.ApplyManifests(ctx, filepath.Join(deploy, "components", "namespace"), deploy)
			return err
		},
		func() error {
			role, err := os.ReadFile(filepath.Join(deploy, "components", "pages", "clusterrole.yaml"))
			if err == nil {
				_, err = plane.ApplyYAML(ctx, role)
			}
			return err
		},
		func() error { return plane.CreateNodes(ctx, nodes) },
		func() error { return plane.CreateNamespaces(ctx, "", namespace, churned) },
		func() error {
			pods := make([]controlplane.Pod, 0, stay+come)
			for i := range stay {
				pods = append(pods, pod(namespace, i))
			}
			for i := range come {
				pods = append(pods, pod(churned, i))
			}
			return plane.CreatePods(ctx, pods...)
		},
		func() error { return plane.AwaitUsage(ctx) },
		func() error {
			token, err := plane.Token(ctx, account, account)
			if err == nil {
				kubeconfig, err = plane.Kubeconfig(controlplane.Credentials{Token: token})
			}
			return err
		},
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return plane, kubeconfig
}

// pod is pod number i of a namespace, of one to three containers.
func pod(namespace string, i int) controlplane.Pod {
	p := controlplane.Pod{Namespace: namespace, Name: fmt.Sprintf("%s-%d", namespace, i),
		Node: fmt.Sprintf("node-%d", i%nodes)}
	for j, name := range []string{"app", "proxy", "log"}[:1+i%3] {
		cpu := fmt.Sprintf("%dm", 20+(37*i+101*j)%400)
		if i%10 == 9 {
			cpu = "0.8m" // idle: read less often
		}
		p.Containers = append(p.Containers, controlplane.Container{Name: name, CPU: cpu, Memory: fmt.Sprintf("%dMi", 64+i)})
	}
	return p
}

// rig is an exporter and what it pushes to.
type rig struct {
	t        *testing.T
	receiver *receiver.Receiver
	args     []string
	instance string
	watching sync.WaitGroup // for deleted pods

	mutex     sync.Mutex
	exporter  *exporter.Exporter
	up        time.Time // since when the receiver is; zero: it is not
	disturbed []span
	starts    []time.Time // of the exporter
	latest    map[string]time.Duration
	forgiven  struct { // what was refused after a restart, see receiver.Kind.Flushes
		counters map[string]float64
		samples  float64 // as the exporter counts them
		log      int     // how long the log was
	}
}

// newRig starts both. It is nil where this machine does not have the receiver.
func newRig(t *testing.T, kind receiver.Kind, kubeconfig string) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	to, err := receiver.New(ctx, kind, t.TempDir())
	if errors.Is(err, receiver.ErrNotInstalled) && os.Getenv("CI") != "true" {
		t.Log(err)
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(to.Kill)
	r := &rig{t: t, receiver: to, instance: "of-" + kind.Name, up: time.Now(), latest: map[string]time.Duration{}}
	r.args = []string{"--kubeconfig=" + kubeconfig, "--pages=cadvisor,kube-state-metrics",
		"--push.url=" + to.URL + kind.Write, "--push.format=remote-write", "--push.interval=" + interval.String(),
		"--push.instance=" + r.instance, `--push.extra-labels=cluster="e2e"`}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the log of the exporter that pushes to %s:\n%s", kind.Name, process.Tail(r.exporter.Log(), 15))
		}
		r.exporter.Close()
	})
	if err := r.startExporter(ctx); err != nil {
		t.Fatal(err)
	}
	return r
}

// awaitAll returns when the receiver has all pages' series. Readings from before the exporter's start are not sent.
func (r *rig) awaitAll(t *testing.T) {
	t.Helper()
	if err := await(t.Context(), 90*time.Second, func(ctx context.Context) error {
		err := r.allUp(ctx)
		for i := 0; i < come && err == nil; i++ {
			err = r.hasPod(ctx, fmt.Sprintf("%s-%d", churned, i))
		}
		return err
	}); err != nil {
		t.Fatalf("%v\n%s", err, process.Tail(r.exporter.Log(), 15))
	}
}

func (r *rig) startExporter(ctx context.Context) error {
	e, err := exporter.Start(ctx, exporter.Options{Args: r.args})
	if err != nil {
		return err
	}
	r.mutex.Lock()
	r.exporter, r.starts, r.forgiven.samples = e, append(r.starts, time.Now()), 0
	r.mutex.Unlock()
	return e.AwaitReady(ctx)
}

// selector selects what the rig's exporter has pushed, with more matchers.
func (r *rig) selector(more string) string {
	return fmt.Sprintf(`{instance=%q,cluster="e2e"%s}`, r.instance, more)
}

// allUp is an error if the receiver does not have an up of 1 of each page and nothing else with that name.
func (r *rig) allUp(ctx context.Context) error {
	ups, err := r.receiver.Instant(ctx, "up", time.Now())
	if err != nil {
		return err
	}
	var found []string
	for _, up := range ups {
		if text(up) != "up{}" || up.Labels["instance"] != r.instance || up.Labels["cluster"] != "e2e" ||
			up.Samples[0].Value != 1 {
			return fmt.Errorf("up: %v", up)
		}
		found = append(found, up.Labels["job"])
	}
	if slices.Sort(found); !slices.Equal(found, jobs) {
		return fmt.Errorf("up of the jobs %q, not %q", found, jobs)
	}
	return nil
}

// disturb notes that something does not work while f runs and for so long after it.
func (r *rig) disturb(after time.Duration, f func() error) error {
	from := time.Now()
	r.mutex.Lock()
	r.disturbed = append(r.disturbed, span{from: from})
	i := len(r.disturbed) - 1
	r.mutex.Unlock()
	err := f()
	r.mutex.Lock()
	r.disturbed[i].to = time.Now().Add(after)
	r.mutex.Unlock()
	return err
}

// restartReceiver stops the receiver, is away while meanwhile runs, and starts it again.
func (r *rig) restartReceiver(ctx context.Context, meanwhile func() error) error {
	after := after
	if r.receiver.Flushes {
		after = lag // readings from before are refused
	}
	return r.disturb(after, func() error {
		if err := r.refusedNothing(ctx); err != nil {
			return err
		}
		r.setUp(time.Time{})
		if err := r.receiver.Stop(ctx); err != nil {
			return err
		}
		if err := meanwhile(); err != nil {
			return err
		}
		if err := r.receiver.Start(ctx); err != nil {
			return err
		}
		r.setUp(time.Now())
		if r.receiver.Flushes {
			r.watching.Go(func() { r.forgive(ctx) })
		}
		return nil
	})
}

// forgive lets pass what the receiver has refused for some time after a restart.
func (r *rig) forgive(ctx context.Context) {
	select {
	case <-time.After(lag):
	case <-ctx.Done():
		return
	}
	refused, err := r.receiver.Refused(ctx)
	if err != nil {
		r.t.Error(err)
		return
	}
	page, err := r.exporter.Scrape(ctx)
	if err != nil {
		r.t.Error(err)
		return
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	log := r.receiver.Log()
	r.t.Logf("%s has refused after its restart: %v\n%s", r.receiver.Name, refused, process.Tail(log[r.forgiven.log:], 5))
	r.forgiven.counters, r.forgiven.log = refused, len(log)
	r.forgiven.samples, _ = page.Sum(pushSamples, map[string]string{"result": "refused"})
}

func (r *rig) setUp(since time.Time) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.up = since
}

// killExporter kills the exporter, as kill -9 does, and starts it anew.
func (r *rig) killExporter(ctx context.Context) error {
	return r.disturb(after, func() error {
		if err := r.deliveredAll(ctx); err != nil {
			return err
		}
		r.exporter.Close()
		return r.startExporter(ctx)
	})
}

// watchGone finds out when the receiver has no series any more of a pod that was deleted at this moment.
func (r *rig) watchGone(ctx context.Context, name string, at time.Time) {
	seen := map[string]time.Time{}
	for tick := time.NewTicker(500 * time.Millisecond); ; {
		asked := time.Now()
		series, err := r.receiver.Instant(ctx, r.selector(fmt.Sprintf(",namespace=%q,pod=%q", churned, name)), asked)
		r.mutex.Lock()
		since := at
		if r.up.After(at) {
			since = r.up
		}
		late := !r.up.IsZero() && asked.Sub(since) > limit
		if err == nil {
			for _, s := range series {
				seen[s.Labels["job"]] = asked
			}
		}
		if err == nil && len(series) == 0 {
			for job, last := range seen {
				r.latest[job] = max(r.latest[job], last.Sub(since))
			}
		}
		r.mutex.Unlock()
		switch {
		case err == nil && len(series) == 0:
			return
		case late:
			r.t.Errorf("%s: pod %s, deleted at %s, still has %d series, such as %v (%v)", r.receiver.Name, name,
				at.UTC().Format("15:04:05"), len(series), series[:min(1, len(series))], err)
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// hasPod is an error if the receiver does not have series of a pod from each job.
func (r *rig) hasPod(ctx context.Context, name string) error {
	series, err := r.receiver.Instant(ctx, r.selector(fmt.Sprintf(",namespace=%q,pod=%q", churned, name)), time.Now())
	if err != nil {
		return err
	}
	found := map[string]bool{}
	for _, s := range series {
		found[s.Labels["job"]] = true
	}
	if len(found) != len(jobs) {
		return fmt.Errorf("%s has series of pod %s of the jobs %v only", r.receiver.Name, name, found)
	}
	return nil
}

// events is what happens to the cluster, the receivers and the exporters.
type events struct {
	test    context.Context // done at the test's end
	plane   *controlplane.ControlPlane
	rigs    []*rig
	deleted int // pods of churned; they are numbered
	made    int // restarts of containers
}

// run lets pods come and go until ctx ends, and everything else happen at its time.
func (e *events) run(ctx context.Context) error {
	restarts := []float64{0.2}
	if *duration >= 10*time.Minute {
		restarts = []float64{0.2, 0.45, 0.7}
	}
	type event struct {
		at float64 // share of the whole time
		do func(context.Context) error
	}
	timeline := []event{{0.55, e.killExporters}}
	for _, at := range restarts {
		timeline = append(timeline, event{at, e.restartReceivers})
	}
	slices.SortFunc(timeline, func(a, b event) int { return int(1000 * (a.at - b.at)) })
	// The last pod goes long enough before the end that the receivers must have noticed it.
	began := time.Now()
	for tick := time.NewTicker(pace); time.Since(began) < *duration-limit; {
		var err error
		if len(timeline) > 0 && time.Since(began).Seconds() > timeline[0].at*duration.Seconds() {
			next := timeline[0]
			timeline = timeline[1:]
			err = next.do(ctx)
		} else {
			err = e.churn(ctx)
		}
		if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return context.Cause(ctx)
		}
	}
	if len(timeline) > 0 {
		return fmt.Errorf("%s is too short for all that is to happen", *duration)
	}
	return nil
}

// churn deletes a pod, creates another and restarts a container of a third, whose usage the API leaves out for a while.
func (e *events) churn(ctx context.Context) error {
	for _, r := range e.rigs {
		if err := r.hasPod(ctx, fmt.Sprintf("%s-%d", churned, e.deleted)); err != nil {
			return err
		}
	}
	if err := e.delete(ctx); err != nil {
		return err
	}
	if err := e.plane.CreatePods(ctx, pod(churned, e.deleted-1+come)); err != nil {
		return err
	}
	e.made++
	return e.plane.RestartContainer(ctx, namespace, fmt.Sprintf("%s-%d", namespace, e.made%stay), 0)
}

// delete deletes the oldest pod of those that come and go, and lets the rigs watch for its end.
func (e *events) delete(ctx context.Context) error {
	name := fmt.Sprintf("%s-%d", churned, e.deleted)
	e.deleted++
	if err := e.plane.DeletePod(ctx, churned, name); err != nil {
		return err
	}
	at := time.Now()
	for _, r := range e.rigs {
		r.watching.Go(func() { r.watchGone(e.test, name, at) })
	}
	return nil
}

// restartReceivers restarts all of them; a pod goes while they are down.
func (e *events) restartReceivers(ctx context.Context) error {
	// All are down at once.
	var isDown sync.WaitGroup
	isDown.Add(len(e.rigs))
	back, errs := make(chan struct{}), make(chan error)
	for _, r := range e.rigs {
		go func() {
			var once sync.Once
			defer once.Do(isDown.Done)
			errs <- r.restartReceiver(ctx, func() error {
				once.Do(isDown.Done)
				<-back
				return nil
			})
		}()
	}
	isDown.Wait()
	err := e.delete(ctx)
	if err == nil {
		err = e.plane.CreatePods(ctx, pod(churned, e.deleted-1+come))
	}
	select {
	case <-time.After(down):
	case <-ctx.Done():
	}
	close(back)
	for range e.rigs {
		err = errors.Join(err, <-errs)
	}
	return err
}

// killExporters kills all of them. What has ended before has to be told before: nobody knows of it afterwards.
func (e *events) killExporters(ctx context.Context) error {
	for _, r := range e.rigs {
		r.watching.Wait()
	}
	errs := make(chan error)
	for _, r := range e.rigs {
		go func() { errs <- r.killExporter(ctx) }()
	}
	var err error
	for range e.rigs {
		err = errors.Join(err, <-errs)
	}
	return err
}

// refusedNothing is an error if the receiver has refused something since its start, by its own counters and its log.
func (r *rig) refusedNothing(ctx context.Context) error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	refused, err := r.receiver.Refused(ctx)
	maps.DeleteFunc(refused, func(counter string, value float64) bool { return r.forgiven.counters[counter] == value })
	if err == nil && len(refused) > 0 {
		err = fmt.Errorf("%s has refused samples: %v\n%s", r.receiver.Name, refused, process.Tail(r.receiver.Log(), 5))
	}
	for line := range strings.Lines(r.receiver.Log()[r.forgiven.log:]) {
		if strings.Contains(line, "ut of order") || strings.Contains(line, "uplicate") || strings.Contains(line, "nvalid") {
			return errors.Join(err, fmt.Errorf("%s says: %s", r.receiver.Name, line))
		}
	}
	return err
}

// deliveredAll is an error if the exporter counts samples that a receiver has refused, or none that it has taken.
func (r *rig) deliveredAll(ctx context.Context) error {
	var page *exporter.Page
	err := await(ctx, 10*time.Second, func(ctx context.Context) (err error) {
		if page, err = r.exporter.Scrape(ctx); err != nil {
			return err
		}
		taken, _ := page.Sum(pushSamples, map[string]string{"result": "ok"})
		refused, _ := page.Sum(pushSamples, map[string]string{"result": "refused"})
		r.mutex.Lock()
		defer r.mutex.Unlock()
		if refused > r.forgiven.samples || taken == 0 {
			return fmt.Errorf("the exporter that pushes to %s counts %v samples that were taken and %v that were refused; "+
				"its log ends with\n%s", r.receiver.Name, taken, refused, process.Tail(r.exporter.Log(), 5))
		}
		return nil
	})
	if page != nil {
		r.t.Logf("%s: the exporter counts %v", r.receiver.Name, page.Family(pushSamples))
	}
	return err
}

const pushSamples = "metrics_server_prom_push_samples_total"

// await asks until ready says nil, for so long at most.
func await(ctx context.Context, limit time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	return process.Await(ctx, 200*time.Millisecond, ready)
}

// judge compares what the receiver has with what the API has said and says, and what it has after a graceful stop.
func (r *rig) judge(t *testing.T, plane *controlplane.ControlPlane, h *history, began time.Time) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r.t = t
	for job, took := range r.latest {
		t.Logf("a deleted pod's series of the job %s were gone after at most %s", job, took.Round(100*time.Millisecond))
	}
	if err := errors.Join(r.allUp(ctx), r.refusedNothing(ctx), r.deliveredAll(ctx)); err != nil {
		t.Error(err)
	}
	r.judgeSamples(ctx, t, h, began)
	if err := await(ctx, time.Minute,
		func(ctx context.Context) error { return r.isThePages(ctx, plane) }); err != nil {
		t.Error(err)
	}

	code, took, err := r.exporter.Terminate()
	if err != nil || code != 0 {
		t.Errorf("SIGTERM: exit code %d, %v", code, err)
	}
	err = await(ctx, 5*time.Second, func(ctx context.Context) error {
		left, err := r.receiver.Instant(ctx, r.selector(""), time.Now())
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d series are left, such as %v", len(left), left[0].Labels)
		}
		return err
	})
	if err != nil {
		t.Errorf("after a stop within %s: %v", took, err)
	}
	if err := r.refusedNothing(ctx); err != nil {
		t.Error(err)
	}
}

// judgeSamples compares all samples of usage with what metrics-server has said.
func (r *rig) judgeSamples(ctx context.Context, t *testing.T, h *history, began time.Time) {
	last := time.Since(began).Truncate(time.Second) + 2*time.Minute
	stored := map[string][]receiver.Sample{}
	for _, family := range []string{check.NodeCPU, check.NodeMemory, check.PodCPU, check.PodMemory, counters, memory} {
		all, err := r.receiver.Stored(ctx, r.selector(fmt.Sprintf(",__name__=%q", family)), last)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) == 0 {
			t.Errorf("no series of %s", family)
		}
		for _, series := range all {
			stored[text(series)] = series.Samples
		}
	}
	off := 0.0
	if r.receiver.Name == receiver.VictoriaMetrics.Name {
		off = 1e-11 // it keeps twelve digits
	}
	r.mutex.Lock()
	disturbed, starts := slices.Clone(r.disturbed), slices.Clone(r.starts)
	r.mutex.Unlock()
	// Longer than the exporter's refresh and its next push need after metrics-server has a reading.
	needed := interval + 3*time.Second
	samples, expected, wrong := h.compare(stored, disturbed, starts, time.Now().Add(-needed), needed, off)
	t.Logf("%d samples of %d series of usage, of which %d had to be there; %d are wrong", samples, len(stored), expected,
		len(wrong))
	if len(wrong) > 0 || expected == 0 {
		t.Errorf("%d are wrong:\n%s", len(wrong), strings.Join(wrong[:min(len(wrong), 20)], "\n"))
	}
	for series, all := range stored {
		if strings.HasPrefix(series, counters) {
			r.onlyGrows(t, series, all, starts)
		}
	}
}

// onlyGrows looks at a CPU counter, which begins again with the exporter only.
func (r *rig) onlyGrows(t *testing.T, series string, all []receiver.Sample, starts []time.Time) {
	for i := 1; i < len(all); i++ {
		began := slices.ContainsFunc(starts, func(start time.Time) bool {
			return start.UnixMilli() > all[i-1].At-1000 && start.UnixMilli() < all[i].At+1000
		})
		if all[i].Value < all[i-1].Value && !began {
			t.Errorf("%s went back from %v to %v at %d", series, all[i-1].Value, all[i].Value, all[i].At)
		}
	}
}

// isThePages is an error if the receiver does not have exactly the series that the pages have, and of those that are
// made of objects the API's values.
func (r *rig) isThePages(ctx context.Context, plane *controlplane.ControlPlane) error {
	objects, err := check.ReadObjects(ctx, plane.Admin)
	if err != nil {
		return err
	}
	has := map[string]map[string]float64{}
	for _, job := range jobs {
		all, err := r.receiver.Instant(ctx, r.selector(fmt.Sprintf(",job=%q", job)), time.Now())
		if err != nil {
			return err
		}
		has[job] = map[string]float64{}
		for _, s := range all {
			has[job][text(s)] = s.Samples[0].Value
		}
		delete(has[job], "up{}")
	}
	state := map[string]float64{}
	for series, value := range objects.KubeStateMetrics(nil) {
		state[canonical(series)] = value
	}
	if differences := check.Diff(state, has["kube-state-metrics"]); len(differences) > 0 {
		return fmt.Errorf("kube-state-metrics: %d differences:\n%s", len(differences),
			strings.Join(differences[:min(10, len(differences))], "\n"))
	}
	for job, path := range map[string]string{"cadvisor": "/metrics/cadvisor", "metrics-server-prom": "/metrics"} {
		page, err := r.exporter.ScrapePage(ctx, path)
		if err != nil {
			return err
		}
		shows := map[string]float64{}
		for series := range page.Samples {
			if shows[canonical(series)] = 0; strings.HasPrefix(series, "go_") || strings.HasPrefix(series, "process_") {
				delete(shows, canonical(series)) // of the process, in no format pushed
			}
		}
		names := maps.Clone(has[job])
		for series := range names {
			names[series] = 0
		}
		maps.DeleteFunc(names, func(series string, _ float64) bool {
			return strings.HasPrefix(series, "go_") || strings.HasPrefix(series, "process_")
		})
		if differences := check.Diff(shows, names); len(differences) > 0 {
			return fmt.Errorf("%s: %d differences:\n%s", job, len(differences),
				strings.Join(differences[:min(10, len(differences))], "\n"))
		}
	}
	return nil
}
