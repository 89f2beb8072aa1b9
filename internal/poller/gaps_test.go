package poller_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
)

// TestALostSubscriptionIsReadAgainAfterTheNextOne: orders that are read before there is a new subscription could change
// unseen after it.
func TestALostSubscriptionIsReadAgainAfterTheNextOne(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	r.start()
	eventually(t, "the subscription", r.subscribed)
	first := r.sandbox.Subscriptions()[0].ID
	eventually(t, "its reconciliation", func() bool { return len(r.wanted()) == 1 })
	if err := r.sandbox.RemoveSubscription(first); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next one's", func() bool { return len(r.wanted()) == 2 })
	r.halt()
	if want := []relay.ReconcileCause{relay.CauseSubscription,
		relay.CauseSubscription}; !slices.Equal(r.wanted(), want) {
		t.Errorf("wanted for %v", r.wanted())
	}
	doc := r.gaps[1]
	if doc.SubscriptionID == "" || doc.SubscriptionID == first || doc.SubscriptionLost || doc.Gaps != 2 ||
		doc.GapSuspectedAt == nil || !doc.GapSince.Equal(*doc.GapSuspectedAt) {
		t.Errorf("document: %+v", doc)
	}
	if n := r.told(relay.KindGapSuspected); n != 1 {
		t.Errorf("%d gaps told", n)
	}
}

// TestWhoTakesOverTellsOfEarlierGaps: the reconciler of the next owner hears of every gap that is stored, whoever
// suspected it.
func TestWhoTakesOverTellsOfEarlierGaps(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	at := time.Now().Add(-time.Hour).UTC()
	c := r.connect("a")
	if _, err := r.store.Polls.Create(t.Context(), "a", relay.Poll{
		Generation: c.Generation, Gaps: 4, GapCause: relay.CauseGap, GapSince: &at, GapSuspectedAt: &at,
	}); err != nil {
		t.Fatal(err)
	}
	r.start()
	eventually(t, "it is told", func() bool { return len(r.wanted()) > 0 })
	r.mu.Lock()
	defer r.mu.Unlock()
	if doc := r.gaps[0]; doc.Gaps != 4 || doc.GapCause != relay.CauseGap || !doc.GapSince.Equal(at) {
		t.Errorf("document: %+v", doc)
	}
}

// TestAPageThatWasCutIsAGapAlsoAfterACrash: its owner stored what it carried, and died before it could report that this
// was not all.
func TestAPageThatWasCutIsAGapAlsoAfterACrash(t *testing.T) {
	t.Parallel()
	const whole = `[{"NotificationId":"5f0c0000-0000-4000-8000-000000000001","Topic":"PARTS.ORDER.UPDATED"}]`
	for name, page := range map[string]struct {
		store.Page
		suspected int
	}{
		"whole":        {store.Page{Body: []byte(whole)}, 0},
		"cut":          {store.Page{Body: []byte(whole[:len(whole)-9]), Truncated: true}, 1},
		"cut at a gap": {store.Page{Body: []byte(strings.TrimSuffix(whole, "]")), Truncated: true}, 1},
		"foreign":      {store.Page{Body: []byte(`<html>`)}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, sandbox.Config{})
			now := time.Now()
			in := relay.PollIntent{PollID: relay.NewID(), Owner: "another", At: now.Add(-time.Hour),
				Deadline: now.Add(-time.Hour)}
			c := r.announced("a", in)
			page.PollID, page.Connection, page.Generation, page.ReceivedAt, page.Site = in.PollID,
				"a", c.Generation, now, "leeds"
			if _, err := r.store.Inbox.Append(t.Context(), page.Page); err != nil {
				t.Fatal(err)
			}
			r.replica(store.Gate{}, nil).own("a", 7)
			eventually(t, "it polls", func() bool { return r.polls() > 0 })
			if n := r.told(relay.KindGapSuspected); n != page.suspected || len(r.wanted()) != page.suspected {
				t.Errorf("%d gaps told, %d reconciliations wanted, want %d", n, len(r.wanted()), page.suspected)
			}
		})
	}
}

// A poll that got a 401 has read nothing, whatever becomes of the refresh that follows: no gap, no new subscription.
func TestATokenEndpointThatFailsAfterA401IsNoGap(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	r.start()
	eventually(t, "the first polls", func() bool { return r.polls() > 2 })
	if err := r.sandbox.SetFaults(
		sandbox.Faults{Share503: 1, Operations: []sandbox.Operation{sandbox.OpToken}}); err != nil {
		t.Fatal(err)
	}
	if err := r.sandbox.ExpireAccessTokens(r.grants[0]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the refresh has failed", func() bool {
		return strings.Contains(r.lastError("a"), "audatex token: unavailable (status 503)")
	})
	if err := r.sandbox.SetFaults(sandbox.Faults{}); err != nil {
		t.Fatal(err)
	}
	polls := r.polls()
	eventually(t, "it is polled on", func() bool { return r.polls() > polls+2 })
	if doc := r.document("a"); doc.GapSuspectedAt != nil || r.told(relay.KindGapSuspected) != 0 {
		t.Errorf("a gap is suspected: %v, told %d times", doc.GapSuspectedAt, r.told(relay.KindGapSuspected))
	}
	if n := r.sandbox.Counters().Requests[sandbox.OpSubscribe]; n != 1 {
		t.Errorf("subscribed %d times", n)
	}
}

// TestAGapIsToldOnceTheLogTakesEvents: the events' part of the store may be away while the part that polls write to is
// not.
func TestAGapIsToldOnceTheLogTakesEvents(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	r.start()
	eventually(t, "the subscription", r.subscribed)
	r.refuseEvents(true)
	if err := r.sandbox.SetFaults(
		sandbox.Faults{ShareCutAfterRead: 1, Operations: []sandbox.Operation{sandbox.OpPoll}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a gap that is not told", func() bool {
		doc, _, err := r.store.Polls.Get(t.Context(), "a")
		return err == nil && len(doc.UnpublishedGaps) > 0
	})
	r.refuseEvents(false)
	if err := r.sandbox.SetFaults(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "that every gap is told", func() bool {
		doc, _, err := r.store.Polls.Get(t.Context(), "a")
		// one is the subscription's
		return err == nil && len(doc.UnpublishedGaps) == 0 && doc.Gaps > 1 &&
			r.told(relay.KindGapSuspected) == int(doc.Gaps)-1
	})
	r.halt()
}
