package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"metrics-server-prom/e2e/browser"
	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/kubelet"
)

// people is the namespace whose pods have owners, requests and limits.
const people = "people"

// createPeople creates two pods of a Deployment, the memory of one close to its limit, and one of a StatefulSet.
func createPeople(t *testing.T) {
	t.Helper()
	ctx := within(t, 2*time.Minute)
	if err := plane.CreateNamespaces(ctx, "", people); err != nil {
		t.Fatal(err)
	}
	yes := true
	for _, pod := range []struct {
		name, node, kind, owner, hash string
		containers                    string // name, CPU and memory used, requested and at most
	}{
		{"web-5d4f8c9b7-aaaaa", "node-0", "ReplicaSet", "web-5d4f8c9b7", "5d4f8c9b7",
			"app 40m 61Mi 100m 32Mi 200m 64Mi, sidecar 7m 9Mi 0 0 0 0"},
		{"web-5d4f8c9b7-bbbbb", "node-1", "ReplicaSet", "web-5d4f8c9b7", "5d4f8c9b7",
			"app 30m 20Mi 100m 32Mi 200m 64Mi, sidecar 5m 8Mi 0 0 0 0"},
		{"db-0", "node-2", "StatefulSet", "db", "", "postgres 250m 300Mi 100m 1Gi 0 2Gi"},
	} {
		object := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: people, Name: pod.name, Annotations: map[string]string{},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: pod.kind, Name: pod.owner,
					UID: "00000000-0000-0000-0000-000000000001", Controller: &yes}}},
			Spec: corev1.PodSpec{NodeName: pod.node},
		}
		if pod.hash != "" {
			object.Labels = map[string]string{"pod-template-hash": pod.hash}
		}
		for of := range strings.SplitSeq(pod.containers, ", ") {
			f := strings.Fields(of)
			object.Annotations[kubelet.CPUAnnotation+f[0]] = f[1]
			object.Annotations[kubelet.MemoryAnnotation+f[0]] = f[2]
			object.Spec.Containers = append(object.Spec.Containers, corev1.Container{Name: f[0], Image: "example.test/" + f[0],
				Resources: corev1.ResourceRequirements{Requests: quantities(f[3], f[4]), Limits: quantities(f[5], f[6])}})
		}
		if _, err := plane.Admin.CoreV1().Pods(people).Create(ctx, object, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		ctx := context.Background() // the test's has ended
		for _, pod := range must(plane.Admin.CoreV1().Pods(people).List(ctx, metav1.ListOptions{}))(t).Items {
			if err := plane.DeletePod(ctx, people, pod.Name); err != nil {
				t.Error(err)
			}
		}
	})
	for _, pod := range must(plane.Admin.CoreV1().Pods(people).List(ctx, metav1.ListOptions{}))(t).Items {
		if err := plane.AwaitPodUsage(ctx, people, pod.Name); err != nil {
			t.Fatal(err)
		}
	}
}

// quantities are a container's requests or limits; 0 is none.
func quantities(cpu, memory string) corev1.ResourceList {
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu),
		corev1.ResourceMemory: resource.MustParse(memory)}
	maps.DeleteFunc(list, func(_ corev1.ResourceName, q resource.Quantity) bool { return q.IsZero() })
	return list
}

// accountWithNodes is a kubeconfig of an account that has the right to watch nodes as well, for what they can give.
func accountWithNodes(t *testing.T) (kubeconfig string) {
	t.Helper()
	const name = "with-nodes"
	ctx := within(t, 30*time.Second)
	role := must(plane.Admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"list", "watch"}, APIGroups: []string{""},
			Resources: []string{"nodes"}}},
	}, metav1.CreateOptions{}))(t)
	kubeconfig = account(t, people, name)
	for _, role := range []string{role.Name, "metrics-server-prom"} {
		if err := plane.BindClusterRole(ctx, role, people, name, ""); err != nil {
			t.Fatal(err)
		}
	}
	return kubeconfig
}

// byMemory is the query of a view whose order does not change: CPU is what it was in the seconds between two readings.
const byMemory = "?sort=memory"

