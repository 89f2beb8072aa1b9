package resolver

import (
	"context"
	"errors"
	"fmt"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// inboxCursors are the keys of all cursors over the inbox.
var inboxCursors = store.InboxCursors.Everywhere()

// Prepare holds every cursor against the inbox before this replica holds any shard: after a power cut or a restore the inbox may
// end earlier than a cursor says, and its next pages would be passed over. The cursors are read before the inbox's end is: one that
// another replica moves meanwhile cannot look too far then. Every replica does so for all of them; writes are conditional, and a
// cursor that was written meanwhile has an owner who knows.
func (r *Resolver) Prepare(ctx context.Context) error {
	if r.prepared {
		return nil
	}
	documents, err := r.store.Cursors.All(ctx, inboxCursors, func(key string, err error) {
		r.log.ErrorContext(ctx, "cannot read a cursor", "key", key, "error", err)
	})
	if err != nil {
		return err
	}
	lanes, err := r.allLanes(ctx, func(string, error) {}) // told when the connection's runner loads them
	if err != nil {
		return err
	}
	_, last, err := r.store.Inbox.Bounds(ctx)
	if err != nil {
		return fmt.Errorf("read the inbox's bounds: %w", err)
	}
	for _, d := range documents {
		if err := r.clamp(ctx, d, lanes[d.Key], last); err != nil {
			return err
		}
	}
	r.prepared = true
	return nil
}

func (r *Resolver) clamp(ctx context.Context, d store.Entry[cursor.Document], lanes []store.Entry[cursor.Lane], last uint64) error {
	_, connection, _, _ := store.ParseCursorKey(d.Key)
	s, err := r.newStand(nil, d.Key, d.Value.Generation, d.Value, d.Revision, lanes)
	if err != nil {
		r.log.ErrorContext(ctx, "cannot hold a cursor against the inbox", "connection", connection, "error", err)
		return nil
	}
	clamped, changed := s.Clamp(relay.PackEntry(last, relay.LastIndex))
	if !changed {
		return nil
	}
	from, _ := relay.UnpackEntry(clamped.ReadFrom)
	r.log.WarnContext(ctx, "the inbox ends before the cursor; going on from its end", "connection", connection, "cursor", from, "inbox", last)
	if err := r.cfg.Publisher.Operational(ctx, relay.NoSite, relay.KindLogClamped, connection,
		"The inbox ends earlier than this connection's cursor, as after a power cut or a restored backup. Reading goes on from its end; reconcile the connection's open orders.",
		map[string]any{"cursor": from, "inbox": last, "waiting": len(clamped.Entries)}); err != nil {
		return err
	}
	err = flushAll(ctx, []*stand{s}, readAgain)[0]
	if errors.Is(err, errContested) || errors.Is(err, errSuperseded) {
		r.log.InfoContext(ctx, "the cursor has an owner who goes on with it", "connection", connection, "error", err)
		return nil
	}
	return err
}
