package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// serve is a TLS server of HTTP/2, as an API server is.
func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// trusting is the configuration of a client of the server, whose token is secret.
func trusting(s *httptest.Server) *rest.Config {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return &rest.Config{Host: s.URL, BearerToken: secret, TLSClientConfig: rest.TLSClientConfig{CAData: ca}}
}

// serveAs is the same with a certificate that is valid until then.
func serveAs(t *testing.T, until time.Time) *httptest.Server {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(answer(200, ""))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// nobody is an address at which nobody listens.
func nobody(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// raw is the address of a server that answers everybody the same.
func raw(t *testing.T, text string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 1<<10))
			io.WriteString(conn, text)
			conn.Close()
		}
	}()
	return l.Addr().String()
}

// anotherAuthority is the certificate of an authority that has signed nothing.
func anotherAuthority(t *testing.T) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// list reads the list of pods of a group to its end, as a refresh does.
func list(ctx context.Context, config *rest.Config, group schema.GroupVersion) error {
	t, err := newTransport(config, func(_, _, _ string) {})
	if err != nil {
		return err
	}
	defer t.close()
	c, err := client(config, group, t)
	if err != nil {
		return err
	}
	body, err := c.Get().Resource("pods").MaxRetries(0).Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(io.Discard, body); err != nil {
		return BodyError(ctx, err)
	}
	return nil
}

// answer sends a status, as plain text or as the Status that API servers send.
func answer(code int, message string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		io.WriteString(w, message)
	}
}

func statusAnswer(e *apierrors.StatusError, header ...string) http.HandlerFunc {
	status := e.Status()
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	body, err := json.Marshal(status)
	if err != nil {
		panic(err)
	}
	return answer(int(status.Code), string(body), append(header, "Content-Type", "application/json")...)
}

