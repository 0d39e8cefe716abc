package dsqlproxy_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqlproxy"
	"github.com/dsqlgo/dsql/dsqltest"
)

// refused connects, and returns the error that the client was told.
func refused(t *testing.T, url string) *pgconn.PgError {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err == nil {
		conn.Close(context.Background())
	}
	var said *pgconn.PgError
	require.ErrorAs(t, err, &said)
	require.Equal(t, "FATAL", said.Severity)
	return said
}

func TestPassword(t *testing.T) {
	address := serve(t, &dsqlproxy.Proxy{Password: "correct horse"})
	connect(t, address, "password='correct horse'")
	require.Equal(t, "28P01", refused(t, clientURL(address, "password=wrong")).Code)
	require.Equal(t, "28P01", refused(t, clientURL(address, "password=''")).Code)
}

// A wrong password is answered before anything is asked of the cluster, and before the role is
// looked at: who does not know it learns nothing of either.
func TestPasswordFirst(t *testing.T) {
	before := len(cluster.Attempts())
	address := serve(t, &dsqlproxy.Proxy{Password: "correct horse", MaxConnections: 1})
	require.Equal(t, "28P01", refused(t, clientURL(address, "password=wrong user=nobody dbname=other")).Code)
	require.Len(t, cluster.Attempts(), before)
}

func TestRoles(t *testing.T) {
	address := serve(t, &dsqlproxy.Proxy{Users: []string{"admin", "app"}})
	for _, role := range []string{"admin", "app"} {
		var user string
		require.NoError(t, connect(t, address, "user="+role).QueryRow(t.Context(), "select current_user").Scan(&user))
		require.Equal(t, role, user)
	}
	before := len(cluster.Attempts())
	said := refused(t, clientURL(address, "user=other"))
	require.Equal(t, "28000", said.Code)
	require.Contains(t, said.Message, `"other"`)
	require.Contains(t, said.Hint, "admin or app")
	require.Len(t, cluster.Attempts(), before, "the cluster was asked")

	require.Equal(t, "28000", refused(t, clientURL(serve(t, &dsqlproxy.Proxy{}), "user=app")).Code)
	config := throughVPC(cluster)
	config.User = "app"
	address = serve(t, &dsqlproxy.Proxy{Config: config})
	connect(t, address, "user=app")
	require.Equal(t, "28000", refused(t, clientURL(address, "user=admin")).Code)
}

// A client cannot lead the proxy to another cluster.
func TestOtherCluster(t *testing.T) {
	address := serve(t, &dsqlproxy.Proxy{})
	before := len(cluster.Attempts())
	for _, options := range []string{"-c amzn-cluster-id=abcdefghijklmnopqrstuvwxyz", "--amzn_cluster_id=abcdefghijklmnopqrstuvwxyz", `-camzn-cluster-id=x`, `-c amzn\\-cluster-id=x`} {
		require.Equal(t, "0A000", refused(t, clientURL(address, "options='"+options+"'")).Code)
	}
	require.Len(t, cluster.Attempts(), before, "the cluster was asked")
}

func TestDatabase(t *testing.T) {
	said := refused(t, clientURL(serve(t, &dsqlproxy.Proxy{}), "dbname=orders"))
	require.Equal(t, "3D000", said.Code)
	require.Contains(t, said.Hint, "postgres")

	conn := connect(t, serve(t, &dsqlproxy.Proxy{AnyDatabase: true}), "dbname=orders")
	var database string
	require.NoError(t, conn.QueryRow(t.Context(), "select current_database()").Scan(&database))
	require.Equal(t, "postgres", database)
}

func TestMaxConnections(t *testing.T) {
	p := &dsqlproxy.Proxy{MaxConnections: 2}
	address := serve(t, p)
	first := connect(t, address, "")
	connect(t, address, "")
	require.Equal(t, "53300", refused(t, clientURL(address, "")).Code)
	require.True(t, p.Stats().Full)
	require.NoError(t, first.Close(t.Context()))
	require.Eventually(t, func() bool { return !p.Stats().Full }, 10*time.Second, time.Millisecond)
	connect(t, address, "")
}

