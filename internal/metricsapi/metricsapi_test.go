package metricsapi

import (
	"bytes"
	"cmp"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// String writes an Item in one line, for tables.
func (d decoded) String() string {
	s := d.namespace + "/" + d.name
	if !d.timestamp.IsZero() {
		s += " at " + d.timestamp.UTC().Format(time.RFC3339Nano)
	}
	if d.hasWindow {
		s += " over " + d.window.String()
	}
	for _, c := range d.containers {
		s += fmt.Sprintf(" [%s cpu=%s memory=%s]", c.name, c.cpu, c.memory)
	}
	return s
}

// String writes a Value for tables.
func (v Value) String() string {
	switch {
	case v.State == Absent && v.V == 0:
		return "absent"
	case v.State == Invalid && v.V == 0:
		return "invalid"
	case v.State == Valid:
		return fmt.Sprint(v.V)
	}
	return fmt.Sprintf("wrong state %d of %v", v.State, v.V)
}

func pod(namespace, name string, containers ...v1beta1.ContainerMetrics) v1beta1.PodMetrics {
	return v1beta1.PodMetrics{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name,
			CreationTimestamp: metav1.Unix(1_750_000_060, 0),
			Labels:            map[string]string{"app.kubernetes.io/name": name, "pod-template-hash": "6d4f8b9c7d"},
			Annotations:       map[string]string{"note": "skipped"},
		},
		Timestamp:  metav1.Unix(1_750_000_000, 0),
		Window:     metav1.Duration{Duration: 14833 * time.Millisecond},
		Containers: containers,
	}
}

func container(name, cpu, memory string) v1beta1.ContainerMetrics {
	return v1beta1.ContainerMetrics{Name: name, Usage: resources(cpu, memory)}
}

func resources(cpu, memory string) corev1.ResourceList {
	list := corev1.ResourceList{}
	if cpu != "" {
		list["cpu"] = resource.MustParse(cpu)
	}
	if memory != "" {
		list["memory"] = resource.MustParse(memory)
	}
	return list
}

func node(name, cpu, memory string) v1beta1.NodeMetrics {
	p := pod("", name)
	return v1beta1.NodeMetrics{
		ObjectMeta: p.ObjectMeta, Timestamp: p.Timestamp, Window: p.Window, Usage: resources(cpu, memory)}
}

// objects has one object of each kind with its type set, as an API server encodes it.
func objects() map[Kind]kruntime.Object {
	pods := &v1beta1.PodMetricsList{Items: []v1beta1.PodMetrics{
		pod("default", "web-1", container("app", "378089386n", "125448Ki"), container("sidecar", "7m", "61Mi")),
		pod("kube-system", "dns", container("dns", "0", "")),
	}}
	nodes := &v1beta1.NodeMetricsList{Items: []v1beta1.NodeMetrics{
		node("node-1", "1500m", "2Gi"), node("node-2", "2", "1e9")}}
	return map[Kind]kruntime.Object{PodMetricsList: pods, NodeMetricsList: nodes,
		PodMetrics: &pods.Items[0], NodeMetrics: &nodes.Items[0]}
}

var wantObjects = map[Kind][]string{
	PodMetricsList: {
		"default/web-1 at 2025-06-15T15:06:40Z over 14.833s [app cpu=0.378089386 memory=1.28458752e+08] " +
			"[sidecar cpu=0.007 memory=6.3963136e+07]",
		"kube-system/dns at 2025-06-15T15:06:40Z over 14.833s [dns cpu=0 memory=absent]",
	},
	NodeMetricsList: {
		"/node-1 at 2025-06-15T15:06:40Z over 14.833s [ cpu=1.5 memory=2.147483648e+09]",
		"/node-2 at 2025-06-15T15:06:40Z over 14.833s [ cpu=2 memory=1e+09]",
	},
	PodMetrics: {
		"default/web-1 at 2025-06-15T15:06:40Z over 14.833s [app cpu=0.378089386 memory=1.28458752e+08] " +
			"[sidecar cpu=0.007 memory=6.3963136e+07]",
	},
	NodeMetrics: {
		"/node-1 at 2025-06-15T15:06:40Z over 14.833s [ cpu=1.5 memory=2.147483648e+09]",
	},
}

// encode encodes an object of the kind with one of apimachinery's serializers.
func encode(t testing.TB, kind Kind, object kruntime.Object, s kruntime.Encoder) []byte {
	t.Helper()
	object = object.DeepCopyObject()
	object.GetObjectKind().SetGroupVersionKind(v1beta1.SchemeGroupVersion.WithKind(string(kind)))
	var b bytes.Buffer
	if err := s.Encode(object, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func serializers() map[string]kruntime.Encoder {
	return map[string]kruntime.Encoder{
		"protobuf":          protobuf.NewSerializer(nil, nil),
		"protobuf streamed": protobuf.NewSerializerWithOptions(nil, nil, protobuf.SerializerOptions{StreamingCollectionsEncoding: true}),
		"json":              kjson.NewSerializerWithOptions(nil, nil, nil, kjson.SerializerOptions{}),
		"json streamed":     kjson.NewSerializerWithOptions(nil, nil, nil, kjson.SerializerOptions{StreamingCollectionsEncoding: true}),
		"json indented":     kjson.NewSerializerWithOptions(nil, nil, nil, kjson.SerializerOptions{Pretty: true}),
	}
}

func TestReadWhatAPIServersEncode(t *testing.T) {
	var d Decoder // One for all: nothing of a body shows in the next.
	for name, s := range serializers() {
		for kind, object := range objects() {
			t.Run(name+" "+string(kind), func(t *testing.T) {
				body := encode(t, kind, object, s)
				got, err := decodeWith(&d, bytes.NewReader(body), kind)
				if err != nil {
					t.Fatal(err)
				}
				checkItems(t, got, wantObjects[kind])
			})
		}
	}
}

func checkItems(t *testing.T, got []decoded, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("item %d is missing: %s", i, want[i])
		case i >= len(want):
			t.Errorf("item %d is too many: %s", i, got[i])
		case got[i].String() != want[i]:
			t.Errorf("item %d is\n%q, want\n%q", i, got[i], want[i])
		}
	}
}

