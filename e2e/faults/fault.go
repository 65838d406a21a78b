package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"metrics-server-prom/e2e/exporter"
)

// Fault is a row of the table.
type Fault struct {
	Name string
	// Cause brings the fault about and returns what takes its cause away.
	Cause func(ctx context.Context, h *Harness) (mend func(context.Context) error, err error)
	Short time.Duration // how long it lasts in the short form, from when it is seen
	Long  time.Duration // and in the long form; 0 is the same
	While Expect        // what is expected as long as it lasts
	// After is checked when all is right again; nil for nothing more than that.
	After func(ctx context.Context, h *Harness) error
	// Alone is a fault that is not for the soak: it lasts too long, or is itself about load.
	Alone bool
	// Still is a fault of a cluster in which nothing else changes meanwhile.
	Still bool
	// Hangs is a fault whose last attempt goes on when its cause is gone, until the exporter cuts it off after 10 s.
	Hangs bool
	// MaxAge, if not 0, is the exporter's --max-age.
	MaxAge time.Duration
	// Namespaces, if any, are the exporter's --namespaces.
	Namespaces []string
	// Plugin gives the exporter its token by an exec plugin.
	Plugin bool
	// Push makes the exporter push to a receiver, see receivers.go.
	Push bool
	// FromStart is a fault that exists before the exporter is started.
	FromStart bool
	// Lasts is how long its last attempt may go on when its cause is gone, beyond what Hangs says.
	Lasts time.Duration
	// Memory, if not 0, is the most that the exporter may ever have resident in place of MaxMemory.
	Memory int64
}

// Expect is what must be seen of a fault while it lasts.
type Expect struct {
	Within time.Duration // when it is noticed at the latest; 0 is within one interval
	Says   string        // part of /healthz and of the one log line; none where it is no failure
	Down   string        // what has an up of 0: resources, or resource/namespace
	// Fresh says that pages keep up with the API all the same; else they keep the last values until these reach
	// max-age.
	Fresh bool
	// Labels is how long the labels of a pod that has moved may be old; 0 is behind where Fresh and max-age where not.
	Labels time.Duration
	// MayRefuse says that there need not be a page: a 503 will do.
	MayRefuse bool
	// Refused says that there is no page but a 503.
	Refused bool
	// Notice, if not nil, is what /healthz says while it is still healthy, and one line of the log for each resource.
	Notice *regexp.Regexp
	// Behind is the one namespace that does not keep up with the API, where the others do (Fresh).
	Behind string
	// Expires says that it lasts until the last values reach max-age and are no longer on the page.
	Expires bool
	// Page checks a page; nil for no more than what is checked of every page.
	Page func(h *Harness, page *exporter.Page) error
	// Again is how many more lines the log may have, for causes that come one after the other.
	Again int
	// Begins and Ends are parts of the log lines where these differ from those of a failure. They need a fault that
	// lasts: what is not a failure is logged once it has stayed for 5 s, with the next attempt. A push that fails is
	// logged at once, and is not in /healthz.
	Begins, Ends string
	// Flickers says that the fault comes and goes, so that it can be seen only now and then.
	Flickers bool
}

// MaxMemory is the most memory that the exporter may ever have resident.
const MaxMemory = 100 << 20

