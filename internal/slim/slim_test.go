package slim

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/apimachinery/pkg/watch"
	restwatch "k8s.io/client-go/rest/watch"
)

func newPod() Object { return &Pod{} }

const (
	protobufType = "application/vnd.kubernetes.protobuf;stream=watch"
	jsonType     = "application/json"
)

type marshaler interface{ Marshal() ([]byte, error) }

// enveloped is an object in protobuf as the API server sends it.
func enveloped(t testing.TB, version, kind string, object marshaler, contentType ...string) []byte {
	is := kruntime.TypeMeta{APIVersion: version, Kind: kind}
	unknown := kruntime.Unknown{TypeMeta: is, Raw: marshal(t, object), ContentType: strings.Join(contentType, "")}
	return append([]byte("k8s\x00"), marshal(t, &unknown)...)
}

// encodings are a list of pods in both encodings.
func encodings(t testing.TB, list *corev1.PodList) map[string][]byte {
	list.TypeMeta = metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}
	asJSON, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"protobuf": enveloped(t, "v1", "PodList", list), "JSON": asJSON}
}

func wantedIn(encoding string, p *corev1.Pod) *Pod {
	if encoding == "JSON" {
		return wantedOfJSON(p)
	}
	return wanted(p)
}

func TestReadListHandsOverItemByItem(t *testing.T) {
	list := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "77", Continue: "next page",
		RemainingItemCount: new(int64(5))}, Items: []corev1.Pod{full(1), {}}}
	for i := range 100 { // More than a buffer holds, so that an object that kept bytes of it would change.
		list.Items = append(list.Items, full(i))
	}
	for encoding, body := range encodings(t, list) {
		t.Run(encoding, func(t *testing.T) {
			var got []Object
			meta, err := ReadList(bytes.NewReader(body), newPod, func(o Object) error {
				got = append(got, o)
				return nil
			})
			if err != nil || meta.ResourceVersion != "77" || meta.Continue != "next page" {
				t.Fatalf("%+v, %v", meta, err)
			}
			if len(got) != len(list.Items) {
				t.Fatalf("%d items, want %d", len(got), len(list.Items))
			}
			for i, got := range got {
				// Reencoded, as times of the same moment need not have the same zone.
				got, want := asJSON(t, got), asJSON(t, wantedIn(encoding, &list.Items[i]))
				if got != want {
					t.Errorf("item %d is %s, want %s", i, got, want)
				}
			}
		})
	}
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestReadListRefuses(t *testing.T) {
	status := &metav1.Status{Message: "pods is forbidden"}
	for name, c := range map[string]struct{ body, want string }{
		"another list":            {string(enveloped(t, "v1", "NodeList", &corev1.NodeList{})), `its kind is "NodeList"`},
		"another version":         {string(enveloped(t, "v2", "PodList", &corev1.PodList{})), `apiVersion "v2"`},
		"a Status":                {string(enveloped(t, "v1", "Status", status)), `Status with the message "pods is forbidden"`},
		"another list in JSON":    {`{"kind":"NodeList","apiVersion":"v1","items":[]}`, `its kind is "NodeList"`},
		"a Status in JSON":        {`{"kind":"Status","apiVersion":"v1","message":"no"}`, `Status with the message "no"`},
		"a page":                  {"<html>Sign in", `neither Kubernetes protobuf nor a JSON object; it begins with "<html>Sign in"`},
		"nothing":                 {"", "the body is empty"},
		"a pod that is none":      {`{"kind":"PodList","apiVersion":"v1","items":[5]}`, "item 1: "},
		"a list without a kind":   {`{"items":[]}`, `its kind is ""`},
		"metadata that are none":  {`{"kind":"PodList","apiVersion":"v1","metadata":5,"items":[]}`, "cannot unmarshal number"},
		"a list that is cut off":  {`{"kind":"PodList","apiVersion":"v1","items":[{}`, "unexpected EOF"},
		"a list that is repeated": {`{"kind":"PodList","apiVersion":"v1","items":[]}{}`, "where the body should end"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadList(strings.NewReader(c.body), newPod, func(Object) error { return nil })
			if err == nil || !strings.Contains(err.Error(), c.want) ||
				!strings.Contains(err.Error(), "reading a PodList: ") {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestReadListReturnsErrorsOfReaderAndEach(t *testing.T) {
	broken := errors.New("broken")
	for encoding, body := range encodings(t, &corev1.PodList{Items: []corev1.Pod{full(1), full(2)}}) {
		calls := 0
		_, err := ReadList(bytes.NewReader(body), newPod, func(Object) error {
			calls++
			return broken
		})
		if !errors.Is(err, broken) || calls != 1 {
			t.Errorf("%s: error %v after %d calls", encoding, err, calls)
		}
		r := io.MultiReader(bytes.NewReader(body[:len(body)/2]), iotest.ErrReader(broken))
		if _, err := ReadList(r, newPod, func(Object) error { return nil }); !errors.Is(err, broken) {
			t.Errorf("%s: error %v", encoding, err)
		}
	}
}

// endless gives its bytes again and again.
type endless struct {
	bytes []byte
	at    int
}

func (e *endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		k := copy(p[n:], e.bytes[e.at:])
		n += k
		e.at = (e.at + k) % len(e.bytes)
	}
	return n, nil
}

// A list or event without end becomes an error, and until then no more is held than an item, and garbage.
func TestEndlessBodiesEndInBoundedMemory(t *testing.T) {
	const memory = 128 << 20
	p := full(1)
	podItem := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), marshal(t, &p))
	pods := uint64(1<<27/len(podItem)) * uint64(len(podItem))
	listHead := func(size uint64) string {
		head := enveloped(t, "v1", "PodList", &corev1.PodList{})
		i := bytes.Index(head, []byte("PodList")) + len("PodList")
		return string(protowire.AppendVarint(protowire.AppendTag(head[:i], 2, protowire.BytesType), size))
	}
	then := func(head string, repeated []byte) io.Reader {
		return io.MultiReader(strings.NewReader(head), &endless{bytes: bytes.Repeat(repeated, 1+4096/len(repeated))})
	}
	list := func(r io.Reader, each func()) error {
		_, err := ReadList(r, newPod, func(Object) error {
			each()
			return nil
		})
		return err
	}
	events := func(r io.Reader, each func()) error {
		e := NewEvents(r, newPod)
		for {
			if _, err := e.Next(); err != nil {
				return err
			}
			each()
		}
	}
	jsonList := `{"kind":"PodList","apiVersion":"v1","items":[`
	for name, c := range map[string]struct {
		body io.Reader
		read func(io.Reader, func()) error
		err  string
	}{
		"a list of pods":                       {then(listHead(pods), podItem), list, "not a TypeMeta and after it one object"},
		"a list that says it has 1 TiB":        {then(listHead(1<<40), podItem), list, "larger than the limit"},
		"a pod in a list":                      {then(jsonList+`{"metadata":{"name":"`, []byte("x")), list, "over the limit of 4194304"},
		"white space in a list":                {then(jsonList, []byte(" \n")), list, "over the limit of 4194304"},
		"a list's key":                         {then(`{"`, []byte("x")), list, "over the limit of 4194304"},
		"arrays in arrays":                     {then(jsonList, []byte("[")), list, "max depth"},
		"an event of a watch":                  {then(`{"type":"ADDED","object":{"x":"`, []byte("x")), events, "over the limit of 16777216"},
		"white space between events":           {then(`{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1"}}`, []byte(" ")), events, "over the limit"},
		"an event that says it has 4 GiB":      {then("\xff\xff\xff\xff", []byte("x")), events, "neither Kubernetes protobuf nor"},
		"an event of 16 MiB that is not there": {strings.NewReader("\x00\xff\xff\xff"), events, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			items := 0
			var most uint64
			measure := func() {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
			err := c.read(c.body, func() {
				if items++; items%4096 == 0 {
					measure()
				}
			})
			measure()
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want one with %q", err, c.err)
			}
			if most > memory {
				t.Errorf("the heap had %d bytes, want at most %d", most, memory)
			}
		})
	}
}

