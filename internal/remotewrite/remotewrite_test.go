package remotewrite

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/klauspost/compress/snappy"
	"google.golang.org/protobuf/encoding/protowire"
)

// series is a series of a request: what a receiver makes of it.
type series struct {
	labels []string // NAME=VALUE
	value  uint64   // the bits
	at     int64
}

// decode reads a request as a receiver does. It fails on all that the protocol does not have, or has only once.
func decode(body []byte) (all []series, err error) {
	message, err := snappy.DecodeStrict(nil, body)
	if err != nil {
		return nil, err
	}
	err = fields(message, func(number protowire.Number, content []byte, _ uint64) error {
		if number != 1 || content == nil {
			return fmt.Errorf("field %d of the request", number)
		}
		s, samples := series{}, 0
		all = append(all, s)
		err := fields(content, func(number protowire.Number, content []byte, _ uint64) error {
			switch {
			case content == nil || number > 2:
				return fmt.Errorf("field %d of a series", number)
			case number == 1:
				var of [3]string
				err := fields(content, func(number protowire.Number, content []byte, _ uint64) error {
					if number > 2 || content == nil || of[number] != "" {
						return fmt.Errorf("field %d of a label", number)
					}
					of[number] = string(content)
					return nil
				})
				s.labels = append(s.labels, of[1]+"="+of[2])
				return err
			}
			samples++
			return fields(content, func(number protowire.Number, content []byte, bits uint64) error {
				switch {
				case number > 2 || content != nil:
					return fmt.Errorf("field %d of a sample", number)
				case number == 1:
					s.value = bits
				default:
					s.at = int64(bits)
				}
				return nil
			})
		})
		if err == nil && samples != 1 {
			err = fmt.Errorf("%d samples of a series", samples)
		}
		all[len(all)-1] = s
		return err
	})
	return all, err
}

