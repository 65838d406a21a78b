package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The reasons of a Failure: the values of the label reason of refresh_errors_total.
const (
	Configuration = "config"       // no cluster or no usable credentials configured
	Unauthorized  = "unauthorized" // 401
	Forbidden     = "forbidden"    // 403
	NotFound      = "not_found"    // 404: the API is not there
	Throttled     = "throttled"    // 429
	Unavailable   = "unavailable"  // 503 and the other server errors
	Network       = "network"      // no connection, or one that broke
	Timeout       = "timeout"      // cut off
	Content       = "content"      // an answer that cannot be understood
	Watch         = "watch"        // the pods' metadata are not there or too old
)

// Reasons are all reasons, so that each counter exists from the start.
var Reasons = []string{
	Configuration, Unauthorized, Forbidden, NotFound, Throttled, Unavailable, Network, Timeout, Content, Watch}

// ConfigError is a fault in what is configured; its text is one line that says where and what to do.
type ConfigError struct{ Text string }

func (e *ConfigError) Error() string { return e.Text }

// misconfigured makes a ConfigError. Each argument is cut by itself, so that the way out, which comes last, is not.
func misconfigured(format string, args ...any) *ConfigError {
	for i, arg := range args {
		args[i] = oneLine(fmt.Sprint(arg))
	}
	return &ConfigError{fmt.Sprintf(format, args...)}
}

// noCredentials is what to do where the server does not know who asks.
const noCredentials = "no credentials have reached the server: give the context's user in the kubeconfig a token or " +
	"a client certificate (they are sent only to an address that begins with https://), see deploy/outside/"

// contentError is an answer that cannot be understood.
type contentError struct{ error }

func (e *contentError) Unwrap() error { return e.error }

// BodyError tells an answer that cannot be understood from one that did not arrive: err is what reading it has ended
// with, ctx what it was read under.
func BodyError(ctx context.Context, err error) error {
	var netErr net.Error
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &netErr), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET),
		strings.Contains(err.Error(), "stream error: "), strings.Contains(err.Error(), "http2: "):
		// The last two are types that are not exported.
		return err
	}
	return &contentError{err}
}

// Failure is an error in words for the operator.
type Failure struct {
	Reason string // one of the constants above
	// Text is one line: what cannot be done, why, and the way out.
	Text string
	// Retry is the time that the server asked to be left alone, 0 where it did not say.
	Retry time.Duration
}

func (f *Failure) Error() string { return f.Text }

// Explain turns an error met on an attempt to do something (for example "list pods.metrics.k8s.io": a verb, then the
// resource as kubectl names it) into a Failure. A Failure stays as it is.
func Explain(attempt string, err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	f = &Failure{Reason: Network}
	server := ""
	if request := (*url.Error)(nil); errors.As(err, &request) {
		// The URL with all its parameters says less than the server's name.
		server = request.URL + ": "
		if u, err := url.Parse(request.URL); err == nil {
			server = u.Host + ": "
		}
		err = request.Err
	}
	if hidden := (noAnswer{}); errors.As(err, &hidden) {
		err = hidden.err
	}
	detail := oneLine(server + err.Error())
	var (
		config  *ConfigError
		plugin  *pluginError
		status  apierrors.APIStatus
		proxy   *proxyError
		content *contentError
	)
	why, wayOut := detail, ""
	switch {
	case errors.As(err, &config):
		f.Reason, f.Text = Configuration, config.Text
		return f
	case errors.As(err, &plugin):
		f.Reason, why, wayOut = Configuration, plugin.why, plugin.wayOut
	case errors.As(err, &status):
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
			f.Retry = time.Duration(seconds) * time.Second
		}
		f.Reason, why, wayOut = explainStatus(attempt, status.Status())
	case errors.As(err, &proxy):
		why = oneLine("the way to the server is through the proxy " + proxy.host + ": " + proxy.err.Error())
		wayOut = "check that proxy, and proxy-url in the kubeconfig or the environment's HTTPS_PROXY and NO_PROXY"
	case errors.As(err, &content):
		f.Reason = Content
		wayOut = "the answer is not that of a Kubernetes API server, or it was cut off: check the server's URL, and " +
			"what stands before it"
	default:
		f.Reason, why, wayOut = explainConnection(err, detail)
	}
	f.Text = fmt.Sprintf("cannot %s: %s; %s", attempt, why, wayOut)
	return f
}

// plainHTTP is how servers refuse HTTP where they speak HTTPS.
var plainHTTP = regexp.MustCompile(`HTTP request .*HTTPS`)

