package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// dashboard is what matters here of Grafana's JSON; Grafana fills in what is missing.
type dashboard struct {
	UID           string
	Title         string
	SchemaVersion int
	Templating    struct {
		List []struct {
			Name, Type string
			Query      any
		}
	}
	Panels []panel
}

type panel struct {
	ID          int
	Type, Title string
	GridPos     struct{ X, Y, W, H int }
	Datasource  datasource
	Targets     []target
	FieldConfig struct{ Defaults struct{ Unit string } }
}

type target struct {
	RefID, Expr, Format, LegendFormat string
	Datasource                        datasource
}

type datasource struct{ Type, UID string }

// theVariable is the data source that whoever looks at the dashboard has chosen.
var theVariable = datasource{"prometheus", "${datasource}"}

func (p panel) String() string { return fmt.Sprintf("panel %d, %s", p.ID, p.Title) }

// overlaps is true of two panels that lie on each other in the grid, which is 24 columns wide.
func (p panel) overlaps(q panel) bool {
	a, b := p.GridPos, q.GridPos
	return a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H
}

var variable = regexp.MustCompile(`\$\{?([a-zA-Z_]+)`)

func (d dashboard) check() (problems []error) {
	complain := func(of any, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%v: %w", of, fmt.Errorf(format, args...)))
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 39 {
		complain(d.Title, "has no uid, no title or an old schema")
	}
	known := map[string]bool{}
	uses := func(of any, text string) {
		for _, name := range variable.FindAllStringSubmatch(text, -1) {
			if !known[name[1]] {
				complain(of, "there is no variable %s before it", name[1])
			}
		}
	}
	for _, v := range d.Templating.List {
		uses("variable "+v.Name, fmt.Sprint(v.Query))
		known[v.Name] = true
	}
	for i, p := range d.Panels {
		if p.GridPos.W < 1 || p.GridPos.H < 1 || p.GridPos.X+p.GridPos.W > 24 {
			complain(p, "lies outside the grid: %v", p.GridPos)
		}
		for _, q := range d.Panels[:i] {
			if p.ID == q.ID {
				complain(p, "has the id of %v", q)
			}
			if p.overlaps(q) {
				complain(p, "lies on %v", q)
			}
		}
		uses(p, p.Title)
		if p.Type == "row" {
			continue
		}
		if p.FieldConfig.Defaults.Unit == "" || p.Datasource != theVariable || len(p.Targets) == 0 {
			complain(p, "has no unit, no query or a data source of its own")
		}
		refs := map[string]bool{}
		for _, t := range p.Targets {
			uses(p, t.Expr)
			if t.Expr == "" || refs[t.RefID] || t.Datasource != theVariable || (t.LegendFormat == "") != (t.Format == "table") {
				complain(p, "query %s has no expression, a double name, no legend or a data source of its own", t.RefID)
			}
			if strings.Contains(t.Expr, `pod="$pod"`) && !strings.HasPrefix(t.Expr, "sum by (cluster, namespace") {
				complain(p, "query %s adds up the pods of one name in all namespaces and clusters", t.RefID)
			}
			refs[t.RefID] = true
		}
	}
	return problems
}

// expressions has one rule for each query, which is how promtool parses them.
func (d dashboard) expressions() (rules []map[string]string) {
	for _, p := range d.Panels {
		for _, t := range p.Targets {
			rules = append(rules, map[string]string{
				"record": fmt.Sprintf("panel_%d:%s", p.ID, t.RefID),
				"expr":   variable.ReplaceAllLiteralString(t.Expr, "x"),
			})
		}
	}
	return rules
}

// checkDashboards looks at all dashboards of a folder and writes their expressions to a file of Prometheus' rules.
func checkDashboards(folder, rules string) error {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no dashboards in %s", folder)
	}
	var problems []error
	var groups []any
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		d, err := readDashboard(text)
		if err = errors.Join(append(d.check(), err)...); err != nil {
			problems = append(problems, fmt.Errorf("%s:\n%w", file, err))
		}
		groups = append(groups, map[string]any{"name": d.UID, "rules": d.expressions()})
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	text, err := yaml.Marshal(map[string]any{"groups": groups})
	if err != nil {
		return err
	}
	return os.WriteFile(rules, text, 0o600)
}

func readDashboard(text []byte) (d dashboard, err error) {
	if bytes.Contains(text, []byte("\t")) || !strings.HasSuffix(string(text), "}\n") {
		return d, errors.New("is not indented by spaces, or its last line has no end")
	}
	return d, json.Unmarshal(text, &d)
}
