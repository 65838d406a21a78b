package clusters

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/exporter"
)

// TestScrapesTakeNoLongerWhileAClusterIsBroken takes turns: scrapes of all clusters, and of one that works, without a
// fault and with one. None may wait for the broken cluster. What else differs is a measurement, in which other load on
// this machine has its share: a goal of the long form.
func TestScrapesTakeNoLongerWhileAClusterIsBroken(t *testing.T) {
	eu, us, bad := newCluster(t, 1, 300), newCluster(t, 2, 300), newCluster(t, 3, 300)
	file := filepath.Join(t.TempDir(), "config")
	write(t, file, map[string]*cluster{"eu": eu, "us": us, "bad": bad})
	e := start(t, "--kubeconfig="+file, "--context=*")
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		page, err := e.Scrape(ctx)
		if err == nil && len(shown(page)) != 3 {
			err = errors.New("a cluster is missing")
		}
		return err
	})
	answers := func(err func() error) func() {
		return func() {
			bad.Intercept(func(w http.ResponseWriter, r *http.Request, _ http.Handler) { standin.WriteError(w, r, err()) })
			bad.CloseWatches()
		}
	}
	behaves := func(change func(*standin.Behavior)) func() {
		return func() {
			lie := standin.Behavior{}
			change(&lie)
			bad.SetBehavior(lie)
		}
	}
	took := map[string]*[2][]time.Duration{"/metrics": {}, "/metrics?cluster=eu": {}}
	turn := time.Second
	if *long {
		turn = 5 * time.Second
	}
	scrape := func(broken int) {
		for end := time.Now().Add(turn); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			for path, times := range took {
				d, err := fetch(t.Context(), e, path)
				if err != nil {
					t.Fatal(err)
				}
				times[broken] = append(times[broken], d)
			}
		}
	}
	for _, cause := range []func(){
		bad.Kill,
		behaves(func(l *standin.Behavior) { l.HangConnections = true }),
		behaves(func(l *standin.Behavior) { l.HangWatches = true }),
		answers(func() error { return apierrors.NewInternalError(errors.New("etcdserver: no leader")) }),
		answers(func() error { return apierrors.NewTooManyRequests("too many requests", 1) }),
		answers(func() error { return apierrors.NewUnauthorized("who are you") }),
	} {
		scrape(0)
		cause()
		scrape(1)
		bad.SetBehavior(standin.Behavior{})
		bad.Intercept(nil)
		if err := bad.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	for path, times := range took {
		for i := range times {
			slices.Sort(times[i])
		}
		p99 := func(all []time.Duration) time.Duration { return all[len(all)*99/100] }
		was, is := p99(times[0]), p99(times[1])
		t.Logf("%s: p99 of %d scrapes %s, of %d while one cluster is broken %s", path, len(times[0]), was, len(times[1]), is)
		if *long && is > was*6/5+2*time.Millisecond { // less is chance
			t.Errorf("%s: p99 is %s while one cluster is broken, %s otherwise", path, is, was)
		}
	}
}

// fetch gets a page, within a time in which nothing that is asked of a cluster that hangs is given up.
func fetch(ctx context.Context, e *exporter.Exporter, path string) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, resolution, fmt.Errorf("%s is not answered within %s", path, resolution))
	defer cancel()
	began := time.Now()
	status, _, err := e.Get(ctx, path)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s is answered with %d", path, status)
	}
	return time.Since(began), err
}
