package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// equal returns a page that has exactly what the API has, and fails the test if there is none within a tick.
func equal(t *testing.T, e *exporter.Exporter, scope check.Scope) *exporter.Page {
	t.Helper()
	return must(check.Equal(within(t, aTick), plane, e, scope))(t)
}

// newest is the timestamp of the page's newest sample of a resource, pods or nodes.
func newest(page *exporter.Page, resource string) float64 {
	stamp, _ := page.Sum("metrics_server_prom_newest_sample_timestamp_seconds", map[string]string{"resource": resource})
	return stamp
}

// awaitTick returns when the page's pods are from a later reading by metrics-server than now.
func awaitTick(t *testing.T, e *exporter.Exporter) *exporter.Page {
	t.Helper()
	first := must(e.Scrape(t.Context()))(t)
	var page *exporter.Page
	eventually(t, aTick, func(ctx context.Context) (err error) {
		if page, err = e.Scrape(ctx); err != nil {
			return err
		}
		if newest(page, "pods") == newest(first, "pods") {
			return fmt.Errorf("the page still has the values of %.0f", newest(page, "pods"))
		}
		return nil
	})
	return page
}

func TestEveryContainersAndNodesValuesAndLabelsAreThoseOfTheAPI(t *testing.T) {
	t.Parallel()
	e := startReady(t, deployed(t))
	for range 2 { // the second time with the values of another reading
		page := equal(t, e, check.Scope{})
		if got, want := len(check.Served(page)), 2*nodes+2*containers; got < want {
			t.Fatalf("the page has %d samples, those of the residents alone are %d", got, want)
		}
		awaitTick(t, e)
	}
}

func TestFirstScrapeAfterTheStartWaitsForAWholePage(t *testing.T) {
	t.Parallel()
	e := startExporter(t, deployed(t))
	page := must(e.Scrape(within(t, 10*time.Second)))(t)
	if got, want := len(check.Served(page)), 2*nodes+2*containers; got < want {
		t.Fatalf("the first page has %d samples, those of the residents alone are %d", got, want)
	}
}

func TestClientWithoutGzipGetsTheSameText(t *testing.T) {
	t.Parallel()
	e := startReady(t, deployed(t))
	eventually(t, aTick, func(ctx context.Context) error {
		before, err := e.Scrape(ctx)
		if err != nil {
			return err
		}
		plain, err := e.ScrapePlain(ctx)
		if err != nil {
			return err
		}
		after, err := e.Scrape(ctx)
		if err != nil {
			return err
		}
		if newest(before, "pods") != newest(after, "pods") || newest(before, "nodes") != newest(after, "nodes") {
			return errors.New("refreshed in between")
		}
		// The self metrics are those of the moment of each scrape.
		if got, want := usageText(plain), usageText(before); got != want {
			t.Fatalf("the plain page's samples are not those of the compressed one:\n%s\n---\n%s", got, want)
		}
		return nil
	})
}

// usageSeries is the samples of the four families, or of one of them, by exporter.Series' text.
func usageSeries(page *exporter.Page, family string) map[string]float64 {
	samples := page.Series()
	maps.DeleteFunc(samples, func(series string, _ float64) bool {
		return !strings.HasPrefix(series, "kube_metrics_server_") || !strings.HasPrefix(series, family)
	})
	return samples
}

// usageText is the lines of the four families, comments among them, in the page's order.
func usageText(page *exporter.Page) string {
	var text strings.Builder
	for line := range strings.Lines(page.Text) {
		if strings.Contains(line, "kube_metrics_server_") {
			text.WriteString(line)
		}
	}
	return text.String()
}

func TestContentTypeIsThatOfTheTextFormat(t *testing.T) {
	t.Parallel()
	e := startReady(t, deployed(t))
	page := must(e.Scrape(within(t, 10*time.Second)))(t)
	if got := page.Header.Get("Content-Type"); got != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("Content-Type is %q", got)
	}
	if got := page.Header.Get("Content-Encoding"); got != "gzip" {
		t.Errorf("Content-Encoding is %q", got)
	}
}

