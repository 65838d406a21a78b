package selfmetrics

import (
	"bytes"
	"io"
	"math"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"weak"
)

func text(r *Registry) string {
	var b strings.Builder
	r.Write(&b)
	return b.String()
}

func TestFamiliesStandTogetherBelowOneHeader(t *testing.T) {
	var r Registry
	process, cluster := r.Scope(""), r.Scope(`cluster="eu"`)
	cluster.Counter("requests_total", "Requests.", `code="200"`).Add(2)
	process.Gauge("up", "Whether it works.", "", func() float64 { return 1 })
	cluster.FloatCounter("cpu_seconds_total", "CPU time.", "").Add(0.25)
	cluster.FloatCounter("cpu_seconds_total", "CPU time.", "").Add(1)
	process.Counter("requests_total", "Requests.", `code="503"`).Inc()
	process.Counter("requests_total", "Requests.", `code="503"`).Inc()
	cluster.Gauge("unknown", "Nothing yet.", "", func() float64 { return math.NaN() })
	process.Histogram("seconds", "Time.", `resource="pods"`, []float64{1, 2}).Update(1.5)
	want := `# HELP metrics_server_prom_cpu_seconds_total CPU time.
# TYPE metrics_server_prom_cpu_seconds_total counter
metrics_server_prom_cpu_seconds_total{cluster="eu"} 1.25
# HELP metrics_server_prom_requests_total Requests.
# TYPE metrics_server_prom_requests_total counter
metrics_server_prom_requests_total{code="200",cluster="eu"} 2
metrics_server_prom_requests_total{code="503"} 2
# HELP metrics_server_prom_seconds Time.
# TYPE metrics_server_prom_seconds histogram
metrics_server_prom_seconds_bucket{resource="pods",le="1"} 0
metrics_server_prom_seconds_bucket{resource="pods",le="2"} 1
metrics_server_prom_seconds_bucket{resource="pods",le="+Inf"} 1
metrics_server_prom_seconds_sum{resource="pods"} 1.5
metrics_server_prom_seconds_count{resource="pods"} 1
# HELP metrics_server_prom_up Whether it works.
# TYPE metrics_server_prom_up gauge
metrics_server_prom_up 1
`
	if got := text(&r); got != want {
		t.Errorf("written:\n%s\nwant:\n%s", got, want)
	}
}

func TestTheLabelsOfAScopeComeLast(t *testing.T) {
	for _, labels := range []string{`cluster="eu"`, `cluster="a,le=\"1\"} \\,\n{"`, `cluster=",le="`} {
		var r Registry
		s := r.Scope(labels)
		r.Scope("").Histogram("seconds", "Time.", "", []float64{1}).Update(1)
		r.Scope(`cluster="eu2"`).Counter("requests_total", "Requests.", "").Inc()
		s.Histogram("seconds", "Time.", "", []float64{1}).Update(1)
		s.Histogram("seconds", "Time.", `resource="pods"`, []float64{1}).Update(1)
		s.Gauge("up", "Whether it works.", `resource="pods"`, func() float64 { return 1 })
		var own strings.Builder
		s.Write(&own)
		got := map[string]int{}
		for line := range strings.Lines(own.String()) {
			end := strings.LastIndex(line, "} ")
			if strings.HasPrefix(line, "#") {
				continue
			}
			if !strings.HasSuffix(line[:end], labels) || strings.Contains(line[:end-len(labels)], "cluster=") {
				t.Error(line)
			}
			got[strings.TrimPrefix(line[:end-len(labels)], Prefix)]++
		}
		for _, want := range []string{`seconds_bucket{le="1",`, `seconds_bucket{le="+Inf",`, `seconds_sum{`,
			`seconds_bucket{resource="pods",le="1",`, `seconds_count{resource="pods",`, `up{resource="pods",`} {
			if got[want] != 1 {
				t.Errorf("%d of %s in:\n%s", got[want], want, own.String())
			}
		}
		if len(got) != 9 || strings.Count(own.String(), "# TYPE ") != 2 {
			t.Errorf("%v in:\n%s", got, own.String())
		}
		if all := text(&r); strings.Count(all, "\n") != strings.Count(own.String(), "\n")+4+3 {
			t.Errorf("all:\n%s", all)
		}
	}
}

func TestClosedScopeTakesOnlyItsOwnAway(t *testing.T) {
	var r Registry
	former, successor := r.Scope(""), r.Scope("")
	former.Gauge("up", "Whether it works.", "", func() float64 { return 0 })
	former.Gauge("age", "Age.", "", func() float64 { return 9 })
	former.Counter("tries_total", "Tries.", "").Inc()
	successor.Gauge("up", "Whether it works.", "", func() float64 { return 1 })
	successor.Counter("tries_total", "Tries.", "").Inc()
	former.Close()
	want := Header(Prefix+"tries_total", "counter", "Tries.") + Prefix + "tries_total 2\n" +
		Header(Prefix+"up", "gauge", "Whether it works.") + Prefix + "up 1\n"
	if got := text(&r); got != want {
		t.Errorf("written:\n%s\nwant:\n%s", got, want)
	}
}

