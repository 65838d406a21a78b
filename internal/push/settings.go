package push

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

// SetURL takes a setting's text. It returns "", or what the text must be if it is not that, as SetExtraLabels and
// SetHeaders do.
func (p *Pusher) SetURL(v string) (must string) {
	p.URL = v
	u, err := url.Parse(v)
	if v != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "") {
		return "an http or https URL, such as http://victoria-metrics:8428/api/v1/import/prometheus"
	}
	return ""
}

// SetExtraLabels takes a list of labels. Whether samples have one of that name already is for Check.
func (p *Pusher) SetExtraLabels(v string) (must string) {
	p.ExtraLabels, p.extraNames = v, nil
	ok := utf8.ValidString(v) && labels.MatchString(v)
	for _, found := range label.FindAllStringSubmatch(v, -1) {
		ok = ok && !strings.HasPrefix(found[1], "__") && !slices.Contains(p.extraNames, found[1])
		p.extraNames = append(p.extraNames, found[1])
	}
	if !ok {
		return `labels such as cluster="eu",team="shop", each name once; in a value, a quote is \", a backslash \\`
	}
	return ""
}

// label is one of a list of labels. A name that begins with __ belongs to Prometheus.
var (
	label  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="(?:[^"\\[:cntrl:]]|\\["\\n])*"`)
	labels = regexp.MustCompile(`^(` + label.String() + `(, *` + label.String() + `)*)?$`)
)

// ownHeaders are set by what sends a request.
var ownHeaders = []string{"Connection", "Content-Encoding", "Content-Length", "Host", "Trailer", "Transfer-Encoding",
	"Upgrade"}

// SetHeaders takes headers, one a line.
func (p *Pusher) SetHeaders(v string) (must string) {
	p.Headers = http.Header{}
	for line := range strings.Lines(v) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		name, value, found := strings.Cut(line, ":")
		name, value = http.CanonicalHeaderKey(strings.TrimSpace(name)), strings.TrimSpace(value)
		switch {
		case !found || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value):
			return "lines such as Authorization: Bearer TOKEN"
		case slices.Contains(ownHeaders, name):
			return "headers other than " + strings.Join(ownHeaders, ", ") + ", which each push sets itself"
		case p.Headers[name] != nil:
			return "lines such as Authorization: Bearer TOKEN, each name once"
		}
		p.Headers.Set(name, value)
	}
	return ""
}

// Check is for what was set together: an error says what contradicts what. taken are the names of labels that samples
// have.
func (p *Pusher) Check(taken []string) error {
	for _, name := range p.extraNames {
		if slices.Contains(taken, name) {
			return fmt.Errorf("--push.extra-labels (PUSH_EXTRA_LABELS) has the label %s, which samples have already; "+
				"rename it", name)
		}
	}
	if u, err := url.Parse(p.URL); err == nil && u.User != nil && p.Headers.Get("Authorization") != "" {
		return errors.New("--push.url (PUSH_URL) has a user and --push.header (PUSH_HEADER) an Authorization; " +
			"set only one of them")
	}
	return nil
}
