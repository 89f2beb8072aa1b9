package dispatcher

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// settings is the configuration as watched: first gathered, then, once everything is loaded, applied change by change.
type settings struct {
	mu        sync.Mutex // also held while a change is applied: changes come one at a time
	live      bool
	clients   map[string]relay.Client
	callbacks map[string]relay.Callback

	gathered [2]sync.Once
	complete [2]chan struct{} // clients, callbacks
}

func (s *settings) init() {
	s.clients, s.callbacks = map[string]relay.Client{}, map[string]relay.Callback{}
	s.complete = [2]chan struct{}{make(chan struct{}), make(chan struct{})}
}

// watch follows the buckets of clients and callbacks until ctx ends. A watch that breaks begins anew; what was deleted meanwhile
// is noticed by not being there.
func (d *Dispatcher) watch(ctx context.Context) error {
	var both sync.WaitGroup
	both.Go(func() { watchBucket(ctx, d, d.conf.Store.Clients, 0, d.setClient, d.knownClients) })
	both.Go(func() { watchBucket(ctx, d, d.conf.Store.Callbacks, 1, d.setCallback, d.knownCallbacks) })
	both.Wait()
	return ctx.Err()
}

func watchBucket[T any](ctx context.Context, d *Dispatcher, b *store.Bucket[T], which int, set func(context.Context, string, *T), known func() []string) {
	for ctx.Err() == nil {
		seen := map[string]bool{}
		err := b.Watch(ctx, func(e store.Entry[T]) {
			if seen != nil {
				seen[e.Key] = true
			}
			if e.Deleted {
				set(ctx, e.Key, nil)
			} else {
				set(ctx, e.Key, &e.Value)
			}
		}, func() {
			for _, id := range known() {
				if !seen[id] {
					set(ctx, id, nil)
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
			d.conf.Log.Warn("settings cannot be watched; trying again", "error", err)
			wait(ctx, time.Second)
		}
	}
}

func (d *Dispatcher) knownClients() []string {
	d.settings.mu.Lock()
	defer d.settings.mu.Unlock()
	return keys(d.settings.clients)
}

func (d *Dispatcher) knownCallbacks() []string {
	d.settings.mu.Lock()
	defer d.settings.mu.Unlock()
	return keys(d.settings.callbacks)
}

func keys[V any](m map[string]V) []string {
	ks := make([]string, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	return ks
}

// setClient takes a changed client, nil for a deleted one, and what it means for its callbacks.
func (d *Dispatcher) setClient(_ context.Context, id string, client *relay.Client) {
	s := &d.settings
	s.mu.Lock()
	defer s.mu.Unlock()
	if client == nil {
		delete(s.clients, id)
	} else {
		s.clients[id] = *client
	}
	if !s.live {
		return
	}
	for _, cb := range s.callbacks {
		if c := d.find(cb.ID); c != nil && cb.Client == id {
			c.retarget(newTarget(cb, d.clientOf(id)))
		}
	}
}

// clientOf answers a client as known; settings.mu is held. The default client is the operator's own: until somebody limits it by a
// document it sees every site. Any other that is not known sees nothing.
func (d *Dispatcher) clientOf(id string) relay.Client {
	client, ok := d.settings.clients[id]
	if !ok && id == relay.DefaultClient {
		return relay.Client{ID: id, AllSites: true}
	}
	return client
}

// setCallback takes a changed callback, nil for a deleted one.
func (d *Dispatcher) setCallback(ctx context.Context, id string, cb *relay.Callback) {
	s := &d.settings
	s.mu.Lock()
	defer s.mu.Unlock()
	if cb == nil {
		delete(s.callbacks, id)
	} else {
		s.callbacks[id] = *cb
	}
	if !s.live || !d.conf.Owns(shardOf(id)) {
		return
	}
	c := d.find(id)
	if c != nil && cb != nil && c.gen == cb.Generation {
		c.retarget(newTarget(*cb, d.clientOf(cb.Client)))
		return
	}
	if c != nil { // deleted, or made anew under the same id
		d.retire(ctx, c)
	}
	if cb == nil {
		return
	}
	for ctx.Err() == nil {
		err := d.adoptOne(ctx, *cb)
		if err == nil {
			return
		}
		d.conf.Log.Warn("a callback could not be loaded; trying again", "callback", id, "error", err)
		wait(ctx, time.Second)
	}
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
	if c.attached {
		c.attach()
	}
	c.pump(time.Now())
}

// retire ends a deleted callback and removes what is stored of where it stood.
func (d *Dispatcher) retire(ctx context.Context, c *callback) {
	c.stop(true)
	d.flush.do(ctx, func(ctx context.Context) {
		c.mu.Lock()
		c.fenced = true // no round stores it again
		c.mu.Unlock()
		d.eraseCursor(ctx, c.id)
	})
	d.mu.Lock()
	delete(d.callbacks, c.id)
	d.mu.Unlock()
}

// eraseCursor removes a callback's cursor document and lanes; what cannot be removed now is of a generation that nobody loads,
// and is removed at the next start.
func (d *Dispatcher) eraseCursor(ctx context.Context, id string) {
	lanes, err := d.conf.Store.Lanes.All(ctx, store.CallbackCursor(id), func(string, error) {})
	keys := make([]string, len(lanes))
	for i, l := range lanes {
		keys[i] = l.Key
	}
	for _, r := range append(d.conf.Store.Lanes.RemoveAll(ctx, keys), d.conf.Store.Cursors.RemoveAll(ctx, []string{store.CallbackCursor(id)})...) {
		err = errors.Join(err, r.Err)
	}
	if err != nil {
		d.complain("cursor of "+id, err)
	}
}

// adoptOne loads a callback that came while running. It begins as behind, and joins the shared reader by itself. settings.mu is held.
func (d *Dispatcher) adoptOne(ctx context.Context, cb relay.Callback) error {
	// The two buckets are watched apart: a callback may be seen before the client it belongs to.
	if client, _, err := d.conf.Store.Clients.Get(ctx, cb.Client); err == nil {
		d.settings.clients[cb.Client] = client
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	var doc *store.Entry[cursor.Document]
	if v, rev, err := d.conf.Store.Cursors.Get(ctx, store.CallbackCursor(cb.ID)); err == nil {
		doc = &store.Entry[cursor.Document]{Value: v, Revision: rev}
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	var lanes []store.Entry[cursor.Lane]
	if doc != nil {
		var err error
		if lanes, err = d.conf.Store.Lanes.All(ctx, store.CallbackCursor(cb.ID), d.badLane); err != nil {
			return err
		}
	}
	first, last, err := d.conf.Store.Events.Bounds(ctx)
	if err != nil {
		return err
	}
	c, _, err := d.adopt(ctx, cb, doc, lanes, first, last)
	if err != nil || c == nil {
		return err
	}
	c.begin()
	return nil
}