// raw opens a connection to a proxy and sends bytes.
func raw(t *testing.T, address string, b []byte) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = conn.Write(b)
	require.NoError(t, err)
	return conn
}

var (
	sslRequest = []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}
	gssRequest = []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30}
)

// startupBytes is a StartupMessage of any version.
func startupBytes(version uint32, parameters string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(parameters)+1))
	return append(append(binary.BigEndian.AppendUint32(b, version), parameters...), 0)
}

// Other protocols get no byte in answer: no page that a browser has loaded can learn what listens
// here, let alone speak with it.
func TestOtherProtocols(t *testing.T) {
	address := serve(t, &dsqlproxy.Proxy{})
	for name, b := range map[string]string{
		"HTTP":              "GET / HTTP/1.1\r\nHost: " + address + "\r\nOrigin: http://evil.example\r\n\r\n",
		"HTTP with startup": "POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n" + string(startupBytes(3<<16, "user\x00admin\x00")),
		"ClientHello":       "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"SSLRequest twice":  string(sslRequest) + string(sslRequest),
		"SSH":               "SSH-2.0-OpenSSH_9.2\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn := raw(t, address, []byte(b))
			answer, _ := io.ReadAll(conn) // a reset is an end, too
			if name == "SSLRequest twice" {
				require.Equal(t, "N", string(answer))
				return
			}
			require.Empty(t, answer)
		})
	}
}

// libpq asks for GSSAPI and TLS, in either order, and takes N for an answer to each.
func TestEncryptionRequests(t *testing.T) {
	address := serve(t, &dsqlproxy.Proxy{})
	for name, requests := range map[string][]byte{
		"SSL, GSS": append(append([]byte{}, sslRequest...), gssRequest...),
		"GSS, SSL": append(append([]byte{}, gssRequest...), sslRequest...),
	} {
		t.Run(name, func(t *testing.T) {
			conn := raw(t, address, nil)
			for _, request := range [][]byte{requests[:8], requests[8:]} {
				_, err := conn.Write(request)
				require.NoError(t, err)
				var answer [1]byte
				_, err = io.ReadFull(conn, answer[:])
				require.NoError(t, err)
				require.Equal(t, "N", string(answer[:]))
			}
			_, err := conn.Write(startupBytes(3<<16, "user\x00admin\x00"))
			require.NoError(t, err)
			require.IsType(t, &pgproto3.AuthenticationOk{}, receive(t, conn))
		})
	}
}

// receive reads one message.
func receive(t *testing.T, conn net.Conn) pgproto3.BackendMessage {
	t.Helper()
	m, err := pgproto3.NewFrontend(conn, conn).Receive()
	require.NoError(t, err)
	return m
}

func TestNegotiateProtocolVersion(t *testing.T) {
	address := serve(t, &dsqlproxy.Proxy{})
	for name, c := range map[string]struct {
		version    uint32
		parameters string
		want       *pgproto3.NegotiateProtocolVersion
	}{
		"3.2":     {3<<16 | 2, "user\x00admin\x00", &pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: 3 << 16, UnrecognizedOptions: []string{}}},
		"options": {3 << 16, "user\x00admin\x00_pq_.x\x00on\x00", &pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: 3 << 16, UnrecognizedOptions: []string{"_pq_.x"}}},
		"grease":  {3<<16 | 9999, "user\x00admin\x00_pq_.test_protocol_negotiation\x00\x00", &pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: 3 << 16, UnrecognizedOptions: []string{"_pq_.test_protocol_negotiation"}}},
	} {
		t.Run(name, func(t *testing.T) {
			conn := raw(t, address, startupBytes(c.version, c.parameters))
			frontend := pgproto3.NewFrontend(conn, conn)
			m, err := frontend.Receive()
			require.NoError(t, err)
			require.Equal(t, c.want, m)
			m, err = frontend.Receive()
			require.NoError(t, err)
			require.IsType(t, &pgproto3.AuthenticationOk{}, m)
		})
	}
	connect(t, address, "max_protocol_version=3.2")
}

