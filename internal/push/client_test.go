package push

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"metrics-server-prom/internal/credentials/standin"
)

// write writes a file into a folder and returns its name.
func write(t *testing.T, dir, name, text string) (file string) {
	t.Helper()
	file = filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// configured is a pusher by remote write of one series, to a URL and by a file of this text, below dir.
func configured(t *testing.T, url, dir, text string) *Pusher {
	t.Helper()
	p, _ := writer(1)
	p.URL = url + "/api/v1/write"
	if must := p.SetHTTPConfig(write(t, dir, "http.yml", text)); must != "" {
		t.Fatal(must)
	}
	if err := p.Check(nil); err != nil {
		t.Fatal(err)
	}
	return p
}

// pushed pushes once and returns what went wrong, which is nothing secret.
func pushed(t *testing.T, p *Pusher) string {
	t.Helper()
	var err error
	log := logged(func() { _, err = p.push(t.Context(), false) })
	if strings.Contains(log, "MARKED") {
		t.Errorf("a secret is in the log: %s", log)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// tried makes one request, which a push would make again where it fails, and returns what went wrong.
func tried(t *testing.T, p *Pusher) string {
	t.Helper()
	snappy := http.Header{"Content-Encoding": {"snappy"}}
	f := p.send(t.Context(), http.MethodPost, snappy, &batchBody{batch: []byte{0}})
	p.client.renew()
	if f == nil {
		return ""
	}
	if strings.Contains(f.why, "MARKED") {
		t.Errorf("a secret is in the error: %s", f.why)
	}
	return f.why
}

// TestWhatAFileAdds has a path relative to the file in each.
func TestWhatAFileAdds(t *testing.T) {
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:MARKED-PASSWORD"))
	for name, c := range map[string]struct {
		file, header, want string
	}{
		"nothing":                             {"", "Authorization", ""},
		"basic_auth":                          {"basic_auth: {username: me, password: MARKED-PASSWORD}", "Authorization", basic},
		"basic_auth with a file":              {"basic_auth: {username: me, password_file: password}", "Authorization", basic},
		"basic_auth of files":                 {"basic_auth: {username_file: user, password_file: password}", "Authorization", basic},
		"authorization":                       {"authorization: {credentials: MARKED-TOKEN}", "Authorization", "Bearer MARKED-TOKEN"},
		"authorization with a file":           {"authorization: {credentials_file: token}", "Authorization", "Bearer MARKED-TOKEN"},
		"authorization of a type":             {"authorization: {type: Key, credentials_file: token}", "Authorization", "Key MARKED-TOKEN"},
		"bearer_token, as it was":             {"bearer_token: MARKED-TOKEN", "Authorization", "Bearer MARKED-TOKEN"},
		"a header":                            {"http_headers: {X-Scope-OrgID: {values: [tenant]}}", "X-Scope-Orgid", "tenant"},
		"a secret header":                     {"http_headers: {X-Key: {secrets: [MARKED-KEY]}}", "X-Key", "MARKED-KEY"},
		"a header of a file":                  {"http_headers: {X-Key: {files: [token]}}", "X-Key", "MARKED-TOKEN"},
		"redirects, which it does not follow": {"follow_redirects: true", "Authorization", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			var status int
			url := receiver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
				got = r.Header.Values(c.header)
				http.Error(w, fmt.Sprintf("you are %q", got), status)
			})
			dir := t.TempDir()
			write(t, dir, "user", "me\n")
			write(t, dir, "password", "MARKED-PASSWORD\n")
			write(t, dir, "token", "MARKED-TOKEN\n")
			for _, format := range []string{RemoteWrite, Text} {
				p := configured(t, url, dir, c.file)
				if p.Format, p.Page = format, onePage; format == Text {
					p.URL = url
				}
				for status = range map[int]bool{200: true, 401: true} {
					says := pushed(t, p)
					if value := strings.Join(got, "|"); value != c.want || (says == "") != (status == 200) {
						t.Errorf("%s, %d: %q, want %q; %s", format, status, value, c.want, says)
					}
					if strings.Contains(says, base64.StdEncoding.EncodeToString([]byte("me:MARKED"))[:12]) {
						t.Errorf("shows the password: %s", says)
					}
				}
			}
		})
	}
}

