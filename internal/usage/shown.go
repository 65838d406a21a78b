package usage

import (
	"cmp"
	"fmt"
	"math"

	"metrics-server-prom/internal/selfmetrics"
)

// Shown is what is shown of a list.
type Shown struct {
	Status
	Resource string // nodes or pods
	Unknown  int    // pods without metadata
	Oldest   int64  // the oldest timestamp of the samples, as Newest
}

// RegisterShown registers the metrics of what is shown, which is asked for whenever they are written.
func RegisterShown(self *selfmetrics.Scope, present func() []Shown) {
	self.Gauge("pods_without_metadata", "Pods on this page with usage whose node and ip are not known yet.", "",
		func() (sum float64) {
			for _, s := range present() {
				sum += float64(s.Unknown)
			}
			return sum
		})
	for _, resource := range []string{"nodes", "pods"} {
		stamp := func(name, which string, of func(Shown) int64, better func(a, b int64) int64) {
			self.Gauge(name, "The "+which+" of the timestamps that the metrics API gave for the samples being served.",
				fmt.Sprintf("resource=%q", resource), func() float64 {
					best := int64(0)
					for _, s := range present() {
						if s.Resource != resource || of(s) == 0 {
							continue
						}
						// The clock of a node that is ahead makes nothing newer than the list it is in.
						stamp := min(of(s), s.Refreshed.Unix())
						best = better(cmp.Or(best, stamp), stamp)
					}
					if best == 0 {
						return math.NaN()
					}
					return float64(best)
				})
		}
		stamp("newest_sample_timestamp_seconds", "newest", func(s Shown) int64 { return s.Newest },
			func(a, b int64) int64 { return max(a, b) })
		stamp("oldest_sample_timestamp_seconds", "oldest", func(s Shown) int64 { return s.Oldest },
			func(a, b int64) int64 { return min(a, b) })
	}
}
