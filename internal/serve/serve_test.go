package serve

import (
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"metrics-server-prom/internal/page"
)

// pipes is a listener inside a synctest bubble.
type pipes struct {
	connections chan net.Conn
	closed      chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.connections:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close is called once, by the server.
func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// dial connects to the listener, or is refused where that is closed.
func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.connections <- there:
		return here, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// running is a server inside a synctest bubble.
type running struct {
	pipes
	t        *testing.T
	stop     func()           // the signal
	stopping <-chan time.Time // when the server said so
	ended    <-chan time.Time // when Run returned
}

// run does something with a server of this handler, in a synctest bubble, and ends it.
func run(t *testing.T, handler http.HandlerFunc, webConfig string, do func(t *testing.T, s running)) {
	t.Helper()
	before := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	t.Cleanup(func() { slog.SetDefault(before) })
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		stopping, ended := make(chan time.Time, 1), make(chan time.Time, 1)
		s := running{pipes{make(chan net.Conn), make(chan struct{})}, t, stop, stopping, ended}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := Run(ctx, s, handler, webConfig, func() { stopping <- time.Now() }); err != nil {
				t.Error(err)
			}
			ended <- time.Now()
		}()
		do(t, s)
		stop()
		<-done
	})
}

// client is one that speaks only this, with connections of its own.
func (s running) client(protocols func(*http.Protocols)) *http.Client {
	transport := &http.Transport{DialContext: s.dial, Protocols: &http.Protocols{},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	protocols(transport.Protocols)
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func http1(p *http.Protocols) { p.SetHTTP1(true) }
func http2(p *http.Protocols) { p.SetHTTP2(true) }
func h2c(p *http.Protocols)   { p.SetUnencryptedHTTP2(true) }
func both(p *http.Protocols)  { p.SetHTTP1(true); p.SetHTTP2(true) }

// get returns what the server says, or the error. It keeps the connection.
func get(c *http.Client, url string) string {
	resp, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s %s", resp.StatusCode, resp.Proto, body)
}

// TestProtocols is fault 19: what begins with HTTP/2's preface and without TLS got a broken pipe.
func TestProtocols(t *testing.T) {
	encrypted := "tls_server_config: {cert_file: tls.crt, key_file: tls.key}\n"
	without := "http_server_config: {http2: false}\n"
	password := "basic_auth_users: {u: $2a$04$SvVP3pWEudTRygxb0Wte.OlUl7RfPvn/pu8KuL90d6bFgKSGBUwAW}\n"
	for name, c := range map[string]struct {
		webConfig, scheme string
		speaks            func(*http.Protocols)
		want              string // a part of the answer or of the error
	}{
		"HTTP/1.1":                               {"", "http", http1, "200 HTTP/1.1 data"},
		"HTTP/2 by prior knowledge (fault 19)":   {"", "http", h2c, "200 HTTP/2.0 data"},
		"the same where there is a password":     {password, "http", h2c, "401 HTTP/2.0 "},
		"HTTP/1.1 within TLS":                    {encrypted, "https", http1, "200 HTTP/1.1 data"},
		"HTTP/2 within TLS":                      {encrypted, "https", both, "200 HTTP/2.0 data"},
		"http2: false leaves HTTP/1.1":           {encrypted + without, "https", both, "200 HTTP/1.1 data"},
		"http2: false refuses who speaks only 2": {encrypted + without, "https", http2, "no application protocol"},
		"http2: false is of TLS only":            {without, "http", h2c, "200 HTTP/2.0 data"},
	} {
		t.Run(name, func(t *testing.T) {
			file := ""
			if c.webConfig != "" {
				file = configure(t, c.webConfig)
			}
			handler := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "data") }
			run(t, handler, file, func(t *testing.T, s running) {
				if got := get(s.client(c.speaks), c.scheme+"://exporter/"); !strings.Contains(got, c.want) {
					t.Errorf("%q, want %q", got, c.want)
				}
			})
		})
	}
}

// configure writes a configuration of the exporter-toolkit, and a key and a certificate beside it.
func configure(t *testing.T, config string) (file string) {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"web.yml": []byte(config),
		"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
		"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "web.yml")
}

