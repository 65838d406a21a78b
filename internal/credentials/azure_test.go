package credentials

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"metrics-server-prom/internal/credentials/standin"
)

const (
	tenant = "72f988bf-0000-0000-0000-2d7cd011db47"
	client = "9e3f0000-0000-0000-0000-00000000c11e"
	server = "6dae42f8-4368-4678-94ff-3960e28e3630" // that of AKS
)

// kubeloginArgs are as kubelogin convert-kubeconfig writes them.
func kubeloginArgs(mode string, more ...string) []string {
	return append([]string{"kubelogin", "get-token", "--login", mode, "--server-id", server}, more...)
}

func spn(more ...string) []string {
	return kubeloginArgs("spn", append([]string{"--client-id", client, "--tenant-id", tenant, "--environment",
		"AzurePublicCloud"},
		more...)...)
}

// inEntra is the application with a secret.
func inEntra(_ *testing.T, c *standin.Clouds) {
	c.Azure.Tenant, c.Azure.Client, c.Azure.Server, c.Azure.Secret = tenant, client, server, secretMark+"-secret"
}

func federated(t *testing.T, c *standin.Clouds) {
	inEntra(t, c)
	c.Azure.Federated = secretMark + "-federated"
	file(t, c, "token", c.Azure.Federated+"\n")
}

