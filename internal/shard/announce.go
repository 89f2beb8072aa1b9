package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/store"
)

// stayAnnounced keeps the member record alive until ctx ends, and then removes it.
func (m *Member) stayAnnounced(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	written := false
	for {
		select {
		case <-ctx.Done():
			m.withdraw(ctx)
			return
		case <-m.announceNow:
		case <-timer.C:
			if written {
				m.listen()
			}
		}
		wait, err := m.conf.renew, m.announce(ctx)
		if written = err == nil; !written {
			wait = m.retry()
			m.conf.Log.Debug("the member record is not written; trying again", "error", err)
		}
		timer.Reset(wait)
	}
}

// listen makes the watch start again if it has not shown what was written one renewal ago. A watch
// whose server has gone may stay silent for long. One whose stream lost its end in a power cut
// stays silent until the stream is as long again.
func (m *Member) listen() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seeing && m.seenRevision != m.written {
		m.conf.Log.Warn("what is written of the owners is not seen; starting the watch again")
		m.rewatch()
	}
}

// announce writes the member record. Only this replica writes it: anything else found there is an
// earlier write of ours, or what its end has left.
func (m *Member) announce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.callTimeout())
	defer cancel()
	m.mu.Lock()
	record, revision := m.record, m.written
	m.mu.Unlock()
	for range 2 {
		r := m.conf.Store.Owners.PutAll(ctx, []store.Put[store.Owner]{
			{Key: m.key, Value: store.Owner{Member: &record}, Revision: revision, TTL: m.conf.ttl},
		})[0]
		if r.Err == nil {
			m.mu.Lock()
			m.written = r.Seq
			m.mu.Unlock()
			return nil
		}
		if !errors.Is(r.Err, store.ErrConflict) {
			return r.Err
		}
		at := m.conf.Store.Owners.Current(ctx, []string{m.key})[0]
		if at.Err != nil {
			return at.Err
		}
		revision = at.Revision
	}
	return fmt.Errorf("write the member record: %w", store.ErrConflict)
}

// withdraw removes the member record, so that the others want our shards before the first is
// released. If the store cannot be reached, the record expires.
func (m *Member) withdraw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.callTimeout())
	defer cancel()
	if err := m.conf.Store.Owners.Remove(ctx, []store.Removal{{Key: m.key}})[0].Err; err != nil {
		m.conf.Log.Warn("the member record is not removed; it goes by itself", "after",
			m.conf.ttl.String(), "error", err)
	}
}
