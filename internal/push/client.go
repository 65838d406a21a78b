package push

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/common/config"
	"go.yaml.in/yaml/v2"

	"metrics-server-prom/internal/redact"
	"metrics-server-prom/internal/setting"
)

// transport is what others are cloned from. It bounds what is read of an answer's header, and asks for no compression.
var transport = func() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true
	t.MaxResponseHeaderBytes = 64 << 10
	return t
}()

// client makes requests, in the way that a file may configure. It is not for concurrent use.
type client struct {
	http.RoundTripper
	file       string                    // "" for none
	authorizes bool                      // whether the file has a way to authorize
	headers    []string                  // that the file adds
	sign       func(*http.Request) error // nil where requests are not signed
	connect    func() (*http.Transport, error)
	transport  *http.Transport // of the present connections; nil before the first request
	known      []string        // secrets in the file
	sent       []string        // secrets of the last request, as it was sent
	exchanged  []string        // secrets that a token of OAuth 2.0 was asked for with
}

// standardClient is that where no file configures it: as curl does, it uses the proxies that the environment names.
func standardClient() *client {
	c := &client{connect: func() (*http.Transport, error) { return transport.Clone(), nil }}
	c.RoundTripper = (*lastTripper)(c)
	return c
}

// renew has the next request make a connection of its own, with the files for TLS read anew.
func (c *client) renew() {
	if c.transport != nil {
		c.transport.CloseIdleConnections() // those that are not idle yet end when they have been so for a while
		c.transport = nil
	}
}

// secrets is what is secret in the file and in the last request.
func (c *client) secrets() []string { return slices.Concat(c.known, c.sent, c.exchanged) }

// lastTripper is what a request passes last: with all headers that others have added.
type lastTripper client

// publicHeaders are no secrets; a receiver may name what is in them.
var publicHeaders = []string{"Content-Encoding", "Content-Type", "User-Agent", versionHeader, hashHeader, "X-Amz-Date"}

func (l *lastTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	if l.transport == nil {
		t, err := l.connect()
		if err != nil {
			return nil, err
		}
		l.transport = t
	}
	if l.sign != nil {
		if err := l.sign(r); err != nil {
			return nil, err
		}
	}
	header := r.Header.Clone()
	for _, name := range publicHeaders {
		header.Del(name)
	}
	l.sent = headerSecrets(header)
	return l.transport.RoundTrip(r)
}

// httpConfig is a file in the format of Prometheus' http_config, with sigv4 as its remote_write has it:
// https://prometheus.io/docs/prometheus/latest/configuration/configuration/#remote_write
type httpConfig struct {
	HTTP  config.HTTPClientConfig `yaml:",inline"`
	SigV4 *sigV4                  `yaml:"sigv4"`
}

// SetHTTPConfig takes the name of a file.
func (p *Pusher) SetHTTPConfig(file string) (must string) {
	if must := setting.FileName(&file)(file); must != "" || file == "" {
		return must
	}
	c, err := configuredClient(file)
	if err != nil {
		return "a file in the format of Prometheus' http_config, but: " + err.Error()
	}
	p.client = c
	return ""
}

// configuredClient is a client as a file has it. An error shows nothing secret.
func configuredClient(file string) (*client, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	f := httpConfig{HTTP: config.DefaultHTTPClientConfig}
	if err = yaml.UnmarshalStrict(text, &f); err == nil {
		err = f.HTTP.Validate()
	}
	if _, ok := errors.AsType[*url.Error](err); ok { // which quotes it, with its password
		err = errors.New("proxy_url is not a valid URL")
	}
	if err != nil {
		return nil, errors.New(setting.Unquoted(err.Error()))
	}
	f.HTTP.SetDirectory(filepath.Dir(file))
	c := &client{file: file}
	if err := c.configure(&f.HTTP); err != nil {
		return nil, err
	}
	if f.SigV4 != nil {
		if c.authorizes {
			return nil, errors.New("it has sigv4 and another way to authorize; set only one of them")
		}
		c.authorizes, c.known = true, append(c.known, string(f.SigV4.SecretKey))
		c.sign, err = f.SigV4.signer()
	}
	return c, err
}

