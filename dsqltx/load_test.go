package dsqltx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

func textRows(n int) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		for i := range n {
			var note any = fmt.Sprintf("row\t%d\n\\N \"é\"", i)
			if i%7 == 0 {
				note = nil
			}
			if !yield([]any{fmt.Sprint(i), note}, nil) {
				return
			}
		}
	}
}

// With cuts, conflicts and an unavailable server, under parallel work: every row is in exactly once,
// by COPY of text, COPY of values, INSERT, and INSERT that skips, by pgx and by database/sql.
func TestWriteSeqUnderFaults(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 4)
	total := 20_000
	if testing.Short() {
		total = 6_000
	}
	faults := []dsqltest.CommitFault{dsqltest.BeforeCommit, dsqltest.AfterCommit, dsqltest.Conflict,
		dsqltest.UnavailableBeforeCommit, dsqltest.UnavailableAfterCommit}
	for name, w := range map[string]dsqltx.Writer{
		"text":   {Text: true, Key: []string{"id"}},
		"copy":   {Key: []string{"id"}},
		"insert": {Insert: true, Text: true, Key: []string{"id"}},
		"skip":   {SkipExisting: true, Text: true},
		"sql":    {Text: true, Key: []string{"id"}},
	} {
		t.Run(name, func(t *testing.T) {
			table := "load_" + name
			b.exec(t, "create table "+table+" (id int primary key, note text)")
			w.Table, w.Columns, w.BatchRows, w.Workers = pgx.Identifier{table}, []string{"id", "note"}, 200, 4
			b.server.SetCommitFaults(func() dsqltest.CommitFault {
				if rand.IntN(3) != 0 {
					return dsqltest.NoFault
				}
				return faults[rand.IntN(len(faults))]
			})
			defer b.server.SetCommitFaults(nil)
			b.server.CutNext(1, dsqltest.AfterCommit) // one at least
			var report dsqltx.Report
			var err error
			if name == "sql" {
				report, err = w.WriteSeqSQL(t.Context(), b.db, textRows(total))
			} else {
				report, err = w.WriteSeq(t.Context(), b.pool, textRows(total))
			}
			require.NoError(t, err)
			require.Equal(t, total, report.Count(dsqltx.BatchIn))
			b.server.SetCommitFaults(nil)
			require.EqualValues(t, total, b.one(t, "select count(*) from "+table))
			require.EqualValues(t, (total+6)/7, b.one(t, "select count(*) from "+table+" where note is null"))
			var note string
			require.NoError(t, b.pool.QueryRow(t.Context(), "select note from "+table+" where id = 1").Scan(&note))
			require.Equal(t, "row\t1\n\\N \"é\"", note)
		})
	}
}

// Without a key, commits of unknown outcome end the load, and all workers' batches are reported right.
func TestWriteSeqUnknown(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 4)
	b.exec(t, "create table t (id int, note text)") // a row that is written twice is there twice
	w := dsqltx.Writer{Table: pgx.Identifier{"t"}, Columns: []string{"id", "note"}, Text: true, BatchRows: 50, Workers: 4}
	const total = 2000
	runs := 0
	for ; ; runs++ {
		require.Less(t, runs, 100)
		b.server.CutNext(1, []dsqltest.CommitFault{dsqltest.AfterCommit, dsqltest.BeforeCommit}[runs%2])
		saved := ""
		w.Checkpoint = func(r dsqltx.Report) error {
			text, err := json.Marshal(r)
			saved = string(text)
			return err
		}
		report, err := w.WriteSeq(t.Context(), b.pool, textRows(total))
		text, _ := json.Marshal(report)
		require.Equal(t, string(text), saved)
		in := b.one(t, "select count(*) from t")
		least, most := int64(report.Count(dsqltx.BatchIn)), int64(report.Count(dsqltx.BatchIn)+report.Count(dsqltx.BatchUnknown))
		require.True(t, least <= in && in <= most, "%d rows are in, and %s", in, saved)
		w.Resume = report
		if err == nil {
			break
		}
		require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
		w.Check = func(ctx context.Context, rows [][]any) (bool, error) {
			return b.one(t, "select count(*) from t where id = "+rows[0][0].(string)) > 0, nil
		}
	}
	require.Positive(t, runs)
	require.EqualValues(t, total, b.one(t, "select count(*) from t"))
	require.EqualValues(t, total, b.one(t, "select count(distinct id) from t"))
}

