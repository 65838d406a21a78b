package podwire

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// below is a codec as client-go has it.
var below = func() runtime.NegotiatedSerializer {
	scheme, v1 := runtime.NewScheme(), schema.GroupVersion{Version: "v1"}
	scheme.AddKnownTypeWithName(v1.WithKind("Pod"), &Pod{})
	scheme.AddKnownTypeWithName(v1.WithKind("PodList"), &List{})
	metav1.AddToGroupVersion(scheme, v1)
	return serializer.NewCodecFactory(scheme).WithoutConversion()
}()

// decoded is what client-go's watch makes of an event.
type decoded struct {
	event  string
	object runtime.Object
	failed string
}

// decode decodes an event and its object as client-go's rest/watch/decoder.go does.
func decode(t *testing.T, codec runtime.NegotiatedSerializer, b []byte) decoded {
	t.Helper()
	object, stream, _, err := runtime.NewClientNegotiator(codec, schema.GroupVersion{Version: "v1"}).StreamDecoder(runtime.ContentTypeProtobuf, nil)
	if err != nil {
		t.Fatal(err)
	}
	var event metav1.WatchEvent
	got, _, err := stream.Decode(b, nil, &event)
	if err != nil {
		return decoded{failed: "event"}
	}
	if got != &event {
		t.Fatal("another event came back")
	}
	d := decoded{event: event.Type}
	if d.object, err = runtime.Decode(object, event.Object.Raw); err != nil {
		return decoded{failed: "object"}
	}
	return d
}

// enveloped is an object as the API server sends it.
func enveloped(t testing.TB, version, kind string, object interface{ Marshal() ([]byte, error) }, more ...string) []byte {
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: version, Kind: kind}, Raw: marshal(t, object), ContentType: strings.Join(more, "")}
	return append(bytes.Clone(magic), marshal(t, &unknown)...)
}

func event(t testing.TB, kind string, object []byte) []byte {
	return marshal(t, &metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: object}})
}

// cases are events by what they are, of which the codec below makes what it makes.
func cases(t testing.TB) map[string][]byte {
	p, status := full(1), metav1.Status{Status: "Failure", Message: "too old resource version", Reason: metav1.StatusReasonExpired, Code: 410}
	end := corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "9", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}
	list := corev1.PodList{Items: []corev1.Pod{p}}
	pod := enveloped(t, "v1", "Pod", &p)
	return map[string][]byte{
		"a pod":                              event(t, "ADDED", pod),
		"an empty pod":                       event(t, "DELETED", enveloped(t, "v1", "Pod", &corev1.Pod{})),
		"the bookmark behind the first list": event(t, "BOOKMARK", enveloped(t, "v1", "Pod", &end)),
		"an error":                           event(t, "ERROR", enveloped(t, "v1", "Status", &status)),
		"a list":                             event(t, "ADDED", enveloped(t, "v1", "PodList", &list)),
		"a pod of another version":           event(t, "ADDED", enveloped(t, "v2", "Pod", &p)),
		"an object of another kind":          event(t, "ADDED", enveloped(t, "v1", "Node", &p)),
		"an object of no kind":               event(t, "ADDED", enveloped(t, "", "", &p)),
		"a content type in the envelope":     event(t, "ADDED", enveloped(t, "v1", "Pod", &p, "application/json")),
		"an object without its magic bytes":  event(t, "ADDED", pod[len(magic):]),
		"an object that is cut":              event(t, "ADDED", pod[:len(pod)-1]),
		"an event without an object":         event(t, "ADDED", nil),
		"an event of an unknown type":        event(t, "", pod),
		"an event that comes in two parts":   append(event(t, "ADDED", pod), event(t, "DELETED", pod)...),
		"no event":                           nil,
		"garbage":                            []byte("\xff\xff\xff"),
	}
}

func TestCodecDecodesWhatTheOneBelowDoes(t *testing.T) {
	for name, b := range cases(t) {
		t.Run(name, func(t *testing.T) {
			if got, want := decode(t, Codec(below), b), decode(t, below, b); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestNothingIsKeptOfTheBytes(t *testing.T) {
	p := full(1)
	b := event(t, "ADDED", enveloped(t, "v1", "Pod", &p))
	got := decode(t, Codec(below), b)
	clear(b) // as the next event does
	want := wanted(&p)
	if !reflect.DeepEqual(got.object, &want) {
		t.Errorf("got %+v", got.object)
	}
}

func FuzzCodec(f *testing.F) {
	for _, b := range cases(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, want := decode(t, Codec(below), b), decode(t, below, b); !reflect.DeepEqual(got, want) && got.failed == "" && want.failed == "" {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}

// BenchmarkEvent compares an event of a watch decoded in place with the codec that copies.
func BenchmarkEvent(b *testing.B) {
	p := full(12345)
	bytes := event(b, "ADDED", enveloped(b, "v1", "Pod", &p))
	for name, codec := range map[string]runtime.NegotiatedSerializer{"in place": Codec(below), "copied": below} {
		b.Run(name, func(b *testing.B) {
			object, stream, _, err := runtime.NewClientNegotiator(codec, schema.GroupVersion{Version: "v1"}).StreamDecoder(runtime.ContentTypeProtobuf, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				var event metav1.WatchEvent
				if _, _, err := stream.Decode(bytes, nil, &event); err != nil {
					b.Fatal(err)
				}
				if _, err := runtime.Decode(object, event.Object.Raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
