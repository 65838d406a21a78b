package credentials

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"metrics-server-prom/internal/redact"
)

// maxAnswer is how much of an answer is read, in bytes: a token with many claims, and much room.
const maxAnswer = 1 << 20

// hiding is a transport that keeps the secrets of all requests out of what is shown: where the clouds' libraries have
// them from is known to these alone, and their errors repeat whole answers.
type hiding struct {
	asker *asker
	below http.RoundTripper
}

func (h hiding) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.GetBody != nil {
		if reader, err := r.GetBody(); err == nil {
			body, _ = io.ReadAll(reader)
			reader.Close()
		}
	}
	h.asker.hide(r.Header, body)
	return h.below.RoundTrip(r)
}

// hide takes what may be secret in a request, as it is and as it stands in a form.
func (a *asker) hide(header http.Header, body []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, values := range header {
		for _, value := range values {
			if secretHeader.MatchString(name) {
				a.secrets = append(a.secrets, redact.Credentials(value)...)
			}
		}
	}
	fields, _ := url.ParseQuery(string(body)) // what is no form has no such fields
	var object map[string]any
	json.Unmarshal(body, &object)
	for name, value := range object {
		fields[name] = append(fields[name], fmt.Sprint(value))
	}
	for name, values := range fields {
		for _, value := range values {
			if secretField.MatchString(name) {
				a.secrets = append(a.secrets, value, url.QueryEscape(value))
			}
		}
	}
}

// secretHeader and secretField are names of headers, and of fields of OAuth 2.0's and of AWS' requests.
var (
	secretHeader = regexp.MustCompile(`(?i)(authorization|token|secret|identity-header)$`)
	secretField  = regexp.MustCompile(`(?i)(secret|assertion|token)$`)
)

// do sends a request and reads its answer into answer, whatever the status. What is no JSON is no error where the
// status tells more.
func (a *asker) do(r *http.Request, answer any) (header http.Header, status int, err error) {
	resp, err := a.client.Do(r)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && json.Unmarshal(body, answer) != nil && resp.StatusCode == http.StatusOK {
		err = fmt.Errorf("%s answers what is no JSON", r.URL.Host)
	}
	return resp.Header, resp.StatusCode, err
}

// oauthAnswer is the answer of an OAuth 2.0 token endpoint (RFC 6749, sections 5.1 and 5.2), and that of Azure's
// metadata services, which write numbers as strings.
type oauthAnswer struct {
	AccessToken string      `json:"access_token"`
	IDToken     string      `json:"id_token"`
	ExpiresIn   json.Number `json:"expires_in"`
	ExpiresOn   json.Number `json:"expires_on"` // seconds since 1970, where there is no expires_in
	Code        string      `json:"error"`
	Description string      `json:"error_description"`
}

// token is the answer's access token. The time for which it is valid counts from now, by whatever clock.
func (a *oauthAnswer) token() token {
	t := token{value: a.AccessToken}
	if seconds, err := strconv.ParseFloat(a.ExpiresIn.String(), 64); err == nil {
		t.expires = time.Now().Add(time.Duration(seconds) * time.Second)
	} else if seconds, err := strconv.ParseInt(a.ExpiresOn.String(), 10, 64); err == nil {
		t.expires = time.Unix(seconds, 0)
	}
	return t
}

// refused is what the answer says of why there is no token.
func (a *oauthAnswer) refused(status int) string {
	// Entra has the numbers of the request in further lines.
	description, _, _ := strings.Cut(strings.TrimSpace(a.Description), "\n")
	return strings.TrimRight(fmt.Sprintf("%d %s: %s %s", status, http.StatusText(status), a.Code, description), ": ")
}

// post asks a token endpoint.
func (a *asker) post(ctx context.Context, endpoint string, form url.Values, wayOut string) (*oauthAnswer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, &refusal{"the address of the token endpoint cannot be used: " + name(endpoint), "correct it"}
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	return a.token(r, wayOut)
}

// token sends a request for a token.
func (a *asker) token(r *http.Request, wayOut string) (*oauthAnswer, error) {
	answer := &oauthAnswer{}
	header, status, err := a.do(r, answer)
	switch {
	case err != nil:
		return nil, &refusal{deepest(err).Error(), CheckNetwork}
	case status != http.StatusOK:
		return nil, &refusal{r.URL.Host + " answers " + answer.refused(status), cmp.Or(skew(header), wayOut)}
	}
	return answer, nil
}
