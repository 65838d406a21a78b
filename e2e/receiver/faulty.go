package receiver

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"io"
	"log"
	"maps"
	"math"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"time"

	"metrics-server-prom/e2e/exporter"
)

// Faulty takes remote write over TLS from who has its token, as strictly as Prometheus does: a request with a sample
// that is not newer than the last of its series is refused as a whole. It can be told to fail in place of that.
type Faulty struct {
	URL string // of remote write

	server *httptest.Server

	mutex    sync.Mutex
	behavior Behavior // nil: it works
	token    string   // without it 401; empty: none is asked for
	identity *tls.Certificate
	stored   map[string]Sample // the last sample of each series, by exporter.Series' text
	wrong    []string
	answers  []Answer
}

// stale is the bits of a stale marker, the NaN that says that a series has ended.
const stale = 0x7ff0000000000002

// Behavior answers a request in place of a receiver that works. It returns false for one that is to be taken after all.
type Behavior func(w http.ResponseWriter, r *http.Request) (answered bool)

// Answer is a request that was made, and how it ended.
type Answer struct {
	At      time.Time // when its header had arrived
	Status  int       // 0: without an answer
	Samples int       // that were taken
	Body    [32]byte  // SHA-256 of what was read of the body
}

// NewFaulty starts a receiver that works; the token is what it asks for.
func NewFaulty(token string) (*Faulty, error) {
	f := &Faulty{token: token, stored: map[string]Sample{}}
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.server.EnableHTTP2 = true
	f.server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		f.mutex.Lock()
		defer f.mutex.Unlock()
		return &tls.Config{Certificates: []tls.Certificate{*f.identity}, NextProtos: []string{"h2", "http/1.1"}}, nil
	}}
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that do not trust it are no news
	if err := f.ChangeCertificate(); err != nil {
		return nil, err
	}
	f.server.StartTLS()
	f.URL = f.server.URL + "/api/v1/write"
	return f, nil
}

// Close ends it.
func (f *Faulty) Close() {
	f.server.CloseClientConnections()
	f.server.Close()
}

// Behave makes it answer like that from now on; nil: as one that works.
func (f *Faulty) Behave(b Behavior) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.behavior = b
}

// SetToken makes it ask for another token.
func (f *Faulty) SetToken(token string) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.token = token
}

// ChangeCertificate gives it another certificate, which nobody but itself vouches for.
func (f *Faulty) ChangeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject: pkix.Name{CommonName: "receiver"}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	text, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	f.SetCertificate(&tls.Certificate{Certificate: [][]byte{text}, PrivateKey: key})
	return nil
}

// SetCertificate makes it show this certificate on new connections, and ends the old ones.
func (f *Faulty) SetCertificate(c *tls.Certificate) {
	f.mutex.Lock()
	f.identity = c
	f.mutex.Unlock()
	f.server.CloseClientConnections()
}

// Certificate is the one that it shows.
func (f *Faulty) Certificate() *tls.Certificate {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return f.identity
}

// CA is the certificate that clients have to trust, as PEM.
func (f *Faulty) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Certificate[0]})
}

// Answers is all requests so far.
func (f *Faulty) Answers() []Answer {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return append([]Answer(nil), f.answers...)
}

// Wrong is what was wrong with requests that arrived as they were sent, whatever they were answered.
func (f *Faulty) Wrong() []string {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return append([]string(nil), f.wrong...)
}

// Last is the last sample of each series that was taken, by exporter.Series' text, without those that have ended.
func (f *Faulty) Last() map[string]Sample {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	last := maps.Clone(f.stored)
	maps.DeleteFunc(last, func(_ string, s Sample) bool { return math.IsNaN(s.Value) })
	return last
}

