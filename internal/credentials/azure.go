package credentials

import (
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"golang.org/x/crypto/pkcs12"
)

// entra is what kubelogin is set to (pkg/internal/token/options.go).
type entra struct {
	login, client, tenant, server, environment, authority string
	secret, certificate, certificatePassword              string
	federatedTokenFile, identityResource                  string
	legacy                                                bool
}

// kubelogin answers in place of: kubelogin get-token.
func (a *asker) kubelogin(ctx context.Context, args []string) (token, error) {
	e := entra{login: "devicecode", environment: "AzurePublicCloud"}
	var terraform, pop, keep bool
	rest, err := parse(args, func(f *flag.FlagSet) {
		for name, p := range map[string]*string{
			"login": &e.login, "l": &e.login, "client-id": &e.client, "tenant-id": &e.tenant, "t": &e.tenant,
			"server-id": &e.server, "environment": &e.environment, "e": &e.environment, "authority-host": &e.authority,
			"client-secret": &e.secret, "client-certificate": &e.certificate,
			"client-certificate-password": &e.certificatePassword, "federated-token-file": &e.federatedTokenFile,
			"identity-resource-id": &e.identityResource,
		} {
			f.StringVar(p, name, *p, "")
		}
		f.BoolVar(&e.legacy, "legacy", false, "")
		f.BoolVar(&terraform, "use-azurerm-env-vars", false, "")
		f.BoolVar(&pop, "pop-enabled", false, "")
		f.BoolVar(&keep, "disable-environment-override", false, "")
	}, "token-cache-dir cache-dir timeout v username password pop-claims redirect-url login-hint",
		"logtostderr disable-instance-discovery")
	switch {
	case err != nil:
		return token{}, err
	case len(rest) != 1 || rest[0] != "get-token":
		return token{}, &refusal{"of the program kubelogin only get-token is answered here", "correct the exec entry"}
	case pop:
		return token{}, &refusal{"tokens with proof of possession (--pop-enabled) are not made here",
			"put the exporter into an image that has kubelogin, see deploy/outside/"}
	}
	if !keep {
		e.override(terraform)
	}
	return a.entra(ctx, e)
}

// override has the environment win over the arguments, as it does with kubelogin.
func (e *entra) override(terraform bool) {
	variables := []struct {
		p     *string
		names string // the last one that is set wins
	}{
		{&e.login, "AAD_LOGIN_METHOD"},
		{&e.client, "AAD_SERVICE_PRINCIPAL_CLIENT_ID AZURE_CLIENT_ID"},
		{&e.secret, "AAD_SERVICE_PRINCIPAL_CLIENT_SECRET AZURE_CLIENT_SECRET"},
		{&e.certificate, "AAD_SERVICE_PRINCIPAL_CLIENT_CERTIFICATE AZURE_CLIENT_CERTIFICATE_PATH"},
		{&e.certificatePassword, "AAD_SERVICE_PRINCIPAL_CLIENT_CERTIFICATE_PASSWORD AZURE_CLIENT_CERTIFICATE_PASSWORD"},
		{&e.tenant, "AZURE_TENANT_ID"},
		{&e.federatedTokenFile, "AZURE_FEDERATED_TOKEN_FILE"},
	}
	if terraform {
		for i, name := range []string{"CLIENT_ID", "CLIENT_SECRET", "CLIENT_CERTIFICATE_PATH",
			"CLIENT_CERTIFICATE_PASSWORD", "TENANT_ID"} {
			variables[i+1].names = "ARM_" + name
		}
	}
	for _, v := range variables {
		for name := range strings.FieldsSeq(v.names) {
			if value, set := os.LookupEnv(name); set {
				*v.p = value
			}
		}
	}
	if e.login == "workloadidentity" {
		e.client = cmp.Or(os.Getenv("AZURE_CLIENT_ID"), e.client)
		e.authority = cmp.Or(os.Getenv("AZURE_AUTHORITY_HOST"), e.authority)
	}
}

// azure answers in place of the auth-provider azure. In it is the login of a person, which lasts as long as its refresh
// token does; what the environment has for kubelogin wins over it.
func (a *asker) azure(ctx context.Context, _ []string) (token, error) {
	settings, err := authProviderSettings()
	if err != nil {
		return token{}, err
	}
	e := entra{client: settings["client-id"], tenant: settings["tenant-id"], server: settings["apiserver-id"],
		environment: cmp.Or(settings["environment"], "AzurePublicCloud"),
		legacy:      settings["config-mode"] == "" || settings["config-mode"] == "0"}
	if os.Getenv("AAD_LOGIN_METHOD") != "" {
		e.client = "" // that of the person's program
		e.override(false)
		return a.entra(ctx, e)
	}
	if settings["refresh-token"] == "" {
		return token{}, &refusal{"the auth-provider azure has no refresh-token, and AAD_LOGIN_METHOD is not set", entraModes}
	}
	endpoint, err := e.endpoint("/oauth2/token")
	if err != nil {
		return token{}, err
	}
	answer, err := a.post(ctx, endpoint, url.Values{"grant_type": {"refresh_token"}, "client_id": {e.client},
		"refresh_token": {settings["refresh-token"]}, "resource": {e.resource()}},
		"log in again with kubectl or kubelogin, or better: "+entraModes)
	if err != nil {
		return token{}, e.refused("the auth-provider azure", err)
	}
	return answer.token(), nil
}

