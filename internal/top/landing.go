package top

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"time"

	"metrics-server-prom/internal/serve"
)

// Landing answers with the state and the links alone: it is what there is where the page is off.
func (p *Page) Landing(w http.ResponseWriter, _ *http.Request) {
	watched, newest, age := 0, int64(0), "no data yet"
	for _, source := range p.Sources() {
		watched += source.Watched
		for _, l := range source.Lists {
			newest = max(newest, l.Status().Newest)
		}
	}
	if newest != 0 {
		age = max(0, time.Since(time.Unix(newest, 0))).Round(time.Second).String()
	}
	failures, notices := p.State("")
	serve.Landing(w, "metrics-server-prom", fmt.Sprintf("Version %s (revision %s)", p.Version, p.Revision), p.Links,
		fmt.Sprintf("Watched pods: %d\nAge of the newest sample: %s\nFailures:\n%s", watched, age,
			cmp.Or(strings.Join(append(failures, notices...), "\n"), "none")))
}
