package slim

import (
	"cmp"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"metrics-server-prom/internal/wire"
)

// Pod is a pod's name, namespace, UID, resourceVersion, creationTimestamp, labels, node and IP, and where it is Whole
// all of what is below. JSON fills all in any case.
type Pod struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              PodSpec   `json:"spec"`
	Status            PodStatus `json:"status"`
	// Set before the pod is decoded. Workload adds deletionTimestamp, owners and the whole spec: what the pods of
	// a workload have in common. Whole adds the whole status as well.
	Workload, Whole bool `json:"-"`
}

// PodSpec is what is read of a pod's spec.
type PodSpec struct {
	NodeName string `json:"nodeName"`

	// Only where the pod is Whole, or read for its Workload.
	HostNetwork         bool        `json:"hostNetwork"`
	PriorityClassName   string      `json:"priorityClassName"`
	Containers          []Container `json:"containers"`
	InitContainers      []Container `json:"initContainers"`
	EphemeralContainers []Container `json:"ephemeralContainers"`
}

// Container is what is read of a container as it is specified.
type Container struct {
	Name      string    `json:"name"`
	Image     string    `json:"image"`
	Resources Resources `json:"resources"`
}

// Resources are what a container may use at most, and what it is promised.
type Resources struct {
	Limits   Quantities `json:"limits"`
	Requests Quantities `json:"requests"`
}

// PodStatus is what is read of a pod's status.
type PodStatus struct {
	PodIP string `json:"podIP"`

	// Only where the pod is Whole.
	Phase                      string            `json:"phase"`
	Conditions                 []PodCondition    `json:"conditions"`
	HostIP                     string            `json:"hostIP"`
	QOSClass                   string            `json:"qosClass"`
	ContainerStatuses          []ContainerStatus `json:"containerStatuses"`
	InitContainerStatuses      []ContainerStatus `json:"initContainerStatuses"`
	EphemeralContainerStatuses []ContainerStatus `json:"ephemeralContainerStatuses"`
}

// PodCondition is what is read of a condition: its type such as Ready, and True, False or Unknown.
type PodCondition struct {
	Type   string `json:"type"`
	Status string `json:"status"`
}

// ContainerStatus is what is read of how a container is doing.
type ContainerStatus struct {
	Name         string         `json:"name"`
	State        ContainerState `json:"state"`
	LastState    ContainerState `json:"lastState"` // of the container's previous run
	Ready        bool           `json:"ready"`
	RestartCount int32          `json:"restartCount"`
	Image        string         `json:"image"`
	ImageID      string         `json:"imageID"`
	ContainerID  string         `json:"containerID"` // SCHEME://ID
}

// ContainerState is one of its members. An API server takes one without any for Waiting.
type ContainerState struct {
	Waiting    *ContainerStateWaiting    `json:"waiting"`
	Running    *ContainerStateRunning    `json:"running"`
	Terminated *ContainerStateTerminated `json:"terminated"`
}

// ContainerStateWaiting is why a container does not run yet, such as CrashLoopBackOff.
type ContainerStateWaiting struct {
	Reason string `json:"reason"`
}

// ContainerStateRunning is since when a container has run.
type ContainerStateRunning struct {
	StartedAt metav1.Time `json:"startedAt"`
}

// ContainerStateTerminated is why a container ended, such as OOMKilled, and when it had begun.
type ContainerStateTerminated struct {
	Reason    string      `json:"reason"`
	StartedAt metav1.Time `json:"startedAt"`
}

var podType = &metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}

// GetObjectKind returns v1's Pod. It must not be set.
func (p *Pod) GetObjectKind() schema.ObjectKind { return podType }

// DeepCopyObject returns the pod itself: it has one owner, who changes nothing.
func (p *Pod) DeepCopyObject() runtime.Object { return p }

// Unmarshal adds what a message says to the pod. The field numbers, here and below, are from k8s.io/api/core/v1's
// generated.proto: Pod{metadata=1 spec=2 status=3}, PodSpec{nodeName=10}, PodStatus{podIP=6}.
func (p *Pod) Unmarshal(b []byte) error {
	m := wire.NewMessage(b, "Pod")
	for m.Next() {
		switch m.Num {
		case 1:
			m.Check(unmarshalMeta(m.Bytes(), &p.ObjectMeta, p.Whole || p.Workload))
		case 2:
			if p.Whole || p.Workload {
				m.Check(p.Spec.unmarshal(m.Bytes()))
			} else {
				m.Check(wire.Read(m.Bytes(), "PodSpec", 10, &p.Spec.NodeName))
			}
		case 3:
			if p.Whole {
				m.Check(p.Status.unmarshal(m.Bytes()))
			} else {
				m.Check(wire.Read(m.Bytes(), "PodStatus", 6, &p.Status.PodIP))
			}
		}
	}
	return m.Err()
}

