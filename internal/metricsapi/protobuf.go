package metricsapi

import (
	"time"

	"metrics-server-prom/internal/wire"
)

// Field numbers are from the generated.proto files of
//
//	k8s.io/apimachinery/pkg/apis/meta/v1:     ObjectMeta{name=1 namespace=3 …}, Duration{duration=1}
//	k8s.io/apimachinery/pkg/api/resource:     Quantity{string=1}
//	k8s.io/metrics/pkg/apis/metrics/v1beta1:  PodMetrics{metadata=1 timestamp=2 window=3 containers=4},
//	                                          NodeMetrics{metadata=1 timestamp=2 window=3 usage=4},
//	                                          ContainerMetrics{name=1 usage=2}

func (i *Item) decode(o wire.Object, node bool) error {
	switch {
	case o.JSON != nil && node:
		return i.decodeJSONNode(o.JSON)
	case o.JSON != nil:
		return i.decodeJSONPod(o.JSON)
	case node:
		return i.unmarshal(o.Protobuf, "NodeMetrics", node)
	}
	return i.unmarshal(o.Protobuf, "PodMetrics", node)
}

// unmarshal reads a PodMetrics or NodeMetrics. A message that comes again is merged into the one before, but a Time
// takes its place.
func (i *Item) unmarshal(b []byte, name string, node bool) (err error) {
	m := wire.NewMessage(b)
	for m.Next() {
		switch {
		case m.Num == 1:
			m.Check(i.unmarshalMeta(m.Bytes()))
		case m.Num == 2:
			i.Timestamp, err = wire.Time(m.Bytes())
			m.Check(err)
		case m.Num == 3:
			m.Check(i.unmarshalWindow(m.Bytes()))
		case m.Num == 4 && node:
			m.Check(i.Containers[0].unmarshalUsage(&m))
		case m.Num == 4 && len(i.Containers) == maxContainers:
			m.Check(errManyContainers)
		case m.Num == 4:
			i.Containers = append(i.Containers, Container{})
			m.Check(i.Containers[len(i.Containers)-1].unmarshal(m.Bytes()))
		}
	}
	return m.Err(name)
}

// unmarshalMeta reads an ObjectMeta. Of the fields that are skipped unread, the wire types are checked.
func (i *Item) unmarshalMeta(b []byte) error {
	m := wire.NewMessage(b)
	for m.Next() {
		switch m.Num {
		case 1:
			i.Name = m.Bytes()
		case 3:
			i.Namespace = m.Bytes()
		case 7, 10: // generation, deletionGracePeriodSeconds
			m.Varint()
		case 2, 4, 5, 6, 8, 9, 11, 12, 13, 14, 17:
			m.Bytes()
		}
	}
	return m.Err("ObjectMeta")
}

// unmarshalWindow reads a Duration, of nanoseconds.
func (i *Item) unmarshalWindow(b []byte) error {
	m := wire.NewMessage(b)
	for m.Next() {
		if m.Num == 1 {
			i.Window, i.HasWindow = time.Duration(m.Varint()), true
		}
	}
	return m.Err("Duration")
}

// unmarshal reads a ContainerMetrics.
func (c *Container) unmarshal(b []byte) error {
	m := wire.NewMessage(b)
	for m.Next() {
		switch m.Num {
		case 1:
			c.Name = m.Bytes()
		case 2:
			m.Check(c.unmarshalUsage(&m))
		}
	}
	return m.Err("ContainerMetrics")
}

// unmarshalUsage reads the current field, an entry of the map usage. Of several values the last one counts, but an
// invalid one is not made good by another.
func (c *Container) unmarshalUsage(of *wire.Message) error {
	var key []byte
	var value Value
	m := of.Entry()
	for m.Next() {
		switch m.Num {
		case 1:
			key = m.Bytes()
		case 2:
			v, err := unmarshalQuantity(m.Bytes())
			m.Check(err)
			if value.State != Invalid {
				value = v
			}
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
	return m.Err("an entry")
}

// unmarshalQuantity reads a Quantity: the last string counts, but an invalid one is not made good by another.
func unmarshalQuantity(b []byte) (value Value, err error) {
	m := wire.NewMessage(b)
	for m.Next() {
		if m.Num == 1 && value.State != Invalid {
			value = valueOf(m.Bytes())
		}
	}
	return value, m.Err("Quantity")
}
