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
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/internal/connstring"
)

// libpqSettings returns the environment variables with which libpq connects, except the token. PGHOST
// is the server name, which libpq sends as SNI and verifies. If another address is dialled, it is in
// PGHOSTADDR (PostgreSQL docs, "Parameter Key Words").
func (c *command) libpqSettings(ctx context.Context, config dsql.Config, connString string) (map[string]string, error) {
	if config.Transport == "websocket" {
		return nil, errors.New("transport=websocket: libpq knows no WebSockets; start psql behind dsql proxy: dsql proxy CONNECTION-STRING -- psql")
	}
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
	roots, err := c.rootCertificates(connString)
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
		"PGSSLNEGOTIATION":  cmp.Or(config.SSLNegotiation, "direct"), // libpq before version 17 does not read it
		"PGGSSENCMODE":      "disable",                               // else a Kerberos ticket makes libpq ask for GSSAPI first
		"PGCONNECT_TIMEOUT": strconv.Itoa(int(math.Ceil(conn.ConnectTimeout.Seconds()))),
	}
	if host != endpoint.ServerName {
		addresses := []string{host}
		if _, err := netip.ParseAddr(host); err != nil {
			if addresses, err = c.lookup(ctx, host); err != nil {
				return nil, fmt.Errorf("%w; run dsql doctor to see why", err)
			}
		}
		// libpq tries the addresses in turn, and needs a name for each.
		settings["PGHOST"] = strings.Join(slices.Repeat([]string{endpoint.ServerName}, len(addresses)), ",")
		settings["PGHOSTADDR"] = strings.Join(addresses, ",")
	}
	c.addSessionSettings(settings, conn.RuntimeParams)
	return settings, nil
}

// sessionVariables are the session settings for which libpq has an environment variable (PostgreSQL
// docs, "Environment Variables").
var sessionVariables = map[string]string{
	"application_name": "PGAPPNAME",
	"client_encoding":  "PGCLIENTENCODING",
	"datestyle":        "PGDATESTYLE",
	"timezone":         "PGTZ",
}

func (c *command) addSessionSettings(settings, params map[string]string) {
	var dropped []string
	for name, value := range params {
		if variable, ok := sessionVariables[name]; ok {
			settings[variable] = value
		} else {
			dropped = append(dropped, name)
		}
	}
	if len(dropped) > 0 {
		slices.Sort(dropped)
		fmt.Fprintf(c.stderr, "dsql psql: not passed on, because libpq has no environment variable for it: %s; use SET in the session\n", strings.Join(dropped, ", "))
	}
}

// rootCertificates returns the file of root certificates that the connection string names, or else
// the system's file. If there is none, it returns "system", which libpq knows since version 16.
func (c *command) rootCertificates(connString string) (string, error) {
	if named := sslRootCert(connString); named != "" && named != "system" {
		return filepath.Abs(named)
	}
	for _, file := range slices.Concat([]string{c.getenv("SSL_CERT_FILE")}, systemRootFiles) {
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			return file, nil
		}
	}
	return "system", nil
}

// systemRootFiles are the files of Debian, Fedora, SUSE, and of Alpine and macOS.
var systemRootFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// sslRootCert returns the parameter of that name in a connection string that dsql.ParseConfig
// accepted. A Config has the certificates, but not the name of their file.
func sslRootCert(connString string) string {
	settings, err := connstring.Parse(connString)
	if err != nil {
		return ""
	}
	for _, s := range settings {
		if strings.EqualFold(s.Name, "sslrootcert") && s.Value != "" {
			return s.Value
		}
	}
	return ""
}

// withoutPGVariables removes the PG* variables, which could make libpq connect elsewhere. It keeps
// those that change only how values are shown.
func withoutPGVariables(env []string) (kept, removedNames []string) {
	for _, variable := range env {
		name, _, _ := strings.Cut(variable, "=")
		switch {
		case !strings.HasPrefix(name, "PG"), name == "PGCLIENTENCODING", name == "PGDATESTYLE", name == "PGTZ":
			kept = append(kept, variable)
		default:
			removedNames = append(removedNames, name)
		}
	}
	slices.Sort(removedNames)
	return kept, slices.Compact(removedNames)
}

// shellCommands returns lines for a POSIX shell that export settings and unset removed. PGPASSWORD,
// which callers set themselves, stays. So do names that no shell variable can have: the shell passes
// them on or not, but no command can unset them.
func shellCommands(settings map[string]string, removed []string) string {
	var b strings.Builder
	for _, name := range removed {
		if _, set := settings[name]; !set && name != "PGPASSWORD" && isShellName(name) {
			b.WriteString("unset " + name + "\n")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		b.WriteString(export(name, settings[name]))
	}
	return b.String()
}

// isShellName tells whether s can be the name of a variable (POSIX, XBD 3.216, "Name").
func isShellName(s string) bool {
	for i, r := range s {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}
