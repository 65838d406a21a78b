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
type pair struct{ name, value []byte }

// content is the length of the label's message.
func (p *pair) content() int { return field(len(p.name)) + field(len(p.value)) }

// field is the length of a field with a content of so many bytes.
func field(n int) int { return 1 + (bits.Len64(uint64(n)|1)+6)/7 + n }

// pairs are labels, sorted by name.
type pairs []pair

// insert adds a label in its place. It is false where there is one of that name already.
func (l *pairs) insert(p pair) bool {
	i := len(*l)
	for ; i > 0; i-- {
		if order := bytes.Compare((*l)[i-1].name, p.name); order == 0 {
			return false
		} else if order < 0 {
			break
		}
	}
	*l = slices.Insert(*l, i, p)
	return true
}

// Target has the labels that all series of a job have: job, instance and the external ones. It never changes.
type Target struct {
	labels pairs
	size   int // bytes of the labels' fields
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
	message  []byte
	body     []byte
	n        int
	labels   pairs  // of the last series
	unescape []byte // values of the last series that had escapes
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
	before := len(e.message)
	e.unescape = append(e.unescape[:0], name...)
	metric := pair{nameOfName, e.unescape}
	e.labels = append(e.labels[:0], metric)
	var size int
	var ok bool
	if e.labels, size, e.unescape, ok = parse(e.labels, e.unescape, labels); !ok || name == "" {
		return false
	}
	sample := 1 + 8 + 1 + protowire.SizeVarint(uint64(at))
	size += t.size + field(metric.content()) + field(sample)

	b := append(e.message, seriesTag)
	b = protowire.AppendVarint(b, uint64(size))
	// Two sorted lists are merged.
	for own, common := e.labels, t.labels; len(own)+len(common) > 0; {
		from := &own
		if len(own) == 0 {
			from = &common
		} else if len(common) > 0 {
			order := bytes.Compare(own[0].name, common[0].name)
			if order == 0 {
				e.message = b[:before]
				return false
			}
			if order > 0 {
				from = &common
			}
		}
		p := &(*from)[0]
		b = append(b, labelTag)
		b = protowire.AppendVarint(b, uint64(p.content()))
		b = append(b, nameTag)
		b = protowire.AppendBytes(b, p.name)
		b = append(b, valueTag)
		b = protowire.AppendBytes(b, p.value)
		*from = (*from)[1:]
	}
	b = append(b, sampleTag, byte(sample), doubleTag)
	b = protowire.AppendFixed64(b, math.Float64bits(value))
	b = append(b, timestampTag)
	e.message = protowire.AppendVarint(b, uint64(at))
	e.n++
	return true
}

var nameOfName = []byte("__name__")

// parse adds the labels of a text to a list and returns it with the bytes that their fields take. Values that have
// escapes are appended to unescape without them; all else in the list is part of the text.
func parse(list pairs, unescape, text []byte) (_ pairs, size int, _ []byte, ok bool) {
	for len(text) > 0 {
		text = bytes.TrimLeft(text, " ")
		equals := bytes.IndexByte(text, '=')
		if equals <= 0 || !isName(text[:equals]) || len(text) == equals+1 || text[equals+1] != '"' {
			return list, 0, unescape, false
		}
		p := pair{name: text[:equals]}
		text = text[equals+2:]
		end := bytes.IndexByte(text, '"')
		if end < 0 {
			return list, 0, unescape, false
		}
		if p.value = text[:end]; bytes.IndexByte(p.value, '\\') >= 0 {
			begin := len(unescape)
			if unescape, end = appendUnescaped(unescape, text); end < 0 {
				return list, 0, unescape, false
			}
			p.value = unescape[begin:]
		}
		if text = text[end+1:]; len(text) > 0 {
			if text[0] != ',' {
				return list, 0, unescape, false
			}
			text = text[1:]
		}
		if len(p.value) == 0 {
			continue
		}
		if !utf8.Valid(p.value) || !list.insert(p) {
			return list, 0, unescape, false
		}
		size += field(p.content())
	}
	return list, size, unescape, true
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
		if c|0x20 < 'a' || c|0x20 > 'z' {
			if c != '_' && (i == 0 || c < '0' || c > '9') {
				return false
			}
		}
	}
	return true
}
