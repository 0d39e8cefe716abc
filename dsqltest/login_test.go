package dsqltest

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

func TestLogin(t *testing.T) {
	s := New(t)

	t.Run("direct TLS", func(t *testing.T) {
		config := connConfig(t, s, adminRole)
		config.RuntimeParams["application_name"] = "checker"
		conn := connect(t, config)
		for name, want := range map[string]string{
			"server_version": "16.15", "server_encoding": "UTF8", "client_encoding": "UTF8", "DateStyle": "ISO, MDY", "TimeZone": "UTC",
			"IntervalStyle": "postgres", "integer_datetimes": "on", "standard_conforming_strings": "on", "application_name": "checker",
			"default_transaction_read_only": "off", "in_hot_standby": "off", "is_superuser": "off", "session_authorization": "admin",
		} {
			require.Equal(t, want, conn.PgConn().ParameterStatus(name), name)
		}
		require.Equal(t, "checker", queryString(t, conn, "show application_name"))
		require.Equal(t, Attempt{
			Address: s.Addr(), ServerName: s.Endpoint(), TLSVersion: tls.VersionTLS13, ALPN: "postgresql",
			User: "admin", ClusterID: s.ClusterID(),
			TokenHost: s.Endpoint(), TokenRegion: "us-east-1", TokenAction: "DbConnectAdmin", TokenID: tokenID(config.Password),
			Outcome: "ok",
		}, lastAttempt(t, s))
	})

	t.Run("SSLRequest", func(t *testing.T) {
		config := connConfig(t, s, "app")
		config.SSLNegotiation = "postgres"
		config.TLSConfig.NextProtos = nil
		config.TLSConfig.MaxVersion = tls.VersionTLS12
		require.Equal(t, "app", queryString(t, connect(t, config), "select current_user"))
		last := lastAttempt(t, s)
		require.True(t, last.SSLRequest)
		require.Equal(t, uint16(tls.VersionTLS12), last.TLSVersion)
		require.Empty(t, last.ALPN)
		require.Equal(t, "DbConnect", last.TokenAction)
	})

	t.Run("TLS resumption", func(t *testing.T) {
		config := connConfig(t, s, adminRole)
		config.TLSConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		connect(t, config).Close(t.Context())
		conn := connect(t, config).PgConn().Conn().(*tls.Conn)
		require.True(t, conn.ConnectionState().DidResume)
	})

	t.Run("private name", func(t *testing.T) {
		config := connConfig(t, s, adminRole)
		config.TLSConfig.ServerName = s.PrivateEndpoint()
		config.Password = sign(t, s, signing{host: s.PrivateEndpoint()})
		connect(t, config)
		require.Equal(t, s.PrivateEndpoint(), lastAttempt(t, s).ServerName)
	})

	t.Run("by cluster ID", func(t *testing.T) {
		for _, serverName := range []string{s.VPCEndpoint(), ""} {
			config := connConfig(t, s, adminRole)
			config.TLSConfig.ServerName, config.TLSConfig.InsecureSkipVerify = serverName, true
			config.RuntimeParams["options"] = "-c amzn-cluster-id=" + s.ClusterID()
			connect(t, config)
			last := lastAttempt(t, s)
			require.Equal(t, serverName, last.ServerName)
			require.Equal(t, s.ClusterID(), last.ClusterID)
		}
	})

	t.Run("settings", func(t *testing.T) {
		config := connConfig(t, s, adminRole)
		settings := map[string]string{
			"search_path": "pg_catalog", "DateStyle": "German, DMY", "TimeZone": "Europe/Berlin", "IntervalStyle": "iso_8601", "extra_float_digits": "1",
		}
		for name, value := range settings {
			config.RuntimeParams[name] = value
		}
		conn := connect(t, config)
		for name, value := range settings {
			require.Equal(t, value, queryString(t, conn, "show "+name))
		}
		require.Equal(t, "Europe/Berlin", conn.PgConn().ParameterStatus("TimeZone"))
	})

	t.Run("newest protocol", func(t *testing.T) {
		config := connConfig(t, s, adminRole)
		config.MaxProtocolVersion = "latest"
		connect(t, config)
	})

	t.Run("early password", func(t *testing.T) {
		conn, frontend := dialTLS(t, s, s.Endpoint())
		frontend.Send(&pgproto3.StartupMessage{ProtocolVersion: protocolVersion3, Parameters: map[string]string{"user": "admin", "database": "postgres"}})
		frontend.Send(&pgproto3.PasswordMessage{Password: sign(t, s, signing{})})
		frontend.Send(&pgproto3.Query{String: "select 'all in one write'"})
		require.NoError(t, frontend.Flush())
		require.IsType(t, &pgproto3.AuthenticationCleartextPassword{}, receive(t, frontend))
		require.IsType(t, &pgproto3.AuthenticationOk{}, receive(t, frontend))
		for {
			if row, ok := receive(t, frontend).(*pgproto3.DataRow); ok {
				require.Equal(t, "all in one write", string(row.Values[0]))
				break
			}
		}
		require.NoError(t, conn.Close())
	})

	t.Run("in small pieces", func(t *testing.T) {
		conn, frontend := dialTLS(t, s, s.Endpoint())
		message, err := (&pgproto3.StartupMessage{ProtocolVersion: protocolVersion3, Parameters: map[string]string{"user": "admin", "database": "postgres"}}).Encode(nil)
		require.NoError(t, err)
		message, err = (&pgproto3.PasswordMessage{Password: sign(t, s, signing{})}).Encode(message)
		require.NoError(t, err)
		for _, b := range message {
			_, err := conn.Write([]byte{b})
			require.NoError(t, err)
		}
		require.IsType(t, &pgproto3.AuthenticationCleartextPassword{}, receive(t, frontend))
		require.IsType(t, &pgproto3.AuthenticationOk{}, receive(t, frontend))
	})

	t.Run("psql", func(t *testing.T) {
		psql, err := exec.LookPath("psql")
		if err != nil {
			t.Skip("psql is not installed")
		}
		ca := filepath.Join(t.TempDir(), "ca.pem")
		require.NoError(t, os.WriteFile(ca, s.CAPEM(), 0o600))
		host, port, err := net.SplitHostPort(s.Addr())
		require.NoError(t, err)
		run := func(name string, more ...string) (string, error) {
			command := exec.CommandContext(t.Context(), psql, "--no-psqlrc", "-At", "-c", "select 'hello', current_user", strings.Join([]string{
				"host=" + name, "hostaddr=" + host, "port=" + port, "user=admin", "dbname=postgres", "sslmode=verify-full", "sslrootcert=" + ca,
			}, " "))
			command.Env = append([]string{"PATH=" + os.Getenv("PATH"), "PGPASSWORD=" + sign(t, s, signing{})}, more...)
			out, err := command.CombinedOutput()
			return string(out), err
		}
		out, err := run(s.Endpoint())
		require.NoError(t, err, out)
		require.Equal(t, "hello|admin\n", out)
		last := lastAttempt(t, s)
		require.True(t, last.SSLRequest)
		require.Equal(t, s.Endpoint(), last.ServerName)

		out, err = run(s.Endpoint(), "PGOPTIONS=-c amzn-cluster-id="+s.ClusterID())
		require.NoError(t, err, out)

		out, err = run(s.VPCEndpoint())
		require.Error(t, err)
		require.Contains(t, out, "does not match host name")
		// libpq looks at the name when the handshake is over.
		last = lastAttempt(t, s)
		require.Equal(t, "reading the startup message: EOF", last.Outcome)
		require.Equal(t, s.VPCEndpoint(), last.ServerName)
	})
}

