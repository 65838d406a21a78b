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
	for query, want := range map[string]int{"": -1, "?cluster=": -1, "?other=us": -1, "?cluster=us": 1,
		"?cluster=" + url.QueryEscape(names[2]): 2, "?cluster=us&cluster=eu": 1, "?cluster=u": -2, "?cluster=%3Cb%3E": -2} {
		w := httptest.NewRecorder()
		i, ok := Asked(w, httptest.NewRequest("GET", "/"+query, nil), names)
		if want == -2 {
			if ok || w.Code != http.StatusNotFound || !strings.HasSuffix(w.Body.String(), "; there are: eu, us, a \"b\"&c\n") {
				t.Errorf("%q: %t, %d %s", query, ok, w.Code, w.Body)
			}
		} else if !ok || i != want || w.Body.Len() > 0 {
			t.Errorf("%q: %d, want %d; %d %s", query, i, want, w.Code, w.Body)
		}
	}
}
