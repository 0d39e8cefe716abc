package counters

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
)

// statement is one of the few that the server knows. Their numbers are literals or parameters.
type statement struct {
	kind   kind
	params []uint32 // types of $1, $2, …
	args   []string // the numbers in the text, in the order of kinds: "$1" or a literal
}

type kind int

const (
	empty      kind = iota
	begin           // begin …
	commit          // commit
	rollback        // rollback
	one             // select 1
	get             // select n from counters where id = ID
	getLocked       // … for update
	set             // update counters set n = N where id = ID
	add             // update counters set n = n + N where id = ID
	addReturns      // … returning n
	insert          // insert into counters values (ID, N)
)

var quoted = regexp.MustCompile(`'(-?\d+)'`)

const number = `(\$\d|-?\d+)`

var patterns = []struct {
	kind    kind
	pattern *regexp.Regexp
}{
	{empty, regexp.MustCompile(`^(--.*)?$`)},
	{begin, regexp.MustCompile(`^begin\b.*$`)},
	{commit, regexp.MustCompile(`^commit$`)},
	{rollback, regexp.MustCompile(`^rollback$`)},
	{one, regexp.MustCompile(`^select 1$`)},
	{get, regexp.MustCompile(`^select n from counters where id = ` + number + `$`)},
	{getLocked, regexp.MustCompile(`^select n from counters where id = ` + number + ` for update$`)},
	{set, regexp.MustCompile(`^update counters set n = ` + number + ` where id = ` + number + `$`)},
	{add, regexp.MustCompile(`^update counters set n = n \+ ` + number + ` where id = ` + number + `$`)},
	{addReturns, regexp.MustCompile(`^update counters set n = n \+ ` + number + ` where id = ` + number + ` returning n$`)},
	{insert, regexp.MustCompile(`^insert into counters values \(` + number + `, ` + number + `\)$`)},
}

func parse(sql string) (*statement, *pgproto3.ErrorResponse) {
	// pgx's simple protocol puts arguments in as ' '1' '.
	text := quoted.ReplaceAllString(strings.ToLower(sql), "$1")
	text = strings.Trim(strings.Join(strings.Fields(text), " "), " ;")
	for _, p := range patterns {
		m := p.pattern.FindStringSubmatch(text)
		if m == nil {
			continue
		}
		s := &statement{kind: p.kind}
		if p.kind >= get {
			s.args = m[1:]
		}
		for range strings.Count(text, "$") {
			s.params = append(s.params, pgtype.Int8OID)
		}
		return s, nil
	}
	return nil, failure("42601", "syntax error: the server of counters does not know "+strconv.Quote(sql))
}

// fields are those of the statement's rows, or nil.
func (s *statement) fields(format int16) *pgproto3.RowDescription {
	switch s.kind {
	case one, get, getLocked, addReturns:
		return &pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{
			{Name: []byte("n"), DataTypeOID: pgtype.Int8OID, DataTypeSize: 8, TypeModifier: -1, Format: format},
		}}
	}
	return nil
}

// numbers are the statement's, with the parameters in their places.
func (s *statement) numbers(params [][]byte, formats []int16) ([]int64, error) {
	var numbers []int64
	for _, arg := range s.args {
		if !strings.HasPrefix(arg, "$") {
			n, err := strconv.ParseInt(arg, 10, 64)
			if err != nil {
				return nil, err
			}
			numbers = append(numbers, n)
			continue
		}
		i := int(arg[1]-'0') - 1
		if i >= len(params) {
			return nil, fmt.Errorf("there is no parameter %s", arg)
		}
		n, err := decode(params[i], format(formats, i))
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// format is the i-th of formats, of which one stands for all, and none for text.
func format(formats []int16, i int) int16 {
	switch {
	case len(formats) == 1:
		return formats[0]
	case i < len(formats):
		return formats[i]
	}
	return pgtype.TextFormatCode
}

func decode(value []byte, format int16) (int64, error) {
	if format == pgtype.TextFormatCode {
		return strconv.ParseInt(string(value), 10, 64)
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("a number has %d bytes", len(value))
	}
	return int64(binary.BigEndian.Uint64(value)), nil
}

func encode(n int64, format int16) []byte {
	if format == pgtype.TextFormatCode {
		return strconv.AppendInt(nil, n, 10)
	}
	return binary.BigEndian.AppendUint64(nil, uint64(n))
}

func failure(code, message string) *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: code, Message: message}
}