func TestSelfMetricsTellTheState(t *testing.T) {
	t.Parallel()
	e := startReady(t, deployed(t))
	eventually(t, aTick, func(ctx context.Context) error {
		page, err := check.Equal(ctx, plane, e, check.Scope{})
		if err != nil {
			return err
		}
		pods, err := plane.Admin.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		pod := map[string]string{"resource": "pods"}
		node := map[string]string{"resource": "nodes"}
		for _, self := range []struct {
			family   string
			labels   map[string]string
			min, max float64
		}{
			{"build_info", nil, 1, 1},
			{"up", pod, 1, 1},
			{"up", node, 1, 1},
			{"refresh_errors_total", nil, 0, 0},
			{"watched_objects", pod, float64(len(pods.Items)), float64(len(pods.Items))},
			{"watched_pods", nil, float64(len(pods.Items)), float64(len(pods.Items))}, // for one version more
			{"watch_up", pod, 1, 1},
			{"samples_served", map[string]string{"family": check.NodeCPU}, nodes, nodes},
			{"samples_served", map[string]string{"family": check.PodMemory}, float64(len(page.Family(check.PodMemory))), float64(len(page.Family(check.PodMemory)))},
			{"samples_dropped_total", map[string]string{"reason": "invalid"}, 0, 0},
			{"pods_without_metadata", nil, 0, 0},
			{"last_refresh_timestamp_seconds", pod, float64(time.Now().Add(-aTick).Unix()), float64(time.Now().Unix())},
			{"newest_sample_timestamp_seconds", pod, float64(time.Now().Add(-2 * aTick).Unix()), float64(time.Now().Unix())},
			{"oldest_sample_timestamp_seconds", pod, float64(time.Now().Add(-2 * aTick).Unix()), newest(page, "pods")},
			{"api_requests_total", map[string]string{"resource": "nodes.metrics.k8s.io", "verb": "list", "code": "200"}, 1, 1000},
		} {
			value, series := page.Sum("metrics_server_prom_"+self.family, self.labels)
			if series == 0 || value < self.min || value > self.max {
				return fmt.Errorf("%s%v is %v (%d series), expected %v to %v", self.family, self.labels, value, series,
					self.min, self.max)
			}
		}
		return nil
	})
}

func TestPromtoolHasNothingToSayAboutThisProjectsFamilies(t *testing.T) {
	t.Parallel()
	e := startReady(t, deployed(t))
	promtool(t, must(e.Scrape(within(t, 10*time.Second)))(t))
}

// promtool fails the test with what promtool says about a page's families, but for those of Go and of the process.
func promtool(t *testing.T, page *exporter.Page) {
	t.Helper()
	path := must(controlplane.Tool("promtool"))(t)
	cmd := exec.CommandContext(within(t, 30*time.Second), path, "check", "metrics")
	cmd.Stdin = strings.NewReader(page.Text)
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(output)) {
		if !strings.HasPrefix(line, "go_") && !strings.HasPrefix(line, "process_") {
			t.Error(strings.TrimSpace(line))
		}
	}
}

// TestPrometheusStoresTheSameValues has a real Prometheus scrape the exporter and asks it in PromQL.
func TestPrometheusStoresTheSameValues(t *testing.T) {
	t.Parallel()
	e := startReady(t, deployed(t))
	prometheus := startPrometheus(t, scrapeJob("metrics-server-prom", e, "/metrics"))
	for _, family := range []string{check.NodeCPU, check.NodeMemory, check.PodCPU, check.PodMemory} {
		eventually(t, aTick, func(ctx context.Context) error {
			page, err := e.Scrape(ctx)
			if err != nil {
				return err
			}
			want := usageSeries(page, family)
			if len(want) == 0 {
				t.Fatalf("the page has no %s", family)
			}
			got, err := prometheus.query(ctx, family)
			if err != nil {
				return err
			}
			// Prometheus may still be on the page before; it scrapes once a second.
			if differences := check.Diff(want, got); differences != nil {
				return fmt.Errorf("Prometheus and the page differ:\n%s",
					strings.Join(differences[:min(len(differences), 10)], "\n"))
			}
			return nil
		})
	}
	eventually(t, aTick, func(ctx context.Context) error {
		up, err := prometheus.query(ctx, `sum by (node) (up{job="metrics-server-prom"})`)
		if err != nil || up[`{}`] != 1 {
			return errors.Join(err, fmt.Errorf("up is %v", up))
		}
		return nil
	})
}

func TestSIGTERMEndsWithExitCode0Within5Seconds(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T) *exporter.Exporter{
		"while serving": func(t *testing.T) *exporter.Exporter { return startReady(t, deployed(t)) },
		"before there is any data": func(t *testing.T) *exporter.Exporter {
			return startExporter(t, account(t, "team-a", "without-rights"))
		},
		"while its API server does not answer": func(t *testing.T) *exporter.Exporter {
			return startExporter(t,
				silentServer(t))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t)
			code, took, err := e.Terminate()
			if err != nil {
				t.Fatal(err)
			}
			if code != 0 || took > 5*time.Second {
				t.Errorf("exit code %d after %s\n%s", code, took, process.Tail(e.Log(), 10))
			}
		})
	}
}
