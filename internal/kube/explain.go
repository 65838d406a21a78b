package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
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

	"metrics-server-prom/internal/redact"
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

// Failure is an error in words for the operator.
type Failure struct {
	Reason string        // one of the constants above
	Text   string        // one line: what cannot be done, why, and the way out
	Retry  time.Duration // for which the server asked to be left alone, 0 where it did not say
}

func (f *Failure) Error() string { return f.Text }

// misconfigured is a Failure of what is configured; see sentence.
func misconfigured(format string, args ...any) *Failure {
	return &Failure{Reason: Configuration, Text: sentence(format, args...)}
}

// sentence cuts each argument by itself, so that the way out, which comes last, is not cut off.
func sentence(format string, args ...any) string {
	for i, arg := range args {
		args[i] = oneLine(fmt.Sprint(arg))
	}
	return fmt.Sprintf(format, args...)
}

// fault is an error whose reason and way out are known where it is met.
type fault struct {
	reason string
	error
	wayOut string
}

func (f *fault) Unwrap() error { return f.error }

// BodyError tells an answer that cannot be understood from one that did not arrive: err is what reading it has ended
// with, ctx what it was read under.
func BodyError(ctx context.Context, err error) error {
	netErr, _ := errors.AsType[net.Error](err)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case netErr != nil, is(err, errUnfinished, io.ErrUnexpectedEOF, syscall.ECONNRESET),
		says(err, "stream error: ", "http2: "):
		return err
	}
	return &fault{Content, err, "the answer is not that of a Kubernetes API server, or it was cut off: check the " +
		"server's URL, and what stands before it"}
}

func is(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
}

// says is for errors whose types are not exported.
func says(err error, text ...string) bool {
	return slices.ContainsFunc(text, func(t string) bool { return strings.Contains(err.Error(), t) })
}

// Explain turns an error met on an attempt to do something (for example "list pods.metrics.k8s.io": a verb, then the
// resource as kubectl names it) into a Failure. A Failure stays as it is.
func Explain(attempt string, err error) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	f := &Failure{}
	var why, wayOut string
	if met, ok := errors.AsType[*fault](err); ok {
		f.Reason, why, wayOut = met.reason, oneLine(met.Error()), met.wayOut
	} else if status, ok := errors.AsType[*apierrors.StatusError](err); ok {
		seconds, _ := apierrors.SuggestsClientDelay(err)
		f.Retry = time.Duration(seconds) * time.Second
		f.Reason, why, wayOut = explainStatus(attempt, status.Status())
	} else {
		f.Reason, why, wayOut = explainConnection(err)
	}
	f.Text = fmt.Sprintf("cannot %s: %s; %s", attempt, why, wayOut)
	return f
}

// noCredentials is what to do where the server does not know who asks.
const noCredentials = "no credentials have reached the server: give the context's user in the kubeconfig a token or " +
	"a client certificate (they are sent only to an address that begins with https://), see deploy/outside/"

// plainHTTP is how servers refuse HTTP where they speak HTTPS.
var plainHTTP = regexp.MustCompile(`HTTP request .*HTTPS`)

// explainStatus explains an answer that is not a success.
func explainStatus(attempt string, s metav1.Status) (reason, why, wayOut string) {
	verb, resource, _ := strings.Cut(attempt, " ")
	name, group, _ := strings.Cut(resource, ".")
	usage := group == Metrics.Group
	message, code := s.Message, int(s.Code)
	if s.Details != nil && len(s.Details.Causes) == 1 {
		// An answer that is no Status: client-go has put words of its own in place of the server's.
		c := s.Details.Causes[0]
		if c.Type == metav1.CauseTypeUnexpectedServerResponse && c.Message != "" && c.Message != "unknown" {
			message = c.Message
		}
	}
	why = fmt.Sprintf("%d %s: %s", code, http.StatusText(code), oneLine(message))
	return firstMet([]explanation{
		{code/100 == 3, NotFound, why, "redirects are not followed, so that no other server gets the credentials: " +
			"check the server's URL in the kubeconfig"},
		{code == 400 && plainHTTP.MatchString(message), Configuration, why,
			"the server's address in the kubeconfig has to begin with https://"},
		{code == 401, Unauthorized, why, "the token or certificate is wrong or has expired: renew it"},
		{code == 403 && strings.Contains(message, "system:anonymous"), Forbidden, why, noCredentials},
		{code == 403, Forbidden, why, fmt.Sprintf("grant {apiGroups: [%q], resources: [%q], verbs: [%q]}, see deploy/",
			group, name, verb)},
		{code == 404 && usage && name == "nodes", NotFound, why, "this cluster has no usage of nodes: where pods are " +
			"served, its metrics API is one without nodes; else install metrics-server"},
		{code == 404 && usage, NotFound, why,
			"the metrics API is not installed in this cluster: install metrics-server"},
		{code == 404 && group != "", NotFound, why, "this cluster has no API group " + group + ": check the server's URL"},
		{code == 404, NotFound, why, "the configured server is not a Kubernetes API server: check the server's URL"},
		{code == 429, Throttled, why, "the API server is overloaded; it is tried again"},
		{code == 503 && usage, Unavailable, why, "metrics-server is not running or not reachable: check kubectl get " +
			"apiservice v1beta1.metrics.k8s.io"},
		{code >= 500 || code == 408 || code == 409 || code == 410, Unavailable, why,
			"look into the API server's log; it is tried again"},
		{true, Unavailable, why, "check the server's URL in the kubeconfig, and what stands before the server"},
	})
}

