package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
	"metrics-server-prom/e2e/receiver"
)

// once runs the exporter with --once, which must end with this code.
func once(t *testing.T, code int, kubeconfig string, args ...string) exporter.Once {
	t.Helper()
	ran := must(exporter.RunOnce(within(t, 30*time.Second), "",
		append([]string{"--once", "--kubeconfig=" + kubeconfig}, args...), nil))(t)
	if ran.Code != code {
		t.Fatalf("exit code %d, not %d:\n%s", ran.Code, code, ran.Stderr)
	}
	if code != 0 && strings.TrimSpace(ran.Stderr) == "" {
		t.Error("it does not say why it failed")
	}
	return ran
}

// onlyLists is an account that may read what the pages need, but not watch it.
func onlyLists(t *testing.T, name string) (kubeconfig string) {
	t.Helper()
	kubeconfig = account(t, "metrics-server-prom", name)
	text := string(must(os.ReadFile(deploy("kubernetes", "components", "pages", "clusterrole.yaml")))(t))
	text = strings.NewReplacer("name: metrics-server-prom\n", "name: "+name+"\n", ", watch]", "]").Replace(text)
	if strings.Contains(text, "watch]") {
		t.Fatalf("the role still has the right to watch:\n%s", text)
	}
	if _, err := plane.ApplyYAML(within(t, 30*time.Second), []byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := plane.BindClusterRole(t.Context(), name, "metrics-server-prom", name, ""); err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

// whileSteady runs f until the API says the same before and after it, and returns what the API says.
func whileSteady(t *testing.T, f func()) map[string]float64 {
	t.Helper()
	var want map[string]float64
	eventually(t, time.Minute, func(ctx context.Context) error {
		before, err := check.Read(ctx, plane)
		if err != nil {
			return err
		}
		f()
		after, err := check.Read(ctx, plane)
		if err != nil {
			return err
		}
		if want = before.Samples(check.Scope{}); check.Diff(want, after.Samples(check.Scope{})) != nil {
			return errors.New("the API's values have changed meanwhile")
		}
		return nil
	})
	return want
}

// TestOncePrintsThePagesWithoutTheRightToWatch finds that two lists are all that is asked for, and each page's objects.
func TestOncePrintsThePagesWithoutTheRightToWatch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, account string
		args          []string
		lists         []string
		has           []string // families
	}{
		{"only the first page", "once-lists", nil,
			[]string{"nodes.metrics.k8s.io", "pods", "pods.metrics.k8s.io"}, nil},
		{"all pages", "once-lists-all", []string{"--pages=cadvisor,kube-state-metrics"},
			[]string{"jobs.batch", "namespaces", "nodes", "nodes.metrics.k8s.io", "pods", "pods.metrics.k8s.io",
				"replicasets.apps", "resourcequotas"},
			[]string{"container_memory_working_set_bytes", "kube_pod_info", "kube_node_info", "kube_namespace_status_phase"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			kubeconfig := onlyLists(t, test.account)
			var ran exporter.Once
			runs := 0
			want := whileSteady(t, func() {
				ran = once(t, 0, kubeconfig, test.args...)
				runs++
			})
			const why = "# What this program counts itself"
			var text strings.Builder // without the remark, which each page has that would have more
			for line := range strings.Lines(ran.Stdout) {
				if !strings.HasPrefix(line, why) {
					text.WriteString(line)
				}
			}
			if text.Len() == len(ran.Stdout) {
				t.Error("it does not say why there are no counters")
			}
			page := &exporter.Page{Wire: []byte(text.String())}
			if err := page.Parse(); err != nil {
				t.Fatalf("%v\n%.500s", err, ran.Stdout)
			}
			if differences := check.Diff(want, check.Served(page)); differences != nil {
				t.Errorf("%d of %d samples differ:\n%s", len(differences), len(want),
					strings.Join(differences[:min(10, len(differences))], "\n"))
			}
			for _, family := range test.has {
				if len(page.Family(family)) == 0 {
					t.Errorf("there is no %s", family)
				}
			}
			if n := len(page.Family("container_cpu_usage_seconds_total")); n > 0 {
				t.Errorf("there are %d CPU counters, which would begin again with each run", n)
			}
			requests := map[string]int{}
			for _, request := range must(plane.Requests("metrics-server-prom", test.account))(t) {
				name := strings.TrimSuffix(request.Resource+"."+request.Group, ".")
				if request.Verb == "watch" || strings.Contains(request.URI, "watch=") {
					t.Errorf("a watch: %s", request.URI)
				}
				if request.Verb == "list" {
					requests[name]++
				}
			}
			if lists := slices.Sorted(maps.Keys(requests)); !slices.Equal(lists, test.lists) {
				t.Errorf("lists of %q, want %q", lists, test.lists)
			}
			for name, n := range requests {
				if n != runs {
					t.Errorf("%d lists of %s in %d runs", n, name, runs)
				}
			}
		})
	}
}

