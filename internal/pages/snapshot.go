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
	s.Rendered.Add(c, "", source, &label.Usage{Batch: b, Cluster: cluster})
	return s
}

// render renders what the page cadvisor has of the batch, if that was not done yet. It is for one goroutine at a time.
func (s *Snapshot) render(c *page.Compressor) {
	if s.Read != nil && s.Rendered.Page != family.Cadvisor {
		s.Read(func(b *sample.Batch) {
			s.Rendered.Add(c, family.Cadvisor, s.Resource, &label.Usage{Batch: b, Cluster: s.cluster})
		})
	}
}

// isEmpty tells whether nothing is shown.
func (s *Snapshot) isEmpty() bool {
	for _, n := range s.Rendered.Served {
		if n > 0 {
			return false
		}
	}
	return true
}

// AreLost tells whether nothing is left of what was read, and no list can be read.
func AreLost(all []*Snapshot) bool {
	for _, s := range all {
		if s.Failure == nil || !s.isEmpty() {
			return false
		}
	}
	return len(all) > 0
}
