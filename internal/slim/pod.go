package slim

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"metrics-server-prom/internal/wire"
)

// Pod is a pod's name, namespace, UID, resourceVersion, creationTimestamp, labels, node and IP.
type Pod struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              PodSpec   `json:"spec"`
	Status            PodStatus `json:"status"`
}

// PodSpec is what is read of a pod's spec.
type PodSpec struct {
	NodeName string `json:"nodeName"`
}

// PodStatus is what is read of a pod's status.
type PodStatus struct {
	PodIP string `json:"podIP"`
}

var podType = &metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}

// GetObjectKind returns v1's Pod. It must not be set.
func (p *Pod) GetObjectKind() schema.ObjectKind { return podType }

// DeepCopyObject returns the pod itself: it has one owner, who changes nothing.
func (p *Pod) DeepCopyObject() runtime.Object { return p }

// Unmarshal adds what a message says to the pod. The field numbers are from k8s.io/api/core/v1's generated.proto:
// Pod{metadata=1 spec=2 status=3}, PodSpec{nodeName=10}, PodStatus{podIP=6}.
func (p *Pod) Unmarshal(b []byte) error {
	m := wire.NewMessage(b, "Pod")
	for m.Next() {
		switch m.Num {
		case 1:
			m.Check(unmarshalMeta(m.Bytes(), &p.ObjectMeta))
		case 2:
			m.Check(wire.Read(m.Bytes(), "PodSpec", 10, &p.Spec.NodeName))
		case 3:
			m.Check(wire.Read(m.Bytes(), "PodStatus", 6, &p.Status.PodIP))
		}
	}
	return m.Err()
}
