package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// DefaultMaxBody is the largest body that is read where Reader.MaxBody is not set. It is twelve times the usage
	// list of Kubernetes' own limit of 150,000 pods.
	DefaultMaxBody = 1 << 30

	// maxItem bounds one item, or another value that must be held as a whole. An object in etcd has at most 1.5 MiB.
	maxItem = 4 << 20

	// bufferSize holds some hundred pods' usage, so that few of them are moved to the buffer's front for their second
	// half.
	bufferSize = 64 << 10

	// keptBuffer is the largest buffer of one item that is kept for the next body.
	keptBuffer = 256 << 10
)

// Unmarshaler is what decodes itself from protobuf.
type Unmarshaler interface{ Unmarshal([]byte) error }

// Object is one object as it was sent, either in protobuf or in JSON.
type Object struct {
	Protobuf []byte          // Valid until the next object is read.
	JSON     func(any) error // Where not nil, decodes the object into a pointer. To be called once.
}

// Decode decodes the object.
func (o Object) Decode(into Unmarshaler) error {
	if o.JSON != nil {
		return o.JSON(into)
	}
	return into.Unmarshal(o.Protobuf)
}

// Reader reads bodies. Its buffers are kept from one to the next, so that a list of any length allocates the same. The
// zero value is ready for use, by one goroutine at a time.
type Reader struct {
	// MaxBody is the largest body in bytes that is read; a larger one is an error. 0 means DefaultMaxBody.
	MaxBody int64

	want  metav1.TypeMeta
	meta  *metav1.ListMeta
	visit func(Object) error

	body  io.LimitedReader // Lets one more byte through than the limit, to tell that it was passed.
	end   int64            // The offset in the body behind that byte.
	buf   *bufio.Reader    // Reads from body.
	off   int64            // The offset in the body of what buf gives next.
	large bytes.Buffer     // Holds an item that does not fit buf.
}

// Read reads one object of the kind from body until that ends, and calls visit for each of its items, or for the object
// itself where the kind is not a list, that is does not end in "List". meta, unless it is nil, gets the list's
// resourceVersion and continue; else the list's metadata are not looked at. Protobuf is told from JSON by the first
// bytes, whatever the content type says.
//
// The kind and the apiVersion must be there, must be those of want, and must come once: no body is taken for an empty
// list because it is some other object. The message of a Status, which API servers send for failures, becomes the
// error.
//
// An error of visit or of body ends it and is returned wrapped. After any error, what was visited before is void: it
// may be the beginning of a list that was cut off. body is not closed, and not read to its end after an error.
func (r *Reader) Read(body io.Reader, want metav1.TypeMeta, meta *metav1.ListMeta, visit func(Object) error) error {
	limit := r.MaxBody
	if limit == 0 {
		limit = DefaultMaxBody
	}
	r.want, r.meta, r.visit = want, meta, visit
	r.reset(body, limit+1)
	err := r.read()
	if r.body.N <= 0 {
		err = r.tooLarge()
	}
	r.body.R, r.meta, r.visit = nil, nil, nil
	r.shrink()
	if err != nil {
		return fmt.Errorf("reading a %s: %w", want.Kind, err)
	}
	return nil
}

func (r *Reader) reset(body io.Reader, end int64) {
	r.body, r.end, r.off = io.LimitedReader{R: body, N: end}, end, 0
	if r.buf == nil {
		r.buf = bufio.NewReaderSize(nil, bufferSize)
	}
	r.buf.Reset(&r.body)
}

// shrink lets go of what one large item has needed.
func (r *Reader) shrink() {
	if r.large.Cap() > keptBuffer {
		r.large = bytes.Buffer{}
	}
}

func (r *Reader) tooLarge() error {
	return fmt.Errorf("the body is larger than the limit of %d bytes", r.end-1)
}

