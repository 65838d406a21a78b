package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"
)

func TestClassify(t *testing.T) {
	for url, want := range map[string]string{
		"/api/v1/pods":                                                "list pods",
		"/api/v1/pods?limit=250&continue=watch":                       "list pods",
		"/api/v1/pods?watch=true":                                     "watch pods",
		"/api/v1/pods?watch=1":                                        "watch pods",
		"/api/v1/pods?watch=false":                                    "list pods",
		"/api/v1/namespaces/a/pods":                                   "list pods",
		"/api/v1/namespaces/a/pods?watch=true":                        "watch pods",
		"/api/v1/namespaces/a/pods/p":                                 "get pods",
		"/api/v1/namespaces/api/pods":                                 "list pods",
		"/api/v1/namespaces/pods/pods/pods":                           "get pods",
		"/api/v1/namespaces":                                          "list namespaces",
		"/api/v1/namespaces/a":                                        "get namespaces",
		"/apis/metrics.k8s.io/v1beta1/nodes":                          "list nodes.metrics.k8s.io",
		"/apis/metrics.k8s.io/v1beta1/nodes/n1":                       "get nodes.metrics.k8s.io",
		"/apis/metrics.k8s.io/v1beta1/pods":                           "list pods.metrics.k8s.io",
		"/apis/metrics.k8s.io/v1beta1/namespaces/a/pods":              "list pods.metrics.k8s.io",
		"/apis/metrics.k8s.io/v1beta1/namespaces/a/pods/p":            "get pods.metrics.k8s.io",
		"/apis/apps/v1/replicasets":                                   "list replicasets.apps",
		"/apis/apps/v1/namespaces/a/replicasets?watch=true":           "watch replicasets.apps",
		"/apis/batch/v1/jobs?watch=1":                                 "watch jobs.batch",
		"/api/v1/namespaces/a/resourcequotas":                         "list resourcequotas",
		"/k8s/clusters/c-1/api/v1/namespaces/namespaces":              "get namespaces",
		"/k8s/clusters/c-1/api/v1/pods":                               "list pods",
		"/k8s/clusters/c-1/apis/metrics.k8s.io/v1beta1/nodes?limit=1": "list nodes.metrics.k8s.io",
		"/":            "list ",
		"/api":         "list ",
		"/api/v1":      "list ",
		"/apis/x":      "list ",
		"/api/v2/pods": "list ",
	} {
		resource, verb := classify(httptest.NewRequest(http.MethodGet, url, nil))
		if got := verb + " " + resource; got != want {
			t.Errorf("%s is %q, want %q", url, got, want)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// through is what all requests pass through, before next.
func through(next roundTrip) *requests {
	return &requests{next: next, report: func(_, _, _ string) {}, proxy: func(*http.Request) (*url.URL,
		error) {
		return nil, nil
	},
		refused: func() {}}
}

// endless is a body that never ends, and takes down whether it was closed.
type endless struct{ closed bool }

func (e *endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }
func (e *endless) Close() error               { e.closed = true; return nil }

func TestRequestsAreCounted(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		err    error
		want   string
	}{
		"that worked":             {200, nil, "pods.metrics.k8s.io list 200"},
		"that the server refused": {403, nil, "pods.metrics.k8s.io list 403"},
		"that got no answer":      {0, errors.New("refused"), "pods.metrics.k8s.io list error"},
	} {
		t.Run(name, func(t *testing.T) {
			var reports []string
			transport := through(func(*http.Request) (*http.Response, error) {
				if c.err != nil {
					return nil, c.err
				}
				return &http.Response{StatusCode: c.status, Body: http.NoBody}, nil
			})
			transport.report = func(resource, verb, code string) {
				reports = append(reports,
					resource+" "+verb+" "+code)
			}
			_, err := transport.RoundTrip(httptest.NewRequest(http.MethodGet, "/apis/metrics.k8s.io/v1beta1/pods", nil))
			if !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if got := strings.Join(reports, "\n"); got != c.want {
				t.Errorf("reported %q, want %q", got, c.want)
			}
		})
	}
}

func TestBodyOfAFailureIsBounded(t *testing.T) {
	for _, c := range []struct {
		status  int
		bounded bool
	}{{200, false}, {204, false}, {301, true}, {403, true}, {500, true}, {599, true}} {
		body := &endless{}
		transport := through(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: c.status, Body: body}, nil
		})
		resp, err := transport.RoundTrip(httptest.NewRequest(http.MethodGet, "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		n, _ := io.Copy(io.Discard, io.LimitReader(resp.Body, 2*maxErrorBody))
		if bounded := n == maxErrorBody; bounded != c.bounded {
			t.Errorf("status %d: %d bytes are read, bounded %t, want %t", c.status, n, bounded, c.bounded)
		}
		if resp.Body.Close(); !body.closed {
			t.Errorf("status %d: closing it does not close what is below", c.status)
		}
	}
}

// silent is a network in which nobody answers. All connections of a transport go through dial.
type silent struct {
	connects bool
	says     string // to everybody who has sent something
}

func (s silent) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if !s.connects {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	here, there := net.Pipe()
	go func() {
		there.Read(make([]byte, 1<<12))
		io.WriteString(there, s.says)
		io.Copy(io.Discard, there)
	}()
	return here, nil
}

// TestRequestWithoutAnAnswerEnds makes each kind of request, without a deadline of its own, to a server that does not
// get as far as the header of an answer.
func TestRequestWithoutAnAnswerEnds(t *testing.T) {
	requests := map[string]func(ctx context.Context, pods *rest.Request) error{
		"list": func(ctx context.Context, pods *rest.Request) error { return pods.Do(ctx).Error() },
		"watch": func(ctx context.Context, pods *rest.Request) error {
			_, err := pods.Param("watch", "true").Stream(ctx)
			return err
		},
		"get": func(ctx context.Context, pods *rest.Request) error {
			_, err := pods.Name("p").Stream(ctx)
			return err
		},
	}
	for name, c := range map[string]struct {
		silent
		host string
		most time.Duration
		want string
	}{
		"it accepts and never answers": {silent{connects: true}, "http://cluster", headerTime,
			"cluster: no answer within 30s; check the server's address"},
		"it never ends the header": {silent{connects: true, says: "HTTP/1.1 200 OK\r\nA: b"}, "http://cluster",
			headerTime, "no answer within 30s"},
		"it never agrees on TLS": {silent{connects: true}, "https://cluster", headerTime,
			"; check the network"},
		"it cannot be connected to":      {silent{}, "http://cluster", headerTime, "no answer within 30s"},
		"it cannot be connected to, TLS": {silent{}, "https://cluster", headerTime, "no answer within 30s"},
	} {
		for verb, request := range requests {
			t.Run(verb+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var reported string
					tr, err := newTransport(&rest.Config{Host: c.host, Dial: c.dial}, func(resource, verb,
						code string) {
						reported += verb + " " + code
					})
					if err != nil {
						t.Fatal(err)
					}
					defer tr.close()
					rest, err := client(&rest.Config{Host: c.host}, Core, tr)
					if err != nil {
						t.Fatal(err)
					}
					begin := time.Now()
					err = request(t.Context(), rest.Get().Resource("pods").MaxRetries(0))
					if took := time.Since(begin); took > c.most {
						t.Errorf("it ends after %s, want %s at most", took, c.most)
					}
					checkExplained(t, verb+" pods", err, Timeout, 0, c.want)
					if errors.Is(err, context.Canceled) {
						t.Error("the error is taken for the end of the program")
					}
					if want := verb + " error"; reported != want {
						t.Errorf("reported %q, want %q", reported, want)
					}
				})
			})
		}
	}
}

