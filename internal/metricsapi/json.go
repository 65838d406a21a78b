package metricsapi

import (
	"bytes"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// jsonItem has what is read of PodMetrics and NodeMetrics, in types that decode as those of metrics/v1beta1 do.
type jsonItem struct {
	Metadata struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"metadata"`
	Timestamp  metav1.Time      `json:"timestamp"`
	Window     *metav1.Duration `json:"window"`
	Containers []struct {
		Name  string           `json:"name"`
		Usage map[string]Value `json:"usage"`
	} `json:"containers"`
	Usage map[string]Value `json:"usage"` // Of a node.
}

// UnmarshalJSON reads a quantity as resource.Quantity does, that is also from a number, but null is not a zero.
func (v *Value) UnmarshalJSON(b []byte) error {
	if len(b) >= 2 && b[0] == '"' {
		b = b[1 : len(b)-1]
	}
	*v = valueOf(bytes.TrimSpace(b))
	return nil
}

func (i *Item) decodeJSON(decode func(any) error, isNode bool) error {
	var from jsonItem // A new one, because the decoder merges into what is there.
	err := decode(&from)
	i.Namespace, i.Name = []byte(from.Metadata.Namespace), []byte(from.Metadata.Name)
	i.Timestamp = from.Timestamp.Time
	if from.Window != nil {
		i.Window, i.HasWindow = from.Window.Duration, true
	}
	if isNode {
		i.Containers = append(i.Containers, Container{CPU: from.Usage["cpu"], Memory: from.Usage["memory"]})
		return err
	}
	if len(from.Containers) > maxContainers {
		return errManyContainers
	}
	for _, c := range from.Containers {
		i.Containers = append(i.Containers, Container{[]byte(c.Name), c.Usage["cpu"], c.Usage["memory"]})
	}
	return err
}