func (f *Faulty) serve(w http.ResponseWriter, r *http.Request) {
	f.mutex.Lock()
	behavior, token, n := f.behavior, f.token, len(f.answers)
	f.answers = append(f.answers, Answer{At: time.Now()})
	f.mutex.Unlock()
	body := &hashed{r.Body, sha256.New()}
	r.Body = body
	samples := 0
	note := func(status int) {
		f.mutex.Lock()
		defer f.mutex.Unlock()
		answer := &f.answers[n]
		answer.Status, answer.Samples, answer.Body = status, samples, [32]byte(body.hash.Sum(nil))
	}
	told := &recorder{w, 0, note}
	defer func() { note(told.status) }() // also of one that gets no answer
	if behavior != nil && behavior(told, r) {
		return
	}
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has gone
	}
	if token != "" && r.Header.Get("Authorization") != "Bearer "+token {
		http.Error(told, "this token is not known: "+r.Header.Get("Authorization"), http.StatusUnauthorized)
		return
	}
	f.mutex.Lock()
	if samples, err = f.take(r, text); err != nil {
		f.wrong = append(f.wrong, err.Error())
	}
	f.mutex.Unlock()
	if err != nil {
		http.Error(told, err.Error(), http.StatusBadRequest)
		return
	}
	told.WriteHeader(http.StatusNoContent)
}

// take stores a request's samples, all or none. The mutex is held.
func (f *Faulty) take(r *http.Request, body []byte) (samples int, err error) {
	series, err := Decode(r.Header, body)
	if err != nil {
		return 0, err
	}
	taken := map[string]Sample{}
	for _, s := range series {
		name := s.Labels["__name__"]
		delete(s.Labels, "__name__")
		text := exporter.Series(name, s.Labels)
		last, ok := taken[text]
		if !ok {
			last, ok = f.stored[text]
		}
		for _, sample := range s.Samples {
			switch {
			case math.IsNaN(sample.Value) && math.Float64bits(sample.Value) != stale:
				return 0, fmt.Errorf("not a number: %s at %d", text, sample.At)
			case ok && sample.At < last.At:
				return 0, fmt.Errorf("out of order: %s at %d after %d", text, sample.At, last.At)
			case ok && sample.At == last.At && math.Float64bits(sample.Value) != math.Float64bits(last.Value):
				return 0, fmt.Errorf("duplicate: %s at %d is %v and then %v", text, sample.At, last.Value, sample.Value)
			}
			last, ok = sample, true
			samples++
		}
		taken[text] = last
	}
	maps.Copy(f.stored, taken)
	return samples, nil
}

// recorder notes the status that is answered, before it is.
type recorder struct {
	http.ResponseWriter
	status int
	note   func(status int)
}

// WriteHeader notes the status.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.note(status)
	r.ResponseWriter.WriteHeader(status)
}

// hashed is a body that is hashed as it is read.
type hashed struct {
	io.ReadCloser
	hash hash.Hash
}

// Read hashes what it reads.
func (h *hashed) Read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	h.hash.Write(p[:n])
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Refuses answers with this status and text, and with Retry-After where rest is not 0.
func Refuses(status int, text string, rest time.Duration) Behavior {
	return func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body) // fails only where the client has gone
		if rest > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(rest.Seconds())))
		}
		http.Error(w, text, status)
		return true
	}
}

// TakesLong makes it work, after this time for each request.
func TakesLong(d time.Duration) Behavior {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
		return false
	}
}

// Hangs takes the request and never answers.
func Hangs(_ http.ResponseWriter, r *http.Request) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
	return true
}

// Resets answers with a TCP reset, or that of an HTTP/2 stream.
func Resets(w http.ResponseWriter, _ *http.Request) bool {
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // over HTTP/2, where this resets the stream
	}
	if plain, ok := connection.(*tls.Conn).NetConn().(*net.TCPConn); ok {
		_ = plain.SetLinger(0)
		_ = plain.Close()
	}
	return true
}

// ClosesHalfWay reads half of the request and closes the connection.
func ClosesHalfWay(_ http.ResponseWriter, r *http.Request) bool {
	_, _ = io.CopyN(io.Discard, r.Body, max(r.ContentLength/2, 1))
	panic(http.ErrAbortHandler)
}

// AnswersHalf takes the samples of nobody, promises an answer of some length and closes the connection before its end.
func AnswersHalf(w http.ResponseWriter, r *http.Request) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Length", "100")
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = w.Write(bytes.Repeat([]byte("x"), 50))
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// errNotRemoteWrite says that a request is not one of remote write 1.0.
var errNotRemoteWrite = errors.New("not a request of remote write 1.0")
