package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// scrape measures a scrape of an unchanged page, and counts the requests that reach the API server meanwhile. The long
// refresh interval keeps the background refresh out of the count; what it leaves is the question for the source's next
// tick, around the tick only, so the scrapes begin right after one.
func (r *real) scrape(ctx context.Context) ([]result, error) {
	e, _, _, err := r.launch(ctx, exporter.Options{Args: []string{"--refresh-interval=10m", "--max-age=1h"}})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	if err := awaitPeriod(ctx, r.plane, 3); err != nil {
		return nil, err
	}

	before, err := r.requests(ctx, e)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	durations := make([]time.Duration, *scrapes)
	for i := range durations {
		page, err := e.Fetch(ctx)
		if err != nil {
			return nil, fmt.Errorf("scrape %d: %w", i, err)
		}
		durations[i] = page.Took
	}
	progress("%d scrapes took %s", *scrapes, since(begin))
	after, err := r.requests(ctx, e)
	if err != nil {
		return nil, err
	}
	page, err := e.Scrape(ctx)
	if err != nil {
		return nil, err
	}
	middle, slow := median(durations), quantile(durations, 0.99)
	return []result{
		{fmt.Sprintf("gzip scrape of an unchanged page, %.1f MB of text in %.2f MB: median",
			float64(len(page.Text))/1e6, float64(len(page.Wire))/1e6), "< 20 ms",
			fmt.Sprintf("%.1f ms (p99 %.1f ms)", 1000*middle.Seconds(), 1000*slow.Seconds()),
			middle < 20*time.Millisecond},
		{fmt.Sprintf("API requests during %d scrapes, counted by the API server", *scrapes), "0",
			fmt.Sprint(after.server - before.server), after.server == before.server},
		{"the same, counted by the exporter", "0", fmt.Sprint(after.self - before.self), after.self == before.self},
	}, nil
}

// requestCount is the exporter's requests so far, by two counts.
type requestCount struct{ server, self int }

func (r *real) requests(ctx context.Context, e *exporter.Exporter) (requestCount, error) {
	seen, err := r.plane.Requests(namespace, account)
	if err != nil {
		return requestCount{}, err
	}
	page, err := e.Scrape(ctx)
	if err != nil {
		return requestCount{}, err
	}
	self, series := page.Sum("metrics_server_prom_api_requests_total", nil)
	if len(seen) == 0 || series == 0 || self == 0 {
		return requestCount{}, fmt.Errorf("the API server has counted %d requests, the exporter %v in %d series: "+
			"one of the counts does not work", len(seen), self, series)
	}
	return requestCount{len(seen), int(self)}, nil
}

// awaitPeriod returns after so many new readings of metrics-server, by when the exporter knows their period, and not
// sooner than two seconds after the last, when it has dealt with that.
func awaitPeriod(ctx context.Context, plane *controlplane.ControlPlane, ticks int) error {
	for range ticks {
		if err := awaitNewUsage(ctx, plane); err != nil {
			return err
		}
	}
	select {
	case <-time.After(2 * time.Second): // the time itself is what is wanted
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// awaitNewUsage returns when metrics-server has a new reading.
func awaitNewUsage(ctx context.Context, plane *controlplane.ControlPlane) error {
	old, err := usageOf(ctx, plane)
	if err != nil {
		return err
	}
	return process.Await(ctx, 100*time.Millisecond, func(ctx context.Context) error {
		now, err := usageOf(ctx, plane)
		if err != nil || now == old {
			return errors.Join(err, errors.New("no new reading"))
		}
		return nil
	})
}

// values checks that a page has exactly what the API has.
func (r *real) values(ctx context.Context, e *exporter.Exporter) (result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*r.plane.MetricResolution(), errors.New("not within three readings"))
	defer cancel()
	page, err := check.Equal(ctx, r.plane, e, check.Scope{})
	if err != nil {
		return result{}, err
	}
	right := len(check.Served(page))
	return result{"samples that are bit for bit what the API says", fmt.Sprint(r.samples),
		fmt.Sprintf("%d of %d", right, r.samples), right == r.samples}, nil
}
