// Package kube connects to a Kubernetes API server: it finds the cluster, makes the REST clients, counts and bounds the
// requests, and turns what goes wrong into a sentence that says what to do.
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

// exists also takes a file that cannot be looked at for one: it may have been read before.
func exists(file string) bool {
	_, err := os.Stat(file)
	return !errors.Is(err, os.ErrNotExist)
}

// Fingerprint changes when the contents of the kubeconfigs change, or when one comes or goes. Token and certificate
// files that they name are not part of it: client-go reads those anew by itself. Where a file cannot be read that is an
// error, and nothing is known of a change.
func (s Source) Fingerprint() ([sha256.Size]byte, error) {
	h := sha256.New()
	for _, file := range s.Files {
		b, err := readFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return [sha256.Size]byte{}, err
		}
		fmt.Fprintf(h, "%q %d %t\n", file, len(b), err == nil)
		h.Write(b)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// Config reads the cluster's address and the credentials. Its errors say what to mount, to set or to change.
func (s Source) Config() (*rest.Config, error) {
	if len(s.Files) == 0 {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, misconfigured("cannot use the pod's service account: %s; "+
				"set automountServiceAccountToken: true, or mount a kubeconfig at %s", err, MountedKubeconfig)
		}
		config.DisableCompression = true // in a cluster the network is cheaper than both sides' CPU
		return config, nil
	}
	if err := s.readable(); err != nil {
		return nil, err
	}
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: s.Files}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: s.Context}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	raw, err := loader.RawConfig()
	if err != nil {
		// The parser's own words are left out: they can quote the file, and with it a secret.
		return nil, misconfigured("cannot read kubeconfig %s: it is not a valid kubeconfig; "+
			"check it with: kubectl --kubeconfig %[1]s config view", s)
	}
	name := s.Context
	if name == "" {
		name = raw.CurrentContext
	}
	chosen := raw.Contexts[name]
	switch {
	case name == "" && len(raw.Contexts) == 0:
		return nil, misconfigured("no cluster configured: kubeconfig %s has no context; "+
			"mount one at %s, or set --kubeconfig (KUBECONFIG)", s, MountedKubeconfig)
	case name == "":
		return nil, misconfigured("kubeconfig %s has no current context; set --context (KUBE_CONTEXT) "+
			"to one of: %s", s, contexts(raw.Contexts))
	case chosen == nil:
		return nil, misconfigured("context %q is not in kubeconfig %s; set --context (KUBE_CONTEXT) to one of: %s",
			shown(name), s, contexts(raw.Contexts))
	case raw.Clusters[chosen.Cluster] == nil:
		return nil, misconfigured("cannot use context %q of kubeconfig %s: its cluster %q is not there; correct it, "+
			"or set --context (KUBE_CONTEXT) to one of: %s", shown(name), s, shown(chosen.Cluster), contexts(raw.Contexts))
	case chosen.AuthInfo != "" && raw.AuthInfos[chosen.AuthInfo] == nil:
		return nil, misconfigured("cannot use context %q of kubeconfig %s: its user %q is not there, so there are "+
			"no credentials; add the user, or set --context (KUBE_CONTEXT) to one of: %s",
			shown(name), s, shown(chosen.AuthInfo), contexts(raw.Contexts))
	}
	fault := faultOf(raw.Clusters[chosen.Cluster], raw.AuthInfos[chosen.AuthInfo])
	config, err := loader.ClientConfig()
	if fault == "" && err != nil {
		fault = oneLine(err.Error()) + "; correct it there"
	}
	if fault != "" {
		return nil, &ConfigError{misconfigured("cannot use context %q of kubeconfig %s: ", shown(name), s).Text + fault}
	}
	return config, nil
}

// String is the names of the files, as far as they can be names.
func (s Source) String() string {
	for _, file := range s.Files {
		if shown(file) != file {
			return shown(file)
		}
	}
	if len(s.Files) == 1 {
		return s.Files[0]
	}
	return fmt.Sprint(s.Files)
}

// readable tells whether there is a kubeconfig: of a list only one file has to exist.
func (s Source) readable() error {
	found := false
	wayOut := fmt.Sprintf("mount one at %s, or set --kubeconfig (KUBECONFIG)", MountedKubeconfig)
	for _, file := range s.Files {
		if shown(file) != file {
			return misconfigured("no cluster configured: --kubeconfig (KUBECONFIG) is not the name of a file, which " +
				"is not shown because it may be the content of one; set it to the name of a file")
		}
		switch _, err := readFile(file); {
		case err == nil:
			found = true
		case !errors.Is(err, os.ErrNotExist):
			return misconfigured("cannot read kubeconfig %s: %s; %s", file, cause(err), remedy(file, err, ""))
		default:
			wayOut = remedy(file, err, wayOut)
		}
	}
	if !found {
		return misconfigured("no cluster configured: there is no kubeconfig %s; %s", s, wayOut)
	}
	return nil
}

// client makes a client of one API group version. Only the two group versions below are known; the typed clientsets
// would double the size of the program.
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
