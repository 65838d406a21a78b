package series

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
	"unique"

	"github.com/klauspost/compress/s2"
	"google.golang.org/protobuf/encoding/protowire"

	"metrics-server-prom/internal/family"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/remotewrite"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/store"
)

// point is a sample as a receiver has it.
type point struct {
	at    int64 // Unix ms
	value float64
}

func (p point) isStale() bool {
	return math.Float64bits(p.value) == math.Float64bits(remotewrite.Stale)
}

func (p point) String() string {
	if p.isStale() {
		return fmt.Sprintf("%d:stale", p.at)
	}
	return fmt.Sprintf("%d:%v", p.at, p.value)
}

// taker is a receiver, which keeps what it takes by series, and refuses what goes back in time, as Prometheus does.
type taker struct {
	t       *testing.T
	has     map[string][]point
	answers func() int // status of the next answer; what is not 2xx is not taken
	pusher  push.Pusher
	self    selfmetrics.Registry
}

func newTaker(t *testing.T) *taker {
	r := &taker{t: t, has: map[string][]point{}, answers: func() int { return http.StatusNoContent }}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.pusher = push.Pusher{URL: server.URL, Format: push.RemoteWrite, Instance: "i", Interval: time.Minute}
	r.pusher.Register(r.self.Scope(""))
	return r
}

func (r *taker) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	status := r.answers()
	if w.WriteHeader(status); status/100 == 2 {
		r.take(body)
	}
}

// fields calls f for each field of a message.
func (r *taker) fields(message []byte, f func(number protowire.Number, bytes []byte, n uint64)) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		message = message[n:]
		var bytes []byte
		var value uint64
		switch kind {
		case protowire.BytesType:
			bytes, n = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			value, n = protowire.ConsumeVarint(message)
		case protowire.Fixed64Type:
			value, n = protowire.ConsumeFixed64(message)
		}
		if n < 0 {
			r.t.Error("not a message")
			return
		}
		f(number, bytes, value)
		message = message[n:]
	}
}

func (r *taker) take(body []byte) {
	message, err := s2.Decode(nil, body)
	if err != nil {
		r.t.Error(err)
	}
	r.fields(message, func(_ protowire.Number, series []byte, _ uint64) {
		var labels []string
		var p point
		r.fields(series, func(number protowire.Number, content []byte, _ uint64) {
			if number == 1 {
				var pair [3]string
				r.fields(content, func(number protowire.Number, text []byte, _ uint64) { pair[number] = string(text) })
				if pair[1] != "job" && pair[1] != "instance" {
					labels = append(labels, pair[1]+"="+pair[2])
				}
				return
			}
			r.fields(content, func(number protowire.Number, _ []byte, n uint64) {
				if p.at = int64(n); number == 1 {
					p.value = math.Float64frombits(n)
				}
			})
		})
		key := strings.Join(labels, ",")
		if has := r.has[key]; len(has) > 0 {
			if last := has[len(has)-1]; last.at > p.at || last.at == p.at &&
				math.Float64bits(last.value) != math.Float64bits(p.value) {
				r.t.Errorf("%s: %v after %v", key, p, last)
			}
		}
		r.has[key] = append(r.has[key], p)
	})
}

// push does one push of what f adds.
func (r *taker) push(f func(ctx context.Context, o *push.Out) error) error {
	r.pusher.Series = func(ctx context.Context, o *push.Out, _ bool) error { return f(ctx, o) }
	_, err := r.pusher.Once(r.t.Context())
	return err
}

// live is the series that have not ended, by the last that the receiver has of them.
func (r *taker) live() map[string]point {
	live := map[string]point{}
	for series, points := range r.has {
		if last := points[len(points)-1]; !last.isStale() {
			live[series] = last
		}
	}
	return live
}

// cpu and memory are families of usage.
var cpu = &family.Family{Name: "cpu", Labels: (*label.Usage).Pod,
	Value: func(u *label.Usage, i int) float64 { return u.Samples[i].CPU }}
var memory = &family.Family{Name: "mem", Labels: (*label.Usage).Pod,
	Value: func(u *label.Usage, i int) float64 { return u.Samples[i].Memory }}

