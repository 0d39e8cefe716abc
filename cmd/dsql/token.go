package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/dsqlgo/dsql"
)

func (c *command) token(ctx context.Context, args []string) error {
	flags := newFlags("token")
	reveal := flags.Bool("reveal", false, "")
	var lifetime time.Duration
	flags.Func("expires-in", "", durationInto(&lifetime))
	args, err := parse(flags, args)
	if err != nil {
		return err
	}
	connString, err := c.connString(args)
	if err != nil {
		return err
	}
	if c.terminal(c.stdout) && !*reveal {
		return usageError("standard output is a terminal, and a token is a password that would stay on it; pipe it (export PGPASSWORD=\"$(dsql token)\"), or add --reveal")
	}
	given := false
	flags.Visit(func(f *flag.Flag) { given = given || f.Name == "expires-in" })
	if given && (lifetime < time.Second || lifetime > 7*24*time.Hour || lifetime%time.Second != 0) {
		return usageError(fmt.Sprintf("--expires-in is %s; set it to whole seconds from 1s to 168h (7 days)", lifetime))
	}
	config, err := dsql.ParseConfig(connString)
	if err != nil {
		return err
	}
	if given {
		config.TokenLifetime = lifetime
	}
	token, err := signToken(ctx, config)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.stdout, token.Reveal())
	return err
}

func signToken(ctx context.Context, config dsql.Config) (dsql.Token, error) {
	source, err := dsql.NewTokenSource(ctx, config)
	if err != nil {
		return dsql.Token{}, err
	}
	return source.Token(ctx)
}
