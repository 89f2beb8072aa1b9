package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

func TestConnections(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	op := f.admin()
	op.put("/v1/connections/con-a", map[string]any{"level": "site"}).want(422).problem("invalid-body", "/site")
	op.put("/v1/connections/con-a",
		map[string]any{"level": "planet", "site": "alpha"}).want(422).problem("invalid-body", "/level")
	op.put("/v1/connections/con-a",
		map[string]any{"level": "company", "sites": map[string]string{"1": "Alpha"}}).want(422).problem("invalid-body",
		"/sites/1")
	var c Connection
	op.put("/v1/connections/con-a",
		map[string]any{"level": "company", "sites": map[string]string{"4711": "alpha"}, "refreshToken": "one",
			"pollIntervalSeconds": 0.5}).want(201).into(&c)
	if c.State != ConnectionStateNew || c.Waiting == nil || *c.Waiting != 3 || c.PollIntervalSeconds != 0.5 {
		t.Errorf("made: %+v", c)
	}
	stored, _, err := f.store.Connections.Get(t.Context(), "con-a")
	if err != nil {
		t.Fatal(err)
	}
	token, revision, err := f.store.Tokens.Token(t.Context(), "con-a")
	if err != nil || token.RefreshToken.Reveal() != "one" || token.Generation != stored.Generation {
		t.Fatalf("token: %v, %v", token, err)
	}

	// What the poller and the tokens' keeper have written shows.
	now := time.Now().UTC().Truncate(time.Millisecond)
	poll := relay.Poll{
		Generation: stored.Generation, SubscriptionID: "sub", SubscriptionAdopted: true, GapSuspectedAt: &now,
		Outcome: &relay.PollOutcome{At: now, Result: "done"},
	}
	if _, err := f.store.Polls.Create(t.Context(), "con-a", poll); err != nil {
		t.Fatal(err)
	}
	token.RefreshedAt = now
	if revision, err = f.store.Tokens.SaveToken(t.Context(), "con-a", token, revision); err != nil {
		t.Fatal(err)
	}
	read := op.get("/v1/connections/con-a").want(200).into(&c)
	if c.State != ConnectionStateActive || !c.SubscriptionAdopted || !c.LastPollAt.Equal(now) ||
		!c.GapSuspectedAt.Equal(now) || !c.TokenRefreshedAt.Equal(now) {
		t.Errorf("active: %+v", c)
	}
	token.ConsentRequiredSince, token.Reason = &now, "invalid_grant"
	if _, err = f.store.Tokens.SaveToken(t.Context(), "con-a", token, revision); err != nil {
		t.Fatal(err)
	}
	op.get("/v1/connections/con-a").into(&c)
	if c.State != ConnectionStateConsentRequired || c.LastError != "invalid_grant" {
		t.Errorf("consent required: %+v", c)
	}
	op.get("/v1/assessments/a%2Fb/c%25d?connection=con-a").want(200)

	// A new refresh token replaces all that was known of the one before.
	op.patch("/v1/connections/con-a", map[string]any{"refreshToken": "two"}, "If-Match",
		read.header.Get("ETag")).want(200)
	if token, _, err = f.store.Tokens.Token(t.Context(), "con-a"); err != nil || token.RefreshToken.Reveal() != "two" ||
		token.ConsentRequiredSince != nil || !token.RefreshedAt.IsZero() {
		t.Errorf("token: %v, %v", token, err)
	}
	op.patch("/v1/connections/con-a",
		map[string]any{"sites": map[string]any{"4711": nil}}).want(422).problem("invalid-body", "/site")
	op.patch("/v1/connections/con-a", map[string]any{"paused": true}).want(200).into(&c)
	if c.State != ConnectionStatePaused || c.Sites["4711"] != "alpha" {
		t.Errorf("paused: %+v", c)
	}
	op.post("/v1/connections/con-a/poll", nil).want(409).problem("conflict")
	op.patch("/v1/connections/con-a", map[string]any{"paused": nil}).want(200)
	op.post("/v1/connections/con-a/poll", nil).want(202)
	f.parts.set(func() { f.parts.poller = errors.New("no answer") })
	op.post("/v1/connections/con-a/poll", nil).want(503).problem("not-available")
	var list ConnectionList
	op.get("/v1/connections").want(200).into(&list)
	if len(list.Items) != 1 {
		t.Errorf("list: %+v", list)
	}

	// The vendor's trouble keeps the connection; without it the subscription, the tokens and the
	// connection go.
	f.parts.set(func() {
		f.parts.vendor = &audatex.Error{Operation: audatex.OpUnsubscribe, Outcome: audatex.Unavailable, Message: "down",
			CorrelationID: "corr-1"}
	})
	if p := op.delete("/v1/connections/con-a?unsubscribe=true").want(502).problem(
		"vendor-error"); !strings.Contains(p.Detail, "corr-1") {
		t.Errorf("detail: %s", p.Detail)
	}
	f.parts.set(func() { f.parts.vendor = nil })
	removed := op.delete("/v1/connections/con-a?unsubscribe=true").want(200)
	if body := string(removed.body); !strings.Contains(body, "withdrawn by its user, at the vendor") {
		t.Errorf("removing a connection does not say what is left to do: %s", body)
	}
	f.parts.set(func() {
		if len(f.parts.unsubscribed) != 1 || f.parts.unsubscribed[0] != "sub" {
			t.Errorf("unsubscribed: %v", f.parts.unsubscribed)
		}
	})
	if _, _, err := f.store.Tokens.Token(t.Context(), "con-a"); !errors.Is(err, relay.ErrNoToken) {
		t.Errorf("the tokens of a removed connection: %v", err)
	}

	// Another connection of the same name knows nothing of the first.
	c = Connection{}
	op.put("/v1/connections/con-a", map[string]any{"level": "site", "site": "alpha"}).want(201).into(&c)
	if c.State != ConnectionStateNew || c.SubscriptionAdopted || !c.LastPollAt.IsZero() {
		t.Errorf("made anew: %+v", c)
	}
}

