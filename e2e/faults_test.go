package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

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
	return strings.NewReplacer("&#34;", `"`, "&quot;", `"`, "&#39;", "'", "&lt;", "<", "&gt;", ">", "&amp;",
		"&").Replace(html)
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

// problemsLater is problems after time enough for several more attempts. An attempt cannot be seen from outside.
func problemsLater(e *exporter.Exporter) []string {
	<-time.After(5 * time.Second)
	return problems(e)
}

// TestMissingRuleIsNamed takes one rule at a time out of deploy's ClusterRole and Role, runs with what is left, and
// gives it back. It has a case for each, so that none of them is spare.
func TestMissingRuleIsNamed(t *testing.T) {
	t.Parallel()
	const usage = "metrics.k8s.io"
	type rule struct{ verb, group, resource string }
	for _, of := range []struct {
		name  string
		file  string // of the role
		in    string // the namespace that it is bound in, "" for all
		scope check.Scope
		rules []rule
	}{
		{"cluster", deploy("kubernetes", "clusterrole.yaml"), "", check.Scope{}, []rule{
			{"list", "", "pods"}, {"watch", "", "pods"},
			{"list", usage, "pods"}, {"list", usage, "nodes"}, {"get", usage, "nodes"},
			{"list", "", "nodes"}, {"watch", "", "nodes"},
		}},
		{"namespace", deploy("kubernetes-namespaced", "role.yaml"), "shop",
			check.Scope{Namespaces: []string{"shop"}, NoNodes: true}, []rule{
				{"list", "", "pods"}, {"watch", "", "pods"}, {"list", usage, "pods"}, {"get", usage, "pods"},
			}},
	} {
		var role rbacv1.ClusterRole // which can be bound in a namespace as well
		if err := yaml.Unmarshal(must(os.ReadFile(of.file))(t), &role); err != nil {
			t.Fatal(err)
		}
		if rights(role.Rules) != len(of.rules) {
			t.Errorf("%s has %d rights, %d of them have a test", of.file, rights(role.Rules), len(of.rules))
		}
		args := []string{}
		if of.in != "" {
			args = append(args, "--namespaces="+of.in)
		}
		for _, rule := range of.rules {
			resource := rule.resource
			if rule.group != "" {
				resource += "." + rule.group
			}
			name := of.name + "-" + rule.verb + "-" + resource
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				ctx := within(t, 3*time.Minute)
				lacking := without(role.Rules, rule.verb, rule.group, rule.resource)
				if rights(lacking) != len(of.rules)-1 {
					t.Fatalf("%s has not %s %s: %v", of.file, rule.verb, resource, role.Rules)
				}
				bound := must(plane.Admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
					ObjectMeta: metav1.ObjectMeta{Name: "lacks-" + name}, Rules: lacking,
				}, metav1.CreateOptions{}))(t)
				kubeconfig := account(t, "team-b", name)
				if err := plane.BindClusterRole(ctx, bound.Name, "team-b", name, of.in); err != nil {
					t.Fatal(err)
				}
				if rule.verb == "list" && rule.group == "" { // needed where objects cannot be listed by a watch
					kubeconfig = withoutWatchLists(t, kubeconfig)
				}

				e := startExporter(t, kubeconfig, args...)
				switch {
				case rule.verb == "get": // needed to read right after metrics-server; all else works
					whole := startReady(t, deployed(t))
					eventually(t, 2*aTick, func(ctx context.Context) error { return knowsPeriod(ctx, whole) })
					if err := knowsPeriod(ctx, e); err == nil {
						t.Error("the exporter knows metrics-server's period")
					}
					if _, err := check.Equal(ctx, plane, e, of.scope); err != nil {
						t.Error(err)
					}
					awaitHealthy(t, e, aTick)
					return
				case rule.resource == "nodes": // optional: said once, no failure
					eventually(t, aTick, func(context.Context) error {
						if len(linesWith(e.Log(), "403 Forbidden", rule.verb, resource, "deploy/")) != 1 {
							return errors.New("not one log line")
						}
						return nil
					})
					awaitHealthy(t, e, aTick)
				default:
					awaitFailed(t, e, aTick, "403 Forbidden", rule.verb+" "+resource, "deploy/")
				}
				told := slices.DeleteFunc(linesWith(e.Log(), "403 Forbidden"), func(line string) bool {
					return of.scope.NoNodes && strings.Contains(line, "nodes."+usage)
				})
				if len(told) != 1 {
					t.Errorf("%d log lines about it:\n%s", len(told), strings.Join(told, "\n"))
				}

				bound.Rules = role.Rules
				if _, err := plane.Admin.RbacV1().ClusterRoles().Update(ctx, bound,
					metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
				// metrics-server caches its own question to the API server for 10 s.
				if _, err := check.Equal(within(t, aTick+20*time.Second), plane, e, of.scope); err != nil {
					t.Error(err)
				}
				awaitHealthy(t, e, aTick)
			})
		}
	}
}

