package state

import (
	"maps"
	"slices"
	"strings"

	"metrics-server-prom/internal/kept"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/store"
)

// Guess is the owners of ReplicaSets and Jobs as far as their pods tell them, for accounts that may not read these.
//
// A ReplicaSet X-H whose pods have the label pod-template-hash=H is one of Deployment X. That is wrong for ReplicaSets
// that were orphaned or adopted, for names that were cut, and for other makers of ReplicaSets. A Job X-N with the
// minutes N is one of CronJob X, which is wrong for Jobs that people name so.
//
// Entries is for concurrent use, as pushes and scrapes ask for it; Parts and Release are not.
type Guess struct {
	resource   *Resource
	family     uint8
	renderer   *Renderer
	compressor page.Compressor

	leaves []*store.Leaf[sample.Text]
	within []string
	parts  [][]*page.Part // of these leaves in these namespaces
}

// NewGuess returns a guess of the owners of a resource's objects, which are the samples of the family.
func NewGuess(r *Resource, family uint8, renderer *Renderer) *Guess {
	return &Guess{resource: r, family: family, renderer: renderer}
}

// Release gives the memory of the parts back.
func (g *Guess) Release() {
	g.compressor, g.leaves, g.within, g.parts = page.Compressor{}, nil, nil, nil
}

// Parts returns the parts of the guessed owners, by family, as they follow from the pods of these namespaces, "" for
// all. They are made anew where the pods have changed.
func (g *Guess) Parts(pods []*store.Leaf[sample.Text], within []string) [][]*page.Part {
	if g.parts != nil && slices.Equal(g.leaves, pods) && slices.Equal(g.within, within) {
		return g.parts
	}
	g.leaves, g.within, g.parts = pods, within, make([][]*page.Part, len(g.renderer.Names))
	for family, part := range g.renderer.Kept(&g.compressor, g.Entries(pods, within)) {
		if part != nil {
			g.parts[family] = []*page.Part{part}
		}
	}
	return g.parts
}

// Entries returns what Parts renders: the objects whose owners are guessed, in order of namespace and name.
func (g *Guess) Entries(pods []*store.Leaf[sample.Text], within []string) []store.Entry[string] {
	owners := map[store.Key]string{} // the name, "" for none
	var pod kept.Pod
	for _, leaf := range pods {
		for _, e := range leaf.Entries {
			if within[0] != "" && !slices.Contains(within, e.Namespace) {
				continue
			}
			pod.Unpack(e.Value.Shared, e.Value.Own)
			for _, owner := range pod.Owners {
				if owner.Controller && owner.Kind == g.resource.Kind {
					key := store.Key{Namespace: e.Namespace, Name: owner.Name}
					if _, known := owners[key]; !known {
						key.Name = strings.Clone(key.Name)
						_, name := GuessOwner(g.resource.Kind, owner.Name, pod.HasTemplateHash)
						owners[key] = strings.Clone(name)
					}
				}
			}
		}
	}
	entries := make([]store.Entry[string], 0, len(owners))
	for _, key := range slices.SortedFunc(maps.Keys(owners), store.Key.Compare) {
		var all []kept.Owner
		if owner := owners[key]; owner != "" {
			all = []kept.Owner{{Kind: g.resource.Owner, Name: owner, Controller: true}}
		}
		var s Samples
		s.Object(g.resource.labels(key.Namespace, key.Name)...)
		s.Family = g.family
		addOwners(&s, all)
		entries = append(entries, store.Entry[string]{Key: key, Object: &store.Object[string]{Value: s.Pack()}})
	}
	return entries
}

// GuessOwner guesses the owner of an object from its kind and name, see Guess. It returns "" where the object seems to
// have none. The name is a part of the object's.
func GuessOwner(kind, name string, hasTemplateHash bool) (ownerKind, owner string) {
	i := strings.LastIndexByte(name, '-')
	switch {
	case i <= 0:
	case kind == "ReplicaSet" && hasTemplateHash:
		return "Deployment", name[:i]
	case kind == "Job" && isMinutes(name[i+1:]):
		return "CronJob", name[:i]
	}
	return "", ""
}

// isMinutes tells whether s can be the minutes since 1970 that the CronJob controller names its Jobs by: from 2001 to
// 2160 they have eight digits.
func isMinutes(s string) bool {
	return len(s) == 8 && strings.Trim(s, "0123456789") == "" && s[0] != '0'
}
