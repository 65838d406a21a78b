package e2e

import (
	"strings"
	"testing"
	"time"

	"metrics-server-prom/e2e/exporter"
)

func TestWrongSettingEndsTheStartWithExitCode2AndOneLine(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		args []string
		env  []string
		says []string // the setting, the value, what is allowed
	}{
		{"refresh interval too short", []string{"--refresh-interval=10ms"}, nil, []string{"refresh-interval", "10ms", "1s", "10m"}},
		{"refresh interval too long", []string{"--refresh-interval=11m"}, nil, []string{"refresh-interval", "11m", "1s", "10m"}},
		{"refresh interval without unit", nil, []string{"REFRESH_INTERVAL=15"}, []string{"REFRESH_INTERVAL", "15"}},
		{"max age that is no duration", nil, []string{"MAX_AGE=soon"}, []string{"MAX_AGE", "soon"}},
		{"selector that is none", []string{"--selector=app in (web"}, nil, []string{"selector", "app in (web"}},
		{"selector from the environment", nil, []string{"LABEL_SELECTOR=a=b=c"}, []string{"LABEL_SELECTOR", "a=b=c"}},
		{"namespace that cannot be", []string{"--namespaces=Shop"}, nil, []string{"namespaces", "Shop"}},
		{"excluded namespace that cannot be", nil, []string{"EXCLUDE_NAMESPACES=a_b"}, []string{"EXCLUDE_NAMESPACES", "a_b"}},
		{"pod label that cannot be", []string{"--pod-labels=app,-"}, nil, []string{"pod-labels", "-"}},
		{"port that is none", nil, []string{"PORT=http"}, []string{"PORT", "http"}},
		{"listen address that is none", []string{"--web.listen-address=nowhere"}, nil, []string{"web.listen-address", "nowhere"}},
		{"telemetry path without slash", []string{"--web.telemetry-path=metrics"}, nil, []string{"web.telemetry-path", "metrics", "/"}},
		{"unknown log level", []string{"--log.level=loud"}, nil, []string{"log.level", "loud", "info"}},
		{"unknown log format", nil, []string{"LOG_FORMAT=xml"}, []string{"LOG_FORMAT", "xml", "json"}},
		{"kubeconfig in a variable that is none", nil, []string{"KUBECONFIG_DATA=/etc/kube/config"}, []string{"KUBECONFIG_DATA", "YAML, or base64"}},
		{"kubeconfig twice", nil, []string{"KUBECONFIG=/x", "KUBECONFIG_DATA=clusters: [{name: c, cluster: {server: x}}]"}, []string{"KUBECONFIG and KUBECONFIG_DATA cannot both be set", "remove one"}},
		{"native credentials of an unknown kind", nil, []string{"NATIVE_CREDENTIALS=yes"}, []string{"NATIVE_CREDENTIALS", "yes", "missing, always, never"}},
		{"unknown flag", []string{"--kubeconf=x"}, nil, []string{"kubeconf"}},
		{"argument without a flag", []string{"metrics"}, nil, []string{"metrics"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			code, output, err := exporter.Run(within(t, 10*time.Second), test.args, test.env)
			if err != nil {
				t.Fatal(err)
			}
			if code != 2 {
				t.Errorf("exit code %d, output:\n%s", code, output)
			}
			if strings.Count(output, "\n") != 1 {
				t.Errorf("not one line:\n%s", output)
			}
			for _, part := range test.says {
				if !strings.Contains(output, part) {
					t.Errorf("does not say %q: %s", part, output)
				}
			}
		})
	}
}

func TestHelpNamesEverySettingAndItsVariable(t *testing.T) {
	t.Parallel()
	code, output, err := exporter.Run(within(t, 10*time.Second), []string{"--help"}, nil)
	if err != nil || code != 0 {
		t.Fatalf("exit code %d, %v:\n%s", code, err, output)
	}
	for flag, env := range map[string]string{
		"--kubeconfig": "KUBECONFIG", "--kubeconfig-data": "KUBECONFIG_DATA", "--native-credentials": "NATIVE_CREDENTIALS",
		"--context": "KUBE_CONTEXT", "--namespaces": "NAMESPACES",
		"--exclude-namespaces": "EXCLUDE_NAMESPACES", "--selector": "LABEL_SELECTOR", "--pod-labels": "POD_LABELS",
		"--refresh-interval": "REFRESH_INTERVAL", "--max-age": "MAX_AGE", "--web.listen-address": "PORT",
		"--web.telemetry-path": "WEB_TELEMETRY_PATH", "--log.level": "LOG_LEVEL", "--log.format": "LOG_FORMAT",
		"--version": "",
	} {
		if !strings.Contains(output, flag) || !strings.Contains(output, env) {
			t.Errorf("--help does not say %s and %s", flag, env)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	code, output, err := exporter.Run(within(t, 10*time.Second), []string{"--version"}, nil)
	if err != nil || code != 0 || !strings.Contains(output, "metrics-server-prom") {
		t.Errorf("exit code %d, %v: %q", code, err, output)
	}
}
