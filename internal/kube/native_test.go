package kube

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"metrics-server-prom/internal/credentials/standin"
)

// TestWhenPluginsAreAnsweredInPlaceOf looks at each way in which a kubeconfig names a cloud's program.
func TestWhenPluginsAreAnsweredInPlaceOf(t *testing.T) {
	const v1, old = "client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1alpha1"
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	if err := os.WriteFile(filepath.Join(bin, "aws"), []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	getToken := []string{"eks", "get-token", "--cluster-name", "shop"}
	for name, c := range map[string]struct {
		command string
		args    []string
		version string
		mode    clientcmdapi.ExecInteractiveMode
		want    string // by missing, always, never: y or n
	}{
		"aws, which is there":          {"aws", getToken, v1, "", "nyn"},
		"aws at a path":                {"/usr/local/bin/aws", getToken, v1, "", "yyn"},
		"aws on another system":        {`C:\Program Files\Amazon\AWSCLIV2\aws.exe`, getToken, v1, "", "yyn"},
		"aws of an old version":        {"aws", getToken, old, "", "yyn"},
		"aws that wants a terminal":    {"aws", getToken, v1, clientcmdapi.AlwaysExecInteractiveMode, "yyn"},
		"aws for something else":       {"/gone/aws", []string{"sts"}, v1, "", "nnn"},
		"aws-iam-authenticator":        {"aws-iam-authenticator", []string{"token", "-i", "shop"}, v1, "", "yyn"},
		"its other commands":           {"aws-iam-authenticator", []string{"verify"}, v1, "", "nnn"},
		"gke-gcloud-auth-plugin":       {"gke-gcloud-auth-plugin", nil, v1, "", "yyn"},
		"kubelogin":                    {"kubelogin", []string{"get-token", "--server-id", "x"}, v1, "", "yyn"},
		"the kubelogin of OIDC":        {"kubelogin", []string{"get-token", "--oidc-issuer-url=x"}, v1, "", "nnn"},
		"an unknown plugin":            {"doctl", []string{"kubernetes"}, v1, "", "nnn"},
		"a plugin of a similar name":   {"aws-vault", getToken, v1, "", "nnn"},
		"a path that ends with a name": {"/opt/kubelogin/run", []string{"get-token"}, v1, "", "nnn"},
	} {
		t.Run(name, func(t *testing.T) {
			for i, mode := range []string{NativeMissing, NativeAlways, NativeNever} {
				user := &clientcmdapi.AuthInfo{Exec: &clientcmdapi.ExecConfig{Command: c.command, Args: c.args,
					APIVersion: c.version, InteractiveMode: c.mode, Env: []clientcmdapi.ExecEnvVar{{Name: "A", Value: "b"}}}}
				answerNatively(user, mode)
				native := nativeName(user.Exec)
				if (native != "") != (c.want[i] == 'y') {
					t.Errorf("%s: answered in place of: %t", mode, native != "")
				}
				if native == "" {
					if user.Exec.Command != c.command {
						t.Errorf("%s: the command is %s", mode, user.Exec.Command)
					}
					continue
				}
				if args := user.Exec.Args[2:]; native != c.command || fmt.Sprint(args) != fmt.Sprint(c.args) ||
					len(user.Exec.Env) != 1 || user.Exec.APIVersion != v1 {
					t.Errorf("%s: %+v", mode, user.Exec)
				}
			}
		})
	}
	for _, name := range []string{"gcp", "azure", "oidc", "openstack"} {
		user := &clientcmdapi.AuthInfo{AuthProvider: &clientcmdapi.AuthProviderConfig{Name: name,
			Config: map[string]string{"refresh-token": secret}}}
		answerNatively(user, NativeNever)
		if user.Exec != nil || user.AuthProvider == nil {
			t.Errorf("auth-provider %s: answered in place of with %s", name, NativeNever)
		}
		answerNatively(user, "")
		switch known := name != "openstack"; {
		case known != (user.Exec != nil) || known != (user.AuthProvider == nil):
			t.Errorf("auth-provider %s: %v", name, user.Exec)
		case known && (strings.Contains(fmt.Sprint(user.Exec.Args), secret) ||
			user.Exec.Env[0].Value != `{"refresh-token":"`+secret+`"}`):
			t.Errorf("auth-provider %s: %v with %v", name, user.Exec.Args, user.Exec.Env)
		}
	}
}

// eksKubeconfig is a kubeconfig for the server whose user is as aws eks update-kubeconfig writes it.
func eksKubeconfig(server, version string, env []string) string {
	text := strings.Replace(kubeconfig(server, "shop"), "user: {token: "+secret+"}", `user:
    exec:
      apiVersion: `+version+`
      args: [--region, eu-central-1, eks, get-token, --cluster-name, shop, --output, json]
      command: aws
      env:`, 1)
	text, rest, _ := strings.Cut(text, "      env:\n")
	text += "      env:\n"
	for _, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		text += fmt.Sprintf("      - {name: %s, value: %q}\n", name, value)
	}
	return strings.Replace(text, "{server: "+server+"}", "{server: "+server+", insecure-skip-tls-verify: true}", 1) + rest
}

