// Package gzpage makes one gzip member (RFC 1952) out of parts that were compressed at different times, so that a page
// whose bulk changes once per refresh and whose tail changes with every scrape is compressed only where it changed.
//
// A part is a run of deflate blocks (RFC 1951) ended by a sync flush, which leaves the stream at a byte boundary with no
// reference back into it from what follows. Parts can therefore be put one after the other behind one gzip header; the
// trailer's CRC-32 of the whole follows from the parts' own CRCs and lengths. It has to be one member: curl prints the
// first member of a gzip file and fails on the rest.
package gzpage

import (
	"encoding/binary"
	"hash/crc32"
	"io"

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
	minChunk   = 4 << 10
	maxChunk   = 128 << 10
)

// Part is compressed text that can stand anywhere in a page. It is immutable; the nil Part is empty.
type Part struct {
	// chunks hold the deflate blocks. They are many small slices, because one that grows would need twice its size.
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

// Compressor compresses texts to Parts, one at a time: Write the text, then take the Part. Its working memory (about
// 0.3 MB) is kept between parts. The zero value is ready to use; it is not for concurrent use.
type Compressor struct {
	deflate *flate.Writer
	buf     []byte // collects the small writes of a text, because the deflate writer and the CRC are slow at those
	part    *Part
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
		free := bufLen - len(c.buf)
		if free > len(text) {
			free = len(text)
		}
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
	c.part = nil
	if last := len(p.chunks) - 1; last >= 0 {
		p.chunks[last] = append([]byte(nil), p.chunks[last]...) // a short part does not keep a whole chunk
	}
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
			c.deflate, _ = flate.NewWriter(chunkWriter{c}, flate.BestSpeed)
		} else {
			c.deflate.Reset(chunkWriter{c})
		}
	}
	c.part.crc = crc32.Update(c.part.crc, crc32.IEEETable, c.buf)
	c.part.size += int64(len(c.buf))
	c.deflate.Write(c.buf)
	c.buf = c.buf[:0]
}

// chunkWriter appends to the chunks of its compressor's current part.
type chunkWriter struct{ c *Compressor }

func (w chunkWriter) Write(b []byte) (int, error) {
	p, n := w.c.part, len(b)
	p.length += int64(n)
	for len(b) > 0 {
		last := len(p.chunks) - 1
		if last < 0 || len(p.chunks[last]) == cap(p.chunks[last]) {
			// The first chunks are small: most parts are.
			p.chunks = append(p.chunks, make([]byte, 0, min(minChunk<<min(len(p.chunks), 16), maxChunk)))
			last++
		}
		free := min(cap(p.chunks[last])-len(p.chunks[last]), len(b))
		p.chunks[last] = append(p.chunks[last], b[:free]...)
		b = b[free:]
	}
	return n, nil
}

// Page is a sequence of parts; nil parts are skipped.
type Page []*Part

// GzipLen is the number of bytes that WriteGzip writes.
func (p Page) GzipLen() int64 {
	n := int64(len(header) + len(final) + trailerLen)
	for _, part := range p {
		n += part.Len()
	}
	return n
}

// TextLen is the number of bytes that WriteText writes.
func (p Page) TextLen() int64 {
	var n int64
	for _, part := range p {
		if part != nil {
			n += part.size
		}
	}
	return n
}

// WriteGzip writes the page as one gzip member. The parts are written as they are; nothing is copied.
func (p Page) WriteGzip(w io.Writer) error {
	if _, err := w.Write(header); err != nil {
		return err
	}
	var crc uint32
	for _, part := range p {
		if part == nil {
			continue
		}
		for _, chunk := range part.chunks {
			if _, err := w.Write(chunk); err != nil {
				return err
			}
		}
		crc = combine(crc, part.crc, part.size)
	}
	end := append(make([]byte, 0, len(final)+trailerLen), final...)
	end = binary.LittleEndian.AppendUint32(end, crc)
	end = binary.LittleEndian.AppendUint32(end, uint32(p.TextLen())) // modulo 2^32, RFC 1952 section 2.3.1
	_, err := w.Write(end)
	return err
}

// WriteText writes the page as plain text, decompressing as it goes, in memory that does not depend on the page's size.
func (p Page) WriteText(w io.Writer) error {
	for _, part := range p {
		if part == nil {
			continue
		}
		text := flate.NewReader(&partReader{chunks: part.chunks})
		if _, err := io.Copy(w, text); err != nil {
			return err
		}
	}
	return nil
}

// partReader reads a part's deflate blocks and, behind them, the last block that a deflate stream needs.
type partReader struct {
	chunks [][]byte
	pos    int // in the first chunk
	ended  bool
}

func (r *partReader) Read(b []byte) (int, error) {
	for len(r.chunks) == 0 || r.pos == len(r.chunks[0]) {
		switch {
		case len(r.chunks) > 0:
			r.chunks, r.pos = r.chunks[1:], 0
		case !r.ended:
			r.chunks, r.pos, r.ended = [][]byte{final}, 0, true
		default:
			return 0, io.EOF
		}
	}
	n := copy(b, r.chunks[0][r.pos:])
	r.pos += n
	return n, nil
}

// ReadByte makes partReader the io.ByteReader that spares flate a buffer of its own.
func (r *partReader) ReadByte() (byte, error) {
	if len(r.chunks) > 0 && r.pos < len(r.chunks[0]) {
		b := r.chunks[0][r.pos]
		r.pos++
		return b, nil
	}
	var b [1]byte
	_, err := r.Read(b[:])
	return b[0], err
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
