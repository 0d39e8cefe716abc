package dsqlproxy

import (
	"encoding/base64"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// rfc7677 is the exchange of RFC 7677, section 3: user "user", password "pencil".
var rfc7677 = struct{ salt, clientFirst, serverNonce, serverFirst, clientFinal, serverFinal string }{
	salt:        "W22ZaJ0SNY7soEsUEjb6gQ==",
	clientFirst: "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
	serverNonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
	serverFirst: "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
	clientFinal: "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
	serverFinal: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
}

func rfc7677Secret(t *testing.T, password string) *scramSecret {
	t.Helper()
	salt, err := base64.StdEncoding.DecodeString(rfc7677.salt)
	require.NoError(t, err)
	s, err := deriveScramSecret(password, salt)
	require.NoError(t, err)
	return s
}

func TestScramExchange(t *testing.T) {
	e, reply, err := rfc7677Secret(t, "pencil").first(rfc7677.clientFirst, rfc7677.serverNonce)
	require.NoError(t, err)
	require.Equal(t, rfc7677.serverFirst, reply)
	reply, ok, err := e.final(rfc7677.clientFinal)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, rfc7677.serverFinal, reply)
}

func TestScramWrongPassword(t *testing.T) {
	e, _, err := rfc7677Secret(t, "pencil2").first(rfc7677.clientFirst, rfc7677.serverNonce)
	require.NoError(t, err)
	reply, ok, err := e.final(rfc7677.clientFinal)
	require.NoError(t, err)
	require.False(t, ok)
	require.Empty(t, reply)
}

func TestScramMalformed(t *testing.T) {
	secret := rfc7677Secret(t, "pencil")
	for _, first := range []string{"", "n", "n,", "n,,", "n,,n=user", "n,,r=nonce", "n,,n=user,r=", "x,,n=user,r=nonce", "n,a=other,n=user,r=nonce", "p=tls-server-end-point,,n=user,r=nonce"} {
		_, _, err := secret.first(first, "server")
		require.ErrorAs(t, err, new(*fatal), "%q", first)
	}
	change := func(old, new string) string { return strings.Replace(rfc7677.clientFinal, old, new, 1) }
	for _, final := range []string{
		"", "c=biws", change(",p=", ",q="), change("c=biws", "c=eSws"), // another gs2-header than the first
		change("r=rOpr", "r=rOps"), change("VQ=", "V"), change("dHzb", ""),
	} {
		e, _, err := secret.first(rfc7677.clientFirst, rfc7677.serverNonce)
		require.NoError(t, err)
		_, ok, err := e.final(final)
		require.ErrorAs(t, err, new(*fatal), "%q", final)
		require.False(t, ok)
	}
}

func TestPasswordCharacters(t *testing.T) {
	_, err := newScramSecret("Correct-Horse 42!~")
	require.NoError(t, err)
	for _, password := range []string{"pässword", "tab\t", "nul\x00", "del\x7f"} {
		_, err := newScramSecret(password)
		require.ErrorContains(t, err, "Password")
		require.NotContains(t, err.Error(), password)
	}
}

// However many connections a guesser opens, it has maxProofs guesses a proofDelay; the right
// password waits for no delay of its own.
func TestWrongPasswordsAreSlowed(t *testing.T) {
	secret := rfc7677Secret(t, "pencil2")
	right := rfc7677Secret(t, "pencil")
	synctest.Test(t, func(t *testing.T) {
		s := &server{proofs: make(chan struct{}, maxProofs), accepting: t.Context(), secret: secret}
		began := time.Now()
		verify := func(secret *scramSecret) error {
			e, _, err := secret.first(rfc7677.clientFirst, rfc7677.serverNonce)
			require.NoError(t, err)
			_, err = (&client{server: s, startup: &startup{user: "admin"}}).verify(e, rfc7677.clientFinal)
			return err
		}
		require.NoError(t, verify(right))
		require.Zero(t, time.Since(began))

		failed := make(chan error)
		for range 3 * maxProofs {
			go func() { failed <- verify(secret) }()
		}
		for range 3 * maxProofs {
			reply := new(fatal)
			require.ErrorAs(t, <-failed, &reply)
			require.Equal(t, "28P01", reply.response.Code)
		}
		require.Equal(t, 3*proofDelay, time.Since(began))
	})
}

// FuzzScram: whatever a client answers, there is no panic, and only the right proof is taken.
func FuzzScram(f *testing.F) {
	salt, _ := base64.StdEncoding.DecodeString(rfc7677.salt)
	secret, err := deriveScramSecret("pencil", salt)
	require.NoError(f, err)
	f.Add(rfc7677.clientFirst, strings.Replace(rfc7677.clientFinal, "dHzb", "AAAA", 1))
	f.Add("y,,n=,r=x", "c=eSws,r=x"+rfc7677.serverNonce+",p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	f.Fuzz(func(t *testing.T, first, final string) {
		e, _, err := secret.first(first, rfc7677.serverNonce)
		if err != nil {
			return
		}
		_, ok, _ := e.final(final)
		require.False(t, ok && first != rfc7677.clientFirst, "a proof without the password")
	})
}