func TestGaugeMayRegister(t *testing.T) {
	var r Registry
	s := r.Scope("")
	s.Gauge("a", "A gauge.", "", func() float64 { s.Counter("b_total", "A counter.", "").Inc(); return 1 })
	r.Write(io.Discard)
	if got := text(&r); !strings.Contains(got, "b_total 2\n") && !strings.Contains(got, "b_total 1\n") {
		t.Errorf("written:\n%s", got)
	}
}

// TestEachSampleOfAText writes the text from what Each tells of it: nothing may be lost or changed.
func TestEachSampleOfAText(t *testing.T) {
	var r Registry
	s := r.Scope(`cluster="eu"`)
	s.Counter("requests_total", "Requests, of TYPE counter 1.", `reason="} 7 {a=\"b\\n\\"`).Add(2)
	s.Gauge("age", "Age.", "", func() float64 { return -0.25 })
	s.Gauge("left", "Left.", "", func() float64 { return math.Inf(1) })
	s.Histogram("seconds", "Time.", `resource="pods"`, []float64{1, 2}).Update(1e-9)
	for name, write := range map[string]func(io.Writer){
		"no metrics": new(Registry).Write, "registered ones": r.Write, "those of the process": WriteProcess,
	} {
		t.Run(name, func(t *testing.T) {
			var written bytes.Buffer
			write(&written)
			var again strings.Builder
			family := ""
			for line := range strings.Lines(written.String()) {
				if strings.HasPrefix(line, "#") {
					family = strings.Join(strings.Fields(line)[2:], " ")
				} else {
					end := strings.LastIndex(line, " ")
					value, err := strconv.ParseFloat(strings.TrimSpace(line[end:]), 64)
					if err != nil {
						t.Fatal(err)
					}
					again.WriteString("# TYPE " + family + "\n")
					WriteSample(&again, line[:end], value) // in the form that the one below has
				}
			}
			var got strings.Builder
			Each(written.Bytes(), func(kind string, name, labels []byte, value float64) {
				family, sample := string(name), string(name)
				if kind == "histogram" || kind == "summary" {
					family = regexp.MustCompile("_(bucket|sum|count)$").ReplaceAllString(family, "")
				}
				if len(labels) > 0 {
					sample += "{" + string(labels) + "}"
				}
				got.WriteString("# TYPE " + family + " " + kind + "\n")
				WriteSample(&got, sample, value)
			})
			if got.String() != again.String() {
				t.Errorf("told:\n%s\nwritten:\n%s", got.String(), again.String())
			}
		})
	}
}

// TestProcessMetricsHaveHelpAndType goes by the exposition format: a header before each family, no family twice.
func TestProcessMetricsHaveHelpAndType(t *testing.T) {
	var b strings.Builder
	WriteProcess(&b)
	kind := regexp.MustCompile(`^# TYPE (\S+) (counter|gauge|histogram|summary)$`)
	seen := map[string]bool{}
	family := ""
	for line := range strings.Lines(b.String()) {
		line = strings.TrimSuffix(line, "\n")
		switch m := kind.FindStringSubmatch(line); {
		case m != nil:
			if family = m[1]; seen[family] {
				t.Errorf("%s twice", family)
			}
			seen[family] = true
		case strings.HasPrefix(line, "# HELP "):
			if len(strings.Fields(line)) < 4 {
				t.Errorf("no help: %s", line)
			}
		case strings.HasPrefix(line, "#"), !strings.HasPrefix(line, family), family == "":
			t.Errorf("below the header of %q: %s", family, line)
		}
		if strings.HasSuffix(family, "_total") && strings.HasSuffix(line, " gauge") {
			t.Errorf("a counter by its name: %s", line)
		}
	}
	for _, name := range []string{"go_goroutines", "go_gc_duration_seconds", "process_resident_memory_bytes",
		"process_io_read_bytes_total"} {
		if !seen[name] {
			t.Errorf("no %s", name)
		}
	}
}

func TestNumbers(t *testing.T) {
	for value, want := range map[float64]string{0: "0", 1: "1", 1 << 52: "4503599627370496", 0.007: "0.007",
		9.007199254740992e+15: "9.007199254740992e+15", -1: "-1", 0.378089386: "0.378089386"} {
		var b strings.Builder
		if WriteSample(&b, "x", value); b.String() != "x "+want+"\n" {
			t.Errorf("%v is written as %q, want %s", value, b.String(), want)
		}
	}
}

// TestClosedScopeKeepsNothing has gauges of something large, such as the pods of a cluster that is not configured any
// more.
func TestClosedScopeKeepsNothing(t *testing.T) {
	var r Registry
	s := r.Scope("")
	held := new([1 << 20]byte)
	former := weak.Make(held)
	for _, name := range []string{"a", "b", "c"} {
		s.Gauge(name, "A gauge.", "", func() float64 { return float64(held[0]) })
	}
	s.Close()
	if runtime.GC(); former.Value() != nil {
		t.Error("what the gauges were of is kept")
	}
	runtime.KeepAlive(&r)
}
