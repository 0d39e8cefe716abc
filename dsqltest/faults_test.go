package dsqltest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// talk is what a client hears from its first byte to the answer of one query,
// by what it said before: bytes of the wire up to OnClientHello, inside TLS from
// OnStartup on.
type talk struct {
	phase Phase
	heard [OnQuery + 1][]byte
	rows  []string
}

// ear listens to a connection in the phases in which it is what counts.
type ear struct {
	net.Conn
	talk        *talk
	first, last Phase
}

func (e ear) Read(p []byte) (int, error) {
	n, err := e.Conn.Read(p)
	if e.first <= e.talk.phase && e.talk.phase <= e.last {
		e.talk.heard[e.talk.phase] = append(e.talk.heard[e.talk.phase], p[:n]...)
	}
	return n, err
}

var errUnexpected = errors.New("unexpected answer")

func (t *talk) run(conn net.Conn, s *Server, sslRequest bool, password string) error {
	raw := ear{conn, t, OnAccept, OnClientHello}
	if sslRequest {
		t.phase = OnSSLRequest
		if _, err := raw.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}); err != nil {
			return err
		}
		answer := make([]byte, 1)
		if _, err := io.ReadFull(raw, answer); err != nil {
			return err
		}
		if answer[0] != 'S' {
			return errUnexpected
		}
	}
	t.phase = OnClientHello
	secured := tls.Client(raw, clientTLS(s, s.Endpoint()))
	if err := secured.Handshake(); err != nil {
		return err
	}
	inside := ear{secured, t, OnStartup, OnQuery}
	frontend := pgproto3.NewFrontend(inside, inside)
	var row *pgproto3.DataRow
	for _, step := range []struct {
		phase Phase
		say   pgproto3.FrontendMessage
		until pgproto3.BackendMessage
	}{
		{OnStartup, &pgproto3.StartupMessage{ProtocolVersion: protocolVersion3, Parameters: map[string]string{"user": adminRole, "database": databaseName}}, &pgproto3.AuthenticationCleartextPassword{}},
		{OnPassword, &pgproto3.PasswordMessage{Password: password}, &pgproto3.ReadyForQuery{}},
		{OnQuery, &pgproto3.Query{String: "select 'the answer'"}, &pgproto3.ReadyForQuery{}},
	} {
		t.phase = step.phase
		frontend.Send(step.say)
		if err := frontend.Flush(); err != nil {
			return err
		}
		for {
			message, err := frontend.Receive()
			if err != nil {
				return err
			}
			if row, _ = message.(*pgproto3.DataRow); row != nil {
				t.rows = append(t.rows, string(row.Values[0]))
			}
			if fmt.Sprintf("%T", message) == fmt.Sprintf("%T", step.until) {
				break
			}
			if _, refused := message.(*pgproto3.ErrorResponse); refused {
				return errUnexpected
			}
		}
	}
	return nil
}

// begin dials and talks.
func begin(tb testing.TB, s *Server, sslRequest bool) (net.Conn, *talk, <-chan error) {
	tb.Helper()
	t := new(talk)
	ended := make(chan error, 1)
	password := sign(tb, s, signing{})
	conn, err := net.Dial("tcp", s.Addr())
	if isReset(err) { // on accept, before Dial had looked at its socket
		ended <- err
		return new(net.TCPConn), t, ended
	}
	require.NoError(tb, err)
	tb.Cleanup(func() { conn.Close() })
	require.NoError(tb, conn.SetDeadline(time.Now().Add(time.Minute)))
	go func() { ended <- t.run(conn, s, sslRequest, password) }()
	return conn, t, ended
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// struckBy waits until f has struck the newest connection.
func struckBy(tb testing.TB, s *Server, f Fault) (last Attempt) {
	tb.Helper()
	require.Eventually(tb, func() bool {
		if attempts := s.Attempts(); len(attempts) > 0 {
			last = attempts[len(attempts)-1]
		}
		return last.Fault == f
	}, 10*time.Second, time.Millisecond)
	return last
}

// gone waits until the server holds no connection any more.
func gone(tb testing.TB, s *Server) {
	tb.Helper()
	require.Eventually(tb, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.conns) == 0 && len(s.sessions) == 0 && s.open == 0
	}, 20*time.Second, time.Millisecond)
}

