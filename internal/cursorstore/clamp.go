package cursorstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Taken is a cursor that must be taken back to the end of its log, or a watermark, which has no id.
type Taken struct {
	ID, Key string
	cursor.Clamped
}

// boundsAgain is how long Bounds waits before it believes that a log ends before a cursor.
const boundsAgain = 500 * time.Millisecond

// Bounds returns a log's first and last position. If it ends before the highest position that a cursor names, it is
// read twice: a node of the store that has just become the log's leader may have yet to apply the last of what its
// predecessor acknowledged.
func Bounds(
	ctx context.Context, highest uint64, read func(context.Context) (first, last uint64, err error),
) (first, last uint64, err error) {
	if first, last, err = read(ctx); err != nil || highest <= last {
		return first, last, err
	}
	backoff.Sleep(ctx, boundsAgain)
	return read(ctx)
}

// Tell is called once, with every cursor that must be taken back to the end of its log, at last, before any of that is
// stored: it is called again if this replica dies in between.
type Tell func(ctx context.Context, taken []Taken, last uint64) error

// Clamp takes every cursor and watermark of the kind that stands beyond the end of its log back to it: after a power
// cut or a restore the log may end earlier than a cursor's position, and positions above the end will be given to other
// entries. It is for the start, before this replica takes any shard. Other replicas may be at work: the cursors are
// read before the log's end is, so none that they move meanwhile is taken for too far, and one that was written since
// is left to its owner, who knows. End returns the log's last position; highest is the highest that any cursor speaks
// of.
//
// If NATS has lost the end of the log under a relay that runs, cut has what is left of it. Positions above may have been
// given to other entries already, and a cursor does not show of which it speaks. So every one above is taken back: an
// owner who knows the new entries writes his position again, and else they come a second time.
func (s *Store) Clamp(
	ctx context.Context, now time.Time, cut *store.Cut,
	end func(ctx context.Context, highest uint64) (last uint64, err error), tell Tell,
) error {
	found, err := s.load(ctx, []string{s.kind.Everywhere()})
	if err != nil {
		return fmt.Errorf("read the cursors: %w", err)
	}
	marks, highest, err := s.watermarks(ctx)
	if err != nil {
		return err
	}
	for _, f := range found {
		highest = max(highest, f.Highest())
	}
	last := s.positionOf(cut)
	if cut == nil {
		if last, err = end(ctx, highest); err != nil {
			return fmt.Errorf("read the end of the log: %w", err)
		}
	}
	var taken []Taken
	var saves []Save
	for _, id := range slices.Sorted(maps.Keys(found)) {
		f := found[id]
		if f.Document == nil || f.Highest() <= last {
			continue
		}
		c, err := f.Restore(cursor.Policy{}, f.Document.Generation, now)
		if err != nil { // its reader finds out when the shard is taken, and begins again
			s.log.ErrorContext(ctx, "a cursor cannot be held against its log", "error", err)
			continue
		}
		if cut, changed := c.Clamp(last); changed {
			taken, saves = append(taken, Taken{id, f.Handle.key, cut}), append(saves, Save{f.Handle, c.Changes()})
		}
	}
	marks = slices.DeleteFunc(marks, func(e store.Entry[store.Watermark]) bool { return e.Value.Position <= last })
	all := slices.Clone(taken)
	for _, e := range marks {
		all = append(all, Taken{Key: e.Key})
	}
	if err := tell(ctx, all, last); err != nil {
		return err
	}
	for _, e := range marks {
		_, err := s.store.Watermarks.Update(ctx, e.Key,
			store.Watermark{Epoch: e.Value.Epoch, Position: last}, e.Revision)
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("take %s back to the end of the log: %w", e.Key, err)
		}
	}
	for i, save := range saves {
		r := s.Adopt(ctx, found[taken[i].ID].Document.Epoch, []Save{save})[0]
		switch {
		case r.Outcome == store.Changed || r.Outcome == store.Superseded:
			s.log.InfoContext(ctx, "the cursor has an owner who goes on with it", "key", save.Handle.key)
		case r.Err != nil:
			return fmt.Errorf("take %s back to the end of the log: %w", save.Handle.key, r.Err)
		}
	}
	return nil
}

// positionOf returns the position of the last entry that is left, 0 if nothing is lost.
func (s *Store) positionOf(cut *store.Cut) uint64 {
	switch {
	case cut == nil:
		return 0
	case s.kind == store.InboxCursors:
		return relay.PackEntry(cut.End, relay.LastIndex)
	}
	return cut.End
}

// eventLog is the log whose cursors have watermarks.
const eventLog = "events"

// watermarks returns those of the kind's log, if it has any, and the highest.
func (s *Store) watermarks(ctx context.Context) (marks []store.Entry[store.Watermark], highest uint64, err error) {
	if s.kind != store.CallbackCursors {
		return nil, 0, nil
	}
	// logged when the shard is taken on
	all, err := s.store.Watermarks.All(ctx, store.AllWatermarks, func(string, error) {})
	if err != nil {
		return nil, 0, fmt.Errorf("read the watermarks: %w", err)
	}
	for _, e := range all {
		if strings.HasSuffix(e.Key, "."+eventLog) {
			marks, highest = append(marks, e), max(highest, e.Value.Position)
		}
	}
	return marks, highest, nil
}

// Operational publishes an operational event.
type Operational interface {
	Operational(ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any) error
}

// reportAgain is how long ReportClamped waits after it could not publish, longer each time.
const reportAgain = time.Second

// ReportClamped logs that callbacks' cursors stand beyond the end of the log of events, if any do, and publishes it. It
// comes before they are taken back: should this replica die in between, whoever finds them next does so again.
func (s *Store) ReportClamped(ctx context.Context, to Operational, clamped []string, last uint64) {
	if len(clamped) == 0 {
		return
	}
	slices.Sort(clamped)
	s.log.Error(
		"the log of events ends earlier than cursors say: it was cut off or restored; they are taken back to its end",
		"last", last, "cursors", len(clamped))
	for try := range 3 {
		backoff.Sleep(ctx, time.Duration(try)*reportAgain)
		err := to.Operational(ctx, relay.NoSite, relay.KindLogClamped, "events",
			"The log of events ends earlier than callbacks had read: it was cut off or restored from a backup. They "+
				"go on from its end.",
			map[string]any{"last": last, "cursors": len(clamped), "examples": clamped[:min(len(clamped), 20)]})
		if err == nil || ctx.Err() != nil {
			return
		}
		s.log.Warn("an operational event could not be published", "kind", relay.KindLogClamped, "error", err)
	}
}
