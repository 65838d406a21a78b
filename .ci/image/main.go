// Command image runs the exporter in the root of its image as Kubernetes and the compose example would, with a pod's
// service account, with a kubeconfig and with those that the tools of EKS, GKE and AKS write, against stand-ins of the
// API server and the clouds, and scrapes it. image.sh prepares the root and calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"

	"metrics-server-prom/demo/standin"
	clouds "metrics-server-prom/internal/credentials/standin"
)

const user = 65532

var (
	root       = flag.String("root", "", "the image's root, mounted read-only")
	account    = flag.String("account", "", "the folder that is mounted there where a pod has its service account's")
	kube       = flag.String("kube", "", "the folder that is mounted as /etc/kube of that root")
	prometheus = flag.String("prometheus", "", "a Prometheus")
	config     = flag.String("prometheus-config", "", "its configuration, which scrapes target:9100")
)

func main() {
	flag.Parse()
	// Inherited by what this thread starts; also Pdeathsig is about the thread.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		exit(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()

	api, err := standin.New(standin.Options{Pods: 100, Containers: 2})
	if err != nil {
		exit(err)
	}
	kubeconfig, err := api.Kubeconfig()
	if err != nil {
		exit(err)
	}
	inCluster, err := mountAccount(api, kubeconfig)
	if err != nil {
		exit(err)
	}
	if err := scrapeAt8080(ctx, api, inCluster...); err != nil {
		exit(fmt.Errorf("as a pod: %w", err))
	}
	if err := mount(*kube, "config", kubeconfig); err != nil {
		exit(err)
	}
	if err := scrapeAt8080(ctx, api); err != nil {
		exit(fmt.Errorf("with a kubeconfig: %w", err))
	}
	for _, cloud := range []string{clouds.EKS, clouds.GKE, clouds.AKS} {
		if err := scrapeInCloud(ctx, api, cloud); err != nil {
			exit(fmt.Errorf("with a kubeconfig of %s: %w", cloud, err))
		}
	}
	if err := mount(*kube, "config", kubeconfig); err != nil {
		exit(err)
	}
	if err := prometheusScrapes(ctx, api); err != nil {
		exit(fmt.Errorf("with %s: %w", *config, err))
	}
}

func exit(err error) {
	fmt.Fprintln(os.Stderr, "image:", err)
	os.Exit(1)
}

// mount puts a file for the exporter's user, and nobody else, into a folder that is mounted.
func mount(folder, name string, content []byte) error {
	path := filepath.Join(folder, name)
	if err := os.WriteFile(path, content, 0o400); err != nil {
		return err
	}
	return os.Chown(path, user, user)
}

// mountAccount puts what a pod has of its service account, and returns what its environment has of the API server.
func mountAccount(api *standin.Server, kubeconfig []byte) (env []string, err error) {
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{
		"token": []byte(config.BearerToken), "ca.crt": api.CAData(), "namespace": []byte("metrics-server-prom"),
	} {
		if err := mount(*account, name, content); err != nil {
			return nil, err
		}
	}
	server, err := url.Parse(api.URL())
	if err != nil {
		return nil, err
	}
	return []string{"KUBERNETES_SERVICE_HOST=" + server.Hostname(), "KUBERNETES_SERVICE_PORT=" + server.Port()}, nil
}

// A cold start shall listen within 100 ms and have its first page of 100 pods within 0.5 s, on two cores that do
// nothing else. The figures are printed; as machines are busy, only what no load explains is an error.
const (
	listeningAtMost = 2 * time.Second
	pageAtMost      = 5 * time.Second
)

// scrapeAt8080 starts the exporter, looks at how it runs, takes one page with all pods and ends it.
func scrapeAt8080(ctx context.Context, api *standin.Server, env ...string) error {
	start := time.Now()
	exporter, err := startExporter(append([]string{"PORT=8080"}, env...)...)
	if err != nil {
		return err
	}
	defer exporter.Process.Kill()
	if _, err := await(ctx, "http://127.0.0.1:8080/-/healthy"); err != nil {
		return err
	}
	listening := time.Since(start)
	page, err := get(ctx, "http://127.0.0.1:8080/metrics")
	if err != nil {
		return err
	}
	complete := time.Since(start)
	if listening > listeningAtMost || complete > pageAtMost {
		return fmt.Errorf("listening after %s and the first page after %s: at most %s and %s are allowed",
			listening, complete, listeningAtMost, pageAtMost)
	}
	if err := checkProcess(exporter.Process.Pid); err != nil {
		return err
	}
	if err := checkPage(page, api); err != nil {
		return err
	}
	if err := exporter.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	begin := time.Now()
	if err := exporter.Wait(); err != nil {
		return fmt.Errorf("end after SIGTERM: %w", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		return fmt.Errorf("the end took %s", took)
	}
	how := "kubeconfig"
	if len(env) > 0 && strings.HasPrefix(env[0], "KUBERNETES_SERVICE_HOST=") {
		how = "service account"
	}
	fmt.Printf("with a %s listening after %s, first page with %d pods after %s\n",
		how, listening.Round(time.Millisecond), len(api.Pods()), complete.Round(time.Millisecond))
	return nil
}

// scrapeInCloud has the kubeconfig that a cloud's own tool writes, stand-ins for the cloud, and none of its programs.
func scrapeInCloud(ctx context.Context, api *standin.Server, cloud string) error {
	c, err := clouds.New(*kube, func(*clouds.Clouds) {})
	if err != nil {
		return err
	}
	defer c.Close()
	api.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if err := c.Takes(r.Header.Get("Authorization")); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		r.Header.Set("Authorization", "Bearer "+api.RESTConfig().BearerToken)
		next.ServeHTTP(w, r)
	})
	defer api.Intercept(nil)
	access, err := c.Access(cloud)
	if err != nil {
		return err
	}
	if err := mount(*kube, "config", []byte(clouds.Kubeconfig(cloud, api.URL(), api.CAData()))); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(*kube, "*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := os.Chown(file, user, user); err != nil {
			return err
		}
	}
	var env []string
	for _, variable := range append(c.Env(), access...) {
		env = append(env, strings.ReplaceAll(variable, *kube, "/etc/kube"))
	}
	fmt.Print(cloud, ": ")
	return scrapeAt8080(ctx, api, env...)
}

