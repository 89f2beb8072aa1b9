package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Prepare takes every callback's cursor and every watermark that stands beyond the log's end back to it: after a power cut or a restore the
// log may end earlier than they say, and positions above its end will be given to other events. It is for the start, before this replica
// takes any shard, and for a restore. Other replicas may be at work: cursors are read before the log's bounds, so that what they move
// meanwhile is not taken for too far, and a document that one of them has written since is left to it. It is told as an operational event.
func (d *Dispatcher) Prepare(ctx context.Context) error {
	unreadable := func(string, error) {} // told when its shard is taken on
	documents, err := d.conf.Store.Cursors.All(ctx, store.CallbackCursors.Everywhere(), unreadable)
	if err != nil {
		return fmt.Errorf("prepare the callbacks' cursors: %w", err)
	}
	allLanes, err := d.conf.Store.Lanes.All(ctx, store.CallbackCursors.Everywhere(), unreadable)
	if err != nil {
		return fmt.Errorf("prepare the callbacks' cursors: %w", err)
	}
	marks, err := d.conf.Store.Watermarks.All(ctx, store.AllWatermarks, unreadable)
	if err != nil {
		return fmt.Errorf("prepare the watermarks: %w", err)
	}
	found := map[string]*stored{}
	for i := range documents {
		found[documents[i].Key] = &stored{doc: &documents[i]}
	}
	for _, l := range allLanes {
		_, id, _, _ := store.ParseCursorKey(l.Key)
		if s := found[store.CallbackCursor(id)]; s != nil {
			s.lanes = append(s.lanes, l)
		}
	}
	var highest uint64
	for _, s := range found {
		highest = max(highest, s.highest())
	}
	for _, e := range marks {
		if strings.HasSuffix(e.Key, ".events") {
			highest = max(highest, e.Value.Position)
		}
	}
	_, last, err := d.bounds(ctx, highest)
	if err != nil {
		return fmt.Errorf("prepare the callbacks' cursors: %w", err)
	}
	var clamped []string
	for _, e := range documents {
		cut, err := d.clamp(ctx, e, found[e.Key], last)
		if err != nil {
			return fmt.Errorf("take %s back to the end of the log: %w", e.Key, err)
		}
		if cut {
			clamped = append(clamped, e.Key)
		}
	}
	for _, e := range marks {
		if e.Value.Position <= last || !strings.HasSuffix(e.Key, ".events") {
			continue
		}
		_, err := d.conf.Store.Watermarks.Update(ctx, e.Key, store.Watermark{Epoch: e.Value.Epoch, Position: last}, e.Revision)
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("take %s back to the end of the log: %w", e.Key, err)
		}
		if err == nil {
			clamped = append(clamped, e.Key)
		}
	}
	if len(clamped) > 0 {
		d.tellClamped(ctx, clamped, last)
	}
	return nil
}

// boundsAgain is how long one waits before the log is believed to end before a cursor.
const boundsAgain = 500 * time.Millisecond

// bounds answers the log's first and last position. If it ends before the highest position that a cursor speaks of it is looked at twice: a
// node of the store that has just become the log's leader may have yet to apply the last of what its predecessor acknowledged.
func (d *Dispatcher) bounds(ctx context.Context, highest uint64) (first, last uint64, err error) {
	first, last, err = d.conf.Store.Events.Bounds(ctx)
	if err != nil || highest <= last {
		return first, last, err
	}
	wait(ctx, boundsAgain)
	return d.conf.Store.Events.Bounds(ctx)
}

// clamp takes one cursor back, at its own epoch; false if there is nothing to take back, or somebody has written it since.
func (d *Dispatcher) clamp(ctx context.Context, e store.Entry[cursor.Document], s *stored, last uint64) (bool, error) {
	if s.highest() <= last {
		return false, nil
	}
	cur, revisions := d.standing(s)
	if cur == nil {
		return false, nil
	}
	if _, cut := cur.Clamp(last); !cut {
		return false, nil
	}
	ch := cur.Changes()
	var puts []store.Put[cursor.Lane]
	for _, l := range ch.Lanes {
		puts = append(puts, store.Put[cursor.Lane]{Key: e.Key + "." + l.Order, Value: l, Revision: revisions[l.Order]})
	}
	var removals []store.Removal
	for _, order := range ch.Remove {
		removals = append(removals, store.Removal{Key: e.Key + "." + order, Revision: revisions[order]})
	}
	var err error
	for _, r := range d.conf.Store.Lanes.PutAll(ctx, puts) {
		err = errors.Join(err, r.Err)
	}
	if err == nil && ch.Document != nil {
		_, err = d.conf.Store.Cursors.Update(ctx, e.Key, *ch.Document, e.Revision)
	}
	if err == nil {
		for _, r := range d.conf.Store.Lanes.Remove(ctx, removals) {
			err = errors.Join(err, r.Err)
		}
	}
	if errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrUnclear) {
		return false, nil
	}
	return err == nil, err
}

// standing loads a cursor as it is stored, with the revisions of its lanes; nil if it contradicts itself: then its callback starts anew when
// its shard is taken on, which says so.
func (d *Dispatcher) standing(s *stored) (*cursor.Cursor, map[string]uint64) {
	records, revisions := make([]cursor.Lane, 0, len(s.lanes)), map[string]uint64{}
	for _, l := range s.lanes {
		records = append(records, l.Value)
		revisions[l.Value.Order] = l.Revision
	}
	cur, err := cursor.Load(cursor.Policy{MaxLanes: d.conf.MaxLanes}, s.doc.Value, records, time.Now())
	if err != nil {
		return nil, nil
	}
	return cur, revisions
}

// tellClamped logs that cursors were taken back to the end of the log, and publishes it.
func (d *Dispatcher) tellClamped(ctx context.Context, clamped []string, last uint64) {
	slices.Sort(clamped)
	clamped = slices.Compact(clamped)
	d.conf.Log.Error("the log of events ends earlier than cursors say: it was cut off or restored; they were taken back to its end", "last", last, "cursors", len(clamped))
	for try := range 3 {
		wait(ctx, time.Duration(try)*factRetry)
		err := d.conf.Operational.Operational(ctx, relay.NoSite, relay.KindLogClamped, "events",
			"The log of events ends earlier than callbacks had read: it was cut off or restored from a backup. They go on from its end.",
			map[string]any{"last": last, "cursors": len(clamped), "examples": clamped[:min(len(clamped), 20)]})
		if err == nil || ctx.Err() != nil {
			return
		}
		d.conf.Log.Warn("an operational event could not be published", "kind", relay.KindLogClamped, "error", err)
	}
}
