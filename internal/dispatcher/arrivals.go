package dispatcher

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

const (
	// gatherFor is how long one waits for more to load after something has arrived, gatherMost in all: reading the buckets once
	// for many is what makes a start with all shards quick.
	gatherFor  = 10 * time.Millisecond
	gatherMost = 100 * time.Millisecond
	// loadAgain is how long one waits before what could not be loaded is tried again.
	loadAgain = time.Second
	// firstShards is how long a replica waits for its first shards before it is ready without any.
	firstShards = time.Second
)

// arrivals are the shards and callbacks that are to be loaded. One goroutine does (receive): what is loaded twice is loaded one after the
// other.
type arrivals struct {
	kick chan struct{}

	mu     sync.Mutex
	shards map[*tenure]struct{}
	ids    map[string]struct{}
}

func (a *arrivals) init() {
	a.kick = make(chan struct{}, 1)
	a.shards, a.ids = map[*tenure]struct{}{}, map[string]struct{}{}
}

func (a *arrivals) shard(ts ...*tenure) {
	a.mu.Lock()
	for _, t := range ts {
		a.shards[t] = struct{}{}
	}
	a.mu.Unlock()
	a.wake()
}

func (a *arrivals) callback(ids ...string) {
	a.mu.Lock()
	for _, id := range ids {
		a.ids[id] = struct{}{}
	}
	a.mu.Unlock()
	a.wake()
}

func (a *arrivals) wake() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// gather waits until nothing more arrives for a moment and takes what has.
func (a *arrivals) gather(ctx context.Context) (shards []*tenure, ids []string) {
	for until := time.Now().Add(gatherMost); time.Now().Before(until) && ctx.Err() == nil; {
		a.mu.Lock()
		before := len(a.shards) + len(a.ids)
		all := len(a.shards) == relay.Shards
		a.mu.Unlock()
		if all {
			break
		}
		wait(ctx, gatherFor)
		a.mu.Lock()
		more := len(a.shards)+len(a.ids) > before
		a.mu.Unlock()
		if !more {
			break
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	shards, ids = slices.Collect(maps.Keys(a.shards)), slices.Collect(maps.Keys(a.ids))
	clear(a.shards)
	clear(a.ids)
	return shards, ids
}

// receive loads what arrives until ctx ends.
func (d *Dispatcher) receive(ctx context.Context) {
	ready := sync.OnceFunc(func() { close(d.ready) })
	nobody := time.NewTimer(firstShards)
	defer nobody.Stop()
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	var failed todo
	for {
		select {
		case <-ctx.Done():
			return
		case <-nobody.C:
			ready()
			continue
		case <-d.arrivals.kick:
		case <-again.C:
			d.arrivals.shard(failed.shards...)
			d.arrivals.callback(failed.ids...)
			failed = todo{}
			continue
		}
		shards, ids := d.arrivals.gather(ctx)
		if len(shards) > 0 {
			nobody.Stop()
		}
		left := d.load(ctx, shards, ids)
		if len(left.shards) == 0 && len(left.ids) == 0 {
			if len(failed.shards) == 0 && len(shards) > 0 {
				ready()
			}
			continue
		}
		failed.shards, failed.ids = append(failed.shards, left.shards...), append(failed.ids, left.ids...)
		again.Reset(loadAgain)
	}
}

// todo is what could not be loaded yet.
type todo struct {
	shards []*tenure
	ids    []string
}
