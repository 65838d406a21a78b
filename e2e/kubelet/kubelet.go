// Package kubelet stands in for the kubelets of all nodes: it serves what metrics-server reads of each,
// /metrics/resource, for the containers that run by the API, and knows how much CPU time each has really used.
package kubelet

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// A pod's annotations say what its containers use on average; they end with the container's name.
const (
	CPUAnnotation    = "usage.e2e/cpu."    // cores; without it 1m
	MemoryAnnotation = "usage.e2e/memory." // bytes; without it 1Mi
)

// idle is the mean load, in cores, from which on downwards a container counts as idle, see Kubelet.read.
const idle = 0.001

// Kubelet is the kubelets of all nodes.
type Kubelet struct {
	// housekeeping makes it read each container at moments of its own, as cAdvisor does; otherwise everything is read
	// at the moment of the request, so that a change is in the next answer.
	housekeeping bool

	mutex sync.Mutex
	nodes map[string]*node
	byID  map[string]*counter // with housekeeping also those that have ended
}

type node struct {
	counter     *counter                  // of the node as a whole
	containers  map[containerKey]*counter // those that run
	missedUntil time.Time                 // see Miss
}

type containerKey struct{ namespace, pod, container string }

// Reading is what a kubelet has read of one container, or of its node, at one moment.
type Reading struct {
	Time   time.Time // whole milliseconds, as /metrics/resource gives them
	CPU    float64   // seconds used since the start
	Memory int64     // bytes; with housekeeping another for each reading of a container, so that it tells the reading
}

// counter is the CPU time of one container, from its start to its end. Its load swings around a mean in two waves, a
// short and a long one, whose integral is known.
type counter struct {
	id             string
	started, ended time.Time // ended is zero while it runs
	mean           float64   // cores
	memory         int64     // bytes
	waves          [2]wave
	random         *rand.Rand
	next           time.Time // of the next reading
	readings       []Reading // without housekeeping none
}

// wave is the part of a load that is amplitude·mean·sin(2π·t/period + phase).
type wave struct{ amplitude, period, phase float64 }

// New is kubelets without pods. With housekeeping they read each container every 10 to 20 seconds at moments of its
// own, idle ones every 15 to 30.
func New(housekeeping bool) *Kubelet {
	return &Kubelet{housekeeping: housekeeping, nodes: map[string]*node{}, byID: map[string]*counter{}}
}

// Run keeps the containers those that run by the API, until ctx ends.
func (k *Kubelet) Run(ctx context.Context, client *kubernetes.Clientset) {
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "pods", "", fields.Everything()),
		ObjectType:    &corev1.Pod{},
		Transform:     onlyWhatIsRead,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(object any) { k.set(object.(*corev1.Pod)) },
			UpdateFunc: func(before, object any) {
				if before.(*corev1.Pod).UID != object.(*corev1.Pod).UID {
					k.remove(before.(*corev1.Pod))
				}
				k.set(object.(*corev1.Pod))
			},
			DeleteFunc: func(object any) {
				if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
					object = gone.Obj
				}
				k.remove(object.(*corev1.Pod))
			},
		},
	})
	informer.RunWithContext(ctx)
}

// onlyWhatIsRead spares the memory of the rest, for clusters of many pods.
func onlyWhatIsRead(object any) (any, error) {
	if pod, ok := object.(*corev1.Pod); ok {
		pod.ManagedFields = nil
		pod.Labels = nil
		pod.Spec = corev1.PodSpec{NodeName: pod.Spec.NodeName}
	}
	return object, nil
}

// Miss makes a node answer with an error for so long: with metrics-server's resolution, to one of its requests.
func (k *Kubelet) Miss(name string, d time.Duration) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	k.node(name).missedUntil = time.Now().Add(d)
}

// Readings is all that has been read so far of a container, by its ID without the scheme, or of a node, by its name.
// There are none without housekeeping.
func (k *Kubelet) Readings(id string) []Reading {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	if c := k.byID[id]; c != nil {
		return slices.Clone(c.readings)
	}
	return nil
}

// CPU is how many seconds of CPU time a container, or a node, had really used by then since its start.
func (k *Kubelet) CPU(id string, by time.Time) (seconds float64, ok bool) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	c := k.byID[id]
	if c == nil {
		return 0, false
	}
	return c.cpu(by), true
}

func (k *Kubelet) node(name string) *node {
	n := k.nodes[name]
	if n == nil {
		n = &node{k.newCounter(name, time.Now(), 1, 2<<30), map[containerKey]*counter{}, time.Time{}}
		k.nodes[name] = n
	}
	return n
}

func (k *Kubelet) newCounter(id string, started time.Time, mean float64, memory int64) *counter {
	hash := fnv.New64a()
	hash.Write([]byte(id))
	random := rand.New(rand.NewPCG(hash.Sum64(), 0))
	c := &counter{id: id, started: started, mean: mean, memory: memory, random: random,
		waves: [2]wave{
			{0.25, 20 + 70*random.Float64(), 2 * math.Pi * random.Float64()},
			{0.25, 120 + 280*random.Float64(), 2 * math.Pi * random.Float64()},
		},
		// cAdvisor reads a container when it finds it.
		next: started.Add(time.Duration(random.IntN(2000)) * time.Millisecond),
	}
	k.byID[id] = c
	return c
}

