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
	metricsGroup := groupOf(metricsv1beta1.SchemeGroupVersion)
	m.HandleFunc("GET /apis", writeJSON(metav1.APIGroupList{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"},
		Groups: []metav1.APIGroup{groupOf(resources[replicaSetKind].GroupVersion()),
			groupOf(resources[jobKind].GroupVersion()), metricsGroup},
	}))
	lists := map[string]*metav1.APIResourceList{} // by path
	for k := range kinds {
		r := &resources[k]
		list := lists[r.path()]
		if list == nil {
			list = &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
				GroupVersion: r.GroupVersion().String()}
			lists[r.path()] = list
		}
		list.APIResources = append(list.APIResources, metav1.APIResource{Name: r.name,
			SingularName: strings.ToLower(r.Kind), Namespaced: r.namespaced, Kind: r.Kind,
			Verbs: metav1.Verbs{"get", "list", "watch"}})
		serve := func(w http.ResponseWriter, req *http.Request) { s.serveCollection(w, req, k) }
		m.HandleFunc("GET "+r.path()+"/"+r.name, serve)
		one := r.path() + "/" + r.name + "/{name}"
		if r.namespaced {
			m.HandleFunc("GET "+r.path()+"/namespaces/{namespace}/"+r.name, serve)
			one = r.path() + "/namespaces/{namespace}/" + r.name + "/{name}"
		}
		m.HandleFunc("GET "+one, func(w http.ResponseWriter, req *http.Request) { s.serveObject(w, req, k) })
	}
	for path, list := range lists {
		m.HandleFunc("GET "+path, writeJSON(list))
	}
	m.HandleFunc("GET /apis/metrics.k8s.io/v1beta1", writeJSON(metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
		GroupVersion: metricsVersion,
		APIResources: []metav1.APIResource{
			{Name: "nodes", Kind: "NodeMetrics", Verbs: metav1.Verbs{"get", "list"}},
			{Name: "pods", Namespaced: true, Kind: "PodMetrics", Verbs: metav1.Verbs{"get", "list"}},
		},
	}))
	m.HandleFunc("GET /apis/metrics.k8s.io/v1beta1/pods", s.servePodMetricsList)
	m.HandleFunc("GET /apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods", s.servePodMetricsList)
	m.HandleFunc("GET /apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{name}", s.servePodMetrics)
	m.HandleFunc("GET /apis/metrics.k8s.io/v1beta1/nodes", s.serveNodeMetricsList)
	m.HandleFunc("GET /apis/metrics.k8s.io/v1beta1/nodes/{name}", s.serveNodeMetrics)
	return m
}

func groupOf(gv schema.GroupVersion) metav1.APIGroup {
	version := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
	return metav1.APIGroup{Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{version},
		PreferredVersion: version}
}

// requestInfo is what a path below /api or /apis names.
type requestInfo struct {
	schema.GroupResource
	namespace, name string
}

func infoOf(path string) (i requestInfo) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case parts[0] == "api" && len(parts) > 2:
		parts = parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		i.Group, parts = parts[1], parts[3:]
	default:
		return i
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		i.namespace, parts = parts[1], parts[2:]
	}
	i.Resource = parts[0]
	if len(parts) > 1 {
		i.name = parts[1]
	}
	return i
}

