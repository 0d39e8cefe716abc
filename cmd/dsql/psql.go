package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/dsqlgo/dsql"
)

var errNoPsql = errors.New("psql is not there")

// psql runs the real one. Everything goes through its environment, which other users of the machine
// cannot read, unlike its arguments.
func (c *command) psql(ctx context.Context, args []string) (status int, err error) {
	var passedOn []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, passedOn = args[:i], args[i+1:]
	}
	flags := newFlags("psql")
	printEnv := flags.Bool("print-env", false, "")
	if args, err = parse(flags, args); err != nil {
		var usage usageError
		if errors.As(err, &usage) {
			err = usageError(usage + "; psql's own arguments go behind --")
		}
		return 0, err
	}
	connString, err := c.connString(args)
	if err != nil {
		return 0, err
	}
	config, err := dsql.ParseConfig(connString)
	if err != nil {
		return 0, err
	}
	path, version, err := findPsql(ctx)
	if err != nil {
		return 0, err
	}
	settings, err := c.settings(ctx, config, connString, version)
	if err != nil {
		return 0, err
	}
	env, removed := withoutPG(c.env)
	if *printEnv {
		removed = slices.DeleteFunc(removed, func(name string) bool {
			_, set := settings[name]
			return set || name == "PGPASSWORD"
		})
		if len(removed) > 0 {
			c.print(c.stdout, "unset "+strings.Join(removed, " ")+"\n")
		}
		for _, name := range slices.Sorted(maps.Keys(settings)) {
			c.print(c.stdout, export(name, settings[name]))
		}
		return exitOK, nil
	}
	token, err := signToken(ctx, config)
	if err != nil {
		return 0, err
	}
	for name, value := range settings {
		env = append(env, name+"="+value)
	}
	return c.runPsql(path, passedOn, append(env, "PGPASSWORD="+token.Reveal()))
}

// runPsql returns psql's exit status. A terminal's Ctrl-C reaches both processes; it means psql,
// and main's handler keeps it from ending this one.
func (c *command) runPsql(path string, args, env []string) (int, error) {
	child := exec.Command(path, args...)
	child.Env = env
	child.Stdin, child.Stdout, child.Stderr = c.stdin, c.stdout, c.stderr
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := child.Start(); err != nil {
		return 0, fmt.Errorf("%s cannot be started: %w", path, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = child.Process.Signal(s) // it may have ended just now
		case err := <-ended:
			var failed *exec.ExitError
			if errors.As(err, &failed) {
				if signalled, ok := failed.Sys().(syscall.WaitStatus); ok && signalled.Signaled() {
					return 128 + int(signalled.Signal()), nil // as a shell says it
				}
				return failed.ExitCode(), nil
			}
			return exitOK, err
		}
	}
}

// findPsql returns the psql on PATH and its major version, which is that of its libpq or older.
func findPsql(ctx context.Context) (path string, version int, err error) {
	if path, err = exec.LookPath("psql"); err != nil {
		return "", 0, fmt.Errorf("%w; install it (apt-get install postgresql-client, brew install libpq), or put it on PATH", errNoPsql)
	}
	said, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", 0, fmt.Errorf("%s --version: %w; put one that works on PATH", path, err)
	}
	number := psqlVersion.FindSubmatch(said)
	if number == nil {
		return "", 0, fmt.Errorf("%s --version says %q, which is no version of psql; put psql itself on PATH", path, said)
	}
	version, err = strconv.Atoi(string(number[1]))
	return path, version, err
}

// psqlVersion also reads "17beta1", "18devel" and what distributions put behind it.
var psqlVersion = regexp.MustCompile(`^psql \([^)]*\) ([0-9]{1,4})`)

