package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// awaitFailed returns /healthz when it answers 503 with all these parts; / must have them too.
func awaitFailed(t *testing.T, e *exporter.Exporter, limit time.Duration, parts ...string) string {
	t.Helper()
	var health string
	eventually(t, limit, func(ctx context.Context) error {
		status, body, err := e.Get(ctx, "/healthz")
		if err != nil {
			return err
		}
		if status != http.StatusServiceUnavailable || !strings.HasPrefix(body, "failed\n") {
			return fmt.Errorf("/healthz answers %d %q", status, body)
		}
		_, index, err := e.Get(ctx, "/")
		if err != nil {
			return err
		}
		for _, part := range parts {
			if !strings.Contains(body, part) {
				return fmt.Errorf("/healthz does not say %q:\n%s", part, body)
			}
			if !strings.Contains(htmlText(index), part) {
				return fmt.Errorf("/ does not say %q:\n%s", part, index)
			}
		}
		health = body
		return nil
	})
	return health
}

// htmlText undoes the escaping of a page's text.
func htmlText(html string) string {
	return strings.NewReplacer("&#34;", `"`, "&quot;", `"`, "&#39;", "'", "&lt;", "<", "&gt;", ">", "&amp;", "&").Replace(html)
}

// awaitHealthy returns when /healthz answers 200.
func awaitHealthy(t *testing.T, e *exporter.Exporter, limit time.Duration) {
	t.Helper()
	eventually(t, limit, func(ctx context.Context) error {
		status, body, err := e.Get(ctx, "/healthz")
		if err != nil || status != http.StatusOK {
			return errors.Join(err, fmt.Errorf("/healthz answers %d %q", status, body))
		}
		return nil
	})
}

// problems is the log's lines that are neither info nor debug.
func problems(e *exporter.Exporter) []string {
	return append(linesWith(e.Log(), "level=WARN"), linesWith(e.Log(), "level=ERROR")...)
}

// problemsLater is problems after time enough for several attempts more. Nothing tells of an attempt from outside.
func problemsLater(e *exporter.Exporter) []string {
	<-time.After(5 * time.Second)
	return problems(e)
}

// TestMissingRuleIsNamed takes one rule at a time out of deploy's ClusterRole, runs with what is left, and gives it back.
func TestMissingRuleIsNamed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name                  string
		verb, group, resource string
	}{
		{"watch-pods", "watch", "", "pods"},
		{"list-pod-metrics", "list", "metrics.k8s.io", "pods"},
		{"list-node-metrics", "list", "metrics.k8s.io", "nodes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 2*time.Minute)
			role := must(plane.Admin.RbacV1().ClusterRoles().Get(ctx, "metrics-server-prom", metav1.GetOptions{}))(t)
			role.ObjectMeta = metav1.ObjectMeta{Name: "lacks-" + test.name}
			whole := slices.Clone(role.Rules)
			role.Rules = nil
			for _, rule := range whole {
				rule = *rule.DeepCopy()
				if slices.Contains(rule.APIGroups, test.group) && slices.Contains(rule.Resources, test.resource) {
					rule.Verbs = slices.DeleteFunc(rule.Verbs, func(verb string) bool { return verb == test.verb })
				}
				if len(rule.Verbs) > 0 {
					role.Rules = append(role.Rules, rule)
				}
			}
			if rights(role.Rules) != rights(whole)-1 {
				t.Fatalf("deploy's ClusterRole has not %s %s.%s: %v", test.verb, test.resource, test.group, whole)
			}
			role = must(plane.Admin.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}))(t)
			kubeconfig := account(t, "team-b", test.name)
			if err := plane.BindClusterRole(ctx, role.Name, "team-b", test.name, ""); err != nil {
				t.Fatal(err)
			}

			e := startExporter(t, kubeconfig)
			resource := test.resource
			if test.group != "" {
				resource += "." + test.group
			}
			if test.resource == "nodes" { // optional: said once, no failure
				eventually(t, aTick, func(context.Context) error {
					if len(linesWith(e.Log(), "403 Forbidden", test.verb, resource, "deploy/")) != 1 {
						return errors.New("not one log line")
					}
					return nil
				})
				awaitHealthy(t, e, aTick)
			} else {
				awaitFailed(t, e, aTick, "403 Forbidden", test.verb, resource, "deploy/")
			}
			if told := linesWith(e.Log(), "403 Forbidden"); len(told) != 1 {
				t.Errorf("%d log lines about it:\n%s", len(told), strings.Join(told, "\n"))
			}

			role.Rules = whole
			if _, err := plane.Admin.RbacV1().ClusterRoles().Update(ctx, role, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			// metrics-server caches its own question to the API server for 10 s.
			if _, err := check.Equal(within(t, aTick+20*time.Second), plane, e, check.Scope{}); err != nil {
				t.Error(err)
			}
			awaitHealthy(t, e, aTick)
		})
	}
}

