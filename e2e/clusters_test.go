package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/check"
)

// TestPrometheusFindsTheClusters has a Prometheus find the control plane and two simulated clusters by /sd, configured
// as README says, and one of these die and come back.
func TestPrometheusFindsTheClusters(t *testing.T) {
	t.Parallel()
	const resolution, maxAge = 5 * time.Second, 30 * time.Second
	config := must(clientcmd.LoadFromFile(deployed(t)))(t)
	config.Contexts["real"] = config.Contexts["e2e"]
	delete(config.Contexts, "e2e")
	simulated, apis := map[string]*standin.Server{}, map[string]check.API{"real": plane}
	for i, name := range []string{"eu", "us"} {
		api := must(standin.New(standin.Options{Pods: 20 + i, Seed: uint64(i + 1), Resolution: resolution,
			Log: slog.New(slog.DiscardHandler)}))(t)
		t.Cleanup(api.Close)
		simulated[name], apis[name] = api, must(check.Client(api.RESTConfig()))(t)
		config.Clusters[name] = &clientcmdapi.Cluster{Server: api.URL(), CertificateAuthorityData: api.CAData()}
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: api.RESTConfig().BearerToken}
		config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	e := startExporter(t, file, "--context=*", "--refresh-interval="+resolution.String(), "--max-age="+maxAge.String())
	p := startPrometheus(t, fmt.Sprintf(`
- job_name: clusters
  honor_labels: true
  http_sd_configs: [{url: %q, refresh_interval: 5s}]
`, e.URL+"/sd"))
	ups := func(want map[string]float64) func(context.Context) error {
		return func(ctx context.Context) error {
			results, err := p.evaluate(ctx, "up")
			if err != nil {
				return err
			}
			got := map[string]float64{}
			for _, r := range results {
				if r.Metric["instance"] != strings.TrimPrefix(e.URL, "http://") {
					return fmt.Errorf("a target that is not the exporter: %v", r.Metric)
				}
				got[r.Metric["cluster"]] = map[any]float64{"1": 1}[r.Value[1]]
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("up is %v, want %v", got, want)
			}
			return nil
		}
	}
	eventually(t, time.Minute, ups(map[string]float64{"real": 1, "eu": 1, "us": 1}))
	eventually(t, time.Minute, func(ctx context.Context) error {
		for name, api := range apis {
			usage, err := api.PodMetrics(ctx)
			if err != nil {
				return err
			}
			got, err := p.query(ctx, fmt.Sprintf(`count(count by (namespace, pod) (%s{cluster=%q}))`, check.PodMemory, name))
			if err != nil {
				return err
			}
			if n := got["{}"]; n != float64(len(usage)) {
				return fmt.Errorf("%v pods of %s, the API has %d: %v", n, name, len(usage), got)
			}
		}
		return nil
	})
	if got := must(p.query(t.Context(), `count({exported_cluster!=""})`))(t); len(got) > 0 {
		t.Errorf("labels of the exporter and of the target are at odds: %v", got)
	}
	simulated["us"].Kill()
	eventually(t, maxAge+30*time.Second, ups(map[string]float64{"real": 1, "eu": 1, "us": 0}))
	if err := simulated["us"].Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, ups(map[string]float64{"real": 1, "eu": 1, "us": 1}))
	for _, name := range []string{"real", "eu"} {
		if got := must(p.query(t.Context(), fmt.Sprintf(`min_over_time(up{cluster=%q}[3m])`, name)))(t); len(got) != 1 {
			t.Errorf("up of %s: %v", name, got)
		} else {
			for series, least := range got {
				if least != 1 {
					t.Errorf("%s was %v while another cluster was away", series, least)
				}
			}
		}
	}
}
