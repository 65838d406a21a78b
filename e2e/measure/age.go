package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// age measures, with the exporter's defaults, how much later than the metrics API its page has new values, what full
// lists that costs, and the memory over all of it; and holds every sample against the API.
func (m *measurement) age(ctx context.Context) ([]result, error) {
	e, _, err := m.launch(ctx)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	if err := awaitRhythm(ctx, m.plane, 3); err != nil {
		return nil, err
	}

	listsBefore, err := m.podLists()
	if err != nil {
		return nil, err
	}
	var ages []time.Duration
	for range *ticks {
		age, err := m.ageAdded(ctx, e)
		if err != nil {
			return nil, err
		}
		progress("new values are on the page %s after they were in the API", age.Round(time.Millisecond))
		ages = append(ages, age)
	}
	listsAfter, err := m.podLists()
	if err != nil {
		return nil, err
	}
	values, err := m.values(ctx, e)
	if err != nil {
		return nil, err
	}
	peak, err := e.PeakMemory()
	if err != nil {
		return nil, err
	}
	high, perTick := quantile(ages, 0.95), float64(listsAfter-listsBefore)/float64(*ticks)
	return []result{
		values,
		{fmt.Sprintf("age added to a sample, p95 of %d readings", *ticks), "≤ 2 s",
			fmt.Sprintf("%.2f s (median %.2f s)", high.Seconds(), median(ages).Seconds()), high <= 2*time.Second},
		{"full pod lists for each of metrics-server's readings", "≤ 1.1", fmt.Sprintf("%.2f", perTick), perTick <= 1.1},
		{fmt.Sprintf("peak resident memory over %d readings", *ticks+3), "< 80 MiB", fmt.Sprintf("%.1f MiB", float64(peak)/(1<<20)), peak < 80<<20},
	}, nil
}

func (m *measurement) podLists() (lists int, err error) {
	requests, err := m.plane.Requests(namespace, account)
	for _, request := range requests {
		if request.Verb == "list" && request.Group == "metrics.k8s.io" && request.Resource == "pods" {
			lists++
		}
	}
	return lists, err
}

// witness is the usage of one container and one node: enough to see that there is a new reading, because
// metrics-server stores one as a whole.
type witness struct{ containerCPU, nodeCPU float64 }

func usageOf(ctx context.Context, plane *controlplane.ControlPlane) (witness, error) {
	pod := pod(0)
	pods, err := plane.Metrics.MetricsV1beta1().PodMetricses(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if err != nil {
		return witness{}, err
	}
	node, err := plane.Metrics.MetricsV1beta1().NodeMetricses().Get(ctx, pod.Node, metav1.GetOptions{})
	if err != nil {
		return witness{}, err
	}
	var seen witness
	for _, container := range pods.Containers {
		if container.Name == pod.Containers[0].Name {
			seen.containerCPU = check.Number(container.Usage[corev1.ResourceCPU])
		}
	}
	seen.nodeCPU = check.Number(node.Usage[corev1.ResourceCPU])
	return seen, nil
}

// ageAdded waits for metrics-server's next reading and then for the page that has it, pods and nodes. The time counts
// from the last moment at which the API did not have it.
func (m *measurement) ageAdded(ctx context.Context, e *exporter.Exporter) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*m.plane.MetricResolution(), errors.New("not within three readings"))
	defer cancel()
	old, err := usageOf(ctx, m.plane)
	if err != nil {
		return 0, err
	}
	var (
		now     witness
		without time.Time // when the last question was asked whose answer was old
	)
	err = process.Await(ctx, 50*time.Millisecond, func(ctx context.Context) error {
		asked := time.Now()
		if now, err = usageOf(ctx, m.plane); err != nil {
			return err
		}
		// Both must have changed: the two questions may be on either side of the moment.
		if now.containerCPU == old.containerCPU || now.nodeCPU == old.nodeCPU {
			if now == old {
				without = asked
			}
			return errors.New("no new reading")
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	var read time.Time
	err = process.Await(ctx, 50*time.Millisecond, func(ctx context.Context) error {
		page, err := e.Fetch(ctx)
		if err != nil {
			return err
		}
		read = time.Now()
		text, err := page.Decompress()
		if err != nil {
			return err
		}
		if !served(text, fmt.Sprintf(`%s{node="%s",pod="%s",`, check.PodCPU, pod(0).Node, pod(0).Name), now.containerCPU) ||
			!served(text, fmt.Sprintf(`%s{node="%s"} `, check.NodeCPU, pod(0).Node), now.nodeCPU) {
			return errors.New("the page has not the new reading")
		}
		return nil
	})
	return read.Sub(without), err
}

// served tells whether a page has a sample with this value among those whose line begins like this.
func served(text, begin string, value float64) bool {
	for {
		i := strings.Index(text, begin)
		if i < 0 {
			return false
		}
		line, rest, _ := strings.Cut(text[i:], "\n")
		if v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64); err == nil && v == value {
			return true
		}
		text = rest
	}
}
