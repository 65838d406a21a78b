package push

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestFailuresAreLoggedOnceAndWithoutSecrets(t *testing.T) {
	n := 0
	url := receiver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
		if n++; n <= 3 {
			http.Error(w, "you sent "+r.Header.Get("Authorization")+" to "+r.URL.String(), http.StatusForbidden)
		}
	})
	ok, log := pushes(t, 5, &Pusher{URL: url + "/import?key=MARKED-KEY",
		Headers: http.Header{"Authorization": {"Bearer MARKED-TOKEN"}}})
	if want := []bool{false, false, false, true, true}; !slices.Equal(ok, want) {
		t.Errorf("ok %v, want %v", ok, want)
	}
	lines := strings.Count(log, "\n")
	if lines != 2 || !strings.Contains(log, "answered 403") || !strings.Contains(log, "works again") {
		t.Errorf("%d lines, want one at the start and one at the end:\n%s", lines, log)
	}
	if strings.Contains(log, "MARKED") {
		t.Errorf("a secret is in the log:\n%s", log)
	}
}

// TestReceiverThatRepeatsEverythingRevealsNothing is fault 10: user names, and parts of paths and queries, are tokens
// as well.
func TestReceiverThatRepeatsEverythingRevealsNothing(t *testing.T) {
	const secret = "MARKED-SECRET"
	revealed := regexp.MustCompile(`MARKED\S\S`) // less gives nothing away
	for what, c := range map[string]struct {
		user, path string
		header     http.Header
	}{
		"a user":                          {user: secret + "@"},
		"a user and a password":           {user: "usr:" + secret + "@"},
		"an escaped user and password":    {user: "MARKED-USER%20MARKED-NAME:MARKED-PASS%2FMARKED-WORD@"},
		"a query":                         {path: "/api/v1/import/prometheus?key=" + secret},
		"a query without a name":          {path: "/?" + secret},
		"an escaped query":                {path: "/?key=MARKED-KEY%20MARKED-KEY&k=MARKED-A%2BB&l=MARKED-C+MARKED-D"},
		"a query escaped in its middle":   {path: "/?m=A%2BMARKEDQUERY"},
		"a path":                          {path: "/" + secret + "/metrics/job/x"},
		"an escaped path":                 {path: "/MARKED-PATH%20MARKED-PATH/MARKED-PATH%2FMARKED-PATH/metrics"},
		"a path escaped in its beginning": {path: "/%61%20+MARKEDPATH/metrics"},
		"a bearer token":                  {header: http.Header{"Authorization": {"Bearer " + secret}}},
		"a key":                           {header: http.Header{"X-Api-Key": {secret}}},
		"basic credentials": {header: http.Header{
			"Authorization": {"Basic TUFSS0VELVVTRVI6TUFSS0VELVNFQ1JFVA=="}}},
		"two tokens that begin in one way": {header: http.Header{
			"A": {"Bearer eyJhbGciOi-MARKED-1", "Bearer eyJhbGciOi-MARKED-2"}}},
		"a token that is the other's start": {header: http.Header{"A": {"abcd", "abcd-MARKED-SECRET"}}},
		"a token beside short headers":      {header: http.Header{"A": {"M"}, "B": {secret}}},
	} {
		for length := range map[int]bool{0: true, 12: true, 9: true} {
			t.Run(fmt.Sprint(what, ", cut to ", length), func(t *testing.T) {
				var repeated string
				url := receiver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
					user, password, _ := r.BasicAuth()
					pieces := []string{user, password, r.URL.Path, r.URL.EscapedPath(), r.URL.RawQuery, r.URL.String(),
						r.RequestURI, fmt.Sprint(r.Header)}
					for _, name := range []string{"Authorization", "X-Api-Key", "A", "B"} {
						pieces = append(pieces, strings.TrimPrefix(r.Header.Get(name), "Bearer "))
					}
					for _, values := range r.URL.Query() {
						pieces = append(pieces, values...)
					}
					for _, piece := range pieces {
						if length > 0 {
							piece = piece[:min(length, len(piece))]
						}
						repeated += piece + "\n"
					}
					w.Header().Set("Location", "//host/which/is/none") // of a redirect
					http.Error(w, repeated, http.StatusForbidden)
				})
				to := strings.Replace(url, "://", "://"+c.user, 1) + c.path
				ok, log := pushes(t, 1, &Pusher{URL: to, Headers: c.header})
				if ok[0] || revealed.MatchString(log) || strings.Contains(log, "TUFSS0VE") {
					t.Errorf("ok %v, repeated:\n%s\nlog: %s", ok, repeated, log)
				}
				if !strings.Contains(log, "cannot push to "+url+": the receiver answered 403 Forbidden") {
					t.Errorf("the log does not say what happened: %s", log)
				}
			})
		}
	}
}

func TestWordsThatAreNoSecretsStay(t *testing.T) {
	url := receiver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "cannot import prometheus metrics of the job:\n\x00  see \t api", http.StatusBadRequest)
	})
	url += "/api/v1/import/prometheus/metrics/job/job"
	_, log := pushes(t, 1, &Pusher{URL: url, Headers: http.Header{"A": {"p"}}})
	want := `cannot import prometheus metrics of the job: \x00 see api; check --push.url`
	if !strings.Contains(log, want) || strings.Count(log, "\n") != 1 {
		t.Errorf("log: %s", log)
	}
}

// TestErrorsOfConnectionsRevealNothing: those of the URL's host and port are all that such an error needs.
func TestErrorsOfConnectionsRevealNothing(t *testing.T) {
	ok, log := pushes(t, 1, &Pusher{URL: "http://MARKED-USER:MARKED-PASSWORD@127.0.0.1:1/MARKED?MARKED"})
	if ok[0] || strings.Contains(log, "MARKED") || !strings.Contains(log, "refused") ||
		!strings.Contains(log, "cannot push to http://127.0.0.1:1: ") {
		t.Errorf("ok %v, log: %s", ok, log)
	}
}
