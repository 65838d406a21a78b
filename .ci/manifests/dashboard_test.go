package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDashboardProblemsAreSeen(t *testing.T) {
	const one = `{
  "uid": "u", "title": "T", "schemaVersion": 41,
  "templating": {"list": [
    {"name": "datasource", "type": "datasource", "query": "prometheus"},
    {"name": "cluster", "type": "query", "query": {"query": "label_values(up, cluster)"}},
    {"name": "job", "type": "query", "query": {"query": "label_values(up{cluster=\"$cluster\"}, job)"}}
  ]},
  "panels": [
    {"id": 1, "type": "row", "title": "Jobs", "gridPos": {"x": 0, "y": 0, "w": 24, "h": 1}},
    {
      "id": 2, "type": "table", "title": "$job", "gridPos": {"x": 0, "y": 1, "w": 12, "h": 8},
      "datasource": {"type": "prometheus", "uid": "${datasource}"}, "fieldConfig": {"defaults": {"unit": "short"}},
      "targets": [
        {"refId": "A", "expr": "up{job=~\"$job\"}", "format": "table",
          "datasource": {"type": "prometheus", "uid": "${datasource}"}}
      ]
    },
    {
      "id": 3, "type": "timeseries", "title": "All", "gridPos": {"x": 12, "y": 1, "w": 12, "h": 8},
      "datasource": {"type": "prometheus", "uid": "${datasource}"}, "fieldConfig": {"defaults": {"unit": "short"}},
      "targets": [
        {"refId": "A", "expr": "sum(up)", "legendFormat": "up",
          "datasource": {"type": "prometheus", "uid": "${datasource}"}}
      ]
    }
  ]
}
`
	check := func(text string) error {
		d, err := readDashboard([]byte(text))
		return errors.Join(append(d.check(), err)...)
	}
	if err := check(one); err != nil {
		t.Fatal("the dashboard as it is:", err)
	}
	for _, c := range []struct{ name, old, new, want string }{
		{"two panels of one id", `"id": 3`, `"id": 2`, "has the id of panel 2"},
		{"a panel on another", `"x": 12, "y": 1`, `"x": 11, "y": 2`, "lies on panel 2"},
		{"a panel that is too wide", `"x": 12, "y": 1, "w": 12`, `"x": 12, "y": 1, "w": 13`, "outside the grid"},
		{"a variable that is not there", `up{job=~\"$job\"}`, `up{job=~\"${jobs}\"}`, "no variable jobs"},
		{"a variable that comes later", `label_values(up, cluster)`, `label_values(up{job=\"$job\"})`, "no variable job"},
		{"a data source that only its author has", `"uid": "${datasource}"}}`, `"uid": "P1809F"}}`, "data source"},
		{"numbers of no unit", `"unit": "short"`, `"unit": ""`, "no unit"},
		{"lines without names", `"legendFormat": "up"`, `"legendFormat": ""`, "no legend"},
		{"a query without an expression", `sum(up)`, ``, "no expression"},
		{"a sum of pods that are not the same", `sum(up)`, `sum by (container) (up{pod=\"$pod\"})`, "adds up"},
		{"the schema of an old Grafana", `41`, `16`, "old schema"},
		{"what is not JSON", `"panels": [`, `"panels": `, "invalid character"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(one, c.old) {
				t.Fatalf("the dashboard has no %q", c.old)
			}
			err := check(strings.ReplaceAll(one, c.old, c.new))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// TestDashboards has every query in the file that promtool gets, with no variable left.
func TestDashboards(t *testing.T) {
	rules := filepath.Join(t.TempDir(), "rules.yml")
	if err := checkDashboards(deploy+"grafana", rules); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "record: panel_"); n < 24 || strings.Contains(string(text), "$cluster") {
		t.Errorf("%d queries, and:\n%s", n, text)
	}
}
