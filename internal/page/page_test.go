package page

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"weak"
)

// exposition returns n lines that look like a page's.
func exposition(n int) string {
	var b strings.Builder
	r := rand.New(rand.NewSource(int64(n)))
	for i := range n {
		fmt.Fprintf(&b, "kube_metrics_server_pod_cpu{node=\"node-%d\",pod=\"web-%x\",ip=\"10.0.%d.%d\",container=\"app\","+
			"namespace=\"shop\"} 0.%d\n",
			i/30, r.Int31(), i/250, i%250, r.Intn(1e9))
	}
	return b.String()
}

// part compresses text that arrives in writes of random length, as from a renderer.
func part(c *Compressor, text string) *Part {
	r := rand.New(rand.NewSource(1))
	for len(text) > 0 {
		n := min(1+r.Intn(300), len(text))
		io.WriteString(c, text[:n])
		text = text[n:]
	}
	return c.Part()
}

func TestPage(t *testing.T) {
	big := exposition(20_000)
	for name, texts := range map[string][]string{
		"no parts":                          {},
		"one part":                          {"a 1\n"},
		"an empty part between others":      {"a 1\n", "", "b 2\n"},
		"a large part before a small":       {big, "b 2\n"},
		"a small part before a large":       {"b 2\n", big, "c 3\n"},
		"a part exactly one buffer long":    {strings.Repeat("x", bufLen), "b 2\n"},
		"incompressible text":               {random(3 << 20), random(10)},
		"pieces of all lengths":             {"a", random(writeLen / 2), random(writeLen), random(writeLen + 1), "b"},
		"pieces that are joined to the end": slices.Repeat([]string{random(writeLen - 1000)}, 4),
		"short pieces of a page too long to join": slices.Repeat([]string{random(3000), "", exposition(9)},
			joinLen/3000),
		"many parts from one compressor":    {"a", "b", "c", "d", "e", exposition(10), "f"},
		"the same text twice is two copies": {exposition(10), exposition(10)},
	} {
		t.Run(name, func(t *testing.T) {
			var c Compressor
			var parts []*Part
			for _, text := range texts {
				parts = append(parts, part(&c, text))
			}
			page := New(parts...)
			want := strings.Join(texts, "")

			var zipped, text bytes.Buffer
			if err := page.WriteGzip(&zipped); err != nil {
				t.Fatal(err)
			}
			if int64(zipped.Len()) != page.GzipLen() {
				t.Errorf("GzipLen %d, written %d", page.GzipLen(), zipped.Len())
			}
			if got := gunzipOneMember(t, zipped.Bytes()); got != want {
				t.Errorf("gzip gives %d bytes, want the %d that went in", len(got), len(want))
			}
			if err := page.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			if text.String() != want {
				t.Errorf("text gives %d bytes, want the %d that went in", text.Len(), len(want))
			}
			if page.TextLen() != int64(len(want)) {
				t.Errorf("TextLen %d, want %d", page.TextLen(), len(want))
			}
		})
	}
}

// TestShortPiecesAreWrittenTogether counts the writes of pages of parts that are all shorter than what is worth one.
func TestShortPiecesAreWrittenTogether(t *testing.T) {
	var c Compressor
	for _, size := range []int{100, writeLen, 2*writeLen + 1, joinLen / 2, joinLen * 3 / 2} {
		var parts []*Part
		for n := 0; n < size; n += 1000 {
			parts = append(parts, part(&c, random(1000)))
		}
		page, w := New(parts...), &gone{after: size}
		page.WriteGzip(w)
		if writes, most := size-w.after, int(page.GzipLen())/(writeLen-2000)+1; writes > most {
			t.Errorf("%d bytes in %d writes, want at most %d", page.GzipLen(), writes, most)
		}
	}
}

// TestAHeaderKeepsNoPage has a short part be there for longer than the page that it is a part of.
func TestAHeaderKeepsNoPage(t *testing.T) {
	var c Compressor
	header := part(&c, "# HELP a A.\n")
	member := weak.Make(&New(header, part(&c, random(100_000))).pieces[0][0])
	runtime.GC()
	if member.Value() != nil {
		t.Error("the page is still there")
	}
	runtime.KeepAlive(header)
}

func random(n int) string {
	b := make([]byte, n)
	rand.New(rand.NewSource(int64(n))).Read(b)
	return string(b)
}

// gunzipOneMember reads with the standard library, which checks CRC and length, and demands that nothing follows.
func gunzipOneMember(t *testing.T, b []byte) string {
	t.Helper()
	src := bytes.NewReader(b)
	r, err := gzip.NewReader(src)
	if err != nil {
		t.Fatal(err)
	}
	r.Multistream(false)
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if src.Len() != 0 {
		t.Errorf("%d bytes behind the first member", src.Len())
	}
	return string(text)
}

