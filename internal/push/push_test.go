package push

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"metrics-server-prom/internal/selfmetrics"
)

// ample is an interval, and so a time for one push, that no push to a receiver that answers comes near.
const ample = time.Minute

// pushes runs a pusher for n pushes, each begun when the one before has ended. p needs no Interval or Page.
func pushes(t *testing.T, n int, p *Pusher) (ok []bool, log string) {
	t.Helper()
	var registry selfmetrics.Registry
	p.Interval = cmp.Or(p.Interval, ample)
	if p.Page == nil {
		p.Page = onePage
	}
	p.Register(registry.Scope(""))
	log = logged(func() {
		for range n {
			p.push(t.Context(), false)
			ok = append(ok, p.problem == "")
		}
	})
	return ok, log
}

// logged is what is logged during f.
func logged(f func()) string {
	var out bytes.Buffer
	former := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
	defer slog.SetDefault(former)
	f()
	return out.String()
}

// receiver starts one over HTTP/1.1 or HTTP/2.
func receiver(t *testing.T, protocol string, handle http.HandlerFunc) (url string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handle)
	t.Cleanup(server.Close)
	if protocol == "HTTP/1.1" {
		server.Start()
		return server.URL
	}
	server.EnableHTTP2 = true
	server.StartTLS()
	former := transport
	transport = transport.Clone()
	transport.TLSClientConfig = server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	t.Cleanup(func() { transport = former })
	return server.URL
}

// over runs a test over both versions of HTTP.
func over(t *testing.T, test func(t *testing.T, protocol string)) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) { test(t, protocol) })
	}
}

func onePage(_ context.Context, w io.Writer, _ bool) error {
	_, err := io.WriteString(w, "# TYPE a gauge\na{b=\"c\"} 1\n"+
		"# HELP go_threads x\ngo_threads 7\nd 2\nprocess_open_fds 9\ne 3")
	return err
}

// largePage writes lines that do not compress, 64 bytes each, until it has written n bytes or w fails.
func largePage(w io.Writer, n int) error {
	random := make([]byte, 28)
	for ; n > 0; n -= 64 {
		rand.Read(random)
		if _, err := fmt.Fprintf(w, "large_%s 1\n", hex.EncodeToString(random)); err != nil {
			return err
		}
	}
	return nil
}

