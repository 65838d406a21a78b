package controlplane

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Credentials is how a kubeconfig's user proves who it is: a token, a file with a token, or a client certificate.
type Credentials struct {
	Token, TokenFile         string
	CertificateFile, KeyFile string
}

// Token is a real token of a service account, by TokenRequest; the account is created if it is not there.
func (c *ControlPlane) Token(ctx context.Context, namespace, account string) (string, error) {
	if err := c.CreateNamespaces(ctx, "", namespace); err != nil {
		return "", err
	}
	accounts := c.Admin.CoreV1().ServiceAccounts(namespace)
	_, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}},
		metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return "", err
	}
	expiry := int64(24 * 3600)
	request, err := accounts.CreateToken(ctx, account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &expiry},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return request.Status.Token, nil
}

// ClientCertificate is a client certificate of the control plane's authority for a user and its groups, as two files.
func (c *ControlPlane) ClientCertificate(user string, groups ...string) (Credentials, error) {
	credentials := Credentials{CertificateFile: c.newFile("client.crt"), KeyFile: c.newFile("client.key")}
	return credentials, c.WriteClientCertificate(credentials, time.Now().Add(24*time.Hour), user, groups...)
}

// WriteClientCertificate does so with these two files, for a certificate that ends when told.
func (c *ControlPlane) WriteClientCertificate(to Credentials, end time.Time, user string, groups ...string) error {
	pair, err := c.ca.issue(end, user, groups, nil)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to.CertificateFile, pair.certificate, 0o600); err != nil {
		return err
	}
	return os.WriteFile(to.KeyFile, pair.key, 0o600)
}

// Kubeconfig writes a kubeconfig with these credentials and returns its path. Its only context, and the current one, is
// "e2e".
func (c *ControlPlane) Kubeconfig(credentials Credentials) (string, error) {
	path := c.newFile("kubeconfig")
	return path, c.writeKubeconfig(path, credentials)
}

func (c *ControlPlane) writeKubeconfig(path string, credentials Credentials) error {
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"e2e": {Server: c.URL(), CertificateAuthorityData: c.ca.pem}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"e2e": {
			Token: credentials.Token, TokenFile: credentials.TokenFile,
			ClientCertificate: credentials.CertificateFile, ClientKey: credentials.KeyFile,
		}},
		Contexts:       map[string]*clientcmdapi.Context{"e2e": {Cluster: "e2e", AuthInfo: "e2e"}},
		CurrentContext: "e2e",
	}, path)
}

// newFile is a path in the control plane's folder that no file has.
func (c *ControlPlane) newFile(name string) string {
	c.filesMutex.Lock()
	defer c.filesMutex.Unlock()
	c.files++
	return c.path(fmt.Sprintf("%d-%s", c.files, name))
}

// BindClusterRole gives a service account the rights of a ClusterRole: everywhere, or with a namespace only in that.
func (c *ControlPlane) BindClusterRole(ctx context.Context, role, accountNamespace, account, namespace string) error {
	if namespace != "" {
		return c.bind(ctx, "ClusterRole", role, accountNamespace, account, namespace)
	}
	meta, ref, subjects := binding("ClusterRole", role, accountNamespace, account)
	_, err := c.Admin.RbacV1().ClusterRoleBindings().Create(ctx,
		&rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// BindRole gives a service account the rights of a namespace's Role.
func (c *ControlPlane) BindRole(ctx context.Context, role, accountNamespace, account, namespace string) error {
	return c.bind(ctx, "Role", role, accountNamespace, account, namespace)
}

func (c *ControlPlane) bind(ctx context.Context, kind, role, accountNamespace, account, namespace string) error {
	meta, ref, subjects := binding(kind, role, accountNamespace, account)
	_, err := c.Admin.RbacV1().RoleBindings(namespace).Create(ctx,
		&rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func binding(kind, role, accountNamespace, account string) (metav1.ObjectMeta, rbacv1.RoleRef, []rbacv1.Subject) {
	return metav1.ObjectMeta{Name: accountNamespace + "-" + account + "-" + role},
		rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
		[]rbacv1.Subject{{Kind: "ServiceAccount", Namespace: accountNamespace, Name: account}}
}

// Request is a request that reached the API server.
type Request struct {
	Verb     string // list, watch, get …
	Group    string // "" is the core group
	Resource string
	URI      string
	Time     time.Time
}

// Requests is every request that this service account has made since the control plane started, in their order. The API
// server writes them (its audit log) as they arrive, those among them that it refuses for lack of rights, but not
// those whose token it does not know.
func (c *ControlPlane) Requests(namespace, account string) ([]Request, error) {
	file, err := os.Open(c.path("audit.log"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	user := "system:serviceaccount:" + namespace + ":" + account
	var requests []Request
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			User       struct{ Username string }
			Verb       string
			RequestURI string
			ObjectRef  struct{ Resource, APIGroup string }
			Received   time.Time `json:"requestReceivedTimestamp"`
		}
		if !strings.Contains(lines.Text(), user) {
			continue
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		if event.User.Username == user {
			requests = append(requests, Request{event.Verb, event.ObjectRef.APIGroup, event.ObjectRef.Resource,
				event.RequestURI, event.Received})
		}
	}
	return requests, lines.Err()
}
