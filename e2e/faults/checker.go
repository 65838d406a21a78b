package faults

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/exporter"
)

// leniency says how far a page may be behind the API, and whether it may be refused or lack what the API has.
type leniency struct {
	values time.Duration // how long ago the API may have had other values
	labels time.Duration // how long ago a pod may have been somewhere else
	refuse bool          // a 503 in place of a page is allowed
	lose   bool          // so is a page that lacks a sample it should have
	behind string        // the one namespace that all this is meant for; the others must be as they are while all works
}

// of is what is allowed for an owner.
func (l leniency) of(who owner) leniency {
	if l.behind == "" || l.behind == who.namespace {
		return l
	}
	return leniency{values: behind, labels: behind}
}

// clockSlack is for timestamps in whole seconds and the moment between a sample's expiry and the page without it.
const clockSlack = 2 * time.Second

// checker scrapes without a pause and compares each page with the history of the API. It shares no code with the
// exporter: the labels are those that Prometheus' own parser has read, the values those of Kubernetes' own types.
type checker struct {
	exporter *exporter.Exporter
	history  *history
	maxAge   time.Duration
	cluster  string // of which it checks the samples, where there are several

	mu       sync.Mutex
	allowed  leniency
	since    time.Time // when that began to be allowed
	pages    int
	slowest  time.Duration   // that a page took
	took     []time.Duration // that pages took since times was called
	samples  int
	wrong    []string // the first of them
	wrongs   int
	served   map[owner]time.Time // beginning of the newest version of usage that was on a page
	judgedTo time.Time           // beginning of the last page that was judged
}

// allow sets what is allowed from now on.
func (c *checker) allow(l leniency) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.allowed, c.since = l, time.Now()
}

// run checks page after page until ctx ends.
func (c *checker) run(ctx context.Context) {
	for tick := time.NewTicker(100 * time.Millisecond); ctx.Err() == nil; {
		c.mu.Lock()
		allowed, since := c.allowed, c.since
		c.mu.Unlock()
		began := time.Now()
		page, err := c.exporter.Scrape(ctx)
		ended := time.Now()
		if c.history.after(ended, ctx.Done()); ctx.Err() != nil {
			tick.Stop()
			return
		}
		c.mu.Lock()
		if since != c.since && c.allowed.values > allowed.values {
			allowed = c.allowed // a fault has begun meanwhile
		}
		switch {
		case err == nil:
			c.slowest = max(c.slowest, page.Took)
			c.took = append(c.took, page.Took)
			c.judge(page, began, ended, allowed)
		case page != nil && page.Status == 503 && allowed.refuse:
		default:
			c.blame(ended, err.Error())
		}
		c.judgedTo = began
		c.mu.Unlock()
		<-tick.C
	}
}

func (c *checker) blame(at time.Time, text string) {
	if c.wrongs++; len(c.wrong) < 10 {
		c.wrong = append(c.wrong, at.UTC().Format("15:04:05.000 ")+text)
	}
}

// found is what a page has of an owner.
type found struct {
	node, ip   string
	containers map[string][2]float64
}

// judge compares a page with the history.
func (c *checker) judge(page *exporter.Page, began, ended time.Time, allowed leniency) {
	c.pages++
	all := map[owner]*found{}
	for i, family := range [...]string{check.NodeCPU, check.NodeMemory, check.PodCPU, check.PodMemory} {
		for _, metric := range page.Families[family].GetMetric() {
			c.samples++
			label := map[string]string{}
			for _, l := range metric.GetLabel() {
				label[l.GetName()] = l.GetValue()
			}
			if label["cluster"] != c.cluster {
				continue
			}
			who, container := owner{label["namespace"], label["pod"]}, label["container"]
			if i < 2 {
				who, container = owner{"", label["node"]}, ""
				label["node"] = ""
			}
			f := all[who]
			if f == nil {
				f = &found{label["node"], label["ip"], map[string][2]float64{}}
				all[who] = f
			}
			if f.node != label["node"] || f.ip != label["ip"] {
				c.blame(ended, fmt.Sprintf("doubled: %v is on node %q with ip %q and on node %q with ip %q", who,
					f.node, f.ip, label["node"], label["ip"]))
			}
			values, ok := f.containers[container]
			if !ok {
				values = [2]float64{math.NaN(), math.NaN()}
			}
			values[i%2] = metric.GetGauge().GetValue() + metric.GetUntyped().GetValue()
			f.containers[container] = values
		}
	}
	c.history.mu.Lock()
	defer c.history.mu.Unlock()
	for who, f := range all {
		if text := c.sample(who, f, began, ended, allowed.of(who)); text != "" {
			c.blame(ended, text)
		}
	}
	for who := range c.history.usages {
		if allowed := allowed.of(who); all[who] == nil && !allowed.lose {
			c.lost(who, began, ended, allowed)
		}
	}
}

