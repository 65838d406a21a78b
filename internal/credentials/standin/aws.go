package standin

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// AWS is its identities.
type AWS struct {
	// Key and Secret are those of the user arn:aws:iam::111122223333:user/me, who may assume each of Roles.
	Key, Secret string
	// Roles have the external ID that each wants, by their ARNs.
	Roles map[string]string
	// WebIdentity is the token for which one may have each of Roles.
	WebIdentity string
	// Instance is the name of the role of the instance, "" for none.
	Instance string
	// Container is what has to be in the Authorization header for the keys of a container, at /keys.
	Container string

	mu   sync.Mutex
	keys map[string]awsKey // given, by their IDs
}

type awsKey struct {
	secret, session, arn string
	ends                 time.Time
}

const me = "arn:aws:iam::111122223333:user/me"

func (a *AWS) init() {
	// The secret is that of AWS' signing test suite.
	a.Key, a.Secret = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	a.Roles, a.keys = map[string]string{}, map[string]awsKey{}
}

// find is a key that is valid.
func (a *AWS) find(id, session string, now time.Time) (awsKey, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if id == a.Key && session == "" {
		return awsKey{secret: a.Secret, arn: me}, nil
	}
	key, known := a.keys[id]
	switch {
	case !known || key.session != session:
		return key, awsError(http.StatusForbidden, "InvalidClientTokenId", "The security token included in the request "+
			"is invalid.")
	case now.After(key.ends):
		return key, awsError(http.StatusForbidden, "ExpiredToken", "The security token included in the request is expired")
	}
	return key, nil
}

// give makes a key.
func (c *Clouds) giveKey(arn string) (id string, key awsKey) {
	id = "ASIA" + rand.Text()[:16]
	key = awsKey{"secret-" + rand.Text(), "session/+=" + rand.Text(), arn, c.now().Add(c.TokenTime)}
	c.AWS.mu.Lock()
	defer c.AWS.mu.Unlock()
	c.AWS.keys[id] = key
	return id, key
}

func awsError(status int, code, message string) error {
	return &refusal{status, "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender" +
		"</Type><Code>" + code + "</Code><Message>" + message + "</Message></Error><RequestId>1</RequestId></ErrorResponse>"}
}

var sessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)

// sts answers AssumeRole, AssumeRoleWithWebIdentity and GetCallerIdentity:
// https://docs.aws.amazon.com/STS/latest/APIReference/
func (c *Clouds) sts(r *http.Request, host string, body []byte) (what, text string, err error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return "", "", err
	}
	action, role, session := form.Get("Action"), form.Get("RoleArn"), form.Get("RoleSessionName")
	what = strings.TrimSpace(action + " " + role + " " + session)
	if form.Get("Version") != "2011-06-15" || r.Method != http.MethodPost {
		return what, "", awsError(http.StatusBadRequest, "InvalidAction", "no such action of this version")
	}
	caller := awsKey{}
	if action != "AssumeRoleWithWebIdentity" {
		if caller, err = c.signed(r, host, body); err != nil {
			return what, "", err
		}
	}
	if action == "GetCallerIdentity" {
		return what, "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">" +
			"<GetCallerIdentityResult><Arn>" + caller.arn + "</Arn><UserId>AROAEXAMPLE:me@example.com</UserId><Account>" +
			"111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>", nil
	}
	externalID, known := c.AWS.Roles[role]
	switch {
	case !known || externalID != form.Get("ExternalId"):
		return what, "", awsError(http.StatusForbidden, "AccessDenied",
			"User: "+caller.arn+" is not authorized to perform: sts:"+action+" on resource: "+role)
	case !sessionName.MatchString(session):
		return what, "", awsError(http.StatusBadRequest, "ValidationError", "roleSessionName")
	case action == "AssumeRoleWithWebIdentity" && form.Get("WebIdentityToken") != c.AWS.WebIdentity:
		return what, "", awsError(http.StatusBadRequest, "InvalidIdentityToken", "No OpenIDConnect provider found in your "+
			"account for "+form.Get("WebIdentityToken"))
	}
	id, key := c.giveKey(strings.Replace(strings.Replace(role, ":iam:", ":sts:", 1), ":role/", ":assumed-role/", 1) +
		"/" + session)
	return what, fmt.Sprintf("<%[1]sResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><%[1]sResult>"+
		"<Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken>"+
		"<Expiration>%s</Expiration></Credentials></%[1]sResult></%[1]sResponse>", action, id, key.secret, key.session,
		key.ends.UTC().Format(time.RFC3339)), nil
}

