// Package gzpage makes one gzip member (RFC 1952) out of parts that were compressed at different times, so that a page
// whose bulk changes once per refresh and whose tail changes with every scrape is compressed only where it changed.
//
// A part is a run of deflate blocks (RFC 1951) ended by a sync flush, which leaves the stream at a byte boundary with no
// reference back into it from what follows. Parts can therefore be put one after the other behind one gzip header; the
// trailer's CRC-32 of the whole follows from the parts' own CRCs and lengths. It has to be one member: curl prints the
// first member of a gzip file and fails on the rest.
//
// A long part is held in an anonymous file in memory (memfd_create(2)), from which the kernel sends it to a connection
// without copying it through this process, as it does for a static file server.
package gzpage

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/klauspost/compress/flate"
)

var (
	// header: magic, deflate, no flags, no modification time, extra flags "fastest", unknown operating system.
	header = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255}
	// final is an empty last deflate block of fixed Huffman codes.
	final = []byte{0x03, 0x00}
)

const (
	trailerLen = 8
	// chunkLen is how much of a part is collected before it goes to the part's file: a huge page. What is shorter is written
	// to a connection from this process' memory by one call, which costs a third less than to have the kernel send it.
	chunkLen = 2 << 20
	// shortLen is up to which length a whole page is kept in one piece, to be written by one call.
	shortLen = 64 << 10
)

// ErrClosed says that a page has a part that was closed. Nothing of the page has been written then.
var ErrClosed = errors.New("the page is of a snapshot that was replaced")

// Part is compressed text that can stand anywhere in a page. It never changes; the nil Part is empty.
//
// Its deflate blocks are the first inFile bytes of a file in memory and, behind them, the chunks: all of a short part, and
// all of any part where there is no such file.
type Part struct {
	mu     sync.Mutex
	file   *os.File // nil for none, and once closed
	closed bool

	inFile int64
	chunks [][]byte
	length int64  // bytes of the deflate blocks
	crc    uint32 // of the text
	size   int64  // bytes of the text
}

// Len is the number of compressed bytes.
func (p *Part) Len() int64 {
	if p == nil {
		return 0
	}
	return p.length
}

// Close gives the part's memory back as soon as no page with it is being written any more; no further one can be. Without
// it the garbage collector does that, some time later.
func (p *Part) Close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.file != nil {
		p.file.Close() // frees memory, which does not fail
		p.file = nil
	}
}

// open returns the deflate blocks in one or several readers that outlive Close, to be read to their ends one after the
// other, and what is to be closed after that.
func (p *Part) open() (blocks []io.Reader, file io.Closer, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrClosed
	}
	if p.file != nil {
		var r io.Reader
		if r, file, err = reopen(p.file, p.inFile); err != nil {
			return nil, nil, err
		}
		// The limited reader over a file is what net/http hands to the kernel (sendfile).
		blocks = append(blocks, &io.LimitedReader{R: r, N: p.inFile})
	}
	for _, chunk := range p.chunks {
		blocks = append(blocks, bytes.NewReader(chunk))
	}
	return blocks, file, nil
}

// Compressor compresses texts to Parts, one at a time: Write the text, then take the Part. Its working memory (0.4 MB and, of
// a part's compressed text, up to 2 MiB) is kept between parts. The zero value is ready to use; it is not for concurrent use.
type Compressor struct {
	deflate *flate.Writer
	buf     []byte // collects the small writes of a text, because the deflate writer and the CRC are slow at those
	out     []byte // collects the deflate blocks
	part    *Part
	failed  bool // the part's file takes no more
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
	if p.file != nil {
		c.spill()
		collapse(p.file, p.inFile)
	}
	if len(c.out) > 0 {
		p.chunks = append(p.chunks, slices.Clone(c.out))
	}
	c.part, c.out, c.failed = nil, c.out[:0], false
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
			c.deflate, _ = flate.NewWriter(blocks{c}, flate.BestSpeed)
		} else {
			c.deflate.Reset(blocks{c})
		}
	}
	c.part.crc = crc32.Update(c.part.crc, crc32.IEEETable, c.buf)
	c.part.size += int64(len(c.buf))
	c.deflate.Write(c.buf)
	c.buf = c.buf[:0]
}

// blocks takes the deflate blocks of its compressor's current part.
type blocks struct{ c *Compressor }