func (r *Reader) read() error {
	if start, err := r.peek(len(magic)); err != nil {
		return err
	} else if bytes.Equal(start, magic) {
		r.advance(len(magic))
		return r.readProtobuf()
	}
	switch err := r.expectJSON(); {
	case err == io.EOF:
		return errors.New("the body is empty")
	case err != nil:
		return err
	case r.isList():
		return r.readJSONList()
	}
	return r.readJSONObject()
}

func (r *Reader) isList() bool { return strings.HasSuffix(r.want.Kind, "List") }

// verify checks what an object says it is. statusMessage is that of a Status.
func verify(want, got metav1.TypeMeta, statusMessage string) error {
	const maxQuoted = 300
	switch {
	case got == want:
		return nil
	case got.Kind == "Status":
		return fmt.Errorf("the server sent a Status with the message %.*q", maxQuoted, statusMessage)
	}
	return fmt.Errorf("the server sent something else: its kind is %.*q and its apiVersion %.*q, for %q and %q",
		maxQuoted, got.Kind, maxQuoted, got.APIVersion, want.Kind, want.APIVersion)
}

// visitAt visits the object at an offset of the body.
func (r *Reader) visitAt(off int64, o Object) error {
	if err := r.visit(o); err != nil {
		return fmt.Errorf("the item at byte %d: %w", off, err)
	}
	return nil
}

// peek returns the next n bytes without consuming them; fewer only where the body ends.
func (r *Reader) peek(n int) ([]byte, error) {
	b, err := r.buf.Peek(n)
	if err == io.EOF {
		err = nil
	}
	return b, err
}

// advance consumes n bytes that were peeked at.
func (r *Reader) advance(n int) { _ = r.discard(int64(n)) }

// discard consumes the next n bytes.
func (r *Reader) discard(n int64) error {
	_, err := r.buf.Discard(int(n))
	r.off += n
	return noEOF(err)
}

// take consumes the next n bytes, at most the given number, and returns them, valid until the next call. It needs
// memory for bytes that have arrived, never because a length says that they will.
func (r *Reader) take(n, most int64) ([]byte, error) {
	if n > most {
		return nil, tooLong(r.off, n, most)
	}
	if n > bufferSize {
		r.large.Reset()
		_, err := io.CopyN(&r.large, r.buf, n)
		r.off += n
		return r.large.Bytes(), noEOF(err)
	}
	b, err := r.buf.Peek(int(n))
	if err != nil {
		return nil, noEOF(err)
	}
	r.advance(int(n))
	return b, nil
}

func tooLong(off, n, most int64) error {
	return fmt.Errorf("at byte %d is an item or value of %d bytes or more, over the limit of %d", off, n, most)
}

// noEOF is for where the body must not end.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// The protobuf format is that of k8s.io/apimachinery/pkg/runtime/serializer/protobuf: four magic bytes, then a
// runtime.Unknown, which holds the kind and, as bytes, the object. Field numbers are from the generated.proto files of
//
//	k8s.io/apimachinery/pkg/runtime:       Unknown{typeMeta=1 raw=2 contentEncoding=3 contentType=4},
//	                                       TypeMeta{apiVersion=1 kind=2}, RawExtension{raw=1}
//	k8s.io/apimachinery/pkg/apis/meta/v1:  ListMeta{resourceVersion=2 continue=3}, Status{message=3},
//	                                       WatchEvent{type=1 object=2}
//
// and all lists are {metadata=1 items=2}.
var magic = []byte("k8s\x00")

// errEnvelope refuses what the generated code would put up with by holding the whole body: the last raw counts there,
// and a TypeMeta may come after it.
var errEnvelope = errors.New("the envelope is not a TypeMeta and after it one object")

// readProtobuf reads a body behind its magic bytes.
func (r *Reader) readProtobuf() error {
	var is metav1.TypeMeta
	found := false
	err := r.fields("Unknown", r.end, 4, func(num int32, size int64) error {
		switch {
		case num > 2:
			return r.discard(size)
		case found:
			return errEnvelope
		case num == 2:
			found = true
			return r.readObject(is, size)
		}
		b, err := r.take(size, maxItem)
		if err != nil {
			return err
		}
		return unmarshalTypeMeta(b, &is)
	})
	if err == nil && !found {
		return errEnvelope
	}
	return err
}

