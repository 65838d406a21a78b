package push

import (
	"net/http"
)

const (
	// unsigned stands for a body's hash where that is known only once it is sent; some services take it, such as Amazon's
	// VPC Lattice.
	unsigned   = "UNSIGNED-PAYLOAD"
	hashHeader = "X-Amz-Content-Sha256"
)

// transport is what others are cloned from. It bounds what is read of an answer's header, and asks for no compression.
var transport = func() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true
	t.MaxResponseHeaderBytes = 64 << 10
	return t
}()

// client makes requests. It is not for concurrent use.
type client struct {
	http.RoundTripper
	configured bool                      // by a file
	sign       func(*http.Request) error // nil where requests are not signed
	sent       []string                  // what is secret in the last request, as it was sent
}

// standardClient is that where no file configures it: as curl does, it uses the proxies that the environment names.
func standardClient() *client { return &client{RoundTripper: transport.Clone()} }

// CloseIdleConnections ends the connections that no request uses.
func (c *client) CloseIdleConnections() {
	(&http.Client{Transport: c.RoundTripper}).CloseIdleConnections()
}

// secrets is what is secret in the last request, and in the file.
func (c *client) secrets() []string { return c.sent }
