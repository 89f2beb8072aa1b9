package dispatcher

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// maxLag is how far one callback may hold up its shard's watermark before its document says that the watermark does not speak
// for it: a tenth of what the shared reader would go back for it after a restart.
func (d *Dispatcher) maxLag() uint64 { return d.conf.Lookback / 10 }

// watermarks are the positions up to which the quiet callbacks of a shard need no document of their own: at start a callback
// whose document does not say behind stands at the higher of document and watermark. They are written by the flusher.
type watermarks struct {
	d        *Dispatcher
	stored   [relay.Shards]uint64 // of the flusher
	revision [relay.Shards]uint64
	// tried is the highest position that may have been stored.
	tried [relay.Shards]atomic.Uint64
}

func (m *watermarks) highest(shard int) uint64 { return m.tried[shard].Load() }

// write stores the watermarks that have moved.
func (m *watermarks) write(ctx context.Context) {
	at, present := m.positions()
	var puts []store.Put[store.Watermark]
	var shards []int
	for s := range relay.Shards {
		if present[s] && at[s] != m.stored[s] && m.d.conf.Owns(s) {
			m.tried[s].Store(max(m.tried[s].Load(), at[s]))
			shards = append(shards, s)
			puts = append(puts, store.Put[store.Watermark]{
				Key: store.WatermarkKey(s, "events"), Value: store.Watermark{Epoch: m.d.conf.Epoch, Position: at[s]}, Revision: m.revision[s],
			})
		}
	}
	if len(puts) == 0 {
		return
	}
	for i, r := range m.d.conf.Store.Watermarks.PutAll(ctx, puts) {
		s := shards[i]
		switch {
		case r.Err == nil:
			m.stored[s], m.revision[s] = at[s], r.Seq
		case errors.Is(r.Err, store.ErrConflict):
			m.adopt(ctx, s, puts[i].Key)
		default:
			m.d.complain(puts[i].Key, r.Err)
		}
	}
}

// adopt reads a watermark back that was not where it should be; the next round writes over it, unless a successor wrote it: then its
// callbacks' documents will say so too.
func (m *watermarks) adopt(ctx context.Context, s int, key string) {
	w, rev, err := m.d.conf.Store.Watermarks.Get(ctx, key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		m.revision[s] = 0
	case err != nil:
		m.d.complain(key, err)
	case w.Epoch <= m.d.conf.Epoch:
		m.revision[s], m.stored[s] = rev, w.Position
	}
}

// positions answers for each shard with callbacks the highest position its watermark may take.
func (m *watermarks) positions() (at [relay.Shards]uint64, present [relay.Shards]bool) {
	read := m.d.feed.pos.Load() // before any callback is looked at
	for _, c := range m.d.list() {
		if !present[c.shard] {
			present[c.shard], at[c.shard] = true, read
		}
		if p, holds := c.holdsAt(read); holds {
			at[c.shard] = min(at[c.shard], p)
		}
	}
	for s := range at { // what is stored can only be lowered by a clamp, which is written at once
		at[s] = max(at[s], m.stored[s])
	}
	return at, present
}

// holdsAt answers up to where everything of the callback is settled or in a lane, stored as such, and whether the watermark has
// to respect that.
func (c *callback) holdsAt(read uint64) (uint64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.holds || c.fenced {
		return 0, false
	}
	if c.attached && len(c.records) == 0 && !c.cur.Dirty() {
		c.cur.Advance(read)
		c.durable = max(c.durable, c.cur.Position())
	}
	if read > c.durable+c.d.maxLag() && !c.lagging {
		c.lagging = true
		c.d.flush.mark(c)
	}
	return c.durable, true
}

// sweep drops pages that nobody has used for a while.
func (d *Dispatcher) sweep(now time.Time) {
	for _, c := range d.list() {
		c.mu.Lock()
		if len(c.page) > 0 && !c.filling && now.Sub(c.pageAt) > pageIdle {
			c.page, c.pageThrough = nil, 0
		}
		c.mu.Unlock()
	}
}
