package wire

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// maxItem bounds one item, or another value that must be held as a whole. An object in etcd has at most 1.5 MiB.
	maxItem = 4 << 20

	// bufferSize holds some hundred pods' usage, so that few of them are moved to the front for their second half.
	bufferSize = 64 << 10
	// eventBuffer holds nearly every object. A watch keeps its buffer while nothing comes.
	eventBuffer = 16 << 10
)

// buffers are those of bodies that are read at the moment.
var buffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, bufferSize) }}

// Object is one object as it was sent, either in protobuf or in JSON.
type Object struct {
	Protobuf []byte          // Valid until the next object is read.
	JSON     func(any) error // Where not nil, decodes the object into a pointer. To be called once.
}

// Decode decodes the object.
func (o Object) Decode(into interface{ Unmarshal([]byte) error }) error {
	if o.JSON != nil {
		return o.JSON(into)
	}
	return into.Unmarshal(o.Protobuf)
}

// Reader reads bodies, in buffers that all readers share, so that a list of any length allocates the same. The zero
// value is ready for use, by one goroutine at a time.
type Reader struct {
	// MaxBody is the largest body in bytes that is read; a larger one is an error. 0 means 1 GiB, twelve times the
	// usage list of Kubernetes' own limit of 150,000 pods.
	MaxBody int64

	body io.LimitedReader // Lets one more byte through than the limit, to tell that it was passed.
	buf  *bufio.Reader    // Reads from body.
}

// Read reads one object of the kind from body until that ends, and calls visit for each of its items, or for the object
// itself where the kind is not a list, that is does not end in "List". It returns a list's resourceVersion and
// continue. Protobuf is told from JSON by the first bytes, whatever the content type says.
//
// The kind and the apiVersion must be there and must be those of want: no body is taken for an empty list because it is
// some other object. The message of a Status, which API servers send for failures, becomes the error.
//
// An error of visit or of body ends it and is returned wrapped; io.ErrUnexpectedEOF is, where the body was cut off.
// After any error, what was visited before is void: it may be the beginning of such a list. body is not closed, and not
// read to its end after an error.
func (r *Reader) Read(body io.Reader, want metav1.TypeMeta, visit func(Object) error) (metav1.ListMeta, error) {
	isList := strings.HasSuffix(want.Kind, "List")
	limit := cmp.Or(r.MaxBody, 1<<30)
	if !isList {
		limit = min(limit, maxItem)
	}
	r.buf = buffers.Get().(*bufio.Reader)
	r.reset(body, limit+1)
	n := 0
	item := func(o Object) error {
		n++
		if err := visit(o); err != nil {
			return fmt.Errorf("item %d: %w", n, err)
		}
		return nil
	}
	var meta metav1.ListMeta
	isProtobuf, err := r.sniff()
	switch {
	case err == io.EOF:
		err = errors.New("the body is empty")
	case err != nil:
	case isList && isProtobuf:
		err = r.readProtobufList(want, &meta, item)
	case isList:
		err = r.readJSONList(want, &meta, item)
	default:
		var b []byte
		var o Object
		if b, err = io.ReadAll(r.buf); err == nil {
			o, err = open(b, want)
		}
		if err == nil {
			err = visit(o)
		}
	}
	if r.body.N <= 0 {
		err = fmt.Errorf("the body is larger than the limit of %d bytes", limit)
	}
	r.body.R = nil
	r.buf.Reset(nil)
	buffers.Put(r.buf)
	r.buf = nil
	if err != nil {
		err = fmt.Errorf("reading a %s: %w", want.Kind, noEOF(err))
	}
	return meta, err
}

// reset makes r read a body up to its first n bytes.
func (r *Reader) reset(body io.Reader, n int64) {
	r.body = io.LimitedReader{R: body, N: n}
	r.buf.Reset(&r.body)
}

// sniff tells protobuf from JSON, before whose { it skips white space. It returns io.EOF where nothing else comes.
func (r *Reader) sniff() (isProtobuf bool, err error) {
	if b, err := r.buf.Peek(len(magic)); string(b) == magic || err != nil && err != io.EOF {
		return true, err
	}
	for {
		switch b, err := r.buf.Peek(1); {
		case err != nil:
			return false, err
		case b[0] == '{':
			return false, nil
		case strings.IndexByte(" \t\r\n", b[0]) < 0:
			b, _ = r.buf.Peek(60)
			return false, fmt.Errorf("the body is neither Kubernetes protobuf nor a JSON object; it begins with %q. "+
				"Does the server's address lead to a Kubernetes API server?", b)
		}
		_, _ = r.buf.Discard(1)
	}
}

// verify checks what an object says it is. statusMessage is that of a Status.
func verify(want, got metav1.TypeMeta, statusMessage string) error {
	switch {
	case got == want:
		return nil
	case got.Kind == "Status":
		return fmt.Errorf("the server sent a Status with the message %.300q", statusMessage)
	}
	return fmt.Errorf("the server sent something else: its kind is %.300q and its apiVersion %.300q, for %q and %q",
		got.Kind, got.APIVersion, want.Kind, want.APIVersion)
}

// left is how many bytes of the body may still come. What it changes by is how many were consumed.
func (r *Reader) left() int64 { return r.body.N + int64(r.buf.Buffered()) }

// take consumes the next n bytes, at most the given number, and returns them, valid until the next call. It needs
// memory for bytes that have arrived, never because a length says that they will.
func (r *Reader) take(n, most int64) ([]byte, error) {
	if n > most {
		return nil, errTooLong(most)
	}
	if n > int64(r.buf.Size()) {
		var large bytes.Buffer
		_, err := io.CopyN(&large, r.buf, n)
		return large.Bytes(), noEOF(err)
	}
	b, err := r.buf.Peek(int(n))
	_, _ = r.buf.Discard(len(b))
	return b, noEOF(err)
}

func errTooLong(most int64) error {
	return fmt.Errorf("an item or value is over the limit of %d bytes", most)
}

// noEOF is for where the body must not end.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
