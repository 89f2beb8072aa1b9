package dispatcher

import (
	"slices"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

func TestWhatHappensToACallbackIsItsClientsAffair(t *testing.T) {
	t.Parallel()
	operational := func(kind relay.Kind, details map[string]any) *event {
		ev, err := relay.NewOperationalEvent("", relay.NoSite, "cb", time.Now(), relay.Operational{Kind: kind, Details: details})
		if err != nil {
			t.Fatal(err)
		}
		body, err := relay.Encode(ev)
		if err != nil {
			t.Fatal(err)
		}
		return newEvent(store.Stored{Site: ev.Site, Type: ev.Type, Order: ev.Subject, Body: body})
	}
	of := func(client string) *target {
		return newTarget(relay.Callback{ID: "ops", Client: client, Filter: relay.Filter{Types: []string{"audatex.relay.*"}}}, relay.Client{ID: client, AllSites: true})
	}
	for _, kind := range []relay.Kind{relay.KindCallbackDisabled, relay.KindCallbackRecovered, relay.KindDeliveriesExpired} {
		ev := operational(kind, map[string]any{"callback": "cb", "client": "acme"})
		if !of("acme").matches(ev) || of("other").matches(ev) {
			t.Errorf("%s is heard by the wrong client", kind)
		}
		if nobody := operational(kind, nil); of("acme").matches(nobody) {
			t.Errorf("%s of no known client is heard", kind)
		}
	}
	limited := newTarget(relay.Callback{ID: "ops", Client: "acme", Filter: relay.Filter{Types: []string{"audatex.relay.*"}}}, relay.Client{ID: "acme", Sites: []string{"leeds"}})
	if ev := operational(relay.KindCallbackDisabled, map[string]any{"client": "acme"}); !limited.matches(ev) {
		t.Error("a client limited to sites does not hear of its own callback")
	}
	if ev := operational(relay.KindConsentRequired, nil); limited.matches(ev) {
		t.Error("a client limited to sites hears what happened at no site")
	}
	if sites, all := limited.sites(); all || !slices.Contains(sites, relay.NoSite) || !slices.Contains(sites, "leeds") {
		t.Errorf("the shared reader offers it %v", sites)
	}
	if filters, _ := limited.subjects(""); !slices.Contains(filters, "audatex._.relay.*.*") {
		t.Errorf("reading by itself it asks for %v", filters)
	}
	if ev := operational(relay.KindConsentRequired, nil); !of("other").matches(ev) {
		t.Error("an event about a connection is for everybody who may see its site")
	}
}
