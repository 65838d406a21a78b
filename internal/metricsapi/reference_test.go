package metricsapi

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"testing/iotest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// The reference is the generated types of k8s.io/metrics/pkg/apis/metrics/v1beta1 with their own Unmarshal or
// apimachinery's JSON decoder. What it decodes and what the Decoder visits are brought to the same form to be compared.

// decoded is an Item that has been copied out of the buffers.
type decoded struct {
	namespace, name string
	timestamp       time.Time
	window          time.Duration
	hasWindow       bool
	containers      []decodedContainer
}

type decodedContainer struct {
	name        string
	cpu, memory Value
}

// decode reads a body with the Decoder under test.
func decode(r io.Reader, kind Kind) ([]decoded, error) {
	var d Decoder
	return decodeWith(&d, r, kind)
}

func decodeWith(d *Decoder, r io.Reader, kind Kind) ([]decoded, error) {
	var items []decoded
	err := d.Read(r, kind, func(i *Item) error {
		item := decoded{
			namespace: string(i.Namespace), name: string(i.Name),
			timestamp: i.Timestamp, window: i.Window, hasWindow: i.HasWindow,
		}
		for _, c := range i.Containers {
			item.containers = append(item.containers, decodedContainer{string(c.Name), c.CPU, c.Memory})
		}
		items = append(items, item)
		return nil
	})
	return items, err
}

// unmarshaler is what each of the generated types can do.
type unmarshaler interface {
	runtime.Object
	Unmarshal([]byte) error
	Marshal() ([]byte, error)
}

func newReference(kind Kind) unmarshaler {
	return map[Kind]unmarshaler{PodMetricsList: &v1beta1.PodMetricsList{}, PodMetrics: &v1beta1.PodMetrics{},
		NodeMetricsList: &v1beta1.NodeMetricsList{}, NodeMetrics: &v1beta1.NodeMetrics{}}[kind]
}

const apiVersion = "metrics.k8s.io/v1beta1"

var magic = []byte("k8s\x00")

var errReference = errors.New("the reference refuses")

// referenceProtobuf decodes an envelope with the generated code. A panic of that, which lengths near 2^63 in a Quantity
// cause, counts as a refusal.
func referenceProtobuf(data []byte, kind Kind) (object unmarshaler, err error) {
	unknown, err := referenceEnvelope(data, kind)
	if err != nil {
		return nil, err
	}
	return referenceObject(unknown.Raw, kind)
}

func referenceEnvelope(data []byte, kind Kind) (*runtime.Unknown, error) {
	var unknown runtime.Unknown
	if !bytes.HasPrefix(data, magic) {
		return nil, errReference
	}
	if err := unknown.Unmarshal(data[len(magic):]); err != nil {
		return nil, err
	}
	if unknown.Kind != string(kind) || unknown.APIVersion != apiVersion || unknown.Raw == nil {
		return nil, errReference
	}
	return &unknown, nil
}

func referenceObject(raw []byte, kind Kind) (object unmarshaler, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: it panics: %v", errReference, p)
		}
	}()
	object = newReference(kind)
	return object, object.Unmarshal(raw)
}

func referenceJSON(data []byte, kind Kind) (unmarshaler, error) {
	object := newReference(kind)
	if err := json.Unmarshal(data, object); err != nil {
		return nil, err
	}
	gvk := object.GetObjectKind().GroupVersionKind()
	if gvk.Kind != string(kind) || gvk.GroupVersion().String() != apiVersion {
		return nil, errReference
	}
	return object, nil
}

