package redact

import "testing"

func TestText(t *testing.T) {
	const old, token = "eyJhbGciOiJSUzI1NiJ9.old.signature", "eyJhbGciOiJSUzI1NiJ9.new.other"
	both := []string{old, token}
	for name, c := range map[string]struct {
		secrets    []string
		text, want string
	}{
		"no secrets":                      {nil, "text", "text"},
		"none of them":                    {both, "eyJ is forbidden", "eyJ is forbidden"},
		"a whole one":                     {both, "not with " + old + "!", "not with …!"},
		"its successor, which begins so":  {both, "not with " + token + "!", "not with …!"},
		"in the other order":              {[]string{token, old}, old + " " + token, "… …"},
		"twice":                           {both, token + token, "……"},
		"without its end":                 {both, "it begins with " + token[:24], "it begins with …"},
		"a short one":                     {[]string{"long"}, "long, lon", "…, lon"},
		"one too short":                   {[]string{"an", ""}, "not an apple", "not an apple"},
		"one within another":              {[]string{"password", "word"}, "password and word", "… and …"},
		"what only looks like one at end": {both, "eyJhbG", "eyJhbG"},
	} {
		if got := Text(c.text, c.secrets); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
