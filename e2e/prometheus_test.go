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

// scrapeJob is a scrape configuration for one of the exporter's pages, once a second, with honor_labels as the README
// says.
func scrapeJob(name string, e *exporter.Exporter, path string) string {
	return fmt.Sprintf(`
- job_name: %s
  honor_labels: true
  metrics_path: %s
  static_configs: [{targets: [%q]}]
`, name, path, strings.TrimPrefix(e.URL, "http://"))
}

// startPrometheus starts a real Prometheus with these scrape configurations and files of rules, and returns when it is
// ready.
func startPrometheus(t *testing.T, scrapeConfigs string, rules ...string) prometheus {
	t.Helper()
	path := must(controlplane.Tool("prometheus"))(t)
	port := must(process.FreePort())(t)
	dir := t.TempDir()
	config := "global: {scrape_interval: 1s, evaluation_interval: 1s}\nscrape_configs:" + scrapeConfigs
	if len(rules) > 0 {
		config += "rule_files:\n"
	}
	for _, file := range rules {
		config += "- " + must(filepath.Abs(file))(t) + "\n"
	}
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

// result is a series that an expression gives.
type result struct {
	Metric map[string]string
	Value  [2]any // seconds, the value's text
}

// evaluate is what an expression gives at present. What Prometheus warns of is an error too.
func (p prometheus) evaluate(ctx context.Context, query string) ([]result, error) {
	text, err := body(ctx, p.url+"/api/v1/query?query="+url.QueryEscape(query))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data     struct{ Result []result }
		Warnings []string
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("%s: %w", query, err)
	}
	if len(answer.Warnings) > 0 {
		return nil, fmt.Errorf("%s: %q", query, answer.Warnings)
	}
	return answer.Data.Result, nil
}

// query is the value of each series that an expression gives, by exporter.Series' text, without the labels by which
// Prometheus tells targets apart.
func (p prometheus) query(ctx context.Context, query string) (map[string]float64, error) {
	results, err := p.evaluate(ctx, query)
	if err != nil {
		return nil, err
	}
	values := map[string]float64{}
	for _, result := range results {
		text, ok := result.Value[1].(string)
		if !ok {
			return nil, fmt.Errorf("no value in %v", result)
		}
		name := result.Metric["__name__"]
		for _, label := range []string{"__name__", "job", "instance", "metrics_path"} {
			delete(result.Metric, label)
		}
		series := exporter.Series(name, result.Metric)
		if _, twice := values[series]; twice {
			return nil, fmt.Errorf("%s: %s of more than one target", query, series)
		}
		if values[series], err = strconv.ParseFloat(text, 64); err != nil {
			return nil, err
		}
	}
	return values, nil
}