func TestExplainWhatServersAnswer(t *testing.T) {
	pods := schema.GroupResource{Group: "metrics.k8s.io", Resource: "pods"}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		core    bool // asked for core's pods instead of those of metrics.k8s.io
		reason  string
		text    []string
		retry   time.Duration
	}{
		"401": {handler: statusAnswer(apierrors.NewUnauthorized("Unauthorized")),
			reason: Unauthorized,
			text: []string{"cannot list pods.metrics.k8s.io: 401 Unauthorized: Unauthorized; the token or " +
				"certificate is wrong or has expired: renew it"}},
		"403": {handler: statusAnswer(apierrors.NewForbidden(pods, "", errors.New("no RBAC policy matched"))),
			reason: Forbidden, text: []string{"cannot list pods.metrics.k8s.io: 403 Forbidden: ",
				"no RBAC policy matched",
				`; grant {apiGroups: ["metrics.k8s.io"], resources: ["pods"], verbs: ["list"]}, see deploy/`}},
		"403 of core pods": {handler: answer(403, "no"), core: true,
			reason: Forbidden, text: []string{"cannot list pods: 403 Forbidden: ",
				`grant {apiGroups: [""], resources: ["pods"], verbs: ["list"]}`}},
		"404, without the metrics API": {handler: answer(404, "404 page not found\n", "Content-Type", "text/plain"),
			reason: NotFound, text: []string{"404 Not Found: ",
				"; the metrics API is not installed in this cluster: install metrics-server"}},
		"404, from another server than Kubernetes": {handler: answer(404, "<html>", "Content-Type", "text/html"),
			core:   true,
			reason: NotFound, text: []string{"cannot list pods: 404 Not Found: ",
				"; the configured server is not a Kubernetes API server: check the server's URL"}},
		"400 of a server that wants TLS": {handler: answer(400,
			"<html>The plain HTTP request was sent to HTTPS port</html>", "Content-Type", "text/html"),
			reason: Configuration, text: []string{"400 Bad Request: ",
				"; the server's address in the kubeconfig has to begin with https://"}},
		"405": {handler: answer(405, "only GET of files", "Content-Type", "text/plain"),
			reason: Unavailable,
			text: []string{"405 Method Not Allowed: only GET of files; check the server's URL in the " +
				"kubeconfig, and what stands before the server"}},
		"429, as the API server's flow control says it": {handler: answer(429,
			"Too many requests, please try again later.\n", "Retry-After", "7", "Content-Type", "text/plain"),
			reason: Throttled, retry: 7 * time.Second, text: []string{"429 Too Many Requests: ",
				"; the API server is overloaded; it is tried again"}},
		"429, as a Status": {handler: statusAnswer(apierrors.NewTooManyRequests("slow down", 9)),
			reason: Throttled, retry: 9 * time.Second, text: []string{"429 Too Many Requests: slow down"}},
		"429 without a time": {handler: answer(429, "", "Content-Type", "text/plain"),
			reason: Throttled, text: []string{"429 Too Many Requests: "}},
		"429 with a time that is none": {handler: answer(429, "", "Content-Type", "text/plain", "Retry-After", "soon"),
			reason: Throttled, text: []string{"429 Too Many Requests: "}},
		"503 without metrics-server": {handler: answer(503, "service unavailable\n", "Content-Type", "text/plain"),
			reason: Unavailable, text: []string{"503 Service Unavailable: ",
				"; metrics-server is not running or not reachable: check kubectl get apiservice " +
					"v1beta1.metrics.k8s.io"}},
		"503 with a time": {handler: answer(503, "", "Content-Type", "text/plain", "Retry-After", "30"),
			reason: Unavailable, retry: 30 * time.Second, text: []string{"503 Service Unavailable: "}},
		"503 of core pods": {handler: answer(503, "starting", "Content-Type", "text/plain"), core: true,
			reason: Unavailable, text: []string{"cannot list pods: 503 Service Unavailable: ",
				"; look into the API server's log; it is tried again"}},
		"500": {handler: statusAnswer(apierrors.NewInternalError(errors.New("etcdserver: request timed out"))),
			reason: Unavailable, text: []string{"500 Internal Server Error: ", "etcdserver: request timed out",
				"; look into the API server's log; it is tried again"}},
		"418": {handler: answer(418, ""),
			reason: Unavailable, text: []string{"418 I'm a teapot"}},
		"a message of many lines": {handler: statusAnswer(apierrors.NewForbidden(pods, "",
			errors.New("one\n\ttwo\r\n three\x00"))),
			reason: Forbidden, text: []string{"one two three"}},
		"a message of a megabyte": {handler: statusAnswer(apierrors.NewForbidden(pods, "",
			errors.New(strings.Repeat("é", 300_000)))),
			reason: Forbidden, text: []string{"é…; grant {"}},
		"a message that is no text": {handler: answer(403, "\xff\xfe\x00\n", "Content-Type", "text/plain"),
			reason: Forbidden, text: []string{"403 Forbidden: "}},
		"an answer without an end": {handler: func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, reason: Unavailable, text: []string{"500 Internal Server Error: "}},
		"an answer that breaks off, by HTTP/2": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Write(make([]byte, 100))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, reason: Network, text: []string{"cannot list pods.metrics.k8s.io: ", "; it is tried again"}},
	} {
		t.Run(name, func(t *testing.T) {
			group, attempt := Metrics, "list pods.metrics.k8s.io"
			if c.core {
				group, attempt = Core, "list pods"
			}
			err := list(t.Context(), trusting(serve(t, c.handler)), group)
			checkExplained(t, attempt, err, c.reason, c.retry, c.text...)
		})
	}
}

