package resolver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
)

// stand is a connection's cursor with what its store needs to know.
type stand struct {
	*cursor.Cursor
	store    *store.Store
	lease    *shard.Lease      // nil: not an owner's, writes over nobody
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

// newStand makes a stand of what was read. Under another generation it begins at the start of the inbox: pages of earlier ones are
// passed over.
func (r *Resolver) newStand(lease *shard.Lease, key, generation string, d cursor.Document, revision uint64, lanes []store.Entry[cursor.Lane]) (*stand, error) {
	if revision == 0 || d.Generation != generation {
		fresh := cursor.New(r.policy()).Document()
		fresh.Generation, fresh.Epoch, fresh.Adopted = generation, d.Epoch, d.Adopted
		d = fresh
	}
	s := &stand{store: r.store, lease: lease, key: key, revision: revision, lanes: map[string]uint64{}}
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

// flush stores what has changed.
func (s *stand) flush(ctx context.Context) error { return flushAll(ctx, []*stand{s}, writeOver)[0] }

// flushAll stores what has changed in each of many, in the cursor's order: lanes, the document that passes their entries, removals. All
// the lanes go together, then all the documents, then all removals; what one of them meets keeps no other from going on.
func flushAll(ctx context.Context, stands []*stand, rule contest) []error {
	errs := make([]error, len(stands))
	changes := make([]cursor.Changes, len(stands))
	for i, s := range stands {
		changes[i] = s.Changes()
	}
	putAll(ctx, stands, errs, rule, stands[0].store.Lanes, func(i int, add func(store.Put[cursor.Lane])) {
		for _, l := range changes[i].Lanes {
			add(store.Put[cursor.Lane]{Key: stands[i].laneKey(l.Order), Value: l, Revision: stands[i].lanes[l.Order]})
		}
	}, func(s *stand, l cursor.Lane, revision uint64) { s.lanes[l.Order] = revision }, func(l cursor.Lane) uint64 { return l.Epoch })
	putAll(ctx, stands, errs, rule, stands[0].store.Cursors, func(i int, add func(store.Put[cursor.Document])) {
		if d := changes[i].Document; d != nil {
			add(store.Put[cursor.Document]{Key: stands[i].key, Value: *d, Revision: stands[i].revision})
		}
	}, func(s *stand, _ cursor.Document, revision uint64) { s.revision = revision }, func(d cursor.Document) uint64 { return d.Epoch })
	removeAll(ctx, stands, errs, func(i int) []string { return changes[i].Remove })
	for i, s := range stands {
		if errs[i] == nil {
			s.Stored(changes[i])
		}
	}
	return errs
}

func (s *stand) laneKey(order string) string { return store.LaneKey(s.key, order) }

// jitter spreads a wait over 90 to 110 % of it, so that connections that failed together do not come back together.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration(float64(d)*(rand.Float64()-0.5)/5)
}
