package push

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"metrics-server-prom/internal/selfmetrics"
)

// asked is the answer of POST /-/push.
func asked(p *Pusher) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/-/push", nil))
	return w
}

func TestPushesThatAreAskedFor(t *testing.T) {
	answers := func(status int) func(int, http.ResponseWriter, *http.Request) {
		return func(_ int, w http.ResponseWriter, _ *http.Request) { http.Error(w, "MARKED-SECRET is wrong", status) }
	}
	for name, c := range map[string]struct {
		prepare func(p *Pusher)
		answer  func(int, http.ResponseWriter, *http.Request)
		status  int
		says    string
		counted string
	}{
		"remote write": {nil, nil, 200, "pushed 3 samples\nWhat this program counts itself, such as ", "_samples_total ok 3, es_total ok 1"},
		"text": {func(p *Pusher) { p.Format = Text }, nil, 200, "pushed 3 samples\nWhat this program counts itself, such as ",
			"es_total ok 1"},
		"a receiver that refuses": {nil, answers(400), 502,
			"cannot push to http://receiver: the receiver answered 400 Bad Request: … is wrong; check --push.url, ",
			"_samples_total refused 3, es_total error 1"},
		"a receiver that refuses text": {func(p *Pusher) { p.Format = Text }, answers(503), 502,
			"cannot push to http://receiver: the receiver answered 503 Service Unavailable: … is wrong; check --push.url, ",
			"es_total error 1"},
		"no data": {func(p *Pusher) {
			p.Series = func(context.Context, *Out, bool) error { return errors.New("no data yet") }
		},
			nil, 503, "cannot push to http://receiver: no data yet\n", "es_total error 1"},
		"no page": {func(p *Pusher) {
			p.Format, p.Page = Text, func(context.Context, io.Writer, bool) error { return errors.New("no data yet") }
		}, nil, 503, "cannot push to http://receiver: there is no page to push: no data yet\n", "es_total error 1"},
		"nowhere to push to": {func(p *Pusher) { p.URL = "" }, nil, 404,
			"there is nowhere to push to; set --push.url (PUSH_URL)\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := remote{answer: c.answer}
				m.start(t)
				p, registry := writer(3)
				series := p.Series
				p.Series = func(ctx context.Context, o *Out, once bool) error {
					if !once {
						t.Error("it is not told that the push was asked for")
					}
					return series(ctx, o, once)
				}
				p.Page = func(ctx context.Context, w io.Writer, once bool) error {
					if !once {
						t.Error("it is not told that the push was asked for")
					}
					return onePage(ctx, w, once)
				}
				p.Headers = http.Header{"Authorization": {"Bearer MARKED-SECRET"}}
				if c.prepare != nil {
					c.prepare(p)
				}
				var w *httptest.ResponseRecorder
				log := logged(func() { w = asked(p) })
				says := w.Body.String()
				if w.Code != c.status || !strings.HasPrefix(says, c.says) || strings.Contains(says, "MARKED") {
					t.Errorf("%d %s, want %d %s", w.Code, says, c.status, c.says)
				}
				if got := counted(registry); got != c.counted || (log != "") != strings.Contains(got, "error") {
					t.Errorf("counted %s, want %s; log: %s", got, c.counted, log)
				}
			})
		})
	}
}

