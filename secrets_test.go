package dsql_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
)

// No value, error or log that a program may print shows a token, a signature, a secret key or a
// session token.
func TestSecretsAreNotShown(t *testing.T) {
	const sessionToken = "IQoJb3JpZ2luX2VjSESSION"
	key := server.Credentials()
	server.AllowKey("ASIASECRETS", key.SecretAccessKey, sessionToken)

	var logs bytes.Buffer
	c := server.Config()
	c.Credentials = credentials.NewStaticCredentialsProvider("ASIASECRETS", key.SecretAccessKey, sessionToken)
	c.Logger = slog.New(slog.NewJSONHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))

	misplaced := c
	misplaced.Params = map[string]string{"Password": "hunter2", "search_path": "x", "options": "password=hunter2"}
	shown, err := json.Marshal(misplaced)
	require.NoError(t, err)
	for _, text := range []string{fmt.Sprintf("%+v", misplaced), string(shown)} {
		require.NotContains(t, text, "hunter2")
		require.Contains(t, text, "search_path")
	}
	require.Equal(t, "hunter2", misplaced.Params["Password"])

	source, err := dsql.NewTokenSource(t.Context(), c)
	require.NoError(t, err)
	token, err := source.Token(t.Context())
	require.NoError(t, err)
	u, err := url.Parse("https://" + token.Reveal())
	require.NoError(t, err)
	secrets := []string{token.Reveal(), u.Query().Get("X-Amz-Signature"), "X-Amz", key.SecretAccessKey, sessionToken}

	cc, err := c.ConnConfig(t.Context())
	require.NoError(t, err)
	pool, err := c.PoolConfig(t.Context())
	require.NoError(t, err)
	connector, err := dsql.NewConnector(t.Context(), c)
	require.NoError(t, err)
	db, err := dsql.OpenDB(t.Context(), c)
	require.NoError(t, err)
	defer db.Close()
	live, err := dsql.NewPool(t.Context(), c)
	require.NoError(t, err)
	defer live.Close()
	require.NoError(t, live.Ping(t.Context()))
	conn, err := dsql.Connect(t.Context(), c)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	endpoint, err := c.Endpoint(t.Context())
	require.NoError(t, err)

	values := map[string]any{
		"Config": c, "*Config": &c, "Token": token, "*Token": &token, "TokenSource": source,
		"ConnConfig": cc, "PoolConfig": pool, "Connector": connector, "DB": db, "Pool": live, "Conn": conn, "Endpoint": endpoint,
		"Conn's net.Conn": conn.PgConn().Conn(), "in a struct": struct{ hidden any }{token}, "in a map": map[string]any{"c": c, "t": token},
		"server": server,
	}

	// Errors of every kind that a connect can end with.
	for name, change := range map[string]func(*dsql.Config){
		"wrong secret": func(c *dsql.Config) {
			c.Credentials = credentials.NewStaticCredentialsProvider("ASIASECRETS", key.SecretAccessKey+"x", sessionToken)
		},
		"wrong session": func(c *dsql.Config) {
			c.Credentials = credentials.NewStaticCredentialsProvider("ASIASECRETS", key.SecretAccessKey, sessionToken+"x")
		},
		"unknown role": func(c *dsql.Config) { c.User = "nobody" },
		"provider down": func(c *dsql.Config) {
			c.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return aws.Credentials{}, errors.New("down") })
		},
		"bad params": func(c *dsql.Config) { c.Params = map[string]string{"password": token.Reveal()} },
		"no setting": func(c *dsql.Config) { c.Params = map[string]string{"client_min_messages": "debug"} },
	} {
		broken := c
		change(&broken)
		_, err := dsql.Connect(t.Context(), broken)
		require.Error(t, err, name)
		values["error: "+name] = err
		var refused *pgconn.PgError
		if errors.As(err, &refused) {
			values["PgError: "+name] = refused
		}
	}

	texts := map[string]string{"logs": logs.String()}
	require.Contains(t, texts["logs"], "token signed")
	for name, value := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			texts[name+" "+verb] = fmt.Sprintf(verb, value)
		}
		if text, err := json.Marshal(value); err == nil {
			texts[name+" JSON"] = string(text)
		}
		var line bytes.Buffer
		slog.New(slog.NewTextHandler(&line, nil)).Info("shown", "value", value)
		slog.New(slog.NewJSONHandler(&line, nil)).Info("shown", "value", value)
		texts[name+" slog"] = line.String()
	}
	// testify's diff walks unexported fields and pointers, and calls no methods.
	diff := &recorder{}
	assert.Equal(diff, token, dsql.Token{})
	assert.Equal(diff, source, &dsql.TokenSource{})
	assert.Equal(diff, cc, &pgx.ConnConfig{})
	require.Contains(t, diff.String(), "Diff:")
	texts["testify's diff"] = diff.String()

	for name, text := range texts {
		for i, secret := range secrets {
			require.NotEmpty(t, secret)
			require.False(t, bytes.Contains([]byte(text), []byte(secret)), "%s shows secret %d", name, i)
		}
	}
	require.Contains(t, texts["Config %+v"], "StaticCredentialsProvider", "what it is, not what is in it")
	require.Contains(t, texts["Token %v"], "expires 20")
}

// recorder is a testing.T whose failures go to a buffer.
type recorder struct{ bytes.Buffer }

func (r *recorder) Errorf(format string, args ...any) { fmt.Fprintf(r, format, args...) }
