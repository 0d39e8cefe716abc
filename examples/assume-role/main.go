// Assume-role connects with an IAM role that is assumed for it, in the account that
// owns the cluster for instance. One call to STS serves an hour of tokens.
//
// A small STS of this program's own, on loopback, gives out the role's credentials, and a local
// endpoint takes the tokens that these sign.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

const (
	roleARN    = "arn:aws:iam::123456789012:role/reports"
	externalID = "customer-42"
	baseKey    = "AKIAEXAMPLEBASE"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	server, err := dsqltest.Start(ctx)
	if err != nil {
		return err
	}
	defer server.Close()

	// What stands for AWS: the endpoint of STS, and a role whose key the cluster knows.
	role := session{"ASIAEXAMPLEROLE", rand.Text(), rand.Text()}
	server.AllowKey(role.key, role.secret, role.token)
	var calls atomic.Int64
	sts := httptest.NewServer(role.serve(&calls))
	defer sts.Close()
	if err := os.Setenv("AWS_ENDPOINT_URL_STS", sts.URL); err != nil {
		return err
	}
	defer os.Unsetenv("AWS_ENDPOINT_URL_STS")

	config := dsql.Config{
		Host: server.Endpoint(),
		User: "app",

		// These may do nothing but assume the role. Left out, they are those of
		// the environment, the profile, or the machine.
		Credentials:     credentials.NewStaticCredentialsProvider(baseKey, rand.Text(), ""),
		RoleARN:         roleARN,
		RoleSessionName: "nightly-report",
		ExternalID:      externalID, // the role's trust policy asks for it

		DialAddress: server.Addr(),
		RootCAs:     server.RootCAs(),
	}

	without := config
	without.ExternalID = ""
	if _, err := dsql.Connect(ctx, without); errors.Is(err, dsql.ErrCredentials) {
		fmt.Fprintln(out, "without the external ID:", reason(err))
	} else {
		return fmt.Errorf("the role could be assumed without its external ID: %w", err)
	}

	calls.Store(0)
	pool, err := dsql.NewPool(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	for range 3 {
		pool.Reset() // so that the next query opens a connection
		var user string
		if err := pool.QueryRow(ctx, "select current_user").Scan(&user); err != nil {
			return err
		}
		fmt.Fprintln(out, "connected as", user)
	}
	fmt.Fprintln(out, "calls to STS:", calls.Load())
	return nil
}

// reason is the service's own word, which the SDK puts last.
func reason(err error) string {
	text := err.Error()
	return text[strings.LastIndex(text, "AccessDenied"):]
}

// session is what STS gives out: temporary credentials.
type session struct{ key, secret, token string }

// serve is AssumeRole of the STS API, as far as it is needed here.
func (s session) serve(calls *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		w.Header().Set("Content-Type", "text/xml")
		if !strings.Contains(r.Header.Get("Authorization"), "Credential="+baseKey+"/") ||
			r.PostFormValue("RoleArn") != roleARN || r.PostFormValue("ExternalId") != externalID {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>`+
				`<Code>AccessDenied</Code><Message>not authorized to perform: sts:AssumeRole</Message></Error></ErrorResponse>`)
			return
		}
		fmt.Fprintf(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>`+
			`<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>%s</Expiration>`+
			`</Credentials></AssumeRoleResult></AssumeRoleResponse>`,
			s.key, s.secret, s.token, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	})
}
