package standin

import (
	"bufio"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// freshWait is how long a request for a resourceVersion of the future waits for it (blockTimeout of the real
// server's watch cache).
const freshWait = 3 * time.Second

// chunk is the size of the pieces in which long answers are written.
const chunk = 64 * 1024

func (s *Server) servePods(w http.ResponseWriter, r *http.Request) {
	q, err := s.parseQuery(r, false, podFieldNames...)
	switch {
	case err != nil:
		WriteError(w, r, err)
	case q.Watch:
		s.watchPods(w, r, q)
	default:
		s.listPods(w, r, q)
	}
}

func (s *Server) servePod(w http.ResponseWriter, r *http.Request) {
	media, ok := negotiate(r, false)
	if !ok {
		WriteError(w, r, errNotAcceptable(false))
		return
	}
	pods, _ := s.snapshot()
	i, found := search(pods, r.PathValue("namespace"), r.PathValue("name"))
	if !found {
		WriteError(w, r, apierrors.NewNotFound(corev1.Resource("pods"), r.PathValue("name")))
		return
	}
	w.Header().Set("Content-Type", string(media))
	if media == protobufType {
		_, _ = w.Write(appendObject(nil, "v1", "Pod", s.appendPod(nil, pods[i]))) // the client may be gone
		return
	}
	_ = json.NewEncoder(w).Encode(s.podObject(pods[i], pods[i].rv))
}

// continueToken is what the real server puts into a continue token (apiserver's storage.EncodeContinue). Start is
// the key namespace/name from which the next page begins.
type continueToken struct {
	APIVersion      string `json:"v"`
	ResourceVersion int64  `json:"rv"`
	Start           string `json:"start"`
}

func (t continueToken) encode() string {
	b, err := json.Marshal(t)
	if err != nil {
		panic("standin: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeContinue reads a continue token: the state it names and the place from which to go on.
func (s *Server) decodeContinue(token string) (pods []*pod, rv uint64, from int, _ error) {
	invalid := apierrors.NewBadRequest("continue key is not valid")
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return nil, 0, 0, invalid
	}
	var t continueToken
	namespace, name, ok := "", "", false
	if err = json.Unmarshal(b, &t); err == nil {
		namespace, name, ok = strings.Cut(strings.TrimSuffix(t.Start, "\x00"), "/")
	}
	if !ok || t.APIVersion != "meta.k8s.io/v1" || t.ResourceVersion <= 0 {
		return nil, 0, 0, invalid
	}
	pods, ok = s.snapshotAt(uint64(t.ResourceVersion))
	if !ok {
		return nil, 0, 0, apierrors.NewResourceExpired("The provided continue parameter is too old to display a " +
			"consistent list result. " +
			"You can start a new list without the continue parameter.")
	}
	from, found := search(pods, namespace, name)
	if found {
		from++
	}
	return pods, uint64(t.ResourceVersion), from, nil
}

// listPods answers a list: of the present state, or of the state that a continue token or an exact resourceVersion
// names.
func (s *Server) listPods(w http.ResponseWriter, r *http.Request, q *query) {
	exact := q.ResourceVersionMatch == metav1.ResourceVersionMatchExact ||
		q.ResourceVersionMatch == "" && q.Limit > 0 && q.rv > 0 // the legacy form of the same
	var pods []*pod
	var rv uint64
	from := 0
	switch {
	case q.Continue != "":
		var err error
		if pods, rv, from, err = s.decodeContinue(q.Continue); err != nil {
			WriteError(w, r, err)
			return
		}
	default:
		if err := s.waitForVersion(r, q.rv); err != nil {
			WriteError(w, r, err)
			return
		}
		if !exact {
			pods, rv = s.snapshot()
			break
		}
		rv = q.rv
		var ok bool
		if pods, ok = s.snapshotAt(rv); !ok {
			WriteError(w, r, apierrors.NewResourceExpired("The resourceVersion for the provided list is too old."))
			return
		}
	}

	// As on the real server, a list of "any" version (0) comes from the cache and ignores the limit.
	limit := int(q.Limit)
	if q.ResourceVersion == "0" {
		limit = 0
	}
	var selected []*pod
	meta := metav1.ListMeta{ResourceVersion: strconv.FormatUint(rv, 10)}
	for i := from; i < len(pods); i++ {
		p := pods[i]
		if !q.matches(p) {
			continue
		}
		if limit > 0 && len(selected) == limit {
			last := selected[limit-1]
			meta.Continue = continueToken{"meta.k8s.io/v1", int64(rv),
				last.namespace + "/" + last.name + "\x00"}.encode()
			if q.LabelSelector.Empty() && q.FieldSelector.Empty() && q.namespace == "" {
				meta.RemainingItemCount = new(int64(len(pods) - i))
			}
			s.keepSnapshot(pods, rv)
			break
		}
		selected = append(selected, p)
	}
	s.writePodList(w, q, meta, selected)
}

// waitForVersion waits a moment for a resourceVersion that does not exist yet.
func (s *Server) waitForVersion(r *http.Request, rv uint64) error {
	timeout := time.After(freshWait)
	for {
		s.mu.Lock()
		now := s.rv
		changed := s.waitChannel()
		s.mu.Unlock()
		if now >= rv {
			return nil
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return apierrors.NewTimeoutError("the client is gone", 1)
		case <-timeout:
			err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", rv, now), 1)
			err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge,
				Message: "Too large resource version"}}
			return err
		}
	}
}

// writePodList writes a list pod by pod: every object exists only while it is sent.
func (s *Server) writePodList(w http.ResponseWriter, q *query, meta metav1.ListMeta, pods []*pod) {
	// The length of a protobuf list stands before it, so the pods are encoded twice: to measure and to send.
	var b []byte
	size := 0
	for _, p := range pods {
		b = s.appendPod(b[:0], p)
		size += protowire.SizeTag(listItems) + protowire.SizeBytes(len(b))
	}
	head := appendBytes(nil, listMetadata, mustMarshal(&meta))
	size += len(head)

	w.Header().Set("Content-Type", string(q.media))
	var to io.Writer = w
	if q.gzip && size > gzipThreshold {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Add("Vary", "Accept-Encoding")
		z := gzipWriters.Get().(*gzip.Writer)
		defer gzipWriters.Put(z)
		z.Reset(w)
		defer z.Close()
		to = z
	}
	// An error of writing means that the client is gone: the bufio.Writer keeps it, and the rest goes nowhere.
	out := bufio.NewWriterSize(to, chunk)
	defer out.Flush()
	if q.media == protobufType {
		_, _ = out.Write(append(appendEnvelope(nil, "v1", "PodList", size), head...))
		for _, p := range pods {
			b = s.appendPod(b[:0], p)
			frame := protowire.AppendTag(out.AvailableBuffer(), listItems, protowire.BytesType)
			_, _ = out.Write(protowire.AppendVarint(frame, uint64(len(b))))
			if _, err := out.Write(b); err != nil {
				return
			}
		}
		_, _ = out.WriteString(envelopeTail)
		return
	}
	metadata, err := json.Marshal(meta)
	if err != nil {
		panic("standin: " + err.Error())
	}
	_, _ = fmt.Fprintf(out, `{"kind":"PodList","apiVersion":"v1","metadata":%s,"items":[`, metadata)
	for i, p := range pods {
		if i > 0 {
			_ = out.WriteByte(',')
		}
		o := s.podObject(p, p.rv)
		o.APIVersion, o.Kind = "", "" // items of a list do not repeat it
		item, err := json.Marshal(o)
		if err != nil {
			panic("standin: " + err.Error())
		}
		if _, err := out.Write(item); err != nil {
			return
		}
	}
	_, _ = out.WriteString("]}\n")
}

// watcher is one running watch.
type watcher struct {
	// Guarded by the cluster's lock.
	next     int     // the place of the next event, counted from the first event ever
	behind   []event // events before next that a compaction took out of the history
	injected []injectedEvent
	closed   bool
}

// injectedEvent is an event that never happened, see [Cluster.SendEvent].
type injectedEvent struct {
	kind watch.EventType
	pod  *pod
}

// startWatch registers a watch. With initial, it begins with the pods returned; otherwise with the events after rv.
func (c *Cluster) startWatch(rv uint64, initial bool) (*watcher, []*pod, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &watcher{next: c.dropped + len(c.history)}
	var pods []*pod
	switch {
	case initial:
		c.shared = true
		pods = c.pods
	case rv == 0: // from now
	case rv < c.compacted || rv > c.rv:
		return nil, nil, 0, apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", rv,
			c.compacted))
	default:
		for w.next > c.dropped && c.history[w.next-1-c.dropped].rv > rv {
			w.next--
		}
	}
	c.watchers[w] = struct{}{}
	return w, pods, c.rv, nil
}

