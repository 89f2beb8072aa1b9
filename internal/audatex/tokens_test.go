package audatex

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/relay"
)

func TestRefreshStoresBeforeUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		var atRequest relay.TokenRecord
		v.inside = func() { atRequest = store.get(leeds) }
		m := tokens(t, v, store, nil)
		start := time.Now().UTC()
		hasAccess(t, m, store, "access-1")
		if in := atRequest.Intent; in == nil || in.ID == "" || in.Owner == "" || !in.StartedAt.Equal(start) ||
			!in.Deadline.Equal(start.Add(45*time.Second)) ||
			atRequest.RefreshToken.Reveal() != "refresh-0" {
			t.Errorf("intent at the time of the request: %+v", in)
		}
		rec := store.get(leeds)
		if rec.Intent != nil || rec.RefreshToken.Reveal() != "refresh-1" || rec.Generation != "g1" ||
			!rec.RefreshedAt.Equal(start) || !rec.ExpiresAt.Equal(start.Add(30*time.Minute)) {
			t.Errorf("record %+v", rec)
		}
		hasAccess(t, m, store, "access-1")
		if n, spent := v.count(); n != 1 || spent != 0 {
			t.Errorf("%d requests, %d with a spent token", n, spent)
		}
	})
}

func TestOneRefreshAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		v.inside = func() { pass(time.Second) }
		m := tokens(t, v, store, nil)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if got, err := m.Access(t.Context(), leeds); err != nil || got.Reveal() != "access-1" {
					t.Errorf("%q, %v", got.Reveal(), err)
				}
			})
		}
		wg.Wait()
		if n, _ := v.count(); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestRefreshAheadOfExpiryDoesNotHoldCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		v.inside = func() { pass(time.Second) }
		m := tokens(t, v, store, nil)
		hasAccess(t, m, store, "access-1")
		pass(1349 * time.Second) // 75 % of the life: no jitter makes it due yet
		hasAccess(t, m, store, "access-1")
		if n, _ := v.count(); n != 1 {
			t.Fatalf("refreshed too early, %d requests", n)
		}
		pass(91 * time.Second) // 80 %: due
		start := time.Now()
		hasAccess(t, m, store, "access-1")
		if time.Since(start) != 0 {
			t.Error("a caller waited although the token was good")
		}
		pass(time.Second)
		synctest.Wait()
		hasAccess(t, m, store, "access-2")
		pass(31 * time.Minute) // run out: callers wait
		start = time.Now()
		hasAccess(t, m, store, "access-3")
		if time.Since(start) != time.Second {
			t.Errorf("waited %s", time.Since(start))
		}
	})
}

func TestRefreshAt(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	for life, want := range map[time.Duration]time.Duration{
		30 * time.Minute: 24 * time.Minute, 10 * time.Minute: 5 * time.Minute, 20 * time.Minute: 15 * time.Minute,
		2 * time.Second: time.Second, time.Hour: 48 * time.Minute,
	} {
		seen := map[time.Duration]bool{}
		for i := range 100 {
			at := at.Add(time.Duration(i) * time.Minute)
			got := refreshAt(leeds, relay.TokenRecord{RefreshedAt: at, ExpiresAt: at.Add(life)}).Sub(at)
			if got > want || got < want-life/20 {
				t.Errorf("life of %s: refreshed after %s, want %s at most", life, got, want)
			}
			seen[got] = true
		}
		if len(seen) < 50 {
			t.Errorf("life of %s: only %d different times", life, len(seen))
		}
	}
}

func TestTokenIsNotUsedBeforeItIsStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		down := func(rec relay.TokenRecord) (bool, error) {
			if rec.Intent == nil { // the result of a refresh
				return false, errStore
			}
			return false, nil
		}
		store.setFail(down)
		m := tokens(t, v, store, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		got, err := m.Access(ctx, leeds)
		if e := outcomeIs(t, err, Unavailable); !got.Empty() || !errors.Is(e, context.DeadlineExceeded) {
			t.Fatalf("token %q, %v", got.Reveal(), err)
		}
		if n, _ := v.count(); n != 1 {
			t.Fatalf("%d requests while the store was down", n)
		}
		store.setFail(nil)
		hasAccess(t, m, store, "access-1")
		if n, spent := v.count(); n != 1 || spent != 0 || store.get(leeds).RefreshToken.Reveal() != "refresh-1" {
			t.Errorf("%d requests, %d spent, %q stored", n, spent, store.get(leeds).RefreshToken.Reveal())
		}
	})
}

