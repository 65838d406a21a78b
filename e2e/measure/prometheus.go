package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// prometheusBytes is how many bytes a sample takes in the remote write of a real Prometheus, which scrapes the pages
// that are pushed.
func (s *simulated) prometheusBytes(ctx context.Context) (float64, error) {
	progress("remote write of a Prometheus")
	e, _, _, err := s.launch(ctx, exporter.Options{Args: []string{withPages}})
	if err != nil {
		return 0, err
	}
	defer e.Close()
	to, err := newSink()
	if err != nil {
		return 0, err
	}
	defer to.Close()
	config := "global: {scrape_interval: 15s}\n" +
		// Without the families' HELP and TYPE, which it would send once a minute.
		fmt.Sprintf("remote_write: [{url: %q, metadata_config: {send: false}}]\nscrape_configs:\n", to.url)
	paths := []string{"/metrics"}
	s.exporter = e
	if *pagesFlag {
		paths = append(paths, extraPages...)
		if _, err := s.sizes(ctx); err != nil { // waits until they are complete
			return 0, err
		}
	}
	samples := int64(0)
	for _, path := range paths {
		page, err := s.fetch(ctx, path)
		if err != nil {
			return 0, err
		}
		text, err := page.Decompress()
		if err != nil {
			return 0, err
		}
		samples += int64(strings.Count(text, "\n") - strings.Count(text, "\n# "))
		config += fmt.Sprintf("- {job_name: %q, metrics_path: %s, honor_labels: true, static_configs: [{targets: [%q]}]}\n",
			filepath.Base(path), path, strings.TrimPrefix(e.URL, "http://"))
	}
	path, err := controlplane.Tool("prometheus")
	if err != nil {
		return 0, err
	}
	port, err := process.FreePort()
	if err != nil {
		return 0, err
	}
	file := filepath.Join(s.dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return 0, err
	}
	prometheus, err := process.Start(process.Command{Name: "prometheus", Path: path,
		Log: filepath.Join(s.dir, "prometheus.log"), Args: []string{"--config.file=" + file,
			"--storage.tsdb.path=" + filepath.Join(s.dir, "prometheus"),
			fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port)}})
	if err != nil {
		return 0, err
	}
	defer prometheus.Kill()
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("no remote write within five minutes"))
	defer cancel()
	err = prometheus.Await(ctx, func(context.Context) error {
		if err := to.failed.Load(); err != nil {
			return *err
		}
		if n := to.samples.Load(); n < 2*samples {
			return fmt.Errorf("%d samples, not yet two scrapes of %d", n, samples)
		}
		return nil
	})
	return float64(to.bytes.Load()) / float64(max(1, to.samples.Load())), err
}
