package top

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"
	"unique"

	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/label"
	"metrics-server-prom/internal/sample"
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
	watched           int // pods
}

// patience is how long an answer waits for current data, such as the first ones.
const patience = time.Second

// answer answers a query.
func (p *Page) answer(ctx context.Context, q query) *answer {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p.Wait(ctx)
	source := p.Source()
	p.history.begin(&source, p.Interval)
	a := &answer{query: q, version: p.Version, time: time.Now(), period: source.Period, watched: source.Watched}
	a.failures, a.notices = p.State()
	p.history.mu.Lock()
	defer p.history.mu.Unlock()
	s := newScan(source.Others, &q)
	defer s.release()
	look := &look{answer: a, source: &source, scan: s, history: &p.history, best: best{query: &q}}
	look.look()
	a.step, a.recorded, a.since = p.history.step, p.history.opened, p.history.since
	a.missing = append(missingRights(&source), p.history.missing(q.level)...)
	return a
}

// look is how an answer comes about.
type look struct {
	*answer
	source  *Source
	scan    *scan
	history *history
	best    best
	onNodes map[unique.Handle[string]]*onNode // by label text
	byNode  map[string]*onNode                // the same by name
}

// onNode is the pods on a node.
type onNode struct {
	sum
	chosen bool
}

func (l *look) look() {
	q := l.best.query
	visit := func(*pod) {}
	switch q.level {
	case nodes:
		l.onNodes, l.byNode = map[unique.Handle[string]]*onNode{}, map[string]*onNode{}
		visit = l.onNode
	case workloads:
		visit = l.bare
	case pods:
		visit = l.pod
	case containers:
		visit = l.containers
	}
	for _, list := range l.source.Lists {
		if list.Resource != "nodes" {
			list.Read(func(b *sample.Batch) {
				l.stamp(b)
				l.scan.pods(b, visit)
			})
		}
	}
	l.scan.roll()
	all := noSum()
	for i := range l.scan.spaces {
		t := &l.scan.spaces[i]
		all.add(&t.sum)
		if q.level == namespaces && t.chosen && q.matches(t.namespace) {
			l.offer(place{name: t.namespace}, &t.sum, t.hash)
		}
	}
	for i := range l.scan.loads {
		t := &l.scan.loads[i]
		if q.level == workloads && t.chosen && (q.q == "" || q.matches(t.namespace) || q.matches(l.scan.nameOf(t))) {
			l.load(t)
		}
	}
	l.counts = [levels]int{-1, len(l.scan.spaces), len(l.scan.loads) + l.scan.bare, all.pods, all.containers}
	l.totals = newRow(place{}, &all, 0)
	for _, list := range l.source.Lists {
		if list.Resource == "nodes" {
			list.Read(l.nodes)
		}
	}
	slices.SortFunc(l.best.rows, func(x, y *row) int { return l.best.compare(&x.place, &y.place) })
	l.rows = l.best.rows
	for _, r := range l.rows {
		if q.level == nodes {
			r.more[0], r.more[1] = l.source.Others.Allocatable(r.name)
		}
		l.history.show(q.level, r, l.time)
	}
}

// stamp takes in the age of a batch. The clock of a node that is ahead makes nothing newer than now.
func (a *answer) stamp(b *sample.Batch) {
	if b.Oldest == 0 {
		return
	}
	now := a.time.Unix()
	a.newest = max(a.newest, min(b.Newest, now))
	if oldest := min(b.Oldest, now); a.oldest == 0 || oldest < a.oldest {
		a.oldest = oldest
	}
}

// key is what a row of the level that is asked for is sorted by.
func (l *look) key(s *sum, hash func() uint64) float64 {
	if peak := l.best.query.sort - byCPUPeak; peak == cpu || peak == memory {
		return l.history.peak(l.best.query.level, int(peak), s.of[peak], hash)
	}
	return l.best.query.sort.key(s)
}

// offer takes in a row if it is among the first so far.
func (l *look) offer(at place, s *sum, hash uint64) {
	l.found++
	if at.key = l.key(s, func() uint64 { return hash }); l.best.takes(&at) {
		l.best.add(newRow(at, s, hash))
	}
}

