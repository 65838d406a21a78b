// Package receiver has what the tests let the exporter push to: the real Prometheus, VictoriaMetrics and Thanos
// Receive, which can be restarted on what they have stored, and Faulty, which fails as it is told.
package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// Kind is a program that takes pushes and, where it has Write, answers queries.
type Kind struct {
	Name string
	// Write is the path that takes remote write, Text the one that takes the text format; empty where there is none.
	Write, Text string

	find func() (path string, err error)
	args func(r *Receiver) []string
	// query is the arguments of a second process, which answers queries; nil where the first one does.
	query   func(r *Receiver) []string
	ready   string // path that is there once it works
	refused []refusal
	// Flushes says that a Stop writes all samples to a block, so that after the next Start samples are refused that are
	// older than the newest of any series.
	Flushes bool
}

// refusal is one of a program's own counters of samples or requests that it did not take.
type refusal struct {
	family string
	is     func(labels map[string]string) bool // nil: all of the family
}

// Kinds are the real programs that the tests know.
var (
	Prometheus = Kind{
		Name: "prometheus", Write: "/api/v1/write", ready: "/-/ready",
		find: func() (string, error) { return controlplane.Tool("prometheus") },
		args: func(r *Receiver) []string {
			return []string{"--config.file=" + r.path("prometheus.yml"), "--web.listen-address=" + r.address(writes),
				"--storage.tsdb.path=" + r.path("data"), "--web.enable-remote-write-receiver", "--log.level=warn"}
		},
		refused: append([]refusal{
			{"prometheus_api_remote_write_invalid_labels_samples_total", nil},
			// Of a sample with the timestamp of the one before and another value it counts only that it answers 400. 503 is
			// what it answers while it starts.
			{"prometheus_http_requests_total", func(labels map[string]string) bool {
				return labels["handler"] == "/api/v1/write" && strings.HasPrefix(labels["code"], "4")
			}},
		}, byTSDB...),
	}
	VictoriaMetrics = Kind{
		Name: "victoria-metrics", Write: "/api/v1/write", Text: "/api/v1/import/prometheus", ready: "/metrics",
		find: debian("victoria-metrics"),
		args: func(r *Receiver) []string {
			return []string{"-httpListenAddr=" + r.address(writes), "-storageDataPath=" + r.path("data"),
				"-loggerLevel=WARN"}
		},
		refused: []refusal{
			{"vm_rows_ignored_total", nil},
			{"vm_rows_invalid_total", nil},
			{"vm_metrics_with_dropped_labels_total", nil},
			{"vm_too_long_label_values_total", nil},
			{"vm_http_request_errors_total", func(labels map[string]string) bool {
				return strings.Contains(labels["path"], "write")
			}},
		},
	}
	Pushgateway = Kind{
		Name: "prometheus-pushgateway", Text: "/metrics/job/e2e", ready: "/metrics",
		find: debian("prometheus-pushgateway"),
		args: func(r *Receiver) []string {
			return []string{"--web.listen-address=" + r.address(writes), "--log.level=warn"}
		},
	}
	// Thanos is its Receive, with a Query in front of it.
	Thanos = Kind{
		Name: "thanos", Write: "/api/v1/receive", ready: "/-/ready", Flushes: true,
		find: func() (string, error) { return controlplane.Tool("thanos") },
		args: func(r *Receiver) []string {
			return []string{"receive", "--tsdb.path=" + r.path("data"), "--label=" + ThanosLabel + `="e2e"`,
				"--http-address=" + r.address(tells), "--grpc-address=" + r.address(reads),
				"--remote-write.address=" + r.address(writes), "--log.level=warn"}
		},
		query: func(r *Receiver) []string {
			return []string{"query", "--endpoint=" + r.address(reads), "--http-address=" + r.address(answers),
				"--grpc-address=" + r.address(nobody), "--log.level=warn"}
		},
		refused: append([]refusal{{"http_requests_total", func(labels map[string]string) bool {
			return labels["handler"] == "receive" && strings.HasPrefix(labels["code"], "4")
		}}}, byTSDB...),
	}
)

