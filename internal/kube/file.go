package kube

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"
	"unicode"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// maxFile bounds what is read of a kubeconfig and of the files that it names, in bytes. Kubeconfigs of hundreds of
// clusters have a megabyte.
const maxFile = 16 << 20

var (
	errTooLong = errors.New("is longer than any kubeconfig, token or certificate")
	errPipe    = errors.New("is a pipe, which can be read only once")
)

// readFile reads a whole file of at most maxFile.
func readFile(name string) ([]byte, error) {
	if info, err := os.Stat(name); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		return nil, errPipe // it would be waited for
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(b) > maxFile {
		return nil, errTooLong
	}
	return b, err
}

// cause is an error of a file without the file's name.
func cause(err error) error {
	if path := (*os.PathError)(nil); errors.As(err, &path) {
		return path.Err
	}
	return err
}

// remedy is the way out for a file that cannot be read; missing is that for one that is not there.
func remedy(name string, err error, missing string) string {
	switch {
	case !errors.Is(err, os.ErrNotExist):
	case strings.ContainsAny(name, `"'`):
		return "write its name without quotes"
	case strings.HasPrefix(name, "~") || strings.Contains(name, "/~") || strings.Contains(name, "$"):
		return "write the whole path: only a shell knows what ~ and $ stand for"
	default:
		return missing
	}
	switch {
	case errors.Is(err, syscall.EISDIR):
		return "name a file; container engines make a directory where the file that is to be mounted does not exist " +
			"on the host: correct the path there, and make the container anew"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "raise the limit of open files"
	case err == errPipe, err == errTooLong:
		return "name a regular file"
	}
	return "make it readable for this process's user"
}

// content is how a key or certificate, the same in base64, and a token begin, which may all be short.
var content = regexp.MustCompile(`-----BEGIN |(^|/)(LS0tLS1CRUdJTi|eyJhbGciOi)`)

// shown is a name as it may be shown. Whoever gives a file's content in place of its name gives a secret; but no name
// of a file has a part of more than 255 bytes or more than 4096 in all, and hardly one has spaces around it, line
// breaks or braces. A context's name is held to the same.
func shown(name string) string {
	unlikely := len(name) > 4096 || strings.TrimSpace(name) != name || strings.Contains(name, "{") ||
		content.MatchString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
	for part := range strings.SplitSeq(name, "/") {
		unlikely = unlikely || len(part) > 255
	}
	if unlikely {
		return "(not shown: it cannot be a name)"
	}
	return name
}

// faultOf is what cannot be used in what a context names, and what to change; "" where nothing is found. client-go's
// own words for these do not say that, or say it too late. There need be no user.
func faultOf(cluster *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo) string {
	if user == nil {
		user = &clientcmdapi.AuthInfo{}
	}
	verified := cluster.CertificateAuthority != "" || len(cluster.CertificateAuthorityData) > 0
	if cluster.InsecureSkipTLSVerify && verified {
		return "its cluster has a certificate-authority and insecure-skip-tls-verify; remove one of them, best the " +
			"latter"
	}
	// To an address without TLS nothing of the user is sent, and no plugin run.
	secure := strings.HasPrefix(cluster.Server, "https://")
	if p := user.AuthProvider; p != nil && secure {
		return misconfigured("clients of Kubernetes have no auth-provider %q any more; get a new kubeconfig from "+
			"your cloud's command, or %s", shown(p.Name), useToken).Text
	}
	if e := user.Exec; e != nil && secure {
		switch {
		case e.APIVersion != "" && !pluginVersions[e.APIVersion]:
			return misconfigured("its exec plugin %s speaks %s, which is no longer understood; update the plugin "+
				"and get a new kubeconfig with client.authentication.k8s.io/v1, or %s",
				shown(e.Command), shown(e.APIVersion), useToken).Text
		case e.InteractiveMode == clientcmdapi.AlwaysExecInteractiveMode:
			return misconfigured("its exec plugin %s wants a terminal (interactiveMode: Always), which it does not "+
				"have here; %s", shown(e.Command), useToken).Text
		}
	}
	for _, f := range []struct{ field, file, content string }{
		{"certificate-authority", cluster.CertificateAuthority, "certificate-authority-data"},
		{"client-certificate", user.ClientCertificate, "client-certificate-data"},
		{"client-key", user.ClientKey, "client-key-data"},
		{"tokenFile", user.TokenFile, "token"},
	} {
		if f.file == "" {
			continue
		}
		if shown(f.file) != f.file {
			return fmt.Sprintf("its %s is not the name of a file, which is not shown because it may be the content "+
				"of one; content belongs into %s", f.field, f.content)
		}
		if _, err := readFile(f.file); err != nil {
			missing := "mount it there"
			if f.content != "token" {
				missing += ", or have it in the kubeconfig, which is then made by: kubectl config view --raw " +
					"--flatten --minify"
			}
			missing = remedy(f.file, err, missing)
			return misconfigured("cannot read its %s %s: %s; %s", f.field, f.file, cause(err), missing).Text
		}
	}
	return ""
}
