package dsqlproxy

import (
	"encoding/binary"
	"time"
)

// cancelTimeout bounds a CancelRequest: a connection, TLS and one message.
const cancelTimeout = 10 * time.Second

func cancelKey(pid uint32, secret []byte) string {
	return string(append(binary.BigEndian.AppendUint32(nil, pid), secret...))
}

// forwardCancel sends a client's CancelRequest to the cluster, if it names a session that a client
// of this proxy has. It returns when the cluster has taken it: clients wait for the end of their
// connection, so that the cancel does not meet their next statement.
//
// One request a session is forwarded at a time, so that a client cannot open more connections to
// the cluster than it has sessions.
func (s *server) forwardCancel(key []byte) {
	s.mu.Lock()
	session := s.keys[string(key)]
	s.mu.Unlock()
	if session == nil {
		s.log.Debug("dsqlproxy: cancel request for no session")
		return
	}
	session.cancelling.Lock()
	defer session.cancelling.Unlock()
	if err := session.cancel(s.ctx); err != nil {
		s.log.Warn("dsqlproxy: cancel request failed", "error", err)
		return
	}
	s.count(func(st *Stats) { st.Cancels++ })
}