func TestAssessments(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleRead, "alpha")
	f.admin().put("/v1/connections/one", map[string]any{"level": "site", "site": "alpha"}).want(201)
	f.admin().put("/v1/connections/both",
		map[string]any{"level": "company", "sites": map[string]string{"1": "alpha", "2": "beta"}}).want(201)
	var found Assessment
	// Slashes, spaces and per cent signs of the vendor's numbers arrive as they are.
	a.get("/v1/assessments/GB%2F1/2%25%202?connection=one").want(200).into(&found)
	if found.Id != "assessment of one: GB/1|2% 2" {
		t.Errorf("found: %+v", found)
	}
	a.get("/v1/assessments/o/n?connection=both").want(404)
	a.get("/v1/assessments/o/n?connection=none").want(404)
	f.admin().get("/v1/assessments/o/n?connection=both").want(200)
	for outcome, want := range map[audatex.Outcome]int{
		audatex.NotFound: 404, audatex.Unauthorised: 409, audatex.Throttled: 503, audatex.Unavailable: 502,
		audatex.Forbidden: 502, audatex.Malformed: 502,
	} {
		f.parts.set(func() {
			f.parts.vendor = &audatex.Error{Operation: audatex.OpAssessment, Outcome: outcome,
				RetryAfter: 90 * time.Second}
		})
		got := a.get("/v1/assessments/o/n?connection=one").want(want)
		if want == 503 && got.header.Get("Retry-After") != "90" {
			t.Errorf("Retry-After: %s", got.header)
		}
	}
}

func TestClients(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	op := f.admin()
	op.put("/v1/clients/a", map[string]any{"allSites": true, "sites": []string{"x"}}).want(422).problem("invalid-body",
		"/sites")
	made := op.put("/v1/clients/a", map[string]any{"sites": []string{"alpha"}, "description": "first"}).want(201)
	op.put("/v1/clients/a", map[string]any{"sites": []string{"beta"}}, "If-Match", made.header.Get("ETag")).want(200)
	op.put("/v1/clients/a", map[string]any{}, "If-Match", made.header.Get("ETag")).want(412)
	var list ClientList
	op.get("/v1/clients").want(200).into(&list)
	if len(list.Items) != 1 || list.Items[0].Sites[0] != "beta" {
		t.Errorf("list: %+v", list)
	}
	key := f.key("a", relay.RoleWrite)
	f.publish("alpha", orderA)
	var page EventPage
	key.get("/v1/events").want(200).into(&page)
	if len(page.Items) != 0 {
		t.Errorf("a client of beta sees alpha")
	}
	op.put("/v1/clients/a", map[string]any{"allSites": true}).want(200)
	key.get("/v1/events").want(200).into(&page)
	if len(page.Items) != 1 {
		t.Errorf("what a client may see does not change at once")
	}
	stored, _, err := f.store.Clients.Get(t.Context(), "a")
	if err != nil || len(stored.Keys) != 1 || strings.Contains(string(stored.Keys[0].Hash), key.token) {
		t.Errorf("stored: %+v, %v", stored, err)
	}
	op.get("/v1/clients/a").want(200)
	op.delete("/v1/clients/a").want(204)
	key.get("/v1/events").want(401)
	op.delete("/v1/clients/a").want(404)
	op.post("/v1/clients/a/keys", nil).want(404)
}

