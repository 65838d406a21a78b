// Package page makes one gzip member (RFC 1952) out of parts that were compressed at different times, so that only
// what has changed is rendered and compressed anew.
//
// A part is a run of deflate blocks (RFC 1951) ended by a sync flush, which leaves the stream at a byte boundary with
// no reference back into it from what follows. Parts can therefore be put one after the other behind one gzip header;
// the trailer's CRC-32 of the whole follows from the parts' own CRCs and lengths. It has to be one member: curl prints
// the first member of a gzip file and fails on the rest.
package page

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
)

var (
	// header: magic, deflate, no flags, no modification time, extra flags "fastest", unknown operating system.
	header = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255}
	// final is an empty last deflate block of fixed Huffman codes.
	final = []byte{0x03, 0x00}
)

// Part is a run of samples, or a header, compressed: it can stand anywhere in any number of pages, which may be made at
// the same time. What it holds never changes.
type Part struct {
	blocks []byte // deflate blocks
	crc    uint32 // of the text
	power  uint32 // of size; computed once, as many pages may be made of the part
	size   int64  // bytes of the text
}

// Len is the number of compressed bytes.
func (p *Part) Len() int { return len(p.blocks) }

// Compressor compresses texts to Parts, one at a time: Write the text, then take the Part. Its working memory (0.8 MB,
// and up to twice the longest part) is kept between parts. The zero value is ready to use; it is not for concurrent
// use.
type Compressor struct {
	deflate *flate.Writer
	buf     []byte       // collects the small writes of a text, because the deflate writer and the CRC are slow at those
	part    *Part        // nil until there is text for it
	out     bytes.Buffer // the part's deflate blocks
}

// compressors are left to the garbage collector while nobody uses them, and no more are used at once than there are
// cores: more would take memory, and no less time.
var (
	compressors = sync.Pool{New: func() any { return new(Compressor) }}
	limit       = make(chan struct{}, runtime.GOMAXPROCS(0))
)

// Borrow returns a compressor, when there is one, for something that nothing is waited for in. All share a few.
func Borrow() *Compressor {
	limit <- struct{}{}
	return compressors.Get().(*Compressor)
}

// Return gives a borrowed compressor back. All text written has become Parts.
func (c *Compressor) Return() {
	compressors.Put(c)
	<-limit
}

// bufLen is how much text is handed to the deflate writer at once.
const bufLen = 32 << 10

// Write appends text to the current part. It never fails.
func (c *Compressor) Write(text []byte) (int, error) {
	if c.buf == nil {
		c.buf = make([]byte, 0, bufLen)
	}
	n := len(text)
	for len(text) > 0 {
		free := min(bufLen-len(c.buf), len(text))
		c.buf = append(c.buf, text[:free]...)
		text = text[free:]
		if len(c.buf) == bufLen {
			c.drain()
		}
	}
	return n, nil
}

// Part ends the text written since the last call and returns it compressed; nil where nothing was written.
func (c *Compressor) Part() *Part {
	c.drain()
	p := c.part
	if p == nil {
		return nil
	}
	c.deflate.Flush()
	p.blocks, p.power = bytes.Clone(c.out.Bytes()), power(p.size)
	c.out.Reset()
	c.part = nil
	return p
}

// drain compresses what is buffered. The writers below it are in memory, so that nothing here can fail.
func (c *Compressor) drain() {
	if len(c.buf) == 0 {
		return
	}
	if c.part == nil {
		c.part = &Part{}
		if c.deflate == nil {
			c.deflate, _ = flate.NewWriter(&c.out, flate.BestSpeed)
		} else {
			c.deflate.Reset(&c.out)
		}
	}
	c.part.crc = crc32.Update(c.part.crc, crc32.IEEETable, c.buf)
	c.part.size += int64(len(c.buf))
	c.deflate.Write(c.buf)
	c.buf = c.buf[:0]
}

const (
	// writeLen is from which length on a piece of a page is written by itself; shorter ones are joined before.
	writeLen = 64 << 10
	// joinLen is up to which length a page joins its parts at once, and not each time it is written (BenchmarkServe).
	joinLen = 8 << 20
	// shortLen is from which length on a part is worth not being in memory twice.
	shortLen = 1 << 10
)

