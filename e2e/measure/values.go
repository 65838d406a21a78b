package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/exporter"
)

// sampledPods is how many pods' samples are compared with the API.
const sampledPods = 100

// series is what a page has of one pod: values by name{label="value",...}, the labels in alphabetical order.
type series map[string]float64

// values compares the samples of some pods on both pages with what the API says: all of the families below, and no
// sample of them more.
func (s *simulated) values(ctx context.Context) ([]result, error) {
	progress("comparing the samples of %d pods with the API", sampledPods)
	usage, pods := s.api.PodUsage(), map[string]bool{}
	for i := 0; i < len(usage); i += max(1, len(usage)/sampledPods) {
		pods[usage[i].Namespace+"/"+usage[i].Name] = true
	}
	samples := 0
	for path, of := range map[string]func(standin.PodUsage, *corev1.Pod) series{
		usagePage: memoryOf,
		statePage: func(_ standin.PodUsage, pod *corev1.Pod) series { return stateOf(pod) },
	} {
		want, err := s.value(ctx, path, pods, of)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		samples += len(want)
	}
	return []result{{fmt.Sprintf("samples of %d pods on both pages that are what the API says", len(pods)),
		fmt.Sprint(samples), fmt.Sprint(samples), true}}, nil
}

// value compares the samples of pods on a page with what of makes of what the API says, and returns that. The API is
// asked right after a refresh and the page before the next one, so that both are of one tick. On a busy machine that
// can take more than one attempt.
func (s *simulated) value(ctx context.Context, path string, pods map[string]bool,
	of func(standin.PodUsage, *corev1.Pod) series) (want series, err error) {
	for range 3 {
		if err := s.refresh(ctx); err != nil {
			return nil, err
		}
		want = series{}
		for _, u := range s.api.PodUsage() {
			if pods[u.Namespace+"/"+u.Name] {
				maps.Copy(want, of(u, s.api.Object(u.Namespace, u.Name)))
			}
		}
		page, failed := s.fetch(ctx, path)
		if failed != nil {
			return nil, failed
		}
		if err = different(page, pods, want); err == nil {
			return want, nil
		}
	}
	return nil, fmt.Errorf("in three ticks: %w", err)
}

// different tells how what a page has of some pods differs from what is wanted, in the families that are wanted.
func different(page *exporter.Page, pods map[string]bool, want series) error {
	text, err := page.Decompress()
	if err != nil {
		return err
	}
	families := map[string]bool{}
	for key := range want {
		name, _, _ := strings.Cut(key, "{")
		families[name] = true
	}
	var wrong []string
	found := 0
	for line := range strings.Lines(text) {
		name, _, isSample := strings.Cut(line, "{")
		if !isSample || !families[name] || !strings.Contains(line, `pod="`) {
			continue
		}
		key, value, labels, err := parseSample(strings.TrimSpace(line))
		if err != nil {
			return err
		}
		if !pods[labels["namespace"]+"/"+labels["pod"]] {
			continue
		}
		if expected, ok := want[key]; !ok || expected != value {
			wrong = append(wrong, fmt.Sprintf("%s %v, want %v (%t)", key, value, expected, ok))
		}
		found++
	}
	if found != len(want) || len(wrong) > 0 {
		return fmt.Errorf("%d samples, want %d; wrong are %d, the first %.600s", found, len(want), len(wrong),
			strings.Join(wrong[:min(3, len(wrong))], "\n"))
	}
	return nil
}

// parseSample reads a sample whose label values need no escaping.
func parseSample(line string) (key string, value float64, labels map[string]string, err error) {
	name, rest, ok := strings.Cut(line, "{")
	text, number, ended := strings.Cut(rest, `"} `)
	if !ok || !ended {
		return "", 0, nil, fmt.Errorf("not a sample: %q", line)
	}
	labels = map[string]string{}
	for pair := range strings.SplitSeq(text, `",`) {
		label, content, ok := strings.Cut(pair, `="`)
		if !ok || strings.ContainsRune(content, '\\') {
			return "", 0, nil, fmt.Errorf("labels of %q", line)
		}
		labels[label] = content
	}
	value, err = strconv.ParseFloat(number, 64)
	return keyOf(name, labels), value, labels, err
}

