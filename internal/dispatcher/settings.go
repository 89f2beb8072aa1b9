package dispatcher

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// settings is the configuration as watched, of every callback whoever delivers to it.
type settings struct {
	mu        sync.Mutex // also held while a change is applied: changes come one at a time
	clients   map[string]relay.Client
	callbacks map[string]relay.Callback
	// What was read from the store while loading may be newer than what the watch tells next: revisions tell.
	clientRevs, callbackRevs map[string]uint64
	retiring                 map[string]bool // callbacks deleted or made anew whose former self is being ended

	gathered [2]sync.Once
	complete [2]chan struct{} // clients, callbacks
}

func (s *settings) init() {
	s.clients, s.callbacks = map[string]relay.Client{}, map[string]relay.Callback{}
	s.clientRevs, s.callbackRevs, s.retiring = map[string]uint64{}, map[string]uint64{}, map[string]bool{}
	s.complete = [2]chan struct{}{make(chan struct{}), make(chan struct{})}
}

// knowClient and knowCallback take what the store had at a revision, nil for a removal, and answer false if something later is known.
// Revision 0: it is not there any more. mu is held.
func (s *settings) knowClient(id string, revision uint64, v *relay.Client) bool {
	return know(s.clients, s.clientRevs, id, revision, v)
}

func (s *settings) knowCallback(id string, revision uint64, v *relay.Callback) bool {
	return know(s.callbacks, s.callbackRevs, id, revision, v)
}

func know[T any](values map[string]T, revisions map[string]uint64, id string, revision uint64, v *T) bool {
	if revision != 0 && revision < revisions[id] {
		return false
	}
	revisions[id] = max(revision, revisions[id])
	if v == nil {
		delete(values, id)
	} else {
		values[id] = *v
	}
	return true
}

// watch follows the buckets of clients and callbacks until ctx ends. A watch that breaks begins anew; what was deleted meanwhile
// is noticed by not being there.
func (d *Dispatcher) watch(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() {
		watchBucket(ctx, d, d.conf.Store.Clients, 0, d.setClient, func() []string { return known(&d.settings.mu, d.settings.clients) })
	})
	both.Go(func() {
		watchBucket(ctx, d, d.conf.Store.Callbacks, 1, d.setCallback, func() []string { return known(&d.settings.mu, d.settings.callbacks) })
	})
	both.Wait()
}

func watchBucket[T any](ctx context.Context, d *Dispatcher, b *store.Bucket[T], which int, set func(id string, revision uint64, v *T), known func() []string) {
	for ctx.Err() == nil {
		before, seen := known(), map[string]bool{}
		err := b.Watch(ctx, func(e store.Entry[T]) {
			if seen != nil {
				seen[e.Key] = true
			}
			if e.Deleted {
				set(e.Key, e.Revision, nil)
			} else {
				set(e.Key, e.Revision, &e.Value)
			}
		}, func() {
			for _, id := range before {
				if !seen[id] {
					set(id, 0, nil)
				}
			}
			seen = nil
			d.settings.gathered[which].Do(func() { close(d.settings.complete[which]) })
		}, func(key string, err error) {
			if seen != nil {
				seen[key] = true // what cannot be read stays as it was
			}
			d.conf.Log.Error("a setting cannot be read; the one before stays in force", "key", key, "error", err)
		})
		if ctx.Err() == nil {
			d.conf.Log.Log(ctx, store.Level(err, slog.LevelWarn), "settings cannot be watched; trying again", "error", err)
			wait(ctx, time.Second)
		}
	}
}

func known[T any](mu *sync.Mutex, values map[string]T) []string {
	mu.Lock()
	defer mu.Unlock()
	return keys(values)
}

