// Package metricsapi decodes what the resource metrics API (metrics.k8s.io/v1beta1) answers: lists of PodMetrics and
// NodeMetrics, and single objects of them, in protobuf or JSON.
//
// A body is read as a stream: one item at a time is in memory, in buffers that are kept from one body to the next. Only
// what a sample is made of is read: namespace, name, timestamp, window, container names, and the usage of cpu and
// memory. Labels, annotations and everything else are skipped unread.
//
// What is read means what the generated types of k8s.io/metrics take it for, with these exceptions:
//   - A quantity that the generated types cannot parse fails their whole list. Here that one Value is Invalid. So is
//     one that is missing or empty, which they take for zero.
//   - What is skipped unread is not checked either, so it cannot fail a list. A window of null is none.
package metricsapi

import (
	"fmt"
	"io"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"metrics-server-prom/internal/wire"
)

// Kind is the kind of object that a body is expected to hold.
type Kind string

// The kinds of metrics.k8s.io/v1beta1.
const (
	PodMetricsList  Kind = "PodMetricsList"
	NodeMetricsList Kind = "NodeMetricsList"
	PodMetrics      Kind = "PodMetrics"
	NodeMetrics     Kind = "NodeMetrics"
)

// State tells whether a Value can be used.
type State uint8

const (
	Absent  State = iota // The usage does not name the resource.
	Valid                // The quantity is a number, finite and not negative.
	Invalid              // The quantity is anything else: negative, too large, empty, not a quantity.
)

// Value is one quantity of a usage.
type Value struct {
	V     float64 // In cores (cpu) or bytes (memory); 0 unless State is Valid.
	State State
}

// Container is the usage of one container, or of a node.
type Container struct {
	Name   []byte // Empty for a node. As it came: any bytes, not only UTF-8.
	CPU    Value  // Cores, that is CPU seconds per second.
	Memory Value  // Bytes of the working set.
}

// Item is one PodMetrics or NodeMetrics. It lies in the Decoder's buffers and is valid only until visit returns.
type Item struct {
	Namespace []byte // Empty for a node. As it came, as Name is: any bytes, not only UTF-8.
	Name      []byte
	// Timestamp is the end of the interval that was measured; zero where it is absent. Whole seconds in protobuf. A
	// hostile server can send any second that fits an int64, so UnixNano may overflow.
	Timestamp time.Time
	// Window is the length of that interval, of either sign; HasWindow is false where none was sent.
	Window    time.Duration
	HasWindow bool
	// Containers are those of a pod, in the order of the body and as often as it names them; one of a NodeMetrics.
	Containers []Container
}

// maxContainers bounds what the containers of one item take: without it two bytes of body would become 56 of memory.
const maxContainers = 10_000

var errManyContainers = fmt.Errorf("more than %d containers", maxContainers)

// Decoder reads bodies. Its buffers are kept from one to the next, so that a list of any length in protobuf allocates
// the same. The zero value is ready for use, by one goroutine at a time.
type Decoder struct {
	body wire.Reader
	item Item
}

// Read reads one object of the kind from r until r ends, and calls visit for each item in the order of the list, once
// for a single object. It tells protobuf from JSON by the first bytes, whatever the content type says.
//
// An error of visit or of r ends it and is returned wrapped. After any error, what was visited before is void: it may
// be the beginning of a list that was cut off. r is not closed, and not read to its end after an error.
func (d *Decoder) Read(r io.Reader, kind Kind, visit func(*Item) error) error {
	want := metav1.TypeMeta{Kind: string(kind), APIVersion: "metrics.k8s.io/v1beta1"}
	isNode := kind == NodeMetricsList || kind == NodeMetrics
	_, err := d.body.Read(r, want, func(o wire.Object) (err error) {
		d.item = Item{Containers: d.item.Containers[:0]}
		if o.JSON != nil {
			err = d.item.decodeJSON(o.JSON, isNode)
		} else {
			err = d.item.unmarshal(o.Protobuf, isNode)
		}
		if err != nil {
			return fmt.Errorf("%.100q: %w", d.item.Name, err)
		}
		return visit(&d.item)
	})
	return err
}
