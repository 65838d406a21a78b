package push

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/snappy"
	"google.golang.org/protobuf/encoding/protowire"

	"metrics-server-prom/internal/selfmetrics"
)

// at is the time of all samples.
const at = 1_764_130_000_000

// remote is a receiver of remote write behind pipes, for a synctest bubble.
type remote struct {
	answer func(n int, w http.ResponseWriter, r *http.Request) // the n-th request, from 1 on; nil takes all

	mu  sync.Mutex
	got []request
}

// requests is what has arrived since the last call.
func (m *remote) requests() []request {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() { m.got = nil }()
	return m.got
}

// request is what a receiver got.
type request struct {
	after  time.Duration // since the first one
	series int
	method string
	header http.Header
}

// start has all connections of pushers that are made from now on lead to the receiver.
func (m *remote) start(t *testing.T) {
	former := transport
	transport = transport.Clone()
	t.Cleanup(func() { transport = former })
	begun, n := time.Time{}, 0
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		m.mu.Lock()
		if n++; n == 1 {
			begun = time.Now()
		}
		series := 0
		if r.Header.Get("Content-Encoding") == "snappy" {
			series = seriesOf(t, body)
		}
		m.got = append(m.got, request{time.Since(begun), series, r.Method, r.Header})
		number := n
		m.mu.Unlock()
		if m.answer != nil {
			m.answer(number, w, r)
		}
	})}
	listener := &pipes{make(chan net.Conn), make(chan struct{})}
	go server.Serve(listener)
	t.Cleanup(func() {
		server.Close()
		time.Sleep(time.Second) // net/http's server waits for half of one where a request broke off
	})
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		here, there := net.Pipe()
		select {
		case listener.connections <- there:
			return here, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// pipes is a listener inside a synctest bubble.
type pipes struct {
	connections chan net.Conn
	closed      chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.connections:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// seriesOf is how many series a request has.
func seriesOf(t *testing.T, body []byte) (n int) {
	message, err := snappy.Decode(nil, body)
	if err != nil {
		t.Error(err)
	}
	if len(message) > 1_000_000 {
		t.Errorf("a batch of %d bytes", len(message))
	}
	for len(message) > 0 {
		_, _, length := protowire.ConsumeField(message)
		if length < 0 {
			t.Fatal(protowire.ParseError(length))
		}
		n, message = n+1, message[length:]
	}
	return n
}

// writer is a pusher by remote write of so many series.
func writer(series int) (*Pusher, *selfmetrics.Registry) {
	p := &Pusher{URL: "http://receiver/api/v1/write", Format: RemoteWrite, Interval: 30 * time.Second, Instance: "h",
		UserAgent: "name/version"}
	p.Series = func(ctx context.Context, o *Out, once bool) error {
		target := p.Target("cadvisor")
		for i := range series {
			o.Add(target, "a", fmt.Appendf(nil, `i="%d"`, i), 1, at)
			if o.Full() {
				if err := o.Flush(ctx); err != nil {
					continue // the rest is counted
				}
			}
		}
		return nil
	}
	registry := &selfmetrics.Registry{}
	p.Register(registry.Scope(""))
	return p, registry
}

// counted is the counters that are not 0.
func counted(r *selfmetrics.Registry) string {
	var text strings.Builder
	r.Write(&text)
	var lines []string
	for line := range strings.Lines(text.String()) {
		if line = strings.TrimSpace(line); line[0] != '#' && !strings.HasSuffix(line, " 0") {
			line = strings.TrimPrefix(line, selfmetrics.Prefix+"push")
			lines = append(lines, strings.NewReplacer(`{result="`, " ", `"}`, "").Replace(line))
		}
	}
	return strings.Join(lines, ", ")
}

func TestSamplesArriveInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m remote
		m.start(t)
		p, registry := writer(2*fullSeries + 1)
		p.Headers = http.Header{"X-Scope-Orgid": {"tenant"}}
		samples, err := p.Once(t.Context())
		if err != nil || samples != 2*fullSeries+1 {
			t.Errorf("%d samples, %v", samples, err)
		}
		requests := m.requests()
		for i, want := range []int{fullSeries, fullSeries, 1} {
			if i >= len(requests) || requests[i].series != want || requests[i].method != http.MethodPost {
				t.Fatalf("%d requests, the one of index %d is not of %d series", len(requests), i, want)
			}
			for name, want := range map[string]string{"Content-Encoding": "snappy", "User-Agent": "name/version",
				"Content-Type": "application/x-protobuf", "X-Prometheus-Remote-Write-Version": "0.1.0",
				"X-Scope-Orgid": "tenant"} {
				if got := requests[i].header.Values(name); !slices.Equal(got, []string{want}) {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		}
		if got, want := counted(registry), "_samples_total ok 4001, es_total ok 1"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

// TestABatchIsFullBeforeAReceiversLimit has series with more text than usual.
func TestABatchIsFullBeforeAReceiversLimit(t *testing.T) {
	var o Out
	o.pusher, _ = writer(0)
	target := o.pusher.Target("j")
	for !o.Full() {
		o.Add(target, "a", fmt.Appendf(nil, `text="%01000d"`, o.encoder.Len()), 1, at)
	}
	if size := o.encoder.Size(); size > 450_000 || size < 400_000 {
		t.Errorf("full with %d bytes", size)
	}
}

func TestWhatBecomesOfABatch(t *testing.T) {
	const all = fullSeries + 3 // two batches
	status := func(codes ...int) func(int, http.ResponseWriter, *http.Request) {
		return func(n int, w http.ResponseWriter, _ *http.Request) {
			if code := codes[min(n, len(codes))-1]; code != 200 {
				http.Error(w, "because of MARKED", code)
			}
		}
	}
	reset := func(w http.ResponseWriter, says string) {
		conn, _, _ := w.(http.Hijacker).Hijack()
		io.WriteString(conn, says)
		conn.Close()
	}
	retry := func(code int, after string) func(int, http.ResponseWriter, *http.Request) {
		return func(n int, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				w.Header().Set("Retry-After", after)
				w.WriteHeader(code)
			}
		}
	}
	const interval, second = 30 * time.Second, time.Second
	for name, c := range map[string]struct {
		answer          func(n int, w http.ResponseWriter, r *http.Request)
		requests        int           // at least
		atLeast, atMost time.Duration // that the push takes
		counted, says   string        // beside the pushes; part of the error, "" for none
	}{
		"taken":            {nil, 2, 0, 0, "ok 2003", ""},
		"taken with a 204": {status(204), 2, 0, 0, "ok 2003", ""},
		"500, then taken":  {status(500, 200), 3, firstPause / 2, firstPause, "ok 2003", ""},
		"503 three times": {status(503, 503, 503, 200), 5, 7 * firstPause / 2, 7 * firstPause, "ok 2003",
			""},
		"500 for ever": {status(500), 5, interval - longestPause, interval, "undelivered 2003",
			"answered 500 Internal Server Error: because of MARKED"},
		"500 for ever, for the second batch": {status(200, 500), 5, interval - longestPause, interval,
			"ok 2000, undelivered 3", "answered 500"},
		"429 with Retry-After":  {retry(429, "7"), 3, 7 * second, 7 * second, "ok 2003", ""},
		"503 with Retry-After":  {retry(503, "7"), 3, 7 * second, 7 * second, "ok 2003", ""},
		"429 with a date":       {retry(429, "Sat, 01 Jan 2000 00:00:09 GMT"), 3, 9 * second, 9 * second, "ok 2003", ""},
		"429 with nonsense":     {retry(429, "soon"), 3, firstPause / 2, firstPause, "ok 2003", ""},
		"429 with a past date":  {retry(429, "Fri, 31 Dec 1999 00:00:00 GMT"), 3, firstPause / 2, firstPause, "ok 2003", ""},
		"429 beyond the time":   {retry(429, "31"), 1, 0, 0, "undelivered 2003", "answered 429 Too Many Requests"},
		"429 for centuries":     {retry(429, "99999999999999999999"), 3, firstPause / 2, firstPause, "ok 2003", ""},
		"400 for one batch":     {status(400, 200), 2, 0, 0, "ok 3, refused 2000", "answered 400 Bad Request: because of MARKED"},
		"413 for both":          {status(413), 2, 0, 0, "refused 2003", "answered 413"},
		"401: whoever sends it": {status(401), 1, 0, 0, "refused 2003", "answered 401"},
		"403: whoever sends it": {status(403), 1, 0, 0, "refused 2003", "answered 403"},
		"404: nobody is there":  {status(404), 1, 0, 0, "refused 2003", "answered 404"},
		"a redirect": {func(_ int, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://other/", http.StatusTemporaryRedirect)
		}, 1, 0, 0, "refused 2003", "redirects to other"},
		"a connection that is reset": {func(n int, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				reset(w, "")
			}
		}, 3, firstPause / 2, firstPause, "ok 2003", ""},
		"an answer that breaks off": {func(n int, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				reset(w, "HTTP/1.1 200 OK\r\nContent-Le")
			}
		}, 3, firstPause / 2, firstPause, "ok 2003", ""},
		"an answer that is none": {func(n int, w http.ResponseWriter, _ *http.Request) { reset(w, "SSH-2.0-x\r\n") },
			5, interval - longestPause, interval, "undelivered 2003", "malformed HTTP response"},
		"no answer": {func(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			1, interval, interval, "undelivered 2003", "did not answer within 30s"},
		"an answer that hangs after an error": {func(n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				http.Error(w, "the disk is full", http.StatusInsufficientStorage)
				return
			}
			<-r.Context().Done()
		}, 2, interval, interval, "undelivered 2003", "the disk is full"},
		"a slow receiver: each batch has its time": {func(int, http.ResponseWriter, *http.Request) { time.Sleep(25 * second) },
			2, 50 * second, 50 * second, "ok 2003", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := remote{answer: c.answer}
				m.start(t)
				p, registry := writer(all)
				begun := time.Now()
				var samples int
				var err error
				log := logged(func() { samples, err = p.push(t.Context(), false) })
				took, requests := time.Since(begun), len(m.requests())
				if took < c.atLeast || took > c.atMost || requests < c.requests ||
					c.atMost < interval-longestPause && requests != c.requests {
					t.Errorf("%d requests, took %s", requests, took)
				}
				taken := 0
				fmt.Sscanf(c.counted, "ok %d", &taken)
				result := map[bool]string{true: "ok", false: "error"}[c.says == ""]
				want := strings.ReplaceAll("_samples_total "+c.counted, ", ", ", _samples_total ") + ", es_total " + result + " 1"
				if got := counted(registry); got != want || samples != taken {
					t.Errorf("%d samples, counted %s; want %s", samples, got, want)
				}
				if c.says == "" && (err != nil || log != "") {
					t.Errorf("%v, log: %s", err, log)
				}
				if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || strings.Count(log, c.says) != 1 ||
					!strings.Contains(log, "cannot push to http://receiver: ") ||
					!strings.Contains(log, "check --push.url, --push.header and the receiver; the next push is in 30s")) {
					t.Errorf("%v, log: %s", err, log)
				}
			})
		})
	}
}

