package delivery

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

func TestWhatHappensToACallbackIsItsClientsAffair(t *testing.T) {
	t.Parallel()
	operational := func(kind relay.Kind, details map[string]any) *Event {
		ev, err := relay.NewOperationalEvent("", relay.NoSite, "cb", time.Now(),
			relay.Operational{Kind: kind, Details: details})
		if err != nil {
			t.Fatal(err)
		}
		body, err := relay.Encode(ev)
		if err != nil {
			t.Fatal(err)
		}
		read := EventOf(store.Stored{Site: ev.Site, Type: ev.Type, Order: ev.Subject, Body: body})
		return &read
	}
	of := func(client string) *Target {
		return NewTarget(relay.Callback{ID: "ops", Client: client,
			Filter: relay.Filter{Types: []string{"audatex.relay.*"}}}, relay.Client{ID: client, AllSites: true})
	}
	for _, kind := range relay.PrivateKinds() {
		ev := operational(kind, map[string]any{"callback": "cb", "client": "acme"})
		if !of("acme").Matches(ev) || of("other").Matches(ev) {
			t.Errorf("%s is heard by the wrong client", kind)
		}
		if nobody := operational(kind, nil); of("acme").Matches(nobody) {
			t.Errorf("%s of no known client is heard", kind)
		}
		itself := of("acme")
		if itself.Callback.ID = "cb"; itself.Matches(ev) == kind.NotToItself() {
			t.Errorf("%s is heard by the callback that it is about: %t", kind, !kind.NotToItself())
		}
	}
	again := of("acme")
	again.Callback.ClientGeneration, again.Client.Generation = "second", "second"
	if ev := operational(relay.KindCallbackDisabled,
		map[string]any{"client": "acme", "clientGeneration": "first"}); again.Matches(ev) {
		t.Error("a client made again hears what happened to the one before")
	}
	limited := NewTarget(relay.Callback{ID: "ops", Client: "acme",
		Filter: relay.Filter{Types: []string{"audatex.relay.*"}}}, relay.Client{ID: "acme", Sites: []string{"leeds"}})
	if ev := operational(relay.KindCallbackDisabled, map[string]any{"client": "acme"}); !limited.Matches(ev) {
		t.Error("a client limited to sites does not hear of its own callback")
	}
	if ev := operational(relay.KindConsentRequired, nil); limited.Matches(ev) {
		t.Error("a client limited to sites hears what happened at no site")
	}
	if sites, all := limited.sites(); all || !slices.Contains(sites, relay.NoSite) || !slices.Contains(sites, "leeds") {
		t.Errorf("the shared reader offers it %v", sites)
	}
	if filters, _ := limited.Subjects(""); !slices.Contains(filters, "audatex._.relay.*.*") {
		t.Errorf("reading by itself it asks for %v", filters)
	}
	if ev := operational(relay.KindConsentRequired, nil); !of("other").Matches(ev) {
		t.Error("an event about a connection is for everybody who may see its site")
	}
}

// Sites times orders is counted before anything is made of it: a callback of 1,000 of both is asked for its status as
// cheaply as others.
func TestManySitesAndOrdersAreNotMultiplied(t *testing.T) { //nolint:paralleltest // only its own allocations count
	var sites, orders []string
	for i := range 1000 {
		sites, orders = append(sites, fmt.Sprintf("site-%d", i)), append(orders, fmt.Sprintf("order-%d", i))
	}
	client := relay.Client{ID: "acme", Sites: sites}
	of := func(sites, orders []string, types ...string) *Target {
		return NewTarget(relay.Callback{ID: "cb", Client: "acme",
			Filter: relay.Filter{Sites: sites, Orders: orders, Types: types}}, client)
	}
	for _, c := range []struct {
		t    *Target
		want int
		some string
	}{
		{of(sites, orders), 1, "audatex.*.parts.order.*.*"},
		{of(sites, orders, "audatex.parts.*", "audatex.relay.*"), 2, "audatex.*.relay.*.*"},
		{of(nil, orders), 1, "audatex.*.parts.order.*.*"},
		{of(sites, orders[:20]), 20, "audatex.*.parts.order.*.order-1"},
		{of(sites[:3], orders[:20], relay.TypeOrderCreated), 60, "audatex.site-2.parts.order.created.order-7"},
		{of(sites[:3], nil, "audatex.relay.*"), 3, "audatex.site-2.relay.*.*"},
	} {
		var filters []string
		allocated := testing.AllocsPerRun(1, func() { filters, _ = c.t.Subjects("") })
		if len(filters) != c.want || !slices.Contains(filters, c.some) || allocated > 250 {
			t.Errorf("%d filters with %g allocations, want %d with %s: %v",
				len(filters), allocated, c.want, c.some, filters[:min(len(filters), 3)])
		}
	}
	many := of(sites, orders)
	for _, order := range []string{"order-0", "order-500", "order-999"} {
		if !many.Matches(&Event{Stored: store.Stored{Site: "site-7", Type: relay.TypeOrderCreated, Order: order}}) {
			t.Errorf("%s is not matched", order)
		}
	}
	if many.Matches(&Event{Stored: store.Stored{Site: "site-7", Type: relay.TypeOrderCreated, Order: "order-1000"}}) {
		t.Error("an order that the filter does not name is matched")
	}
}

// A kept connection serves one callback: the sender tells them apart by what it is given.
func TestCallbacksAreToldApartToTheSender(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, cb := range []relay.Callback{{ID: "a", Generation: "1"}, {ID: "a", Generation: "2"},
		{ID: "b", Generation: "1"}} {
		cb.SetURL("https://bms.example/hook")
		key := NewTarget(cb, relay.Client{}).Request("event", nil, time.Now()).Callback
		if key == "" || seen[key] {
			t.Errorf("%s of generation %s is %q", cb.ID, cb.Generation, key)
		}
		seen[key] = true
	}
}