// TestPageForPeople uses the page at / as people do.
func TestPageForPeople(t *testing.T) {
	t.Parallel()
	createPeople(t)
	chromium := startChromium(t)
	e := startReady(t, accountWithNodes(t))

	t.Run("each figure is the API's", func(t *testing.T) { comparePeople(t, open(t, chromium, e.URL, "")) })
	t.Run("any column sorts", func(t *testing.T) { sortPeople(t, open(t, chromium, e.URL, "?level=pods")) })
	t.Run("the filter and the namespace are in the URL", func(t *testing.T) {
		filterPeople(t, open(t, chromium, e.URL, byMemory))
	})
	t.Run("rows lead down, Back and the path up", func(t *testing.T) { walkPeople(t, open(t, chromium, e.URL, byMemory)) })
	t.Run("the keyboard suffices", func(t *testing.T) { typePeople(t, open(t, chromium, e.URL, byMemory)) })
	t.Run("new data come by themselves", func(t *testing.T) {
		tab := open(t, chromium, e.URL, "?level=pods&namespace="+people)
		awaitRow(t, tab, "db-0", func(r browser.Row) bool { return r.Memory.Used == "300Mi" && r.Memory.Peak == "300Mi" })
		if err := plane.SetMemory(within(t, 10*time.Second), people, "db-0", "postgres", "321Mi"); err != nil {
			t.Fatal(err)
		}
		awaitRow(t, tab, "db-0", func(r browser.Row) bool {
			return r.Memory.Used == "321Mi" && r.Memory.Peak == "321Mi" && r.Memory.Line && r.Memory.Request == "31%" &&
				r.Memory.Limit == "15%"
		})
	})
	t.Run("nothing is asked while the page is hidden", func(t *testing.T) {
		tab := open(t, chromium, e.URL, "")
		hide := `Object.defineProperty(document, "hidden", {configurable: true, value: %t}),
			document.dispatchEvent(new Event("visibilitychange"))`
		var done bool
		if err := tab.Eval(fmt.Sprintf(hide, true), &done); err != nil {
			t.Fatal(err)
		}
		before, _ := tab.Requests()
		awaitTick(t, e)
		awaitTick(t, e)
		if after, _ := tab.Requests(); len(after) != len(before) {
			t.Errorf("asked for %v", after[len(before):])
		}
		if err := tab.Eval(fmt.Sprintf(hide, false), &done); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, func(context.Context) error {
			if after, _ := tab.Requests(); len(after) == len(before) {
				return errors.New("nothing is asked once it is shown again")
			}
			return nil
		})
	})
}

// startChromium starts a Chromium for this test.
func startChromium(t *testing.T) *browser.Chromium {
	t.Helper()
	chromium, err := browser.StartChromium()
	if errors.Is(err, browser.ErrMissing) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chromium.Close)
	return chromium
}

// open opens the page in a tab and waits for its rows. At the test's end nothing must be in the console, and nobody but
// the exporter must have been asked for anything.
func open(t *testing.T, chromium *browser.Chromium, exporter, query string) *browser.Tab {
	t.Helper()
	tab := must(chromium.Open(1280, 900))(t)
	t.Cleanup(func() {
		for _, problem := range tab.Problems() {
			t.Errorf("in the console: %s", problem)
		}
		requests, _ := tab.Requests()
		for _, request := range requests {
			if !strings.HasPrefix(request, exporter+"/") {
				t.Errorf("a request to %s", request)
			}
		}
		tab.Close()
	})
	visit(t, tab, exporter, query)
	return tab
}

// visit goes to the page with this query and waits for its rows.
func visit(t *testing.T, tab *browser.Tab, exporter, query string) {
	t.Helper()
	if err := tab.Go(exporter + "/" + query); err != nil {
		t.Fatal(err)
	}
	await(t, tab, `document.querySelector("#rows tr[data-key]")`)
}

func await(t *testing.T, tab *browser.Tab, expression string) {
	t.Helper()
	if err := tab.Await(within(t, 10*time.Second), expression); err != nil {
		t.Fatal(err)
	}
}

// awaitRow waits for a row that is as it should be.
func awaitRow(t *testing.T, tab *browser.Tab, name string, ready func(browser.Row) bool) {
	t.Helper()
	must(browser.AwaitRows(within(t, 2*aTick), tab, func(rows []browser.Row) error {
		if !slices.ContainsFunc(rows, func(r browser.Row) bool { return r.Name == name && ready(r) }) {
			return fmt.Errorf("no row %s that is as it should be", name)
		}
		return nil
	}))(t)
}

