package kube

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// several is a kubeconfig with contexts given as NAME=SERVER or NAME=SERVER/TOKEN, each with a user of its own.
func several(contexts ...string) string {
	var clusters, users, all strings.Builder
	for _, c := range contexts {
		name, server, _ := strings.Cut(c, "=")
		server, token, _ := strings.Cut(server, "/")
		fmt.Fprintf(&clusters, "- name: c-%s\n  cluster: {server: 'http://%s'}\n", name, server)
		fmt.Fprintf(&users, "- name: u-%s\n  user: {token: 'token %s'}\n", name, token)
		fmt.Fprintf(&all, "- name: %s\n  context: {cluster: c-%[1]s, user: u-%[1]s}\n", name)
	}
	return "apiVersion: v1\nkind: Config\nclusters:\n" + clusters.String() + "users:\n" + users.String() + "contexts:\n" +
		all.String()
}

// mounted writes files as a mounted Secret has them: of one version after the other, each in a folder of its own.
func mounted(t *testing.T, folder string) func(files map[string]string) {
	version := 0
	return func(files map[string]string) {
		version++
		now := fmt.Sprintf("..version_%d", version)
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		check(os.Mkdir(filepath.Join(folder, now), 0o700))
		for name, text := range files {
			check(os.WriteFile(filepath.Join(folder, now, name), []byte(text), 0o600))
			os.Symlink(filepath.Join("..data", name), filepath.Join(folder, name))
		}
		check(os.Symlink(now, filepath.Join(folder, "..data_tmp")))
		check(os.Rename(filepath.Join(folder, "..data_tmp"), filepath.Join(folder, "..data")))
		links, _ := os.ReadDir(folder)
		for _, link := range links {
			if name := link.Name(); !strings.HasPrefix(name, "..") && files[name] == "" {
				check(os.Remove(filepath.Join(folder, name)))
			}
		}
	}
}

