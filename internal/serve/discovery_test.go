package serve

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestDiscovery(t *testing.T) {
	for want, names := range map[string][]string{
		"[]\n": nil,
		`[{"targets":["exporter:9100"],"labels":{"__param_cluster":"eu","cluster":"eu"}},` +
			`{"targets":["exporter:9100"],"labels":{"__param_cluster":"\"\\","cluster":"\"\\"}}]` + "\n": {"eu", `"\`},
	} {
		w := httptest.NewRecorder()
		Discovery(w, httptest.NewRequest("GET", "http://exporter:9100/sd", nil), names)
		if w.Body.String() != want || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%v %s", w.Header(), w.Body)
		}
	}
}

func TestAsked(t *testing.T) {
	names := []string{"eu", "us", `a "b"&c`}
	const unknown = "unknown"
	for query, want := range map[string]string{"": "", "?cluster=": "", "?other=us": "", "?cluster=us": "us",
		"?cluster=" + url.QueryEscape(names[2]): names[2], "?cluster=us&cluster=eu": "us", "?cluster=u": unknown,
		"?cluster=%3Cb%3E": unknown} {
		w := httptest.NewRecorder()
		name, ok := Asked(w, httptest.NewRequest("GET", "/"+query, nil), names)
		if want == unknown {
			if ok || w.Code != http.StatusNotFound || !strings.HasSuffix(w.Body.String(), "; there are: eu, us, a \"b\"&c\n") {
				t.Errorf("%q: %t, %d %s", query, ok, w.Code, w.Body)
			}
		} else if !ok || name != want || w.Body.Len() > 0 {
			t.Errorf("%q: %q, want %q; %d %s", query, name, want, w.Code, w.Body)
		}
	}
}
