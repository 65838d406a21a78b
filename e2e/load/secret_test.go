package load

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/exporter"
)

// secret marks what must never be seen. It looks like a token and has a length at which a text that is shortened may be
// cut in the middle of it, so that the beginning is what is searched for.
var (
	secretMark = "xMARKEDx"
	secret     = secretMark + strings.Repeat("0123456789abcdef", 12)
)

// basicSecret is a header for basic authentication with the secret as the password.
var basicSecret = "Basic " + base64.StdEncoding.EncodeToString([]byte("me:"+secret))

// searchable is the part of the secret that is searched for: its beginning, plain and as basic authentication encodes
// it.
var searchable = []string{secretMark, strings.TrimPrefix(basicSecret, "Basic ")[:12]}

// search fails the test where any of the texts has the secret in it.
func search(t *testing.T, where, text string) {
	t.Helper()
	for _, mark := range searchable {
		if i := strings.Index(text, mark); i >= 0 {
			t.Errorf("a secret is in %s: …%s…", where, text[max(0, i-200):min(len(text), i+60)])
			return
		}
	}
}

// searchAll searches all that an exporter shows: its log, and each page's header and body.
func searchAll(t *testing.T, e *exporter.Exporter, authorization string) {
	t.Helper()
	for _, path := range []string{"/metrics", "/healthz", "/", "/-/ready", "/-/healthy", "/nothing", "/debug/vars"} {
		request, err := http.NewRequestWithContext(within(t, 20*time.Second), http.MethodGet, e.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "0.2")
		if authorization != "" {
			request.Header.Set("Authorization", authorization)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		search(t, path, fmt.Sprint(response.Header, "\n", string(body)))
	}
	search(t, "the log", e.Log())
}

// access is a kubeconfig with one cluster and one user.
type access struct {
	cluster clientcmdapi.Cluster
	user    clientcmdapi.AuthInfo
}

func (a access) write(t *testing.T) string {
	t.Helper()
	c := clientcmdapi.NewConfig()
	c.Clusters["c"], c.AuthInfos["u"] = &a.cluster, &a.user
	c.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "x"
	text, err := clientcmd.Write(*c)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, "kubeconfig", string(text))
}

// accessTo is access to the server with the secret as the token.
func accessTo(server *standin.Server) access {
	return access{clientcmdapi.Cluster{Server: server.URL(), CertificateAuthorityData: server.CAData()},
		clientcmdapi.AuthInfo{Token: secret}}
}

// intercepted is a stand-in that takes the secret as the token and answers all requests with this.
func intercepted(t *testing.T, answer http.HandlerFunc) *standin.Server {
	t.Helper()
	server := simulate(t, standin.Options{Token: secret, Pods: 3})
	if answer != nil {
		server.Intercept(func(w http.ResponseWriter, r *http.Request, _ http.Handler) { answer(w, r) })
	}
	return server
}

// said is all that a request says of who is asking: as it is, taken apart, and decoded.
func said(r *http.Request) string {
	user, password, _ := r.BasicAuth()
	return fmt.Sprintf("%s %q for you, %s with %s; url %s; %s", r.Header.Get("Authorization"), r.Header, user, password,
		r.URL, strings.Repeat("x", 180)+r.Header.Get("Authorization"))
}

// status answers with a metav1.Status that repeats the request's credentials.
func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
			Status: metav1.StatusFailure, Code: int32(code), Message: said(r)})
	}
}

// text answers with a page, as proxies do, that repeats the request's credentials.
func text(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Warning", `299 - "`+r.Header.Get("Authorization")+`"`) // client-go logs these
		w.WriteHeader(code)
		io.WriteString(w, said(r))
	}
}

// plain is a server without TLS.
func plain(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(server.Close)
	return server
}

// plugin is an exec plugin with secrets in all that it is given, and this as its program.
func plugin(t *testing.T, program string) *clientcmdapi.ExecConfig {
	t.Helper()
	return &clientcmdapi.ExecConfig{
		APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: clientcmdapi.NeverExecInteractiveMode,
		Command: "/bin/sh", Args: []string{file(t, "plugin", program), secret},
		Env: []clientcmdapi.ExecEnvVar{{Name: "SECRET", Value: secret}},
	}
}

