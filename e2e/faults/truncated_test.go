package faults

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/exporter"
)

// TestTruncatedAtEveryByte cuts a small list of the pods' usage at each of its bytes. An exporter asks again after a
// second at the earliest, so many of them share the bytes. Usage that came before the cut must never be on a page.
func TestTruncatedAtEveryByte(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	server, err := standin.New(standin.Options{Nodes: 1, Pods: 2, Resolution: interval, Seed: 7,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.SetBehavior(standin.Behavior{FreezeMetrics: true}) // so that all exporters have the same page
	text, err := server.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, text, 0o600); err != nil {
		t.Fatal(err)
	}
	want := simulated(server).Samples(check.Scope{})

	var exporters []*exporter.Exporter
	for range 16 {
		e, err := exporter.Start(ctx, exporter.Options{Args: []string{"--kubeconfig=" + kubeconfig,
			"--refresh-interval=1s"}})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		exporters = append(exporters, e)
	}
	// each awaits a page of each exporter with the samples of before.
	each := func(what string, is func(*exporter.Page) error) {
		t.Helper()
		for i, e := range exporters {
			if err := await(ctx, func(ctx context.Context) error {
				page, err := e.Scrape(ctx)
				if err != nil {
					return err
				}
				if differences := check.Diff(want, check.Served(page)); differences != nil {
					t.Fatalf("%s, exporter %d:\n%s", what, i, strings.Join(differences, "\n"))
				}
				return is(page)
			}); err != nil {
				t.Fatalf("%s, exporter %d: %v", what, i, err)
			}
		}
	}
	up := func(want float64) func(*exporter.Page) error {
		return func(page *exporter.Page) error {
			if got, _ := page.Sum("metrics_server_prom_up", map[string]string{"resource": "pods"}); got != want {
				return fmt.Errorf("metrics_server_prom_up is %v", got)
			}
			return nil
		}
	}
	for _, e := range exporters {
		if err := e.AwaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	each("before", up(1))

	list := metricsv1beta1.PodMetricsList{Items: simulated(server).Pods}
	for i := range list.Items {
		list.Items[i].Timestamp = metav1.Now()
		for j := range list.Items[i].Containers {
			list.Items[i].Containers[j].Usage = quantities("9", "9Gi")
		}
	}
	text, err = list.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	whole := envelope(text)
	whole = bytes.TrimSuffix(whole, []byte("\x1a\x00\x22\x00")) // two empty fields, without which it is as good
	var cuts atomic.Int64
	server.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path != podList {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
		write(w, whole[:int(cuts.Add(1)-1)%len(whole)])
	})
	if err := await(ctx, func(context.Context) error {
		if each("list cut", up(0)); cuts.Load() < int64(len(whole)) {
			return fmt.Errorf("only %d of %d bytes were cut at", cuts.Load(), len(whole))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	failed := 0.0
	for _, e := range exporters {
		page, err := e.Scrape(ctx)
		if err != nil {
			t.Fatal(err)
		}
		n, _ := page.Sum("metrics_server_prom_refresh_errors_total", map[string]string{"resource": "pods"})
		failed += n
	}
	// The last answer to each exporter may be on its way.
	if least := len(whole) - len(exporters); failed < float64(least) {
		t.Errorf("of %d lists that were cut %v failed, less than %d", cuts.Load(), failed, least)
	}
	t.Logf("a list of %d bytes was cut at each", len(whole))
	server.Intercept(nil)
	each("afterwards", up(1))
}
