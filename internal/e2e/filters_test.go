package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

// filterable is what of an event the filters of orders look at.
type filterable struct {
	ID   string
	Data struct {
		PreviousStatus *string
		Changes        []any
		Order          struct{ Status string }
	}
}

func (e filterable) changed() bool { return e.Data.PreviousStatus == nil || len(e.Data.Changes) > 0 }

// Callbacks, the feed and replays select events by the order's status after the change and by whether
// something has changed, and agree about it with the events themselves.
func TestEventsAreFilteredByStatusAndChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, sandbox.Config{Seed: 17}, nil)
	settings := map[string]map[string]any{
		"all": nil, "changes": {"changedOnly": true},
		"dispatched": {"orderStatuses": []string{"dispatched", "Cancelled"}},
		"both":       {"orderStatuses": []string{"Confirmed"}, "changedOnly": true},
	}
	wants := map[string]func(filterable) bool{
		"all": func(filterable) bool { return true }, "changes": filterable.changed,
		"dispatched": func(e filterable) bool {
			return e.Data.Order.Status == "Dispatched" || e.Data.Order.Status == "Cancelled"
		},
		"both": func(e filterable) bool { return e.Data.Order.Status == "Confirmed" && e.changed() },
	}
	by := map[string]*harness.Receiver{}
	for id, with := range settings {
		by[id] = w.newReceiver(id, relaytest.Healthy, with)
	}
	w.start()
	w.connect()
	w.register()
	var orders []string
	for n := range 6 {
		o, err := w.sandbox.CreateOrder(vendorSite(w.sites[n%2]), sandbox.OrderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		orders = append(orders, o.ID)
	}
	notified := 0
	round := func(touch bool) {
		for _, id := range orders {
			if err := w.moveOn(id, touch); err != nil {
				t.Fatal(err)
			}
		}
		notified += len(orders)
		harness.AwaitAccepted(t, notified, by["all"]) // so no reading skips a status
	}
	notified = len(orders)
	harness.AwaitAccepted(t, notified, by["all"])
	for _, touch := range []bool{false, true, false, true, false} {
		round(touch)
	}
	logged, err := harness.Items[filterable](w.api(), "/v1/events?limit=1000")
	if err != nil {
		t.Fatal(err)
	}
	for id, wanted := range wants {
		var want []string
		for _, e := range logged {
			if wanted(e) {
				want = append(want, e.ID)
			}
		}
		if len(want) == 0 || id != "all" && len(want) == len(logged) {
			t.Fatalf("%d of %d events are for %s: that shows nothing", len(want), len(logged), id)
		}
		harness.AwaitAccepted(t, len(want), by[id])
		if got := acceptedIDs(by[id]); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("callback %s got %d events, want %d: %v", id, len(got), len(want), got)
		}
		query := url.Values{"limit": {"1000"}}
		if statuses, ok := settings[id]["orderStatuses"].([]string); ok {
			query.Set("orderStatuses", strings.Join(statuses, ","))
		}
		if settings[id]["changedOnly"] != nil {
			query.Set("changedOnly", "true")
		}
		fed, err := harness.Items[filterable](w.api(), "/v1/events?"+query.Encode())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range fed {
			got = append(got, e.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("the feed for %s has %d events, want %d", id, len(got), len(want))
		}
		if settings[id] == nil {
			continue
		}
		var plan replay
		asked := map[string]any{"dryRun": true, "sites": w.sites}
		for k, v := range settings[id] {
			asked[k] = v
		}
		w.api().Must(t, http.MethodPost, "/v1/callbacks/all/replays", asked, &plan)
		if plan.Matched == nil || *plan.Matched != len(want) {
			t.Errorf("a replay for %s: %s, want %d", id, plan, len(want))
		}
	}

	// A changed filter counts from the next event.
	w.api().Must(t, http.MethodPatch, "/v1/callbacks/both",
		map[string]any{"orderStatuses": nil, "changedOnly": nil}, nil)
	before := by["both"].AcceptedEvents()
	round(true)
	harness.AwaitAccepted(t, before+len(orders), by["both"])

	for body, pointer := range map[string]string{"Confirmes": "/orderStatuses/0",
		" New": "/orderStatuses/0", "": "/orderStatuses/0"} {
		a, err := w.api().Call(http.MethodPatch, "/v1/callbacks/both", map[string]any{"orderStatuses": []string{body}})
		if err != nil || a.Status/100 != 4 || !strings.Contains(string(a.Body), pointer) {
			t.Errorf("status %q: %d %s, %v", body, a.Status, a.Body, err)
		}
	}
	if a, err := w.api().Call(http.MethodGet, "/v1/events?orderStatuses=Dispached", nil); err != nil ||
		a.Status != http.StatusBadRequest ||
		!strings.Contains(string(a.Body), "Dispatched") {
		t.Errorf("a feed of a status that there is not: %s, %v", fmt.Sprint(a.Status, string(a.Body)), err)
	}
}

// acceptedIDs returns the sorted ids of the events that a receiver has got.
func acceptedIDs(r *harness.Receiver) (ids []string) {
	for _, d := range r.Deliveries() {
		ids = append(ids, d.Event)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
