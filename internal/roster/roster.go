// Package roster runs one runner for every connection of the shards that this replica holds, for the two stages that
// work by connection: the poller and the resolver. A runner works while its connection is there and its shard is held,
// and no two runners of one connection ever work at the same time in one process. Begin reading at Runner, then at Own.
package roster

import (
	"context"
	"log/slog"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
)

// Runner works on one connection.
type Runner interface {
	// Turn does what is due, however long that takes, and returns how long there is nothing else to do. It is
	// called again then, or when the runner was woken, and when ctx has ended, which may be before the first
	// turn. It returns false when all that was under way has ended and is stored: ctx has ended, or another
	// replica has taken over. Then it is not called again.
	Turn(ctx context.Context) (time.Duration, bool)
	// Change takes the connection as it is configured now. It is called under the roster's lock and must not wait.
	Change(c relay.Connection)
}

// Config is what New needs.
type Config[R Runner] struct {
	Connections store.Mirrored[relay.Connection]
	// Make makes a runner; wake gives it a turn at once, or another one after that under way, and may be
	// called from anywhere. Fresh: the connection was made just now, by somebody who wants to see it work.
	// Make is called under the roster's lock and must not wait.
	Make func(lease *shard.Lease, c relay.Connection, fresh bool, wake func()) R
	Log  *slog.Logger
}

// Roster is who works on what in this process. Two things come and go at any time and in any order: connections, which
// a store.Mirror knows, and shards, which Own is called for. Where a runner of a connection is still ending, the next
// one begins when it has stored all it had under way.
type Roster[R Runner] struct {
	Config[R]

	known  *store.Mirror[relay.Connection] // grouped by shard
	owning [relay.Shards]chan struct{}     // full while a shard is held

	mu   sync.Mutex
	crew crew[R]
}

// New makes a roster that knows of nothing.
func New[R Runner](c Config[R]) *Roster[R] {
	r := &Roster[R]{Config: c}
	r.crew = crew[R]{
		newRunner: c.Make, ended: r.ended, turns: &turns{},
		owned: map[int]*ownedShard{}, running: map[string]*entry[R]{}, last: map[string]*entry[R]{},
	}
	for n := range r.owning {
		r.owning[n] = make(chan struct{}, 1)
	}
	r.known = store.NewMirror(store.MirrorConfig[relay.Connection]{
		Bucket: c.Connections, Log: c.Log, What: "connection", OnChange: r.changed,
		Group: func(c relay.Connection) string { return group(relay.ShardOf(c.ID)) },
	})
	return r
}

// group is the group of the mirror in which the connections of a shard are.
func group(shard int) string { return strconv.Itoa(shard) }

// Run follows which connections there are until ctx ends.
func (r *Roster[R]) Run(ctx context.Context) { r.known.Run(ctx) }

// changed takes a connection as it was and as it is now; nil where there is none.
func (r *Roster[R]) changed(before, now *store.Entry[relay.Connection]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now == nil {
		r.crew.end(before.Key)
		return
	}
	r.crew.change(now.Value, r.listed())
}

// Ready is closed when all connections are known.
func (r *Roster[R]) Ready() <-chan struct{} { return r.known.Ready() }

// listed reports whether all connections are known: whichever comes now was made just now.
func (r *Roster[R]) listed() bool {
	select {
	case <-r.Ready():
		return true
	default:
		return false
	}
}

// Own works on the lease's shard until ctx ends: a runner for every connection of the shard, also for those
// that come meanwhile. It returns when all of them have ended, and with them what was under way.
func (r *Roster[R]) Own(ctx context.Context, lease *shard.Lease) error {
	s := &ownedShard{ctx: ctx, lease: lease}
	owning := r.owning[lease.Shard()]
	select {
	case owning <- struct{}{}: // whoever held the shard before in this process has given it up
	case <-ctx.Done():
		return nil
	}
	r.take(s)
	<-ctx.Done()
	r.release(s)
	<-owning
	s.runners.Wait()
	return nil
}

// take begins to hold a shard.
func (r *Roster[R]) take(s *ownedShard) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := s.lease.Shard()
	r.crew.owned[n] = s
	for _, c := range r.Connections(n) {
		r.crew.start(s, c, false)
	}
}

// release stops holding a shard: nothing more is started for it, and its runners end.
func (r *Roster[R]) release(s *ownedShard) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := s.lease.Shard()
	delete(r.crew.owned, n)
	for _, id := range r.known.Keys(group(n)) {
		r.crew.end(id)
	}
}

func (r *Roster[R]) ended(e *entry[R]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.crew.remove(e)
}

// Runner returns who works on a connection here; false if nobody does.
func (r *Roster[R]) Runner(connection string) (R, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.crew.running[connection]
	if e == nil {
		var none R
		return none, false
	}
	return e.runner, true
}

// Each calls f with every runner at work. It is called under the roster's lock.
func (r *Roster[R]) Each(f func(connection string, runner R)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, e := range r.crew.running {
		f(id, e.runner)
	}
}

// Connection returns a connection as it is configured; false if it is not known, or not yet.
func (r *Roster[R]) Connection(id string) (relay.Connection, bool) {
	e, ok := r.known.Get(id)
	return e.Value, ok
}

// Connections returns every connection of a shard that is known.
func (r *Roster[R]) Connections(shard int) []relay.Connection {
	page, _ := r.known.Page(group(shard), "", math.MaxInt, nil)
	return each.Of(page, func(e store.Entry[relay.Connection]) relay.Connection { return e.Value })
}

// Count returns how many connections of each shard there are, here and elsewhere.
func (r *Roster[R]) Count() (perShard [relay.Shards]int) {
	for n := range perShard {
		perShard[n] = r.known.Count(group(n))
	}
	return perShard
}