// TestWatchThatCannotBeginIsAFailure ends connections in the ways that client-go takes for the end of a watch that
// worked.
func TestWatchThatCannotBeginIsAFailure(t *testing.T) {
	for name, failure := range map[string]error{
		"no end of the header":        io.ErrUnexpectedEOF,
		"no answer":                   io.EOF,
		"a connection that is reset":  &net.OpError{Op: "read", Err: syscall.ECONNRESET},
		"a connection that is closed": net.ErrClosed,
		"a connection that is too old": errors.New("http2: server sent GOAWAY and closed the connection; " +
			"LastStreamID=1"),
		"no agreement on TLS in time": os.ErrDeadlineExceeded,
	} {
		t.Run(name, func(t *testing.T) {
			through := through(func(*http.Request) (*http.Response, error) { return nil, failure })
			rest, err := client(configOf("http://cluster"), Core, &transport{client: &http.Client{Transport: through}})
			if err != nil {
				t.Fatal(err)
			}
			_, err = rest.Get().Resource("pods").Param("watch", "true").MaxRetries(0).Stream(t.Context())
			if err == nil {
				t.Fatal("it is a watch without events")
			}
			if f := Explain("watch pods", err); f.Reason != Network && f.Reason != Timeout || strings.HasSuffix(f.Text,
				"and the network") {
				t.Errorf("%s: %s", f.Reason, f.Text)
			}
		})
	}
}

func TestProxyWithoutAnAnswerIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := &rest.Config{Host: "https://cluster", Dial: silent{connects: true}.dial,
			Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy:3128"})}
		checkExplained(t, "list pods.metrics.k8s.io", list(t.Context(), config, Metrics), Network, 0,
			"the way to the server is through the proxy proxy:3128: ",
			"no answer within 30s; check that proxy, and proxy-url")
	})
}

func TestBodyThatIsNeverCompleteEnds(t *testing.T) {
	const header = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nContent-Type: application/json\r\n\r\n"
	for name, c := range map[string]struct {
		watch bool
		want  time.Duration
	}{
		"of a list":  {false, bodyTime},
		"of a watch": {true, 20 * bodyTime}, // which has a guard of its own
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := &rest.Config{Host: "http://cluster", Dial: silent{connects: true, says: header + "{"}.dial}
				tr := mustTransport(t, config)
				defer tr.close()
				rest, err := client(config, Core, tr)
				if err != nil {
					t.Fatal(err)
				}
				request := rest.Get().Resource("pods").MaxRetries(0)
				if c.watch {
					request.Param("watch", "true")
				}
				begin := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 20*bodyTime)
				defer cancel()
				body, err := request.Stream(ctx)
				if err != nil {
					t.Fatal(err)
				}
				defer body.Close()
				_, err = io.Copy(io.Discard, body)
				if took := time.Since(begin); took != c.want {
					t.Errorf("it ends after %s, want %s", took, c.want)
				}
				if !c.watch {
					checkExplained(t, "list pods", BodyError(ctx, err), Timeout, 0,
						"cannot list pods: no complete answer within 2m0s; check ")
				}
			})
		})
	}
}

func TestHeaderOfAnAnswerIsBounded(t *testing.T) {
	huge := func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("A", strings.Repeat("b", 1<<20)) }
	http1 := httptest.NewServer(http.HandlerFunc(huge))
	defer http1.Close()
	for name, config := range map[string]*rest.Config{
		"HTTP/1": {Host: http1.URL},
		"HTTP/2": trusting(serve(t, huge)),
	} {
		if err := list(t.Context(), config, Metrics); err == nil {
			t.Errorf("a header of a megabyte is read, by %s", name)
		}
	}
}

func TestClosedTransportHasNoConnections(t *testing.T) {
	for name, begin := range map[string]func(client *http.Client, url string){
		"idle": func(client *http.Client, url string) {
			if resp, err := client.Get(url); err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		},
		"with an answer that nobody reads": func(client *http.Client, url string) { client.Get(url) },
	} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, HTTP/2 %t", name, http2), func(t *testing.T) {
				closed := make(chan struct{})
				server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Write(make([]byte, 1<<20))
				}))
				server.EnableHTTP2 = http2
				server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
					if state == http.StateClosed {
						close(closed)
					}
				}
				server.StartTLS()
				t.Cleanup(server.Close)
				config := trusting(server) // with a bearer token, for which client-go wraps the transport once more
				tr := mustTransport(t, config)
				begin(tr.client, server.URL)
				tr.close()
				select {
				case <-closed:
				case <-time.After(10 * time.Second):
					t.Error("the connection is still open")
				}
			})
		}
	}
}

