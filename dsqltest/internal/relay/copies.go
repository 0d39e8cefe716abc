package relay

import (
	_ "embed"
	"strings"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
)

// CatalogSQL makes what the relay needs in the database.
//
//go:embed copies.sql
var CatalogSQL string

// copyTables ends what a statement has begun that conflicts with another transaction, and makes copies
// of the tables that it is about, and of those that foreign keys link with them. Only this transaction
// sees the copies, as they are for it, and no other transaction can hold their rows. From then on the
// names of these tables mean the copies. The transaction itself has lost: its COMMIT fails. copied is
// false if that does not work, and PostgreSQL has failed the transaction.
func (r *requests) copyTables(st *rules.Statement) (copied bool, err error) {
	names := st.Names()
	for i, name := range names {
		names[i] = rules.QuoteLiteral(name)
	}
	var tables []rules.Table
	err = r.ask("ROLLBACK TO "+setSavepoint+
		"; SELECT * FROM sys.copy_tables(ARRAY["+strings.Join(names, ",")+"]::text[])"+
		// Prepared statements are planned anew, with the copies.
		"; DISCARD PLANS; "+releaseSavepoint+"; "+setSavepoint,
		rewrite{drop: true, onRow: func(values [][]byte) {
			tables = append(tables, rules.Table{Schema: string(values[0]), Name: string(values[1])})
		}})
	if err != nil {
		return false, err
	}
	r.update(func() {
		copied = !r.failed
		if copied && r.verdict == nil {
			r.verdict = rules.ErrConflict
		}
	})
	if r.copies == nil {
		r.copies = make(map[rules.Table]bool)
	}
	for _, table := range tables {
		r.copies[table] = true
	}
	return copied, nil
}

// text is what PostgreSQL gets for a statement in this transaction.
func (r *requests) text(st *rules.Statement) string {
	if len(r.copies) == 0 {
		return st.ForPostgres()
	}
	return rules.InTemporarySchema(st.ForPostgres(), r.copies)
}