func keyOf(name string, labels map[string]string) string {
	var pairs []string
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, label+`="`+labels[label]+`"`)
	}
	return name + "{" + strings.Join(pairs, ",") + "}"
}

// add adds a sample: pairs are the names and values of its labels.
func (s series) add(value float64, name string, common map[string]string, pairs ...string) {
	labels := maps.Clone(common)
	for i := 0; i < len(pairs); i += 2 {
		labels[pairs[i]] = pairs[i+1]
	}
	s[keyOf(name, labels)] = value
}

// stateOf is what kube-state-metrics says of a pod, in some of its families.
func stateOf(pod *corev1.Pod) series {
	s := series{}
	common := map[string]string{"namespace": pod.Namespace, "pod": pod.Name, "uid": string(pod.UID)}
	owner := pod.OwnerReferences[0]
	s.add(1, "kube_pod_info", common, "host_ip", pod.Status.HostIP, "pod_ip", pod.Status.PodIP, "node", pod.Spec.NodeName,
		"created_by_kind", owner.Kind, "created_by_name", owner.Name, "priority_class", pod.Spec.PriorityClassName,
		"host_network", strconv.FormatBool(pod.Spec.HostNetwork))
	s.add(1, "kube_pod_owner", common, "owner_kind", owner.Kind, "owner_name", owner.Name, "owner_is_controller", "true")
	for _, phase := range []corev1.PodPhase{corev1.PodPending, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown,
		corev1.PodRunning} {
		s.add(bit(pod.Status.Phase == phase), "kube_pod_status_phase", common, "phase", string(phase))
	}
	units := map[corev1.ResourceName]string{"cpu": "core", "memory": "byte", "ephemeral-storage": "byte"}
	resources := func(name, container string, list corev1.ResourceList) {
		for of, quantity := range list {
			unit := units[of]
			if unit == "" {
				unit = "integer"
			}
			label := strings.NewReplacer("-", "_", ".", "_", "/", "_").Replace(string(of))
			s.add(quantity.AsApproximateFloat64(), name, common, "container", container, "node", pod.Spec.NodeName,
				"resource", label, "unit", unit)
		}
	}
	statuses := map[string]corev1.ContainerStatus{}
	for _, c := range pod.Status.ContainerStatuses {
		statuses[c.Name] = c
	}
	for _, c := range pod.Spec.Containers {
		resources("kube_pod_container_resource_requests", c.Name, c.Resources.Requests)
		resources("kube_pod_container_resource_limits", c.Name, c.Resources.Limits)
		status := statuses[c.Name]
		s.add(1, "kube_pod_container_info", common, "container", c.Name, "image_spec", c.Image, "image", status.Image,
			"image_id", status.ImageID, "container_id", status.ContainerID)
		for name, value := range map[string]float64{
			"kube_pod_container_status_restarts_total": float64(status.RestartCount),
			"kube_pod_container_status_ready":          bit(status.Ready),
			"kube_pod_container_status_running":        bit(status.State.Running != nil),
		} {
			s.add(value, name, common, "container", c.Name)
		}
	}
	return s
}

func bit(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// memoryOf is what cAdvisor says of the memory of a pod's containers.
func memoryOf(u standin.PodUsage, pod *corev1.Pod) series {
	all := series{}
	statuses := map[string]corev1.ContainerStatus{}
	for _, c := range append(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses...) {
		statuses[c.Name] = c
	}
	for _, c := range u.Containers {
		memory := resource.MustParse(c.Memory)
		status := statuses[c.Name]
		_, id, _ := strings.Cut(status.ContainerID, "://")
		all.add(float64(memory.Value()), "container_memory_working_set_bytes", map[string]string{
			"namespace": u.Namespace, "pod": u.Name, "node": pod.Spec.NodeName}, "container", c.Name, "image", status.Image,
			"name", id)
	}
	return all
}
