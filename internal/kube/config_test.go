package kube

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// secret is what must not be in any error.
const secret = "marked-secret"

// kubeconfig is a kubeconfig with a context for each name, the first being the current one. Its user's token is secret.
func kubeconfig(server string, contexts ...string) string {
	text := "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {server: " + server + "}\nusers:\n- name: u\n  user: {token: " + secret + "}\n"
	if len(contexts) == 0 {
		return text
	}
	text += "current-context: " + contexts[0] + "\ncontexts:\n"
	for _, name := range contexts {
		text += "- name: " + name + "\n  context: {cluster: c, user: u}\n"
	}
	return text
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestFind(t *testing.T) {
	home := t.TempDir()
	unlessMounted := func(file ...string) []string {
		if _, err := os.Stat(MountedKubeconfig); err == nil {
			return []string{MountedKubeconfig}
		}
		return file
	}
	for name, c := range map[string]struct {
		kubeconfig, context, inCluster string
		want                           []string
	}{
		"a kubeconfig that is given":                          {"/x/config", "", "", []string{"/x/config"}},
		"one that is given wins over the cluster":             {"/x/config", "", "10.0.0.1", []string{"/x/config"}},
		"a list of them, as in KUBECONFIG":                    {"/x/one:/x/two", "", "", []string{"/x/one", "/x/two"}},
		"none is given, in a cluster":                         {"", "", "10.0.0.1", unlessMounted()},
		"none is given, outside of a cluster":                 {"", "", "", unlessMounted(filepath.Join(home, ".kube/config"))},
		"a context is given, which a service account has not": {"", "prod", "10.0.0.1", unlessMounted(filepath.Join(home, ".kube/config"))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HOME", home)
			t.Setenv("KUBERNETES_SERVICE_HOST", c.inCluster)
			s := Find(c.kubeconfig, c.context)
			if !slices.Equal(s.Files, c.want) || s.Context != c.context {
				t.Errorf("%+v, want %v and the context %q", s, c.want, c.context)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	one := write(t, "one", kubeconfig("https://one", "dev", "prod"))
	two := write(t, "two", strings.NewReplacer("name: c", "name: c2", "cluster: c", "cluster: c2").Replace(kubeconfig("https://two", "other", "prod")))
	for name, c := range map[string]struct {
		Source
		host string
	}{
		"the current context":                                {Source{[]string{one}, ""}, "https://one"},
		"a context that is named":                            {Source{[]string{one}, "prod"}, "https://one"},
		"the first of a list wins":                           {Source{[]string{one, two}, "prod"}, "https://one"},
		"the first of a list wins, the other way round":      {Source{[]string{two, one}, "prod"}, "https://two"},
		"a context of the second of a list":                  {Source{[]string{one, two}, "other"}, "https://two"},
		"one of a list may be missing, as KUBECONFIG has it": {Source{[]string{"/does/not/exist", one}, ""}, "https://one"},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := c.Config()
			if err != nil {
				t.Fatal(err)
			}
			if config.Host != c.host || config.BearerToken != secret {
				t.Errorf("server %s, token %q", config.Host, config.BearerToken)
			}
		})
	}
}

func TestConfigErrorsSayWhatToDo(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	bad := func(old, new string) string {
		return strings.Replace(kubeconfig("https://one", "dev", "prod"), old, new, 1)
	}
	directory := t.TempDir()
	for name, c := range map[string]struct {
		text    string // of the kubeconfig
		files   []string
		context string
		want    []string
	}{
		"no service account": {files: []string{}, want: []string{
			"cannot use the pod's service account: ", "; set automountServiceAccountToken: true, or mount a kubeconfig at " + MountedKubeconfig}},
		"the file is missing": {files: []string{"/does/not/exist"}, want: []string{
			"no cluster configured: there is no kubeconfig /does/not/exist; mount one at " + MountedKubeconfig + ", or set --kubeconfig (KUBECONFIG)"}},
		"all of a list are missing": {files: []string{"/does/not/exist", "/nor/this"}, want: []string{
			"no cluster configured: there is no kubeconfig [/does/not/exist /nor/this]; mount one at " + MountedKubeconfig}},
		"the file cannot be read": {files: []string{directory}, want: []string{
			"cannot read kubeconfig " + directory + ": is a directory; make it readable for this process's user"}},
		"the file is empty": {text: "\n", want: []string{
			"no cluster configured: kubeconfig FILE has no context; "}},
		"no current context": {text: bad("current-context: dev", ""), want: []string{
			"kubeconfig FILE has no current context; set --context (KUBE_CONTEXT) to one of: dev, prod"}},
		"no contexts at all": {text: kubeconfig("https://one"), want: []string{
			"no cluster configured: kubeconfig FILE has no context; "}},
		"an unknown context": {text: bad("x", "x"), context: "staging", want: []string{
			`context "staging" is not in kubeconfig FILE; set --context (KUBE_CONTEXT) to one of: dev, prod`}},
		"a context of a file that has none": {text: kubeconfig("https://one"), context: "dev", want: []string{
			`context "dev" is not in kubeconfig FILE; `, "(it has none)"}},
		"a current context that does not exist": {text: bad("current-context: dev", "current-context: gone"), want: []string{
			`context "gone" is not in kubeconfig FILE; `, "dev, prod"}},
		"a context of a cluster that does not exist": {text: bad("cluster: c,", "cluster: gone,"), want: []string{
			`cannot use context "dev" of kubeconfig FILE: `, `"gone"`}},
		"a certificate file that does not exist": {text: bad("server: https://one", "server: https://one, certificate-authority: /does/not/exist"), want: []string{
			`cannot use context "dev" of kubeconfig FILE: `, "/does/not/exist"}},
		"no YAML": {text: bad("token: ", "token: {"), want: []string{
			"cannot read kubeconfig FILE: it is not a valid kubeconfig; check it with: kubectl --kubeconfig FILE config view"}},
		"a token of the wrong type": {text: bad("token: "+secret, "token: ["+secret+"]"), want: []string{
			"cannot read kubeconfig FILE: it is not a valid kubeconfig; "}},
		"a key that is no base64": {text: bad("token: "+secret, "client-key-data: "+secret+"!"), want: []string{
			"cannot read kubeconfig FILE: it is not a valid kubeconfig; "}},
		"a secret and nothing else": {text: secret, want: []string{
			"cannot read kubeconfig FILE: it is not a valid kubeconfig; "}},
		"another kind of object": {text: bad("kind: Config", "kind: "+secret), want: []string{
			"cannot read kubeconfig FILE: it is not a valid kubeconfig; "}},
		"a proxy with a password": {text: bad("server: https://one", `server: https://one, proxy-url: "ftp://user:`+secret+`@proxy"`), want: []string{
			`cannot use context "dev" of kubeconfig FILE: `, "proxy-url"}},
		"a proxy with an @ in its password": {text: bad("server: https://one", `server: https://one, proxy-url: "ftp://user:x@`+secret+`@proxy"`), want: []string{
			`cannot use context "dev" of kubeconfig FILE: `, "proxy-url"}},
		"a second file of a list that cannot be read": {files: []string{"ONE", directory}, want: []string{
			"is a directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			source := Source{Files: c.files, Context: c.context}
			file := ""
			if c.text != "" {
				file = write(t, "config", c.text)
				source.Files = []string{file}
			} else if len(c.files) > 0 && c.files[0] == "ONE" {
				source.Files = []string{write(t, "config", bad("x", "x")), c.files[1]}
			}
			config, err := source.Config()
			var configError *ConfigError
			if !errors.As(err, &configError) {
				t.Fatalf("config %v, error %v, want a ConfigError", config != nil, err)
			}
			for _, want := range c.want {
				if want = strings.ReplaceAll(want, "FILE", file); !strings.Contains(err.Error(), want) {
					t.Errorf("%s\nwant: %s", err, want)
				}
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the secret is in the error: %s", err)
			}
			if f := Explain("connect", err); f.Reason != Configuration || strings.Contains(f.Text, "\n") {
				t.Errorf("explained as %q: %s", f.Reason, f.Text)
			}
		})
	}
}

func TestCredentialsThatCannotBeUsed(t *testing.T) {
	garbage := base64.StdEncoding.EncodeToString([]byte(secret))
	for name, user := range map[string]string{
		"a certificate that is none":    "client-certificate-data: " + garbage + ", client-key-data: " + garbage,
		"an exec plugin without a name": "exec: {apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, env: [{name: T, value: " + secret + "}]}",
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, "config", strings.Replace(kubeconfig("https://one", "dev"), "token: "+secret, user, 1))
			c := Cluster{Kubeconfig: file, Report: func(_, _, _ string) {}}
			_, _, _, err := c.connect(Find(file, ""))
			if err == nil {
				t.Fatal("no error")
			}
			if f := Explain("connect", err); f.Reason != Configuration || strings.Contains(f.Text, secret) || strings.Contains(f.Text, garbage) {
				t.Errorf("explained as %q: %s", f.Reason, f.Text)
			}
		})
	}
}

