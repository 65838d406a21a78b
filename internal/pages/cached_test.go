package pages

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"metrics-server-prom/internal/family"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/store"
)

func one(*label.Usage, int) float64 { return 1 }

var testTable = family.Table{
	{Name: "node", Kind: "gauge", Source: "nodes", Labels: (*label.Usage).Node, Value: one, Help: "Nodes."},
	{Page: family.Cadvisor, Name: "root", Kind: "gauge", Source: "nodes", Labels: (*label.Usage).Root, Value: one,
		Help: "Roots."},
	{Page: family.Cadvisor, Name: "root", Source: "pods", Labels: (*label.Usage).Node, Value: one},
}.WithHeaders()

// nodes is a snapshot of nodes with these names.
func nodes(cluster string, names ...string) *Snapshot {
	b := &sample.Batch{Names: names, Oldest: 1}
	for i := range names {
		b.Samples = append(b.Samples, sample.New(&store.Object[sample.Text]{}, uint32(i), 1))
	}
	s := NewSnapshot(testTable, label.Cluster(cluster), "nodes", b)
	s.Read = func(f func(*sample.Batch)) { f(b) }
	return s
}

func text(t *testing.T, p *page.Page) string {
	t.Helper()
	var b strings.Builder
	if err := p.WriteText(&b); err != nil {
		t.Error(err)
	}
	return b.String()
}

func TestEachFamilyStandsOnceForAllClusters(t *testing.T) {
	all := []Shown{{Snapshots: []*Snapshot{nodes("eu", "a", "b")}}, {Failed: io.EOF},
		{Snapshots: []*Snapshot{nodes("us", "a")}}}
	self := func(w io.Writer) { io.WriteString(w, "self 1\n") }
	set := NewSet(testTable, []string{"", family.Cadvisor}, self, func(string) {})
	defer set.Close()
	const missing = "# cluster asia is missing: no data yet\n"
	for name, want := range map[string]string{
		"": "# HELP node Nodes.\n# TYPE node gauge\nnode{node=\"a\",cluster=\"eu\"} 1\nnode{node=\"b\",cluster=\"eu\"} 1\n" +
			"node{node=\"a\",cluster=\"us\"} 1\nself 1\n",
		family.Cadvisor: "# HELP root Roots.\n# TYPE root gauge\nroot{id=\"/\",node=\"a\",cluster=\"eu\"} 1\n" +
			"root{id=\"/\",node=\"b\",cluster=\"eu\"} 1\nroot{id=\"/\",node=\"a\",cluster=\"us\"} 1\n",
	} {
		if got := text(t, set[name].Page(all, missing)); got != want+missing {
			t.Errorf("%q:\n%s\nwant:\n%s", name, got, want+missing)
		}
	}
}

// TestPagesOfTheSameAreMadeAtOnce is of all clusters' page and single ones', which are asked for at the same moment.
func TestPagesOfTheSameAreMadeAtOnce(t *testing.T) {
	many := make([]string, 2000)
	for i := range many {
		many[i] = fmt.Sprint("node-", i)
	}
	for range 5 {
		eu, us := Shown{Snapshots: []*Snapshot{nodes("eu", many...)}}, Shown{Snapshots: []*Snapshot{nodes("us", many...)}}
		var making sync.WaitGroup
		for _, all := range [][]Shown{{eu, us}, {eu}, {us}, {us, eu}} {
			set := NewSet(testTable, []string{"", family.Cadvisor}, func(io.Writer) {}, func(string) {})
			defer set.Close()
			for name, prefix := range map[string]string{"": "\nnode{", family.Cadvisor: "\nroot{"} {
				making.Go(func() {
					if got := strings.Count(text(t, set[name].Page(all, "")), prefix); got != len(all)*len(many) {
						t.Errorf("%q of %d clusters: %d samples", name, len(all), got)
					}
				})
			}
		}
		making.Wait()
	}
}

func TestAPageIsMadeAnewWhereItSaysSomethingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := NewSet(testTable, []string{"", family.Cadvisor}, func(io.Writer) {}, func(string) {})
		defer set.Close()
		all := []Shown{{Snapshots: []*Snapshot{nodes("eu", "a")}}, {Failed: io.EOF}}
		for name, p := range set {
			first := p.Page(all, "# x\n")
			if p.Page([]Shown{all[0], {Failed: io.ErrUnexpectedEOF}}, "# x\n") != first {
				t.Errorf("%q: it is made anew for nothing", name)
			}
			if p.Page(all, "# y\n") == first {
				t.Errorf("%q: another one is missing, and yet it is the same", name)
			}
			if p.Page(append(all, all[0]), "# y\n") == first {
				t.Errorf("%q: there is another cluster, and yet it is the same", name)
			}
			first = p.Page(all, "")
			time.Sleep(SelfAge)
			if again := p.Page(all, ""); (again == first) != (name != "") {
				t.Errorf("%q after a second: the same %t", name, again == first)
			}
		}
	})
}

func TestPagesThatNobodyAsksForAreReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var released []string
		release := func(name string) { released = append(released, name) }
		set := NewSet(testTable, []string{"", family.Cadvisor}, func(io.Writer) {}, release)
		time.Sleep(MaxUnused - 1)
		set[""].Unused.Reset(MaxUnused)
		time.Sleep(2 * time.Nanosecond)
		synctest.Wait()
		if len(released) != 1 || released[0] != family.Cadvisor {
			t.Errorf("released %q", released)
		}
		set.Close()
		time.Sleep(2 * MaxUnused)
		if len(released) != 1 {
			t.Errorf("released %q after the end", released)
		}
	})
}
