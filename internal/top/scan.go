package top

import (
	"hash/maphash"
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

// scan goes through pods. What is to be known of one beside its usage and its name it has in common with others, its
// group, which is looked up once for many: most pods of a group follow each other. Nothing of a scan stays but some
// memory to be used again.
type scan struct {
	others objects.Others
	query  *query

	group      group // that was looked up last
	shared     map[unique.Handle[string]]shared
	lastHandle unique.Handle[string] // of which what is shared was looked up last
	lastShared shared

	spaces   []space
	bySpace  map[string]int32
	lastTail unique.Handle[string] // whose space was looked up last, and where it is
	lastIn   int32

	loads  []load // of those that are no bare pods
	byHash map[uint64]int32
	used   map[uint64][2]float64 // CPU and memory of the same

	templates  []template
	byText     map[string]int32 // as they are packed
	byContents map[uint64]int32
	names      map[string]string // of containers, as batches have them
	unpacked   kept.Pod
	touched    int // of no meaning
}

// group is the pods that have a namespace, what is kept for their workload, and their controller in common.
type group struct {
	tail, shared unique.Handle[string] // as of sample.Text
	controller   string                // its name, where that follows from the pods'
	hash         uint64                // of the workload's names
	space        int32
	template     int32
	load         int32 // of loads; -1 while it is not looked up
	bare         bool  // whether each pod is a workload of its own
	unknown      bool  // whether nothing is kept of the pods
	matches      bool  // whether the query is about the namespace and the workload,
	named        bool  // and these have the part of a name that it is about
}

// shared is what was packed for a workload, but for a name that is in no memory of its own.
type shared struct {
	kind, name      string // of the controller; without a name that follows from the pods', and nothing for none
	hasTemplateHash bool
	template        int32 // -1 for none
}

// follows tells whether the controller's name follows from the pods'.
func (s *shared) follows() bool { return s.kind != "" && s.name == "" }

// load is a workload.
type load struct {
	sum
	hash   uint64
	object *store.Object[sample.Text] // one of its pods
	space  int32
	named  bool
	chosen bool // whether the query is about one of its pods
}

// space is a namespace.
type space struct {
	sum
	name string
}

// template is what the containers of pods ask for.
type template []asked

// asked is what a container asks for, by figure from cpuRequest on; NaN for nothing.
type asked struct {
	of    [summed - cpuRequest]float64
	name  string
	index uint32 // of the name in the batch, more 1; 0 where it was not looked for yet
}

// pod is a pod that has usage.
type pod struct {
	cpu, memory float64
	object      *store.Object[sample.Text]
	samples     []sample.Sample
	names       []string // see sample.Batch
}

func (p *pod) name() string { return label.PodName(p.object.Value) }

var scans = sync.Pool{New: func() any {
	return &scan{shared: map[unique.Handle[string]]shared{}, bySpace: map[string]int32{}, byHash: map[uint64]int32{},
		used: map[uint64][2]float64{}, byText: map[string]int32{}, byContents: map[uint64]int32{},
		names: map[string]string{}}
}}

func newScan(others objects.Others, q *query) *scan {
	s := scans.Get().(*scan)
	s.others, s.query, s.lastShared = others, q, shared{template: -1}
	return s
}

// maxReused is how many workloads a scan may have for its memory to be used again.
const maxReused = 100_000

// release gives the scan's memory to the next one.
func (s *scan) release() {
	if max(len(s.loads), len(s.used), len(s.shared)) > maxReused {
		return
	}
	clear(s.shared)
	clear(s.spaces)
	clear(s.bySpace)
	clear(s.loads)
	clear(s.byHash)
	clear(s.used)
	clear(s.templates)
	clear(s.byText)
	clear(s.byContents)
	clear(s.names)
	s.spaces, s.loads, s.templates = s.spaces[:0], s.loads[:0], s.templates[:0]
	s.others, s.query, s.group, s.unpacked = nil, nil, group{}, kept.Pod{}
	s.lastTail, s.lastHandle = unique.Handle[string]{}, unique.Handle[string]{}
	scans.Put(s)
}

// ahead is for how many samples pods are touched together before any of them is looked at. They are all over the
// memory: to wait for one after the other takes several times as long as for some at once (BenchmarkAnswer).
const ahead = 64

// touch has the pods of samples brought near, and their texts.
func (s *scan) touch(samples []sample.Sample) {
	for i := range samples {
		if t := &samples[i].Pod.Value; t.Node == t.Shared {
			s.touched++
		}
	}
	var texts [ahead]string
	last := unique.Handle[string]{}
	for i := range samples {
		t := &samples[i].Pod.Value
		s.touched += int(t.Head[0])
		if nothing := (unique.Handle[string]{}); t.Shared != last && t.Shared != nothing {
			last, texts[i] = t.Shared, t.Shared.Value()
		}
	}
	for _, text := range texts {
		if text != "" {
			s.touched += int(text[0])
		}
	}
}

// each calls f with each pod of a batch. What f gets is valid until it returns. It is quicker to say so if f does not
// look at most of them but for their usage.
func (s *scan) each(b *sample.Batch, looks bool, f func(*pod)) {
	for _, t := range s.templates {
		for i := range t {
			t[i].index = 0
		}
	}
	p := pod{names: b.Names}
	for rest, touched := b.Samples, len(b.Samples); len(rest) > 0; {
		if looks && len(rest) <= touched {
			s.touch(rest[:min(ahead, len(rest))])
			touched = len(rest) - ahead
		}
		p.object, p.cpu, p.memory = rest[0].Pod, math.NaN(), math.NaN()
		n := 0
		for ; n < len(rest) && rest[n].Pod == p.object; n++ {
			p.cpu, p.memory = plus(p.cpu, rest[n].CPU), plus(p.memory, rest[n].Memory)
		}
		p.samples, rest = rest[:n], rest[n:]
		f(&p)
	}
}

// spaceOf returns a pod's namespace.
func (s *scan) spaceOf(p *pod) *space { return &s.spaces[s.spaceAt(&p.object.Value)] }

func (s *scan) spaceAt(t *sample.Text) int32 {
	if t.Tail == s.lastTail {
		return s.lastIn
	}
	name := label.Namespace(*t)
	i, known := s.bySpace[name]
	if !known {
		i = int32(len(s.spaces))
		s.bySpace[name] = i
		s.spaces = append(s.spaces, space{sum: noSum(), name: name})
	}
	s.lastTail, s.lastIn = t.Tail, i
	return i
}

// sharedOf returns what is kept for the workload of a pod.
func (s *scan) sharedOf(handle unique.Handle[string]) *shared {
	if handle == s.lastHandle {
		return &s.lastShared
	}
	of, known := s.shared[handle]
	if !known {
		of.template = -1
		if handle != (unique.Handle[string]{}) {
			containers := s.unpacked.UnpackWorkload(handle)
			of.hasTemplateHash = s.unpacked.HasTemplateHash
			for _, o := range s.unpacked.Owners {
				if o.Controller && o.Kind != "Node" { // of which static pods are
					of.kind, of.name = strings.Clone(o.Kind), strings.Clone(o.Name) // valid until the next is unpacked
					break
				}
			}
			of.template = s.templateOf(containers)
		}
		s.shared[handle] = of
	}
	s.lastHandle, s.lastShared = handle, of
	return &s.lastShared
}

// groupOf returns a pod's group, valid until that of another pod is asked for.
func (s *scan) groupOf(p *pod) *group {
	t := &p.object.Value
	of, controller := s.sharedOf(t.Shared), ""
	if of.follows() {
		if controller = s.group.controller; !isOwner(controller, t.Head) {
			controller = state.OwnerOfPod(p.name())
		}
	}
	if g := &s.group; t.Tail != g.tail || t.Shared != g.shared || controller != g.controller {
		s.newGroup(t, of, controller)
	}
	return &s.group
}

// isOwner tells, without a look at all of it, whether that is the owner's name which follows from the text of a pod. It
// does not know of names that are escaped.
func isOwner(name, head string) bool {
	rest, found := strings.CutPrefix(head, name)
	if !found || rest[0] != '-' {
		return false
	}
	for i := 1; ; i++ {
		switch rest[i] {
		case '"':
			return true
		case '-', '\\':
			return false
		}
	}
}

func (s *scan) newGroup(t *sample.Text, of *shared, controller string) {
	g, q := &s.group, s.query
	*g = group{tail: t.Tail, shared: t.Shared, controller: controller, space: s.spaceAt(t), template: of.template,
		load: -1,
		bare: of.kind == "", unknown: t.Shared == unique.Handle[string]{}}
	namespace := s.spaces[g.space].name
	g.matches, g.named = q.namespace == "" || q.namespace == namespace, q.matches(namespace)
	if !g.bare {
		kind, name := s.owner(of, namespace, controller)
		g.hash = hash(namespace, kind, name)
		g.matches = g.matches && (q.workload == "" || q.workload == kind+"/"+name)
		g.named = g.named || q.matchesWorkload(kind, name)
	}
}

// owner is what owns pods that have a controller: that or, where it is a ReplicaSet or Job, what owns it, as the
// watches of these know it, or as it is guessed.
func (s *scan) owner(of *shared, namespace, controller string) (kind, name string) {
	if !of.follows() {
		controller = of.name
	}
	kind, name, known := s.others.Owner(of.kind, namespace, controller)
	if !known {
		kind, name = state.GuessOwner(of.kind, controller, of.hasTemplateHash)
	}
	if name == "" {
		return of.kind, controller
	}
	return kind, name
}

// loadOf returns the workload of a group that is not bare.
func (s *scan) loadOf(g *group, p *pod) *load {
	if g.load < 0 {
		i, known := s.byHash[g.hash]
		if !known {
			i = int32(len(s.loads))
			s.byHash[g.hash] = i
			s.loads = append(s.loads, load{sum: noSum(), hash: g.hash, object: p.object, space: g.space})
		}
		s.loads[i].named = s.loads[i].named || g.named
		g.load = i
	}
	return &s.loads[g.load]
}

// workload is the name of the workload of a pod that is not bare, Kind/NAME.
func (s *scan) workload(o *store.Object[sample.Text]) string {
	t := &o.Value
	kind, name := s.owner(s.sharedOf(t.Shared), s.spaces[s.spaceAt(t)].name, state.OwnerOfPod(label.PodName(*t)))
	return kind + "/" + name
}

// bareKind is that of the workload that a pod without an owner is.
const bareKind = "Pod"

// workloadOf is the name of a pod's workload, "" where that is not known.
func (s *scan) workloadOf(p *pod) string {
	switch g := s.groupOf(p); {
	case g.unknown:
		return ""
	case g.bare:
		return bareKind + "/" + p.name()
	}
	return s.workload(p.object)
}

// templateOf returns where the template of packed containers is. Where images are packed with them, it is in many
// texts.
func (s *scan) templateOf(text string) int32 {
	if i, known := s.byText[text]; known {
		return i
	}
	s.unpacked.UnpackContainers(text)
	contents := uint64(len(s.unpacked.Containers))
	t := make(template, 0, contents)
	for i := range s.unpacked.Containers {
		c := &s.unpacked.Containers[i]
		a := asked{name: s.escaped(c.Name)}
		of := [...]*float64{&a.of[0], &a.of[1], &a.of[2], &a.of[3]}
		for i, all := range [...][]kept.Quantity{c.Requests, c.Limits} {
			*of[2*i], *of[2*i+1] = math.NaN(), math.NaN()
			for _, q := range all {
				switch q.Name {
				case "cpu":
					*of[2*i] = q.Value
				case "memory":
					*of[2*i+1] = q.Value
				}
			}
		}
		t = append(t, a)
		contents = contents*31 + maphash.String(seed, a.name)
		for _, value := range a.of {
			contents = contents*31 + maphash.Comparable(seed, math.Float64bits(value))
		}
	}
	i, known := s.byContents[contents]
	if !known {
		i = int32(len(s.templates))
		s.templates = append(s.templates, t)
		s.byContents[contents], s.byText[text] = i, i
	}
	return i
}

// escaped is a container's name as batches have it.
func (s *scan) escaped(name string) string {
	escaped, known := s.names[name]
	if !known {
		name = strings.Clone(name) // it is valid until something else is unpacked
		escaped = label.Escape(name)
		s.names[name] = escaped
	}
	return escaped
}

// find returns what the container asks for that has the name of that index; nil where that is not known. One without
// a name is of any that no other one has.
func (t template) find(name uint32, names []string) (found *asked) {
	for i := range t {
		switch a := &t[i]; {
		case a.name == "":
			found = a
		case a.index == name+1:
			return a
		case a.index == 0 && a.name == names[name]:
			a.index = name + 1
			return a
		}
	}
	return found
}

// container is the figures of the i-th container of a pod of the group.
func (s *scan) container(g *group, p *pod, i int) (of sum) {
	of, c := noSum(), &p.samples[i]
	of.of[cpu], of.of[memory], of.containers = c.CPU, c.Memory, 1
	if g.template >= 0 {
		if a := s.templates[g.template].find(c.Name, p.names); a != nil {
			copy(of.of[cpuRequest:], a.of[:])
		}
	}
	return of
}

// figures are those of a pod of the group.
func (s *scan) figures(g *group, p *pod) sum {
	of := noSum()
	of.of[cpu], of.of[memory], of.pods, of.containers = p.cpu, p.memory, 1, len(p.samples)
	if g.template >= 0 {
		for i, t := 0, s.templates[g.template]; i < len(p.samples); i++ {
			if a := t.find(p.samples[i].Name, p.names); a != nil {
				for figure, value := range a.of {
					of.of[cpuRequest+figure] = plus(of.of[cpuRequest+figure], value)
				}
			}
		}
	}
	return of
}

// isAbout tells whether the query is about a pod of the group.
func (s *scan) isAbout(g *group, p *pod) bool {
	q := s.query
	return g.matches && (q.pod == "" || q.pod == p.name()) && (q.node == "" || q.node == label.NodeName(p.object.Value)) &&
		(q.workload == "" || !g.bare || q.workload == bareKind+"/"+p.name())
}
