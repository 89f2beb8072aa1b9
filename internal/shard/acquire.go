package shard

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/store"
)

// acquire takes the free shards of our share.
func (m *Member) acquire(ctx context.Context, next *deadline, start func(*ownedShard)) {
	const tries = 3 // a marker that goes meanwhile, and one that comes, cost one each
	for range tries {
		shards, puts, before := m.free(next)
		if len(shards) == 0 {
			return
		}
		sent := time.Now()
		results := m.put(ctx, puts)
		m.mu.Lock()
		var refused []int
		for i, n := range shards {
			switch err := results[i].Err; {
			case err == nil:
				m.taken(before[i])
				h := &ownedShard{lease: NewLease(n, max(results[i].Seq, puts[i].Value.Lease.Epoch), m.superseded)}
				m.took(h, results[i].Seq, sent)
				m.held[n] = h
				start(h)
				next.by(h.due)
			case errors.Is(err, store.ErrConflict):
				refused = append(refused, n)
			default: // if it was taken after all, the watch shows it, and it is taken over that
				m.shards[n].notBefore = time.Now().Add(m.retry())
				next.by(m.shards[n].notBefore)
			}
		}
		m.mu.Unlock()
		if len(refused) == 0 {
			return
		}
		found := m.current(ctx, refused)
		m.mu.Lock()
		for i, n := range refused {
			if found[i].Err == nil {
				m.look(n, found[i])
			} else {
				m.shards[n].notBefore = time.Now().Add(m.retry())
				next.by(m.shards[n].notBefore)
			}
		}
		m.mu.Unlock()
	}
	next.by(time.Now().Add(m.retry()))
}

// free returns the shards to take now, the writes that take them, and what was seen of them before.
func (m *Member) free(next *deadline) (shards []int, puts []store.Put[store.Owner], before []leaseState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopping || !m.seeing {
		return nil, nil, nil
	}
	now := time.Now()
	for n := range m.shards {
		s := m.shards[n].seen
		if !m.wants(n) || m.held[n] != nil {
			continue
		}
		if now.Before(m.shards[n].notBefore) {
			next.by(m.shards[n].notBefore)
			continue
		}
		if !m.takeable(n, now) {
			next.by(backoff.Later(s.at.Add(m.vanished()), now.Add(m.conf.renew/4)))
			continue
		}
		shards, before = append(shards, n), append(before, s)
		puts = append(puts, store.Put[store.Owner]{
			Key: store.LeaseKey(n), Revision: s.revision, TTL: m.conf.ttl,
			Value: store.Owner{
				Lease: &store.Lease{Replica: m.me.replica, Nonce: m.me.nonce, Epoch: m.shards[n].minEpoch + 1}},
		})
	}
	return shards, puts, before
}

// pendingLog counts shards that were taken and are not logged yet. After an outage leases expire
// one by one, and sixty lines would report no more than one does.
type pendingLog struct {
	shards int
	over   int      // of them, from an owner that vanished
	from   []string // those owners
	due    time.Time
}

// logWithin is how long they are gathered.
const logWithin = 500 * time.Millisecond

// taken notes that a shard was taken whose last known state was s.
func (m *Member) taken(s leaseState) {
	t := &m.pendingLog
	if t.shards++; t.shards == 1 {
		t.due = time.Now().Add(logWithin)
	}
	if s.lease.Nonce != "" && s.lease.Nonce != m.me.nonce && (s.expired || !s.gone) {
		m.metrics.takeovers.Inc()
		t.over++
		t.from = append(t.from, ownerOf(s.lease))
	}
}

// logTaken logs that shards were taken, in one line.
func (m *Member) logTaken(next *deadline) {
	m.mu.Lock()
	t := m.pendingLog
	if t.shards > 0 && !m.stopping && time.Now().Before(t.due) {
		next.by(t.due)
		m.mu.Unlock()
		return
	}
	m.pendingLog = pendingLog{}
	m.mu.Unlock()
	switch {
	case t.over > 0:
		slices.Sort(t.from)
		m.conf.Log.Warn("shards are taken over, their owner vanished",
			"replica", m.me.String(), "taken", t.shards, "taken_over", t.over, "from", slices.Compact(t.from))
	case t.shards > 0:
		m.conf.Log.Info("shards are taken", "taken", t.shards)
	}
}