// negotiator knows the generated types. It takes longer to make than all the rest of a test.
var negotiator = sync.OnceValue(func() kruntime.ClientNegotiator {
	scheme := kruntime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		panic(err)
	}
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	codec := serializer.NewCodecFactory(scheme).WithoutConversion()
	return kruntime.NewClientNegotiator(codec, schema.GroupVersion{Version: "v1"})
})

// clientGo decodes a watch as client-go does, to the generated types.
func clientGo(t testing.TB, contentType string, body io.Reader) *restwatch.Decoder {
	mediaType, _, _ := strings.Cut(contentType, ";")
	object, stream, framer, err := negotiator().StreamDecoder(mediaType, nil)
	if err != nil {
		t.Fatal(err)
	}
	frames := framer.NewFrameReader(io.NopCloser(body))
	return restwatch.NewDecoder(streaming.NewDecoder(frames, stream), object)
}

// readEvents reads a watch's events until the first error.
func readEvents(next func() (watch.Event, error)) (events []watch.Event, err error) {
	for {
		event, err := next()
		if err != nil {
			return events, err
		}
		if s, ok := event.Object.(*metav1.Status); ok {
			s.TypeMeta = metav1.TypeMeta{} // client-go clears what the object said.
		}
		events = append(events, event)
	}
}

