package process

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrClock is what ShiftClock fails with where it cannot be done on this machine.
var ErrClock = errors.New("the wall clock of one process cannot be shifted here")

// ShiftClock sets a stopped program's wall clock back by whole seconds, up to 2^31, for good, and nobody else's. A Go
// program takes the time from the code that the kernel maps into each process, the vDSO, without a system call or a
// library that could be replaced; so this code is replaced, in this process only, as a debugger sets a breakpoint. The
// monotonic clock goes on as it is.
func (p *Process) ShiftClock(back time.Duration) error {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return fmt.Errorf("%w: that is written for linux/amd64 only", ErrClock)
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.PID()), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrClock, err)
	}
	defer memory.Close()
	start, end, err := p.vdso()
	if err != nil {
		return err
	}
	file, err := elf.NewFile(io.NewSectionReader(memory, start, end-start))
	if err != nil {
		return fmt.Errorf("vDSO of %s: %w", p.Name, err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return fmt.Errorf("vDSO of %s: %w", p.Name, err)
	}
	code := []byte{
		0xb8, 0xe4, 0, 0, 0, // mov eax, 228: the system call clock_gettime, whose arguments stay where they are
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi: CLOCK_REALTIME is 0
		0x75, 0x07, // jne over the next
		0x48, 0x81, 0x2e, 0, 0, 0, 0, // sub qword [rsi], seconds
		0xc3, // ret
	}
	binary.LittleEndian.PutUint32(code[14:], uint32(back/time.Second))
	for _, symbol := range symbols {
		if symbol.Name != "__vdso_clock_gettime" || int(symbol.Size) < len(code) {
			continue
		}
		// A thread in the middle of what is replaced would go on with half of the one and half of the other.
		if err := p.outside(start, end); err != nil {
			return err
		}
		if _, err := memory.WriteAt(code, start+int64(symbol.Value)); err != nil {
			return fmt.Errorf("%w: %w", ErrClock, err)
		}
		return nil
	}
	return fmt.Errorf("%w: the vDSO has no __vdso_clock_gettime that is long enough", ErrClock)
}

// vdso is where the program has the kernel's code.
func (p *Process) vdso() (start, end int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.PID()))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			_, err = fmt.Sscanf(line, "%x-%x", &start, &end)
			return start, end, err
		}
	}
	return 0, 0, fmt.Errorf("%w: %s has no vDSO", ErrClock, p.Name)
}

// outside fails unless all threads of the program wait in system calls that are not made from this range.
func (p *Process) outside(start, end int64) error {
	tasks := fmt.Sprintf("/proc/%d/task", p.PID())
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return err
	}
	for _, thread := range threads {
		text, err := os.ReadFile(tasks + "/" + thread.Name() + "/syscall")
		if err != nil {
			return fmt.Errorf("%w: %w", ErrClock, err)
		}
		fields := strings.Fields(string(text)) // the last is the program counter; see proc_pid_syscall(5)
		at, err := strconv.ParseInt(strings.TrimPrefix(fields[len(fields)-1], "0x"), 16, 64)
		if err != nil || at >= start && at < end {
			return fmt.Errorf("thread %s of %s is running, or in the code to be replaced: %s", thread.Name(), p.Name,
				text)
		}
	}
	return nil
}

// Freeze stops the program and returns when the kernel has stopped it.
func (p *Process) Freeze() error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for range 10_000 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
		if err != nil {
			return err
		}
		// PID (name) state
		if strings.HasPrefix(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " T") {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("%s does not stop", p.Name)
}

// Thaw lets a stopped program go on.
func (p *Process) Thaw() error { return p.Signal(syscall.SIGCONT) }
