package load

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"metrics-server-prom/e2e/exporter"
)

// TestLoad puts a load on an exporter. When it is over, the exporter must be back to what it used before, and answer.
func TestLoad(t *testing.T) {
	for _, c := range []struct {
		name string
		pods int
		// alone is for a load that would make the others wait for a core.
		alone bool
		// load returns when the load is over, or when the exporter should get rid of it by itself.
		load func(t *testing.T, e *exporter.Exporter, before figures)
		// kept is what Go's runtime keeps for the next time that there are as many goroutines and connections, in bytes.
		kept int64
	}{
		{"500 scrapers at once", 100, true, manyScrapers, 0},
		{"200 readers of one byte a second", 5000, false, slowReaders, 0},
		{"200 scrapers that leave in the middle", 5000, false, scrapersThatLeave, 0},
		{"10,000 idle connections", 10, false, idleConnections, 10_000 * 2 << 10},
		{"200 clients with slow headers", 10, false, slowHeaders, 0},
		{"200 clients with slow bodies", 10, false, slowBodies, 0},
		{"20 clients with 10 MB of headers", 10, false, hugeHeaders, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !c.alone {
				t.Parallel()
			}
			e := startReady(t, c.pods)
			before := settled(t, e)
			c.load(t, e, before)
			backTo(t, e, before, c.kept)
		})
	}
}

// manyScrapers has each of 500 scrapers scrape over and over on a connection of its own. Each answer must be whole and
// have the samples of all containers.
func manyScrapers(t *testing.T, e *exporter.Exporter, _ figures) {
	const scrapers, containers = 500, 200
	length := 10 * time.Second
	if *long {
		length = time.Minute
	}
	end := time.Now().Add(length)
	ctx := within(t, length+30*time.Second)
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: scrapers}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var scrapes, wrong atomic.Int64
	var all sync.WaitGroup
	for i := range scrapers {
		all.Go(func() {
			for time.Now().Before(end) {
				if err := scrape(ctx, client, e.URL, i%10 != 0, containers); err != nil {
					if wrong.Add(1) <= 5 {
						t.Errorf("scraper %d: %v", i, err)
					}
				}
				scrapes.Add(1)
			}
		})
	}
	all.Wait()
	t.Logf("%d scrapes by %d scrapers in %s, %d wrong", scrapes.Load(), scrapers, length, wrong.Load())
	if scrapes.Load() < 2*scrapers {
		t.Errorf("%d scrapes in %s are not even two of each scraper", scrapes.Load(), length)
	}
}

