package dsqlproxy

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// bubble runs a relay between the two ends that the test gets, in a time of its own.
func bubble(t *testing.T, test func(t *testing.T, s *server, client, cluster net.Conn, ended <-chan string)) {
	t.Helper()
	bubbleWhile(t, false, test)
}

// bubbleWhile does the same for a relay that begins when the proxy drains, or when it does not.
func bubbleWhile(t *testing.T, draining bool, test func(t *testing.T, s *server, client, cluster net.Conn, ended <-chan string)) {
	synctest.Test(t, func(t *testing.T) {
		accepting, stopAccepting := context.WithCancel(t.Context())
		defer stopAccepting()
		if draining {
			stopAccepting()
		}
		s := &server{log: slog.New(slog.DiscardHandler), accepting: accepting, relays: map[*relay]struct{}{}, keys: map[string]*clusterSession{}, drainTime: time.Hour}
		s.ctx, s.cancel = context.WithCancel(t.Context())
		client, proxyClient := net.Pipe()
		cluster, proxyCluster := net.Pipe()
		r := newRelay(proxyClient, &clusterSession{conn: proxyCluster, hijacked: &pgconn.HijackedConn{PID: 1, SecretKey: []byte("key")}})
		ended := make(chan string, 1)
		go func() { ended <- r.run(s, nil) }()
		defer func() {
			s.cancel()
			client.Close()
			cluster.Close()
			synctest.Wait()
			require.Empty(t, s.relays)
			require.Empty(t, s.keys)
		}()
		test(t, s, client, cluster, ended)
	})
}

// send writes b, and returns when the other end has read it.
func send(t *testing.T, conn net.Conn, b ...[]byte) {
	t.Helper()
	_, err := conn.Write(bytes.Join(b, nil))
	require.NoError(t, err)
}

// expect reads what was sent.
func expect(t *testing.T, conn net.Conn, b ...[]byte) {
	t.Helper()
	want := bytes.Join(b, nil)
	got := make([]byte, len(want))
	_, err := io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func fatalBytes(t *testing.T, f *fatal) []byte {
	t.Helper()
	b, err := f.response.Encode(nil)
	require.NoError(t, err)
	return b
}

var (
	selectOne = message('Q', "select 1\x00")
	answerOne = bytes.Join([][]byte{message('T', "columns"), message('D', "1"), message('C', "SELECT 1\x00"), readyForQuery}, nil)
)

// The cluster's last words, at the end of the 60 minutes for one, reach the client as they are,
// with none of the proxy's behind them.
func TestClustersLastWords(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, client, cluster net.Conn, ended <-chan string) {
		words := fatalBytes(t, refuse("57P01", "", "terminating connection due to its age"))
		go func() {
			cluster.Write(words)
			cluster.Close()
		}()
		got, err := io.ReadAll(client)
		require.NoError(t, err)
		require.Equal(t, words, got)
		require.Equal(t, "the cluster ended the session", <-ended)
	})
}

// An error in the middle of a session is not its end: a connection that breaks later is told.
func TestClusterLostAfterError(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, client, cluster net.Conn, ended <-chan string) {
		go send(t, client, selectOne)
		expect(t, cluster, selectOne)
		failed := append(message('E', "SERROR\x00C22012\x00\x00"), readyForQuery...)
		go func() {
			cluster.Write(failed)
			cluster.Close()
		}()
		got, err := io.ReadAll(client)
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(got, failed))
		require.Contains(t, string(got[len(failed):]), "08006")
		require.Contains(t, <-ended, "lost")
	})
}

// Where a message has begun, no words of the proxy stand.
func TestClusterLostInMessage(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, client, cluster net.Conn, ended <-chan string) {
		half := message('D', "a row")[:7]
		go func() {
			cluster.Write(half)
			cluster.Close()
		}()
		got, err := io.ReadAll(client)
		require.NoError(t, err)
		require.Equal(t, half, got)
	})
}

