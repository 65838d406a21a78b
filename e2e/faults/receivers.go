package faults

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/receiver"
)

const (
	pushInterval = 5 * time.Second
	pushToken    = "planted-push-token"

	// pushTold is how soon a push that fails is counted: one that begins an interval later and is tried for another one.
	pushTold = 2*pushInterval + 4*time.Second
	// pushRecovery is how soon after its cause is gone pushes work again.
	pushRecovery = pushInterval + 2*time.Second
	// slowPage is how long a scrape may take while a receiver makes trouble. The shortest of its troubles is longer.
	slowPage = 2 * time.Second
)

// Receivers are the faults of a receiver of remote write, with TLS and a token. Pages are as they always are.
var Receivers = []Fault{
	receiving("receiver answers 500", behaves(receiver.Refuses(500, "disk full", 0)), undelivered, triedAgain),
	receiving("receiver is overloaded: 429, asking for 2 s of rest",
		behaves(receiver.Refuses(429, "too many samples", rest)), undelivered, rested),
	receiving("receiver answers 400", refusing, notTaken, notTriedAgain),
	receiving("receiver hangs", behaves(receiver.Hangs), undelivered, nil),
	receiving("receiver resets connections", behaves(receiver.Resets), undelivered, nil),
	receiving("receiver closes connections half-way", behaves(receiver.ClosesHalfWay), undelivered, nil),
	receiving("receiver's answer breaks off", behaves(receiver.AnswersHalf), undelivered, nil),
	receiving("receiver whose certificate is not trusted", untrusted, undelivered, nil),
	receiving("receiver does not know the token: 401", unknownPushToken, notTaken, notTriedAgain),
	receiving("receiver's token replaced on disk", pushTokenReplaced, notTaken, notTriedAgain),
	slowReceiver,
}

// What becomes of samples that are not taken, by the exporter's counter.
const (
	undelivered = "undelivered"
	notTaken    = "refused"
)

// receiving is a fault of the receiver that lets samples come to this end. The check is made of all requests that were
// made meanwhile, when it is over.
func receiving(name string, cause cause, result string, check func([]receiver.Answer) error) Fault {
	return Fault{Name: name, Push: true, Short: 2 * pushInterval, Long: time.Minute,
		Cause: func(ctx context.Context, h *Harness) (func(context.Context) error, error) {
			h.caused = time.Now()
			mend, err := cause(ctx, h)
			return func(ctx context.Context) error {
				err := mend(ctx)
				h.mended = time.Now()
				return err
			}, err
		},
		While: Expect{Within: pushTold, Fresh: true, Page: pushesFail(result),
			Begins: "cannot push to https://127.0.0.1:", Ends: "works again"},
		After: func(ctx context.Context, h *Harness) error {
			err := h.pushesAgain(ctx)
			if check == nil {
				return err
			}
			var meanwhile []receiver.Answer
			for _, answer := range h.Receiver.Answers() {
				if answer.At.After(h.caused) && answer.At.Before(h.mended) {
					meanwhile = append(meanwhile, answer)
				}
			}
			return errors.Join(err, check(meanwhile))
		}}
}

// slowReceiver is no failure: all arrives in the end.
var slowReceiver = Fault{Name: "receiver takes 2 s for each request", Push: true, Short: 3 * pushInterval,
	Long: time.Minute, While: Expect{Within: pushTold, Fresh: true},
	Cause: func(_ context.Context, h *Harness) (func(context.Context) error, error) {
		h.Receiver.Behave(receiver.TakesLong(slowPage))
		return func(context.Context) error {
			h.Receiver.Behave(nil)
			h.mended = time.Now()
			return nil
		}, nil
	},
	After: func(ctx context.Context, h *Harness) error { return h.pushesAgain(ctx) },
}

