package main

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

const deploy = "../../deploy/"

// everything is deploy/kubernetes with all components.
const everything = `
resources: [BASE/kubernetes]
components:
  - BASE/kubernetes/components/namespace
  - BASE/kubernetes/components/servicemonitor
  - BASE/kubernetes/components/podmonitor
  - BASE/kubernetes/components/networkpolicy
  - BASE/kubernetes/components/jobs-kube-prometheus
`

func checkText(t *testing.T, text string) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "set.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := readSet([]string{file})
	if err != nil {
		return err
	}
	return errors.Join(s.check()...)
}

func TestProblemsAreSeen(t *testing.T) {
	good := overlayText(t, everything)
	if err := checkText(t, good); err != nil {
		t.Fatal("the manifests as they are:", err)
	}
	if err := checkText(t, good+"---\n"+good); err == nil || !strings.Contains(err.Error(), "comes twice") {
		t.Errorf("each object twice: got %v", err)
	}
	for _, c := range []struct{ name, old, new, want string }{
		{
			"a field nobody knows", "enableServiceLinks:", "enableServiceLink:",
			`unknown field "spec.template.spec.enableServiceLink"`,
		},
		{"a field that comes twice", "  replicas: 1\n", "  replicas: 1\n  replicas: 2\n", `already set`},
		{"a namespace that is a number", "  namespace: metrics-server-prom\n", "  namespace: 123\n", "cannot unmarshal number"},
		{
			"a pod that restricted refuses", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true",
			"Pod Security restricted",
		},
		{
			"a root that can be written to", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false",
			"may write to its root",
		},
		{
			"an account that is not there", "serviceAccountName: metrics-server-prom", "serviceAccountName: other",
			"no ServiceAccount metrics-server-prom/other",
		},
		{
			"a binding of a role that is not there", "kind: ClusterRole\n  name: metrics-server-prom",
			"kind: ClusterRole\n  name: other", "no ClusterRole /other",
		},
		{"more rights than it needs", "  - list\n  - watch", "  - list\n  - watch\n  - get", "grants"},
		{
			"a Service that selects nothing",
			"targetPort: metrics\n  selector:\n    app.kubernetes.io/name: metrics-server-prom",
			"targetPort: metrics\n  selector:\n    app.kubernetes.io/name: other", "selects no pod",
		},
		{
			"a Service of a port that no container has", "targetPort: metrics", "targetPort: http",
			`no container has a port named "http"`,
		},
		{"a monitor that renames labels", "honorLabels: true", "honorLabels: false", "without honorLabels"},
		{
			"a monitor of a port that the Service has not",
			"    port: metrics\n    scrapeTimeout", "    port: http\n    scrapeTimeout",
			`no port "http"`,
		},
		{"a page that is scraped and not on", "value: cadvisor,kube-state-metrics", "value: cadvisor", "scrapes"},
		{
			"a page that is on and not scraped", "path: /metrics/kube-state-metrics", "path: /metrics/kube-state",
			"but the exporter has",
		},
		{"a job that no dashboard selects", "replacement: kubelet", "replacement: cadvisor", "no dashboards select"},
		{
			"a page without the path that kube-prometheus selects", "targetLabel: metrics_path", "targetLabel: path",
			"no dashboards select",
		},
		{
			"a page that gets the namespace of the exporter", "regex: namespace|", "regex: ",
			"the exporter's own namespace",
		},
		{"a right too few for a page", "  - replicasets\n", "  - deployments\n", "grants"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(good, c.old) {
				t.Fatalf("the manifests have no %q", c.old)
			}
			err := checkText(t, strings.ReplaceAll(good, c.old, c.new))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// TestOnlyTheComponentHasANamespace holds the promise that an overlay changes no namespace that others use: neither its
// labels, when it is applied, nor its life, when it is deleted.
func TestOnlyTheComponentHasANamespace(t *testing.T) {
	for _, c := range []struct {
		name, kustomization string
		want                []string
	}{
		{"the base", `resources: [BASE/kubernetes]`, nil},
		{"the base in an existing namespace", "namespace: monitoring\nresources: [BASE/kubernetes]", nil},
		{"the form for one namespace", `resources: [BASE/kubernetes-namespaced]`, nil},
		{
			"the other components in an existing namespace",
			"namespace: monitoring\nresources: [BASE/kubernetes]\ncomponents: [BASE/kubernetes/components/servicemonitor, " +
				"BASE/kubernetes/components/podmonitor, BASE/kubernetes/components/networkpolicy]",
			nil,
		},
		{
			"the component", "resources: [BASE/kubernetes]\ncomponents: [BASE/kubernetes/components/namespace]",
			[]string{"metrics-server-prom"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := overlay(t, c.kustomization)
			if err := errors.Join(s.check()...); err != nil {
				t.Error(err)
			}
			var got []string
			for _, o := range s.objects {
				if n, ok := o.(*corev1.Namespace); ok {
					got = append(got, n.Name)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("it makes or changes the namespaces %q, want %q", got, c.want)
			}
		})
	}
}

// TestPagesOfEveryForm has each form of deployment with each way to turn pages on and each monitor; what has to fit
// together is in check.
func TestPagesOfEveryForm(t *testing.T) {
	for _, form := range []string{"kubernetes", "kubernetes-namespaced"} {
		for component, want := range map[string]struct {
			pages  []string
			labels map[string]map[string]string
		}{
			"":                     {nil, map[string]map[string]string{}},
			"pages":                {pages: allPages},
			"jobs-mixin":           {allPages, mixin},
			"jobs-kube-prometheus": {allPages, kubePrometheus},
		} {
			for _, monitor := range []string{"", "servicemonitor", "podmonitor"} {
				if component == "pages" && monitor != "" {
					continue // pages is for those who have no monitors
				}
				t.Run(form+" "+component+" "+monitor, func(t *testing.T) {
					kustomization := "namespace: monitoring\nresources: [BASE/" + form + "]\n"
					if component+monitor != "" {
						kustomization += "components:\n"
					}
					for _, c := range []string{monitor, component} {
						if c != "" {
							kustomization += "  - BASE/kubernetes/components/" + c + "\n"
						}
					}
					s := overlay(t, kustomization)
					if err := errors.Join(s.check()...); err != nil {
						t.Error(err)
					}
					if got := pagesOf(s.exporter()); !slices.Equal(got, want.pages) {
						t.Errorf("the exporter has the pages %q, want %q", got, want.pages)
					}
					var endpoints []endpoint
					for _, o := range s.objects {
						switch o := o.(type) {
						case *monitoringv1.ServiceMonitor:
							endpoints = append(endpoints, endpointsOf(o)...)
						case *monitoringv1.PodMonitor:
							endpoints = append(endpoints, podEndpointsOf(o)...)
						}
					}
					if monitor == "" {
						if len(endpoints) > 0 {
							t.Errorf("scrapes %v", endpoints)
						}
						return
					}
					got := map[string]map[string]string{}
					for _, e := range endpoints[1:] {
						got[strings.TrimPrefix(e.path, "/metrics")], _ = relabeled(e.relabelings)
					}
					if !reflect.DeepEqual(got, want.labels) {
						t.Errorf("scrapes with the labels %v, want %v", got, want.labels)
					}
				})
			}
		}
	}
}

// TestExampleScrapesItsPages holds the two files of the compose example against each other.
func TestExampleScrapesItsPages(t *testing.T) {
	var compose struct {
		Services struct {
			Target struct{ Environment struct{ PAGES string } }
		}
	}
	var prometheus struct {
		ScrapeConfigs []struct {
			JobName     string `json:"job_name"`
			MetricsPath string `json:"metrics_path"`
			HonorLabels bool   `json:"honor_labels"`
		} `json:"scrape_configs"`
	}
	for file, into := range map[string]any{"docker-compose.yml": &compose, "prometheus.yml": &prometheus} {
		text, err := os.ReadFile("../../example/" + file)
		if err == nil {
			err = yaml.Unmarshal(text, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := compose.Services.Target.Environment.PAGES; got != strings.Join(allPages, ",") {
		t.Errorf("the exporter has the pages %q, want all", got)
	}
	want := map[string]string{"metrics-server-prom": ""}
	for path, labels := range mixin {
		want[labels["job"]] = "/metrics" + path
	}
	got := map[string]string{}
	for _, c := range prometheus.ScrapeConfigs {
		got[c.JobName] = c.MetricsPath
		if !c.HonorLabels {
			t.Errorf("the job %s renames labels", c.JobName)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("the jobs are %v, want %v", got, want)
	}
}

// overlay is the set of a kustomization outside the project; BASE is its deploy folder there.
func overlay(t *testing.T, kustomization string) set {
	t.Helper()
	file := filepath.Join(t.TempDir(), "set.yaml")
	if err := os.WriteFile(file, []byte(overlayText(t, kustomization)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := readSet([]string{file})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func overlayText(t *testing.T, kustomization string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	base, err := filepath.Abs(deploy)
	if err == nil {
		base, err = filepath.Rel(dir, base)
	}
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(kustomization, "BASE", base)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	made, err := manifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	return string(made)
}

func TestServerlessProblemsAreSeen(t *testing.T) {
	knative, err := os.ReadFile(deploy + "knative/service.yaml")
	if err != nil {
		t.Fatal(err)
	}
	account, err := os.ReadFile(deploy + "kubernetes/serviceaccount.yaml")
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(knative), "containerPort: 9100", "containerPort: 9100\n              hostPort: 9100", 1)
	if err := checkText(t, string(account)+"---\n"+bad); err == nil || !strings.Contains(err.Error(), "hostPort") {
		t.Errorf("Knative, a host port: got %v", err)
	}

	run, err := os.ReadFile(deploy + "cloudrun/service.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for old, bad := range map[string]string{"/-/healthy": "/healthz", "containerConcurrency": "concurrency"} {
		file := filepath.Join(t.TempDir(), "service.yaml")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(run), old, bad)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkCloudRun(file); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("Cloud Run, %s: got %v", bad, err)
		}
	}
}

// TestPushExamples holds the examples of deploy/push against each other and against the receivers' papers.
func TestPushExamples(t *testing.T) {
	folders, err := filepath.Glob(deploy + "push/*/kustomization.yaml")
	if err != nil || len(folders) != 6 {
		t.Fatalf("%q, %v; want six examples", folders, err)
	}
	fileOf := regexp.MustCompile(`(?m)^ *\w+_file: (\S+)`)
	for _, file := range folders {
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			s, err := readSet([]string{filepath.Dir(file)})
			if err != nil {
				t.Fatal(err)
			}
			c, mounted := s.exporter(), ""
			for _, o := range s.objects {
				switch o := o.(type) {
				case *appsv1.Deployment:
					mounted = o.Spec.Template.Spec.Volumes[0].Secret.SecretName
					if o.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
						t.Error("two at a time would push the same series")
					}
				case *batchv1.CronJob:
					mounted = o.Spec.JobTemplate.Spec.Template.Spec.Volumes[0].Secret.SecretName
				}
			}
			env := map[string]string{}
			for _, e := range c.Env {
				env[e.Name] = e.Value
			}
			if env["PUSH_FORMAT"] != "remote-write" || env["PUSH_INSTANCE"] == "" || env["PUSH_URL"] == "" ||
				env["PUSH_HTTP_CONFIG_FILE"] != c.VolumeMounts[0].MountPath+"/http-config.yml" {
				t.Errorf("settings %q", env)
			}
			secret := s.secret(mounted)
			config, ok := secret["http-config.yml"]
			if !ok {
				t.Errorf("Secret %s is mounted, and has no http-config.yml", mounted)
			}
			for _, found := range fileOf.FindAllSubmatch(config, -1) {
				if _, ok := secret[string(found[1])]; !ok {
					t.Errorf("the Secret has no %s", found[1])
				}
			}
		})
	}
}

// TestPushInANamespace uses the component without cluster-wide rights.
func TestPushInANamespace(t *testing.T) {
	s := overlay(t, "namespace: shop\nresources: [BASE/kubernetes-namespaced]\n"+
		"components: [BASE/kubernetes/components/push, BASE/kubernetes/components/jobs-mixin]\n"+
		"secretGenerator: [{name: metrics-server-prom-push, literals: [http-config.yml=]}]")
	if err := errors.Join(s.check()...); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"PAGES", "NAMESPACES", "PUSH_FORMAT"} {
		if !hasSetting(s.exporter(), "", name) {
			t.Errorf("no %s", name)
		}
	}
}

// TestRoleOfAmazon holds the role's papers against the account that takes it on.
func TestRoleOfAmazon(t *testing.T) {
	s, err := readSet([]string{deploy + "push/amazon"})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"policy.json": `"Action": "aps:RemoteWrite"`,
		"trust.json":  `"ISSUER:sub": "system:serviceaccount:metrics-server-prom:metrics-server-prom"`,
	} {
		text, err := os.ReadFile(deploy + "push/amazon/" + file)
		if err != nil || !json.Valid(text) || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v, want JSON with %s", file, err, want)
		}
	}
	if !slices.ContainsFunc(s.objects, func(o runtime.Object) bool {
		a, ok := o.(*corev1.ServiceAccount)
		return ok && a.Namespace+":"+a.Name == "metrics-server-prom:metrics-server-prom" &&
			strings.HasPrefix(a.Annotations["eks.amazonaws.com/role-arn"], "arn:aws:iam::")
	}) {
		t.Error("no account of that name has the role")
	}
}

func TestCronJobProblemsAreSeen(t *testing.T) {
	made, err := manifest(deploy + "push/cronjob")
	if err != nil {
		t.Fatal(err)
	}
	good := string(made)
	if err := checkText(t, good); err != nil {
		t.Fatal("the manifests as they are:", err)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"two at a time":             {"concurrencyPolicy: Forbid", "concurrencyPolicy: Allow", "the same series"},
		"a program that stays":      {"name: ONCE", "name: OTHER", "does not end"},
		"nowhere to push":           {"name: PUSH_URL", "name: OTHER", "pushes nowhere"},
		"a right to watch":          {"  verbs:\n  - list\n", "  verbs:\n  - list\n  - watch\n", "grants"},
		"a root to write to":        {"readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "may write to its root"},
		"a volume for nobody":       {"name: push\n            secret", "name: other\n            secret", "no volume push"},
		"an account that is gone":   {"serviceAccountName: metrics-server-prom", "serviceAccountName: other", "no ServiceAccount"},
		"a field that nobody knows": {"backoffLimit:", "backofLimit:", "unknown field"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(good, c.old) {
				t.Fatalf("the manifests have no %q", c.old)
			}
			err := checkText(t, strings.ReplaceAll(good, c.old, c.new))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// TestSettingsAreTried has a program in the exporter's place that knows one set of settings.
func TestSettingsAreTried(t *testing.T) {
	program := filepath.Join(t.TempDir(), "exporter")
	const script = `#!/bin/sh
echo "takes $PUSH_INSTANCE" >&2
[ "$PUSH_INSTANCE $ONCE" = "metrics-server-prom true" ] && grep -q vmauth "$PUSH_HTTP_CONFIG_FILE" || exit 2
exit 1
`
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	exporterProgram = program
	defer func() { exporterProgram = "" }()
	made, err := manifest(deploy + "push/cronjob")
	if err != nil {
		t.Fatal(err)
	}
	if err := checkText(t, string(made)); err != nil {
		t.Error(err)
	}
	for old, new := range map[string]string{
		"value: metrics-server-prom": "value: other", "value: /etc/metrics-server-prom-push/": "value: /etc/elsewhere/",
	} {
		err := checkText(t, strings.ReplaceAll(string(made), old, new))
		if err == nil || !strings.Contains(err.Error(), "does not take the settings (exit status 2): takes ") {
			t.Errorf("%s: %v", new, err)
		}
	}
}

func TestCloudRunJobProblemsAreSeen(t *testing.T) {
	job, err := os.ReadFile(deploy + "cloudrun/job.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"as it is":             {"", "", ""},
		"a field of a Service": {"taskCount: 1", "containerConcurrency: 1", "containerConcurrency"},
		"a program that stays": {"name: ONCE", "name: OTHER", "has to push once"},
		"nowhere to push":      {"name: PUSH_URL", "name: OTHER", "has to push once"},
		"a volume for nobody":  {"- name: push\n              secret", "- name: other\n              secret", "no volume push"},
	} {
		file := filepath.Join(t.TempDir(), "job.yaml")
		text := strings.Replace(string(job), c.old, c.new, 1)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := checkCloudRun(file)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
