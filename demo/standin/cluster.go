package standin

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
)

// historyLimit is the number of events kept for watches that resume. It is the largest history of a real API
// server's watch cache (102,400 events); older resourceVersions answer 410 Expired.
const historyLimit = 102_400

// snapshotLimit is the number of old states kept for the continue tokens of paged lists.
const snapshotLimit = 8

// Pod is what the simulated cluster knows of one pod. The rest of the object that clients receive (images,
// environment, volumes, conditions, managedFields and so on) is filled in from a template, see [shape].
type Pod struct {
	Namespace, Name string
	// Node is empty for a pod that is not scheduled yet.
	Node string
	// IP is status.podIP.
	IP     string
	Labels map[string]string
	// Containers are the container names in the order of the pod's spec.
	Containers []string
	// Phase is Running where it is left empty. Only running pods have usage.
	Phase corev1.PodPhase
	// UID, ResourceVersion and Created (whole seconds) are set by the cluster.
	UID             string
	ResourceVersion uint64
	Created         time.Time
}

// pod is one version of a pod. It is never changed once it is in the cluster, so lists, watches and metrics hold
// it without a lock. It is small because 150,000 of them must fit a small machine.
type pod struct {
	namespace, name string
	node, ip        string
	phase           corev1.PodPhase
	labels          *labelSet
	shape           *shape
	serial          uint64 // identity of the pod behind the name; the UID and the usage follow from it
	created         int64  // Unix seconds
	rv              uint64
}

// compare orders pods by namespace, then name. (A real API server orders by the key namespace/name, which
// differs where one namespace's name is the beginning of another's.)
func (p *pod) compare(namespace, name string) int {
	if c := cmp.Compare(p.namespace, namespace); c != 0 {
		return c
	}
	return cmp.Compare(p.name, name)
}

// labelSet is a set of labels with its protobuf form, shared by the pods of a workload.
type labelSet struct {
	labels labels.Set
	wire   []byte // the entries of ObjectMeta.labels
}

func newLabelSet(m map[string]string) *labelSet {
	l := &labelSet{labels: maps.Clone(m)}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		l.wire = appendMapEntry(l.wire, metaLabels, k, m[k])
	}
	return l
}

// event is one entry of the watch history.
type event struct {
	rv       uint64
	cur, old *pod // old is nil when the pod was added, cur when it was deleted
}

// Cluster is a simulated cluster: a set of pods with a watch history, and their usage. Its methods may be called
// at any time from any goroutine. The same options and the same calls give the same cluster.
type Cluster struct {
	resolution time.Duration
	seed       uint64
	now        func() time.Time
	nodes      []string

	mu        sync.Mutex
	pods      []*pod // ordered by compare
	shared    bool   // pods is held by somebody else and must be copied before it is changed
	rv        uint64
	compacted uint64 // the newest resourceVersion whose following events are no longer complete
	history   []event
	dropped   int // events removed from the beginning of history so far
	snapshots map[uint64][]*pod
	snapOrder []uint64
	changed   chan struct{} // closed at the next change; nil while nobody waits
	watchers  map[*watcher]struct{}
	serial    uint64
	shapes    map[string]*shape
	rand      *rand.Rand

	// Metrics, see usage.go.
	start    time.Time
	frozen   bool
	current  *batch
	override map[usageKey]quantities // copied before it is changed: batches hold it
}

func newCluster(o Options) *Cluster {
	c := &Cluster{
		resolution: o.Resolution,
		seed:       o.Seed,
		now:        o.Now,
		rv:         1000,
		snapshots:  map[uint64][]*pod{},
		watchers:   map[*watcher]struct{}{},
		shapes:     map[string]*shape{},
		rand:       rand.New(rand.NewPCG(o.Seed, 0)),
		start:      o.Now(),
	}
	c.nodes = make([]string, o.Nodes)
	for i := range c.nodes {
		c.nodes[i] = fmt.Sprintf("node-%04d", i)
	}
	c.populate(o.Pods, o.Containers)
	c.compacted = c.rv
	c.capture(0)
	return c
}

// Nodes returns the names of the nodes, in order.
func (c *Cluster) Nodes() []string { return slices.Clone(c.nodes) }

// Pods returns all pods as they are now, ordered by namespace and name.
func (c *Cluster) Pods() []Pod {
	pods, _ := c.snapshot()
	out := make([]Pod, len(pods))
	for i, p := range pods {
		out[i] = c.public(p)
	}
	return out
}

// ResourceVersion returns the resourceVersion of the newest change.
func (c *Cluster) ResourceVersion() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rv
}

// AddPod adds a pod. A running pod without a node or an IP gets one.
func (c *Cluster) AddPod(p Pod) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	return c.add(p)
}

