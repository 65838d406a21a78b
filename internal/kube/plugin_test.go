package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const pluginVersion = "client.authentication.k8s.io/v1"

// execCredential is what a plugin prints, with a status in JSON.
func execCredential(status string) string {
	return `{"apiVersion": "` + pluginVersion + `", "kind": "ExecCredential", "status": {` + status + `}}`
}

// pluginConfig is a client of the server that gets its credentials from a shell script. In the script $DIR is a
// directory of its own.
func pluginConfig(t *testing.T, server *httptest.Server, script string) (config *rest.Config, dir string) {
	dir = t.TempDir()
	return &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		ExecProvider: &clientcmdapi.ExecConfig{
			Command: "/bin/sh", Args: []string{write(t, "plugin", script), secret}, APIVersion: pluginVersion,
			Env: []clientcmdapi.ExecEnvVar{{Name: "DIR", Value: dir}, {Name: "SECRET", Value: secret}},
		}}, dir
}

// get makes a request by a transport whose plugin may run for as long as patience.
func (t *transport) get(ctx context.Context, server string, patience time.Duration) (status int, err error) {
	if patience > 0 {
		t.plugin().time = patience
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server, nil)
	if err != nil {
		return 0, err
	}
	resp, err := t.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// plugin is the transport's plugin.
func (t *transport) plugin() *plugin {
	next := t.client.Transport
	for {
		if p, ok := next.(*plugin); ok {
			return p
		}
		next = next.(interface{ WrappedRoundTripper() http.RoundTripper }).WrappedRoundTripper()
	}
}

func mustTransport(t *testing.T, config *rest.Config) *transport {
	t.Helper()
	tr, err := newTransport(config, func(_, _, _ string) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.close)
	return tr
}

// awaitEnd waits until the process has ended whose id is in a file.
func awaitEnd(t *testing.T, pidFile string) {
	t.Helper()
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		// An orphan that was killed stays as a zombie where process 1 does not wait for its children.
		if _, state, _ := strings.Cut(string(stat), ") "); err != nil || strings.HasPrefix(state, "Z") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d still runs", pid)
		}
	}
}

// TestPluginThatHangsIsEnded looks at each way in which a plugin may not come to an end, and at what it leaves running.
func TestPluginThatHangsIsEnded(t *testing.T) {
	server := serve(t, answer(200, ""))
	for name, c := range map[string]struct{ script, want string }{
		"it sleeps": {"echo $$ >$DIR/pid; exec sleep 1000",
			"has not answered within 2s; run it by hand to see what it waits for"},
		"it ignores signals": {"trap '' TERM INT HUP; echo $$ >$DIR/pid; while :; do sleep 1000; done",
			"has not answered"},
		"a program that it runs hangs": {"sleep 1000 & echo $! >$DIR/pid; wait", "has not answered"},
		"it prints without end": {"echo $$ >$DIR/pid; exec yes",
			"prints more than 1048576 bytes; run it by hand to see what"},
		"it waits for a terminal": {"echo $$ >$DIR/pid; read answer; exit 4", "failed with exit code 4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			patience := 2 * time.Second
			if !strings.HasPrefix(c.want, "has not") {
				patience = pluginTime
			}
			config, dir := pluginConfig(t, server, c.script)
			tr := mustTransport(t, config)
			_, err := tr.get(t.Context(), server.URL, patience)
			checkExplained(t, "list pods", err, Configuration, 0, "cannot list pods: the exec plugin /bin/sh "+c.want)
			awaitEnd(t, filepath.Join(dir, "pid"))
		})
	}
}

