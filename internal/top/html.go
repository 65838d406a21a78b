package top

import (
	"embed"
	"fmt"
	"hash/crc32"
	"html"
	"math"
	"net/http"
	"path"
	"strings"
	"time"

	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/serve"
)

// index has placeholders, such as {{rows}}, and the names of the other files as their addresses.
//
//go:embed web/index.html
var index string

//go:embed web/top.css web/top.js web/top.svg
var web embed.FS

// contentTypes are those of the other files, by their ends.
var contentTypes = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
	".svg": "image/svg+xml"}

// policy allows what the page consists of, from this server, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// files returns what answers with each file, compressed once, and index.html with their addresses. These change with
// what is in the files, so that a browser may keep them; of any other it asks whether it is still the same.
func files() (handlers map[string]http.HandlerFunc, frame string) {
	handlers, frame = map[string]http.HandlerFunc{}, index
	all, _ := web.ReadDir("web")
	for _, file := range all {
		name := file.Name()
		content, _ := web.ReadFile("web/" + name)
		tag := fmt.Sprintf("%08x", crc32.ChecksumIEEE(content))
		frame = strings.ReplaceAll(frame, `"`+name+`"`, `"`+name+"?"+tag+`"`)
		var c page.Compressor
		c.Write(content)
		compressed := page.New(c.Part())
		handlers["/"+name] = func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h.Set("ETag", `"`+tag+`"`)
			h.Set("Cache-Control", "no-cache")
			if r.URL.RawQuery == tag {
				h.Set("Cache-Control", "private, max-age=31536000, immutable")
			}
			if strings.Contains(r.Header.Get("If-None-Match"), tag) {
				h.Del("Content-Type")
				w.WriteHeader(http.StatusNotModified)
				return
			}
			serve.Page(w, r, contentTypes[path.Ext(name)], compressed)
		}
	}
	return handlers, frame
}

// maxShown is how many rows the page has without JavaScript.
const maxShown = 50

// html answers with the page. Its rows are there already, for who has no JavaScript.
func (p *Page) html(w http.ResponseWriter, r *http.Request, frame string) {
	q, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		q, _ = parseQuery("")
	}
	shown := q
	shown.limit = maxShown
	a, unknown := p.answer(r.Context(), shown)
	if unknown != nil {
		http.Error(w, unknown.Error(), http.StatusNotFound)
		return
	}
	a.query = q
	if err != nil {
		a.missing = append(a.missing, err.Error())
	}
	w.Header().Set("Content-Security-Policy", policy)
	w.Header().Set("Referrer-Policy", "no-referrer")
	serve.Text(w, r, "text/html; charset=utf-8", a.appendHTML(nil, frame, p.Links))
}

// appendHTML appends the page with the answer in it. What it writes by JavaScript's side, top.js writes the same way.
func (a *answer) appendHTML(to []byte, frame string, links []string) []byte {
	for rest := frame; ; {
		before, after, found := strings.Cut(rest, "{{")
		to = append(to, before...)
		if !found {
			return to
		}
		name, after, _ := strings.Cut(after, "}}")
		to, rest = a.fill(to, name, links), after
	}
}

// fill appends what takes the place of a placeholder.
func (a *answer) fill(to []byte, name string, links []string) []byte {
	list := func(class string, lines []string) {
		for _, line := range lines {
			to = fmt.Appendf(to, "<li%s>%s</li>", class, html.EscapeString(line))
		}
	}
	text := func(s string) { to = append(to, html.EscapeString(s)...) }
	switch q := a.query; name {
	case "version":
		text(a.version)
	case "works":
		text(map[bool]string{true: "✔ Works", false: "✖ Something does not work"}[len(a.failures) == 0])
	case "age":
		age := "No data yet"
		if a.newest != 0 {
			age = fmt.Sprintf("Data %s old", a.time.Sub(time.Unix(a.newest, 0)).Round(time.Second))
		}
		text(fmt.Sprintf("%s, %s watched", age, number(a.watched, "pod")))
	case "state":
		list(` class="failure"`, a.failures)
		list(` class="notice"`, a.notices)
	case "totals":
		to = a.appendTotals(to)
	case "title":
		text(q.title())
	case "level":
		text(q.level.String())
	case "scope":
		for name, values := range q.values() {
			if name != "q" {
				to = fmt.Appendf(to, `<input type="hidden" name="%s" value="%s">`, name, html.EscapeString(values[0]))
			}
		}
	case "q":
		text(q.q)
	case "rows":
		for _, r := range a.rows {
			to = appendRow(to, &q, r)
		}
	case "found":
		if len(a.rows) < a.found {
			text(fmt.Sprintf("The first %d of ", len(a.rows)))
		}
		text(number(a.found, "row"))
	case "notes":
		list("", a.missing)
	case "links":
		for _, link := range links {
			to = fmt.Appendf(to, `<a href="%s">%[1]s</a> `, html.EscapeString(link))
		}
	}
	return to
}

