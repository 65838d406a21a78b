package state

import (
	"unsafe"

	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/store"
)

// Row is a family of a resource's objects.
type Row struct {
	Family uint8 // its number
	Add    func(*Samples, *Object)
}

// Add adds the samples of an object, which all begin with the given labels.
func (s *Samples) AddObject(rows []Row, o *Object, labels ...string) {
	s.Object(labels...)
	for _, row := range rows {
		s.Family = row.Family
		row.Add(s, o)
	}
}

// Renderer renders the samples of objects to parts, one for each family; nil where a family has no sample. It is not
// for concurrent use.
type Renderer struct {
	Names   []string // of the families, by their numbers
	Cluster string   // the text of the label that comes last, see label.Cluster; "" for none
	samples Samples
	pod     Pod
	lines   [][]line // by family
	sample  []byte
}

// Pods renders the rows of pods, of which whole ones were kept.
func (r *Renderer) Pods(c *page.Compressor, rows []Row, entries []store.Entry[sample.Text]) []*page.Part {
	r.samples.reset()
	for _, e := range entries {
		r.addPod(rows, e)
	}
	return r.render(c)
}

func (r *Renderer) addPod(rows []Row, e store.Entry[sample.Text]) {
	r.pod.Unpack(e.Value.Shared, e.Value.Own)
	r.pod.Node, r.pod.Labels = label.NodeOf(e.Value), label.LabelsOf(e.Value)
	r.samples.AddObject(rows, &Object{Pod: &r.pod}, "namespace", e.Namespace, "pod", e.Name, "uid", r.pod.UID)
}

// Kept renders objects of which the samples were kept.
func (r *Renderer) Kept(c *page.Compressor, entries []store.Entry[string]) []*page.Part {
	r.samples.reset()
	for _, e := range entries {
		r.samples.unpack(e.Value)
	}
	return r.render(c)
}

// EachPod calls f for each sample that Pods renders of a pod. The labels, without braces, are valid until f returns.
func (r *Renderer) EachPod(rows []Row, e store.Entry[sample.Text], f func(family uint8, labels []byte, value float64)) {
	r.samples.reset()
	r.addPod(rows, e)
	r.each(f)
}

// EachKept is EachPod for Kept.
func (r *Renderer) EachKept(e store.Entry[string], f func(family uint8, labels []byte, value float64)) {
	r.samples.reset()
	r.samples.unpack(e.Value)
	r.each(f)
}

func (r *Renderer) each(f func(family uint8, labels []byte, value float64)) {
	each(r.samples.buf, func(family uint8, l line) {
		r.sample = l.append(r.sample[:0])
		f(family, r.sample, l.value)
	})
}

func (r *Renderer) render(c *page.Compressor) []*page.Part {
	if r.lines == nil {
		r.lines = make([][]line, len(r.Names))
	}
	each(r.samples.buf, func(family uint8, l line) { r.lines[family] = append(r.lines[family], l) })
	parts := make([]*page.Part, len(r.Names))
	for family, lines := range r.lines {
		r.sample = append(append(r.sample[:0], r.Names[family]...), '{')
		begin := len(r.sample)
		for _, l := range lines {
			r.sample = append(append(l.append(r.sample[:begin]), r.Cluster...), '}')
			// The writer wants a string and does not keep it: one buffer serves for all.
			selfmetrics.WriteSample(c, unsafe.String(unsafe.SliceData(r.sample), len(r.sample)), l.value)
		}
		parts[family] = c.Part()
		clear(lines)
		r.lines[family] = lines[:0]
	}
	return parts
}
