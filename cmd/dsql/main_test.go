package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

// clusterID is that of server, which the tests share.
const clusterID = "vftmkydwxvxys6asbsc6ih2the"

var (
	server *dsqltest.Server
	binary string // the command, built for these tests
	caPath string // server's authority
)

func TestMain(m *testing.M) { os.Exit(setUp(m)) }

func setUp(m *testing.M) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "dsql-test-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	if err := findTestPsql(); err != nil {
		return fail(err)
	}

	// With -race where the tests have it, so that the packages are compiled once.
	build := []string{"build"}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		build = append(build, "-race")
	}
	binary = filepath.Join(dir, "dsql")
	if out, err := exec.Command("go", append(build, "-o", binary, ".")...).CombinedOutput(); err != nil {
		return fail(fmt.Errorf("go build: %w\n%s", err, out))
	}

	// No test may ask the network or the machine it runs on.
	for name, value := range map[string]string{
		"HOME": dir, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
		"AWS_PROFILE": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_SESSION_TOKEN": "",
		"DSQL_URL": "", "TERM": "xterm", "NO_COLOR": "", "TZ": "UTC", "LC_ALL": "C",
		"GORACE": "atexit_sleep_ms=0", // else every run of a binary with the race detector takes a second more
	} {
		os.Setenv(name, value)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if server, err = dsqltest.Start(ctx, dsqltest.WithClusterID(clusterID)); err != nil {
		return fail(err)
	}
	caPath = filepath.Join(dir, "a ca.pem") // the space has to be written in every form
	if err := os.WriteFile(caPath, server.CAPEM(), 0o600); err != nil {
		return fail(err)
	}
	os.Setenv("AWS_ACCESS_KEY_ID", server.Credentials().AccessKeyID)
	os.Setenv("AWS_SECRET_ACCESS_KEY", server.Credentials().SecretAccessKey)
	code := m.Run()
	if err := server.Close(); err != nil {
		return fail(err)
	}
	return code
}

// findTestPsql puts a psql on PATH that was installed beside it, as Homebrew does. The tests do not
// pass without one: what psql understands is what they are about.
func findTestPsql() error {
	if _, err := exec.LookPath("psql"); err == nil {
		return nil
	}
	for _, place := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/*/bin", "/usr/local/opt/*/bin"} {
		found, err := filepath.Glob(filepath.Join(place, "psql"))
		if err == nil && len(found) > 0 {
			return os.Setenv("PATH", filepath.Dir(found[len(found)-1])+string(os.PathListSeparator)+os.Getenv("PATH"))
		}
	}
	return errors.New("these tests run psql, and it is missing; scripts/setup installs it together with PostgreSQL")
}

// result is what one run of the command came to.
type result struct {
	stdout, stderr string
	status         int
}