func number(n int, of string) string {
	if n != 1 {
		of += "s"
	}
	return fmt.Sprint(n, " ", of)
}

var titles = [levels]string{"Nodes", "Namespaces", "Workloads", "Pods", "Containers"}

func (q *query) title() string {
	title := titles[q.level]
	if q.node != "" {
		title += " on " + q.node
	}
	of := " of "
	for _, name := range []string{q.cluster, q.namespace, q.workload, q.pod} {
		if name != "" {
			title, of = title+of+name, " / "
		}
	}
	return title
}

// inside is the query for what a row consists of; false for a container.
func (q query) inside(r *row) (query, bool) {
	q.q = ""
	if r.cluster != "" {
		q.cluster = r.cluster
	}
	if r.namespace != "" {
		q.namespace = r.namespace
	}
	switch q.level {
	case nodes:
		q.level, q.node = pods, r.name
	case namespaces:
		q.level, q.namespace = workloads, r.name
	case workloads:
		q.level, q.workload = pods, r.name
	case pods:
		q.level, q.pod = containers, r.name
	default:
		return q, false
	}
	q.limit = 100
	return q, true
}

func appendRow(to []byte, q *query, r *row) []byte {
	name := html.EscapeString(r.name)
	if next, ok := q.inside(r); ok {
		name = fmt.Sprintf(`<a href="?%s">%s</a>`, html.EscapeString(next.values().Encode()), name)
	}
	var about []string
	switch {
	case r.pods < 0:
	case q.level < pods:
		about = []string{number(r.pods, "pod")}
	case q.level == pods:
		about = []string{r.workload}
	default:
		about = []string{label.PodName(r.object.Value)}
	}
	if r.object != nil {
		about = append(about, label.NodeName(r.object.Value))
	}
	if r.cluster != "" && q.cluster == "" {
		about = append(about, r.cluster)
	}
	to = fmt.Appendf(to, `<tr><th scope="row">%s <small>%s</small></th><td class="ns">%s</td>`, name,
		html.EscapeString(strings.Join(about, " · ")), html.EscapeString(r.namespace))
	for resource := range 2 {
		used := r.of[resource]
		allocated := share(used, r.more[cpuAllocatable-summed+resource])
		if allocated == unknown {
			allocated = ""
		}
		to = fmt.Appendf(to, `<td>%s <small>%s</small></td><td>%s</td><td>%s</td><td>%s</td>`, amount(resource, used),
			allocated, share(used, r.of[cpuRequest+resource]), share(used, r.of[cpuLimit+resource]),
			amount(resource, r.more[cpuPeak-summed+resource]))
	}
	return append(to, "</tr>\n"...)
}

func (a *answer) appendTotals(to []byte) []byte {
	for l, n := range a.counts {
		if n >= 0 {
			to = fmt.Appendf(to, "<div><dt>%s</dt><dd>%d</dd></div>", titles[l], n)
		}
	}
	for resource, name := range []string{"CPU", "Memory"} {
		used := a.totals.of[resource]
		if math.IsNaN(used) {
			continue
		}
		to = fmt.Appendf(to, "<div><dt>%s</dt><dd>%s", name, amount(resource, used))
		for _, of := range []struct {
			figure int
			what   string
		}{{cpuAllocatable, "allocatable"}, {cpuRequest, "requested"}, {cpuLimit, "limit"}} {
			if whole := a.totals.figure(of.figure + resource); !math.IsNaN(whole) {
				to = fmt.Appendf(to, ", %s of %s %s", share(used, whole), amount(resource, whole), of.what)
			}
		}
		to = append(to, "</dd></div>"...)
	}
	return to
}

// unknown stands for a figure that is not known.
const unknown = "–"

// amount writes an amount as kubectl top does: CPU in m, rounded up, and memory in Mi, cut.
func amount(resource int, value float64) string {
	switch {
	case math.IsNaN(value):
		return unknown
	case resource == cpu:
		return fmt.Sprintf("%.0fm", math.Ceil(math.Round(value*1e9)/1e6))
	}
	return fmt.Sprintf("%.0fMi", math.Floor(value/(1<<20)))
}

// share writes a share in per cent, cut to whole ones.
func share(used, whole float64) string {
	if math.IsNaN(used) || !(whole > 0) {
		return unknown
	}
	return fmt.Sprintf("%.0f%%", math.Floor(100*math.Round(used*1e9)/math.Round(whole*1e9)))
}
