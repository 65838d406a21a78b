// Package wire reads what Kubernetes' API servers send: objects and lists of them, and the events of watches, in
// protobuf or JSON, as streams. One item at a time is in memory, and of that only what the caller asks for is decoded.
//
// What is accepted means what the generated code of Kubernetes' types (protobuf) and apimachinery's decoder (JSON, with
// case-sensitive keys) take it for. Protobuf that protowire refuses is an error, even if the generated code reads it.
package wire

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Message is a cursor over the fields of a message in memory, in the order in which they were sent:
//
//	m := wire.NewMessage(b, "PodStatus")
//	for m.Next() {
//		switch m.Num {
//		case 6:
//			ip = m.Bytes()
//		}
//	}
//	return m.Err()
type Message struct {
	Num protowire.Number // That of the current field.

	typ    protowire.Type
	value  []byte // That of the current field of protowire.BytesType.
	number uint64 // That of the current field of protowire.VarintType.
	rest   []byte // The fields behind the current one; none after an error.
	skip   uint16 // Numbers, as bits, whose fields are stepped over as far as they are short.
	name   string
	err    error
}

// NewMessage returns a cursor before the first field of b. name is what errors call the message. It is a pointer
// because processors stall where a struct is copied whose fields have just been written, for as long as two fields
// take to read.
func NewMessage(b []byte, name string) *Message { return &Message{rest: b, name: name} }

// Next goes on to the next field. It is false at the end of the message and after an error.
func (m *Message) Next() bool { return len(m.rest) > 0 && m.next() }

func (m *Message) next() bool {
	b := m.rest
	for end := short(b); end > 0; end = short(b) {
		num, value := b[0]>>3, b[2:end]
		if b = b[end:]; m.skip>>num&1 == 0 {
			m.Num, m.typ, m.value, m.rest = protowire.Number(num), protowire.BytesType, value, b
			return true
		}
	}
	if m.rest = b; len(b) == 0 {
		return false
	}
	num, typ, n := protowire.ConsumeTag(b)
	if n >= 0 {
		m.Num, m.typ, b = num, typ, b[n:]
		switch typ {
		case protowire.BytesType:
			m.value, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			m.number, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
	}
	if n < 0 {
		m.Check(fmt.Errorf("%s: %w", m.name, protowire.ParseError(n)))
		return false
	}
	m.rest = b[n:]
	return true
}

// short returns where the first field of b ends if it is a string or message of less than 128 bytes, with a number up
// to 15; else 0. Nearly all fields are: what is done with them here takes half the time of all decoding.
func short(b []byte) (end int) {
	if len(b) >= 2 && b[0]&0x87 == byte(protowire.BytesType) && b[0] > 7 && int(b[1]) <= min(len(b)-2, 127) {
		end = 2 + int(b[1])
	}
	return end
}

// Bytes returns the current field, a string or message. It aliases the message. A field of another type is an error.
func (m *Message) Bytes() []byte {
	if m.typ != protowire.BytesType {
		m.wrongType()
		return nil
	}
	return m.value
}

// Int returns the current field, a number; a bool is 0 or not. A field of another type is an error.
func (m *Message) Int() int64 {
	if m.typ != protowire.VarintType {
		m.wrongType()
		return 0
	}
	return int64(m.number)
}

// Entry returns key and value of the current field, an entry of a map of strings or messages.
func (m *Message) Entry() (key, value []byte) {
	b := m.Bytes()
	if end := short(b); end > 0 && b[0] == 1<<3|2 { // the usual one
		if rest := b[end:]; len(rest) > 0 && short(rest) == len(rest) && rest[0] == 2<<3|2 {
			return b[2:end], rest[2:]
		}
	}
	e := NewMessage(b, "an entry")
	for e.Next() {
		switch e.Num {
		case 1:
			key = e.Bytes()
		case 2:
			value = e.Bytes()
		}
	}
	m.Check(e.Err())
	return key, value
}

// Quantity returns the current field, an entry of a map of names to Quantity{string=1}.
func (m *Message) Quantity() (name, quantity []byte) {
	name, value := m.Entry()
	q := NewMessage(value, "Quantity")
	for q.Next() {
		if q.Num == 1 {
			quantity = q.Bytes()
		}
	}
	m.Check(q.Err())
	return name, quantity
}

func (m *Message) wrongType() { m.Check(errWireType(m.name, m.Num, m.typ)) }

// Check ends the message with an error of its caller's, unless that is nil or there was an earlier one.
func (m *Message) Check(err error) {
	if err != nil && m.err == nil {
		m.err, m.rest = err, nil
	}
}

// Err returns what ended the message before its end.
func (m *Message) Err() error { return m.err }

func errWireType(message string, num protowire.Number, typ protowire.Type) error {
	return fmt.Errorf("%s: field %d has wire type %d", message, num, typ)
}

// Read reads the strings or messages of a message whose numbers are first and those that follow, each to where into
// says. Where b has none of a number, what is there stays. A []byte aliases the message.
func Read[T string | []byte](b []byte, name string, first protowire.Number, into ...*T) error {
	m := NewMessage(b, name)
	m.skip = ^((uint16(1)<<len(into) - 1) << first)
	for m.Next() {
		if i := m.Num - first; 0 <= i && int(i) < len(into) {
			*into[i] = T(m.Bytes())
		}
	}
	return m.Err()
}

// ReadInt reads the number that is field 1 of a message. Where b has none, what is there stays.
func ReadInt(b []byte, name string, into *int64) error {
	m := NewMessage(b, name)
	for m.Next() {
		if m.Num == 1 {
			*into = m.Int()
		}
	}
	return m.Err()
}

// Time reads a Time{seconds=1 nanos=2}: none if it is empty, else whole seconds, whatever its nanos say (apimachinery's
// meta/v1/time_proto.go tells why). A hostile server can send any second that fits an int64, so UnixNano may overflow.
func Time(b []byte) (time.Time, error) {
	if len(b) == 0 {
		return time.Time{}, nil
	}
	var seconds int64
	err := ReadInt(b, "Time", &seconds)
	return time.Unix(seconds, 0), err
}
