// Package standin stands in for the clouds that tokens for a cluster come from, in tests: AWS' STS, its metadata and
// container endpoints, Google's token and metadata servers, Microsoft Entra and Azure's metadata. Each checks what it
// is asked by the rules that the cloud has published, with code of its own.
//
// They are reached under the clouds' real names: by a proxy, and with certificates of an authority that the environment
// has a program trust.
package standin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Clouds is all of them. What is exported is set before they start.
type Clouds struct {
	// Ahead is by how much their clocks are ahead of this machine's.
	Ahead time.Duration
	// TokenTime is how long Google's and Entra's tokens, and the keys that AWS gives, hold; an hour as it is.
	TokenTime time.Duration
	// Hang has them take requests and never answer.
	Hang bool

	AWS    AWS
	Google Google
	Azure  Azure

	dir       string
	authority *x509.Certificate
	key       *ecdsa.PrivateKey
	plain     *http.Server
	secure    *http.Server
	address   string // of plain
	done      chan struct{}

	mu     sync.Mutex
	asked  []string
	tokens map[string]holder // of Google and Entra
}

// holder is whom a token is of.
type holder struct {
	name string
	ends time.Time
}

// New starts them, once prepare has set what is set of them. Their files are in dir.
func New(dir string, prepare func(*Clouds)) (*Clouds, error) {
	c := &Clouds{TokenTime: time.Hour, dir: dir, done: make(chan struct{}), tokens: map[string]holder{}}
	c.AWS.init()
	c.Google.init()
	c.Azure.init()
	var err error
	if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	c.authority = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stand-in"}, IsCA: true,
		BasicConstraintsValid: true, NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c.authority, c.authority, c.key.Public(), c.key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(c.authorityFile(), text, 0o600); err != nil {
		return nil, err
	}
	quiet := log.New(io.Discard, "", 0)
	secure, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		secure.Close()
		return nil, err
	}
	c.address = plain.Addr().String()
	c.secure = &http.Server{Handler: http.HandlerFunc(c.answer), ErrorLog: quiet,
		TLSConfig: &tls.Config{GetCertificate: c.certificate}}
	c.plain = &http.Server{ErrorLog: quiet, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			tunnel(w, secure.Addr().String())
			return
		}
		c.answer(w, r)
	})}
	prepare(c)
	go c.secure.ServeTLS(secure, "", "")
	go c.plain.Serve(plain)
	return c, nil
}

// Close ends them.
func (c *Clouds) Close() {
	close(c.done)
	c.plain.Close()
	c.secure.Close()
}

func (c *Clouds) authorityFile() string { return filepath.Join(c.dir, "clouds.crt") }

// Env is the environment that has a program find them, and its HOME, which is empty.
func (c *Clouds) Env() []string {
	return []string{"HTTPS_PROXY=http://" + c.address, "HTTP_PROXY=http://" + c.address, "NO_PROXY=127.0.0.1",
		"SSL_CERT_FILE=" + c.authorityFile(), "HOME=" + filepath.Join(c.dir, "home"), "PATH="}
}

// Instance is what further has a program find the metadata of AWS and Google, which ask no proxy.
func (c *Clouds) Instance() []string {
	return []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT=http://" + c.address + "/", "GCE_METADATA_HOST=" + c.address}
}

// File writes a file for a program, and returns its name. name may have folders.
func (c *Clouds) File(name, text string) (string, error) {
	path := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// Asked is what they were asked for, in order: the host and what of it.
func (c *Clouds) Asked() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.asked...)
}

// Holder is whom a token is of, for a cluster of EKS by that name, or another one that takes Google's and Entra's. An
// error says why it is not taken.
func (c *Clouds) Holder(token, cluster string) (string, error) {
	if strings.HasPrefix(token, "k8s-aws-v1.") {
		return c.AWS.holder(token, cluster, c.now())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h, known := c.tokens[token]
	switch {
	case !known:
		return "", fmt.Errorf("nobody has given this token")
	case c.now().After(h.ends):
		return "", fmt.Errorf("the token has ended %s ago", c.now().Sub(h.ends))
	}
	return h.name, nil
}

// Revoke has no token taken that was given until now.
func (c *Clouds) Revoke() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.tokens)
}

func (c *Clouds) now() time.Time { return time.Now().Add(c.Ahead) }

// give makes a token.
func (c *Clouds) give(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	token := "given-" + rand.Text()
	c.tokens[token] = holder{name, c.now().Add(c.TokenTime)}
	return token
}

// refusal is an error with what is answered.
type refusal struct {
	status int
	body   string
}

func (r *refusal) Error() string { return r.body }

// answer is all of the clouds.
func (c *Clouds) answer(w http.ResponseWriter, r *http.Request) {
	if c.Hang {
		<-c.done
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	host := r.Host
	if host == c.address { // the metadata, asked without a proxy
		host = "169.254.169.254"
	}
	var what, text string
	contentType := "application/json"
	switch {
	case strings.HasPrefix(host, "sts.") && strings.Contains(host, ".amazonaws.com") || host == "sts.amazonaws.com":
		what, text, err = c.sts(r, host, body)
		contentType = "text/xml"
	case host == "169.254.169.254" && strings.HasPrefix(r.URL.Path, "/latest/"):
		what, text, err = c.ec2(w, r)
	case host == "169.254.170.2" || host == "169.254.170.23":
		what, text, err = c.container(r)
	case strings.HasSuffix(host, ".googleapis.com"), strings.HasPrefix(r.URL.Path, "/computeMetadata/"):
		what, text, err = c.google(w, r, host, body)
	default:
		what, text, err = c.azure(r, host, body)
	}
	c.mu.Lock()
	c.asked = append(c.asked, host+": "+what)
	c.mu.Unlock()
	status := http.StatusOK
	if err != nil {
		status, text = http.StatusInternalServerError, err.Error()
		if refused, ok := err.(*refusal); ok {
			status = refused.status
		}
	}
	w.Header().Set("Date", c.now().UTC().Format(http.TimeFormat))
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	io.WriteString(w, text)
}

// certificate is one of the name that is asked for.
func (c *Clouds) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	leaf := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{hello.ServerName},
		NotAfter: time.Now().Add(24 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, c.authority, c.key.Public(), c.key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: c.key}, err
}

// tunnel joins the client with an address.
func tunnel(w http.ResponseWriter, address string) {
	there, err := net.Dial("tcp", address)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	here, buffer, err := http.NewResponseController(w).Hijack()
	if err != nil {
		there.Close()
		return
	}
	io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		io.Copy(there, buffer)
		there.Close()
	}()
	io.Copy(here, there)
	here.Close()
}

func toJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // of maps of strings and numbers
	}
	return string(text)
}
