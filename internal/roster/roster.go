// Package roster keeps one runner at work for every connection of the shards that this replica holds. The two stages that work by
// connection, the poller and the resolver, stand on it: what differs between them is the runner.
//
// Two things come and go at any time and in any order: connections, which one watch tells of, and shards, which Own is called for.
// A runner works while its connection is there and its shard is held. No two runners of one connection ever work at the
// same time in one process: the next one begins when the one before has stored all it had under way.
package roster

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
)

// Runner works on one connection.
type Runner interface {
	// Run works until ctx ends and returns when all that was under way has ended and is stored. It may return earlier: another
	// replica has taken over.
	Run(ctx context.Context)
	// Change takes the connection as it is configured now. It is called under the roster's lock and must not wait.
	Change(c relay.Connection)
}

// Watch tells of every connection there is, then calls ready once, then tells of every change. It is store.Bucket's.
type Watch func(ctx context.Context, each func(store.Entry[relay.Connection]), ready func(), bad func(key string, err error)) error

// Config is what New needs.
type Config[R Runner] struct {
	Watch Watch
	// Make makes a runner. Fresh says that the connection was made just now, by somebody who wants to see it work. It is called under
	// the roster's lock and must not wait.
	Make func(lease *shard.Lease, c relay.Connection, fresh bool) R
	Log  *slog.Logger
}

// Roster is who works on what in this process.
type Roster[R Runner] struct {
	Config[R]

	mu      sync.Mutex
	known   map[int]map[string]known // connections, by shard
	held    map[int]*holding
	running map[string]*entry[R]
	last    map[string]chan struct{} // closed when the connection's last runner has ended
}

// known is a connection as the watch told it last.
type known struct {
	relay.Connection
	revision uint64
}

// holding is one call of Own.
type holding struct {
	ctx     context.Context
	lease   *shard.Lease
	runners sync.WaitGroup
	done    chan struct{}
}

type entry[R Runner] struct {
	runner     R
	generation string
	stop       context.CancelFunc
}

// New makes a roster that knows of nothing.
func New[R Runner](c Config[R]) *Roster[R] {
	return &Roster[R]{
		Config: c, known: map[int]map[string]known{}, held: map[int]*holding{}, running: map[string]*entry[R]{}, last: map[string]chan struct{}{},
	}
}

// Run watches the connections until ctx ends. A watch that is lost is taken up again.
func (r *Roster[R]) Run(ctx context.Context) {
	const least, most = 100 * time.Millisecond, 5 * time.Second
	wait := least
	for ctx.Err() == nil {
		err := r.watch(ctx, func() { wait = least })
		if ctx.Err() != nil {
			return
		}
		r.Log.Log(ctx, store.Level(err, slog.LevelWarn), "the watch on connections ended; it is started again", "error", err)
		select { // with jitter, so that replicas do not come back together
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		wait = min(wait*2, most)
	}
}

func (r *Roster[R]) watch(ctx context.Context, listed func()) error {
	seen := map[string]bool{} // nil once all that are there were told
	note := func(id string) {
		if seen != nil {
			seen[id] = true
		}
	}
	return r.Watch(ctx, func(e store.Entry[relay.Connection]) {
		note(e.Key)
		if e.Deleted {
			r.forget(e.Key)
			return
		}
		r.learn(e, seen == nil)
	}, func() {
		r.forgetOthers(seen) // what was deleted while nobody watched is not told
		seen = nil
		listed()
	}, func(key string, err error) {
		note(key)
		r.Log.ErrorContext(ctx, "a connection's document cannot be read; put it again", "connection", key, "error", err)
	})
}

// learn takes a connection as it is now.
func (r *Roster[R]) learn(e store.Entry[relay.Connection], fresh bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := relay.ShardOf(e.Key)
	if r.known[n] == nil {
		r.known[n] = map[string]known{}
	}
	before, was := r.known[n][e.Key]
	r.known[n][e.Key] = known{e.Value, e.Revision}
	if was && before.revision == e.Revision {
		return // told again by a new watch
	}
	running := r.running[e.Key]
	switch {
	case running != nil && running.generation == e.Value.Generation:
		running.runner.Change(e.Value)
		return
	case running != nil: // made anew under an old name
		r.end(e.Key)
	}
	if h := r.held[n]; h != nil {
		r.start(h, e.Key, e.Value, fresh)
	}
}

func (r *Roster[R]) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known[relay.ShardOf(id)], id)
	r.end(id)
}

