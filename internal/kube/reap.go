package kube

import (
	"slices"
	"sync"
	"syscall"
	"time"
)

// orphans are what plugins have started and have not waited for: where this is process 1, as in a container, it becomes
// a child of this process, and after its end takes a place among the processes until it is waited for. A plugin and all
// that it starts are a group of their own, so that nothing else is waited for here; elsewhere nothing is.
type orphans struct {
	mu     sync.Mutex
	groups []int // of which some had not ended when their plugins had
}

var orphaned orphans

// begun is told of a new group. Linux gives the numbers of groups that are gone to new ones, once it has been through
// all others.
func (o *orphans) begun(group int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.groups = slices.DeleteFunc(o.groups, func(g int) bool { return g == group })
}

// ended waits for what has ended of a group whose plugin has been waited for, and of earlier ones. Where patience is
// more than 0 the group has been killed, and all of it is waited for so long.
func (o *orphans) ended(group int, patience time.Duration) {
	end := time.Now().Add(patience)
	left := reap(group)
	for ; left && time.Now().Before(end); left = reap(group) {
		time.Sleep(10 * time.Millisecond)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.groups = slices.DeleteFunc(o.groups, func(g int) bool { return !reap(g) })
	if left {
		o.groups = append(o.groups, group)
	}
}

// reap waits for the children of this process in a group that have ended, and tells whether there are others.
func reap(group int) (left bool) {
	for {
		pid, err := syscall.Wait4(-group, nil, syscall.WNOHANG, nil)
		if err != syscall.EINTR && pid <= 0 {
			return err == nil
		}
	}
}
