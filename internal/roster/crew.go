package roster

import (
	"context"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
)

// ownedShard is one call of Own.
type ownedShard struct {
	ctx     context.Context
	lease   *shard.Lease
	runners sync.WaitGroup
}

// entry is a runner and its turns.
type entry[R Runner] struct {
	task
	runner     R
	connection string
	generation string
	shard      *ownedShard
	ctx        context.Context
	cancel     context.CancelFunc
	next       *entry[R] // begins when this one has ended
}

// crew are the runners of the shards that are owned here. It is used by one goroutine at a time.
type crew[R Runner] struct {
	newRunner func(lease *shard.Lease, c relay.Connection, fresh bool, wake func()) R
	ended     func(*entry[R]) // what a runner calls once it has ended
	turns     *turns

	owned   map[int]*ownedShard
	running map[string]*entry[R]
	last    map[string]*entry[R] // the connection's newest runner that has not ended
}

// change takes a connection as it is configured now. Fresh: it was made just now.
func (w *crew[R]) change(c relay.Connection, fresh bool) {
	switch running := w.running[c.ID]; {
	case running != nil && running.generation == c.Generation:
		running.runner.Change(c)
		return
	case running != nil: // made again under an old name
		w.end(c.ID)
	}
	if s := w.owned[relay.ShardOf(c.ID)]; s != nil {
		w.start(s, c, fresh)
	}
}

// start has a new runner work on a connection once the one before has ended.
func (w *crew[R]) start(s *ownedShard, c relay.Connection, fresh bool) {
	ctx, cancel := context.WithCancel(s.ctx) // its last turn calls it
	e := &entry[R]{connection: c.ID, generation: c.Generation, shard: s, ctx: ctx, cancel: cancel}
	e.runner = w.newRunner(s.lease, c, fresh, func() { w.turns.wake(&e.task) })
	e.turn = func() (time.Duration, bool) {
		wait, more := e.runner.Turn(e.ctx)
		if !more {
			e.cancel()
			w.ended(e)
		}
		return wait, more
	}
	s.runners.Add(1)
	before := w.last[c.ID]
	w.running[c.ID], w.last[c.ID] = e, e
	if before != nil { // its last writes come before this one's first read
		before.next = e
		return
	}
	w.turns.begin(&e.task)
}

// end stops a connection's runner without waiting for its end.
func (w *crew[R]) end(connection string) {
	if e := w.running[connection]; e != nil {
		e.cancel()
		w.turns.wake(&e.task)
		delete(w.running, connection)
	}
}

// remove forgets a runner that has ended, and lets the next one begin.
func (w *crew[R]) remove(e *entry[R]) {
	if w.running[e.connection] == e {
		delete(w.running, e.connection)
	}
	if e.next != nil {
		w.turns.begin(&e.next.task)
	} else {
		delete(w.last, e.connection)
	}
	e.shard.runners.Done()
}
