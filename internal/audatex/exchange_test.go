package audatex

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

func TestNoTokenLeaksFromTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	const fresh = "brand-new-token"
	for name, answer := range map[string]http.HandlerFunc{
		"plain text": answering(400, "no: refresh-0 "+fresh, "Content-Type", "text/plain"),
		"not a form": answering(200, "%zz="+fresh, "Content-Type", "text/plain"),
		"description": answering(400, `{"error":"invalid_grant","error_description":"refresh-0 `+fresh+`"}`,
			"Content-Type", "application/json"),
		"error code": answering(400, `{"error":"`+fresh+`"}`, "Content-Type", "application/json"),
		"cut JSON":   answering(200, `{"refresh_token":"`+fresh, "Content-Type", "application/json"),
		"no access":  answering(200, `{"refresh_token":"`+fresh+`"}`, "Content-Type", "application/json"),
		"error with 200": answering(200, `{"error":"odd","refresh_token":"`+fresh+`"}`,
			"Content-Type", "application/json"),
		"redirect":     answering(302, fresh, "Location", "http://portal.test/login?token="+fresh),
		"server error": answering(500, "refresh-0 "+fresh),
		"too large": answering(200, `{"x":"`+strings.Repeat(fresh, 10_000)+`"}`,
			"Content-Type", "application/json"),
	} {
		synctest.Test(t, func(t *testing.T) {
			var log logBuffer
			m := tokens(t, answer, newTokenMap(leeds, freshRecord()), func(c *TokensConfig) { c.Logger = log.logger() })
			_, err := m.Access(t.Context(), leeds)
			if err == nil {
				t.Fatalf("%s: no error", name)
			}
			_, again := m.Access(t.Context(), leeds)
			out := fmt.Sprintf("%v %+v %#v %v", err, err, errors.Unwrap(err), again) + log.String()
			for _, secret := range []string{fresh, "refresh-0", "hush-hush"} {
				if strings.Contains(out, secret) {
					t.Errorf("%s: %q in %s", name, secret, out)
				}
			}
			if !strings.Contains(log.String(), "correlation_id="+testCorrelation) ||
				!strings.Contains(log.String(), "connection=leeds") {
				t.Errorf("%s: log without correlation id or connection: %s", name, log.String())
			}
		})
	}
}

func TestOutcomesOfTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		want    Outcome
		spent   bool // ends in consent-required
	}{
		{"invalid_grant", answering(400, `{"error":"invalid_grant"}`, "Content-Type", "application/json"),
			Unauthorised, true},
		{"invalid_grant as text", answering(400, `{"error":"invalid_grant"}`, "Content-Type", "text/plain"),
			Unauthorised, true},
		{"invalid_grant as a form",
			answering(400, `error=invalid_grant`, "Content-Type", "application/x-www-form-urlencoded"), Unauthorised,
			true},
		{"invalid_grant with 200", answering(200, `{"error":"invalid_grant"}`, "Content-Type", "application/json"),
			Unauthorised, true},
		{"invalid_grant with 500", answering(500, `{"error":"invalid_grant"}`, "Content-Type", "application/json"),
			Unavailable, false},
		{"invalid_client", answering(401, `{"error":"invalid_client"}`, "Content-Type", "application/json"), Forbidden,
			false},
		{"401 in plain text", answering(401, "Unauthorised."), Forbidden, false},
		{"403", answering(403, "no"), Forbidden, false},
		{"404", answering(404, "no"), NotFound, false},
		{"400 in plain text", answering(400, "Bad Request"), Malformed, false},
		{"429", answering(429, "", "Retry-After", "3"), Throttled, false},
		{"503", answering(503, ""), Unavailable, false},
		{"302", answering(302, "", "Location", "/login"), Unavailable, false},
		{"HTML", answering(200, "<html>"), Malformed, false},
		{"cut", cut("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), Unavailable, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			store := newTokenMap(leeds, freshRecord())
			m := tokens(t, tt.handler, store, nil)
			_, err := m.Access(t.Context(), leeds)
			if got := OutcomeOf(err); got != tt.want {
				t.Errorf("%s: %s, want %s (%v)", tt.name, got, tt.want, err)
			}
			rec := store.get(leeds)
			if (rec.ConsentRequiredSince != nil) != tt.spent || (rec.Intent == nil) != tt.spent {
				t.Errorf("%s: record %+v", tt.name, rec)
			}
		})
	}
}

