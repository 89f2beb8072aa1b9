package main

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// workAgain is how long a part of the work on a shard that has failed rests before it is begun again.
const workAgain = time.Second

// share is what this replica holds of the shards, and what is done for each of them.
type share struct {
	log   *slog.Logger
	parts []part

	mu    sync.Mutex
	holds [relay.Shards]*shard.Lease
}

// part is one of the things that are done for a shard that is held: until ctx ends, and then for as long as what is under way takes.
type part struct {
	name string
	own  func(ctx context.Context, lease *shard.Lease) error
}

// work does all that is to be done for a shard until ctx ends and everything under way is stored.
func (s *share) work(ctx context.Context, lease *shard.Lease) {
	s.set(lease.Shard(), lease)
	defer s.set(lease.Shard(), nil)
	var working sync.WaitGroup
	defer working.Wait()
	for _, p := range s.parts {
		working.Go(func() {
			for ctx.Err() == nil {
				err := p.own(ctx, lease)
				if ctx.Err() != nil {
					return
				}
				// A shard that nobody works on, while its lease is renewed, would be a silent stop.
				s.log.ErrorContext(ctx, "a part of the work on a shard has ended; it is begun again", "shard", lease.Shard(), "part", p.name, "error", err)
				select {
				case <-ctx.Done():
				case <-time.After(workAgain):
				}
			}
		})
	}
}

func (s *share) set(n int, lease *shard.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds[n] = lease
}

// lease answers the lease on a connection's shard, false if this replica does not work on it.
func (s *share) lease(connection string) (audatex.Lease, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lease := s.holds[relay.ShardOf(connection)]; lease != nil {
		return lease, true
	}
	return nil, false
}

// count answers how many of the shards' things are of shards that are held, and how many there are. A shard that was lost counts as its
// next owner's, although what is under way here may take long to end.
func (s *share) count(perShard [relay.Shards]int) (own, all int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, things := range perShard {
		all += things
		if lease := s.holds[n]; lease != nil && lease.Valid() {
			own += things
		}
	}
	return own, all
}

// join makes this replica known to the others, and then takes note of which formats they all read: in this order, so that whoever
// raises the formats' mark sees this replica, or is seen by it.
func join(ctx context.Context, c config, s *store.Store, registry prometheus.Registerer, log *slog.Logger, waiting func(string)) (*shard.Member, *topology.Versions, error) {
	replica, _ := os.Hostname() // a name for people and for the share; a nonce tells replicas apart
	var formats *topology.Versions
	if err := patiently(ctx, log, "the mark of the stored formats cannot be read", waiting, func() (err error) {
		formats, err = topology.OpenFormats(ctx, topology.FormatsConfig{JS: s.JetStream(), Topology: s.Topology(), Log: log})
		return err
	}, store.Passing); err != nil {
		return nil, nil, err
	}
	var member *shard.Member
	err := patiently(ctx, log, "the other replicas cannot be joined", waiting, func() (err error) {
		if member == nil {
			member, err = shard.Join(ctx, shard.Config{
				Store: s, Replica: replica, Version: topology.BuildFormats(), Exclusive: c.NATSURL == "", Metrics: registry, Log: log,
			})
		}
		if err == nil {
			err = formats.Join(ctx)
		}
		return err
	}, store.Passing)
	return member, formats, err
}

// live returns how many replicas there are, and what the vendor has asked of any of them.
func live(m *shard.Member) (int, relay.Throttle) {
	var asked relay.Throttle
	peers, _ := m.Members()
	for _, p := range peers {
		asked = asked.With(p.Throttle, time.Now())
	}
	return len(peers), asked
}
