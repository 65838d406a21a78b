package standin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

const (
	protobufAccept = "application/vnd.kubernetes.protobuf,application/json"
	jsonAccept     = "application/json"
)

func TestReflectorSeesExactlyThePods(t *testing.T) {
	for _, kind := range []struct {
		name, contentType string
		watchList         bool
		pods              int // JSON takes long under the race detector
	}{
		{"watch-list in protobuf", protobufAccept, true, 300},
		{"watch-list in JSON", jsonAccept, true, 30},
		{"list and watch in protobuf", protobufAccept, false, 300},
		{"list and watch in JSON", jsonAccept, false, 30},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, Options{Pods: kind.pods, Containers: 2})
			st := newStore()
			reflect(t, s, st, kind.contentType, "", kind.watchList)
			same := func() string { return st.differs(s, nil) }
			st.await(t, same)

			pods := s.Pods()
			for _, step := range []struct {
				name string
				do   func() error
			}{
				{"a pod is added", func() error {
					return s.AddPod(Pod{Namespace: "new", Name: "pod-1", Labels: map[string]string{"a": "b"},
						Containers: []string{"c"}})
				}},
				{"a pod is relabelled", func() error {
					return s.UpdatePod("new", "pod-1", func(p *Pod) { p.Labels["a"] = "c" })
				}},
				{"a pod is deleted", func() error { return s.DeletePod(pods[0].Namespace, pods[0].Name) }},
				{"a pod is recreated on another node", func() error {
					return s.RecreatePod(pods[1].Namespace, pods[1].Name, "node-0002")
				}},
				{"the watch is closed and pods change meanwhile", func() error {
					s.CloseWatches()
					return errors.Join(s.DeletePod(pods[2].Namespace, pods[2].Name),
						s.AddPod(Pod{Namespace: "new", Name: "pod-2"}))
				}},
				{"the history is compacted under a running watch", func() error {
					s.Compact()
					return s.DeletePod(pods[3].Namespace, pods[3].Name)
				}},
				{"the server is killed and restarted, pods change meanwhile", func() error {
					s.Kill()
					return errors.Join(s.DeletePod(pods[4].Namespace, pods[4].Name), s.Restart())
				}},
				{"the history is compacted while the server is down", func() error {
					s.Kill()
					err := s.DeletePod(pods[5].Namespace, pods[5].Name)
					s.Compact()
					return errors.Join(err, s.Restart())
				}},
				{"etcd is restored from a backup: versions start lower", func() error {
					s.Restore(900)
					return errors.Join(s.DeletePod(pods[6].Namespace, pods[6].Name),
						s.RecreatePod(pods[7].Namespace, pods[7].Name, "node-0001"))
				}},
				{"many changes of all kinds", func() error {
					for range kind.pods {
						s.ChurnOnce()
					}
					return nil
				}},
			} {
				if err := step.do(); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				t.Log(step.name)
				st.await(t, same)
			}
		})
	}
}

func TestWatchWithSelectorTurnsChangesIntoAddedAndDeleted(t *testing.T) {
	s := start(t, Options{Nodes: 1})
	st := newStore()
	st.events = make(chan string, 100)
	reflect(t, s, st, protobufAccept, "app=web", true)
	web, other := map[string]string{"app": "web"}, map[string]string{"app": "db"}
	st.await(t, func() string { return map[bool]string{true: "no watch runs"}[s.Watches() == 0] })

	for _, step := range []struct {
		name   string
		change error
		want   string // "" where the watch has nothing to tell
	}{
		{"a pod that matches is added", s.AddPod(Pod{Namespace: "n", Name: "a", Labels: web}), "add a"},
		{"a pod that does not match is added", s.AddPod(Pod{Namespace: "n", Name: "b", Labels: other}), ""},
		{"a pod begins to match", s.UpdatePod("n", "b", func(p *Pod) { p.Labels = web }), "add b"},
		{"a pod that matches changes", s.UpdatePod("n", "b", func(p *Pod) { p.IP = "10.9.9.9" }), "update b"},
		{"a pod ceases to match", s.UpdatePod("n", "a", func(p *Pod) { p.Labels = other }), "delete a"},
		{"a pod that does not match is deleted", s.DeletePod("n", "a"), ""},
		{"a pod that matches is deleted", s.DeletePod("n", "b"), "delete b"},
	} {
		if step.change != nil {
			t.Fatal(step.name, step.change)
		}
		if step.want == "" {
			continue // the next event shows that nothing came before it
		}
		select {
		case got := <-st.events:
			if got != step.want {
				t.Errorf("%s: the watch said %q, want %q", step.name, got, step.want)
			}
		case <-time.After(patience):
			t.Fatalf("%s: no event, want %q", step.name, step.want)
		}
	}
}

