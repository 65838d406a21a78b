package standin

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// replicas is the number of pods of a simulated Deployment or StatefulSet.
const replicas = 10

var (
	teams    = []string{"checkout", "search", "catalog", "identity", "billing", "shipping", "media", "platform"}
	services = []string{"api", "worker", "gateway", "scheduler", "indexer", "frontend", "consumer", "cache", "exporter",
		"store"}
	// sidecars name the containers after the first, which has the name of its service.
	sidecars = []string{"istio-proxy", "log-shipper", "metrics-agent", "vault-agent"}
)

// populate fills the cluster with pods of Deployments and, every tenth workload, StatefulSets.
func (c *Cluster) populate(pods, containers int) {
	c.pods = make([]*pod, 0, pods)
	for i := 0; len(c.pods) < pods; i++ {
		w := c.newWorkload(i, containers)
		shared, shape := newLabelSet(w.labels), c.shapeOf(w.containers)
		for r := range min(replicas, pods-len(c.pods)) {
			c.serial++
			c.rv++
			p := &pod{
				namespace: w.namespace, name: w.podName(r), phase: corev1.PodRunning, labels: shared, shape: shape,
				node: c.nodes[mix(c.seed^c.serial)%uint64(len(c.nodes))], ip: ipOf(c.serial),
				serial: c.serial, created: c.start.Unix() - 3600, rv: c.rv,
			}
			if w.stateful { // its pods carry their own names
				w.labels["apps.kubernetes.io/pod-index"] = strconv.Itoa(r)
				w.labels["statefulset.kubernetes.io/pod-name"] = p.name
				p.labels = newLabelSet(w.labels)
			}
			c.pods = append(c.pods, p)
		}
	}
	slices.SortFunc(c.pods, func(a, b *pod) int { return a.compare(b.namespace, b.name) })
}

// workload is a simulated Deployment or StatefulSet.
type workload struct {
	namespace, app string
	template       string // the hash of its pod template
	hash           uint64
	stateful       bool
	labels         map[string]string
	containers     []string
}

// newWorkload invents a workload.
func (c *Cluster) newWorkload(number, containers int) workload {
	team := teams[number%len(teams)]
	service := services[number/len(teams)%len(services)]
	group := number / (len(teams) * len(services))
	w := workload{
		namespace:  fmt.Sprintf("%s-%03d", team, group/4),
		app:        fmt.Sprintf("%s-%s-%d", team, service, group),
		hash:       mix(c.seed ^ uint64(number)),
		stateful:   number%10 == 9,
		containers: containerNames(service, containers),
	}
	w.template = suffix(w.hash, 10)
	w.labels = map[string]string{
		"app.kubernetes.io/name":       service,
		"app.kubernetes.io/instance":   w.app,
		"app.kubernetes.io/version":    fmt.Sprintf("v2.%d.%d", w.hash%40, w.hash>>8%20),
		"app.kubernetes.io/component":  "server",
		"app.kubernetes.io/part-of":    team,
		"app.kubernetes.io/managed-by": "Helm",
		"team":                         team,
	}
	if w.stateful {
		w.labels["controller-revision-hash"] = w.app + "-" + w.template
	} else {
		w.labels["pod-template-hash"] = w.template
	}
	return w
}

func (w *workload) podName(replica int) string {
	if w.stateful {
		return w.app + "-" + strconv.Itoa(replica)
	}
	return w.app + "-" + w.template + "-" + suffix(mix(w.hash+uint64(replica)), 5)
}

func containerNames(service string, n int) []string {
	names := make([]string, n)
	for i := range names {
		switch {
		case i == 0:
			names[i] = service
		case i <= len(sidecars):
			names[i] = sidecars[i-1]
		default:
			names[i] = fmt.Sprintf("%s-%d", sidecars[(i-1)%len(sidecars)], (i-1)/len(sidecars))
		}
	}
	return names
}

// suffix makes n characters of the alphabet that Kubernetes uses for generated names
// (k8s.io/apimachinery/pkg/util/rand).
func suffix(hash uint64, n int) string {
	const alphabet = "bcdfghjklmnpqrstvwxz2456789"
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[hash%uint64(len(alphabet))]
		hash = mix(hash)
	}
	return string(b)
}

// Churn changes the cluster about perSecond times a second until ctx is done: pods are replaced by others of
// their workload, recreated under their name on another node, or relabelled. The number of pods stays. A pod without a
// workload is left alone, as nothing would replace it.
func (c *Cluster) Churn(ctx context.Context, perSecond float64) {
	if perSecond <= 0 {
		return
	}
	// Faster than 100 steps a second, several changes are made per step.
	interval := max(time.Duration(float64(time.Second)/perSecond), 10*time.Millisecond)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	due := 0.0
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for due += perSecond * interval.Seconds(); due >= 1; due-- {
			c.ChurnOnce()
		}
	}
}

// ChurnOnce makes one change as [Cluster.Churn] does.
func (c *Cluster) ChurnOnce() {
	c.mu.Lock()
	if len(c.pods) == 0 || len(c.nodes) == 0 {
		c.mu.Unlock()
		return
	}
	p := c.public(c.pods[c.rand.IntN(len(c.pods))])
	node := c.nodes[c.rand.IntN(len(c.nodes))]
	kind := c.rand.IntN(10)
	fresh := suffix(c.rand.Uint64(), 5)
	c.mu.Unlock()

	_, stateful := p.Labels["statefulset.kubernetes.io/pod-name"]
	if !stateful && p.Labels["pod-template-hash"] == "" {
		return
	}
	// Between the picking and the change somebody else may have deleted the pod: then this step changes nothing.
	switch {
	case kind == 0:
		_ = c.UpdatePod(p.Namespace, p.Name, func(p *Pod) {
			if p.Labels == nil {
				p.Labels = map[string]string{}
			}
			p.Labels["app.kubernetes.io/version"] = "v3." + fresh
		})
	case stateful:
		_ = c.RecreatePod(p.Namespace, p.Name, node)
	default:
		if c.DeletePod(p.Namespace, p.Name) != nil {
			return
		}
		replacement := p
		replacement.Name = replacementName(p.Name, fresh)
		replacement.Node, replacement.IP, replacement.Phase = "", "", corev1.PodPending
		if c.AddPod(replacement) != nil {
			return
		}
		_ = c.UpdatePod(replacement.Namespace, replacement.Name, func(p *Pod) {
			p.Node, p.Phase = node, corev1.PodRunning
			p.IP = ipOf(mix(p.ResourceVersion))
		})
	}
}

// replacementName gives a Deployment's pod its successor's name: another suffix behind the same ReplicaSet's name.
func replacementName(name, fresh string) string {
	if owner := ownerOf(name); owner != "" {
		return owner + "-" + fresh
	}
	return name + "-" + fresh
}