// TestStop has a request under way at the signal, which the handler takes so long to answer. Kubernetes, Knative and
// Cloud Run send the signal and take the address out of their lists at the same time, so that requests still come for
// a moment.
func TestStop(t *testing.T) {
	for name, c := range map[string]struct {
		takes time.Duration
		whole bool          // whether it is answered
		ends  time.Duration // after the signal
	}{
		"an answered request's connection, kept for later": {0, true, drain},
		"a request that ends while others come":            {drain / 2, true, drain},
		"a request that ends in time":                      {3 * time.Second, true, 3 * time.Second},
		"a request that never ends is cut off":             {time.Hour, false, drain + finish},
	} {
		t.Run(name, func(t *testing.T) {
			handler := func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "begin ")
				http.NewResponseController(w).Flush()
				if r.URL.Path == "/slow" {
					select {
					case <-time.After(c.takes):
					case <-r.Context().Done():
					}
				}
				io.WriteString(w, "end")
			}
			run(t, handler, "", func(t *testing.T, s running) {
				answered := make(chan string, 1)
				go func() { answered <- get(s.client(http1), "http://exporter/slow") }()
				synctest.Wait()
				signal := time.Now()
				s.stop()
				synctest.Wait()
				select {
				case <-s.stopping:
				default:
					t.Error("the server does not say at the signal that it stops")
				}
				time.Sleep(drain - time.Millisecond)
				if got := get(s.client(http1), "http://exporter/"); got != "200 HTTP/1.1 begin end" {
					t.Errorf("who has not seen the readiness go gets %q", got)
				}
				time.Sleep(2 * time.Millisecond)
				if got := get(s.client(http1), "http://exporter/"); !strings.Contains(got, net.ErrClosed.Error()) {
					t.Errorf("after %s the server still answers %q", drain, got)
				}
				// Shutdown looks whether the last request has ended every half second at least.
				ended := (<-s.ended).Sub(signal)
				if ended < c.ends || ended > c.ends+600*time.Millisecond || ended >= 5*time.Second {
					t.Errorf("the server ends %s after the signal, want %s", ended, c.ends)
				}
				if got := <-answered; (got == "200 HTTP/1.1 begin end") != c.whole {
					t.Errorf("the answer is %q, whole should be %t", got, c.whole)
				}
			})
		})
	}
}

// TestWhatAClientMayHold sends the beginning of a request and no more.
func TestWhatAClientMayHold(t *testing.T) {
	for name, c := range map[string]struct {
		sends string
		after time.Duration // the connection is closed, to the second
	}{
		"nothing":                    {"", 10 * time.Second},
		"a header that does not end": {"GET / HTTP/1.1\r\nHost: exporter\r\n", 10 * time.Second},
		"a body that does not come":  {"POST / HTTP/1.1\r\nHost: exporter\r\nContent-Length: 9\r\n\r\n", 15 * time.Second},
		"a connection for later":     {"GET / HTTP/1.1\r\nHost: exporter\r\n\r\n", 5 * time.Minute},
		"a header that is too long": {"GET / HTTP/1.1\r\nHost: exporter\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
			0},
	} {
		t.Run(name, func(t *testing.T) {
			handler := func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }
			run(t, handler, "", func(t *testing.T, s running) {
				connection, err := s.dial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				defer connection.Close()
				go io.WriteString(connection, c.sends)
				began := time.Now()
				answer, _ := io.ReadAll(connection)
				if took := time.Since(began); took.Truncate(time.Second) != c.after {
					t.Errorf("closed after %s, want %s", took, c.after)
				}
				if c.after == 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 431 ") {
					t.Errorf("answers %.100q", answer)
				}
			})
		})
	}
}