var allPhases = []Phase{OnAccept, OnSSLRequest, OnClientHello, OnStartup, OnPassword, OnQuery}

func TestFaults(t *testing.T) {
	s := New(t)
	for _, distance := range []time.Duration{0, 2 * time.Millisecond} {
		s.SetRoundTripTime(distance)
		for _, phase := range allPhases {
			for _, effect := range []Effect{Reset, HangUp, Silence, Garbage} {
				for _, sslRequest := range []bool{false, true} {
					if distance > 0 && !sslRequest {
						continue // the same from here on
					}
					f := Fault{Phase: phase, Effect: effect}
					t.Run(fmt.Sprintf("%v, SSLRequest %v, %v away", f, sslRequest, distance), func(t *testing.T) {
						s.SetFaults(Always(f))
						conn, talk, ended := begin(t, s, sslRequest)
						if phase == OnSSLRequest && !sslRequest {
							require.NoError(t, <-ended)
							require.Zero(t, lastAttempt(t, s).Fault)
							conn.Close()
							gone(t, s)
							return
						}
						struck := func() bool {
							attempts := s.Attempts()
							return len(attempts) > 0 && attempts[len(attempts)-1].Fault == f
						}
						require.Eventually(t, struck, 20*time.Second, time.Millisecond)
						last := lastAttempt(t, s)
						if phase == OnQuery {
							require.Equal(t, "ok", last.Outcome)
						} else {
							require.Equal(t, f.String(), last.Outcome)
						}
						if phase > OnSSLRequest {
							require.Equal(t, s.Endpoint(), last.ServerName)
						}

						at := phase
						if at == OnAccept { // the client begins to talk all the same
							at = OnClientHello
							if sslRequest {
								at = OnSSLRequest
							}
						}
						switch effect {
						case Reset:
							err := <-ended
							require.True(t, isReset(err), err)
							require.Empty(t, talk.heard[at])
						case HangUp:
							err := <-ended
							require.True(t, isEnd(err), err)
							require.Empty(t, talk.heard[at])
						case Silence:
							// Whatever the server does by itself, it has done by now.
							require.Empty(t, ended)
							conn.Close()
							require.ErrorIs(t, <-ended, net.ErrClosed)
							require.Empty(t, talk.heard[at])
						case Garbage:
							err := <-ended
							require.Error(t, err)
							require.False(t, isReset(err) || isEnd(err), err)
							require.NotEmpty(t, talk.heard[at])
							require.True(t, strings.HasPrefix(garbage, string(talk.heard[at])), string(talk.heard[at]))
						}
						require.LessOrEqual(t, talk.phase, at)
						require.Empty(t, talk.rows)
						conn.Close()
						gone(t, s)
					})
				}
			}
		}
	}
	s.SetFaults(nil)
	_, talk, ended := begin(t, s, true)
	require.NoError(t, <-ended)
	require.Equal(t, []string{"the answer"}, talk.rows)
}

