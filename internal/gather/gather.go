// Package gather lets one of several goroutines work for all that come at about the same time: a start with all 64
// shards asks the store once, and not 64 times, what it has of them. The work on an item begins after it was added, and
// no item is lost unless its caller's context has ended. Begin reading at Group, then at Reader, whose callers wait for
// a result.
package gather

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// window is how long the first waits for others.
const window = 5 * time.Millisecond

// Group gathers items. Make it with New.
type Group[T any] struct {
	work func(ctx context.Context, batch []T)
	turn chan struct{} // full while a batch is worked on

	mu      sync.Mutex
	waiting []waiting[T]
}

// waiting is an item and the context of who brought it.
type waiting[T any] struct {
	ctx  context.Context
	item T
}

// New returns a Group whose work is done by a function, for one batch at a time. The function's context ends when it
// has returned, or when those of all items of the batch have ended.
func New[T any](work func(ctx context.Context, batch []T)) *Group[T] {
	return &Group[T]{work: work, turn: make(chan struct{}, 1)}
}

// Add adds an item to the next batch. The first caller waits a moment for others and for the batch before, works for
// all of them, and then returns; the others return at once. The work on an item begins after its Add has, unless ctx
// has ended: then the item is dropped. So a caller that follows one whose ctx has ended is never in one batch with it.
func (g *Group[T]) Add(ctx context.Context, item T) {
	g.mu.Lock()
	g.waiting = append(g.waiting, waiting[T]{ctx, item})
	first := len(g.waiting) == 1
	g.mu.Unlock()
	if !first {
		return
	}
	time.Sleep(window)
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	g.mu.Lock()
	all := g.waiting
	g.waiting = nil
	g.mu.Unlock()

	var batch []T
	var callers []context.Context
	for _, w := range all {
		if w.ctx.Err() == nil {
			batch, callers = append(batch, w.item), append(callers, w.ctx)
		}
	}
	if len(batch) == 0 {
		return
	}
	working, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var left atomic.Int64
	left.Store(int64(len(callers)))
	for _, caller := range callers {
		defer context.AfterFunc(caller, func() {
			if left.Add(-1) == 0 {
				end()
			}
		})()
	}
	g.work(working, batch)
}

// Reader reads for many callers at once. Make it with NewReader.
type Reader[K comparable, V any] struct{ group *Group[*call[K, V]] }

type call[K comparable, V any] struct {
	key   K
	value V
	err   error
	done  chan struct{}
}

// NewReader returns a Reader that reads by a function. What that returns has every key.
func NewReader[K comparable, V any](read func(ctx context.Context, keys []K) (map[K]V, error)) *Reader[K, V] {
	return &Reader[K, V]{New(func(ctx context.Context, calls []*call[K, V]) {
		var keys []K
		asked := map[K]bool{}
		for _, c := range calls {
			if !asked[c.key] {
				asked[c.key], keys = true, append(keys, c.key)
			}
		}
		found, err := read(ctx, keys)
		for _, c := range calls {
			c.value, c.err = found[c.key], err
			close(c.done)
		}
	})}
}

// Read returns what there is of a key. It is read after Read was called, together with what others ask for meanwhile.
// Callers that ask for the same key at the same time share one value. The caller that reads for all returns when that
// is over, another one also when ctx ends.
func (r *Reader[K, V]) Read(ctx context.Context, key K) (V, error) {
	c := &call[K, V]{key: key, done: make(chan struct{})}
	r.group.Add(ctx, c)
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}