func TestMethodsAndHeaders(t *testing.T) {
	handler := Pages(map[string]http.HandlerFunc{
		"/":     func(w http.ResponseWriter, _ *http.Request) { Landing(w, "name", "", nil, "") },
		"/page": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<b>page") },
	}, map[string]http.HandlerFunc{
		"/action": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "done") },
	})
	for request, want := range map[string]struct {
		status            int
		body, contentType string
	}{
		"GET /page":       {200, "<b>page", "text/plain; charset=utf-8"},
		"HEAD /page":      {200, "<b>page", "text/plain; charset=utf-8"}, // whose body net/http leaves out
		"GET /":           {200, "<!DOCTYPE html>", "text/html; charset=utf-8"},
		"POST /page":      {405, "method not allowed\n", "text/plain; charset=utf-8"},
		"OPTIONS /page":   {405, "method not allowed\n", "text/plain; charset=utf-8"},
		"TRACE /":         {405, "method not allowed\n", "text/plain; charset=utf-8"},
		"GET /page/":      {404, "404 page not found\n", "text/plain; charset=utf-8"},
		"GET /PAGE":       {404, "404 page not found\n", "text/plain; charset=utf-8"},
		"POST /action":    {200, "done", "text/plain; charset=utf-8"},
		"GET /action":     {405, "method not allowed\n", "text/plain; charset=utf-8"},
		"HEAD /action":    {405, "method not allowed\n", "text/plain; charset=utf-8"},
		"POST /elsewhere": {404, "404 page not found\n", "text/plain; charset=utf-8"},
	} {
		t.Run(request, func(t *testing.T) {
			method, path, _ := strings.Cut(request, " ")
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
			if w.Code != want.status || !strings.HasPrefix(w.Body.String(), want.body) {
				t.Errorf("answers %d %.100q, want %d %q", w.Code, w.Body, want.status, want.body)
			}
			allow := ""
			if want.status == http.StatusMethodNotAllowed {
				allow = map[bool]string{false: "GET, HEAD", true: "POST"}[path == "/action"]
			}
			for name, want := range map[string]string{"Content-Type": want.contentType, "Allow": allow,
				"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
				if got := w.Header().Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

// TestEveryRequestReachesThePages has one that net/http would answer by itself, without the headers.
func TestEveryRequestReachesThePages(t *testing.T) {
	run(t, Pages(nil, nil).ServeHTTP, "", func(t *testing.T, s running) {
		connection, err := s.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		go io.WriteString(connection, "OPTIONS * HTTP/1.1\r\nHost: exporter\r\nConnection: close\r\n\r\n")
		answer, err := io.ReadAll(connection)
		if err != nil || !strings.Contains(string(answer), "\r\nX-Content-Type-Options: nosniff\r\n") {
			t.Errorf("answers %q, %v", answer, err)
		}
	})
}

// TestLandingEscapes has what does harm in HTML in every place.
func TestLandingEscapes(t *testing.T) {
	const harm = `/a"b'<script>&\` + "\u00a0"
	const harmless = `/a&#34;b&#39;&lt;script&gt;&amp;\` + "\u00a0"
	w := httptest.NewRecorder()
	Landing(w, harm, harm, []string{harm, "/metrics"}, harm+"\n"+harm)
	want := `<!DOCTYPE html>
<html lang="en">
<head><title>` + harmless + `</title></head>
<body>
<h1>` + harmless + `</h1>
<p>` + harmless + `</p>
<p><a href="` + harmless + `">` + harmless + `</a>
<a href="/metrics">/metrics</a>
</p>
<pre>` + harmless + "\n" + harmless + `</pre>
</body>
</html>
`
	if got := w.Body.String(); got != want {
		t.Errorf("page:\n%s\nwant:\n%s", got, want)
	}
}

// TestText and a page made of it are answered in the encoding that the client takes.
func TestText(t *testing.T) {
	text := strings.Repeat("a text that is worth compressing ", 100)
	var c page.Compressor
	c.Write([]byte(text))
	made := page.New(c.Part())
	for name, handler := range map[string]http.HandlerFunc{
		"text": func(w http.ResponseWriter, r *http.Request) { Text(w, r, "text/css", []byte(text)) },
		"page": func(w http.ResponseWriter, r *http.Request) { Page(w, r, "text/css", made) },
	} {
		for _, method := range []string{"GET", "HEAD"} {
			for accepts, want := range map[string]string{"": "", "gzip": "gzip", "br": "", "gzip;q=0": "",
				"identity;q=0": "none",
				"*":            "gzip"} {
				r := httptest.NewRequest(method, "/", nil)
				r.Header.Set("Accept-Encoding", accepts)
				w := httptest.NewRecorder()
				handler(w, r)
				if h := w.Header(); h.Get("Vary") != "Accept-Encoding" {
					t.Errorf("%s %s, %q: %v", method, name, accepts, h)
				}
				if want == "none" {
					if w.Code != http.StatusNotAcceptable {
						t.Errorf("%s %s, %q: %d", method, name, accepts, w.Code)
					}
					continue
				}
				h, body := w.Header(), w.Body.String()
				if w.Code != 200 || h.Get("Content-Encoding") != want || h.Get("Content-Type") != "text/css" {
					t.Errorf("%s %s, %q: %d %v", method, name, accepts, w.Code, h)
				}
				if method == "HEAD" {
					if body != "" || h.Get("Content-Length") == "" {
						t.Errorf("%s %s, %q: %d bytes, %v", method, name, accepts, len(body), h)
					}
					continue
				}
				if h.Get("Content-Length") != strconv.Itoa(len(body)) {
					t.Errorf("%s, %q: %d bytes, %v", name, accepts, len(body), h)
				}
				if want == "gzip" {
					z, err := gzip.NewReader(strings.NewReader(body))
					if err != nil {
						t.Fatal(err)
					}
					all, err := io.ReadAll(z)
					if err != nil {
						t.Error(err)
					}
					body = string(all)
				}
				if body != text {
					t.Errorf("%s, %q: %.100q", name, accepts, body)
				}
			}
		}
	}
}

func TestPatience(t *testing.T) {
	for name, c := range map[string]struct {
		timeout string // "" for no header
		want    time.Duration
	}{
		"a person":                         {"", 10 * time.Second},
		"Prometheus's own timeout":         {"10", 9500 * time.Millisecond},
		"half a second is left to answer":  {"15", 14500 * time.Millisecond},
		"half of a short one":              {"0.5", 250 * time.Millisecond},
		"of one of a second":               {"1", 500 * time.Millisecond},
		"the longest":                      {"120", 2*time.Minute - 500*time.Millisecond},
		"one that nobody should wait for":  {"86400", 2*time.Minute - 500*time.Millisecond},
		"one that no number of seconds is": {"soon", 10 * time.Second},
		"nothing":                          {"0", 10 * time.Second},
		"less than nothing":                {"-1", 10 * time.Second},
		"no number":                        {"NaN", 10 * time.Second},
		"for ever":                         {"Inf", 2*time.Minute - 500*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			if c.timeout != "" {
				h.Set("X-Prometheus-Scrape-Timeout-Seconds", c.timeout)
			}
			if got := Patience(h); got != c.want {
				t.Errorf("waits %s, want %s", got, c.want)
			}
		})
	}
}