// TestPluginWhoseChildOutlivesItHasAnswered is an agent that a plugin starts, and that holds on to the plugin's output.
func TestPluginWhoseChildOutlivesItHasAnswered(t *testing.T) {
	server := serve(t, answer(200, ""))
	config, dir := pluginConfig(t, server, "sleep 1000 & echo $! >$DIR/pid\necho '"+execCredential(`"token": "t"`)+"'")
	if status, err := mustTransport(t, config).get(t.Context(), server.URL, 0); err != nil || status != 200 {
		t.Errorf("%d %v", status, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

func TestRequestWaitsForAPluginNoLongerThanItsContext(t *testing.T) {
	server := serve(t, answer(200, ""))
	config, _ := pluginConfig(t, server, "exec sleep 1000")
	tr := mustTransport(t, config)
	late, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := tr.get(late, server.URL, 0)
	checkExplained(t, "list pods", err, Configuration, 0,
		"the exec plugin /bin/sh has not answered within 0s; run it by hand to see what it waits for (here it has "+
			"no terminal), or use")
	ended, end := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, end)
	if _, err := tr.get(ended, server.URL, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a request that is given up ends with: %v", err)
	}
}

func TestRequestsWaitForOneRunOfThePlugin(t *testing.T) {
	t.Parallel()
	server := serve(t, answer(200, ""))
	config, dir := pluginConfig(t, server, "echo run >>$DIR/runs; exec sleep 1000")
	tr := mustTransport(t, config)
	var wg sync.WaitGroup
	tr.get(t.Context(), server.URL, 2*time.Second)
	for range 10 {
		wg.Go(func() {
			if _, err := tr.get(t.Context(), server.URL, 0); err == nil {
				t.Error("no error")
			}
		})
	}
	wg.Wait()
	if runs, _ := os.ReadFile(filepath.Join(dir, "runs")); strings.Count(string(runs), "\n") != 2 {
		t.Errorf("it was run %d times, want once for the first request and once for all others",
			strings.Count(string(runs), "\n"))
	}
}

// TestPluginThatHungIsRunAgain is a plugin that waited for a network that is back, and one that was repaired.
func TestPluginThatHungIsRunAgain(t *testing.T) {
	server := serve(t, answer(200, ""))
	config, dir := pluginConfig(t, server,
		"[ -e $DIR/repaired ] || exec sleep 1000\necho '"+execCredential(`"token": "t"`)+"'")
	tr := mustTransport(t, config)
	if _, err := tr.get(t.Context(), server.URL, 300*time.Millisecond); err == nil {
		t.Fatal("it does not hang")
	}
	if err := os.WriteFile(filepath.Join(dir, "repaired"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if status, err := tr.get(t.Context(), server.URL, pluginTime); err != nil || status != 200 {
		t.Errorf("after its repair: %d %v", status, err)
	}
}

func TestClosedTransportEndsThePlugin(t *testing.T) {
	server := serve(t, answer(200, ""))
	config, dir := pluginConfig(t, server, "echo $$ >$DIR/~; mv $DIR/~ $DIR/pid; exec sleep 1000")
	tr := mustTransport(t, config)
	ended := make(chan error)
	go func() {
		_, err := tr.get(t.Context(), server.URL, time.Hour)
		ended <- err
	}()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "pid")); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal("the plugin does not begin")
		}
	}
	tr.close()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
	awaitEnd(t, filepath.Join(dir, "pid"))
}

func TestPluginThatGivesNoCredentials(t *testing.T) {
	server := serve(t, answer(200, ""))
	for name, c := range map[string]struct{ script, want string }{
		"it fails and tells secrets": {`echo "$SECRET $1"; echo "$SECRET $1" >&2; exit 3`,
			"failed with exit code 3; run it by hand to see why"},
		"it is killed": {"kill -9 $$", "failed: signal: killed; check the kubeconfig's exec plugin"},
		"it prints nothing": {"", "prints no ExecCredential of " + pluginVersion +
			" with a status; update the plugin or the apiVersion"},
		"it prints a secret": {`echo "$SECRET"`, "prints no ExecCredential"},
		"it prints another kind": {`echo '{"apiVersion": "` + pluginVersion +
			`", "kind": "'$SECRET'", "status": {"token": "t"}}'`, "prints no ExecCredential"},
		"it prints another " +
			"version": {`echo '{"apiVersion": "'$SECRET'", "kind": "ExecCredential", "status": {"token": "t"}}'`,
			"prints no ExecCredential"},
		"it prints no status": {`echo '{"apiVersion": "` + pluginVersion + `", "kind": "ExecCredential"}'`,
			"prints no ExecCredential"},
		"it prints an empty status": {"echo '" + execCredential("") + "'",
			"prints neither a token nor a client certificate; update the plugin"},
		"it prints a certificate alone": {"echo '" + execCredential(`"clientCertificateData": "c"`) + "'",
			"prints a client certificate and key that cannot be used"},
		"it prints a certificate's like": {"echo '" +
			execCredential(`"clientCertificateData": "`+secret+`", "clientKeyData": "k"`) + "'",
			"prints a client certificate and key that cannot be used"},
	} {
		t.Run(name, func(t *testing.T) {
			config, _ := pluginConfig(t, server, c.script)
			_, err := mustTransport(t, config).get(t.Context(), server.URL, 0)
			checkExplained(t, "list pods", err, Configuration, 0, "cannot list pods: the exec plugin /bin/sh "+c.want)
		})
	}
	config, _ := pluginConfig(t, server, "")
	config.ExecProvider.Command = write(t, "not-executable", "")
	_, err := mustTransport(t, config).get(t.Context(), server.URL, 0)
	checkExplained(t, "list pods", err, Configuration, 0, "not-executable failed: ",
		"permission denied; check the kubeconfig's exec plugin")
}

