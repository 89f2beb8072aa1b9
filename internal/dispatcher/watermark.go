package dispatcher

// maxLag is how far one callback may keep its shard's watermark back. Then its document must be marked behind. It
// is a tenth of Lookback, so that what is above the watermark can be read together.
func (c *core) maxLag() uint64 { return c.conf.Lookback / 10 }

// watermarkTarget returns the new position of the watermark. It returns 0 if the watermark must stay where it is: it
// has not moved, callbacks must still be loaded, or another replica may own the shard.
func (c *core) watermarkTarget() uint64 {
	mark := &c.toStore.mark
	loaded := c.toLoad.listed && !c.toLoad.loading && len(c.toLoad.missing) == 0 && len(c.callbacks) > 0
	if !mark.Adopted || !loaded || c.toStore.superseded || !c.valid {
		return 0
	}
	at := c.lowestCovered(c.shared.pos)
	if at <= mark.Stored {
		return 0
	}
	mark.Highest = max(mark.Highest, at)
	return at
}

// sweep has the next round move the watermark, and drops pages that have not been used for a while.
func (c *core) sweep() {
	c.toStore.markDue = true
	for _, cb := range c.callbacks {
		if r := &cb.reading; len(r.page) > 0 && !r.fetching && c.now.Sub(r.pageAt) > pageIdle {
			r.page, r.pageThrough = nil, 0
		}
	}
}

// lowestCovered returns the lowest storedThrough of the callbacks that the watermark covers. It is at most read, the
// position up to which the shared reader's events have been offered.
func (c *core) lowestCovered(read uint64) uint64 {
	lowest := read
	for _, cb := range c.callbacks {
		s := &cb.storing
		if !s.covered {
			continue
		}
		if cb.reading.source == readsShared && len(s.records) == 0 && !cb.cur.Dirty() {
			cb.cur.Advance(read)
			s.storedThrough = max(s.storedThrough, cb.cur.Position())
		}
		if read > s.storedThrough+c.maxLag() && !s.holdsBack && cb.reading.source != readsCatchUp {
			s.holdsBack = true
			c.markUnstored(cb)
		}
		lowest = min(lowest, s.storedThrough)
	}
	return lowest
}
