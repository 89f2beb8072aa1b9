// Package cursor says where a reader of an append-only log stands, and what it may do next.
//
// It is the core both the dispatcher (events → a callback) and the resolver (inbox → orders) stand on: pure data and
// rules. It has no goroutine, no lock, no clock and no I/O; one goroutine owns a Cursor, or a mutex around it.
//
// # The life of an entry
//
// The reader offers entries in ascending order of Seq, with gaps where an entry is not its own. An entry *waits*, is
// taken (*in flight*) and is *settled* once: delivered, failed, skipped or expired is the caller's word for it.
//
//   - Per order, in order: nothing of an order is taken while something earlier of it is unsettled. Different orders go
//     in parallel, up to Policy.Concurrency.
//   - The position is the highest number at or below which everything is settled or in a lane. Concurrency makes holes
//     above it; the stored Document says what is done above the position as ranges.
//   - A failure puts the order in a *lane*, a small record of its own (Lane) with the entries that wait, up to
//     LaneEntries of them and then "from OpenFrom on, everything of this order". The position passes lanes, so that
//     the state is proportional to what is wrong and not to what waits.
//   - The retry time belongs to the lane: when its head has failed for good, each follower gets one attempt, until one
//     succeeds. Then attempts begin anew. A lane with nothing left disappears.
//   - A receiver that fails several times in a row over more than one order opens the *circuit*: only probes go.
//     A probe is one entry; it does not use up an attempt. The first answer closes the circuit, everything is due, and
//     the concurrency starts slowly again (1, 2, 4, …).
//   - At MaxLanes lanes the cursor is *congested*: nothing fresh is taken, due lanes go on, the position stands still.
//
// # Using it
//
//	c, err := cursor.Load(policy, document, lanes, now)  // or cursor.New(policy) and c.Advance(startFrom-1)
//	c.Adopt(epoch)               // fence off the owner before; store the outcome before anything else
//	c.Clamp(log.LastSeq)         // the log may end earlier than the cursor says; store the outcome before the log grows
//	c.ExpireBelow(log.FirstSeq)  // and begin later; again whenever FirstSeq has changed
//
//	// reading: from c.ReadFrom() on, ascending
//	switch c.Offer(cursor.Entry{Seq: seq, Order: order}) {
//	case cursor.Accepted: // it waits; keep its body at hand
//	case cursor.Laned:    // it waits in its order's lane; read it again from the log when it is taken
//	case cursor.Ignored:  // known, or settled before
//	case cursor.Full:     // offer it again when c.Room(): until then this and everything later is refused.
//	}                     // (Or drop the rest of the page, and read on from c.ReadFrom() later.)
//	c.Advance(lastRead)   // nothing of ours between the last offer and here
//
//	// working: whenever something came in, was settled, or c.NextDue(now) has come
//	for b, ok := c.Take(now, 1); ok; b, ok = c.Take(now, 1) { go attempt(b) }
//
//	// an attempt ended, and its record is stored
//	c.Succeed(b, now)
//	switch r := c.Fail(b, now, cursor.Failure{Reason: "503"}); r.Outcome {
//	case cursor.Retrying:  // r.Next says when
//	case cursor.Exhausted: // store that it failed for good, then:
//		c.Settle(b.Order, b.Seqs...)
//	}
//	c.Release(b)           // taken but not attempted (shutdown, lost lease)
//
//	// storing: one round at a time, in exactly this order, stopping at the first error
//	ch := c.Changes()
//	put(ch.Lanes...)       // 1: a lane before the document that passes its entries
//	put(ch.Document)       // 2: if not nil
//	purge(ch.Remove...)    // 3: after the document that says its entries are settled
//	c.Stored(ch)           // only when all three worked; otherwise it all comes again with the next Changes
//
//	// lanes that have used up their entries and have more in the log
//	for _, r := range c.Refills() { c.Refill(r, seqsOf(r.Order, r.From, through), through) } // through <= r.Through
//
// A document that is stored for its own sake (a new cursor, say) is Changes after SetCarried.
//
// A crash at any point, also between the steps of a store, loses nothing; it repeats at most what was in flight and what
// was settled since the last complete store.
package cursor