// The server says which rows it refuses, wherever they are in a batch.
func TestWriteSeqReject(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 4)
	for name, w := range map[string]dsqltx.Writer{"text": {Text: true}, "insert": {Text: true, Insert: true}} {
		t.Run(name, func(t *testing.T) {
			b.exec(t, "create table "+name+" (id int primary key, note varchar(5) not null check (note <> 'no'))")
			bad := map[int]string{0: "22P02", 7: "22001", 99: "23502", 100: "23514", 250: "23505", 299: "22003"}
			rows := func(yield func([]any, error) bool) {
				for i := range 300 {
					row := []any{fmt.Sprint(i), "x"}
					switch bad[i] {
					case "22P02":
						row[0] = "zero"
					case "22001":
						row[1] = "too long"
					case "23502":
						row[1] = nil
					case "23514":
						row[1] = "no"
					case "23505":
						row[0] = "200"
					case "22003":
						row[0] = "99999999999"
					}
					if !yield(row, nil) {
						return
					}
				}
			}
			w.Table, w.Columns, w.BatchRows, w.Workers = pgx.Identifier{name}, []string{"id", "note"}, 100, 1
			rejected := map[int]string{}
			w.Reject = func(row int, _ []any, err error) error {
				rejected[row] = sqlState(err)
				return nil
			}
			report, err := w.WriteSeq(t.Context(), b.pool, rows)
			require.NoError(t, err)
			require.Equal(t, bad, rejected)
			require.Equal(t, len(bad), report.Count(dsqltx.BatchRejected))
			require.EqualValues(t, 300-len(bad), b.one(t, "select count(*) from "+name))
		})
	}
}

// More workers than the cluster lets connect get the rows in all the same.
func TestWriteSeqQuota(t *testing.T) {
	t.Parallel()
	s := dsqltest.New(t, dsqltest.WithMaxConnections(3))
	c := s.Config()
	c.ConnectTimeout = 200 * time.Millisecond // so that the workers without a connection hear of it
	c.Params = map[string]string{"pool_max_conns": "6"}
	pool, err := dsql.NewPool(t.Context(), c)
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), "create table t (id int primary key, note text)")
	require.NoError(t, err)
	s.SetRoundTripTime(5 * time.Millisecond)
	w := dsqltx.Writer{Table: pgx.Identifier{"t"}, Columns: []string{"id", "note"}, Text: true, BatchRows: 10, Workers: 6, Key: []string{"id"}}
	refused := 0
	w.Runner.OnAttempt = func(a dsqltx.Attempt) {
		if errors.Is(a.Err, dsql.ErrTooManyConnections) {
			refused++
		}
	}
	report, err := w.WriteSeq(t.Context(), pool, textRows(2000))
	require.NoError(t, err)
	require.Equal(t, 2000, report.Count(dsqltx.BatchIn))
	require.Positive(t, refused)
}

func sqlState(err error) string {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return ""
	}
	return pgErr.Code
}

func TestWriteSeqMisuse(t *testing.T) {
	conn, err := dsql.Connect(t.Context(), server.Config())
	require.NoError(t, err)
	defer conn.Close(t.Context())
	w := dsqltx.Writer{Table: pgx.Identifier{"t"}, Columns: []string{"id"}, Workers: 2}
	_, err = w.WriteSeq(t.Context(), conn, textRows(1))
	require.ErrorContains(t, err, "Writer.Workers is 2 on a single connection")
}
