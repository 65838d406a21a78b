// Package pages makes the pages of metrics out of what is known of one or several clusters, and keeps them for as long
// as they are current.
package pages

import (
	"metrics-server-prom/internal/family"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/usage"
)

// Snapshot is what a scrape sees of a list of usage. It never changes; each attempt to refresh publishes a new one.
type Snapshot struct {
	usage.Shown
	Rendered *family.Rendered          // for the telemetry path's page, and for another once it was asked for
	Read     func(func(*sample.Batch)) // gives the batch, for pages that are rendered when they are asked for

	cluster string // the text of its label
}

// NewSnapshot renders a batch of the source. cluster is the text of the cluster's label, see label.Cluster.
func NewSnapshot(t family.Table, cluster, source string, b *sample.Batch) *Snapshot {
	s := &Snapshot{Shown: usage.Shown{Resource: source, Unknown: b.Unknown, Oldest: b.Oldest}, Rendered: t.Rendered(),
		cluster: cluster}
	c := page.Borrow()
	defer c.Return()
	s.render(c, "", func(f func(*sample.Batch)) { f(b) })
	return s
}

// render renders what a page has of the batch that read gives, if that was not done yet.
func (s *Snapshot) render(c *page.Compressor, page string, read func(func(*sample.Batch))) {
	s.Rendered.Add(c, page, s.Resource, func(f func(*label.Usage)) {
		read(func(b *sample.Batch) { f(&label.Usage{Batch: b, Cluster: s.cluster}) })
	})
}

// AreLost tells whether nothing is left of what was read, and no list can be read.
func AreLost(all []*Snapshot) bool {
	for _, s := range all {
		if s.Failure == nil || s.Oldest != 0 {
			return false
		}
	}
	return len(all) > 0
}