// TestOnePushAtATimeAndOneASecond is of those that are asked for: those at the interval have one of their own.
func TestOnePushAtATimeAndOneASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		m := remote{answer: func(n int, _ http.ResponseWriter, _ *http.Request) {
			if n <= 2 {
				<-answer
			}
		}}
		m.start(t)
		p, _ := writer(1)
		is := func(what string, w *httptest.ResponseRecorder, status int, says string) {
			t.Helper()
			after := map[bool]string{true: "1"}[status == 429]
			if w.Code != status || !strings.HasPrefix(w.Body.String(), says) || w.Header().Get("Retry-After") != after {
				t.Errorf("%s: %d %s, Retry-After %q", what, w.Code, w.Body, w.Header().Get("Retry-After"))
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		tick, ended := make(chan time.Time), make(chan struct{})
		p.Ended = func(context.Context, *Out) error { return nil }
		go func() { defer close(ended); p.run(ctx, tick) }()
		tick <- time.Time{}
		synctest.Wait()
		is("during a push at the interval", asked(p), 429, "a push is running\n")
		answer <- struct{}{}
		synctest.Wait()
		first := make(chan *httptest.ResponseRecorder)
		go func() { first <- asked(p) }()
		synctest.Wait()
		is("during another one", asked(p), 429, "a push is running\n")
		answer <- struct{}{}
		is("the first", <-first, 200, "pushed 1 samples\n")
		is("at once", asked(p), 429, "the last push that was asked for began less than a second ago\n")
		time.Sleep(time.Second)
		is("after a second", asked(p), 200, "pushed 1 samples\n")
		cancel()
		<-ended
	})
}

// TestTheEnd is what a receiver is told when the program ends.
func TestTheEnd(t *testing.T) {
	ended := func(p *Pusher, n int) {
		p.Ended = func(ctx context.Context, o *Out) error {
			for range n {
				o.Add(p.Target("j"), "a", nil, 1, at)
			}
			return nil
		}
	}
	hangs := func(n int, _ http.ResponseWriter, r *http.Request) {
		if n > 1 {
			<-r.Context().Done()
		}
	}
	for name, c := range map[string]struct {
		format, url string
		pushes      int
		answer      func(int, http.ResponseWriter, *http.Request)
		want        string // the requests
		takes       time.Duration
		says        string // the log
	}{
		"the markers of series that end": {RemoteWrite, "/api/v1/write", 1, nil, "POST 3, POST 2", 0, ""},
		"a Pushgateway's group goes":     {Text, "/metrics/job/x", 2, nil, "PUT, PUT, DELETE", 0, ""},
		"text stays":                     {Text, "/api/v1/import/prometheus", 1, nil, "POST", 0, ""},
		"nothing was pushed":             {RemoteWrite, "/api/v1/write", 0, nil, "", 0, ""},
		"no group was pushed":            {Text, "/metrics/job/x", 0, nil, "", 0, ""},
		"a receiver that hangs": {RemoteWrite, "/api/v1/write", 1, hangs, "POST 3, POST 2", goodbye,
			"cannot tell http://receiver that nothing more comes, so that the last values stay for a while: " +
				"the receiver did not answer within 5s"},
		"a Pushgateway that hangs": {Text, "/metrics/job/x", 1, hangs, "PUT, DELETE", goodbye, "within 5s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := remote{answer: c.answer}
				m.start(t)
				p, _ := writer(3)
				p.Format, p.URL, p.Page = c.format, "http://receiver"+c.url, onePage
				ended(p, 2)
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Duration(c.pushes)*p.Interval+time.Second, cancel)
				begun := time.Now()
				log := logged(func() { p.Run(ctx) })
				took := time.Since(begun) - time.Duration(c.pushes)*p.Interval - time.Second
				var requests []string
				for _, r := range m.requests() {
					what := r.method
					if c.format == RemoteWrite {
						what += " " + strconv.Itoa(r.series)
					}
					requests = append(requests, what)
				}
				if got := strings.Join(requests, ", "); got != c.want || took != c.takes || !strings.Contains(log, c.says) ||
					(c.says == "") != (log == "") {
					t.Errorf("%s after %s, log: %s", got, took, log)
				}
			})
		})
	}
}

// TestTheEndDoesNotWaitForAPush: that ends with the program.
func TestTheEndDoesNotWaitForAPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := remote{answer: func(n int, _ http.ResponseWriter, r *http.Request) {
			if n == 1 {
				<-r.Context().Done()
			}
		}}
		m.start(t)
		p, registry := writer(3)
		p.Ended = func(_ context.Context, o *Out) error { o.Add(p.Target("j"), "a", nil, 1, at); return nil }
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(p.Interval+time.Second, cancel)
		begun := time.Now()
		log := logged(func() { p.Run(ctx) })
		if took := time.Since(begun); took != p.Interval+time.Second || log != "" || len(m.requests()) != 2 {
			t.Errorf("took %s, log: %s", took, log)
		}
		if got := counted(registry); got != "_samples_total ok 1, _samples_total undelivered 3" {
			t.Error(got)
		}
	})
}

