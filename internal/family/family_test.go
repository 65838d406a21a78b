package family

import (
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"unique"

	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/state"
	"metrics-server-prom/internal/store"
)

func none(*state.Samples, *state.Object) {}

func value(u *label.Usage, i int) float64 { return u.Samples[i].CPU }

// table has a page of usage and two of state.
var table = Table{
	{Name: "used", Kind: "gauge", Help: "Of nodes and pods.", Source: "nodes", Labels: (*label.Usage).Node, Value: value},
	{Name: "used", Source: "pods", Labels: (*label.Usage).Pod, Value: value},
	{Page: "a", Name: "kube_node_status_allocatable", Kind: "gauge", Help: "A.", Source: "nodes", State: none},
	{Page: "a", Name: "kube_pod_labels", Kind: "gauge", Help: "B.", Source: "pods", State: none},
	{Page: "a", Name: "c_total", Kind: "counter", Help: "C.", Source: "pods", State: none},
	{Page: "b", Name: "d", Kind: "gauge", Help: "D.", Source: "nodes", State: none},
}.WithHeaders()

func textOf(t *testing.T, parts ...*page.Part) string {
	var text strings.Builder
	if err := page.New(parts...).WriteText(io.Writer(&text)); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestTwoRowsOfANameAreOneFamily(t *testing.T) {
	if table[0].Header != table[1].Header || table[1].Kind != "gauge" {
		t.Errorf("the second has the header %v and is a %q", table[1].Header, table[1].Kind)
	}
	if got := textOf(t, table[4].Header); got != "# HELP c_total C.\n# TYPE c_total counter\n" {
		t.Errorf("header %q", got)
	}
}

func TestRows(t *testing.T) {
	for name, test := range map[string]struct {
		source           string
		pages, podLabels []string
		top              bool
		want             []uint8
	}{
		"no page is on":                                {"nodes", nil, nil, false, nil},
		"of one page":                                  {"nodes", []string{"a"}, nil, false, []uint8{2}},
		"of two pages":                                 {"nodes", []string{"b", "a"}, nil, false, []uint8{2, 5}},
		"pods' labels only where there are some":       {"pods", []string{"a"}, nil, false, []uint8{4}},
		"pods' labels":                                 {"pods", []string{"a"}, []string{"app"}, false, []uint8{3, 4}},
		"what the page for people needs":               {"nodes", nil, nil, true, []uint8{2}},
		"what it needs beside another page":            {"nodes", []string{"b"}, nil, true, []uint8{5, 2}},
		"what it needs and a page has is there once":   {"nodes", []string{"a"}, nil, true, []uint8{2}},
		"the page for people needs nothing else of it": {"pods", nil, nil, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			rows := table.Rows(test.source, test.pages, test.podLabels)
			if test.top {
				rows = table.Needed(test.source, test.pages, true)
			}
			var got []uint8
			for _, row := range rows {
				got = append(got, row.Family)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("families %v, want %v", got, test.want)
			}
		})
	}
	if wanted := table.WantedBy("b"); !wanted("nodes") || wanted("pods") {
		t.Error("page b wants nodes only")
	}
}

// TestRender leaves out what has no value, or no labels, and cuts parts where it is told to.
func TestRender(t *testing.T) {
	pod := &store.Object[sample.Text]{Value: sample.Text{Node: unique.Make(`node="n",pod="`),
		Head: `p",ip="1",container="`, Tail: unique.Make(`",namespace="s"}`)}}
	b := &sample.Batch{Names: []string{"c", "d", "e"}}
	for i, cpu := range []float64{0.5, math.NaN(), 3} {
		s := sample.New(pod, uint32(i), 1)
		s.CPU = cpu
		b.Samples = append(b.Samples, s)
	}
	const want = `used{node="n",pod="p",ip="1",container="c",namespace="s"} 0.5` + "\n" +
		`used{node="n",pod="p",ip="1",container="e",namespace="s"} 3` + "\n"
	for _, partLen := range []int{1, 2, 3, PartLen} {
		parts, n := table[1].Render(new(page.Compressor), &label.Usage{Batch: b}, partLen)
		if got := textOf(t, parts...); got != want || n != 2 || len(parts) != (2+partLen)/partLen {
			t.Errorf("parts of %d: %d samples in %d parts:\n%s", partLen, n, len(parts), got)
		}
	}
	mute := &Family{Name: "m", Labels: func(*label.Usage, []byte, int) []byte { return nil }, Value: value}
	if parts, n := mute.Render(new(page.Compressor), &label.Usage{Batch: b}, PartLen); n != 0 || parts[0] != nil {
		t.Errorf("%d samples without labels", n)
	}
}
