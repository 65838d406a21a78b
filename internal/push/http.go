package push

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"metrics-server-prom/internal/redact"
)

const maxAnswer = 4 << 10 // bytes of an answer's body that are read at most

// failure is that a receiver has not taken what it was sent.
type failure struct {
	status int           // of its answer; 0 where there was none
	after  time.Duration // how long it asks to wait
	why    string        // in one line, with nothing secret
}

func (f *failure) Error() string { return f.why }

// fail is a failure with a text of others, and the way out.
func (p *Pusher) fail(status int, after time.Duration, why string) *failure {
	return &failure{status, after, p.redact(why) + "; check --push.url, " + p.access() + " and the receiver"}
}

// access names the settings that let the pusher in.
func (p *Pusher) access() string {
	if p.client.file != "" {
		return "--push.header, --push.http-config.file"
	}
	return "--push.header"
}

// withTimeout ends a context with an error for people.
func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("the receiver did not answer within %s", d))
}

const versionHeader = "X-Prometheus-Remote-Write-Version"

// batchBody is the body of a request. The transport may read on after the request has ended, until Close.
type batchBody struct {
	mu    sync.Mutex
	batch []byte
}

func (b *batchBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.batch) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.batch)
	b.batch = b.batch[n:]
	return n, nil
}

func (b *batchBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.batch = nil
	return nil
}

// connection is what requests are made with.
func (p *Pusher) connection() *client {
	if p.client == nil {
		p.client = standardClient()
	}
	return p.client
}

// send makes a request and closes its body. It returns nil once the receiver says that it has taken it.
func (p *Pusher) send(ctx context.Context, method string, header http.Header, body io.ReadCloser) *failure {
	defer body.Close()
	if f := p.rest(ctx); f != nil {
		return f
	}
	c := p.connection()
	request, err := http.NewRequestWithContext(ctx, method, p.URL, body)
	if err != nil {
		return p.fail(0, 0, "--push.url is not a valid URL")
	}
	request.Header.Set("User-Agent", p.UserAgent)
	maps.Copy(request.Header, header)
	b, inMemory := body.(*batchBody)
	if inMemory {
		if request.ContentLength = int64(len(b.batch)); len(b.batch) == 0 {
			request.Body = http.NoBody
		}
	}
	switch {
	case c.sign != nil && inMemory:
		request.Header.Set(hashHeader, fmt.Sprintf("%x", sha256.Sum256(b.batch)))
	case c.sign != nil:
		request.Header.Set(hashHeader, unsigned)
	}
	if user := request.URL.User; user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	maps.Copy(request.Header, p.Headers)
	// Not an http.Client, which would follow a redirect with an empty GET, and give the headers to another host.
	response, err := c.RoundTrip(request)
	switch {
	case ctx.Err() != nil:
		return p.fail(0, 0, context.Cause(ctx).Error())
	case err != nil && strings.Contains(err.Error(), "invalid proxy address"): // which it quotes, with its password
		return p.fail(0, 0, "HTTP_PROXY or HTTPS_PROXY is not a valid URL")
	case err != nil:
		return p.fail(0, 0, err.Error())
	}
	defer response.Body.Close()
	answer := io.LimitReader(response.Body, maxAnswer)
	switch to, err := response.Location(); {
	case response.StatusCode/100 == 2:
		if response.ContentLength > 0 {
			io.Copy(io.Discard, answer) // so that the next request can have the connection
		}
		return nil
	case response.StatusCode/100 == 3 && err != http.ErrNoLocation:
		host := "another path" // the path itself may repeat a secret of --push.url
		if err == nil && (to.Host != request.URL.Host || to.Scheme != request.URL.Scheme) {
			host = to.Host
		}
		return p.fail(response.StatusCode, 0, fmt.Sprintf("the receiver answered %s and redirects to %s, which is not "+
			"followed; set --push.url to the final URL", response.Status, host))
	}
	said, _ := io.ReadAll(answer)
	after := retryAfter(response.Header)
	p.resting = time.Now().Add(after)
	return p.fail(response.StatusCode, after, fmt.Sprintf("the receiver answered %s: %s", response.Status, said))
}

// longestRest is how long a receiver that asks to wait is left alone at most.
const longestRest = 5 * time.Minute

// rest waits as long as the receiver has asked for, maybe at an earlier push. It fails at once where that is longer
// than ctx.
func (p *Pusher) rest(ctx context.Context) *failure {
	wait := time.Until(p.resting)
	if end, ok := ctx.Deadline(); wait > 0 && ok && time.Until(end) <= wait {
		return p.fail(http.StatusTooManyRequests, wait,
			fmt.Sprintf("the receiver has asked not to be sent anything for %s more", wait.Round(time.Second)))
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return p.fail(0, 0, context.Cause(ctx).Error())
	}
}

// retryAfter is how long a receiver asks to wait, in seconds or until a date (RFC 9110, 10.2.3), up to longestRest.
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, longestRest)
	}
	if date, err := http.ParseTime(value); err == nil {
		return min(max(0, time.Until(date)), longestRest)
	}
	return 0
}

// wellKnown are words of receivers' paths, which are no secrets.
var wellKnown = []string{"import", "insert", "instance", "metrics", "prometheus", "push", "receive", "remote_write",
	"workspaces", "write"}

// secrets is what a request holds that is not to be shown.
func (p *Pusher) secrets() (secrets []string) {
	secrets = slices.Concat(headerSecrets(p.Headers), p.connection().secrets())
	if u, err := url.Parse(p.URL); err == nil {
		separator := func(r rune) bool { return strings.ContainsRune("/?&=", r) }
		for _, piece := range strings.FieldsFunc(u.EscapedPath()+"?"+u.RawQuery, separator) {
			unescaped, _ := url.QueryUnescape(piece)
			path, _ := url.PathUnescape(piece)
			secrets = append(secrets, piece, unescaped, path)
		}
		password, _ := u.User.Password()
		basic := base64.StdEncoding.EncodeToString([]byte(u.User.Username() + ":" + password))
		secrets = append(secrets, redact.Credentials(basic)...)
	}
	return slices.DeleteFunc(secrets, func(s string) bool { return slices.Contains(wellKnown, s) })
}

func headerSecrets(h http.Header) (secrets []string) {
	for _, values := range h {
		for _, value := range values {
			secrets = append(append(secrets, value), redact.Credentials(value)...)
		}
	}
	return secrets
}

// redact takes out of a text what a receiver may have repeated of the request, and makes it short and one line.
func (p *Pusher) redact(s string) string { return redact.OneLine(redact.Text(s, p.secrets()), 300) }
