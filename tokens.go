package dsql

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dsql/auth"

	"github.com/dsqlgo/dsql/internal/awsconfig"
)

const (
	defaultTokenLifetime = 15 * time.Minute

	// A token is replaced in the background after this share of its lifetime. With the default of
	// 15 minutes, three are left, in which an outage of STS goes unnoticed.
	refreshShare = 0.8

	// A token is not used when less than its margin is left: a tenth of its lifetime, at most 30 s.
	// With the default ConnectTimeout, so much time may pass until the server checks the token.
	marginShare = 0.1
	maxMargin   = 30 * time.Second

	// A signing may take this long, calls to STS or the instance's metadata service included.
	signTimeout = 30 * time.Second

	// A fresh token is checked against the wall clock at most this often, since reading the
	// monotonic clock takes half the time. If the machine slept, the next check notices that.
	checkEvery = time.Millisecond

	// After a failed refresh, while the old token is still valid, the next refresh waits for this
	// share of the token's lifetime, at most 10 s.
	retryShare    = 0.02
	maxRetryDelay = 10 * time.Second
)

// Token is a signed IAM token. Printing, logging or marshalling one shows no secret; only Reveal
// does.
type Token struct {
	// A func, since printers that show unexported fields do not call funcs.
	reveal func() string

	// Unix times in nanoseconds: when it was signed, is to be refreshed, is no longer used, and
	// expires. They are wall-clock times, since the monotonic clock stops while a laptop sleeps or
	// a Lambda is frozen.
	signed, refreshAt, unusableAt, expires int64
}

// Reveal returns the token itself, which is the password for the server until it expires. Keep it
// out of logs, URLs and command lines.
func (t Token) Reveal() string {
	if t.reveal == nil {
		return ""
	}
	return t.reveal()
}

// Expires returns when the token expires, to the second. Then the server refuses it for new
// connections; open connections are not affected.
func (t Token) Expires() time.Time { return time.Unix(0, t.expires) }

// String says when the token expires. It does not contain the token.
func (t Token) String() string {
	if t.reveal == nil {
		return "no DSQL token"
	}
	return "DSQL token, expires " + t.Expires().UTC().Format(time.RFC3339)
}

// Format prints String for every verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// MarshalText returns String, for encoding/json and the like.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// LogValue returns String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

func (t Token) lifetime() time.Duration { return time.Duration(t.expires - t.signed) }

// usable reports whether the token may be used at now. It may not if the clock was set back to
// before the signing: then the token is not valid yet.
func (t *Token) usable(now int64) bool { return t.signed <= now && now < t.unusableAt }

// TokenSource signs tokens for one user of one cluster and keeps the current one. It is safe for
// concurrent use and needs no closing. It has no goroutine between signings.
//
// The state of the current token decides what a call does:
//
//	fresh      until 80 % of its lifetime   the call returns it
//	aging      until its margin is left     the call returns it; one refresh runs in the background
//	unusable   then, or if there is none    all calls wait for one signing
//
// If a refresh fails, the aging token stays in use and the next refresh runs a little later. If
// there is no usable token, the waiting calls get the error, and the next call signs again.
type TokenSource struct {
	// sign signs a new token. It is a func, since printers that show unexported fields do not call
	// funcs, and so do not show the credentials.
	sign     func(ctx context.Context) (Token, error)
	observer observer
	current  atomic.Pointer[Token]

	created time.Time
	checked atomic.Int64 // when the current token was last found fresh, in ns after created

	mu       sync.Mutex // guards the fields below
	signing  *signing   // in progress, or nil
	retryAt  int64      // no background refresh before this Unix time in ns
	rejected int64      // when the last rejected token was signed
}

// signing is one signing, which any number of calls wait for.
type signing struct {
	done   chan struct{} // closed when token and err are set
	token  *Token
	err    error
	cancel context.CancelFunc

	// waiting counts the calls that wait for it, and is guarded by the source's mu. When it reaches
	// 0, the signing is cancelled, unless it is a background refresh.
	waiting    int
	background bool
}

