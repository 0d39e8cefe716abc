package counters

import "sync"

// table is rows with a number each, in versions. It knows no locks: a transaction reads what was
// committed before its first statement, and the first of several that change a row to commit wins.
type table struct {
	mu        sync.Mutex // guards what follows
	rows      map[int64][]version
	committed uint64 // the last commit
}

type version struct {
	commit uint64
	n      int64
}

// Old versions are dropped. A transaction that would need one conflicts.
const maxVersions = 1024

// tx is a transaction on a table. It belongs to one session.
type tx struct {
	begun    bool // its snapshot is taken
	snapshot uint64
	writes   map[int64]int64 // rows' new numbers
	locked   map[int64]bool  // rows read FOR UPDATE, which conflict as written ones do
}

// begin takes the snapshot, at the first statement.
func (t *table) begin(x *tx) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !x.begun {
		x.begun, x.snapshot = true, t.committed
	}
}

// read returns a row's number as x sees it.
func (t *table) read(x *tx, id int64) (n int64, ok bool) {
	if n, ok := x.writes[id]; ok {
		return n, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	versions := t.rows[id]
	for i := len(versions) - 1; i >= 0; i-- {
		if versions[i].commit <= x.snapshot {
			return versions[i].n, true
		}
	}
	return 0, false
}

func (x *tx) write(id, n int64) {
	if x.writes == nil {
		x.writes = map[int64]int64{}
	}
	x.writes[id] = n
}

func (x *tx) lock(id int64) {
	if x.locked == nil {
		x.locked = map[int64]bool{}
	}
	x.locked[id] = true
}

// commit applies x, unless another transaction has changed one of its rows.
func (t *table) commit(x *tx) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	changed := func(id int64) bool {
		versions := t.rows[id]
		return len(versions) > 0 && versions[len(versions)-1].commit > x.snapshot
	}
	for id := range x.writes {
		if changed(id) {
			return false
		}
	}
	for id := range x.locked {
		if changed(id) {
			return false
		}
	}
	if len(x.writes) == 0 {
		return true
	}
	t.committed++
	for id, n := range x.writes {
		versions := append(t.rows[id], version{t.committed, n})
		if len(versions) > 2*maxVersions {
			versions = append([]version(nil), versions[maxVersions:]...)
		}
		t.rows[id] = versions
	}
	return true
}
