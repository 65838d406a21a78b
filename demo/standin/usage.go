package standin

import (
	"maps"
	"math"
	"strconv"
	"sync"
	"time"
)

// PodUsage is what the resource metrics API answers for one pod.
type PodUsage struct {
	Namespace, Name string
	Labels          map[string]string
	Timestamp       time.Time
	Window          time.Duration
	Containers      []ContainerUsage
}

// NodeUsage is what the resource metrics API answers for one node.
type NodeUsage struct {
	Name      string
	Timestamp time.Time
	Window    time.Duration
	// CPU and Memory are quantities as written on the wire; an empty one is left out of the answer.
	CPU, Memory string
}

// ContainerUsage is the usage of one container, in quantities as written on the wire: "378089386n", "125448Ki".
// An empty one is left out of the answer.
type ContainerUsage struct {
	Name        string
	CPU, Memory string
}

// usageKey names a container, or by an empty namespace and container a node.
type usageKey struct{ namespace, name, container string }

// quantities are a usage set by hand.
type quantities struct{ cpu, memory string }

// batch is the state of the cluster at one tick of the metrics source: what metrics-server has scraped and
// stored. All its values follow from it, so it costs next to nothing until somebody asks.
type batch struct {
	tick     int64
	at       time.Time
	pods     []object
	override map[usageKey]quantities

	nodeOnce sync.Once
	nodeCPU  map[string]uint64 // nanocores of the node's pods
	nodeMem  map[string]uint64 // bytes of the node's pods
}

// SetUsage sets the usage of a container from the next tick on, as quantities to be sent as they are, legal or
// not; an empty quantity is left out of the answer. With empty namespace and container it is the usage of the
// node with that name. It holds until the pod is deleted.
func (c *Cluster) SetUsage(namespace, name, container, cpu, memory string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	c.override = maps.Clone(c.override)
	if c.override == nil {
		c.override = map[usageKey]quantities{}
	}
	c.override[usageKey{namespace, name, container}] = quantities{cpu, memory}
}

// forgetUsage forgets what was set for a pod. The lock is held.
func (c *Cluster) forgetUsage(namespace, name string) {
	if len(c.override) == 0 {
		return
	}
	c.override = maps.Clone(c.override)
	maps.DeleteFunc(c.override, func(k usageKey, _ quantities) bool {
		return k.namespace == namespace &&
			k.name == name
	})
}

// PodUsage returns what the metrics API answers now for all pods, ordered by namespace and name: the state of
// the last tick, less the pods deleted since. The server's [Behavior] is not applied.
func (c *Cluster) PodUsage() []PodUsage {
	b, live, _ := c.metrics()
	var out []PodUsage
	forEachUsage(b, live, func(stored, current *pod) {
		out = append(out, c.podUsage(b, stored, current))
	})
	return out
}

// NodeUsage returns what the metrics API answers now for all nodes. The server's [Behavior] is not applied.
func (c *Cluster) NodeUsage() []NodeUsage {
	b, _, _ := c.metrics()
	out := make([]NodeUsage, len(c.nodes))
	for i, n := range c.nodes {
		out[i] = c.nodeUsage(b, n)
	}
	return out
}

// NextTick returns when the metrics source will have new values.
func (c *Cluster) NextTick() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	return c.start.Add(time.Duration(c.current.tick+1) * c.resolution)
}

// metrics returns the stored state of the metrics source, the live pods and their resourceVersion.
func (c *Cluster) metrics() (*batch, []object, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	return c.current, c.share(podKind), c.rv
}

// advance stores the state of the cluster as of the last tick, if that has passed. It must run before anything
// changes or is read: the state has not changed since the tick, so it is what a scrape at the tick would have
// found. The lock is held.
func (c *Cluster) advance() {
	if c.frozen {
		return
	}
	if tick := int64(c.now().Sub(c.start) / c.resolution); tick > c.current.tick {
		c.capture(tick)
	}
}

func (c *Cluster) capture(tick int64) {
	c.current = &batch{
		tick: tick, at: c.start.Add(time.Duration(tick) * c.resolution),
		pods: c.share(podKind), override: c.override,
	}
}

// freeze stops or restarts the metrics source: the values, with their timestamps, stay those of the last tick.
func (c *Cluster) freeze(frozen bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	c.frozen = frozen
}

// forEachUsage calls f for every pod that has usage and still exists, with its version at the tick and now. Both
// lists have the same order. As in metrics-server, what was stored under a name is answered for the pod that has
// the name now.
func forEachUsage(b *batch, live []object, f func(stored, current *pod)) {
	for _, o := range b.pods {
		stored := o.(*pod)
		for len(live) > 0 && live[0].meta().compare(stored.namespace, stored.name) < 0 {
			live = live[1:]
		}
		if len(live) == 0 {
			return
		}
		if stored.measured() && live[0].meta().compare(stored.namespace, stored.name) == 0 {
			f(stored, live[0].(*pod))
		}
	}
}

func (c *Cluster) podUsage(b *batch, stored, current *pod) PodUsage {
	u := PodUsage{
		Namespace: stored.namespace, Name: stored.name, Labels: current.labels.set(),
		Timestamp: c.timestamp(b, stored.node), Window: c.window(b, stored.serial),
	}
	for i := range stored.workload.shape.containers {
		i = c.containerAt(b, stored, i)
		cu := ContainerUsage{Name: stored.workload.shape.containers[i]}
		cu.CPU, cu.Memory = c.containerUsage(b, stored, i)
		u.Containers = append(u.Containers, cu)
	}
	return u
}

