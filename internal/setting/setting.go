// Package setting reads a program's settings from flags and environment variables, by a table that also makes its help.
package setting

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/prometheus/exporter-toolkit/web"
)

// Row is one setting.
type Row struct {
	Flag, Env string // names; the flag wins
	Default   string
	Help      string
	// Set takes a value: a given one or the default. It returns "", or what is allowed if the value is not.
	Set func(value string) (allowed string)
	// FromEnv makes the environment variable's value one for Set; nil where it is one.
	FromEnv func(string) string
	// Secret keeps the value out of error messages.
	Secret bool
}

// Help asks for a text to be printed, and nothing else to be done.
type Help string

// Error makes Help an error; it is the text itself.
func (h Help) Error() string { return string(h) }

// Parse gives every row's Set its value. Its errors are one line that names the setting, the value and what is allowed.
// --help and --version are a Help.
func Parse(program, version string, table []Row, args []string, getenv func(string) string) error {
	flags := flag.NewFlagSet(program, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	showVersion := flags.Bool("version", false, "")
	for _, row := range table {
		flags.String(row.Flag, row.Default, row.Help)
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return help(program, version, table)
	case err != nil:
		return fmt.Errorf("%s; see --help", complaint(err))
	case flags.NArg() > 0:
		// It is not shown: it may be the rest of a secret that should have been quoted.
		return fmt.Errorf("argument %d is not a flag: flags begin with --, and values with spaces want quotes; see --help", len(args)-flags.NArg()+1)
	case *showVersion:
		return Help(program + " " + version + "\n")
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for _, row := range table {
		name, value := "--"+row.Flag, flags.Lookup(row.Flag).Value.String()
		shown := value
		if env := getenv(row.Env); !given[row.Flag] && env != "" {
			name, value, shown = row.Env, env, env
			if row.FromEnv != nil {
				value = row.FromEnv(env)
			}
		}
		if row.Secret {
			shown = "(not shown)"
		}
		if allowed := row.Set(value); allowed != "" {
			return fmt.Errorf("%s is %q; allowed is %s", name, shown, oneLine(allowed))
		}
	}
	return nil
}

var flagName = regexp.MustCompile(`^[a-z.-]{1,30}$`)

// complaint is an error of the package flag, which ends with the argument or its name. What is no name may be one with a
// secret behind it, where the = was forgotten.
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

// oneLine leaves a text's words and takes out what would break a line.
func oneLine(s string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)), " ")
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

// Text sets p to any value.
func Text(p *string) func(string) string { return func(v string) string { *p = v; return "" } }

// FileName sets p to the name of a file, or several. It belongs into a Row that is Secret: what is refused is a file's
// content, given in place of its name.
func FileName(p *string) func(string) string {
	return func(v string) string {
		if *p = v; strings.ContainsAny(v, "\n{") || len(v) > 4096 { // PATH_MAX
			return "the name of a file, not what is in it"
		}
		return ""
	}
}

// WebConfig sets p to the name of a configuration file of the Prometheus exporter-toolkit, or to "".
func WebConfig(p *string) func(string) string {
	return func(v string) string {
		*p = v
		if err := web.Validate(v); err != nil {
			return "a web configuration file, but: " + unquoted(err.Error())
		}
		return ""
	}
}

var lineNumber = regexp.MustCompile(`line \d+`)

// unquoted is an error of the toolkit without what it quotes of the file: that may be a secret in the wrong place.
func unquoted(err string) string {
	what, _, _ := strings.Cut(err, ": ")
	switch {
	case what == "yaml":
		return strings.Join(append([]string{"no valid YAML, or a field that it does not have"}, lineNumber.FindAllString(err, -1)...), ", ")
	case strings.HasPrefix(what, "unknown "), strings.HasPrefix(what, "invalid "):
		return what
	}
	return err
}

// OneOf sets p to one of the values.
func OneOf(p *string, values ...string) func(string) string {
	return func(v string) string {
		*p = v
		for _, value := range values {
			if v == value {
				return ""
			}
		}
		return strings.Join(values, ", ")
	}
}

// List sets p to the items of a list separated by commas. invalid says what is wrong with an item.
func List(p *[]string, of string, invalid func(string) []string) func(string) string {
	return func(v string) string {
		*p = nil
		for item := range strings.SplitSeq(v, ",") {
			if item = strings.TrimSpace(item); item == "" {
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
	return func(v string) string {
		*p = v
		if _, port, err := net.SplitHostPort(v); err == nil {
			if _, err := strconv.ParseUint(port, 10, 16); err == nil {
				return ""
			}
		}
		return "host:port or :port (in PORT only the port), with a port from 0 to 65535"
	}
}

// LogLevel sets p to one of the levels by name.
func LogLevel(p *slog.Level) func(string) string {
	return func(v string) string {
		allowed := OneOf(&v, "debug", "info", "warn", "error")(v)
		if allowed == "" {
			p.UnmarshalText([]byte(v))
		}
		return allowed
	}
}
