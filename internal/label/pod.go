package label

import (
	"strings"
	"unique"

	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/store"
)

// Pods builds the label text of pods.
type Pods struct {
	Keys  []string // labels of pods that are served
	Names []string // their names on a page, see Names
}

// Text builds the label text of a pod. The name that it returns is part of it where possible, so as not to take memory
// of its own.
func (l Pods) Text(p *slim.Pod) (text sample.Text, name string) {
	podName := Escape(p.Name)
	head := podName + `",ip="` + Escape(p.Status.PodIP) + `",container="`
	name = head[:len(podName)]
	if podName != p.Name {
		name = strings.Clone(p.Name)
	}
	var tail strings.Builder
	tail.WriteString(`",namespace="` + Escape(p.Namespace) + `"`)
	for i, key := range l.Keys {
		if value, ok := p.Labels[key]; ok {
			tail.WriteString("," + l.Names[i] + `="` + Escape(value) + `"`)
		}
	}
	tail.WriteString("}")
	node := unique.Make(`node="` + Escape(p.Spec.NodeName) + `",pod="`)
	return sample.Text{Node: node, Head: head, Tail: unique.Make(tail.String())}, name
}

// Unknown builds the label text of a pod of which there is only usage.
func (l Pods) Unknown(namespace, name string) sample.Text {
	p := &slim.Pod{}
	p.Namespace, p.Name = namespace, name
	text, _ := l.Text(p)
	return text
}

// NodeOf is the label node in the text of a pod.
func NodeOf(t sample.Text) string { return quoted(t.Node.Value(), 2) }

// NodeName, Namespace and PodName are the values of these labels in the text of a pod, without its escapes.
func NodeName(t sample.Text) string { return value(t.Node.Value(), `node="`) }

// Namespace is explained at NodeName.
func Namespace(t sample.Text) string { return value(t.Tail.Value(), `",namespace="`) }

// PodName is explained at NodeName.
func PodName(t sample.Text) string { return value(t.Head, "") }

// value is the value that stands in a text behind a prefix and before the next quote.
func value(text, prefix string) string {
	text = text[len(prefix):]
	if plain, _, _ := strings.Cut(text, `"`); strings.IndexByte(plain, '\\') < 0 {
		return plain
	}
	quoted := quoted(text, 1)
	return Unescape(quoted[:len(quoted)-1])
}

// LabelsOf is the text of the labels that Keys has added to the text of a pod.
func LabelsOf(t sample.Text) string {
	tail := t.Tail.Value()
	return strings.TrimPrefix(tail[len(quoted(tail, 3)):len(tail)-1], ",")
}

// KeyOf are the texts of namespace and name in the text of a pod. They are in the order of these as long as names have
// no characters that Kubernetes does not allow.
func KeyOf(t sample.Text) store.Key {
	return store.Key{Namespace: quoted(t.Tail.Value(), 3), Name: quoted(t.Head, 1)}
}

// quoted is a label text as far as its n-th quote, of those that are not escaped.
func quoted(text string, n int) string {
	for i := 0; ; i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			if n--; n == 0 {
				return text[:i+1]
			}
		}
	}
}
