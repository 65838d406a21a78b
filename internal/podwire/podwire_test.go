package podwire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// full is a pod with all kinds of fields that are to be stepped over.
func full(i int) corev1.Pod {
	created := metav1.Unix(1_700_000_000+int64(i), 0)
	container := func(name string) corev1.Container {
		return corev1.Container{
			Name: name, Image: "registry.example.com/shop/" + name + "@sha256:" + strings.Repeat("0123456789abcdef", 4),
			Ports:        []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: "TCP"}},
			Env:          []corev1.EnvVar{{Name: "OTEL_EXPORTER_OTLP_ENDPOINT", Value: "http://collector.observability.svc.cluster.local:4317"}, {Name: "NODE", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "spec.nodeName"}}}},
			Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("128Mi")}},
			VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/config", ReadOnly: true}, {Name: "token", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true}},
		}
	}
	status := func(name string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, Ready: true, RestartCount: 3, Image: "registry.example.com/shop/" + name, ImageID: strings.Repeat("0123456789abcdef", 4), ContainerID: "containerd://" + strings.Repeat("0123456789abcdef", 4), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: created}}}
	}
	var conditions []corev1.PodCondition
	for _, c := range []corev1.PodConditionType{"PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"} {
		conditions = append(conditions, corev1.PodCondition{Type: c, Status: "True", LastTransitionTime: created})
	}
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("checkout-service-5d8f7c9b6d-%05d", i), GenerateName: "checkout-service-5d8f7c9b6d-", Namespace: fmt.Sprintf("team-%d", i%100),
			UID: "b5a9fa2c-6a3c-4c35-a3a5-8d6f0d5e7b1f", ResourceVersion: fmt.Sprint(1_000_000 + i), Generation: 2, CreationTimestamp: created,
			DeletionTimestamp: &created, DeletionGracePeriodSeconds: new(int64),
			Labels:          map[string]string{"app.kubernetes.io/name": "checkout-service", "app.kubernetes.io/part-of": "shop", "pod-template-hash": "5d8f7c9b6d", "empty": ""},
			Annotations:     map[string]string{"prometheus.io/scrape": "true", "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "checkout-service-5d8f7c9b6d", UID: "0c5b7d4e-4d8c-4f0e-9b9d-9d8d7d6d5d4d", Controller: new(bool)}},
			Finalizers:      []string{"example.com/finalizer"},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kubelet", Operation: "Update", APIVersion: "v1", Time: &created, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:conditions":{".":{},"k:{\"type\":\"Ready\"}":{".":{},"f:status":{}}},"f:podIP":{}}}`), Subresource: "status"}},
		},
		Spec: corev1.PodSpec{
			NodeName: fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", i/30/250, i/30%250), ServiceAccountName: "checkout", SchedulerName: "default-scheduler",
			Priority: new(int32), TerminationGracePeriodSeconds: new(int64), Containers: []corev1.Container{container("app"), container("istio-proxy")},
			Tolerations: []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: "Exists", Effect: "NoExecute", TolerationSeconds: new(int64(300))}},
			Volumes:     []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "checkout"}}}}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255), PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}, HostIP: "172.16.0.1",
			StartTime: &created, QOSClass: "Burstable", Conditions: conditions, ContainerStatuses: []corev1.ContainerStatus{status("app"), status("istio-proxy")},
		},
	}
}

// wanted is what is to be read of a pod.
func wanted(p *corev1.Pod) Pod {
	w := Pod{Spec: Spec{p.Spec.NodeName}, Status: Status{p.Status.PodIP}}
	w.Name, w.Namespace, w.ResourceVersion, w.CreationTimestamp, w.Labels = p.Name, p.Namespace, p.ResourceVersion, p.CreationTimestamp, p.Labels
	if end, ok := p.Annotations[metav1.InitialEventsAnnotationKey]; ok {
		w.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: end}
	}
	return w
}

func marshal(t testing.TB, m interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPodIsReadAsTheGeneratedTypeReadsIt(t *testing.T) {
	bookmark := corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "9", Annotations: map[string]string{"other": "x", metav1.InitialEventsAnnotationKey: "true"}}}
	unscheduled := full(2)
	unscheduled.Spec.NodeName, unscheduled.Status, unscheduled.Labels = "", corev1.PodStatus{Phase: corev1.PodPending}, nil
	odd := full(3)
	odd.Name, odd.Namespace, odd.Spec.NodeName, odd.Status.PodIP = "\xff\"\n\x00", strings.Repeat("n", 1<<20), "", "\\"
	odd.Labels = map[string]string{"": "\xfe", "a": strings.Repeat("l", 300)}
	for name, p := range map[string]corev1.Pod{
		"an ordinary pod":                       full(1),
		"an empty one":                          {},
		"the bookmark that ends a watch-list":   bookmark,
		"a pod without node, IP and labels":     unscheduled,
		"strings that are long, empty, no text": odd,
	} {
		t.Run(name, func(t *testing.T) {
			got := Pod{Spec: Spec{"what was there before"}}
			got.Reset()
			if err := got.Unmarshal(marshal(t, &p)); err != nil {
				t.Fatal(err)
			}
			if want := wanted(&p); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestListIsReadPageByPage(t *testing.T) {
	list := corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "77", Continue: "next page", RemainingItemCount: new(int64(5))}, Items: []corev1.Pod{full(1), {}, full(2)}}
	var got List
	if err := got.Unmarshal(marshal(t, &list)); err != nil {
		t.Fatal(err)
	}
	want := List{Items: []Pod{wanted(&list.Items[0]), {}, wanted(&list.Items[2])}}
	want.ResourceVersion, want.Continue = "77", "next page"
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestJSON(t *testing.T) {
	p := full(1)
	b, err := json.Marshal(&corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{Continue: "c"}, Items: []corev1.Pod{p}})
	if err != nil {
		t.Fatal(err)
	}
	var got List
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Kind != "PodList" || got.Continue != "c" || len(got.Items) != 1 {
		t.Fatalf("got %+v", got)
	}
	want := p.ObjectMeta
	if item := got.Items[0]; !reflect.DeepEqual(item.Labels, want.Labels) || item.Name != want.Name || !item.CreationTimestamp.Equal(&want.CreationTimestamp) || item.Spec.NodeName != p.Spec.NodeName || item.Status.PodIP != p.Status.PodIP {
		t.Errorf("got %+v", item)
	}
}

func TestMessagesThatAreNone(t *testing.T) {
	field := func(num protowire.Number, content ...byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), content)
	}
	number := func(num protowire.Number) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), 5)
	}
	for name, c := range map[string]struct {
		message []byte
		want    string
	}{
		"a pod that ends in a tag":           {[]byte{0x80}, "Pod: unexpected EOF"},
		"a length beyond the end":            {[]byte{0x0a, 5, 1}, "Pod: unexpected EOF"},
		"metadata that are a number":         {number(1), "field 1 of Pod has wire type 0"},
		"a name that is a number":            {field(1, number(1)...), "field 1 of ObjectMeta has wire type 0"},
		"a node that is a number":            {field(2, number(10)...), "field 10 of PodSpec has wire type 0"},
		"an IP that is a number":             {field(3, number(6)...), "field 6 of PodStatus has wire type 0"},
		"a time whose seconds are text":      {field(1, field(8, field(1, 'x')...)...), "field 1 of Time has wire type 2"},
		"a label whose key is a number":      {field(1, field(11, number(1)...)...), "field 1 of an entry has wire type 0"},
		"an annotation that is cut":          {field(1, field(12, 0x0a)...), "an entry: unexpected EOF"},
		"the end of a group without a begin": {[]byte{0x24}, "Pod: mismatching end group marker"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := new(Pod).Unmarshal(c.message); err == nil || strings.Replace(err.Error(), "proto:\u00a0", "", 1) != c.want && strings.Replace(err.Error(), "proto: ", "", 1) != c.want {
				t.Errorf("error %v, want %s", err, c.want)
			}
			if err := new(List).Unmarshal(field(2, c.message...)); err == nil {
				t.Error("no error in a list")
			}
		})
	}
	p := full(1)
	b := marshal(t, &p)
	for n := range b {
		got := Pod{}
		if err := got.Unmarshal(b[:n]); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
}

// FuzzUnmarshal holds the walk against the generated type: what both accept they read alike. The walk may accept more, as
// it does not look into what it steps over, and less, as the generated code puts up with some varints and groups.
func FuzzUnmarshal(f *testing.F) {
	for _, p := range []corev1.Pod{{}, full(1), {Spec: corev1.PodSpec{NodeName: "n"}}, {ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}} {
		f.Add(marshal(f, &p))
	}
	f.Add([]byte{0x0a, 0, 0x12, 0, 0x1a, 0, 0x0a, 3, 0x0a, 1, 'p'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var got Pod
		var generated corev1.Pod
		if got.Unmarshal(b) != nil || generated.Unmarshal(b) != nil {
			return
		}
		if want := wanted(&generated); !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}

// BenchmarkUnmarshal compares reading a pod with what else can be done with its bytes: the decoding that client-go does.
func BenchmarkUnmarshal(b *testing.B) {
	p := full(12345)
	body := marshal(b, &p)
	for name, unmarshal := range map[string]func() error{
		"read":  func() error { return new(Pod).Unmarshal(body) },
		"typed": func() error { return new(corev1.Pod).Unmarshal(body) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			cpu := func() time.Duration {
				var usage syscall.Rusage
				if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
					b.Fatal(err)
				}
				return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
			}
			before := cpu()
			for b.Loop() {
				if err := unmarshal(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N), "cpu-ns/pod")
		})
	}
}
