package dispatcher

import (
	"context"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/cursorstore"
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
		d.cursors.ReportClamped(ctx, d.conf.Operational, keys, last)
		return nil
	})
	if err != nil {
		return fmt.Errorf("prepare the callbacks' cursors: %w", err)
	}
	return nil
}
