package standin

import (
	corev1 "k8s.io/api/core/v1"
	"slices"
)

// populate fills the cluster with nodes and workloads, and the objects around them. A third as many ReplicaSets as
// there are pods, with three pods each, some of them of earlier revisions, is what large clusters have.
func (c *Cluster) populate(pods, containers, replicas int) {
	var all []*workload
	taken := map[string]bool{} // of some thousand names of a workload two may be the same
	start := func(w *workload, number, size int, node string) {
		c.serial++
		p := &pod{
			objectMeta: objectMeta{namespace: w.namespace, labels: w.podLabels(number), serial: c.serial,
				created: c.start.Unix() - 3600 - int64(mix(w.hash)%86400)},
			node: node, ip: ipOf(c.serial), phase: corev1.PodRunning, workload: w,
		}
		for random := w.hash + uint64(number); p.name == "" || taken[p.namespace+"/"+p.name]; random = mix(random) {
			p.name = w.podName(number, mix(random))
		}
		taken[p.namespace+"/"+p.name] = true
		if w.shape.onHost {
			p.ip = string(appendHostIP(nil, p.node))
		}
		if p.serial%20 == 0 {
			p.states = make([]ContainerState, containers)
			p.states[0] = ContainerState{Restarts: 1 + int(w.hash%7), Started: p.created + 1800, Ended: "Error"}
		}
		c.append(p)
		if number == 0 {
			all = append(all, w)
			if owner := newOwner(w, size, p.created); owner != nil {
				c.append(owner)
			}
		}
	}
	count := func() int { return len(c.sets[podKind].objects) }
	for i := range agents {
		if pods < 10*(i+1)*len(c.nodes) {
			break
		}
		w := c.newAgent(i, containers)
		for number, node := range c.nodes {
			start(w, number, 0, node)
		}
	}
	for i := 0; count() < pods; i++ {
		w := c.newWorkload(i, containers)
		size := min(replicas, pods-count())
		if w.kind == jobOwner {
			size = 1
		}
		for number := range size {
			start(w, number, size, c.nodes[mix(c.seed^(c.serial+1))%uint64(len(c.nodes))])
		}
	}
	c.addRevisions(all, pods/replicas)
	c.addNodes()
	c.addNamespaces()
	for k := range c.sets {
		slices.SortFunc(c.sets[k].objects, func(a, b object) int {
			return a.meta().compare(b.meta().namespace, b.meta().name)
		})
	}
}

// append adds an object at the start, in any order.
func (c *Cluster) append(o object) {
	c.rv++
	o.meta().rv = c.rv
	set := &c.sets[o.kind()]
	set.objects = append(set.objects, o)
}

// identified gives an object that is new now an identity.
func (c *Cluster) identified(o object) object {
	c.serial++
	o.meta().serial, o.meta().created = c.serial, c.now().Unix()
	return o
}

// addRevisions adds ReplicaSets of earlier revisions up to the total.
func (c *Cluster) addRevisions(all []*workload, total int) {
	for left := total - len(c.sets[replicaSetKind].objects); left > 0; {
		before := left
		for _, w := range all {
			if left > 0 && w.kind == replicaSetOwner {
				old := *w
				old.hash += uint64(left) // so that one of several has a name of its own
				c.append(newOwner(c.successor(&old), 0, c.start.Unix()-86400))
				left--
			}
		}
		if left == before {
			return
		}
	}
}

// addNodes adds the nodes, of a type that has room for the pods.
func (c *Cluster) addNodes() {
	var asked amount
	for _, o := range c.sets[podKind].objects {
		asked = asked.plus(o.(*pod).workload.amount(), 1)
	}
	for _, c.nodeType = range nodeTypes {
		nodes := int64(len(c.nodes))
		if asked.cpu*10 < c.nodeType.cores*nodes*1000*7 && asked.memory*10 < c.nodeType.gibs<<30*nodes*7 {
			break
		}
	}
	for _, name := range c.nodes {
		n := &nodeObject{objectMeta: objectMeta{name: name, labels: c.nodeLabels(name)}, nodeType: c.nodeType,
			heartbeat: c.start.Unix()}
		c.append(c.identified(n))
	}
}

// addNamespaces adds the pods' namespaces, each with a quota.
func (c *Cluster) addNamespaces() {
	quotas := map[string]*quota{}
	for _, o := range c.sets[podKind].objects {
		p := o.(*pod)
		q := quotas[p.namespace]
		if q == nil {
			q = &quota{objectMeta: objectMeta{namespace: p.namespace, name: quotaName}}
			quotas[p.namespace] = q
			c.append(c.identified(newNamespace(p.namespace)))
			c.append(c.identified(q))
		}
		q.used = q.used.plus(p.workload.amount(), 1)
	}
	for _, q := range quotas {
		q.hard = amount{}.plus(q.used, 2)
	}
}
