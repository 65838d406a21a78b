package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
)

// onceGoal is how long a run with --once may take, by which it has pushed all it has read.
const onceGoal = 1500 * time.Millisecond

// once measures runs with --once, which push by remote write and end, and finds out whether any of them has watched.
func (r *real) once(ctx context.Context) (rows []result, err error) {
	path, err := exporterPath()
	if err != nil {
		return nil, err
	}
	to, err := newSink()
	if err != nil {
		return nil, err
	}
	defer to.Close()
	root, err := controlplane.ModuleDir()
	if err != nil {
		return nil, err
	}
	role, err := os.ReadFile(filepath.Join(root, "..", "deploy", "kubernetes", "components", "pages", "clusterrole.yaml"))
	if err != nil {
		return nil, err
	}
	if _, err := r.plane.ApplyYAML(ctx, role); err != nil {
		return nil, err
	}
	run := func(code int, more ...string) (exporter.Once, error) {
		ran, err := exporter.RunOnce(ctx, path, append([]string{"--once", "--kubeconfig=" + r.kubeconfig}, more...), nil)
		if err == nil && ran.Code != code {
			err = fmt.Errorf("--once %s: exit code %d, not %d:\n%s", strings.Join(more, " "), ran.Code, code, ran.Stderr)
		}
		return ran, err
	}
	// What was started before watches, with the same account.
	before, err := r.plane.Requests(namespace, account)
	if err != nil {
		return nil, err
	}
	for _, test := range []struct {
		what, goal string
		args       []string
	}{
		{"--once, of the first page, by remote write", "≤ " + onceGoal.String(), nil},
		{"--once, of all pages, by remote write", "", []string{withPages}},
	} {
		progress("%s", test.what)
		var took []time.Duration
		samples := int64(0)
		for range *starts {
			had := to.samples.Load()
			ran, err := run(0, append([]string{"--push.url=" + to.url, "--push.format=remote-write"}, test.args...)...)
			if err != nil {
				return nil, err
			}
			if samples = to.samples.Load() - had; samples < int64(r.samples) {
				return nil, fmt.Errorf("%s: %d samples of %d of usage arrived", test.what, samples, r.samples)
			}
			took = append(took, ran.Took)
		}
		rows = append(rows, result{test.what + ", median / worst", test.goal, fmt.Sprintf("%s / %s for %d samples",
			short(median(took)), short(quantile(took, 1)), samples), test.goal == "" || median(took) <= onceGoal})
	}
	if failed := to.failed.Load(); failed != nil {
		return nil, *failed
	}
	to.Close()
	if _, err := run(1, "--push.url="+to.url, "--push.format=remote-write"); err != nil {
		return nil, err
	}
	after, err := r.plane.Requests(namespace, account)
	if err != nil {
		return nil, err
	}
	watches := 0
	for _, request := range after[len(before):] {
		if request.Verb == "watch" || strings.Contains(request.URI, "watch=") {
			watches++
		}
	}
	return append(rows, result{"--once: exit codes, and watches", "0, 1, none", fmt.Sprintf("0, 1, %d", watches),
		watches == 0}), nil
}