// awaitNames waits for the rows of these names, in this order, and no others.
func awaitNames(t *testing.T, tab *browser.Tab, names ...string) []browser.Row {
	t.Helper()
	return must(browser.AwaitRows(within(t, 10*time.Second), tab, func(rows []browser.Row) error {
		if got := namesOf(rows); !slices.Equal(got, names) {
			return fmt.Errorf("rows %q, want %q", got, names)
		}
		return nil
	}))(t)
}

func namesOf(rows []browser.Row) (names []string) {
	for _, row := range rows {
		names = append(names, row.Name)
	}
	return names
}

// sums are quantities by what they are and of which resource: used, requests, limits and allocatable.
type sums map[string]*resource.Quantity

func (s sums) add(what string, list corev1.ResourceList) {
	for name, quantity := range list {
		if sum := s[what+string(name)]; sum != nil {
			sum.Add(quantity)
		} else {
			quantity = quantity.DeepCopy()
			s[what+string(name)] = &quantity
		}
	}
}

// figures are the sums of one resource as kubectl top writes them: CPU rounded up to m, memory cut to Mi, shares cut
// to whole per cent.
func (s sums) figures(name corev1.ResourceName) (f browser.Figures) {
	used := s["used"+string(name)]
	if f.Used = fmt.Sprintf("%dMi", used.Value()>>20); name == corev1.ResourceCPU {
		f.Used = fmt.Sprintf("%dm", used.MilliValue())
	}
	share := func(what string) string {
		whole := s[what+string(name)]
		if whole == nil {
			return "–"
		}
		ratio := new(big.Rat).Quo(rational(used), rational(whole))
		ratio.Mul(ratio, big.NewRat(100, 1))
		return new(big.Int).Quo(ratio.Num(), ratio.Denom()).String() + "%"
	}
	f.Request, f.Limit = share("requests"), share("limits")
	if f.Share = share("allocatable"); f.Share == "–" {
		f.Share = ""
	}
	return f
}

func rational(q *resource.Quantity) *big.Rat {
	r, ok := new(big.Rat).SetString(q.AsDec().String())
	if !ok {
		panic("a decimal text is a number")
	}
	return r
}

// comparePeople compares the rows of all levels with the API. The figures of nodes change with the pods of other tests.
func comparePeople(t *testing.T, tab *browser.Tab) {
	inPeople := "&namespace=" + people
	for _, c := range []struct {
		query string
		name  func(pod *corev1.Pod, container string) string
		of    func(pod *corev1.Pod) bool
	}{
		{"?level=nodes", func(pod *corev1.Pod, _ string) string { return pod.Spec.NodeName }, nil},
		{"?level=namespaces&namespace=" + people, func(pod *corev1.Pod, _ string) string { return pod.Namespace }, ofPeople},
		{"?level=workloads" + inPeople, func(pod *corev1.Pod, _ string) string {
			if pod.Name == "db-0" {
				return "StatefulSet/db"
			}
			return "Deployment/web"
		}, ofPeople},
		{"?level=pods" + inPeople, func(pod *corev1.Pod, _ string) string { return pod.Name }, ofPeople},
		{"?level=pods&namespace=shop", func(pod *corev1.Pod, _ string) string { return pod.Name },
			func(pod *corev1.Pod) bool { return pod.Namespace == "shop" }},
		{"?level=containers" + inPeople, func(pod *corev1.Pod, container string) string {
			return pod.Name + " " + container
		}, ofPeople},
	} {
		t.Run(c.query, func(t *testing.T) {
			base, _, _ := strings.Cut(must(location(tab))(t), "?")
			visit(t, tab, strings.TrimSuffix(base, "/"), c.query)
			eventually(t, 2*aTick, func(ctx context.Context) error {
				want, err := wantedRows(ctx, c.name, c.of)
				if err != nil {
					return err
				}
				rows, err := browser.Rows(tab)
				if err != nil {
					return err
				}
				got := map[string]browser.Row{}
				for _, row := range rows {
					if strings.HasPrefix(c.query, "?level=containers") {
						pod, _, _ := strings.Cut(row.About, " · ")
						row.Name = pod + " " + row.Name
					}
					if row.Memory.Peak == "" || row.CPU.Peak == "" || !row.CPU.Line || !row.Memory.Line {
						if !strings.HasPrefix(c.query, "?level=containers") { // of which no history is kept
							return fmt.Errorf("no history: %+v", row)
						}
					}
					row.CPU.Peak, row.Memory.Peak, row.CPU.Line, row.Memory.Line = "", "", false, false
					got[row.Name] = browser.Row{Name: row.Name, CPU: row.CPU, Memory: row.Memory}
				}
				if !maps.Equal(want, got) {
					return fmt.Errorf("the page has\n%+v\nthe API\n%+v", got, want)
				}
				return nil
			})
		})
	}
}

