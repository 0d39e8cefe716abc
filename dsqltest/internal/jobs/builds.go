package jobs

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/postgres"
	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgconn"
)

// builds has index builds and schema changes keep out of each other's way. PostgreSQL lets no schema
// change of a table begin while an index of it is built, and a build can wait for long, for a
// reader. At the service, nobody waits for a build. So a schema change cancels the build that runs,
// and the build begins anew once no schema change is under way.
type builds struct {
	mu            sync.Mutex
	changed       sync.Cond // signals a change of what follows
	schemaChanges int       // transactions under way with a schema change
	running       *build    // nil if there is none
}

// build is one try to build an index.
type build struct {
	session   *postgres.Session
	cancelled bool          // guarded by builds.mu
	ended     chan struct{} // closed at its end
}

// cancelInterval is how long a build may take to end before it is cancelled again: PostgreSQL ignores
// a cancel that comes before the statement does.
const cancelInterval = 20 * time.Millisecond

func newBuilds() *builds {
	b := new(builds)
	b.changed.L = &b.mu
	return b
}

// pause cancels the build that runs, if there is one, and returns when it has ended. No other build
// starts until resume is called as often.
func (b *builds) pause(ctx context.Context, server *postgres.Server) {
	b.mu.Lock()
	b.schemaChanges++
	b.mu.Unlock()
	for {
		ended := b.cancel(ctx, server)
		if ended == nil {
			return
		}
		select {
		case <-ended:
			return
		case <-time.After(cancelInterval):
		}
	}
}

// cancel cancels the build that runs and returns what is closed at its end, nil if no build runs.
func (b *builds) cancel(ctx context.Context, server *postgres.Server) <-chan struct{} {
	b.mu.Lock() // so that the build cannot end, and something else be hit
	defer b.mu.Unlock()
	if b.running == nil {
		return nil
	}
	b.running.cancelled = true
	server.Cancel(ctx, b.running.session.Key) // if it fails, so does the build, or we are here again
	return b.running.ended
}

func (b *builds) resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.schemaChanges--
	b.changed.Broadcast()
}

// run builds the index object by a statement in a session, as often as it takes.
func (b *builds) run(ctx context.Context, session *postgres.Session, statement, object string) error {
	defer context.AfterFunc(ctx, func() {
		b.mu.Lock() // or await could miss it between its look at ctx and Wait
		defer b.mu.Unlock()
		b.changed.Broadcast()
	})()
	for again := false; ; again = true {
		current := b.await(ctx, session)
		err := buildIndex(session, statement, object, again)
		b.mu.Lock()
		b.running = nil
		cancelled := current.cancelled
		b.mu.Unlock()
		close(current.ended)

		var pgErr *pgconn.PgError
		if !cancelled || !errors.As(err, &pgErr) || pgErr.Code != "57014" {
			return err
		}
	}
}

// await waits until no schema change is under way, or ctx ends, and begins a build.
func (b *builds) await(ctx context.Context, session *postgres.Session) *build {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.schemaChanges > 0 && ctx.Err() == nil {
		b.changed.Wait()
	}
	b.running = &build{session: session, ended: make(chan struct{})}
	return b.running
}

// buildIndex runs a statement that makes an index, after it has removed what a cancelled build has left of
// the same one.
func buildIndex(session *postgres.Session, statement, object string, again bool) error {
	if again {
		leftover, err := session.Query("SELECT format('%I.%I', nspname, relname) FROM pg_index" +
			" JOIN pg_class c ON c.oid = indexrelid JOIN pg_namespace n ON n.oid = relnamespace" +
			" WHERE NOT indisvalid AND nspname || '.' || relname = " + rules.QuoteLiteral(object))
		if err != nil {
			return err
		}
		if leftover != nil {
			if err := session.Exec("DROP INDEX CONCURRENTLY " + leftover[0]); err != nil {
				return err
			}
		}
	}
	return session.Exec(statement)
}