// sample tells what is wrong with an owner's samples.
func (c *checker) sample(who owner, f *found, began, ended time.Time, allowed leniency) string {
	var it *version[identity]
	for _, v := range c.history.identities[who] {
		known := v.perhaps(began.Add(-allowed.labels), ended)
		if known && v.value.node == f.node && v.value.ip == f.ip {
			if it == nil { // else v is a successor at the same place
				it = v
			}
		} else if f.node == "" && f.ip == "" && v.surely(began.Add(-allowed.labels), ended) {
			return fmt.Sprintf("%v has no node and ip, though the API has had them for %s", who, allowed.labels)
		}
	}
	if it == nil && !(f.node == "" && f.ip == "") {
		return fmt.Sprintf("%v is on node %q with ip %q, where the API had no such pod within %s", who, f.node, f.ip,
			allowed.labels)
	}
	reason := "the API never had these values"
	for _, v := range slices.Backward(c.history.usages[who]) {
		if !sameValues(v.value.served(), f.containers) {
			continue
		}
		switch stamp := time.Unix(v.value.stamp, 0); {
		case !v.perhaps(began.Add(-allowed.values), ended):
			reason = fmt.Sprintf("the API has not had these values since %s, longer ago than %s",
				v.until.UTC().Format("15:04:05"), allowed.values)
		case began.Sub(stamp) > c.maxAge+clockSlack:
			reason = fmt.Sprintf("this is of %s and older than max-age", stamp.UTC().Format("15:04:05"))
		case it != nil && v.value.stamp < it.value.created-1: // a creation is known to the second
			reason = "this is the usage of the pod's predecessor"
		case v.from.Before(c.served[who]):
			reason = "newer values were on a page before"
		default:
			c.served[who] = v.from
			return ""
		}
	}
	return fmt.Sprintf("%v %v: %s", who, f.containers, reason)
}

// served is the usage without what must not be on a page.
func (u usage) served() map[string][2]float64 {
	served := maps.Clone(u.containers)
	maps.DeleteFunc(served, func(_ string, v [2]float64) bool { return math.IsNaN(v[0]) && math.IsNaN(v[1]) })
	return served
}

// lost complains of an owner that should be on the page and is not.
func (c *checker) lost(who owner, began, ended time.Time, allowed leniency) {
	after := began.Add(-max(allowed.values, allowed.labels))
	usages, identities := c.history.usages[who], c.history.identities[who]
	if len(identities) == 0 {
		return
	}
	now := usages[len(usages)-1]
	old := ended.Sub(time.Unix(now.value.stamp, 0)) > c.maxAge-clockSlack
	there := identities[len(identities)-1]
	if now.until.IsZero() && !old && !usages[0].seen.After(after) && now.value.stamp >= there.value.created &&
		len(now.value.served()) > 0 && there.surely(after, ended) && c.continuous(usages, after, there.value.created) {
		c.blame(ended, fmt.Sprintf("lost: %v, which the API has had for longer than %s", who,
			max(allowed.values, allowed.labels)))
	}
}

// continuous tells whether there was usage of the pod all the time since the moment, and none that was too old.
func (c *checker) continuous(usages []*version[usage], after time.Time, created int64) bool {
	for i := len(usages) - 1; i >= 0; i-- {
		expires := time.Unix(usages[i].value.stamp, 0).Add(c.maxAge - clockSlack)
		if usages[i].last.After(expires) || usages[i].value.stamp < created || len(usages[i].value.served()) == 0 {
			return false
		}
		if !usages[i].seen.After(after) {
			return true
		}
		if i > 0 && usages[i-1].until.Before(usages[i].seen) {
			return false // there was a look between the two that found none
		}
	}
	return false
}

// times is how long pages have taken since the last call.
func (c *checker) times() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	took := c.took
	c.took = nil
	return took
}

// verdict is what was found so far.
func (c *checker) verdict() (pages, samples, wrongs int, wrong []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pages, c.samples, c.wrongs, slices.Clone(c.wrong)
}

// judged returns when a page has been judged that was asked for after the moment.
func (c *checker) judged(ctx context.Context, moment time.Time) error {
	return await(ctx, func(context.Context) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.judgedTo.After(moment) {
			return fmt.Errorf("the last page that was checked was asked for at %s", c.judgedTo)
		}
		return nil
	})
}
