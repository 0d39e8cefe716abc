package dsqltx_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
	"github.com/dsqlgo/dsql/internal/counters"
)

// opInput is an operation on a row, which is a counter and a register.
type opInput struct {
	row  int
	kind opKind
	n    int64 // added or set
}

type opKind int

const (
	opAdd opKind = iota // returns the sum
	opSet
	opGet
)

type opOutput struct {
	n       int64
	unknown bool // it may have happened, at any time after its call, or not
}

// rowModel is what a row may do, for porcupine. Unknown operations lead to two states.
var rowModel = (&porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		rows := map[int][]porcupine.Operation{}
		for _, op := range history {
			row := op.Input.(opInput).row
			rows[row] = append(rows[row], op)
		}
		var partitions [][]porcupine.Operation
		for _, ops := range rows {
			partitions = append(partitions, ops)
		}
		return partitions
	},
	Init: func() []any { return []any{int64(0)} },
	Step: func(state, input, output any) []any {
		n, in, out := state.(int64), input.(opInput), output.(opOutput)
		after := n
		switch in.kind {
		case opAdd:
			after = n + in.n
		case opSet:
			after = in.n
		}
		switch {
		case out.unknown:
			return []any{n, after}
		case in.kind != opSet && out.n != after:
			return nil
		}
		return []any{after}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
}).ToModel()

// history records operations as they come.
type history struct {
	began time.Time
	mu    sync.Mutex // guards ops
	ops   []porcupine.Operation
}

// record runs an operation. One that failed for certain is left out: had it an effect all the same,
// the others would not fit.
func (h *history) record(client int, in opInput, do func() (int64, error)) error {
	call := time.Since(h.began)
	n, err := do()
	op := porcupine.Operation{ClientId: client, Input: in, Call: int64(call), Output: opOutput{n: n}, Return: int64(time.Since(h.began))}
	switch {
	case errors.Is(err, dsqltx.ErrCommitUnknown):
		op.Output, op.Return = opOutput{unknown: true}, math.MaxInt64
	case err != nil:
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, op)
	return nil
}

// operators are the ways to run an operation.
func operators(pool *pgxpool.Pool, db *sql.DB, r dsqltx.Runner) []func(ctx context.Context, in opInput) (int64, error) {
	const (
		add = "update counters set n = n + $1 where id = $2 returning n"
		set = "update counters set n = $1 where id = $2"
		get = "select n from counters where id = $1"
	)
	type querier interface {
		Exec(ctx context.Context, sql string, args ...any) error
		QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	}
	do := func(ctx context.Context, q querier, in opInput) (n int64, err error) {
		switch in.kind {
		case opAdd:
			err = q.QueryRow(ctx, add, in.n, in.row).Scan(&n)
		case opSet:
			err = q.Exec(ctx, set, in.n, in.row)
		case opGet:
			err = q.QueryRow(ctx, get, in.row).Scan(&n)
		}
		return n, err
	}
	return []func(ctx context.Context, in opInput) (int64, error){
		func(ctx context.Context, in opInput) (n int64, err error) {
			return n, r.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
				n, err = do(ctx, pgxQuerier{tx}, in)
				return err
			})
		},
		func(ctx context.Context, in opInput) (n int64, err error) { // by what it has read
			if in.kind != opAdd {
				return do(ctx, pgxQuerier{r.Wrap(pool)}, in)
			}
			return n, r.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
				if err := tx.QueryRow(ctx, get, in.row).Scan(&n); err != nil {
					return err
				}
				n += in.n
				_, err := tx.Exec(ctx, set, n, in.row)
				return err
			})
		},
		func(ctx context.Context, in opInput) (n int64, err error) {
			return n, r.RunSQL(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
				n, err = do(ctx, sqlQuerier{tx}, in)
				return err
			})
		},
		func(ctx context.Context, in opInput) (int64, error) { return do(ctx, pgxQuerier{r.Wrap(pool)}, in) },
		func(ctx context.Context, in opInput) (n int64, err error) {
			switch in.kind {
			case opSet:
				_, err = r.Exec(ctx, pool, set, in.n, in.row)
				return 0, err
			case opAdd:
				return do(ctx, pgxQuerier{r.Wrap(pool)}, in)
			}
			err = r.Retry(ctx, func(ctx context.Context) error { return pool.QueryRow(ctx, get, in.row).Scan(&n) })
			return n, err
		},
		func(ctx context.Context, in opInput) (n int64, err error) {
			if in.kind == opSet {
				_, err := r.ExecSQL(ctx, db, set, in.n, in.row)
				return 0, err
			}
			err = r.Retry(ctx, func(ctx context.Context) error {
				if in.kind == opAdd {
					return db.QueryRowContext(ctx, add, in.n, in.row).Scan(&n)
				}
				return db.QueryRowContext(ctx, get, in.row).Scan(&n)
			})
			return n, err
		},
	}
}

type pgxQuerier struct {
	db interface {
		dsqltx.Execer
		dsqltx.Querier
	}
}

func (q pgxQuerier) Exec(ctx context.Context, sql string, args ...any) error {
	_, err := q.db.Exec(ctx, sql, args...)
	return err
}
func (q pgxQuerier) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return q.db.QueryRow(ctx, sql, args...)
}

