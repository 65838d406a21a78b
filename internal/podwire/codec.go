package podwire

import (
	"bytes"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Codec is a codec that decodes the pods of a watch in protobuf where they are read to, in place of copying their bytes to
// the event and from there to the object's envelope, garbage of ten times what is kept. All else the codec below decodes.
func Codec(below runtime.NegotiatedSerializer) runtime.NegotiatedSerializer { return codec{below} }

type codec struct{ runtime.NegotiatedSerializer }

func (c codec) SupportedMediaTypes() []runtime.SerializerInfo {
	types := slices.Clone(c.NegotiatedSerializer.SupportedMediaTypes())
	for i := range types {
		if types[i].MediaType == runtime.ContentTypeProtobuf {
			stream := *types[i].StreamSerializer
			stream.Serializer = events{stream.Serializer}
			types[i].Serializer, types[i].StreamSerializer = objects{types[i].Serializer}, &stream
		}
	}
	return types
}

// events decodes what a watch consists of: WatchEvent{type=1 object=2}, whose object is a RawExtension{raw=1}.
type events struct{ runtime.Serializer }

// Decode leaves an event's object in the bytes that it gets: it is valid until these change. client-go decodes the object
// before it reads on (client-go's rest/watch/decoder.go).
func (e events) Decode(b []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if event, ok := into.(*metav1.WatchEvent); ok {
		if kind, object := two(b, 1, 2); len(object) > 0 {
			if raw, _ := two(object, 1, 0); len(raw) > 0 {
				*event = metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: raw}}
				return event, &schema.GroupVersionKind{}, nil
			}
		}
	}
	return e.Serializer.Decode(b, defaults, into)
}

// objects decodes an object in its envelope: four magic bytes and an Unknown{typeMeta=1 raw=2}, whose type is
// TypeMeta{apiVersion=1 kind=2} (apimachinery's runtime/generated.proto and runtime/serializer/protobuf).
type objects struct{ runtime.Serializer }

var magic = []byte("k8s\x00")

// Decode keeps nothing of the bytes.
func (o objects) Decode(b []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if envelope, ok := bytes.CutPrefix(b, magic); ok && into == nil {
		is, raw := two(envelope, 1, 2)
		if version, kind := two(is, 1, 2); string(version) == "v1" && string(kind) == "Pod" {
			p := &Pod{}
			if err := p.Unmarshal(raw); err != nil {
				return nil, nil, err
			}
			p.APIVersion, p.Kind = "v1", "Pod"
			return p, &schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, nil
		}
	}
	return o.Serializer.Decode(b, defaults, into)
}

// two returns the contents of two fields of a message in its usual form: each at most once and nothing else but what is
// empty. Of any other message it returns nothing.
func two(b []byte, first, second protowire.Number) (one, other []byte) {
	for f, err := range fields(b, "") {
		switch {
		case err != nil || f.typ != protowire.BytesType:
			return nil, nil
		case f.num == first && one == nil:
			one = f.bytes
		case f.num == second && other == nil:
			other = f.bytes
		case len(f.bytes) > 0 || f.num == first || f.num == second:
			return nil, nil
		}
	}
	return one, other
}
