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

const (
	// flushEvery is how often what has changed is stored while little does.
	flushEvery = 200 * time.Millisecond
	// documentPace stretches that: about a thousand cursor documents a second in all.
	documentPace = time.Millisecond
	// maxBatch bounds the records of one batch of attempts; at some 600 bytes each it stays far below the largest message.
	maxBatch = 4096
)

// flusher stores what has changed of all callbacks: in one goroutine, so that there is one round at a time.
type flusher struct {
	d        *Dispatcher
	requests chan func(context.Context)
	kick     chan struct{}

	mu     sync.Mutex
	dirty  map[*callback]struct{}
	urgent map[*callback]struct{}
}

func newFlusher(d *Dispatcher) *flusher {
	return &flusher{
		d: d, requests: make(chan func(context.Context)), kick: make(chan struct{}, 1),
		dirty: map[*callback]struct{}{}, urgent: map[*callback]struct{}{},
	}
}

// mark says that the callback has something to store. Its mu is held.
func (f *flusher) mark(c *callback) {
	if c.listed {
		return
	}
	c.listed = true
	f.mu.Lock()
	f.dirty[c] = struct{}{}
	f.mu.Unlock()
}

// hurry says that the callback has so much to store that it should not wait for the next round.
func (f *flusher) hurry(c *callback) {
	f.mu.Lock()
	f.urgent[c] = struct{}{}
	f.mu.Unlock()
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// list takes the callbacks out that the next round is about.
func (f *flusher) list(urgent bool) []*callback {
	f.mu.Lock()
	defer f.mu.Unlock()
	from := f.dirty
	if urgent {
		from = f.urgent
	}
	list := make([]*callback, 0, len(from))
	for c := range from {
		list = append(list, c)
	}
	for _, c := range list {
		delete(f.dirty, c)
		delete(f.urgent, c)
	}
	return list
}

// run stores until stop is closed; ctx is of the writes and outlives it.
func (f *flusher) run(ctx context.Context, stop <-chan struct{}) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	var notBefore time.Time
	swept := time.Now()
	for {
		select {
		case <-stop:
			return
		case request := <-f.requests:
			request(ctx)
		case <-f.kick:
			f.round(ctx, f.list(true))
		case now := <-tick.C:
			if now.Before(notBefore) {
				continue
			}
			list := f.list(false)
			f.round(ctx, list)
			notBefore = now.Add(time.Duration(len(list)) * documentPace)
			if now.Sub(swept) >= time.Second {
				swept = now
				f.d.sweep(now)
				f.d.marks.write(ctx)
			}
		}
	}
}

// do runs a request between two rounds and waits for it; false if the flusher has stopped.
func (f *flusher) do(ctx context.Context, request func(context.Context)) bool {
	done := make(chan struct{})
	select {
	case f.requests <- func(ctx context.Context) { defer close(done); request(ctx) }:
		<-done
		return true
	case <-ctx.Done():
		return false
	}
}

// work is what one round stores of one callback. Records and changes are taken at one moment: an attempt's record is
// stored before the cursor that counts it, or with it.
type work struct {
	c       *callback
	records []relay.AttemptRecord
	changes cursor.Changes
	failed  bool // leave the rest for the next round
	fenced  bool // a successor has written: this replica must not
}

// round stores everything of the callbacks listed: attempts, lanes, documents, removals, in this order.
func (f *flusher) round(ctx context.Context, list []*callback) {
	works := make([]*work, 0, len(list))
	for _, c := range list {
		if w := c.capture(); w != nil {
			works = append(works, w)
		}
	}
	if len(works) == 0 {
		return
	}
	f.attempts(ctx, works)
	f.lanes(ctx, works)
	f.documents(ctx, works)
	f.erase(ctx, works)
	for _, w := range works {
		w.c.stored(w)
	}
}

// capture takes what is to be stored now, nil if there is nothing.
func (c *callback) capture() *work {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listed = false
	if c.fenced {
		return nil
	}
	w := &work{c: c, records: c.records[:min(len(c.records), maxBatch):min(len(c.records), maxBatch)]}
	c.carry()
	if len(w.records) == len(c.records) {
		w.changes = c.cur.Changes()
	}
	if len(w.records) == 0 && w.changes.Empty() {
		return nil
	}
	return w
}

