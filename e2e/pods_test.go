package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
)

// createPod creates a pod in a namespace of its own test and returns when the metrics API has its usage.
func createPod(t *testing.T, pod controlplane.Pod) {
	t.Helper()
	ctx := within(t, 90*time.Second)
	if err := plane.CreateNamespaces(ctx, "", pod.Namespace); err != nil {
		t.Fatal(err)
	}
	if err := plane.CreatePods(ctx, pod); err != nil {
		t.Fatal(err)
	}
	if err := plane.AwaitPodUsage(ctx, pod.Namespace, pod.Name); err != nil {
		t.Fatal(err)
	}
}

func onePod(namespace, name, node string) controlplane.Pod {
	return controlplane.Pod{Namespace: namespace, Name: name, Node: node,
		Containers: []controlplane.Container{{Name: "app", CPU: "33m", Memory: "44Mi"}}}
}

// nodesOf is the nodes that a page's CPU samples of a pod have in their labels, each once.
func nodesOf(page *exporter.Page, namespace, name string) map[string]bool {
	found := map[string]bool{}
	for _, metric := range page.Families[check.PodCPU].GetMetric() {
		labels := exporter.Labels(metric)
		if labels["namespace"] == namespace && labels["pod"] == name {
			found[labels["node"]] = true
		}
	}
	return found
}

// awaitNodes scrapes until the page has the pod on these nodes (none: not at all) and runs each on every page until
// then.
func awaitNodes(t *testing.T, e *exporter.Exporter, namespace, name string, limit time.Duration,
	each func(nodes map[string]bool), nodes ...string) {
	t.Helper()
	want := map[string]bool{}
	for _, node := range nodes {
		want[node] = true
	}
	eventually(t, limit, func(ctx context.Context) error {
		page, err := e.Scrape(ctx)
		if err != nil {
			return err
		}
		got := nodesOf(page, namespace, name)
		if each != nil {
			each(got)
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("the page has pod %s/%s on the nodes %v, not on %v", namespace, name, got, want)
		}
		return nil
	})
}

func TestNewPodAppearsAndDeletedPodLeavesWithTheNextRefresh(t *testing.T) {
	t.Parallel()
	e := startReady(t, deployed(t))
	createPod(t, onePod("comings", "guest", "node-1"))
	awaitNodes(t, e, "comings", "guest", aTick, nil, "node-1")
	equal(t, e, check.Scope{})

	if err := plane.DeletePod(within(t, 30*time.Second), "comings", "guest"); err != nil {
		t.Fatal(err)
	}
	awaitNodes(t, e, "comings", "guest", aTick, nil)
	equal(t, e, check.Scope{})
}

// TestPodMovedToAnotherNodeHasOneSeriesOnly recreates a pod under its name, as a StatefulSet does when a node fails.
func TestPodMovedToAnotherNodeHasOneSeriesOnly(t *testing.T) {
	t.Parallel()
	e := startReady(t, deployed(t))
	createPod(t, onePod("moving", "sticky-0", "node-0"))
	awaitNodes(t, e, "moving", "sticky-0", aTick, nil, "node-0")

	if err := plane.DeletePod(within(t, 30*time.Second), "moving", "sticky-0"); err != nil {
		t.Fatal(err)
	}
	if err := plane.CreatePods(within(t, 30*time.Second), onePod("moving", "sticky-0", "node-2")); err != nil {
		t.Fatal(err)
	}
	moved := false
	awaitNodes(t, e, "moving", "sticky-0", 90*time.Second, func(nodes map[string]bool) {
		if len(nodes) > 1 {
			t.Fatalf("a page has the pod on the nodes %v", nodes)
		}
		moved = moved || nodes["node-2"]
		if moved && nodes["node-0"] {
			t.Fatal("the old series came back after the new one")
		}
	}, "node-2")
	equal(t, e, check.Scope{})
}

// TestPodRecreatedOnTheSameNodeHasItsNewAddress is the rollout of a pod that keeps its name.
func TestPodRecreatedOnTheSameNodeHasItsNewAddress(t *testing.T) {
	t.Parallel()
	e := startReady(t, deployed(t))
	createPod(t, onePod("again", "sticky-0", "node-1"))
	old := address(t, "again", "sticky-0")
	equal(t, e, check.Scope{})

	if err := plane.DeletePod(within(t, 30*time.Second), "again", "sticky-0"); err != nil {
		t.Fatal(err)
	}
	// KWOK gives a free address away again: to other pods, until one has it, so that the new one gets another.
	for i := range 20 {
		name := fmt.Sprint("tenant-", i)
		if err := plane.CreatePods(within(t, 30*time.Second), onePod("again", name, "node-1")); err != nil {
			t.Fatal(err)
		}
		if address(t, "again", name) == old {
			break
		}
	}
	createPod(t, onePod("again", "sticky-0", "node-1"))
	renewed := address(t, "again", "sticky-0")
	if old == renewed {
		t.Fatalf("the new pod has the old one's address %s, so that this test can show nothing", old)
	}
	eventually(t, aTick, func(ctx context.Context) error {
		page, err := e.Scrape(ctx)
		if err != nil {
			return err
		}
		oldThere, newThere := strings.Contains(page.Text, `pod="sticky-0",ip="`+old+`"`),
			strings.Contains(page.Text, `pod="sticky-0",ip="`+renewed+`"`)
		if oldThere && newThere {
			t.Fatal("a page has the pod with both addresses")
		}
		if oldThere || !newThere {
			return errors.New("the page has not the new address")
		}
		return nil
	})
	equal(t, e, check.Scope{})
}

func address(t *testing.T, namespace, name string) string {
	t.Helper()
	return must(plane.Admin.CoreV1().Pods(namespace).Get(within(t, 10*time.Second), name,
		metav1.GetOptions{}))(t).Status.PodIP
}

func TestChangedLabelIsOnThePageWithTheNextRefresh(t *testing.T) {
	t.Parallel()
	e := startReady(t, deployed(t), "--pod-labels=tier")
	pod := onePod("relabelled", "app-0", "node-0")
	pod.Labels = map[string]string{"tier": "old"}
	createPod(t, pod)
	equal(t, e, check.Scope{PodLabels: []string{"tier"}})

	patch := []byte(`{"metadata":{"labels":{"tier":"new"}}}`)
	if _, err := plane.Admin.CoreV1().Pods("relabelled").Patch(within(t, 10*time.Second), "app-0", types.MergePatchType,
		patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, aTick, func(ctx context.Context) error {
		page, err := e.Scrape(ctx)
		if err != nil {
			return err
		}
		if strings.Contains(page.Text, `label_tier="old"`) || !strings.Contains(page.Text, `label_tier="new"`) {
			return errors.New("the page has the old label")
		}
		return nil
	})
}