// clouds are stand-ins, with a key for AWS in the environment that leads to them.
func clouds(t *testing.T, prepare func(*standin.Clouds)) (c *standin.Clouds, env []string) {
	t.Helper()
	c, err := standin.New(t.TempDir(), func(c *standin.Clouds) {
		if prepare != nil {
			prepare(c)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, append(c.Env(), "AWS_ACCESS_KEY_ID="+c.AWS.Key, "AWS_SECRET_ACCESS_KEY="+c.AWS.Secret)
}

// TestKubeconfigOfACloudWorksWithoutItsProgram has each form of an entry for EKS, from a file or a variable.
func TestKubeconfigOfACloudWorksWithoutItsProgram(t *testing.T) {
	t.Setenv("PATH", "")
	c, env := clouds(t, nil)
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if _, err := c.Holder(token, "shop"); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
		}
	})
	for name, version := range map[string]string{"v1beta1": "client.authentication.k8s.io/v1beta1",
		"v1": "client.authentication.k8s.io/v1", "an old version": "client.authentication.k8s.io/v1alpha1"} {
		text := eksKubeconfig(server.URL, version, env)
		if version == pluginVersion {
			text = strings.Replace(text, "command: aws", "interactiveMode: IfAvailable\n      command: aws", 1)
		}
		var data string
		if must := setData(&data)(base64.StdEncoding.EncodeToString([]byte(text))); must != "" {
			t.Fatal(must)
		}
		for where, source := range map[string]Source{"a file": {Files: []string{write(t, "config", text)}},
			"a variable": {Data: data}} {
			config, err := source.Config()
			if err == nil {
				err = list(t.Context(), config, Core)
			}
			if err != nil {
				t.Errorf("%s from %s: %v", name, where, Explain("list pods", err))
			}
		}
	}
}

