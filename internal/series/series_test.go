package series

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unique"

	"metrics-server-prom/internal/family"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/push/standin"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/store"
)

// TestMain keeps quiet what pushes log.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// taker is a receiver and a pusher to it, whose job is j and whose instance is i.
type taker struct {
	standin.Receiver
	t      testing.TB
	pusher push.Pusher
	self   selfmetrics.Registry
	epoch  int64 // Unix ms, of feeder
}

// newTaker has the pusher send batches of so many series; 0 is its standard.
func newTaker(t testing.TB, batch int) *taker {
	r := &taker{t: t}
	r.Ignored = []string{"go_", "process_"}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	t.Cleanup(func() {
		for _, fault := range r.Faults() {
			t.Error(fault)
		}
	})
	r.pusher = push.Pusher{URL: server.URL, Format: push.RemoteWrite, Instance: "i", Interval: time.Minute, Batch: batch}
	r.pusher.Register(r.self.Scope(""))
	return r
}

// push does one push of what f adds.
func (r *taker) push(f func(ctx context.Context, o *push.Out) error) error {
	r.pusher.Series = func(ctx context.Context, o *push.Out, _ bool) error { return f(ctx, o) }
	_, err := r.pusher.Once(r.t.Context())
	return err
}

// refusesAll is an answer of a receiver that takes nothing of this sender: the push is over. refuses is one to a single
// request, which is not sent again.
func refusesAll() (int, bool) { return http.StatusForbidden, false }
func refuses() (int, bool)    { return http.StatusBadRequest, false }

// want compares all that the receiver has, as it is printed, with what it is to have.
func (r *taker) want(want map[string]string) {
	r.t.Helper()
	got := map[string]string{}
	for series, samples := range r.Samples() {
		got[series] = fmt.Sprint(samples)
	}
	if maps.Equal(got, want) {
		return
	}
	for _, series := range slices.Sorted(maps.Keys(got)) {
		if got[series] != want[series] {
			r.t.Errorf("%s has %s, want %s", series, got[series], want[series])
		}
	}
	for series := range want {
		if got[series] == "" {
			r.t.Errorf("%s is missing, want %s", series, want[series])
		}
	}
}

// cpu, memory and nodeCPU are families of usage.
var cpu = &family.Family{Name: "cpu", Labels: (*label.Usage).Pod, Source: "pods", Kind: "gauge",
	Value: func(u *label.Usage, i int) float64 { return u.Samples[i].CPU }}
var memory = &family.Family{Name: "mem", Labels: (*label.Usage).Pod, Source: "pods", Kind: "gauge",
	Value: func(u *label.Usage, i int) float64 { return u.Samples[i].Memory }}
var nodeCPU = &family.Family{Name: "cpu", Labels: (*label.Usage).Node, Source: "nodes", Kind: "gauge", Value: cpu.Value}

// of is the name of the series that one of these families has of the container c of a pod of namespace s, or of a node.
func of(family, pod, ip string) string {
	return fmt.Sprintf(`%s{container="c",instance="i",ip=%q,job="j",namespace="s",node="n",pod=%q}`, family, ip, pod)
}

func ofNode(name string) string { return fmt.Sprintf(`cpu{instance="i",job="j",node=%q}`, name) }

// usageOf is what is known of a list, of which nothing was sent yet.
func (r *taker) usageOf(families ...*family.Family) *Usage {
	u := &Usage{MaxAge: time.Hour}
	for _, f := range families {
		u.Rows = append(u.Rows, Row{f, r.pusher.Target("j")})
	}
	return u
}

func pod(namespace, name, ip string) *store.Object[sample.Text] {
	return &store.Object[sample.Text]{Value: sample.Text{Node: unique.Make(`node="n",pod="`),
		Head: name + `",ip="` + ip + `",container="`, Tail: unique.Make(`",namespace="` + namespace + `"}`)}}
}

// node stands for the pod of all nodes.
var node = &store.Object[sample.Text]{}

// usage is what a list has: readings of containers or nodes, those of a pod together.
type usage []reading

type reading struct {
	pod         *store.Object[sample.Text]
	name        string
	at          int64
	cpu, memory float64
}

var version atomic.Uint64

// read gives the list as a batch, each time a new one.
func (u usage) read(f func(*sample.Batch)) {
	index := map[string]uint32{}
	b := &sample.Batch{Version: version.Add(1), Ordered: slices.IsSortedFunc(u, func(a, b reading) int {
		return keyOf(a.pod, a.name).Compare(keyOf(b.pod, b.name))
	})}
	for _, r := range u {
		i, known := index[r.name]
		if !known {
			i = uint32(len(b.Names))
			index[r.name], b.Names = i, append(b.Names, r.name)
		}
		s := sample.New(r.pod, i, r.at)
		s.CPU, s.Memory = r.cpu, r.memory
		b.Samples = append(b.Samples, s)
	}
	f(b)
}

// none is a usage that is missing.
var none = math.NaN()

// things are objects by name, whose value is their samples: the values of a label l, separated by spaces.
func things(values map[string]string) []*store.Leaf[string] {
	leaf := &store.Leaf[string]{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		leaf.Entries = append(leaf.Entries, store.Entry[string]{Key: store.Key{Name: name},
			Object: &store.Object[string]{Value: values[name]}})
	}
	return []*store.Leaf[string]{leaf}
}

// objects is the family f of such objects, of which nothing was sent yet.
func (r *taker) objects() *Objects[string] {
	return &Objects[string]{Names: []string{"f"}, Target: r.pusher.Target("j"),
		Each: func(e store.Entry[string], f func(uint8, []byte, float64)) {
			for _, value := range strings.Fields(e.Value) {
				f(0, label.Append(nil, "l", value), 1)
			}
		}}
}

func ofThing(value string) string { return fmt.Sprintf(`f{instance="i",job="j",l=%q}`, value) }
