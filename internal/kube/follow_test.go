package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

func configOf(host string) *rest.Config { return &rest.Config{Host: host} }

// only is a cluster that is the only one, by the current context of a kubeconfig.
func only(file string, c *Cluster) *Clusters {
	return &Clusters{Settings: Settings{Kubeconfig: file}, Open: func(string) *Cluster { return c },
		Looked: func(*Failure) {}}
}

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
		c := only(file, &Cluster{Report: func(_, _, _ string) {},
			Failed: func(f *Failure) { event("failed " + f.Reason) },
			Run: func(ctx context.Context, client func(schema.GroupVersion) rest.Interface) {
				if running.Add(1) > 1 {
					t.Error("two clusters at once")
				}
				event(fmt.Sprintf("run %s %s", client(Core).Get().Resource("pods").URL(),
					client(Batch).Get().Resource("jobs").URL()))
				<-ctx.Done()
				time.Sleep(2 * time.Second) // until all of it has ended
				event("ended")
				running.Add(-1)
			},
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		run := func(host string) string {
			return fmt.Sprintf("run http://%[1]s/api/v1/pods http://%[1]s/apis/batch/v1/jobs", host)
		}
		for _, step := range []struct {
			what string
			do   func()
			time time.Duration
			want []string
		}{
			{"there is none", func() { go func() { c.Follow(ctx); close(ended) }() }, time.Second,
				[]string{"failed config"}},
			{"it is looked for again", func() {}, kubeconfigEvery, []string{"failed config"}},
			{"there is a broken one", func() { replace("{") }, kubeconfigEvery, []string{"failed config"}},
			{"there is one", func() { replace(kubeconfig("http://one", "dev")) }, kubeconfigEvery, []string{run("one")}},
			{"it stays", func() {}, 10 * kubeconfigEvery, nil},
			{"it is written anew with the same content", func() { replace(kubeconfig("http://one", "dev")) },
				2 * kubeconfigEvery, nil},
			{"no file descriptors are left", limitFiles(t, 0), 2 * kubeconfigEvery, nil},
			{"they are back", limitFiles(t, 1<<10), 2 * kubeconfigEvery, nil},
			{"it cannot be read", func() { os.Remove(file); os.Symlink(file, file) }, 2 * kubeconfigEvery, nil},
			{"it can be read again, as it was", func() { replace(kubeconfig("http://one", "dev")) },
				2 * kubeconfigEvery, nil},
			{"it names another cluster", func() { replace(kubeconfig("http://two", "dev")) }, 2 * kubeconfigEvery,
				[]string{"ended", run("two")}},
			{"it is broken", func() { replace("{") }, 2*kubeconfigEvery + time.Second, []string{"ended",
				"failed config"}},
			{"it is whole again", func() { replace(kubeconfig("http://two", "dev")) }, 2 * kubeconfigEvery,
				[]string{run("two")}},
			{"it is gone", func() { os.Remove(file) }, 2 * kubeconfigEvery, []string{"ended", "failed config"}},
			{"it is back", func() { replace(kubeconfig("http://three", "dev")) }, 2 * kubeconfigEvery, []string{run("three")}},
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

// limitFiles returns a function that lets the process open files up to that number only.
func limitFiles(t *testing.T, number uint64) func() {
	return func() {
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		limit.Cur = min(number, limit.Max)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRepairedKubeconfigIsTakenOverWhileThePluginHangs also where nothing is changed of the plugin, which client-go
// would go on to wait for.
func TestRepairedKubeconfigIsTakenOverWhileThePluginHangs(t *testing.T) {
	t.Parallel()
	hangs := kubeconfig("https://127.0.0.1:1", "dev")
	hangs = strings.Replace(hangs, "token: "+secret, "exec: {apiVersion: "+pluginVersion+
		", interactiveMode: Never, command: /bin/sh, args: [-c, exec sleep 1000]}", 1)
	file := write(t, "config", hangs)
	begun := make(chan string, 10)
	ended := make(chan time.Time, 10)
	c := only(file, &Cluster{Report: func(_, _, _ string) {},
		Failed: func(f *Failure) { t.Error(f) },
		Run: func(ctx context.Context, client func(schema.GroupVersion) rest.Interface) {
			core := client(Core)
			begun <- core.Get().URL().Host
			_, err := core.Get().Resource("pods").MaxRetries(0).Stream(ctx) // hangs
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the request ends with: %v", err)
			}
			ended <- time.Now()
		}})
	ctx, stop := context.WithCancel(t.Context())
	followed := make(chan struct{})
	go func() { c.Follow(ctx); close(followed) }()
	for _, address := range []string{"127.0.0.1:1", "127.0.0.1:2"} {
		select {
		case host := <-begun:
			if host != address {
				t.Errorf("connected to %s, want %s", host, address)
			}
		case <-time.After(kubeconfigEvery + 10*time.Second):
			t.Fatalf("%s is not connected to", address)
		}
		if err := os.WriteFile(file+"~", []byte(strings.Replace(hangs, "0.1:1", "0.1:2", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		os.Rename(file+"~", file)
	}
	stop()
	<-followed
	if len(ended) != 2 {
		t.Errorf("%d of 2 runs have ended", len(ended))
	}
}

// TestConnectionsOfAFormerClusterAreClosed changes to another cluster while one connection is idle and one is not.
func TestConnectionsOfAFormerClusterAreClosed(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{}, 10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") != "" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	server.StartTLS()
	defer server.Close()
	text := kubeconfig(server.URL, "dev")
	text = strings.Replace(text, "server: ", "insecure-skip-tls-verify: true, server: ", 1)
	file := write(t, "config", text)
	runs := 0
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	c := only(file, &Cluster{Report: func(_, _, _ string) {},
		Failed: func(f *Failure) { t.Error(f) },
		Run: func(ctx context.Context, client func(schema.GroupVersion) rest.Interface) {
			core := client(Core)
			if runs++; runs > 1 {
				for range 2 {
					select {
					case <-closed:
					case <-time.After(10 * time.Second):
						t.Error("a connection of the former cluster is still open")
					}
				}
				stop()
				return
			}
			// Both at once, so that there are two connections; nobody closes the first body.
			if _, err := core.Get().Resource("pods").Param("watch",
				"true").Stream(context.WithoutCancel(ctx)); err != nil {
				t.Error(err)
			}
			core.Get().Resource("pods").Do(ctx)
			if err := os.WriteFile(file+"~", []byte(strings.Replace(text, server.URL, "https://127.0.0.1:2", 1)),
				0o600); err != nil {
				t.Error(err)
			}
			os.Rename(file+"~", file)
			<-ctx.Done()
		}})
	c.Follow(ctx)
}
