package standin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// patience is how long a test waits for what must come; nothing that works takes that long.
const patience = 5 * time.Minute

func start(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(s), metricsv1beta1.AddToScheme(s)); err != nil {
		panic(err)
	}
	metav1.AddToGroupVersion(s, corev1.SchemeGroupVersion)
	return s
}()

// coreClient is a real client of the core API that asks for the given content type.
func coreClient(t testing.TB, s *Server, contentType string) *rest.RESTClient {
	t.Helper()
	c := s.RESTConfig()
	c.APIPath, c.GroupVersion = "/api", &corev1.SchemeGroupVersion
	return restClient(t, c, contentType)
}

// metricsClient is a real client of the metrics API that asks for the given content type.
func metricsClient(t testing.TB, s *Server, contentType string) *rest.RESTClient {
	t.Helper()
	c := s.RESTConfig()
	c.APIPath, c.GroupVersion = "/apis", &metricsv1beta1.SchemeGroupVersion
	return restClient(t, c, contentType)
}

func restClient(t testing.TB, c *rest.Config, contentType string) *rest.RESTClient {
	t.Helper()
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.AcceptContentTypes, c.ContentType = contentType, contentType
	client, err := rest.RESTClientFor(c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// store is what a reflector fills; it reports every change.
type store struct {
	cache.Store
	changed chan struct{}
	events  chan string // the operations, for tests that want to know them; nil for the others
}

func newStore() *store {
	return &store{Store: cache.NewStore(cache.MetaNamespaceKeyFunc), changed: make(chan struct{}, 1)}
}

func (s *store) note(operation string, obj any, err error) error {
	if s.events != nil {
		s.events <- operation + " " + obj.(*corev1.Pod).Name
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return err
}

func (s *store) Add(obj any) error    { return s.note("add", obj, s.Store.Add(obj)) }
func (s *store) Update(obj any) error { return s.note("update", obj, s.Store.Update(obj)) }
func (s *store) Delete(obj any) error { return s.note("delete", obj, s.Store.Delete(obj)) }
func (s *store) Replace(objs []any, rv string) error {
	err := s.Store.Replace(objs, rv)
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return err
}

// await waits until the condition on the store holds; it reports what difference says until then.
func (s *store) await(t testing.TB, difference func() string) {
	t.Helper()
	timeout := time.After(patience)
	for {
		d := difference()
		if d == "" {
			return
		}
		select {
		case <-s.changed:
		case <-timeout:
			t.Fatalf("after %s: %s", patience, d)
		}
	}
}

// differs compares the store with the pods of the cluster that the filter lets through.
func (s *store) differs(server *Server, filter func(Pod) bool) string {
	want := map[string]string{}
	for _, p := range server.Pods() {
		if filter == nil || filter(p) {
			want[p.Namespace+"/"+p.Name] = fmt.Sprint(p.UID, p.ResourceVersion, p.Node, p.IP, p.Phase, p.Labels)
		}
	}
	have := s.List()
	if len(have) != len(want) {
		return fmt.Sprintf("the store has %d pods, the cluster %d", len(have), len(want))
	}
	for _, o := range have {
		p := o.(*corev1.Pod)
		got := fmt.Sprint(p.UID, p.ResourceVersion, p.Spec.NodeName, p.Status.PodIP, p.Status.Phase, p.Labels)
		if want[p.Namespace+"/"+p.Name] != got {
			return fmt.Sprintf("pod %s/%s: store has %s, cluster %s", p.Namespace, p.Name, got,
				want[p.Namespace+"/"+p.Name])
		}
	}
	return ""
}

// listOnly is a ListerWatcher that tells the reflector not to use watch-lists.
type listOnly struct{ *cache.ListWatch }

func (listOnly) IsWatchListSemanticsUnSupported() bool { return true }

// reflect runs a real client-go reflector until the test ends.
func reflect(t testing.TB, s *Server, st cache.ReflectorStore, contentType, labelSelector string, watchList bool) {
	t.Helper()
	lw := cache.NewFilteredListWatchFromClient(coreClient(t, s, contentType), "pods", metav1.NamespaceAll,
		func(o *metav1.ListOptions) { o.LabelSelector = labelSelector })
	var source cache.ListerWatcher = lw
	if !watchList {
		source = listOnly{lw}
	}
	r := cache.NewReflectorWithOptions(source, &corev1.Pod{}, st, cache.ReflectorOptions{
		Name:    t.Name(),
		Backoff: &wait.Backoff{Duration: 10 * time.Millisecond, Cap: 100 * time.Millisecond, Steps: 5, Factor: 2},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.RunWithContext(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// get asks for a path with the server's token and the given Accept header.
func get(t testing.TB, s *Server, path, accept string) (*http.Response, []byte) {
	t.Helper()
	return getWith(t, s, path, map[string]string{"Accept": accept, "Authorization": "Bearer " + (*s.tokens.Load())[0]})
}

func getWith(t testing.TB, s *Server, path string, header map[string]string) (*http.Response, []byte) {
	t.Helper()
	tlsConfig, err := rest.TLSConfigFor(s.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest("GET", s.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		if v != "" {
			req.Header.Set(k, v)
		}
	}
	resp, err := (&http.Client{Transport: transport, Timeout: patience}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// nameSelector is a selector of the one field metadata.name.
func nameSelector(name string) string {
	return fields.OneTermEqualSelector("metadata.name", name).String()
}

func lines(b []byte) []string { return strings.Split(string(bytes.TrimSpace(b)), "\n") }
