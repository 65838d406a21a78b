package kube

import (
	"io"
	"log/slog"
	"slices"
	"sync"

	"k8s.io/klog/v2"

	"metrics-server-prom/internal/redact"
	"metrics-server-prom/internal/setting"
)

// Log is how to log.
type Log struct {
	Level  slog.Level
	Format string // text or json
}

// Rows is its part of the table of settings.
func (l *Log) Rows() []setting.Row {
	return []setting.Row{
		{Flag: "log.level", Env: "LOG_LEVEL", Default: "info", Set: setting.LogLevel(&l.Level),
			Help: "debug, info, warn or error"},
		{Flag: "log.format", Env: "LOG_FORMAT", Default: "text", Set: setting.OneOf(&l.Format, "text", "json"),
			Help: "text or json"},
	}
}

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
	mu      sync.Mutex
	senders int      // clusters
	last    []string // values of the header Authorization, the last one last
}

// mostSent is how many different credentials are remembered of each cluster. A token is replaced by its successor, but
// not everywhere at once.
const mostSent = 4

// begin says that there is another cluster, or one less.
func (c *authorizations) begin(clusters int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.senders += clusters
}

// keep remembers a value of the header Authorization.
func (c *authorizations) keep(authorization string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if authorization == "" {
		return
	}
	if i := slices.Index(c.last, authorization); i >= 0 {
		c.last = slices.Delete(c.last, i, i+1)
	}
	c.last = append(c.last, authorization)
	c.last = c.last[max(0, len(c.last)-mostSent*max(1, c.senders)):]
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
