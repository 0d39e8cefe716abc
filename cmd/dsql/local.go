package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dsqlgo/dsql/dsqltest"
)

// localStartTimeout bounds the start, which takes a second or two unless the machine is busy.
const localStartTimeout = time.Minute

// The files in the directory of --data.
const (
	identityFile  = "identity.json" // with a key
	authorityFile = "authority.pem" // with a key; written by dsqltest
	caFile        = "ca.pem"
	postgresDir   = "postgres"
)

// local starts an endpoint, prints how to connect to it, and stops it when ctx ends.
func (c *command) local(ctx context.Context, args []string) (err error) {
	var given identity
	flags := newFlags("local")
	listen := flags.String("listen", "127.0.0.1:0", "")
	data := flags.String("data", "", "")
	flags.StringVar(&given.ClusterID, "cluster-id", "", "")
	flags.StringVar(&given.Region, "region", "", "")
	flags.Func("role", "", func(name string) error {
		given.Roles = append(given.Roles, name)
		return nil
	})
	if args, err = parse(flags, args); err != nil {
		return err
	}
	if len(args) > 0 {
		return usageError("it takes no connection string: it prints one")
	}

	var id identity
	options := []dsqltest.Option{dsqltest.WithAddress(*listen)}
	dir := *data
	if dir == "" {
		if dir, err = os.MkdirTemp("", "dsql-local-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	} else {
		if dir, err = filepath.Abs(dir); err != nil {
			return err
		}
		if id, err = openDataDir(dir); err != nil {
			return fmt.Errorf("--data: %w", err)
		}
		options = append(options, dsqltest.WithDataDir(filepath.Join(dir, postgresDir)), dsqltest.WithAuthorityFile(filepath.Join(dir, authorityFile)))
	}
	id.override(given)

	startCtx, cancel := context.WithTimeout(ctx, localStartTimeout)
	defer cancel()
	server, err := dsqltest.Start(startCtx, append(options, id.options()...)...)
	if err != nil {
		return withFlagNames(err)
	}
	defer func() { err = errors.Join(err, server.Close()) }()

	id.use(server)
	if *data != "" {
		if err := id.save(dir); err != nil {
			return fmt.Errorf("--data: %w", err)
		}
	}
	ca := filepath.Join(dir, caFile)
	if err := os.WriteFile(ca, server.CAPEM(), 0o644); err != nil {
		return err
	}
	c.print(c.stdout, c.localExports(server, id, ca)+"# ready: Ctrl-C ends it\n")
	<-ctx.Done()
	return nil
}

// withFlagNames replaces the names of dsqltest's options in an error by those of flags.
func withFlagNames(err error) error {
	for option, flag := range map[string]string{
		"WithAddress": "--listen", "WithClusterID": "--cluster-id", "WithRegion": "--region", "WithRoles": "--role",
	} {
		text, ok := strings.CutPrefix(err.Error(), "dsqltest: "+option+": ")
		if !ok {
			continue
		}
		if system := new(os.SyscallError); errors.As(err, &system) { // an address that is in use, for one
			return fmt.Errorf("%s: %s", flag, text)
		}
		return usageError(flag + ": " + text)
	}
	return err
}

// localExports returns lines for a POSIX shell that tell other programs how to connect.
func (c *command) localExports(server *dsqltest.Server, id identity, ca string) string {
	dsqlURL := "dsql://admin@" + server.Endpoint() + "/postgres?dial_address=" + escape(server.Addr()) + "&sslrootcert=" + escape(ca)
	lines := export("DSQL_URL", dsqlURL) +
		export("DSQL_HOST", server.Endpoint()) +
		export("DSQL_ADDRESS", server.Addr()) +
		export("DSQL_PORT", server.Addr()[strings.LastIndex(server.Addr(), ":")+1:]) +
		export("DSQL_CA_FILE", ca) +
		export("AWS_ACCESS_KEY_ID", id.AccessKeyID) +
		export("AWS_SECRET_ACCESS_KEY", id.SecretAccessKey) +
		export("AWS_REGION", id.Region)
	if c.getenv("AWS_SESSION_TOKEN") != "" {
		lines += export("AWS_SESSION_TOKEN", "") // it belongs to another key
	}
	return lines
}

// escape escapes s as a value in a query. ParseConfig takes a "+" for itself, as libpq does.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