func unmarshalTypeMeta(b []byte, is *metav1.TypeMeta) error {
	return Texts(b, "TypeMeta", Text{1, &is.APIVersion}, Text{2, &is.Kind})
}

// verifyProtobuf verifies what the envelope of an object says. The message of a Status is a help if it can be read, and
// no further trouble if not.
func verifyProtobuf(want, is metav1.TypeMeta, status []byte) error {
	var message string
	if is.Kind == "Status" {
		_ = Texts(status, "Status", Text{3, &message})
	}
	return verify(want, is, message)
}

// readObject reads the object of size bytes that the envelope holds.
func (r *Reader) readObject(is metav1.TypeMeta, size int64) error {
	var status []byte
	if is.Kind == "Status" {
		status, _ = r.take(size, maxItem)
	}
	if err := verifyProtobuf(r.want, is, status); err != nil {
		return err
	}
	if !r.isList() {
		return r.readItem(size)
	}
	return r.fields(r.want.Kind, r.off+size, 2, func(num int32, size int64) error {
		switch {
		case num == 2:
			return r.readItem(size)
		case r.meta == nil:
			return r.discard(size)
		}
		b, err := r.take(size, maxItem)
		if err != nil {
			return err
		}
		return Texts(b, "ListMeta", Text{2, &r.meta.ResourceVersion}, Text{3, &r.meta.Continue})
	})
}

// readItem visits an item of size bytes.
func (r *Reader) readItem(size int64) error {
	off := r.off
	b, err := r.take(size, maxItem)
	if err != nil {
		return err
	}
	return r.visitAt(off, Object{Protobuf: b})
}

// fields reads a message that ends at an offset of the body, or before where that is r.end. For each string or message
// with a number up to last it calls visit, to consume the size bytes of it; what has higher numbers is skipped.
func (r *Reader) fields(message string, end int64, last int32, visit func(num int32, size int64) error) error {
	for r.off < end {
		num, typ, err := r.tag(end)
		switch {
		case err == io.EOF && end == r.end:
			return nil
		case err != nil:
			return noEOF(err)
		case num <= 0:
			return errNumber
		case num > last:
			err = r.skip(typ, end)
		case typ != protowire.BytesType:
			return fmt.Errorf("%s: %w", message, errWireType(num, typ))
		default:
			var size int64
			if size, err = r.contentSize(typ, end); err == nil {
				err = visit(num, size)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tag consumes what a field begins with. It returns io.EOF where the body ends before.
func (r *Reader) tag(end int64) (num int32, typ protowire.Type, err error) {
	b, err := r.peek(int(min(maxVarint, end-r.off)))
	if err == nil && len(b) == 0 {
		err = io.EOF
	}
	if err != nil {
		return 0, 0, err
	}
	tag, n, err := varint(b)
	r.advance(n)
	return int32(tag >> 3), protowire.Type(tag & 7), err
}

// contentSize consumes the length before a value, and returns how many bytes follow of the value.
func (r *Reader) contentSize(typ protowire.Type, end int64) (int64, error) {
	b, err := r.peek(int(min(maxVarint, end-r.off)))
	if err != nil {
		return 0, err
	}
	prefix, size, err := contentSize(b, typ)
	if err != nil {
		return 0, err
	}
	r.advance(prefix)
	switch {
	case size <= uint64(end-r.off):
		return int64(size), nil
	case end == r.end:
		return 0, r.tooLarge()
	}
	return 0, errLength
}

// skip consumes a value.
func (r *Reader) skip(typ protowire.Type, end int64) error {
	for depth := 0; ; {
		size, err := r.contentSize(typ, end)
		if err == nil {
			err = r.discard(size)
		}
		if err == nil {
			depth, err = nest(depth, typ)
		}
		if err != nil || depth == 0 {
			return err
		}
		if _, typ, err = r.tag(end); err != nil {
			return noEOF(err)
		}
	}
}