func keys[K comparable, V any](m map[K]V) []K {
	ks := make([]K, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	return ks
}

// setClient takes a changed client, nil for a deleted one, and what it means for its callbacks.
func (d *Dispatcher) setClient(id string, revision uint64, client *relay.Client) {
	s := &d.settings
	s.mu.Lock()
	defer s.mu.Unlock()
	before, known := s.clients[id]
	if !s.knowClient(id, revision, client) {
		return
	}
	if known && client != nil && before.Generation == client.Generation && before.AllSites == client.AllSites && slices.Equal(before.Sites, client.Sites) {
		return // its keys have changed, or how many callbacks it has
	}
	for _, c := range d.list() {
		if cb, ok := s.callbacks[c.id]; ok && cb.Client == id && cb.Generation == c.gen {
			c.retarget(d.targetOf(cb))
		}
	}
}

// targetOf returns a callback with its client as known; settings.mu is held.
func (d *Dispatcher) targetOf(cb relay.Callback) *target {
	client, known := d.settings.clients[cb.Client]
	if !known || !cb.BelongsTo(client) {
		t := newTarget(cb, relay.Client{ID: cb.Client})
		t.orphaned = true
		return t
	}
	return newTarget(cb, client)
}

// setCallback takes a changed callback, nil for a deleted one. If its shard is this replica's it takes effect at once.
func (d *Dispatcher) setCallback(id string, revision uint64, cb *relay.Callback) {
	s := &d.settings
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.knowCallback(id, revision, cb) {
		return
	}
	t := d.tenure(relay.ShardOf(id))
	if t == nil {
		return
	}
	switch c := d.find(id); {
	case c != nil && cb != nil && c.gen == cb.Generation:
		c.retarget(d.targetOf(*cb))
	case c != nil: // deleted, or made anew under the same id
		d.retire(c)
	case cb != nil && !s.retiring[id]:
		d.want(t, id)
	case cb == nil:
		delete(t.missing, id)
		t.mark.hold(!t.listed || len(t.missing) > 0)
	}
}

// want has a callback loaded. settings.mu is held.
func (d *Dispatcher) want(t *tenure, id string) {
	t.missing[id] = true
	t.mark.hold(true)
	d.arrivals.callback(id)
}

// retarget lets a changed configuration take effect on the next attempt.
func (c *callback) retarget(t *target) {
	c.d.feed.mu.Lock()
	defer c.d.feed.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	if c.attached {
		c.cur.Advance(c.d.feed.pos.Load()) // under the filter before, nothing up to here is waiting to be offered
		c.d.feed.leave(c, c.indexed)
	}
	c.setTarget(t)
	switch {
	case c.attached && t.orphaned: // it would be passed over by what it may get once its client is known
		c.attached = false
		c.d.flush.mark(c)
	case c.attached:
		c.attach()
	}
	c.pump(time.Now())
}

// retire ends a deleted callback and removes what is stored of where it stood. If it has been made anew, that is loaded then.
// settings.mu is held.
func (d *Dispatcher) retire(c *callback) {
	d.mu.Lock()
	delete(d.callbacks, c.id)
	d.mu.Unlock()
	d.settings.retiring[c.id] = true
	c.t.chores.Go(func() {
		c.stop(true)
		d.flush.do(c.t.life, func(context.Context) {
			c.mu.Lock()
			c.fenced = true // no round stores it again
			c.mu.Unlock()
		})
		d.eraseCursor(c.t.life, c.t, c.id)
		d.settings.mu.Lock()
		defer d.settings.mu.Unlock()
		delete(d.settings.retiring, c.id)
		if _, anew := d.settings.callbacks[c.id]; anew && !c.t.ending.Load() {
			d.want(c.t, c.id)
		}
	})
}

// eraseCursor removes a callback's cursor document and lanes, but for those of the generation that is registered now.
func (d *Dispatcher) eraseCursor(ctx context.Context, t *tenure, id string) {
	found, err := d.read(ctx, func(string) *tenure { return t }, nil, map[string]*tenure{id: t})
	if err != nil {
		d.complain("cursor of "+id, err)
		return
	}
	d.settings.mu.Lock()
	keep := d.settings.callbacks[id].Generation
	d.settings.mu.Unlock()
	d.erase(ctx, t, id, found[id], keep)
}
