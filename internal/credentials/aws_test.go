package credentials

import (
	"context"
	"encoding/base64"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"metrics-server-prom/internal/credentials/standin"
)

const (
	role       = "arn:aws:iam::111122223333:role/reader"
	user       = "arn:aws:iam::111122223333:user/me"
	assumed    = "arn:aws:sts::111122223333:assumed-role/reader/"
	regionFlag = "--region=eu-central-1"
	atSTS      = "sts.eu-central-1.amazonaws.com: "
)

var keys = []string{"AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}

// with is keys and more.
func with(more ...string) []string { return append(append([]string{}, keys...), more...) }

// eksArgs are as aws eks update-kubeconfig writes them, and more.
func eksArgs(more ...string) []string {
	return append([]string{"aws", "--region", "eu-central-1", "eks", "get-token", "--cluster-name", cluster, "--output",
		"json"},
		more...)
}

// mayAssume has the role there, with no external ID.
func mayAssume(_ *testing.T, c *standin.Clouds) { c.AWS.Roles[role] = "" }

func awsFiles(config, credentials string) func(*testing.T, *standin.Clouds) {
	return func(t *testing.T, c *standin.Clouds) {
		mayAssume(t, c)
		file(t, c, "home/.aws/config", config)
		file(t, c, "home/.aws/credentials", credentials)
	}
}

const ownKeys = "aws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY\n"

func TestEKS(t *testing.T) {
	for name, a := range map[string]asked{
		"keys in the environment":                  {env: keys, args: eksArgs(), holder: user},
		"keys in a file":                           {prepare: awsFiles("", "[default]\n"+ownKeys), args: eksArgs(), holder: user},
		"a profile in the environment":             {env: []string{"AWS_PROFILE=dev"}, prepare: awsFiles("", "[dev]\n"+ownKeys), args: eksArgs(), holder: user},
		"a profile in the arguments, before keys":  {env: []string{"AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b"}, prepare: awsFiles("", "[dev]\n"+ownKeys), args: eksArgs("--profile", "dev"), holder: user},
		"keys in the environment before a profile": {env: with("AWS_PROFILE=dev"), prepare: awsFiles("[profile dev]\nregion = us-west-2\n", "[dev]\naws_access_key_id = a\naws_secret_access_key = b\n"), args: []string{"aws", "eks", "get-token", "--cluster-name", cluster}, holder: user},
		"a role of a profile with its source": {
			prepare: awsFiles("[default]\nrole_arn = "+role+"\nsource_profile = base\nrole_session_name = from-profile\n",
				"[base]\n"+ownKeys),
			args: eksArgs(), holder: assumed + "from-profile", seen: atSTS + "AssumeRole " + role + " from-profile"},
		"a role of a profile with the environment's keys": {env: with("AWS_PROFILE=r", "AWS_ACCESS_KEY_ID=AKIDEXAMPLE"),
			prepare: awsFiles("[profile r]\nrole_arn = "+role+"\ncredential_source = Environment\nexternal_id = e\n", ""),
			args:    eksArgs("--profile=r"), problem: "STS AssumeRole: AccessDenied: ",
			wayOut: "let the role's trust policy name who asks"},
		"web identity, as IRSA sets it": {env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE=CLOUDS/token", "AWS_ROLE_ARN=" + role, "AWS_ROLE_SESSION_NAME=pod"},
			prepare: func(t *testing.T, c *standin.Clouds) {
				mayAssume(t, c)
				c.AWS.WebIdentity = secretMark + "-jwt"
				file(t, c, "token", c.AWS.WebIdentity)
			}, args: eksArgs(), holder: assumed + "pod", seen: atSTS + "AssumeRoleWithWebIdentity " + role + " pod"},
		"the keys of an ECS task": {env: []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/keys"}, args: eksArgs(),
			holder: "arn:aws:sts::111122223333:assumed-role/task/1", seen: "169.254.170.2: GET /keys"},
		"EKS Pod Identity": {env: []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.23/keys", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=CLOUDS/token"},
			prepare: func(t *testing.T, c *standin.Clouds) {
				c.AWS.Container = secretMark + "-pod-identity"
				file(t, c, "token", c.AWS.Container)
			}, args: eksArgs(), holder: "arn:aws:sts::111122223333:assumed-role/task/1", seen: "169.254.170.23: GET /keys"},
		"the instance's role, by IMDSv2": {env: []string{"METADATA"}, prepare: func(_ *testing.T, c *standin.Clouds) { c.AWS.Instance = "node" },
			args: eksArgs(), holder: "arn:aws:sts::111122223333:assumed-role/node/i-1",
			seen: "169.254.169.254: PUT /latest/api/token\n169.254.169.254: GET /latest/meta-data/iam/security-credentials/\n" +
				"169.254.169.254: GET /latest/meta-data/iam/security-credentials/node"},
		"--role-arn": {env: keys, prepare: mayAssume, args: eksArgs("--role-arn", role), holder: assumed + "EKSGetTokenAuth",
			seen: atSTS + "AssumeRole " + role + " EKSGetTokenAuth"},
		"--cluster-id": {env: keys, args: []string{"aws", "eks", "get-token", regionFlag, "--cluster-id=" + cluster}, holder: user},
		"a region in the environment": {env: with("AWS_REGION=cn-north-1"),
			args: []string{"aws", "eks", "get-token", "--cluster-name", cluster}, holder: user},
		"no region": {env: keys, args: []string{"aws", "eks", "get-token", "--cluster-name", cluster}, holder: user},
		"aws-iam-authenticator": {env: with("AWS_REGION=eu-central-1"), args: []string{"aws-iam-authenticator", "token", "-i", cluster},
			holder: user},
		"aws-iam-authenticator with a role": {env: keys, prepare: func(_ *testing.T, c *standin.Clouds) { c.AWS.Roles[role] = "out" },
			args: []string{"aws-iam-authenticator", "token", "--cluster-id", cluster, "-r", role, "--external-id=out",
				"--session-name", "me-too", "--region", "eu-central-1", "--cache"},
			holder: assumed + "me-too", seen: atSTS + "AssumeRole " + role + " me-too"},
		"aws-iam-authenticator with a role of the environment": {env: with("DEFAULT_ROLE="+role, "KUBERNETES_AWS_AUTHENTICATOR_CLUSTER_ID="+cluster),
			prepare: mayAssume, args: []string{"aws-iam-authenticator", "token", "--session-name=pod", regionFlag},
			holder: assumed + "pod"},
		"aws-iam-authenticator that forwards the session's name": {env: keys, prepare: mayAssume,
			args: []string{"aws-iam-authenticator", "token", "-i", cluster, "--role", role, "--forward-session-name",
				regionFlag},
			holder: assumed + "me@example.com", seen: atSTS + "GetCallerIdentity\n" + atSTS + "AssumeRole " + role +
				" me@example.com"},

		"no credentials": {env: []string{"METADATA"}, args: eksArgs(),
			problem: "no token for the EKS cluster shop with the credentials of the instance's metadata at 169.254.169.254, " +
				"as there are " +
				"none in AWS_ACCESS_KEY_ID, AWS_WEB_IDENTITY_TOKEN_FILE, profile default in CLOUDS/home/.aws/config and " +
				"CLOUDS/home/.aws/credentials, AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI: ",
			wayOut: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, mount ~/.aws and set HOME"},
		"no credentials, and no metadata": {env: []string{"AWS_EC2_METADATA_DISABLED=true"}, args: eksArgs(),
			problem: "AWS_EC2_METADATA_DISABLED", wayOut: "set AWS_ACCESS_KEY_ID"},
		"a profile that is not there": {prepare: awsFiles("", ""), args: eksArgs("--profile", "gone"),
			problem: "no token for the EKS cluster shop: failed to get shared config profile, gone",
			wayOut:  "see deploy/outside/"},
		"a key of nobody": {env: []string{"AWS_ACCESS_KEY_ID=AKIDWRONG", "AWS_SECRET_ACCESS_KEY=" + secretMark + "-key"}, prepare: mayAssume,
			args:    eksArgs("--role-arn", role),
			problem: "with the credentials of AWS_ACCESS_KEY_ID: STS AssumeRole: InvalidClientTokenId: ",
			wayOut:  "renew the access key"},
		"a wrong secret": {env: []string{"AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=" + secretMark + "-key"}, prepare: mayAssume,
			args: eksArgs("--role-arn", role), problem: "STS AssumeRole: SignatureDoesNotMatch: ",
			wayOut: "renew the access key"},
		"a role that one may not have": {env: keys, args: eksArgs("--role-arn", role),
			problem: "STS AssumeRole: AccessDenied: User: " + user + " is not authorized", wayOut: "sts:AssumeRole"},
		"a web identity that is refused, and repeated": {env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE=CLOUDS/token", "AWS_ROLE_ARN=" + role},
			prepare: func(t *testing.T, c *standin.Clouds) {
				mayAssume(t, c)
				file(t, c, "token", secretMark+"-web-identity")
			}, args: eksArgs(), problem: "with the credentials of AWS_WEB_IDENTITY_TOKEN_FILE, as there are none in " +
				"AWS_ACCESS_KEY_ID: STS " +
				"AssumeRoleWithWebIdentity: InvalidIdentityToken: ", wayOut: "check the OIDC provider of the cluster in IAM"},
		"a web identity of a profile that is refused, and repeated": {prepare: func(t *testing.T, c *standin.Clouds) {
			path, err := c.File("subject", secretMark+"-web-identity")
			if err != nil {
				t.Fatal(err)
			}
			awsFiles("[default]\nrole_arn = "+role+"\nweb_identity_token_file = "+path+"\n", "")(t, c)
		}, args: eksArgs(), problem: "STS AssumeRoleWithWebIdentity: InvalidIdentityToken: ",
			wayOut: "check the OIDC provider of the cluster in IAM"},
		"a web identity that is not there": {env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE=/gone", "AWS_ROLE_ARN=" + role}, args: eksArgs(),
			problem: "no such file or directory", wayOut: "see deploy"},
		"a role that wants a code": {prepare: awsFiles("[default]\nrole_arn = "+role+"\nsource_profile = base\nmfa_serial = x\n", "[base]\n"+ownKeys),
			args: eksArgs(), problem: "the profile's role wants a code that a person reads (mfa_serial)",
			wayOut: "set AWS_ACCESS_KEY_ID"},
		"a login that has ended": {prepare: awsFiles("[default]\nsso_session = s\nsso_account_id = 111122223333\nsso_role_name = r\n"+
			"[sso-session s]\nsso_region = us-east-1\nsso_start_url = https://x.awsapps.com/start\n", ""), args: eksArgs(),
			problem: "with the credentials of profile default in ", wayOut: "log in again, or, as a login ends and needs a " +
				"person, set"},
		"an authorization of a container that is refused": {env: []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/keys", "AWS_CONTAINER_AUTHORIZATION_TOKEN=" + secretMark},
			args: eksArgs(), problem: "with the credentials of AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI, as",
			wayOut: "see deploy"},
		"no cluster": {env: keys, args: []string{"aws", "eks", "get-token"}, problem: "names no EKS cluster", wayOut: "give it --cluster-name"},
		"two names of a cluster": {env: keys, args: eksArgs("--cluster-id=other"),
			problem: "--cluster-name and --cluster-id cannot both be given", wayOut: "remove one"},
		"an unknown flag": {env: keys, args: eksArgs("--secret-flag=" + secretMark),
			problem: "an argument of the kubeconfig's exec entry is not understood here: -secret-flag",
			wayOut:  "remove it, or put the exporter into an image"},
	} {
		t.Run(name, func(t *testing.T) {
			prepare := a.prepare
			a.prepare = func(t *testing.T, c *standin.Clouds) {
				if len(a.env) > 0 && a.env[0] == "METADATA" {
					a.env = c.Instance()
				} else {
					a.env = append([]string{"AWS_EC2_METADATA_DISABLED=true"}, a.env...)
				}
				if prepare != nil {
					prepare(t, c)
				}
			}
			a.check(t)
		})
	}
}

// TestEKSTokenIsThatOfAWSOwnProgram compares with what aws eks get-token of AWS' command line (1.45.11) has printed
// with the same keys at the same second, but for the order of the URL's parameters.
func TestEKSTokenIsThatOfAWSOwnProgram(t *testing.T) {
	for name, c := range map[string]struct{ region, session, at, want string }{
		"a region": {"eu-central-1", "", "20261126T010405Z", "https://sts.eu-central-1.amazonaws.com/?Action=GetCallerIdentity&" +
			"Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256&" +
			"X-Amz-Credential=AKIDEXAMPLE%2F20261126%2Feu-central-1%2Fsts%2F" +
			"aws4_request&X-Amz-Date=20261126T010405Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host%3Bx-k8s-aws-id&" +
			"X-Amz-Signature=" +
			"a9ed8a8874a42ae86ef19127e496744b01a2ac04299aa2010b0a7ac8e5fcbd99"},
		"no region": {"aws-global", "", "20261126T010405Z", "https://sts.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15&" +
			"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261126%2Fus-east-1%2Fsts%2Faws4_request&" +
			"X-Amz-Date=" +
			"20261126T010405Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host%3Bx-k8s-aws-id&X-Amz-Signature=" +
			"abd25ae0f0e395ffb082a240dc0dea3fa13b9ba4d7d46a7b308cfb514de6c7c6"},
		"China, with the token of a session": {"cn-north-1", "tok/en==", "20261126T010406Z", "https://sts.cn-north-1.amazonaws.com.cn/?" +
			"Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256&" +
			"X-Amz-Credential=AKIDEXAMPLE%2F20261126%2F" +
			"cn-north-1%2Fsts%2Faws4_request&X-Amz-Date=20261126T010406Z&X-Amz-Expires=60&" +
			"X-Amz-SignedHeaders=host%3Bx-k8s-aws-id&" +
			"X-Amz-Security-Token=tok%2Fen%3D%3D&" +
			"X-Amz-Signature=5a521fb43aa2a7bcd3b9a7fe0193ef020af50894c875e753d5361b4948ffb48c"},
	} {
		t.Run(name, func(t *testing.T) {
			at, err := time.Parse("20060102T150405Z", c.at)
			if err != nil {
				t.Fatal(err)
			}
			key := aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
				SessionToken: c.session}
			config := aws.Config{Region: c.region, Credentials: aws.CredentialsProviderFunc(
				func(context.Context) (aws.Credentials, error) { return key, nil })}
			signed, err := (&eks{cluster: cluster}).sign(t.Context(), config, at)
			if err != nil {
				t.Fatal(err)
			}
			text, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(signed.value, "k8s-aws-v1."))
			if err != nil {
				t.Fatal(err)
			}
			got, err := url.Parse(string(text))
			if err != nil {
				t.Fatal(err)
			}
			got.RawQuery = got.Query().Encode()
			want, _ := url.Parse(c.want)
			if want.RawQuery = want.Query().Encode(); got.String() != want.String() {
				t.Errorf("%s\nwant %s", got, want)
			}
		})
	}
}

