package standin

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// The clusters of Kubeconfig. Those of EKS are known to tokens by their names.
const (
	EKS, GKE, AKS = "eks", "gke", "aks"
	ClusterName   = "shop"
)

// users are as the clouds' own tools write them.
var users = map[string]string{
	// aws eks update-kubeconfig --region eu-central-1 --name shop
	EKS: `
    exec:
      apiVersion: client.authentication.k8s.io/v1beta1
      args:
      - --region
      - eu-central-1
      - eks
      - get-token
      - --cluster-name
      - shop
      - --output
      - json
      command: aws
`,
	// gcloud container clusters get-credentials shop
	GKE: `
    exec:
      apiVersion: client.authentication.k8s.io/v1beta1
      command: gke-gcloud-auth-plugin
      installHint: Install gke-gcloud-auth-plugin for use with kubectl by following
        https://cloud.google.com/kubernetes-engine/docs/how-to/cluster-access-for-kubectl#install_plugin
      provideClusterInfo: true
`,
	// az aks get-credentials --name shop
	AKS: `
    exec:
      apiVersion: client.authentication.k8s.io/v1beta1
      args:
      - get-token
      - --environment
      - AzurePublicCloud
      - --server-id
      - 6dae42f8-4368-4678-94ff-3960e28e3630
      - --client-id
      - 80faf920-1908-4b52-b5ef-a8e7bedfc67a
      - --tenant-id
      - 72f988bf-0000-0000-0000-2d7cd011db47
      - --login
      - devicecode
      command: kubelogin
      env: null
      installHint: |2

        kubelogin is not installed which is required to connect to AAD enabled cluster.

        To learn more, please go to https://aka.ms/aks/kubelogin
      provideClusterInfo: false
`,
}

// Kubeconfig is what a cloud's own tool writes for a cluster, with another address and authority of the API server.
func Kubeconfig(cloud, server string, authority []byte) string {
	return fmt.Sprintf(`apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: %s
    server: %s
  name: shop
contexts:
- context:
    cluster: shop
    user: shop
  name: shop
current-context: shop
kind: Config
preferences: {}
users:
- name: shop
  user:%s`, base64.StdEncoding.EncodeToString(authority), server, users[cloud])
}

// Access is what to set for a cloud's kubeconfig beside Env, for the least that works: keys of AWS, the key file of
// Google's service account, and for Entra the application with its secret, as the tool's login is a person's.
func (c *Clouds) Access(cloud string) (env []string, err error) {
	switch cloud {
	case EKS:
		return []string{"AWS_ACCESS_KEY_ID=" + c.AWS.Key, "AWS_SECRET_ACCESS_KEY=" + c.AWS.Secret}, nil
	case GKE:
		path, err := c.File("key.json", c.Google.AccountKey())
		return []string{"GOOGLE_APPLICATION_CREDENTIALS=" + path}, err
	}
	return []string{"AAD_LOGIN_METHOD=spn", "AZURE_CLIENT_ID=" + c.Azure.Client,
		"AZURE_CLIENT_SECRET=" + c.Azure.Secret}, nil
}

// Takes tells whether the API server of a cloud's cluster would take a request with this Authorization header.
func (c *Clouds) Takes(authorization string) error {
	_, err := c.Holder(strings.TrimPrefix(authorization, "Bearer "), ClusterName)
	return err
}
