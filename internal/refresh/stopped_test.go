//go:build unix

package refresh

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestPulseOfAStoppedProcess stops a process that it has started, with the machine's clocks.
func TestPulseOfAStoppedProcess(t *testing.T) {
	const child = "REFRESH_TEST_CHILD"
	if os.Getenv(child) != "" {
		p := NewPulse()
		go p.Run(t.Context())
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			fmt.Println("thaws", p.Thaws(), "frozen", int64(p.Frozen()))
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), child+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); cmd.Wait() }()
	lines := bufio.NewScanner(out)
	ask := func(meanwhile func()) (thaws uint64, frozen time.Duration) {
		if _, err := fmt.Fprintln(in); err != nil {
			t.Fatal(err)
		}
		meanwhile()
		for lines.Scan() {
			if n, _ := fmt.Sscanf(lines.Text(), "thaws %d frozen %d", &thaws, &frozen); n == 2 {
				return thaws, frozen
			}
		}
		t.Fatal("no answer: ", lines.Err())
		return 0, 0
	}
	signal := func(s syscall.Signal) {
		if err := cmd.Process.Signal(s); err != nil {
			t.Error(err)
		}
	}
	thaws, frozen := ask(func() {})
	signal(syscall.SIGSTOP)
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("the process has not stopped: %v, %v", err, status)
	}
	// The question is there when the process goes on, before its beat.
	thawsAfter, frozenAfter := ask(func() { time.Sleep(3 * time.Second); signal(syscall.SIGCONT) })
	if thawsAfter <= thaws || frozenAfter < frozen+2500*time.Millisecond {
		t.Errorf("stopped for 3 s: %d thaws and %s became %d and %s", thaws, frozen, thawsAfter, frozenAfter)
	}
}
