package setting

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// program has one setting of each kind.
type program struct {
	text, format, address, header string
	file, web                     string
	names                         []string
	interval                      time.Duration
	once                          bool
}

func (p *program) table() []Row {
	return []Row{
		{Flag: "text", Env: "TEXT", Help: "any name", Set: Name(&p.text)},
		{Flag: "log.format", Env: "LOG_FORMAT", Default: "text", Help: "text or json", Set: OneOf(&p.format, "text", "json")},
		{Flag: "names", Env: "NAMES", Help: "some names", Set: List(&p.names, "names", func(name string) []string {
			if strings.ContainsAny(name, " !") {
				return []string{"no name"}
			}
			return nil
		})},
		{Flag: "interval", Env: "INTERVAL", Default: "15s", Help: "how often",
			Set: Duration(&p.interval, time.Second, 10*time.Minute)},
		{Flag: "address", Env: "PORT", Default: ":9100", Help: "address",
			FromEnv: func(port string) string { return ":" + port }, Set: func(v string) string {
				p.address = v
				if !strings.HasPrefix(v, ":") || strings.Contains(v, "!") {
					return "an address,\nsuch as :9100"
				}
				return ""
			}},
		{Flag: "file", Env: "FILE", Help: "a file", Set: FileName(&p.file)},
		{Flag: "web", Env: "WEB", Help: "a web configuration", Excludes: "file", Set: WebConfig(&p.web)},
		{Flag: "once", Env: "ONCE", Help: "whether once", Bool: true, Set: Bool(&p.once)},
		{Flag: "header", Env: "HEADER", Help: "a header", Needs: "text", Secret: true, Set: func(v string) string {
			if p.header = v; v != "" && !strings.Contains(v, ": ") {
				return "a header, such as Name: value"
			}
			return ""
		}},
	}
}

func (p *program) parse(env map[string]string, args ...string) error {
	return Parse("prog", "1.2.3", p.table(), args, func(name string) string { return env[name] })
}

