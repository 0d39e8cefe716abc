package dsqltest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest/internal/jobs"
	"github.com/dsqlgo/dsql/dsqltest/internal/postgres"
	"github.com/dsqlgo/dsql/dsqltest/internal/relay"
	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
)

const (
	adminRole = rules.AdminRole

	// startTimeout bounds New. A start takes about a second; a loaded machine
	// that still makes an initdb in this time should pass.
	startTimeout = time.Minute

	// acceptPause is how long to wait after a failed accept, which is out of
	// file descriptors as a rule, before trying again.
	acceptPause = 10 * time.Millisecond

	// keptAttempts bounds what Attempts holds in a server that runs for long.
	keptAttempts = 100_000
)

// Server is the endpoint of one cluster. Its methods are safe for concurrent use, also after Close.
type Server struct {
	options
	listener          net.Listener
	webSockets        net.Listener // nil: none
	postgres          *postgres.Server
	authority         *authority
	tls, webSocketTLS *tls.Config
	credentials       aws.Credentials

	ctx     context.Context // what the server does by itself, until Close
	cancel  context.CancelFunc
	serving sync.WaitGroup
	close   func() error

	waitForBuild func(context.Context) // how long a job of a client takes

	mu       sync.Mutex // guards what follows
	closed   bool
	conns    map[net.Conn]struct{} // clients' and backends'
	sessions map[uint32]*session   // by process ID
	keys     map[string]key        // by access key ID
	attempts []*Attempt

	conditions conditions // as they are now
	open       int        // connections that admit let in
	refusals   []Refusal  // due to the next logins

	namespaces   map[string]*namespace // by the schemas that Schema made, and "" for all else
	unavailable  int                   // statements that are to fail with XX000
	transactions TransactionCounts
	commitFaults func() CommitFault
	scripted     []CommitFault // due to the next commits, before commitFaults
}

// Attempt is what one connection sent and met while connecting. Fields of steps that it did not
// reach are zero.
type Attempt struct {
	Address    string // what the client dialled, "host:port"
	ServerName string // SNI, "" when none was sent
	SSLRequest bool   // TLS was asked for with an SSLRequest, else begun directly
	TLSVersion uint16 // as tls.VersionTLS13
	ALPN       string // agreed protocol
	WebSocket  bool   // what follows was in the frames of a WebSocket

	User      string
	ClusterID string // where the connection was routed, by SNI or amzn-cluster-id

	// Of the token, which need not have been valid.
	TokenHost   string
	TokenRegion string
	TokenAction string
	TokenID     string // a hash: equal for equal tokens; SigV4 makes equal ones within one second

	// Cancel is set when the client came to cancel a query, not to log in.
	Cancel bool

	// Fault is the fault of WithFaults or SetFaults that happened to the connection. It is the zero
	// Fault if none happened, also if one was chosen.
	Fault Fault

	// Outcome is "" during the login. Then it is "ok", the message of the refusal, the error that
	// ended the connection, or the text of the Fault that did.
	Outcome string

	// Reason is why access was denied. The client does not get it.
	Reason string
}

// New starts a server, and closes it when tb ends. If that fails, it fails tb. If PostgreSQL is
// missing, the message says what to install. New also starts a PostgreSQL in the background, for
// the next New or Start of this process.
func New(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	s, err := Start(ctx, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	postgres.PrepareSpare(catalogSQL)
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// Start starts a server that runs until Close. ctx bounds only the start. Errors name the wrong
// option, or say how to install PostgreSQL.
func Start(ctx context.Context, opts ...Option) (*Server, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	s := &Server{
		options: o,
		// Unlike any real key, so that nobody mistakes a log of one for a leak.
		credentials: aws.Credentials{
			AccessKeyID:     "DSQLTEST" + rand.Text()[:12],
			SecretAccessKey: rand.Text() + rand.Text()[:14],
			Source:          "dsqltest",
		},
		conns:        make(map[net.Conn]struct{}),
		sessions:     make(map[uint32]*session),
		keys:         make(map[string]key),
		namespaces:   map[string]*namespace{"": newNamespace()},
		waitForBuild: jobs.WaitForBuild,

		conditions: o.conditions,
	}
	s.AllowKey(s.credentials.AccessKeyID, s.credentials.SecretAccessKey, "")
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.close = sync.OnceValue(s.shutdown)
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// catalogSQL makes what every cluster has.
var catalogSQL = rules.CatalogSQL + relay.CatalogSQL

func (s *Server) start(ctx context.Context) error {
	var err error
	if s.authority, err = openAuthority(s.authorityFile, time.Now()); err != nil {
		return fmt.Errorf("dsqltest: certificate authority: %w", err)
	}
	certificate, err := s.authority.issue("*.dsql."+s.region+".on.aws", "*.dsql-"+s.suffix+"."+s.region+".on.aws")
	if err != nil {
		return fmt.Errorf("dsqltest: making a certificate: %w", err)
	}
	s.tls = &tls.Config{
		Certificates: []tls.Certificate{certificate},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{alpnProtocol, alpnHTTP},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			return nil, hello.Conn.(*rawConn).client.inspectHello(hello)
		},
	}
	s.webSocketTLS = s.tls.Clone()
	s.webSocketTLS.NextProtos = []string{alpnHTTP}
	config := postgres.Config{DataDir: s.dataDir, Catalog: catalogSQL, Setup: rules.RolesSQL(s.roles)}
	if s.postgres, err = postgres.Start(ctx, config); err != nil {
		return fmt.Errorf("dsqltest: %w", err)
	}
	if err := s.runScripts(ctx, "public"); err != nil {
		return err
	}
	if s.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", s.address); err != nil {
		return fmt.Errorf("dsqltest: WithAddress: %w: use port 0 for a free one", err)
	}
	if err := s.listenForWebSockets(ctx); err != nil {
		return err
	}
	s.serving.Go(func() { s.accept(s.listener) })
	return nil
}

// Config returns the configuration that connects to this server as admin.
func (s *Server) Config() dsql.Config {
	c := dsql.Config{
		Host:        s.Endpoint(),
		DialAddress: s.Addr(),
		RootCAs:     s.RootCAs(),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return s.credentials, nil
		}),
	}
	if s.webSockets != nil {
		c.DialAddress, c.DialFunc = "", s.dialPorts
	}
	return c
}