// settings is what psql's libpq is to know, but for the token. The server name goes into PGHOST,
// which is what libpq sends as SNI and verifies; where that is not the name to dial, PGHOSTADDR
// holds the address (PostgreSQL docs, "Parameter Key Words").
func (c *command) settings(ctx context.Context, config dsql.Config, connString string, version int) (map[string]string, error) {
	conn, err := config.ConnConfig(ctx)
	if err != nil {
		return nil, err
	}
	endpoint, err := config.Endpoint(ctx)
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(endpoint.DialAddress)
	if err != nil {
		return nil, err
	}
	roots, err := c.rootCert(connString, version)
	if err != nil {
		return nil, err
	}
	settings := map[string]string{
		"PGHOST":            endpoint.ServerName,
		"PGPORT":            port,
		"PGUSER":            conn.User,
		"PGDATABASE":        conn.Database,
		"PGSSLMODE":         "verify-full",
		"PGSSLROOTCERT":     roots,
		"PGGSSENCMODE":      "disable", // else a Kerberos ticket makes libpq ask for GSSAPI first
		"PGCONNECT_TIMEOUT": strconv.Itoa(int(math.Ceil(conn.ConnectTimeout.Seconds()))),
	}
	if host != endpoint.ServerName {
		addresses := []string{host}
		if _, err := netip.ParseAddr(host); err != nil {
			if addresses, err = c.lookup(ctx, host); err != nil {
				return nil, fmt.Errorf("%w; run dsql doctor to see why", err)
			}
		}
		// libpq tries a list in turn, and wants a name for each address.
		settings["PGHOST"] = strings.Join(slices.Repeat([]string{endpoint.ServerName}, len(addresses)), ",")
		settings["PGHOSTADDR"] = strings.Join(addresses, ",")
	}
	if version >= 17 && config.SSLNegotiation != "postgres" {
		settings["PGSSLNEGOTIATION"] = "direct"
	}
	var dropped []string
	for name, value := range conn.RuntimeParams {
		if variable, ok := sessionVariables[name]; ok {
			settings[variable] = value
		} else {
			dropped = append(dropped, name)
		}
	}
	if len(dropped) > 0 {
		slices.Sort(dropped)
		fmt.Fprintf(c.stderr, "dsql psql: %s is not passed on: psql could only send it as a startup option, which DSQL refuses; use SET in the session\n", strings.Join(dropped, ", "))
	}
	return settings, nil
}

// sessionVariables are the session settings that libpq sends as such (PostgreSQL docs, "Environment
// Variables").
var sessionVariables = map[string]string{
	"application_name": "PGAPPNAME",
	"client_encoding":  "PGCLIENTENCODING",
	"datestyle":        "PGDATESTYLE",
	"timezone":         "PGTZ",
}

// withoutPG removes every PG* variable, which could lead psql elsewhere, but for those that only
// change what it shows. The names of what it removed come sorted.
func withoutPG(env []string) (kept, removed []string) {
	for _, variable := range env {
		name, _, _ := strings.Cut(variable, "=")
		switch {
		case !strings.HasPrefix(name, "PG"), name == "PGCLIENTENCODING", name == "PGDATESTYLE", name == "PGTZ":
			kept = append(kept, variable)
		default:
			removed = append(removed, name)
		}
	}
	slices.Sort(removed)
	return kept, slices.Compact(removed)
}

// rootCert is a file of roots, or "system", which libpq knows since version 16.
func (c *command) rootCert(connString string, version int) (string, error) {
	if named := sslRootCert(connString); named != "" && named != "system" {
		return filepath.Abs(named)
	}
	if version >= 16 {
		return "system", nil
	}
	for _, file := range slices.Concat([]string{c.getenv("SSL_CERT_FILE")}, bundles) {
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			return file, nil
		}
	}
	return "", fmt.Errorf("psql %d needs a file of root certificates, and there is none in the usual places (%s); install the package ca-certificates, or set sslrootcert",
		version, strings.Join(bundles, ", "))
}

// bundles are where Debian, Fedora, SUSE, and Alpine and macOS keep the system's roots.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// sslRootCert finds the parameter in a connection string that ParseConfig has taken, since a Config
// holds the roots but not where they came from.
func sslRootCert(connString string) string {
	scheme, rest, isURL := strings.Cut(connString, "://")
	if isURL && !strings.ContainsAny(scheme, "= '") {
		_, query, _ := strings.Cut(strings.TrimSpace(rest), "?")
		for pair := range strings.SplitSeq(query, "&") {
			name, value, _ := strings.Cut(pair, "=")
			name, nameErr := url.PathUnescape(name)
			value, valueErr := url.PathUnescape(value)
			if strings.EqualFold(name, "sslrootcert") && cmp.Or(nameErr, valueErr) == nil {
				return value
			}
		}
		return ""
	}
	found := keywordRootCert.FindStringSubmatch(connString)
	if found == nil {
		return ""
	}
	return escaped.ReplaceAllString(found[1]+found[2], "$1")
}

var (
	keywordRootCert = regexp.MustCompile(`(?is)(?:^|\s)sslrootcert\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*))`)
	escaped         = regexp.MustCompile(`(?s)\\(.)`)
)
