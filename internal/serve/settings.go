package serve

import (
	"path"

	"metrics-server-prom/internal/setting"
)

// Settings are where and how to answer.
type Settings struct {
	Address       string // to listen on
	TelemetryPath string
	Config        string // a configuration file of the Prometheus exporter-toolkit, or ""
}

// Path is that of the page of a name below the telemetry path, "" for the page of that path itself.
func (s *Settings) Path(name string) string {
	if name == "" {
		return s.TelemetryPath
	}
	return path.Join(s.TelemetryPath, name)
}

// Rows is their part of the table of settings, with the one that says whether there is a page for people.
func (s *Settings) Rows(page *bool) []setting.Row {
	return []setting.Row{
		{Flag: "web.listen-address", Env: "PORT", Default: ":9100",
			Set: setting.ListenAddress(&s.Address), FromEnv: func(port string) string { return ":" + port },
			Help: "address to listen on; PORT is a port only"},
		{Flag: "web.telemetry-path", Env: "WEB_TELEMETRY_PATH", Default: "/metrics", Set: setting.Path(&s.TelemetryPath),
			Help: "path of the metrics"},
		{Flag: "web.page", Env: "WEB_PAGE", Default: "true", Set: setting.Bool(page),
			Help: "whether to serve the page for people at /, and /top.json"},
		{Flag: "web.config.file", Env: "WEB_CONFIG_FILE", Set: setting.WebConfig(&s.Config),
			Help: "file that turns on TLS and authentication, in the format of the Prometheus exporter-toolkit"},
	}
}
