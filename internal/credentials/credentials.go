// Package credentials answers in place of the exec plugins that the kubeconfigs of EKS, GKE and AKS name, for where
// these programs are not installed.
//
// It does so in a process of its own, as the plugins do. The clouds' libraries take the environment for the whole
// process's, keep what they have read, and wait longer than their context for some things; a kubeconfig's exec entry
// has an environment of its own, and its run is bounded.
package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientauthentication "k8s.io/client-go/pkg/apis/clientauthentication/v1"

	"metrics-server-prom/internal/redact"
)

const (
	// Command is the first argument of a process that answers in place of an exec plugin. The plugin's name and
	// arguments follow.
	Command = "exec-credential"
	// AuthProviderSettings is the environment variable with the settings of an auth-provider as a JSON object, as they
	// are in a kubeconfig.
	AuthProviderSettings = "AUTH_PROVIDER_SETTINGS"
	// Refused is the exit code of a process that has no credentials, and has written to stderr in one line why, and in
	// a second one the way out. There are no secrets in these.
	Refused = 3
	// patience is how long a cloud may take. It is less than what kube gives any exec plugin, so that there is an
	// answer that says what was waited for.
	patience = 25 * time.Second
)

// authProvider is how the table below names what kubeconfigs had before they had exec plugins.
const authProvider = "auth-provider "

// programs are the exec plugins that are answered in place of, by the names of their programs.
var programs = map[string]func(*asker, context.Context, []string) (token, error){
	"aws":                    (*asker).aws,
	"aws-iam-authenticator":  (*asker).awsIAMAuthenticator,
	"gke-gcloud-auth-plugin": (*asker).gkeGcloudAuthPlugin,
	"kubelogin":              (*asker).kubelogin,
	authProvider + "gcp":     (*asker).gcp,
	authProvider + "azure":   (*asker).azure,
	authProvider + "oidc":    (*asker).oidc,
}

// Known tells whether Serve answers in place of a kubeconfig's exec plugin.
func Known(command string, args []string) bool {
	name := program(command)
	has := func(arg string) bool { return slices.Contains(args, arg) }
	switch name {
	case "aws":
		return has("eks") && has("get-token")
	case "aws-iam-authenticator":
		return has("token")
	case "kubelogin": // another program of that name is for OpenID Connect in general, with flags that say so
		return has("get-token") && !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--oidc-") })
	}
	return programs[name] != nil
}

// AuthProvider is the name of an auth-provider in place of a plugin's command; "" where Serve does not answer in place
// of it.
func AuthProvider(name string) (command string) {
	if command = authProvider + name; programs[command] == nil {
		return ""
	}
	return command
}

