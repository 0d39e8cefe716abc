package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

// loadTable makes a table, and returns a connection to look into it by.
func loadTable(t *testing.T, definition string) *pgx.Conn {
	t.Helper()
	conn, err := dsql.Connect(t.Context(), server.Config())
	require.NoError(t, err)
	name, _, _ := strings.Cut(definition, " ")
	t.Cleanup(func() {
		_, err := conn.Exec(t.Context(), "drop table if exists "+name)
		_ = err // the context of the test may be over
		conn.Close(t.Context())
	})
	_, err = conn.Exec(t.Context(), "create table "+definition)
	require.NoError(t, err)
	return conn
}

func lookup[T any](t *testing.T, conn *pgx.Conn, query string) (value T) {
	t.Helper()
	// A changed schema elsewhere meets plain reads too.
	require.Eventually(t, func() bool { return conn.QueryRow(t.Context(), query).Scan(&value) == nil }, 10*time.Second, time.Millisecond, query)
	return value
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// Values arrive as they are in the file, and bad rows are named by their lines.
func TestLoadCSV(t *testing.T) {
	conn := loadTable(t, "people (id int primary key, name text not null, born date)")
	file := writeFile(t, "p.csv", "\xef\xbb\xbfid,name,born\r\n"+
		"1,\"Ann \"\"A\"\"\nJr.\",2001-02-03\r\n2,Zoë,\r\n3,,2000-01-01\r\n4,Bob,2000-13-01\r\n5,Eve\r\n6,\"\",1999-01-01\r\n")
	got := runHere(t, nil, "load", "--table", "people", "--workers", "2", serverURL("admin"), file)
	require.Equal(t, exitFailure, got.status)
	require.Contains(t, got.stderr, "dsql load: "+file+":7: it has 2 values for 3 columns; mend it, or leave out more bad rows with --max-errors, which is 0")

	got = runHere(t, nil, "load", "--table", "people", "--dry-run", "--max-errors", "3", serverURL("admin"), file)
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Equal(t, "5 rows can be read; the server took 3 of the first 5, and nothing was written\n", got.stdout)
	require.Zero(t, lookup[int](t, conn, "select count(*) from people"))

	resume, rejects := filepath.Join(t.TempDir(), "r.json"), filepath.Join(t.TempDir(), "bad.csv")
	args := []string{"load", "--table", "people", "--max-errors", "3", "--resume", resume, "--rejects", rejects, serverURL("admin"), file}
	got = runHere(t, nil, args...)
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Contains(t, got.stdout, "3 rows in 0:0")
	require.Contains(t, got.stdout, "3 bad rows were left out")
	for _, says := range []string{":5: null value in column \"name\"", ":6: column born: date/time field value out of range: \"2000-13-01\"", ":7: it has 2 values"} {
		require.Contains(t, got.stderr, file+says)
	}
	require.Equal(t, "Ann \"A\"\nJr.", lookup[string](t, conn, "select name from people where id = 1"))
	require.Equal(t, "", lookup[string](t, conn, "select name from people where id = 6"))
	require.True(t, lookup[bool](t, conn, "select born is null from people where id = 2"))
	text, err := os.ReadFile(rejects)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"id,name,born", "3,,2000-01-01", "4,Bob,2000-13-01", "5,Eve\r", ""}, strings.Split(string(text), "\n"))

	got = runHere(t, nil, args...) // it is done
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Contains(t, got.stdout, "0 rows in 0:00, 0 a second; 3 were in before")

	got = runHere(t, nil, "load", "--table", "people", "--max-errors", "3", "--on-conflict", "skip", serverURL("admin"), file)
	require.Equal(t, exitOK, got.status, got.stderr)
	got = runHere(t, nil, "load", "--table", "people", "--max-errors", "3", serverURL("admin"), file)
	require.Equal(t, exitFailure, got.status)
	require.Contains(t, got.stderr, "duplicate key value")
	require.Equal(t, 3, lookup[int](t, conn, "select count(*) from people"))
}

