package kube

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"metrics-server-prom/internal/redact"
	"metrics-server-prom/internal/setting"
)

// Settings say which clusters there are.
type Settings struct {
	Kubeconfig     string  // as for Find, or a folder of which each file is a cluster's
	KubeconfigData string  // a kubeconfig itself, in place of Kubeconfig; as Source.Data
	Native         string  // as Source.Native
	Context        string  // as for Find, of the only cluster
	Contexts       []Named // of several clusters
	AllContexts    bool    // each of the kubeconfig's is a cluster
}

// Named is a context that is a cluster, with the cluster's name.
type Named struct{ Name, Context string }

// Several tells whether there may be several clusters, which then have names.
func (s *Settings) Several() bool { return s.hasContexts() || s.isFolder() }

func (s *Settings) hasContexts() bool { return len(s.Contexts) > 0 || s.AllContexts }

func (s *Settings) isFolder() bool {
	info, err := os.Stat(s.Kubeconfig)
	return s.Kubeconfig != "" && err == nil && info.IsDir()
}

// Rows is their part of the table of settings.
func (s *Settings) Rows() []setting.Row {
	return []setting.Row{
		{Flag: "kubeconfig", Env: "KUBECONFIG", Set: setting.FileName(&s.Kubeconfig),
			Help: "kubeconfig; if not set " + MountedKubeconfig +
				" if it exists, else in-cluster if in a cluster, else ~/.kube/config. Of a folder each file is a cluster's"},
		{Flag: "kubeconfig-data", Env: "KUBECONFIG_DATA", Excludes: "kubeconfig", Set: setData(&s.KubeconfigData),
			Secret: true, Help: "kubeconfig itself, as YAML or base64 of it, where secrets are handed out as variables"},
		{Flag: "native-credentials", Env: "NATIVE_CREDENTIALS", Default: NativeMissing,
			Set:  setting.OneOf(&s.Native, NativeMissing, NativeAlways, NativeNever),
			Help: "when to answer in place of an exec plugin of EKS, GKE or AKS: where it is missing, always or never"},
		{Flag: "context", Env: "KUBE_CONTEXT", Set: s.setContexts,
			Help: "context of the kubeconfig; if not set its current one. Of several, separated by commas, or with * for " +
				"all, each is a cluster by the context's name, or another one: eu=CONTEXT"},
	}
}

// setContexts takes a value of --context.
func (s *Settings) setContexts(value string) (must string) {
	const name = "a name, not what is in a file"
	s.Context, s.Contexts, s.AllContexts = "", nil, value == "*"
	if !strings.ContainsAny(value, ",=*") {
		return setting.Name(&s.Context)(value)
	}
	if s.AllContexts {
		return ""
	}
	var all []Named
	for _, item := range strings.Split(value, ",") {
		n := Named{}
		var given bool
		if n.Name, n.Context, given = strings.Cut(strings.TrimSpace(item), "="); !given {
			n.Context = n.Name
		}
		switch {
		case !redact.IsName(n.Name) || !redact.IsName(n.Context):
			return name
		case item == "":
			continue
		case n.Name == "" || n.Context == "" || strings.Contains(item, "*"):
			return "a context, or several separated by commas, each as CONTEXT or NAME=CONTEXT, or * alone for all"
		case slices.Contains(all, n):
			continue
		case slices.ContainsFunc(all, func(other Named) bool { return other.Name == n.Name }):
			return "contexts with a different name each"
		}
		all = append(all, n)
	}
	if len(all) == 1 && !strings.Contains(value, "=") {
		s.Context, all = all[0].Context, nil
	}
	s.Contexts = all
	return ""
}

// Check returns what contradicts what among settings that are valid each by itself.
func (s *Settings) Check() error {
	if s.isFolder() && (s.Context != "" || s.hasContexts()) {
		return fmt.Errorf("--kubeconfig (KUBECONFIG) is a folder, of which each file is a cluster by its current context; "+
			"remove --context (KUBE_CONTEXT), or name one of the files of %s", shown(s.Kubeconfig))
	}
	return nil
}

// source is where the kubeconfig is found now.
func (s *Settings) source() Source {
	context := s.Context
	if s.hasContexts() {
		context = "*" // whichever they are, a service account has none
	}
	from := Find(s.Kubeconfig, context)
	if s.KubeconfigData != "" {
		from = Source{Data: s.KubeconfigData}
	}
	from.Context, from.Native = s.Context, s.Native
	return from
}
