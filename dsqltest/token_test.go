package dsqltest

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dsql/auth"
	"github.com/stretchr/testify/require"
)

// unstarted is a server that can check tokens and nothing else.
func unstarted(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	o, err := newOptions(opts)
	require.NoError(tb, err)
	s := &Server{options: o, keys: make(map[string]key), credentials: aws.Credentials{
		AccessKeyID: "DSQLTESTKEY", SecretAccessKey: "secret/secret+secret",
	}}
	s.AllowKey(s.credentials.AccessKeyID, s.credentials.SecretAccessKey, "")
	return s
}

// signing is what a token is made of. The zero value of a field means the
// server's own.
type signing struct {
	host        string
	region      string
	user        string
	lifetime    time.Duration
	credentials aws.Credentials
}

// sign makes a token with the SDK's signer, on the machine's clock.
func sign(tb testing.TB, s *Server, with signing) string {
	tb.Helper()
	if with.host == "" {
		with.host = s.Endpoint()
	}
	if with.region == "" {
		with.region = s.Region()
	}
	if with.credentials.AccessKeyID == "" {
		with.credentials = s.Credentials()
	}
	if with.lifetime == 0 {
		with.lifetime = 15 * time.Minute
	}
	generate := auth.GenerateDbConnectAuthToken
	if with.user == "" || with.user == adminRole {
		generate = auth.GenerateDBConnectAdminAuthToken
	}
	provider := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return with.credentials, nil })
	text, err := generate(tb.Context(), with.host, with.region, provider, func(o *auth.TokenOptions) { o.ExpiresIn = with.lifetime })
	require.NoError(tb, err)
	return text
}

// login parses and checks a token as a connection does.
func (s *Server) testLogin(text, user, serverName string) error {
	t, err := parseToken(text)
	if err != nil {
		return denied("", err.Error())
	}
	return s.verifyToken(t, user, serverName)
}

