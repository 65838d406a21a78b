package browser

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"image/png"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// chromium is the one that all tests share.
var chromium *Chromium

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if _, err = exporter.Binary(); err == nil {
		chromium, err = StartChromium()
	}
	if errors.Is(err, ErrMissing) && os.Getenv("CI") == "" {
		fmt.Fprintln(os.Stderr, "skipped:", err)
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer chromium.Close()
	return m.Run()
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, fmt.Errorf("not within %s", limit))
	t.Cleanup(cancel)
	return ctx
}

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// simulate starts a simulated cluster and an exporter that has read it.
func simulate(t *testing.T, options standin.Options, pods ...standin.Pod) (*standin.Server, *exporter.Exporter) {
	t.Helper()
	options.Log = slog.New(slog.DiscardHandler)
	server := must(standin.New(options))(t)
	t.Cleanup(server.Close)
	for _, pod := range pods {
		if err := server.AddPod(pod); err != nil {
			t.Fatal(err)
		}
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, must(server.Kubeconfig())(t), 0o600); err != nil {
		t.Fatal(err)
	}
	e := must(exporter.Start(within(t, 30*time.Second), exporter.Options{
		Args: []string{"--kubeconfig=" + kubeconfig, "--refresh-interval=1s"}}))(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the exporter's log:\n%s", process.Tail(e.Log(), 25))
		}
		e.Close()
	})
	if err := e.AwaitReady(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	return server, e
}

// open opens a tab; at the test's end nothing must be in its console.
func open(t *testing.T, width, height int64) *Tab {
	t.Helper()
	tab := must(chromium.Open(width, height))(t)
	t.Cleanup(func() {
		for _, problem := range tab.Problems() {
			t.Errorf("in the console: %s", problem)
		}
		tab.Close()
	})
	return tab
}

// shown is true once the script has written the rows.
const shown = `document.querySelector("#rows tr[data-key]")`

func visit(t *testing.T, tab *Tab, url string) {
	t.Helper()
	if err := tab.Go(url); err != nil {
		t.Fatal(err)
	}
	await(t, 10*time.Second, tab, shown)
}

func await(t *testing.T, limit time.Duration, tab *Tab, expression string) {
	t.Helper()
	if err := tab.Await(within(t, limit), expression); err != nil {
		t.Fatal(err)
	}
}

// hostile is what a page must not make markup of. Kubernetes takes no such names; what speaks its API may have them,
// but for the slash.
const (
	hostile = `<img src=x onerror=window.broken=1><script>window.broken=1<!--"'&amp;`
	script  = "<script>window.broken=1</script>"
)

// TestNamesAreText has a pod with such a namespace, name, node, container and label.
func TestNamesAreText(t *testing.T) {
	t.Parallel()
	_, e := simulate(t, standin.Options{Pods: 3, Resolution: time.Second}, standin.Pod{Namespace: hostile, Name: hostile,
		Node: hostile, Labels: map[string]string{"app": script}, Containers: []string{hostile}})
	for _, javascript := range []bool{true, false} {
		t.Run(fmt.Sprintf("JavaScript %t", javascript), func(t *testing.T) {
			tab := open(t, 1280, 900)
			if !javascript {
				if err := tab.WithoutJavaScript(); err != nil {
					t.Fatal(err)
				}
			}
			for _, query := range []string{"level=namespaces", "level=workloads", "level=pods", "level=containers", "q=",
				"level=pods&node=", "level=", "sort="} {
				named := !strings.HasSuffix(query, "=")
				if !named {
					query += url.QueryEscape(hostile)
				}
				if err := tab.Go(e.URL + "/?" + query); err != nil {
					t.Fatal(err)
				}
				if named {
					rows := must(AwaitRows(within(t, 10*time.Second), tab, func(rows []Row) error {
						if !slices.ContainsFunc(rows, func(r Row) bool { return strings.Contains(r.Name, hostile) }) {
							return errors.New("no row with the name")
						}
						return nil
					}))(t)
					if len(rows) < 2 {
						t.Errorf("%s: %d rows", query, len(rows))
					}
				}
				await(t, 10*time.Second, tab, `!window.broken && document.scripts.length === 1 && document.images.length === 0`)
			}
			tab.Problems() // a level or a column that does not exist is answered with status 400, which the console has
		})
	}
}

