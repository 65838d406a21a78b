package main

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"metrics-server-prom/internal/setting"
)

// parseSettings does what main does with a command line and an environment of "NAME=value".
func parseSettings(args, environ []string) error {
	s := &settings{}
	err := setting.Parse("p", "v", s.table(), args, func(name string) string {
		for _, variable := range environ {
			if value, ok := strings.CutPrefix(variable, name+"="); ok {
				return value
			}
		}
		return ""
	})
	if err == nil {
		err = s.check()
	}
	return err
}

func TestSettingsThatContradictEachOther(t *testing.T) {
	const url = "--push.url=http://receiver"
	for name, c := range map[string]struct {
		args []string
		says []string // nothing where they go together
	}{
		"nothing set": {nil, nil},
		"samples too old before the next are read (fault 9)": {
			[]string{"--refresh-interval=5m"}, []string{"--refresh-interval", "--max-age", "is 5m0s and"}},
		"much too old": {
			[]string{"--refresh-interval=1m", "--max-age=20s"}, []string{"1m0s", "20s"}},
		"just young enough": {
			[]string{"--refresh-interval=19s", "--max-age=20s"}, nil},
		"all namespaces excluded": {
			[]string{"--namespaces=a,b", "--exclude-namespaces=b,c,a"}, []string{"--exclude-namespaces", "--namespaces"}},
		"some namespaces excluded": {
			[]string{"--namespaces=a,b", "--exclude-namespaces=b,c"}, nil},
		"namespaces excluded from all": {
			[]string{"--exclude-namespaces=a"}, nil},
		"an interval of no pushes":  {[]string{"--push.interval=1m"}, []string{"--push.interval", "--push.url"}},
		"extra labels of no pushes": {[]string{`--push.extra-labels=a="b"`}, []string{"--push.extra-labels", "--push.url"}},
		"a header of no pushes":     {[]string{"--push.header=A: b"}, []string{"--push.header", "--push.url"}},
		"all of pushing":            {[]string{url, "--push.interval=1m", `--push.extra-labels=a="b"`, "--push.header=A: b"}, nil},
		"an extra label that samples have (fault 14)": {
			[]string{url, `--push.extra-labels=cluster="x",pod="y"`}, []string{"--push.extra-labels", "label pod,"}},
		"an extra label that is one of the pods' (fault 14)": {
			[]string{url, "--pod-labels=app.kubernetes.io/name", `--push.extra-labels=label_app_kubernetes_io_name="y"`},
			[]string{"--push.extra-labels", "label_app_kubernetes_io_name"}},
		"an extra label that could be one of the pods'": {
			[]string{url, "--pod-labels=app", `--push.extra-labels=label_team="y"`}, nil},
		"two ways to authenticate": {
			[]string{"--push.url=http://me:secret@receiver", "--push.header=Authorization: Bearer secret"},
			[]string{"--push.url", "--push.header"}},
		"two ways, of which one is not this program's": {
			[]string{"--push.url=http://me:secret@receiver", "--push.header=X-Scope-OrgID: 1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			err := parseSettings(c.args, nil)
			if (err == nil) != (c.says == nil) {
				t.Fatalf("error %v", err)
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "secret") {
					t.Errorf("%v, want %s", err, part)
				}
			}
		})
	}
}

// TestSampleLabelsAreThoseOfThePage keeps the list of them complete.
func TestSampleLabelsAreThoseOfThePage(t *testing.T) {
	s, x := newTestServer(t, settings{})
	run(t, x, cluster{})
	var page strings.Builder
	s.own.request("pods", "list", "200")
	s.own.pushed(true)
	if err := s.writePage(t.Context(), &page); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for line := range strings.Lines(page.String()) {
		if strings.HasPrefix(line, "go_") || strings.HasPrefix(line, "process_") {
			continue // not pushed
		}
		_, labels, _ := strings.Cut(line, "{")
		for pair := range strings.SplitSeq(labels, `",`) {
			if name, _, ok := strings.Cut(pair, `="`); ok && line[0] != '#' {
				names[name] = true
			}
		}
	}
	for name := range names {
		if !slices.Contains(sampleLabels, name) {
			t.Errorf("the label %s of the page is not in the list", name)
		}
	}
	if len(names) < 10 {
		t.Errorf("only %v", names)
	}
}

// TestNoSettingShowsContent is fault 10: what is in a kubeconfig, in place of its name or in any other wrong place,
// must not get into the error, with which it would get into logs.
func TestNoSettingShowsContent(t *testing.T) {
	const token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtYXJrZWQifQ.bWFya2VkLXNpZ25hdHVyZQ"
	yaml := "users:\n- name: u\n  user:\n    token: " + token + "\napiVersion: v1\nkind: Config\nclusters:\n- name: c\n" +
		"  cluster:\n    server: https://k:6443\ncontexts:\n- name: c\n  context:\n    cluster: c\n    user: u\n"
	encoded := base64.StdEncoding.EncodeToString([]byte(yaml))
	wrapped := encoded[:76] + "\n" + encoded[76:152] + "\n" + encoded[152:] + "\n"
	for what, content := range map[string]string{
		"YAML": yaml, "base64 -w0": encoded, "base64 in lines": wrapped, "a token": token} {
		for _, row := range new(settings).table() {
			for how, err := range map[string]error{
				"by flag":        parseSettings([]string{"--" + row.Flag, content}, nil),
				"by environment": parseSettings(nil, []string{row.Env + "=" + content}),
			} {
				if err == nil {
					t.Errorf("%s as %s %s is taken", what, row.Env, how)
				} else if text := err.Error(); strings.Contains(text, token[:20]) || strings.Contains(text, encoded[:20]) ||
					strings.Contains(text, "apiVersion") || strings.Contains(text, "\n") {
					t.Errorf("%s as %s %s is shown: %s", what, row.Env, how, text)
				}
			}
		}
	}
}
