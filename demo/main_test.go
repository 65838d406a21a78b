package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain makes the test binary the static server where the test runs it as that, as main does.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == staticCommand {
		exit(serveStatic(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

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
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	o, err := parse([]string{"--pods", "20", "--churn", "0", "--listen", freeAddress(t), "--", "--log.level", "warn"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, o) }()

	url := "http://" + o.listen + "/metrics"
	var page []byte
	for deadline := time.Now().Add(5 * time.Minute); len(page) == 0; {
		select {
		case err := <-ended:
			t.Fatalf("the demo ended: %v", err)
		case <-time.After(20 * time.Millisecond): // the port opens without an event that could be awaited
		}
		if resp, err := http.Get(url); err == nil {
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil && resp.StatusCode == http.StatusOK {
				page = body
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("no page")
		}
	}
	// 20 pods of 2 containers with CPU and memory, 3 nodes.
	if got := strings.Count("\n"+string(page), "\nkube_metrics_server_"); got != 2*(20*2+3) {
		t.Errorf("%d samples on the page:\n%s", got, page)
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
	for _, args := range []string{"--nodes 0", "--pods -1", "--containers 0", "--resolution 0s", "--churn -1", "--nonsense", "--pods x"} {
		if _, err := parse(strings.Fields(args)); err == nil {
			t.Errorf("%s: no error", args)
		}
	}
}

func TestSamplesCountsWhatACompletePageHas(t *testing.T) {
	var page bytes.Buffer
	z := gzip.NewWriter(&page)
	_, _ = io.WriteString(z, `# HELP kube_metrics_server_pod_cpu x
kube_metrics_server_node_cpu{node="n"} 1
kube_metrics_server_pod_cpu{node="n",pod="p",ip="1.2.3.4",container="c",namespace="x"} 1
kube_metrics_server_pod_cpu{node="",pod="q",ip="",container="c",namespace="x"} 1
metrics_server_prom_up{resource="pods"} 1
`)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := samples(page.Bytes()); n != 2 || err != nil {
		t.Errorf("%d samples, %v; want 2: the one of a pod without a node is not complete", n, err)
	}
	if _, err := samples(page.Bytes()[:page.Len()/2]); err == nil {
		t.Error("half a page has no error")
	}
}

func TestStaticServersSendTheBytesOfThePage(t *testing.T) {
	page := bytes.Repeat([]byte("any bytes"), 1000)
	path := filepath.Join(t.TempDir(), "page.gz")
	if err := os.WriteFile(path, page, 0o600); err != nil {
		t.Fatal(err)
	}
	m := &measurement{client: &http.Client{Transport: &http.Transport{DisableCompression: true}}}
	for _, mode := range []string{staticFile, staticMemory} {
		server, stop, err := startStatic(mode, path)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if _, err := m.get(t.Context(), server.url, true, &got); err != nil || !bytes.Equal(got.Bytes(), page) {
			t.Errorf("%s: %d bytes, %v", mode, got.Len(), err)
		}
		stop()
		if _, err := m.get(t.Context(), server.url, true, io.Discard); err == nil {
			t.Errorf("%s: it still answers", mode)
		}
	}
}

func TestQuantile(t *testing.T) {
	values := []int{9, 1, 8, 2, 7, 3, 6, 4, 5, 10}
	if m, p, max := median(values), quantile(values, 0.95), quantile(values, 1); m != 6 || p != 10 || max != 10 {
		t.Errorf("median %d, p95 %d, maximum %d", m, p, max)
	}
	if quantile([]int(nil), 0.5) != 0 {
		t.Error("no values have a median")
	}
}
