package logreader_test

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/logreader"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.Leftovers()...) }

// open returns a store.
func open(t *testing.T) (*nats.Conn, *store.Store) {
	t.Helper()
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
		Conn: conn, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour}, Sealer: sealer,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return conn, s
}

const order = "5f0c1c2e-6a64-4a2c-9d55-0a3f3a9f7b11"

// publish appends the next event of an order to the log, with a text of so many bytes, and returns its position.
func publish(t *testing.T, s *store.Store, number int, last uint64, size int) uint64 {
	t.Helper()
	ev, err := relay.NewOrderEvent("", "leeds", order, relay.TypeOrderUpdated, uint64(number),
		time.Now(), relay.OrderData{
			Order: []byte(`{"Text":"` + strings.Repeat("x", size) + `"}`),
		})
	if err != nil {
		t.Fatal(err)
	}
	seq, err := s.Events.Publish(t.Context(), ev, store.InboxRef{}, last)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// A page keeps to its bytes however small the events before were: what does not fit comes with the next one, and one
// event that is larger than a page comes alone. Nothing is left out, and nothing comes twice.
func TestAPageKeepsToItsBytes(t *testing.T) {
	t.Parallel()
	_, s := open(t)
	const small, large = 100, 400 << 10
	var want []uint64
	last := uint64(0)
	for i, size := range []int{small, small, large, large, large, capacity.PageBytes * 3 / 2,
		small, large, large, small} {
		last = publish(t, s, i+1, last, size)
		want = append(want, last)
	}
	target := delivery.NewTarget(relay.Callback{ID: "bms", Client: "shop"}, relay.Client{ID: "shop", AllSites: true})
	pages := logreader.Pages{Events: s.Events,
		Deliverer: delivery.New(delivery.Config{Store: s, Log: slog.New(slog.DiscardHandler)})}
	for name, next := range map[string]func(logreader.Page) int{
		"as if all before were small": func(logreader.Page) int { return small },
		"by the page before":          func(p logreader.Page) int { return p.BodySize },
	} {
		var got []uint64
		pos := uint64(0)
		for size := small; pos < last; {
			page, err := pages.Read(t.Context(), target, pos, size)
			if err != nil || len(page.Events) == 0 || page.Through <= pos {
				t.Fatalf("%s: after %d there are %d events through %d: %v",
					name, pos, len(page.Events), page.Through, err)
			}
			bytes := 0
			for _, ev := range page.Events {
				got, bytes = append(got, ev.Seq), bytes+len(ev.Body)
				if len(ev.Body) <= small || ev.ID == "" {
					t.Errorf("%s: event %d has no body", name, ev.Seq)
				}
			}
			if bytes > capacity.PageBytes && len(page.Events) > 1 || page.BodySize != bytes/len(page.Events) {
				t.Errorf("%s: a page of %d events has %d bytes, %d on average",
					name, len(page.Events), bytes, page.BodySize)
			}
			pos, size = page.Through, next(page)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: read %v of %v", name, got, want)
		}
	}
}

// What waits behind a lane is found without reading the events themselves, of which only the positions are needed. Of
// what is for one client alone, which only the event shows, that client's is found and no other's.
func TestWhatWaitsBehindALane(t *testing.T) {
	t.Parallel()
	conn, s := open(t)
	const large = 500 << 10
	var orders, mine []uint64
	last := uint64(0)
	for i := range 8 {
		last = publish(t, s, i+1, last, large)
		orders = append(orders, last)
	}
	for i, client := range []string{"shop", "other", "shop"} {
		ev, err := relay.NewOperationalEvent("", relay.NoSite, "key",
			time.Now().Add(time.Duration(i)*time.Second), relay.Operational{
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
		relay.Callback{ID: "bms", Client: "shop", ClientGeneration: "one",
			Filter: relay.Filter{Types: []string{relay.TypeOrderUpdated, relay.OperationalPrefix + "*"}}},
		relay.Client{ID: "shop", Generation: "one", Sites: []string{"leeds"}},
	)
	pages := logreader.Pages{Events: s.Events,
		Deliverer: delivery.New(delivery.Config{Store: s, Log: slog.New(slog.DiscardHandler)})}
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
