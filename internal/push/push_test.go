package push

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// ample is an interval, and so a time for one push, that no push to a receiver that answers comes near.
const ample = time.Minute

// pushed runs a pusher against a receiver for n pushes, each begun when the one before has ended.
func pushed(t *testing.T, receive http.HandlerFunc, n int, interval time.Duration, page func(context.Context, io.Writer) error) (worked []bool, log string) {
	t.Helper()
	receiver := httptest.NewServer(receive)
	defer receiver.Close()
	var mu sync.Mutex
	var out bytes.Buffer
	former := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(writer(func(b []byte) { mu.Lock(); out.Write(b); mu.Unlock() }), nil)))
	defer slog.SetDefault(former)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := Pusher{URL: strings.Replace(receiver.URL, "http://", "http://user:MARKED-PASSWORD@", 1) + "/import?key=MARKED-KEY", Interval: interval,
		ExtraLabels: `cluster="x"`, Headers: []string{"Authorization: Bearer MARKED-TOKEN", "X-Scope: y"}, Page: page}
	tick := make(chan time.Time, 1)
	tick <- time.Time{}
	p.Done = func(ok bool) {
		if worked = append(worked, ok); len(worked) == n {
			cancel()
		} else {
			tick <- time.Time{}
		}
	}
	p.run(ctx, tick)
	mu.Lock()
	defer mu.Unlock()
	return worked, out.String()
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

func onePage(_ context.Context, w io.Writer) error {
	_, err := io.WriteString(w, "# TYPE a gauge\na{b=\"c\"} 1\ngo_threads 7\nd 2\nprocess_open_fds 9\n")
	return err
}

func TestPushesGzippedTextWithLabelsAndHeadersButNotTheProcess(t *testing.T) {
	var got, method, token, scope string
	worked, _ := pushed(t, func(_ http.ResponseWriter, r *http.Request) {
		zip, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		text, _ := io.ReadAll(zip)
		got, method, token, scope = string(text), r.Method, r.Header.Get("Authorization"), r.Header.Get("X-Scope")
	}, 1, ample, onePage)
	if want := "# TYPE a gauge\na{cluster=\"x\",b=\"c\"} 1\nd{cluster=\"x\"} 2\n"; got != want || method != http.MethodPost || token != "Bearer MARKED-TOKEN" || scope != "y" || !worked[0] {
		t.Errorf("%s %q, Authorization %q, X-Scope %q, worked %v; want POST %q", method, got, token, scope, worked, want)
	}
}

func TestFailuresAreLoggedOnceAndWithoutSecrets(t *testing.T) {
	n := 0
	worked, log := pushed(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n <= 3 {
			http.Error(w, "you sent "+r.Header.Get("Authorization")+" to "+r.URL.String(), http.StatusForbidden)
		}
	}, 5, ample, onePage)
	if want := []bool{false, false, false, true, true}; !slices.Equal(worked, want) {
		t.Errorf("worked %v, want %v", worked, want)
	}
	if lines := strings.Count(log, "\n"); lines != 2 || !strings.Contains(log, "403") || !strings.Contains(log, "works again") {
		t.Errorf("%d lines, want one at the start and one at the end:\n%s", lines, log)
	}
	if strings.Contains(log, "MARKED") {
		t.Errorf("a secret is in the log:\n%s", log)
	}
}

func TestNothingIsPushedWhereThereIsNothing(t *testing.T) {
	calls := 0
	worked, _ := pushed(t, func(http.ResponseWriter, *http.Request) { calls++ }, 2, ample, func(_ context.Context, w io.Writer) error {
		io.WriteString(w, "half a page")
		return errors.New("no data yet")
	})
	if calls != 0 || worked[0] || worked[1] {
		t.Errorf("%d pushes, worked %v", calls, worked)
	}
}

func TestPushesAtTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start, pushes := time.Now(), 0
		p := Pusher{URL: "http://receiver.invalid", Interval: 30 * time.Second,
			Page: func(context.Context, io.Writer) error { return errors.New("no data yet") }}
		p.Done = func(bool) {
			pushes++
			if since, want := time.Since(start), time.Duration(pushes)*p.Interval; since != want {
				t.Errorf("push %d after %s, want %s", pushes, since, want)
			}
			if pushes == 3 {
				cancel()
			}
		}
		p.Run(ctx)
	})
}

func TestReceiverThatHangsIsCutOff(t *testing.T) {
	worked, log := pushed(t, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}, 2, 50*time.Millisecond, onePage)
	if worked[0] || worked[1] || !strings.Contains(log, "did not answer") {
		t.Errorf("worked %v:\n%s", worked, log)
	}
}

func TestValidURL(t *testing.T) {
	for s, want := range map[string]bool{"http://h/p": true, "https://u:p@h:1/p?q": true, "h:9091": false, "": false, "ftp://h": false, "http://": false, "http://h\x00": false} {
		if ValidURL(s) != want {
			t.Errorf("ValidURL(%q) = %t", s, !want)
		}
	}
}
