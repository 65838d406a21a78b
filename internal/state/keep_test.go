package state

import (
	"slices"
	"testing"

	"metrics-server-prom/internal/slim"
)

func TestInitContainersAreKeptUntilTheyHaveEnded(t *testing.T) {
	for name, test := range map[string]struct {
		state slim.ContainerState
		want  []string
	}{
		"no status yet": {slim.ContainerState{}, []string{"app", "init"}},
		"waiting":       {slim.ContainerState{Waiting: &slim.ContainerStateWaiting{}}, []string{"app", "init"}},
		"running":       {slim.ContainerState{Running: &slim.ContainerStateRunning{}}, []string{"app", "init"}},
		"ended":         {slim.ContainerState{Terminated: &slim.ContainerStateTerminated{}}, []string{"app"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := &slim.Pod{}
			p.Spec.Containers = []slim.Container{{Name: "app"}}
			p.Spec.InitContainers = []slim.Container{{Name: "init"}}
			p.Status.ContainerStatuses = []slim.ContainerStatus{{Name: "app", State: slim.ContainerState{
				Terminated: &slim.ContainerStateTerminated{Reason: "Error"}}}} // an app that has ended stays
			p.Status.InitContainerStatuses = []slim.ContainerStatus{{Name: "init", State: test.state}}
			var names []string
			for _, c := range Keep(p).Containers {
				names = append(names, c.Name)
			}
			if !slices.Equal(names, test.want) {
				t.Errorf("kept %v, want %v", names, test.want)
			}
		})
	}
}

func TestPackedSamplesComeBackAsTheyWere(t *testing.T) {
	var all, want Samples
	for _, labels := range [][]string{
		nil, {"node", "n"}, {"namespace", "team-1", "replicaset", "web-5d4f"}, {"namespace", "é\"\\\n", "job_name", ""},
	} {
		var s Samples
		s.Object(labels...)
		s.Add(1, "owner_kind", "Deployment", "owner_name", "web", "owner_is_controller", "true")
		s.Family = 7
		s.Add(0.1)
		all.unpack(s.Pack())
		want.buf = append(want.buf, s.buf...)
	}
	if string(all.buf) != string(want.buf) {
		t.Errorf("%q, want %q", all.buf, want.buf)
	}
}
