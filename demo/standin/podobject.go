package standin

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

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
	images     []string
	sidecars   bool // the containers after the first are init containers that go on running
	onHost     bool // the pods are in the network of their node and of the highest priority, as a node's agents are

	meta      []byte   // annotations and managedFields
	managed   []byte   // the latter alone
	spec      []byte   // without nodeName, containers and what follows from onHost
	migrate   []byte   // the init container that has ended, without its resources
	container [][]byte // each container of the spec, without its image and resources
	status    []byte   // without what each pod writes itself
}

// statusWritten are the fields of a ContainerStatus that appendContainerStatus writes.
var statusWritten = []protowire.Number{1, 2, 3, 4, 5, 6, 7, 8, 9}

func newShape(containers []string, sidecars, onHost bool) *shape {
	s := &shape{containers: containers, sidecars: sidecars, onHost: onHost}
	s.meta = appendMapEntry(nil, metaAnnotations, "checksum/config",
		"8f14e45fceea167a5a36dedd4bea2543c4f1d0d2b9c7e1b2a9d3c4f5a6b7c8d9")
	s.meta = appendMapEntry(s.meta, metaAnnotations, "kubernetes.io/config.source", "api")
	s.meta = appendMapEntry(s.meta, metaAnnotations, "prometheus.io/scrape", "true")
	for _, m := range managedFields(containers) {
		s.managed = appendBytes(s.managed, metaManagedFields, mustMarshal(&m))
	}
	s.meta = append(s.meta, s.managed...)
	spec := simulatedSpec(containers)
	for i, c := range spec.Containers {
		s.images = append(s.images, c.Image)
		if sidecars && i > 0 {
			c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		}
		s.container = append(s.container, without(mustMarshal(&c), containerImage, containerResourcesField))
	}
	s.migrate = without(mustMarshal(&spec.InitContainers[0]), containerResourcesField)
	spec.InitContainers, spec.Containers, spec.HostNetwork = nil, nil, onHost
	if onHost {
		spec.PriorityClassName = "system-node-critical"
	}
	s.spec = without(mustMarshal(&spec), specNodeName)
	s.status = without(mustMarshal(&corev1.PodStatus{}), statusPhase, statusHostIP, statusPodIP, statusQOSClass)
	return s
}

// number is the field that container i is in: that of containers or of init containers.
func (s *shape) number(i int, of, init protowire.Number) protowire.Number {
	if s.sidecars && i > 0 {
		return init
	}
	return of
}

func (p *pod) appendMeta(c *Cluster, b []byte) []byte {
	if w := p.workload; w.owner != "" {
		b = c.appendOwner(b, w.kind, w.owner, w.serial)
	}
	return append(b, p.workload.shape.meta...)
}

func (p *pod) appendBody(c *Cluster, b []byte) []byte {
	b, start := open(b, objectSpec)
	b = p.appendSpec(b)
	b = seal(b, start)
	b, start = open(b, objectStatus)
	b = p.appendStatus(c, b)
	return seal(b, start)
}

func (p *pod) appendSpec(b []byte) []byte {
	w, s := p.workload, p.workload.shape
	b = append(b, s.spec...)
	b = appendString(b, specNodeName, p.node)
	b, start := open(b, specInitContainers)
	b = append(b, s.migrate...)
	b = seal(appendResources(b, w.resourcesOf(1)), start)
	for i := range s.containers {
		b, start = open(b, s.number(i, specContainers, specInitContainers))
		b = append(b, s.container[i]...)
		b = appendString(b, containerImage, w.imageOf(i))
		b = seal(appendResources(b, w.resourcesOf(i)), start)
	}
	return b
}

// noResources are the requests and limits of a container that has none.
var noResources = newContainerResources("")

func appendResources(b []byte, r *containerResources) []byte {
	if r == nil {
		r = &noResources
	}
	return appendBytes(b, containerResourcesField, r.spec)
}

