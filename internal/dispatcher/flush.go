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
	// maxBatch bounds the records of one batch of attempts, which is one message.
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

// forget takes out a callback that is given up.
func (f *flusher) forget(c *callback) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.dirty, c)
	delete(f.urgent, c)
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
				f.d.writeWatermarks(ctx)
			}
		}
	}
}

// do runs a request between two rounds and waits for it; it is not run any more once ctx has ended.
func (f *flusher) do(ctx context.Context, request func(context.Context)) {
	done := make(chan struct{})
	select {
	case f.requests <- func(ctx context.Context) { defer close(done); request(ctx) }:
		<-done
	case <-ctx.Done():
	}
}

// work is what one round stores of one callback. Records and changes are taken at one moment: an attempt's record is
// stored before the cursor that counts it, or with it.
type work struct {
	c       *callback
	records []relay.AttemptRecord
	changes cursor.Changes
	failed  bool   // leave the rest for the next round
	fenced  uint64 // 0, or the epoch of a successor that has written: this replica must not

	adopting bool // it is being taken on: on a conflict it is loaded again
	conflict bool
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
	if c.fenced || c.adopting {
		return nil
	}
	if !c.t.lease.Valid() { // what is to be stored is kept until the lease is clear, or lost
		c.d.flush.mark(c)
		return nil
	}
	n := batch(c.records, c.d.conf.Store.MaxDocument())
	w := &work{c: c, records: c.records[:n:n]}
	c.carry()
	if len(w.records) == len(c.records) {
		w.changes = c.cur.Changes()
	}
	if len(w.records) == 0 && w.changes.Empty() {
		return nil
	}
	return w
}

// batch returns how many of the records go into one message of at most most bytes: at least one.
func batch(records []relay.AttemptRecord, most int) int {
	const envelope, besides = 1 << 10, 320 // of a batch, and of a record: names, numbers and times
	n, size := 0, envelope
	for ; n < min(len(records), maxBatch); n++ {
		r := &records[n]
		size += besides + 2*(len(r.Event)+len(r.Order)+len(r.Outcome)+len(r.Error)+len(r.Excerpt)+len(r.Reason)) // escaped
		if size > most && n > 0 {
			break
		}
	}
	return n
}

// carry sets what the document says beside where the cursor stands. mu is held.
func (c *callback) carry() {
	carried := c.cur.Carried()
	behind := !c.attached && !c.riding || c.lagging
	if c.left {
		behind = carried.Behind // being given up is not falling behind
	}
	if carried.Behind && c.attached {
		// The document may leave the watermark's exceptions only once its own position is beyond it: until then the
		// watermark does not speak for what lies between.
		read := c.d.feed.pos.Load()
		c.cur.Advance(read)
		at := c.cur.Position()
		behind = at < c.t.mark.highest() || c.lagging && at+c.d.maxLag()/2 < read
		if c.lagging = c.lagging && behind; behind {
			c.d.flush.mark(c) // look again in the next round
		}
	}
	if carried.Behind == behind && !c.cur.Dirty() {
		return
	}
	carried.Behind = behind
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
	case w.fenced > 0:
		c.fenced, c.stopped = true, true
		c.t.supersede(c.log, w.fenced)
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
	if w.adopting {
		w.conflict = true
		return
	}
	epoch, revision, err := present(ctx)
	switch {
	case errors.Is(err, store.ErrNotFound):
		adopt(0)
	case err != nil:
		w.c.d.complain(what, err)
	case epoch > w.c.t.lease.Epoch():
		w.fenced = epoch
	default:
		adopt(revision)
	}
}

func (f *flusher) lanes(ctx context.Context, works []*work) {
	var puts []store.Put[cursor.Lane]
	var of []*work
	for _, w := range works {
		w.failed = w.failed || !w.c.t.lease.Valid() // the round may have taken long
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

// erase removes lanes that are through, each at the revision that is known: a later owner's is left alone.
func (f *flusher) erase(ctx context.Context, works []*work) {
	var removals []store.Removal
	var orders []string
	var of []*work
	for _, w := range works {
		if w.failed {
			continue
		}
		for _, order := range w.changes.Remove {
			if w.c.laneRevs[order] == 0 && !f.known(ctx, w, order) {
				continue
			}
			removals = append(removals, store.Removal{Key: laneKey(w.c.id, order), Revision: w.c.laneRevs[order]})
			orders, of = append(orders, order), append(of, w)
		}
	}
	if len(removals) == 0 {
		return
	}
	lanes := f.d.conf.Store.Lanes
	for i, r := range lanes.Remove(ctx, removals) {
		w, order := of[i], orders[i]
		if r.Err == nil {
			delete(w.c.laneRevs, order)
			continue
		}
		w.trouble(ctx, removals[i].Key, r.Err, func(ctx context.Context) (uint64, uint64, error) {
			l, rev, err := lanes.Get(ctx, removals[i].Key)
			return l.Epoch, rev, err
		}, func(rev uint64) { w.c.laneRevs[order] = rev })
	}
}

// known finds out whether and at which revision a lane is that may have been stored, as its write was answered unclearly.
func (f *flusher) known(ctx context.Context, w *work, order string) bool {
	l, rev, err := f.d.conf.Store.Lanes.Get(ctx, laneKey(w.c.id, order))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return false
	case err != nil:
		w.failed = true
		f.d.complain("lanes", err)
		return false
	case l.Epoch > w.c.t.lease.Epoch():
		w.failed, w.fenced = true, l.Epoch
		return false
	}
	w.c.laneRevs[order] = rev
	return true
}

func laneKey(callback, order string) string {
	return store.LaneKey(store.CallbackCursor(callback), order)
}