// TestWithoutJavaScript needs no script for a table of 50 rows, and for the form and the links to work.
func TestWithoutJavaScript(t *testing.T) {
	t.Parallel()
	_, e := simulate(t, standin.Options{Pods: 200, Resolution: time.Second})
	tab := open(t, 1280, 900)
	if err := tab.WithoutJavaScript(); err != nil {
		t.Fatal(err)
	}
	if err := tab.Go(e.URL + "/?level=pods"); err != nil {
		t.Fatal(err)
	}
	rows := must(tableText(tab))(t)
	if len(rows) != 50 || !strings.HasSuffix(rows[0][2], "m") || !strings.HasSuffix(rows[0][6], "Mi") {
		t.Fatalf("%d rows, the first is %q", len(rows), rows[:min(1, len(rows))])
	}
	if err := tab.Click(`button[value="memory"]`); err != nil {
		t.Fatal(err)
	}
	await(t, 10*time.Second, tab, `new URLSearchParams(location.search).get("sort") === "memory" &&
		new URLSearchParams(location.search).get("level") === "pods" && document.querySelectorAll("#rows tr").length === 50`)
	name := must(tableText(tab))(t)[0][0]
	if err := tab.Click("#rows a"); err != nil {
		t.Fatal(err)
	}
	await(t, 10*time.Second, tab, `location.search.includes("level=containers") &&
		document.querySelectorAll("#rows tr").length === 2`)
	if where := must(title(tab))(t); !strings.Contains(name, strings.Fields(where)[len(strings.Fields(where))-1]) {
		t.Errorf("%s leads to %s", name, where)
	}
	urls, _ := tab.Requests()
	if slices.ContainsFunc(urls, func(url string) bool { return strings.Contains(url, "top.json") }) {
		t.Errorf("a script has run: %q", urls)
	}
}

func tableText(tab *Tab) (rows [][]string, err error) {
	return rows, tab.Eval(`Array.from(document.querySelectorAll("#rows tr"), (tr) =>
		Array.from(tr.cells, (cell) => cell.textContent.trim()))`, &rows)
}

func title(tab *Tab) (text string, err error) {
	return text, tab.Eval(`document.querySelector("#title").textContent`, &text)
}

// TestOldDataAreSaidToBeOld stops the source of the data.
func TestOldDataAreSaidToBeOld(t *testing.T) {
	t.Parallel()
	server, e := simulate(t, standin.Options{Pods: 10, Resolution: time.Second})
	tab := open(t, 1280, 900)
	visit(t, tab, e.URL)
	await(t, 10*time.Second, tab, `document.querySelector("#state").className === "ok"`)
	server.SetBehavior(standin.Behavior{FreezeMetrics: true})
	await(t, 90*time.Second, tab, `document.querySelector("#state").className !== "ok" &&
		/old|not/.test(document.querySelector("#state").textContent)`)
	server.SetBehavior(standin.Behavior{})
	await(t, 30*time.Second, tab, `document.querySelector("#state").className === "ok"`)
}

// TestASleepOfTheMachineIsNoticed: one clock stands still meanwhile, so that the other one jumps.
func TestASleepOfTheMachineIsNoticed(t *testing.T) {
	t.Parallel()
	_, e := simulate(t, standin.Options{Pods: 10, Resolution: time.Second})
	tab := open(t, 1280, 900)
	visit(t, tab, e.URL)
	await(t, 10*time.Second, tab, `document.querySelector("#state").className === "ok"`)
	await(t, 10*time.Second, tab, `window.asked ??= 0, window.fetch = () => { asked++; return new Promise(() => {}); },
		asked === 2`)
	await(t, 10*time.Second, tab, `window.now ??= Date.now, Date.now = () => now() + 3600_000, asked === 4 &&
		document.querySelector("#state").className === "old" && document.querySelector("#age").textContent`+
		` === "Data 60 min old"`)
}

// TestLevelsAreFollowed, each more than once.
func TestLevelsAreFollowed(t *testing.T) {
	t.Parallel()
	_, e := simulate(t, standin.Options{Pods: 10, Resolution: time.Second})
	tab := open(t, 1280, 900)
	visit(t, tab, e.URL)
	for i, name := range []string{"Pods", "Namespaces", "Nodes", "Namespaces", "Workloads", "Containers", "Namespaces"} {
		links := []string{"Nodes", "Namespaces", "Workloads", "Pods", "Containers"}
		if err := tab.Click(fmt.Sprintf("#levels a:nth-child(%d)", slices.Index(links, name)+1)); err != nil {
			t.Fatal(err)
		}
		if got, err := title(tab); got != name || err != nil {
			t.Fatalf("after %d links the title is %q (%v), want %q", i+1, got, err, name)
		}
	}
}