// fields calls f for each field of a message: with its content, or the bits of a number.
func fields(message []byte, f func(number protowire.Number, content []byte, bits uint64) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		var content []byte
		var bits uint64
		switch kind {
		case protowire.BytesType:
			content, n = protowire.ConsumeBytes(message) // not nil
		case protowire.Fixed64Type:
			bits, n = protowire.ConsumeFixed64(message)
		case protowire.VarintType:
			bits, n = protowire.ConsumeVarint(message)
		default:
			return fmt.Errorf("field %d is of the wire type %d", number, kind)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := f(number, content, bits); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}

func target(t testing.TB, labels string) *Target {
	to, err := NewTarget(labels)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func TestSeries(t *testing.T) {
	const at = 1_764_130_000_123
	for name, test := range map[string]struct {
		target, name, labels string
		value                float64
		at                   int64
		want                 string // NAME=VALUE, with spaces between; "" where it is refused
	}{
		"labels are sorted by name, the metric's name among them": {`job="j",instance="i",Z="z"`, "up", `node="n",a="1"`, 1, at,
			`Z=z __name__=up a=1 instance=i job=j node=n`},
		"no labels":         {"", "up", "", 1, at, "__name__=up"},
		"only the target's": {`job="j"`, "up", "", 1, at, "__name__=up job=j"},
		"blanks after a comma, and a comma at the end": {`b="2", a="1",`, "up", "", 1, at, "__name__=up a=1 b=2"},
		"escapes are undone": {`t="\\\"\n"`, "up", `a="\\",b="\"",c="x\ny",d=",\"}"`, 1, at,
			"__name__=up a=\\ b=\" c=x\ny d=,\"} t=\\\"\n"},
		"characters of more than one byte":               {"", "up", `a="é"`, 1, at, "__name__=up a=é"},
		"an empty value is no label":                     {`job=""`, "up", `job="x",a="",b="1"`, 1, at, "__name__=up b=1 job=x"},
		"a name that begins as another does":             {"", "up", `ab="2",a="1",a_b="3"`, 1, at, "__name__=up a=1 a_b=3 ab=2"},
		"a value of zero":                                {"", "up", "", 0, at, "__name__=up"},
		"a negative value":                               {"", "up", "", -1.5, at, "__name__=up"},
		"a stale marker keeps its bits":                  {"", "up", "", Stale, at, "__name__=up"},
		"infinite":                                       {"", "up", "", math.Inf(1), at, "__name__=up"},
		"a time of zero":                                 {"", "up", "", 1, 0, "__name__=up"},
		"a time before 1970":                             {"", "up", "", 1, -1, "__name__=up"},
		"a long value":                                   {"", "up", `a="` + strings.Repeat("x", 70_000) + `"`, 1, at, "__name__=up a=" + strings.Repeat("x", 70_000)},
		"no name":                                        {"", "", `a="1"`, 1, at, ""},
		"a name twice":                                   {"", "up", `a="1",b="2",a="1"`, 1, at, ""},
		"a name that the target has":                     {`job="j"`, "up", `a="1",job="k"`, 1, at, ""},
		"the metric's name twice":                        {"", "up", `__name__="down"`, 1, at, ""},
		"a value without quotes":                         {"", "up", `a=1`, 1, at, ""},
		"a value that does not end":                      {"", "up", `a="1`, 1, at, ""},
		"an escape that does not end":                    {"", "up", `a="1\`, 1, at, ""},
		"a value that ends in an escape":                 {"", "up", `a="1\"`, 1, at, ""},
		"an escape that there is none of":                {"", "up", `a="\t"`, 1, at, ""},
		"no comma":                                       {"", "up", `a="1"b="2"`, 1, at, ""},
		"no name of a label":                             {"", "up", `="1"`, 1, at, ""},
		"a name of a label that begins with a digit":     {"", "up", `1a="1"`, 1, at, ""},
		"a name of a label with another character in it": {"", "up", `a-b="1"`, 1, at, ""},
		"only a name of a label":                         {"", "up", `a`, 1, at, ""},
		"only a name of a label and an equals sign":      {"", "up", `a=`, 1, at, ""},
		"two commas":                                     {"", "up", `a="1",,b="2"`, 1, at, ""},
		"with braces":                                    {"", "up", `{a="1"}`, 1, at, ""},
		"not UTF-8":                                      {"", "up", "a=\"\xff\"", 1, at, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var e Encoder
			to := target(t, test.target)
			before := series{[]string{"__name__=before"}, math.Float64bits(7), 8}
			e.Add(target(t, ""), "before", nil, 7, 8)
			size, ok := e.Size(), test.want != ""
			if e.Add(to, test.name, []byte(test.labels), test.value, test.at) != ok {
				t.Fatalf("Add is %v, want %v", !ok, ok)
			}
			want := []series{before}
			if ok {
				want = append(want, series{strings.Split(test.want, " "), math.Float64bits(test.value), test.at})
			} else if e.Size() != size {
				t.Errorf("%d bytes after what was refused, before it %d", e.Size(), size)
			}
			check(t, &e, want)
		})
	}
}

func check(t *testing.T, e *Encoder, want []series) {
	t.Helper()
	got, err := decode(e.Body())
	if err != nil {
		t.Fatal(err)
	}
	equal := func(a, b series) bool { return slices.Equal(a.labels, b.labels) && a.value == b.value && a.at == b.at }
	if e.Len() != len(want) || !slices.EqualFunc(got, want, equal) {
		t.Errorf("%d series, the receiver sees %v, want %v", e.Len(), got, want)
	}
}

func TestTargetIsAListOfLabels(t *testing.T) {
	for _, labels := range []string{`job`, `job="j",job="k"`, `job="\xff"`} {
		if _, err := NewTarget(labels); err == nil || !strings.Contains(err.Error(), labels) {
			t.Errorf("%s: %v", labels, err)
		}
	}
}

func TestRequests(t *testing.T) {
	var e Encoder
	check(t, &e, nil)
	to := target(t, `job="j"`)
	for range 2 { // the encoder is used again
		var want []series
		for i := range 5000 {
			a := fmt.Sprint("a", i%7*i)
			e.Add(to, "up", []byte(`z="`+a+`",b="`+a+`"`), float64(i), int64(i))
			labels := []string{"__name__=up", "b=" + a, "job=j", "z=" + a}
			want = append(want, series{labels, math.Float64bits(float64(i)), int64(i)})
		}
		size := e.Size()
		if check(t, &e, want); len(e.Body()) > size/2 {
			t.Errorf("%d bytes compressed, %d before", len(e.Body()), size)
		}
		e.Reset()
		if check(t, &e, nil); e.Size() != 0 {
			t.Errorf("%d bytes after Reset", e.Size())
		}
	}
}

func TestNothingIsAllocatedForASample(t *testing.T) {
	var e Encoder
	to, labels := target(t, `job="j",instance="i"`), []byte(`node="n\\",pod="p",container="\"",namespace=""`)
	fill := func() {
		e.Reset()
		for range 2000 {
			e.Add(to, "kube_metrics_server_pod_cpu", labels, 1, 1)
		}
		e.Body()
	}
	if n := testing.AllocsPerRun(100, fill); n >= 1 {
		t.Errorf("%v allocations for 2000 samples", n)
	}
}

// FuzzSeries compares with what the format's rules, as regular expressions, make of a text.
func FuzzSeries(f *testing.F) {
	f.Add(`job="j",instance="i"`, "up", []byte(`a="1", b="\\\"\n",`), uint64(0x7ff0000000000002), int64(1_764_130_000_123))
	f.Add(`a_="\xff"`, "", []byte(`a="",_="é"`), uint64(1<<63), int64(-1))
	f.Fuzz(func(t *testing.T, common, name string, own []byte, value uint64, at int64) {
		labels, ok := reference(map[string]string{}, common)
		to, err := NewTarget(common)
		if ok != (err == nil) {
			t.Fatalf("NewTarget: %v, want %v", err, ok)
		}
		if !ok {
			return
		}
		var e Encoder
		e.Add(target(t, ""), "before", nil, 7, 8)
		want := []series{{[]string{"__name__=before"}, math.Float64bits(7), 8}}
		_, taken := labels["__name__"]
		labels["__name__"] = name
		labels, ok = reference(labels, string(own))
		if ok = ok && name != "" && !taken; ok {
			s := series{nil, value, at}
			for _, name := range slices.Sorted(maps.Keys(labels)) {
				s.labels = append(s.labels, name+"="+labels[name])
			}
			want = append(want, s)
		}
		if e.Add(to, name, own, math.Float64frombits(value), at) != ok {
			t.Fatalf("Add is %v, want %v", !ok, ok)
		}
		check(t, &e, want)
	})
}

var (
	aLabel = regexp.MustCompile(` *([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\["\\n])*)"`)
	aList  = regexp.MustCompile(`^(` + aLabel.String() + `,)*(` + aLabel.String() + `| *)$`)
)

// reference adds the labels of a text to others.
func reference(labels map[string]string, text string) (_ map[string]string, ok bool) {
	ok = aList.MatchString(text)
	for _, found := range aLabel.FindAllStringSubmatch(text, -1) {
		name, value := found[1], strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(found[2])
		if value == "" {
			continue
		}
		_, twice := labels[name]
		ok = ok && !twice && utf8.ValidString(value)
		labels[name] = value
	}
	return labels, ok
}
