package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/exporter"
)

const (
	cadvisorPage = "/metrics/cadvisor"
	statePage    = "/metrics/kube-state-metrics"
)

// selectors are the two ways in which dashboards select the page of cAdvisor's names.
var selectors = map[string]struct{ job, relabeling, cadvisor string }{
	"kubernetes-mixin": {"cadvisor", "", `job="cadvisor"`},
	"kube-prometheus": {
		"kubelet",
		"  relabel_configs: [{source_labels: [__metrics_path__], target_label: metrics_path}]\n",
		`job="kubelet",metrics_path="/metrics/cadvisor"`,
	},
}

// TestDashboardsHaveTheirData has a real Prometheus scrape all pages, for both selectors, and asks what dashboards ask.
func TestDashboardsHaveTheirData(t *testing.T) {
	t.Parallel()
	startWorkload(t)
	e := startReady(t, withPages(t), "--pages=cadvisor,kube-state-metrics", "--pod-labels=app")
	for name, selector := range selectors {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPrometheus(t, scrapeJob("metrics-server-prom", e, "/metrics")+
				scrapeJob(selector.job, e, cadvisorPage)+selector.relabeling+
				scrapeJob("kube-state-metrics", e, statePage), deploy("prometheus", "rules.yml"))
			eventually(t, 2*rateOver, func(ctx context.Context) error { // until that range is full of values
				full, err := p.evaluate(ctx, fmt.Sprintf("min(count_over_time(up[%ds])) >= 55", int(rateOver.Seconds())))
				if err == nil && len(full) == 0 {
					err = errors.New("less than a minute was scraped")
				}
				return err
			})
			for _, expression := range expressions {
				t.Run(expression.reader, func(t *testing.T) {
					t.Parallel()
					expression.test(t, p, strings.NewReplacer("$cadvisor", selector.cadvisor,
						"$state", `job="kube-state-metrics"`))
				})
			}
			t.Run("our dashboards", func(t *testing.T) { testOurDashboards(t, p) })
			t.Run("our rules", func(t *testing.T) { testOurRules(t, p) })
		})
	}
}

// test evaluates the expression until it gives what the API says at that moment.
func (x expression) test(t *testing.T, p prometheus, selectors *strings.Replacer) {
	query := selectors.Replace(x.query)
	eventually(t, aTick, func(ctx context.Context) error {
		w, err := readWorld(ctx)
		if err != nil {
			return err
		}
		want := answer{}
		x.want(w, want)
		if len(want) == 0 {
			t.Fatal("nothing is expected")
		}
		got, err := p.query(ctx, query)
		if err != nil {
			return err
		}
		for series, value := range want { // those that are near enough are no difference
			if is, ok := got[series]; ok && math.Abs(is-value) <= x.within*math.Abs(value) {
				got[series] = value
			}
		}
		if differences := check.Diff(want, got); differences != nil {
			return fmt.Errorf("%s\n%d of %d differ:\n%s", query, len(differences), len(want),
				strings.Join(differences[:min(len(differences), 10)], "\n"))
		}
		return nil
	})
}

func readWorld(ctx context.Context) (*world, error) {
	objects, err := check.ReadObjects(ctx, plane.Admin)
	if err != nil {
		return nil, err
	}
	usage, err := plane.PodMetrics(ctx)
	if err != nil {
		return nil, err
	}
	objects.Keep(isDashboards)
	return &world{objects, usage}, nil
}

// dashboard is what is read of a Grafana dashboard.
type dashboard struct {
	Panels     []panel
	Templating struct {
		List []struct {
			Name, Type, AllValue string
			Query                json.RawMessage
		}
	}
}

type panel struct {
	Title   string
	Targets []struct{ Expr string }
	Panels  []panel
}

