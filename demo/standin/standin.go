// Package standin is a stand-in for a Kubernetes API server with metrics-server: it serves a simulated cluster on
// loopback, for demonstrations, benchmarks and tests that no real cluster can give on one machine: 150,000 pods,
// a server that lies, a server that dies at a chosen moment. None of the values it serves was ever measured.
//
// To a client that reads pods, nodes, namespaces, resourcequotas and the metadata of replicasets and jobs (get, list,
// watch, watch-list), and the resource metrics API (metrics.k8s.io/v1beta1), it behaves as Kubernetes 1.37 does, over
// TLS with HTTP/2, in protobuf and JSON, as whole objects or PartialObjectMetadata, with bearer tokens. What differs
// from the real server on purpose is said where it differs; a test can change the behaviour with a [Behavior], or
// answer requests itself with [Server.Intercept].
package standin

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Options describe a simulated cluster and its server. The zero value of a field means its default.
type Options struct {
	Nodes      int // default 3
	Pods       int // pods at the start; more can be added
	Containers int // containers per pod, default 2
	Replicas   int // pods of a Deployment or StatefulSet, default 3
	// Resolution is how often the metrics source has new values, default 15s as in metrics-server's manifests.
	Resolution time.Duration
	// Seed decides everything that is invented: the same seed gives the same cluster.
	Seed uint64
	// Now is the clock of the metrics source and of creation timestamps, default [time.Now]. Timeouts and
	// bookmarks of watches go by the real time.
	Now func() time.Time
	// Address to listen on, default 127.0.0.1 with a free port.
	Address string
	// Token is the bearer token that is accepted, default a random one.
	Token string
	// BookmarkInterval is the time between bookmarks on a watch, default 1 minute as in the real server.
	BookmarkInterval time.Duration
	// Behavior is the behaviour at the start.
	Behavior Behavior
	// Log gets a line when the server starts, default [slog.Default].
	Log *slog.Logger
}

// Behavior is how the server deviates from a good one. The zero value is a good server.
type Behavior struct {
	// HangConnections stops all traffic on the open connections and on new ones without closing them, as a
	// network does that loses every packet: a half-open connection.
	HangConnections bool
	// HangWatches stops the writing of all watches without ending them. The connection itself goes on answering.
	HangWatches bool
	// NoBookmarks leaves out the bookmarks of watches, except the one that ends the initial events.
	NoBookmarks bool
	// NoInitialEventsEnd leaves out the bookmark that ends the initial events of a watch-list.
	NoInitialEventsEnd bool
	// FreezeMetrics lets the metrics source stand still: the same values with the same timestamps.
	FreezeMetrics bool
	// ClockSkew is added to the timestamps of all usage.
	ClockSkew time.Duration
	// SkewOf, if not nil, is added as well: the clock of one pod's or (with an empty namespace) node's kubelet.
	SkewOf func(namespace, name string) time.Duration
	// Window, if not nil, replaces the window of all usage.
	Window *time.Duration
	// OmitUsage, if not nil, says of which pods and (with an empty namespace) nodes the usage is left out.
	OmitUsage func(namespace, name string) bool
	// MetricsJSONOnly lets the metrics API speak only JSON, as some implementers of that API do.
	MetricsJSONOnly bool
	// NoGzip leaves all answers uncompressed.
	NoGzip bool
}

// Skew is how far ahead the timestamps of a pod or, with an empty namespace, a node are.
func (b *Behavior) Skew(namespace, name string) time.Duration {
	if b.SkewOf == nil {
		return b.ClockSkew
	}
	return b.ClockSkew + b.SkewOf(namespace, name)
}

// Request says what was asked and how it was answered.
type Request struct {
	// Verb is list, watch or get, as in Kubernetes' RBAC; for any other method it is the method in lower case.
	Verb string
	Path string
	// Code is the HTTP status, or 0 where the connection ended without one.
	Code int
}

// Server serves a [Cluster].
type Server struct {
	*Cluster

	bookmarkInterval time.Duration
	identity         *identity
	address          string
	log              *slog.Logger
	api              http.Handler
	setting          atomic.Pointer[setting]
	settingMu        sync.Mutex // one change of setting at a time
	intercept        atomic.Pointer[func(http.ResponseWriter, *http.Request, http.Handler)]
	tokens           atomic.Pointer[[]string]
	bytesSent        atomic.Uint64

	requestsMu sync.Mutex
	requests   map[Request]uint64

	runMu  sync.Mutex
	server *http.Server // nil while killed

	viewMu   sync.Mutex
	view     *metricsView
	lastSize map[string]int // of the lists of the metrics API by kind, to make the next buffer large enough
}

// setting is a Behavior with the news of its end.
type setting struct {
	Behavior
	replaced chan struct{}
}