func checkExplained(t *testing.T, attempt string, err error, reason string, retry time.Duration, text ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	f := Explain(attempt, err)
	if f.Reason != reason || f.Retry != retry {
		t.Errorf("reason %s and a pause of %s, want %s and %s: %s", f.Reason, f.Retry, reason, retry, f.Text)
	}
	for _, want := range text {
		if !strings.Contains(f.Text, want) {
			t.Errorf("%s\nwant: %s", f.Text, want)
		}
	}
	if strings.ContainsAny(f.Text, "\n\r") || len(f.Text) > 2*maxText {
		t.Errorf("not one line of bounded length: %q", f.Text)
	}
	if strings.Contains(f.Text, secret) {
		t.Errorf("the secret is in the text: %s", f.Text)
	}
	if again := Explain("do something else", fmt.Errorf("wrapped: %w", f)); again != f {
		t.Errorf("what is explained is explained again: %s", again.Text)
	}
}

func TestExplainWhatConnectionsEndWith(t *testing.T) {
	ok := func(t *testing.T) *httptest.Server { return serve(t, answer(200, "")) }
	for name, c := range map[string]struct {
		config func(t *testing.T) *rest.Config
		reason string
		text   []string
	}{
		"nobody listens": {func(t *testing.T) *rest.Config {
			return &rest.Config{Host: "http://" + nobody(t), BearerToken: secret}
		}, Network, []string{"connection refused", "; check the server's address in the kubeconfig",
			"127.0.0.1 is the container itself"}},
		"the name does not exist": {func(*testing.T) *rest.Config {
			return &rest.Config{Host: "https://no-such-cluster.invalid", BearerToken: secret}
		}, Network, []string{"cannot list pods.metrics.k8s.io: cannot resolve no-such-cluster.invalid; check the " +
			"server's name in the kubeconfig and this container's DNS"}},
		"the server's certificate is of an unknown authority": {func(t *testing.T) *rest.Config {
			c := trusting(ok(t))
			c.CAData = anotherAuthority(t)
			return c
		}, Network, []string{"x509: ", "; set certificate-authority-data of the cluster in the kubeconfig to "}},
		"the server's certificate is for another name": {func(t *testing.T) *rest.Config {
			c := trusting(ok(t))
			c.TLSClientConfig.ServerName = "another.example.org"
			return c
		}, Network, []string{"x509: ", "another.example.org", "; set tls-server-name of the cluster"}},
		"the server's certificate has expired": {func(t *testing.T) *rest.Config {
			c := trusting(serveAs(t, time.Now().Add(-time.Hour)))
			return c
		}, Network, []string{"x509: ", "has expired", "; renew the server's certificate, or correct the clock here"}},
		"the server wants a client certificate": {func(t *testing.T) *rest.Config {
			s := httptest.NewUnstartedServer(answer(200, ""))
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
			s.StartTLS()
			t.Cleanup(s.Close)
			return trusting(s)
		}, Network, []string{"tls: ", "; check certificate-authority and client certificate in the kubeconfig"}},
		"the server speaks no TLS": {func(t *testing.T) *rest.Config {
			s := httptest.NewServer(answer(200, ""))
			t.Cleanup(s.Close)
			return &rest.Config{Host: strings.Replace(s.URL, "http:", "https:", 1), BearerToken: secret}
		}, Configuration, []string{"server gave HTTP response to HTTPS client",
			"; the server does not speak TLS: check the port"}},
		"the server speaks neither TLS nor HTTP": {func(t *testing.T) *rest.Config {
			return &rest.Config{Host: "https://" + raw(t, "SSH-2.0-OpenSSH_9.2\r\n"), BearerToken: secret}
		}, Configuration, []string{"; the server does not speak TLS: check the port"}},
		"the address lacks its https://, and the server answers in HTTP": {func(t *testing.T) *rest.Config {
			return &rest.Config{Host: strings.TrimPrefix(ok(t).URL, "https://")}
		}, Configuration, []string{"400 Bad Request: Client sent an HTTP request to an HTTPS server",
			"; the server's address in the kubeconfig has to begin with https://"}},
		"the address has http://, and the server answers in TLS": {func(t *testing.T) *rest.Config {
			return &rest.Config{Host: "http://" + raw(t, "\x15\x03\x01\x00\x02\x02\x46")}
		}, Configuration, []string{"malformed HTTP response", "that it begins with https://"}},
		"the proxy is down": {func(t *testing.T) *rest.Config {
			c := trusting(ok(t))
			c.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: nobody(t), User: url.UserPassword("me", secret)})
			return c
		}, Network, []string{"the way to the server is through the proxy 127.0.0.1:", "connection refused",
			"; check that proxy, and proxy-url in the kubeconfig or the environment's HTTPS_PROXY"}},
		"the proxy's name does not exist": {func(t *testing.T) *rest.Config {
			c := trusting(ok(t))
			c.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "no-such-proxy.invalid:3128"})
			return c
		}, Network, []string{"the proxy no-such-proxy.invalid:3128: ", "; check that proxy"}},
		"the SOCKS proxy is down": {func(t *testing.T) *rest.Config {
			c := trusting(ok(t))
			c.Proxy = http.ProxyURL(&url.URL{Scheme: "socks5", Host: nobody(t)})
			return c
		}, Network, []string{"the proxy 127.0.0.1:", "connection refused", "; check that proxy"}},
		"the proxy wants a password": {func(t *testing.T) *rest.Config {
			proxy := httptest.NewServer(answer(407, ""))
			t.Cleanup(proxy.Close)
			c := trusting(ok(t))
			c.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }
			return c
		}, Network, []string{"the proxy 127.0.0.1:", "it answers CONNECT with 407 Proxy Authentication Required",
			"; check that proxy"}},
		"no request can be made with the token": {func(t *testing.T) *rest.Config {
			c := trusting(ok(t))
			c.BearerToken = "two\nlines"
			return c
		}, Configuration, []string{"invalid header field value",
			"; take out of the kubeconfig's token what no token has"}},
		"the server closes the connection": {func(t *testing.T) *rest.Config {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				conn, _, _ := w.(http.Hijacker).Hijack()
				conn.Close()
			}))
			t.Cleanup(s.Close)
			return &rest.Config{Host: s.URL, BearerToken: secret}
		}, Network, []string{"the connection broke: ", "; it is tried again"}},
		"the server closes the connection in the middle of the body": {func(t *testing.T) *rest.Config {
			s := httptest.NewServer(answer(200, "half", "Content-Length", "8"))
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			t.Cleanup(s.Close)
			return &rest.Config{Host: s.URL, BearerToken: secret}
		}, Network, []string{"the connection broke: ", "; it is tried again"}},
		"the exec plugin is not installed": {func(t *testing.T) *rest.Config {
			c := trusting(ok(t))
			c.BearerToken = ""
			c.ExecProvider = &clientcmdapi.ExecConfig{Command: "no-such-auth-plugin",
				APIVersion:      "client.authentication.k8s.io/v1",
				InteractiveMode: clientcmdapi.NeverExecInteractiveMode, InstallHint: "install it\nfrom somewhere",
				Env: []clientcmdapi.ExecEnvVar{{Name: "T", Value: secret}}}
			return c
		}, Configuration, []string{"exec plugin that is not installed here", "no-such-auth-plugin",
			"; use a kubeconfig with a service account's token, see deploy/outside/"}},
		"the exec plugin is a file that does not exist": {func(t *testing.T) *rest.Config {
			c := trusting(ok(t))
			c.BearerToken = ""
			c.ExecProvider = &clientcmdapi.ExecConfig{Command: "/does/not/exist",
				APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: clientcmdapi.NeverExecInteractiveMode}
			return c
		}, Configuration, []string{"/does/not/exist", "; ", "deploy/outside/"}},
		"the exec plugin fails": {func(t *testing.T) *rest.Config {
			c := trusting(ok(t))
			c.BearerToken = ""
			c.ExecProvider = &clientcmdapi.ExecConfig{Command: "false", Args: []string{secret},
				APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: clientcmdapi.NeverExecInteractiveMode}
			return c
		}, Configuration, []string{"the exec plugin false failed with exit code 1",
			"; run it by hand to see why, or use a kubeconfig with a service account's token, see deploy/outside/"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := list(t.Context(), c.config(t), Metrics)
			checkExplained(t, "list pods.metrics.k8s.io", err, c.reason, 0, c.text...)
		})
	}
}

