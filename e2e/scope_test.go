package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"metrics-server-prom/e2e/check"
)

func TestSettingsLimitThePage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		args  []string
		scope check.Scope
		least int // samples of the residents alone
	}{
		{
			"one namespace", []string{"--namespaces=shop"},
			check.Scope{Namespaces: []string{"shop"}}, 2*nodes + 2*7,
		},
		{
			"two namespaces", []string{"--namespaces=team-a,team-b"},
			check.Scope{Namespaces: []string{"team-a", "team-b"}}, 2*nodes + 2*5,
		},
		{
			"all but some namespaces", []string{"--exclude-namespaces=kube-system,shop"},
			check.Scope{ExcludeNamespaces: []string{"kube-system", "shop"}}, 2*nodes + 2*5,
		},
		{
			"a label selector", []string{"--selector=app=web,team notin (blue)"},
			check.Scope{Selector: func(labels map[string]string) bool {
				return labels["app"] == "web" &&
					labels["team"] != "blue"
			}}, 2*nodes + 2*5,
		},
		{
			"a selector in one namespace", []string{"--selector=app=web", "--namespaces=shop"},
			check.Scope{Namespaces: []string{"shop"},
				Selector: func(labels map[string]string) bool { return labels["app"] == "web" }}, 2*nodes + 2*6,
		},
		{
			"pod labels as labels", []string{"--pod-labels=app,app.kubernetes.io/name"},
			check.Scope{PodLabels: []string{"app", "app.kubernetes.io/name"}}, 2*nodes + 2*containers,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e := startReady(t, deployed(t), test.args...)
			page := equal(t, e, test.scope)
			if got := len(check.Served(page)); got < test.least {
				t.Errorf("the page has %d samples, at least %d are expected", got, test.least)
			}
		})
	}
}

// TestSelectorIsAppliedByTheServer looks at the requests as the API server saw them.
func TestSelectorIsAppliedByTheServer(t *testing.T) {
	t.Parallel()
	kubeconfig := account(t, "team-b", "selecting")
	if err := plane.BindClusterRole(t.Context(), "metrics-server-prom", "team-b", "selecting", ""); err != nil {
		t.Fatal(err)
	}
	startReady(t, kubeconfig, "--selector=app=web")
	requests := must(plane.Requests("team-b", "selecting"))(t)
	lists := 0
	for _, request := range requests {
		if request.Resource != "pods" || request.Verb == "get" {
			continue
		}
		lists++
		if !strings.Contains(request.URI, "labelSelector=app%3Dweb") {
			t.Errorf("%s %s has not the selector", request.Verb, request.URI)
		}
	}
	if lists < 2 {
		t.Errorf("no watch and list of pods among the requests %v", requests)
	}
}

// TestNamespaceNeedsOnlyARole runs with the rights of deploy/kubernetes-namespaced in one namespace, and none
// elsewhere.
func TestNamespaceNeedsOnlyARole(t *testing.T) {
	t.Parallel()
	ctx := within(t, 2*time.Minute)
	kubeconfig := account(t, "team-a", "metrics-server-prom")
	for _, file := range []string{"role.yaml", "rolebinding.yaml"} {
		text := must(os.ReadFile(deploy("kubernetes-namespaced", file)))(t)
		// What its kustomization.yaml says to change for another namespace.
		text = []byte(strings.ReplaceAll(string(text), "namespace: metrics-server-prom", "namespace: team-a"))
		if _, err := plane.ApplyYAML(ctx, text); err != nil {
			t.Fatal(err)
		}
	}
	e := startReady(t, kubeconfig, "--namespaces=team-a")
	for range 2 { // the second time after a later refresh, whose node metrics are forbidden again
		page := equal(t, e, check.Scope{Namespaces: []string{"team-a"}, NoNodes: true})
		if got := len(check.Served(page)); got < 2*4 {
			t.Fatalf("the page has %d samples, those of the residents are 8", got)
		}
		for _, family := range []string{check.NodeCPU, check.NodeMemory} {
			if strings.Contains(page.Text, family+"{") || strings.Contains(page.Text, "# TYPE "+family+" ") {
				t.Fatalf("%s is on the page", family)
			}
		}
		awaitTick(t, e)
	}
	status, body, err := e.Get(ctx, "/healthz")
	if err != nil || status != http.StatusOK || strings.TrimSpace(body) != "ok" {
		t.Errorf("/healthz answers %d %q %v", status, body, err)
	}
	forbidden := linesWith(e.Log(), "nodes.metrics.k8s.io", "403 Forbidden")
	if len(forbidden) != 1 {
		t.Errorf("%d log lines say that node metrics are forbidden:\n%s", len(forbidden), strings.Join(forbidden, "\n"))
	}
	if noise := linesWith(e.Log(), "level=ERROR"); noise != nil {
		t.Errorf("errors in the log:\n%s", strings.Join(noise, "\n"))
	}
}

// linesWith is the lines that have all these parts.
func linesWith(text string, parts ...string) (found []string) {
lines:
	for line := range strings.Lines(text) {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue lines
			}
		}
		found = append(found, strings.TrimSpace(line))
	}
	return found
}

// TestScrapesCauseNoRequests counts at the API server, whose audit log has every request of the exporter's account, and
// with the servers' own counters.
func TestScrapesCauseNoRequests(t *testing.T) {
	kubeconfig := account(t, "team-b", "counted")
	if err := plane.BindClusterRole(t.Context(), "metrics-server-prom", "team-b", "counted", ""); err != nil {
		t.Fatal(err)
	}
	e := startReady(t, kubeconfig)
	// Right after a refresh the next is a whole interval away, so that any request in the following second would be the
	// scrapes' doing, but for the exporter's cheap question for the next tick, a get of one object at most once a
	// second.
	awaitTick(t, e)
	countersBefore := must(plane.RequestTotals(t.Context()))(t)
	before := must(plane.Requests("team-b", "counted"))(t)
	start := time.Now()
	for i := range 200 {
		if _, err := e.Fetch(t.Context()); err != nil {
			t.Fatalf("scrape %d: %v", i, err)
		}
	}
	took := time.Since(start)
	after := must(plane.Requests("team-b", "counted"))(t)
	countersAfter := must(plane.RequestTotals(t.Context()))(t)

	probes := 0
	for _, request := range after[len(before):] {
		if request.Verb != "get" {
			t.Errorf("a request while only scrapes went on: %s %s", request.Verb, request.URI)
		}
		probes++
	}
	if allowed := int(took/time.Second) + 1; probes > allowed {
		t.Errorf("%d probes in %s, at most %d are allowed", probes, took, allowed)
	}
	if len(before) == 0 {
		t.Error("the API server has counted no request of the exporter at all")
	}
	for _, counter := range []string{"LIST pods", "LIST pods.metrics.k8s.io", "LIST nodes.metrics.k8s.io"} {
		if countersAfter[counter] != countersBefore[counter] {
			t.Errorf("%s went from %v to %v during the scrapes", counter, countersBefore[counter],
				countersAfter[counter])
		}
	}
	if countersAfter["LIST pods.metrics.k8s.io"] == 0 {
		t.Errorf("metrics-server has counted no list at all: %s", fmt.Sprint(countersAfter))
	}
}
