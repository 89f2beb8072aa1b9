// Package replay delivers events of the log to a callback again, as a caller of the API has asked for. What a replay
// selects is fixed when it is made; each of its events ends in it as delivered, failed or skipped, in order per order,
// also when its replica dies or the shard moves. Begin with Replayer.Own in replay.go, then runner.work; the files are:
//
//	selection.go  what a replay selects: its own filter, within what the callback is entitled to
//	runner.go     one replay at work, until it ends
//	reading.go    reads pages of the log and offers them to the cursor, by the present configuration of the callback
//	share.go      what the replays of one callback may do beside its deliveries
//	sending.go    an attempt, and what its outcome means
//	storing.go    records, cursor and document, in this order; how a replay is taken on
package replay

// A replay is the third reader of a log. It has a document (relay.Replay), which the API makes and
// cancels, and a cursor of its own, which internal/cursorstore keeps; both belong to the shard of
// the callback, and its owner writes them under the epoch of its lease.
//
// Attempts are made beside the callback's deliveries, by the same internal/delivery, within a share of
// the callback's concurrency and rate, and are recorded in the same log. The records come first: a replica
// that takes a replay on counts by them what has ended, and sends none of that again. So the counts
// are exact, and only what was under way when a replica died is sent twice.
