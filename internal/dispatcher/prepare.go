package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Prepare takes every callback's cursor and every watermark that stands beyond the log's end back to it: after a
// power cut or a restore the log may end earlier than they say, and positions above its end will be given to other
// events. It is for the start, before this replica takes any shard, and for a restore. Other replicas may be at work:
// what is read before the log's bounds is not taken for too far, and a document that one of them has written since is
// left to it. What stands beyond the end is published as an operational event before it is taken back.
func (d *Dispatcher) Prepare(ctx context.Context) error {
	marks, err := d.conf.Store.Watermarks.All(ctx, store.AllWatermarks, func(string, error) {}) // logged when the shard is taken on
	if err != nil {
		return fmt.Errorf("prepare the watermarks: %w", err)
	}
	marks = slices.DeleteFunc(marks, func(e store.Entry[store.Watermark]) bool { return !strings.HasSuffix(e.Key, ".events") })
	var end uint64
	err = d.cursors.Clamp(ctx, time.Now(), func(ctx context.Context, highest uint64) (uint64, error) {
		for _, e := range marks {
			highest = max(highest, e.Value.Position)
		}
		_, last, err := d.bounds(ctx, highest)
		return last, err
	}, func(ctx context.Context, taken []cursorstore.Taken, last uint64) error {
		marks = slices.DeleteFunc(marks, func(e store.Entry[store.Watermark]) bool { return e.Value.Position <= last })
		var beyond []string
		for _, e := range marks {
			beyond = append(beyond, e.Key)
		}
		for _, c := range taken {
			beyond = append(beyond, store.CallbackCursor(c.ID))
		}
		d.tellClamped(ctx, beyond, last)
		end = last
		return nil
	})
	if err != nil {
		return fmt.Errorf("prepare the callbacks' cursors: %w", err)
	}
	for _, e := range marks { // those beyond the end
		_, err := d.conf.Store.Watermarks.Update(ctx, e.Key, store.Watermark{Epoch: e.Value.Epoch, Position: end}, e.Revision)
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("take %s back to the end of the log: %w", e.Key, err)
		}
	}
	return nil
}

// boundsAgain is how long one waits before the log is believed to end before a cursor.
const boundsAgain = 500 * time.Millisecond

// bounds returns the log's first and last position. If it ends before the highest position that a cursor speaks of it
// is looked at twice: a node of the store that has just become the log's leader may have yet to apply the last of
// what its predecessor acknowledged.
func (d *Dispatcher) bounds(ctx context.Context, highest uint64) (first, last uint64, err error) {
	first, last, err = d.conf.Store.Events.Bounds(ctx)
	if err != nil || highest <= last {
		return first, last, err
	}
	backoff.Sleep(ctx, boundsAgain)
	return d.conf.Store.Events.Bounds(ctx)
}

// tellClamped logs that cursors stand beyond the end of the log, if any do, and publishes it. It comes before they are
// taken back: should this replica die in between, whoever finds them next does so again.
func (d *Dispatcher) tellClamped(ctx context.Context, clamped []string, last uint64) {
	if len(clamped) == 0 {
		return
	}
	slices.Sort(clamped)
	d.conf.Log.Error("the log of events ends earlier than cursors say: it was cut off or restored; they are taken back to its end", "last", last, "cursors", len(clamped))
	for try := range 3 {
		backoff.Sleep(ctx, time.Duration(try)*factRetry)
		err := d.conf.Operational.Operational(ctx, relay.NoSite, relay.KindLogClamped, "events",
			"The log of events ends earlier than callbacks had read: it was cut off or restored from a backup. They go on from its end.",
			map[string]any{"last": last, "cursors": len(clamped), "examples": clamped[:min(len(clamped), 20)]})
		if err == nil || ctx.Err() != nil {
			return
		}
		d.conf.Log.Warn("an operational event could not be published", "kind", relay.KindLogClamped, "error", err)
	}
}
