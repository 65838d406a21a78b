package credentials

import (
	"strings"
	"testing"
	"time"

	"metrics-server-prom/internal/credentials/standin"
)

// writes puts a file of Google's where a case wants it, made by the stand-in.
func writes(name string, text func(*standin.Clouds) string) func(*testing.T, *standin.Clouds) {
	return func(t *testing.T, c *standin.Clouds) { file(t, c, name, text(c)) }
}

func accountKey(c *standin.Clouds) string { return c.Google.AccountKey() }
func googleUser(c *standin.Clouds) string { return c.Google.User() }

func TestGKE(t *testing.T) {
	const (
		account    = "account@project.iam.gserviceaccount.com"
		reader     = "reader@project.iam.gserviceaccount.com"
		wellKnown  = "home/.config/gcloud/application_default_credentials.json"
		jwtBearer  = "oauth2.googleapis.com: POST /token urn:ietf:params:oauth:grant-type:jwt-bearer"
		metadata   = "169.254.169.254: GET /computeMetadata/v1/"
		asMetadata = metadata + "project/project-id\n" + metadata + "instance/service-accounts/default/token"
		generate   = "iamcredentials.googleapis.com: POST /v1/projects/-/serviceAccounts/" + reader + ":generateAccessToken"
	)
	plugin := func(args ...string) []string { return append([]string{"gke-gcloud-auth-plugin"}, args...) }
	keyFile := []string{googleFile + "=CLOUDS/key.json"}
	none := func(_ *testing.T, c *standin.Clouds) { c.Google.Account = "" }
	for name, a := range map[string]asked{
		"a service account's key": {env: keyFile, prepare: writes("key.json", accountKey), args: plugin(), holder: account, seen: jwtBearer},
		"as the plugin wants it said": {env: keyFile, prepare: writes("key.json", accountKey),
			args: plugin("--use_application_default_credentials"), holder: account, seen: jwtBearer},
		"the same with hyphens, and what matters not": {env: keyFile, prepare: writes("key.json", accountKey),
			args: plugin("--use-application-default-credentials", "--project=p", "--location", "l", "-v=4",
				"--logtostderr=false"), holder: account},
		"a person's login": {prepare: writes(wellKnown, googleUser), args: plugin(), holder: "me@example.com",
			seen: "oauth2.googleapis.com: POST /token refresh_token"},
		"an external account": {env: []string{googleFile + "=CLOUDS/pool.json"}, prepare: func(t *testing.T, c *standin.Clouds) {
			path, err := c.File("subject", c.Google.Subject)
			if err != nil {
				t.Fatal(err)
			}
			file(t, c, "pool.json", c.Google.ExternalAccount(path))
		}, args: plugin(), holder: "principal of the pool",
			seen: "sts.googleapis.com: POST /v1/token urn:ietf:params:oauth:grant-type:token-exchange"},
		"the metadata server": {env: []string{"METADATA"}, args: plugin(), holder: account, seen: asMetadata},
		"an account of gcloud": {prepare: writes("home/.config/gcloud/legacy_credentials/me@example.com/adc.json", googleUser),
			args: plugin("--account=me@example.com"), holder: "me@example.com"},
		"an account of gcloud that is configured elsewhere": {env: []string{"CLOUDSDK_CONFIG=CLOUDS/gcloud", "CLOUDSDK_CORE_ACCOUNT=a"},
			prepare: writes("gcloud/legacy_credentials/a/adc.json", googleUser), args: plugin(), holder: "me@example.com"},
		"--impersonate_service_account": {env: []string{"METADATA"}, args: plugin("--impersonate_service_account", reader), holder: reader,
			seen: asMetadata + "\n" + generate},
		"an impersonation of the environment": {env: append([]string{"CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT=" + reader}, keyFile...),
			prepare: writes("key.json", accountKey), args: plugin(), holder: reader, seen: jwtBearer + "\n" + generate},
		"the application default credentials, whatever gcloud is set to": {
			env: append([]string{"CLOUDSDK_AUTH_ACCESS_TOKEN=x", "CLOUDSDK_CORE_ACCOUNT=x",
				"CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT=x"},
				keyFile...), prepare: writes("key.json", accountKey), args: plugin("--use_application_default_credentials"),
			holder: account},
		"the auth-provider gcp": {env: append([]string{AuthProviderSettings + `={"cmd-path":"gcloud","access-token":"old"}`}, keyFile...),
			prepare: writes("key.json", accountKey), args: []string{"auth-provider gcp"}, holder: account, seen: jwtBearer},

		"no credentials, and no account in the metadata": {env: []string{"METADATA"}, prepare: none, args: plugin(),
			problem: "no token from Google with the credentials of the metadata server, as there are none in " +
				"GOOGLE_APPLICATION_CREDENTIALS, " +
				"CLOUDS/home/.config/gcloud/application_default_credentials.json: ",
			wayOut: "set GOOGLE_APPLICATION_CREDENTIALS to a file, mount ~/.config/gcloud and set HOME"},
		"a file that is not there": {env: keyFile, args: plugin(),
			problem: "GOOGLE_APPLICATION_CREDENTIALS (CLOUDS/key.json): ", wayOut: "check the file, and that it can be read " +
				"here"},
		"a file that is another one": {env: keyFile, prepare: writes("key.json", func(*standin.Clouds) string { return secretMark }),
			args: plugin(), problem: "GOOGLE_APPLICATION_CREDENTIALS (CLOUDS/key.json): ", wayOut: "check the file"},
		"a login that was revoked": {prepare: writes(wellKnown, func(c *standin.Clouds) string {
			return strings.ReplaceAll(c.Google.User(), c.Google.Refresh, "1//"+secretMark)
		}), args: plugin(), problem: "application_default_credentials.json, as there are none in " +
			"GOOGLE_APPLICATION_CREDENTIALS: 400 Bad " +
			"Request: invalid_grant Token has been expired or revoked. ", wayOut: "renew the credentials"},
		"a client of a login that is refused, and repeated": {prepare: writes(wellKnown, func(c *standin.Clouds) string {
			return strings.ReplaceAll(c.Google.User(), "client-secret-1", secretMark)
		}), args: plugin(), problem: "expired or revoked. ", wayOut: "renew the credentials"},
		"a subject that is refused, and repeated": {env: []string{googleFile + "=CLOUDS/pool.json"},
			prepare: func(t *testing.T, c *standin.Clouds) {
				path, err := c.File("subject", secretMark+"-subject")
				if err != nil {
					t.Fatal(err)
				}
				file(t, c, "pool.json", c.Google.ExternalAccount(path))
			}, args: plugin(), problem: "invalid_grant", wayOut: ""},
		"a clock that is wrong": {env: keyFile, prepare: func(t *testing.T, c *standin.Clouds) {
			c.Ahead = -2*time.Hour - 30*time.Second
			file(t, c, "key.json", c.Google.AccountKey())
		}, args: plugin(), problem: "400 Bad Request: invalid_grant Invalid JWT: ",
			wayOut: "the clock here is 2h0m3"},
		"a cloud that cannot be reached": {env: append([]string{"HTTPS_PROXY=http://127.0.0.1:1"}, keyFile...),
			prepare: writes("key.json", accountKey), args: plugin(),
			problem: `(CLOUDS/key.json): oauth2: cannot fetch token: Post "https://oauth2.googleapis.com/token": `,
			wayOut:  CheckNetwork},
		"an impersonation that is not allowed": {env: []string{"METADATA"}, args: plugin("--impersonate_service_account=other@x"),
			problem: "no token of the service account other@x: 403 Forbidden: Permission " +
				"'iam.serviceAccounts.getAccessToken' denied",
			wayOut: "grant roles/iam.serviceAccountTokenCreator"},
		"an account that gcloud has not": {args: plugin("--account", "gone"),
			problem: "GOOGLE_APPLICATION_CREDENTIALS (CLOUDS/home/.config/gcloud/legacy_credentials/gone/adc.json): ",
			wayOut:  "check the file"},
		"a cluster at the edge": {args: plugin("--use_edge_cloud", "--cluster=c"), problem: "--use_edge_cloud", wayOut: "an image that has"},
	} {
		t.Run(name, func(t *testing.T) {
			prepare := a.prepare
			a.prepare = func(t *testing.T, c *standin.Clouds) {
				if len(a.env) > 0 && a.env[0] == "METADATA" {
					a.env = c.Instance()
				}
				if prepare != nil {
					prepare(t, c)
				}
			}
			a.check(t)
		})
	}
}

func TestTokenOfGcloudsEnvironmentIsTaken(t *testing.T) {
	printed, lines := ask(t, []string{"CLOUDSDK_AUTH_ACCESS_TOKEN=given"}, "gke-gcloud-auth-plugin")
	if printed == nil || printed.Status.Token != "given" || printed.Status.ExpirationTimestamp != nil {
		t.Errorf("%v %s", printed, lines)
	}
}