// TestTransportsShareNothing keeps what client-go keeps for the process, by the certificates, from holding a cluster
// that is left, and a cluster from closing the connections of another.
func TestTransportsShareNothing(t *testing.T) {
	server := serve(t, answer(200, ""))
	plain := httptest.NewServer(answer(200, ""))
	defer plain.Close()
	for name, config := range map[string]*rest.Config{"TLS": trusting(server), "no TLS": {Host: plain.URL}} {
		base := func() (base http.RoundTripper) {
			for base = mustTransport(t, config).client.Transport; ; {
				w, ok := base.(interface{ WrappedRoundTripper() http.RoundTripper })
				if !ok {
					return base
				}
				base = w.WrappedRoundTripper()
			}
		}
		if first := base(); first == base() || first == http.DefaultTransport {
			t.Errorf("with %s two clusters have one transport", name)
		}
	}
}

func TestTokenThatIsRefusedIsReadAnewFromItsFile(t *testing.T) {
	var accepted atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+accepted.Load().(string) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	transport, err := newTransport(&rest.Config{Host: server.URL, BearerToken: "older", BearerTokenFile: file},
		func(string, string, string) {})
	if err != nil {
		t.Fatal(err)
	}
	get := func() int {
		response, err := transport.client.Get(server.URL + "/api/v1/pods")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	accepted.Store("old")
	if got := get(); got != http.StatusOK {
		t.Errorf("the token of the file: %d", got)
	}
	accepted.Store("new")
	if got := get(); got != http.StatusUnauthorized {
		t.Errorf("a token that is not accepted: %d", got)
	}
	write("new")
	if got := get(); got != http.StatusOK {
		t.Errorf("the token that has come since: %d", got)
	}
}

// writeCertificate makes a client certificate for a user, as two files.
func writeCertificate(t *testing.T, user, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: user},
		NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: certificate},
		keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// serveClients is a TLS server of HTTP/2 that wants a certificate of its clients.
func serveClients(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func TestCertificateThatIsRefusedIsReadAnewFromItsFile(t *testing.T) {
	server := serveClients(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/watch" {
			w.(http.Flusher).Flush()
			<-r.Context().Done() // the connection is never idle
		} else if r.TLS.PeerCertificates[0].Subject.CommonName == "expired" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
		}
	})
	certFile, keyFile := filepath.Join(t.TempDir(), "crt"), filepath.Join(t.TempDir(), "key")
	writeCertificate(t, "expired", certFile, keyFile)
	config := &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true, CertFile: certFile,
		KeyFile: keyFile}}
	transport, err := newTransport(config, func(string, string, string) {})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := transport.client.Get(server.URL + "/watch")
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Body.Close()
	get := func() (status int, body string) {
		resp, err := transport.client.Get(server.URL)
		if err != nil {
			return 0, err.Error() // the connection was closed below it
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	if status, body := get(); status != http.StatusUnauthorized || body != "who are you?\n" {
		t.Fatalf("%d %q with the expired certificate", status, body)
	}
	writeCertificate(t, "renewed", certFile, keyFile)
	// client-go keeps what it has read for a second.
	for until := time.Now().Add(10 * time.Second); ; {
		if status, _ := get(); status == http.StatusOK {
			return
		} else if time.Now().After(until) {
			t.Fatalf("%d with the renewed certificate", status)
		}
	}
}

func TestTokenFileThatIsNotThere(t *testing.T) {
	_, err := newTransport(&rest.Config{Host: "https://127.0.0.1", BearerTokenFile: filepath.Join(t.TempDir(),
		"token")}, func(string, string, string) {})
	if f := Explain("connect", err); err == nil || f.Reason != Configuration {
		t.Errorf("%v is no fault of the configuration", err)
	}
}