func TestCloudsThatGiveNothing(t *testing.T) {
	t.Setenv("PATH", "")
	server := serve(t, answer(200, ""))
	t.Run("no credentials: the answer's own lines are the error", func(t *testing.T) {
		c, _ := clouds(t, nil)
		source := Source{Data: eksKubeconfig(server.URL, pluginVersion+"beta1", append(c.Env(), c.Instance()...))}
		config, err := source.Config()
		if err != nil {
			t.Fatal(err)
		}
		checkExplained(t, "list pods", list(t.Context(), config, Core), Configuration, 0,
			"cannot list pods: no token for the EKS cluster shop with the credentials of the instance's metadata at "+
				"169.254.169.254, as there are none in AWS_ACCESS_KEY_ID, AWS_WEB_IDENTITY_TOKEN_FILE, profile default in ",
			"; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, mount ~/.aws")
	})
	t.Run("a cloud that hangs", func(t *testing.T) {
		_, env := clouds(t, func(c *standin.Clouds) { c.Hang = true })
		env = append(env[:len(env)-2], "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/keys")
		config, err := Source{Data: eksKubeconfig(server.URL, pluginVersion+"beta1", env)}.Config()
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = mustTransport(t, config).get(t.Context(), server.URL, 2*time.Second)
		checkExplained(t, "list pods", err, Configuration, 0,
			"the answer in place of the exec plugin aws has not answered within 2s")
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %s", took)
		}
	})
	t.Run("a cloud that cannot be reached", func(t *testing.T) {
		_, env := clouds(t, nil)
		env = append(env, "AWS_ROLE_ARN=arn:aws:iam::111122223333:role/r", "AWS_WEB_IDENTITY_TOKEN_FILE="+write(t, "token",
			"t"),
			"AWS_ACCESS_KEY_ID=", "HTTPS_PROXY=http://"+nobody(t))
		config, err := Source{Data: eksKubeconfig(server.URL, pluginVersion+"beta1", env)}.Config()
		if err != nil {
			t.Fatal(err)
		}
		checkExplained(t, "list pods", list(t.Context(), config, Core), Network, 0,
			"with the credentials of AWS_WEB_IDENTITY_TOKEN_FILE, as there are none in AWS_ACCESS_KEY_ID: Post ",
			"connection refused; check the network between here and the cloud, and HTTPS_PROXY")
	})
	t.Run("it is wanted never", func(t *testing.T) {
		source := Source{Data: eksKubeconfig(server.URL, pluginVersion+"beta1", nil), Native: NativeNever}
		config, err := source.Config()
		if err != nil {
			t.Fatal(err)
		}
		checkExplained(t, "list pods", list(t.Context(), config, Core), Configuration, 0,
			"an exec plugin that is not installed here: aws; set --native-credentials (NATIVE_CREDENTIALS) to missing, or use a")
	})
	t.Run("an auth-provider, and it is wanted never", func(t *testing.T) {
		source := Source{Native: NativeNever, Data: strings.Replace(kubeconfig("https://one", "dev"), "token: "+secret,
			"auth-provider: {name: gcp, config: {access-token: "+secret+"}}", 1)}
		_, err := source.Config()
		checkExplained(t, "connect", err, Configuration, 0, `cannot use context "dev" of kubeconfig in KUBECONFIG_DATA: its `+
			`auth-provider "gcp" is answered in place of only where that is wanted; set --native-credentials`)
	})
}

func TestKubeconfigData(t *testing.T) {
	text := kubeconfig("https://one", "dev")
	wrapped := strings.Builder{}
	for i, c := range base64.StdEncoding.EncodeToString([]byte(text)) {
		if wrapped.WriteRune(c); i%76 == 75 {
			wrapped.WriteString("\n")
		}
	}
	for name, c := range map[string]struct {
		value string
		ok    bool
	}{
		"nothing": {"", true}, "YAML": {text, true}, "base64": {base64.StdEncoding.EncodeToString([]byte(text)), true},
		"base64 in lines": {wrapped.String(), true}, "the name of a file": {"/etc/kube/config", false},
		"no kubeconfig": {"a: b", false}, "base64 of none": {base64.StdEncoding.EncodeToString([]byte(secret)), false},
		"broken YAML": {text + "\n\t{" + secret, false},
	} {
		var data string
		must := setData(&data)(c.value)
		if (must == "") != c.ok || strings.Contains(must, secret) {
			t.Errorf("%s: %q", name, must)
		}
		if c.ok && c.value != "" {
			config, err := Source{Data: data}.Config()
			if err != nil || config.Host != "https://one" {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	one, _ := Source{Data: "a"}.Fingerprint()
	if two, _ := (Source{Data: "b"}).Fingerprint(); one == two {
		t.Error("another kubeconfig has the same fingerprint")
	}
}

func FuzzKubeconfigData(f *testing.F) {
	text := kubeconfig("https://one", "dev")
	f.Add(text)
	f.Add(base64.StdEncoding.EncodeToString([]byte(text)))
	f.Add("clusters: [{name: a, cluster: {server: x}}]\nusers: [{name: u, user: {exec: {command: aws}}}]")
	f.Fuzz(func(t *testing.T, value string) {
		var data string
		if setData(&data)(value) != "" {
			return
		}
		if _, err := (Source{Data: data, Native: NativeAlways}).Config(); err != nil {
			if f := Explain("connect", err); strings.Contains(f.Text, "\n") {
				t.Errorf("%q", f.Text)
			}
		}
	})
}
