package usage

import (
	"fmt"
	"io"
	"slices"
)

// stream reads a body through one buffer. The buffer grows only when it is full of bytes that have arrived, never because
// a length says that they will.
type stream struct {
	r     io.Reader
	buf   []byte // buf[pos:] has been read from r and not been consumed.
	pos   int
	off   int64 // Offset of buf[pos] in the body.
	limit int64 // Size of the largest body.
	total int64 // What r has given so far.
	err   error // What r has ended with.
}

// minBuffer holds some hundred pods, so that few of them are moved to its front for their second half.
const minBuffer = 64 << 10

func (s *stream) reset(r io.Reader, limit int64) {
	*s = stream{r: r, buf: s.buf[:0], limit: limit}
}

// window returns the next n bytes without consuming them; fewer only where the body ends. They are valid until the next call.
func (s *stream) window(n int) ([]byte, error) {
	for len(s.buf)-s.pos < n {
		if err := s.fill(); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
	}
	return s.buf[s.pos:min(s.pos+n, len(s.buf))], nil
}

// advance consumes n bytes of the window.
func (s *stream) advance(n int) {
	s.pos += n
	s.off += int64(n)
}

// take consumes the next n bytes and returns them. They are valid until the next call.
func (s *stream) take(n int) ([]byte, error) {
	b, err := s.window(n)
	if err != nil {
		return nil, err
	}
	if len(b) < n {
		return nil, io.ErrUnexpectedEOF
	}
	s.advance(n)
	return b, nil
}

// discard consumes the next n bytes.
func (s *stream) discard(n int64) error {
	for {
		k := min(n, int64(len(s.buf)-s.pos))
		s.advance(int(k))
		if n -= k; n == 0 {
			return nil
		}
		if err := s.fill(); err == io.EOF {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
	}
}

// fill reads at least one more byte into the buffer, or returns an error: io.EOF at the end of the body.
func (s *stream) fill() error {
	if s.err != nil {
		return s.err
	}
	if s.pos > 0 {
		s.buf = s.buf[:copy(s.buf, s.buf[s.pos:])]
		s.pos = 0
	}
	if len(s.buf) == cap(s.buf) {
		s.buf = slices.Grow(s.buf, max(minBuffer, len(s.buf)))
	}
	const maxEmptyReads = 100 // As bufio has it.
	for range maxEmptyReads {
		n, err := s.r.Read(s.buf[len(s.buf):cap(s.buf)])
		s.buf = s.buf[:len(s.buf)+n]
		s.total += int64(n)
		s.err = err
		if s.total > s.limit {
			s.err = s.tooLarge()
			return s.err
		}
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	s.err = io.ErrNoProgress
	return s.err
}

func (s *stream) tooLarge() error {
	return fmt.Errorf("the body is larger than the limit of %d bytes", s.limit)
}

// takeItem is take for a size that the body has given.
func (s *stream) takeItem(n int64) ([]byte, error) {
	if n > maxItem {
		return nil, s.tooLong(n)
	}
	return s.take(int(n))
}

func (s *stream) tooLong(n int64) error {
	return fmt.Errorf("at byte %d is an item or value of %d bytes or more, over the limit of %d", s.off, n, maxItem)
}
