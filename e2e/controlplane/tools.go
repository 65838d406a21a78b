package controlplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// tool is a program that the tests need, built from its published source.
type tool struct {
	name    string
	version string
	module  string   // the module that has this version
	pkg     string   // what `go install` builds; empty: the small module in tools/NAME, see there why
	flags   []string // for the build
	// replaced says that pkg needs the replacements of the small module in tools/NAME, which `go install` does not take.
	replaced bool
	// seldom is one that is built only when it is asked for.
	seldom bool
}

// tools lists all of them; Tool finds them by name.
var tools = []tool{
	{name: "etcd", version: "v3.7.3", module: "go.etcd.io/etcd/server/v3"},
	{name: "kube-apiserver", version: "v1.37.2", module: "k8s.io/kubernetes"},
	{name: "kubectl", version: "v0.37.2", module: "k8s.io/kubectl"},
	{name: "kwok", version: "v0.8.0", module: "sigs.k8s.io/kwok", pkg: "sigs.k8s.io/kwok/cmd/kwok"},
	{name: "metrics-server", version: "v0.9.0", module: "sigs.k8s.io/metrics-server",
		pkg: "sigs.k8s.io/metrics-server/cmd/metrics-server"},
	// Without the tag a dependency of Prometheus' service discoveries is missing.
	{name: "prometheus", version: "v0.316.0", module: "github.com/prometheus/prometheus",
		pkg: "github.com/prometheus/prometheus/cmd/prometheus", flags: []string{"-tags=remove_all_sd"}},
	{name: "promtool", version: "v0.316.0", module: "github.com/prometheus/prometheus",
		pkg: "github.com/prometheus/prometheus/cmd/promtool", flags: []string{"-tags=remove_all_sd"}},
	// Without the tag its protobuf messages do not fit Prometheus' labels, and it panics.
	{name: "thanos", version: "v0.42.0", module: "github.com/thanos-io/thanos",
		pkg: "github.com/thanos-io/thanos/cmd/thanos", flags: []string{"-tags=slicelabels"}, replaced: true, seldom: true},
}

// Tool is the path of a program (a name in tools), which is built if this machine does not have it yet. All of them
// together take 20 minutes on two cores; they stay in the user's cache folder for later runs.
func Tool(name string) (string, error) {
	for _, t := range tools {
		if t.name == name {
			return t.build()
		}
	}
	return "", fmt.Errorf("no tool named %q", name)
}

// BuildTools builds all that is missing, but for what is seldom needed, so that no test's own time is spent on that.
func BuildTools() error {
	for _, t := range tools {
		if t.seldom {
			continue
		}
		if _, err := t.build(); err != nil {
			return err
		}
	}
	return nil
}

// CacheDir is the folder that built programs stay in.
func CacheDir() (string, error) {
	user, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(user, "metrics-server-prom-e2e")
	return dir, os.MkdirAll(dir, 0o755)
}

// ModuleDir is the folder of this Go module, e2e; its parent is the project's root.
func ModuleDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module metrics-server-prom/e2e\n") {
			return dir, nil
		}
	}
	return "", errors.New("the working folder is not inside the module metrics-server-prom/e2e")
}

func (t tool) build() (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, t.name+"-"+t.version)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}

	// Two test binaries that start together build once.
	lock, err := os.Create(filepath.Join(cache, "lock"))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}

	fmt.Fprintf(os.Stderr, "e2e: building %s %s, once for this machine; all tools take about 20 minutes on two cores. "+
		"go test ends after 10"+
		" by default: run it with -timeout 60m, or go -C e2e run ./build first; what is built is kept\n", t.name,
		t.version)
	start := time.Now()
	work, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	cmd, err := t.command(work)
	if err != nil {
		return "", err
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=", "GOBIN="+work)
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s %s: %w\n%s", t.name, t.version, err, output)
	}
	if err := os.Rename(filepath.Join(work, t.name), path); err != nil {
		return "", err
	}
	fmt.Fprintf(os.Stderr, "e2e: built %s in %s\n", t.name, time.Since(start).Round(time.Second))
	return path, nil
}

// command builds the tool into the folder work.
func (t tool) command(work string) (*exec.Cmd, error) {
	flags := append([]string{"-ldflags=-s -w"}, t.flags...)
	if t.pkg != "" && !t.replaced {
		cmd := exec.Command("go", append(append([]string{"install"}, flags...), t.pkg+"@"+t.version)...)
		cmd.Dir = work // outside of any module
		return cmd, nil
	}
	dir, err := ModuleDir()
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, "tools", t.name)
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return nil, err
	}
	if required := regexp.QuoteMeta(t.module + " " + t.version); !regexp.MustCompile(required + `\s`).Match(mod) {
		return nil, fmt.Errorf("%s/go.mod does not require %s %s: it and the list of tools must name the same version",
			dir, t.module, t.version)
	}
	pkg := t.pkg
	if pkg == "" {
		pkg = "."
	}
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", filepath.Join(work, t.name), pkg)...)
	cmd.Dir = dir
	return cmd, nil
}

// sourceDir is the folder of the tool's source in the module cache.
func sourceDir(name string) (string, error) {
	for _, t := range tools {
		if t.name != name {
			continue
		}
		cmd := exec.Command("go", "mod", "download", "-json", t.module+"@"+t.version)
		cmd.Dir = os.TempDir() // outside of any module
		output, err := cmd.Output()
		var module struct{ Dir, Error string }
		if jsonErr := json.Unmarshal(output, &module); jsonErr != nil || module.Dir == "" {
			return "", fmt.Errorf("go mod download %s@%s: %w %s", t.module, t.version, errors.Join(err, jsonErr),
				module.Error)
		}
		return module.Dir, nil
	}
	return "", fmt.Errorf("no tool named %q", name)
}
