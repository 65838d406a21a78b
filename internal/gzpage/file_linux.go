package gzpage

import (
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// newFile returns an anonymous file in memory. That memory is the container's, but not part of the process' own (RSS).
func newFile() (*os.File, error) {
	const name = "page"
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL) // since Linux 6.3, where it may be demanded
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// descriptors has this process' open files by number; a test takes it away.
var descriptors = "/proc/self/fd/"

// reopen returns a reader of the first n bytes of a file that is independent of that file's offset and of its end.
func reopen(file *os.File, n int64) (io.Reader, io.Closer, error) {
	// sendfile(2) by net/http reads from the offset, which a duplicated descriptor would share.
	own, err := os.Open(descriptors + strconv.Itoa(int(file.Fd())))
	if err == nil {
		return own, own, nil
	}
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0) // where /proc is not mounted
	if err != nil {
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	own = os.NewFile(uintptr(fd), file.Name())
	return io.NewSectionReader(own, 0, n), own, nil
}
