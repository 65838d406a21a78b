package slim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
)

// generated is a pointer to a generated type.
type generated interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// kind is a type of this package, and what it is held against.
type kind struct {
	new       func() Object
	generated func() generated
	// wanted is what is to be read of an object in protobuf; in JSON all of its metadata are read besides.
	wanted func(generated) Object
	// canonical writes quantities as the generated type does, which knows only their meaning.
	canonical func(t *testing.T, o Object)
	examples  map[string]generated
}

var kinds = map[string]kind{
	"pod": {newPod, func() generated { return &corev1.Pod{} },
		func(g generated) Object { return wanted(g.(*corev1.Pod)) }, canonicalPod, pods()},
	"whole pod": {func() Object { return &Pod{Whole: true} }, func() generated { return &corev1.Pod{} },
		func(g generated) Object { return wantedWhole(g.(*corev1.Pod)) }, canonicalPod, pods()},
	"workload of a pod": {func() Object { return &Pod{Workload: true} }, func() generated { return &corev1.Pod{} },
		func(g generated) Object {
			w := wantedWhole(g.(*corev1.Pod))
			w.Workload, w.Whole, w.Status = true, false, PodStatus{PodIP: w.Status.PodIP}
			return w
		}, canonicalPod, pods()},
	"node": {func() Object { return &Node{} }, func() generated { return &corev1.Node{} },
		func(g generated) Object { return wantedNode(g.(*corev1.Node)) },
		func(t *testing.T, o Object) {
			canonical(t, &o.(*Node).Status.Capacity, &o.(*Node).Status.Allocatable)
		}, nodes()},
	"quota": {func() Object { return &ResourceQuota{} }, func() generated { return &corev1.ResourceQuota{} },
		func(g generated) Object { return wantedQuota(g.(*corev1.ResourceQuota)) },
		func(t *testing.T, o Object) {
			canonical(t, &o.(*ResourceQuota).Status.Hard, &o.(*ResourceQuota).Status.Used)
		}, quotas()},
	"metadata": {func() Object { return &Metadata{} }, func() generated { return &metav1.PartialObjectMetadata{} },
		func(g generated) Object {
			return &Metadata{wantedMeta(&g.(*metav1.PartialObjectMetadata).ObjectMeta, true)}
		}, func(*testing.T, Object) {}, metadata()},
}

func pods() map[string]generated {
	ordinary, unscheduled, odd, crashing := full(1), full(2), full(3), full(4)
	unscheduled.Spec.NodeName, unscheduled.Labels = "", nil
	unscheduled.Status = corev1.PodStatus{Phase: corev1.PodPending}
	odd.Name, odd.Namespace, odd.Spec.NodeName, odd.Status.PodIP = "\xff\"\n\x00", strings.Repeat("n", 1<<20), "", "\\"
	odd.Labels = map[string]string{"": "\xfe", "a": strings.Repeat("l", 300)}
	at := metav1.Unix(1_700_000_000, 0)
	spec, status := &crashing.Spec, &crashing.Status
	crashing.OwnerReferences = []metav1.OwnerReference{{Kind: "Job", Name: "j", UID: "u", APIVersion: "batch/v1",
		Controller: new(true), BlockOwnerDeletion: new(true)}, {Kind: "Other", Name: "o"}}
	spec.HostNetwork, spec.PriorityClassName = true, "system-node-critical"
	spec.InitContainers = []corev1.Container{{Name: "sidecar", Image: "proxy:1"}, {Name: "setup"}}
	spec.EphemeralContainers = []corev1.EphemeralContainer{{TargetContainerName: "app",
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debugger", Image: "busybox"}}}
	spec.Containers[0].Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("1.5"),
		"memory": resource.MustParse("0"), "nvidia.com/gpu": resource.MustParse("2"),
		"hugepages-2Mi": resource.MustParse("1e3")}
	state := func(name string, s, last corev1.ContainerState) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, State: s, LastTerminationState: last, RestartCount: -1}
	}
	waiting := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "m"}}
	killed := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Signal: 9,
		Reason: "OOMKilled", StartedAt: at, FinishedAt: at, ContainerID: "containerd://1"}}
	status.Phase, status.Reason, status.QOSClass = corev1.PodFailed, "Evicted", "BestEffort"
	status.ContainerStatuses = []corev1.ContainerStatus{
		state("app", waiting, killed), state("none", corev1.ContainerState{}, waiting)}
	status.InitContainerStatuses = []corev1.ContainerStatus{state("sidecar",
		corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, corev1.ContainerState{})}
	status.EphemeralContainerStatuses = []corev1.ContainerStatus{state("debugger", killed, corev1.ContainerState{})}
	return map[string]generated{
		"an ordinary one": &ordinary, "an empty one": &corev1.Pod{},
		"the bookmark that ends a watch-list":                     &corev1.Pod{ObjectMeta: bookmark},
		"without node, IP and labels":                             &unscheduled,
		"strings that are long, empty, no text":                   &odd,
		"containers of all sorts that wait, have run, were ended": &crashing,
		"a container without resources": &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{}},
			EphemeralContainers: []corev1.EphemeralContainer{{}}}},
	}
}

