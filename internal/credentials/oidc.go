package credentials

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// oidc answers in place of the auth-provider oidc as client-go does (plugin/pkg/client/auth/oidc): with the token in
// the settings while it is valid, then with what the refresh token brings. client-go writes that into the kubeconfig.
// Here it is not kept, so that the refresh token has to be one that can be used more than once.
func (a *asker) oidc(ctx context.Context, _ []string) (token, error) {
	settings, err := authProviderSettings()
	if err != nil {
		return token{}, err
	}
	if t := oidcToken(settings["id-token"]); time.Now().Add(10 * time.Second).Before(t.expires) {
		return t, nil
	}
	const wayOut = "log in again and mount the new kubeconfig, or use one with a service account's token, see " +
		"deploy/outside/"
	issuer := strings.TrimSuffix(settings["idp-issuer-url"], "/")
	if issuer == "" || settings["refresh-token"] == "" {
		return token{}, &refusal{"the auth-provider oidc has no id-token that is still valid, and no idp-issuer-url and " +
			"refresh-token to get a new one with", wayOut}
	}
	if err := a.trust(settings["idp-certificate-authority"], settings["idp-certificate-authority-data"]); err != nil {
		return token{}, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, issuer+"/.well-known/openid-configuration", nil)
	if err != nil {
		return token{}, &refusal{"the auth-provider's idp-issuer-url is no address", "correct it"}
	}
	var issuerSays struct {
		TokenEndpoint string `json:"token_endpoint"`
	}
	_, status, err := a.do(r, &issuerSays)
	if err == nil && issuerSays.TokenEndpoint == "" {
		err = fmt.Errorf("%d %s, and no token_endpoint", status, http.StatusText(status))
	}
	if err != nil {
		return token{}, &refusal{fmt.Sprintf("no token of the auth-provider oidc: %s/.well-known/openid-configuration: %s",
			name(issuer), deepest(err)), "check idp-issuer-url, idp-certificate-authority and the network"}
	}
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {settings["refresh-token"]},
		"client_id": {settings["client-id"]}}
	if settings["client-secret"] != "" {
		form.Set("client_secret", settings["client-secret"])
	}
	answer, err := a.post(ctx, issuerSays.TokenEndpoint, form, wayOut)
	if err != nil {
		return token{}, err
	}
	if answer.IDToken == "" {
		return token{}, &refusal{"the provider of the auth-provider oidc answers a refresh without an id_token", wayOut}
	}
	return oidcToken(answer.IDToken), nil
}

// oidcToken is a token with the time that it tells of itself. It is for the API server to check the rest.
func oidcToken(value string) token {
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(value, &claims); err != nil || claims.ExpiresAt == nil {
		return token{value: value}
	}
	return token{value, claims.ExpiresAt.Time}
}

// trust takes certificates of an authority alone: in a file or, which wins, in base64.
func (a *asker) trust(file, data string) error {
	if file+data == "" {
		return nil
	}
	text, err := base64.StdEncoding.DecodeString(data)
	if err == nil && data == "" {
		text, err = os.ReadFile(file)
	}
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(text) {
		return &refusal{"the auth-provider's idp-certificate-authority cannot be read or has no certificates", "correct it"}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	a.client.Transport = hiding{a, transport}
	return nil
}
