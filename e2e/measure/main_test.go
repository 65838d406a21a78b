package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// TestMain makes the test binary the static server where the test runs it as that, as main does.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == staticServer {
		if err := serveChild(os.Args[1:]); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestOnlySamplesWithANodeCountForACompletePage(t *testing.T) {
	const page = `# HELP kube_metrics_server_pod_cpu x
kube_metrics_server_node_cpu{node="n"} 1
kube_metrics_server_pod_cpu{node="n",pod="p",ip="1.2.3.4",container="c",namespace="x"} 1
kube_metrics_server_pod_cpu{node="",pod="q",ip="",container="c",namespace="x"} 1
metrics_server_prom_up{resource="pods"} 1
`
	if n := countSamples(page); n != 2 {
		t.Errorf("%d samples, want 2", n)
	}
}

func TestServedFindsTheValueAmongSeveralContainers(t *testing.T) {
	const page = "a 1\nx{pod=\"p\",c=\"1\"} 1\nx{pod=\"p\",c=\"2\"} 2.5\nx{pod=\"q\"} 3\n"
	for value, want := range map[float64]bool{1: true, 2.5: true, 3: false} {
		if got := served(page, `x{pod="p"`, value); got != want {
			t.Errorf("served(%v) = %v", value, got)
		}
	}
	if value, ok := valueOf(page, "a "); !ok || value != 1 {
		t.Errorf("value of the first line: %v, %v", value, ok)
	}
}

func TestStaticServerSendsTheFile(t *testing.T) {
	page := bytes.Repeat([]byte("any bytes"), 1000)
	path := filepath.Join(t.TempDir(), "page.gz")
	if err := os.WriteFile(path, page, 0o600); err != nil {
		t.Fatal(err)
	}
	server, err := startChild(staticServer, path)
	if err != nil {
		t.Fatal(err)
	}
	url, err := server.line()
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || !bytes.Equal(got, page) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	server.close()
	if _, err := client.Get(url); err == nil {
		t.Error("it still answers")
	}
}

func TestQuantile(t *testing.T) {
	values := []int{9, 1, 8, 2, 7, 3, 6, 4, 5, 10}
	if m, p, most := median(values), quantile(values, 0.95), quantile(values, 1); m != 6 || p != 10 || most != 10 {
		t.Errorf("median %d, p95 %d, maximum %d", m, p, most)
	}
	if quantile([]int(nil), 0.5) != 0 {
		t.Error("no values have a median")
	}
}

func TestTableTellsWhichGoalIsMissed(t *testing.T) {
	var table bytes.Buffer
	reached, err := printTable(&table, "x", []result{fact("a", "1"), {"b", "≤ 1", "2", false}})
	if err != nil || reached || !bytes.Contains(table.Bytes(), []byte("MISSED")) {
		t.Errorf("reached %v, %v:\n%s", reached, err, &table)
	}
	if reached, _ := printTable(io.Discard, "x", []result{fact("a", "1"), {"b", "≤ 2", "2", true}}); !reached {
		t.Error("a row without a goal, and one that has reached it, are not enough")
	}
}

func TestNumbersOfAProcess(t *testing.T) {
	before, err := process.CPUOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; {
		if now, err := process.CPUOf(os.Getpid()); err != nil || now > before {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatal("a minute of work shows no CPU time")
		}
	}
	held := make([]byte, 64<<20)
	for i := range held {
		held[i] = 1
	}
	if m, err := process.MemoryOf(os.Getpid()); err != nil || m.Now < int64(len(held)) || m.Peak < m.Now {
		t.Errorf("memory %+v with %d bytes in use, %v", m, len(held), err)
	}
}

func TestCgroupCountsWhatItsProgramHas(t *testing.T) {
	cgroup, err := process.NewCgroup()
	if err != nil {
		t.Skip(err) // an unprivileged user has none
	}
	program, err := process.Start(process.Command{
		Name: "dd", Path: "/bin/dd", Args: []string{"if=/dev/zero", "of=/dev/null", "bs=32M", "count=1"},
		Log: filepath.Join(t.TempDir(), "log"), Cgroup: cgroup,
	})
	if err != nil {
		t.Fatal(err)
	}
	<-program.Done()
	if peak, err := cgroup.Peak(); err != nil || peak < 32<<20 || peak > 128<<20 {
		t.Errorf("peak %d for a buffer of 32 MiB, %v; log: %s", peak, err, program.Log())
	}
	if err := cgroup.Remove(); err != nil {
		t.Error(err)
	}
}

func TestValuesAreComparedWithAllTheirLabels(t *testing.T) {
	common := map[string]string{"namespace": "n", "pod": "p"}
	want := series{}
	want.add(1, "kube_pod_info", common, "node", "", "uid", "u")
	want.add(2.5, "kube_pod_container_resource_limits", common, "container", "c")
	const page = `# HELP kube_pod_info x
kube_pod_info{namespace="n",pod="p",uid="u",node=""} 1
kube_pod_info{namespace="n",pod="other",uid="v",node=""} 1
kube_pod_owner{namespace="n",pod="p"} 1
kube_node_info{node="n"} 1
kube_pod_container_resource_limits{namespace="n",pod="p",container="c"} 2.5
`
	for name, c := range map[string]struct {
		page  string
		equal bool
	}{
		"the same, with other pods and families": {page, true},
		"another value":                          {strings.Replace(page, "2.5", "2", 1), false},
		"another label":                          {strings.Replace(page, `uid="u"`, `uid="w"`, 1), false},
		"one label more":                         {strings.Replace(page, `uid="u"`, `uid="u",more=""`, 1), false},
		"a sample is missing":                    {strings.Replace(page, `container="c"`, `container="d"`, 1), false},
		"a sample more":                          {page + strings.Split(page, "\n")[5] + "\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			err := different(&exporter.Page{Wire: []byte(c.page)}, map[string]bool{"n/p": true}, want)
			if (err == nil) != c.equal {
				t.Error(err)
			}
		})
	}
}

func TestExactCPUIsThatOfTheKernelsOtherCount(t *testing.T) {
	exact, err := process.ExactCPUOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	coarse, err := process.CPUOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if exact <= 0 || (exact-coarse).Abs() > 200*time.Millisecond {
		t.Errorf("%s, by /proc %s", exact, coarse)
	}
	if _, err := process.ExactCPUOf(1 << 22); err == nil {
		t.Error("there is no such process")
	}
}
