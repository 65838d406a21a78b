// Package usage keeps what a list of metrics.k8s.io says up to date: it reads the list again and again, joins it with
// the pods' metadata, and reports all that is lost on the way.
package usage

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"k8s.io/client-go/rest"

	"metrics-server-prom/internal/counter"
	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/metricsapi"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/store"
)

// Options is which list, and where it comes from and goes to.
type Options struct {
	Client    rest.Interface // of metrics.k8s.io
	Resource  string         // nodes or pods
	Namespace string         // "" for all, and for nodes
	Selector  string         // of labels, "" for none
	Joiner    sample.Joiner
	// Optional says that the list is not needed where the account has no right to it; Absent that the account is not
	// meant to have that right.
	Optional, Absent bool
	// Ready waits for what has to be there before the list is read; nil for nothing.
	Ready func(context.Context) error
	// Show makes the result of an attempt visible: a batch, or nil where what was shown before stays. The batch is
	// valid until Show is called again.
	Show   func(*sample.Batch, Status)
	Self   *selfmetrics.Scope // counters, which outlive the list
	Health *health.Tracker
}

// Status is how the attempts to read a list have ended.
type Status struct {
	Refreshed time.Time     // when the list was last read; zero for never
	Failure   *kube.Failure // of the last attempt; nil where it worked
	// Newest is the newest timestamp of the samples shown, Unix seconds, 0 where there are none; NewestOf is the pod, or
	// the node without a namespace, that has it.
	Newest   int64
	NewestOf store.Key
	began    time.Time // when the list was asked for that was Refreshed; zero also where it may be older than that
	expires  time.Time // when the first sample shown reaches max-age; zero where there is none
}

// Tried tells whether an attempt was made; one that waits for the first list of a watch is still going on.
func (s Status) Tried() bool {
	return !s.Refreshed.IsZero() || s.Failure != nil && s.Failure.Reason != kube.Watch
}

// expired tells whether a sample that is shown has reached max-age.
func (s Status) expired() bool { return !s.expires.IsZero() && time.Now().After(s.expires) }

// List is a list that is kept up to date while its Loop runs.
type List struct {
	Options
	Loop refresh.Loop
	What string // for people: nodes, pods, pods of namespace NAME
	Kind metricsapi.Kind

	status  atomic.Pointer[Status]
	decoder metricsapi.Decoder
	prober  metricsapi.Decoder  // of Stamp, which runs beside the loop
	before  [sample.Causes]bool // for which the list before had samples that were dropped

	mu    sync.RWMutex  // held while the batch that is shown changes
	shown *sample.Batch // never nil

	generation atomic.Uint64 // of what is shown
}

// New returns a list. Its loop wants an Interval, a Cutoff and a Pulse; its gauges are registered with scope.
func New(o Options, scope *selfmetrics.Scope) *List {
	l := &List{Options: o, What: o.Resource, Kind: metricsapi.PodMetricsList, shown: &sample.Batch{}}
	if o.Resource == "nodes" {
		l.Kind = metricsapi.NodeMetricsList
	}
	labels := fmt.Sprintf("resource=%q", o.Resource)
	if o.Namespace != "" {
		l.What += " of namespace " + o.Namespace
		labels += fmt.Sprintf(",namespace=%q", o.Namespace)
	}
	l.status.Store(&Status{})
	l.Loop.Read, l.Loop.Publish, l.Loop.Expire = l.read, l.publish, l.expire
	l.Loop.Expires = func() time.Time { return l.status.Load().expires }
	scope.Gauge("up", "Whether the last refresh of the resource worked.", labels, func() float64 {
		switch s := l.status.Load(); {
		case s.Failure == nil && !s.Refreshed.IsZero():
			return 1
		case s.Failure != nil && s.Failure.Reason == kube.Forbidden && o.Absent:
			return math.NaN()
		}
		return 0
	})
	scope.Gauge("last_refresh_timestamp_seconds", "When the resource was last refreshed.", labels, func() float64 {
		if s := l.status.Load(); !s.Refreshed.IsZero() {
			return float64(s.Refreshed.UnixMilli()) / 1e3
		}
		return math.NaN()
	})
	for _, reason := range kube.Reasons {
		l.failed(reason)
	}
	for cause := range sample.Cause(sample.Causes) {
		l.dropped(cause)
	}
	if l.Joiner.Running != nil {
		for result := range counter.Result(counter.Results) {
			l.counted(result)
		}
		l.filled()
	}
	return l
}

// Working tells whether the last attempt worked.
func (l *List) Working() bool { return l.status.Load().Failure == nil }

// Status is how the attempts to read the list have ended so far.
func (l *List) Status() Status { return *l.status.Load() }

// failed counts refreshes that failed.
func (l *List) failed(reason string) *metrics.Counter {
	return l.Self.Counter("refresh_errors_total", "Refreshes that failed.",
		fmt.Sprintf("resource=%q,reason=%q", l.Resource, reason))
}

// dropped counts samples that are not shown.
func (l *List) dropped(cause sample.Cause) *metrics.Counter {
	return l.Self.Counter("samples_dropped_total", "Samples of the metrics API that were not served.",
		fmt.Sprintf("reason=%q", cause.Reason()))
}

// counted counts CPU readings by what became of them.
func (l *List) counted(result counter.Result) *metrics.Counter {
	return l.Self.Counter("cpu_readings_total",
		"Readings of CPU usage, by what became of them in the counters of CPU time.", fmt.Sprintf("result=%q", result))
}