// entraModes is the way out of a mode that does not work here.
const entraModes = "set AAD_LOGIN_METHOD (or --login in the kubeconfig's exec entry) to one that works here: spn " +
	"(with " +
	"AZURE_CLIENT_ID, AZURE_TENANT_ID, and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH), workloadidentity or msi"

// entra gets a token of Microsoft Entra ID by the client credentials grant:
// https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
func (a *asker) entra(ctx context.Context, e entra) (token, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {e.client}}
	mode, wayOut := "login mode "+name(e.login), ""
	missing := func(value, what string) bool {
		if value == "" {
			wayOut = "set " + what
		}
		return value == ""
	}
	switch {
	case missing(e.server, "--server-id in the kubeconfig's exec entry, for AKS: 6dae42f8-4368-4678-94ff-3960e28e3630"):
	case e.login == "msi":
		t, err := a.managedIdentity(ctx, e)
		return t, e.refused(mode, err)
	case e.login != "spn" && e.login != "workloadidentity":
		return token{}, &refusal{mode + " of kubelogin needs a person or a program that is not here", entraModes}
	case missing(e.client, "AZURE_CLIENT_ID, or --client-id in the kubeconfig's exec entry"):
	case missing(e.tenant, "AZURE_TENANT_ID, or --tenant-id in the kubeconfig's exec entry"):
	case e.login == "workloadidentity":
		if missing(e.federatedTokenFile, "AZURE_FEDERATED_TOKEN_FILE, as the workload identity webhook of AKS does") {
			break
		}
		text, err := os.ReadFile(e.federatedTokenFile)
		if err != nil {
			return token{}, e.refused(mode, &refusal{err.Error(), "mount the file there, or correct AZURE_FEDERATED_TOKEN_FILE"})
		}
		form.Set("client_assertion", strings.TrimSpace(string(text)))
	case e.certificate != "":
	case missing(e.secret, "AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH"):
	default:
		form.Set("client_secret", e.secret)
	}
	if wayOut != "" {
		return token{}, e.refused(mode, &refusal{"it lacks a setting", wayOut})
	}
	path := "/oauth2/v2.0/token"
	if e.legacy {
		path = "/oauth2/token" // whose tokens have the audience spn:SERVER
		form.Set("resource", e.server)
	} else {
		form.Set("scope", strings.TrimSuffix(strings.TrimRight(e.server, "/"), "/.default")+"/.default")
	}
	endpoint, err := e.endpoint(path)
	if err != nil {
		return token{}, err
	}
	if e.login == "spn" && e.certificate != "" {
		assertion, err := e.assertion(endpoint)
		if err != nil {
			return token{}, e.refused(mode, err)
		}
		form.Set("client_assertion", assertion)
	}
	if form.Has("client_assertion") {
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	}
	answer, err := a.post(ctx, endpoint, form, "check the application, its secret, certificate or federated credential "+
		"in Entra, and the tenant")
	if err != nil {
		return token{}, e.refused(mode, err)
	}
	return answer.token(), nil
}

// refused has an error name the mode; nil stays nil.
func (e *entra) refused(mode string, err error) error {
	if r, ok := errors.AsType[*refusal](err); ok {
		return &refusal{fmt.Sprintf("no token from Entra by %s: %s", mode, r.what), r.wayOut}
	}
	return err
}

// endpoint is the address of the tenant's token endpoint. Secrets are sent to it.
func (e *entra) endpoint(path string) (string, error) {
	authority := e.authority
	if authority == "" {
		switch strings.ToLower(e.environment) {
		case "azurecloud", "azurepublic", "azurepubliccloud":
			authority = "https://login.microsoftonline.com"
		case "azureusgovernment", "azureusgovernmentcloud":
			authority = "https://login.microsoftonline.us"
		case "azurechinacloud":
			authority = "https://login.chinacloudapi.cn"
		default:
			return "", &refusal{"there is no Azure environment " + name(e.environment),
				"set --environment to AzurePublicCloud, AzureUSGovernmentCloud or AzureChinaCloud, or set --authority-host"}
		}
	}
	u, err := url.Parse(authority)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return "", &refusal{"the authority host " + name(authority) + " is no address that begins with https://",
			"correct --authority-host or AZURE_AUTHORITY_HOST"}
	}
	return u.JoinPath(url.PathEscape(e.tenant), path).String(), nil
}

