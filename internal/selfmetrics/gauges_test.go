package selfmetrics

import (
	"strings"
	"testing"
)

func TestGaugesLeavesCountersOutAndSaysWhy(t *testing.T) {
	const page = "# HELP a A.\n# TYPE a gauge\na 1\na{b=\"c d\"} 2\n" +
		"# HELP c_total C.\n# TYPE c_total counter\nc_total 3\n" +
		"# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 2\nh_count 3\n# HELP z gauge\n# TYPE z gauge\nz 5\n"
	const want = noCounters + "# HELP a A.\n# TYPE a gauge\na 1\na{b=\"c d\"} 2\n# HELP z gauge\n# TYPE z gauge\nz 5\n"
	for length := range len(page) {
		var out strings.Builder
		g := &Gauges{To: &out}
		for rest := page; rest != ""; {
			n := min(length+1, len(rest))
			if written, err := g.Write([]byte(rest[:n])); written != n || err != nil {
				t.Fatal(written, err)
			}
			rest = rest[n:]
		}
		if out.String() != want {
			t.Fatalf("in pieces of %d:\n%s", length+1, out.String())
		}
	}
}
