package slim

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"metrics-server-prom/internal/wire"
)

// unmarshalMeta adds what a message says to the metadata. The field numbers are from
// k8s.io/apimachinery/pkg/apis/meta/v1's generated.proto: ObjectMeta{name=1 namespace=3 uid=5 resourceVersion=6
// creationTimestamp=8 labels=11 annotations=12}.
func unmarshalMeta(b []byte, meta *metav1.ObjectMeta) (err error) {
	m := wire.NewMessage(b, "ObjectMeta")
	for m.Next() {
		switch m.Num {
		case 1:
			meta.Name = string(m.Bytes())
		case 3:
			meta.Namespace = string(m.Bytes())
		case 5:
			meta.UID = types.UID(m.Bytes())
		case 6:
			meta.ResourceVersion = string(m.Bytes())
		case 8:
			meta.CreationTimestamp.Time, err = wire.Time(m.Bytes())
			m.Check(err)
		case 11:
			key, value := entry(m)
			if meta.Labels == nil {
				meta.Labels = map[string]string{}
			}
			meta.Labels[string(key)] = string(value)
		case 12:
			key, value := entry(m)
			// The one annotation that says something about the watch; others can be as large as the object.
			if string(key) == metav1.InitialEventsAnnotationKey {
				meta.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: string(value)}
			}
		}
	}
	return m.Err()
}

// entry reads the current field, an entry of a map of strings.
func entry(m *wire.Message) (key, value []byte) {
	m.Check(wire.Read(m.Bytes(), "an entry", 1, &key, &value))
	return key, value
}
