package standin

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// shape is what pods with the same containers have in common: most of the bytes of the pod object, encoded once.
// A pod of two containers is about 7 KB on the wire, as real ones with a sidecar are.
type shape struct {
	containers []string
	meta       []byte // annotations and managedFields
	spec       []byte // without nodeName
	status     []byte // of a running pod, without phase and IPs
}

func newShape(containers []string) *shape {
	s := &shape{containers: containers}
	s.meta = appendMapEntry(nil, metaAnnotations, "checksum/config",
		"8f14e45fceea167a5a36dedd4bea2543c4f1d0d2b9c7e1b2a9d3c4f5a6b7c8d9")
	s.meta = appendMapEntry(s.meta, metaAnnotations, "kubernetes.io/config.source", "api")
	s.meta = appendMapEntry(s.meta, metaAnnotations, "prometheus.io/scrape", "true")
	for _, m := range managedFields(containers) {
		s.meta = appendBytes(s.meta, metaManagedFields, mustMarshal(&m))
	}
	spec, status := simulatedSpec(containers), simulatedStatus(containers)
	s.spec = without(mustMarshal(&spec), specNodeName)
	s.status = without(mustMarshal(&status), statusPhase, statusHostIP, statusPodIP)
	return s
}

// appendPod appends the pod as a message of the generated type corev1.Pod.
func (c *Cluster) appendPod(b []byte, p *pod) []byte { return c.appendPodAt(b, p, p.rv) }

// appendPodAt appends the pod with another resourceVersion, as the object of a DELETED event has it.
func (c *Cluster) appendPodAt(b []byte, p *pod, rv uint64) []byte {
	var uid, version [36]byte
	b, start := open(b, podMetadata)
	b = appendMeta(b, p.namespace, p.name, appendUID(uid[:0], c.seed, p.serial),
		strconv.AppendUint(version[:0], rv, 10), time.Unix(p.created, 0))
	b = append(b, p.labels.wire...)
	if owner := ownerOf(p.name); owner != "" {
		b = c.appendOwner(b, p, owner)
	}
	b = append(b, p.shape.meta...)
	b = seal(b, start)

	b, start = open(b, podSpec)
	b = append(b, p.shape.spec...)
	b = appendString(b, specNodeName, p.node)
	b = seal(b, start)

	b, start = open(b, podStatus)
	b = appendString(b, statusPhase, string(p.phase))
	if p.phase == corev1.PodRunning {
		b = append(b, p.shape.status...)
	}
	var host, ip []byte
	var hostBuffer, ipBuffer [16]byte
	if p.node != "" {
		h := hashString(p.node)
		host = netip.AddrFrom4([4]byte{172, 16, byte(h >> 8), byte(h)}).AppendTo(hostBuffer[:0])
	}
	ip = append(ipBuffer[:0], p.ip...)
	b = appendBytes(b, statusHostIP, host)
	b = appendBytes(b, statusPodIP, ip)
	if p.ip != "" {
		b = appendIP(b, statusPodIPs, ip)
		b = appendIP(b, statusHostIPs, host)
	}
	return seal(b, start)
}

func appendIP(b []byte, num protowire.Number, ip []byte) []byte {
	b, start := open(b, num)
	return seal(appendBytes(b, podIPsIP, ip), start)
}

// appendOwner appends the ownerReference to the ReplicaSet or StatefulSet (field numbers of OwnerReference).
func (c *Cluster) appendOwner(b []byte, p *pod, owner string) []byte {
	kind := "ReplicaSet"
	if p.labels.labels.Has("statefulset.kubernetes.io/pod-name") {
		kind = "StatefulSet"
	}
	b, start := open(b, metaOwnerReferences)
	b = appendString(b, 1, kind)
	b = appendString(b, 3, owner)
	var uid [36]byte
	b = appendBytes(b, 4, appendUID(uid[:0], c.seed, hashString(p.namespace)^hashString(owner)))
	b = appendString(b, 5, "apps/v1")
	for _, num := range []protowire.Number{6, 7} { // controller, blockOwnerDeletion
		b = protowire.AppendTag(b, num, protowire.VarintType)
		b = protowire.AppendVarint(b, 1)
	}
	return seal(b, start)
}

// ownerOf is the name of what a generated pod name belongs to: all before its last dash.
func ownerOf(name string) string {
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		return name[:i]
	}
	return ""
}

// podObject returns the pod as the generated type, decoded from the bytes that protobuf clients get.
func (c *Cluster) podObject(p *pod, rv uint64) *corev1.Pod {
	o := &corev1.Pod{}
	if err := o.Unmarshal(c.appendPodAt(nil, p, rv)); err != nil {
		panic("standin wrote a pod that the generated decoder refuses: " + err.Error())
	}
	o.APIVersion, o.Kind = "v1", "Pod"
	return o
}

