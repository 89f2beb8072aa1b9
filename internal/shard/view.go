package shard

import (
	"context"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// leaseState is what was last seen of a shard's lease.
type leaseState struct {
	lease    store.Lease // of its last owner, also when it has gone
	revision uint64
	at       time.Time // when this revision was seen
	gone     bool      // free: released, expired, or never held
	expired  bool      // its owner vanished, nobody released it
}

// follow watches relay_owners until ctx ends. One watch shows members and leases in the order in
// which they were written: a replica that sees a shard released knows already for whom. It is no
// store.Mirror: what is listed counts only as a whole, once it is confirmed, and also at lower
// revisions than before, as a power cut may have cost the store its last writes.
func (m *Member) follow(ctx context.Context) {
	wait := &backoff.Backoff{Least: m.conf.renew / 6, Most: m.conf.renew / 6}
	store.KeepWatching(ctx, m.conf.Log, "owner", wait, func() error {
		watching, cancel := context.WithCancel(ctx)
		defer cancel()
		m.mu.Lock()
		m.rewatch = cancel
		m.mu.Unlock()
		var there []store.Entry[store.Owner]
		ready := false
		return m.conf.Store.Owners.Watch(watching, func(e store.Entry[store.Owner]) {
			if !ready {
				there = append(there, e)
				return
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.apply(e)
		}, func() {
			ready = true
			m.see(m.confirmed(watching, there))
			there = nil
		}, m.unreadable)
	})
}

// confirmed returns the part of a watch's first list that really exists. A server that has been
// away may still list members, and leases, that expired meanwhile, and never show their end. Their
// shares would belong to nobody until they are forgotten. One that was killed may even have them again:
// such member records are removed.
func (m *Member) confirmed(ctx context.Context, listed []store.Entry[store.Owner]) []store.Entry[store.Owner] {
	keys := each.Of(listed, func(e store.Entry[store.Owner]) string { return e.Key })
	var there []store.Entry[store.Owner]
	var dead []store.Removal
	current := m.conf.Store.Owners.Current(ctx, keys)
	at, err := m.conf.Store.Owners.Now(ctx)
	if err != nil {
		m.conf.Log.DebugContext(ctx, "it is not known which members and leases are old", "error", err)
	}
	for i, now := range current {
		lapsed := err == nil && topology.Lapsed(now.Written, at, m.conf.ttl)
		switch {
		case now.Err != nil: // it counts as it was listed
			there = append(there, listed[i])
		case !now.Deleted && lapsed && store.IsMemberKey(now.Key) && now.Key != m.key:
			dead = append(dead, store.Removal{Key: now.Key, Revision: now.Revision})
		case !now.Deleted && lapsed && now.Value.Lease != nil: // free; its epoch counts
			now.Deleted, now.Expired = true, true
			there = append(there, now.Entry)
		case !now.Deleted:
			there = append(there, now.Entry)
		case store.IsMemberKey(now.Key): // as if it had never been listed
		case now.Revision == listed[i].Revision: // a lease that had ended before the watch began
			there = append(there, now.Entry)
		default: // one that has ended since; its epoch counts all the same. An end that left no marker was no release.
			now.Expired = now.Expired || now.Revision < listed[i].Revision
			now.Revision = max(listed[i].Revision+1, now.Revision)
			there = append(there, listed[i], now.Entry)
		}
	}
	for i, r := range m.conf.Store.Owners.Remove(ctx, dead) {
		if r.Err == nil {
			m.conf.Log.DebugContext(ctx, "the record of a member that died long ago is removed", "key", dead[i].Key)
		}
	}
	return there
}

// see takes in everything there is, after a watch has begun.
func (m *Member) see(there []store.Entry[store.Owner]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.peers = map[string]peer{}
	for n := range m.shards {
		if m.held[n] == nil { // what is held is judged by its renewals
			m.shards[n].seen = leaseState{lease: m.shards[n].seen.lease, at: now, gone: true,
				expired: m.shards[n].seen.expired || !m.shards[n].seen.gone}
		}
	}
	m.seenRevision = 0
	for _, e := range there {
		m.apply(e)
	}
	if !m.seeing {
		m.seeing = true
		m.record.Started = now.UTC() // from now on a share is ours
		m.announceNow.Set()
	}
	m.membersChanged()
	m.wake.Set()
}

// apply takes in one document of relay_owners. It is called with the lock held, as all below.
func (m *Member) apply(e store.Entry[store.Owner]) {
	if n, ok := store.ShardOfLease(e.Key); ok {
		m.leaseChanged(n, e)
	} else if store.IsMemberKey(e.Key) {
		m.memberChanged(e)
	} else if e.Key == topology.MarkKey {
		m.marked.Set()
	}
}

// memberChanged takes in a member record or its end.
func (m *Member) memberChanged(e store.Entry[store.Owner]) {
	if e.Key == m.key {
		m.seenRevision = e.Revision
		if e.Deleted && !m.stopping {
			m.announceNow.Set() // lost while we live: it is written again
		}
		return
	}
	if m.conf.Exclusive {
		return // left behind by a process that is no more
	}
	old, known := m.peers[e.Key]
	if e.Deleted || e.Value.Member == nil {
		delete(m.peers, e.Key)
		if known {
			m.membersChanged()
		}
		return
	}
	m.peers[e.Key] = peer{*e.Value.Member, time.Now()}
	if !known || !same(old.Member, *e.Value.Member) {
		m.membersChanged()
	}
}

func same(a, b store.Member) bool {
	return a.Version == b.Version && a.Started.Equal(b.Started) && a.Throttle.Equal(b.Throttle)
}

// membersChanged wakes those who wait for a change, and computes again who should own which shard.
func (m *Member) membersChanged() {
	close(m.changed)
	m.changed = make(chan struct{})
	var members []identity
	if !m.record.Started.IsZero() && !m.stopping {
		members = append(members, m.me)
	}
	for _, p := range m.peers {
		if !p.Started.IsZero() {
			members = append(members, identity{p.Replica, p.Nonce})
		}
	}
	now := time.Now()
	ours, moved := 0, 0
	for n, i := range assign(members) {
		var owner identity
		if i != nobody {
			owner = members[i]
		}
		if owner != m.shards[n].owner {
			m.shards[n].owner, m.shards[n].since = owner, now
			moved++
		}
		if owner == m.me {
			ours++
		}
	}
	if moved > 0 {
		m.conf.Log.Info("the shards are divided again", "members", len(members), "ours", ours)
		m.wake.Set()
	}
}

// leaseChanged takes in a shard's lease or its end.
func (m *Member) leaseChanged(n int, e store.Entry[store.Owner]) {
	old := m.shards[n].seen
	if e.Revision <= old.revision {
		return
	}
	now := leaseState{lease: old.lease, revision: e.Revision, at: time.Now(), gone: e.Deleted, expired: e.Expired}
	if e.Value.Lease != nil {
		now.lease = *e.Value.Lease
	}
	m.shards[n].seen = now
	if e.Value.Lease != nil {
		// The store's sequence of an acquisition may be its epoch; a revision is never below it.
		m.shards[n].minEpoch = max(m.shards[n].minEpoch, now.lease.Epoch, e.Revision)
	}
	h := m.held[n]
	switch {
	case h == nil || h.leaving() || e.Revision <= h.revision:
	case now.gone:
		m.lose(h, lossGone, "")
	case now.lease.Nonce != m.me.nonce:
		m.lose(h, lossTaken, ownerOf(now.lease))
	}
	if now.gone || now.lease.Nonce != old.lease.Nonce {
		m.wake.Set()
	}
}

// forget drops members that have given no sign for so long that only a record without a time can be
// left of them, provided that we see our own.
func (m *Member) forget(now time.Time) {
	if m.seenRevision == 0 || m.seenRevision < m.written {
		return
	}
	for key, p := range m.peers {
		if now.Sub(p.at) > m.vanished() {
			delete(m.peers, key)
			m.membersChanged()
		}
	}
}

// takeable reports whether a shard may be taken now: it is free, or its lease is an earlier
// acquisition of ours whose response was lost, or its owner must be gone.
func (m *Member) takeable(n int, now time.Time) bool {
	s := m.shards[n].seen
	return s.gone || s.lease.Nonce == m.me.nonce || m.conf.Exclusive ||
		now.Sub(s.at) > m.vanished() && m.seenRevision >= m.written
}

// wants reports whether a shard is in our share.
func (m *Member) wants(n int) bool { return m.shards[n].owner == m.me }
