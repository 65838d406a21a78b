package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestTheDemoRunsTheRealExporterAndLeavesNothingBehind(t *testing.T) {
	for clusters := 1; clusters <= 2; clusters++ {
		t.Run(fmt.Sprint(clusters), func(t *testing.T) { testDemo(t, clusters) })
	}
}

func testDemo(t *testing.T, clusters int) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	o, err := parse([]string{"--clusters", fmt.Sprint(clusters), "--pods", "20", "--churn", "0", "--listen",
		freeAddress(t), "--", "--log.level", "warn"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, o) }()

	url := "http://" + o.listen + "/metrics"
	deadline := time.Now().Add(5 * time.Minute)
	await := func(url string) string {
		for {
			select {
			case err := <-ended:
				t.Fatalf("the demo ended: %v", err)
			case <-time.After(20 * time.Millisecond): // the port opens without an event that could be awaited
			}
			if resp, err := http.Get(url); err == nil {
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err == nil && resp.StatusCode == http.StatusOK {
					return string(body)
				}
			}
			if time.Now().After(deadline) {
				t.Fatal("no page")
			}
		}
	}
	page := await(url)
	for strings.Contains(page, "is missing") { // the page waits for the first cluster
		page = await(url)
	}
	// 20 pods of 2 containers with CPU and memory, 3 nodes.
	if got := strings.Count("\n"+page, "\nkube_metrics_server_"); got != clusters*2*(20*2+3) {
		t.Errorf("%d samples on the page:\n%s", got, page)
	}

	for path, sample := range map[string]string{"/cadvisor": "container_start_time_seconds{",
		"/kube-state-metrics": "kube_pod_container_status_running{"} {
		if page := await(url + path); !strings.Contains(page, sample) {
			t.Errorf("%s has no %s:\n%s", path, sample, page)
		}
	}

	cancel() // as a signal does
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if resp, err := http.Get(url); err == nil {
		resp.Body.Close()
		t.Error("the exporter still answers")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "metrics-server-prom-demo-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTheDemoEndsWhenTheExporterDoes(t *testing.T) {
	o, err := parse([]string{"--exporter", "false", "--pods", "1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("error %v", err)
	}
}

func TestParseRefusesWhatCannotBeSimulated(t *testing.T) {
	for _, args := range []string{
		"--clusters 0", "--nodes 0", "--pods -1", "--containers 0", "--resolution 0s", "--churn -1", "--nonsense", "--pods x",
	} {
		if _, err := parse(strings.Fields(args)); err == nil {
			t.Errorf("%s: no error", args)
		}
	}
}
