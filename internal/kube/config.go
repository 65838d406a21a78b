// Package kube connects to a Kubernetes API server: it finds the cluster, makes the REST clients, counts and bounds the
// requests, and turns what goes wrong into a sentence that says what to do.
package kube

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/homedir"
)

// MountedKubeconfig is where a container finds its kubeconfig by default, as in the original tool.
const MountedKubeconfig = "/etc/kube/config"

var mountedKubeconfig = MountedKubeconfig // but in tests

// Protobuf is the content type in which the API server answers with half the bytes of JSON.
const Protobuf = "application/vnd.kubernetes.protobuf"

// Source is where the cluster and the credentials come from.
type Source struct {
	Files   []string // kubeconfigs in the order of their precedence; none means the pod's own service account
	Data    string   // a kubeconfig itself, in place of files
	Context string   // of theirs; empty means their current one
	Native  string   // when to answer in place of exec plugins, see NativeMissing; empty is NativeMissing

	isEntry bool // the file is one of a folder, so that no setting chooses its context
}

// Find says where to find the cluster: in the given kubeconfig (a list as in KUBECONFIG where it holds several); else
// in MountedKubeconfig if that exists, else in the cluster around this process, else in ~/.kube/config.
func Find(kubeconfig, context string) Source {
	s := Source{Context: context}
	_, missing := os.Stat(mountedKubeconfig)
	switch {
	case kubeconfig != "":
		s.Files = filepath.SplitList(kubeconfig)
	case !errors.Is(missing, os.ErrNotExist): // one that cannot be looked at now may have been read before
		s.Files = []string{mountedKubeconfig}
	case os.Getenv("KUBERNETES_SERVICE_HOST") != "" && context == "":
	default:
		s.Files = []string{filepath.Join(homedir.HomeDir(), ".kube", "config")}
	}
	return s
}

// Fingerprint changes when the contents of the kubeconfigs change, or when one comes or goes; after an error nothing is
// known of that. Token and certificate files that they name are not part of it: client-go reads those anew by itself.
func (s Source) Fingerprint() ([sha256.Size]byte, error) {
	h := sha256.New()
	h.Write([]byte(s.Data))
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
	if len(s.Files) == 0 && s.Data == "" {
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
	raw, err := s.load()
	if err != nil {
		return nil, err
	}
	name := cmp.Or(s.Context, raw.CurrentContext)
	all := cmp.Or(strings.Join(slices.Sorted(maps.Keys(raw.Contexts)), ", "), "(it has none)")
	choose := "set --context (KUBE_CONTEXT) to one of: " + all
	if s.isEntry {
		choose = "set its current-context to one of: " + all
	}
	switch {
	case name == "" && len(raw.Contexts) == 0:
		return nil, misconfigured("no cluster configured: kubeconfig %s has no context; %s", s, mount)
	case name == "":
		return nil, misconfigured("kubeconfig %s has no current context; %s", s, choose)
	case raw.Contexts[name] == nil:
		return nil, misconfigured("context %q is not in kubeconfig %s; %s", shown(name), s, choose)
	}
	answerNatively(raw.AuthInfos[raw.Contexts[name].AuthInfo], s.Native)
	config, err := clientcmd.NewNonInteractiveClientConfig(*raw, name, nil, s.rules()).ClientConfig()
	fault := faultOf(raw, raw.Contexts[name], choose)
	if fault == "" && err != nil {
		fault = oneLine(err.Error()) + "; correct it there"
	}
	if fault != "" {
		f := misconfigured("cannot use context %q of kubeconfig %s: ", shown(name), s)
		f.Text += fault
		return nil, f
	}
	return config, nil
}

func (s Source) rules() *clientcmd.ClientConfigLoadingRules {
	return &clientcmd.ClientConfigLoadingRules{Precedence: s.Files}
}

// load reads the kubeconfig, which is empty where there is none.
func (s Source) load() (*clientcmdapi.Config, error) {
	raw, err := s.rules().Load()
	if s.Data != "" {
		raw, err = clientcmd.Load([]byte(s.Data))
	}
	if err != nil {
		// The parser's own words are left out: they can quote the file, and with it a secret.
		return nil, misconfigured("cannot read kubeconfig %s: it is not a valid kubeconfig; "+
			"check it with: kubectl --kubeconfig %[1]s config view", s)
	}
	return raw, nil
}

// mount is the way out where there is no kubeconfig.
const mount = "mount one at " + MountedKubeconfig + ", or set --kubeconfig (KUBECONFIG)"

// setData sets p to a kubeconfig that is given as it is or, for where variables cannot have several lines, as
// base64. It returns what the value must be if it is not that.
func setData(p *string) func(value string) (must string) {
	return func(value string) string {
		if *p = value; value == "" {
			return ""
		}
		if decoded, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(value), "")); err == nil {
			*p = string(decoded)
		}
		if config, err := clientcmd.Load([]byte(*p)); err != nil || len(config.Clusters) == 0 {
			return "a kubeconfig as YAML, or base64 of it; a file's name belongs into --kubeconfig (KUBECONFIG)"
		}
		return ""
	}
}

// String is the names of the files, as far as they can be names.
func (s Source) String() string {
	if s.Data != "" {
		return "in KUBECONFIG_DATA"
	}
	for _, file := range s.Files {
		if shown(file) != file || len(s.Files) == 1 {
			return shown(file)
		}
	}
	return fmt.Sprint(s.Files)
}

// readable tells whether there is a kubeconfig: of a list only one file has to exist.
func (s Source) readable() error {
	if s.Data != "" {
		return nil
	}
	found, wayOut := false, mount
	for _, file := range s.Files {
		_, err := readFile(file)
		switch {
		case shown(file) != file:
			return misconfigured("no cluster configured: --kubeconfig (KUBECONFIG) %s; set it to the name of a file",
				notAName)
		case err == nil:
			found = true
		case errors.Is(err, os.ErrNotExist):
			wayOut = remedy(file, err, wayOut)
		default:
			return misconfigured("cannot read kubeconfig %s: %s; %s", file, err, remedy(file, err, ""))
		}
	}
	if !found {
		return misconfigured("no cluster configured: there is no kubeconfig %s; %s", s, wayOut)
	}
	return nil
}

// client makes a client of one API group version. It knows no type of it; the typed clientsets would double the size of
// the program.
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

// The group versions that this program reads from.
var (
	Core    = schema.GroupVersion{Version: "v1"}
	Metrics = schema.GroupVersion{Group: "metrics.k8s.io", Version: "v1beta1"}
	Apps    = schema.GroupVersion{Group: "apps", Version: "v1"}  // ReplicaSets
	Batch   = schema.GroupVersion{Group: "batch", Version: "v1"} // Jobs
)

// codecs knows what client-go decodes by itself: Status, which is in v1 for all groups. All else is read as a stream.
var codecs = func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, Core)
	return serializer.NewCodecFactory(scheme)
}()
