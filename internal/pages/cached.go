package pages

import (
	"io"
	"slices"
	"sync"
	"time"

	"metrics-server-prom/internal/family"
	"metrics-server-prom/internal/page"
)

// Cached is a page as scrapes are answered with it, made anew where it is not current.
type Cached struct {
	Unused *time.Timer // runs out when nobody has asked for the page for long

	name    string          // "" for the page of the telemetry path
	self    func(io.Writer) // writes the exporter's metrics of itself, for that page
	table   family.Table
	release func(name string)

	mu      sync.Mutex // held while the page is made
	last    *page.Page // nil once a snapshot was replaced
	shown   []Shown    // what it shows
	missing string     // what it says of what it does not show
	at      time.Time
}

// SelfAge is how old the exporter's metrics of itself may be. Reading those of the process means some files below /proc
// and a stop of the world.
const SelfAge = time.Second

// MaxUnused is after how long a page is given up that nobody asks for.
const MaxUnused = 10 * time.Minute

// Set is pages by their names.
type Set map[string]*Cached

// NewSet returns the pages of these names. release gives back what the page of a name is made of.
func NewSet(t family.Table, names []string, self func(io.Writer), release func(name string)) Set {
	all := Set{}
	for _, name := range names {
		c := &Cached{name: name, self: self, table: t, release: release}
		c.Unused = time.AfterFunc(MaxUnused, c.Release)
		all[name] = c
	}
	return all
}

// Replaced drops the pages with a snapshot that is replaced or, where a connection ended, all: nothing is kept of it.
func (all Set) Replaced(ended bool) {
	for name, c := range all {
		if ended || name != family.KubeState {
			c.Forget()
		}
	}
}

// Close gives the pages up.
func (all Set) Close() {
	for _, c := range all {
		c.Unused.Stop()
		c.Forget()
	}
}

// Forget drops the page of something that is replaced, so that nobody keeps its memory.
func (p *Cached) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.shown = nil, nil
}

// Release gives back what the page has in memory, and what it is made of, until it is asked for again.
func (p *Cached) Release() {
	p.Forget()
	p.release(p.name)
}

// Page returns the page of what is shown, with missing at its end, which is comments. It is made anew where these have
// changed or, with metrics of the exporter itself, a second has passed.
func (p *Cached) Page(all []Shown, missing string) *page.Page {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != nil && (p.name != "" || time.Since(p.at) < SelfAge) && slices.EqualFunc(p.shown, all, Shown.equal) &&
		p.missing == missing {
		return p.last
	}
	p.last = nil // so that it is not kept while its successor is made
	c := page.Borrow()
	defer c.Return()
	if p.name == "" {
		p.self(c)
	} else {
		for _, of := range all {
			for _, s := range of.Snapshots {
				if s.Read != nil {
					s.render(c, p.name, s.Read)
				}
			}
		}
	}
	io.WriteString(c, missing)
	p.last = Assemble(p.table, p.name, all, c.Part())
	p.shown, p.missing, p.at = all, missing, time.Now()
	return p.last
}

// Assemble makes the page of that name: of each family that has samples the header and its parts, those of snapshots
// and of objects, which are by family, and then last, which is no family's.
func Assemble(t family.Table, name string, all []Shown, last *page.Part) *page.Page {
	var parts []*page.Part
	var header *page.Part // the last
	add := func(f *family.Family, more []*page.Part) {
		if len(more) > 0 && header != f.Header {
			header = f.Header
			parts = append(parts, header)
		}
		parts = append(parts, more...)
	}
	for i, f := range t {
		if f.Page != name {
			continue
		}
		for _, of := range all {
			for _, s := range of.Snapshots {
				if s.Rendered.Served[i] > 0 {
					add(f, s.Rendered.Parts[i])
				}
			}
			for _, object := range of.Objects {
				add(f, object[i])
			}
		}
	}
	return page.New(append(parts, last)...)
}
