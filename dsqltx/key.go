package dsqltx

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// findByKey tells whether rows are in the table, by the values of Key. Rows of a batch are there
// all or none; anything else means that Key does not name a key, or that others write the same rows.
func (l *load) findByKey(ctx context.Context, rows [][]any) (in bool, err error) {
	query, args := l.keyQuery(rows)
	var found int
	reader := Runner{TxOptions: pgx.TxOptions{AccessMode: pgx.ReadOnly}}
	err = reader.Run(ctx, l.db, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, query, args...).Scan(&found)
	})
	switch {
	case err != nil:
		return false, err
	case found == 0 || found == len(rows):
		return found > 0, nil
	}
	return false, fmt.Errorf("of the keys (%s) of %d rows, the table has %d, but a batch is there all or not at all; "+
		"name columns that are unique and not null, and let nothing else write the same rows", strings.Join(l.Key, ", "), len(rows), found)
}

// keyQuery counts which rows are in the table.
func (w Writer) keyQuery(rows [][]any) (query string, args []any) {
	places := make([]int, len(w.Key))
	for i, column := range w.Key {
		places[i] = slices.Index(w.Columns, column)
	}
	for _, row := range rows {
		for _, place := range places {
			args = append(args, row[place])
		}
	}
	var b strings.Builder
	b.WriteString("select count(*) from " + w.Table.Sanitize() + " where (" + columnList(w.Key) + ") in (")
	writeTuples(&b, len(rows), len(w.Key))
	b.WriteString(")")
	return b.String(), args
}
