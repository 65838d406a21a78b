// Package check compares a page of the exporter with what the API server says, independently of the exporter's code:
// typed clients, Kubernetes' own decoders, and label texts built anew.
package check

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// The families that the exporter makes of the metrics API, with their units.
const (
	NodeCPU    = "kube_metrics_server_node_cpu" // cores
	NodeMemory = "kube_metrics_server_node_mem" // bytes
	PodCPU     = "kube_metrics_server_pod_cpu"  // cores
	PodMemory  = "kube_metrics_server_pod_mem"  // bytes
)

// Reading is what the API server said about usage, and about the pods that it belongs to.
type Reading struct {
	Nodes    []metricsv1beta1.NodeMetrics
	Pods     []metricsv1beta1.PodMetrics
	Metadata map[string]*corev1.Pod // by namespace/name
}

// Scope is the part of a cluster that an exporter was told to serve; the zero value is all of it.
type Scope struct {
	Namespaces        []string // only these; none: all
	ExcludeNamespaces []string
	Selector          func(labels map[string]string) bool // of pods; nil: all
	NoNodes           bool                                // node metrics must not be served
	PodLabels         []string                            // keys of labels that become label_KEY where a pod has them
	Cluster           string                              // the label that comes last; "" for none
}

// API is what describes a cluster, as a control plane does.
type API interface {
	Pods(context.Context) ([]corev1.Pod, error)
	NodeMetrics(context.Context) ([]metricsv1beta1.NodeMetrics, error)
	PodMetrics(context.Context) ([]metricsv1beta1.PodMetrics, error)
}

// Read reads the cluster's usage and pods.
func Read(ctx context.Context, plane API) (*Reading, error) {
	pods, err := plane.Pods(ctx)
	if err != nil {
		return nil, err
	}
	reading := &Reading{Metadata: make(map[string]*corev1.Pod, len(pods))}
	for i := range pods {
		reading.Metadata[pods[i].Namespace+"/"+pods[i].Name] = &pods[i]
	}
	if reading.Nodes, err = plane.NodeMetrics(ctx); err != nil {
		return nil, err
	}
	reading.Pods, err = plane.PodMetrics(ctx)
	return reading, err
}

// Samples is what a page must have for this reading, series text to value, in the label order that the exporter
// promises.
func (r *Reading) Samples(scope Scope) map[string]float64 {
	samples := make(map[string]float64, 2*len(r.Nodes)+4*len(r.Pods))
	if !scope.NoNodes {
		for _, node := range r.Nodes {
			add(samples, node.Usage, NodeCPU, NodeMemory, fmt.Sprintf(`node="%s"`, escape(node.Name))+scope.last())
		}
	}
	for _, pod := range r.Pods {
		meta := r.Metadata[pod.Namespace+"/"+pod.Name]
		if meta == nil {
			meta = &corev1.Pod{}
		}
		if !scope.has(pod.Namespace, meta) {
			continue
		}
		// The API keeps a deleted pod's last usage for the next pod of its name, until that has its own.
		if pod.Timestamp.Unix() < meta.CreationTimestamp.Unix() {
			continue
		}
		for _, container := range pod.Containers {
			labels := fmt.Sprintf(`node="%s",pod="%s",ip="%s",container="%s",namespace="%s"`,
				escape(meta.Spec.NodeName), escape(pod.Name), escape(meta.Status.PodIP), escape(container.Name),
				escape(pod.Namespace))
			for _, key := range scope.PodLabels {
				if value, ok := meta.Labels[key]; ok {
					labels += fmt.Sprintf(`,label_%s="%s"`, notInLabelName.ReplaceAllString(key, "_"), escape(value))
				}
			}
			add(samples, container.Usage, PodCPU, PodMemory, labels+scope.last())
		}
	}
	return samples
}

// last is the label of the cluster with the comma before it.
func (s Scope) last() string {
	if s.Cluster == "" {
		return ""
	}
	return fmt.Sprintf(`,cluster="%s"`, escape(s.Cluster))
}

