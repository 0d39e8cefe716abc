package rules

import (
	"cmp"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// geometric matches what PostgreSQL says where a type or function is missing that the catalog hides.
var geometric = regexp.MustCompile(`^(?:type|function) "?(?:pg_catalog\.)?((?:point|lseg|path|box|polygon|line|circle)(?:\[\])*)["(]`)

// TranslateError makes an error of PostgreSQL's the service's, where they differ in words or where a
// function of ours shows in it. It is false, and e unchanged, for all other errors.
func TranslateError(e *pgproto3.ErrorResponse) bool {
	switch e.Code {
	case "42704", "42883":
		if m := geometric.FindStringSubmatch(e.Message); m != nil {
			*e = *notSupported("datatype " + m[1] + " not supported")
			return true
		}
	case "53400":
		if strings.Contains(e.Message, "temp_file_limit") {
			*e = *NewError("54000", "query requires more than allowed temp space of 131072 KB to execute")
			return true
		}
	}
	if !strings.Contains(e.Where, "function sys.") && !strings.Contains(e.Where, "function pg_catalog.") && !strings.Contains(e.Where, "function set_config(") && !strings.Contains(e.Where, "function current_setting(") {
		return false
	}
	if strings.Contains(e.Where, "_async(") {
		e.Position = cmp.Or(e.Position, e.InternalPosition)
	}
	e.InternalPosition, e.InternalQuery, e.Where = 0, "", ""
	return true
}