func ofPeople(pod *corev1.Pod) bool { return pod.Namespace == people }

// wantedRows are the rows that the API's usage makes of pods, by name.
func wantedRows(ctx context.Context, name func(*corev1.Pod, string) string, of func(*corev1.Pod) bool) (
	map[string]browser.Row, error) {
	reading, err := check.Read(ctx, plane)
	if err != nil {
		return nil, err
	}
	byName := map[string]sums{}
	at := func(name string) sums {
		if byName[name] == nil {
			byName[name] = sums{}
		}
		return byName[name]
	}
	if of == nil { // nodes have a usage of their own
		for _, node := range reading.Nodes {
			at(node.Name).add("used", node.Usage)
			object, err := plane.Admin.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			at(node.Name).add("allocatable", object.Status.Allocatable)
		}
	}
	for _, usage := range reading.Pods {
		pod := reading.Metadata[usage.Namespace+"/"+usage.Name]
		if pod == nil || of != nil && !of(pod) {
			continue
		}
		for _, container := range usage.Containers {
			if of != nil {
				at(name(pod, container.Name)).add("used", container.Usage)
			}
		}
		for _, container := range pod.Spec.Containers {
			at(name(pod, container.Name)).add("requests", container.Resources.Requests)
			at(name(pod, container.Name)).add("limits", container.Resources.Limits)
		}
	}
	rows := map[string]browser.Row{}
	for name, sums := range byName {
		row := browser.Row{Name: name, CPU: sums.figures(corev1.ResourceCPU), Memory: sums.figures(corev1.ResourceMemory)}
		for _, f := range []*browser.Figures{&row.CPU, &row.Memory} {
			percent, _ := strconv.Atoi(strings.TrimSuffix(f.Limit, "%"))
			f.High = percent >= 90
		}
		rows[name] = row
	}
	return rows, nil
}

func location(tab *browser.Tab) (href string, err error) {
	return href, tab.Eval("location.href", &href)
}

// sortPeople sorts by each column, in both directions.
func sortPeople(t *testing.T, tab *browser.Tab) {
	for column, of := range map[string]func(browser.Row) string{
		"name":               func(r browser.Row) string { return r.Name },
		"namespace":          func(r browser.Row) string { return r.Namespace },
		"cpu":                func(r browser.Row) string { return r.CPU.Used },
		"cpuRequestShare":    func(r browser.Row) string { return r.CPU.Request },
		"cpuLimitShare":      func(r browser.Row) string { return r.CPU.Limit },
		"cpuPeak":            func(r browser.Row) string { return r.CPU.Peak },
		"memory":             func(r browser.Row) string { return r.Memory.Used },
		"memoryRequestShare": func(r browser.Row) string { return r.Memory.Request },
		"memoryLimitShare":   func(r browser.Row) string { return r.Memory.Limit },
		"memoryPeak":         func(r browser.Row) string { return r.Memory.Peak },
	} {
		t.Run(column, func(t *testing.T) {
			button := `button[value="` + column + `"]`
			await(t, tab, "document.querySelector('"+button+"')")
			directions := map[string]bool{}
			for range 2 {
				if err := tab.Click(button); err != nil {
					t.Fatal(err)
				}
				var direction string
				if err := tab.Eval("document.querySelector('th[aria-sort] "+button+"').closest('th').ariaSort",
					&direction); err != nil {
					t.Fatal(err)
				}
				directions[direction] = true
				must(browser.AwaitRows(within(t, 10*time.Second), tab, func(rows []browser.Row) error {
					var values []string
					for _, row := range rows {
						if value := of(row); value != "–" {
							values = append(values, value)
						}
					}
					if direction == "descending" {
						slices.Reverse(values)
					}
					if len(values) < 2 || !slices.IsSortedFunc(values, byFigure) {
						return fmt.Errorf("not %s: %q", direction, values)
					}
					return nil
				}))(t)
				href := must(url.Parse(must(location(tab))(t)))(t)
				if sort := cmp.Or(href.Query().Get("sort"), "cpu"); sort != column ||
					(cmp.Or(href.Query().Get("desc"), "true") == "true") != (direction == "descending") {
					t.Errorf("%s, and the URL is %s", direction, href)
				}
			}
			if len(directions) != 2 {
				t.Errorf("two clicks sort %v", directions)
			}
		})
	}
}

