package top

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/usage"
)

// answer is what there is to a query at a moment.
type answer struct {
	query             query
	version           string
	time              time.Time
	failures, notices []string
	newest, oldest    int64 // of the readings, Unix seconds; 0 for none
	period            time.Duration
	totals            *row
	counts            [levels]int // of all there is; -1 for what is not known
	found             int         // rows of the query, of which there are the first
	rows              []*row
	step              time.Duration // of the history
	recorded, since   time.Time     // its newest and its first value; zero for none
	missing           []string
	clusters          []string      // all, where they have names
	watched           int           // pods
	lists             []*usage.List // that it is made of
}

// patience is how long an answer waits for current data, such as the first ones.
const patience = time.Second

// answer answers a query with what is current, and says of the rest why it is not there. It fails where there is no
// cluster of the name that is asked for.
func (p *Page) answer(ctx context.Context, q query) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p.Wait(ctx, q.cluster)
	for {
		wait(ctx, &q, p.Sources())
		a, err := p.answerNow(q, p.Sources())
		if err != nil || !slices.ContainsFunc(a.lists, isOld) {
			return a, err
		} // else the process has stood still meanwhile
	}
}

// isOld tells whether what a list has may be old: the process has stood still since, or it should have been read anew.
func isOld(l *usage.List) bool { return !l.Loop.IsCurrent() }

