package dsqltest

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Option changes a default of the server. New and Start report wrong values.
type Option func(*options)

// defaultTransactionAge is the documented limit.
const defaultTransactionAge = 5 * time.Minute

type options struct {
	clusterID        string
	region           string
	suffix           string
	vpcEndpoint      string
	roles            []string
	address          string
	webSocketAddress string // "": none
	dataDir          string
	authorityFile    string
	withSchema       bool // scripts and pattern were given
	scripts          fs.FS
	pattern          string
	ignoreCancel     bool
	now              func() time.Time
	conditions       conditions // at the start
}

// conditions are what tests change while a server runs.
type conditions struct {
	rate            bucket
	maxConnections  int
	waking          int // startups still to refuse
	lifetime        time.Duration
	roundTrip       time.Duration
	faults          func() Fault
	webSocketFaults func() Fault

	transactionAge time.Duration
}

// WithClusterID sets the cluster's ID: 26 characters of a-z and 0-9. The
// default is random.
func WithClusterID(id string) Option {
	return func(o *options) { o.clusterID = id }
}

// WithRegion sets the AWS region; the default is "us-east-1".
func WithRegion(region string) Option {
	return func(o *options) { o.region = region }
}

// WithPrivateLinkSuffix sets what follows "dsql-" in the PrivateLink and VPC
// endpoint names; the default is "fnh4".
func WithPrivateLinkSuffix(suffix string) Option {
	return func(o *options) { o.suffix = suffix }
}

// WithVPCEndpoint sets the VPC endpoint's name. It must belong to the server's
// region and PrivateLink suffix. The default is random.
func WithVPCEndpoint(name string) Option {
	return func(o *options) { o.vpcEndpoint = name }
}

// WithRoles sets the roles that may log in, besides admin. The default is one role, "app". Without
// names, only admin may log in.
func WithRoles(names ...string) Option {
	return func(o *options) { o.roles = slices.Clone(names) }
}

// WithClock sets the clock for the expiry of tokens and the age of transactions. The default is
// time.Now. It is called by several goroutines at once. Certificates use the machine's clock,
// because clients check them against it.
func WithClock(now func() time.Time) Option {
	return func(o *options) { o.now = now }
}

// WithCancel says whether a cancel request ends the query that it is for, as in PostgreSQL. The
// default is true. One report says that a cluster ignored cancel requests; WithCancel(false) does
// the same.
//
// Cancel requests are accepted with and without TLS: psql before version 17, psycopg2 and JDBC send
// them in plain text.
func WithCancel(heeded bool) Option {
	return func(o *options) { o.ignoreCancel = !heeded }
}

// WithAddress sets the "host:port" to listen on, which must be loopback. Port 0, the
// default, takes a free one.
func WithAddress(address string) Option {
	return func(o *options) { o.address = address }
}

// WithDataDir keeps PostgreSQL's data in dir. dir is created if it is missing, and stays after
// Close. The default is a temporary directory.
func WithDataDir(dir string) Option {
	return func(o *options) { o.dataDir = dir }
}

// WithAuthorityFile keeps the certificate authority in a file, so that clients can go on trusting
// CAPEM. The file holds the certificate and the private key in PEM. It is created if it is missing,
// and replaced if less than a month of its year is left. The default is a new authority for each
// server.
func WithAuthorityFile(file string) Option {
	return func(o *options) { o.authorityFile = file }
}

// WithTransactionAge sets the maximum age of a transaction, by the clock of WithClock. The default
// is 5 minutes, as at the service; 0 or less is no limit. In an older transaction, the next
// statement and COMMIT fail with SQLSTATE 54000. ROLLBACK works.
func WithTransactionAge(d time.Duration) Option {
	return func(o *options) { o.conditions.transactionAge = d }
}

// SetTransactionAge is like WithTransactionAge, for all statements from now on.
func (s *Server) SetTransactionAge(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conditions.transactionAge = d
}

func (s *Server) transactionAge() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conditions.transactionAge
}

