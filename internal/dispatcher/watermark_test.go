package dispatcher

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// A quiet shard writes its watermark once for all that was read, then nothing, and never moves it back.
func TestAQuietShardWritesNothing(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.Context(), store.Config{
		Conn: natstest.Start(t), Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	cursors := cursorstore.New(s, store.CallbackCursors, slog.New(slog.DiscardHandler))
	mark, _, err := cursors.AdoptWatermark(t.Context(), 0, 1, func(context.Context, uint64) (uint64, error) {
		return 0, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w := newOneCallback("leeds")
	w.cb.cur.SetCarried(cursor.Carried{Generation: "g"})
	w.cb.cur.Stored(w.cb.cur.Changes())
	w.cb.storing.covered = true
	w.core.toLoad.listed = true
	w.do(&adopted{callbacks: []*callback{w.cb}, mark: mark, first: 1})
	now := time.Now()
	sweep := func() (position, revision uint64) {
		now = now.Add(sweepEvery)
		if r := w.core.step(tick{}, now, true).round; r != nil {
			if _, err := cursors.StoreWatermark(t.Context(), &r.mark, r.raiseTo); err != nil {
				t.Fatal(err)
			}
			w.core.step(roundEnded{r}, now, true)
		}
		there, revision, err := s.Watermarks.Get(t.Context(), store.WatermarkKey(0, "events"))
		if err != nil {
			t.Fatal(err)
		}
		return there.Position, revision
	}
	for seq := uint64(1); seq <= 5; seq++ {
		w.read(seq, "york")
		w.offer()
		position, written := sweep()
		if position != seq {
			t.Fatalf("after %d events the watermark is %d", seq, position)
		}
		for range 3 {
			if _, revision := sweep(); revision != written {
				t.Fatalf("a quiet sweep has written: the revision was %d and is %d", written, revision)
			}
		}
		storedThrough := w.cb.storing.storedThrough
		// one that comes later may be further back
		w.cb.storing.storedThrough, w.cb.reading.source = seq-1, readsCatchUp
		if back, revision := sweep(); back != position || revision != written {
			t.Fatalf("the watermark was %d and is %d", position, back)
		}
		w.cb.storing.storedThrough, w.cb.reading.source = storedThrough, readsShared
	}
}
