package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
)

// TestDeploymentWorksWithItsOwnRights applies each way of deployment to the API server, in a namespace that enforces
// the Pod Security level restricted, and has it take a pod as the manifest describes it. The pod's program cannot run,
// as KWOK's nodes run nothing: the exporter is started beside it with the arguments, the environment, the mounted
// Secrets and the account's token that the pod has.
func TestDeploymentWorksWithItsOwnRights(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		namespace string
		manifest  func(t *testing.T, namespace string) []byte
		scope     check.Scope
		pages     bool // those of cAdvisor's and kube-state-metrics' names are served too
	}{
		{name: "kustomize, with all components", namespace: "metrics-server-prom", manifest: kubernetesWithComponents},
		{
			name: "kustomize, for one namespace", namespace: "own-namespace", manifest: kubernetesNamespaced,
			scope: check.Scope{Namespaces: []string{"own-namespace"}, NoNodes: true},
		},
		{
			name: "helm", namespace: "helm-whole",
			manifest: helmTemplate("networkPolicy.enabled=true,serviceMonitor.enabled=true"),
		},
		{
			name: "helm, for two namespaces", namespace: "helm-some",
			manifest: helmTemplate("settings.namespaces={shop,team-b},podMonitor.enabled=true"),
			scope:    check.Scope{Namespaces: []string{"shop", "team-b"}, NoNodes: true},
		},
		{
			name: "helm, for another cluster", namespace: "helm-other",
			manifest: helmTemplate(
				"kubeconfig.existingSecret=other-cluster,kubeconfig.context=e2e,settings.podLabels={app}"),
			scope: check.Scope{PodLabels: []string{"app"}},
		},
		{
			name: "helm, with all pages", namespace: "helm-pages",
			manifest: helmTemplate("pages={cadvisor,kube-state-metrics},serviceMonitor.enabled=true"), pages: true,
		},
		{
			name: "helm, with all pages, for two namespaces", namespace: "helm-some-pages",
			manifest: helmTemplate("pages={cadvisor,kube-state-metrics},settings.namespaces={" + shop + "," + batch + "}"),
			scope:    check.Scope{Namespaces: []string{shop, batch}, NoNodes: true}, pages: true,
		},
		{name: "Knative", namespace: "metrics-server-prom", manifest: knative},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 3*time.Minute)
			if err := plane.CreateNamespaces(ctx, "restricted", test.namespace); err != nil {
				t.Fatal(err)
			}
			if test.pages {
				startWorkload(t)
			}
			text := test.manifest(t, test.namespace)
			applyWithoutWarnings(t, customResources+string(text))
			template := podTemplate(t, text)
			admit(t, test.namespace, strings.Map(nameRune, test.name), template)

			e := startTemplate(t, test.namespace, template)
			page := must(check.Equal(ctx, plane, e, test.scope))(t)
			if len(check.Served(page)) == 0 {
				t.Error("the page has no samples")
			}
			if test.pages && test.scope.NoNodes {
				equalPages(t, e, test.scope.Namespaces, nil, check.OfNodes, check.OfNodeUsage)
			} else if test.pages {
				equalPages(t, e, nil, nil)
			}
			awaitHealthy(t, e, aTick)
			told := problems(e)
			if test.scope.NoNodes && len(linesWith(strings.Join(told, "\n"), "nodes.metrics.k8s.io", "403 Forbidden")) == 1 {
				told = told[1:] // what it says once, there being no node metrics for a Role
			}
			if len(told) > 0 {
				t.Errorf("the log complains:\n%s", strings.Join(told, "\n"))
			}
		})
	}
}

// TestRestrictedNamespaceRefusesMore shows that the level of the other test's namespaces is enforced.
func TestRestrictedNamespaceRefusesMore(t *testing.T) {
	t.Parallel()
	const namespace = "refusing"
	ctx := within(t, time.Minute)
	if err := plane.CreateNamespaces(ctx, "restricted", namespace); err != nil {
		t.Fatal(err)
	}
	template := podTemplate(t, must(controlplane.Manifests(deploy("kubernetes")))(t))
	template.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = new(true)
	_, err := plane.Admin.CoreV1().Pods(namespace).Create(ctx, podOf(template, "more"), metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "PodSecurity") {
		t.Errorf("got %v, want what the Pod Security level says", err)
	}
}

