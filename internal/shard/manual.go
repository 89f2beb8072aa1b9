package shard

import (
	"slices"
	"sync"
	"time"
)

// Manual is a lease that nobody renews but its holder, for tests of those who work under leases: it can run out, come back, and says which
// epochs were found above its own.
type Manual struct {
	*Lease
	mu    sync.Mutex
	found []uint64
}

// NewManual makes a lease on a shard that is valid until Expire.
func NewManual(shard int, epoch uint64) *Manual {
	m := &Manual{Lease: Fixed(shard, epoch)}
	m.superseded = func(_ *Lease, epoch uint64) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.found = append(m.found, epoch)
	}
	return m
}

// Expire makes the lease invalid, as a suspended process finds it.
func (m *Manual) Expire() { m.renewed(time.Now(), 0) }

// Renew makes the lease valid again for the time given.
func (m *Manual) Renew(ttl time.Duration) { m.renewed(time.Now(), ttl) }

// Found answers the epochs that Superseded was told of.
func (m *Manual) Found() []uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.found)
}
