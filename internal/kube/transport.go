package kube

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	clienttransport "k8s.io/client-go/transport"
	"k8s.io/client-go/util/connrotation"
)

// maxErrorBody bounds what is read of an answer that is not a success: a metav1.Status with some room.
const maxErrorBody = 1 << 20

// transport is the HTTP client of one cluster. Every request is reported with the resource (as kubectl names it:
// "pods", "pods.metrics.k8s.io"), the verb (list, watch, get) and the HTTP status code, or "error" where there was none.
type transport struct {
	client *http.Client
}

func newTransport(config *rest.Config, report func(resource, verb, code string)) (*transport, error) {
	c := rest.CopyConfig(config)
	refused := func() {}
	if c.CertFile != "" && c.Dial == nil {
		// A connection goes on with the certificate that it began with. client-go looks for a new one every five minutes.
		connections := connrotation.NewDialer((&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext)
		c.Dial, refused = connections.DialContext, connections.CloseAll
	}
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { return &counter{next, report, refused} })
	if c.BearerTokenFile != "" {
		// client-go's own way would go on with a token that is refused for up to a minute, however new the file is.
		source := clienttransport.NewCachedFileTokenSource(c.BearerTokenFile)
		if _, err := source.Token(); err != nil {
			return nil, &ConfigError{Explain("use the credentials", err).Text}
		}
		c.BearerToken, c.BearerTokenFile = "", ""
		c.Wrap(clienttransport.ResettableTokenSourceWrapTransport(source))
	}
	// An exec plugin gets the os.Stderr of this moment for all its runs. What it prints there goes past every care for
	// secrets that there is in the log.
	if nowhere, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0); err == nil {
		stderr := os.Stderr
		os.Stderr = nowhere
		defer func() { os.Stderr = stderr }()
	}
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, &ConfigError{Explain("use the credentials", err).Text}
	}
	client.Transport = pluginErrors{client.Transport}
	// client-go authorizes every request, and so the one to another server that a redirect leads to.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &transport{client}, nil
}

// pluginErrors takes out of an exec plugin's error what it has printed: it is meant to print a token.
type pluginErrors struct{ http.RoundTripper }

func (p pluginErrors) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.RoundTripper.RoundTrip(r)
	if err != nil {
		const printed = "getting credentials: decoding stdout: "
		if before, _, found := strings.Cut(err.Error(), printed); found {
			err = errors.New(before + printed + "it is not an ExecCredential")
		}
	}
	return resp, err
}

// WrappedRoundTripper lets the transport below be found, for its idle connections.
func (p pluginErrors) WrappedRoundTripper() http.RoundTripper { return p.RoundTripper }

// close drops the connections that are idle; those in use end with their requests.
//
// The client's own method ends at the first wrapper, as that of a bearer token is one.
func (t *transport) close() { utilnet.CloseIdleConnectionsFor(t.client.Transport) }

type counter struct {
	next    http.RoundTripper
	report  func(resource, verb, code string)
	refused func() // called after the answer to a request whose credentials were refused
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	resource, verb := classify(r)
	sent.keep(r.Header.Get("Authorization"))
	resp, err := c.next.RoundTrip(r)
	if err != nil {
		c.report(resource, verb, "error")
		return nil, err
	}
	c.report(resource, verb, strconv.Itoa(resp.StatusCode))
	if resp.StatusCode >= 300 {
		body := failureBody{io.LimitReader(resp.Body, maxErrorBody), resp.Body, func() {}}
		if resp.StatusCode == http.StatusUnauthorized {
			body.closed = c.refused
		}
		resp.Body = body
	}
	return resp, nil
}

// failureBody is the beginning of an answer that is not a success.
type failureBody struct {
	io.Reader
	body   io.Closer
	closed func()
}

func (b failureBody) Close() error {
	defer b.closed()
	return b.body.Close()
}

// WrappedRoundTripper lets client-go find the transport below, for its idle connections.
func (c *counter) WrappedRoundTripper() http.RoundTripper { return c.next }

// classify reads resource and verb off a request's URL, whose forms are
// /api/v1[/namespaces/NS]/RESOURCE[/NAME] and /apis/GROUP/VERSION[/namespaces/NS]/RESOURCE[/NAME]. A base path of the
// server (a proxy's) may stand before it.
func classify(r *http.Request) (resource, verb string) {
	verb = "list"
	path := strings.Split(r.URL.Path, "/")
	for i, part := range path {
		group := ""
		rest := path[i:]
		switch {
		case part == "api" && len(rest) > 2 && rest[1] == "v1":
			rest = rest[2:]
		case part == "apis" && len(rest) > 3:
			group, rest = "."+rest[1], rest[3:]
		default:
			continue
		}
		if len(rest) > 2 && rest[0] == "namespaces" {
			rest = rest[2:]
		}
		resource = rest[0] + group
		if len(rest) > 1 {
			verb = "get"
		}
		break
	}
	if r.URL.Query().Get("watch") == "true" || r.URL.Query().Get("watch") == "1" {
		verb = "watch"
	}
	return resource, verb
}
