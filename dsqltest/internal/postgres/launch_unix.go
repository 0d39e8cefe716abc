//go:build unix

package postgres

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// settings trade what a test database can lose, its data after a power cut, for
// speed, and give it DSQL's isolation level and time zone.
var settings = []string{
	"port=5432",
	"listen_addresses=",
	"unix_socket_permissions=0700",
	"max_connections=1000",
	"max_logical_replication_workers=0", // nor their launcher
	"shared_buffers=32MB",
	"max_wal_size=128MB",
	"fsync=off",
	"full_page_writes=off",
	"jit=off",
	"max_parallel_workers_per_gather=0", // a worker fails to start: "failed to initialize default_text_search_config"
	"default_transaction_isolation=repeatable read",
	"timezone=UTC",
	"lc_messages=C",
}

// launch starts a PostgreSQL. It waits for an initdb, where one is needed, but not for PostgreSQL.
func launch(dataDir, catalog string) (*Server, error) {
	initdb, server, err := findBinaries(os.Getenv("PATH"), usualPlaces)
	if err != nil {
		return nil, err
	}
	s, err := startPostgres(initdb, server, dataDir, catalog)
	if err != nil {
		return nil, err
	}
	return s.watch(), nil
}

// startPostgres starts a supervisor that starts PostgreSQL.
func startPostgres(initdb, server, dataDir, catalog string) (*supervisor, error) {
	account, err := postgresAccount()
	if err != nil {
		return nil, err
	}
	settings := settings
	empty := true
	if dataDir == "" {
		// Only here: with it, an immediate stop loses the last transactions.
		settings = append(slices.Clip(settings), "synchronous_commit=off")
	} else if dataDir, empty, err = makeDataDir(dataDir, account); err != nil {
		return nil, err
	}
	var template string
	if empty {
		if template, err = templateDir(account, initdb, server, catalog); err != nil {
			return nil, err
		}
	}
	args := []string{server, template, dataDir}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	return startSupervisor(account, keepPostgres, args...)
}

// watch waits for the end of a PostgreSQL in the background.
func (s *supervisor) watch() *Server {
	server := &Server{dir: s.dir, lifeline: s.lifeline, gone: make(chan struct{})}
	go func() {
		defer close(server.gone)
		switch complaints, err := s.wait(); {
		case !server.closing.Load():
			server.err = fmt.Errorf("it ended by itself: %s", complaints)
		case err != nil:
			server.err = fmt.Errorf("its directory %s is still there, remove it by hand: %s", server.dir, complaints)
		}
	}()
	return server
}

// makeDataDir makes dir where it does not exist, and gives an empty one to the
// account. It returns the absolute path, and whether dir is empty.
func makeDataDir(dir string, account *syscall.Credential) (path string, empty bool, err error) {
	if path, err = filepath.Abs(dir); err != nil {
		return "", false, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", false, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", false, err
	}
	empty = len(entries) == 0
	if empty && account != nil {
		err = os.Chown(path, int(account.Uid), int(account.Gid))
	}
	return path, empty, err
}

// postgresAccount returns the account to run PostgreSQL under, nil for our own:
// it refuses to run as root.
func postgresAccount() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as: create one, or run as another user")
}