// Thousands of connections that say nothing neither keep a client out nor pile up.
func TestHalfOpen(t *testing.T) {
	p := &dsqlproxy.Proxy{}
	address := serve(t, p)
	for range 3000 {
		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
	}
	connect(t, address, "")
	require.Eventually(t, func() bool { return p.Stats().Connections > 3000 }, 10*time.Second, time.Millisecond)
	require.LessOrEqual(t, p.Stats().HalfOpen, 1000)
	connect(t, address, "")
}

func TestUnprotectedListener(t *testing.T) {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	require.NoError(t, err)
	certificate, _ := newCertificate(t)
	for name, p := range map[string]*dsqlproxy.Proxy{
		"nothing":     {},
		"no TLS":      {Password: "secret"},
		"no password": {TLS: &tls.Config{Certificates: []tls.Certificate{certificate}}},
	} {
		p.Config = throughVPC(cluster)
		require.ErrorContains(t, p.Serve(t.Context(), l), "set Password and TLS", name)
	}
}

func TestUnixSocket(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	require.NoError(t, err)
	serveOn(t, &dsqlproxy.Proxy{}, l)
	conn, err := pgx.Connect(t.Context(), "host="+dir+" user=admin dbname=postgres")
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

// newCertificate makes a certificate for 127.0.0.1, and a file that holds it.
func newCertificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "dsqlproxy test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

func TestClientTLS(t *testing.T) {
	certificate, ca := newCertificate(t)
	address := serve(t, &dsqlproxy.Proxy{Password: "secret", TLS: &tls.Config{Certificates: []tls.Certificate{certificate}}})
	for _, negotiation := range []string{"postgres", "direct"} {
		conn := connect(t, address, "password=secret sslmode=verify-full sslrootcert="+ca+" sslnegotiation="+negotiation)
		_, err := conn.Exec(t.Context(), "select pg_sleep(0)")
		require.NoError(t, err)
	}
	connect(t, address, "password=secret") // in plaintext, on loopback

	t.Run("a browser's ALPN", func(t *testing.T) {
		_, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
		require.Error(t, err)
	})
	t.Run("direct without ALPN", func(t *testing.T) {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.Write(startupBytes(3<<16, "user\x00admin\x00"))
		require.NoError(t, err)
		answer, _ := io.ReadAll(conn)
		require.Empty(t, answer)
	})
	t.Run("bytes before TLS", func(t *testing.T) {
		conn := raw(t, address, append(append([]byte{}, sslRequest...), startupBytes(3<<16, "user\x00admin\x00")...))
		var answer [1]byte
		_, err := io.ReadFull(conn, answer[:])
		require.NoError(t, err)
		require.Equal(t, "S", string(answer[:]))
		require.Error(t, tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake(), "what was sent before TLS was not noticed")
	})
}

// On an address that other machines reach, nothing but TLS gets anywhere.
func TestPlaintextFromElsewhere(t *testing.T) {
	addresses, err := net.InterfaceAddrs()
	require.NoError(t, err)
	var outside net.IP
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && ip.IP.To4() != nil {
			outside = ip.IP
		}
	}
	if outside == nil {
		t.Skip("this machine has no address but loopback")
	}
	certificate, _ := newCertificate(t)
	l, err := net.Listen("tcp", net.JoinHostPort(outside.String(), "0"))
	require.NoError(t, err)
	serveOn(t, &dsqlproxy.Proxy{Password: "secret", TLS: &tls.Config{Certificates: []tls.Certificate{certificate}}}, l)
	said := refused(t, clientURL(l.Addr().String(), "password=secret"))
	require.Equal(t, "28000", said.Code)
	require.Contains(t, said.Message, "TLS only")
	connect(t, l.Addr().String(), "password=secret sslmode=require")
}

