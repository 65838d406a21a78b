package series

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/remotewrite"
	"metrics-server-prom/internal/selfmetrics"
)

// Cluster is one of several clusters. Its fields are as those of Feed.
type Cluster struct {
	Name   string
	Known  func(context.Context) Known
	Failed func(context.Context) error
}

// Several adds to pushes what there is of several clusters, each as a Feed does, and the exporter's metrics of itself
// once. Its own Known, Failed and Target are not used.
type Several struct {
	Feed
	TargetOf func(job, cluster string) *remotewrite.Target
	Clusters func() []Cluster // that are configured now

	feeds map[string]*feed // by name
}

// feed is that of one of several clusters.
type feed struct {
	Feed
	cluster Cluster
	served  bool      // there was something at the last push at the interval
	pending bool      // something was still being read at the last look
	ended   time.Time // when the receiver was told that the cluster is gone; zero for not
}

// Begin says that the process has begun: no reading of before is pushed at the interval.
func (s *Several) Begin() {
	s.Target = func(job string) *remotewrite.Target { return s.TargetOf(job, "") }
	s.feeds = map[string]*feed{}
	s.Feed.Begin()
}

// Push adds all that is served of each cluster: first of those of which it is current, then of the others. These are
// waited for side by side, but where nothing was served of one at the last push at the interval, only once. It fails
// where that of a cluster does.
func (s *Several) Push(ctx context.Context, out *push.Out, once bool) error {
	r := s.receiver
	if once {
		r = newReceiver(&s.Feed, true)
	}
	p := r.begin(ctx, out)
	all := []error{p.addSelf(s.selfText())}
	p.last = p.at
	end := time.Now().Add(patience)
	add := func(f *feed) { all = append(all, f.pushUntil(ctx, out, once, end)) }
	now, cancel := context.WithDeadline(ctx, time.Now())
	defer cancel()
	present := map[string]bool{}
	var later []*feed
	for _, c := range s.Clusters() {
		present[c.Name] = true
		if f := s.feed(c, once); f.is(now) && !(once && f.pending) {
			f.Known, f.served = c.Known, true
			add(f)
		} else {
			later = append(later, f)
		}
	}
	var waiting sync.WaitGroup
	for _, f := range later {
		if f.served || once {
			waiting.Go(func() {
				for f.is(ctx) && once && f.pending && ctx.Err() == nil && time.Now().Before(end) {
				}
			})
		}
	}
	waiting.Wait()
	for _, f := range later {
		f.Known = f.cluster.Known
		if is := f.is(now); !once || is && f.pending {
			f.Known, f.served = func(context.Context) Known { return f.cluster.Known(now) }, is
		}
		add(f)
	}
	if !once {
		all = append(all, s.end(ctx, out, present))
	}
	return errors.Join(all...)
}

// feed returns the feed of a cluster; once: for one push that is not at the interval.
func (s *Several) feed(c Cluster, once bool) *feed {
	f := s.feeds[c.Name]
	if f == nil {
		f = &feed{Feed: s.Feed, served: true}
		f.Self, f.Target = nil, func(job string) *remotewrite.Target { return s.TargetOf(job, c.Name) }
		f.Begin()
		f.receiver.since = s.receiver.since
		if !once {
			s.feeds[c.Name] = f
		}
	}
	f.cluster, f.Failed = c, c.Failed
	return f
}

// is tells whether something of the cluster is current, or waits until it is.
func (f *feed) is(ctx context.Context) bool {
	known := f.cluster.Known(ctx)
	f.pending = known.Pending
	return known.serves("")
}

// selfText is the text of the exporter's metrics of itself.
func (f *Feed) selfText() []byte {
	var text bytes.Buffer
	f.Self.Write(&text)
	selfmetrics.WriteProcess(&text)
	return text.Bytes()
}

// end tells the receiver of the clusters that are not present that they are gone. What is known of a series is kept for
// as long as a reading of it may be served, should it come back.
func (s *Several) end(ctx context.Context, out *push.Out, present map[string]bool) error {
	var all []error
	for name, f := range s.feeds {
		switch {
		case present[name]:
			f.ended = time.Time{}
		case f.ended.IsZero():
			err := f.End(ctx, out)
			if all = append(all, err); err == nil {
				f.ended = time.Now()
			}
		case time.Since(f.ended) > s.Scope.MaxAge:
			delete(s.feeds, name)
		}
	}
	return errors.Join(all...)
}

// End adds that all series of the pushes at the interval have ended.
func (s *Several) End(ctx context.Context, out *push.Out) error {
	return errors.Join(s.end(ctx, out, nil), s.Feed.End(ctx, out))
}