var bookmark = metav1.ObjectMeta{ResourceVersion: "9",
	Annotations: map[string]string{"other": "x", metav1.InitialEventsAnnotationKey: "true"}}

func nodes() map[string]generated {
	amounts := corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("16393244Ki"),
		"pods": resource.MustParse("110"), "ephemeral-storage": resource.MustParse("65905620Ki"),
		"attachable-volumes-aws-ebs": resource.MustParse("25"), "hugepages-1Gi": resource.MustParse("0")}
	left := amounts.DeepCopy()
	left["cpu"] = resource.MustParse("3920m")
	return map[string]generated{"an empty one": &corev1.Node{}, "the bookmark": &corev1.Node{ObjectMeta: bookmark},
		"an ordinary one": &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u", ResourceVersion: "7",
				Labels: map[string]string{"node-role.kubernetes.io/control-plane": "", "kubernetes.io/os": "linux"}},
			Spec: corev1.NodeSpec{PodCIDR: "10.0.1.0/24", PodCIDRs: []string{"10.0.1.0/24", "fd00::/64"},
				DoNotUseExternalID: "i-1", ProviderID: "aws:///eu-central-1a/i-1", Unschedulable: true,
				Taints: []corev1.Taint{{Key: "k", Effect: "NoSchedule"}}},
			Status: corev1.NodeStatus{Capacity: amounts, Allocatable: left, Phase: "Running",
				Conditions: []corev1.NodeCondition{{Type: "Ready", Status: "True"}},
				Addresses: []corev1.NodeAddress{{Type: "Hostname", Address: "n1"},
					{Type: "InternalIP", Address: "10.0.0.1"}, {Type: "InternalIP", Address: "fd00::1"}},
				NodeInfo: corev1.NodeSystemInfo{MachineID: "m", SystemUUID: "s", BootID: "b", KernelVersion: "6.1",
					OSImage: "Debian 12", ContainerRuntimeVersion: "containerd://2.1", KubeletVersion: "v1.37.2",
					OperatingSystem: "linux", Architecture: "amd64"},
				Images: []corev1.ContainerImage{{Names: []string{"a", "b"}, SizeBytes: 5}}},
		}}
}

func quotas() map[string]generated {
	return map[string]generated{"an empty one": &corev1.ResourceQuota{},
		"an ordinary one": &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "q"},
			Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"pods": resource.MustParse("1")}},
			Status: corev1.ResourceQuotaStatus{
				Hard: corev1.ResourceList{"pods": resource.MustParse("10"), "requests.cpu": resource.MustParse("20"),
					"count/jobs.batch": resource.MustParse("5")},
				Used: corev1.ResourceList{"pods": resource.MustParse("3"), "requests.cpu": resource.MustParse("250m")}}}}
}

func metadata() map[string]generated {
	return map[string]generated{"an empty one": &metav1.PartialObjectMetadata{},
		"the bookmark":    &metav1.PartialObjectMetadata{ObjectMeta: bookmark},
		"an ordinary one": &metav1.PartialObjectMetadata{ObjectMeta: full(1).ObjectMeta}}
}

// wantedMeta is what is to be read of metadata in protobuf.
func wantedMeta(m *metav1.ObjectMeta, whole bool) metav1.ObjectMeta {
	w := metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
		CreationTimestamp: m.CreationTimestamp, Labels: m.Labels}
	if end, ok := m.Annotations[metav1.InitialEventsAnnotationKey]; ok {
		w.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: end}
	}
	if whole {
		w.DeletionTimestamp = m.DeletionTimestamp
		w.OwnerReferences = each(m.OwnerReferences, func(o metav1.OwnerReference) metav1.OwnerReference {
			o.BlockOwnerDeletion = nil
			return o
		})
	}
	return w
}

