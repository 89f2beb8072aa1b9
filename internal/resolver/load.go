package resolver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/gather"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
)

const (
	// loadOneByOne is the largest number of cursors that are read by their names. For more it is
	// cheaper to read all that are stored.
	loadOneByOne = 32
	// loadBound bounds the loading of a batch.
	loadBound = 20 * time.Second
)

// loader reads and adopts the cursors of many connections together. Each connection has a runner of its
// own, and a shard brings hundreds of them, a start all. If each runner read for itself, every one would
// need its own reader of the store, which costs the server more than what most connections have stored.
// The dispatcher needs no loader: it has one loop for each shard, and loads whole shards.
type loader struct {
	r        *Resolver
	arrivals *gather.Group[*arrival]
}

// arrival is a runner that waits for its cursor to be loaded.
type arrival struct {
	runner *runner
	loaded loaded
	err    error
	done   chan struct{}
}

// loaded is a connection's adopted cursor, and its last page in the inbox.
type loaded struct {
	cursor *storedCursor
	head   uint64
	asides []*aside
}

// arrive has a runner's cursor loaded and stored under its lease's epoch, and wakes the runner when
// that is done. The first caller loads the cursors for all that call while it waits for its turn.
func (l *loader) arrive(ctx context.Context, run *runner) *arrival {
	a := &arrival{runner: run, done: make(chan struct{})}
	l.arrivals.Add(ctx, a)
	return a
}

// ready reports whether the cursor is loaded, or cannot be.
func (a *arrival) ready() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// batch loads and adopts the cursors of runners.
func (l *loader) batch(ctx context.Context, batch []*arrival) {
	ctx, cancel := context.WithTimeout(ctx, loadBound)
	defer cancel()
	defer func() {
		for _, a := range batch {
			close(a.done)
			a.runner.wake()
		}
	}()
	connections := each.Of(batch, func(a *arrival) string { return a.runner.connection })
	load := l.r.cursors.LoadSome
	if len(connections) > loadOneByOne {
		load = l.r.cursors.LoadMany
	}
	found, err := load(ctx, connections)
	var heads map[string]uint64
	if err == nil {
		heads, err = l.r.store.Inbox.Heads(ctx, connections)
	}
	var aside map[string][]*aside
	if err == nil { // before the cursors are adopted: a former owner cannot settle what it sets aside later
		aside, err = l.asides(ctx, batch)
	}
	if err != nil {
		for _, a := range batch {
			a.err = err
		}
		return
	}
	owned := map[*shard.Lease][]*arrival{}
	for _, a := range batch {
		run := a.runner
		s, err := l.r.newStoredCursor(run.lease, run.generation, found[run.connection])
		if a.err = err; err != nil {
			continue
		}
		a.loaded = loaded{cursor: s, head: heads[run.connection], asides: aside[run.connection]}
		if s.Dirty() {
			owned[run.lease] = append(owned[run.lease], a)
		}
	}
	var adopting sync.WaitGroup
	for lease, arrivals := range owned {
		adopting.Go(func() { l.adopt(ctx, lease, arrivals) })
	}
	adopting.Wait()
}

// adopt writes cursors under the epoch of their lease.
func (l *loader) adopt(ctx context.Context, lease *shard.Lease, arrivals []*arrival) {
	saves := each.Of(arrivals, func(a *arrival) cursorstore.Save { return a.loaded.cursor.save() })
	for i, r := range l.r.cursors.Adopt(ctx, lease.Epoch(), saves) {
		a := arrivals[i]
		if err := a.loaded.cursor.saved(saves[i], r); err != nil && (!r.Fenced || errors.Is(err, errSuperseded)) {
			a.err = fmt.Errorf("adopt the cursor: %w", err)
		} // else a removal has failed, which the next flush repeats
	}
}

// asidesAtOnce is how many unresolved notifications are read at a time: each comes with its bytes.
const asidesAtOnce = 64

// asides returns the notifications in relay_unresolved of each connection that may be retried by themselves.
func (l *loader) asides(ctx context.Context, batch []*arrival) (map[string][]*aside, error) {
	var keys []string
	if len(batch) <= loadOneByOne {
		for _, a := range batch {
			keys = append(keys, a.runner.connection+".>")
		}
	}
	there := map[string]relay.Unresolved{}
	for from, more := uint64(1), true; more; {
		entries, last, some, err := l.r.store.Unresolved.Changed(ctx, from, keys, asidesAtOnce,
			func(key string, err error) {
				l.r.log.ErrorContext(ctx, "cannot read an unresolved notification; it is not retried by itself",
					"unresolved", key, "error", err)
			})
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			e.Value.Raw = nil
			there[e.Key] = e.Value
		}
		from, more = last+1, some
	}
	of := map[string][]*aside{}
	for _, doc := range there {
		if reason(doc.Reason).retriedByItself() {
			of[doc.Connection] = append(of[doc.Connection], asideOf(doc))
		}
	}
	return of, nil
}
