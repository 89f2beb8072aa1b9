package shard

import (
	"context"
	"time"

	"github.com/audatex-relay/relay/internal/store"
)

// ownedShard is a shard this replica has taken, until its work has returned and its lease is
// released. All but lease is under the member's lock.
type ownedShard struct {
	lease      *Lease
	cancel     context.CancelFunc
	revision   uint64
	sent       time.Time // the last renewal that the store took was sent then
	unclear    time.Time // the first one since then whose end is not known; zero: there is none
	due        time.Time // of the next renewal
	draining   bool      // work must return
	finished   bool      // work has returned
	lost       bool
	laterEpoch uint64 // a document carries this epoch, above ours
	retake     bool   // must be taken again under a higher epoch
}

// lossReason is why a lease was lost; it is a label of a metric.
type lossReason string

const (
	lossTaken   lossReason = "taken"   // another replica has the shard
	lossGone    lossReason = "gone"    // the store let it expire, or somebody removed it
	lossSilence lossReason = "silence" // the store did not confirm it for as long as it lives
)

// loss is a lost lease that is not logged yet.
type loss struct {
	shard  int
	reason lossReason
	to     string // who has it, when taken
}

// drain ends the work's context.
func (h *ownedShard) drain() {
	h.draining = true
	h.cancel()
}

// leaving reports whether the lease is no longer ours, or about to be released.
func (h *ownedShard) leaving() bool { return h.lost || h.finished }

// took notes that the store has stored a renewal that was sent at the given time.
func (m *Member) took(h *ownedShard, revision uint64, sent time.Time) {
	h.revision, h.sent, h.unclear, h.due = revision, sent, time.Time{}, sent.Add(m.conf.renew)
	h.lease.Renewed(sent, m.validFor())
	m.shards[h.lease.shard].seen = leaseState{lease: m.document(h.lease), revision: revision, at: time.Now()}
}

// document is a lease as it stands in the store.
func (m *Member) document(l *Lease) store.Lease {
	return store.Lease{Replica: m.me.replica, Nonce: m.me.nonce, Epoch: l.epoch}
}

// lose marks a lease as lost before it was released.
func (m *Member) lose(h *ownedShard, reason lossReason, to string) {
	if h.leaving() {
		return
	}
	h.lost = true
	h.lease.end()
	h.drain()
	m.metrics.losses.WithLabelValues(string(reason)).Inc()
	m.losses = append(m.losses, loss{h.lease.shard, reason, to})
	m.wake.Set()
}

// returned notes that a shard's work has returned.
func (m *Member) returned(h *ownedShard) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h.cancel()
	h.lease.end()
	h.finished = true
	// it had a reason, and logged it: other shards must not wait, and it must not be called again at once
	if !h.draining {
		m.shards[h.lease.shard].notBefore = time.Now().Add(m.conf.renew)
	}
	m.wake.Set()
}

// superseded is Lease.Superseded.
func (m *Member) superseded(l *Lease, epoch uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shards[l.shard].minEpoch = max(m.shards[l.shard].minEpoch, epoch)
	h := m.held[l.shard]
	if epoch <= l.epoch || h == nil || h.lease != l || h.leaving() {
		return
	}
	h.laterEpoch = max(h.laterEpoch, epoch)
	m.wake.Set()
}

// lapse ends the leases that the store has not confirmed for as long as they live.
func (m *Member) lapse(next *deadline) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.forget(now)
	for _, h := range m.held {
		end := h.sent.Add(m.conf.ttl)
		switch {
		case h.leaving():
		case now.Before(end):
			next.by(end)
		default:
			m.lose(h, lossSilence, "")
		}
	}
}

// report logs the lost leases, a line for each reason and successor.
func (m *Member) report() {
	m.mu.Lock()
	losses := m.losses
	m.losses = nil
	m.mu.Unlock()
	type why struct {
		reason lossReason
		to     string
	}
	shards := map[why][]int{}
	for _, l := range losses {
		shards[why{l.reason, l.to}] = append(shards[why{l.reason, l.to}], l.shard)
	}
	for w, s := range shards {
		m.conf.Log.Warn("leases are lost", "replica", m.me.String(), "reason", string(w.reason),
			"owner", w.to, "shards", s)
	}
}
