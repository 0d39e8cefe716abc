package dsqlproxy

// Stats is what a Proxy has done since its Serve began, and what it is doing.
type Stats struct {
	// Now.
	HalfOpen int  // connections that have not said who they are
	Clients  int  // clients that have or wait for a session at the cluster
	Relaying int  // of these, those that have one
	Spares   int  // sessions that are logged in and wait for a client
	Full     bool // MaxConnections are reached
	Draining bool // no client is accepted any more
	Failing  bool // the last login at the cluster failed, and not by what the client asked for

	// Since the start.
	Connections    uint64 // accepted
	Sessions       uint64 // clients that got a session
	SparesUsed     uint64 // of these, those that got a spare
	Refused        uint64 // clients that the proxy refused: password, role, database, MaxConnections, no startup
	Failed         uint64 // clients that the cluster refused, or for which it could not be reached
	Cancels        uint64 // cancel requests that were forwarded
	BytesToCluster uint64 // relayed, without TLS
	BytesToClient  uint64
}

// Stats returns the figures of the Serve that runs, or that ran last. It may be called at any time,
// by any number of goroutines.
func (p *Proxy) Stats() Stats {
	s := p.server.Load()
	if s == nil {
		return Stats{}
	}
	spares := 0
	if s.spares != nil {
		spares = s.spares.len()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.HalfOpen, stats.Clients, stats.Relaying, stats.Spares = s.halfOpen.Len(), s.admitted, len(s.relays), spares
	stats.Full = s.maxClients > 0 && s.admitted >= s.maxClients
	for r := range s.relays {
		toCluster, toClient := r.bytes()
		stats.BytesToCluster += toCluster
		stats.BytesToClient += toClient
	}
	return stats
}
