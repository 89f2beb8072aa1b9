package poller_test

import (
	"slices"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
)

// A connection whose last page is not in the inbox any more has lost notifications that nobody may
// have read. Its gap is published once, and its open orders are read again; one that has lost
// nothing is left alone.
func TestAGapIsSuspectedWherePagesAreLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	now := time.Now()
	ended := relay.PollIntent{PollID: relay.NewID(), At: now.Add(-time.Hour), Deadline: now.Add(-time.Hour)}
	c := r.announced("cut", ended)
	for id, last := range map[string]uint64{"whole": 2, "cut": 50, "named": 2} {
		put := store.Put[relay.Poll]{Key: id, Value: relay.Poll{Epoch: 3, InboxSeq: last, PolledAt: now}}
		if id == "cut" {
			doc, revision, err := r.store.Polls.Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			doc.Intent, doc.InboxSeq, doc.PolledAt = nil, last, now
			put.Value, put.Revision = doc, revision
		}
		if err := r.store.Polls.PutAll(t.Context(), []store.Put[relay.Poll]{put})[0].Err; err != nil {
			t.Fatal(err)
		}
		if _, err := r.store.Inbox.Append(t.Context(), store.Page{PollID: relay.NewID(), Connection: id,
			Generation: c.Generation, ReceivedAt: now, Body: []byte("[]")}); err != nil {
			t.Fatal(err)
		}
	}
	key := store.ReconcileKey("cut") // in the same bucket, and none of the poller's
	if _, err := r.store.Reconciliations.Create(t.Context(), key, relay.Reconciliation{}); err != nil {
		t.Fatal(err)
	}
	p := r.replica(store.Gate{}, nil)
	has := func(gaps map[string]uint64) {
		t.Helper()
		for id, want := range gaps {
			if doc := r.document(id); doc.Gaps != want || len(doc.UnpublishedGaps) != int(want) || doc.InboxSeq > 3 ||
				want > 0 && (doc.GapSuspectedAt == nil || doc.GapCause != relay.CauseGap || doc.Epoch != 3) {
				t.Errorf("%s: %+v", id, doc)
			}
		}
	}
	for range 2 { // the second time there is nothing left to note
		if err := p.Prepare(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		has(map[string]uint64{"whole": 0, "cut": 1, "named": 0})
	}
	lost := &store.LostError{Inbox: &store.Cut{End: 3, EndAt: now}, Events: &store.Cut{End: 9,
		EndAt: now.Add(-time.Minute), Connections: []string{"named", "deleted"}}}
	for range 2 {
		if err := p.Prepare(t.Context(), lost); err != nil {
			t.Fatal(err)
		}
		has(map[string]uint64{"whole": 0, "cut": 1, "named": 1})
	}
	if since := r.document("named").GapSince; since == nil || !since.Equal(lost.Events.EndAt) {
		t.Errorf("changes may be missing since %v", since)
	}
	p.own("cut", 7)
	eventually(t, "the gap is published", func() bool { return r.told(relay.KindGapSuspected) == 1 })
	eventually(t, "the document has none to publish", func() bool { return len(r.document("cut").UnpublishedGaps) == 0 })
	if causes := r.wanted(); len(causes) != 1 || causes[0] != relay.CauseGap {
		t.Errorf("orders are read again because of %v", causes)
	}
}

// So it is where nothing at all is left of the inbox.
func TestAGapIsSuspectedWhereTheInboxIsEmpty(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	now := time.Now().UTC()
	if _, err := r.store.Polls.Create(t.Context(), "a", relay.Poll{Epoch: 3, InboxSeq: 5, PolledAt: now}); err != nil {
		t.Fatal(err)
	}
	p := r.replica(store.Gate{}, nil)
	for range 2 {
		if err := p.Prepare(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if doc := r.document("a"); doc.Gaps != 1 || doc.InboxSeq != 0 || doc.GapSince == nil || !doc.GapSince.Equal(now) {
			t.Errorf("%+v", doc)
		}
	}
}

// An owner that has noticed nothing writes its document over the one in which a gap was noted, and
// keeps the gap.
func TestAnOwnerTakesTheGapThatAnotherReplicaHasNoted(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	p := r.replica(store.Gate{}, nil)
	p.own("a", 7)
	eventually(t, "it polls", func() bool { return r.polls() > 1 })
	lost := &store.LostError{Inbox: &store.Cut{EndAt: time.Now(), Connections: []string{"a"}}}
	if err := r.replica(store.Gate{}, nil).Prepare(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the gap is published", func() bool { return r.told(relay.KindGapSuspected) == 1 })
	if causes := r.wanted(); !slices.Contains(causes, relay.CauseGap) {
		t.Errorf("orders are read again because of %v", causes)
	}
}
