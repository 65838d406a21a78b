// Package wire reads what Kubernetes' API servers send: objects and lists of them, and the events of watches, in
// protobuf or JSON, as streams. One item at a time is in memory, and of that only what the caller reads is turned into
// anything.
//
// Protobuf is read with the meaning that the generated code of Kubernetes' types (gogo/protobuf) gives it, also where
// other decoders refuse; JSON with that of apimachinery's decoder, whose keys are case-sensitive.
package wire

import (
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

var (
	errOverflow = errors.New("a varint of more than 64 bits")
	errLength   = errors.New("a length goes beyond the message that it is in")
	errEndGroup = errors.New("the end of a group that has not begun")
	errType     = errors.New("a wire type that does not exist")
	errNumber   = errors.New("a field number that is not positive")
)

// Message is a cursor over the fields of a message in memory, in the order in which they were sent:
//
//	m := wire.NewMessage(b)
//	for m.Next() {
//		switch m.Num {
//		case 6:
//			ip = m.Bytes()
//		}
//	}
//	return m.Err("PodStatus")
//
// Fields that are not asked for are stepped over.
type Message struct {
	Num int32 // The number of the current field.

	typ   protowire.Type
	entry bool   // It is an entry of a map, see Entry.
	b     []byte // The message and, for an entry, what follows it in the message that it is in.
	own   int    // How many bytes of b are the message's own; none after an error.
	start int    // Where the value of the current field begins, behind its tag and its length.
	at    int    // Where the next field begins.
	err   error
	named bool // err says in which message it is.
}

// NewMessage returns a cursor before the first field of b.
func NewMessage(b []byte) Message { return Message{b: b, own: len(b)} }

// Next goes on to the next field. It is false at the end of the message and after an error.
func (m *Message) Next() bool {
	// Nearly all fields are strings and messages of less than 128 bytes. These few lines do most of the work.
	b, at := m.b, m.at
	if at+2 <= m.own {
		tag, size := b[at], int(b[at+1])
		if end := at + 2 + size; tag&0x87 == byte(protowire.BytesType) && tag>>3 > 0 && size < 0x80 && end <= m.own {
			m.Num, m.typ, m.start, m.at = int32(tag>>3), protowire.BytesType, at+2, end
			return true
		}
	}
	return at < m.own && m.nextOfAnyType()
}

func (m *Message) nextOfAnyType() bool {
	b := m.b[m.at:]
	tag, head, err := varint(b)
	m.Num, m.typ = int32(tag>>3), protowire.Type(tag&7) // The generated code keeps 32 bits of the number.
	lenient := m.entry && (m.Num == 1 || m.Num == 2)
	if lenient {
		m.typ = protowire.BytesType
	} else if err == nil && !m.entry && m.Num <= 0 {
		err = errNumber
	}
	var prefix, n int
	if err == nil {
		prefix, n, err = valueSize(b[head:], m.typ)
	}
	m.start, m.at = m.at+head+prefix, m.at+head+n
	if err == nil && !lenient && m.at > m.own {
		err = errLength
	}
	if err != nil {
		m.err, m.own = err, 0
	}
	return err == nil
}

// Bytes returns the current field, a string or message. It aliases the message. A field of another type is an error.
func (m *Message) Bytes() []byte {
	if m.typ != protowire.BytesType {
		return m.wrongType()
	}
	return m.b[m.start:m.at]
}

// Varint returns the current field, a number. A field of another type is an error.
func (m *Message) Varint() uint64 {
	if m.typ != protowire.VarintType {
		m.wrongType()
		return 0
	}
	v, _, _ := varint(m.b[m.start:])
	return v
}

// wrongType is not a part of its callers, so that these are inlined.
//
//go:noinline
func (m *Message) wrongType() []byte {
	if m.err == nil {
		m.err, m.own = errWireType(m.Num, m.typ), 0
	}
	return nil
}

// Entry returns a cursor over the current field, an entry of a map: its key is field 1 and its value is field 2. The
// generated code holds both only to the end of the message that the entry is in, and does not look at their wire types.
func (m *Message) Entry() Message {
	own := len(m.Bytes())
	return Message{entry: true, b: m.b[m.start:], own: own}
}

// Check ends the message with the error of a message in it, unless that is nil or there was an earlier one.
func (m *Message) Check(err error) {
	if err != nil && m.err == nil {
		m.err, m.named, m.own = err, true, 0
	}
}

// Err returns what ended the message before its end. name is what the error calls the message.
func (m *Message) Err(name string) error {
	if m.err != nil {
		m.wrap(name)
	}
	return m.err
}

// wrap is not a part of its caller for the same reason.
func (m *Message) wrap(name string) {
	if !m.named {
		m.err, m.named = fmt.Errorf("%s: %w", name, m.err), true
	}
}

func errWireType(num int32, typ protowire.Type) error {
	return fmt.Errorf("field %d has wire type %d", num, typ)
}

// Text is a string of a message: its field number, and where it goes.
type Text struct {
	Num  int32
	Into *string
}

// Texts reads some strings of a message.
func Texts(b []byte, name string, texts ...Text) error {
	m := NewMessage(b)
	for m.Next() {
		for _, t := range texts {
			if t.Num == m.Num {
				*t.Into = string(m.Bytes())
			}
		}
	}
	return m.Err(name)
}

// Time reads a Time{seconds=1 nanos=2}: none if it is empty, else whole seconds, whatever its nanos say (apimachinery's
// meta/v1/time_proto.go tells why). A hostile server can send any second that fits an int64, so UnixNano may overflow.
func Time(b []byte) (time.Time, error) {
	if len(b) == 0 {
		return time.Time{}, nil
	}
	var seconds int64
	m := NewMessage(b)
	for m.Next() {
		switch m.Num {
		case 1:
			seconds = int64(m.Varint())
		case 2:
			m.Varint()
		}
	}
	return time.Unix(seconds, 0), m.Err("Time")
}

// valueSize returns the size of the value that b begins with, and how much of it is a length before the content.
func valueSize(b []byte, typ protowire.Type) (prefix, n int, err error) {
	for depth := 0; ; {
		p, size, err := contentSize(b[n:], typ)
		if err == nil && size > uint64(len(b)-n-p) {
			err = errLength
		}
		if err == nil {
			depth, err = nest(depth, typ)
		}
		if err != nil {
			return 0, 0, err
		}
		if n += p + int(size); depth == 0 {
			return p, n, nil
		}
		tag, head, err := varint(b[n:])
		if err != nil {
			return 0, 0, err
		}
		n += head
		typ = protowire.Type(tag & 7)
	}
}

// contentSize returns the sizes of the length and of the content that a value of the type begins with. b may end within
// the content. A group has none: its fields follow.
func contentSize(b []byte, typ protowire.Type) (prefix int, size uint64, err error) {
	switch typ {
	case protowire.VarintType:
		_, n, err := varint(b)
		return 0, uint64(n), err
	case protowire.BytesType:
		size, prefix, err = varint(b)
		return prefix, size, err
	case protowire.Fixed64Type:
		return 0, 8, nil
	case protowire.Fixed32Type:
		return 0, 4, nil
	case protowire.StartGroupType, protowire.EndGroupType:
		return 0, 0, nil
	}
	return 0, 0, errType
}

// nest returns how many groups are open behind a tag. The generated code does not compare the numbers at their two
// ends.
func nest(depth int, typ protowire.Type) (int, error) {
	switch typ {
	case protowire.StartGroupType:
		depth++
	case protowire.EndGroupType:
		if depth--; depth < 0 {
			return 0, errEndGroup
		}
	}
	return depth, nil
}

// maxVarint is the size of the longest varint.
const maxVarint = 10

// varint returns the varint that b begins with and its size. In its tenth byte the generated code ignores the bits that
// are beyond 64, where protowire refuses them.
func varint(b []byte) (v uint64, n int, err error) {
	for n < len(b) && n < maxVarint {
		c := b[n]
		v |= uint64(c&0x7f) << (7 * n)
		if n++; c < 0x80 {
			return v, n, nil
		}
	}
	if n == maxVarint {
		return 0, 0, errOverflow
	}
	return 0, 0, io.ErrUnexpectedEOF
}
