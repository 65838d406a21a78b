package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"
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

// podReady is the document that makes pods run.
const podReady = "stage/pod/fast/pod-ready.yaml"

// kwokDocuments are the documents of KWOK's own module that make nodes ready, pods run and deleted pods go.
var kwokDocuments = []string{
	"stage/node/fast/node-initialize.yaml",
	"stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
	podReady,
	"stage/pod/fast/pod-delete.yaml",
}

// containerIDs adds to a container's status in podReady what KWOK leaves out. Only a container with an ID has usage.
const containerIDs = `
        imageID: {{ printf "%s@sha256:0123" .image | Quote }}
        containerID: {{ printf "containerd://%s-%s" $.metadata.uid .name | Quote }}`

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
		if name == podReady {
			image := []byte("- image: {{ .image | Quote }}")
			if bytes.Count(text, image) != 2 { // of containers and of init containers
				return fmt.Errorf("%s: not the document that is expected:\n%s", name, text)
			}
			text = bytes.ReplaceAll(text, image, append(image, containerIDs...))
		}
		kwok.Write(text)
		kwok.WriteString("\n---\n")
	}
	if err := os.WriteFile(c.path("kwok.yaml"), kwok.Bytes(), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(c.path("audit-policy.yaml"), []byte(auditPolicy), 0o600); err != nil {
		return err
	}
	return c.writeKubeconfig(c.AdminKubeconfig(),
		Credentials{CertificateFile: c.path("admin.crt"), KeyFile: c.path("admin.key")})
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
	c.Etcd = &Component{Name: "etcd", program: "etcd", plane: c, args: []string{
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

	c.APIServer = &Component{Name: "kube-apiserver", program: "kube-apiserver", plane: c, args: []string{
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

	c.KWOK = &Component{Name: "kwok", program: "kwok", plane: c, args: []string{
		"--kubeconfig=" + c.AdminKubeconfig(),
		"--config=" + c.path("kwok.yaml"),
		"--manage-all-nodes",
		"--cidr=10.0.0.1/14",
		"--node-ip=127.0.0.1", fmt.Sprintf("--node-port=%d", c.ports.kubelet), // that of Kubelet
		fmt.Sprintf("--server-address=127.0.0.1:%d", c.ports.kwok),
	}, ready: func(ctx context.Context) error {
		_, err := get(ctx, http.DefaultClient, fmt.Sprintf("http://127.0.0.1:%d/healthz", c.ports.kwok))
		return err
	}}

	c.MetricsServer = c.metricsServer("metrics-server", c.ports.metricsServer)
	c.MetricsServer.ready = c.metricsAPIAvailable
	for i, port := range c.ports.replicas {
		c.Replicas = append(c.Replicas, c.metricsServer(fmt.Sprintf("metrics-server-%d", i+1), port))
	}
}

func (c *ControlPlane) metricsServer(name string, port int) *Component {
	return &Component{Name: name, program: "metrics-server", plane: c, args: []string{
		"--kubeconfig=" + c.AdminKubeconfig(),
		"--authentication-kubeconfig=" + c.AdminKubeconfig(),
		"--authorization-kubeconfig=" + c.AdminKubeconfig(),
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port),
		"--tls-cert-file=" + c.path("metrics-server.crt"), "--tls-private-key-file=" + c.path("metrics-server.key"),
		"--kubelet-insecure-tls", "--kubelet-use-node-status-port", "--kubelet-preferred-address-types=InternalIP",
		"--metric-resolution=" + c.options.MetricResolution.String(),
		// As long as allowed: one process answers for all nodes.
		"--kubelet-request-timeout=" + (c.options.MetricResolution * 9 / 10).String(),
	}, ready: func(ctx context.Context) error {
		_, err := c.serverMetrics(ctx, fmt.Sprintf("https://127.0.0.1:%d", port))
		return err
	}}
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