// compare tells in what the visited items differ from the reference's object.
func compare(object unmarshaler, got []decoded, lenient bool) error {
	var pods []v1beta1.PodMetrics
	switch o := object.(type) {
	case *v1beta1.PodMetricsList:
		pods = o.Items
	case *v1beta1.PodMetrics:
		pods = []v1beta1.PodMetrics{*o}
	case *v1beta1.NodeMetricsList:
		for _, n := range o.Items {
			pods = append(pods, nodeAsPod(n))
		}
	case *v1beta1.NodeMetrics:
		pods = []v1beta1.PodMetrics{nodeAsPod(*o)}
	}
	if len(pods) != len(got) {
		return fmt.Errorf("%d items, the reference has %d", len(got), len(pods))
	}
	for i, want := range pods {
		got := got[i]
		if got.namespace != want.Namespace || got.name != want.Name || !got.timestamp.Equal(want.Timestamp.Time) ||
			got.window != want.Window.Duration || !got.hasWindow && got.window != 0 ||
			len(got.containers) != len(want.Containers) {
			return fmt.Errorf("item %d is %+v, the reference has %+v", i, got, want)
		}
		for j, want := range want.Containers {
			got := got.containers[j]
			if got.name != want.Name {
				return fmt.Errorf("item %d, container %d is %q, the reference has %q", i, j, got.name, want.Name)
			}
			for resource, got := range map[corev1.ResourceName]Value{"cpu": got.cpu, "memory": got.memory} {
				quantity, ok := want.Usage[resource]
				if err := compareValue(quantity, ok, got, lenient); err != nil {
					return fmt.Errorf("item %d, container %d, %s: %w", i, j, resource, err)
				}
			}
		}
	}
	return nil
}

func nodeAsPod(n v1beta1.NodeMetrics) v1beta1.PodMetrics {
	return v1beta1.PodMetrics{
		ObjectMeta: n.ObjectMeta, Timestamp: n.Timestamp, Window: n.Window,
		Containers: []v1beta1.ContainerMetrics{{Usage: n.Usage}},
	}
}

// compareValue holds a Value against the reference's Quantity. Where the reference has a zero, Invalid is right for a
// quantity that is missing, null or without a digit; FuzzParseQuantity makes sure that it is wrong for all others.
// lenient is for bodies that can hold quantities longer than maxQuantity.
func compareValue(want resource.Quantity, present bool, got Value, lenient bool) error {
	switch {
	case !present && got == Value{}, present && want.IsZero() && got == Value{State: Invalid}:
		return nil
	case present && want.Sign() < 0 && got == Value{State: Invalid}:
		return nil
	case lenient && got == Value{State: Invalid}:
		return nil
	case present && want.Sign() >= 0:
		f, err := strconv.ParseFloat(want.AsDec().String(), 64)
		if err != nil && got == (Value{State: Invalid}) || err == nil && got == (Value{V: f, State: Valid}) {
			return nil
		}
	}
	return fmt.Errorf("%+v, the reference has %s, present: %v", got, want.String(), present)
}

// explosive finds exponents that the reference cannot be given: it calculates 10 to the power of any of them. What the
// Decoder makes of these is in TestParseQuantity.
var explosive = regexp.MustCompile(`[eE][-+]?0*[1-9][0-9]{3}`)

func FuzzProtobuf(f *testing.F) {
	for _, seed := range protobufSeeds() {
		f.Add([]byte(seed.body), byte(slices.Index(kinds, seed.kind)))
	}
	f.Fuzz(func(t *testing.T, data []byte, k byte) {
		if explosive.Match(data) {
			return
		}
		kind := kinds[k%4]
		data = append(slices.Clone(magic), data...)
		got, err := decode(bytes.NewReader(data), kind)
		checkAgainstProtobuf(t, data, kind, got, err)
		checkPieces(t, data, kind, got, err)
	})
}

func FuzzJSON(f *testing.F) {
	for _, seed := range jsonSeeds() {
		f.Add([]byte(seed.body), byte(slices.Index(kinds, seed.kind)))
	}
	f.Fuzz(func(t *testing.T, data []byte, k byte) {
		if explosive.Match(data) || bytes.HasPrefix(data, magic) {
			return
		}
		kind := kinds[k%4]
		got, err := decode(bytes.NewReader(data), kind)
		checkAgainstJSON(t, data, kind, got, err)
		checkPieces(t, data, kind, got, err)
	})
}

// checkPieces makes sure that it does not matter in what pieces a body arrives.
func checkPieces(t *testing.T, data []byte, kind Kind, want []decoded, wantErr error) {
	t.Helper()
	got, err := decode(iotest.OneByteReader(bytes.NewReader(data)), kind)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("byte by byte: %v; at once: %v", err, wantErr)
	}
	if err == nil && fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("byte by byte: %v; at once: %v", got, want)
	}
}

