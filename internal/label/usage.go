package label

import (
	"cmp"
	"hash/maphash"
	"math"
	"strings"

	"metrics-server-prom/internal/kept"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/store"
)

// Usage is a batch of which text is made. Its methods append to a text the labels of the batch's i-th sample, as far as
// the closing brace.
type Usage struct {
	*sample.Batch
	Cluster    string // the text of the label that comes last, see Cluster; "" for none
	containers Containers
}

// Node has the labels of a node.
func (u *Usage) Node(to []byte, i int) []byte {
	return u.end(append(append(append(to, `node="`...), u.Names[u.Samples[i].Name]...), '"'))
}

// Root has the labels of a node as a whole, as cAdvisor has it.
func (u *Usage) Root(to []byte, i int) []byte { return u.Node(append(to, `id="/",`...), i) }

// Pod has the labels of a container of a pod.
func (u *Usage) Pod(to []byte, i int) []byte {
	s := &u.Samples[i]
	text, tail := &s.Pod.Value, s.Pod.Value.Tail.Value()
	to = append(append(append(to, text.Node.Value()...), text.Head...), u.Names[s.Name]...)
	return u.end(append(to, tail[:len(tail)-1]...))
}

// end ends a text.
func (u *Usage) end(to []byte) []byte { return append(append(to, u.Cluster...), '}') }

// ContainerCPU has the labels of a container's CPU as cAdvisor has them, Container those of its other metrics. They
// return nil where nothing but its usage is known.
func (u *Usage) ContainerCPU(to []byte, i int) []byte {
	return u.container(to, `",cpu="total",image="`, i)
}

// Container is explained at ContainerCPU.
func (u *Usage) Container(to []byte, i int) []byte { return u.container(to, `",image="`, i) }

func (u *Usage) container(to []byte, image string, i int) []byte {
	c, s := u.find(i), &u.Samples[i]
	if c == nil {
		return nil
	}
	text := &s.Pod.Value
	_, id, _ := strings.Cut(c.ID, "://")
	to = append(append(append(to, `container="`...), u.Names[s.Name]...), image...)
	to = append(append(to, Escape(cmp.Or(c.Status.Image, c.Image))...), `",name="`...)
	to = append(append(to, Escape(cmp.Or(id, c.ID))...), quoted(text.Tail.Value(), 3)...)
	return u.end(append(append(append(to, ','), text.Node.Value()...), quoted(text.Head, 1)...))
}

// Started is since when the container has been running, in Unix seconds; NaN where that is not known.
func (u *Usage) Started(i int) float64 {
	if c := u.find(i); c != nil && c.Started > 0 {
		return float64(c.Started)
	}
	return math.NaN()
}

// find is what is known of the container that a sample is of; nil where that is nothing, or where the sample is of
// a container that had the name before it.
func (u *Usage) find(i int) *kept.Container {
	s := &u.Samples[i]
	c := u.containers.find(s.Pod, u.Names[s.Name])
	if c == nil || s.At() <= c.Started {
		return nil
	}
	return c
}

// Containers finds what is kept of containers. It is not for concurrent use.
type Containers struct {
	pod kept.Pod
	of  *store.Object[sample.Text] // whose pod that is
}

// find returns what is kept of a container, valid until the next call; nil where that is nothing.
func (f *Containers) find(p *store.Object[sample.Text], name string) *kept.Container {
	if p.Value.Own == "" {
		return nil
	}
	if f.of != p {
		f.of = p
		f.pod.Unpack(p.Value.Shared, p.Value.Own)
	}
	return f.pod.Container(name)
}

// seed is that of the IDs of containers' runs.
var seed = maphash.MakeSeed()

// Running is what sample.Joiner wants to know of a container.
func (f *Containers) Running(p *store.Object[sample.Text], name string) (id uint64, started int64, ok bool) {
	c := f.find(p, name)
	if c == nil || c.Started <= 0 {
		return 0, 0, false
	}
	return maphash.String(seed, c.ID) + uint64(c.Restarts), c.Started, true
}
