// Package kube connects to a Kubernetes API server: it finds the cluster, makes the REST clients, counts the requests
// and turns what goes wrong into a sentence that says what to do.
package kube

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/homedir"
)

// MountedKubeconfig is where a container finds its kubeconfig by default, as in the original tool.
const MountedKubeconfig = "/etc/kube/config"

// Protobuf is the content type in which the API server answers with half the bytes of JSON.
const Protobuf = "application/vnd.kubernetes.protobuf"

// Source is where the cluster and the credentials come from.
type Source struct {
	// Files are kubeconfigs in the order of their precedence; none means the pod's own service account.
	Files []string
	// Context is a context of theirs; empty means their current one.
	Context string
}

// Find says where to find the cluster: in the given kubeconfig (a list as in KUBECONFIG where it holds several); else
// in MountedKubeconfig if that exists, else in the cluster around this process, else in ~/.kube/config.
func Find(kubeconfig, context string) Source {
	s := Source{Context: context}
	switch {
	case kubeconfig != "":
		s.Files = filepath.SplitList(kubeconfig)
	case exists(MountedKubeconfig):
		s.Files = []string{MountedKubeconfig}
	case os.Getenv("KUBERNETES_SERVICE_HOST") != "" && context == "":
	default:
		s.Files = []string{filepath.Join(homedir.HomeDir(), ".kube", "config")}
	}
	return s
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// Fingerprint changes when the contents of the kubeconfigs change. Token and certificate files that they name are not
// part of it: client-go reads those anew by itself.
func (s Source) Fingerprint() [sha256.Size]byte {
	h := sha256.New()
	for _, file := range s.Files {
		b, err := os.ReadFile(file)
		fmt.Fprintf(h, "%q %d %t\n", file, len(b), err == nil)
		h.Write(b)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Config reads the cluster's address and the credentials. Its errors say what to mount or to set.
func (s Source) Config() (*rest.Config, error) {
	if len(s.Files) == 0 {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, &ConfigError{fmt.Sprintf("cannot use the pod's service account: %v; set automountServiceAccountToken: true, or mount a kubeconfig at %s", err, MountedKubeconfig)}
		}
		config.DisableCompression = true // in a cluster the network is cheaper than both sides' CPU
		return config, nil
	}
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: s.Files}
	if len(s.Files) == 1 {
		// Only an explicit path gives an error where the file is missing.
		rules = &clientcmd.ClientConfigLoadingRules{ExplicitPath: s.Files[0]}
	}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: s.Context})
	if err := s.readable(); err != nil {
		return nil, err
	}
	raw, err := loader.RawConfig()
	if err != nil {
		// The parser's own words are left out: they can quote the file, and with it a secret.
		return nil, &ConfigError{fmt.Sprintf("cannot read kubeconfig %s: it is not a valid kubeconfig; check it with: kubectl --kubeconfig %s config view", s, s)}
	}
	name := s.Context
	if name == "" {
		name = raw.CurrentContext
	}
	switch _, known := raw.Contexts[name]; {
	case name == "" && len(raw.Contexts) == 0:
		return nil, &ConfigError{fmt.Sprintf("no cluster configured: kubeconfig %s has no context; mount one at %s, or set --kubeconfig (KUBECONFIG)", s, MountedKubeconfig)}
	case name == "":
		return nil, &ConfigError{fmt.Sprintf("kubeconfig %s has no current context; set --context (KUBE_CONTEXT) to one of: %s", s, contexts(raw.Contexts))}
	case !known:
		return nil, &ConfigError{fmt.Sprintf("context %q is not in kubeconfig %s; set --context (KUBE_CONTEXT) to one of: %s", name, s, contexts(raw.Contexts))}
	}
	if chosen := raw.Contexts[name]; raw.Clusters[chosen.Cluster] == nil {
		return nil, &ConfigError{fmt.Sprintf("cannot use context %q of kubeconfig %s: its cluster %q is not there; correct it, or set --context (KUBE_CONTEXT) to one of: %s", name, s, chosen.Cluster, contexts(raw.Contexts))}
	}
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, &ConfigError{fmt.Sprintf("cannot use context %q of kubeconfig %s: %s", name, s, oneLine(err.Error()))}
	}
	return config, nil
}

func (s Source) String() string {
	if len(s.Files) == 1 {
		return s.Files[0]
	}
	return fmt.Sprint(s.Files)
}

// readable tells whether there is a kubeconfig: of a list only one file has to exist.
func (s Source) readable() error {
	found := false
	for _, file := range s.Files {
		switch _, err := os.ReadFile(file); {
		case err == nil:
			found = true
		case !errors.Is(err, os.ErrNotExist):
			var path *os.PathError
			errors.As(err, &path)
			return &ConfigError{fmt.Sprintf("cannot read kubeconfig %s: %v; make it readable for this process's user", file, path.Err)}
		}
	}
	if !found {
		return &ConfigError{fmt.Sprintf("no cluster configured: there is no kubeconfig %s; mount one at %s, or set --kubeconfig (KUBECONFIG)", s, MountedKubeconfig)}
	}
	return nil
}

// client makes a client of one API group version. Only the two group versions below are known; the typed clientsets would
// double the size of the program.
func client(config *rest.Config, group schema.GroupVersion, t *transport) (*rest.RESTClient, error) {
	c := rest.CopyConfig(config)
	c.GroupVersion = &group
	c.APIPath = "/apis"
	if group.Group == "" {
		c.APIPath = "/api"
	}
	c.ContentType = Protobuf
	c.AcceptContentTypes = Protobuf + ",application/json"
	c.NegotiatedSerializer = codecs.WithoutConversion()
	c.QPS = -1 // the refresh interval is the limit
	return rest.RESTClientForConfigAndClient(c, t.client)
}

// The group versions that client knows.
var (
	Core    = schema.GroupVersion{Version: "v1"}
	Metrics = schema.GroupVersion{Group: "metrics.k8s.io", Version: "v1beta1"}
)

// codecs knows what client-go decodes by itself: Status, which is in v1 for all groups. All else is read as a stream.
var codecs = func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, Core)
	return serializer.NewCodecFactory(scheme)
}()
