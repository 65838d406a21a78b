package top

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/objects"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/serve"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/state"
	"metrics-server-prom/internal/store"
	"metrics-server-prom/internal/usage"
	"metrics-server-prom/internal/watch"
)

// TestMain keeps client-go quiet, as the program does.
func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	slog.SetDefault(slog.New(slog.DiscardHandler))
	// They keep the moment of the last error of the whole process, which in a synctest bubble is of another clock.
	utilruntime.ErrorHandlers = nil
	os.Exit(m.Run())
}

// cluster is a page and what it reads, of an API server that is a table of answers.
type cluster struct {
	tb       testing.TB
	page     Page
	of       *Page // that shows the cluster
	source   Source
	store    *store.Store[sample.Text]
	keep     *watch.Watch[sample.Text] // for what it keeps of a pod
	handlers map[string]http.HandlerFunc
	health   health.Tracker
	registry selfmetrics.Registry
	pulse    *refresh.Pulse

	mu        sync.Mutex       // of what follows, for a test that changes it while lists are kept up to date
	lists     map[string][]any // items by path
	forbidden map[string]bool
	takes     map[string]time.Duration // to answer, by path; nothing where none is there
}

const (
	nodeUsage   = "/apis/metrics.k8s.io/v1beta1/nodes"
	podUsage    = "/apis/metrics.k8s.io/v1beta1/pods"
	nodeObjects = "/api/v1/nodes"
	replicaSets = "/apis/apps/v1/replicasets"
	wholePods   = "whole pods" // as with further pages
)

// newCluster returns one of no objects, of which these resources are watched beside pods.
func newCluster(tb testing.TB, watched ...string) *cluster {
	c := &cluster{tb: tb, store: store.New[sample.Text](), lists: map[string][]any{}, forbidden: map[string]bool{},
		pulse: refresh.NewPulse()}
	c.keep = objects.NewPods(&objects.Cluster{Client: c.client, Namespaces: []string{""}, Pulse: c.pulse,
		Health: &c.health, Self: new(selfmetrics.Registry).Scope("")},
		objects.Pods{Workload: true, Whole: slices.Contains(watched, wholePods)}).Watch
	list := func(resource, namespace string, joiner sample.Joiner) {
		joiner.MaxAge, joiner.Escape = 5*time.Minute, label.Escape
		c.source.Lists = append(c.source.Lists, usage.New(usage.Options{Client: c.client(kube.Metrics), Resource: resource,
			Namespace: namespace, Joiner: joiner, Self: c.registry.Scope(""), Health: &c.health,
			Show: func(*sample.Batch, usage.Status) {}}, c.registry.Scope("")))
	}
	list("nodes", "", sample.Joiner{})
	list("pods", "", sample.Joiner{Store: c.store, Unknown: label.Pods{}.Unknown})
	for _, l := range c.source.Lists {
		l.Loop.Pulse = c.pulse
	}
	rows := func(resource string) []state.Row {
		if resource == "nodes" && slices.Contains(watched, nodeObjects) {
			return []state.Row{{Family: 0, Add: state.NodeAllocatable}, {Family: 1, Add: state.NodeCapacity}}
		}
		if resource == "replicasets" && slices.Contains(watched, replicaSets) {
			return []state.Row{{Family: 2, Add: state.MetadataOwner}}
		}
		return nil
	}
	c.source.Others, _ = objects.NewOthers(&objects.Cluster{Client: c.client, Namespaces: []string{""},
		MaxAge: 5 * time.Minute, Pulse: c.pulse, Health: &c.health, Self: c.registry.Scope("")}, rows,
		[]string{"kube_node_status_allocatable", "kube_node_status_capacity", "kube_replicaset_owner"})
	c.page = Page{Version: "1.2.3", Interval: 15 * time.Second, Sources: func() []Source { return []Source{c.source} },
		State: func(string) (failures, notices []string) { return c.health.Failures(), c.health.Notices() },
		Wait:  func(context.Context, string) {}, Links: []string{"/metrics"}}
	c.handlers, c.of = c.page.Handlers(), &c.page
	return c
}

