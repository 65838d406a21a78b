// Command screenshot makes the README's picture of the page for people: the exporter shows the demo's simulated cluster
// to Chromium.
//
//	go -C e2e run ./screenshot                      # waits until the page has 15 minutes of history
//	go -C e2e run ./screenshot -history 1m -out /tmp/top.png
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/browser"
	"metrics-server-prom/e2e/exporter"
)

func main() {
	out := flag.String("out", filepath.Join("..", "example", "top.png"), "file to write")
	history := flag.Duration("history", 15*time.Minute, "how much history to wait for")
	query := flag.String("query", "?level=workloads", "query of the view")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	picture, err := take(ctx, *query, *history)
	if err == nil {
		err = os.WriteFile(*out, picture, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "screenshot:", err)
		os.Exit(1)
	}
}

// take is a picture of a view of the page, once that has so much history.
func take(ctx context.Context, query string, history time.Duration) ([]byte, error) {
	server, err := standin.New(standin.Options{Nodes: 3, Pods: 40, Seed: 1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	defer server.Close()
	dir, err := os.MkdirTemp("", "metrics-server-prom-screenshot-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	kubeconfig, err := server.Kubeconfig()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(path, kubeconfig, 0o600); err != nil {
		return nil, err
	}
	e, err := exporter.Start(ctx, exporter.Options{Args: []string{"--kubeconfig=" + path}})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	if err := e.AwaitReady(ctx); err != nil {
		return nil, err
	}
	chromium, err := browser.StartChromium()
	if err != nil {
		return nil, err
	}
	defer chromium.Close()
	tab, err := chromium.Open(1280, 800)
	if err != nil {
		return nil, err
	}
	if err := tab.Go(e.URL + "/" + query); err != nil {
		return nil, err
	}
	select {
	case <-time.After(history):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := tab.Await(limit, `document.querySelector("#state").className === "ok" &&
		document.querySelectorAll("#rows path[d*=L]").length > 0`); err != nil {
		return nil, err
	}
	return tab.Screenshot()
}