var (
	clusterIDPattern = regexp.MustCompile(`^[a-z0-9]{26}$`)
	regionPattern    = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-[0-9]{1,2}$`) // as package dsql has it
	labelPattern     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
)

func newOptions(opts []Option) (options, error) {
	o := options{
		clusterID: strings.ToLower(rand.Text()[:26]),
		region:    "us-east-1",
		suffix:    "fnh4",
		roles:     []string{"app"},
		address:   "127.0.0.1:0",
		now:       time.Now,
		conditions: conditions{
			rate:           newBucket(defaultConnectRate, defaultConnectBurst),
			maxConnections: defaultMaxConnections,
			lifetime:       defaultLifetime,

			transactionAge: defaultTransactionAge,
		},
	}
	for _, opt := range opts {
		opt(&o)
	}
	if o.vpcEndpoint == "" {
		o.vpcEndpoint = randomVPCEndpoint() + o.vpcDomain()
	}
	return o, o.check()
}

func (o *options) check() error {
	if !clusterIDPattern.MatchString(o.clusterID) {
		return fmt.Errorf("dsqltest: WithClusterID: %q is not a cluster ID: use 26 characters of a-z and 0-9", o.clusterID)
	}
	if !regionPattern.MatchString(o.region) {
		return fmt.Errorf("dsqltest: WithRegion: %q is not a region: use one such as us-east-1", o.region)
	}
	if !labelPattern.MatchString(o.suffix) {
		return fmt.Errorf("dsqltest: WithPrivateLinkSuffix: %q cannot stand in a host name: use one such as fnh4", o.suffix)
	}
	if id, ok := strings.CutSuffix(o.vpcEndpoint, o.vpcDomain()); !ok || !strings.HasPrefix(id, "vpce-") || !labelPattern.MatchString(id) {
		return fmt.Errorf("dsqltest: WithVPCEndpoint: %q is no VPC endpoint of this server: use vpce-<id>%s, or set WithRegion and WithPrivateLinkSuffix too",
			o.vpcEndpoint, o.vpcDomain())
	}
	for _, role := range o.roles {
		if err := checkRole(role); err != nil {
			return err
		}
	}
	if o.now == nil {
		return errors.New("dsqltest: WithClock: no clock given: leave the option out for time.Now")
	}
	if o.withSchema && o.scripts == nil {
		return errors.New("dsqltest: WithSchema: no FS given: use one such as os.DirFS(\"testdata\"), or leave the option out")
	}
	if err := checkLoopback("WithAddress", o.address); err != nil || o.webSocketAddress == "" {
		return err
	}
	return checkLoopback("WithWebSocketAddress", o.webSocketAddress)
}

func checkLoopback(option, address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("dsqltest: %s: %w: use one such as 127.0.0.1:0", option, err)
	}
	if addr, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !addr.IsLoopback()) {
		return fmt.Errorf("dsqltest: %s: %q is not a loopback address: use 127.0.0.1, [::1] or localhost", option, address)
	}
	return nil
}

// checkRole keeps out the roles that PostgreSQL has or reserves: a login as
// its superuser would step around everything.
func checkRole(name string) error {
	const maxLength = 63 // bytes: PostgreSQL cuts longer names short
	if name == "" || len(name) > maxLength || strings.ContainsRune(name, 0) {
		return fmt.Errorf("dsqltest: WithRoles: %q is not a role name: use 1 to %d bytes", name, maxLength)
	}
	if name == adminRole || name == "postgres" || name == "public" || name == "none" || strings.HasPrefix(name, "pg_") {
		return fmt.Errorf("dsqltest: WithRoles: %q is taken or reserved: use another name", name)
	}
	return nil
}

func (o *options) endpoint() string {
	return o.clusterID + ".dsql." + o.region + ".on.aws"
}

func (o *options) privateEndpoint() string {
	return o.clusterID + ".dsql-" + o.suffix + "." + o.region + ".on.aws"
}

func (o *options) vpcDomain() string {
	domain := ".dsql-" + o.suffix + "." + o.region + ".vpce.amazonaws.com"
	if strings.HasPrefix(o.region, "cn-") {
		domain += ".cn"
	}
	return domain
}

// randomVPCEndpoint returns a first label of the usual form: 17 hexadecimal
// digits, then 8 letters and digits.
func randomVPCEndpoint() string {
	id := make([]byte, 9)
	rand.Read(id) // never fails, see crypto/rand
	return "vpce-" + hex.EncodeToString(id)[:17] + "-" + strings.ToLower(rand.Text()[:8])
}
