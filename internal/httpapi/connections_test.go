package httpapi

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// Connections are chosen by state and sites, over pages of any size: none is missed, none comes
// twice.
func TestConnectionsByStateAndSite(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	now := time.Now().UTC()
	state := map[string]ConnectionState{}
	var ids []string
	for i := range 130 {
		c := relay.Connection{
			ID: fmt.Sprintf("c%03d", i), Generation: relay.NewID(), Level: relay.LevelCompany,
			Site: fmt.Sprint("site-", i%5), CreatedAt: now, UpdatedAt: now,
			Sites: map[string]string{"1": fmt.Sprint("also-", i%2)},
		}
		token := relay.TokenRecord{RefreshToken: relay.NewSecret("refresh-token"), Generation: c.Generation}
		poll := relay.Poll{Generation: c.Generation, Outcome: &relay.PollOutcome{At: now}}
		switch i % 6 {
		case 0:
			state[c.ID], c.Paused = ConnectionStatePaused, true
		case 1:
			state[c.ID], token.ConsentRequiredSince = ConnectionStateConsentRequired, &now
		case 2:
			state[c.ID], poll.Outcome = ConnectionStateNew, nil
		case 3: // polled without a consent
			state[c.ID], token.RefreshToken, poll.FailingSince = ConnectionStateNew, relay.Secret{}, &now
			poll.Outcome = &relay.PollOutcome{At: now, Error: relay.ErrNoToken.Error()}
		default:
			state[c.ID] = ConnectionStateActive
		}
		ids = append(ids, c.ID)
		if _, err := f.store.Connections.Create(t.Context(), c.ID, c); err != nil {
			t.Fatal(err)
		}
		if _, err := f.store.Tokens.SaveToken(t.Context(), c.ID, token, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := f.store.Polls.Create(t.Context(), c.ID, poll); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool { return f.api.connections.Count("") == len(ids) })
	for query, fits := range map[string]func(i int, s ConnectionState) bool{
		"state=paused": func(_ int, s ConnectionState) bool { return s == ConnectionStatePaused },
		"state=consent-required,new": func(_ int, s ConnectionState) bool {
			return s == ConnectionStateConsentRequired || s == ConnectionStateNew
		},
		"state=failing":       func(int, ConnectionState) bool { return false },
		"sites=site-3":        func(i int, _ ConnectionState) bool { return i%5 == 3 },
		"sites=site-1,also-0": func(i int, _ ConnectionState) bool { return i%5 == 1 || i%2 == 0 },
		"state=active&sites=also-1,site-4": func(i int, s ConnectionState) bool {
			return s == ConnectionStateActive && (i%2 == 1 || i%5 == 4)
		},
		"state=active&sites=nowhere": func(int, ConnectionState) bool { return false },
	} {
		var want []string
		for i, id := range ids {
			if fits(i, state[id]) {
				want = append(want, id)
			}
		}
		for _, limit := range []int{7, 33, 500} {
			var got []string
			for after := ""; ; {
				var list ConnectionList
				f.admin().get(fmt.Sprintf("/v1/connections?limit=%d&%s%s", limit, query, after)).want(200).into(&list)
				if len(list.Items) > limit {
					t.Errorf("%d items on a page of %d", len(list.Items), limit)
				}
				for _, c := range list.Items {
					if got = append(got, c.Id); c.State != state[c.Id] {
						t.Errorf("%s is %s, want %s", c.Id, c.State, state[c.Id])
					}
				}
				if list.Next == "" {
					break
				}
				after = "&after=" + list.Next
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s by %d: %v, want %v", query, limit, got, want)
			}
		}
	}
	f.admin().get("/v1/connections?state=moonlit").want(400).problem("invalid-parameter", "state")
	f.admin().get("/v1/connections?sites=No%20Site").want(400).problem("invalid-parameter", "sites")
}

// A connection is not active before somebody has consented, however often it was polled; and what a
// poll found before a consent is not shown of the consent.
func TestAConnectionWithoutConsentIsNew(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	op := f.admin()
	var c Connection
	op.put("/v1/connections/con-a",
		map[string]any{"level": "site", "sites": map[string]string{"4711": "alpha"}}).want(201)
	stored, _, err := f.store.Connections.Get(t.Context(), "con-a")
	if err != nil {
		t.Fatal(err)
	}
	polled := time.Now().UTC()
	poll := relay.Poll{Generation: stored.Generation,
		Outcome: &relay.PollOutcome{At: polled, Error: "connection has no token"}}
	if _, err = f.store.Polls.Create(t.Context(), "con-a", poll); err != nil {
		t.Fatal(err)
	}
	op.get("/v1/connections/con-a").want(200).into(&c)
	if c.State != ConnectionStateNew || c.LastError == "" {
		t.Errorf("polled without a consent: %+v", c)
	}
	token := relay.TokenRecord{RefreshToken: relay.NewSecret("one"), Generation: stored.Generation,
		ConsentAt: polled.Add(time.Second)}
	if _, err = f.store.Tokens.SaveToken(t.Context(), "con-a", token, 0); err != nil {
		t.Fatal(err)
	}
	c = Connection{}
	op.get("/v1/connections/con-a").want(200).into(&c)
	if c.State != ConnectionStateNew || c.LastError != "" || !c.LastPollAt.Equal(polled) {
		t.Errorf("consented, not polled since: %+v", c)
	}
	var list ConnectionList
	op.get("/v1/connections?state=active").want(200).into(&list)
	if len(list.Items) > 0 {
		t.Errorf("active: %+v", list.Items)
	}
}

// A table of sites holds ids that the vendor can have: one with a space behind it would let a
// consent of the site pass and its notifications not.
func TestSitesThatNoNotificationCanHave(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	op := f.admin()
	for id, pointer := range map[string]string{
		"": "/sites/", " ": "/sites/ ", "4711 ": "/sites/4711 ", "\u00a04711": "/sites/\u00a04711",
		"47\n11":                             "/sites/47\n11",
		"a/b ":                               "/sites/a~1b ",
		strings.Repeat("9", maxVendorSite+1): "/sites",
	} {
		op.put("/v1/connections/con-a",
			map[string]any{"level": "site", "sites": map[string]string{id: "alpha"}}).want(422).problem("invalid-body",
			pointer)
	}
	op.put("/v1/connections/con-a",
		map[string]any{"level": "company",
			"sites": map[string]string{"GB1": "alpha", "gb1": "beta"}}).want(422).problem("invalid-body", "/sites/gb1")
	op.put("/v1/connections/con-a",
		map[string]any{"level": "company", "sites": map[string]string{"GB1": "alpha", "Leeds 2": "beta"}}).want(201)
	op.patch("/v1/connections/con-a",
		map[string]any{"sites": map[string]string{"gb1": "beta"}}).want(422).problem("invalid-body", "/sites/gb1")
}
