// Package remotewrite encodes samples as requests of Prometheus' remote write, version 1.0
// (https://prometheus.io/docs/specs/prw/remote_write_spec/): a protobuf message in snappy's block format. The message,
// by the numbers of its fields, is
//
//	WriteRequest { repeated TimeSeries timeseries = 1 }
//	TimeSeries   { repeated Label labels = 1; repeated Sample samples = 2 }
//	Label        { string name = 1; string value = 2 }
//	Sample       { double value = 1; int64 timestamp = 2 }
//
// where a series' labels are sorted by name, __name__ being one of them, and a timestamp is in Unix milliseconds.
package remotewrite

import (
	"bytes"
	"errors"
	"math"
	"math/bits"
	"slices"
	"unicode/utf8"

	"github.com/klauspost/compress/s2"
	"google.golang.org/protobuf/encoding/protowire"
)

// Stale is the stale marker: the value of a series that has ended. It is one of the many NaN, told by its bits.
var Stale = math.Float64frombits(0x7ff0000000000002)

// The fields' tags, each of one byte.
const (
	seriesTag    = 1<<3 | byte(protowire.BytesType)
	labelTag     = 1<<3 | byte(protowire.BytesType)
	sampleTag    = 2<<3 | byte(protowire.BytesType)
	nameTag      = 1<<3 | byte(protowire.BytesType)
	valueTag     = 2<<3 | byte(protowire.BytesType)
	doubleTag    = 1<<3 | byte(protowire.Fixed64Type)
	timestampTag = 2<<3 | byte(protowire.VarintType)
)

// pair is a label. Its name and value are as they are sent, without escapes.
type pair struct {
	name, value []byte
	size        int // bytes of the label's message
}

func newPair(name, value []byte) pair { return pair{name, value, field(len(name)) + field(len(value))} }

// field is the length of a field with a content of so many bytes.
func field(content int) int { return 1 + (bits.Len64(uint64(content)|1)+6)/7 + content }

// append appends the label's field to a series.
func (p *pair) append(to []byte) []byte {
	to = appendHeader(to, labelTag, p.size)
	to = append(appendHeader(to, nameTag, len(p.name)), p.name...)
	return append(appendHeader(to, valueTag, len(p.value)), p.value...)
}

// appendHeader appends what is before a field's content: its tag, and of how many bytes the content is.
func appendHeader(to []byte, tag byte, content int) []byte {
	if content < 0x80 {
		return append(to, tag, byte(content))
	}
	return protowire.AppendVarint(append(to, tag), uint64(content))
}

// insert adds a label to some that are sorted by name. It is false where there is one of that name already.
func insert(sorted []pair, p pair) (_ []pair, ok bool) {
	i := len(sorted)
	for ; i > 0; i-- {
		if order := bytes.Compare(sorted[i-1].name, p.name); order == 0 {
			return sorted, false
		} else if order < 0 {
			break
		}
	}
	if i == len(sorted) {
		return append(sorted, p), true
	}
	return slices.Insert(sorted, i, p), true
}

// Target has the labels that all series of a job have: job, instance and the external ones. It never changes.
type Target struct {
	labels []pair // sorted by name
	size   int    // bytes of the labels' fields
}

// NewTarget returns a target with these labels, a text such as job="cadvisor",instance="h",cluster="eu".
func NewTarget(labels string) (*Target, error) {
	t := &Target{}
	text, ok := slices.Clone([]byte(labels)), false
	if t.labels, t.size, _, ok = parse(t.labels, nil, text); !ok {
		return nil, errors.New("labels of a target: not a list of labels, each name once: " + labels)
	}
	return t, nil
}

// Encoder collects samples, each as a series of its own, to a request. The zero value has none and is ready to use; it
// keeps its memory from request to request. It is not for concurrent use.
type Encoder struct {
	message   []byte
	body      []byte
	n         int
	labels    []pair // of the last series, sorted by name
	unescaped []byte // of the last series, its name and the values that had escapes
}

// Len is the number of series.
func (e *Encoder) Len() int { return e.n }

// Size is the number of bytes before compression.
func (e *Encoder) Size() int { return len(e.message) }

