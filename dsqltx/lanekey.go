package dsqltx

import (
	"database/sql/driver"
	"encoding/binary"
	"hash/maphash"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5"
)

var keySeed = maphash.MakeSeed()

// namedKey returns the key of Runner.Key on db.
func namedKey(db any, name string) laneKey {
	h := newKeyHash(db)
	h.WriteString("name\x00")
	h.WriteString(name)
	return h.key()
}

// statementKey returns the key of the transactions on db that begin with the statement. It returns 0
// without a statement, and for arguments other than scalars, which are not compared. The key is a
// hash, so it keeps no argument.
func statementKey(db any, sql string, args []any) laneKey {
	if sql == "" {
		return 0
	}
	h := newKeyHash(db)
	h.WriteString(sql)
	for _, arg := range args {
		h.WriteByte(0)
		if !h.add(arg) {
			return 0
		}
	}
	return h.key()
}

type keyHash struct{ maphash.Hash }

// newKeyHash begins with the database: a pool or a handle by its address, a single connection by
// the server that it leads to.
func newKeyHash(db any) *keyHash {
	h := &keyHash{}
	h.SetSeed(keySeed)
	if conn := connOf(db); conn != nil {
		h.WriteString(serverOf(conn))
	} else if v := reflect.ValueOf(db); v.Kind() == reflect.Pointer {
		h.integer(uint64(v.Pointer()))
	}
	return h
}

func (h *keyHash) key() laneKey { return laneKey(h.Sum64() | 1) }

func (h *keyHash) integer(n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	h.Write(b[:])
}

// add hashes an argument. It returns false for one that is no scalar.
func (h *keyHash) add(arg any) bool {
	switch v := arg.(type) {
	case nil:
		h.WriteByte(2)
		return true
	case string:
		h.integer(uint64(len(v)))
		h.WriteString(v)
		return true
	case []byte:
		h.integer(uint64(len(v)))
		h.Write(v)
		return true
	case time.Time:
		h.integer(uint64(v.UnixNano()))
		return true
	}
	switch v := reflect.ValueOf(arg); v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			h.WriteByte(1)
		} else {
			h.WriteByte(3)
		}
		return true
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		h.integer(uint64(v.Int()))
		return true
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		h.integer(v.Uint())
		return true
	case reflect.Float32, reflect.Float64, reflect.String, reflect.Array:
		if !v.Comparable() {
			return false
		}
		maphash.WriteComparable(&h.Hash, arg)
		return true
	case reflect.Pointer:
		return !v.IsNil() && h.add(v.Elem().Interface())
	}
	if valuer, ok := arg.(driver.Valuer); ok {
		value, err := valuer.Value()
		return err == nil && h.add(value)
	}
	return false
}

// serverOf names the server and the database that conn leads to. It is kept with the connection,
// because Config makes a copy.
func serverOf(conn *pgx.Conn) string {
	const key = "dsqltx.server"
	data := conn.PgConn().CustomData()
	server, ok := data[key].(string)
	if !ok {
		config := conn.Config()
		server = config.Host + "/" + config.Database
		data[key] = server
	}
	return server
}
