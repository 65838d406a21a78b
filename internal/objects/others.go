package objects

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/state"
	"metrics-server-prom/internal/store"
)

// Cluster is what the sources of a cluster have in common.
type Cluster struct {
	Client               func(schema.GroupVersion) rest.Interface
	Namespaces, Excluded []string // as of watch.Options
	ListOnly             bool     // the same
	MaxAge               time.Duration
	Label                string // of its samples, see label.Cluster
	Pulse                *refresh.Pulse
	Health               *health.Tracker
	Self                 *selfmetrics.Scope
}

// For returns the options of a resource of the cluster.
func For[V comparable](c *Cluster, group schema.GroupVersion, resource string) (o Options[V]) {
	o.Client, o.Resource, o.MaxAge, o.Changed = c.Client(group), resource, c.MaxAge, func(string) {}
	o.Namespaces, o.Excluded, o.ListOnly = c.Namespaces, c.Excluded, c.ListOnly
	o.Pulse, o.Health, o.Self = c.Pulse, c.Health, c.Self
	return o
}

// Other is a resource other than pods. No account has to have the right to it.
type Other struct {
	*Source[string]
	resource *state.Resource
	names    []string     // of the families of its samples, by their numbers
	guess    *state.Guess // what takes its place where it may not be read; nil for nothing
}

// Others are the resources other than pods that pages have samples of.
type Others []*Other

// NewOthers returns a source of each resource of which rows has families, and the keys of their health. Where only
// namespaces are read, none of a resource that belongs to no namespace.
func NewOthers(c *Cluster, rows func(resource string) []state.Row, names []string) (all Others, keys []string) {
	for i := range state.Resources {
		r := &state.Resources[i]
		if rows := rows(r.Name); len(rows) > 0 && !(r.Global && c.Namespaces[0] != "") {
			o := newOther(c, r, rows, &state.Renderer{Names: names, Cluster: c.Label})
			all = append(all, o)
			keys = append(keys, o.Keys()...)
		}
	}
	return all, keys
}

// get returns what is kept of an object; known is false where the resource has no source, nothing of it is served, or
// nothing is known of the object.
func (all Others) get(of func(*state.Resource) bool, namespace, name string) (o *Other, samples string, known bool) {
	for _, o := range all {
		scope := namespace
		if o.Watch.Namespaces[0] == "" {
			scope = ""
		}
		if of(o.resource) && !o.isMissing(scope) {
			if object, _ := o.Store.Find([]byte(namespace), []byte(name)); object != nil {
				return o, object.Value, true
			}
		}
	}
	return nil, "", false
}

// Owner returns the controller of a ReplicaSet or Job, "" for none; known is false where its resource is not watched,
// or the watch does not know it.
func (all Others) Owner(kind, namespace, name string) (ownerKind, owner string, known bool) {
	_, samples, known := all.get(func(r *state.Resource) bool { return r.Owner != "" && r.Kind == kind }, namespace, name)
	state.Read(samples, func(_ uint8, labels string, _ float64) {
		if label.Value(labels, "owner_is_controller") == "true" {
			ownerKind, owner = label.Value(labels, "owner_kind"), label.Value(labels, "owner_name")
		}
	})
	return ownerKind, owner, known
}

// Allocatable returns what pods may use of a node, in cores and bytes; NaN for what is not known. It is known as far as
// the rows of nodes have kube_node_status_allocatable.
func (all Others) Allocatable(node string) (cpu, memory float64) {
	cpu, memory = math.NaN(), math.NaN()
	o, samples, _ := all.get(func(r *state.Resource) bool { return r.Kind == "Node" }, "", node)
	state.Read(samples, func(family uint8, labels string, value float64) {
		switch {
		case o.names[family] != "kube_node_status_allocatable":
		case strings.HasPrefix(labels, `resource="cpu"`):
			cpu = value
		case strings.HasPrefix(labels, `resource="memory"`):
			memory = value
		}
	})
	return cpu, memory
}

// Missing tells whether nothing is served of a resource of the whole cluster.
func (all Others) Missing(resource string) bool {
	i := slices.IndexFunc(all, func(o *Other) bool { return o.Watch.Resource == resource })
	return i < 0 || all[i].isMissing("")
}

// leafLen is how many objects other than pods a leaf has; each has few samples.
const leafLen = 128

// newOther returns a source of a resource, of which each object has the samples of the rows.
func newOther(c *Cluster, r *state.Resource, rows []state.Row, renderer *state.Renderer) *Other {
	o := For[string](c, r.Group, r.Name)
	o.New, o.LeafLen, o.Render, o.Optional = r.New, leafLen, renderer.Kept, r.Missing
	o.Keep = func(object slim.Object) store.Entry[string] {
		return store.NewEntry(object, object.GetName(), r.Samples(rows, object))
	}
	if r.Global {
		o.Namespaces, o.Excluded = []string{""}, nil
	}
	s := &Other{Source: New(o), resource: r, names: renderer.Names}
	if r.Owner != "" {
		s.guess = state.NewGuess(r, rows[0].Family, renderer)
		c.Self.Gauge("owners_guessed", "Whether owners of the resource are guessed from the pods, as it may not be read.",
			fmt.Sprintf("resource=%q", r.Name), func() float64 {
				if s.refused() {
					return 1
				}
				return 0
			})
	}
	return s
}

// Parts waits until the resource is current and returns its parts by family. Where that is possible, those of
// namespaces in which the account has no right to the resource are guessed from pods, and are parts of their own. It
// returns nil where ctx ends before.
func (s *Other) Parts(ctx context.Context, pods *Source[sample.Text]) [][][]*page.Part {
	if err := s.Ready(ctx); err != nil {
		return nil
	}
	parts, missing := s.show()
	guessed := s.guessed(pods, missing)
	s.mu.Lock() // the source's, as they have a renderer in common
	defer s.mu.Unlock()
	if len(guessed) == 0 {
		if s.guess != nil {
			s.guess.Release()
		}
		return [][][]*page.Part{parts}
	}
	return [][][]*page.Part{parts, s.guess.Parts(pods.Store.Leaves(), guessed)}
}

// Known waits as Parts does and returns the objects that Parts renders, in order of namespace and name.
func (s *Other) Known(ctx context.Context, pods *Source[sample.Text]) []*store.Leaf[string] {
	if err := s.Ready(ctx); err != nil {
		return nil
	}
	leaves := s.Leaves()
	guessed := s.guessed(pods, s.missingNow())
	if len(guessed) == 0 {
		return leaves
	}
	var all []store.Entry[string]
	for _, leaf := range leaves {
		all = append(all, leaf.Entries...)
	}
	all = append(all, s.guess.Entries(pods.Store.Leaves(), guessed)...)
	store.Sort(all)
	return []*store.Leaf[string]{{Entries: all}}
}

// guessed is the missing namespaces in which the objects' owners are guessed.
func (s *Other) guessed(pods *Source[sample.Text], missing []string) []string {
	if s.guess == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(missing), func(namespace string) bool {
		return !s.Watch.State(namespace).Refused() || pods.isMissing(namespace)
	})
}

// Release gives the memory of the parts back, until Parts is called again.
func (s *Other) Release() {
	s.Source.Release()
	if s.guess != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.guess.Release()
	}
}

func (s *Other) refused() bool {
	return slices.ContainsFunc(s.Watch.Namespaces, func(namespace string) bool {
		return s.Watch.State(namespace).Refused()
	})
}
