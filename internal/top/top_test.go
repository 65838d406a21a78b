package top

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// shop is a cluster of some workloads, of which more may be watched than nodes and what is needed of pods.
func shop(t testing.TB, more ...string) *cluster {
	c := newCluster(t, append(more, nodeObjects)...)
	c.node("n1", "1500m 4Gi", "4 8Gi")
	c.node("n2", "250m 1Gi", "2 4Gi")
	c.node("n3", "100m 512Mi", "")
	const web = "ReplicaSet/web-5d4f8c9b7"
	c.pod("shop/web-5d4f8c9b7-a", "n1", web, "app 100m 64Mi 200m 128Mi 400m 256Mi", "proxy 200m 16Mi")
	c.pod("shop/web-5d4f8c9b7-b", "n2", web, "app 50m 32Mi 200m 128Mi 400m 256Mi", "proxy 25m 16Mi")
	c.pod("shop/db-0", "n1", "StatefulSet/db", "postgres 700m 2Gi 1 1Gi - 4Gi")
	c.pod("infra/agent-x", "n1", "DaemonSet/agent", "agent 10m 20Mi 10m -")
	c.pod("infra/agent-y", "n2", "DaemonSet/agent", "agent 20m 30Mi 10m -")
	c.pod("infra/debug", "n2", "", "sh 1m 1Mi")
	c.watch()
	c.refresh()
	return c
}

// TestRowsOfEachLevel has the figures of each level, in cores and bytes; those that are not known are not there.
func TestRowsOfEachLevel(t *testing.T) {
	rowsOfEachLevel(t, shop(t))
	rowsOfEachLevel(t, shop(t, wholePods))
}

func rowsOfEachLevel(t *testing.T, c *cluster) {
	t.Helper()
	for query, want := range map[string]string{
		"level=nodes": `
			{"name":"n1","pods":3,"containers":4,"cpu":1.5,"memory":4294967296,"cpuRequest":1.21,"memoryRequest":1207959552,
				"cpuLimit":0.4,"memoryLimit":4563402752,"cpuAllocatable":4,"memoryAllocatable":8589934592}
			{"name":"n2","pods":3,"containers":4,"cpu":0.25,"memory":1073741824,"cpuRequest":0.21,"memoryRequest":134217728,
				"cpuLimit":0.4,"memoryLimit":268435456,"cpuAllocatable":2,"memoryAllocatable":4294967296}
			{"name":"n3","pods":0,"containers":0,"cpu":0.1,"memory":536870912}`,
		"": `
			{"name":"shop","pods":3,"containers":5,"cpu":1.075,"memory":2281701376,"cpuRequest":1.4,
				"memoryRequest":1342177280,"cpuLimit":0.8,"memoryLimit":4831838208}
			{"name":"infra","pods":3,"containers":3,"cpu":0.031,"memory":53477376,"cpuRequest":0.02}`,
		"level=workloads": `
			{"name":"StatefulSet/db","namespace":"shop","pods":1,"containers":1,"cpu":0.7,"memory":2147483648,"cpuRequest":1,
				"memoryRequest":1073741824,"memoryLimit":4294967296}
			{"name":"Deployment/web","namespace":"shop","pods":2,"containers":4,"cpu":0.375,"memory":134217728,
				"cpuRequest":0.4,"memoryRequest":268435456,"cpuLimit":0.8,"memoryLimit":536870912}
			{"name":"DaemonSet/agent","namespace":"infra","pods":2,"containers":2,"cpu":0.03,"memory":52428800,
				"cpuRequest":0.02}
			{"name":"Pod/debug","namespace":"infra","pods":1,"containers":1,"cpu":0.001,"memory":1048576}`,
		"level=pods&limit=2": `
			{"name":"db-0","namespace":"shop","workload":"StatefulSet/db","node":"n1","containers":1,"cpu":0.7,
				"memory":2147483648,"cpuRequest":1,"memoryRequest":1073741824,"memoryLimit":4294967296}
			{"name":"web-5d4f8c9b7-a","namespace":"shop","workload":"Deployment/web","node":"n1","containers":2,"cpu":0.3,
				"memory":83886080,"cpuRequest":0.2,"memoryRequest":134217728,"cpuLimit":0.4,"memoryLimit":268435456}`,
		"level=containers&pod=web-5d4f8c9b7-a": `
			{"name":"proxy","namespace":"shop","workload":"Deployment/web","pod":"web-5d4f8c9b7-a","node":"n1","cpu":0.2,
				"memory":16777216}
			{"name":"app","namespace":"shop","workload":"Deployment/web","pod":"web-5d4f8c9b7-a","node":"n1","cpu":0.1,
				"memory":67108864,"cpuRequest":0.2,"memoryRequest":134217728,"cpuLimit":0.4,"memoryLimit":268435456}`,
	} {
		a := c.ask(query)
		var got, wanted []map[string]any
		for _, r := range a.Rows {
			for _, of := range []string{"cpuPeak", "memoryPeak", "cpuHistory", "memoryHistory"} {
				delete(r, of)
			}
			got = append(got, r)
		}
		d := json.NewDecoder(strings.NewReader(want))
		for d.More() {
			var r map[string]any
			if err := d.Decode(&r); err != nil {
				t.Fatal(err)
			}
			wanted = append(wanted, r)
		}
		if !reflect.DeepEqual(got, wanted) {
			t.Errorf("%s:\n%v, want\n%v", query, got, wanted)
		}
	}
	// Usage is of the nodes as a whole, and only some of them tell what they have to give.
	a := c.ask("level=pods&namespace=infra&limit=1")
	want := map[string]float64{"nodes": 3, "namespaces": 2, "workloads": 4, "pods": 6, "containers": 8, "cpu": 1.85,
		"memory": 5905580032, "cpuRequest": 1.42, "memoryRequest": 1342177280, "cpuLimit": 0.8, "memoryLimit": 4831838208,
		"cpuAllocatable": 6, "memoryAllocatable": 12884901888}
	if !reflect.DeepEqual(a.Totals, want) {
		t.Errorf("totals %v, want %v", a.Totals, want)
	}
	if a.Version != "1.2.3" || !a.State.OK || len(a.State.Failures)+len(a.State.Notices) > 0 || a.Level != "pods" ||
		a.Found != 3 || a.Missing != nil {
		t.Errorf("got %+v", a)
	}
}

