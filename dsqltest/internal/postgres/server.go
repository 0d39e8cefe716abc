// Package postgres runs a PostgreSQL that ends with this process at the latest, and speaks to it.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
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

// Server is a PostgreSQL that ends with this process at the latest, however the process ends. Its
// methods are safe for concurrent use.
type Server struct {
	dir      string    // holds the socket and the log, and the data unless they are kept
	lifeline io.Closer // our end of the supervisor's stdin: PostgreSQL ends when it closes
	closing  atomic.Bool
	gone     chan struct{} // closed when PostgreSQL and its supervisor are
	err      error         // why they ended, unless Close did it; set before gone is closed

	mu      sync.Mutex // guards what follows
	control *Session   // the superuser's, open from the start on
}

// Config says what a PostgreSQL holds at its start.
type Config struct {
	// DataDir is where the data are kept. It is created if it does not exist, and initialized if it
	// is empty. "" means a temporary directory.
	DataDir string

	Catalog string // SQL that makes what every database has; safe to run again
	Setup   string // SQL to run at this start, after Catalog
}

// Start starts a PostgreSQL on a unix socket, with "postgres" as its superuser. It takes the spare
// of PrepareSpare, if one will do. ctx bounds the start only.
func Start(ctx context.Context, c Config) (*Server, error) {
	if c.DataDir == "" {
		if s := takeSpare(c.Catalog); s != nil {
			if s.awaitReady(ctx, c.Setup) == nil {
				return s, nil
			}
			s.Close() // what was wrong with it need not be with another
		}
	}
	s, err := start(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, c Config) (*Server, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := launch(c.DataDir, c.Catalog)
	if err != nil {
		return nil, err
	}
	setup := c.Setup
	if c.DataDir != "" {
		setup = c.Catalog + setup // the data may be of an earlier version
	}
	if err := s.awaitReady(ctx, setup); err != nil {
		log := s.lastLog() // before Close removes it
		s.Close()          // its error would say less
		if log != "" {
			err = fmt.Errorf("%w; the end of its log:\n%s", err, log)
		}
		return nil, err
	}
	return s, nil
}

// awaitReady opens the control session, as soon as the superuser can log in, and runs setup there.
func (s *Server) awaitReady(ctx context.Context, setup string) error {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		session, err := s.Open(ctx)
		if err == nil {
			return s.keepControl(ctx, session, setup)
		}
		// 57P03 is "the database system is starting up". Any other answer
		// stays the same however often we ask.
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code != "57P03" {
			return err
		}
		select {
		case <-poll.C:
		case <-s.gone:
			return s.ended()
		case <-ctx.Done():
			return fmt.Errorf("it was not ready in time: %w", context.Cause(ctx))
		}
	}
}

func (s *Server) keepControl(ctx context.Context, session *Session, setup string) error {
	if _, err := session.Query(setup); err != nil {
		session.Close()
		return fmt.Errorf("run SQL in PostgreSQL: %w", causeOf(ctx, err))
	}
	session.detach()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.control = session
	return nil
}

// Control runs a short query as the superuser, after those that others run by it.
func (s *Server) Control(sql string) (rows [][]string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.control.QueryAll(sql)
}

// Dial opens a connection to PostgreSQL's socket. It asks for no password.
func (s *Server) Dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", filepath.Join(s.dir, socketName))
		if err == nil {
			return conn, nil
		}
		select {
		case <-s.gone:
			return nil, fmt.Errorf("connect to PostgreSQL: %w", s.ended())
		default:
		}
		// A full accept queue is EAGAIN on Linux and ECONNREFUSED on macOS:
		// PostgreSQL forks for each connection and falls behind in a burst.
		if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
		}
		select {
		case <-time.After(pollInterval):
		case <-s.gone:
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to PostgreSQL: %w", context.Cause(ctx))
		}
	}
}

// Exec runs SQL, one statement or several in one transaction, as the superuser in the database
// "postgres".
func (s *Server) Exec(ctx context.Context, sql string) error {
	session, err := s.Open(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	if _, err := session.Query(sql); err != nil {
		return fmt.Errorf("run SQL in PostgreSQL: %w", causeOf(ctx, err))
	}
	return nil
}

// Close stops PostgreSQL, ends its sessions, and returns when it and its
// temporary directory are gone. A second call returns what the first did.
func (s *Server) Close() error {
	s.closing.Store(true)
	s.mu.Lock()
	if s.control != nil {
		s.control.Close()
	}
	s.mu.Unlock()
	s.lifeline.Close()
	<-s.gone
	if s.err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", s.err)
	}
	return nil
}

// ended says why PostgreSQL is gone.
func (s *Server) ended() error {
	if s.err != nil {
		return s.err
	}
	return errors.New("it is closed")
}

// Dir is the directory that holds the socket and, unless they are kept, the data.
func (s *Server) Dir() string { return s.dir }

// lastLog returns the last lines of PostgreSQL's log, "" without one.
func (s *Server) lastLog() string {
	log, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
