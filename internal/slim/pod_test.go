package slim

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// full is a pod with all kinds of fields that are to be stepped over.
func full(i int) corev1.Pod {
	created := metav1.Unix(1_700_000_000+int64(i), 0)
	digest := strings.Repeat("0123456789abcdef", 4)
	container := func(name string) corev1.Container {
		fieldRef := &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "spec.nodeName"}}
		return corev1.Container{
			Name: name, Image: "registry.example.com/shop/" + name + "@sha256:" + digest,
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: "TCP"}},
			Env: []corev1.EnvVar{
				{Name: "OTEL_EXPORTER_OTLP_ENDPOINT", Value: "http://collector.observability.svc.cluster.local:4317"},
				{Name: "NODE", ValueFrom: fieldRef},
			},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				"cpu": resource.MustParse("100m"), "memory": resource.MustParse("128Mi")}},
			VolumeMounts: []corev1.VolumeMount{
				{Name: "config", MountPath: "/etc/config", ReadOnly: true},
				{Name: "token", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true},
			},
		}
	}
	status := func(name string) corev1.ContainerStatus {
		return corev1.ContainerStatus{
			Name: name, Ready: true, RestartCount: 3, Image: "registry.example.com/shop/" + name, ImageID: digest,
			ContainerID: "containerd://" + digest,
			State:       corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: created}},
		}
	}
	var conditions []corev1.PodCondition
	for _, c := range []corev1.PodConditionType{
		"PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled",
	} {
		conditions = append(conditions, corev1.PodCondition{Type: c, Status: "True", LastTransitionTime: created})
	}
	managed := metav1.NewFieldsV1(
		`{"f:status":{"f:conditions":{".":{},"k:{\"type\":\"Ready\"}":{".":{},"f:status":{}}},"f:podIP":{}}}`)
	config := corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: "checkout"}}}
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("checkout-service-5d8f7c9b6d-%05d", i), GenerateName: "checkout-service-5d8f7c9b6d-",
			Namespace: fmt.Sprintf("team-%d", i%100), UID: "b5a9fa2c-6a3c-4c35-a3a5-8d6f0d5e7b1f",
			ResourceVersion: fmt.Sprint(1_000_000 + i), Generation: 2, CreationTimestamp: created,
			DeletionTimestamp: &created, DeletionGracePeriodSeconds: new(int64),
			Labels: map[string]string{"app.kubernetes.io/name": "checkout-service", "app.kubernetes.io/part-of": "shop",
				"pod-template-hash": "5d8f7c9b6d", "empty": ""},
			Annotations: map[string]string{"prometheus.io/scrape": "true",
				"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet",
				Name: "checkout-service-5d8f7c9b6d", UID: "0c5b7d4e-4d8c-4f0e-9b9d-9d8d7d6d5d4d",
				Controller: new(bool)}},
			Finalizers: []string{"example.com/finalizer"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet", Operation: "Update", APIVersion: "v1",
				Time: &created, FieldsType: "FieldsV1", FieldsV1: managed, Subresource: "status"}},
		},
		Spec: corev1.PodSpec{
			NodeName:           fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", i/30/250, i/30%250),
			ServiceAccountName: "checkout", SchedulerName: "default-scheduler",
			Priority: new(int32), TerminationGracePeriodSeconds: new(int64),
			Containers: []corev1.Container{container("app"), container("istio-proxy")},
			Tolerations: []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: "Exists", Effect: "NoExecute",
				TolerationSeconds: new(int64(300))}},
			Volumes: []corev1.Volume{{Name: "config", VolumeSource: config}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255),
			PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}, HostIP: "172.16.0.1",
			StartTime: &created, QOSClass: "Burstable", Conditions: conditions,
			ContainerStatuses: []corev1.ContainerStatus{status("app"), status("istio-proxy")},
		},
	}
}

// wanted is what is to be read in protobuf of a pod that is not whole.
func wanted(p *corev1.Pod) *Pod {
	return &Pod{ObjectMeta: wantedMeta(&p.ObjectMeta, false), Spec: PodSpec{NodeName: p.Spec.NodeName},
		Status: PodStatus{PodIP: p.Status.PodIP}}
}

