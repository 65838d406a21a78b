package standin

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
)

// listed is all objects of a kind, as a client of the core API reads them.
func listed[L any, P interface {
	*L
	runtime.Object
}](t *testing.T, s *Server, name, contentType string) *L {
	t.Helper()
	list := P(new(L))
	if err := coreClient(t, s, contentType).Get().Resource(name).Do(t.Context()).Into(list); err != nil {
		t.Fatal(err)
	}
	return list
}

// partials are the metadata of all objects of a kind, as client-go's metadata client reads them, page by page.
func partials(t *testing.T, s *Server, k kind) map[string]metav1.PartialObjectMetadata {
	t.Helper()
	client, err := metadata.NewForConfig(s.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	r := resources[k]
	all, options := map[string]metav1.PartialObjectMetadata{}, metav1.ListOptions{Limit: 7}
	for {
		list, err := client.Resource(r.GroupVersion().WithResource(r.name)).List(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			all[o.Namespace+"/"+o.Name] = o
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return all
		}
	}
}

func TestAllObjectsFitTogether(t *testing.T) {
	for name, changes := range map[string]int{"at the start": 0, "after many changes": 3000} {
		t.Run(name, func(t *testing.T) {
			s := start(t, Options{Nodes: 20, Pods: 400, Containers: 3})
			for range changes {
				s.ChurnOnce()
			}
			pods := listed[corev1.PodList](t, s, "pods", protobufAccept).Items
			namespaces := partials(t, s, namespaceKind)
			replicaSets, jobs := partials(t, s, replicaSetKind), partials(t, s, jobKind)
			if len(pods) != 400 || len(replicaSets) != 400/3 || len(jobs) == 0 {
				t.Errorf("%d pods, %d ReplicaSets, %d Jobs", len(pods), len(replicaSets), len(jobs))
			}
			nodes := map[string]corev1.Node{}
			var requested, allocatable resource.Quantity // CPU
			for _, n := range listed[corev1.NodeList](t, s, "nodes", protobufAccept).Items {
				nodes[n.Name] = n
				allocatable.Add(n.Status.Allocatable[corev1.ResourceCPU])
			}
			used := map[string]corev1.ResourceList{} // by namespace
			kinds, ids, qos := map[string]int{}, map[string]bool{}, map[corev1.PodQOSClass]int{}
			for _, p := range pods {
				key := p.Namespace + "/" + p.Name
				if _, ok := namespaces["/"+p.Namespace]; !ok {
					t.Errorf("%s: no such namespace", key)
				}
				if node, ok := nodes[p.Spec.NodeName]; !ok || node.Status.Addresses[0].Address != p.Status.HostIP {
					t.Errorf("%s: node %q with address %s", key, p.Spec.NodeName, p.Status.HostIP)
				}
				if len(p.OwnerReferences) != 1 {
					t.Fatalf("%s has owners %v", key, p.OwnerReferences)
				}
				owner := p.OwnerReferences[0]
				kinds[owner.Kind]++
				if !strings.HasPrefix(p.Name, owner.Name+"-") || owner.Controller == nil || !*owner.Controller {
					t.Errorf("%s has owner %+v", key, owner)
				}
				of, is := map[string]map[string]metav1.PartialObjectMetadata{"ReplicaSet": replicaSets,
					"Job": jobs}[owner.Kind]
				if o, ok := of[p.Namespace+"/"+owner.Name]; is && (!ok || o.UID != owner.UID ||
					len(o.OwnerReferences) != 1 || !strings.HasPrefix(o.Name, o.OwnerReferences[0].Name+"-")) {
					t.Errorf("%s has owner %+v, which is %+v", key, owner, o.ObjectMeta)
				}
				qos[p.Status.QOSClass]++
				if want := qosOf(p.Spec); p.Status.QOSClass != want {
					t.Errorf("%s is %s by its requests and limits, not %s", key, want, p.Status.QOSClass)
				}
				checkContainers(t, &p, ids)
				if p.Status.Phase != corev1.PodSucceeded {
					count(used, p)
				}
				for _, c := range append(p.Spec.Containers, sidecarsOf(p.Spec)...) {
					requested.Add(c.Resources.Requests[corev1.ResourceCPU])
				}
			}
			for _, kind := range []string{"ReplicaSet", "StatefulSet", "DaemonSet", "Job"} {
				if kinds[kind] == 0 {
					t.Errorf("no pod of a %s: %v", kind, kinds)
				}
			}
			if len(qos) != 3 {
				t.Errorf("classes of quality %v", qos)
			}
			quotas := listed[corev1.ResourceQuotaList](t, s, "resourcequotas", protobufAccept).Items
			for _, q := range quotas {
				if fmt.Sprint(q.Status.Hard) != fmt.Sprint(q.Spec.Hard) {
					t.Errorf("quota of %s: status %v, spec %v", q.Namespace, q.Status.Hard, q.Spec.Hard)
				}
				for name, quantity := range q.Status.Used {
					if want := used[q.Namespace][name]; quantity.Cmp(want) != 0 {
						t.Errorf("quota of %s: %s of %s used, the pods have %s", q.Namespace, quantity.String(), name,
							want.String())
					}
				}
			}
			if len(quotas) != len(namespaces) {
				t.Errorf("%d quotas for %d namespaces", len(quotas), len(namespaces))
			}
			if requested.IsZero() || requested.Cmp(allocatable) > 0 {
				t.Errorf("%s requested of %s", requested.String(), allocatable.String())
			}
		})
	}
}

// sidecarsOf are the init containers that go on running.
func sidecarsOf(spec corev1.PodSpec) (all []corev1.Container) {
	for _, c := range spec.InitContainers {
		if c.RestartPolicy != nil {
			all = append(all, c)
		}
	}
	return all
}

// qosOf is the class that Kubernetes gives a pod.
func qosOf(spec corev1.PodSpec) corev1.PodQOSClass {
	some, all := false, true
	for _, c := range append(spec.Containers, spec.InitContainers...) {
		for _, name := range []corev1.ResourceName{"cpu", "memory"} {
			request, isRequest := c.Resources.Requests[name]
			limit, isLimit := c.Resources.Limits[name]
			some = some || isRequest || isLimit
			all = all && isRequest && isLimit && request.Cmp(limit) == 0
		}
	}
	switch {
	case !some:
		return corev1.PodQOSBestEffort
	case all:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// checkContainers checks that each container has one status, with an ID that no other has.
func checkContainers(t *testing.T, p *corev1.Pod, ids map[string]bool) {
	t.Helper()
	images := map[string]string{}
	for _, c := range append(p.Spec.Containers, p.Spec.InitContainers...) {
		images[c.Name] = c.Image
	}
	ready := p.Status.Phase == corev1.PodRunning
	statuses := append(p.Status.ContainerStatuses, p.Status.InitContainerStatuses...)
	for _, c := range statuses {
		if images[c.Name] != c.Image || !strings.Contains(c.ImageID, "@sha256:") {
			t.Errorf("%s/%s %s: image %s with ID %s, by the spec %s", p.Namespace, p.Name, c.Name, c.Image, c.ImageID,
				images[c.Name])
		}
		hex, ok := strings.CutPrefix(c.ContainerID, "containerd://")
		if !ok || len(hex) != 64 || ids[hex] {
			t.Errorf("%s/%s %s: container ID %s", p.Namespace, p.Name, c.Name, c.ContainerID)
		}
		ids[hex] = true
		is := c.State.Running != nil || c.Name == "migrate"
		if c.Started == nil || *c.Started != (c.State.Running != nil) || c.Ready && !is {
			t.Errorf("%s/%s: %+v", p.Namespace, p.Name, c)
		}
		if (c.RestartCount > 0) && c.LastTerminationState.Terminated == nil {
			t.Errorf("%s/%s: %+v", p.Namespace, p.Name, c)
		}
		ready = ready && c.Ready
	}
	if len(statuses) != len(images) || len(images) != 4 {
		t.Errorf("%s/%s: %d statuses, %d containers", p.Namespace, p.Name, len(statuses), len(images))
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && (c.Status == corev1.ConditionTrue) != ready {
			t.Errorf("%s/%s: %+v, its containers say %t", p.Namespace, p.Name, c, ready)
		}
	}
}

// count adds what a pod counts for to the quota of its namespace.
func count(used map[string]corev1.ResourceList, p corev1.Pod) {
	if used[p.Namespace] == nil {
		used[p.Namespace] = corev1.ResourceList{}
	}
	add := func(name corev1.ResourceName, quantity resource.Quantity) {
		sum := used[p.Namespace][name]
		sum.Add(quantity)
		used[p.Namespace][name] = sum
	}
	add("pods", *resource.NewQuantity(1, resource.DecimalSI))
	for _, c := range append(p.Spec.Containers, sidecarsOf(p.Spec)...) {
		for _, name := range []corev1.ResourceName{"cpu", "memory"} {
			add("requests."+name, c.Resources.Requests[name])
			add("limits."+name, c.Resources.Limits[name])
		}
	}
}

func TestUsageIsWithinLimits(t *testing.T) {
	s := start(t, Options{Pods: 100})
	limits := map[string]corev1.ResourceList{}
	for _, p := range listed[corev1.PodList](t, s, "pods", protobufAccept).Items {
		for _, c := range append(p.Spec.Containers, sidecarsOf(p.Spec)...) {
			limits[p.Name+"/"+c.Name] = c.Resources.Limits
		}
	}
	limited := 0
	for _, p := range s.PodUsage() {
		for _, c := range p.Containers {
			for name, text := range map[corev1.ResourceName]string{"cpu": c.CPU, "memory": c.Memory} {
				usage, limit := resource.MustParse(text), limits[p.Name+"/"+c.Name][name]
				if limit.IsZero() {
					continue
				}
				if limited++; usage.Cmp(limit) > 0 {
					t.Errorf("%s %s: %s of %s", p.Name, c.Name, text, limit.String())
				}
			}
		}
	}
	if limited == 0 {
		t.Error("no container has a limit")
	}
}

func TestObjectsInJSONAreThoseInProtobuf(t *testing.T) {
	s := start(t, Options{Pods: 40})
	for range 100 {
		s.ChurnOnce()
	}
	for _, c := range []struct {
		name string
		list func(accept string) any
	}{
		{"pods", func(accept string) any { return listed[corev1.PodList](t, s, "pods", accept).Items }},
		{"nodes", func(accept string) any { return listed[corev1.NodeList](t, s, "nodes", accept).Items }},
		{"namespaces", func(accept string) any { return listed[corev1.NamespaceList](t, s, "namespaces", accept).Items }},
		{"quotas", func(accept string) any {
			return listed[corev1.ResourceQuotaList](t, s, "resourcequotas", accept).Items
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if a, b := mustJSON(c.list(jsonAccept)), mustJSON(c.list(protobufAccept)); string(a) != string(b) {
				t.Errorf("in JSON\n%s\nin protobuf\n%s", a, b)
			}
		})
	}
}

func TestMetadataOfEachResource(t *testing.T) {
	s := start(t, Options{Nodes: 3, Pods: 40})
	client, err := metadata.NewForConfig(s.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	for k := range kinds {
		r := resources[k]
		t.Run(r.name, func(t *testing.T) {
			all := partials(t, s, k)
			want, rv := s.snapshot(k)
			if len(all) != len(want) {
				t.Fatalf("%d objects, the cluster has %d", len(all), len(want))
			}
			resource := client.Resource(r.GroupVersion().WithResource(r.name))
			events, err := resource.Watch(t.Context(), metav1.ListOptions{SendInitialEvents: new(true),
				AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
			if err != nil {
				t.Fatal(err)
			}
			defer events.Stop()
			for _, o := range want {
				m := o.meta()
				got := all[m.namespace+"/"+m.name]
				if got.UID != types.UID(uidOf(s.seed, m.serial)) || got.ResourceVersion != fmt.Sprint(m.rv) ||
					got.CreationTimestamp.Unix() != m.created || !maps.Equal(got.Labels, m.labels.set()) {
					t.Fatalf("%+v, the cluster has %+v", got.ObjectMeta, m)
				}
				event := <-events.ResultChan()
				if watched, ok := event.Object.(*metav1.PartialObjectMetadata); !ok || event.Type != watch.Added ||
					watched.UID != got.UID || string(mustJSON(watched.ObjectMeta)) != string(mustJSON(got.ObjectMeta)) {
					t.Fatalf("watched %s %+v, listed %+v", event.Type, event.Object, got.ObjectMeta)
				}
			}
			event := <-events.ResultChan()
			end, ok := event.Object.(*metav1.PartialObjectMetadata)
			if !ok || event.Type != watch.Bookmark || end.ResourceVersion != fmt.Sprint(rv) || end.UID != "" ||
				end.Annotations[metav1.InitialEventsAnnotationKey] != "true" {
				t.Errorf("at the end %s %+v", event.Type, event.Object)
			}
			m := want[0].meta()
			var one *metav1.PartialObjectMetadata
			if r.namespaced {
				one, err = resource.Namespace(m.namespace).Get(t.Context(), m.name, metav1.GetOptions{})
			} else {
				one, err = resource.Get(t.Context(), m.name, metav1.GetOptions{})
			}
			if err != nil || one.UID != types.UID(uidOf(s.seed, m.serial)) {
				t.Errorf("alone it is %+v, %v", one, err)
			}
		})
	}
}

func TestWhatIsAsPartialObjectMetadata(t *testing.T) {
	s := start(t, Options{Pods: 40})
	const (
		partial = ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
		list    = ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
	)
	namespace := "/api/v1/namespaces/" + s.Pods()[0].Namespace
	for _, c := range []struct {
		name, path, accept string
		code               int
		kind               string
	}{
		{"a list as a list", "/apis/apps/v1/replicasets", jsonAccept + list, 200, "PartialObjectMetadataList"},
		{"a list of a namespace", "/apis/batch/v1/namespaces/x/jobs", jsonAccept + list, 200, "PartialObjectMetadataList"},
		{"a list as one object", "/apis/apps/v1/replicasets", jsonAccept + partial, 406, "Status"},
		{"one object as a list", namespace, jsonAccept + list, 406, "Status"},
		{"a watch as a list", "/apis/apps/v1/replicasets?watch=1", jsonAccept + list, 406, "Status"},
		{"one object", namespace, jsonAccept + partial, 200, "PartialObjectMetadata"},
		{"one whole object", namespace, jsonAccept, 200, "Namespace"},
		{"a whole list", "/api/v1/namespaces", jsonAccept, 200, "NamespaceList"},
		{"whole ReplicaSets, which are not known", "/apis/apps/v1/replicasets", jsonAccept, 406, "Status"},
		{"another version first", "/api/v1/nodes", jsonAccept + strings.Replace(list, "v=v1", "v=v2", 1) + "," +
			jsonAccept + list, 200, "PartialObjectMetadataList"},
		{"a table or all", "/api/v1/nodes", jsonAccept + ";as=Table;g=meta.k8s.io;v=v1," + jsonAccept, 200, "NodeList"},
		{"usage", "/apis/metrics.k8s.io/v1beta1/nodes", jsonAccept + list, 406, "Status"},
		{"one that is not there", "/api/v1/namespaces/none", jsonAccept + partial, 404, "Status"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, body := get(t, s, c.path, c.accept)
			var object metav1.TypeMeta
			if err := json.Unmarshal(body, &object); err != nil || resp.StatusCode != c.code || object.Kind != c.kind {
				t.Errorf("%d %s, want %d %s: %.300s", resp.StatusCode, object.Kind, c.code, c.kind, body)
			}
		})
	}
}

func TestChangesOfOneKindAreNotThoseOfAnother(t *testing.T) {
	s := start(t, Options{Nodes: 2, Pods: 40})
	client, err := metadata.NewForConfig(s.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	events := func(resource schema.GroupVersionResource) <-chan watch.Event {
		w, err := client.Resource(resource).Watch(t.Context(), metav1.ListOptions{
			ResourceVersion: fmt.Sprint(s.ResourceVersion())})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		return w.ResultChan()
	}
	nodes := events(corev1.SchemeGroupVersion.WithResource("nodes"))
	namespaces := events(corev1.SchemeGroupVersion.WithResource("namespaces"))
	if err := s.AddPod(Pod{Namespace: "new", Name: "pod", Containers: []string{"c"}}); err != nil {
		t.Fatal(err)
	}
	s.heartbeat(1)
	for _, c := range []struct {
		events <-chan watch.Event
		want   string
	}{{namespaces, "ADDED new"}, {nodes, "MODIFIED node-0001"}} {
		select {
		case e := <-c.events:
			if got := fmt.Sprint(e.Type, " ", e.Object.(*metav1.PartialObjectMetadata).Name); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		case <-time.After(patience):
			t.Errorf("no event, want %s", c.want)
		}
	}
}
