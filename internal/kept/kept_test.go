package kept

import (
	"reflect"
	"testing"
)

// same tells whether two pods say the same; an empty slice is as good as none.
func same(t *testing.T, got, want *Pod) {
	t.Helper()
	got.arena, want.arena = nil, nil
	for _, p := range []*Pod{got, want} {
		if len(p.Owners) == 0 {
			p.Owners = nil
		}
		if len(p.Containers) == 0 {
			p.Containers = nil
		}
		for i := range p.Containers {
			if c := &p.Containers[i]; len(c.Requests) == 0 {
				c.Requests = nil
			}
			if c := &p.Containers[i]; len(c.Limits) == 0 {
				c.Limits = nil
			}
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("unpacked %+v\npacked   %+v", got, want)
	}
}

const digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func whole() *Pod {
	return &Pod{UID: "6e5e1d0a-3a3f-4f0e-9d7b-1f2e3d4c5b6a", Phase: "Running", HostIP: "10.0.0.1", PodIP: "fd00::7",
		Ready: "True", Workload: Workload{QOSClass: "Burstable", PriorityClass: "high", HostNetwork: true,
			HasTemplateHash: true, Owners: []Owner{{"ReplicaSet", "web-5d4f", true}, {"X", "y", false}}},
		Containers: []Container{
			{Name: "app", Image: "app:1", Requests: []Quantity{{"cpu", 0.1}, {"nvidia.com/gpu", 1}},
				Limits: []Quantity{{"memory", 1 << 30}}, Status: Status{Known: true, Image: "docker.io/library/app:1",
					ImageID: "docker.io/library/app@sha256:" + digest, ID: "containerd://" + digest, Ready: true, Restarts: 3,
					State: Running, Started: 1_700_000_000, LastTerminated: true, LastReason: "OOMKilled"}},
			{Name: "side", Image: "side", Kind: Init, Status: Status{Known: true, State: Waiting,
				Reason: "CrashLoopBackOff"}},
			{Name: "debug", Image: "busybox", Kind: Ephemeral},
		}}
}

func TestUnpackGivesBackWhatWasPacked(t *testing.T) {
	for name, change := range map[string]func(*Pod){
		"a whole pod":                     func(*Pod) {},
		"nothing at all":                  func(p *Pod) { *p = Pod{} },
		"a UID that is none":              func(p *Pod) { p.UID = "mirror-of-a-file-0123456789" },
		"a UID in capitals":               func(p *Pod) { p.UID = "6E5E1D0A-3A3F-4F0E-9D7B-1F2E3D4C5B6A" },
		"an address that is none":         func(p *Pod) { p.PodIP, p.HostIP = "10.0.0", "010.0.0.1" },
		"a container's ID without a way":  func(p *Pod) { p.Containers[0].ID = digest[:63] },
		"IDs of a way alone, and of none": func(p *Pod) { p.Containers[0].ID, p.Containers[1].ID = "containerd://", "://0" },
		"terminated, without a reason":    func(p *Pod) { p.Containers[0].State, p.Containers[0].Reason = Terminated, "" },
		"terminated before the epoch":     func(p *Pod) { p.Containers[0].Started = -62135596800 },
	} {
		t.Run(name, func(t *testing.T) {
			p, got := whole(), whole()
			change(p)
			got.Unpack(p.Pack())
			same(t, got, p)
		})
	}
}

// TestUnpackInTwoSteps gives back what is shared, where nothing else was kept as well.
func TestUnpackInTwoSteps(t *testing.T) {
	p := whole()
	shared, _ := p.Pack()
	var got Pod
	containers := got.UnpackWorkload(shared)
	same(t, &got, &Pod{Workload: p.Workload})
	got.UnpackContainers(containers)
	want := &Pod{Workload: p.Workload}
	for _, c := range p.Containers {
		c.Status = Status{Image: c.Status.Image, ImageID: c.ImageID}
		want.Containers = append(want.Containers, c)
	}
	same(t, &got, want)

	p.Owners = nil
	if other, _ := p.Pack(); got.UnpackWorkload(other) != containers {
		t.Error("containers of another owner are another text")
	}
}

func TestPodsOfAWorkloadShareAllButWhatIsTheirOwn(t *testing.T) {
	a, b := whole(), whole()
	b.UID, b.PodIP, b.HostIP = "7e5e1d0a-3a3f-4f0e-9d7b-1f2e3d4c5b6a", "10.1.1.1", "10.2.2.2"
	b.Phase, b.Ready = "Failed", ""
	b.Containers[0].ID, b.Containers[0].Restarts = "containerd://"+digest[1:]+"0", 7
	b.Containers[1].Status = Status{Known: true, State: Terminated, Reason: "Error", Started: 5}
	sharedA, ownA := a.Pack()
	sharedB, ownB := b.Pack()
	if sharedA != sharedB || ownA == ownB {
		t.Errorf("shared %q %q, own %q %q", sharedA.Value(), sharedB.Value(), ownA, ownB)
	}
}

func FuzzPack(f *testing.F) {
	f.Add("6e5e1d0a-3a3f-4f0e-9d7b-1f2e3d4c5b6a", "10.0.0.1", "containerd://"+digest, int64(1), 1.5)
	f.Add("", "::1", "//"+digest, int64(-1), 0.0)
	f.Fuzz(func(t *testing.T, a, b, c string, n int64, v float64) {
		if v != v {
			t.Skip()
		}
		p := &Pod{UID: a, PodIP: b, Phase: c, Workload: Workload{Owners: []Owner{{a, b, n&1 != 0}}},
			Containers: []Container{{Name: b, Image: c, Requests: []Quantity{{a, v}}, Status: Status{Known: true, ID: c,
				ImageID: a, Image: b, Started: n, Restarts: int32(n), Reason: a, LastReason: b, LastTerminated: b != ""}}}}
		got := whole()
		got.Unpack(p.Pack())
		same(t, got, p)
	})
}

func TestContainerOfUsage(t *testing.T) {
	p := whole()
	for name, known := range map[string]bool{"app": true, "side": true, "debug": false, "other": false} {
		if c := p.Container(name); (c != nil) != known {
			t.Errorf("container %s: %v", name, c)
		}
	}
}

func TestUnpackAllocatesNothing(t *testing.T) {
	shared, own := whole().Pack()
	var p Pod
	p.Unpack(shared, own)
	if n := testing.AllocsPerRun(100, func() { p.Unpack(shared, own) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkUnpack(b *testing.B) {
	shared, own := whole().Pack()
	b.ReportMetric(float64(len(shared.Value())), "shared-bytes")
	b.ReportMetric(float64(len(own)), "own-bytes")
	var p Pod
	b.ReportAllocs()
	for b.Loop() {
		p.Unpack(shared, own)
	}
}

func BenchmarkPack(b *testing.B) {
	p := whole()
	b.ReportAllocs()
	for b.Loop() {
		p.Pack()
	}
}