func (r *Roster[R]) forgetOthers(seen map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, connections := range r.known {
		for id := range connections {
			if !seen[id] {
				delete(connections, id)
				r.end(id)
			}
		}
	}
}

// Own works on the lease's shard until ctx ends: a runner for every connection of the shard, also for those that come meanwhile. It
// returns when all of them have ended, and with them what was under way.
func (r *Roster[R]) Own(ctx context.Context, lease *shard.Lease) error {
	h := &holding{ctx: ctx, lease: lease, done: make(chan struct{})}
	if !r.take(ctx, h) {
		return nil
	}
	<-ctx.Done()
	r.release(h)
	h.runners.Wait()
	close(h.done)
	return nil
}

// take begins to hold a shard, when whoever held it before in this process has ended; false if ctx ended first.
func (r *Roster[R]) take(ctx context.Context, h *holding) bool {
	n := h.lease.Shard()
	for {
		r.mu.Lock()
		before := r.held[n]
		if before == nil {
			r.held[n] = h
			for id, k := range r.known[n] {
				r.start(h, id, k.Connection, false)
			}
			r.mu.Unlock()
			return true
		}
		r.mu.Unlock()
		select {
		case <-before.done:
		case <-ctx.Done():
			return false
		}
	}
}

// release stops holding a shard: nothing more is started for it. Its runners end by its context.
func (r *Roster[R]) release(h *holding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := h.lease.Shard()
	delete(r.held, n)
	for id := range r.known[n] {
		r.end(id)
	}
}

// start has a new runner work on a connection once the one before has ended; mu is held.
func (r *Roster[R]) start(h *holding, id string, c relay.Connection, fresh bool) {
	ctx, cancel := context.WithCancel(h.ctx)
	e := &entry[R]{runner: r.Make(h.lease, c, fresh), generation: c.Generation, stop: cancel}
	before, done := r.last[id], make(chan struct{})
	r.running[id], r.last[id] = e, done
	h.runners.Go(func() {
		defer cancel()
		if before != nil {
			<-before // its last writes come before this one's first read
		}
		if ctx.Err() == nil {
			e.runner.Run(ctx)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.running[id] == e {
			delete(r.running, id)
		}
		if r.last[id] == done {
			delete(r.last, id)
		}
		close(done)
	})
}

// end stops a connection's runner without waiting for its end; mu is held.
func (r *Roster[R]) end(id string) {
	if e := r.running[id]; e != nil {
		e.stop()
		delete(r.running, id)
	}
}

// Runner answers who works on a connection here; false if nobody does.
func (r *Roster[R]) Runner(connection string) (R, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.running[connection]
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
	for id, e := range r.running {
		f(id, e.runner)
	}
}

// Connection returns a connection as it is configured; false if it is not known, or not yet.
func (r *Roster[R]) Connection(id string) (relay.Connection, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, ok := r.known[relay.ShardOf(id)][id]
	return k.Connection, ok
}

// Connections returns every connection of a shard that is known.
func (r *Roster[R]) Connections(shard int) []relay.Connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]relay.Connection, 0, len(r.known[shard]))
	for _, k := range r.known[shard] {
		list = append(list, k.Connection)
	}
	return list
}

// Count answers how many connections of each shard there are, here and elsewhere.
func (r *Roster[R]) Count() (perShard [relay.Shards]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, connections := range r.known {
		perShard[n] = len(connections)
	}
	return perShard
}