func TestTotalsWithoutNodesAreThoseOfContainers(t *testing.T) {
	c := newCluster(t)
	c.forbidden[nodeUsage] = true
	c.pod("a/p", "n1", "", "app 100m 64Mi")
	c.refresh()
	a := c.ask("level=nodes")
	want := map[string]float64{"namespaces": 1, "workloads": 1, "pods": 1, "containers": 1, "cpu": .1, "memory": 64 << 20}
	if !reflect.DeepEqual(a.Totals, want) || len(a.Rows) > 0 {
		t.Errorf("totals %v, want %v, rows %v", a.Totals, want, a.Rows)
	}
}

func TestBeforeThereAreData(t *testing.T) {
	for name, c := range map[string]*cluster{"no cluster": newCluster(t), "no list was read": newCluster(t)} {
		if name == "no cluster" {
			c.source = Source{}
		}
		a := c.ask("")
		if a.Rows == nil || len(a.Rows) > 0 || len(a.Data) > 0 || a.Totals["pods"] != 0 || a.History["since"] != 0 {
			t.Errorf("%s: %+v", name, a)
		}
		if _, known := a.Totals["cpu"]; known {
			t.Errorf("%s: CPU of nothing is %v", name, a.Totals)
		}
		if body := c.get("/").Body.String(); !strings.Contains(body, "No data yet") {
			t.Errorf("%s: the page does not say so: %s", name, body)
		}
	}
}

// TestAnAnswerWaitsForTheFirstData, but for no longer than a second.
func TestAnAnswerWaitsForTheFirstData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.pod("a/p", "n", "", "app 1m 1Mi")
		c.page.Wait = func(ctx context.Context, _ string) { <-ctx.Done() }
		began := time.Now()
		if a := c.ask("level=pods"); a.Found != 0 || time.Since(began) != time.Second {
			t.Errorf("%d pods after %s", a.Found, time.Since(began))
		}
		c.page.Wait = func(context.Context, string) {
			time.Sleep(300 * time.Millisecond)
			c.refresh()
		}
		began = time.Now()
		if a := c.ask("level=pods"); a.Found != 1 || time.Since(began) != 300*time.Millisecond {
			t.Errorf("%d pods after %s", a.Found, time.Since(began))
		}
	})
}