// TestFilesAreReadAnew, so that a token can be renewed while the program runs.
func TestFilesAreReadAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := remote{answer: func(_ int, w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer MARKED-NEW" {
				http.Error(w, "no "+r.Header.Get("Authorization"), http.StatusUnauthorized)
			}
		}}
		m.start(t)
		dir := t.TempDir()
		p := configured(t, "http://receiver", dir, "authorization: {credentials_file: token}")
		missing := pushed(t, p)
		if !strings.Contains(missing, "no such file or directory") || !strings.Contains(missing, "--push.http-config.file") {
			t.Errorf("without the file: %s", missing)
		}
		write(t, dir, "token", "MARKED-OLD")
		if says := pushed(t, p); !strings.Contains(says, "answered 401 Unauthorized: no …; check") {
			t.Errorf("with an old token: %s", says)
		}
		write(t, dir, "token", "MARKED-NEW")
		if says := pushed(t, p); says != "" {
			t.Errorf("with a new token: %s", says)
		}
	})
}

// TestTheReceiversAuthorityCanBeRenewed, and the client's certificate is shown.
func TestTheReceiversAuthorityCanBeRenewed(t *testing.T) {
	for _, with2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("HTTP/2 %t", with2), func(t *testing.T) {
			var protocol, client string
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				protocol, client = r.Proto, ""
				if certificates := r.TLS.PeerCertificates; len(certificates) > 0 {
					client = certificates[0].Subject.CommonName
				}
			}))
			server.EnableHTTP2, server.TLS = true, &tls.Config{ClientAuth: tls.RequestClientCert}
			server.Config.ErrorLog = quiet
			server.StartTLS()
			t.Cleanup(server.Close)
			dir := t.TempDir()
			other, key := certificate(t, "client")
			write(t, dir, "ca.crt", other)
			write(t, dir, "client.crt", other)
			write(t, dir, "client.key", key)
			p := configured(t, server.URL, dir, fmt.Sprintf("enable_http2: %t\n"+
				"tls_config: {ca_file: ca.crt, cert_file: client.crt, key_file: client.key}", with2))
			if says := tried(t, p); !strings.Contains(says, "certificate signed by unknown authority") {
				t.Errorf("an authority that it does not trust: %s", says)
			}
			write(t, dir, "ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
				Bytes: server.Certificate().Raw})))
			says := tried(t, p)
			want := map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"}[with2]
			if says != "" || protocol != want || client != "client" {
				t.Errorf("%s %q, %s", protocol, client, says)
			}
			write(t, dir, "ca.crt", "none")
			if says := tried(t, p); !strings.Contains(says, "unable to use specified CA cert") {
				t.Errorf("a file that has no certificate any more: %s", says)
			}
		})
	}
}

