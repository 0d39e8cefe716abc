//go:build unix

package postgres

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// template is a data directory to copy, made for the first PostgreSQL of this
// process and kept while the process lives: a copy costs a tenth of initdb's
// second of processor time.
var template struct {
	sync.Mutex
	initdb, catalog string // what made it
	*supervisor
}

// spare is a PostgreSQL for the next Start of this process: even a copy takes longer to start
// than most tests to run. It has no goroutine, since it may be there when the last test has
// ended and somebody counts those.
var spare struct {
	sync.Mutex
	server, catalog, tmp string // what it runs, what it holds, and where
	*supervisor
}

// templateDir returns template's directory, and makes it where there is none or
// something has cleaned it away.
func templateDir(account *syscall.Credential, initdb, server, catalog string) (string, error) {
	template.Lock()
	defer template.Unlock()
	if template.supervisor != nil {
		dir := filepath.Join(template.dir, "data")
		if _, err := os.Stat(dir); err == nil && template.initdb == initdb && template.catalog == catalog {
			return dir, nil
		}
		template.lifeline.Close()
		template.wait() // nobody needs it any more
		template.supervisor = nil
	}
	s, err := startSupervisor(account, keepTemplate, initdb, server, catalog)
	if err != nil {
		return "", err
	}
	template.initdb, template.catalog, template.supervisor = initdb, catalog, s
	return filepath.Join(s.dir, "data"), nil
}

// PrepareSpare starts a PostgreSQL with a catalog for the next Start, where there is none. What
// goes wrong with it is for that Start to say.
func PrepareSpare(catalog string) {
	initdb, server, err := findBinaries(os.Getenv("PATH"), usualPlaces)
	if err != nil {
		return
	}
	spare.Lock()
	defer spare.Unlock()
	if spare.supervisor == nil {
		spare.supervisor, _ = startPostgres(initdb, server, "", catalog)
		spare.server, spare.catalog, spare.tmp = server, catalog, os.TempDir()
	}
}

// takeSpare returns the spare, or nil where there is none that is like what launch would start.
func takeSpare(catalog string) *Server {
	_, server, err := findBinaries(os.Getenv("PATH"), usualPlaces)
	if err != nil {
		return nil
	}
	spare.Lock()
	defer spare.Unlock()
	if spare.supervisor == nil || spare.server != server || spare.catalog != catalog || spare.tmp != os.TempDir() {
		return nil
	}
	s := spare.watch()
	spare.supervisor = nil
	return s
}
