package kubelet

import (
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pod is a pod whose containers use 100m each, but for the idle one.
func pod(ids ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-0", Annotations: map[string]string{
			CPUAnnotation + "app": "100m", CPUAnnotation + "idle": "0.1m", MemoryAnnotation + "app": "64Mi"}},
		Spec: corev1.PodSpec{NodeName: "node-0"},
	}
	for i, id := range ids {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: []string{"app", "idle"}[i], ContainerID: "containerd://" + id,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}})
	}
	return p
}

// scrape is what metrics-server gets: series with the container's name, value and moment.
func scrape(t *testing.T, k *Kubelet) (values map[string]float64, moments map[string]time.Time) {
	t.Helper()
	answer := httptest.NewRecorder()
	k.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics/nodes/node-0/metrics/resource", nil))
	if answer.Code != http.StatusOK {
		return nil, nil
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(answer.Body.String()))
	if err != nil {
		t.Fatal(err)
	}
	values, moments = map[string]float64{}, map[string]time.Time{}
	for name, family := range families {
		for _, metric := range family.GetMetric() {
			series := name
			for _, label := range metric.GetLabel() {
				if label.GetName() == "container" {
					series += " " + label.GetValue()
				}
			}
			values[series], moments[series] = metric.GetUntyped().GetValue(), time.UnixMilli(metric.GetTimestampMs())
		}
	}
	return values, moments
}

const appCPU, idleCPU = "container_cpu_usage_seconds_total app", "container_cpu_usage_seconds_total idle"

func TestEachContainerIsReadAtMomentsOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New(true)
		k.set(pod("a", "b"))
		for range 40 {
			time.Sleep(15 * time.Second)
			values, moments := scrape(t, k)
			for series, id := range map[string]string{appCPU: "a", idleCPU: "b", "node_cpu_usage_seconds_total": "node-0"} {
				readings := k.Readings(id)
				last := readings[len(readings)-1]
				if moments[series] != last.Time || values[series] != last.CPU {
					t.Fatalf("%s is %v of %s, the last reading %v", series, values[series], moments[series], last)
				}
				if truth, ok := k.CPU(id, last.Time); !ok || truth != last.CPU {
					t.Fatalf("%s: read %v, in truth %v", series, last.CPU, truth)
				}
			}
		}
		for id, interval := range map[string]time.Duration{"a": 10 * time.Second, "b": 15 * time.Second} {
			readings := k.Readings(id)
			for i, reading := range readings[1:] {
				before := readings[i]
				if d := reading.Time.Sub(before.Time); d < interval-time.Millisecond || d > 2*interval+time.Millisecond {
					t.Errorf("%s was read after %s", id, d)
				}
				if reading.CPU <= before.CPU || reading.Memory == before.Memory {
					t.Errorf("%s: reading %v after %v", id, reading, before)
				}
			}
		}
		if cpu, _ := k.CPU("a", time.Now()); math.Abs(cpu-60) > 6 {
			t.Errorf("0.1 cores on average made %v seconds in ten minutes", cpu)
		}
	})
}

func TestWithoutHousekeepingAllIsReadWhenAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New(false)
		k.set(pod("a"))
		time.Sleep(time.Minute)
		values, moments := scrape(t, k)
		if truth, _ := k.CPU("a", time.Now()); values[appCPU] != truth || !moments[appCPU].Equal(time.Now()) {
			t.Errorf("%v at %s, in truth %v", values[appCPU], moments[appCPU], truth)
		}
		if got := values["container_memory_working_set_bytes app"]; got != 64<<20 {
			t.Errorf("memory is %v", got)
		}
	})
}

func TestRestartedContainerBeginsAtZeroAndTheOldOnesTruthStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New(true)
		k.set(pod("a"))
		time.Sleep(time.Minute)
		end, _ := k.CPU("a", time.Now())
		k.set(pod("a2"))
		time.Sleep(10 * time.Second)
		values, _ := scrape(t, k)
		if values[appCPU] >= end || values["container_start_time_seconds app"] != float64(time.Now().Unix()-10) {
			t.Errorf("after the restart: %v", values)
		}
		if later, ok := k.CPU("a", time.Now()); !ok || later != end {
			t.Errorf("the old container is at %v, it ended at %v", later, end)
		}
	})
}

func TestContainersThatDoNotRunAndPodsThatAreGoneHaveNoUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New(false)
		both := pod("a", "b")
		k.set(both)
		both.Status.ContainerStatuses[1].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
		k.set(both)
		values, _ := scrape(t, k)
		if _, ok := values[idleCPU]; ok || len(values) != 2+3 {
			t.Errorf("with one container: %v", values)
		}
		k.remove(both)
		if values, _ := scrape(t, k); len(values) != 2 {
			t.Errorf("without the pod: %v", values)
		}
	})
}

func TestMissedTickIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New(true)
		k.Miss("node-0", 15*time.Second)
		time.Sleep(14 * time.Second)
		if values, _ := scrape(t, k); values != nil {
			t.Errorf("answered with %v", values)
		}
		time.Sleep(time.Second)
		if values, _ := scrape(t, k); values == nil {
			t.Error("still an error")
		}
	})
}