func (p *pod) appendStatus(c *Cluster, b []byte) []byte {
	w, s := p.workload, p.workload.shape
	b = append(b, s.status...)
	b = appendString(b, statusPhase, string(p.phase))
	qos := corev1.PodQOSBestEffort
	if w.resources != nil {
		qos = w.resources.qos
	}
	b = appendString(b, statusQOSClass, string(qos))

	scheduled, ready := p.node != "", p.ready()
	why := ""
	switch {
	case !scheduled:
		why = "Unschedulable"
	case p.phase == corev1.PodSucceeded:
		why = "PodCompleted"
	case !ready:
		why = "ContainersNotReady"
	}
	b = appendCondition(b, "PodScheduled", scheduled, why, p.created)
	if scheduled {
		b = appendCondition(b, "PodReadyToStartContainers", p.phase != corev1.PodPending, "", p.created)
		b = appendCondition(b, "Initialized", p.phase != corev1.PodPending, "", p.created)
		b = appendCondition(b, "ContainersReady", ready, why, p.created)
		b = appendCondition(b, "Ready", ready, why, p.created)
		b = appendTime(b, statusStartTime, p.created)
		var start int
		b, start = open(b, statusInitContainerStatuses)
		b = seal(p.appendContainerStatus(c, b, -1), start)
		for i := range s.containers {
			b, start = open(b, s.number(i, statusContainerStatuses, statusInitContainerStatuses))
			b = seal(p.appendContainerStatus(c, b, i), start)
		}
	}

	var host []byte
	var hostBuffer, ipBuffer [16]byte
	if p.node != "" {
		host = appendHostIP(hostBuffer[:0], p.node)
	}
	ip := append(ipBuffer[:0], p.ip...)
	b = appendBytes(b, statusHostIP, host)
	b = appendBytes(b, statusPodIP, ip)
	if p.ip != "" {
		b = appendIP(b, statusPodIPs, ip)
		b = appendIP(b, statusHostIPs, host)
	}
	return b
}

// ready says whether all containers are.
func (p *pod) ready() bool {
	return p.phase == corev1.PodRunning && !slices.ContainsFunc(p.states, func(s ContainerState) bool {
		return s.NotReady || s.Waiting != ""
	})
}

// appendCondition appends a PodCondition as the generated encoder does.
func appendCondition(b []byte, kind string, holds bool, why string, since int64) []byte {
	b, start := open(b, statusConditions)
	b = appendString(b, 1, kind)
	status := "False"
	if holds {
		status, why = "True", ""
	}
	b = appendString(b, 2, status)
	b = appendTime(b, 3, 0) // lastProbeTime
	b = appendTime(b, 4, since)
	b = appendString(b, 5, why)
	b = appendString(b, 6, "")
	return seal(appendNumber(b, 7, 0), start) // observedGeneration
}

// appendContainerStatus appends the status of container i, or for -1 of the init container that has ended.
func (p *pod) appendContainerStatus(c *Cluster, b []byte, i int) []byte {
	w := p.workload
	name, image, r := "migrate", migrateImage, w.resourcesOf(1)
	state := ContainerState{Started: p.created}
	ended, waiting := "Completed", ""
	if i >= 0 {
		name, image, r, state = w.shape.containers[i], w.imageOf(i), w.resourcesOf(i), p.state(i)
		ended, waiting = "", state.Waiting
		if p.phase == corev1.PodSucceeded {
			ended = "Completed"
		}
	}
	if p.phase == corev1.PodPending {
		ended, waiting = "", "PodInitializing"
	}
	running := waiting == "" && ended == ""

	b = appendString(b, 1, name)
	b, start := open(b, 2) // state
	switch {
	case waiting != "":
		var inner int
		b, inner = open(b, 1)
		b = appendString(b, 1, waiting)
		b = seal(appendString(b, 2, ""), inner)
	case ended != "":
		b = p.appendTerminated(c, b, i, state, ended)
	default:
		var inner int
		b, inner = open(b, 2)
		b = seal(appendTime(b, 1, state.Started), inner)
	}
	b = seal(b, start)
	b, start = open(b, 3) // lastState
	if state.Ended != "" {
		before := state
		before.Restarts--
		before.Started = p.created
		b = p.appendTerminated(c, b, i, before, state.Ended)
	}
	b = seal(b, start)
	b = appendBool(b, 4, (i < 0 || running) && !state.NotReady && p.phase != corev1.PodPending)
	b = appendNumber(b, 5, uint64(state.Restarts))
	b = appendString(b, 6, image)
	at := strings.LastIndexByte(image, ':')
	digest := hashString(image)
	b, start = open(b, 7) // imageID
	if p.phase != corev1.PodPending {
		b = append(append(b, image[:at]...), "@sha256:"...)
		b = appendHex(b, digest)
	}
	b = seal(b, start)
	b, start = open(b, 8) // containerID
	if p.phase != corev1.PodPending {
		b = p.appendContainerID(c, b, i, state.Restarts)
	}
	b = seal(b, start)
	b = appendBool(b, 9, running) // started
	if r == nil {
		r = &noResources
	}
	return append(b, r.status...)
}