// TestWhatMayBeOldIsNotShown: an answer waits for it to be read again, for no longer than a second, and then says what
// is not shown. What is read first is of a pod that is gone when it is read again.
func TestWhatMayBeOldIsNotShown(t *testing.T) {
	const hangs = time.Hour
	const both = "nodes pods"
	for name, test := range map[string]struct {
		still              bool // for 200 s, else an attempt is to begin after 290 s, and is asked for after 309 s
		nodes, pods        time.Duration
		after              time.Duration // it is answered
		rows, onNode, says string        // of pods, of the node, and of which lists it is said that they are not shown
	}{
		"the process stood still": {true, 0, 0, 0, "a/new", "1 pods, request 0.005", ""},
		"the API server takes its time": {true, 0, 300 * time.Millisecond, 300 * time.Millisecond, "a/new",
			"1 pods, request 0.005", ""},
		"it does not answer":           {true, hangs, hangs, time.Second, "", "", both},
		"it does not answer for pods":  {true, 0, hangs, time.Second, "", "<nil> pods, request <nil>", "pods"},
		"it does not answer for nodes": {true, hangs, 0, time.Second, "a/new", "", "nodes"},
		"it does not answer until what was read before is older than max-age": {false, hangs, hangs, time.Second, "", "",
			both},
		"it does not answer for pods until they are older than max-age": {false, 0, hangs, time.Second, "",
			"<nil> pods, request <nil>", "pods"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				c.node("n", "1 1Gi", "")
				c.pod("a/old", "n", "", "app 1m 1Mi 5m -")
				stop := c.run(290 * time.Second)
				if a := c.ask("level=pods"); a.names() != "a/old" || !a.State.OK {
					t.Fatalf("at first %s, %+v", a.names(), a.State)
				}
				wait := 289 * time.Second
				if test.still {
					stop()
					wait = 200 * time.Second
				}
				time.Sleep(wait)
				c.mu.Lock()
				c.lists, c.takes = map[string][]any{}, map[string]time.Duration{nodeUsage: test.nodes, podUsage: test.pods}
				c.node("n", "1 1Gi", "")
				c.pod("a/new", "n", "", "app 1m 1Mi 5m -")
				c.mu.Unlock()
				if !test.still {
					time.Sleep(20 * time.Second)
				}
				began := time.Now()
				a := c.ask("level=pods")
				var says []string
				for _, text := range a.State.Failures {
					what, why, _ := strings.Cut(text, ": ")
					if says = append(says, what); !strings.HasPrefix(why, "not shown: what was read last, at 2000-01-01T") {
						t.Errorf("it is said: %s", text)
					}
				}
				if took := time.Since(began); took != test.after || a.names() != test.rows ||
					strings.Join(says, " ") != test.says || a.State.OK != (test.says == "") {
					t.Errorf("after %s %q, %+v; want after %s %q, failures of %q", took, a.names(), a.State, test.after,
						test.rows, test.says)
				}
				if _, known := a.Totals["pods"]; known != (test.rows != "") {
					t.Errorf("totals %v", a.Totals)
				}
				if _, known := a.Data["newest"]; known != (test.says != both) {
					t.Errorf("data %v", a.Data)
				}
				onNode := ""
				for _, r := range c.ask("level=nodes").Rows {
					onNode = fmt.Sprintf("%v pods, request %v", r["pods"], r["cpuRequest"])
				}
				if onNode != test.onNode {
					t.Errorf("of the node %q, want %q", onNode, test.onNode)
				}
				body := c.get("/?level=nodes").Body.String()
				if said := strings.Contains(body, ": not shown: "); said != (test.says != "") || strings.Contains(body, "-1 pod") {
					t.Errorf("the page: %s", body)
				}
			})
		})
	}
}

