package family

import (
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/page"
)

// Rendered is the samples of a batch of usage, by family: those of the families of one page and, after another Add, of
// further ones. It is not for concurrent use while anything is added.
type Rendered struct {
	Parts  [][]*page.Part
	Served []int  // how many samples the parts have
	Page   string // that was added last

	table Table
}

// Rendered returns one that has nothing yet.
func (t Table) Rendered() *Rendered {
	return &Rendered{Parts: make([][]*page.Part, len(t)), Served: make([]int, len(t)), table: t}
}

// Add renders the families that a page has of a source's usage.
func (r *Rendered) Add(c *page.Compressor, page, source string, text *label.Usage) {
	r.Page = page
	for i, f := range r.table {
		if f.Page == page && f.Source == source && f.Labels != nil {
			r.Parts[i], r.Served[i] = f.Render(c, text, PartLen)
		}
	}
}
