package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const deploy = "../../deploy/"

// kubernetes is the set that deploy/README.md applies, with all components.
func kubernetes(t *testing.T) string {
	t.Helper()
	text := ""
	for _, path := range []string{
		"kubernetes/components/namespace", "kubernetes", "kubernetes/components/servicemonitor/servicemonitor.yaml",
		"kubernetes/components/podmonitor/podmonitor.yaml", "kubernetes/components/networkpolicy/networkpolicy.yaml",
	} {
		more, err := manifest(deploy + path)
		if err != nil {
			t.Fatal(err)
		}
		text += "---\n" + string(more)
	}
	return text
}

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
	first, err := readSet([]string{deploy + "kubernetes/clusterrole.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]rightsOf{}
	first.sameRights(seen)
	return errors.Join(append(s.check(), s.sameRights(seen)...)...)
}

func TestProblemsAreSeen(t *testing.T) {
	good := kubernetes(t)
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
		{"more rights in one set than in another", "  - list\n  - watch", "  - list\n  - watch\n  - get", "grants"},
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
			"a monitor of a port that the Service has not", "- port: metrics\n      interval", "- port: http\n      interval",
			`no port "http"`,
		},
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

// overlay is the set of a kustomization outside the project; BASE is its deploy folder there.
func overlay(t *testing.T, kustomization string) set {
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
	s, err := readSet([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
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