// A fault can cut every message of every phase, where it is told to.
func TestFaultAfter(t *testing.T) {
	s := New(t)
	whole := func() [OnQuery + 1][]byte {
		s.SetFaults(nil)
		conn, talk, ended := begin(t, s, true)
		require.NoError(t, <-ended)
		conn.Close()
		return talk.heard
	}()
	for _, phase := range allPhases[1:] {
		length := len(whole[phase])
		require.NotZero(t, length)
		cuts := []int{1, 5, 7, length / 3, length / 2, length - 1, length}
		if phase == OnClientHello {
			cuts = cuts[:5] // a signature, and so the flight, varies in length
		}
		slices.Sort(cuts)
		for _, after := range slices.Compact(cuts) {
			if after < 1 || after > length {
				continue
			}
			f := Fault{Phase: phase, Effect: HangUp, After: after}
			t.Run(f.String(), func(t *testing.T) {
				s.SetFaults(Always(f))
				conn, talk, ended := begin(t, s, true)
				err := <-ended
				if phase == OnQuery && after == length {
					require.NoError(t, err, "the end comes behind the answer")
				} else {
					require.True(t, isEnd(err), err)
				}
				require.Len(t, talk.heard[phase], after)
				if phase == OnSSLRequest || phase == OnStartup { // the others have keys in them
					require.Equal(t, whole[phase][:after], talk.heard[phase])
				}
				struckBy(t, s, f)
				conn.Close()
				gone(t, s)
			})
		}
		// It says less than that: nothing happens.
		s.SetFaults(Always(Fault{Phase: phase, Effect: Reset, After: length + 1000}))
		conn, talk, ended := begin(t, s, true)
		require.NoError(t, <-ended)
		require.Equal(t, []string{"the answer"}, talk.rows)
		require.Zero(t, lastAttempt(t, s).Fault)
		conn.Close()
	}

	// Garbage and silence come behind what still arrives, too.
	f := Fault{Phase: OnStartup, Effect: Garbage, After: 9}
	s.SetFaults(Always(f))
	conn, talk, ended := begin(t, s, false)
	require.ErrorContains(t, <-ended, "invalid message length")
	require.Equal(t, string(whole[OnStartup])+garbage, string(talk.heard[OnStartup])+string(talk.heard[OnPassword]))
	conn.Close()
	gone(t, s)
}

// The refusal that a login was due does not arrive either.
func TestFaultOnRefusal(t *testing.T) {
	s := New(t)
	for _, f := range []Fault{
		{Phase: OnStartup, Effect: Silence},
		{Phase: OnPassword, Effect: Silence},
		{Phase: OnPassword, Effect: HangUp, After: 20},
		{Phase: OnPassword, Effect: Reset},
	} {
		s.SetFaults(Always(f))
		if f.Phase == OnStartup {
			s.SetMaxConnections(0)
		} else {
			s.SetMaxConnections(-1)
			s.RefuseNext(1, RefuseAccess)
		}
		conn, talk, ended := begin(t, s, false)
		require.Equal(t, f.String(), struckBy(t, s, f).Outcome)
		if f.Effect == Silence {
			require.Empty(t, ended)
			conn.Close()
		}
		require.NotErrorIs(t, <-ended, errUnexpected)
		require.Len(t, talk.heard[f.Phase], f.After)
		conn.Close()
		gone(t, s)
	}
}

// Nothing follows, also when the client goes on without an answer.
func TestStruckForGood(t *testing.T) {
	s := New(t, WithFaults(Always(Fault{Phase: OnSSLRequest, Effect: Silence})))
	conn, err := net.Dial("tcp", s.Addr())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47})
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
	require.ErrorIs(t, tls.Client(conn, clientTLS(s, s.Endpoint())).Handshake(), os.ErrDeadlineExceeded)
	require.Equal(t, s.Endpoint(), lastAttempt(t, s).ServerName)

	s.SetFaults(Always(Fault{Phase: OnQuery, Effect: Garbage}))
	secured, frontend := dialTLS(t, s, s.Endpoint())
	login(t, s, frontend)
	for range 2 {
		frontend.Send(&pgproto3.Query{String: "select 1"})
		require.NoError(t, frontend.Flush())
	}
	require.NoError(t, secured.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
	heard, err := io.ReadAll(secured)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, garbage, string(heard))
}

