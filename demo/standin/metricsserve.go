package standin

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/metrics/pkg/apis/metrics"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

var (
	metricsVersion     = metricsv1beta1.SchemeGroupVersion.String()
	podMetricsResource = metrics.Resource("pods")
	nodeMetricsKind    = "NodeMetrics"
	podMetricsKind     = "PodMetrics"
)

// metricsView is what the metrics API answers as long as nothing changes: the stored state of the source, the
// live pods and the server's behaviour. It keeps the answers, so that a list asked for again costs only the
// sending: in comparisons the server must not be what is measured.
type metricsView struct {
	batch    *batch
	live     []object
	rv       uint64
	behavior *setting
	// created is the creationTimestamp of all objects. (metrics-server puts the moment of each call there.)
	created time.Time

	mu      sync.Mutex
	answers map[string]*answer
}

// answer is one body, made once.
type answer struct {
	once sync.Once
	body []byte
}

// answerLimit bounds the kept answers; the largest is 70 MB in the largest cluster.
const answerLimit = 16

// metricsView returns the present view.
func (s *Server) metricsView() *metricsView {
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	b, live, rv := s.metrics()
	behavior := s.setting.Load()
	if v := s.view; v == nil || v.batch != b || v.rv != rv || v.behavior != behavior {
		s.view = &metricsView{
			batch: b, live: live, rv: rv, behavior: behavior,
			created: s.now().Truncate(time.Second), answers: map[string]*answer{},
		}
	}
	return s.view
}

// body returns the answer with the given key, made by encode if it is asked for the first time.
func (v *metricsView) body(key string, encode func() []byte) []byte {
	v.mu.Lock()
	a := v.answers[key]
	if a == nil {
		if len(v.answers) == answerLimit {
			clear(v.answers)
		}
		a = &answer{}
		v.answers[key] = a
	}
	v.mu.Unlock()
	a.once.Do(func() { a.body = encode() })
	return a.body
}

func (v *metricsView) timestamp(t time.Time, namespace, name string) time.Time {
	return t.Add(v.behavior.Skew(namespace, name))
}

func (v *metricsView) window(d time.Duration) time.Duration {
	if v.behavior.Window != nil {
		return *v.behavior.Window
	}
	return d
}

func (v *metricsView) omits(namespace, name string) bool {
	return v.behavior.OmitUsage != nil && v.behavior.OmitUsage(namespace, name)
}

func (s *Server) servePodMetricsList(w http.ResponseWriter, r *http.Request) {
	s.serveMetricsList(w, r, "PodMetricsList",
		func(q *query, v *metricsView, each func(protobuf func([]byte) []byte, object func() any)) {
			forEachUsage(v.batch, v.live, func(stored, current *pod) {
				if q.matches(current) && !v.omits(stored.namespace, stored.name) {
					each(
						func(b []byte) []byte { return s.appendPodMetrics(b, v.batch, stored, current, v) },
						func() any { return v.podJSON(s.podUsage(v.batch, stored, current), false) })
				}
			})
		})
}

func (s *Server) serveNodeMetricsList(w http.ResponseWriter, r *http.Request) {
	s.serveMetricsList(w, r, "NodeMetricsList",
		func(q *query, v *metricsView, each func(protobuf func([]byte) []byte, object func() any)) {
			for _, name := range s.nodes {
				if !q.matches(&nodeObject{objectMeta: objectMeta{name: name, labels: s.nodeLabels(name)}}) || v.omits("", name) {
					continue
				}
				u := s.nodeUsage(v.batch, name)
				each(
					func(b []byte) []byte { return s.appendNodeMetrics(b, u, v) },
					func() any { return v.nodeJSON(u, s.nodeLabels(u.Name), false) })
			}
		})
}

