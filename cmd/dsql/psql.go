package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"

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
	return c.runPsql(path, passedOn, append(env, "PGPASSWORD="+token.Reveal()))
}

// runPsql returns psql's exit status. Ctrl-C in a terminal reaches both processes. It is meant for
// psql, and main's signal handler keeps it from ending this one.
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
