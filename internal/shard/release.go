package shard

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/store"
)

// release gives back the shards whose work has returned.
func (m *Member) release(ctx context.Context, next *deadline) {
	m.mu.Lock()
	var released []*ownedShard
	for n, h := range m.held {
		switch {
		case !h.finished:
		case h.lost, h.retake && m.wants(n) && !m.stopping: // nothing to release, or it is taken over our own lease
			delete(m.held, n)
		default:
			released = append(released, h)
		}
	}
	m.mu.Unlock()
	if len(released) == 0 {
		return
	}
	results := m.deleteLeases(ctx, released)
	var doubtful []*ownedShard
	m.mu.Lock()
	for i, h := range released {
		n := h.lease.shard
		switch {
		case results[i] == nil:
			delete(m.held, n)
			if s := m.shards[n].seen; s.revision <= h.revision { // the watch has yet to show it
				m.shards[n].seen = leaseState{lease: s.lease, revision: h.revision, at: time.Now(), gone: true}
			}
		case m.stopping && errors.Is(results[i], store.ErrUnavailable), time.Now().After(h.sent.Add(m.conf.ttl)):
			delete(m.held, n) // it expires
		default:
			doubtful = append(doubtful, h)
			next.by(time.Now().Add(m.retry()))
		}
	}
	m.mu.Unlock()
	if len(doubtful) == 0 {
		return
	}
	found := m.current(ctx, shardsOf(doubtful))
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, h := range doubtful {
		p := found[i]
		if p.Err != nil {
			if m.stopping {
				delete(m.held, h.lease.shard) // it expires
			}
			continue
		}
		if !p.Deleted && p.Value.Lease != nil && p.Value.Lease.Nonce == m.me.nonce {
			h.revision = p.Revision // an unclear renewal came after all: removed at that revision the next time
			continue
		}
		m.look(h.lease.shard, p)
		delete(m.held, h.lease.shard)
	}
}

// deleteLeases removes leases as they were last written.
func (m *Member) deleteLeases(ctx context.Context, hs []*ownedShard) []error {
	ctx, cancel := context.WithTimeout(ctx, m.callTimeout())
	defer cancel()
	results := make([]error, len(hs))
	var deleting sync.WaitGroup
	for i, h := range hs {
		deleting.Go(func() { results[i] = m.conf.Store.Owners.Delete(ctx, store.LeaseKey(h.lease.shard), h.revision) })
	}
	deleting.Wait()
	return results
}

const (
	// roundOf shards are handed over at once, and no more until roundPause later: a replica that
	// joins takes its share within a second or two, and loads it in a few batches, without all of
	// the deliveries pausing at the same moment.
	roundOf    = 8
	roundPause = 200 * time.Millisecond
)

// handOver ends the work of shards that another member should own. That member must have been there
// for a renewal's time: replicas that come and go in a hurry move nothing.
func (m *Member) handOver(next *deadline) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopping {
		return
	}
	now := time.Now()
	var going []int
	for n, h := range m.held {
		if h.draining || h.leaving() || m.wants(n) {
			continue
		}
		if settled := m.shards[n].since.Add(m.conf.renew); now.Before(settled) {
			next.by(settled)
			continue
		}
		if now.Before(m.nextRound) || len(going) == roundOf {
			next.by(backoff.Later(m.nextRound, now.Add(roundPause)))
			continue
		}
		going = append(going, n)
		h.drain()
	}
	if len(going) > 0 {
		m.nextRound = now.Add(roundPause)
		m.conf.Log.Info("shards are handed over", "shards", going)
	}
}