func TestTokensAreReadFromAnswersOfAnyType(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"JSON": answering(200, `{"access_token":"access-1","refresh_token":"refresh-1","expires_in":600}`,
			"Content-Type", "application/json; charset=utf-8"),
		"JSON as text": answering(200, ` {"access_token":"access-1","refresh_token":"refresh-1","expires_in":600}`,
			"Content-Type", "text/plain"),
		"JSON with a mark": answering(200,
			"\xef\xbb\xbf"+`{"access_token":"access-1","refresh_token":"refresh-1","expires_in":600}`),
		"lifetime as text": answering(200, `{"access_token":"access-1","refresh_token":"refresh-1","expires_in":"600"}`,
			"Content-Type", "application/json"),
		"no lifetime": answering(200, `{"access_token":"access-1","refresh_token":"refresh-1"}`, "Content-Type",
			"application/json"),
		"no rotation": answering(200, `{"access_token":"access-1","expires_in":600}`, "Content-Type",
			"application/json"),
		"a negative length": answering(200, `{"access_token":"access-1","refresh_token":"refresh-1","expires_in":-1}`,
			"Content-Type", "application/json"),
	} {
		synctest.Test(t, func(t *testing.T) {
			store := newTokenMap(leeds, freshRecord())
			m := tokens(t, answer, store, nil)
			start := time.Now()
			hasAccess(t, m, store, "access-1")
			refresh, life := "refresh-1", 10*time.Minute
			switch name {
			case "no rotation":
				refresh = "refresh-0"
			case "no lifetime", "a negative length":
				life = 30 * time.Minute
			}
			if rec := store.get(leeds); rec.RefreshToken.Reveal() != refresh || !rec.ExpiresAt.Equal(start.Add(life)) {
				t.Errorf("%s: %q until %s", name, rec.RefreshToken.Reveal(), rec.ExpiresAt)
			}
		})
	}
}

func TestConsent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var form url.Values
		status, body := 200, `{"access_token":"access-1","refresh_token":"refresh-1","expires_in":1800}`
		m := tokens(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = r.ParseForm()
			form = r.PostForm
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}), newTokenMap(leeds, freshRecord()), func(c *TokensConfig) {
			c.AuthURL = "https://portal.test/AudaAPI.Portal/OAuth20"
			c.Scopes = []string{"BMS.Basic", "BMS.PartsOrders"}
		})
		u, err := url.Parse(m.ConsentURL(Consent{State: "a state", RedirectURI: "https://relay.test/oauth/callback",
			Challenge: "a challenge"}))
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if u.Host != "portal.test" || q.Get("client_id") != "relay" || q.Get("response_type") != "code" ||
			q.Get("state") != "a state" ||
			q.Get("scope") != "BMS.Basic BMS.PartsOrders" ||
			q.Get("redirect_uri") != "https://relay.test/oauth/callback" ||
			q.Get("code_challenge") != "a challenge" || q.Get("code_challenge_method") != "S256" {
			t.Errorf("consent page %s", u)
		}
		code := Code{Code: "the-code", RedirectURI: "https://relay.test/oauth/callback",
			Verifier: relay.NewSecret("a verifier")}
		rec, err := m.ExchangeCode(t.Context(), code)
		if err != nil || rec.AccessToken.Reveal() != "access-1" || rec.RefreshToken.Reveal() != "refresh-1" ||
			rec.ExpiresAt.Sub(rec.RefreshedAt) != 30*time.Minute {
			t.Errorf("%+v, %v", rec, err)
		}
		if form.Get("grant_type") != "authorization_code" || form.Get("code") != "the-code" ||
			form.Get("redirect_uri") != "https://relay.test/oauth/callback" ||
			form.Get("code_verifier") != "a verifier" {
			t.Errorf("form %v", form)
		}
		body = `{"access_token":"access-1"}`
		_, err = m.ExchangeCode(t.Context(), code)
		outcomeIs(t, err, Malformed)
		status, body = 400, `{"error":"invalid_grant","error_description":"the-code"}`
		_, err = m.ExchangeCode(t.Context(), code)
		if outcomeIs(t, err, Unauthorised); strings.Contains(err.Error(), "the-code") {
			t.Error(err)
		}
	})
}

func TestTheTokenEndpointSharesTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(0)
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		v.next = func(n int) fault {
			if n == 1 {
				return answer429
			}
			return noFault
		}
		m := tokens(t, v, store, func(c *TokensConfig) { c.Budget = budget })
		_, err := m.Access(t.Context(), leeds)
		if e := outcomeIs(t, err, Throttled); e.RetryAfter != 20*time.Second {
			t.Errorf("retry after %s", e.RetryAfter)
		}
		start := time.Now()
		if err := budget.Wait(t.Context(), PriorityPoll, ""); err != nil || time.Since(start) != 20*time.Second {
			t.Errorf("the token endpoint's 429 stopped the others for %s (%v)", time.Since(start), err)
		}
		hasAccess(t, m, store, "access-1")
		budget.Observe(429, http.Header{"Retry-After": {"60"}})
		m.Invalidate(leeds, relay.NewSecret("access-1"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.Access(ctx, leeds); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("refreshed while everything was stopped: %v", err)
		}
		if in := store.get(leeds).Intent; in != nil {
			t.Error("an intent waits for the budget")
		}
	})
}
