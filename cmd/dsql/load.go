package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/internal/rowfile"
)

// loadOptions are the command line of load.
type loadOptions struct {
	connString string
	files      []string

	table      string
	columns    []string
	key        []string
	format     rowfile.Format
	workers    int
	batch      int
	onConflict string
	resume     string
	rejects    string
	maxErrors  int
	dryRun     bool
	from       string
	fromTable  string
}

// parseLoad reads the command line.
func (c *command) parseLoad(args []string) (o loadOptions, err error) {
	flags := newFlags("load")
	flags.StringVar(&o.table, "table", "", "")
	flags.Func("columns", "", namesInto(&o.columns))
	flags.Func("key", "", namesInto(&o.key))
	flags.Func("format", "", func(name string) (err error) {
		o.format, err = rowfile.ParseFormat(name)
		return err
	})
	flags.Func("workers", "", numberInto(&o.workers, 1, 1000))
	flags.Func("batch", "", numberInto(&o.batch, 1, 3000))
	flags.StringVar(&o.onConflict, "on-conflict", "error", "")
	flags.StringVar(&o.resume, "resume", "", "")
	flags.StringVar(&o.rejects, "rejects", "", "")
	flags.Func("max-errors", "", numberInto(&o.maxErrors, 0, 1<<30))
	flags.BoolVar(&o.dryRun, "dry-run", false, "")
	flags.StringVar(&o.from, "from", "", "")
	flags.StringVar(&o.fromTable, "from-table", "", "")
	if args, err = parse(flags, args); err != nil {
		return o, err
	}
	var connStrings []string
	for _, arg := range args {
		if isConnString(arg) {
			connStrings = append(connStrings, arg)
		} else {
			o.files = append(o.files, arg)
		}
	}
	if o.connString, err = c.connString(connStrings); err != nil {
		return o, err
	}
	switch {
	case o.table == "":
		err = usageError("--table is missing; name the table to load into")
	case o.onConflict != "error" && o.onConflict != "skip":
		err = usageError(fmt.Sprintf("--on-conflict is %q; set it to skip or error", o.onConflict))
	case o.from != "" && (len(o.files) > 0 || o.format != ""):
		err = usageError("--from copies a table; leave out the files and --format")
	case o.from == "" && o.fromTable != "":
		err = usageError("--from-table needs --from, the database to copy the table from")
	case o.from == "" && len(o.files) == 0 && isTerminalInput(c.stdin):
		err = usageError("there are no files; name some, or redirect standard input")
	}
	if len(o.files) == 0 {
		o.files = []string{"-"}
	}
	o.workers, o.batch, o.fromTable = cmp.Or(o.workers, 8), cmp.Or(o.batch, 1000), cmp.Or(o.fromTable, o.table)
	return o, err
}

// load writes rows of files, or of a table elsewhere, into a table.
func (c *command) load(ctx context.Context, args []string) error {
	o, err := c.parseLoad(args)
	if err != nil {
		return err
	}
	config, err := dsql.ParseConfig(o.connString)
	if err != nil {
		return err
	}
	pool, err := dsql.NewPool(ctx, config, func(p *pgxpool.Config) { p.MaxConns = int32(o.workers) })
	if err != nil {
		return err
	}
	defer pool.Close()
	table, err := lookupTable(ctx, pool, o.table)
	if err != nil {
		return fmt.Errorf("--table: %w", err)
	}
	// The first Ctrl-C ends reading; what is being written goes on to its end.
	l := &tableLoad{command: c, options: o, pool: pool, interrupted: ctx}
	if err := l.openSource(ctx, table); err != nil {
		return err
	}
	defer l.closeSource()
	if err := l.prepare(table); err != nil {
		return err
	}
	return l.run(context.WithoutCancel(ctx))
}

// isConnString tells connection strings from files.
func isConnString(arg string) bool {
	for _, prefix := range []string{"dsql://", "postgres://", "postgresql://", "host="} {
		if strings.HasPrefix(arg, prefix) {
			return true
		}
	}
	return false
}

// isTerminalInput is isTerminal for input.
func isTerminalInput(r io.Reader) bool {
	file, ok := r.(*os.File)
	return ok && isTerminal(file)
}

func namesInto(names *[]string) func(string) error {
	return func(value string) error {
		for _, name := range strings.Split(value, ",") {
			if name = strings.TrimSpace(name); name == "" {
				return fmt.Errorf("write it like id,name")
			}
			*names = append(*names, name)
		}
		return nil
	}
}

func numberInto(n *int, least, most int) func(string) error {
	return func(value string) (err error) {
		if *n, err = strconv.Atoi(value); err != nil || *n < least || *n > most {
			return fmt.Errorf("set it to a number from %d to %d", least, most)
		}
		return nil
	}
}

// tableInfo is what the catalog says of a table.
type tableInfo struct {
	name    pgx.Identifier
	columns []string
	key     []string // of the primary key
}

// lookupTable finds a table, whose name may have a schema in front, on DSQL or PostgreSQL.
func lookupTable(ctx context.Context, db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, name string) (tableInfo, error) {
	schema, table, ok := strings.Cut(name, ".")
	if !ok {
		schema, table = "", name
	}
	rows, err := db.Query(ctx, `
		select n.nspname, a.attname, i.indrelid is not null
		from pg_class c
		join pg_namespace n on n.oid = c.relnamespace
		join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
		left join pg_index i on i.indrelid = c.oid and i.indisprimary and a.attnum = any (i.indkey)
		where c.relname = $1 and (n.nspname = $2 or $2 = '' and pg_table_is_visible(c.oid)) and c.relkind in ('r', 'p')
		order by a.attnum`, table, schema)
	if err != nil {
		return tableInfo{}, err
	}
	var info tableInfo
	var column string
	var inKey bool
	if _, err := pgx.ForEachRow(rows, []any{&schema, &column, &inKey}, func() error {
		info.columns = append(info.columns, column)
		if inKey {
			info.key = append(info.key, column)
		}
		return nil
	}); err != nil {
		return tableInfo{}, err
	}
	if len(info.columns) == 0 {
		return tableInfo{}, fmt.Errorf("there is no table %q; write its name as it is in the catalog, in lower case unless it was quoted", name)
	}
	info.name = pgx.Identifier{schema, table}
	return info, nil
}

// checkColumns returns an error for a column that the table does not have.
func (t tableInfo) checkColumns(names []string) error {
	for i, name := range names {
		if !slices.Contains(t.columns, name) {
			return fmt.Errorf("the table has no column %q; it has %s", name, strings.Join(t.columns, ", "))
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("the column %q is named twice", name)
		}
	}
	return nil
}
