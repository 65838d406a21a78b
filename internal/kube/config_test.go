package kube

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// secret is what must not be in any error.
const secret = "marked-secret"

// kubeconfig is a kubeconfig with a context for each name, the first being the current one. Its user's token is secret.
func kubeconfig(server string, contexts ...string) string {
	text := "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {server: " + server +
		"}\nusers:\n- name: u\n  user: {token: " + secret + "}\n"
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
		"a kubeconfig that is given":              {"/x/config", "", "", []string{"/x/config"}},
		"one that is given wins over the cluster": {"/x/config", "", "10.0.0.1", []string{"/x/config"}},
		"a list of them, as in KUBECONFIG":        {"/x/one:/x/two", "", "", []string{"/x/one", "/x/two"}},
		"none is given, in a cluster":             {"", "", "10.0.0.1", unlessMounted()},
		"none is given, outside of a cluster": {"", "", "", unlessMounted(filepath.Join(home,
			".kube/config"))},
		"a context is given, which a service account has not": {"", "prod", "10.0.0.1",
			unlessMounted(filepath.Join(home, ".kube/config"))},
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
	two := write(t, "two", strings.NewReplacer("name: c", "name: c2", "cluster: c",
		"cluster: c2").Replace(kubeconfig("https://two", "other", "prod")))
	for name, c := range map[string]struct {
		Source
		host string
	}{
		"the current context":                           {Source{Files: []string{one}, Context: ""}, "https://one"},
		"a context that is named":                       {Source{Files: []string{one}, Context: "prod"}, "https://one"},
		"the first of a list wins":                      {Source{Files: []string{one, two}, Context: "prod"}, "https://one"},
		"the first of a list wins, the other way round": {Source{Files: []string{two, one}, Context: "prod"}, "https://two"},
		"a context of the second of a list":             {Source{Files: []string{one, two}, Context: "other"}, "https://two"},
		"one of a list may be missing, as KUBECONFIG has it": {Source{Files: []string{"/does/not/exist", one}, Context: ""},
			"https://one"},
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
	secret64 := base64.StdEncoding.EncodeToString([]byte(secret))
	long := "/home/me" + strings.Repeat("/a-long-name-of-a-directory", 12)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text    string // of the kubeconfig
		files   []string
		context string
		want    []string
	}{
		"no service account": {files: []string{}, want: []string{
			"cannot use the pod's service account: ",
			"; set automountServiceAccountToken: true, or mount a kubeconfig at " + MountedKubeconfig}},
		"the file is missing": {files: []string{"/does/not/exist"}, want: []string{
			"no cluster configured: there is no kubeconfig /does/not/exist; mount one at " + MountedKubeconfig +
				", or set --kubeconfig (KUBECONFIG)"}},
		"all of a list are missing": {files: []string{"/does/not/exist", "/nor/this"}, want: []string{
			"no cluster configured: there is no kubeconfig [/does/not/exist /nor/this]; mount one at " +
				MountedKubeconfig}},
		"the file cannot be read": {files: []string{directory}, want: []string{
			"cannot read kubeconfig " + directory +
				": is a directory; name a file; container engines make a directory where "}},
		"the file is a pipe": {files: []string{pipe}, want: []string{
			"cannot read kubeconfig " + pipe + ": is a pipe, which can be read only once; name a regular file"}},
		"the file has no end": {files: []string{"/dev/zero"}, want: []string{
			"cannot read kubeconfig /dev/zero: is longer than any kubeconfig, token or certificate; name a regular " +
				"file"}},
		"a tilde that no shell has replaced": {files: []string{"~/.kube/config"}, want: []string{
			"there is no kubeconfig ~/.kube/config; write the whole path: only a shell knows what ~ and $ stand for"}},
		"a variable that no shell has replaced": {files: []string{"$HOME/.kube/config"}, want: []string{
			"there is no kubeconfig $HOME/.kube/config; write the whole path"}},
		"quotes that no shell has taken away": {files: []string{`"/etc/kube/config"`}, want: []string{
			`there is no kubeconfig "/etc/kube/config"; write its name without quotes`}},
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
		"a current context that does not exist": {text: bad("current-context: dev", "current-context: gone"),
			want: []string{
				`context "gone" is not in kubeconfig FILE; `, "dev, prod"}},
		"a context of a cluster that does not exist": {text: bad("cluster: c,", "cluster: gone,"), want: []string{
			`cannot use context "dev" of kubeconfig FILE: `, `"gone"`}},
		"a context of a user that does not exist": {text: bad("user: u}", "user: gone}"), want: []string{
			`cannot use context "dev" of kubeconfig FILE: its user "gone" is not there, so there are no credentials; `,
			"; add the user, or set --context"}},
		"certificates of another machine": {
			text: bad("server: https://one", "server: https://one, certificate-authority: "+long+"/ca.crt"),
			want: []string{
				`cannot use context "dev" of kubeconfig FILE: cannot read its certificate-authority ` + long +
					"/ca.crt: no such file or directory; " +
					"mount it there, or have it in the kubeconfig, which is then made by: kubectl config view --raw " +
					"--flatten --minify"}},
		"a client key of another machine": {
			text: bad("token: "+secret, "client-certificate-data: "+secret64+", client-key: /home/me/key"),
			want: []string{
				"cannot read its client-key /home/me/key: no such file or directory; mount it there, or ",
				"--flatten"}},
		"a token file of another machine": {text: bad("token: "+secret, "tokenFile: /home/me/token"), want: []string{
			"cannot read its tokenFile /home/me/token: no such file or directory; mount it there"}},
		"a certificate that is a directory": {text: bad("server: https://one",
			"server: https://one, certificate-authority: "+directory), want: []string{
			"cannot read its certificate-authority " + directory +
				": is a directory; name a file; container engines make a directory where"}},
		"a certificate of endless length": {text: bad("server: https://one",
			"server: https://one, certificate-authority: /dev/zero"), want: []string{
			"cannot read its certificate-authority /dev/zero: is longer than any kubeconfig, token or certificate; " +
				"name a regular file"}},
		"a tilde in the path of a certificate": {
			text: bad("server: https://one", "server: https://one, certificate-authority: ~/ca.crt"), want: []string{
				"/~/ca.crt: no such file or directory; write the whole path: only a shell knows what ~ and $ stand " +
					"for"}},
		"a certificate authority with the insecure flag": {
			text: bad("server: https://one",
				"server: https://one, insecure-skip-tls-verify: true, certificate-authority-data: "+secret64),
			want: []string{
				`cannot use context "dev" of kubeconfig FILE: `,
				"its cluster has a certificate-authority and insecure-skip-tls-verify; remove one of them"}},
		"an auth-provider": {text: bad("token: "+secret,
			"auth-provider: {name: openstack, config: {access-token: "+secret+"}}"), want: []string{
			`clients of Kubernetes have no auth-provider "openstack" any more; `,
			`get a new kubeconfig from your cloud's command, or use a kubeconfig with a service account's token`}},
		"an exec plugin of an old version": {
			text: bad("token: "+secret,
				"exec: {apiVersion: client.authentication.k8s.io/v1alpha1, command: login, args: ["+secret+"]}"),
			want: []string{
				"its exec plugin login speaks client.authentication.k8s.io/v1alpha1, which is no longer understood; " +
					"update the plugin and get a new kubeconfig"}},
		"an exec plugin that wants a terminal": {
			text: bad("token: "+secret,
				"exec: {apiVersion: client.authentication.k8s.io/v1, command: login, interactiveMode: Always}"),
			want: []string{
				"its exec plugin login wants a terminal (interactiveMode: Always), which it does not have here; use " +
					"a kubeconfig with a service account's token"}},
		"a certificate without its key": {text: bad("token: "+secret, "client-certificate-data: "+secret64),
			want: []string{
				"client-key-data or client-key must be specified for u to use the clientCert authentication method.; " +
					"correct it there"}},
		"no YAML": {text: bad("token: ", "token: {"), want: []string{
			"cannot read kubeconfig FILE: it is not a valid kubeconfig; check it with: kubectl --kubeconfig FILE " +
				"config view"}},
		"a token of the wrong type": {text: bad("token: "+secret, "token: ["+secret+"]"), want: []string{
			"cannot read kubeconfig FILE: it is not a valid kubeconfig; "}},
		"a key that is no base64": {text: bad("token: "+secret, "client-key-data: "+secret+"!"), want: []string{
			"cannot read kubeconfig FILE: it is not a valid kubeconfig; "}},
		"a secret and nothing else": {text: secret, want: []string{
			"cannot read kubeconfig FILE: it is not a valid kubeconfig; "}},
		"another kind of object": {text: bad("kind: Config", "kind: "+secret), want: []string{
			"cannot read kubeconfig FILE: it is not a valid kubeconfig; "}},
		"a proxy with a password": {text: bad("server: https://one",
			`server: https://one, proxy-url: "ftp://user:`+secret+`@proxy"`), want: []string{
			`cannot use context "dev" of kubeconfig FILE: `, "proxy-url"}},
		"a proxy with an @ in its password": {text: bad("server: https://one",
			`server: https://one, proxy-url: "ftp://user:x@`+secret+`@proxy"`), want: []string{
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
			if f, ok := errors.AsType[*Failure](err); !ok || f.Reason != Configuration {
				t.Fatalf("config %v, error %v, want a Failure of the configuration", config != nil, err)
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

// TestContentInPlaceOfANameIsNotShown gives a kubeconfig, a key or a token where its file's name, or another name,
// belongs.
func TestContentInPlaceOfANameIsNotShown(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	text := kubeconfig("https://one", "dev") + "# " + strings.Repeat("a certificate, ", 50)
	content := base64.StdEncoding.EncodeToString([]byte(text))
	folded := strings.Join(strings.Fields(text), " ")
	key := "-----BEGIN PRIVATE KEY----- " + secret + " -----END PRIVATE KEY-----"
	good := write(t, "good", kubeconfig("https://one", "dev"))
	replaced := func(old, new string) string {
		return write(t, "config", strings.Replace(kubeconfig("https://one", "dev"), old, new, 1))
	}
	const notAName = "is not the name of a file, which is not shown because it may be the content of one; "
	for name, c := range map[string]struct{ kubeconfig, context, want string }{
		"a kubeconfig in base64": {content, "", "--kubeconfig (KUBECONFIG) " + notAName +
			"set it to the name of a file"},
		"the same behind the name of a file": {good + ":" + content, "", notAName},
		"the same before it":                 {content + ":" + good, "", notAName},
		"a kubeconfig":                       {text, "", notAName},
		"a kubeconfig in one line":           {folded, "", notAName},
		"a kubeconfig as the context": {good, text,
			`context "(not shown: it cannot be a name)" is not in kubeconfig ` + good},
		"the same in base64": {good, content,
			`context "(not shown: it cannot be a name)" is not in kubeconfig ` + good},
		"a key as the name of its file": {replaced("token: "+secret,
			`client-certificate-data: YQ==, client-key: "`+key+`"`), "",
			"its client-key " + notAName + "content belongs into client-key-data"},
		"a key in base64 as the name of its file": {replaced("token: "+secret,
			"client-certificate-data: YQ==, client-key: "+content), "",
			"its client-key " + notAName},
		"a short key in base64 as the name of its file": {
			replaced("token: "+secret,
				"client-certificate-data: YQ==, client-key: "+base64.StdEncoding.EncodeToString([]byte(key))), "",
			"its client-key " + notAName},
		"a token as the name of its file": {replaced("token: "+secret, "tokenFile: "+content), "",
			"its tokenFile " + notAName + "content belongs into token"},
		"a certificate as the name of its file": {replaced("server: https://one",
			"server: https://one, certificate-authority: "+content), "",
			"its certificate-authority " + notAName + "content belongs into certificate-authority-data"},
		"a kubeconfig as the name of a user": {replaced("user: u}", "user: "+content+"}"), "",
			`its user "(not shown: it cannot be a name)" is not there`},
	} {
		t.Run(name, func(t *testing.T) {
			source := Find(c.kubeconfig, c.context)
			_, err := source.Config()
			if err == nil {
				t.Fatal("no error")
			}
			shown := Explain("connect", err).Text + source.String()
			if !strings.Contains(shown, c.want) {
				t.Errorf("%s\nwant: %s", shown, c.want)
			}
			if strings.Contains(shown, secret) || strings.Contains(shown, content[:40]) {
				t.Errorf("the content is shown: %s", shown)
			}
		})
	}
}

func TestWhatMayBeAName(t *testing.T) {
	for name, may := range map[string]bool{
		"/etc/kube/config": true, "~/.kube/my config": true, "arn:aws:eks:eu-west-1:1234:cluster/shop": true,
		"größe": true, "": true,
		"/" + strings.Repeat("a", 255) + "/b": true,
		"/" + strings.Repeat("a", 256) + "/b": false,
		strings.Repeat("a/", 2048):            true,
		strings.Repeat("a/", 2048) + "a":      false,
		"one\ntwo":                            false, " before": false, "behind ": false, "{": false,
		"\x1b[31mred": false,
	} {
		if got := shown(name) == name; got != may {
			t.Errorf("%.20q… of %d bytes is shown: %t, want %t", name, len(name), got, may)
		}
	}
}

func TestCredentialsThatCannotBeUsed(t *testing.T) {
	garbage := base64.StdEncoding.EncodeToString([]byte(secret))
	for name, user := range map[string]string{
		"a certificate that is none": "client-certificate-data: " + garbage + ", client-key-data: " + garbage,
		"an exec plugin without a name": "exec: {apiVersion: client.authentication.k8s.io/v1, interactiveMode: " +
			"Never, env: [{name: T, value: " + secret + "}]}",
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, "config", strings.Replace(kubeconfig("https://one", "dev"), "token: "+secret, user, 1))
			c := Cluster{Report: func(_, _, _ string) {}}
			_, _, err := c.connect(Find(file, ""))
			if err == nil {
				t.Fatal("no error")
			}
			if f := Explain("connect", err); f.Reason != Configuration || strings.Contains(f.Text,
				secret) || strings.Contains(f.Text, garbage) {
				t.Errorf("explained as %q: %s", f.Reason, f.Text)
			}
		})
	}
}

func TestFingerprint(t *testing.T) {
	file := write(t, "config", "one")
	s := Source{Files: []string{file, filepath.Join(t.TempDir(), "missing")}}
	print := func() [32]byte {
		t.Helper()
		sum, err := s.Fingerprint()
		if err != nil {
			t.Error(err)
		}
		return sum
	}
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
		if other, known := seen[print()]; known {
			t.Errorf("%s has the fingerprint of: %s", what, other)
		}
		first := print()
		if seen[first] = what; print() != first {
			t.Errorf("%s: it changes without a change", what)
		}
	}
	os.WriteFile(file, []byte("one"), 0o600)
	os.Remove(s.Files[1])
	if seen[print()] != "as it was" {
		t.Error("what is as it was has another fingerprint")
	}
}
