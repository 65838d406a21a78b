package push

import (
	"cmp"
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
	var credentials []string
	for _, values := range p.Headers {
		for _, value := range values {
			_, token, _ := strings.Cut(value, " ") // "Bearer TOKEN"
			secrets = append(secrets, value)
			credentials = append(credentials, cmp.Or(token, value))
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
		credentials = append(credentials, base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
	}
	for _, token := range credentials {
		secrets = append(secrets, token)
		if basic, err := base64.StdEncoding.DecodeString(token); err == nil {
			user, password, _ := strings.Cut(string(basic), ":")
			secrets = append(secrets, user, password)
		}
	}
	return slices.DeleteFunc(secrets, func(s string) bool { return slices.Contains(wellKnown, s) })
}

// redact takes out of a text what a receiver may have repeated of the request, and makes it short and one line.
func (p *Pusher) redact(s string) string {
	s = redact.Text(s, p.secrets())
	if s = strings.Join(strings.Fields(s), " "); len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}
