// Package resumefile keeps in a file how far a load is, so that another process can go on from
// there.
package resumefile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/dsqlgo/dsql/dsqltx"
)

// State is what the file holds.
type State struct {
	Table   string
	Columns []string
	Sources []string      // names of files, or of the table that is copied
	BadRows int           // rows that are no rows, which were reported already
	Rows    dsqltx.Report // of all others
}

// Parse reads a State.
func Parse(text []byte) (State, error) {
	var s State
	if err := json.Unmarshal(text, &s); err != nil {
		return State{}, fmt.Errorf("not a resume file: %w", err)
	}
	if s.Table == "" || len(s.Columns) == 0 || len(s.Sources) == 0 || s.BadRows < 0 {
		return State{}, errors.New("not a resume file: Table, Columns or Sources are missing")
	}
	return s, nil
}

// Load reads a file. One that does not exist is an empty State.
func Load(file string) (State, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return State{}, err
	}
	s, err := Parse(text)
	if err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return s, err
}

// Save replaces a file as a whole: a process that is killed leaves the file before or the one after.
// It does not wait until the disk has it, so a machine that loses power may have an older one.
func (s State) Save(file string) error {
	text, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return err
	}
	temporary := filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".tmp")
	if err := os.WriteFile(temporary, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, file)
}

// CheckSame returns an error if s, of an earlier run, is of another load than now.
func (s State) CheckSame(now State) error {
	switch {
	case s.Table != now.Table:
		return fmt.Errorf("it is of a load into %s, not %s", s.Table, now.Table)
	case !slices.Equal(s.Columns, now.Columns):
		return fmt.Errorf("it is of a load of the columns %q, not %q", s.Columns, now.Columns)
	case !slices.Equal(s.Sources, now.Sources):
		return fmt.Errorf("it is of a load of %q, not %q", s.Sources, now.Sources)
	}
	return nil
}
