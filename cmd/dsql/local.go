package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dsqlgo/dsql/dsqltest"
)

// localStart bounds the start, which takes a second or two unless the machine is busy.
const localStart = time.Minute

// What is in the directory of --data, beside authority.pem, which dsqltest keeps.
const (
	identityFile = "identity.json"
	caFile       = "ca.pem"
	postgresDir  = "postgres"
)

// identity is what makes a cluster the same one at its next start.
type identity struct {
	ClusterID       string
	Region          string
	Roles           []string
	AccessKeyID     string
	SecretAccessKey string
}

func (c *command) local(ctx context.Context, args []string) (err error) {
	var asked identity
	flags := newFlags("local")
	listen := flags.String("listen", "127.0.0.1:0", "")
	data := flags.String("data", "", "")
	flags.StringVar(&asked.ClusterID, "cluster-id", "", "")
	flags.StringVar(&asked.Region, "region", "", "")
	flags.Func("role", "", func(name string) error {
		asked.Roles = append(asked.Roles, name)
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
		if id, err = openIdentity(dir); err != nil {
			return fmt.Errorf("--data: %w", err)
		}
		options = append(options, dsqltest.WithDataDir(filepath.Join(dir, postgresDir)), dsqltest.WithAuthorityFile(filepath.Join(dir, "authority.pem")))
	}
	if id.ClusterID = cmp.Or(asked.ClusterID, id.ClusterID); id.ClusterID != "" {
		options = append(options, dsqltest.WithClusterID(id.ClusterID))
	}
	if id.Region = cmp.Or(asked.Region, id.Region); id.Region != "" {
		options = append(options, dsqltest.WithRegion(id.Region))
	}
	if asked.Roles != nil {
		id.Roles = asked.Roles
	}
	if id.Roles != nil {
		options = append(options, dsqltest.WithRoles(id.Roles...))
	}

	starting, cancel := context.WithTimeout(ctx, localStart)
	defer cancel()
	server, err := dsqltest.Start(starting, options...)
	if err != nil {
		return byFlag(err)
	}
	defer func() { err = errors.Join(err, server.Close()) }()

	id.ClusterID, id.Region = server.ClusterID(), server.Region()
	if id.AccessKeyID == "" {
		key := server.Credentials()
		id.AccessKeyID, id.SecretAccessKey = key.AccessKeyID, key.SecretAccessKey
	} else {
		server.AllowKey(id.AccessKeyID, id.SecretAccessKey, "")
	}
	if *data != "" {
		if err := id.save(dir); err != nil {
			return fmt.Errorf("--data: %w", err)
		}
	}
	ca := filepath.Join(dir, caFile)
	if err := os.WriteFile(ca, server.CAPEM(), 0o644); err != nil {
		return err
	}
	c.print(c.stdout, c.exports(server, id, ca)+"# ready: Ctrl-C ends it\n")
	<-ctx.Done()
	return nil
}

// byFlag says an error of dsqltest's options in the terms of the command line.
func byFlag(err error) error {
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

// exports is what other programs need. All of it, with the line that follows, can be sourced by a
// shell.
func (c *command) exports(server *dsqltest.Server, id identity, ca string) string {
	dsqlURL := "dsql://admin@" + server.Endpoint() + "/postgres?dial_address=" + escape(server.Addr()) + "&sslrootcert=" + escape(ca)
	lines := export("DSQL_URL", dsqlURL) +
		export("DSQL_HOST", server.Endpoint()) +
		export("DSQL_ADDRESS", server.Addr()) +
		export("DSQL_CA_FILE", ca) +
		export("AWS_ACCESS_KEY_ID", id.AccessKeyID) +
		export("AWS_SECRET_ACCESS_KEY", id.SecretAccessKey) +
		export("AWS_REGION", id.Region)
	if c.getenv("AWS_SESSION_TOKEN") != "" {
		lines += export("AWS_SESSION_TOKEN", "") // it belongs to another key
	}
	return lines
}

// escape makes a query's value of s. ParseConfig takes a "+" for itself, as libpq does.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// openIdentity makes dir where there is none, and returns the identity that is kept in it, if any.
func openIdentity(dir string) (id identity, err error) {
	// Others may enter: PostgreSQL is another user where this one is root. What is secret has a
	// mode of its own.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return id, err
	}
	file := filepath.Join(dir, identityFile)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(data, &id); err != nil {
		return id, fmt.Errorf("%s: %w; remove the file for a new identity with the same data", file, err)
	}
	return id, nil
}

func (id identity) save(dir string) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, identityFile), append(data, '\n'), 0o600)
}
