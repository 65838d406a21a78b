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
// lists that costs, and the memory over all of it, and compares every sample with the API.
func (r *real) age(ctx context.Context) ([]result, error) {
	cgroup, without := process.NewCgroup()
	if cgroup != nil {
		defer cgroup.Remove()
	}
	e, _, _, err := r.launch(ctx, exporter.Options{Cgroup: cgroup})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	if err := awaitPeriod(ctx, r.plane, 3); err != nil {
		return nil, err
	}

	listsBefore, err := r.podLists()
	if err != nil {
		return nil, err
	}
	var ages []time.Duration
	for range *ticks {
		age, err := r.ageAdded(ctx, e)
		if err != nil {
			return nil, err
		}
		progress("new values are on the page %s after they were in the API", age.Round(time.Millisecond))
		ages = append(ages, age)
	}
	listsAfter, err := r.podLists()
	if err != nil {
		return nil, err
	}
	values, err := r.values(ctx, e)
	if err != nil {
		return nil, err
	}
	memory, err := e.Memory()
	if err != nil {
		return nil, err
	}
	when := fmt.Sprintf("over %d readings", *ticks+3)
	peak, err := cgroupPeak(cgroup, without, when, 0)
	if err != nil {
		return nil, err
	}
	high, perTick := quantile(ages, 0.95), float64(listsAfter-listsBefore)/float64(*ticks)
	return []result{
		values,
		{fmt.Sprintf("age added to a sample, p95 of %d readings", *ticks), "≤ 2 s",
			fmt.Sprintf("%.2f s (median %.2f s)", high.Seconds(), median(ages).Seconds()), high <= 2*time.Second},
		{"full lists of the pods' usage for each of metrics-server's readings", "≤ 1.1", fmt.Sprintf("%.2f", perTick), perTick <= 1.1},
		{"peak resident memory " + when, "< 80 MiB", size(memory.Peak), memory.Peak < 80<<20},
		peak,
	}, nil
}

func (r *real) podLists() (lists int, err error) {
	requests, err := r.plane.Requests(namespace, account)
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
	pods, err := plane.Metrics.MetricsV1beta1().PodMetricses(firstPod.Namespace).Get(ctx, firstPod.Name,
		metav1.GetOptions{})
	if err != nil {
		return witness{}, err
	}
	node, err := plane.Metrics.MetricsV1beta1().NodeMetricses().Get(ctx, firstPod.Node, metav1.GetOptions{})
	if err != nil {
		return witness{}, err
	}
	var seen witness
	for _, container := range pods.Containers {
		if container.Name == firstPod.Containers[0].Name {
			seen.containerCPU = check.Number(container.Usage[corev1.ResourceCPU])
		}
	}
	seen.nodeCPU = check.Number(node.Usage[corev1.ResourceCPU])
	return seen, nil
}

// ageAdded waits for metrics-server's next reading and then for the page that has it, pods and nodes. The time counts
// from the last moment at which the API did not have it.
func (r *real) ageAdded(ctx context.Context, e *exporter.Exporter) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*r.plane.MetricResolution(), errors.New("not within three readings"))
	defer cancel()
	old, err := usageOf(ctx, r.plane)
	if err != nil {
		return 0, err
	}
	var (
		now     witness
		without time.Time // when the last question was asked whose answer was old
	)
	err = process.Await(ctx, 50*time.Millisecond, func(ctx context.Context) error {
		asked := time.Now()
		if now, err = usageOf(ctx, r.plane); err != nil {
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
		if !served(text, fmt.Sprintf(`%s{node="%s",pod="%s",`, check.PodCPU, firstPod.Node, firstPod.Name),
			now.containerCPU) ||
			!served(text, fmt.Sprintf(`%s{node="%s"} `, check.NodeCPU, firstPod.Node), now.nodeCPU) {
			return errors.New("the page has not the new reading")
		}
		return nil
	})
	return read.Sub(without), err
}

// served tells whether a page has a sample with this value among those whose line begins like this.
func served(text, begin string, value float64) bool {
	for {
		got, ok := valueOf(text, begin)
		if !ok || got == value {
			return ok
		}
		_, text, _ = strings.Cut(text, begin)
	}
}

// valueOf is the value of the first sample whose line begins like this.
func valueOf(text, begin string) (float64, bool) {
	_, rest, ok := strings.Cut("\n"+text, "\n"+begin)
	if !ok {
		return 0, false
	}
	line, _, _ := strings.Cut(begin+rest, "\n")
	value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
	return value, err == nil
}