// startReceiver starts the receiver and returns how the exporter is told of it.
func (h *Harness) startReceiver() (args []string, err error) {
	if h.Receiver, err = receiver.NewFaulty(pushToken); err != nil {
		return nil, err
	}
	h.closers = append(h.closers, h.Receiver.Close)
	h.pushToken = filepath.Join(h.dir, "push-token")
	ca, config := filepath.Join(h.dir, "push-ca.crt"), filepath.Join(h.dir, "push.yml")
	for path, text := range map[string]string{h.pushToken: pushToken, ca: string(h.Receiver.CA()),
		config: fmt.Sprintf("authorization: {credentials_file: %s}\ntls_config: {ca_file: %s}\n", h.pushToken, ca)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	return []string{"--push.url=" + h.Receiver.URL, "--push.format=remote-write",
		"--push.interval=" + pushInterval.String(), "--push.instance=e2e", "--push.http-config.file=" + config}, nil
}

// behaves makes the receiver answer like that.
func behaves(b receiver.Behavior) cause {
	return func(_ context.Context, h *Harness) (func(context.Context) error, error) {
		h.Receiver.Behave(b)
		return func(context.Context) error { h.Receiver.Behave(nil); return nil }, nil
	}
}

// refusing makes the receiver refuse all samples for good, the stale markers among them.
func refusing(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	h.refused = true
	return behaves(receiver.Refuses(400, "label x is too long", 0))(ctx, h)
}

// untrusted gives the receiver another certificate.
func untrusted(_ context.Context, h *Harness) (func(context.Context) error, error) {
	trusted := h.Receiver.Certificate()
	return func(context.Context) error { h.setCertificate(trusted); return nil }, h.Receiver.ChangeCertificate()
}

func (h *Harness) setCertificate(c *tls.Certificate) { h.Receiver.SetCertificate(c) }

// unknownPushToken lets the receiver know another token only, for a while.
func unknownPushToken(_ context.Context, h *Harness) (func(context.Context) error, error) {
	h.Receiver.SetToken("another")
	return func(context.Context) error { h.Receiver.SetToken(pushToken); return nil }, nil
}

// pushTokenReplaced does so for good; mending it writes that token to the exporter's file.
func pushTokenReplaced(_ context.Context, h *Harness) (func(context.Context) error, error) {
	const token = pushToken + "-2"
	h.Receiver.SetToken(token)
	return func(context.Context) error { return replace(h.pushToken, []byte(token)) }, nil
}

// pushesFail checks that the failure is counted.
func pushesFail(result string) func(*Harness, *exporter.Page) error {
	return func(_ *Harness, page *exporter.Page) error {
		failed, _ := page.Sum("metrics_server_prom_pushes_total", map[string]string{"result": "error"})
		samples, _ := page.Sum(pushSamples, map[string]string{"result": result})
		if failed == 0 || samples == 0 {
			return fmt.Errorf("the page counts %v pushes that failed, %v samples that are %s", failed, samples, result)
		}
		return nil
	}
}

const pushSamples = "metrics_server_prom_push_samples_total"

// delivered is an error if the receiver does not have exactly the series of usage that the page has now, but for what
// it has refused.
func (h *Harness) delivered(ctx context.Context) error {
	page, err := h.Exporter.Scrape(ctx)
	if err != nil {
		return err
	}
	want, got := map[string]float64{}, map[string]float64{}
	for _, family := range []string{check.NodeCPU, check.NodeMemory, check.PodCPU, check.PodMemory} {
		for _, metric := range page.Families[family].GetMetric() {
			labels := exporter.Labels(metric)
			maps.DeleteFunc(labels, func(_, value string) bool { return value == "" })
			want[exporter.Series(family, labels)] = metric.GetGauge().GetValue()
		}
	}
	for series, sample := range h.Receiver.Last() {
		labels := strings.NewReplacer(`instance="e2e",`, "", `job="metrics-server-prom",`, "").Replace(series)
		if strings.HasPrefix(series, "kube_metrics_server_") {
			got[labels] = sample.Value
		}
	}
	if h.refused { // with the end of what has ended meanwhile
		maps.DeleteFunc(got, func(series string, _ float64) bool { _, ok := want[series]; return !ok })
	}
	if differences := check.Diff(want, got); len(differences) > 0 {
		return fmt.Errorf("%d of %d samples differ:\n%s", len(differences), len(want),
			strings.Join(differences[:min(10, len(differences))], "\n"))
	}
	return nil
}

// pushesAgain checks what holds after each of these faults: pushes have worked soon after its cause was gone, all has
// arrived, the exporter's count is right, nothing was wrong with any request, no scrape was slow, and nobody is told
// the token.
func (h *Harness) pushesAgain(ctx context.Context) error {
	var problems []error
	var first time.Time
	for _, answer := range h.Receiver.Answers() {
		if answer.Samples > 0 && answer.At.After(h.mended) && first.IsZero() {
			first = answer.At
		}
	}
	if took := first.Sub(h.mended); first.IsZero() || took > pushRecovery {
		problems = append(problems, fmt.Errorf("the first push that worked was at %s, %s after the cause was gone", first,
			took))
	}
	problems = append(problems, within(ctx, behind+2*pushInterval, "the receiver has what the page has",
		func(ctx context.Context) error { return await(ctx, h.delivered) }))
	problems = append(problems, within(ctx, behind+2*pushInterval, "the samples that were taken are counted",
		func(ctx context.Context) error { return await(ctx, h.counted) }))
	if wrong := h.Receiver.Wrong(); len(wrong) > 0 {
		problems = append(problems, fmt.Errorf("%d requests were wrong: %q", len(wrong), wrong[:min(3, len(wrong))]))
	}
	h.checker.mu.Lock()
	slowest := h.checker.slowest
	h.checker.mu.Unlock()
	if slowest > slowPage {
		problems = append(problems, fmt.Errorf("a scrape took %s", slowest))
	}
	if strings.Contains(h.Exporter.Log(), pushToken) {
		problems = append(problems, errors.New("the log has the token"))
	}
	return errors.Join(problems...)
}

// counted is an error if the exporter does not count the samples that the receiver has taken.
func (h *Harness) counted(ctx context.Context) error {
	taken := 0
	for _, answer := range h.Receiver.Answers() {
		taken += answer.Samples
	}
	page, err := h.Exporter.Scrape(ctx)
	if err != nil {
		return err
	}
	if count, _ := page.Sum(pushSamples, map[string]string{"result": "ok"}); int(count) != taken {
		return fmt.Errorf("the page counts %v samples that were taken, the receiver %d", count, taken)
	}
	return nil
}

// triedAgain checks that the same request was made again, with pauses that grow.
func triedAgain(answers []receiver.Answer) error {
	tries := map[[32]byte]int{}
	for _, answer := range answers {
		tries[answer.Body]++
	}
	most := 0
	for _, n := range tries {
		most = max(most, n)
	}
	if most < 3 || most > 8 {
		return fmt.Errorf("a request was made %d times in %s, not 3 to 8 times", most, pushInterval)
	}
	return nil
}

// notTriedAgain checks that no request was made again.
func notTriedAgain(answers []receiver.Answer) error {
	for i, answer := range answers {
		for _, earlier := range answers[:i] {
			if bytes.Equal(answer.Body[:], earlier.Body[:]) {
				return fmt.Errorf("a request that was refused with %d was made again after %s", earlier.Status,
					answer.At.Sub(earlier.At))
			}
		}
	}
	if len(answers) == 0 {
		return errors.New("there were no requests")
	}
	return nil
}

// rest is how long an overloaded receiver asks to be left alone.
const rest = 2 * time.Second

// rested checks that it was, also by later pushes.
func rested(answers []receiver.Answer) error {
	for i := 1; i < len(answers); i++ {
		pause := answers[i].At.Sub(answers[i-1].At)
		if answers[i-1].Status == http.StatusTooManyRequests && pause < rest-50*time.Millisecond {
			return fmt.Errorf("a request was made %s after the answer Retry-After: %s", pause, rest)
		}
	}
	if len(answers) < 3 {
		return fmt.Errorf("there were %d requests", len(answers))
	}
	return nil
}
