package slim

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"metrics-server-prom/internal/wire"
)

// Node is what is read of a node. Of its metadata that is the same as of Metadata.
type Node struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              NodeSpec   `json:"spec"`
	Status            NodeStatus `json:"status"`
}

// NodeSpec is what is read of a node's spec.
type NodeSpec struct {
	PodCIDR    string `json:"podCIDR"`
	ProviderID string `json:"providerID"`
}

// NodeStatus is what is read of a node's status.
type NodeStatus struct {
	Capacity    Quantities     `json:"capacity"`
	Allocatable Quantities     `json:"allocatable"`
	Addresses   []NodeAddress  `json:"addresses"`
	NodeInfo    NodeSystemInfo `json:"nodeInfo"`
}

// NodeAddress is an address of a type such as InternalIP.
type NodeAddress struct {
	Type    string `json:"type"`
	Address string `json:"address"`
}

// NodeSystemInfo is what is read of a node's machine and software.
type NodeSystemInfo struct {
	MachineID               string `json:"machineID"`
	SystemUUID              string `json:"systemUUID"`
	BootID                  string `json:"bootID"`
	KernelVersion           string `json:"kernelVersion"`
	OSImage                 string `json:"osImage"`
	ContainerRuntimeVersion string `json:"containerRuntimeVersion"`
	KubeletVersion          string `json:"kubeletVersion"`
}

var nodeType = &metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}

// GetObjectKind returns v1's Node. It must not be set.
func (n *Node) GetObjectKind() schema.ObjectKind { return nodeType }

// DeepCopyObject returns the node itself: it has one owner, who changes nothing.
func (n *Node) DeepCopyObject() runtime.Object { return n }

// Unmarshal adds what a message says to the node. The field numbers are from k8s.io/api/core/v1's generated.proto:
// Node{metadata=1 spec=2 status=3}, NodeSpec{podCIDR=1 externalID=2 providerID=3}, NodeStatus{capacity=1 allocatable=2
// addresses=5 nodeInfo=7}, NodeAddress{type=1 address=2}, NodeSystemInfo{machineID=1 systemUUID=2 bootID=3
// kernelVersion=4 osImage=5 containerRuntimeVersion=6 kubeletVersion=7}.
func (n *Node) Unmarshal(b []byte) error {
	m := wire.NewMessage(b, "Node")
	for m.Next() {
		switch m.Num {
		case 1:
			m.Check(unmarshalMeta(m.Bytes(), &n.ObjectMeta, true))
		case 2:
			var externalID string // deprecated
			m.Check(wire.Read(m.Bytes(), "NodeSpec", 1, &n.Spec.PodCIDR, &externalID, &n.Spec.ProviderID))
		case 3:
			m.Check(n.Status.unmarshal(m.Bytes()))
		}
	}
	return m.Err()
}

func (s *NodeStatus) unmarshal(b []byte) error {
	m := wire.NewMessage(b, "NodeStatus")
	for m.Next() {
		switch m.Num {
		case 1:
			s.Capacity.unmarshalEntry(m)
		case 2:
			s.Allocatable.unmarshalEntry(m)
		case 5:
			a := add(&s.Addresses)
			m.Check(wire.Read(m.Bytes(), "NodeAddress", 1, &a.Type, &a.Address))
		case 7:
			i := &s.NodeInfo
			m.Check(wire.Read(m.Bytes(), "NodeSystemInfo", 1, &i.MachineID, &i.SystemUUID, &i.BootID, &i.KernelVersion,
				&i.OSImage, &i.ContainerRuntimeVersion, &i.KubeletVersion))
		}
	}
	return m.Err()
}
