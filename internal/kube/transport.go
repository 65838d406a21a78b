package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	clienttransport "k8s.io/client-go/transport"
	"k8s.io/client-go/util/connrotation"
)

const (
	headerTime = 30 * time.Second // until the response header is there: to connect, to agree on TLS, to wait
	bodyTime   = 2 * time.Minute  // for the body after that, except a watch's, which has no end
	maxHeader  = 256 << 10        // bytes of a response header
	// maxErrorBody is how many bytes are read of an answer that is not a success: a metav1.Status with some room.
	// Whoever reads the body of a success bounds that.
	maxErrorBody = 1 << 20
)

var (
	errNoHeader   = errors.New("no answer within " + headerTime.String())
	errUnfinished = errors.New("no complete answer within " + bodyTime.String())
)

// transport is the HTTP client of one cluster. It shares nothing with those of others.
type transport struct {
	client      *http.Client
	connections *connrotation.Dialer
	end         context.CancelFunc // of a plugin that runs
	exec        *plugin            // nil where there is none
}

// newTransport makes the HTTP client for a cluster. Each request that is sent is reported, see Cluster.Report.
func newTransport(config *rest.Config, report func(resource, verb, code string)) (*transport, error) {
	c := rest.CopyConfig(config)
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: headerTime, KeepAlive: 30 * time.Second}).DialContext
	}
	t := &transport{connections: connrotation.NewDialer(dial)}
	c.Dial = t.connections.DialContext
	if c.Proxy == nil {
		// It is client-go's default; that it is set keeps the transport out of client-go's cache for the whole process.
		c.Proxy = http.ProxyFromEnvironment
	}
	nobody := c.BearerToken == "" && c.BearerTokenFile == "" && c.Username == "" &&
		c.CertFile == "" && len(c.CertData) == 0
	r := &requests{report: report, proxy: c.Proxy, refused: func() {}, anonymous: nobody && c.ExecProvider == nil}
	c.Wrap(func(next http.RoundTripper) http.RoundTripper {
		limit(next)
		r.next = next
		return r
	})
	if c.CertFile != "" {
		// A connection goes on with the certificate that it began with. client-go looks for a new one every five
		// minutes.
		r.refused = t.disconnect
	}
	if c.BearerTokenFile != "" {
		// client-go's own way would go on with a token that is refused for up to a minute, however new the file is.
		source := clienttransport.NewCachedFileTokenSource(c.BearerTokenFile)
		if _, err := source.Token(); err != nil {
			return nil, misconfigured("cannot use the token file: %s; correct it, or tokenFile in the kubeconfig", err)
		}
		c.BearerToken, c.BearerTokenFile = "", ""
		c.Wrap(clienttransport.ResettableTokenSourceWrapTransport(source))
	}
	var certificate *clienttransport.GetCertHolder
	life, end := context.WithCancel(context.Background())
	t.end = end
	if nobody && c.ExecProvider != nil {
		p, err := newPlugin(life, config, t.disconnect)
		if err != nil {
			return nil, misconfigured("cannot use the kubeconfig's exec plugin: %s; correct it there", err)
		}
		t.exec, certificate = p, &clienttransport.GetCertHolder{GetCert: p.clientCertificate}
		c.Wrap(func(next http.RoundTripper) http.RoundTripper { p.below = next; return p })
	}
	c.ExecProvider = nil
	tc, err := c.TransportConfig()
	if err == nil {
		tc.TLS.GetCertHolder = certificate
		t.client = &http.Client{}
		t.client.Transport, err = clienttransport.New(tc)
	}
	if err != nil {
		return nil, misconfigured("cannot use the credentials and certificates: %s; correct them in the kubeconfig", err)
	}
	// client-go authorizes every request, and so the one to another server that a redirect leads to.
	t.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	sent.begin(1)
	return t, nil
}

// windowOfMany is how many bytes of a body a server may send ahead of the one who reads it, where there are several
// clusters: all begin together, and what is not read yet is in memory. It is net/http's 4 MiB otherwise.
const windowOfMany = 256 << 10

// oneOfMany has a client wait with little in memory.
func (t *transport) oneOfMany() {
	if h := innermost(t.client.Transport); h != nil {
		h.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: windowOfMany}
	}
}

// innermost is the transport that sends requests; nil where that is another one.
func innermost(rt http.RoundTripper) *http.Transport {
	for w, ok := rt.(utilnet.RoundTripperWrapper); ok; w, ok = rt.(utilnet.RoundTripperWrapper) {
		rt = w.WrappedRoundTripper()
	}
	t, _ := rt.(*http.Transport)
	return t
}