// ThanosLabel and ThanosTenant are labels that Thanos adds to all series.
const ThanosLabel, ThanosTenant = "receive", "tenant_id"

// byTSDB is what Prometheus' database counts, wherever it is.
var byTSDB = []refusal{
	{"prometheus_tsdb_out_of_order_samples_total", nil},
	{"prometheus_tsdb_out_of_bound_samples_total", nil},
	{"prometheus_tsdb_too_old_samples_total", nil},
}

// What the addresses of a program are for. All but writes are of Thanos only.
type purpose int

const (
	writes  purpose = iota
	tells           // metrics and readiness
	reads           // by Query
	answers         // of Query
	nobody          // Query serves other Queries too
	purposes
)

// ErrNotInstalled says that a program is not on this machine. Those of Debian are installed by .ci/receivers.sh.
var ErrNotInstalled = errors.New("not installed; .ci/receivers.sh does that on a Debian")

// debian finds a program that is installed by the package of the same name.
func debian(name string) func() (string, error) {
	return func() (string, error) {
		path, err := exec.LookPath(name)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, ErrNotInstalled)
		}
		return path, nil
	}
}

// Receiver is a running program. It keeps its addresses and its data over Stop and Start.
type Receiver struct {
	Kind
	URL string // http://127.0.0.1:PORT, that Write and Text belong to

	dir       string
	ports     [purposes]int
	processes []*process.Process
}

// New starts a program that keeps its data below the folder, and returns when it is ready.
func New(ctx context.Context, kind Kind, dir string) (r *Receiver, err error) {
	r = &Receiver{Kind: kind, dir: dir}
	for i := range r.ports {
		if r.ports[i], err = process.FreePort(); err != nil {
			return nil, err
		}
	}
	r.URL = "http://" + r.address(writes)
	// Only Prometheus reads it; it scrapes nothing.
	if err := os.WriteFile(r.path("prometheus.yml"), nil, 0o600); err != nil {
		return nil, err
	}
	if err := r.Start(ctx); err != nil {
		r.Kill()
		return nil, err
	}
	return r, nil
}

func (r *Receiver) path(name string) string { return filepath.Join(r.dir, name) }

// address is that for a purpose. One process serves all of them at the same one.
func (r *Receiver) address(of purpose) string {
	if r.query == nil {
		of = writes
	}
	return fmt.Sprintf("127.0.0.1:%d", r.ports[of])
}

