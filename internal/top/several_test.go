package top

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// several returns a page of clusters with these names, by name; each has its own objects, and the page of all.
func several(t *testing.T, names ...string) map[string]*cluster {
	clusters := map[string]*cluster{}
	for _, name := range names {
		clusters[name] = newCluster(t, nodeObjects)
		clusters[name].source.Name = name
	}
	page := &clusters[names[0]].page
	page.Sources = func() (all []Source) {
		for _, name := range slices.Sorted(slices.Values(names)) {
			all = append(all, clusters[name].source)
		}
		return all
	}
	for _, c := range clusters {
		c.handlers, c.of = page.Handlers(), page
	}
	return clusters
}

func TestSeveralClusters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clusters := several(t, "eu", "us")
		eu, us := clusters["eu"], clusters["us"]
		eu.node("n1", "1 1Gi", "4 8Gi")
		us.node("n1", "2 2Gi", "8 16Gi")
		us.node("n2", "500m 1Gi", "8 16Gi")
		eu.pod("shop/web-a-b", "n1", "ReplicaSet/web-a", "app 300m 10Mi 1 - - -")
		eu.pod("shop/db-0", "n1", "StatefulSet/db", "app 100m 10Mi")
		us.pod("shop/web-a-b", "n1", "ReplicaSet/web-a", "app 450m 10Mi 2 - - -")
		us.pod("other/x", "n2", "", "app 50m 10Mi")
		eu.watch()
		us.watch()
		eu.refresh()
		us.refresh()
		for query, want := range map[string]string{
			"":                       "us/shop=0.45 eu/shop=0.4 us/other=0.05",
			"sort=name&desc=false":   "us/other=0.05 eu/shop=0.4 us/shop=0.45",
			"level=nodes":            "us/n1=2 eu/n1=1 us/n2=0.5",
			"level=nodes&cluster=eu": "eu/n1=1",
			"level=workloads":        "us/Deployment/web=0.45 eu/Deployment/web=0.3 eu/StatefulSet/db=0.1 us/Pod/x=0.05",
			"level=workloads&workload=Deployment/web&cluster=us": "us/Deployment/web=0.45",
			"level=pods&limit=2":                         "us/web-a-b=0.45 eu/web-a-b=0.3",
			"level=pods&cluster=eu":                      "eu/web-a-b=0.3 eu/db-0=0.1",
			"level=pods&node=n2":                         "us/x=0.05",
			"level=containers&q=web":                     "us/app=0.45 eu/app=0.3",
			"level=namespaces&cluster=us":                "us/shop=0.45 us/other=0.05",
			"level=namespaces&workload=Pod/x":            "us/other=0.05",
			"level=pods&sort=cpuRequestShare":            "eu/web-a-b=0.3 us/web-a-b=0.45 us/x=0.05 eu/db-0=0.1",
			"level=pods&sort=cpuPeak&limit=1":            "us/web-a-b=0.45",
			"level=pods&sort=cpuPeak&cluster=eu&limit=1": "eu/web-a-b=0.3",
		} {
			a := eu.ask(query)
			var got []string
			for _, r := range a.Rows {
				got = append(got, fmt.Sprintf("%v/%v=%v", r["cluster"], r["name"], r["cpu"]))
			}
			if s := strings.Join(got, " "); s != want {
				t.Errorf("%q: %s, want %s", query, s, want)
			}
			if strings.Join(a.Clusters, ",") != "eu,us" {
				t.Errorf("clusters %v", a.Clusters)
			}
		}
		a := eu.ask("")
		if a.Totals["nodes"] != 3 || a.Totals["pods"] != 4 || a.Totals["cpu"] != 3.5 || a.Totals["cpuAllocatable"] != 20 ||
			a.Totals["cpuRequest"] != 3 {
			t.Errorf("totals of all: %v", a.Totals)
		}
		if a = eu.ask("cluster=us"); a.Totals["nodes"] != 2 || a.Totals["pods"] != 2 || a.Totals["cpu"] != 2.5 {
			t.Errorf("totals of one: %v", a.Totals)
		}
	})
}

