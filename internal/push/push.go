// Package push sends a page to a receiver of Prometheus' text format at an interval, for places that nobody can scrape.
package push

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// Pusher is what to push and where to.
type Pusher struct {
	// URL is that of VictoriaMetrics' /api/v1/import/prometheus, a Pushgateway's /metrics/job/JOB, or the like.
	URL string
	// Interval is the time between two pushes, and what one may take.
	Interval time.Duration
	// ExtraLabels are added to every sample: foo="bar",cluster="x".
	ExtraLabels string
	// Headers are "Name: value" each. They may be secret and are never logged.
	Headers []string
	// Page writes what is to be pushed. Nothing is pushed where it fails.
	Page func(context.Context, io.Writer) error
	// Done is told how each push ended.
	Done func(worked bool)
}

// ValidURL tells whether a text is a URL that can be pushed to.
func ValidURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

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
			slog.Warn("cannot push to " + p.target() + ": " + p.redact(err.Error()) + "; check --push.url, --push.header and the receiver; it is tried again")
		case err == nil && failing:
			slog.Info("pushing to " + p.target() + " works again")
		}
		failing = err != nil
	}
}

func (p *Pusher) push(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.Interval)
	defer cancel()
	// The library's writer cannot fail, and it pushes what was written even if that was cut off.
	var page bytes.Buffer
	if err := p.Page(ctx, &page); err != nil {
		return fmt.Errorf("there is nothing to push: %w", err)
	}
	text := withoutProcess(page.Bytes())
	err := metrics.PushMetricsExt(ctx, p.URL, func(w io.Writer) { w.Write(text) },
		&metrics.PushOptions{ExtraLabels: p.ExtraLabels, Headers: p.Headers, Method: http.MethodPost})
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.New("the receiver did not answer within the interval")
	}
	return err
}

// withoutProcess takes the metrics of the process out of a page. A Pushgateway shows everything it was sent on one page with
// its own metrics, and refuses a push with the names of those.
func withoutProcess(page []byte) []byte {
	kept := page[:0]
	for line := range bytes.Lines(page) {
		if !bytes.HasPrefix(line, []byte("go_")) && !bytes.HasPrefix(line, []byte("process_")) {
			kept = append(kept, line...)
		}
	}
	return kept
}

// target is the URL without what may be secret in it.
func (p *Pusher) target() string {
	u, err := url.Parse(p.URL)
	if err != nil {
		return "(invalid URL)"
	}
	u.RawQuery = ""
	return u.Redacted()
}

// redact takes out of a receiver's answer what it may have repeated of the request.
func (p *Pusher) redact(s string) string {
	secrets := []string{p.URL}
	if u, err := url.Parse(p.URL); err == nil {
		password, _ := u.User.Password()
		secrets = append(secrets, u.Redacted(), u.RawQuery, password)
	}
	for _, header := range p.Headers {
		_, value, _ := strings.Cut(header, ":")
		value = strings.TrimSpace(value)
		_, credentials, _ := strings.Cut(value, " ") // "Bearer TOKEN"
		secrets = append(secrets, value, credentials)
	}
	for _, secret := range secrets {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, "…")
		}
	}
	if s = strings.Join(strings.Fields(s), " "); len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}