// explainConnection explains why there is no answer, or not all of it.
func explainConnection(err error) (reason, why, wayOut string) {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return Network, "cannot resolve " + oneLine(dns.Name),
			"check the server's name in the kubeconfig and this container's DNS"
	}
	why = oneLine(err.Error())
	if request, ok := errors.AsType[*url.Error](err); ok {
		server := request.URL // with all its parameters it says less than the server's name
		if u, err := url.Parse(server); err == nil {
			server = u.Host
		}
		err = request.Err
		why = oneLine(server + ": " + err.Error())
	}
	netErr, _ := errors.AsType[net.Error](err)
	_, name := errors.AsType[x509.HostnameError](err)
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	certificate, _ := errors.AsType[x509.CertificateInvalidError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	return firstMet([]explanation{
		{is(err, syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH), Network, why, "check the server's " +
			"address in the kubeconfig, and whether it is reachable from here (in a container, 127.0.0.1 is the " +
			"container itself)"},
		{is(err, errNoHeader, errUnfinished), Timeout, why,
			"check the server's address, the network and the API server's load"},
		{is(err, context.DeadlineExceeded) || netErr != nil && netErr.Timeout(), Timeout, "no complete answer in time",
			"check the network and the API server's load, or raise --refresh-interval"},
		{name, Network, why, "set tls-server-name of the cluster in the kubeconfig to a name that the server's " +
			"certificate has, or use an address that it has"},
		{authority, Network, why, "set certificate-authority-data of the cluster in the kubeconfig to the authority " +
			"of the server's certificate"},
		{certificate.Reason == x509.Expired, Network, why, "renew the server's certificate, or correct the clock here"},
		{noTLS || is(err, http.ErrSchemeMismatch), Configuration, why, "the server does not speak TLS: check the port " +
			"in the kubeconfig's address, or have it begin with http://, to which no credentials are sent"},
		{says(err, "malformed HTTP response", "malformed HTTP status code"), Configuration, why, "the server does not " +
			"speak HTTP there: check the port in the kubeconfig's address, and that it begins with https://"},
		{says(err, "x509: ", "tls: "), Network, why,
			"check certificate-authority and client certificate in the kubeconfig"},
		{is(err, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed) || says(err,
			"stream error: ", "http2: ", "server closed idle connection", "server sent GOAWAY"),
			Network, "the connection broke: " + why, "it is tried again"},
		{says(err, "invalid header field value"), Configuration, why,
			"take out of the kubeconfig's token what no token has, such as a line break"},
		{true, Network, why, "check the server's address in the kubeconfig, and the network"},
	})
}

// explanation is a row of a table, of which the first that is met holds.
type explanation struct {
	met                 bool
	reason, why, wayOut string
}

func firstMet(table []explanation) (reason, why, wayOut string) {
	e := table[slices.IndexFunc(table, func(e explanation) bool { return e.met })]
	return e.reason, e.why, e.wayOut
}

// maxText is how much of somebody else's words is repeated, in bytes.
const maxText = 400

// userinfo is the part of a URL that can hold a password.
var userinfo = regexp.MustCompile(`://[^/\s"']*@`)

// oneLine makes a text of others fit into a log line.
func oneLine(s string) string {
	return redact.OneLine(userinfo.ReplaceAllString(sent.without(s), "://…@"), maxText)
}
