package shard

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
)

// workAgain is how long a part of the work on a shard that has failed rests before it begins again.
const workAgain = time.Second

// Owned is what this replica owns of the shards.
type Owned struct {
	log *slog.Logger

	mu     sync.Mutex
	leases [relay.Shards]*Lease
}

// Part is one of the things that are done for an owned shard: until ctx ends, and then for as long
// as what is under way takes.
type Part struct {
	Name string
	Own  func(ctx context.Context, lease *Lease) error
}

// NewOwned returns an Owned without shards.
func NewOwned(log *slog.Logger) *Owned { return &Owned{log: log} }

// Work does all parts for a shard, side by side, until ctx ends and everything under way is stored.
// Meanwhile the shard is owned.
func (o *Owned) Work(ctx context.Context, lease *Lease, parts []Part) {
	o.set(lease.Shard(), lease)
	defer o.set(lease.Shard(), nil)
	var working sync.WaitGroup
	defer working.Wait()
	for _, p := range parts {
		working.Go(func() { o.work(ctx, lease, p) })
	}
}

// work begins a part again when it fails: a shard that nobody works on, while its lease is renewed,
// would be a silent stop.
func (o *Owned) work(ctx context.Context, lease *Lease, p Part) {
	for ctx.Err() == nil {
		err := p.Own(ctx, lease)
		if ctx.Err() != nil {
			return
		}
		o.log.ErrorContext(ctx, "a part of the work on a shard has ended; it is begun again", "shard", lease.Shard(),
			"part", p.Name, "error", err)
		backoff.Sleep(ctx, workAgain)
	}
}

func (o *Owned) set(n int, lease *Lease) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.leases[n] = lease
}

// Lease returns the lease on a connection's shard, false if this replica does not work on it.
func (o *Owned) Lease(connection string) (*Lease, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	lease := o.leases[relay.ShardOf(connection)]
	return lease, lease != nil
}

// Owns reports whether this replica works on the shard of a thing.
func (o *Owned) Owns(id string) bool {
	lease, owned := o.Lease(id)
	return owned && lease.Valid()
}

// Count returns how many of the shards' things belong to shards that this replica owns, and how
// many there are. A shard that was lost counts as its next owner's, although what is under way here
// may take long to end.
func (o *Owned) Count(perShard [relay.Shards]int) (own, all int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for n, things := range perShard {
		all += things
		if lease := o.leases[n]; lease != nil && lease.Valid() {
			own += things
		}
	}
	return own, all
}