// A wrong number of values far down stops the load at its line, and what is in before stays.
func TestLoadStopsAtLine(t *testing.T) {
	conn := loadTable(t, "readings (id int primary key, note text)")
	t.Chdir(t.TempDir())
	lines := 70_000
	var text strings.Builder
	text.WriteString("id,note\n")
	for i := 1; i < lines; i++ {
		fmt.Fprintf(&text, "%d,x\n", i)
	}
	text.WriteString("70000\n70001,x\n")
	file := writeFile(t, "r.csv", text.String())
	got := runHere(t, nil, "load", "--table", "readings", "--batch", "3000", serverURL("admin"), file)
	require.Equal(t, exitFailure, got.status)
	require.Contains(t, got.stderr, file+":70001: it has 1 values for 2 columns")
	require.Contains(t, got.stderr, "to go on, run the same command with --resume readings.resume.json\n")
	got = runHere(t, nil, "load", "--table", "readings", "--max-errors", "1", "--resume", "readings.resume.json", serverURL("admin"), file)
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Equal(t, 70_000, lookup[int](t, conn, "select count(distinct id) from readings"))
}

func TestLoadErrors(t *testing.T) {
	loadTable(t, "letters (id int primary key, note text)")
	file := writeFile(t, "a.csv", "id,nope\n1,2\n")
	other := writeFile(t, "b.csv", "note,id\n1,2\n")
	good := writeFile(t, "c.csv", "id,note\n1,2\n")
	notResume := writeFile(t, "r.json", "{}")
	for _, tt := range []struct {
		args   string
		status int
		stderr string
	}{
		{file, exitUsage, "--table is missing"},
		{"--table letters --batch 3001 " + file, exitUsage, "set it to a number from 1 to 3000"},
		{"--table letters --on-conflict no " + file, exitUsage, `--on-conflict is "no"; set it to skip or error`},
		{"--table letters --format xls " + file, exitUsage, `"xls" is not a format`},
		{"--table letters --columns id,,note " + file, exitUsage, "write it like id,name"},
		{"--table letters --from postgres://x " + file, exitUsage, "--from copies a table"},
		{"--table letters --from-table x " + file, exitUsage, "--from-table needs --from"},
		{"--table nowhere " + file, exitFailure, `--table: there is no table "nowhere"`},
		{"--table letters /nowhere.csv", exitFailure, "open /nowhere.csv"},
		{"--table letters " + file, exitFailure, `the table has no column "nope"; it has id, note`},
		{"--table letters " + good + " " + other, exitFailure, "load them one by one"},
		{"--table letters --key nope " + good, exitFailure, "--key: nope are not all among the columns id, note"},
		{"--table letters --resume " + notResume + " " + good, exitFailure, "not a resume file"},
	} {
		got := runHere(t, nil, append([]string{"load", serverURL("admin")}, strings.Fields(tt.args)...)...)
		require.Equal(t, tt.status, got.status, got.stderr)
		require.Contains(t, got.stderr, tt.stderr)
	}
}