func TestPushesGzippedTextWithLabelsAndHeadersButNotTheProcess(t *testing.T) {
	over(t, func(t *testing.T, protocol string) {
		var got string
		var header http.Header
		url := receiver(t, protocol, func(_ http.ResponseWriter, r *http.Request) {
			text, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			all, err := io.ReadAll(text)
			got, header = r.Method+" "+r.URL.String()+" "+r.Proto+" "+string(all), r.Header
			if err != nil {
				t.Error(err)
			}
		})
		ok, log := pushes(t, 1, &Pusher{URL: url + "/import?x=y", ExtraLabels: `cluster="x"`, UserAgent: "name/version",
			Headers: http.Header{"Authorization": {"Bearer TOKEN"}, "X-Scope": {"y"}}})
		want := "POST /import?x=y " + protocol +
			" # TYPE a gauge\na{cluster=\"x\",b=\"c\"} 1\nd{cluster=\"x\"} 2\ne{cluster=\"x\"} 3\n"
		if got != want || !ok[0] || log != "" {
			t.Errorf("%q, ok %v; want %q\n%s", got, ok, want, log)
		}
		for name, want := range map[string]string{"Authorization": "Bearer TOKEN", "X-Scope": "y", "Content-Encoding": "gzip",
			"Content-Type": "text/plain", "User-Agent": "name/version"} {
			if got := header.Values(name); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	})
}

func TestHeadersThatAreSetWin(t *testing.T) {
	var header http.Header
	url := receiver(t, "HTTP/1.1", func(_ http.ResponseWriter, r *http.Request) { header = r.Header })
	pushes(t, 1, &Pusher{URL: strings.Replace(url, "://", "://me:password@", 1), UserAgent: "name/version",
		Headers: http.Header{"User-Agent": {"mine"}, "Content-Type": {"text/mine"}}})
	for name, want := range map[string]string{"User-Agent": "mine", "Content-Type": "text/mine",
		"Authorization": "Basic bWU6cGFzc3dvcmQ="} {
		if got := header.Values(name); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestRedirectIsRefusedAndTheOtherHostLearnsNothing is fault 8: a redirect turned the POST into an empty GET that
// counted as a push, and the headers went to the other host.
func TestRedirectIsRefusedAndTheOtherHostLearnsNothing(t *testing.T) {
	var asked atomic.Int32
	other := receiver(t, "HTTP/1.1", func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	_, otherHost, _ := strings.Cut(other, "://")
	for what, c := range map[string]struct{ location, says string }{
		"to another host": {other + "/MARKED?MARKED", "redirects to " + otherHost + ","},
		"to another host with its user": {strings.Replace(other, "://", "://MARKED:MARKED@", 1),
			"redirects to " + otherHost + ","},
		"to another path":   {"/MARKED", "redirects to another path,"},
		"to an invalid URL": {"http://MARKED:MARKED", "redirects to another path,"},
	} {
		for _, code := range []int{301, 302, 303, 307, 308} {
			t.Run(fmt.Sprint(what, code), func(t *testing.T) {
				calls := 0
				url := receiver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
					calls++
					w.Header().Set("Location", c.location)
					w.WriteHeader(code)
				})
				ok, log := pushes(t, 1, &Pusher{URL: url, Headers: http.Header{"X-Api-Key": {"MARKED"}}})
				if ok[0] || calls != 1 || asked.Load() != 0 {
					t.Errorf("ok %v, %d calls, %d of the other host", ok, calls, asked.Load())
				}
				if !strings.Contains(log, fmt.Sprint("answered ", code)) || !strings.Contains(log, c.says) ||
					strings.Contains(log, "MARKED") {
					t.Errorf("the log is without %q: %s", c.says, log)
				}
			})
		}
	}
}

// TestOnlyAWholePageThatIsTakenIsOK is fault 8 in general.
func TestOnlyAWholePageThatIsTakenIsOK(t *testing.T) {
	for code, want := range map[int]bool{200: true, 202: true, 204: true, 299: true,
		300: false, 304: false, 400: false, 404: false, 429: false, 503: false} {
		url := receiver(t, "HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
		ok, log := pushes(t, 1, &Pusher{URL: url})
		if ok[0] != want || want != (log == "") || !want && !strings.Contains(log, fmt.Sprint(code)) {
			t.Errorf("%d: ok %v, log: %s", code, ok, log)
		}
	}
	over(t, func(t *testing.T, protocol string) {
		url := receiver(t, protocol, func(_ http.ResponseWriter, r *http.Request) { r.Body.Read(make([]byte, 10)) })
		page := func(_ context.Context, w io.Writer, _ bool) error { return largePage(w, 64<<20) }
		ok, log := pushes(t, 1, &Pusher{URL: url, Page: page})
		if ok[0] || log == "" {
			t.Errorf("a 200 before the page was taken: ok %v, log: %s", ok, log)
		}
	})
}

// TestPageIsStreamed has the page wait in its middle until the receiver has got most of its beginning.
func TestPageIsStreamed(t *testing.T) {
	over(t, func(t *testing.T, protocol string) {
		const half = 1 << 20
		arrived, received := make(chan struct{}), 0
		url := receiver(t, protocol, func(_ http.ResponseWriter, r *http.Request) {
			text, err := gzip.NewReader(r.Body)
			if err == nil {
				_, err = io.CopyN(io.Discard, text, half/2)
			}
			close(arrived)
			rest, err2 := io.ReadAll(text)
			if err = errors.Join(err, err2); err != nil {
				t.Error(err)
			}
			received = half/2 + len(rest)
		})
		page := func(ctx context.Context, w io.Writer, _ bool) error {
			if err := largePage(w, half); err != nil {
				return err
			}
			select {
			case <-arrived:
			case <-ctx.Done():
				return errors.New("nothing arrives before the page is whole")
			}
			return largePage(w, half)
		}
		ok, log := pushes(t, 1, &Pusher{URL: url, Interval: 20 * time.Second, Page: page})
		if !ok[0] || received < 2*half-128 {
			t.Errorf("ok %v, %d bytes; log: %s", ok, received, log)
		}
	})
}

// TestPageThatBreaksOffNeverArrivesWhole: neither the request nor the gzip in it comes to its end.
func TestPageThatBreaksOffNeverArrivesWhole(t *testing.T) {
	over(t, func(t *testing.T, protocol string) {
		results := make(chan error, 1)
		url := receiver(t, protocol, func(w http.ResponseWriter, r *http.Request) {
			body, bodyErr := io.ReadAll(r.Body)
			text, textErr := gzip.NewReader(bytes.NewReader(body))
			if textErr == nil {
				_, textErr = io.ReadAll(text)
			}
			if bodyErr == nil || textErr == nil || len(body) == 0 {
				results <- fmt.Errorf("the receiver read %d bytes, the request ended with %v, the gzip with %v",
					len(body), bodyErr, textErr)
			} else {
				results <- nil
			}
		})
		ok, log := pushes(t, 1, &Pusher{URL: url, Page: func(_ context.Context, w io.Writer, _ bool) error {
			if err := largePage(w, 1<<20); err != nil {
				return err
			}
			return errors.New("the disk is gone")
		}})
		if ok[0] || !strings.Contains(log, "broke off: the disk is gone") {
			t.Errorf("ok %v, log: %s", ok, log)
		}
		select {
		case err := <-results:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("nothing was sent")
		}
	})
}

// TestPageThatBreaksOffAfterA200IsNotOK has a receiver that answers early.
func TestPageThatBreaksOffAfterA200IsNotOK(t *testing.T) {
	answered := make(chan struct{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		http.ReadRequest(bufio.NewReader(conn))
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		close(answered)
		io.Copy(io.Discard, conn)
	}()
	page := func(_ context.Context, w io.Writer, _ bool) error {
		largePage(w, 1<<20)
		<-answered
		largePage(w, 1<<20)
		return errors.New("the disk is gone")
	}
	ok, log := pushes(t, 1, &Pusher{URL: "http://" + listener.Addr().String(), Page: page})
	if ok[0] || log == "" {
		t.Errorf("ok %v, log: %s", ok, log)
	}
}

// TestNothingIsPushedWhereThereIsNothing, nor taken away: what a receiver of text is not sent gets old there.
func TestNothingIsPushedWhereThereIsNothing(t *testing.T) {
	calls := 0
	url := receiver(t, "HTTP/1.1", func(http.ResponseWriter, *http.Request) { calls++ })
	ok, log := pushes(t, 2, &Pusher{URL: url, Page: func(_ context.Context, w io.Writer, _ bool) error {
		io.WriteString(w, "half a page\nand a half line")
		return errors.New("no data yet")
	}})
	if calls != 0 || ok[0] || ok[1] || !strings.Contains(log, "no page to push: no data yet") ||
		strings.Contains(log, "--push.url") {
		t.Errorf("%d requests, ok %v, log: %s", calls, ok, log)
	}
}

// TestNothingOldStaysInAPushgateway: it would be scraped as new, for ever.
func TestNothingOldStaysInAPushgateway(t *testing.T) {
	const works, fails, breaks = "page", "no page", "half a page"
	codes := func(codes ...int) func(int, http.ResponseWriter, *http.Request) {
		return func(n int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(codes[min(n, len(codes))-1]) }
	}
	for name, c := range map[string]struct {
		pages  []string // of one push each
		once   bool
		answer func(int, http.ResponseWriter, *http.Request)
		want   string   // the requests
		log    []string // its lines
	}{
		"a predecessor was killed, and there is no page yet": {[]string{fails, fails}, false, nil, "DELETE",
			[]string{"no page to push: no data yet"}},
		"there is no page any more": {[]string{works, fails, fails, works, fails}, false, nil,
			"PUT, DELETE, PUT, DELETE", []string{"no page to push", "works again", "no page to push"}},
		"the page breaks off": {[]string{works, breaks, breaks}, false, nil, "PUT, DELETE", []string{"the page broke off"}},
		"the page is refused": {[]string{works, works, works}, false, codes(200, 413, 202, 413), "PUT, PUT, DELETE, PUT",
			[]string{"answered 413"}},
		"the receiver is away": {[]string{works, works, fails}, false, codes(200, 503, 202), "PUT, PUT, DELETE",
			[]string{"answered 503", "no page to push"}},
		"the receiver takes nothing of this program": {[]string{works, works}, false, codes(403), "PUT, PUT",
			[]string{"answered 403"}},
		"the receiver is away when there is no page any more": {[]string{fails, fails, fails}, false, codes(503, 503, 202),
			"DELETE, DELETE, DELETE", []string{"no data yet; nor can the values of before be taken away: the receiver " +
				"answered 503", "no page to push"}},
		"the push was asked for, as by a job whose values stay": {[]string{works, fails}, true, nil, "PUT",
			[]string{"no page to push"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := remote{answer: c.answer}
				m.start(t)
				p, _ := writer(0)
				p.Format, p.URL = Text, "http://receiver/metrics/job/x"
				log := logged(func() {
					for _, page := range c.pages {
						p.Page = func(ctx context.Context, w io.Writer, once bool) error {
							switch page {
							case fails:
								return errors.New("no data yet")
							case breaks:
								largePage(w, 1<<20)
								return errors.New("no data any more")
							}
							return onePage(ctx, w, once)
						}
						p.push(t.Context(), c.once)
						synctest.Wait()
					}
				})
				var requests []string
				for _, r := range m.requests() {
					requests = append(requests, r.method)
				}
				lines := slices.Collect(strings.Lines(log))
				ok := len(lines) == len(c.log) && strings.Join(requests, ", ") == c.want
				for i := range lines {
					ok = ok && strings.Contains(lines[i], c.log[i])
				}
				if !ok {
					t.Errorf("%s, want %s; log: %s", requests, c.want, log)
				}
			})
		})
	}
}

func TestNoDataIsNotTakenForAReceiverThatDoesNotAnswer(t *testing.T) {
	ok, log := pushes(t, 1, &Pusher{URL: "http://receiver.invalid", Interval: 10 * time.Millisecond,
		Page: func(ctx context.Context, w io.Writer, _ bool) error { <-ctx.Done(); return ctx.Err() }})
	if ok[0] || !strings.Contains(log, "no data yet, see /healthz") {
		t.Errorf("ok %v, log: %s", ok, log)
	}
}

// TestAnswersAreReadToABound is fault 11. A receiver sends without end, and counts what it gets rid of; sockets take
// some.
func TestAnswersAreReadToABound(t *testing.T) {
	const socketBuffers = 16 << 20
	for what, begin := range map[string]string{
		"a refusal's body":           "HTTP/1.1 400 Bad Request\r\n\r\n",
		"a refusal's body in chunks": "HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n",
		"a redirect's body":          "HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n",
		"the body of a 200":          "HTTP/1.1 200 OK\r\n\r\n",
		"a header":                   "HTTP/1.1 200 OK\r\nX-Endless: ",
		"a status line":              "HTTP/1.1 400 ",
		"a line":                     "",
	} {
		t.Run(what, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			sent := make(chan int, 1)
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				if request, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					io.Copy(io.Discard, request.Body)
				}
				io.WriteString(conn, begin)
				block, n := bytes.Repeat([]byte("x"), 1<<20), 0
				for ; n < 256<<20; n += len(block) {
					if _, err := conn.Write(block); err != nil {
						break
					}
				}
				sent <- n
			}()
			ok, log := pushes(t, 1, &Pusher{URL: "http://" + listener.Addr().String()})
			if want := what == "the body of a 200"; ok[0] != want || len(log) > 1000 {
				t.Errorf("ok %v, a log of %d bytes: %.1000s", ok, len(log), log)
			}
			if n := <-sent; n > socketBuffers {
				t.Errorf("%d MiB were read", n>>20)
			}
		})
	}
	t.Run("header lines and answers before the answer", func(t *testing.T) {
		for _, line := range []string{"X-Line: y\r\n", "HTTP/1.1 102 Processing\r\nX-Line: y\r\n\r\n"} {
			client, server := net.Pipe()
			p := Pusher{URL: "http://receiver"}
			former := transport
			transport = transport.Clone()
			transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return client, nil }
			sent := make(chan int, 1)
			go func() {
				http.ReadRequest(bufio.NewReader(server))
				go io.Copy(io.Discard, server)
				io.WriteString(server, "HTTP/1.1 102 Processing\r\n")
				n := 0
				for lines := strings.Repeat(line, 1000); n < 16<<20; n += len(lines) {
					if _, err := io.WriteString(server, lines); err != nil {
						break
					}
				}
				server.Close()
				sent <- n
			}()
			ok, _ := pushes(t, 1, &p)
			if n := <-sent; ok[0] || n > 1<<20 {
				t.Errorf("%q: ok %v, %d KiB were read", line, ok, n>>10)
			}
			transport = former
		}
	})
}

func TestPushesAtTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start, pushes := time.Now(), 0
		p := Pusher{URL: "http://receiver.invalid", Interval: 30 * time.Second}
		var registry selfmetrics.Registry
		p.Register(registry.Scope(""))
		p.Page = func(context.Context, io.Writer, bool) error {
			pushes++
			if since, want := time.Since(start), time.Duration(pushes)*p.Interval; since != want {
				t.Errorf("push %d after %s, want %s", pushes, since, want)
			}
			if pushes == 3 {
				cancel()
			}
			return errors.New("no data yet")
		}
		p.Run(ctx)
	})
}

// TestReceiverThatHangsIsCutOff at the interval, or before where that is long.
func TestReceiverThatHangsIsCutOff(t *testing.T) {
	for interval, want := range map[time.Duration]time.Duration{2 * time.Second: 2 * time.Second, time.Hour: time.Minute} {
		t.Run(interval.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				former := transport
				transport = transport.Clone()
				defer func() { transport = former }()
				transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
					client, server := net.Pipe()
					go io.Copy(io.Discard, server)
					return client, nil
				}
				start := time.Now()
				ok, log := pushes(t, 2, &Pusher{URL: "http://receiver.invalid", Interval: interval})
				took := time.Since(start)
				if ok[0] || ok[1] || took != 2*want || !strings.Contains(log, "did not answer within "+want.String()) {
					t.Errorf("ok %v, %s; log: %s", ok, took, log)
				}
			})
		})
	}
}

// TestEachPushHasItsOwnConnection, as one that was idle can be dead without a sign.
func TestEachPushHasItsOwnConnection(t *testing.T) {
	over(t, func(t *testing.T, protocol string) {
		var mu sync.Mutex
		clients := map[string]bool{}
		url := receiver(t, protocol, func(_ http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			clients[r.RemoteAddr] = true
		})
		if ok, log := pushes(t, 3, &Pusher{URL: url}); len(clients) != 3 || !ok[2] {
			t.Errorf("%v, ok %v; log: %s", clients, ok, log)
		}
	})
}
