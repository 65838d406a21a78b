package load

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"metrics-server-prom/e2e/exporter"
)

// answered is an answer and what came with it.
type answered struct {
	*http.Response
	body string
}

// converse sends the bytes of requests on one connection and reads this many answers. closed tells whether the exporter
// has ended the connection behind the last of them.
func converse(t *testing.T, e *exporter.Exporter, requests string, methods ...string) (answers []answered,
	closed bool) {
	t.Helper()
	conn, err := net.Dial("tcp", address(e))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(25 * time.Second)) // longer than the exporter waits for a body
	if _, err := io.WriteString(conn, requests); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for i, method := range methods {
		response, err := http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatalf("answer %d, after %q: %v", i, body, err)
		}
		answers = append(answers, answered{response, string(body)})
	}
	// An end that was announced must come; one that was not would come at once as well.
	if !answers[len(answers)-1].Close {
		conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	}
	rest, err := io.ReadAll(reader)
	if len(rest) > 0 {
		t.Errorf("behind the last answer: %.200q", rest)
	}
	return answers, err == nil
}

// checkHeader checks what the header of every answer by the program must have.
func checkHeader(t *testing.T, a answered) {
	t.Helper()
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
		if got := a.Header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("status %d with %s %q, want %q", a.StatusCode, name, got, want)
		}
	}
	if contentType := a.Header.Get("Content-Type"); !strings.HasPrefix(contentType, "text/") ||
		!strings.HasSuffix(contentType, "; charset=utf-8") {
		t.Errorf("status %d with Content-Type %q", a.StatusCode, contentType)
	}
	for _, name := range []string{"Server", "X-Powered-By", "Access-Control-Allow-Origin", "Set-Cookie"} {
		if value := a.Header.Get(name); value != "" {
			t.Errorf("status %d with %s %q", a.StatusCode, name, value)
		}
	}
}

