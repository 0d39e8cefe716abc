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

// WithConnectQuota sets how many connections may be opened: perSecond, after a
// burst. The default is the service's documented quota, 100 a second and 1,000.
// A negative perSecond means no quota; a burst below 1 lets nobody in.
//
// It is a bucket of burst tokens that fills continuously, which is our reading of
// the documentation. A login takes one once its startup message has found the
// cluster, and gives none back. One that is refused then, with [RefuseRate] or
// for another limit, takes none.
func WithConnectQuota(perSecond float64, burst int) Option {
	return func(o *options) { o.conditions.rate = newBucket(perSecond, burst) }
}

// SetConnectQuota is WithConnectQuota while the server runs. The burst begins anew.
func (s *Server) SetConnectQuota(perSecond float64, burst int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conditions.rate = newBucket(perSecond, burst)
}

// WithMaxConnections sets how many connections may be open, 10,000 by default
// as documented; a negative n means any number. More are refused with
// [RefuseConnections]. A connection counts from its startup message on.
func WithMaxConnections(n int) Option {
	return func(o *options) { o.conditions.maxConnections = n }
}

// SetMaxConnections is WithMaxConnections while the server runs. Connections
// that are open stay.
func (s *Server) SetMaxConnections(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conditions.maxConnections = n
}

// WithWaking makes the cluster one that wakes up: the first startups that find
// it are refused with [RefuseWaking], at the startup message. The default is 0.
func WithWaking(startups int) Option {
	return func(o *options) { o.conditions.waking = startups }
}

// WithSessionLifetime sets how long a session lives before the server ends it;
// 60 minutes by default, as documented, and no limit for 0 or less. How the
// service ends one is not recorded. Here it closes the connection without a
// word: an idle session ends between messages, a busy one in the middle.
func WithSessionLifetime(d time.Duration) Option {
	return func(o *options) { o.conditions.lifetime = d }
}

// SetSessionLifetime is WithSessionLifetime for sessions that begin from now on.
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

// Sessions is how many sessions are open: logged in and not ended.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Refusal is why the service turns a login down. It reaches the client as a
// FATAL error that ends the connection.
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

// RefuseNext has the next n logins refused with r, whatever token they bring.
// They take their part of the quota and show their token in Attempts. Further calls
// add to it: their refusals come after those that are still due.
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
