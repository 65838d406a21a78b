package state

import (
	"bytes"
	"encoding/json"
	"reflect"
	"sort"
	"strings"
	"testing"
	"unique"

	"metrics-server-prom/internal/kept"
	"metrics-server-prom/internal/page"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/store"
)

// families are all of pods, by their numbers.
var families = []struct {
	name string
	add  func(*Samples, *Object)
}{
	{"info", PodInfo}, {"owner", PodOwner}, {"phase", PodPhase}, {"qos", PodQOSClass}, {"ready", PodReady},
	{"labels", PodLabels}, {"requests", ContainerRequests}, {"limits", ContainerLimits}, {"container", ContainerInfo},
	{"restarts", ContainerRestarts}, {"running", ContainerRunning}, {"container_ready", ContainerReady},
	{"waiting", ContainerWaiting}, {"last", ContainerLastTerminated},
	{"node_info", NodeInfo}, {"allocatable", NodeAllocatable}, {"capacity", NodeCapacity}, {"role", NodeRole},
	{"cores", MachineCores}, {"memory", MachineMemory}, {"namespace", NamespacePhase}, {"quota", ResourceQuota},
	{"replicaset", MetadataOwner},
}

func rowsOf(names string) (rows []Row) {
	for i, f := range families {
		for _, name := range strings.Fields(names) {
			if f.name == name {
				rows = append(rows, Row{uint8(i), f.add})
			}
		}
	}
	return rows
}

func newRenderer() *Renderer {
	r := &Renderer{}
	for _, f := range families {
		r.Names = append(r.Names, f.name)
	}
	return r
}

func text(parts []*page.Part) string {
	var b bytes.Buffer
	page.New(parts...).WriteText(&b)
	return b.String()
}

// podText is the families of a pod, given as JSON, without the labels that all have.
func podText(t *testing.T, names, object string) string {
	t.Helper()
	p := &slim.Pod{Whole: true}
	if err := json.Unmarshal([]byte(object), p); err != nil {
		t.Fatal(err)
	}
	shared, own := Keep(p).Pack()
	value := sample.Text{Node: unique.Make(`node="` + p.Spec.NodeName + `",pod="`), Head: p.Name + `",ip="",container="`,
		Tail: unique.Make(`",namespace="` + p.Namespace + `",label_app="web"}`), Shared: shared, Own: own}
	var c page.Compressor
	got := text(newRenderer().Pods(&c, rowsOf(names), []store.Entry[sample.Text]{store.NewEntry(p, p.Name, value)}))
	return strings.ReplaceAll(got, `{namespace="ns",pod="p",uid="u"`, "{")
}

const meta = `"metadata": {"namespace": "ns", "name": "p", "uid": "u"}`