// load offers a workload, whose name takes some time.
func (l *look) load(t *total) {
	l.found++
	at := place{key: l.key(&t.sum, func() uint64 { return t.hash }), namespace: t.namespace}
	if !l.best.rejects(at.key) {
		if at.name = l.scan.nameOf(t); l.best.takes(&at) {
			l.best.add(newRow(at, &t.sum, t.hash))
		}
	}
}

// bare offers a pod without an owner as the workload that it is.
func (l *look) bare(p *pod) {
	if p.chosen && p.group.load == noLoad {
		if name := bareName(p.name()); p.group.namesMatch || l.best.query.matches(name) {
			figures, namespace := p.figures(), l.scan.namespaceOf(p)
			l.offer(place{namespace: namespace, name: name}, &figures, hash(namespace, "Pod", p.name()))
		}
	}
}

func (l *look) pod(p *pod) {
	if !p.chosen || !p.group.namesMatch && !l.best.query.matches(p.name()) {
		return
	}
	l.found++
	at := place{namespace: l.scan.namespaceOf(p), object: p.object}
	name := func() uint64 { return hash(at.namespace, "", p.name()) }
	switch l.best.query.sort {
	case byCPU:
		at.key = p.cpu
	case byMemory:
		at.key = p.memory
	default:
		s := p.figures()
		at.key = l.key(&s, name)
	}
	if !l.best.rejects(at.key) {
		if at.name = p.name(); l.best.takes(&at) {
			s := p.figures()
			r := newRow(at, &s, name())
			r.workload = l.scan.workload(p)
			l.best.add(r)
		}
	}
}

func (l *look) containers(p *pod) {
	if !p.chosen {
		return
	}
	matches := p.group.namesMatch || l.best.query.matches(p.name())
	for i := range p.samples {
		name := label.Unescape(p.names[p.samples[i].Name])
		if !matches && !l.best.query.matches(name) {
			continue
		}
		l.found++
		s := p.container(i)
		at := place{key: l.best.query.sort.key(&s), namespace: l.scan.namespaceOf(p), name: name, object: p.object}
		if l.best.takes(&at) {
			r := newRow(at, &s, 0)
			r.workload = l.scan.workload(p)
			l.best.add(r)
		}
	}
}

// onNode adds a pod to those on its node.
func (l *look) onNode(p *pod) {
	on := l.onNodes[p.object.Value.Node]
	if on == nil {
		on = &onNode{sum: noSum()}
		l.onNodes[p.object.Value.Node], l.byNode[label.NodeName(p.object.Value)] = on, on
	}
	s := p.figures()
	on.add(&s)
	on.chosen = on.chosen || p.chosen
}

// nodes takes in a list of nodes. What pods ask for is that of the pods on them; usage is of the node as a whole, and
// so are the totals, as far as that is known.
func (l *look) nodes(b *sample.Batch) {
	if len(b.Samples) == 0 {
		return
	}
	l.stamp(b)
	l.counts[nodes] = len(b.Samples)
	l.totals.of[cpu], l.totals.of[memory] = math.NaN(), math.NaN()
	q := l.best.query
	for i := range b.Samples {
		used, name := &b.Samples[i], label.Unescape(b.Names[b.Samples[i].Name])
		l.totals.of[cpu], l.totals.of[memory] = plus(l.totals.of[cpu], used.CPU), plus(l.totals.of[memory], used.Memory)
		cpus, bytes := l.source.Others.Allocatable(name)
		l.totals.more[0], l.totals.more[1] = plus(l.totals.more[0], cpus), plus(l.totals.more[1], bytes)
		if q.level != nodes {
			continue
		}
		s, chosen := noSum(), q.namespace == "" && q.workload == "" && q.pod == "" && (q.node == "" || q.node == name)
		if on := l.byNode[name]; on != nil {
			s, chosen = on.sum, chosen || on.chosen
		}
		if s.of[cpu], s.of[memory] = used.CPU, used.Memory; chosen && q.matches(name) {
			l.offer(place{name: name}, &s, hash("", "", name))
		}
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
		w.row(a.query.level, r)
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

func (w *writer) row(l level, r *row) {
	w.open('{')
	w.text("name", r.name)
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
	if l < pods {
		w.number("pods", float64(r.pods))
	}
	if l < containers {
		w.number("containers", float64(r.containers))
	}
	w.figures(r)
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
		default:
			w.number(name, math.Round(value*1e9)/1e9)
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
