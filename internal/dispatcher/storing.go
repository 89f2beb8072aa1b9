package dispatcher

import (
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
)

const (
	// sweepEvery is how often the watermark is moved: the position stored for all callbacks that are not behind.
	sweepEvery = time.Second
	// lastRounds is the largest number of rounds when a shard is given up.
	lastRounds = 3
)

// toStore is what must be stored of a shard, and when.
type toStore struct {
	unstored   map[*callback]struct{} // callbacks that have changed
	urgent     map[*callback]struct{} // callbacks that should not wait for flushAt
	flushAt    time.Time              // when the next round begins; zero if nothing is unstored
	sweepAt    time.Time              // when the watermark is due
	mark       cursorstore.Watermark
	markDue    bool // the next round must move the watermark
	storing    bool // a round is under way; there is one at a time
	superseded bool // a document of a later owner was found
}

// round is what is stored together. While it is under way, it belongs to the goroutine that stores it.
type round struct {
	writes     []*callbackWrite
	mark       cursorstore.Watermark
	raiseTo    uint64 // the new position of the watermark; 0: it stays
	laterEpoch uint64 // the epoch of a later owner, who has written the watermark; 0: none was found
}

// callbackWrite is what a round stores of one callback. Its records and changes are of the same moment, and the records
// are stored first: so a stored cursor counts no attempt that is not recorded.
type callbackWrite struct {
	cb      *callback
	stored  *storedState
	records []relay.AttemptRecord
	changes cursor.Changes
	waiters []func() // called once this is stored

	recorded int    // how many of the records are stored
	failed   bool   // what was not stored comes with the next round
	fenced   uint64 // the epoch of a later owner, who has written the cursor; 0: none was found
}

// storedState is what the store has of one callback. Only the round under way uses it.
type storedState struct {
	cursor   *cursorstore.Handle
	recorder *delivery.Recorder
}

// markUnstored has a callback stored by the next round.
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

// markChanged has a callback stored if it has changed, and soon if many of its records wait.
func (c *core) markChanged(cb *callback) {
	if n := len(cb.storing.records); n > 0 || cb.cur.Dirty() {
		c.markUnstored(cb)
		if n >= window(cb.target.Callback) && cb.phase < retiring {
			c.toStore.urgent[cb] = struct{}{}
		}
	}
}

// storeNext begins the next round if it is due; when the shard is given up, once nothing else is under way.
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

// storeLast stores the outcomes of the last attempts, in a few rounds, and then the watermark.
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

// beginRound begins a round with the changes of callbacks, and with the watermark if that is wanted and has moved.
func (c *core) beginRound(list map[*callback]struct{}, mark bool) {
	r := &round{}
	for cb := range list {
		if w := c.capture(cb); w != nil {
			r.writes = append(r.writes, w)
			c.taskBegan(cb)
		}
	}
	if mark {
		c.toStore.markDue = false
		r.raiseTo = c.watermarkTarget()
	}
	if len(r.writes) == 0 && r.raiseTo == 0 {
		return
	}
	c.pacer.Stored(len(r.writes), c.now)
	c.toStore.storing = true
	c.underWay++
	r.mark = c.toStore.mark
	c.out.round = r
}

// capture returns what must be stored of a callback now, nil if there is nothing.
func (c *core) capture(cb *callback) *callbackWrite {
	delete(c.toStore.unstored, cb)
	if cb.phase >= retiring {
		return nil
	}
	if !c.valid { // it is kept until the lease is valid again, or lost
		c.markUnstored(cb)
		return nil
	}
	s := &cb.storing
	n := delivery.Batch(s.records, c.maxBatch)
	w := &callbackWrite{cb: cb, stored: &s.stored, records: s.records[:n:n]}
	c.updateBehind(cb)
	if n == len(s.records) {
		w.changes, w.waiters, s.waiters = cb.cur.Changes(), s.waiters, nil
	}
	if n == 0 && w.changes.Empty() {
		return nil
	}
	return w
}

// updateBehind sets in a callback's document whether the callback is behind. If not, the watermark counts for it.
func (c *core) updateBehind(cb *callback) {
	s, carried := &cb.storing, cb.cur.Carried()
	behind := cb.reading.source == readsItself || s.holdsBack
	if carried.Behind && cb.reading.source == readsShared {
		// The watermark may count for it again once it is no further than the callback: else events would be lost.
		cb.cur.Advance(c.shared.pos)
		at := cb.cur.Position()
		behind = at < c.toStore.mark.Highest || s.holdsBack && at+c.maxLag()/2 < c.shared.pos
		if s.holdsBack = s.holdsBack && behind; behind {
			c.markUnstored(cb) // the next round checks it again
		}
	}
	if carried.Behind == behind && !cb.cur.Dirty() {
		return
	}
	carried.Behind = behind
	cb.cur.SetCarried(carried)
	if !behind {
		s.covered = true // already now, as nobody knows when the document is stored
	}
}

// roundEnded takes the results of a round.
func (c *core) roundEnded(r *round) {
	c.toStore.storing = false
	c.underWay--
	if r.raiseTo > 0 {
		c.toStore.mark = r.mark
	}
	if r.laterEpoch > 0 {
		c.laterOwner(r.laterEpoch)
	}
	for _, w := range r.writes {
		c.writeEnded(w)
		c.taskEnded(w.cb)
	}
}

// writeEnded takes the result for one callback.
func (c *core) writeEnded(w *callbackWrite) {
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
		s.waiters = append(s.waiters, w.waiters...)
		c.markUnstored(cb)
		return
	}
	for _, stored := range w.waiters {
		stored()
	}
	cb.cur.Stored(w.changes)
	if d := w.changes.Document; d != nil {
		s.storedThrough = max(s.storedThrough, d.Position)
		if s.covered = !d.Behind; d.Behind && cb.reading.source == readsShared {
			c.markUnstored(cb) // the next round checks whether the watermark may cover it again
		}
	}
	cb.reading.blocked = false
	c.startAttempts(cb) // they may have waited for room in its records or lanes
}

// laterOwner reports to the loop that a document was found that an owner with a higher epoch has written.
func (c *core) laterOwner(epoch uint64) {
	c.toStore.superseded = true
	c.out.laterEpoch = epoch
}