// appendTerminated appends how a container has ended.
func (p *pod) appendTerminated(c *Cluster, b []byte, i int, s ContainerState, reason string) []byte {
	b, start := open(b, 3)
	code := uint64(1)
	switch reason {
	case "Completed":
		code = 0
	case "OOMKilled":
		code = 137
	}
	b = appendNumber(b, 1, code)
	b = appendNumber(b, 2, 0)
	b = appendString(b, 3, reason)
	b = appendString(b, 4, "")
	b = appendTime(b, 5, s.Started)
	b = appendTime(b, 6, s.Started+60)
	b, id := open(b, 7)
	b = seal(p.appendContainerID(c, b, i, s.Restarts), id)
	return seal(b, start)
}

// appendContainerID appends the ID that the container runtime gave the container when it started it after so many
// restarts.
func (p *pod) appendContainerID(c *Cluster, b []byte, i, restarts int) []byte {
	return appendHex(append(b, "containerd://"...), mix(c.seed^p.serial<<16^uint64(i+1)<<8)+uint64(restarts))
}

// appendHex appends 64 hexadecimal digits.
func appendHex(b []byte, hash uint64) []byte {
	var raw [32]byte
	for i := range 4 {
		hash = mix(hash)
		binary.BigEndian.PutUint64(raw[8*i:], hash)
	}
	return hex.AppendEncode(b, raw[:])
}

// appendHostIP appends the address of a node.
func appendHostIP(b []byte, node string) []byte {
	h := hashString(node)
	return netip.AddrFrom4([4]byte{172, 16, byte(h >> 8), byte(h)}).AppendTo(b)
}

func appendIP(b []byte, num protowire.Number, ip []byte) []byte {
	b, start := open(b, num)
	return seal(appendBytes(b, podIPsIP, ip), start)
}

// appendOwner appends an ownerReference to a controller (field numbers of OwnerReference).
func (c *Cluster) appendOwner(b []byte, kind, name string, serial uint64) []byte {
	b, start := open(b, metaOwnerReferences)
	b = appendString(b, 1, kind)
	b = appendString(b, 3, name)
	var uid [36]byte
	b = appendBytes(b, 4, appendUID(uid[:0], c.seed, serial))
	b = appendString(b, 5, apiVersions[kind])
	b = appendBool(b, 6, true) // controller
	b = appendBool(b, 7, true) // blockOwnerDeletion
	return seal(b, start)
}

func simulatedSpec(names []string) corev1.PodSpec {
	yes, no := true, false
	user, grace, token, mode := int64(65532), int64(30), int64(3607), int32(420)
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
			Name: "migrate", Image: imageOf("migrate"), ImagePullPolicy: "IfNotPresent",
			Command: []string{"/bin/migrate", "--wait", "--timeout=60s"}, VolumeMounts: mounts,
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
			SecurityContext: secured, VolumeMounts: mounts,
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

var migrateImage = imageOf("migrate")

// imageOf is the image of a container that is the same in all workloads.
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