// TestRequests sends what clients may send, and what they may not, byte for byte.
func TestRequests(t *testing.T) {
	t.Parallel()
	e := startReady(t, 100)
	const rest = " HTTP/1.1\r\nHost: x\r\n"
	each := func(requests ...string) string { return strings.Join(append(requests, ""), rest+"\r\n") }
	for _, c := range []struct {
		name     string
		requests string
		statuses string // and methods where they are not GET
		closed   bool   // whether the connection is closed after the last answer
	}{
		{"HTTP/1.1", "GET /metrics" + rest + "\r\n", "200", false},
		{"HTTP/1.1 with the wish to close", "GET /metrics" + rest + "Connection: close\r\n\r\n", "200", true},
		{"HTTP/1.0", "GET /metrics HTTP/1.0\r\n\r\n", "200", true},
		{"HTTP/1.0 with gzip", "GET /metrics HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n", "200", true},
		{"HTTP/1.0 that keeps the connection", "GET /metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "200", false},
		{"a query", "GET /metrics?format=text" + rest + "\r\n", "200", false},
		{"an absolute URI", "GET http://x/metrics" + rest + "\r\n", "200", false},
		{"an absolute URI of another host", "GET http://elsewhere.example/metrics" + rest + "\r\n", "200", false},
		{"a body that nobody wants", "GET /metrics" + rest + "Content-Length: 4\r\n\r\nbody", "200", false},
		{"HEAD", "HEAD /metrics" + rest + "\r\n", "200 HEAD", false},
		{"HEAD, then GET", "HEAD /metrics" + rest + "\r\nGET /metrics" + rest + "\r\n", "200 HEAD, 200", false},
		{"HEAD of the other pages", each("HEAD /healthz", "HEAD /-/ready", "HEAD /-/healthy", "HEAD /", "HEAD /nothing"),
			"200 HEAD, 200 HEAD, 200 HEAD, 200 HEAD, 404 HEAD", false},
		{"pipelining", each("GET /metrics", "GET /nothing", "GET /healthz", "POST /metrics", "GET /metrics"),
			"200, 404, 200, 405, 200", false},
		{"POST", "POST /metrics" + rest + "Content-Length: 4\r\n\r\nbody", "405", false},
		{"POST that waits to be asked for its body",
			"POST /metrics" + rest + "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n", "405", true},
		{"PUT", "PUT /metrics" + rest + "Content-Length: 0\r\n\r\n", "405", false},
		{"DELETE", "DELETE /metrics" + rest + "\r\n", "405", false},
		{"TRACE", "TRACE /" + rest + "\r\n", "405", false},
		{"OPTIONS", "OPTIONS /metrics" + rest + "\r\n", "405", false},
		{"OPTIONS of the server", "OPTIONS *" + rest + "\r\n", "404", false},
		// Go closes this connection by itself from 1.26.9 on; the header makes earlier versions do so too.
		{"CONNECT", "CONNECT elsewhere.example:443" + rest + "Connection: close\r\n\r\n", "404", true},
		{"a method that does not exist", "BREW /metrics" + rest + "\r\n", "405", false},
		{"a method in lower case", "get /metrics" + rest + "\r\n", "405", false},
		{"a path that goes up", "GET /nothing/../metrics" + rest + "\r\n", "404", false},
		{"a path with two slashes", "GET //metrics" + rest + "\r\n", "404", false},
		{"a path with a NUL", "GET /metrics%00" + rest + "\r\n", "404", false},
		{"profiles", each("GET /debug/pprof/", "GET /debug/pprof/heap", "GET /debug/pprof/cmdline",
			"GET /debug/pprof/profile?seconds=1", "GET /debug/vars", "GET /debug/requests"),
			"404, 404, 404, 404, 404, 404", false},
		{"other pages that exporters have", each("GET /-/reload", "GET /-/quit", "GET /config", "GET /flags",
			"GET /favicon.ico"),
			"404, 404, 404, 404, 404", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var statuses, methods []string
			for want := range strings.SplitSeq(c.statuses, ", ") {
				status, method, _ := strings.Cut(want, " ")
				statuses, methods = append(statuses, status), append(methods, method)
			}
			answers, closed := converse(t, e, c.requests, methods...)
			for i, a := range answers {
				checkHeader(t, a)
				if got := fmt.Sprint(a.StatusCode); got != statuses[i] {
					t.Errorf("answer %d: status %s, want %s: %.200s", i, got, statuses[i], a.body)
				}
				switch allow := a.Header.Get("Allow"); {
				case a.StatusCode == http.StatusMethodNotAllowed && allow != "GET, HEAD":
					t.Errorf("answer %d: Allow %q", i, allow)
				case a.StatusCode == http.StatusOK && a.Uncompressed, a.StatusCode == http.StatusOK &&
					a.ContentLength <= 0:
					t.Errorf("answer %d: a length of %d", i, a.ContentLength)
				case methods[i] == "" && int64(len(a.body)) != a.ContentLength:
					t.Errorf("answer %d: %d bytes, announced were %d", i, len(a.body), a.ContentLength)
				}
			}
			if closed != c.closed {
				t.Errorf("the connection is closed: %t, want %t", closed, c.closed)
			}
		})
	}
}