func wantedWhole(p *corev1.Pod) *Pod {
	container := func(c corev1.Container) Container {
		return Container{c.Name, c.Image, Resources{quantities(c.Resources.Limits), quantities(c.Resources.Requests)}}
	}
	status := func(s corev1.ContainerStatus) ContainerStatus {
		return ContainerStatus{Name: s.Name, State: wantedState(s.State), LastState: wantedState(s.LastTerminationState),
			Ready: s.Ready, RestartCount: s.RestartCount, Image: s.Image, ImageID: s.ImageID, ContainerID: s.ContainerID}
	}
	return &Pod{Whole: true, ObjectMeta: wantedMeta(&p.ObjectMeta, true),
		Spec: PodSpec{NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork,
			PriorityClassName: p.Spec.PriorityClassName, Containers: each(p.Spec.Containers, container),
			InitContainers: each(p.Spec.InitContainers, container),
			EphemeralContainers: each(p.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) Container {
				return container(corev1.Container(c.EphemeralContainerCommon))
			})},
		Status: PodStatus{PodIP: p.Status.PodIP, Phase: string(p.Status.Phase), HostIP: p.Status.HostIP,
			QOSClass: string(p.Status.QOSClass),
			Conditions: each(p.Status.Conditions, func(c corev1.PodCondition) PodCondition {
				return PodCondition{string(c.Type), string(c.Status)}
			}),
			ContainerStatuses:          each(p.Status.ContainerStatuses, status),
			InitContainerStatuses:      each(p.Status.InitContainerStatuses, status),
			EphemeralContainerStatuses: each(p.Status.EphemeralContainerStatuses, status)}}
}

func wantedState(s corev1.ContainerState) (w ContainerState) {
	if s.Waiting != nil {
		w.Waiting = &ContainerStateWaiting{s.Waiting.Reason}
	}
	if s.Running != nil {
		w.Running = &ContainerStateRunning{s.Running.StartedAt}
	}
	if s.Terminated != nil {
		w.Terminated = &ContainerStateTerminated{s.Terminated.Reason, s.Terminated.StartedAt}
	}
	return w
}

func wantedNode(n *corev1.Node) *Node {
	info := n.Status.NodeInfo
	return &Node{wantedMeta(&n.ObjectMeta, true), NodeSpec{n.Spec.PodCIDR, n.Spec.ProviderID},
		NodeStatus{quantities(n.Status.Capacity), quantities(n.Status.Allocatable),
			each(n.Status.Addresses, func(a corev1.NodeAddress) NodeAddress {
				return NodeAddress{string(a.Type), a.Address}
			}),
			NodeSystemInfo{info.MachineID, info.SystemUUID, info.BootID, info.KernelVersion, info.OSImage,
				info.ContainerRuntimeVersion, info.KubeletVersion}}}
}

func wantedQuota(q *corev1.ResourceQuota) *ResourceQuota {
	return &ResourceQuota{wantedMeta(&q.ObjectMeta, true),
		ResourceQuotaStatus{quantities(q.Status.Hard), quantities(q.Status.Used)}}
}

func each[T, U any](list []T, f func(T) U) (converted []U) {
	if list != nil {
		converted = make([]U, 0, len(list))
	}
	for _, item := range list {
		converted = append(converted, f(item))
	}
	return converted
}

func quantities(list corev1.ResourceList) (q Quantities) {
	for _, name := range slices.Sorted(maps.Keys(list)) {
		amount := list[name]
		q = append(q, Quantity{string(name), amount.String()})
	}
	return q
}

func canonical(t *testing.T, lists ...*Quantities) {
	for _, list := range lists {
		for i, q := range *list {
			amount, err := resource.ParseQuantity(q.Value)
			if err != nil {
				t.Fatalf("%+v: %v", q, err)
			}
			(*list)[i].Value = amount.String()
		}
	}
}

func canonicalPod(t *testing.T, o Object) {
	spec := &o.(*Pod).Spec
	for _, containers := range [][]Container{spec.Containers, spec.InitContainers, spec.EphemeralContainers} {
		for i := range containers {
			canonical(t, &containers[i].Resources.Limits, &containers[i].Resources.Requests)
		}
	}
}

