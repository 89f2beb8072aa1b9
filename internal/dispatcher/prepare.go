package dispatcher

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/relay"
)

// Prepare takes every callback's cursor and every watermark that is beyond the log's end back to it: after a power cut or a
// restore the log may end earlier than they say, and positions above its end will be given to other events. It is for the
// start, before this replica takes any shard, and for a restore; see cursorstore.Store.Clamp.
func (d *Dispatcher) Prepare(ctx context.Context) error {
	err := d.cursors.Clamp(ctx, time.Now(), func(ctx context.Context, highest uint64) (uint64, error) {
		_, last, err := d.pages.Bounds(ctx, highest)
		return last, err
	}, func(ctx context.Context, taken []cursorstore.Taken, last uint64) error {
		var keys []string
		for _, c := range taken {
			keys = append(keys, c.Key)
		}
		d.reportClamped(ctx, keys, last)
		return nil
	})
	if err != nil {
		return fmt.Errorf("prepare the callbacks' cursors: %w", err)
	}
	return nil
}

// reportClamped logs that cursors stand beyond the end of the log, if any do, and publishes it. It comes before they are
// taken back: should this replica die in between, whoever finds them next does so again.
func (d *Dispatcher) reportClamped(ctx context.Context, clamped []string, last uint64) {
	if len(clamped) == 0 {
		return
	}
	slices.Sort(clamped)
	d.conf.Log.Error("the log of events ends earlier than cursors say: it was cut off or restored; they are taken back to its end", "last", last, "cursors", len(clamped))
	for try := range 3 {
		backoff.Sleep(ctx, time.Duration(try)*storeRetry)
		err := d.conf.Operational.Operational(ctx, relay.NoSite, relay.KindLogClamped, "events",
			"The log of events ends earlier than callbacks had read: it was cut off or restored from a backup. They go on from its end.",
			map[string]any{"last": last, "cursors": len(clamped), "examples": clamped[:min(len(clamped), 20)]})
		if err == nil || ctx.Err() != nil {
			return
		}
		d.conf.Log.Warn("an operational event could not be published", "kind", relay.KindLogClamped, "error", err)
	}
}
