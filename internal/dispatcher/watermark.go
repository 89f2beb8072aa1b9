package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/store"
)

// maxLag is how far one callback may hold up its shard's watermark before its document says that the watermark does not speak
// for it: a tenth of what is read at most for the callbacks of a shard that arrives.
func (d *Dispatcher) maxLag() uint64 { return d.conf.Lookback / 10 }

// watermark is the position up to which the quiet callbacks of a shard need no document of their own: a callback whose document does
// not say behind is loaded at the higher of document and watermark. A new owner writes it under its own epoch before it writes any document:
// from then on a former owner cannot move it, whatever it has stopped knowing of its callbacks.
type watermark struct {
	base     uint64 // where it stood when the shard was taken on; what is loaded later goes by this, not by how it has moved since
	revision uint64
	stored   uint64

	mu      sync.Mutex
	touched bool   // it is written under this tenure's epoch
	held    bool   // callbacks are being loaded: it does not move
	tried   uint64 // the highest position that may have been stored
}

// highest answers the highest position that may have been stored.
func (m *watermark) highest() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tried
}

// hold keeps the watermark where it is, or lets it go again.
func (m *watermark) hold(held bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = held
}

// raise answers whether the watermark may be stored at a position, and notes that it may have been.
func (m *watermark) raise(at uint64, ending bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.touched || m.held && !ending || at <= m.stored {
		return false
	}
	m.tried = max(m.tried, at)
	return true
}

// writeWatermarks stores the watermarks that have moved.
func (d *Dispatcher) writeWatermarks(ctx context.Context) {
	at := d.positions()
	moved := make([]*tenure, 0, len(at))
	for t, p := range at {
		if t.mayStore() && t.mark.raise(p, false) {
			moved = append(moved, t)
		}
	}
	d.storeWatermarks(ctx, moved, at)
}

func (d *Dispatcher) storeWatermarks(ctx context.Context, moved []*tenure, at map[*tenure]uint64) {
	if len(moved) == 0 {
		return
	}
	puts := make([]store.Put[store.Watermark], len(moved))
	for i, t := range moved {
		puts[i] = t.mark.put(t, at[t])
	}
	results := d.conf.Store.Watermarks.PutAll(ctx, puts)
	for i, t := range moved {
		switch err := results[i].Err; {
		case err == nil:
			t.mark.stored, t.mark.revision = puts[i].Value.Position, results[i].Seq
		case errors.Is(err, store.ErrConflict):
			t.readBackWatermark(ctx, puts[i].Key)
		default:
			d.complain(puts[i].Key, err)
		}
	}
}

func (m *watermark) put(t *tenure, at uint64) store.Put[store.Watermark] {
	return store.Put[store.Watermark]{
		Key: store.WatermarkKey(t.shard, "events"), Value: store.Watermark{Epoch: t.lease.Epoch(), Position: at}, Revision: m.revision,
	}
}

// mayStore reports whether the tenure's documents are still this replica's to write.
func (t *tenure) mayStore() bool { return !t.superseded.Load() && t.lease.Valid() }

// readBackWatermark reads a watermark that was not where it should be: one's own write is adopted, the next round writes over one of a
// lower epoch, and one of a higher is left alone.
func (t *tenure) readBackWatermark(ctx context.Context, key string) {
	w, rev, err := t.d.conf.Store.Watermarks.Get(ctx, key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		t.mark.revision = 0
	case err != nil:
		t.d.complain(key, err)
	case w.Epoch > t.lease.Epoch():
		t.supersede(t.d.conf.Log, w.Epoch)
	default:
		t.mark.revision = rev
		if w.Epoch == t.lease.Epoch() {
			t.mark.stored = w.Position
		}
	}
}

