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
	"metrics-server-prom/internal/store"
)

// answer is what there is to a query at a moment.
type answer struct {
	query             query
	version           string
	time              time.Time
	failures, notices []string
	newest, oldest    int64 // of the readings, Unix seconds; 0 for none
	period            time.Duration
	totals            row
	counts            [levels]int
	found             int
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
	source, now := p.Source(), time.Now()
	p.history.begin(&source, p.Interval)
	a := &answer{query: q, version: p.Version, time: now, period: source.Period, watched: source.Watched}
	a.failures, a.notices = p.State()
	a.counts[nodes] = -1
	h := &p.history
	h.mu.Lock()
	defer h.mu.Unlock()
	s := newScan(source.Others, &a.query)
	defer s.release()
	b := best{query: &a.query}
	offer := func(r *row) {
		if q.sort.ofPeak() {
			h.look(q.level, r, now, false)
		}
		if r.key = q.sort.keyOf(&r.sum); q.sort.ofPeak() {
			r.key = r.more[cpuPeak-summed+int(q.sort-byCPUPeak)]
		}
		b.offer(r)
	}
	all := noSum()
	var ofNodes []*row
	onNode := map[unique.Handle[string]]*row{}
	for _, l := range source.Lists {
		l.Read(func(batch *sample.Batch) {
			a.stamp(batch)
			if l.Resource == "nodes" {
				ofNodes = append(ofNodes, nodeRows(batch)...)
				return
			}
			s.pods(batch, func(pod *pod) {
				all.add(&pod.sum)
				switch q.level {
				case nodes:
					on := onNode[pod.object.Value.Node]
					if on == nil {
						none := noSum()
						on = newRow("", label.NodeName(pod.object.Value), &none)
						onNode[pod.object.Value.Node] = on
					}
					on.add(&pod.sum)
					on.chosen = on.chosen || pod.chosen
				case workloads:
					if pod.chosen && pod.group.workload == "" {
						if name := bareName(pod.name()); q.matches(name, pod.group.namespace) {
							offer(newRow(pod.group.namespace, name, &pod.sum))
						}
					}
				case pods:
					if pod.chosen {
						s.offerPod(&b, pod, offer)
					}
				case containers:
					if pod.chosen {
						s.offerContainers(&b, pod, offer)
					}
				}
			})
		})
	}
	spaces, loads := s.roll()
	a.counts[namespaces], a.counts[workloads] = len(spaces), len(loads)+s.bare
	a.counts[pods], a.counts[containers] = all.pods, all.containers
	rows := map[level][]*row{namespaces: spaces, workloads: loads, nodes: joinNodes(ofNodes, onNode, q)}[q.level]
	for _, r := range rows {
		if r.chosen && q.matches(r.name, r.namespace) {
			offer(r)
		}
	}
	a.total(source, &all, ofNodes)
	slices.SortFunc(b.rows, b.compare)
	a.rows, a.found = b.rows, b.found
	for _, r := range a.rows {
		if q.level == nodes {
			r.more[0], r.more[1] = source.Others.Allocatable(r.name)
		}
		h.look(q.level, r, now, true)
	}
	a.step, a.recorded, a.since = h.step, h.opened, h.since
	a.miss(source, h)
	return a
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

// nodeRows is the rows of a batch of nodes.
func nodeRows(b *sample.Batch) (rows []*row) {
	for i := range b.Samples {
		s := noSum()
		s.of[cpu], s.of[memory] = b.Samples[i].CPU, b.Samples[i].Memory
		rows = append(rows, newRow("", label.Unescape(b.Names[b.Samples[i].Name]), &s))
	}
	return rows
}

// joinNodes adds to the rows of nodes what the pods on them ask for. Usage is of the node as a whole.
func joinNodes(rows []*row, onNode map[unique.Handle[string]]*row, q query) []*row {
	byName := map[string]*row{}
	for _, on := range onNode {
		byName[on.name] = on
	}
	ofPods := q.namespace != "" || q.workload != "" || q.pod != ""
	for _, r := range rows {
		r.chosen = !ofPods && (q.node == "" || q.node == r.name)
		if on := byName[r.name]; on != nil {
			on.of[cpu], on.of[memory] = math.NaN(), math.NaN()
			r.add(&on.sum)
			r.chosen = r.chosen || on.chosen
		}
	}
	return rows
}

// offerPod offers a pod's row, unless that is clearly not among the first.
func (s *scan) offerPod(b *best, p *pod, offer func(*row)) {
	q := s.query
	if q.q == "" && !q.sort.ofPeak() && b.rejects(q.sort.keyOf(&p.sum)) {
		b.found++
		return
	}
	name := p.name()
	if q.q != "" && !q.matches(name, p.group.namespace, p.workload()) {
		return
	}
	r := newRow(p.group.namespace, name, &p.sum)
	r.workload, r.object = p.workload(), p.object
	offer(r)
}

func (s *scan) offerContainers(b *best, p *pod, offer func(*row)) {
	q := s.query
	for i := range p.samples {
		one := p.container(i)
		if q.q == "" && b.rejects(q.sort.keyOf(&one)) {
			b.found++
			continue
		}
		name := label.Unescape(p.names[p.samples[i].Name])
		if q.q != "" && !q.matches(name, p.group.namespace, p.name(), p.workload()) {
			continue
		}
		r := newRow(p.group.namespace, name, &one)
		r.workload, r.object = p.workload(), p.object
		offer(r)
	}
}

// roll is the rows of namespaces, and of workloads that are not single pods.
func (s *scan) roll() (spaces, loads []*row) {
	byName := make(map[store.Key]*row, len(s.groups))
	add := func(rows *[]*row, namespace, name string, g *group) {
		key := store.Key{Namespace: namespace, Name: name}
		r := byName[key]
		if r == nil {
			none := noSum()
			r = newRow(namespace, name, &none)
			byName[key], *rows = r, append(*rows, r)
		}
		r.add(&g.sum)
		r.chosen = r.chosen || g.chosen
	}
	for i := range s.groups {
		g := &s.groups[i]
		add(&spaces, "", g.namespace, g)
		if g.workload != "" {
			add(&loads, g.namespace, g.workload, g)
		}
	}
	return spaces, loads
}

// total makes the totals: usage is that of the nodes as a whole where that is known, else that of all containers.
func (a *answer) total(source Source, all *sum, ofNodes []*row) {
	a.totals = *newRow("", "", all)
	if len(ofNodes) == 0 {
		return
	}
	a.counts[nodes] = len(ofNodes)
	use := noSum()
	for _, r := range ofNodes {
		for i := range 2 {
			use.of[i] = plus(use.of[i], r.of[i])
		}
		cpu, memory := source.Others.Allocatable(r.name)
		a.totals.more[0], a.totals.more[1] = plus(a.totals.more[0], cpu), plus(a.totals.more[1], memory)
	}
	a.totals.of[cpu], a.totals.of[memory] = use.of[cpu], use.of[memory]
}

// miss says what is missing for a right that the account does not have, and where history is left out.
func (a *answer) miss(source Source, h *history) {
	for _, l := range source.Lists {
		if f := l.Status().Failure; l.Resource == "nodes" && f != nil && f.Reason == kube.Forbidden {
			a.missing = append(a.missing, "nodes: their usage needs the right to list nodes of metrics.k8s.io, see deploy/")
		}
	}
	if source.Lists != nil && source.Others.Missing("nodes") {
		a.missing = append(a.missing, "nodes: what is allocatable needs the right to list and watch nodes, see deploy/")
	}
	a.missing = append(a.missing, h.missing(a.query.level)...)
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
	w.figures(&a.totals)
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