// TestHistoryOfSeveralClusters has rows of the same names, of sources with different periods.
func TestHistoryOfSeveralClusters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clusters := several(t, "eu", "us")
		eu, us := clusters["eu"], clusters["us"]
		eu.source.Period, us.source.Period = 15*time.Second, 30*time.Second
		eu.ask("")
		for i := range 5 {
			for _, c := range []*cluster{eu, us} {
				if c == us && i%2 == 1 {
					continue
				}
				c.lists[podUsage] = nil
				c.uses("a/p", fmt.Sprintf("app %dm 1Mi", i+1+map[*cluster]int{us: 10}[c]))
				c.refresh()
			}
			time.Sleep(15 * time.Second)
		}
		got := map[any]string{}
		for _, r := range eu.ask("level=pods").Rows {
			got[r["cluster"]] = fmt.Sprint(r["cpuHistory"], r["cpuPeak"], r["historyStep"])
		}
		if want := "[0.001 0.002 0.003 0.004 0.005] 0.005 <nil>"; got["eu"] != want {
			t.Errorf("history %s, want %s", got["eu"], want)
		}
		if want := "[0.011 0.013 0.015] 0.015 30"; got["us"] != want {
			t.Errorf("history %s, want %s", got["us"], want)
		}
		eu.of.Gone("us")
		if eu.of.several["us"] != nil || eu.of.several["eu"] == nil {
			t.Error("the history of a cluster that is gone is kept, or no other")
		}
	})
}

// TestClustersShareTheRoomOfHistory: what one has taken up it gives back when others come.
func TestClustersShareTheRoomOfHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const room = 100 // rows
		clusters := several(t, "eu", "us")
		eu, us := clusters["eu"], clusters["us"]
		both := eu.page.Sources
		eu.page.Sources = func() []Source { return []Source{eu.source} }
		h := eu.page.historyOf("eu", 1)
		h.maxBytes = room * (4*60 + 56)
		taken := func() int { return len(h.last) }
		next := func(c *cluster, pods int) {
			time.Sleep(15 * time.Second)
			c.few(pods, "StatefulSet/db")
			c.refresh()
		}
		next(eu, room-2) // and a workload and a namespace
		if eu.ask(""); taken() != room {
			t.Fatalf("one cluster alone has %d rows, want %d", taken(), room)
		}
		eu.page.Sources = both
		next(us, 1)
		us.ask("cluster=us")
		for _, pods := range []int{room - 2, 10, 10} {
			next(eu, pods)
			if taken() > room/2 || len(h.chunks)*chunkLen > room/2+chunkLen {
				t.Errorf("of %d pods beside another cluster it has %d rows, want up to %d", pods, taken(), room/2)
			}
		}
		if r := eu.ask("level=pods&cluster=eu&limit=1").Rows[0]; past(r) != "<nil> 0.001 0.001" {
			t.Errorf("of few pods again it has %v", r)
		}
	})
}

// TestOneOfSeveralMayBeOld: what is shown of it is that, and the others are shown as if it was not there.
func TestOneOfSeveralMayBeOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clusters := several(t, "eu", "hangs")
		eu, hangs := clusters["eu"], clusters["hangs"]
		for name, c := range clusters {
			c.pod("a/"+name, "", "", "app 1m 1Mi")
			c.run(time.Hour)()
		}
		time.Sleep(200 * time.Second)
		hangs.takes = map[string]time.Duration{nodeUsage: time.Hour, podUsage: time.Hour}
		eu.takes = map[string]time.Duration{podUsage: 100 * time.Millisecond}
		for _, test := range []struct {
			query, rows string
			failures    int
			after       time.Duration
		}{{"", "a/eu", 2, time.Second}, {"&cluster=hangs", "", 2, time.Second}, {"&cluster=eu", "a/eu", 0, 0}} {
			began := time.Now()
			a := eu.ask("level=pods" + test.query)
			if took := time.Since(began); a.names() != test.rows || len(a.State.Failures) != test.failures ||
				test.failures > 0 && !strings.HasSuffix(a.State.Failures[0], "again (cluster hangs)") || took != test.after {
				t.Errorf("%q: after %s %q, %+v", test.query, took, a.names(), a.State)
			}
		}
	})
}

// TestAClusterThatIsNotThere is answered with those that are.
func TestAClusterThatIsNotThere(t *testing.T) {
	for says, c := range map[string]*cluster{
		`there is no cluster "x"; there is one, without a name: leave out cluster`: newCluster(t),
		`there is no cluster "x"; there are: eu, us`:                               several(t, "eu", "us")["eu"],
	} {
		for _, address := range []string{"/top.json?cluster=x", "/?cluster=x"} {
			if w := c.get(address); w.Code != 404 || w.Body.String() != says+"\n" {
				t.Errorf("%s: %d %s", address, w.Code, w.Body)
			}
		}
	}
}
