// Transactions moves money with several workers at once, so that their
// transactions lose against each other, and loses a connection in the middle of a
// COMMIT. dsqltx.Run runs again what was not applied, and nothing else.
//
// A local endpoint plays the cluster: only there can a connection be cut at will.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

const (
	workers   = 4
	transfers = 5 // of each worker, of 1 each
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	server, err := dsqltest.Start(ctx)
	if err != nil {
		return err
	}
	defer server.Close()
	pool, err := dsql.NewPool(ctx, server.Config(), func(p *pgxpool.Config) { p.MaxConns = workers })
	if err != nil {
		return err
	}
	defer pool.Close()

	// One DDL statement a transaction, and none beside DML.
	for _, ddl := range []string{
		"create table accounts (name text primary key, balance bigint not null)",
		"create table transfers (id uuid primary key, amount bigint not null)",
	} {
		if _, err := dsqltx.Exec(ctx, pool, ddl); err != nil {
			return err
		}
	}
	if _, err := dsqltx.Exec(ctx, pool, "insert into accounts values ('ada', 100), ('grace', 100)"); err != nil {
		return err
	}

	if err := compete(ctx, out, pool); err != nil {
		return err
	}
	if err := loseCommit(ctx, out, server, pool); err != nil {
		return err
	}
	if err := look(ctx, out, server, pool); err != nil {
		return err
	}
	return report(ctx, out, pool)
}

// compete has all workers change the same two rows. In the first round each has begun, and read what
// it is about to change, before any of them commits: all but one must lose.
func compete(ctx context.Context, out io.Writer, pool *pgxpool.Pool) error {
	var conflicts atomic.Int64
	runner := dsqltx.Runner{OnAttempt: func(a dsqltx.Attempt) {
		if a.Conflict != "" {
			conflicts.Add(1)
		}
	}}

	var begun, done sync.WaitGroup
	begun.Add(workers)
	errs := make([]error, workers)
	for w := range workers {
		done.Go(func() {
			arrive := sync.OnceFunc(begun.Done)
			defer arrive() // should this one never begin
			for range transfers {
				err := runner.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
					var balance int64
					err := tx.QueryRow(ctx, "select balance from accounts where name = 'ada'").Scan(&balance)
					arrive()
					begun.Wait()
					if err != nil {
						return err
					}
					if balance < 1 {
						return errors.New("ada has nothing left") // rolls back, and is not run again
					}
					return move(ctx, tx, 1)
				})
				if errs[w] = err; err != nil {
					return
				}
			}
		})
	}
	done.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d transfers by %d workers, each applied once\n", workers*transfers, workers)
	fmt.Fprintf(out, "%d attempts lost a conflict and ran again\n", conflicts.Load())
	return nil
}

// loseCommit loses the connection between COMMIT and its answer, and says nothing of what to do then.
func loseCommit(ctx context.Context, out io.Writer, server *dsqltest.Server, pool *pgxpool.Pool) error {
	server.CutNext(1, dsqltest.BeforeCommit)
	err := dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error { return move(ctx, tx, 10) })
	if !errors.Is(err, dsqltx.ErrCommitUnknown) {
		return fmt.Errorf("expected an unknown commit, got %w", err)
	}
	fmt.Fprintln(out, "cut before COMMIT arrived, nothing to look at: unknown, left to us")
	return nil
}

// look writes a key with the transfer, by which CheckCommit finds out.
func look(ctx context.Context, out io.Writer, server *dsqltest.Server, pool *pgxpool.Pool) error {
	for _, point := range []dsqltest.CommitFault{dsqltest.BeforeCommit, dsqltest.AfterCommit} {
		var id string
		if err := pool.QueryRow(ctx, "select gen_random_uuid()::text").Scan(&id); err != nil {
			return err
		}
		server.CutNext(1, point)
		attempts := 0
		runner := dsqltx.Runner{CheckCommit: func(ctx context.Context) (applied bool, err error) {
			err = pool.QueryRow(ctx, "select exists (select from transfers where id = $1)", id).Scan(&applied)
			return applied, err
		}}
		err := runner.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
			attempts++
			// Unique, so that a second run fails should the first arrive late.
			if _, err := tx.Exec(ctx, "insert into transfers values ($1, 5)", id); err != nil {
				return err
			}
			return move(ctx, tx, 5)
		})
		if err != nil {
			return err
		}
		when := map[dsqltest.CommitFault]string{dsqltest.BeforeCommit: "before COMMIT arrived", dsqltest.AfterCommit: "after COMMIT was applied"}[point]
		fmt.Fprintf(out, "cut %s, looked for its key: attempts %d\n", when, attempts)
	}
	return nil
}

func move(ctx context.Context, tx pgx.Tx, amount int64) error {
	if _, err := tx.Exec(ctx, "update accounts set balance = balance - $1 where name = 'ada'", amount); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "update accounts set balance = balance + $1 where name = 'grace'", amount)
	return err
}

func report(ctx context.Context, out io.Writer, pool *pgxpool.Pool) error {
	rows, err := pool.Query(ctx, "select name, balance from accounts order by name")
	if err != nil {
		return err
	}
	var name string
	var balance int64
	_, err = pgx.ForEachRow(rows, []any{&name, &balance}, func() error {
		fmt.Fprintf(out, "%s has %d\n", name, balance)
		return nil
	})
	return err
}