func checkAgainstProtobuf(t *testing.T, data []byte, kind Kind, got []decoded, err error) {
	t.Helper()
	lenient := len(data) > maxQuantity
	want, refErr := referenceProtobuf(data, kind)
	switch {
	case err == nil:
		if refErr != nil {
			// The reference must have no other reason to refuse than what is not read here, and quantities.
			want, err = referenceProtobuf(scrub(data, kind), kind)
			if err != nil {
				t.Fatalf("accepted, the reference refuses: %v; without what is not read: %v", refErr, err)
			}
		}
		if diff := compare(want, got, lenient); diff != nil {
			t.Fatalf("%v; the reference has the error %v", diff, refErr)
		}
	case refErr == nil:
		// The same object as it is usually encoded must be accepted.
		raw, refErr := want.Marshal()
		if refErr != nil {
			t.Fatal(refErr)
		}
		usual := append(slices.Clone(magic), envelope(kind, raw)...)
		got, errUsual := decode(bytes.NewReader(usual), kind)
		if errUsual != nil {
			t.Fatalf("refused: %v; as it is usually encoded: %v", err, errUsual)
		}
		if diff := compare(want, got, lenient); diff != nil {
			t.Fatalf("%v, as it is usually encoded", diff)
		}
	}
}

// scrub takes out of a body that has been accepted what is not read of it, and quantities that the reference refuses.
func scrub(data []byte, kind Kind) []byte {
	item := func(b []byte) []byte {
		return keep(b, fields{
			1: func(b []byte) []byte { return keep(b, fields{1: whole, 3: whole}) },
			2: func(b []byte) []byte {
				if len(b) == 0 {
					return b
				}
				return append(keep(b, fields{1: nil}), message{}.varint(2, 0)...) // Nanos, so that it is not empty.
			},
			3: func(b []byte) []byte { return keep(b, fields{1: nil}) },
			4: func(b []byte) []byte {
				if isNode(kind) {
					return scrubUsage(b)
				}
				return keep(b, fields{1: whole, 2: scrubUsage})
			},
		})
	}
	object := item
	if isList(kind) {
		object = func(b []byte) []byte { return keep(b, fields{2: item}) }
	}
	return append(slices.Clone(magic), keep(data[len(magic):], fields{1: whole, 2: object})...)
}

// scrubUsage leaves in an entry of a usage the quantity that counts, the last, and that only if it is one.
func scrubUsage(b []byte) []byte {
	var last, text []byte
	kept := keep(b, fields{1: whole, 2: func(b []byte) []byte {
		last, text = b, nil
		return nil
	}})
	keep(last, fields{1: func(b []byte) []byte {
		text = b
		return nil
	}})
	if _, err := resource.ParseQuantity(string(text)); err != nil {
		return appendBytes(kept, 2, nil)
	}
	return appendBytes(kept, 2, appendBytes(nil, 1, text))
}

// fields has what is to be made of the contents of a message's fields, by number; nil for those that are numbers.
type fields map[protowire.Number]func([]byte) []byte

func whole(b []byte) []byte { return b }

// keep leaves the given fields of a message.
func keep(b []byte, kept fields) []byte {
	var out message
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeField(b)
		if n < 0 {
			panic(protowire.ParseError(n)) // It has been accepted.
		}
		_, _, head := protowire.ConsumeTag(b)
		change, ok := kept[num]
		switch {
		case ok && change == nil:
			out = append(out, b[:n]...)
		case ok && typ == protowire.BytesType:
			content, _ := protowire.ConsumeBytes(b[head:])
			out = out.bytes(int32(num), change(content))
		}
		b = b[n:]
	}
	return out
}

func appendBytes(b []byte, num int32, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, protowire.Number(num), protowire.BytesType), content)
}

