package shard

import (
	"context"
	"time"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/store"
)

// renew renews the leases that are due, and those due soon, in one go.
func (m *Member) renew(ctx context.Context, next *deadline) {
	m.mu.Lock()
	now := time.Now()
	pressing := false
	var due []*ownedShard
	for _, h := range m.held {
		if h.leaving() {
			continue
		}
		pressing = pressing || !now.Before(h.due)
		if h.due.Sub(now) <= m.conf.renew/4 {
			due = append(due, h)
		} else {
			next.by(h.due)
		}
	}
	puts := make([]store.Put[store.Owner], len(due))
	for i, h := range due {
		l := m.document(h.lease)
		puts[i] = store.Put[store.Owner]{
			Key: store.LeaseKey(h.lease.shard), Value: store.Owner{Lease: &l}, Revision: h.revision, TTL: m.conf.ttl,
		}
		if !pressing {
			next.by(h.due)
		}
	}
	m.mu.Unlock()
	if !pressing {
		return
	}
	sent := time.Now()
	results := m.put(ctx, puts)
	m.mu.Lock()
	var doubtful []*ownedShard
	for i, h := range due {
		if h.leaving() { // the watch knew before the response came
			continue
		}
		if results[i].Err == nil {
			m.took(h, results[i].Seq, sent)
			next.by(h.due)
			continue
		}
		if h.unclear.IsZero() {
			h.unclear = sent
		}
		doubtful = append(doubtful, h)
	}
	m.mu.Unlock()
	m.readBack(ctx, doubtful, next)
}

// put writes leases with the short patience that they need.
func (m *Member) put(ctx context.Context, puts []store.Put[store.Owner]) []store.Result {
	ctx, cancel := context.WithTimeout(ctx, m.callTimeout())
	defer cancel()
	return m.conf.Store.Owners.PutAll(ctx, puts)
}

// current reads leases at their leader.
func (m *Member) current(ctx context.Context, shards []int) []store.Present[store.Owner] {
	ctx, cancel := context.WithTimeout(ctx, m.callTimeout())
	defer cancel()
	return m.conf.Store.Owners.Current(ctx, each.Of(shards, store.LeaseKey))
}

func shardsOf(hs []*ownedShard) []int {
	return each.Of(hs, func(h *ownedShard) int { return h.lease.shard })
}

// readBack finds out what became of renewals that were refused or got no response. One that timed
// out during the store's change of leader was usually applied.
func (m *Member) readBack(ctx context.Context, hs []*ownedShard, next *deadline) {
	if len(hs) == 0 {
		return
	}
	found := m.current(ctx, shardsOf(hs))
	m.mu.Lock()
	defer m.mu.Unlock()
	again := time.Now().Add(m.retry())
	for i, h := range hs {
		if h.leaving() {
			continue
		}
		switch p := found[i]; m.judge(h, p) {
		case stillOurs:
			if p.Revision > h.revision {
				// Of several unclear renewals in a row the first may be the one that was taken: it
				// counts from there.
				m.took(h, p.Revision, h.unclear)
			} else {
				// none was taken so far; or the store has lost its end, and this is what is left
				h.revision, h.due = p.Revision, again
			}
		case unknown:
			m.metrics.unclear.Inc()
			h.due = again
		case notOurs:
		}
		next.by(h.due)
	}
}

// readBackResult is the result of reading a lease back.
type readBackResult int

const (
	unknown readBackResult = iota
	stillOurs
	notOurs
)

// judge decides from what was read whose a lease is, and ends it if it is not ours.
func (m *Member) judge(h *ownedShard, p store.Present[store.Owner]) readBackResult {
	switch {
	case p.Err != nil:
		return unknown
	case !p.Deleted && p.Value.Lease != nil && p.Value.Lease.Nonce == m.me.nonce:
		return stillOurs
	}
	m.look(h.lease.shard, p)
	if p.Deleted {
		m.lose(h, lossGone, "")
	} else {
		m.lose(h, lossTaken, ownerOf(*p.Value.Lease))
	}
	return notOurs
}

// look takes in a lease that was read at its leader, regardless of what the watch has shown.
func (m *Member) look(n int, p store.Present[store.Owner]) {
	old := m.shards[n].seen
	if p.Revision == old.revision && p.Deleted == old.gone {
		return
	}
	s := leaseState{lease: old.lease, revision: p.Revision, at: time.Now(), gone: p.Deleted, expired: p.Expired}
	if p.Deleted && p.Revision == 0 { // nothing is left of it
		s.expired = old.expired || !old.gone
	}
	if p.Value.Lease != nil {
		s.lease = *p.Value.Lease
		m.shards[n].minEpoch = max(m.shards[n].minEpoch, s.lease.Epoch, p.Revision)
	}
	m.shards[n].seen = s
}

// checkLaterEpochs handles leases under which a document of a higher epoch was found. If the lease is still
// ours, the store has given epochs out twice: it lost its last writes in a power cut. The shard is
// then taken again.
func (m *Member) checkLaterEpochs(ctx context.Context, next *deadline) {
	m.mu.Lock()
	var later []*ownedShard
	for _, h := range m.held {
		if h.laterEpoch > 0 && !h.retake && !h.leaving() {
			later = append(later, h)
		}
	}
	m.mu.Unlock()
	if len(later) == 0 {
		return
	}
	found := m.current(ctx, shardsOf(later))
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, h := range later {
		switch m.judge(h, found[i]) {
		case stillOurs:
			m.conf.Log.Warn(
				"a later owner has written under a lease that is still ours; the shard is taken again under a higher "+
					"epoch",
				"shard", h.lease.shard, "epoch", h.lease.epoch, "found", h.laterEpoch)
			h.retake = true
			h.drain()
		case unknown:
			next.by(time.Now().Add(m.retry()))
		case notOurs:
		}
	}
}
