package faults

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/process"
)

// holdsTheLivePods fails unless the exporter watches exactly the pods that exist, and uses no more memory than this.
func (h *Harness) holdsTheLivePods(ctx context.Context, memory int64) error {
	return within(ctx, 2*interval+recovery, "its cache has the live pods", func(ctx context.Context) error {
		return await(ctx, func(ctx context.Context) error {
			page, err := h.pageOf(ctx)
			if err != nil {
				return err
			}
			if watched, _ := page.Sum("metrics_server_prom_watched_objects",
				podsLabel); int(watched) != len(h.API.Pods()) {
				return fmt.Errorf("%v pods are watched, of %d", watched, len(h.API.Pods()))
			}
			now, err := h.figures(ctx)
			if err == nil && now.memory > memory {
				err = fmt.Errorf("%.1f MiB resident, more than %.1f", mib(now.memory), mib(memory))
			}
			return err
		})
	})
}

// TestChurn changes pods far faster than the source has readings of them. The checker looks at each change, so that it
// knows every state there was.
func TestChurn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(h *Harness, i int) error
		n      int
	}{
		{"10,000 pods created, moved, relabelled and deleted", func(h *Harness, i int) error {
			name := fmt.Sprint("visitor-", i)
			p := standin.Pod{Namespace: fmt.Sprint("ns-", i%7), Name: name, Labels: map[string]string{"team": "one"},
				Containers: []string{"app"}}
			errs := []error{h.API.AddPod(p)}
			if i%2 == 0 {
				errs = append(errs, h.API.UpdatePod(p.Namespace, name,
					func(p *standin.Pod) { p.Labels["team"] = "two" }))
			}
			if i%3 == 0 {
				errs = append(errs, h.API.RecreatePod(p.Namespace, name, h.API.Nodes()[i%3]))
			}
			if i >= 100 { // a hundred live at a time
				errs = append(errs, h.API.DeletePod(fmt.Sprint("ns-", (i-100)%7), fmt.Sprint("visitor-", i-100)))
			}
			return errors.Join(errs...)
		}, 10_000},
		{"a pod recreated under its name 1,000 times", func(h *Harness, i int) error {
			if i == 0 {
				return h.API.AddPod(standin.Pod{Namespace: "sticky", Name: "db-0", Containers: []string{"app"}})
			}
			return h.API.RecreatePod("sticky", "db-0", h.API.Nodes()[i%3])
		}, 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			h, err := Simulated(ctx, Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(h.Close)
			before, err := h.figures(ctx)
			if err != nil {
				t.Fatal(err)
			}
			pace := 60 * time.Second / time.Duration(c.n)
			if *long {
				pace *= 4
			}
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for i := range c.n {
				<-tick.C
				if err := h.Change(ctx, func() error { return c.change(h, i) }); err != nil {
					t.Fatal(err)
				}
			}
			err = errors.Join(h.holdsTheLivePods(ctx, before.memory+12<<20), h.alive(), h.memory(MaxMemory),
				h.checker.judged(ctx, time.Now().Add(behind)))
			pages, samples, wrongs, wrong := h.checker.verdict()
			if err != nil || wrongs > 0 {
				t.Errorf("%v; %d wrong:\n%v\nend of the log:\n%s", err, wrongs, wrong,
					process.Tail(h.Exporter.Log(), 10))
			}
			t.Logf("%d pages and %d samples checked", pages, samples)
		})
	}
}

// TestSoak is a minute of what ./soak does for longer.
func TestSoak(t *testing.T) {
	t.Parallel()
	if err := Soak(t.Context(), time.Minute, uint64(time.Now().UnixNano()), t.Output()); err != nil {
		t.Error(err)
	}
}
