package receiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"crypto/tls"
	"crypto/x509"

	"github.com/klauspost/compress/snappy"
	"google.golang.org/protobuf/encoding/protowire"

	"metrics-server-prom/e2e/process"
)

// stored is what a program has to have of the series x of this test.
type stored = []Sample

// TestRealReceivers says what the proofs that use them rely on: timestamps are exact, a stale marker ends a series, a
// restart loses nothing, and a sample that is refused, or is there twice, shows.
func TestRealReceivers(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{Prometheus, VictoriaMetrics} {
		t.Run(kind.Name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			r, err := New(ctx, kind, t.TempDir())
			if errors.Is(err, ErrNotInstalled) && os.Getenv("CI") != "true" {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Kill() })
			now := time.Now().UnixMilli()
			write := func(status int, samples ...Sample) {
				t.Helper()
				if got := post(t, http.DefaultClient, r.URL+r.Write, "", samples...); got != status {
					t.Fatalf("%v: status %d, want %d", samples, got, status)
				}
			}
			has := func(want ...Sample) {
				t.Helper()
				await(ctx, t, func() error {
					series, err := r.Stored(ctx, `{__name__="x",job="test"}`, time.Minute)
					if err != nil {
						return err
					}
					var got stored
					if len(series) == 1 {
						// Prometheus keeps stale markers to itself.
						got = slices.DeleteFunc(series[0].Samples, func(s Sample) bool { return math.IsNaN(s.Value) })
					}
					if !slices.Equal(got, want) {
						return fmt.Errorf("%v, want %v", series, want)
					}
					return nil
				})
			}
			values := func(want int) {
				t.Helper()
				await(ctx, t, func() error {
					series, err := r.Instant(ctx, `{job="test"}`, time.UnixMilli(now))
					if err == nil && len(series) != want {
						err = fmt.Errorf("%v, want %d series", series, want)
					}
					return err
				})
			}

			write(http.StatusNoContent, Sample{now - 20_001, 0.1})
			write(http.StatusNoContent, Sample{now - 10_002, 12345.6789})
			has(Sample{now - 20_001, 0.1}, Sample{now - 10_002, 12345.6789})
			values(1)
			if err := r.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			if err := r.Start(ctx); err != nil {
				t.Fatal(err)
			}
			has(Sample{now - 20_001, 0.1}, Sample{now - 10_002, 12345.6789})
			values(1)
			write(http.StatusNoContent, Sample{now - 5000, math.Float64frombits(stale)})
			values(0)
			has(Sample{now - 20_001, 0.1}, Sample{now - 10_002, 12345.6789})
			if refused, err := r.Refused(ctx); err != nil || len(refused) > 0 {
				t.Fatalf("refused: %v, %v", refused, err)
			}

			write(http.StatusNoContent, Sample{now - 1000, 3})
			if kind.Name == Prometheus.Name {
				write(http.StatusBadRequest, Sample{now - 1000, 4})
				write(http.StatusBadRequest, Sample{now - 2000, 5})
				if refused, err := r.Refused(ctx); err != nil || len(refused) == 0 {
					t.Errorf("refused: %v, %v", refused, err)
				}
				if n := strings.Count(r.Log(), "Out of order sample"); n != 2 {
					t.Errorf("%d lines:\n%s", n, r.Log())
				}
				return
			}
			write(http.StatusNoContent, Sample{now - 1000, 4})
			await(ctx, t, func() error {
				series, err := r.Stored(ctx, `{__name__="x",job="test"}`, time.Minute)
				if err == nil && (len(series) != 1 || len(series[0].Samples) != 5 || !math.IsNaN(series[0].Samples[2].Value)) {
					err = fmt.Errorf("%v: the duplicate or the stale marker does not show", series)
				}
				return err
			})
			write(http.StatusNoContent, Sample{now - 1e12, 4})
			await(ctx, t, func() error { // it counts some moments later
				refused, err := r.Refused(ctx)
				if err == nil && len(refused) == 0 {
					err = errors.New("nothing was refused")
				}
				return err
			})
		})
	}
}

func TestFaultyTakesWhatPrometheusWould(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		samples []Sample
		wrong   string
	}{
		{"in order, the same twice, and the end", []Sample{{1, 1}, {2, 2}, {2, 2}, {3, math.Float64frombits(stale)}}, ""},
		{"out of order", []Sample{{2, 1}, {1, 1}}, "out of order"},
		{"another value at the same time", []Sample{{2, 1}, {2, 2}}, "duplicate"},
		{"a number that is none", []Sample{{2, math.NaN()}}, "not a number"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, client := faulty(t)
			status := 0
			for _, sample := range test.samples {
				status = post(t, client, f.URL, "token", sample)
			}
			if test.wrong == "" && (status != http.StatusNoContent || len(f.Wrong()) > 0 || len(f.Last()) > 0) {
				t.Errorf("%d, %v, %v", status, f.Wrong(), f.Last())
			}
			if test.wrong != "" && (status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(f.Wrong()), test.wrong)) {
				t.Errorf("%d, %v", status, f.Wrong())
			}
		})
	}
}

