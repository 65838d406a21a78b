package kube

import (
	"io"
	"slices"
	"sync"

	"metrics-server-prom/internal/redact"
)

// sent are the credentials that requests were last made with. Servers, and proxies before them, repeat these in what
// they answer, and their answers are shown.
var sent credentials

type credentials struct {
	mu   sync.Mutex
	last []string // values of the header Authorization, the last one last
}

// mostSent is how many different credentials are remembered. A token is replaced by its successor, but not everywhere
// at once.
const mostSent = 4

// keep remembers a value of the header Authorization.
func (c *credentials) keep(authorization string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if authorization != "" && !slices.Contains(c.last, authorization) {
		c.last = append(c.last, authorization)
		c.last = c.last[max(0, len(c.last)-mostSent):]
	}
}

// without is the text without any of the credentials, or the beginning of one.
func (c *credentials) without(text string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var secrets []string
	for _, authorization := range c.last {
		secrets = append(secrets, redact.Credentials(authorization)...)
	}
	return redact.Text(text, secrets)
}

// WithoutCredentials is a writer of whole log lines that takes the credentials of requests out of them.
func WithoutCredentials(w io.Writer) io.Writer { return withoutCredentials{w} }

type withoutCredentials struct{ io.Writer }

func (w withoutCredentials) Write(line []byte) (int, error) {
	_, err := io.WriteString(w.Writer, sent.without(string(line)))
	return len(line), err
}