// scrape is one scrape; it must have this many samples of CPU.
func scrape(ctx context.Context, client *http.Client, url string, compressed bool, containers int) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept-Encoding", "identity")
	if compressed {
		request.Header.Set("Accept-Encoding", "gzip")
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body := io.Reader(response.Body)
	if compressed {
		if body, err = gzip.NewReader(response.Body); err != nil {
			return err
		}
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	io.Copy(io.Discard, response.Body)
	if n := strings.Count(string(text), "\nkube_metrics_server_pod_cpu{"); response.StatusCode != 200 ||
		n != containers {
		return fmt.Errorf("status %d and %d samples", response.StatusCode, n)
	}
	return nil
}

// slowReaders ask for a page and then take one byte a second of it. The exporter has to cut them off, while they are
// still reading, and must not keep a copy of the page for each of them in the meantime.
func slowReaders(t *testing.T, e *exporter.Exporter, before figures) {
	const readers = 200
	page, err := e.ScrapePlain(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 3*time.Minute)
	for i := range readers {
		conn, err := slowConnection(e)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		encoding := []string{"gzip", "identity"}[i%2]
		fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept-Encoding: "+
			"%s\r\nX-Prometheus-Scrape-Timeout-Seconds: 1\r\n\r\n", encoding)
		go func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for one := make([]byte, 1); ; {
				if _, err := conn.Read(one); err != nil {
					return
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	var during figures
	eventually(t, 25*time.Second, func(ctx context.Context) (err error) {
		if during, err = measure(ctx, e); err == nil && during.goroutines < before.goroutines+readers/2 {
			err = fmt.Errorf("not all of the readers of plain text wait: %s", during)
		}
		return err
	})
	t.Logf("with %d readers of a page of %.1f MiB: %s", readers, float64(len(page.Text))/(1<<20), during)
	if more := during.memory - before.memory; more > readers/2*int64(len(page.Text))/4 {
		t.Errorf("%d bytes more for %d readers of a page of %d bytes", more, readers, len(page.Text))
	}
}

// scrapersThatLeave close their connections when they have read the beginning of the page.
func scrapersThatLeave(t *testing.T, e *exporter.Exporter, _ figures) {
	for i := range 200 {
		conn, err := slowConnection(e)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: %s\r\n\r\n",
			[]string{"gzip", "identity"}[i%2])
		if _, err := io.ReadFull(conn, make([]byte, 300)); err != nil {
			t.Errorf("scraper %d: %v", i, err)
		}
		if i%4 < 2 {
			conn.SetLinger(0) // a reset in place of an orderly end
		}
		conn.Close()
	}
	if log := e.Log(); strings.Contains(log, "level=WARN") || strings.Contains(log, "level=ERROR") {
		t.Errorf("the log makes something of scrapers that leave:\n%s", log)
	}
}

// idleConnections opens 10,000 connections, uses every second of them once, and leaves them open. Scrapes go on being
// answered. Those that were never used are closed by the exporter soon, the others after its idle timeout.
func idleConnections(t *testing.T, e *exporter.Exporter, before figures) {
	const connections = 10_000
	var unused, used []net.Conn
	defer func() {
		for _, conn := range append(unused, used...) {
			conn.Close()
		}
	}()
	ok := make([]byte, 512)
	for i := range connections {
		conn, err := net.Dial("tcp", address(e))
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if i%2 == 0 {
			unused = append(unused, conn)
			continue
		}
		used = append(used, conn)
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(conn, "GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
		if n, err := conn.Read(ok); err != nil || !strings.HasPrefix(string(ok[:n]), "HTTP/1.1 200 OK\r\n") {
			t.Fatalf("connection %d: %v, %q", i, err, ok[:n])
		}
	}
	during, err := measure(within(t, 10*time.Second), e)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("with up to %d idle connections: %s", connections, during)
	const each = 40 << 10
	if more := during.memory - before.memory; more > int64(during.files-before.files)*each {
		t.Errorf("%d bytes more for %d connections", more, during.files-before.files)
	}
	closedByExporter(t, unused, 30*time.Second)
	if *long {
		closedByExporter(t, used, 6*time.Minute)
	}
}

// closedByExporter fails the test if one of the connections is still open after this time.
func closedByExporter(t *testing.T, connections []net.Conn, limit time.Duration) {
	t.Helper()
	deadline := time.Now().Add(limit)
	open := 0
	for _, conn := range connections {
		conn.SetReadDeadline(deadline)
		// What was answered before, if anything, is not of interest.
		_, err := io.Copy(io.Discard, conn)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			open++
		}
	}
	if open > 0 {
		t.Errorf("%d of %d connections are open after %s", open, len(connections), limit)
	}
}

// slowHeaders sends a request's header a byte a second. The exporter must not wait for all of it.
func slowHeaders(t *testing.T, e *exporter.Exporter, _ figures) {
	trickle(t, e, "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ")
}

// slowBodies announces a body, which nothing here takes, and sends it a byte a second.
func slowBodies(t *testing.T, e *exporter.Exporter, _ figures) {
	trickle(t, e, "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
}

// trickle begins requests like this on 200 connections and goes on with a byte a second until the exporter closes them.
func trickle(t *testing.T, e *exporter.Exporter, begin string) {
	var connections []net.Conn
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for range 200 {
		conn, err := net.Dial("tcp", address(e))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		io.WriteString(conn, begin)
		connections = append(connections, conn)
		go func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
				if _, err := io.WriteString(conn, "x"); err != nil {
					return
				}
			}
		}()
	}
	closedByExporter(t, connections, 25*time.Second)
}

// hugeHeaders sends 10 MB of headers at once: as one header, as many, and as a path. They are refused unread.
func hugeHeaders(t *testing.T, e *exporter.Exporter, before figures) {
	const size = 10_000_000
	requests := []string{
		"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Huge: " + strings.Repeat("x", size) + "\r\n\r\n",
		"GET /metrics HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Huge: x\r\n", size/11) + "\r\n",
		"GET /" + strings.Repeat("x", size) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: " + strings.Repeat("gzip;q=0.5,", size/11) +
			"identity\r\n\r\n",
	}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			conn, err := net.Dial("tcp", address(e))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			answered := make(chan error, 1)
			go func() {
				response, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err == nil && response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
					err = fmt.Errorf("status %d", response.StatusCode)
				}
				answered <- err
			}()
			io.WriteString(conn, requests[i%len(requests)]) // fails when the exporter has had enough
			if err := <-answered; err != nil {
				t.Errorf("request %d: %v", i%len(requests), err)
			}
		})
	}
	all.Wait()
	memory, err := e.Memory()
	if err != nil {
		t.Fatal(err)
	}
	if more := memory.Peak - before.memory; more > 20<<20 {
		t.Errorf("%d bytes more for requests of %d bytes", more, size)
	}
}