// testOurDashboards evaluates every query of every panel. But for those that show only what is more than 0, none may be
// empty.
func testOurDashboards(t *testing.T, p prometheus) {
	files := must(filepath.Glob(deploy("grafana", "*.json")))(t)
	if len(files) == 0 {
		t.Fatal("no dashboards in deploy/grafana")
	}
	for _, file := range files {
		var d dashboard
		if err := json.Unmarshal(must(os.ReadFile(file))(t), &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		variables := d.variables(t, p)
		queries := 0
		for panels := d.Panels; len(panels) > 0; panels = slices.Concat(panels[0].Panels, panels[1:]) {
			for _, target := range panels[0].Targets {
				queries++
				query := variables.Replace(target.Expr)
				// What a rate needs to be there may be a moment away.
				eventually(t, aTick, func(ctx context.Context) error {
					results, err := p.evaluate(ctx, query)
					if err != nil {
						return err
					}
					if len(results) == 0 && !strings.HasSuffix(query, "> 0") {
						return fmt.Errorf("%s, panel %q is empty: %s", file, panels[0].Title, query)
					}
					return nil
				})
			}
		}
		if queries == 0 {
			t.Errorf("%s has no query", file)
		}
		t.Logf("%s: %d queries", file, queries)
	}
}

var labelValues = regexp.MustCompile(`^label_values\((.*), *(\w+)\)$`)

// variables replaces a dashboard's variables by what stands for all of their values or, where there is no such thing,
// by the last of them, as Grafana does with that which is chosen.
func (d dashboard) variables(t *testing.T, p prometheus) *strings.Replacer {
	t.Helper()
	replace := []string{"$__rate_interval", "1m", "$__interval", "15s", "$__range", "1m"}
	for _, variable := range d.Templating.List {
		if variable.Type == "datasource" {
			continue
		}
		query := struct{ Query string }{}
		if err := json.Unmarshal(variable.Query, &query); err != nil {
			t.Fatalf("variable %s: %v", variable.Name, err)
		}
		match := labelValues.FindStringSubmatch(query.Query)
		if variable.Type != "query" || match == nil {
			t.Fatalf("variable %s is of an unknown kind: %s %s", variable.Name, variable.Type, query.Query)
		}
		selector := strings.NewReplacer(replace...).Replace(match[1])
		value, values := variable.AllValue, []string{}
		for _, result := range must(p.evaluate(within(t, aTick), fmt.Sprintf("count by (%s) (%s)", match[2], selector)))(t) {
			values = append(values, result.Metric[match[2]])
		}
		if len(values) == 0 {
			t.Fatalf("variable %s has no values", variable.Name)
		}
		if value == "" {
			value = slices.Max(values)
		}
		replace = append(replace, "$"+variable.Name, value, "${"+variable.Name+"}", value)
	}
	return strings.NewReplacer(replace...)
}

// testOurRules looks how the evaluation of the rules goes, which Prometheus does once a second here.
func testOurRules(t *testing.T, p prometheus) {
	eventually(t, aTick, func(ctx context.Context) error {
		text, err := body(ctx, p.url+"/api/v1/rules")
		if err != nil {
			return err
		}
		var answer struct {
			Data struct {
				Groups []struct {
					Rules []struct{ Type, Name, Health, LastError string }
				}
			}
		}
		if err := json.Unmarshal(text, &answer); err != nil {
			return err
		}
		alerts, records := 0, 0
		for _, group := range answer.Data.Groups {
			for _, rule := range group.Rules {
				if rule.Health != "ok" {
					return fmt.Errorf("rule %s is %s: %s", rule.Name, rule.Health, rule.LastError)
				}
				if rule.Type == "alerting" {
					alerts++
					continue
				}
				records++
				if recorded, err := p.evaluate(ctx, rule.Name); err != nil || len(recorded) == 0 {
					return errors.Join(err, fmt.Errorf("rule %s records nothing", rule.Name))
				}
			}
		}
		if alerts == 0 || records == 0 {
			t.Fatalf("%d alerts and %d recording rules", alerts, records)
		}
		return nil
	})
}

// TestExtraPagesAreExactlyTheObjectsOfTheAPI compares every sample of both pages, with all its labels.
func TestExtraPagesAreExactlyTheObjectsOfTheAPI(t *testing.T) {
	t.Parallel()
	startWorkload(t)
	e := startReady(t, withPages(t), "--pages=cadvisor,kube-state-metrics", "--pod-labels=app,team")
	equalPages(t, e, nil, []string{"app", "team"})
}

// withPages is a kubeconfig of an account with the rights that the pages need, as the component for them has them.
func withPages(t *testing.T) (kubeconfig string) {
	t.Helper()
	kubeconfig = account(t, "metrics-server-prom", "with-pages")
	grant(t, "clusterrole.yaml", "with-pages", "")
	if err := plane.BindClusterRole(t.Context(), "with-pages", "metrics-server-prom", "with-pages", ""); err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

// grant applies a role of the component for the pages, under another name.
func grant(t *testing.T, file, name, namespace string) {
	t.Helper()
	text := string(must(os.ReadFile(deploy("kubernetes", "components", "pages", file)))(t))
	text = strings.NewReplacer("name: metrics-server-prom\n", "name: "+name+"\n",
		"namespace: metrics-server-prom\n", "namespace: "+namespace+"\n").Replace(text)
	if _, err := plane.ApplyYAML(within(t, 30*time.Second), []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// TestExtraPagesWithoutTheirRights has only what /metrics and / need. ReplicaSets' and Jobs' owners are guessed, here
// as they are; all else that needs more is missing.
func TestExtraPagesWithoutTheirRights(t *testing.T) {
	t.Parallel()
	startWorkload(t)
	e := startReady(t, deployed(t), "--pages=cadvisor,kube-state-metrics")
	equalPages(t, e, nil, nil, check.OfNamespaces, check.OfQuotas)
	forbidden := []string{"namespaces", "resourcequotas", "replicasets", "jobs"}
	eventually(t, 10*time.Second, func(ctx context.Context) error { // its metrics may be a second old
		page, err := e.Scrape(ctx)
		if err != nil {
			return err
		}
		for _, resource := range forbidden {
			label := map[string]string{"resource": resource}
			if up, series := page.Sum("metrics_server_prom_watch_up", label); up != 0 || series != 1 {
				return fmt.Errorf("watch_up of %s is %v, of %d series", resource, up, series)
			}
			guessed, series := page.Sum("metrics_server_prom_owners_guessed", label)
			if owned := resource == "replicasets" || resource == "jobs"; owned && guessed != 1 || !owned && series != 0 {
				return fmt.Errorf("owners_guessed of %s is %v, of %d series", resource, guessed, series)
			}
		}
		return nil
	})
	for _, resource := range forbidden {
		if lines := linesWith(e.Log(), resource, "403 Forbidden"); len(lines) != 1 {
			t.Errorf("%d log lines say that %s are forbidden:\n%s", len(lines), resource, strings.Join(lines, "\n"))
		}
	}
	status, body, err := e.Get(t.Context(), "/healthz")
	if err != nil || status != 200 {
		t.Errorf("/healthz answers %d %q %v", status, body, err)
	}
}

// TestExtraPagesOfOneNamespaceNeedOnlyARole has the rights of the component in one namespace, and none elsewhere.
func TestExtraPagesOfOneNamespaceNeedOnlyARole(t *testing.T) {
	t.Parallel()
	startWorkload(t)
	for _, namespace := range []string{shop, batch} {
		t.Run(namespace, func(t *testing.T) {
			t.Parallel()
			kubeconfig := account(t, "metrics-server-prom", "of-"+namespace)
			grant(t, "role.yaml", "with-pages", namespace)
			if err := plane.BindRole(t.Context(), "with-pages", "metrics-server-prom", "of-"+namespace, namespace); err != nil {
				t.Fatal(err)
			}
			e := startReady(t, kubeconfig, "--namespaces="+namespace, "--pages=cadvisor,kube-state-metrics")
			equalPages(t, e, []string{namespace}, nil, check.OfNodes, check.OfNodeUsage)
		})
	}
}

// equalPages returns when both pages have exactly what the API says, in these namespaces or in all, but for what is
// made of the resources that may not be read.
func equalPages(t *testing.T, e *exporter.Exporter, namespaces, podLabels []string, without ...string) {
	t.Helper()
	eventually(t, 2*aTick, func(ctx context.Context) error {
		wantCAdvisor, wantState, err := wantPages(ctx, namespaces, podLabels, without)
		if err != nil {
			return err
		}
		cadvisor, err := e.ScrapePage(ctx, cadvisorPage)
		if err != nil {
			return err
		}
		state, err := e.ScrapePage(ctx, statePage)
		if err != nil {
			return err
		}
		afterCAdvisor, afterState, err := wantPages(ctx, namespaces, podLabels, without)
		if err != nil {
			return err
		}
		if check.Diff(wantCAdvisor, afterCAdvisor) != nil || check.Diff(wantState, afterState) != nil {
			return errors.New("the API's objects changed while the pages were read")
		}
		for _, page := range []struct {
			name string
			want check.Samples
			page *exporter.Page
		}{{cadvisorPage, wantCAdvisor, cadvisor}, {statePage, wantState, state}} {
			if len(page.want) == 0 {
				t.Fatalf("nothing is expected on %s", page.name)
			}
			if differences := check.DiffPage(page.want, page.page); differences != nil {
				return fmt.Errorf("%s: %d of %d samples differ:\n%s", page.name, len(differences), len(page.want),
					strings.Join(differences[:min(len(differences), 10)], "\n"))
			}
		}
		return nil
	})
}

func wantPages(ctx context.Context, namespaces, podLabels, without []string) (cadvisor, state check.Samples,
	err error) {
	reading, err := check.Read(ctx, plane)
	if err != nil {
		return nil, nil, err
	}
	objects, err := check.ReadObjects(ctx, plane.Admin)
	if err != nil {
		return nil, nil, err
	}
	objects.Keep(func(name string) bool { return namespaces == nil || slices.Contains(namespaces, name) })
	return objects.CAdvisor(reading, without...), objects.KubeStateMetrics(podLabels, without...), nil
}

// TestExtraPagesThatAreOffSayHowToTurnThemOn also finds that they are not on by default.
func TestExtraPagesThatAreOffSayHowToTurnThemOn(t *testing.T) {
	t.Parallel()
	neither := startReady(t, deployed(t))
	one := startReady(t, deployed(t), "--pages=kube-state-metrics")
	for _, page := range []struct {
		e    *exporter.Exporter
		path string
	}{{neither, cadvisorPage}, {neither, statePage}, {one, cadvisorPage}} {
		status, body, err := page.e.Get(t.Context(), page.path)
		if err != nil || status != 404 || !strings.Contains(body, "--pages") {
			t.Errorf("%s answers %d %q %v", page.path, status, body, err)
		}
	}
	if _, err := one.ScrapePage(t.Context(), statePage); err != nil {
		t.Error(err)
	}
}

func TestPromtoolHasNothingToSayAboutTheExtraPages(t *testing.T) {
	t.Parallel()
	startWorkload(t)
	e := startReady(t, withPages(t), "--pages=cadvisor,kube-state-metrics")
	for _, path := range []string{cadvisorPage, statePage} {
		promtool(t, must(e.ScrapePage(within(t, 10*time.Second), path))(t))
	}
}
