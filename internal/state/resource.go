package state

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/slim"
)

// Resource is a kind of objects, other than pods, that there are samples of.
type Resource struct {
	Name, Kind string
	Group      schema.GroupVersion
	Global     bool // its objects belong to no namespace, so that no Role gives a right to them
	New        func() slim.Object
	Missing    string // what is missing without the right to it
	// Labels are the names of the labels with an object's namespace, "" where it has none, and its name.
	Labels [2]string
	// Owner is the kind of what owns such an object, where that can be guessed from pods; see Guess.
	Owner string
}

// Resources is what there are samples of, beside pods.
var Resources = []Resource{
	{Name: "nodes", Kind: "Node", Group: kube.Core, Labels: [2]string{"", "node"}, Global: true,
		New:     func() slim.Object { return &slim.Node{} },
		Missing: "kube_node_*, machine_* and, on the page for people, what nodes have to give are not served"},
	{Name: "namespaces", Kind: "Namespace", Group: kube.Core, Labels: [2]string{"", "namespace"},
		New: newMetadata, Missing: "kube_namespace_status_phase is not served"},
	{Name: "resourcequotas", Kind: "ResourceQuota", Group: kube.Core, Labels: [2]string{"namespace", "resourcequota"},
		New: func() slim.Object { return &slim.ResourceQuota{} }, Missing: "kube_resourcequota is not served"},
	{Name: "replicasets", Kind: "ReplicaSet", Group: kube.Apps,
		Labels: [2]string{"namespace", "replicaset"}, New: newMetadata, Owner: "Deployment",
		Missing: "kube_replicaset_owner is guessed from the pods"},
	{Name: "jobs", Kind: "Job", Group: kube.Batch,
		Labels: [2]string{"namespace", "job_name"}, New: newMetadata, Owner: "CronJob",
		Missing: "kube_job_owner is guessed from the pods"},
}

func newMetadata() slim.Object { return &slim.Metadata{} }

// Samples returns what is kept of an object: its samples, for Renderer.Kept.
func (r *Resource) Samples(rows []Row, object slim.Object) string {
	var s Samples
	var of Object
	switch o := object.(type) {
	case *slim.Node:
		of.Node = o
	case *slim.Metadata:
		of.Metadata = o
	case *slim.ResourceQuota:
		of.Quota = o
	}
	s.AddObject(rows, &of, r.labels(object.GetNamespace(), object.GetName())...)
	return s.Pack()
}

func (r *Resource) labels(namespace, name string) []string {
	if r.Labels[0] == "" {
		return []string{r.Labels[1], name}
	}
	return []string{r.Labels[0], namespace, r.Labels[1], name}
}
