package selfmetrics

import (
	"bytes"
	"io"
)

// Gauges passes the text of a page on to a writer without its counters and histograms, and says so in a first line. It
// is for a process that ends: what such a process has counted itself begins again with the next one.
type Gauges struct {
	To io.Writer

	begun      bool
	rest, help []byte // an unfinished line; the HELP of a family whose TYPE has not come yet
	out        []byte
	drop       bool // the family
}

const noCounters = "# What this program counts itself, such as container_cpu_usage_seconds_total, is not here: " +
	"a counter needs a process that goes on.\n"

// Write takes any piece of the text. It fails as the writer does.
func (g *Gauges) Write(text []byte) (int, error) {
	if g.out = g.out[:0]; !g.begun {
		g.begun, g.out = true, append(g.out, noCounters...)
	}
	g.rest = append(g.rest, text...)
	end := bytes.LastIndexByte(g.rest, '\n') + 1
	for line := range bytes.Lines(g.rest[:end]) {
		switch {
		case bytes.HasPrefix(line, []byte("# HELP ")):
			g.help, g.drop = append(g.help[:0], line...), true
		case bytes.HasPrefix(line, []byte("# TYPE ")):
			if g.drop = !bytes.HasSuffix(line, []byte(" gauge\n")); !g.drop {
				g.out = append(append(g.out, g.help...), line...)
			}
		case !g.drop:
			g.out = append(g.out, line...)
		}
	}
	g.rest = g.rest[:copy(g.rest, g.rest[end:])]
	if _, err := g.To.Write(g.out); err != nil {
		return 0, err
	}
	return len(text), nil
}