// Start starts the program, again after a Stop, and returns when it is ready.
func (r *Receiver) Start(ctx context.Context) error {
	path, err := r.find()
	if err != nil {
		return err
	}
	r.processes = nil
	type part struct {
		args  []string
		ready purpose
	}
	parts := []part{{r.args(r), tells}}
	if r.query != nil {
		parts = append(parts, part{r.query(r), answers})
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("not ready within a minute"))
	defer cancel()
	for _, part := range parts {
		p, err := process.Start(process.Command{Name: r.Name, Path: path, Args: part.args,
			Env: []string{"PATH=" + os.Getenv("PATH")}, Log: r.path("log")})
		if err != nil {
			return err
		}
		r.processes = append(r.processes, p)
		if err := p.Await(ctx, func(ctx context.Context) error {
			_, err := get(ctx, "http://"+r.address(part.ready)+r.ready)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends the program as an administrator does, by SIGTERM, and returns when it is gone.
func (r *Receiver) Stop(ctx context.Context) error {
	for _, p := range r.processes {
		if err := p.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		select {
		case <-p.Done():
		case <-ctx.Done():
			return fmt.Errorf("%s does not end: %w", r.Name, context.Cause(ctx))
		}
	}
	return nil
}

// Kill ends the program at once.
func (r *Receiver) Kill() {
	for _, p := range r.processes {
		p.Kill()
	}
}

// Log is what the program has written in all its runs: warnings and errors only.
func (r *Receiver) Log() string {
	text, err := os.ReadFile(r.path("log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Series is a series and samples of it, oldest first.
type Series struct {
	Labels  map[string]string // that of the name, __name__, among them
	Samples []Sample
}

// Sample is a value at a moment. A stale marker's value is NaN.
type Sample struct {
	At    int64 // Unix ms
	Value float64
}

// Instant is what the program answers to an instant query of that moment: of each series one sample.
func (r *Receiver) Instant(ctx context.Context, query string, at time.Time) ([]Series, error) {
	if r.Name == VictoriaMetrics.Name {
		// What it has just taken is not looked for otherwise.
		if _, err := get(ctx, r.URL+"/internal/force_flush"); err != nil {
			return nil, err
		}
	}
	values := url.Values{"query": {query}, "time": {strconv.FormatFloat(float64(at.UnixMilli())/1000, 'f', 3, 64)},
		"nocache": {"1"}} // without which VictoriaMetrics answers for a moment 30 s ago
	text, err := get(ctx, "http://"+r.address(answers)+"/api/v1/query?"+values.Encode())
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  *sample
				Values []sample
			}
		}
		Warnings []string
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("%s: %w: %.300s", query, err, text)
	}
	if len(answer.Warnings) > 0 {
		return nil, fmt.Errorf("%s: %q", query, answer.Warnings)
	}
	all := make([]Series, 0, len(answer.Data.Result))
	for _, result := range answer.Data.Result {
		s := Series{Labels: result.Metric}
		if result.Value != nil {
			s.Samples = []Sample{Sample(*result.Value)}
		}
		for _, one := range result.Values {
			s.Samples = append(s.Samples, Sample(one))
		}
		all = append(all, s)
	}
	return all, nil
}

// Stored is the samples that the program has of the series that a selector selects, of this last time, as they were
// stored: with their own timestamps, and in VictoriaMetrics with stale markers.
func (r *Receiver) Stored(ctx context.Context, selector string, last time.Duration) ([]Series, error) {
	if last < time.Second {
		return nil, fmt.Errorf("%s is not a time in whole seconds", last)
	}
	return r.Instant(ctx, fmt.Sprintf("%s[%ds]", selector, int(last.Seconds())), time.Now())
}

// sample is [seconds, "value"] of Prometheus' HTTP API.
type sample Sample

// UnmarshalJSON reads the timestamp to the millisecond.
func (s *sample) UnmarshalJSON(text []byte) error {
	var seconds float64
	var value *string
	if err := json.Unmarshal(text, &[2]any{&seconds, &value}); err != nil {
		return err
	}
	s.At, s.Value = int64(math.Round(seconds*1000)), math.NaN()
	if value == nil { // VictoriaMetrics' stale marker
		return nil
	}
	var err error
	s.Value, err = strconv.ParseFloat(*value, 64)
	return err
}

// Refused is the program's own counters of what it did not take since its start, those that are not 0.
func (r *Receiver) Refused(ctx context.Context) (map[string]float64, error) {
	families, err := r.metrics(ctx)
	if err != nil {
		return nil, err
	}
	refused := map[string]float64{}
	for _, counter := range r.refused {
		for _, metric := range families[counter.family].GetMetric() {
			labels := exporter.Labels(metric)
			value := metric.GetCounter().GetValue() + metric.GetUntyped().GetValue()
			if value != 0 && (counter.is == nil || counter.is(labels)) {
				refused[exporter.Series(counter.family, labels)] = value
			}
		}
	}
	return refused, nil
}

// metrics is what the program tells of itself.
func (r *Receiver) metrics(ctx context.Context) (map[string]*dto.MetricFamily, error) {
	text, err := get(ctx, "http://"+r.address(tells)+"/metrics")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(strings.NewReader(string(text)))
}

// get is what a URL answers with status 200.
func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		return nil, errors.Join(err, fmt.Errorf("%s: %s %.300s", url, response.Status, text))
	}
	return text, err
}
