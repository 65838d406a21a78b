package gzpage

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestWithoutProc is a container that has no /proc.
func TestWithoutProc(t *testing.T) {
	descriptors = "/there/is/no/such/folder/"
	defer func() { descriptors = "/proc/self/fd/" }()
	TestConnectionsGetThePage(t)
}

func TestCollapseKeepsTheBytes(t *testing.T) {
	for name, size := range map[string]int{
		"less than a huge page":     hugePage - 1,
		"one":                       hugePage,
		"three, and a part of one":  3*hugePage + 12345,
		"nothing was written to it": 0,
	} {
		t.Run(name, func(t *testing.T) {
			file, err := newFile()
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			want := random(size)
			if _, err := file.WriteString(want); err != nil {
				t.Fatal(err)
			}
			collapse(file, int64(size))
			got, err := io.ReadAll(io.NewSectionReader(file, 0, int64(size)))
			if err != nil || string(got) != want {
				t.Errorf("%d bytes, not the %d that were written; error %v", len(got), size, err)
			}
		})
	}
}

// BenchmarkSend sends files of the size of a page of 10,000 and of 150,000 pods over a connection, as net/http does.
func BenchmarkSend(b *testing.B) {
	for _, size := range []int{700 << 10, 10 << 20} {
		for name, create := range map[string]func() (*os.File, error){
			"memory, pages of 4 KiB": newFile,
			"memory, huge pages":     newFile,
			"disk":                   func() (*os.File, error) { return os.Create(filepath.Join(b.TempDir(), "page")) },
		} {
			b.Run(fmt.Sprintf("%d KiB, %s", size>>10, name), func(b *testing.B) {
				file, err := create()
				if err != nil {
					b.Fatal(err)
				}
				defer file.Close()
				if _, err := file.WriteString(random(size)); err != nil {
					b.Fatal(err)
				}
				if strings.Contains(name, "huge") {
					collapse(file, int64(size))
				}
				send(b, file, int64(size))
			})
		}
	}
}

func send(b *testing.B, file *os.File, size int64) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r, closer, err := reopen(file, size)
		if err != nil {
			b.Error(err)
			return
		}
		defer closer.Close()
		io.Copy(w, &io.LimitedReader{R: r, N: size})
	}))
	defer server.Close()
	b.SetBytes(size)
	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	for b.Loop() {
		response, err := http.Get(server.URL)
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	spent := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(spent)/float64(b.N), "cpu-ns/op")
}
