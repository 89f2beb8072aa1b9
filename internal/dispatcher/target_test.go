package dispatcher

import (
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
	if ev := operational(relay.KindConsentRequired, nil); !of("other").matches(ev) {
		t.Error("an event about a connection is for everybody who may see its site")
	}
}