// wantedOfJSON is what is to be read of a pod in JSON: all of its metadata, and what is read of a whole pod.
func wantedOfJSON(p *corev1.Pod) *Pod {
	w := wantedWhole(p)
	w.ObjectMeta, w.Whole = p.ObjectMeta, false
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

func TestPodIsAnObjectToClientGo(t *testing.T) {
	p := full(1)
	var o Object = wanted(&p)
	accessor, err := meta.Accessor(o)
	if err != nil {
		t.Fatal(err)
	}
	if accessor.GetName() != p.Name || accessor.GetUID() != p.UID ||
		accessor.GetResourceVersion() != p.ResourceVersion {
		t.Errorf("got %+v", accessor)
	}
	if got := o.GetObjectKind().GroupVersionKind(); got != corev1.SchemeGroupVersion.WithKind("Pod") {
		t.Errorf("its kind is %v", got)
	}
}

func TestMessagesThatAreNone(t *testing.T) {
	field := func(num protowire.Number, content ...byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), content)
	}
	number := func(num protowire.Number) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), 5)
	}
	status := func(state ...byte) []byte { return field(3, field(8, field(2, state...)...)...) }
	type broken struct {
		message []byte
		want    string
	}
	test := func(name string, c broken, whole bool) {
		t.Run(fmt.Sprintf("%s/whole %t", name, whole), func(t *testing.T) {
			p := &Pod{Whole: whole}
			if err := p.Unmarshal(c.message); err == nil || !strings.HasSuffix(err.Error(), c.want) {
				t.Errorf("error %v, want one that ends in %q", err, c.want)
			}
		})
	}
	for name, c := range map[string]broken{
		"a pod that ends in a tag":           {[]byte{0x80}, "Pod: unexpected EOF"},
		"a length beyond the end":            {[]byte{0x0a, 5, 1}, "Pod: unexpected EOF"},
		"metadata that are a number":         {number(1), "Pod: field 1 has wire type 0"},
		"a name that is a number":            {field(1, number(1)...), "ObjectMeta: field 1 has wire type 0"},
		"a node that is a number":            {field(2, number(10)...), "PodSpec: field 10 has wire type 0"},
		"an IP that is a number":             {field(3, number(6)...), "PodStatus: field 6 has wire type 0"},
		"a time whose seconds are text":      {field(1, field(8, field(1, 'x')...)...), "Time: field 1 has wire type 2"},
		"a label that is a number":           {field(1, number(11)...), "ObjectMeta: field 11 has wire type 0"},
		"an annotation that is cut":          {field(1, field(12, 0x0a)...), "an entry: unexpected EOF"},
		"the end of a group without a begin": {[]byte{0x24}, "mismatching end group marker"},
	} {
		test(name, c, false)
		test(name, c, true)
	}
	for name, c := range map[string]broken{ // of which a pod that is not whole reads nothing
		"an end that is a number":   {field(1, number(9)...), "ObjectMeta: field 9 has wire type 0"},
		"an owner that is a number": {field(1, number(13)...), "ObjectMeta: field 13 has wire type 0"},
		"a controller that is text": {field(1, field(13, field(6)...)...),
			"OwnerReference: field 6 has wire type 2"},
		"a host network that is text":         {field(2, field(11)...), "PodSpec: field 11 has wire type 2"},
		"a container's name that is a number": {field(2, field(2, number(1)...)...), "Container: field 1 has wire type 0"},
		"an ephemeral container that is one without its common part": {field(2, field(34, number(1)...)...),
			"EphemeralContainer: field 1 has wire type 0"},
		"limits that are a number": {field(2, field(2, field(8, number(1)...)...)...),
			"ResourceRequirements: field 1 has wire type 0"},
		"a condition that is a number": {field(3, number(2)...), "PodStatus: field 2 has wire type 0"},
		"restarts that are text":       {field(3, field(8, field(5)...)...), "ContainerStatus: field 5 has wire type 2"},
		"a reason to wait that is a number": {status(field(1, number(1)...)...),
			"ContainerStateWaiting: field 1 has wire type 0"},
		"a begin that is a number": {status(field(2, number(1)...)...),
			"ContainerStateRunning: field 1 has wire type 0"},
		"a reason of the end that is a number": {status(field(3, number(3)...)...),
			"ContainerStateTerminated: field 3 has wire type 0"},
	} {
		test(name, c, true)
		if err := new(Pod).Unmarshal(c.message); err != nil {
			t.Errorf("%s: a pod that is not whole: %v", name, err)
		}
	}
	p := full(1)
	b := marshal(t, &p)
	for n := range b {
		err := (&Pod{Whole: true}).Unmarshal(b[:n])
		if generated := new(corev1.Pod).Unmarshal(b[:n]); generated == nil && err != nil {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
	if err := new(Pod).Unmarshal([]byte{0x80}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// BenchmarkUnmarshal compares reading a pod with what else can be done with its bytes: the decoding that client-go
// does.
func BenchmarkUnmarshal(b *testing.B) {
	p := full(12345)
	body := marshal(b, &p)
	for name, unmarshal := range map[string]func() error{
		"read":  func() error { return new(Pod).Unmarshal(body) },
		"whole": func() error { return (&Pod{Whole: true}).Unmarshal(body) },
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
