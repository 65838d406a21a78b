package exporter

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Page is one scrape.
type Page struct {
	Status int
	Header http.Header
	Wire   []byte        // the body as it was sent
	Took   time.Duration // from the request to the last byte of the body
	Text   string        // the body, decompressed; empty before Parse

	// Samples, filled by Parse, has the value of each series by its text on the page, name{label="value",...}.
	Samples map[string]float64
	// Families, filled by Parse, is what Prometheus' own parser made of the text.
	Families map[string]*dto.MetricFamily
}

// client asks for gzip itself or not at all, so that the bytes on the wire can be looked at.
var client = &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}}

// Get gets one of the exporter's pages.
func (e *Exporter) Get(ctx context.Context, path string) (status int, body string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.URL+path, nil)
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// Fetch reads /metrics compressed, without looking into it: what a scrape costs. A status other than 200 is an error.
func (e *Exporter) Fetch(ctx context.Context) (*Page, error) {
	return e.fetch(ctx, "/metrics", "gzip")
}

// Scrape reads /metrics compressed and parses it strictly: see Parse. A status other than 200 is an error.
func (e *Exporter) Scrape(ctx context.Context) (*Page, error) { return e.ScrapePage(ctx, "/metrics") }

// ScrapePage is Scrape for another page.
func (e *Exporter) ScrapePage(ctx context.Context, path string) (*Page, error) {
	page, err := e.fetch(ctx, path, "gzip")
	if err != nil {
		return page, err
	}
	return page, page.Parse()
}

// ScrapePlain is Scrape for a client that does not take gzip.
func (e *Exporter) ScrapePlain(ctx context.Context) (*Page, error) {
	page, err := e.fetch(ctx, "/metrics", "identity")
	if err != nil {
		return page, err
	}
	return page, page.Parse()
}

// fetch reads a page. With a status other than 200 it is there too, but an error.
func (e *Exporter) fetch(ctx context.Context, path, encoding string) (*Page, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.URL+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept-Encoding", encoding)
	start := time.Now()
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	body.Grow(int(max(response.ContentLength, 0)) + bytes.MinRead)
	if _, err := body.ReadFrom(response.Body); err != nil {
		return nil, err
	}
	page := &Page{Status: response.StatusCode, Header: response.Header, Wire: body.Bytes(), Took: time.Since(start)}
	if page.Status != http.StatusOK {
		return page, fmt.Errorf("%s answers %d: %.300s", path, page.Status, page.Wire)
	}
	return page, nil
}

// Parse fills Text, Samples and Families. It refuses a body of more than one gzip member, a family in more than one
// block, a second HELP or TYPE, a series that is there twice, and whatever Prometheus' own parser refuses.
func (p *Page) Parse() error {
	text, err := p.Decompress()
	if err != nil {
		return err
	}
	p.Text = text
	parser := expfmt.NewTextParser(model.LegacyValidation)
	if p.Families, err = parser.TextToMetricFamilies(strings.NewReader(p.Text)); err != nil {
		return err
	}
	return p.readSamples()
}

// Decompress is the body's text, from one gzip member if it is compressed; more than one is an error.
func (p *Page) Decompress() (string, error) {
	if p.Header.Get("Content-Encoding") != "gzip" {
		return string(p.Wire), nil
	}
	wire := bytes.NewReader(p.Wire)
	member, err := gzip.NewReader(wire)
	if err != nil {
		return "", err
	}
	member.Multistream(false)
	text, err := io.ReadAll(member)
	if err != nil {
		return "", err
	}
	if wire.Len() > 0 {
		return "", fmt.Errorf("%d bytes follow the first gzip member", wire.Len())
	}
	return string(text), nil
}