// customResources are the kinds of other projects that the manifests have objects of. Their fields are checked against
// their projects' own types by .ci/manifests.sh.
var customResources = func() (text string) {
	for _, resource := range []struct{ group, version, kind, plural string }{
		{"monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"},
		{"monitoring.coreos.com", "v1", "PodMonitor", "podmonitors"},
		{"serving.knative.dev", "v1", "Service", "services"},
	} {
		text += fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[4]s.%[1]s}
spec:
  group: %[1]s
  scope: Namespaced
  names: {kind: %[3]s, plural: %[4]s}
  versions:
  - name: %[2]s
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
`, resource.group, resource.version, resource.kind, resource.plural)
	}
	return text
}()

// applyWithoutWarnings applies until the API server knows all kinds: a new one takes a moment.
func applyWithoutWarnings(t *testing.T, text string) {
	t.Helper()
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		warnings, err := plane.ApplyYAML(ctx, []byte(text))
		if len(warnings) > 0 {
			t.Fatalf("the API server warns: %s", strings.Join(warnings, "; "))
		}
		return err
	})
}

// kubernetesWithComponents is an overlay as deploy/README.md describes it.
func kubernetesWithComponents(t *testing.T, _ string) []byte {
	t.Helper()
	return overlay(t, `
resources: [BASE/kubernetes]
components:
  - BASE/kubernetes/components/namespace
  - BASE/kubernetes/components/servicemonitor
  - BASE/kubernetes/components/podmonitor
  - BASE/kubernetes/components/networkpolicy
`)
}

// overlay makes the objects of a kustomization outside the project; BASE is its deploy folder there.
func overlay(t *testing.T, kustomization string) []byte {
	t.Helper()
	dir := must(filepath.EvalSymlinks(t.TempDir()))(t)
	base := must(filepath.Rel(dir, must(filepath.Abs(deploy()))(t)))(t)
	text := strings.ReplaceAll(kustomization, "BASE", base)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return must(controlplane.Manifests(dir))(t)
}

// kubernetesNamespaced changes the one line that has to be changed for another namespace.
func kubernetesNamespaced(t *testing.T, namespace string) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(deploy())); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "kubernetes-namespaced", "kustomization.yaml")
	text := string(must(os.ReadFile(path))(t))
	if strings.Count(text, "\nnamespace: default\n") != 1 {
		t.Fatalf("no line to change in:\n%s", text)
	}
	text = strings.Replace(text, "\nnamespace: default\n", "\nnamespace: "+namespace+"\n", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return must(controlplane.Manifests(filepath.Dir(path)))(t)
}

// helmTemplate is what helm would apply with these values, in the form of --set.
func helmTemplate(values string) func(*testing.T, string) []byte {
	return func(t *testing.T, namespace string) []byte {
		t.Helper()
		chart := must(filepath.Abs(deploy("helm", "metrics-server-prom")))(t)
		cmd := exec.CommandContext(within(t, 10*time.Minute), // helm may have to be built
			"go", "-C", filepath.Join("..", ".ci", "manifests"), "tool", "helm",
			"template", "release", chart, "--namespace", namespace, "--set", values)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		text, err := cmd.Output()
		if err != nil {
			t.Fatalf("helm template: %v\n%s", err, errs.String())
		}
		return text
	}
}

// knative is what deploy/README.md applies.
func knative(t *testing.T, _ string) []byte {
	t.Helper()
	var all []byte
	for _, name := range []string{
		"components/namespace/namespace.yaml", "serviceaccount.yaml", "clusterrole.yaml", "clusterrolebinding.yaml",
	} {
		all = append(append(all, must(os.ReadFile(deploy("kubernetes", name)))(t)...), "\n---\n"...)
	}
	return append(all, must(os.ReadFile(deploy("knative", "service.yaml")))(t)...)
}

// podTemplate is the pod that a manifest's Deployment or Knative Service describes.
func podTemplate(t *testing.T, manifest []byte) corev1.PodTemplateSpec {
	t.Helper()
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifest)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			t.Fatal("no Deployment and no Knative Service in the manifest")
		}
		if err != nil {
			t.Fatal(err)
		}
		var object struct {
			APIVersion, Kind string
			Spec             struct{ Template corev1.PodTemplateSpec }
		}
		if err := yaml.Unmarshal(document, &object); err != nil {
			t.Fatal(err)
		}
		knative := strings.HasPrefix(object.APIVersion, "serving.knative.dev/")
		if object.Kind != "Deployment" && !knative {
			continue
		}
		if knative { // which fills in the container's name and the port of its probes
			container := &object.Spec.Template.Spec.Containers[0]
			container.Name = "user-container"
			for _, probe := range []*corev1.Probe{container.ReadinessProbe, container.LivenessProbe} {
				probe.HTTPGet.Port.IntVal = container.Ports[0].ContainerPort
			}
		}
		return object.Spec.Template
	}
}

func podOf(template corev1.PodTemplateSpec, name string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: *template.Spec.DeepCopy()}
	pod.Name, pod.Spec.NodeName = name, "node-1"
	return pod
}

// admit creates the pod.
func admit(t *testing.T, namespace, name string, template corev1.PodTemplateSpec) {
	t.Helper()
	pods := plane.Admin.CoreV1().Pods(namespace)
	_, err := pods.Create(within(t, 10*time.Second), podOf(template, name), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := plane.AwaitPodUsage(within(t, 90*time.Second), namespace, name); err != nil {
		t.Fatal(err)
	}
}

func nameRune(r rune) rune {
	if r >= 'a' && r <= 'z' {
		return r
	}
	return -1
}

// startTemplate runs the exporter as the pod's container would be run.
func startTemplate(t *testing.T, namespace string, template corev1.PodTemplateSpec) *exporter.Exporter {
	t.Helper()
	ctx := within(t, 30*time.Second)
	spec, container := template.Spec, template.Spec.Containers[0]
	options := exporter.Options{Args: append([]string{}, container.Args...)}
	for i, arg := range options.Args {
		if strings.HasPrefix(arg, "--web.listen-address=") { // the test's machine has one network for all
			options.Args = append(options.Args[:i], options.Args[i+1:]...)
			break
		}
	}
	for _, variable := range container.Env {
		value := variable.Value
		if variable.ValueFrom != nil {
			if ref := variable.ValueFrom.FieldRef; ref == nil || ref.FieldPath != "metadata.namespace" {
				t.Fatalf("no value for %v", variable)
			}
			value = namespace
		}
		options.Env = append(options.Env, variable.Name+"="+value)
	}

	accounts := plane.Admin.CoreV1().ServiceAccounts(namespace)
	account := must(accounts.Get(ctx, spec.ServiceAccountName, metav1.GetOptions{}))(t)
	token := must(plane.Token(ctx, namespace, account.Name))(t)
	kubeconfig := must(plane.Kubeconfig(controlplane.Credentials{Token: token}))(t)
	// As the ServiceAccount admission decides it.
	automount := account.AutomountServiceAccountToken
	if spec.AutomountServiceAccountToken != nil {
		automount = spec.AutomountServiceAccountToken
	}
	switch mounted := automount == nil || *automount; {
	case mounted:
		options.Env = append(options.Env, "KUBECONFIG="+kubeconfig)
	case len(spec.Volumes) == 0:
		t.Error("the pod gets neither the account's token nor a kubeconfig")
	default:
		secret := spec.Volumes[0].Secret
		const path = "/etc/kube/config"
		if len(secret.Items) != 1 || container.VolumeMounts[0].MountPath+"/"+secret.Items[0].Path != path {
			t.Errorf("%v mounted at %v is not %s", secret, container.VolumeMounts, path)
		}
		other := deployed(t)
		for i := range options.Args {
			options.Args[i] = strings.Replace(options.Args[i], path, other, 1)
		}
	}
	e := must(exporter.Start(ctx, options))(t)
	t.Cleanup(func() { closeExporter(t, e) })
	if err := e.AwaitReady(within(t, 15*time.Second)); err != nil {
		t.Fatal(err)
	}
	return e
}