// Builders of wire format, for bodies that no encoder makes.
type message []byte

func (m message) bytes(num int32, content ...[]byte) message {
	return appendBytes(m, num, bytes.Join(content, nil))
}

func (m message) string(num int32, s string) message { return appendBytes(m, num, []byte(s)) }

func (m message) varint(num int32, v uint64) message {
	return protowire.AppendVarint(m.tag(num, protowire.VarintType), v)
}

func (m message) tag(num int32, typ protowire.Type) message {
	return protowire.AppendTag(m, protowire.Number(num), typ)
}

func (m message) raw(b ...byte) message { return append(m, b...) }

func typeMeta(kind Kind) message {
	return message{}.string(1, apiVersion).string(2, string(kind))
}

// envelope is a runtime.Unknown without the magic bytes.
func envelope(kind Kind, raw []byte) message {
	return message{}.bytes(1, typeMeta(kind)).bytes(2, raw).string(3, "").string(4, "")
}

// podList is the envelope of a list of one pod that has the fields.
func podList(fields message) message { return envelope(PodMetricsList, message{}.bytes(2, fields)) }

// containerUsage is the envelope of a list of one pod of one container that has the fields besides its name, a.
func containerUsage(fields message) message {
	return podList(message{}.bytes(4, message{}.string(1, "a"), fields))
}

func entry(key string, quantity message) message {
	return message{}.string(1, key).bytes(2, quantity)
}

func quantity(s string) message { return message{}.string(1, s) }

type protobufCase struct {
	name string
	kind Kind
	body message // Without the magic bytes.
	want []string
	err  string // Part of the error, where there must be one.
}

