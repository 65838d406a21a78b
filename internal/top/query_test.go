package top

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestParseQuery(t *testing.T) {
	plain := query{level: namespaces, sort: byCPU, desc: true, limit: 100}
	for raw, change := range map[string]func(*query){
		"":                            func(*query) {},
		"level=":                      func(*query) {},
		"level=pods":                  func(q *query) { q.level = pods },
		"level=nodes&level=pods":      func(q *query) { q.level = pods }, // as a form with a button sends it
		"sort=memoryLimitShare":       func(q *query) { q.sort = byMemoryLimit },
		"sort=name&desc=false":        func(q *query) { q.sort, q.desc = byName, false },
		"limit=1":                     func(q *query) { q.limit = 1 },
		"limit=500":                   func(q *query) { q.limit = 500 },
		"namespace=a&node=n&pod=p":    func(q *query) { q.namespace, q.node, q.pod = "a", "n", "p" },
		"workload=StatefulSet%2Fdb":   func(q *query) { q.workload = "StatefulSet/db" },
		"q=DB&namespace=%3Cscript%3E": func(q *query) { q.q, q.part, q.namespace = "DB", "db", "<script>" },
	} {
		want := plain
		change(&want)
		got, err := parseQuery(raw)
		if err != nil || got != want {
			t.Errorf("%s: %+v (%v), want %+v", raw, got, err, want)
		}
		// A URL made of it says the same.
		if again, err := parseQuery(got.values().Encode()); err != nil || again != want {
			t.Errorf("%s becomes %s: %+v (%v)", raw, got.values().Encode(), again, err)
		}
	}
}

func TestBadQueriesAreToldSo(t *testing.T) {
	c := newCluster(t)
	for raw, want := range map[string]string{
		"level=Pods":                         `level="Pods": it is one of nodes, namespaces, workloads, pods, containers`,
		"sort=age":                           `sort="age": it is one of cpu, memory, cpuRequestShare,`,
		"desc=1":                             `desc="1": it is one of false, true`,
		"limit=0":                            `limit="0": it is a number from 1 to 500`,
		"limit=501":                          `limit="501": it is a number from 1 to 500`,
		"limit=ten":                          `limit="ten": it is a number from 1 to 500`,
		"namspace=a":                         `there is no parameter "namspace"; there are level, namespace, workload, pod, node, q, sort, desc and`,
		"q=%zz":                              `invalid URL escape "%zz"`,
		"a=1;b=2":                            "invalid semicolon separator in query",
		"limit=" + strings.Repeat("9", 1000): `limit="` + strings.Repeat("9", 50) + `": it is`,
	} {
		w := c.get("/top.json?" + raw)
		if w.Code != 400 || !strings.HasPrefix(w.Body.String(), want) ||
			w.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%.100s: %d %s, want %s", raw, w.Code, w.Body, want)
		}
		// The page shows what there is without it, and says so too.
		if w := c.get("/?" + raw); w.Code != 200 || !strings.Contains(w.Body.String(), "<li>") {
			t.Errorf("%.100s: the page is %d %s", raw, w.Code, w.Body)
		}
	}
}

// FuzzQuery has any query answered, or told what is wrong with it, and names in it are never markup.
func FuzzQuery(f *testing.F) {
	for _, raw := range []string{"", "level=pods&namespace=shop&sort=name&desc=false&limit=3", "q=<script>", "limit=501",
		"level=workloads&workload=Deployment/web&sort=cpuPeak", "level=nodes&node=n1&pod=%22", "q=%00&level=containers",
		"%zz", "a;b"} {
		f.Add(raw)
	}
	c := shop(f)
	frame := strings.Count(c.get("/").Body.String(), "<script")
	f.Fuzz(func(t *testing.T, raw string) {
		if strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == '#' || r == 0x7f }) {
			t.Skip("no URL")
		}
		at := &url.URL{Path: "/top.json", RawQuery: raw}
		if _, err := url.ParseRequestURI(at.String()); err != nil {
			t.Skip("no URL")
		}
		w := c.get(at.String())
		switch w.Code {
		case 400:
		case 200:
			var a answered
			if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
				t.Fatalf("%q: %v: %s", raw, err, w.Body)
			}
			if len(a.Rows) > min(a.Found, maxLimit) || a.Found > 8 || !slices.Contains(levelNames, a.Level) {
				t.Errorf("%q: %d rows of %d", raw, len(a.Rows), a.Found)
			}
		default:
			t.Errorf("%q: %d", raw, w.Code)
		}
		at.Path = "/"
		if w := c.get(at.String()); w.Code != 200 || strings.Count(w.Body.String(), "<script") != frame {
			t.Errorf("%q: the page is %d %s", raw, w.Code, w.Body)
		}
	})
}
