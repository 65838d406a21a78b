package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
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
	"testing"
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
	return &requests{next: next, report: func(_, _, _ string) {}, proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
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
			transport.report = func(resource, verb, code string) { reports = append(reports, resource+" "+verb+" "+code) }
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

func TestClosedTransportHasNoConnections(t *testing.T) {
	closed := make(chan struct{})
	server := httptest.NewUnstartedServer(answer(200, ""))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			close(closed)
		}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	config := trusting(server) // with a bearer token, for which client-go wraps the transport once more
	tr, err := newTransport(config, func(string, string, string) {})
	if err != nil {
		t.Fatal(err)
	}
	response, err := tr.client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, response.Body)
	response.Body.Close()
	tr.close()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the connection is still open")
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
	transport, err := newTransport(&rest.Config{Host: server.URL, BearerToken: "older", BearerTokenFile: file}, func(string, string, string) {})
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
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: user}, NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: certificate}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCertificateThatIsRefusedIsReadAnewFromItsFile(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/watch" {
			w.(http.Flusher).Flush()
			<-r.Context().Done() // the connection is never idle
		} else if r.TLS.PeerCertificates[0].Subject.CommonName == "expired" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
		}
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	certFile, keyFile := filepath.Join(t.TempDir(), "crt"), filepath.Join(t.TempDir(), "key")
	writeCertificate(t, "expired", certFile, keyFile)
	config := &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true, CertFile: certFile, KeyFile: keyFile}}
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
	_, err := newTransport(&rest.Config{Host: "https://127.0.0.1", BearerTokenFile: filepath.Join(t.TempDir(), "token")}, func(string, string, string) {})
	if f := Explain("connect", err); err == nil || f.Reason != Configuration {
		t.Errorf("%v is no fault of the configuration", err)
	}
}
