package usage

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// The format is that of k8s.io/apimachinery/pkg/runtime/serializer/protobuf: four magic bytes, then a runtime.Unknown,
// which holds the kind and, as bytes, the object. Field numbers are from the generated.proto files of
//
//	k8s.io/apimachinery/pkg/runtime:           Unknown{typeMeta=1 raw=2 contentEncoding=3 contentType=4}
//	k8s.io/apimachinery/pkg/apis/meta/v1:      ObjectMeta{name=1 namespace=3 …}, Time{seconds=1 nanos=2}, Duration{duration=1}
//	k8s.io/apimachinery/pkg/api/resource:      Quantity{string=1}
//	k8s.io/metrics/pkg/apis/metrics/v1beta1:   PodMetricsList, NodeMetricsList{metadata=1 items=2},
//	                                           PodMetrics{metadata=1 timestamp=2 window=3 containers=4},
//	                                           NodeMetrics{metadata=1 timestamp=2 window=3 usage=4},
//	                                           ContainerMetrics{name=1 usage=2}
//
// The bytes are read with the meaning that the generated code (gogo/protobuf) gives them, also where other decoders of
// protobuf refuse: see varint, skip and unmarshalUsage. Only the envelope is held to its usual form, errEnvelope.
var magic = []byte("k8s\x00")

// errEnvelope refuses what the generated code would put up with by holding the whole body: the last raw counts there,
// and a TypeMeta may come after it.
var errEnvelope = errors.New("the envelope is not a TypeMeta and after it one object")

func errWireType(message string, num int32, typ protowire.Type) error {
	return fmt.Errorf("field %d of %s has wire type %d", num, message, typ)
}

// readProtobuf reads a body from its magic bytes on.
func (d *Decoder) readProtobuf(kind Kind, visit func(*Item) error) error {
	s := &d.body
	s.advance(len(magic))
	var is runtime.TypeMeta
	found := false
	for {
		if more, err := s.window(1); err != nil {
			return err
		} else if len(more) == 0 {
			break
		}
		num, typ, err := s.tag(math.MaxInt64)
		if err != nil {
			return err
		}
		if num < 1 || num > 4 {
			if err := s.skip(typ, math.MaxInt64); err != nil {
				return err
			}
			continue
		}
		if typ != protowire.BytesType {
			return errWireType("Unknown", num, typ)
		}
		size, err := s.length(math.MaxInt64)
		if err != nil {
			return err
		}
		if size > s.limit-s.off {
			return s.tooLarge()
		}
		switch {
		case num == 1 && found, num == 2 && found:
			return errEnvelope
		case num == 1:
			b, err := s.takeItem(size)
			if err != nil {
				return err
			}
			if err := is.Unmarshal(b); err != nil {
				return fmt.Errorf("TypeMeta: %w", err)
			}
		case num == 2:
			found = true
			if err := d.readObject(kind, is, size, visit); err != nil {
				return err
			}
		default:
			if err := s.discard(size); err != nil {
				return err
			}
		}
	}
	if !found {
		return errEnvelope
	}
	return nil
}

// readObject reads the object of size bytes that the envelope holds.
func (d *Decoder) readObject(kind Kind, is runtime.TypeMeta, size int64, visit func(*Item) error) error {
	if is.Kind == "Status" {
		var status metav1.Status // Its message is a help if it can be read, and no further trouble if not.
		if b, err := d.body.takeItem(size); err == nil {
			_ = status.Unmarshal(b)
		}
		return kind.verify(is.APIVersion, is.Kind, status.Message)
	}
	if err := kind.verify(is.APIVersion, is.Kind, ""); err != nil {
		return err
	}
	if kind.isList() {
		return d.readList(kind, size, visit)
	}
	return d.readItem(kind, size, visit)
}