// TestTheProcessStandsStillWhileItAnswers: what it has read for the answer by then is not in it.
func TestTheProcessStandsStillWhileItAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.pod("a/old", "n", "", "app 1m 1Mi")
		stop := c.run(time.Hour)
		c.page.State = func(string) (failures, notices []string) {
			stop()
			c.lists[podUsage] = nil
			c.page.State = func(string) (failures, notices []string) { return nil, nil }
			time.Sleep(200 * time.Second)
			return nil, nil
		}
		if a := c.ask("level=pods"); a.Found > 0 || a.State.OK {
			t.Errorf("%s, %+v", a.names(), a.State)
		}
	})
}

// TestWorkloads is what a pod belongs to, by its controller and what is known of that.
func TestWorkloads(t *testing.T) {
	owners := map[string]string{ // of ReplicaSets, as their watch has them
		"web-5d4f8c9b7": "Deployment/web", "canary-7c6b": "Rollout/canary", "orphan-6d5c": "", "old-1234": "Deployment/new"}
	for _, resources := range [][]string{nil, {replicaSets}, {wholePods, replicaSets}} {
		c, watched := newCluster(t, resources...), len(resources) > 0
		if watched {
			for name, owner := range owners {
				meta := object{"namespace": "a", "name": name, "resourceVersion": "1"}
				if kind, owner, found := strings.Cut(owner, "/"); found {
					meta["ownerReferences"] = []object{{"kind": "Other", "name": "x"},
						{"kind": kind, "name": owner, "controller": true}}
				}
				c.lists[replicaSets] = append(c.lists[replicaSets], object{"metadata": meta})
			}
			c.watch()
		}
		for _, test := range []struct{ pod, owner, guessed, watched string }{
			{"a Deployment's", "ReplicaSet/web-5d4f8c9b7", "Deployment/web", "Deployment/web"},
			{"another maker's of ReplicaSets", "ReplicaSet/canary-7c6b", "Deployment/canary", "Rollout/canary"},
			{"an orphan's", "ReplicaSet/orphan-6d5c", "Deployment/orphan", "ReplicaSet/orphan-6d5c"},
			{"an adopted one's", "ReplicaSet/old-1234", "Deployment/old", "Deployment/new"},
			{"one that is not known yet", "ReplicaSet/late-9f8e", "Deployment/late", "Deployment/late"},
			{"a CronJob's", "Job/report-29412345", "CronJob/report", "CronJob/report"},
			{"a Job's", "Job/import", "Job/import", "Job/import"},
			{"a StatefulSet's", "StatefulSet/db", "StatefulSet/db", "StatefulSet/db"},
			{"a static pod", "Node/n1", "Pod/a static pod", "Pod/a static pod"},
			{"a pod by itself", "", "Pod/a pod by itself", "Pod/a pod by itself"},
		} {
			c.pod("a/"+test.pod, "n1", test.owner, "app 1m 1Mi")
			c.refresh()
			want := test.guessed
			if watched {
				want = test.watched
			}
			of := "&pod=" + strings.ReplaceAll(test.pod, " ", "+")
			if a := c.ask("level=pods" + of); a.Found != 1 || a.Rows[0]["workload"] != want {
				t.Errorf("%s, watched %t: %v, want %s", test.pod, watched, a.Rows, want)
			}
			if a := c.ask("level=workloads" + of); a.Found != 1 || a.Rows[0]["name"] != want {
				t.Errorf("%s, watched %t: as a workload %v, want %s", test.pod, watched, a.Rows, want)
			}
		}
	}
}

// TestAPodThatTheWatchDoesNotKnowYet has usage, and is a pod by itself as long as nothing says what it belongs to.
func TestAPodThatTheWatchDoesNotKnowYet(t *testing.T) {
	c := newCluster(t)
	c.uses("a/new", "app 5m 1Mi")
	c.refresh()
	row := c.ask("level=pods").Rows[0]
	if row["name"] != "new" || row["namespace"] != "a" || row["cpu"] != .005 || row["workload"] != nil ||
		row["node"] != nil {
		t.Errorf("%v", row)
	}
	if a := c.ask("level=workloads"); a.names() != "a/Pod/new" {
		t.Errorf("workloads %s", a.names())
	}
}

