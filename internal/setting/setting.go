// Package setting reads a program's settings from flags and environment variables, by a table that also makes its help.
package setting

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	"k8s.io/apimachinery/pkg/labels"

	"metrics-server-prom/internal/redact"
)

// Row is one setting.
type Row struct {
	Flag, Env     string // names; the flag wins
	Default, Help string
	Needs         string // the flag of a setting without which this one says nothing
	Excludes      string // the flag of a setting that cannot be given beside this one
	// Set takes a value: a given one or the default. It returns "", or what the value must be if it is not that.
	Set     func(value string) (must string)
	FromEnv func(string) string // makes the environment variable's value one for Set; nil where it is one
	Secret  bool                // keeps the value out of error messages
	Bool    bool                // the flag alone gives the value true
}

// Help asks for a text to be printed, and nothing else to be done.
type Help string

// Error makes Help an error; it is the text itself.
func (h Help) Error() string { return string(h) }

// Parse gives every row's Set its value, in the table's order. An error is one line that names the setting, its value
// and what that must be. --help and --version are a Help. How settings go together is the caller's to check afterwards,
// Needs and Excludes aside.
func Parse(program, version string, table []Row, args []string, getenv func(string) string) error {
	flags := flag.NewFlagSet(program, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	showVersion := flags.Bool("version", false, "")
	given := make([][]string, len(table)) // what the command line gives each row
	for i, row := range table {
		give := func(v string) error { given[i] = append(given[i], v); return nil }
		if row.Bool {
			flags.BoolFunc(row.Flag, "", give)
		} else {
			flags.Func(row.Flag, "", give)
		}
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return help(program, version, table)
	case err != nil:
		return fmt.Errorf("%s; see --help", complaint(err))
	case flags.NArg() > 0:
		// It is not shown: it may be the rest of a secret that should have been quoted.
		return fmt.Errorf("argument %d is not a flag: flags begin with --, and values with spaces need quotes; "+
			"see --help", len(args)-flags.NArg()+1)
	case *showVersion:
		return Help(program + " " + version + "\n")
	}
	setBy := map[string]string{} // the flag or variable that gives a setting a value, by flag
	for i, row := range table {
		name, value, env := "--"+row.Flag, row.Default, getenv(row.Env)
		switch {
		case len(given[i]) > 1:
			return fmt.Errorf("%s is given %d times; give it once, with the items of a list separated by commas",
				name, len(given[i]))
		case len(given[i]) == 1:
			value = given[i][0]
		case env != "":
			name, value = row.Env, env
		}
		original := value
		if name == row.Env && row.FromEnv != nil {
			value = row.FromEnv(value)
		}
		if must := redact.OneLine(row.Set(value), 1000); must != "" {
			// What is long may be a token in the wrong place.
			if row.Secret || len(original) > 64 || !redact.IsName(original) {
				return fmt.Errorf("%s has a value that is not shown here; it must be %s", name, must)
			}
			return fmt.Errorf("%s is %q; it must be %s", name, original, must)
		}
		if value != "" && (len(given[i]) > 0 || env != "") {
			setBy[row.Flag] = name
		}
	}
	for _, row := range table {
		name, other := setBy[row.Flag], setBy[row.Excludes]
		switch {
		case row.Needs != "" && name != "" && setBy[row.Needs] == "":
			return fmt.Errorf("%s says nothing without --%s; set both or neither", name, row.Needs)
		case row.Excludes != "" && name != "" && other != "":
			return fmt.Errorf("%s and %s cannot both be set; remove one of them", other, name)
		}
	}
	return nil
}

var flagName = regexp.MustCompile(`^[a-z.-]{1,30}$`)

// complaint is an error of the package flag, which ends with the argument or its name. What is not a name may be one
// with a secret behind it, where the = was forgotten.
func complaint(err error) string {
	what, name, named := strings.Cut(err.Error(), ": -")
	switch {
	case strings.HasPrefix(what, "invalid boolean value "):
		return "--version and --help take no value"
	case named && flagName.MatchString(name):
		return what + ": -" + name
	}
	return what + " in an argument that is not shown"
}

func help(program, version string, table []Row) Help {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n\nEach flag has an environment variable; the flag wins.\n\n", program, version)
	for _, row := range table {
		fmt.Fprintf(&b, "  --%s, %s", row.Flag, row.Env)
		if row.Default != "" {
			fmt.Fprintf(&b, " (default %s)", row.Default)
		}
		fmt.Fprintf(&b, "\n      %s\n", row.Help)
	}
	b.WriteString("  --version\n      print the version\n  --help\n      print this\n")
	return Help(b.String())
}

// setter sets p to a value, and says what it must be where it is not valid.
func setter(p *string, must string, valid func(string) bool) func(string) string {
	return func(v string) string {
		if *p = v; valid(v) {
			return ""
		}
		return must
	}
}

// Name sets p to a name, or to "".
func Name(p *string) func(string) string {
	return setter(p, "a name, not what is in a file", redact.IsName)
}

// FileName sets p to the name of a file, or several in a list as of PATH.
func FileName(p *string) func(string) string {
	return setter(p, notContent, func(v string) bool {
		return !slices.ContainsFunc(filepath.SplitList(v), func(file string) bool { return !redact.IsName(file) })
	})
}

const notContent = "the name of a file, not what is in it"

// WebConfig sets p to the name of a configuration file of the Prometheus exporter-toolkit, or to "".
func WebConfig(p *string) func(string) string {
	return func(v string) string {
		if *p = v; !redact.IsName(v) {
			return notContent
		}
		if err := web.Validate(v); err != nil {
			return "a web configuration file, but: " + Unquoted(err.Error())
		}
		return ""
	}
}

var lineNumber = regexp.MustCompile(`line \d+`)

// Unquoted is an error of Prometheus' libraries about a file without what it quotes of the file: that may be a secret
// in the wrong place.
func Unquoted(err string) string {
	what, _, _ := strings.Cut(err, ": ")
	switch {
	case what == "yaml":
		lines := lineNumber.FindAllString(err, -1)
		return strings.Join(append([]string{"not valid YAML, or a field that does not exist"}, lines...), ", ")
	case strings.HasPrefix(what, "unknown "), strings.HasPrefix(what, "invalid "):
		return what
	}
	return err
}

// OneOf sets p to one of the values.
func OneOf(p *string, values ...string) func(string) string {
	return setter(p, "one of "+strings.Join(values, ", "), func(v string) bool { return slices.Contains(values, v) })
}

// List sets p to the items of a list separated by commas, each once. invalid says what is wrong with an item.
func List(p *[]string, of string, invalid func(string) []string) func(string) string {
	return func(v string) string {
		*p = nil
		for item := range strings.SplitSeq(v, ",") {
			if item = strings.TrimSpace(item); item == "" || slices.Contains(*p, item) {
				continue
			}
			if len(invalid(item)) > 0 {
				return "a list of " + of + " separated by commas"
			}
			*p = append(*p, item)
		}
		return ""
	}
}

// ListOf sets p to the items of a list that may have these.
func ListOf(p *[]string, of string, items ...string) func(string) string {
	return List(p, of+" ("+strings.Join(items, ", ")+")", func(item string) []string {
		if slices.Contains(items, item) {
			return nil
		}
		return items
	})
}

// Bool sets p to true or false, in one of the ways of strconv.ParseBool; "" is false.
func Bool(p *bool) func(string) string {
	return func(v string) string {
		var err error
		if *p, err = strconv.ParseBool(cmp.Or(v, "false")); err != nil {
			return "true or false"
		}
		return ""
	}
}

// Duration sets p to a duration within the bounds.
func Duration(p *time.Duration, low, high time.Duration) func(string) string {
	return func(v string) string {
		d, err := time.ParseDuration(v)
		if *p = d; err != nil || d < low || d > high {
			return fmt.Sprintf("a duration from %s to %s, such as %s", low, high, max(low, 15*time.Second))
		}
		return ""
	}
}

// ListenAddress sets p to an address to listen on.
func ListenAddress(p *string) func(string) string {
	const must = "host:port or :port (in PORT only the port), with a port from 0 to 65535"
	return setter(p, must, func(v string) bool {
		host, port, err := net.SplitHostPort(v)
		_, noPort := strconv.ParseUint(port, 10, 16)
		return err == nil && noPort == nil && redact.IsName(host)
	})
}

// LogLevel sets p to one of the levels by name.
func LogLevel(p *slog.Level) func(string) string {
	return func(v string) string {
		must := OneOf(&v, "debug", "info", "warn", "error")(v)
		if must == "" {
			p.UnmarshalText([]byte(v))
		}
		return must
	}
}

// LabelSelector sets p to a label selector of Kubernetes, or to "".
func LabelSelector(p *string) func(string) string {
	return setter(p, "a label selector, such as app=shop,tier!=test", func(v string) bool {
		_, err := labels.Parse(v)
		return err == nil
	})
}

// Path sets p to the path of a page that is not one of those that have a fixed path.
func Path(p *string) func(string) string {
	return setter(p, "a path that begins with / and is none of /, /healthz, /-/…", func(v string) bool {
		return strings.HasPrefix(v, "/") && !strings.ContainsAny(v, " ?#%{}") && v != "/" && v != "/healthz" &&
			!strings.HasPrefix(v, "/-/")
	})
}
