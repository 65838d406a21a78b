package family

import (
	"slices"
	"sync"

	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/page"
)

// Rendered is the samples of a batch of usage, by family: those of the families of the pages that were added. What a
// page has does not change once it is there.
type Rendered struct {
	Parts  [][]*page.Part
	Served []int // how many samples the parts have

	table Table
	mu    sync.Mutex
	added []string // pages
}

// Rendered returns one that has nothing yet.
func (t Table) Rendered() *Rendered {
	return &Rendered{Parts: make([][]*page.Part, len(t)), Served: make([]int, len(t)), table: t}
}

// Add has the families that a page has of a source's usage be there once it returns. Only the first one renders them,
// of what usage gives. It is for any number of goroutines, as all clusters' page and a single one's have the same.
func (r *Rendered) Add(c *page.Compressor, page, source string, usage func(func(*label.Usage))) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.added, page) {
		usage(func(text *label.Usage) { r.render(c, page, source, text) })
		r.added = append(r.added, page)
	}
}

func (r *Rendered) render(c *page.Compressor, page, source string, text *label.Usage) {
	for i, f := range r.table {
		if f.Page == page && f.Source == source && f.Labels != nil {
			r.Parts[i], r.Served[i] = f.Render(c, text, PartLen)
		}
	}
}
