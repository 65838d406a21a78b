package standin

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// heartbeats is how often the kubelet of a node that does not change reports (nodeStatusReportFrequency).
const heartbeats = 5 * time.Minute

// Churn changes about perSecond pods a second until ctx is done, see [Cluster.ChurnOnce], and the nodes as often as
// their kubelets report.
func (c *Cluster) Churn(ctx context.Context, perSecond float64) {
	if perSecond <= 0 {
		return
	}
	// Faster than 100 steps a second, several changes are made per step.
	interval := max(time.Duration(float64(time.Second)/perSecond), 10*time.Millisecond)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	due, reports := 0.0, 0.0
	for next := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for due += perSecond * interval.Seconds(); due >= 1; due-- {
			c.ChurnOnce()
		}
		reports += float64(len(c.nodes)) * interval.Seconds() / heartbeats.Seconds()
		for ; reports >= 1; reports-- {
			c.heartbeat(next)
			next++
		}
	}
}

// heartbeat is a report of a kubelet that says nothing new of a node, which is counted from 0.
func (c *Cluster) heartbeat(number int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	nodes := c.sets[nodeKind].objects
	n := *nodes[number%len(nodes)].(*nodeObject)
	n.heartbeat = c.now().Unix()
	c.put(&n)
}

// ChurnOnce changes one pod, or rarely those of one ReplicaSet. Pods are replaced by others of their workload,
// recreated under their name on another node, or relabelled; their containers restart, or cease to be ready and become
// so again; pods of Jobs end, and those of the next Job follow. The number of pods stays. A pod without a workload is
// left alone, as nothing would replace it.
func (c *Cluster) ChurnOnce() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	pods := c.sets[podKind].objects
	if len(pods) == 0 || len(c.nodes) == 0 {
		return
	}
	old := pods[c.rand.IntN(len(pods))].(*pod)
	kind := c.rand.IntN(100)
	switch w := old.workload; {
	case w.owner == "":
	case w.kind == jobOwner && old.phase == corev1.PodSucceeded:
		c.replace([]*pod{old}, c.successor(w))
	case w.kind == jobOwner && kind < 50:
		c.change(old, func(p *pod) { p.phase = corev1.PodSucceeded })
	case kind < 10:
		labels := old.labels.set()
		labels["app.kubernetes.io/version"] = "v3." + suffix(c.rand.Uint64(), 5)
		c.change(old, func(p *pod) { p.labels = newLabelSet(labels) })
	case kind < 30:
		c.restart(old, c.rand.IntN(len(w.shape.containers)))
	case kind < 50:
		ready := old.ready()
		c.change(old, func(p *pod) {
			p.states = old.allStates()
			for i := range p.states {
				p.states[i].NotReady = ready && i == 0
			}
		})
	case kind < 52 && w.kind == replicaSetOwner:
		c.replace(c.podsOf(w), c.successor(w))
	default:
		c.replace([]*pod{old}, w)
	}
}

// allStates are the states of all containers, to be changed.
func (p *pod) allStates() []ContainerState {
	if p.states == nil {
		return make([]ContainerState, len(p.workload.shape.containers))
	}
	return slices.Clone(p.states)
}

// restart lets a container end and start again, every eighth time not yet.
func (c *Cluster) restart(old *pod, container int) {
	c.change(old, func(p *pod) {
		p.states = p.allStates()
		s := &p.states[container]
		if s.Waiting == "" {
			s.Ended = []string{"Error", "Error", "OOMKilled"}[c.rand.IntN(3)]
			if c.rand.IntN(8) == 0 {
				s.Waiting = "CrashLoopBackOff"
				return
			}
		}
		s.Waiting, s.NotReady = "", false
		s.Restarts++
		s.Started = c.now().Unix()
	})
}

// change puts a changed copy of a pod in its place. The lock is held.
func (c *Cluster) change(old *pod, change func(*pod)) {
	cur := *old
	change(&cur)
	c.put(&cur)
	c.account(&cur, old)
}

// podsOf are the pods of a workload. The lock is held.
func (c *Cluster) podsOf(w *workload) (pods []*pod) {
	i, _ := c.find(podKind, w.namespace, w.owner)
	for ; i < len(c.sets[podKind].objects); i++ {
		p := c.podAt(i)
		if p.workload != w {
			break
		}
		pods = append(pods, p)
	}
	return pods
}

// replace replaces pods of one workload by others of it, or of its successor, whose owner then replaces theirs.
func (c *Cluster) replace(old []*pod, by *workload) {
	owner := newOwner(by, len(old), c.now().Unix())
	if w := old[0].workload; w != by && owner != nil {
		c.put(owner)
		if i, found := c.find(owner.kind(), w.namespace, w.owner); found {
			defer c.remove(c.sets[owner.kind()].objects[i])
		}
	}
	for _, p := range old {
		next := c.public(p)
		next.workload, next.States, next.Node, next.IP = by, nil, "", ""
		node := c.nodes[c.rand.IntN(len(c.nodes))]
		switch by.kind {
		case statefulSetOwner:
			next.Node = node
		case daemonSetOwner:
			next.Node, node = p.node, p.node
			fallthrough
		default:
			next.Name = by.podName(0, c.rand.Uint64())
			next.Labels = by.labels.set()
			next.Phase = corev1.PodPending
		}
		// The name that was picked may be taken: then this step changes nothing.
		if _, taken := c.find(podKind, next.Namespace, next.Name); taken && next.Name != p.name {
			continue
		}
		_ = c.delete(p.namespace, p.name) // it is there
		if c.add(next) != nil || next.Phase != corev1.PodPending {
			continue
		}
		i, _ := c.find(podKind, next.Namespace, next.Name)
		c.change(c.podAt(i), func(p *pod) {
			p.node, p.phase, p.ip = node, corev1.PodRunning, ipOf(p.serial)
			if by.shape.onHost {
				p.ip = string(appendHostIP(nil, node))
			}
		})
	}
}

// account tells those who count pods of a change of one: the quota of its namespace, and its ReplicaSet, whose status
// has the number of its ready pods. cur is nil for a deleted pod, old for an added one. The lock is held.
func (c *Cluster) account(cur, old *pod) {
	p, asked, ready := cur, amount{}, 0
	if cur != nil && cur.phase != corev1.PodSucceeded {
		asked = asked.plus(cur.workload.amount(), 1)
	}
	if cur != nil && cur.ready() {
		ready++
	}
	if old != nil {
		p = old
		if old.phase != corev1.PodSucceeded {
			asked = asked.plus(old.workload.amount(), -1)
		}
		if old.ready() {
			ready--
		}
	}
	if i, found := c.find(quotaKind, p.namespace, quotaName); found && asked != (amount{}) {
		q := *c.sets[quotaKind].objects[i].(*quota)
		q.used = q.used.plus(asked, 1)
		c.put(&q)
	}
	w := p.workload
	if i, found := c.find(replicaSetKind, w.namespace, w.owner); found && w.kind == replicaSetOwner && ready != 0 {
		r := *c.sets[replicaSetKind].objects[i].(*replicaSet)
		c.put(&r)
	}
}