// TestStandInChecksSignaturesAsAWSDoes holds the stand-in against AWS' test suite of signatures
// (awslabs/aws-c-auth, tests/aws-signing-test-suite/v4) and the example of a signed URL in the manual of S3.
func TestStandInChecksSignaturesAsAWSDoes(t *testing.T) {
	const suiteSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	for name, c := range map[string]struct{ url, secret, payload string }{
		"get-vanilla-query-order-key-case": {"https://example.amazonaws.com/?Param2=value2&Param1=value1&X-Amz-Algorithm=AWS4-HMAC-SHA256&" +
			"X-Amz-Credential=AKIDEXAMPLE%2F20150830%2Fus-east-1%2Fservice%2Faws4_request&X-Amz-Date=20150830T123600Z&" +
			"X-Amz-SignedHeaders=" +
			"host&X-Amz-Expires=3600&X-Amz-Signature=86012e2c9ad4d77369f5d81c11f75158aae4f895a085212cc6d3f923d300bed5",
			suiteSecret, ""},
		"the manual of S3": {"https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=" +
			"AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&" +
			"X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
			"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "UNSIGNED-PAYLOAD"},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		s := standin.Presigned(u, map[string]string{"host": u.Host})
		if c.payload != "" {
			s.Payload = c.payload
		}
		if got, want := s.Sign(c.secret), u.Query().Get("X-Amz-Signature"); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		if s.Sign(c.secret+"x") == s.Sign(c.secret) {
			t.Errorf("%s: another secret has the same signature", name)
		}
	}
}

func TestEKSTokenEndsNoLaterThanItsKeys(t *testing.T) {
	for keysTime, want := range map[time.Duration]time.Duration{5 * time.Minute: 5 * time.Minute,
		time.Hour: 14 * time.Minute} {
		clouds := start(t, t.TempDir(), func(c *standin.Clouds) {
			c.TokenTime = keysTime
			mayAssume(t, c)
		})
		before := time.Now()
		printed, lines := ask(t, append(clouds.Env(), keys...), eksArgs("--role-arn="+role)...)
		if printed == nil {
			t.Fatal(lines)
		}
		if e := printed.Status.ExpirationTimestamp.Time; e.Sub(before.Add(want)).Abs() > 5*time.Second {
			t.Errorf("with keys that hold for %s: the token holds for %s, want %s", keysTime, e.Sub(before), want)
		}
	}
}

func TestAnswerHasTheVersionThatIsAskedFor(t *testing.T) {
	for info, want := range map[string]string{
		"": "client.authentication.k8s.io/v1",
		`{"apiVersion":"client.authentication.k8s.io/v1beta1","kind":"ExecCredential"}`: "client.authentication.k8s.io/v1beta1",
	} {
		printed, lines := ask(t, with("KUBERNETES_EXEC_INFO="+info, "HOME="+os.TempDir()), eksArgs()...)
		if printed == nil || printed.APIVersion != want || printed.Kind != "ExecCredential" {
			t.Errorf("%s: %v %s", info, printed, lines)
		}
	}
}
