package push

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strings"

	"metrics-server-prom/internal/redact"
)

// target is what a log may say of the URL: its user, path and query can hold tokens.
func (p *Pusher) target() string {
	u, err := url.Parse(p.URL)
	if err != nil {
		return "(invalid URL)"
	}
	return u.Scheme + "://" + u.Host
}

// wellKnown are words of receivers' paths, which are no secrets.
var wellKnown = []string{"import", "insert", "instance", "metrics", "prometheus", "push", "write"}

// secrets is what a request holds that is not to be shown.
func (p *Pusher) secrets() (secrets []string) {
	for _, values := range p.Headers {
		for _, value := range values {
			secrets = append(append(secrets, value), redact.Credentials(value)...)
		}
	}
	if u, err := url.Parse(p.URL); err == nil {
		separator := func(r rune) bool { return strings.ContainsRune("/?&=", r) }
		for _, piece := range strings.FieldsFunc(u.EscapedPath()+"?"+u.RawQuery, separator) {
			unescaped, _ := url.QueryUnescape(piece)
			path, _ := url.PathUnescape(piece)
			secrets = append(secrets, piece, unescaped, path)
		}
		password, _ := u.User.Password()
		basic := base64.StdEncoding.EncodeToString([]byte(u.User.Username() + ":" + password))
		secrets = append(secrets, redact.Credentials(basic)...)
	}
	return slices.DeleteFunc(secrets, func(s string) bool { return slices.Contains(wellKnown, s) })
}

// redact takes out of a text what a receiver may have repeated of the request, and makes it short and one line.
func (p *Pusher) redact(s string) string { return redact.OneLine(redact.Text(s, p.secrets()), 300) }