func TestPods(t *testing.T) {
	for name, test := range map[string]struct{ families, pod, want string }{
		"a pod of a ReplicaSet": {"info owner", `{"metadata": {"namespace": "ns", "name": "p", "uid": "u", "ownerReferences":
			[{"kind": "Other", "name": "o"}, {"kind": "ReplicaSet", "name": "web-5", "controller": true}]},
			"spec": {"nodeName": "n", "hostNetwork": true, "priorityClassName": "high"},
			"status": {"podIP": "10.1.1.1", "hostIP": "10.0.0.1"}}`, `
			info{,host_ip="10.0.0.1",pod_ip="10.1.1.1",node="n",created_by_kind="ReplicaSet",created_by_name="web-5",priority_class="high",host_network="true"} 1
			owner{,owner_kind="Other",owner_name="o",owner_is_controller="false"} 1
			owner{,owner_kind="ReplicaSet",owner_name="web-5",owner_is_controller="true"} 1`},
		"a bare pod that is not scheduled": {"info owner", `{` + meta + `}`, `
			info{,host_ip="",pod_ip="",node="",created_by_kind="",created_by_name="",priority_class="",host_network="false"} 1
			owner{,owner_kind="",owner_name="",owner_is_controller=""} 1`},
		"phase, class and readiness": {"phase qos ready", `{` + meta + `, "status": {"phase": "Running", "qosClass": "Burstable",
			"conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]}}`, `
			phase{,phase="Pending"} 0
			phase{,phase="Succeeded"} 0
			phase{,phase="Failed"} 0
			phase{,phase="Unknown"} 0
			phase{,phase="Running"} 1
			qos{,qos_class="BestEffort"} 0
			qos{,qos_class="Burstable"} 1
			qos{,qos_class="Guaranteed"} 0
			ready{,condition="true"} 0
			ready{,condition="false"} 1
			ready{,condition="unknown"} 0`},
		"nothing of it is known yet": {"phase qos ready", `{` + meta + `}`, ``},
		"requests and limits, in their units": {"requests limits", `{` + meta + `, "spec": {"nodeName": "n", "containers": [
			{"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "1.5Gi", "ephemeral-storage": "1k",
				"hugepages-2Mi": "4Mi", "nvidia.com/gpu": "2", "attachable-volumes-x": "3", "requests.a/b": "1",
				"x.kubernetes.io/y": "1", "odd": "1"}, "limits": {"cpu": "0.1001"}}},
			{"name": "b", "resources": {"limits": {"memory": "1"}}}],
			"initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1"}}}]}}`, `
			requests{,container="a",node="n",resource="attachable_volumes_x",unit="byte"} 3
			requests{,container="a",node="n",resource="cpu",unit="core"} 0.1
			requests{,container="a",node="n",resource="ephemeral_storage",unit="byte"} 1000
			requests{,container="a",node="n",resource="hugepages_2Mi",unit="byte"} 4194304
			requests{,container="a",node="n",resource="memory",unit="byte"} 1610612736
			requests{,container="a",node="n",resource="nvidia_com_gpu",unit="integer"} 2
			limits{,container="a",node="n",resource="cpu",unit="core"} 0.101
			limits{,container="b",node="n",resource="memory",unit="byte"} 1`},
		"statuses of containers": {"container restarts running container_ready waiting last", `{` + meta + `, "spec": {
			"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b"}, {"name": "c", "image": "c"}],
			"initContainers": [{"name": "i", "image": "i"}]}, "status": {"containerStatuses": [
			{"name": "a", "image": "docker.io/a:1", "imageID": "a@sha256:1", "containerID": "containerd://1", "ready": true,
				"restartCount": 3, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
				"lastState": {"terminated": {"reason": "OOMKilled"}}},
			{"name": "b", "image": "b", "state": {"waiting": {"reason": "CrashLoopBackOff"}},
				"lastState": {"terminated": {}}}],
			"initContainerStatuses": [{"name": "i", "image": "i", "restartCount": 1}]}}`, `
			container{,container="a",image_spec="a:1",image="docker.io/a:1",image_id="a@sha256:1",container_id="containerd://1"} 1
			container{,container="b",image_spec="b",image="b",image_id="",container_id=""} 1
			restarts{,container="a"} 3
			restarts{,container="b"} 0
			running{,container="a"} 1
			running{,container="b"} 0
			container_ready{,container="a"} 1
			container_ready{,container="b"} 0
			waiting{,container="b",reason="CrashLoopBackOff"} 1
			last{,container="a",reason="OOMKilled"} 1
			last{,container="b",reason=""} 1`},
		"labels": {"labels", `{` + meta + `}`, `
			labels{,label_app="web"} 1`},
	} {
		t.Run(name, func(t *testing.T) {
			compare(t, podText(t, test.families, test.pod), test.want)
		})
	}
}

