package credentials

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// The token of an EKS cluster is the URL of a request that AWS STS answers with who has signed it. This is what
// aws-iam-authenticator, which EKS runs, makes of it and expects of it (pkg/token/token.go).
const (
	eksTokenPrefix   = "k8s-aws-v1."
	eksClusterHeader = "x-k8s-aws-id"
	eksURLExpires    = "60"             // seconds; must be there, and STS pays no attention to it
	eksTokenTime     = 14 * time.Minute // STS takes the URL for 15 minutes
)

// eks is what a token for an EKS cluster is asked for with.
type eks struct {
	cluster, region, profile  string
	role, externalID, session string
	forward                   bool   // have the role's session named as the present one
	clusterFlag               string // that gives the cluster
}

// aws answers in place of: aws eks get-token (awscli/customizations/eks/get_token.py).
func (a *asker) aws(ctx context.Context, args []string) (token, error) {
	e := eks{session: "EKSGetTokenAuth", clusterFlag: "--cluster-name"}
	var id string
	rest, err := parse(args, func(f *flag.FlagSet) {
		f.StringVar(&e.cluster, "cluster-name", "", "")
		f.StringVar(&id, "cluster-id", "", "")
		f.StringVar(&e.role, "role-arn", "", "")
		f.StringVar(&e.region, "region", "", "")
		f.StringVar(&e.profile, "profile", "", "")
	}, "output query color endpoint-url ca-bundle cli-read-timeout cli-connect-timeout cli-binary-format",
		"debug v2-debug no-verify-ssl no-paginate no-sign-request no-cli-pager cli-auto-prompt no-cli-auto-prompt")
	switch {
	case err != nil:
		return token{}, err
	case len(rest) != 2 || rest[0] != "eks" || rest[1] != "get-token":
		return token{}, &refusal{"of the program aws only eks get-token is answered here", "correct the exec entry"}
	case e.cluster != "" && id != "":
		return token{}, &refusal{"--cluster-name and --cluster-id cannot both be given", "remove one of them"}
	}
	e.cluster = cmp.Or(id, e.cluster)
	return e.token(ctx, a)
}

// awsIAMAuthenticator answers in place of: aws-iam-authenticator token (cmd/aws-iam-authenticator/token.go).
func (a *asker) awsIAMAuthenticator(ctx context.Context, args []string) (token, error) {
	e := eks{clusterFlag: "--cluster-id",
		cluster: os.Getenv("KUBERNETES_AWS_AUTHENTICATOR_CLUSTER_ID"), role: os.Getenv("DEFAULT_ROLE")}
	_, err := parse(args, func(f *flag.FlagSet) {
		for _, name := range []string{"cluster-id", "i"} {
			f.StringVar(&e.cluster, name, e.cluster, "")
		}
		for _, name := range []string{"role", "r"} {
			f.StringVar(&e.role, name, e.role, "")
		}
		for _, name := range []string{"external-id", "e"} {
			f.StringVar(&e.externalID, name, "", "")
		}
		for _, name := range []string{"session-name", "s"} {
			f.StringVar(&e.session, name, "", "")
		}
		f.StringVar(&e.region, "region", "", "")
		f.BoolVar(&e.forward, "forward-session-name", false, "")
	}, "log-format l config c feature-gates v", "cache verbose logtostderr")
	if err != nil {
		return token{}, err
	}
	return e.token(ctx, a)
}

// token finds credentials as AWS' programs do, and signs with them.
func (e *eks) token(ctx context.Context, a *asker) (token, error) {
	if e.cluster == "" {
		return token{}, &refusal{"the kubeconfig's exec entry names no EKS cluster", "give it " + e.clusterFlag}
	}
	options := []func(*config.LoadOptions) error{config.WithLogger(logging.Nop{}), config.WithRegion(e.region),
		config.WithAPIOptions([]func(*middleware.Stack) error{a.hideAWS})}
	if e.profile != "" {
		options = append(options, config.WithSharedConfigProfile(e.profile))
	}
	c, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return token{}, e.refused(err, nil)
	}
	if c.Region == "" {
		c.Region = "aws-global" // as AWS' command line has it: sts.amazonaws.com
	}
	found := c.Credentials
	keys, err := found.Retrieve(ctx)
	if err == nil && e.role != "" {
		keys, err = e.assumeRole(ctx, sts.NewFromConfig(c))
	}
	if err != nil {
		return token{}, e.refused(err, found)
	}
	c.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return keys, nil })
	now := time.Now()
	t, err := e.sign(ctx, c, now)
	if err != nil {
		return token{}, e.refused(err, found)
	}
	if t.expires = now.Add(eksTokenTime); keys.CanExpire && keys.Expires.Before(t.expires) {
		t.expires = keys.Expires
	}
	return t, nil
}

// hideAWS does as hiding does, to the requests of the AWS library. That has a client of its own for some of them.
func (a *asker) hideAWS(s *middleware.Stack) error {
	return s.Deserialize.Add(middleware.DeserializeMiddlewareFunc("hide", func(ctx context.Context,
		in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput,
		middleware.Metadata, error) {
		if r, ok := in.Request.(*smithyhttp.Request); ok {
			var body []byte
			if r.GetStream() != nil && r.IsStreamSeekable() {
				body, _ = io.ReadAll(r.GetStream())
				if err := r.RewindStream(); err != nil {
					return middleware.DeserializeOutput{}, middleware.Metadata{}, err
				}
			}
			a.hide(r.Header, body)
		}
		return next.HandleDeserialize(ctx, in)
	}), middleware.After)
}

