package dsqlproxy

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/dsqlgo/dsql/internal/configerr"
)

const (
	scramMechanism  = "SCRAM-SHA-256"
	scramIterations = 4096 // PostgreSQL's default, and the least that RFC 7677 allows

	// maxSASL bounds a client's message. Real ones take some 150 bytes.
	maxSASL = 2048

	// A wrong password is answered after proofDelay, and maxProofs passwords are looked at at a
	// time. Together they bound how many a guesser can try: 16 a second, however many connections
	// it opens. A client with the right password waits only while a guesser is at work.
	proofDelay = time.Second
	maxProofs  = 16
)

// scramSecret is what a SCRAM server keeps of a password (RFC 5802, section 3).
type scramSecret struct {
	salt      []byte
	storedKey []byte
	serverKey []byte
}

func newScramSecret(password string) (*scramSecret, error) {
	for _, r := range password {
		if r < ' ' || r > '~' {
			// Others would have to go through SASLprep (RFC 4013), which not every client has.
			return nil, configerr.New("Password", "holds a character that is not printable ASCII; use letters, digits and punctuation")
		}
	}
	salt := make([]byte, 16)
	rand.Read(salt) // never fails, see crypto/rand
	return deriveScramSecret(password, salt)
}

func deriveScramSecret(password string, salt []byte) (*scramSecret, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, scramIterations, sha256.Size)
	if err != nil {
		return nil, err
	}
	stored := sha256.Sum256(mac(salted, "Client Key"))
	return &scramSecret{salt: salt, storedKey: stored[:], serverKey: mac(salted, "Server Key")}, nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// scramExchange is one authentication: what was said so far.
type scramExchange struct {
	secret      *scramSecret
	gs2Header   string
	nonce       string // the client's, then the server's
	firstBare   string
	serverFirst string
}

// first reads the client's first message and returns the server's.
func (s *scramSecret) first(message, serverNonce string) (*scramExchange, string, error) {
	// gs2-header is a channel-binding flag and an authorization identity, each ended by a comma.
	flag, rest, ok := strings.Cut(message, ",")
	identity, bare, ok2 := strings.Cut(rest, ",")
	switch {
	case !ok || !ok2:
		return nil, "", errSASL
	case strings.HasPrefix(flag, "p="):
		return nil, "", refuse("28000", "set channel_binding=prefer or disable", "the proxy has no channel binding")
	case flag != "n" && flag != "y", identity != "":
		return nil, "", errSASL
	}
	// The user name is that of the startup message (PostgreSQL docs, "SASL Authentication").
	name, nonce, ok := strings.Cut(bare, ",r=")
	if nonce, _, _ = strings.Cut(nonce, ","); !ok || !strings.HasPrefix(name, "n=") || nonce == "" {
		return nil, "", errSASL
	}
	e := &scramExchange{secret: s, gs2Header: flag + ",,", nonce: nonce + serverNonce, firstBare: bare}
	e.serverFirst = fmt.Sprintf("r=%s,s=%s,i=%d", e.nonce, base64.StdEncoding.EncodeToString(s.salt), scramIterations)
	return e, e.serverFirst, nil
}

// final reads the client's second message. It returns the server's, and whether the client knows
// the password.
func (e *scramExchange) final(message string) (reply string, ok bool, err error) {
	without, proofText, found := strings.Cut(message, ",p=")
	proof, err := base64.StdEncoding.DecodeString(proofText)
	if !found || err != nil || len(proof) != sha256.Size {
		return "", false, errSASL
	}
	if want := "c=" + base64.StdEncoding.EncodeToString([]byte(e.gs2Header)) + ",r=" + e.nonce; without != want {
		return "", false, errSASL
	}
	authMessage := e.firstBare + "," + e.serverFirst + "," + without
	clientKey := mac(e.secret.storedKey, authMessage) // the client's signature, until it is undone
	subtle.XORBytes(clientKey, clientKey, proof)
	stored := sha256.Sum256(clientKey)
	if subtle.ConstantTimeCompare(stored[:], e.secret.storedKey) == 0 {
		return "", false, nil
	}
	return "v=" + base64.StdEncoding.EncodeToString(mac(e.secret.serverKey, authMessage)), true, nil
}

var errSASL = refuse("08P01", "", "the SCRAM message cannot be read")

// checkPassword has the client prove that it knows the password.
func (c *client) checkPassword() error {
	if err := c.send(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{scramMechanism}}); err != nil {
		return err
	}
	body, err := c.readPassword()
	if err != nil {
		return err
	}
	var initial pgproto3.SASLInitialResponse
	if err := initial.Decode(body); err != nil {
		return errSASL
	}
	if initial.AuthMechanism != scramMechanism {
		return refuse("28000", "use a client that has "+scramMechanism, "the proxy has no authentication %q", initial.AuthMechanism)
	}
	exchange, reply, err := c.server.secret.first(string(initial.Data), rand.Text())
	if err != nil {
		return err
	}
	if err := c.send(&pgproto3.AuthenticationSASLContinue{Data: []byte(reply)}); err != nil {
		return err
	}
	if body, err = c.readPassword(); err != nil {
		return err
	}
	if reply, err = c.verify(exchange, string(body)); err != nil {
		return err
	}
	return c.send(&pgproto3.AuthenticationSASLFinal{Data: []byte(reply)})
}

// verify looks at a proof when it has a place to. A wrong one keeps the place for proofDelay, also
// when the client has gone.
func (c *client) verify(exchange *scramExchange, message string) (reply string, err error) {
	select {
	case c.server.proofs <- struct{}{}:
		defer func() { <-c.server.proofs }()
	case <-c.server.accepting.Done():
		return "", refuseShutdown()
	}
	reply, ok, err := exchange.final(message)
	if err != nil || ok {
		return reply, err
	}
	select {
	case <-time.After(proofDelay):
	case <-c.server.accepting.Done():
	}
	return "", refuse("28P01", "it is the proxy's password, not a token", "password authentication failed for user %q", c.startup.user)
}

// readPassword reads the body of a message that answers an authentication request.
func (c *client) readPassword() ([]byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(c.reader, header[:]); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if header[0] != 'p' || length < 4 || length > maxSASL {
		return nil, refuse("08P01", "", "expected a SASL response")
	}
	body := make([]byte, length-4)
	_, err := io.ReadFull(c.reader, body)
	return body, err
}