func (c *Cluster) endWatch(w *watcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.watchers, w)
}

// news are what a watch has to send next.
type news struct {
	events   []event
	injected []injectedEvent
	rv       uint64 // the state that the client has when it has these events
	more     <-chan struct{}
}

// take gives a watch its next events; ok is false when it must end: closed, or so slow that the history has moved
// on without it.
func (c *Cluster) take(w *watcher) (n news, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.closed || w.next < c.dropped {
		return n, false
	}
	n.events, n.injected, n.rv = w.behind, w.injected, c.rv
	if len(n.events) == 0 {
		// Entries of the history are never changed, so the slice can be read without the lock.
		n.events = c.history[w.next-c.dropped:]
		w.next = c.dropped + len(c.history)
	}
	w.behind, w.injected = nil, nil
	n.more = c.waitChannel()
	if w.next < c.dropped+len(c.history) {
		n.rv = n.events[len(n.events)-1].rv
		ready := make(chan struct{})
		close(ready)
		n.more = ready
	}
	return n, true
}

// watchPods answers a watch or watch-list.
func (s *Server) watchPods(w http.ResponseWriter, r *http.Request, q *query) {
	initial := q.SendInitialEvents != nil && *q.SendInitialEvents
	isWatchList := initial && q.AllowWatchBookmarks
	timeout := 30 * time.Minute
	timeout += time.Duration(rand.Float64() * float64(timeout)) // between once and twice the real --min-request-timeout
	if q.TimeoutSeconds != nil && *q.TimeoutSeconds > 0 {
		timeout = time.Duration(*q.TimeoutSeconds) * time.Second
	}
	out := &watchStream{server: s, request: r, response: w, media: q.media, compress: q.gzip && isWatchList}
	var err error
	if initial {
		err = s.waitForVersion(r, q.rv)
	}
	var watcher *watcher
	var pods []*pod
	var rv uint64
	if err == nil {
		watcher, pods, rv, err = s.startWatch(q.rv, initial)
	}
	out.begin()
	if err != nil {
		// As on the real server, what goes wrong from here on is an event on a watch that works.
		out.send("ERROR", "Status", mustMarshal(statusOf(err)), statusOf(err))
		out.flush()
		return
	}
	defer s.endWatch(watcher)

	deadline := time.Now().Add(timeout)
	end := time.NewTimer(timeout)
	defer end.Stop()
	bookmark := time.NewTimer(untilBookmark(s.bookmarkInterval, deadline))
	defer bookmark.Stop()

	for i, p := range pods {
		if q.matches(p) {
			out.sendPod(watch.Added, p, p.rv)
		}
		if i%100 == 0 && (out.broken || !s.runs(watcher)) {
			return
		}
	}
	if isWatchList && !s.Behavior().NoInitialEventsEnd {
		out.sendBookmark(rv, true)
	}
	for {
		n, ok := s.take(watcher)
		if !ok || out.broken {
			return
		}
		for _, e := range n.events {
			out.sendEvent(q, e)
		}
		for _, e := range n.injected {
			out.sendPod(e.kind, e.pod, e.pod.rv)
		}
		out.flush()
		select {
		case <-n.more:
		case <-bookmark.C:
			if q.AllowWatchBookmarks && !s.Behavior().NoBookmarks {
				out.sendBookmark(n.rv, false)
			}
			bookmark.Reset(untilBookmark(s.bookmarkInterval, deadline))
		case <-end.C:
			out.flush() // a watch that hangs does not even end
			return
		case <-r.Context().Done():
			return
		}
	}
}

