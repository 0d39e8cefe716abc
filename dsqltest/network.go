package dsqltest

import (
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/latency"
)

// WithRoundTripTime adds d to each round trip, half of it in each direction. The default is 0. The
// throughput stays the same. A new connection waits for another d before the server reads its first
// byte. This is the time of TCP's handshake, for which a client waits in a real network.
func WithRoundTripTime(d time.Duration) Option {
	return func(o *options) { o.conditions.roundTrip = d }
}

// SetRoundTripTime is like WithRoundTripTime, for connections accepted from now on.
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