// limit bounds the headers of answers, and tells of proxies that do not connect.
func limit(rt http.RoundTripper) {
	t := innermost(rt)
	if t == nil {
		return
	}
	t.MaxResponseHeaderBytes = maxHeader
	t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		return &net.OpError{Op: "proxyconnect", Net: "tcp", Err: errors.New("it answers CONNECT with " + resp.Status)}
	}
}

// close ends an exec plugin that runs and closes all connections.
func (t *transport) close() {
	t.end()
	t.disconnect()
	sent.begin(-1)
}

// disconnect closes all connections, those in use as well.
func (t *transport) disconnect() {
	// The idle ones are forgotten first, so that no request is sent on one that is closed below it. The client's own
	// method ends at the first wrapper.
	utilnet.CloseIdleConnectionsFor(t.client.Transport)
	t.connections.CloseAll()
}

// requests is what all requests of a cluster pass through last: they are counted and bounded here.
type requests struct {
	next      http.RoundTripper
	report    func(resource, verb, code string) // as Cluster.Report
	proxy     func(*http.Request) (*url.URL, error)
	refused   func() // called after the answer to a request whose credentials were refused
	anonymous bool   // no credentials are configured
}

func (c *requests) RoundTrip(r *http.Request) (*http.Response, error) {
	resource, verb := classify(r)
	sent.keep(r.Header.Get("Authorization"))
	ctx, cancel := context.WithCancelCause(r.Context())
	late := time.AfterFunc(headerTime, func() { cancel(errNoHeader) })
	resp, err := c.next.RoundTrip(r.WithContext(ctx))
	if !late.Stop() && err == nil {
		resp.Body.Close()
		err = errNoHeader
	}
	if err != nil {
		c.report(resource, verb, "error")
		if context.Cause(ctx) == errNoHeader {
			err = errNoHeader
		}
		cancel(nil)
		op, _ := errors.AsType[*net.OpError](err)
		proxy, _ := c.proxy(r)
		if proxy != nil && (err == errNoHeader || op != nil && op.Op == "proxyconnect") {
			err = &fault{Network, fmt.Errorf("the way to the server is through the proxy %s: %w", proxy.Host, err),
				"check that proxy, and proxy-url in the kubeconfig or the environment's HTTPS_PROXY and NO_PROXY"}
		}
		return nil, err
	}
	c.report(resource, verb, strconv.Itoa(resp.StatusCode))
	if resp.StatusCode == http.StatusUnauthorized && c.anonymous {
		resp.Body.Close()
		cancel(nil)
		return nil, &Failure{Reason: Unauthorized,
			Text: fmt.Sprintf("cannot %s %s: 401 Unauthorized; %s", verb, resource, noCredentials)}
	}
	if verb != "watch" {
		late = time.AfterFunc(bodyTime, func() { cancel(errUnfinished) })
	}
	body := resp.Body
	bounded := &boundedBody{body, ctx, func() error {
		late.Stop()
		err := body.Close()
		cancel(nil)
		if resp.StatusCode == http.StatusUnauthorized {
			c.refused()
		}
		return err
	}}
	if resp.StatusCode >= 300 {
		bounded.Reader = io.LimitReader(body, maxErrorBody)
	}
	resp.Body = bounded
	return resp, nil
}

// WrappedRoundTripper lets client-go find the transport below, for its idle connections.
func (c *requests) WrappedRoundTripper() http.RoundTripper { return c.next }

// boundedBody is the body of an answer.
type boundedBody struct {
	io.Reader
	ctx   context.Context // whose end ends the body
	close func() error
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF && context.Cause(b.ctx) == errUnfinished {
		err = errUnfinished
	}
	return n, err
}

func (b *boundedBody) Close() error { return b.close() }

// resourcePath is the path of a resource: the API group, empty for core, the resource, and the name of one object. A
// base path of the server (a proxy's) may stand before it.
var resourcePath = regexp.MustCompile(`/api(?:/v1|s/([^/]+)/[^/]+)(?:/namespaces/[^/]+)?/([^/]+)(?:/([^/]+))?`)

// classify reads resource and verb off a request's URL.
func classify(r *http.Request) (resource, verb string) {
	verb = "list"
	if part := resourcePath.FindStringSubmatch(r.URL.Path); part != nil {
		if resource = part[2]; part[1] != "" {
			resource += "." + part[1]
		}
		if part[3] != "" {
			verb = "get"
		}
	}
	if watch := r.URL.Query().Get("watch"); watch == "true" || watch == "1" {
		verb = "watch"
	}
	return resource, verb
}
