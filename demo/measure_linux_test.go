package main

import (
	"os"
	"testing"
	"time"
)

func TestProcessNumbersOfThisProcess(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; {
		if now, err := cpuTime(os.Getpid()); err != nil || now > before {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatal("a minute of work shows no CPU time")
		}
	}
	held := make([]byte, 64<<20)
	for i := range held {
		held[i] = 1
	}
	if rss, err := peakRSS(os.Getpid()); err != nil || rss < int64(len(held)) {
		t.Errorf("peak RSS %d with %d bytes in use, %v", rss, len(held), err)
	}
}
