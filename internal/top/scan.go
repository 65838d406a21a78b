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
// to be known of them but their names in common, so that this is looked up once for many: it costs nearly no more than
// to have a look at each sample. Nothing of it stays after an answer but some memory to be used again.
type scan struct {
	others objects.Others
	query  *query

	groups []group
	byKey  map[groupKey]int32
	last   groupKey // found before, and where
	lastAt int32
	asked  []asked
	names  map[string]string // of containers, as samples have them
	spaces map[unique.Handle[string]]string
	kept   kept.Pod
	bare   int // pods without an owner
}

// groupKey is the label text behind the pod's name, and what is kept of it for its workload.
type groupKey struct{ tail, shared unique.Handle[string] }

// group is the pods of a key.
type group struct {
	sum
	namespace string
	workload  string // Kind/NAME; "" where each pod is its own
	asked     []asked
	unknown   bool // whether nothing is kept of the pods
	matches   bool // the namespace and the workload asked for
	chosen    bool // whether a pod is
}

// asked is what a container of a template asks for, by figure from cpuRequest on; NaN for nothing.
type asked struct {
	name string
	of   [summed - cpuRequest]float64
}

// pod is a pod that has usage.
type pod struct {
	sum
	object  *store.Object[sample.Text]
	group   *group
	samples []sample.Sample
	names   []string // see sample.Batch
	chosen  bool
}

var scans = sync.Pool{New: func() any {
	return &scan{byKey: map[groupKey]int32{}, names: map[string]string{}, spaces: map[unique.Handle[string]]string{}}
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
	if len(s.groups) > maxReused || len(s.names) > maxReused {
		return
	}
	clear(s.groups)
	clear(s.asked)
	clear(s.byKey)
	clear(s.names)
	clear(s.spaces)
	s.groups, s.asked, s.last = s.groups[:0], s.asked[:0], groupKey{}
	s.others, s.query, s.bare, s.kept = nil, nil, 0, kept.Pod{}
	scans.Put(s)
}

// pods calls f with each pod of a batch. What f gets is valid until it returns.
func (s *scan) pods(b *sample.Batch, f func(*pod)) {
	var p pod
	p.names = b.Names
	for rest := b.Samples; len(rest) > 0; {
		p.object = rest[0].Pod
		n := 1
		for n < len(rest) && rest[n].Pod == p.object {
			n++
		}
		p.samples, rest = rest[:n], rest[n:]
		s.pod(&p)
		f(&p)
	}
}

func (s *scan) pod(p *pod) {
	p.group = s.groupOf(&p.object.Value)
	p.sum = noSum()
	p.sum.pods = 1
	for i := range p.samples {
		one := p.container(i)
		p.sum.add(&one)
	}
	p.group.sum.add(&p.sum)
	if p.group.workload == "" {
		s.bare++
	}
	p.chosen = p.group.matches && s.chooses(p)
	p.group.chosen = p.group.chosen || p.chosen
}

// container is the figures of the pod's i-th container.
func (p *pod) container(i int) sum {
	one, c := noSum(), &p.samples[i]
	one.containers = 1
	one.of[cpu], one.of[memory] = c.CPU, c.Memory
	for j := range p.group.asked {
		if a := &p.group.asked[j]; a.name == p.names[c.Name] {
			copy(one.of[cpuRequest:], a.of[:])
			break
		}
	}
	return one
}

// name is the pod's name.
func (p *pod) name() string { return label.PodName(p.object.Value) }

// workload is Kind/NAME of what the pod belongs to, "" where that is not known.
func (p *pod) workload() string {
	switch {
	case p.group.workload != "":
		return p.group.workload
	case p.group.unknown:
		return ""
	}
	return bareName(p.name())
}

// bareName is the workload of a pod without an owner.
func bareName(pod string) string { return "Pod/" + pod }

// chooses tells whether the query is about the pod, as far as its group does not tell.
func (s *scan) chooses(p *pod) bool {
	q := s.query
	return (q.pod == "" || q.pod == p.name()) && (q.node == "" || q.node == label.NodeName(p.object.Value)) &&
		(q.workload == "" || p.group.workload != "" || q.workload == bareName(p.name()))
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
	g := group{sum: noSum(), unknown: t.Shared == unique.Handle[string]{}}
	namespace, known := s.spaces[t.Tail]
	if !known {
		namespace = label.Namespace(*t)
		s.spaces[t.Tail] = namespace
	}
	g.namespace = namespace
	if !g.unknown {
		s.kept.Unpack(t.Shared, "")
		g.workload, g.asked = s.workload(namespace), s.template()
	}
	q := s.query
	g.matches = (q.namespace == "" || q.namespace == namespace) &&
		(q.workload == "" || g.workload == "" || q.workload == g.workload)
	return g
}

// workload is what owns the pods that were unpacked: the owner of their ReplicaSet or Job where that has one, as the
// watches of these know it, or as it is guessed. Static pods are owned by their node, and are their own workload.
func (s *scan) workload(namespace string) string {
	for _, o := range s.kept.Owners {
		if !o.Controller || o.Kind == "Node" {
			continue
		}
		kind, name, known := s.others.Owner(o.Kind, namespace, o.Name)
		if !known {
			kind, name = state.GuessOwner(o.Kind, o.Name, s.kept.HasTemplateHash)
		}
		if name == "" {
			kind, name = o.Kind, o.Name
		}
		return kind + "/" + name
	}
	return ""
}

// template is what the containers of the pods that were unpacked ask for.
func (s *scan) template() []asked {
	begin := len(s.asked)
	for i := range s.kept.Containers {
		c := &s.kept.Containers[i]
		a := asked{name: s.names[c.Name]}
		if a.name == "" {
			a.name = label.Escape(strings.Clone(c.Name))
			s.names[strings.Clone(c.Name)] = a.name
		}
		for i := range a.of {
			a.of[i] = math.NaN()
		}
		for i, all := range [][]kept.Quantity{c.Requests, c.Limits} {
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
