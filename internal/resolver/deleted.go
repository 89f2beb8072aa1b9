package resolver

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
)

// eraseDeleted removes the cursors of a shard's connections that were deleted while nobody worked on the shard. No
// runner comes by them: each loads its own, and a shard whose last connection was deleted has none. What is deleted
// from now on its runner removes.
func (r *Resolver) eraseDeleted(ctx context.Context, lease *shard.Lease) {
	select {
	case <-r.roster.Ready():
	case <-ctx.Done():
		return
	}
	if !lease.Await(ctx) {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, loadBound)
	defer cancel()
	if err := r.eraseUnknown(bounded, lease); err != nil && ctx.Err() == nil {
		r.log.Log(ctx, store.Level(err, slog.LevelWarn),
			"whether deleted connections have left where their inbox was read to is not known", "shard",
			lease.Shard(), "error", err)
	}
}

func (r *Resolver) eraseUnknown(ctx context.Context, lease *shard.Lease) error {
	ids, err := r.kept.Read(ctx, lease.Shard())
	if err != nil {
		return err
	}
	unknown := slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		_, known := r.roster.Connection(id)
		return known
	})
	for some := range slices.Chunk(unknown, loadOneByOne) {
		var deleted []string
		for _, c := range r.store.Connections.Current(ctx, some) {
			err = errors.Join(err, c.Err)
			if c.Err == nil && c.Deleted { // else it was made just now
				deleted = append(deleted, c.Key)
			}
		}
		if len(deleted) == 0 {
			continue
		}
		found, failed := r.cursors.LoadSome(ctx, deleted)
		err = errors.Join(err, failed)
		for _, stored := range found {
			r.erase(ctx, lease, stored, "")
		}
	}
	return err
}

// keptOf returns whose cursors are stored in shards: one request, however many shards are taken together.
func (r *Resolver) keptOf(ctx context.Context, shards []int) (map[int][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, loadBound)
	defer cancel()
	prefixes := store.ShardPrefixes(shards, 1, store.InboxCursors.OfShard, store.InboxCursors.Everywhere())
	keys, err := r.store.Cursors.Keys(ctx, prefixes[0])
	by := map[int][]string{}
	for _, key := range keys {
		if _, id, _, ok := store.ParseCursorKey(key); ok {
			by[relay.ShardOf(id)] = append(by[relay.ShardOf(id)], id)
		}
	}
	return by, err
}