// Reset takes all series out.
func (e *Encoder) Reset() { e.message, e.n = e.message[:0], 0 }

// Body returns the request's body, valid until the next call.
func (e *Encoder) Body() []byte {
	e.body = s2.EncodeSnappy(e.body[:cap(e.body)], e.message)
	return e.body
}

// Add appends a series with one sample, at is in Unix milliseconds. The series has the target's labels and its own: a
// text in the exposition format without braces, such as a="1",b="\"x", in any order. A label with an empty value is
// the same as none, to Prometheus and here. Add is false, and nothing was added, where the text is not a list of labels
// in UTF-8, or where a name would be there twice.
func (e *Encoder) Add(t *Target, name string, labels []byte, value float64, at int64) bool {
	e.unescaped = append(e.unescaped[:0], name...)
	metric := newPair(nameOfName, e.unescaped)
	e.labels = append(e.labels[:0], metric)
	var size int
	var ok bool
	if e.labels, size, e.unescaped, ok = parse(e.labels, e.unescaped, labels); !ok || name == "" {
		return false
	}
	sample := 1 + 8 + 1 + protowire.SizeVarint(uint64(at))
	size += t.size + field(metric.size) + field(sample)

	b := appendHeader(e.message, seriesTag, size)
	common := t.labels
	for i := range e.labels { // two sorted lists are merged
		own := &e.labels[i]
		for len(common) > 0 && bytes.Compare(common[0].name, own.name) < 0 {
			b, common = common[0].append(b), common[1:]
		}
		if len(common) > 0 && bytes.Equal(common[0].name, own.name) {
			return false
		}
		b = own.append(b)
	}
	for i := range common {
		b = common[i].append(b)
	}
	b = append(b, sampleTag, byte(sample), doubleTag)
	b = protowire.AppendFixed64(b, math.Float64bits(value))
	b = append(b, timestampTag)
	e.message = protowire.AppendVarint(b, uint64(at))
	e.n++
	return true
}

var nameOfName = []byte("__name__")

// parse adds the labels of a text to a sorted list, and returns it with the number of bytes that their fields take.
// Values that have escapes are appended to unescaped without them; all else in the list is part of the text.
func parse(list []pair, unescaped, text []byte) (_ []pair, size int, _ []byte, ok bool) {
	for len(text) > 0 {
		if text[0] == ' ' {
			text = text[1:]
			continue
		}
		name, rest, _ := bytes.Cut(text, []byte("="))
		if !isName(name) || len(rest) == 0 || rest[0] != '"' {
			return list, 0, unescaped, false
		}
		rest = rest[1:]
		end := bytes.IndexByte(rest, '"')
		if end < 0 {
			return list, 0, unescaped, false
		}
		value := rest[:end]
		if bytes.IndexByte(value, '\\') >= 0 {
			begin := len(unescaped)
			if unescaped, end = appendUnescaped(unescaped, rest); end < 0 {
				return list, 0, unescaped, false
			}
			value = unescaped[begin:]
		}
		if text = rest[end+1:]; len(text) > 0 {
			if text[0] != ',' {
				return list, 0, unescaped, false
			}
			text = text[1:]
		}
		if len(value) == 0 {
			continue
		}
		p := newPair(name, value)
		if list, ok = insert(list, p); !ok || !utf8.Valid(value) {
			return list, 0, unescaped, false
		}
		size += field(p.size)
	}
	return list, size, unescaped, true
}

// appendUnescaped appends the value that a text begins with, and returns where the quote is that ends it; -1 for none.
func appendUnescaped(to, text []byte) (_ []byte, end int) {
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch c {
		case '"':
			return to, i
		case '\\':
			if i++; i == len(text) {
				return to, -1
			}
			switch c = text[i]; c {
			case '\\', '"':
			case 'n':
				c = '\n'
			default:
				return to, -1
			}
		}
		to = append(to, c)
	}
	return to, -1
}

// isName tells whether a text can be a label's name.
func isName(text []byte) bool {
	for i, c := range text {
		letter := c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return len(text) > 0
}
