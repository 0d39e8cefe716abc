package dsql

import (
	"github.com/dsqlgo/dsql/internal/transport"
)

// The values of Config.Transport.
const (
	transportTCP       = string(transport.TCP)
	transportWebSocket = string(transport.WebSocket)
	transportAuto      = "auto"
)

// The ports of a cluster.
const (
	tcpPort       = 5432
	webSocketPort = 443
)

// defaultPort returns the port to dial if c says none.
func (c Config) defaultPort() uint16 {
	if c.Transport == transportWebSocket {
		return webSocketPort
	}
	return tcpPort
}
