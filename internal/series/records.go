package series

import (
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/store"
)

// record is what a receiver has of one container or node, in 16 bytes, as a large cluster has 300,000 of them.
type record struct {
	pod  *store.Object[sample.Text] // whose labels the series have
	name uint32                     // in names; the upper bits are the rows of which there is a series that goes on
	at   uint32                     // Unix seconds of the last that was sent, a reading or a marker
}

const (
	maxRows  = 8
	nameBits = 32 - maxRows
)

func (r record) index() uint32    { return r.name & (1<<nameBits - 1) }
func (r record) has(row int) bool { return r.name>>(nameBits+row)&1 != 0 }
func (r record) ended() bool      { return r.name>>nameBits == 0 }

func (r *record) set(row int, has bool) {
	if r.name &^= 1 << (nameBits + row); has {
		r.name |= 1 << (nameBits + row)
	}
}

// records are blocks of records in the order of namespace and name. A push takes one after the other out of what was
// there before, and puts them into what is there after it, so that not all of them are there twice.
type records [][]record

// blockLen is how many records a block has at most.
const blockLen = 4096

// position is that of a record, or behind the last one.
type position struct{ block, index int }

func (r records) begin() position { return position{} }

// at returns the record at a position, and the position behind it; nil where there is none.
func (r records) at(p position) (*record, position) {
	if p.block == len(r) {
		return nil, p
	}
	found := &r[p.block][p.index]
	if p.index++; p.index == len(r[p.block]) {
		p = position{p.block + 1, 0}
	}
	return found, p
}

// drop gives the blocks before a position back.
func (r records) drop(p position) { clear(r[:p.block]) }

// from returns what begins at a position.
func (r records) from(p position) records {
	if r = r[p.block:]; p.index > 0 {
		r[0] = r[0][p.index:]
	}
	return r
}

func (r *records) append(more []record) {
	for len(more) > 0 {
		last := len(*r) - 1
		if last < 0 || len((*r)[last]) == blockLen {
			*r = append(*r, make([]record, 0, blockLen))
			last++
		}
		n := min(len(more), blockLen-len((*r)[last]))
		(*r)[last] = append((*r)[last], more[:n]...)
		more = more[n:]
	}
}

// names are the names of containers or nodes, by numbers.
type names struct {
	all   []string
	index map[string]uint32
}

// find returns the number of a name.
func (n *names) find(name string) uint32 {
	i, known := n.index[name]
	if !known {
		if n.index == nil {
			n.index = map[string]uint32{}
		}
		i = uint32(len(n.all))
		n.all = append(n.all, name)
		n.index[name] = i
	}
	return i
}

// forget drops the names of no records where they are many.
func (n *names) forget(all records) {
	count := 0
	for _, block := range all {
		count += len(block)
	}
	if len(n.all) < 1000 || len(n.all) < 2*count {
		return
	}
	var left names
	for _, block := range all {
		for i := range block {
			block[i].name = block[i].name&^(1<<nameBits-1) | left.find(n.all[block[i].index()])
		}
	}
	*n = left
}
