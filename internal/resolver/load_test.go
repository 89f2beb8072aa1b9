package resolver

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// A runner that ends while it waits for its cursor is followed by another. Both would write the cursor, each under its
// own lease; in one batch (see package gather), through one handle.
func TestNoCursorIsLoadedForARunnerThatHasEnded(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.Context(), store.Config{
		Conn: natstest.Start(t), Log: slog.New(slog.DiscardHandler),
		Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	key := store.InboxCursors.Key("leeds")
	if _, err := s.Connections.Create(t.Context(), "leeds",
		relay.Connection{ID: "leeds", Generation: "g"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Cursors.Create(t.Context(), key,
		cursor.Document{V: 1, Position: 7, Carried: cursor.Carried{Generation: "g", Epoch: 3}}); err != nil {
		t.Fatal(err)
	}
	r := New(Config{Store: s, Log: slog.New(slog.DiscardHandler)})
	runner := func(id string, epoch uint64) *runner {
		lease := shardtest.Fixed(relay.ShardOf(id), epoch)
		return r.newRunner(lease, relay.Connection{ID: id, Generation: "g"}, false, func() {})
	}
	ctx, end := context.WithCancel(t.Context())
	end()
	before := r.loader.arrive(ctx, runner("leeds", 5))
	after := r.loader.arrive(t.Context(), runner("leeds", 7))
	if before.ready() {
		t.Error("a cursor was loaded for a runner that had ended")
	}
	if !after.ready() || after.err != nil || after.loaded.cursor.Position() != 7 {
		t.Errorf("the next runner's cursor: %+v", after)
	}
	if d, _, err := s.Cursors.Get(t.Context(), key); err != nil || d.Epoch != 7 {
		t.Errorf("stored is %+v, %v", d, err)
	}
}
