package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Memory is what a process has resident, in bytes.
type Memory struct {
	Now  int64 // VmRSS
	Peak int64 // VmHWM, the most so far
}

// MemoryOf reads /proc/PID/status, see proc_pid_status(5).
func MemoryOf(pid int) (m Memory, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		to, ok := map[string]*int64{"VmRSS": &m.Now, "VmHWM": &m.Peak}[name]
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		if err != nil {
			return m, fmt.Errorf("/proc/%d/status: %w", pid, err)
		}
		*to = kib << 10
	}
	if m.Now == 0 || m.Peak == 0 {
		return m, fmt.Errorf("/proc/%d/status has no VmRSS or VmHWM: %s", pid, status)
	}
	return m, nil
}

// Memory is what the program has resident.
func (p *Process) Memory() (Memory, error) { return MemoryOf(p.PID()) }

// ticksPerSecond is USER_HZ of /proc/PID/stat, 100 on all Linux platforms of Go.
const ticksPerSecond = 100

// CPUOf is the CPU time of a process so far, in steps of 10 ms: fields 14 and 15 of /proc/PID/stat, see
// proc_pid_stat(5).
func CPUOf(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in parentheses and may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat cannot be read: %q", pid, stat)
	}
	user, err1 := strconv.ParseInt(string(fields[11]), 10, 64)
	system, err2 := strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+system) * time.Second / ticksPerSecond, errors.Join(err1, err2)
}

// ExactCPUOf is CPUOf to the nanosecond, by the process' own clock, see clock_getcpuclockid(3).
func ExactCPUOf(pid int) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// Cgroup is a memory cgroup for one program, as a container has one.
type Cgroup struct {
	// Kind says what is counted, for messages.
	Kind string

	dir, peak string
}

// cgroups is how many this process has tried to make: each has a name of its own.
var cgroups atomic.Int64

// NewCgroup makes a memory cgroup below the one that this process is in or, where cgroup v2 does not allow that, below
// the nearest parent that hands the memory controller down. It needs the right to create a directory there.
func NewCgroup() (*Cgroup, error) {
	var problems []error
	for _, v := range []struct{ controller, fstype, option, peak, kind string }{
		{"", "cgroup2", "", "memory.peak", "cgroup v2, kernel memory included"},
		{"memory", "cgroup", "memory", "memory.max_usage_in_bytes", "cgroup v1, kernel memory included, socket buffers not"},
	} {
		root, own, err := cgroupDir(v.controller, v.fstype, v.option)
		for dir := own; err == nil; dir = filepath.Dir(dir) {
			name := fmt.Sprintf("metrics-server-prom-%d-%d", os.Getpid(), cgroups.Add(1))
			c := &Cgroup{Kind: v.kind, dir: filepath.Join(dir, name)}
			c.peak = filepath.Join(c.dir, v.peak)
			if err := os.Mkdir(c.dir, 0o755); err != nil {
				problems = append(problems, err)
			} else if _, err := os.Stat(c.peak); err == nil {
				return c, nil
			} else {
				problems = append(problems, err, os.Remove(c.dir))
			}
			if dir == root {
				break
			}
		}
		problems = append(problems, err)
	}
	return nil, fmt.Errorf("no cgroup can be made to measure memory in: %w", errors.Join(problems...))
}

// cgroupDir is the folder of the hierarchy that has the controller ("" for cgroup v2), and that of this process in it.
func cgroupDir(controller, fstype, option string) (root, own string, err error) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", "", err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", "", err
	}
	for group := range strings.Lines(string(groups)) {
		// ID:controllers:path
		parts := strings.SplitN(strings.TrimSpace(group), ":", 3)
		if len(parts) != 3 || parts[1] != controller {
			continue
		}
		for mount := range strings.Lines(string(mounts)) {
			// ID parent device root mountpoint options … - type source super-options
			before, after, _ := strings.Cut(mount, " - ")
			left, right := strings.Fields(before), strings.Fields(after)
			if len(left) > 4 && len(right) > 2 && right[0] == fstype && strings.Contains(","+right[2]+",", ","+option) {
				inside := strings.TrimPrefix(parts[2], strings.TrimSuffix(left[3], "/"))
				return left[4], filepath.Join(left[4], inside), nil
			}
		}
	}
	return "", "", fmt.Errorf("no %s is mounted here that has this process (controller %q)", fstype, controller)
}

// command is what starts a program inside the cgroup from its first page of memory on.
func (c *Cgroup) command(path string, args []string) (string, []string) {
	const enter = `echo $$ > "$0/cgroup.procs" && exec "$@"`
	return "/bin/sh", append([]string{"-c", enter, c.dir, path}, args...)
}

// Peak is the most memory that the cgroup has had so far, in bytes.
func (c *Cgroup) Peak() (int64, error) {
	text, err := os.ReadFile(c.peak)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// Remove removes the cgroup. Its program must have ended.
func (c *Cgroup) Remove() error {
	err := os.Remove(c.dir)
	for i := 0; err != nil && i < 20; i++ { // the kernel lets go of a program some moments after its end
		time.Sleep(50 * time.Millisecond)
		err = os.Remove(c.dir)
	}
	return err
}