// set takes notice of a pod's state.
func (k *Kubelet) set(pod *corev1.Pod) {
	if pod.Spec.NodeName == "" {
		return
	}
	k.mutex.Lock()
	defer k.mutex.Unlock()
	n := k.node(pod.Spec.NodeName)
	for _, status := range Statuses(pod) {
		key, id := containerKey{pod.Namespace, pod.Name, status.Name}, ID(status)
		old := n.containers[key]
		if !running(status) {
			k.end(n, key)
			continue
		}
		cpu := quantity(pod, CPUAnnotation+status.Name, "1m")
		memory := quantity(pod, MemoryAnnotation+status.Name, "1Mi")
		if old != nil && k.byID[id] == old {
			old.memory = memory.Value()
			continue
		}
		k.end(n, key)
		n.containers[key] = k.newCounter(id, status.State.Running.StartedAt.Time, cpu.AsApproximateFloat64(),
			memory.Value())
	}
}

// remove takes notice of a pod that is gone.
func (k *Kubelet) remove(pod *corev1.Pod) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	for _, status := range Statuses(pod) {
		k.end(k.node(pod.Spec.NodeName), containerKey{pod.Namespace, pod.Name, status.Name})
	}
}

func (k *Kubelet) end(n *node, key containerKey) {
	c := n.containers[key]
	if c == nil {
		return
	}
	c.ended = time.Now()
	delete(n.containers, key)
	if !k.housekeeping {
		delete(k.byID, c.id)
	}
}

// Statuses is those of all kinds of containers.
func Statuses(pod *corev1.Pod) []corev1.ContainerStatus {
	return slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses,
		pod.Status.EphemeralContainerStatuses)
}

// Running is how many of a pod's containers have usage.
func Running(pod *corev1.Pod) (n int) {
	for _, status := range Statuses(pod) {
		if running(status) {
			n++
		}
	}
	return n
}

func running(status corev1.ContainerStatus) bool {
	return status.State.Running != nil && ID(status) != ""
}

// ID is a container's ID without its scheme.
func ID(status corev1.ContainerStatus) string {
	_, id, _ := strings.Cut(status.ContainerID, "://")
	return id
}

func quantity(pod *corev1.Pod, annotation, otherwise string) resource.Quantity {
	if q, err := resource.ParseQuantity(pod.Annotations[annotation]); err == nil {
		return q
	}
	return resource.MustParse(otherwise)
}

// cpu is the seconds used between the start and then: the integral of the load.
func (c *counter) cpu(then time.Time) float64 {
	if !c.ended.IsZero() && then.After(c.ended) {
		then = c.ended
	}
	t := max(then.Sub(c.started).Seconds(), 0)
	sum := t
	for _, w := range c.waves {
		turn := 2 * math.Pi / w.period
		sum += w.amplitude / turn * (math.Cos(w.phase) - math.Cos(turn*t+w.phase))
	}
	return c.mean * sum
}

// read is the last reading of a container before now, if there is one yet. The mutex is held.
func (k *Kubelet) read(c *counter, now time.Time) (Reading, bool) {
	if !k.housekeeping {
		now = now.Truncate(time.Millisecond)
		return Reading{now, c.cpu(now), c.memory}, true
	}
	for !c.next.After(now) {
		at := c.next.Truncate(time.Millisecond)
		c.readings = append(c.readings, Reading{at, c.cpu(at), c.memory + 4096*int64(len(c.readings))})
		// cAdvisor's housekeeping interval of 10 s, 15 s where nothing changes, and up to as much again.
		interval := 10 * time.Second
		if c.mean <= idle {
			interval = 15 * time.Second
		}
		c.next = c.next.Add(interval + time.Duration(c.random.Int64N(int64(interval))))
	}
	if len(c.readings) == 0 {
		return Reading{}, false
	}
	return c.readings[len(c.readings)-1], true
}

// ServeHTTP answers for /metrics/nodes/NODE/metrics/resource as NODE's kubelet for /metrics/resource, without the
// families that metrics-server does not read.
func (k *Kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Split(r.URL.Path, "/")
	if len(path) != 6 {
		http.NotFound(w, r)
		return
	}
	page, ok := k.resource(path[3])
	if !ok {
		http.Error(w, "this reading is to be missed", http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write(page) // fails only for a client that is gone
}

func (k *Kubelet) resource(name string) (page []byte, ok bool) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	now, n := time.Now(), k.node(name)
	if now.Before(n.missedUntil) {
		return nil, false
	}
	if reading, ok := k.read(n.counter, now); ok {
		page = sample(page, "node_cpu_usage_seconds_total", "", reading.CPU, reading.Time)
		page = sample(page, "node_memory_working_set_bytes", "", float64(reading.Memory), reading.Time)
	}
	for key, c := range n.containers {
		reading, ok := k.read(c, now)
		if !ok {
			continue
		}
		labels := fmt.Sprintf("{container=%q,namespace=%q,pod=%q}", key.container, key.namespace, key.pod)
		page = sample(page, "container_start_time_seconds", labels, float64(c.started.Unix()), time.Time{})
		page = sample(page, "container_cpu_usage_seconds_total", labels, reading.CPU, reading.Time)
		page = sample(page, "container_memory_working_set_bytes", labels, float64(reading.Memory), reading.Time)
	}
	return page, true
}

func sample(page []byte, name, labels string, value float64, at time.Time) []byte {
	page = append(append(append(page, name...), labels...), ' ')
	page = strconv.AppendFloat(page, value, 'g', -1, 64)
	if !at.IsZero() {
		page = strconv.AppendInt(append(page, ' '), at.UnixMilli(), 10)
	}
	return append(page, '\n')
}
