package faults

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"metrics-server-prom/e2e/controlplane"
)

// memoryLimit is the exporter's GOMEMLIMIT in a soak: 90 % of a container's limit of 64 MiB.
const memoryLimit = "58MiB"

// figures are what an exporter uses at a moment.
type figures struct {
	memory     int64 // resident bytes
	goroutines int
}

func (h *Harness) figures(ctx context.Context) (f figures, err error) {
	page, err := h.Exporter.Scrape(ctx)
	if err != nil {
		return f, err
	}
	f.goroutines = int(page.Samples["go_goroutines"])
	memory, err := h.Exporter.Memory()
	f.memory = memory.Now
	return f, err
}

// Soak runs an exporter for that long on a simulated cluster that changes all the time, with scrapers and with one
// random fault of the table after the other. It prints a summary, and fails where anything was wrong, the exporter
// ended, or its memory or goroutines grew.
func Soak(ctx context.Context, length time.Duration, seed uint64, out io.Writer) error {
	h, err := Simulated(ctx, Options{Pods: 300, Env: []string{"GOMEMLIMIT=" + memoryLimit}})
	if err != nil {
		return err
	}
	defer h.Close()
	faults := slices.DeleteFunc(slices.Concat(Simulatable, Bodies), func(f Fault) bool {
		return f.Alone || f.MaxAge != 0 || f.Plugin || f.FromStart || len(f.Namespaces) > 0
	})
	return h.soak(ctx, length, seed, faults, func(ctx context.Context) { h.Churn(ctx, 5) }, out)
}

// SoakReal does so on a real control plane, which gets the rights of the manifests.
func SoakReal(ctx context.Context, manifests string, length time.Duration, seed uint64, out io.Writer) error {
	plane, err := Populated(ctx, manifests)
	if err != nil {
		return err
	}
	defer plane.Stop()
	h, err := Real(ctx, plane, Options{Env: []string{"GOMEMLIMIT=" + memoryLimit}})
	if err != nil {
		return err
	}
	defer h.Close()
	if err := plane.CreateNamespaces(ctx, "", churned); err != nil {
		return err
	}
	return h.soak(ctx, length, seed, slices.Clone(RealFaults), h.churnReal, out)
}

// churned is the namespace of the pods that come and go in a real cluster.
const churned = "churn"

// churnReal deletes pods and creates others of the same name elsewhere, one after the other, until ctx ends. What fails
// while the API server is down is tried again later.
func (h *Harness) churnReal(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprint("job-", i%10)
		if i >= 10 {
			_ = h.Plane.DeletePod(ctx, churned, name)
		}
		_ = h.Plane.CreatePods(ctx, controlplane.Pod{Namespace: churned, Name: name, Node: fmt.Sprint("node-", i/10%2),
			Containers: []controlplane.Container{
				{Name: "job", CPU: fmt.Sprintf("%dm", 100+i), Memory: fmt.Sprintf("%dMi", 100+i)}}})
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// soak causes one of the faults after the other for that long.
func (h *Harness) soak(ctx context.Context, length time.Duration, seed uint64, faults []Fault,
	churn func(context.Context), out io.Writer) error {
	random := rand.New(rand.NewPCG(seed, 0))
	busy, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(func() { churn(busy) })
	for range 8 {
		work.Go(func() { h.scrape(busy) })
	}

	began, end := time.Now(), time.Now().Add(length)
	var first figures
	var problems []string
	made := 0
	for i := 0; time.Now().Before(end) && ctx.Err() == nil && h.alive() == nil; i++ {
		if i%len(faults) == 0 {
			random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
		}
		f := faults[i%len(faults)]
		if err := f.Run(ctx, h, false); err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", f.Name, err))
			fmt.Fprintln(out, problems[len(problems)-1])
		}
		made++
		now, err := h.figures(ctx)
		if err != nil {
			return err
		}
		if i == 0 { // the baseline: what the first fault makes the exporter allocate, later ones use again
			first = now
		}
		_, samples, wrong, _ := h.checker.verdict()
		fmt.Fprintf(out, "%6s  %-60s %9d samples, %d wrong, RSS %.1f MiB, %d goroutines\n",
			time.Since(began).Round(time.Second), f.Name, samples, wrong, mib(now.memory), now.goroutines)
	}
	cancel()
	work.Wait()
	if err := h.alive(); err != nil {
		fmt.Fprintln(out, "restarts 1:", err)
		return err
	}
	// Once the work in progress is done, the figures are those that stay.
	if err := within(ctx, 2*time.Minute, "its goroutines end", func(ctx context.Context) error {
		return await(ctx, func(ctx context.Context) error {
			last, err := h.figures(ctx)
			if err == nil && last.goroutines > first.goroutines+5 {
				err = fmt.Errorf("%d goroutines, %d at first", last.goroutines, first.goroutines)
			}
			return err
		})
	}); err != nil {
		problems = append(problems, err.Error())
	}
	last, err := h.figures(ctx)
	if err != nil {
		return err
	}
	if last.memory > first.memory+first.memory/4+(4<<20) {
		problems = append(problems, "its memory has grown")
	}
	pages, samples, wrong, which := h.checker.verdict()
	fmt.Fprintf(out, "\nsoak of %s, %d faults, GOMEMLIMIT %s\npages checked    %d\nsamples checked  %d\nwrong            "+
		"%d\nrestarts         0\nRSS              %.1f MiB first, %.1f MiB last\ngoroutines       %d first, %d last\n",
		time.Since(began).Round(time.Second), made, memoryLimit, pages, samples, wrong, mib(first.memory),
		mib(last.memory), first.goroutines, last.goroutines)
	if wrong > 0 {
		problems = append(problems, which...)
	}
	if len(problems) > 0 {
		return fmt.Errorf("%d problems:\n%s", len(problems), strings.Join(problems, "\n"))
	}
	return nil
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// scrape scrapes until ctx ends, without looking at the answers.
func (h *Harness) scrape(ctx context.Context) {
	for tick := time.NewTicker(200 * time.Millisecond); ; {
		_, _ = h.Exporter.Fetch(ctx) // the checker sees to it that the pages are right
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}
