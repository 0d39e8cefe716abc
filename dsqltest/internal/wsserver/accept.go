// Package wsserver is a server of WebSockets (RFC 6455) whose binary frames are a stream of bytes. It
// shares no code with the client of package dsql, so that the two test each other.
package wsserver

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// Accept reads an HTTP request from reader, which reads conn, and answers it on conn. Its error says
// what was wrong with the request; the client was told, too.
func Accept(conn net.Conn, reader *bufio.Reader) (*Conn, error) {
	request, err := http.ReadRequest(reader)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading the HTTP request: %w", err), respond(conn, http.StatusBadRequest))
	}
	status, fields := check(request)
	if err := respond(conn, status, fields...); err != nil {
		return nil, err
	}
	if status != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("an HTTP request to %s %s that is answered by status %d", request.Method, request.URL.Path, status)
	}
	return &Conn{Conn: conn, reader: reader}, nil
}

// check returns the status and header fields of the answer (RFC 6455, 4.2).
func check(r *http.Request) (status int, fields []string) {
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case r.URL.Path != "/":
		return http.StatusNotFound, nil
	case r.Method != http.MethodGet:
		return http.StatusMethodNotAllowed, []string{"Allow: GET"}
	case !hasToken(r.Header, "Connection", "upgrade"), !hasToken(r.Header, "Upgrade", "websocket"):
		return http.StatusUpgradeRequired, []string{"Connection: Upgrade", "Upgrade: websocket"}
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return http.StatusUpgradeRequired, []string{"Sec-WebSocket-Version: 13"}
	case err != nil || len(key) != 16:
		return http.StatusBadRequest, nil
	}
	accept := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return http.StatusSwitchingProtocols, []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(accept[:])}
}

func hasToken(h http.Header, name, token string) bool {
	for _, value := range h.Values(name) {
		for part := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

func respond(conn net.Conn, status int, fields ...string) error {
	answer := fmt.Sprintf("HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	if status != http.StatusSwitchingProtocols {
		fields = append(fields, "Content-Length: 0")
	}
	for _, field := range fields {
		answer += field + "\r\n"
	}
	_, err := conn.Write([]byte(answer + "\r\n"))
	return err
}
