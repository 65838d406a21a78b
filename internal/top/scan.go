package top

import (
	"math"
	"strings"
	"sync"
	"unique"

	"metrics-server-prom/internal/kept"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/objects"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/state"
	"metrics-server-prom/internal/store"
)

// scan goes through pods and sums up what they use. Pods of one workload mostly follow each other and have all that is
// to be known of them but their names in common, so that it is looked up once for many: a scan costs little more than
// to have a look at each sample and its pod. Nothing of it stays after an answer but some memory to be used again.
type scan struct {
	others objects.Others
	query  *query

	groups []group
	byKey  map[groupKey]int32
	last   groupKey // that was found last, and where
	lastAt int32
	asked  []asked
	names  map[string]string // of containers, as batches have them

	spaces   []total // namespaces
	bySpace  map[string]int32
	loads    []total // workloads that are not single pods
	byLoad   map[uint64]int32
	bare     int // pods without an owner, each a workload
	unpacked kept.Pod
}

// groupKey is the label text behind the pod's name, and what is kept of it for its workload.
type groupKey struct{ tail, shared unique.Handle[string] }

// group is the pods of a key.
type group struct {
	sum                // without what they ask for, until it is rolled up
	asked      []asked // what their containers ask for, each
	space      int32   // which of the namespaces it is of, and of the workloads, noLoad for none
	load       int32
	unknown    bool // whether nothing is kept of the pods
	matches    bool // the namespace and the workload that the query is about
	chosen     bool // whether one of the pods does
	namesMatch bool // the part of a name that the query is about
}

const noLoad = -1

// asked is what a container asks for, by figure from cpuRequest on; NaN for nothing.
type asked struct {
	of    [summed - cpuRequest]float64
	name  string
	index uint32 // of its name in the batch, more 1; 0 before the first container of that name
	count int    // of containers
}

// total is the pods of a namespace or workload.
type total struct {
	sum
	namespace string
	name      string // of a workload, Kind/NAME, once it was asked for
	hash      uint64 // see history
	shared    unique.Handle[string]
	chosen    bool
}

// pod is a pod that has usage.
type pod struct {
	cpu, memory float64
	object      *store.Object[sample.Text]
	group       *group
	samples     []sample.Sample
	names       []string // see sample.Batch
	chosen      bool
}

var scans = sync.Pool{New: func() any {
	return &scan{byKey: map[groupKey]int32{}, names: map[string]string{}, bySpace: map[string]int32{},
		byLoad: map[uint64]int32{}}
}}

func newScan(others objects.Others, q *query) *scan {
	s := scans.Get().(*scan)
	s.others, s.query = others, q
	return s
}

// maxReused is how many groups a scan may have for its memory to be used again.
const maxReused = 50_000

// release gives the scan's memory to the next one.
func (s *scan) release() {
	if len(s.groups) > maxReused {
		return
	}
	clear(s.groups)
	clear(s.asked)
	clear(s.byKey)
	clear(s.names)
	clear(s.spaces)
	clear(s.bySpace)
	clear(s.loads)
	clear(s.byLoad)
	s.groups, s.asked, s.spaces, s.loads = s.groups[:0], s.asked[:0], s.spaces[:0], s.loads[:0]
	s.others, s.query, s.last, s.bare, s.unpacked = nil, nil, groupKey{}, 0, kept.Pod{}
	scans.Put(s)
}

// pods calls f with each pod of a batch. What f gets is valid until it returns.
func (s *scan) pods(b *sample.Batch, f func(*pod)) {
	p := pod{names: b.Names}
	for rest := b.Samples; len(rest) > 0; {
		p.object = rest[0].Pod
		g := s.groupOf(&p.object.Value)
		p.cpu, p.memory = math.NaN(), math.NaN()
		n := 0
		for ; n < len(rest) && rest[n].Pod == p.object; n++ {
			c := &rest[n]
			p.cpu, p.memory = plus(p.cpu, c.CPU), plus(p.memory, c.Memory)
			if a := g.find(c.Name, b.Names); a != nil {
				a.count++
			}
		}
		p.samples, rest = rest[:n], rest[n:]
		g.of[cpu], g.of[memory] = plus(g.of[cpu], p.cpu), plus(g.of[memory], p.memory)
		g.pods++
		g.containers += n
		if g.load == noLoad {
			s.bare++
		}
		p.group, p.chosen = g, g.matches
		if p.chosen && s.query.ofPods() {
			p.chosen = s.query.isAbout(&p)
		}
		g.chosen = g.chosen || p.chosen
		f(&p)
	}
}

// find returns what a container asks for whose name is that one of the batch's; nil where that is not known.
func (g *group) find(name uint32, names []string) *asked {
	for i := range g.asked {
		if g.asked[i].index == name+1 {
			return &g.asked[i]
		}
	}
	for i := range g.asked {
		if a := &g.asked[i]; a.index == 0 && a.name == names[name] {
			a.index = name + 1
			return a
		}
	}
	return nil
}

// container is the figures of the pod's i-th container.
func (p *pod) container(i int) sum {
	s, c := noSum(), &p.samples[i]
	s.of[cpu], s.of[memory], s.containers = c.CPU, c.Memory, 1
	if a := p.group.find(c.Name, p.names); a != nil {
		copy(s.of[cpuRequest:], a.of[:])
	}
	return s
}

