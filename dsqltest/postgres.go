package dsqltest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// socketName is what PostgreSQL calls its socket on port 5432.
	socketName = ".s.PGSQL.5432"

	// maxSocketPath is macOS's limit, the lowest: 104 bytes of sun_path with
	// the final NUL. Linux has 108.
	maxSocketPath = 103

	// pollInterval is short beside the 150 ms that PostgreSQL takes to start.
	pollInterval = 10 * time.Millisecond
)

// postgres is a PostgreSQL that ends with this process at the latest, however
// the process ends. Its methods are safe for concurrent use.
type postgres struct {
	dir      string    // holds the socket and the log, and the data unless they are kept
	lifeline io.Closer // our end of the supervisor's stdin: PostgreSQL ends when it closes
	closing  atomic.Bool
	gone     chan struct{} // closed when PostgreSQL and its supervisor are
	err      error         // why they ended, unless close did it; set before gone is closed
}

// startPostgres starts a PostgreSQL on a unix socket, with "postgres" as its
// superuser, and runs setup there. An empty dataDir means a temporary one. Any other is created if it
// does not exist, is initialised if it is empty, and is kept. ctx bounds the
// start only.
func startPostgres(ctx context.Context, dataDir, setup string) (*postgres, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("dsqltest: start PostgreSQL: %w", err)
	}
	p, err := supervise(dataDir)
	if err != nil {
		return nil, fmt.Errorf("dsqltest: start PostgreSQL: %w", err)
	}
	if err := p.awaitReady(ctx, setup); err != nil {
		log := p.lastLog() // before close removes it
		p.close()          // its error would say less
		if log != "" {
			err = fmt.Errorf("%w; the end of its log:\n%s", err, log)
		}
		return nil, fmt.Errorf("dsqltest: start PostgreSQL: %w", err)
	}
	return p, nil
}

// obtainPostgres takes the spare, if one will do, or starts a PostgreSQL.
func obtainPostgres(ctx context.Context, dataDir, setup string) (*postgres, error) {
	if dataDir == "" {
		if p := takeSpare(); p != nil {
			if p.awaitReady(ctx, setup) == nil {
				return p, nil
			}
			p.close() // what was wrong with it need not be with another
		}
	}
	return startPostgres(ctx, dataDir, setup)
}

// awaitReady runs setup as soon as the superuser can log in.
func (p *postgres) awaitReady(ctx context.Context, setup string) error {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		err := p.exec(ctx, setup)
		if err == nil {
			return nil
		}
		// 57P03 is "the database system is starting up". Any other answer
		// stays the same however often we ask.
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code != "57P03" {
			return err
		}
		select {
		case <-poll.C:
		case <-p.gone:
			return p.ended()
		case <-ctx.Done():
			return fmt.Errorf("it was not ready in time: %w", context.Cause(ctx))
		}
	}
}

// dial opens a connection to PostgreSQL's socket. It asks for no password.
func (p *postgres) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", filepath.Join(p.dir, socketName))
		if err == nil {
			return conn, nil
		}
		select {
		case <-p.gone:
			return nil, fmt.Errorf("connect to PostgreSQL: %w", p.ended())
		default:
		}
		// A full accept queue is EAGAIN on Linux and ECONNREFUSED on macOS:
		// PostgreSQL forks for each connection and falls behind in a burst.
		if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
		}
		select {
		case <-time.After(pollInterval):
		case <-p.gone:
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to PostgreSQL: %w", context.Cause(ctx))
		}
	}
}

// exec runs SQL, one statement or several in one transaction, as the superuser
// in the database "postgres".
func (p *postgres) exec(ctx context.Context, sql string) error {
	conn, frontend, _, err := p.login(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer interruptAtEnd(ctx, conn)()
	frontend.Send(&pgproto3.Query{String: sql})
	if _, err := awaitReadyForQuery(frontend); err != nil {
		return fmt.Errorf("run SQL in PostgreSQL: %w", because(ctx, err))
	}
	return nil
}

// login opens a session of the superuser, and returns its process ID and secret as a CancelRequest
// has them. It speaks the few messages itself,
// because every configuration of pgx begins with the PG* environment, and fails
// when that names a file that does not exist.
func (p *postgres) login(ctx context.Context) (net.Conn, *pgproto3.Frontend, []byte, error) {
	conn, err := p.dial(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	defer interruptAtEnd(ctx, conn)()
	frontend := pgproto3.NewFrontend(conn, conn)
	frontend.Send(&pgproto3.StartupMessage{
		ProtocolVersion: pgproto3.ProtocolVersion30,
		Parameters:      map[string]string{"user": "postgres", "database": "postgres"},
	})
	key, err := awaitReadyForQuery(frontend)
	if err != nil {
		conn.Close()
		return nil, nil, nil, fmt.Errorf("log in to PostgreSQL: %w", because(ctx, err))
	}
	return conn, frontend, key, nil
}

// awaitReadyForQuery sends what frontend holds and reads up to ReadyForQuery or the first error. It
// returns the process ID and secret of a session that begins.
func awaitReadyForQuery(frontend *pgproto3.Frontend) (key []byte, err error) {
	if err := frontend.Flush(); err != nil {
		return nil, err
	}
	for {
		msg, err := frontend.Receive()
		if err != nil {
			return nil, err
		}
		switch msg := msg.(type) {
		case *pgproto3.BackendKeyData:
			key = append(binary.BigEndian.AppendUint32(nil, msg.ProcessID), msg.SecretKey...)
		case *pgproto3.ReadyForQuery:
			return key, nil
		case *pgproto3.ErrorResponse:
			return nil, pgconn.ErrorResponseToPgError(msg)
		}
	}
}

// interruptAtEnd makes reads and writes on conn fail once ctx ends, until the
// function it returns is called.
func interruptAtEnd(ctx context.Context, conn net.Conn) func() bool {
	return context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
}

// because is ctx's error where that is what interrupted us, else err.
func because(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

// close stops PostgreSQL, ends its sessions, and returns when it and its
// temporary directory are gone. A second call returns what the first did.
func (p *postgres) close() error {
	p.closing.Store(true)
	p.lifeline.Close()
	<-p.gone
	if p.err != nil {
		return fmt.Errorf("dsqltest: stop PostgreSQL: %w", p.err)
	}
	return nil
}

// ended says why PostgreSQL is gone.
func (p *postgres) ended() error {
	if p.err != nil {
		return p.err
	}
	return errors.New("it is closed")
}

// lastLog returns the last lines of PostgreSQL's log, "" without one.
func (p *postgres) lastLog() string {
	log, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
