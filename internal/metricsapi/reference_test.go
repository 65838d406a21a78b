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
	"strings"
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
}

func newReference(kind Kind) unmarshaler {
	return [...]unmarshaler{
		&v1beta1.PodMetricsList{}, &v1beta1.NodeMetricsList{}, &v1beta1.PodMetrics{}, &v1beta1.NodeMetrics{},
	}[kind]
}

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
	if unknown.Kind != kind.String() || unknown.APIVersion != apiVersion || unknown.Raw == nil {
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
	if gvk.Kind != kind.String() || gvk.GroupVersion().String() != apiVersion {
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
		f.Add([]byte(seed.body), byte(seed.kind))
	}
	f.Fuzz(func(t *testing.T, data []byte, k byte) {
		if explosive.Match(data) {
			return
		}
		kind := Kind(k % 4)
		data = append(slices.Clone(magic), data...)
		got, err := decode(bytes.NewReader(data), kind)
		checkAgainstProtobuf(t, data, kind, got, err)
		checkPieces(t, data, kind, got, err)
	})
}

func FuzzJSON(f *testing.F) {
	for _, seed := range jsonSeeds() {
		f.Add([]byte(seed.body), byte(seed.kind))
	}
	f.Fuzz(func(t *testing.T, data []byte, k byte) {
		if explosive.Match(data) || bytes.HasPrefix(data, magic) {
			return
		}
		kind := Kind(k % 4)
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
	case err == nil && refErr == nil:
		if diff := compare(want, got, lenient); diff != nil {
			t.Fatal(diff)
		}
	case err == nil:
		// The reference must have no other reason to refuse than what is not read here, and quantities.
		unknown, refErr2 := referenceEnvelope(data, kind)
		if refErr2 != nil {
			t.Fatalf("accepted, the reference refuses the envelope: %v", refErr2)
		}
		want, refErr2 := referenceObject(scrub(unknown.Raw, kind), kind)
		if isQuantityError(refErr2) {
			// The quantity begins in its entry and ends behind it, which the reference allows and scrub cannot take out.
			return
		}
		if refErr2 != nil {
			t.Fatalf("accepted, the reference refuses: %v; without what is not read: %v", refErr, refErr2)
		}
		if diff := compare(want, got, lenient); diff != nil {
			t.Fatalf("%v, after the reference has refused: %v", diff, refErr)
		}
	case refErr == nil && isUnusual(data):
		// The same object in the usual envelope must be accepted.
		unknown, _ := referenceEnvelope(data, kind)
		body, errMarshal := unknown.Marshal()
		if errMarshal != nil {
			t.Fatal(errMarshal)
		}
		usual := append(slices.Clone(magic), body...)
		got, err := decode(bytes.NewReader(usual), kind)
		checkAgainstProtobuf(t, usual, kind, got, err)
	case refErr == nil:
		t.Fatalf("refused, the reference accepts: %v", err)
	}
}

// isUnusual tells that a body's envelope is not a TypeMeta and after it one object: a TypeMeta follows an object, or
// another object does.
func isUnusual(data []byte) bool {
	found := false
	for b := data[len(magic):]; len(b) > 0; {
		f, n, err := next(b)
		if err != nil {
			return false
		}
		if found && (f.num == 1 || f.num == 2) {
			return true
		}
		found = found || f.num == 2
		b = b[n:]
	}
	return false
}

// scrub takes out of an object what is not read of it, and quantities that the reference refuses. It changes nothing
// else: what it keeps is kept byte by byte.
func scrub(b []byte, kind Kind) []byte {
	if !isList(kind) {
		return scrubItem(b, kind)
	}
	return rewrite(b, func(f field, whole []byte) []byte {
		switch {
		case f.num == 1 && f.typ == protowire.BytesType:
			return appendBytes(nil, 1, nil)
		case f.num == 2 && f.typ == protowire.BytesType:
			return appendBytes(nil, 2, scrubItem(f.value, kind))
		}
		return whole
	})
}

func scrubItem(b []byte, kind Kind) []byte {
	return rewrite(b, func(f field, whole []byte) []byte {
		switch {
		case f.num == 1 && f.typ == protowire.BytesType:
			return appendBytes(nil, 1, scrubMeta(f.value))
		case f.num == 4 && f.typ == protowire.BytesType && kind.isNode():
			return scrubUsage(f, whole)
		case f.num == 4 && f.typ == protowire.BytesType:
			return appendBytes(nil, 4, rewrite(f.value, func(f field, whole []byte) []byte {
				if f.num == 2 && f.typ == protowire.BytesType {
					return scrubUsage(f, whole)
				}
				return whole
			}))
		}
		return whole
	})
}

// scrubMeta leaves only the names of an ObjectMeta as they are.
func scrubMeta(b []byte) []byte {
	return rewrite(b, func(f field, whole []byte) []byte {
		if f.typ != protowire.BytesType || f.num == 1 || f.num == 3 {
			return whole
		}
		return appendBytes(nil, f.num, nil)
	})
}

func isQuantityError(err error) bool {
	return errors.Is(err, resource.ErrFormatWrong) || errors.Is(err, resource.ErrNumeric) ||
		errors.Is(err, resource.ErrSuffix)
}

// scrubUsage leaves the quantities out of an entry of a usage where they are what the reference refuses.
func scrubUsage(f field, whole []byte) []byte {
	err := new(v1beta1.ContainerMetrics).Unmarshal(appendBytes(nil, 2, f.value))
	if !isQuantityError(err) {
		return whole
	}
	var kept []byte
	for b := f.value; len(b) > 0; {
		tag, n := varint(b)
		if n < 0 {
			return whole
		}
		size, num := 0, int32(tag>>3)
		if num == 1 || num == 2 { // Whatever the wire type says.
			_, size, err = lengthDelimited(b[n:])
		} else {
			size, err = skip(b[n:], protowire.Type(tag&7))
		}
		if err != nil {
			return whole
		}
		if num != 2 {
			kept = append(kept, b[:n+size]...)
		}
		b = b[n+size:]
	}
	return appendBytes(nil, f.num, kept)
}

// field is one field of a message.
type field struct {
	num   int32
	typ   protowire.Type
	value []byte // The content of protowire.BytesType, without its length; all of every other type.
}

// next returns the first field of a message, and its size.
func next(b []byte) (f field, n int, err error) {
	tag, n := varint(b)
	if n < 0 {
		return f, 0, errReference
	}
	f.num, f.typ = int32(tag>>3), protowire.Type(tag&7)
	if f.num <= 0 {
		return f, 0, errReference
	}
	size, err := skip(b[n:], f.typ)
	if err != nil {
		return f, 0, err
	}
	f.value = b[n : n+size]
	if f.typ == protowire.BytesType {
		f.value, _, err = lengthDelimited(b[n:])
	}
	return f, n + size, err
}

// varint returns the varint that b begins with and its size, negative for an error. Bits beyond 64 are ignored.
func varint(b []byte) (v uint64, n int) {
	for i, c := range b[:min(10, len(b))] {
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, i + 1
		}
	}
	return 0, -1
}

