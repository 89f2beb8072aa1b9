package e2e

import (
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/ledger"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/relaytest"
)

// TestSiteAndCompanyTellOfTheSameOrders connects sites both by themselves and through their
// company, at two relays, while look-ups take their time. The vendor queues every change twice, so
// there are two notifications and two events of each: in order, none with the id of another, and
// the last of each order has its last state.
func TestSiteAndCompanyTellOfTheSameOrders(t *testing.T) {
	t.Parallel()
	const sites, orders, steps = 2, 10, 4
	w := newWorld(t, sites, sandbox.Config{Seed: 23}, nil)
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	delete(w.env, "RELAY_DATA_DIR")
	delete(w.env, "RELAY_NATS_LISTEN")
	w.env["RELAY_NATS_URL"], w.env["RELAY_STREAM_REPLICAS"], w.env["RELAY_ENCRYPTION_KEYS"] = natstest.StartLimited(t,
		8<<20).URL(), "1", string(keys)
	healthy := w.newReceiver("healthy", relaytest.Healthy, nil)
	w.start()
	w.start()
	company := sandbox.Consent{Level: sandbox.Company, CompanyCode: "ACME"}
	table := map[string]string{}
	for _, site := range w.sites {
		company.Sites = append(company.Sites, vendorSite(site))
		table[vendorSite(site)] = site
	}
	g, err := w.sandbox.Grant(company)
	if err != nil {
		t.Fatal(err)
	}
	w.api().Must(t, http.MethodPut, "/v1/connections/company", map[string]any{"level": "company", "sites": table, "refreshToken": g.RefreshToken}, nil)
	w.connect()
	harness.AwaitSubscriptions(t, w.sandbox, sites+1)
	w.register()
	if err := w.sandbox.SetFaults(sandbox.Faults{
		ShareLatency: 0.5, Latency: 30 * time.Millisecond, Operations: []sandbox.Operation{sandbox.OpReadOrder},
	}); err != nil {
		t.Fatal(err)
	}
	ids := w.createOrders(orders)
	for step := range steps {
		for n, id := range ids {
			if _, err := w.sandbox.ChangeOrder(id, sandbox.Change{}); err != nil {
				t.Fatal(err)
			}
			if n%4 == step { // some of it reaches both queues in one poll, some does not
				harness.AwaitAccepted(t, 1, healthy)
			}
		}
	}
	const all = 2 * orders * (1 + steps)
	harness.AwaitAccepted(t, all, healthy)
	healthy.CheckOrdered(t)
	healthy.CheckClean(t)

	seen := map[string]bool{}
	given := ledger.HandedOut(w.sandbox.Ledger(), ledger.NoExceptions)
	events := healthy.Events(t)
	for _, rec := range w.sandbox.Ledger().Orders {
		checkPairs(t, rec, given[rec.ID], events[rec.ID], seen)
	}
	if len(seen) != all {
		t.Errorf("%d different events, want %d", len(seen), all)
	}
	var logged []ledger.Event
	for _, site := range w.sites {
		logged = append(logged, orderEvents(t, w.api(), site)...)
	}
	if len(logged) != all {
		t.Errorf("the log has %d events, want %d", len(logged), all)
	}
	var left []struct{ ID string }
	if left, err = harness.Items[struct{ ID string }](w.api(), "/v1/unresolved"); err != nil || len(left) > 0 {
		t.Errorf("unresolved: %v, %v", left, err)
	}
}

// checkPairs holds the events of one order, by sequence, against its notifications.
func checkPairs(
	t *testing.T, rec sandbox.OrderRecord, given []sandbox.NotificationRecord, events []ledger.Event,
	seen map[string]bool,
) {
	t.Helper()
	if len(events) != len(given) {
		t.Errorf("order %s: %d events of %d notifications", rec.ID, len(events), len(given))
	}
	queued := map[string]bool{}
	for _, n := range given {
		queued[n.ID] = n.Form == sandbox.Newer
	}
	state, last := 0, ""
	for _, e := range events {
		if seen[e.ID] || e.Sequence <= last {
			t.Errorf("order %s: event %s again, or not after %s", rec.ID, e.ID, last)
		}
		seen[e.ID], last = true, e.Sequence
		if id := e.NotificationID(); id != "" {
			if !queued[id] {
				t.Errorf("order %s: event %s is of notification %s, which has one already or does not exist",
					rec.ID, e.ID, id)
			}
			queued[id] = false
		}
		at, err := ledger.StateOf(rec, state, e)
		if err != nil {
			t.Fatal(err)
		}
		if at < 0 {
			t.Errorf("order %s: event %s has a state from before that of the one before it, or none", rec.ID, e.ID)
			continue
		}
		state = at
	}
	if state != len(rec.States)-1 {
		t.Errorf("order %s: the last event has state %d of %d", rec.ID, state+1, len(rec.States))
	}
	if slices.Contains(slices.Collect(maps.Values(queued)), true) {
		t.Errorf("order %s: a notification has no event: %v", rec.ID, queued)
	}
}
