package dsql

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/stretchr/testify/require"
)

const (
	testKey    = "AKIDEXAMPLE"
	testSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
)

var (
	testEndpoint = Endpoint{DialAddress: public + ":5432", ServerName: public, Region: "us-east-1", ClusterID: testID}
	silent       = newObserver(Config{})
)

// provider is a credentials provider whose results tests choose.
type provider struct {
	calls atomic.Int64
	next  func(ctx context.Context, call int64) (aws.Credentials, error)
}

func (p *provider) Retrieve(ctx context.Context) (aws.Credentials, error) {
	call := p.calls.Add(1)
	if p.next != nil {
		return p.next(ctx, call)
	}
	return aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret}, nil
}

func testSource(p aws.CredentialsProvider, lifetime time.Duration) *TokenSource {
	return newTokenSource(p, testEndpoint, adminUser, lifetime, silent)
}

func TestTokenContents(t *testing.T) {
	for user, action := range map[string]string{"admin": "DbConnectAdmin", "app": "DbConnect", "Admin": "DbConnect"} {
		s := newTokenSource(credentials.NewStaticCredentialsProvider(testKey, testSecret, "session"), testEndpoint, user, 10*time.Minute, silent)
		before := time.Now().Truncate(time.Second)
		token, err := s.Token(t.Context())
		require.NoError(t, err)

		u, err := url.Parse("https://" + token.Reveal())
		require.NoError(t, err)
		require.Equal(t, public, u.Host)
		require.Equal(t, "/", u.Path)
		q := u.Query()
		require.Equal(t, action, q.Get("Action"))
		require.Equal(t, "600", q.Get("X-Amz-Expires"))
		require.Equal(t, "session", q.Get("X-Amz-Security-Token"))
		require.True(t, strings.HasSuffix(q.Get("X-Amz-Credential"), "/us-east-1/dsql/aws4_request"))
		require.WithinRange(t, token.Expires(), before.Add(10*time.Minute), time.Now().Add(10*time.Minute))
	}
}

// A fresh token is kept, an aging one is refreshed in the background, and calls wait for a new one
// when it is unusable.
func TestTokenIsRefreshedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{}
		s := testSource(p, 15*time.Minute)
		first, err := s.Token(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, p.calls.Load())

		time.Sleep(12*time.Minute - time.Second)
		same, err := s.Token(t.Context())
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, first.Reveal(), same.Reveal())
		require.EqualValues(t, 1, p.calls.Load())

		// Aging: this call starts the refresh and still gets the old one.
		time.Sleep(time.Second)
		same, err = s.Token(t.Context())
		require.NoError(t, err)
		require.Equal(t, first.Reveal(), same.Reveal())
		synctest.Wait()
		require.EqualValues(t, 2, p.calls.Load())
		second, err := s.Token(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, first.Reveal(), second.Reveal())

		// Unusable: there was no call while it was aging.
		time.Sleep(time.Hour)
		third, err := s.Token(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 3, p.calls.Load())
		require.Equal(t, time.Now().Add(15*time.Minute), third.Expires().In(time.Local))
	})
}

// Every returned token has its margin left.
func TestTokenMargin(t *testing.T) {
	for _, lifetime := range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, time.Minute, 15 * time.Minute, 7 * 24 * time.Hour} {
		t.Run(lifetime.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testSource(&provider{}, lifetime)
				margin := min(lifetime/10, 30*time.Second)
				for range 400 {
					token, err := s.Token(t.Context())
					require.NoError(t, err)
					require.GreaterOrEqual(t, time.Until(token.Expires()), margin)
					synctest.Wait()
					time.Sleep(lifetime/97 + 1713*time.Microsecond)
				}
			})
		})
	}
}

func TestTokenOneSigningForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		p := &provider{next: func(ctx context.Context, _ int64) (aws.Credentials, error) {
			<-release
			return aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret}, nil
		}}
		s := testSource(p, 15*time.Minute)
		tokens := make([]string, 200)
		var wg sync.WaitGroup
		for i := range tokens {
			wg.Go(func() {
				token, err := s.Token(t.Context())
				require.NoError(t, err)
				tokens[i] = token.Reveal()
			})
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		require.EqualValues(t, 1, p.calls.Load())
		for _, token := range tokens {
			require.Equal(t, tokens[0], token)
		}
	})
}

func TestTokenCallerCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signed := make(chan struct{})
		ended := make(chan error, 1)
		p := &provider{next: func(ctx context.Context, _ int64) (aws.Credentials, error) {
			select {
			case <-signed:
				return aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret}, nil
			case <-ctx.Done():
				ended <- ctx.Err()
				return aws.Credentials{}, ctx.Err()
			}
		}}
		s := testSource(p, 15*time.Minute)
		call := func(ctx context.Context) chan error {
			result := make(chan error, 1)
			go func() { _, err := s.Token(ctx); result <- err }()
			synctest.Wait()
			return result
		}

		// The call that started it is cancelled; the other gets its token.
		ctx, cancel := context.WithCancel(t.Context())
		starter, other := call(ctx), call(t.Context())
		cancel()
		require.ErrorIs(t, <-starter, context.Canceled)
		signed <- struct{}{}
		require.NoError(t, <-other)
		require.EqualValues(t, 1, p.calls.Load())

		// All are cancelled: the signing is too, and the next call starts another.
		time.Sleep(time.Hour)
		ctx, cancel = context.WithCancel(t.Context())
		a, b := call(ctx), call(ctx)
		cancel()
		require.ErrorIs(t, <-a, context.Canceled)
		require.ErrorIs(t, <-b, context.Canceled)
		require.ErrorIs(t, <-ended, context.Canceled)
		next := call(t.Context())
		signed <- struct{}{}
		require.NoError(t, <-next)
		require.EqualValues(t, 3, p.calls.Load())

		_, err := s.Token(ctx) // a good token needs no waiting
		require.NoError(t, err)
		time.Sleep(time.Hour)
		_, err = s.Token(ctx)
		require.ErrorIs(t, err, context.Canceled)
		require.EqualValues(t, 3, p.calls.Load())
	})
}

// The provider fails while the token is aging, which goes unnoticed. When the token is unusable,
// the error is ErrCredentials. After that the source recovers.
func TestTokenProviderDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		p := &provider{next: func(context.Context, int64) (aws.Credentials, error) {
			if down.Load() {
				return aws.Credentials{}, errors.New("STS is down")
			}
			return aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret}, nil
		}}
		s := testSource(p, 15*time.Minute)
		start := time.Now()
		first, err := s.Token(t.Context())
		require.NoError(t, err)

		down.Store(true)
		for time.Since(start) < 14*time.Minute+30*time.Second {
			token, err := s.Token(t.Context())
			require.NoError(t, err, "after %s", time.Since(start))
			require.Equal(t, first.Reveal(), token.Reveal())
			synctest.Wait()
			time.Sleep(time.Second)
		}
		// 12:00 to 14:30, one try every 10 s.
		require.InDelta(t, 15, p.calls.Load()-1, 2)

		_, err = s.Token(t.Context())
		require.ErrorIs(t, err, ErrCredentials)
		require.ErrorContains(t, err, "STS is down")

		down.Store(false)
		_, err = s.Token(t.Context())
		require.NoError(t, err)
	})
}

func TestTokenEndsWithItsCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var expires time.Time
		p := &provider{next: func(context.Context, int64) (aws.Credentials, error) {
			if time.Until(expires) <= 0 { // as the SDK's cache does
				expires = time.Now().Add(10*time.Minute + 300*time.Millisecond)
			}
			return aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret, CanExpire: true, Expires: expires}, nil
		}}
		s := testSource(p, 15*time.Minute)
		token, err := s.Token(t.Context())
		require.NoError(t, err)
		require.Equal(t, expires.Truncate(time.Second), token.Expires().In(time.Local))

		// No error until the credentials expire, nor after that.
		for range 12000 {
			token, err := s.Token(t.Context())
			require.NoError(t, err)
			require.Positive(t, time.Until(token.Expires()))
			synctest.Wait()
			time.Sleep(100 * time.Millisecond)
		}
	})
}

func TestTokenBadCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			credentials aws.Credentials
			says        string
		}{
			"empty":   {aws.Credentials{}, "empty"},
			"expired": {aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret, CanExpire: true, Expires: time.Now().Add(-time.Second)}, "expired at 1999-12-31T23:59:59Z; renew"},
			// The provider does not renew them.
			"about to expire": {aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret, CanExpire: true, Expires: time.Now().Add(time.Second / 2)}, "expired at"},
		} {
			s := testSource(&provider{next: func(context.Context, int64) (aws.Credentials, error) { return c.credentials, nil }}, time.Minute)
			_, err := s.Token(t.Context())
			require.ErrorIs(t, err, ErrCredentials, name)
			require.ErrorContains(t, err, c.says, name)
			require.NotContains(t, err.Error(), testSecret)
		}
	})
}

// A discarded token is replaced by a different one, even within its second.
func TestTokenDiscard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testSource(&provider{}, time.Minute)
		first, err := s.get(t.Context())
		require.NoError(t, err)
		s.discardExpired(first)
		second, err := s.get(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, first.Reveal(), second.Reveal())

		s.discardExpired(first) // was replaced already
		third, err := s.get(t.Context())
		require.NoError(t, err)
		require.Same(t, second, third)
	})
}

func TestTokenAfterTheClockWasSetBack(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	token, err := newToken(public + "/?X-Amz-Date=20260101T120000Z&X-Amz-Expires=900")
	require.NoError(t, err)
	require.True(t, token.usable(now.UnixNano()))
	require.False(t, token.usable(now.Add(-time.Second).UnixNano()), "not valid yet")
}

// A signing ends after signTimeout even if the caller has no deadline.
func TestTokenSigningIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testSource(&provider{next: func(ctx context.Context, _ int64) (aws.Credentials, error) {
			<-ctx.Done()
			return aws.Credentials{}, ctx.Err()
		}}, time.Minute)
		start := time.Now()
		_, err := s.Token(context.Background())
		require.ErrorIs(t, err, ErrCredentials)
		require.Equal(t, signTimeout, time.Since(start))
	})
}

// A provider that ignores its context is abandoned. The next call starts another signing, and a token
// that the abandoned one still returns is used.
func TestTokenProviderHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		p := &provider{next: func(_ context.Context, call int64) (aws.Credentials, error) {
			if call == 1 || call == 3 {
				<-release
			}
			return aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret}, nil
		}}
		s := testSource(p, 15*time.Minute)
		start := time.Now()
		_, err := s.Token(t.Context())
		require.ErrorIs(t, err, ErrCredentials)
		require.ErrorContains(t, err, "not returned within 30s")
		require.Equal(t, abandonAfter, time.Since(start))
		first, err := s.Token(t.Context())
		require.NoError(t, err)
		require.Equal(t, abandonAfter, time.Since(start))

		// The background refresh hangs until the token is unusable, and for longer.
		time.Sleep(12 * time.Minute)
		same, err := s.Token(t.Context())
		require.NoError(t, err)
		require.Equal(t, first.Reveal(), same.Reveal())
		time.Sleep(3 * time.Minute)
		second, err := s.Token(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, first.Reveal(), second.Reveal())
		require.EqualValues(t, 4, p.calls.Load())

		// Late tokens are newer, and are used.
		time.Sleep(time.Minute)
		close(release)
		synctest.Wait()
		late, err := s.Token(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, second.Reveal(), late.Reveal())
		require.EqualValues(t, 4, p.calls.Load())
		require.Zero(t, s.signings)
	})
}

// The number of signings that a hanging provider keeps is bounded, also if callers give up early.
func TestTokenHangingSignings(t *testing.T) {
	for name, patience := range map[string]time.Duration{"abandoned": time.Hour, "cancelled": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				p := &provider{next: func(context.Context, int64) (aws.Credentials, error) {
					<-release
					return aws.Credentials{}, errors.New("late")
				}}
				s := testSource(p, 15*time.Minute)
				call := func() error {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					_, err := s.Token(ctx)
					return err
				}
				for range maxSignings {
					require.Error(t, call())
				}
				start := time.Now()
				err := call()
				require.ErrorIs(t, err, ErrCredentials)
				require.ErrorContains(t, err, "32 calls of the credentials provider have not returned")
				require.Equal(t, start, time.Now())
				require.EqualValues(t, maxSignings, p.calls.Load())

				close(release)
				synctest.Wait()
				require.ErrorContains(t, call(), "late")
				require.EqualValues(t, maxSignings+1, p.calls.Load())
			})
		})
	}
}