func TestMetricsListsEqualTheModelInBothEncodings(t *testing.T) {
	s := start(t, Options{Nodes: 4, Pods: 300, Containers: 3})
	s.SetUsage(s.Pods()[0].Namespace, s.Pods()[0].Name, s.Pods()[0].Containers[0], "", "1Gi")
	model := s.PodUsage()
	for _, contentType := range []string{protobufAccept, jsonAccept} {
		t.Run(contentType, func(t *testing.T) {
			var pods metricsv1beta1.PodMetricsList
			client := metricsClient(t, s, contentType)
			if err := client.Get().Resource("pods").Do(t.Context()).Into(&pods); err != nil {
				t.Fatal(err)
			}
			if len(pods.Items) != len(model) {
				t.Fatalf("%d items, the model has %d", len(pods.Items), len(model))
			}
			for i, got := range pods.Items {
				if want := model[i]; describePod(got) != describeUsage(want) {
					t.Fatalf("item %d:\n%s\nthe model has\n%s", i, describePod(got), describeUsage(want))
				}
			}
			var nodes metricsv1beta1.NodeMetricsList
			if err := client.Get().Resource("nodes").Do(t.Context()).Into(&nodes); err != nil {
				t.Fatal(err)
			}
			want := s.NodeUsage()
			if len(nodes.Items) != len(want) {
				t.Fatalf("%d nodes, the model has %d", len(nodes.Items), len(want))
			}
			for i, n := range nodes.Items {
				if got := describeNode(n); got != fmt.Sprint(want[i].Name, want[i].Timestamp.Unix(), want[i].Window,
					want[i].CPU, want[i].Memory) {
					t.Errorf("node %d: %s, the model has %v", i, got, want[i])
				}
			}
			// A single object is the same as in the list.
			var pod metricsv1beta1.PodMetrics
			if err := client.Get().Namespace(model[7].Namespace).Resource("pods").Name(model[7].Name).
				Do(t.Context()).Into(&pod); err != nil {
				t.Fatal(err)
			}
			if describePod(pod) != describeUsage(model[7]) {
				t.Errorf("single pod %s, the model has %s", describePod(pod), describeUsage(model[7]))
			}
			var node metricsv1beta1.NodeMetrics
			if err := client.Get().Resource("nodes").Name("node-0001").Do(t.Context()).Into(&node); err != nil {
				t.Fatal(err)
			}
			if describeNode(node) != describeNode(nodes.Items[1]) {
				t.Errorf("single node %s, in the list %s", describeNode(node), describeNode(nodes.Items[1]))
			}
		})
	}
}

func describePod(p metricsv1beta1.PodMetrics) string {
	s := fmt.Sprint(p.Namespace, "/", p.Name, p.Labels, p.Timestamp.Unix(), p.Window.Duration)
	for _, c := range p.Containers {
		s += fmt.Sprint(" ", c.Name)
		for _, r := range []corev1.ResourceName{"cpu", "memory"} {
			if q, ok := c.Usage[r]; ok {
				s += fmt.Sprint(" ", r, "=", q.String())
			}
		}
	}
	return s
}

func describeUsage(u PodUsage) string {
	s := fmt.Sprint(u.Namespace, "/", u.Name, u.Labels, u.Timestamp.Unix(), u.Window)
	for _, c := range u.Containers {
		s += fmt.Sprint(" ", c.Name)
		if c.CPU != "" {
			s += " cpu=" + c.CPU
		}
		if c.Memory != "" {
			s += " memory=" + c.Memory
		}
	}
	return s
}

func describeNode(n metricsv1beta1.NodeMetrics) string {
	return fmt.Sprint(n.Name, n.Timestamp.Unix(), n.Window.Duration, n.Usage.Cpu().String(), n.Usage.Memory().String())
}

