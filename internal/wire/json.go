package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
)

// jsonDecoder is encoding/json's Decoder, in apimachinery's case-sensitive edition, on what is left of a body. It
// buffers all of a value and the white space before it, so what it may read beyond what it has consumed is bounded.
type jsonDecoder struct {
	kjson.Decoder
	r     io.Reader
	given int64 // What the decoder has read.
	most  int64 // How far that may be ahead of what the decoder has consumed.
	err   error // What reading has ended with.
}

func newJSONDecoder(r io.Reader, most int64) *jsonDecoder {
	d := &jsonDecoder{r: r, most: most}
	d.Decoder = kjson.NewDecoderCaseSensitivePreserveInts(d)
	return d
}

// Read is what the decoder reads from. An error stays: More swallows it, and Token would read on.
func (d *jsonDecoder) Read(p []byte) (n int, err error) {
	left := d.InputOffset() + d.most - d.given
	if left <= 0 {
		return 0, errTooLong(d.most)
	}
	if d.err == nil {
		n, d.err = d.r.Read(p[:min(int64(len(p)), left)])
		d.given += int64(n)
	}
	return n, d.err
}

// value decodes the next value, where there must be one.
func (d *jsonDecoder) value(into any) error { return clip(noEOF(d.Decode(into))) }

// clip cuts what a decoder says, which may quote all of a long string.
func clip(err error) error {
	if err != nil && len(err.Error()) > 300 {
		return fmt.Errorf("%.300s…", err)
	}
	return err
}

// jsonHeader is what an object says it is, and the message of a Status.
type jsonHeader struct {
	metav1.TypeMeta
	Message string `json:"message"`
}

// openJSON is open for JSON. What follows the object is left for the caller's decoding to find.
func openJSON(b []byte, want metav1.TypeMeta) (Object, error) {
	var is jsonHeader
	if err := newJSONDecoder(bytes.NewReader(b), maxFrame).value(&is); err != nil {
		return Object{}, fmt.Errorf("what begins with %.60q is no object: %w", b, err)
	}
	decode := func(into any) error { return clip(kjson.UnmarshalCaseSensitivePreserveInts(b, into)) }
	return Object{JSON: decode}, verify(want, is.TypeMeta, is.Message)
}

// readJSONList reads a list item by item.
func (r *Reader) readJSONList(want metav1.TypeMeta, meta *metav1.ListMeta, item func(Object) error) error {
	d := newJSONDecoder(r.buf, maxItem)
	_, _ = d.Token() // The {, which sniff has seen.
	var is jsonHeader
	var other json.RawMessage
	into := map[any]any{"kind": &is.Kind, "apiVersion": &is.APIVersion, "message": &is.Message, "metadata": meta}
	found := false
	for d.More() {
		key, err := d.Token()
		to, known := into[key]
		switch {
		case err != nil:
		case known:
			err = d.value(to)
		case key != "items":
			err = d.value(&other)
		case found: // apimachinery's decoder merges the second array item by item into the first.
			err = errors.New("the list has items twice")
		case is.Kind != "" && is.APIVersion != "" && is.TypeMeta != want: // Go writes them before the items.
			return verify(want, is.TypeMeta, is.Message)
		default:
			found = true
			err = d.items(item)
		}
		if err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil { // The }.
		return err
	}
	if t, err := d.Token(); err == nil {
		return fmt.Errorf("%.100q follows where the body should end", fmt.Sprint(t))
	} else if err != io.EOF {
		return err
	}
	return verify(want, is.TypeMeta, is.Message)
}

// items reads the array of items; null is an empty one, which Go writes for a list without any.
func (d *jsonDecoder) items(visit func(Object) error) error {
	switch begin, err := d.Token(); {
	case err != nil || begin == nil:
		return err
	case begin != json.Delim('['):
		return errors.New("the items are no array")
	}
	item := Object{JSON: d.value}
	for d.More() {
		if err := visit(item); err != nil {
			return err
		}
	}
	_, err := d.Token() // The ].
	return err
}