// configure does what NewRoundTripperFromConfig of prometheus/common does, but with transports that are bounded, and
// with one that signs and remembers below them all.
func (c *client) configure(f *config.HTTPClientConfig) (err error) {
	c.connect = func() (*http.Transport, error) {
		tls, err := config.NewTLSConfig(&f.TLSConfig)
		t := transport.Clone()
		t.TLSClientConfig, t.ForceAttemptHTTP2 = tls, f.EnableHTTP2
		t.Proxy, t.ProxyConnectHeader = f.Proxy(), f.GetProxyConnectHeader()
		return t, err
	}
	if _, err := c.connect(); err != nil {
		return err
	}
	c.learnProxy(&f.ProxyConfig)
	secret := func(text config.Secret, file, ref string) (r config.SecretReader) {
		switch {
		case ref != "":
			err = errors.New("it refers to a secret of a secret manager, of which there is none here")
		case file != "":
			r = config.NewFileSecret(file)
		default:
			r = config.NewInlineSecret(string(text))
		}
		return r
	}
	c.RoundTripper = (*lastTripper)(c)
	c.authorizes = f.Authorization != nil || f.BasicAuth != nil || f.OAuth2 != nil
	if a := f.Authorization; a != nil {
		c.RoundTripper = config.NewAuthorizationCredentialsRoundTripper(a.Type,
			secret(a.Credentials, a.CredentialsFile, a.CredentialsRef), c.RoundTripper)
	}
	if b := f.BasicAuth; b != nil {
		c.RoundTripper = config.NewBasicAuthRoundTripper(secret(config.Secret(b.Username), b.UsernameFile, b.UsernameRef),
			secret(b.Password, b.PasswordFile, b.PasswordRef), c.RoundTripper)
	}
	if o := f.OAuth2; o != nil {
		c.learnProxy(&o.ProxyConfig)
		key := secret(o.ClientSecret, o.ClientSecretFile, o.ClientSecretRef)
		if o.ClientCertificateKey != "" || o.ClientCertificateKeyFile != "" || o.ClientCertificateKeyRef != "" {
			key = secret(o.ClientCertificateKey, o.ClientCertificateKeyFile, o.ClientCertificateKeyRef)
		}
		c.RoundTripper = config.NewOAuth2RoundTripper(&learner{key, c, o.ClientID}, o, c.RoundTripper,
			config.WithDialContextFunc(dialBounded), config.WithKeepAlivesDisabled())
	}
	if f.HTTPHeaders != nil {
		for name := range f.HTTPHeaders.Headers {
			c.headers = append(c.headers, http.CanonicalHeaderKey(name))
		}
		c.RoundTripper = config.NewHeadersRoundTripper(f.HTTPHeaders, c.RoundTripper)
	}
	return err
}

// learnProxy adds what is secret in how a proxy is used to what is known.
func (c *client) learnProxy(p *config.ProxyConfig) {
	c.known = append(c.known, headerSecrets(p.GetProxyConnectHeader())...)
	if p.ProxyURL.URL != nil {
		password, _ := p.ProxyURL.User.Password()
		c.known = append(c.known, p.ProxyURL.User.Username(), password)
	}
}

// learner reads the secret that tokens of OAuth 2.0 are asked for with, for the client to know what is not to be shown.
type learner struct {
	config.SecretReader
	client *client
	id     string
}

// Fetch reads the secret.
func (l *learner) Fetch(ctx context.Context) (string, error) {
	key, err := l.SecretReader.Fetch(ctx)
	basic := base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(l.id) + ":" + url.QueryEscape(key)))
	l.client.exchanged = append(redact.Credentials(basic), key)
	return key, err
}

// tokenTime is how long the answer to a request for a token of OAuth 2.0 may take, for which the library has no limit.
var tokenTime = goodbye

// dialBounded makes a connection that ends by itself.
func dialBounded(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: tokenTime}).DialContext(ctx, network, address)
	if err == nil {
		conn.SetDeadline(time.Now().Add(tokenTime))
	}
	return conn, err
}