// TestOncePushesWhatTheAPISays pushes by remote write to both real receivers, with the API's timestamps, and again.
func TestOncePushesWhatTheAPISays(t *testing.T) {
	t.Parallel()
	for _, kind := range []receiver.Kind{receiver.Prometheus, receiver.VictoriaMetrics} {
		t.Run(kind.Name, func(t *testing.T) {
			t.Parallel()
			to := startReceiver(t, kind)
			kubeconfig := withPages(t)
			args := []string{"--pages=cadvisor,kube-state-metrics", "--push.url=" + to.URL + kind.Write,
				"--push.format=remote-write", "--push.instance=once"}
			var ran exporter.Once
			want := whileSteady(t, func() { ran = once(t, 0, kubeconfig, args...) })
			if ran.Stdout != "" {
				t.Errorf("it prints: %.300s", ran.Stdout)
			}
			eventually(t, 20*time.Second, func(ctx context.Context) error {
				got := map[string]float64{}
				for _, family := range []string{check.NodeCPU, check.NodeMemory, check.PodCPU, check.PodMemory} {
					series, err := to.Instant(ctx, fmt.Sprintf(`%s{job="metrics-server-prom",instance="once"}`, family), time.Now())
					if err != nil {
						return err
					}
					for _, s := range series {
						got[pageText(s.Labels)] = s.Samples[0].Value
					}
				}
				if differences := check.Diff(want, got); differences != nil {
					return fmt.Errorf("%d of %d samples differ:\n%s", len(differences), len(want),
						strings.Join(differences[:min(10, len(differences))], "\n"))
				}
				ups, err := to.Instant(ctx, `up{instance="once"} == 1`, time.Now())
				if err == nil && len(ups) != 3 {
					err = fmt.Errorf("up: %v", ups)
				}
				return err
			})
			counters, err := to.Instant(t.Context(),
				`{__name__=~".+_total|.+_bucket",instance="once",job!="kube-state-metrics"}`, time.Now())
			if err != nil || len(counters) > 0 {
				t.Errorf("counters: %v, %v", counters, err)
			}
			once(t, 0, kubeconfig, args...)
			if refused, err := to.Refused(t.Context()); err != nil || len(refused) > 0 {
				t.Errorf("refused: %v, %v", refused, err)
			}
		})
	}
}

// pageText is a series of the four families as check.Reading.Samples writes it. No value here needs an escape.
func pageText(labels map[string]string) string {
	name, names := labels["__name__"], []string{"node"}
	if strings.Contains(name, "_pod_") {
		names = []string{"node", "pod", "ip", "container", "namespace"}
	}
	var pairs []string
	for _, label := range names {
		pairs = append(pairs, fmt.Sprintf("%s=%q", label, labels[label]))
	}
	return name + "{" + strings.Join(pairs, ",") + "}"
}

// TestOnceFailsWithTheReason ends with 1 and one line that says why.
func TestOnceFailsWithTheReason(t *testing.T) {
	t.Parallel()
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "the tenant is unknown", http.StatusForbidden)
	}))
	t.Cleanup(refusing.Close)
	nobody := fmt.Sprintf("http://127.0.0.1:%d", must(process.FreePort())(t))
	elsewhere := filepath.Join(t.TempDir(), "kubeconfig")
	text := must(os.ReadFile(deployed(t)))(t)
	if err := os.WriteFile(elsewhere, []byte(strings.ReplaceAll(string(text), plane.URL(), nobody)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, kubeconfig, url, format, says string
	}{
		{"remote write refused", deployed(t), refusing.URL, "remote-write", "the tenant is unknown"},
		{"text refused", deployed(t), refusing.URL, "text", "the tenant is unknown"},
		{"no API server", elsewhere, "", "text", "refused"},
		{"no rights", account(t, "metrics-server-prom", "once-nothing"), "", "text", "403"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var args []string
			if test.url != "" {
				args = []string{"--push.url=" + test.url + "/write", "--push.format=" + test.format}
			}
			ran := once(t, 1, test.kubeconfig, args...)
			if !strings.Contains(ran.Stderr, test.says) || ran.Stdout != "" {
				t.Errorf("it does not say %q:\n%s\n%.300s", test.says, ran.Stderr, ran.Stdout)
			}
		})
	}
}