// TestATryThatHangsIsGivenUp, however long the interval, and one that comes after a rest has all its time.
func TestATryThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := remote{answer: func(n int, w http.ResponseWriter, r *http.Request) {
			switch n {
			case 1, 2:
				<-r.Context().Done()
			case 4:
				w.Header().Set("Retry-After", "290")
				w.WriteHeader(400)
			case 5:
				time.Sleep(20 * time.Second)
			}
		}}
		m.start(t)
		p, registry := writer(1)
		p.Interval = time.Hour
		for i, want := range []time.Duration{2*standard + 3*firstPause, 0, 310 * time.Second} {
			begun := time.Now()
			logged(func() { p.push(t.Context(), false) })
			if took := time.Since(begun); took > want || took < want-3*firstPause/2 {
				t.Errorf("push %d took %s, want %s at most", i+1, took, want)
			}
		}
		if n, got := len(m.requests()), counted(registry); n != 5 || got != "_samples_total ok 2, "+
			"_samples_total refused 1, es_total error 1, es_total ok 2" {
			t.Errorf("%d requests, counted %s", n, got)
		}
	})
}

// TestPausesGrow, and have no end in common.
func TestPausesGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := remote{answer: func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }}
		m.start(t)
		p, _ := writer(1)
		p.Interval = time.Minute
		var starts []time.Duration
		for range 2 {
			begun := time.Now()
			logged(func() { p.push(t.Context(), false) })
			pause := firstPause
			former, requests := time.Duration(0), m.requests()
			for i, r := range requests {
				if i > 0 {
					if since := r.after - former; since < pause/2 || since > pause {
						t.Errorf("request %d comes %s after the one before, want %s at most", i+1, since, pause)
					}
					pause = min(2*pause, longestPause)
				}
				former = r.after
			}
			if len(requests) < 9 {
				t.Fatalf("%d requests in %s", len(requests), time.Since(begun))
			}
			starts = append(starts, requests[5].after-requests[0].after)
		}
		if starts[0] == starts[1] {
			t.Errorf("two senders would come back together, each after %s", starts[0])
		}
	})
}

