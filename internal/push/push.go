// Package push sends what the program knows to a receiver, for places that nobody can scrape: the page as text, or
// all series by Prometheus' remote write.
package push

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/remotewrite"
	"metrics-server-prom/internal/selfmetrics"
)

// The formats to push in.
const (
	Text        = "text"         // the text exposition format
	RemoteWrite = "remote-write" // Prometheus' remote write, version 1.0
)

// Pusher is what to push, where to and how. What its rows set is checked by Check; Register comes before all that
// pushes.
type Pusher struct {
	URL         string        // VictoriaMetrics' /api/v1/import/prometheus, a Pushgateway's /metrics/job/JOB, or the like
	Format      string        // Text or RemoteWrite; "" is Text
	Interval    time.Duration // between two pushes; 0 is for pushes that are asked for only
	Instance    string        // the label of that name, of remote write
	ExtraLabels string        // added to every sample: foo="bar",cluster="x"
	Headers     http.Header   // sent along; they may be secret and are never logged
	UserAgent   string        // the header of that name, unless Headers has one
	JustOnce    bool          // whether the program is to push once and end
	Batch       int           // series of a request; 0 for what receivers take
	// Page writes the page of the text format. Where it fails nothing arrives, or a request that breaks off. once: the
	// push is one that was asked for, which has nothing that this program counts itself.
	Page func(ctx context.Context, w io.Writer, once bool) error
	// Series adds all that is to be pushed by remote write, and flushes where there is enough for a batch.
	Series func(ctx context.Context, o *Out, once bool) error
	// Ended adds the stale markers of all series that the receiver has of the pushes at the interval.
	Ended func(ctx context.Context, o *Out) error

	extraNames []string                    // of ExtraLabels
	client     *client                     // nil until it is needed, where no file configures it
	pushes     map[bool]*metrics.Counter   // by whether they worked
	samples    map[string]*metrics.Counter // by result

	mu      sync.Mutex                         // held by a push
	asked   time.Time                          // for the last push that was
	resting time.Time                          // until when the receiver has asked to be left alone
	emptied bool                               // a Pushgateway's group has had nothing since, see withdraw
	asking  atomic.Pointer[context.CancelFunc] // ends the last push that was asked for inside a request
	problem string                             // kind of the last push's error, see problemOf
	out     Out
}

const (
	// standard is how long a batch is tried where no interval says it, and how long one try may take.
	standard = 30 * time.Second
	// goodbye is how long the receiver has to take in that nothing more comes.
	goodbye = 5 * time.Second
)

// patience is how long the receiver has for a batch, from the first try on.
func (p *Pusher) patience() time.Duration { return cmp.Or(p.Interval, standard) }

// What becomes of samples.
const (
	taken       = "ok"
	refused     = "refused"     // by the receiver, for good
	undelivered = "undelivered" // within the interval
	invalid     = "invalid"     // not sent
)

// Register adds the pusher's metrics to those of the program.
func (p *Pusher) Register(self *selfmetrics.Scope) {
	count := func(name, help, result string) *metrics.Counter {
		return self.Counter(name, help, fmt.Sprintf("result=%q", result))
	}
	const pushes = "Pushes, by how they ended."
	p.pushes = map[bool]*metrics.Counter{
		true: count("pushes_total", pushes, "ok"), false: count("pushes_total", pushes, "error")}
	if p.Format != RemoteWrite {
		return
	}
	p.samples = map[string]*metrics.Counter{}
	for _, result := range []string{taken, refused, undelivered, invalid} {
		p.samples[result] = count("push_samples_total", "Samples pushed by remote write, by what became of them: ok, "+
			"refused by the receiver for good, undelivered within the interval, or invalid and so not sent.", result)
	}
}

// Target has the labels that all series of a job have in common.
func (p *Pusher) Target(job string) *remotewrite.Target { return p.TargetOf(job, "") }

// TargetOf is Target for the series of a job that are of a cluster; "" for none.
func (p *Pusher) TargetOf(job, cluster string) *remotewrite.Target {
	t, _ := p.target(job, cluster) // an error is one of Check's
	return t
}

func (p *Pusher) target(job, cluster string) (*remotewrite.Target, error) {
	labels := label.Append(nil, "job", job, "instance", p.Instance)
	if cluster != "" {
		labels = label.Append(labels, "cluster", cluster)
	}
	if p.ExtraLabels != "" {
		labels = label.Append(labels, "", p.ExtraLabels)
	}
	return remotewrite.NewTarget(string(labels))
}

// Run pushes at the interval until ctx ends, and then tells the receiver what has ended with it: it returns at most
// goodbye later. A receiver that fails is logged when it begins to and when it ends to.
func (p *Pusher) Run(ctx context.Context) {
	if p.Interval == 0 {
		return
	}
	tick := time.NewTicker(p.Interval)
	defer tick.Stop()
	p.run(ctx, tick.C)
}

