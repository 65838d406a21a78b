package credentials

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	clientauthentication "k8s.io/client-go/pkg/apis/clientauthentication/v1"

	"metrics-server-prom/internal/credentials/standin"
)

func TestMain(m *testing.M) {
	Serve()
	os.Exit(m.Run())
}

// asked is a run of this program in place of a plugin, with the stand-ins for the clouds.
type asked struct {
	env     []string // beside what leads to the stand-ins
	args    []string // the program's name first
	prepare func(*testing.T, *standin.Clouds)

	holder  string // of the token, as the stand-ins know it
	seen    string // what the stand-ins were asked for, in lines; each has to begin like that
	problem string // is in the line that says why there is none; CLOUDS/ is the directory of their files
	wayOut  string // is in the line after that
}

const cluster = "shop"

// secretMarks are at the beginning of everything that must not be shown.
const secretMark = "xMARKEDx"

func (a *asked) check(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clouds := start(t, dir, func(c *standin.Clouds) {
		if a.prepare != nil {
			a.prepare(t, c)
		}
	})
	began := time.Now()
	printed, lines := ask(t, append(clouds.Env(), replaced(a.env, dir)...), replaced(a.args, dir)...)
	if a.problem != "" {
		if len(lines) != 2 || !strings.Contains(lines[0], strings.ReplaceAll(a.problem, "CLOUDS/", dir+"/")) ||
			!strings.Contains(lines[1], a.wayOut) {
			t.Errorf("%s\nwant: %s\n%s", strings.Join(lines, "\n"), a.problem, a.wayOut)
		}
	} else if len(lines) > 0 || printed == nil {
		t.Fatalf("no token: %s", strings.Join(lines, "\n"))
	} else {
		if who, err := clouds.Holder(printed.Status.Token, cluster); err != nil || who != a.holder {
			t.Errorf("the token is of %q, %v, want %s", who, err, a.holder)
		}
		if e := printed.Status.ExpirationTimestamp; e == nil || e.Time.Before(began) {
			t.Errorf("the token ends at %s", e)
		}
	}
	if strings.Contains(strings.Join(lines, "\n"), secretMark) {
		t.Errorf("a secret is shown: %s", lines)
	}
	if a.seen != "" {
		got, want := clouds.Asked(), strings.Split(a.seen, "\n")
		if !slices.EqualFunc(got, want, strings.HasPrefix) {
			t.Errorf("asked for:\n%s\nwant:\n%s", strings.Join(got, "\n"), a.seen)
		}
	}
}

func replaced(texts []string, dir string) (all []string) {
	for _, text := range texts {
		all = append(all, strings.ReplaceAll(text, "CLOUDS/", dir+"/"))
	}
	return all
}

// ask runs the program: what it prints, or the lines that it writes to stderr.
func ask(t *testing.T, env []string, args ...string) (*clientauthentication.ExecCredential, []string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, append([]string{Command}, args...)...)
	cmd.Env = append(env, "GORACE=atexit_sleep_ms=0") // or the race detector sleeps for a second at each end
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == Refused && len(out) == 0 {
		return nil, strings.Split(strings.TrimSuffix(string(exit.Stderr), "\n"), "\n")
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	printed := &clientauthentication.ExecCredential{}
	if err := json.Unmarshal(out, printed); err != nil || printed.Status == nil {
		t.Fatalf("%v: %s", err, out)
	}
	return printed, nil
}

func file(t *testing.T, clouds *standin.Clouds, name, text string) {
	t.Helper()
	if _, err := clouds.File(name, text); err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, dir string, prepare func(*standin.Clouds)) *standin.Clouds {
	t.Helper()
	clouds, err := standin.New(dir, prepare)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(clouds.Close)
	return clouds
}

// FuzzArguments gives the plugins any arguments. They are taken or refused, without what stands behind an = in them.
func FuzzArguments(f *testing.F) {
	for _, args := range []string{"eks\x00get-token\x00--cluster-name\x00shop", "--x=" + secretMark,
		"-l\x00spn\x00--\x00a", "---", "--legacy=" + secretMark, "-i"} {
		f.Add(args)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var value string
		var is bool
		args := strings.Split(text, "\x00")
		_, err := parse(args, func(f *flag.FlagSet) {
			f.StringVar(&value, "i", "", "")
			f.BoolVar(&is, "legacy", false, "")
		}, "output", "debug")
		Known("kubelogin", args)
		if err != nil && strings.Contains(err.Error(), secretMark) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
