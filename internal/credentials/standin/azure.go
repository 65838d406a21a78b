package standin

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Azure is the application of a tenant in Entra, and a managed identity.
type Azure struct {
	Tenant, Client string // as they are, those of Kubeconfig's AKS, and an application
	// Secret, Certificate and Federated are each what the application may show, "" and nil for none.
	Secret      string
	Certificate *x509.Certificate
	Federated   string
	// Refresh is the refresh token of a person.
	Refresh string
	// Server is what tokens are for; as it is, AKS.
	Server string
	// Identity is the client ID of a managed identity that has to be named, "" for the only one; IdentityHeader is what
	// App Service wants to be shown.
	Identity, IdentityHeader string
	// Issuer is where the OpenID Connect provider of an auth-provider is, and ID its token.
	Issuer, IDToken string
}

func (a *Azure) init() {
	a.Tenant, a.Client = "72f988bf-0000-0000-0000-2d7cd011db47", "9e3f0000-0000-0000-0000-00000000c11e"
	a.Server, a.Secret = "6dae42f8-4368-4678-94ff-3960e28e3630", "secret-"+rand.Text()
}

var guid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func entraError(status int, code string, number int, description string) error {
	return &refusal{status, toJSON(map[string]any{"error": code, "error_codes": []int{number},
		"error_description": fmt.Sprintf(
			"AADSTS%d: %s\r\nTrace ID: 1\r\nCorrelation ID: 2\r\nTimestamp: 3", number, description)})}
}

// azure answers Entra's token endpoints, the metadata of virtual machines, and App Service's identity endpoint.
func (c *Clouds) azure(r *http.Request, host string, body []byte) (what, text string, err error) {
	what = r.Method + " " + r.URL.Path
	form, _ := url.ParseQuery(string(body))
	a, path := &c.Azure, strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case host == "169.254.169.254" && r.URL.Path == "/metadata/identity/oauth2/token":
		// https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token
		return c.managed(what, r, "Metadata", "true", "2018-02-01", "msi_res_id")
	case host == "identity.example" && r.URL.Path == "/msi/token":
		// https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference
		return c.managed(what, r, "X-Identity-Header", a.IdentityHeader, "2019-08-01", "mi_res_id")
	case r.URL.Path == "/.well-known/openid-configuration" && "https://"+host == a.Issuer:
		return what, toJSON(map[string]string{"issuer": a.Issuer, "token_endpoint": a.Issuer + "/token"}), nil
	case r.URL.Path == "/token" && "https://"+host == a.Issuer:
		if form.Get("grant_type") != "refresh_token" || form.Get("refresh_token") != a.Refresh ||
			form.Get("client_id") != a.Client ||
			form.Get("client_secret") != a.Secret {
			return what, "", &refusal{http.StatusBadRequest, `{"error":"invalid_grant","error_description":"` +
				form.Get("refresh_token") + `"}`}
		}
		return what, toJSON(map[string]any{"access_token": "no", "id_token": a.IDToken, "token_type": "Bearer",
			"expires_in": 3600}), nil
	case !strings.HasPrefix(host, "login.") || r.Method != http.MethodPost || len(path) < 3 || path[1] != "oauth2":
		return what, "", &refusal{http.StatusNotFound, "nothing there"}
	case path[0] != a.Tenant:
		return what, "", entraError(http.StatusBadRequest, "invalid_request", 90002, "Tenant '"+path[0]+"' not found.")
	case form.Get("client_id") != a.Client:
		return what, "", entraError(http.StatusBadRequest, "unauthorized_client", 700016,
			"Application with identifier '"+form.Get("client_id")+"' was not found in the directory.")
	}
	what += " " + form.Get("grant_type")
	v1 := path[2] == "token"
	if v1 && form.Get("resource") == "" || !v1 && form.Get("scope") != a.Server+"/.default" {
		return what, "", entraError(http.StatusBadRequest, "invalid_scope", 70011,
			"The provided value for scope is not valid.")
	}
	who := "application " + a.Client
	if v1 {
		who += " for " + form.Get("resource")
	}
	if form.Get("grant_type") == "refresh_token" {
		if who = "person for " + form.Get("resource"); form.Get("refresh_token") != a.Refresh || a.Refresh == "" {
			return what, "", entraError(http.StatusBadRequest, "invalid_grant", 700082, "The refresh token has expired: "+
				form.Get("refresh_token"))
		}
	} else if err := c.application(form, "https://"+host+r.URL.Path); err != nil {
		return what, "", err
	}
	return what, toJSON(map[string]any{"token_type": "Bearer", "expires_in": int(c.TokenTime.Seconds()),
		"access_token": c.give(who)}), nil
}

