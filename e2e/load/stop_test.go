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
	"syscall"
	"testing"
	"time"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/exporter"
)

// TestStopCutsNoScrape has 100 scrapers in the middle of a page that does not fit into the buffers between them and the
// exporter, and then ends the exporter. From then on they read as fast as scrapers do: the time that the exporter has
// to end must not be spent on a reader of 4 KiB at a time.
func TestStopCutsNoScrape(t *testing.T) {
	t.Parallel()
	const scrapers = 100
	e := startReady(t, 5000)
	var (
		begun, done sync.WaitGroup
		stopped     = make(chan struct{})
		failures    = make(chan error, scrapers)
	)
	for i := range scrapers {
		begun.Add(1)
		done.Go(func() {
			failures <- func() error {
				conn, err := slowConnection(e)
				if err != nil {
					begun.Done()
					return err
				}
				defer conn.Close()
				encoding := []string{"gzip", "identity"}[i%2]
				fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: %s\r\n\r\n", encoding)
				conn.SetReadDeadline(time.Now().Add(20 * time.Second))
				answer := bufio.NewReader(conn)
				response, err := http.ReadResponse(answer, nil)
				begun.Done() // the rest is read once the exporter has been told to stop
				if err != nil {
					return err
				}
				<-stopped
				if err := hurry(conn); err != nil {
					return err
				}
				return wholePage(response)
			}()
		})
	}
	begun.Wait()
	ended := make(chan error, 1)
	go func() {
		code, took, err := e.Terminate()
		if err == nil && (code != 0 || took > 5*time.Second) {
			err = fmt.Errorf("exit code %d after %s", code, took)
		}
		ended <- err
	}()
	// It takes connections for a moment more; when it takes none it waits for the scrapes only.
	for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", address(e))
		if err != nil {
			break
		}
		conn.Close()
		if time.Since(begun) > 5*time.Second {
			t.Fatal("it takes connections 5 s after SIGTERM")
		}
	}
	close(stopped)
	done.Wait()
	for range scrapers {
		if err := <-failures; err != nil {
			t.Errorf("a scrape was cut: %v", err)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// slowConnection is a connection to the exporter that takes little before somebody reads.
func slowConnection(e *exporter.Exporter) (*net.TCPConn, error) {
	dialer := net.Dialer{Control: smallReceiveBuffer}
	conn, err := dialer.Dial("tcp", address(e))
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// hurry gives a slow connection as much room as its handshake allows, of which the exporter learns with the next byte
// that is read.
func hurry(conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = errors.Join(syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1<<20),
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_WINDOW_CLAMP, 64<<10-1))
	})
	return errors.Join(err, failed)
}

// wholePage reads an answer of /metrics to its end, and compares that with what the answer said of itself.
func wholePage(response *http.Response) error {
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", len(body), response.ContentLength, err)
	}
	text := string(body)
	if response.Header.Get("Content-Encoding") == "gzip" {
		member, err := gzip.NewReader(strings.NewReader(text))
		if err != nil {
			return err
		}
		plain, err := io.ReadAll(member)
		if err != nil {
			return err
		}
		text = string(plain)
	}
	if response.StatusCode != http.StatusOK || int64(len(body)) != response.ContentLength ||
		!strings.HasSuffix(text, "\n") {
		return fmt.Errorf("status %d, %d bytes of %d", response.StatusCode, len(body), response.ContentLength)
	}
	return nil
}

// TestStopWhileTheAPIServerHangs ends the exporter while it waits for the API server.
func TestStopWhileTheAPIServerHangs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		// hang has the server hang for an exporter that is running or about to, and returns when the exporter waits.
		hang    func(t *testing.T, server *standin.Server)
		options standin.Options
		ready   bool // whether the exporter must have data before that
	}{
		{"during the first sync: no answer", func(t *testing.T, server *standin.Server) {}, standin.Options{Behavior: standin.Behavior{HangConnections: true}}, false},
		{"during the first sync: a watch-list that never ends", func(t *testing.T, server *standin.Server) {
			eventually(t, 10*time.Second, func(context.Context) error {
				if server.Watches() == 0 {
					return errors.New("there is no watch")
				}
				return nil
			})
		}, standin.Options{Behavior: standin.Behavior{NoInitialEventsEnd: true}}, false},
		{"during a refresh", func(t *testing.T, server *standin.Server) {
			waits := make(chan struct{}, 100)
			server.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if !strings.HasPrefix(r.URL.Path, "/apis/metrics.k8s.io/") {
					next.ServeHTTP(w, r)
					return
				}
				waits <- struct{}{}
				<-r.Context().Done()
			})
			select {
			case <-waits:
			case <-time.After(30 * time.Second):
				t.Fatal("no refresh within 30 s")
			}
		}, standin.Options{Resolution: 5 * time.Second}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.options.Pods = 100
			server := simulate(t, c.options)
			e := start(t, exporter.Options{Args: []string{"--kubeconfig=" + kubeconfig(t, server)}})
			if c.ready {
				if err := e.AwaitReady(within(t, 20*time.Second)); err != nil {
					t.Fatal(err)
				}
			}
			c.hang(t, server)
			var scrape chan int
			if !c.ready {
				// A scrape that waits is told so before the end.
				scrape = make(chan int, 1)
				conn, err := net.Dial("tcp", address(e))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: "+
					"60\r\n\r\n")
				go func() {
					response, err := http.ReadResponse(bufio.NewReader(conn), nil)
					if err != nil {
						scrape <- 0
						return
					}
					scrape <- response.StatusCode
				}()
			}
			code, took, err := e.Terminate()
			if err != nil || code != 0 || took > 5*time.Second {
				t.Errorf("exit code %d after %s, error %v; want 0 within 5 s", code, took, err)
			}
			if scrape != nil {
				if status := <-scrape; status != http.StatusServiceUnavailable {
					t.Errorf("the scrape that waited was answered with status %d", status)
				}
			}
		})
	}
}
