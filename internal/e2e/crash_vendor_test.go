package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

// checkOneEventEach fails unless every notification of every stored page has exactly one event.
func (c *crash) checkOneEventEach(t *testing.T) {
	t.Helper()
	events := map[string]string{} // by inbox entry
	for _, e := range c.archive.events {
		if strings.HasPrefix(e.Type, "audatex.relay.") || e.Inbox.Connection == "" { // found by reading again
			continue
		}
		ref := e.Inbox.String()
		if other, twice := events[ref]; twice {
			t.Errorf("the notification %s has two events: %s and %s", ref, other, e.id)
		}
		events[ref] = e.id
	}
	want := 0
	for _, p := range c.archive.pages {
		var page []json.RawMessage
		if err := json.Unmarshal(p.Body, &page); err != nil {
			t.Errorf("page %d of connection %s: %v", p.Seq, p.Connection, err)
		}
		want += len(page)
	}
	if len(events) != want {
		t.Errorf("%d events for %d stored notifications", len(events), want)
	}
}

// details returns the values that the operational events of a kind have under a key, by connection,
// and how often each occurs.
func (c *crash) details(t *testing.T, kind relay.Kind, key string) map[string]map[string]int {
	t.Helper()
	said := map[string]map[string]int{}
	for _, e := range c.archive.events {
		if e.Type != relay.OperationalPrefix+string(kind) {
			continue
		}
		var ev struct {
			Data struct {
				Details map[string]any `json:"details"`
			} `json:"data"`
		}
		if err := json.Unmarshal(e.Body, &ev); err != nil {
			t.Errorf("event at %d: %v", e.Seq, err)
			continue
		}
		value, _ := ev.Data.Details[key].(string)
		put(said, e.Order, value, said[e.Order][value]+1)
	}
	return said
}

// checkGaps fails unless exactly the interrupted polls were reported as suspected gaps. (That every
// lost response belongs to one of them was checked after each end.)
func (c *crash) checkGaps(t *testing.T) {
	t.Helper()
	said := c.details(t, relay.KindGapSuspected, "since")
	for site, starts := range c.suspected {
		for since := range starts {
			if said[site][since] == 0 {
				t.Errorf("connection %s: the poll of %s was interrupted, and nobody was told", site, since)
			}
		}
	}
	for site, starts := range said {
		for since := range starts {
			if !c.suspected[site][since] {
				t.Errorf("connection %s: a gap since %s was suspected, and no poll was interrupted then", site, since)
			}
		}
	}
}

// checkRefreshes fails if a spent refresh token was used more often than refreshes were
// interrupted, and unless each use ended in consent-required, and nothing else did.
func (c *crash) checkRefreshes(t *testing.T) {
	t.Helper()
	counters := c.sandbox.Counters()
	said := c.details(t, relay.KindConsentRequired, "since")
	for _, site := range c.sites {
		spent := 0
		for i, id := range c.grants[site] {
			g := counters.Grants[id]
			spent += int(g.SpentRefreshTokens)
			if last := i == len(c.grants[site])-1; last && g.SpentRefreshTokens > 0 {
				t.Errorf("connection %s: a spent refresh token of %s was used, and it did not end in consent-required",
					site, id)
			}
		}
		if spent > len(c.refreshes[site]) {
			t.Errorf("connection %s: spent refresh tokens were used %d times, %d refreshes were interrupted",
				site, spent, len(c.refreshes[site]))
		}
		if n := len(said[site]); n > spent {
			t.Errorf("connection %s: a consent was asked for %d times, spent refresh tokens were used %d times",
				site, n, spent)
		}
		if asked := len(c.grants[site]) - 1; asked > 0 && spent == 0 {
			t.Errorf("connection %s needed %d new consents, and no spent refresh token was used", site, asked)
		}
	}
}
