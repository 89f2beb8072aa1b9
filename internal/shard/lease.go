package shard

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
)

// Lease is one shard as held by this replica. Code that works on the shard puts the lease's epoch
// into every document it writes, and calls Valid before it starts an attempt or a call to the
// vendor. What was started before may end. Before most writes it calls Valid, too; but it is the
// epoch that keeps a former owner from writing over a later one's documents.
type Lease struct {
	shard      int
	epoch      uint64
	superseded func(*Lease, uint64)

	mu    sync.Mutex
	until time.Time // with the monotonic clock's reading
	wall  time.Time // the same by the wall clock: only one of the two goes on while a machine sleeps
	ended bool      // for good: released, or another's
}

// NewLease makes a lease that is not valid until Renewed is called. The method Superseded calls
// superseded.
func NewLease(shard int, epoch uint64, superseded func(l *Lease, epoch uint64)) *Lease {
	return &Lease{shard: shard, epoch: epoch, superseded: superseded}
}

// Shard returns the shard's number, 0 to relay.Shards-1.
func (l *Lease) Shard() int { return l.shard }

// Epoch returns the lease's epoch. It is above that of every earlier owner of the shard.
func (l *Lease) Epoch() uint64 { return l.epoch }

// Valid reports whether the shard is certainly still this replica's, by this machine's own clocks.
// A process that was suspended for longer than the lease finds it invalid before any message
// arrives. A lease that is invalid now may become valid again: a renewal may be under way.
func (l *Lease) Valid() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	return !l.ended && now.Before(l.until) && now.Round(0).Before(l.wall)
}

// Superseded reports to the member that a document of an owner with a higher epoch was found.
// Usually the lease is lost and the work's context ends soon. If the lease is still ours in the
// store, the store lost its last second in a power cut and gives epochs out again. Then the shard
// is taken again under an epoch above the one found.
func (l *Lease) Superseded(epoch uint64) {
	l.superseded(l, epoch)
}

// Renewed notes that the store took a renewal that was sent at the given time. The lease's life is
// counted from then.
func (l *Lease) Renewed(sent time.Time, ttl time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = sent.Add(ttl)
	l.wall = l.until.Round(0)
}

// end makes the lease invalid for good.
func (l *Lease) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

// awaitAgain is how long Await waits before it checks again, give or take a quarter: an unclear
// renewal is read back within seconds.
const awaitAgain = 400 * time.Millisecond

// Await waits until the lease is valid. Call it right before starting something. It returns false
// if ctx ended first, which is how a lost lease ends.
func (l *Lease) Await(ctx context.Context) bool {
	for !l.Valid() {
		if !backoff.Sleep(ctx, awaitAgain*3/4+rand.N(awaitAgain/2)) {
			return false
		}
	}
	return ctx.Err() == nil
}
