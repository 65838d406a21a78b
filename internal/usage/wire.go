package usage

import (
	"errors"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

var (
	errOverflow = errors.New("a varint of more than 64 bits")
	errLength   = errors.New("a length goes beyond the message that it is in")
	errEndGroup = errors.New("the end of a group that has not begun")
	errType     = errors.New("a wire type that does not exist")
	errNumber   = errors.New("a field number that is not positive")
)

// field is one field of a message in memory.
type field struct {
	num   int32
	typ   protowire.Type
	value []byte // The content of protowire.BytesType, without its length; all of every other type.
}

// next returns the first field of a message that is not empty, and its size.
func next(b []byte) (f field, n int, err error) {
	// Nearly all fields are strings and messages of less than 128 bytes. These few lines do most of the work.
	if len(b) >= 2 && b[0] < 0x80 && b[0] >= 1<<3 && protowire.Type(b[0]&7) == protowire.BytesType && b[1] < 0x80 {
		if end := 2 + int(b[1]); end <= len(b) {
			return field{int32(b[0] >> 3), protowire.BytesType, b[2:end]}, end, nil
		}
	}
	return nextOfAnyType(b)
}

func nextOfAnyType(b []byte) (f field, n int, err error) {
	tag, n := varint(b)
	if n < 0 {
		return f, 0, varintError(n)
	}
	if f.num, f.typ, err = splitTag(tag); err != nil {
		return f, 0, err
	}
	var size int
	if f.typ == protowire.BytesType {
		f.value, size, err = lengthDelimited(b[n:])
	} else if size, err = skip(b[n:], f.typ); err == nil {
		f.value = b[n : n+size]
	}
	return f, n + size, err
}

// splitTag returns what a tag at the beginning of a field says. The generated code keeps 32 bits of the number.
func splitTag(tag uint64) (num int32, typ protowire.Type, err error) {
	num, typ = int32(tag>>3), protowire.Type(tag&7)
	switch {
	case typ == protowire.EndGroupType:
		return 0, 0, errEndGroup
	case num <= 0:
		return 0, 0, errNumber
	}
	return num, typ, nil
}

// maxVarint is the size of the longest varint.
const maxVarint = 10

// varint returns the varint that b begins with and its size, which is negative for an error, see varintError. In its tenth
// byte the generated code ignores the bits that are beyond 64, where protowire refuses them.
func varint(b []byte) (v uint64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	v, n = protowire.ConsumeVarint(b)
	if n < 0 && len(b) >= maxVarint && b[maxVarint-1] < 0x80 {
		v = 0
		for i, c := range b[:maxVarint] {
			v |= uint64(c&0x7f) << (7 * i)
		}
		return v, maxVarint
	}
	return v, n
}

func varintError(n int) error {
	if err := protowire.ParseError(n); err == io.ErrUnexpectedEOF {
		return err
	}
	return errOverflow
}

// lengthDelimited returns the content that b begins with, after its length, and the size of both.
func lengthDelimited(b []byte) (content []byte, n int, err error) {
	size, n := varint(b)
	if n < 0 {
		return nil, 0, varintError(n)
	}
	if size > uint64(len(b)-n) {
		return nil, 0, errLength
	}
	end := n + int(size)
	return b[n:end], end, nil
}

// skip returns the size of the value that b begins with.
func skip(b []byte, typ protowire.Type) (n int, err error) {
	if typ == protowire.VarintType {
		if _, n = varint(b); n < 0 {
			return 0, varintError(n)
		}
		return n, nil
	}
	s := stream{buf: b, err: io.EOF}
	err = s.skip(typ, int64(len(b)))
	return s.pos, err
}

// The rest are the same steps on a body. end is the offset in it where the message ends that they are in.

// skip consumes a value. The generated code does not compare the numbers at the two ends of a group.
func (s *stream) skip(typ protowire.Type, end int64) error {
	for depth := 0; ; {
		var err error
		switch typ {
		case protowire.VarintType:
			_, err = s.varint(end)
		case protowire.Fixed64Type:
			err = s.skipBytes(8, end)
		case protowire.Fixed32Type:
			err = s.skipBytes(4, end)
		case protowire.BytesType:
			var size int64
			if size, err = s.length(end); err == nil {
				err = s.discard(size)
			}
		case protowire.StartGroupType:
			depth++
		case protowire.EndGroupType:
			if depth--; depth < 0 {
				err = errEndGroup
			}
		default:
			err = errType
		}
		if err != nil || depth == 0 {
			return err
		}
		tag, err := s.varint(end)
		if err != nil {
			return err
		}
		typ = protowire.Type(tag & 7)
	}
}

func (s *stream) skipBytes(n, end int64) error {
	if n > end-s.off {
		return errLength
	}
	return s.discard(n)
}

// tag consumes the beginning of a field.
func (s *stream) tag(end int64) (num int32, typ protowire.Type, err error) {
	tag, err := s.varint(end)
	if err != nil {
		return 0, 0, err
	}
	return splitTag(tag)
}

// length consumes a length, and makes sure that the message has that many bytes left.
func (s *stream) length(end int64) (int64, error) {
	n, err := s.varint(end)
	if err != nil {
		return 0, err
	}
	if n > uint64(end-s.off) {
		return 0, errLength
	}
	return int64(n), nil
}

func (s *stream) varint(end int64) (uint64, error) {
	b, err := s.window(int(min(maxVarint, end-s.off)))
	if err != nil {
		return 0, err
	}
	v, n := varint(b)
	if n < 0 {
		return 0, varintError(n)
	}
	s.advance(n)
	return v, nil
}
