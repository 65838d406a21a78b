package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"metrics-server-prom/e2e/controlplane"
)

// The account that deploy/kubernetes makes for the exporter.
const namespace, account = "metrics-server-prom", "metrics-server-prom"

// real is a control plane with the cluster that is measured on.
type real struct {
	cluster
	plane *controlplane.ControlPlane
}

func measureReal(ctx context.Context, nodes, pods int) (title string, results []result, err error) {
	plane, err := controlplane.Start(ctx, controlplane.Options{})
	if err != nil {
		return "", nil, err
	}
	defer plane.Stop()
	r := &real{cluster{config: plane.Config(), samples: 2*nodes + 2*pods**containers}, plane}
	if err := r.populate(ctx, nodes, pods); err != nil {
		return "", nil, fmt.Errorf("%w\n%s", err, plane.Logs(10))
	}
	parts := []func(context.Context) ([]result, error){r.start, r.once, r.scrape, r.age}
	if *onceFlag {
		parts = parts[1:2]
	}
	for _, part := range parts {
		rows, err := part(ctx)
		if err != nil {
			return "", nil, fmt.Errorf("%w\n%s", err, plane.Logs(10))
		}
		results = append(results, rows...)
	}
	return fmt.Sprintf("real control plane: %d nodes, %d pods, %d containers, metrics-server every %s",
		nodes, pods, pods**containers, plane.MetricResolution()), results, nil
}

// populate creates the cluster and the exporter's account, and returns when there is usage of all.
func (r *real) populate(ctx context.Context, nodes, pods int) error {
	root, err := controlplane.ModuleDir()
	if err != nil {
		return err
	}
	kubernetes := filepath.Join(root, "..", "deploy", "kubernetes")
	component := filepath.Join(kubernetes, "components", "namespace")
	if _, err := r.plane.ApplyManifests(ctx, component, kubernetes); err != nil {
		return err
	}
	token, err := r.plane.Token(ctx, namespace, account)
	if err != nil {
		return err
	}
	if r.kubeconfig, err = r.plane.Kubeconfig(controlplane.Credentials{Token: token}); err != nil {
		return err
	}

	begin := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute,
		errors.New("the cluster was not there within 10 minutes; is the machine busy with other things?"))
	defer cancel()
	if err := r.plane.CreateNodes(ctx, nodes); err != nil {
		return err
	}
	cluster := make([]controlplane.Pod, pods)
	for i := range cluster {
		cluster[i] = pod(i, nodes)
	}
	for i := range min(pods, namespaces) {
		if err := r.plane.CreateNamespaces(ctx, "", cluster[i].Namespace); err != nil {
			return err
		}
	}
	if err := r.plane.CreatePods(ctx, cluster...); err != nil {
		return err
	}
	progress("created %d nodes and %d pods in %s", nodes, pods, since(begin))
	begin = time.Now()
	if err := r.plane.AwaitUsage(ctx); err != nil {
		return err
	}
	progress("the metrics API has all usage after %s more", since(begin))
	return nil
}

// namespaces is how many the pods are spread over.
const namespaces = 20

// firstPod is the one that new readings are looked for at.
var firstPod = pod(0, 1)

// pod is the cluster's pod number i: names, labels and usage as a Deployment's pods have them, each container's usage
// unlike the others'.
func pod(i, nodes int) controlplane.Pod {
	app := fmt.Sprintf("service-%d", i%100)
	pod := controlplane.Pod{
		Namespace: fmt.Sprintf("team-%d", i%namespaces), Node: fmt.Sprintf("node-%d", i%nodes),
		Name: fmt.Sprintf("%s-5d8f7c9b6d-%05d", app, i), Labels: map[string]string{
			"app.kubernetes.io/name": app, "app.kubernetes.io/part-of": "shop", "pod-template-hash": "5d8f7c9b6d"},
	}
	for c := range *containers {
		pod.Containers = append(pod.Containers, controlplane.Container{
			Name: fmt.Sprintf("container-%d", c), CPU: fmt.Sprintf("%dm", 1+(i*7+c*13)%900),
			Memory: fmt.Sprintf("%dKi", 10_000+i*5+c),
		})
	}
	return pod
}
