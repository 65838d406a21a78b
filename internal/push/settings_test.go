package push

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/VictoriaMetrics/metrics"
)

func TestURL(t *testing.T) {
	for url, want := range map[string]bool{
		"": true, "http://h/p": true, "https://u:p@h:1/p?q": true, "http://[::1]:9091": true,
		"h:9091": false, "ftp://h": false, "http://": false, "http://:9091": false, "http://h\x00": false, "/p": false,
	} {
		var p Pusher
		if ok := p.SetURL(url) == ""; ok != want || p.URL != url {
			t.Errorf("%q: %t", url, ok)
		}
	}
}

// TestExtraLabels is fault 14.
func TestExtraLabels(t *testing.T) {
	for labels, want := range map[string]bool{
		"": true, `a="b"`: true, `cluster="eu",team="shop"`: true, `a="b", c="d"`: true, `_a1="b"`: true, `a=""`: true,
		`a="x y,z={}"`: true, `a="say \"hi\" in C:\\new\n"`: true, `a="é"`: true,
		"a": false, "a=b": false, `a='b'`: false, `a="b`: false, `a=b"`: false, `a="b"c="d"`: false, `a="b";c="d"`: false,
		`a="b",`: false, `a="b", `: false, `,a="b"`: false, `a="b",,c="d"`: false, `{a="b"}`: false, `a ="b"`: false,
		`a= "b"`: false, `="b"`: false, `1a="b"`: false, `a-b="c"`: false, `a.b="c"`: false, `a:b="c"`: false,
		`é="c"`: false, `__name__="c"`: false, `a="b\t"`: false, `a="b\`: false, `a="b\"`: false, "a=\"b\nc\"": false,
		"a=\"\x00\"": false, "a=\"\xff\"": false, "a=\"b\"\n": false,
		`a="b",a="b"`: false, `a="b",c="d",a="e"`: false,
	} {
		var p Pusher
		if ok := p.SetExtraLabels(labels) == ""; ok != want || p.ExtraLabels != labels {
			t.Errorf("%q: %t", labels, ok)
		}
	}
}

// TestHeaders is fault 14.
func TestHeaders(t *testing.T) {
	const invalid = "invalid"
	for text, want := range map[string]string{
		"":                                      "map[]",
		"A: b":                                  "map[A:[b]]",
		"authorization:Bearer x\nx-scope :  y ": "map[Authorization:[Bearer x] X-Scope:[y]]",
		"A: b\r\n\n C: d:e\n\n":                 "map[A:[b] C:[d:e]]",
		"A: é":                                  "map[A:[é]]",
		"Bearer x":                              invalid,
		": x":                                   invalid,
		"Bad Name: x":                           invalid,
		"A: b\nx":                               invalid,
		"é: x":                                  invalid,
		"A: b\x00":                              invalid,
		"A: b\x7f":                              invalid,
		"A: b\nA: b":                            invalid,
		"A: b\na: c":                            invalid,
		"Host: x":                               invalid,
		"content-length: 3":                     invalid,
		"Content-Encoding: identity":            invalid,
		"Transfer-Encoding: x":                  invalid,
	} {
		var p Pusher
		must := p.SetHeaders(text)
		got := fmt.Sprint(p.Headers)
		if (must != "") != (want == invalid) || want != invalid && got != want || strings.Contains(must, "Bad") {
			t.Errorf("%q: %s, must be %q", text, got, must)
		}
	}
}

// TestExtraLabelsAreAddedAsTheLibraryDoes compares with VictoriaMetrics' library, which pushed before.
func TestExtraLabelsAreAddedAsTheLibraryDoes(t *testing.T) {
	var want []byte
	library := receiver(t, "HTTP/1.1", func(_ http.ResponseWriter, r *http.Request) { want, _ = io.ReadAll(r.Body) })
	check := func(page, labels string) {
		t.Helper()
		write := func(w io.Writer) { io.WriteString(w, page) }
		options := &metrics.PushOptions{ExtraLabels: labels, DisableCompression: true, Method: http.MethodPost}
		if err := metrics.PushMetricsExt(t.Context(), library, write, options); err != nil {
			t.Fatal(err)
		}
		for how, pieces := range map[string]func(io.Reader) io.Reader{
			"at once":      func(r io.Reader) io.Reader { return r },
			"byte by byte": iotest.OneByteReader, "in halves": iotest.HalfReader} {
			var got bytes.Buffer
			w := &lineWriter{to: &got, labels: labels}
			_, err := io.Copy(struct{ io.Writer }{w}, pieces(struct{ io.Reader }{strings.NewReader(page)}))
			if err == nil {
				_, err = w.Write([]byte("\n"))
			}
			if err != nil || got.String() != string(want) {
				t.Errorf("%q with %s, %s: %q, %v; want %q", page, labels, how, got.String(), err, want)
			}
		}
	}
	for _, page := range []string{ // of the library's own test, and more
		"", "a 123", `a{b="c"} 1.3`, `a{b="c}{"} 1.3`, "foo 1\nbar{a=\"x\"} 2\n",
		"\nfoo 1\n# some counter\n# type foobar counter\n\t  foobar{a=\"b\",c=\"d\"} 4", "a{} 1\n", "a 1\r\nb 2\r\n",
		"  \n\n# {x} y\n#\n",
		"a  1\n", "a{b=\"c d\"} 1 2\n", "# HELP a go_x\n# TYPE a gauge\na 1\n", "ago_x 1\nmy_process_x 2\n",
	} {
		check(page, `foo="bar"`)
		check(page, `foo="bar",baz="x y"`)
	}
	check("a 1\nb{c=\"d\"} 2\n# x {y\n", "")
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var page strings.Builder
		for range random.IntN(10) {
			page.WriteString([]string{"a", "b{", `c{d="`, "}", `"}`, " ", "#", "\t", "{", `\"`}[random.IntN(10)])
			page.WriteString([]string{"x", "y 1\n", " 2\n", "\n", " 3 4\n"}[random.IntN(5)])
		}
		lines := strings.Split(page.String(), "\n")
		for i, line := range lines { // the library panics for a sample without a value
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") && !strings.ContainsAny(line, " {") {
				lines[i] = "a" + line + " 1"
			}
		}
		check(strings.Join(lines, "\n"), `foo="bar"`)
	}
}

// TestMetricsOfTheProcessAreLeftOut, with their comments.
func TestMetricsOfTheProcessAreLeftOut(t *testing.T) {
	page := "# HELP go_a b\n# TYPE go_a gauge\ngo_a 1\ngo_a{b=\"c\"} 1\n" +
		"# HELP process_a b\nprocess_a 2\n# HELP gone b\ngone 3\n"
	var l lineWriter
	l.appendLines([]byte(page))
	if got := string(l.out); got != "# HELP gone b\ngone 3\n" {
		t.Errorf("%q", got)
	}
}