// refused is an address that nobody listens at.
func refused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestSecretsAreNeverShown plants secrets, makes something go wrong, and searches all that the exporter says at its
// most talkative.
func TestSecretsAreNeverShown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		// kubeconfig makes the fault and returns the file.
		kubeconfig func(t *testing.T) string
		// see is a part of /healthz that shows that the fault has come; empty where it must be ok.
		see string
	}{
		{"nothing is wrong", func(t *testing.T) string { return accessTo(intercepted(t, nil)).write(t) }, ""},
		{"a token file, and nothing is wrong", func(t *testing.T) string {
			a := accessTo(intercepted(t, nil))
			a.user.Token, a.user.TokenFile = "", file(t, "token", secret)
			return a.write(t)
		}, ""},
		{"401 that repeats the token", func(t *testing.T) string { return accessTo(intercepted(t, status(401))).write(t) }, "401 Unauthorized"},
		{"401 that repeats the token of a file", func(t *testing.T) string {
			a := accessTo(intercepted(t, status(401)))
			a.user.Token, a.user.TokenFile = "", file(t, "token", secret)
			return a.write(t)
		}, "401 Unauthorized"},
		{"401 that repeats user and password", func(t *testing.T) string {
			a := accessTo(intercepted(t, status(401)))
			a.user.Token, a.user.Username, a.user.Password = "", "me", secret
			return a.write(t)
		}, "401 Unauthorized"},
		{"401 that repeats the password of the server's URL", func(t *testing.T) string {
			a := accessTo(intercepted(t, status(401)))
			a.user.Token, a.cluster.Server = "",
				strings.Replace(a.cluster.Server, "https://", "https://me:"+secret+"@", 1)
			return a.write(t)
		}, "401 Unauthorized"},
		{"403 that repeats the token", func(t *testing.T) string { return accessTo(intercepted(t, status(403))).write(t) }, "403 Forbidden"},
		{"404 page that repeats the token", func(t *testing.T) string { return accessTo(intercepted(t, text(404))).write(t) }, "404 Not Found"},
		{"429 that repeats the token", func(t *testing.T) string { return accessTo(intercepted(t, status(429))).write(t) }, "429 Too Many"},
		{"500 page that repeats the token", func(t *testing.T) string { return accessTo(intercepted(t, text(500))).write(t) }, "500 Internal"},
		{"503 page that repeats the token", func(t *testing.T) string { return accessTo(intercepted(t, text(503))).write(t) }, "503 Service"},
		{"200 page that repeats the token", func(t *testing.T) string { return accessTo(intercepted(t, text(200))).write(t) }, "not that of a Kubernetes API server"},
		{"a watch that ends with an error that repeats the token", func(t *testing.T) string {
			return accessTo(intercepted(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("watch") == "" {
					text(500)(w, r)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				object, _ := json.Marshal(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
					Status: metav1.StatusFailure, Code: 500, Message: said(r)})
				json.NewEncoder(w).Encode(metav1.WatchEvent{Type: "ERROR", Object: runtime.RawExtension{Raw: object}})
			})).write(t)
		}, "500 Internal"},
		{"a redirect to a URL with the token in it", func(t *testing.T) string {
			return accessTo(intercepted(t, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://127.0.0.1:1/"+secret+"?token="+secret, http.StatusFound)
			})).write(t)
		}, "302 Found"},
		{"no HTTP but the token", func(t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer conn.Close()
						if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
							fmt.Fprintf(conn, "%s\r\n\r\n", r.Header.Get("Authorization"))
						}
					}()
				}
			}()
			a := access{clientcmdapi.Cluster{Server: "http://" + l.Addr().String()},
				clientcmdapi.AuthInfo{Token: secret}}
			return a.write(t)
		}, "malformed HTTP"},
		{"connection refused, password in the URL", func(t *testing.T) string {
			return access{clientcmdapi.Cluster{Server: "https://me:" + secret + "@" + refused(t)},
				clientcmdapi.AuthInfo{Token: secret}}.write(t)
		}, "connection refused"},
		{"a name that does not exist, password in the URL", func(t *testing.T) string {
			return access{clientcmdapi.Cluster{Server: "https://me:" + secret + "@no-such-cluster.invalid"},
				clientcmdapi.AuthInfo{Token: secret}}.write(t)
		}, "cannot resolve"},
		{"a URL that is none, password in it", func(t *testing.T) string {
			return access{clientcmdapi.Cluster{Server: "https://me:" + secret + "@host:%zz/"},
				clientcmdapi.AuthInfo{Token: secret}}.write(t)
		}, "cluster: failing"},
		{"a proxy that refuses, password in its URL", func(t *testing.T) string {
			a := accessTo(intercepted(t, nil))
			a.cluster.ProxyURL = "http://me:" + secret + "@" + refused(t)
			return a.write(t)
		}, "connection refused"},
		{"a proxy that answers 407 and repeats the password", func(t *testing.T) string {
			proxy := plain(t, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusProxyAuthRequired)
				io.WriteString(w, r.Header.Get("Proxy-Authorization"))
			})
			a := accessTo(intercepted(t, nil))
			a.cluster.ProxyURL = strings.Replace(proxy.URL, "http://", "http://me:"+secret+"@", 1)
			return a.write(t)
		}, "Proxy Authentication Required"},
		{"a certificate of an unknown authority", func(t *testing.T) string {
			a := accessTo(intercepted(t, nil))
			a.cluster.CertificateAuthorityData = nil
			return a.write(t)
		}, "x509: "},
		{"TLS to a server that has none", func(t *testing.T) string {
			server := plain(t, text(400))
			return access{clientcmdapi.Cluster{Server: strings.Replace(server.URL, "http:", "https:", 1)},
				clientcmdapi.AuthInfo{Token: secret}}.write(t)
		}, "server gave HTTP response to HTTPS client"},
		{"a token with a newline in it", func(t *testing.T) string {
			a := accessTo(intercepted(t, nil))
			a.user.Token = secret + "\n" + secret
			return a.write(t)
		}, "invalid header field value"},
		{"a token file that does not exist", func(t *testing.T) string {
			a := accessTo(intercepted(t, status(401)))
			a.user.Token, a.user.TokenFile = "", "/does/not/exist"
			return a.write(t)
		}, "/does/not/exist"},
		{"a client key that is none", func(t *testing.T) string {
			a := accessTo(intercepted(t, nil))
			a.user.ClientCertificateData, a.user.ClientKeyData = []byte(secret),
				[]byte("-----BEGIN PRIVATE KEY-----\n"+secret)
			return a.write(t)
		}, "cluster: failing"},
		{"a kubeconfig that is no YAML", func(t *testing.T) string {
			return file(t, "kubeconfig", "users:\n- name: u\n  user: {token: "+secret+"\n"+secret+": [")
		}, "not a valid kubeconfig"},
		{"a kubeconfig that is the token", func(t *testing.T) string { return file(t, "kubeconfig", secret) }, "not a valid kubeconfig"},
		{"an exec plugin that fails and tells", func(t *testing.T) string {
			a := accessTo(intercepted(t, nil))
			a.user.Token, a.user.Exec = "", plugin(t, `echo "$SECRET $1"; echo "$SECRET $1" >&2; exit 3`)
			return a.write(t)
		}, "failed with exit code 3"},
		{"an exec plugin that prints something else", func(t *testing.T) string {
			a := accessTo(intercepted(t, nil))
			a.user.Token, a.user.Exec = "", plugin(t, `echo "$SECRET"`)
			return a.write(t)
		}, "exec plugin"},
		{"an exec plugin that prints another kind of object", func(t *testing.T) string {
			a := accessTo(intercepted(t, nil))
			a.user.Token, a.user.Exec = "", plugin(t,
				`echo '{"apiVersion":"client.authentication.k8s.io/'$SECRET'","kind":"'$SECRET'"}'`)
			return a.write(t)
		}, "exec plugin"},
		{"an exec plugin that is not installed", func(t *testing.T) string {
			a := accessTo(intercepted(t, nil))
			a.user.Token, a.user.Exec = "", plugin(t, "")
			a.user.Exec.Command = "no-such-plugin"
			return a.write(t)
		}, "not installed here"},
		{"401 that repeats the token of an exec plugin", func(t *testing.T) string {
			a := accessTo(intercepted(t, status(401)))
			a.user.Token, a.user.Exec = "", plugin(t, `echo 'using '$SECRET >&2
echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"'$SECRET'"}}'`)
			return a.write(t)
		}, "401 Unauthorized"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := start(t, exporter.Options{Args: []string{"--kubeconfig=" + c.kubeconfig(t), "--log.level=debug"}})
			eventually(t, 30*time.Second, func(ctx context.Context) error {
				code, body, err := e.Get(ctx, "/healthz")
				if err == nil && (c.see == "" && code != 200 || !strings.Contains(body, c.see)) {
					err = fmt.Errorf("/healthz answers %d, without %q: %s", code, c.see, body)
				}
				return err
			})
			searchAll(t, e, "")
		})
	}
}