// program is the name of a program by its path on any system.
func program(command string) string {
	return strings.TrimSuffix(filepath.Base(strings.ReplaceAll(command, `\`, "/")), ".exe")
}

// Serve answers in place of an exec plugin and ends the process, where that is what the process was started for.
func Serve() {
	if len(os.Args) > 2 && os.Args[1] == Command {
		os.Exit(serve(os.Args[2], os.Args[3:], os.Stdout, os.Stderr))
	}
}

// serve writes an ExecCredential or, as Refused has it, why there is none.
func serve(command string, args []string, stdout, stderr io.Writer) (exitCode int) {
	credential := clientauthentication.ExecCredential{
		TypeMeta: metav1.TypeMeta{Kind: "ExecCredential", APIVersion: clientauthentication.SchemeGroupVersion.String()}}
	if info := os.Getenv("KUBERNETES_EXEC_INFO"); info != "" {
		var asked metav1.TypeMeta
		if json.Unmarshal([]byte(info), &asked) == nil && asked.APIVersion != "" {
			credential.APIVersion = asked.APIVersion
		}
	}
	a := &asker{secrets: environmentSecrets(os.Environ())}
	a.client = &http.Client{Transport: hiding{a, http.DefaultTransport}}
	t, err := a.ask(command, args)
	if err == nil && strings.TrimSpace(t.value) == "" {
		err = &refusal{"the answer has no token in it", "look at what stands between here and the cloud"}
	}
	if err != nil {
		r, ok := errors.AsType[*refusal](err)
		if !ok {
			r = &refusal{err.Error(), "correct the kubeconfig's exec entry"}
		}
		for _, line := range []string{r.what, r.wayOut} {
			fmt.Fprintln(stderr, redact.OneLine(a.redacted(line), maxLine))
		}
		return Refused
	}
	credential.Status = &clientauthentication.ExecCredentialStatus{Token: t.value}
	if !t.expires.IsZero() {
		credential.Status.ExpirationTimestamp = &metav1.Time{Time: t.expires}
	}
	json.NewEncoder(stdout).Encode(credential)
	return 0
}

// maxLine is how long a line of stderr is at most, in bytes.
const maxLine = 1000

// token is what a cluster takes.
type token struct {
	value   string
	expires time.Time // zero where that is not known
}

// refusal is why there is no token, and the way out.
type refusal struct{ what, wayOut string }

func (r *refusal) Error() string { return r.what + "; " + r.wayOut }

// asker asks a cloud for a token.
type asker struct {
	client *http.Client

	mu      sync.Mutex
	secrets []string // that are sent, and that may be repeated in an answer
}

func (a *asker) redacted(line string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return redact.Text(line, a.secrets)
}

// ask does not wait for what the clouds' libraries wait for without a context.
func (a *asker) ask(command string, args []string) (token, error) {
	ask := programs[program(command)]
	if ask == nil {
		return token{}, &refusal{"there is no answer in place of this plugin", "install it"}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	type result struct {
		token
		error
	}
	done := make(chan result, 1)
	go func() {
		t, err := ask(a, ctx, args)
		done <- result{t, err}
	}()
	select {
	case r := <-done:
		return r.token, r.error
	case <-time.After(patience + time.Second):
		return token{}, &refusal{fmt.Sprintf("the cloud has not answered within %s", patience), CheckNetwork}
	}
}

// CheckNetwork is the way out, as Refused has it, where a cloud does not answer.
const CheckNetwork = "check the network between here and the cloud, and HTTPS_PROXY"

// environmentSecrets are the values of the variables that are made for secrets, and what is in the files that such
// variables name.
func environmentSecrets(environ []string) (secrets []string) {
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if strings.HasSuffix(name, "TOKEN_FILE") {
			text, _ := os.ReadFile(value)
			secrets = append(secrets, strings.TrimSpace(string(text)))
		} else if secretName.MatchString(name) {
			secrets = append(secrets, value)
		}
	}
	return secrets
}

var secretName = regexp.MustCompile(`(SECRET|SECRET_ACCESS_KEY|TOKEN|PASSWORD|HEADER)$`)

// parse reads a plugin's arguments. Its flags may stand before, between and behind other arguments, which are returned.
// Of those in ignored nothing matters here: they say how to print, to log or to cache.
func parse(args []string, define func(*flag.FlagSet), ignored, ignoredSwitches string) (rest []string, err error) {
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	define(flags)
	for name := range strings.FieldsSeq(ignored) {
		flags.String(name, "", "")
	}
	for name := range strings.FieldsSeq(ignoredSwitches) {
		flags.Bool(name, false, "")
	}
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			// The argument is not shown: behind an = there may be a secret.
			_, name, _ := strings.Cut(err.Error(), ": -")
			if !flagName.MatchString(name) {
				name = "(not shown)"
			}
			return nil, &refusal{"an argument of the kubeconfig's exec entry is not understood here: -" + name,
				"remove it, or put the exporter into an image that has the plugin, see deploy/outside/"}
		}
		if args = flags.Args(); len(args) > 0 {
			rest, args = append(rest, args[0]), args[1:]
		}
	}
	return rest, nil
}

var flagName = regexp.MustCompile(`^[a-z_-]{1,40}$`)

// lookedIn says where credentials were looked for, the first time that there were some, and that nothing was there
// before that.
func lookedIn(places []string, first, last int) string {
	text := " with the credentials of " + places[last]
	if last > first {
		text += ", as there are none in " + strings.Join(places[first:last], ", ")
	}
	return text
}

// skew is how far a server's clock is from the one here, as a sentence, "" where it is less than a minute.
func skew(answer http.Header) string {
	date, err := http.ParseTime(answer.Get("Date"))
	if err != nil {
		return ""
	}
	return Skew(date)
}

// Skew compares the clock here with that of a server that has just answered: a sentence where they are a minute apart,
// else "". The signatures that tokens are made of hold for a few minutes only.
func Skew(server time.Time) string {
	ahead := time.Since(server)
	switch {
	case ahead >= time.Minute:
		return fmt.Sprintf("the clock here is %s ahead of the server's: correct it", ahead.Round(time.Second))
	case ahead <= -time.Minute:
		return fmt.Sprintf("the clock here is %s behind the server's: correct it", (-ahead).Round(time.Second))
	}
	return ""
}

// deepest is the error that all others in the chain are only around. A request that has no answer is told as a whole.
func deepest(err error) error {
	for {
		if _, ok := err.(*url.Error); ok {
			return err
		}
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// name is a name as it may be shown: whoever gives a file's content in place of its name gives a secret.
func name(s string) string {
	if !redact.IsName(s) {
		return "(not shown: it cannot be a name)"
	}
	return s
}
