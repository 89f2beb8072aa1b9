package audatex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
)

// AuthStyle is how the client's id and secret are sent to the token endpoint. It is never found out
// by trial, which would send a refresh token twice.
type AuthStyle string

// The two styles that the vendor accepts.
const (
	AuthForm  AuthStyle = "form"
	AuthBasic AuthStyle = "basic"
)

// TokensConfig configures Tokens. AuthURL and Scopes are only for consents.
type TokensConfig struct {
	AuthURL, TokenURL string
	ClientID          string
	ClientSecret      relay.Secret
	AuthStyle         AuthStyle // AuthForm if empty
	Scopes            []string

	// Timeout of one token request; 30 s if zero.
	Timeout   time.Duration
	UserAgent string
	Store     TokenStore
	// Budget shared with Client.
	Budget  *Budget
	Metrics *Metrics
	// Logger; slog.Default() if nil.
	Logger *slog.Logger
	// Exclusive means that no other process works on this store (the embedded store under its file lock). The intent of
	// another process then belongs to a dead one, and is taken over at once instead of at its deadline.
	Exclusive bool
	// Lease returns the lease on a connection's shard, or false if this process holds none. Only the owner refreshes,
	// because a refresh token must not be sent twice. It is nil if there are no leases.
	Lease func(connection string) (Lease, bool)
	// Keep keeps a good access token in memory while the lease is held. Its record is not read again until the token is
	// due. The caller must call Session.TokenReplaced when another process has written the record.
	Keep bool
	// DialContext replaces the network's; nil means the real one.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Lease is what Tokens needs of the lease on a connection's shard; shard.Lease implements it.
type Lease interface {
	Epoch() uint64
	// Valid is called before a refresh is announced, and again before it is sent.
	Valid() bool
	// Superseded is called with a higher epoch found in a record.
	Superseded(epoch uint64)
}

// always is a lease that is always valid.
type always struct{}

func (always) Epoch() uint64     { return 0 }
func (always) Valid() bool       { return true }
func (always) Superseded(uint64) {}

// Tokens keeps the access tokens of all connections fresh. Its rule: a rotated refresh token is stored before the
// access token that came with it is used. A refresh runs in the background and to its end, one at a time per
// connection, and no caller's context ends it. It is safe for concurrent use.
type Tokens struct {
	cfg    TokensConfig
	http   *http.Client
	host   *circuit
	log    *slog.Logger
	nonce  string
	starts context.Context // ends when Close begins: nothing new is sent
	stop   context.CancelFunc
	works  context.Context // ends when Close has waited long enough
	kill   context.CancelFunc

	mu      sync.Mutex
	closed  bool
	flights sync.WaitGroup
	states  map[string]*tokenState
	// replacements counts what replaced is set to, so that no state has the number of an earlier one.
	replacements uint64
}

// tokenState is what is known about a connection besides its record. Losing it costs no more than a request.
type tokenState struct {
	flight *flight
	// rejected is the access token that must no longer be used; judged is the last one reported as
	// such, whether or not it has been refreshed.
	rejected, judged relay.Secret
	// failures counts the failed refreshes of tried in a row; no refresh begins before notBefore.
	tried     relay.Secret
	failures  int
	notBefore time.Time
	lastErr   error
	// kept is a good access token, nil if none is known. Its record was read after replaced was last
	// set, by which a replacement of the record is known.
	kept     *keptToken
	replaced uint64
}

// flight is one refresh under way.
type flight struct {
	done  chan struct{}
	token relay.Secret
	err   error
}

// NewTokens checks cfg and returns Tokens, which must be closed with Close. Nothing is sent before Access is called.
func NewTokens(cfg TokensConfig) (*Tokens, error) {
	tokenURL, err := endpointURL(cfg.TokenURL)
	if err != nil {
		return nil, fmt.Errorf("URL of the vendor's token endpoint: %w", err)
	}
	if err := checkProxy(http.ProxyFromEnvironment, tokenURL); err != nil {
		return nil, err
	}
	if cfg.AuthURL != "" {
		if _, err := endpointURL(cfg.AuthURL); err != nil {
			return nil, fmt.Errorf("URL of the vendor's consent page: %w", err)
		}
	}
	if cfg.Store == nil {
		return nil, errors.New("tokens need a store")
	}
	cfg.AuthStyle = cmp.Or(cfg.AuthStyle, AuthForm)
	if cfg.AuthStyle != AuthForm && cfg.AuthStyle != AuthBasic {
		return nil, fmt.Errorf("auth style %q is neither %q nor %q", cfg.AuthStyle, AuthForm, AuthBasic)
	}
	cfg.Timeout = cmp.Or(max(cfg.Timeout, 0), defaultTimeout)
	cfg.UserAgent = cmp.Or(cfg.UserAgent, defaultUserAgent)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	cfg.Metrics = cmp.Or(cfg.Metrics, NewMetrics(nil))
	if cfg.Budget == nil {
		cfg.Budget = NewBudget(0)
	}
	if cfg.Lease == nil {
		cfg.Lease = func(string) (Lease, bool) { return always{}, true }
	}
	t := &Tokens{
		cfg:    cfg,
		log:    cfg.Logger,
		nonce:  uuid.NewString(),
		states: make(map[string]*tokenState),
	}
	t.host = cfg.Budget.circuit(tokenURL.Host, cfg.Metrics, cfg.Logger)
	t.http = httpClient(newTransport(cfg.DialContext, false))
	t.starts, t.stop = context.WithCancel(context.Background())
	t.works, t.kill = context.WithCancel(context.Background())
	return t, nil
}

// Access returns an access token of the connection that may be used now, whoever owns the connection. A token that is
// due is refreshed in the background while it is still valid; without a valid one Access waits for the refresh, or for
// ctx. If this process does not own the connection's shard, it refreshes nothing: without a valid token the error is
// Unavailable with a RetryAfter, because the owner refreshes it. Errors are relay.ErrNoToken, *ConsentRequiredError, an
// *Error of the token endpoint, or the store's.
func (t *Tokens) Access(ctx context.Context, connection string) (relay.Secret, error) {
	for tries := 0; ; tries++ {
		kept, replaced := t.kept(connection)
		if kept != nil {
			return kept.access, nil
		}
		rec, _, err := t.cfg.Store.Token(ctx, connection)
		if err != nil {
			return relay.Secret{}, fmt.Errorf("token of connection %s: %w", connection, err)
		}
		if err := consentError(connection, rec); err != nil {
			return relay.Secret{}, err
		}
		now := time.Now()
		good, due := t.judge(connection, rec, now)
		if good && !due {
			t.keep(connection, rec, replaced)
			return rec.AccessToken, nil
		}
		f, err := t.join(connection, rec, now)
		switch {
		case good:
			return rec.AccessToken, nil
		case err != nil:
			return relay.Secret{}, err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return relay.Secret{}, noToken(0,
				fmt.Errorf("waiting for the refresh of connection %s: %w", connection, context.Cause(ctx)))
		}
		if !errors.Is(f.err, errSuperseded) || tries == 3 {
			return f.token, f.err
		}
	}
}

// current returns the connection's access token if it may be used now. It does not wait for a refresh.
func (t *Tokens) current(ctx context.Context, connection string) (relay.Secret, bool) {
	rec, _, err := t.cfg.Store.Token(ctx, connection)
	if err != nil || consentError(connection, rec) != nil {
		return relay.Secret{}, false
	}
	good, _ := t.judge(connection, rec, time.Now())
	return rec.AccessToken, good
}

// Renew refreshes the connection's token whether or not it is due: a refresh token that is not used may expire.
func (t *Tokens) Renew(ctx context.Context, connection string) error {
	rec, _, err := t.cfg.Store.Token(ctx, connection)
	if err != nil {
		return fmt.Errorf("token of connection %s: %w", connection, err)
	}
	if !rec.AccessToken.Empty() {
		t.Invalidate(connection, rec.AccessToken)
	}
	_, err = t.Access(ctx, connection)
	return err
}

// Invalidate records that the vendor refused accessToken with 401. The next Access refreshes, once for each such token.
func (t *Tokens) Invalidate(connection string, accessToken relay.Secret) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state(connection)
	if !s.judged.Equal(accessToken) {
		s.rejected, s.judged = accessToken, accessToken
	}
	t.dropKept(s)
}