// decoded are the events of a body as this package reads them, and as client-go does.
func decoded(t testing.TB, contentType string, body []byte) (got, want []watch.Event, gotErr, wantErr error) {
	got, gotErr = readEvents(NewEvents(bytes.NewReader(body), newPod).Next)
	decoder := clientGo(t, contentType, bytes.NewReader(body))
	want, wantErr = readEvents(func() (watch.Event, error) {
		event, object, err := decoder.Decode()
		if p, ok := object.(*corev1.Pod); ok {
			if contentType == jsonType {
				object = wantedOfJSON(p)
			} else {
				object = wanted(p)
			}
		}
		return watch.Event{Type: event, Object: object}, err
	})
	return got, want, gotErr, wantErr
}

func frame(t testing.TB, kind watch.EventType, object []byte) []byte {
	b := marshal(t, &metav1.WatchEvent{Type: string(kind), Object: kruntime.RawExtension{Raw: object}})
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

type eventCase struct {
	name   string
	events []watch.EventType // What is read of it before the end or an error.
	body   []byte
	err    string // "" for a clean end.
}

func protobufEvents(t testing.TB) []eventCase {
	p := full(1)
	status := metav1.Status{Status: "Failure", Message: "too old", Reason: metav1.StatusReasonExpired, Code: 410,
		Details: &metav1.StatusDetails{RetryAfterSeconds: 7}}
	end := corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "9",
		Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}
	list := corev1.PodList{Items: []corev1.Pod{p}}
	pod, failed := enveloped(t, "v1", "Pod", &p), enveloped(t, "v1", "Status", &status)
	large := full(2)
	large.Annotations["large"] = strings.Repeat("x", 1<<20)
	largePod := enveloped(t, "v1", "Pod", &large)
	framed := frame(t, "ADDED", pod)
	twoParts := append(frame(t, "DELETED", pod), framed[4:]...)
	binary.BigEndian.PutUint32(twoParts, uint32(len(twoParts)-4))
	return []eventCase{
		{"a pod", []watch.EventType{"ADDED"}, framed, ""},
		{"several", []watch.EventType{"ADDED", "MODIFIED"}, append(bytes.Clone(framed), frame(t, "MODIFIED", pod)...), ""},
		{"one that is larger than the buffer, between others", []watch.EventType{"ADDED", "ADDED", "DELETED"},
			append(append(bytes.Clone(framed), frame(t, "ADDED", largePod)...), frame(t, "DELETED", pod)...), ""},
		{"an empty pod", []watch.EventType{"DELETED"}, frame(t, "DELETED", enveloped(t, "v1", "Pod", &corev1.Pod{})), ""},
		{"the bookmark behind the first list", []watch.EventType{"BOOKMARK"},
			frame(t, "BOOKMARK", enveloped(t, "v1", "Pod", &end)), ""},
		{"an error", []watch.EventType{"ERROR"}, frame(t, "ERROR", failed), ""},
		{"an event in two parts, of which the last counts", []watch.EventType{"ADDED"}, twoParts, ""},
		{"a content type in the envelope", []watch.EventType{"ADDED"},
			frame(t, "ADDED", enveloped(t, "v1", "Pod", &p, "application/json")), ""},
		{"nothing", nil, nil, ""},
		{"an error that is a pod", nil, frame(t, "ERROR", pod), `its kind is "Pod"`},
		{"a pod that is a Status", nil, frame(t, "ADDED", failed), `a Status with the message "too old"`},
		{"a list", nil, frame(t, "ADDED", enveloped(t, "v1", "PodList", &list)), `its kind is "PodList"`},
		{"another version", nil, frame(t, "ADDED", enveloped(t, "v2", "Pod", &p)), `apiVersion "v2"`},
		{"another kind", nil, frame(t, "ADDED", enveloped(t, "v1", "Node", &p)), `its kind is "Node"`},
		{"no kind", nil, frame(t, "ADDED", enveloped(t, "", "", &p)), `its kind is ""`},
		{"no magic bytes", nil, frame(t, "ADDED", pod[4:]), "what begins with "},
		{"an object that is cut", nil, frame(t, "ADDED", pod[:len(pod)-1]), "Unknown: unexpected EOF"},
		{"a pod that is none", nil, frame(t, "ADDED", enveloped(t, "v1", "Pod", &kruntime.RawExtension{Raw: []byte{0xff}})),
			"reading a Pod of a watch"},
		{"no object", nil, frame(t, "ADDED", nil), `what begins with "" is no object`},
		{"an unknown type", nil, frame(t, "", pod), `its type is ""`},
		{"an empty event", nil, []byte{0, 0, 0, 0}, `its type is ""`},
		{"the end within a length", []watch.EventType{"ADDED"}, append(bytes.Clone(framed), 0, 0), "unexpected EOF"},
		{"the end within an event", nil, framed[:len(framed)-1], "unexpected EOF"},
		{"garbage", nil, []byte("\x00\x00\x00\x03\xff\xff\xff"), "WatchEvent: unexpected EOF"},
	}
}

