// Package push sends a page to a receiver of Prometheus' text format at an interval, for places that nobody can scrape.
package push

import (
	"bufio"
	"bytes"
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
	URL         string        // VictoriaMetrics' /api/v1/import/prometheus, a Pushgateway's /metrics/job/JOB, or the like
	Interval    time.Duration // between two pushes
	ExtraLabels string        // added to every sample: foo="bar",cluster="x"
	Headers     http.Header   // sent along; they may be secret and are never logged
	UserAgent   string        // the header of that name, unless Headers has one
	// Page writes what is to be pushed. Where it fails nothing arrives, or a request that breaks off.
	Page func(context.Context, io.Writer) error
	// Done is told how each push ended: ok is that the receiver took the whole page.
	Done func(ok bool)

	extraNames []string // of ExtraLabels
}

const (
	longest   = time.Minute // how long a push may take; its snapshots are kept in memory until then
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
	target := "(invalid URL)"
	if u, err := url.Parse(p.URL); err == nil {
		target = u.Scheme + "://" + u.Host // its user, path and query can hold tokens
	}
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
			slog.Warn(fmt.Sprintf("cannot push to %s: %v; the next push is in %s", target, err, p.Interval))
		case err == nil && failing:
			slog.Info("pushing to " + target + " works again")
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
	if _, err := text.Write([]byte("\n")); err != nil { // the end of a last line that has none
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
	// Not an http.Client, which would follow a redirect with an empty GET, and give the headers to another host.
	response, err := transport.RoundTrip(request)
	switch {
	case err != nil && strings.Contains(err.Error(), "invalid proxy address"): // which it quotes, with its password
		return errors.New("HTTP_PROXY or HTTPS_PROXY is not a valid URL")
	case err != nil:
		return err
	}
	defer response.Body.Close()
	switch to, err := response.Location(); {
	case response.StatusCode/100 == 2:
		return nil
	case response.StatusCode/100 == 3 && err != http.ErrNoLocation:
		host := "another path" // the path itself may repeat a secret of --push.url
		if err == nil && (to.Host != request.URL.Host || to.Scheme != request.URL.Scheme) {
			host = to.Host
		}
		return fmt.Errorf("the receiver answered %s and redirects to %s, which is not followed; "+
			"set --push.url to the final URL", response.Status, host)
	}
	answer, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return fmt.Errorf("the receiver answered %s: %s", response.Status, answer)
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

// lineWriter passes the lines of a page on, as they are to be pushed. It keeps what follows the last line's end.
type lineWriter struct {
	to        io.Writer
	labels    string
	rest, out []byte
}

func (l *lineWriter) Write(text []byte) (int, error) {
	l.rest = append(l.rest, text...)
	end := bytes.LastIndexByte(l.rest, '\n') + 1
	l.out = appendLines(l.out[:0], l.rest[:end], l.labels)
	l.rest = l.rest[:copy(l.rest, l.rest[end:])]
	if _, err := l.to.Write(l.out); err != nil {
		return 0, err
	}
	return len(text), nil
}

// appendLines appends the lines of a page with the labels added to each sample, in the way of VictoriaMetrics' library
// (addExtraLabels in its push.go). The metrics of the process are left out: a Pushgateway shows everything it was sent
// on one page with the metrics of itself, and refuses a push with the names of those.
func appendLines(to, page []byte, labels string) []byte {
	for line := range bytes.Lines(page) {
		line = bytes.TrimSpace(line)
		name := bytes.TrimPrefix(bytes.TrimPrefix(line, []byte("# HELP ")), []byte("# TYPE "))
		if len(line) == 0 || bytes.HasPrefix(name, []byte("go_")) || bytes.HasPrefix(name, []byte("process_")) {
			continue
		}
		brace := bytes.IndexByte(line, '{')
		space := bytes.LastIndexByte(line, ' ')
		switch {
		case line[0] == '#' || labels == "":
			to = append(to, line...)
		case brace >= 0:
			to = fmt.Appendf(to, "%s%s,%s", line[:brace+1], labels, line[brace+1:])
		case space >= 0:
			to = fmt.Appendf(to, "%s{%s}%s", line[:space], labels, line[space:])
		}
		to = append(to, '\n')
	}
	return to
}