// positions answers for each shard with callbacks the highest position its watermark may take.
func (d *Dispatcher) positions() map[*tenure]uint64 {
	read := d.feed.pos.Load() // before any callback is looked at
	at := map[*tenure]uint64{}
	for _, c := range d.list() {
		if c.t.ending.Load() {
			continue
		}
		if _, present := at[c.t]; !present {
			at[c.t] = read
		}
		if p, holds := c.holdsAt(read); holds {
			at[c.t] = min(at[c.t], p)
		}
	}
	return at
}

// holdsAt answers up to where everything of the callback is settled or in a lane, stored as such, and whether the watermark has
// to respect that.
func (c *callback) holdsAt(read uint64) (uint64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.holds {
		return 0, false
	}
	if c.attached && len(c.records) == 0 && !c.cur.Dirty() {
		c.cur.Advance(read)
		c.durable = max(c.durable, c.cur.Position())
	}
	if read > c.durable+c.d.maxLag() && !c.lagging && !c.adopting && !c.riding {
		c.lagging = true
		c.d.flush.mark(c)
	}
	return c.durable, true
}

// lastWatermark stores how far the callbacks given up have come.
func (t *tenure) lastWatermark(ctx context.Context, mine []*callback) {
	var at uint64
	for _, c := range mine {
		c.mu.Lock()
		if c.adopting { // not all is loaded: what is not is where the watermark stands
			c.mu.Unlock()
			return
		}
		if c.holds && (at == 0 || c.durable < at) {
			at = c.durable
		}
		c.mu.Unlock()
	}
	t.d.settings.mu.Lock()
	missing := !t.listed || len(t.missing) > 0
	t.d.settings.mu.Unlock()
	if !missing && t.mayStore() && t.mark.raise(at, true) {
		t.d.storeWatermarks(ctx, []*tenure{t}, map[*tenure]uint64{t: at})
	}
}

// touchWatermarks writes the watermarks of tenures under their epochs, where that has not been done, and says where they stand. The
// callbacks' documents have been read before: a document that has not been written since is spoken for by what is read here. Where a
// watermark stands beyond last it is taken back. What could not be written is left untouched.
func (d *Dispatcher) touchWatermarks(ctx context.Context, tenures []*tenure, bounds func(ctx context.Context, highest uint64) (last uint64, err error)) (clamped []string, err error) {
	var todo []*tenure
	for _, t := range tenures {
		if !t.mark.touched { // only set here
			todo = append(todo, t)
		}
	}
	for try := 0; len(todo) > 0 && try < adoptTries; try++ {
		wait(ctx, time.Duration(try)*10*time.Millisecond) // a read may be answered by a node of the store that lags
		var puts []store.Put[store.Watermark]
		var of []*tenure
		var highest uint64
		for _, t := range todo {
			key := store.WatermarkKey(t.shard, "events")
			w, rev, err := d.conf.Store.Watermarks.Get(ctx, key)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return nil, fmt.Errorf("read %s: %w", key, err)
			}
			if w.Epoch > t.lease.Epoch() {
				t.supersede(d.conf.Log, w.Epoch)
				continue
			}
			t.mark.base, t.mark.revision = w.Position, rev
			highest = max(highest, w.Position)
			of = append(of, t)
		}
		last, err := bounds(ctx, highest)
		if err != nil {
			return nil, err
		}
		for _, t := range of {
			if t.mark.base > last {
				clamped = append(clamped, store.WatermarkKey(t.shard, "events"))
				t.mark.base = last
			}
			puts = append(puts, t.mark.put(t, t.mark.base))
		}
		todo = todo[:0]
		for i, r := range d.conf.Store.Watermarks.PutAll(ctx, puts) {
			m := &of[i].mark
			switch {
			case r.Err == nil:
				m.revision, m.stored = r.Seq, m.base
				m.mu.Lock()
				m.touched, m.tried = true, m.base
				m.mu.Unlock()
			case errors.Is(r.Err, store.ErrConflict), errors.Is(r.Err, store.ErrUnclear):
				todo = append(todo, of[i])
			default:
				return nil, r.Err
			}
		}
	}
	return clamped, nil
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
