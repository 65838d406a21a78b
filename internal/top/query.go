package top

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"metrics-server-prom/internal/serve"
)

// level is what the rows of an answer are.
type level int

// The levels. History is kept of all but the last.
const (
	nodes level = iota
	namespaces
	workloads
	pods
	containers
	levels = iota
)

var levelNames = []string{"nodes", "namespaces", "workloads", "pods", "containers"}

func (l level) String() string { return levelNames[l] }

// maxLimit is how many rows an answer has at most.
const maxLimit = 500

// query is what is asked for.
type query struct {
	level level
	// Rows are those that have a pod of these, "" for any. A row's figures are those of the row as a whole.
	cluster, namespace, workload, pod, node string
	q, part                                 string // a part of a name that rows have, and the same in lower case
	sort                                    order
	desc                                    bool
	limit                                   int
}

// parameters are those of a query's URL, but for the ones that name a filter.
var filters = []string{"namespace", "workload", "pod", "node", "q"}

// parseQuery reads the query of a URL. Of a parameter that is there several times the last one counts, as a browser
// sends them where a button has the name of a field.
func parseQuery(raw string) (q query, err error) {
	q = query{level: namespaces, sort: byCPU, desc: true, limit: 100}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return q, err
	}
	set := func(name, value string) error {
		switch name {
		case "cluster":
			q.cluster = value
			return nil
		case "level":
			return choose(&q.level, name, value, levelNames)
		case "sort":
			return choose(&q.sort, name, value, orderNames)
		case "desc":
			which := 0
			err := choose(&which, name, value, []string{"false", "true"})
			q.desc = which == 1
			return err
		case "limit":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > maxLimit {
				return fmt.Errorf("limit=%.50q: it is a number from 1 to %d", value, maxLimit)
			}
			q.limit = n
			return nil
		}
		i := slices.Index(filters, name)
		if i < 0 {
			return fmt.Errorf("there is no parameter %.50q; there are level, %s, sort, desc and limit", name,
				strings.Join(filters, ", "))
		}
		*[]*string{&q.namespace, &q.workload, &q.pod, &q.node, &q.q}[i] = value
		return nil
	}
	for name, all := range values {
		if value := all[len(all)-1]; value != "" {
			if err := set(name, value); err != nil {
				return q, err
			}
		}
	}
	q.part = strings.ToLower(q.q)
	return q, nil
}

// choose sets what to the index of a value among those that a parameter may have.
func choose[T ~int](what *T, name, value string, among []string) error {
	i := slices.Index(among, value)
	if i < 0 {
		return fmt.Errorf("%s=%.50q: it is one of %s", name, value, strings.Join(among, ", "))
	}
	*what = T(i)
	return nil
}

// values is the query as a URL has it, without what is as it would be anyway.
func (q query) values() url.Values {
	v, plain := url.Values{}, query{level: namespaces, sort: byCPU, desc: true, limit: 100}
	add := func(name, value, without string) {
		if value != without {
			v.Set(name, value)
		}
	}
	add("cluster", q.cluster, "")
	add("level", q.level.String(), plain.level.String())
	for i, value := range []string{q.namespace, q.workload, q.pod, q.node, q.q} {
		add(filters[i], value, "")
	}
	add("sort", orderNames[q.sort], orderNames[plain.sort])
	add("desc", strconv.FormatBool(q.desc), strconv.FormatBool(plain.desc))
	add("limit", strconv.Itoa(q.limit), strconv.Itoa(plain.limit))
	return v
}

// isAbout tells whether the query is about a cluster.
func (q *query) isAbout(s *Source) bool { return q.cluster == "" || q.cluster == s.Name }

// check fails where the query is about a cluster that is not there.
func (q *query) check(sources []Source) error {
	var names []string
	for i := range sources {
		if q.isAbout(&sources[i]) {
			return nil
		}
		names = append(names, sources[i].Name)
	}
	if q.cluster == "" {
		return nil
	}
	return serve.NoCluster(q.cluster, names)
}

// ofPods tells whether the query is about some pods of a namespace.
func (q *query) ofPods() bool { return q.pod != "" || q.node != "" || q.workload != "" }

// filters tells whether it is about some pods only.
func (q *query) filters() bool { return q.ofPods() || q.namespace != "" || q.q != "" }

// matches tells whether a name has the part that the query is about, in whichever case.
func (q *query) matches(name string) bool {
	return q.q == "" || strings.Contains(strings.ToLower(name), q.part)
}

// matchesWorkload is matches of the name that a workload has as a row, Kind/NAME.
func (q *query) matchesWorkload(kind, name string) bool {
	of, part, both := strings.Cut(q.part, "/")
	if !both {
		return q.matches(name) || containsFold(kind, q.part)
	}
	name = strings.ToLower(name)
	return strings.HasPrefix(name, part) && strings.HasSuffix(strings.ToLower(kind), of) || strings.Contains(name, q.part)
}

// containsFold tells whether a kind has a part in it, in whichever case.
func containsFold(kind, part string) bool {
	for i := 0; i+len(part) <= len(kind); i++ {
		if strings.EqualFold(kind[i:i+len(part)], part) {
			return true
		}
	}
	return false
}
