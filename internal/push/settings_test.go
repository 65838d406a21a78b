package push

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/VictoriaMetrics/metrics"

	"metrics-server-prom/internal/remotewrite"
	"metrics-server-prom/internal/setting"
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

// TestSettingsTogether has the pusher's rows parsed and checked, as main does.
func TestSettingsTogether(t *testing.T) {
	const url, write = "--push.url=http://h/import", "--push.url=http://h/api/v1/write"
	const remote = "--push.format=remote-write"
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	basic := "--push.http-config.file=" + filepath.Join(dir, "basic.yml")
	headers := "--push.http-config.file=" + filepath.Join(dir, "headers.yml")
	os.WriteFile(filepath.Join(dir, "basic.yml"), []byte("basic_auth: {username: me, password: MARKED}"), 0o600)
	os.WriteFile(filepath.Join(dir, "headers.yml"), []byte("http_headers: {x-scope-orgid: {values: [MARKED]}}"), 0o600)
	for name, c := range map[string]struct {
		args []string
		want string // of what is set, or of the error
	}{
		"nothing":                       {nil, "text 30s  false"},
		"text":                          {[]string{url}, "text 30s  false"},
		"remote write":                  {[]string{write, remote}, "remote-write 30s " + host + " false"},
		"an instance":                   {[]string{write, remote, "--push.instance=i"}, "remote-write 30s i false"},
		"no interval":                   {[]string{url, "--push.interval=0"}, "text 0s  false"},
		"no interval, with its unit":    {[]string{url, "--push.interval=0s"}, "text 0s  false"},
		"the longest interval":          {[]string{url, "--push.interval=60m"}, "text 1h0m0s  false"},
		"once":                          {[]string{"--once"}, "text 30s  true"},
		"once, as it is written out":    {[]string{"--once=true", url}, "text 30s  true"},
		"not once":                      {[]string{"--once=false", url}, "text 30s  false"},
		"an interval that is too short": {[]string{url, "--push.interval=1ms"}, `--push.interval is "1ms"; it must be a duration from 1s to 1h0m0s, such as 15s, or 0 to push only at POST /-/push`},
		"a negative interval":           {[]string{url, "--push.interval=-1s"}, `--push.interval is "-1s"; it must be a duration`},
		"an interval that is none":      {[]string{url, "--push.interval=s"}, `--push.interval is "s"; it must be a duration`},
		"another format":                {[]string{url, "--push.format=otlp"}, `--push.format is "otlp"; it must be one of text, remote-write`},
		"a format, nowhere to push to":  {[]string{remote}, "--push.format says nothing without --push.url"},
		"an instance of text":           {[]string{url, "--push.instance=i"}, "--push.instance (PUSH_INSTANCE) is for remote write; set --push.format remote-write"},
		"text to Prometheus":            {[]string{write}, "--push.url (PUSH_URL) has the path of a receiver of remote write; set --push.format remote-write"},
		"text to Mimir":                 {[]string{"--push.url=http://h/api/v1/push"}, "the path of a receiver of remote write"},
		"text to Thanos":                {[]string{"--push.url=http://h/api/v1/receive"}, "the path of a receiver of remote write"},
		"text to Grafana Cloud":         {[]string{"--push.url=https://h/api/prom/push"}, "the path of a receiver of remote write"},
		"text to Amazon":                {[]string{"--push.url=https://h/workspaces/ws/api/v1/remote_write"}, "the path of a receiver of remote write"},
		"remote write to a Pushgateway": {[]string{"--push.url=http://h/metrics/job/x", remote}, "the path of a receiver of text; set --push.format text"},
		"remote write to an import":     {[]string{"--push.url=http://h/api/v1/import/prometheus", remote}, "the path of a receiver of text; set --push.format text"},
		"an external label":             {[]string{write, remote, `--push.extra-labels=cluster="eu", team="a"`}, "remote-write 30s " + host + " false"},
		"a label of samples":            {[]string{write, remote, `--push.extra-labels=pod="eu"`}, "--push.extra-labels (PUSH_EXTRA_LABELS) has the label pod, which samples have already"},
		"the label job":                 {[]string{write, remote, `--push.extra-labels=job="eu"`}, "has the label job, which samples have already"},
		"the label instance":            {[]string{write, remote, `--push.extra-labels=instance="eu"`}, "has the label instance, which samples have already"},
		"the label job of text":         {[]string{url, `--push.extra-labels=job="eu"`}, "text 30s  false"},
		"what remote write sets itself": {[]string{write, remote, "--push.header=Content-Type: MARKED"}, "--push.header (PUSH_HEADER) has a header that remote write sets itself"},
		"a file":                        {[]string{url, basic}, "text 30s  false"},
		"a file and a user":             {[]string{"--push.url=http://MARKED:MARKED@h/", basic}, "--push.url (PUSH_URL) has a user, and --push.http-config.file"},
		"a file and an Authorization":   {[]string{url, basic, "--push.header=Authorization: Bearer MARKED"}, "--push.header (PUSH_HEADER) has an Authorization, and --push.http-config.file"},
		"a file and the same header":    {[]string{url, headers, "--push.header=X-Scope-OrgID: MARKED"}, "have both the header X-Scope-Orgid"},
		"a file and another header":     {[]string{url, headers, "--push.header=X-Other: MARKED"}, "text 30s  false"},
		"no file":                       {[]string{url, "--push.http-config.file=/does/not/exist"}, "--push.http-config.file is \"/does/not/exist\"; it must be a file in the format of Prometheus' http_config, but: open /does/not/exist: no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			var p Pusher
			err := setting.Parse("p", "v", p.Rows(), c.args, func(string) string { return "" })
			if err == nil {
				err = p.Check([]string{"node", "pod"})
			}
			got := fmt.Sprint(p.Format, " ", p.Interval, " ", p.Instance, " ", p.JustOnce)
			if err != nil {
				got = err.Error()
			}
			if got != c.want && (err == nil || !strings.Contains(got, c.want)) || strings.Contains(got, "MARKED") ||
				strings.Contains(got, "\n") {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// TestTheLabelsOfAJob are what receivers know a target by.
func TestTheLabelsOfAJob(t *testing.T) {
	p := Pusher{Format: RemoteWrite, URL: "http://h", Instance: `a"b\`, ExtraLabels: `cluster="eu", team="x y"`}
	if err := p.Check(nil); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%+v", p.Target("cadvisor"))
	want, err := remotewrite.NewTarget(`job="cadvisor",instance="a\"b\\",cluster="eu",team="x y"`)
	if err != nil || got != fmt.Sprintf("%+v", want) {
		t.Errorf("%s, want %+v, %v", got, want, err)
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
