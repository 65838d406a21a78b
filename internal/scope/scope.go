// Package scope has the settings that say what is read of a cluster, how often, and what of it is shown.
package scope

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"metrics-server-prom/internal/kube"
	"metrics-server-prom/internal/setting"
)

// Settings are what is read, from where and how often, as it is set.
type Settings struct {
	kube.Settings
	Namespaces, ExcludeNamespaces []string
	Selector                      string // of pods' labels
	PodLabels                     []string
	Pages                         []string // below the telemetry path
	Top                           bool     // the page for people
	RefreshInterval, MaxAge       time.Duration
}

// Rows is their part of the table of settings. pages are those that there are.
func (s *Settings) Rows(pages ...string) []setting.Row {
	return append(s.Settings.Rows(), []setting.Row{
		{Flag: "namespaces", Env: "NAMESPACES", Set: setting.List(&s.Namespaces, "namespaces", validation.IsDNS1123Label),
			Help: "namespaces to serve, separated by commas; if not set all. A list needs only Roles in these namespaces"},
		{Flag: "exclude-namespaces", Env: "EXCLUDE_NAMESPACES",
			Set:  setting.List(&s.ExcludeNamespaces, "namespaces", validation.IsDNS1123Label),
			Help: "namespaces not to serve, separated by commas"},
		{Flag: "selector", Env: "LABEL_SELECTOR", Set: setting.LabelSelector(&s.Selector),
			Help: "label selector of the pods to serve, applied by the server"},
		{Flag: "pod-labels", Env: "POD_LABELS", Set: setting.List(&s.PodLabels, "label names", validation.IsQualifiedName),
			Help: "labels of pods to add to their samples, separated by commas: app,team adds label_app and label_team"},
		{Flag: "pages", Env: "PAGES", Set: setting.ListOf(&s.Pages, "pages", pages...),
			Help: "pages to serve as well, separated by commas, with the names that dashboards know: cadvisor, " +
				"kube-state-metrics. They need further rights, see README"},
		{Flag: "refresh-interval", Env: "REFRESH_INTERVAL", Default: "15s",
			Set: setting.Duration(&s.RefreshInterval, time.Second, 10*time.Minute),
			Help: "how often to read the usage, at least: 1s to 10m. Where metrics-server has new data less often, " +
				"right after it has"},
		{Flag: "max-age", Env: "MAX_AGE", Default: "5m", Set: setting.Duration(&s.MaxAge, 10*time.Second, 24*time.Hour),
			Help: "a sample older than this is not served: 10s to 24h"},
	}...)
}

// Check returns what contradicts what among settings that are valid each by itself.
func (s *Settings) Check() error {
	if err := s.Settings.Check(); err != nil {
		return err
	}
	if s.RefreshInterval >= s.MaxAge {
		return fmt.Errorf("--refresh-interval (REFRESH_INTERVAL) is %s and --max-age (MAX_AGE) is %s: samples would be too "+
			"old before the next are read; set --max-age to several times --refresh-interval", s.RefreshInterval, s.MaxAge)
	}
	served := func(namespace string) bool { return !slices.Contains(s.ExcludeNamespaces, namespace) }
	if len(s.Namespaces) > 0 && !slices.ContainsFunc(s.Namespaces, served) {
		return errors.New("--exclude-namespaces (EXCLUDE_NAMESPACES) has all of --namespaces (NAMESPACES): " +
			"nothing is left to serve; take one out of it")
	}
	return nil
}

// Serves tells whether a page is on.
func (s *Settings) Serves(page string) bool { return slices.Contains(s.Pages, page) }

// Each is the namespaces to read one by one; "" is all of them.
func (s *Settings) Each() []string {
	if len(s.Namespaces) == 0 {
		return []string{""}
	}
	return s.Namespaces
}
