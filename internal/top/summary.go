package top

import (
	"slices"
	"unique"

	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/store"
	"metrics-server-prom/internal/usage"
)

// summary is what a batch has but for pods and workloads, of which there may be too many: it is made once for each
// batch, and kept. It is small: some dozen bytes a namespace and node.
type summary struct {
	generation     uint64 // of the list
	counts         [containers]int
	all            sum
	oldest, newest int64
	spaces         []space
	nodes          []onNode
}

// onNode is the pods on a node.
type onNode struct {
	sum
	node unique.Handle[string] // label text
}

// summarize makes m the summary of a list's batch and, where that is wanted, records what it has in the history, whose
// m is.
func (m *summary) summarize(source *Source, l *usage.List, h *history, record bool) {
	l.Read(func(b *sample.Batch) {
		*m = summary{generation: l.Generation(), counts: m.counts, all: noSum(), oldest: b.Oldest, newest: b.Newest}
		if l.Resource == "nodes" {
			m.counts[nodes] = len(b.Samples)
			h.refuse()
			for i := range b.Samples {
				if s := &b.Samples[i]; record {
					h.put(nodes, hash("", "", label.Unescape(b.Names[s.Name])), s.CPU, s.Memory)
				}
			}
			return
		}
		s := newScan(source.Others, &query{})
		defer s.release()
		m.counts[pods] = countPods(b)
		h.refuse()
		bare := m.scan(s, b, h, record)
		m.counts[namespaces], m.counts[workloads] = len(m.spaces), bare+len(s.used)
		h.refuse()
		for i := range m.spaces {
			space := &m.spaces[i]
			if m.all.add(&space.sum); record {
				h.put(namespaces, hash("", "", space.name), space.of[cpu], space.of[memory])
			}
		}
		for hash, used := range s.used {
			if record {
				h.put(workloads, hash, used[cpu], used[memory])
			}
		}
	})
}

func countPods(b *sample.Batch) (n int) {
	var last *store.Object[sample.Text]
	for i := range b.Samples {
		if b.Samples[i].Pod != last {
			last = b.Samples[i].Pod
			n++
		}
	}
	return n
}

// scan sums up what there is by namespace and node and, in the scan, by workload, and returns the number of pods that
// are workloads of their own. These and all pods it records.
func (m *summary) scan(s *scan, b *sample.Batch, h *history, record bool) (bare int) {
	onNodes := map[unique.Handle[string]]int32{}
	var last uint64 // workload, and what those of its pods use that follow each other
	var used [2]float64
	flush := func() {
		if all, known := s.used[last]; known {
			used = [2]float64{plus(all[cpu], used[cpu]), plus(all[memory], used[memory])}
		}
		s.used[last] = used
	}
	s.each(b, true, func(p *pod) {
		g, on := s.groupOf(p), p.object.Value.Node
		of := s.figures(g, p)
		s.spaces[g.space].add(&of)
		i, known := onNodes[on]
		if !known {
			i = int32(len(m.nodes))
			m.nodes, onNodes[on] = append(m.nodes, onNode{noSum(), on}), i
		}
		m.nodes[i].add(&of)
		if record && h.rows[pods] != nil {
			h.put(pods, hash(s.spaces[g.space].name, "", p.name()), p.cpu, p.memory)
		}
		switch {
		case g.bare:
			if bare++; record && h.rows[workloads] != nil {
				h.put(workloads, hash(s.spaces[g.space].name, bareKind, p.name()), p.cpu, p.memory)
			}
		case g.hash == last:
			used = [2]float64{plus(used[cpu], p.cpu), plus(used[memory], p.memory)}
		default:
			if last != 0 {
				flush()
			}
			last, used = g.hash, [2]float64{p.cpu, p.memory}
		}
	})
	if last != 0 {
		flush()
	}
	m.spaces = slices.Clone(s.spaces)
	return bare
}
