package faults

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
)

const (
	// resolution is metrics-server's, as short as it allows.
	resolution = 10 * time.Second
	// told is how soon a real fault is reported: the exporter reads as often as metrics-server.
	told = resolution + 6*time.Second
)

// RealFaults are the faults of a real control plane. They run one after the other.
var RealFaults = []Fault{
	{Name: "API server killed and stopped for a while", Cause: component(apiServer),
		Short: 15 * time.Second, Long: 3 * time.Minute,
		While: Expect{Within: told, Says: "connection refused", Down: "pods nodes", Page: keepsReal}},
	{Name: "API server killed 10 times at random moments", Cause: killedTenTimes,
		Short: time.Second, While: Expect{Within: told, Says: "connection refused", Down: "pods nodes", Flickers: true,
			Again: 10}},
	{Name: "etcd compacted while the watch is down: 410 Gone", Cause: compactedEtcd,
		Short: time.Second, While: Expect{Within: told, Says: "403 ", Flickers: true, Again: 6}},
	{Name: "metrics-server gone and back", Cause: component(metricsServer),
		Short: 15 * time.Second, Long: 2 * time.Minute,
		While: Expect{Within: told, Says: "metrics-server is not running", Down: "pods nodes", Page: keepsReal}},
	{Name: "rights to the pods' usage taken away and given back", Cause: withoutRight("pods"),
		Short: 10 * time.Second, Long: 2 * time.Minute,
		While: Expect{Within: told, Says: "403 ", Down: "pods", Page: keepsReal}},
	{Name: "rights to the nodes' usage taken away and given back", Cause: withoutRight("nodes"),
		Short: 20 * time.Second, Long: 2 * time.Minute, While: Expect{Within: told, Down: "nodes", Page: keepsReal,
			Begins: "no metrics of nodes are served", Ends: "nodes works again"}},
	{Name: "token expired and replaced on disk", Cause: tokenExpired,
		Short: 10 * time.Second, Long: 2 * time.Minute,
		While: Expect{Within: told, Says: "401 ", Down: "pods nodes", Page: keepsReal}},
	{Name: "kubeconfig replaced by one for another cluster", Cause: anotherCluster,
		Short: 15 * time.Second, While: Expect{Within: told, MayRefuse: true, Page: oneCluster}},
}

// CertificateFaults are the faults of a real control plane where the exporter has a client certificate, once each.
var CertificateFaults = []Fault{
	{Name: "client certificate expired and replaced on disk", Cause: certificateExpired,
		Short: 10 * time.Second, Long: 2 * time.Minute,
		While: Expect{Within: told, Says: "401 ", Down: "pods nodes", Page: keepsReal}},
}

// account is who the exporter is in a real cluster.
const accountNamespace, account = "metrics-server-prom", "metrics-server-prom"

// Real starts a harness with a real control plane, where the exporter has a token, and returns when the exporter's
// pages are complete and right.
func Real(ctx context.Context, plane *controlplane.ControlPlane, o Options) (*Harness, error) {
	return realHarness(ctx, plane, o, func(h *Harness) (controlplane.Credentials, error) {
		h.token = filepath.Join(h.dir, "token")
		return controlplane.Credentials{TokenFile: h.token}, h.writeToken(ctx)
	})
}

// RealCertificate does so where the exporter has a certificate that is valid for a minute.
func RealCertificate(ctx context.Context, plane *controlplane.ControlPlane, o Options) (*Harness, error) {
	return realHarness(ctx, plane, o, func(h *Harness) (controlplane.Credentials, error) {
		h.pair = filepath.Join(h.dir, "pair")
		return pairIn(h.pair), h.writePair(time.Minute)
	})
}

func realHarness(ctx context.Context, plane *controlplane.ControlPlane, o Options,
	credentials func(*Harness) (controlplane.Credentials, error)) (*Harness, error) {
	o.setDefaults()
	h := &Harness{Plane: plane, slow: resolution}
	looked, err := lookAt(plane)
	if err != nil {
		return nil, err
	}
	h.look = func(ctx context.Context) (*check.Reading, error) {
		reading := looked(ctx)
		if h.other == nil {
			return reading, nil
		}
		// Until the exporter has seen the change it goes on with the one, then with the other: oneCluster tells them
		// apart.
		both, second := *reading, simulated(h.other)
		both.Nodes, both.Pods = slices.Concat(reading.Nodes, second.Nodes), slices.Concat(reading.Pods, second.Pods)
		both.Metadata = maps.Clone(reading.Metadata)
		maps.Copy(both.Metadata, second.Metadata)
		return &both, nil
	}
	h.dir, err = os.MkdirTemp("", "metrics-server-prom-e2e-faults-")
	if err != nil {
		return nil, err
	}
	mine, err := credentials(h)
	if err != nil {
		return nil, err
	}
	path, err := plane.Kubeconfig(mine)
	if err != nil {
		return nil, err
	}
	kubeconfig, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return h, h.start(ctx, o, kubeconfig)
}