func protobufSeeds() []protobufCase {
	nul, end := []byte{0}, message{}
	named := message{}.bytes(1, message{}.string(1, "web"))
	group := func(num int32, inner message) message {
		return append(message{}.tag(num, protowire.StartGroupType), inner.tag(num, protowire.EndGroupType)...)
	}
	cases := []protobufCase{
		{name: "list of nothing", body: envelope(PodMetricsList, nil)},
		{name: "list metadata", body: envelope(PodMetricsList, message{}.bytes(1, message{}.string(2, "77"), message{}.varint(4, 5)).bytes(2, named)), want: []string{"/web"}},
		{name: "list metadata that is no message", body: envelope(PodMetricsList, message{}.string(1, "\xff\xff").bytes(2, named)), err: "ListMeta: unexpected EOF"},
		{name: "list metadata of the wrong wire type", body: envelope(PodMetricsList, message{}.varint(1, 5)), err: "PodMetricsList: field 1 has wire type 0"},
		{name: "items of the wrong wire type", body: envelope(PodMetricsList, message{}.varint(2, 5)), err: "PodMetricsList: field 2 has wire type 0"},
		{name: "item without anything", body: podList(nil), want: []string{"/"}},
		{name: "node without anything", kind: NodeMetricsList, body: envelope(NodeMetricsList, message{}.bytes(2)), want: []string{"/ [ cpu=absent memory=absent]"}},
		{name: "pod alone without anything", kind: PodMetrics, body: envelope(PodMetrics, nil), want: []string{"/"}},

		{name: "no object", body: message{}.bytes(1, typeMeta(PodMetricsList)), err: "envelope"},
		{name: "no type", body: message{}.bytes(2, nul[:0]), err: `its kind is ""`},
		{name: "type after the object", body: message{}.bytes(2).bytes(1, typeMeta(PodMetricsList)), err: `its kind is ""`},
		{name: "type before and after the object", body: envelope(PodMetricsList, nil).bytes(1, typeMeta(PodMetricsList)), err: "envelope"},
		{name: "type in two parts", body: message{}.bytes(1, message{}.string(1, apiVersion)).bytes(1, message{}.string(2, "PodMetricsList")).bytes(2)},
		{name: "type that is no message", body: message{}.string(1, "\xff"), err: "TypeMeta"},
		{name: "two objects", body: envelope(PodMetricsList, message{}.bytes(2, named)).bytes(2), err: "envelope"},
		{name: "object of the wrong wire type", body: message{}.bytes(1, typeMeta(PodMetricsList)).varint(2, 0), err: "Unknown: field 2"},
		{name: "unknown fields in the envelope", body: append(message{}.varint(9, 1).string(8, "x").tag(7, protowire.Fixed32Type).raw(1, 2, 3, 4), podList(named)...), want: []string{"/web"}},
		{name: "group in the envelope", body: append(group(7, message{}.varint(1, 1)), podList(named)...), err: "Unknown: field 7 has wire type 3"},
		{name: "trailing zero", body: podList(named).raw(0), err: "invalid field number"},
		{name: "trailing end of group", body: podList(named).tag(5, protowire.EndGroupType), err: "mismatching end group"},
		{name: "trailing field", body: podList(named).varint(5, 1), want: []string{"/web"}},
		{name: "another list", kind: NodeMetricsList, body: podList(named), err: `its kind is "PodMetricsList"`},
		{name: "another version", body: message{}.bytes(1, message{}.string(1, "metrics.k8s.io/v1").string(2, "PodMetricsList")).bytes(2), err: `apiVersion "metrics.k8s.io/v1",`},
		{name: "status", body: message{}.bytes(1, message{}.string(1, "v1").string(2, "Status")).bytes(2, message{}.string(3, "no metrics known")), err: `Status with the message "no metrics known"`},
		{name: "status that is no message", body: message{}.bytes(1, message{}.string(1, "v1").string(2, "Status")).bytes(2, nul), err: `Status with`},

		{name: "metadata in two parts is merged, the last name counts", body: podList(message{}.bytes(1, message{}.string(3, "default").string(1, "x")).bytes(1, message{}.string(1, "web"))), want: []string{"default/web"}},
		{name: "names with any bytes", body: podList(message{}.bytes(1, message{}.string(1, "\x00\xff\"\\\n"))), want: []string{"/\x00\xff\"\\\n"}},
		{name: "labels are skipped", body: podList(message{}.bytes(1, message{}.string(11, "\xff\xff").string(1, "web"))), want: []string{"/web"}},
		{name: "labels of the wrong wire type are skipped", body: podList(message{}.bytes(1, message{}.varint(11, 1).string(1, "web"))), want: []string{"/web"}},
		{name: "generation of the wrong wire type is skipped", body: podList(message{}.bytes(1, message{}.string(7, "").string(1, "web"))), want: []string{"/web"}},
		{name: "unknown fields everywhere", body: podList(message{}.varint(99, 1).bytes(1, message{}.string(99, "x").string(1, "web")).raw(group(50, group(51, end))...)), want: []string{"/web"}},
		{name: "groups that end with another number", body: podList(append(named, message{}.tag(50, protowire.StartGroupType).tag(60, protowire.EndGroupType)...)), err: "mismatching end group"},
		{name: "group without an end", body: podList(append(named, message{}.tag(50, protowire.StartGroupType)...)), err: "unexpected EOF"},
		{name: "wire type that does not exist", body: podList(message{}.tag(50, 6)), err: "reserved wire type"},
		{name: "field zero", body: podList(message{}.varint(0, 1)), err: "invalid field number"},
		{name: "fixed fields are skipped", body: podList(append(named, message{}.tag(50, protowire.Fixed64Type).raw(1, 2, 3, 4, 5, 6, 7, 8).tag(50, protowire.Fixed32Type).raw(1, 2, 3, 4)...)), want: []string{"/web"}},
		{name: "fixed field cut off", body: podList(message{}.tag(50, protowire.Fixed64Type).raw(1, 2, 3)), err: "unexpected EOF"},
		{name: "length beyond the item", body: podList(message{}.tag(1, protowire.BytesType).raw(5, 1)), err: "unexpected EOF"},
		{name: "length of 2^63-1", body: podList(message{}.tag(1, protowire.BytesType).raw(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f)), err: "unexpected EOF"},
		{name: "length of 2^64-1", body: podList(message{}.tag(1, protowire.BytesType).raw(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1)), err: "unexpected EOF"},
		{name: "item longer than the list", body: envelope(PodMetricsList, message{}.tag(2, protowire.BytesType).raw(100, 0)), err: "PodMetricsList: field 2 has 100 bytes, larger than the limit of 1"},
		{name: "list longer than the body", body: message{}.bytes(1, typeMeta(PodMetricsList)).tag(2, protowire.BytesType).raw(100).bytes(2, named), err: "unexpected EOF"},
		{name: "varint with bits beyond 64", body: podList(message{}.bytes(3, message{}.tag(1, protowire.VarintType).raw(0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7e))), err: "integer overflow"},
		{name: "varint of eleven bytes", body: podList(message{}.bytes(3, message{}.tag(1, protowire.VarintType).raw(0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0))), err: "integer overflow"},
		{name: "field number with bits beyond 32", body: podList(protowire.AppendVarint(nil, 1<<35|1<<3|2)).raw(), err: "invalid field number"},

		{name: "empty timestamp is none", body: podList(message{}.bytes(2)), want: []string{"/"}},
		{name: "timestamp without seconds is 1970", body: podList(message{}.bytes(2, message{}.varint(2, 5))), want: []string{"/ at 1970-01-01T00:00:00Z"}},
		{name: "timestamp before 1970", body: podList(message{}.bytes(2, message{}.varint(1, math.MaxUint64))), want: []string{"/ at 1969-12-31T23:59:59Z"}},
		{name: "last timestamp takes the place of others", body: podList(message{}.bytes(2, message{}.varint(1, 7)).bytes(2, message{}.varint(2, 5))), want: []string{"/ at 1970-01-01T00:00:00Z"}},
		{name: "empty timestamp takes the place of others", body: podList(message{}.bytes(2, message{}.varint(1, 7)).bytes(2)), want: []string{"/"}},
		{name: "timestamp of the wrong wire type", body: podList(message{}.bytes(2, message{}.string(1, "x"))), err: "Time: field 1"},
		{name: "nanos of the wrong wire type are skipped", body: podList(message{}.bytes(2, message{}.string(2, "x"))), want: []string{"/ at 1970-01-01T00:00:00Z"}},
		{name: "window of 0 and of negative length", body: envelope(PodMetricsList, message{}.bytes(2, message{}.bytes(3, message{}.varint(1, 0))).bytes(2, message{}.bytes(3, message{}.varint(1, math.MaxUint64)))), want: []string{"/ over 0s", "/ over -1ns"}},
		{name: "window without a length is none", body: podList(message{}.bytes(3)), want: []string{"/"}},
		{name: "window in two parts is merged", body: podList(message{}.bytes(3, message{}.varint(1, 9)).bytes(3)), want: []string{"/ over 9ns"}},
		{name: "window of the wrong wire type", body: podList(message{}.bytes(3, message{}.string(1, "x"))), err: "Duration: field 1"},

		{name: "usage of both", body: containerUsage(message{}.bytes(2, entry("cpu", quantity("7m"))).bytes(2, entry("memory", quantity("1Ki")))), want: []string{"/ [a cpu=0.007 memory=1024]"}},
		{name: "usage of a node", kind: NodeMetrics, body: envelope(NodeMetrics, message{}.bytes(4, entry("cpu", quantity("7m"))).bytes(4, entry("cpu", quantity("8m")))), want: []string{"/ [ cpu=0.008 memory=absent]"}},
		{name: "usage of something else", body: containerUsage(message{}.bytes(2, entry("pods", quantity("7")))), want: []string{"/ [a cpu=absent memory=absent]"}},
		{name: "usage of something else with no quantity", body: containerUsage(message{}.bytes(2, entry("pods", quantity("x")))), want: []string{"/ [a cpu=absent memory=absent]"}},
		{name: "last of two entries counts", body: containerUsage(message{}.bytes(2, entry("cpu", quantity("1"))).bytes(2, entry("cpu", quantity("2")))), want: []string{"/ [a cpu=2 memory=absent]"}},
		{name: "last of two quantities counts", body: containerUsage(message{}.bytes(2, entry("cpu", quantity("1").string(1, "2")))), want: []string{"/ [a cpu=2 memory=absent]"}},
		{name: "last of two quantities counts, whatever the first is", body: containerUsage(message{}.bytes(2, entry("cpu", quantity("x").string(1, "2")))), want: []string{"/ [a cpu=2 memory=absent]"}},
		{name: "last of two quantities counts, whatever it is", body: containerUsage(message{}.bytes(2, entry("cpu", quantity("2").string(1, "x")))), want: []string{"/ [a cpu=invalid memory=absent]"}},
		{name: "last of two keys counts", body: containerUsage(message{}.bytes(2, entry("cpu", quantity("1")).string(1, "memory"))), want: []string{"/ [a cpu=absent memory=1]"}},
		{name: "second value takes the place of the first", body: containerUsage(message{}.bytes(2, entry("cpu", quantity("1")).bytes(2))), want: []string{"/ [a cpu=invalid memory=absent]"}},
		{name: "entry without a value is not zero", body: containerUsage(message{}.bytes(2, message{}.string(1, "cpu"))), want: []string{"/ [a cpu=invalid memory=absent]"}},
		{name: "quantity without a string is not zero", body: containerUsage(message{}.bytes(2, entry("cpu", nil))), want: []string{"/ [a cpu=invalid memory=absent]"}},
		{name: "empty quantity is not zero", body: containerUsage(message{}.bytes(2, entry("cpu", quantity("")))), want: []string{"/ [a cpu=invalid memory=absent]"}},
		{name: "negative quantity", body: containerUsage(message{}.bytes(2, entry("cpu", quantity("-1m")))), want: []string{"/ [a cpu=invalid memory=absent]"}},
		{name: "quantity that is none", body: containerUsage(message{}.bytes(2, entry("cpu", quantity("lots"))).bytes(2, entry("memory", quantity("5")))), want: []string{"/ [a cpu=invalid memory=5]"}},
		{name: "entry without anything", body: containerUsage(message{}.bytes(2)), want: []string{"/ [a cpu=absent memory=absent]"}},
		{name: "entry with an unknown field", body: containerUsage(message{}.bytes(2, message{}.varint(3, 1), entry("cpu", quantity("5")), group(4, end))), want: []string{"/ [a cpu=5 memory=absent]"}},
		{name: "entry with a field zero", body: containerUsage(message{}.bytes(2, entry("cpu", quantity("5")), group(0, end))), err: "invalid field number"},
		{name: "entry with wrong wire types", body: containerUsage(message{}.bytes(2, message{}.tag(1, protowire.VarintType).raw(3).raw([]byte("cpu")...), message{}.tag(2, protowire.Fixed32Type).raw(3), quantity("5"))), err: "an entry: field 1 has wire type 0"},
		{name: "entry shorter than its key", body: containerUsage(message{}.tag(2, protowire.BytesType).raw(4, 0x0a, 3, 'c', 'p', 'u', 1, 2, 3, 4)), err: "an entry: unexpected EOF"},
		{name: "entry that reaches into the next", body: containerUsage(message{}.tag(2, protowire.BytesType).raw(7, 0x0a, 3, 'c', 'p', 'u', 0x12, 3).string(1, "5")), err: "an entry: unexpected EOF"},
		{name: "entry shorter than the tag of an unknown field", body: containerUsage(message{}.tag(2, protowire.BytesType).raw(1, 0xf8, 1, 5)), err: "unexpected EOF"},
		{name: "key longer than the container", body: containerUsage(message{}.bytes(2, message{}.raw(0x0a, 100))), err: "unexpected EOF"},
		{name: "unknown field longer than the entry", body: containerUsage(message{}.bytes(2, message{}.tag(3, protowire.BytesType).raw(100))), err: "unexpected EOF"},
		{name: "quantity with a length near 2^63", body: containerUsage(message{}.bytes(2, entry("cpu", message{}.tag(1, protowire.BytesType).raw(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f)))), err: "unexpected EOF"},
		{name: "quantity of the wrong wire type", body: containerUsage(message{}.bytes(2, entry("cpu", message{}.varint(1, 1)))), err: "Quantity: field 1"},
		{name: "quantity with unknown fields", body: containerUsage(message{}.bytes(2, entry("cpu", quantity("5").varint(2, 1).raw(group(3, group(4, message{}.string(5, "x")))...)))), want: []string{"/ [a cpu=5 memory=absent]"}},
		{name: "containers of the wrong wire type", body: podList(message{}.varint(4, 1)), err: "an item: field 4 has wire type 0"},
		{name: "usage of a node of the wrong wire type", kind: NodeMetrics, body: envelope(NodeMetrics, message{}.varint(4, 1)), err: "an item: field 4 has wire type 0"},
		{name: "usage of the wrong wire type", body: containerUsage(message{}.varint(2, 1)), err: "ContainerMetrics: field 2"},
		{name: "container twice, and one without a name", body: podList(message{}.bytes(4, message{}.string(1, "a")).bytes(4, message{}.string(1, "a")).bytes(4)), want: []string{"/ [a cpu=absent memory=absent] [a cpu=absent memory=absent] [ cpu=absent memory=absent]"}},
	}
	for kind, object := range objects() {
		object = object.DeepCopyObject()
		object.GetObjectKind().SetGroupVersionKind(v1beta1.SchemeGroupVersion.WithKind(string(kind)))
		var b bytes.Buffer
		if err := protobuf.NewSerializer(nil, nil).Encode(object, &b); err != nil {
			panic(err)
		}
		cases = append(cases, protobufCase{
			name: "a regular " + string(kind), kind: kind, body: b.Bytes()[len(magic):], want: wantObjects[kind]})
	}
	for i := range cases {
		cases[i].kind = cmp.Or(cases[i].kind, PodMetricsList)
	}
	return cases
}

