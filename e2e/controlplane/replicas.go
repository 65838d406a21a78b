package controlplane

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
)

// replicas stands at the address that the APIService names, for clusters with more than one metrics-server. It is to
// them what the API server's aggregator is, by the same certificate.
type replicas struct {
	urls []*url.URL

	mutex  sync.Mutex
	routes map[string][]int       // by user
	routed map[string]map[int]int // how many requests of a user each has had
}

// Route lets one of these metrics-servers (0 is MetricsServer, 1 the first of Replicas) answer a request of a service
// account, each time a random one. Everybody else's go to MetricsServer.
func (c *ControlPlane) Route(namespace, account string, numbers ...int) {
	c.replicas.mutex.Lock()
	defer c.replicas.mutex.Unlock()
	user := "system:serviceaccount:" + namespace + ":" + account
	c.replicas.routes[user], c.replicas.routed[user] = numbers, map[int]int{}
}

// Routed is how many requests of a service account with a route each metrics-server has had.
func (c *ControlPlane) Routed(namespace, account string) map[int]int {
	c.replicas.mutex.Lock()
	defer c.replicas.mutex.Unlock()
	return maps.Clone(c.replicas.routed["system:serviceaccount:"+namespace+":"+account])
}

// next is the metrics-server to ask for this user.
func (r *replicas) next(user string) *url.URL {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if route := r.routes[user]; len(route) > 0 {
		number := route[rand.IntN(len(route))]
		r.routed[user][number]++
		return r.urls[number]
	}
	return r.urls[0]
}

// serveReplicas answers for all metrics-servers until the control plane stops.
func (c *ControlPlane) serveReplicas() error {
	c.replicas = &replicas{routes: map[string][]int{}, routed: map[string]map[int]int{}}
	for _, port := range append([]int{c.ports.metricsServer}, c.ports.replicas...) {
		c.replicas.urls = append(c.replicas.urls, &url.URL{Scheme: "https", Host: fmt.Sprintf("localhost:%d", port)})
	}
	certificate, err := tls.LoadX509KeyPair(c.path("front-proxy.crt"), c.path("front-proxy.key"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(c.ca.certificate)
	quiet := log.New(io.Discard, "", 0) // a metrics-server that is killed is no news
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(c.replicas.next(r.In.Header.Get("X-Remote-User"))) },
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}},
		},
		ErrorLog: quiet,
	}
	return c.serveTLS(c.ports.metricsAPI, "metrics-server", &http.Server{Handler: proxy, ErrorLog: quiet})
}

// serveTLS serves on a loopback port, with one of the control plane's certificates, until the control plane stops.
func (c *ControlPlane) serveTLS(port int, certificate string, server *http.Server) error {
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	c.onStop = append(c.onStop, func() { server.Close() })
	go func() {
		// It ends when it is closed.
		_ = server.ServeTLS(listener, c.path(certificate+".crt"), c.path(certificate+".key"))
	}()
	return nil
}
