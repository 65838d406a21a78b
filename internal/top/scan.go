package top

import (
	"hash/maphash"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"unique"

	"metrics-server-prom/internal/kept"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/objects"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/state"
	"metrics-server-prom/internal/store"
)

// scan goes through pods. What is to be known of one beside its usage and its name it has in common with others, its
// group, so that this is looked up once for many: most pods of a group follow each other. Nothing of a scan stays but
// some memory to be used again.
type scan struct {
	others objects.Others
	query  *query

	groups []group
	byKey  map[uint64]int32 // by a hash
	last   groupKey         // that was looked up last, and where it is
	lastAt int32
	heads  map[uint64]int32 // the first group of each workload, by the hash of its names

	shared     map[unique.Handle[string]]shared
	lastHandle unique.Handle[string] // of which that was looked up last
	lastShared shared

	spaces   []space
	bySpace  map[string]int32
	lastTail unique.Handle[string] // whose space was looked up last, and where it is
	lastIn   int32

	templates  []template
	byText     map[string]int32 // as they are packed
	byContents map[uint64]int32
	names      map[string]string // of containers, as batches have them
	unpacked   kept.Pod
	touched    int // of no meaning
}

// groupKey is the label text behind the pods' names, what is kept of them for their workload, and the name of their
// controller where that follows from their names.
type groupKey struct {
	tail, shared unique.Handle[string]
	owner        string
}

// group is the pods of a key.
type group struct {
	sum // of those that were added
	groupKey
	hash     uint64 // of the workload's names
	head     int32  // the first group of the workload; bare where each pod is its own one
	space    int32
	template int32
	unknown  bool // whether nothing is kept of the pods
	matches  bool // whether the query is about the namespace and the workload,
	named    bool // and these have the part of a name that it is about
	chosen   bool // whether it is about a pod that was added
}

// shared is what was packed for a workload, but for a name that is in no memory of its own.
type shared struct {
	kind, name      string // of the controller; without a name that follows from the pods', and nothing for none
	hasTemplateHash bool
	template        int32 // -1 for none
}

// follows tells whether the controller's name follows from the pods'.
func (s *shared) follows() bool { return s.kind != "" && s.name == "" }

const bare = -1

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

var (
	scans = sync.Pool{New: func() any {
		return &scan{byKey: map[uint64]int32{}, heads: map[uint64]int32{}, bySpace: map[string]int32{},
			byText: map[string]int32{}, byContents: map[uint64]int32{}, names: map[string]string{},
			shared: map[unique.Handle[string]]shared{}}
	}}
	// usual is how many groups a scan had.
	usual atomic.Int64
)

func newScan(others objects.Others, q *query) *scan {
	s := scans.Get().(*scan)
	s.others, s.query, s.lastShared = others, q, shared{template: -1}
	return s
}

// maxReused is how many groups a scan may have for its memory to be used again.
const maxReused = 100_000

// release gives the scan's memory to the next one.
func (s *scan) release() {
	if n := len(s.groups); n > maxReused {
		return
	} else if n > 0 {
		usual.Store(int64(n))
	}
	clear(s.groups)
	clear(s.byKey)
	clear(s.shared)
	clear(s.heads)
	clear(s.spaces)
	clear(s.bySpace)
	clear(s.templates)
	clear(s.byText)
	clear(s.byContents)
	clear(s.names)
	s.groups, s.spaces, s.templates = s.groups[:0], s.spaces[:0], s.templates[:0]
	s.others, s.query, s.last, s.unpacked = nil, nil, groupKey{}, kept.Pod{}
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

// groupOf returns a pod's group, valid until the next call.
func (s *scan) groupOf(p *pod) *group {
	t := &p.object.Value
	of, key := s.sharedOf(t.Shared), groupKey{t.Tail, t.Shared, ""}
	if of.follows() {
		if key.owner = s.last.owner; !isOwner(key.owner, t.Head) {
			key.owner = state.OwnerOfPod(p.name())
		}
	}
	if key == s.last && len(s.groups) > 0 {
		return &s.groups[s.lastAt]
	}
	hash := maphash.Comparable(seed, key)
	i, known := s.byKey[hash]
	if !known {
		if s.groups == nil {
			s.groups = make([]group, 0, usual.Load())
		}
		i = int32(len(s.groups))
		s.groups = append(s.groups, group{})
		s.byKey[hash] = i
		s.newGroup(i, key, of, s.spaceAt(t))
	}
	s.last, s.lastAt = key, i
	return &s.groups[i]
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

func (s *scan) newGroup(at int32, key groupKey, of *shared, space int32) {
	g, q := &s.groups[at], s.query
	*g = group{sum: noSum(), groupKey: key, head: bare, space: space, template: of.template,
		unknown: key.shared == unique.Handle[string]{}}
	namespace := s.spaces[space].name
	g.matches, g.named = q.namespace == "" || q.namespace == namespace, q.matches(namespace)
	if of.kind == "" {
		return
	}
	kind, name := s.owner(g)
	g.hash, g.head = hash(namespace, kind, name), at
	if head, known := s.heads[g.hash]; known {
		g.head = head
	} else {
		s.heads[g.hash] = at
	}
	g.matches = g.matches && (q.workload == "" || q.workload == kind+"/"+name)
	g.named = g.named || q.matchesWorkload(kind, name)
}

// owner is what owns the pods of a group that are not bare: their controller or, where that is a ReplicaSet or Job,
// what owns that, as the watches of these know it, or as it is guessed.
func (s *scan) owner(g *group) (kind, name string) {
	of := s.sharedOf(g.shared)
	controller := of.name
	if of.follows() {
		controller = g.groupKey.owner
	}
	kind, name, known := s.others.Owner(of.kind, s.spaces[g.space].name, controller)
	if !known {
		kind, name = state.GuessOwner(of.kind, controller, of.hasTemplateHash)
	}
	if name == "" {
		return of.kind, controller
	}
	return kind, name
}

// workload is the name of a group's workload, Kind/NAME.
func (s *scan) workload(g *group) string {
	kind, name := s.owner(g)
	return kind + "/" + name
}

// bareKind is that of the workload that a pod without an owner is.
const bareKind = "Pod"

// workloadOf is the name of a pod's workload, "" where that is not known.
func (s *scan) workloadOf(p *pod) string {
	switch g := s.groupOf(p); {
	case g.head != bare:
		return s.workload(g)
	case g.unknown:
		return ""
	}
	return bareKind + "/" + p.name()
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
		(q.workload == "" || g.head != bare || q.workload == bareKind+"/"+p.name())
}

// roll adds each group to the first one of its workload.
func (s *scan) roll() {
	for i := range s.groups {
		if g := &s.groups[i]; g.head != bare && g.head != int32(i) {
			head := &s.groups[g.head]
			head.sum.add(&g.sum)
			head.chosen = head.chosen || g.chosen
		}
	}
}
