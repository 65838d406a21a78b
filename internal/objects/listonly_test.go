package objects

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"metrics-server-prom/internal/health"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/refresh"
	"metrics-server-prom/internal/selfmetrics"
	"metrics-server-prom/internal/state"
)

// lister is an API server whose account may list, and get Namespaces, but watch nothing and not read ReplicaSets.
type lister struct {
	mu       sync.Mutex
	requests map[string]int // by path, with ?watch where it is for one
}

func (l *lister) RoundTrip(r *http.Request) (*http.Response, error) {
	path := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/apis"), "/api")
	watch := r.URL.Query().Get("watch") != ""
	if watch {
		path += "?watch"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests[path]++
	meta := metav1.ObjectMeta{Name: "a", ResourceVersion: "1"}
	switch {
	case watch || strings.HasSuffix(path, "/replicasets"):
		return answer(403, metav1.Status{Status: metav1.StatusFailure, Code: 403}), nil
	case strings.HasSuffix(path, "/namespaces/a"):
		return answer(200, metav1.PartialObjectMetadata{ObjectMeta: meta,
			TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: "meta.k8s.io/v1"}}), nil
	}
	if strings.Contains(path, "/namespaces/") {
		meta.Namespace = "a"
	}
	kind := metav1.TypeMeta{Kind: "PartialObjectMetadataList", APIVersion: "meta.k8s.io/v1"}
	if !strings.Contains(r.Header.Get("Accept"), kind.Kind) {
		resource := path[strings.LastIndex(path, "/")+1:]
		kind = metav1.TypeMeta{APIVersion: "v1", Kind: map[string]string{"pods": "PodList", "nodes": "NodeList",
			"resourcequotas": "ResourceQuotaList"}[resource]}
	}
	return answer(200, metav1.PartialObjectMetadataList{TypeMeta: kind,
		Items: []metav1.PartialObjectMetadata{{ObjectMeta: meta}}}), nil
}

func (l *lister) client(group schema.GroupVersion) rest.Interface {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	config := &rest.Config{Host: "http://cluster", APIPath: "/apis", QPS: -1}
	config.GroupVersion, config.NegotiatedSerializer = &group, serializer.NewCodecFactory(scheme).WithoutConversion()
	c, err := rest.RESTClientForConfigAndClient(config, &http.Client{Transport: l})
	if err != nil {
		panic(err)
	}
	return c
}

func TestAClusterThatIsOnlyListed(t *testing.T) {
	for name, c := range map[string]struct {
		namespaces []string
		asked      map[string]int
	}{
		"the cluster": {[]string{""}, map[string]int{"/v1/pods": 1, "/v1/nodes": 1, "/v1/namespaces": 1,
			"/v1/resourcequotas": 1, "/batch/v1/jobs": 1}},
		"a namespace": {[]string{"a"}, map[string]int{"/v1/namespaces/a/pods": 1, "/v1/namespaces/a": 1,
			"/v1/namespaces/a/resourcequotas": 1, "/batch/v1/namespaces/a/jobs": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &lister{requests: map[string]int{}}
				cluster := &Cluster{Client: server.client, Namespaces: c.namespaces, ListOnly: true, MaxAge: maxAge,
					Pulse: refresh.NewPulse(), Health: &health.Tracker{}, Self: new(selfmetrics.Registry).Scope("")}
				row := state.Row{Add: func(*state.Samples, *state.Object) {}}
				all := All{Pods: NewPods(cluster, Pods{Labels: label.Pods{}, Changed: func(string) {}})}
				all.Others, _ = NewOthers(cluster, func(string) []state.Row { return []state.Row{row} }, []string{"family"})
				ctx, stop := context.WithCancel(t.Context())
				var running sync.WaitGroup
				running.Go(func() { cluster.Pulse.Run(ctx) })
				running.Go(func() { all.Run(ctx) })
				ready := func() {
					t.Helper()
					if err := all.Pods.Ready(ctx); err != nil || all.Pods.Store.Len() != 1 {
						t.Errorf("%d pods, %v", all.Pods.Store.Len(), err)
					}
					for _, o := range all.Others {
						want := 1
						if o.Watch.Resource == "replicasets" {
							want = 0
						}
						if err := o.Ready(ctx); err != nil || o.Store.Len() != want {
							t.Errorf("%d %s, %v", o.Store.Len(), o.Watch.Resource, err)
						}
					}
					if failures := cluster.Health.Failures(); len(failures) > 0 {
						t.Errorf("failures %q", failures)
					}
				}
				ready()
				time.Sleep(time.Hour)
				ready()
				stop()
				running.Wait()
				for path, n := range server.requests {
					if want := c.asked[path]; n != want && !strings.HasSuffix(path, "/replicasets") {
						t.Errorf("%d requests for %s, want %d", n, path, want)
					}
				}
			})
		})
	}
}
