package dsqlproxy_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqlproxy"
	"github.com/dsqlgo/dsql/dsqltest"
)

// table makes a table that only its test uses.
func table(t *testing.T, conn *pgx.Conn, columns string) string {
	t.Helper()
	name := fmt.Sprintf("t%d", time.Now().UnixNano())
	_, err := conn.Exec(t.Context(), "create table "+name+" ("+columns+")")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := conn.Exec(context.Background(), "drop table "+name)
		require.NoError(t, err)
	})
	return name
}

func TestTransactions(t *testing.T) {
	conn := connect(t, serve(t, &dsqlproxy.Proxy{}), "")
	name := table(t, conn, "id int")
	for _, commit := range []bool{true, false} {
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "insert into "+name+" values ($1)", 1)
		require.NoError(t, err)
		if commit {
			require.NoError(t, tx.Commit(t.Context()))
		} else {
			require.NoError(t, tx.Rollback(t.Context()))
		}
	}
	var n int
	require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from "+name).Scan(&n))
	require.Equal(t, 1, n)

	_, err := conn.Exec(t.Context(), "select 1/0")
	var said *pgconn.PgError
	require.ErrorAs(t, err, &said)
	require.Equal(t, "22012", said.Code)
	require.NoError(t, conn.Ping(t.Context()))
}

func TestCopy(t *testing.T) {
	conn := connect(t, serve(t, &dsqlproxy.Proxy{}), "")
	name := table(t, conn, "id int, v text")
	var rows strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&rows, "%d\t%s\n", i, strings.Repeat("x", 300))
	}
	tag, err := conn.PgConn().CopyFrom(t.Context(), strings.NewReader(rows.String()), "copy "+name+" from stdin")
	require.NoError(t, err)
	require.EqualValues(t, 3000, tag.RowsAffected())
	var out bytes.Buffer
	_, err = conn.PgConn().CopyTo(t.Context(), &out, "copy (select * from "+name+" order by id) to stdout")
	require.NoError(t, err)
	require.Equal(t, rows.String(), out.String())

	_, err = conn.PgConn().CopyFrom(t.Context(), strings.NewReader("no number\tx\n"), "copy "+name+" from stdin")
	var said *pgconn.PgError
	require.ErrorAs(t, err, &said)
	require.Equal(t, "22P02", said.Code)
	require.NoError(t, conn.Ping(t.Context()))
}

// Messages far longer than any buffer of the proxy's pass unchanged.
func TestLongMessages(t *testing.T) {
	conn := connect(t, serve(t, &dsqlproxy.Proxy{}), "")
	sent := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
	var got string
	require.NoError(t, conn.QueryRow(t.Context(), "select $1::text", sent).Scan(&got))
	require.True(t, sent == got)
}

func TestPipeline(t *testing.T) {
	conn := connect(t, serve(t, &dsqlproxy.Proxy{}), "")
	b := &pgx.Batch{}
	for i := range 500 {
		b.Queue("select $1::int", i)
	}
	results := conn.SendBatch(t.Context(), b)
	for i := range 500 {
		var got int
		require.NoError(t, results.QueryRow().Scan(&got))
		require.Equal(t, i, got)
	}
	require.NoError(t, results.Close())
}

// A client may send its first statement ahead of the answer to its startup.
func TestStatementAhead(t *testing.T) {
	conn := raw(t, serve(t, &dsqlproxy.Proxy{}), append(startupBytes(3<<16, "user\x00admin\x00"), query("select 42")...))
	frontend := pgproto3.NewFrontend(conn, conn)
	for {
		m, err := frontend.Receive()
		require.NoError(t, err)
		if row, ok := m.(*pgproto3.DataRow); ok {
			require.Equal(t, "42", string(row.Values[0]))
			return
		}
	}
}

func query(sql string) []byte {
	b, _ := (&pgproto3.Query{String: sql}).Encode(nil)
	return b
}

// A client that closes its side gets the answers to what it sent, and then the end.
func TestHalfClose(t *testing.T) {
	address := serve(t, &dsqlproxy.Proxy{})
	conn := raw(t, address, append(startupBytes(3<<16, "user\x00admin\x00"), query("select pg_sleep(0.2)")...))
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	began := time.Now()
	answers, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Less(t, time.Since(began), 8*time.Second, "it waited for more than the answers")
	require.Contains(t, string(answers), "SELECT 1\x00")
	require.True(t, bytes.HasSuffix(answers, []byte{'Z', 0, 0, 0, 5, 'I'}))
}

// A client that vanishes in a transaction, without a word, ends its session at the cluster, and
// with it the transaction.
func TestClientVanishes(t *testing.T) {
	own := dsqltest.New(t)
	p := &dsqlproxy.Proxy{Config: throughVPC(own)}
	address := serve(t, p)
	for name, vanish := range map[string]func(*net.TCPConn) error{
		"end":   func(c *net.TCPConn) error { return c.Close() },
		"reset": func(c *net.TCPConn) error { c.SetLinger(0); return c.Close() },
	} {
		conn := raw(t, address, append(startupBytes(3<<16, "user\x00admin\x00"), query("begin; select 1")...))
		readUntilReady(t, conn)
		readUntilReady(t, conn)
		require.Equal(t, 1, own.Sessions(), name)
		require.NoError(t, vanish(conn.(*net.TCPConn)))
		require.Eventually(t, func() bool { return own.Sessions() == 0 && p.Stats().Clients == 0 }, 10*time.Second, time.Millisecond, name)
	}
}

