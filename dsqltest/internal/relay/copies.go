package relay

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
)

// CatalogSQL makes what the relay needs in the database.
//
//go:embed copies.sql
var CatalogSQL string

// lose makes the transaction one that has lost, because of a statement that conflicts with another
// transaction. It makes copies of the tables that the transaction has written and that the
// statement is about, and of all that foreign keys link with them. The copies hold what the
// transaction sees, and nobody else sees them. From then on the names of these tables mean the
// copies. All that was written to the tables themselves is rolled back, so a transaction that has
// lost is in nobody's way.
//
// ok is false if that does not work, and PostgreSQL has failed the transaction.
func (r *requests) lose(st *rules.Statement) (ok bool, err error) {
	names := st.Names()
	for _, earlier := range r.guarded {
		names = append(names, earlier.Names()...)
	}
	if r.savepoints == firstStatement {
		return r.copyTables("ROLLBACK TO "+setTransactionSavepoint+"; ", names, false)
	}
	save := "ROLLBACK TO " + setStatementSavepoint + "; CALL sys.save_tables(" + array(names) + ")"
	if err := r.ask(save, rewrite{drop: true}); err != nil {
		return false, err
	}
	return r.copyTables("ROLLBACK TO "+setTransactionSavepoint+"; ", names, true)
}

// copyMore makes copies of what a statement is about in a transaction that has lost already.
func (r *requests) copyMore(st *rules.Statement) (ok bool, err error) {
	var names []string
	for _, name := range st.Names() {
		if !r.copiedNames[name] {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return true, nil
	}
	return r.copyTables("", names, false)
}

func (r *requests) copyTables(prefix string, names []string, saved bool) (ok bool, err error) {
	// Prepared statements are planned anew, with the copies.
	sql := fmt.Sprintf("%sSELECT * FROM sys.copy_tables(%s, %t); DISCARD PLANS", prefix, array(names), saved)
	err = r.ask(sql, rewrite{drop: true, onRow: func(values [][]byte) {
		r.copies[rules.Table{Schema: string(values[0]), Name: string(values[1])}] = true
	}})
	if err != nil {
		return false, err
	}
	for _, name := range names {
		r.copiedNames[name] = true
	}
	r.update(func() {
		ok = !r.failed
		if ok && r.verdict == nil {
			r.verdict = rules.ErrConflict
		}
	})
	return ok, nil
}

// array is an array of texts, in SQL.
func array(texts []string) string {
	literals := make([]string, len(texts))
	for i, text := range texts {
		literals[i] = rules.QuoteLiteral(text)
	}
	return "ARRAY[" + strings.Join(literals, ", ") + "]::text[]"
}

// hasLost reports whether the transaction works on copies.
func (r *requests) hasLost() bool { return len(r.copiedNames) > 0 }

// text is what PostgreSQL gets for a statement in this transaction.
func (r *requests) text(st *rules.Statement) string {
	if !r.hasLost() {
		return st.ForPostgres()
	}
	return rules.InTemporarySchema(st.ForPostgres(), r.copies)
}