// serveMetricsList answers a list of the metrics API. items calls each with the two encodings of every item.
func (s *Server) serveMetricsList(w http.ResponseWriter, r *http.Request, kind string,
	items func(*query, *metricsView, func(protobuf func([]byte) []byte, object func() any))) {
	v := s.metricsView()
	q, err := s.parseQuery(r, v.behavior.MetricsJSONOnly, metaFields)
	if err == nil && q.Watch {
		err = apierrors.NewMethodNotSupported(schema.GroupResource{Group: metrics.GroupName,
			Resource: strings.ToLower(strings.TrimSuffix(kind, "MetricsList")) + "s"}, "watch")
	}
	if err == nil {
		err = q.whole()
	}
	if err != nil {
		WriteError(w, r, err)
		return
	}
	key := strings.Join([]string{kind, string(q.encoding), q.namespace, q.LabelSelector.String(),
		q.FieldSelector.String()}, "\x00")
	body := v.body(key, func() []byte {
		if q.encoding == protobufType {
			return s.encodeMetricsList(kind, func(each func(func([]byte) []byte)) {
				items(q, v, func(protobuf func([]byte) []byte, _ func() any) { each(protobuf) })
			})
		}
		var b bytes.Buffer
		b.WriteString(`{"kind":"` + kind + `","apiVersion":"` + metricsVersion + `","metadata":{},"items":[`)
		first := true
		items(q, v, func(_ func([]byte) []byte, object func() any) {
			if !first {
				b.WriteByte(',')
			}
			first = false
			b.Write(mustJSON(object()))
		})
		b.WriteString("]}\n")
		return b.Bytes()
	})
	s.writeMetrics(w, q.encoding, q.gzip, body, func() []byte {
		return v.body(key+"\x00gzip", func() []byte { return compress(body) })
	})
}

// encodeMetricsList makes a protobuf list of its items in one buffer. The length before the list is known only at
// its end, so room is left for what comes first.
func (s *Server) encodeMetricsList(kind string, items func(each func(func([]byte) []byte))) []byte {
	const room = 128
	s.viewMu.Lock()
	b := make([]byte, room, s.lastSize[kind]+s.lastSize[kind]/16+room)
	s.viewMu.Unlock()
	b = append(b, "\x0a\x06\x0a\x00\x12\x00\x1a\x00"...) // an empty ListMeta, as the generated encoder writes it
	items(func(appendItem func([]byte) []byte) {
		var start int
		b, start = open(b, listItems)
		b = seal(appendItem(b), start)
	})
	s.viewMu.Lock()
	s.lastSize[kind] = len(b)
	s.viewMu.Unlock()
	head := appendEnvelope(nil, metricsVersion, kind, len(b)-room)
	b = append(b, envelopeTail...)
	copy(b[room-len(head):], head)
	return b[room-len(head):]
}

func compress(body []byte) []byte {
	var b bytes.Buffer
	z := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(z)
	z.Reset(&b)
	_, _ = z.Write(body) // a bytes.Buffer takes everything
	_ = z.Close()
	return b.Bytes()
}

func (s *Server) servePodMetrics(w http.ResponseWriter, r *http.Request) {
	namespace, name := r.PathValue("namespace"), r.PathValue("name")
	v := s.metricsView()
	at, stored := search(v.batch.pods, namespace, name)
	now, lives := search(v.live, namespace, name)
	if !stored || !lives || !v.batch.pods[at].(*pod).measured() || v.omits(namespace, name) {
		// metrics-server puts both parts into the name.
		WriteError(w, r, apierrors.NewNotFound(podMetricsResource, namespace+"/"+name))
		return
	}
	s.writeMetricsObject(w, r, v, podMetricsKind,
		func() []byte { return s.appendPodMetrics(nil, v.batch, v.batch.pods[at].(*pod), v.live[now].(*pod), v) },
		func() any { return v.podJSON(s.podUsage(v.batch, v.batch.pods[at].(*pod), v.live[now].(*pod)), true) })
}

