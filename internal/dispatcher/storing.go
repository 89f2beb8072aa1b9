package dispatcher

import (
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
)

const (
	// sweepEvery is how often the watermark is moved.
	sweepEvery = time.Second
	// lastRounds is how many rounds are made at most when a shard is given up.
	lastRounds = 3
)

// toStore is what of a shard has to be stored, and when.
type toStore struct {
	unstored   map[*callback]struct{} // something has changed
	urgent     map[*callback]struct{} // so much that it should not wait for the next round
	flushAt    time.Time              // of the next round; zero if nothing is unstored
	sweepAt    time.Time
	mark       cursorstore.Watermark
	markDue    bool // it is time to move the watermark
	storing    bool // a round is under way: there is one at a time
	superseded bool // a later owner's document was found
}

// round is what is stored together. It belongs to the loop's goroutine for storing until that hands it back.
type round struct {
	works      []*work
	mark       cursorstore.Watermark
	raise      uint64 // where the watermark must be stored; 0: it has not moved
	laterEpoch uint64 // 0, or the epoch of a later owner who has written
}

// work is what a round stores of one callback. Records and changes are taken in one step: an attempt's record is
// stored before the cursor that counts it.
type work struct {
	cb      *callback
	stored  *storedState
	records []relay.AttemptRecord
	changes cursor.Changes
	awaited []chan struct{} // closed once it is stored

	recorded int    // how many of the records are stored
	failed   bool   // the rest comes with the next round
	fenced   uint64 // 0, or the epoch of a later owner who has written: this one must not
}

// storedState is what the store has of one callback. The round under way uses it, and nobody else.
type storedState struct {
	cursor   *cursorstore.Handle
	recorder *delivery.Recorder
}

// markUnstored notes that there is something of a callback to store.
func (c *core) markUnstored(cb *callback) {
	if cb.phase >= retiring {
		return
	}
	k := &c.toStore
	k.unstored[cb] = struct{}{}
	if k.flushAt.IsZero() {
		k.flushAt = c.pacer.After(c.now)
	}
}

func (c *core) markChanged(cb *callback) {
	if n := len(cb.storing.records); n > 0 || cb.cur.Dirty() {
		c.markUnstored(cb)
		if n >= window(cb.target.Callback) && cb.phase < retiring {
			c.toStore.urgent[cb] = struct{}{}
		}
	}
}

// storeNext begins the next round if it is time and none is under way. The last ones begin once nothing is under way.
func (c *core) storeNext() {
	k := &c.toStore
	switch {
	case k.storing:
	case c.ending.begun:
		if c.underWay == 0 && !c.ending.marked {
			c.storeLast()
		}
	case len(k.urgent) > 0:
		c.beginRound(k.urgent, k.markDue)
		clear(k.urgent)
	case !k.flushAt.IsZero() && !k.flushAt.After(c.now):
		k.flushAt = time.Time{}
		unstored := k.unstored
		k.unstored = map[*callback]struct{}{}
		clear(k.urgent)
		c.beginRound(unstored, k.markDue)
	case k.markDue:
		c.beginRound(nil, true)
	}
}

// storeLast stores what the last attempts came to, in a few rounds, and then the watermark: nothing is left to repeat.
func (c *core) storeLast() {
	for c.ending.rounds < lastRounds && !c.toStore.storing {
		c.ending.rounds++
		unstored := map[*callback]struct{}{}
		for _, cb := range c.callbacks {
			if len(cb.storing.records) > 0 || cb.cur.Dirty() {
				unstored[cb] = struct{}{}
			}
		}
		c.beginRound(unstored, false)
	}
	if !c.toStore.storing {
		c.ending.marked = true
		c.beginRound(nil, true)
	}
}

// beginRound begins a round with what there is to store of callbacks, and the watermark if that is due and has moved.
func (c *core) beginRound(list map[*callback]struct{}, mark bool) {
	r := &round{}
	for cb := range list {
		if w := c.capture(cb); w != nil {
			r.works = append(r.works, w)
			c.began(cb)
		}
	}
	if mark {
		c.toStore.markDue = false
		r.raise = c.raise()
	}
	if len(r.works) == 0 && r.raise == 0 {
		return
	}
	c.pacer.Stored(len(r.works), c.now)
	c.toStore.storing = true
	c.underWay++
	r.mark = c.toStore.mark
	c.out.round = r
}

// capture takes what must be stored of a callback now, nil if there is nothing.
func (c *core) capture(cb *callback) *work {
	delete(c.toStore.unstored, cb)
	if cb.phase >= retiring {
		return nil
	}
	if !c.valid { // what must be stored is kept until the lease is clear, or lost
		c.markUnstored(cb)
		return nil
	}
	s := &cb.storing
	n := delivery.Batch(s.records, c.batch)
	w := &work{cb: cb, stored: &s.stored, records: s.records[:n:n]}
	c.carry(cb)
	if n == len(s.records) {
		w.changes, w.awaited, s.awaited = cb.cur.Changes(), s.awaited, nil
	}
	if n == 0 && w.changes.Empty() {
		return nil
	}
	return w
}

// carry sets what the document says beside where the cursor stands: whether the watermark counts for the callback.
func (c *core) carry(cb *callback) {
	s, carried := &cb.storing, cb.cur.Carried()
	behind := cb.reading.source == readsItself || s.tooFar
	if carried.Behind && cb.reading.source == readsShared {
		// The document may leave the watermark's exceptions only once its own position is beyond it: until then the
		// watermark does not cover what lies between.
		cb.cur.Advance(c.shared.pos)
		at := cb.cur.Position()
		behind = at < c.toStore.mark.Highest || s.tooFar && at+c.maxLag()/2 < c.shared.pos
		if s.tooFar = s.tooFar && behind; behind {
			c.markUnstored(cb) // look again in the next round
		}
	}
	if carried.Behind == behind && !cb.cur.Dirty() {
		return
	}
	carried.Behind = behind
	cb.cur.SetCarried(carried)
	if !behind {
		s.covered = true // from the moment this may be stored
	}
}

// roundEnded takes what a round has come to.
func (c *core) roundEnded(r *round) {
	c.toStore.storing = false
	c.underWay--
	if r.raise > 0 {
		c.toStore.mark = r.mark
	}
	if r.laterEpoch > 0 {
		c.laterOwner(r.laterEpoch)
	}
	for _, w := range r.works {
		c.workEnded(w)
		c.over(w.cb)
	}
}

func (c *core) workEnded(w *work) {
	cb := w.cb
	s := &cb.storing
	if s.records = s.records[w.recorded:]; len(s.records) == 0 {
		s.records = nil
	}
	switch {
	case cb.phase >= retiring:
		return
	case w.fenced > 0:
		c.remove(cb, fenced)
		c.retiring[cb.id] = cb
		c.laterOwner(w.fenced)
		return
	case w.failed:
		s.awaited = append(s.awaited, w.awaited...)
		c.markUnstored(cb)
		return
	}
	for _, stored := range w.awaited {
		close(stored)
	}
	cb.cur.Stored(w.changes)
	if d := w.changes.Document; d != nil {
		s.durable = max(s.durable, d.Position)
		if s.covered = !d.Behind; d.Behind && cb.reading.source == readsShared {
			c.markUnstored(cb) // the next round looks whether the watermark may cover it again
		}
	}
	cb.reading.blocked = false
	c.pump(cb) // it may have waited for room in its records or lanes
}

// laterOwner notes that a document was found which an owner of a higher epoch has written.
func (c *core) laterOwner(epoch uint64) {
	c.toStore.superseded = true
	c.out.laterEpoch = epoch
}
