package kube

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	clientauthentication "k8s.io/client-go/pkg/apis/clientauthentication/v1"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"metrics-server-prom/internal/credentials"
)

const (
	pluginTime      = 30 * time.Second // for which an exec plugin may run before it is killed
	maxPluginOutput = 1 << 20          // bytes that it may print: a token or a certificate with its chain, with much room
	// renewTime is how long before the end of its credentials a plugin is run again, while these are used on. Of
	// credentials that hold for less than five times that it is a fifth of their time.
	renewTime = time.Minute
)

// pluginVersions are the API versions of exec plugins, whose JSON is the same.
var pluginVersions = []string{"client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"}

// useToken is the way out of all that plugins need and do not find where the exporter runs.
const useToken = "use a kubeconfig with a service account's token, see deploy/outside/"

// plugin authorizes requests with what a kubeconfig's exec plugin prints, as client-go does. client-go's own code runs
// the plugin without a bound while it holds a lock that all clients of the process share, keeps all that the plugin
// prints, and connects it to this process's stderr, where a token would go past what keeps secrets out of the log.
type plugin struct {
	below   http.RoundTripper
	config  *clientcmdapi.ExecConfig
	cluster string          // for the log
	native  string          // the name of the plugin in place of which this program answers, "" where it does not
	env     []string        // of the plugin
	time    time.Duration   // how long it may run
	life    context.Context // its end kills a plugin that runs
	rotated func()          // called when the client certificate is another one than before

	mu          sync.Mutex
	last        *pluginRun // whose credentials are used, or waited for; nil where the server has refused these
	next        *pluginRun // that runs to replace those of the last, which are used on; nil where none does
	certificate *tls.Certificate
	pem         string // the certificate as printed
}

// pluginRun is a run of a plugin. All requests that come meanwhile wait for it. Its results may be read once done is
// closed.
type pluginRun struct {
	began   time.Time
	done    chan struct{}
	token   string
	expires time.Time // zero for never
	renew   time.Time // when it is time for the next run; guarded by the plugin's mu
	failed  bool      // a next run has failed, which was logged; guarded by the plugin's mu
	err     error
}

func newPlugin(life context.Context, config *rest.Config, rotated func()) (*plugin, error) {
	p := &plugin{config: config.ExecProvider, native: nativeName(config.ExecProvider), env: os.Environ(),
		time: pluginTime, life: life, rotated: rotated}
	for _, v := range p.config.Env {
		p.env = append(p.env, v.Name+"="+v.Value)
	}
	info := &clientauthentication.ExecCredential{
		TypeMeta: metav1.TypeMeta{APIVersion: p.config.APIVersion, Kind: "ExecCredential"}}
	if p.config.ProvideClusterInfo {
		cluster, err := rest.ConfigToExecCluster(config)
		if err != nil {
			return nil, err
		}
		info.Spec.Cluster = &clientauthentication.Cluster{}
		err = clientauthentication.Convert_clientauthentication_Cluster_To_v1_Cluster(cluster, info.Spec.Cluster, nil)
		if err != nil {
			return nil, err
		}
	}
	text, err := json.Marshal(info)
	p.env = append(p.env, "KUBERNETES_EXEC_INFO="+string(text))
	return p, err
}

// RoundTrip does not wait for the plugin beyond the request's context. Where the server refuses credentials that were
// there before, the request is sent a second time with new ones.
func (p *plugin) RoundTrip(r *http.Request) (*http.Response, error) {
	run, fresh := p.run()
	for {
		select {
		case <-run.done:
		case <-r.Context().Done():
			if errors.Is(r.Context().Err(), context.DeadlineExceeded) {
				return nil, p.hangs(run)
			}
			return nil, r.Context().Err()
		}
		if run.err != nil {
			return nil, run.err
		}
		if run.token != "" {
			r = r.Clone(r.Context())
			r.Header.Set("Authorization", "Bearer "+run.token)
		}
		resp, err := p.below.RoundTrip(r)
		if err != nil || resp.StatusCode != http.StatusUnauthorized {
			return resp, err
		}
		p.mu.Lock()
		if p.last == run {
			p.last = nil
		}
		p.mu.Unlock()
		if fresh || r.Body != nil {
			return refusedToken(resp)
		}
		resp.Body.Close()
		run, _ = p.run()
		fresh = true
	}
}

// refusedToken has an answer tell that the clock here is wrong, where it is: tokens are valid for some minutes only.
func refusedToken(resp *http.Response) (*http.Response, error) {
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil || credentials.Skew(date) == "" {
		return resp, nil
	}
	resp.Body.Close()
	return nil, &fault{Unauthorized, errors.New(resp.Status), credentials.Skew(date)}
}

// WrappedRoundTripper lets the transport below be found, for its idle connections.
func (p *plugin) WrappedRoundTripper() http.RoundTripper { return p.below }

// run is the run whose credentials are to be used: the last one, or a new one where that has none that are still valid.
// fresh says that it has not ended before.
func (p *plugin) run() (run *pluginRun, fresh bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != nil {
		select {
		case <-p.last.done:
			now := time.Now()
			if p.last.err != nil || !p.last.expires.IsZero() && !now.Before(p.last.expires) {
				break
			}
			if p.next == nil && !p.last.expires.IsZero() && !now.Before(p.last.renew) {
				p.next = p.begin()
			}
			return p.last, false
		default:
			return p.last, true
		}
	}
	if p.next == nil {
		p.next = p.begin()
	}
	p.last, p.next = p.next, nil
	return p.last, true
}

