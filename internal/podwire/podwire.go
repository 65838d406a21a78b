// Package podwire has the Pod of the core API, v1, with the few fields that this program reads. Registered in a scheme in
// place of k8s.io/api's type, it is what client-go decodes watches and lists to: a pod's other fields, nine tenths of it, are
// stepped over instead of being turned into objects (BenchmarkUnmarshal).
//
// From protobuf, the other fields of the metadata are left empty too. JSON, of servers that speak only that, fills them.
package podwire

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Pod is a pod's name, namespace, resourceVersion, creationTimestamp, labels, node and IP.
type Pod struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              Spec   `json:"spec"`
	Status            Status `json:"status"`
}

// Spec is what is read of a pod's spec.
type Spec struct {
	NodeName string `json:"nodeName"`
}

// Status is what is read of a pod's status.
type Status struct {
	PodIP string `json:"podIP"`
}

// List is a page of a list of pods.
type List struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []Pod `json:"items"`
}

// DeepCopyObject returns the pod itself: it has one owner, who changes nothing.
func (p *Pod) DeepCopyObject() runtime.Object { return p }

// DeepCopyObject returns the list itself, for the same reason.
func (l *List) DeepCopyObject() runtime.Object { return l }

// Reset empties the pod.
func (p *Pod) Reset() { *p = Pod{} }

// Reset empties the list.
func (l *List) Reset() { *l = List{} }

// Unmarshal adds what a message says to the pod. The field numbers are from the generated.proto files of
//
//	k8s.io/api/core/v1:                    Pod{metadata=1 spec=2 status=3}, PodSpec{nodeName=10}, PodStatus{podIP=6},
//	                                       PodList{metadata=1 items=2}
//	k8s.io/apimachinery/pkg/apis/meta/v1:  ObjectMeta{name=1 namespace=3 resourceVersion=6 creationTimestamp=8 labels=11
//	                                       annotations=12}, Time{seconds=1}, ListMeta{resourceVersion=2 continue=3}
func (p *Pod) Unmarshal(b []byte) error {
	for f, err := range fields(b, "Pod", 1, 2, 3) {
		switch {
		case err != nil:
			return err
		case f.num == 1:
			err = p.unmarshalMeta(f.bytes)
		case f.num == 2:
			err = text(f.bytes, "PodSpec", 10, &p.Spec.NodeName)
		case f.num == 3:
			err = text(f.bytes, "PodStatus", 6, &p.Status.PodIP)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Pod) unmarshalMeta(b []byte) error {
	for f, err := range fields(b, "ObjectMeta", 1, 3, 6, 8, 11, 12) {
		if err != nil {
			return err
		}
		switch f.num {
		case 1:
			p.Name = string(f.bytes)
		case 3:
			p.Namespace = string(f.bytes)
		case 6:
			p.ResourceVersion = string(f.bytes)
		case 8:
			if p.CreationTimestamp.Time, err = unmarshalTime(f.bytes); err != nil {
				return err
			}
		case 11:
			key, value, err := entry(f.bytes)
			if err != nil {
				return err
			}
			if p.Labels == nil {
				p.Labels = map[string]string{}
			}
			p.Labels[string(key)] = string(value)
		case 12:
			key, value, err := entry(f.bytes)
			if err != nil {
				return err
			}
			// The one annotation that says something about the watch; others can be as large as the pod.
			if string(key) == metav1.InitialEventsAnnotationKey {
				p.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: string(value)}
			}
		}
	}
	return nil
}

// unmarshalTime reads a Time: none if it is empty, else whole seconds, whatever its nanos say (apimachinery's
// meta/v1/time_proto.go).
func unmarshalTime(b []byte) (time.Time, error) {
	if len(b) == 0 {
		return time.Time{}, nil
	}
	var seconds int64
	for f, err := range fields(b, "Time") {
		if err != nil {
			return time.Time{}, err
		}
		if f.num == 1 {
			if f.typ != protowire.VarintType {
				return time.Time{}, errType("Time", f)
			}
			seconds = int64(f.varint)
		}
	}
	return time.Unix(seconds, 0), nil
}

// entry reads an entry of a map of strings.
func entry(b []byte) (key, value []byte, err error) {
	for f, err := range fields(b, "an entry", 1, 2) {
		switch {
		case err != nil:
			return nil, nil, err
		case f.num == 1:
			key = f.bytes
		case f.num == 2:
			value = f.bytes
		}
	}
	return key, value, nil
}

// text reads one string of a message.
func text(b []byte, message string, num protowire.Number, to *string) error {
	for f, err := range fields(b, message, num) {
		if err != nil {
			return err
		}
		if f.num == num {
			*to = string(f.bytes)
		}
	}
	return nil
}

// Unmarshal adds what a message says to the list.
func (l *List) Unmarshal(b []byte) error {
	for f, err := range fields(b, "PodList", 1, 2) {
		switch {
		case err != nil:
			return err
		case f.num == 1:
			for f, err := range fields(f.bytes, "ListMeta", 2, 3) {
				switch {
				case err != nil:
					return err
				case f.num == 2:
					l.ResourceVersion = string(f.bytes)
				case f.num == 3:
					l.Continue = string(f.bytes)
				}
			}
		case f.num == 2:
			l.Items = append(l.Items, Pod{})
			if err := l.Items[len(l.Items)-1].Unmarshal(f.bytes); err != nil {
				return err
			}
		}
	}
	return nil
}

// field is one field of a message.
type field struct {
	num    protowire.Number
	typ    protowire.Type
	bytes  []byte // of protowire.BytesType, without their length
	varint uint64 // of protowire.VarintType
}

// fields goes over a message and ends with the first error. The fields with the given numbers must be strings or messages.
func fields(b []byte, message string, strings ...protowire.Number) iter.Seq2[field, error] {
	return func(yield func(field, error) bool) {
		for len(b) > 0 {
			var f field
			var n, size int
			f.num, f.typ, n = protowire.ConsumeTag(b)
			switch {
			case n < 0:
				size = n
			case f.typ == protowire.BytesType:
				f.bytes, size = protowire.ConsumeBytes(b[n:])
			case f.typ == protowire.VarintType:
				f.varint, size = protowire.ConsumeVarint(b[n:])
			default:
				size = protowire.ConsumeFieldValue(f.num, f.typ, b[n:])
			}
			if size < 0 {
				yield(f, fmt.Errorf("%s: %w", message, protowire.ParseError(size)))
				return
			}
			if f.typ != protowire.BytesType && slices.Contains(strings, f.num) {
				yield(f, errType(message, f))
				return
			}
			if !yield(f, nil) {
				return
			}
			b = b[n+size:]
		}
	}
}

func errType(message string, f field) error {
	return fmt.Errorf("field %d of %s has wire type %d", f.num, message, f.typ)
}