// TestPushInARequest asks for pushes at POST /-/push, which are the only ones.
func TestPushInARequest(t *testing.T) {
	t.Parallel()
	to := startReceiver(t, receiver.Prometheus)
	e := startReady(t, deployed(t), "--push.url="+to.URL+to.Write, "--push.format=remote-write", "--push.interval=0",
		"--push.instance=asked")
	up := func() int {
		return len(must(to.Instant(t.Context(), `{instance="asked"}`, time.Now()))(t))
	}
	if n := up(); n > 0 {
		t.Errorf("%d series before anybody asked for them", n)
	}
	status, text := push(t, e)
	if status != http.StatusOK || !strings.Contains(text, "samples") {
		t.Fatalf("%d %s", status, text)
	}
	if n := up(); !strings.Contains(text, fmt.Sprintf("%d samples", n)) || n < 2*nodes+2*containers {
		t.Errorf("the receiver has %d series; %s", n, text)
	}
	if status, text := push(t, e); status != http.StatusTooManyRequests {
		t.Errorf("at once again: %d %s", status, text)
	}
	if status, _, err := e.Get(t.Context(), "/-/push"); err != nil || status != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d, %v", status, err)
	}
	eventually(t, 10*time.Second, func(context.Context) error {
		if status, text := push(t, e); status != http.StatusOK {
			return fmt.Errorf("%d %s", status, text)
		}
		return nil
	})
	to.Kill()
	eventually(t, 60*time.Second, func(context.Context) error {
		if status, text := push(t, e); status != http.StatusBadGateway {
			return fmt.Errorf("%d %s", status, text)
		}
		return nil
	})
	if status, text := push(t, startReady(t, deployed(t))); status != http.StatusNotFound {
		t.Errorf("without a receiver: %d %s", status, text)
	}
}

// push asks for a push.
func push(t *testing.T, e *exporter.Exporter) (status int, text string) {
	t.Helper()
	request := must(http.NewRequestWithContext(within(t, 50*time.Second), http.MethodPost, e.URL+"/-/push", nil))(t)
	response := must(http.DefaultClient.Do(request))(t)
	defer response.Body.Close()
	answer := make([]byte, 10_000)
	n, _ := response.Body.Read(answer)
	return response.StatusCode, string(answer[:n])
}

// TestPushInARequestIsGuarded by the web configuration, as all pages are.
func TestPushInARequestIsGuarded(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(config, []byte("basic_auth_users: {me: "+passwordHash+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pushed := make(chan struct{}, 1)
	to := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		select {
		case pushed <- struct{}{}:
		default:
		}
	}))
	t.Cleanup(to.Close)
	e := must(exporter.Launch(exporter.Options{Args: []string{"--kubeconfig=" + deployed(t), "--web.config.file=" + config,
		"--push.url=" + to.URL + "/write", "--push.format=remote-write", "--push.interval=0"}}))(t)
	t.Cleanup(func() { closeExporter(t, e) })
	ask := func(user string) (status int) {
		request := must(http.NewRequestWithContext(t.Context(), http.MethodPost, e.URL+"/-/push", nil))(t)
		if user != "" {
			request.SetBasicAuth(user, password)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0
		}
		response.Body.Close()
		return response.StatusCode
	}
	eventually(t, 30*time.Second, func(context.Context) error {
		if status := ask(""); status != http.StatusUnauthorized {
			return fmt.Errorf("status %d", status)
		}
		return nil
	})
	select {
	case <-pushed:
		t.Fatal("a push without the password")
	default:
	}
	eventually(t, 30*time.Second, func(context.Context) error {
		if status := ask("me"); status != http.StatusOK {
			return fmt.Errorf("status %d", status)
		}
		return nil
	})
	select {
	case <-pushed:
	case <-within(t, 10*time.Second).Done():
		t.Error("nothing was pushed")
	}
}