// Served is the page's samples of the four families that are of the scope's cluster.
func (s Scope) Served(page *exporter.Page) map[string]float64 {
	served := Served(page)
	maps.DeleteFunc(served, func(series string, _ float64) bool { return !strings.HasSuffix(series, s.last()+"}") })
	return served
}

// notInLabelName is what kube-state-metrics replaces by _ in the names of Kubernetes labels. (It also turns camelCase
// into snake_case, which no label here has.)
var notInLabelName = regexp.MustCompile(`[^a-zA-Z0-9_]`)

func (s Scope) has(namespace string, pod *corev1.Pod) bool {
	return (len(s.Namespaces) == 0 || slices.Contains(s.Namespaces, namespace)) &&
		!slices.Contains(s.ExcludeNamespaces, namespace) &&
		(s.Selector == nil || s.Selector(pod.Labels))
}

func add(samples map[string]float64, usage corev1.ResourceList, cpu, memory, labels string) {
	if quantity, ok := usage[corev1.ResourceCPU]; ok {
		samples[cpu+"{"+labels+"}"] = Number(quantity)
	}
	if quantity, ok := usage[corev1.ResourceMemory]; ok {
		samples[memory+"{"+labels+"}"] = Number(quantity)
	}
}

// Number is the float64 nearest to the quantity: of its decimal text, which is exact.
func Number(quantity resource.Quantity) float64 {
	value, err := strconv.ParseFloat(quantity.AsDec().String(), 64)
	if err != nil {
		panic(err) // a decimal text of finite length always is a number
	}
	return value
}

// escape is the text format's escaping of a label value.
func escape(value string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(value)
}

// Served is the page's samples of the four families.
func Served(page *exporter.Page) map[string]float64 {
	served := map[string]float64{}
	for _, family := range []string{NodeCPU, NodeMemory, PodCPU, PodMemory} {
		maps.Copy(served, page.Family(family))
	}
	return served
}

// Diff is how a page's samples differ from what they should be, one line each; nil if they do not. Values are compared
// bit for bit.
func Diff(want, got map[string]float64) []string {
	var differences []string
	for series, value := range want {
		if served, ok := got[series]; !ok {
			differences = append(differences, "missing: "+series)
		} else if served != value {
			differences = append(differences, fmt.Sprintf("wrong: %s is %v, the API says %v", series, served, value))
		}
	}
	for series, value := range got {
		if _, ok := want[series]; !ok {
			differences = append(differences, fmt.Sprintf("not in the API: %s %v", series, value))
		}
	}
	slices.Sort(differences)
	return differences
}

// Equal returns the first page that has exactly what the API says at that moment: the API is read before the page and
// after it, and only readings count between which nothing has changed. It fails if there is no such page before ctx
// ends. An exporter is allowed to be behind for the moment between a new reading and its next refresh, no longer.
func Equal(ctx context.Context, plane API, e *exporter.Exporter, scope Scope) (*exporter.Page, error) {
	var page *exporter.Page
	err := process.Await(ctx, 200*time.Millisecond, func(ctx context.Context) error {
		before, err := Read(ctx, plane)
		if err != nil {
			return err
		}
		if page, err = e.Scrape(ctx); err != nil {
			return err
		}
		after, err := Read(ctx, plane)
		if err != nil {
			return err
		}
		want := before.Samples(scope)
		if changed := Diff(want, after.Samples(scope)); changed != nil {
			return fmt.Errorf("the API's values changed while the page was read, %d of %d samples", len(changed),
				len(want))
		}
		if differences := Diff(want, scope.Served(page)); differences != nil {
			return fmt.Errorf("%d of %d samples differ:\n%s", len(differences), len(want),
				strings.Join(differences[:min(len(differences), 10)], "\n"))
		}
		return nil
	})
	return page, err
}
