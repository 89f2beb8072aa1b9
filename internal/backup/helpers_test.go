package backup_test

import (
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/backup"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

var table = topology.Topology{Prefix: "relay", Replicas: 1, Retention: 24 * time.Hour}

// world is a store and the keys of its secrets.
type world struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	s      *store.Store
	config backup.Config
}

func newKeys(t testing.TB) []byte {
	t.Helper()
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// at is a server, with keys, on which nothing was stored yet.
func at(t testing.TB, nc *nats.Conn, keys []byte, table topology.Topology) *world {
	t.Helper()
	sealer, err := store.NewSealer(keys)
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &world{nc: nc, js: js, config: backup.Config{
		Conn: nc, Topology: table, Sealer: sealer, Fingerprint: store.Fingerprint(keys), Release: "test",
		Log: slog.New(slog.DiscardHandler),
	}}
}

func (w *world) open(t testing.TB) *store.Store {
	t.Helper()
	var s *store.Store
	if err := natstest.Patiently(func() (err error) {
		s, err = store.Open(t.Context(), store.Config{Conn: w.nc, Topology: w.config.Topology, Sealer: w.config.Sealer,
			Log: slog.New(slog.DiscardHandler)})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	w.s = s
	return s
}

// fill stores one of everything.
func (w *world) fill(t testing.TB) {
	t.Helper()
	ctx := t.Context()
	s := w.open(t)
	must := func(_ uint64, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Connections.Create(ctx, "leeds",
		relay.Connection{ID: "leeds", Level: relay.LevelSite, Site: "leeds", Generation: "g1"}))
	must(s.Tokens.SaveToken(ctx, "leeds", relay.TokenRecord{
		AccessToken: relay.NewSecret("access"), RefreshToken: relay.NewSecret("refresh"),
		RefreshedAt: time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC),
	}, 0))
	cb := relay.Callback{ID: "bms", Client: "default"}
	cb.SetURL("https://bms.example/hooks?token=a-token-in-a-url")
	must(s.Callbacks.Create(ctx, "bms", cb))
	page, err := s.Inbox.Append(ctx, relay1Page("p1"))
	must(page, err)
	order := uuid(1)
	ev, err := relay.NewOrderEvent("https://relay.example", "leeds", order, relay.TypeOrderCreated,
		relay.NextSequence(time.Now(), 0), time.Now(), relay.OrderData{Order: []byte(`{}`)})
	if err != nil {
		t.Fatal(err)
	}
	position, err := s.Events.Publish(ctx, ev, store.InboxRef{Connection: "leeds", Seq: page}, 0)
	must(position, err)
	sequence, _ := ev.SequenceNumber()
	must(s.Orders.Create(ctx, "leeds."+order,
		relay.OrderState{Site: "leeds", ID: order, Sequence: sequence, LogPosition: position}))
	must(s.Cursors.Create(ctx, store.CallbackCursor("bms"), cursor.Document{V: 1, Position: position}))
	must(s.Lanes.Create(ctx, store.CallbackCursor("bms")+"."+order,
		cursor.Lane{V: 1, Order: order, Entries: []uint64{position}}))
	must(s.Unresolved.Create(ctx, "leeds-1-0",
		relay.Unresolved{ID: "leeds-1-0", Connection: "leeds", Raw: []byte("?")}))
	for _, r := range s.Attempts.AppendAll(ctx, []relay.AttemptBatch{{Callback: "bms"}}) {
		must(r.Seq, r.Err)
	}
}

func relay1Page(id string) store.Page {
	return store.Page{PollID: id, Connection: "leeds", Site: "leeds", ReceivedAt: time.Now(), Body: []byte(`[{"a":1}]`)}
}

func uuid(n int) string { return fmt.Sprintf("5f0c0000-0000-4000-8000-%012d", n) }

// contents is everything that a stream holds, by sequence.
func contents(t testing.TB, js jetstream.JetStream, stream string) map[uint64]string {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	state, held := s.CachedInfo().State, map[uint64]string{}
	for seq := state.FirstSeq; seq <= state.LastSeq && seq > 0; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if err != nil {
			continue // overwritten
		}
		held[seq] = fmt.Sprint(m.Subject, m.Header, string(m.Data), m.Time.UnixNano())
	}
	return held
}

// saved is a store with one of everything, and a backup of it.
func saved(t testing.TB, keys []byte) (from *world, dir string, m backup.Manifest) {
	t.Helper()
	from = at(t, natstest.Start(t), keys, table)
	from.fill(t)
	dir = filepath.Join(t.TempDir(), "backup")
	return from, dir, save(t, from, dir)
}

func names(t testing.TB, js jetstream.JetStream) []string {
	t.Helper()
	var all []string
	list := js.StreamNames(t.Context())
	for name := range list.Name() {
		all = append(all, name)
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func same(a, b map[uint64]string) bool { return maps.Equal(a, b) }

func save(t testing.TB, w *world, dir string) backup.Manifest {
	t.Helper()
	m, err := backup.Save(t.Context(), w.config, dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