// lookAt returns what reads a real cluster. While a part of the cluster is down, nothing of it changes.
func lookAt(plane *controlplane.ControlPlane) (func(context.Context) *check.Reading, error) {
	direct, err := plane.MetricsServerClient()
	last := &check.Reading{}
	return func(ctx context.Context) *check.Reading {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		reading := *last
		if nodes, err := direct.MetricsV1beta1().NodeMetricses().List(ctx, metav1.ListOptions{}); err == nil {
			reading.Nodes = nodes.Items
		}
		if pods, err := direct.MetricsV1beta1().PodMetricses("").List(ctx, metav1.ListOptions{}); err == nil {
			reading.Pods = pods.Items
		}
		if pods, err := plane.Pods(ctx); err == nil {
			reading.Metadata = make(map[string]*corev1.Pod, len(pods))
			for i := range pods {
				reading.Metadata[pods[i].Namespace+"/"+pods[i].Name] = &pods[i]
			}
		}
		last = &reading
		return last
	}, err
}

// writeToken puts a new token on disk, as a kubelet does: in one step.
func (h *Harness) writeToken(ctx context.Context) error {
	token, err := h.Plane.Token(ctx, accountNamespace, account)
	if err != nil {
		return err
	}
	return replace(h.token, []byte(token))
}

func pairIn(dir string) controlplane.Credentials {
	return controlplane.Credentials{CertificateFile: filepath.Join(dir, "client.crt"),
		KeyFile: filepath.Join(dir, "client.key")}
}

// writePair puts a new certificate and key on disk, as a kubelet mounts a Secret: by one link that changes.
func (h *Harness) writePair(valid time.Duration) error {
	dir, err := os.MkdirTemp(h.dir, "pair-")
	if err != nil {
		return err
	}
	h.ends = time.Now().Add(valid)
	if err := h.Plane.WriteClientCertificate(pairIn(dir), h.ends,
		"system:serviceaccount:"+accountNamespace+":"+account); err != nil {
		return err
	}
	if err := os.Symlink(dir, h.pair+".new"); err != nil {
		return err
	}
	return os.Rename(h.pair+".new", h.pair)
}