// explainStatus explains an answer that is not a success.
func explainStatus(attempt string, s metav1.Status) (reason, why, wayOut string) {
	verb, resource, _ := strings.Cut(attempt, " ")
	name, group, _ := strings.Cut(resource, ".")
	message, code := s.Message, int(s.Code)
	if s.Details != nil && len(s.Details.Causes) == 1 {
		// An answer that is no Status: client-go has put words of its own in place of the server's.
		c := s.Details.Causes[0]
		if c.Type == metav1.CauseTypeUnexpectedServerResponse && c.Message != "" && c.Message != "unknown" {
			message = c.Message
		}
	}
	why = fmt.Sprintf("%d %s: %s", code, http.StatusText(code), oneLine(message))
	switch {
	case code/100 == 3:
		return NotFound, why, "redirects are not followed, so that no other server gets the credentials: check the " +
			"server's URL in the kubeconfig"
	case code == http.StatusBadRequest && plainHTTP.MatchString(message):
		return Configuration, why, "the server's address in the kubeconfig has to begin with https://"
	case code == http.StatusUnauthorized:
		return Unauthorized, why, "the token or certificate is wrong or has expired: renew it"
	case code == http.StatusForbidden && strings.Contains(message, "system:anonymous"):
		return Forbidden, why, noCredentials
	case code == http.StatusForbidden:
		wayOut = fmt.Sprintf("grant {apiGroups: [%q], resources: [%q], verbs: [%q]}, see deploy/", group, name, verb)
		return Forbidden, why, wayOut
	case code == http.StatusNotFound && group != "" && name == "nodes":
		return NotFound, why, "this cluster has no usage of nodes: where pods are served, its metrics API is one " +
			"without nodes; else install metrics-server"
	case code == http.StatusNotFound && group != "":
		return NotFound, why, "the metrics API is not installed in this cluster: install metrics-server"
	case code == http.StatusNotFound:
		return NotFound, why, "the configured server is not a Kubernetes API server: check the server's URL"
	case code == http.StatusTooManyRequests:
		return Throttled, why, "the API server is overloaded; it is tried again"
	case group != "" && code == http.StatusServiceUnavailable:
		return Unavailable, why, "metrics-server is not running or not reachable: check kubectl get apiservice " +
			"v1beta1.metrics.k8s.io"
	case code >= 500, code == http.StatusRequestTimeout, code == http.StatusConflict, code == http.StatusGone:
		return Unavailable, why, "look into the API server's log; it is tried again"
	}
	return Unavailable, why, "check the server's URL in the kubeconfig, and what stands before the server"
}

// explainConnection explains why there is no answer, or not all of it.
func explainConnection(err error, detail string) (reason, why, wayOut string) {
	var (
		dns         *net.DNSError
		netErr      net.Error
		name        x509.HostnameError
		authority   x509.UnknownAuthorityError
		certificate x509.CertificateInvalidError
		noTLS       tls.RecordHeaderError
	)
	is := func(targets ...error) bool {
		return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
	}
	says := func(text ...string) bool { // for types that are not exported
		return slices.ContainsFunc(text, func(t string) bool { return strings.Contains(err.Error(), t) })
	}
	switch {
	case errors.As(err, &dns):
		return Network, "cannot resolve " + oneLine(dns.Name), "check the server's name in the kubeconfig and this " +
			"container's DNS"
	case is(syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH):
		return Network, detail, "check the server's address in the kubeconfig, and whether it is reachable from here " +
			"(in a container, 127.0.0.1 is the container itself)"
	case is(errNoHeader, errUnfinished):
		return Timeout, detail, "check the server's address, the network and the API server's load"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return Timeout, "no complete answer in time", "check the network and the API server's load, or raise " +
			"--refresh-interval"
	case errors.As(err, &name):
		return Network, detail, "set tls-server-name of the cluster in the kubeconfig to a name that the server's " +
			"certificate has, or use an address that it has"
	case errors.As(err, &authority):
		return Network, detail, "set certificate-authority-data of the cluster in the kubeconfig to the authority " +
			"of the server's certificate"
	case errors.As(err, &certificate) && certificate.Reason == x509.Expired:
		return Network, detail, "renew the server's certificate, or correct the clock here"
	case errors.As(err, &noTLS):
		return Configuration, detail, "the server does not speak TLS: check the port in the kubeconfig's address, " +
			"or have it begin with http://, to which no credentials are sent"
	case says("malformed HTTP response", "malformed HTTP status code"):
		return Configuration, detail, "the server does not speak HTTP there: check the port in the kubeconfig's " +
			"address, and that it begins with https://"
	case says("x509: ", "tls: "):
		return Network, detail, "check certificate-authority and client certificate in the kubeconfig"
	case is(io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed),
		says("stream error: ", "http2: ", "server closed idle connection", "server sent GOAWAY"):
		return Network, "the connection broke: " + detail, "it is tried again"
	case says("invalid header field value"):
		return Configuration, detail, "take out of the kubeconfig's token what no token has, such as a line break"
	}
	return Network, detail, "check the server's address in the kubeconfig, and the network"
}

// maxText is how much of somebody else's words is repeated.
const maxText = 400

// userinfo is the part of a URL that can hold a password.
var userinfo = regexp.MustCompile(`://[^/\s"']*@`)

// oneLine makes a text fit into a log line, and to be seen there.
func oneLine(s string) string {
	s = sent.without(s)
	s = strings.ToValidUTF8(strings.Join(strings.Fields(s), " "), "?")
	s = userinfo.ReplaceAllString(s, "://…@")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

func contexts[T any](m map[string]T) string {
	if len(m) == 0 {
		return "(it has none)"
	}
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}
