package dsqltest

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest/internal/postgres"
	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
)

// schemaTimeout bounds the making and the dropping of a schema; a script may build indexes.
const schemaTimeout = time.Minute

// WithSchema runs SQL files as admin: those of fsys that match pattern (see [path.Match]), in the
// order of their names. They run when the server starts, and in each schema that Schema makes. Each
// statement is a transaction of its own, unless the file begins one. The rules for clients apply.
// If a statement fails, the start fails, and the error names the file and the line. WithSchema
// waits for index jobs.
//
// Faults do not happen to these statements. Attempts and Transactions do not show them.
func WithSchema(fsys fs.FS, pattern string) Option {
	return func(o *options) { o.withSchema, o.scripts, o.pattern = true, fsys, pattern }
}

// Schema makes a schema for one test, and returns a Config whose search_path is this schema alone.
// So tests that run in parallel can share a server. The scripts of WithSchema run in the schema;
// they must not name a schema. It belongs to admin, and all roles may use it, as they may use
// public. It is dropped when tb ends: close its connections before.
//
// A schema change there causes OC001 only in sessions that use the same schema. The service has the
// same scope (AWS guide, "Asynchronous indexes").
func (s *Server) Schema(tb testing.TB) dsql.Config {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), schemaTimeout)
	defer cancel()
	name := "test_" + strings.ToLower(rand.Text()[:16])
	if err := s.postgres.Exec(ctx, fmt.Sprintf("CREATE SCHEMA %s AUTHORIZATION %s; GRANT USAGE ON SCHEMA %[1]s TO PUBLIC", name, adminRole)); err != nil {
		tb.Fatalf("dsqltest: making a schema: %v", err)
	}
	s.mu.Lock()
	s.namespaces[name] = newNamespace()
	s.mu.Unlock()
	tb.Cleanup(func() {
		if err := s.dropSchema(name); err != nil {
			tb.Errorf("dsqltest: dropping the schema of this test: %v; close its connections before it ends", err)
		}
	})
	if err := s.runScripts(ctx, name); err != nil {
		tb.Fatal(err)
	}
	c := s.Config()
	c.Params = map[string]string{"search_path": name}
	return c
}

// dropSchema waits for locks for 10 s: a connection may be about to close.
func (s *Server) dropSchema(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), schemaTimeout)
	defer cancel()
	err := s.postgres.Exec(ctx, "SET lock_timeout = '10s'; DROP SCHEMA "+name+" CASCADE")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	delete(s.namespaces, name)
	return err
}

// runScripts runs the scripts of WithSchema in a schema.
func (s *Server) runScripts(ctx context.Context, schema string) error {
	if s.scripts == nil {
		return nil
	}
	files, err := fs.Glob(s.scripts, s.pattern)
	if err != nil {
		return fmt.Errorf("dsqltest: WithSchema: pattern %q: %w: use one such as *.sql", s.pattern, err)
	}
	if len(files) == 0 {
		if _, err := fs.ReadDir(s.scripts, "."); err != nil { // Glob does not tell
			return fmt.Errorf("dsqltest: WithSchema: the root of the FS cannot be read: %w; os.DirFS counts from the working directory, in tests that of the package", err)
		}
		return fmt.Errorf("dsqltest: WithSchema: no file of the FS matches %q; patterns do not descend into directories: write one from the FS's root on, such as schema/*.sql", s.pattern)
	}
	session := s.openInternal(ctx, schema)
	defer session.Close()
	for _, file := range files {
		sql, err := fs.ReadFile(s.scripts, file)
		if err != nil {
			return fmt.Errorf("dsqltest: WithSchema: %w", err)
		}
		if err := runScript(session, string(sql)); err != nil {
			return fmt.Errorf("dsqltest: WithSchema: %s:%w", file, causeOf(ctx, err))
		}
	}
	return nil
}

// openInternal opens a session of admin's that needs no login.
func (s *Server) openInternal(ctx context.Context, schema string) *postgres.Session {
	ours, theirs := net.Pipe()
	session := newSession(&client{server: s, conn: theirs, network: pipe{theirs}, reader: bufio.NewReader(theirs)},
		&startup{user: adminRole, settings: map[string]string{"search_path": schema}})
	session.internal = true
	done := make(chan struct{})
	s.serving.Go(func() {
		defer close(done)
		defer session.unregister()
		session.run()
	})
	stop := context.AfterFunc(ctx, func() { ours.SetDeadline(time.Unix(1, 0)) })
	return postgres.NewSession(pgproto3.NewFrontend(ours, ours), func() {
		stop()
		ours.Close()
		<-done
	})
}

// pipe does what a client's connection must be able to.
type pipe struct{ net.Conn }

func (p pipe) CloseWrite() error   { return p.Close() }
func (p pipe) SetLinger(int) error { return nil }

// runScript runs the statements of a script. Its error begins with the line.
func runScript(session *postgres.Session, text string) error {
	for _, st := range rules.Parse(text) {
		row, err := session.Query(st.SQL)
		if err == nil && st.SubmitsJob {
			err = awaitJob(session, row[0])
		}
		if err != nil {
			line := 1 + strings.Count(string([]rune(text)[:st.Start]), "\n")
			first, _, _ := strings.Cut(st.SQL, "\n")
			return fmt.Errorf("%d: %.60s: %w", line, first, err)
		}
	}
	if session.TxStatus() != 'I' {
		return errors.New(" it leaves a transaction open: end it with COMMIT")
	}
	return nil
}

func awaitJob(session *postgres.Session, id string) error {
	done, err := session.Query("CALL sys.wait_for_job(" + rules.QuoteLiteral(id) + ")")
	if err != nil || done[0] == "t" {
		return err
	}
	job, err := session.Query("SELECT details FROM sys.jobs WHERE job_id = " + rules.QuoteLiteral(id))
	if err != nil {
		return err
	}
	return errors.New(job[0])
}

// causeOf is ctx's error where the end of ctx is what interrupted us, else err.
func causeOf(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}