// Format prints the names and the address, so that %+v shows no keys.
func (s *Server) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "dsqltest.Server(%s at %s)", s.Endpoint(), s.Addr())
}

// Close ends all sessions, stops PostgreSQL and removes temporary files. It may be called more than
// once.
func (s *Server) Close() error { return s.close() }

func (s *Server) shutdown() error {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	for conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	for _, l := range []net.Listener{s.listener, s.webSockets} {
		if l != nil {
			l.Close()
		}
	}
	s.serving.Wait()
	if s.postgres != nil {
		if err := s.postgres.Close(); err != nil {
			return fmt.Errorf("dsqltest: %w", err)
		}
	}
	return nil
}

// Addr is the "host:port" that the server listens on.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Endpoint is the cluster's public name, <id>.dsql.<region>.on.aws. It is the
// name to send as SNI and to sign tokens for; it does not resolve to Addr.
func (s *Server) Endpoint() string { return s.endpoint() }

// PrivateEndpoint is the cluster's PrivateLink name,
// <id>.dsql-<suffix>.<region>.on.aws. It works wherever Endpoint does.
func (s *Server) PrivateEndpoint() string { return s.privateEndpoint() }

// VPCEndpoint is a VPC endpoint's name,
// vpce-….dsql-<suffix>.<region>.vpce.amazonaws.com. At the service it is a
// name to dial only: no certificate covers it, and as SNI it is refused.
func (s *Server) VPCEndpoint() string { return s.vpcEndpoint }

// ClusterID is the cluster's ID, the first label of its names.
func (s *Server) ClusterID() string { return s.clusterID }

// Region is the AWS region that tokens must be signed for.
func (s *Server) Region() string { return s.region }

// RootCAs holds the authority that signed the server's certificate.
func (s *Server) RootCAs() *x509.CertPool { return s.authority.pool() }

// CAPEM is that authority's certificate in PEM, for an sslrootcert file.
func (s *Server) CAPEM() []byte { return s.authority.pem() }

// Credentials are the server's own key pair, which signs valid tokens.
func (s *Server) Credentials() aws.Credentials { return s.credentials }

// AllowKey accepts tokens that are signed with one more key pair, for every role. If sessionToken
// is not empty, tokens must carry it; else they must carry none. It replaces an earlier AllowKey
// with the same access key ID.
func (s *Server) AllowKey(accessKeyID, secretKey, sessionToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[accessKeyID] = key{secret: secretKey, sessionToken: sessionToken}
}

// Attempts returns a copy of what all connections did so far, in the order of accepting. If there
// are very many, it returns at least the last 50,000.
func (s *Server) Attempts() []Attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	attempts := make([]Attempt, len(s.attempts))
	for i, a := range s.attempts {
		attempts[i] = *a
	}
	return attempts
}

func (s *Server) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-time.After(acceptPause):
				continue
			case <-s.ctx.Done():
				return
			}
		}
		network := s.distant(conn.(*net.TCPConn))
		if !s.track(network) {
			return
		}
		webSocketOnly := l == s.webSockets
		c := newClient(s, network, webSocketOnly, s.nextFault(webSocketOnly))
		s.serving.Go(func() {
			defer s.drop(network)
			c.serve()
		})
	}
}

// track has Close end conn. It is false, and conn closed, when Close has begun.
func (s *Server) track(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return false
	}
	s.conns[conn] = struct{}{}
	return true
}

// drop closes a tracked conn.
func (s *Server) drop(conn net.Conn) {
	conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

func (s *Server) newAttempt(address string) *Attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.attempts) == keptAttempts {
		s.attempts = append([]*Attempt(nil), s.attempts[keptAttempts/2:]...)
	}
	a := &Attempt{Address: address}
	s.attempts = append(s.attempts, a)
	return a
}

// isEndpoint reports whether name is one of the cluster's two names.
func (s *Server) isEndpoint(name string) bool {
	return strings.EqualFold(name, s.endpoint()) || strings.EqualFold(name, s.privateEndpoint())
}
