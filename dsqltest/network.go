package dsqltest

import (
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/latency"
)

// WithRoundTripTime adds d to every round trip, half in each direction; the
// default is 0. The throughput stays. A connection also pays d once before the
// server sees its first byte: that is TCP's own handshake, which a real network
// makes the client wait for and loopback does not.
func WithRoundTripTime(d time.Duration) Option {
	return func(o *options) { o.conditions.roundTrip = d }
}

// SetRoundTripTime is WithRoundTripTime for connections accepted from now on.
func (s *Server) SetRoundTripTime(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conditions.roundTrip = d
}

// distant puts conn as far away as the conditions say.
func (s *Server) distant(conn latency.TCPConn) latency.TCPConn {
	s.mu.Lock()
	roundTrip := s.conditions.roundTrip
	s.mu.Unlock()
	if roundTrip <= 0 {
		return conn
	}
	return latency.New(s.ctx, conn, roundTrip, s.serving.Go)
}

// reset ends a connection as a firewall does.
func reset(conn latency.TCPConn) {
	conn.SetLinger(0)
	conn.Close()
}