// byFigure compares what begins with a number by it, and else as text.
func byFigure(a, b string) int {
	x, errX := strconv.Atoi(strings.TrimRight(a, "mMi%"))
	y, errY := strconv.Atoi(strings.TrimRight(b, "mMi%"))
	if errX != nil || errY != nil {
		return cmp.Compare(a, b)
	}
	return cmp.Compare(x, y)
}

func filterPeople(t *testing.T, tab *browser.Tab) {
	press(t, tab, "/peop")
	awaitNames(t, tab, people)
	await(t, tab, `location.search === "?q=peop&sort=memory"`)
	press(t, tab, kb.Escape)
	await(t, tab, `location.search === "?sort=memory" && document.querySelectorAll("#rows tr").length > 3`)

	// A select is what its own keys choose in it.
	if err := tab.Do(chromedp.Focus(chromedp.CSS("#namespace"))); err != nil {
		t.Fatal(err)
	}
	await(t, tab, `document.querySelector('#namespace option[value="`+people+`"]')`)
	press(t, tab, people)
	awaitNames(t, tab, "StatefulSet/db", "Deployment/web")
	await(t, tab, `location.search === "?level=workloads&namespace=`+people+`&sort=memory"`)

	// Who gets the URL sees the same.
	if err := tab.Do(chromedp.Reload()); err != nil {
		t.Fatal(err)
	}
	awaitNames(t, tab, "StatefulSet/db", "Deployment/web")
	await(t, tab, `document.querySelector("#namespace").value === "`+people+`"`)
}

func press(t *testing.T, tab *browser.Tab, keys string) {
	t.Helper()
	if err := tab.Press(keys); err != nil {
		t.Fatal(err)
	}
}

func walkPeople(t *testing.T, tab *browser.Tab) {
	follow := func(name string) {
		t.Helper()
		var clicked bool
		if err := tab.Eval(fmt.Sprintf(`[...document.querySelectorAll("#rows a, #path a")]
			.find((a) => a.textContent === %q).click(), true`, name), &clicked); err != nil {
			t.Fatal(err)
		}
	}
	follow(people)
	awaitNames(t, tab, "StatefulSet/db", "Deployment/web")
	follow("Deployment/web")
	awaitNames(t, tab, "web-5d4f8c9b7-aaaaa", "web-5d4f8c9b7-bbbbb")
	follow("web-5d4f8c9b7-aaaaa")
	rows := awaitNames(t, tab, "app", "sidecar")
	if rows[0].Link != "" || rows[0].Namespace != people || rows[0].About != "node-0" {
		t.Errorf("the container is %+v", rows[0])
	}
	await(t, tab, `location.search ===
		"?level=containers&namespace=people&workload=Deployment%2Fweb&pod=web-5d4f8c9b7-aaaaa&sort=memory"`)
	for _, step := range []chromedp.Action[chromedp.Void]{chromedp.NavigateBack(), chromedp.NavigateBack()} {
		if err := tab.Do(step); err != nil {
			t.Fatal(err)
		}
	}
	awaitNames(t, tab, "StatefulSet/db", "Deployment/web")
	if err := tab.Do(chromedp.NavigateForward()); err != nil {
		t.Fatal(err)
	}
	awaitNames(t, tab, "web-5d4f8c9b7-aaaaa", "web-5d4f8c9b7-bbbbb")
	follow("Namespaces")
	await(t, tab, `location.search === "?sort=memory"`)

	// A node's pods.
	follow2 := `document.querySelector("#nodes a").click(), true`
	var clicked bool
	if err := tab.Eval(follow2, &clicked); err != nil {
		t.Fatal(err)
	}
	await(t, tab, `location.search.startsWith("?level=pods&node=node-")`)
}