// TestBatchesOfAPushShareAConnection, and pushes do not: one that was idle in between can be dead without a sign. Nor
// does a batch that is tried again after it got no answer.
func TestBatchesOfAPushShareAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m remote
		m.start(t)
		dial, connections := transport.DialContext, 0
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			connections++
			return dial(ctx, network, address)
		}
		p, _ := writer(3 * fullSeries)
		for i := range 2 {
			_, err := p.Once(t.Context())
			if requests := len(m.requests()); err != nil || connections != i+1 || requests != 3 {
				t.Errorf("%d connections after push %d, which made %d requests, %v", connections, i+1, requests, err)
			}
		}
		m.answer = func(n int, _ http.ResponseWriter, r *http.Request) {
			if n == 7 {
				panic(http.ErrAbortHandler)
			}
		}
		if _, err := p.Once(t.Context()); err != nil || connections != 4 {
			t.Errorf("%d connections, %v", connections, err)
		}
	})
}

func TestSamplesThatAreNotValidAreLeftOutAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m remote
		m.start(t)
		p, registry := writer(0)
		p.Series = func(_ context.Context, o *Out, _ bool) error {
			target := p.Target("cadvisor")
			for _, labels := range []string{`a="b"`, `a=b`, `job="mine"`, "a=\"\xff\"", `a="1",a="2"`} {
				o.Add(target, "x", []byte(labels), 1, at)
			}
			return nil
		}
		samples, err := p.Once(t.Context())
		if got := counted(registry); err != nil || samples != 1 || got !=
			"_samples_total invalid 4, _samples_total ok 1, es_total ok 1" {
			t.Errorf("%d samples, %v, counted %s", samples, err, got)
		}
	})
}

