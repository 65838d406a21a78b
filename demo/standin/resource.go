package standin

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"google.golang.org/protobuf/encoding/protowire"
)

// kind numbers the resources that can be listed and watched.
type kind int

const (
	podKind kind = iota
	nodeKind
	namespaceKind
	quotaKind
	replicaSetKind
	jobKind
	kinds // their number
)

// resource is what the API says of the objects of one kind.
type apiResource struct {
	schema.GroupVersionKind
	name       string // the plural, as in a path
	namespaced bool
	fields     []string // that a selector may name
	// decode makes an object of the generated type, for JSON. Without it only the metadata can be had.
	decode func() generated
}

// generated is a type of k8s.io/api.
type generated interface {
	runtime.Object
	Unmarshal([]byte) error
}

var (
	metaFields = []string{"metadata.name", "metadata.namespace"}
	resources  = [kinds]apiResource{
		podKind: {corev1.SchemeGroupVersion.WithKind("Pod"), "pods", true,
			[]string{"metadata.name", "metadata.namespace", "spec.nodeName", "status.phase", "status.podIP"},
			func() generated { return &corev1.Pod{} }},
		nodeKind: {corev1.SchemeGroupVersion.WithKind("Node"), "nodes", false, metaFields,
			func() generated { return &corev1.Node{} }},
		namespaceKind: {corev1.SchemeGroupVersion.WithKind("Namespace"), "namespaces", false, metaFields,
			func() generated { return &corev1.Namespace{} }},
		quotaKind: {corev1.SchemeGroupVersion.WithKind("ResourceQuota"), "resourcequotas", true, metaFields,
			func() generated { return &corev1.ResourceQuota{} }},
		replicaSetKind: {schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "ReplicaSet"}, "replicasets",
			true, metaFields, nil},
		jobKind: {schema.GroupVersionKind{Group: "batch", Version: "v1", Kind: "Job"}, "jobs", true, metaFields, nil},
	}
	partialKind = metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata")
)

func (r *apiResource) group() schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.name}
}

// path is where the group's resources are.
func (r *apiResource) path() string {
	if r.Group == "" {
		return "/api/" + r.Version
	}
	return "/apis/" + r.Group + "/" + r.Version
}

// object is one version of an object. It is never changed once it is in the cluster, so lists, watches and metrics
// hold it without a lock.
type object interface {
	kind() kind
	meta() *objectMeta
	// at is the same object with another resourceVersion, as a DELETED event has it.
	at(rv uint64) object
	// appendMeta appends what follows the labels in ObjectMeta: annotations, owners, managedFields.
	appendMeta(c *Cluster, b []byte) []byte
	// appendBody appends spec and status.
	appendBody(c *Cluster, b []byte) []byte
}

// objectMeta is what all objects have. It is small, as is what the objects add to it, because 150,000 pods
// must fit a small machine: the rest is made from it when it is sent.
type objectMeta struct {
	namespace, name string
	labels          labelSet
	serial          uint64 // identity of the object behind the name; the UID follows from it, and a pod's usage
	created         int64  // Unix seconds
	rv              uint64
}

func (m *objectMeta) meta() *objectMeta { return m }

// labelSet is a set of labels: the entries of ObjectMeta.labels in protobuf, ordered by key. The pods of a workload
// share one.
type labelSet string

func newLabelSet(m map[string]string) labelSet {
	var b []byte
	for _, k := range slices.Sorted(maps.Keys(m)) {
		b = appendMapEntry(b, metaLabels, k, m[k])
	}
	return labelSet(b)
}

func (l labelSet) set() labels.Set {
	m := labels.Set{}
	for b := []byte(l); len(b) > 0; {
		_, _, n := protowire.ConsumeTag(b)
		entry, size := protowire.ConsumeBytes(b[n:])
		b = b[n+size:]
		var pair [2]string
		for i := range pair {
			_, _, n := protowire.ConsumeTag(entry)
			text, size := protowire.ConsumeString(entry[n:])
			pair[i], entry = text, entry[n+size:]
		}
		m[pair[0]] = pair[1]
	}
	return m
}

// appendMessage appends an object as a message of its generated type or, of the metadata only, as a
// PartialObjectMetadata, which has them in the same place.
func (c *Cluster) appendMessage(b []byte, o object, metadataOnly bool) []byte {
	m := o.meta()
	var uid, version [36]byte
	b, start := open(b, objectMetadata)
	id := uid[:0]
	if m.serial != 0 { // a bookmark has none
		id = appendUID(id, c.seed, m.serial)
	}
	b = appendMeta(b, m.namespace, m.name, id,
		strconv.AppendUint(version[:0], m.rv, 10), m.created)
	b = append(b, m.labels...)
	b = seal(o.appendMeta(c, b), start)
	if metadataOnly {
		return b
	}
	return o.appendBody(c, b)
}

// decoded returns an object as the generated type, decoded from the bytes that protobuf clients get.
func (c *Cluster) decoded(o object, metadataOnly bool) generated {
	r := &resources[o.kind()]
	to, as := generated(&metav1.PartialObjectMetadata{}), partialKind
	if !metadataOnly {
		to, as = r.decode(), r.GroupVersionKind
	}
	if err := to.Unmarshal(c.appendMessage(nil, o, metadataOnly)); err != nil {
		panic(fmt.Sprintf("standin wrote a %s that the generated decoder refuses: %v", as.Kind, err))
	}
	to.GetObjectKind().SetGroupVersionKind(as)
	return to
}

// objectFields are the fields of an object, for a fields.Selector.
type objectFields struct{ object }

func (f objectFields) Has(field string) bool {
	return slices.Contains(resources[f.kind()].fields, field)
}

func (f objectFields) Get(field string) string {
	switch field {
	case "metadata.name":
		return f.meta().name
	case "metadata.namespace":
		return f.meta().namespace
	}
	if p, ok := f.object.(*pod); ok {
		switch field {
		case "spec.nodeName":
			return p.node
		case "status.phase":
			return string(p.phase)
		case "status.podIP":
			return p.ip
		}
	}
	return ""
}