// untilBookmark is the time to the next bookmark: the interval, or 2 seconds before the watch ends (as in the
// real server's cacheWatcher.nextBookmarkTime) if that is earlier and still to come.
func untilBookmark(interval time.Duration, deadline time.Time) time.Duration {
	if last := time.Until(deadline) - 2*time.Second; last > 0 && last < interval {
		return last
	}
	return interval
}

func (c *Cluster) runs(w *watcher) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !w.closed
}

// watchStream writes the events of a watch.
type watchStream struct {
	server   *Server
	request  *http.Request
	response http.ResponseWriter
	media    mediaType
	compress bool // watch-lists are compressed, each flush a gzip member of its own (feature WatchListCompression)

	buffer []byte
	object []byte
	broken bool // the client is gone
}

func (o *watchStream) begin() {
	contentType := string(o.media)
	if o.media == protobufType {
		contentType += ";stream=watch"
	}
	o.response.Header().Set("Content-Type", contentType)
	if o.compress {
		o.response.Header().Set("Content-Encoding", "gzip")
		o.response.Header().Add("Vary", "Accept-Encoding")
	}
	o.response.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(o.response).Flush() // a broken connection shows at the first event
}

// sendEvent sends what an event means to a client: a pod that begins to match its selectors is ADDED, one that
// ceases to is DELETED.
func (o *watchStream) sendEvent(q *query, e event) {
	now, before := e.cur != nil && q.matches(e.cur), e.old != nil && q.matches(e.old)
	switch {
	case now && before:
		o.sendPod(watch.Modified, e.cur, e.rv)
	case now:
		o.sendPod(watch.Added, e.cur, e.rv)
	case before:
		o.sendPod(watch.Deleted, e.old, e.rv)
	}
}