// rights is how many verbs the rules have altogether.
func rights(rules []rbacv1.PolicyRule) (n int) {
	for _, rule := range rules {
		n += len(rule.Verbs) * len(rule.Resources)
	}
	return n
}

func TestTokenThatTheServerDoesNotKnow(t *testing.T) {
	t.Parallel()
	const token = "eyJ-a-planted-token-that-nobody-knows"
	kubeconfig := must(plane.Kubeconfig(controlplane.Credentials{Token: token}))(t)
	e := startExporter(t, kubeconfig)
	health := awaitFailed(t, e, aTick, "401", "token")
	_, index, err := e.Get(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"/healthz": health, "/": index, "the log": e.Log()} {
		if strings.Contains(text, token) {
			t.Errorf("%s has the token:\n%s", where, text)
		}
	}
	if told := problemsLater(e); len(told) != 1 {
		t.Errorf("%d log lines about it:\n%s", len(told), strings.Join(told, "\n"))
	}
}

// TestKubeconfigThatDoesNotLeadToACluster is each way in which that can be; what is wrong is said, and asked anew: the
// process stays.
func TestKubeconfigThatDoesNotLeadToACluster(t *testing.T) {
	t.Parallel()
	refused := must(process.FreePort())(t)
	kubeconfig := func(change func(*clientcmdapi.Config)) func(t *testing.T) string {
		return func(t *testing.T) string {
			config := clientcmdapi.Config{
				Clusters:       map[string]*clientcmdapi.Cluster{"e2e": {Server: plane.URL(), InsecureSkipTLSVerify: true}},
				AuthInfos:      map[string]*clientcmdapi.AuthInfo{"e2e": {}},
				Contexts:       map[string]*clientcmdapi.Context{"e2e": {Cluster: "e2e", AuthInfo: "e2e"}},
				CurrentContext: "e2e",
			}
			change(&config)
			path := filepath.Join(t.TempDir(), "config")
			if err := clientcmd.WriteToFile(config, path); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	for _, test := range []struct {
		name       string
		kubeconfig func(t *testing.T) string
		args       []string
		says       []string
	}{
		{
			name:       "no such file",
			kubeconfig: func(t *testing.T) string { return filepath.Join(t.TempDir(), "nothing") },
			says:       []string{"no cluster configured", "--kubeconfig"},
		},
		{
			name: "not a kubeconfig",
			kubeconfig: func(t *testing.T) string {
				path := filepath.Join(t.TempDir(), "config")
				if err := os.WriteFile(path, []byte("users: [{password: planted-secret"), 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			},
			says: []string{"not a valid kubeconfig"},
		},
		{
			name:       "no context in it",
			kubeconfig: kubeconfig(func(c *clientcmdapi.Config) { c.Contexts, c.CurrentContext = nil, "" }),
			says:       []string{"no cluster configured"},
		},
		{
			name:       "unknown context",
			kubeconfig: kubeconfig(func(*clientcmdapi.Config) {}),
			args:       []string{"--context=production"},
			says:       []string{"production", "--context", "e2e"},
		},
		{
			name:       "server refuses the connection",
			kubeconfig: kubeconfig(func(c *clientcmdapi.Config) { c.Clusters["e2e"].Server = fmt.Sprintf("https://127.0.0.1:%d", refused) }),
			says:       []string{"connection refused", "check the server's address"},
		},
		{
			name:       "server's name does not resolve",
			kubeconfig: kubeconfig(func(c *clientcmdapi.Config) { c.Clusters["e2e"].Server = "https://kubernetes.invalid:6443" }),
			says:       []string{"kubernetes.invalid", "DNS"},
		},
		{
			name: "exec plugin that is not installed",
			kubeconfig: kubeconfig(func(c *clientcmdapi.Config) {
				c.AuthInfos["e2e"].Exec = &clientcmdapi.ExecConfig{
					Command: "an-auth-plugin-of-your-cloud", APIVersion: "client.authentication.k8s.io/v1",
					InteractiveMode: clientcmdapi.NeverExecInteractiveMode, InstallHint: "install it\non your machine",
				}
			}),
			says: []string{"an-auth-plugin-of-your-cloud", "not installed", "service account"},
		},
		{
			name:       "certificate of an unknown authority",
			kubeconfig: kubeconfig(func(c *clientcmdapi.Config) { c.Clusters["e2e"].InsecureSkipTLSVerify = false }),
			says:       []string{"certificate", "certificate-authority"},
		},
		{
			name:       "anonymous",
			kubeconfig: kubeconfig(func(*clientcmdapi.Config) {}),
			says:       []string{"403 Forbidden", "system:anonymous", "pods"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e := startExporter(t, test.kubeconfig(t), test.args...)
			awaitFailed(t, e, aTick, test.says...)
			told := problemsLater(e)
			if len(told) != 1 {
				t.Errorf("%d log lines about it:\n%s", len(told), strings.Join(told, "\n"))
			}
			for _, part := range test.says {
				if len(told) > 0 && !strings.Contains(strings.ReplaceAll(told[0], `\"`, `"`), part) {
					t.Errorf("the log line does not say %q: %s", part, told[0])
				}
			}
			if strings.Contains(e.Log(), "planted-secret") {
				t.Error("the log quotes the kubeconfig")
			}
			if status, _, err := e.Get(t.Context(), "/-/healthy"); err != nil || status != http.StatusOK {
				t.Errorf("/-/healthy answers %d %v", status, err)
			}
			if status, _, err := e.Get(t.Context(), "/-/ready"); err != nil || status != http.StatusServiceUnavailable {
				t.Errorf("/-/ready answers %d %v", status, err)
			}
		})
	}
}

// silentServer is a kubeconfig for a server that takes connections and never answers.
func silentServer(t *testing.T) (kubeconfig string) {
	t.Helper()
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { listener.Close() })
	path := filepath.Join(t.TempDir(), "config")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"silent": {Server: "http://" + listener.Addr().String()}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"silent": {}},
		Contexts:       map[string]*clientcmdapi.Context{"silent": {Cluster: "silent", AuthInfo: "silent"}},
		CurrentContext: "silent",
	}, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMetricsServerNotThereYet is a cluster that gets its metrics-server only after the exporter was started.
func TestMetricsServerNotThereYet(t *testing.T) {
	ctx := within(t, 4*time.Minute)
	plane.MetricsServer.Kill()
	if err := plane.UninstallMetricsAPI(ctx); err != nil {
		t.Fatal(err)
	}
	e := startExporter(t, deployed(t))
	awaitFailed(t, e, aTick, "404", "the metrics API is not installed")
	if status, _, err := e.Get(ctx, "/-/ready"); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("/-/ready answers %d %v", status, err)
	}

	if err := plane.InstallMetricsAPI(ctx); err != nil {
		t.Fatal(err)
	}
	awaitFailed(t, e, aTick, "503", "metrics-server is not running")

	if err := plane.MetricsServer.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := plane.AwaitUsage(ctx); err != nil {
		t.Fatal(err)
	}
	page := equal(t, e, check.Scope{})
	if len(check.Served(page)) == 0 {
		t.Error("the page has no samples")
	}
	awaitHealthy(t, e, aTick)
}