type sqlQuerier struct{ tx *sql.Tx }

func (q sqlQuerier) Exec(ctx context.Context, sql string, args ...any) error {
	_, err := q.tx.ExecContext(ctx, sql, args...)
	return err
}
func (q sqlQuerier) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return q.tx.QueryRowContext(ctx, sql, args...)
}

// compete has workers run random operations on rows, some with contexts that end soon.
func compete(t *testing.T, pool *pgxpool.Pool, db *sql.DB, r dsqltx.Runner, rows, workers, each int, soon time.Duration) []porcupine.Operation {
	t.Helper()
	h := &history{began: time.Now()}
	ways := operators(pool, db, r)
	var wg sync.WaitGroup
	for client := range workers {
		wg.Go(func() {
			for i := range each {
				ctx, cancel := context.WithCancel(t.Context())
				if rand.IntN(20) == 0 {
					time.AfterFunc(rand.N(soon), cancel)
				}
				// Numbers that are set or added once, so that a sum says what is in it.
				in := opInput{rand.IntN(rows), opKind(rand.IntN(3)), int64(client*each+i+1)<<20 + rand.Int64N(1<<20)}
				err := h.record(client, in, func() (int64, error) { return ways[rand.IntN(len(ways))](ctx, in) })
				if err != nil && ctx.Err() == nil && in.kind != opGet { // reads may fail with their connection
					t.Errorf("%+v: %v", in, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	return h.ops
}

// randomFaults faults one message in rate, and the same share of commits with an answer that leaves
// the outcome open or is a conflict.
func randomFaults(rate int) func(counters.Event) counters.Fault {
	return func(e counters.Event) counters.Fault {
		if e.Name != "Query" && e.Name != "Execute" {
			if rand.IntN(rate) == 0 {
				return counters.Fault{Cut: counters.Cut(1 + rand.IntN(3))}
			}
			return counters.Fault{}
		}
		switch rand.IntN(2 * rate) {
		case 0:
			return counters.Fault{Cut: counters.Cut(1 + rand.IntN(3))}
		case 1:
			return counters.Fault{Error: "40001", Unapplied: true}
		case 2:
			codes := []string{"08007", "40003", "XX000"}
			if e.Commits {
				return counters.Fault{Error: codes[rand.IntN(3)], Unapplied: rand.IntN(2) == 0}
			}
		}
		return counters.Fault{}
	}
}

// Histories of all ways to run statements, under conflicts, cuts at every message, unknown outcomes
// and contexts that end, are those of rows that change one operation after the other.
func TestLinearizable(t *testing.T) {
	const rows, workers, each = 20, 16, 125
	rounds := 100 // 200,000 operations
	if testing.Short() {
		rounds = 4
	}
	operations, unknown := 0, 0
	for range rounds {
		ops, result := linearizableRound(t, dsqltx.Runner{}, rows, workers, each)
		require.Equal(t, porcupine.Ok, result)
		operations += workers * each
		for _, op := range ops {
			if op.Output.(opOutput).unknown {
				unknown++
			}
		}
	}
	t.Logf("%d operations, %d of them of unknown outcome", operations, unknown)
	require.Positive(t, unknown)
}

// A Run that runs unknown commits again is found out.
func TestLinearizableFindsDoubleCommits(t *testing.T) {
	for range 20 {
		if _, result := linearizableRound(t, dsqltx.Runner{Idempotent: true}, 20, 16, 125); result == porcupine.Illegal {
			return
		}
	}
	t.Error("not found")
}

func linearizableRound(t *testing.T, r dsqltx.Runner, rows, workers, each int) ([]porcupine.Operation, porcupine.CheckResult) {
	s := counters.New(rows)
	pool, db := openCounters(t, s, workers)
	s.SetFaults(randomFaults(150))
	ops := compete(t, pool, db, r, rows, workers, each, time.Millisecond)
	s.SetFaults(nil)
	pool.Close()
	require.NoError(t, db.Close())
	s.Wait()
	return ops, porcupine.CheckOperationsTimeout(rowModel, ops, time.Minute)
}

// The same on PostgreSQL, with its conflicts and cuts at COMMIT.
func TestLinearizableOnServer(t *testing.T) {
	const rows, workers, each = 10, 8, 50
	s := dsqltest.New(t, dsqltest.WithConnectQuota(-1, 0))
	config := s.Config()
	config.ConnectRate = -1
	pool, err := dsql.NewPool(t.Context(), config, func(c *pgxpool.Config) { c.MaxConns = workers })
	require.NoError(t, err)
	defer pool.Close()
	db, err := dsql.OpenDB(t.Context(), config)
	require.NoError(t, err)
	defer db.Close()
	for _, sql := range []string{
		"create table counters (id int primary key, n bigint not null)",
		"insert into counters select id, 0 from generate_series(0, 9) id",
	} {
		_, err := dsqltx.Exec(t.Context(), pool, sql)
		require.NoError(t, err)
	}
	s.SetCommitFaults(randomCuts(10))
	defer s.SetCommitFaults(nil)
	ops := compete(t, pool, db, dsqltx.Runner{}, rows, workers, each, 20*time.Millisecond)
	require.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(rowModel, ops, time.Minute))
}