// UpdatePod changes the pod with the given name by change, which may change everything but namespace and name.
// Changing the node is possible here, though a real API server refuses it; [Cluster.RecreatePod] is how pods move.
func (c *Cluster) UpdatePod(namespace, name string, change func(*Pod)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	i, found := c.find(namespace, name)
	if !found {
		return podNotFound(namespace, name)
	}
	old := c.pods[i]
	p := c.public(old)
	change(&p)
	if p.Namespace != namespace || p.Name != name {
		return fmt.Errorf("pod %s/%s: its name cannot change to %s/%s: delete it and add another", namespace, name,
			p.Namespace, p.Name)
	}
	cur := c.intern(p)
	cur.serial, cur.created = old.serial, old.created
	if maps.Equal(cur.labels.labels, old.labels.labels) {
		cur.labels = old.labels
	}
	c.own()
	c.pods[i] = cur
	c.record(cur, old)
	return nil
}

// DeletePod deletes a pod and any usage set for it.
func (c *Cluster) DeletePod(namespace, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	return c.delete(namespace, name)
}

// RecreatePod deletes a pod and adds one of the same name on another node, as a StatefulSet does: with a new UID,
// IP and usage.
func (c *Cluster) RecreatePod(namespace, name, node string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	i, found := c.find(namespace, name)
	if !found {
		return podNotFound(namespace, name)
	}
	p := c.public(c.pods[i])
	p.Node, p.IP = node, ""
	return errors.Join(c.delete(namespace, name), c.add(p))
}

// Compact forgets the watch history and the states behind continue tokens, as etcd's compaction does: every older
// resourceVersion answers 410 Expired from now on. Running watches go on.
func (c *Cluster) Compact() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.watchers {
		if w.next < c.dropped {
			w.closed = true // too slow, see watcher.take
			continue
		}
		w.behind = append(w.behind, c.history[w.next-c.dropped:]...)
		w.next = c.dropped + len(c.history)
	}
	c.dropped += len(c.history)
	// A watch from the current resourceVersion would miss nothing, so one is used up: now all that clients know is old.
	c.rv++
	c.compacted = c.rv
	c.history = nil
	clear(c.snapshots)
	c.snapOrder = nil
}

// Restore gives the cluster an etcd restored from a backup: resourceVersions go on from rv, which must be far below
// the present one, those of the pods are older still, and whatever clients know is of another history. Watches end, and
// one that wants to go on from a version not yet reached answers 410 Expired: the API server has been restarted as
// well.
func (c *Cluster) Restore(rv uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	pods := make([]*pod, len(c.pods))
	for i, p := range c.pods {
		old := *p
		old.rv = rv - uint64(len(c.pods)-i)
		pods[i] = &old
	}
	c.pods, c.shared = pods, false
	c.dropped += len(c.history)
	c.rv, c.compacted, c.history = rv, rv, nil
	clear(c.snapshots)
	c.snapOrder = nil
	for w := range c.watchers {
		w.closed = true
	}
	c.notify()
}

// SendEvent sends an event to all running watches as it is, without changing the cluster: an event that is out of
// order, doubled or wrong. rv is the resourceVersion that the object carries.
func (c *Cluster) SendEvent(t watch.EventType, p Pod, rv uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cur := c.intern(p)
	cur.rv = rv
	for w := range c.watchers {
		w.injected = append(w.injected, injectedEvent{t, cur})
	}
	c.notify()
}

// CloseWatches ends all running watches in the orderly way, as a server does when their time is over.
func (c *Cluster) CloseWatches() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.watchers {
		w.closed = true
	}
	c.notify()
}

// Watches returns the number of running watches.
func (c *Cluster) Watches() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.watchers)
}

// add puts a pod in its place. The lock is held.
func (c *Cluster) add(p Pod) error {
	i, found := c.find(p.Namespace, p.Name)
	if found {
		return apierrors.NewAlreadyExists(corev1.Resource("pods"), p.Name)
	}
	c.serial++
	if p.Phase == "" {
		p.Phase = corev1.PodRunning
	}
	if p.Phase == corev1.PodRunning && p.Node == "" && len(c.nodes) > 0 {
		p.Node = c.nodes[c.serial%uint64(len(c.nodes))]
	}
	if p.Phase == corev1.PodRunning && p.IP == "" {
		p.IP = ipOf(c.serial)
	}
	cur := c.intern(p)
	cur.serial, cur.created = c.serial, c.now().Unix()
	c.own()
	c.pods = slices.Insert(c.pods, i, cur)
	c.record(cur, nil)
	return nil
}

// delete takes a pod out. The lock is held.
func (c *Cluster) delete(namespace, name string) error {
	i, found := c.find(namespace, name)
	if !found {
		return podNotFound(namespace, name)
	}
	old := c.pods[i]
	c.own()
	c.pods = slices.Delete(c.pods, i, i+1)
	c.forgetUsage(namespace, name)
	c.record(nil, old)
	return nil
}