// NewTokenSource returns a source of the tokens that c's connections use. It reads the AWS
// environment for what c does not say, but does not sign yet; ctx limits only this reading. The
// error is ErrConfig or ErrCredentials.
func NewTokenSource(ctx context.Context, c Config) (*TokenSource, error) {
	k, err := newConnector(ctx, c)
	if err != nil {
		return nil, err
	}
	return k.tokens, nil
}

func newTokenSource(credentials aws.CredentialsProvider, e Endpoint, user string, lifetime time.Duration, observer observer) *TokenSource {
	s := &TokenSource{observer: observer, created: time.Now()}
	s.checked.Store(-int64(checkEvery))
	generate := auth.GenerateDbConnectAuthToken
	if user == adminUser {
		generate = auth.GenerateDBConnectAdminAuthToken
	}
	s.sign = func(ctx context.Context) (Token, error) {
		return signToken(ctx, credentials, s.rejectedAt(), func(creds aws.Credentials) (string, error) {
			fixed := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return creds, nil })
			return generate(ctx, e.ServerName+"/", e.Region, fixed, func(o *auth.TokenOptions) { o.ExpiresIn = lifetime })
		})
	}
	return s
}

// Token returns a token that is valid for at least a tenth of its lifetime, or 30 s if that is
// less. It waits only if there is no such token, until the signing that all callers share ends or
// ctx does. The error is ErrCredentials or ctx's.
func (s *TokenSource) Token(ctx context.Context) (Token, error) {
	t, err := s.get(ctx)
	if err != nil {
		return Token{}, err
	}
	return *t, nil
}

func (s *TokenSource) get(ctx context.Context) (*Token, error) {
	if t := s.current.Load(); t != nil {
		elapsed := int64(time.Since(s.created))
		if elapsed-s.checked.Load() < int64(checkEvery) {
			return t, nil
		}
		if now := time.Now().UnixNano(); t.usable(now) {
			if now < t.refreshAt {
				s.checked.Store(elapsed)
			} else {
				s.refresh(ctx, now)
			}
			return t, nil
		}
	}
	return s.wait(ctx)
}

// refresh starts a signing in the background, unless one is in progress or has just failed.
func (s *TokenSource) refresh(ctx context.Context, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signing == nil && now >= s.retryAt {
		s.start(ctx).background = true
	}
}

// wait waits for the signing in progress, or starts one.
func (s *TokenSource) wait(ctx context.Context) (*Token, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("dsql: waiting for a token: %w", err)
	}
	s.mu.Lock()
	if t := s.current.Load(); t != nil && t.usable(time.Now().UnixNano()) {
		s.mu.Unlock()
		return t, nil
	}
	f := s.signing
	if f == nil {
		f = s.start(ctx)
	}
	f.waiting++
	s.mu.Unlock()

	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		f.waiting--
		if f.waiting == 0 && !f.background {
			f.cancel()
			if s.signing == f {
				s.signing = nil // later calls must not wait for a cancelled signing
			}
		}
		return nil, fmt.Errorf("dsql: waiting for a token: %w", ctx.Err())
	}
}

// start starts a signing, which does not end with ctx but has its values. s.mu must be held.
func (s *TokenSource) start(ctx context.Context) *signing {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signTimeout)
	f := &signing{done: make(chan struct{}), cancel: cancel}
	s.signing = f
	go func() {
		defer cancel()
		began := time.Now()
		token, err := s.sign(ctx)
		s.finish(ctx, f, token, err, time.Since(began))
	}()
	return f
}