// TestSecretsOfRunningSettingsAreNeverShown is the same for what the exporter sends elsewhere, or asks of its clients.
func TestSecretsOfRunningSettingsAreNeverShown(t *testing.T) {
	t.Parallel()
	echo := plain(t, text(500))
	withPassword := func(url string) string {
		return strings.Replace(url, "http://", "http://me:"+secret+"@", 1) + "/push?token=" + secret
	}
	// It is "secret", hashed at the lowest cost; here it is the hash that is secret.
	const hash = "$2a$04$JRR5xbHQBTfrPdIHkVgy8.4CT7QYgYZbVnmUjZAFBgR2Iq5WmPYsq"
	for _, c := range []struct {
		name, url, header string
		see               string // in the log
	}{
		{"a receiver that repeats a token and the query", echo.URL + "/push?token=" + secret, "Authorization: Bearer " + secret, "cannot push to"},
		{"a receiver that repeats header and URL", withPassword(echo.URL), "X-Token: " + secret, "cannot push to"},
		{"a receiver that cannot be reached", withPassword("http://" + refused(t)), "X-Token: " + secret, "connection refused"},
		{"a receiver without a name", withPassword("http://no-such-receiver.invalid"), "X-Token: " + secret, "cannot push to"},
		{"a receiver that redirects", withPassword(plain(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+r.Host+"/"+secret+"?"+secret, http.StatusTemporaryRedirect)
		}).URL), "X-Token: " + secret, "cannot push to"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := simulate(t, standin.Options{Pods: 3, Token: secret})
			e := start(t, exporter.Options{
				Args: []string{"--kubeconfig=" + kubeconfig(t, server), "--log.level=debug", "--push.interval=1s"},
				Env:  []string{"PUSH_URL=" + c.url, "PUSH_HEADER=" + c.header},
			})
			eventually(t, 30*time.Second, func(context.Context) error {
				if log := e.Log(); !strings.Contains(log, c.see) {
					return fmt.Errorf("the log is without %q: %s", c.see, log)
				}
				return nil
			})
			searchAll(t, e, "")
		})
	}
	t.Run("basic authentication", func(t *testing.T) {
		t.Parallel()
		server := simulate(t, standin.Options{Pods: 3})
		web := file(t, "web.yml", "basic_auth_users:\n  me: "+hash+"\n")
		e, err := exporter.Launch(exporter.Options{Args: []string{"--kubeconfig=" + kubeconfig(t, server),
			"--log.level=debug", "--web.config.file=" + web}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Close)
		eventually(t, 10*time.Second, func(ctx context.Context) error {
			code, _, err := e.Get(ctx, "/metrics")
			if err == nil && code != http.StatusUnauthorized {
				err = fmt.Errorf("status %d without a password", code)
			}
			return err
		})
		searchAll(t, e, "")
		searchAll(t, e, basicSecret) // a wrong password
		if log := e.Log(); strings.Contains(log, hash[:20]) {
			t.Errorf("the hash is in the log: %s", log)
		}
	})
}