func (w blocks) Write(b []byte) (int, error) {
	n := len(b)
	w.c.part.length += int64(n)
	for len(b) > 0 {
		free := min(chunkLen-len(w.c.out), len(b))
		w.c.out = append(w.c.out, b[:free]...)
		b = b[free:]
		if len(w.c.out) == chunkLen {
			w.c.spill()
		}
	}
	return n, nil
}

// spill moves what is collected of the deflate blocks to the part's file or, where that cannot be, to its chunks.
func (c *Compressor) spill() {
	p := c.part
	if p.file == nil && !c.failed {
		var err error
		if p.file, err = newFile(); err != nil {
			c.failed = true
		}
	}
	if !c.failed {
		n, err := p.file.Write(c.out)
		p.inFile += int64(n)
		c.out = c.out[:copy(c.out, c.out[n:])]
		c.failed = err != nil
	}
	if c.failed && len(c.out) > 0 {
		p.chunks = append(p.chunks, slices.Clone(c.out))
		c.out = c.out[:0]
	}
}

// Page is a sequence of parts behind one gzip header. It never changes and is for any number of readers at once.
type Page struct {
	parts  []*Part
	length int64
	size   int64
	end    []byte // the last block and the trailer
	short  []byte // the whole page where it is short
}

// New returns a page of these parts; nil parts are skipped.
func New(parts ...*Part) *Page {
	p := &Page{length: int64(len(header) + len(final) + trailerLen)}
	var crc uint32
	for _, part := range parts {
		if part == nil {
			continue
		}
		p.parts = append(p.parts, part)
		p.length += part.length
		p.size += part.size
		crc = combine(crc, part.crc, part.size)
	}
	p.end = binary.LittleEndian.AppendUint32(slices.Clone(final), crc)
	p.end = binary.LittleEndian.AppendUint32(p.end, uint32(p.size)) // modulo 2^32, RFC 1952 section 2.3.1
	if p.length <= shortLen {
		short := bytes.NewBuffer(make([]byte, 0, p.length))
		if p.WriteGzip(short) == nil {
			p.short = short.Bytes()
		}
	}
	return p
}

// GzipLen is the number of bytes that WriteGzip writes.
func (p *Page) GzipLen() int64 { return p.length }

// TextLen is the number of bytes that WriteText writes.
func (p *Page) TextLen() int64 { return p.size }

// WriteGzip writes the page as one gzip member. The parts are written as they are; an http.ResponseWriter over a plain
// connection has the kernel send the large ones. It fails with ErrClosed before anything is written, or as w does.
func (p *Page) WriteGzip(w io.Writer) error {
	if p.short != nil {
		_, err := w.Write(p.short)
		return err
	}
	return p.each(
		func() error { _, err := w.Write(header); return err },
		func(blocks []io.Reader) error {
			for _, r := range blocks {
				if _, err := io.Copy(w, r); err != nil {
					return err
				}
			}
			return nil
		},
		func() error { _, err := w.Write(p.end); return err })
}

// WriteText writes the page as plain text, decompressing as it goes, in memory that does not depend on the page's size. It
// fails with ErrClosed before anything is written, or as w does.
func (p *Page) WriteText(w io.Writer) error {
	nothing := func() error { return nil }
	return p.each(nothing, func(blocks []io.Reader) error {
		blocks = append(blocks, bytes.NewReader(final)) // the last block, which a deflate stream needs
		_, err := io.Copy(w, flate.NewReader(bufio.NewReader(io.MultiReader(blocks...))))
		return err
	}, nothing)
}

// each opens all parts, and only then begins.
func (p *Page) each(begin func() error, part func(blocks []io.Reader) error, end func() error) error {
	opened := make([][]io.Reader, len(p.parts))
	for i, part := range p.parts {
		blocks, file, err := part.open()
		if err != nil {
			return err
		}
		if file != nil {
			defer file.Close() // nothing was written to it
		}
		opened[i] = blocks
	}
	if err := begin(); err != nil {
		return err
	}
	for _, blocks := range opened {
		if err := part(blocks); err != nil {
			return err
		}
	}
	return end()
}

// combine returns the CRC-32 of a‖b from those of a and b and b's length, as zlib's crc32_combine does: appending n zero
// bytes to a multiplies its CRC polynomial by x^(8n).
func combine(a, b uint32, lenB int64) uint32 {
	shift := uint32(1) << 31 // the polynomial 1; bit 31 is x^0 in the reflected form
	for k := 3; lenB > 0; k++ {
		if lenB&1 != 0 {
			shift = multiply(powers[k&31], shift)
		}
		lenB >>= 1
	}
	return multiply(shift, a) ^ b
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