// application checks what an application shows:
// https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
func (c *Clouds) application(form url.Values, endpoint string) error {
	a := &c.Azure
	assertion := form.Get("client_assertion")
	switch {
	case form.Get("grant_type") != "client_credentials":
		return entraError(http.StatusBadRequest, "unsupported_grant_type", 70003, "unsupported")
	case form.Has("client_secret"):
		if form.Get("client_secret") != a.Secret || a.Secret == "" || assertion != "" {
			return entraError(http.StatusUnauthorized, "invalid_client", 7000215, "Invalid client secret provided. Ensure the "+
				"secret being sent in the request is the client secret value, not the client secret ID: "+form.Get("client_secret"))
		}
		return nil
	case form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer":
		return entraError(http.StatusUnauthorized, "invalid_client", 7000218,
			"The request body must contain client_assertion or client_secret.")
	case a.Federated != "" && assertion == a.Federated:
		return nil
	case a.Certificate == nil:
		return entraError(http.StatusUnauthorized, "invalid_client", 700212, "No matching federated identity record "+
			"found for "+assertion)
	}
	if err := checkAssertion(assertion, endpoint, a.Client, a.Certificate, c.now()); err != nil {
		return entraError(http.StatusUnauthorized, "invalid_client", 700027, err.Error())
	}
	return nil
}

// checkAssertion checks a JSON web token by
// https://learn.microsoft.com/entra/identity-platform/certificate-credentials
func checkAssertion(assertion, endpoint, client string, certificate *x509.Certificate, now time.Time) error {
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		return fmt.Errorf("no JSON web token")
	}
	var header struct {
		Alg, Typ string
		S256     string `json:"x5t#S256"`
	}
	var claims struct {
		Aud, Iss, Sub, Jti string
		Nbf, Exp           int64
	}
	for i, p := range []any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(text, p)
		}
		if err != nil {
			return err
		}
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return err
	}
	thumbprint, hash := sha256.Sum256(certificate.Raw), sha256.Sum256([]byte(parts[0]+"."+parts[1]))
	switch {
	case header.Alg != "PS256" || header.Typ != "JWT":
		return fmt.Errorf("alg and typ are %s and %s", header.Alg, header.Typ)
	case header.S256 != base64.RawURLEncoding.EncodeToString(thumbprint[:]):
		return fmt.Errorf("the certificate with thumbprint %s is not registered", header.S256)
	case claims.Aud != endpoint || claims.Iss != client || claims.Sub != client || !guid.MatchString(claims.Jti):
		return fmt.Errorf("aud, iss, sub or jti is wrong: %+v", claims)
	case now.Unix() < claims.Nbf-300 || now.Unix() > claims.Exp+300 || claims.Exp-claims.Nbf > 600:
		return fmt.Errorf("client assertion is not within its valid time range. Current time: %s",
			now.UTC().Format(time.RFC3339))
	}
	return rsa.VerifyPSS(certificate.PublicKey.(*rsa.PublicKey), crypto.SHA256, hash[:], signature,
		&rsa.PSSOptions{SaltLength: sha256.Size})
}

// managed answers an identity endpoint.
func (c *Clouds) managed(what string, r *http.Request, header, value, version, resource string) (string, string,
	error) {
	query := r.URL.Query()
	what += " " + query.Get("client_id") + query.Get(resource)
	switch {
	case r.Header.Get(header) != value || value == "":
		return what, "", &refusal{http.StatusBadRequest,
			`{"error":"invalid_request","error_description":"Required metadata header not specified"}`}
	case query.Get("api-version") != version || query.Get("resource") != c.Azure.Server:
		return what, "", &refusal{http.StatusBadRequest,
			`{"error":"invalid_request","error_description":"api-version or resource"}`}
	case query.Get("client_id")+query.Get(resource) != c.Azure.Identity:
		return what, "", &refusal{http.StatusBadRequest,
			`{"error":"invalid_request","error_description":"Identity not found"}`}
	}
	seconds := int(c.TokenTime.Seconds())
	answer := map[string]string{"access_token": c.give("managed identity"), "resource": c.Azure.Server,
		"token_type": "Bearer",
		"expires_on": strconv.FormatInt(c.now().Unix()+int64(seconds), 10)}
	if version == "2018-02-01" {
		answer["expires_in"] = strconv.Itoa(seconds)
	}
	return what, toJSON(answer), nil
}