func TestListsHaveTheSizeAndOrderOfTheGeneratedEncoder(t *testing.T) {
	s := start(t, Options{Pods: 50})
	encoded := func(t *testing.T, path string, into interface {
		Unmarshal([]byte) error
		Marshal() ([]byte, error)
	}) (got, generated []byte) {
		_, body := get(t, s, path, protobufAccept)
		var envelope runtime.Unknown
		if err := envelope.Unmarshal(body[len(envelopeMagic):]); err != nil {
			t.Fatal(err)
		}
		if err := into.Unmarshal(envelope.Raw); err != nil {
			t.Fatal(err)
		}
		generated, err := into.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return envelope.Raw, generated
	}
	t.Run("pods have the same fields, if in another order", func(t *testing.T) {
		got, want := encoded(t, "/api/v1/pods", &corev1.PodList{})
		slices.Sort(got)
		slices.Sort(want)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes, the generated encoder writes %d; or they are not the same ones", len(got), len(want))
		}
	})
	t.Run("pod usage is the same byte for byte", func(t *testing.T) {
		if got, want := encoded(t, "/apis/metrics.k8s.io/v1beta1/pods",
			&metricsv1beta1.PodMetricsList{}); !bytes.Equal(got, want) {
			t.Error("the bytes differ")
		}
	})
	t.Run("node usage is the same byte for byte", func(t *testing.T) {
		if got, want := encoded(t, "/apis/metrics.k8s.io/v1beta1/nodes",
			&metricsv1beta1.NodeMetricsList{}); !bytes.Equal(got, want) {
			t.Error("the bytes differ")
		}
	})
}

func TestPodsAreAsLargeAsRealOnes(t *testing.T) {
	s := start(t, Options{Pods: 100, Containers: 2})
	_, body := get(t, s, "/api/v1/pods", protobufAccept)
	if size := len(body) / 100; size < 4000 || size > 9000 {
		t.Errorf("a pod has %d bytes", size)
	}
	_, body = get(t, s, "/apis/metrics.k8s.io/v1beta1/pods", protobufAccept)
	if size := len(body) / 100; size < 350 || size > 600 {
		t.Errorf("the usage of a pod has %d bytes; metrics-server's has 460", size)
	}
}

func TestQuantitiesAreCanonical(t *testing.T) {
	for _, n := range []uint64{0, 1, 999, 1000, 7_000_000, 378_089_386, 1_000_000_000, 64_000_000_000} {
		if got, want := string(appendCPU(nil, n)),
			resource.NewScaledQuantity(int64(n), resource.Nano).String(); got != want {
			t.Errorf("%d nanocores: %q, Quantity writes %q", n, got, want)
		}
	}
	for _, n := range []uint64{0, 1, 1023, 1024, 4096, 128458752, 1 << 20, 1 << 30, 3 << 40} {
		if got, want := string(appendMemory(nil, n)),
			resource.NewQuantity(int64(n), resource.BinarySI).String(); got != want {
			t.Errorf("%d bytes: %q, Quantity writes %q", n, got, want)
		}
	}
}

// clock is a clock that a test moves.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func TestUsageComesOncePerResolution(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	s := newCluster(Options{Nodes: 2, Pods: 5, Containers: 1, Resolution: 15 * time.Second, Now: c.now})
	p := s.Pods()[0]
	describe := func() (all string) {
		for _, u := range s.PodUsage() {
			all += describeUsage(u) + "\n"
		}
		return all
	}
	first := describe()

	c.Time = c.Add(14 * time.Second)
	if describe() != first {
		t.Error("the values moved before the tick")
	}
	s.SetUsage(p.Namespace, p.Name, p.Containers[0], "1", "1Gi")
	if err := s.AddPod(Pod{Namespace: "zz", Name: "new", Containers: []string{"c"}}); err != nil {
		t.Fatal(err)
	}
	if describe() != first {
		t.Error("what was set between two ticks shows before the second")
	}

	c.Time = c.Add(time.Second)
	usage := s.PodUsage()
	if describe() == first || usage[0].Timestamp.Sub(time.Unix(1_800_000_000, 0)) > 15*time.Second {
		t.Errorf("after the tick: %v", usage[0])
	}
	if got := usage[0].Containers[0]; got != (ContainerUsage{p.Containers[0], "1", "1Gi"}) {
		t.Errorf("the usage set is answered as %v", got)
	}
	if len(usage) != 6 || usage[5].Name != "new" {
		t.Errorf("%d pods have usage, want 6 with the new one", len(usage))
	}

	if err := s.DeletePod(p.Namespace, p.Name); err != nil {
		t.Fatal(err)
	}
	if len(s.PodUsage()) != 5 {
		t.Error("a deleted pod still has usage")
	}
	c.Time = c.Add(100 * time.Second) // no reads meanwhile: the last of the ticks passed is what counts
	if got, want := s.NextTick(), time.Unix(1_800_000_000+120, 0); !got.Equal(want) {
		t.Errorf("the next tick is at %s, want %s", got, want)
	}
	for _, u := range s.PodUsage() {
		if u.Timestamp.Nanosecond() != 0 || u.Window < 14*time.Second || u.Window > 15*time.Second {
			t.Errorf("timestamp %s, window %s", u.Timestamp, u.Window)
		}
	}
}

