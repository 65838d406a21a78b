package wire

import (
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/json"
	kjson "sigs.k8s.io/json"
)

// jsonDecoder is encoding/json's Decoder, in apimachinery's case-sensitive edition, on what is left of a body. It
// buffers all of a value and the white space before it, so what it may read beyond what it has consumed is bounded.
type jsonDecoder struct {
	kjson.Decoder
	r     *Reader
	given int64 // What the decoder has read.
	most  int64 // How far that may be ahead of what the decoder has consumed.
	err   error // What reading has ended with.
}

func newJSONDecoder(r *Reader, most int64) *jsonDecoder {
	d := &jsonDecoder{r: r, most: most}
	d.Decoder = kjson.NewDecoderCaseSensitivePreserveInts(d)
	return d
}

// Read is what the decoder reads from. An error stays: More swallows it, and Token would read on.
func (d *jsonDecoder) Read(p []byte) (n int, err error) {
	left := d.InputOffset() + d.most - d.given
	if left <= 0 {
		return 0, tooLong(d.offset(), d.most, d.most)
	}
	if d.err == nil {
		n, d.err = d.r.buf.Read(p[:min(int64(len(p)), left)])
		d.given += int64(n)
	}
	return n, d.err
}

// offset is where in the body the decoder is. r.off is where it began.
func (d *jsonDecoder) offset() int64 { return d.r.off + d.InputOffset() }

// value decodes the next value, where there must be one.
func (d *jsonDecoder) value(into any) error { return shorten(noEOF(d.Decode(into))) }

// token returns the next token, where there must be one.
func (d *jsonDecoder) token() (stdjson.Token, error) {
	t, err := d.Token()
	return t, shorten(noEOF(err))
}

// end is an error unless only white space is left.
func (d *jsonDecoder) end() error {
	if t, err := d.Token(); err == nil {
		return fmt.Errorf("%.100q at byte %d, where the body should end", fmt.Sprint(t), d.offset())
	} else if err != io.EOF {
		return shorten(err)
	}
	return nil
}

// shorten cuts what a decoder says, which may quote all of a long string.
func shorten(err error) error {
	const most = 300
	if err == nil || len(err.Error()) <= most {
		return err
	}
	return errors.New(err.Error()[:most] + "…")
}

// skipped is a value that only has to be JSON.
type skipped struct{}

func (skipped) UnmarshalJSON([]byte) error { return nil }

// jsonMessage is that of a Status. Objects of other kinds have none, so one that is no string is none.
type jsonMessage string

func (m *jsonMessage) UnmarshalJSON(b []byte) error {
	_ = json.Unmarshal(b, (*string)(m))
	return nil
}

// jsonHeader is what an object says it is.
type jsonHeader struct {
	metav1.TypeMeta
	Message jsonMessage `json:"message"`
}

// expectJSON consumes white space up to the { of an object. It returns io.EOF where the body ends before.
func (r *Reader) expectJSON() error {
	for {
		switch b, err := r.peek(1); {
		case err != nil:
			return err
		case len(b) == 0:
			return io.EOF
		case b[0] == '{':
			return nil
		case b[0] == ' ' || b[0] == '\t' || b[0] == '\r' || b[0] == '\n':
			r.advance(1)
			continue
		}
		start, err := r.peek(60)
		if err != nil {
			return err
		}
		return fmt.Errorf("the body is neither Kubernetes protobuf nor a JSON object; it begins with %q. "+
			"Does the server's address lead to a Kubernetes API server?", start)
	}
}

// readJSONObject reads a single object.
func (r *Reader) readJSONObject() error {
	d := newJSONDecoder(r, maxItem)
	var raw stdjson.RawMessage
	if err := d.value(&raw); err != nil {
		return err
	}
	o, err := jsonObject(raw, r.want)
	if err == nil {
		err = r.visitAt(r.off, o)
	}
	if err == nil {
		err = d.end()
	}
	return err
}

// jsonObject verifies what an object says it is.
func jsonObject(raw []byte, want metav1.TypeMeta) (Object, error) {
	var is jsonHeader
	if err := json.Unmarshal(raw, &is); err != nil {
		return Object{}, shorten(err)
	}
	o := Object{JSON: func(into any) error { return shorten(json.Unmarshal(raw, into)) }}
	return o, verify(want, is.TypeMeta, string(is.Message))
}

// errTwice refuses what apimachinery's decoder would put up with: the last kind counts there, and a second array of
// items is merged item by item into the first.
var errTwice = errors.New("comes twice in the list")

func (r *Reader) readJSONList() error {
	d := newJSONDecoder(r, maxItem)
	if _, err := d.token(); err != nil { // The {.
		return err
	}
	var is jsonHeader
	read := map[string]any{"kind": &is.Kind, "apiVersion": &is.APIVersion, "message": &is.Message}
	if r.meta != nil {
		read["metadata"] = r.meta
	}
	seen := make(map[string]bool)
	for d.More() {
		token, err := d.token()
		if err != nil {
			return err
		}
		key := token.(string)
		if key == "kind" || key == "apiVersion" || key == "items" {
			if seen[key] {
				return fmt.Errorf("%q %w", key, errTwice)
			}
			seen[key] = true
		}
		if into := read[key]; into != nil {
			err = d.value(into)
		} else if key != "items" {
			err = d.value(&skipped{})
		} else {
			if seen["kind"] && seen["apiVersion"] { // As they are wherever Go has written the list: before its items.
				err = verify(r.want, is.TypeMeta, string(is.Message))
			}
			if err == nil {
				err = r.readJSONItems(d)
			}
		}
		if err != nil {
			return err
		}
	}
	if _, err := d.token(); err != nil { // The }.
		return err
	}
	if err := d.end(); err != nil {
		return err
	}
	return verify(r.want, is.TypeMeta, string(is.Message))
}

// readJSONItems reads the array of items; null is an empty one, which Go writes for a list without any.
func (r *Reader) readJSONItems(d *jsonDecoder) error {
	switch begin, err := d.token(); {
	case err != nil:
		return err
	case begin == nil:
		return nil
	case begin != stdjson.Delim('['):
		return fmt.Errorf("the items at byte %d are no array", d.offset())
	}
	for d.More() {
		if err := r.visitAt(d.offset(), Object{JSON: d.value}); err != nil {
			return err
		}
	}
	_, err := d.token() // The ].
	return err
}
