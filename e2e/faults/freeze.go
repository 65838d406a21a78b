package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"

	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// Freeze is a way in which the exporter is not run for a while, as on a suspended machine or where CPU is given to
// requests only. A scrape ends each freeze; its answer must have been read after that, or be a 503.
type Freeze struct {
	// Resolution is the source's, and the exporter's refresh interval.
	Resolution time.Duration
	// When returns at the moment at which the exporter has to be frozen for the first time.
	When   func(ctx context.Context, h *Harness) error
	Frozen time.Duration
	// Rounds is how often it is frozen, and Alive how long it lives in between after it has answered.
	Rounds int
	Alive  time.Duration
	// Back is how far its wall clock is set back while it is frozen for the first time; in whole seconds.
	Back time.Duration
	// Watched is how long pages are checked afterwards. They must be as current as ever.
	Watched time.Duration
}

// answerTime is how long a scrape may take that ends a freeze. The exporter waits 10 s where the scraper says nothing.
const answerTime = 20 * time.Second

// Run freezes and thaws an exporter and returns what was wrong with its pages, and how many of the answers to the
// scrapes that thawed it were pages.
func (f Freeze) Run(ctx context.Context, h *Harness) (pages int, err error) {
	if err := f.When(ctx, h); err != nil {
		return 0, err
	}
	for round := range f.Rounds {
		if err := h.Exporter.Freeze(); err != nil {
			return 0, err
		}
		if round == 0 && f.Back != 0 {
			if err := h.shiftClock(f.Back); err != nil {
				return 0, err
			}
		}
		h.change(ctx, 5)
		if err := sleep(ctx, f.Frozen); err != nil {
			return 0, err
		}
		page, err := h.thaw(ctx)
		if err != nil {
			return 0, fmt.Errorf("round %d: %w", round+1, err)
		}
		if page {
			pages++
		}
		if round < f.Rounds-1 {
			if err := sleep(ctx, f.Alive); err != nil {
				return 0, err
			}
		}
	}
	err = f.watch(ctx, h)
	_, _, _, wrong := h.checker.verdict()
	return pages, errors.Join(err, h.alive(), problems(wrong))
}

func problems(wrong []string) error {
	if len(wrong) == 0 {
		return nil
	}
	return errors.New(strings.Join(wrong, "\n"))
}

// thaw sends a scrape to a frozen exporter, lets it run when the scrape is on its way, and compares the answer with
// what the API has said since.
func (h *Harness) thaw(ctx context.Context) (isPage bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, fmt.Errorf("no answer within %s of the thaw", answerTime))
	defer cancel()
	var (
		once   sync.Once
		thawed time.Time
	)
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) {
		once.Do(func() { thawed, err = time.Now(), h.Exporter.Thaw() })
	}})
	page, fetched := h.Exporter.Fetch(traced)
	switch {
	case err != nil:
		return false, err
	case page != nil && page.Status == 503:
		return false, nil
	case fetched != nil:
		return false, fetched
	}
	return true, h.judge(ctx, page, thawed, leniency{})
}

// judge compares a page that was asked for at a moment with what the API has said since, and as long before as is
// allowed.
func (h *Harness) judge(ctx context.Context, page *exporter.Page, asked time.Time, allowed leniency) error {
	if err := page.Parse(); err != nil {
		return err
	}
	ended := time.Now()
	if h.history.after(ended, ctx.Done()); ctx.Err() != nil {
		return context.Cause(ctx)
	}
	h.checker.mu.Lock()
	defer h.checker.mu.Unlock()
	h.checker.judge(page, asked, ended, allowed)
	return nil
}

// watch checks page after page. There must be one from the first refresh on, and it must keep up with the API.
func (f Freeze) watch(ctx context.Context, h *Harness) error {
	regular := f.Resolution + 6*time.Second // as the constant behind
	// Pages that were right when the exporter was thawed may have lacked what has come since.
	began := time.Now()
	for end := began.Add(f.Watched); time.Now().Before(end); {
		asked := time.Now()
		page, err := h.Exporter.Fetch(ctx)
		switch {
		case err == nil:
			err = h.judge(ctx, page, asked, leniency{values: regular, labels: regular})
		case page != nil && page.Status == 503 && time.Since(began) < regular:
			err = nil
		}
		if err != nil {
			return fmt.Errorf("%s after the thaw: %w", time.Since(began).Round(time.Second), err)
		}
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// shiftClock sets the frozen exporter's clock back. A thread that was stopped at a bad place is let run on for
// a moment.
func (h *Harness) shiftClock(back time.Duration) error {
	for attempt := 0; ; attempt++ {
		err := h.Exporter.ShiftClock(back)
		if err == nil || errors.Is(err, process.ErrClock) || attempt == 20 {
			return err
		}
		if err := errors.Join(h.Exporter.Thaw(), h.Exporter.Freeze()); err != nil {
			return err
		}
	}
}

// afterTheFirstTick returns 4 s after the first tick of the source that the exporter can see.
func afterTheFirstTick(ctx context.Context, h *Harness) error {
	return sleep(ctx, time.Until(h.API.NextTick())+4*time.Second)
}

// knowsThePeriod returns when the exporter has found out how often the source has new values.
func knowsThePeriod(ctx context.Context, h *Harness) error {
	return within(ctx, 5*time.Minute, "the exporter knows the source's period", func(ctx context.Context) error {
		return await(ctx, func(ctx context.Context) error {
			page, err := h.Exporter.Scrape(ctx)
			if err != nil {
				return err
			}
			if period, _ := page.Sum("metrics_server_prom_source_period_seconds", nil); period == 0 {
				return errors.New("it knows none")
			}
			return nil
		})
	})
}

// sleep lets time pass where the time itself is what is wanted.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