func TestFingerprint(t *testing.T) {
	file := write(t, "config", "one")
	s := Source{Files: []string{file, filepath.Join(t.TempDir(), "missing")}}
	seen := map[[32]byte]string{}
	for what, change := range map[string]func(){
		"as it was":         func() {},
		"other content":     func() { os.WriteFile(file, []byte("two"), 0o600) },
		"longer content":    func() { os.WriteFile(file, []byte("two and more"), 0o600) },
		"empty":             func() { os.WriteFile(file, nil, 0o600) },
		"a file that comes": func() { os.WriteFile(s.Files[1], nil, 0o600) },
		"a file that goes":  func() { os.Remove(file); os.Remove(s.Files[1]) },
	} {
		os.WriteFile(file, []byte("one"), 0o600)
		os.Remove(s.Files[1])
		change()
		if other, known := seen[s.Fingerprint()]; known {
			t.Errorf("%s has the fingerprint of: %s", what, other)
		}
		first := s.Fingerprint()
		if seen[first] = what; s.Fingerprint() != first {
			t.Errorf("%s: it changes without a change", what)
		}
	}
	os.WriteFile(file, []byte("one"), 0o600)
	os.Remove(s.Files[1])
	if seen[s.Fingerprint()] != "as it was" {
		t.Error("what is as it was has another fingerprint")
	}
}