func TestExplainTimeout(t *testing.T) {
	for name, begin := range map[string]func(http.ResponseWriter){
		"nothing arrives": func(http.ResponseWriter) {},
		"half of the body arrives": func(w http.ResponseWriter) {
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cutOff := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cutOff()
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				begin(w)
				<-r.Context().Done()
			})
			checkExplained(t, "list pods.metrics.k8s.io", list(ctx, trusting(s), Metrics), Timeout, 0,
				"cannot list pods.metrics.k8s.io: no complete answer in time; check the network and the API "+
					"server's load, or raise --refresh-interval")
		})
	}
}

func TestExplainContent(t *testing.T) {
	err := BodyError(t.Context(), fmt.Errorf("reading a PodMetricsList: %w", errors.New("the body is empty")))
	checkExplained(t, "list pods.metrics.k8s.io", err, Content, 0,
		"cannot list pods.metrics.k8s.io: reading a PodMetricsList: the body is empty; the answer is not that of a "+
			"Kubernetes API server, or it was cut off")
}

func TestBodyError(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	decoding := errors.New("no list")
	for name, c := range map[string]struct {
		ctx     context.Context
		err     error
		is      error
		content bool
	}{
		"what cannot be decoded": {t.Context(), decoding, decoding, true},
		"a body that ended too early": {t.Context(), fmt.Errorf("x: %w", io.ErrUnexpectedEOF),
			io.ErrUnexpectedEOF, false},
		"a connection that failed": {t.Context(), fmt.Errorf("x: %w", &net.OpError{Op: "read",
			Err: errors.New("reset")}), nil, false},
		"whatever comes when the attempt is over": {ended, decoding, context.Canceled, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := BodyError(c.ctx, c.err)
			f, ok := errors.AsType[*fault](err)
			if (ok && f.reason == Content) != c.content || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v (%T)", err, err)
			}
		})
	}
}