func receive(tb testing.TB, frontend *pgproto3.Frontend) pgproto3.BackendMessage {
	tb.Helper()
	message, err := frontend.Receive()
	require.NoError(tb, err)
	return message
}

func TestRefusals(t *testing.T) {
	s := New(t)
	for name, tt := range map[string]struct {
		change  func(t *testing.T, c *pgx.ConnConfig)
		code    string
		message string
		hint    string
		reason  string
	}{
		"no SNI": {
			change: func(_ *testing.T, c *pgx.ConnConfig) { c.TLSConfig.ServerName = "" },
			code:   "08004", message: "unable to accept connection, sni was not received",
		},
		"VPC endpoint as SNI": {
			change: func(_ *testing.T, c *pgx.ConnConfig) { c.TLSConfig.ServerName = s.VPCEndpoint() },
			code:   "08004", message: "unable to accept connection, invalid sni",
		},
		"another cluster": {
			change: func(_ *testing.T, c *pgx.ConnConfig) {
				c.TLSConfig.ServerName = "abcdefghijklmnopqrstuvwxyz" + strings.TrimPrefix(s.Endpoint(), s.ClusterID())
			},
			code: "08004", message: "unable to accept connection, invalid sni",
		},
		"another suffix": {
			change: func(_ *testing.T, c *pgx.ConnConfig) {
				c.TLSConfig.ServerName = s.ClusterID() + ".dsql-zzzz.us-east-1.on.aws"
			},
			code: "08004", message: "unable to accept connection, invalid sni",
		},
		"another cluster's ID": {
			change: func(_ *testing.T, c *pgx.ConnConfig) {
				c.TLSConfig.ServerName = ""
				c.RuntimeParams["options"] = "-c amzn-cluster-id=abcdefghijklmnopqrstuvwxyz"
			},
			code: "08004", message: "unable to accept connection, invalid sni",
		},
		"another database": {
			change: func(_ *testing.T, c *pgx.ConnConfig) { c.Database = "shop" },
			code:   "3D000", message: `database "shop" does not exist`,
		},
		"no database": {
			change: func(_ *testing.T, c *pgx.ConnConfig) { c.Database = "" },
			code:   "3D000", message: `database "admin" does not exist`,
		},
		"a setting": {
			change: func(_ *testing.T, c *pgx.ConnConfig) { c.RuntimeParams["client_min_messages"] = "warning" },
			code:   "0A000", message: `setting configuration parameter "client_min_messages" not supported`,
		},
		"a setting in options": {
			change: func(_ *testing.T, c *pgx.ConnConfig) { c.RuntimeParams["options"] = "-c statement_timeout=1" },
			code:   "0A000", message: `setting configuration parameter "statement_timeout" not supported`,
		},
		"replication": {
			change: func(_ *testing.T, c *pgx.ConnConfig) { c.RuntimeParams["replication"] = "database" },
			code:   "0A000", message: `setting configuration parameter "replication" not supported`,
		},
		"wrong secret": {
			change: func(t *testing.T, c *pgx.ConnConfig) { c.Password = flipLast(c.Password) },
			code:   "08006", message: "unable to accept connection, access denied", reason: "the signature does not match",
		},
		"wrong action": {
			change: func(t *testing.T, c *pgx.ConnConfig) { c.User = "app" },
			code:   "08006", message: "unable to accept connection, access denied",
			hint: "Wrong user to action mapping. user: app, action: DbConnectAdmin", reason: "the user needs DbConnect",
		},
		"SNI and token differ": {
			change: func(t *testing.T, c *pgx.ConnConfig) { c.TLSConfig.ServerName = s.PrivateEndpoint() },
			code:   "08006", message: "unable to accept connection, access denied", reason: "the token is for another host than the server name sent",
		},
		"no token": {
			change: func(t *testing.T, c *pgx.ConnConfig) { c.Password = "hunter2" },
			code:   "08006", message: "unable to accept connection, access denied", reason: "the password is not a token: <host>/?<query> is expected",
		},
		"endless token": {
			change: func(t *testing.T, c *pgx.ConnConfig) { c.Password = strings.Repeat("x", maxPassword) },
			code:   "08P01", message: "invalid length of password packet",
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, negotiation := range []string{"direct", "postgres"} {
				config := connConfig(t, s, adminRole)
				config.SSLNegotiation = negotiation
				config.TLSConfig.InsecureSkipVerify = true
				tt.change(t, config)
				_, err := pgx.ConnectConfig(t.Context(), config)
				var pgErr *pgconn.PgError
				require.ErrorAs(t, err, &pgErr)
				require.Equal(t, []string{"FATAL", tt.code, tt.message, tt.hint}, []string{pgErr.Severity, pgErr.Code, pgErr.Message, pgErr.Hint})
				require.Regexp(t, "^Session Id: [a-z2-7]{26}$", pgErr.Detail)
				last := lastAttempt(t, s)
				require.Equal(t, tt.message, last.Outcome)
				require.Equal(t, tt.reason, last.Reason)
				require.Equal(t, negotiation == "postgres", last.SSLRequest)
			}
		})
	}
}