func TestTwoReplicaSetsOfADeploymentAreOneWorkload(t *testing.T) {
	c := newCluster(t)
	c.pod("a/web-1-x", "n", "ReplicaSet/web-1", "app 1m 1Mi 5m -")
	c.pod("a/web-2-x", "n", "ReplicaSet/web-2", "app 2m 1Mi 7m -")
	c.pod("b/web-1-x", "n", "ReplicaSet/web-1", "app 4m 1Mi 5m -") // the same template
	c.refresh()
	a := c.ask("level=workloads")
	if a.names() != "b/Deployment/web a/Deployment/web" || a.Rows[1]["cpu"] != .003 || a.Rows[1]["cpuRequest"] != .012 ||
		a.Totals["workloads"] != 2 {
		t.Errorf("%v", a)
	}
	if a := c.ask("level=pods&namespace=a&workload=Deployment/web"); a.names() != "a/web-2-x a/web-1-x" {
		t.Errorf("its pods are %s", a.names())
	}
}

// TestFilters is which rows there are. Their figures are those of the rows as a whole.
func TestFilters(t *testing.T) {
	c := shop(t)
	for _, test := range []struct{ query, want string }{
		{"level=nodes&node=n2", "n2"},
		{"level=nodes&namespace=infra", "n1 n2"},
		{"level=nodes&namespace=shop&workload=StatefulSet/db", "n1"},
		{"level=nodes&pod=debug&node=n1", ""},
		{"level=nodes&q=3", "n3"},
		{"node=n2", "shop infra"},
		{"workload=StatefulSet/db", "shop"},
		{"pod=debug", "infra"},
		{"namespace=infra", "infra"},
		{"namespace=infra&workload=StatefulSet/db", ""},
		{"q=INF", "infra"},
		{"level=workloads&namespace=infra", "infra/DaemonSet/agent infra/Pod/debug"},
		{"level=workloads&node=n1", "shop/StatefulSet/db shop/Deployment/web infra/DaemonSet/agent"},
		{"level=workloads&workload=Pod/debug", "infra/Pod/debug"},
		{"level=workloads&q=shop", "shop/StatefulSet/db shop/Deployment/web"},
		{"level=workloads&q=pod/", "infra/Pod/debug"},
		{"level=workloads&q=daemon", "infra/DaemonSet/agent"},
		{"level=pods&namespace=shop&workload=Deployment/web", "shop/web-5d4f8c9b7-a shop/web-5d4f8c9b7-b"},
		{"level=pods&workload=Pod/debug", "infra/debug"},
		{"level=pods&workload=Pod/db-0", ""},
		{"level=pods&node=n2", "shop/web-5d4f8c9b7-b infra/agent-y infra/debug"},
		{"level=pods&node=n", ""},
		{"level=pods&q=deployment", "shop/web-5d4f8c9b7-a shop/web-5d4f8c9b7-b"},
		{"level=pods&q=-A", "shop/web-5d4f8c9b7-a"},
		{"level=pods&q=nothing", ""},
		{"level=containers&q=sh", "db-0/postgres web-5d4f8c9b7-a/proxy web-5d4f8c9b7-a/app web-5d4f8c9b7-b/app " +
			"web-5d4f8c9b7-b/proxy debug/sh"},
		{"level=containers&q=proxy&node=n2", "web-5d4f8c9b7-b/proxy"},
		{"level=containers&namespace=infra&q=agent-y", "agent-y/agent"},
	} {
		a := c.ask(test.query)
		got := strings.Fields(a.names())
		if a.Level == "containers" { // without the namespace
			for i := range got {
				_, got[i], _ = strings.Cut(got[i], "/")
			}
		}
		want := strings.Fields(test.want)
		if !slices.Equal(got, want) || a.Found != len(want) {
			t.Errorf("%s: %q (%d found), want %q", test.query, got, a.Found, want)
		}
	}
	if a := c.ask("level=workloads&node=n2&namespace=shop"); a.Rows[0]["cpu"] != .375 || a.Rows[0]["pods"] != 2. {
		t.Errorf("a workload with a pod on the node: %v", a.Rows)
	}
}