// TestEverybodyCanUseIt has axe-core look for what keeps people out: https://github.com/dequelabs/axe-core
func TestEverybodyCanUseIt(t *testing.T) {
	t.Parallel()
	_, e := simulate(t, standin.Options{Pods: 60, Resolution: time.Second})
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 360} {
			t.Run(fmt.Sprintf("%s, %d pixels", scheme, width), func(t *testing.T) {
				tab := open(t, width, 800)
				if err := tab.Do(call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
					Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})); err != nil {
					t.Fatal(err)
				}
				for _, query := range []string{"", "?level=nodes", "?level=pods&sort=memoryLimitShare", "?level=containers&q=a"} {
					visit(t, tab, e.URL+"/"+query)
					for _, v := range must(tab.Axe(within(t, time.Minute)))(t) {
						t.Errorf("%s: %s (%s): %s", query, v.ID, v.Impact, v.Help)
						for _, node := range v.Nodes {
							t.Logf("%s\n%s", node.HTML, node.FailureSummary)
						}
					}
					// Nothing is wider than the window.
					await(t, time.Second, tab, `document.documentElement.scrollWidth <= innerWidth`)
				}
			})
		}
	}
}

// TestFirefox looks at the page with the other browser.
func TestFirefox(t *testing.T) {
	t.Parallel()
	_, e := simulate(t, standin.Options{Pods: 30, Resolution: time.Second})
	f, err := StartFirefox(within(t, time.Minute))
	if errors.Is(err, ErrMissing) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	if err := f.Go(e.URL + "/?level=pods"); err != nil {
		t.Fatal(err)
	}
	awaitRows := func(ready func(rows []Row) bool) []Row {
		t.Helper()
		return must(AwaitRows(within(t, 20*time.Second), f, func(rows []Row) error {
			if !ready(rows) {
				return errors.New("the rows are not as they should be")
			}
			return nil
		}))(t)
	}
	rows := awaitRows(func(rows []Row) bool { return len(rows) >= 20 && rows[0].CPU.Line && rows[0].Memory.Line })
	name := rows[1].Name

	image := must(f.Screenshot())(t)
	picture := must(png.Decode(bytes.NewReader(image)))(t)
	colours := map[any]bool{}
	for x := range picture.Bounds().Dx() {
		for y := range picture.Bounds().Dy() {
			colours[picture.At(x, y)] = true
		}
	}
	if len(colours) < 20 {
		t.Errorf("a screenshot of %d colours", len(colours))
	}

	// The code points are those of ArrowDown and Enter.
	if err := f.Press("/" + name + "\uE007"); err != nil {
		t.Fatal(err)
	}
	awaitRows(func(rows []Row) bool { return len(rows) == 1 && rows[0].Name == name })
	if err := f.Press("\uE015\uE007"); err != nil {
		t.Fatal(err)
	}
	awaitRows(func(rows []Row) bool { return len(rows) == 2 && rows[0].Link == "" })
	for _, problem := range f.Problems {
		t.Errorf("in the console: %s", problem)
	}
	for _, request := range f.Requests {
		if !strings.HasPrefix(request, e.URL+"/") {
			t.Errorf("a request to %s", request)
		}
	}
}

// TestFirstViewOf10000Pods opens the page with nothing in the browser's cache.
func TestFirstViewOf10000Pods(t *testing.T) {
	const (
		views = 9
		most  = 100 << 10 // bytes on the wire
	)
	_, e := simulate(t, standin.Options{Pods: 10_000, Nodes: 300})
	type times struct{ Server, Script float64 }
	var all []times
	var wire int64
	for range views {
		tab := open(t, 1280, 900)
		if err := tab.Do(call(page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: `
			window.times = {};
			new MutationObserver(() => {
				if (document.querySelector("#rows tr")) times.Server ??= performance.now();
				if (` + shown + `) times.Script ??= performance.now();
			}).observe(document, {childList: true, subtree: true});`})); err != nil {
			t.Fatal(err)
		}
		visit(t, tab, e.URL+"/?level=pods")
		var taken times
		if err := tab.Eval("times", &taken); err != nil {
			t.Fatal(err)
		}
		all = append(all, taken)
		_, wire = tab.Requests()
		if wire > most {
			t.Errorf("%d bytes on the wire, want at most %d", wire, most)
		}
	}
	slices.SortFunc(all, func(a, b times) int { return cmp.Compare(a.Server, b.Server) })
	t.Logf("rows are there after %.0f ms, and have their lines after %.0f ms (the median of %v); %d bytes on the wire",
		all[views/2].Server, all[views/2].Script, all, wire)
	if all[0].Server > 100 {
		t.Errorf("the rows are there after %.0f ms at best, want 100 ms", all[0].Server)
	}
}