func (c *cluster) client(group schema.GroupVersion) rest.Interface {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, kube.Core)
	config := &rest.Config{Host: "http://cluster", APIPath: "/apis", QPS: -1}
	if group == kube.Core {
		config.APIPath = "/api"
	}
	config.GroupVersion, config.NegotiatedSerializer = &group, serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientForConfigAndClient(config, &http.Client{Transport: c})
	if err != nil {
		c.tb.Fatal(err)
	}
	return client
}

func (c *cluster) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := func(code int, object any) (*http.Response, error) {
		body, err := json.Marshal(object)
		return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}},
			Body: io.NopCloser(bytes.NewReader(body)), Request: r}, err
	}
	query := r.URL.Query()
	switch { // what a watch that goes on asks is answered without the tables, which a test may be changing
	case query.Get("sendInitialEvents") != "": // as a server that does not know it
		return answer(422, metav1.Status{Status: metav1.StatusFailure, Code: 422, Reason: metav1.StatusReasonInvalid})
	case query.Get("watch") != "":
		body, w := io.Pipe()
		context.AfterFunc(r.Context(), func() { w.CloseWithError(r.Context().Err()) })
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: body}, nil
	}
	c.mu.Lock()
	items, forbidden, takes := c.lists[r.URL.Path], c.forbidden[r.URL.Path], c.takes[r.URL.Path]
	c.mu.Unlock()
	if forbidden {
		return answer(403, metav1.Status{Status: metav1.StatusFailure, Code: 403, Reason: metav1.StatusReasonForbidden})
	}
	if takes > 0 {
		select {
		case <-time.After(takes):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	kind := map[string][2]string{nodeUsage: {"NodeMetricsList", "metrics.k8s.io/v1beta1"},
		podUsage: {"PodMetricsList", "metrics.k8s.io/v1beta1"}, nodeObjects: {"NodeList", "v1"},
		replicaSets: {"PartialObjectMetadataList", "meta.k8s.io/v1"}}[r.URL.Path]
	if items == nil {
		items = []any{}
	}
	return answer(200, map[string]any{"kind": kind[0], "apiVersion": kind[1],
		"metadata": map[string]any{"resourceVersion": "1"}, "items": items})
}

// watch runs the watches of objects until they have their first lists.
func (c *cluster) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	c.tb.Cleanup(cancel)
	for _, o := range c.source.Others {
		go o.Watch.Run(ctx)
		o.Ready(ctx)
	}
}

type object = map[string]any

// node adds a node: usage and allocatable are CPU and memory, "" for none.
func (c *cluster) node(name, usage, allocatable string) {
	if usage != "" {
		c.lists[nodeUsage] = append(c.lists[nodeUsage], object{"metadata": object{"name": name},
			"timestamp": time.Now().UTC().Format(time.RFC3339), "window": "15s", "usage": quantities(usage)})
	}
	if allocatable != "" {
		c.lists[nodeObjects] = append(c.lists[nodeObjects], object{"metadata": object{"name": name, "resourceVersion": "1"},
			"status": object{"allocatable": quantities(allocatable), "capacity": object{"cpu": "99", "memory": "99Gi"}}})
	}
}

// quantities are CPU and memory, "-" for none.
func quantities(text string) object {
	q := object{}
	for i, value := range strings.Fields(text) {
		if value != "-" {
			q[[]string{"cpu", "memory"}[i]] = value
		}
	}
	return q
}

// pod adds a pod: NAMESPACE/NAME, its node, its controller Kind/NAME or "", and for each container its name and then,
// as CPU and memory, usage, requests and limits, "-" for none.
func (c *cluster) pod(name, node, owner string, containers ...string) {
	c.known(name, node, owner, containers...)
	c.uses(name, containers...)
}

// known adds a pod as the watch knows it.
func (c *cluster) known(key, node, owner string, containers ...string) {
	namespace, name, _ := strings.Cut(key, "/")
	meta := object{"namespace": namespace, "name": name, "resourceVersion": "1", "uid": "u"}
	if kind, owner, found := strings.Cut(owner, "/"); found {
		meta["ownerReferences"] = []object{{"kind": kind, "name": owner, "controller": true}}
		if kind == "ReplicaSet" {
			meta["labels"] = object{"pod-template-hash": owner[strings.LastIndexByte(owner, '-')+1:]}
		}
	}
	var specs []object
	for _, text := range containers {
		f := strings.Fields(text)
		for len(f) < 7 {
			f = append(f, "-")
		}
		specs = append(specs, object{"name": f[0], "resources": object{"requests": quantities(f[3] + " " + f[4]),
			"limits": quantities(f[5] + " " + f[6])}})
	}
	c.keepPod(object{"metadata": meta, "spec": object{"nodeName": node, "containers": specs}})
}