// Run causes a fault, checks what is seen of it, takes its cause away, and returns when all is right again, or with
// what was not.
func (f Fault) Run(ctx context.Context, h *Harness, long bool) error {
	lasts := f.Short
	if long && f.Long != 0 {
		lasts = f.Long
	}
	_, _, wrongBefore, _ := h.checker.verdict()
	logged := len(h.Exporter.Log())
	if h.mend != nil {
		logged = 0
	}
	maxAge := h.checker.maxAge
	refuse := f.While.Refused || f.While.MayRefuse
	allowed := leniency{values: maxAge + clockSlack, labels: maxAge + clockSlack,
		refuse: refuse, lose: refuse || f.While.Expires, behind: f.While.Behind}
	if f.While.Fresh && f.While.Behind == "" {
		allowed.values, allowed.labels = behind+h.slow, behind+h.slow
	}
	if f.While.Labels != 0 {
		allowed.labels = f.While.Labels
	}
	h.checker.allow(allowed)
	began, mend := time.Now(), h.mend
	if mend == nil {
		var err error
		if mend, err = f.Cause(ctx, h); err != nil {
			return fmt.Errorf("bringing it about: %w", err)
		}
	}
	problem := f.watch(ctx, h, lasts)
	if err := mend(ctx); err != nil {
		return fmt.Errorf("taking the cause away: %w", err)
	}
	mended := time.Now()
	recovery := recovery + h.slow + f.Lasts // two intervals of the source, where that is slower
	if f.Hangs {
		recovery += 10 * time.Second
	}
	if err := within(ctx, recovery, "everything is right again",
		func(ctx context.Context) error { return h.awaitHealth(ctx, Expect{}) }); err != nil {
		return errors.Join(problem, err)
	}
	if rest := recovery - time.Since(mended); rest > 0 {
		select {
		case <-time.After(rest): // the checker is lenient until the time is over that the exporter has
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	h.checker.allow(leniency{values: behind + h.slow, labels: behind + h.slow})
	strict := time.Now()
	if err := within(ctx, behind+h.slow+10*time.Second, "pages after it are checked", func(ctx context.Context) error {
		return h.checker.judged(ctx, strict.Add(interval/2))
	}); err != nil {
		return errors.Join(problem, err)
	}
	if f.After != nil {
		problem = errors.Join(problem, f.After(ctx, h))
	}
	problem = errors.Join(problem, f.log(h.Exporter.Log()[logged:]), h.alive(), h.memory(cmp.Or(f.Memory, MaxMemory)))
	if _, _, wrongs, wrong := h.checker.verdict(); wrongs > wrongBefore {
		problem = errors.Join(problem, fmt.Errorf("%d samples or pages were wrong (fault from %s to %s):\n%s",
			wrongs-wrongBefore,
			began.UTC().Format("15:04:05.000"), mended.UTC().Format("15:04:05.000"), strings.Join(wrong, "\n")))
	}
	return problem
}

// watch waits for the fault to be seen, and sees it for as long as it lasts.
func (f Fault) watch(ctx context.Context, h *Harness, lasts time.Duration) error {
	limit := f.While.Within
	if limit == 0 {
		limit = notice
	}
	if err := within(ctx, limit, "the fault is reported",
		func(ctx context.Context) error { return h.awaitHealth(ctx, f.While) }); err != nil {
		return err
	}
	end := time.Now().Add(lasts)
	for tick := time.NewTicker(200 * time.Millisecond); time.Now().Before(end); {
		if err := h.health(ctx, f.While); err != nil && !f.While.Flickers {
			return fmt.Errorf("%s before its end the fault is no longer reported: %w", time.Until(end).Round(time.Second),
				err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return ctx.Err()
		}
	}
	return nil
}

// log counts the lines that a fault has left in the log.
func (f Fault) log(text string) error {
	begins, ends, notices := 0, strings.Count(text, "everything works again"), 0
	if f.While.Begins != "" {
		if strings.Count(text, f.While.Begins) != 1 || strings.Count(text, f.While.Ends) != 1 {
			return fmt.Errorf("the log has not one line with %q and one with %q:\n%s", f.While.Begins, f.While.Ends,
				text)
		}
	}
	for line := range strings.Lines(text) {
		switch {
		case f.While.Begins != "" && strings.Contains(line, f.While.Begins):
		case f.While.Notice != nil && f.While.Notice.MatchString(line):
			notices++
		case strings.Contains(line, "level=WARN"), strings.Contains(line, "level=ERROR"):
			begins++
		}
	}
	if f.While.Notice != nil && (notices < 1 || notices > 2) {
		return fmt.Errorf("the log has %d lines of %q, not one for each resource:\n%s", notices, f.While.Notice, text)
	}
	least, most, closing := 1, 1+f.While.Again, 1
	if f.While.Says == "" {
		least, most, closing = 0, 0, 0
	}
	if begins < least || begins > most || !f.While.Flickers && ends != closing || f.While.Flickers && ends > most {
		return fmt.Errorf("the log has %d lines of the fault's beginning and %d of its end, not %d to %d and %d:\n%s",
			begins, ends, least, most, closing, text)
	}
	return nil
}

func (h *Harness) memory(most int64) error {
	memory, err := h.Exporter.Memory()
	if err == nil && memory.Peak > most {
		err = fmt.Errorf("the exporter had %d MiB of memory, more than %d MiB", memory.Peak>>20, most>>20)
	}
	return err
}