func pod(namespace, name, ip string) *store.Object[sample.Text] {
	return &store.Object[sample.Text]{Value: sample.Text{Node: unique.Make(`node="n",pod="`),
		Head: name + `",ip="` + ip + `",container="`, Tail: unique.Make(`",namespace="` + namespace + `"}`)}}
}

// usage is what a test's list has: by pod and container the reading.
type usage []reading

type reading struct {
	pod         *store.Object[sample.Text]
	container   string
	at          int64
	cpu, memory float64
}

var version uint64

func (u usage) read(f func(*sample.Batch)) {
	version++
	b := &sample.Batch{Version: version, Ordered: slices.IsSortedFunc(u, func(a, b reading) int {
		return label.KeyOf(a.pod.Value).Compare(label.KeyOf(b.pod.Value))
	})}
	for _, r := range u {
		i := slices.Index(b.Names, r.container)
		if i < 0 {
			i = len(b.Names)
			b.Names = append(b.Names, r.container)
		}
		s := sample.New(r.pod, uint32(i), r.at)
		s.CPU, s.Memory = r.cpu, r.memory
		b.Samples = append(b.Samples, s)
	}
	f(b)
}

func TestUsage(t *testing.T) {
	none := math.NaN()
	a, b, moved := pod("s", "a", "1"), pod("s", "b", "2"), pod("s", "a", "9")
	known := pod("s", "a", "1") // the same text in another object
	const since, now = 1000, 2000
	series := func(family string, p, ip string) string {
		return "__name__=" + family + ",container=c,ip=" + ip + ",namespace=s,node=n,pod=" + p
	}
	for name, test := range map[string]struct {
		lists []usage
		want  map[string]string // what the receiver has
	}{
		"a reading is sent once, with its own timestamp": {
			[]usage{{{a, "c", 1001, 1, 10}}, {{a, "c", 1001, 1, 10}}, {{known, "c", 1016, 2, 20}}},
			map[string]string{series("cpu", "a", "1"): "[1001000:1 1016000:2]",
				series("mem", "a", "1"): "[1001000:10 1016000:20]"}},
		"an older reading, of another replica, is not sent": {
			[]usage{{{a, "c", 1010, 1, none}}, {{a, "c", 1008, 2, none}}, {{a, "c", 1025, 3, none}}},
			map[string]string{series("cpu", "a", "1"): "[1010000:1 1025000:3]"}},
		"a reading from before the start is not sent": {
			[]usage{{{a, "c", 1000, 1, none}}, {{a, "c", 1015, 2, none}}},
			map[string]string{series("cpu", "a", "1"): "[1015000:2]"}},
		"a pod that is gone has ended": {
			[]usage{{{a, "c", 1001, 1, none}, {b, "c", 1002, 2, none}}, {{b, "c", 1003, 3, none}}},
			map[string]string{series("cpu", "a", "1"): "[1001000:1 2001000:stale]",
				series("cpu", "b", "2"): "[1002000:2 1003000:3]"}},
		"and the last of them": {
			[]usage{{{a, "c", 1001, 1, none}}, {}},
			map[string]string{series("cpu", "a", "1"): "[1001000:1 2001000:stale]"}},
		"one that comes back goes on with readings of after its end": {
			[]usage{{{a, "c", 1001, 1, none}}, {}, {{a, "c", 2000, 2, none}}, {{a, "c", 2015, 3, none}}},
			map[string]string{series("cpu", "a", "1"): "[1001000:1 2001000:stale 2015000:3]"}},
		"one whose reading is ahead of the clock ends behind that": {
			[]usage{{{a, "c", 2050, 1, none}}, {}},
			map[string]string{series("cpu", "a", "1"): "[2050000:1 2050001:stale]"}},
		"a usage that a reading does not have any more ends with that reading": {
			[]usage{{{a, "c", 1001, 1, 10}}, {{a, "c", 1016, none, 11}}, {{a, "c", 1031, 3, 12}}},
			map[string]string{series("cpu", "a", "1"): "[1001000:1 1016000:stale 1031000:3]",
				series("mem", "a", "1"): "[1001000:10 1016000:11 1031000:12]"}},
		"with other labels it is another series, of readings of after the change": {
			[]usage{{{a, "c", 1001, 1, none}}, {{moved, "c", 1016, 2, none}}, {{moved, "c", 2015, 3, none}}},
			map[string]string{series("cpu", "a", "1"): "[1001000:1 2001000:stale]", series("cpu", "a", "9"): "[2015000:3]"}},
		"and the first again with its labels": {
			[]usage{{{a, "c", 1001, 1, none}}, {{moved, "c", 1016, 2, none}}, {{a, "c", 1030, 3, none}},
				{{a, "c", 2020, 4, none}}},
			map[string]string{series("cpu", "a", "1"): "[1001000:1 2001000:stale 2020000:4]"}},
		"a list may be in any order": {
			[]usage{{{b, "c", 1001, 2, none}, {a, "c", 1001, 1, none}}, {{a, "c", 1016, 3, none}, {b, "c", 1016, 4, none}},
				{{b, "c", 1031, 6, none}, {a, "c", 1031, 5, none}}},
			map[string]string{series("cpu", "a", "1"): "[1001000:1 1016000:3 1031000:5]",
				series("cpu", "b", "2"): "[1001000:2 1016000:4 1031000:6]"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTaker(t)
			target := r.pusher.Target("job")
			u := &Usage{Rows: []Row{{cpu, target}, {memory, target}}, Since: since, MaxAge: 5 * time.Minute}
			for i, list := range test.lists {
				if err := r.push(func(ctx context.Context, o *push.Out) error {
					return u.Push(ctx, o, list.read, time.Unix(now+int64(i), 0))
				}); err != nil {
					t.Fatal(err)
				}
			}
			got := map[string]string{}
			for series, points := range r.has {
				got[series] = fmt.Sprint(points)
			}
			if !maps.Equal(got, test.want) {
				t.Errorf("the receiver has %v, want %v", got, test.want)
			}
		})
	}
}

