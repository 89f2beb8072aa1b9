package sender

import (
	"context"
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// tokenTimeout is how long a token URL may take. It is below an attempt's usual timeout, so that
	// the attempt can report what it waited for.
	tokenTimeout = 10 * time.Second

	// tokenPause is how long a token URL that failed is not asked again. Attempts of a callback fail
	// at the same time, and a server may lock a client out that is refused often.
	tokenPause = time.Second
	renewPause = 10 * time.Second // the same while there is a token

	// A token is renewed in the background when a fifth of its life is left, at most maxRenewAhead,
	// and is not used in the last twentieth, at most maxTokenSkew: it has to arrive, too.
	maxRenewAhead = time.Minute
	maxTokenSkew  = 5 * time.Second

	maxRenewals = 16 // in the background at the same time, beside what attempts wait for
)

// tokens has the access tokens of callbacks. A callback has one token, which its attempts share. At
// most one request for a token of a callback is under way, no matter how many attempts wait for it.
type tokens struct {
	get func(context.Context, string, *ClientCredentials) (*accessToken, error) // from the token URL

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	run    sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	of       *lru.Cache[string, *tokenOf] // by Request.Callback
	renewals int                          // under way in the background
}

// tokenOf is what is known of one callback's token.
type tokenOf struct {
	credentials ClientCredentials
	token       *accessToken // nil: there is none
	request     *tokenRequest
	failed      error // why there was no token the last time
	failedAt    time.Time
}

// accessToken is a token in the form in which it is sent.
type accessToken struct {
	authorization func() string // see Auth
	got           time.Time
	renew, end    time.Time // zero: it has no end
}

// tokenRequest is a request for a token that is under way. Its result may be read once done is
// closed.
type tokenRequest struct {
	done  chan struct{}
	token *accessToken
	err   error
}

// tokenError is why there is no access token, in our own words: what the server at the token URL
// responses may repeat the client's secret.
type tokenError struct {
	reason     string
	retryAfter time.Duration
}

func (e *tokenError) Error() string { return e.reason }

func newTokens(get func(context.Context, string, *ClientCredentials) (*accessToken, error)) *tokens {
	of, _ := lru.New[string, *tokenOf](maxCallbacks) // it fails only without a size
	t := &tokens{get: get, of: of}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// close ends the requests under way.
func (t *tokens) close() {
	t.mu.Lock()
	t.closed = true
	t.cancel()
	t.mu.Unlock()
	t.run.Wait()
}

// token returns a callback's token. If there is none it waits until there is one, or ctx has ended;
// fresh reports that the token is the result of that.
func (t *tokens) token(
	ctx context.Context, callback string, c *ClientCredentials,
) (_ *accessToken, fresh bool, _ error) {
	t.mu.Lock()
	of, now := t.about(callback, c), time.Now()
	if token := of.token; token != nil && (token.end.IsZero() || now.Before(token.end)) {
		if !token.renew.IsZero() && now.After(token.renew) {
			t.renewLocked(callback, of, now)
		}
		t.mu.Unlock()
		return token, false, nil
	}
	if of.request == nil && of.failed != nil && now.Sub(of.failedAt).Abs() < tokenPause {
		err := of.failed
		t.mu.Unlock()
		return nil, false, err
	}
	if t.closed {
		t.mu.Unlock()
		return nil, false, errClosed
	}
	if of.request == nil {
		t.askLocked(callback, of, func() {})
	}
	request := of.request
	t.mu.Unlock()
	select {
	case <-request.done:
		return request.token, true, request.err
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
}

// refused takes note that a receiver has responded with 401 to a token. It reports whether another token
// may help: not if this one was got a moment ago, because a receiver that refuses everything must
// not cause a request for each attempt.
func (t *tokens) refused(callback string, c *ClientCredentials, token *accessToken) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.about(callback, c)
	if of.token == token {
		if time.Since(token.got) < tokenPause {
			return false
		}
		of.token = nil
	}
	return true
}

// about returns what is known of a callback's token. Other credentials start without a token.
func (t *tokens) about(callback string, c *ClientCredentials) *tokenOf {
	if of, known := t.of.Get(callback); known && of.credentials == *c {
		return of
	}
	of := &tokenOf{credentials: *c}
	t.of.Add(callback, of)
	return of
}

// forget forgets a callback's token and credentials. A request for a token that is under way ends in vain.
func (t *tokens) forget(callback string) { t.of.Remove(callback) }

// renewLocked begins to get another token while the present one is in use.
func (t *tokens) renewLocked(callback string, of *tokenOf, now time.Time) {
	if of.request != nil || t.closed || t.renewals >= maxRenewals || now.Sub(of.failedAt).Abs() < renewPause {
		return
	}
	t.renewals++
	t.askLocked(callback, of, func() { t.renewals-- })
}

// askLocked begins a request for a token. Ended is called when it has ended.
func (t *tokens) askLocked(callback string, of *tokenOf, ended func()) {
	request := &tokenRequest{done: make(chan struct{})}
	of.request = request
	t.run.Go(func() {
		ctx, cancel := context.WithTimeoutCause(t.ctx, tokenTimeout, errTimeout)
		defer cancel()
		request.token, request.err = t.get(ctx, callback, &of.credentials)
		t.mu.Lock()
		defer t.mu.Unlock()
		of.request, of.failed = nil, request.err
		if request.err != nil {
			of.failedAt = time.Now()
		} else {
			of.token = request.token
		}
		ended()
		close(request.done)
	})
}

// sendWithToken makes an attempt with an access token. If the receiver responds with 401 to a token that
// was kept, it is asked once more with a new one.
func (s *Sender) sendWithToken(ctx context.Context, r *Request, a *Attempt) {
	credentials := r.Auth.credentials()
	waiting, cancel := context.WithDeadlineCause(ctx, a.At.Add(r.timeout()), errTimeout)
	defer cancel()
	token, fresh, err := s.tokens.token(waiting, r.Callback, credentials)
	if r.Inspect != nil {
		r.Inspect.Token = time.Since(a.At)
	}
	if err != nil {
		s.failToken(ctx, r, err, a)
		return
	}
	r.Auth.value = token.authorization
	s.send(ctx, r, a)
	if a.Status != http.StatusUnauthorized || fresh || !s.tokens.refused(r.Callback, credentials, token) {
		return
	}
	if token, _, err = s.tokens.token(waiting, r.Callback, credentials); err != nil {
		s.failToken(ctx, r, err, a)
		return
	}
	*a = Attempt{At: a.At}
	r.Auth.value = token.authorization
	s.send(ctx, r, a)
}

// failToken sets the outcome of an attempt for which there is no token. If the receiver has refused the one that was
// kept, what it responded stays: its status is 401.
func (s *Sender) failToken(ctx context.Context, r *Request, err error, a *Attempt) {
	why := "the token URL: "
	if a.Status == http.StatusUnauthorized {
		why = "the receiver refused the token, and for another one " + why
	}
	a.Excerpt = ""
	switch failed, ok := err.(*tokenError); { //nolint:errorlint // nobody wraps it
	case ctx.Err() != nil:
		a.fail(Cancelled, "broken off by the relay")
	case s.closed.Load():
		a.fail(Cancelled, "the relay is stopping")
	case ok:
		a.RetryAfter = failed.retryAfter
		a.fail(TokenFailed, why+failed.reason)
	default:
		a.fail(TokenFailed, why+"no answer within "+r.timeout().String())
	}
}
