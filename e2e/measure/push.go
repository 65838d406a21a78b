package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/klauspost/compress/snappy"
	"google.golang.org/protobuf/encoding/protowire"

	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
	"metrics-server-prom/internal/remotewrite"
)

// sent is a series with one sample, as a receiver of remote write sees it.
type sent struct {
	labels []string // names and values
	value  float64
	at     int64 // Unix ms
}

func (s *sent) label(name string) string {
	for i := 0; i < len(s.labels); i += 2 {
		if s.labels[i] == name {
			return s.labels[i+1]
		}
	}
	return ""
}

// receiver takes remote write, of which it keeps one whole scrape.
type receiver struct {
	mu       sync.Mutex
	bytes, n int // of requests with samples, as they were sent, and of samples, until the scrape is whole
	scrapes  map[int64][]*sent
	whole    []*sent
	err      error // the first
}

func (r *receiver) ServeHTTP(_ http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	body, err := io.ReadAll(request.Body)
	if r.err != nil || r.whole != nil {
		return
	}
	var all []*sent
	if err == nil {
		all, err = decode(body)
	}
	if r.err = err; len(all) == 0 { // Prometheus sends the families' metadata in requests of their own
		return
	}
	r.bytes, r.n = r.bytes+len(body), r.n+len(all)
	for _, s := range all {
		r.scrapes[s.at] = append(r.scrapes[s.at], s)
	}
	// Prometheus adds to the samples of each scrape how many they are, and four others.
	for _, scrape := range r.scrapes {
		for _, s := range scrape {
			if s.label("__name__") == "scrape_samples_scraped" && len(scrape) == int(s.value)+5 {
				r.whole = scrape
			}
		}
	}
}

// decode reads a request of the protocol's version 1.0.
func decode(body []byte) (all []*sent, err error) {
	message, err := snappy.DecodeStrict(nil, body)
	if err != nil {
		return nil, err
	}
	err = fields(message, func(number protowire.Number, series []byte, _ uint64) error {
		if number != 1 {
			return nil
		}
		s := &sent{}
		all = append(all, s)
		return fields(series, func(number protowire.Number, content []byte, _ uint64) error {
			if number == 1 {
				return fields(content, func(_ protowire.Number, text []byte, _ uint64) error {
					s.labels = append(s.labels, unique.Make(string(text)).Value())
					return nil
				})
			}
			return fields(content, func(number protowire.Number, _ []byte, bits uint64) error {
				if number == 1 {
					s.value = math.Float64frombits(bits)
				} else {
					s.at = int64(bits)
				}
				return nil
			})
		})
	})
	return all, err
}

// fields calls f for each field of a message, with its content or, of a number, its bits.
func fields(message []byte, f func(number protowire.Number, content []byte, bits uint64) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		var content []byte
		var bits uint64
		switch kind {
		case protowire.BytesType:
			content, n = protowire.ConsumeBytes(message)
		case protowire.Fixed64Type:
			bits, n = protowire.ConsumeFixed64(message)
		default:
			bits, n = protowire.ConsumeVarint(message)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := f(number, content, bits); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}

// push compares the bytes of remote write with those that Prometheus sends when it scrapes the same pages.
func (s *simulated) push(ctx context.Context, pods int) ([]result, error) {
	e, _, _, err := s.launch(ctx, exporter.Options{Args: []string{withPages}})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	s.exporter = e
	if _, err := s.sizes(ctx); err != nil {
		return nil, err
	}
	config, writes := "global: {scrape_interval: 15s}\nscrape_configs:\n", "remote_write:\n"
	receivers := map[string]*receiver{}
	for job, path := range map[string]string{"metrics-server-prom": "/metrics", "cadvisor": usagePage,
		"kube-state-metrics": statePage} {
		receivers[job] = &receiver{scrapes: map[int64][]*sent{}}
		server := httptest.NewServer(receivers[job])
		defer server.Close()
		config += fmt.Sprintf("- {job_name: %s, metrics_path: %s, honor_labels: true, static_configs: [{targets: [%q]}]}\n",
			job, path, strings.TrimPrefix(e.URL, "http://"))
		writes += fmt.Sprintf("- {url: %q, write_relabel_configs: [{source_labels: [job], regex: %s, action: keep}]}\n",
			server.URL, job)
	}
	progress("Prometheus scrapes the same pages")
	prometheus, err := s.prometheus(config + writes)
	if err != nil {
		return nil, err
	}
	defer prometheus.Kill()
	var rows []result
	limited, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("no whole scrape within five minutes"))
	defer cancel()
	for job, r := range receivers {
		if err := prometheus.Await(limited, func(context.Context) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.whole == nil && r.err == nil {
				return fmt.Errorf("job %s: %d samples", job, r.n)
			}
			return nil
		}); err != nil {
			return nil, err
		}
		if r.err != nil {
			return nil, r.err
		}
		theirs, ours := float64(r.bytes)/float64(r.n), bytesBySample(job, r.whole)
		rows = append(rows, result{fmt.Sprintf("bytes by sample of remote write, job %s, %d samples", job, len(r.whole)),
			fmt.Sprintf("≤ Prometheus' %.1f", theirs), fmt.Sprintf("%.1f", ours), ours <= theirs})
	}
	return rows, nil
}

// prometheus starts a real Prometheus.
func (s *simulated) prometheus(config string) (*process.Process, error) {
	path, err := controlplane.Tool("prometheus")
	if err != nil {
		return nil, err
	}
	port, err := process.FreePort()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return process.Start(process.Command{Name: "prometheus", Path: path, Log: filepath.Join(s.dir, "prometheus.log"),
		Args: []string{"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(s.dir, "prometheus"),
			fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port)}})
}

// bytesBySample encodes a scrape as the exporter does: pod after pod, and usage with timestamps of its own.
func bytesBySample(job string, scrape []*sent) float64 {
	target, err := remotewrite.NewTarget(fmt.Sprintf("job=%q,instance=%q", job, scrape[0].label("instance")))
	if err != nil {
		panic(err) // made here
	}
	slices.SortStableFunc(scrape, func(a, b *sent) int {
		of := func(name string) int { return strings.Compare(a.label(name), b.label(name)) }
		return cmp.Or(of("namespace"), of("pod"), of("container"))
	})
	var e remotewrite.Encoder
	bytes := 0
	for batch := range slices.Chunk(scrape, batchLen) {
		for _, s := range batch {
			if strings.HasPrefix(s.label("__name__"), "kube_metrics_server_") || job == "cadvisor" {
				s.at -= s.at%1000 + int64(maphash.String(seed, s.label("node")+s.label("pod"))%15)*1000
			}
			var text []byte
			for i := 0; i < len(s.labels); i += 2 {
				if name := s.labels[i]; name != "__name__" && name != "job" && name != "instance" {
					text = fmt.Appendf(text, "%s=%q,", name, s.labels[i+1])
				}
			}
			if !e.Add(target, s.label("__name__"), text, s.value, s.at) {
				panic(string(text))
			}
		}
		bytes += len(e.Body())
		e.Reset()
	}
	return float64(bytes) / float64(len(scrape))
}

// batchLen is of how many samples the exporter's requests are.
const batchLen = 2000

var seed = maphash.MakeSeed()