// lengthDelimited returns the content that b begins with, after its length, and the size of both.
func lengthDelimited(b []byte) (content []byte, n int, err error) {
	size, n := varint(b)
	if n < 0 || size > uint64(len(b)-n) {
		return nil, 0, errReference
	}
	return b[n : n+int(size)], n + int(size), nil
}

// skip returns the size of the value that b begins with. The two ends of a group may have different numbers.
func skip(b []byte, typ protowire.Type) (n int, err error) {
	for depth := 0; ; {
		size := 0
		switch typ {
		case protowire.VarintType:
			if _, size = varint(b[n:]); size < 0 {
				return 0, errReference
			}
		case protowire.Fixed64Type:
			size = 8
		case protowire.Fixed32Type:
			size = 4
		case protowire.BytesType:
			if _, size, err = lengthDelimited(b[n:]); err != nil {
				return 0, err
			}
		case protowire.StartGroupType:
			depth++
		case protowire.EndGroupType:
			depth--
		default:
			return 0, errReference
		}
		if n += size; n > len(b) || depth < 0 {
			return 0, errReference
		}
		if depth == 0 {
			return n, nil
		}
		tag, size := varint(b[n:])
		if size < 0 {
			return 0, errReference
		}
		n += size
		typ = protowire.Type(tag & 7)
	}
}

// rewrite replaces each field of a message. What cannot be taken apart is left as it is, for the reference to refuse.
func rewrite(b []byte, replace func(f field, whole []byte) []byte) []byte {
	var out []byte
	for len(b) > 0 {
		f, n, err := next(b)
		if err != nil {
			return append(out, b...)
		}
		out = append(out, replace(f, b[:n])...)
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
	case err == nil && refErr == nil:
		if diff := compare(want, got, lenient); diff != nil {
			t.Fatal(diff)
		}
	case err == nil:
		want, refErr2 := referenceJSON(scrubJSON(data, kind), kind)
		if refErr2 != nil {
			t.Fatalf("accepted, the reference refuses: %v; without what is not read: %v", refErr, refErr2)
		}
		if diff := compare(want, got, lenient); diff != nil {
			t.Fatalf("%v, after the reference has refused: %v", diff, refErr)
		}
	case refErr == nil && strings.Contains(err.Error(), "comes twice in the list"):
		seen := map[string]int{}
		rewriteJSON(data, func(key string, value stdjson.RawMessage) stdjson.RawMessage {
			seen[key]++
			return value
		})
		if seen["kind"] < 2 && seen["apiVersion"] < 2 && seen["items"] < 2 {
			t.Fatalf("%v, but nothing does", err)
		}
	case refErr == nil:
		t.Fatalf("refused, the reference accepts: %v", err)
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
			case key == "usage" && kind.isNode():
				return usage(b)
			case key == "containers" && !kind.isNode():
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
