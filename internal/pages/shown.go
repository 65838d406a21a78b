package pages

import (
	"context"
	"slices"
	"time"

	"metrics-server-prom/internal/page"
)

// Shown is what there is to serve of a cluster on a page.
type Shown struct {
	Snapshots []*Snapshot
	Objects   [][][]*page.Part // by source and family
	Failed    error            // why there is nothing
}

// equal tells whether a page that shows the one shows the other.
func (s Shown) equal(other Shown) bool {
	same := func(a, b [][]*page.Part) bool { return &a[0] == &b[0] }
	return slices.Equal(s.Snapshots, other.Snapshots) && slices.EqualFunc(s.Objects, other.Objects, same)
}

// Gather returns what there is to serve of each of n clusters. current waits until what there is of the i-th is
// current. It waits for the first of them, until changed, or until ctx ends; of the others it is what is current then.
func Gather(ctx context.Context, n int, current func(ctx context.Context, i int) Shown,
	changed <-chan struct{}) []Shown {
	all := make([]Shown, n)
	ready := false
	look := func(ctx context.Context) {
		for i := range all {
			if !ready || all[i].Failed != nil {
				all[i] = current(ctx, i)
			}
		}
		ready = slices.ContainsFunc(all, func(s Shown) bool { return s.Failed == nil })
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if look(canceled); !ready {
		results := make(chan bool, n)
		for i := range n {
			go func() { results <- current(ctx, i).Failed == nil }()
		}
		for waiting, first := n, false; !first && (waiting > 0 || n == 0); waiting-- {
			select {
			case first = <-results:
			case <-changed:
				first = true
			case <-ctx.Done():
				first = true
			}
		}
	}
	// Of a cluster of which only a part is current, such as one namespace, that is what there is once time is over.
	over, cancel := context.WithDeadline(ctx, time.Now())
	defer cancel()
	look(over)
	return all
}