// Page is a sequence of parts as one gzip member. It never changes and is for any number of readers at once.
type Page struct {
	pieces [][]byte // the member
	length int64
	size   int64
}

// making is held while a page is made, as that looks at parts, and moves them, which other pages may have, too.
var making sync.Mutex

// New returns a page of these parts; nil parts are skipped. Where the page is short enough, its bytes and those of its
// longer parts become the same memory.
func New(parts ...*Part) *Page {
	making.Lock()
	defer making.Unlock()
	p := &Page{pieces: make([][]byte, 0, len(parts)+2)}
	p.add(header)
	var crc uint32
	for _, part := range parts {
		if part != nil {
			p.add(part.blocks)
			p.size += part.size
			crc = combine(crc, part.crc, part.power)
		}
	}
	trailer := binary.LittleEndian.AppendUint32(slices.Clone(final), crc)
	p.add(binary.LittleEndian.AppendUint32(trailer, uint32(p.size))) // modulo 2^32, RFC 1952 section 2.3.1
	if p.length <= joinLen {
		p.join(parts)
	}
	return p
}

// join makes one piece of all, of which the parts are parts from then on, so that they do not take memory twice. One
// that is short, such as a header, may be there for longer than the page: it is left where it is.
func (p *Page) join(parts []*Part) {
	p.pieces = [][]byte{slices.Concat(p.pieces...)}
	rest := p.pieces[0][len(header):]
	for _, part := range parts {
		if part != nil {
			n := len(part.blocks)
			if n >= shortLen {
				part.blocks = rest[:n:n]
			}
			rest = rest[n:]
		}
	}
}

func (p *Page) add(piece []byte) {
	p.pieces = append(p.pieces, piece)
	p.length += int64(len(piece))
}

// GzipLen is the number of bytes that WriteGzip writes.
func (p *Page) GzipLen() int64 { return p.length }

// TextLen is the number of bytes that WriteText writes.
func (p *Page) TextLen() int64 { return p.size }

// buffers join short pieces of a page that is written.
var buffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, writeLen) }}

// WriteGzip writes the page as one gzip member. It fails as w does.
func (p *Page) WriteGzip(w io.Writer) error {
	b := buffers.Get().(*bufio.Writer)
	defer buffers.Put(b)
	b.Reset(w)
	defer b.Reset(nil)
	for _, piece := range p.pieces {
		if _, err := b.Write(piece); err != nil {
			return err
		}
	}
	return b.Flush()
}

// WriteText writes the page as plain text, decompressing as it goes, in memory that does not depend on the page's
// size. It fails as w does.
func (p *Page) WriteText(w io.Writer) error {
	pieces := net.Buffers(slices.Clone(p.pieces))
	r, err := gzip.NewReader(bufio.NewReader(&pieces))
	if err != nil {
		return err
	}
	_, err = r.WriteTo(w)
	return err
}

// combine returns the CRC-32 of a‖b from those of a and b and the power of b's length, as zlib's crc32_combine does:
// appending n zero bytes to a multiplies its CRC polynomial by x^(8n).
func combine(a, b, powerOfB uint32) uint32 { return multiply(powerOfB, a) ^ b }

// power is x^(8n) modulo the CRC's polynomial, for combine.
func power(n int64) uint32 {
	product := uint32(1) << 31 // the polynomial 1; bit 31 is x^0 in the reflected form
	for k := 3; n > 0; k++ {
		if n&1 != 0 {
			product = multiply(powers[k&31], product)
		}
		n >>= 1
	}
	return product
}

// powers[k] is x^(2^k) modulo the CRC's polynomial. x^(2^32) is x^1 again, as the polynomial has order 2^32-1.
var powers = func() (t [32]uint32) {
	t[0] = 1 << 30
	for k := 1; k < len(t); k++ {
		t[k] = multiply(t[k-1], t[k-1])
	}
	return t
}()

// multiply multiplies two polynomials modulo the CRC's, all in reflected form.
func multiply(a, b uint32) uint32 {
	var product uint32
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		carry := b & 1
		b >>= 1
		if carry != 0 {
			b ^= crc32.IEEE
		}
	}
	return product
}