// signed checks the signature in the Authorization header, and for when it is.
func (c *Clouds) signed(r *http.Request, host string, body []byte) (awsKey, error) {
	field := func(name string) string {
		_, rest, _ := strings.Cut(r.Header.Get("Authorization"), name+"=")
		value, _, _ := strings.Cut(rest, ",")
		return value
	}
	headers := map[string]string{"host": host}
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
	headers["content-length"] = strconv.Itoa(len(body))
	key, err := c.AWS.find(strings.Split(field("Credential"), "/")[0], r.Header.Get("X-Amz-Security-Token"), c.now())
	if err != nil {
		return key, err
	}
	s := Signature{r.Method, "/", nil, headers, field("SignedHeaders"), sum(body), r.Header.Get("X-Amz-Date"),
		field("Credential")}
	if s.Sign(key.secret) != field("Signature") {
		return key, awsError(http.StatusForbidden, "SignatureDoesNotMatch", "The request signature we calculated does "+
			"not match")
	}
	return key, c.inScope(s, host, 5*time.Minute)
}

// inScope checks that a signature is for this service and its region, and that it is of now.
func (c *Clouds) inScope(s Signature, host string, within time.Duration) error {
	region := "us-east-1"
	if part := strings.Split(host, "."); part[1] != "amazonaws" {
		region = part[1]
	}
	at, err := time.Parse("20060102T150405Z", s.Date)
	_, scope, _ := strings.Cut(s.Credential, "/")
	switch apart := c.now().Sub(at); {
	case err != nil || scope != s.Date[:8]+"/"+region+"/sts/aws4_request":
		return awsError(http.StatusForbidden, "SignatureDoesNotMatch", "Credential should be scoped to a valid region")
	case apart > within:
		return awsError(http.StatusForbidden, "SignatureDoesNotMatch", "Signature expired: "+s.Date+" is now earlier than "+
			c.now().Add(-within).UTC().Format("20060102T150405Z"))
	case apart < -5*time.Minute:
		return awsError(http.StatusForbidden, "SignatureDoesNotMatch", "Signature not yet current: "+s.Date)
	}
	return nil
}

// tokenParameters are all that the URL in a token may have (aws-iam-authenticator, pkg/token/token.go).
var tokenParameters = []string{"action", "version", "x-amz-algorithm", "x-amz-credential", "x-amz-date",
	"x-amz-expires",
	"x-amz-security-token", "x-amz-signature", "x-amz-signedheaders"}

// holder does with a token what aws-iam-authenticator and STS do.
func (a *AWS) holder(token, cluster string, now time.Time) (string, error) {
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, "k8s-aws-v1."))
	if err != nil || len(token) > 4<<10 {
		return "", fmt.Errorf("no base64 of an URL, or more than 4 KiB")
	}
	u, err := url.Parse(string(text))
	if err != nil || u.Scheme != "https" || u.Path != "/" || !stsHost.MatchString(u.Host) {
		return "", fmt.Errorf("%s is not the URL of an STS", text)
	}
	query := u.Query()
	for name, values := range query {
		if !slices.Contains(tokenParameters, strings.ToLower(name)) || len(values) != 1 {
			return "", fmt.Errorf("the URL must not have %s, or has it twice", name)
		}
	}
	expires, err := strconv.Atoi(query.Get("X-Amz-Expires"))
	switch {
	case query.Get("Action") != "GetCallerIdentity" || query.Get("Version") != "2011-06-15":
		return "", fmt.Errorf("the URL does not get the caller's identity")
	case err != nil || expires < 0 || expires > 60: // later versions take up to 900
		return "", fmt.Errorf("X-Amz-Expires is %s", query.Get("X-Amz-Expires"))
	case !slices.Contains(strings.Split(query.Get("X-Amz-SignedHeaders"), ";"), "x-k8s-aws-id"):
		return "", fmt.Errorf("the cluster's name is not signed")
	}
	key, err := a.find(strings.Split(query.Get("X-Amz-Credential"), "/")[0], query.Get("X-Amz-Security-Token"), now)
	if err != nil {
		return "", err
	}
	s := Presigned(u, map[string]string{"host": u.Host, "x-k8s-aws-id": cluster})
	if s.Sign(key.secret) != query.Get("X-Amz-Signature") {
		return "", fmt.Errorf("the signature is not that of %s for the cluster %s", key.arn, cluster)
	}
	clock := &Clouds{Ahead: time.Until(now)}
	return key.arn, clock.inScope(s, u.Host, 15*time.Minute)
}