func TestSameSeedSameCluster(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	describe := func(seed uint64) string {
		s := newCluster(Options{Nodes: 3, Pods: 100, Containers: 2, Resolution: time.Second, Seed: seed, Now: c.now})
		for range 50 {
			s.ChurnOnce()
		}
		all := fmt.Sprint(s.PodUsage(), s.NodeUsage())
		for k := range s.sets {
			for _, o := range s.sets[k].objects {
				all += string(s.appendMessage(nil, o, resources[o.kind()].decode == nil))
			}
		}
		return all
	}
	first, again := describe(1), describe(1)
	if first != again {
		t.Error("two clusters of the same seed differ")
	}
	if first == describe(2) {
		t.Error("two seeds give the same cluster")
	}
}

func TestChurnKeepsTheNumberOfPods(t *testing.T) {
	s := newCluster(Options{Nodes: 3, Pods: 100, Containers: 2, Resolution: time.Second, Now: time.Now})
	before := s.ResourceVersion()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	s.Churn(ctx, 5000)
	if n := len(s.Pods()); n != 100 {
		t.Errorf("%d pods after churn, want 100", n)
	}
	if s.ResourceVersion() < before+100 {
		t.Errorf("churn changed nearly nothing: from %d to %d", before, s.ResourceVersion())
	}
	names := map[string]bool{}
	for _, p := range s.Pods() {
		if names[p.Namespace+"/"+p.Name] {
			t.Errorf("pod %s/%s is there twice", p.Namespace, p.Name)
		}
		names[p.Namespace+"/"+p.Name] = true
	}
}

