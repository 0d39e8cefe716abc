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

	// A token is replaced in the background once this share of its life is
	// gone: three minutes before the end of the default 15, long enough for STS
	// to be down for a while and recover unnoticed.
	refreshShare = 0.8

	// A token with less left than its margin is never handed out: a tenth of its life,
	// at most 30 s, which is what the default ConnectTimeout may spend between
	// taking a token and the server's look at it.
	marginShare = 0.1
	maxMargin   = 30 * time.Second

	// One signing, calls to STS or the instance's metadata included, is given up after this.
	signTimeout = 30 * time.Second

	// A token that was fresh is taken for fresh this much longer without another look
	// at the wall clock, which costs twice what the monotonic clock does. A
	// machine that slept meanwhile is noticed by the next look.
	lookEvery = time.Millisecond

	// After a failed refresh, while the old token is still good, the next one
	// waits for this share of the token's life, at most 10 s.
	retryShare    = 0.02
	maxRetryDelay = 10 * time.Second
)

// Token is a signed IAM token. Printing, logging or marshalling one shows
// nothing secret; only Reveal does.
type Token struct {
	// A func, since a printer that walks unexported fields stops at one.
	reveal func() string

	// Unix time in nanoseconds: when it was signed, is to be replaced, has only its
	// margin left, and expires. Wall-clock time, since a monotonic clock
	// stands still while a laptop sleeps or a Lambda is frozen.
	signed, aging, dead, expires int64
}

// Reveal returns the token itself: the password that the server asks for. It
// is as good as one until it expires, so keep it out of logs, URLs and
// command lines.
func (t Token) Reveal() string {
	if t.reveal == nil {
		return ""
	}
	return t.reveal()
}

// Expires returns when the server stops taking the token for new connections,
// to the second. Open connections are not affected.
func (t Token) Expires() time.Time { return time.Unix(0, t.expires) }

// String says when the token expires, and nothing secret.
func (t Token) String() string {
	if t.reveal == nil {
		return "no DSQL token"
	}
	return "DSQL token, expires " + t.Expires().UTC().Format(time.RFC3339)
}

// Format keeps every verb to String.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// MarshalText marshals String, for encoding/json and its like.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// LogValue logs String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

func (t Token) life() time.Duration { return time.Duration(t.expires - t.signed) }

// good tells whether the token may be handed out at now. A clock that was set
// back to before the signing makes it worthless: it was signed for a time that
// has not come.
func (t *Token) good(now int64) bool { return t.signed <= now && now < t.dead }

// TokenSource signs tokens for one user of one cluster and keeps the current
// one. It is safe for concurrent use. It has no goroutine of its own and needs
// no closing: what it starts ends within 30 seconds.
//
// The current token is in one of three ages, which decide what a call does:
//
//	fresh: until 80 % of its life is gone     handed out
//	aging: until its margin before the end    handed out; one refresh runs in the background
//	dead:  then, or when there is none        calls wait for one signing, together
//
// A refresh that fails leaves an aging token in use and is tried again a
// little later; for a dead one the waiting calls get the error, and the next call
// tries again.
type TokenSource struct {
	// sign makes a new token. It is a func, which hides the credentials from
	// anything that prints a TokenSource.
	sign     func(ctx context.Context) (Token, error)
	observer observer
	current  atomic.Pointer[Token]

	began  time.Time    // when the source was made
	looked atomic.Int64 // how long after that the current token was last seen to be fresh

	mu       sync.Mutex // guards what follows
	flight   *flight    // the signing under way
	retryAt  int64      // no background refresh before (Unix time in ns)
	rejected int64      // when the last dropped token was signed
}

// flight is one signing that any number of calls wait for.
type flight struct {
	done   chan struct{} // closed when token and err are set
	token  *Token
	err    error
	cancel context.CancelFunc

	// The calls that still wait, guarded by the source's mu. When the last one
	// gives up, a signing that was started for them is cancelled.
	waiting    int
	background bool
}

// NewTokenSource returns the source of the tokens that c's connections use. It
// reads the AWS environment where c leaves that open, but signs nothing yet;
// ctx bounds only this reading. The error is ErrConfig or ErrCredentials.
func NewTokenSource(ctx context.Context, c Config) (*TokenSource, error) {
	k, err := newConnector(ctx, c)
	if err != nil {
		return nil, err
	}
	return k.tokens, nil
}

