package remotewrite

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sample is what Add takes.
type sample struct {
	job    int
	name   string
	labels []byte
	value  float64
	at     int64
}

// podSamples are the samples that the three pages have of n pods of two containers, family after family of each pod.
// What is random in a cluster is so here: the ends of names, UIDs, IDs of containers.
func podSamples(n int) (pods [][]sample) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func(digits string, n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = digits[r.IntN(len(digits))]
		}
		return string(b)
	}
	const hex, safe = "0123456789abcdef", "bcdfghjklmnpqrstvwxz2456789"
	const now = 1_764_130_000_000
	for i := range n {
		var pod []sample
		add := func(job int, name string, value float64, at int64, format string, args ...any) {
			pod = append(pod, sample{job, name, fmt.Appendf(nil, format, args...), value, at})
		}
		workload := fmt.Sprintf("service-%d", i/30)
		replicaSet := workload + "-5d4f8c9b7d"
		name := replicaSet + "-" + random(safe, 5)
		namespace := fmt.Sprintf("team-%d", i/300)
		node := fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", r.IntN(4), r.IntN(64))
		ip := fmt.Sprintf("10.1.%d.%d", r.IntN(256), r.IntN(256))
		uid := random(hex, 8) + "-" + random(hex, 4) + "-4" + random(hex, 3) + "-a" + random(hex, 3) + "-" + random(hex, 12)
		at := int64(now - 1000*r.IntN(15))
		of := fmt.Sprintf(`namespace="%s",pod="%s",uid="%s"`, namespace, name, uid)
		for _, container := range []string{"app", "istio-proxy"} {
			image, id := "registry.example.com/team/"+container+":v1.2.3", random(hex, 64)
			cpu, memory := float64(r.IntN(1e9))/1e9, float64(r.IntN(1<<20)<<12)
			text := fmt.Sprintf(`node="%s",pod="%s",ip="%s",container="%s",namespace="%s"`, node, name, ip, container, namespace)
			add(0, "kube_metrics_server_pod_cpu", cpu, at, "%s", text)
			add(0, "kube_metrics_server_pod_mem", memory, at, "%s", text)
			run := fmt.Sprintf(`image="%s",name="%s",namespace="%s",node="%s",pod="%s"`, image, id, namespace, node, name)
			add(1, "container_cpu_usage_seconds_total", cpu*9e4, at, `container="%s",cpu="total",%s`, container, run)
			add(1, "container_memory_working_set_bytes", memory, at, `container="%s",%s`, container, run)
			add(1, "container_start_time_seconds", 1.764e9+float64(r.IntN(1e5)), at, `container="%s",%s`, container, run)

			own := fmt.Sprintf(`%s,container="%s"`, of, container)
			for _, family := range []string{"requests", "limits"} {
				family = "kube_pod_container_resource_" + family
				add(2, family, 0.5, now, `%s,node="%s",resource="cpu",unit="core"`, own, node)
				add(2, family, 1<<28, now, `%s,node="%s",resource="memory",unit="byte"`, own, node)
			}
			add(2, "kube_pod_container_info", 1, now,
				`%s,image_spec="%s",image="%s",image_id="registry.example.com/team/%s@sha256:%064x",container_id="containerd://%s"`,
				own, image, image, container, len(container), id)
			add(2, "kube_pod_container_status_restarts_total", 0, now, "%s", own)
			add(2, "kube_pod_container_status_running", 1, now, "%s", own)
			add(2, "kube_pod_container_status_ready", 1, now, "%s", own)
		}
		add(2, "kube_pod_info", 1, now, `%s,host_ip="10.0.0.%d",pod_ip="%s",node="%s",created_by_kind="ReplicaSet",`+
			`created_by_name="%s",priority_class="",host_network="false"`, of, r.IntN(256), ip, node, replicaSet)
		add(2, "kube_pod_owner", 1, now, `%s,owner_kind="ReplicaSet",owner_name="%s",owner_is_controller="true"`,
			of, replicaSet)
		for i, phase := range []string{"Pending", "Succeeded", "Failed", "Unknown", "Running"} {
			add(2, "kube_pod_status_phase", float64(i/4), now, `%s,phase="%s"`, of, phase)
		}
		for i, class := range []string{"BestEffort", "Burstable", "Guaranteed"} {
			add(2, "kube_pod_status_qos_class", float64(i%2), now, `%s,qos_class="%s"`, of, class)
		}
		for i, is := range []string{"true", "false", "unknown"} {
			add(2, "kube_pod_status_ready", float64((3-i)/3), now, `%s,condition="%s"`, of, is)
		}
		pods = append(pods, pod)
	}
	return pods
}

// BenchmarkRequest encodes the samples of a page in batches, in the order of pods or of families: CPU time and bytes on
// the wire a sample.
func BenchmarkRequest(b *testing.B) {
	const batch = 2000
	samples := slices.Concat(podSamples(3000)...)
	for job, name := range []string{"metrics-server-prom", "cadvisor", "kube-state-metrics"} {
		samples := slices.DeleteFunc(slices.Clone(samples), func(s sample) bool { return s.job != job })
		to := target(b, `job="`+name+`",instance="metrics-server-prom-5d4f8c9b7d-x2x7z",cluster="eu"`)
		for _, order := range []string{"pods", "families"} {
			if order == "families" {
				slices.SortStableFunc(samples, func(a, b sample) int { return strings.Compare(a.name, b.name) })
			}
			b.Run("page="+name+"/by="+order, func(b *testing.B) {
				var e Encoder
				size, before := 0, cpuTime()
				for b.Loop() {
					size = 0
					for batch := range slices.Chunk(samples, batch) {
						e.Reset()
						for _, s := range batch {
							if !e.Add(to, s.name, s.labels, s.value, s.at) {
								b.Fatal(s.name, string(s.labels))
							}
						}
						size += len(e.Body())
					}
				}
				b.ReportMetric(float64(size)/float64(len(samples)), "bytes/sample")
				b.ReportMetric(float64(cpuTime()-before)/float64(b.N*len(samples)), "cpu-ns/sample")
			})
		}
	}
}

// cpuTime is that of the process.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