func TestVerifyToken(t *testing.T) {
	temporary := aws.Credentials{AccessKeyID: "ASIATEMPORARY", SecretAccessKey: "other", SessionToken: "se/ss+ion=="}
	at := func(offset time.Duration) Option {
		return WithClock(func() time.Time { return time.Now().Add(offset) })
	}
	const denial = "unable to accept connection, access denied"

	tests := map[string]struct {
		opts   []Option
		with   func(s *Server) signing
		edit   func(token string) string
		user   string // admin
		byName func(s *Server) string
		hint   string // regular expression
		reason string // "" when the token is good
	}{
		"good":                   {},
		"good for another role":  {user: "app", with: func(*Server) signing { return signing{user: "app"} }},
		"good for private name":  {byName: (*Server).PrivateEndpoint, with: func(s *Server) signing { return signing{host: s.PrivateEndpoint()} }},
		"good in upper case SNI": {byName: func(s *Server) string { return strings.ToUpper(s.Endpoint()) }},
		"good by cluster ID":     {byName: func(*Server) string { return "" }},
		"good, longest":          {opts: []Option{at(7*24*time.Hour - time.Minute)}, with: func(*Server) signing { return signing{lifetime: 7 * 24 * time.Hour} }},
		"good with a path":       {edit: replace("?", "/?")},
		"good, reordered": {edit: func(token string) string {
			host, query, _ := strings.Cut(token, "?")
			pairs := strings.Split(query, "&")
			pairs[0], pairs[len(pairs)-1] = pairs[len(pairs)-1], pairs[0]
			return host + "?" + strings.Join(pairs, "&")
		}},
		"good with session token": {with: func(*Server) signing { return signing{credentials: temporary} }},

		"expired": {
			opts: []Option{at(15*time.Minute + 2*time.Second)}, reason: "the token has expired",
			hint: `^Signature expired: \d{8}T\d{6}Z is now earlier than \d{8}T\d{6}Z$`,
		},
		"clock at the end":      {opts: []Option{at(15*time.Minute - 5*time.Second)}},
		"clock within 5 min":    {opts: []Option{at(-4 * time.Minute)}},
		"clock 6 min behind":    {opts: []Option{at(-6 * time.Minute)}, reason: "the token is signed for more than 5m0s ahead of the server's clock"},
		"admin with DbConnect":  {with: func(*Server) signing { return signing{user: "app"} }, hint: "^Wrong user to action mapping. user: admin, action: DbConnect$", reason: "the user needs DbConnectAdmin"},
		"role with Admin":       {user: "app", hint: "^Wrong user to action mapping. user: app, action: DbConnectAdmin$", reason: "the user needs DbConnect"},
		"no such role":          {user: "nobody", with: func(*Server) signing { return signing{user: "nobody"} }, reason: "the role does not exist; add it with WithRoles"},
		"superuser":             {user: "postgres", with: func(*Server) signing { return signing{user: "postgres"} }, reason: "the role does not exist; add it with WithRoles"},
		"wrong region":          {with: func(*Server) signing { return signing{region: "eu-west-1"} }, reason: "the credential scope is not <date>/us-east-1/dsql/aws4_request"},
		"host is the other one": {with: func(s *Server) signing { return signing{host: s.PrivateEndpoint()} }, reason: "the token is for another host than the server name sent"},
		"foreign host by ID": {
			byName: func(*Server) string { return "" },
			with:   func(s *Server) signing { return signing{host: s.VPCEndpoint()} },
			reason: "the token is for another host than the server name sent",
		},
		"unknown key": {
			with: func(*Server) signing {
				return signing{credentials: aws.Credentials{AccessKeyID: "AKIAOTHER", SecretAccessKey: "x"}}
			},
			reason: "the access key is not known; add it with AllowKey",
		},
		"wrong secret": {
			with: func(s *Server) signing {
				return signing{credentials: aws.Credentials{AccessKeyID: s.credentials.AccessKeyID, SecretAccessKey: "x"}}
			},
			reason: "the signature does not match",
		},
		"session token missing": {
			with: func(*Server) signing {
				return signing{credentials: aws.Credentials{AccessKeyID: temporary.AccessKeyID, SecretAccessKey: "other"}}
			},
			reason: "X-Amz-Security-Token is not the one that belongs to the access key",
		},
		"session token for a key without": {
			with: func(s *Server) signing {
				c := s.credentials
				c.SessionToken = "x"
				return signing{credentials: c}
			},
			reason: "X-Amz-Security-Token is not the one that belongs to the access key",
		},
		"signature changed":   {edit: func(s string) string { return flipLast(s) }, reason: "the signature does not match"},
		"signature truncated": {edit: func(s string) string { return s[:len(s)-1] }, reason: "the signature does not match"},
		"signature missing":   {edit: without("X-Amz-Signature"), reason: "the signature does not match"},
		"expiry stretched":    {edit: replace("X-Amz-Expires=900", "X-Amz-Expires=901"), reason: "the signature does not match"},
		"action changed":      {user: "app", edit: replace("DbConnectAdmin", "DbConnect"), reason: "the signature does not match"},
		"parameter added":     {edit: func(s string) string { return s + "&x=y" }, reason: "the signature does not match"},
		"another service":     {edit: replace("%2Fdsql%2F", "%2Frds-db%2F"), reason: "the credential scope is not <date>/us-east-1/dsql/aws4_request"},
		"another terminator":  {edit: replace("aws4_request", "aws5_request"), reason: "the credential scope is not <date>/us-east-1/dsql/aws4_request"},

		"action unknown":       {edit: replace("DbConnectAdmin", "Db%00Connect"), reason: "the action is neither DbConnect nor DbConnectAdmin"},
		"action missing":       {edit: without("Action"), reason: "the action is neither DbConnect nor DbConnectAdmin"},
		"another algorithm":    {edit: replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), reason: "X-Amz-Algorithm is not AWS4-HMAC-SHA256"},
		"more headers":         {edit: replace("SignedHeaders=host", "SignedHeaders=host%3Bx"), reason: "X-Amz-SignedHeaders is not host"},
		"never expires":        {edit: replace("X-Amz-Expires=900", "X-Amz-Expires=0"), reason: "X-Amz-Expires is not within 1 to 604800 seconds"},
		"expires after a week": {edit: replace("X-Amz-Expires=900", "X-Amz-Expires=604801"), reason: "X-Amz-Expires is not within 1 to 604800 seconds"},
		"no date":              {edit: without("X-Amz-Date"), reason: "X-Amz-Date is not a time such as 20060102T150405Z"},
		"short scope":          {edit: replace("%2Faws4_request", ""), reason: "X-Amz-Credential is not <key>/<date>/<region>/<service>/<terminator>"},
		"parameter twice":      {edit: func(s string) string { return s + "&Action=DbConnectAdmin" }, reason: "a query parameter appears twice"},
		"bad escape":           {edit: func(s string) string { return s + "&x=%zz" }, reason: "the query is not a list of percent-encoded name=value pairs"},
		"a scheme":             {edit: func(s string) string { return "https://" + s }, reason: "the password is not a token: <host>/?<query> is expected"},
		"a password":           {edit: func(string) string { return "hunter2" }, reason: "the password is not a token: <host>/?<query> is expected"},
		"nothing":              {edit: func(string) string { return "" }, reason: "the password is not a token: <host>/?<query> is expected"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := unstarted(t, tt.opts...)
			s.AllowKey(temporary.AccessKeyID, temporary.SecretAccessKey, temporary.SessionToken)
			var with signing
			if tt.with != nil {
				with = tt.with(s)
			}
			text := sign(t, s, with)
			if tt.edit != nil {
				edited := tt.edit(text)
				require.NotEqual(t, text, edited)
				text = edited
			}
			user, byName := adminRole, s.Endpoint()
			if tt.user != "" {
				user = tt.user
			}
			if tt.byName != nil {
				byName = tt.byName(s)
			}
			err := s.testLogin(text, user, byName)
			if tt.reason == "" {
				require.NoError(t, err)
				return
			}
			var refused *refusal
			require.ErrorAs(t, err, &refused)
			require.Equal(t, "FATAL", refused.response.Severity)
			require.Equal(t, "08006", refused.response.Code)
			require.Equal(t, denial, refused.response.Message)
			require.Equal(t, tt.reason, refused.reason)
			if tt.hint == "" {
				require.Empty(t, refused.response.Hint)
			} else {
				require.Regexp(t, tt.hint, refused.response.Hint)
			}
		})
	}
}

