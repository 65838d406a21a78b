package kube

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"
)

func configOf(host string) *rest.Config { return &rest.Config{Host: host} }

func TestFollowTheKubeconfig(t *testing.T) {
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
	slog.SetDefault(slog.New(slog.DiscardHandler))
	file := filepath.Join(t.TempDir(), "config")
	replace := func(text string) { // as a mounted secret is replaced: at once, not bit by bit
		if err := os.WriteFile(file+"~", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+"~", file); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var events []string
		event := func(e string) { mu.Lock(); defer mu.Unlock(); events = append(events, e) }
		var running atomic.Int32
		c := Cluster{Kubeconfig: file, Report: func(_, _, _ string) {},
			Failed: func(f *Failure) { event("failed " + f.Reason) },
			Found:  func() { event("found") },
			Run: func(ctx context.Context, core, metrics rest.Interface) {
				if running.Add(1) > 1 {
					t.Error("two clusters at once")
				}
				event(fmt.Sprintf("run %s %s", core.Get().Resource("pods").URL(), metrics.Get().Resource("nodes").URL()))
				<-ctx.Done()
				time.Sleep(2 * time.Second) // until all of it has ended
				event("ended")
				running.Add(-1)
			},
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		run := func(host string) string {
			return fmt.Sprintf("run http://%[1]s/api/v1/pods http://%[1]s/apis/metrics.k8s.io/v1beta1/nodes", host)
		}
		for _, step := range []struct {
			what string
			do   func()
			time time.Duration
			want []string
		}{
			{"there is none", func() { go func() { c.Follow(ctx); close(ended) }() }, time.Second, []string{"failed config"}},
			{"it is looked for again", func() {}, kubeconfigEvery, []string{"failed config"}},
			{"there is a broken one", func() { replace("{") }, kubeconfigEvery, []string{"failed config"}},
			{"there is one", func() { replace(kubeconfig("http://one", "dev")) }, kubeconfigEvery, []string{"found", run("one")}},
			{"it stays", func() {}, 10 * kubeconfigEvery, nil},
			{"it is written anew with the same content", func() { replace(kubeconfig("http://one", "dev")) }, 2 * kubeconfigEvery, nil},
			{"it names another cluster", func() { replace(kubeconfig("http://two", "dev")) }, 2 * kubeconfigEvery, []string{"ended", "found", run("two")}},
			{"it is broken", func() { replace("{") }, 2*kubeconfigEvery + time.Second, []string{"ended", "failed config"}},
			{"it is whole again", func() { replace(kubeconfig("http://two", "dev")) }, 2 * kubeconfigEvery, []string{"found", run("two")}},
			{"it is gone", func() { os.Remove(file) }, 2 * kubeconfigEvery, []string{"ended", "failed config"}},
			{"it is back", func() { replace(kubeconfig("http://three", "dev")) }, 2 * kubeconfigEvery, []string{"found", run("three")}},
			{"the program ends", stop, 3 * time.Second, []string{"ended"}},
		} {
			mu.Lock()
			events = nil
			mu.Unlock()
			step.do()
			time.Sleep(step.time)
			synctest.Wait()
			mu.Lock()
			got := slices.Compact(slices.Clone(events)) // how often it looks is its own affair
			mu.Unlock()
			if !slices.Equal(got, step.want) {
				t.Errorf("%s: %q, want %q", step.what, got, step.want)
			}
		}
		<-ended
	})
}
