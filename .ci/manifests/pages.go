package main

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
)

var allPages = []string{"cadvisor", "kube-state-metrics"}

// rights are the rules that a role of the kind has to have with these pages, and no more. An exporter that reads once
// watches nothing and asks for nothing twice.
func rights(kind string, pages []string, once bool) []rbacv1.PolicyRule {
	rule := func(group string, verbs string, resources ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: strings.Split(verbs, " ")}
	}
	watch, ask := "list watch", "get list"
	if once {
		watch, ask = "list", "list"
	}
	state := slices.Contains(pages, "kube-state-metrics")
	rules := []rbacv1.PolicyRule{rule("", watch, "pods")}
	if kind == "Role" {
		rules = append(rules, rule("metrics.k8s.io", ask, "pods"))
		if state {
			rules = append(rules, rule("", "get", "namespaces"), rule("", watch, "resourcequotas"))
		}
	} else {
		if once {
			rules = append(rules, rule("metrics.k8s.io", ask, "pods", "nodes"))
		} else {
			rules = append(rules, rule("metrics.k8s.io", "list", "pods"), rule("metrics.k8s.io", ask, "nodes"))
		}
		if len(pages) > 0 || !once { // the page for people
			rules = append(rules, rule("", watch, "nodes"))
		}
		if state {
			rules = append(rules, rule("", watch, "namespaces", "resourcequotas"))
		}
	}
	if state {
		rules = append(rules, rule("apps", watch, "replicasets"), rule("batch", watch, "jobs"))
	}
	return rules
}

// checkRights looks at a role beside an exporter, or for one elsewhere, which may have all pages or none.
func (s set) checkRights(kind string, rules []rbacv1.PolicyRule) error {
	pages, once := [][]string{nil, allPages}, false
	if c := s.exporter(); c != nil {
		pages, once = [][]string{pagesOf(c)}, isOnce(c)
	}
	for _, p := range pages {
		if reflect.DeepEqual(rules, rights(kind, p, once)) {
			return nil
		}
	}
	return fmt.Errorf("grants %v, where %v is needed for the pages %q", rules, rights(kind, pages[0], once), pages[0])
}

// exporter is the container of the set's Deployment, CronJob or Knative Service, or nil.
func (s set) exporter() *corev1.Container {
	for _, o := range s.objects {
		switch o := o.(type) {
		case *appsv1.Deployment:
			return &o.Spec.Template.Spec.Containers[0]
		case *batchv1.CronJob:
			return &o.Spec.JobTemplate.Spec.Template.Spec.Containers[0]
		case *servingv1.Service:
			return &o.Spec.Template.Spec.Containers[0]
		}
	}
	return nil
}

// pagesOf are the pages that a container's environment turns on.
func pagesOf(c *corev1.Container) []string {
	for _, e := range c.Env {
		if e.Name == "PAGES" {
			return strings.Split(e.Value, ",")
		}
	}
	return nil
}

// endpoint is what the endpoints of both kinds of monitor have in common.
type endpoint struct {
	path, port  string
	honorLabels bool
	relabelings []monitoringv1.RelabelConfig
}

func endpointsOf(m *monitoringv1.ServiceMonitor) (all []endpoint) {
	for _, e := range m.Spec.Endpoints {
		all = append(all, endpoint{e.Path, e.Port, e.HonorLabels, e.RelabelConfigs})
	}
	return all
}

func podEndpointsOf(m *monitoringv1.PodMonitor) (all []endpoint) {
	for _, e := range m.Spec.PodMetricsEndpoints {
		all = append(all, endpoint{e.Path, *e.Port, e.HonorLabels, e.RelabelConfigs})
	}
	return all
}

// The labels under which dashboards look for the pages, by the paths that the monitors scrape below the telemetry path.
// Read in kubernetes-mixin (config.libsonnet) and in kube-prometheus (kubernetes-mixin.libsonnet).
var (
	mixin = map[string]map[string]string{
		"/cadvisor":           {"job": "cadvisor"},
		"/kube-state-metrics": {"job": "kube-state-metrics"},
	}
	kubePrometheus = map[string]map[string]string{
		"/cadvisor":           {"job": "kubelet", "metrics_path": "/metrics/cadvisor"},
		"/kube-state-metrics": {"job": "kube-state-metrics"},
	}
)

// checkEndpoints holds a monitor against the exporter that it scrapes: one endpoint for its own names and one for each
// page that is on, under labels that dashboards select.
func (s set) checkEndpoints(endpoints []endpoint) error {
	c := s.exporter()
	root := "/metrics"
	for _, arg := range c.Args {
		if path, ok := strings.CutPrefix(arg, "--web.telemetry-path="); ok {
			root = path
		}
	}
	labels, want := map[string]map[string]string{}, []string{root}
	for _, page := range pagesOf(c) {
		want = append(want, strings.TrimSuffix(root, "/")+"/"+page)
	}
	var paths []string
	for i, e := range endpoints {
		if !e.honorLabels {
			return errors.New("without honorLabels pod and namespace are renamed")
		}
		if e.path == "" {
			e.path = "/metrics"
		}
		if paths = append(paths, e.path); i == 0 {
			continue
		}
		set, dropped := relabeled(e.relabelings)
		if !dropped {
			return fmt.Errorf("%s: samples about a node would get the exporter's own namespace and pod", e.path)
		}
		labels[strings.TrimPrefix(e.path, strings.TrimSuffix(root, "/"))] = set
	}
	if !slices.Equal(paths, want) {
		return fmt.Errorf("scrapes %q, but the exporter has %q", paths, want)
	}
	for _, variant := range []map[string]map[string]string{mixin, kubePrometheus} {
		variant = maps.Clone(variant)
		maps.DeleteFunc(variant, func(path string, _ map[string]string) bool { return labels[path] == nil }) // is off
		if reflect.DeepEqual(labels, variant) {
			return nil
		}
	}
	return fmt.Errorf("no dashboards select the pages by %v", labels)
}

// relabeled is what rules set of job and metrics_path, and whether they drop what describes the target's pod.
func relabeled(rules []monitoringv1.RelabelConfig) (set map[string]string, dropped bool) {
	set = map[string]string{}
	for _, r := range rules {
		switch {
		case r.Action == "labeldrop" && r.Regex == "namespace|pod|container|service|endpoint":
			dropped = true
		case r.TargetLabel == "job" || r.TargetLabel == "metrics_path":
			set[r.TargetLabel] = *r.Replacement
		}
	}
	return set, dropped
}