// readUntilReady reads messages up to a ReadyForQuery.
func readUntilReady(t *testing.T, conn net.Conn) {
	t.Helper()
	var header [5]byte
	for header[0] != 'Z' {
		_, err := io.ReadFull(conn, header[:])
		require.NoError(t, err)
		_, err = io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(header[1:])-4))
		require.NoError(t, err)
	}
}

// A client that gives up while it waits for its session leaves nothing behind.
func TestClientGivesUp(t *testing.T) {
	own := dsqltest.New(t)
	p := &dsqlproxy.Proxy{Config: throughVPC(own)}
	address := serve(t, p)
	own.SetRoundTripTime(time.Hour)
	conn := raw(t, address, startupBytes(3<<16, "user\x00admin\x00"))
	require.Eventually(t, func() bool { return p.Stats().Clients == 1 }, 10*time.Second, time.Millisecond)
	conn.Close()
	require.Eventually(t, func() bool { return p.Stats().Clients == 0 }, 10*time.Second, time.Millisecond)
	require.False(t, p.Stats().Failing)
}

// A reader that does not read holds up the cluster, not the proxy's memory.
func TestSlowReader(t *testing.T) {
	p := &dsqlproxy.Proxy{}
	conn := raw(t, serve(t, p), append(startupBytes(3<<16, "user\x00admin\x00"), query("select repeat('x', 1000) from generate_series(1, 200000)")...))
	var last uint64
	require.Eventually(t, func() bool { // until nothing moves any more
		before := last
		last = p.Stats().BytesToClient
		return before == last && last > 1<<16
	}, 30*time.Second, 200*time.Millisecond)
	require.Less(t, last, uint64(32<<20), "of 200 MB; the sockets' buffers hold less than this")
	n, err := io.Copy(io.Discard, io.LimitReader(conn, 200_000_000))
	require.NoError(t, err)
	require.EqualValues(t, 200_000_000, n)
}

// A connection to the cluster that breaks is told as what it is.
func TestClusterLost(t *testing.T) {
	own := dsqltest.New(t)
	conn := connect(t, serve(t, &dsqlproxy.Proxy{Config: throughVPC(own)}), "")
	name := table(t, connect(t, serve(t, &dsqlproxy.Proxy{Config: throughVPC(own)}), ""), "id int")
	own.CutNext(1, dsqltest.BeforeCommit)
	_, err := conn.Exec(t.Context(), "insert into "+name+" values (1)")
	var said *pgconn.PgError
	require.ErrorAs(t, err, &said)
	require.Equal(t, "08007", said.Code)
	require.Contains(t, said.Hint, "COMMIT")
}

func TestCancel(t *testing.T) {
	own := dsqltest.New(t)
	p := &dsqlproxy.Proxy{Config: throughVPC(own)}
	address := serve(t, p)
	conn := connect(t, address, "")
	failed := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "select pg_sleep(600)")
		failed <- err
	}()
	require.Eventually(t, func() bool { return p.Stats().BytesToCluster > 0 }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool {
		require.NoError(t, conn.PgConn().CancelRequest(t.Context())) // in plaintext, like all clients of the proxy
		select {
		case err := <-failed:
			var said *pgconn.PgError
			require.ErrorAs(t, err, &said)
			require.Equal(t, "57014", said.Code)
			return true
		default:
			return false
		}
	}, 30*time.Second, 10*time.Millisecond)
	require.NotZero(t, p.Stats().Cancels)
	cancels := 0
	for _, a := range own.Attempts() {
		if a.Cancel {
			cancels++
			require.NotZero(t, a.TLSVersion, "a cancel request reached the cluster without TLS")
			require.Equal(t, own.PrivateEndpoint(), a.ServerName)
		}
	}
	require.NotZero(t, cancels)
}

// A CancelRequest for no session of the proxy's own goes nowhere.
func TestCancelOthers(t *testing.T) {
	p := &dsqlproxy.Proxy{}
	address := serve(t, p)
	conn := connect(t, address, "")
	before := len(cluster.Attempts())
	for _, key := range [][]byte{append(binary.BigEndian.AppendUint32(nil, conn.PgConn().PID()), "gues"...), make([]byte, 8), make([]byte, 4), make([]byte, 260)} {
		request := binary.BigEndian.AppendUint32(nil, uint32(8+len(key)))
		request = append(binary.BigEndian.AppendUint32(request, 80877102), key...)
		answer, err := io.ReadAll(raw(t, address, request))
		require.NoError(t, err)
		require.Empty(t, answer)
	}
	require.Len(t, cluster.Attempts(), before)
	require.Zero(t, p.Stats().Cancels)
}

// What does not follow the protocol in a session ends it, and is not passed on.
func TestInvalidLength(t *testing.T) {
	conn := raw(t, serve(t, &dsqlproxy.Proxy{}), startupBytes(3<<16, "user\x00admin\x00"))
	readUntilReady(t, conn)
	_, err := conn.Write([]byte{'Q', 0, 0, 0, 1})
	require.NoError(t, err)
	m, ok := receive(t, conn).(*pgproto3.ErrorResponse)
	require.True(t, ok)
	require.Equal(t, "08P01", m.Code)
}