// finish stores the result of a signing and wakes the calls that wait for it.
func (s *TokenSource) finish(ctx context.Context, f *signing, token Token, err error, took time.Duration) {
	s.mu.Lock()
	if err == nil {
		f.token = &token
		s.current.Store(&token)
	} else {
		f.err = err
		if old := s.current.Load(); old != nil {
			s.retryAt = time.Now().Add(min(fraction(retryShare, old.lifetime()), maxRetryDelay)).UnixNano()
		}
	}
	if s.signing == f {
		s.signing = nil
	}
	s.mu.Unlock()
	defer close(f.done)
	e := TokenEvent{Err: err, Background: f.background, Took: took}
	if err == nil {
		e.Expires = token.Expires()
	}
	s.observer.token(ctx, e)
}

// discard removes a token that the server refused, unless it was replaced already. The next token
// is signed in a later second, since two tokens of the same second are equal.
func (s *TokenSource) discard(t *Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.CompareAndSwap(t, nil) {
		s.rejected = t.signed
	}
}

func (s *TokenSource) rejectedAt() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rejected
}

// signToken retrieves credentials and signs a token. It does so again if the token is not usable
// for a reason that ends within a second: the credentials are about to be replaced, a token with a
// lifetime of a second was signed late in that second (tokens count whole seconds), or the token
// was signed in the same second as the one that the server rejected.
func signToken(ctx context.Context, provider aws.CredentialsProvider, rejected int64, generate func(aws.Credentials) (string, error)) (Token, error) {
	for {
		creds, err := awsconfig.Retrieve(ctx, provider)
		if err != nil {
			return Token{}, err
		}
		if left := time.Until(creds.Expires); creds.CanExpire && left < time.Second {
			// Too short for a token. Retrieve again when they have expired, since a cache returns
			// them until then.
			if err := sleep(ctx, left); err != nil {
				return Token{}, fmt.Errorf("%w: those from %s expire within a second: %w", ErrCredentials, awsconfig.SourceOf(creds), err)
			}
			continue
		}

		text, err := generate(creds)
		if err != nil {
			return Token{}, fmt.Errorf("dsql: signing a token: %w", err)
		}
		token, err := newToken(text)
		if err != nil {
			return Token{}, err
		}
		now := time.Now()
		if token.signed != rejected && token.usable(now.UnixNano()) {
			return token, nil
		}
		if err := sleep(ctx, time.Second-time.Duration(now.Nanosecond())); err != nil {
			return Token{}, fmt.Errorf("dsql: signing a token: %w", err)
		}
	}
}

// sleep waits for d. If ctx ends first, it returns ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// newToken takes a token's times from its text, since the signer shortens its lifetime to that of
// the credentials. Its errors do not contain the text.
func newToken(text string) (Token, error) {
	u, err := url.Parse("https://" + text)
	if err != nil {
		return Token{}, fmt.Errorf("dsql: the signer returned something other than a token")
	}
	query := u.Query()
	signed, dateErr := time.Parse("20060102T150405Z", query.Get("X-Amz-Date"))
	seconds, expiresErr := strconv.Atoi(query.Get("X-Amz-Expires"))
	// Times beyond SigV4's seven days, or outside the years that Unix nanoseconds reach, would
	// overflow. The lifetime is 0 if the credentials expired during the signing.
	if dateErr != nil || expiresErr != nil || seconds < 0 || seconds > int(maxTokenLifetime/time.Second) || signed.Year() < 1970 || signed.Year() > 2200 {
		return Token{}, fmt.Errorf("dsql: the signer returned a token without a date and a lifetime")
	}
	life := time.Duration(seconds) * time.Second
	expires := signed.Add(life)
	return Token{
		reveal:     func() string { return text },
		signed:     signed.UnixNano(),
		refreshAt:  signed.Add(fraction(refreshShare, life)).UnixNano(),
		unusableAt: expires.Add(-min(fraction(marginShare, life), maxMargin)).UnixNano(),
		expires:    expires.UnixNano(),
	}, nil
}

func fraction(f float64, d time.Duration) time.Duration { return time.Duration(f * float64(d)) }
