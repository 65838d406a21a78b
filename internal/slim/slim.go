// Package slim has the objects of the API that this program lists and watches, each with the few fields that it reads.
// The others, nine tenths of a pod of which only label text is made, are stepped over instead of being turned into
// objects (BenchmarkUnmarshal).
//
// From protobuf, the other fields of the metadata are left empty too. JSON, of servers that speak only that, fills
// them.
package slim

import (
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"metrics-server-prom/internal/wire"
)

// Object is what a pointer to one of this package's types is: an object as client-go knows it, which is decoded from
// protobuf by Unmarshal, and from JSON by encoding/json. GetObjectKind says which kind the type stands for, whatever
// was decoded to it.
type Object interface {
	runtime.Object
	metav1.Object
	// Unmarshal adds what a protobuf message says to the object. It keeps nothing of the bytes.
	Unmarshal([]byte) error
}

// Accept is the Accept header of a request for the objects that new makes, or for a list of them. It is "" where the
// client's own will do; Metadata are not sent without being asked for.
func Accept(new func() Object, list bool) string {
	want := typeOf(new())
	if want != *metadataType {
		return ""
	}
	if list {
		want.Kind += "List"
	}
	as := ";as=" + want.Kind + ";g=meta.k8s.io;v=v1"
	return "application/vnd.kubernetes.protobuf" + as + ",application/json" + as
}

// typeOf returns the kind and apiVersion that an object's type stands for.
func typeOf(o Object) (is metav1.TypeMeta) {
	is.APIVersion, is.Kind = o.GetObjectKind().GroupVersionKind().ToAPIVersionAndKind()
	return is
}

// ReadObject reads one object of at most 4 MiB from r until that ends, in protobuf or JSON. It is made by new. An error
// of r is returned wrapped.
func ReadObject(r io.Reader, new func() Object) (Object, error) {
	object := new()
	var body wire.Reader
	_, err := body.Read(r, typeOf(object), func(o wire.Object) error { return o.Decode(object) })
	return object, err
}

// ReadList reads a list from r until that ends, in protobuf or JSON, and calls each with its items one by one, each in
// an object of its own that is made by new. One item of at most 4 MiB is in memory at a time, and at most 1 GiB is
// read. It returns the list's resourceVersion and continue.
//
// An error of each or of r ends it and is returned wrapped. After any error, what each got before is void.
func ReadList(r io.Reader, new func() Object, each func(Object) error) (metav1.ListMeta, error) {
	want := typeOf(new())
	want.Kind += "List"
	var body wire.Reader
	return body.Read(r, want, func(item wire.Object) error {
		object := new()
		if err := item.Decode(object); err != nil {
			return fmt.Errorf("%.100q: %w", object.GetName(), err)
		}
		return each(object)
	})
}

// Events reads the events of a watch's body.
type Events struct {
	events *wire.Events
	new    func() Object
	want   metav1.TypeMeta
}

// NewEvents returns a reader of the events in the body r of a response. new makes each object.
func NewEvents(r io.Reader, new func() Object) *Events {
	return &Events{wire.NewEvents(r), new, typeOf(new())}
}

// Next returns the next event. The object of an event of type Error is a *metav1.Status, of any other it is one of the
// slim objects; a Bookmark's has little more than a resourceVersion. Next returns io.EOF where the body ends after an
// event, an error that wraps io.ErrUnexpectedEOF where it ends within one, and what r has failed with, wrapped.
func (e *Events) Next() (watch.Event, error) {
	event, from, err := e.events.Next(e.want)
	if err != nil {
		return watch.Event{}, err
	}
	if event == watch.Error {
		status := &metav1.Status{}
		if err := from.Decode(status); err != nil {
			return watch.Event{}, fmt.Errorf("reading the Status that a watch ended with: %w", err)
		}
		return watch.Event{Type: event, Object: status}, nil
	}
	object := e.new()
	if err := from.Decode(object); err != nil {
		return watch.Event{}, fmt.Errorf("reading a %s of a watch, %.100q: %w", e.want.Kind, object.GetName(), err)
	}
	return watch.Event{Type: event, Object: object}, nil
}
