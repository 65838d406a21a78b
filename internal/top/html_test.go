package top

import (
	"compress/gzip"
	"fmt"
	"io"
	"math/rand"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"metrics-server-prom/internal/serve"
)

// between is what stands between two texts.
func between(t *testing.T, text, before, after string) string {
	t.Helper()
	_, rest, found := strings.Cut(text, before)
	part, _, closed := strings.Cut(rest, after)
	if !found || !closed {
		t.Fatalf("nothing between %s and %s in %s", before, after, text)
	}
	return part
}

// TestPageWithoutJavaScript has the rows, as kubectl top writes figures.
func TestPageWithoutJavaScript(t *testing.T) {
	c := shop(t)
	c.source.Watched = 7
	body := c.get("/?level=workloads&node=n1&limit=2&q=b").Body.String()
	for _, test := range []struct{ before, after, want string }{
		{`<tbody id="rows">`, `</tbody>`, `<tr><th scope="row">` +
			`<a href="?level=pods&amp;namespace=shop&amp;node=n1&amp;workload=StatefulSet%2Fdb">StatefulSet/db</a> ` +
			`<small>1 pod</small></th><td class="ns">shop</td>` +
			`<td>700m <small></small></td><td>70%</td><td>–</td><td>700m</td>` +
			`<td>2048Mi <small></small></td><td>200%</td><td>50%</td><td>2048Mi</td></tr>` + "\n" +
			`<tr><th scope="row">` +
			`<a href="?level=pods&amp;namespace=shop&amp;node=n1&amp;workload=Deployment%2Fweb">Deployment/web</a> ` +
			`<small>2 pods</small></th><td class="ns">shop</td>` +
			`<td>375m <small></small></td><td>93%</td><td>46%</td><td>375m</td>` +
			`<td>128Mi <small></small></td><td>50%</td><td>25%</td><td>128Mi</td></tr>` + "\n"},
		{`<small id="version">`, `</small>`, "1.2.3"},
		{`role="status">`, `</strong>`, "✔ Works"},
		{`<span id="age">`, ` old, 7 pods watched</span>`, "Data 0s"},
		{`<ul id="failures">`, `</ul>`, ""},
		{`<dl id="totals">`, `</dl>`, `<div><dt>Nodes</dt><dd>3</dd></div><div><dt>Namespaces</dt><dd>2</dd></div>` +
			`<div><dt>Workloads</dt><dd>4</dd></div><div><dt>Pods</dt><dd>6</dd></div><div><dt>Containers</dt><dd>8</dd></div>` +
			`<div><dt>CPU</dt><dd>1850m, 30% of 6000m allocatable, 130% of 1420m requested, 231% of 800m limit</dd></div>` +
			`<div><dt>Memory</dt><dd>5632Mi, 45% of 12288Mi allocatable, 440% of 1280Mi requested, ` +
			`122% of 4608Mi limit</dd></div>`},
		{`<h2 id="title" tabindex="-1">`, `</h2>`, "Workloads on n1"},
		{`<table id="table" data-level="`, `"`, "workloads"},
		{`name="q" type="search" value="`, `"`, "b"},
		{`<span id="found">`, `</span>`, "2 rows"},
		{`<nav aria-label="Pages">`, ` <a href="top.json">`, `<a href="/metrics">/metrics</a> `},
	} {
		got := between(t, body, test.before, test.after)
		if strings.HasPrefix(test.before, `<span id="age"`) {
			got = regexp.MustCompile(`\d+s`).ReplaceAllString(got, "0s")
		}
		if got != test.want {
			t.Errorf("%s%s, want %s", test.before, got, test.want)
		}
	}
	hidden := between(t, body, `role="search">`, "<label")
	for _, want := range []string{`<input type="hidden" name="level" value="workloads">`,
		`<input type="hidden" name="node" value="n1">`, `<input type="hidden" name="limit" value="2">`} {
		if !strings.Contains(hidden, want) {
			t.Errorf("%s is not in %s", want, hidden)
		}
	}
	if strings.Contains(hidden, `name="q"`) || strings.Contains(body, "{{") {
		t.Errorf("the filter is hidden, or a placeholder is left: %s", body)
	}
	for query, title := range map[string]string{"": "Namespaces", "level=pods&namespace=a&workload=b": "Pods of a / b",
		"level=containers&pod=p&node=n&namespace=%3C": "Containers on n of &lt; / p"} {
		if got := between(t, c.get("/?"+query).Body.String(), `<h2 id="title" tabindex="-1">`, `</h2>`); got != title {
			t.Errorf("%s: the title is %q, want %q", query, got, title)
		}
	}
	if nodes := c.get("/?level=nodes").Body.String(); !strings.Contains(nodes, "<td>1500m <small>37%</small></td>") {
		t.Errorf("no share of what is allocatable: %s", nodes)
	}
}

func TestPageWithoutJavaScriptHasThe50First(t *testing.T) {
	c := newCluster(t)
	c.few(60, "StatefulSet/#")
	c.refresh()
	body := c.get("/?level=pods&limit=500").Body.String()
	if n := strings.Count(body, `<th scope="row">`); n != 51 { // one is in a template
		t.Errorf("%d rows", n-1)
	}
	if got := between(t, body, `<span id="found">`, `</span>`); got != "The first 50 of 60 rows" {
		t.Errorf("it says %q", got)
	}
}

