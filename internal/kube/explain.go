package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
var Reasons = []string{Configuration, Unauthorized, Forbidden, NotFound, Throttled, Unavailable, Network, Timeout, Content, Watch}

// ConfigError is a fault in what is configured; its text says where and what to do.
type ConfigError struct{ Text string }

func (e *ConfigError) Error() string { return e.Text }

// contentError is an answer that cannot be understood.
type contentError struct{ error }

func (e *contentError) Unwrap() error { return e.error }

// BodyError tells an answer that cannot be understood from one that did not arrive: err is what reading it has ended with,
// ctx what it was read under.
func BodyError(ctx context.Context, err error) error {
	var netErr net.Error
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &netErr), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET),
		strings.Contains(err.Error(), "stream error: "), strings.Contains(err.Error(), "http2: "): // types that are not exported
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
	why, wayOut := "", ""
	verb, resource, _ := strings.Cut(attempt, " ")
	name, group, _ := strings.Cut(resource, ".")
	var (
		config  *ConfigError
		status  apierrors.APIStatus
		content *contentError
		dns     *net.DNSError
		netErr  net.Error
	)
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
		f.Retry = time.Duration(seconds) * time.Second
	}
	detail := oneLine(err.Error())
	if request := (*url.Error)(nil); errors.As(err, &request) {
		// The URL with all its parameters says less than the server's name.
		server := request.URL
		if u, err := url.Parse(request.URL); err == nil {
			server = u.Host
		}
		detail = oneLine(server + ": " + request.Err.Error())
	}
	switch {
	case errors.As(err, &config):
		f.Reason, f.Text = Configuration, oneLine(config.Text)
		return f
	case errors.Is(err, exec.ErrNotFound) || strings.Contains(err.Error(), "exec: executable") && strings.Contains(err.Error(), " not found"):
		// client-go wraps the missing plugin in a text of its own, with its install hint behind it.
		f.Reason = Configuration
		why = "the kubeconfig's credentials come from an exec plugin that is not installed here: " + detail
		wayOut = "use a kubeconfig with a service account's token, see deploy/outside/"
	case strings.Contains(err.Error(), "getting credentials: "):
		f.Reason = Configuration
		// What it has printed is not shown (see newTransport), so that the operator has to run it to see that.
		why, wayOut = detail, "check the kubeconfig's exec plugin, or use a service account's token, see deploy/outside/"
	case errors.As(err, &status):
		s := status.Status()
		why = fmt.Sprintf("%d %s: %s", s.Code, http.StatusText(int(s.Code)), oneLine(s.Message))
		switch code := int(s.Code); {
		case code/100 == 3:
			f.Reason, wayOut = NotFound, "redirects are not followed, so that no other server gets the credentials: check the server's URL in the kubeconfig"
		case code == http.StatusUnauthorized:
			f.Reason, wayOut = Unauthorized, "the token or certificate is wrong or has expired: renew it"
		case code == http.StatusForbidden:
			f.Reason = Forbidden
			wayOut = fmt.Sprintf("grant {apiGroups: [%q], resources: [%q], verbs: [%q]}, see deploy/", group, name, verb)
		case code == http.StatusNotFound && group != "":
			f.Reason, wayOut = NotFound, "the metrics API is not installed in this cluster: install metrics-server"
		case code == http.StatusNotFound:
			f.Reason, wayOut = NotFound, "the configured server is not a Kubernetes API server: check the server's URL"
		case code == http.StatusTooManyRequests:
			f.Reason, wayOut = Throttled, "the API server is overloaded; it is tried again"
		case group != "" && code == http.StatusServiceUnavailable:
			f.Reason, wayOut = Unavailable, "metrics-server is not running or not reachable: check kubectl get apiservice v1beta1.metrics.k8s.io"
		default:
			f.Reason, wayOut = Unavailable, "look into the API server's log; it is tried again"
		}
	case errors.As(err, &content):
		f.Reason, why = Content, detail
		wayOut = "the answer is not that of a Kubernetes API server, or it was cut off; it is tried again"
	case errors.As(err, &dns):
		why, wayOut = "cannot resolve "+dns.Name, "check the server's name in the kubeconfig and this container's DNS"
	case errors.Is(err, syscall.ECONNREFUSED):
		why, wayOut = detail, "check the server's address in the kubeconfig, and whether it is reachable from here (in a container, 127.0.0.1 is the container itself)"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		f.Reason, why = Timeout, "no complete answer in time"
		wayOut = "check the network and the API server's load, or raise --refresh-interval"
	case strings.Contains(err.Error(), "x509: ") || strings.Contains(err.Error(), "tls: "):
		why, wayOut = detail, "check certificate-authority and client certificate in the kubeconfig"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		why, wayOut = "the connection broke: "+detail, "it is tried again"
	default:
		why, wayOut = detail, "it is tried again"
	}
	f.Text = fmt.Sprintf("cannot %s: %s; %s", attempt, why, wayOut)
	return f
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