// The certificate covers the cluster's names and no VPC endpoint.
func TestCertificate(t *testing.T) {
	s := New(t, WithRegion("eu-west-1"), WithPrivateLinkSuffix("ab1c"))
	for name, covered := range map[string]bool{s.Endpoint(): true, s.PrivateEndpoint(): true, s.VPCEndpoint(): false, "localhost": false} {
		conn, err := tls.Dial("tcp", s.Addr(), clientTLS(s, name))
		if !covered {
			require.ErrorAs(t, err, new(*tls.CertificateVerificationError), name)
			require.Equal(t, name, lastAttempt(t, s).ServerName)
			continue
		}
		require.NoError(t, err, name)
		conn.Close()
	}
}

// What is not TLS, or not as PostgreSQL wants it, ends before the login.
func TestFirstBytes(t *testing.T) {
	s := New(t)
	dial := func(t *testing.T) net.Conn {
		conn, err := net.Dial("tcp", s.Addr())
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		return conn
	}
	packet := func(code uint32, body string) []byte {
		return append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(8+len(body))), code), body...)
	}
	startup := packet(protocolVersion3, "user\x00admin\x00database\x00postgres\x00\x00")

	t.Run("plaintext", func(t *testing.T) {
		conn := dial(t)
		_, err := conn.Write(startup)
		require.NoError(t, err)
		refused, ok := receive(t, pgproto3.NewFrontend(conn, conn)).(*pgproto3.ErrorResponse)
		require.True(t, ok)
		require.Equal(t, "28000", refused.Code)
		require.Equal(t, "unable to accept connection, TLS is required", refused.Message)
	})

	t.Run("GSSENCRequest, then SSLRequest", func(t *testing.T) {
		conn := dial(t)
		for _, step := range []struct {
			code   uint32
			answer string
		}{{gssEncCode, "N"}, {sslRequestCode, "S"}} {
			_, err := conn.Write(packet(step.code, ""))
			require.NoError(t, err)
			answer := make([]byte, 1)
			_, err = io.ReadFull(conn, answer)
			require.NoError(t, err)
			require.Equal(t, step.answer, string(answer))
		}
		require.NoError(t, tls.Client(conn, clientTLS(s, s.Endpoint())).Handshake())
	})

	for name, input := range map[string]string{
		"HTTP":             "GET / HTTP/1.1\r\n\r\n",
		"zero length":      "\x00\x00\x00\x00\x00\x00\x00\x00",
		"huge length":      "\x7f\xff\xff\xff\x00\x03\x00\x00",
		"a broken TLS":     "\x16\x03\x01\xff\xff garbage garbage",
		"SSL, then no TLS": string(packet(sslRequestCode, "")) + string(startup),
		"plaintext cancel": string(packet(cancelCode, "12345678")),
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t)
			_, err := conn.Write([]byte(input))
			require.NoError(t, err)
			answer, _ := io.ReadAll(conn) // to its end: the server hangs up
			require.NotContains(t, string(answer), "FATAL")
			require.NotEqual(t, "ok", lastAttempt(t, s).Outcome)
		})
	}

	for name, protocols := range map[string][]string{"no ALPN": nil, "another ALPN": {"h2"}} {
		t.Run(name, func(t *testing.T) {
			config := clientTLS(s, s.Endpoint())
			config.NextProtos = protocols
			_, err := tls.Dial("tcp", s.Addr(), config)
			var alert *net.OpError
			require.ErrorAs(t, err, &alert)
			require.Equal(t, "remote error", alert.Op)
		})
	}

	t.Run("TLS 1.1", func(t *testing.T) {
		config := clientTLS(s, s.Endpoint())
		config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		_, err := tls.Dial("tcp", s.Addr(), config)
		require.Error(t, err)
	})

	for name, tt := range map[string]struct {
		messages string
		code     string
	}{
		"protocol 2":              {string(packet(2<<16, "user\x00admin\x00\x00")), "0A000"},
		"SSLRequest in TLS":       {string(packet(sslRequestCode, "")), "0A000"},
		"no user":                 {string(packet(protocolVersion3, "database\x00postgres\x00\x00")), "28000"},
		"cut startup":             {string(packet(protocolVersion3, "user\x00admin")), "08P01"},
		"no password but a query": {string(startup) + "Q\x00\x00\x00\x05\x00", "08P01"},
		"short password":          {string(startup) + "p\x00\x00\x00\x04", "08P01"},
		"endless password":        {string(startup) + "p\x7f\xff\xff\xff", "08P01"},
		"unterminated password":   {string(startup) + "p\x00\x00\x00\x05x", "08P01"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, frontend := dialTLS(t, s, s.Endpoint())
			_, err := conn.Write([]byte(tt.messages))
			require.NoError(t, err)
			for {
				message, err := frontend.Receive()
				require.NoError(t, err)
				if refused, ok := message.(*pgproto3.ErrorResponse); ok {
					require.Equal(t, tt.code, refused.Code, refused.Message)
					break
				}
			}
			_, err = frontend.Receive()
			require.True(t, errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF), err)
		})
	}
}

