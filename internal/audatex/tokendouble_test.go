package audatex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// tokenVendor is a token endpoint with one rotating refresh token. next returns what happens to a
// request.
type tokenVendor struct {
	mu       sync.Mutex
	current  string
	issued   int
	requests int
	spent    int // uses of a spent refresh token
	life     int // seconds; 1800 if 0
	next     func(n int) fault
	// last is the last request, for looking at.
	lastForm url.Values
	lastAuth string
	// inside, if set, runs while a request is under way.
	inside func()
}

type fault int

const (
	noFault fault = iota
	answer500
	answer429
	cutBefore // the connection dies, nothing was done
	cutAfter  // the pair was rotated, its response lost
	garbled   // the pair was rotated, its response cannot be read
)

func newTokenVendor() *tokenVendor { return &tokenVendor{current: "refresh-0"} }

func (v *tokenVendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	v.mu.Lock()
	v.requests++
	f := noFault
	if v.next != nil {
		f = v.next(v.requests)
	}
	v.lastForm, v.lastAuth = r.PostForm, r.Header.Get("Authorization")
	inside := v.inside
	v.mu.Unlock()
	if inside != nil {
		inside()
	}
	w.Header().Set("Correlation-Id", testCorrelation)
	w.Header().Set("Content-Type", "application/json")
	switch f {
	case answer500:
		http.Error(w, "broken, refresh token was "+r.PostForm.Get("refresh_token"), 500)
		return
	case answer429:
		w.Header().Set("Retry-After", "20")
		http.Error(w, "busy", 429)
		return
	case cutBefore:
		panic(http.ErrAbortHandler)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.PostForm.Get("refresh_token") != v.current {
		v.spent++
		w.WriteHeader(400)
		_, _ = io.WriteString(w,
			`{"error":"invalid_grant","error_description":"spent: `+r.PostForm.Get("refresh_token")+`"}`)
		return
	}
	v.issued++
	v.current = fmt.Sprintf("refresh-%d", v.issued)
	life := v.life
	if life == 0 {
		life = 1800
	}
	switch f {
	case cutAfter:
		panic(http.ErrAbortHandler)
	case garbled:
		_, _ = io.WriteString(w, `{"access_token":"access-`)
	default:
		_, _ = fmt.Fprintf(w, `{"access_token":"access-%d","token_type":"bearer","expires_in":%d,"refresh_token":"%s"}`,
			v.issued, life, v.current)
	}
}

func (v *tokenVendor) count() (requests, spent int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.requests, v.spent
}

// tokenMap is a TokenStore in memory. If fail returns an error, a write returns it too. landed is
// whether it was carried out nevertheless.
type tokenMap struct {
	mu       sync.Mutex
	recs     map[string]relay.TokenRecord
	revs     map[string]uint64
	fail     func(rec relay.TokenRecord) (landed bool, err error)
	failRead func() error
}

func newTokenMap(connection string, rec relay.TokenRecord) *tokenMap {
	return &tokenMap{recs: map[string]relay.TokenRecord{connection: rec}, revs: map[string]uint64{connection: 1}}
}

func (m *tokenMap) Token(_ context.Context, connection string) (relay.TokenRecord, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failRead != nil {
		if err := m.failRead(); err != nil {
			return relay.TokenRecord{}, 0, err
		}
	}
	rec, ok := m.recs[connection]
	if !ok {
		return relay.TokenRecord{}, 0, fmt.Errorf("bucket: %w", relay.ErrNoToken)
	}
	return rec, m.revs[connection], nil
}

func (m *tokenMap) SaveToken(
	_ context.Context, connection string, rec relay.TokenRecord, revision uint64,
) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var failure error
	if m.fail != nil {
		landed, err := m.fail(rec)
		if err != nil && !landed {
			return 0, err
		}
		failure = err
	}
	if m.revs[connection] != revision {
		return 0, fmt.Errorf("bucket: %w", relay.ErrTokenChanged)
	}
	m.recs[connection] = rec
	m.revs[connection]++
	return m.revs[connection], failure
}

// put is the operator's: a new refresh token, everything else gone.
func (m *tokenMap) put(connection, refresh, generation string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.recs[connection] = relay.TokenRecord{RefreshToken: relay.NewSecret(refresh), Generation: generation}
	m.revs[connection]++
}

func (m *tokenMap) get(connection string) relay.TokenRecord {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.recs[connection]
}

func (m *tokenMap) setFail(f func(relay.TokenRecord) (bool, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = f
}

var errStore = errors.New("store does not answer")

const leeds = "leeds"

// freshRecord is what an operator puts.
func freshRecord() relay.TokenRecord {
	return relay.TokenRecord{RefreshToken: relay.NewSecret("refresh-0"), Generation: "g1"}
}

// tokens makes a manager over an in-memory network; it is closed with the test.
func tokens(t *testing.T, v http.Handler, store TokenStore, change func(*TokensConfig)) *Tokens {
	t.Helper()
	cfg := TokensConfig{
		TokenURL: "http://portal.test/AudaAPI.Portal/OAuth20/token", ClientID: "relay",
		ClientSecret: relay.NewSecret("hush-hush"),
		Store:        store, Exclusive: true, Logger: slog.New(slog.DiscardHandler), DialContext: serveInMemory(t, v),
	}
	if change != nil {
		change(&cfg)
	}
	m, err := NewTokens(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return m
}

// kill ends a manager as a crash would: nothing under way is waited for.
func kill(m *Tokens) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = m.Close(ctx)
}

// hasAccess fails unless connection leeds has the access token now, and has it stored.
func hasAccess(t *testing.T, m *Tokens, store *tokenMap, want string) {
	t.Helper()
	got, err := m.Access(t.Context(), leeds)
	if err != nil || got.Reveal() != want {
		t.Fatalf("access token %q, want %q (%v)", got.Reveal(), want, err)
	}
	if stored := store.get(leeds); stored.AccessToken.Reveal() != want {
		t.Fatalf("access token %q is in use, %q is stored", want, stored.AccessToken.Reveal())
	}
}
