package dsql

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dsql/auth"

	"github.com/dsqlgo/dsql/internal/awsconfig"
)

const (
	// A signing may take this long, calls to STS or the instance's metadata service included. After
	// abandonAfter the source no longer waits for a provider that ignores the end of its context.
	signTimeout  = 30 * time.Second
	abandonAfter = signTimeout + time.Second

	// At most this many signings of a source run at once; all but one of them were abandoned or
	// cancelled, and their provider has not returned yet. With 32, a provider may hang for a quarter of
	// an hour before the source stops calling it.
	maxSignings = 32

	// A fresh token is checked against the wall clock at most this often, since reading the monotonic
	// clock takes half the time. If the machine slept, the next check notices that.
	checkEvery = time.Millisecond

	// After a failed refresh, while the old token is still valid, the next refresh waits for this share
	// of the token's lifetime, at most 10 s.
	retryShare    = 0.02
	maxRetryDelay = 10 * time.Second

	// A token that the server denied is replaced if it is older than minDeniedAge, once in renewInterval.
	// If a policy denies every login, these are the only ones that are made twice.
	minDeniedAge  = 2 * time.Second // times of signing are whole seconds, so the real age is above 1 s
	renewInterval = time.Minute
)

// TokenSource signs tokens for one user of one cluster and keeps the current one. It is safe for
// concurrent use and needs no closing. It has no goroutine between signings.
//
// The state of the current token decides what a call does:
//
//	fresh      until 80 % of its lifetime   the call returns it
//	aging      until its margin is left     the call returns it; one refresh runs in the background
//	unusable   then, or if there is none    all calls wait for one signing
//
// The server's refusal can make a token unusable earlier: see discardExpired and discardDenied.
//
// If a refresh fails, the aging token stays in use and the next refresh runs a little later. If there
// is no usable token, the waiting calls get the error, and the next call signs again. A signing is:
//
//	running     calls wait for it             until the provider returns, or abandonAfter is over
//	cancelled   the last call gave up         until the provider returns
//	abandoned   the calls got an error        until the provider returns
//
// A cancelled or abandoned signing does not keep the next call from starting another. If it still
// returns a token, the source uses that.
type TokenSource struct {
	// sign signs a new token. It is a func, since printers that show unexported fields do not call
	// funcs, and so do not show the credentials.
	sign     func(ctx context.Context) (Token, error)
	renew    func() // has the provider forget the credentials that it keeps
	observer observer
	current  atomic.Pointer[Token]

	created time.Time
	checked atomic.Int64 // when the current token was last found fresh, in ns after created

	mu       sync.Mutex // guards the fields below
	signing  *signing   // the running one, or nil
	signings int        // of all states
	retryAt  int64      // no background refresh before this Unix time in ns
	renewAt  int64      // no replacement of a denied token before this Unix time in ns
	rejected int64      // when the last discarded token was signed
}

// signing is one signing, which any number of calls wait for.
type signing struct {
	done       chan struct{} // closed when token and err may be read
	token      *Token
	err        error
	cancel     context.CancelFunc
	background bool
	start      time.Time

	// These are guarded by the source's mu. When no call waits any more, the signing is cancelled,
	// unless it runs in the background.
	waiting int
	ended   bool // token and err are set
}

// NewTokenSource returns a source of the tokens that c's connections use. It reads the AWS
// environment for what c does not say, but does not sign yet; ctx limits only this reading. The error
// is ErrConfig or ErrCredentials.
func NewTokenSource(ctx context.Context, c Config) (*TokenSource, error) {
	k, err := newConnector(ctx, c)
	if err != nil {
		return nil, err
	}
	return k.tokens, nil
}

func newTokenSource(credentials aws.CredentialsProvider, e Endpoint, user string, lifetime time.Duration, observer observer) *TokenSource {
	s := &TokenSource{observer: observer, created: time.Now(), renew: func() {}}
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
	if cache, ok := credentials.(*aws.CredentialsCache); ok {
		s.renew = cache.Invalidate
	}
	return s
}

// Token returns a token that is valid for at least a tenth of its lifetime, or 30 s if that is less.
// It waits only if there is no such token, until the signing that all callers share ends or ctx does.
// The error is ErrCredentials or ctx's.
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

// refresh starts a signing in the background, unless one is running or has just failed.
func (s *TokenSource) refresh(ctx context.Context, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signing == nil && now >= s.retryAt && s.signings < maxSignings {
		s.start(ctx, true)
	}
}

// wait waits for the running signing, or starts one.
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
		if s.signings == maxSignings {
			s.mu.Unlock()
			return nil, fmt.Errorf("%w: %d calls of the credentials provider have not returned; make it heed its context, and restart the process if they never return", ErrCredentials, maxSignings)
		}
		f = s.start(ctx, false)
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
func (s *TokenSource) start(ctx context.Context, background bool) *signing {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signTimeout)
	f := &signing{done: make(chan struct{}), cancel: cancel, background: background, start: time.Now()}
	s.signing = f
	s.signings++
	abandon := time.AfterFunc(abandonAfter, func() {
		s.finish(ctx, f, Token{}, fmt.Errorf("%w: the credentials provider has not returned within %s, nor when its context ended", ErrCredentials, signTimeout), false)
	})
	go func() {
		defer cancel()
		token, err := s.sign(ctx)
		abandon.Stop()
		s.finish(ctx, f, token, err, true)
	}()
	return f
}

// finish stores the result of a signing, and wakes the calls that wait for it. returned says that the
// provider did.
func (s *TokenSource) finish(ctx context.Context, f *signing, token Token, err error, returned bool) {
	s.mu.Lock()
	if returned {
		s.signings--
	}
	if f.ended && err != nil {
		s.mu.Unlock()
		return // its calls have an error already
	}
	abandoned := f.ended
	old := s.current.Load()
	switch {
	case err != nil && old != nil:
		s.retryAt = time.Now().Add(min(fraction(retryShare, old.lifetime()), maxRetryDelay)).UnixNano()
	case err == nil && (!abandoned || old == nil || old.expires < token.expires):
		s.current.Store(&token)
	}
	if !abandoned {
		f.ended, f.err = true, err
		if err == nil {
			f.token = &token
		}
	}
	if s.signing == f {
		s.signing = nil
	}
	s.mu.Unlock()
	e := TokenEvent{Err: err, Background: f.background || abandoned, Took: time.Since(f.start)}
	if err == nil {
		e.Expires = token.Expires()
	}
	s.observer.logToken(ctx, e)
	if !abandoned {
		close(f.done)
	}
	s.observer.onToken(e) // after the calls were woken, since it may be slow
}

// discardExpired discards t, which the server called expired, unless it was replaced already.
func (s *TokenSource) discardExpired(t *Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.discard(t)
}

// discardDenied reports whether a login that was denied with t may succeed with another token: the
// key that signed t may have been rotated or revoked since. If so, it discards t.
func (s *TokenSource) discardDenied(t *Token) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.Load() != t {
		return true // replaced already
	}
	now := time.Now().UnixNano()
	if now < t.signed+int64(minDeniedAge) || now < s.renewAt {
		return false
	}
	s.renewAt = now + int64(renewInterval)
	s.discard(t)
	s.renew()
	return true
}

// discard makes the next call sign a token. That is signed in a later second than t, since two tokens
// of the same second are equal. s.mu must be held.
func (s *TokenSource) discard(t *Token) {
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