// TestRequestsThatAreNone is for what Go's server refuses itself, with a header of its own: the connection must end,
// and nothing of the request be repeated.
func TestRequestsThatAreNone(t *testing.T) {
	t.Parallel()
	e := startReady(t, 10)
	for name, c := range map[string]struct {
		request string
		status  int
	}{
		"no host":                 {"GET /metrics HTTP/1.1\r\n\r\n", 400},
		"two hosts":               {"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
		"a host that is none":     {"GET /metrics HTTP/1.1\r\nHost: <repeated>\r\n\r\n", 400},
		"no HTTP":                 {"repeated\r\n\r\n", 400},
		"TLS":                     {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 repeated\r\n\r\n", 400},
		"another protocol":        {"GET /metrics REPEATED/1.1\r\nHost: x\r\n\r\n", 400},
		"a later version":         {"GET /metrics HTTP/3.0\r\nHost: x\r\n\r\n", 505},
		"a header without a name": {"GET /metrics HTTP/1.1\r\nHost: x\r\n: repeated\r\n\r\n", 400},
		"a folded header":         {"GET /metrics HTTP/1.1\r\nHost: x\r\n X: repeated\r\n\r\n", 400},
		"a NUL in a header":       {"GET /metrics HTTP/1.1\r\nHost: x\r\nX: repeated\x00\r\n\r\n", 400},
		"an escape that is none":  {"GET /repeated%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"two lengths": {"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: " +
			"2\r\n\r\nxx", 400},
		"a negative length":   {"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400},
		"an unknown transfer": {"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: repeated\r\n\r\n", 501},
		"an expectation":      {"GET /metrics HTTP/1.1\r\nHost: x\r\nExpect: repeated\r\n\r\n", 417},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answers, closed := converse(t, e, c.request, "GET")
			a := answers[0]
			if a.StatusCode != c.status || !closed || strings.Contains(strings.ToLower(a.body), "repeated") {
				t.Errorf("status %d, want %d; closed %t: %q", a.StatusCode, c.status, closed, a.body)
			}
		})
	}
}

// TestAcceptEncoding asks with the legal forms of the header (RFC 9110 section 12.5.3), and with some that are not.
func TestAcceptEncoding(t *testing.T) {
	t.Parallel()
	e := startReady(t, 100)
	const none = "406"
	for _, c := range []struct {
		header string // lines, without the header's name
		want   string // Content-Encoding
	}{
		{"", ""}, {"\n", ""}, {"gzip", "gzip"}, {"GZip", "gzip"}, {"x-gzip", "gzip"}, {"identity", ""}, {"br", ""},
		{"deflate, br, zstd", ""},
		{"gzip, deflate, br", "gzip"}, {"br;q=1.0, gzip;q=0.8, *;q=0.1", "gzip"}, {"deflate\ngzip", "gzip"},
		{" gzip ;\tq=1 ", "gzip"}, {",,gzip,", "gzip"},
		{"gzip;q=0", ""}, {"gzip;q=0.000", ""}, {"gzip;Q=0", ""}, {"gzip;q=0.001", "gzip"}, {"gzip;q=1.000", "gzip"},
		{"gzip\ngzip;q=0", ""},
		{"*", "gzip"}, {"*;q=0.5", "gzip"}, {"gzip;q=0, *", ""}, {"identity;q=0, *", "gzip"}, {"*;q=0, gzip", "gzip"},
		{"identity;q=0, gzip", "gzip"}, {"*;q=0, identity", ""},
		{"identity;q=0", none}, {"*;q=0", none}, {"gzip;q=0, *;q=0", none}, {"gzip;q=0, identity;q=0", none},
		{"br, *;q=0", none},
		{"gzip;q=2", ""}, {"gzip;q=-1", ""}, {"gzip;q=x", ""}, {"gzip;level=9", ""}, {";", ""}, {"q=1", ""},
	} {
		t.Run(c.header, func(t *testing.T) {
			t.Parallel()
			lines := ""
			if c.header != "" {
				for line := range strings.SplitSeq(strings.TrimSuffix(c.header, "\n"), "\n") {
					lines += "Accept-Encoding: " + line + "\r\n"
				}
			}
			answers, _ := converse(t, e, "GET /metrics HTTP/1.1\r\nHost: x\r\n"+lines+"\r\n", "GET")
			a := answers[0]
			checkHeader(t, a)
			if vary := a.Header.Get("Vary"); vary != "Accept-Encoding" {
				t.Errorf("Vary %q", vary)
			}
			if c.want == none {
				if a.StatusCode != http.StatusNotAcceptable {
					t.Errorf("status %d, want 406", a.StatusCode)
				}
				return
			}
			page := exporter.Page{Status: a.StatusCode, Header: a.Header, Wire: []byte(a.body)}
			if encoding := a.Header.Get("Content-Encoding"); a.StatusCode != http.StatusOK || encoding != c.want {
				t.Errorf("status %d, Content-Encoding %q, want %q", a.StatusCode, encoding, c.want)
			} else if err := page.Parse(); err != nil || len(page.Family("kube_metrics_server_pod_cpu")) != 200 {
				t.Errorf("error %v, %d containers", err, len(page.Family("kube_metrics_server_pod_cpu")))
			}
		})
	}
}

// TestHeadersOfFailures is for the answers of an exporter without data.
func TestHeadersOfFailures(t *testing.T) {
	t.Parallel()
	e := start(t, exporter.Options{Args: []string{"--kubeconfig=/does/not/exist"}})
	for _, path := range []string{"/metrics", "/healthz", "/-/ready"} {
		answers, _ := converse(t, e, "GET "+path+" HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: "+
			"0.1\r\n\r\n", "GET")
		if a := answers[0]; a.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: status %d", path, a.StatusCode)
		} else {
			checkHeader(t, a)
		}
	}
}