// resource is the server in the words of the first version of the endpoints.
func (e *entra) resource() string {
	if e.legacy {
		return "spn:" + e.server
	}
	return e.server
}

// assertion is signed with the certificate's key, as MSAL does it for Entra:
// https://learn.microsoft.com/entra/identity-platform/certificate-credentials
func (e *entra) assertion(endpoint string) (string, error) {
	const wayOut = "give it a file with the certificate and its RSA key, as PEM or, for a name that ends in .pfx, as " +
		"PKCS#12 " +
		"of the older kind (openssl pkcs12 -legacy), and its password"
	certificate, key, err := readCertificate(e.certificate, e.certificatePassword)
	if err != nil {
		return "", &refusal{fmt.Sprintf("the certificate %s: %s", name(e.certificate), err), wayOut}
	}
	now := time.Now()
	thumbprint := sha256.Sum256(certificate.Raw)
	t := jwt.NewWithClaims(jwt.SigningMethodPS256, jwt.MapClaims{"aud": endpoint, "iss": e.client, "sub": e.client,
		"jti": uuid.NewString(), "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix()})
	t.Header["x5t#S256"] = base64.RawURLEncoding.EncodeToString(thumbprint[:])
	t.Header["x5c"] = []string{base64.StdEncoding.EncodeToString(certificate.Raw)}
	return t.SignedString(key)
}

// readCertificate reads the certificate and its key out of one file.
func readCertificate(file, password string) (*x509.Certificate, *rsa.PrivateKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, deepest(err)
	}
	var blocks []*pem.Block
	if strings.HasSuffix(file, ".pfx") {
		if blocks, err = pkcs12.ToPEM(text, password); err != nil {
			return nil, nil, err
		}
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, block)
	}
	var key *rsa.PrivateKey
	for _, block := range blocks {
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		if k, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
			key = k
		} else if k, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			key, _ = k.(*rsa.PrivateKey)
		}
	}
	if key == nil {
		return nil, nil, errors.New("there is no RSA key in it")
	}
	for _, block := range blocks {
		c, err := x509.ParseCertificate(block.Bytes)
		if err == nil && block.Type == "CERTIFICATE" && key.PublicKey.Equal(c.PublicKey) {
			return c, key, nil
		}
	}
	return nil, nil, errors.New("there is no certificate of its key in it")
}

// managedIdentity gets a token where Azure gives the process an identity: in App Service and Container Apps, which set
// two variables, or on a virtual machine.
// https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token
// https://learn.microsoft.com/azure/app-service/overview-managed-identity
func (a *asker) managedIdentity(ctx context.Context, e entra) (token, error) {
	endpoint, header, value := os.Getenv("IDENTITY_ENDPOINT"), "X-Identity-Header", os.Getenv("IDENTITY_HEADER")
	query := url.Values{"api-version": {"2019-08-01"}, "resource": {strings.TrimSuffix(e.server, "/.default")}}
	resource, where := "mi_res_id", "IDENTITY_ENDPOINT"
	if endpoint == "" || value == "" {
		if os.Getenv("IMDS_ENDPOINT") != "" || os.Getenv("MSI_ENDPOINT") != "" {
			return token{}, &refusal{"this kind of managed identity (Azure Arc, Cloud Shell, Azure ML) is not known here",
				"use spn or workloadidentity"}
		}
		endpoint, header, value = "http://169.254.169.254/metadata/identity/oauth2/token", "Metadata", "true"
		query.Set("api-version", "2018-02-01")
		resource, where = "msi_res_id", "the virtual machine's metadata, as IDENTITY_ENDPOINT is not set"
	}
	if e.client != "" {
		query.Set("client_id", e.client)
	} else if e.identityResource != "" {
		query.Set(resource, e.identityResource)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"?"+query.Encode(), nil)
	if err != nil {
		return token{}, &refusal{"IDENTITY_ENDPOINT is no address", "have Azure set it"}
	}
	r.Header.Set(header, value)
	answer, err := a.token(r, "assign the identity to what this runs on, and name one of several by --client-id")
	if refused, ok := errors.AsType[*refusal](err); ok {
		if refused.wayOut == CheckNetwork {
			refused.wayOut = "run this where Azure gives it a managed identity, or use spn or workloadidentity"
		}
		return token{}, &refusal{where + ": " + refused.what, refused.wayOut}
	}
	if err != nil {
		return token{}, err
	}
	return answer.token(), nil
}

// authProviderSettings are those of the auth-provider that is answered in place of.
func authProviderSettings() (map[string]string, error) {
	var settings map[string]string
	if err := json.Unmarshal([]byte(os.Getenv(AuthProviderSettings)), &settings); err != nil {
		return nil, &refusal{AuthProviderSettings + " has no settings of an auth-provider", "set it as kube does"}
	}
	return settings, nil
}