func TestHeaders(t *testing.T) {
	c := shop(t)
	page := c.get("/")
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
		"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
			"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		"Referrer-Policy": "no-referrer", "Vary": "Accept-Encoding"} {
		if got := page.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	forbidden := regexp.MustCompile(`<script>| style=| on[a-z]+=|https?:|javascript:`)
	if found := forbidden.FindString(page.Body.String()); found != "" {
		t.Errorf("the policy forbids %q", found)
	}
	for _, file := range []struct{ name, contentType string }{{"top.js", "text/javascript; charset=utf-8"},
		{"top.css", "text/css; charset=utf-8"}, {"top.svg", "image/svg+xml"}} {
		content, err := web.ReadFile("web/" + file.name)
		if err != nil {
			t.Fatal(err)
		}
		hash := between(t, page.Body.String(), `"`+file.name+`?`, `"`)
		w := c.get("/" + file.name + "?" + hash)
		if w.Code != 200 || w.Body.String() != string(content) || w.Header().Get("Content-Type") != file.contentType ||
			w.Header().Get("Cache-Control") != "private, max-age=31536000, immutable" {
			t.Errorf("%s: %d %v", file.name, w.Code, w.Header())
		}
		for _, address := range []string{"/" + file.name, "/" + file.name + "?other"} {
			w = c.get(address)
			if w.Code != 200 || w.Body.String() != string(content) || w.Header().Get("Cache-Control") != "no-cache" {
				t.Errorf("%s: %d %v", address, w.Code, w.Header())
			}
		}
		w = c.get("/"+file.name, "If-None-Match", w.Header().Get("ETag"))
		if w.Code != 304 || w.Body.Len() > 0 {
			t.Errorf("%s is sent again: %d", file.name, w.Code)
		}
		if w = c.get("/"+file.name, "If-None-Match", `"other"`); w.Code != 200 {
			t.Errorf("%s in place of another: %d", file.name, w.Code)
		}
	}
}

// TestFirstViewIsSmall on the wire: the page, its files and both answers, with a whole history of any values.
func TestFirstViewIsSmall(t *testing.T) {
	c := newCluster(t, nodeObjects)
	c.many(1000)
	c.watch()
	c.refresh()
	c.ask("")
	h, r := &c.page.history, rand.New(rand.NewSource(1))
	for h.column = h.width; len(h.free) < len(h.last); h.free = append(h.free, 0) {
		for i := range h.codes(uint32(len(h.free))) {
			h.codes(uint32(len(h.free)))[i] = code(25_000 + r.Intn(2000))
		}
	}
	all := 0
	for _, address := range []string{"/", "/top.js", "/top.css", "/top.svg", "/top.json?level=nodes&limit=6",
		"/top.json?level=pods&limit=100"} {
		w := c.get(address, "Accept-Encoding", "gzip, br")
		z, err := gzip.NewReader(w.Body)
		all += w.Body.Len()
		if err != nil || w.Header().Get("Content-Encoding") != "gzip" {
			t.Fatalf("%s: %v %v", address, err, w.Header())
		}
		content, err := io.ReadAll(z)
		if want := c.get(address).Body.String(); err != nil || string(content) != want && address[1:] == "top.js" {
			t.Errorf("%s: %v", address, err)
		}
	}
	if all < 20<<10 || all > 100<<10 {
		t.Errorf("%d bytes", all)
	}
}

func TestMethods(t *testing.T) {
	c := shop(t)
	for address := range c.handlers {
		for _, method := range []string{"HEAD", "POST"} {
			w := httptest.NewRecorder()
			serve.Pages(c.handlers, nil).ServeHTTP(w, httptest.NewRequest(method, address, nil))
			want := map[string]int{"HEAD": 200, "POST": 405}[method]
			if w.Code != want || method == "HEAD" && (w.Body.Len() > 0 || w.Header().Get("Content-Length") == "0") {
				t.Errorf("%s %s: %d, %d bytes, %v", method, address, w.Code, w.Body.Len(), w.Header())
			}
		}
	}
	if w := c.get("/top.json", "Accept-Encoding", "identity;q=0"); w.Code != 406 {
		t.Errorf("a client that takes no encoding: %d", w.Code)
	}
}

func TestFigures(t *testing.T) {
	for _, test := range []struct {
		resource    int
		used, whole float64
		want        string
	}{
		{cpu, .3, .1, "300m 300%"},
		{cpu, .1 + .2, .3, "300m 100%"}, // which is a little more
		{cpu, .000000001, 1, "1m 0%"},
		{cpu, 0, 1, "0m 0%"},
		{cpu, 1.0001, 2, "1001m 50%"},
		{memory, 1<<20 - 1, 1 << 20, "0Mi 99%"},
		{memory, 3 << 40, 4 << 40, "3145728Mi 75%"},
		{memory, 5, 0, "0Mi –"},
	} {
		if got := fmt.Sprint(amount(test.resource, test.used), " ", share(test.used, test.whole)); got != test.want {
			t.Errorf("%v of %v: %s, want %s", test.used, test.whole, got, test.want)
		}
	}
}
