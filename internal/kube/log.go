package kube

import (
	"io"
	"log/slog"
	"slices"
	"sync"

	"k8s.io/klog/v2"

	"metrics-server-prom/internal/redact"
)

// SetLog has everything logged to w, without the credentials of requests. client-go's own log, which has every attempt,
// is for debugging only: what matters of it is reported as a Failure, once per change of state and with the way out.
func SetLog(w io.Writer, level slog.Level, json bool) {
	handler := func(o slog.HandlerOptions) slog.Handler {
		if json {
			return slog.NewJSONHandler(withoutCredentials{w}, &o)
		}
		return slog.NewTextHandler(withoutCredentials{w}, &o)
	}
	slog.SetDefault(slog.New(handler(slog.HandlerOptions{Level: level})))
	clientGo := slog.DiscardHandler
	if level <= slog.LevelDebug {
		clientGo = handler(slog.HandlerOptions{Level: slog.LevelDebug, // what is below has whole bodies in it
			ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
				if len(groups) == 0 && a.Key == slog.LevelKey {
					a.Value = slog.AnyValue(slog.LevelDebug)
				}
				return a
			}})
	}
	klog.SetSlogLogger(slog.New(clientGo).With("from", "client-go"))
}

// withoutCredentials writes whole log lines without the credentials of requests.
type withoutCredentials struct{ io.Writer }

func (w withoutCredentials) Write(line []byte) (int, error) {
	_, err := io.WriteString(w.Writer, sent.without(string(line)))
	return len(line), err
}

// sent are the credentials that requests were last made with. Servers, and proxies before them, repeat these in what
// they answer, and their answers are shown.
var sent authorizations

type authorizations struct {
	mu   sync.Mutex
	last []string // values of the header Authorization, the last one last
}

// mostSent is how many different credentials are remembered. A token is replaced by its successor, but not everywhere
// at once.
const mostSent = 4

// keep remembers a value of the header Authorization.
func (c *authorizations) keep(authorization string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if authorization != "" && !slices.Contains(c.last, authorization) {
		c.last = append(c.last, authorization)
		c.last = c.last[max(0, len(c.last)-mostSent):]
	}
}

// without is the text without any of the credentials, or the beginning of one.
func (c *authorizations) without(text string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var secrets []string
	for _, authorization := range c.last {
		secrets = append(secrets, redact.Credentials(authorization)...)
	}
	return redact.Text(text, secrets)
}
