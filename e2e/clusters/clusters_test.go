// Package clusters tests the exporter's real binary with several simulated clusters.
package clusters

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

var long = flag.Bool("long", false, "scrape for longer while a cluster is broken, and compare how long that takes")

func TestMain(m *testing.M) {
	if _, err := exporter.Binary(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// resolution is that of the clusters' sources, and the exporter's --refresh-interval.
const resolution = 5 * time.Second

// cluster is a simulated cluster with a token of its own.
type cluster struct {
	*standin.Server
	token string

	mu    sync.Mutex
	sent  map[string]int // values of Authorization that it has got, with how often
	asked int
}

func newCluster(t *testing.T, seed uint64, pods int) *cluster {
	t.Helper()
	c := &cluster{token: fmt.Sprintf("planted-secret-of-%d-%s", seed, strings.Repeat("x", 20)), sent: map[string]int{}}
	var err error
	c.Server, err = standin.New(standin.Options{Pods: pods, Seed: seed, Resolution: resolution, Token: c.token,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		c.mu.Lock()
		c.asked++
		c.sent[r.Header.Get("Authorization")]++
		c.mu.Unlock()
		next.ServeHTTP(w, r)
	})
	return c
}

// write writes a kubeconfig with a context for each cluster, at once.
func write(t *testing.T, path string, clusters map[string]*cluster) {
	t.Helper()
	config := clientcmdapi.NewConfig()
	for name, c := range clusters {
		config.Clusters[name] = &clientcmdapi.Cluster{Server: c.URL(), CertificateAuthorityData: c.CAData()}
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: c.token}
		config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
		config.CurrentContext = name
	}
	if err := clientcmd.WriteToFile(*config, path+"~"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, args ...string) *exporter.Exporter {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	args = append(args, "--refresh-interval="+resolution.String())
	e, err := exporter.Start(ctx, exporter.Options{Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the exporter's log:\n%s", process.Tail(e.Log(), 30))
		}
		e.Close()
	})
	return e
}

func eventually(t *testing.T, limit time.Duration, ready func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	if err := process.Await(ctx, 100*time.Millisecond, ready); err != nil {
		t.Fatal(err)
	}
}

// pods is the addresses of the cluster's pods by their names.
func (c *cluster) pods() map[string]string {
	pods := map[string]string{}
	for _, p := range c.Pods() {
		pods[p.Namespace+"/"+p.Name] = p.IP
	}
	return pods
}

// shown is what a page has of each cluster: the address of each pod, by its name.
func shown(page *exporter.Page) map[string]map[string]string {
	all := map[string]map[string]string{}
	for _, metric := range page.Families[check.PodMemory].GetMetric() {
		l := exporter.Labels(metric)
		if all[l["cluster"]] == nil {
			all[l["cluster"]] = map[string]string{}
		}
		all[l["cluster"]][l["namespace"]+"/"+l["pod"]] = l["ip"]
	}
	return all
}

// TestContextsComeAndGo changes the kubeconfig while all is scraped every second: each page has of each cluster what
// one of its servers has, or nothing, and of those that nothing was changed of always all.
func TestContextsComeAndGo(t *testing.T) {
	t.Parallel()
	for name, args := range map[string]func(file string) []string{
		"all contexts": func(file string) []string { return []string{"--kubeconfig=" + file, "--context=*"} },
		"a folder":     func(file string) []string { return []string{"--kubeconfig=" + filepath.Dir(file)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			file := filepath.Join(folder, "config")
			a, b, other, second := newCluster(t, 1, 60), newCluster(t, 2, 40), newCluster(t, 3, 50), newCluster(t, 4, 70)
			put := func(clusters map[string]*cluster) {
				if name == "all contexts" {
					write(t, file, clusters)
					return
				}
				entries, _ := os.ReadDir(folder)
				for _, e := range entries {
					if clusters[e.Name()] == nil {
						os.Remove(filepath.Join(folder, e.Name()))
					}
				}
				for name, c := range clusters {
					write(t, filepath.Join(folder, name), map[string]*cluster{"the-only-one": c})
				}
			}
			put(map[string]*cluster{"a": a, "b": b})
			e := start(t, args(file)...)
			is := func(want map[string]*cluster) func(context.Context) error {
				return func(ctx context.Context) error {
					page, err := e.Scrape(ctx)
					if err != nil {
						return err
					}
					got := shown(page)
					if len(got) != len(want) {
						return fmt.Errorf("the page has the clusters %q", slices.Sorted(maps.Keys(got)))
					}
					for name, c := range want {
						if !maps.Equal(got[name], c.pods()) {
							return fmt.Errorf("of %s the page has %d pods, not those of its server", name, len(got[name]))
						}
					}
					return nil
				}
			}
			eventually(t, 30*time.Second, is(map[string]*cluster{"a": a, "b": b}))
			ctx, stop := context.WithCancel(t.Context())
			var watching sync.WaitGroup
			pages := 0
			watching.Go(func() {
				for tick := time.NewTicker(time.Second); ; {
					select {
					case <-tick.C:
					case <-ctx.Done():
						return
					}
					page, err := e.Scrape(ctx)
					if ctx.Err() != nil {
						return
					}
					if err != nil {
						t.Error(err)
						continue
					}
					pages++
					for name, pods := range shown(page) {
						if name == "b" && !maps.Equal(pods, b.pods()) {
							t.Errorf("of b there are %d pods of %d", len(pods), len(b.pods()))
						}
						isOf := func(c *cluster) bool { return maps.Equal(pods, c.pods()) }
						if !slices.ContainsFunc([]*cluster{a, b, other, second}, isOf) {
							t.Errorf("%s is a mixture of servers: %v", name, pods)
						}
					}
					if len(shown(page)["b"]) == 0 {
						t.Error("b is missing")
					}
				}
			})
			for _, step := range []map[string]*cluster{
				{"a": a, "b": b, "c": other},
				{"b": b, "c": other},
				{"a": a, "b": b, "c": other},
				{"a": second, "b": b, "c": other}, // another server, certificate and token
				{"a": second, "b": b},
			} {
				put(step)
				eventually(t, 30*time.Second, is(step))
			}
			// The token alone: the server goes on with the new one only.
			second.token = "planted-secret-another-" + strings.Repeat("y", 20)
			second.SetTokens(second.token)
			put(map[string]*cluster{"a": second, "b": b})
			eventually(t, 40*time.Second, func(ctx context.Context) error {
				if status, body, err := e.Get(ctx, "/healthz"); err != nil || status != http.StatusOK {
					return fmt.Errorf("%d %s %v", status, body, err)
				}
				second.mu.Lock()
				defer second.mu.Unlock()
				if second.sent["Bearer "+second.token] == 0 {
					return fmt.Errorf("the new token is not used")
				}
				return nil
			})
			stop()
			watching.Wait()
			if pages < 20 {
				t.Errorf("only %d pages", pages)
			}
			if text := e.Log(); strings.Contains(text, "(cluster b)") {
				t.Errorf("the log has lines of b, of which nothing was changed:\n%s", text)
			}
		})
	}
}

// TestSecretsStayWithTheirClusters has each cluster's server repeat what it was sent in all that it answers.
func TestSecretsStayWithTheirClusters(t *testing.T) {
	t.Parallel()
	const clusters = 6
	all := map[string]*cluster{}
	for i := range uint64(clusters) {
		all[fmt.Sprint("cluster-", i)] = newCluster(t, i+1, 20)
	}
	file := filepath.Join(t.TempDir(), "config")
	write(t, file, all)
	e := start(t, "--kubeconfig="+file, "--context=*", "--log.level=debug", "--pages=cadvisor,kube-state-metrics")
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		page, err := e.Scrape(ctx)
		if err == nil && len(shown(page)) != clusters {
			err = fmt.Errorf("%d clusters", len(shown(page)))
		}
		return err
	})
	var seen []string
	look := func(path string) {
		_, body, err := e.Get(t.Context(), path)
		if err != nil {
			t.Error(err)
		}
		seen = append(seen, path+": "+body)
	}
	everything := func() {
		for _, query := range []string{"", "?cluster=cluster-0", "?cluster=cluster-5", "?cluster=none"} {
			for _, path := range []string{"/metrics", "/metrics/cadvisor", "/metrics/kube-state-metrics", "/healthz", "/-/ready",
				"/top.json", "/", "/sd"} {
				look(path + query)
			}
		}
	}
	everything()
	for name, c := range all {
		c.Intercept(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			sent := r.Header.Get("Authorization")
			c.mu.Lock()
			c.sent[sent]++
			c.mu.Unlock()
			http.Error(w, fmt.Sprintf("%s: %s and %s are not welcome", name, sent, strings.TrimPrefix(sent, "Bearer ")),
				map[bool]int{true: http.StatusUnauthorized, false: http.StatusInternalServerError}[name < "cluster-3"])
		})
		c.CloseWatches()
	}
	eventually(t, 40*time.Second, func(ctx context.Context) error {
		_, body, err := e.Get(ctx, "/healthz")
		for name := range all {
			if !strings.Contains(body, "(cluster "+name+")") {
				return fmt.Errorf("%s does not fail yet: %s %v", name, body, err)
			}
		}
		return nil
	})
	everything()
	seen = append(seen, "log: "+e.Log())
	for name, c := range all {
		for _, text := range seen {
			if i := strings.Index(text, c.token[:20]); i >= 0 {
				t.Errorf("the secret of %s is shown: %.300s", name, text[max(0, i-200):])
			}
		}
		for sent := range c.sent {
			if sent != "Bearer "+c.token {
				t.Errorf("%s was sent %q", name, sent)
			}
		}
		if c.sent["Bearer "+c.token] < 5 {
			t.Errorf("%s was sent its own secret %d times", name, c.sent["Bearer "+c.token])
		}
	}
}
