package dispatcher

// watermark is the position up to which the quiet callbacks of a shard need no document of their own: a callback
// whose document does not say behind is loaded at the higher of document and watermark. A new owner writes it under
// its own epoch before it writes any document: from then on a former owner cannot move it, whatever it has stopped
// knowing of its callbacks.
type watermark struct {
	epoch    uint64
	touched  bool   // it is written under this owner's epoch
	base     uint64 // where it stood then; what is loaded later goes by this, not by how it has moved since
	revision uint64
	stored   uint64
	tried    uint64 // the highest position that may have been stored
}

// maxLag is how far one callback may hold up its shard's watermark before its document means that the watermark does
// not speak for it: a tenth of what is read at most for the callbacks of a shard that arrives.
func (c *core) maxLag() uint64 { return c.conf.Lookback / 10 }

// raise returns where the watermark must be stored, 0 if it has not moved or something keeps it where it is:
// callbacks that are being loaded, above all.
func (c *core) raise() uint64 {
	mark := &c.keeping.mark
	if !mark.touched || !c.arriving.listed || c.arriving.loading || len(c.arriving.missing) > 0 || len(c.callbacks) == 0 || c.keeping.superseded || !c.valid {
		return 0
	}
	at := c.lowestHolder(c.shared.pos)
	if at <= mark.stored {
		return 0
	}
	mark.tried = max(mark.tried, at)
	return at
}

// sweep has the watermark moved, and forgets pages that nobody has used for a while.
func (c *core) sweep() {
	c.keeping.markDue = true
	for _, cb := range c.callbacks {
		c.dropPage(cb)
	}
}

// lowestHolder is up to where everything of the callbacks that the watermark speaks for is settled or in a lane, and
// stored as such; at most read, up to where the shared reader's events have been offered.
func (c *core) lowestHolder(read uint64) uint64 {
	lowest := read
	for _, cb := range c.callbacks {
		s := &cb.storing
		if !s.holds {
			continue
		}
		if cb.reading.source == readsShared && len(s.records) == 0 && !cb.cur.Dirty() {
			cb.cur.Advance(read)
			s.durable = max(s.durable, cb.cur.Position())
		}
		if read > s.durable+c.maxLag() && !s.lagging && cb.reading.source != readsTogether {
			s.lagging = true
			c.markUnstored(cb)
		}
		lowest = min(lowest, s.durable)
	}
	return lowest
}