func TestListSelectorsAndPaging(t *testing.T) {
	s := start(t, Options{Nodes: 3, Pods: 200})
	all := s.Pods()
	count := func(want func(Pod) bool) (n int) {
		for _, p := range all {
			if want(p) {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		name, path string
		want       int
	}{
		{"everything", "/api/v1/pods", 200},
		{"a namespace", "/api/v1/namespaces/" + all[0].Namespace + "/pods", count(func(p Pod) bool { return p.Namespace == all[0].Namespace })},
		{"a namespace that is not there", "/api/v1/namespaces/none/pods", 0},
		{"a label", "/api/v1/pods?labelSelector=team%3Dsearch", count(func(p Pod) bool { return p.Labels["team"] == "search" })},
		{"a set of labels", "/api/v1/pods?labelSelector=team%20in%20(search,media)", count(func(p Pod) bool { return p.Labels["team"] == "search" || p.Labels["team"] == "media" })},
		{"a name", "/api/v1/pods?fieldSelector=" + nameSelector(all[3].Name), 1},
		{"not in a namespace", "/api/v1/pods?fieldSelector=metadata.namespace!%3D" + all[0].Namespace, count(func(p Pod) bool { return p.Namespace != all[0].Namespace })},
		{"a node", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-0001", count(func(p Pod) bool { return p.Node == "node-0001" })},
		{"any version, with a limit, which is ignored", "/api/v1/pods?resourceVersion=0&limit=10", 200},
		{"usage in a namespace", "/apis/metrics.k8s.io/v1beta1/namespaces/" + all[0].Namespace + "/pods", count(func(p Pod) bool { return p.Namespace == all[0].Namespace })},
		{"usage by label", "/apis/metrics.k8s.io/v1beta1/pods?labelSelector=team%3Dsearch", count(func(p Pod) bool { return p.Labels["team"] == "search" })},
		{"usage by name", "/apis/metrics.k8s.io/v1beta1/pods?fieldSelector=" + nameSelector(all[3].Name), 1},
		{"usage with a limit, which is ignored", "/apis/metrics.k8s.io/v1beta1/pods?limit=10", 200},
		{"node usage by label", "/apis/metrics.k8s.io/v1beta1/nodes?labelSelector=kubernetes.io/hostname%3Dnode-0001", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, body := get(t, s, c.path, jsonAccept)
			var list struct{ Items []json.RawMessage }
			if err := json.Unmarshal(body, &list); err != nil || resp.StatusCode != 200 {
				t.Fatalf("status %d, %v: %.300s", resp.StatusCode, err, body)
			}
			if len(list.Items) != c.want {
				t.Errorf("%d items, want %d", len(list.Items), c.want)
			}
		})
	}

	t.Run("pages are of one state, whatever happens between them", func(t *testing.T) {
		client := coreClient(t, s, protobufAccept)
		var names []string
		options := &metav1.ListOptions{Limit: 30}
		for page := 0; ; page++ {
			var list corev1.PodList
			if err := client.Get().Resource("pods").VersionedParams(options,
				metav1.ParameterCodec).Do(t.Context()).Into(&list); err != nil {
				t.Fatal(err)
			}
			for _, p := range list.Items {
				names = append(names, p.Namespace+"/"+p.Name)
			}
			if list.Continue == "" {
				break
			}
			if want := int64(200 - len(names)); list.RemainingItemCount == nil || *list.RemainingItemCount != want {
				t.Errorf("page %d: remainingItemCount %v, want %d", page, list.RemainingItemCount, want)
			}
			options.Continue = list.Continue
			s.ChurnOnce()
		}
		for i, p := range all {
			if i >= len(names) || names[i] != p.Namespace+"/"+p.Name {
				t.Fatalf("%d names, the first wrong one is number %d", len(names), i)
			}
		}
		s.Compact()
		var list corev1.PodList
		err := client.Get().Resource("pods").VersionedParams(options, metav1.ParameterCodec).Do(t.Context()).Into(&list)
		if !apierrors.IsResourceExpired(err) {
			t.Errorf("a continue token from before a compaction: %v, want Expired", err)
		}
	})
}

func TestErrorsAreThoseOfTheRealServer(t *testing.T) {
	s := start(t, Options{Pods: 1})
	p := s.Pods()[0]
	const token = "Authorization"
	good := "Bearer " + (*s.tokens.Load())[0]
	for _, c := range []struct {
		name, path    string
		authorization string
		accept        string
		code          int32
		reason        metav1.StatusReason
	}{
		{"a wrong token", "/api/v1/pods", "Bearer wrong", protobufAccept, 401, "Unauthorized"},
		{"a wrong token, in JSON", "/apis/metrics.k8s.io/v1beta1/pods", "Bearer wrong", jsonAccept, 401, "Unauthorized"},
		{"basic authentication", "/api/v1/pods", "Basic dTpw", jsonAccept, 401, "Unauthorized"},
		{"no token", "/api/v1/namespaces/x/pods", "", jsonAccept, 403, "Forbidden"},
		{"a pod that is not there", "/api/v1/namespaces/x/pods/y", good, jsonAccept, 404, "NotFound"},
		{"usage of a pod that is not there", "/apis/metrics.k8s.io/v1beta1/namespaces/x/pods/y", good, protobufAccept, 404, "NotFound"},
		{"usage of a node that is not there", "/apis/metrics.k8s.io/v1beta1/nodes/y", good, jsonAccept, 404, "NotFound"},
		{"a watch of usage", "/apis/metrics.k8s.io/v1beta1/pods?watch=true", good, jsonAccept, 405, "MethodNotAllowed"},
		{"an encoding it does not know", "/api/v1/pods", good, "application/cbor", 406, "NotAcceptable"},
		{"a selector of an unknown field", "/api/v1/pods?fieldSelector=spec.x%3Dy", good, jsonAccept, 400, "BadRequest"},
		{"a selector that cannot be read", "/api/v1/pods?labelSelector=%3D%3D", good, jsonAccept, 400, "BadRequest"},
		{"sendInitialEvents on a list", "/api/v1/pods?sendInitialEvents=true", good, jsonAccept, 422, "Invalid"},
		{"sendInitialEvents without a match", "/api/v1/pods?watch=1&sendInitialEvents=true", good, jsonAccept, 422, "Invalid"},
		{"a continue token that is none", "/api/v1/pods?continue=x", good, jsonAccept, 400, "BadRequest"},
		{"a resourceVersion of the future", "/api/v1/pods?resourceVersion=999999999", good, jsonAccept, 504, "Timeout"},
		{"an exact version that is gone", "/api/v1/pods?resourceVersion=1&resourceVersionMatch=Exact", good, jsonAccept, 410, "Expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			resp, body := getWith(t, s, c.path, map[string]string{token: c.authorization, "Accept": c.accept})
			var status metav1.Status
			if c.accept == protobufAccept {
				object, _, err := protobuf.NewSerializer(scheme, scheme).Decode(body, nil, &status)
				if err != nil {
					t.Fatalf("%v: %q", err, body)
				}
				status = *object.(*metav1.Status)
			} else if err := json.Unmarshal(body, &status); err != nil {
				t.Fatalf("%v: %s", err, body)
			}
			if int32(resp.StatusCode) != c.code || status.Code != c.code || status.Reason != c.reason ||
				status.Status != "Failure" || status.Message == "" {
				t.Errorf("status %d: %+v", resp.StatusCode, status)
			}
		})
	}
	for _, path := range []string{"/healthz", "/readyz", "/version"} {
		if resp, _ := getWith(t, s, path, nil); resp.StatusCode != 200 {
			t.Errorf("%s without a token: %d, want 200", path, resp.StatusCode)
		}
	}
	if _, body := get(t, s, "/version", ""); !strings.Contains(string(body), "-simulated") {
		t.Errorf("/version does not say that it is simulated: %s", body)
	}
	if resp, _ := get(t, s, "/api/v1/namespaces/"+p.Namespace+"/pods/"+p.Name, protobufAccept); resp.StatusCode != 200 {
		t.Errorf("a pod that is there: %d", resp.StatusCode)
	}
}

func TestAnOldResourceVersionIsAnErrorEventOnAWatch(t *testing.T) {
	s := start(t, Options{Pods: 1})
	s.Compact()
	resp, body := get(t, s, "/api/v1/pods?watch=true&resourceVersion=5", jsonAccept)
	var event struct {
		Type   string
		Object metav1.Status
	}
	if err := json.Unmarshal(body, &event); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || event.Type != "ERROR" || event.Object.Code != 410 || event.Object.Reason != "Expired" {
		t.Errorf("status %d: %s", resp.StatusCode, body)
	}
}

// watchListOfASecond is a watch that begins with the list and ends after a second.
const watchListOfASecond = "/api/v1/pods?watch=true&allowWatchBookmarks=true&sendInitialEvents=true" +
	"&resourceVersionMatch=NotOlderThan&timeoutSeconds=1"

func TestBookmarks(t *testing.T) {
	s := start(t, Options{Pods: 2, BookmarkInterval: 100 * time.Millisecond})
	watched := func() (kinds []string) {
		_, body := get(t, s, watchListOfASecond, jsonAccept)
		for _, line := range lines(body) {
			var e struct {
				Type   string
				Object corev1.Pod
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if e.Object.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
				e.Type += " of the end"
			}
			kinds = append(kinds, e.Type)
		}
		return kinds
	}
	if got := strings.Join(watched(), ", "); !strings.HasPrefix(got,
		"ADDED, ADDED, BOOKMARK of the end, BOOKMARK, BOOKMARK") {
		t.Errorf("a watch-list of a second says %s", got)
	}
	s.SetBehavior(Behavior{NoBookmarks: true})
	if got := strings.Join(watched(), ", "); got != "ADDED, ADDED, BOOKMARK of the end" {
		t.Errorf("without bookmarks it says %s", got)
	}
	s.SetBehavior(Behavior{NoBookmarks: true, NoInitialEventsEnd: true})
	if got := strings.Join(watched(), ", "); got != "ADDED, ADDED" {
		t.Errorf("without any bookmark it says %s", got)
	}
}

func TestGzipFromTheThresholdOn(t *testing.T) {
	s := start(t, Options{Pods: 400})
	p := s.Pods()[0]
	for _, c := range []struct {
		path string
		want string
	}{
		{"/api/v1/pods", "gzip"},
		{"/apis/metrics.k8s.io/v1beta1/pods", "gzip"},
		{watchListOfASecond, "gzip"},
		{"/apis/metrics.k8s.io/v1beta1/namespaces/" + p.Namespace + "/pods/" + p.Name, ""},
	} {
		header := map[string]string{"Authorization": "Bearer " + (*s.tokens.Load())[0], "Accept": protobufAccept,
			"Accept-Encoding": "gzip"}
		s.SetBehavior(Behavior{})
		if resp, _ := getWith(t, s, c.path, header); resp.Header.Get("Content-Encoding") != c.want {
			t.Errorf("%s: Content-Encoding %q, want %q", c.path, resp.Header.Get("Content-Encoding"), c.want)
		}
		s.SetBehavior(Behavior{NoGzip: true})
		if resp, _ := getWith(t, s, c.path, header); resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: compressed in spite of NoGzip", c.path)
		}
	}
}

