package push

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	httpconfig "github.com/prometheus/common/config"
)

const (
	// hashHeader has the hash of the body, which is signed with the headers.
	hashHeader = "X-Amz-Content-Sha256"
	// unsigned stands in place of the hash of a body that is made as it is sent. Some services take it, such as Amazon's
	// VPC Lattice.
	unsigned = "UNSIGNED-PAYLOAD"
)

// sigV4 is how to sign for Amazon, as Prometheus' remote_write has it. What it does not have comes from where all of
// Amazon's programs look.
type sigV4 struct {
	Region      string            `yaml:"region"`
	AccessKey   string            `yaml:"access_key"`
	SecretKey   httpconfig.Secret `yaml:"secret_key"`
	Profile     string            `yaml:"profile"`
	RoleARN     string            `yaml:"role_arn"`
	ExternalID  string            `yaml:"external_id"`
	ServiceName string            `yaml:"service_name"`
}

// signer returns what signs a request that has the hash of its body in a header. It asks for credentials when they are
// needed, keeps them, and renews them before they expire.
func (s *sigV4) signer() (func(*http.Request) error, error) {
	switch {
	case (s.AccessKey == "") != (s.SecretKey == ""):
		return nil, errors.New("of sigv4's access_key and secret_key it has only one; set both or neither")
	case s.ExternalID != "" && s.RoleARN == "":
		return nil, errors.New("sigv4's external_id says nothing without role_arn; set both or neither")
	}
	ahead := func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = time.Minute }
	options := []func(*config.LoadOptions) error{config.WithLogger(logging.Nop{}), config.WithRegion(s.Region),
		config.WithCredentialsCacheOptions(ahead)}
	if s.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(s.Profile))
	}
	if s.AccessKey != "" {
		options = append(options, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(s.AccessKey, string(s.SecretKey), "")))
	}
	c, err := config.LoadDefaultConfig(context.Background(), options...)
	if err != nil {
		return nil, fmt.Errorf("sigv4: %w", err)
	}
	if c.Region == "" {
		return nil, errors.New("sigv4 has no region, and neither AWS_REGION nor the profile has one; set it")
	}
	keys := c.Credentials
	if s.RoleARN != "" {
		role := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(c), s.RoleARN, func(o *stscreds.AssumeRoleOptions) {
			if s.ExternalID != "" {
				o.ExternalID = &s.ExternalID
			}
		})
		keys = aws.NewCredentialsCache(role, ahead)
	}
	signer, service := v4.NewSigner(), cmp.Or(s.ServiceName, "aps")
	return func(r *http.Request) error {
		k, err := keys.Retrieve(r.Context())
		if api, ok := errors.AsType[smithy.APIError](err); ok {
			err = fmt.Errorf("%s: %s", api.ErrorCode(), api.ErrorMessage())
		}
		if err != nil {
			return fmt.Errorf("no AWS credentials: %w", err)
		}
		return signer.SignHTTP(r.Context(), k, r, r.Header.Get(hashHeader), service, c.Region, time.Now())
	}, nil
}
