package wire

import (
	"bufio"
	"encoding/binary"
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
	e.r.buf = bufio.NewReaderSize(nil, eventBuffer)
	e.r.reset(body, math.MaxInt64)
	return e
}

// Next returns the next event's type and object, which is a Status in an event of type Error, and of the kind that is
// wanted in all others. It returns io.EOF where the body ends after an event. Every other error says that the event
// could not be read, and wraps io.ErrUnexpectedEOF where the body ends within it.
func (e *Events) Next(want metav1.TypeMeta) (event watch.EventType, o Object, err error) {
	read := e.readJSON
	if e.json == nil { // else what comes next may be in its buffer
		// The first byte of a frame is the highest of a length below maxFrame.
		if first, _ := e.r.buf.Peek(1); string(first) == "\x00" {
			read = e.readProtobuf
		}
	}
	event, raw, err := read()
	switch {
	case err == io.EOF:
		return "", o, err
	case err != nil:
	case event == watch.Error:
		o, err = open(raw, metav1.TypeMeta{Kind: "Status", APIVersion: "v1"})
	case event == watch.Added, event == watch.Modified, event == watch.Deleted, event == watch.Bookmark:
		o, err = open(raw, want)
	default:
		err = fmt.Errorf("its type is %.40q", event)
	}
	if err != nil {
		return "", Object{}, fmt.Errorf("reading an event of a watch: %w", err)
	}
	return event, o, nil
}

// readProtobuf reads an event, which is preceded by its length in four bytes, the highest first (apimachinery's
// util/framer). The object stays in the buffer; client-go's decoder copies it to the event and then to its envelope.
func (e *Events) readProtobuf() (event watch.EventType, raw []byte, err error) {
	var length [4]byte
	if _, err := io.ReadFull(e.r.buf, length[:]); err != nil {
		return "", nil, err
	}
	frame, err := e.r.take(int64(binary.BigEndian.Uint32(length[:])), maxFrame)
	if err != nil {
		return "", nil, err
	}
	var name, extension []byte
	if err = Read(frame, "WatchEvent", 1, &name, &extension); err == nil {
		err = Read(extension, "RawExtension", 1, &raw)
	}
	return watch.EventType(name), raw, err
}

// readJSON reads an event that is a JSON value.
func (e *Events) readJSON() (watch.EventType, []byte, error) {
	if e.json == nil {
		if _, err := e.r.sniff(); err != nil {
			return "", nil, err
		}
		e.json = newJSONDecoder(e.r.buf, maxFrame)
	}
	var event metav1.WatchEvent
	err := e.json.Decode(&event)
	return watch.EventType(event.Type), event.Object.Raw, clip(err)
}