// TestWithoutAnIntervalNothingIsPushedUnasked, and nothing is taken away: what was asked for stays, as from a job.
func TestWithoutAnIntervalNothingIsPushedUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m remote
		m.start(t)
		p, _ := writer(3)
		p.Interval, p.Format, p.URL, p.Page = 0, Text, "http://receiver/metrics/job/x", onePage
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.Run(ctx) }()
		if w := asked(p); w.Code != 200 {
			t.Error(w.Body)
		}
		time.Sleep(24 * time.Hour)
		cancel()
		<-done
		if n := len(m.requests()); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestAPushgatewaysGroupIsReplaced: POST would add to it, and what is gone would stay there for ever.
func TestAPushgatewaysGroupIsReplaced(t *testing.T) {
	for path, want := range map[string]string{
		"/metrics/job/x":                            "PUT",
		"/metrics/job/x/instance/y":                 "PUT",
		"/metrics/job@base64/eA/path@base64/L3Zhcg": "PUT",
		"/gateway/metrics/job/x":                    "PUT",
		"/metrics/job/a%2Fb":                        "PUT",
		"/":                                         "POST",
		"/metrics":                                  "POST",
		"/metrics/job":                              "POST",
		"/metrics/job/":                             "POST",
		"/metrics/jobs/x":                           "POST",
		"/api/v1/import/prometheus":                 "POST",
		"/api/v1/import/prometheus/metrics/job/x":   "POST", // VictoriaMetrics, which adds the labels
		"/insert/0/prometheus/api/v1/import/prometheus/metrics/job/x": "POST",
	} {
		t.Run(path, func(t *testing.T) {
			var got, text string
			url := receiver(t, "HTTP/1.1", func(_ http.ResponseWriter, r *http.Request) {
				got = r.Method + " " + r.URL.EscapedPath()
				if plain, err := gzip.NewReader(r.Body); err == nil {
					all, _ := io.ReadAll(plain)
					text = string(all)
				}
			})
			ok, log := pushes(t, 1, &Pusher{URL: url + path})
			if !ok[0] || got != want+" "+path || !strings.Contains(text, "\nd 2\n") || log != "" {
				t.Errorf("%s, want %s; %s", got, want, log)
			}
		})
	}
}

// TestMetricsAreThereFromTheStart, so that a rate sees the first of each.
func TestMetricsAreThereFromTheStart(t *testing.T) {
	for format, want := range map[string]string{
		Text: "pushes_total error, pushes_total ok",
		RemoteWrite: "push_samples_total invalid, push_samples_total ok, push_samples_total refused, " +
			"push_samples_total undelivered, pushes_total error, pushes_total ok",
	} {
		var registry selfmetrics.Registry
		(&Pusher{Format: format}).Register(registry.Scope(""))
		var text strings.Builder
		registry.Write(&text)
		var got []string
		for line := range strings.Lines(text.String()) {
			if sample, found := strings.CutSuffix(line, "\"} 0\n"); found {
				got = append(got, strings.Replace(strings.TrimPrefix(sample, selfmetrics.Prefix), `{result="`, " ", 1))
			}
		}
		if got := strings.Join(got, ", "); got != want {
			t.Errorf("%s: %s", format, got)
		}
	}
}

// TestTheEndDoesNotWaitForAPushThatWasAskedFor has one wait for something to push for as long as its client does.
func TestTheEndDoesNotWaitForAPushThatWasAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m remote
		m.start(t)
		p, _ := writer(0)
		p.Ended = func(context.Context, *Out) error { return nil }
		p.Series = func(ctx context.Context, _ *Out, once bool) error {
			if once {
				<-ctx.Done()
			}
			return ctx.Err()
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { p.Run(ctx); close(ended) }()
		time.Sleep(p.Interval + time.Second)
		go p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/-/push", strings.NewReader("{}")))
		synctest.Wait()
		stop()
		<-ended
	})
}
