package main

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"

	"github.com/dsqlgo/dsql/dsqlproxy"
)

var errNoCommand = errors.New("the command is not there")

// runBehindProxy runs a command whose environment leads PostgreSQL clients to the proxy. It returns
// the command's status.
func (c *command) runBehindProxy(p *dsqlproxy.Proxy, l *listeners, args []string) (int, error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNoCommand, err)
	}
	env, _ := withoutPGVariables(c.env)
	for _, v := range proxyEnvironment(p, l.Addr()) {
		env = append(env, v[0]+"="+v[1])
	}
	return c.runChild(path, args[1:], env)
}

// proxyEnvironment is what PostgreSQL clients read: libpq's variables, and DATABASE_URL. The URL
// has no sslmode, which not all that read it know; they all do without TLS where the server has
// none.
func proxyEnvironment(p *dsqlproxy.Proxy, a net.Addr) (variables [][2]string) {
	host, port, query := "", defaultProxyPort, ""
	if unix, ok := a.(*net.UnixAddr); ok {
		host = filepath.Dir(unix.Name)
		query = "?host=" + escape(host)
	} else {
		host, port, _ = net.SplitHostPort(a.String())
	}
	user := "admin"
	if len(p.Users) > 0 {
		user = p.Users[0]
	} else if p.Config.User != "" {
		user = p.Config.User
	}
	database := cmp.Or(p.Config.Database, "postgres")
	u := url.URL{Scheme: "postgresql", User: url.User(user), Host: net.JoinHostPort(host, port), Path: "/" + database}
	if p.Password != "" {
		u.User = url.UserPassword(user, p.Password)
	}
	if query != "" {
		u.Host = ""
	}
	variables = [][2]string{
		{"PGHOST", host}, {"PGPORT", port}, {"PGUSER", user}, {"PGDATABASE", database}, {"PGSSLMODE", "disable"},
		{"DATABASE_URL", u.String() + query},
	}
	if p.Password != "" {
		variables = append(variables, [2]string{"PGPASSWORD", p.Password})
	}
	return variables
}

// newPassword is for the time that a command runs: on loopback other users of the machine reach the
// proxy, too.
func newPassword() string { return rand.Text() }