// wait waits until nothing is old that there is of the clusters that the query is about, or ctx ends.
func wait(ctx context.Context, q *query, sources []Source) {
	for {
		var again <-chan struct{}
		for i := range sources {
			for _, l := range sources[i].Lists {
				if ended := l.Loop.Ended(); q.isAbout(&sources[i]) && isOld(l) { // which has it read
					again = ended
				}
			}
		}
		if again == nil {
			return
		}
		select {
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// answerNow answers a query with what is current now.
func (p *Page) answerNow(q query, sources []Source) (*answer, error) {
	if err := q.check(sources); err != nil {
		return nil, err
	}
	none := noSum()
	a := &answer{query: q, version: p.Version, time: time.Now(), totals: newRow(place{}, &none, 0), counts: uncounted}
	best := &best{query: &q}
	for i := range sources {
		if s := &sources[i]; q.isAbout(s) {
			p.look(a, s, p.historyOf(s.Name, len(sources)), best)
		}
	}
	slices.SortFunc(best.rows, func(x, y *row) int { return best.compare(&x.place, &y.place) })
	a.rows = best.rows
	for i := range sources {
		s := &sources[i]
		if p.show(a, s, p.historyOf(s.Name, len(sources))); s.Name != "" {
			a.clusters = append(a.clusters, s.Name)
		}
	}
	failures, notices := p.State(q.cluster)
	a.failures, a.notices = append(failures, a.failures...), notices
	return a, nil
}

// look adds to an answer what there is of a cluster.
func (p *Page) look(a *answer, source *Source, h *history, best *best) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.begin(source, p.Interval)
	s := newScan(source.Others, best.query)
	defer s.release()
	own := &answer{query: a.query, time: a.time, counts: uncounted}
	l := &look{answer: own, source: source, scan: s, history: h, best: best}
	l.look()
	for i, n := range own.counts {
		if n >= 0 {
			a.count(level(i), n)
		}
	}
	a.totals.total(own.totals)
	a.found, a.watched, a.period = a.found+own.found, a.watched+source.Watched, max(a.period, source.Period)
	if a.newest = max(a.newest, own.newest); own.oldest != 0 && (a.oldest == 0 || own.oldest < a.oldest) {
		a.oldest = own.oldest
	}
	a.step = cmp.Or(a.step, h.step)
	if a.recorded.Before(h.opened) {
		a.recorded = h.opened
	}
	if a.since.Before(h.since) {
		a.since = h.since
	}
	a.lists = append(a.lists, own.lists...)
	for _, text := range own.failures {
		a.failures = append(a.failures, kube.OfCluster(source.Name, text))
	}
	for _, text := range append(missingRights(source), h.missing(a.query.level)...) {
		a.missing = append(a.missing, kube.OfCluster(source.Name, text))
	}
}

// show adds to the rows of a cluster what is wanted only of the first rows.
func (p *Page) show(a *answer, source *Source, h *history) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range a.rows {
		if r.cluster != source.Name {
			continue
		}
		if a.query.level == nodes {
			r.more[0], r.more[1] = source.Others.Allocatable(r.name)
		}
		h.show(a.query.level, r, a.time)
	}
}

// look is how what there is of a cluster comes about.
type look struct {
	*answer
	source  *Source
	scan    *scan
	history *history
	best    *best
}

func (l *look) look() {
	q, all := l.best.query, noSum()
	for _, list := range l.source.Lists {
		status := list.Status()
		if status.Newest == 0 && (status.Failure != nil || status.Refreshed.IsZero()) {
			continue // there is nothing of it, and the state says why
		}
		if isOld(list) {
			l.failures = append(l.failures, fmt.Sprintf("%s: not shown: what was read last, at %s, may be old; the process "+
				"has stood still since, or the API server does not answer; it is being read again", list.What,
				status.Refreshed.UTC().Format(time.RFC3339)))
			continue
		}
		l.lists = append(l.lists, list)
		m := l.history.summary(l.source, list)
		l.stamp(m)
		all.add(&m.all)
		if list.Resource != "nodes" {
			l.count(namespaces, len(m.spaces))
			l.count(workloads, m.counts[workloads])
			l.count(pods, m.all.pods)
			l.count(containers, m.all.containers)
		}
	}
	l.totals = newRow(place{}, &all, 0)
	switch q.level {
	case namespaces:
		l.namespaces()
	case workloads:
		l.scanPods(true, l.workload)
		l.workloads()
	case pods:
		l.scanPods(q.filters() || q.sort > byMemory, l.pod)
	case containers:
		l.scanPods(q.filters() || q.sort > byMemory, l.container)
	}
	l.nodes()
}

// uncounted is the counts where nothing is known.
var uncounted = [levels]int{-1, -1, -1, -1, -1}

func (a *answer) count(l level, n int) { a.counts[l] = max(a.counts[l], 0) + n }

// stamp takes in the age of a batch. The clock of a node that is ahead makes nothing newer than now.
func (a *answer) stamp(m *summary) {
	if m.oldest == 0 {
		return
	}
	now := a.time.Unix()
	a.newest = max(a.newest, min(m.newest, now))
	if oldest := min(m.oldest, now); a.oldest == 0 || oldest < a.oldest {
		a.oldest = oldest
	}
}

func (l *look) scanPods(looks bool, f func(*pod)) {
	for _, list := range l.lists {
		if list.Resource != "nodes" {
			list.Read(func(b *sample.Batch) { l.scan.each(b, looks, f) })
		}
	}
}

// about returns what nameOf tells of each pod that the query is about.
func (l *look) about(nameOf func(*pod) string) map[string]bool {
	names := map[string]bool{}
	l.scanPods(true, func(p *pod) {
		if l.scan.isAbout(l.scan.groupOf(p), p) {
			names[nameOf(p)] = true
		}
	})
	return names
}

// key is what a row of the level that is asked for is sorted by. A row without history has its peak now.
func (l *look) key(s *sum, hash func() uint64) float64 {
	figure := int(l.best.query.sort - byCPUPeak)
	if figure != cpu && figure != memory {
		return l.best.query.sort.key(s)
	}
	if peak := l.history.peak(l.best.query.level, figure, s.of[figure], hash); !math.IsNaN(peak) {
		return peak
	}
	return s.of[figure]
}

// offer takes in a row if it is among the first so far.
func (l *look) offer(at place, s *sum, hash uint64) {
	l.found++
	at.cluster = l.source.Name
	if at.key = l.key(s, func() uint64 { return hash }); l.best.takes(&at) {
		l.best.add(newRow(at, s, hash))
	}
}

func (l *look) namespaces() {
	q := l.best.query
	var about map[string]bool
	if q.ofPods() {
		about = l.about(func(p *pod) string { return l.scan.spaceOf(p).name })
	}
	for _, list := range l.lists {
		m := l.history.summary(l.source, list)
		for i := range m.spaces {
			s := &m.spaces[i]
			if q.matches(s.name) && (q.namespace == "" || q.namespace == s.name) && (about == nil || about[s.name]) {
				l.offer(place{name: s.name}, &s.sum, hash("", "", s.name))
			}
		}
	}
}

// workload adds a pod to its workload, and offers it where it is its own one.
func (l *look) workload(p *pod) {
	g := l.scan.groupOf(p)
	s, chosen := l.scan.figures(g, p), l.scan.isAbout(g, p)
	if !g.bare {
		load := l.scan.loadOf(g, p)
		load.add(&s)
		load.chosen = load.chosen || chosen
		return
	}
	if name := p.name(); chosen && (g.named || l.best.query.matchesWorkload(bareKind, name)) {
		namespace := l.scan.spaces[g.space].name
		l.offer(place{namespace: namespace, name: bareKind + "/" + name}, &s, hash(namespace, bareKind, name))
	}
}

// workloads offers the workloads to which pods were added.
func (l *look) workloads() {
	for i := range l.scan.loads {
		load := &l.scan.loads[i]
		if !load.chosen || !load.named {
			continue
		}
		l.found++
		at := place{key: l.key(&load.sum, func() uint64 { return load.hash }), namespace: l.scan.spaces[load.space].name,
			cluster: l.source.Name}
		if !l.best.rejects(at.key) {
			if at.name = l.scan.workload(load.object); l.best.takes(&at) {
				l.best.add(newRow(at, &load.sum, load.hash))
			}
		}
	}
}

// pod offers a pod. Most can be told from its usage not to be among the first, which is all that is looked at then.
func (l *look) pod(p *pod) {
	q := l.best.query
	if q.filters() {
		if g := l.scan.groupOf(p); !l.scan.isAbout(g, p) || !g.named && !q.matches(p.name()) {
			return
		}
	}
	l.found++
	at := place{cluster: l.source.Name}
	name := func() uint64 { return hash(l.scan.spaceOf(p).name, "", p.name()) }
	switch q.sort {
	case byCPU:
		at.key = p.cpu
	case byMemory:
		at.key = p.memory
	default:
		s := noSum()
		if q.sort.ofShare() {
			s = l.scan.figures(l.scan.groupOf(p), p)
		}
		s.of[cpu], s.of[memory] = p.cpu, p.memory
		at.key = l.key(&s, name)
	}
	if l.best.rejects(at.key) {
		return
	}
	if at.namespace, at.name, at.object = l.scan.spaceOf(p).name, p.name(), p.object; l.best.takes(&at) {
		s := l.scan.figures(l.scan.groupOf(p), p)
		r := newRow(at, &s, name())
		r.workload = l.scan.workloadOf(p)
		l.best.add(r)
	}
}

// container offers the containers of a pod.
func (l *look) container(p *pod) {
	q, named := l.best.query, true
	if q.filters() {
		g := l.scan.groupOf(p)
		if !l.scan.isAbout(g, p) {
			return
		}
		named = g.named || q.matches(p.name())
	}
	for i := range p.samples {
		c := &p.samples[i]
		if !named && !q.matches(label.Unescape(p.names[c.Name])) {
			continue
		}
		l.found++
		s := noSum()
		s.of[cpu], s.of[memory] = c.CPU, c.Memory
		if q.sort.ofShare() {
			s = l.scan.container(l.scan.groupOf(p), p, i)
		}
		at := place{key: l.key(&s, nil), cluster: l.source.Name}
		if l.best.rejects(at.key) {
			continue
		}
		at.namespace, at.name, at.object = l.scan.spaceOf(p).name, label.Unescape(p.names[c.Name]), p.object
		if l.best.takes(&at) {
			s = l.scan.container(l.scan.groupOf(p), p, i)
			r := newRow(at, &s, 0)
			r.workload = l.scan.workloadOf(p)
			l.best.add(r)
		}
	}
}

// nodes takes in the nodes. What pods ask for is that of the pods on them; usage is of the node as a whole, and so are
// the totals, as far as that is known.
func (l *look) nodes() {
	q := l.best.query
	var about map[string]bool
	onNodes := map[string]*onNode{}
	if q.level == nodes {
		if q.namespace != "" || q.workload != "" || q.pod != "" {
			about = l.about(func(p *pod) string { return label.NodeName(p.object.Value) })
		}
		for _, list := range l.lists {
			m := l.history.summary(l.source, list)
			for i := range m.nodes {
				on := &m.nodes[i]
				name := label.NodeName(sample.Text{Node: on.node})
				if other := onNodes[name]; other != nil { // of another list
					s := on.sum
					s.add(&other.sum)
					on = &onNode{s, on.node}
				}
				onNodes[name] = on
			}
		}
	}
	used, allocatable := noSum(), noSum()
	node := func(name string, c *sample.Sample) {
		used.of[cpu], used.of[memory] = plus(used.of[cpu], c.CPU), plus(used.of[memory], c.Memory)
		cpus, bytes := l.source.Others.Allocatable(name)
		allocatable.of[cpu], allocatable.of[memory] = plus(allocatable.of[cpu], cpus), plus(allocatable.of[memory], bytes)
		if q.level != nodes || !q.matches(name) || q.node != "" && q.node != name || about != nil && !about[name] {
			return
		}
		s := noSum()
		if on := onNodes[name]; on != nil {
			s = on.sum
		} else if l.counts[pods] < 0 {
			s.pods, s.containers = -1, -1
		}
		s.of[cpu], s.of[memory] = c.CPU, c.Memory
		l.offer(place{name: name}, &s, hash("", "", name))
	}
	for _, list := range l.lists {
		if list.Resource != "nodes" {
			continue
		}
		list.Read(func(b *sample.Batch) {
			if n := len(b.Samples); n > 0 {
				l.counts[nodes] = n
			}
			for i := range b.Samples {
				node(label.Unescape(b.Names[b.Samples[i].Name]), &b.Samples[i])
			}
		})
	}
	if l.counts[nodes] > 0 {
		l.totals.of[cpu], l.totals.of[memory] = used.of[cpu], used.of[memory]
		l.totals.more[0], l.totals.more[1] = allocatable.of[cpu], allocatable.of[memory]
	}
}

// missingRights is what is missing for a right that the account does not have.
func missingRights(source *Source) (missing []string) {
	for _, l := range source.Lists {
		if f := l.Status().Failure; l.Resource == "nodes" && f != nil && f.Reason == kube.Forbidden {
			missing = append(missing, "nodes: their usage needs the right to list nodes of metrics.k8s.io, see deploy/")
		}
	}
	if len(source.Lists) > 0 && source.Others.Missing("nodes") {
		missing = append(missing, "nodes: what is allocatable needs the right to list and watch nodes, see deploy/")
	}
	return missing
}

// appendJSON appends the answer as it is documented in README.
func (a *answer) appendJSON(to []byte) []byte {
	w := writer{to}
	w.open('{')
	w.text("version", a.version)
	w.number("time", float64(a.time.UnixMilli())/1e3)
	if a.clusters != nil {
		w.texts("clusters", a.clusters)
	}
	w.key("state").open('{')
	w.key("ok").raw(strconv.FormatBool(len(a.failures) == 0))
	w.texts("failures", a.failures)
	w.texts("notices", a.notices)
	w.close('}')
	w.key("data").open('{')
	if a.newest != 0 {
		w.number("newest", float64(a.newest))
		w.number("oldest", float64(a.oldest))
	}
	if a.period > 0 {
		w.number("period", a.period.Round(time.Millisecond).Seconds())
	}
	w.close('}')
	w.key("totals").open('{')
	for l, n := range a.counts {
		if n >= 0 {
			w.number(level(l).String(), float64(n))
		}
	}
	w.figures(a.totals)
	w.close('}')
	w.text("level", a.query.level.String())
	w.number("found", float64(a.found))
	w.key("rows").open('[')
	for _, r := range a.rows {
		w.row(a.query.level, r, a.step)
	}
	w.close(']')
	w.key("history").open('{')
	w.number("step", a.step.Seconds())
	if !a.since.IsZero() {
		w.number("newest", float64(a.recorded.Unix()))
		w.number("since", float64(a.since.Unix()))
	}
	w.close('}')
	if len(a.missing) > 0 {
		w.texts("missing", a.missing)
	}
	w.close('}')
	return append(w.to, '\n')
}

// row writes a row; step is that of the history unless the row says another one.
func (w *writer) row(l level, r *row, step time.Duration) {
	w.open('{')
	w.text("name", r.name)
	if r.cluster != "" {
		w.text("cluster", r.cluster)
	}
	if r.namespace != "" {
		w.text("namespace", r.namespace)
	}
	if r.workload != "" {
		w.text("workload", r.workload)
	}
	if r.object != nil {
		if l == containers {
			w.text("pod", label.PodName(r.object.Value))
		}
		if node := label.NodeName(r.object.Value); node != "" {
			w.text("node", node)
		}
	}
	if l < pods && r.pods >= 0 {
		w.number("pods", float64(r.pods))
	}
	if l < containers && r.containers >= 0 {
		w.number("containers", float64(r.containers))
	}
	w.figures(r)
	if r.step != 0 && r.step != step {
		w.number("historyStep", r.step.Seconds())
	}
	for i, past := range r.past {
		if past != nil {
			w.values(figureNames[i]+"History", past)
		}
	}
	w.close('}')
}

// writer writes JSON. It is not encoding/json as each value may be one that is not known, and half of an answer is
// numbers.
type writer struct{ to []byte }

// open begins an object or array, close ends it. What follows a value is told apart from it by a comma.
func (w *writer) open(bracket byte) {
	w.comma()
	w.to = append(w.to, bracket)
}

func (w *writer) close(bracket byte) { w.to = append(w.to, bracket) }

func (w *writer) comma() {
	if n := len(w.to); n > 0 {
		switch w.to[n-1] {
		case '{', '[', ':':
		default:
			w.to = append(w.to, ',')
		}
	}
}

func (w *writer) raw(text string) { w.to = append(w.to, text...) }

// key begins a member; names need no escapes.
func (w *writer) key(name string) *writer {
	w.comma()
	w.to = append(append(append(w.to, '"'), name...), `":`...)
	return w
}

// string writes a text of any content: encoding/json makes valid UTF-8 of it, and no markup.
func (w *writer) string(text string) {
	quoted, _ := json.Marshal(text)
	w.comma()
	w.to = append(w.to, quoted...)
}

func (w *writer) text(name, text string) { w.key(name).string(text) }

func (w *writer) texts(name string, all []string) {
	w.key(name).open('[')
	for _, text := range all {
		w.string(text)
	}
	w.close(']')
}

func (w *writer) number(name string, value float64) {
	w.key(name)
	w.to = strconv.AppendFloat(w.to, value, 'f', -1, 64)
}

// figures writes those that are known. Sums are rounded to billionths, in which the API counts, so that they are what
// the sums of its numbers are.
func (w *writer) figures(r *row) {
	for i, name := range figureNames {
		switch value := r.figure(i); {
		case math.IsNaN(value):
		case math.Abs(value) < 1<<53/1e9:
			w.number(name, math.Round(value*1e9)/1e9)
		default:
			w.number(name, value)
		}
	}
}

// values writes a history, with three digits of each value.
func (w *writer) values(name string, all []float64) {
	w.key(name).open('[')
	for _, value := range all {
		w.comma()
		if math.IsNaN(value) {
			w.to = append(w.to, "null"...)
		} else {
			w.to = strconv.AppendFloat(w.to, value, 'g', 3, 64)
		}
	}
	w.close(']')
}