func TestValues(t *testing.T) {
	defaults := program{format: "text", address: ":9100", interval: 15 * time.Second}
	with := func(change func(*program)) program { p := defaults; change(&p); return p }
	type env = map[string]string
	for name, c := range map[string]struct {
		env  env
		args []string
		want program
	}{
		"nothing given is the default":          {nil, nil, defaults},
		"a flag":                                {nil, []string{"--text=x"}, with(func(p *program) { p.text = "x" })},
		"a flag with its value behind it":       {nil, []string{"--text", "x"}, with(func(p *program) { p.text = "x" })},
		"a flag with one dash":                  {nil, []string{"-text", "x"}, with(func(p *program) { p.text = "x" })},
		"a flag whose value has an equals sign": {nil, []string{"--text=a=b"}, with(func(p *program) { p.text = "a=b" })},
		"an environment variable":               {env{"TEXT": "x"}, nil, with(func(p *program) { p.text = "x" })},
		"the flag wins": {env{"TEXT": "env"}, []string{"--text=flag"},
			with(func(p *program) { p.text = "flag" })},
		"an empty flag wins as well":                {env{"NAMES": "a,b"}, []string{"--names="}, defaults},
		"a flag that says the default wins as well": {env{"LOG_FORMAT": "json"}, []string{"--log.format=text"}, defaults},
		"a wrong environment variable that a flag covers": {env{"INTERVAL": "x"}, []string{"--interval=20s"},
			with(func(p *program) { p.interval = 20 * time.Second })},
		"an empty environment variable is none":   {env{"LOG_FORMAT": "", "INTERVAL": "", "PORT": ""}, nil, defaults},
		"an environment variable of another form": {env{"PORT": "8080"}, nil, with(func(p *program) { p.address = ":8080" })},
		"the flag's own form": {env{"PORT": "8080"}, []string{"--address=:9090"},
			with(func(p *program) { p.address = ":9090" })},
		"one of several": {env{"LOG_FORMAT": "json"}, nil, with(func(p *program) { p.format = "json" })},
		"a list":         {nil, []string{"--names=a,b,c"}, with(func(p *program) { p.names = []string{"a", "b", "c"} })},
		"a list with spaces, and commas too many": {nil, []string{"--names= a , b,,c, "},
			with(func(p *program) { p.names = []string{"a", "b", "c"} })},
		"a list that has an item twice is a set (fault 14)": {nil, []string{"--names=a,b,a, b"},
			with(func(p *program) { p.names = []string{"a", "b"} })},
		"a list of commas is empty": {nil, []string{"--names=,,"}, defaults},
		"the shortest duration":     {nil, []string{"--interval=1s"}, with(func(p *program) { p.interval = time.Second })},
		"the longest duration": {nil, []string{"--interval=600s"},
			with(func(p *program) { p.interval = 10 * time.Minute })},
		"a flag that needs no value":       {nil, []string{"--once"}, with(func(p *program) { p.once = true })},
		"that flag with its value":         {nil, []string{"--once=1"}, with(func(p *program) { p.once = true })},
		"that flag with false, which wins": {env{"ONCE": "true"}, []string{"--once=false"}, defaults},
		"its environment variable":         {env{"ONCE": "TRUE"}, nil, with(func(p *program) { p.once = true })},
		"a secret": {env{"HEADER": "Authorization: Bearer x", "TEXT": "x"}, nil,
			with(func(p *program) { p.header, p.text = "Authorization: Bearer x", "x" })},
	} {
		t.Run(name, func(t *testing.T) {
			var p program
			if err := p.parse(c.env, c.args...); err != nil {
				t.Fatal(err)
			}
			if fmt.Sprintf("%+v", p) != fmt.Sprintf("%+v", c.want) {
				t.Errorf("%+v, want %+v", p, c.want)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	type env = map[string]string
	for name, c := range map[string]struct {
		env  env
		args []string
		want string
	}{
		"a flag's value": {nil, []string{"--log.format=xml"},
			`--log.format is "xml"; it must be one of text, json`},
		"a flag that needs no value": {nil, []string{"--once=maybe"}, `--once is "maybe"; it must be true or false`},
		"a value behind such a flag": {nil, []string{"--once", "yes"},
			`argument 2 is not a flag: flags begin with --, and values with spaces need quotes; see --help`},
		"an environment variable's value": {env{"LOG_FORMAT": "xml"}, nil,
			`LOG_FORMAT is "xml"; it must be one of text, json`},
		"the flag's, where both are given": {env{"LOG_FORMAT": "toml"}, []string{"--log.format=xml"},
			`--log.format is "xml"; it must be one of text, json`},
		"the right value in the wrong case": {nil, []string{"--log.format=JSON"},
			`--log.format is "JSON"; it must be one of text, json`},
		"an empty value": {nil, []string{"--log.format="},
			`--log.format is ""; it must be one of text, json`},
		"an environment variable as it was given, not as it is used": {env{"PORT": "!"}, nil,
			`PORT is "!"; it must be an address, such as :9100`},
		"no duration": {nil, []string{"--interval=soon"},
			`--interval is "soon"; it must be a duration from 1s to 10m0s, such as 15s`},
		"a duration without a unit": {env{"INTERVAL": "15"}, nil,
			`INTERVAL is "15"; it must be a duration from 1s to 10m0s, such as 15s`},
		"a duration that is too short": {nil, []string{"--interval=999ms"},
			`--interval is "999ms"; it must be a duration from 1s to 10m0s, such as 15s`},
		"a duration that is too long": {nil, []string{"--interval=10m1s"},
			`--interval is "10m1s"; it must be a duration from 1s to 10m0s, such as 15s`},
		"a negative duration": {nil, []string{"--interval=-15s"},
			`--interval is "-15s"; it must be a duration from 1s to 10m0s, such as 15s`},
		"one wrong item of a list": {nil, []string{"--names=a,b!,c"},
			`--names is "a,b!,c"; it must be a list of names separated by commas`},
		"a value of several lines": {env{"LOG_FORMAT": "text\nPORT=1"}, nil,
			`LOG_FORMAT has a value that is not shown here; it must be one of text, json`},
		"a value that is no text": {env{"LOG_FORMAT": "\xff"}, nil,
			`LOG_FORMAT is "\xff"; it must be one of text, json`},
		"a secret is not shown": {nil, []string{"--header=marked-secret"},
			`--header has a value that is not shown here; it must be a header, such as Name: value`},
		"a secret from the environment is not shown": {env{"HEADER": "marked-secret"}, nil,
			`HEADER has a value that is not shown here; it must be a header, such as Name: value`},
		"a flag given twice (fault 14)": {nil, []string{"--text=a", "--names=x", "--text=b"},
			`--text is given 2 times; give it once, with the items of a list separated by commas`},
		"a flag given twice with the same value": {nil, []string{"--text=a", "--text=a"},
			`--text is given 2 times; give it once, with the items of a list separated by commas`},
		"a flag without the one that it needs": {nil, []string{"--header=A: b"},
			`--header says nothing without --text; set both or neither`},
		"a variable without the flag that it needs": {env{"HEADER": "A: b"}, []string{"--text="},
			`HEADER says nothing without --text; set both or neither`},
		"a setting beside one that it excludes": {env{"FILE": "/a"}, []string{"--web=" + os.DevNull},
			`FILE and --web cannot both be set; remove one of them`},
		"a flag that does not exist": {nil, []string{"--intervall=15s"},
			`flag provided but not defined: -intervall; see --help`},
		"a flag without its value": {nil, []string{"--interval"},
			`flag needs an argument: -interval; see --help`},
		"a flag whose = was forgotten": {nil, []string{"--header Authorization: Bearer marked-secret"},
			`flag provided but not defined in an argument that is not shown; see --help`},
		"a dash too many": {nil, []string{"---header=marked-secret"},
			`bad flag syntax in an argument that is not shown; see --help`},
		"a value for a flag that takes none": {nil, []string{"--version=marked-secret"},
			`--version and --help take no value; see --help`},
		"something that is no flag": {nil, []string{"serve"},
			`argument 1 is not a flag: flags begin with --, and values with spaces need quotes; see --help`},
		"something behind the flags": {nil, []string{"--text=x", "y"},
			`argument 2 is not a flag: flags begin with --, and values with spaces need quotes; see --help`},
	} {
		t.Run(name, func(t *testing.T) {
			err := new(program).parse(c.env, c.args...)
			if err == nil {
				t.Fatal("no error")
			}
			if got := err.Error(); got != c.want {
				t.Errorf("%s\nwant: %s", got, c.want)
			}
		})
	}
}

func TestErrorsAreOneLine(t *testing.T) {
	for name, args := range map[string][]string{
		"of a flag that does not exist": {"--no\nsuch\x00flag=1"},
		"of a flag without a name":      {"--=\nx"},
		"of three dashes":               {"---text\n"},
		"of something that is no flag":  {"a\nb"},
		"of a wrong value":              {"--log.format=a\nb"},
		"of a version that is no bool":  {"--version=a\nb"},
	} {
		t.Run(name, func(t *testing.T) {
			checkError(t, new(program).parse(nil, args...))
		})
	}
}

// checkError fails where an error is none or not one line of text.
func checkError(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	text := err.Error()
	control := func(r rune) bool { return r < ' ' || r == 0x7f }
	if text == "" || !utf8.ValidString(text) || strings.ContainsFunc(text, control) {
		t.Errorf("not one line of text: %q", text)
	}
}

func TestListenAddress(t *testing.T) {
	for value, valid := range map[string]bool{
		":9100": true, "127.0.0.1:9100": true, "[::1]:9100": true, "localhost:0": true, ":65535": true,
		"": false, "9100": false, ":": false, ":-1": false, ":65536": false, ":http": false, "::1:9100": false,
		":9100 ": false, "localhost": false, "http://localhost:9100": false,
	} {
		var address string
		switch must := ListenAddress(&address)(value); {
		case valid && (must != "" || address != value):
			t.Errorf("%q: address %q, must be %s", value, address, must)
		case !valid && must != "host:port or :port (in PORT only the port), with a port from 0 to 65535":
			t.Errorf("%q: must be %q", value, must)
		}
	}
}

func TestLogLevel(t *testing.T) {
	for value, want := range map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo,
		"warn": slog.LevelWarn, "error": slog.LevelError} {
		level := slog.Level(99)
		if must := LogLevel(&level)(value); must != "" || level != want {
			t.Errorf("%s: level %s, must be %s", value, level, must)
		}
	}
	for _, value := range []string{"", "INFO", "trace", "warn+1", "4"} {
		var level slog.Level
		if must := LogLevel(&level)(value); must != "one of debug, info, warn, error" || level != 0 {
			t.Errorf("%q: level %s, must be %q", value, level, must)
		}
	}
}

func TestHelp(t *testing.T) {
	const want = `prog 1.2.3

Each flag has an environment variable; the flag wins.

  --text, TEXT
      any name
  --log.format, LOG_FORMAT (default text)
      text or json
  --names, NAMES
      some names
  --interval, INTERVAL (default 15s)
      how often
  --address, PORT (default :9100)
      address
  --file, FILE
      a file
  --web, WEB
      a web configuration
  --once, ONCE
      whether once
  --header, HEADER
      a header
  --version
      print the version
  --help
      print this
`
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"--help":                        {[]string{"--help"}, want},
		"-h":                            {[]string{"-h"}, want},
		"--help after a wrong value":    {[]string{"--log.format=xml", "--help"}, want},
		"--version":                     {[]string{"--version"}, "prog 1.2.3\n"},
		"--version after a wrong value": {[]string{"--log.format=xml", "--version"}, "prog 1.2.3\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p := program{}
			err := p.parse(map[string]string{"HEADER": "marked-secret"}, c.args...)
			var help Help
			if !errors.As(err, &help) || string(help) != c.want {
				t.Errorf("got:\n%v\nwant:\n%s", err, c.want)
			}
			if p.interval != 0 {
				t.Error("something was set")
			}
		})
	}
}

func TestFileName(t *testing.T) {
	name := strings.Repeat("n", 255)
	for value, ok := range map[string]bool{
		"": true, "/etc/kube/config": true, "one:two": true, "C-3.yaml": true, "Keys/my eyJ.yaml": true,
		name: true, "/" + name + "/" + name: true, "/a/" + name + ":/b/" + name: true,
		strings.Repeat("/"+name, 16):                                      true, // 4096 bytes
		strings.Repeat("/"+name, 16) + ":" + strings.Repeat("/"+name, 16): true,
		name + "n": false, "/a:/b/" + name + "n": false, strings.Repeat("/"+name, 16) + "/": false,
		"/etc/kubernetes/kubeconfig/of/the/production/cluster/in/the/east":                                    true,
		base64.StdEncoding.EncodeToString([]byte("server: https://k/?a/?b/?c, user: u, token: t-0123456789")): false,
		"a\nb": false, "a\x00b": false, "{a": false, "/a/eyJhbGciOiJIUzI1NiJ9.e30.c2ln": false,
	} {
		var p string
		if got := FileName(&p)(value) == ""; got != ok || ok && p != value {
			t.Errorf("%.40q, %d bytes: %t, %q", value, len(value), got, p)
		}
	}
}

// TestContentInPlaceOfANameIsNotShown is fault 10: a token got into the log because a kubeconfig's content was where
// its name should have been. The token is where an error that is cut short would still have it.
func TestContentInPlaceOfANameIsNotShown(t *testing.T) {
	const token = "eyJhbGciOiJSUzI1NiIsImtpZCI6Im1hcmtlZCJ9.eyJzdWIiOiJtYXJrZWQifQ.bWFya2VkLXNpZ25hdHVyZQ"
	yaml := "users: [" + token + "]\napiVersion: v1\nkind: Config\nclusters:\n- name: c\n" +
		"  cluster: {server: 'https://k:6443?a=b'}\n" +
		"contexts:\n- name: c\n  context: {cluster: c, user: u}\ncurrent-context: c\n" +
		"users:\n- name: u\n  user:\n    token: x\n"
	encoded := base64.StdEncoding.EncodeToString([]byte(yaml))
	var wrapped strings.Builder
	for line := range slices.Chunk([]byte(encoded), 76) {
		wrapped.Write(append(line, '\n'))
	}
	contents := map[string]string{"YAML": yaml, "JSON": `{"token":"` + token + `"}`, "base64 -w0": encoded,
		"base64 in lines": wrapped.String(), "a token": token, "a token's beginning": token[:40]}
	for what, content := range contents {
		for _, row := range new(program).table() {
			for _, args := range [][]string{nil, {"--" + row.Flag, content}} {
				t.Run(fmt.Sprint(what, " in ", row.Env, " ", len(args)), func(t *testing.T) {
					env := map[string]string{row.Env: content}
					if args != nil {
						env = nil
					}
					err := new(program).parse(env, args...)
					if err == nil && (row.Env == "NAMES" || row.Env == "PORT") { // which take almost anything here
						return
					}
					checkError(t, err)
					for _, lines := range []string{content, yaml, encoded} {
						for word := range strings.FieldsSeq(lines) {
							if piece := word[:min(len(word), 20)]; len(piece) > 8 && strings.Contains(err.Error(), piece) {
								t.Errorf("%q is in the error: %v", piece, err)
							}
						}
					}
				})
			}
		}
	}
}

func TestWebConfig(t *testing.T) {
	const secret = "marked-secret"
	for name, c := range map[string]struct{ text, want string }{
		"nothing in it": {"", ""},
		"a hash":        {"basic_auth_users: {me: $2a$04$JRR5xbHQBTfrPdIHkVgy8.4CT7QYgYZbVnmUjZAFBgR2Iq5WmPYsq}", ""},
		"no YAML": {"basic_auth_users: {me: " + secret,
			"but: not valid YAML, or a field that does not exist, line 1"},
		"an unknown field": {"basic_auth_users:\n" + secret + ": x", "line 2"},
		"the wrong type":   {"basic_auth_users: " + secret, "line 1"},
		"a TLS version":    {"tls_server_config: {min_version: " + secret + "}", "but: unknown TLS version"},
		"a missing file":   {"tls_server_config: {cert_file: gone.crt, key_file: gone.key}", "gone.crt"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "web.yml")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var p string
			got := WebConfig(&p)(file)
			if !strings.Contains(got, c.want) || (got == "") != (c.want == "") || strings.Contains(got, secret) || p != file {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// FuzzParse gives a program any arguments and environment. It must take them, or say in one line what is wrong, without
// the secret.
func FuzzParse(f *testing.F) {
	for _, args := range []string{"", "--text=x\x00--names\x00a,b", "--interval\x0015s",
		"--interval=1e9h\x00--log.format=json", "--\x00x", "--version=maybe", "-", "---", "--header=\x00--help", "--text\n=1",
		"--names=\xff,,\n"} {
		f.Add(args, "8080", "15s")
	}
	f.Add("--log.format=xml", "!", "15")
	f.Fuzz(func(t *testing.T, args, port, interval string) {
		const secret = "marked-secret"
		var p program
		list := strings.Split(args, "\x00")
		if args == "" {
			list = nil
		}
		err := p.parse(map[string]string{"PORT": port, "INTERVAL": interval, "HEADER": secret, "TEXT": "env"}, list...)
		var help Help
		switch {
		case errors.As(err, &help):
			return
		case err == nil:
			if p.interval < time.Second || p.interval > 10*time.Minute || !slices.Contains([]string{"text", "json"}, p.format) {
				t.Errorf("%+v was let through", p)
			}
			if slices.ContainsFunc(p.names, func(name string) bool { return name == "" || strings.ContainsAny(name, " !") }) {
				t.Errorf("the names %q were let through", p.names)
			}
		default:
			if checkError(t, err); strings.Contains(err.Error(), secret) && !strings.Contains(args+port+interval, secret) {
				t.Errorf("the secret is in the error: %v", err)
			}
		}
	})
}
