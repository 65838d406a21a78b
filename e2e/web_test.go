package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/exporter"
)

// webPages are all that the exporter serves, and a path that it does not.
var webPages = []string{"/", "/metrics", "/healthz", "/-/healthy", "/-/ready", "/nothing"}

// The bcrypt hashes of two passwords.
const (
	password      = "a password for tests"
	passwordHash  = "$2a$04$SvVP3pWEudTRygxb0Wte.OlUl7RfPvn/pu8KuL90d6bFgKSGBUwAW"
	otherPassword = "another password"
	otherHash     = "$2a$04$FNyn7Val0iio5siBo8ml..nHIIY2PzCy4HWhq4fCbSTgfsML8ihWS"
)

// webServer is an exporter with a web configuration.
type webServer struct {
	*exporter.Exporter
	dir string // of the configuration and what it names
}

// startWeb starts an exporter with this web configuration, a certificate of the control plane's authority and its key
// beside it, and returns when it has data for this client, who gets in.
func startWeb(t *testing.T, scheme, config string, client webClient) webServer {
	t.Helper()
	w := webServer{dir: t.TempDir()}
	w.install(t)
	w.configure(t, config)
	kubeconfig := deployed(t)
	w.Exporter = must(exporter.Launch(exporter.Options{Args: []string{"--kubeconfig=" + kubeconfig},
		Env: []string{"WEB_CONFIG_FILE=" + w.path("web.yml")}}))(t)
	t.Cleanup(func() { closeExporter(t, w.Exporter) })
	w.URL = strings.Replace(w.URL, "http:", scheme+":", 1)
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		status, text, err := client.get(ctx, w.URL+"/-/ready")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("/-/ready answers %d %s", status, text)
		}
		return err
	})
	return w
}

func (w webServer) path(name string) string { return filepath.Join(w.dir, name) }

func (w webServer) configure(t *testing.T, config string) {
	t.Helper()
	replaceFile(t, w.path("web.yml"), []byte(config))
}

// install puts a new certificate and key where the configuration names them, and returns the certificate.
func (w webServer) install(t *testing.T) *x509.Certificate {
	t.Helper()
	files := must(plane.ClientCertificate("exporter"))(t) // also one for a server on loopback
	pair := must(tls.LoadX509KeyPair(files.CertificateFile, files.KeyFile))(t)
	replaceFile(t, w.path("tls.key"), must(os.ReadFile(files.KeyFile))(t))
	replaceFile(t, w.path("tls.crt"), must(os.ReadFile(files.CertificateFile))(t))
	replaceFile(t, w.path("ca.crt"), must(os.ReadFile(plane.Config().CAFile))(t))
	return must(x509.ParseCertificate(pair.Certificate[0]))(t)
}

// replaceFile changes a file in one step, as the kubelet does with a mounted Secret.
func replaceFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// webClient is who asks, and how. Each request is a connection of its own: credentials and certificates are looked at
// when it is made.
type webClient struct {
	user, password string
	roots          *x509.CertPool
	certificate    *tls.Certificate
}

func (c *webClient) do(ctx context.Context, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if c.user != "" {
		request.SetBasicAuth(c.user, c.password)
	}
	config := &tls.Config{RootCAs: c.roots}
	if c.certificate != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate,
			error) {
			return c.certificate, nil
		}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	return client.Do(request)
}

