// Package shardtest makes leases for tests of what works under one. Nothing renews them but the test. Begin
// with Fixed; Manual is for a test in which the lease runs out, or in which somebody else has written under a
// higher epoch.
package shardtest

import (
	"slices"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/shard"
)

// forGood is longer than any test.
const forGood = 100 * 365 * 24 * time.Hour

// Fixed is a lease that never ends.
func Fixed(n int, epoch uint64) *shard.Lease { return NewManual(n, epoch).Lease }

// Manual is a lease that can run out and come back, and that keeps which epochs were found above its own.
type Manual struct {
	*shard.Lease
	mu    sync.Mutex
	found []uint64
}

// NewManual makes a lease on a shard that is valid until Expire.
func NewManual(n int, epoch uint64) *Manual {
	m := &Manual{}
	m.Lease = shard.NewLease(n, epoch, func(_ *shard.Lease, epoch uint64) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.found = append(m.found, epoch)
	})
	m.Renew(forGood)
	return m
}

// Expire makes the lease invalid, as a suspended process finds it.
func (m *Manual) Expire() { m.Renew(0) }

// Renew makes the lease valid for the time given.
func (m *Manual) Renew(ttl time.Duration) { m.Renewed(time.Now(), ttl) }

// Found returns the epochs that were reported to Superseded.
func (m *Manual) Found() []uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.found)
}