// verbOf names what a request asks for, as Kubernetes' RBAC does.
func verbOf(r *http.Request) string {
	info := infoOf(r.URL.Path)
	watch, _ := strconv.ParseBool(r.URL.Query().Get("watch")) // what is not a bool is not a watch; the list refuses it
	switch {
	case r.Method != http.MethodGet:
		return strings.ToLower(r.Method)
	case info.Resource == "" || info.name != "":
		return "get"
	case watch:
		return "watch"
	}
	return "list"
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
	info := infoOf(r.URL.Path)
	scope := "at the cluster scope"
	if info.namespace != "" {
		scope = fmt.Sprintf("in the namespace %q", info.namespace)
	}
	//lint:ignore ST1005 this is what the real server says
	return apierrors.NewForbidden(info.GroupResource, info.name, fmt.Errorf(
		"User %q cannot %s resource %q in API group %q %s", user, verbOf(r), info.Resource, info.Group, scope))
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
	media, err := negotiate(r, false)
	if err != nil {
		media.encoding = jsonType
	}
	w.Header().Set("Content-Type", string(media.encoding))
	w.WriteHeader(int(status.Code))
	if media.encoding == protobufType {
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

// media is how an answer is written.
type media struct {
	encoding mediaType
	as       string // PartialObjectMetadata, or its List; empty for the whole object
}

// negotiate chooses how to answer by the Accept header; the error is that of a client that accepts none of the answers.
func negotiate(r *http.Request, jsonOnly bool) (media, error) {
	accept := r.Header.Get("Accept")
	if accept == "" {
		return media{encoding: jsonType}, nil
	}
	for _, clause := range goautoneg.ParseAccept(accept) {
		as := clause.Params["as"]
		if as != "" && (strings.TrimSuffix(as, "List") != partialKind.Kind || clause.Params["g"] != partialKind.Group ||
			clause.Params["v"] != partialKind.Version) {
			continue // a Table, which this server does not know
		}
		switch clause.Type + "/" + clause.SubType {
		case string(protobufType):
			if !jsonOnly {
				return media{protobufType, as}, nil
			}
		case string(jsonType), "application/*", "*/*":
			return media{jsonType, as}, nil
		}
	}
	accepted := []string{string(jsonType)}
	if !jsonOnly {
		accepted = append(accepted, string(protobufType))
	}
	return media{}, notAcceptable("only the following media types are accepted: " + strings.Join(accepted, ", "))
}

// suits says whether a list, or else one object, can be written as this.
func (m media) suits(r *apiResource, list bool) error {
	isList := strings.HasSuffix(m.as, "List")
	switch {
	case m.as == "" && r.decode == nil: // here this server differs from the real one
		return notAcceptable("of " + r.group().String() + " this simulated server knows only the metadata: accept " +
			"as=PartialObjectMetadata")
	case m.as != "" && list && !isList:
		return notAcceptable("you requested " + m.as + ", but the requested object is a list")
	case isList && !list:
		return notAcceptable("you requested " + m.as + ", but the requested object is not a list")
	}
	return nil
}

// whole refuses to write an object of the metrics API as another type.
func (m media) whole() error {
	if m.as != "" {
		return notAcceptable("this simulated server has the metrics API without transformations: accept no as=" + m.as)
	}
	return nil
}

func notAcceptable(message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure,
		Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable, Message: message}}
}

// query is a list or watch request, understood.
type query struct {
	internalversion.ListOptions
	kind      kind
	namespace string
	media
	gzip bool
	rv   uint64 // of ListOptions.ResourceVersion
}

// parseQuery reads the options of a list or watch by the code that the real server reads them with.
func (s *Server) parseQuery(r *http.Request, jsonOnly bool, allowed []string) (*query, error) {
	q := &query{namespace: r.PathValue("namespace")}
	var err error
	if q.media, err = negotiate(r, jsonOnly); err != nil {
		return nil, err
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
		if q.rv, err = strconv.ParseUint(q.ResourceVersion, 10, 64); err != nil {
			return nil, apierrors.NewBadRequest("Invalid value: \"" + q.ResourceVersion +
				"\": strconv.ParseUint: parsing resourceVersion")
		}
	}
	return q, nil
}

// matches says whether a list or watch wants an object.
func (q *query) matches(o object) bool {
	return (q.namespace == "" || q.namespace == o.meta().namespace) &&
		(q.LabelSelector.Empty() || q.LabelSelector.Matches(o.meta().labels.set())) &&
		(q.FieldSelector.Empty() || q.FieldSelector.Matches(objectFields{o}))
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