// TestOrder is what rows are sorted by. Those without a value come last, whichever way, and equal ones by their names.
func TestOrder(t *testing.T) {
	c := newCluster(t)
	c.pod("b/w", "n", "", "app 300m 10Mi 1 100Mi 2 200Mi")
	c.pod("a/x", "n", "", "app 200m 40Mi 100m 1Gi 1 50Mi")
	c.pod("a/y", "n", "", "app 100m 20Mi 0 - - -")
	c.pod("a/z", "n", "", "app - 30Mi")
	c.pod("b/y", "n", "", "app 100m 20Mi")
	c.refresh()
	for _, test := range []struct{ query, want string }{
		{"", "b/w a/x a/y b/y a/z"},
		{"sort=cpu&desc=false", "a/y b/y a/x b/w a/z"},
		{"sort=memory", "a/x a/z a/y b/y b/w"},
		{"sort=cpuRequestShare", "a/x b/w a/y a/z b/y"},
		{"sort=cpuRequestShare&desc=false", "b/w a/x a/y a/z b/y"},
		{"sort=cpuLimitShare", "a/x b/w a/y a/z b/y"},
		{"sort=memoryRequestShare", "b/w a/x a/y a/z b/y"},
		{"sort=memoryLimitShare", "a/x b/w a/y a/z b/y"},
		{"sort=cpuPeak", "b/w a/x a/y b/y a/z"},
		{"sort=memoryPeak&desc=false", "b/w a/y b/y a/z a/x"},
		{"sort=name&desc=false", "b/w a/x a/y b/y a/z"},
		{"sort=name", "a/z a/y b/y a/x b/w"},
		{"sort=namespace", "b/w b/y a/x a/y a/z"},
		{"sort=namespace&desc=false", "a/x a/y a/z b/w b/y"},
	} {
		if a := c.ask("level=pods&" + test.query); a.names() != test.want {
			t.Errorf("%s: %s, want %s", test.query, a.names(), test.want)
		}
		if a := c.ask("level=containers&" + test.query); !strings.Contains(test.query, "name") && // which are all the same
			strings.ReplaceAll(a.names(), "/app", "") != test.want {
			t.Errorf("containers, %s: %s, want those of %s", test.query, a.names(), test.want)
		}
		// The first ones are the same ones.
		for limit := 1; limit < 5; limit++ {
			a, want := c.ask(fmt.Sprintf("level=pods&limit=%d&%s", limit, test.query)), strings.Fields(test.want)[:limit]
			if a.names() != strings.Join(want, " ") || a.Found != 5 {
				t.Errorf("%s, the first %d: %s (%d found), want %q", test.query, limit, a.names(), a.Found, want)
			}
		}
	}
}

// TestTheFirstOfMany compares with sorting all.
func TestTheFirstOfMany(t *testing.T) {
	c := newCluster(t)
	r := rand.New(rand.NewSource(1))
	type used struct {
		name        string
		cpu, memory int
		share       float64
	}
	var all []used
	for i := range 2000 {
		u := used{name: fmt.Sprintf("p%04d", i), cpu: 1 + r.Intn(200), memory: 1 + r.Intn(200)}
		request := 1 + r.Intn(300)
		u.share = float64(u.cpu) / 1000 / (float64(request) / 1000)
		c.pod("a/"+u.name, fmt.Sprint("n", i%7), fmt.Sprintf("StatefulSet/s%d", i/5),
			fmt.Sprintf("app %dm %dMi %dm 1Mi", u.cpu, u.memory, request))
		all = append(all, u)
	}
	r.Shuffle(len(c.lists[podUsage]), func(i, j int) {
		c.lists[podUsage][i], c.lists[podUsage][j] = c.lists[podUsage][j], c.lists[podUsage][i]
	})
	c.refresh()
	for sort, compare := range map[string]func(a, b used) int{
		"cpu":             func(a, b used) int { return cmp.Compare(b.cpu, a.cpu) },
		"memory":          func(a, b used) int { return cmp.Compare(b.memory, a.memory) },
		"memoryPeak":      func(a, b used) int { return cmp.Compare(b.memory, a.memory) },
		"cpuRequestShare": func(a, b used) int { return cmp.Compare(b.share, a.share) },
		"name":            func(a, b used) int { return cmp.Compare(b.name, a.name) },
	} {
		slices.SortFunc(all, func(a, b used) int { return cmp.Or(compare(a, b), cmp.Compare(a.name, b.name)) })
		for _, limit := range []int{1, 100, 500} {
			var want []string
			for _, u := range all[:limit] {
				want = append(want, "a/"+u.name)
			}
			a := c.ask(fmt.Sprintf("level=pods&sort=%s&limit=%d", sort, limit))
			if a.names() != strings.Join(want, " ") || a.Found != 2000 {
				t.Errorf("by %s the first %d of %d are %.300s, want %.300s", sort, limit, a.Found, a.names(), want)
			}
		}
	}
}

