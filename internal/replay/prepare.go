package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/logreader"
	"github.com/audatex-relay/relay/internal/store"
)

// Prepare is for the start, before anything is written: after a power cut or a restore a log may
// end before the end of a replay. Positions above will be given to other events, so the replay ends
// where the log does. It is called again, with what is lost, if NATS loses events under a relay
// that runs.
func (r *Replayer) Prepare(ctx context.Context, lost *store.LostError) error {
	docs, err := r.c.Store.Replays.All(ctx, "", func(key string, err error) {
		r.c.Log.Error("a stored replay cannot be read", "key", key, "error", err)
	})
	if err != nil {
		return fmt.Errorf("read the replays: %w", err)
	}
	pages := logreader.Pages{Events: r.c.Store.Events, Deliverer: r.c.Deliverer}
	var highest uint64
	for _, e := range docs {
		if e.Value.Running() {
			highest = max(highest, e.Value.Through)
		}
	}
	_, last, err := pages.Bounds(ctx, highest)
	if err != nil {
		return fmt.Errorf("read the end of the log: %w", err)
	}
	cut := lost.InEvents()
	if cut != nil {
		last = cut.End
	}
	for _, e := range docs {
		if doc := e.Value; doc.Running() && doc.Through > last && !cut.Spares(e.Written) {
			r.c.Log.Warn("a replay reached beyond the log's end; it ends there", "callback", doc.Callback,
				"replay", doc.ID, "end", last)
			doc.Through, doc.Matched = last, nil
			// Whoever has written it meanwhile has seen the log as long as that.
			if _, err := r.c.Store.Replays.Update(ctx, e.Key, doc, e.Revision); err != nil &&
				!errors.Is(err, store.ErrConflict) {
				return fmt.Errorf("end replay %s where the log ends: %w", doc.ID, err)
			}
		}
	}
	end := func(ctx context.Context, highest uint64) (uint64, error) {
		_, last, err := pages.Bounds(ctx, highest)
		return last, err
	}
	tell := func(_ context.Context, taken []cursorstore.Taken, last uint64) error {
		for _, t := range taken {
			r.c.Log.Warn("the cursor of a replay stood beyond the log's end and was taken back to it",
				"cursor", t.ID, "end", last)
		}
		return nil
	}
	return r.cursors.Clamp(ctx, time.Now(), cut, end, tell)
}