// unmarshal reads all of a PodSpec{containers=2 nodeName=10 hostNetwork=11 initContainers=20 priorityClassName=24
// ephemeralContainers=34}, EphemeralContainer{ephemeralContainerCommon=1}. That common part has the fields of a
// Container.
func (s *PodSpec) unmarshal(b []byte) error {
	m := wire.NewMessage(b, "PodSpec")
	for m.Next() {
		switch m.Num {
		case 2:
			m.Check(add(&s.Containers).unmarshal(m.Bytes()))
		case 10:
			s.NodeName = string(m.Bytes())
		case 11:
			s.HostNetwork = m.Int() != 0
		case 20:
			m.Check(add(&s.InitContainers).unmarshal(m.Bytes()))
		case 24:
			s.PriorityClassName = string(m.Bytes())
		case 34:
			c := add(&s.EphemeralContainers)
			ephemeral := wire.NewMessage(m.Bytes(), "EphemeralContainer")
			for ephemeral.Next() {
				if ephemeral.Num == 1 {
					ephemeral.Check(c.unmarshal(ephemeral.Bytes()))
				}
			}
			m.Check(ephemeral.Err())
		}
	}
	return m.Err()
}

// unmarshal reads a Container{name=1 image=2 resources=8}, ResourceRequirements{limits=1 requests=2}.
func (c *Container) unmarshal(b []byte) error {
	m := wire.NewMessage(b, "Container")
	for m.Next() {
		switch m.Num {
		case 1:
			c.Name = string(m.Bytes())
		case 2:
			c.Image = string(m.Bytes())
		case 8:
			m.Check(unmarshalQuantities(m.Bytes(), "ResourceRequirements", &c.Resources.Limits, &c.Resources.Requests))
		}
	}
	return m.Err()
}

// unmarshal reads all of a PodStatus{phase=1 conditions=2 hostIP=5 podIP=6 containerStatuses=8 qosClass=9
// initContainerStatuses=10 ephemeralContainerStatuses=13}, PodCondition{type=1 status=2}.
func (s *PodStatus) unmarshal(b []byte) error {
	m := wire.NewMessage(b, "PodStatus")
	for m.Next() {
		switch m.Num {
		case 1:
			s.Phase = string(m.Bytes())
		case 2:
			c := add(&s.Conditions)
			m.Check(wire.Read(m.Bytes(), "PodCondition", 1, &c.Type, &c.Status))
		case 5:
			s.HostIP = string(m.Bytes())
		case 6:
			s.PodIP = string(m.Bytes())
		case 8:
			m.Check(add(&s.ContainerStatuses).unmarshal(m.Bytes()))
		case 9:
			s.QOSClass = string(m.Bytes())
		case 10:
			m.Check(add(&s.InitContainerStatuses).unmarshal(m.Bytes()))
		case 13:
			m.Check(add(&s.EphemeralContainerStatuses).unmarshal(m.Bytes()))
		}
	}
	return m.Err()
}

// unmarshal reads a ContainerStatus{name=1 state=2 lastState=3 ready=4 restartCount=5 image=6 imageID=7 containerID=8}.
func (s *ContainerStatus) unmarshal(b []byte) error {
	m := wire.NewMessage(b, "ContainerStatus")
	for m.Next() {
		switch m.Num {
		case 1:
			s.Name = string(m.Bytes())
		case 2:
			m.Check(s.State.unmarshal(m.Bytes()))
		case 3:
			m.Check(s.LastState.unmarshal(m.Bytes()))
		case 4:
			s.Ready = m.Int() != 0
		case 5:
			s.RestartCount = int32(m.Int())
		case 6:
			s.Image = string(m.Bytes())
		case 7:
			s.ImageID = string(m.Bytes())
		case 8:
			s.ContainerID = string(m.Bytes())
		}
	}
	return m.Err()
}

// unmarshal reads a ContainerState{waiting=1 running=2 terminated=3}, ContainerStateWaiting{reason=1},
// ContainerStateRunning{startedAt=1}, ContainerStateTerminated{reason=3 startedAt=5}.
func (s *ContainerState) unmarshal(b []byte) (err error) {
	m := wire.NewMessage(b, "ContainerState")
	for m.Next() {
		switch m.Num {
		case 1:
			s.Waiting = cmp.Or(s.Waiting, &ContainerStateWaiting{})
			m.Check(wire.Read(m.Bytes(), "ContainerStateWaiting", 1, &s.Waiting.Reason))
		case 2:
			s.Running = cmp.Or(s.Running, &ContainerStateRunning{})
			running := wire.NewMessage(m.Bytes(), "ContainerStateRunning")
			for running.Next() {
				if running.Num == 1 {
					s.Running.StartedAt.Time, err = wire.Time(running.Bytes())
					running.Check(err)
				}
			}
			m.Check(running.Err())
		case 3:
			s.Terminated = cmp.Or(s.Terminated, &ContainerStateTerminated{})
			terminated := wire.NewMessage(m.Bytes(), "ContainerStateTerminated")
			for terminated.Next() {
				switch terminated.Num {
				case 3:
					s.Terminated.Reason = string(terminated.Bytes())
				case 5:
					s.Terminated.StartedAt.Time, err = wire.Time(terminated.Bytes())
					terminated.Check(err)
				}
			}
			m.Check(terminated.Err())
		}
	}
	return m.Err()
}
