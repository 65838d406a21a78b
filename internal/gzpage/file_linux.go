package gzpage

import (
	"io"
	"os"
	"strconv"
	"unsafe"

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

// hugePage is the size of a huge page where pages have 4 KiB.
const hugePage = 2 << 20

// collapse moves the first n bytes of a file into huge pages. Memory files begin as pages of 4 KiB, which cost half again as
// much to send as the large folios of a file on a disk do (BenchmarkSend). The last huge page is one only if
// a quarter of it is filled: the rest of it is lost. Where there are no huge pages to be had (before Linux 6.1, memory in
// pieces), the file stays as it is.
func collapse(file *os.File, n int64) {
	end := (n + hugePage*3/4) / hugePage * hugePage
	if end == 0 {
		return
	}
	room, err := unix.Mmap(-1, 0, 2*hugePage, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return
	}
	defer unix.Munmap(room)
	if end > n && file.Truncate(end) != nil {
		return
	}
	aligned := unsafe.Pointer(&room[-uintptr(unsafe.Pointer(&room[0]))%hugePage])
	for at := int64(0); at < end; at += hugePage {
		// One at a time in the same place: what is mapped counts as the process' own memory.
		window, err := unix.MmapPtr(int(file.Fd()), at, aligned, hugePage, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_FIXED)
		if err != nil || unix.Madvise(unsafe.Slice((*byte)(window), hugePage), unix.MADV_COLLAPSE) != nil {
			return
		}
	}
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