// A hook that takes its time holds up no call.
func TestTokenSlowHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := Config{OnToken: func(TokenEvent) { <-release }}
		s := newTokenSource(&provider{}, testEndpoint, adminUser, 15*time.Minute, newObserver(c))
		start := time.Now()
		_, err := s.Token(t.Context())
		require.NoError(t, err)
		time.Sleep(time.Hour)
		_, err = s.Token(t.Context())
		require.NoError(t, err)
		require.Equal(t, start.Add(time.Hour), time.Now())
		close(release)
	})
}

// A denied token is replaced once a minute, and only if it is older than a second.
func TestTokenDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{}
		s := testSource(p, 15*time.Minute)
		denied := func() bool {
			token, err := s.get(t.Context())
			require.NoError(t, err)
			return s.discardDenied(token)
		}
		old, err := s.get(t.Context())
		require.NoError(t, err)
		require.False(t, denied(), "just signed")
		time.Sleep(2 * time.Second)
		require.True(t, denied())
		require.True(t, s.discardDenied(old), "another login had the old token, too")
		for range 29 {
			require.False(t, denied(), "replaced within the last minute")
			time.Sleep(2 * time.Second)
		}
		time.Sleep(2 * time.Second)
		require.True(t, denied())
		require.EqualValues(t, 2, p.calls.Load())
	})
}

// The SDK's cache would return the old key for as long as that is valid.
func TestTokenDeniedRenewsCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{}
		s := testSource(aws.NewCredentialsCache(p), 15*time.Minute)
		token, err := s.get(t.Context())
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		require.True(t, s.discardDenied(token))
		_, err = s.get(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 2, p.calls.Load())
	})
}

// Credentials that expire during the signing make a token with a lifetime of 0.
func TestTokenLifetimeZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signed := 0
		token, err := signToken(t.Context(), &provider{}, 0, func(aws.Credentials) (string, error) {
			signed++
			lives := "0"
			if signed > 1 {
				lives = "900"
			}
			return public + "/?X-Amz-Date=" + time.Now().UTC().Format("20060102T150405Z") + "&X-Amz-Expires=" + lives, nil
		})
		require.NoError(t, err)
		require.Equal(t, 2, signed)
		require.Equal(t, 15*time.Minute, time.Until(token.Expires()))
	})
}

// FuzzNewToken checks that any text gives a token whose times are in order, or an error that does
// not show the text.
func FuzzNewToken(f *testing.F) {
	token, err := testSource(&provider{}, time.Minute).Token(context.Background())
	require.NoError(f, err)
	f.Add(token.Reveal())
	f.Add(public + "/?X-Amz-Date=20261122T120000Z&X-Amz-Expires=604800")
	f.Add(public + "/?X-Amz-Date=20261122T120000Z&X-Amz-Expires=9223372037")
	f.Add(public + "/?X-Amz-Date=20261122T120000Z&X-Amz-Expires=0")
	f.Add(public + "/?X-Amz-Date=00000101T000000Z&X-Amz-Expires=1")
	f.Add(public + "/?X-Amz-Date=99991231T235959Z&X-Amz-Expires=-1&%zz")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := newToken(text)
		if err != nil {
			require.Less(t, len(err.Error()), 100)
			for word := range strings.FieldsSeq(text) {
				require.True(t, len(word) < 20 || !strings.Contains(err.Error(), word))
			}
			return
		}
		require.Equal(t, text, token.Reveal())
		require.LessOrEqual(t, token.signed, token.expires)
		require.LessOrEqual(t, token.signed, token.refreshAt)
		require.LessOrEqual(t, token.refreshAt, token.expires)
		require.LessOrEqual(t, token.unusableAt, token.expires)
		require.LessOrEqual(t, token.signed, token.unusableAt)
		require.NotContains(t, token.String(), text)
	})
}

func BenchmarkTokenCached(b *testing.B) {
	s := testSource(&provider{}, 15*time.Minute)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Token(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTokenSigned(b *testing.B) {
	s := testSource(&provider{}, 15*time.Minute)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.sign(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
