// Package process starts and ends the programs of the end-to-end tests. A program writes to a log file, is ended by its
// process id, and never outlives the test: the kernel kills it when the test's process dies, however that dies.
package process

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Command says how a program is started.
type Command struct {
	Name string   // for messages
	Path string   // the executable
	Args []string // without the program's name
	Env  []string // the whole environment; nil: that of the test
	Log  string   // file that stdout and stderr are appended to
	// Cgroup, if not nil, is what the program runs in.
	Cgroup *Cgroup
}

// Process is a started program.
type Process struct {
	Name string

	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when the program has ended and its state is known
}

// startThread hands work to one goroutine that keeps one OS thread for ever. The kernel sends the parent-death signal
// when the thread that started a child ends, not the process, so children must come from a thread that lasts.
var startThread = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// Start starts the program and returns at once; whether it does its work is for the caller to await.
func Start(c Command) (*Process, error) {
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", c.Name, err)
	}
	defer log.Close()

	path, args := c.Path, c.Args
	if c.Cgroup != nil {
		path, args = c.Cgroup.command(path, args)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = c.Env
	cmd.Stdout, cmd.Stderr = log, log
	// Ctrl-C in a terminal goes to a process group: the program shall end by what the test does, not by that.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	startThread() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}

	p := &Process{Name: c.Name, cmd: cmd, log: c.Log, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // the exit code is read from cmd.ProcessState
	}()
	return p, nil
}

// PID is the program's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode is the exit code of a program that has ended, -1 if a signal ended it.
func (p *Process) ExitCode() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal to the program; one that has ended is left alone.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// Kill ends the program at once (kill -9) and returns when it is gone.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL) // fails only for a program that is gone already
	<-p.done
}

// Log is all that the program has written so far, that of earlier runs with the same log file before it.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Tail is the end of a log, for failure messages.
func Tail(log string, lines int) string {
	all := strings.Split(strings.TrimRight(log, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Await asks every 50 ms until ready says nil. It fails when ctx ends, with ready's last answer, or when the program
// ends.
func (p *Process) Await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.done:
			cancel(fmt.Errorf("%s has ended (%v)", p.Name, p.cmd.ProcessState))
		case <-ctx.Done():
		}
	}()
	if err := Await(ctx, 50*time.Millisecond, ready); err != nil {
		return fmt.Errorf("%s: %w\nend of its log:\n%s", p.Name, err, Tail(p.Log(), 15))
	}
	return nil
}

// Await asks at this interval until ready says nil, or fails with its last answer when ctx ends.
func Await(ctx context.Context, interval time.Duration, ready func(context.Context) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last error
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil { // an answer cut off by the end of ctx tells less than the one before
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}

var (
	portsMutex sync.Mutex
	portsGiven = map[int]bool{}
)

// FreePort is a loopback TCP port that nothing listens on. It lies below the kernel's usual range for outgoing
// connections (32768 up), so that no connection takes the port while its server is down between two starts.
func FreePort() (int, error) {
	portsMutex.Lock()
	defer portsMutex.Unlock()
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		if portsGiven[port] {
			continue
		}
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		listener.Close()
		portsGiven[port] = true
		return port, nil
	}
	return 0, errors.New("no free port between 20000 and 32000 on 127.0.0.1")
}
