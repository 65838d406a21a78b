// Package e2e tests the exporter's real binary with a real API server and metrics-server.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// plane is the control plane that all tests share. Those that take a component away are not parallel and bring it back.
var plane *controlplane.ControlPlane

// residents are the pods that exist all the time and that no test changes. Each container has another usage, so
// that a mix-up of any two shows.
var residents = []controlplane.Pod{
	resident("shop", "web-0", "node-0", map[string]string{"app": "web", "team": "red", "app.kubernetes.io/name": "web"},
		"app", "sidecar"),
	resident("shop", "web-1", "node-1", map[string]string{"app": "web", "team": "red", "app.kubernetes.io/name": "web"},
		"app", "sidecar"),
	resident("shop", "web-2", "node-2", map[string]string{"app": "web", "team": "blue"}, "app", "sidecar"),
	resident("shop", "db-0", "node-0", map[string]string{"app": "db"}, "postgres"),
	resident("team-a", "api-0", "node-1", map[string]string{"app": "web", "team": "a"}, "api"),
	resident("team-a", "api-1", "node-2", nil, "api", "proxy", "log-shipper"),
	resident("team-b", "job-0", "node-0", map[string]string{"app": "job"}, "job"),
	resident("kube-system", "dns-0", "node-1", map[string]string{"k8s-app": "dns"}, "dns"),
}

const nodes = 3

// containers is how many residents' containers there are so far.
var containers int

func resident(namespace, name, node string, labels map[string]string, names ...string) controlplane.Pod {
	pod := controlplane.Pod{Namespace: namespace, Name: name, Node: node, Labels: labels}
	for _, container := range names {
		containers++
		pod.Containers = append(pod.Containers, controlplane.Container{
			Name: container, CPU: fmt.Sprintf("%dm", 7*containers), Memory: fmt.Sprintf("%dKi", 61440+1234*containers),
		})
	}
	return pod
}

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	// Parallel tests wait for metrics-server's next reading most of the time; two at once, as on two cores by default,
	// would wait one after the other.
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if plane != nil {
			plane.Stop()
		}
		return 1
	}
	defer plane.Stop()
	if code = m.Run(); code != 0 {
		fmt.Fprintln(os.Stderr, plane.Logs(40))
	}
	return code
}

// start builds what is missing, starts the control plane with the residents and the project's RBAC manifests, and
// returns when the metrics API has usage for all.
func start() (err error) {
	if err := controlplane.BuildTools(); err != nil {
		return err
	}
	if _, err := exporter.Binary(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	if plane, err = controlplane.Start(ctx, controlplane.Options{}); err != nil {
		return err
	}
	kubernetes := deploy("kubernetes")
	if _, err := plane.ApplyManifests(ctx, filepath.Join(kubernetes, "components", "namespace"), kubernetes); err != nil {
		return err
	}
	if err := plane.CreateNodes(ctx, nodes); err != nil {
		return err
	}
	for _, pod := range residents {
		if err := plane.CreateNamespaces(ctx, "", pod.Namespace); err != nil {
			return err
		}
	}
	if err := plane.CreatePods(ctx, residents...); err != nil {
		return err
	}
	return plane.AwaitUsage(ctx)
}

// deploy is a path in the project's deploy folder.
func deploy(elements ...string) string {
	return filepath.Join(append([]string{"..", "deploy"}, elements...)...)
}

// within is the test's context with a bound.
func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, fmt.Errorf("not within %s", limit))
	t.Cleanup(cancel)
	return ctx
}

// must ends the test on an error.
func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// account is a kubeconfig with the token of a service account that has no rights yet.
func account(t *testing.T, namespace, name string) (kubeconfig string) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	token := must(plane.Token(ctx, namespace, name))(t)
	return must(plane.Kubeconfig(controlplane.Credentials{Token: token}))(t)
}

// deployed is a kubeconfig with the token of the account that deploy/kubernetes makes.
func deployed(t *testing.T) (kubeconfig string) {
	t.Helper()
	return account(t, "metrics-server-prom", "metrics-server-prom")
}

// startExporter starts the exporter and kills it at the test's end; its log is shown if the test failed.
func startExporter(t *testing.T, kubeconfig string, args ...string) *exporter.Exporter {
	t.Helper()
	e := must(exporter.Start(within(t, 30*time.Second),
		exporter.Options{Args: append([]string{"--kubeconfig=" + kubeconfig}, args...)}))(t)
	t.Cleanup(func() { closeExporter(t, e) })
	return e
}

func closeExporter(t *testing.T, e *exporter.Exporter) {
	if t.Failed() {
		t.Logf("end of the exporter's log:\n%s", process.Tail(e.Log(), 25))
	}
	e.Close()
}

// startReady is startExporter for an exporter that must have data at once.
func startReady(t *testing.T, kubeconfig string, args ...string) *exporter.Exporter {
	t.Helper()
	e := startExporter(t, kubeconfig, args...)
	if err := e.AwaitReady(within(t, 15*time.Second)); err != nil {
		t.Fatal(err)
	}
	return e
}

// eventually fails the test if ready has not said nil within the limit.
func eventually(t *testing.T, limit time.Duration, ready func(context.Context) error) {
	t.Helper()
	if err := process.Await(within(t, limit), 100*time.Millisecond, ready); err != nil {
		t.Fatal(err)
	}
}

// aTick is how long a change takes to be on the page, at most, with an exporter that does not know metrics-server's
// period yet: a reading of metrics-server, a refresh interval, and some seconds for a machine that does other things
// too.
const aTick = 15*time.Second + 15*time.Second + 10*time.Second
