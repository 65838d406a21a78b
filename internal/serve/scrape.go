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
	gzip, ok := encoding(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	defer context.AfterFunc(stopping, cancel)()
	page, err := current(ctx)
	if err != nil {
		w.Header().Set("Retry-After", "5")
		http.Error(w, missing(), http.StatusServiceUnavailable)
		return
	}
	answer(w, r, contentType, page, gzip)
}

// encoding tells whether an answer is to be compressed. It is false for a client that takes neither form, which is then
// told so.
func encoding(w http.ResponseWriter, r *http.Request) (gzip, ok bool) {
	w.Header().Set("Vary", "Accept-Encoding")
	gzip, identity := page.Accepts(strings.Join(r.Header.Values("Accept-Encoding"), ","))
	if !gzip && !identity {
		http.Error(w, "available encodings: gzip, identity", http.StatusNotAcceptable)
		return false, false
	}
	return gzip, true
}

func answer(w http.ResponseWriter, r *http.Request, contentType string, p *page.Page, gzip bool) {
	write, length := p.WriteText, p.TextLen()
	h := w.Header()
	if gzip {
		write, length = p.WriteGzip, p.GzipLen()
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	if r.Method != http.MethodHead {
		write(w) // a client that has left is no error of this program
	}
}

// Page answers with a page.
func Page(w http.ResponseWriter, r *http.Request, contentType string, p *page.Page) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime))
	if gzip, ok := encoding(w, r); ok {
		answer(w, r, contentType, p, gzip)
	}
}

// Text answers with a text, which is compressed for a client that takes it so.
func Text(w http.ResponseWriter, r *http.Request, contentType string, text []byte) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime))
	gzip, ok := encoding(w, r)
	switch {
	case !ok:
	case gzip:
		c := page.Borrow()
		c.Write(text)
		compressed := c.Part()
		c.Return() // before the client takes its time
		answer(w, r, contentType, page.New(compressed), true)
	default:
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		if r.Method != http.MethodHead {
			w.Write(text)
		}
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
