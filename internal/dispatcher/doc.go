// Package dispatcher takes events from the log to the callbacks that want them: step 4 of a notification's way.
//
// One reader per replica follows the log (feed.go). It keeps the newest events in a ring and offers each event to the
// callbacks whose sites and filter it matches. What a callback has settled, what waits there and when it is tried again is
// its cursor's affair (internal/cursor); the cursor, the events at hand and the attempts under way of one callback stand in one
// struct behind one mutex (callback.go), and nothing else is shared between callbacks: no queue, no pool of workers, no limit that a
// slow receiver could fill. A callback of which nothing waits has no goroutine and no timer.
//
// A callback that cannot keep up leaves the shared reader: it is behind. It reads on by itself, from the ring if its position is
// still there, else in filtered pages of the log (catchup.go), a page only when there is room for it, until it has caught up
// and joins the shared reader again between two events, so that there is neither a hole nor a repeat.
//
// One flusher stores what has changed (flush.go): attempts, then lanes, then cursor documents, then the removal of lanes that are
// through. A crash repeats at most what was in flight and what was settled since. A watermark per shard (watermark.go)
// stands for the documents of quiet callbacks: they need not write to say that nothing of theirs has come.
//
// Run does what a replica does once; Own works one shard under its lease (own.go). What arrives is loaded together (arrivals.go, adopt.go),
// and whoever wrote for it before is fenced off first: the watermark, the lanes and then the documents are written under the new epoch, at the
// revisions that were read. A little behind, comers are read for in one ride before they join the shared reader (join.go).
package dispatcher