func TestPluginIsRunAsOftenAsItsTokensEnd(t *testing.T) {
	var accepted, got atomic.Value
	got.Store("")
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got.Store(r.Header.Get("Authorization"))
		if a, _ := accepted.Load().(string); a != "" && "Bearer "+a != r.Header.Get("Authorization") {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	// It prints the content of a file as the status, as YAML.
	config, dir := pluginConfig(t, server,
		`printf 'apiVersion: `+pluginVersion+`\nkind: ExecCredential\nstatus: {%s}\n' "$(cat $DIR/status)"`)
	tr := mustTransport(t, config)
	for _, step := range []struct{ what, status, accepted, want string }{
		{"the first request", "token: one, expirationTimestamp: 2999-01-01T00:00:00Z", "", "200 Bearer one"},
		{"another one", "token: two, expirationTimestamp: 2000-01-01T00:00:00Z", "", "200 Bearer one"},
		{"a token that is refused, and the next one, already expired",
			"token: two, expirationTimestamp: 2000-01-01T00:00:00Z", "two", "200 Bearer two"},
		{"an expired token", "token: three", "", "200 Bearer three"},
		{"a token that does not expire", "token: four", "", "200 Bearer three"},
		{"a new token that is refused too", "token: four", "five", "401 Bearer four"},
		{"the next request after that", "token: five", "five", "200 Bearer five"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "status"), []byte(step.status), 0o600); err != nil {
			t.Fatal(err)
		}
		accepted.Store(step.accepted)
		status, err := tr.get(t.Context(), server.URL, 0)
		if got := fmt.Sprintf("%d %s", status, got.Load()); err != nil || got != step.want {
			t.Errorf("%s: %s, %v, want %s", step.what, got, err, step.want)
		}
	}
	for _, token := range []string{"one", "two", "three"} {
		short := len(token) <= 3 // and is not hidden
		if strings.Contains(sent.without("x "+token+token+token), "x "+token) && !short {
			t.Errorf("the token %s is not hidden", token)
		}
	}
}

func TestPluginKnowsTheCluster(t *testing.T) {
	server := serve(t, answer(200, ""))
	for version, c := range map[string]struct {
		cluster bool
		want    string
	}{
		pluginVersion: {false,
			`{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{"interactive":false}}`},
		"client.authentication.k8s.io/v1beta1": {true,
			`{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1beta1",` +
				`"spec":{"cluster":{"server":"` + server.URL +
				`","insecure-skip-tls-verify":true,"config":{"audience":"us"}},"interactive":false}}`},
	} {
		config, dir := pluginConfig(t, server,
			`printf %s "$KUBERNETES_EXEC_INFO" >$DIR/info; printf %s "$HOME" >$DIR/home`)
		config.ExecProvider.APIVersion, config.ExecProvider.ProvideClusterInfo = version, c.cluster
		config.ExecProvider.Config = &runtime.Unknown{Raw: []byte(`{"audience":"us"}`)}
		mustTransport(t, config).get(t.Context(), server.URL, 0)
		if info, err := os.ReadFile(filepath.Join(dir, "info")); err != nil || string(info) != c.want {
			t.Errorf("%s\nwant %s (%v)", info, c.want, err)
		}
		if home, err := os.ReadFile(filepath.Join(dir, "home")); err != nil || string(home) != os.Getenv("HOME") {
			t.Errorf("HOME is %q (%v)", home, err)
		}
	}
}

