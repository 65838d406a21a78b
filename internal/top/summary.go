package top

import (
	"slices"
	"unique"

	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/sample"
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

// summarize makes the summary of a list's batch. Of each row of a level it appends a value to values, as far as these
// are not too many for the history; nil for not.
func summarize(source *Source, l *usage.List, values *[containers][]value, h *history) (m summary) {
	l.Read(func(b *sample.Batch) {
		m.generation, m.all, m.oldest, m.newest = l.Generation(), noSum(), b.Oldest, b.Newest
		if l.Resource == "nodes" {
			m.counts[nodes] = len(b.Samples)
			for i := range b.Samples {
				s := &b.Samples[i]
				if values != nil {
					values[nodes] = append(values[nodes], newValue(hash("", "", label.Unescape(b.Names[s.Name])), s.CPU, s.Memory))
				}
			}
			return
		}
		s := newScan(source.Others, &query{})
		defer s.release()
		onNodes := map[unique.Handle[string]]int32{}
		s.each(b, true, func(p *pod) {
			g, on := s.groupOf(p), p.object.Value.Node
			of := s.figures(g, p)
			g.add(&of)
			i, known := onNodes[on]
			if !known {
				i = int32(len(m.nodes))
				m.nodes, onNodes[on] = append(m.nodes, onNode{noSum(), on}), i
			}
			m.nodes[i].add(&of)
			m.counts[pods]++
			if g.head == bare {
				m.counts[workloads]++
			}
			if values == nil {
				return
			}
			namespace := s.spaces[g.space].name
			if m.counts[pods] <= h.maxPods {
				values[pods] = append(values[pods], newValue(hash(namespace, "", p.name()), p.cpu, p.memory))
			}
			if g.head == bare && m.counts[workloads] <= h.capacity() {
				values[workloads] = append(values[workloads], newValue(hash(namespace, bareKind, p.name()), p.cpu, p.memory))
			}
		})
		for i := range s.groups {
			s.spaces[s.groups[i].space].add(&s.groups[i].sum)
		}
		s.roll()
		m.spaces = slices.Clone(s.spaces)
		m.counts[namespaces], m.counts[workloads] = len(m.spaces), m.counts[workloads]+len(s.heads)
		for i := range m.spaces {
			space := &m.spaces[i]
			m.all.add(&space.sum)
			if values != nil {
				values[namespaces] = append(values[namespaces], newValue(hash("", "", space.name), space.of[cpu], space.of[memory]))
			}
		}
		for i := range s.groups {
			if g := &s.groups[i]; values != nil && g.head == int32(i) {
				values[workloads] = append(values[workloads], newValue(g.hash, g.of[cpu], g.of[memory]))
			}
		}
	})
	return m
}