// runBinary runs the built command to its end. env is put on top of the process's own.
func runBinary(t *testing.T, env []string, args ...string) result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		require.NoError(t, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// runHere runs it within this process, changed by change.
func runHere(t *testing.T, change func(*command), args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := &command{
		env: os.Environ(), stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr,
		terminal: func(io.Writer) bool { return false },
		lookup: func(_ context.Context, host string) ([]string, error) {
			return nil, errors.New("no such host: " + host)
		},
	}
	if change != nil {
		change(c)
	}
	status := c.run(t.Context(), args)
	return result{stdout.String(), stderr.String(), status}
}

// serverURL connects user to server.
func serverURL(user string) string { return urlOf(server, caPath, user) }

func urlOf(s *dsqltest.Server, ca, user string) string {
	return "dsql://" + user + "@" + s.Endpoint() + "?dial_address=" + s.Addr() + "&sslrootcert=" + url.PathEscape(ca)
}

// watchAttempts returns what server saw since the call.
func watchAttempts() func() []dsqltest.Attempt {
	before := len(server.Attempts())
	return func() []dsqltest.Attempt { return server.Attempts()[before:] }
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args   string
		status int
		stderr string
	}{
		{"", exitUsage, "SYNOPSIS"},
		{"doctr", exitUsage, `dsql: "doctr" is not a command; there are doctor, token, psql, proxy, load, local, version and help`},
		{"help doctr", exitUsage, `there is no page on "doctr"`},
		{"help doctor token", exitUsage, "there is no page"},
		{"doctor", exitUsage, "dsql doctor: no connection string: give one"},
		{"token", exitUsage, "dsql token: no connection string"},
		{"psql -- -c x", exitUsage, "dsql psql: no connection string"},
		{"doctor host=a host=b", exitUsage, "more than one connection string"},
		{"doctor --jsn x", exitUsage, "-jsn; see dsql help doctor"},
		{"doctor host=a --jsn", exitUsage, "-jsn; see dsql help doctor"},
		{"doctor --timeout soon x", exitUsage, `invalid value "soon" for flag -timeout: write it like 900, 900s or 15m; see dsql help doctor`},
		{"doctor --timeout 0 x", exitUsage, "--timeout is 0s; set it to a time above 0"},
		{"doctor --timeout 0s x", exitUsage, "--timeout is 0s; set it to a time above 0"},
		{"doctor --compare /nowhere/x.json x", exitUsage, "--compare: open /nowhere/x.json"},
		{"doctor --compare main.go x", exitUsage, "main.go holds no report"},
		{"token --expires-in 500ms x", exitUsage, "--expires-in is 500ms; set it to whole seconds from 1s to 168h"},
		{"token --expires-in 0s x", exitUsage, "--expires-in is 0s"},
		{"token --expires-in 168h1s x", exitUsage, "--expires-in is 168h0m1s"},
		{"token --expires-in 604801 x", exitUsage, "--expires-in is 168h0m1s"},
		{"token --expires-in 8d x", exitUsage, `invalid value "8d" for flag -expires-in: write it like 900, 900s or 15m`},
		{"psql -c x", exitUsage, "psql's own arguments go behind --"},
		{"local dsql://x", exitUsage, "it takes no connection string"},
		{"local --listen 0.0.0.0:0", exitUsage, `dsql local: --listen: "0.0.0.0:0" is not a loopback address`},
		{"local --listen 5432", exitUsage, "dsql local: --listen: address 5432: missing port"},
		{"local --listen 127.0.0.1:99999", exitUsage, "dsql local: --listen: listen tcp: address 99999: invalid port"},
		{"local --cluster-id x", exitUsage, `dsql local: --cluster-id: "x" is not a cluster ID`},
		{"local --region x", exitUsage, `dsql local: --region: "x" is not a region`},
		{"local --role app --role admin", exitUsage, `dsql local: --role: "admin" is taken`},
		{"version x", exitUsage, "dsql version: it takes no argument"},
		{"token dsql://admin@nowhere", exitConfig, "dsql token: invalid configuration: ClusterID"},
		{"psql mysql://x", exitConfig, "dsql psql: invalid configuration: connection string"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got := runHere(t, nil, strings.Fields(tt.args)...)
			require.Equal(t, tt.status, got.status, got.stderr)
			require.Contains(t, got.stderr, tt.stderr)
			require.Empty(t, got.stdout)
			require.True(t, strings.HasSuffix(got.stderr, "\n"))
		})
	}
}

func TestHelp(t *testing.T) {
	sections := regexp.MustCompile(`(?m)^[A-Z][A-Z ]+$`)
	for _, name := range []string{"", "doctor", "token", "psql", "proxy", "load", "local", "version"} {
		page := manual(name)
		got := runHere(t, nil, slices.DeleteFunc([]string{"help", name}, func(s string) bool { return s == "" })...)
		require.Equal(t, result{stdout: page}, got)
		for _, flag := range []string{"-h", "--help"} {
			require.Equal(t, result{stdout: page}, runHere(t, nil, slices.DeleteFunc([]string{name, flag}, func(s string) bool { return s == "" })...))
		}
		found := sections.FindAllString(page, -1)
		require.Equal(t, []string{"NAME", "SYNOPSIS"}, found[:2])
		wanted := []string{"EXIT STATUS", "EXAMPLES"}
		if name != "" && name != "version" { // which is on the program's page
			wanted = append(wanted, "DESCRIPTION", "OPTIONS")
		}
		require.Subset(t, found, wanted, name)
		require.NotContains(t, page, "\t")
		for line := range strings.Lines(page) {
			require.True(t, len(line) <= 81 || strings.Contains(line, "://"), line)
		}
	}
}