func (s *Server) serveNodeMetrics(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	v := s.metricsView()
	found := false
	for _, n := range s.nodes {
		found = found || n == name
	}
	if !found || v.omits("", name) {
		WriteError(w, r, apierrors.NewNotFound(metrics.Resource("nodes"), name))
		return
	}
	u := s.nodeUsage(v.batch, name)
	s.writeMetricsObject(w, r, v, nodeMetricsKind,
		func() []byte { return s.appendNodeMetrics(nil, u, v) },
		func() any { return v.nodeJSON(u, s.nodeLabels(u.Name), true) })
}

func (s *Server) writeMetricsObject(w http.ResponseWriter, r *http.Request, v *metricsView, kind string,
	protobuf func() []byte, object func() any) {
	media, err := negotiate(r, v.behavior.MetricsJSONOnly)
	if err == nil {
		err = media.whole()
	}
	if err != nil {
		WriteError(w, r, err)
		return
	}
	var body []byte
	if media.encoding == protobufType {
		body = appendObject(nil, metricsVersion, kind, protobuf())
	} else {
		body = append(mustJSON(object()), '\n')
	}
	s.writeMetrics(w, media.encoding, false, body, nil)
}

func (s *Server) writeMetrics(w http.ResponseWriter, encoding mediaType, gzip bool, body []byte,
	compressed func() []byte) {
	w.Header().Set("Content-Type", string(encoding))
	if gzip && len(body) > gzipThreshold {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Add("Vary", "Accept-Encoding")
		body = compressed()
	}
	_, _ = w.Write(body) // the client may be gone
}

// metricsJSON is a PodMetrics or NodeMetrics in JSON. Its quantities are strings, so that it can carry those that
// no legal object has.
type metricsJSON struct {
	Kind       string `json:"kind,omitempty"`
	APIVersion string `json:"apiVersion,omitempty"`
	Metadata   struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace,omitempty"`
		CreationTimestamp time.Time         `json:"creationTimestamp"`
		Labels            map[string]string `json:"labels,omitempty"`
	} `json:"metadata"`
	Timestamp  time.Time         `json:"timestamp"`
	Window     string            `json:"window"`
	Usage      map[string]string `json:"usage,omitempty"`
	Containers []containerJSON   `json:"containers,omitempty"`
}

type containerJSON struct {
	Name  string            `json:"name"`
	Usage map[string]string `json:"usage"`
}

func (v *metricsView) podJSON(u PodUsage, alone bool) metricsJSON {
	j := metricsJSON{Timestamp: v.timestamp(u.Timestamp, u.Namespace, u.Name).UTC(),
		Window: v.window(u.Window).String()}
	if alone {
		j.Kind, j.APIVersion = podMetricsKind, metricsVersion
	}
	j.Metadata.Name, j.Metadata.Namespace, j.Metadata.Labels = u.Name, u.Namespace, u.Labels
	j.Metadata.CreationTimestamp = v.created.UTC()
	for _, c := range u.Containers {
		j.Containers = append(j.Containers, containerJSON{c.Name, usageJSON(c.CPU, c.Memory)})
	}
	return j
}

func (v *metricsView) nodeJSON(u NodeUsage, labels labelSet, alone bool) metricsJSON {
	j := metricsJSON{Timestamp: v.timestamp(u.Timestamp, "", u.Name).UTC(), Window: v.window(u.Window).String(),
		Usage: usageJSON(u.CPU, u.Memory)}
	if alone {
		j.Kind, j.APIVersion = nodeMetricsKind, metricsVersion
	}
	j.Metadata.Name, j.Metadata.Labels = u.Name, labels.set()
	j.Metadata.CreationTimestamp = v.created.UTC()
	return j
}

func usageJSON(cpu, memory string) map[string]string {
	m := map[string]string{}
	if cpu != "" {
		m["cpu"] = cpu
	}
	if memory != "" {
		m["memory"] = memory
	}
	return m
}

func mustJSON(object any) []byte {
	b, err := json.Marshal(object)
	if err != nil {
		panic("standin: " + err.Error())
	}
	return b
}
