package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// prometheus is a running Prometheus.
type prometheus struct{ url string }

// startPrometheus starts a real Prometheus that scrapes the exporter once a second, with honor_labels as the README
// says, and returns when it is ready.
func startPrometheus(t *testing.T, e *exporter.Exporter) prometheus {
	t.Helper()
	path := must(controlplane.Tool("prometheus"))(t)
	port := must(process.FreePort())(t)
	dir := t.TempDir()
	config := fmt.Sprintf(`
global: {scrape_interval: 1s}
scrape_configs:
- job_name: metrics-server-prom
  honor_labels: true
  static_configs: [{targets: [%q]}]
`, strings.TrimPrefix(e.URL, "http://"))
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	p := must(process.Start(process.Command{
		Name: "prometheus",
		Path: path,
		Args: []string{
			"--config.file=" + filepath.Join(dir, "prometheus.yml"),
			"--storage.tsdb.path=" + filepath.Join(dir, "data"),
			"--web.listen-address=" + address,
		},
		Env: []string{"PATH=" + os.Getenv("PATH")},
		Log: filepath.Join(dir, "log"),
	}))(t)
	t.Cleanup(p.Kill)
	server := prometheus{"http://" + address}
	if err := p.Await(within(t, 30*time.Second), func(ctx context.Context) error {
		_, err := body(ctx, server.url+"/-/ready")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return server
}

// query is the present value of each series of an instant query, by its text as on the exporter's page: Prometheus' own
// labels job and instance are left out.
func (p prometheus) query(ctx context.Context, query string) (map[string]float64, error) {
	text, err := body(ctx, p.url+"/api/v1/query?query="+url.QueryEscape(query))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any // seconds, the value's text
			}
		}
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, err
	}
	values := map[string]float64{}
	for _, result := range answer.Data.Result {
		text, ok := result.Value[1].(string)
		if !ok {
			return nil, fmt.Errorf("no value in %v", result)
		}
		if values[series(result.Metric)], err = strconv.ParseFloat(text, 64); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// series is the text of a series with the exporter's order of labels.
func series(labels map[string]string) string {
	var pairs []string
	for _, name := range []string{"node", "pod", "ip", "container", "namespace"} {
		if value, ok := labels[name]; ok {
			pairs = append(pairs, fmt.Sprintf("%s=%q", name, value))
		}
	}
	return labels["__name__"] + "{" + strings.Join(pairs, ",") + "}"
}
