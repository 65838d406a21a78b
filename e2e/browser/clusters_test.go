package browser

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/exporter"
)

// TestSeveralClusters goes from the rows of two clusters, which have the same names, into one and back.
func TestSeveralClusters(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, name := range []string{"eu", "us"} {
		server := must(standin.New(standin.Options{Pods: 20, Seed: 1, Resolution: time.Second,
			Log: slog.New(slog.DiscardHandler)}))(t)
		t.Cleanup(server.Close)
		if err := os.WriteFile(filepath.Join(folder, name), must(server.Kubeconfig())(t), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e := must(exporter.Start(within(t, 30*time.Second), exporter.Options{
		Args: []string{"--kubeconfig=" + folder, "--refresh-interval=1s"}}))(t)
	t.Cleanup(e.Close)
	of := func(cluster string) func([]Row) error {
		return func(rows []Row) error {
			has := func(name string) bool {
				return slices.ContainsFunc(rows, func(r Row) bool { return strings.Contains(r.Link, "cluster="+name) })
			}
			if len(rows) == 0 || has("eu") != (cluster != "us") || has("us") != (cluster != "eu") {
				return fmt.Errorf("not the rows of %q", cluster)
			}
			return nil
		}
	}
	for _, javascript := range []bool{false, true} {
		tab := open(t, 1280, 900)
		if !javascript {
			if err := tab.WithoutJavaScript(); err != nil {
				t.Fatal(err)
			}
		}
		if err := tab.Go(e.URL); err != nil {
			t.Fatal(err)
		}
		all := func(rows []Row) error {
			if err := of("")(rows); err != nil {
				return err
			}
			for _, r := range rows {
				if !strings.HasSuffix(r.About, "eu") && !strings.HasSuffix(r.About, "us") {
					return errors.New("a row without its cluster")
				}
			}
			return nil
		}
		if javascript {
			await(t, 10*time.Second, tab, shown)
		} else { // it does not ask again
			await(t, 10*time.Second, tab, `document.querySelectorAll("#rows tr").length > 2 || (location.reload(), false)`)
		}
		must(AwaitRows(within(t, 10*time.Second), tab, all))(t)
		if err := tab.Click(`#rows a[href*="cluster=us"]`); err != nil {
			t.Fatal(err)
		}
		await(t, 10*time.Second, tab, `new URLSearchParams(location.search).get("cluster") === "us" &&
			document.querySelector("#title").textContent.startsWith("Workloads of us / ")`)
		must(AwaitRows(within(t, 10*time.Second), tab, of("us")))(t)
		if !javascript {
			continue
		}
		await(t, 10*time.Second, tab, `document.querySelector("#path").textContent === "All clustersus"`)
		if err := tab.Click("#path a"); err != nil {
			t.Fatal(err)
		}
		await(t, 10*time.Second, tab, `!location.search.includes("cluster=")`)
		must(AwaitRows(within(t, 10*time.Second), tab, all))(t)
	}
}