// TestWrongSettingsEndTheStartWithoutSecrets holds the start's one line against the mistakes that are made with
// secrets.
func TestWrongSettingsEndTheStartWithoutSecrets(t *testing.T) {
	t.Parallel()
	kubeconfigText := "apiVersion: v1\nkind: Config\nusers:\n- name: u\n  user: {token: " + secret + "}\n"
	for _, c := range []struct {
		name string
		args []string
		env  []string
		see  string
	}{
		{"a push URL without a scheme", []string{"--push.url=me:" + secret + "@host/"}, nil, "--push.url"},
		{"a push URL in the environment", nil, []string{"PUSH_URL=ftp://me:" + secret + "@host/"}, "PUSH_URL"},
		{"a push header that is only the value", []string{"--push.header", secret}, nil, "--push.header"},
		{"a push header in the environment that is only the value", nil, []string{"PUSH_HEADER=Bearer " + secret}, "PUSH_HEADER"},
		{"a push header without a valid name", []string{"--push.url=http://host", "--push.header=Bad Name: " + secret}, nil, "--push.header"},
		{"a push header that breaks a line", []string{"--push.url=http://host", "--push.header=X-Token: " + secret + "\x7f"}, nil, "--push.header"},
		{"a push header without quotes", []string{"--push.header", "Authorization:", "Bearer", secret}, nil, "need quotes"},
		{"a flag that does not exist", []string{"--push.token=" + secret}, nil, "push.token"},
		{"a space for the equals sign", []string{"--push.token " + secret}, nil, "see --help"},
		{"a colon for the equals sign", []string{"--push.header:" + secret}, nil, "see --help"},
		{"three dashes", []string{"---push.header=" + secret}, nil, "see --help"},
		{"no name", []string{"--=" + secret}, nil, "see --help"},
		{"an option of another program", []string{"-H", "Authorization: Bearer " + secret}, nil, "see --help"},
		{"a value for --version", []string{"--version=" + secret}, nil, "see --help"},
		{"a kubeconfig itself instead of its name", []string{"--kubeconfig=" + kubeconfigText}, nil, "--kubeconfig"},
		{"a kubeconfig itself in the environment", nil, []string{"KUBECONFIG=" + kubeconfigText}, "KUBECONFIG"},
		{"a kubeconfig in a variable that is no YAML", nil, []string{"KUBECONFIG_DATA=" + kubeconfigText + "\t}"}, "KUBECONFIG_DATA"},
		{"a token in place of a kubeconfig", []string{"--kubeconfig-data=" + secret}, nil, "--kubeconfig-data"},
		{"a web configuration that is no YAML", []string{"--web.config.file=" + file(t, "web.yml", "basic_auth_users: {me: "+secret)}, nil, "--web.config.file"},
		{"a web configuration of the wrong type", []string{"--web.config.file=" + file(t, "web.yml", "basic_auth_users: "+secret)}, nil, "--web.config.file"},
		{"a web configuration with a field that does not exist", []string{"--web.config.file=" + file(t, "web.yml", secret+": me")}, nil, "--web.config.file"},
		{"a web configuration with a password that is not hashed", []string{"--web.config.file=" + file(t, "web.yml", "basic_auth_users:\n  me: "+secret)}, nil, "--web.config.file"},
		{"a kubeconfig as the web configuration", []string{"--web.config.file=" + file(t, "web.yml", "users: "+secret)}, nil, "--web.config.file"},
		{"a web configuration with a wrong version of TLS", []string{"--web.config.file=" + file(t, "web.yml", "tls_server_config: {min_version: "+secret+"}")}, nil, "--web.config.file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			code, output, err := exporter.Run(within(t, 10*time.Second),
				append(c.args, "--log.level=debug", "--web.listen-address=127.0.0.1:0"), c.env)
			if err != nil || code != 2 {
				t.Errorf("exit code %d, error %v; want 2: %s", code, err, output)
			}
			if strings.Count(output, "\n") != 1 || !strings.Contains(output, c.see) {
				t.Errorf("not one line with %q: %q", c.see, output)
			}
			search(t, "the output", output)
		})
	}
}

// TestCredentialsAreNotCarriedElsewhere has the API server redirect to another, which must not get to know the token.
func TestCredentialsAreNotCarriedElsewhere(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	elsewhere := plain(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	server := intercepted(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	})
	e := start(t, exporter.Options{Args: []string{"--kubeconfig=" + accessTo(server).write(t)}})
	eventually(t, 20*time.Second, func(ctx context.Context) error {
		_, body, err := e.Get(ctx, "/healthz")
		if err == nil && !strings.Contains(body, "307 Temporary Redirect") {
			err = fmt.Errorf("/healthz does not name the redirect: %s", body)
		}
		return err
	})
	if n := asked.Load(); n > 0 {
		t.Errorf("the other server was asked %d times", n)
	}
}
