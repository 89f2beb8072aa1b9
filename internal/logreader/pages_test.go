package logreader_test

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/logreader"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.Leftovers()...) }

// What waits behind a lane is found without reading the events themselves, of which only the positions are needed. Of
// what is for one client alone, which only the event shows, that client's is found and no other's.
func TestWhatWaitsBehindALane(t *testing.T) {
	t.Parallel()
	conn := natstest.Start(t)
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := store.NewSealer(keys)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{
		Conn: conn, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour}, Sealer: sealer, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	const order, large = "5f0c1c2e-6a64-4a2c-9d55-0a3f3a9f7b11", 500 << 10
	var orders, mine []uint64
	for i := range 8 {
		ev, err := relay.NewOrderEvent("", "leeds", order, relay.TypeOrderUpdated, uint64(i+1), time.Now(), relay.OrderData{
			Order: []byte(`{"Text":"` + strings.Repeat("x", large) + `"}`),
		})
		if err != nil {
			t.Fatal(err)
		}
		last := uint64(0)
		if i > 0 {
			last = orders[i-1]
		}
		seq, err := s.Events.Publish(t.Context(), ev, store.InboxRef{}, last)
		if err != nil {
			t.Fatal(err)
		}
		orders = append(orders, seq)
	}
	for i, client := range []string{"shop", "other", "shop"} {
		ev, err := relay.NewOperationalEvent("", relay.NoSite, "key", time.Now().Add(time.Duration(i)*time.Second), relay.Operational{
			Kind: relay.KindKeyExpiring, Details: map[string]any{"client": client, "clientGeneration": "one"},
		})
		if err != nil {
			t.Fatal(err)
		}
		seq, err := s.Events.PublishOperational(t.Context(), ev)
		if err != nil {
			t.Fatal(err)
		}
		if client == "shop" {
			mine = append(mine, seq)
		}
	}
	target := delivery.NewTarget(
		relay.Callback{ID: "bms", Client: "shop", ClientGeneration: "one", Filter: relay.Filter{Types: []string{relay.TypeOrderUpdated, relay.OperationalPrefix + "*"}}},
		relay.Client{ID: "shop", Generation: "one", Sites: []string{"leeds"}},
	)
	pages := logreader.Pages{Events: s.Events, Deliverer: delivery.New(delivery.Config{Store: s, Log: slog.New(slog.DiscardHandler)})}
	for of, want := range map[string][]uint64{order: orders[2:], "key": mine} {
		before := conn.Stats().InBytes
		seqs, through, err := pages.Lane(t.Context(), target, cursor.Refill{Order: of, From: orders[2], Through: 100})
		if err != nil || !slices.Equal(seqs, want) || through != 100 {
			t.Errorf("of %s there wait %v through %d, want %v: %v", of, seqs, through, want, err)
		}
		if read := conn.Stats().InBytes - before; read > large/2 {
			t.Errorf("%d bytes were read for the positions of %s", read, of)
		}
	}
}