// compare compares samples; the order of quantities is not told by JSON.
func compare(t *testing.T, got, want string) {
	t.Helper()
	lines := func(s string) string {
		all := strings.Split(strings.TrimSpace(strings.ReplaceAll(s, "\t", "")), "\n")
		sort.Strings(all)
		return strings.Join(all, "\n")
	}
	if got, want := lines(got), lines(want); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestWhatIsKeptOfAWorkload has nothing in it that workloads have not in common which ask for the same, as far as names
// follow from those of the pods.
func TestWhatIsKeptOfAWorkload(t *testing.T) {
	p := &slim.Pod{}
	if err := json.Unmarshal([]byte(`{"metadata": {"name": "web-5d4f-x2x7z", "uid": "u",
		"labels": {"pod-template-hash": "5d4f"},
		"ownerReferences": [{"kind": "X", "name": "y"}, {"kind": "ReplicaSet", "name": "web-5d4f", "controller": true}]},
		"spec": {"priorityClassName": "high", "containers": [{"name": "app", "image": "app:1", "resources": {
			"requests": {"cpu": "100m", "memory": "64Mi", "ephemeral-storage": "1Gi"}, "limits": {"nvidia.com/gpu": "1"}}}],
			"initContainers": [{"name": "side", "resources": {"limits": {"cpu": "1"}}}]},
		"status": {"phase": "Running", "qosClass": "Burstable", "podIP": "10.0.0.1", "containerStatuses": [
			{"name": "app", "image": "app:1", "imageID": "i", "containerID": "c",
				"state": {"running": {}}}]}}`), p); err != nil {
		t.Fatal(err)
	}
	got, want := KeepWorkload(p), &kept.Pod{
		Workload: kept.Workload{Owners: []kept.Owner{{Kind: "ReplicaSet", Controller: true}}, HasTemplateHash: true},
		Containers: []kept.Container{
			{Requests: []kept.Quantity{{Name: "cpu", Value: .1}, {Name: "memory", Value: 64 << 20}},
				Limits: []kept.Quantity{}},
			{Name: "side", Kind: kept.Init, Limits: []kept.Quantity{{Name: "cpu", Value: 1}}}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("kept %+v, want %+v", got, want)
	}
	for _, name := range []string{"web-5d4fx2x7z", "other-x2x7z", "web", "-", ""} {
		p.Name = name
		if got := KeepWorkload(p).Owners[0].Name; got != "web-5d4f" {
			t.Errorf("of the pod %q the owner's name is %q", name, got)
		}
	}
}

func TestOtherObjects(t *testing.T) {
	for name, test := range map[string]struct{ resource, families, object, want string }{
		"a node": {"nodes", "node_info allocatable capacity role cores memory", `{"metadata": {"name": "n", "labels":
			{"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "a": "b"}},
			"spec": {"podCIDR": "10.0.0.0/24", "providerID": "kind://n"}, "status": {
			"capacity": {"cpu": "4", "memory": "16Gi", "pods": "110", "example.com/fpga": "1"},
			"allocatable": {"cpu": "3900m", "pods": "100"},
			"addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "10.0.0.1"},
				{"type": "InternalIP", "address": "fd00::1"}],
			"nodeInfo": {"machineID": "m", "systemUUID": "s", "bootID": "b", "kernelVersion": "6.1", "osImage": "Debian",
				"containerRuntimeVersion": "containerd://2", "kubeletVersion": "v1.37.2"}}}`, `
			node_info{node="n",kernel_version="6.1",os_image="Debian",container_runtime_version="containerd://2",kubelet_version="v1.37.2",kubeproxy_version="deprecated",provider_id="kind://n",pod_cidr="10.0.0.0/24",system_uuid="s",internal_ip="10.0.0.1"} 1
			allocatable{node="n",resource="cpu",unit="core"} 3.9
			allocatable{node="n",resource="pods",unit="integer"} 100
			capacity{node="n",resource="cpu",unit="core"} 4
			capacity{node="n",resource="memory",unit="byte"} 17179869184
			capacity{node="n",resource="pods",unit="integer"} 110
			capacity{node="n",resource="example_com_fpga",unit="integer"} 1
			role{node="n",role="control-plane"} 1
			role{node="n",role="worker"} 1
			cores{node="n",machine_id="m",system_uuid="s",boot_id="b"} 4
			memory{node="n",machine_id="m",system_uuid="s",boot_id="b"} 17179869184`},
		"a namespace": {"namespaces", "namespace", `{"metadata": {"name": "ns"}}`, `
			namespace{namespace="ns",phase="Active"} 1
			namespace{namespace="ns",phase="Terminating"} 0`},
		"a namespace on its way out": {"namespaces", "namespace",
			`{"metadata": {"name": "ns", "deletionTimestamp": "2026-01-01T00:00:00Z"}}`, `
			namespace{namespace="ns",phase="Active"} 0
			namespace{namespace="ns",phase="Terminating"} 1`},
		"a ReplicaSet": {"replicasets", "replicaset", `{"metadata": {"namespace": "ns", "name": "web-5", "ownerReferences":
			[{"kind": "Deployment", "name": "web", "controller": true}]}}`, `
			replicaset{namespace="ns",replicaset="web-5",owner_kind="Deployment",owner_name="web",owner_is_controller="true"} 1`},
		"a Job of nobody": {"jobs", "replicaset", `{"metadata": {"namespace": "ns", "name": "j"}}`, `
			replicaset{namespace="ns",job_name="j",owner_kind="",owner_name="",owner_is_controller=""} 1`},
		"a quota": {"resourcequotas", "quota", `{"metadata": {"namespace": "ns", "name": "q"}, "status": {
			"hard": {"requests.cpu": "1500m", "pods": "10"}, "used": {"requests.cpu": "250m"}}}`, `
			quota{namespace="ns",resourcequota="q",resource="requests.cpu",type="hard"} 1.5
			quota{namespace="ns",resourcequota="q",resource="pods",type="hard"} 10
			quota{namespace="ns",resourcequota="q",resource="requests.cpu",type="used"} 0.25`},
		"a quota that is not counted yet": {"resourcequotas", "quota", `{"metadata": {"namespace": "ns", "name": "q"}}`, ``},
		"a node that says nothing":        {"nodes", "allocatable capacity role cores memory", `{"metadata": {"name": "n"}}`, ``},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range Resources {
				r := &Resources[i]
				if r.Name != test.resource {
					continue
				}
				object := r.New()
				if err := json.Unmarshal([]byte(test.object), object); err != nil {
					t.Fatal(err)
				}
				kept := r.Samples(rowsOf(test.families), object)
				var c page.Compressor
				compare(t, text(newRenderer().Kept(&c, []store.Entry[string]{store.NewEntry(object, object.GetName(), kept)})),
					test.want)
			}
		})
	}
}

func TestHostileNamesAreText(t *testing.T) {
	got := podText(t, "info", `{"metadata": {"namespace": "n\"} 1\nx{y=\"", "name": "p\\", "uid": "\u0000"}}`)
	const want = `info{namespace="n\"} 1\nx{y=\"",pod="p\\",uid="` + "\uFFFD" + `",host_ip=""`
	if !strings.HasPrefix(got, want) || strings.Count(got, "\n") != 1 {
		t.Errorf("got %s, want %s…", got, want)
	}
}

func TestTheClusterComesLast(t *testing.T) {
	var s Samples
	s.Object("namespace", "a")
	s.Add(1)
	s.Add(2, "uid", "u")
	r := &Renderer{Names: []string{"f"}, Cluster: `,cluster="eu"`}
	entries := []store.Entry[string]{{Object: &store.Object[string]{Value: s.Pack()}}}
	want := `f{namespace="a",cluster="eu"} 1` + "\n" + `f{namespace="a",uid="u",cluster="eu"} 2` + "\n"
	if got := text(r.Kept(new(page.Compressor), entries)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