// without is the rules without one right.
func without(rules []rbacv1.PolicyRule, verb, group, resource string) (left []rbacv1.PolicyRule) {
	for _, rule := range rules {
		rule = *rule.DeepCopy()
		if slices.Contains(rule.APIGroups, group) && slices.Contains(rule.Resources, resource) {
			rule.Verbs = slices.DeleteFunc(rule.Verbs, func(v string) bool { return v == verb })
		}
		if len(rule.Verbs) > 0 {
			left = append(left, rule)
		}
	}
	return left
}

// knowsPeriod tells whether the exporter has found out when metrics-server has new values.
func knowsPeriod(ctx context.Context, e *exporter.Exporter) error {
	page, err := e.Scrape(ctx)
	if err != nil {
		return err
	}
	if period, _ := page.Sum("metrics_server_prom_source_period_seconds", nil); period == 0 {
		return errors.New("no period is known")
	}
	return nil
}

// withoutWatchLists is a kubeconfig for the same API server, which cannot stream a list to a watch now, as one before
// Kubernetes 1.32.
func withoutWatchLists(t *testing.T, kubeconfig string) string {
	t.Helper()
	config := must(clientcmd.LoadFromFile(kubeconfig))(t)
	target := must(url.Parse(plane.URL()))(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(config.Clusters["e2e"].CertificateAuthorityData)
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
		FlushInterval: -1, // a watch's events as they come
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("sendInitialEvents") {
			invalid := apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "ListOptions"}, "",
				nil).Status()
			invalid.APIVersion, invalid.Kind = "v1", "Status"
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(int(invalid.Code))
			json.NewEncoder(w).Encode(invalid)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	config.Clusters["e2e"].Server = server.URL
	config.Clusters["e2e"].CertificateAuthorityData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: server.Certificate().Raw})
	path := filepath.Join(t.TempDir(), "config")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
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

// TestKubeconfigThatDoesNotLeadToACluster has each way in which that can happen. The exporter says what is wrong, stays
// alive and asks again.
func TestKubeconfigThatDoesNotLeadToACluster(t *testing.T) {
	t.Parallel()
	refused := must(process.FreePort())(t)
	kubeconfig := func(change func(*clientcmdapi.Config)) func(t *testing.T) string {
		return func(t *testing.T) string {
			config := clientcmdapi.Config{
				Clusters: map[string]*clientcmdapi.Cluster{"e2e": {Server: plane.URL(),
					InsecureSkipTLSVerify: true}},
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
			name: "server refuses the connection",
			kubeconfig: kubeconfig(func(c *clientcmdapi.Config) {
				c.Clusters["e2e"].Server = fmt.Sprintf("https://127.0.0.1:%d", refused)
			}),
			says: []string{"connection refused", "check the server's address"},
		},
		{
			name: "server's name does not resolve",
			kubeconfig: kubeconfig(func(c *clientcmdapi.Config) {
				c.Clusters["e2e"].Server = "https://kubernetes.invalid:6443"
			}),
			says: []string{"kubernetes.invalid", "DNS"},
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