// Close begins no more refreshes and waits until those under way are stored, until ctx ends at the
// latest. Then it gives them up: the next process finds their intents.
func (t *Tokens) Close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.stop()
	inTime := context.AfterFunc(ctx, t.kill)
	t.flights.Wait()
	var err error
	if !inTime() {
		err = fmt.Errorf("closing tokens with refreshes under way: %w", ctx.Err())
	}
	t.kill()
	t.http.CloseIdleConnections()
	return err
}

// judge reports whether the record's access token may be used, and whether it should be refreshed.
func (t *Tokens) judge(connection string, rec relay.TokenRecord, now time.Time) (good, due bool) {
	if rec.AccessToken.Empty() || !now.Before(rec.ExpiresAt) {
		return false, true
	}
	t.mu.Lock()
	rejected := t.state(connection).rejected
	t.mu.Unlock()
	if rec.AccessToken.Equal(rejected) {
		return false, true
	}
	return true, !now.Before(refreshAt(connection, rec))
}

// refreshAt returns when a token is due: at 80 % of its life or 5 minutes before its end, whichever is earlier, but not
// in the first half of a short life; minus up to 5 % of the life, so that connections that started together do not all
// refresh together. The jitter is a function of the record, so it needs no memory.
func refreshAt(connection string, rec relay.TokenRecord) time.Time {
	life := rec.ExpiresAt.Sub(rec.RefreshedAt)
	after := max(min(life*8/10, life-5*time.Minute), life/2)
	h := fnv.New32a()
	fmt.Fprint(h, connection, rec.RefreshedAt.UnixNano())
	jitter := time.Duration(float64(life) / 20 * float64(h.Sum32()%1000) / 1000)
	return rec.RefreshedAt.Add(after - jitter)
}

