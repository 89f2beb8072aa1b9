package backlog

import (
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.Leftovers()...) }

// Events of which only the body names whom they are for are counted where they are sampled, for that client alone.
func TestPrivateEventsAreCounted(t *testing.T) {
	t.Parallel()
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := store.NewSealer(keys)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{
		Conn: natstest.Start(t), Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
		Sealer: sealer, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, client := range []string{"shop", "other", "shop"} {
		ev, err := relay.NewOperationalEvent("", relay.NoSite, "key",
			time.Now().Add(time.Duration(i)*time.Second), relay.Operational{
				Kind: relay.KindKeyExpiring, Details: map[string]any{"client": client, "clientGeneration": "one"},
			})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Events.PublishOperational(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
	}
	q := Question{target: delivery.NewTarget(
		relay.Callback{ID: "bms", Client: "shop", ClientGeneration: "one",
			Filter: relay.Filter{Types: []string{relay.OperationalPrefix + "*"}, ChangedOnly: true}},
		relay.Client{ID: "shop", Generation: "one", Sites: []string{"leeds"}},
	)}
	filters, none := q.target.Subjects("key")
	if none {
		t.Fatal("nothing is selected")
	}
	if own, _, err := q.count(t.Context(), s.Events, 1, filters); own != 2 || err != nil {
		t.Errorf("%d events wait, want 2: %v", own, err)
	}
}
