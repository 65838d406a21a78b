package credentials

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
)

// googleScopes are what GKE asks for: the first to be let in, the second to know a service account by its e-mail
// address and not by a number (gke-gcloud-auth-plugin, cred.go).
var googleScopes = []string{"https://www.googleapis.com/auth/cloud-platform",
	"https://www.googleapis.com/auth/userinfo.email"}

// gkeGcloudAuthPlugin answers in place of: gke-gcloud-auth-plugin. Where that asks gcloud for the token of whoever has
// logged in there, this takes the application default credentials, as there is no gcloud.
func (a *asker) gkeGcloudAuthPlugin(ctx context.Context, args []string) (token, error) {
	for i, arg := range args { // either spelling is allowed
		if name, value, found := strings.Cut(arg, "="); strings.HasPrefix(name, "--") {
			args[i] = "--" + strings.ReplaceAll(name[2:], "-", "_")
			if found {
				args[i] += "=" + value
			}
		}
	}
	var account, impersonated string
	var applicationDefault, edge bool
	_, err := parse(args, func(f *flag.FlagSet) {
		f.BoolVar(&applicationDefault, "use_application_default_credentials", false, "")
		f.StringVar(&account, "account", os.Getenv("CLOUDSDK_CORE_ACCOUNT"), "")
		f.StringVar(&impersonated, "impersonate_service_account",
			os.Getenv("CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT"), "")
		f.BoolVar(&edge, "use_edge_cloud", false, "")
	}, "project location cluster v vmodule stderrthreshold log_backtrace_at log_dir log_file log_file_max_size",
		"logtostderr alsologtostderr add_dir_header skip_headers skip_log_headers one_output")
	if err != nil {
		return token{}, err
	}
	if edge {
		return token{}, &refusal{"tokens of Google Distributed Cloud connected (--use_edge_cloud) are not made here",
			"put the exporter into an image that has gke-gcloud-auth-plugin, see deploy/outside/"}
	}
	if applicationDefault { // what gcloud is set to does not matter then
		return a.google(ctx, googleScopes, "", "")
	}
	if given := os.Getenv("CLOUDSDK_AUTH_ACCESS_TOKEN"); given != "" {
		return token{value: given}, nil
	}
	return a.google(ctx, googleScopes, account, impersonated)
}

// gcp answers in place of the auth-provider gcp.
func (a *asker) gcp(ctx context.Context, _ []string) (token, error) {
	settings, err := authProviderSettings()
	if err != nil {
		return token{}, err
	}
	scopes := googleScopes
	if settings["scopes"] != "" {
		scopes = strings.Split(settings["scopes"], ",")
	}
	return a.google(ctx, scopes, "", "")
}

// google takes gcloud's credentials of an account, or the application default credentials where account is "". With
// these it gets a token: of the service account that is to be impersonated, or where that is "" of their own.
func (a *asker) google(ctx context.Context, scopes []string, account, impersonated string) (token, error) {
	ctx = context.WithValue(ctx, oauth2.HTTPClient, a.client)
	home, _ := os.UserHomeDir()
	if account != "" {
		// gcloud writes this file for programs that know application default credentials only.
		os.Setenv(googleFile, filepath.Join(cmp.Or(os.Getenv("CLOUDSDK_CONFIG"), filepath.Join(home, ".config", "gcloud")),
			"legacy_credentials", account, "adc.json"))
	}
	places, last := []string{googleFile, filepath.Join(home, ".config", "gcloud", "application_default_credentials.json"),
		"the metadata server"}, 2
	if _, err := os.Stat(places[1]); err == nil {
		last = 1
	}
	if file := os.Getenv(googleFile); file != "" {
		places[0], last = googleFile+" ("+name(file)+")", 0
	}
	found, err := google.FindDefaultCredentials(ctx, scopes...)
	var t *oauth2.Token
	if err == nil {
		t, err = found.TokenSource.Token()
	}
	if err != nil {
		return token{}, googleRefused(err, places, last)
	}
	if impersonated == "" {
		return token{t.AccessToken, t.Expiry}, nil
	}
	return a.impersonate(ctx, t.AccessToken, impersonated, scopes)
}

// googleFile is the environment variable that names a file with application default credentials.
const googleFile = "GOOGLE_APPLICATION_CREDENTIALS"

// impersonate gets a token of a service account with the token of somebody who may have it:
// https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken
func (a *asker) impersonate(ctx context.Context, with, account string, scopes []string) (token, error) {
	// Where several are named, separated by commas, the last is the one, and those before it lead to it.
	chain := strings.Split(account, ",")
	var body struct {
		Scope     []string `json:"scope"`
		Delegates []string `json:"delegates,omitempty"`
	}
	body.Scope = scopes
	for _, delegate := range chain[:len(chain)-1] {
		body.Delegates = append(body.Delegates, "projects/-/serviceAccounts/"+delegate)
	}
	account = chain[len(chain)-1]
	text, err := json.Marshal(body)
	if err != nil {
		return token{}, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://iamcredentials.googleapis.com/v1/projects/-/"+
		"serviceAccounts/"+url.PathEscape(account)+":generateAccessToken", strings.NewReader(string(text)))
	if err != nil {
		return token{}, err
	}
	r.Header.Set("Authorization", "Bearer "+with)
	r.Header.Set("Content-Type", "application/json")
	var answer struct {
		AccessToken string    `json:"accessToken"`
		ExpireTime  time.Time `json:"expireTime"`
		Error       struct{ Message string }
	}
	_, status, err := a.do(r, &answer)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d %s: %s", status, http.StatusText(status), answer.Error.Message)
	}
	if err != nil {
		return token{}, &refusal{fmt.Sprintf("no token of the service account %s: %s", name(account), err),
			"grant roles/iam.serviceAccountTokenCreator on it to who asks"}
	}
	return token{answer.AccessToken, answer.ExpireTime}, nil
}

// googleRefused says what was met at the last of the places that were looked at.
func googleRefused(err error, places []string, last int) error {
	why, wayOut := deepest(err).Error(), "check the file, and that it can be read here"
	answer, refused := errors.AsType[*oauth2.RetrieveError](err)
	_, unreachable := deepest(err).(*url.Error)
	switch {
	case refused:
		var body oauthAnswer
		json.Unmarshal(answer.Body, &body)
		why = body.refused(answer.Response.StatusCode)
		wayOut = cmp.Or(skew(answer.Response.Header), "renew the credentials: make a new key of the service account, or "+
			"log in again with gcloud auth application-default login")
	case last == 2:
		wayOut = "set " + googleFile + " to a file, mount ~/.config/gcloud and set HOME to the folder that .config is " +
			"in, or run this where Google gives it a service account, see deploy/outside/"
	case unreachable || strings.HasPrefix(why, "oauth2: cannot fetch token: "): // x/oauth2/jwt makes a text of it
		wayOut = CheckNetwork
	}
	return &refusal{"no token from Google" + lookedIn(places, 0, last) + ": " + why, wayOut}
}
