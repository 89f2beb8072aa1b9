package poller_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// revoke ends every grant: the vendor refuses their tokens from then on.
func (r *rig) revoke() {
	r.t.Helper()
	for _, id := range r.grants {
		if err := r.sandbox.RevokeGrant(id); err != nil {
			r.t.Fatal(err)
		}
	}
	r.grants = nil
}

// consentAgain puts the refresh token of a new consent in place of what is there.
func (r *rig) consentAgain(c relay.Connection) {
	r.t.Helper()
	grant, err := r.sandbox.Grant(sandbox.Consent{Level: sandbox.Site, Sites: []string{"4711"}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.grants = append(r.grants, grant.ID)
	eventually(r.t, "the token is put", func() bool {
		_, revision, err := r.store.Tokens.Token(r.t.Context(), c.ID)
		if err != nil {
			return false
		}
		_, err = r.store.Tokens.SaveToken(r.t.Context(), c.ID, relay.TokenRecord{
			RefreshToken: relay.NewSecret(grant.RefreshToken), Generation: c.Generation, ConsentAt: time.Now(),
		}, revision)
		return err == nil
	})
}

func (r *rig) pause(id string, paused bool) {
	r.t.Helper()
	eventually(r.t, "the connection is changed", func() bool {
		c, revision, err := r.store.Connections.Get(r.t.Context(), id)
		if err != nil {
			return false
		}
		c.Paused = paused
		_, err = r.store.Connections.Update(r.t.Context(), id, c, revision)
		return err == nil
	})
}

func TestTheEndOfAConsentIsToldOnceAndThatItIsOver(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	c := r.connect("a")
	r.start()
	eventually(t, "the subscription", r.subscribed)
	for round := 1; round <= 2; round++ {
		r.revoke()
		eventually(t, "it is told", func() bool { return r.told(relay.KindConsentRequired) == round })
		r.halt()
		r.start() // what was reported stays reported
		r.consentAgain(c)
		eventually(t, "it is told to be over", func() bool { return r.told(relay.KindConsentRestored) == round })
	}
	before := r.sandbox.Counters().Requests[sandbox.OpPoll]
	eventually(t, "it is polled on", func() bool { return r.sandbox.Counters().Requests[sandbox.OpPoll] > before+5 })
	if req, over := r.told(relay.KindConsentRequired), r.told(relay.KindConsentRestored); req != 2 || over != 2 {
		t.Errorf("told %d ends and %d restored, want 2 of each", req, over)
	}
}

func TestTokensOfPausedConnectionsAreRefreshed(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.renewal = 2 * time.Second
	const many = 8
	connections := make([]relay.Connection, many)
	for i := range connections {
		connections[i] = r.connect(fmt.Sprintf("a%d", i))
		r.pause(connections[i].ID, true)
	}
	r.start()
	eventually(t, "every token was refreshed", func() bool {
		for _, c := range connections {
			if rec, _, err := r.store.Tokens.Token(t.Context(), c.ID); err != nil || rec.RefreshedAt.IsZero() {
				return false
			}
		}
		return true
	})
	counters := r.sandbox.Counters()
	if counters.Requests[sandbox.OpPoll] != 0 || counters.SpentRefreshTokens != 0 {
		t.Errorf("%d polls of paused connections, %d spent tokens",
			counters.Requests[sandbox.OpPoll], counters.SpentRefreshTokens)
	}
	// A consent that ends meanwhile is reported, and that it is over; nothing is polled for that.
	r.revoke()
	eventually(t, "all ends are told", func() bool { return r.told(relay.KindConsentRequired) == many })
	r.consentAgain(connections[0])
	eventually(t, "it is over", func() bool { return r.told(relay.KindConsentRestored) == 1 })
	if n := r.sandbox.Counters().Requests[sandbox.OpPoll]; n != 0 {
		t.Errorf("%d polls of paused connections", n)
	}
}

// What kept the last poll of a connection from being made is no error any more once there is a consent again, also
// while it is paused.
func TestTheErrorOfAPausedConnectionGoesWithItsCause(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	c := r.connect("a")
	r.start()
	eventually(t, "the subscription", r.subscribed)
	r.revoke()
	eventually(t, "the end is told", func() bool {
		return r.told(relay.KindConsentRequired) == 1 && strings.Contains(r.lastError("a"), "consent")
	})
	r.pause("a", true)
	r.consentAgain(c)
	r.pause("a", true) // so that it is looked at
	eventually(t, "it is over", func() bool { return r.told(relay.KindConsentRestored) == 1 })
	eventually(t, "the error has gone", func() bool { return r.lastError("a") == "" })
}