func (p *Page) readSamples() error {
	p.Samples = make(map[string]float64, strings.Count(p.Text, "\n"))
	var (
		seen    = map[string]bool{} // comments and families whose block has begun
		current string              // the family whose block this is
	)
	for line := range strings.Lines(p.Text) {
		line, ended := strings.CutSuffix(line, "\n")
		if !ended {
			return fmt.Errorf("the last line has no end: %q", line)
		}
		if line == "" {
			return fmt.Errorf("an empty line after %q", current)
		}
		if strings.HasPrefix(line, "# ") {
			fields := strings.SplitN(line, " ", 4) // # HELP name text
			if len(fields) < 4 || seen[fields[1]+fields[2]] {
				return fmt.Errorf("comment without text or for the second time: %q", line)
			}
			seen[fields[1]+fields[2]] = true
			continue
		}
		space := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		series := line[:max(space, 0)]
		if _, twice := p.Samples[series]; twice {
			return fmt.Errorf("series twice on the page: %s", series)
		}
		p.Samples[series] = value
		if family := p.family(series); family != current {
			if seen[family] {
				return fmt.Errorf("family %s has more than one block", family)
			}
			seen[family], current = true, family
		}
	}
	return nil
}

// family is the name of the family that a series belongs to: its name, without the endings of a histogram's or
// summary's series.
func (p *Page) family(series string) string {
	name, _, _ := strings.Cut(series, "{")
	for _, ending := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, ending); ok && p.Families[base] != nil {
			return base
		}
	}
	return name
}

// Of is what the page has of one of several clusters.
func (p *Page) Of(cluster string) *Page {
	of := *p
	of.Samples, of.Families = map[string]float64{}, map[string]*dto.MetricFamily{}
	for series, value := range p.Samples {
		if strings.HasSuffix(series, fmt.Sprintf("cluster=%q}", cluster)) {
			of.Samples[series] = value
		}
	}
	for name, family := range p.Families {
		all := &dto.MetricFamily{Name: family.Name, Help: family.Help, Type: family.Type}
		for _, metric := range family.GetMetric() {
			if hasLabels(metric, map[string]string{"cluster": cluster}) {
				all.Metric = append(all.Metric, metric)
			}
		}
		if len(all.Metric) > 0 {
			of.Families[name] = all
		}
	}
	return &of
}

// Family is the page's samples of one family.
func (p *Page) Family(name string) map[string]float64 {
	family := map[string]float64{}
	for series, value := range p.Samples {
		if strings.HasPrefix(series, name+"{") || series == name {
			family[series] = value
		}
	}
	return family
}

// Series is the text of a series with its labels in the order of their names.
func Series(name string, labels map[string]string) string {
	pairs := make([]string, 0, len(labels))
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, fmt.Sprintf("%s=%q", label, labels[label]))
	}
	return name + "{" + strings.Join(pairs, ",") + "}"
}

// Series is all samples of the page, by Series' text. It leaves out histograms and summaries.
func (p *Page) Series() map[string]float64 {
	samples := make(map[string]float64, len(p.Samples))
	for name, family := range p.Families {
		for _, metric := range family.GetMetric() {
			if metric.Histogram != nil || metric.Summary != nil {
				continue
			}
			samples[Series(name, Labels(metric))] = value(metric)
		}
	}
	return samples
}

// Labels is a metric's labels by their names.
func Labels(metric *dto.Metric) map[string]string {
	labels := make(map[string]string, len(metric.GetLabel()))
	for _, label := range metric.GetLabel() {
		labels[label.GetName()] = label.GetValue()
	}
	return labels
}

// value is that of a counter or gauge. Of the three a metric has one; the getters of the others say 0.
func value(metric *dto.Metric) float64 {
	return metric.GetGauge().GetValue() + metric.GetCounter().GetValue() + metric.GetUntyped().GetValue()
}

// Sum adds up a family's counters and gauges that have these labels, whatever other labels they have, and says how many
// there were.
func (p *Page) Sum(family string, labels map[string]string) (sum float64, series int) {
	for _, metric := range p.Families[family].GetMetric() {
		if hasLabels(metric, labels) {
			sum += value(metric)
			series++
		}
	}
	return sum, series
}

func hasLabels(metric *dto.Metric, labels map[string]string) bool {
	found := 0
	for _, label := range metric.GetLabel() {
		if value, ok := labels[label.GetName()]; ok && value == label.GetValue() {
			found++
		}
	}
	return found == len(labels)
}
