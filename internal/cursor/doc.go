// Package cursor keeps the position of a reader of an append-only log, and decides what the reader may do next: which
// entries are settled, which orders are being retried, whether the receiver's circuit is open. No entry is lost, and no
// entry is attempted before an earlier unsettled one of its order, whenever the process dies; there is no goroutine,
// lock, clock or I/O in it. Begin with the life of an entry below, then cursor.go and take.go.
package cursor

// The life of an entry.
//
// The reader offers entries in ascending order of Seq, with gaps where entries belong to others. An
// entry *waits*, is taken (*in flight*), and is *settled* once. For the caller that means
// delivered, failed, skipped or expired.
//
//   - Entries of one order are taken in order: none is taken while an earlier one is unsettled.
//     Different orders are taken in parallel, up to Policy.Concurrency.
//   - The position is the highest number at or below which everything is settled or in a lane.
//     Because orders run in parallel, entries above it may be done as well; the stored Document
//     lists them as ranges.
//   - A failure puts the order in a *lane*. A lane is a small record (Lane) of the waiting entries:
//     up to LaneEntries of them, and then "everything of this order from OpenFrom on". The position
//     passes lanes, so that the size of the state depends on what fails and not on what waits.
//   - The retry time belongs to the lane. When its head has failed for good, each following entry
//     gets one attempt, until one succeeds. Then its attempts are counted from zero again. An empty
//     lane is removed.
//   - A receiver that fails several times in a row, for more than one order, opens the *circuit*:
//     only probes are sent. A probe is one entry and does not count as an attempt. The first
//     success closes the circuit. Then everything is due, and the concurrency rises slowly (1, 2,
//     4, …). As long as failures follow one another, the newest orders have their turn besides the
//     oldest: a receiver that refuses many old orders and takes others gets those.
//   - The receiver has been failing since its first failure after its last success, but not for longer than something
//     has waited: a failure that is over and done with does not add to one that comes a week later.
//   - With MaxLanes lanes the cursor is *congested*: no fresh entry is taken, lanes that are due go
//     on, and the position does not move.
//
// Using it.
//
//	c, err := cursor.Load(policy, document, lanes, now)  // or cursor.New(policy) and c.Advance(startFrom-1)
//	c.Adopt(epoch)               // fences off the former owner; store the changes before anything else
//	c.Clamp(log.LastSeq)         // the log may end before the cursor's position; store this before the log grows
//	c.ExpireBelow(log.FirstSeq)  // the log may begin later; again whenever FirstSeq has changed
//
//	// reading: from c.ReadFrom() on, ascending
//	switch c.Offer(cursor.Entry{Seq: seq, Order: order}) {
//	case cursor.Accepted: // it waits; keep its body in memory
//	case cursor.Laned:    // it waits in its order's lane; read it from the log again when it is taken
//	case cursor.Ignored:  // known, or settled before
//	case cursor.Full:     // offer it again when c.Room(); until then it and all later entries are refused.
//	}                     // (Or drop the rest of the page, and later read again from c.ReadFrom().)
//	c.Advance(lastRead)   // no entry of ours between the last offer and here
//
//	// working: when an entry was offered or settled, and at c.NextDue(now)
//	for b, ok := c.Take(now, 1); ok; b, ok = c.Take(now, 1) { go attempt(b) }
//
//	// an attempt has ended; its record must be stored before the next Changes are
//	c.Succeed(b, now)
//	switch r := c.Fail(b, now, cursor.Failure{Reason: "503"}); r.Outcome {
//	case cursor.Retrying:  // at r.Next
//	case cursor.Exhausted: // record that it failed for good, and:
//		c.Settle(b.Order, b.Seqs...)
//	}
//	c.Release(b)           // taken but not attempted (shutdown, lost lease)
//
//	// storing: one round at a time, in exactly this order, ending at the first error
//	ch := c.Changes()      // the records of attempts that have ended are stored before these
//	put(ch.Lanes...)       // 1: a lane before the document whose position passes its entries
//	put(ch.Document)       // 2: unless it is nil
//	purge(ch.Remove...)    // 3: after the document that settles the lane's entries
//	c.Stored(ch)           // only if all three succeeded; otherwise the next Changes contain everything again
//
//	// lanes with no entry left in their list and more in the log
//	for _, r := range c.Refills() { c.Refill(r, seqsOf(r.Order, r.From, through), through) } // through <= r.Through
//
// To store a document for another reason (a new cursor, for instance), call SetCarried and then Changes.
//
// A crash at any point, even between the steps of a store, loses nothing. It repeats at most what
// was in flight and what was settled since the last complete store.
