package standin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/munnerz/goautoneg"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	internalscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/metrics/pkg/apis/metrics"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// gitVersion is what /version says: the version that is simulated, and that it is.
const gitVersion = "v1.37.2-simulated"

// gzipThreshold is the size from which the real server compresses an answer (apiserver's responsewriters).
const gzipThreshold = 128 * 1024

// mediaType is what an answer is encoded in.
type mediaType string

const (
	protobufType mediaType = "application/vnd.kubernetes.protobuf"
	jsonType     mediaType = "application/json"
)

func (s *Server) routes() http.Handler {
	m := http.NewServeMux()
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		m.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	}
	m.HandleFunc("GET /version", writeJSON(version.Info{
		Major: "1", Minor: "37", GitVersion: gitVersion, GoVersion: runtime.Version(),
		Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}))
	m.HandleFunc("GET /api", writeJSON(metav1.APIVersions{
		TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"},
	}))
	groupVersion := metav1.GroupVersionForDiscovery{GroupVersion: metricsv1beta1.SchemeGroupVersion.String(),
		Version: "v1beta1"}
	m.HandleFunc("GET /apis", writeJSON(metav1.APIGroupList{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"},
		Groups: []metav1.APIGroup{{Name: metrics.GroupName, Versions: []metav1.GroupVersionForDiscovery{groupVersion},
			PreferredVersion: groupVersion}},
	}))
	m.HandleFunc("GET /api/v1", writeJSON(metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "v1",
		APIResources: []metav1.APIResource{{Name: "pods", SingularName: "pod", Namespaced: true, Kind: "Pod",
			Verbs: metav1.Verbs{"get", "list", "watch"}}},
	}))
	m.HandleFunc("GET /apis/metrics.k8s.io/v1beta1", writeJSON(metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: groupVersion.GroupVersion,
		APIResources: []metav1.APIResource{
			{Name: "nodes", Kind: "NodeMetrics", Verbs: metav1.Verbs{"get", "list"}},
			{Name: "pods", Namespaced: true, Kind: "PodMetrics", Verbs: metav1.Verbs{"get", "list"}},
		},
	}))
	m.HandleFunc("GET /api/v1/pods", s.servePods)
	m.HandleFunc("GET /api/v1/namespaces/{namespace}/pods", s.servePods)
	m.HandleFunc("GET /api/v1/namespaces/{namespace}/pods/{name}", s.servePod)
	m.HandleFunc("GET /apis/metrics.k8s.io/v1beta1/pods", s.servePodMetricsList)
	m.HandleFunc("GET /apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods", s.servePodMetricsList)
	m.HandleFunc("GET /apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{name}", s.servePodMetrics)
	m.HandleFunc("GET /apis/metrics.k8s.io/v1beta1/nodes", s.serveNodeMetricsList)
	m.HandleFunc("GET /apis/metrics.k8s.io/v1beta1/nodes/{name}", s.serveNodeMetrics)
	return m
}

// verbOf names what a request asks for, as Kubernetes' RBAC does.
func verbOf(r *http.Request) string {
	collection := strings.HasSuffix(r.URL.Path, "/pods") || strings.HasSuffix(r.URL.Path, "/nodes")
	watch, _ := strconv.ParseBool(r.URL.Query().Get("watch")) // what is not a bool is not a watch; the list refuses it
	switch {
	case r.Method != http.MethodGet:
		return strings.ToLower(r.Method)
	case collection && watch:
		return "watch"
	case collection:
		return "list"
	}
	return "get"
}