func TestNoCredentialsIsItsOwnMessage(t *testing.T) {
	refuses := func(user string) http.HandlerFunc {
		return statusAnswer(apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "",
			errors.New(`User "`+user+`" cannot list resource "pods"`)))
	}
	const own = "; no credentials have reached the server: give the context's user in the kubeconfig a token or a " +
		"client certificate"
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		token   string
		reason  string
		want    string
		not     string
	}{
		"401 without credentials": {answer(401, ""), "", Unauthorized,
			"cannot list pods: 401 Unauthorized" + own, "expired"},
		"401 with a token": {answer(401, ""), secret, Unauthorized,
			"; the token or certificate is wrong or has expired: renew it", own},
		"403 without credentials":         {refuses("system:anonymous"), "", Forbidden, own, "grant"},
		"403 with a token that gets lost": {refuses("system:anonymous"), secret, Forbidden, own, "grant"},
		"403 behind a proxy that authorizes": {refuses("me"), "", Forbidden,
			`; grant {apiGroups: [""], resources: ["pods"], verbs: ["list"]}`, own},
		"403 of a user who may not list pods": {refuses("me"), secret, Forbidden, "; grant ", own},
	} {
		t.Run(name, func(t *testing.T) {
			config := trusting(serve(t, c.handler))
			config.BearerToken = c.token
			f := Explain("list pods", list(t.Context(), config, Core))
			checkExplained(t, "list pods", f, c.reason, 0, c.want)
			if strings.Contains(f.Text, c.not) {
				t.Errorf("%s\nwant nothing of: %s", f.Text, c.not)
			}
		})
	}
}