// TestAPushWithoutSamplesAsksForNothing, and says why there are none.
func TestAPushWithoutSamplesAsksForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m remote
		m.start(t)
		p, _ := writer(0)
		if samples, err := p.Once(t.Context()); samples != 0 || err != nil {
			t.Errorf("%d samples, %v", samples, err)
		}
		p.Series = func(context.Context, *Out, bool) error { return errors.New("no data yet") }
		log := logged(func() { p.Once(t.Context()) })
		if n := len(m.requests()); n != 0 || !strings.Contains(log, "cannot push to http://receiver: no data yet") {
			t.Errorf("%d requests, log: %s", n, log)
		}
	})
}

// TestTheRequestThatHangsIsNotReadOn: the encoder's memory is used anew while the transport may not be done yet.
func TestTheRequestThatHangsIsNotReadOn(t *testing.T) {
	here, there := net.Pipe() // nobody reads the request to its end
	former := transport
	transport = transport.Clone()
	defer func() { transport = former }()
	transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return here, nil }
	go func() {
		http.ReadRequest(bufio.NewReader(io.LimitReader(there, 1000)))
		io.WriteString(there, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
	}()
	p, registry := writer(fullSeries)
	logged(func() { p.push(t.Context(), false) })
	p.out.encoder.Add(p.Target("x"), "b", nil, 2, at) // -race sees who still reads
	p.out.encoder.Body()
	if got := counted(registry); !strings.HasPrefix(got, "_samples_total refused 2000") {
		t.Error(got)
	}
}