// New makes a simulated cluster and serves it until [Server.Close].
func New(o Options) (*Server, error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Containers == 0 {
		o.Containers = 2
	}
	if o.Resolution == 0 {
		o.Resolution = 15 * time.Second
	}
	if o.Nodes < 0 || o.Pods < 0 || o.Containers < 0 || o.Replicas < 0 || o.Resolution < 0 {
		return nil, fmt.Errorf("stand-in API server: %d nodes, %d pods, %d containers, %d replicas, resolution "+
			"%s: none may be negative", o.Nodes, o.Pods, o.Containers, o.Replicas, o.Resolution)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	if o.Token == "" {
		var b [16]byte
		rand.Read(b[:]) // never fails, see crypto/rand
		o.Token = "simulated-" + hex.EncodeToString(b[:])
	}
	if o.BookmarkInterval == 0 {
		o.BookmarkInterval = time.Minute
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	id, err := newIdentity()
	if err != nil {
		return nil, fmt.Errorf("stand-in API server: certificate: %w", err)
	}
	s := &Server{
		Cluster:          newCluster(o),
		bookmarkInterval: o.BookmarkInterval,
		identity:         id,
		address:          o.Address,
		log:              o.Log,
		requests:         map[Request]uint64{},
		lastSize:         map[string]int{},
	}
	s.api = s.authenticate(s.routes())
	s.setting.Store(&setting{replaced: make(chan struct{})})
	s.SetBehavior(o.Behavior)
	s.SetTokens(o.Token)
	if err := s.Restart(); err != nil {
		return nil, err
	}
	s.log.Info("SIMULATED Kubernetes API server: no value it serves is of a real cluster",
		"url", s.URL(), "nodes", o.Nodes, "pods", o.Pods, "containers_per_pod", o.Containers, "resolution",
		o.Resolution)
	return s, nil
}

// Close ends the server for good.
func (s *Server) Close() { s.Kill() }

// Kill ends the server at once, as kill -9 would: all connections break, and new ones are refused until
// [Server.Restart].
func (s *Server) Kill() {
	s.runMu.Lock()
	defer s.runMu.Unlock()
	if s.server != nil {
		_ = s.server.Close() // its error is that of closing a listener that is going away
		s.server = nil
	}
}

// Restart lets a killed server serve again: same port, certificate, tokens and cluster. It does nothing to one
// that is running.
func (s *Server) Restart() error {
	s.runMu.Lock()
	defer s.runMu.Unlock()
	if s.server != nil {
		return nil
	}
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		return fmt.Errorf("stand-in API server: %w (choose another address, or end what listens there)", err)
	}
	s.address = l.Addr().String()
	s.server = &http.Server{
		Handler:           s,
		TLSConfig:         s.identity.tlsConfig(),
		ReadHeaderTimeout: 10 * time.Second,
		// The limit of the real server's --http2-max-streams-per-connection.
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: 250},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	go func(server *http.Server) {
		if err := server.ServeTLS(&listener{l, s}, "", ""); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("stand-in API server stopped", "err", err)
		}
	}(s.server)
	return nil
}

// URL is where the server listens.
func (s *Server) URL() string { return "https://" + s.address }

// CAData is the certificate, in PEM, of the authority that signed the server's.
func (s *Server) CAData() []byte { return s.identity.ca }

// SetTokens replaces the bearer tokens that are accepted.
func (s *Server) SetTokens(tokens ...string) { s.tokens.Store(&tokens) }

// RESTConfig is a client configuration for the server, with its first accepted token and without a client-side
// rate limit.
func (s *Server) RESTConfig() *rest.Config {
	return &rest.Config{
		Host:            s.URL(),
		BearerToken:     (*s.tokens.Load())[0],
		TLSClientConfig: rest.TLSClientConfig{CAData: s.CAData()},
		QPS:             -1,
	}
}

// Kubeconfig is a kubeconfig file for the server, with its first accepted token. Its one context is "simulated".
func (s *Server) Kubeconfig() ([]byte, error) {
	const name = "simulated"
	c := clientcmdapi.NewConfig()
	c.Clusters[name] = &clientcmdapi.Cluster{Server: s.URL(), CertificateAuthorityData: s.CAData()}
	c.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: (*s.tokens.Load())[0]}
	c.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	c.CurrentContext = name
	return clientcmd.Write(*c)
}

// Behavior returns the present behaviour.
func (s *Server) Behavior() Behavior { return s.setting.Load().Behavior }

// SetBehavior changes the behaviour at once, for running watches and open connections too.
func (s *Server) SetBehavior(b Behavior) {
	s.settingMu.Lock()
	defer s.settingMu.Unlock()
	s.Cluster.freeze(b.FreezeMetrics)
	old := s.setting.Swap(&setting{Behavior: b, replaced: make(chan struct{})})
	close(old.replaced)
}

// Intercept lets f answer all new requests, from before authentication on; f may pass them on to next, which is
// the server as it is without f. A nil f ends that.
func (s *Server) Intercept(f func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	if f == nil {
		s.intercept.Store(nil)
		return
	}
	s.intercept.Store(&f)
}

// Requests returns how many requests of each kind have been answered so far, counted when their status was sent.
func (s *Server) Requests() map[Request]uint64 {
	s.requestsMu.Lock()
	defer s.requestsMu.Unlock()
	return maps.Clone(s.requests)
}

// BytesSent returns the bytes of all bodies sent so far, as they went over the wire: compressed, without TLS.
func (s *Server) BytesSent() uint64 { return s.bytesSent.Load() }

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w, server: s, request: Request{Verb: verbOf(r), Path: r.URL.Path}}
	defer rec.count(0)
	if f := s.intercept.Load(); f != nil {
		(*f)(rec, r, s.api)
		return
	}
	s.api.ServeHTTP(rec, r)
}

// recorder counts an answer and its bytes.
type recorder struct {
	http.ResponseWriter
	server  *Server
	request Request
	counted bool
}

func (r *recorder) WriteHeader(code int) {
	r.count(code)
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.count(http.StatusOK)
	n, err := r.ResponseWriter.Write(b)
	r.server.bytesSent.Add(uint64(n))
	return n, err
}

// Unwrap is for [http.ResponseController].
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Flush sends the header and what was written so far.
func (r *recorder) Flush() {
	r.count(http.StatusOK)
	_ = http.NewResponseController(r.ResponseWriter).Flush() // a broken connection shows at the next Write
}

func (r *recorder) count(code int) {
	if r.counted {
		return
	}
	r.counted = true
	r.request.Code = code
	r.server.requestsMu.Lock()
	r.server.requests[r.request]++
	r.server.requestsMu.Unlock()
}
