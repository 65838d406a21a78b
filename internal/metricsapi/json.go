package metricsapi

import (
	"bytes"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// jsonItem has what is read of PodMetrics and NodeMetrics alike, in types that decode as those of metrics/v1beta1 do.
type jsonItem struct {
	Metadata struct {
		Namespace jsonText `json:"namespace"`
		Name      jsonText `json:"name"`
	} `json:"metadata"`
	Timestamp metav1.Time `json:"timestamp"`
	Window    jsonWindow  `json:"window"`
}

type jsonPod struct {
	jsonItem
	Containers []jsonContainer `json:"containers"`
}

type jsonNode struct {
	jsonItem
	Usage *jsonUsage `json:"usage"`
}

type jsonContainer struct {
	Name  jsonText   `json:"name"`
	Usage *jsonUsage `json:"usage"`
}

// jsonUsage is pointed to because null makes an empty one of it.
type jsonUsage struct {
	CPU    jsonQuantity `json:"cpu"`
	Memory jsonQuantity `json:"memory"`
}

// jsonText is a string. A second one takes the place of the first.
type jsonText []byte

func (t *jsonText) UnmarshalText(b []byte) error {
	*t = bytes.Clone(b)
	return nil
}

// jsonQuantity is a quantity as resource.Quantity reads it, that is also as a number, but null is not a zero.
type jsonQuantity struct{ Value }

func (q *jsonQuantity) UnmarshalJSON(b []byte) error {
	if len(b) >= 2 && b[0] == '"' && b[len(b)-1] == '"' {
		b = b[1 : len(b)-1]
	}
	q.Value = valueOf(bytes.TrimSpace(b))
	return nil
}

// jsonWindow tells a window of 0s from none.
type jsonWindow struct {
	metav1.Duration
	sent bool
}

func (w *jsonWindow) UnmarshalJSON(b []byte) error {
	w.sent = true
	return w.Duration.UnmarshalJSON(b)
}

func (i *Item) decodeJSONNode(decode func(any) error) error {
	var from jsonNode // A new one, because the decoder merges into what is there.
	err := decode(&from)
	i.setCommon(&from.jsonItem)
	i.Containers[0].setUsage(from.Usage)
	return err
}

func (i *Item) decodeJSONPod(decode func(any) error) error {
	var from jsonPod
	err := decode(&from)
	i.setCommon(&from.jsonItem)
	if len(from.Containers) > maxContainers {
		return errManyContainers
	}
	for _, c := range from.Containers {
		i.Containers = append(i.Containers, Container{Name: c.Name})
		i.Containers[len(i.Containers)-1].setUsage(c.Usage)
	}
	return err
}

// setCommon sets what PodMetrics and NodeMetrics have in common.
func (i *Item) setCommon(from *jsonItem) {
	i.Namespace, i.Name = from.Metadata.Namespace, from.Metadata.Name
	i.Timestamp = from.Timestamp.Time
	i.Window, i.HasWindow = from.Window.Duration.Duration, from.Window.sent
}

func (c *Container) setUsage(u *jsonUsage) {
	if u != nil {
		c.CPU, c.Memory = u.CPU.Value, u.Memory.Value
	}
}