// run pushes once for each tick.
func (p *Pusher) run(ctx context.Context, tick <-chan time.Time) {
	for pushed := false; ; pushed = true {
		select {
		case <-tick:
			p.mu.Lock()
			p.push(ctx, false)
			p.mu.Unlock()
		case <-ctx.Done():
			if cancel := p.asking.Load(); cancel != nil {
				(*cancel)() // which may still be waiting for something to push
			}
			if pushed {
				p.end(context.WithoutCancel(ctx))
			}
			return
		}
	}
}

// end tells the receiver that nothing more comes.
func (p *Pusher) end(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ctx, cancel := withTimeout(ctx, goodbye)
	defer cancel()
	var err error
	switch {
	case p.Format == RemoteWrite:
		_, err = p.pushSeries(ctx, func(o *Out) error { return p.Ended(ctx, o) })
	case p.isGroup():
		err = p.deleteGroup(ctx)
	}
	if err != nil {
		slog.Warn(fmt.Sprintf("cannot tell %s that nothing more comes, so that the last values stay for a while: %v",
			p.receiver(), err))
	}
}

// Once pushes once, whatever the interval, and returns how many samples the receiver has taken. Nothing goes that this
// program counts itself. What goes wrong is for the caller to tell.
func (p *Pusher) Once(ctx context.Context) (samples int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.push(ctx, true)
}

// uncounted is why a push that was asked for is without counters.
const uncounted = "What this program counts itself, such as container_cpu_usage_seconds_total, is not pushed this " +
	"way: a counter needs a process that pushes all the time, see --push.interval.\n"

// ServeHTTP answers POST /-/push: it pushes once, and says how that went.
func (p *Pusher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const pause = time.Second
	if p.URL == "" {
		http.Error(w, "there is nowhere to push to; set --push.url (PUSH_URL)", http.StatusNotFound)
		return
	}
	io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 1<<10)) // before that nobody notices who has left
	if !p.mu.TryLock() {
		busy(w, "a push is running")
		return
	}
	defer p.mu.Unlock()
	if time.Since(p.asked) < pause {
		busy(w, "the last push that was asked for began less than a second ago")
		return
	}
	p.asked = time.Now()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	p.asking.Store(&cancel)
	samples, err := p.push(ctx, true)
	if err != nil {
		status := http.StatusServiceUnavailable
		if _, ok := errors.AsType[*failure](err); ok {
			status = http.StatusBadGateway
		}
		http.Error(w, err.Error(), status)
		return
	}
	fmt.Fprintf(w, "pushed %d samples\n%s", samples, uncounted)
}

func busy(w http.ResponseWriter, why string) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, why, http.StatusTooManyRequests)
}

// push pushes what there is and counts and logs how that went.
func (p *Pusher) push(ctx context.Context, once bool) (samples int, err error) {
	if p.Format == RemoteWrite {
		samples, err = p.pushSeries(ctx, func(o *Out) error { return p.Series(ctx, o, once) })
	} else {
		samples, err = p.pushPage(ctx, once)
		err = p.withdraw(ctx, err, once)
	}
	if err != nil {
		err = fmt.Errorf("cannot push to %s: %w", p.receiver(), err)
	}
	if ctx.Err() != nil {
		return samples, err // nobody waits for it any more
	}
	p.pushes[err == nil].Inc()
	is := problemOf(err)
	switch {
	case p.JustOnce || is == p.problem:
	case err == nil:
		slog.Info("pushing to " + p.receiver() + " works again")
	case p.Interval > 0:
		slog.Warn(fmt.Sprintf("%v; the next push is in %s", err, p.Interval))
	default:
		slog.Warn(err.Error())
	}
	p.problem = is
	return samples, err
}

// problemOf is the kind of a push's error, of which each is logged when it begins: why samples are refused is not to be
// missed because the receiver was away just before. "" is that the push has worked.
func problemOf(err error) string {
	f, ok := errors.AsType[*failure](err)
	switch {
	case err == nil:
		return ""
	case !ok:
		return "nothing to push"
	case f.isPassing():
		return undelivered
	}
	return refused
}

// pushSeries pushes by remote write what is added.
func (p *Pusher) pushSeries(ctx context.Context, add func(*Out) error) (samples int, err error) {
	defer p.connection().renew() // one that was idle in between can be dead without a sign
	o := &p.out
	*o = Out{pusher: p, encoder: o.encoder}
	err = add(o)
	err = cmp.Or(o.Flush(ctx), err) // an error of Flush that add passes on is the same one
	return o.taken, cmp.Or(err, o.refusal)
}

// receiver is the receiver's name for people: its URL's user, path and query can hold tokens.
func (p *Pusher) receiver() string {
	u, err := url.Parse(p.URL)
	if err != nil {
		return "(invalid URL)"
	}
	return u.Scheme + "://" + u.Host
}

var group = regexp.MustCompile(`^(.*)/metrics/job(@base64)?/[^/]`)

// isGroup tells whether the URL is of a group of a Pushgateway, below any path. VictoriaMetrics takes pushes at such
// paths too, which are to add to what it has.
func (p *Pusher) isGroup() bool {
	u, err := url.Parse(p.URL)
	if err != nil {
		return false
	}
	match := group.FindStringSubmatch(u.EscapedPath())
	return match != nil && !strings.HasSuffix(match[1], "/import/prometheus")
}
