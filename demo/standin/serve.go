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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// freshWait is how long a request for a resourceVersion of the future waits for it (blockTimeout of the real
// server's watch cache).
const freshWait = 3 * time.Second

// chunk is the size of the pieces in which long answers are written.
const chunk = 64 * 1024

// serveCollection answers a list or watch of the objects of a kind.
func (s *Server) serveCollection(w http.ResponseWriter, r *http.Request, k kind) {
	q, err := s.parseQuery(r, false, resources[k].fields)
	if err == nil {
		q.kind = k
		err = q.suits(&resources[k], !q.Watch)
	}
	switch {
	case err != nil:
		WriteError(w, r, err)
	case q.Watch:
		s.watch(w, r, q)
	default:
		s.list(w, r, q)
	}
}

// serveObject answers a request for one object.
func (s *Server) serveObject(w http.ResponseWriter, r *http.Request, k kind) {
	media, err := negotiate(r, false)
	if err == nil {
		err = media.suits(&resources[k], false)
	}
	if err != nil {
		WriteError(w, r, err)
		return
	}
	objects, _ := s.snapshot(k)
	i, found := search(objects, r.PathValue("namespace"), r.PathValue("name"))
	if !found {
		WriteError(w, r, apierrors.NewNotFound(resources[k].group(), r.PathValue("name")))
		return
	}
	w.Header().Set("Content-Type", string(media.encoding))
	metadataOnly := media.as != ""
	if media.encoding == protobufType {
		apiVersion, kind := media.kindOf(k).ToAPIVersionAndKind()
		body := appendObject(nil, apiVersion, kind, s.appendMessage(nil, objects[i], metadataOnly))
		_, _ = w.Write(body) // the client may be gone
		return
	}
	_ = json.NewEncoder(w).Encode(s.decoded(objects[i], metadataOnly))
}