func replace(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Populated starts a control plane with some nodes and pods, and the namespace and the rights of the project's
// manifests, which are the folder deploy/kubernetes.
func Populated(ctx context.Context, manifests string) (*controlplane.ControlPlane, error) {
	plane, err := controlplane.Start(ctx, controlplane.Options{MetricResolution: resolution})
	if err != nil {
		return nil, err
	}
	if err := populate(ctx, plane, manifests); err != nil {
		plane.Stop()
		return nil, err
	}
	return plane, nil
}

func populate(ctx context.Context, plane *controlplane.ControlPlane, manifests string) error {
	component := filepath.Join(manifests, "components", "namespace")
	if _, err := plane.ApplyManifests(ctx, component, manifests); err != nil {
		return err
	}
	if err := plane.CreateNodes(ctx, 2); err != nil {
		return err
	}
	if err := plane.CreateNamespaces(ctx, "", "shop"); err != nil {
		return err
	}
	var pods []controlplane.Pod
	for i := range 12 {
		pods = append(pods, controlplane.Pod{Namespace: "shop", Name: fmt.Sprint("web-", i),
			Node: fmt.Sprint("node-", i%2), Containers: []controlplane.Container{
				{Name: "app", CPU: fmt.Sprintf("%dm", 10+i), Memory: fmt.Sprintf("%dMi", 20+i)},
				{Name: "proxy", CPU: fmt.Sprintf("%dm", 50+i), Memory: fmt.Sprintf("%dMi", 90+i)}}})
	}
	if err := plane.CreatePods(ctx, pods...); err != nil {
		return err
	}
	return plane.AwaitUsage(ctx)
}

// keepsReal checks that nothing is lost of what was there when the cluster was populated.
func keepsReal(h *Harness, page *exporter.Page) error {
	n := 0
	for series := range check.Served(page) {
		if !strings.Contains(series, `namespace="`+churned+`"`) {
			n++
		}
	}
	if n != 12*2*2+2*2 {
		return fmt.Errorf("the page has %d samples, not 52", n)
	}
	return nil
}

// component kills a part of the control plane.
func component(which func(*controlplane.ControlPlane) *controlplane.Component) cause {
	return func(_ context.Context, h *Harness) (func(context.Context) error, error) {
		c := which(h.Plane)
		c.Kill()
		return c.Start, nil
	}
}

func apiServer(p *controlplane.ControlPlane) *controlplane.Component     { return p.APIServer }
func metricsServer(p *controlplane.ControlPlane) *controlplane.Component { return p.MetricsServer }

// killedTenTimes kills the API server until the exporter has reported it, and then nine times more while it starts or
// has just started.
func killedTenTimes(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	h.Plane.APIServer.Kill()
	return func(ctx context.Context) error {
		for range 9 {
			wait, cancel := context.WithTimeout(ctx, time.Duration(rand.Int64N(int64(8*time.Second))))
			_ = h.Plane.APIServer.Start(wait) // it may be killed before it is ready
			<-wait.Done()
			cancel()
			h.Plane.APIServer.Kill()
		}
		return h.Plane.APIServer.Start(ctx)
	}, nil
}

// setRules gives the exporter's role these rules and returns the old ones.
func (h *Harness) setRules(ctx context.Context,
	change func([]rbacv1.PolicyRule) []rbacv1.PolicyRule) (func(context.Context) error, error) {
	roles := h.Plane.Admin.RbacV1().ClusterRoles()
	role, err := roles.Get(ctx, "metrics-server-prom", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	whole := role.DeepCopy().Rules
	role.Rules = change(role.Rules)
	_, err = roles.Update(ctx, role, metav1.UpdateOptions{})
	return func(ctx context.Context) error {
		role, err := roles.Get(ctx, "metrics-server-prom", metav1.GetOptions{})
		if err != nil {
			return err
		}
		role.Rules = whole
		_, err = roles.Update(ctx, role, metav1.UpdateOptions{})
		return err
	}, err
}

// withoutRight takes away the right to the usage of a resource.
func withoutRight(resource string) cause {
	return func(ctx context.Context, h *Harness) (func(context.Context) error, error) {
		return h.setRules(ctx, func(rules []rbacv1.PolicyRule) (left []rbacv1.PolicyRule) {
			for _, rule := range rules {
				if rule.APIGroups[0] != metricsv1beta1.GroupName || rule.Resources[0] != resource {
					left = append(left, rule)
				}
			}
			return left
		})
	}
}

// compactedEtcd takes the right to watch away, ends the watch with the API server, moves a pod, compacts etcd, and
// starts the API server again, whose history begins after what the exporter has seen.
func compactedEtcd(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	mend, err := h.setRules(ctx, func(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
		for i := range rules {
			if rules[i].APIGroups[0] == "" {
				rules[i].Verbs = []string{"list"}
			}
		}
		return rules
	})
	if err != nil {
		return nil, err
	}
	restart := func() error {
		h.Plane.APIServer.Kill()
		return h.Plane.APIServer.Start(ctx)
	}
	if err := restart(); err != nil {
		return nil, err
	}
	if err := h.Plane.DeletePod(ctx, "shop", "web-11"); err != nil {
		return nil, err
	}
	if err := h.Plane.CreatePods(ctx, controlplane.Pod{Namespace: "shop", Name: "web-11", Node: "node-0",
		Containers: []controlplane.Container{
			{Name: "app", CPU: "77m", Memory: "77Mi"}, {Name: "proxy", CPU: "78m", Memory: "78Mi"}}}); err != nil {
		return nil, err
	}
	return mend, errors.Join(h.Plane.Compact(ctx), restart())
}

// tokenExpired makes the present token worthless, as after its expiry, and writes a new one to disk.
func tokenExpired(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	return h.writeToken, h.Plane.Admin.CoreV1().ServiceAccounts(accountNamespace).Delete(ctx, account,
		metav1.DeleteOptions{})
}

// certificateExpired waits for the end of the certificate that the exporter began with, and writes a new one to disk.
func certificateExpired(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	select {
	case <-time.After(time.Until(h.ends)):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return func(context.Context) error { return h.writePair(time.Hour) }, nil
}

// anotherCluster replaces the kubeconfig, and puts it back.
func anotherCluster(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	old, err := os.ReadFile(h.config)
	if err != nil {
		return nil, err
	}
	server, err := standin.New(standin.Options{Nodes: 4, Pods: 30, Resolution: interval, Seed: 99,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	text, err := server.Kubeconfig()
	if err != nil {
		return nil, err
	}
	use := func(cluster *standin.Server, kubeconfig []byte) error {
		h.looking.Lock()
		h.other = cluster
		h.looking.Unlock()
		if err := h.Look(ctx); err != nil {
			return err
		}
		return replace(h.config, kubeconfig)
	}
	h.closers = append(h.closers, server.Close) // the exporter goes on with it until it has seen the change
	return func(context.Context) error {
		server.SetBehavior(standin.Behavior{FreezeMetrics: true}) // nobody looks at what comes from here on
		return errors.Join(h.Look(ctx), use(nil, old))
	}, use(server, text)
}

// oneCluster checks that a page has nodes of one cluster only, in the end those of the other.
func oneCluster(h *Harness, page *exporter.Page) error {
	nodes := page.Family(check.NodeCPU)
	others := 0
	for _, name := range h.other.Nodes() {
		if _, ok := nodes[check.NodeCPU+`{node="`+name+`"}`]; ok {
			others++
		}
	}
	if others > 0 && others < len(nodes) {
		h.checker.mu.Lock()
		defer h.checker.mu.Unlock()
		h.checker.blame(time.Now(), "a page has nodes of two clusters")
	}
	if others != len(h.other.Nodes()) {
		return fmt.Errorf("the page has %d nodes of the other cluster", others)
	}
	return nil
}
