package state

import (
	"slices"
	"strings"

	"metrics-server-prom/internal/kept"
	"metrics-server-prom/internal/slim"
)

// Keep returns what is to be kept of a pod that was decoded as a whole: nothing of init and ephemeral containers that
// have ended.
func Keep(p *slim.Pod) *kept.Pod {
	k := &kept.Pod{UID: string(p.UID), Phase: p.Status.Phase, HostIP: p.Status.HostIP, PodIP: p.Status.PodIP,
		Workload: kept.Workload{QOSClass: p.Status.QOSClass, PriorityClass: p.Spec.PriorityClassName,
			HostNetwork: p.Spec.HostNetwork, Owners: ownersOf(p.OwnerReferences)}}
	for _, owner := range k.Owners {
		hash := p.Labels["pod-template-hash"]
		if owner.Controller && owner.Kind == "ReplicaSet" && hash != "" && strings.HasSuffix(owner.Name, "-"+hash) {
			k.HasTemplateHash = true
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			k.Ready = c.Status
		}
	}
	for _, list := range []struct {
		kind     kept.Kind
		spec     []slim.Container
		statuses []slim.ContainerStatus
	}{
		{kept.Regular, p.Spec.Containers, p.Status.ContainerStatuses},
		{kept.Init, p.Spec.InitContainers, p.Status.InitContainerStatuses},
		{kept.Ephemeral, p.Spec.EphemeralContainers, p.Status.EphemeralContainerStatuses},
	} {
		begin := len(k.Containers)
		for _, c := range list.spec {
			k.Containers = append(k.Containers, kept.Container{Kind: list.kind, Name: c.Name, Image: c.Image,
				Requests: quantities(c.Resources.Requests), Limits: quantities(c.Resources.Limits)})
		}
		for i := range list.statuses {
			s := &list.statuses[i]
			for j := range k.Containers[begin:] {
				if c := &k.Containers[begin+j]; c.Name == s.Name {
					c.Status = statusOf(s)
				}
			}
		}
	}
	// They have no usage any more and no families of their own, and many pods have some.
	k.Containers = slices.DeleteFunc(k.Containers, func(c kept.Container) bool {
		return c.Kind != kept.Regular && c.State == kept.Terminated
	})
	return k
}

// KeepWorkload returns what tells to what a pod belongs and what it asks for: its controller, and the CPU and memory of
// its containers' requests and limits. What is shared takes some hundred bytes, and many workloads have few pods. So
// that these share it as well, the controller has no name where that follows from the pod's (see OwnerOfPod), and no
// container the name of the first one, of which all usage is that has no other one's name.
func KeepWorkload(p *slim.Pod) *kept.Pod {
	whole := Keep(p)
	k := &kept.Pod{Workload: kept.Workload{HasTemplateHash: whole.HasTemplateHash}}
	for _, o := range whole.Owners {
		if o.Controller {
			if o.Name == OwnerOfPod(p.Name) {
				o.Name = ""
			}
			k.Owners = append(k.Owners, o)
		}
	}
	other := func(q kept.Quantity) bool { return q.Name != "cpu" && q.Name != "memory" }
	for i, c := range whole.Containers {
		if i == 0 {
			c.Name = ""
		}
		k.Containers = append(k.Containers, kept.Container{Kind: c.Kind, Name: c.Name,
			Requests: slices.DeleteFunc(c.Requests, other), Limits: slices.DeleteFunc(c.Limits, other)})
	}
	return k
}

// OwnerOfPod is the name of a pod's controller as that of the pod tells it: controllers add an ordinal or something
// random to theirs, but to one that is too long.
func OwnerOfPod(name string) string { return name[:max(strings.LastIndexByte(name, '-'), 0)] }

func quantities(all slim.Quantities) (kepts []kept.Quantity) {
	for _, q := range all {
		if value, ok := amount(q); ok {
			kepts = append(kepts, kept.Quantity{Name: q.Name, Value: value})
		}
	}
	return kepts
}

func statusOf(s *slim.ContainerStatus) kept.Status {
	k := kept.Status{Known: true, Image: s.Image, ImageID: s.ImageID, ID: s.ContainerID, Ready: s.Ready,
		Restarts: s.RestartCount}
	switch {
	case s.State.Running != nil:
		k.State, k.Started = kept.Running, s.State.Running.StartedAt.Unix()
	case s.State.Terminated != nil:
		k.State, k.Started, k.Reason = kept.Terminated, s.State.Terminated.StartedAt.Unix(), s.State.Terminated.Reason
	case s.State.Waiting != nil:
		k.State, k.Reason = kept.Waiting, s.State.Waiting.Reason
	}
	if last := s.LastState.Terminated; last != nil {
		k.LastTerminated, k.LastReason = true, last.Reason
	}
	return k
}