func (o *watchStream) sendPod(kind watch.EventType, p *pod, rv uint64) {
	if o.media == protobufType {
		o.object = o.server.appendPodAt(o.object[:0], p, rv)
		o.send(kind, "Pod", o.object, nil)
		return
	}
	o.send(kind, "Pod", nil, o.server.podObject(p, rv))
}

// sendBookmark sends a bookmark: a pod with nothing but a resourceVersion and, at the end of the initial events,
// the annotation that says so.
func (o *watchStream) sendBookmark(rv uint64, initialEventsEnd bool) {
	p := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
	p.ResourceVersion = strconv.FormatUint(rv, 10)
	if initialEventsEnd {
		p.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	o.send(watch.Bookmark, "Pod", mustMarshal(p), p)
}

// send puts one event into the buffer: the protobuf object, or the other one as JSON.
func (o *watchStream) send(event watch.EventType, kind string, protobuf []byte, object any) {
	if o.media == protobufType {
		o.buffer = appendWatchFrame(o.buffer, string(event), kind, protobuf)
	} else {
		b, err := json.Marshal(map[string]any{"type": event, "object": object})
		if err != nil {
			panic("standin: " + err.Error())
		}
		o.buffer = append(append(o.buffer, b...), '\n')
	}
	if len(o.buffer) >= chunk {
		o.flush()
	}
}

// flush sends the buffer, unless watches hang.
func (o *watchStream) flush() {
	for s := o.server.setting.Load(); s.HangWatches; s = o.server.setting.Load() {
		select {
		case <-s.replaced:
		case <-o.request.Context().Done():
			o.broken = true
			return
		}
	}
	if len(o.buffer) == 0 || o.broken {
		return
	}
	var err error
	if o.compress {
		z := gzipWriters.Get().(*gzip.Writer)
		z.Reset(o.response)
		// As the real server does, the data is flushed before the member is closed: Go's reader holds back what comes
		// in the block that ends a member until the next member begins.
		_, err = z.Write(o.buffer)
		err = cmp.Or(err, z.Flush(), z.Close())
		gzipWriters.Put(z)
	} else {
		_, err = o.response.Write(o.buffer)
	}
	o.buffer = o.buffer[:0]
	if err == nil {
		err = http.NewResponseController(o.response).Flush()
	}
	o.broken = err != nil
}