func TestProtobuf(t *testing.T) {
	for _, c := range protobufSeeds() {
		t.Run(c.name, func(t *testing.T) {
			body := append([]byte("k8s\x00"), c.body...)
			got, err := decode(bytes.NewReader(body), c.kind)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want one with %q", err, c.err)
				}
			} else if err != nil {
				t.Error(err)
			} else {
				checkItems(t, got, c.want)
			}
			checkAgainstProtobuf(t, body, c.kind, got, err)
			checkPieces(t, body, c.kind, got, err)
		})
	}
}

type jsonCase struct {
	name string
	kind Kind
	body string
	want []string
	err  string
}

// jsonList is a PodMetricsList with the items.
func jsonList(items string) string {
	return `{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","metadata":{},"items":` + items + `}`
}

func jsonUsageOf(usage string) string {
	return jsonList(`[{"containers":[{"name":"a","usage":` + usage + `}]}]`)
}

func jsonSeeds() []jsonCase {
	const podAlone = `{"kind":"PodMetrics","apiVersion":"metrics.k8s.io/v1beta1"`
	cases := []jsonCase{
		{name: "list of nothing", body: jsonList(`[]`)},
		{name: "null items", body: jsonList(`null`)},
		{name: "items that begin like null", body: jsonList(`nul`), err: "invalid character"},
		{name: "no items", body: `{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1"}`},
		{name: "items that are no array", body: jsonList(`{}`), err: "the items are no array"},
		{name: "items before the kind", body: `{"items":[{}],"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1"}`, want: []string{"/"}},
		{name: "items before the wrong kind", body: `{"items":[{}],"kind":"PodList","apiVersion":"v1"}`, err: `its kind is "PodList"`},
		{name: "items twice", body: `{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","items":[{"metadata":{"name":"x"}}],"items":[{}]}`, err: "the list has items twice"},
		{name: "kind twice", body: `{"kind":"X","kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","items":[{}]}`, want: []string{"/"}},
		{name: "kind twice, of which the last counts", body: `{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","items":[{}],"kind":"X"}`, err: `its kind is "X"`},
		{name: "keys in other cases are others", body: `{"Kind":"X","Items":[{}],"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","ITEMS":5}`},
		{name: "keys with escapes are the same", body: `{"\u006bind":"PodMetricsList","apiVersion":"metrics.k8s.io\/v1beta1","it\u0065ms":[{}]}`, want: []string{"/"}},
		{name: "white space anywhere", body: "\r\n\t {\n\"kind\" : \"PodMetricsList\" ,\r\n\"apiVersion\":\t\"metrics.k8s.io/v1beta1\",\"items\" : [ { } , null ] } \n", want: []string{"/", "/"}},
		{name: "kind of the wrong type", body: `{"kind":5,"items":[]}`, err: "cannot unmarshal number"},
		{name: "no kind", body: `{"apiVersion":"metrics.k8s.io/v1beta1","items":[]}`, err: `its kind is ""`},
		{name: "null", body: `null`, err: `it begins with "null"`},
		{name: "message of the wrong type", body: `{"message":5,"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1"}`, err: "cannot unmarshal number"},
		{name: "status", body: `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"no metrics \"known\"","code":503}`, err: `Status with the message "no metrics \"known\""`},
		{name: "status for a pod alone", kind: PodMetrics, body: `{"kind":"Status","apiVersion":"v1","message":"pods \"x\" not found"}`, err: `Status with the message "pods \"x\" not found"`},
		{name: "status whose message is no string", body: `{"kind":"Status","message":{}}`, err: "cannot unmarshal object"},
		{name: "another list", kind: NodeMetricsList, body: jsonList(`[]`), err: `its kind is "PodMetricsList"`},
		{name: "something after the list", body: jsonList(`[]`) + "x", err: "invalid character 'x'"},
		{name: "two lists", body: jsonList(`[]`) + jsonList(`[]`), err: `"{" follows where the body should end`},
		{name: "comma at the end of the items", body: jsonList(`[{},]`), err: "item 2: "},
		{name: "comma at the end of the list", body: `{"kind":"PodMetricsList",}`, err: "invalid character '}'"},
		{name: "no comma", body: jsonList(`[{}{}]`), err: "expected comma"},
		{name: "no colon", body: `{"kind" "PodMetricsList"}`, err: "expected colon"},
		{name: "key that is no string", body: `{kind:"PodMetricsList"}`, err: "invalid character 'k'"},
		{name: "brackets that do not match", body: jsonList(`[{"containers":[}]}]`), err: "invalid character"},
		{name: "brackets that do not match in what is skipped", body: `{"metadata":{"x":[}},"kind":"PodMetricsList"}`, err: "invalid character"},
		{name: "brackets and quotes in strings", body: jsonList(`[{"metadata":{"name":"]}\"[{\\"}}]`), want: []string{`/]}"[{\`}},
		{name: "item that is a number", body: jsonList(`[5]`), err: "cannot unmarshal number"},
		{name: "pod alone", kind: PodMetrics, body: podAlone + `,"metadata":{"name":"web"}}`, want: []string{"/web"}},
		{name: "pod alone with usage, which only a node has", kind: PodMetrics, body: podAlone + `,"usage":{"cpu":"5"}}`, want: []string{"/"}},
		{name: "pod alone with usage of the wrong type", kind: PodMetrics, body: podAlone + `,"usage":5}`, err: "cannot unmarshal number"},
		{name: "something after a pod alone", kind: PodMetrics, body: podAlone + `}{}`, err: "after top-level value"},

		{name: "labels of the wrong type are skipped", body: jsonList(`[{"metadata":{"labels":5,"name":"web","creationTimestamp":"then"}}]`), want: []string{"/web"}},
		{name: "name of the wrong type", body: jsonList(`[{"metadata":{"name":5}}]`), err: "cannot unmarshal number"},
		{name: "null metadata, name and containers", body: jsonList(`[{"metadata":null,"containers":null},{"metadata":{"name":null},"containers":[null]}]`), want: []string{"/", "/ [ cpu=absent memory=absent]"}},
		{name: "metadata twice is merged", body: jsonList(`[{"metadata":{"name":"x","namespace":"default"},"metadata":{"name":"web"}}]`), want: []string{"default/web"}},
		{name: "containers twice are merged", body: jsonList(`[{"containers":[{"name":"a"},{"name":"b"}],"containers":[{"usage":{"cpu":"1"}}]}]`), want: []string{"/ [a cpu=1 memory=absent]"}},
		{name: "names with any characters", body: jsonList("[{\"metadata\":{\"name\":\"\\u0000\\n\\\"\xff\"}}]"), want: []string{"/\x00\n\"\ufffd"}},

		{name: "timestamp with a fraction and a zone", body: jsonList(`[{"timestamp":"2025-06-15T17:06:40.5+02:00"}]`), want: []string{"/ at 2025-06-15T15:06:40.5Z"}},
		{name: "null timestamp is none", body: jsonList(`[{"timestamp":null}]`), want: []string{"/"}},
		{name: "timestamp that is none", body: jsonList(`[{"timestamp":"yesterday"}]`), err: "parsing time"},
		{name: "window of 0 and of negative length", body: jsonList(`[{"window":"0s"},{"window":"-1m2s"}]`), want: []string{"/ over 0s", "/ over -1m2s"}},
		{name: "null window is none", body: jsonList(`[{"window":null}]`), want: []string{"/"}},
		{name: "empty window", body: jsonList(`[{"window":""}]`), err: "invalid duration"},
		{name: "window that is none", body: jsonList(`[{"window":15}]`), err: "cannot unmarshal number"},

		{name: "usage of both", body: jsonUsageOf(`{"cpu":"7m","memory":"1Ki"}`), want: []string{"/ [a cpu=0.007 memory=1024]"}},
		{name: "usage in other cases is other usage", body: jsonUsageOf(`{"CPU":"7m","Memory":"1Ki"}`), want: []string{"/ [a cpu=absent memory=absent]"}},
		{name: "usage in numbers", body: jsonUsageOf(`{"cpu":0.5,"memory":1e3}`), want: []string{"/ [a cpu=0.5 memory=1000]"}},
		{name: "usage with white space", body: jsonUsageOf(`{"cpu":" 5 ","memory":"5 Ki"}`), want: []string{"/ [a cpu=5 memory=invalid]"}},
		{name: "usage with escapes, which are not read", body: jsonUsageOf(`{"cpu":"\u0035"}`), want: []string{"/ [a cpu=invalid memory=absent]"}},
		{name: "null and empty quantities are not zero", body: jsonUsageOf(`{"cpu":null,"memory":""}`), want: []string{"/ [a cpu=invalid memory=invalid]"}},
		{name: "quantities that are none", body: jsonUsageOf(`{"cpu":{"a":1},"memory":true}`), want: []string{"/ [a cpu=invalid memory=invalid]"}},
		{name: "usage of something else with no quantity", body: jsonUsageOf(`{"pods":[]}`), want: []string{"/ [a cpu=absent memory=absent]"}},
		{name: "last of two entries counts", body: jsonUsageOf(`{"cpu":"x","cpu":"2"}`), want: []string{"/ [a cpu=2 memory=absent]"}},
		{name: "usage twice is merged", body: jsonUsageOf(`{"cpu":"1"},"usage":{"memory":"2"}`), want: []string{"/ [a cpu=1 memory=2]"}},
		{name: "null usage takes away what was before", body: jsonUsageOf(`{"cpu":"1"},"usage":null`), want: []string{"/ [a cpu=absent memory=absent]"}},
		{name: "usage of the wrong type", body: jsonUsageOf(`"5"`), err: "cannot unmarshal string"},
		{name: "usage of a node", kind: NodeMetrics, body: `{"kind":"NodeMetrics","apiVersion":"metrics.k8s.io/v1beta1","containers":[{"usage":{"cpu":"2"}}],"usage":{"cpu":"1"}}`, want: []string{"/ [ cpu=1 memory=absent]"}},
	}
	for kind, object := range objects() {
		object = object.DeepCopyObject()
		object.GetObjectKind().SetGroupVersionKind(v1beta1.SchemeGroupVersion.WithKind(string(kind)))
		b, err := stdjson.Marshal(object)
		if err != nil {
			panic(err)
		}
		cases = append(cases, jsonCase{
			name: "a regular " + string(kind), kind: kind, body: string(b), want: wantObjects[kind]})
	}
	for i := range cases {
		cases[i].kind = cmp.Or(cases[i].kind, PodMetricsList)
	}
	return cases
}

func TestJSON(t *testing.T) {
	for _, c := range jsonSeeds() {
		t.Run(c.name, func(t *testing.T) {
			got, err := decode(strings.NewReader(c.body), c.kind)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want one with %q", err, c.err)
				}
			} else if err != nil {
				t.Error(err)
			} else {
				checkItems(t, got, c.want)
			}
			checkAgainstJSON(t, []byte(c.body), c.kind, got, err)
			checkPieces(t, []byte(c.body), c.kind, got, err)
		})
	}
}

func TestBodyCutOffAtEveryByte(t *testing.T) {
	for name, s := range serializers() {
		for kind, object := range objects() {
			t.Run(name+" "+string(kind), func(t *testing.T) {
				body := bytes.TrimSpace(encode(t, kind, object, s))
				complete := len(body)
				if bytes.HasPrefix(body, magic) {
					// The object is followed by two empty strings, contentEncoding and contentType. Without them, or
					// without the second, the body is a complete one.
					complete -= len(message{}.string(3, "").string(4, ""))
				}
				var d Decoder
				for n := range body {
					got, err := decodeWith(&d, bytes.NewReader(body[:n]), kind)
					if n < complete && err == nil {
						t.Fatalf("the first %d of %d bytes are accepted, with %v", n, len(body), got)
					}
					if n > len(magic) && err != nil && !errors.Is(err, io.ErrUnexpectedEOF) &&
						!strings.Contains(err.Error(), "envelope") { // Which ends before the object.
						t.Fatalf("the first %d of %d bytes: %v, which is not %v", n, len(body), err, io.ErrUnexpectedEOF)
					}
					if bytes.HasPrefix(body, magic) {
						checkAgainstProtobuf(t, body[:n], kind, got, err)
					} else {
						checkAgainstJSON(t, body[:n], kind, got, err)
					}
				}
			})
		}
	}
}

func TestBodyThatIsSomethingElse(t *testing.T) {
	tests := []struct{ name, body, want string }{
		{"empty", "", "the body is empty"},
		{"white space", " \r\n\t", "the body is empty"},
		{"a page", "<html><body>Sign in</body></html>", `neither Kubernetes protobuf nor a JSON object; it begins with "<html><body>Sign in`},
		{"gzip", "\x1f\x8b\x08\x00", `begins with "\x1f\x8b\b\x00"`},
		{"part of the magic bytes", "k8s", `begins with "k8s"`},
		{"the magic bytes alone", "k8s\x00", "envelope"},
		{"another encoding with that magic", "k8s\x01abc", `begins with "k8s\x01abc"`},
		{"an array", "[]", `begins with "[]"`},
		{"a number", "5", `begins with "5"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, kind := range []Kind{PodMetricsList, NodeMetrics} {
				got, err := decode(strings.NewReader(tt.body), kind)
				if err == nil || !strings.Contains(err.Error(), tt.want) ||
					!strings.Contains(err.Error(), "reading a "+string(kind)) {
					t.Errorf("%s: error %v, want one with %q", kind, err, tt.want)
				}
				if got != nil {
					t.Errorf("%s: visited %v", kind, got)
				}
			}
		})
	}
}

// repeat gives its bytes again and again, n bytes in all.
type repeat struct {
	bytes string
	n     int64
	given int64
}

func (r *repeat) Read(p []byte) (int, error) {
	if r.given == r.n {
		return 0, io.EOF
	}
	for len(r.bytes) < 4096 {
		r.bytes += r.bytes
	}
	p = p[:min(int64(len(p)), r.n-r.given)]
	n := copy(p, r.bytes[r.given%int64(len(r.bytes)):])
	r.given += int64(n)
	return n, nil
}

// bodyOf is a reader of parts: strings, byte slices and readers.
func bodyOf(parts ...any) io.Reader {
	var readers []io.Reader
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			readers = append(readers, strings.NewReader(p))
		case message:
			readers = append(readers, bytes.NewReader(p))
		case []byte:
			readers = append(readers, bytes.NewReader(p))
		case io.Reader:
			readers = append(readers, p)
		default:
			panic(p)
		}
	}
	return io.MultiReader(readers...)
}

// The bodies here are large, endless or lie about their size. None of them may make the Decoder hold more than some of
// the largest item, nor keep anything of that.
func TestHostileBodiesStayInBounds(t *testing.T) {
	const (
		limit   = 8 << 20
		memory  = 64 << 20 // The largest item in buffers grown by doubling, and what encoding/json makes of it.
		small   = 256 << 10
		garbage = 256 << 20 // What 130,000 JSON items leave behind one after the other.
	)
	head := string(magic) + string(message{}.bytes(1, typeMeta(PodMetricsList)))
	rawOf := func(size uint64) message {
		return protowire.AppendVarint(message{}.tag(2, protowire.BytesType), size)
	}
	jsonHead := `{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1",`
	smallItem := string(message{}.string(2, string(message{}.string(99, strings.Repeat("x", 9)))))
	smallItems := (limit - 100) / len(smallItem)
	manyContainers := message{}.raw(bytes.Repeat(message{}.bytes(4), maxContainers+1)...)
	tests := []struct {
		name   string
		body   io.Reader
		err    string
		memory uint64
		items  int
	}{
		{"protobuf over the limit by its length", bodyOf(head, rawOf(2<<30)), "larger than the limit", small, 0},
		{"protobuf at the limit that ends early", bodyOf(head, rawOf(limit-1000)), "unexpected EOF", small, 0},
		{"protobuf over the limit after a list of small items", bodyOf(head,
			rawOf(uint64(smallItems*len(smallItem))), strings.Repeat(smallItem, smallItems),
			&repeat{bytes: string(message{}.string(3, "")), n: 1 << 30}), "larger than the limit", small, smallItems},
		{"unknown field over the limit", bodyOf(head, protowire.AppendVarint(message{}.tag(9, protowire.BytesType), 1<<40), &repeat{bytes: "x", n: 1 << 40}), "larger than the limit", small, 0},
		{"endless group", bodyOf(head, message{}.tag(9, protowire.StartGroupType), &repeat{bytes: string(message{}.string(1, strings.Repeat("x", 100))), n: 1 << 40}), "field 9 has wire type 3", small, 0},
		{"endlessly nested groups", bodyOf(head, &repeat{bytes: string(message{}.tag(1<<28, protowire.StartGroupType)), n: 1 << 40}), "has wire type 3", small, 0},
		{"item with endlessly nested groups", bodyOf(head, rawOf(4<<20), protowire.AppendVarint(message{}.tag(2, protowire.BytesType), 4<<20-5), &repeat{bytes: string(message{}.tag(9, protowire.StartGroupType)), n: 4 << 20}), "parse error", memory, 0},
		{"type over the limit of an item", bodyOf(string(magic), protowire.AppendVarint(message{}.tag(1, protowire.BytesType), 5<<20), &repeat{bytes: "x", n: 5 << 20}), "over the limit of 4194304", small, 0},
		{"item over the limit", bodyOf(head, rawOf(6<<20), protowire.AppendVarint(message{}.tag(2, protowire.BytesType), 5<<20), &repeat{bytes: "x", n: 5 << 20}), "over the limit of 4194304", small, 0},
		{"item whose length lies", bodyOf(head, rawOf(4<<20), protowire.AppendVarint(message{}.tag(2, protowire.BytesType), 4<<20-5)), "unexpected EOF", small, 0},
		{"name of 1 MB", bodyOf(string(magic), podList(message{}.bytes(1, message{}.string(1, strings.Repeat("n", 1<<20))))), "", memory, 1},
		{"more containers than a pod can have", bodyOf(string(magic), podList(manyContainers)), "more than 10000 containers", memory, 0},
		{"status without end", bodyOf(string(magic), message{}.bytes(1, message{}.string(1, "v1").string(2, "Status")), rawOf(5<<20)), "Status", small, 0},

		{"JSON over the limit in small items", bodyOf(jsonHead, `"items":[`, &repeat{bytes: "null," + strings.Repeat(" ", 59), n: 1 << 30}), "larger than the limit", garbage, -1},
		{"endless white space", bodyOf(&repeat{bytes: " ", n: 1 << 40}), "larger than the limit", small, 0},
		{"endless string", bodyOf(jsonHead, `"items":[{"metadata":{"name":"`, &repeat{bytes: "x", n: 1 << 40}), "over the limit of 4194304", memory, 0},
		{"endless key", bodyOf(`{"`, &repeat{bytes: "x", n: 1 << 40}), "over the limit of 4194304", memory, 0},
		{"endless value that is skipped", bodyOf(`{"metadata":[`, &repeat{bytes: "1,", n: 1 << 40}), "over the limit of 4194304", memory, 0},
		{"endlessly nested arrays", bodyOf(jsonHead, `"items":[`, &repeat{bytes: "[", n: 1 << 40}), "exceeded max depth", memory, 0},
		{"arrays nested too deep", bodyOf(jsonHead, `"items":[`, &repeat{bytes: "[", n: 1 << 20}, &repeat{bytes: "]", n: 1 << 20}, `]}`), "exceeded max depth", memory, 0},
		{"JSON item over the limit in a body that fits the buffer", bodyOf(jsonHead, `"items":[{"metadata":{"name":"`, &repeat{bytes: "x", n: 5 << 20}, `"}}]}`), "over the limit of 4194304", memory, 0},
		{"JSON name of 1 MB", bodyOf(jsonHead, `"items":[{"metadata":{"name":"`, &repeat{bytes: "x", n: 1 << 20}, `"}}]}`), "", memory, 1},
		{"JSON with more containers than a pod can have", bodyOf(jsonHead, `"items":[{"containers":[{}`, &repeat{bytes: ",{}", n: 3 * maxContainers}, `]}]}`), "more than 10000 containers", memory, 0},
		{"JSON timestamp of 1 MB", bodyOf(jsonHead, `"items":[{"timestamp":"`, &repeat{bytes: "x", n: 1 << 20}, `"}]}`), "parsing time", memory, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var d Decoder
			d.body.MaxBody = limit
			items := 0
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := d.Read(tt.body, PodMetricsList, func(*Item) error {
				items++
				return nil
			})
			runtime.ReadMemStats(&after)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v, want one with %q", err, tt.err)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > tt.memory {
				t.Errorf("%d bytes were allocated, want at most %d", used, tt.memory)
			}
			if tt.items >= 0 && items != tt.items {
				t.Errorf("%d items were visited, want %d", items, tt.items)
			}
			if kept := cap(d.item.Containers); kept > 2*maxContainers {
				t.Errorf("%d containers are kept", kept)
			}
		})
	}
}