func newTokenSource(credentials aws.CredentialsProvider, e Endpoint, user string, lifetime time.Duration, observer observer) *TokenSource {
	s := &TokenSource{observer: observer, began: time.Now()}
	s.looked.Store(-int64(lookEvery))
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

// Token returns a token that is good for at least its margin: a tenth of its
// life, at most 30 s. It waits only when there is no good token, until ctx ends
// or the one signing that all callers share is done. The error is
// ErrCredentials, or ctx's.
func (s *TokenSource) Token(ctx context.Context) (Token, error) {
	t, err := s.get(ctx)
	if err != nil {
		return Token{}, err
	}
	return *t, nil
}

func (s *TokenSource) get(ctx context.Context) (*Token, error) {
	if t := s.current.Load(); t != nil {
		elapsed := int64(time.Since(s.began))
		if elapsed-s.looked.Load() < int64(lookEvery) {
			return t, nil
		}
		if now := time.Now().UnixNano(); t.good(now) {
			if now < t.aging {
				s.looked.Store(elapsed)
			} else {
				s.refresh(ctx, now)
			}
			return t, nil
		}
	}
	return s.wait(ctx)
}

// refresh starts a background signing, unless one is under way or has just failed.
func (s *TokenSource) refresh(ctx context.Context, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight == nil && now >= s.retryAt {
		s.start(ctx).background = true
	}
}

// wait joins the signing under way, or starts one.
func (s *TokenSource) wait(ctx context.Context) (*Token, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("dsql: waiting for a token: %w", err)
	}
	s.mu.Lock()
	if t := s.current.Load(); t != nil && t.good(time.Now().UnixNano()) {
		s.mu.Unlock()
		return t, nil
	}
	f := s.flight
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
			if s.flight == f {
				s.flight = nil // later calls must not join a signing that is cancelled
			}
		}
		return nil, fmt.Errorf("dsql: waiting for a token: %w", ctx.Err())
	}
}

// start begins a signing that outlives its caller's context but keeps its
// values. s.mu is held.
func (s *TokenSource) start(ctx context.Context) *flight {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signTimeout)
	f := &flight{done: make(chan struct{}), cancel: cancel}
	s.flight = f
	go func() {
		defer cancel()
		began := time.Now()
		token, err := s.sign(ctx)
		s.finish(ctx, f, token, err, time.Since(began))
	}()
	return f
}

// finish ends a signing: it stores the token and wakes the calls that wait for it.
func (s *TokenSource) finish(ctx context.Context, f *flight, token Token, err error, took time.Duration) {
	s.mu.Lock()
	if err == nil {
		f.token = &token
		s.current.Store(&token)
	} else {
		f.err = err
		if old := s.current.Load(); old != nil {
			s.retryAt = time.Now().Add(min(share(retryShare, old.life()), maxRetryDelay)).UnixNano()
		}
	}
	if s.flight == f {
		s.flight = nil
	}
	s.mu.Unlock()
	defer close(f.done)
	e := TokenEvent{Err: err, Background: f.background, Took: took}
	if err == nil {
		e.Expires = token.Expires()
	}
	s.observer.token(ctx, e)
}

// drop forgets a token that the server refused, unless it is already replaced.
// The next one is signed in a later second, since two tokens of one second
// are the same.
func (s *TokenSource) drop(t *Token) {
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

// signToken asks for credentials and signs, again where what came out is over too soon
// for reasons that pass within a second: credentials about to be replaced,
// a token of one second signed late in it (tokens count whole seconds), or one
// of the same second as the token that the server rejected.
func signToken(ctx context.Context, provider aws.CredentialsProvider, rejected int64, generate func(aws.Credentials) (string, error)) (Token, error) {
	for {
		creds, err := awsconfig.Retrieve(ctx, provider)
		if err != nil {
			return Token{}, err
		}
		if left := time.Until(creds.Expires); creds.CanExpire && left < time.Second {
			// Too short for a token. The next ones are asked for when these are over, since a
			// cache returns these until then.
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
		if token.signed != rejected && token.good(now.UnixNano()) {
			return token, nil
		}
		if err := sleep(ctx, time.Second-time.Duration(now.Nanosecond())); err != nil {
			return Token{}, fmt.Errorf("dsql: signing a token: %w", err)
		}
	}
}

// sleep waits for d, or until ctx ends; then it returns its error.
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

// newToken reads a token's times from the token itself, since the signer
// shortens its life to that of the credentials. Its errors say nothing of the text.
func newToken(text string) (Token, error) {
	u, err := url.Parse("https://" + text)
	if err != nil {
		return Token{}, fmt.Errorf("dsql: the signer returned something other than a token")
	}
	query := u.Query()
	signed, dateErr := time.Parse("20060102T150405Z", query.Get("X-Amz-Date"))
	seconds, expiresErr := strconv.Atoi(query.Get("X-Amz-Expires"))
	// Beyond SigV4's seven days, or outside the years that Unix nanoseconds reach, times would wrap
	// around. A life of no second is that of credentials which ended while it was signed.
	if dateErr != nil || expiresErr != nil || seconds < 0 || seconds > int(maxTokenLifetime/time.Second) || signed.Year() < 1970 || signed.Year() > 2200 {
		return Token{}, fmt.Errorf("dsql: the signer returned a token without a date and a lifetime")
	}
	life := time.Duration(seconds) * time.Second
	expires := signed.Add(life)
	return Token{
		reveal:  func() string { return text },
		signed:  signed.UnixNano(),
		aging:   signed.Add(share(refreshShare, life)).UnixNano(),
		dead:    expires.Add(-min(share(marginShare, life), maxMargin)).UnixNano(),
		expires: expires.UnixNano(),
	}, nil
}

func share(of float64, d time.Duration) time.Duration { return time.Duration(of * float64(d)) }
