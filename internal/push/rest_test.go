package push

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"metrics-server-prom/internal/remotewrite"
	"metrics-server-prom/internal/selfmetrics"
)

// answering is a receiver that gives these answers, one after the other, and takes everything after them.
type answering struct {
	start time.Time
	times []time.Duration // of its requests
	next  []http.Response
}

func (a *answering) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Body.Close()
	a.times = append(a.times, time.Since(a.start))
	answer := http.Response{StatusCode: http.StatusNoContent}
	if len(a.next) > 0 {
		answer, a.next = a.next[0], a.next[1:]
	}
	answer.Body, answer.Request = io.NopCloser(strings.NewReader("")), r
	return &answer, nil
}

// TestRetryAfterIsForLaterPushesToo finds when requests are made by a pusher with an interval of 30 s.
func TestRetryAfterIsForLaterPushesToo(t *testing.T) {
	after := func(value string) http.Response {
		return http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {value}}}
	}
	for _, test := range []struct {
		name    string
		answers []http.Response
		want    []time.Duration
	}{
		{"within the same push", []http.Response{after("20")}, []time.Duration{30 * time.Second, 50 * time.Second}},
		{"into the next push", []http.Response{after("45")}, []time.Duration{30 * time.Second, 75 * time.Second}},
		{"over two pushes", []http.Response{after("100")}, []time.Duration{30 * time.Second, 130 * time.Second}},
		{"for ever, which is five minutes", []http.Response{after("2000000000")},
			[]time.Duration{30 * time.Second, 330 * time.Second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.want[len(test.want)-1]+time.Second)
				defer cancel()
				to := &answering{start: time.Now(), next: test.answers}
				p := Pusher{URL: "http://receiver.invalid", Format: RemoteWrite, Interval: 30 * time.Second,
					client: &client{RoundTripper: to}}
				var registry selfmetrics.Registry
				p.Register(registry.Scope(""))
				target := &remotewrite.Target{}
				p.Series = func(ctx context.Context, o *Out, _ bool) error {
					o.Add(target, "x", nil, 1, time.Now().UnixMilli())
					return o.Flush(ctx)
				}
				p.Ended = func(context.Context, *Out) error { return nil }
				p.Run(ctx)
				if !slices.Equal(to.times[:len(test.want)], test.want) {
					t.Errorf("requests at %v, want %v", to.times, test.want)
				}
			})
		})
	}
}

// TestEachKindOfFailureIsLoggedWhenItBegins has a receiver that is away and then refuses, which has another cause.
func TestEachKindOfFailureIsLoggedWhenItBegins(t *testing.T) {
	statuses := []int{503, 503, 400, 400, 204, 204, 400}
	url := receiver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(statuses[0])
		statuses = statuses[1:]
	})
	_, log := pushes(t, len(statuses), &Pusher{URL: url})
	var told []string
	for line := range strings.Lines(log) {
		for _, word := range []string{"answered 503", "answered 400", "works again"} {
			if strings.Contains(line, word) {
				told = append(told, word)
			}
		}
	}
	if want := []string{"answered 503", "answered 400", "works again", "answered 400"}; !slices.Equal(told, want) {
		t.Errorf("%q, want %q; log:\n%s", told, want, log)
	}
}