// A client that is gone has its session closed at once when nothing is due, and after
// halfCloseTimeout when answers are.
func TestClientLeft(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, client, cluster net.Conn, ended <-chan string) {
		began := time.Now()
		client.Close()
		_, err := cluster.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, "the client left", <-ended)
		require.Zero(t, time.Since(began))
	})
	bubble(t, func(t *testing.T, s *server, client, cluster net.Conn, ended <-chan string) {
		go func() {
			client.Write(selectOne)
			client.Close()
		}()
		expect(t, cluster, selectOne)
		began := time.Now()
		_, err := cluster.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, halfCloseTimeout, time.Since(began))
		require.Contains(t, <-ended, "answers did not come")
	})
}

// Words of the proxy stand between messages, and a session is drained when its transaction has
// ended, not before, and not while a statement is on its way.
func TestDrainRelay(t *testing.T) {
	begin := message('Q', "begin\x00")
	began := append(message('C', "BEGIN\x00"), 'Z', 0, 0, 0, 5, 'T')
	commit := message('Q', "commit\x00")
	committed := append(message('C', "COMMIT\x00"), readyForQuery...)
	bubble(t, func(t *testing.T, s *server, client, cluster net.Conn, ended <-chan string) {
		go send(t, client, begin)
		expect(t, cluster, begin)
		for r := range s.relays {
			r.drain()
		}
		synctest.Wait()
		go send(t, cluster, began)
		expect(t, client, began)
		go send(t, client, commit)
		expect(t, cluster, commit)
		go send(t, cluster, committed)
		expect(t, client, committed, fatalBytes(t, refuseShutdown()))
		require.Equal(t, "drained", <-ended)
	})
}

// A session that begins while the proxy drains ends at once.
func TestDrainNewRelay(t *testing.T) {
	bubbleWhile(t, true, func(t *testing.T, s *server, client, cluster net.Conn, ended <-chan string) {
		expect(t, client, fatalBytes(t, refuseShutdown()))
		require.Equal(t, "drained", <-ended)
	})
}

// An extended query without its Sync is not the end of anything.
func TestIdle(t *testing.T) {
	r := newRelay(nil, nil)
	note := func(b ...[]byte) { require.NoError(t, r.noteRequests(bytes.Join(b, nil))) }
	answer := func(b ...[]byte) { require.NoError(t, r.noteAnswers(bytes.Join(b, nil))) }
	require.True(t, r.idle())
	note(message('P', "\x00select 1\x00\x00\x00"), message('H', ""))
	require.False(t, r.idle(), "after Parse and Flush")
	answer(message('1', ""))
	require.False(t, r.idle(), "after ParseComplete")
	note(message('S', ""))
	require.False(t, r.idle(), "after Sync")
	answer(readyForQuery)
	require.True(t, r.idle())

	note(selectOne, selectOne)
	answer(answerOne)
	require.False(t, r.idle(), "after one of two answers")
	answer(answerOne)
	require.True(t, r.idle())

	note(message('Q', "copy t from stdin\x00"))
	answer(message('G', "\x00\x00\x00"))
	note(message('d', "1\n"), message('S', ""), message('c', "")) // PostgreSQL ignores Sync meanwhile
	require.False(t, r.idle(), "while copying")
	answer(message('C', "COPY 1\x00"), readyForQuery)
	require.True(t, r.idle())

	note(selectOne[:3])
	require.False(t, r.idle(), "in the middle of a message")
	note(selectOne[3:])
	answer(answerOne)
	require.True(t, r.idle())
}

// A connection that says nothing is closed after startupTimeout, without an answer.
func TestStartupTimeout(t *testing.T) {
	for name, sent := range map[string][]byte{"nothing": nil, "half a startup": packet(protocol30, startupBody)[:20]} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &server{log: slog.New(slog.DiscardHandler), accepting: t.Context()}
				conn, proxy := net.Pipe()
				defer conn.Close()
				began := time.Now()
				go newClient(s, proxy).serve()
				if len(sent) > 0 {
					send(t, conn, sent)
				}
				got, err := io.ReadAll(conn)
				require.NoError(t, err)
				require.Empty(t, got)
				require.Equal(t, startupTimeout, time.Since(began))
				synctest.Wait()
				require.EqualValues(t, 1, s.stats.Refused)
				require.Zero(t, s.halfOpen.Len())
			})
		})
	}
}