// kindOf is the type as which objects of a kind are written.
func (m media) kindOf(k kind) schema.GroupVersionKind {
	if m.as != "" {
		return partialKind
	}
	return resources[k].GroupVersionKind
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
func (s *Server) decodeContinue(k kind, token string) (objects []object, rv uint64, from int, _ error) {
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
	objects, ok = s.snapshotAt(state{k, uint64(t.ResourceVersion)})
	if !ok {
		return nil, 0, 0, apierrors.NewResourceExpired("The provided continue parameter is too old to display a " +
			"consistent list result. " +
			"You can start a new list without the continue parameter.")
	}
	from, found := search(objects, namespace, name)
	if found {
		from++
	}
	return objects, uint64(t.ResourceVersion), from, nil
}

// list answers a list: of the present state, or of the state that a continue token or an exact resourceVersion
// names.
func (s *Server) list(w http.ResponseWriter, r *http.Request, q *query) {
	exact := q.ResourceVersionMatch == metav1.ResourceVersionMatchExact ||
		q.ResourceVersionMatch == "" && q.Limit > 0 && q.rv > 0 // the legacy form of the same
	var objects []object
	var rv uint64
	from := 0
	switch {
	case q.Continue != "":
		var err error
		if objects, rv, from, err = s.decodeContinue(q.kind, q.Continue); err != nil {
			WriteError(w, r, err)
			return
		}
	default:
		if err := s.waitForVersion(r, q.rv); err != nil {
			WriteError(w, r, err)
			return
		}
		if !exact {
			objects, rv = s.snapshot(q.kind)
			break
		}
		rv = q.rv
		var ok bool
		if objects, ok = s.snapshotAt(state{q.kind, rv}); !ok {
			WriteError(w, r, apierrors.NewResourceExpired("The resourceVersion for the provided list is too old."))
			return
		}
	}

	// As on the real server, a list of "any" version (0) comes from the cache and ignores the limit.
	limit := int(q.Limit)
	if q.ResourceVersion == "0" {
		limit = 0
	}
	var selected []object
	meta := metav1.ListMeta{ResourceVersion: strconv.FormatUint(rv, 10)}
	for i := from; i < len(objects); i++ {
		o := objects[i]
		if !q.matches(o) {
			continue
		}
		if limit > 0 && len(selected) == limit {
			last := selected[limit-1].meta()
			meta.Continue = continueToken{"meta.k8s.io/v1", int64(rv),
				last.namespace + "/" + last.name + "\x00"}.encode()
			if q.LabelSelector.Empty() && q.FieldSelector.Empty() && q.namespace == "" {
				meta.RemainingItemCount = new(int64(len(objects) - i))
			}
			s.keepSnapshot(state{q.kind, rv}, objects)
			break
		}
		selected = append(selected, o)
	}
	s.writeList(w, q, meta, selected)
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

// writeList writes a list object by object: each exists only while it is sent.
func (s *Server) writeList(w http.ResponseWriter, q *query, meta metav1.ListMeta, objects []object) {
	apiVersion, kind := q.kindOf(q.kind).ToAPIVersionAndKind()
	metadataOnly := q.as != ""
	// The length of a protobuf list stands before it, so the objects are encoded twice: to measure and to send.
	var b []byte
	size := 0
	for _, o := range objects {
		b = s.appendMessage(b[:0], o, metadataOnly)
		size += protowire.SizeTag(listItems) + protowire.SizeBytes(len(b))
	}
	head := appendBytes(nil, listMetadata, mustMarshal(&meta))
	size += len(head)

	w.Header().Set("Content-Type", string(q.encoding))
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
	if q.encoding == protobufType {
		_, _ = out.Write(append(appendEnvelope(nil, apiVersion, kind+"List", size), head...))
		for _, o := range objects {
			b = s.appendMessage(b[:0], o, metadataOnly)
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
	_, _ = fmt.Fprintf(out, `{"kind":"%sList","apiVersion":"%s","metadata":%s,"items":[`, kind, apiVersion, metadata)
	for i, o := range objects {
		if i > 0 {
			_ = out.WriteByte(',')
		}
		decoded := s.decoded(o, metadataOnly)
		if !metadataOnly { // items of such a list do not repeat it
			decoded.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		}
		item, err := json.Marshal(decoded)
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
	kind kind
	// Guarded by the cluster's lock.
	next     int     // the place of the next event, counted from the first event ever
	behind   []event // events before next that a compaction took out of the history
	injected []injectedEvent
	closed   bool
}

// injectedEvent is an event that never happened, see [Cluster.SendEvent].
type injectedEvent struct {
	kind   watch.EventType
	object object
}

// startWatch registers a watch of the objects of a kind. With initial, it begins with those returned; otherwise with
// the events after rv.
func (c *Cluster) startWatch(k kind, rv uint64, initial bool) (*watcher, []object, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &watcher{kind: k, next: c.dropped + len(c.history)}
	var objects []object
	switch {
	case initial:
		objects = c.share(k)
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
	return w, objects, c.rv, nil
}

func (c *Cluster) endWatch(w *watcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.watchers, w)
}

// news are what a watch has to send next.
type news struct {
	events   []event // of all kinds
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

// watch answers a watch or watch-list.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, q *query) {
	initial := q.SendInitialEvents != nil && *q.SendInitialEvents
	isWatchList := initial && q.AllowWatchBookmarks
	timeout := 30 * time.Minute
	timeout += time.Duration(rand.Float64() * float64(timeout)) // between once and twice the real --min-request-timeout
	if q.TimeoutSeconds != nil && *q.TimeoutSeconds > 0 {
		timeout = time.Duration(*q.TimeoutSeconds) * time.Second
	}
	out := &watchStream{server: s, request: r, response: w, query: q, compress: q.gzip && isWatchList}
	var err error
	if initial {
		err = s.waitForVersion(r, q.rv)
	}
	var watcher *watcher
	var objects []object
	var rv uint64
	if err == nil {
		watcher, objects, rv, err = s.startWatch(q.kind, q.rv, initial)
	}
	out.begin()
	if err != nil {
		// As on the real server, what goes wrong from here on is an event on a watch that works.
		out.send("ERROR", metav1.Unversioned.WithKind("Status"), mustMarshal(statusOf(err)), statusOf(err))
		out.flush()
		return
	}
	defer s.endWatch(watcher)

	deadline := time.Now().Add(timeout)
	end := time.NewTimer(timeout)
	defer end.Stop()
	bookmark := time.NewTimer(untilBookmark(s.bookmarkInterval, deadline))
	defer bookmark.Stop()

	for i, o := range objects {
		if q.matches(o) {
			out.sendObject(watch.Added, o)
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
			out.sendEvent(e)
		}
		for _, e := range n.injected {
			out.sendObject(e.kind, e.object)
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
	query    *query
	compress bool // watch-lists are compressed, each flush a gzip member of its own (feature WatchListCompression)

	buffer []byte
	object []byte
	broken bool // the client is gone
}

func (o *watchStream) begin() {
	contentType := string(o.query.encoding)
	if o.query.encoding == protobufType {
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

// sendEvent sends what an event means to a client: an object that begins to match its selectors is ADDED, one that
// ceases to is DELETED. Events of other kinds mean nothing.
func (o *watchStream) sendEvent(e event) {
	wants := func(object object) bool {
		return object != nil && object.kind() == o.query.kind && o.query.matches(object)
	}
	now, before := wants(e.cur), wants(e.old)
	switch {
	case now && before:
		o.sendObject(watch.Modified, e.cur)
	case now:
		o.sendObject(watch.Added, e.cur)
	case before:
		o.sendObject(watch.Deleted, e.old.at(e.rv))
	}
}

func (o *watchStream) sendObject(event watch.EventType, object object) {
	metadataOnly, kind := o.query.as != "", o.query.kindOf(o.query.kind)
	if o.query.encoding == protobufType {
		o.object = o.server.appendMessage(o.object[:0], object, metadataOnly)
		o.send(event, kind, o.object, nil)
		return
	}
	o.send(event, kind, nil, o.server.decoded(object, metadataOnly))
}

// sendBookmark sends a bookmark: an object with nothing but a resourceVersion and, at the end of the initial events,
// the annotation that says so.
func (o *watchStream) sendBookmark(rv uint64, initialEventsEnd bool) {
	object := &bookmark{objectMeta{rv: rv}, o.query.kind, initialEventsEnd}
	o.sendObject(watch.Bookmark, object)
}

// bookmark is what a bookmark has in place of an object.
type bookmark struct {
	objectMeta
	of               kind
	initialEventsEnd bool
}

func (b *bookmark) kind() kind { return b.of }
func (b *bookmark) at(rv uint64) object {
	return &bookmark{objectMeta{rv: rv}, b.of, b.initialEventsEnd}
}
func (b *bookmark) appendBody(_ *Cluster, to []byte) []byte { return to }
func (b *bookmark) appendMeta(_ *Cluster, to []byte) []byte {
	if b.initialEventsEnd {
		to = appendMapEntry(to, metaAnnotations, metav1.InitialEventsAnnotationKey, "true")
	}
	return to
}

// send puts one event into the buffer: the protobuf object, or the other one as JSON.
func (o *watchStream) send(event watch.EventType, kind schema.GroupVersionKind, protobuf []byte, object any) {
	if o.query.encoding == protobufType {
		apiVersion, kind := kind.ToAPIVersionAndKind()
		o.buffer = appendWatchFrame(o.buffer, string(event), apiVersion, kind, protobuf)
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
