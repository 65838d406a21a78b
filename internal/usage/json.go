package usage

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/json"
)

// Of a JSON list, only the outermost object and its items array are taken apart here. Each value in them is found as a
// whole, by counting brackets, and given to apimachinery's decoder, which says whether it is JSON and what it means.

// jsonItem has what is read of PodMetrics and NodeMetrics alike, in types that decode as those of metrics/v1beta1 do.
type jsonItem struct {
	Metadata struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"metadata"`
	Timestamp metav1.Time `json:"timestamp"`
	Window    jsonWindow  `json:"window"`
}

type jsonPod struct {
	jsonItem
	Containers []jsonContainer `json:"containers"`
}

type jsonNode struct {
	jsonItem
	Usage *jsonUsage `json:"usage"`
}

type jsonContainer struct {
	Name  string     `json:"name"`
	Usage *jsonUsage `json:"usage"`
}

// jsonUsage is pointed to because null makes an empty one of it.
type jsonUsage struct {
	CPU    jsonQuantity `json:"cpu"`
	Memory jsonQuantity `json:"memory"`
}

// jsonQuantity is a quantity as resource.Quantity reads it, that is also as a number, but null is not a zero.
type jsonQuantity struct{ Value }

func (q *jsonQuantity) UnmarshalJSON(b []byte) error {
	if len(b) >= 2 && b[0] == '"' && b[len(b)-1] == '"' {
		b = b[1 : len(b)-1]
	}
	q.Value = valueOf(bytes.TrimSpace(b))
	return nil
}

// jsonWindow tells a window of 0s from none.
type jsonWindow struct {
	metav1.Duration
	sent bool
}

func (w *jsonWindow) UnmarshalJSON(b []byte) error {
	w.sent = true
	return w.Duration.UnmarshalJSON(b)
}

// jsonMessage is that of a Status. Objects of other kinds have none, so one that is no string is none.
type jsonMessage string

func (m *jsonMessage) UnmarshalJSON(b []byte) error {
	_ = json.Unmarshal(b, (*string)(m))
	return nil
}

// readJSON reads a body that begins with the { of an object.
func (d *Decoder) readJSON(kind Kind, visit func(*Item) error) error {
	var err error
	if kind.isList() {
		err = d.readJSONList(kind, visit)
	} else {
		err = d.readJSONObject(kind, visit)
	}
	if err != nil {
		return err
	}
	switch c, err := d.body.nextByte(); {
	case err == io.EOF:
		return nil
	case err != nil:
		return err
	default:
		return d.body.unexpected(c, "the end of the body")
	}
}

// readJSONObject reads a single PodMetrics or NodeMetrics.
func (d *Decoder) readJSONObject(kind Kind, visit func(*Item) error) error {
	b, err := d.body.value()
	if err != nil {
		return err
	}
	var is struct {
		Kind       string      `json:"kind"`
		APIVersion string      `json:"apiVersion"`
		Message    jsonMessage `json:"message"`
	}
	if err := json.Unmarshal(b, &is); err != nil {
		return shortError(err)
	}
	if err := kind.verify(is.APIVersion, is.Kind, string(is.Message)); err != nil {
		return err
	}
	return d.visitJSON(kind, b, visit)
}

// errTwice refuses what apimachinery's decoder would put up with: the last kind counts there, and a second array of items is
// merged item by item into the first.
var errTwice = errors.New("comes twice in the list")

// readJSONList reads a PodMetricsList or NodeMetricsList.
func (d *Decoder) readJSONList(kind Kind, visit func(*Item) error) error {
	s := &d.body
	var is struct {
		kind, apiVersion string
		message          jsonMessage
	}
	seen := make(map[string]bool)
	err := s.elements('{', '}', func(c byte) error {
		if c != '"' {
			return s.unexpected(c, "a key")
		}
		b, err := s.value()
		if err != nil {
			return err
		}
		var key string
		if err := json.Unmarshal(b, &key); err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		switch key {
		case "kind", "apiVersion", "items":
			if seen[key] {
				return fmt.Errorf("%q %w", key, errTwice)
			}
			seen[key] = true
		}
		if key == "items" {
			if seen["kind"] && seen["apiVersion"] { // As they are wherever Go has written the list: before its items.
				if err := kind.verify(is.apiVersion, is.kind, string(is.message)); err != nil {
					return err
				}
			}
			return d.readJSONItems(kind, visit)
		}
		if b, err = s.value(); err != nil {
			return err
		}
		var unread stdjson.RawMessage
		switch key {
		case "kind":
			return json.Unmarshal(b, &is.kind)
		case "apiVersion":
			return json.Unmarshal(b, &is.apiVersion)
		case "message":
			return json.Unmarshal(b, &is.message)
		default:
			return json.Unmarshal(b, &unread)
		}
	})
	if err != nil {
		return err
	}
	return kind.verify(is.apiVersion, is.kind, string(is.message))
}

// readJSONItems reads the array of items; null is an empty one, which Go writes for a list without any.
func (d *Decoder) readJSONItems(kind Kind, visit func(*Item) error) error {
	s := &d.body
	if c, err := s.nextByte(); err != nil {
		return noEOF(err)
	} else if c == 'n' {
		b, err := s.value()
		if err != nil {
			return err
		}
		return json.Unmarshal(b, new([]jsonItem))
	}
	return s.elements('[', ']', func(byte) error {
		b, err := s.value()
		if err != nil {
			return err
		}
		return d.visitJSON(kind, b, visit)
	})
}

// visitJSON decodes an item and visits it.
func (d *Decoder) visitJSON(kind Kind, b []byte, visit func(*Item) error) error {
	item := d.begin(kind)
	var err error
	if kind.isNode() {
		err = d.unmarshalJSONNode(b, item)
	} else {
		err = d.unmarshalJSONPod(b, item)
	}
	if err != nil {
		return fmt.Errorf("the item before byte %d: %w", d.body.off, shortError(err))
	}
	return visit(item)
}

func (d *Decoder) unmarshalJSONNode(b []byte, item *Item) error {
	var from jsonNode // A new one, because the decoder merges into what is there.
	if err := json.Unmarshal(b, &from); err != nil {
		return err
	}
	d.setCommon(&from.jsonItem, 0, item)
	item.Containers[0].setUsage(from.Usage)
	return nil
}

func (d *Decoder) unmarshalJSONPod(b []byte, item *Item) error {
	var from jsonPod
	if err := json.Unmarshal(b, &from); err != nil {
		return err
	}
	if len(from.Containers) > maxContainers {
		return errManyContainers
	}
	names := 0
	for i := range from.Containers {
		names += len(from.Containers[i].Name)
	}
	d.setCommon(&from.jsonItem, names, item)
	for i := range from.Containers {
		c := Container{Name: d.name(from.Containers[i].Name)}
		c.setUsage(from.Containers[i].Usage)
		item.Containers = append(item.Containers, c)
	}
	return nil
}

// setCommon sets what PodMetrics and NodeMetrics have in common. It makes room in d.names for these names and for further
// bytes of them, so that none is moved once it is aliased.
func (d *Decoder) setCommon(from *jsonItem, further int, item *Item) {
	size := len(from.Metadata.Namespace) + len(from.Metadata.Name) + further
	d.names = slices.Grow(d.names[:0], size)
	item.Namespace = d.name(from.Metadata.Namespace)
	item.Name = d.name(from.Metadata.Name)
	item.Timestamp = from.Timestamp.Time
	item.Window, item.HasWindow = from.Window.Duration.Duration, from.Window.sent
}

// name puts a name into d.names, which has room for it.
func (d *Decoder) name(s string) []byte {
	at := len(d.names)
	d.names = append(d.names, s...)
	return d.names[at:]
}

func (c *Container) setUsage(u *jsonUsage) {
	if u != nil {
		c.CPU, c.Memory = u.CPU.Value, u.Memory.Value
	}
}

// elements reads an array or object, given its brackets. For each element it calls read, with the first byte of it that is
// not white space, for read to consume the element.
func (s *stream) elements(begin, end byte, read func(byte) error) error {
	if err := s.expect(begin); err != nil {
		return err
	}
	for first := true; ; first = false {
		c, err := s.nextByte()
		if err != nil {
			return noEOF(err)
		}
		if first && c == end {
			s.advance(1)
			return nil
		}
		if err := read(c); err != nil {
			return err
		}
		if c, err = s.nextByte(); err != nil {
			return noEOF(err)
		}
		switch c {
		case ',':
			s.advance(1)
		case end:
			s.advance(1)
			return nil
		default:
			return s.unexpected(c, fmt.Sprintf("',' or %q", end))
		}
	}
}

// expect consumes white space and then the byte.
func (s *stream) expect(want byte) error {
	c, err := s.nextByte()
	if err != nil {
		return noEOF(err)
	}
	if c != want {
		return s.unexpected(c, fmt.Sprintf("%q", want))
	}
	s.advance(1)
	return nil
}

func (s *stream) unexpected(c byte, want string) error {
	return fmt.Errorf("%q at byte %d where JSON has %s", c, s.off, want)
}

// nextByte consumes white space and returns the byte after it, unconsumed; io.EOF at the end of the body.
func (s *stream) nextByte() (byte, error) {
	for {
		for ; s.pos < len(s.buf); s.advance(1) {
			switch c := s.buf[s.pos]; c {
			case ' ', '\t', '\r', '\n':
			default:
				return c, nil
			}
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
}

// value consumes a JSON value, of which it only finds the end, and returns it. It is valid until the next call.
func (s *stream) value() ([]byte, error) {
	if _, err := s.nextByte(); err != nil {
		return nil, noEOF(err)
	}
	var (
		depth    int
		inString bool
		escaped  bool
	)
	for n := 0; ; {
		for b := s.buf[s.pos:]; n < len(b); {
			c := b[n]
			n++
			switch {
			case escaped:
				escaped = false
				continue
			case inString:
				switch c {
				case '\\':
					escaped = true
					continue
				case '"':
					inString = false
				default:
					continue
				}
			case c == '"':
				inString = true
				continue
			case c == '{' || c == '[':
				depth++
				continue
			case (c == '}' || c == ']') && depth > 0:
				depth--
			case depth > 0:
				continue
			case c == '}' || c == ']' || c == ',' || c == ':' || c == ' ' || c == '\t' || c == '\r' || c == '\n':
				return s.takeItem(int64(n - 1)) // A number or literal ends before.
			default:
				continue
			}
			if depth == 0 {
				return s.takeItem(int64(n))
			}
		}
		if n > maxItem {
			return nil, s.tooLong(int64(n))
		}
		if err := s.fill(); err != nil {
			return nil, noEOF(err)
		}
	}
}

// shortError cuts what a decoder says, which may quote all of a long string.
func shortError(err error) error {
	const most = 300
	if text := err.Error(); len(text) > most {
		return errors.New(text[:most] + "…")
	}
	return err
}

// noEOF is for where the body must not end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