func TestFollowSeveralClusters(t *testing.T) {
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
	slog.SetDefault(slog.New(slog.DiscardHandler))
	type step struct {
		what string
		do   func()
		want []string // what happens, as CLUSTER EVENT
	}
	folder := t.TempDir()
	file := filepath.Join(folder, "config")
	replace := func(text string) func() {
		return func() {
			if os.WriteFile(file+"~", []byte(text), 0o600) != nil || os.Rename(file+"~", file) != nil {
				t.Error("cannot write")
			}
		}
	}
	mount := filepath.Join(folder, "mount")
	os.Mkdir(mount, 0o700)
	secret := mounted(t, mount)
	one := func(context string) string {
		name, _, _ := strings.Cut(context, "=")
		return several(context) + "current-context: " + name + "\n"
	}
	nothing := func() {}
	for name, c := range map[string]struct {
		Settings
		steps []step
	}{
		"all contexts": {Settings{Kubeconfig: file, AllContexts: true}, []step{
			{"there is no kubeconfig", func() { os.Remove(file) }, []string{"looked config"}},
			{"there is one of two", replace(several("a=one", "b=two")), []string{"a runs one", "b runs two", "looked well"}},
			{"it stays", nothing, []string{"looked well"}},
			{"a third comes", replace(several("c=three", "a=one", "b=two")), []string{"c runs three", "looked well"}},
			{"the server of one changes", replace(several("a=one", "b=two2", "c=three")),
				[]string{"b ends", "b runs two2", "looked well"}},
			{"the token of one changes", replace(several("a=one/new", "b=two2", "c=three")),
				[]string{"a ends", "a runs one", "looked well"}},
			{"one goes", replace(several("a=one/new", "c=three")), []string{"b ended", "b ends", "b gone", "looked well"}},
			{"it is there again", replace(several("a=one/new", "b=two", "c=three")), []string{"b runs two", "looked well"}},
			{"one changes its name", replace(several("a=one/new", "b=two", "d=three")),
				[]string{"c ended", "c ends", "c gone", "d runs three", "looked well"}},
			{"the kubeconfig is broken", replace("{"), []string{"looked config"}},
			{"and cannot be read", func() { os.Remove(file); os.Symlink(file, file) }, []string{"looked config"}},
			{"it is whole again", replace(several("a=one/new", "d=three4")),
				[]string{"b ended", "b ends", "b gone", "d ends", "d runs three4", "looked well"}},
			{"it has no context", replace(several()),
				[]string{"a ended", "a ends", "a gone", "d ended", "d ends", "d gone", "looked config"}},
			{"nothing is left", nothing, []string{"looked config"}},
		}},
		"contexts by name": {Settings{Kubeconfig: file, Contexts: []Named{{"eu", "a"}, {"us", "b"}}}, []step{
			{"there is no kubeconfig", func() { os.Remove(file) },
				[]string{"eu fails config", "looked well", "us fails config"}},
			{"it has one of them", replace(several("a=one", "c=three")),
				[]string{"eu runs one", "looked well", "us fails config"}},
			{"and both", replace(several("a=one", "b=two", "c=three")), []string{"looked well", "us runs two"}},
			{"what is not named changes", replace(several("a=one", "b=two", "c=other")), []string{"looked well"}},
			{"one is taken away", replace(several("b=two")), []string{"eu ends", "eu fails config", "looked well"}},
			{"the kubeconfig is broken", replace("{"), []string{"eu fails config", "looked config"}},
			{"one is back", replace(several("a=one", "b=two")), []string{"eu runs one", "looked well"}},
		}},
		"a folder": {Settings{Kubeconfig: mount}, []step{
			{"it is empty", nothing, []string{"looked config"}},
			{"it has two files", func() { secret(map[string]string{"a": one("x=one"), "b": one("x=two")}) },
				[]string{"a runs one", "b runs two", "looked well"}},
			{"all is written anew as it was", func() { secret(map[string]string{"a": one("x=one"), "b": one("x=two")}) },
				[]string{"looked well"}},
			{"one changes", func() { secret(map[string]string{"a": one("x=one"), "b": one("x=two2")}) },
				[]string{"b ends", "b runs two2", "looked well"}},
			{"one comes", func() { secret(map[string]string{"a": one("x=one"), "b": one("x=two2"), "c": one("z=three")}) },
				[]string{"c runs three", "looked well"}},
			{"one is broken", func() { secret(map[string]string{"a": one("x=one"), "b": "{", "c": one("z=three")}) },
				[]string{"b ends", "b fails config", "looked well"}},
			{"one goes", func() { secret(map[string]string{"a": one("x=one"), "b": "{"}) },
				[]string{"b fails config", "c ended", "c ends", "c gone", "looked well"}},
			{"what is no file comes", func() {
				os.Mkdir(filepath.Join(mount, "folder"), 0o700)
				os.WriteFile(filepath.Join(mount, ".hidden"), []byte(one("x=hidden")), 0o600)
				os.Symlink("nowhere", filepath.Join(mount, "dangling"))
			}, []string{"b fails config", "looked well"}},
			{"one of several contexts, of which none is current", func() {
				os.Remove(filepath.Join(mount, "folder"))
				secret(map[string]string{"a": several("x=one", "z=two"), "b": one("x=two")})
			}, []string{"a ends", "a fails config", "b runs two", "looked well"}},
			{"the folder cannot be read", func() { os.Rename(mount, mount+"~"); os.Symlink(mount, mount) },
				[]string{"looked config"}},
			{"it is gone", func() { os.Remove(mount) },
				[]string{"a ended", "a gone", "b ended", "b ends", "b gone", "looked config"}},
			{"it is back", func() { os.Rename(mount+"~", mount) }, []string{"a fails config", "b runs two", "looked well"}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var events []string
				running := map[string]bool{}
				event := func(format string, args ...any) {
					mu.Lock()
					defer mu.Unlock()
					events = append(events, fmt.Sprintf(format, args...))
				}
				s := &Clusters{Settings: c.Settings, Several: c.Settings.Several(), Looked: func(f *Failure) {
					if f != nil {
						event("looked %s", f.Reason)
					} else {
						event("looked well")
					}
				}}
				s.Open = func(name string) *Cluster {
					return &Cluster{Report: func(_, _, _ string) {},
						Failed: func(f *Failure) { event("%s fails %s", name, f.Reason) },
						Gone:   func() { event("%s gone", name) },
						Ended: func() {
							mu.Lock()
							defer mu.Unlock()
							if events = append(events, name+" ended"); running[name] {
								t.Errorf("%s has ended while it runs", name)
							}
						},
						Run: func(ctx context.Context, client func(schema.GroupVersion) rest.Interface) {
							mu.Lock()
							if running[name] {
								t.Errorf("%s runs twice", name)
							}
							running[name] = true
							mu.Unlock()
							event("%s runs %s", name, client(Core).Get().URL().Host)
							<-ctx.Done()
							time.Sleep(2 * time.Second) // until all of it has ended
							event("%s ends", name)
							mu.Lock()
							running[name] = false
							mu.Unlock()
						}}
				}
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan struct{})
				for i, step := range c.steps {
					mu.Lock()
					events = nil
					mu.Unlock()
					if step.do(); i == 0 {
						go func() { s.Follow(ctx); close(ended) }()
						time.Sleep(time.Second)
					} else {
						time.Sleep(2 * kubeconfigEvery)
					}
					mu.Lock()
					slices.Sort(events)
					if got := slices.Compact(events); !slices.Equal(got, step.want) {
						t.Errorf("%s: %q, want %q", step.what, got, step.want)
					}
					mu.Unlock()
				}
				stop()
				<-ended
			})
		})
	}
}