// intern makes the compact form of a pod, without identity and resourceVersion.
func (c *Cluster) intern(p Pod) *pod {
	return &pod{
		namespace: p.Namespace, name: p.Name, node: p.Node, ip: p.IP, phase: p.Phase,
		labels: newLabelSet(p.Labels),
		shape:  c.shapeOf(p.Containers),
	}
}

func (c *Cluster) public(p *pod) Pod {
	return Pod{
		Namespace: p.namespace, Name: p.name, Node: p.node, IP: p.ip, Phase: p.phase,
		Labels:     maps.Clone(p.labels.labels),
		Containers: slices.Clone(p.shape.containers),
		UID:        uidOf(c.seed, p.serial), ResourceVersion: p.rv, Created: time.Unix(p.created, 0),
	}
}

// find returns the place of a pod and whether it is there. The lock is held.
func (c *Cluster) find(namespace, name string) (int, bool) {
	return search(c.pods, namespace, name)
}

func search(pods []*pod, namespace, name string) (int, bool) {
	return slices.BinarySearchFunc(pods, name, func(p *pod, name string) int { return p.compare(namespace, name) })
}

// own makes sure that pods may be changed in place. The lock is held.
func (c *Cluster) own() {
	if c.shared {
		c.pods = slices.Clone(c.pods)
		c.shared = false
	}
}

// record gives a change its resourceVersion and tells the watches. The lock is held.
func (c *Cluster) record(cur, old *pod) {
	c.rv++
	if cur != nil {
		cur.rv = c.rv
	}
	if len(c.history) == historyLimit {
		half := historyLimit / 2
		c.compacted = c.history[half-1].rv
		c.history = slices.Clone(c.history[half:])
		c.dropped += half
	}
	c.history = append(c.history, event{c.rv, cur, old})
	c.notify()
}

func (c *Cluster) notify() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// waitChannel returns a channel that is closed at the next change. The lock is held.
func (c *Cluster) waitChannel() <-chan struct{} {
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.changed
}

// snapshot returns the pods as they are now and their resourceVersion. The caller must not change them.
func (c *Cluster) snapshot() ([]*pod, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shared = true
	return c.pods, c.rv
}

// keepSnapshot keeps a state for the continue tokens that name it.
func (c *Cluster) keepSnapshot(pods []*pod, rv uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.snapshots[rv]; ok || rv < c.compacted {
		return
	}
	if len(c.snapOrder) == snapshotLimit {
		delete(c.snapshots, c.snapOrder[0])
		c.snapOrder = c.snapOrder[1:]
	}
	c.snapshots[rv] = pods
	c.snapOrder = append(c.snapOrder, rv)
}

// snapshotAt returns a kept state.
func (c *Cluster) snapshotAt(rv uint64) ([]*pod, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rv == c.rv {
		c.shared = true
		return c.pods, true
	}
	pods, ok := c.snapshots[rv]
	return pods, ok
}

func podNotFound(namespace, name string) error {
	return fmt.Errorf("namespace %s: %w", namespace, apierrors.NewNotFound(corev1.Resource("pods"), name))
}

// uidOf makes the UID of the pod with the given serial: a UUID by its form, the same for the same seed.
func uidOf(seed, serial uint64) string { return string(appendUID(nil, seed, serial)) }

// appendUID appends what uidOf returns: this runs for every pod that is sent.
func appendUID(b []byte, seed, serial uint64) []byte {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], mix(seed^serial))
	binary.BigEndian.PutUint64(raw[8:], mix(seed+serial*0x9e3779b97f4a7c15))
	raw[6] = raw[6]&0x0f | 0x40 // version 4
	raw[8] = raw[8]&0x3f | 0x80 // the variant of RFC 9562
	b = hex.AppendEncode(b, raw[:4])
	for _, part := range [][]byte{raw[4:6], raw[6:8], raw[8:10], raw[10:]} {
		b = hex.AppendEncode(append(b, '-'), part)
	}
	return b
}

// ipOf gives the pod with the given serial an address of 10.0.0.0/8; it repeats after 16 million pods.
func ipOf(serial uint64) string {
	return netip.AddrFrom4([4]byte{10, byte(serial >> 16), byte(serial >> 8), byte(serial)}).String()
}

// mix is the finalizer of SplitMix64 (https://prng.di.unimi.it/splitmix64.c): a cheap hash whose output bits all
// depend on all input bits.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (c *Cluster) shapeOf(containers []string) *shape {
	key := strings.Join(containers, "\x00")
	s := c.shapes[key]
	if s == nil {
		// Clusters have few shapes; a test that invents names without end must not fill the memory with them.
		if len(c.shapes) == 1000 {
			clear(c.shapes)
		}
		s = newShape(slices.Clone(containers))
		c.shapes[key] = s
	}
	return s
}