// TestAPIServerRestarted kills the API server and starts it again with what etcd has.
func TestAPIServerRestarted(t *testing.T) {
	ctx := within(t, 3*time.Minute)
	e := startReady(t, deployed(t))
	equal(t, e, check.Scope{})

	plane.APIServer.Kill()
	killed := time.Now()
	awaitFailed(t, e, aTick, "connection refused")
	eventually(t, aTick, func(ctx context.Context) error {
		page, err := e.Scrape(ctx)
		if err != nil {
			return err
		}
		if len(check.Served(page)) == 0 {
			t.Fatalf("no samples %s after the API server is gone, long before they are too old", time.Since(killed))
		}
		if up, series := page.Sum("metrics_server_prom_up", nil); up != 0 || series != 2 {
			return fmt.Errorf("metrics_server_prom_up is %v in sum of %d", up, series)
		}
		return nil
	})

	if err := plane.APIServer.Start(ctx); err != nil {
		t.Fatal(err)
	}
	// What happened meanwhile must be seen although the watch was cut.
	createPod(t, onePod("after-restart", "fresh", "node-1"))
	awaitNodes(t, e, "after-restart", "fresh", aTick, nil, "node-1")
	equal(t, e, check.Scope{})
	awaitHealthy(t, e, aTick)
	if told := problems(e); len(told) == 0 || len(told) > 2 {
		t.Errorf("%d log lines about one outage:\n%s", len(told), strings.Join(told, "\n"))
	}
}
