package credentials

import (
	"net/http"
	"testing"
)

func TestSecretsOfRequestsAreHidden(t *testing.T) {
	for name, c := range map[string]struct{ header, value, body, shown, want string }{
		"a token in a header": {"Authorization", "Bearer tooth-fairy", "", "no tooth-fairy", "no …"},
		"a password":          {"Authorization", "Basic bWFyeTpsYW1i", "", "bWFyeTpsYW1i is mary with lamb", "… is … with …"},
		"AWS' header":         {"X-Amz-Security-Token", "tooth-fairy", "", "no tooth-fairy", "no …"},
		"a form":              {"", "", "grant_type=refresh_token&refresh_token=1%2F%2Ftooth", "1//tooth of refresh_token", "… of refresh_token"},
		"as the form has it":  {"", "", "subject_token=1%2F%2Ftooth", "subject_token=1%2F%2Ftooth", "subject_token=…"},
		"AWS' form":           {"", "", "Action=Assume&WebIdentityToken=tooth-fairy", "Assume tooth-fairy", "Assume …"},
		"JSON":                {"", "", `{"clientSecret":"tooth-fairy","grantType":"refresh"}`, "tooth-fairy: refresh", "…: refresh"},
		"neither":             {"Accept", "text/plain", "\x00%zz", "text/plain", "text/plain"},
	} {
		t.Run(name, func(t *testing.T) {
			a := &asker{}
			a.hide(http.Header{c.header: {c.value}}, []byte(c.body))
			if got := a.redacted(c.shown); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}
