package slim

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"metrics-server-prom/internal/wire"
)

// Metadata is an object of any resource, such as a ReplicaSet, of which the server is asked for nothing but the
// metadata (see Accept). Read are name, namespace, UID, resourceVersion, creationTimestamp, deletionTimestamp, labels
// and owners.
type Metadata struct {
	metav1.ObjectMeta `json:"metadata"`
}

var metadataType = &metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: "meta.k8s.io/v1"}

// GetObjectKind returns meta.k8s.io/v1's PartialObjectMetadata. It must not be set.
func (o *Metadata) GetObjectKind() schema.ObjectKind { return metadataType }

// DeepCopyObject returns the object itself: it has one owner, who changes nothing.
func (o *Metadata) DeepCopyObject() runtime.Object { return o }

// Unmarshal adds what a message says to the object. The field number is from k8s.io/apimachinery/pkg/apis/meta/v1's
// generated.proto: PartialObjectMetadata{metadata=1}.
func (o *Metadata) Unmarshal(b []byte) error {
	m := wire.NewMessage(b, "PartialObjectMetadata")
	for m.Next() {
		if m.Num == 1 {
			m.Check(unmarshalMeta(m.Bytes(), &o.ObjectMeta, true))
		}
	}
	return m.Err()
}

// unmarshalMeta adds what a message says to the metadata, deletionTimestamp and owners only where they are whole. The
// field numbers are from k8s.io/apimachinery/pkg/apis/meta/v1's generated.proto: ObjectMeta{name=1 namespace=3 uid=5
// resourceVersion=6 creationTimestamp=8 deletionTimestamp=9 labels=11 annotations=12 ownerReferences=13}.
func unmarshalMeta(b []byte, meta *metav1.ObjectMeta, whole bool) (err error) {
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
		case 9:
			if whole {
				meta.DeletionTimestamp = &metav1.Time{}
				meta.DeletionTimestamp.Time, err = wire.Time(m.Bytes())
				m.Check(err)
			}
		case 11:
			key, value := m.Entry()
			if meta.Labels == nil {
				meta.Labels = map[string]string{}
			}
			meta.Labels[string(key)] = string(value)
		case 12:
			key, value := m.Entry()
			// The one annotation that says something about the watch; others can be as large as the object.
			if string(key) == metav1.InitialEventsAnnotationKey {
				meta.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: string(value)}
			}
		case 13:
			if whole {
				m.Check(unmarshalOwner(m.Bytes(), add(&meta.OwnerReferences)))
			}
		}
	}
	return m.Err()
}

// unmarshalOwner reads an OwnerReference{kind=1 name=3 uid=4 apiVersion=5 controller=6}.
func unmarshalOwner(b []byte, owner *metav1.OwnerReference) error {
	m := wire.NewMessage(b, "OwnerReference")
	for m.Next() {
		switch m.Num {
		case 1:
			owner.Kind = string(m.Bytes())
		case 3:
			owner.Name = string(m.Bytes())
		case 4:
			owner.UID = types.UID(m.Bytes())
		case 5:
			owner.APIVersion = string(m.Bytes())
		case 6:
			owner.Controller = new(m.Int() != 0)
		}
	}
	return m.Err()
}

// add appends an empty item to a list and returns where it is.
func add[T any](list *[]T) *T {
	*list = append(*list, *new(T))
	return &(*list)[len(*list)-1]
}