func TestSkipPassword(t *testing.T) {
	s := New(t, WithFaults(Always(Fault{Effect: SkipPassword})))
	config := connConfig(t, s, "app")
	config.Password = ""
	require.Equal(t, "app", queryString(t, connect(t, config), "select current_user"))
	last := lastAttempt(t, s)
	require.Equal(t, "ok", last.Outcome)
	require.Equal(t, Fault{Effect: SkipPassword}, last.Fault)
	require.Empty(t, last.TokenID)

	config = connConfig(t, s, adminRole)
	config.MaxProtocolVersion = "latest"
	connect(t, config)

	config.TLSConfig.ServerName, config.TLSConfig.InsecureSkipVerify = s.VPCEndpoint(), true
	_, err := pgx.ConnectConfig(t.Context(), config)
	require.ErrorContains(t, err, "invalid sni")

	// A password that was sent early is a message of the session.
	_, frontend := dialTLS(t, s, s.Endpoint())
	login(t, s, frontend)
	refused, ok := receive(t, frontend).(*pgproto3.ErrorResponse)
	require.True(t, ok)
	require.Equal(t, []string{"FATAL", "08P01", "invalid frontend message type 112"}, []string{refused.Severity, refused.Code, refused.Message})
	_, err = frontend.Receive()
	require.Error(t, err)
}

// Each connection is asked for once, in order.
func TestFaultsAreChosen(t *testing.T) {
	var asked atomic.Int32
	s := New(t, WithFaults(func() Fault {
		if asked.Add(1)%2 == 1 {
			return Fault{Effect: Reset}
		}
		return Fault{}
	}))
	for range 3 {
		_, _, ended := begin(t, s, false)
		err := <-ended
		require.True(t, isReset(err), err)
		_, _, ended = begin(t, s, false)
		require.NoError(t, <-ended)
	}
	require.EqualValues(t, 6, asked.Load())
	for i, a := range s.Attempts() {
		require.Equal(t, i%2 == 0, a.Fault.Effect == Reset)
	}
}

// Close ends silence in every phase, and what random faults leave behind.
func TestCloseUnderFaults(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	s, err := Start(t.Context())
	require.NoError(t, err)
	defer s.Close()
	var ends []<-chan error
	for i, phase := range allPhases {
		s.SetRoundTripTime(time.Duration(i%2) * time.Millisecond)
		f := Fault{Phase: phase, Effect: Silence}
		s.SetFaults(Always(f))
		_, _, ended := begin(t, s, true)
		struckBy(t, s, f)
		ends = append(ends, ended)
	}
	require.NoError(t, s.Close())
	for _, ended := range ends {
		require.Error(t, <-ended)
	}
	goleak.VerifyNone(t, ignore)
}

// Under any mixture of faults a client gets the right answer or an error, and
// the server keeps nothing.
func TestRandomFaults(t *testing.T) {
	s := New(t, WithConnectQuota(-1, 0), WithRoundTripTime(time.Millisecond), WithFaults(func() Fault {
		f := Fault{Phase: rand.N(OnQuery + 1), Effect: rand.N(SkipPassword)}
		if rand.N(2) == 0 {
			f.After = rand.N(600)
		}
		return f
	}))
	const clientsAtOnce, requests = 8, 12
	var right, failed atomic.Int32
	var clients sync.WaitGroup
	for range clientsAtOnce {
		clients.Go(func() {
			for range requests {
				conn, talk, ended := begin(t, s, rand.N(2) == 0)
				conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
				if err := <-ended; err != nil {
					failed.Add(1)
				} else if len(talk.rows) == 1 && talk.rows[0] == "the answer" {
					right.Add(1)
				}
				conn.Close()
			}
		})
	}
	clients.Wait()
	require.EqualValues(t, clientsAtOnce*requests, right.Load()+failed.Load())
	require.NotZero(t, right.Load())
	require.NotZero(t, failed.Load())
	gone(t, s)
}

func TestFaultString(t *testing.T) {
	for want, f := range map[string]Fault{
		"no fault":                              {},
		"reset on accept":                       {Effect: Reset},
		"silence on ClientHello":                {Phase: OnClientHello, Effect: Silence},
		"hang-up on query after 12 bytes":       {Phase: OnQuery, Effect: HangUp, After: 12},
		"garbage on startup message":            {Phase: OnStartup, Effect: Garbage},
		"skipped password on accept":            {Effect: SkipPassword},
		"Effect(9) on Phase(-1) after 1 bytes":  {Phase: -1, Effect: 9, After: 1},
		"garbage on SSLRequest after 100 bytes": {Phase: OnSSLRequest, Effect: Garbage, After: 100},
	} {
		require.Equal(t, want, f.String())
	}
}
