package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/controlplane"
)

// The namespace and the account that deploy/outside makes.
const outsideNamespace, outsideAccount = "metrics-server-prom", "metrics-server-prom-outside"

// TestKubeconfigForOutsideTheCluster runs the script as the administrator of the cluster would, and the exporter with
// what it wrote. The two forms of a token follow each other: they are of one account, which is taken away at the end of
// each.
func TestKubeconfigForOutsideTheCluster(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		args []string
		// renewed says that a second run writes another token.
		renewed bool
	}{
		{
			"with a token that expires, for an API server that is reached by another name",
			[]string{"--duration", "1h", "--server", strings.Replace(plane.URL(), "127.0.0.1", "localhost", 1)}, true,
		},
		{"with a token that lives until it is revoked", nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.args == nil {
				fillTokenSecrets(t)
			}
			file := filepath.Join(t.TempDir(), "kubeconfig")
			script := append([]string{deploy("outside", "kubeconfig.sh")}, append(test.args, file)...)
			runCommand(t, script...)

			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the kubeconfig is not for its owner alone: %v %v", info.Mode(), err)
			}
			config := must(clientcmd.LoadFromFile(file))(t)
			cluster, user := config.Clusters["metrics-server-prom"], config.AuthInfos[outsideAccount]
			if cluster == nil || user == nil || user.Exec != nil || user.Token == "" {
				t.Fatalf("not a kubeconfig with a token alone: %v", config)
			}
			server := plane.URL()
			if len(test.args) == 4 {
				server = test.args[3]
			}
			if cluster.Server != server {
				t.Errorf("the server is %s, not %s", cluster.Server, server)
			}
			if out, err := kubectl(t, "--kubeconfig", file, "auth", "can-i", "list", "secrets",
				"--all-namespaces").CombinedOutput(); err == nil || !strings.HasPrefix(string(out), "no") {
				t.Errorf("may the account list secrets? %s%v", out, err)
			}

			e := startReady(t, file)
			equal(t, e, check.Scope{})

			runCommand(t, script...)
			again := must(clientcmd.LoadFromFile(file))(t).AuthInfos[outsideAccount].Token
			if renewed := again != user.Token; renewed != test.renewed {
				t.Errorf("is the token of a second run another one? %t, want %t", renewed, test.renewed)
			}
			awaitTick(t, e)
			equal(t, e, check.Scope{})

			runCommand(t, "kubectl", "delete", "--ignore-not-found", "-f", deploy("outside", "rbac.yaml"), "-f",
				deploy("outside", "token.yaml"))
			awaitFailed(t, e, aTick, "pods", "40") // 401 or 403, whatever the API server notices first
		})
	}
}

func TestKubeconfigScriptSaysWhatItWants(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		args []string
		says string
	}{
		{"no file", nil, "usage: kubeconfig.sh"},
		{"two files", []string{"a", "b"}, "one FILE, not two: a and b"},
		{"an unknown option", []string{"--durations=1h", "a"}, "unknown option --durations=1h"},
		{"an option without its value", []string{"a", "--duration"}, "--duration needs a value"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd := command(t, append([]string{deploy("outside", "kubeconfig.sh")}, test.args...)...)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), test.says) {
				t.Errorf("%v, and says:\n%s", err, out)
			}
		})
	}
}

// command is a program as the cluster's administrator runs it: with kubectl in the PATH, set to the cluster.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	tool := must(controlplane.Tool("kubectl"))(t)
	bin := t.TempDir()
	if err := os.Symlink(tool, filepath.Join(bin, "kubectl")); err != nil {
		t.Fatal(err)
	}
	path := args[0]
	if path == "kubectl" {
		path = tool
	}
	cmd := exec.CommandContext(within(t, 90*time.Second), path, args[1:]...)
	cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir(),
		"KUBECONFIG=" + plane.AdminKubeconfig()}
	return cmd
}

func kubectl(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	return command(t, append([]string{"kubectl"}, args...)...)
}

// runCommand runs a command that must succeed, and returns what it writes to stdout.
func runCommand(t *testing.T, args ...string) string {
	t.Helper()
	cmd := command(t, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return string(out)
}

// fillTokenSecrets does what the token controller of kube-controller-manager does, which the control plane lacks: it
// fills in Secrets that ask for the account's token. The token is bound to the Secret, and so ends with it.
func fillTokenSecrets(t *testing.T) {
	t.Helper()
	secrets := plane.Admin.CoreV1().Secrets(outsideNamespace)
	events := must(secrets.Watch(t.Context(),
		metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeServiceAccountToken)}))(t)
	t.Cleanup(events.Stop)
	fill := func(ctx context.Context, secret *corev1.Secret) error {
		expiry := int64(24 * 3600)
		request, err := plane.Admin.CoreV1().ServiceAccounts(outsideNamespace).CreateToken(ctx,
			secret.Annotations[corev1.ServiceAccountNameKey], &authenticationv1.TokenRequest{
				Spec: authenticationv1.TokenRequestSpec{
					ExpirationSeconds: &expiry,
					BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Secret", APIVersion: "v1",
						Name: secret.Name, UID: secret.UID},
				},
			}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		secret.Data = map[string][]byte{corev1.ServiceAccountTokenKey: []byte(request.Status.Token)}
		_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
		return err
	}
	go func() {
		for event := range events.ResultChan() {
			secret, ok := event.Object.(*corev1.Secret)
			if !ok || len(secret.Data) > 0 || event.Type != "ADDED" {
				continue
			}
			if err := fill(t.Context(), secret); err != nil && t.Context().Err() == nil {
				t.Error(fmt.Errorf("token for the Secret %s: %w", secret.Name, err))
			}
		}
	}()
}