// authenticate refuses wrong tokens (401) and lets requests without one see what anonymous users may see on a
// real server by default (403 for the rest).
func (s *Server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache, private")
		authorization := r.Header.Get("Authorization")
		token, bearer := strings.CutPrefix(authorization, "Bearer ")
		switch {
		case bearer && slices.Contains(*s.tokens.Load(), token):
		case authorization != "":
			WriteError(w, r, apierrors.NewUnauthorized("Unauthorized"))
			return
		case !strings.HasPrefix(r.URL.Path, "/api"):
		default:
			WriteError(w, r, forbidden(r, "system:anonymous"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// forbidden is the answer of RBAC to a user who lacks the right that a request needs.
func forbidden(r *http.Request, user string) error {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	resource := schema.GroupResource{Resource: "pods"}
	if parts[0] == "apis" && len(parts) > 1 {
		resource.Group = parts[1]
	}
	scope := "at the cluster scope"
	if i := slices.Index(parts, "namespaces"); i >= 0 && len(parts) > i+1 {
		scope = fmt.Sprintf("in the namespace %q", parts[i+1])
	} else if slices.Contains(parts, "nodes") {
		resource.Resource = "nodes"
	}
	//lint:ignore ST1005 this is what the real server says
	return apierrors.NewForbidden(resource, "", fmt.Errorf("User %q cannot %s resource %q in API group %q %s",
		user, verbOf(r), resource.Resource, resource.Group, scope))
}

// Forbidden is the error that a real server gives where RBAC does not allow the request r; see [WriteError].
func Forbidden(r *http.Request) error {
	return forbidden(r, "system:serviceaccount:monitoring:metrics-server-prom")
}

// WriteError answers a request with an error as the real server writes it: a metav1.Status in the encoding that
// the client prefers, with Retry-After where the error has one. The constructors of
// k8s.io/apimachinery/pkg/api/errors make such errors; any other error is a 500.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	media, acceptable := negotiate(r, false)
	if !acceptable {
		media = jsonType
	}
	w.Header().Set("Content-Type", string(media))
	w.WriteHeader(int(status.Code))
	if media == protobufType {
		_, _ = w.Write(appendObject(nil, "v1", "Status", mustMarshal(status))) // the client may be gone
		return
	}
	_ = json.NewEncoder(w).Encode(status)
}

// statusOf makes the Status for an error.
func statusOf(err error) *metav1.Status {
	var known apierrors.APIStatus
	if !errors.As(err, &known) {
		known = apierrors.NewInternalError(err)
	}
	status := known.Status()
	status.Kind, status.APIVersion = "Status", "v1"
	return &status
}

// writeJSON answers with one fixed object.
func writeJSON(object any) http.HandlerFunc {
	body, err := json.MarshalIndent(object, "", "  ")
	if err != nil {
		panic("standin: " + err.Error())
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", string(jsonType))
		_, _ = w.Write(body) // the client may be gone
	}
}

// negotiate chooses the encoding by the Accept header; ok is false if there is none that both sides know.
func negotiate(r *http.Request, jsonOnly bool) (_ mediaType, ok bool) {
	accept := r.Header.Get("Accept")
	if accept == "" {
		return jsonType, true
	}
	for _, clause := range goautoneg.ParseAccept(accept) {
		if clause.Params["as"] != "" {
			continue // a Table or a PartialObjectMetadata: this server knows neither
		}
		switch clause.Type + "/" + clause.SubType {
		case string(protobufType):
			if !jsonOnly {
				return protobufType, true
			}
		case string(jsonType), "application/*", "*/*":
			return jsonType, true
		}
	}
	return "", false
}

func errNotAcceptable(jsonOnly bool) error {
	accepted := []string{string(jsonType)}
	if !jsonOnly {
		accepted = append(accepted, string(protobufType))
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: "only the following media types are accepted: " + strings.Join(accepted, ", "),
	}}
}

// query is a list or watch request, understood.
type query struct {
	internalversion.ListOptions
	namespace string
	media     mediaType
	gzip      bool
	rv        uint64 // of ListOptions.ResourceVersion
}

// parseQuery reads the options of a list or watch by the code that the real server reads them with.
func (s *Server) parseQuery(r *http.Request, jsonOnly bool, allowed ...string) (*query, error) {
	q := &query{namespace: r.PathValue("namespace")}
	var ok bool
	if q.media, ok = negotiate(r, jsonOnly); !ok {
		return nil, errNotAcceptable(jsonOnly)
	}
	q.gzip = acceptsGzip(r) && !s.Behavior().NoGzip
	if err := internalscheme.ParameterCodec.DecodeParameters(r.URL.Query(), metav1.SchemeGroupVersion,
		&q.ListOptions); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	internalversion.SetListOptionsDefaults(&q.ListOptions, true)
	if errs := validation.ValidateListOptions(&q.ListOptions, true); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	if q.LabelSelector == nil {
		q.LabelSelector = labels.Everything()
	}
	if q.FieldSelector == nil {
		q.FieldSelector = fields.Everything()
	}
	for _, f := range q.FieldSelector.Requirements() {
		if !slices.Contains(allowed, f.Field) {
			return nil, apierrors.NewBadRequest("field label not supported: " + f.Field)
		}
	}
	if q.ResourceVersion != "" {
		var err error
		if q.rv, err = strconv.ParseUint(q.ResourceVersion, 10, 64); err != nil {
			return nil, apierrors.NewBadRequest("Invalid value: \"" + q.ResourceVersion +
				"\": strconv.ParseUint: parsing resourceVersion")
		}
	}
	return q, nil
}

// matches says whether a list or watch wants a pod.
func (q *query) matches(p *pod) bool {
	return (q.namespace == "" || q.namespace == p.namespace) &&
		q.LabelSelector.Matches(p.labels.labels) &&
		(q.FieldSelector.Empty() || q.FieldSelector.Matches(podFields{p}))
}

// podFieldNames are the fields that a selector may name.
var podFieldNames = []string{"metadata.name", "metadata.namespace", "spec.nodeName", "status.phase", "status.podIP"}

// podFields are the fields of a pod, for a fields.Selector.
type podFields struct{ *pod }

func (f podFields) Has(field string) bool { return slices.Contains(podFieldNames, field) }

func (f podFields) Get(field string) string {
	switch field {
	case "metadata.name":
		return f.name
	case "metadata.namespace":
		return f.namespace
	case "spec.nodeName":
		return f.node
	case "status.phase":
		return string(f.phase)
	case "status.podIP":
		return f.ip
	}
	return ""
}

func acceptsGzip(r *http.Request) bool {
	for _, coding := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		name, _, _ := strings.Cut(coding, ";")
		if strings.TrimSpace(name) == "gzip" {
			return true
		}
	}
	return false
}

// gzipWriters are writers of the real server's level, 1.
var gzipWriters = sync.Pool{New: func() any {
	w, err := gzip.NewWriterLevel(nil, 1)
	if err != nil {
		panic("standin: " + err.Error())
	}
	return w
}}