func TestBehaviorOfTheMetricsAPI(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	s := start(t, Options{Pods: 10, Now: c.now})
	window := -5 * time.Second
	list := func(t *testing.T, accept string) metricsv1beta1.PodMetricsList {
		t.Helper()
		var l metricsv1beta1.PodMetricsList
		if err := metricsClient(t, s, accept).Get().Resource("pods").Do(t.Context()).Into(&l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	before := list(t, protobufAccept).Items
	for _, test := range []struct {
		name     string
		behavior Behavior
		check    func(t *testing.T, items []metricsv1beta1.PodMetrics)
	}{
		{"a clock an hour ahead", Behavior{ClockSkew: time.Hour}, func(t *testing.T, items []metricsv1beta1.PodMetrics) {
			if got := items[0].Timestamp.Sub(before[0].Timestamp.Time); got != time.Hour {
				t.Errorf("timestamps moved by %s", got)
			}
		}},
		{"the clock of one pod an hour ahead", Behavior{SkewOf: func(_, name string) time.Duration {
			return map[bool]time.Duration{true: time.Hour}[name == before[1].Name]
		}}, func(t *testing.T, items []metricsv1beta1.PodMetrics) {
			for i, ahead := range map[int]time.Duration{0: 0, 1: time.Hour} {
				if got := items[i].Timestamp.Sub(before[i].Timestamp.Time); got != ahead {
					t.Errorf("timestamps of pod %d moved by %s, want %s", i, got, ahead)
				}
			}
		}},
		{"a negative window", Behavior{Window: &window}, func(t *testing.T, items []metricsv1beta1.PodMetrics) {
			if items[3].Window.Duration != window {
				t.Errorf("window %s", items[3].Window.Duration)
			}
		}},
		{"some pods are missing", Behavior{OmitUsage: func(_, name string) bool {
			return name == before[2].Name
		}}, func(t *testing.T, items []metricsv1beta1.PodMetrics) {
			if len(items) != 9 || items[2].Name != before[3].Name {
				t.Errorf("%d items", len(items))
			}
		}},
		{"all pods are missing", Behavior{OmitUsage: func(string, string) bool {
			return true
		}}, func(t *testing.T, items []metricsv1beta1.PodMetrics) {
			if len(items) != 0 {
				t.Errorf("%d items", len(items))
			}
		}},
		{"a good server again", Behavior{}, func(t *testing.T, items []metricsv1beta1.PodMetrics) {
			if fmt.Sprint(items) != fmt.Sprint(before) {
				t.Error("the answer differs from that at the start")
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.SetBehavior(test.behavior)
			test.check(t, list(t, protobufAccept).Items)
			test.check(t, list(t, jsonAccept).Items)
		})
	}
	t.Run("a frozen source keeps its values over ticks, then goes on", func(t *testing.T) {
		s.SetBehavior(Behavior{FreezeMetrics: true})
		c.Time = c.Add(time.Minute)
		if got := list(t, protobufAccept).Items[0].Timestamp; !got.Equal(&before[0].Timestamp) {
			t.Errorf("timestamp moved to %s", got)
		}
		s.SetBehavior(Behavior{})
		if got := list(t, protobufAccept).Items[0].Timestamp.Sub(before[0].Timestamp.Time); got != time.Minute {
			t.Errorf("timestamp moved by %s", got)
		}
	})
	t.Run("only JSON", func(t *testing.T) {
		s.SetBehavior(Behavior{MetricsJSONOnly: true})
		if resp, _ := get(t, s, "/apis/metrics.k8s.io/v1beta1/pods",
			protobufAccept); resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("Content-Type %s", resp.Header.Get("Content-Type"))
		}
		if resp, _ := get(t, s, "/apis/metrics.k8s.io/v1beta1/pods",
			"application/vnd.kubernetes.protobuf"); resp.StatusCode != 406 {
			t.Errorf("a client of protobuf only: status %d, want 406", resp.StatusCode)
		}
	})
	t.Run("illegal quantities are sent as they are", func(t *testing.T) {
		s.SetBehavior(Behavior{})
		p := s.Pods()[0]
		s.SetUsage(p.Namespace, p.Name, p.Containers[0], "-1e400", "\x00\"")
		c.Time = c.Add(time.Minute)
		for _, accept := range []string{protobufAccept, jsonAccept} {
			if _, body := get(t, s, "/apis/metrics.k8s.io/v1beta1/pods", accept); !strings.Contains(string(body),
				"-1e400") {
				t.Errorf("%s: the quantity is not in the answer", accept)
			}
		}
	})
}

func TestSilentWatchesAndConnections(t *testing.T) {
	for _, test := range []struct {
		name     string
		behavior Behavior
	}{
		{"watches hang", Behavior{HangWatches: true}},
		{"connections hang", Behavior{HangConnections: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, Options{Pods: 10})
			st := newStore()
			reflect(t, s, st, protobufAccept, "", true)
			st.await(t, func() string { return st.differs(s, nil) })

			s.SetBehavior(test.behavior)
			p := s.Pods()[0]
			if err := s.DeletePod(p.Namespace, p.Name); err != nil {
				t.Fatal(err)
			}
			select {
			case <-st.changed:
				t.Error("the watch still spoke")
			case <-time.After(300 * time.Millisecond): // that nothing happens has no event
			}
			s.SetBehavior(Behavior{})
			st.await(t, func() string { return st.differs(s, nil) })
		})
	}
}

func TestSendEventShowsWhatNeverHappened(t *testing.T) {
	s := start(t, Options{Pods: 3})
	st := newStore()
	reflect(t, s, st, protobufAccept, "", true)
	st.await(t, func() string { return st.differs(s, nil) })
	ghost := Pod{Namespace: "n", Name: "ghost", Phase: corev1.PodRunning, Node: "node-0000"}
	s.SendEvent(watch.Modified, ghost, 7)
	st.await(t, func() string {
		if o, ok, _ := st.GetByKey("n/ghost"); ok && o.(*corev1.Pod).ResourceVersion == "7" {
			return ""
		}
		return "the client has no ghost of version 7"
	})
	s.SendEvent(watch.Deleted, ghost, 6)
	st.await(t, func() string { return st.differs(s, nil) })
}

func TestInterceptAndCounters(t *testing.T) {
	s := start(t, Options{Pods: 3})
	s.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/apis/"):
			WriteError(w, r, apierrors.NewTooManyRequests("later", 7))
		case r.URL.Path == "/api/v1/pods":
			WriteError(w, r, Forbidden(r))
		default:
			next.ServeHTTP(w, r)
		}
	})
	resp, _ := get(t, s, "/apis/metrics.k8s.io/v1beta1/pods", jsonAccept)
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "7" {
		t.Errorf("status %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	if resp, body := get(t, s, "/api/v1/pods", jsonAccept); resp.StatusCode != 403 ||
		!strings.Contains(string(body), `cannot list resource \"pods\" in API group \"\" at the cluster scope`) {
		t.Errorf("status %d: %s", resp.StatusCode, body)
	}
	if resp, _ := get(t, s, "/healthz", ""); resp.StatusCode != 200 {
		t.Errorf("what was passed on: status %d", resp.StatusCode)
	}
	s.Intercept(nil)
	sent := s.BytesSent()
	_, body := get(t, s, "/apis/metrics.k8s.io/v1beta1/pods", jsonAccept)
	if got := s.BytesSent() - sent; got != uint64(len(body)) {
		t.Errorf("%d bytes sent, the body has %d", got, len(body))
	}
	want := map[Request]uint64{
		{"list", "/apis/metrics.k8s.io/v1beta1/pods", 429}: 1,
		{"list", "/apis/metrics.k8s.io/v1beta1/pods", 200}: 1,
		{"list", "/api/v1/pods", 403}:                      1,
		{"get", "/healthz", 200}:                           1,
	}
	if got := s.Requests(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("requests %v, want %v", got, want)
	}
}

func TestTokensCanBeReplaced(t *testing.T) {
	s := start(t, Options{Token: "first"})
	s.SetTokens("second", "third")
	for token, want := range map[string]int{"first": 401, "second": 200, "third": 200} {
		if resp, _ := getWith(t, s, "/api/v1/pods",
			map[string]string{"Authorization": "Bearer " + token}); resp.StatusCode != want {
			t.Errorf("token %s: status %d, want %d", token, resp.StatusCode, want)
		}
	}
}

func TestKubeconfigLeadsToTheServer(t *testing.T) {
	s := start(t, Options{Pods: 3})
	kubeconfig, err := s.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	c, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Get(c.Host + "/api/v1/pods")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 || resp.ProtoMajor != 2 {
		t.Errorf("status %d over HTTP/%d: %v", resp.StatusCode, resp.ProtoMajor, err)
	}
}

func TestKilledServerRefusesConnections(t *testing.T) {
	s := start(t, Options{})
	s.Kill()
	client, err := rest.HTTPClientFor(s.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := client.Get(s.URL() + "/healthz"); err == nil {
		t.Errorf("status %d from a killed server", resp.StatusCode)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if resp, _ := get(t, s, "/healthz", ""); resp.StatusCode != 200 {
		t.Errorf("status %d after the restart", resp.StatusCode)
	}
}

func TestItSaysThatItIsSimulated(t *testing.T) {
	var log strings.Builder
	start(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if !strings.Contains(log.String(), "SIMULATED") {
		t.Errorf("the log says only %q", log.String())
	}
}