func TestClientCertificateOfAPlugin(t *testing.T) {
	server := serveClients(t, func(w http.ResponseWriter, r *http.Request) {
		if user := r.TLS.PeerCertificates[0].Subject.CommonName; user != "renewed" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	config, dir := pluginConfig(t, server, `cat $DIR/credential`)
	renew := func(user string) {
		crt, key := filepath.Join(dir, "crt"), filepath.Join(dir, "key")
		writeCertificate(t, user, crt, key)
		c, _ := os.ReadFile(crt)
		k, _ := os.ReadFile(key)
		text := execCredential(fmt.Sprintf(`"clientCertificateData": %q, "clientKeyData": %q`, c, k))
		if err := os.WriteFile(filepath.Join(dir, "credential"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tr := mustTransport(t, config)
	for _, step := range []struct {
		user string
		want int
	}{{"expired", 401}, {"renewed", 200}, {"unused", 200}} {
		renew(step.user)
		if status, err := tr.get(t.Context(), server.URL, 0); err != nil || status != step.want {
			t.Errorf("%s: %d %v, want %d", step.user, status, err, step.want)
		}
	}
}

// TestNoGlobalIsSwappedForAPlugin looks at os.Stderr while the transport is made, and at what a plugin writes to it.
func TestNoGlobalIsSwappedForAPlugin(t *testing.T) {
	stderr := os.Stderr
	t.Cleanup(func() { os.Stderr = stderr })
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	os.Stderr = file
	server := serve(t, answer(200, ""))
	config, _ := pluginConfig(t, server, "echo $SECRET >&2\necho '"+execCredential(`"token": "t"`)+"'")
	config.ExecProvider.ProvideClusterInfo = true
	asked := false
	config.Proxy = func(*http.Request) (*url.URL, error) { // is asked while the transport is made
		if asked = true; os.Stderr != file {
			t.Error("os.Stderr is another file")
		}
		return nil, nil
	}
	tr := mustTransport(t, config)
	if !asked {
		t.Error("the cluster was not looked at")
	}
	if status, err := tr.get(t.Context(), server.URL, 0); err != nil || status != 200 {
		t.Errorf("%d %v", status, err)
	}
	if text, _ := os.ReadFile(file.Name()); len(text) > 0 {
		t.Errorf("the plugin writes to stderr: %s", text)
	}
}

// TestCredentialsAreRenewedBeforeTheyEnd has a plugin whose token is about to end: requests go on with it while the
// plugin runs, once, and go on with it where that run fails.
func TestCredentialsAreRenewedBeforeTheyEnd(t *testing.T) {
	var got atomic.Value
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) { got.Store(r.Header.Get("Authorization")) })
	config, dir := pluginConfig(t, server, `echo run >>$DIR/runs; while [ -e $DIR/wait ]; do sleep 0.01; done
[ ! -e $DIR/fail ] || exit 1
printf 'apiVersion: `+pluginVersion+`\nkind: ExecCredential\nstatus: {token: %s, expirationTimestamp: %s}\n' \
  "$(cat $DIR/token)" 2999-01-01T00:00:00Z`)
	tr := mustTransport(t, config)
	file := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	request := func(want string) {
		t.Helper()
		if status, err := tr.get(t.Context(), server.URL, 0); err != nil || status != 200 || got.Load() != "Bearer "+want {
			t.Errorf("%d %v with %v, want %s", status, err, got.Load(), want)
		}
	}
	runs := func(want int) {
		t.Helper()
		if text, _ := os.ReadFile(filepath.Join(dir, "runs")); strings.Count(string(text), "\n") != want {
			t.Errorf("it was run %d times, want %d", strings.Count(string(text), "\n"), want)
		}
	}
	p := tr.plugin()
	// The next request is late: so much of the token's time is left.
	left := func(left time.Duration) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.last.expires = time.Now().Add(left)
		p.last.renew = time.Now().Add(-time.Second)
	}
	renewed := func() { // or not
		p.mu.Lock()
		next := p.next
		p.mu.Unlock()
		if next != nil {
			<-next.done
		}
	}
	file("token", "one")
	request("one")
	file("token", "two")
	file("wait", "")
	left(time.Minute)
	for range 10 {
		request("one")
	}
	os.Remove(filepath.Join(dir, "wait"))
	renewed()
	request("two")
	runs(2)

	file("fail", "")
	left(time.Minute)
	request("two")
	renewed()
	for range 10 { // it is tried again when a fifth of the minute is left
		request("two")
	}
	runs(3)
	os.Remove(filepath.Join(dir, "fail"))
	file("token", "three")
	left(10 * time.Second)
	request("two")
	renewed()
	request("three")

	file("token", "four")
	left(-time.Second)
	request("four")
	runs(5)
}

func TestHowLongBeforeItsEndATokenIsRenewed(t *testing.T) {
	for holds, want := range map[time.Duration]time.Duration{
		time.Hour: time.Minute, 14 * time.Minute: time.Minute, 5 * time.Minute: time.Minute, time.Minute: 12 * time.Second,
	} {
		run := &pluginRun{expires: time.Now().Add(holds)}
		if run.postpone(); (run.expires.Sub(run.renew) - want).Abs() > time.Second {
			t.Errorf("one of %s: %s before its end, want %s", holds, run.expires.Sub(run.renew), want)
		}
	}
}

// TestRefusedTokenTellsOfAWrongClock has a server whose clock is another one.
func TestRefusedTokenTellsOfAWrongClock(t *testing.T) {
	for name, c := range map[string]struct {
		ahead time.Duration // the server's clock
		want  string
	}{
		"behind": {20*time.Minute + 30*time.Second, "401 Unauthorized; the clock here is 20m"},
		"ahead":  {-20 * time.Minute, " ahead of the server's: correct it"},
		"right":  {time.Second, "the token or certificate is wrong or has expired"},
	} {
		server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(c.ahead).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusUnauthorized)
		})
		config, _ := pluginConfig(t, server, "echo '"+execCredential(`"token": "t"`)+"'")
		err := list(t.Context(), config, Core)
		if err == nil {
			t.Fatal("no error")
		}
		if f := Explain("list pods", err); f.Reason != Unauthorized || !strings.Contains(f.Text, c.want) {
			t.Errorf("%s: %s: %s", name, f.Reason, f.Text)
		}
	}
}
