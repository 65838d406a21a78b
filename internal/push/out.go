package push

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net/http"
	"time"

	"metrics-server-prom/internal/remotewrite"
)

// A batch is full with so many series or bytes before compression. Receivers have limits from 1 MB on.
const (
	fullSeries = 2000
	fullBytes  = 400 << 10
)

// A batch that was not taken is tried again after such a pause, which doubles from time to time.
const (
	firstPause   = 250 * time.Millisecond
	longestPause = 10 * time.Second
)

// Out takes the series of one push and sends them in batches. Once the receiver takes no more, for a batch in all its
// time or because of who sends, the rest is only counted: the next push has newer samples.
type Out struct {
	pusher  *Pusher
	encoder remotewrite.Encoder
	taken   int    // samples
	refusal error  // the first
	failed  error  // ended the push
	rest    string // what becomes of the samples after that
}

// Add adds a series with one sample, see remotewrite.Encoder. One that is not valid is left out and counted.
func (o *Out) Add(t *remotewrite.Target, name string, labels []byte, value float64, at int64) {
	switch {
	case o.failed != nil:
		o.count(o.rest, 1)
	case !o.encoder.Add(t, name, labels, value, at):
		o.count(invalid, 1)
	}
}

func (o *Out) count(result string, n int) { o.pusher.samples[result].Add(n) }

// Full tells whether there is enough for a batch.
func (o *Out) Full() bool {
	return o.encoder.Len() >= cmp.Or(o.pusher.Batch, fullSeries) || o.encoder.Size() >= fullBytes
}

// Flush sends what was added since the last Flush. It returns nil once the receiver has taken that, or refused it for
// good, and else why the push is over: the same error from then on.
func (o *Out) Flush(ctx context.Context) error {
	n := o.encoder.Len()
	if o.failed != nil || n == 0 {
		return o.failed
	}
	defer o.encoder.Reset()
	switch f := o.pusher.deliver(ctx, o.encoder.Body()); {
	case f == nil:
		o.taken += n
		o.count(taken, n)
	case f.isPassing():
		o.failed, o.rest = f, undelivered
		o.count(undelivered, n)
	default:
		if o.count(refused, n); o.refusal == nil {
			o.refusal = f
		}
		if f.isOfSender() {
			o.failed, o.rest = f, refused
		}
	}
	return o.failed
}

// deliver sends a batch until the receiver has taken or refused it, or the pusher's patience is over. A try that hangs
// is given up before, as the next one may find a receiver that answers.
func (p *Pusher) deliver(ctx context.Context, batch []byte) (f *failure) {
	ctx, cancel := withTimeout(ctx, p.patience())
	defer cancel()
	end, _ := ctx.Deadline()
	if f := p.rest(ctx); f != nil {
		return f
	}
	header := http.Header{
		"Content-Type":     {"application/x-protobuf"},
		"Content-Encoding": {"snappy"},
		versionHeader:      {"0.1.0"},
	}
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		former := f
		try, cancel := withTimeout(ctx, standard)
		f = p.send(try, http.MethodPost, header, &batchBody{batch: batch})
		if cancel(); f == nil || !f.isPassing() {
			return f
		}
		if f.status == 0 {
			p.client.renew()
		}
		if former != nil && ctx.Err() != nil {
			return former // says more
		}
		// Not all senders of a receiver that was away come back at once.
		wait := max(f.after, pause/2+rand.N(pause/2))
		if time.Until(end) <= wait {
			return f
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return f
		}
	}
}

// isPassing tells whether the same may be taken later.
func (f *failure) isPassing() bool {
	return f.status == 0 || f.status == http.StatusTooManyRequests || f.status >= http.StatusInternalServerError
}

// isOfSender tells whether the receiver refuses whatever is sent, because of who sends it or how.
func (f *failure) isOfSender() bool {
	switch f.status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed,
		http.StatusUnsupportedMediaType:
		return true
	}
	return f.status < http.StatusBadRequest
}
