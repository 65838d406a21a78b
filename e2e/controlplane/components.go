package controlplane

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"
	"sigs.k8s.io/yaml"
)

// auditPolicy makes the API server record each request of a service account when it arrives, and nobody else's: see
// Requests.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted, ResponseComplete, Panic]
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts"]}
- {level: None}
`

// containerUsage makes KWOK report, for a container, what its pod's annotations say for that container; see Container.
// KWOK's own ClusterResourceUsage knows only one figure for all containers of a pod, with which a mix-up of two
// containers could not be seen.
const containerUsage = `apiVersion: kwok.x-k8s.io/v1alpha1
kind: ClusterResourceUsage
metadata:
  name: usage-per-container
spec:
  usages:
  - usage:
      cpu:
        expression: |
          ("` + cpuAnnotation + `" + container.name) in pod.metadata.annotations
          ? Quantity(pod.metadata.annotations["` + cpuAnnotation + `" + container.name])
          : Quantity("1m")
      memory:
        expression: |
          ("` + memoryAnnotation + `" + container.name) in pod.metadata.annotations
          ? Quantity(pod.metadata.annotations["` + memoryAnnotation + `" + container.name])
          : Quantity("1Mi")
`

// The annotations end with the container's name.
const (
	cpuAnnotation    = "usage.e2e/cpu."
	memoryAnnotation = "usage.e2e/memory."
)

// kubeletMetrics defines the kubelets' /metrics/resource.
const kubeletMetrics = "metrics/resource/metrics-resource.yaml"

// kwokDocuments are the documents of KWOK's own module that make nodes ready, pods run and deleted pods go, and that
// define what the kubelets report.
var kwokDocuments = []string{
	"stage/node/fast/node-initialize.yaml",
	"stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
	"stage/pod/fast/pod-ready.yaml",
	"stage/pod/fast/pod-complete.yaml",
	"stage/pod/fast/pod-delete.yaml",
	kubeletMetrics,
}

// writeConfiguration writes the files that the components read at their start.
func (c *ControlPlane) writeConfiguration() error {
	source, err := sourceDir("kwok")
	if err != nil {
		return err
	}
	var kwok bytes.Buffer
	for _, name := range kwokDocuments {
		text, err := os.ReadFile(filepath.Join(source, "kustomize", name))
		if err != nil {
			return err
		}
		if name == kubeletMetrics {
			if text, err = withoutPodSums(text); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		kwok.Write(text)
		kwok.WriteString("\n---\n")
	}
	kwok.WriteString(containerUsage)
	if err := os.WriteFile(c.path("kwok.yaml"), kwok.Bytes(), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(c.path("audit-policy.yaml"), []byte(auditPolicy), 0o600); err != nil {
		return err
	}
	return c.writeKubeconfig(c.AdminKubeconfig(),
		Credentials{CertificateFile: c.path("admin.crt"), KeyFile: c.path("admin.key")})
}

// withoutPodSums takes out of a Metric what metrics-server does not read, the sums over a pod's containers. They cost
// KWOK nearly as much as the containers themselves.
func withoutPodSums(document []byte) ([]byte, error) {
	var metric struct {
		Kind       string         `json:"kind"`
		APIVersion string         `json:"apiVersion"`
		Metadata   map[string]any `json:"metadata"`
		Spec       struct {
			Path    string           `json:"path"`
			Metrics []map[string]any `json:"metrics"`
		} `json:"spec"`
	}
	if err := yaml.UnmarshalStrict(document, &metric); err != nil {
		return nil, err
	}
	metric.Spec.Metrics = slices.DeleteFunc(metric.Spec.Metrics,
		func(m map[string]any) bool { return m["dimension"] == "pod" })
	return yaml.Marshal(metric)
}

// AdminKubeconfig is the path of a kubeconfig for system:masters.
func (c *ControlPlane) AdminKubeconfig() string { return c.path("admin.kubeconfig") }

// connect makes the admin's clients; the API server need not be there yet.
func (c *ControlPlane) connect() error {
	c.config = &rest.Config{
		Host: c.URL(),
		TLSClientConfig: rest.TLSClientConfig{
			CAFile: c.path("ca.crt"), CertFile: c.path("admin.crt"), KeyFile: c.path("admin.key"),
		},
		ContentConfig: rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf",
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"},
		QPS: -1, // no client-side rate limit: pods are created by the thousand
	}
	var err error
	if c.Admin, err = kubernetes.NewForConfig(c.config); err != nil {
		return err
	}
	c.Metrics, err = metricsclient.NewForConfig(c.config)
	return err
}

func (c *ControlPlane) defineComponents() {
	etcd := fmt.Sprintf("http://127.0.0.1:%d", c.ports.etcd)
	etcdPeer := fmt.Sprintf("http://127.0.0.1:%d", c.ports.etcdPeer)
	c.Etcd = &Component{Name: "etcd", plane: c, args: []string{
		"--data-dir=" + c.path("etcd"),
		"--listen-client-urls=" + etcd, "--advertise-client-urls=" + etcd,
		"--listen-peer-urls=" + etcdPeer, "--initial-advertise-peer-urls=" + etcdPeer,
		"--initial-cluster=default=" + etcdPeer,
		"--unsafe-no-fsync",
		"--quota-backend-bytes=4294967296",
		"--log-level=warn",
	}, ready: func(ctx context.Context) error {
		_, err := get(ctx, http.DefaultClient, etcd+"/readyz")
		return err
	}}

	c.APIServer = &Component{Name: "kube-apiserver", plane: c, args: []string{
		"--etcd-servers=" + etcd,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", c.ports.apiServer),
		"--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=10.96.0.0/16",
		"--tls-cert-file=" + c.path("apiserver.crt"), "--tls-private-key-file=" + c.path("apiserver.key"),
		"--client-ca-file=" + c.path("ca.crt"),
		"--authorization-mode=RBAC",
		// Nothing here makes default service accounts for pods.
		"--disable-admission-plugins=ServiceAccount,Priority",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.path("service-account.crt"),
		"--service-account-signing-key-file=" + c.path("service-account.key"),
		"--requestheader-client-ca-file=" + c.path("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + c.path("front-proxy.crt"), "--proxy-client-key-file=" + c.path("front-proxy.key"),
		"--audit-policy-file=" + c.path("audit-policy.yaml"), "--audit-log-path=" + c.path("audit.log"),
	}, ready: func(ctx context.Context) error {
		return c.Admin.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}}

	c.KWOK = &Component{Name: "kwok", plane: c, args: []string{
		"--kubeconfig=" + c.AdminKubeconfig(),
		"--config=" + c.path("kwok.yaml"),
		"--manage-all-nodes",
		"--cidr=10.0.0.1/14",
		"--node-ip=127.0.0.1", fmt.Sprintf("--node-port=%d", c.ports.kwok),
		fmt.Sprintf("--server-address=127.0.0.1:%d", c.ports.kwok),
		"--tls-cert-file=" + c.path("kubelet.crt"), "--tls-private-key-file=" + c.path("kubelet.key"),
	}, ready: func(ctx context.Context) error {
		_, err := get(ctx, c.loopbackClient(), c.kubeletURL("/healthz"))
		return err
	}}

	c.MetricsServer = &Component{Name: "metrics-server", plane: c, args: []string{
		"--kubeconfig=" + c.AdminKubeconfig(),
		"--authentication-kubeconfig=" + c.AdminKubeconfig(),
		"--authorization-kubeconfig=" + c.AdminKubeconfig(),
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", c.ports.metricsServer),
		"--tls-cert-file=" + c.path("metrics-server.crt"), "--tls-private-key-file=" + c.path("metrics-server.key"),
		"--kubelet-insecure-tls", "--kubelet-use-node-status-port", "--kubelet-preferred-address-types=InternalIP",
		"--metric-resolution=" + c.options.MetricResolution.String(),
		// As long as allowed: KWOK's one process answers for all nodes.
		"--kubelet-request-timeout=" + (c.options.MetricResolution * 9 / 10).String(),
	}, ready: c.metricsAPIAvailable}
}

func (c *ControlPlane) kubeletURL(path string) string {
	return fmt.Sprintf("https://127.0.0.1:%d%s", c.ports.kwok, path)
}

// loopbackClient trusts the control plane's own authority and shows no certificate.
func (c *ControlPlane) loopbackClient() *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(c.ca.certificate)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots},
		DisableKeepAlives: true}}
}

// get is the body of a URL that answers 200; all else is an error.
func get(ctx context.Context, client *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		return "", errors.Join(err, fmt.Errorf("%s: %s %s", url, response.Status, body))
	}
	return string(body), err
}