// begin runs the plugin. The plugin's mu is locked.
func (p *plugin) begin() *pluginRun {
	run := &pluginRun{began: time.Now(), done: make(chan struct{})}
	go func() {
		defer close(run.done)
		run.err = p.execute(run)
		p.mu.Lock()
		defer p.mu.Unlock()
		run.postpone()
		if p.next != run {
			return // it is the last one already
		}
		if p.next = nil; run.err == nil {
			p.last = run
		} else if p.last != nil && p.life.Err() == nil {
			if p.last.postpone(); !p.last.failed {
				slog.Warn(OfCluster(p.cluster, "credentials cannot be renewed; those in use are still valid"),
					"until", p.last.expires.Format(time.RFC3339), "err", Explain("renew credentials", run.err).Text)
			}
			p.last.failed = true
		}
	}()
	return run
}

// postpone sets when it is time for the next run, by what is left of the time that the credentials hold for.
func (run *pluginRun) postpone() {
	run.renew = run.expires.Add(-min(renewTime, time.Until(run.expires)/5))
}

// execute runs the plugin and uses what it prints. Nothing of that is in the error.
func (p *plugin) execute(run *pluginRun) error {
	ctx, cancel := context.WithTimeout(p.life, p.time)
	defer cancel()
	var out, why limitedBuffer
	cmd := exec.CommandContext(ctx, p.config.Command, p.config.Args...)
	// All are pipes: an image made from scratch may have no /dev/null.
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = p.env, strings.NewReader(""), &out, io.Discard
	if p.native != "" {
		cmd.Stderr = &why
	}
	// It is killed with all that it has started, and what outlives it does not keep it waited for.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Start()
	if err == nil {
		orphaned.begun(cmd.Process.Pid)
		err = cmd.Wait()
		patience := time.Duration(0)
		if ctx.Err() != nil {
			patience = cmd.WaitDelay
		}
		orphaned.ended(cmd.Process.Pid, patience)
	}
	exit, _ := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
	case len(out) > maxPluginOutput:
		return p.fault("run it by hand to see what", "prints more than %d bytes", maxPluginOutput)
	case ctx.Err() != nil:
		return p.hangs(run)
	case is(err, exec.ErrNotFound, fs.ErrNotExist):
		wayOut := useToken
		if credentials.Known(p.config.Command, p.config.Args) {
			wayOut = useNative + ", or " + wayOut
		}
		return &fault{Configuration, errors.New("the kubeconfig's credentials come from an exec plugin that is not " +
			"installed here: " + shown(p.config.Command)), wayOut}
	case p.native != "" && exit != nil && exit.ExitCode() == credentials.Refused:
		what, wayOut, _ := strings.Cut(strings.TrimSpace(string(why)), "\n")
		reason := Configuration
		if wayOut == credentials.CheckNetwork {
			reason = Network
		}
		return &fault{reason, errors.New(what), wayOut}
	case exit != nil && exit.Exited():
		return p.fault("run it by hand to see why", "failed with exit code %d", exit.ExitCode())
	default:
		return p.fault("check the kubeconfig's exec plugin", "failed: %s", err)
	}
	var printed clientauthentication.ExecCredential
	if yaml.Unmarshal(out, &printed) != nil || printed.Kind != "ExecCredential" ||
		printed.APIVersion != p.config.APIVersion || printed.Status == nil {
		return p.fault("update the plugin or the apiVersion in the kubeconfig",
			"prints no ExecCredential of %s with a status", p.config.APIVersion)
	}
	return p.use(run, printed.Status)
}

// use takes in what a run has brought.
func (p *plugin) use(run *pluginRun, status *clientauthentication.ExecCredentialStatus) error {
	if run.token = status.Token; status.ExpirationTimestamp != nil {
		run.expires = status.ExpirationTimestamp.Time
	}
	var certificate *tls.Certificate
	if status.ClientCertificateData != "" || status.ClientKeyData != "" {
		pair, err := tls.X509KeyPair([]byte(status.ClientCertificateData), []byte(status.ClientKeyData))
		if err != nil {
			return p.fault("update the plugin", "prints a client certificate and key that cannot be used")
		}
		certificate = &pair
	} else if run.token == "" {
		return p.fault("update the plugin", "prints neither a token nor a client certificate")
	}
	p.mu.Lock()
	rotated := p.pem != "" && p.pem != status.ClientCertificateData
	p.certificate, p.pem = certificate, status.ClientCertificateData
	p.mu.Unlock()
	if rotated {
		p.rotated()
	}
	return nil
}

// clientCertificate is the present client certificate, nil where there is none. A request waits for its credentials
// before it connects.
func (p *plugin) clientCertificate() (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.certificate, nil
}

func (p *plugin) hangs(run *pluginRun) error {
	return p.fault("run it by hand to see what it waits for (here it has no terminal)",
		"has not answered within %s", time.Since(run.began).Round(time.Second))
}

// fault says what the plugin does. What it prints is not shown: it is meant to print a token.
func (p *plugin) fault(wayOut, format string, args ...any) error {
	what := fmt.Errorf("the exec plugin %s %s", shown(p.config.Command), fmt.Sprintf(format, args...))
	if p.native != "" {
		what = fmt.Errorf("the answer in place of the exec plugin %s %s", shown(p.native), fmt.Sprintf(format, args...))
	}
	return &fault{Configuration, what, wayOut + ", or " + useToken}
}

// limitedBuffer keeps what is written to it, and fails once that is more than maxPluginOutput.
type limitedBuffer []byte

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if *b = append(*b, p...); len(*b) > maxPluginOutput {
		return 0, errTooLong
	}
	return len(p), nil
}