// wantedOf is what is to be read of an object that the generated type has read.
func (k kind) wantedOf(g generated, isJSON bool) Object {
	if p, ok := g.(*corev1.Pod); ok && isJSON {
		w := wantedWhole(p)
		w.ObjectMeta, w.Whole, w.Workload = p.ObjectMeta, k.new().(*Pod).Whole, k.new().(*Pod).Workload
		return w
	}
	w := k.wanted(g)
	if isJSON {
		*metaOf(w) = *metaOf(g)
	}
	return w
}

// metaOf is the metadata that an object holds.
func metaOf(object any) *metav1.ObjectMeta {
	return reflect.ValueOf(object).Elem().FieldByName("ObjectMeta").Addr().Interface().(*metav1.ObjectMeta)
}

func (k kind) read(b []byte, isJSON bool) (Object, error) {
	object := k.new()
	return object, decode(b, object, isJSON)
}

func decode(b []byte, into interface{ Unmarshal([]byte) error }, isJSON bool) error {
	if isJSON {
		return kjson.UnmarshalCaseSensitivePreserveInts(b, into)
	}
	return into.Unmarshal(b)
}

func encode(t testing.TB, g generated, isJSON bool) []byte {
	if isJSON {
		return []byte(asJSON(t, g))
	}
	return marshal(t, g)
}

func TestObjectsAreReadAsTheGeneratedTypesReadThem(t *testing.T) {
	for name, k := range kinds {
		for example, g := range k.examples {
			for _, isJSON := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/JSON %t", name, example, isJSON), func(t *testing.T) {
					b := encode(t, g, isJSON)
					g := k.generated()
					if err := decode(b, g, isJSON); err != nil {
						t.Fatal(err)
					}
					got, err := k.read(b, isJSON)
					if want := k.wantedOf(g, isJSON); err != nil || !reflect.DeepEqual(got, want) {
						t.Errorf("error %v\ngot  %+v\nwant %+v", err, got, want)
					}
				})
			}
		}
	}
}

// FuzzObjects holds the objects against the generated types: what both accept they read alike. They may accept more, as
// they do not look into what they step over, and refuse odd encodings, but never what the generated types write.
func FuzzObjects(f *testing.F) {
	names := slices.Sorted(maps.Keys(kinds))
	for i, name := range names {
		for _, g := range kinds[name].examples {
			if b := encode(f, g, false); len(b) < 64<<10 {
				f.Add(b, byte(i), false)
				f.Add(encode(f, g, true), byte(i), true)
			}
		}
		f.Add([]byte{0x0a, 0, 0x12, 0, 0x1a, 0, 0x0a, 3, 0x0a, 1, 'p'}, byte(i), false)
	}
	for _, b := range []string{
		`{"status":{"capacity":{"cpu":4,"a":"1","a":"2","n":null},"capacity":{"cpu":" 5 "}}}`,
		`{"status":{"hard":{"b":1e3,"a":"0100m"},"hard":null,"used":null}}`,
	} {
		for i := range names {
			f.Add([]byte(b), byte(i), true)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, which byte, isJSON bool) {
		k := kinds[names[int(which)%len(names)]]
		g := k.generated()
		if decode(b, g, isJSON) != nil {
			return
		}
		got, err := k.read(b, isJSON)
		if err != nil {
			if got, err = k.read(encode(t, g, isJSON), isJSON); err != nil {
				t.Fatalf("refused, as the generated type writes it: %v", err)
			}
		}
		k.canonical(t, got)
		if want := k.wantedOf(g, isJSON); !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}

func TestReadObject(t *testing.T) {
	for name, k := range kinds {
		want := typeOf(k.new())
		for example, g := range k.examples {
			whole := map[string]any{}
			if err := json.Unmarshal(encode(t, g, true), &whole); err != nil {
				t.Fatal(err)
			}
			whole["kind"], whole["apiVersion"] = want.Kind, want.APIVersion
			for encoding, body := range map[string][]byte{"JSON": []byte(asJSON(t, whole)),
				"protobuf": enveloped(t, want.APIVersion, want.Kind, g)} {
				t.Run(fmt.Sprintf("%s/%s/%s", name, example, encoding), func(t *testing.T) {
					got, err := ReadObject(bytes.NewReader(body), k.new)
					direct, _ := k.read(encode(t, g, encoding == "JSON"), encoding == "JSON")
					if err != nil || !reflect.DeepEqual(got, direct) {
						t.Errorf("error %v\ngot  %+v\nwant %+v", err, got, direct)
					}
				})
			}
		}
	}
}

func TestReadObjectRefuses(t *testing.T) {
	broken := errors.New("broken")
	status := &metav1.Status{Message: "namespaces is forbidden"}
	for name, c := range map[string]struct {
		body io.Reader
		want string
	}{
		"another object": {bytes.NewReader(enveloped(t, "v1", "Node", &corev1.Node{})), `its kind is "Node"`},
		"a list":         {bytes.NewReader(enveloped(t, "v1", "PodList", &corev1.PodList{})), `its kind is "PodList"`},
		"a Status": {bytes.NewReader(enveloped(t, "v1", "Status", status)),
			`the message "namespaces is forbidden"`},
		"a page":             {strings.NewReader("<html>"), `it begins with "<html>"`},
		"nothing":            {strings.NewReader(""), "the body is empty"},
		"a pod that is none": {strings.NewReader(`{"kind":"Pod","apiVersion":"v1","spec":5}`), "cannot unmarshal number"},
		"a broken reader":    {iotest.ErrReader(broken), "broken"},
		"an object without end": {io.MultiReader(strings.NewReader(`{"kind":"`), &endless{bytes: []byte("xxxx")}),
			"larger than the limit of 4194304 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadObject(c.body, newPod)
			if err == nil || !strings.HasPrefix(err.Error(), "reading a Pod: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if name == "a broken reader" && !errors.Is(err, broken) {
				t.Errorf("%v does not wrap what the reader failed with", err)
			}
		})
	}
}

func TestOnlyMetadataAreAskedForInAFormOfTheirOwn(t *testing.T) {
	object := "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1," +
		"application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	for name, k := range kinds {
		want := map[bool]string{}
		if name == "metadata" {
			want = map[bool]string{false: object, true: strings.ReplaceAll(object, "Metadata;", "MetadataList;")}
		}
		for _, list := range []bool{false, true} {
			if got := Accept(k.new, list); got != want[list] {
				t.Errorf("%s, list %t: %q, want %q", name, list, got, want[list])
			}
		}
	}
}

