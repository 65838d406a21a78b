package wire

import (
	"bytes"
	"encoding/binary"
	stdjson "encoding/json"
	"fmt"
	"io"
	"math"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// maxFrame bounds one event of a watch.
const maxFrame = 16 << 20

// Events reads the events of a watch's body. The body has no limit: a watch lasts for as long as its server lets it.
type Events struct {
	r    Reader
	json *jsonDecoder // Made when the first event in JSON is read.
}

// NewEvents returns a reader of the events in the body of a response. As in a list, protobuf is told from JSON by the
// first byte, whatever the content type says.
func NewEvents(body io.Reader) *Events {
	e := &Events{}
	e.r.reset(body, math.MaxInt64)
	return e
}

// Next returns the next event's type and object, which is a Status in an event of type Error, and of the kind that is
// wanted in all others. It returns io.EOF where the body ends after an event. Every other error says that the event
// could not be read, and wraps io.ErrUnexpectedEOF where the body ends within it.
func (e *Events) Next(want metav1.TypeMeta) (watch.EventType, Object, error) {
	read, object := e.readJSON, jsonObject
	if e.json == nil {
		first, err := e.r.peek(1)
		if err != nil {
			return "", Object{}, fmt.Errorf("reading an event of a watch: %w", err)
		}
		if string(first) == "\x00" { // the highest of a length below maxFrame
			read, object = e.readProtobuf, protobufObject
		}
	}
	event, raw, err := read()
	if err == io.EOF {
		return "", Object{}, err
	}
	var o Object
	if err == nil {
		switch event {
		case watch.Added, watch.Modified, watch.Deleted, watch.Bookmark:
			o, err = object(raw, want)
		case watch.Error:
			o, err = object(raw, metav1.TypeMeta{Kind: "Status", APIVersion: "v1"})
		default:
			err = fmt.Errorf("its type is %.40q", event)
		}
	}
	if err != nil {
		return "", Object{}, fmt.Errorf("reading an event of a watch: %w", err)
	}
	return event, o, nil
}

// readProtobuf reads an event, which is preceded by its length in four bytes, the highest first (apimachinery's
// util/framer). The object stays in the buffer; client-go's decoder copies it to the event and then to its envelope.
func (e *Events) readProtobuf() (event watch.EventType, raw []byte, err error) {
	e.r.shrink()
	if b, err := e.r.peek(1); err != nil {
		return "", nil, err
	} else if len(b) == 0 {
		return "", nil, io.EOF
	}
	length, err := e.r.take(4, 4)
	if err != nil {
		return "", nil, err
	}
	frame, err := e.r.take(int64(binary.BigEndian.Uint32(length)), maxFrame)
	if err != nil {
		return "", nil, err
	}
	m := NewMessage(frame)
	for m.Next() {
		switch m.Num {
		case 1:
			event = watch.EventType(m.Bytes())
		case 2:
			extension := NewMessage(m.Bytes())
			for extension.Next() {
				if extension.Num == 1 {
					raw = extension.Bytes()
				}
			}
			m.Check(extension.Err("RawExtension"))
		}
	}
	return event, raw, m.Err("WatchEvent")
}

// protobufObject takes an object out of its envelope and verifies what that says.
func protobufObject(raw []byte, want metav1.TypeMeta) (o Object, err error) {
	envelope, ok := bytes.CutPrefix(raw, magic)
	if !ok {
		return o, fmt.Errorf("its object is not Kubernetes protobuf; it begins with %.60q", raw)
	}
	var is metav1.TypeMeta
	m := NewMessage(envelope)
	for m.Next() {
		switch m.Num {
		case 1:
			m.Check(unmarshalTypeMeta(m.Bytes(), &is))
		case 2:
			o.Protobuf = m.Bytes()
		}
	}
	if err := m.Err("Unknown"); err != nil {
		return o, err
	}
	return o, verifyProtobuf(want, is, o.Protobuf)
}

// readJSON reads an event that is a JSON value.
func (e *Events) readJSON() (watch.EventType, []byte, error) {
	if e.json == nil {
		if err := e.r.expectJSON(); err != nil {
			return "", nil, err
		}
		e.json = newJSONDecoder(&e.r, maxFrame)
	}
	var event struct {
		Type   watch.EventType    `json:"type"`
		Object stdjson.RawMessage `json:"object"`
	}
	err := e.json.Decode(&event)
	return event.Type, event.Object, shorten(err)
}
