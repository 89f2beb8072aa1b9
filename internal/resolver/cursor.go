package resolver

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
)

var (
	// errSuperseded: a later owner has written this cursor under a higher epoch, and this one must stop.
	errSuperseded = errors.New("another replica has taken the connection over")
	// errContested: the cursor was written while it was being adopted, and must be loaded again.
	errContested = errors.New("somebody else has written the cursor meanwhile")
)

// storedCursor is a connection's cursor and where it is stored.
type storedCursor struct {
	*cursor.Cursor
	handle  *cursorstore.Handle
	cursors *cursorstore.Store
	lease   *shard.Lease
}

// policy is that of every connection's cursor: nothing is given up, and while the vendor fails it is only probed.
func (r *Resolver) policy() cursor.Policy {
	return cursor.Policy{
		Concurrency: concurrency, Window: window, Schedule: r.cfg.Schedule, Forever: true, Jitter: jitter,
		CircuitFailures: circuitFailures, ProbeSchedule: r.cfg.Schedule,
	}
}

// newStoredCursor makes a connection's cursor from what is stored. If that is of another generation, the cursor
// begins at the start of the inbox, where pages of other generations are passed over.
func (r *Resolver) newStoredCursor(
	lease *shard.Lease, generation string, found *cursorstore.Stored,
) (*storedCursor, error) {
	if epoch := found.Epoch(); epoch > lease.Epoch() {
		lease.Superseded(epoch)
		return nil, errSuperseded
	}
	c, err := found.Restore(r.policy(), generation, r.cfg.Now())
	if err != nil {
		return nil, err
	}
	if c == nil {
		c = found.Begin(r.policy(), generation, 0, r.cfg.Now())
	}
	c.Adopt(lease.Epoch())
	s := &storedCursor{Cursor: c, handle: found.Handle, cursors: r.cursors, lease: lease}
	if found.Empty() { // there is no former owner to keep from writing: of two first documents the second is refused
		s.Stored(s.Changes())
	}
	return s, nil
}

// flushAtOnce is how often a cursor is stored in a row while something unexpected is found in its place: a
// former owner's late write, or an earlier one of ours that got no response.
const flushAtOnce = 3

// flush stores what has changed.
func (s *storedCursor) flush(ctx context.Context) (err error) {
	for range flushAtOnce {
		save := s.save()
		if err = s.saved(save, s.cursors.Flush(ctx, s.lease.Epoch(), []cursorstore.Save{save})[0]); !errors.Is(err,
			errContested) {
			break
		}
	}
	return err
}

func (s *storedCursor) save() cursorstore.Save {
	return cursorstore.Save{Handle: s.handle, Changes: s.Changes()}
}

// saved notes how its Save ended.
func (s *storedCursor) saved(save cursorstore.Save, r cursorstore.Result) error {
	switch r.Outcome {
	case store.Written:
		s.Stored(save.Changes)
		return nil
	case store.Superseded:
		s.lease.Superseded(r.Epoch)
		return errSuperseded
	case store.Changed:
		return errors.Join(errContested, r.Err)
	case store.Unclear, store.NotStored:
	}
	return r.Err
}

// erase removes what is stored of a connection's cursor, but for what is of the generation to keep; "" keeps nothing.
// What cannot be removed now is removed when its shard is loaded again.
func (r *Resolver) erase(ctx context.Context, lease *shard.Lease, stored *cursorstore.Stored, keep string) {
	if stored.Empty() || !lease.Valid() {
		return
	}
	if err := r.cursors.Erase(ctx, lease.Epoch(), stored, keep); err != nil {
		r.log.Log(ctx, store.Level(err, slog.LevelWarn),
			"where the inbox of a deleted connection was read to could not be removed",
			"connection", stored.ID, "error", err)
	}
}

// jitter spreads a wait over 90 to 110 % of it, so that connections that failed together do not
// come back together.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration(float64(d)*(rand.Float64()-0.5)/5)
}
