package faults

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

var long = flag.Bool("long", false, "let each fault last as long as it would, not only as long as it has to")

func TestMain(m *testing.M) {
	flag.Parse()
	// Faults are waited for most of the time: many at once fit on few cores.
	if err := flag.Set("test.parallel", "12"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if _, err := exporter.Binary(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestSimulated runs the table on a simulated cluster whose pods come, go, move and are relabelled meanwhile.
func TestSimulated(t *testing.T) {
	t.Parallel()
	for _, fault := range slices.Concat(Bodies, Simulatable, Endless, Silent, Namespaced, Receivers) {
		t.Run(fault.Name, func(t *testing.T) {
			t.Parallel()
			h, err := Simulated(t.Context(), For(fault))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(h.Close)
			run(t, fault, h)
		})
	}
}

// populated is a real control plane with pods until the test ends.
func populated(ctx context.Context, t *testing.T) *controlplane.ControlPlane {
	t.Helper()
	plane, err := Populated(ctx, "../../deploy/kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plane.Stop)
	return plane
}

// TestReal runs the faults of a real control plane, one after the other on the same exporter, and those of certificates
// on another.
func TestReal(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	plane := populated(ctx, t)
	for _, table := range []struct {
		faults []Fault
		start  func(context.Context, *controlplane.ControlPlane, Options) (*Harness, error)
	}{{RealFaults, Real}, {CertificateFaults, RealCertificate}} {
		h, err := table.start(t.Context(), plane, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, fault := range table.faults {
			t.Run(fault.Name, func(t *testing.T) { run(t, fault, h) })
		}
		h.Close()
	}
}

// TestNeighbours runs the table on one of three clusters of an exporter, of whose others one is real: nothing of these
// may be wrong, missing or late, and no scrape take longer.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	plane := populated(ctx, t)
	real, err := RealNeighbour(ctx, "real", plane)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(real.Close)
	simulated, err := SimulatedNeighbour(ctx, "simulated")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(simulated.Close)
	var mu sync.Mutex
	var before, during []time.Duration
	t.Run("faults", func(t *testing.T) {
		for _, fault := range Simulatable {
			t.Run(fault.Name, func(t *testing.T) {
				t.Parallel()
				o := For(fault)
				o.Neighbours = []*Neighbour{real, simulated}
				h, err := Simulated(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(h.Close)
				if !fault.Still {
					time.Sleep(5 * time.Second) // nothing happens
				}
				took := func(to *[]time.Duration) {
					mu.Lock()
					defer mu.Unlock()
					for _, c := range h.neighbours {
						*to = append(*to, c.times()...)
					}
				}
				took(&before)
				run(t, fault, h)
				took(&during)
				for _, c := range h.neighbours {
					pages, samples, wrongs, wrong := c.verdict()
					if wrongs > 0 || pages == 0 {
						t.Errorf("%d pages of %s, %d samples or pages were wrong:\n%s", pages, c.cluster, wrongs,
							strings.Join(wrong, "\n"))
					}
					t.Logf("%d pages and %d samples of %s checked", pages, samples, c.cluster)
				}
			})
		}
	})
	p99 := func(all []time.Duration) time.Duration {
		slices.Sort(all)
		return all[min(len(all)-1, len(all)*99/100)]
	}
	if len(before) < 100 || len(during) < 100 {
		t.Fatalf("%d and %d scrapes", len(before), len(during))
	}
	was, is := p99(before), p99(during)
	t.Logf("p99 of %d scrapes without a fault %s, of %d with one %s", len(before), was, len(during), is)
	if is > was*6/5 && is > was+5*time.Millisecond { // of some milliseconds on a busy machine more is chance
		t.Errorf("p99 of scrapes is %s while a cluster is broken, %s without", is, was)
	}
}

func run(t *testing.T, fault Fault, h *Harness) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute+fault.Short+fault.Long+fault.While.Within)
	defer cancel()
	if h.API != nil && !fault.Still {
		go h.Churn(ctx, 1)
	}
	if err := fault.Run(ctx, h, *long); err != nil {
		t.Errorf("%v\nend of the exporter's log:\n%s", err, process.Tail(h.Exporter.Log(), 15))
	}
	pages, samples, _, _ := h.checker.verdict()
	t.Logf("%d pages and %d samples checked", pages, samples)
}
