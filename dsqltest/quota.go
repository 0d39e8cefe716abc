package dsqltest

import (
	"fmt"
	"math"
	"time"
)

// What the AWS guide's page of quotas states for a cluster.
const (
	defaultConnectRate    = 100 // a second
	defaultConnectBurst   = 1000
	defaultMaxConnections = 10_000
	defaultLifetime       = time.Hour
)

// WithConnectQuota limits new connections: perSecond, after a burst. The default is the documented
// quota of the service: 100 a second, 1,000 at once. A negative perSecond is no limit. With a burst
// below 1, no connection is accepted.
//
// The quota is a token bucket that holds burst tokens and fills continuously. This is our reading
// of the guide. A login takes one token when its startup message has found the cluster. Logins that
// are refused for this or another limit take none.
func WithConnectQuota(perSecond float64, burst int) Option {
	return func(o *options) { o.conditions.rate = newBucket(perSecond, burst) }
}

// SetConnectQuota is like WithConnectQuota, for a running server. The bucket is full again.
func (s *Server) SetConnectQuota(perSecond float64, burst int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conditions.rate = newBucket(perSecond, burst)
}

// WithMaxConnections limits open connections. The default is the documented 10,000; a negative n is
// no limit. More are refused with [RefuseConnections]. A connection counts from its startup message
// on.
func WithMaxConnections(n int) Option {
	return func(o *options) { o.conditions.maxConnections = n }
}

// SetMaxConnections is like WithMaxConnections, for a running server. Open connections stay open.
func (s *Server) SetMaxConnections(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conditions.maxConnections = n
}

// WithWaking has the cluster wake up: the first logins, startups of them, are refused with
// [RefuseWaking], at their startup message. The default is 0.
func WithWaking(startups int) Option {
	return func(o *options) { o.conditions.waking = startups }
}

// WithSessionLifetime limits the lifetime of sessions. The default is the documented 60 minutes; 0
// or less is no limit. How the service ends a session is not recorded. The endpoint closes the
// connection without a message, an idle session between messages and a busy one at any point.
func WithSessionLifetime(d time.Duration) Option {
	return func(o *options) { o.conditions.lifetime = d }
}

// SetSessionLifetime is like WithSessionLifetime, for sessions that begin from now on.
func (s *Server) SetSessionLifetime(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conditions.lifetime = d
}

func (s *Server) sessionLifetime() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conditions.lifetime
}

// Sessions returns the number of open sessions.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Refusal is why the service refuses a login. The client gets it as a FATAL error that ends the
// connection.
type Refusal struct {
	Code    string // SQLSTATE
	Message string
	Hint    string // "" for none
}

// The refusals that the service is known for. The SQLSTATE of RefuseWaking is not recorded; 57P03,
// cannot connect now, is our choice. Access denied was 28000 in older reports. The Hint of
// RefuseExpired is made when it is used: it names the server's clock, see [WithClock].
var (
	RefuseWaking      = Refusal{Code: "57P03", Message: "unable to accept connection, waking up cluster, please retry later"}
	RefuseRate        = Refusal{Code: "53400", Message: "Unable to accept connection, rate exceeded."}
	RefuseConnections = Refusal{Code: "53300", Message: "Unable to accept connection, too many open connections."}
	RefuseExpired     = Refusal{Code: "08006", Message: "unable to accept connection, access denied", Hint: "Signature expired"}
	RefuseUnavailable = Refusal{Code: "XX000", Message: "server unavailable"}
	RefuseAccess      = Refusal{Code: "08006", Message: "unable to accept connection, access denied"}
)

func (r Refusal) refusal() *refusal {
	refused := refuse(r.Code, "%s", r.Message)
	refused.response.Hint = r.Hint
	return refused
}

// RefuseNext has the next n logins refused with r, whatever their tokens are. They count for the
// quota, and Attempts shows their tokens. Further calls add refusals after those that are still to
// come.
func (s *Server) RefuseNext(n int, r Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		s.refusals = append(s.refusals, r)
	}
}

// nextRefusal returns what RefuseNext has for a login that came as far as its
// password, or nil.
func (s *Server) nextRefusal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.refusals) == 0 {
		return nil
	}
	next := s.refusals[0]
	s.refusals = s.refusals[1:]
	if next == RefuseExpired {
		now := s.now().UTC()
		next.Hint = fmt.Sprintf("Signature expired: %s is now earlier than %s", now.Add(-time.Second).Format(signingTime), now.Format(signingTime))
	}
	refused := next.refusal()
	refused.reason = "RefuseNext"
	return refused
}

// admit counts a connection in, or says which limit keeps it out. Whoever is
// let in must call releaseConnection.
func (s *Server) admit() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.conditions
	switch {
	case c.waking > 0:
		c.waking--
		return RefuseWaking.refusal()
	case !c.rate.refill(time.Now()):
		return RefuseRate.refusal()
	case c.maxConnections >= 0 && s.open >= c.maxConnections:
		return RefuseConnections.refusal()
	}
	c.rate.tokens--
	s.open++
	return nil
}

func (s *Server) releaseConnection() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
}

// bucket holds tokens, and gets more with time until it is full.
type bucket struct {
	perSecond float64
	burst     float64
	tokens    float64
	filled    time.Time
}

// newBucket returns a full bucket, which never runs dry when perSecond is not
// a number that limits.
func newBucket(perSecond float64, burst int) bucket {
	if !(perSecond >= 0 && perSecond <= math.MaxFloat64) {
		return bucket{tokens: math.Inf(1), burst: math.Inf(1)}
	}
	return bucket{perSecond: perSecond, burst: float64(burst), tokens: float64(burst)}
}

// refill adds what came since it was last called, and reports whether there is a
// token to take.
func (b *bucket) refill(now time.Time) bool {
	if !b.filled.IsZero() {
		b.tokens = min(b.burst, b.tokens+now.Sub(b.filled).Seconds()*b.perSecond)
	}
	b.filled = now
	return b.tokens >= 1
}