func TestServeErrors(t *testing.T) {
	for name, p := range map[string]*dsqlproxy.Proxy{
		"Host":           {Config: dsql.Config{Host: "not a host"}},
		"Password":       {Config: throughVPC(cluster), Password: "pässword"},
		"MaxConnections": {Config: throughVPC(cluster), MaxConnections: -1},
		"Spares":         {Config: throughVPC(cluster), Spares: -1},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		err = p.Serve(t.Context(), l)
		require.ErrorIs(t, err, dsql.ErrConfig)
		require.ErrorContains(t, err, name)
		_, err = l.Accept()
		require.ErrorIs(t, err, net.ErrClosed, "Serve leaves the listener open")
	}

	p := &dsqlproxy.Proxy{}
	connect(t, serve(t, p), "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorIs(t, p.Serve(t.Context(), l), dsqlproxy.ErrServing)
}

// What the cluster says of a login reaches the client, and what the library says has a way out.
func TestLoginErrors(t *testing.T) {
	own := dsqltest.New(t)
	address := serve(t, &dsqlproxy.Proxy{Config: throughVPC(own)})

	own.RefuseNext(1, dsqltest.RefuseAccess)
	said := refused(t, clientURL(address, ""))
	require.Equal(t, "unable to accept connection, access denied", said.Message)
	require.Equal(t, dsqltest.RefuseAccess.Code, said.Code)
	require.Contains(t, said.Hint, "IAM policy")

	p := &dsqlproxy.Proxy{Config: throughVPC(own)}
	p.Config.DialAddress, p.Config.ConnectTimeout = "127.0.0.1:1", 50*time.Millisecond
	said = refused(t, clientURL(serve(t, p), ""))
	require.Equal(t, "08001", said.Code)
	require.Contains(t, said.Message, "dsql: ")
	require.Contains(t, said.Message, "127.0.0.1:1")
	require.Contains(t, said.Hint, "doctor")
	require.NotContains(t, said.Message, said.Hint)
	require.True(t, p.Stats().Failing)
	require.EqualValues(t, 1, p.Stats().Failed)
}

// A setting that DSQL refuses: the message is the cluster's, and the HINT says where the client has
// it.
func TestRefusedSettings(t *testing.T) {
	address := serve(t, &dsqlproxy.Proxy{})
	said := refused(t, clientURL(address, "statement_timeout=5000"))
	require.Equal(t, "0A000", said.Code)
	require.Contains(t, said.Message, `"statement_timeout"`)
	require.Contains(t, said.Hint, "parameter of its startup message")
	require.Contains(t, said.Hint, "node-postgres")
	require.NotContains(t, said.Hint, "--compat")

	said = refused(t, clientURL(address, "options='-c client_min_messages=warning'"))
	require.Contains(t, said.Message, `"client_min_messages"`)
	require.Contains(t, said.Hint, "PGOPTIONS")
	require.Contains(t, said.Hint, "--compat")
}

func TestCompat(t *testing.T) {
	address := serve(t, &dsqlproxy.Proxy{Compat: true})
	config, err := pgx.ParseConfig(clientURL(address, "options='-c client_min_messages=warning' search_path=public"))
	require.NoError(t, err)
	var notices []string
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	require.Len(t, notices, 1)
	require.Contains(t, notices[0], "client_min_messages")

	// Simple, as asyncpg resets a session, and extended; outside of a transaction and in one.
	results, err := conn.PgConn().Exec(t.Context(), "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;").ReadAll()
	require.NoError(t, err)
	require.Len(t, results, 4)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	tag, err := tx.Exec(t.Context(), "SET client_min_messages = warning", pgx.QueryExecModeExec)
	require.NoError(t, err)
	require.Equal(t, "SET", tag.String())
	var pid uint32
	require.NoError(t, tx.QueryRow(t.Context(), "SELECT pg_backend_pid() AS pid").Scan(&pid))
	require.Equal(t, conn.PgConn().PID(), pid)
	require.NoError(t, tx.Commit(t.Context()))
	require.Len(t, notices, 6)

	require.Equal(t, "0A000", refused(t, clientURL(address, "statement_timeout=5000")).Code)
}