// TestAKubeconfigThatWasThereStaysTheChoice in whatever place none is given, while it is replaced by removing it.
func TestAKubeconfigThatWasThereStaysTheChoice(t *testing.T) {
	var log bytes.Buffer
	defer slog.SetDefault(slog.Default())
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer func(was string) { mountedKubeconfig = was }(mountedKubeconfig)
	folder := t.TempDir()
	t.Setenv("HOME", folder)
	mountedKubeconfig = filepath.Join(folder, "mounted")
	home := filepath.Join(folder, ".kube", "config")
	if err := os.Mkdir(filepath.Dir(home), 0o700); err != nil {
		t.Fatal(err)
	}
	const pod = "the pod's service account"
	for name, c := range map[string]struct {
		inCluster, context string
		steps              [][2]string // a file that comes or, where it is there, goes; and where the choice is then
		said               []string
	}{
		"mounted, in a cluster": {"10.0.0.1", "", [][2]string{{mountedKubeconfig, mountedKubeconfig},
			{mountedKubeconfig, mountedKubeconfig}, {mountedKubeconfig, mountedKubeconfig}},
			[]string{"kubeconfig " + mountedKubeconfig}},
		"mounted, outside of a cluster": {"", "", [][2]string{{"", home}, {mountedKubeconfig, mountedKubeconfig},
			{mountedKubeconfig, mountedKubeconfig}, {home, mountedKubeconfig}},
			[]string{"kubeconfig " + mountedKubeconfig}},
		"mounted later, in a cluster": {"10.0.0.1", "", [][2]string{{"", ""}, {"", ""},
			{mountedKubeconfig, mountedKubeconfig}, {mountedKubeconfig, mountedKubeconfig}},
			[]string{pod, "kubeconfig " + mountedKubeconfig}},
		"at home": {"", "", [][2]string{{"", home}, {home, home}, {home, home}, {mountedKubeconfig, home}},
			[]string{"kubeconfig " + home}},
		"at home, for a context": {"10.0.0.1", "prod", [][2]string{{home, home}, {home, home}},
			[]string{"kubeconfig " + home}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KUBERNETES_SERVICE_HOST", c.inCluster)
			os.Remove(home)
			os.Remove(mountedKubeconfig)
			log.Reset()
			s := &Clusters{Settings: Settings{Context: c.context}}
			for i, step := range c.steps {
				if file := step[0]; file != "" && os.Remove(file) != nil {
					if err := os.WriteFile(file, []byte(kubeconfig("https://one", "dev", "prod")), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				found, _, _ := s.look()
				if got := strings.Join(found[""].source.Files, " "); got != step[1] {
					t.Errorf("step %d: chosen %q, want %q", i, got, step[1])
				}
			}
			var said []string
			for line := range strings.Lines(log.String()) {
				_, where, _ := strings.Cut(line, " come from ")
				said = append(said, strings.Trim(where, "\"\n"))
			}
			if !slices.Equal(said, c.said) {
				t.Errorf("said %q, want %q", said, c.said)
			}
		})
	}
}

func TestContextsAreClusters(t *testing.T) {
	for value, want := range map[string]string{
		"":                                   "[]",
		"dev":                                "dev []",
		" dev":                               "must be a name",
		"dev,":                               "dev []",
		"arn:aws:eks:eu-west-1:1:cluster/a":  "arn:aws:eks:eu-west-1:1:cluster/a []",
		"*":                                  "[] all",
		"a,b":                                "[{a a} {b b}]",
		" a , b ,":                           "[{a a} {b b}]",
		"a,a,b":                              "[{a a} {b b}]",
		"eu=a":                               "[{eu a}]",
		"eu=arn:aws:eks:1:2:cluster/prod,us": "[{eu arn:aws:eks:1:2:cluster/prod} {us us}]",
		"eu=a=b":                             "[{eu a=b}]",
		"eu=a,us=a":                          "[{eu a} {us a}]",
		"eu=a,eu=b":                          "must be contexts with a different name each",
		"eu=":                                "must be a context",
		"=a":                                 "must be a context",
		"*,a":                                "must be a context",
		"eu=*":                               "must be a context",
		"a,token: {x":                        "must be a name",
		"a,-----BEGIN CERTIFICATE-----":      "must be a name",
	} {
		s := Settings{Context: "former", AllContexts: true, Contexts: []Named{{"x", "y"}}}
		got := ""
		if must := s.setContexts(value); must != "" {
			got = "must be " + must
		} else {
			got = strings.TrimSpace(fmt.Sprint(s.Context, " ", s.Contexts, map[bool]string{true: " all"}[s.AllContexts]))
		}
		if !strings.HasPrefix(got, want) || want == "" {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

func TestAFolderChoosesItsContexts(t *testing.T) {
	folder := t.TempDir()
	for _, s := range []Settings{{Context: "a"}, {AllContexts: true}, {Contexts: []Named{{"a", "a"}}}, {}} {
		contradicts := s.Context != "" || s.hasContexts()
		s.Kubeconfig = folder
		if err := s.Check(); (err != nil) != contradicts {
			t.Errorf("%+v: %v", s, err)
		}
		if s.Kubeconfig = write(t, "config", "{}"); s.Check() != nil {
			t.Errorf("%+v: %v", s, s.Check())
		}
	}
}