// keepPod keeps a pod as the program does.
func (c *cluster) keepPod(o object) {
	body, err := json.Marshal(o)
	pod := c.keep.New()
	if err == nil {
		err = json.Unmarshal(body, pod)
	}
	if err != nil {
		c.tb.Fatal(err)
	}
	c.store.Put(c.keep.Keep(pod))
}

// few adds pods a/p0 to a/p(n-1) of one container, and no other usage. The first # in owner is the pod's number.
func (c *cluster) few(n int, owner string) {
	kind, name, _ := strings.Cut(owner, "/")
	c.lists[podUsage] = nil
	for i := range n {
		p := c.keep.New().(*slim.Pod)
		p.Namespace, p.Name, p.Spec.Containers = "a", fmt.Sprint("p", i), []slim.Container{{Name: "app"}}
		if owner != "" {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: strings.Replace(name, "#", fmt.Sprint(i), 1),
				Controller: new(true)}}
		}
		c.store.Put(c.keep.Keep(p))
		c.uses("a/"+p.Name, "app 1m 1Mi")
	}
}

// uses sets the usage of a pod.
func (c *cluster) uses(key string, containers ...string) {
	namespace, name, _ := strings.Cut(key, "/")
	var all []object
	for _, text := range containers {
		f := strings.Fields(text)
		all = append(all, object{"name": f[0], "usage": quantities(f[1] + " " + f[2])})
	}
	c.lists[podUsage] = append(c.lists[podUsage], object{"metadata": object{"namespace": namespace, "name": name},
		"timestamp": time.Now().UTC().Format(time.RFC3339), "window": "15s", "containers": all})
}

// refresh reads the lists as their loops do.
func (c *cluster) refresh() { c.refreshOnly(c.source.Lists...) }

func (c *cluster) refreshOnly(lists ...*usage.List) {
	for _, l := range lists {
		a := refresh.Attempt{Began: time.Now()}
		l.Loop.Publish(a, l.Loop.Read(c.tb.Context(), a))
		c.of.Observe(c.source, l)
	}
}

// run keeps the lists up to date as the program does, in a synctest bubble. stop has nobody look at the clocks, as when
// the process stands still; no attempt may begin or end then.
func (c *cluster) run(interval time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	c.tb.Cleanup(cancel)
	for _, l := range c.source.Lists {
		l.Loop.Interval, l.Loop.Cutoff = func() time.Duration { return interval }, 30*time.Second
		go l.Loop.Run(ctx)
	}
	pulse, stop := context.WithCancel(ctx)
	go c.pulse.Run(pulse)
	synctest.Wait()
	return stop
}

// get returns what is answered at an address.
func (c *cluster) get(address string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", address, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	serve.Pages(c.handlers, nil).ServeHTTP(w, r)
	return w
}

// answered is an answer in JSON as a client reads it.
type answered struct {
	Version  string
	Time     float64
	Clusters []string
	State    struct {
		OK                bool
		Failures, Notices []string
	}
	Data    map[string]float64
	Totals  map[string]float64
	Level   string
	Found   int
	Rows    []map[string]any
	History map[string]float64
	Missing []string
}

// ask returns the answer to a query.
func (c *cluster) ask(query string) (a answered) {
	c.tb.Helper()
	w := c.get("/top.json?" + query)
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
		c.tb.Fatalf("%s: %d %s: %s", query, w.Code, w.Header(), w.Body)
	}
	d := json.NewDecoder(w.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		c.tb.Fatalf("%s: %v", query, err)
	}
	return a
}

// names are those of the rows, with their namespaces.
func (a *answered) names() string {
	var names []string
	for _, r := range a.Rows {
		name := fmt.Sprint(r["name"])
		for _, of := range []string{"pod", "namespace"} {
			if r[of] != nil {
				name = fmt.Sprint(r[of], "/", name)
			}
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}
