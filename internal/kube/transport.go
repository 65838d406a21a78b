package kube

import (
	"io"
	"net/http"
	"strconv"
	"strings"

	"k8s.io/client-go/rest"
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
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { return &counter{next, report} })
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, &ConfigError{Explain("use the credentials", err).Text}
	}
	return &transport{client}, nil
}

// close drops the connections that are idle; those in use end with their requests.
func (t *transport) close() { t.client.CloseIdleConnections() }

type counter struct {
	next   http.RoundTripper
	report func(resource, verb, code string)
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	resource, verb := classify(r)
	resp, err := c.next.RoundTrip(r)
	if err != nil {
		c.report(resource, verb, "error")
		return nil, err
	}
	c.report(resource, verb, strconv.Itoa(resp.StatusCode))
	if resp.StatusCode >= 300 {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxErrorBody), resp.Body}
	}
	return resp, nil
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