// TestSumsAreExact: the API counts in billionths of cores, and so do sums of its numbers.
func TestSumsAreExact(t *testing.T) {
	c := newCluster(t)
	c.pod("a/p", "n", "", "a 100000001n 1Ki", "b 200000002n 3Ki", "c 300000003n 8000000Ti")
	c.refresh()
	body := c.get("/top.json?level=pods").Body.String()
	if want := `"cpu":0.600000006,"memory":8796093022208004000,`; !strings.Contains(body, want) {
		t.Errorf("%s does not have %s", body, want)
	}
}

func TestWhatDoesNotWorkIsSaid(t *testing.T) {
	c := shop(t)
	c.forbidden[podUsage] = true
	c.refresh()
	a := c.ask("level=pods")
	if a.State.OK || len(a.State.Failures) != 1 || !strings.HasPrefix(a.State.Failures[0], "pods: failing since ") {
		t.Errorf("state %+v", a.State)
	}
	if a.Found != 6 {
		t.Errorf("%d pods, want those that were read before", a.Found)
	}
	if body := c.get("/").Body.String(); !strings.Contains(body, `<li class="failure">pods: failing since `) ||
		!strings.Contains(body, "✖ Something does not work") {
		t.Errorf("the page does not say so: %s", body)
	}
}

func TestMissingRights(t *testing.T) {
	const usage = "nodes: their usage needs the right to list nodes of metrics.k8s.io, see deploy/"
	const objects = "nodes: what is allocatable needs the right to list and watch nodes, see deploy/"
	for name, test := range map[string]struct {
		watched, forbidden []string
		want               []string
	}{
		"none":                    {[]string{nodeObjects}, nil, nil},
		"usage of nodes":          {[]string{nodeObjects}, []string{nodeUsage}, []string{usage}},
		"nodes":                   {[]string{nodeObjects}, []string{nodeObjects}, []string{objects}},
		"neither, as with a Role": {nil, []string{nodeUsage}, []string{usage, objects}},
	} {
		c := newCluster(t, test.watched...)
		for _, path := range test.forbidden {
			c.forbidden[path] = true
		}
		c.node("n1", "1 1Gi", "4 8Gi")
		c.watch()
		c.refresh()
		a := c.ask("level=nodes")
		if !slices.Equal(a.Missing, test.want) {
			t.Errorf("%s: missing %q, want %q", name, a.Missing, test.want)
		}
		_, bars := a.Totals["cpuAllocatable"]
		if want := len(test.want) == 0; bars != want {
			t.Errorf("%s: allocatable in the totals: %t, want %t", name, bars, want)
		}
	}
}

// TestAge is that of the readings. A clock that is ahead makes nothing newer than now.
func TestAge(t *testing.T) {
	now := time.Now()
	c := newCluster(t)
	for _, p := range []struct {
		name string
		at   time.Time
	}{{"a/old", now.Add(-2 * time.Minute)}, {"a/new", now.Add(-time.Second)}, {"a/ahead", now.Add(30 * time.Second)}} {
		c.pod(p.name, "n", "", "app 1m 1Mi")
		all := c.lists[podUsage]
		all[len(all)-1].(object)["timestamp"] = p.at.UTC().Format(time.RFC3339)
	}
	c.source.Period = 15 * time.Second
	c.refresh()
	a := c.ask("")
	if newest := a.Data["newest"]; newest < float64(now.Unix()) || newest > a.Time ||
		a.Data["oldest"] != float64(now.Add(-2*time.Minute).Unix()) || a.Data["period"] != 15 {
		t.Errorf("%v at %f", a.Data, a.Time)
	}
}