func TestInvalidGrantEndsInConsentRequired(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newTokenVendor()
		rec := freshRecord()
		rec.RefreshToken = relay.NewSecret("spent-long-ago")
		store := newTokenMap(leeds, rec)
		failures := 3
		store.fail = func(rec relay.TokenRecord) (bool, error) { // also the verdict is stored however long it takes
			if rec.ConsentRequiredSince != nil && failures > 0 {
				failures--
				return false, errStore
			}
			return false, nil
		}
		reg := prometheus.NewRegistry()
		m := tokens(t, v, store, func(c *TokensConfig) { c.Metrics = NewMetrics(reg) })
		for range 5 {
			_, err := m.Access(t.Context(), leeds)
			consent, ok := errors.AsType[*ConsentRequiredError](err)
			if !ok || consent.Connection != leeds || consent.Since.IsZero() || consent.Reason == "" ||
				OutcomeOf(err) != Unauthorised {
				t.Fatalf("%v", err)
			}
			pass(time.Hour)
		}
		if n, spent := v.count(); n != 1 || spent != 1 {
			t.Errorf("%d requests, %d with a spent token", n, spent)
		}
		stored := store.get(leeds)
		if stored.ConsentRequiredSince == nil || stored.Intent != nil || !stored.AccessToken.Empty() ||
			stored.Generation != "g1" {
			t.Errorf("record %+v", stored)
		}
		const want = `
# HELP audatex_relay_token_refreshes_total Refreshes of access tokens by outcome; consent-required means that a refresh token was refused for good.
# TYPE audatex_relay_token_refreshes_total counter
audatex_relay_token_refreshes_total{outcome="consent-required"} 1
audatex_relay_token_refreshes_total{outcome="done"} 1
`
		store.put(leeds, "refresh-0", "g1") // a new consent, found without being told
		hasAccess(t, m, store, "access-1")
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want),
			"audatex_relay_token_refreshes_total"); err != nil {
			t.Error(err)
		}
	})
}

func TestARefreshOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		v.inside = func() { pass(10 * time.Second) }
		m := tokens(t, v, store, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.Access(ctx, leeds); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if err := m.Close(t.Context()); err != nil { // and Close waits for it
			t.Fatal(err)
		}
		if rec := store.get(leeds); rec.AccessToken.Reveal() != "access-1" {
			t.Errorf("stored %q", rec.AccessToken.Reveal())
		}
		hasAccess(t, m, store, "access-1") // closed, it still reports what is there
		m.Invalidate(leeds, relay.NewSecret("access-1"))
		_, err := m.Access(t.Context(), leeds)
		outcomeIs(t, err, Unavailable)
	})
}

func TestInvalidateRefreshesOncePerToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		m := tokens(t, v, store, nil)
		hasAccess(t, m, store, "access-1")
		first := relay.NewSecret("access-1")
		m.Invalidate(leeds, first)
		m.Invalidate(leeds, first)
		hasAccess(t, m, store, "access-2")
		m.Invalidate(leeds, first) // a late 401 of the old one
		hasAccess(t, m, store, "access-2")
		if n, _ := v.count(); n != 2 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestAuthStylesAreNeverProbed(t *testing.T) {
	t.Parallel()
	for _, style := range []AuthStyle{"", AuthForm, AuthBasic} {
		synctest.Test(t, func(t *testing.T) {
			v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
			m := tokens(t, v, store, func(c *TokensConfig) { c.AuthStyle = style })
			hasAccess(t, m, store, "access-1")
			id, secret := v.lastForm["client_id"], v.lastForm["client_secret"]
			if style == AuthBasic {
				if v.lastAuth != "Basic cmVsYXk6aHVzaC1odXNo" || id != nil || secret != nil {
					t.Errorf("%q: %q, form %v", style, v.lastAuth, v.lastForm)
				}
			} else if v.lastAuth != "" || len(id) != 1 || id[0] != "relay" ||
				len(secret) != 1 || secret[0] != "hush-hush" {
				t.Errorf("%q: %q, form %v", style, v.lastAuth, v.lastForm)
			}
			if n, _ := v.count(); n != 1 {
				t.Errorf("%q: %d requests", style, n)
			}

			requests := 0
			refusing := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests++
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(401)
				_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
			})
			m = tokens(t, refusing, newTokenMap(leeds, freshRecord()), func(c *TokensConfig) { c.AuthStyle = style })
			_, err := m.Access(t.Context(), leeds)
			outcomeIs(t, err, Forbidden)
			if requests != 1 {
				t.Errorf("%q: %d requests", style, requests)
			}
		})
	}
}

func TestBadTokensConfig(t *testing.T) {
	t.Parallel()
	good := TokensConfig{TokenURL: "https://x.test/token", Store: newTokenMap(leeds, freshRecord())}
	for name, spoil := range map[string]func(*TokensConfig){
		"token URL": func(c *TokensConfig) { c.TokenURL = "x" },
		"auth URL":  func(c *TokensConfig) { c.AuthURL = "x" },
		"store":     func(c *TokensConfig) { c.Store = nil },
		"style":     func(c *TokensConfig) { c.AuthStyle = "auto" },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := NewTokens(cfg); err == nil {
			t.Errorf("bad %s is taken", name)
		}
	}
}
