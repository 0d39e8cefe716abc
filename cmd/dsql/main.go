// Dsql is the command that goes with package dsql: it finds out why a connection
// to Amazon Aurora DSQL fails (doctor), prints tokens (token), runs psql with
// everything set (psql), serves every other PostgreSQL client of this machine (proxy), and runs a
// local endpoint for other programs (local).
//
// Its manual is "dsql help", and "dsql help COMMAND".
package main

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/dsqlgo/dsql"
)

// Exit statuses. Those of doctor's verdicts begin at 10, so that psql's own (0 to 3) stay
// recognisable; the help texts list them all.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitConfig      = 10
	exitCredentials = 11
	exitAccess      = 12
	exitNetwork     = 13
	exitTLS         = 14
	exitService     = 15
	exitClock       = 16
	exitNoPsql      = 127 // what a shell says of a command that is not there
)

//go:embed help
var help embed.FS

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is main for a test to call. env is as os.Environ returns it; only the AWS SDK reads
// the process's own.
func run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &command{env: env, stdin: stdin, stdout: stdout, stderr: stderr, terminal: isTerminal, lookup: net.DefaultResolver.LookupHost}
	return c.run(ctx, args)
}

// command is one call of the program.
type command struct {
	env            []string
	stdin          io.Reader
	stdout, stderr io.Writer
	terminal       func(io.Writer) bool
	lookup         func(ctx context.Context, host string) ([]string, error)
}

func (c *command) run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		c.print(c.stderr, manual(""))
		return exitUsage
	}
	name, args := args[0], args[1:]
	var status int
	var err error
	switch name {
	case "doctor":
		status, err = c.doctor(ctx, args)
	case "token":
		status, err = exitOK, c.token(ctx, args)
	case "psql":
		status, err = c.psql(ctx, args)
	case "proxy":
		status, err = c.proxy(ctx, args)
	case "load":
		status, err = exitOK, c.load(ctx, args)
	case "local":
		status, err = exitOK, c.local(ctx, args)
	case "version", "-version", "--version":
		name, err = "version", c.version(args)
	case "help", "-h", "-help", "--help":
		name, err = "help", c.help(args)
	default:
		fmt.Fprintf(c.stderr, "dsql: %q is not a command; there are doctor, token, psql, proxy, load, local, version and help\n", name)
		return exitUsage
	}
	var usage usageError
	switch {
	case err == nil:
		return status
	case errors.Is(err, flag.ErrHelp):
		c.print(c.stdout, manual(name))
		return exitOK
	}
	// The library's errors begin with its name, which is the command's too.
	fmt.Fprintf(c.stderr, "dsql %s: %s\n", name, strings.TrimPrefix(err.Error(), "dsql: "))
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, errNoPsql), errors.Is(err, errNoCommand):
		return exitNoPsql
	case errors.Is(err, dsql.ErrConfig):
		return exitConfig
	case errors.Is(err, dsql.ErrCredentials):
		return exitCredentials
	}
	return exitFailure
}

func (c *command) help(args []string) error {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	text := manual(name)
	if text == "" || len(args) > 1 {
		return usageError(fmt.Sprintf("there is no page on %q; there are doctor, token, psql, proxy, load and local", strings.Join(args, " ")))
	}
	c.print(c.stdout, text)
	return nil
}

// version prints one line, for a ticket. There is a revision where it was built in a checkout.
func (c *command) version(args []string) error {
	args, err := parse(newFlags("version"), args)
	if err != nil {
		return err
	}
	if len(args) > 0 {
		return usageError("it takes no argument")
	}
	version, revision := "(devel)", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		version = cmp.Or(info.Main.Version, version)
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " (" + s.Value + ")"
			}
		}
	}
	c.print(c.stdout, fmt.Sprintf("dsql %s%s, %s %s/%s\n", version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH))
	return nil
}

// manual is the page on a subcommand, the program's own for "", "help" and "version", and "" where
// there is none.
func manual(name string) string {
	if name == "" || name == "help" || name == "version" {
		name = "dsql"
	}
	text, err := help.ReadFile("help/" + name + ".txt")
	if err != nil {
		return ""
	}
	return string(text)
}

// print has no error to return: where a report cannot be written, neither can a complaint.
func (c *command) print(w io.Writer, text string) { _, _ = io.WriteString(w, text) }

// usageError is a command line that means nothing.
type usageError string

func (e usageError) Error() string { return string(e) }

func newFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints what is wrong, and the manual is longer than its list
	return flags
}

// parse takes flags before and behind the arguments, which it returns.
func parse(flags *flag.FlagSet, args []string) ([]string, error) {
	var rest []string
	for {
		err := flags.Parse(args)
		switch {
		case errors.Is(err, flag.ErrHelp):
			return nil, err
		case err != nil:
			return nil, usageError(fmt.Sprintf("%v; see dsql help %s", err, flags.Name()))
		case flags.NArg() == 0:
			return rest, nil
		}
		rest = append(rest, flags.Arg(0))
		args = flags.Args()[1:]
	}
}

// durationInto reads whole seconds or a Go duration into d, as token_lifetime of a connection
// string is written.
func durationInto(d *time.Duration) func(string) error {
	return func(value string) (err error) {
		if strings.Trim(value, "0123456789") == "" {
			value += "s"
		}
		if *d, err = time.ParseDuration(value); err != nil {
			return errors.New("write it like 900, 900s or 15m")
		}
		return nil
	}
}

// connString is the one argument, or $DSQL_URL.
func (c *command) connString(args []string) (string, error) {
	switch {
	case len(args) > 1:
		return "", usageError("there is more than one connection string; put quotes around one that holds spaces")
	case len(args) == 1 && args[0] != "":
		return args[0], nil
	}
	if url := c.getenv("DSQL_URL"); url != "" {
		return url, nil
	}
	return "", usageError("no connection string: give one (dsql://<id>.dsql.<region>.on.aws), or set DSQL_URL")
}

func (c *command) getenv(name string) string {
	value := ""
	for _, variable := range c.env {
		if v, ok := strings.CutPrefix(variable, name+"="); ok {
			value = v // of several, the last counts
		}
	}
	return value
}

// isTerminal tells terminals from files, pipes and the null device, which is a character
// device as well.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// export is a line that sets a variable in a POSIX shell.
func export(name, value string) string { return "export " + name + "=" + quote(value) + "\n" }

// quote makes one word of s for a POSIX shell.
func quote(s string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("_@%+=:,./-", r)
	}
	if strings.TrimFunc(s, plain) == "" && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
