// Package exporter runs the real binary of the project and reads its pages.
package exporter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/process"
)

// Exporter is a running exporter.
type Exporter struct {
	*process.Process
	URL     string    // http://127.0.0.1:PORT
	Started time.Time // the moment before exec

	dir string
}

// Options of a start. The exporter's environment is empty but for PATH, a HOME of its own and Env, so that no
// kubeconfig of the machine gets in.
type Options struct {
	Args []string // without --web.listen-address
	Env  []string
	// Path is another binary than the one of this checkout; for measuring.
	Path string
	// Cgroup, if not nil, is what it runs in.
	Cgroup *process.Cgroup
}

// Binary is the path of the exporter's binary, built as it is released (static, trimmed, stripped), once per process.
var Binary = sync.OnceValues(func() (string, error) {
	module, err := controlplane.ModuleDir()
	if err != nil {
		return "", err
	}
	root := filepath.Dir(module)
	cache, err := controlplane.CacheDir()
	if err != nil {
		return "", err
	}
	// A name for each checkout, so that two of them do not run each other's.
	path := filepath.Join(cache, fmt.Sprintf("exporter-%x",
		sha256.Sum256([]byte(root)))[:len("exporter-")+len(cache)+1+8])
	work := fmt.Sprintf("%s.%d", path, os.Getpid())
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", work, ".")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the exporter: %w\n%s", err, output)
	}
	return path, os.Rename(work, path)
})

// Start starts the exporter on a free port and returns when it answers there (/-/healthy), which says nothing yet about
// its data.
func Start(ctx context.Context, options Options) (*Exporter, error) {
	e, err := Launch(options)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("not listening within 10 s"))
	defer cancel()
	if err := e.Await(ctx, func(ctx context.Context) error { return e.expect(ctx, "/-/healthy") }); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// Launch starts the exporter on a free port and does not wait for anything.
func Launch(options Options) (*Exporter, error) {
	path := options.Path
	if path == "" {
		var err error
		if path, err = Binary(); err != nil {
			return nil, err
		}
	}
	port, err := process.FreePort()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "metrics-server-prom-e2e-exporter-")
	if err != nil {
		return nil, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	e := &Exporter{URL: "http://" + address, dir: dir, Started: time.Now()}
	e.Process, err = process.Start(process.Command{
		Name: "metrics-server-prom",
		Path: path,
		Args: append([]string{"--web.listen-address=" + address}, options.Args...),
		Env:  environment(dir, options.Env),
		Log:  filepath.Join(dir, "log"),

		Cgroup: options.Cgroup,
	})
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return e, nil
}

// Run runs the exporter to its end, for starts that fail and for --help, and returns its exit code and all its output.
func Run(ctx context.Context, args, env []string) (code int, output string, err error) {
	var text bytes.Buffer
	code, _, err = run(ctx, "", args, env, &text, &text)
	return code, text.String(), err
}

// Once is an exporter that has run to its end.
type Once struct {
	Code           int
	Stdout, Stderr string
	Took           time.Duration // from before exec to the end
}

// RunOnce runs an exporter that ends by itself, the one at path or, where that is "", of this checkout.
func RunOnce(ctx context.Context, path string, args, env []string) (o Once, err error) {
	var stdout, stderr bytes.Buffer
	o.Code, o.Took, err = run(ctx, path, args, env, &stdout, &stderr)
	o.Stdout, o.Stderr = stdout.String(), stderr.String()
	return o, err
}

func run(ctx context.Context, path string, args, env []string, stdout, stderr io.Writer) (code int,
	took time.Duration, err error) {
	if path == "" {
		if path, err = Binary(); err != nil {
			return 0, 0, err
		}
	}
	home, err := os.MkdirTemp("", "metrics-server-prom-e2e-home-")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(home)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = environment(home, env)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	began := time.Now()
	err = cmd.Run()
	took = time.Since(began)
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return exit.ExitCode(), took, nil
	}
	return 0, took, errors.Join(err, ctx.Err())
}

func environment(home string, more []string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}, more...)
}

// AwaitReady returns when the exporter has its first data (/-/ready).
func (e *Exporter) AwaitReady(ctx context.Context) error {
	return e.Await(ctx, func(ctx context.Context) error { return e.expect(ctx, "/-/ready") })
}

func (e *Exporter) expect(ctx context.Context, path string) error {
	status, body, err := e.Get(ctx, path)
	if err != nil {
		return err
	}
	if status != 200 {
		return fmt.Errorf("%s answers %d: %s", path, status, strings.TrimSpace(body))
	}
	return nil
}

// Terminate sends SIGTERM and returns the exit code and how long the exporter took to end; one that has not ended
// within 10 s is killed and an error.
func (e *Exporter) Terminate() (code int, took time.Duration, err error) {
	start := time.Now()
	if err := e.Signal(syscall.SIGTERM); err != nil {
		return 0, 0, err
	}
	select {
	case <-e.Done():
		return e.ExitCode(), time.Since(start), nil
	case <-time.After(10 * time.Second):
		e.Kill()
		return 0, 0, fmt.Errorf("still running 10 s after SIGTERM; end of its log:\n%s", process.Tail(e.Log(), 15))
	}
}

// Close kills the exporter and removes its files.
func (e *Exporter) Close() {
	e.Kill()
	os.RemoveAll(e.dir)
}