// withCertificate is the application with a certificate, which is written as text makes it of certificate and key.
func withCertificate(name string, text func(certificate, key *pem.Block) string) func(*testing.T, *standin.Clouds) {
	return func(t *testing.T, c *standin.Clouds) {
		inEntra(t, c)
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		leaf := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		if c.Azure.Certificate, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		file(t, c, name, text(&pem.Block{Type: "CERTIFICATE", Bytes: der},
			&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	}
}

func pemFile(blocks ...*pem.Block) string {
	var b strings.Builder
	for _, block := range blocks {
		pem.Encode(&b, block)
	}
	return b.String()
}

// pkcs12File was made by openssl 3.0 pkcs12 -export -legacy, with the password "changeit".
func pkcs12File(t *testing.T, c *standin.Clouds) {
	inEntra(t, c)
	der, err := base64.StdEncoding.DecodeString(pkcs12Certificate)
	if err == nil {
		c.Azure.Certificate, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := base64.StdEncoding.DecodeString(pkcs12Base64)
	if err != nil {
		t.Fatal(err)
	}
	file(t, c, "client.pfx", string(text))
}

func TestAKS(t *testing.T) {
	const (
		application = "application " + client
		entra       = "login.microsoftonline.com: POST /" + tenant + "/oauth2/v2.0/token client_credentials"
		vm          = "169.254.169.254: GET /metadata/identity/oauth2/token "
	)
	secretVariable := "AAD_SERVICE_PRINCIPAL_CLIENT_SECRET=" + secretMark + "-secret"
	bothPEM := func(c, k *pem.Block) string { return pemFile(k, c) }
	provider := func(settings string) []string { return []string{AuthProviderSettings + "={" + settings + "}"} }
	const person = `"client-id":"` + client + `","tenant-id":"` + tenant + `","apiserver-id":"` + server + `",` +
		`"environment":"AzurePublicCloud","refresh-token":"` + secretMark + `-refresh"`
	withPerson := func(t *testing.T, c *standin.Clouds) { inEntra(t, c); c.Azure.Refresh = secretMark + "-refresh" }
	for name, a := range map[string]asked{
		"spn with a secret":                            {prepare: inEntra, args: spn("--client-secret", secretMark+"-secret"), holder: application, seen: entra},
		"spn with a secret of kubelogin's environment": {env: []string{secretVariable}, prepare: inEntra, args: spn(), holder: application},
		"spn of Azure's environment alone": {prepare: inEntra, args: []string{"kubelogin", "get-token", "--server-id", server},
			env: []string{"AAD_LOGIN_METHOD=spn", "AZURE_CLIENT_ID=" + client, "AZURE_TENANT_ID=" + tenant,
				"AZURE_CLIENT_SECRET=" + secretMark + "-secret"}, holder: application},
		"spn of Terraform's environment": {prepare: inEntra, args: kubeloginArgs("spn", "--use-azurerm-env-vars"),
			env: []string{"ARM_CLIENT_ID=" + client, "ARM_TENANT_ID=" + tenant, "ARM_CLIENT_SECRET=" + secretMark + "-secret",
				"AZURE_CLIENT_ID=another"}, holder: application},
		"the environment wins over arguments": {prepare: inEntra, args: spn("--client-secret=wrong", "-t", "wrong"),
			env: []string{"AZURE_TENANT_ID=" + tenant, secretVariable}, holder: application},
		"Azure's names win over kubelogin's": {prepare: inEntra, args: spn(), env: []string{"AAD_SERVICE_PRINCIPAL_CLIENT_SECRET=wrong",
			"AZURE_CLIENT_SECRET=" + secretMark + "-secret"}, holder: application},
		"--disable-environment-override": {prepare: inEntra, args: spn("--client-secret="+secretMark+"-secret", "--disable-environment-override"),
			env: []string{"AZURE_CLIENT_SECRET=wrong", "AAD_LOGIN_METHOD=msi"}, holder: application},
		"another cloud": {prepare: inEntra, args: spn("-e", "AzureUSGovernmentCloud"), env: []string{secretVariable}, holder: application,
			seen: "login.microsoftonline.us: POST /" + tenant + "/oauth2/v2.0/token"},
		"China": {prepare: inEntra, args: spn("--environment=AzureChinaCloud"), env: []string{secretVariable}, holder: application,
			seen: "login.chinacloudapi.cn: POST "},
		"--legacy": {prepare: inEntra, args: spn("--legacy"), env: []string{secretVariable}, holder: application + " for " + server,
			seen: "login.microsoftonline.com: POST /" + tenant + "/oauth2/token client_credentials"},
		"spn with a certificate": {prepare: withCertificate("client.pem", bothPEM), args: spn("--client-certificate", "CLOUDS/client.pem"),
			holder: application, seen: entra},
		"spn with a certificate of the environment": {prepare: withCertificate("c", bothPEM), args: spn(),
			env: []string{"AZURE_CLIENT_CERTIFICATE_PATH=CLOUDS/c"}, holder: application},
		"spn with a certificate in PKCS#12": {prepare: pkcs12File, args: spn("--client-certificate=CLOUDS/client.pfx"),
			env: []string{"AAD_SERVICE_PRINCIPAL_CLIENT_CERTIFICATE_PASSWORD=changeit"}, holder: application},
		"workloadidentity, as AKS' webhook sets it": {prepare: federated, args: kubeloginArgs("workloadidentity"),
			env: []string{"AZURE_CLIENT_ID=" + client, "AZURE_TENANT_ID=" + tenant, "AZURE_FEDERATED_TOKEN_FILE=CLOUDS/token",
				"AZURE_AUTHORITY_HOST=https://login.microsoftonline.com/"}, holder: application, seen: entra},
		"workloadidentity by arguments": {prepare: federated, args: kubeloginArgs("workloadidentity", "--client-id", client, "--tenant-id",
			tenant, "--federated-token-file", "CLOUDS/token", "--authority-host", "https://login.microsoftonline.us"),
			holder: application,
			seen:   "login.microsoftonline.us: "},
		"msi on a virtual machine": {prepare: inEntra, args: kubeloginArgs("msi"), holder: "managed identity", seen: vm},
		"msi of several identities": {prepare: func(t *testing.T, c *standin.Clouds) { inEntra(t, c); c.Azure.Identity = client },
			args: kubeloginArgs("msi", "--client-id="+client), holder: "managed identity", seen: vm + client},
		"msi by the identity's resource": {prepare: func(t *testing.T, c *standin.Clouds) { inEntra(t, c); c.Azure.Identity = "/x" },
			args: kubeloginArgs("msi", "--identity-resource-id", "/x"), holder: "managed identity", seen: vm + "/x"},
		"msi in App Service and Container Apps": {prepare: func(t *testing.T, c *standin.Clouds) {
			inEntra(t, c)
			c.Azure.IdentityHeader = secretMark + "-header"
		}, env: []string{"IDENTITY_ENDPOINT=http://identity.example/msi/token", "IDENTITY_HEADER=" + secretMark + "-header"},
			args: kubeloginArgs("msi"), holder: "managed identity", seen: "identity.example: GET /msi/token"},
		"the auth-provider azure, a person's login": {prepare: withPerson, env: provider(person), args: []string{"auth-provider azure"},
			holder: "person for spn:" + server, seen: "login.microsoftonline.com: POST /" + tenant +
				"/oauth2/token refresh_token"},
		"the same without the prefix": {prepare: withPerson, env: provider(person + `,"config-mode":"1"`), args: []string{"auth-provider azure"},
			holder: "person for " + server},
		"the auth-provider azure with kubelogin's environment": {prepare: withPerson, args: []string{"auth-provider azure"},
			env:    append(provider(person+`,"config-mode":"1"`), "AAD_LOGIN_METHOD=msi"),
			holder: "managed identity"},

		"devicecode, which is kubelogin's default": {args: []string{"kubelogin", "get-token", "--server-id", server},
			problem: "login mode devicecode of kubelogin needs a person or a program that is not here",
			wayOut:  "set AAD_LOGIN_METHOD (or --login in the kubeconfig's exec entry) to one that works here: spn (with "},
		"azurecli":    {args: kubeloginArgs("azurecli"), problem: "login mode azurecli", wayOut: "workloadidentity or msi"},
		"interactive": {args: kubeloginArgs("interactive", "--redirect-url=x"), problem: "login mode interactive", wayOut: "workloadidentity or msi"},
		"proof of possession": {args: spn("--pop-enabled", "--pop-claims=u=x"), problem: "proof of possession (--pop-enabled)",
			wayOut: "an image that has kubelogin"},
		"no server": {args: []string{"kubelogin", "get-token", "-l", "msi"}, problem: "it lacks a setting", wayOut: "set --server-id"},
		"no client": {args: kubeloginArgs("spn"), problem: "no token from Entra by login mode spn: it lacks", wayOut: "set AZURE_CLIENT_ID"},
		"no tenant": {args: kubeloginArgs("spn", "--client-id=c"), problem: "it lacks a setting", wayOut: "set AZURE_TENANT_ID"},
		"no secret": {args: spn(), problem: "it lacks a setting", wayOut: "set AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH"},
		"no token file": {args: kubeloginArgs("workloadidentity", "--client-id=c", "-t=t"), problem: "it lacks a setting",
			wayOut: "set AZURE_FEDERATED_TOKEN_FILE"},
		"a token file that is not there": {args: kubeloginArgs("workloadidentity", "--client-id=c", "-t=t", "--federated-token-file=/gone"),
			problem: "open /gone: no such file", wayOut: "mount the file there"},
		"a wrong secret, which is repeated": {prepare: func(t *testing.T, c *standin.Clouds) { inEntra(t, c); c.Azure.Secret = "another" },
			args: spn("--client-secret", secretMark+"-secret"),
			problem: "no token from Entra by login mode spn: login.microsoftonline.com answers 401 Unauthorized: " +
				"invalid_client AADSTS7000215: " +
				"Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not " +
				"the client " +
				"secret ID: …", wayOut: "check the application, its secret, certificate or federated credential"},
		"a cloud that cannot be reached": {env: []string{"HTTPS_PROXY=http://127.0.0.1:1"}, args: spn("--client-secret=x"),
			problem: "connection refused", wayOut: CheckNetwork},
		"a wrong tenant": {prepare: inEntra, args: spn("--client-secret=x", "--tenant-id=other"), problem: "AADSTS90002: Tenant 'other' not found.",
			wayOut: "and the tenant"},
		"a federated token that is refused, and repeated": {prepare: func(t *testing.T, c *standin.Clouds) { federated(t, c); c.Azure.Federated = "" },
			args: kubeloginArgs("workloadidentity", "--client-id="+client, "-t="+tenant,
				"--federated-token-file=CLOUDS/token"),
			problem: "AADSTS700212: No matching federated identity record found for …", wayOut: "federated credential"},
		"a certificate that is another one": {prepare: func(t *testing.T, c *standin.Clouds) {
			withCertificate("other", bothPEM)(t, c)
			withCertificate("c", bothPEM)(t, c)
		}, args: spn("--client-certificate=CLOUDS/other"), problem: "AADSTS700027: the certificate with thumbprint ",
			wayOut: "check the application"},
		"a certificate without its key": {prepare: withCertificate("c", func(c, _ *pem.Block) string { return pemFile(c) }),
			args: spn("--client-certificate=CLOUDS/c"), problem: "the certificate CLOUDS/c: there is no RSA key in it",
			wayOut: "as PEM or"},
		"a key without its certificate": {prepare: withCertificate("c", func(_, k *pem.Block) string { return pemFile(k) }),
			args: spn("--client-certificate=CLOUDS/c"), problem: "there is no certificate of its key in it",
			wayOut: "as PEM or"},
		"a wrong password": {prepare: pkcs12File, args: spn("--client-certificate=CLOUDS/client.pfx", "--client-certificate-password="+secretMark),
			problem: "the certificate CLOUDS/client.pfx: pkcs12: decryption password incorrect", wayOut: "and its password"},
		"a clock that is wrong": {prepare: func(t *testing.T, c *standin.Clouds) {
			withCertificate("c", bothPEM)(t, c)
			c.Ahead = time.Hour + 30*time.Second
		}, args: spn("--client-certificate=CLOUDS/c"), problem: "client assertion is not within its valid time range",
			wayOut: "the clock here is 1h0m"},
		"an unknown cloud": {args: spn("--client-secret=x", "-e=AzureStackCloud"), problem: "there is no Azure environment AzureStackCloud",
			wayOut: "or set --authority-host"},
		"an authority that is not encrypted": {args: spn("--client-secret=x", "--authority-host=http://login.example"),
			problem: "the authority host http://login.example is no address that begins with https://",
			wayOut:  "correct --authority-host"},
		"no identity at a virtual machine": {prepare: func(t *testing.T, c *standin.Clouds) { inEntra(t, c); c.Azure.Identity = "other" },
			args: kubeloginArgs("msi"), problem: "by login mode msi: the virtual machine's metadata, as IDENTITY_ENDPOINT " +
				"is not set: " +
				"169.254.169.254 answers 400 Bad Request: invalid_request Identity not found", wayOut: "assign the identity"},
		"Azure Arc": {env: []string{"IDENTITY_ENDPOINT=x", "IMDS_ENDPOINT=x"}, args: kubeloginArgs("msi"), problem: "Azure Arc",
			wayOut: "use spn or workloadidentity"},
		"a person's login that has ended": {prepare: inEntra, env: provider(person), args: []string{"auth-provider azure"},
			problem: "no token from Entra by the auth-provider azure: login.microsoftonline.com answers 400 Bad Request: " +
				"invalid_grant " +
				"AADSTS700082: The refresh token has expired: …", wayOut: "log in again with kubectl or kubelogin, or better: " +
				"set AAD_LOGIN_METHOD"},
		"the auth-provider azure without a refresh token": {env: provider(`"client-id":"c"`), args: []string{"auth-provider azure"},
			problem: "the auth-provider azure has no refresh-token", wayOut: "set AAD_LOGIN_METHOD"},
	} {
		t.Run(name, func(t *testing.T) { a.check(t) })
	}
}

func TestAuthProviderOIDC(t *testing.T) {
	idToken := func(ends time.Time) string {
		part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
		return part(`{"alg":"none"}`) + "." + part(`{"exp":`+big.NewInt(ends.Unix()).String()+`}`) + ".c2ln"
	}
	valid, ended, renewed := idToken(time.Now().Add(time.Hour)), idToken(time.Now().Add(-time.Hour)),
		idToken(time.Now().Add(2*time.Hour))
	const refresh = `"idp-issuer-url":"https://issuer.example","client-id":"` + client + `","client-secret":"` +
		secretMark + `-secret",` +
		`"refresh-token":"` + secretMark + `-refresh",`
	clouds := start(t, t.TempDir(), func(c *standin.Clouds) {
		inEntra(t, c)
		c.Azure.Issuer, c.Azure.IDToken, c.Azure.Refresh = "https://issuer.example", renewed, secretMark+"-refresh"
	})
	authority := strings.TrimPrefix(clouds.Env()[3], "SSL_CERT_FILE=")
	for name, c := range map[string]struct{ settings, want, problem, wayOut string }{
		"a token that is valid": {`"id-token":"` + valid + `"`, valid, "", ""},
		"one that has ended":    {refresh + `"id-token":"` + ended + `"`, renewed, "", ""},
		"none":                  {refresh + `"idp-certificate-authority":"` + authority + `"`, renewed, "", ""},
		"an authority of another": {refresh + `"idp-certificate-authority-data":"` + base64.StdEncoding.EncodeToString([]byte(pemFile(
			&pem.Block{Type: "CERTIFICATE", Bytes: must64(t, pkcs12Certificate)}))) + `"`, "",
			"https://issuer.example/.well-known/openid-configuration: ", "check idp-issuer-url, idp-certificate-authority"},
		"no refresh token": {`"id-token":"` + ended + `"`, "", "has no id-token that is still valid, and no idp-issuer-url and refresh-token",
			"log in again and mount the new kubeconfig"},
		"a refresh token that is refused, and repeated": {strings.Replace(refresh, "-refresh", "-other", 1) + `"id-token":"x"`, "",
			"issuer.example answers 400 Bad Request: invalid_grant …", "log in again"},
		"no authority": {refresh + `"idp-certificate-authority":"/gone"`, "", "idp-certificate-authority cannot be read", "correct it"},
	} {
		t.Run(name, func(t *testing.T) {
			printed, lines := ask(t, append(clouds.Env(), AuthProviderSettings+"={"+c.settings+"}"), "auth-provider oidc")
			switch shown := strings.Join(lines, "\n"); {
			case c.want != "" && (printed == nil || printed.Status.Token != c.want):
				t.Errorf("%v %s", printed, shown)
			case c.want == "" && (printed != nil || !strings.Contains(shown, c.problem) || !strings.Contains(lines[1],
				c.wayOut)):
				t.Errorf("%s\nwant: %s\n%s", shown, c.problem, c.wayOut)
			case strings.Contains(shown, secretMark):
				t.Errorf("a secret is shown: %s", shown)
			}
		})
	}
}

func must64(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Of pkcs12File: the certificate, and the file.
const (
	pkcs12Certificate = "" +
		"MIIDATCCAemgAwIBAgIUQyiCD/CQ10/5pjTtlg/EfkhplHwwDQYJKoZIhvcNAQELBQAwDzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjYwMTIzMz" +
		"NaGA8yMTI2MTEwMjAxMjMzM1owDzENMAsGA1UEAwwEdGVzdDCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBALKBgo9WMDIcbkncwbH3" +
		"CCaDkIIqaCxDYaMRyC4qcQDDjWGf0B+Uu2kVv9K4pmCkRvaJAgYJSaqLjTTmyLHwQE9spWSRi5KJikFILySqkLYvBQmrdkkvBEc6Nhac9/Lbsf" +
		"L2vVabNYwM3nGtJXCPEbaLDKXyvtOEHPDgtUnWhQJVcwmrm91ZF3wCi+ihLpdu4+WvXeKjkZJ9La0VTFT8qOzXU9Pcei3ZSjH3ieOtoXCS7kWL" +
		"/buHWV6F4OFijK0aHf1a3hdHIQLISTmsa4CqPc4mXH8JhmrDUl2ol+o/ns5jPCttHxDrtDPGT9aLuCK9HtGSbF52TIYvhDZ7CO3+jPMCAwEAAa" +
		"NTMFEwHQYDVR0OBBYEFF0mInnNRcV+MIi3a/SLPf9jVoA0MB8GA1UdIwQYMBaAFF0mInnNRcV+MIi3a/SLPf9jVoA0MA8GA1UdEwEB/wQFMAMB" +
		"Af8wDQYJKoZIhvcNAQELBQADggEBAGL6H8P49Mc5OJjraxrdWZ8dGgbfk3lVcmoTU60TT9ow1UEwlkDw4DFR9cBmmFhz7MFZLjaX/OvLpj/Ri0" +
		"/3Eycik8WXmza+ifhFABOdUwJw8s9pf3Hp/8w7SLOXbGN101dTR/sy3noYLT2qRFVyCM+8GtRYWQW8eORmo96Gndn20xeTc2z1YHqA5ZpdKrgR" +
		"+waGVXNmMRYPN8TkQVTlefrTUKDNuV4M70YG74bbCgVx+UplfsRMv971zcqU4zB9r+p54+l3VRS+12n/IrBM+1yNQ0IkO8aY2lI+pxAw2luQM3" +
		"z3vfoCZd6d3tCY7JAoGyicNvj8hZ+HehLoizLtmNw="
	pkcs12Base64 = "" +
		"MIIJQQIBAzCCCQcGCSqGSIb3DQEHAaCCCPgEggj0MIII8DCCA6cGCSqGSIb3DQEHBqCCA5gwggOUAgEAMIIDjQYJKoZIhvcNAQcBMBwGCiqGSI" +
		"b3DQEMAQYwDgQIdxTNFRKnm68CAggAgIIDYCp3Uu+L18/ReDGGVkVGSbZ6BFYc9GlSk/FcKTkRDTe5fTC0fH+nQvxA+NIEJHJ7aVpbuXFpeaw2" +
		"fX5bLrefqnNVr4sjcAWysw5k2snscw9GTLTREzmb3IlpYbPQpxeU1dqgr45Ij8AT9UIHBxNfHjoLDSNJ1gc6L+TZXrRhHQIb5vzdFNzhyIVj9o" +
		"vAwB9YGE2Zs+5FxxqWXfKwI5ggPIt10uzS39F0cmV8VqYTZqge0NgN4fNxCK6tXHmdT3ct+ynkS5quxgSyzz09b3ib3goCqof4AvrT2NgkZ7Xr" +
		"+XGlGdhaAHwb8a2kaX7D8bg5yhnEVm/5bsNiI/ChNv15zbEIkK+w0HzqidI3eKyex9rXV1R+JepuDgUlEljXo2PFsoPluL66ENeDZLCKJF8r1Z" +
		"vJKVlcou3qsPTjWeGQV2RDiJ99sEKlQcvOrYspp/Aurz8YJCcgQRoXYEhJd2HlSyeaOM2kciJGMpuKmGVmmHHwmsdxEsg01wJyHSiaWSUpb0Nl" +
		"YDDXPKSVmDNWFRR8IMPCdgN+b6LkhnUZfhh6ToAQcJ6iDbZmYfSvx88Pu9nkjiKKRryBkY1AFbiUuL66/ybRn9xbRDA8PVMiyTfirvxBosNbwo" +
		"vnZKTO3qwBGL/UIXhjtTJJetNFzNLGr4eUa7yb+M8Xa8me8G037LIanYmIEJ5TozB4xGtCB4+p/DS6yguF8FGMSV0AODZXvygsL3fxiiU0N+fQ" +
		"CT5jEGB8Pg1RfJ/4WbSEMbgwxGI5fOYbNH4c2BpJB86nqmBlXZPB1ZpQRaIqVAGUT8VoaecH7J5wla4UHZ8yUf7WDaWiHfk1GQ3jmLRY4+xo4E" +
		"EMYMH8SuKllL7D/oISPECUFB/PNDgwdAFlGnzxZvxKts9Gx2desOJGZXxVCi8yaYpnt9RB7ToqqIlfY1lgiyz8u8iVQCMOVxxgbOrpv1FF9UWd" +
		"EBvmb8PI6ZRtj1d9LZ/ClCM/VCbnZB2B+9VV0d0cMHqwdgcOWHYxThLUUYB7c5LGpGOL6t6OM5vyqD3IdCjwWFeUxkNKmqXCWKLaqPDbmKKVRx" +
		"15IPLs9yOMKvHrk/i04DMKawbLgLwgl1Dophkbkr7U4EPEfYkERh/U/IebDW5iGppbw7+JyK0S0lC2/7oz7s16XDCCBUEGCSqGSIb3DQEHAaCC" +
		"BTIEggUuMIIFKjCCBSYGCyqGSIb3DQEMCgECoIIE7jCCBOowHAYKKoZIhvcNAQwBAzAOBAi3Gl9wB7Sv/wICCAAEggTIwlPYPWfs/ankpZodDb" +
		"bfdKseAzwYUfsIWXTWIneVJcbKbUfxpb6KjbXANL36xKw6GhSIr1A7Y5QS1ZP/jc3y+R1hMTd0ZEikhwNmTvv5zkuyJOd8K9jEgj0CIMujIL8y" +
		"x6gIigC7i64C2Wr/k3BAbI7bzawWhavI+pB92xuoIPEst7etD6CVVc48MSyY9j4EYKMZgwq1ia2pyWWSF73xRyTCoG+6p4ijWOyOiG2D4jqP4k" +
		"dAJ3LWUra+eT9N6C3IrVdvsVgL48H7tVdpsyq5Mk9szuPgEwSJhP0+L/5cVeXQrGwc2NKm/tMon9Q1POEUjdHHo+AYw3rV0qDm8Fzd1rPwpr6G" +
		"Mi+SFB4uld3u0yzcbsUcSQz70gms7/Ee6yZflYBKTP6t3sD0/XS+kMptX/2oXRuiG+qkF+3aRw2t6tcN9X708buHfMudHChxtZ7Lhe+j0NXQNu" +
		"4CWnGyMPNWcMfSC/mjZiWftgPlXiYdoFki1tNksRzlmRuY3+cH/ntbRdM/Nbnx2zH1XH/bI0wq8cELPUtEiRqAxOhbfQAirAM+t4/oVpfx+I19" +
		"H32ZRsFi6D6/I8dD3k3M5nfY83QOv2+Flvjfg8O8SXOvjjm6VH9SyI697h18JegrkLjYZr4D3itKTg7gKPhqH0lD8KBudOOGG5ifkT595XX01L" +
		"ruhRgkC8JMYCV1AATGFO+CenfA9qohsrv0Y3iLnGs1N1WlpyEQDsXC8RiPuqvJ15XqQEhpWuGcOFIdnpTBjw88PQ6v6a5ULwBK9OiXi/oR9nPI" +
		"fgfNeKZG7lSzoA9nLN6JLy/hm/rvwtCsf9L7bxdWpBbHrG+vstKRRQJxEEhGcX3zbI9Dv+IDolP+5JCBpwLLsIaPhq4Aq3RlZMayBaHbEwoh8o" +
		"hUyCUjYLBn6yyTJbr7Ay0UlLXeGDlr6KQVpLIK3K8b/w5bkAAg07uyVbRTekxnrQmNm1vL2CMPhp2v4PAQJ8q2XO19EpWDaA/1yUVvA/PVmkJ8" +
		"RSwlMNA36sH3TeBUJG1bau+rvfZeiz8ejH6eVNiP82lDvy7eS/LlztonkcfnYLqEKNZO/s5befpehZRtuI+sXZiPUMmSErQ07mVJhegV/DCJ7V" +
		"7GF0BNEVBQFksGKs0VteBJwHUkSCJOd1k98I6tl+rLpJMoQa9KmCLBBGFH2F1AtHkq0dZgO3kUfjLhlHyA7PCUzKcWw7JH9bMXvZrFxJrExw0O" +
		"yRnp+f6kki5hVlqzU0LAQR1YCGe6jtyYB1ivJgcxZeeSMR+KtZGwb2fLqUlFOXLZGG1KISUjtVT8JKOL/6JYC4pu4C6FqOItuGV6dTMmpZ2POt" +
		"jRbkfn4zK0y2SYryupgj3TCkEj5oexKOr+0HiFGCsEaMJ/R7xnTOcyn0ePOYKoZzaVorN54yDAVyK1ECScekfKs8PRgUhaIzef7tP9hFHnIPhn" +
		"Ezq3bKPh1uuMIfEWMy78hvs96RLE+sWKGzs9F17O/1k6JQcmKObteKd176IQYf9scADKAGfP7+eP3jBnhD8MWg7hf0ScWqoCgB95i0q8V2/NjQ" +
		"cvTBwkA99vu36ygjAl6DYDnP6yQA6I6NIa2M9gWVSw38C7UURsV2KXHG7wC2Y3HZeTRHvZu8TZMSUwIwYJKoZIhvcNAQkVMRYEFKI4o0y+XQMh" +
		"nOTG/olJ98XmRezJMDEwITAJBgUrDgMCGgUABBQgIZgfIFY/z6Bg9UP4JftDWVn/WQQI+mHhZZ4COUQCAggA"
)