// Names out of order, which no API server sends, are put in order at a bounded cost.
func TestQuantities(t *testing.T) {
	field := func(num protowire.Number, content []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), content)
	}
	amount := func(name, value string) []byte { // an entry of NodeStatus.capacity
		return field(1, append(field(1, []byte(name)), field(2, field(1, []byte(value)))...))
	}
	many := func(n int, name func(i int) string) (b []byte) {
		for i := range n {
			b = append(b, amount(name(i), "1")...)
		}
		return b
	}
	up := func(i int) string { return fmt.Sprintf("%06d", i) }
	down := func(i int) string { return up(900_000 - i) }
	for name, c := range map[string]struct {
		status []byte
		count  int
		err    string
	}{
		"in order":                   {append(amount("a", "100m"), amount("b", "2")...), 2, ""},
		"out of order":               {append(amount("b", "2"), amount("a", "100m")...), 2, ""},
		"one twice":                  {append(append(amount("b", "2"), amount("a", "7")...), amount("a", "100m")...), 2, ""},
		"very many in order":         {many(maxUnsorted*5, up), maxUnsorted * 5, ""},
		"many out of order":          {many(maxUnsorted, down), maxUnsorted, ""},
		"too many out of order":      {many(maxUnsorted+1, down), 0, "more than 1000 quantities"},
		"an amount that is a number": {field(1, []byte{0x10, 5}), 0, "an entry: field 2 has wire type 0"},
		"an amount without text":     {field(1, append(field(1, []byte("a")), field(2, nil)...)), 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var n Node
			err := n.Unmarshal(field(3, c.status))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want one with %q", err, c.err)
				}
				return
			}
			q := n.Status.Capacity
			byName := func(a, b Quantity) int { return strings.Compare(a.Name, b.Name) }
			if err != nil || len(q) != c.count || !slices.IsSortedFunc(q, byName) {
				t.Fatalf("error %v, %d quantities %.200v, want %d in order", err, len(q), q, c.count)
			}
			if want := (Quantities{{"a", "100m"}, {"b", "2"}}); c.count == 2 && !slices.Equal(q, want) {
				t.Errorf("%v, want %v", q, want)
			}
			if c.count == 1 && q[0].Value != "0" {
				t.Errorf("%v, want 0", q)
			}
		})
	}
}
