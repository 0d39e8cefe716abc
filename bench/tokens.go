package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/dsql/auth"

	"github.com/dsqlgo/dsql"
)

// tokens compares signing for each connection, as AWS's own helper does it, with the cache.
func tokens(ctx context.Context, _ *endpoint, t *table) error {
	const host, region = "vftmkydwxvxys6asbsc6ih2the.dsql.us-east-1.on.aws", "us-east-1"
	static := aws.NewCredentialsCache(credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", ""))
	source, err := dsql.NewTokenSource(ctx, dsql.Config{Host: host, Credentials: static})
	if err != nil {
		return err
	}
	sign := func() error {
		_, err := auth.GenerateDBConnectAdminAuthToken(ctx, host+"/", region, static)
		return err
	}
	cached := func() error {
		_, err := source.Token(ctx)
		return err
	}
	timed := func(f func() error) func() (float64, error) {
		return func() (float64, error) {
			r := testing.Benchmark(func(b *testing.B) {
				for b.Loop() {
					if err := f(); err != nil {
						b.Fatal(err)
					}
				}
			})
			if r.N == 0 {
				return 0, fmt.Errorf("failed")
			}
			return float64(r.T.Nanoseconds()) / float64(r.N), nil
		}
	}
	counted := func(f func() error) func() (float64, error) {
		return func() (float64, error) { return testing.AllocsPerRun(1000, func() { err = f() }), err }
	}
	if err := t.compare(ctx, "token", "ns", 5, variant{"signed each time", timed(sign)}, variant{"cached", timed(cached)}); err != nil {
		return err
	}
	return t.compare(ctx, "token, allocations", "", 1, variant{"signed each time", counted(sign)}, variant{"cached", counted(cached)})
}
