package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/rest"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"
)

// RequestTotals is how many requests of each kind the API server and metrics-server have answered since they started,
// by their own counters (apiserver_request_total): the key is verb, resource and group, as "LIST pods.metrics.k8s.io".
// The counters do not know who asked: see Requests.
func (c *ControlPlane) RequestTotals(ctx context.Context) (map[string]float64, error) {
	totals := map[string]float64{}
	for _, url := range []string{c.URL(), c.metricsServerURL()} {
		families, err := c.serverMetrics(ctx, url)
		if err != nil {
			return nil, err
		}
		for _, metric := range families["apiserver_request_total"].GetMetric() {
			label := labels(metric)
			key := label["verb"] + " " + label["resource"]
			if label["group"] != "" {
				key += "." + label["group"]
			}
			totals[key] += metric.GetCounter().GetValue()
		}
	}
	return totals, nil
}

// storedUsage is how many nodes and containers metrics-server has usage of.
func (c *ControlPlane) storedUsage(ctx context.Context) (nodes, containers int, err error) {
	families, err := c.serverMetrics(ctx, c.metricsServerURL())
	if err != nil {
		return 0, 0, err
	}
	for _, metric := range families["metrics_server_storage_points"].GetMetric() {
		switch points := int(metric.GetGauge().GetValue()); labels(metric)["type"] {
		case "node":
			nodes = points
		case "container":
			containers = points
		}
	}
	return nodes, containers, nil
}

// serverMetrics is what one of the servers says of itself.
func (c *ControlPlane) serverMetrics(ctx context.Context, url string) (map[string]*dto.MetricFamily, error) {
	// Both know the admin's certificate: they have the same client authority.
	config := c.Config()
	config.Host = url
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	text, err := get(ctx, client, url+"/metrics")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s/metrics: %w", url, err)
	}
	return families, nil
}

// MetricsServerClient asks metrics-server itself, past the API server, which may be down.
func (c *ControlPlane) MetricsServerClient() (*metricsclient.Clientset, error) {
	config := c.Config()
	config.Host = c.metricsServerURL()
	return metricsclient.NewForConfig(config)
}

// Compact makes etcd forget all revisions before the present one.
func (c *ControlPlane) Compact(ctx context.Context) error {
	call := func(path string, request, answer any) error {
		body, err := json.Marshal(request)
		if err != nil {
			return err
		}
		post, err := http.NewRequestWithContext(ctx, http.MethodPost,
			fmt.Sprintf("http://127.0.0.1:%d/v3/kv/%s", c.ports.etcd, path), bytes.NewReader(body))
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(post)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("etcd, %s: %s", path, response.Status)
		}
		return json.NewDecoder(response.Body).Decode(answer)
	}
	var state struct{ Header struct{ Revision string } }
	if err := call("range", map[string]string{"key": "AA=="}, &state); err != nil {
		return err
	}
	var none struct{}
	return call("compaction", map[string]string{"revision": state.Header.Revision}, &none)
}

func (c *ControlPlane) metricsServerURL() string {
	return fmt.Sprintf("https://127.0.0.1:%d", c.ports.metricsServer)
}

func labels(metric *dto.Metric) map[string]string {
	values := map[string]string{}
	for _, pair := range metric.GetLabel() {
		values[pair.GetName()] = pair.GetValue()
	}
	return values
}