func TestFaultyFailsAsTold(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		tell   func(*Faulty)
		status int // 0: an error
	}{
		{"500", func(f *Faulty) { f.Behave(Refuses(500, "disk full", 0)) }, 500},
		{"resets", func(f *Faulty) { f.Behave(Resets) }, 0},
		{"closes half-way", func(f *Faulty) { f.Behave(ClosesHalfWay) }, 0},
		{"hangs", func(f *Faulty) { f.Behave(Hangs) }, 0},
		{"another token", func(f *Faulty) { f.SetToken("another") }, 401},
		{"another certificate", func(f *Faulty) {
			if err := f.ChangeCertificate(); err != nil {
				t.Error(err)
			}
		}, 0},
		{"works again", func(f *Faulty) { f.Behave(Resets); f.Behave(nil) }, 204},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, client := faulty(t)
			if status := post(t, client, f.URL, "token", Sample{1, 1}); status != http.StatusNoContent {
				t.Fatal(status)
			}
			if got := slices.Collect(maps.Keys(f.Last())); !slices.Equal(got, []string{`x{job="test"}`}) {
				t.Fatal(got)
			}
			test.tell(f)
			if status := post(t, client, f.URL, "token", Sample{2, 1}); status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
			answers := f.Answers()
			if last := answers[len(answers)-1]; len(answers) > 1 && last.Status != test.status {
				t.Errorf("%v", answers)
			}
		})
	}
}

func TestDecodeRefusesWhatIsNoRemoteWrite(t *testing.T) {
	t.Parallel()
	sample := field(nil, 2, protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), 7))
	for name, series := range map[string][]byte{
		"labels out of order": slices.Concat(label("a", "1"), label("__name__", "x"), sample),
		"a label twice":       slices.Concat(label("__name__", "x"), label("a", "1"), label("a", "2"), sample),
		"an empty label":      slices.Concat(label("__name__", "x"), label("a", ""), sample),
		"no name":             slices.Concat(label("a", "1"), sample),
		"no sample":           label("__name__", "x"),
		"cut off":             label("__name__", "x")[:5],
	} {
		body := snappy.Encode(nil, field(nil, 1, series))
		if got, err := Decode(header, body); !errors.Is(err, errNotRemoteWrite) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name := range header {
		without := header.Clone()
		without.Del(name)
		if got, err := Decode(without, encode(Sample{1, 1})); !errors.Is(err, errNotRemoteWrite) {
			t.Errorf("without %s: %v, %v", name, got, err)
		}
	}
	if got, err := Decode(header, encode(Sample{1, 2})); err != nil || got[0].Labels["job"] != "test" ||
		!slices.Equal(got[0].Samples, []Sample{{1, 2}}) {
		t.Errorf("%v, %v", got, err)
	}
}

func faulty(t *testing.T) (*Faulty, *http.Client) {
	f, err := NewFaulty("token")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(f.CA())
	client := &http.Client{Timeout: 2 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	t.Cleanup(client.CloseIdleConnections)
	return f, client
}

var header = http.Header{"Content-Encoding": {"snappy"}, "Content-Type": {"application/x-protobuf"},
	"X-Prometheus-Remote-Write-Version": {"0.1.0"}, "User-Agent": {"test"}}

// post sends samples of x{job="test"}; 0 is that there was no answer.
func post(t *testing.T, client *http.Client, url, token string, samples ...Sample) (status int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(encode(samples...)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header.Clone()
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return 0
	}
	return response.StatusCode
}

func encode(samples ...Sample) []byte {
	series := slices.Concat(label("__name__", "x"), label("job", "test"))
	for _, s := range samples {
		message := protowire.AppendTag(nil, 1, protowire.Fixed64Type)
		message = protowire.AppendFixed64(message, math.Float64bits(s.Value))
		message = protowire.AppendTag(message, 2, protowire.VarintType)
		series = field(series, 2, protowire.AppendVarint(message, uint64(s.At)))
	}
	return snappy.Encode(nil, field(nil, 1, series))
}

func label(name, value string) []byte {
	return field(nil, 1, field(field(nil, 1, []byte(name)), 2, []byte(value)))
}

func field(to []byte, number protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(to, number, protowire.BytesType), content)
}

func await(ctx context.Context, t *testing.T, ready func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := process.Await(ctx, 100*time.Millisecond, func(context.Context) error { return ready() }); err != nil {
		t.Fatal(err)
	}
}