// TestUsageOfManyPods is about what holds whatever happens: no series goes back in time (the receiver sees to that),
// what was pushed without an error is what was there, and what is not there has ended.
func TestUsageOfManyPods(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			r := newTaker(t)
			target := r.pusher.Target("job")
			u := &Usage{Rows: []Row{{cpu, target}, {memory, target}}, MaxAge: 5 * time.Minute}
			pods := map[string]*store.Object[sample.Text]{}
			ages := map[string]int64{}
			failed := 0
			for step := range int64(25) {
				now := 10_000 + 15*step
				for range 3000 {
					name := fmt.Sprintf("p%d", random.IntN(6000))
					switch random.IntN(3) {
					case 0:
						delete(pods, name)
					case 1:
						pods[name] = pod("s", name, fmt.Sprint(random.IntN(2)))
					default:
						pods[name] = pod("s", name, "1")
					}
				}
				var list usage
				for _, name := range slices.Sorted(maps.Keys(pods)) {
					if random.IntN(4) > 0 || ages[name] < now-290 {
						ages[name] = now - random.Int64N(20)
					}
					for c := range 1 + len(name)%3 {
						list = append(list, reading{pods[name], fmt.Sprint("c", c), ages[name], float64(ages[name]), 1})
					}
				}
				if random.IntN(4) == 0 {
					random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
					slices.SortStableFunc(list, func(a, b reading) int { return strings.Compare(b.pod.Value.Head, a.pod.Value.Head) })
				}
				left := 1 << 20 // batches that are taken
				if random.IntN(3) == 0 {
					left = random.IntN(4)
				}
				r.answers = func() int {
					if left--; left < 0 {
						return http.StatusForbidden
					}
					return http.StatusOK
				}
				err := r.push(func(ctx context.Context, o *push.Out) error {
					return u.Push(ctx, o, list.read, time.Unix(now, 0))
				})
				if err != nil {
					failed++
					continue
				}
				live := r.live()
				for _, l := range list {
					for _, family := range []string{"cpu", "mem"} {
						name, rest, _ := strings.Cut(l.pod.Value.Head, `",ip="`)
						series := func(ip string) string {
							return fmt.Sprintf("__name__=%s,container=%s,ip=%s,namespace=s,node=n,pod=%s", family, l.container, ip, name)
						}
						last, is := live[series(rest[:1])]
						if is && family == "cpu" && last.value*1000 != float64(last.at) {
							t.Fatalf("%s: %v", series(rest[:1]), last)
						}
						// It may be missing only where one of the container, whatever its labels, has ended after the reading.
						ended := func(ip string) bool {
							points := r.has[series(ip)]
							return len(points) > 0 && points[len(points)-1].at >= l.at*1000
						}
						if !is && !ended("0") && !ended("1") {
							t.Fatalf("step %d: %s of %d is missing", step, series(rest[:1]), l.at)
						}
						delete(live, series(rest[:1]))
					}
				}
				if len(live) > 0 {
					t.Fatalf("step %d: %d series go on without a pod, such as %v", step, len(live), slices.Sorted(maps.Keys(live))[0])
				}
			}
			if failed == 0 || len(u.names.all) != 3 {
				t.Errorf("%d pushes failed, %d names", failed, len(u.names.all))
			}
		})
	}
}