// With commits cut, conflicts, an unavailable server, and the process killed at random and started
// again, every row is in exactly once.
func TestLoadKilled(t *testing.T) {
	rounds, rows := 20, 60_000
	if testing.Short() {
		rounds, rows = 3, 10_000
	}
	conn := loadTable(t, "killed (id int primary key, note text)")
	_, err := conn.Exec(t.Context(), "create table counted (id int, note text)") // no key: a row that is written twice is there twice
	require.NoError(t, err)
	defer conn.Exec(t.Context(), "drop table counted")
	var text bytes.Buffer
	text.WriteString("id,note\n")
	for i := range rows {
		fmt.Fprintf(&text, "%d,\"row\n%d\"\n", i, i)
	}
	file := writeFile(t, "k.csv", text.String())
	server.SetCommitFaults(func() dsqltest.CommitFault {
		if rand.IntN(10) != 0 {
			return dsqltest.NoFault
		}
		return []dsqltest.CommitFault{dsqltest.BeforeCommit, dsqltest.AfterCommit, dsqltest.Conflict,
			dsqltest.UnavailableBeforeCommit, dsqltest.UnavailableAfterCommit}[rand.IntN(5)]
	})
	defer server.SetCommitFaults(nil)
	server.SetRoundTripTime(5 * time.Millisecond)
	defer server.SetRoundTripTime(0)
	for _, table := range []string{"killed", "counted"} {
		resume := filepath.Join(t.TempDir(), "k.json")
		args := []string{"load", "--table", table, "--batch", "100", "--workers", "4", "--key", "id", "--resume", resume, serverURL("admin"), file}
		killed := 0
		for round := 0; ; round++ {
			cmd := exec.CommandContext(t.Context(), binary, args...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			require.NoError(t, cmd.Start())
			timer := time.NewTimer(time.Hour)
			if killed < rounds {
				timer.Reset(100*time.Millisecond + rand.N(500*time.Millisecond))
			}
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			select {
			case err = <-done:
			case <-timer.C:
				require.NoError(t, cmd.Process.Kill())
				err = <-done
				killed++
			}
			timer.Stop()
			if err == nil {
				break
			}
			require.Contains(t, []string{"signal: killed"}, err.Error(), stderr.String())
		}
		t.Logf("%s: killed %d times", table, killed)
		require.Positive(t, killed)
		require.Equal(t, rows, lookup[int](t, conn, "select count(*) from "+table))
		require.Equal(t, rows, lookup[int](t, conn, "select count(distinct id) from "+table))
	}
}

// Ctrl-C ends in order, and the load goes on from there.
func TestLoadInterrupted(t *testing.T) {
	conn := loadTable(t, "stopped (id int primary key, note text)")
	resume := filepath.Join(t.TempDir(), "s.json")
	cmd := exec.CommandContext(t.Context(), binary, "load", "--table", "stopped", "--batch", "10", "--resume", resume, "--columns", "id,note", serverURL("admin"))
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	for i := range 95 {
		fmt.Fprintf(stdin, "%d,x\n", i)
	}
	require.Eventually(t, func() bool { return lookup[int](t, conn, "select count(*) from stopped") == 90 }, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt)) // while it waits for more
	require.Error(t, cmd.Wait())
	require.Equal(t, exitFailure, cmd.ProcessState.ExitCode())
	require.Contains(t, stderr.String(), "dsql load: interrupted\nto go on, run the same command with --resume "+resume+"\n")

	// Of what was read, five rows were in no full batch.
	again := exec.CommandContext(t.Context(), binary, "load", "--table", "stopped", "--resume", resume, "--columns", "id,note", serverURL("admin"))
	var lines strings.Builder
	for i := range 95 {
		fmt.Fprintf(&lines, "%d,x\n", i)
	}
	again.Stdin = strings.NewReader(lines.String())
	out, err := again.Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "5 rows in 0:00")
	require.Contains(t, string(out), "90 were in before")
	require.Equal(t, 95, lookup[int](t, conn, "select count(distinct id) from stopped"))
}

func TestLoadFromPostgreSQL(t *testing.T) {
	conn := loadTable(t, "orders (id int primary key, note text)")
	_, err := conn.Exec(t.Context(), "insert into orders select n, case when n % 3 > 0 then E'a\\tb\\\\\\n' || n end from generate_series(1, 2500) n")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "create table moved (note text, id int primary key)")
	require.NoError(t, err)
	defer conn.Exec(t.Context(), "drop table moved")
	// The local endpoint plays the other database too: it takes a token as its password.
	config, err := dsql.ParseConfig(serverURL("admin"))
	require.NoError(t, err)
	token, err := signToken(t.Context(), config)
	require.NoError(t, err)
	host, port, _ := strings.Cut(server.Addr(), ":")
	t.Setenv("PGPASSWORD", token.Reveal())
	t.Setenv("PGSSLROOTCERT", caPath)
	t.Setenv("PGOPTIONS", "-c amzn-cluster-id="+clusterID)
	from := "postgres://admin@" + host + ":" + port + "/postgres?sslmode=verify-ca"
	got := runHere(t, nil, "load", "--table", "moved", "--from", from, "--from-table", "orders", serverURL("admin"))
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Contains(t, got.stdout, "2,500 rows in")
	require.Equal(t, 2500, lookup[int](t, conn, "select count(*) from moved m join orders o using (id) where m.note is not distinct from o.note"))
}
