package kube

import (
	"encoding/base64"
	"io"
	"slices"
	"strings"
	"sync"

	"metrics-server-prom/internal/redact"
)

// sent are the credentials that requests were last made with. Servers, and proxies before them, repeat these in what
// they answer, and their answers are shown.
var sent credentials

type credentials struct {
	mu   sync.RWMutex
	last []string // values of the header Authorization, the last one last
	hide []string // what is hidden for these
}

// mostSent is how many different credentials are remembered. A token is replaced by its successor, but not everywhere
// at once.
const mostSent = 4

// keep remembers a value of the header Authorization.
func (c *credentials) keep(authorization string) {
	c.mu.RLock()
	known := authorization == "" || slices.Contains(c.last, authorization)
	c.mu.RUnlock()
	if known {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last = append(c.last, authorization); len(c.last) > mostSent {
		c.last = slices.Delete(c.last, 0, 1)
	}
	c.hide = nil
	for _, authorization := range c.last {
		_, token, _ := strings.Cut(authorization, " ")
		c.hide = append(c.hide, token)
		if decoded, err := base64.StdEncoding.DecodeString(token); err == nil {
			if _, password, basic := strings.Cut(string(decoded), ":"); basic {
				c.hide = append(c.hide, password)
			}
		}
	}
}

// without is the text without any of the credentials, or the beginning of one.
func (c *credentials) without(text string) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return redact.Text(text, c.hide)
}

// WithoutCredentials is a writer of whole log lines that takes the credentials of requests out of them.
func WithoutCredentials(w io.Writer) io.Writer { return withoutCredentials{w} }

type withoutCredentials struct{ io.Writer }

func (w withoutCredentials) Write(line []byte) (int, error) {
	if _, err := io.WriteString(w.Writer, sent.without(string(line))); err != nil {
		return 0, err
	}
	return len(line), nil
}
