package dispatcher

// maxLag is how far one callback may keep its shard's watermark back before its document says that the watermark does
// not cover it: a tenth of what is read at most for the callbacks of a shard that arrives.
func (c *core) maxLag() uint64 { return c.conf.Lookback / 10 }

// raise returns where the watermark must be stored, 0 if it has not moved or something keeps it where it is:
// callbacks that are being loaded, above all.
func (c *core) raise() uint64 {
	mark := &c.toStore.mark
	if !mark.Adopted || !c.arriving.listed || c.arriving.loading || len(c.arriving.missing) > 0 || len(c.callbacks) == 0 || c.toStore.superseded || !c.valid {
		return 0
	}
	at := c.lowestCovered(c.shared.pos)
	if at <= mark.Stored {
		return 0
	}
	mark.Highest = max(mark.Highest, at)
	return at
}

// sweep has the watermark moved, and forgets pages that nobody has used for a while.
func (c *core) sweep() {
	c.toStore.markDue = true
	for _, cb := range c.callbacks {
		if r := &cb.reading; len(r.page) > 0 && !r.fetching && c.now.Sub(r.pageAt) > pageIdle {
			r.page, r.pageThrough = nil, 0
		}
	}
}

// lowestCovered is up to where everything of the callbacks that the watermark covers is settled or in a lane, and
// stored as such; at most read, up to where the shared reader's events have been offered.
func (c *core) lowestCovered(read uint64) uint64 {
	lowest := read
	for _, cb := range c.callbacks {
		s := &cb.storing
		if !s.covered {
			continue
		}
		if cb.reading.source == readsShared && len(s.records) == 0 && !cb.cur.Dirty() {
			cb.cur.Advance(read)
			s.durable = max(s.durable, cb.cur.Position())
		}
		if read > s.durable+c.maxLag() && !s.tooFar && cb.reading.source != readsCatchUp {
			s.tooFar = true
			c.markUnstored(cb)
		}
		lowest = min(lowest, s.durable)
	}
	return lowest
}
