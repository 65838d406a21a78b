package kube

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestWhatPluginsLeaveIsWaitedFor as by process 1, to which come those whose parents have ended.
func TestWhatPluginsLeaveIsWaitedFor(t *testing.T) {
	const subreaper = 36 // PR_SET_CHILD_SUBREAPER
	become := func(is uintptr) {
		if _, _, err := syscall.RawSyscall(syscall.SYS_PRCTL, subreaper, is, 0); err != 0 {
			t.Fatal(err)
		}
	}
	become(1)
	defer become(0)
	server := serve(t, answer(200, ""))
	credential := "\necho '" + execCredential(`"token": "t"`) + "'"
	for name, c := range map[string]struct {
		script string
		hangs  bool
		leaves bool // what is killed only once the plugin has ended
	}{
		"a plugin that is killed":                        {script: "sleep 1000 & sleep 1000 & wait", hangs: true},
		"one that is killed with the children of others": {script: "(sleep 1000 & sleep 1000) & wait", hangs: true},
		"one that leaves what ends before it": {script: "(true & echo $! >$DIR/left); read -r left <$DIR/left; " +
			"while read -r _ _ state _ </proc/$left/stat && [ $state != Z ]; do sleep 0.01; done" + credential},
		"one that leaves what ends after it": {script: "sleep 1000 >&- 2>&- & echo $! >$DIR/pid" + credential, leaves: true},
	} {
		t.Run(name, func(t *testing.T) {
			config, dir := pluginConfig(t, server, "[ ! -e $DIR/pid ] || exec sleep 1000\n"+c.script)
			patience := pluginTime
			if c.hangs {
				patience = 300 * time.Millisecond
			}
			// The end of another child is for the one who has started it.
			other := exec.Command("/bin/sh", "-c", "exit 7")
			other.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			tr := mustTransport(t, config)
			if _, err := tr.get(t.Context(), server.URL, patience); (err == nil) == c.hangs {
				t.Fatal(err)
			}
			if c.leaves {
				text, _ := os.ReadFile(filepath.Join(dir, "pid"))
				pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
				if err != nil {
					t.Fatal(err)
				}
				syscall.Kill(pid, syscall.SIGKILL)
				awaitEnd(t, filepath.Join(dir, "pid"))
				p := tr.plugin()
				p.last, p.time = nil, 300*time.Millisecond
				if _, err := tr.get(t.Context(), server.URL, 0); err == nil {
					t.Fatal("it was not run again")
				}
			}
			if all := zombies(t, other.Process.Pid); len(all) > 0 {
				t.Errorf("nobody has waited for %v", all)
			}
			var exit *exec.ExitError
			if err := other.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
				t.Errorf("another child ends with: %v", err)
			}
		})
	}
}

// zombies are the children of this process that have ended, but for one.
func zombies(t *testing.T, but int) (all []string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range stats {
		stat, _ := os.ReadFile(file) // of one that has gone meanwhile there is none
		pid, rest, _ := strings.Cut(string(stat), " ")
		if _, rest, _ = strings.Cut(rest, ") "); strings.HasPrefix(rest, fmt.Sprint("Z ", os.Getpid(), " ")) &&
			pid != fmt.Sprint(but) {
			all = append(all, strings.TrimSpace(string(stat)))
		}
	}
	return all
}