// containerAt gives the container at place i of a pod's usage: their order changes from tick to tick, as
// metrics-server keeps them in a map.
func (c *Cluster) containerAt(b *batch, p *pod, i int) int {
	n := len(p.workload.shape.containers)
	return (i + int((uint64(b.tick)+p.serial)%uint64(n))) % n
}

// containerUsage returns the quantities of container i of a pod.
func (c *Cluster) containerUsage(b *batch, p *pod, i int) (cpu, memory string) {
	if len(b.override) > 0 {
		if q, ok := b.override[usageKey{p.namespace, p.name, p.workload.shape.containers[i]}]; ok {
			return q.cpu, q.memory
		}
	}
	nanocores, bytes := c.simulated(b, p, i)
	return string(appendCPU(nil, nanocores)), string(appendMemory(nil, bytes))
}

// simulated invents the usage of container i of a pod, moving around the container's own level with every tick: some of
// what it requests, and never more than its limits; without requests between about 1 millicore and half a core, 5
// and 600 MiB.
func (c *Cluster) simulated(b *batch, p *pod, i int) (nanocores, bytes uint64) {
	identity := mix(c.seed ^ p.serial<<8 ^ uint64(i))
	moment := mix(identity + uint64(b.tick))
	cpuLevel := 1e6 * math.Exp2(9*unit(identity))
	memLevel := 5 * (1 << 20) * math.Exp2(7*unit(mix(identity)))
	r := p.workload.resourcesOf(i)
	if r != nil && r.cpu > 0 {
		cpuLevel = float64(r.cpu) * 1e6 * math.Exp2(-4+4.5*unit(identity))
	}
	if r != nil && r.memory > 0 {
		memLevel = float64(r.memory) * (0.4 + 0.5*unit(mix(identity)))
	}
	nanocores = uint64(cpuLevel * (0.7 + 0.6*unit(moment)))
	if r != nil && r.cpuLimit > 0 {
		nanocores = min(nanocores, uint64(r.cpuLimit)*1e6)
	}
	bytes = uint64(memLevel*(0.9+0.2*unit(mix(moment)))) &^ 4095
	return nanocores, bytes
}

// unit maps a hash to [0, 1).
func unit(h uint64) float64 { return float64(h>>11) / (1 << 53) }

func (c *Cluster) nodeUsage(b *batch, node string) NodeUsage {
	u := NodeUsage{Name: node, Timestamp: c.timestamp(b, node), Window: c.window(b, hashString(node))}
	if q, ok := b.override[usageKey{name: node}]; ok {
		u.CPU, u.Memory = q.cpu, q.memory
		return u
	}
	b.nodeOnce.Do(func() {
		b.nodeCPU, b.nodeMem = make(map[string]uint64, len(c.nodes)), make(map[string]uint64, len(c.nodes))
		for _, o := range b.pods {
			p := o.(*pod)
			if !p.measured() {
				continue
			}
			for i := range p.workload.shape.containers {
				cpu, mem := c.simulated(b, p, i)
				b.nodeCPU[p.node] += cpu
				b.nodeMem[p.node] += mem
			}
		}
	})
	// What runs on a node beside its pods: kubelet, container runtime, kernel.
	h := mix(c.seed ^ hashString(node) + uint64(b.tick))
	u.CPU = string(appendCPU(nil, b.nodeCPU[node]+100e6+h%200e6))
	u.Memory = string(appendMemory(nil, b.nodeMem[node]+600<<20+(h>>32)%(300<<20)&^4095))
	return u
}

// timestamp is when the kubelet of a node took the readings of a tick: some whole seconds before it, the same for
// every tick, so that timestamps move with the ticks.
func (c *Cluster) timestamp(b *batch, node string) time.Time {
	spread := min(c.resolution/2, 5*time.Second)
	if spread < time.Second {
		return b.at.Truncate(time.Second)
	}
	return b.at.Add(-time.Duration(hashString(node) % uint64(spread))).Truncate(time.Second)
}

// window is the time between the two readings that a rate spans: a little less than the resolution, in whole
// milliseconds, 14.833s for example.
func (c *Cluster) window(b *batch, identity uint64) time.Duration {
	if c.resolution < time.Second {
		return c.resolution
	}
	return c.resolution - time.Duration(mix(identity+uint64(b.tick))%500)*time.Millisecond
}

func hashString(s string) uint64 {
	h := uint64(len(s))
	for i := range len(s) {
		h = mix(h ^ uint64(s[i]))
	}
	return h
}

// appendCPU appends nanocores as [k8s.io/apimachinery/pkg/api/resource.Quantity] writes them: with the largest
// decimal suffix that needs no fraction.
func appendCPU(b []byte, nanocores uint64) []byte {
	suffixes := [...]string{"n", "u", "m", ""}
	i := 0
	for ; i < len(suffixes)-1 && nanocores%1000 == 0; i++ {
		nanocores /= 1000
	}
	return append(strconv.AppendUint(b, nanocores, 10), suffixes[i]...)
}

// appendMemory appends bytes as Quantity writes them: with the largest binary suffix that needs no fraction.
func appendMemory(b []byte, bytes uint64) []byte {
	suffixes := [...]string{"", "Ki", "Mi", "Gi", "Ti"}
	i := 0
	for ; i < len(suffixes)-1 && bytes%1024 == 0 && bytes > 0; i++ {
		bytes /= 1024
	}
	return append(strconv.AppendUint(b, bytes, 10), suffixes[i]...)
}