func replace(old, new string) func(string) string {
	return func(s string) string { return strings.Replace(s, old, new, 1) }
}

func without(name string) func(string) string {
	return func(s string) string {
		host, query, _ := strings.Cut(s, "?")
		values, err := url.ParseQuery(query)
		if err != nil {
			panic(err)
		}
		values.Del(name)
		return host + "?" + values.Encode()
	}
}

// flipLast changes the last hexadecimal digit.
func flipLast(s string) string {
	last := "0"
	if strings.HasSuffix(s, "0") {
		last = "1"
	}
	return s[:len(s)-1] + last
}

// The refusal of an expired token names its end and the server's time.
func TestExpiredHint(t *testing.T) {
	s := unstarted(t)
	text := sign(t, s, signing{})
	parsed, err := parseToken(text)
	require.NoError(t, err)
	end := parsed.date.Add(15 * time.Minute)

	s.now = func() time.Time { return end }
	require.NoError(t, s.testLogin(text, adminRole, s.Endpoint()), "good until the second it ends")

	s.now = func() time.Time { return end.Add(time.Hour).In(time.FixedZone("", 7200)) }
	err = s.testLogin(text, adminRole, s.Endpoint())
	var refused *refusal
	require.ErrorAs(t, err, &refused)
	require.Equal(t, fmt.Sprintf("Signature expired: %s is now earlier than %s",
		end.Format("20060102T150405Z"), end.Add(time.Hour).Format("20060102T150405Z")), refused.response.Hint)
}

func TestTokenID(t *testing.T) {
	require.Equal(t, tokenID("a"), tokenID("a"))
	require.NotEqual(t, tokenID("a"), tokenID("b"))
	require.Len(t, tokenID("a"), 16)
}

// Whatever is let in says the same, signature included, as a token that was
// signed: no other spelling of one gets further than that.
func FuzzToken(f *testing.F) {
	s := unstarted(f)
	valid := sign(f, s, signing{})
	want, err := parseToken(valid)
	require.NoError(f, err)
	s.now = func() time.Time { return want.date }
	require.NoError(f, s.testLogin(valid, adminRole, s.Endpoint()))

	f.Add(valid)
	f.Add(flipLast(valid))
	f.Add(valid + "&x=%00")
	f.Add("")
	f.Add("/?")
	f.Add("h/?Action=DbConnect&X-Amz-Credential=a/b/c/d/e&X-Amz-Expires=-1")
	f.Fuzz(func(t *testing.T, text string) {
		for _, byName := range []string{s.Endpoint(), ""} {
			if s.testLogin(text, adminRole, byName) != nil {
				continue
			}
			got, err := parseToken(text)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	})
}
