// Command soak runs the exporter for a long time on a simulated or a real cluster, with changes of pods, scrapes and
// random faults all the time, and prints at its end how many samples were checked and how many of them were wrong. It
// fails if any was.
//
//	go -C e2e run ./soak -duration 30m
//	go -C e2e run ./soak -duration 30m -real
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/faults"
)

func main() {
	duration := flag.Duration("duration", 30*time.Minute, "how long new faults are begun")
	real := flag.Bool("real", false, "on a real control plane, with the faults of such")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "decides the order of the faults")
	flag.Parse()
	fmt.Println("seed", *seed)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *duration, *real, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, duration time.Duration, real bool, seed uint64) error {
	if !real {
		return faults.Soak(ctx, duration, seed, os.Stdout)
	}
	module, err := controlplane.ModuleDir()
	if err != nil {
		return err
	}
	return faults.SoakReal(ctx, filepath.Join(module, "..", "deploy", "kubernetes"), duration, seed, os.Stdout)
}