// things are objects whose value is their samples: NAME=VALUE, of family 0.
func things(values map[string]string) []*store.Leaf[string] {
	leaf := &store.Leaf[string]{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		leaf.Entries = append(leaf.Entries, store.Entry[string]{Key: store.Key{Name: name},
			Object: &store.Object[string]{Value: values[name]}})
	}
	return []*store.Leaf[string]{leaf}
}

func TestObjects(t *testing.T) {
	for name, test := range map[string]struct {
		pushes []map[string]string // objects and their series, separated by spaces
		fails  int                 // the push that fails
		want   map[string]string
	}{
		"each push has all": {[]map[string]string{{"a": "x"}, {"a": "x"}}, -1, map[string]string{"x": "[1000:1 2000:1]"}},
		"an object that is gone": {[]map[string]string{{"a": "x", "b": "y"}, {"b": "y"}}, -1,
			map[string]string{"x": "[1000:1 2000:stale]", "y": "[1000:1 2000:1]"}},
		"an object that has changed": {[]map[string]string{{"a": "x y"}, {"a": "y z"}}, -1,
			map[string]string{"x": "[1000:1 2000:stale]", "y": "[1000:1 2000:1]", "z": "[2000:1]"}},
		"an object that comes between": {[]map[string]string{{"a": "x", "c": "z"}, {"a": "x", "b": "y", "c": "z"}}, -1,
			map[string]string{"x": "[1000:1 2000:1]", "y": "[2000:1]", "z": "[1000:1 2000:1]"}},
		"one that is gone while the receiver is away": {[]map[string]string{{"a": "x", "b": "y"}, {"b": "y"}, {"b": "y"}}, 1,
			map[string]string{"x": "[1000:1 3000:stale]", "y": "[1000:1 3000:1]"}},
		"all are gone": {[]map[string]string{{"a": "x", "b": "y"}, {}}, -1,
			map[string]string{"x": "[1000:1 2000:stale]", "y": "[1000:1 2000:stale]"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTaker(t)
			o := &Objects[string]{Names: []string{"f"}, Targets: []*remotewrite.Target{r.pusher.Target("job")},
				Each: func(e store.Entry[string], f func(uint8, []byte, float64)) {
					for _, series := range strings.Fields(e.Value) {
						f(0, label.Append(nil, "l", series), 1)
					}
				}}
			for i, values := range test.pushes {
				r.answers = func() int { return map[bool]int{true: http.StatusForbidden, false: http.StatusOK}[i == test.fails] }
				err := r.push(func(ctx context.Context, out *push.Out) error {
					return o.Push(ctx, out, things(values), time.Unix(int64(i)+1, 0))
				})
				if (err != nil) != (i == test.fails) {
					t.Fatal(err)
				}
			}
			got := map[string]string{}
			for series, points := range r.has {
				got[strings.TrimPrefix(series, "__name__=f,l=")] = fmt.Sprint(points)
			}
			if !maps.Equal(got, test.want) {
				t.Errorf("the receiver has %v, want %v", got, test.want)
			}
		})
	}
}