func simulatedSpec(names []string) corev1.PodSpec {
	yes, no := true, false
	user, grace, token, mode := int64(65532), int64(30), int64(3607), int32(420)
	limits := corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("128Mi")},
		Limits:   corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi")},
	}
	secured := &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes, RunAsNonRoot: &yes,
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	mounts := []corev1.VolumeMount{
		{Name: "config", MountPath: "/etc/config", ReadOnly: true},
		{Name: "tmp", MountPath: "/tmp"},
		{Name: "kube-api-access-x7k2p", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true},
	}
	probe := func(path string) *corev1.Probe {
		return &corev1.Probe{
			ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path,
				Port: intstr.FromString("http"), Scheme: "HTTP"}},
			PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3,
		}
	}
	spec := corev1.PodSpec{
		RestartPolicy: "Always", DNSPolicy: "ClusterFirst", SchedulerName: "default-scheduler",
		ServiceAccountName: "workload", DeprecatedServiceAccount: "workload",
		TerminationGracePeriodSeconds: &grace, EnableServiceLinks: &yes,
		SecurityContext: &corev1.PodSecurityContext{
			RunAsUser: &user, FSGroup: &user, SeccompProfile: &corev1.SeccompProfile{Type: "RuntimeDefault"},
		},
		Tolerations: []corev1.Toleration{
			{Key: corev1.TaintNodeNotReady, Operator: "Exists", Effect: "NoExecute", TolerationSeconds: new(int64(300))},
			{Key: corev1.TaintNodeUnreachable, Operator: "Exists", Effect: "NoExecute", TolerationSeconds: new(int64(300))},
		},
		InitContainers: []corev1.Container{{
			Name: "migrate", Image: "registry.example.com/platform/migrate:v1.4.2", ImagePullPolicy: "IfNotPresent",
			Command: []string{"/bin/migrate", "--wait", "--timeout=60s"}, VolumeMounts: mounts, Resources: limits,
			TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: "File", SecurityContext: secured,
		}},
		Volumes: []corev1.Volume{
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: "workload-config"}, DefaultMode: &mode}}},
			{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "kube-api-access-x7k2p", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				DefaultMode: &mode,
				Sources: []corev1.VolumeProjection{
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: &token, Path: "token"}},
					{ConfigMap: &corev1.ConfigMapProjection{
						LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
						Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
					{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
						{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}}}}},
				},
			}}},
		},
	}
	for i, name := range names {
		container := corev1.Container{
			Name: name, Image: imageOf(name), ImagePullPolicy: "IfNotPresent",
			Args: []string{"--config=/etc/config/config.yaml", "--log-level=info", "--listen=:8080"},
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080 + int32(i),
				Protocol: "TCP"}},
			TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: "File",
			Resources: limits, SecurityContext: secured, VolumeMounts: mounts,
			LivenessProbe: probe("/healthz"), ReadinessProbe: probe("/readyz"),
		}
		for _, field := range []string{"metadata.name", "metadata.namespace", "spec.nodeName", "status.podIP"} {
			container.Env = append(container.Env, corev1.EnvVar{
				Name: strings.ToUpper(strings.NewReplacer(".", "_").Replace(field)),
				ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1",
					FieldPath: field}},
			})
		}
		container.Env = append(container.Env,
			corev1.EnvVar{Name: "OTEL_EXPORTER_OTLP_ENDPOINT",
				Value: "http://collector.observability.svc.cluster.local:4317"},
			corev1.EnvVar{Name: "DATABASE_HOST", Value: "postgres-primary.databases.svc.cluster.local"},
			corev1.EnvVar{Name: "DATABASE_PASSWORD",
				ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
					LocalObjectReference: corev1.LocalObjectReference{Name: "workload-database"}, Key: "password"}}},
			corev1.EnvVar{Name: "GOMEMLIMIT",
				ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{
					ContainerName: name, Resource: "limits.memory", Divisor: resource.MustParse("0")}}},
		)
		spec.Containers = append(spec.Containers, container)
	}
	return spec
}

