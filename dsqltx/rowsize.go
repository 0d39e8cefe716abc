package dsqltx

import (
	"encoding/json"
	"reflect"
)

const (
	// The most that a transaction may change (AWS guide, "Quotas").
	maxTxRows  = 3000
	maxTxBytes = 10 << 20

	// A third of the quota, because a batch that has to run again costs all of its time.
	defaultBatchRows = 1000

	// Sizes are estimated before encoding, and messages have headers.
	maxBatchBytes = maxTxBytes * 3 / 4

	// The most parameters that a statement can have: a 16-bit count (PostgreSQL docs, "Message
	// Formats", Bind).
	maxParameters = 65535
)

// rowSize estimates a row's bytes on the wire.
func rowSize(row []any) int {
	size := 16
	for _, value := range row {
		size += 4 + valueSize(value)
	}
	return size
}

func valueSize(value any) int {
	switch v := value.(type) {
	case nil:
		return 0
	case string:
		return len(v)
	case []byte:
		return len(v)
	}
	switch v := reflect.ValueOf(value); v.Kind() {
	case reflect.String:
		return v.Len()
	case reflect.Pointer:
		if v.IsNil() {
			return 0
		}
		return valueSize(v.Elem().Interface())
	case reflect.Map, reflect.Struct, reflect.Slice:
		// pgx sends such a value as JSON, or as something shorter.
		if text, err := json.Marshal(value); err == nil {
			return len(text)
		}
	}
	return 16
}
