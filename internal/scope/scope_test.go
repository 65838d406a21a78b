package scope

import (
	"slices"
	"strings"
	"testing"
	"time"

	"metrics-server-prom/internal/setting"
)

func TestSettings(t *testing.T) {
	for name, test := range map[string]struct {
		args  []string
		each  []string
		fails string // what the error says; "" for none
	}{
		"nothing is set: all namespaces at once": {nil, []string{""}, ""},
		"namespaces one by one":                  {[]string{"--namespaces=b,a"}, []string{"b", "a"}, ""},
		"some of them excluded":                  {[]string{"--namespaces=b,a", "--exclude-namespaces=a"}, []string{"b", "a"}, ""},
		"all of them excluded":                   {[]string{"--namespaces=a", "--exclude-namespaces=a,b"}, nil, "nothing is left"},
		"too old before the next are read": {[]string{"--max-age=10s", "--refresh-interval=10s"}, nil,
			"set --max-age to several times"},
		"a page that there is not": {[]string{"--pages=two"}, nil, "--pages"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Settings{}
			err := setting.Parse("p", "v", s.Rows("one"), test.args, func(string) string { return "" })
			if err == nil {
				err = s.Check()
			}
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("error %v, want one with %q", err, test.fails)
				}
				return
			}
			if err != nil || !slices.Equal(s.Each(), test.each) || s.MaxAge != 5*time.Minute {
				t.Errorf("%v, namespaces %q, max-age %s", err, s.Each(), s.MaxAge)
			}
		})
	}
	if s := (&Settings{Pages: []string{"one"}}); !s.Serves("one") || s.Serves("two") {
		t.Error("only the page one is on")
	}
}