func simulatedStatus(names []string) corev1.PodStatus {
	started := metav1.Unix(1_750_000_000, 0)
	status := corev1.PodStatus{QOSClass: "Burstable", StartTime: &started}
	for _, t := range []corev1.PodConditionType{"PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady",
		"PodScheduled"} {
		status.Conditions = append(status.Conditions,
			corev1.PodCondition{Type: t, Status: "True", LastTransitionTime: started})
	}
	state := func(name string) corev1.ContainerStatus {
		digest := fmt.Sprintf("%016x%016x%016x%016x", hashString(name), hashString(name+"1"), hashString(name+"2"),
			hashString(name+"3"))
		ready := true
		return corev1.ContainerStatus{
			Name: name, Image: imageOf(name), ImageID: "registry.example.com/platform/" + name + "@sha256:" + digest,
			ContainerID: "containerd://" + digest, Ready: true, Started: &ready,
		}
	}
	migrated := state("migrate")
	migrated.State.Terminated = &corev1.ContainerStateTerminated{
		Reason: "Completed", StartedAt: started, FinishedAt: started, ContainerID: migrated.ContainerID,
	}
	status.InitContainerStatuses = []corev1.ContainerStatus{migrated}
	for _, name := range names {
		s := state(name)
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: started}
		status.ContainerStatuses = append(status.ContainerStatuses, s)
	}
	return status
}

func imageOf(container string) string {
	return "registry.example.com/platform/" + container + ":v2.17.3"
}

// managedFields are the records of server-side apply that a real pod has: one of the controller that made it,
// one of its kubelet.
func managedFields(names []string) []metav1.ManagedFieldsEntry {
	type fields = map[string]any
	leaf := fields{}
	containers := fields{}
	for _, name := range names {
		key, _ := json.Marshal(fields{"name": name}) // a map of strings always encodes
		containers["k:"+string(key)] = fields{
			".": leaf, "f:name": leaf, "f:image": leaf, "f:imagePullPolicy": leaf, "f:args": leaf,
			"f:env":           fields{".": leaf},
			"f:resources":     fields{".": leaf, "f:limits": fields{".": leaf, "f:cpu": leaf, "f:memory": leaf}},
			"f:livenessProbe": leaf, "f:readinessProbe": leaf, "f:securityContext": leaf,
			"f:volumeMounts":           fields{".": leaf},
			"f:terminationMessagePath": leaf, "f:terminationMessagePolicy": leaf,
		}
	}
	controller := fields{
		"f:metadata": fields{"f:generateName": leaf, "f:ownerReferences": fields{".": leaf},
			"f:labels": fields{".": leaf, "f:app.kubernetes.io/name": leaf, "f:app.kubernetes.io/instance": leaf,
				"f:pod-template-hash": leaf}},
		"f:spec": fields{"f:containers": containers, "f:dnsPolicy": leaf, "f:enableServiceLinks": leaf,
			"f:restartPolicy": leaf,
			"f:schedulerName": leaf, "f:securityContext": leaf, "f:serviceAccount": leaf, "f:serviceAccountName": leaf,
			"f:terminationGracePeriodSeconds": leaf, "f:volumes": fields{".": leaf}},
	}
	kubelet := fields{"f:status": fields{
		"f:conditions": fields{`k:{"type":"ContainersReady"}`: leaf, `k:{"type":"Initialized"}`: leaf,
			`k:{"type":"Ready"}`: leaf},
		"f:hostIP": leaf, "f:hostIPs": leaf, "f:phase": leaf, "f:podIP": leaf, "f:podIPs": fields{".": leaf},
		"f:startTime":         leaf,
		"f:containerStatuses": leaf, "f:initContainerStatuses": leaf,
	}}
	at := metav1.Unix(1_750_000_000, 0)
	entry := func(manager, subresource string, f fields) metav1.ManagedFieldsEntry {
		raw, _ := json.Marshal(f) // maps of maps always encode
		return metav1.ManagedFieldsEntry{
			Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", Time: &at,
			FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(string(raw)), Subresource: subresource,
		}
	}
	return []metav1.ManagedFieldsEntry{entry("kube-controller-manager", "", controller),
		entry("kubelet", "status", kubelet)}
}

// without returns a message less the given top-level fields, which each pod writes itself.
func without(message []byte, fields ...protowire.Number) []byte {
	var out []byte
	for len(message) > 0 {
		num, typ, tag := protowire.ConsumeTag(message)
		n := tag + protowire.ConsumeFieldValue(num, typ, message[max(tag, 0):])
		if tag < 0 || n < tag {
			panic("standin: the generated encoder wrote a message that cannot be read")
		}
		drop := false
		for _, f := range fields {
			drop = drop || f == num
		}
		if !drop {
			out = append(out, message[:n]...)
		}
		message = message[n:]
	}
	return out
}

func mustMarshal(m interface{ Marshal() ([]byte, error) }) []byte {
	b, err := m.Marshal()
	if err != nil {
		panic("standin: the generated encoder failed: " + err.Error())
	}
	return b
}