var stsHost = regexp.MustCompile(`^sts(\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?$`)

// ec2 is the instance's metadata in their second version:
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
func (c *Clouds) ec2(w http.ResponseWriter, r *http.Request) (what, text string, err error) {
	const session = "session-of-metadata"
	what = r.Method + " " + r.URL.Path
	const keys = "/latest/meta-data/iam/security-credentials/"
	if r.URL.Path == "/latest/api/token" {
		ttl := r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds")
		if seconds, err := strconv.Atoi(ttl); r.Method != http.MethodPut || err != nil || seconds < 1 || seconds > 21600 {
			return what, "", &refusal{http.StatusBadRequest, "no time to live"}
		}
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", ttl)
		return what, session, nil
	}
	switch {
	case r.Header.Get("X-Aws-Ec2-Metadata-Token") != session:
		return what, "", &refusal{http.StatusUnauthorized, "no session"}
	case c.AWS.Instance == "":
		return what, "", &refusal{http.StatusNotFound, "no role"}
	case r.URL.Path == keys:
		return what, c.AWS.Instance, nil
	case r.URL.Path == keys+c.AWS.Instance:
		id, key := c.giveKey("arn:aws:sts::111122223333:assumed-role/" + c.AWS.Instance + "/i-1")
		return what, toJSON(map[string]string{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": id,
			"SecretAccessKey": key.secret, "Token": key.session, "LastUpdated": c.now().UTC().Format(time.RFC3339),
			"Expiration": key.ends.UTC().Format(time.RFC3339)}), nil
	}
	return what, "", &refusal{http.StatusNotFound, "nothing there"}
}

// container is the endpoint of ECS tasks and of the EKS Pod Identity agent:
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
func (c *Clouds) container(r *http.Request) (what, text string, err error) {
	what = r.Method + " " + r.URL.Path
	if r.URL.Path != "/keys" || r.Header.Get("Authorization") != c.AWS.Container {
		return what, "", &refusal{http.StatusUnauthorized, `{"code":"AccessDenied","message":"wrong path or authorization"}`}
	}
	id, key := c.giveKey("arn:aws:sts::111122223333:assumed-role/task/1")
	return what, toJSON(map[string]string{"AccessKeyId": id, "SecretAccessKey": key.secret, "Token": key.session,
		"Expiration": key.ends.UTC().Format(time.RFC3339)}), nil
}

// Signature is what AWS' signature of version 4 is made of:
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
type Signature struct {
	Method, Path           string
	Query                  url.Values
	Headers                map[string]string // by their names in lower case
	SignedHeaders, Payload string            // names, separated by semicolons; hash of the body in hex
	Date, Credential       string
}

// Presigned is that of a GET whose signature is in its URL.
func Presigned(u *url.URL, headers map[string]string) Signature {
	query := u.Query()
	s := Signature{http.MethodGet, u.Path, query, headers, query.Get("X-Amz-SignedHeaders"), sum(nil),
		query.Get("X-Amz-Date"), query.Get("X-Amz-Credential")}
	query.Del("X-Amz-Signature")
	return s
}

// Sign is the signature in hex.
func (s Signature) Sign(secret string) string {
	var pairs []string
	for name, values := range s.Query {
		for _, value := range values {
			pairs = append(pairs, encode(name)+"="+encode(value))
		}
	}
	slices.Sort(pairs)
	request := s.Method + "\n" + s.Path + "\n" + strings.Join(pairs, "&") + "\n"
	for name := range strings.SplitSeq(s.SignedHeaders, ";") {
		request += name + ":" + strings.TrimSpace(s.Headers[name]) + "\n"
	}
	request += "\n" + s.SignedHeaders + "\n" + s.Payload
	_, scope, _ := strings.Cut(s.Credential, "/")
	key := []byte("AWS4" + secret)
	for part := range strings.SplitSeq(scope, "/") {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, "AWS4-HMAC-SHA256\n"+s.Date+"\n"+scope+"\n"+sum([]byte(request))))
}

// encode is RFC 3986's percent-encoding, in which only the unreserved characters stay.
func encode(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
