package serve

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"metrics-server-prom/internal/page"
)

// contentType is the text exposition format, version 0.0.4:
// https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// answerTime is how long a client may take to read an answer.
const answerTime = 30 * time.Second

// Scrape answers with the page that current returns, which may wait for it as long as the scraper does and until
// stopping is done. Where it fails, the answer is 503 with what missing says.
func Scrape(w http.ResponseWriter, r *http.Request, stopping context.Context,
	current func(context.Context) (*page.Page, error), missing func() string) {
	wait := Patience(r.Header)
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + answerTime))
	h := w.Header()
	h.Set("Vary", "Accept-Encoding")
	gzip, identity := page.Accepts(strings.Join(r.Header.Values("Accept-Encoding"), ","))
	if !gzip && !identity {
		http.Error(w, "available encodings: gzip, identity", http.StatusNotAcceptable)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	defer context.AfterFunc(stopping, cancel)()
	page, err := current(ctx)
	if err != nil {
		h.Set("Retry-After", "5")
		http.Error(w, missing(), http.StatusServiceUnavailable)
		return
	}
	write, length := page.WriteText, page.TextLen()
	if gzip {
		write, length = page.WriteGzip, page.GzipLen()
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	if r.Method != http.MethodHead {
		write(w) // a scraper that has left is no error of this program
	}
}

// Patience is how long a scrape may wait for data: the scraper's own timeout, as Prometheus sends it, less a margin for
// the answer.
func Patience(h http.Header) time.Duration {
	const most, margin = 2 * time.Minute, 500 * time.Millisecond
	seconds, err := strconv.ParseFloat(h.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64)
	if err != nil || !(seconds > 0) {
		return 10 * time.Second
	}
	timeout := time.Duration(min(seconds, most.Seconds()) * float64(time.Second))
	return max(timeout-margin, timeout/2)
}
