// Package load tests the exporter's real binary with clients that are many, slow, rude or curious, and the stand-in for
// the API server behind it.
package load

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

var long = flag.Bool("long", false, "scrape for a minute, and wait for the exporter to close idle connections itself")

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// Most of the tests wait for a timeout of the exporter, so that more of them than there are cores can run at once.
	flag.Parse()
	if err := errors.Join(flag.Set("test.parallel", "32"), raiseFileLimit()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if _, err := exporter.Binary(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// raiseFileLimit raises RLIMIT_NOFILE as far as it may be. The exporter inherits it.
func raiseFileLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// within is the test's context with a bound.
func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, fmt.Errorf("not within %s", limit))
	t.Cleanup(cancel)
	return ctx
}

// eventually fails the test if ready has not said nil within the limit.
func eventually(t *testing.T, limit time.Duration, ready func(context.Context) error) {
	t.Helper()
	if err := process.Await(within(t, limit), 100*time.Millisecond, ready); err != nil {
		t.Fatal(err)
	}
}

// simulate starts a stand-in API server.
func simulate(t *testing.T, options standin.Options) *standin.Server {
	t.Helper()
	options.Log = slog.New(slog.DiscardHandler)
	server, err := standin.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

// kubeconfig is a kubeconfig file for the server.
func kubeconfig(t *testing.T, server *standin.Server) string {
	t.Helper()
	text, err := server.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	return file(t, "kubeconfig", string(text))
}

// file is a file with this text.
func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// start starts an exporter and kills it at the test's end; its log is shown if the test failed.
func start(t *testing.T, options exporter.Options) *exporter.Exporter {
	t.Helper()
	e, err := exporter.Start(within(t, 30*time.Second), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the exporter's log:\n%s", process.Tail(e.Log(), 25))
		}
		e.Close()
	})
	return e
}

// startReady is an exporter of a simulated cluster with this many pods, once it has data.
func startReady(t *testing.T, pods int, args ...string) *exporter.Exporter {
	t.Helper()
	server := simulate(t, standin.Options{Pods: pods})
	e := start(t, exporter.Options{Args: append([]string{"--kubeconfig=" + kubeconfig(t, server)}, args...)})
	if err := e.AwaitReady(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	return e
}

// address is where the exporter listens, host:port.
func address(e *exporter.Exporter) string { return strings.TrimPrefix(e.URL, "http://") }

// figures are what an exporter uses at a moment.
type figures struct {
	memory     int64 // resident bytes
	goroutines float64
	files      int // open files: with each connection comes one
}

func (f figures) String() string {
	return fmt.Sprintf("%.1f MiB, %.0f goroutines, %d open files", float64(f.memory)/(1<<20), f.goroutines, f.files)
}

// measure reads the figures of an exporter: the goroutines as its own page has them, the rest as the kernel does.
func measure(ctx context.Context, e *exporter.Exporter) (f figures, err error) {
	page, err := e.Scrape(ctx)
	if err != nil {
		return f, err
	}
	goroutines, known := page.Samples["go_goroutines"]
	if !known {
		return f, errors.New("the page has no go_goroutines")
	}
	f.goroutines = goroutines
	memory, err := e.Memory()
	if err != nil {
		return f, err
	}
	f.memory = memory.Now
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", e.PID()))
	if err != nil {
		return f, err
	}
	f.files = len(files)
	return f, nil
}

// settled are the figures of an exporter that has had 20 scrapes and nothing else.
func settled(t *testing.T, e *exporter.Exporter) figures {
	t.Helper()
	ctx := within(t, 30*time.Second)
	for range 20 {
		if _, err := e.Scrape(ctx); err != nil {
			t.Fatal(err)
		}
	}
	var before figures
	// The page's runtime figures are up to a second old.
	eventually(t, 10*time.Second, func(ctx context.Context) (err error) {
		last := before
		if before, err = measure(ctx, e); err == nil && before.goroutines != last.goroutines {
			err = fmt.Errorf("not settled: %s, then %s", last, before)
		}
		return err
	})
	return before
}

// backTo waits until the exporter, scraped as usual, uses no more than before a load, but for the noise in these
// figures and for what Go keeps. Without scrapes the garbage collector has no reason to run within the next
// two minutes.
func backTo(t *testing.T, e *exporter.Exporter, before figures, kept int64) {
	t.Helper()
	const someMemory, someGoroutines, someFiles = 16 << 20, 6, 4
	var after figures
	eventually(t, 100*time.Second, func(ctx context.Context) (err error) {
		for range 20 {
			if _, err := e.ScrapePlain(ctx); err != nil {
				return err
			}
		}
		if after, err = measure(ctx, e); err != nil {
			return err
		}
		if after.memory > before.memory+someMemory+kept || after.goroutines > before.goroutines+someGoroutines ||
			after.files > before.files+someFiles {
			return fmt.Errorf("not back to %s: %s", before, after)
		}
		return nil
	})
	t.Logf("before: %s; after: %s", before, after)
}

// smallReceiveBuffer keeps the kernel from taking in what nobody has read yet. It is for [net.Dialer.Control].
func smallReceiveBuffer(_, _ string, conn syscall.RawConn) (err error) {
	if controlErr := conn.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
	}); controlErr != nil {
		return controlErr
	}
	return err
}
