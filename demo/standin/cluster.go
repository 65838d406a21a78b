package standin

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
)

// historyLimit is the number of events kept for watches that resume. It is the largest history of a real API
// server's watch cache (102,400 events); older resourceVersions answer 410 Expired.
const historyLimit = 102_400

// snapshotLimit is the number of old states of all kinds kept for the continue tokens of paged lists.
const snapshotLimit = 16

// Pod is what the simulated cluster knows of one pod. The rest of the object that clients receive (images,
// environment, volumes, conditions, managedFields and so on) follows from its workload, see [workload].
type Pod struct {
	Namespace, Name string
	// Node is empty for a pod that is not scheduled yet.
	Node string
	// IP is status.podIP.
	IP     string
	Labels map[string]string
	// Containers are the container names in the order of the pod's spec.
	Containers []string
	// States are those of the containers, in the same order; nil where all run, are ready, and never ended.
	States []ContainerState
	// Phase is Running where it is left empty. Only running pods have usage.
	Phase corev1.PodPhase
	// UID, ResourceVersion and Created (whole seconds) are set by the cluster.
	UID             string
	ResourceVersion uint64
	Created         time.Time

	workload *workload // nil for a pod that nobody owns
}

// ContainerState is what sets a container apart from one that runs since its pod was created, and is ready.
type ContainerState struct {
	Restarts int
	// Started is when it was started the last time, in Unix seconds; 0 for the moment at which the pod was created.
	Started  int64
	NotReady bool
	// Waiting is why it does not run, such as CrashLoopBackOff; empty for one that does. A pod with one has no usage.
	Waiting string
	// Ended is why it ended the last time, such as OOMKilled; empty for one that never did.
	Ended string
}

// pod is one version of a pod.
type pod struct {
	objectMeta
	node, ip string
	phase    corev1.PodPhase
	states   []ContainerState
	workload *workload
}

func (p *pod) kind() kind { return podKind }

func (p *pod) at(rv uint64) object {
	other := *p
	other.rv = rv
	return &other
}

// measured says whether there is usage of the pod: metrics-server leaves out the whole pod where a container has none.
func (p *pod) measured() bool {
	return p.phase == corev1.PodRunning && !slices.ContainsFunc(p.states, func(s ContainerState) bool {
		return s.Waiting != ""
	})
}

// state is that of container i.
func (p *pod) state(i int) (s ContainerState) {
	if p.states != nil {
		s = p.states[i]
	}
	if s.Started == 0 {
		s.Started = p.created
	}
	return s
}

// compare orders objects by namespace, then name. (A real API server orders by the key namespace/name, which
// differs where one namespace's name is the beginning of another's.)
func (m *objectMeta) compare(namespace, name string) int {
	if c := cmp.Compare(m.namespace, namespace); c != 0 {
		return c
	}
	return cmp.Compare(m.name, name)
}

// event is one entry of the watch history.
type event struct {
	rv       uint64
	cur, old object // old is nil when the object was added, cur when it was deleted
}

// set is all objects of a kind.
type set struct {
	objects []object // ordered by compare
	shared  bool     // objects is held by somebody else and must be copied before it is changed
}

// state names what all objects of a kind were like at a resourceVersion.
type state struct {
	kind kind
	rv   uint64
}

// Cluster is a simulated cluster: pods and the objects around them with a watch history, and their usage. Its methods
// may be called at any time from any goroutine. The same options and the same calls give the same cluster.
type Cluster struct {
	resolution time.Duration
	seed       uint64
	now        func() time.Time
	nodes      []string

	mu        sync.Mutex
	sets      [kinds]set
	rv        uint64
	compacted uint64 // the newest resourceVersion whose following events are no longer complete
	history   []event
	dropped   int // events removed from the beginning of history so far
	snapshots map[state][]object
	snapOrder []state
	changed   chan struct{} // closed at the next change; nil while nobody waits
	watchers  map[*watcher]struct{}
	serial    uint64
	shapes    map[string]*shape
	rand      *rand.Rand
	nodeType  nodeType

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
		snapshots:  map[state][]object{},
		watchers:   map[*watcher]struct{}{},
		shapes:     map[string]*shape{},
		rand:       rand.New(rand.NewPCG(o.Seed, 0)),
		start:      o.Now(),
	}
	c.nodes = make([]string, o.Nodes)
	for i := range c.nodes {
		c.nodes[i] = nodeName(i)
	}
	c.populate(o.Pods, o.Containers, cmp.Or(o.Replicas, 3))
	c.compacted = c.rv
	c.capture(0)
	return c
}