// failsOnce is a reader that fails, and is at its end from then on.
type failsOnce struct{ err error }

func (f *failsOnce) Read([]byte) (int, error) {
	err := f.err
	f.err = io.EOF
	return 0, err
}

func TestErrorsOfReaderAndVisit(t *testing.T) {
	broken := errors.New("broken")
	for name, s := range serializers() {
		t.Run(name, func(t *testing.T) {
			body := encode(t, PodMetricsList, objects()[PodMetricsList], s)
			var d Decoder
			for n := range body {
				r := io.MultiReader(bytes.NewReader(body[:n]), &failsOnce{broken}, bytes.NewReader(body[n:]))
				_, err := decodeWith(&d, r, PodMetricsList)
				if !errors.Is(err, broken) {
					t.Fatalf("the reader breaks after %d of %d bytes: error %v", n, len(body), err)
				}
			}
			visits := 0
			err := d.Read(bytes.NewReader(body), PodMetricsList, func(*Item) error {
				visits++
				return broken
			})
			if !errors.Is(err, broken) || visits != 1 {
				t.Errorf("visit breaks: error %v after %d visits", err, visits)
			}
			if got, err := decodeWith(&d, bytes.NewReader(body), PodMetricsList); err != nil {
				t.Error("the same decoder afterwards:", err)
			} else {
				checkItems(t, got, wantObjects[PodMetricsList])
			}
		})
	}
}

