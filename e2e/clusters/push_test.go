package clusters

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/internal/push/standin"
)

// TestRemoteWriteOfSeveralClusters has one go while the others are pushed on.
func TestRemoteWriteOfSeveralClusters(t *testing.T) {
	t.Parallel()
	receiver := &standin.Receiver{Ignored: []string{"go_", "process_"}}
	server := httptest.NewServer(receiver)
	t.Cleanup(server.Close)
	all := map[string]*cluster{"eu": newCluster(t, 1, 20), "us": newCluster(t, 2, 30)}
	file := filepath.Join(t.TempDir(), "config")
	write(t, file, all)
	start(t, "--kubeconfig="+file, "--context=*", "--pages=kube-state-metrics", "--push.url="+server.URL,
		"--push.format=remote-write", "--push.interval=1s", "--push.instance=i")
	live := func(cluster, family string) (n int) {
		for series := range receiver.Live() {
			if strings.HasPrefix(series, family+"{") && strings.Contains(series, fmt.Sprintf("cluster=%q,", cluster)) {
				n++
			}
		}
		return n
	}
	has := func(clusters map[string]*cluster) func(context.Context) error {
		return func(context.Context) error {
			for _, name := range []string{"eu", "us"} {
				pods := 0
				if c := clusters[name]; c != nil {
					pods = len(c.Pods())
				}
				for family, want := range map[string]int{"kube_metrics_server_pod_mem": 2 * pods, "kube_pod_info": pods,
					"up": min(2, pods), "metrics_server_prom_watch_up": min(6, pods)} {
					if n := live(name, family); n != want {
						return fmt.Errorf("the receiver has %d of %s of %s, want %d", n, family, name, want)
					}
				}
			}
			return nil
		}
	}
	eventually(t, 40*time.Second, has(all)) // readings from before the start are not pushed
	write(t, file, map[string]*cluster{"us": all["us"]})
	eventually(t, 30*time.Second, has(map[string]*cluster{"us": all["us"]}))
	write(t, file, all)
	eventually(t, 40*time.Second, has(all))
	for _, fault := range receiver.Faults() {
		t.Error(fault)
	}
}

// TestOnceOfSeveralClusters has one that is not there: the others are written, and the exit code is 1.
func TestOnceOfSeveralClusters(t *testing.T) {
	t.Parallel()
	eu, us := newCluster(t, 1, 20), newCluster(t, 2, 30)
	file := filepath.Join(t.TempDir(), "config")
	write(t, file, map[string]*cluster{"eu": eu, "us": us})
	for _, dead := range []bool{false, true} {
		if dead {
			us.Close()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		o, err := exporter.RunOnce(ctx, "", []string{"--once", "--kubeconfig=" + file, "--context=*"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := 2*20 + map[bool]int{false: 2 * 30}[dead]
		n := strings.Count(o.Stdout, "\nkube_metrics_server_pod_mem{")
		if n != want || o.Code != map[bool]int{true: 1}[dead] ||
			strings.Contains(o.Stderr, "(cluster us)") != dead || strings.Contains(o.Stderr, "(cluster eu)") {
			t.Errorf("one is dead %t: exit code %d, %d samples, want %d:\n%s", dead, o.Code, n, want, o.Stderr)
		}
	}
}

// TestPagesOfAClusterThatIsGone has an API server killed for longer than max-age.
func TestPagesOfAClusterThatIsGone(t *testing.T) {
	t.Parallel()
	eu, us := newCluster(t, 1, 20), newCluster(t, 2, 30)
	file := filepath.Join(t.TempDir(), "config")
	write(t, file, map[string]*cluster{"eu": eu, "us": us})
	e := start(t, "--kubeconfig="+file, "--context=eu,us", "--max-age=15s")
	status := func(path string, want int, says string) func(context.Context) error {
		return func(ctx context.Context) error {
			got, body, err := e.Get(ctx, path)
			if err == nil && (got != want || !strings.Contains(body, says)) {
				err = fmt.Errorf("%s is answered with %d: %.300s", path, got, body)
			}
			return err
		}
	}
	eventually(t, 20*time.Second, status("/metrics?cluster=us", http.StatusOK, `cluster="us"`))
	us.Kill()
	eventually(t, 40*time.Second, status("/metrics?cluster=us", http.StatusServiceUnavailable, "(cluster us)"))
	for path, want := range map[string]int{"/metrics": 200, "/metrics?cluster=eu": 200, "/-/ready": 200, "/healthz": 503,
		"/healthz?cluster=eu": 200, "/healthz?cluster=us": 503, "/top.json?cluster=eu": 200, "/metrics?cluster=x": 404,
		"/top.json?cluster=x": 404, "/?cluster=x": 404} {
		if err := status(path, want, "")(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := us.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, status("/metrics?cluster=us", http.StatusOK, "kube_metrics_server_pod_mem{"))
	eventually(t, 10*time.Second, status("/healthz", http.StatusOK, "ok"))
}