// figures are those of the pod.
func (p *pod) figures() sum {
	s := noSum()
	for i := range p.samples {
		one := p.container(i)
		s.add(&one)
	}
	s.pods = 1
	return s
}

// namespaceOf is the namespace of a pod.
func (s *scan) namespaceOf(p *pod) string { return s.spaces[p.group.space].namespace }

func (p *pod) name() string { return label.PodName(p.object.Value) }

// bareName is the workload of a pod without an owner.
func bareName(pod string) string { return "Pod/" + pod }

// workload is Kind/NAME of what the pod belongs to, "" where that is not known.
func (s *scan) workload(p *pod) string {
	switch g := p.group; {
	case g.load != noLoad:
		return s.nameOf(&s.loads[g.load])
	case g.unknown:
		return ""
	}
	return bareName(p.name())
}

// nameOf is the name of a workload.
func (s *scan) nameOf(load *total) string {
	if load.name == "" {
		s.unpacked.Unpack(load.shared, "")
		kind, name := s.owner(load.namespace)
		load.name = kind + "/" + name
	}
	return load.name
}

func (s *scan) groupOf(t *sample.Text) *group {
	key := groupKey{t.Tail, t.Shared}
	if key == s.last && len(s.groups) > 0 {
		return &s.groups[s.lastAt]
	}
	i, known := s.byKey[key]
	if !known {
		i = int32(len(s.groups))
		s.byKey[key] = i
		s.groups = append(s.groups, s.newGroup(t))
	}
	s.last, s.lastAt = key, i
	return &s.groups[i]
}

func (s *scan) newGroup(t *sample.Text) group {
	g := group{sum: noSum(), load: noLoad, unknown: t.Shared == unique.Handle[string]{}}
	namespace := label.Namespace(*t)
	g.space = totalAt(&s.spaces, s.bySpace, namespace, total{namespace: namespace, hash: hash("", "", namespace)})
	q := s.query
	g.matches = q.namespace == "" || q.namespace == namespace
	g.namesMatch = q.matches(namespace)
	if g.unknown {
		return g
	}
	s.unpacked.Unpack(t.Shared, "")
	g.asked = s.template()
	if kind, name := s.owner(namespace); name != "" {
		of := total{namespace: namespace, hash: hash(namespace, kind, name), shared: t.Shared}
		g.load = totalAt(&s.loads, s.byLoad, of.hash, of)
		g.matches = g.matches && (q.workload == "" || q.workload == kind+"/"+name)
		g.namesMatch = g.namesMatch || q.q != "" && q.matches(kind+"/"+name)
	}
	return g
}

// totalAt returns where the total of a key is, which it adds where there is none.
func totalAt[K comparable](all *[]total, of map[K]int32, key K, first total) int32 {
	i, known := of[key]
	if !known {
		i = int32(len(*all))
		first.sum = noSum()
		of[key], *all = i, append(*all, first)
	}
	return i
}

// owner is what owns the pods that were unpacked: the owner of their ReplicaSet or Job where that has one, as the
// watches of these know it, or as it is guessed. Static pods are owned by their node, and are their own workload. The
// names are valid until something else is unpacked.
func (s *scan) owner(namespace string) (kind, name string) {
	for _, o := range s.unpacked.Owners {
		if !o.Controller || o.Kind == "Node" {
			continue
		}
		kind, name, known := s.others.Owner(o.Kind, namespace, o.Name)
		if !known {
			kind, name = state.GuessOwner(o.Kind, o.Name, s.unpacked.HasTemplateHash)
		}
		if name == "" {
			return o.Kind, o.Name
		}
		return kind, name
	}
	return "", ""
}

// template is what the containers of the pods that were unpacked ask for.
func (s *scan) template() []asked {
	begin := len(s.asked)
	for i := range s.unpacked.Containers {
		c := &s.unpacked.Containers[i]
		a := asked{name: s.names[c.Name]}
		if a.name == "" {
			a.name = label.Escape(strings.Clone(c.Name))
			s.names[strings.Clone(c.Name)] = a.name
		}
		for i := range a.of {
			a.of[i] = math.NaN()
		}
		for i, all := range [...][]kept.Quantity{c.Requests, c.Limits} {
			for _, q := range all {
				switch q.Name {
				case "cpu":
					a.of[2*i] = q.Value
				case "memory":
					a.of[2*i+1] = q.Value
				}
			}
		}
		s.asked = append(s.asked, a)
	}
	return s.asked[begin:len(s.asked):len(s.asked)]
}

// roll sums the groups up to namespaces and workloads.
func (s *scan) roll() {
	for i := range s.groups {
		g := &s.groups[i]
		for j := range g.asked {
			for figure, value := range g.asked[j].of {
				if n := g.asked[j].count; n > 0 {
					g.of[cpuRequest+figure] = plus(g.of[cpuRequest+figure], float64(n)*value)
				}
			}
		}
		add := func(t *total) {
			t.sum.add(&g.sum)
			t.chosen = t.chosen || g.chosen
		}
		add(&s.spaces[g.space])
		if g.load != noLoad {
			add(&s.loads[g.load])
		}
	}
}
