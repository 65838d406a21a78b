package series

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"metrics-server-prom/internal/push"
	"metrics-server-prom/internal/store"
)

// TestObjects has objects pushed one after the other, each a second later, in batches of one series.
func TestObjects(t *testing.T) {
	const all = 1 << 10
	for name, test := range map[string]struct {
		pushes []map[string]string // objects and their series
		taken  []int               // how many batches of a push are taken, where not all
		want   map[string]string
	}{
		"each push has all": {[]map[string]string{{"a": "x"}, {"a": "x"}}, nil, map[string]string{"x": "[1000:1 2000:1]"}},
		"an object that is gone": {[]map[string]string{{"a": "x", "b": "y"}, {"b": "y"}}, nil,
			map[string]string{"x": "[1000:1 2000:stale]", "y": "[1000:1 2000:1]"}},
		"and comes back": {[]map[string]string{{"a": "x", "b": "y"}, {"b": "y"}, {"a": "x", "b": "y"}}, nil,
			map[string]string{"x": "[1000:1 2000:stale 3000:1]", "y": "[1000:1 2000:1 3000:1]"}},
		"an object that has changed": {[]map[string]string{{"a": "x y"}, {"a": "y z"}}, nil,
			map[string]string{"x": "[1000:1 2000:stale]", "y": "[1000:1 2000:1]", "z": "[2000:1]"}},
		"an object that comes between": {[]map[string]string{{"a": "x", "c": "z"}, {"a": "x", "b": "y", "c": "z"}}, nil,
			map[string]string{"x": "[1000:1 2000:1]", "y": "[2000:1]", "z": "[1000:1 2000:1]"}},
		"one that is gone while the receiver is away": {
			[]map[string]string{{"a": "x", "b": "y"}, {"b": "y"}, {"b": "y"}, {"b": "y"}}, []int{all, 0, all, all},
			map[string]string{"x": "[1000:1 3000:stale]", "y": "[1000:1 3000:1 4000:1]"}},
		"one that has changed meanwhile": {
			[]map[string]string{{"a": "x", "b": "y"}, {"a": "w", "b": "z"}, {"a": "w", "b": "z"}}, []int{all, 1, all},
			map[string]string{"x": "[1000:1 2000:stale]", "w": "[2000:1 3000:1]", "y": "[1000:1 3000:stale]", "z": "[3000:1]"}},
		"one that has come and gone meanwhile": {
			[]map[string]string{{"a": "x"}, {"a": "x", "b": "y"}, {"a": "x"}}, []int{all, 1, all},
			map[string]string{"x": "[1000:1 2000:1 3000:1]"}},
		"the receiver goes away half-way": {
			[]map[string]string{{"a": "v", "b": "w", "c": "x", "d": "y"}, {"c": "x"}, {"c": "x"}}, []int{all, 1, all},
			map[string]string{"v": "[1000:1 2000:stale]", "w": "[1000:1 3000:stale]", "x": "[1000:1 3000:1]",
				"y": "[1000:1 3000:stale]"}},
		"all are gone": {[]map[string]string{{"a": "x", "b": "y"}, {}, {}}, nil,
			map[string]string{"x": "[1000:1 2000:stale]", "y": "[1000:1 2000:stale]"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTaker(t, 1)
			o := r.objects()
			for i, values := range test.pushes {
				left := all
				if test.taken != nil {
					left = test.taken[i]
				}
				fails := left < all
				r.Answer = func() (int, bool) {
					if left--; left < 0 {
						return refusesAll()
					}
					return http.StatusOK, true
				}
				if err := r.push(func(ctx context.Context, out *push.Out) error {
					return o.Push(ctx, out, things(values), int64(i)*1000+1000)
				}); (err != nil) != fails {
					t.Fatal(err)
				}
			}
			want := map[string]string{}
			for value, samples := range test.want {
				want[ofThing(value)] = samples
			}
			r.want(want)
		})
	}
}

// TestManyObjects is about what holds whatever happens, as TestUsageOfManyPods is. Leaves stay, split and go, as those
// of a store do.
func TestManyObjects(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			r := newTaker(t, 7)
			o, objects := r.objects(), store.NewSorted[string](5)
			has, failed := map[string]string{}, 0
			for at := range int64(40) {
				for range 8 {
					name := fmt.Sprint("o", random.IntN(40))
					e := store.Entry[string]{Key: store.Key{Name: name}}
					if e.Object = (&store.Object[string]{}); random.IntN(3) == 0 {
						objects.Delete(e)
						delete(has, name)
						continue
					}
					for i := range random.IntN(4) {
						e.Value += fmt.Sprintf(" %s-%d", name, random.IntN(3)+3*i)
					}
					objects.Put(e)
					has[name] = e.Value
				}
				left := 1 << 10
				if random.IntN(3) == 0 {
					left = random.IntN(10)
				}
				r.Answer = func() (int, bool) {
					if left--; left < 0 {
						return refusesAll()
					}
					return http.StatusOK, true
				}
				if err := r.push(func(ctx context.Context, out *push.Out) error {
					return o.Push(ctx, out, objects.Leaves(), at)
				}); err != nil {
					failed++
					continue
				}
				var want []string
				for _, values := range has {
					for _, value := range strings.Fields(values) {
						want = append(want, ofThing(value))
					}
				}
				slices.Sort(want)
				if live := slices.Sorted(maps.Keys(r.Live())); !slices.Equal(live, want) {
					t.Fatalf("at %d there are %v, want %v", at, live, want)
				}
			}
			if failed == 0 || failed == 40 {
				t.Errorf("%d pushes failed", failed)
			}
		})
	}
}