func typePeople(t *testing.T, tab *browser.Tab) {
	focused := func(name string) {
		t.Helper()
		await(t, tab, fmt.Sprintf(`document.activeElement.textContent === %q`, name))
	}
	rows := must(browser.Rows(tab))(t)
	press(t, tab, kb.ArrowDown)
	focused(rows[0].Name)
	press(t, tab, kb.ArrowDown)
	focused(rows[1].Name)
	press(t, tab, kb.ArrowUp+kb.ArrowUp)
	focused(rows[0].Name)

	press(t, tab, "/"+people+kb.Enter)
	focused(people)
	press(t, tab, kb.Enter)
	awaitNames(t, tab, "StatefulSet/db", "Deployment/web")
	focused("Workloads of people") // what a screen reader reads
	press(t, tab, kb.ArrowDown+kb.ArrowDown)
	focused("Deployment/web")
	press(t, tab, kb.Enter)
	awaitNames(t, tab, "web-5d4f8c9b7-aaaaa", "web-5d4f8c9b7-bbbbb")
	press(t, tab, kb.Escape)
	focused("Deployment/web")
	press(t, tab, kb.Escape)
	focused(people)
	press(t, tab, kb.Escape) // at the top
	await(t, tab, `location.search === "?sort=memory"`)
}

// TestPageForPeopleSaysWhatIsGone takes away first the cluster and then the exporter, and brings both back.
func TestPageForPeopleSaysWhatIsGone(t *testing.T) {
	t.Parallel()
	config := must(clientcmd.LoadFromFile(deployed(t)))(t)
	cluster := newLine(t, strings.TrimPrefix(plane.URL(), "https://"))
	for _, c := range config.Clusters {
		c.Server = "https://" + cluster.address()
	}
	kubeconfig := t.TempDir() + "/kubeconfig"
	if err := clientcmd.WriteToFile(*config, kubeconfig); err != nil {
		t.Fatal(err)
	}
	e := startReady(t, kubeconfig)
	server := newLine(t, strings.TrimPrefix(e.URL, "http://"))

	chromium := startChromium(t)
	tab := must(chromium.Open(1280, 900))(t)
	visit(t, tab, "http://"+server.address(), "")
	says := func(limit time.Duration, expression string) {
		t.Helper()
		if err := tab.Await(within(t, limit), expression); err != nil {
			t.Fatal(err)
		}
	}
	says(aTick, `document.querySelector("#state").className === "ok" && /^Data \d+ s old$/.test(age.textContent)`)

	cluster.cut()
	says(2*aTick, `document.querySelector("#state").className === "failed" &&
		document.querySelector("#failures").textContent.includes("connection refused") &&
		document.querySelectorAll("#rows tr").length > 3`)
	cluster.mend(t)
	says(2*aTick, `document.querySelector("#state").className === "ok" && !document.querySelector("#failures .failure")`)
	if problems := tab.Problems(); len(problems) > 0 {
		t.Errorf("in the console: %q", problems)
	}

	server.cut()
	says(2*aTick, `/cannot be reached, since \d/.test(document.querySelector("#state").textContent) &&
		document.querySelectorAll("#rows tr").length > 3`)
	server.mend(t)
	says(aTick, `document.querySelector("#state").className === "ok"`)
}

// line forwards TCP connections to an address until it is cut.
type line struct {
	to, from string

	mu       sync.Mutex
	listener net.Listener
	open     map[net.Conn]bool
}

func newLine(t *testing.T, to string) *line {
	l := &line{to: to, from: "127.0.0.1:0", open: map[net.Conn]bool{}}
	l.mend(t)
	t.Cleanup(l.cut)
	return l
}

func (l *line) address() string { return l.from }

// mend lets connections through, at the same address as before.
func (l *line) mend(t *testing.T) {
	t.Helper()
	listener := must(net.Listen("tcp", l.from))(t)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listener, l.from = listener, listener.Addr().String()
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return // it was cut
			}
			go l.forward(near)
		}
	}()
}

func (l *line) forward(near net.Conn) {
	far, err := net.Dial("tcp", l.to)
	if err != nil {
		near.Close()
		return
	}
	l.mu.Lock()
	l.open[near], l.open[far] = true, true
	l.mu.Unlock()
	pipe := func(to, from net.Conn) {
		io.Copy(to, from) // until one of both ends
		to.Close()
		from.Close()
		l.mu.Lock()
		delete(l.open, from)
		l.mu.Unlock()
	}
	go pipe(near, far)
	pipe(far, near)
}

// cut ends all connections and refuses new ones.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listener.Close()
	for c := range l.open {
		c.Close()
	}
}
