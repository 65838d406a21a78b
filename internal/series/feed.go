package series

import (
	"context"
	"errors"
	"time"

	"metrics-server-prom/internal/family"
	"metrics-server-prom/internal/objects"
	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/remotewrite"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/scope"
	"metrics-server-prom/internal/selfmetrics"
)

// Known is what there is to push of a cluster, as far as it is current.
type Known struct {
	// Lists give what they show of nodes, and then of the pods of each namespace; none where nothing is current, nil for
	// one of which nothing is.
	Lists []func(func(*sample.Batch))
	objects.Known
}

// serves tells whether there is what a page shows.
func (k *Known) serves(page string) bool {
	if page == "kube-state-metrics" {
		return k.Others != nil && k.Failed == nil
	}
	return len(k.Lists) > 0
}

// of is the objects that a page shows.
func (k *Known) of(page string) objects.Known {
	if !k.serves(page) {
		return objects.Known{}
	}
	return k.Known
}

// Feed adds to pushes what there is.
type Feed struct {
	Families family.Table
	Scope    *scope.Settings
	Target   func(job string) *remotewrite.Target
	Known    func(context.Context) Known // waits as a scrape does until what there is is current
	Failed   func(context.Context) error // what has failed, where something has, or that the context has ended
	Pulse    *refresh.Pulse
	Self     *selfmetrics.Registry // nil for none, which Several adds

	receiver *receiver // of the pushes at the interval
}

// patience is how long a push that was asked for waits for what takes its time. Who asks, such as a job or a scheduler,
// has a minute, see deploy/; a look takes up to ten seconds of it more.
const patience = 25 * time.Second

var errPending = errors.New("it is not complete: some of what there is was still being read after " +
	patience.String() + ", see /healthz; all else was pushed")

// Push adds all that is served. Where that is nothing, once waits until something has failed; else the receiver is told
// so. For what only takes its time once has patience, as there is no next push that has it, and fails where that ends.
func (f *Feed) Push(ctx context.Context, out *push.Out, once bool) error {
	return f.pushUntil(ctx, out, once, time.Now().Add(patience))
}

// pushUntil is Push, whose patience ends at a moment.
func (f *Feed) pushUntil(ctx context.Context, out *push.Out, once bool, end time.Time) error {
	r := f.receiver
	if once {
		r = newReceiver(f, true)
	}
	for {
		thaws := f.Pulse.Thaws()
		known := f.Known(ctx)
		p := r.begin(ctx, out)
		switch {
		case once && !known.serves(""):
			if err := f.Failed(ctx); err != nil {
				return err
			}
		case once && known.Pending && ctx.Err() == nil && time.Now().Before(end):
		case f.Pulse.Thaws() == thaws: // else it may be old again
			err := f.add(p, &known)
			if once && known.Pending {
				err = errors.Join(err, errPending)
			}
			return err
		}
	}
}

// add adds what is known, as scrapes of the pages would find it.
func (f *Feed) add(p *pushed, k *Known) error {
	var all []error
	if f.Self != nil {
		all = append(all, p.addSelf(f.selfText()))
	}
	all = append(all, p.addUp(k.serves))
	for i, namespace := range append([]string{""}, f.Scope.Each()...) {
		key, resource, read := "pods/"+namespace, "pods", nothing
		if i == 0 {
			key, resource = "nodes", "nodes"
		}
		if i < len(k.Lists) && k.Lists[i] != nil {
			read = k.Lists[i]
		}
		all = append(all, p.addUsage(key, resource, read))
	}
	return errors.Join(append(all, p.addState(k))...)
}

// End adds that all series of the pushes at the interval have ended.
func (f *Feed) End(ctx context.Context, out *push.Out) error { return f.receiver.begin(ctx, out).end() }

// Begin says that the process has begun: no reading of before is pushed at the interval.
func (f *Feed) Begin() { f.receiver = newReceiver(f, false) }
