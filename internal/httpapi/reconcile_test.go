package httpapi

import (
	"errors"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// TestReconcileConnection asks for open orders to be read again, and looks at how far that is.
func TestReconcileConnection(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	op := f.as(adminToken)
	var c Connection
	op.put("/v1/connections/con-a", map[string]any{"level": "site", "site": "alpha"}).want(201).into(&c)
	if c.Reconciling != nil || !c.ReconciledAt.IsZero() {
		t.Errorf("new: %+v", c)
	}
	var started ReconcileStarted
	op.post("/v1/connections/con-a/reconcile?delivered=true", nil).want(202).into(&started)
	if r := started.Reconciling; r.Done != 3 || r.Total != 7 || len(r.Causes) != 2 ||
		r.Causes[1] != ReconcileCauseAsked ||
		r.StartedAt.IsZero() {
		t.Errorf("started: %+v", r)
	}
	// What it does not take is refused with a reason. Nothing, and {}, are fine.
	op.post("/v1/connections/con-a/reconcile",
		map[string]any{"delivered": true}).want(422).problem("invalid-body", "/delivered")
	op.post("/v1/connections/con-a/poll", map[string]any{"zzz": 1}).want(422).problem("invalid-body", "/zzz")
	op.post("/v1/connections/con-a/reconcile?delivered=true", map[string]any{}).want(202)
	op.post("/v1/connections/con-b/reconcile", nil).want(404).problem("not-found")
	op.post("/v1/connections/con-a/reconcile?delivered=perhaps",
		nil).want(400).problem("invalid-parameter", "delivered")
	op.patch("/v1/connections/con-a", map[string]any{"paused": true}).want(200)
	op.post("/v1/connections/con-a/reconcile", nil).want(409).problem("conflict")
	op.patch("/v1/connections/con-a", map[string]any{"paused": false}).want(200)
	f.parts.set(func() { f.parts.poller = errors.New("no answer") })
	if after := op.post("/v1/connections/con-a/reconcile",
		nil).want(503).problem("not-available"); after.Status != 503 {
		t.Errorf("refused: %+v", after)
	}

	// Its document is the owner's; every replica reads it.
	stored, _, err := f.store.Connections.Get(t.Context(), "con-a")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	doc := relay.Reconciliation{
		Generation: stored.Generation, Last: &relay.ReconcileEnding{WantedAt: at.Add(time.Minute)},
		Run: &relay.ReconcileRun{Causes: []relay.ReconcileCause{relay.CauseGap}, Since: at,
			StartedAt: at.Add(time.Hour),
			Done:      1, Total: 2},
	}
	revision, err := f.store.Reconciliations.Create(t.Context(), store.ReconcileKey("con-a"), doc)
	if err != nil {
		t.Fatal(err)
	}
	op.get("/v1/connections/con-a").want(200).into(&c)
	if r := c.Reconciling; r == nil || !r.Since.Equal(at) || !r.StartedAt.Equal(at.Add(time.Hour)) || r.Done != 1 ||
		r.Total != 2 || !c.ReconciledAt.Equal(at.Add(time.Minute)) {
		t.Errorf("under way: %+v", c)
	}
	doc.Generation = "of an earlier connection"
	if _, err := f.store.Reconciliations.Update(t.Context(), store.ReconcileKey("con-a"), doc, revision); err != nil {
		t.Fatal(err)
	}
	c = Connection{}
	op.get("/v1/connections/con-a").want(200).into(&c)
	if c.Reconciling != nil || !c.ReconciledAt.IsZero() {
		t.Errorf("of an earlier connection: %+v", c)
	}
	op.delete("/v1/connections/con-a").want(200)
	if _, _, err := f.store.Reconciliations.Get(t.Context(), store.ReconcileKey("con-a")); !errors.Is(err,
		store.ErrNotFound) {
		t.Errorf("the document of a removed connection: %v", err)
	}
}
