package standin

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Google is its accounts.
type Google struct {
	// Account is the service account that has a key, and that the metadata server gives tokens of.
	Account string
	// Refresh is the refresh token of me@example.com.
	Refresh string
	// Subject is the token of another identity provider, for the pool.
	Subject string
	// Impersonated is the service account that all of these may have tokens of.
	Impersonated string

	key func() *rsa.PrivateKey
}

// Pool is the audience of the workload identity pool.
const Pool = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/provider"

func (g *Google) init() {
	g.Account, g.Impersonated = "account@project.iam.gserviceaccount.com", "reader@project.iam.gserviceaccount.com"
	g.Refresh, g.Subject = "refresh-"+rand.Text(), "subject-"+rand.Text()
	g.key = sync.OnceValue(func() *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err) // the system has no randomness
		}
		return key
	})
}

// AccountKey is the key file of the service account.
func (g *Google) AccountKey() string {
	der, err := x509.MarshalPKCS8PrivateKey(g.key())
	if err != nil {
		panic(err) // of a key that was just made
	}
	return toJSON(map[string]string{"type": "service_account", "client_email": g.Account, "private_key_id": "key-1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"token_uri":   "https://oauth2.googleapis.com/token"})
}

// User is the file that gcloud auth application-default login writes.
func (g *Google) User() string {
	return toJSON(map[string]string{"type": "authorized_user", "client_id": "client-1", "client_secret": "client-secret-1",
		"refresh_token": g.Refresh})
}

// ExternalAccount is the file of a workload identity pool, whose token is in a file.
func (g *Google) ExternalAccount(tokenFile string) string {
	return toJSON(map[string]any{"type": "external_account", "audience": Pool,
		"token_url":          "https://sts.googleapis.com/v1/token",
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "credential_source": map[string]string{"file": tokenFile}})
}

// scopes are what GKE's plugin asks for.
var scopes = []string{"https://www.googleapis.com/auth/cloud-platform",
	"https://www.googleapis.com/auth/userinfo.email"}

func googleError(status int, code, description string) error {
	return &refusal{status, toJSON(map[string]string{"error": code, "error_description": description})}
}

// google answers the metadata server's, the token endpoint's, the STS' and the IAM credentials' requests.
func (c *Clouds) google(w http.ResponseWriter, r *http.Request, host string, body []byte) (what, text string,
	err error) {
	form, _ := url.ParseQuery(string(body))
	what = strings.TrimSpace(r.Method + " " + r.URL.Path + " " + form.Get("grant_type"))
	who := ""
	switch {
	case strings.HasPrefix(r.URL.Path, "/computeMetadata/v1/"):
		w.Header().Set("Metadata-Flavor", "Google")
		path := strings.TrimPrefix(r.URL.Path, "/computeMetadata/v1/")
		switch {
		case r.Header.Get("Metadata-Flavor") != "Google":
			return what, "", &refusal{http.StatusForbidden, "Missing Metadata-Flavor:Google header."}
		case path == "project/project-id":
			return what, "project", nil
		case path != "instance/service-accounts/default/token" || c.Google.Account == "":
			return what, "", &refusal{http.StatusNotFound, "nothing there"}
		}
		if who = c.Google.Account; r.URL.Query().Get("scopes") != strings.Join(scopes, ",") {
			return what, "", &refusal{http.StatusBadRequest, "scopes"}
		}
	case host == "oauth2.googleapis.com" && r.URL.Path == "/token":
		who, err = c.tokenOfGoogle(form)
	case host == "sts.googleapis.com" && r.URL.Path == "/v1/token":
		// https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token
		if who = "principal of the pool"; form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange" ||
			form.Get("audience") != Pool || form.Get("subject_token") != c.Google.Subject ||
			form.Get("subject_token_type") != "urn:ietf:params:oauth:token-type:jwt" ||
			form.Get("requested_token_type") != "urn:ietf:params:oauth:token-type:access_token" {
			err = googleError(http.StatusBadRequest, "invalid_grant", "no such subject: "+form.Get("subject_token"))
		}
	case host == "iamcredentials.googleapis.com":
		return c.impersonated(r, what, body)
	default:
		return what, "", &refusal{http.StatusNotFound, "nothing there"}
	}
	if err != nil {
		return what, "", err
	}
	return what, toJSON(map[string]any{"access_token": c.give(who), "expires_in": int(c.TokenTime.Seconds()),
		"token_type": "Bearer", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}), nil
}

// tokenOfGoogle answers the token endpoint:
// https://developers.google.com/identity/protocols/oauth2/service-account#httprest
func (c *Clouds) tokenOfGoogle(form url.Values) (who string, err error) {
	switch form.Get("grant_type") {
	case "refresh_token":
		if form.Get("refresh_token") != c.Google.Refresh || form.Get("client_id") != "client-1" ||
			form.Get("client_secret") != "client-secret-1" {
			return "", googleError(http.StatusBadRequest, "invalid_grant", "Token has been expired or revoked. "+
				form.Encode())
		}
		return "me@example.com", nil
	case "urn:ietf:params:oauth:grant-type:jwt-bearer":
		claims := struct {
			jwt.RegisteredClaims
			Scope string `json:"scope"`
		}{}
		t, err := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithTimeFunc(c.now), jwt.WithIssuedAt(),
			jwt.WithLeeway(30*time.Second), jwt.WithAudience("https://oauth2.googleapis.com/token"),
			jwt.WithIssuer(c.Google.Account), jwt.WithExpirationRequired()).ParseWithClaims(form.Get("assertion"), &claims,
			func(*jwt.Token) (any, error) { return c.Google.key().Public(), nil })
		switch {
		case err != nil:
			return "", googleError(http.StatusBadRequest, "invalid_grant", "Invalid JWT: Token must be a short-lived token "+
				"(60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim. "+err.Error())
		case t.Header["kid"] != "key-1", claims.Scope != strings.Join(scopes, " "),
			claims.ExpiresAt.Sub(claims.IssuedAt.Time) > time.Hour:
			return "", googleError(http.StatusBadRequest, "invalid_scope", "scope, kid or time")
		}
		return c.Google.Account, nil
	}
	return "", googleError(http.StatusBadRequest, "unsupported_grant_type", "Invalid grant_type")
}

// impersonated answers generateAccessToken of the IAM credentials.
func (c *Clouds) impersonated(r *http.Request, what string, body []byte) (string, string, error) {
	var asked struct{ Scope []string }
	holder, err := c.Holder(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), "")
	switch {
	case err != nil || json.Unmarshal(body, &asked) != nil || !slices.Equal(asked.Scope, scopes):
		return what, "", &refusal{http.StatusUnauthorized,
			`{"error":{"code":401,"message":"invalid authentication credentials"}}`}
	case r.URL.Path != "/v1/projects/-/serviceAccounts/"+c.Google.Impersonated+":generateAccessToken":
		return what, "", &refusal{http.StatusForbidden, fmt.Sprintf(
			`{"error":{"code":403,"message":"Permission 'iam.serviceAccounts.getAccessToken' denied to %s"}}`, holder)}
	}
	return what, toJSON(map[string]string{"accessToken": c.give(c.Google.Impersonated),
		"expireTime": c.now().Add(c.TokenTime).UTC().Format(time.RFC3339)}), nil
}
