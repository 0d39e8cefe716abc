package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqlproxy"
)

const passwordVariable = "DSQL_PROXY_PASSWORD"

// proxyFlags are the flags of "dsql proxy" that are not fields of a Proxy.
type proxyFlags struct {
	listen, socket    string
	passwordFile      string
	tlsCert, tlsKey   string
	health, logFormat string
	quiet, wait       bool
	command           []string // behind "--"
}

// proxy serves until ctx ends, or until the command behind "--" does.
func (c *command) proxy(ctx context.Context, args []string) (status int, err error) {
	p, f, err := c.parseProxy(args)
	if err != nil {
		return 0, err
	}
	if f.wait {
		if err := logInOnce(ctx, p); err != nil {
			return 0, err
		}
	}
	listeners, err := openListeners(ctx, f)
	if err != nil {
		return 0, err
	}
	defer listeners.Close()
	health, err := serveHealth(ctx, f.health, p)
	if err != nil {
		return 0, err
	}
	defer health.Close()

	if c.getenv("GOMAXPROCS") == "" {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(relayThreads()))
	}
	if len(f.command) == 0 {
		c.print(c.stdout, "# ready: "+listeners.String()+"; Ctrl-C ends it\n")
		return exitOK, p.Serve(ctx, listeners)
	}
	// A signal is for the command to handle, and the proxy serves it to its end.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	served := make(chan error, 1)
	go func() { served <- p.Serve(serving, listeners) }()
	status, err = c.runBehindProxy(p, listeners, f.command)
	stop()
	return status, errors.Join(err, <-served)
}

// relayThreads is half of the processors. A relay's goroutines wait for sockets, and threads that
// look for work wake each other more often than they find some: with one thread for two processors,
// eight clients get more answers a second, for less of the processors (docs/benchmarks.md).
func relayThreads() int { return max(1, runtime.NumCPU()/2) }

// logInOnce finds out whether clients will get a session.
func logInOnce(ctx context.Context, p *dsqlproxy.Proxy) error {
	config := p.Config
	if len(p.Users) > 0 {
		config.User = p.Users[0]
	}
	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		return fmt.Errorf("--wait: %w", err)
	}
	return conn.Close(ctx)
}

// parseProxy reads the command line.
func (c *command) parseProxy(args []string) (*dsqlproxy.Proxy, *proxyFlags, error) {
	p, f := &dsqlproxy.Proxy{}, &proxyFlags{}
	if i := slices.Index(args, "--"); i >= 0 {
		if args, f.command = args[:i], args[i+1:]; len(f.command) == 0 {
			return nil, nil, usageError("there is no command behind --")
		}
	}
	flags := newFlags("proxy")
	flags.StringVar(&f.listen, "listen", "", "")
	flags.StringVar(&f.socket, "socket", "", "")
	flags.StringVar(&f.passwordFile, "password-file", "", "")
	flags.StringVar(&f.tlsCert, "tls-cert", "", "")
	flags.StringVar(&f.tlsKey, "tls-key", "", "")
	flags.StringVar(&f.health, "health", "", "")
	flags.StringVar(&f.logFormat, "log-format", "text", "")
	flags.BoolVar(&f.quiet, "quiet", false, "")
	flags.BoolVar(&f.wait, "wait", false, "")
	flags.IntVar(&p.MaxConnections, "max-connections", 0, "")
	flags.IntVar(&p.Spares, "spares", 0, "")
	flags.BoolVar(&p.AnyDatabase, "any-database", false, "")
	flags.BoolVar(&p.Compat, "compat", false, "")
	flags.Func("drain", "", durationInto(&p.DrainTimeout))
	flags.Func("user", "", func(name string) error {
		p.Users = append(p.Users, name)
		return nil
	})
	args, err := parse(flags, args)
	if err != nil {
		return nil, nil, err
	}
	connString, err := c.connString(args)
	if err != nil {
		return nil, nil, err
	}
	if p.Config, err = dsql.ParseConfig(connString); err != nil {
		return nil, nil, err
	}
	if isSet(flags, "drain") && p.DrainTimeout == 0 {
		p.DrainTimeout = -1 // as the field says "at once"
	}
	if p.Logger, err = c.proxyLogger(f); err != nil {
		return nil, nil, err
	}
	p.Config.Logger = p.Logger
	if p.Password, err = c.proxyPassword(f.passwordFile); err != nil {
		return nil, nil, err
	}
	if p.Password == "" && len(f.command) > 0 && f.socket == "" {
		p.Password = newPassword()
	}
	if (f.tlsCert == "") != (f.tlsKey == "") {
		return nil, nil, usageError("--tls-cert and --tls-key go together")
	}
	if f.tlsCert != "" {
		certificate, err := tls.LoadX509KeyPair(f.tlsCert, f.tlsKey)
		if err != nil {
			return nil, nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
		}
		p.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	}
	return p, f, nil
}

func isSet(flags *flag.FlagSet, name string) (set bool) {
	flags.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// proxyLogger logs to stderr what an operator wants to know, or with --quiet what went wrong.
func (c *command) proxyLogger(f *proxyFlags) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	if f.quiet || len(f.command) > 0 {
		options.Level = slog.LevelWarn
	}
	switch f.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(c.stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(c.stderr, options)), nil
	}
	return nil, usageError(fmt.Sprintf("--log-format: %q is neither text nor json", f.logFormat))
}

// proxyPassword reads the password of a file without its last line break, or of the environment.
// There is no flag for the password itself, since other users of the machine can read a command
// line.
func (c *command) proxyPassword(file string) (string, error) {
	if file == "" {
		return c.getenv(passwordVariable), nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("--password-file: %w", err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if password == "" {
		return "", fmt.Errorf("--password-file: %s is empty; put the password into it", file)
	}
	return password, nil
}
