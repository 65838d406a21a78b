package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/receiver"
)

// receivers of the text format, and what each has of the four families, series text to value. A sample without the
// extra labels is an error.
var receivers = []struct {
	receiver.Kind
	values func(ctx context.Context, url string) (map[string]float64, error)
	keeps  bool // what is gone, with its last value
}{{receiver.VictoriaMetrics, victoriaMetricsValues, true}, {receiver.Pushgateway, pushgatewayValues, false}}

// TestReceiverHasThePagesValues pushes to the real programs and asks them for what they have.
func TestReceiverHasThePagesValues(t *testing.T) {
	t.Parallel()
	for _, r := range receivers {
		t.Run(r.Name, func(t *testing.T) {
			t.Parallel()
			url := startReceiver(t, r.Kind).URL
			e := startExporter(t, deployed(t), "--push.url="+url+r.Text, "--push.interval=1s",
				`--push.extra-labels=cluster="e2e",site="x y"`)
			eventually(t, 2*aTick, func(ctx context.Context) error {
				page, err := e.Scrape(ctx)
				if err != nil {
					return err
				}
				want := usageSeries(page, "")
				if len(want) < 2*nodes+2*containers {
					t.Fatalf("the page has %d samples", len(want))
				}
				got, err := r.values(ctx, url)
				if err != nil {
					return err
				}
				// The last push may be of the page before.
				var differences []string
				for _, difference := range check.Diff(want, got) {
					if !r.keeps || !strings.HasPrefix(difference, "not in the API") {
						differences = append(differences, difference)
					}
				}
				if len(differences) > 0 {
					return fmt.Errorf("the receiver and the page differ:\n%s",
						strings.Join(differences[:min(len(differences), 10)], "\n"))
				}
				if ok, _ := page.Sum("metrics_server_prom_pushes_total", map[string]string{"result": "ok"}); ok == 0 {
					return errors.New("the page counts no push that worked")
				}
				return nil
			})
			if told := problems(e); len(told) > 0 {
				t.Errorf("the log complains:\n%s", strings.Join(told, "\n"))
			}
		})
	}
}