func jsonEvents(t testing.TB) []eventCase {
	p := full(1)
	p.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
	pod := asJSON(t, &p)
	event := func(kind, object string) string { return `{"type":"` + kind + `","object":` + object + "}\n" }
	status := `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old","code":410}`
	end := `{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"9",` +
		`"annotations":{"k8s.io/initial-events-end":"true"}}}`
	return []eventCase{
		{"a pod", []watch.EventType{"ADDED"}, []byte(event("ADDED", pod)), ""},
		{"several", []watch.EventType{"ADDED", "BOOKMARK"}, []byte(event("ADDED", pod) + event("BOOKMARK", end)), ""},
		{"an error", []watch.EventType{"ERROR"}, []byte(event("ERROR", status)), ""},
		{"nothing", nil, nil, ""},
		{"white space", nil, []byte("\n \n"), ""},
		{"a Status for a pod", nil, []byte(event("ADDED", status)), `a Status with the message "too old"`},
		{"another kind", nil, []byte(event("ADDED", `{"kind":"Node","apiVersion":"v1"}`)), `its kind is "Node"`},
		{"no object", nil, []byte(`{"type":"ADDED"}`), `what begins with "" is no object`},
		{"an unknown type", nil, []byte(event("added", pod)), `its type is "added"`},
		{"a pod that is none", nil, []byte(event("ADDED", `{"kind":"Pod","apiVersion":"v1","spec":5}`)), "reading a Pod of a watch"},
		{"the end within an event", []watch.EventType{"ADDED"}, []byte(event("ADDED", pod) + `{"type":`), "unexpected EOF"},
		{"a page", nil, []byte("<html>Sign in"), `it begins with "<html>Sign in"`},
		{"garbage behind an event", []watch.EventType{"ADDED"}, []byte(event("ADDED", pod) + "x"), "invalid character 'x'"},
	}
}

