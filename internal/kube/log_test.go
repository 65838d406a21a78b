package kube

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

func TestLogOfClientGoIsForDebuggingOnly(t *testing.T) {
	former := slog.Default()
	t.Cleanup(func() { slog.SetDefault(former); klog.SetSlogLogger(slog.New(slog.DiscardHandler)) })
	for level, lines := range map[slog.Level]int{slog.LevelDebug: 4, slog.LevelInfo: 0, slog.LevelError: 0} {
		var log bytes.Buffer
		SetLog(&log, level, false)
		klog.InfoS("info")
		klog.ErrorS(errors.New("refused"), "error")
		klog.Background().WithName("reflector").WithValues("type", "Pod").Error(nil, "derived")
		klog.Warning("warning")
		klog.Background().V(8).Info("a body")
		got := log.String()
		if strings.Count(got, "\n") != lines || strings.Count(got, "level=DEBUG") != lines || strings.Count(got,
			"from=client-go") != lines {
			t.Errorf("at level %s it logs:\n%swant %d lines of level DEBUG", level, got, lines)
		}
	}
}

func TestCredentialsAreTakenOutOfTexts(t *testing.T) {
	const token = "eyJhbGciOiJSUzI1NiJ9.payload.signature"
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:pass:word"))
	for name, c := range map[string]struct{ authorization, text, want string }{
		"nothing was sent":         {"", "forbidden", "forbidden"},
		"nothing of it is there":   {"Bearer " + token, "user eyJ is forbidden", "user eyJ is forbidden"},
		"a token":                  {"Bearer " + token, "not with Bearer " + token + "!", "not with Bearer …!"},
		"a token, twice":           {"Bearer " + token, token + token, "……"},
		"a token without its end":  {"Bearer " + token, "it begins with " + token[:20], "it begins with …"},
		"a token, then its middle": {"Bearer " + token, token[:10] + " and " + token[:30] + "x", "… and …x"},
		"a basic header":           {basic, "not with " + basic, "not with Basic …"},
		"a password":               {basic, "not with pass:word", "not with …"},
		"a short password": {"Basic " + base64.StdEncoding.EncodeToString([]byte("me:long")), "long, lon",
			"…, lon"},
		"a password too short": {"Basic " + base64.StdEncoding.EncodeToString([]byte("me:an")), "not an apple",
			"not an apple"},
	} {
		t.Run(name, func(t *testing.T) {
			var sent authorizations
			sent.keep(c.authorization)
			if got := sent.without(c.text); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestCredentialsThatWereReplacedAreHiddenForAWhile(t *testing.T) {
	var c authorizations
	token := func(i int) string { return fmt.Sprintf("%d-is-the-number", i) }
	for i := range mostSent + 1 {
		for range 2 {
			c.keep("Bearer " + token(i))
		}
	}
	for i := range mostSent + 1 {
		if hidden := !strings.Contains(c.without(token(i)), token(i)); hidden != (i > 0) {
			t.Errorf("token %d of %d: hidden %t", i, mostSent+1, hidden)
		}
	}
}

func TestCredentialsOfEachClusterAreHidden(t *testing.T) {
	var c authorizations
	token := func(i int) string { return fmt.Sprintf("%d-is-the-number", i) }
	const clusters = 20
	c.begin(clusters)
	for range 3 {
		for i := range clusters {
			c.keep("Bearer " + token(i))
		}
	}
	for i := range mostSent * (clusters - 1) { // one cluster's tokens, all others going on
		c.keep("Bearer new" + token(i))
		for i := range clusters {
			c.keep("Bearer " + token(i))
		}
	}
	for i := range clusters {
		if strings.Contains(c.without(token(i)), token(i)) {
			t.Errorf("the token of cluster %d is shown", i)
		}
	}
	c.begin(1 - clusters)
	c.keep("Bearer " + token(0))
	if len(c.last) != mostSent {
		t.Errorf("%d are kept of one cluster", len(c.last))
	}
}

func TestLogLinesAreWrittenWithoutCredentials(t *testing.T) {
	sent.keep("Bearer written-to-the-log")
	var log strings.Builder
	line := "level=DEBUG msg=\"written-to-the-log\"\n"
	n, err := withoutCredentials{&log}.Write([]byte(line))
	if n != len(line) || err != nil || log.String() != "level=DEBUG msg=\"…\"\n" {
		t.Errorf("%d, %v: %q", n, err, log.String())
	}
}
