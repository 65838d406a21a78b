// Package serve is an HTTP server of read-only pages, as Kubernetes, Knative and Cloud Run expect it: bounded in all
// that a client may make it hold, and ended without cutting off an answer.
package serve

import (
	"context"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
)

const (
	// drain is how long connections are still taken after a signal, so that those who watch readiness see it go.
	drain = time.Second
	// finish is how long running requests have after that.
	finish = 3 * time.Second
)

// Run answers on the listener until ctx ends, then calls stopping, and returns when the running requests are answered.
// webConfig is a configuration file of the Prometheus exporter-toolkit, or "".
func Run(ctx context.Context, listener net.Listener, handler http.Handler, webConfig string, stopping func()) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       15 * time.Second,
		IdleTimeout:       5 * time.Minute, // longer than any usual scrape interval
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug), // what clients do wrong
		Protocols:         &http.Protocols{},

		// OPTIONS * is a request like any other, and answered with the header that all answers have.
		DisableGeneralOptionsHandler: true,
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true) // Cloud Run's end-to-end HTTP/2
	failed := make(chan error, 1)
	go func() {
		failed <- web.Serve(listener, server, &web.FlagConfig{WebConfigFile: &webConfig}, slog.Default())
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	slog.Info("stopping")
	stopping()
	time.Sleep(drain)
	end, cancel := context.WithTimeout(context.Background(), finish)
	defer cancel()
	if server.Shutdown(end) != nil {
		server.Close()
	}
	return nil
}

// Pages answers GET and HEAD of the pages by their paths, and POST of the actions by theirs.
func Pages(pages, actions map[string]http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Type", "text/plain; charset=utf-8")
		switch page, action := pages[r.URL.Path], actions[r.URL.Path]; {
		case action != nil && r.Method == http.MethodPost:
			action(w, r)
		case action != nil:
			h.Set("Allow", "POST")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		case page == nil:
			http.NotFound(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		default:
			page(w, r)
		}
	})
}

// Health writes the original tool's page: ok, or failed with status 503, and below it what fails and what is to be
// noticed.
func Health(w http.ResponseWriter, now func() (failures, notices []string)) {
	failures, notices := now()
	state := "ok"
	if len(failures) > 0 {
		state = "failed"
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if len(failures)+len(notices) > 0 {
		state += "\n" + strings.Join(append(failures, notices...), "\n") + "\n"
	}
	io.WriteString(w, state)
}

// Landing writes a page for people: a name, a line below it, links, and a state of several lines.
func Landing(w http.ResponseWriter, name, line string, links []string, state string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	var anchors strings.Builder
	for _, link := range links {
		fmt.Fprintf(&anchors, "<a href=\"%s\">%[1]s</a>\n", html.EscapeString(link))
	}
	fmt.Fprintf(w, `<!DOCTYPE html>
<html lang="en">
<head><title>%s</title></head>
<body>
<h1>%[1]s</h1>
<p>%s</p>
<p>%s</p>
<pre>%s</pre>
</body>
</html>
`, html.EscapeString(name), html.EscapeString(line), anchors.String(), html.EscapeString(state))
}
