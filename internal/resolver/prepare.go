package resolver

import (
	"context"

	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Prepare sets every cursor that is beyond the end of the inbox back to that end. After a power cut or
// a restore the inbox may end before a cursor's position, and its next pages would be passed over.
// Every replica does so for all cursors, before it holds any shard, with lost nil; and once more if NATS loses the end
// of the inbox.
func (r *Resolver) Prepare(ctx context.Context, lost *store.LostError) error {
	if r.prepared && lost == nil {
		return nil
	}
	err := r.cursors.Clamp(ctx, r.cfg.Now(), lost.InInbox(), func(ctx context.Context, highest uint64) (uint64, error) {
		seq, _ := relay.UnpackEntry(highest)
		_, last, err := cursorstore.Bounds(ctx, seq, r.store.Inbox.Bounds)
		return relay.PackEntry(last, relay.LastIndex), err
	}, r.clamped)
	if lost == nil { // else it is prepared, and other goroutines may ask
		r.prepared = err == nil
	}
	return err
}

// clamped publishes which connections' cursors are taken back to the end of the inbox.
func (r *Resolver) clamped(ctx context.Context, taken []cursorstore.Taken, last uint64) error {
	end, _ := relay.UnpackEntry(last)
	for _, c := range taken {
		from, _ := relay.UnpackEntry(c.ReadFrom)
		r.log.WarnContext(ctx, "the inbox ends before the cursor; going on from its end", "connection", c.ID,
			"cursor", from, "inbox", end)
		err := r.cfg.Publisher.Operational(ctx, relay.NoSite, relay.KindLogClamped, c.ID,
			"The inbox ends earlier than this connection's cursor, as after a power cut or a restored backup. "+
				"Reading goes on from its end; reconcile the connection's open orders.",
			map[string]any{"cursor": from, "inbox": end, "waiting": len(c.Entries)})
		if err != nil {
			return err
		}
	}
	return nil
}
