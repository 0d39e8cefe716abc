package main

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"ariga.io/atlas/sql/migrate"
	"entgo.io/ent/dialect"
	"entgo.io/ent/dialect/sql/schema"

	"github.com/dsqlgo/dsql/dsqltx"
	"github.com/dsqlgo/dsql/examples/ecosystem/ent/ent"
)

// create makes what the database lacks of the schema, a transaction a statement. Ent compares the
// two first, so that it may run again when another schema change came first (OC001), or at
// each start of a program.
func create(ctx context.Context, client *ent.Client, db *sql.DB) error {
	return dsqltx.Runner{Idempotent: true}.Retry(ctx, func(ctx context.Context) error {
		// Ent would run all statements in the one transaction that it begins for them. That is over,
		// and empty, when they run.
		var changes []*migrate.Change
		planOnly := func(schema.Applier) schema.Applier {
			return schema.ApplyFunc(func(_ context.Context, _ dialect.ExecQuerier, plan *migrate.Plan) error {
				changes = plan.Changes
				return nil
			})
		}
		if err := client.Schema.Create(ctx, schema.WithApplyHook(planOnly)); err != nil {
			return err
		}
		for _, change := range changes {
			if err := apply(ctx, db, change.Cmd); err != nil {
				return fmt.Errorf("%s: %w", change.Comment, err)
			}
		}
		return nil
	})
}

// apply runs a statement. DSQL makes indexes in the background; apply waits for them.
func apply(ctx context.Context, db *sql.DB, statement string) error {
	head, tail, _ := strings.Cut(statement, " INDEX ")
	if head != "CREATE" && head != "CREATE UNIQUE" {
		_, err := db.ExecContext(ctx, statement)
		return err
	}
	var job string
	if err := db.QueryRowContext(ctx, head+" INDEX ASYNC "+tail).Scan(&job); err != nil {
		return err
	}
	return dsqltx.WaitForSQLJob(ctx, db, job, nil)
}
