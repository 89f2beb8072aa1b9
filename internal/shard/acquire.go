package shard

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/store"
)

// acquire takes the shards of our share that are free.
func (m *Member) acquire(ctx context.Context, next *deadline, start func(*holding)) {
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
		var from []string
		for i, n := range shards {
			switch err := results[i].Err; {
			case err == nil:
				if s := before[i]; s.lease.Nonce != "" && s.lease.Nonce != m.me.nonce && (s.expired || !s.gone) {
					m.metrics.takeovers.Inc()
					from = append(from, s.lease.Replica)
				}
				h := &holding{lease: &Lease{
					shard: n, epoch: max(results[i].Seq, puts[i].Value.Lease.Epoch), superseded: m.superseded,
				}}
				m.took(h, results[i].Seq, sent)
				m.held[n] = h
				start(h)
				next.by(h.due)
			case errors.Is(err, store.ErrConflict):
				refused = append(refused, n)
			default: // if it was taken after all, the watch shows it, and it is taken over that
				m.rest[n] = time.Now().Add(m.retry())
				next.by(m.rest[n])
			}
		}
		m.mu.Unlock()
		m.tellTaken(results, from)
		if len(refused) == 0 {
			return
		}
		found := m.current(ctx, refused)
		m.mu.Lock()
		for i, n := range refused {
			if found[i].Err == nil {
				m.look(n, found[i])
			} else {
				m.rest[n] = time.Now().Add(m.retry())
				next.by(m.rest[n])
			}
		}
		m.mu.Unlock()
	}
	next.by(time.Now().Add(m.retry()))
}

// free answers the shards that are to be taken now, how, and what was seen of them.
func (m *Member) free(next *deadline) (shards []int, puts []store.Put[store.Owner], before []sight) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopping || !m.seeing {
		return nil, nil, nil
	}
	now := time.Now()
	for n, s := range m.seen {
		if !m.wants(n) || m.held[n] != nil {
			continue
		}
		if now.Before(m.rest[n]) {
			next.by(m.rest[n])
			continue
		}
		if !m.takeable(n, now) {
			next.by(later(s.at.Add(m.vanished()), now.Add(m.conf.Renew/4)))
			continue
		}
		shards, before = append(shards, n), append(before, s)
		puts = append(puts, store.Put[store.Owner]{
			Key: store.LeaseKey(n), Revision: s.revision, TTL: m.conf.TTL,
			Value: store.Owner{Lease: &store.Lease{Replica: m.me.replica, Nonce: m.me.nonce, Epoch: m.floor[n] + 1}},
		})
	}
	return shards, puts, before
}

// tellTaken tells that shards were taken, in one line.
func (m *Member) tellTaken(results []store.Result, from []string) {
	taken := 0
	for _, r := range results {
		if r.Err == nil {
			taken++
		}
	}
	switch {
	case len(from) > 0:
		slices.Sort(from)
		m.conf.Log.Warn("shards are taken over, their owner vanished", "taken", taken, "taken_over", len(from), "from", slices.Compact(from))
	case taken > 0:
		m.conf.Log.Info("shards are taken", "taken", taken)
	}
}