func startExporter(env ...string) (*exec.Cmd, error) {
	c := exec.Command("/metrics-server-prom")
	c.Dir = "/"
	c.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=image"}, env...)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{
		Chroot:     *root,
		Credential: &syscall.Credential{Uid: user, Gid: user},
		Cloneflags: syscall.CLONE_NEWPID, // process 1, as in any container
		Pdeathsig:  syscall.SIGKILL,
	}
	return c, c.Start()
}

// checkProcess sees that the exporter is what it is meant to be here, or all of this would prove nothing.
func checkProcess(pid int) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	for _, line := range []string{
		fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d", user), fmt.Sprintf("Gid:\t%d\t%[1]d\t%[1]d\t%[1]d", user),
		"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1",
	} {
		if !strings.Contains(string(status), line+"\n") {
			return fmt.Errorf("the exporter's status has no line %q:\n%s", line, status)
		}
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return err
	}
	var mount unix.Statfs_t
	if err := unix.Statfs(path, &mount); err != nil {
		return err
	}
	if path != *root || mount.Flags&unix.ST_RDONLY == 0 {
		return fmt.Errorf("the exporter's root is %s, with mount flags %#x: not %s read-only", path, mount.Flags, *root)
	}
	return nil
}

func checkPage(page string, api *standin.Server) error {
	samples := map[string]bool{}
	for line := range strings.Lines(page) {
		if sample, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok {
			if v, err := strconv.ParseFloat(value, 64); err != nil || v < 0 {
				return fmt.Errorf("not a usage: %s", line)
			}
			samples[sample+"}"] = true
		}
	}
	for _, family := range []string{"cpu", "mem"} {
		for _, p := range api.Pods() {
			for _, c := range p.Containers {
				want := fmt.Sprintf("kube_metrics_server_pod_%s{node=%q,pod=%q,ip=%q,container=%q,namespace=%q}",
					family, p.Node, p.Name, p.IP, c, p.Namespace)
				if !samples[want] {
					return fmt.Errorf("the page has no %s", want)
				}
			}
		}
		for _, n := range api.Nodes() {
			if want := fmt.Sprintf("kube_metrics_server_node_%s{node=%q}", family, n); !samples[want] {
				return fmt.Errorf("the page has no %s", want)
			}
		}
	}
	return nil
}

// prometheusScrapes starts the exporter at its own default port and the real Prometheus with the example's
// configuration, until Prometheus has every container under its own labels.
func prometheusScrapes(ctx context.Context, api *standin.Server) error {
	exporter, err := startExporter()
	if err != nil {
		return err
	}
	defer exporter.Process.Kill()
	if _, err := await(ctx, "http://target:9100/-/healthy"); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "metrics-server-prom-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	log := &strings.Builder{}
	const address = "127.0.0.1:9090"
	p := exec.Command(*prometheus, "--config.file="+*config, "--storage.tsdb.path="+dir, "--web.listen-address="+address)
	p.Stdout, p.Stderr = log, log
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.Start(); err != nil {
		return err
	}
	defer func() { p.Process.Kill(); p.Wait() }()

	want := 0
	for _, pod := range api.Pods() {
		want += len(pod.Containers)
	}
	const query = `count(kube_metrics_server_pod_cpu{namespace!="",pod!="",exported_pod=""})`
	url := "http://" + address + "/api/v1/query?" + url.Values{"query": {query}}.Encode()
	value := regexp.MustCompile(`"value":\[[0-9.]+,"(\d+)"\]`)
	for {
		answer, err := await(ctx, url)
		if err != nil {
			p.Process.Kill()
			p.Wait()
			return fmt.Errorf("%w\n%s", err, log)
		}
		if m := value.FindStringSubmatch(answer); m != nil {
			if m[1] != strconv.Itoa(want) {
				return fmt.Errorf("%s containers in Prometheus, not %d", m[1], want)
			}
			fmt.Printf("Prometheus with the example's configuration has all %d containers\n", want)
			return nil
		}
		time.Sleep(200 * time.Millisecond) // Prometheus tells nobody when it has scraped
	}
}

// errNotYet is a server's answer that it is not ready, 503.
var errNotYet = errors.New("not ready")

// await asks until there is an answer: what was started may not listen yet, or not be ready.
func await(ctx context.Context, url string) (string, error) {
	for {
		text, err := get(ctx, url)
		if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, errNotYet) || ctx.Err() != nil {
			return text, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func get(ctx context.Context, url string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode == http.StatusServiceUnavailable {
		err = fmt.Errorf("%s: %w: %s", url, errNotYet, body)
	} else if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return string(body), err
}