func checkAgainstJSON(t *testing.T, data []byte, kind Kind, got []decoded, err error) {
	t.Helper()
	lenient := len(data) > maxQuantity
	want, refErr := referenceJSON(data, kind)
	switch {
	case err == nil:
		if refErr != nil {
			want, err = referenceJSON(scrubJSON(data, kind), kind)
			if err != nil && err.Error() == `time: invalid duration ""` {
				return // A window of null, which is none here.
			}
			if err != nil {
				t.Fatalf("accepted, the reference refuses: %v; without what is not read: %v", refErr, err)
			}
		}
		if diff := compare(want, got, lenient); diff != nil {
			t.Fatalf("%v; the reference has the error %v", diff, refErr)
		}
	case refErr == nil:
		// The same object as Go writes it must be accepted.
		usual, refErr := stdjson.Marshal(want)
		if refErr != nil {
			t.Fatal(refErr)
		}
		got, errUsual := decode(bytes.NewReader(usual), kind)
		if errUsual != nil {
			t.Fatalf("refused: %v; as Go writes it: %v", err, errUsual)
		}
		if diff := compare(want, got, lenient); diff != nil {
			t.Fatalf("%v, as Go writes it", diff)
		}
	}
}

// scrubJSON is scrub for JSON.
func scrubJSON(b []byte, kind Kind) []byte {
	usage := func(b stdjson.RawMessage) stdjson.RawMessage {
		return rewriteJSON(b, func(_ string, b stdjson.RawMessage) stdjson.RawMessage {
			if new(resource.Quantity).UnmarshalJSON(b) != nil {
				return stdjson.RawMessage("null")
			}
			return b
		})
	}
	item := func(b stdjson.RawMessage) stdjson.RawMessage {
		return rewriteJSON(b, func(key string, b stdjson.RawMessage) stdjson.RawMessage {
			switch {
			case key == "timestamp", key == "window", !isList(kind) && (key == "kind" || key == "apiVersion"):
				return b
			case key == "metadata":
				return rewriteJSON(b, func(key string, b stdjson.RawMessage) stdjson.RawMessage {
					if key == "name" || key == "namespace" {
						return b
					}
					return nil
				})
			case key == "usage" && isNode(kind):
				return usage(b)
			case key == "containers" && !isNode(kind):
				return rewriteJSONArray(b, func(b stdjson.RawMessage) stdjson.RawMessage {
					return rewriteJSON(b, func(key string, b stdjson.RawMessage) stdjson.RawMessage {
						switch key {
						case "name":
							return b
						case "usage":
							return usage(b)
						}
						return nil
					})
				})
			}
			return nil
		})
	}
	if !isList(kind) {
		return item(b)
	}
	return rewriteJSON(b, func(key string, b stdjson.RawMessage) stdjson.RawMessage {
		switch key {
		case "kind", "apiVersion":
			return b
		case "items":
			return rewriteJSONArray(b, item)
		}
		return nil
	})
}

// rewriteJSON replaces each value of an object, and takes out those for which replace returns nil. Keys that come twice
// stay so.
func rewriteJSON(b []byte, replace func(string, stdjson.RawMessage) stdjson.RawMessage) stdjson.RawMessage {
	d := stdjson.NewDecoder(bytes.NewReader(b))
	if start, err := d.Token(); err != nil || start != stdjson.Delim('{') {
		return b
	}
	out := []byte{'{'}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return b
		}
		var value stdjson.RawMessage
		if err := d.Decode(&value); err != nil {
			return b
		}
		if value = replace(key.(string), value); value == nil {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		quoted, err := stdjson.Marshal(key)
		if err != nil {
			return b
		}
		out = append(append(append(out, quoted...), ':'), value...)
	}
	return append(out, '}')
}

func rewriteJSONArray(b []byte, replace func(stdjson.RawMessage) stdjson.RawMessage) stdjson.RawMessage {
	var elements []stdjson.RawMessage
	if err := stdjson.Unmarshal(b, &elements); err != nil || elements == nil {
		return b
	}
	out := []byte{'['}
	for i, e := range elements {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, replace(e)...)
	}
	return append(out, ']')
}

func isList(kind Kind) bool { return kind == PodMetricsList || kind == NodeMetricsList }

func isNode(kind Kind) bool { return kind == NodeMetricsList || kind == NodeMetrics }

var kinds = []Kind{PodMetricsList, NodeMetricsList, PodMetrics, NodeMetrics}