func TestParseStartup(t *testing.T) {
	parse := func(pairs ...string) *startup {
		st, err := parseStartup(protocolVersion3, []byte(strings.Join(append(pairs, "", ""), "\x00")))
		require.NoError(t, err)
		return st
	}
	for options, want := range map[string]struct{ clusterID, refused string }{
		"":                                 {"", ""},
		"-c amzn-cluster-id=x":             {"x", ""},
		"  -camzn-cluster-id=x ":           {"x", ""},
		"--amzn-cluster-id=x":              {"x", ""},
		"-c amzn-cluster-id=x -c geqo=off": {"x", "geqo"},
		"-c a=1 -c b=2":                    {"", "a"},
		"-d 3":                             {"", "-d"},
		"-c":                               {"", "-c"},
		"--":                               {"", "--"},
		"x":                                {"", "x"},
	} {
		st := parse("user", "u", "options", options)
		require.Equal(t, want.clusterID, st.clusterID, options)
		require.Equal(t, want.refused, st.refused, options)
	}
	st := parse("user", "u", "database", "postgres", "options", `-c search_path=a,\ "b" -c TimeZone=UTC --enable-hashjoin=off -cdisable_sync_create_index=on`)
	require.NoError(t, st.check())
	require.Equal(t, map[string]string{"search_path": `a, "b"`, "timezone": "UTC", "enable_hashjoin": "off", "dsql.disable_sync_create_index": "on"}, st.settings)

	st = parse("user", "u", "database", "postgres", "TimeZone", "UTC", "_pq_.x", "1")
	require.Equal(t, map[string]string{"timezone": "UTC"}, st.settings)
	require.True(t, st.negotiate)
	require.Equal(t, []string{"_pq_.x"}, st.options)
	require.NoError(t, st.check())
}

// Whatever comes, the reader of startup packets neither panics nor reads past the packet.
func FuzzStartup(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x27\x00\x03\x00\x00user\x00admin\x00database\x00postgres\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x30\x00\x03\x00\x02user\x00a\x00options\x00-c amzn-cluster-id=x -c\x00_pq_.a\x001\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x08\x04\xd2\x16\x2f"))
	f.Add([]byte("\x7f\xff\xff\xff\x00\x03\x00\x00"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, input []byte) {
		r := bytes.NewReader(input)
		code, body, err := readPacket(r)
		require.LessOrEqual(t, len(body), maxStartup)
		if err != nil {
			return
		}
		require.Equal(t, int(binary.BigEndian.Uint32(input)), len(input)-r.Len())
		st, err := parseStartup(code, body)
		if err != nil {
			require.ErrorAs(t, err, new(*refusal))
			return
		}
		require.NotEmpty(t, st.user)
		require.NotContains(t, st.user, "\x00")
		for name := range st.settings {
			require.True(t, rules.IsSetting(strings.TrimPrefix(name, "dsql.")) || rules.IsSetting(name), name)
		}
	})
}