// Every option has its place in the manual, in SYNOPSIS and OPTIONS, and the manual has no others.
func TestHelpNamesEveryOption(t *testing.T) {
	source, err := filepath.Glob("*.go")
	require.NoError(t, err)
	defined := regexp.MustCompile(`flags\.(?:Bool|Duration|Int|String|Func)(?:Var\(&[a-zA-Z.]+, |\()"([a-z-]+)"`)
	options := regexp.MustCompile(`(?m)^    --([a-z-]+)`)
	for _, name := range []string{"doctor", "token", "psql", "proxy", "load", "local"} {
		text, err := os.ReadFile(name + ".go")
		require.NoError(t, err)
		require.Contains(t, source, name+".go")
		var want []string
		for _, m := range defined.FindAllStringSubmatch(string(text), -1) {
			want = append(want, m[1])
			require.Regexp(t, `[[ ]--`+m[1]+`[] ]`, manual(name), "SYNOPSIS")
		}
		require.NotEmpty(t, want)
		var got []string
		for _, m := range options.FindAllStringSubmatch(manual(name), -1) {
			got = append(got, m[1])
		}
		require.ElementsMatch(t, want, got, name)
	}
}

func TestVersion(t *testing.T) {
	for _, arg := range []string{"version", "-version", "--version"} {
		got := runBinary(t, nil, arg)
		require.Equal(t, exitOK, got.status, got.stderr)
		require.Empty(t, got.stderr)
		require.Regexp(t, `^dsql (v\d\S*|\(devel\))( \([0-9a-f]{40}\))?, go\S+ `+runtime.GOOS+"/"+runtime.GOARCH+`\n$`, got.stdout)
	}
}

func TestParseTakesFlagsAnywhere(t *testing.T) {
	for _, args := range []string{"-x a b", "a -x b", "a b -x", "a --x -- b"} {
		flags := newFlags("test")
		x := flags.Bool("x", false, "")
		rest, err := parse(flags, strings.Fields(args))
		require.NoError(t, err)
		require.True(t, *x, args)
		require.Equal(t, []string{"a", "b"}, rest, args)
	}
	_, err := parse(newFlags("test"), []string{"a", "-h"})
	require.ErrorIs(t, err, flag.ErrHelp)
}

func TestQuote(t *testing.T) {
	for _, s := range []string{"", "plain-1.2:3/4", "a b", "it's", "$HOME `x` \\ \"", "a\nb", "dsql://a@b?c=d&e=f", "ä"} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", export("X", s)+`printf %s "$X"`).Output()
		require.NoError(t, err)
		require.Equal(t, s, string(out))
	}
	require.Equal(t, "export X=a.b:1\n", export("X", "a.b:1"))
}

func TestConnStringFromEnvironment(t *testing.T) {
	c := &command{env: []string{"DSQL_URL=first", "XDSQL_URL=no", "DSQL_URL=last"}}
	got, err := c.connString(nil)
	require.NoError(t, err)
	require.Equal(t, "last", got)
	got, err = c.connString([]string{"argument"})
	require.NoError(t, err)
	require.Equal(t, "argument", got)
}

func TestIsTerminal(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer null.Close()
	require.False(t, isTerminal(null))
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	require.False(t, isTerminal(w))
	require.False(t, isTerminal(new(bytes.Buffer)))
}

// Whatever the commands print, a secret is in it only where the manual says so.
func TestNothingPrintsASecret(t *testing.T) {
	const session = "a-session-token-that-nobody-may-see"
	secret := server.Credentials().SecretAccessKey
	env := []string{"AWS_SESSION_TOKEN=" + session}
	config, err := dsql.ParseConfig(serverURL("admin"))
	require.NoError(t, err)
	token, err := signToken(t.Context(), config)
	require.NoError(t, err)
	shown := 0
	for _, args := range [][]string{
		{"doctor", serverURL("admin")},
		{"doctor", "--json", serverURL("nobody")},
		{"psql", "--print-env", serverURL("admin")},
		{"psql", serverURL("admin"), "--", "-c", "select 1"}, // refused: the session token is not the key's
		{"token", "dsql://admin:" + secret + "@" + server.Endpoint()},
		{"doctor", "dsql://admin:" + secret + "@" + server.Endpoint()},
		{"psql", serverURL("admin") + "&password=" + secret},
		{"psql", serverURL("admin") + "&password=" + url.QueryEscape(token.Reveal())},
	} {
		got := runBinary(t, env, args...)
		for _, text := range []string{got.stdout, got.stderr} {
			shown += len(text)
			for _, hidden := range []string{secret, session, "X-Amz-Signature", "X-Amz-Security-Token="} {
				require.NotContains(t, text, hidden, args[0])
			}
		}
	}
	require.Greater(t, shown, 1000)
}
