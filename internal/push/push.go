// Package push sends a page to a receiver of Prometheus' text format at an interval, for places that nobody can scrape.
package push

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"metrics-server-prom/internal/redact"
)

// Pusher is what to push and where to.
type Pusher struct {
	// URL is that of VictoriaMetrics' /api/v1/import/prometheus, a Pushgateway's /metrics/job/JOB, or the like.
	URL string
	// Interval is the time between two pushes.
	Interval time.Duration
	// ExtraLabels are added to every sample: foo="bar",cluster="x".
	ExtraLabels string
	// Headers are sent along. They may be secret and are never logged.
	Headers http.Header
	// UserAgent is the header of that name, unless Headers has one.
	UserAgent string
	// Page writes what is to be pushed. Where it fails nothing arrives, or a request that breaks off.
	Page func(context.Context, io.Writer) error
	// Done is told how each push ended: ok is that the receiver took the whole page.
	Done func(ok bool)

	extraNames []string // of ExtraLabels
}

const (
	longest   = time.Minute // how long a push may take; a page is kept in memory until then
	maxHeader = 64 << 10    // bytes of an answer's header that are read at most
	maxAnswer = 4 << 10     // bytes of a refusal's body that are read at most
)

// transport makes a connection for each push: one that was idle in between can be dead without a sign, and a page that
// is written as it is sent cannot be sent again. It follows no redirect.
var transport = func() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true
	t.DisableCompression = true // of answers
	t.MaxResponseHeaderBytes = maxHeader
	return t
}()

// Run pushes until ctx ends. A receiver that fails is logged when it begins to and when it ends to.
func (p *Pusher) Run(ctx context.Context) {
	tick := time.NewTicker(p.Interval)
	defer tick.Stop()
	p.run(ctx, tick.C)
}

// run pushes once for each tick.
func (p *Pusher) run(ctx context.Context, tick <-chan time.Time) {
	failing := false
	for {
		select {
		case <-tick:
		case <-ctx.Done():
			return
		}
		err := p.push(ctx)
		if ctx.Err() != nil {
			return
		}
		p.Done(err == nil)
		switch {
		case err != nil && !failing:
			slog.Warn(fmt.Sprintf("cannot push to %s: %v; the next push is in %s", p.target(), err, p.Interval))
		case err == nil && failing:
			slog.Info("pushing to " + p.target() + " works again")
		}
		failing = err != nil
	}
}

// push sends the page as it is written, so that memory does not depend on its size.
func (p *Pusher) push(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, min(p.Interval, longest))
	defer cancel()
	pipe, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := p.write(ctx, w)
		w.CloseWithError(err) // nil makes it an io.EOF
		written <- err
	}()
	// A page that fails at its beginning is not worth a request.
	const beginning = 64 << 10
	page := bufio.NewReaderSize(pipe, beginning)
	if _, err := page.Peek(beginning); err != nil && err != io.EOF {
		if ctx.Err() != nil {
			err = errors.New("no data yet, see /healthz")
		}
		return fmt.Errorf("there is no page to push: %w", err)
	}
	err := p.post(ctx, struct {
		io.Reader
		io.Closer
	}{page, pipe})
	pipe.Close()
	broken := <-written
	switch {
	case err == nil && broken == nil:
		return nil
	case broken != nil && !errors.Is(broken, io.ErrClosedPipe) && ctx.Err() == nil:
		return fmt.Errorf("the page broke off: %w", broken)
	case err == nil:
		err = errors.New("the receiver answered before it had the whole page")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("the receiver did not answer within %s", min(p.Interval, longest))
	}
	return errors.New(p.redact(err.Error()) + "; check --push.url, --push.header and the receiver")
}

// write writes the page as gzip. Only a whole page gets gzip's end, so that nobody takes half of one for it.
func (p *Pusher) write(ctx context.Context, w io.Writer) error {
	compressed, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	text := &lineWriter{to: compressed, labels: p.ExtraLabels}
	if err := p.Page(ctx, text); err != nil {
		return err
	}
	if err := text.end(); err != nil {
		return err
	}
	return compressed.Close()
}

// post returns nil once the receiver says that it has taken the samples.
func (p *Pusher) post(ctx context.Context, page io.ReadCloser) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL, page)
	if err != nil {
		return errors.New("--push.url is not a valid URL")
	}
	request.Header.Set("Content-Type", "text/plain")
	request.Header.Set("User-Agent", p.UserAgent)
	if user := request.URL.User; user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	for name, values := range p.Headers {
		request.Header[name] = values
	}
	request.Header.Set("Content-Encoding", "gzip")
	// Not an http.Client, which would follow a redirect: a POST becomes an empty GET, and the headers get to another
	// host.
	response, err := transport.RoundTrip(request)
	if err != nil && strings.Contains(err.Error(), "invalid proxy address") { // which it quotes, with its password
		return errors.New("HTTP_PROXY or HTTPS_PROXY is not a valid URL")
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode/100 == 2 {
		return nil
	}
	if location := response.Header.Get("Location"); response.StatusCode/100 == 3 && location != "" {
		host := "another path" // the path itself may repeat a secret of --push.url
		if to, err := url.Parse(location); err == nil && to.Host != "" {
			host = to.Host
		}
		return fmt.Errorf("the receiver answered %s and redirects to %s, which is not followed; "+
			"set --push.url to the final URL", response.Status, host)
	}
	answer, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return fmt.Errorf("the receiver answered %s: %s", response.Status, answer)
}

// target is what a log may say of the URL: its user, path and query can hold tokens.
func (p *Pusher) target() string {
	u, err := url.Parse(p.URL)
	if err != nil {
		return "(invalid URL)"
	}
	return u.Scheme + "://" + u.Host
}

// wellKnown are words of receivers' paths, which are no secrets.
var wellKnown = []string{"import", "insert", "instance", "metrics", "prometheus", "push", "write"}

// secrets is what a request holds that is not to be shown.
func (p *Pusher) secrets() (secrets []string) {
	for _, values := range p.Headers {
		for _, value := range values {
			secrets = append(append(secrets, value), redact.Credentials(value)...)
		}
	}
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

// redact takes out of a text what a receiver may have repeated of the request, and makes it short and one line.
func (p *Pusher) redact(s string) string { return redact.OneLine(redact.Text(s, p.secrets()), 300) }
