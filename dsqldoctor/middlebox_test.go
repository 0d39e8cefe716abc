package dsqldoctor_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/internal/nettest"
)

// action is what a middlebox does to a connection.
type action int

const (
	forward action = iota
	reset
	hangUp
	ignore // keep the connection open and answer nothing
)

// middlebox is a firewall in front of a server. It chooses an action by the first bytes of a
// connection.
type middlebox struct {
	directTLS  action // for a ClientHello without an SSLRequest before it
	sslRequest action
	hello      func(clientHello []byte) action // for a ClientHello that directTLS and sslRequest forward
	plaintext  action
}

func always(a action) func([]byte) action { return func([]byte) action { return a } }

func newMiddlebox(t *testing.T, s *dsqltest.Server, b middlebox) (address string) {
	return nettest.Listen(t, func(conn *net.TCPConn) { b.serve(conn, s.Addr()) })
}

func (b middlebox) serve(conn *net.TCPConn, upstream string) {
	up, err := net.Dial("tcp", upstream)
	if err != nil {
		return
	}
	defer up.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	for first := true; ; first = false {
		action, err := b.decide(r, first)
		if err != nil {
			return
		}
		switch action {
		case reset:
			_ = conn.SetLinger(0)
			return
		case hangUp:
			return
		case ignore:
			timeOutClient(conn.RemoteAddr())
			_, _ = io.Copy(io.Discard, r)
			return
		}
		if head, _ := r.Peek(8); !isSSLRequest(head) {
			break
		}
		if _, err := io.CopyN(up, r, 8); err != nil {
			return
		}
		if _, err := io.CopyN(conn, up, 1); err != nil {
			return
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(conn, up)
		_ = conn.CloseWrite()
	}()
	_, _ = io.Copy(up, r)
	up.Close()
	<-done
}

func (b middlebox) decide(r *bufio.Reader, first bool) (action, error) {
	head, err := r.Peek(8)
	if err != nil {
		return 0, err
	}
	switch {
	case head[0] == 0x16:
		if first && b.directTLS != forward {
			return b.directTLS, nil
		}
		hello, err := r.Peek(5 + int(binary.BigEndian.Uint16(head[3:])))
		if err != nil || b.hello == nil {
			return forward, err
		}
		return b.hello(hello), nil
	case isSSLRequest(head):
		return b.sslRequest, nil
	}
	return b.plaintext, nil
}

func isSSLRequest(head []byte) bool { return binary.BigEndian.Uint32(head[4:]) == 80877103 }