// TestOAuth2 asks for a token, keeps it, and asks again when the secret changes.
func TestOAuth2(t *testing.T) {
	const file = "oauth2: {client_id: me, client_secret_file: secret, token_url: '%s/token', scopes: [write]}"
	given, hang := 0, make(chan struct{})
	tokens := receiver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
		_, secret, _ := r.BasicAuth()
		r.ParseForm()
		switch secret = cmp.Or(secret, r.Form.Get("client_secret")); { // the library finds out how it is to be sent
		case r.Form.Get("scope") != "write":
			w.WriteHeader(http.StatusBadRequest)
		case secret == "MARKED-HANG":
			<-hang
		case secret != "MARKED-SECRET" && secret != "MARKED-OTHER":
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":"invalid_client","error_description":"no %s of %s %v"}`, secret, r.Header["Authorization"],
				r.Form)
		default:
			given++
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"access_token":"MARKED-%d","token_type":"Bearer","expires_in":3600}`, given)
		}
	})
	var got string
	url := receiver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
		if got = r.Header.Get("Authorization"); got == "Bearer MARKED-2" {
			http.Error(w, "no "+got, http.StatusForbidden)
		}
	})
	defer close(hang)
	dir := t.TempDir()
	write(t, dir, "secret", "MARKED-WRONG")
	p := configured(t, url, dir, fmt.Sprintf(file, tokens))
	if says := tried(t, p); !strings.Contains(says, "oauth2: ") || !strings.Contains(says, "invalid_client") ||
		strings.Contains(says, base64.StdEncoding.EncodeToString([]byte("me:MARKED"))[:10]) {
		t.Errorf("with a wrong secret: %s", says)
	}
	write(t, dir, "secret", "MARKED-SECRET")
	for range 2 {
		if says := tried(t, p); says != "" || got != "Bearer MARKED-1" || given != 1 {
			t.Errorf("%s, %d tokens, %s", got, given, says)
		}
	}
	write(t, dir, "secret", "MARKED-OTHER")
	if says := tried(t, p); !strings.Contains(says, "answered 403 Forbidden: no …;") || got != "Bearer MARKED-2" {
		t.Errorf("with another secret: %s, %s", got, says)
	}
	// What hangs is bounded, although the library asks for tokens without a time limit.
	defer func(former time.Duration) { tokenTime = former }(tokenTime)
	tokenTime = 50 * time.Millisecond
	write(t, dir, "secret", "MARKED-HANG")
	if says := tried(t, p); !strings.Contains(says, "i/o timeout") {
		t.Errorf("a token that does not come: %s", says)
	}
}

// TestSignatures are checked with code of the stand-in's own.
func TestSignatures(t *testing.T) {
	const static = "sigv4: {region: eu-central-1, access_key: AKIDEXAMPLE, secret_key: MARKED-SECRET%s}"
	const role = "arn:aws:iam::111122223333:role/writer"
	var asked []string
	sts := receiver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		asked = append(asked, r.Form.Get("Action")+" "+r.Form.Get("RoleArn")+" "+r.Form.Get("ExternalId"))
		if r.Form.Get("ExternalId") == "wrong" {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, "<ErrorResponse><Error><Code>AccessDenied</Code><Message>User me is not authorized</Message>"+
				"</Error></ErrorResponse>")
			return
		}
		fmt.Fprintf(w, "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId>"+
			"<SecretAccessKey>MARKED-ROLE</SecretAccessKey><SessionToken>MARKED-SESSION</SessionToken>"+
			"<Expiration>%s</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>",
			time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	})
	for name, c := range map[string]struct {
		file, format       string
		key, secret, scope string
		asked, says        string
	}{
		"keys of the file": {fmt.Sprintf(static, ""), RemoteWrite, "AKIDEXAMPLE", "MARKED-SECRET", "eu-central-1/aps", "", ""},
		"another service": {fmt.Sprintf(static, ", service_name: execute-api"), RemoteWrite,
			"AKIDEXAMPLE", "MARKED-SECRET", "eu-central-1/execute-api", "", ""},
		"text, whose hash is not known": {fmt.Sprintf(static, ", service_name: vpc-lattice-svcs"), Text,
			"AKIDEXAMPLE", "MARKED-SECRET", "eu-central-1/vpc-lattice-svcs", "", ""},
		"keys and region of the environment": {"sigv4: {}", RemoteWrite, "AKIDENV", "MARKED-ENV", "us-east-1/aps", "", ""},
		"a profile":                          {"sigv4: {profile: other}", RemoteWrite, "AKIDPROFILE", "MARKED-PROFILE", "eu-west-1/aps", "", ""},
		"a role": {fmt.Sprintf(static, ", role_arn: '"+role+"', external_id: e"), RemoteWrite, "ASIAROLE", "MARKED-ROLE",
			"eu-central-1/aps", "AssumeRole " + role + " e", ""},
		"a role that is not given": {fmt.Sprintf(static, ", role_arn: '"+role+"', external_id: wrong"), RemoteWrite, "", "", "",
			"AssumeRole " + role + " wrong", "no AWS credentials: AccessDenied: User me is not authorized; check --push.url"},
		"with a header that is signed too": {fmt.Sprintf(static, "") + "\nhttp_headers: {X-Extra: {values: [x]}}", RemoteWrite,
			"AKIDEXAMPLE", "MARKED-SECRET", "eu-central-1/aps", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "AKIDENV", "AWS_SECRET_ACCESS_KEY": "MARKED-ENV",
				"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL_STS": sts, "AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true",
				"AWS_CONFIG_FILE": write(t, dir, "config", "[profile other]\nregion = eu-west-1\n"+
					"aws_access_key_id = AKIDPROFILE\naws_secret_access_key = MARKED-PROFILE\n"),
				"AWS_SHARED_CREDENTIALS_FILE": write(t, dir, "credentials", "")} {
				t.Setenv(name, value)
			}
			if strings.Contains(c.file, "profile") {
				os.Unsetenv("AWS_REGION")
			}
			var problem string
			requests := 0
			url := receiver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				requests++
				problem = wrongSignature(r, body, c.key, c.secret, c.scope, c.format == Text)
				if strings.Contains(c.file, "X-Extra") && !strings.Contains(r.Header.Get("Authorization"), ";x-extra") {
					problem += ", the header is not signed"
				}
				http.Error(w, fmt.Sprint(r.Header), http.StatusForbidden)
			})
			asked = nil
			p := configured(t, url, dir, c.file)
			p.Format, p.Page = c.format, onePage
			push := tried
			if c.format == Text {
				push = pushed
			}
			says := push(t, p)
			if c.says != "" && (!strings.Contains(says, c.says) || requests > 0) {
				t.Errorf("%s; %s", problem, says)
			}
			for range 2 { // with the same keys
				if c.says == "" && (!strings.Contains(says, "answered 403") || problem != "") {
					t.Errorf("%s; %s", problem, says)
				}
				if c.says == "" {
					says = push(t, p)
				}
			}
			if got := strings.Join(asked, ", "); got != c.asked {
				t.Errorf("asked for %s, want %s", got, c.asked)
			}
		})
	}
}

// wrongSignature is what is wrong with a request's signature.
func wrongSignature(r *http.Request, body []byte, key, secret, scope string, unhashed bool) string {
	field := func(name string) string {
		_, rest, _ := strings.Cut(r.Header.Get("Authorization"), name+"=")
		value, _, _ := strings.Cut(rest, ",")
		return value
	}
	headers := map[string]string{"host": r.Host, "content-length": fmt.Sprint(len(body))}
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
	s := standin.Signature{Method: r.Method, Path: r.URL.EscapedPath(), Headers: headers,
		SignedHeaders: field("SignedHeaders"), Payload: fmt.Sprintf("%x", sha256.Sum256(body)),
		Date: r.Header.Get("X-Amz-Date"), Credential: field("Credential")}
	if unhashed {
		s.Payload = "UNSIGNED-PAYLOAD"
	}
	at, err := time.Parse("20060102T150405Z", s.Date)
	region, service, _ := strings.Cut(scope, "/")
	switch want := key + "/" + at.Format("20060102") + "/" + region + "/" + service + "/aws4_request"; {
	case err != nil || time.Since(at).Abs() > time.Minute:
		return "it is of " + s.Date
	case s.Credential != want:
		return "it is by " + s.Credential + ", not " + want
	case s.Sign(secret) != field("Signature"):
		return "it does not match"
	case r.Header.Get("X-Amz-Content-Sha256") != s.Payload:
		return "it is for a body of the hash " + r.Header.Get("X-Amz-Content-Sha256")
	case key == "ASIAROLE" && r.Header.Get("X-Amz-Security-Token") != "MARKED-SESSION":
		return "it has no session"
	}
	return ""
}

// TestAProxyOfTheFile is used, and its password is not shown.
func TestAProxyOfTheFile(t *testing.T) {
	var got string
	proxy := receiver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
		got = r.Method + " " + r.URL.String() + " " + r.Header.Get("Proxy-Authorization")
		http.Error(w, got+" MARKED-PASSWORD", http.StatusBadRequest)
	})
	p := configured(t, "http://receiver.invalid", t.TempDir(),
		"proxy_url: "+strings.Replace(proxy, "://", "://me:MARKED-PASSWORD@", 1))
	says := pushed(t, p)
	want := "POST http://receiver.invalid/api/v1/write Basic " +
		base64.StdEncoding.EncodeToString([]byte("me:MARKED-PASSWORD"))
	if got != want || !strings.Contains(says, "answered 400") || strings.Contains(says, "MARKED") {
		t.Errorf("%s, %s", got, says)
	}
}

func TestFilesThatAreNotValid(t *testing.T) {
	for name, c := range map[string]struct{ file, says string }{
		"no YAML":                  {"{MARKED", "not valid YAML, or a field that does not exist, line 1"},
		"an unknown field":         {"a: 1\nMARKED-PASSWORD: 2", "not valid YAML, or a field that does not exist"},
		"an unknown field inside":  {"basic_auth: {user: MARKED}", "not valid YAML, or a field that does not exist, line 1"},
		"a value of a wrong kind":  {"enable_http2: MARKED", "not valid YAML, or a field that does not exist, line 1"},
		"two ways to authorize":    {"basic_auth: {username: a}\nauthorization: {credentials: MARKED}", "at most one of"},
		"a token and its file":     {"authorization: {credentials: MARKED, credentials_file: x}", "at most one of authorization"},
		"OAuth 2.0 without a URL":  {"oauth2: {client_id: a}", "oauth2 token_url must be configured"},
		"no CA file":               {"tls_config: {ca_file: /does/not/exist}", "open /does/not/exist: no such file or directory"},
		"no CA in the text":        {"tls_config: {ca: MARKED}", "unable to use specified CA cert inline"},
		"a certificate, no key":    {"tls_config: {cert: MARKED}", "exactly one of key or key_file"},
		"a TLS of no version":      {"tls_config: {min_version: MARKED}", "unknown TLS version"},
		"a proxy of no URL":        {"proxy_url: 'http://me:MARKED@h:x'", "proxy_url is not a valid URL"},
		"a header of its own":      {"http_headers: {Authorization: {secrets: [MARKED]}}", `setting header "Authorization" is not allowed`},
		"a secret elsewhere":       {"authorization: {credentials_ref: MARKED}", "secret manager"},
		"a certificate elsewhere":  {"tls_config: {ca_ref: MARKED}", "cannot use secret ref without manager"},
		"sigv4 and another":        {"sigv4: {region: a}\nbasic_auth: {username: MARKED}", "sigv4 and another way to authorize"},
		"sigv4 with half a key":    {"sigv4: {region: a, secret_key: MARKED}", "sigv4's access_key and secret_key"},
		"sigv4 with no such field": {"sigv4: {token: MARKED}", "not valid YAML, or a field that does not exist, line 1"},
		"sigv4 with an ID only":    {"sigv4: {region: a, external_id: MARKED}", "sigv4's external_id says nothing without role_arn"},
		"sigv4 without a region":   {"sigv4: {}", "sigv4 has no region"},
		"sigv4 with no profile":    {"sigv4: {profile: none}", "sigv4: failed to get shared config profile, none"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"} {
				t.Setenv(name, "")
			}
			t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "none"))
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "none"))
			var p Pusher
			must := p.SetHTTPConfig(write(t, dir, "http.yml", c.file))
			if !strings.HasPrefix(must, "a file in the format of Prometheus' http_config, but: ") ||
				!strings.Contains(must, c.says) || strings.Contains(must, "MARKED") {
				t.Errorf("%q, want %q", must, c.says)
			}
		})
	}
	var p Pusher
	if must := p.SetHTTPConfig("/does/not/exist"); !strings.Contains(must, "no such file or directory") {
		t.Error(must)
	}
	if must := p.SetHTTPConfig("basic_auth: {username: MARKED}"); must != "the name of a file, not what is in it" {
		t.Error(must)
	}
	if must := p.SetHTTPConfig(""); must != "" || p.client != nil {
		t.Error(must)
	}
}

// FuzzFile has any text as a file: it makes a client or an error.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{"", "basic_auth: {username: MARKED, password: MARKED}", "sigv4: {region: a}",
		"oauth2: {client_id: a, client_secret: b, token_url: c, tls_config: {ca: MARKED}}", "tls_config: {ca_file: a}",
		"http_headers: {a: {values: [MARKED], files: [b]}}", "proxy_url: http://MARKED@h\nproxy_connect_header: {a: [b]}",
		"authorization:", "http_headers:", "tls_config:\n  min_version: MARKED", "{MARKED", "a: &a [*a]"} {
		f.Add(seed)
	}
	file := filepath.Join(f.TempDir(), "http.yml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var p Pusher
		must := p.SetHTTPConfig(file)
		if (must == "") != (p.client != nil) {
			t.Errorf("%q", must)
		}
	})
}

var quiet = log.New(io.Discard, "", 0)

// certificate is one that signs itself, and its key.
func certificate(t *testing.T, name string) (text, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}
