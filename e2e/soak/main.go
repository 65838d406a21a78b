// Command soak runs the exporter for a long time on a simulated cluster, with changes of pods, scrapes and random faults
// all the time, and prints at its end how many samples were checked and how many of them were wrong. It fails where one was.
//
//	go -C e2e run ./soak -duration 30m
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"metrics-server-prom/e2e/faults"
)

func main() {
	duration := flag.Duration("duration", 30*time.Minute, "how long new faults are begun")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "decides the order of the faults")
	flag.Parse()
	fmt.Println("seed", *seed)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := faults.Soak(ctx, *duration, *seed, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}
