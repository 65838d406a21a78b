package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The protobuf format is that of k8s.io/apimachinery/pkg/runtime/serializer/protobuf: four magic bytes, then a
// runtime.Unknown, which holds the kind and, as bytes, the object. Field numbers are from the generated.proto files of
//
//	k8s.io/apimachinery/pkg/runtime:       Unknown{typeMeta=1 raw=2 contentEncoding=3 contentType=4},
//	                                       TypeMeta{apiVersion=1 kind=2}, RawExtension{raw=1}
//	k8s.io/apimachinery/pkg/apis/meta/v1:  ListMeta{resourceVersion=2 continue=3}, Status{message=3},
//	                                       WatchEvent{type=1 object=2}
//
// and all lists are {metadata=1 items=2}.
const magic = "k8s\x00"

// errEnvelope also refuses a TypeMeta or another object behind the first, which the generated code, having held all of
// the body, takes for the one that counts.
var errEnvelope = errors.New("the envelope is not a TypeMeta and after it one object")

// open takes an object out of what it is sent in, and verifies what that says.
func open(b []byte, want metav1.TypeMeta) (Object, error) {
	envelope, ok := bytes.CutPrefix(b, []byte(magic))
	if !ok {
		return openJSON(b, want)
	}
	var typeMeta, raw []byte
	if err := Read(envelope, "Unknown", 1, &typeMeta, &raw); err != nil {
		return Object{}, err
	}
	if raw == nil {
		return Object{}, errEnvelope
	}
	var is metav1.TypeMeta
	if err := readTypeMeta(typeMeta, &is); err != nil {
		return Object{}, err
	}
	return Object{Protobuf: raw}, verifyProtobuf(want, is, raw)
}

func readTypeMeta(b []byte, is *metav1.TypeMeta) error {
	return Read(b, "TypeMeta", 1, &is.APIVersion, &is.Kind)
}

// verifyProtobuf verifies what an envelope says. The message of a Status is quoted where it can be read.
func verifyProtobuf(want, is metav1.TypeMeta, status []byte) error {
	var message string
	if is.Kind == "Status" {
		_ = Read(status, "Status", 3, &message)
	}
	return verify(want, is, message)
}

// readProtobufList reads a list item by item.
func (r *Reader) readProtobufList(want metav1.TypeMeta, meta *metav1.ListMeta, item func(Object) error) error {
	_, _ = r.buf.Discard(len(magic))
	var is metav1.TypeMeta
	for found := false; ; {
		num, size, err := r.field("Unknown", 0)
		switch {
		case err == io.EOF && found:
			return nil
		case err == io.EOF, err == nil && found:
			err = errEnvelope
		case err != nil:
		case num == 2 && is == want:
			found = true
			err = r.readProtobufItems(want.Kind, r.left()-size, meta, item)
		default:
			var b []byte
			if b, err = r.take(size, maxItem); num == 2 {
				err = verifyProtobuf(want, is, b)
			} else if err == nil {
				err = readTypeMeta(b, &is)
			}
		}
		if err != nil {
			return err
		}
	}
}

// readProtobufItems reads a list that ends where so many bytes are left of the body.
func (r *Reader) readProtobufItems(kind string, end int64, meta *metav1.ListMeta, item func(Object) error) error {
	for {
		num, size, err := r.field(kind, end)
		if err != nil || num == 0 {
			return err
		}
		b, err := r.take(size, maxItem)
		switch {
		case err != nil:
		case num == 2:
			err = item(Object{Protobuf: b})
		default:
			err = Read(b, "ListMeta", 2, &meta.ResourceVersion, &meta.Continue)
		}
		if err != nil {
			return err
		}
	}
}

// field consumes what is before the content of the next field 1 or 2, a string or message of size bytes. Other fields
// are skipped. It returns 0 where the message has ended, which is where so many bytes are left of the body, and io.EOF
// where the body has.
func (r *Reader) field(message string, end int64) (num protowire.Number, size int64, err error) {
	for r.left() > end {
		b, err := r.buf.Peek(20) // A tag and a length or number are two varints at most.
		if len(b) == 0 || err != nil && err != io.EOF {
			return 0, 0, err
		}
		num, typ, n := protowire.ConsumeTag(b)
		length, value := uint64(0), n
		switch {
		case n < 0:
		case typ == protowire.BytesType:
			length, value = protowire.ConsumeVarint(b[n:])
		case num <= 2, typ == protowire.StartGroupType: // A group's size is not known before its end.
			return 0, 0, errWireType(message, num, typ)
		default:
			value = protowire.ConsumeFieldValue(num, typ, b[n:])
		}
		if value < 0 {
			return 0, 0, fmt.Errorf("%s: %w", message, protowire.ParseError(value))
		}
		_, _ = r.buf.Discard(n + value)
		if most := r.left() - end; most < 0 || length > uint64(most) {
			return 0, 0, fmt.Errorf("%s: field %d has %d bytes, larger than the limit of %d", message, num, length, most)
		}
		if num <= 2 {
			return num, int64(length), nil
		}
		if _, err := r.buf.Discard(int(length)); err != nil {
			return 0, 0, noEOF(err)
		}
	}
	return 0, 0, nil
}
