package kube

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"metrics-server-prom/internal/credentials"
	"metrics-server-prom/internal/redact"
)

// maxFile bounds what is read of a kubeconfig and of the files that it names, in bytes. Kubeconfigs of hundreds of
// clusters have a megabyte.
const maxFile = 16 << 20

var (
	errTooLong = errors.New("is longer than any kubeconfig, token or certificate")
	errPipe    = errors.New("is a pipe, which can be read only once")
)

// readFile reads a whole file of at most maxFile. Its errors do not repeat the file's name.
func readFile(name string) ([]byte, error) {
	if info, err := os.Stat(name); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		return nil, errPipe // it would be waited for
	}
	var b []byte
	file, err := os.Open(name)
	if err == nil {
		defer file.Close()
		b, err = io.ReadAll(io.LimitReader(file, maxFile+1))
	}
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return nil, path.Err
	}
	if len(b) > maxFile {
		return nil, errTooLong
	}
	return b, err
}

// remedy is the way out for a file that cannot be read; missing is that for one that is not there.
func remedy(name string, err error, missing string) string {
	gone := errors.Is(err, os.ErrNotExist)
	switch {
	case gone && strings.ContainsAny(name, `"'`):
		return "write its name without quotes"
	case gone && (strings.HasPrefix(name, "~") || strings.Contains(name, "/~") || strings.Contains(name, "$")):
		return "write the whole path: only a shell knows what ~ and $ stand for"
	case gone:
		return missing
	case err == syscall.EISDIR:
		return "name a file; container engines make a directory where the file that is to be mounted does not exist " +
			"on the host: correct the path there, and make the container anew"
	case is(err, syscall.EMFILE, syscall.ENFILE):
		return "raise the limit of open files"
	case is(err, errPipe, errTooLong):
		return "name a regular file"
	}
	return "make it readable for this process's user"
}

// notAName is what is said of a content that stands where a file's name belongs.
const notAName = "is not the name of a file, which is not shown because it may be the content of one"

// shown is a name as it may be shown: whoever gives a file's content in place of its name gives a secret.
func shown(name string) string {
	if !redact.IsName(name) {
		return "(not shown: it cannot be a name)"
	}
	return name
}

// faultOf is what cannot be used in what a context names, and what to change; "" where nothing is found. client-go's
// own words for these do not say that, or say it too late. choose is how to choose another context.
func faultOf(config *clientcmdapi.Config, context *clientcmdapi.Context, choose string) string {
	cluster, user := config.Clusters[context.Cluster], config.AuthInfos[context.AuthInfo]
	switch {
	case cluster == nil:
		return sentence("its cluster %q is not there; correct it, or %s", shown(context.Cluster), choose)
	case user == nil && context.AuthInfo != "":
		return sentence("its user %q is not there, so there are no credentials; add the user, or %s",
			shown(context.AuthInfo), choose)
	case cluster.InsecureSkipTLSVerify && cluster.CertificateAuthority+string(cluster.CertificateAuthorityData) != "":
		return "its cluster has a certificate-authority and insecure-skip-tls-verify; remove one of them, best the " +
			"latter"
	}
	user = cmp.Or(user, &clientcmdapi.AuthInfo{})
	if strings.HasPrefix(cluster.Server, "https://") { // else nothing of the user is sent, and no plugin run
		e := cmp.Or(user.Exec, &clientcmdapi.ExecConfig{})
		switch {
		case user.AuthProvider != nil && credentials.AuthProvider(user.AuthProvider.Name) != "":
			return sentence("its auth-provider %q is answered in place of only where that is wanted; %s, or %s",
				shown(user.AuthProvider.Name), useNative, useToken)
		case user.AuthProvider != nil:
			return sentence("clients of Kubernetes have no auth-provider %q any more; get a new kubeconfig from "+
				"your cloud's command, or %s", shown(user.AuthProvider.Name), useToken)
		case e.APIVersion != "" && !slices.Contains(pluginVersions, e.APIVersion):
			return sentence("its exec plugin %s speaks %s, which is no longer understood; update the plugin and get "+
				"a new kubeconfig with %s, or %s", shown(e.Command), shown(e.APIVersion), pluginVersions[0], useToken)
		case e.InteractiveMode == clientcmdapi.AlwaysExecInteractiveMode:
			return sentence("its exec plugin %s wants a terminal (interactiveMode: Always), which it does not have "+
				"here; %s", shown(e.Command), useToken)
		}
	}
	const flatten = "mount it there, or have it in the kubeconfig, which is then made by: kubectl config view --raw " +
		"--flatten --minify"
	for _, f := range []struct{ field, file, content, missing string }{
		{"certificate-authority", cluster.CertificateAuthority, "certificate-authority-data", flatten},
		{"client-certificate", user.ClientCertificate, "client-certificate-data", flatten},
		{"client-key", user.ClientKey, "client-key-data", flatten},
		{"tokenFile", user.TokenFile, "token", "mount it there"},
	} {
		if f.file == "" {
			continue
		}
		if shown(f.file) != f.file {
			return fmt.Sprintf("its %s %s; content belongs into %s", f.field, notAName, f.content)
		}
		if _, err := readFile(f.file); err != nil {
			return sentence("cannot read its %s %s: %s; %s", f.field, f.file, err, remedy(f.file, err, f.missing))
		}
	}
	return ""
}