func TestEventsAreReadAsClientGoReadsThem(t *testing.T) {
	for contentType, cases := range map[string][]eventCase{protobufType: protobufEvents(t), jsonType: jsonEvents(t)} {
		for _, c := range cases {
			t.Run(contentType+"/"+c.name, func(t *testing.T) {
				got, want, err, wantErr := decoded(t, contentType, c.body)
				switch {
				case c.err == "" && err != io.EOF:
					t.Errorf("error %v, want io.EOF; client-go: %v", err, wantErr)
				case c.err == "" && !reflect.DeepEqual(got, want):
					t.Errorf("got  %+v\nwant %+v", got, want)
				case !strings.Contains(err.Error(), c.err):
					t.Errorf("error %v, want one with %q", err, c.err)
				}
				var types []watch.EventType
				for _, event := range got {
					types = append(types, event.Type)
				}
				if !reflect.DeepEqual(types, c.events) {
					t.Errorf("read %q, want %q", types, c.events)
				}
				slow := iotest.OneByteReader(bytes.NewReader(c.body))
				again, err2 := readEvents(NewEvents(slow, newPod).Next)
				if !reflect.DeepEqual(again, got) || fmt.Sprint(err2) != fmt.Sprint(err) {
					t.Errorf("byte by byte: %+v, %v; at once: %+v, %v", again, err2, got, err)
				}
			})
		}
	}
}

func TestEventsReturnWhatTheReaderFailsWith(t *testing.T) {
	broken := errors.New("broken")
	for contentType, cases := range map[string][]eventCase{protobufType: protobufEvents(t), jsonType: jsonEvents(t)} {
		body := cases[0].body
		for n := range body {
			r := io.MultiReader(bytes.NewReader(body[:n]), iotest.ErrReader(broken))
			if events, err := readEvents(NewEvents(r, newPod).Next); !errors.Is(err, broken) {
				t.Fatalf("%s, broken after %d bytes: %v, %v", contentType, n, events, err)
			}
		}
	}
}

func FuzzEvents(f *testing.F) {
	for contentType, cases := range map[string][]eventCase{protobufType: protobufEvents(f), jsonType: jsonEvents(f)} {
		for _, c := range cases {
			f.Add(c.body, contentType == jsonType)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, isJSON bool) {
		if len(body) > 64<<10 {
			return // The fuzzer would take a minute to cut it down, and do nothing else.
		}
		contentType := protobufType
		if isJSON {
			contentType = jsonType
		}
		got, want, _, _ := decoded(t, contentType, body)
		for i := range min(len(got), len(want)) {
			if fmt.Sprintf("%+v", got[i]) != fmt.Sprintf("%+v", want[i]) {
				t.Errorf("event %d: got  %+v\nwant %+v", i, got[i], want[i])
			}
		}
	})
}

// An event is returned as soon as it is there, whatever is still to come.
func TestEventsAreNotHeldBack(t *testing.T) {
	for name, event := range map[string]string{
		"protobuf": string(frame(t, watch.Added, enveloped(t, "v1", "Pod", &corev1.Pod{}))),
		"JSON":     `{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1"}}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, w := io.Pipe()
				go io.WriteString(w, event+event) // and then nothing
				got := 0
				go func() {
					for events := NewEvents(r, newPod); ; got++ {
						if _, err := events.Next(); err != nil {
							return
						}
					}
				}()
				if synctest.Wait(); got != 2 {
					t.Errorf("%d events of 2", got)
				}
				w.Close()
			})
		})
	}
}

// BenchmarkEvents compares an event of a watch decoded in place with what client-go does.
func BenchmarkEvents(b *testing.B) {
	p := full(12345)
	body := &endless{bytes: frame(b, "ADDED", enveloped(b, "v1", "Pod", &p))}
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		body.at = 0
		events := NewEvents(body, newPod)
		for b.Loop() {
			if _, err := events.Next(); err != nil {
				b.Fatal(err)
			}
		}
	})
	body.at = 0
	b.Run("client-go", func(b *testing.B) {
		b.ReportAllocs()
		decoder := clientGo(b, protobufType, body)
		for b.Loop() {
			if _, _, err := decoder.Decode(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