// assumeRole is the keys of the role that the exec entry names.
func (e *eks) assumeRole(ctx context.Context, client *sts.Client) (aws.Credentials, error) {
	session := e.session
	if e.forward {
		me, err := client.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err != nil {
			return aws.Credentials{}, err
		}
		if _, name, found := strings.Cut(aws.ToString(me.UserId), ":"); found {
			session = name
		}
	}
	return stscreds.NewAssumeRoleProvider(client, e.role, func(o *stscreds.AssumeRoleOptions) {
		if o.RoleSessionName = session; e.externalID != "" {
			o.ExternalID = &e.externalID
		}
	}).Retrieve(ctx)
}

// sign makes a token with the configuration's credentials.
func (e *eks) sign(ctx context.Context, c aws.Config, at time.Time) (token, error) {
	signed, err := sts.NewPresignClient(sts.NewFromConfig(c)).PresignGetCallerIdentity(ctx,
		&sts.GetCallerIdentityInput{}, func(o *sts.PresignOptions) { o.Presigner = eksPresigner{e.cluster, at} })
	if err != nil {
		return token{}, err
	}
	return token{value: eksTokenPrefix + base64.RawURLEncoding.EncodeToString([]byte(signed.URL))}, nil
}

// eksPresigner signs at a time, and the cluster's name with it.
type eksPresigner struct {
	cluster string
	at      time.Time
}

func (p eksPresigner) PresignHTTP(ctx context.Context, keys aws.Credentials, r *http.Request, hash, service,
	region string, _ time.Time, options ...func(*v4.SignerOptions)) (string, http.Header, error) {
	r.Header.Set(eksClusterHeader, p.cluster)
	r.Header.Set("X-Amz-Expires", eksURLExpires)
	return v4.NewSigner().PresignHTTP(ctx, keys, r, hash, service, region, p.at, options...)
}

// refused says what was met, behind what was looked at before. found is what the AWS library has found to have
// credentials; nil where it has not come to that.
func (e *eks) refused(err error, found aws.CredentialsProvider) error {
	why, wayOut := awsCause(err)
	// The order is that of resolveCredentialChain in the AWS library.
	places := []string{
		"AWS_ACCESS_KEY_ID",
		"AWS_WEB_IDENTITY_TOKEN_FILE",
		fmt.Sprintf("profile %s in %s and %s",
			name(cmp.Or(e.profile, os.Getenv("AWS_PROFILE"), os.Getenv("AWS_DEFAULT_PROFILE"), "default")),
			name(cmp.Or(os.Getenv("AWS_CONFIG_FILE"), config.DefaultSharedConfigFilename())),
			name(cmp.Or(os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), config.DefaultSharedCredentialsFilename()))),
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI",
		"the instance's metadata at 169.254.169.254",
	}
	looked := ""
	if source, ok := found.(aws.CredentialProviderSource); ok && len(source.ProviderSources()) > 0 {
		last := 2 // all else is set in a profile
		switch source.ProviderSources()[0] {
		case aws.CredentialSourceEnvVars:
			last = 0
		case aws.CredentialSourceEnvVarsSTSWebIDToken:
			last = 1
		case aws.CredentialSourceHTTP:
			last = 3
		case aws.CredentialSourceIMDS:
			last, wayOut = 4, noAWSCredentials
		case aws.CredentialSourceProfileSSO, aws.CredentialSourceSSO, aws.CredentialSourceProfileSSOLegacy,
			aws.CredentialSourceProfileLogin:
			wayOut = "log in again, or, as a login ends and needs a person, " + noAWSCredentials
		}
		first := 0
		if e.profile != "" {
			first = 2 // it says where to look
		}
		looked = lookedIn(places, first, last)
	}
	return &refusal{fmt.Sprintf("no token for the EKS cluster %s%s: %s", name(e.cluster), looked, why), wayOut}
}

const noAWSCredentials = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, mount ~/.aws and set HOME to the folder " +
	"that it is in, or run this where AWS gives it a role (on EC2 with a hop limit of 2), see deploy/outside/"

// awsCause is what an error of the AWS library says without the layers around it, and the way out.
func awsCause(err error) (why, wayOut string) {
	why, wayOut = deepest(err).Error(), "correct that, see deploy/outside/"
	if _, ok := deepest(err).(*url.Error); ok {
		wayOut = CheckNetwork
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		why = api.ErrorCode() + ": " + api.ErrorMessage()
		if operation, ok := errors.AsType[*smithy.OperationError](err); ok && operation.Service() == sts.ServiceID {
			why = "STS " + operation.Operation() + ": " + why
			wayOut = cmp.Or(stsWayOut[api.ErrorCode()], wayOut)
		}
	}
	if _, ok := errors.AsType[config.AssumeRoleTokenProviderNotSetError](err); ok {
		why, wayOut = "the profile's role wants a code that a person reads (mfa_serial)", noAWSCredentials
	}
	return why, wayOut
}

// stsWayOut is what to do about an error of STS by its code. (That of a wrong clock is corrected by the library.)
var stsWayOut = map[string]string{
	"AccessDenied":          "let the role's trust policy name who asks, and allow sts:AssumeRole to who asks",
	"ExpiredToken":          "renew the session; the credentials of a role that AWS gives to this process do not end",
	"InvalidClientTokenId":  "renew the access key",
	"SignatureDoesNotMatch": "renew the access key, or correct its secret",
	"InvalidIdentityToken":  "check the OIDC provider of the cluster in IAM, and the role's trust policy",
}
