package usage

import (
	"context"
	"errors"

	"metrics-server-prom/internal/refresh"
)

// Current waits until what is shown of the lists is current, and tells of which it is. shown is what is shown of the
// i-th list, and changed is told of each change of that. It fails when ctx ends. Where ctx ends by its deadline and
// something of each resource is current, that is what there is: a namespace whose lists hang takes nothing away from
// the others.
func Current(ctx context.Context, lists []*List, shown func(i int) Status, changed *refresh.Broadcast) ([]bool, error) {
	for {
		current, missing, again := look(lists, shown, changed)
		if missing == 0 {
			return current, nil
		}
		select {
		case <-again:
		case <-ctx.Done():
			current, missing, _ = look(lists, shown, changed)
			if errors.Is(ctx.Err(), context.DeadlineExceeded) && missing < len(lists) {
				return current, nil
			}
			return nil, ctx.Err()
		}
	}
}

// look tells which lists are current, and how many are missing: all where nothing of a resource is current, or where
// there are no data at all. again is closed when it is worth looking again.
func look(lists []*List, shown func(i int) Status, changed *refresh.Broadcast) (current []bool, missing int,
	again <-chan struct{}) {
	again = changed.Wait()
	has, data := map[string]bool{}, false
	for i, l := range lists {
		ended := l.Loop.Ended()
		is, s := l.Loop.IsCurrent(), shown(i)
		expiring := is && s.expired() // what is left is about to be shown
		is = is && s.Tried() && !expiring
		if current = append(current, is); is {
			has[l.Resource], data = true, data || !s.Refreshed.IsZero()
			continue
		}
		if missing == 0 && !expiring {
			again = ended // of the others the last look is enough
		}
		missing++
	}
	if !has["nodes"] || !has["pods"] || !data {
		missing = len(lists)
	}
	return current, missing, again
}
