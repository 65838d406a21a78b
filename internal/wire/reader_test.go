package wire

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What the formats mean is tested where it is used, in metricsapi and slim, against the generated types.

var testList = metav1.TypeMeta{Kind: "TestList", APIVersion: "test/v1"}

func field(b []byte, num protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), content)
}

func protobufList(items ...[]byte) []byte {
	var raw []byte
	for _, item := range items {
		raw = field(raw, 2, item)
	}
	is := field(field(nil, 1, []byte(testList.APIVersion)), 2, []byte(testList.Kind))
	return append([]byte(magic), field(field(nil, 1, is), 2, raw)...)
}

func jsonList(items ...[]byte) []byte {
	head := `{"kind":"TestList","apiVersion":"test/v1","items":[`
	return append(append([]byte(head), bytes.Join(items, []byte(","))...), "]}"...)
}

// sizes reads the sizes of a list's items, which are strings in JSON.
func sizes(r *Reader, body []byte) (sizes []int, err error) {
	_, err = r.Read(bytes.NewReader(body), testList, func(o Object) error {
		b := o.Protobuf
		if o.JSON != nil {
			var s string
			if err := o.JSON(&s); err != nil {
				return err
			}
			b = []byte(`"` + s + `"`)
		}
		sizes = append(sizes, len(b))
		return nil
	})
	return sizes, err
}

func text(size int) []byte {
	b, _ := json.Marshal(strings.Repeat("x", size-2))
	return b
}

func TestItemsUpToTheLimitAreRead(t *testing.T) {
	large := maxItem - len(jsonList()) // What is before an item in JSON counts.
	for name, list := range map[string]func(...[]byte) []byte{"protobuf": protobufList, "JSON": jsonList} {
		var r Reader
		got, err := sizes(&r, list(text(5), text(large), text(bufferSize), text(bufferSize+1), text(7)))
		if err != nil || len(got) != 5 || got[0] != 5 || got[1] != large || got[2] != bufferSize ||
			got[3] != bufferSize+1 || got[4] != 7 {
			t.Errorf("%s: sizes %v, error %v", name, got, err)
		}
		_, err = sizes(&r, list(text(maxItem+1)))
		if err == nil || !strings.Contains(err.Error(), "over the limit of 4194304") {
			t.Errorf("%s, an item over the limit: %v", name, err)
		}
	}
}

func TestBodyUpToTheLimitIsRead(t *testing.T) {
	for name, list := range map[string]func(...[]byte) []byte{"protobuf": protobufList, "JSON": jsonList} {
		for _, size := range []int{5, bufferSize, 3 * bufferSize} {
			body := list(text(size), text(size))
			r := Reader{MaxBody: int64(len(body))}
			if got, err := sizes(&r, body); err != nil || len(got) != 2 {
				t.Errorf("%s, %d bytes and as many allowed: %v, %v", name, len(body), got, err)
			}
			r.MaxBody--
			if _, err := sizes(&r, body); err == nil || !strings.Contains(err.Error(), "larger than the limit of") {
				t.Errorf("%s, %d bytes and one fewer allowed: %v", name, len(body), err)
			}
		}
	}
}
