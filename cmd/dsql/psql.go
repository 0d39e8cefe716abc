package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"

	"github.com/dsqlgo/dsql"
)

var errNoPsql = errors.New("psql is not on PATH")

// psql runs the psql on PATH. All settings go into its environment, which other users of the machine
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
	settings, err := c.libpqSettings(ctx, config, connString)
	if err != nil {
		return 0, err
	}
	env, removed := withoutPGVariables(c.env)
	if *printEnv {
		c.print(c.stdout, shellCommands(settings, removed))
		return exitOK, nil
	}
	path, err := exec.LookPath("psql")
	if err != nil {
		return 0, fmt.Errorf("%w; install it (apt-get install postgresql-client, brew install libpq), or put it on PATH", errNoPsql)
	}
	token, err := signToken(ctx, config)
	if err != nil {
		return 0, err
	}
	for name, value := range settings {
		env = append(env, name+"="+value)
	}
	return c.runChild(path, passedOn, append(env, "PGPASSWORD="+token.Reveal()))
}
