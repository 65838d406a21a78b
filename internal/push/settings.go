package push

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"metrics-server-prom/internal/setting"
)

// Rows is the pusher's part of the table of settings.
func (p *Pusher) Rows() []setting.Row {
	const url = "push.url"
	return []setting.Row{
		{Flag: url, Env: "PUSH_URL", Set: p.SetURL, Secret: true,
			Help: "where to push to as well: VictoriaMetrics' /api/v1/import/prometheus, a Pushgateway's " +
				"/metrics/job/JOB, or with --push.format remote-write such as /api/v1/write"},
		{Flag: "push.format", Env: "PUSH_FORMAT", Needs: url, Default: Text,
			Set:  setting.OneOf(&p.Format, Text, RemoteWrite),
			Help: "text, or remote-write for Prometheus' remote write: all pages, each reading once, with its own time"},
		{Flag: "push.interval", Env: "PUSH_INTERVAL", Needs: url, Default: "30s", Set: p.setInterval,
			Help: "how often to push: 1s to 1h; 0 to push only at POST /-/push"},
		{Flag: "push.instance", Env: "PUSH_INSTANCE", Needs: url, Set: setting.Name(&p.Instance),
			Help: "the label instance of remote write; if not set the host's name"},
		{Flag: "push.extra-labels", Env: "PUSH_EXTRA_LABELS", Needs: url, Set: p.SetExtraLabels,
			Help: "labels to add to every sample that is pushed, such as cluster=\"eu\",team=\"shop\""},
		{Flag: "push.header", Env: "PUSH_HEADER", Needs: url, Set: p.SetHeaders, Secret: true,
			Help: "header to push with, such as Authorization: Bearer TOKEN; several are separated by newlines"},
		{Flag: "push.http-config.file", Env: "PUSH_HTTP_CONFIG_FILE", Needs: url, Set: p.SetHTTPConfig,
			Help: "file that lets the pusher in: Prometheus' http_config, and sigv4 as in its remote_write"},
		{Flag: "once", Env: "ONCE", Bool: true, Set: setting.Bool(&p.JustOnce),
			Help: "read once, push, and exit with 0, or with 1 where that failed; without --push.url the pages go to stdout"},
	}
}

func (p *Pusher) setInterval(v string) (must string) {
	if d, err := time.ParseDuration(v); err == nil && d == 0 {
		p.Interval = 0
		return ""
	}
	if must = setting.Duration(&p.Interval, time.Second, time.Hour)(v); must != "" {
		must += ", or 0 to push only at POST /-/push"
	}
	return must
}

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
	ok := utf8.ValidString(v) && labelList.MatchString(v)
	for _, found := range oneLabel.FindAllStringSubmatch(v, -1) {
		ok = ok && !strings.HasPrefix(found[1], "__") && !slices.Contains(p.extraNames, found[1])
		p.extraNames = append(p.extraNames, found[1])
	}
	if !ok {
		return `labels such as cluster="eu",team="shop", each name once; in a value, a quote is \", a backslash \\`
	}
	return ""
}

// oneLabel is one of a list of labels. A name that begins with __ belongs to Prometheus.
var (
	oneLabel  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="(?:[^"\\[:cntrl:]]|\\["\\n])*"`)
	labelList = regexp.MustCompile(`^(` + oneLabel.String() + `(, *` + oneLabel.String() + `)*)?$`)
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
	remote := p.Format == RemoteWrite
	if remote {
		taken = append(slices.Clone(taken), "job", "instance")
	}
	for _, name := range p.extraNames {
		if slices.Contains(taken, name) {
			return fmt.Errorf("--push.extra-labels (PUSH_EXTRA_LABELS) has the label %s, which samples have already; "+
				"rename it", name)
		}
	}
	u, err := url.Parse(p.URL)
	if err != nil {
		return errors.New("--push.url (PUSH_URL) is not a valid URL")
	}
	c := p.connection()
	for _, name := range c.headers {
		if p.Headers[name] != nil {
			return fmt.Errorf("--push.header (PUSH_HEADER) and --push.http-config.file (PUSH_HTTP_CONFIG_FILE) have both "+
				"the header %s; set it only once", name)
		}
	}
	switch {
	case c.authorizes && p.Headers.Get("Authorization") != "":
		return errors.New("--push.header (PUSH_HEADER) has an Authorization, and --push.http-config.file " +
			"(PUSH_HTTP_CONFIG_FILE) a way to authorize; set only one of them")
	case c.authorizes && u.User != nil:
		return errors.New("--push.url (PUSH_URL) has a user, and --push.http-config.file (PUSH_HTTP_CONFIG_FILE) a way " +
			"to authorize; set only one of them")
	case u.User != nil && p.Headers.Get("Authorization") != "":
		return errors.New("--push.url (PUSH_URL) has a user and --push.header (PUSH_HEADER) an Authorization; " +
			"set only one of them")
	case !remote && p.Instance != "":
		return errors.New("--push.instance (PUSH_INSTANCE) is for remote write; set --push.format remote-write " +
			"(PUSH_FORMAT), or for text --push.extra-labels (PUSH_EXTRA_LABELS)")
	case !remote && writePath.MatchString(u.Path):
		return errors.New("--push.url (PUSH_URL) has the path of a receiver of remote write; " +
			"set --push.format remote-write (PUSH_FORMAT)")
	case remote && (p.isGroup() || strings.Contains(u.Path, "/import/prometheus")):
		return errors.New("--push.url (PUSH_URL) has the path of a receiver of text; set --push.format text " +
			"(PUSH_FORMAT), or the URL for remote write, such as http://victoria-metrics:8428/api/v1/write")
	case remote && (p.Headers["Content-Type"] != nil || p.Headers[versionHeader] != nil):
		return errors.New("--push.header (PUSH_HEADER) has a header that remote write sets itself; take out " +
			"Content-Type and " + versionHeader)
	}
	if !remote {
		return nil
	}
	if p.Instance == "" {
		if p.Instance, err = os.Hostname(); err != nil {
			return fmt.Errorf("--push.instance (PUSH_INSTANCE) is not set, and this host has no name: %w", err)
		}
	}
	_, err = p.target("any", "")
	return err
}

// writePath is how paths end where remote write goes: to Prometheus and VictoriaMetrics, Amazon, Mimir and Thanos.
var writePath = regexp.MustCompile(`/api/(v1/(write|remote_write|push|receive)|prom/push)/?$`)