// Nodes returns the names of the nodes, in order.
func (c *Cluster) Nodes() []string { return slices.Clone(c.nodes) }

// Pods returns all pods as they are now, ordered by namespace and name.
func (c *Cluster) Pods() []Pod {
	pods, _ := c.snapshot(podKind)
	out := make([]Pod, len(pods))
	for i, p := range pods {
		out[i] = c.public(p.(*pod))
	}
	return out
}

// Object returns a pod as clients receive it, or nil where there is none of that name.
func (c *Cluster) Object(namespace, name string) *corev1.Pod {
	pods, _ := c.snapshot(podKind)
	i, found := search(pods, namespace, name)
	if !found {
		return nil
	}
	return c.decoded(pods[i], false).(*corev1.Pod)
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
	i, found := c.find(podKind, namespace, name)
	if !found {
		return podNotFound(namespace, name)
	}
	old := c.podAt(i)
	p := c.public(old)
	change(&p)
	if p.Namespace != namespace || p.Name != name {
		return fmt.Errorf("pod %s/%s: its name cannot change to %s/%s: delete it and add another", namespace, name,
			p.Namespace, p.Name)
	}
	cur, err := c.intern(p)
	if err != nil {
		return err
	}
	cur.serial, cur.created = old.serial, old.created
	if cur.labels == old.labels {
		cur.labels = old.labels // and not a copy of the same text
	}
	c.put(cur)
	c.account(cur, old)
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
	i, found := c.find(podKind, namespace, name)
	if !found {
		return podNotFound(namespace, name)
	}
	p := c.public(c.podAt(i))
	p.Node, p.IP, p.States = node, "", nil
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
	for k := range c.sets {
		old := c.sets[k].objects
		objects := make([]object, len(old))
		for i, o := range old {
			objects[i] = o.at(rv - uint64(len(old)-i))
		}
		c.sets[k] = set{objects: objects}
	}
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
	cur, err := c.intern(p)
	if err != nil {
		panic("standin: " + err.Error())
	}
	cur.rv, cur.serial = rv, math.MaxUint64 // of no object that ever was
	for w := range c.watchers {
		if w.kind == podKind {
			w.injected = append(w.injected, injectedEvent{t, cur})
		}
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

// add puts a pod in its place, and its namespace, if that is new. The lock is held.
func (c *Cluster) add(p Pod) error {
	if _, found := c.find(podKind, p.Namespace, p.Name); found {
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
		if p.workload != nil && p.workload.shape.onHost {
			p.IP = string(appendHostIP(nil, p.Node))
		}
	}
	cur, err := c.intern(p)
	if err != nil {
		return err
	}
	cur.serial, cur.created = c.serial, c.now().Unix()
	if _, found := c.find(namespaceKind, "", p.Namespace); !found {
		c.put(c.identified(newNamespace(p.Namespace)))
	}
	c.put(cur)
	c.account(cur, nil)
	return nil
}

// delete takes a pod out. The lock is held.
func (c *Cluster) delete(namespace, name string) error {
	i, found := c.find(podKind, namespace, name)
	if !found {
		return podNotFound(namespace, name)
	}
	old := c.podAt(i)
	c.remove(old)
	c.forgetUsage(namespace, name)
	c.account(nil, old)
	return nil
}

// intern makes the compact form of a pod, without identity and resourceVersion.
func (c *Cluster) intern(p Pod) (*pod, error) {
	w := p.workload
	if w == nil || !slices.Equal(w.shape.containers, p.Containers) {
		w = &workload{shape: c.shapeOf(p.Containers, false, false)}
	}
	if p.States != nil && len(p.States) != len(p.Containers) {
		return nil, fmt.Errorf("pod %s/%s has %d containers and the states of %d", p.Namespace, p.Name, len(p.Containers),
			len(p.States))
	}
	return &pod{
		objectMeta: objectMeta{namespace: p.Namespace, name: p.Name, labels: newLabelSet(p.Labels)},
		node:       p.Node, ip: p.IP, phase: p.Phase, states: slices.Clone(p.States), workload: w,
	}, nil
}

func (c *Cluster) public(p *pod) Pod {
	return Pod{
		Namespace: p.namespace, Name: p.name, Node: p.node, IP: p.ip, Phase: p.phase,
		Labels:     p.labels.set(),
		Containers: slices.Clone(p.workload.shape.containers), States: slices.Clone(p.states),
		UID: uidOf(c.seed, p.serial), ResourceVersion: p.rv, Created: time.Unix(p.created, 0),
		workload: p.workload,
	}
}

// find returns the place of an object and whether it is there. The lock is held.
func (c *Cluster) find(k kind, namespace, name string) (int, bool) {
	return search(c.sets[k].objects, namespace, name)
}

// podAt is the pod at this place. The lock is held.
func (c *Cluster) podAt(i int) *pod { return c.sets[podKind].objects[i].(*pod) }

func search(objects []object, namespace, name string) (int, bool) {
	return slices.BinarySearchFunc(objects, name, func(o object, name string) int {
		return o.meta().compare(namespace, name)
	})
}

// own makes sure that the objects of a kind may be changed in place. The lock is held.
func (c *Cluster) own(k kind) *set {
	s := &c.sets[k]
	if s.shared {
		*s = set{objects: slices.Clone(s.objects)}
	}
	return s
}

// put adds an object, or replaces the one of its name. The lock is held.
func (c *Cluster) put(cur object) {
	m := cur.meta()
	i, found := c.find(cur.kind(), m.namespace, m.name)
	s := c.own(cur.kind())
	if !found {
		s.objects = slices.Insert(s.objects, i, cur)
		c.record(cur, nil)
		return
	}
	old := s.objects[i]
	s.objects[i] = cur
	c.record(cur, old)
}

// remove takes an object out, which is there. The lock is held.
func (c *Cluster) remove(old object) {
	m := old.meta()
	if i, found := c.find(old.kind(), m.namespace, m.name); found {
		s := c.own(old.kind())
		s.objects = slices.Delete(s.objects, i, i+1)
		c.record(nil, old)
	}
}

// record gives a change its resourceVersion and tells the watches. The lock is held.
func (c *Cluster) record(cur, old object) {
	c.rv++
	if cur != nil {
		cur.meta().rv = c.rv
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

// snapshot returns the objects of a kind as they are now and their resourceVersion. The caller must not change them.
func (c *Cluster) snapshot(k kind) ([]object, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.share(k), c.rv
}

// share is snapshot with the lock held.
func (c *Cluster) share(k kind) []object {
	c.sets[k].shared = true
	return c.sets[k].objects
}

// keepSnapshot keeps a state for the continue tokens that name it.
func (c *Cluster) keepSnapshot(s state, objects []object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.snapshots[s]; ok || s.rv < c.compacted {
		return
	}
	if len(c.snapOrder) == snapshotLimit {
		delete(c.snapshots, c.snapOrder[0])
		c.snapOrder = c.snapOrder[1:]
	}
	c.snapshots[s] = objects
	c.snapOrder = append(c.snapOrder, s)
}

// snapshotAt returns a kept state.
func (c *Cluster) snapshotAt(s state) ([]object, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.rv == c.rv {
		return c.share(s.kind), true
	}
	objects, ok := c.snapshots[s]
	return objects, ok
}

func podNotFound(namespace, name string) error {
	return fmt.Errorf("namespace %s: %w", namespace, apierrors.NewNotFound(corev1.Resource("pods"), name))
}

// uidOf makes the UID of the object with the given serial: a UUID by its form, the same for the same seed.
func uidOf(seed, serial uint64) string { return string(appendUID(nil, seed, serial)) }

// appendUID appends what uidOf returns: this runs for every object that is sent.
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

// shapeOf is the shape of the pods with these containers.
func (c *Cluster) shapeOf(containers []string, sidecars, onHost bool) *shape {
	key := fmt.Sprint(sidecars, onHost, "\x00", strings.Join(containers, "\x00"))
	s := c.shapes[key]
	if s == nil {
		// Clusters have few shapes; a test that invents names without end must not fill the memory with them.
		if len(c.shapes) == 1000 {
			clear(c.shapes)
		}
		s = newShape(slices.Clone(containers), sidecars, onHost)
		c.shapes[key] = s
	}
	return s
}