func TestUnresolved(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, connection := range []string{"one", "two"} {
		u := relay.Unresolved{ID: connection + "-7-0", Connection: connection, Reason: "forbidden",
			Raw: []byte("{\"a\":\xff}"), ReceivedAt: time.Now(), UnresolvedAt: time.Now()}
		if _, err := f.store.Unresolved.Create(t.Context(), u.ID, u); err != nil {
			t.Fatal(err)
		}
	}
	var list UnresolvedList
	eventually(t, func() bool { return f.api.asides.Count("") == 2 })
	f.admin().get("/v1/unresolved?connection=two").want(200).into(&list)
	if len(list.Items) != 1 || string(list.Items[0].Raw) != "{\"a\":\xff}" {
		t.Errorf("list: %+v", list)
	}
	f.admin().get("/v1/unresolved/one-7-0").want(200)
	f.admin().delete("/v1/unresolved/one-7-0").want(http.StatusNoContent)
	f.admin().get("/v1/unresolved/one-7-0").want(404)
	if !strings.Contains(f.log.String(), "one-7-0") {
		t.Error("giving a notification up leaves no line in the log")
	}
}

// Each result of a retry has its own response with what an operator must know.
func TestRetryUnresolved(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	vendor := func(outcome audatex.Outcome, op audatex.Operation, after time.Duration) error {
		e := &audatex.Error{Operation: op, Outcome: outcome, RetryAfter: after,
			Message: "words", CorrelationID: "corr-1"}
		return fmt.Errorf("retry x: %w", e)
	}
	for id, c := range map[string]struct {
		retried
		status             int
		kind, detail, wait string
	}{
		"published": {retried{relay.RetryResolved, nil}, 204, "", "", ""},
		"forbidden": {retried{relay.RetryRefused, vendor(audatex.Forbidden, audatex.OpOrder, 0)}, 409,
			"still-unresolved",
			"forbidden. The vendor said: words · Correlation id: corr-1", ""},
		"unmapped": {retried{relay.RetryRefused, errors.New("vendor site 99 is mapped to no site")}, 409,
			"still-unresolved",
			"vendor site 99 is mapped to no site", ""},
		"down": {retried{relay.RetryUnavailable, vendor(audatex.Unavailable, audatex.OpOrder, 0)}, 503, "not-available",
			"corr-1", "5"},
		"throttled": {retried{relay.RetryUnavailable, vendor(audatex.Throttled, audatex.OpOrder, 90*time.Second)}, 503,
			"not-available", "words", "90"},
		"client": {retried{relay.RetryUnavailable, vendor(audatex.Forbidden, audatex.OpToken, 0)}, 503, "not-available",
			"words", "5"},
		"contested": {retried{relay.RetryUnavailable, errors.New("the log had moved on each time")}, 503,
			"not-available",
			"", "5"},
		"store": {retried{relay.RetryUnavailable, fmt.Errorf("remove: %w", store.ErrUnavailable)}, 503,
			"store-unavailable",
			"second", "5"},
		"unclear": {retried{relay.RetryUnavailable, fmt.Errorf("remove: %w", store.ErrUnclear)}, 503,
			"store-unavailable",
			"second", "5"},
		"consent": {retried{relay.RetryUnavailable, vendor(audatex.Unauthorised, audatex.OpOrder, 0)}, 409,
			"consent-required",
			"words", ""},
		"tokenless": {retried{relay.RetryUnavailable, fmt.Errorf("read: %w", relay.ErrNoToken)}, 409,
			"consent-required",
			"", ""},
		"not-in-here": {retried{relay.RetryNotFound, store.ErrNotFound}, 404, "not-found", "", ""},
	} {
		f.parts.set(func() { f.parts.retries = map[string]retried{id: c.retried} })
		got := f.admin().post("/v1/unresolved/"+id+"/retry", nil).want(c.status)
		if wait := got.header.Get("Retry-After"); wait != c.wait {
			t.Errorf("%s: Retry-After %q, want %q", id, wait, c.wait)
		}
		if c.kind == "" {
			continue
		}
		if p := got.problem(c.kind); !strings.Contains(p.Detail, c.detail) {
			t.Errorf("%s: detail %q does not tell %q", id, p.Detail, c.detail)
		}
	}
	f.admin().post("/v1/unresolved/none/retry", nil).want(404).problem("not-found")
}