// TestNamesAreText: whatever the cluster calls its things, it is neither markup nor a placeholder.
func TestNamesAreText(t *testing.T) {
	for _, hostile := range []string{`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `{{rows}}`, `'&"<>`,
		"line\nfeed\x00\u2028", `\",namespace=\"x`, `back\slash`, "</table>", "\xff"} {
		c := newCluster(t)
		legible := strings.ToValidUTF8(hostile, "�")
		c.node(hostile, "1 1Gi", "")
		meta := object{"namespace": "ns" + hostile, "name": "pod" + hostile, "resourceVersion": "1",
			"ownerReferences": []object{{"kind": "Stateful" + hostile, "name": "set" + hostile, "controller": true}}}
		c.keepPod(object{"metadata": meta, "spec": object{"nodeName": hostile, "containers": []object{
			{"name": "app" + hostile, "resources": object{"requests": quantities("5m 5Mi")}}}}})
		c.lists[podUsage] = []any{object{"metadata": meta, "timestamp": time.Now().UTC().Format(time.RFC3339),
			"window": "15s", "containers": []object{{"name": "app" + hostile, "usage": quantities("1m 1Mi")}}}}
		c.refresh()
		for _, level := range levelNames {
			a := c.ask("level=" + level)
			if a.Found != 1 {
				t.Errorf("%q: %d %s", hostile, a.Found, level)
				continue
			}
			for field, prefix := range map[string]string{"name": map[string]string{"nodes": "", "namespaces": "ns",
				"pods": "pod", "containers": "app", "workloads": "Stateful" + legible + "/set"}[level], "namespace": "ns",
				"workload": "Stateful" + legible + "/set", "pod": "pod", "node": ""} {
				// NUL cannot be on the page of metrics, of which the names are.
				want := strings.ReplaceAll(prefix+legible, "\x00", "�")
				got, there := a.Rows[0][field]
				if there && strings.ReplaceAll(fmt.Sprint(got), "\x00", "�") != want {
					t.Errorf("%q: the %s of %s is %q, want %q", hostile, field, level, got, want)
				}
			}
			if level == "containers" && a.Rows[0]["cpuRequest"] != .005 {
				t.Errorf("%q: the container's request is not found: %v", hostile, a.Rows[0])
			}
			for _, address := range []string{"/top.json?level=" + level, "/?level=" + level} {
				body := c.get(address).Body.String()
				before, rows, _ := strings.Cut(body, `<tbody id="rows">`)
				if address[1] == 't' {
					rows = body
				} else if rows, _, _ = strings.Cut(rows, "</tbody>"); strings.Count(before, "<script") != 1 {
					t.Errorf("%q: a script more in %s", hostile, before)
				}
				for _, markup := range []string{"<script", "<img", "</script", "</table>"} {
					if strings.Contains(rows, markup) {
						t.Errorf("%q: %s has %s: %s", hostile, address, markup, rows)
					}
				}
			}
		}
	}
}

// TestAnswersWhileListsAreRead is for the race detector.
func TestAnswersWhileListsAreRead(t *testing.T) {
	c := newCluster(t, nodeObjects)
	c.many(300)
	c.watch()
	c.refresh()
	var running sync.WaitGroup
	done := make(chan struct{})
	for _, level := range levelNames {
		running.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if a := c.ask("sort=cpuPeak&level=" + level); len(a.Rows) == 0 || a.Totals["pods"] != 300 {
					t.Errorf("%s: %d rows, %v", level, len(a.Rows), a.Totals)
				}
				c.get("/?level=" + level)
			}
		})
	}
	for range 20 {
		c.refresh()
		c.page.history.forget()
	}
	close(done)
	running.Wait()
}