// carry sets what the document says beside where the cursor stands. mu is held.
func (c *callback) carry() {
	carried := c.cur.Carried()
	behind := !c.attached || c.lagging
	if carried.Behind && c.attached {
		// The document may leave the watermark's exceptions only once its own position is beyond it: until then the
		// watermark does not speak for what lies between.
		read := c.d.feed.pos.Load()
		c.cur.Advance(read)
		at := c.cur.Position()
		behind = at < c.d.marks.highest(c.shard) || c.lagging && at+c.d.maxLag()/2 < read
		if c.lagging = c.lagging && behind; behind {
			c.d.flush.mark(c) // look again in the next round
		}
	}
	if carried.Behind == behind && !c.cur.Dirty() {
		return
	}
	carried.Behind, carried.Epoch, carried.Generation = behind, c.d.conf.Epoch, c.gen
	c.cur.SetCarried(carried)
	if !behind {
		c.holds = true // from the moment this may be stored
	}
}

// stored ends a round for the callback.
func (c *callback) stored(w *work) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case w.fenced:
		c.fenced, c.stopped = true, true
		c.log.Warn("another replica delivers to this callback now; this one has stopped")
		return
	case w.failed:
		c.d.flush.mark(c)
		return
	}
	c.cur.Stored(w.changes)
	if d := w.changes.Document; d != nil {
		c.durable = max(c.durable, d.Position)
		c.holds = !d.Behind
	}
	if len(c.records) > 0 || c.cur.Dirty() {
		c.d.flush.mark(c)
	}
	c.blocked = false
	if !c.stopped {
		c.pump(time.Now()) // it may have waited for room in its records or lanes
	}
}

// trouble decides what a failed write means: on a conflict the present document is read back. A document of an
// epoch not above ours is our own earlier write, or a predecessor's: its revision is adopted and the next round writes over it.
func (w *work) trouble(ctx context.Context, what string, err error, present func(context.Context) (epoch, revision uint64, err error), adopt func(revision uint64)) {
	w.failed = true
	if !errors.Is(err, store.ErrConflict) {
		w.c.d.complain(what, err)
		return
	}
	epoch, revision, err := present(ctx)
	switch {
	case errors.Is(err, store.ErrNotFound):
		adopt(0)
	case err != nil:
		w.c.d.complain(what, err)
	case epoch > w.c.d.conf.Epoch:
		w.fenced = true
	default:
		adopt(revision)
	}
}

func (f *flusher) lanes(ctx context.Context, works []*work) {
	var puts []store.Put[cursor.Lane]
	var of []*work
	for _, w := range works {
		if w.failed {
			continue
		}
		for _, l := range w.changes.Lanes {
			puts = append(puts, store.Put[cursor.Lane]{Key: laneKey(w.c.id, l.Order), Value: l, Revision: w.c.laneRevs[l.Order]})
			of = append(of, w)
		}
	}
	if len(puts) == 0 {
		return
	}
	lanes := f.d.conf.Store.Lanes
	for i, r := range lanes.PutAll(ctx, puts) {
		w, key, order := of[i], puts[i].Key, puts[i].Value.Order
		adopt := func(rev uint64) { w.c.laneRevs[order] = rev }
		if r.Err == nil {
			adopt(r.Seq)
			continue
		}
		w.trouble(ctx, key, r.Err, func(ctx context.Context) (uint64, uint64, error) {
			l, rev, err := lanes.Get(ctx, key)
			return l.Epoch, rev, err
		}, adopt)
	}
}

func (f *flusher) documents(ctx context.Context, works []*work) {
	var puts []store.Put[cursor.Document]
	var of []*work
	for _, w := range works {
		if !w.failed && w.changes.Document != nil {
			puts = append(puts, store.Put[cursor.Document]{Key: store.CallbackCursor(w.c.id), Value: *w.changes.Document, Revision: w.c.revision})
			of = append(of, w)
		}
	}
	if len(puts) == 0 {
		return
	}
	cursors := f.d.conf.Store.Cursors
	for i, r := range cursors.PutAll(ctx, puts) {
		w, key := of[i], puts[i].Key
		adopt := func(rev uint64) { w.c.revision = rev }
		if r.Err == nil {
			adopt(r.Seq)
			continue
		}
		w.trouble(ctx, key, r.Err, func(ctx context.Context) (uint64, uint64, error) {
			d, rev, err := cursors.Get(ctx, key)
			return d.Epoch, rev, err
		}, adopt)
	}
}

func (f *flusher) erase(ctx context.Context, works []*work) {
	var keys, orders []string
	var of []*work
	for _, w := range works {
		if w.failed {
			continue
		}
		for _, order := range w.changes.Remove {
			keys, orders, of = append(keys, laneKey(w.c.id, order)), append(orders, order), append(of, w)
		}
	}
	if len(keys) == 0 {
		return
	}
	for i, r := range f.d.conf.Store.Lanes.RemoveAll(ctx, keys) {
		if r.Err != nil {
			of[i].failed = true
			f.d.complain("lanes", r.Err)
			continue
		}
		delete(of[i].c.laneRevs, orders[i])
	}
}

func laneKey(callback, order string) string { return store.CallbackCursor(callback) + "." + order }