// idle is a reader that never has anything and never ends.
type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

func TestReaderThatGivesNothing(t *testing.T) {
	if _, err := decode(idle{}, PodMetricsList); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("error %v, want %v", err, io.ErrNoProgress)
	}
}

func TestReaderThatGivesDataAndErrorAtOnce(t *testing.T) {
	for name, s := range serializers() {
		t.Run(name, func(t *testing.T) {
			body := encode(t, PodMetricsList, objects()[PodMetricsList], s)
			got, err := decode(iotest.DataErrReader(bytes.NewReader(body)), PodMetricsList)
			if err != nil {
				t.Fatal(err)
			}
			checkItems(t, got, wantObjects[PodMetricsList])
		})
	}
}

// A list of any length costs a used Decoder the same few allocations: those of the list, none of its items.
func TestProtobufItemsAllocateNothing(t *testing.T) {
	var d Decoder
	allocs := func(pods int) float64 {
		body := encode(t, PodMetricsList, manyPods(pods), protobuf.NewSerializer(nil, nil))
		r := bytes.NewReader(body)
		visit := func(*Item) error { return nil }
		return testing.AllocsPerRun(10, func() {
			r.Reset(body)
			if err := d.Read(r, PodMetricsList, visit); err != nil {
				t.Fatal(err)
			}
		})
	}
	few, many := allocs(10), allocs(5000)
	if many > few+3 || few > 10 { // a pooled buffer may be gone now and then
		t.Errorf("%v allocations for 10 pods, %v for 5000", few, many)
	}
}