// TestConnectionsGetThePage is many readers of one page at once.
func TestConnectionsGetThePage(t *testing.T) {
	var c Compressor
	text := random(3 << 20)
	page := New(part(&c, text), part(&c, "self 1\n"))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.FormatInt(page.GzipLen(), 10))
		if err := page.WriteGzip(w); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	var readers sync.WaitGroup
	var bodies [5][]byte
	for i := range bodies {
		readers.Go(func() {
			response, err := http.Get(server.URL)
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			if bodies[i], err = io.ReadAll(response.Body); err != nil {
				t.Error(err)
			}
		})
	}
	readers.Wait()
	for _, body := range bodies {
		if got := gunzipOneMember(t, body); got != text+"self 1\n" {
			t.Errorf("%d bytes, not those that went in", len(got))
		}
	}
}

func TestWriteStopsAtTheFirstError(t *testing.T) {
	var c Compressor
	page := New(part(&c, random(4<<20)))
	for _, write := range []func(io.Writer) error{page.WriteGzip, page.WriteText} {
		if err := write(&gone{}); err != io.ErrClosedPipe {
			t.Errorf("error %v, want that of the writer", err)
		}
	}
}

type gone struct{ after int }

func (g *gone) Write(b []byte) (int, error) {
	if g.after--; g.after < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(b), nil
}

func FuzzCombine(f *testing.F) {
	f.Add([]byte("123456789"), []byte(""))
	f.Add([]byte(""), []byte("abc"))
	f.Add([]byte("node"), bytes.Repeat([]byte{0}, 1000))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		whole := crc32.ChecksumIEEE(append(append([]byte(nil), a...), b...))
		if got := combine(crc32.ChecksumIEEE(a), crc32.ChecksumIEEE(b), power(int64(len(b)))); got != whole {
			t.Errorf("combine(%q, %q) = %08x, want %08x", a, b, got, whole)
		}
	})
}

func BenchmarkCompress(b *testing.B) {
	for _, lines := range []int{1_000, 40_000, 600_000} {
		b.Run(fmt.Sprint(lines), func(b *testing.B) {
			text := []byte(exposition(lines))
			var c Compressor
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				c.Write(text)
				c.Part()
			}
		})
	}
}

// BenchmarkParts measures what it costs to make a page of a cluster's pods of parts of so many samples each, and their
// memory: bytes compressed, and on the heap with all that belongs to a part.
func BenchmarkParts(b *testing.B) {
	const samples = 15 * 150_000 // families and pods
	text := strings.SplitAfter(exposition(150_000), "\n")
	for _, n := range []int{64, 128, 256, 16 << 10} {
		b.Run(fmt.Sprintf("samples=%d", n), func(b *testing.B) {
			var c Compressor
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			parts := make([]*Part, 0, samples/n+1)
			for i := range samples {
				io.WriteString(&c, text[i%150_000])
				if i%n == n-1 || i == samples-1 {
					parts = append(parts, c.Part())
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportAllocs()
			var page *Page
			for b.Loop() {
				page = New(parts...)
			}
			b.ReportMetric(float64(page.GzipLen())/samples, "bytes/sample")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/samples, "heap-bytes/sample")
		})
	}
}

// BenchmarkServe measures a scrape of a page of small parts, beside a server of the same bytes as a file.
func BenchmarkServe(b *testing.B) {
	for _, size := range []int{1 << 20, 4 << 20, joinLen - 1<<16, joinLen + 1<<16, 64 << 20} {
		var c Compressor
		p := part(&c, exposition(64))
		page := New(slices.Repeat([]*Part{p}, size/len(p.blocks))...)
		file := filepath.Join(b.TempDir(), "page")
		f, err := os.Create(file)
		if err != nil {
			b.Fatal(err)
		}
		page.WriteGzip(f)
		f.Close()
		for name, serve := range map[string]http.HandlerFunc{
			"page": func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", strconv.FormatInt(page.GzipLen(), 10))
				page.WriteGzip(w)
			},
			"file": func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) },
		} {
			b.Run(fmt.Sprintf("bytes=%d/%s", size, name), func(b *testing.B) {
				server := httptest.NewServer(serve)
				defer server.Close()
				client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
				b.SetBytes(page.GzipLen())
				for b.Loop() {
					response, err := client.Get(server.URL)
					if err != nil {
						b.Fatal(err)
					}
					if _, err = io.Copy(io.Discard, response.Body); err != nil {
						b.Fatal(err)
					}
					response.Body.Close()
				}
			})
		}
	}
}

// TestNoMoreCompressorsThanCores has many borrow one at once.
func TestNoMoreCompressorsThanCores(t *testing.T) {
	var borrowed, most atomic.Int32
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			c := Borrow()
			defer c.Return()
			defer borrowed.Add(-1)
			if n := borrowed.Add(1); n > most.Load() {
				most.Store(n)
			}
			runtime.Gosched()
			c.Write([]byte("a text"))
			if p := c.Part(); p.size != 6 {
				t.Errorf("a part of %d bytes", p.size)
			}
		})
	}
	all.Wait()
	if n := int(most.Load()); n > cap(limit) || n == 0 {
		t.Errorf("%d are borrowed at once", n)
	}
}