func (c webClient) get(ctx context.Context, url string) (status int, text string, err error) {
	response, err := c.do(ctx, url)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// planeRoots trusts the control plane's authority.
func planeRoots(t *testing.T) *x509.CertPool {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(must(os.ReadFile(plane.Config().CAFile))(t)) {
		t.Fatal("no certificate in the authority's file")
	}
	return roots
}

// clientCertificate is one of the control plane's authority.
func clientCertificate(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	files := must(plane.ClientCertificate(name))(t)
	pair := must(tls.LoadX509KeyPair(files.CertificateFile, files.KeyFile))(t)
	return &pair
}

// opens fails the test unless the client gets every page, the metrics with all samples.
func (w webServer) opens(t *testing.T, client webClient) {
	t.Helper()
	for _, page := range webPages {
		status, text, err := client.get(within(t, 15*time.Second), w.URL+page)
		if err != nil {
			t.Fatal(err)
		}
		want := http.StatusOK
		if page == "/nothing" {
			want = http.StatusNotFound
		}
		if status != want {
			t.Errorf("%s answers %d, not %d: %s", page, status, want, text)
		}
		if got := strings.Count(text, "\n"+check.PodCPU+"{"); page == "/metrics" && got < containers {
			t.Errorf("%d containers on the page, those of the residents alone are %d", got, containers)
		}
	}
}

// refuses fails the test if the client gets anything of any page.
func (w webServer) refuses(t *testing.T, client webClient, how func(status int, err error) bool) {
	t.Helper()
	for _, page := range webPages {
		status, text, err := client.get(within(t, 15*time.Second), w.URL+page)
		if !how(status, err) {
			t.Errorf("%s answers %d %v", page, status, err)
		}
		for _, part := range []string{"metrics", "ok", "ready", "pod", "kube"} {
			if strings.Contains(strings.ToLower(text), part) {
				t.Errorf("%s tells %q: %.300s", page, part, text)
			}
		}
	}
}

func unauthorized(status int, err error) bool { return err == nil && status == http.StatusUnauthorized }

func noConnection(_ int, err error) bool {
	var alert tls.AlertError
	var authority *tls.CertificateVerificationError
	return errors.As(err, &alert) || errors.As(err, &authority) || err != nil &&
		strings.Contains(err.Error(), "remote error: tls")
}

func TestBasicAuthGuardsEveryPage(t *testing.T) {
	t.Parallel()
	config := func(hash string) string { return fmt.Sprintf("basic_auth_users: {scraper: %q}\n", hash) }
	knows := webClient{user: "scraper", password: password}
	w := startWeb(t, "http", config(passwordHash), knows)
	w.opens(t, knows)
	for name, client := range map[string]webClient{
		"no credentials":           {},
		"a wrong password":         {user: "scraper", password: otherPassword},
		"an unknown user":          {user: "somebody", password: password},
		"the hash as the password": {user: "scraper", password: passwordHash},
	} {
		t.Run(name, func(t *testing.T) { w.refuses(t, client, unauthorized) })
	}

	t.Run("a password that was changed while it runs", func(t *testing.T) {
		w.configure(t, config(otherHash))
		w.opens(t, webClient{user: "scraper", password: otherPassword})
		w.refuses(t, knows, unauthorized)
	})
	if strings.Contains(w.Log(), password) || strings.Contains(w.Log(), passwordHash) {
		t.Errorf("the log has the password or its hash:\n%s", w.Log())
	}
}

func TestTLSAndItsCertificateReplacedWhileItRuns(t *testing.T) {
	t.Parallel()
	trusts := webClient{roots: planeRoots(t)}
	w := startWeb(t, "https", "tls_server_config: {cert_file: tls.crt, key_file: tls.key}\n", trusts)
	w.opens(t, trusts)
	w.refuses(t, webClient{roots: x509.NewCertPool()}, noConnection)
	plain := strings.Replace(w.URL, "https:", "http:", 1)
	t.Run("without TLS", func(t *testing.T) {
		for _, page := range webPages {
			status, text, err := webClient{}.get(within(t, 10*time.Second), plain+page)
			if err != nil || status != http.StatusBadRequest || !strings.Contains(text, "HTTPS") {
				t.Errorf("%s answers %d %v: %s", page, status, err, text)
			}
		}
	})
	old := w.certificate(t, trusts)
	renewed := w.install(t)
	if got := w.certificate(t, trusts); got.Equal(old) || !got.Equal(renewed) {
		t.Errorf("the certificate has the serial number %s; the old one %s, the new one %s", got.SerialNumber,
			old.SerialNumber, renewed.SerialNumber)
	}
	w.opens(t, trusts)
}

// certificate is what the server shows.
func (w webServer) certificate(t *testing.T, client webClient) *x509.Certificate {
	t.Helper()
	response := must(client.do(within(t, 10*time.Second), w.URL+"/"))(t)
	defer response.Body.Close()
	return response.TLS.PeerCertificates[0]
}

func TestClientCertificatesGuardEveryPage(t *testing.T) {
	t.Parallel()
	knows := webClient{roots: planeRoots(t), certificate: clientCertificate(t, "scraper")}
	w := startWeb(t, "https", `
tls_server_config:
  cert_file: tls.crt
  key_file: tls.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
`, knows)
	w.opens(t, knows)
	foreign := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate, which it signed itself
	defer foreign.Close()
	for name, client := range map[string]webClient{
		"no certificate":                      {roots: knows.roots},
		"a certificate of somebody else":      {roots: knows.roots, certificate: &foreign.TLS.Certificates[0]},
		"an authority that it does not trust": {roots: x509.NewCertPool(), certificate: knows.certificate},
	} {
		t.Run(name, func(t *testing.T) { w.refuses(t, client, noConnection) })
	}
}

// TestEverythingTogetherWithAnotherClient asks for TLS, a client certificate and a password, by curl.
func TestEverythingTogetherWithAnotherClient(t *testing.T) {
	t.Parallel()
	curl := must(exec.LookPath("curl"))(t)
	knows := webClient{roots: planeRoots(t), certificate: clientCertificate(t, "ready"), user: "scraper",
		password: password}
	w := startWeb(t, "https", fmt.Sprintf(`
tls_server_config:
  cert_file: tls.crt
  key_file: tls.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
basic_auth_users: {scraper: %q}
`, passwordHash), knows)
	files := must(plane.ClientCertificate("curl"))(t)
	authority := []string{"--cacert", plane.Config().CAFile}
	certificate := []string{"--cert", files.CertificateFile, "--key", files.KeyFile}
	user := []string{"--user", "scraper:" + password}
	for _, test := range []struct {
		name    string
		options [][]string
		gets    bool
	}{
		{"all of it", [][]string{authority, certificate, user}, true},
		{"no password", [][]string{authority, certificate}, false},
		{"no certificate", [][]string{authority, user}, false},
		{"no authority", [][]string{certificate, user}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := []string{"--silent", "--show-error", "--fail", "--compressed", w.URL + "/metrics"}
			for _, options := range test.options {
				args = append(args, options...)
			}
			cmd := exec.CommandContext(within(t, 20*time.Second), curl, args...)
			out, err := cmd.Output()
			if got := bytes.Count(out, []byte("\n"+check.PodCPU+"{")); test.gets != (err == nil) ||
				test.gets != (got >= containers) || !test.gets && len(out) > 0 {
				t.Errorf("curl gets %d containers: %v", got, err)
			}
		})
	}
}

func TestWebConfigurationThatIsWrongEndsTheStart(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]string{
		"not YAML":                     "basic_auth_users: [",
		"an unknown field":             "basic_auth: {}\n",
		"a certificate that is absent": "tls_server_config: {cert_file: nothing.crt, key_file: nothing.key}\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "web.yml")
			replaceFile(t, path, []byte(config))
			code, output, err := exporter.Run(within(t, 10*time.Second), []string{"--web.config.file=" + path}, nil)
			if err != nil || code != 2 || strings.Count(output, "\n") != 1 ||
				!strings.Contains(output, "web.config.file") {
				t.Errorf("exit code %d, %v:\n%s", code, err, output)
			}
		})
	}
}