// join starts a refresh of the connection, or joins the one under way. An error means that none may be started now.
func (t *Tokens) join(connection string, rec relay.TokenRecord, now time.Time) (*flight, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state(connection)
	if s.flight != nil {
		return s.flight, nil
	}
	if t.closed {
		return nil, noToken(0, errors.New("the relay is stopping"))
	}
	if _, owned := t.cfg.Lease(connection); !owned {
		return nil, notOwned(connection)
	}
	if !s.tried.Equal(rec.RefreshToken) {
		s.tried, s.failures, s.notBefore, s.lastErr = rec.RefreshToken, 0, time.Time{}, nil
	}
	if wait := s.notBefore.Sub(now); wait > 0 {
		return nil, backingOff(s.lastErr, wait)
	}
	f := &flight{done: make(chan struct{})}
	s.flight = f
	t.flights.Add(1)
	go t.fly(connection, f)
	return f, nil
}

// fly runs one refresh and ends its flight.
func (t *Tokens) fly(connection string, f *flight) {
	defer t.flights.Done()
	f.token, f.err = t.refresh(connection)
	if unanswered(f.err) && backoff.Sleep(t.starts, onceMore()) {
		f.token, f.err = t.refresh(connection)
	}

	t.mu.Lock()
	s := t.state(connection)
	s.flight = nil
	t.dropKept(s)
	switch {
	case f.err == nil:
		s.rejected, s.failures, s.notBefore, s.lastErr = relay.Secret{}, 0, time.Time{}, nil
	// These errors have nothing to do with the vendor.
	case !errors.Is(f.err, errSuperseded) && !errors.Is(f.err, errNotOwned) && !NotAsked(f.err):
		s.failures++
		s.lastErr = f.err
		s.notBefore = time.Now().Add(max(retryWait(s.failures), RetryAfterOf(f.err)))
	}
	t.mu.Unlock()
	close(f.done)
}

// state returns the connection's state. The caller must hold mu.
func (t *Tokens) state(connection string) *tokenState {
	s := t.states[connection]
	if s == nil {
		s = new(tokenState)
		t.dropKept(s)
		t.states[connection] = s
	}
	return s
}