// filled counts seconds that were filled in.
func (l *List) filled() *metrics.FloatCounter {
	return l.Self.FloatCounter("cpu_seconds_filled_total",
		"CPU seconds filled in where there is a gap between two readings of a container or node.", "")
}

// Read calls f with the batch that is shown, which is empty where nothing is. It does not change until f returns.
func (l *List) Read(f func(*sample.Batch)) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	f(l.shown)
}

// Generation tells what is shown from what was shown before. Within Read it is that of the batch.
func (l *List) Generation() uint64 { return l.generation.Load() }

// change makes what f returns the batch that is shown.
func (l *List) change(f func() *sample.Batch) *sample.Batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shown = f()
	l.generation.Add(1)
	return l.shown
}

// read reads the list and joins it; publish makes it visible.
func (l *List) read(ctx context.Context, _ refresh.Attempt) error {
	took := l.Self.Histogram("refresh_duration_seconds", "Time to read a resource and join it with its labels.",
		fmt.Sprintf("resource=%q", l.Resource), []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30})
	defer took.UpdateDuration(time.Now())
	if l.Ready != nil {
		if err := l.Ready(ctx); err != nil {
			return err
		}
	}
	l.Joiner.Begin()
	return l.get(ctx, &l.decoder, l.Kind, l.Namespace, "", l.Joiner.Join)
}

// Stamp reads one object of the list's resource, within 5 s, and returns its timestamp in Unix nanoseconds.
func (l *List) Stamp(ctx context.Context, key store.Key) (stamp int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	kind := metricsapi.PodMetrics
	if l.Kind == metricsapi.NodeMetricsList {
		kind = metricsapi.NodeMetrics
	}
	err = l.get(ctx, &l.prober, kind, key.Namespace, key.Name, func(item *metricsapi.Item) error {
		stamp = item.Timestamp.UnixNano()
		return nil
	})
	return stamp, err
}

// get reads the resource of a namespace, or one object of it by its name.
func (l *List) get(ctx context.Context, d *metricsapi.Decoder, kind metricsapi.Kind, namespace, name string,
	visit func(*metricsapi.Item) error) error {
	request := l.Client.Get().NamespaceIfScoped(namespace, namespace != "").Resource(l.Resource).MaxRetries(0)
	if name != "" {
		request.Name(name)
	} else if l.Selector != "" {
		request.Param("labelSelector", l.Selector)
	}
	body, err := request.Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := d.Read(body, kind, visit); err != nil {
		return kube.BodyError(ctx, err)
	}
	return nil
}

// publish shows the attempt's result. After a failure that is what was shown before, until it expires; not where the
// attempt came late: then nobody knows how old it is.
func (l *List) publish(a refresh.Attempt, err error) (pause time.Duration) {
	old := *l.status.Load()
	if err != nil {
		f := kube.Explain("list "+l.Resource+".metrics.k8s.io", err)
		if !old.expires.IsZero() && !old.expires.After(time.Now()) {
			l.expire()
			old = *l.status.Load()
		}
		var batch *sample.Batch
		old.Failure = f
		if a.Late > 0 {
			batch = l.change(func() *sample.Batch { return &sample.Batch{} })
			old = Status{Refreshed: old.Refreshed, Failure: f}
		}
		l.show(batch, old)
		l.failed(f.Reason).Inc()
		missing := ""
		if l.Optional && f.Reason == kube.Forbidden {
			missing = "no metrics of " + l.What + " are served, the rest is"
		}
		l.Health.SetUnhealthy(l.What, f, missing)
		return f.Retry
	}
	batch := l.change(l.Joiner.Done)
	if l.Joiner.Running != nil {
		for result, n := range batch.Readings {
			l.counted(counter.Result(result)).Add(n)
		}
		l.filled().Add(batch.Filled)
	}
	l.show(batch, Status{Refreshed: time.Now(), began: a.Began, Newest: batch.Newest, NewestOf: batch.NewestOf,
		expires: batch.Expires(l.Joiner.MaxAge)})
	l.Health.SetHealthy(l.What)
	for cause, d := range batch.Dropped {
		l.notice(sample.Cause(cause), d)
	}
	return 0
}

// expire takes the samples that have reached max-age out of what is shown.
func (l *List) expire() {
	status := *l.status.Load()
	batch := l.change(func() *sample.Batch { return l.Joiner.Expire(time.Now()) })
	status.expires, status.Newest, status.NewestOf = batch.Expires(l.Joiner.MaxAge), batch.Newest, batch.NewestOf
	l.show(batch, status)
}

func (l *List) show(b *sample.Batch, s Status) {
	if b != nil {
		for cause, d := range b.Dropped {
			l.dropped(sample.Cause(cause)).Add(d.Samples)
		}
	}
	l.status.Store(&s)
	l.Show(b, s)
}

// notice reports samples that are dropped for a cause that lasts: in two lists one after the other.
func (l *List) notice(cause sample.Cause, d sample.Dropped) {
	text := ""
	if d.Samples > 0 && l.before[cause] && cause != sample.Gone {
		text = fmt.Sprintf("%d samples of %s are not served, such as of %s: they %s", d.Samples, l.What, d.Example, cause)
	}
	l.Health.SetNotice(fmt.Sprintf("%s (%d)", l.What, cause), text)
	l.before[cause] = d.Samples > 0
}