func TestUsageOfNodesThatIsNotServedIsNoMissingMetricsServer(t *testing.T) {
	err := list(t.Context(), trusting(serve(t, answer(404, "404 page not found\n", "Content-Type", "text/plain"))),
		Metrics)
	f := Explain("list nodes.metrics.k8s.io", err)
	checkExplained(t, "list nodes.metrics.k8s.io", f, NotFound, 0,
		"404 Not Found: 404 page not found; this cluster has no usage of nodes: where pods are served, its metrics "+
			"API is one without nodes")
	if strings.Contains(f.Text, "not installed") {
		t.Error(f.Text)
	}
}

func TestOtherGroupsAreExplainedByTheirNames(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		reason  string
		want    string
	}{
		"403": {answer(403, "no"), Forbidden,
			`403 Forbidden: no; grant {apiGroups: ["apps"], resources: ["replicasets"], verbs: ["list"]}`},
		"404": {answer(404, "404 page not found\n", "Content-Type", "text/plain"), NotFound,
			"404 Not Found: 404 page not found; this cluster has no API group apps: check the server's URL"},
		"503": {answer(503, "starting"), Unavailable, "; look into the API server's log; it is tried again"},
	} {
		t.Run(name, func(t *testing.T) {
			err := list(t.Context(), trusting(serve(t, c.handler)), Apps)
			checkExplained(t, "list replicasets.apps", err, c.reason, 0, "cannot list replicasets.apps: ", c.want)
		})
	}
}

// TestNothingThatCannotMendIsTriedAgain looks at what was said of such: a retry changes nothing of it.
func TestNothingThatCannotMendIsTriedAgain(t *testing.T) {
	for name, err := range map[string]error{
		"an address that is none": &url.Error{Op: "Get", URL: "ftp://x",
			Err: errors.New(`unsupported protocol scheme "ftp"`)},
		"an answer of something else": BodyError(t.Context(), errors.New("no list")),
		"a request that no server knows": apierrors.NewGenericServerResponse(406, "get", schema.GroupResource{}, "",
			"", 0, true),
		"an error that nobody knows":      errors.New("what?"),
		"a configuration that is refused": misconfigured("cannot %s", "x"),
	} {
		if f := Explain("list pods", err); strings.Contains(f.Text, "tried again") || !strings.HasPrefix(f.Text,
			"cannot ") {
			t.Errorf("%s: %s", name, f.Text)
		}
	}
	for name, address := range map[string]string{"a space": "https://a b", "a port": "https://one:port",
		"two schemes": "https://https://one"} {
		c := Cluster{Report: func(_, _, _ string) {}}
		_, _, err := c.connect(Source{Files: []string{write(t, "config", kubeconfig(`"`+address+`"`, "dev"))}})
		if err == nil {
			continue // it is found when it is used
		}
		if f := Explain("connect", err); f.Reason != Configuration || strings.Contains(f.Text, "tried again") {
			t.Errorf("an address with %s: %s: %s", name, f.Reason, f.Text)
		}
	}
}

func TestReasonsAreAll(t *testing.T) {
	seen := map[string]bool{}
	for _, reason := range Reasons {
		if seen[reason] {
			t.Errorf("%s twice", reason)
		}
		seen[reason] = true
	}
	for _, reason := range []string{Configuration, Unauthorized, Forbidden, NotFound, Throttled, Unavailable, Network,
		Timeout, Content, Watch} {
		if !seen[reason] {
			t.Errorf("%s is missing", reason)
		}
	}
}

func FuzzOneLine(f *testing.F) {
	f.Add("a\nb\tc  d")
	f.Add(strings.Repeat("é", maxText))
	f.Add("\xff\xfe" + strings.Repeat("\xf0\x9f\x98", maxText))
	f.Fuzz(func(t *testing.T, s string) {
		got := oneLine(s)
		if strings.ContainsAny(got,
			"\n\r\v\f\u0085\u2028\u2029") || len(got) > maxText+len("…") || strings.ToValidUTF8(got, "") != got {
			t.Errorf("%q", got)
		}
	})
}
