package metricsapi

import "metrics-server-prom/internal/wire"

// unmarshal reads a PodMetrics or NodeMetrics. A message that comes again is merged into the one before, but a Time or
// Quantity takes its place. Field numbers are from the generated.proto files of
//
//	k8s.io/apimachinery/pkg/apis/meta/v1:     ObjectMeta{name=1 namespace=3 …}, Duration{duration=1}
//	k8s.io/apimachinery/pkg/api/resource:     Quantity{string=1}
//	k8s.io/metrics/pkg/apis/metrics/v1beta1:  PodMetrics{metadata=1 timestamp=2 window=3 containers=4},
//	                                          NodeMetrics{metadata=1 timestamp=2 window=3 usage=4},
//	                                          ContainerMetrics{name=1 usage=2}
func (i *Item) unmarshal(b []byte, isNode bool) (err error) {
	if isNode {
		i.Containers = append(i.Containers, Container{})
	}
	var generateName []byte
	m := wire.NewMessage(b, "an item")
	for m.Next() {
		switch {
		case m.Num == 1:
			m.Check(wire.Read(m.Bytes(), "ObjectMeta", 1, &i.Name, &generateName, &i.Namespace))
		case m.Num == 2:
			i.Timestamp, err = wire.Time(m.Bytes())
			m.Check(err)
		case m.Num == 3:
			i.HasWindow = i.HasWindow || len(m.Bytes()) > 0
			m.Check(wire.ReadInt(m.Bytes(), "Duration", (*int64)(&i.Window)))
		case m.Num == 4 && isNode:
			i.Containers[0].usage(m)
		case m.Num == 4 && len(i.Containers) == maxContainers:
			m.Check(errManyContainers)
		case m.Num == 4:
			i.Containers = append(i.Containers, Container{})
			m.Check(i.Containers[len(i.Containers)-1].unmarshal(m.Bytes()))
		}
	}
	return m.Err()
}

// unmarshal reads a ContainerMetrics.
func (c *Container) unmarshal(b []byte) error {
	m := wire.NewMessage(b, "ContainerMetrics")
	for m.Next() {
		switch m.Num {
		case 1:
			c.Name = m.Bytes()
		case 2:
			c.usage(m)
		}
	}
	return m.Err()
}

// usage reads the current field of a message, an entry of the map usage.
func (c *Container) usage(m *wire.Message) {
	switch name, quantity := m.Quantity(); string(name) {
	case "cpu":
		c.CPU = valueOf(quantity)
	case "memory":
		c.Memory = valueOf(quantity)
	}
}