// TestNothingThatIsGoneStaysInAPushgateway: a pod's series go with the pod, and all go with the exporter. What was
// pushed by others stays.
func TestNothingThatIsGoneStaysInAPushgateway(t *testing.T) {
	t.Parallel()
	url := startReceiver(t, receiver.Pushgateway).URL
	others, err := http.Post(url+"/metrics/job/others", "text/plain",
		strings.NewReader("# TYPE kube_metrics_server_node_cpu gauge\n"+
			"kube_metrics_server_node_cpu{cluster=\"e2e\",site=\"x y\",node=\"theirs\"} 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	others.Body.Close()
	e := startReady(t, deployed(t), "--push.url="+url+receiver.Pushgateway.Text+"/instance/one", "--push.interval=1s",
		`--push.extra-labels=cluster="e2e",site="x y"`)
	await := func(limit time.Duration, what string, met func(values map[string]float64, ofPod int) bool) {
		t.Helper()
		eventually(t, limit, func(ctx context.Context) error {
			values, err := pushgatewayValues(ctx, url)
			if err != nil {
				return err
			}
			ofPod := 0
			for series := range values {
				if strings.Contains(series, `namespace="pushed"`) {
					ofPod++
				}
			}
			if !met(values, ofPod) {
				return fmt.Errorf("%s: the Pushgateway has %d series, %d of the pod", what, len(values), ofPod)
			}
			return nil
		})
	}
	createPod(t, onePod("pushed", "guest", "node-1"))
	await(aTick, "the pod is there", func(_ map[string]float64, ofPod int) bool { return ofPod == 2 })
	if err := plane.DeletePod(within(t, 30*time.Second), "pushed", "guest"); err != nil {
		t.Fatal(err)
	}
	await(aTick, "the pod is gone", func(all map[string]float64, ofPod int) bool { return ofPod == 0 && len(all) > 1 })
	if code, took, err := e.Terminate(); err != nil || code != 0 {
		t.Fatalf("exit code %d after %s, %v", code, took, err)
	}
	values, err := pushgatewayValues(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if len(values) != 1 {
		t.Errorf("the exporter has ended, and the Pushgateway has %d series, not only that of others", len(values))
	}
}

// TestPushesThatFailHarmNobodyAndTellNoSecret pushes to a receiver that repeats in its refusal all it was told.
func TestPushesThatFailHarmNobodyAndTellNoSecret(t *testing.T) {
	t.Parallel()
	const token, password, key = "planted-push-token", "planted-push-password", "planted-push-key"
	told := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		refusal := fmt.Sprintf("%s of %s: %v", r.Method, r.URL, r.Header)
		select {
		case told <- refusal:
		default:
		}
		http.Error(w, refusal, http.StatusForbidden)
	}))
	t.Cleanup(server.Close)

	e := startReady(t, deployed(t), fmt.Sprintf("--push.url=http://pusher:%s@%s/push?key=%s", password,
		server.Listener.Addr(), key),
		"--push.interval=1s", "--push.header=X-Token: Bearer "+token, "--log.level=debug")
	for range 2 { // the second refusal follows only when the first has been dealt with
		select {
		case refusal := <-told:
			if !strings.Contains(refusal, token) {
				t.Fatalf("the receiver did not get the token: %s", refusal)
			}
		case <-within(t, 30*time.Second).Done():
			t.Fatal("nothing was pushed")
		}
	}
	equal(t, e, check.Scope{})
	awaitHealthy(t, e, aTick)
	var page *exporter.Page
	err := e.Await(within(t, 10*time.Second), func(ctx context.Context) (err error) { // its metrics may be a second old
		if page, err = e.Scrape(ctx); err != nil {
			return err
		}
		failed, _ := page.Sum("metrics_server_prom_pushes_total", map[string]string{"result": "error"})
		if failed == 0 {
			return errors.New("the page counts no push that failed")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"the log": e.Log(), "the page": page.Text}
	for _, path := range []string{"/", "/healthz"} {
		_, body, err := e.Get(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = body
	}
	for where, text := range texts {
		for _, secret := range []string{token, password, key} {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %s:\n%s", where, secret, text)
			}
		}
	}
	if lines := linesWith(e.Log(), "cannot push", "answered 403"); len(lines) != 1 {
		t.Errorf("%d log lines say that pushes fail:\n%s", len(lines), strings.Join(lines, "\n"))
	}
}

// startReceiver starts a program for the test; one that this machine does not have is a reason to skip the test.
func startReceiver(t *testing.T, kind receiver.Kind) *receiver.Receiver {
	t.Helper()
	r, err := receiver.New(within(t, time.Minute), kind, t.TempDir())
	if errors.Is(err, receiver.ErrNotInstalled) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Kill)
	return r
}

// body is what a URL answers with status 200.
func body(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		return nil, errors.Join(err, fmt.Errorf("%s: %s %s", url, response.Status, text))
	}
	return text, err
}

// victoriaMetricsValues exports what was stored, as it was stored. The newest value of each series counts.
func victoriaMetricsValues(ctx context.Context, server string) (map[string]float64, error) {
	if _, err := body(ctx, server+"/internal/force_flush"); err != nil {
		return nil, err
	}
	text, err := body(ctx, server+"/api/v1/export?match[]="+url.QueryEscape(`{__name__=~"kube_metrics_server_.*"}`))
	if err != nil {
		return nil, err
	}
	values := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		var exported struct {
			Metric     map[string]string
			Values     []float64
			Timestamps []int64
		}
		if err := json.Unmarshal([]byte(line), &exported); err != nil {
			return nil, err
		}
		name := exported.Metric["__name__"]
		delete(exported.Metric, "__name__")
		if err := takeExtraLabels(exported.Metric); err != nil {
			return nil, err
		}
		values[exporter.Series(name, exported.Metric)] = exported.Values[len(exported.Values)-1]
	}
	return values, nil
}

// pushgatewayValues reads the page that a Prometheus would scrape.
func pushgatewayValues(ctx context.Context, server string) (map[string]float64, error) {
	text, err := body(ctx, server+"/metrics")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		return nil, err
	}
	values := map[string]float64{}
	for name, family := range families {
		if !strings.HasPrefix(name, "kube_metrics_server_") {
			continue
		}
		for _, metric := range family.GetMetric() {
			labels := exporter.Labels(metric)
			if err := takeExtraLabels(labels); err != nil {
				return nil, err
			}
			values[exporter.Series(name, labels)] = metric.GetGauge().GetValue()
		}
	}
	return values, nil
}

// takeExtraLabels removes what every pushed sample must have, and what the receivers add.
func takeExtraLabels(labels map[string]string) error {
	if labels["cluster"] != "e2e" || labels["site"] != "x y" {
		return fmt.Errorf("%v has not the extra labels", labels)
	}
	for _, label := range []string{"cluster", "site", "job", "instance"} {
		delete(labels, label)
	}
	return nil
}
