package slim

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"metrics-server-prom/internal/wire"
)

// ResourceQuota is how much the objects of a namespace may use in all, and how much they do. Of its metadata the same
// is read as of Metadata.
type ResourceQuota struct {
	metav1.ObjectMeta `json:"metadata"`
	Status            ResourceQuotaStatus `json:"status"`
}

// ResourceQuotaStatus is what is read of a quota's status. Its names are not only those of resources: also
// requests.cpu, count/jobs.batch and the like.
type ResourceQuotaStatus struct {
	Hard Quantities `json:"hard"`
	Used Quantities `json:"used"`
}

var quotaType = &metav1.TypeMeta{Kind: "ResourceQuota", APIVersion: "v1"}

// GetObjectKind returns v1's ResourceQuota. It must not be set.
func (q *ResourceQuota) GetObjectKind() schema.ObjectKind { return quotaType }

// DeepCopyObject returns the quota itself: it has one owner, who changes nothing.
func (q *ResourceQuota) DeepCopyObject() runtime.Object { return q }

// Unmarshal adds what a message says to the quota. The field numbers are from k8s.io/api/core/v1's generated.proto:
// ResourceQuota{metadata=1 status=3}, ResourceQuotaStatus{hard=1 used=2}.
func (q *ResourceQuota) Unmarshal(b []byte) error {
	m := wire.NewMessage(b, "ResourceQuota")
	for m.Next() {
		switch m.Num {
		case 1:
			m.Check(unmarshalMeta(m.Bytes(), &q.ObjectMeta, true))
		case 3:
			m.Check(unmarshalQuantities(m.Bytes(), "ResourceQuotaStatus", &q.Status.Hard, &q.Status.Used))
		}
	}
	return m.Err()
}
