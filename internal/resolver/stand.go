package resolver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// errSuperseded says that another owner writes this cursor under a higher epoch: ours has ended.
var errSuperseded = errors.New("another replica has taken the connection over")

// stand is a connection's cursor with what its store needs to know.
type stand struct {
	*cursor.Cursor
	store    *store.Store
	key      string            // of the document, and the first part of the lanes'
	revision uint64            // of the stored document
	lanes    map[string]uint64 // revisions of the stored lanes, by lane key
}

// policy of every connection's cursor: held for ever, the vendor being probed while it fails.
func (r *Resolver) policy() cursor.Policy {
	return cursor.Policy{
		Concurrency: r.cfg.Concurrency, Window: window, Schedule: r.cfg.Schedule, Forever: true, Jitter: jitter,
		CircuitFailures: circuitFailures, ProbeSchedule: r.cfg.Schedule,
	}
}

// loadStand reads where the connection's reader stands. Under another generation it begins at the start of the inbox: pages
// of earlier ones are passed over.
func (r *Resolver) loadStand(ctx context.Context, connection, generation string) (*stand, error) {
	key := store.InboxCursor(connection)
	d, revision, err := r.store.Cursors.Get(ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("load the cursor of connection %s: %w", connection, err)
	}
	if d.Epoch > r.cfg.Epoch {
		return nil, fmt.Errorf("load the cursor of connection %s: %w", connection, errSuperseded)
	}
	if revision == 0 || d.Generation != generation {
		d = cursor.New(r.policy()).Document()
		d.Generation = generation
	}
	d.Epoch = r.cfg.Epoch
	lanes, err := r.store.Lanes.All(ctx, key, func(lane string, err error) {
		r.log.ErrorContext(ctx, "cannot read a lane; what waits in it is lost to the reader", "connection", connection, "lane", lane, "error", err)
	})
	if err != nil {
		return nil, fmt.Errorf("load the lanes of connection %s: %w", connection, err)
	}
	return newStand(r, key, d, revision, lanes)
}

func newStand(r *Resolver, key string, d cursor.Document, revision uint64, lanes []store.Entry[cursor.Lane]) (*stand, error) {
	s := &stand{store: r.store, key: key, revision: revision, lanes: map[string]uint64{}}
	records := make([]cursor.Lane, 0, len(lanes))
	for _, l := range lanes {
		records = append(records, l.Value)
		s.lanes[l.Value.Order] = l.Revision
	}
	var err error
	if s.Cursor, err = cursor.Load(r.policy(), d, records, r.cfg.Now()); err != nil {
		return nil, fmt.Errorf("load cursor %s: %w", key, err)
	}
	return s, nil
}

// flush stores what has changed, in the cursor's order: lanes, the document that passes their entries, removals.
func (s *stand) flush(ctx context.Context) error {
	ch := s.Changes()
	if ch.Empty() {
		return nil
	}
	puts := make([]store.Put[cursor.Lane], 0, len(ch.Lanes))
	for _, l := range ch.Lanes {
		puts = append(puts, store.Put[cursor.Lane]{Key: s.laneKey(l.Order), Value: l, Revision: s.lanes[l.Order]})
	}
	for i, result := range s.store.Lanes.PutAll(ctx, puts) {
		rev, err := result.Seq, result.Err
		if contested(err) {
			rev, err = settleContest(ctx, s.store.Lanes, puts[i].Key, puts[i].Value, func(l cursor.Lane) uint64 { return l.Epoch })
		}
		if err != nil {
			return fmt.Errorf("store lane %s: %w", puts[i].Key, err)
		}
		s.lanes[puts[i].Value.Order] = rev
	}
	if ch.Document != nil {
		var rev uint64
		var err error
		if s.revision == 0 {
			rev, err = s.store.Cursors.Create(ctx, s.key, *ch.Document)
		} else {
			rev, err = s.store.Cursors.Update(ctx, s.key, *ch.Document, s.revision)
		}
		if contested(err) {
			rev, err = settleContest(ctx, s.store.Cursors, s.key, *ch.Document, func(d cursor.Document) uint64 { return d.Epoch })
		}
		if err != nil {
			return fmt.Errorf("store cursor %s: %w", s.key, err)
		}
		s.revision = rev
	}
	removed := make([]string, len(ch.Remove))
	for i, order := range ch.Remove {
		removed[i] = s.laneKey(order)
	}
	for i, result := range s.store.Lanes.RemoveAll(ctx, removed) {
		if result.Err != nil {
			return fmt.Errorf("remove lane %s: %w", removed[i], result.Err)
		}
		delete(s.lanes, ch.Remove[i])
	}
	s.Stored(ch)
	return nil
}

func (s *stand) laneKey(order string) string { return s.key + "." + order }

func contested(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrUnclear)
}

// settleContest reads back what stands in a write's place: our own write is adopted, an earlier owner's is overwritten (what it had
// settled beyond ours is recognised by the log), a later owner's ends ours.
func settleContest[T any](ctx context.Context, b *store.Bucket[T], key string, ours T, epoch func(T) uint64) (uint64, error) {
	there, revision, err := b.Get(ctx, key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return b.Create(ctx, key, ours)
	case err != nil:
		return 0, err
	case epoch(there) > epoch(ours):
		return 0, errSuperseded
	case same(there, ours):
		return revision, nil
	}
	return b.Update(ctx, key, ours, revision)
}

func same[T any](a, b T) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// Prepare holds every cursor against the inbox before anything is written: after a power cut or a restore the inbox may end
// earlier than a cursor says, and its next pages would be passed over. It must come before the first poll.
func (r *Resolver) Prepare(ctx context.Context) error {
	if r.prepared {
		return nil
	}
	_, last, err := r.store.Inbox.Bounds(ctx)
	if err != nil {
		return fmt.Errorf("read the inbox's bounds: %w", err)
	}
	documents, err := r.store.Cursors.All(ctx, inboxCursors, func(key string, err error) {
		r.log.ErrorContext(ctx, "cannot read a cursor", "key", key, "error", err)
	})
	if err != nil {
		return err
	}
	for _, d := range documents {
		connection := d.Key[len(inboxCursors)+1:]
		if r.cfg.Owns != nil && !r.cfg.Owns(relay.ShardOf(connection)) {
			continue
		}
		if err := r.clamp(ctx, connection, d, last); err != nil {
			return err
		}
	}
	r.prepared = true
	return nil
}

// inboxCursors is the first part of the key of every cursor over the inbox.
var inboxCursors = store.InboxCursor("")[:len(store.InboxCursor(""))-1]

func (r *Resolver) clamp(ctx context.Context, connection string, d store.Entry[cursor.Document], last uint64) error {
	lanes, err := r.store.Lanes.All(ctx, d.Key, func(string, error) {}) // told when the connection's runner loads them
	if err != nil {
		return err
	}
	s, err := newStand(r, d.Key, d.Value, d.Revision, lanes)
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
	return s.flush(ctx)
}

// jitter spreads a wait over 90 to 110 % of it, so that connections that failed together do not come back together.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration(float64(d)*(rand.Float64()-0.5)/5)
}