// readList reads a PodMetricsList or NodeMetricsList of size bytes.
func (d *Decoder) readList(kind Kind, size int64, visit func(*Item) error) error {
	s := &d.body
	for end := s.off + size; s.off < end; {
		num, typ, err := s.tag(end)
		if err != nil {
			return err
		}
		if num != 1 && num != 2 {
			if err := s.skip(typ, end); err != nil {
				return err
			}
			continue
		}
		if typ != protowire.BytesType {
			return errWireType(kind.String(), num, typ)
		}
		n, err := s.length(end)
		if err != nil {
			return err
		}
		if num == 1 {
			err = s.discard(n)
		} else {
			err = d.readItem(kind, n, visit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readItem reads one PodMetrics or NodeMetrics of size bytes.
func (d *Decoder) readItem(kind Kind, size int64, visit func(*Item) error) error {
	at := d.body.off
	b, err := d.body.takeItem(size)
	if err != nil {
		return err
	}
	item := d.begin(kind)
	if kind.isNode() {
		err = item.unmarshalNode(b)
	} else {
		err = item.unmarshalPod(b)
	}
	if err != nil {
		return fmt.Errorf("the item at byte %d, %.100q: %w", at, item.Name, err)
	}
	return visit(item)
}

func (i *Item) unmarshalPod(b []byte) error {
	for len(b) > 0 {
		f, n, err := next(b)
		if err != nil {
			return err
		}
		if f.num == 4 {
			if f.typ != protowire.BytesType {
				return errWireType("PodMetrics", f.num, f.typ)
			}
			if len(i.Containers) == maxContainers {
				return errManyContainers
			}
			i.Containers = append(i.Containers, Container{})
			err = i.Containers[len(i.Containers)-1].unmarshal(f.value)
		} else {
			err = i.unmarshalCommon(f)
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (i *Item) unmarshalNode(b []byte) error {
	for len(b) > 0 {
		f, n, err := next(b)
		if err != nil {
			return err
		}
		if f.num == 4 {
			if f.typ != protowire.BytesType {
				return errWireType("NodeMetrics", f.num, f.typ)
			}
			err = i.Containers[0].unmarshalUsage(b[n-len(f.value):], len(f.value))
		} else {
			err = i.unmarshalCommon(f)
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// unmarshalCommon takes a field that PodMetrics and NodeMetrics have in common. A message that comes again is merged into
// the one before, but a Time takes its place.
func (i *Item) unmarshalCommon(f field) error {
	if f.num < 1 || f.num > 3 {
		return nil
	}
	if f.typ != protowire.BytesType {
		return errWireType("the item", f.num, f.typ)
	}
	switch f.num {
	case 1:
		return i.unmarshalMeta(f.value)
	case 2:
		return i.unmarshalTime(f.value)
	default:
		return i.unmarshalWindow(f.value)
	}
}

// unmarshalMeta reads an ObjectMeta. Of what is skipped unread, the wire types are checked.
func (i *Item) unmarshalMeta(b []byte) error {
	for len(b) > 0 {
		f, n, err := next(b)
		if err != nil {
			return err
		}
		want := protowire.BytesType
		switch f.num {
		case 1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 17:
		case 7, 10: // generation, deletionGracePeriodSeconds
			want = protowire.VarintType
		default:
			want = f.typ
		}
		if f.typ != want {
			return errWireType("ObjectMeta", f.num, f.typ)
		}
		switch f.num {
		case 1:
			i.Name = f.value
		case 3:
			i.Namespace = f.value
		}
		b = b[n:]
	}
	return nil
}

// unmarshalTime reads a Time: none if it is empty, else whole seconds, whatever its nanos say (apimachinery's
// meta/v1/time_proto.go tells why).
func (i *Item) unmarshalTime(b []byte) error {
	i.Timestamp = time.Time{}
	if len(b) == 0 {
		return nil
	}
	var seconds int64
	for len(b) > 0 {
		f, n, err := next(b)
		if err != nil {
			return err
		}
		if (f.num == 1 || f.num == 2) && f.typ != protowire.VarintType {
			return errWireType("Time", f.num, f.typ)
		}
		if f.num == 1 {
			v, _ := varint(f.value)
			seconds = int64(v)
		}
		b = b[n:]
	}
	i.Timestamp = time.Unix(seconds, 0)
	return nil
}

// unmarshalWindow reads a Duration, of nanoseconds.
func (i *Item) unmarshalWindow(b []byte) error {
	for len(b) > 0 {
		f, n, err := next(b)
		if err != nil {
			return err
		}
		if f.num == 1 {
			if f.typ != protowire.VarintType {
				return errWireType("Duration", f.num, f.typ)
			}
			v, _ := varint(f.value)
			i.Window, i.HasWindow = time.Duration(v), true
		}
		b = b[n:]
	}
	return nil
}

// unmarshal reads a ContainerMetrics.
func (c *Container) unmarshal(b []byte) error {
	for len(b) > 0 {
		f, n, err := next(b)
		if err != nil {
			return err
		}
		if f.num == 1 || f.num == 2 {
			if f.typ != protowire.BytesType {
				return errWireType("ContainerMetrics", f.num, f.typ)
			}
			if f.num == 1 {
				c.Name = f.value
			} else if err := c.unmarshalUsage(b[n-len(f.value):], len(f.value)); err != nil {
				return err
			}
		}
		b = b[n:]
	}
	return nil
}

// unmarshalUsage reads an entry of the map usage, of the size given, at the beginning of what is left of the message that
// it is in. The generated code holds what is in an entry to the end of that message only, and does not look at the wire
// types of key and value.
func (c *Container) unmarshalUsage(b []byte, size int) error {
	var key []byte
	var value Value
	for at := 0; at < size; {
		tag, n := varint(b[at:])
		if n < 0 {
			return varintError(n)
		}
		at += n
		num, typ := int32(tag>>3), protowire.Type(tag&7)
		if num != 1 && num != 2 {
			n, err := skip(b[at:], typ)
			if err != nil {
				return err
			}
			if at += n; at > size {
				return errLength
			}
			continue
		}
		content, n, err := lengthDelimited(b[at:])
		if err != nil {
			return err
		}
		at += n
		if num == 1 {
			key = content
			continue
		}
		v, err := unmarshalQuantity(content)
		if err != nil {
			return err
		}
		if value.State != Invalid {
			value = v
		}
	}
	if value.State == Absent {
		value.State = Invalid
	}
	switch string(key) {
	case "cpu":
		c.CPU = value
	case "memory":
		c.Memory = value
	}
	return nil
}

// unmarshalQuantity reads a Quantity: the last one counts, but an invalid one is not made good by another.
func unmarshalQuantity(b []byte) (Value, error) {
	var value Value
	for len(b) > 0 {
		f, n, err := next(b)
		if err != nil {
			return value, err
		}
		if f.num == 1 {
			if f.typ != protowire.BytesType {
				return value, errWireType("Quantity", f.num, f.typ)
			}
			if value.State != Invalid {
				value = valueOf(f.value)
			}
		}
		b = b[n:]
	}
	return value, nil
}
